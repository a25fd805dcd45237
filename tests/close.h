// close.h: comparing arrays of numbers, for tests of a program. After the program and check.h.
#pragma once

// The largest difference so far; a NaN stays
static double worst_of(double worst, double diff) { return isnan(worst) || diff <= worst ? worst : diff; }
// n numbers against others, by the largest of these
static bool close_to(const char *what, const real *got, const real *want, size_t n, double bound) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) worst = worst_of(worst, fabs((double)got[i] - (double)want[i])), largest = fmax(largest, fabs((double)want[i]));
    return CHECK(largest > 0 && worst <= bound * largest, "%s: %g of %g", what, worst, largest);
}
static bool same_bits(const real *a, const real *b, size_t n) { return !memcmp(a, b, n * sizeof(real)); }
