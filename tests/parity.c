// parity.c: every body of every kernel against the oracle, which is cpu_kernels.c itself built in double as a shared object (build/cpu64.so).
// A kernel of kernels.h without a parity_<name> here does not link. Ragged sizes; sentinels around every array; inputs must come out unchanged;
// a NaN in anything that a kernel reads must reach an output, and what it does not read must not.
#define _GNU_SOURCE
#include "../cpu_fast.c"        // brings: the fast bodies, and vexp() for its own test
#include "check.h"
#include <dlfcn.h>

#undef real
#define real double
#define POINTER(name, params, args) static void (*name##_f64) params;
KERNELS(POINTER, POINTER)
#undef real
#define real float

// ---- arrays in both precisions ---------------------------------------------------------------------------------------------------
enum { GUARD = 64, MAX_ARRAYS = 64 };
typedef struct Array { float *f, *start; double *d, *d0; size_t n; } Array;
static Array made[MAX_ARRAYS];
static int n_made;
static uint64_t draws;
static float sentinel;

// n numbers in [-1,1), the same in float and double, between guards
static Array *array(size_t n) {
    Array *a = &made[n_made++];
    float *whole = malloc((n + 2*GUARD) * sizeof(float));
    *a = (Array){.f = whole + GUARD, .start = malloc((n + 1) * sizeof(float)), .d = malloc((n + 1) * sizeof(double)), .d0 = malloc((n + 1) * sizeof(double)), .n = n};
    for (size_t i = 0; i < n + 2*GUARD; i++) whole[i] = sentinel;
    for (size_t i = 0; i < n; i++) {
        float x = (float)((int)(philox(1, 2, draws++).w[0] >> 8) - (1 << 23)) / (1 << 23);
        a->f[i] = a->start[i] = x, a->d[i] = a->d0[i] = x;
    }
    return a;
}
static void restore(void) { for (int k = 0; k < n_made; k++) memcpy(made[k].f, made[k].start, made[k].n * sizeof(float)), memcpy(made[k].d, made[k].d0, made[k].n * sizeof(double)); }
static void drop_arrays(void) {
    for (int k = 0; k < n_made; k++) free(made[k].f - GUARD), free(made[k].start), free(made[k].d), free(made[k].d0);
    n_made = 0;
}

// all arrays against the oracle's: |f - d| <= tol * max(1, largest |d|); -inf equals -inf
static void judge(const char *kernel, const char *body, double tol) {
    for (int k = 0; k < n_made; k++) {
        const Array *a = &made[k];
        double largest = 1, worst = 0;
        for (size_t i = 0; i < a->n; i++) if (isfinite(a->d[i])) largest = fmax(largest, fabs(a->d[i]));
        for (size_t i = 0; i < a->n; i++) {
            double diff = (double)a->f[i] == a->d[i] ? 0 : fabs((double)a->f[i] - a->d[i]);
            worst = diff <= worst ? worst : diff;
        }
        CHECK(worst <= tol * largest, "%s_%s, array %d: %g of %g", kernel, body, k, worst, largest);
        bool whole = true;
        for (int i = 1; i <= GUARD; i++) whole = whole && !memcmp(a->f - i, &sentinel, 4) && !memcmp(a->f + a->n + i - 1, &sentinel, 4);
        CHECK(whole, "%s_%s writes outside of array %d", kernel, body, k);
    }
}

static bool any_nan(void) { for (int k = 0; k < n_made; k++) for (size_t i = 0; i < made[k].n; i++) if (isnan(made[k].f[i])) return true; return false; }

// `outputs` arrays were made first; a NaN at any sampled place of any later array must reach one of them
#define NAN_REACHES(kernel, body, call, outputs) do { \
    for (int k_ = outputs; k_ < n_made; k_++) for (size_t i_ = 0; i_ < made[k_].n; i_ += 1 + made[k_].n / 40) { \
        restore(); made[k_].f[i_] = NAN; kernel##_##body call; \
        float keep_ = made[k_].f[i_]; made[k_].f[i_] = 0; \
        CHECK(any_nan(), #kernel "_" #body ": a NaN in array %d at %zu is lost", k_, i_); made[k_].f[i_] = keep_; } \
    restore(); } while (0)

// one case: oracle, plain (and fast), with A(p) the arguments in precision p
#define CASE_K(kernel, tol) do { restore(); kernel##_f64 A(d); kernel##_cpu A(f); judge(#kernel, "cpu", tol); } while (0)
#define CASE_F(kernel, tol) do { CASE_K(kernel, tol); for (int k_ = 0; k_ < n_made; k_++) memcpy(made[k_].f, made[k_].start, made[k_].n * sizeof(float)); \
                                 kernel##_fast A(f); judge(#kernel, "fast", tol); } while (0)

static const int sizes[] = {1, 7, 32, 33, 130};
#define FOR_SIZES(x) for (int x##_ = 0, x = 1; x##_ < 5 && (x = sizes[x##_]); x##_++)

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

static int *ids(int n, int below) { int *id = malloc((size_t)n * sizeof(int)); for (int i = 0; i < n; i++) id[i] = (int)(philox(3, 4, draws++).w[0] % (unsigned)below); return id; }

static void parity_embedding_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        int *id = ids(N, 9);
        Array *out = array((size_t)(N*C)), *weight = array((size_t)(9*C));
        #define A(p) (out->p, weight->p, id, N, C)
        CASE_K(embedding_forward, 0);
        #undef A
        drop_arrays(), free(id);
    }
}
static void parity_embedding_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        int *id = ids(N, 9);
        Array *dweight = array((size_t)(9*C)), *dout = array((size_t)(N*C));
        #define A(p) (dweight->p, dout->p, id, N, C)
        CASE_K(embedding_backward, 1e-6);
        if (N == 7 && C == 7) NAN_REACHES(embedding_backward, cpu, A(f), 1);
        #undef A
        drop_arrays(), free(id);
    }
}
static void parity_level_embedding(void) {
    double level[] = {0, 0.7, 999};
    for (int F = 2; F <= 256; F = F*3/2 + 1) {
        Array *out = array((size_t)(3*F));
        #define A(p) (out->p, level, 3, F)
        CASE_K(level_embedding, 1e-6);
        #undef A
        drop_arrays();
    }
}

static void parity_linear_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (int act = LINEAR_ONLY; act <= SILU; act++) for (int form = 0; form < 3; form++) for (Precision how = FP32; how <= (form ? FP32 : BF16); how++) {
        Array *out = array((size_t)(N*OC)), *pre = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC);
        #define A(p) (out->p, form == 1 ? NULL : pre->p, inp->p, weight->p, form == 2 ? NULL : bias->p, N, C, OC, act, how)
        CASE_F(linear_forward, 2e-6);
        if (!form && N >= 7 && N <= 33 && C <= 7 && OC <= 7) { NAN_REACHES(linear_forward, cpu, A(f), 2); NAN_REACHES(linear_forward, fast, A(f), 2); }
        #undef A
        drop_arrays();
    }
    // the numbers of rows for which the weights are read as they are, and the first beyond; short and long rows
    static const int few[] = {2, 3, 4, 5, 8, 9, 15, 16, 17}, width[] = {1, 7, 33, 3072}, columns[] = {1, 7, 33};
    for (int i = 0; i < 9; i++) for (int j = 0; j < 4; j++) for (int k = 0; k < 3; k++) {
        int N = few[i], C = width[j], OC = columns[k];
        Array *out = array((size_t)(N*OC)), *inp = array((size_t)(N*C)), *weight = array((size_t)(OC*C)), *bias = array((size_t)OC);
        #define A(p) (out->p, NULL, inp->p, weight->p, bias->p, N, C, OC, LINEAR_ONLY, FP32)
        CASE_F(linear_forward, C > 1000 ? 4e-6 : 2e-6);       // the plain body sums in one chain, where nothing may be reordered
        if (C <= 7 && OC <= 7) NAN_REACHES(linear_forward, fast, A(f), 1);
        #undef A
        drop_arrays();
    }
    enum { N = 500, C = 1601, OC = 37 };                // more than one panel in every direction
    for (Precision how = FP32; how <= BF16; how++) {
        Array *out = array(N*OC), *pre = array(N*OC), *inp = array(N*C), *weight = array(OC*C), *bias = array(OC);
        #define A(p) (out->p, pre->p, inp->p, weight->p, bias->p, N, C, OC, GELU, how)
        CASE_F(linear_forward, 2e-6);
        #undef A
        drop_arrays();
    }
    for (Precision how = FP32; how <= BF16; how++) {    // no rows at all: a batch in which nothing is masked
        Array *out = array(1), *inp = array(1), *weight = array(5 * 7), *dweight = array(5 * 7);
        linear_forward_fast(out->f, NULL, inp->f, weight->f, NULL, 0, 7, 5, LINEAR_ONLY, how);
        linear_backward_inp_fast(inp->f, out->f, weight->f, 0, 7, 5, how);
        linear_backward_weight_fast(dweight->f, NULL, out->f, inp->f, 0, 7, 5, how);
        judge("linear, no rows", "fast", 0);            // the oracle's arrays were left alone: so must these
        drop_arrays();
    }
}
static void parity_linear_backward_inp(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (Precision how = FP32; how <= BF16; how++) {
        Array *dinp = array((size_t)(N*C)), *dpre = array((size_t)(N*OC)), *weight = array((size_t)(OC*C));
        #define A(p) (dinp->p, dpre->p, weight->p, N, C, OC, how)
        CASE_F(linear_backward_inp, 2e-6);
        if (N == 7 && C <= 7 && OC == 7) { NAN_REACHES(linear_backward_inp, cpu, A(f), 1); NAN_REACHES(linear_backward_inp, fast, A(f), 1); }
        #undef A
        drop_arrays();
    }
}
static void parity_linear_backward_weight(void) {
    FOR_SIZES(N) FOR_SIZES(C) FOR_SIZES(OC) for (int bias = 0; bias < 2; bias++) for (Precision how = FP32; how <= BF16; how++) {
        Array *dweight = array((size_t)(OC*C)), *dbias = array((size_t)OC), *dpre = array((size_t)(N*OC)), *inp = array((size_t)(N*C));
        #define A(p) (dweight->p, bias ? dbias->p : NULL, dpre->p, inp->p, N, C, OC, how)
        CASE_F(linear_backward_weight, 4e-6);
        if (N == 7 && C <= 7 && OC == 7) { NAN_REACHES(linear_backward_weight, cpu, A(f), 2); NAN_REACHES(linear_backward_weight, fast, A(f), 2); }
        #undef A
        drop_arrays();
    }
}
static void parity_activation_forward(void) {
    FOR_SIZES(n) for (int act = LINEAR_ONLY; act <= SILU; act++) {
        Array *out = array((size_t)n), *pre = array((size_t)n);
        for (size_t i = 0; i < pre->n; i++) pre->d0[i] = pre->start[i] *= 6;
        #define A(p) (out->p, pre->p, out->n, act)
        CASE_F(activation_forward, 1e-6);
        NAN_REACHES(activation_forward, cpu, A(f), 1); NAN_REACHES(activation_forward, fast, A(f), 1);
        #undef A
        drop_arrays();
    }
}
static void parity_activation_backward(void) {
    FOR_SIZES(n) for (int act = LINEAR_ONLY; act <= SILU; act++) {
        Array *d = array((size_t)n), *pre = array((size_t)n);
        for (int i = 0; i < n; i++) pre->start[i] *= 12, pre->d0[i] = pre->start[i];
        #define A(p) (d->p, pre->p, (size_t)n, act)
        CASE_F(activation_backward, 2e-6);
        if (act) { NAN_REACHES(activation_backward, cpu, A(f), 1); NAN_REACHES(activation_backward, fast, A(f), 1); }
        #undef A
        drop_arrays();
    }
}

static int *groups(int n, int form) { int *g = ids(n, 4); for (int i = 0; i < n; i++) g[i] = g[i] - 1; if (form) return g; free(g); return NULL; }   // -1, 0, 1, 2

static void parity_norm_modulate_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {
        int *group = groups(N, form == 2), ld = 2*C + 3;
        Array *out = array((size_t)(N*C)), *mean = array((size_t)N), *rstd = array((size_t)N), *x = array((size_t)(N*C)), *weight = array((size_t)C), *mod = array((size_t)(3*ld));
        #define A(p) (out->p, mean->p, rstd->p, x->p, weight->p, form ? mod->p : NULL, form ? mod->p + C + 1 : NULL, group, 1e-3, N, C, ld)
        CASE_K(norm_modulate_forward, 2e-5);
        if (!form && N == 7 && C == 7) { n_made--; NAN_REACHES(norm_modulate_forward, cpu, A(f), 3); n_made++; }
        #undef A
        drop_arrays(), free(group);
    }
}
static void parity_norm_modulate_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {
        int *group = groups(N, form == 2), ld = 2*C + 3;
        Array *dx = array((size_t)(N*C)), *dweight = array((size_t)C), *dmod = array((size_t)(3*ld)), *dout = array((size_t)(N*C)), *x = array((size_t)(N*C)),
              *mean = array((size_t)N), *rstd = array((size_t)N), *weight = array((size_t)C), *mod = array((size_t)(3*ld));
        #define A(p) (dx->p, dweight->p, form ? dmod->p : NULL, form ? dmod->p + C + 1 : NULL, dout->p, x->p, mean->p, rstd->p, weight->p, form ? mod->p + C + 1 : NULL, group, N, C, ld)
        CASE_K(norm_modulate_backward, 2e-6);
        if (!form && N == 7 && C == 7) { n_made--; NAN_REACHES(norm_modulate_backward, cpu, A(f), 3); n_made++; }
        #undef A
        drop_arrays(), free(group);
    }
}

static int *half_split(int HS) { int *pair = malloc((size_t)HS * sizeof(int)), half = HS/2; for (int i = 0; i < HS; i++) pair[i] = i < half ? i + half : i < 2*half ? i - half : -1; return pair; }

static void parity_rope_forward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 2; heads++) {
        int *pair = half_split(HS), *position = ids(N, 6), ld = heads*HS + 3;
        Array *x = array((size_t)(N*ld)), *cosine = array((size_t)(6*HS)), *sine = array((size_t)(6*HS));
        #define A(p) (x->p, cosine->p, sine->p, position, pair, N, ld, heads, HS)
        CASE_K(rope_forward, 1e-6);
        #undef A
        drop_arrays(), free(pair), free(position);
    }
}
static void parity_rope_backward(void) {
    FOR_SIZES(N) FOR_SIZES(HS) for (int heads = 1; heads <= 2; heads++) {
        int *pair = half_split(HS), *position = ids(N, 6), ld = heads*HS + 3;
        Array *x = array((size_t)(N*ld)), *cosine = array((size_t)(6*HS)), *sine = array((size_t)(6*HS));
        #define A(p) (x->p, cosine->p, sine->p, position, pair, N, ld, heads, HS)
        CASE_K(rope_backward, 1e-6);
        #undef A
        drop_arrays(), free(pair), free(position);
    }
}

// Random spans over [0, Tk): empty ones, one interval, two, runs of `block` equal rows (block diffusion); block 64: two distant intervals as
// in block diffusion where Tq = Tk, otherwise three sequences side by side, of which each row sees its own up to itself.
static Span *spans(int Tq, int Tk, int block) {
    Span *s = malloc((size_t)Tq * sizeof *s);
    for (int t = 0; t < Tq; t++) {
        if (block == 64 && Tq == Tk) {
            int T = 3*Tk / 4, start = t % (Tk - T + 1) / 4 * 4, end = start + 4;
            s[t] = (Span){.lo = {start, T}, .hi = {min(end, T), min(T + start, Tk)}};
            continue;
        }
        if (block == 64) { int i = 3*t / Tq, first = i*Tk / 3; s[t] = (Span){.lo = {first}, .hi = {min((i + 1)*Tk / 3, first + 1 + t)}}; continue; }
        int *r = ids(4, Tk + 1), a = min(r[0], r[1]), b = r[0] + r[1] - a, c = min(r[2], r[3]), e = r[2] + r[3] - c;
        s[t] = t % block ? s[t - 1] : a == 0 && e > 2 ? (Span){.lo = {0, 0}, .hi = {0, 0}} : b <= c ? (Span){{a, c}, {b, e}} : (Span){{a, 0}, {b, 0}};
        free(r);
    }
    return s;
}
static bool in_span(const Span *s, int j) { return (j >= s->lo[0] && j < s->hi[0]) || (j >= s->lo[1] && j < s->hi[1]); }

// q, k, v are columns of wider rows, as in qkv and in the cache
#define FOR_ATTENTION FOR_SIZES(Tq) FOR_SIZES(Tk) for (int HS = 1; HS <= 40; HS = HS == 1 ? 5 : HS == 5 ? 16 : HS == 16 ? 40 : 99) for (int block = 1; block <= 64; block *= 4)
enum { AB = 2, NH = 2 };

// |got - want| / |want| over all of an array
static double distance(const float *got, const double *want, size_t n) {
    double diff = 0, size = 0;
    for (size_t i = 0; i < n; i++) diff += (got[i] - want[i]) * (got[i] - want[i]), size += want[i] * want[i];
    return sqrt(diff / size);
}

// BF16: a weight near the middle between two bfloat16 numbers may go either way, so single elements are judged loosely, and the whole closely
static const double element_tol[] = {2e-6, 8e-3};

static void parity_attention_forward(void) {
    for (Precision how = FP32; how <= BF16; how++) FOR_ATTENTION {
        if (how == BF16 && block != 4 && block != 64) continue;
        int C = NH*HS, ldq = C + 3, ldkv = 2*C + 1;
        Span *span = spans(Tq, Tk, block);
        Array *out = array((size_t)(AB*Tq*C)), *lse = array((size_t)(AB*NH*Tq)), *q = array((size_t)(AB*Tq*ldq)), *kv = array((size_t)(AB*Tk*ldkv));
        #define A(p) (out->p, lse->p, q->p, kv->p, kv->p + C, span, AB, Tq, Tk, NH, HS, ldq, ldkv, how)
        CASE_F(attention_forward, element_tol[how]);
        if (how == BF16 && Tq == 130 && Tk == 130 && HS >= 16) {
            attention_forward_f64 A(d), attention_forward_fast A(f);
            double d = distance(out->f, out->d, out->n);
            CHECK(d <= 3e-4, "attention_forward_fast, bf16: %g", d);
            how = FP32, attention_forward_f64 A(d), how = BF16;
            d = distance(out->f, out->d, out->n);
            CHECK(d >= 1e-3, "attention_forward_fast, bf16, does not round: %g", d);
        }
        if (how == FP32 && HS == 5 && Tq <= 33 && Tk <= 33 && (Tq == 7 || Tk == 7)) for (int fast = 0; fast < 2; fast++) {
            restore();
            if (fast) attention_forward_fast A(f); else attention_forward_cpu A(f);
            float *clean = malloc(out->n * sizeof(float));
            memcpy(clean, out->f, out->n * sizeof(float));
            for (int j = 0; j < Tk; j++) for (int part = 0; part < 2; part++) for (int nan = 0; nan < 2; nan++) {
                // in k, then v, of key j, another number, then NaN: reaches the rows that see it, and no other. (A NaN in v may reach other rows, but not from behind the last key that is seen.)
                restore();
                kv->f[(size_t)j*ldkv + part*C] = nan ? NAN : 3e4f;
                if (fast) attention_forward_fast A(f); else attention_forward_cpu A(f);
                bool among = false;
                for (int t = 0; t < Tq; t++) for (int p = 0; p < 2; p++) among = among || (span[t].hi[p] > span[t].lo[p] && span[t].hi[p] > j);
                for (int t = 0; t < Tq; t++) {
                    bool reached = nan ? isnan(out->f[t*C]) : true, same = !memcmp(out->f + t*C, clean + t*C, (size_t)C * sizeof(float));
                    if (in_span(span + t, j)) CHECK(reached, "attention_forward_%s: NaN in %c %d, row %d", fast ? "fast" : "cpu", "kv"[part], j, t);
                    else if (!nan || !part || !fast || !among) CHECK(same, "attention_forward_%s: %c %d reaches row %d", fast ? "fast" : "cpu", "kv"[part], j, t);
                }
            }
            for (int t = 0; t < Tq; t++) {                                               // NaN in q of row t: reaches that row
                restore();
                q->f[(size_t)t*ldq] = NAN;
                if (fast) attention_forward_fast A(f); else attention_forward_cpu A(f);
                bool sees = span[t].hi[0] > span[t].lo[0] || span[t].hi[1] > span[t].lo[1];
                CHECK(isnan(out->f[t*C]) == sees, "attention_forward_%s: NaN in q, row %d", fast ? "fast" : "cpu", t);
            }
            free(clean);
            restore();
        }
        #undef A
        drop_arrays(), free(span);
    }
}
static void parity_attention_backward(void) {
    for (Precision how = FP32; how <= BF16; how++) FOR_ATTENTION {
        if (how == BF16 && block != 4 && block != 64) continue;
        int C = NH*HS, ldq = C + 3, ldkv = 2*C + 1;
        Span *span = spans(Tq, Tk, block);
        Array *dq = array((size_t)(AB*Tq*ldq)), *dkv = array((size_t)(AB*Tk*ldkv)), *dout = array((size_t)(AB*Tq*C)), *out = array((size_t)(AB*Tq*C)), *lse = array((size_t)(AB*NH*Tq)),
              *q = array((size_t)(AB*Tq*ldq)), *kv = array((size_t)(AB*Tk*ldkv));
        attention_forward_f64(out->d0, lse->d0, q->d, kv->d, kv->d + C, span, AB, Tq, Tk, NH, HS, ldq, ldkv, FP32);
        for (size_t i = 0; i < out->n; i++) out->d0[i] = out->start[i] = (float)out->d0[i];
        for (size_t i = 0; i < lse->n; i++) lse->d0[i] = lse->start[i] = (float)lse->d0[i];
        #define A(p) (dq->p, dkv->p, dkv->p + C, dout->p, out->p, lse->p, q->p, kv->p, kv->p + C, span, AB, Tq, Tk, NH, HS, ldq, ldkv, how)
        CASE_F(attention_backward, 2 * element_tol[how]);
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
        if (Tq == 7 && Tk == 33 && HS == 5) for (int fast = 0; fast < 2; fast++)
            for (int j = 0; j < Tk; j++) for (int part = 0; part < 2; part++) {          // NaN in k, then v, of key j: reaches dq of the rows that see it
                restore();
                if (fast) attention_backward_fast A(f); else attention_backward_cpu A(f);
                float clean[7];
                for (int t = 0; t < Tq; t++) clean[t] = dq->f[t*ldq];
                restore();
                kv->f[(size_t)j*ldkv + part*C] = NAN;
                if (fast) attention_backward_fast A(f); else attention_backward_cpu A(f);
                for (int t = 0; t < Tq; t++)
                    if (in_span(span + t, j)) CHECK(isnan(dq->f[t*ldq]), "attention_backward_%s: NaN in %c %d, row %d", fast ? "fast" : "cpu", "kv"[part], j, t);
                restore();
                kv->f[(size_t)j*ldkv + part*C] = 3e4f;                                   // another number: and no other row
                if (fast) attention_backward_fast A(f); else attention_backward_cpu A(f);
                for (int t = 0; t < Tq; t++)
                    if (!in_span(span + t, j)) CHECK(dq->f[t*ldq] == clean[t], "attention_backward_%s: %c %d reaches row %d", fast ? "fast" : "cpu", "kv"[part], j, t);
            }
        #undef A
        drop_arrays(), free(span);
    }
}

static void parity_gated_residual_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {
        int *group = groups(N, form == 2), ld = C + 3;
        Dropout drop = {form == 1 ? 0.3 : 0, 5, 6};
        Array *out = array((size_t)(N*C)), *x = array((size_t)(N*C)), *branch = array((size_t)(N*C)), *mod = array((size_t)(3*ld));
        #define A(p) (out->p, x->p, branch->p, form ? mod->p + 1 : NULL, group, drop, N, C, ld)
        CASE_K(gated_residual_forward, 1e-6);
        if (!form && N == 7 && C == 7) { n_made--; NAN_REACHES(gated_residual_forward, cpu, A(f), 1); n_made++; }
        #undef A
        drop_arrays(), free(group);
    }
    // what is dropped, and how much: the share p within five standard deviations, the rest scaled by 1/(1-p)
    enum { N = 100, C = 130 };
    Dropout drop = {0.3, 5, 6};
    Array *out = array(N*C), *x = array(N*C), *branch = array(N*C);
    for (int i = 0; i < N*C; i++) x->f[i] = 0, branch->f[i] = 1;
    gated_residual_forward_cpu(out->f, x->f, branch->f, NULL, NULL, drop, N, C, 0);
    int dropped = 0;
    for (int i = 0; i < N*C; i++) { dropped += out->f[i] == 0; if (out->f[i] != 0) CHECK_CLOSE("kept", out->f[i], 1 / 0.7, 1e-6); }
    CHECK_CLOSE("share dropped", dropped / (double)(N*C), 0.3, 5 * sqrt(0.3 * 0.7 / (N*C)));
    drop_arrays();
}
static void parity_gated_residual_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) for (int form = 0; form < 3; form++) {
        int *group = groups(N, form == 2), ld = C + 3;
        Dropout drop = {form == 1 ? 0.3 : 0, 5, 6};
        Array *dx = array((size_t)(N*C)), *dbranch = array((size_t)(N*C)), *dmod = array((size_t)(3*ld)), *dout = array((size_t)(N*C)), *branch = array((size_t)(N*C)), *mod = array((size_t)(3*ld));
        #define A(p) (dx->p, dbranch->p, form ? dmod->p + 1 : NULL, dout->p, branch->p, form ? mod->p + 1 : NULL, group, drop, N, C, ld)
        CASE_K(gated_residual_backward, 2e-6);
        #undef A
        drop_arrays(), free(group);
    }
}

static int *distinct(int n, int of) {                   // n different rows of `of`, shuffled
    int *row = malloc((size_t)of * sizeof(int));
    for (int i = 0; i < of; i++) row[i] = i;
    for (int i = 0; i < n; i++) { int j = i + (int)(philox(3, 4, draws++).w[0] % (unsigned)(of - i)), x = row[i]; row[i] = row[j], row[j] = x; }
    return row;
}
static void parity_gather_rows_forward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        int *row = distinct(N, N + 5);
        Array *out = array((size_t)(N*C)), *inp = array((size_t)((N + 5)*C));
        #define A(p) (out->p, inp->p, row, N, C)
        CASE_K(gather_rows_forward, 0);
        #undef A
        drop_arrays(), free(row);
    }
}
static void parity_gather_rows_backward(void) {
    FOR_SIZES(N) FOR_SIZES(C) {
        int *row = distinct(N, N + 5);
        Array *dinp = array((size_t)((N + 5)*C)), *dout = array((size_t)(N*C));
        #define A(p) (dinp->p, dout->p, row, N, C)
        CASE_K(gather_rows_backward, 1e-6);
        #undef A
        drop_arrays(), free(row);
    }
}
static void parity_store_rows(void) {
    FOR_SIZES(T) FOR_SIZES(C) {
        int W = T + 3, ld = C + 2;
        Array *out = array((size_t)(2*W*C)), *inp = array((size_t)(2*T*ld));
        #define A(p) (out->p, inp->p, 2, T, W, C, ld)
        CASE_K(store_rows, 0);
        #undef A
        drop_arrays();
    }
}

static void parity_cross_entropy_forward(void) {
    FOR_SIZES(N) FOR_SIZES(V) for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) {
        int *target = ids(N, V);
        double *weight = malloc((size_t)N * sizeof(double));
        for (int i = 0; i < N; i++) { weight[i] = i % 3 ? 0.5 + i : 0; if (target[i] == excluded) target[i] = 2; }
        Array *loss = array(1), *row_loss = array((size_t)N), *lse = array((size_t)N), *logits = array((size_t)(N*V));
        #define A(p) (loss->p, row_loss->p, lse->p, logits->p, target, weight, 0.01, excluded, N, V)
        CASE_F(cross_entropy_forward, 1e-6);
        if (N == 7) for (int i = 0; i < N*V; i++) for (int fast = 0; fast < 2; fast++) {   // read: all but rows of weight 0 and the excluded entry
            restore();
            logits->f[i] = NAN;
            if (fast) cross_entropy_forward_fast A(f); else cross_entropy_forward_cpu A(f);
            CHECK(isnan(*loss->f) == (weight[i / V] != 0 && i % V != excluded), "cross_entropy_forward_%s: NaN at %d", fast ? "fast" : "cpu", i);
        }
        #undef A
        drop_arrays(), free(target), free(weight);
    }
}
static void parity_cross_entropy_backward(void) {
    FOR_SIZES(N) FOR_SIZES(V) for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) {
        int *target = ids(N, V);
        double *weight = malloc((size_t)N * sizeof(double));
        for (int i = 0; i < N; i++) weight[i] = i % 3 ? 0.5 + i : 0;
        Array *logits = array((size_t)(N*V)), *dloss = array(1), *lse = array((size_t)N);
        #define A(p) (logits->p, dloss->p, lse->p, target, weight, 0.01, excluded, N, V)
        CASE_F(cross_entropy_backward, 1e-6);
        if (excluded < 0 && N == 7 && V == 7) { weight[0] = weight[3] = weight[6] = 1; NAN_REACHES(cross_entropy_backward, cpu, A(f), 1); NAN_REACHES(cross_entropy_backward, fast, A(f), 1); }
        #undef A
        drop_arrays(), free(target), free(weight);
    }
}

// p is double in both precisions. Logits: all different; few values, so many ties; all equal. -inf is a logit of probability 0
static void parity_softmax_nucleus(void) {
    static const double tops[] = {0, 0.3 + 1e-9, 0.9 + 1e-9, 1};        // no running total lies on one of them
    FOR_SIZES(N) FOR_SIZES(V) for (int excluded = -1; excluded < (V > 2 ? 2 : 0); excluded++) for (int form = 0; form < 3; form++) for (int t = 0; t < 4; t++) {
        size_t n = (size_t)(N*V);
        double *want = malloc(n * sizeof(double)), *whole = malloc((n + 2*GUARD) * sizeof(double)), *p = whole + GUARD, mark = -7;
        Array *logits = array(n);
        for (size_t i = 0; i < n; i++) {
            float x = form == 0 ? 6 * logits->f[i] : form == 1 ? floorf(4 * logits->f[i]) : 1;
            if (form == 1 && i % 5 == 3 && V > 2) x = -INFINITY;
            logits->d[i] = logits->d0[i] = logits->start[i] = x;
        }
        restore();
        for (size_t i = 0; i < n + 2*GUARD; i++) whole[i] = mark;
        softmax_nucleus_f64(want, logits->d, tops[t], excluded, N, V), softmax_nucleus_cpu(p, logits->f, tops[t], excluded, N, V);
        judge("softmax_nucleus", "cpu", 0);
        for (int i = 0; i < GUARD; i++) CHECK(whole[i] == mark && p[n + (size_t)i] == mark, "softmax_nucleus_cpu writes outside of p");
        for (int i = 0; i < N; i++) {
            const double *p_i = p + (size_t)i*(size_t)V, *want_i = want + (size_t)i*(size_t)V;
            double sum = 0, worst = 0;
            int kept = 0, others = 0, impossible = 0;
            for (int v = 0; v < V; v++) {
                double diff = fabs(p_i[v] - want_i[v]);
                worst = diff <= worst ? worst : diff;
                sum += p_i[v], kept += p_i[v] > 0, others += (p_i[v] > 0) != (want_i[v] > 0);
                impossible += p_i[v] != 0 && (v == excluded || logits->f[(size_t)i*(size_t)V + (size_t)v] == -INFINITY);
            }
            CHECK(worst <= 1e-12 && others == 0 && impossible == 0, "softmax_nucleus_cpu: %g; %d tokens are in or out otherwise, %d impossible ones are in", worst, others, impossible);
            CHECK(fabs(sum - 1) <= 1e-12 && (t > 0 || kept == 1), "softmax_nucleus_cpu: %d tokens of total %g", kept, sum);
            int may = V - (excluded >= 0), first = (int)(tops[t] * may);
            if (form == 2) CHECK(kept == (first > 1 ? first : 1) && p_i[excluded == 0] > 0, "softmax_nucleus_cpu: %d of %d equal ones", kept, may);
        }
        for (size_t i = 0; N == 7 && i < n; i += 1 + n/40) {           // a NaN: all of its row, and no other; not at the excluded entry
            restore();
            logits->f[i] = NAN;
            softmax_nucleus_cpu(p, logits->f, tops[t], excluded, N, V);
            bool reaches = (int)i % V != excluded, right = true;
            for (size_t j = 0; j < n; j++) right = right && (reaches && j / (size_t)V == i / (size_t)V ? isnan(p[j]) : fabs(p[j] - want[j]) <= 1e-12);
            CHECK(right, "softmax_nucleus_cpu: NaN at %zu", i);
        }
        drop_arrays(), free(want), free(whole);
    }
}
// p in steps of 2^-20, so that sums are exact in any order, and u also on their edges
static void parity_categorical(void) {
    FOR_SIZES(N) FOR_SIZES(V) for (int form = 0; form < 3; form++) {   // some impossible; one certain; a total below 1, the last impossible
        size_t n = (size_t)(N*V);
        double *p = malloc(n * sizeof(double)), *u = malloc((size_t)N * sizeof(double)), unit = 0x1p-20;
        int *drawn = malloc((size_t)(N + 2) * sizeof(int)), *want = malloc((size_t)N * sizeof(int)), *right = malloc((size_t)N * sizeof(int));
        for (int i = 0; i < N; i++) {
            double *p_i = p + (size_t)i*(size_t)V;
            int left = 1 << 20, sum = 0, last = 0, certain = (int)(philox(3, 4, draws++).w[0] % (unsigned)V);
            for (int v = 0; v < V; v++) {
                int share = form == 1 ? (v == certain) << 20 : v == V - 1 && form == 0 ? left : (int)(philox(3, 4, draws++).w[0] % (unsigned)(1 + (left < 40000 ? left : 40000)));
                if ((form == 0 && v % 3 == 1 && v < V - 1) || (form == 2 && v && v == V - 1)) share = 0;
                p_i[v] = share * unit, left -= share;
            }
            unsigned x = philox(3, 4, draws++).w[0] >> 12;              // on an edge or just below one
            u[i] = i % 3 == 0 ? x * unit : i % 3 == 1 ? (x + 1) * unit - 0x1p-53 : i % 2 ? 0 : 1 - 0x1p-53;
            if (i % 5 == 4) for (int v = 0; v <= certain; v++) u[i] = v ? u[i] + p_i[v] : p_i[v];
            if (u[i] >= 1) u[i] = 0.5;
            right[i] = -1;
            for (int v = 0; v < V; v++) {
                sum += (int)(p_i[v] / unit);
                if (p_i[v] > 0) last = v;
                if (right[i] < 0 && u[i] < sum * unit) right[i] = v;
            }
            if (right[i] < 0) right[i] = last;
        }
        drawn[0] = drawn[N + 1] = -7;
        categorical_f64(want, p, u, N, V), categorical_cpu(drawn + 1, p, u, N, V);
        CHECK(drawn[0] == -7 && drawn[N + 1] == -7, "categorical_cpu writes outside of drawn");
        for (int i = 0; i < N; i++) CHECK(drawn[i + 1] == right[i] && want[i] == right[i], "categorical_cpu: %d, not %d, at %g", drawn[i + 1], right[i], u[i]);
        for (size_t i = 0; i < n; i++) p[i] = NAN;                     // no number is right, but it must be one of the ids
        categorical_cpu(drawn + 1, p, u, N, V);
        for (int i = 0; i < N; i++) CHECK(drawn[i + 1] >= 0 && drawn[i + 1] < V, "categorical_cpu: %d of NaN", drawn[i + 1]);
        free(p), free(u), free(drawn), free(want), free(right);
    }
}

static void parity_sum_squares(void) {
    for (int n = 1; n <= 5000; n = n*7 + 1) {
        Array *x = array((size_t)n);
        double a, b;
        sum_squares_f64(&a, x->d, (size_t)n), sum_squares_cpu(&b, x->f, (size_t)n);
        CHECK_CLOSE("sum_squares", b, a, 1e-12 * a);
        for (int i = 0; i < n; i += 1 + n/20) { float old = x->f[i]; x->f[i] = NAN; sum_squares_cpu(&b, x->f, (size_t)n); x->f[i] = old; CHECK(isnan(b), "sum_squares: NaN at %d", i); }
        drop_arrays();
    }
}
static void parity_adamw(void) {
    FOR_SIZES(n) for (int first = 0; first < 2; first++) {
        double norm2 = 4;
        AdamW a = {0.1, 0.9, 0.99, 1e-8, 0.1, first ? 1 : 0, 0.5, first ? 1 : 7};
        Array *param = array((size_t)n), *m = array((size_t)n), *v = array((size_t)n), *ema = array((size_t)n), *grad = array((size_t)n);
        for (int i = 0; i < n; i++) v->start[i] = fabsf(v->start[i]), v->d0[i] = v->start[i];
        #define A(p) (param->p, m->p, v->p, ema->p, grad->p, &norm2, (size_t)n, a)
        CASE_K(adamw, 2e-6);
        if (n == 33) NAN_REACHES(adamw, cpu, A(f), 4);
        #undef A
        drop_arrays();
    }
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

#define LOAD(name, params, args) *(void **)&name##_f64 = dlsym(oracle, #name "_cpu");
#define RUN(name, params, args) { int before = checks_passed + checks_failed; parity_##name(); CHECK(checks_passed + checks_failed > before, "parity_" #name " checks nothing"); }
int main(int argc, char **argv) {
    void *oracle = dlopen(argc > 1 ? argv[1] : "build/cpu64.so", RTLD_NOW | RTLD_LOCAL);
    if (!oracle) { puts(dlerror()); return 1; }
    uint32_t bits = 0x7FC0BEEF;                          // a NaN that no arithmetic makes
    memcpy(&sentinel, &bits, 4);
    KERNELS(LOAD, LOAD)
    KERNELS(RUN, RUN)
    test_vexp();
    return finish("parity");
}
