// check.h: what every test shares. CHECK counts; a comparison passes only on diff <= bound, so a NaN fails; finish() prints the counts and gives the exit status.
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static int checks_passed, checks_failed;

__attribute__((format(printf, 2, 3), unused)) static bool check_(bool ok, const char *format, ...) {
    if (ok) { checks_passed++; return true; }
    va_list args;
    va_start(args, format);
    if (++checks_failed <= 20) { fprintf(stderr, "FAIL  "); vfprintf(stderr, format, args); fprintf(stderr, "\n"); }
    va_end(args);
#ifdef STOP_AT_FIRST
    fflush(stderr), _exit(1);
#endif
    return false;
}
#define CHECK(ok, format, ...) check_((ok), __FILE__ ": %s: " format, #ok, ##__VA_ARGS__)

// |got - want| <= bound
#define CHECK_CLOSE(what, got, want, bound) \
    do { double g_ = (double)(got), w_ = (double)(want); check_(fabs(g_ - w_) <= (bound), "%s: got %.9g want %.9g bound %.2g (%s:%d)", what, g_, w_, (double)(bound), __FILE__, __LINE__); } while (0)

__attribute__((unused)) static int finish(const char *name) {
    printf("%s: %d passed, %d failed\n", name, checks_passed, checks_failed);
    return checks_failed != 0 || checks_passed == 0;
}
