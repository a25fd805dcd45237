// test_scores.c: data/scores.h: distances of Gaussians whose distance is known, and precision and recall counted by hand.
#define TESTING
#include "../common.h"
#include "../data/scores.h"
#include "check.h"
#include <sys/wait.h>

// does this end the program with status 1 and a message?
#define DIES(statement) do { int status_; fflush(stdout); pid_t child_ = fork(); \
    if (!child_) { if (!freopen("/dev/null", "w", stderr)) _exit(2); statement; _exit(0); } \
    CHECK(waitpid(child_, &status_, 0) == child_ && WIFEXITED(status_) && WEXITSTATUS(status_) == 1, "%s", #statement); } while (0)

enum { D = 6, N = 400 };

// x (n,d) with any covariance, at any place
static void any_cloud(double *x, int n, int d, Rng *r) {
    double mix[D * D], at[D];
    for (int i = 0; i < d*d; i++) mix[i] = normal(r);
    for (int i = 0; i < d; i++) at[i] = normal(r);
    for (int t = 0; t < n; t++) {
        double e[D];
        for (int i = 0; i < d; i++) e[i] = normal(r);
        for (int i = 0; i < d; i++) { x[t*d + i] = at[i]; for (int j = 0; j < d; j++) x[t*d + i] += mix[i*d + j] * e[j]; }
    }
}
// 2 d points, on every axis one to each side of the mean at a distance that makes the covariance diagonal with the squares of `deviation` (d)
static void cross_cloud(double *x, int d, const double *mean, const double *deviation) {
    for (int t = 0; t < 2*d; t++)
        for (int i = 0; i < d; i++) x[t*d + i] = mean[i] + (t / 2 != i ? 0 : t % 2 ? 1 : -1) * deviation[i] * sqrt((2*d - 1) / 2.0);
}
// x (n,d) turned by products of plane rotations
static void rotate(double *x, int n, int d, uint64_t seed) {
    Rng r = rng(seed, RNG_DATA, 77);
    for (int k = 0; k < 20; k++) {
        int p = below(&r, d), q = (p + 1 + below(&r, d - 1)) % d;
        double angle = 6.28 * uniform(&r), co = cos(angle), si = sin(angle);
        for (int t = 0; t < n; t++) { double u = x[t*d + p], v = x[t*d + q]; x[t*d + p] = co*u - si*v, x[t*d + q] = si*u + co*v; }
    }
}

// ---- Frechet distance -----------------------------------------------------------------------------------------------------------

static void test_eigenvalues(void) {
    for (int d = 1; d <= 12; d++) {
        Rng r = rng(1, RNG_DATA, (uint64_t)d);
        double a[144], was[144], v[144], alone[144], scale = d % 3 ? 1 : d % 2 ? 1e120 : 1e-120;
        for (int i = 0; i < d; i++) for (int j = 0; j <= i; j++) a[i*d + j] = a[j*d + i] = d == 8 ? 1 : scale * normal(&r);     // 8: of rank 1
        memcpy(was, a, sizeof was), memcpy(alone, a, sizeof alone);
        eigenvalues(a, v, d), eigenvalues(alone, NULL, d);
        for (int k = 0; k < d; k++) {
            CHECK(a[k*d + k] == alone[k*d + k], "with and without vectors");
            for (int i = 0; i < d; i++) {               // A v = value v; v v' = 1
                double sum = 0, dot = 0;
                for (int j = 0; j < d; j++) sum += was[i*d + j] * v[k*d + j], dot += v[i*d + j] * v[k*d + j];
                CHECK_CLOSE("A v", sum / scale, a[k*d + k] * v[k*d + i] / scale, 1e-12);
                CHECK_CLOSE("v v'", dot, i == k, 1e-13);
            }
        }
    }
    double bad[9] = {1, NAN, 2, NAN, 1, 3, 2, 3, 1}, flat[4] = {0};
    eigenvalues(bad, NULL, 3), eigenvalues(flat, NULL, 2);       // ends
    CHECK(flat[0] == 0 && flat[3] == 0, "%g %g", flat[0], flat[3]);
}

static void test_mean_covariance(void) {
    static const double x[] = {1, 2,  3, 2,  5, 8};     // means 3 and 4
    double mean[2], covariance[4];
    mean_covariance(mean, covariance, x, 3, 2);
    CHECK_CLOSE("mean", mean[0] + 10 * mean[1], 43, 1e-12);
    CHECK_CLOSE("variance", covariance[0] + 100 * covariance[3], 4 + 100 * 12, 1e-10);
    CHECK(covariance[1] == covariance[2], "symmetric");
    CHECK_CLOSE("covariance", covariance[1], (-2*-2 + 0*-2 + 2*4) / 2.0, 1e-12);
}

// tr (A B)^(1/2) of 2 x 2 matrices: the eigenvalues l1, l2 of AB have (sqrt l1 + sqrt l2)^2 = tr AB + 2 sqrt det AB
static double plane_distance(const double *a, int n, const double *b, int m) {
    double ma[2], mb[2], ca[4], cb[4];
    mean_covariance(ma, ca, a, n, 2), mean_covariance(mb, cb, b, m, 2);
    double trace = ca[0]*cb[0] + 2 * ca[1]*cb[1] + ca[3]*cb[3], det = (ca[0]*ca[3] - ca[1]*ca[1]) * (cb[0]*cb[3] - cb[1]*cb[1]);
    return (ma[0] - mb[0])*(ma[0] - mb[0]) + (ma[1] - mb[1])*(ma[1] - mb[1]) + ca[0] + ca[3] + cb[0] + cb[3] - 2 * sqrt(trace + 2*sqrt(det));
}

static void test_frechet(void) {
    static double a[N * D], b[N * D], c[N * D];
    for (int i = 0; i < 40; i++) {
        Rng r = rng(2, RNG_DATA, (uint64_t)i);
        int d = 1 + i % D, n = 20 + below(&r, N - 20), m = 20 + below(&r, N - 20);
        // axes in common: |mean difference|^2 + sum of (deviation - deviation)^2; also when both are turned together, and with no width in some directions
        double ma[D], mb[D], sa[D], sb[D], want = 0;
        for (int k = 0; k < d; k++) {
            ma[k] = normal(&r), mb[k] = normal(&r), sa[k] = i % 4 == 1 && k == 0 ? 0 : 2*uniform(&r), sb[k] = i % 4 >= 1 && k <= 1 ? 0 : 2*uniform(&r);
            want += (ma[k] - mb[k])*(ma[k] - mb[k]) + (sa[k] - sb[k])*(sa[k] - sb[k]);
        }
        cross_cloud(a, d, ma, sa), cross_cloud(b, d, mb, sb);
        CHECK_CLOSE("axes in common", frechet_distance(a, 2*d, b, 2*d, d), want, 1e-6);
        if (d > 1) rotate(a, 2*d, d, (uint64_t)i), rotate(b, 2*d, d, (uint64_t)i), CHECK(fabs(frechet_distance(a, 2*d, b, 2*d, d) - want) <= 1e-6, "turned together: want %g", want);

        any_cloud(a, n, d, &r), any_cloud(b, m, d, &r), memcpy(c, a, sizeof c);
        double distance = frechet_distance(a, n, b, m, d);
        CHECK(distance > 0.01, "%g", distance);
        CHECK_CLOSE("from itself", frechet_distance(a, n, c, n, d), 0, 1e-11);
        CHECK_CLOSE("there and back", frechet_distance(b, m, a, n, d), distance, 1e-10);
        if (d == 1) {                                   // (mean - mean)^2 + (deviation - deviation)^2
            double mean[2], v[2];
            mean_covariance(mean, v, a, n, 1), mean_covariance(mean + 1, v + 1, b, m, 1);
            CHECK_CLOSE("one dimension", distance, pow(mean[0] - mean[1], 2) + pow(sqrt(v[0]) - sqrt(v[1]), 2), 1e-11);
        } else rotate(c, n, d, 9), CHECK(frechet_distance(a, n, c, n, d) > 0.01, "a turned cloud is another one");
        if (d == 2) CHECK_CLOSE("two dimensions", distance, plane_distance(a, n, b, m), 1e-10);
        for (int t = 0; t < n*d; t++) a[t] = 3*a[t] + 5;
        for (int t = 0; t < m*d; t++) b[t] = 3*b[t] + 5;
        CHECK_CLOSE("scale and shift", frechet_distance(a, n, b, m, d), 9 * distance, 1e-9);
        if (d > 1) rotate(a, n, d, 5), rotate(b, m, d, 5), CHECK(fabs(frechet_distance(a, n, b, m, d) - 9 * distance) <= 1e-9, "a rotation of both changes it");
        for (int t = 0; t < n*d; t++) c[t] = a[t] + (t % d ? 0 : 2);
        CHECK_CLOSE("a shift alone", frechet_distance(a, n, c, n, d), 4, 1e-9);
        c[n*d - 1] = i % 2 ? NAN : INFINITY;
        CHECK(frechet_distance(a, n, c, n, d) == INFINITY && frechet_distance(c, n, a, n, d) == INFINITY, "NaN");
        c[n*d - 1] = 1e200;
        CHECK(frechet_distance(a, n, c, n, d) == INFINITY, "too large");
    }
    // two axes turned by 45 degrees against each other, by hand: A = diag(4, 1), B = (5 3; 3 5)/2, AB = (10 6; 1.5 2.5): trace 12.5, determinant 16
    double square[8], turned[8], zero[2] = {0}, two_one[2] = {2, 1};
    cross_cloud(square, 2, zero, two_one), memcpy(turned, square, sizeof turned);
    for (int t = 0; t < 4; t++) { double x = turned[2*t], y = turned[2*t + 1]; turned[2*t] = (x - y) / sqrt(2.0), turned[2*t + 1] = (x + y) / sqrt(2.0); }
    CHECK_CLOSE("by hand", frechet_distance(square, 4, turned, 4, 2), 5 + 5 - 2 * sqrt(12.5 + 2*4), 1e-12);

    // fewer points than dimensions: flat; from itself, and from a copy elsewhere
    Rng r = rng(3, RNG_DATA, 0);
    any_cloud(a, 3, D, &r), memcpy(b, a, sizeof b);
    CHECK_CLOSE("flat, from itself", frechet_distance(a, 3, b, 3, D), 0, 2e-5);
    for (int t = 0; t < 3*D; t++) b[t] += 1;
    CHECK_CLOSE("flat, elsewhere", frechet_distance(a, 3, b, 3, D), D, 2e-5);
    for (int t = 0; t < 5*D; t++) a[t] = b[t] = 0.1;    // points
    CHECK_CLOSE("points", frechet_distance(a, 5, b, 4, D), 0, 1e-15);
    // samples of one Gaussian come closer as there are more of them
    double mix[2];
    for (int k = 0; k < 2; k++) {
        int n = k ? 400 : 50;
        for (int t = 0; t < n*D; t++) a[t] = normal(&r), b[t] = normal(&r);
        mix[k] = frechet_distance(a, n, b, n, D);
    }
    CHECK(mix[1] > 0 && mix[1] < mix[0] / 3 && mix[0] < 2, "%g, then %g", mix[0], mix[1]);
    DIES(frechet_distance(a, 1, b, 5, D));
    DIES(frechet_distance(a, 5, b, 1, D));
    DIES(frechet_distance(a, 5, b, 5, 0));
}

// ---- precision and recall -------------------------------------------------------------------------------------------------------

static void check_pr(const char *what, const double *x, int n, const double *y, int m, int d, int k, double precision, double recall, double bound) {
    double p = NAN, q = NAN, p2 = NAN, q2 = NAN;
    precision_recall(&p, &q, x, n, y, m, d, k), precision_recall(&q2, &p2, y, m, x, n, d, k);
    CHECK(fabs(p - precision) <= bound && fabs(q - recall) <= bound, "%s: precision %g want %g, recall %g want %g", what, p, precision, q, recall);
    CHECK(p == p2 && q == q2, "%s: the other way round", what);
}

// the definition, with all distances sorted
static int compare(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }
static double share(const double *y, int m, const double *x, int n, int d, int k) {
    int inside = 0;
    for (int j = 0; j < m; j++) {
        bool in = false;
        for (int i = 0; i < n; i++) {
            double s[N];
            for (int l = 0; l < n; l++) s[l] = squared_distance(x + i*d, x + l*d, d);
            qsort(s, (size_t)n, sizeof *s, compare);    // s[0]: the point itself
            in |= squared_distance(y + j*d, x + i*d, d) <= s[k];
        }
        inside += in;
    }
    return (double)inside / m;
}

static void test_precision_recall(void) {
    // on a line, k = 1. Real 0, 1, 3, 7: balls [-1,1], [0,2], [1,5], [3,11]. Made 2, 6, 12, 11.5: balls [-2,6], [2,10], [11.5,12.5], [11,12]
    static const double x[] = {0, 1, 3, 7}, y[] = {2, 6, 12, 11.5}, edge[] = {-1, 11, -1.001, 11.001}, twins[] = {4, 4, 9, 9};
    check_pr("by hand", x, 4, y, 4, 1, 1, 2 / 4.0, 4 / 4.0, 0);
    check_pr("on the edge, by hand", x, 4, edge, 4, 1, 1, 2 / 4.0, 0, 0);                 // made: balls of a thousandth
    check_pr("twins have balls of size 0", x, 4, twins, 4, 1, 1, 1, 0, 0);
    check_pr("twins of real points", twins, 4, (const double[]){4, 5, 9, 8}, 4, 1, 1, 2 / 4.0, 1, 0);
    // k = 2. Real: balls [-3,3], [-1,3], [0,6], [1,13]; made: [-7.5,11.5], [0.5,11.5], [6,18], [6,17]
    check_pr("second neighbours, by hand", x, 4, y, 4, 1, 2, 4 / 4.0, 4 / 4.0, 0);
    check_pr("second neighbours, the edge", x, 4, (const double[]){-3.1, 13, -3, 13.1, 30}, 5, 1, 2, 2 / 5.0, 4 / 4.0, 0);      // made: [-19.2,13], ..
    // in the plane, k = 1: a square of real points, balls of radius 1
    static const double square[] = {0, 0, 1, 0, 0, 1, 1, 1}, plane[] = {0.5, 0.5, 2, 1, 1.8, 1.8, -0.6, -0.6};
    check_pr("in the plane, by hand", square, 4, plane, 4, 2, 1, 3 / 4.0, 4 / 4.0, 0);

    static double a[N * D], b[N * D];
    for (int i = 0; i < 12; i++) {
        Rng r = rng(4, RNG_DATA, (uint64_t)i);
        int n = 20 + below(&r, 30), m = 20 + below(&r, 30), d = 1 + i % D, k = 1 + i % 5;
        for (int t = 0; t < n*d; t++) a[t] = normal(&r);
        for (int t = 0; t < m*d; t++) b[t] = 1.3 * normal(&r) + 0.5;
        check_pr("by the definition", a, n, b, m, d, k, share(b, m, a, n, d, k), share(a, n, b, m, d, k), 0);
        check_pr("of itself", a, n, a, n, d, k, 1, 1, 0);
        for (int t = 0; t < m*d; t++) b[t] += 1000;
        check_pr("disjoint", a, n, b, m, d, k, 0, 0, 0);
        check_pr("a subset is precise", a, n, a, n - 5, d, k, 1, share(a, n, a, n - 5, d, k), 0);
    }
    // four modes, of which one is made: all of it is real, a quarter of what is real could be made
    Rng r = rng(5, RNG_DATA, 0);
    for (int t = 0; t < N; t++) for (int i = 0; i < 2; i++) a[2*t + i] = 100 * ((t & 3) >> i & 1) + normal(&r), b[2*t + i] = normal(&r);
    check_pr("one mode of four", a, N, b, N, 2, 3, 0.96, 0.24, 0.04);         // a ball is small: few outer points are missed
    for (int t = 0; t < N; t++) for (int i = 0; i < 2; i++) b[2*t + i] = (t % 2 ? 1000 : 100 * ((t >> 1 & 3) >> i & 1)) + normal(&r);
    check_pr("all modes, and as many samples that are none", a, N, b, N, 2, 3, 0.48, 0.96, 0.04);
    for (int t = 0; t < N; t++) for (int i = 0; i < 2; i++) b[2*t + i] = 0.01 * normal(&r), a[2*t + i] = normal(&r);
    check_pr("no variety", a, N, b, N, 2, 3, 1, 0, 0.02);

    // a NaN, or an infinity, lies in no ball, has none and makes no other larger
    static const double nan1[] = {0, 1, NAN, 3, 7}, nan2[] = {2, NAN, 6, INFINITY, 12, 11.5}, all[] = {NAN, NAN, NAN};
    check_pr("NaN in both", nan1, 5, nan2, 6, 1, 1, 2 / 6.0, 4 / 5.0, 0);
    check_pr("nothing but NaN", x, 4, all, 3, 1, 1, 0, 0, 0);
    check_pr("too few numbers", x, 4, (const double[]){1, NAN, NAN, NAN}, 4, 1, 1, 1 / 4.0, 0, 0);
    double p, q;
    DIES(precision_recall(&p, &q, x, 4, y, 4, 1, 4));
    DIES(precision_recall(&p, &q, x, 4, y, 3, 1, 3));
    DIES(precision_recall(&p, &q, x, 3, y, 4, 1, 3));
    DIES(precision_recall(&p, &q, x, 4, y, 4, 1, 0));
    DIES(precision_recall(&p, &q, x, 4, y, 4, 0, 1));
}

int main(void) {
    test_eigenvalues();
    test_mean_covariance();
    test_frechet();
    test_precision_recall();
    return finish("test_scores");
}
