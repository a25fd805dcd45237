// golden.h: what the check verbs share: reading a golden file of the papers' own code, and comparing with it by the rule of its README.
// The glue of each program (check_bd3lm.h, check_df.h) only translates names and orders; what it compares comes from the functions that the program uses.
#pragma once

typedef struct Golden {
    const SafeTensors *st;
    const char *file;
    int passed, failed, compared, failed_before;
} Golden;

__attribute__((format(printf, 2, 3))) static bool refuse(Golden *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("FAIL  %s  ", g->file);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    g->failed++;
    return false;
}

static const char *meta_text(Golden *g, const char *key) { const char *s = st_meta(g->st, key); return s ? s : ""; }
static double meta(Golden *g, const char *key) { return strtod(meta_text(g, key), NULL); }

// the key must be there, a number, and within [min, max]
static bool need_number(Golden *g, const char *key, double min, double max) {
    char *end;
    const char *s = meta_text(g, key);
    double x = strtod(s, &end);
    if (end == s || *end || !(x >= min && x <= max)) return refuse(g, "metadata %s='%s': a number from %g to %g is needed", key, s, min, max);
    return true;
}
static bool need_whole(Golden *g, const char *key, double min, double max) {
    if (!need_number(g, key, min, max)) return false;
    return meta(g, key) == floor(meta(g, key)) || refuse(g, "metadata %s='%s': a whole number is needed", key, meta_text(g, key));
}
static bool need_value(Golden *g, const char *key, const char *value) {
    const char *s = meta_text(g, key);
    if (strcmp(s, value) && !(strtod(s, NULL) == strtod(value, NULL) && *s >= '0' && *s <= '9'))
        return refuse(g, "not supported: %s=%s (only %s)", key, s, value);
    return true;
}

// which of n names the metadata gives; -1 and a line if none
static int find_name(Golden *g, const char *key, const char *const *names, int n) {
    for (int i = 0; i < n; i++) if (!strcmp(meta_text(g, key), names[i])) return i;
    refuse(g, "not supported: %s=%s", key, meta_text(g, key));
    return -1;
}

// a tensor of this shape (dims numbers), NULL and a line if it is missing or has another shape
static const StTensor *need_shape(Golden *g, const char *name, int dims, const int *shape) {
    const StTensor *t = st_find(g->st, name);
    if (!t) { refuse(g, "%s is missing", name); return NULL; }
    bool same = t->dims == dims;
    for (int i = 0; same && i < dims; i++) same = t->shape[i] == (size_t)shape[i];
    if (!same) { refuse(g, "%s has not the shape that the metadata asks for", name); return NULL; }
    return t;
}
#define SHAPE(...) (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), (int[]){__VA_ARGS__}

// the shape of a tensor of the file, in place of one that metadata would give: exactly `dims` numbers; false and a line otherwise
static bool read_shape(Golden *g, const char *name, int dims, int *shape) {
    const StTensor *t = st_find(g->st, name);
    if (!t) return refuse(g, "%s is missing", name);
    bool right = t->dims == dims && t->count > 0;
    for (int i = 0; right && i < dims; i++) right = t->shape[i] < 1000000, shape[i] = (int)t->shape[i];
    return right || refuse(g, "%s has not the shape that is needed", name);
}

// its numbers as doubles; `below` > 0: whole numbers from 0 to below - 1. NULL and a line if anything is wrong.
static double *need_tensor(Golden *g, const char *name, int below, int dims, const int *shape) {
    const StTensor *t = need_shape(g, name, dims, shape);
    if (!t) return NULL;
    double *x = NEW(double, t->count);
    for (size_t i = 0; i < t->count; i++) {
        x[i] = st_number(t, i);
        if (!below || (x[i] >= 0 && x[i] < below && x[i] == floor(x[i]))) continue;
        refuse(g, "%s[%zu] = %g: not a whole number from 0 to %d", name, i, x[i], below - 1);
        free(x);
        return NULL;
    }
    return x;
}
static int *to_int(double *x, size_t n) {               // frees x
    int *y = NEW(int, n);
    for (size_t i = 0; i < n; i++) y[i] = (int)x[i];
    free(x);
    return y;
}

// Compares one expected tensor by the rule of the golden files' README; a NaN stays the worst.
//   out.*: |got - want| <= tol max(1, |want|) (rule=element) or tol max(1, largest |want|) (rule=tensor); grad.*: tol_grad largest |want|; integers: equal
// row: which rows (of the last dimension) the program computes at all; NULL: all
static void compare_some(Golden *g, const char *name, const double *got, const bool *row, int dims, const int *shape) {
    const StTensor *t = need_shape(g, name, dims, shape);
    g->compared++;
    if (!t) return;
    bool grad = !strncmp(name, "grad.", 5), whole = !st_is_real(t), by_tensor = grad || !strcmp(meta_text(g, "rule"), "tensor"), ok = true;
    double tol = REAL_IS_DOUBLE ? 1e-6 : meta(g, grad ? "tol_grad" : "tol"), largest = 0, worst = -1, worst_bound = 0;
    size_t at = 0, seen = 0, width = t->dims ? t->shape[t->dims - 1] : 1;
    for (size_t i = 0; i < t->count; i++) largest = fmax(largest, fabs(st_number(t, i)));
    for (size_t i = 0; i < t->count; i++) {
        if (row && !row[i / width]) continue;
        double want = st_number(t, i), size = grad ? largest : fmax(1, by_tensor ? largest : fabs(want));
        double bound = whole ? 0 : tol * size, diff = fabs(got[i] - want);
        bool fine = isfinite(got[i]) && diff <= bound;
        double excess = fine ? (bound > 0 ? diff / bound : 0) : isfinite(diff) ? 1e9 + diff : INFINITY;
        if (excess > worst) worst = excess, at = i, worst_bound = bound;
        ok = ok && fine, seen++;
    }
    char text[128] = "", part[64] = "";
    for (int i = 0; i < t->dims; i++) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%zu", i ? "," : "", t->shape[i]);
    if (seen < t->count) snprintf(part, sizeof part, "%zu of %zu compared  ", seen, t->count);
    double want = t->count ? st_number(t, at) : 0, have = t->count ? got[at] : 0;
    printf("%-4s  %s  %s  (%s)  %sworst |got-want| %.3g at %zu  got %.9g  want %.9g  bound %.3g\n",
           ok ? "ok" : "FAIL", g->file, name, text, part, fabs(have - want), at, have, want, worst_bound);
    if (ok) g->passed++; else g->failed++;
}
static void compare(Golden *g, const char *name, const double *got, int dims, const int *shape) { compare_some(g, name, got, NULL, dims, shape); }

static void compare_device(Golden *g, const char *name, const real *device, int dims, const int *shape) {
    size_t n = 1;
    for (int i = 0; i < dims; i++) n *= (size_t)shape[i];
    real *x = NEW(real, n);
    double *y = NEW(double, n);
    download(x, device, n * sizeof(real));
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    compare(g, name, y, dims, shape);
    free(x), free(y);
}

// a parameter's shape in the file
static int param_dims(const Param *p, int shape[2]) {
    shape[0] = p->dims == 2 ? p->t.T : p->t.C, shape[1] = p->t.C;
    return p->dims;
}

// the file's weights into the network, and a line for every weight that the network does not have
static bool read_weights(Golden *g, const Params *ps) {
    for (int i = 0; i < ps->n; i++) {
        const Tensor *t = &ps->list[i]->t;
        char name[256];
        int shape[2], dims = param_dims(ps->list[i], shape);
        snprintf(name, sizeof name, "param.%s", t->name);
        double *values = need_tensor(g, name, 0, dims, shape);
        if (!values) return false;
        real *r = NEW(real, count(t));
        for (size_t j = 0; j < count(t); j++) r[j] = (real)values[j];
        upload(t->data, r, count(t) * sizeof(real));
        free(values), free(r);
    }
    for (int i = 0; i < g->st->tensors; i++) {
        const char *name = g->st->tensor[i].name;
        bool known = strncmp(name, "param.", 6);
        for (int j = 0; j < ps->n; j++) known = known || !strcmp(name + 6, ps->list[j]->t.name);
        if (!known) return refuse(g, "%s: the network has no such weight", name);
    }
    return true;
}

// The kind of a file of this paper; NULL and a line if it is another's.
static const char *golden_kind(Golden *g, const char *paper) {
    g->compared = 0, g->failed_before = g->failed;
    if (!strcmp(meta_text(g, "paper"), paper)) return meta_text(g, "kind");
    refuse(g, "a file of paper '%s', not of %s", meta_text(g, "paper"), paper);
    return NULL;
}
// Every out.* and grad.* tensor must have been compared.
static void golden_complete(Golden *g) {
    int expected = 0;
    for (int i = 0; i < g->st->tensors; i++) expected += !strncmp(g->st->tensor[i].name, "out.", 4) || !strncmp(g->st->tensor[i].name, "grad.", 5);
    if (g->failed == g->failed_before && g->compared != expected) refuse(g, "%d tensors are expected, %d were compared", expected, g->compared);
}

static int check_files(int files, char **file, void (*check)(Golden *)) {
    Golden g = {0};
    for (int i = 0; i < files; i++) {
        size_t size;
        unsigned char *bytes = read_file(file[i], &size);
        SafeTensors st;
        const char *error = st_parse(&st, bytes, size), *slash = strrchr(file[i], '/');
        g.st = &st, g.file = slash ? slash + 1 : file[i];
        if (error) refuse(&g, "not a safetensors file: %s", error); else { check(&g); st_free(&st); }
        free(bytes);
    }
    printf("%d passed, %d failed\n", g.passed, g.failed);
    return g.failed != 0;
}
