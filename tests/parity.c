// parity.c: every body of every kernel against the oracle, which is cpu_kernels.c itself built in double as a shared object (build/cpu64.so).
// A kernel of kernels.h without a parity_<name> here does not link. Ragged sizes; sentinels around every array; inputs must come out unchanged;
// a NaN in anything that a kernel reads must reach an output, and what it does not read must not.
#define _GNU_SOURCE
#ifndef WITH_CUDA
#include "../cpu_fast.c"        // brings: the fast bodies, and vexp() for its own test
#else
#include "../kernels.h"
#include <stdlib.h>
#include <string.h>
static int min(int a, int b) { return a < b ? a : b; }
#endif
#include "check.h"
#include <dlfcn.h>

#undef real
#define real double
#define POINTER(name, params, args) static void (*name##_f64) params;
KERNELS(POINTER, POINTER)
#undef real
#define real float

// ---- arrays in both precisions, and on the device -------------------------------------------------------------------------------
enum { GUARD = 64, MAX_ARRAYS = 64 };
typedef struct Array { float *f, *start, *first, *c; double *d, *d0; size_t n; } Array;    // c: on the CUDA device; first: the result in the first order
static Array made[MAX_ARRAYS], nothing;             // nothing: an array that is not there
static int n_made;
static uint64_t draws;
static float sentinel;

// What kernels only read, whatever its type: one for both precisions (f and d), and a copy on the device (c).
typedef struct Ints { int *f, *d, *c; } Ints;
typedef struct Doubles { double *f, *d, *c; } Doubles;
typedef struct Spans { Span *f, *d, *c; } Spans;
static struct { void *host, *c; size_t bytes; } fixed[MAX_ARRAYS];
static int n_fixed;

#ifdef WITH_CUDA
#ifdef CUDA_EMU
#ifdef QUICK                                            // for sanitizers, under which fibres are slow
enum { BEHIND = 0, ORDERS = 1 };
#else
enum { BEHIND = 0, ORDERS = 4 };                        // memory of the emulated device ends where an array ends: touching more is fatal
#endif
void cuda_emu_order(int order);
#else
enum { BEHIND = GUARD, ORDERS = 1 };
static void cuda_emu_order(int order) { (void)order; }
#endif
static void *device_take(size_t bytes) { return cuda_allocate(bytes); }
static void device_drop(void *p) { cuda_release(p); }
static void to_device(void) {
    for (int k = 0; k < n_made; k++) cuda_upload(made[k].c - GUARD, made[k].f - GUARD, (GUARD + made[k].n + BEHIND) * sizeof(float));
    for (int k = 0; k < n_fixed; k++) cuda_upload(fixed[k].c, fixed[k].host, fixed[k].bytes);
}
static void fixed_from_device(void *host) { for (int k = 0; k < n_fixed; k++) if (fixed[k].host == host) cuda_download(host, fixed[k].c, fixed[k].bytes); }
static void from_device(void) { for (int k = 0; k < n_made; k++) cuda_download(made[k].f - GUARD, made[k].c - GUARD, (GUARD + made[k].n + BEHIND) * sizeof(float)); }
static const char *const body_name[] = {"cuda", "cuda, naive"};
#define RUN_K(kernel)       (cuda_naive = false, to_device(), kernel##_cuda A(c), from_device())
#define RUN_F(kernel, body) do { cuda_naive = body; to_device(); kernel##_cuda A(c); from_device(); } while (0)
enum { PLAIN = 1 };                                     // the body that reads nothing that it does not need
#define LAST_PRECISION FP32
#else
enum { BEHIND = GUARD, ORDERS = 1, PLAIN = 0 };
#define LAST_PRECISION BF16
static void cuda_emu_order(int order) { (void)order; }
static void *device_take(size_t bytes) { (void)bytes; return NULL; }
static void device_drop(void *p) { (void)p; }
static void fixed_from_device(void *host) { (void)host; }
static const char *const body_name[] = {"cpu", "fast"};
#define RUN_K(kernel)       kernel##_cpu A(f)
#define RUN_F(kernel, body) do { if (body) kernel##_fast A(f); else kernel##_cpu A(f); } while (0)
#endif

static void *fix(size_t bytes, void **c) {
    fixed[n_fixed].host = malloc(bytes), fixed[n_fixed].c = *c = device_take(bytes), fixed[n_fixed].bytes = bytes;
    return fixed[n_fixed++].host;
}
static Ints ints(int n) { Ints x; x.f = x.d = fix((size_t)n * sizeof(int), (void **)&x.c); return x; }
static Doubles doubles(int n) { Doubles x; x.f = x.d = fix((size_t)n * sizeof(double), (void **)&x.c); return x; }

// n numbers in [-1,1), the same in float and double, between guards
static Array *array(size_t n) {
    Array *a = &made[n_made++];
    float *whole = malloc((n + 2*GUARD) * sizeof(float)), *device = device_take((GUARD + n + BEHIND) * sizeof(float));
    *a = (Array){.f = whole + GUARD, .c = device ? device + GUARD : NULL, .start = malloc((n + 1) * sizeof(float)), .first = malloc((n + 1) * sizeof(float)),
                 .d = malloc((n + 1) * sizeof(double)), .d0 = malloc((n + 1) * sizeof(double)), .n = n};
    for (size_t i = 0; i < n + 2*GUARD; i++) whole[i] = sentinel;
    for (size_t i = 0; i < n; i++) {
        float x = (float)((int)(philox(1, 2, draws++).w[0] >> 8) - (1 << 23)) / (1 << 23);
        a->f[i] = a->start[i] = x, a->d[i] = a->d0[i] = x;
    }
    return a;
}
// An array of rows, ld numbers apart, of which the columns from..to-1 are nobody's: NaN, which must come out as it went in and reach nothing else
static void set_padding(Array *a, int ld, int from, int to) { for (size_t i = 0; i < a->n; i++) if ((int)(i % (size_t)ld) >= from && (int)(i % (size_t)ld) < to) a->start[i] = NAN, a->d0[i] = (double)NAN; }
static void restore_floats(void) { for (int k = 0; k < n_made; k++) memcpy(made[k].f, made[k].start, made[k].n * sizeof(float)); }
static void restore(void) { restore_floats(); for (int k = 0; k < n_made; k++) memcpy(made[k].d, made[k].d0, made[k].n * sizeof(double)); }
static void drop_arrays(void) {
    for (int k = 0; k < n_made; k++) free(made[k].f - GUARD), free(made[k].start), free(made[k].first), free(made[k].d), free(made[k].d0), device_drop(made[k].c ? made[k].c - GUARD : NULL);
    for (int k = 0; k < n_fixed; k++) free(fixed[k].host), device_drop(fixed[k].c);
    n_made = n_fixed = 0;
}

// all arrays against the oracle's: |f - d| <= tol * max(1, largest |d|); -inf equals -inf; padding stays what it was. In other orders of threads: the same bits.
static void judge(const char *kernel, const char *body, int order, double tol) {
    for (int k = 0; k < n_made; k++) {
        const Array *a = &made[k];
        double largest = 1, worst = 0;
        bool padding = true, same = true;
        for (size_t i = 0; i < a->n; i++) if (isfinite(a->d[i])) largest = fmax(largest, fabs(a->d[i]));
        for (size_t i = 0; i < a->n; i++) {
            if (isnan(a->d0[i])) { padding = padding && isnan(a->d[i]) && !memcmp(a->f + i, a->start + i, 4); continue; }
            double diff = (double)a->f[i] == a->d[i] ? 0 : fabs((double)a->f[i] - a->d[i]);
            worst = diff <= worst ? worst : diff;
        }
        CHECK(worst <= tol * largest, "%s_%s, array %d: %g of %g", kernel, body, k, worst, largest);
        CHECK(padding, "%s_%s writes into the padding of array %d", kernel, body, k);
        bool whole = true;
        for (int i = 1; i <= GUARD; i++) whole = whole && !memcmp(a->f - i, &sentinel, 4) && !memcmp(a->f + a->n + i - 1, &sentinel, 4);
        CHECK(whole, "%s_%s writes outside of array %d", kernel, body, k);
        if (order == 0) memcpy(a->first, a->f, a->n * sizeof(float));
        else same = !memcmp(a->first, a->f, a->n * sizeof(float));
        CHECK(same, "%s_%s, array %d: other bits in order %d", kernel, body, k, order);
    }
}

static bool any_nan(void) { for (int k = 0; k < n_made; k++) for (size_t i = 0; i < made[k].n; i++) if (isnan(made[k].f[i])) return true; return false; }

#ifdef QUICK
static const int sizes[] = {7, 130};
#else
static const int sizes[] = {1, 7, 32, 33, 130};
#endif
enum { SIZES = sizeof sizes / sizeof *sizes, PLACES = SIZES == 2 ? 4 : ORDERS > 1 ? 10 : 40 };        // PLACES: of an array, that are tried with a NaN
#define FOR_SIZES(x) for (int x##_ = 0, x = 1; x##_ < SIZES && (x = sizes[x##_]); x##_++)
#define FOR_VOCABULARIES(V) for (int V_ = 0, V = 1; V_ <= SIZES && (V = V_ < SIZES ? sizes[V_] : 700, true); V_++)    // the last is more than a block has threads

// `outputs` arrays were made first; a NaN at any sampled place of any later array must reach one of them
#define NAN_REACHES(kernel, run, name, outputs) do { \
    for (int k_ = outputs; k_ < n_made; k_++) for (size_t i_ = 0; i_ < made[k_].n; i_ += 1 + made[k_].n / PLACES) { \
        restore(); made[k_].f[i_] = NAN; run; \
        float keep_ = made[k_].f[i_]; made[k_].f[i_] = 0; \
        CHECK(any_nan(), #kernel "_%s: a NaN in array %d at %zu is lost", name, k_, i_); made[k_].f[i_] = keep_; } \
    restore(); } while (0)
#define NAN_REACHES_K(kernel, outputs) NAN_REACHES(kernel, RUN_K(kernel), body_name[0], outputs)
#define FOR_BODIES(b) for (int b = 0; b < 2; b++)
#define NAN_REACHES_F(kernel, outputs) do { FOR_BODIES(b_) NAN_REACHES(kernel, RUN_F(kernel, b_), body_name[b_], outputs); } while (0)

// one case: the oracle, then every body, on a device in every order, with A(p) the arguments in precision p
#define IN_ALL_ORDERS(kernel, run, name, tol) do { for (int o_ = 0; o_ < ORDERS; o_++) { cuda_emu_order(o_); restore_floats(); run; judge(#kernel, name, o_, tol); } cuda_emu_order(0); } while (0)
#define CASE_K(kernel, tol) do { restore(); kernel##_f64 A(d); IN_ALL_ORDERS(kernel, RUN_K(kernel), body_name[0], tol); } while (0)
#define CASE_F(kernel, tol) do { restore(); kernel##_f64 A(d); FOR_BODIES(b_) IN_ALL_ORDERS(kernel, RUN_F(kernel, b_), body_name[b_], tol); } while (0)


// ---- one test a kernel, in the order of the list ----------------------------------------------------------------------------------
static void parity_fill(void) {
    FOR_SIZES(n) {
        Array *out = array((size_t)n);
        #define A(p) (out->p, 0.25, (size_t)n)
        CASE_K(fill, 0);
        #undef A
        drop_arrays();
    }
}

static int random_below(int n) { return (int)(philox(3, 4, draws++).w[0] % (unsigned)n); }
static Ints ids(int n, int below) { Ints id = ints(n); for (int i = 0; i < n; i++) id.f[i] = random_below(below); return id; }

static void parity_embedding_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        Ints id = ids(N, 9);
        Array *out = array((size_t)(N*C)), *weight = array((size_t)(9*C));
        #define A(p) (out->p, weight->p, id.p, N, C)
        CASE_K(embedding_forward, 0);
        #undef A
        drop_arrays();
    }
}
static void parity_embedding_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        Ints id = ids(N, 9);
        Array *dweight = array((size_t)(9*C)), *dout = array((size_t)(N*C));
        #define A(p) (dweight->p, dout->p, id.p, N, C)
        CASE_K(embedding_backward, 1e-6);
        if (N == 7 && C == 7) NAN_REACHES_K(embedding_backward, 1);
        #undef A
        drop_arrays();
    }
}
static void parity_level_embedding(void) {
    for (int F = 1; F <= 256; F = F*3/2 + 1) {
        Doubles level = doubles(3);
        level.f[0] = 0, level.f[1] = 0.7, level.f[2] = 999;
        Array *out = array((size_t)(3*F));
        #define A(p) (out->p, level.p, 3, F)
        CASE_K(level_embedding, 1e-6);
        #undef A
        drop_arrays();
    }
}

static void parity_linear_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (int act = LINEAR_ONLY; act < ACTIVATIONS; act++) for (int form = 0; form < 3; form++) for (Precision how = FP32; how <= (form ? FP32 : LAST_PRECISION); how++) {
        if (act > SILU && (C != 7 || form)) continue; // they are tested for themselves, below
        Array *out = array((size_t)(N*OC)), *pre = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC);
        #define A(p) (out->p, form == 1 ? NULL : pre->p, inp->p, weight->p, NULL, form == 2 ? NULL : bias->p, N, C, OC, act, how)
        CASE_F(linear_forward, 2e-6);
        if (!form && N >= 7 && N <= 33 && C <= 7 && OC <= 7) { NAN_REACHES_F(linear_forward, 2); }
        #undef A
        drop_arrays();
    }
    // the numbers of rows for which the weights are read as they are, and the first beyond; short and long rows
    static const int few[] = {2, 3, 4, 5, 8, 9, 15, 16, 17}, width[] = {1, 7, 33, 3072}, columns[] = {1, 7, 33};
    for (int i = 0; i < 9; i++) for (int j = 0; j < 4; j++) for (int k = 0; k < 3; k++) {
        int N = few[i], C = width[j], OC = columns[k];
        Array *out = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC);
        #define A(p) (out->p, NULL, inp->p, weight->p, NULL, bias->p, N, C, OC, LINEAR_ONLY, FP32)
        CASE_F(linear_forward, C > 1000 ? 4e-6 : 2e-6);       // the plain body sums in one chain, where nothing may be reordered
        if (C <= 7 && OC <= 7) NAN_REACHES_F(linear_forward, 1);
        #undef A
        drop_arrays();
    }
#ifdef CUDA_EMU
    enum { PANELS = 1 };                                // the others are long, and a matter of the CPU
#else
    enum { PANELS = 3 };
#endif
    static const int panels[][3] = {{500, 1601, 37}, {3100, 7, 33}, {33, 7, 4200}};       // more than one panel in each direction: C, N, OC
    for (int i = 0; i < PANELS; i++) for (Precision how = FP32; how <= LAST_PRECISION; how++) {
        int N = panels[i][0], C = panels[i][1], OC = panels[i][2];
        Array *out = array((size_t)(N*OC)), *pre = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC);
        #define A(p) (out->p, pre->p, inp->p, weight->p, NULL, bias->p, N, C, OC, GELU, how)
        CASE_F(linear_forward, 4e-6);                // the plain bodies sum in one chain
        #undef A
        drop_arrays();
    }
#ifndef WITH_CUDA
    static const int packed_shape[][3] = {{5, 96, 50}, {16, 800, 70}, {32, 96, 288}, {33, 7, 1}, {40, 33, 37}, {601, 400, 97}, {257, 385, 193}, {64, 1601, 64}, {33, 40, 2100}, {33, 1601, 3200}};     // weights that were packed before: the same bits. N, C, OC
    for (int i = 0; i < (int)(sizeof packed_shape / sizeof *packed_shape); i++) for (Precision how = FP32; how <= BF16; how++) {
        int N = packed_shape[i][0], C = packed_shape[i][1], OC = packed_shape[i][2];
        size_t size = packed_size(C, OC, how);
        Array *out = array((size_t)(N*OC)), *again = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC), *packed = array(size);
        pack_weight(packed->f, weight->f, C, OC, how);
        linear_forward_fast(out->f, NULL, inp->f, weight->f, NULL, bias->f, N, C, OC, SILU, how);
        memset(weight->f, 0xFF, weight->n * sizeof(float));   // NaN: nobody may read it now
        linear_forward_fast(again->f, NULL, inp->f, weight->f, packed->f, bias->f, N, C, OC, SILU, how);
        CHECK(!memcmp(out->f, again->f, out->n * sizeof(float)), "linear_forward_fast: a packed weight (%d,%d) for %d rows, precision %d, gives other bits", OC, C, N, how);
        CHECK(out->f[0] == out->f[0] && !memcmp(packed->f + size, &sentinel, 4), "pack_weight writes behind its %zu numbers, or the product is NaN", size);
        drop_arrays();
    }
#endif
    for (Precision how = FP32; how <= LAST_PRECISION; how++) {    // no rows at all: a batch in which nothing is masked
        Array *out = array(1), *inp = array(1), *weight = array(5 * 7), *bias = array(5);
        #define A(p) (out->p, NULL, inp->p, weight->p, NULL, bias->p, 0, 7, 5, LINEAR_ONLY, how)
        CASE_F(linear_forward, 0);
        #undef A
        #define A(p) (inp->p, out->p, weight->p, 0, 7, 5, true, how)
        CASE_F(linear_backward_inp, 0);
        #undef A
        #define A(p) (weight->p, bias->p, out->p, inp->p, 0, 7, 5, how)
        CASE_F(linear_backward_weight, 0);
        #undef A
        drop_arrays();
    }
}
static void parity_linear_backward_inp(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (int add = 0; add < 2; add++) for (Precision how = FP32; how <= LAST_PRECISION; how++) {
        Array *dinp = array((size_t)(N*C)), *dpre = array((size_t)(N*OC)), *weight = array((size_t)(OC*C));
        #define A(p) (dinp->p, dpre->p, weight->p, N, C, OC, add, how)
        CASE_F(linear_backward_inp, 2e-6);
        if (N == 7 && C <= 7 && OC == 7) { NAN_REACHES_F(linear_backward_inp, 1); }
        #undef A
        drop_arrays();
    }
}
static void parity_linear_backward_weight(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (int bias = 0; bias < 2; bias++) for (Precision how = FP32; how <= LAST_PRECISION; how++) {
        Array *dweight = array((size_t)(OC*C)), *dbias = array((size_t)OC), *dpre = array((size_t)(N*OC)), *inp = array((size_t)(N*C));
        #define A(p) (dweight->p, bias ? dbias->p : NULL, dpre->p, inp->p, N, C, OC, how)
        CASE_F(linear_backward_weight, 4e-6);
        if (N == 7 && C <= 7 && OC == 7) { NAN_REACHES_F(linear_backward_weight, 2); }
        #undef A
        drop_arrays();
    }
#ifndef CUDA_EMU
    for (int i = 0; i < 4; i++) for (Precision how = FP32; how <= LAST_PRECISION; how++) {        // wide and high enough, on the CPU, for operands to be packed: one, the other, both; rows in two halves
        int N = i == 3 ? 1100 : 150, C = i % 2 ? 70 : 531, OC = i == 0 || i == 3 ? 70 : 533;
        Array *dweight = array((size_t)(OC*C)), *dbias = array((size_t)OC), *dpre = array((size_t)(N*OC)), *inp = array((size_t)(N*C));
        #define A(p) (dweight->p, dbias->p, dpre->p, inp->p, N, C, OC, how)
        CASE_F(linear_backward_weight, 4e-6);
        #undef A
        drop_arrays();
    }
#endif
}
// the kink, and where exponentials vanish or overflow
static void set_ends(Array *pre) { for (int i = 0; i < 3; i++) pre->d0[i] = pre->start[i] = (float[]){0, -100, 100}[i]; }
static void parity_sum_forward(void) {
    FOR_SIZES(n) for (int act = LINEAR_ONLY; act < ACTIVATIONS; act++) for (int kept = 0; kept < 2; kept++) {
        Array *out = array((size_t)n), *pre = array((size_t)n), *x = array((size_t)n), *y = array((size_t)n);
        for (int i = 0; i < n; i++) x->d0[i] = x->start[i] *= 6;
        #define A(p) (out->p, kept ? pre->p : NULL, x->p, y->p, out->n, act)
        CASE_F(sum_forward, 1e-6);
        if (kept) { NAN_REACHES_F(sum_forward, 2); }
        #undef A
        drop_arrays();
    }
}
static void parity_activation_backward(void) {
    FOR_SIZES(n) for (int act = LINEAR_ONLY; act < ACTIVATIONS; act++) for (int ends = 0; ends < (n == 7 ? 2 : 1); ends++) for (int wanted = 0; wanted < 2; wanted++) {
        Array *out = array((size_t)n), *d = array((size_t)n), *pre = array((size_t)n);
        for (int i = 0; i < n; i++) pre->start[i] *= 12, pre->d0[i] = pre->start[i];
        if (ends) set_ends(pre);
        #define A(p) (d->p, wanted ? out->p : NULL, pre->p, (size_t)n, act)
        CASE_F(activation_backward, 2e-6);
        if (act || wanted) { NAN_REACHES_F(activation_backward, 2); }
        #undef A
        drop_arrays();
    }
}

static Ints groups(int n, int form) { Ints g = ids(n, 4); for (int i = 0; i < n; i++) g.f[i] = g.f[i] - 1; return form ? g : (Ints){0}; }   // -1, 0, 1, 2
// the groups in order, rows of none among them
static void sort_groups(Ints g, int n) {
    for (int i = 0; i < n; i++) for (int j = i + 1; j < n; j++) if (g.f[i] >= 0 && g.f[j] >= 0 && g.f[j] < g.f[i]) { int swap = g.f[i]; g.f[i] = g.f[j], g.f[j] = swap; }
}

// plain; modulated; modulated by groups; a bias, as a layer has it; a bias for each group; each of LayerNorm and of RMSNorm. The bias of form 4 and the modulations are columns of wider rows
enum { NORM_FORMS = 5 };
static void set_norm_padding(Array *mod, int ld, int C, int form) { if (form != 3) set_padding(mod, ld, C, form == 4 ? ld : C + 1), set_padding(mod, ld, 2*C + 1, ld); }
static void parity_norm_modulate_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < NORM_FORMS; form++) for (int rms = 0; rms < 2; rms++) {
        Ints group = groups(N, form == 2 || form == 4);
        int ld = form == 3 ? C : 2*C + 3;
        Array *out = array((size_t)(N*C)), *mean = array((size_t)N), *rstd = array((size_t)N), *x = array((size_t)(N*C)), *weight = array((size_t)C), *mod = array((size_t)(form == 3 ? C : 3*ld));
        set_norm_padding(mod, ld, C, form);
        #define A(p) (out->p, rms ? NULL : mean->p, rstd->p, x->p, weight->p, form ? mod->p : NULL, form == 1 || form == 2 ? mod->p + C + 1 : NULL, group.p, 1e-3, N, C, ld)
        CASE_K(norm_modulate_forward, 2e-5);
        if (!form && N == 7 && C == 7) { n_made--; NAN_REACHES_K(norm_modulate_forward, 3); n_made++; }
        if (form == 3 && N == 7 && C == 7) NAN_REACHES_K(norm_modulate_forward, 3);
        #undef A
        drop_arrays();
    }
}
static void parity_norm_modulate_backward(void) {
    enum { DX = 1, DWEIGHT = 2, DMOD = 4, ALL = 7 };
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < NORM_FORMS; form++) for (int rms = 0; rms < 2; rms++) for (int wanted = N == 33 && !rms ? 0 : ALL; wanted <= ALL; wanted++)
    for (int sorted = 0; sorted < (form == 2 || form == 4 ? 2 : 1); sorted++) {
        Ints group = groups(N, form == 2 || form == 4);
        if (sorted) sort_groups(group, N);
        int ld = form == 3 ? C : 2*C + 3, G = form == 2 || form == 4 ? 3 : 1;
        bool bias = form >= 3, modulated = form && !bias;
        Array *dx = array((size_t)(N*C)), *dweight = array((size_t)C), *dmod = array((size_t)(form == 3 ? C : 3*ld)), *dout = array((size_t)(N*C)), *x = array((size_t)(N*C)),
              *rstd = array((size_t)N), *weight = array((size_t)C), *mean = array((size_t)N), *mod = array((size_t)(form == 3 ? C : 3*ld));
        set_norm_padding(mod, ld, C, form);
        if (form) set_norm_padding(dmod, ld, C, form);
        #define A(p) (wanted & DX ? dx->p : NULL, wanted & DWEIGHT ? dweight->p : NULL, form && wanted & DMOD ? dmod->p : NULL, modulated && wanted & DMOD ? dmod->p + C + 1 : NULL, \
                      dout->p, x->p, rms ? NULL : mean->p, rstd->p, weight->p, modulated ? mod->p + C + 1 : NULL, group.p, N, C, G, ld)
        CASE_F(norm_modulate_backward, 3e-6);
        if ((form == 0 || form == 3) && wanted == ALL && N == 7 && C == 7) { n_made -= 1 + rms; NAN_REACHES_F(norm_modulate_backward, 3); n_made += 1 + rms; }     // mod, and mean if nobody reads it
        #undef A
        drop_arrays();
    }
}

// one segment: halves of the whole head are partners; two: halves of the first third, and of the rest
static Ints partners(int HS, int segments) {
    Ints pair = ints(HS);
    for (int s = 0; s < segments; s++) {
        int from = s ? HS/3 : 0, size = segments == 1 ? HS : s ? HS - HS/3 : HS/3, half = size / 2;
        for (int i = 0; i < size; i++) pair.f[from + i] = i < half ? from + i + half : i < 2*half ? from + i - half : -1;
    }
    return pair;
}

// cosine and sine of 6 positions, and which of them each row has; without `turned` there are none
typedef struct Turn { Array *cosine, *sine; Ints position, pair; } Turn;
static Turn turn_of(bool turned, int N, int HS) {
    if (!turned) return (Turn){&nothing, &nothing, {0}, {0}};
    Turn t = {array((size_t)(6*HS)), array((size_t)(6*HS)), ids(N, 6), partners(HS, 2)};
    return t;
}
static void parity_head_norm_forward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 3; heads++) for (int form = 0; form < 4; form++) for (int turned = 0; turned < 2; turned++) {   // nothing, one, the other, both are kept
        int ld = heads*HS + (heads > 1 ? 3 : 0);
        Array *kept = array((size_t)(N*heads*HS)), *rstd = array((size_t)(N*heads)), *x = array((size_t)(N*ld)), *weight = array((size_t)HS);
        Turn t = turn_of(turned, N, HS);
        set_padding(x, ld, heads*HS, ld);
        #define A(p) (x->p, form & 1 ? kept->p : NULL, form & 2 ? rstd->p : NULL, weight->p, t.cosine->p, t.sine->p, t.position.p, t.pair.p, 1e-3, N, ld, heads, HS)
        CASE_F(head_norm_forward, 2e-6);
        if (heads == 1 && N == 7 && HS == 7 && !turned) NAN_REACHES_F(head_norm_forward, 2);
        #undef A
        drop_arrays();
    }
}
static void parity_head_norm_backward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 3; heads++) for (int wanted = 0; wanted < 2; wanted++) for (int turned = 0; turned < 2; turned++) {
        int ld = heads*HS + (heads > 1 ? 3 : 0);
        Array *dweight = array((size_t)HS), *dx = array((size_t)(N*ld)), *kept = array((size_t)(N*heads*HS)), *rstd = array((size_t)(N*heads)), *weight = array((size_t)HS);
        Turn t = turn_of(turned, N, HS);
        set_padding(dx, ld, heads*HS, ld);
        #define A(p) (dx->p, wanted ? dweight->p : NULL, kept->p, rstd->p, weight->p, t.cosine->p, t.sine->p, t.position.p, t.pair.p, N, ld, heads, HS)
        CASE_F(head_norm_backward, 2e-6);
        if (heads == 1 && N == 7 && HS == 7 && !turned) NAN_REACHES_F(head_norm_backward, 1);
        #undef A
        drop_arrays();
    }
}

static void parity_rope_forward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 2; heads++) {
        Ints pair = partners(HS, heads), position = ids(N, 6);
        int ld = heads*HS + 3;
        Array *x = array((size_t)(N*ld)), *cosine = array((size_t)(6*HS)), *sine = array((size_t)(6*HS));
        set_padding(x, ld, heads*HS, ld);
        #define A(p) (x->p, cosine->p, sine->p, position.p, pair.p, N, ld, heads, HS)
        CASE_F(rope_forward, 1e-6);
        #undef A
        drop_arrays();
    }
}
static void parity_rope_backward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 2; heads++) {
        Ints pair = partners(HS, heads), position = ids(N, 6);
        int ld = heads*HS + 3;
        Array *x = array((size_t)(N*ld)), *cosine = array((size_t)(6*HS)), *sine = array((size_t)(6*HS));
        set_padding(x, ld, heads*HS, ld);
        #define A(p) (x->p, cosine->p, sine->p, position.p, pair.p, N, ld, heads, HS)
        CASE_F(rope_backward, 1e-6);
        #undef A
        drop_arrays();
    }
}

// Random spans over [0, Tk): empty ones, one interval, two, runs of `block` equal rows (block diffusion); block 64: two distant intervals as
// in block diffusion where Tq = Tk, otherwise three sequences side by side, of which each row sees its own up to itself.
static Spans spans(int Tq, int Tk, int block) {
    Spans spans;
    spans.f = spans.d = fix((size_t)Tq * sizeof(Span), (void **)&spans.c);
    Span *s = spans.f;
    for (int t = 0; t < Tq; t++) {
        if (block == 64 && Tq == Tk) {
            int T = 3*Tk / 4, start = t % (Tk - T + 1) / 4 * 4, end = start + 4;
            s[t] = (Span){.lo = {start, T}, .hi = {min(end, T), min(T + start, Tk)}};
            continue;
        }
        if (block == 64) { int i = 3*t / Tq, first = i*Tk / 3; s[t] = (Span){.lo = {first}, .hi = {min((i + 1)*Tk / 3, first + 1 + t)}}; continue; }
        int r0 = random_below(Tk + 1), r1 = random_below(Tk + 1), r2 = random_below(Tk + 1), r3 = random_below(Tk + 1);
        int a = min(r0, r1), b = r0 + r1 - a, c = min(r2, r3), e = r2 + r3 - c;
        s[t] = t % block ? s[t - 1] : a == 0 && e > 2 ? (Span){.lo = {0, 0}, .hi = {0, 0}} : b <= c ? (Span){{a, c}, {b, e}} : (Span){{a, 0}, {b, 0}};
    }
    return spans;
}
static bool in_span(const Span *s, int j) { return (j >= s->lo[0] && j < s->hi[0]) || (j >= s->lo[1] && j < s->hi[1]); }

// q, k, v are columns of wider rows, as in qkv and in the cache
#ifdef WITH_CUDA
static const int head_sizes[] = {5, 32, 40, 100, 130};  // the kernels are made for up to 32, 64 and 128; beyond, the plain one runs
#else
static const int head_sizes[] = {1, 5, 16, 40};
#endif
enum { HEAD_SIZES = sizeof head_sizes / sizeof *head_sizes };
#define FOR_ATTENTION FOR_SIZES(Tq) FOR_SIZES(Tk) for (int HS_ = 0, HS = head_sizes[0]; HS_ < HEAD_SIZES && (HS = head_sizes[HS_], true); HS_++) for (int block = 1; block <= 64; block *= 4)
enum { AB = 2, NH = 2 };

#ifndef WITH_CUDA
// |got - want| / |want| over all of an array
static double distance(const float *got, const double *want, size_t n) {
    double diff = 0, size = 0;
    for (size_t i = 0; i < n; i++) diff += (got[i] - want[i]) * (got[i] - want[i]), size += want[i] * want[i];
    return sqrt(diff / size);
}
#endif

// BF16: a weight near the middle between two bfloat16 numbers may go either way, so single elements are judged loosely, and the whole closely
static const double element_tol[] = {2e-6, 8e-3};

static void parity_attention_forward(void) {
    for (Precision how = FP32; how <= LAST_PRECISION; how++) FOR_ATTENTION {
        if (how == BF16 && block != 4 && block != 64) continue;
        int C = NH*HS, ldq = C + 3, ldkv = 2*C + 1;
        Spans span = spans(Tq, Tk, block);
        Array *out = array((size_t)(AB*Tq*C)), *lse = array((size_t)(AB*NH*Tq)), *q = array((size_t)(AB*Tq*ldq)), *kv = array((size_t)(AB*Tk*ldkv));
        set_padding(q, ldq, C, ldq), set_padding(kv, ldkv, 2*C, ldkv);
        #define A(p) (out->p, lse->p, q->p, kv->p, kv->p + C, span.p, AB, Tq, Tk, NH, HS, ldq, ldkv, how)
        CASE_F(attention_forward, element_tol[how]);
#ifndef WITH_CUDA
        if (how == BF16 && Tq == 130 && Tk == 130 && HS >= 16) {
            attention_forward_f64 A(d), attention_forward_fast A(f);
            double d = distance(out->f, out->d, out->n);
            CHECK(d <= 3e-4, "attention_forward_fast, bf16: %g", d);
            how = FP32, attention_forward_f64 A(d), how = BF16;
            d = distance(out->f, out->d, out->n);
            CHECK(d >= 1e-3, "attention_forward_fast, bf16, does not round: %g", d);
        }
#endif
        if (how == FP32 && HS == 5 && Tq <= 33 && Tk <= 33 && (Tq == 7 || Tk == 7)) FOR_BODIES(body) {
            const char *name = body_name[body];
            restore();
            RUN_F(attention_forward, body);
            memcpy(out->first, out->f, out->n * sizeof(float));
            for (int j = 0; j < Tk; j++) for (int part = 0; part < 2; part++) for (int nan = 0; nan < 2; nan++) {
                // in k, then v, of key j, another number, then NaN: reaches the rows that see it, and no other. (A NaN in v may reach other rows, but not from behind the last key that is seen.)
                restore();
                kv->f[(size_t)j*ldkv + part*C] = nan ? NAN : 3e4f;
                RUN_F(attention_forward, body);
                bool among = false;
                for (int t = 0; t < Tq; t++) for (int p = 0; p < 2; p++) among = among || (span.f[t].hi[p] > span.f[t].lo[p] && span.f[t].hi[p] > j);
                for (int t = 0; t < Tq; t++) {
                    bool reached = nan ? isnan(out->f[t*C]) : true, same = !memcmp(out->f + t*C, out->first + t*C, (size_t)C * sizeof(float));
                    if (in_span(span.f + t, j)) CHECK(reached, "attention_forward_%s: NaN in %c %d, row %d", name, "kv"[part], j, t);
                    else if (!nan || !part || body == PLAIN || !among) CHECK(same, "attention_forward_%s: %c %d reaches row %d", name, "kv"[part], j, t);
                }
            }
            for (int t = 0; t < Tq; t++) {                                               // NaN in q of row t: reaches that row
                restore();
                q->f[(size_t)t*ldq] = NAN;
                RUN_F(attention_forward, body);
                bool sees = span.f[t].hi[0] > span.f[t].lo[0] || span.f[t].hi[1] > span.f[t].lo[1];
                CHECK(isnan(out->f[t*C]) == sees, "attention_forward_%s: NaN in q, row %d", name, t);
            }
            restore();
            for (int t = 0; t < Tq; t++) q->f[(size_t)t*ldq] = -1e30f;                   // every score overflows to -inf: NaN, and 0 only for a row that sees no key
            for (int j = 0; j < Tk; j++) kv->f[(size_t)j*ldkv] = 1e30f;
            RUN_F(attention_forward, body);
            for (int t = 0; t < Tq; t++) {
                bool sees = span.f[t].hi[0] > span.f[t].lo[0] || span.f[t].hi[1] > span.f[t].lo[1];
                CHECK(sees ? isnan(out->f[t*C]) : out->f[t*C] == 0, "attention_forward_%s: all scores -inf, row %d: %g", name, t, (double)out->f[t*C]);
            }
            restore();
        }
        #undef A
        drop_arrays();
    }
}
static void parity_attention_backward(void) {
    for (Precision how = FP32; how <= LAST_PRECISION; how++) FOR_ATTENTION {
        if (how == BF16 && block != 4 && block != 64) continue;
        int C = NH*HS, ldq = C + 3, ldkv = 2*C + 1;
        bool add = random_below(2);
        Spans span = spans(Tq, Tk, block);
        Array *dq = array((size_t)(AB*Tq*ldq)), *dkv = array((size_t)(AB*Tk*ldkv)), *dout = array((size_t)(AB*Tq*C)), *out = array((size_t)(AB*Tq*C)), *lse = array((size_t)(AB*NH*Tq)),
              *q = array((size_t)(AB*Tq*ldq)), *kv = array((size_t)(AB*Tk*ldkv));
        attention_forward_f64(out->d0, lse->d0, q->d, kv->d, kv->d + C, span.d, AB, Tq, Tk, NH, HS, ldq, ldkv, FP32);
        for (size_t i = 0; i < out->n; i++) out->d0[i] = out->start[i] = (float)out->d0[i];
        for (size_t i = 0; i < lse->n; i++) lse->d0[i] = lse->start[i] = (float)lse->d0[i];
        set_padding(dq, ldq, C, ldq), set_padding(q, ldq, C, ldq), set_padding(dkv, ldkv, 2*C, ldkv), set_padding(kv, ldkv, 2*C, ldkv);
        #define A(p) (dq->p, dkv->p, dkv->p + C, dout->p, out->p, lse->p, q->p, kv->p, kv->p + C, span.p, AB, Tq, Tk, NH, HS, ldq, ldkv, add, how)
        CASE_F(attention_backward, 2 * element_tol[how]);
#ifndef WITH_CUDA
        if (how == BF16 && Tq == 130 && Tk == 130 && HS >= 16) {
            Array *grad[] = {dq, dkv};
            for (int i = 0; i < 2; i++) {
                restore();
                memset(grad[i]->f, 0, grad[i]->n * sizeof(float)), memset(grad[i]->d, 0, grad[i]->n * sizeof(double));
                attention_backward_f64 A(d), attention_backward_fast A(f);
                double d = distance(grad[i]->f, grad[i]->d, grad[i]->n);
                CHECK(d <= 6e-4, "attention_backward_fast, bf16: %g", d);
                memset(grad[i]->d, 0, grad[i]->n * sizeof(double));
                how = FP32, attention_backward_f64 A(d), how = BF16;
                d = distance(grad[i]->f, grad[i]->d, grad[i]->n);
                CHECK(d >= 1e-3, "attention_backward_fast, bf16, does not round: %g", d);
            }
        }
#endif
        if (Tq == 7 && Tk == 33 && HS == 5) FOR_BODIES(body)
            for (int j = 0; j < Tk; j++) for (int part = 0; part < 2; part++) {          // NaN in k, then v, of key j: reaches dq of the rows that see it
                const char *name = body_name[body];
                restore();
                RUN_F(attention_backward, body);
                float clean[7];
                for (int t = 0; t < Tq; t++) clean[t] = dq->f[t*ldq];
                restore();
                kv->f[(size_t)j*ldkv + part*C] = NAN;
                RUN_F(attention_backward, body);
                for (int t = 0; t < Tq; t++)
                    if (in_span(span.f + t, j)) CHECK(isnan(dq->f[t*ldq]), "attention_backward_%s: NaN in %c %d, row %d", name, "kv"[part], j, t);
                restore();
                kv->f[(size_t)j*ldkv + part*C] = 3e4f;                                   // another number: and no other row
                RUN_F(attention_backward, body);
                for (int t = 0; t < Tq; t++)
                    if (!in_span(span.f + t, j)) CHECK(dq->f[t*ldq] == clean[t], "attention_backward_%s: %c %d reaches row %d", name, "kv"[part], j, t);
            }
        #undef A
        drop_arrays();
    }
}

static void parity_gated_residual_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {
        Ints group = groups(N, form == 2);
        int ld = C + 3;
        Dropout drop = {form == 1 ? 0.3 : 0, 5, 6};
        Array *out = array((size_t)(N*C)), *x = array((size_t)(N*C)), *branch = array((size_t)(N*C)), *mod = array((size_t)(3*ld));
        set_padding(mod, ld, 0, 1), set_padding(mod, ld, C + 1, ld);
        #define A(p) (out->p, x->p, branch->p, form ? mod->p + 1 : NULL, group.p, drop, N, C, ld)
        CASE_K(gated_residual_forward, 1e-6);
        if (!form && N == 7 && C == 7) { n_made--; NAN_REACHES_K(gated_residual_forward, 1); n_made++; }
        #undef A
        drop_arrays();
    }
    // what is dropped, and how much: the share p within five standard deviations, the rest scaled by 1/(1-p)
    enum { N = 100, C = 130 };
    Dropout drop = {0.3, 5, 6};
    Array *out = array(N*C), *x = array(N*C), *branch = array(N*C);
    for (int i = 0; i < N*C; i++) x->start[i] = 0, branch->start[i] = 1;
    restore_floats();
    #define A(p) (out->p, x->p, branch->p, NULL, NULL, drop, N, C, 0)
    RUN_K(gated_residual_forward);
    #undef A
    int dropped = 0;
    for (int i = 0; i < N*C; i++) { dropped += out->f[i] == 0; if (out->f[i] != 0) CHECK_CLOSE("kept", out->f[i], 1 / 0.7, 1e-6); }
    CHECK_CLOSE("share dropped", dropped / (double)(N*C), 0.3, 5 * sqrt(0.3 * 0.7 / (N*C)));
    drop_arrays();
}
static void parity_gated_residual_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) for (int add = 0; add < 2; add++) {
        Ints group = groups(N, form == 2);
        int ld = C + 3;
        Dropout drop = {form == 1 ? 0.3 : 0, 5, 6};
        Array *dbranch = array((size_t)(N*C)), *dmod = array((size_t)(3*ld)), *dout = array((size_t)(N*C)), *branch = array((size_t)(N*C)), *mod = array((size_t)(3*ld));
        set_padding(mod, ld, 0, 1), set_padding(mod, ld, C + 1, ld);
        if (form) set_padding(dmod, ld, 0, 1), set_padding(dmod, ld, C + 1, ld);
        #define A(p) (dbranch->p, form ? dmod->p + 1 : NULL, dout->p, branch->p, form ? mod->p + 1 : NULL, group.p, drop, add, N, C, form == 2 ? 3 : 1, ld)
        CASE_K(gated_residual_backward, 2e-6);
        #undef A
        drop_arrays();
    }
}

static Ints distinct(int n, int of) {                   // n different rows of `of`, shuffled
    Ints row = ints(of);
    for (int i = 0; i < of; i++) row.f[i] = i;
    for (int i = 0; i < n; i++) { int j = i + random_below(of - i), x = row.f[i]; row.f[i] = row.f[j], row.f[j] = x; }
    return row;
}
static void parity_gather_rows_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        Ints row = distinct(N, N + 5);
        Array *out = array((size_t)(N*C)), *inp = array((size_t)((N + 5)*C));
        #define A(p) (out->p, inp->p, row.p, N, C)
        CASE_K(gather_rows_forward, 0);
        #undef A
        drop_arrays();
    }
}
static void parity_gather_rows_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        Ints row = distinct(N, N + 5);
        Array *dinp = array((size_t)((N + 5)*C)), *dout = array((size_t)(N*C));
        #define A(p) (dinp->p, dout->p, row.p, N, C)
        CASE_K(gather_rows_backward, 1e-6);
        #undef A
        drop_arrays();
    }
}
static void parity_store_rows(void) {
    FOR_SIZES(T) FOR_SIZES(C) for (int from = 0; from < 3; from += 2) {    // all rows; those between two before and one behind
        int S = from ? T + 3 : T, W = T + 3, ld = C + 2;
        Array *out = array((size_t)(2*W*C)), *inp = array((size_t)(2*S*ld));
        set_padding(inp, ld, C, ld), set_padding(inp, S*ld, 0, from*ld), set_padding(inp, S*ld, (from + T)*ld, S*ld);
        #define A(p) (out->p, inp->p + from*ld, 2, T, S, W, C, ld)
        CASE_K(store_rows, 0);
        #undef A
        drop_arrays();
    }
}

static void parity_copy_columns(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 2; form++) {  // whole rows; rows of others between them
        int ldo = C + 3*form, ldi = C + 2*form;
        Array *out = array((size_t)(N*ldo)), *inp = array((size_t)(N*ldi));
        set_padding(out, ldo, C, ldo), set_padding(inp, ldi, C, ldi);
        #define A(p) (out->p, inp->p, N, C, ldo, ldi)
        CASE_K(copy_columns, 0);
        if (!form && N == 7) NAN_REACHES_K(copy_columns, 1);
        #undef A
        drop_arrays();
    }
}
static void parity_add_columns(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 2; form++) {
        int ldo = C + 3*form, ldi = C + 2*form;
        Array *dinp = array((size_t)(N*ldi)), *dout = array((size_t)(N*ldo));
        set_padding(dinp, ldi, C, ldi), set_padding(dout, ldo, C, ldo);
        #define A(p) (dinp->p, dout->p, N, C, ldi, ldo)
        CASE_K(add_columns, 1e-7);                    // one rounding
        if (!form && N == 7) NAN_REACHES_K(add_columns, 1);
        #undef A
        drop_arrays();
    }
}

static void parity_gru_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        Array *out = array((size_t)(N*C)), *gi = array((size_t)(N*3*C)), *gh = array((size_t)(N*3*C)), *h = array((size_t)(N*C));
        for (size_t i = 0; i < gi->n; i++) gi->d0[i] = gi->start[i] *= 4, gh->d0[i] = gh->start[i] *= 4;     // gates that nearly close
        #define A(p) (out->p, gi->p, gh->p, h->p, N, C)
        CASE_F(gru_forward, 2e-6);                    // arguments up to 8, where a rounding is 2.4e-7; slopes up to 1
        if (N == 7 && C <= 7) NAN_REACHES_F(gru_forward, 1);
        #undef A
        drop_arrays();
    }
}
static void parity_gru_backward(void) {
    enum { ALL = 7 };
    FOR_SIZES(N) FOR_SIZES(C) for (int wanted = N == 33 ? 0 : ALL; wanted <= ALL; wanted++) {
        Array *dgi = array((size_t)(N*3*C)), *dgh = array((size_t)(N*3*C)), *dh = array((size_t)(N*C)), *dout = array((size_t)(N*C)), *gi = array((size_t)(N*3*C)), *gh = array((size_t)(N*3*C)), *h = array((size_t)(N*C));
        for (size_t i = 0; i < gi->n; i++) gi->d0[i] = gi->start[i] *= 4, gh->d0[i] = gh->start[i] *= 4;
        #define A(p) (wanted & 1 ? dgi->p : NULL, wanted & 2 ? dgh->p : NULL, wanted & 4 ? dh->p : NULL, dout->p, gi->p, gh->p, h->p, N, C)
        CASE_F(gru_backward, 4e-6);                   // dreset has gh, up to 4, as a factor
        if (wanted == ALL && N == 7 && C <= 7) NAN_REACHES_F(gru_backward, 3);
        #undef A
        drop_arrays();
    }
}

static void parity_gaussian(void) {
    FOR_SIZES(n) for (int form = 0; form < 3; form++) {                // no limit; a limit that many reach; 64 bits of seed and stream
        Array *out = array((size_t)n);
        #define A(p) (out->p, form == 2 ? 0x123456789ABCDEFull : 7, form == 2 ? 0xFEDCBA987654321ull : 8, form == 1 ? 0.5 : INFINITY, out->n)
        CASE_K(gaussian, 1.2e-7);                     // in double, then one rounding, 6e-8
        #undef A
        drop_arrays();
    }
}

static Doubles coefficients(int n) { Doubles x = doubles(n); for (int i = 0; i < n; i++) x.f[i] = random_below(2001) / 1000.0 - 1; return x; }

static void parity_square_error_forward(void) {
    FOR_SIZES(N) FOR_SIZES(part) for (int P = 1; P <= 3; P += 2) {
        int C = part*P;
        Doubles weight = coefficients(N*P);
        Array *loss = array(1), *error = array((size_t)(N*C)), *pred = array((size_t)(N*C)), *target = array((size_t)(N*C));
        #define A(p) (loss->p, error->p, pred->p, target->p, weight.p, 0.01, N, C, P)
        CASE_K(square_error_forward, 2e-7);           // a term and the loss are rounded once each; sums are double
        if (N == 7) NAN_REACHES_K(square_error_forward, 2);
        #undef A
        drop_arrays();
    }
}
static void parity_square_error_backward(void) {
    FOR_SIZES(N) FOR_SIZES(part) for (int P = 1; P <= 3; P += 2) {
        int C = part*P;
        Doubles weight = coefficients(N*P);
        Array *dpred = array((size_t)(N*C)), *dloss = array(1), *pred = array((size_t)(N*C)), *target = array((size_t)(N*C));
        #define A(p) (dpred->p, dloss->p, pred->p, target->p, weight.p, 0.5, N, C, P)
        CASE_K(square_error_backward, 2e-7);          // the gradient is rounded, then the sum
        if (N == 7) NAN_REACHES_K(square_error_backward, 1);
        #undef A
        drop_arrays();
    }
}

static void parity_mix_rows_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {  // three, two, one
        Doubles a = coefficients(N), b = coefficients(N), c = coefficients(N);
        Array *out = array((size_t)(N*C)), *x = array((size_t)(N*C)), *y = array((size_t)(N*C)), *z = array((size_t)(N*C));
        #define A(p) (out->p, x->p, form > 1 ? NULL : y->p, form > 0 ? NULL : z->p, a.p, b.p, c.p, N, C)
        CASE_K(mix_rows_forward, 1e-6);
        if (form == 0 && N == 7) NAN_REACHES_K(mix_rows_forward, 1);
        #undef A
        drop_arrays();
    }
}
static void parity_mix_rows_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 4; form++) {  // all wanted; one not
        Doubles a = coefficients(N), b = coefficients(N), c = coefficients(N);
        Array *dx = array((size_t)(N*C)), *dy = array((size_t)(N*C)), *dz = array((size_t)(N*C)), *dout = array((size_t)(N*C));
        #define A(p) (form == 1 ? NULL : dx->p, form == 2 ? NULL : dy->p, form == 3 ? NULL : dz->p, dout->p, a.p, b.p, c.p, N, C)
        CASE_K(mix_rows_backward, 1e-6);
        if (form == 0 && N == 7) NAN_REACHES_K(mix_rows_backward, 3);
        #undef A
        drop_arrays();
    }
}

static void parity_cross_entropy_forward(void) {
    FOR_SIZES(N) FOR_VOCABULARIES(V) for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) {
        if (N > 7 && V == 700) continue;
        Ints target = ids(N, V);
        Doubles weight = doubles(N);
        for (int i = 0; i < N; i++) { weight.f[i] = i % 3 ? 0.5 + i : 0; if (target.f[i] == excluded) target.f[i] = 2; }
        Array *loss = array(1), *row_loss = array((size_t)N), *lse = array((size_t)N), *logits = array((size_t)(N*V));
        #define A(p) (loss->p, row_loss->p, lse->p, logits->p, target.p, weight.p, 0.01, excluded, N, V)
        CASE_F(cross_entropy_forward, 1e-6);
        if (N == 7) for (int i = 0; i < N*V; i += 1 + N*V / (25*PLACES)) FOR_BODIES(body) {   // read: all but rows of weight 0 and the excluded entry
            restore();
            logits->f[i] = NAN;
            RUN_F(cross_entropy_forward, body);
            CHECK(isnan(*loss->f) == (weight.f[i / V] != 0 && i % V != excluded), "cross_entropy_forward_%s: NaN at %d", body_name[body], i);
        }
        #undef A
        drop_arrays();
    }
}
static void parity_cross_entropy_backward(void) {
    FOR_SIZES(N) FOR_VOCABULARIES(V) for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) {
        if (N > 7 && V == 700) continue;
        Ints target = ids(N, V);
        Doubles weight = doubles(N);
        for (int i = 0; i < N; i++) weight.f[i] = i % 3 ? 0.5 + i : 0;
        Array *logits = array((size_t)(N*V)), *dloss = array(1), *lse = array((size_t)N);
        #define A(p) (logits->p, dloss->p, lse->p, target.p, weight.p, 0.01, excluded, N, V)
        CASE_F(cross_entropy_backward, 1e-6);
        if (excluded < 0 && N == 7 && V == 7) { weight.f[0] = weight.f[3] = weight.f[6] = 1; NAN_REACHES_F(cross_entropy_backward, 1); }
        #undef A
        drop_arrays();
    }
}

// p is double in both precisions. Logits: all different; few values, so many ties; all equal. -inf is a logit of probability 0
static void parity_softmax_nucleus(void) {
    static const double tops[] = {0, 0.3 + 1e-9, 0.9 + 1e-9, 1};        // no running total lies on one of them
    FOR_SIZES(N) FOR_VOCABULARIES(V)
    for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) for (int form = 0; form < 3; form++) for (int t = 0; t < 4; t++) {
        if (N > 7 && V == 700) continue;
        if (ORDERS > 1 && (N > 7 ? N > 32 || V != 33 || form != 1 : V == 32 || V == 130 || excluded == 1)) continue;      // an emulated device takes its time
        int n = N*V;
        Doubles p = doubles(n + 2*GUARD);
        double *want = malloc((size_t)n * sizeof(double)), *first = malloc((size_t)n * sizeof(double)), mark = -7;
        Array *logits = array((size_t)n);
        for (int i = 0; i < n; i++) {
            float x = form == 0 ? 6 * logits->f[i] : form == 1 ? floorf(4 * logits->f[i]) : 1;
            if (form == 1 && i % 5 == 3 && V > 2) x = -INFINITY;
            logits->d[i] = logits->d0[i] = logits->start[i] = x;
        }
        #define A(q) (p.q + GUARD, logits->q, tops[t], excluded, N, V)
        restore();
        softmax_nucleus_f64 A(d);
        memcpy(want, p.f + GUARD, (size_t)n * sizeof(double));
        for (int order = 0; order < ORDERS; order++) {
            for (int i = 0; i < n + 2*GUARD; i++) p.f[i] = mark;
            cuda_emu_order(order);
            RUN_K(softmax_nucleus), fixed_from_device(p.f);
            judge("softmax_nucleus", body_name[0], order, 0);
            for (int i = 0; i < GUARD; i++) CHECK(p.f[i] == mark && p.f[GUARD + n + i] == mark, "softmax_nucleus_%s writes outside of p", body_name[0]);
            if (order == 0) memcpy(first, p.f + GUARD, (size_t)n * sizeof(double));
            else CHECK(!memcmp(first, p.f + GUARD, (size_t)n * sizeof(double)), "softmax_nucleus_%s: other bits in order %d", body_name[0], order);
        }
        cuda_emu_order(0);
        for (int i = 0; i < N; i++) {
            const double *p_i = p.f + GUARD + i*V, *want_i = want + i*V;
            double sum = 0, worst = 0;
            int kept = 0, others = 0, impossible = 0;
            for (int v = 0; v < V; v++) {
                double diff = fabs(p_i[v] - want_i[v]);
                worst = diff <= worst ? worst : diff;
                sum += p_i[v], kept += p_i[v] > 0, others += (p_i[v] > 0) != (want_i[v] > 0);
                impossible += p_i[v] != 0 && (v == excluded || logits->f[i*V + v] == -INFINITY);
            }
            CHECK(worst <= 1e-12 && others == 0 && impossible == 0, "softmax_nucleus_%s: %g; %d tokens are in or out otherwise, %d impossible ones are in", body_name[0], worst, others, impossible);
            CHECK(fabs(sum - 1) <= 1e-12 && (t > 0 || kept == 1), "softmax_nucleus_%s: %d tokens of total %g", body_name[0], kept, sum);
            int may = V - (excluded >= 0), least = (int)(tops[t] * may);
            if (form == 2) CHECK(kept == (least > 1 ? least : 1) && p_i[excluded == 0] > 0, "softmax_nucleus_%s: %d of %d equal ones", body_name[0], kept, may);
        }
        for (int i = 0; N == 7 && (ORDERS == 1 || (form == 0 && excluded == 0)) && i < n; i += 1 + n/PLACES) {   // a NaN: all of its row, and no other; not at the excluded entry
            restore();
            logits->f[i] = NAN;
            RUN_K(softmax_nucleus), fixed_from_device(p.f);
            bool reaches = i % V != excluded, right = true;
            for (int j = 0; j < n; j++) right = right && (reaches && j / V == i / V ? isnan(p.f[GUARD + j]) : fabs(p.f[GUARD + j] - want[j]) <= 1e-12);
            CHECK(right, "softmax_nucleus_%s: NaN at %d", body_name[0], i);
        }
        #undef A
        drop_arrays(), free(want), free(first);
    }
}
// p in steps of 2^-20, so that sums are exact in any order, and u also on their edges
static void parity_categorical(void) {
    FOR_SIZES(N) FOR_VOCABULARIES(V) for (int form = 0; form < 3; form++) {   // some impossible; one certain; a total below 1, the last impossible
        int n = N*V;
        Doubles p = doubles(n), u = doubles(N);
        Ints drawn = ints(N + 2);
        double unit = 0x1p-20;
        int *right = malloc((size_t)N * sizeof(int));
        for (int i = 0; i < N; i++) {
            double *p_i = p.f + i*V;
            int left = 1 << 20, sum = 0, last = 0, certain = random_below(V);
            for (int v = 0; v < V; v++) {
                int share = form == 1 ? (v == certain) << 20 : v == V - 1 && form == 0 ? left : random_below(1 + (left < 40000 ? left : 40000));
                if ((form == 0 && v % 3 == 1 && v < V - 1) || (form == 2 && v && v == V - 1)) share = 0;
                p_i[v] = share * unit, left -= share;
            }
            unsigned x = philox(3, 4, draws++).w[0] >> 12;              // on an edge or just below one
            u.f[i] = i % 3 == 0 ? x * unit : i % 3 == 1 ? (x + 1) * unit - 0x1p-53 : i % 2 ? 0 : 1 - 0x1p-53;
            if (i % 5 == 4) for (int v = 0; v <= certain; v++) u.f[i] = v ? u.f[i] + p_i[v] : p_i[v];
            if (u.f[i] >= 1) u.f[i] = 0.5;
            right[i] = -1;
            for (int v = 0; v < V; v++) {
                sum += (int)(p_i[v] / unit);
                if (p_i[v] > 0) last = v;
                if (right[i] < 0 && u.f[i] < sum * unit) right[i] = v;
            }
            if (right[i] < 0) right[i] = last;
        }
        #define A(q) (drawn.q + 1, p.q, u.q, N, V)
        categorical_f64 A(d);
        for (int i = 0; i < N; i++) CHECK(drawn.f[i + 1] == right[i], "categorical_f64: %d, not %d, at %g", drawn.f[i + 1], right[i], u.f[i]);
        for (int order = 0; order < ORDERS; order++) {
            for (int i = 0; i < N + 2; i++) drawn.f[i] = -7;
            cuda_emu_order(order);
            RUN_K(categorical), fixed_from_device(drawn.f);
            CHECK(drawn.f[0] == -7 && drawn.f[N + 1] == -7, "categorical_%s writes outside of drawn", body_name[0]);
            for (int i = 0; i < N; i++) CHECK(drawn.f[i + 1] == right[i], "categorical_%s: %d, not %d, at %g", body_name[0], drawn.f[i + 1], right[i], u.f[i]);
        }
        cuda_emu_order(0);
        for (int i = 0; i < n; i++) p.f[i] = NAN;                      // no number is right, but it must be one of the ids
        RUN_K(categorical), fixed_from_device(drawn.f);
        for (int i = 0; i < N; i++) CHECK(drawn.f[i + 1] >= 0 && drawn.f[i + 1] < V, "categorical_%s: %d of NaN", body_name[0], drawn.f[i + 1]);
        #undef A
        drop_arrays(), free(right);
    }
}

static void parity_sum_squares(void) {
    for (int n = 1; n <= 70000; n = n*7 + 1) {
        Array *x = array((size_t)n);
        Doubles out = doubles(1);
        double want;
        sum_squares_f64(&want, x->d, (size_t)n);
        #define A(p) (out.p, x->p, (size_t)n)
        for (int order = 0; order < ORDERS; order++) {
            static double first;
            cuda_emu_order(order);
            RUN_K(sum_squares), fixed_from_device(out.f);
            double got = *out.f;
            CHECK_CLOSE("sum_squares", got, want, 1e-12 * want);
            if (order == 0) first = got; else CHECK(!memcmp(&first, &got, sizeof got), "sum_squares: other bits in order %d", order);
        }
        cuda_emu_order(0);
        for (int i = 0; i < n; i += 1 + n/20) { restore(); x->f[i] = NAN; RUN_K(sum_squares), fixed_from_device(out.f); CHECK(isnan(*out.f), "sum_squares: NaN at %d", i); }
        #undef A
        drop_arrays();
    }
}
static void parity_adamw(void) {
    FOR_SIZES(n) for (int form = 0; form < 3; form++) {                // not clipped, at a later step; clipped, at the first; too small to be clipped
        Doubles norm2 = doubles(1);
        *norm2.f = form == 2 ? 0.04 : n == 7 ? 1e50 : 4;              // a norm whose square is beyond float
        AdamW a = {0.1, 0.9, 0.99, 1e-8, 0.1, form ? 1 : 0, 0.5, form == 1 ? 1 : 7};
        Array *param = array((size_t)n), *m = array((size_t)n), *v = array((size_t)n), *ema = array((size_t)n), *grad = array((size_t)n);
        for (int i = 0; i < n; i++) v->start[i] = fabsf(v->start[i]), v->d0[i] = v->start[i];
        #define A(p) (param->p, m->p, v->p, ema->p, grad->p, norm2.p, (size_t)n, a)
        CASE_K(adamw, 2e-6);
        if (n == 33) NAN_REACHES_K(adamw, 4);
        #undef A
        drop_arrays();
    }
}

#ifndef WITH_CUDA
// sums over runs of rows: the same bits for any number of threads, also where a group goes on from one run into the next
static void test_threads(void) {
#ifdef _OPENMP
    enum { N = 500, C = 96, G = 7, heads = 3, HS = C / heads };
    int most = omp_get_max_threads();
    Ints group = ints(N), position = ids(N, 6), pair = partners(HS, 2);
    for (int n = 0; n < N; n++) group.f[n] = n % 9 ? n * G / N : -1;
    Array *dx = array(N*C), *dweight = array(C), *dmod = array(G*2*C), *dout = array(N*C), *x = array(N*C), *mean = array(N), *rstd = array(N*heads), *weight = array(C), *mod = array(G*2*C),
          *cosine = array(6*HS), *sine = array(6*HS);
    for (int threads = 1; threads <= 5; threads += 2) {
        omp_set_num_threads(threads);
        restore_floats();
        norm_modulate_backward_fast(dx->f, dweight->f, dmod->f, dmod->f + C, dout->f, x->f, mean->f, rstd->f, weight->f, mod->f + C, group.f, N, C, G, 2*C);
        head_norm_backward_fast(dout->f, dweight->f, x->f, rstd->f, weight->f, cosine->f, sine->f, position.f, pair.f, N, C, heads, HS);
        for (int k = 0; k < n_made; k++) {
            if (threads == 1) memcpy(made[k].first, made[k].f, made[k].n * sizeof(float));
            CHECK(!memcmp(made[k].first, made[k].f, made[k].n * sizeof(float)), "norm backward: array %d has other bits with %d threads", k, threads);
        }
    }
    omp_set_num_threads(most);
    drop_arrays();
#endif
}

// vexp: relative error <= 2e-7 over the whole range, the ends, NaN
static void test_vexp(void) {
    double worst = 0;
    for (int i = 0; i < 2000000; i++) {
        float x = -87 + 175.0f * (float)i / 2000000;
        vec y = vexp((vec){0} + x);
        double diff = fabs((double)y[0] / exp((double)x) - 1);
        worst = diff <= worst ? worst : diff;
    }
    CHECK(worst <= 2e-7, "vexp: relative error %g", worst);
    vec low = vexp((vec){0} - 1000.0f), minus = vexp((vec){0} - INFINITY), nan = vexp((vec){0} + NAN);
    CHECK(low[0] == 0 && minus[0] == 0 && isnan(nan[0]) && isnan(nan[VW - 1]), "vexp at the ends: %g %g %g", low[0], minus[0], nan[0]);
}

#else
static void failed(const char *line) { printf("%s\n", line); exit(1); }

// Uploads one after the other, more than the staging memory holds, one larger than it, and each from a buffer that is used again at once
static void test_transfers(void) {
    enum { SIZE = 9 << 20, N = 5, LARGE = 40 << 20 };
    unsigned char *host = malloc(LARGE), *device[N], *large = cuda_allocate(LARGE);
    for (int i = 0; i < N; i++) device[i] = cuda_allocate(SIZE), memset(host, i + 1, SIZE), cuda_upload(device[i], host, SIZE);
    memset(host, 99, LARGE), cuda_upload(large, host, LARGE), memset(host, 0, LARGE);
    for (int i = 0; i < N; i++) {
        cuda_download(host, device[i], SIZE);
        bool right = true;
        for (int j = 0; j < SIZE; j++) right = right && host[j] == i + 1;
        CHECK(right, "upload %d arrives as something else", i);
    }
    cuda_download(host, large, LARGE);
    CHECK(host[0] == 99 && host[LARGE - 1] == 99, "a large upload: %d %d", host[0], host[LARGE - 1]);
    cuda_upload(large, host, 0), cuda_download(host, large, 0);
    for (int i = 0; i < N; i++) cuda_release(device[i]);
    cuda_release(large), free(host);
}
#endif

#define LOAD(name, params, args) *(void **)&name##_f64 = dlsym(oracle, #name "_cpu");
#define RUN(name, params, args) if (argc < 3 || !strcmp(argv[2], #name)) { int before = checks_passed + checks_failed; parity_##name(); CHECK(checks_passed + checks_failed > before, "parity_" #name " checks nothing"); }
// parity ORACLE.so [KERNEL]
int main(int argc, char **argv) {
    void *oracle = dlopen(argc > 1 ? argv[1] : "build/cpu64.so", RTLD_NOW | RTLD_LOCAL);
    if (!oracle) { puts(dlerror()); return 1; }
    uint32_t bits = 0x7FC0BEEF;                          // a NaN that no arithmetic makes
    memcpy(&sentinel, &bits, 4);
#ifdef WITH_CUDA
    char device[256];
    cuda_open(failed, device, sizeof device);
    printf("%s\n", device);
#endif
    KERNELS(LOAD, LOAD)
    KERNELS(RUN, RUN)
#ifndef WITH_CUDA
    test_vexp(), test_threads();
#else
    if (argc < 3) test_transfers();
#endif
    return finish("parity");
}
