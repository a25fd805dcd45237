// test_series.c: data/series.h: what is read and what is refused, calendar and lags by hand, the split, and the baselines against processes whose law is known.
#define TESTING
#include "../common.h"
#include "../data/series.h"
#include "check.h"

static Series parsed(const char *text) {                // one that must be accepted
    Series s;
    const char *error = series_parse(&s, text, strlen(text));
    CHECK(!error, "%s", error);
    if (error) exit(finish("test_series"));
    return s;
}
static Series made(int steps, int dims) {               // without dates, to be filled
    Series s = {.steps = steps, .dims = dims, .x = NEW(double, (size_t)steps * (size_t)dims), .name = NEW(char *, dims)};
    return s;
}
static Series dated(int steps, const char *first, int seconds) {        // x[t] = t
    Series s = made(steps, 1);
    s.date = NEW(time_t, steps);
    CHECK(parse_date(first, &s.date[0]), "%s", first);
    for (int t = 0; t < steps; t++) s.x[t] = t, s.date[t] = s.date[0] + (time_t)t * seconds;
    return s;
}
static void prepare(Series *s, const char *frequency, int validation, int test) {
    Rng r = rng(7, RNG_INIT, 0);
    const char *error = series_prepare(s, frequency, validation, test, &r);
    CHECK(!error, "%s", error);
    if (error) exit(finish("test_series"));
}

// ---- reading ------------------------------------------------------------------------------------------------------------------
static void test_read(void) {
    Series s = parsed("date, a ,b\r\n2000-02-29,1,-2.5\r\n2000-03-01 06:30, 1e3 ,0\r\n2000-03-02T06:30:15,\t-.5,1e100");
    CHECK(s.steps == 3 && s.dims == 2 && !strcmp(s.name[0], "a") && !strcmp(s.name[1], "b"), "%d steps, %d series", s.steps, s.dims);
    static const double x[6] = {1, -2.5, 1000, 0, -0.5, 1e100};
    for (int i = 0; i < 6; i++) CHECK(s.x[i] == x[i], "number %d: %g", i, s.x[i]);
    CHECK(s.date[0] == 951782400 && s.date[1] == 951892200 && s.date[2] == 951978615, "seconds since 1970, counted by hand");
    series_free(&s);
    s = parsed("a\n1\n2\n\n");
    CHECK(s.steps == 2 && s.dims == 1 && !s.date && s.x[0] == 1 && s.x[1] == 2 && !strcmp(s.name[0], "a"), "one column, no dates");
    series_free(&s);
    s = parsed(",a\n1970-01-01,1\n1970-01-02,2\n");
    CHECK(s.dims == 1 && !strcmp(s.name[0], "a") && s.date[1] == 86400, "dates without a name");
    series_free(&s);
    s = parsed("a\n1\n000000000000000000000000000000000000000000000000000000000000007\n");
    CHECK(s.x[1] == 7, "63 characters");
    series_free(&s);
    char exact[11];                                     // the reader stops at the end of the bytes: sanitizers watch
    memcpy(exact, "a,b\n1,2\n3,4", 11);
    CHECK(!series_parse(&s, exact, 11) && s.x[3] == 4 && s.steps == 2, "no byte behind the last");
    series_free(&s);

    #define LONG "0123456789012345678901234567890123456789012345678901234567890123"
    static const struct { const char *text, *error; size_t size; } bad[] = {
        {"", "row 1, column 1: an empty file", 0}, {"\n\r\n", "row 1, column 1: an empty file", 0},
        {"a,b\n1,2\n1,2,3\n", "row 3, column 3: more cells than names", 0}, {"a,b\n1,2\n1\n", "row 3, column 1: fewer cells than names", 0},
        {"a,b\n1,2\n\n3,4\n", "row 3, column 1: fewer cells than names", 0}, {"a,b\n1,2\n3,\n", "row 3, column 2: a number is missing", 0},
        {"a,b\n1,2\n ,4\n", "row 3, column 1: a number is missing", 0}, {"a,b\n1,2\n3,NA\n", "row 3, column 2: text in place of a number", 0},
        {"a,b\n1,2x\n3,4\n", "row 2, column 2: text in place of a number", 0}, {"a;b\n1;2\n3;4\n", "row 2, column 1: text in place of a number", 0},
        {"a,b\n1,\"2\"\n3,4\n", "row 2, column 2: text in place of a number", 0}, {"a,b\n1,1 2\n3,4\n", "row 2, column 2: text in place of a number", 0},
        {"a,b\n1,nan\n3,4\n", "row 2, column 2: NaN, infinity or a number beyond 1e100", 0}, {"a,b\n1,2\n-inf,4\n", "row 3, column 1: NaN, infinity or a number beyond 1e100", 0},
        {"a,b\n1,2\n1e999,4\n", "row 3, column 1: NaN, infinity or a number beyond 1e100", 0}, {"a,b\n1,2\n-2e100,4\n", "row 3, column 1: NaN, infinity or a number beyond 1e100", 0},
        {"1,2\n3,4\n5,6\n", "row 1, column 1: a number or date in place of a name (the first row names the columns)", 0},
        {"1990-01-01,2\n1990-01-02,4\n", "row 1, column 1: a number or date in place of a name (the first row names the columns)", 0},
        {"date,2\n1990-01-01,4\n", "row 1, column 2: a number or date in place of a name (the first row names the columns)", 0},
        {"a,,c\n1,2,3\n4,5,6\n", "row 1, column 2: a name is missing", 0}, {"a,b\n1,2\n", "row 2, column 2: a series needs two rows or more below its names", 0},
        {"a,b\n", "row 1, column 2: a series needs two rows or more below its names", 0}, {"date\n1990-01-01\n1990-01-02\n", "row 2, column 1: no numbers behind the date", 0},
        {"d,a\n1990-01-01,1\n1990-02-29,2\n", "row 3, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0}, {"d,a\n1990-01-01,1\n7,2\n", "row 3, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0},
        {"d,a\n1990-1-01,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0}, {"d,a\n1990-01-01 24:00,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0},
        {"d,a\n1990-01-01 12:00:60,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0}, {"d,a\n1990-00-01,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0},
        {"d,a\n1990-01-01 12:60,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0}, {"d,a\n1900-02-29,1\n", "row 2, column 1: not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)", 0},
        {"d,a\n1990-01-02,1\n1990-01-02,2\n", "row 3, column 1: a date that is not later than the one above", 0}, {"d,a\n1990-01-02,1\n1990-01-01,2\n", "row 3, column 1: a date that is not later than the one above", 0},
        {"d,a\n1,1\n1990-01-01,2\n", "row 3, column 1: text in place of a number", 0}, {"a\n1\n" LONG "\n", "row 3, column 1: a cell of more than 63 characters", 0},
        {"a\n1\n2\0\n3", "row 3, column 1: a zero byte", 9}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *error = series_parse(&s, bad[i].text, bad[i].size ? bad[i].size : strlen(bad[i].text));
        CHECK(error && !strcmp(error, bad[i].error), "case %zu: '%s', not '%s'", i, error ? error : "accepted", bad[i].error);
        CHECK(!error || (!s.x && !s.name && !s.date), "case %zu leaves memory", i);
        if (!error) series_free(&s);
    }
}

// ---- calendar, frequency, covariates ------------------------------------------------------------------------------------------
static void test_calendar(void) {
    static const struct { const char *date; int minute, hour, weekday, yearday, monthdays, week; } known[] = {
        {"1961-01-01", 0, 0, 6, 1, 31, 52},             // a Sunday: still week 52 of 1960
        {"1970-01-01 23:59", 59, 23, 3, 1, 31, 1}, {"2000-02-29 06:30", 30, 6, 1, 60, 29, 9}, {"1900-03-01", 0, 0, 3, 60, 31, 9},      // 1900 was no leap year, 2000 was
        {"2004-12-31", 0, 0, 4, 366, 31, 53}, {"2005-01-01", 0, 0, 5, 1, 31, 53}, {"2008-12-29", 0, 0, 0, 364, 31, 1}, {"2023-02-15", 0, 0, 2, 46, 28, 7}, {"2024-11-30", 0, 0, 5, 335, 30, 48}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        time_t at;
        CHECK(parse_date(known[i].date, &at), "%s", known[i].date);
        int got[6] = {calendar_value(MINUTE, at), calendar_value(HOUR, at), calendar_value(DAY_OF_WEEK, at), calendar_value(DAY_OF_YEAR, at), calendar_value(DAYS_IN_MONTH, at), calendar_value(WEEK_OF_YEAR, at)};
        CHECK(got[0] == known[i].minute && got[1] == known[i].hour && got[2] == known[i].weekday && got[3] == known[i].yearday && got[4] == known[i].monthdays && got[5] == known[i].week,
              "%s: minute %d hour %d weekday %d yearday %d days in month %d week %d", known[i].date, got[0], got[1], got[2], got[3], got[4], got[5]);
    }
    static const struct { int seconds; const char *frequency; int season; } steps[] = {
        {60, "min", 1440}, {1800, "min", 48}, {3600, "H", 24}, {6*3600, "H", 4}, {86400, "D", 7}, {7*86400, "W", 52}, {30*86400, "M", 12}, {90*86400, "none", 1}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        Series s = dated(40, "2001-05-03", steps[i].seconds);
        prepare(&s, "", 0, 0);
        CHECK(!strcmp(s.frequency->name, steps[i].frequency) && s.season == steps[i].season, "%d seconds: %s, season %d", steps[i].seconds, s.frequency->name, s.season);
        series_free(&s);
    }
    Series s = dated(9, "2001-05-07", 3600);
    s.date[0] += 1800, s.date[8] += 7 * 86400;          // one short step, one gap: the median counts
    prepare(&s, "", 0, 0);
    CHECK(!strcmp(s.frequency->name, "H") && s.season == 24, "%s", s.frequency->name);
    series_free(&s);
    s = dated(25, "2001-05-07", 86400);          // from a Monday, weekends taken out
    for (int t = 0; t < 25; t++) s.date[t] = s.date[0] + (time_t)(t / 5 * 7 + t % 5) * 86400;
    prepare(&s, "", 0, 0);
    CHECK(!strcmp(s.frequency->name, "B") && s.season == 5, "%s", s.frequency->name);
    double out[6];                                      // x one row back, embedding, weekday (5 of them), day of the year
    CHECK(series_covariate_count(&s) == 6, "%d", series_covariate_count(&s));
    series_covariates(&s, 7, out);                      // Wednesday, May 16: day 136; the last is Friday, June 8: day 159
    CHECK_CLOSE("lag", out[0], (6 - 12) / sqrt(25 * 26 / 12.0), 1e-14);
    CHECK_CLOSE("weekday", out[2], cos(6.283185307179586 * 2 / 5), 1e-14);
    CHECK_CLOSE("weekday", out[3], sin(6.283185307179586 * 2 / 5), 1e-14);
    CHECK_CLOSE("day of the year", out[4], cos(6.283185307179586 * 136 / 160), 1e-14);
    CHECK_CLOSE("day of the year", out[5], sin(6.283185307179586 * 136 / 160), 1e-14);
    series_free(&s);
    s = dated(30, "2001-05-03", 1800);
    prepare(&s, "D", 0, 0);
    CHECK(s.season == 7, "%d", s.season);
    series_free(&s);
    s = dated(9, "2001-05-03", 86400);
    prepare(&s, "none", 0, 0);
    CHECK(series_covariate_count(&s) == 1 && s.season == 1, "a frequency that is given counts");
    series_free(&s);
}

static void test_covariates(void) {
    // days: lags 7 and 14, so rows t - 6 and t - 13; series by series
    Series s = made(30, 2);
    s.date = NEW(time_t, 30);
    for (int t = 0; t < 30; t++) s.x[2*t] = t, s.x[2*t + 1] = t*t, s.date[t] = (time_t)(t + 4) * 86400;      // from a Monday
    prepare(&s, "", 5, 5);
    CHECK(!strcmp(s.frequency->name, "D") && series_covariate_count(&s) == 8, "%d covariates", series_covariate_count(&s));
    double out[9] = {[8] = 77};
    series_covariates(&s, 22, out);
    double want[4] = {(16 - s.mean[0]) / s.std[0], (9 - s.mean[0]) / s.std[0], (256 - s.mean[1]) / s.std[1], (81 - s.mean[1]) / s.std[1]};
    for (int i = 0; i < 4; i++) CHECK_CLOSE("lags", out[i], want[i], 1e-14);
    CHECK(out[4] == s.embedding[0] && out[5] == s.embedding[1] && out[4] != out[5], "embedding");
    CHECK_CLOSE("Tuesday", out[6], cos(6.283185307179586 / 7), 1e-14);
    CHECK_CLOSE("Tuesday", out[7], sin(6.283185307179586 / 7), 1e-14);
    CHECK(out[8] == 77, "series_covariates() writes too much");
    series_covariates(&s, 6, out);
    CHECK_CLOSE("the first row", out[0], (0 - s.mean[0]) / s.std[0], 1e-14);
    CHECK(out[1] == 0 && out[3] == 0, "before the first row");
    // a forecast may write what the lags read
    double *path = memcpy(NEW(double, 60), s.x, 60 * sizeof(double));
    Series own = s;
    own.x = path, path[2*16] = -1;
    series_covariates(&own, 22, out);
    CHECK_CLOSE("own path", out[0], (-1 - s.mean[0]) / s.std[0], 1e-14);
    free(path);
    series_free(&s);

    s = dated(48, "2001-05-03", 1800);                  // half hours: minutes 0 and 30, of 31 values; from a Thursday
    prepare(&s, "", 0, 0);
    double half[11];
    CHECK(series_covariate_count(&s) == 11, "%d", series_covariate_count(&s));
    series_covariates(&s, 47, half);
    static const int back[4] = {3, 11, 23, 47};
    for (int i = 0; i < 4; i++) CHECK_CLOSE("half-hourly lags", half[i], (47 - back[i] - s.mean[0]) / s.std[0], 1e-14);
    CHECK_CLOSE("minute", half[5], cos(6.283185307179586 * 30 / 31), 1e-14);
    CHECK_CLOSE("hour", half[8], sin(6.283185307179586 * 23 / 24), 1e-14);
    CHECK_CLOSE("weekday", half[10], sin(6.283185307179586 * 3 / 4), 1e-14);
    series_free(&s);

    s = made(400, 1);                                   // without dates lags need a frequency, and there is no calendar
    for (int t = 0; t < 400; t++) s.x[t] = t;
    prepare(&s, "H", 0, 0);
    CHECK(series_covariate_count(&s) == 3, "%d", series_covariate_count(&s));
    series_covariates(&s, 300, out);
    CHECK_CLOSE("hours", out[0], (277 - s.mean[0]) / s.std[0], 1e-14);
    CHECK_CLOSE("hours", out[1], (133 - s.mean[0]) / s.std[0], 1e-14);
    series_free(&s);
}

static void test_split(void) {
    Series s = made(7, 2);
    static const double x[7] = {1, 2, 6, 3, 100, -100, 1e9};
    for (int t = 0; t < 7; t++) s.x[2*t] = x[t], s.x[2*t + 1] = t < 4 ? 0.1 : 5;     // the second never changes in training
    Rng r = rng(7, RNG_INIT, 0), again = r;
    CHECK(series_prepare(&s, "", 6, 0, &r) && series_prepare(&s, "", -1, 0, &r) && series_prepare(&s, "", 0, INT_MAX, &r) && series_prepare(&s, "Q", 0, 0, &r), "must be refused");
    prepare(&s, "", 2, 1);
    CHECK(s.train == 4 && s.validation == 2 && !strcmp(s.frequency->name, "none") && s.season == 1 && series_covariate_count(&s) == 2, "%d + %d", s.train, s.validation);
    CHECK_CLOSE("mean", s.mean[0], 3, 1e-14);
    CHECK_CLOSE("std", s.std[0], sqrt(14 / 3.0), 1e-14);
    CHECK(s.std[1] == 1e-7, "%g", s.std[1]);
    double z[2], e0 = normal(&again), e1 = normal(&again), out[2];
    normalised(&s, z, 2);
    CHECK_CLOSE("normalised", z[0], 3 / sqrt(14 / 3.0), 1e-14);
    series_covariates(&s, 3, out);
    CHECK(out[0] == e0 && out[1] == e1, "the embedding is what the Rng draws");
    series_free(&s);
}

static void test_normal(void) {
    Rng r = rng(3, RNG_SAMPLE, 0);
    int n = 200000;
    double sum[5] = {0};
    for (int i = 0; i < n; i++) { double x = normal(&r), p = 1; for (int k = 1; k <= 4; k++) sum[k] += (p *= x) / n; }
    CHECK_CLOSE("mean", sum[1], 0, 5 * sqrt(1.0 / n));
    CHECK_CLOSE("x^2", sum[2], 1, 5 * sqrt(2.0 / n));
    CHECK_CLOSE("x^3", sum[3], 0, 5 * sqrt(15.0 / n));
    CHECK_CLOSE("x^4", sum[4], 3, 5 * sqrt(96.0 / n));
}

// ---- baselines ----------------------------------------------------------------------------------------------------------------
enum { D = 3, STEPS = 12000, HORIZON = 4, SAMPLES = 20000 };
static const double A[D][D] = {{0.6, 0.2, 0}, {-0.3, 0.5, 0.1}, {0, 0.4, 0.7}}, C[D] = {1, -2, 0.5}, L[D][D] = {{0.5, 0, 0}, {0.3, 0.4, 0}, {-0.2, 0.1, 0.8}};

// m = p q + add, for (D,D) matrices; transposed: p q'
static void times(double m[D][D], const double p[D][D], const double q[D][D], bool transposed, const double add[D][D]) {
    double out[D][D];
    for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) { out[i][j] = add ? add[i][j] : 0; for (int k = 0; k < D; k++) out[i][j] += p[i][k] * (transposed ? q[j][k] : q[k][j]); }
    memcpy(m, out, sizeof out);
}
static void inverse(double m[D][D], const double a[D][D]) {             // of a (3,3) by cofactors
    double det = 0;
    for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) m[j][i] = a[(i+1)%D][(j+1)%D] * a[(i+2)%D][(j+2)%D] - a[(i+1)%D][(j+2)%D] * a[(i+2)%D][(j+1)%D];
    for (int j = 0; j < D; j++) det += a[0][j] * m[j][0];
    for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) m[i][j] /= det;
}

// Means and covariances of the samples at each step of the forecast: |mean - m| and |cov - c| within 5 standard errors of SAMPLES draws plus `slack` of that size
static void check_moments(const char *what, const double *out, int h, const double m[D], const double c[D][D], double slack) {
    double mean[D] = {0}, cov[D][D] = {{0}};
    for (int n = 0; n < SAMPLES; n++) for (int d = 0; d < D; d++) mean[d] += out[((size_t)n*HORIZON + (size_t)h)*D + (size_t)d] / SAMPLES;
    for (int n = 0; n < SAMPLES; n++) {
        const double *x = out + ((size_t)n*HORIZON + (size_t)h)*D;
        for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) cov[i][j] += (x[i] - mean[i]) * (x[j] - mean[j]) / (SAMPLES - 1);
    }
    for (int i = 0; i < D; i++) {
        CHECK_CLOSE(what, mean[i], m[i], sqrt(c[i][i]) * (5 / sqrt(SAMPLES) + slack));
        for (int j = 0; j < D; j++) CHECK_CLOSE(what, cov[i][j], c[i][j], sqrt(c[i][i] * c[j][j]) * (5 * sqrt(2.0 / SAMPLES) + slack));
    }
}

// x_t = C + A x_{t-1} + L e_t, or with A = 1, C = 0
static Series process(bool walk, uint64_t seed) {
    Series s = made(STEPS, D);
    Rng r = rng(seed, RNG_DATA, 0);
    for (int t = 1; t < STEPS; t++) {
        double e[D];
        for (int d = 0; d < D; d++) e[d] = normal(&r);
        for (int i = 0; i < D; i++) {
            double x = walk ? s.x[(t - 1)*D + i] : C[i];
            for (int j = 0; j < D; j++) x += (walk ? 0 : A[i][j] * s.x[(t - 1)*D + j]) + L[i][j] * e[j];
            s.x[t*D + i] = x;
        }
    }
    return s;
}

static void test_var1(void) {
    Series s = process(false, 11);
    for (int t = STEPS - 100; t < STEPS - 50; t++) for (int d = 0; d < D; d++) s.x[t*D + d] = 1000 * t;      // what is not for training may not be fitted
    prepare(&s, "", 50, 50);
    double w[D + 1][D], sigma[D][D], gamma[D][D], precision_of[D][D], power[D][D];
    var1_fit(&s, w[0]);
    // standard error of A_ij: sqrt(sigma_ii (gamma^-1)_jj / n), sigma the covariance of the residuals, gamma = A gamma A' + sigma that of x
    times(sigma, L, L, true, NULL);
    memcpy(gamma, sigma, sizeof gamma);
    for (int k = 0; k < 500; k++) { double half[D][D]; times(half, A, gamma, false, NULL); times(gamma, half, A, true, sigma); }
    inverse(precision_of, gamma);
    for (int i = 0; i < D; i++) {
        double constant = s.mean[i] + s.std[i] * w[0][i], error = sigma[i][i], fixed[D];
        for (int j = 0; j < D; j++) {
            double a = w[j + 1][i] * s.std[i] / s.std[j];
            CHECK_CLOSE("A", a, A[i][j], 5 * sqrt(sigma[i][i] * precision_of[j][j] / s.train));
            constant -= a * s.mean[j], fixed[j] = s.mean[j];
        }
        for (int j = 0; j < D; j++) for (int k = 0; k < D; k++) error += sigma[i][i] * fixed[j] * precision_of[j][k] * fixed[k];
        CHECK_CLOSE("constant", constant, C[i], 5 * sqrt(error / s.train));
    }
    // without noise: x_t = 1 + 2 x_{t-1}
    Series line = parsed("a\n1\n3\n7\n15\n31\n");
    prepare(&line, "", 0, 0);
    double two[2], next[3];
    var1_fit(&line, two);
    CHECK_CLOSE("slope", two[1], 2, 1e-6);
    CHECK_CLOSE("constant", line.mean[0] + line.std[0] * two[0] - 2 * line.mean[0], 1, 1e-5);
    Rng r = rng(5, RNG_SAMPLE, 0);
    var1(&line, 5, 3, 1, &r, next);
    CHECK_CLOSE("the next of 1 3 7 15 31", next[2], 255, 1e-3);
    series_free(&line);
    r.index = 0;
    // the law of the forecast: mean C + A m, covariance A c A' + sigma, step by step. The fitted process is a little off: by 1/sqrt(train) or so
    double *out = NEW(double, SAMPLES * HORIZON * D), m[D], c[D][D] = {{0}};
    int start = STEPS - 200;
    var1(&s, start, HORIZON, SAMPLES, &r, out);
    for (int d = 0; d < D; d++) m[d] = s.x[(start - 1)*D + d];
    for (int h = 0; h < HORIZON; h++) {
        double next[D];
        for (int i = 0; i < D; i++) { next[i] = C[i]; for (int j = 0; j < D; j++) next[i] += A[i][j] * m[j]; }
        memcpy(m, next, sizeof m);
        times(power, A, c, false, NULL);
        times(c, power, A, true, sigma);
        check_moments("VAR(1)", out, h, m, c, 5 / sqrt(s.train));
    }
    double *same = NEW(double, SAMPLES * HORIZON * D);
    r.index = 0;
    var1(&s, start, HORIZON, SAMPLES, &r, same);
    CHECK(!memcmp(out, same, sizeof(double) * SAMPLES * HORIZON * D), "the same Rng, other samples");
    free(out), free(same);
    series_free(&s);

    // a series that never changes and one that stands twice: finite, the one stays where it is, the two stay equal
    s = process(false, 12);
    for (int t = 0; t < STEPS; t++) s.x[t*D + 1] = 4, s.x[t*D + 2] = s.x[t*D];
    prepare(&s, "", 0, 0);
    double few[10 * HORIZON * D];
    for (size_t b = 0; b < sizeof baselines / sizeof *baselines; b++) {
        baselines[b].sample(&s, STEPS, HORIZON, 10, &r, few);
        for (int i = 0; i < 10 * HORIZON; i++) {
            CHECK_CLOSE(baselines[b].name, few[i*D + 1], 4, 1e-6);
            CHECK_CLOSE(baselines[b].name, few[i*D + 2], few[i*D], 1e-6);
        }
    }
    series_free(&s);
}

static void test_last_value(void) {
    Series s = process(true, 13);
    prepare(&s, "", 0, 0);
    double *out = NEW(double, SAMPLES * HORIZON * D), sigma[D][D];
    Rng r = rng(6, RNG_SAMPLE, 0);
    times(sigma, L, L, true, NULL);
    last_value(&s, 5000, HORIZON, SAMPLES, &r, out);
    for (int h = 0; h < HORIZON; h++) {
        double c[D][D];
        for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) c[i][j] = (h + 1) * sigma[i][j];
        check_moments("last value", out, h, s.x + 4999*D, c, 5 * sqrt(2.0 / s.train));
    }
    free(out);
    series_free(&s);
}

static void test_seasonal_naive(void) {
    // season 3: a pattern plus independent noise. One season ahead the residual has twice the noise's covariance, the fourth step is two seasons ahead: four times
    Series s = made(STEPS, D);
    Rng r = rng(14, RNG_DATA, 0);
    for (int t = 0; t < STEPS; t++) {
        double e[D];
        for (int d = 0; d < D; d++) e[d] = normal(&r);
        for (int i = 0; i < D; i++) { s.x[t*D + i] = 10 * (t % 3) + i; for (int j = 0; j < D; j++) s.x[t*D + i] += L[i][j] * e[j]; }
    }
    for (int d = 0; d < D; d++) s.x[(STEPS - 1)*D + d] = 1e12;           // not for training
    prepare(&s, "", 1, 0);
    s.season = 3;
    double *out = NEW(double, SAMPLES * HORIZON * D), sigma[D][D];
    times(sigma, L, L, true, NULL);
    int start = 6001;
    seasonal_naive(&s, start, HORIZON, SAMPLES, &r, out);
    for (int h = 0; h < HORIZON; h++) {
        double c[D][D];
        for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) c[i][j] = (h < 3 ? 2 : 4) * sigma[i][j];
        check_moments("seasonal naive", out, h, s.x + (size_t)(start + h - (h < 3 ? 3 : 6))*D, c, 10 / sqrt(s.train));
    }
    free(out);
    series_free(&s);
}

int main(void) {
    test_read();
    test_calendar();
    test_covariates();
    test_split();
    test_normal();
    test_var1();
    test_last_value();
    test_seasonal_naive();
    return finish("test_series");
}
