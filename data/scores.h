// scores.h: how well made samples do as a whole: two clouds of points in a space of features are compared, real ones and made ones.
//   frechet_distance()   one number: of two Gaussians with the means and covariances of the clouds
//   precision_recall()   two: how much of what is made could be real, how much of what is real could be made
// The features come from elsewhere: a network's, or any numbers that say what matters in a sample.
#pragma once
#include "../io.h"

static double squared_distance(const double *a, const double *b, int d) {
    double sum = 0;
    for (int i = 0; i < d; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

// ---- Frechet distance ---------------------------------------------------------------------------------------------------------

// mean (d), covariance (d,d) with n - 1, of x (n,d); both overwritten
static void mean_covariance(double *mean, double *covariance, const double *x, int n, int d) {
    memset(mean, 0, sizeof *mean * (size_t)d), memset(covariance, 0, sizeof *covariance * (size_t)d * (size_t)d);
    for (size_t i = 0; i < (size_t)n; i++) for (int j = 0; j < d; j++) mean[j] += x[i * (size_t)d + (size_t)j] / n;
    for (size_t i = 0; i < (size_t)n; i++)
        for (int j = 0; j < d; j++)
            for (int k = 0; k <= j; k++) covariance[j*d + k] += (x[i * (size_t)d + (size_t)j] - mean[j]) * (x[i * (size_t)d + (size_t)k] - mean[k]) / (n - 1);
    for (int j = 0; j < d; j++) for (int k = 0; k < j; k++) covariance[k*d + j] = covariance[j*d + k];
}

// Eigenvalues of the symmetric a (d,d) are left on its diagonal, by Jacobi: rotations, each of which makes one pair of entries 0, until all of them are nothing
// beside the diagonal (or after 60 sweeps: a dozen is much). vectors (d,d): row i becomes the eigenvector of a[i][i]; NULL: not wanted.
static void eigenvalues(double *a, double *vectors, int d) {
    for (int i = 0; vectors && i < d*d; i++) vectors[i] = i / d == i % d;
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0, all = 0;
        for (int i = 0; i < d*d; i++) all = fmax(all, fabs(a[i])), off = i / d == i % d ? off : fmax(off, fabs(a[i]));
        if (!(off > 1e-16 * all)) return;
        for (int p = 0; p < d; p++)
            for (int q = p + 1; q < d; q++) {
                if (a[p*d + q] == 0) continue;
                double ratio = (a[q*d + q] - a[p*d + p]) / (2 * a[p*d + q]);          // cot of twice the angle; the smaller angle of the two that do
                double tangent = (ratio < 0 ? -1 : 1) / (fabs(ratio) + sqrt(ratio*ratio + 1)), co = 1 / sqrt(tangent*tangent + 1), si = tangent * co;
                for (int k = 0; k < d; k++) { double x = a[k*d + p], y = a[k*d + q]; a[k*d + p] = co*x - si*y, a[k*d + q] = si*x + co*y; }
                for (int k = 0; k < d; k++) { double x = a[p*d + k], y = a[q*d + k]; a[p*d + k] = co*x - si*y, a[q*d + k] = si*x + co*y; }
                a[p*d + q] = a[q*d + p] = 0;
                for (int k = 0; vectors && k < d; k++) { double x = vectors[p*d + k], y = vectors[q*d + k]; vectors[p*d + k] = co*x - si*y, vectors[q*d + k] = si*x + co*y; }
            }
    }
}

// |mean of a - mean of b|^2 + tr(Ca + Cb - 2 (Ca Cb)^(1/2)) of a (n,d) and b (m,d), n and m 2 or more. Ca Cb has the eigenvalues of the symmetric
// Ca^(1/2) Cb Ca^(1/2), whose roots are summed. Eigenvalues below 0, and a distance below 0, are rounding and count as 0: two equal clouds are apart by about
// 1e-15 of their variance, or 1e-8 of it for each direction in which they are flat. A number that is none, or too large to be squared: INFINITY. Time goes with d^3.
static double frechet_distance(const double *a, int n, const double *b, int m, int d) {
    if (n < 2 || m < 2 || d < 1) die("a distance of %d samples from %d in %d dimensions is not defined (2 samples are the least)", n, m, d);
    size_t square = (size_t)d * (size_t)d;
    double *mean = NEW(double, 2 * (size_t)d), *ca = NEW(double, 5 * square), *cb = ca + square, *vectors = cb + square, *root = vectors + square, *product = root + square;
    mean_covariance(mean, ca, a, n, d), mean_covariance(mean + d, cb, b, m, d);
    double distance = squared_distance(mean, mean + d, d);
    for (int i = 0; i < d; i++) distance += ca[i*d + i] + cb[i*d + i];
    if (distance < INFINITY) {
        eigenvalues(ca, vectors, d);
        for (int k = 0; k < d; k++)                     // root = sum over k of sqrt(eigenvalue k) vector k vector k'
            for (int i = 0; i < d; i++)
                for (int j = 0; j < d; j++) root[i*d + j] += sqrt(fmax(ca[k*d + k], 0)) * vectors[k*d + i] * vectors[k*d + j];
        for (int i = 0; i < d; i++) for (int j = 0; j < d; j++) for (int k = 0; k < d; k++) product[i*d + k] += root[i*d + j] * cb[j*d + k];
        for (int i = 0; i < d; i++)
            for (int k = 0; k <= i; k++) {
                double sum = 0;
                for (int j = 0; j < d; j++) sum += product[i*d + j] * root[k*d + j];
                ca[i*d + k] = ca[k*d + i] = sum;
            }
        eigenvalues(ca, NULL, d);
        for (int i = 0; i < d; i++) distance -= 2 * sqrt(fmax(ca[i*d + i], 0));
    }
    free(mean), free(ca);
    return distance < INFINITY ? fmax(distance, 0) : INFINITY;
}

// ---- precision and recall -----------------------------------------------------------------------------------------------------

// square (n): squared distance of each point of x (n,d) from its k-th nearest neighbour, itself not counted; -1, a ball without points, where that is no number
static void ball_sizes(double *square, const double *x, int n, int d, int k) {
    double *nearest = NEW(double, k);                   // in order
    for (size_t i = 0; i < (size_t)n; i++) {
        for (int j = 0; j < k; j++) nearest[j] = INFINITY;
        for (size_t j = 0; j < (size_t)n; j++) {
            double s = squared_distance(x + i * (size_t)d, x + j * (size_t)d, d);
            if (j == i || !(s < nearest[k - 1])) continue;
            int at = k - 1;
            for (; at > 0 && s < nearest[at - 1]; at--) nearest[at] = nearest[at - 1];
            nearest[at] = s;
        }
        square[i] = nearest[k - 1] < INFINITY ? nearest[k - 1] : -1;
    }
    free(nearest);
}

// share of the points y (m,d) that lie in, or on, any of the balls around x (n,d)
static double covered(const double *y, int m, const double *x, const double *square, int n, int d) {
    int inside = 0;
    for (size_t j = 0; j < (size_t)m; j++)
        for (size_t i = 0; i < (size_t)n; i++)
            if (squared_distance(y + j * (size_t)d, x + i * (size_t)d, d) <= square[i]) { inside++; break; }
    return (double)inside / m;
}

// Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991) of made (m,d) beside real_ (n,d). A cloud is the union of balls around its points,
// each as large as the distance from its k-th nearest neighbour in the cloud. precision: the share of made points in the cloud of the real ones; recall: of the
// real points in the cloud of the made ones. 1 <= k < n, m; the paper has k = 3 and as many points of either kind. A point with a NaN lies in no ball and has none.
static void precision_recall(double *precision, double *recall, const double *real_, int n, const double *made, int m, int d, int k) {
    if (d < 1 || k < 1 || k >= n || k >= m) die("neighbour %d of %d and %d samples in %d dimensions: there is none", k, n, m, d);
    double *square = NEW(double, n > m ? n : m);
    ball_sizes(square, real_, n, d, k), *precision = covered(made, m, real_, square, n, d);
    ball_sizes(square, made, m, d, k), *recall = covered(real_, n, made, square, m, d);
    free(square);
}
