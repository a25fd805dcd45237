// series.h: a table of numbers in time order, what a network is told about each of its steps, and three forecasts that need no network.
//   series_parse()      CSV: a first row of names, then numbers; the first column may hold dates; commas between cells, no quotes
//   series_prepare()    frequency, split in time order, mean and standard deviation of the training part
//   series_covariates() lags, one number for each series, calendar: as the official code of Diffusion Forcing has them
//   baselines           last_value(), seasonal_naive(), var1(): samples of what follows
// t = 0 is the row below the names. Dates are UTC; gaps between them are allowed and not filled: a lag counts rows.
// common.h stands before this file: uniform(), normal(), below().
#pragma once
#include "../io.h"
#include <limits.h>

typedef enum { MINUTE, HOUR, DAY_OF_WEEK, DAY_OF_YEAR, DAYS_IN_MONTH, WEEK_OF_YEAR } Calendar;
typedef struct Frequency { const char *name; int season, lags, lag[5], features; Calendar feature[3]; } Frequency;   // season: steps until it repeats
static const Frequency frequencies[] = {
    {"M",    12,   2, {1, 12},            1, {WEEK_OF_YEAR}},
    {"W",    52,   1, {1},                2, {DAYS_IN_MONTH, WEEK_OF_YEAR}},
    {"D",    7,    3, {1, 7, 14},         1, {DAY_OF_WEEK}},
    {"B",    5,    2, {1, 2},             2, {DAY_OF_WEEK, DAY_OF_YEAR}},           // days without weekends
    {"H",    24,   3, {1, 24, 168},       2, {HOUR, DAY_OF_WEEK}},
    {"min",  1440, 5, {1, 4, 12, 24, 48}, 3, {MINUTE, HOUR, DAY_OF_WEEK}},
    {"none", 1,    1, {1},                0, {MINUTE}},
};

typedef struct Series {
    int steps, dims;
    double *x;                                          // (steps,dims)
    char **name;                                        // (dims)
    time_t *date;                                       // (steps), seconds since 1970; NULL: no dates
    // what series_prepare() adds
    const Frequency *frequency;
    int train, validation, season;                      // steps of training, then of validation; the rest is for testing. The caller may change the season
    double *mean, *std, *embedding;                     // (dims)
    double *calendar;                                   // (steps, 2 features); NULL: no dates, or no features
} Series;

static void series_free(Series *s) {
    for (int d = 0; d < s->dims; d++) free(s->name[d]);
    free(s->x), free(s->name), free(s->date), free(s->mean), free(s->std), free(s->embedding), free(s->calendar);
    *s = (Series){0};
}

// ---- 1. reading ---------------------------------------------------------------------------------------------------------------

static bool looks_like_date(const char *cell) { return strspn(cell, "0123456789") == 4 && cell[4] == '-'; }

// YYYY-MM-DD, or with HH:MM or HH:MM:SS behind a blank or a T. False if there is no such day or time.
static bool parse_date(const char *cell, time_t *date) {
    static const char pattern[] = "0000-00-00 00:00:00";
    size_t n = strlen(cell);
    if (n != 10 && n != 16 && n != 19) return false;
    for (size_t i = 0; i < n; i++)
        if (pattern[i] == '0' ? cell[i] < '0' || cell[i] > '9' : cell[i] != pattern[i] && !(i == 10 && cell[i] == 'T')) return false;
    struct tm d = {0}, same;
    sscanf(cell, "%4d-%2d-%2d%*c%2d:%2d:%2d", &d.tm_year, &d.tm_mon, &d.tm_mday, &d.tm_hour, &d.tm_min, &d.tm_sec);
    d.tm_year -= 1900, d.tm_mon--, same = d;
    *date = timegm(&same);                              // carries: February 30 becomes a day of March, second 60 another minute
    return same.tm_mon == d.tm_mon && same.tm_hour == d.tm_hour && same.tm_min == d.tm_min;
}

// Three parts of series_parse() that return NULL, or what is wrong. A cell is copied without the blanks around it.
static const char *copy_cell(char cell[64], const char *from, const char *to) {
    while (from < to && (*from == ' ' || *from == '\t')) from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t' || to[-1] == '\r')) to--;
    if (to - from > 63) return "a cell of more than 63 characters";
    memcpy(cell, from, (size_t)(to - from)), cell[to - from] = 0;
    if (strlen(cell) != (size_t)(to - from)) return "a zero byte";
    return NULL;
}
static const char *parse_name(const char *cell, bool first) {
    char *end;
    strtod(cell, &end);
    if ((*cell && !*end) || looks_like_date(cell)) return "a number or date in place of a name (the first row names the columns)";
    if (!*cell && !first) return "a name is missing";   // that of the dates may be
    return NULL;
}
static const char *parse_number(const char *cell, double *x) {
    char *end;
    *x = strtod(cell, &end);
    if (!*cell) return "a number is missing";
    if (*end) return "text in place of a number";
    if (!(fabs(*x) <= 1e100)) return "NaN, infinity or a number beyond 1e100";     // so that squares are finite
    return NULL;
}

// Takes `size` bytes, fewer than 2^31; no 0 need follow. Returns NULL, or what is wrong at which row (1: the names) and column, in words that stand until the
// next call; then there is nothing to be freed.
static const char *series_parse(Series *s, const void *bytes, size_t size) {
    static char message[128];
    const char *at = bytes, *end = at + size, *error = NULL;
    size_t cells = 1, numbers = 0;
    while (end > at && (end[-1] == '\n' || end[-1] == '\r')) end--;
    for (const char *p = at; p < end; p++) cells += *p == ',' || *p == '\n';
    *s = (Series){.x = NEW(double, cells), .name = NEW(char *, cells), .date = NEW(time_t, cells)};
    int row = 1, column = 1, columns = 0, dated = 0;    // dated: 1 if the first column is one of dates
    if (at == end) error = "an empty file";
    while (!error) {
        char cell[64];
        const char *stop = at;
        while (stop < end && *stop != ',' && *stop != '\n') stop++;
        bool last = stop == end || *stop == '\n';       // of its row
        if ((error = copy_cell(cell, at, stop))) break;
        if (row == 2 && column == 1 && looks_like_date(cell)) dated = 1, free(s->name[0]), memmove(s->name, s->name + 1, sizeof *s->name * (size_t)--s->dims);
        if (row == 1) error = parse_name(cell, column == 1), s->name[s->dims++] = strcpy(NEW(char, sizeof cell), cell), columns++;
        else if (column > columns) error = "more cells than names";
        else if (last && column < columns) error = "fewer cells than names";
        else if (column > dated) error = parse_number(cell, &s->x[numbers++]);
        else if (!parse_date(cell, &s->date[row - 2])) error = "not a date (YYYY-MM-DD or YYYY-MM-DD HH:MM)";
        else if (row > 2 && s->date[row - 2] <= s->date[row - 3]) error = "a date that is not later than the one above";
        else if (!s->dims) error = "no numbers behind the date";
        if (error || stop == end) break;
        at = stop + 1, row += last, column = last ? 1 : column + 1;
    }
    s->steps = row - 1;
    if (!error && s->steps < 2) error = "a series needs two rows or more below its names";
    if (!dated) free(s->date), s->date = NULL;
    if (!error) return NULL;
    snprintf(message, sizeof message, "row %d, column %d: %s", row, column, error);
    series_free(s);
    return message;
}

static Series series_read(const char *path) {
    Series s;
    size_t size;
    unsigned char *bytes = read_file(path, &size);
    if (size > INT_MAX) die("%s: more than 2 GB", path);
    const char *error = series_parse(&s, bytes, size);
    if (error) die("%s: %s", path, error);
    free(bytes);
    return s;
}

// ---- 2. frequency, split, covariates ------------------------------------------------------------------------------------------

static int calendar_value(Calendar what, time_t date) {
    struct tm d;
    char week[3];
    gmtime_r(&date, &d);
    switch (what) {
    case MINUTE:       return d.tm_min;
    case HOUR:         return d.tm_hour;
    case DAY_OF_WEEK:  return (d.tm_wday + 6) % 7;      // Monday 0
    case DAY_OF_YEAR:  return d.tm_yday + 1;
    case WEEK_OF_YEAR: strftime(week, sizeof week, "%V", &d); return atoi(week);    // ISO 8601: week 1 has the year's first Thursday
    default:           d.tm_mon++, d.tm_mday = 0, timegm(&d); return d.tm_mday;     // DAYS_IN_MONTH: the day before the next month's first
    }
}

// the median of the seconds from row to row, 0 without dates; and the frequency that it means
static int compare_times(const void *a, const void *b) { time_t x = *(const time_t *)a, y = *(const time_t *)b; return (x > y) - (x < y); }
static time_t median_step(const Series *s, const char **frequency) {
    const time_t hour = 3600, day = 24 * hour;
    bool weekends = false;
    *frequency = "none";
    if (!s->date) return 0;
    time_t *step = NEW(time_t, s->steps), median;
    for (int t = 1; t < s->steps; t++) step[t - 1] = s->date[t] - s->date[t - 1], weekends = weekends || calendar_value(DAY_OF_WEEK, s->date[t]) > 4;
    qsort(step, (size_t)s->steps - 1, sizeof *step, compare_times);
    median = step[(s->steps - 1) / 2];
    free(step);
    if (median <= 31*day) *frequency = median < hour ? "min" : median < day ? "H" : median < 7*day ? weekends ? "D" : "B" : median < 28*day ? "W" : "M";
    return median;
}

// frequency: a name of the table, or "" for that of the dates. The last `test` steps are for testing, the `validation` steps before them for validation.
// r draws the embedding: one number of N(0,1) for each series, which the official code never trains. Returns NULL, or what is wrong.
static const char *series_prepare(Series *s, const char *frequency, int validation, int test, Rng *r) {
    int D = s->dims;
    double (*x)[D] = (void *)s->x;
    const char *of_dates;
    time_t step = median_step(s, &of_dates);
    if (validation < 0 || test < 0 || (long)validation + test > s->steps - 2) return "validation and test leave fewer than two steps for training";
    if (!*frequency) frequency = of_dates;
    for (size_t i = 0; i < sizeof frequencies / sizeof *frequencies; i++) if (!strcmp(frequency, frequencies[i].name)) s->frequency = &frequencies[i];
    if (!s->frequency) return "no such frequency: M, W, D, B, H, min or none";
    s->train = s->steps - validation - test, s->validation = validation;
    s->season = step && step < 86400 && !strcmp(frequency, of_dates) ? (int)(86400 / step) : s->frequency->season;       // a day, in steps

    s->mean = NEW(double, D), s->std = NEW(double, D), s->embedding = NEW(double, D);
    for (int d = 0; d < D; d++) {                       // over train - 1, as torch.std does; a series that never changes must not divide by 0
        double squares = 0;
        for (int t = 0; t < s->train; t++) s->mean[d] += x[t][d] / s->train;
        for (int t = 0; t < s->train; t++) squares += (x[t][d] - s->mean[d]) * (x[t][d] - s->mean[d]);
        s->std[d] = fmax(sqrt(squares / (s->train - 1)), 1e-7);
        s->embedding[d] = normal(r);
    }

    // cos and sin of 2 pi value / (largest value of the series + 1), as the official code: a half-hourly series has minutes 0 and 30 of 31
    int F = s->date ? s->frequency->features : 0;
    if (F) s->calendar = NEW(double, (size_t)s->steps * (size_t)(2*F));
    for (int f = 0; f < F; f++) {
        int largest = 0;
        for (int t = 0; t < s->steps; t++) { int v = calendar_value(s->frequency->feature[f], s->date[t]); if (v > largest) largest = v; }
        for (int t = 0; t < s->steps; t++) {
            double angle = 6.283185307179586477 * calendar_value(s->frequency->feature[f], s->date[t]) / (largest + 1);
            double *wave = s->calendar + 2*((size_t)t*(size_t)F + (size_t)f);
            wave[0] = cos(angle), wave[1] = sin(angle);
        }
    }
    return NULL;
}

// row t in units of the training part -> z (dims)
static void normalised(const Series *s, double *z, int t) {
    for (int d = 0; d < s->dims; d++) z[d] = (s->x[(size_t)t*(size_t)s->dims + (size_t)d] - s->mean[d]) / s->std[d];
}

// What is known about step t beside x_t. With the lags 1 = l_0 < l_1 < ... of the frequency, out is
//     dims (lags - 1)   series by series: its normalised value at t - (l_i - 1), i = 1, 2, ...; before the first row 0, which is the mean
//     dims              the embedding
//     2 features        cos and sin of each feature of the calendar; nothing without dates
// A lag l goes back l - 1 rows, as in the official code. There the lags of a forecast step may lie in the forecast and are the truth (for business days, the
// value of the day before). Who must not know it lets s->x of a copy of s be an array in which the samples are written as they are made.
static int series_covariate_count(const Series *s) { return s->dims * s->frequency->lags + (s->calendar ? 2 * s->frequency->features : 0); }
static void series_covariates(const Series *s, int t, double *out) {
    const Frequency *f = s->frequency;
    int D = s->dims, more = f->lags - 1;
    const double (*x)[D] = (const void *)s->x;
    for (int i = 0; i < more; i++) {
        int from = t - (f->lag[i + 1] - 1);
        for (int d = 0; d < D; d++) out[d*more + i] = from < 0 ? 0 : (x[from][d] - s->mean[d]) / s->std[d];
    }
    memcpy(out + D*more, s->embedding, sizeof(double) * (size_t)D);
    if (s->calendar) memcpy(out + D*(more + 1), s->calendar + (size_t)t * (size_t)(2*f->features), sizeof(double) * (size_t)(2*f->features));
}

// ---- 3. baselines -------------------------------------------------------------------------------------------------------------
// Each draws `samples` continuations of the rows before `start` (1..s->steps) -> out (samples,steps,dims). What they fit, they fit to the training part, anew
// at every call.

typedef void Baseline(const Series *s, int start, int steps, int samples, Rng *r, double *out);

// The lower triangle of a (n,n), symmetric without negative eigenvalues, becomes L with L L' = a; nothing above the diagonal is read or written.
// A pivot that is a rounding error (a series that never changes, or a sum of others) makes its column 0.
static void cholesky(int n, double (*a)[n]) {
    for (int j = 0; j < n; j++) {
        double pivot = a[j][j];
        for (int k = 0; k < j; k++) pivot -= a[j][k] * a[j][k];
        a[j][j] = pivot > 1e-12 * a[j][j] ? sqrt(pivot) : 0;
        for (int i = j + 1; i < n; i++) {
            for (int k = 0; k < j; k++) a[i][j] -= a[i][k] * a[j][k];
            a[i][j] = a[j][j] > 0 ? a[i][j] / a[j][j] : 0;
        }
    }
}

// next = w_0 + z W, w (1 + D, D): first the constant, then a row for each entry of z
static void linear_next(int D, double *next, double (*w)[D], const double *z) {
    memcpy(next, w[0], sizeof *w);
    for (int i = 0; i < D; i++) for (int d = 0; d < D; d++) next[d] += z[i] * w[i + 1][d];
}

// Paths of z_t = w_0 + z_{t-1} W + e_t in normalised numbers, e_t Gaussian with the covariance that the residuals of the training part have
static void gaussian_paths(const Series *s, double *weights, int start, int steps, int samples, Rng *r, double *out) {
    int D = s->dims;
    double (*w)[D] = (void *)weights, (*root)[D] = (void *)NEW(double, (size_t)D*(size_t)D), *z = NEW(double, D), *next = NEW(double, D), *e = NEW(double, D);
    for (int t = 1; t < s->train; t++) {
        normalised(s, z, t - 1), normalised(s, e, t), linear_next(D, next, w, z);
        for (int d = 0; d < D; d++) e[d] -= next[d];
        for (int i = 0; i < D; i++) for (int j = 0; j <= i; j++) root[i][j] += e[i] * e[j] / (s->train - 1);
    }
    cholesky(D, root);
    for (int n = 0; n < samples; n++) {
        normalised(s, z, start - 1);
        for (int h = 0; h < steps; h++, out += D) {
            linear_next(D, next, w, z);
            for (int d = 0; d < D; d++) e[d] = normal(r);
            for (int i = 0; i < D; i++) {
                for (int j = 0; j <= i; j++) next[i] += root[i][j] * e[j];
                z[i] = next[i], out[i] = s->mean[i] + s->std[i] * z[i];
            }
        }
    }
    free(root), free(z), free(next), free(e);
}

// A random walk: W = 1
static void last_value(const Series *s, int start, int steps, int samples, Rng *r, double *out) {
    int D = s->dims;
    double *weights = NEW(double, (size_t)(D + 1)*(size_t)D), (*w)[D] = (void *)weights;
    for (int d = 0; d < D; d++) w[d + 1][d] = 1;
    gaussian_paths(s, weights, start, steps, samples, r, out);
    free(weights);
}

// W by least squares: (sum u' u) w = sum u' z_t with u = (1, z_{t-1})
static void var1_fit(const Series *s, double *weights) {
    int D = s->dims, n = D + 1;
    double (*w)[D] = (void *)weights, (*gram)[n] = (void *)NEW(double, (size_t)n*(size_t)n), *u = NEW(double, n), *z = NEW(double, D);
    memset(w, 0, sizeof *w * (size_t)n);
    u[0] = 1;
    for (int t = 1; t < s->train; t++) {
        normalised(s, u + 1, t - 1), normalised(s, z, t);
        for (int i = 0; i < n; i++) {
            for (int j = 0; j <= i; j++) gram[i][j] += u[i] * u[j];
            for (int d = 0; d < D; d++) w[i][d] += u[i] * z[d];
        }
    }
    for (int i = 0; i < n; i++) gram[i][i] += 1e-8 * s->train;      // a series that never changes, or equals another, must not divide by 0
    cholesky(n, gram);
    for (int i = 0; i < n; i++)                                     // L y = sum u' z_t, then L' w = y
        for (int j = 0; j <= i; j++) for (int d = 0; d < D; d++) w[i][d] = j < i ? w[i][d] - gram[i][j] * w[j][d] : w[i][d] / gram[i][i];
    for (int i = n - 1; i >= 0; i--)
        for (int j = n - 1; j >= i; j--) for (int d = 0; d < D; d++) w[i][d] = j > i ? w[i][d] - gram[j][i] * w[j][d] : w[i][d] / gram[i][i];
    free(gram), free(u), free(z);
}
static void var1(const Series *s, int start, int steps, int samples, Rng *r, double *out) {
    double *weights = NEW(double, (size_t)(s->dims + 1)*(size_t)s->dims);
    var1_fit(s, weights);
    gaussian_paths(s, weights, start, steps, samples, r, out);
    free(weights);
}

// x_{t - season} + x_u - x_{u - season}; a new u of the training part at every step, the same for all series, which stay correlated that way
static void seasonal_naive(const Series *s, int start, int steps, int samples, Rng *r, double *out) {
    int D = s->dims, season = s->season;
    double (*x)[D] = (void *)s->x, (*y)[D] = (void *)out;
    if (season >= s->train || season > start) die("a season of %d steps wants more than these of training, and as many before the forecast", season);
    for (int n = 0; n < samples; n++, y += steps)
        for (int h = 0; h < steps; h++) {
            int u = season + below(r, s->train - season);
            for (int d = 0; d < D; d++) y[h][d] = (h < season ? x[start + h - season][d] : y[h - season][d]) + x[u][d] - x[u - season][d];
        }
}

static const struct { const char *name; Baseline *sample; } baselines[] = {{"last_value", last_value}, {"seasonal_naive", seasonal_naive}, {"var1", var1}};
