// cpu_fast.c: the few bodies that deserve speed on a CPU: matrix product, activations, GRU cell, span attention, cross-entropy, and what stands between them. Float only.
// Each stands beside its plain twin in cpu_kernels.c, which says what is computed; here stands how. Read vexp(), then tile_nv(), then gemm().
// Vectors are GCC/Clang vector extensions, so one text serves AVX-512, AVX2, SSE2 and Arm. No flag may reassociate this file (vexp would break).
#include "kernels.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) && !defined(EMULATE_AMX)       // the emulation (tests/amx_emu.h) brings its own intrinsics
#include <immintrin.h>
#define INTRINSICS
#endif
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif

#if defined(__AVX512F__)
enum { VW = 16, MR = 6, NV = 4, TALL = 8, FLAT = 3 };       // VW floats a vector; a register tile is MR rows x NV vectors, or TALL x FLAT, see tile_nv()
#elif defined(__AVX__)
enum { VW = 8, MR = 6, NV = 2, TALL = MR, FLAT = NV };
#elif defined(__aarch64__)
enum { VW = 4, MR = 8, NV = 3, TALL = MR, FLAT = NV };
#else
enum { VW = 4, MR = 6, NV = 2, TALL = MR, FLAT = NV };
#endif
enum { LITTLE = 600000 };                       // multiply-adds that are not worth a second thread
typedef float   vec  __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));
#define UNROLL _Pragma("GCC unroll 16")         // accumulators stay in registers only if every loop over them is unrolled
#define TWICE _Pragma("GCC unroll 2")
// No instructions. KEEP: says that x now differs from memory, or gcc loads it again for every use. USED: x is needed up to here, or gcc takes its register for a sum and moves that back.
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+x"(x))
#define USED(x) __asm__ volatile("" : : "x"(x))
#elif defined(__aarch64__)
#define KEEP(x) __asm__("" : "+w"(x))
#define USED(x) __asm__ volatile("" : : "w"(x))
#else
#define KEEP(x)
#define USED(x)
#endif

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

// A buffer of this thread for n floats, never NULL; its content is lost when a later call asks for more. Each use has its own slot.
enum { PANEL_A, PANEL_B, TRANSPOSED, PADDED, SCORES, TILE, PARTS, ALL_TILES, HALF, SUMS, SLOTS };
static float *scratch(int slot, size_t n) {
    static _Thread_local float *buffer[SLOTS];
    static _Thread_local size_t size[SLOTS];
    if (!buffer[slot] || size[slot] < n) {
        free(buffer[slot]);
        size[slot] = n;
        buffer[slot] = aligned_alloc(64, n * sizeof(float) / 64 * 64 + 64);
        if (!buffer[slot]) abort();             // a few megabytes: a machine without them cannot go on
    }
    return buffer[slot];
}

enum { LINE = LINE_BYTES / sizeof(float) };     // numbers in a line of the caches
// Asks memory for what stands `ahead` numbers behind x, so that it is there when its turn comes: soon (L1 cache), or later (L2). Beyond the end of an array it may ask in vain.
static inline void ask(const float *x, size_t ahead) { __builtin_prefetch((const void *)((uintptr_t)x + ahead * sizeof(float))); }
static inline void ask_for_row(const float *x, int n) { for (int i = 0; i < n; i += LINE) ask(x, i); }
static inline void ask_early(const float *x, size_t ahead) { __builtin_prefetch((const void *)((uintptr_t)x + ahead * sizeof(float)), 0, 2); }

// BF16: rounds n operands of a product to bfloat16 in place, ties to even; NaN stays NaN
static void round_operands(float *x, size_t n, Precision how) {
    if (how == FP32) return;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits, nan;
        memcpy(&bits, x + i, 4);
        nan = (bits & 0x7FFFFFFF) > 0x7F800000 ? ~0u : 0;
        bits = ((bits + 0x7FFF + (bits >> 16 & 1)) & ~nan & 0xFFFF0000) | (nan & 0x7FC00000);
        memcpy(x + i, &bits, 4);
    }
}

// ---- exp and activations ------------------------------------------------------------------------------------------------------

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2, exp(r) by its Taylor polynomial of degree 7 (remainder 5e-9).
// 0 below -87, constant above 88, NaN for NaN (comparisons with NaN are false, so every select below keeps it).
static inline vec vexp(vec x) {
    vec hi = choose(x > 88.0f, (vec){0} + 88.0f, x);
    vec magic = hi * 1.44269504f + 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    vec n = magic - 12582912.0f;
    vec r = hi - n * 0.693359375f + n * 2.12194440e-4f;         // ln 2 in two parts, the first with few bits: n * part is exact
    vec p = r * (1.0f/5040) + 1.0f/720;
    p = p*r + 1.0f/120;
    p = p*r + 1.0f/24;
    p = p*r + 1.0f/6;
    p = p*r + 0.5f;
    p = p*r + 1.0f;
    p = p*r + 1.0f;
    uvec two_n = ((uvec)magic - 0x4B400000 + 127) << 23;        // unsigned: of an x far below -87 it is any number, and not used
    return choose(x < -87.0f, (vec){0}, p * (vec)two_n);
}

// GELU(x) = x/2 (1 + tanh u) = x sig(2u), u = sqrt(2/pi) (x + 0.044715 x^3);   SiLU(x) = x sig(x)
static inline vec sigmoid(vec x) { return 1.0f / (1.0f + vexp(-x)); }
static inline vec gelu_2u(vec x) { return 1.5957691216057308f * (x + 0.044715f * x*x*x); }
// The normal distribution Phi(x) and its density phi(x): 1 - Phi(|x|) = phi(x) (b1 t + .. + b5 t^5), t = 1/(1 + 0.2316419 |x|), right to 7.5e-8, here to 3e-7;
// digits of the left tail are lost (Abramowitz & Stegun 1964, 26.2.17)
static inline vec normal_cdf(vec x, vec *density) {
    vec t = 1.0f / (1.0f + 0.2316419f * choose(x < 0.0f, -x, x)), p = t * 1.330274429f - 1.821255978f;
    p = p*t + 1.781477937f;
    p = p*t - 0.356563782f;
    p = p*t + 0.319381530f;
    *density = 0.39894228f * vexp(x*x * -0.5f);
    vec tail = p*t * *density;
    return choose(x < 0.0f, tail, 1.0f - tail);
}
static inline vec vact(vec x, Activation a) {
    if (a == GELU) return x * sigmoid(gelu_2u(x));
    if (a == SILU) return x * sigmoid(x);
    if (a == GELU_EXACT) { vec density; return x * normal_cdf(x, &density); }
    if (a == RELU) return choose(x <= 0.0f, (vec){0}, x);
    if (a == ELU) return choose(x > 0.0f, x, vexp(x) - 1.0f);
    return x;
}
// act'(x), and act(x) in *value, which has most of its work in common
static inline vec vact_derivative(vec x, Activation a, vec *value) {
    vec u = x, slope = (vec){0} + 1.0f;
    *value = x;
    if (a == LINEAR_ONLY) return slope;
    if (a == RELU) { *value = vact(x, a); return choose(x > 0.0f, slope, *value); }
    if (a == ELU) { vec e = vexp(x); *value = choose(x > 0.0f, x, e - 1.0f); return choose(x > 0.0f, slope, e); }
    if (a == GELU_EXACT) { vec density, cdf = normal_cdf(x, &density); *value = x * cdf; return cdf + x * density; }
    if (a == GELU) u = gelu_2u(x), slope = 1.5957691216057308f * (1.0f + 3*0.044715f * x*x);
    vec sig = sigmoid(u);
    *value = x * sig;
    return sig + x * sig * (1.0f - sig) * slope;
}

// i walks through n numbers in vectors of `count` numbers: VW, known to the compiler, and what is left at the end
#define FOR_VECTORS(n, i, count, ...) do { \
    size_t i = 0, n_ = (size_t)(n); \
    for (; i + VW <= n_; i += VW) { const size_t count = VW; __VA_ARGS__; } \
    if (i < n_) { const size_t count = n_ - i; __VA_ARGS__; } } while (0)

// a vector of `count` numbers, completed with zeros
static inline vec load(const float *p, size_t count) {
    if (count == VW) return *(const vec *)p;
    vec x = {0};
    for (size_t i = 0; i < count; i++) x[i] = p[i];
    return x;
}
static inline void store(float *p, vec x, size_t count) {
    if (count == VW) *(vec *)p = x;
    else for (size_t i = 0; i < count; i++) p[i] = x[i];
}

// the sum, and the largest, of the numbers of a vector (NaN is left out)
static inline float sum_of(vec x) {
    union { vec all; vec4 part[VW / 4]; } y = {x};
    for (int i = 1; i < VW / 4; i++) y.part[0] += y.part[i];
    return (y.part[0][0] + y.part[0][2]) + (y.part[0][1] + y.part[0][3]);
}
static inline float larger(float a, float b) { return b > a ? b : a; }
static inline float largest_of(vec x) {
    float top[VW], most = -INFINITY;
    memcpy(top, &x, sizeof top);
    for (int n = VW / 2; n >= 4; n /= 2) for (int l = 0; l < n; l++) top[l] = larger(top[l], top[l + n]);
    for (int l = 0; l < 4; l++) most = larger(most, top[l]);
    return most;
}
static float dot(const float *a, const float *b, int n) {
    vec sum = {0};
    FOR_VECTORS(n, i, count, sum += load(a + i, count) * load(b + i, count));
    return sum_of(sum);
}

enum { PIECE = 1 << 14 };                       // numbers that a thread takes at a time
void sum_forward_fast(float *out, float *pre, const float *x, const float *y, size_t n, Activation a) {
    #pragma omp parallel for if (n > 2*PIECE)
    for (size_t p = 0; p < n; p += PIECE)
        FOR_VECTORS(n - p < PIECE ? n - p : PIECE, i, count,
            SOON_READ(x + p + i, VW); SOON_READ(y + p + i, VW); SOON_WRITE(out + p + i, VW);
            vec sum = load(x + p + i, count) + load(y + p + i, count);
            if (pre) store(pre + p + i, sum, count);
            store(out + p + i, vact(sum, a), count));
}
void activation_backward_fast(float *d, float *out, const float *pre, size_t n, Activation a) {
    #pragma omp parallel for if (n > 2*PIECE)
    for (size_t p = 0; p < n; p += PIECE)
        FOR_VECTORS(n - p < PIECE ? n - p : PIECE, i, count,
            SOON_READ(pre + p + i, VW); SOON_READ(d + p + i, VW);
            if (out) SOON_WRITE(out + p + i, VW);
            vec x = load(pre + p + i, count);
            vec value;
            store(d + p + i, load(d + p + i, count) * vact_derivative(x, a, &value), count);
            if (out) store(out + p + i, value, count));
}

// One GRU cell. tanh(x) = 2 sig(2x) - 1
static inline vec vtanh(vec x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }
void gru_forward_fast(float *out, const float *gi, const float *gh, const float *h, int N, int C) {
    #pragma omp parallel for if ((double)N * C > PIECE)
    for (int n = 0; n < N; n++) {
        const float *r = gi + (size_t)n*3*C, *q = r + C, *m = q + C, *hr = gh + (size_t)n*3*C, *hq = hr + C, *hm = hq + C;
        FOR_VECTORS(C, c, count,
            vec reset = sigmoid(load(r + c, count) + load(hr + c, count));
            vec keep = sigmoid(load(q + c, count) + load(hq + c, count));
            vec fresh = vtanh(load(m + c, count) + reset * load(hm + c, count));
            store(out + (size_t)n*C + c, (1.0f - keep) * fresh + keep * load(h + (size_t)n*C + c, count), count));
    }
}
static inline void add_to(float *p, vec x, size_t count) { store(p, load(p, count) + x, count); }
void gru_backward_fast(float *dgi, float *dgh, float *dh, const float *dout, const float *gi, const float *gh, const float *h, int N, int C) {
    #pragma omp parallel for if ((double)N * C > PIECE)
    for (int n = 0; n < N; n++) {
        size_t row = (size_t)n*C;
        FOR_VECTORS(C, c, count,
            size_t r = 3*row + c; size_t q = r + C; size_t m = q + C;
            vec reset = sigmoid(load(gi + r, count) + load(gh + r, count));
            vec keep = sigmoid(load(gi + q, count) + load(gh + q, count));
            vec past = load(gh + m, count);
            vec fresh = vtanh(load(gi + m, count) + reset * past);
            vec d = load(dout + row + c, count);
            vec dkeep = d * (load(h + row + c, count) - fresh) * keep * (1.0f - keep);
            vec dfresh = d * (1.0f - keep) * (1.0f - fresh*fresh);
            vec dreset = dfresh * past * reset * (1.0f - reset);
            if (dgi) { add_to(dgi + r, dreset, count); add_to(dgi + q, dkeep, count); add_to(dgi + m, dfresh, count); }
            if (dgh) { add_to(dgh + r, dreset, count); add_to(dgh + q, dkeep, count); add_to(dgh + m, dfresh * reset, count); }
            if (dh) add_to(dh + row + c, keep * d, count));
    }
}

// ---- LayerNorm and RMSNorm ------------------------------------------------------------------------------------------------------

// nv vectors of columns, the last of `count` numbers, over N rows. Rows of one group stand together: their sums of dout and dout xhat, on which dweight, dscale and
// dshift depend, stay in registers until another group begins. What group `first` (-1: none) gets goes to first_shift and first_scale.
static inline __attribute__((always_inline)) void norm_columns(const int nv, size_t count, float *dweight, float *dshift, float *dscale, int first, float *first_shift, float *first_scale,
                                                               const float *dout, const float *x, const float *mean, const float *rstd, const float *weight, const float *scale,
                                                               const int *group, int N, int C, int ld) {
    #define AT(j) ((j) < nv - 1 ? (size_t)VW : count)
    vec dw[4];
    UNROLL for (int j = 0; j < nv; j++) dw[j] = (vec){0};
    for (int n = 0; n < N; ) {
        int g = group ? group[n] : 0;
        vec sum[4], along[4];
        UNROLL for (int j = 0; j < nv; j++) sum[j] = along[j] = (vec){0};
        for (; n < N && (group ? group[n] : 0) == g; n++)
            UNROLL for (int j = 0; j < nv; j++) {
                vec d = load(dout + (size_t)n*C + j*VW, AT(j));
                sum[j] += d;
                along[j] += d * ((load(x + (size_t)n*C + j*VW, AT(j)) - (mean ? mean[n] : 0)) * rstd[n]);
            }
        float *shift_g = !dshift || g < 0 ? NULL : g == first ? first_shift : dshift + (size_t)g*ld, *dscale_g = !dscale || g < 0 ? NULL : g == first ? first_scale : dscale + (size_t)g*ld;
        const float *scale_g = scale && g >= 0 ? scale + (size_t)g*ld : NULL;
        UNROLL for (int j = 0; j < nv; j++) {
            if (scale_g) dw[j] += along[j] * (1.0f + load(scale_g + j*VW, AT(j))); else dw[j] += along[j];
            if (dscale_g) add_to(dscale_g + j*VW, along[j] * load(weight + j*VW, AT(j)), AT(j));
            if (shift_g) add_to(shift_g + j*VW, sum[j], AT(j));
        }
    }
    UNROLL for (int j = 0; j < nv; j++) add_to(dweight + j*VW, dw[j], AT(j));
    #undef AT
}
// dx += rstd (dxhat - mean_c(dxhat) - xhat mean_c(dxhat xhat)), one row
static void norm_row(float *dx, const float *dout, const float *x, const float *mean, float rstd, const float *weight, const float *scale, int C) {
    float centre = mean ? *mean : 0;
    vec sums = {0}, dots = {0};
    #define DXHAT (load(dout + c, count) * load(weight + c, count) * (scale ? 1.0f + load(scale + c, count) : (vec){0} + 1.0f))
    SOON_READ(dx, C); SOON_READ(dout, C); SOON_READ(x, C);
    FOR_VECTORS(C, c, count, vec d = DXHAT; sums += d; dots += d * ((load(x + c, count) - centre) * rstd));
    float middle = mean ? sum_of(sums) / C : 0, along = sum_of(dots) / C;
    FOR_VECTORS(C, c, count, add_to(dx + c, rstd * (DXHAT - middle - (load(x + c, count) - centre) * rstd * along), count));
    #undef DXHAT
}
// Do the rows of each group stand together, in the order of the groups, but for rows of none?
static bool in_order(const int *group, int N) {
    for (int n = 0, last = 0; group && n < N; n++) if (group[n] >= 0) { if (group[n] < last) return false; last = group[n]; }
    return true;
}
// Rows come from memory once, always in as many runs. Two runs may share a group, to which two threads must not add at once: what a run finds for its first group, and
// for the weight, is kept apart and added at the end, in order.
void norm_modulate_backward_fast(float *dx, float *dweight, float *dshift, float *dscale, const float *dout, const float *x, const float *mean, const float *rstd,
                                 const float *weight, const float *scale, const int *group, int N, int C, int G, int ld) {
    enum { RUNS = 16, NEAR = 8 };               // NEAR: rows that pass 2 finds in the L1 cache
    if (!in_order(group, N)) { norm_modulate_backward_cpu(dx, dweight, dshift, dscale, dout, x, mean, rstd, weight, scale, group, N, C, G, ld); return; }
    int first[RUNS];
    float *own = memset(scratch(SUMS, (size_t)RUNS*3*C), 0, (size_t)RUNS*3*C * sizeof(float));       // of each run: weight, shift, scale
    #pragma omp parallel for schedule(static) if ((double)N * C > PIECE)
    for (int k = 0; k < RUNS; k++) {
        int from = (int)((int64_t)N * k / RUNS), to = (int)((int64_t)N * (k + 1) / RUNS), near;
        float *w = own + (size_t)k*3*C;
        first[k] = group ? -1 : 0;
        for (int n = to - 1; group && n >= from; n--) if (group[n] >= 0) first[k] = group[n];
        for (int n0 = from; n0 < to; n0 += near) {
            near = min(NEAR, to - n0);
            // pass 1, by rows: dx
            for (int n = n0; dx && n < n0 + near; n++) {
                int g = group ? group[n] : 0;
                norm_row(dx + (size_t)n*C, dout + (size_t)n*C, x + (size_t)n*C, mean ? mean + n : NULL, rstd[n], weight, scale && g >= 0 ? scale + (size_t)g*ld : NULL, C);
            }
            // pass 2, by columns: the parameters
            for (int c = 0, wide; c < C; c += wide) {
                int left = C - c, nv = left >= 4*VW ? 4 : left >= 2*VW ? 2 : 1;
                wide = min(left, nv*VW);
                #define COLUMNS(nv) norm_columns(nv, (size_t)(wide - (nv - 1)*VW), w + c, dshift ? dshift + c : NULL, dscale ? dscale + c : NULL, first[k], w + C + c, w + 2*C + c, \
                                                 dout + (size_t)n0*C + c, x + (size_t)n0*C + c, mean ? mean + n0 : NULL, rstd + n0, weight + c, scale ? scale + c : NULL, group ? group + n0 : NULL, near, C, ld)
                if (nv == 4) COLUMNS(4); else if (nv == 2) COLUMNS(2); else COLUMNS(1);
                #undef COLUMNS
            }
        }
    }
    for (int k = 0; k < RUNS; k++) {
        const float *w = own + (size_t)k*3*C;
        size_t g = (size_t)max(first[k], 0)*ld;
        FOR_VECTORS(C, c, count,
            if (dweight) add_to(dweight + c, load(w + c, count), count);
            if (dshift && first[k] >= 0) add_to(dshift + g + c, load(w + C + c, count), count);
            if (dscale && first[k] >= 0) add_to(dscale + g + c, load(w + 2*C + c, count), count));
    }
}

// ---- heads: RMSNorm and rotary positions ----------------------------------------------------------------------------------------

// x[from], of n numbers, with room for a multiple of 2*VW: AVX-512 picks from two vectors at a time
static inline vec pick(const float *x, ivec from, int n) {
    vec y;
#ifdef INTRINSICS
    y = (vec)_mm512_permutex2var_ps(_mm512_loadu_ps(x), (__m512i)from, _mm512_loadu_ps(x + VW));
    for (int i = 2*VW; i < n; i += 2*VW) y = choose(from >= i, (vec)_mm512_permutex2var_ps(_mm512_loadu_ps(x + i), (__m512i)from, _mm512_loadu_ps(x + i + VW)), y);
#else
    (void)n;
    for (int l = 0; l < VW; l++) y[l] = x[from[l]];
#endif
    return y;
}
// Who turns with whom, and the sign of the sine; 0: an element that stays. The arrays of a head go on with zeros, up to whole_head(HS) numbers.
static int whole_head(int HS) { return round_up(HS, 2*VW); }
static void find_partners(int *partner, float *sign, const int *pair, int HS) {
    memset(partner, 0, whole_head(HS) * sizeof(int)), memset(sign, 0, whole_head(HS) * sizeof(float));
    for (int i = 0; i < HS; i++) partner[i] = max(pair[i], 0), sign[i] = pair[i] < 0 ? 0 : pair[i] > i ? -1 : 1;
}
// x_i' = own_i x_i + other_i x_partner(i), for the heads of a row. old: room for a head, whose zeros behind HS numbers stay
static void find_turn(float *own, float *other, float *old, const float *cosine, const float *sine, const int *partner, const float *sign, int HS, bool back) {
    memcpy(old, sine, HS * sizeof(float));
    for (int c = 0; c < HS; c += VW) {
        store(own + c, load(cosine + c, min(VW, HS - c)), VW);
        store(other + c, load(sign + c, VW) * (back ? -pick(old, *(const ivec *)(partner + c), HS) : load(old + c, VW)), VW);
    }
}
static inline vec turned(const float *old, const float *own, const float *other, const int *partner, const float *sign, int c, int HS) {
    vec x = load(old + c, VW);
    return choose(load(sign + c, VW) == 0.0f, x, load(own + c, VW) * x + load(other + c, VW) * pick(old, *(const ivec *)(partner + c), HS));
}

static void rope(float *x, const float *cosine, const float *sine, const int *position, const int *pair, int N, int ld, int heads, int HS, bool back) {
    int partner[whole_head(HS)];
    float sign[whole_head(HS)];
    find_partners(partner, sign, pair, HS);
    #pragma omp parallel for if ((double)N * heads * HS > PIECE)
    for (int n = 0; n < N; n++) {
        float own[whole_head(HS)], other[whole_head(HS)], old[whole_head(HS)];
        memset(old, 0, sizeof old);
        find_turn(own, other, old, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, partner, sign, HS, back);
        for (int h = 0; h < heads; h++) {
            float *x_nh = x + (size_t)n*ld + (size_t)h*HS;
            memcpy(old, x_nh, HS * sizeof(float));
            for (int c = 0; c < HS; c += VW) store(x_nh + c, turned(old, own, other, partner, sign, c, HS), min(VW, HS - c));
        }
    }
}
void rope_forward_fast(float *x, const float *cosine, const float *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    rope(x, cosine, sine, position, pair, N, ld, heads, HS, false);
}
void rope_backward_fast(float *dx, const float *cosine, const float *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    rope(dx, cosine, sine, position, pair, N, ld, heads, HS, true);
}

enum { ROWS_AHEAD = 4 };                        // rows have others between them, so a later row is asked for, not what follows
void head_norm_forward_fast(float *x, float *kept, float *rstd, const float *weight, const float *cosine, const float *sine, const int *position, const int *pair, double eps,
                            int N, int ld, int heads, int HS) {
    int partner[whole_head(HS)];
    float sign[whole_head(HS)];
    if (cosine) find_partners(partner, sign, pair, HS);
    #pragma omp parallel for if ((double)N * heads * HS > PIECE)
    for (int n = 0; n < N; n++) {
        float own[whole_head(HS)], other[whole_head(HS)], old[whole_head(HS)];
        memset(old, 0, sizeof old);
        if (cosine) find_turn(own, other, old, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, partner, sign, HS, false);
        ask_for_row(x + (size_t)(n + ROWS_AHEAD)*ld, heads*HS);
        if (kept) SOON_WRITE(kept + (size_t)n*heads*HS, heads*HS);
        for (int h = 0; h < heads; h++) {
            float *x_nh = x + (size_t)n*ld + (size_t)h*HS;
            size_t at = (size_t)n*heads + h;
            vec squares = {0};
            FOR_VECTORS(HS, c, count, vec y = load(x_nh + c, count); squares += y*y; if (kept) store(kept + at*HS + c, y, count));
            float r = (float)(1 / sqrt((double)sum_of(squares) / HS + eps));
            if (rstd) rstd[at] = r;
            FOR_VECTORS(HS, c, count, store((cosine ? old : x_nh) + c, load(x_nh + c, count) * r * load(weight + c, count), count));
            for (int c = 0; cosine && c < HS; c += VW) store(x_nh + c, turned(old, own, other, partner, sign, c, HS), min(VW, HS - c));
        }
    }
}

void head_norm_backward_fast(float *dx, float *dweight, const float *kept, const float *rstd, const float *weight, const float *cosine, const float *sine, const int *position,
                             const int *pair, int N, int ld, int heads, int HS) {
    enum { RUNS = 16 };                         // as in norm_modulate_backward_fast()
    int partner[whole_head(HS)];
    float sign[whole_head(HS)], sums[RUNS * HS];
    if (cosine) find_partners(partner, sign, pair, HS);
    memset(sums, 0, sizeof sums);
    #pragma omp parallel for schedule(static) if ((double)N * heads * HS > PIECE)
    for (int k = 0; k < RUNS; k++)
        for (int n = (int)((int64_t)N * k / RUNS); n < (int64_t)N * (k + 1) / RUNS; n++) {
            float own[whole_head(HS)], other[whole_head(HS)], old[whole_head(HS)];
            memset(old, 0, sizeof old);
            if (cosine) find_turn(own, other, old, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, partner, sign, HS, true);
            ask_for_row(dx + (size_t)(n + ROWS_AHEAD)*ld, heads*HS);
            SOON_READ(kept + (size_t)n*heads*HS, heads*HS);
            for (int h = 0; h < heads; h++) {
                float *dx_nh = dx + (size_t)n*ld + (size_t)h*HS, r = rstd[(size_t)n*heads + h];
                const float *x_nh = kept + ((size_t)n*heads + h)*HS;
                vec dots = {0};
                memcpy(old, dx_nh, HS * sizeof(float));
                FOR_VECTORS(HS, c, count,
                    vec d = cosine ? turned(old, own, other, partner, sign, (int)c, HS) : load(old + c, VW);
                    vec along = d * load(x_nh + c, count) * r;
                    add_to(sums + k*HS + c, along, count);
                    dots += along * load(weight + c, count);
                    store(dx_nh + c, d, count));
                float mean = sum_of(dots) / HS;
                FOR_VECTORS(HS, c, count, store(dx_nh + c, r * (load(dx_nh + c, count) * load(weight + c, count) - load(x_nh + c, count) * r * mean), count));
            }
        }
    for (int k = 0; dweight && k < RUNS; k++) FOR_VECTORS(HS, c, count, add_to(dweight + c, load(sums + k*HS + c, count), count));
}

// ---- matrix product -----------------------------------------------------------------------------------------------------------
// C = A B by panels that fit the caches. A and B are first copied ("packed") into strips in which the inner loop walks straight ahead.
// Threads share nothing: multiply() gives each a part of C.

enum {
    NR = NV * VW, FLAT_NR = FLAT * VW,          // columns of a register tile
    KC = 384,                                   // depth of a strip
    MC = 36, NC = NR * 12,                      // rows (whole tiles of them) and columns of a block: few rows, so that each of C is written from end to end, and strips of B that fit the L2 cache
    MC_PACKED = 8 * MC,                         // rows where B was packed long ago: so many that memory has time to bring a strip while the one before it is used
    MP = MR * 512, NP = NR * 48                 // rows and columns of a panel, packed at once
};
_Static_assert(NC % NR == 0 && NC % FLAT_NR == 0 && NP % NC == 0 && MP % MR == 0 && MP % TALL == 0, "blocks and panels are made of whole tiles of both shapes");
// Columns of the tile that fits N columns and K terms better: columns that are left over go at half speed, and few terms do not hide the ends of a wide tile
static int tile_columns(int N, int K) { int flat = round_up(N, FLAT_NR), wide = round_up(N, NR); return flat < wide || (flat == wide && K <= 256) ? FLAT_NR : NR; }
static int tile_height(int columns) { return columns == NR ? MR : TALL; }

// What happens to a finished row of C: + bias (gemm() leaves it to the tiles), copy to pre, activation. sums: [i] += sum_p A(i,p), taken along while a panel of A is near (ai = 1 only)
typedef struct { const float *bias; float *pre; Activation act; float *sums; } Epilogue;

#ifdef __clang__
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, ...) __builtin_shuffle(x, y, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif
// out[i*ld_out + r] = inp[r*ld + i], 4 x 4
static inline void transpose4(float *out, size_t ld_out, const float *inp, size_t ld) {
    vec4 a = *(const vec4 *)inp, b = *(const vec4 *)(inp + ld), c = *(const vec4 *)(inp + 2*ld), d = *(const vec4 *)(inp + 3*ld);
    vec4 ac = SHUFFLE(a, c, 0, 4, 1, 5), bd = SHUFFLE(b, d, 0, 4, 1, 5), AC = SHUFFLE(a, c, 2, 6, 3, 7), BD = SHUFFLE(b, d, 2, 6, 3, 7);
    *(vec4 *)out = SHUFFLE(ac, bd, 0, 4, 1, 5);
    *(vec4 *)(out + ld_out) = SHUFFLE(ac, bd, 2, 6, 3, 7);
    *(vec4 *)(out + 2*ld_out) = SHUFFLE(AC, BD, 0, 4, 1, 5);
    *(vec4 *)(out + 3*ld_out) = SHUFFLE(AC, BD, 2, 6, 3, 7);
}

// strip[i/W][p][i%W] = x(i, p) = src[i*si + p*sp] for i < w, p < k; columns beyond w are zero
static inline void pack(float *strip, const float *src, int w, int k, size_t si, size_t sp, const int W, Precision how) {
    int p = 0;
    if (w == W && si == 1) for (; p < k; p++) memcpy(strip + p*W, src + p*sp, W * sizeof(float));
    else if (w == W && sp == 1)                 // 4 x 4 at a time; where 4 does not divide W, the last ones overlap
        for (; p + 4 <= k; p += 4) UNROLL for (int i = 0; i < W; i += 4) { int j = min(i, W - 4); transpose4(strip + p*W + j, W, src + j*si + p, si); }
    for (; p < k; p++) for (int i = 0; i < W; i++) strip[p*W + i] = i < w ? src[i*si + p*sp] : 0;
    round_operands(strip, (size_t)W*k, how);
}

static void pack_rows(float *strip, const float *src, int w, int k, size_t si, size_t sp, int mr, Precision how) {
    if (mr == MR) pack(strip, src, w, k, si, sp, MR, how); else pack(strip, src, w, k, si, sp, TALL, how);
}
static void pack_columns(float *strip, const float *src, int w, int k, size_t si, size_t sp, int nr, Precision how) {
    if (nr == NR) pack(strip, src, w, k, si, sp, NR, how); else pack(strip, src, w, k, si, sp, FLAT_NR, how);
}

// C (m, nv vectors) = [C +] A B [+ bias] for one register tile: A(i,p) = a[i*ai + p*ap], where one of the strides is 1 or a is packed (ai = 1, ap = mr); row p of B at b + p*bp.
// Meanwhile it asks for next[p*step], its share of what a later tile will read; step 0: for nothing new.
static inline __attribute__((always_inline)) void tile_nv(const int mr, const int nv, const int along, int k, const float *a, size_t as, const float *b, size_t bp, const float *bias, int add,
                                                          float *C, size_t ldc, int m, const float *next, int step) {
    vec c[TALL][NV];
    size_t row[TALL];                             // rows beyond the last are the last once more, and not stored
    UNROLL for (int i = 0; i < mr; i++) row[i] = along ? min(i, m - 1) * as : (size_t)i;
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) { c[i][j] = (vec){0}; __builtin_prefetch(C + min(i, m - 1)*ldc + j*VW, 1); }
    TWICE for (int p = 0; p < k; p++) {
        const float *a_p = a + (along ? (size_t)p : p*as);
        vec y[NV];
        ask_early(next, (size_t)p*step);
        UNROLL for (int j = 0; j < nv; j++) { y[j] = *(const vec *)(b + p*bp + j*VW); KEEP(y[j]); }
        UNROLL for (int i = 0; i < mr; i++) {
            vec x = a_p[row[i]] - (vec){0};     // minus zero, which changes no number, makes a vector of one
            KEEP(x);
            UNROLL for (int j = 0; j < nv; j++) c[i][j] += x * y[j];
            USED(x);
        }
        UNROLL for (int j = 0; j < nv; j++) USED(y[j]);
    }
    if (bias) UNROLL for (int j = 0; j < nv; j++) { vec plus = *(const vec *)(bias + j*VW); UNROLL for (int i = 0; i < mr; i++) c[i][j] += plus; }
    UNROLL for (int i = 0; i < mr; i++) if (i < m) UNROLL for (int j = 0; j < nv; j++) {
        vec *o = (vec *)(C + i*ldc + j*VW);
        if (add) *o += c[i][j]; else *o = c[i][j];
    }
}
// The same for any width n of a tile: full vectors, then, if B is packed, a rest that finishes in a copy
static inline __attribute__((always_inline)) void tile_rows(const int mr, const int along, int k, const float *a, size_t as, const float *b, size_t bp, const float *bias, int add,
                                                            float *C, size_t ldc, int m, int n, const float *next, int step) {
    int nv = n / VW, rest = n % VW;
    #define TILE(nv) if (along) tile_nv(mr, nv, 1, k, a, as, b, bp, bias, add, C, ldc, m, next, step); else tile_nv(mr, nv, 0, k, a, as, b, bp, bias, add, C, ldc, m, next, step)
    if (mr == MR && nv == NV) { TILE(NV); return; }
    if (NV > 3 && nv == 3) { TILE(3); } else if (NV > 2 && nv == 2) { TILE(2); } else if (nv == 1) { TILE(1); }
    if (!rest) return;
    float full[TALL * VW], full_bias[VW] = {0};
    b += nv*VW, C += nv*VW;
    if (bias) bias = memcpy(full_bias, bias + nv*VW, rest * sizeof(float));
    if (add) for (int i = 0; i < m; i++) memcpy(full + i*VW, C + i*ldc, rest * sizeof(float));
    float *to = C;
    size_t ld = ldc;
    C = full, ldc = VW;
    TILE(1);
    for (int i = 0; i < m; i++) memcpy(to + i*ld, full + i*VW, rest * sizeof(float));
    #undef TILE
}
// A function for each shape: in one, gcc makes slower loops
#define TILE_ARGS const int along, int k, const float *a, size_t as, const float *b, size_t bp, const float *bias, int add, float *C, size_t ldc, int m, int n, const float *next, int step
static __attribute__((noinline)) void wide_tile(TILE_ARGS) { tile_rows(MR, along, k, a, as, b, bp, bias, add, C, ldc, m, n, next, step); }
static __attribute__((noinline)) void flat_tile(TILE_ARGS) { tile_rows(TALL, along, k, a, as, b, bp, bias, add, C, ldc, m, n, next, step); }

// sums[i] += sum over p < k of A[i + p*ap], i < m
static void add_sums(float *sums, const float *A, size_t ap, int m, int k) {
    for (int i = 0; i < m; i += NR) {
        int width = min(NR, m - i);
        vec sum[NV];
        UNROLL for (int j = 0; j < NV; j++) sum[j] = (vec){0};
        for (int p = 0; p < k && width == NR; p++) UNROLL for (int j = 0; j < NV; j++) sum[j] += *(const vec *)(A + i + p*ap + j*VW);
        if (width == NR) UNROLL for (int j = 0; j < NV; j++) *(vec *)(sums + i + j*VW) += sum[j];
        else for (int l = i; l < m; l++) {      // in the same order as the lanes: which columns stand here depends on the number of threads
            float one = 0;
            for (int p = 0; p < k; p++) one += A[l + p*ap];
            sums[l] += one;
        }
    }
}

static void epilogue(float *C, size_t ldc, const Epilogue *e, int i0, int i1, int j0, int j1) {
    if (!e->bias && !e->pre && !e->act) return;
    for (int i = i0; i < i1; i++)
        FOR_VECTORS(j1 - j0, j, count,
            size_t at = i*ldc + j0 + j;
            vec x = load(C + at, count);
            if (e->bias) x += load(e->bias + j0 + j, count);
            if (e->pre) store(e->pre + at, x, count);
            store(C + at, vact(x, e->act), count));
}

// C (M,N) = [C +] A B with A(i,p) = A[i*ai + p*ap] (M,K) and B(p,j) = B[p*bp + j*bj] (K,N): the strides say which operand is transposed.
// An operand is packed if it must be rounded, or if it is used often enough to pay for it; otherwise tiles read it where it lies.
// packed: B, from its column 0 on, in strips [N / nr][K][nr], see pack_weight(), or NULL. nr: tile_columns() of all of C, of which this may be a part.
// narrow: all of C has few columns, not this part alone: the depth, and with it the order of a sum, must not depend on the number of threads.
enum { OFTEN = 256 };
static void gemm(int M, int N, int K, const float *A, size_t ai, size_t ap, const float *B, size_t bp, size_t bj, const float *packed, int add, float *C, size_t ldc,
                 const Epilogue *e, int nr, int narrow, Precision how) {
    float *a = scratch(PANEL_A, (size_t)MP * KC), *b = scratch(PANEL_B, (size_t)NP * KC);
    int along = how == FP32 && ap == 1, across = how == FP32 && !along && ai == 1 && narrow, pack_a = !along && !across, pack_b = !packed && !(how == FP32 && bj == 1 && M <= OFTEN);
    int mr = tile_height(nr), mc = (packed ? MC_PACKED : MC) / mr * mr, depth = across ? 128 : KC;       // rows of A and B that lie apart fill the L1 cache sooner
    Epilogue rest = {.pre = e ? e->pre : NULL, .act = e ? e->act : LINEAR_ONLY};      // tiles add the bias
    for (int j0 = 0; j0 < N; j0 += NP)
    for (int p0 = 0; p0 < K; p0 += depth)
    for (int i0 = 0; i0 < M; i0 += MP) {
        int n = min(NP, N - j0), k = min(depth, K - p0), m = min(MP, M - i0), last = p0 + k == K;
        for (int j = 0; j < n && i0 == 0 && !packed; j += nr)
            if (pack_b || (n - j < nr && (n - j) % VW)) pack_columns(b + (size_t)j*k, B + p0*bp + (j0 + j)*bj, min(nr, n - j), k, bj, bp, nr, how);
        if (e && e->sums && !j0) add_sums(e->sums + i0, A + i0 + p0*ap, ap, m, k);
        for (int i = 0; i < m; i += mr)
            if (pack_a || (across && m - i < mr)) pack_rows(a + (size_t)i*k, A + (i0 + i)*ai + p0*ap, min(mr, m - i), k, ai, ap, mr, how);
        for (int jc = 0; jc < n; jc += NC)
        for (int ic = 0; ic < m; ic += mc) {
            int j1 = min(n, jc + NC), i1 = min(m, ic + mc), tiles = (i1 - ic + mr - 1) / mr;
            for (int j = jc; j < j1; j += nr) {
                int w = min(nr, n - j), here = !packed && !pack_b && w % VW == 0;
                // What tiles ask for: each its share of the next strip of packed weights (less than three or four tiles ask for a part of it); or, while the first strip of B is used,
                // the rows of A of the next block, if they lie without gaps and end with this strip.
                int step = packed ? ic ? 0 : (nr + tiles - 1) / tiles : along && ai == (size_t)k && !j0 && !j ? mr : 0;
                const float *b_j = packed ? packed + (size_t)(j0 + j)*K + p0*nr : here ? B + p0*bp + j0 + j : b + (size_t)j*k;
                for (int i = ic; i < i1; i += mr) {
                    int h = min(mr, m - i), there = along || (across && h == mr);
                    const float *a_i = there ? A + (i0 + i)*ai + p0*ap : a + (size_t)i*k, *next = !step ? b_j : packed ? b_j + (size_t)nr*K + (size_t)(i - ic) / mr * k*step : a_i + mc*ai;
                    (mr == MR ? wide_tile : flat_tile)(along, k, a_i, there ? along ? ai : ap : (size_t)mr, b_j, here ? bp : (size_t)nr, e && e->bias && last ? e->bias + j0 + j : NULL, add || p0,
                         C + (i0 + i)*ldc + j0 + j, ldc, h, w, next, step);
                    if (last) epilogue(C, ldc, &rest, i0 + i, i0 + i + h, j0 + j, j0 + j + w);
                }
            }
        }
    }
}

// ---- bf16 products on AMX tiles -------------------------------------------------------------------------------------------------
// A tile register holds 16 x 16 pairs of bfloat16, and one instruction multiplies two of them. Where the processor has tiles and the kernel grants
// them, BF16 runs here; elsewhere the float32 kernels take the rounded operands: the same numbers but for the order of their sums.
// An operand is packed into tiles of 16 lines x 32 k; a line is a row of the left operand or a column of the right one. Pair q of a tile is
// (k = q, k = q + 16): any pairing is right if both operands share it, and this one needs no shuffles. A left tile stands [line][pair], a right
// one [pair][line]. Two tiles for each 32 k, one below the other, make a strip of 32 lines.

#if defined(EMULATE_AMX)
#include "tests/amx_emu.h"      // brings: the tile instructions in C, for tests on any machine
#define AMX
#define TILES
bool has_matrix_unit(void) { return true; }
#elif defined(__AVX512F__) && defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define AMX
#define TILES __attribute__((target("amx-tile,amx-bf16")))
bool has_matrix_unit(void) {
    enum { UNKNOWN, NO, YES, TILE_BIT = 1 << 24, BF16_BIT = 1 << 22, ASK_PERMISSION = 0x1023, TILE_DATA = 18 };
    static int known;
    unsigned a, b, c, d;
    if (!known) known = __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & TILE_BIT && d & BF16_BIT && !syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) ? YES : NO;
    return known == YES;
}
#else
bool has_matrix_unit(void) { return false; }
#endif

#ifdef AMX
enum { LINES = 32, DEPTH = 32, TILE_SIZE = 256 };       // lines of a strip; k of a tile; pairs in a tile
typedef uint32_t pairs __attribute__((vector_size(64), aligned(4), may_alias));

// 16 numbers rounded to nearest, ties to even, in the high halves; NaN stays NaN (0xFFFFFFFF, which fills a debug build's memory, would become 0)
static inline __attribute__((unused)) pairs rounded(pairs u) {
    pairs nan = (pairs)((u & 0x7FFFFFFF) > 0x7F800000);
    return ((u + 0x7FFF + (u >> 16 & 1)) & ~nan) | ((u | 0x00400000) & nan);
}
// 16 numbers in the low and 16 in the high halves; by instructions that do it where the compiler may use them (and that take denormals for 0, as tiles do)
static inline pairs pair_up(const float *low, const float *high) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(EMULATE_AMX)
    static const uint16_t turns[32] __attribute__((aligned(64))) = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (pairs)_mm512_permutexvar_epi16(_mm512_load_si512(turns), (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low)));
#else
    return rounded(*(const pairs *)low) >> 16 | (rounded(*(const pairs *)high) & 0xFFFF0000);
#endif
}

// 16 x 16: exchanges the off-diagonal blocks of 8, then 4, 2, 1
#define PICK(b, l) ((l) + ((l) / (b) & 1) * (16 - (b)))
#define PICKS(b, more) PICK(b, 0) + more, PICK(b, 1) + more, PICK(b, 2) + more, PICK(b, 3) + more, PICK(b, 4) + more, PICK(b, 5) + more, PICK(b, 6) + more, \
    PICK(b, 7) + more, PICK(b, 8) + more, PICK(b, 9) + more, PICK(b, 10) + more, PICK(b, 11) + more, PICK(b, 12) + more, PICK(b, 13) + more, PICK(b, 14) + more, PICK(b, 15) + more
#ifdef __clang__
#define SHUFFLE16(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE16(x, y, ...) __builtin_shuffle(x, y, (pairs){__VA_ARGS__})
#endif
#define EXCHANGE(b) UNROLL for (int q = 0; q < 16; q++) if (!(q & b)) { \
    pairs u = r[q], v = r[q + b]; r[q] = SHUFFLE16(u, v, PICKS(b, 0)), r[q + b] = SHUFFLE16(u, v, PICKS(b, b)); }

// One tile of x(line l, p) = x[l*sl + p*sp], of which one stride is 1; h lines and d of k are there, the rest is zero
static void pack_tile(uint32_t *tile, const float *x, size_t sl, size_t sp, int h, int d, int right) {
    _Alignas(64) float edge[16 * DEPTH];
    int along = sp == 1;                                // k is contiguous
    if (h < 16 || d < DEPTH) {
        memset(edge, 0, sizeof edge);
        for (int l = 0; l < min(h, 16); l++) for (int p = 0; p < min(d, DEPTH); p++) edge[along ? l*DEPTH + p : p*16 + l] = x[l*sl + p*sp];
        x = edge, sl = along ? DEPTH : 1, sp = along ? 1 : 16;
    }
    pairs r[16];
    if (along) UNROLL for (int l = 0; l < 16; l++) r[l] = pair_up(x + l*sl, x + l*sl + 16);
    else UNROLL for (int q = 0; q < 16; q++) r[q] = pair_up(x + q*sp, x + (q + 16)*sp);
    if (along == right) { EXCHANGE(8) EXCHANGE(4) EXCHANGE(2) EXCHANGE(1) }
    UNROLL for (int q = 0; q < 16; q++) *(pairs *)(tile + q*16) = r[q];
}

// `lines` lines of k numbers: strips [strip][k / DEPTH][2 tiles], made in the order in which memory holds x
static void pack_tiles(uint32_t *out, const float *x, int lines, int k, size_t sl, size_t sp, int right) {
    int across = round_up(lines, LINES) / 16, along = round_up(k, DEPTH) / DEPTH;
    for (int n = 0; n < across * along; n++) {
        int i = sp == 1 ? n / along : n % across, p = sp == 1 ? n % along : n / across;
        uint32_t *tile = out + ((size_t)(i / 2 * along + p)*2 + i % 2) * TILE_SIZE;
        if (16*i < lines) pack_tile(tile, x + 16*i*sl + DEPTH*p*sp, sl, sp, lines - 16*i, k - DEPTH*p, right);
        else memset(tile, 0, TILE_SIZE * sizeof *tile);
    }
}

// the 8 tile registers of this thread: 16 rows of 64 bytes each
TILES static void tiles_on(void) {
    struct { uint8_t palette, start_row, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
    for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory");   // gcc 12 believes that only 8 bytes are read
    _tile_loadconfig(&config);
}
TILES static void tiles_off(void) { _tile_release(); }

// c (32,32) = [c +] strip a times strip b, over n * DEPTH of k. Meanwhile it asks for n * ahead lines of memory from `next` on.
TILES static void tile_block_asking(int n, const uint32_t *a, const uint32_t *b, int add, float *c, size_t ldc, const float *next, int ahead) {
    __asm__ volatile("" : : : "memory");                // gcc 12 believes that loading a tile reads no memory
    size_t ld = ldc * sizeof(float), row = 64;
    float *below = c + 16*ldc;
    if (add) {
        _tile_loadd(0, c, ld); _tile_loadd(1, c + 16, ld); _tile_loadd(2, below, ld); _tile_loadd(3, below + 16, ld);
    } else {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    }
    for (; n > 0; n--, a += 2*TILE_SIZE, b += 2*TILE_SIZE) {
        for (int i = 0; i < ahead; i++, next += LINE) ask_early(next, 0);
        _tile_loadd(4, a, row); _tile_loadd(6, b, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + TILE_SIZE, row);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + TILE_SIZE, row);
        _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ld); _tile_stored(1, c + 16, ld); _tile_stored(2, below, ld); _tile_stored(3, below + 16, ld);
}
static void tile_block(int n, const uint32_t *a, const uint32_t *b, int add, float *c, size_t ldc) { tile_block_asking(n, a, b, add, c, ldc, NULL, 0); }
// the same where only m x n of the 32 x 32 are there
static void ragged_block(int depth, const uint32_t *a, const uint32_t *b, int add, float *C, size_t ldc, int m, int n, const float *next, int ahead) {
    if (m >= LINES && n >= LINES) { tile_block_asking(depth, a, b, add, C, ldc, next, ahead); return; }
    _Alignas(64) float c[LINES * LINES];
    tile_block_asking(depth, a, b, 0, c, LINES, next, ahead);
    for (int i = 0; i < min(m, LINES); i++)
        for (int j = 0; j < min(n, LINES); j++) C[i*ldc + j] = (add ? C[i*ldc + j] : 0) + c[i*LINES + j];
}

// As gemm(). A panel of B is packed; then 64 rows of A at a time, and C is written along its rows, B coming from the L2 cache. packed: B as pack_weight() packs it, or NULL. This B
// comes from memory: up to 256 rows go through one strip of it, 32 columns of C at a time, and the first ones that do ask for the next strip.
static void tile_gemm(int M, int N, int K, const float *A, size_t ai, size_t ap, const float *B, size_t bp, size_t bj, const uint32_t *packed, int add, float *C, size_t ldc,
                      const Epilogue *e) {
    enum { ROWS = 64, ROWS_PACKED = 256, K_PANEL = 1536, N_PANEL = 2048, NEAR = 512 };     // NEAR: pairs of tiles of B, a megabyte
    int rows = packed ? ROWS_PACKED : ROWS;
    uint32_t *b = (uint32_t *)scratch(PANEL_B, (size_t)N_PANEL * K_PANEL / 2);
    uint32_t *a = (uint32_t *)scratch(PANEL_A, (size_t)rows * K_PANEL / 2);
    tiles_on();
    for (int j0 = 0; j0 < N; j0 += N_PANEL)
    for (int p0 = 0; p0 < K; p0 += K_PANEL) {
        int n = min(N_PANEL, N - j0), k = min(K_PANEL, K - p0), depth = round_up(k, DEPTH) / DEPTH, near = packed ? LINES : NEAR / depth * LINES;
        size_t line = (size_t)(packed ? round_up(K, DEPTH) : depth * DEPTH) / 2;      // pairs of a line of B
        const uint32_t *right = packed ? packed + j0*line + (size_t)p0*LINES / 2 : b;
        if (!packed) pack_tiles(b, B + p0*bp + j0*bj, n, k, bj, bp, 1);
        for (int i0 = 0; i0 < M; i0 += rows) {
            int m = min(rows, M - i0), blocks = (m + LINES - 1) / LINES, ahead = packed && !i0 ? (2*TILE_SIZE / LINE + blocks - 1) / blocks : 0;
            if (e && e->sums && !j0) add_sums(e->sums + i0, A + i0 + p0*ap, ap, m, k);
            pack_tiles(a, A + i0*ai + p0*ap, m, k, ai, ap, 0);
            for (int jn = 0; jn < n; jn += near)
                for (int i = 0; i < m; i += LINES)
                    for (int j = jn; j < min(jn + near, n); j += LINES)
                        ragged_block(depth, a + (size_t)i*depth*16, right + j*line, add || p0, C + (i0 + i)*ldc + j0 + j, ldc, m - i, n - j,
                                     (const float *)(right + (j + LINES)*line) + i / LINES * depth*ahead*LINE, ahead);
            if (e && p0 + k == K) epilogue(C, ldc, e, i0, i0 + m, j0, j0 + n);
        }
    }
    tiles_off();
}
#endif

// ---- turning around -------------------------------------------------------------------------------------------------------------
// Rows become columns: for the keys of attention, and for a few rows of a linear layer.

enum { RT = VW == 8 ? 4 : MR == 6 && VW == 4 ? 4 : 8, GROUP = VW > RT ? VW : RT };     // rows of a register tile of attention; turned rows come in GROUPs

enum { AHEAD = 16 };                            // rows that a row of a head is asked for early, since they lie too far apart to be expected

// panels [rows / VW][HS][VW] of inp (rows,HS), completed with zeros to a multiple of GROUP rows
static void turn(float *panel, const float *inp, size_t ld, int rows, int HS, Precision how) {
    for (int r0 = 0; r0 < round_up(rows, GROUP); r0 += 4) {
        float *out = panel + (size_t)(r0 / VW)*HS*VW + r0 % VW;
        const float *x = inp + r0*ld;
        int m = min(4, rows - r0), i = 0;
        for (int r = r0 + AHEAD; r < min(r0 + AHEAD + 4, rows); r++) ask_for_row(inp + r*ld, HS);
        if (m == 4) for (; i + 4 <= HS; i += 4) transpose4(out + i*VW, VW, x + i, ld);
        for (; i < HS; i++) for (int r = 0; r < 4; r++) out[i*VW + r] = r < m ? x[r*ld + i] : 0;
    }
    round_operands(panel, (size_t)round_up(rows, GROUP)*HS, how);
}

// ---- linear layers --------------------------------------------------------------------------------------------------------------

// A weight (OC,C) that will not change can be packed once for all calls: packed_size() numbers, as gemm() and tile_gemm() would pack it in each. Column j of the
// product, where a strip begins, stands at packed_at(j).
static bool on_tiles(Precision how) { return how == BF16 && has_matrix_unit(); }
static size_t packed_at(size_t j, int C, Precision how) { return j * (on_tiles(how) ? (size_t)round_up(C, 32) / 2 : (size_t)C); }
size_t packed_size(int C, int OC, Precision how) { return packed_at((size_t)round_up(OC, on_tiles(how) ? 32 : tile_columns(OC, C)), C, how); }
void pack_weight(float *packed, const float *weight, int C, int OC, Precision how) {
#ifdef AMX
    if (on_tiles(how)) { pack_tiles((uint32_t *)packed, weight, OC, C, C, 1, 1); return; }
#endif
    for (int j = 0, nr = tile_columns(OC, C); j < OC; j += nr) pack_columns(packed + (size_t)j*C, weight + (size_t)j*C, min(nr, OC - j), C, C, 1, nr, how);
}

static void multiply_part(int M, int N, int K, const float *A, size_t ai, size_t ap, const float *B, size_t bp, size_t bj, const float *packed, int add, float *C, size_t ldc,
                          const Epilogue *e, int nr, int narrow, Precision how) {
#ifdef AMX
    if (on_tiles(how)) { tile_gemm(M, N, K, A, ai, ap, B, bp, bj, (const uint32_t *)packed, add, C, ldc, e); return; }
#endif
    gemm(M, N, K, A, ai, ap, B, bp, bj, packed, add, C, ldc, e, nr, narrow, how);
}

// Each thread computes one of down x across parts of C and packs what it needs for itself: what another core has packed, or made, is slow to read.
// half: NULL, or where the second half of the K terms goes, as a sum of its own (M,N) and behind it its own e->sums: see linear_backward_weight_fast().
static void multiply(int M, int N, int K, const float *A, size_t ai, size_t ap, const float *B, size_t bp, size_t bj, const float *packed, int add, float *C, size_t ldc,
                     const Epilogue *e, float *half, Precision how) {
    int nr = tile_columns(N, K), halves = half ? 2 : 1, threads = (double)M * N * K > LITTLE ? omp_get_max_threads() : 1, all = max(threads / halves, 1), rows = M, columns = N, across = 1;
    double least = INFINITY;                            // of what the largest part costs; to pack a number costs about as much as 64 products
    for (int n = 1; n <= all; n++) {
        if (all % n) continue;
        int down = all / n, r = round_up((M + down - 1) / down, on_tiles(how) ? 32 : tile_height(nr)), c = round_up((N + n - 1) / n, on_tiles(how) ? 64 : nr);       // whole tiles
        double high = min(r, M), wide = min(c, N), cost = high*wide + 64 * (high + (packed ? 0 : wide));
        if (cost < least) least = cost, rows = r, columns = c, across = n;
    }
    #pragma omp parallel for if (threads > 1)
    for (int part = 0; part < all * halves; part++) {
        int second = part / all, i = part % all / across * rows, j = part % all % across * columns, m = min(rows, M - i), n = min(columns, N - j);
        int p = second ? round_up(K / 2, 32) : 0, k = half && !second ? round_up(K / 2, 32) : K - p;
        if (m <= 0 || n <= 0) continue;                 // fewer tiles than threads
        Epilogue mine = {0};
        if (e) mine = (Epilogue){e->bias ? e->bias + j : NULL, e->pre ? e->pre + i*ldc + j : NULL, e->act, e->sums && !j ? (second ? half + (size_t)M*N : e->sums) + i : NULL};
        multiply_part(m, n, k, A + i*ai + p*ap, ai, ap, B + p*bp + j*bj, bp, bj, packed ? packed + packed_at((size_t)j, K, how) : NULL, add && !second, (second ? half : C) + i*ldc + j, ldc, e ? &mine : NULL, nr, N <= OFTEN, how);
    }
}

// Up to FEW rows: the weights are read once and as they are, in dot products of DM rows of inp with DN rows of weight.
enum { FEW = 4, DM = VW == 16 ? 4 : 2, DN = 4 };
_Static_assert(DN == 4, "four_sums() finishes four dot products");
// the sums of the numbers of each of four vectors
static inline __attribute__((always_inline)) vec4 four_sums(const vec *x) {
    vec4 s[4];
    for (int j = 0; j < 4; j++) {
        union { vec all; vec4 part[VW / 4]; } y = {x[j]};
        s[j] = y.part[0];
        for (int i = 1; i < VW / 4; i++) s[j] += y.part[i];
    }
    vec4 ab = SHUFFLE(s[0], s[1], 0, 4, 1, 5) + SHUFFLE(s[0], s[1], 2, 6, 3, 7), cd = SHUFFLE(s[2], s[3], 0, 4, 1, 5) + SHUFFLE(s[2], s[3], 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
}
static inline __attribute__((always_inline)) void dots(float *sum, const float *const *x, const float *const *w, const int m, int C) {
    vec s[DM][DN];
    UNROLL for (int i = 0; i < m; i++) UNROLL for (int j = 0; j < DN; j++) s[i][j] = (vec){0};
    int c = 0;
    for (; c + VW <= C; c += VW) {
        vec y[DN];
        if (c % LINE == 0) UNROLL for (int j = 0; j < DN; j++) ask(w[j], (size_t)2*DN*C + c);      // for the group of DN rows after the next
        UNROLL for (int j = 0; j < DN; j++) { y[j] = *(const vec *)(w[j] + c); KEEP(y[j]); }
        UNROLL for (int i = 0; i < m; i++) { vec x_i = *(const vec *)(x[i] + c); KEEP(x_i); UNROLL for (int j = 0; j < DN; j++) s[i][j] += x_i * y[j]; }
    }
    UNROLL for (int i = 0; i < m; i++) {
        *(vec4 *)(sum + i*DN) = four_sums(s[i]);
        for (int j = 0; j < DN; j++) for (int l = c; l < C; l++) sum[i*DN + j] += x[i][l] * w[j][l];
    }
}
static void few_rows(float *out, const float *inp, const float *weight, int N, int C, int OC, const Epilogue *e) {
    enum { COLUMNS = 64 };
    #pragma omp parallel for if ((double)N * C * OC > LITTLE)
    for (int o0 = 0; o0 < OC; o0 += COLUMNS) {
        int o1 = min(o0 + COLUMNS, OC);
        for (int o = o0; o < o1; o += DN) {
            const float *w[DN];
            float sum[DM * DN] = {0};
            for (int j = 0; j < DN; j++) w[j] = weight + (size_t)min(o + j, OC - 1)*C;
            for (int n = 0; n < N; n += DM) {
                const float *x[DM];
                for (int i = 0; i < DM; i++) x[i] = inp + (size_t)min(n + i, N - 1)*C;
                if (n + 1 < N) dots(sum, x, w, DM, C); else dots(sum, x, w, 1, C);
                for (int i = 0; i < DM && n + i < N; i++)
                    for (int j = 0; j < DN && o + j < OC; j++) out[(size_t)(n + i)*OC + o + j] = sum[i*DN + j];
            }
        }
        if (e) epilogue(out, OC, e, 0, N, o0, o1);
    }
}

// FEW to MORE rows, where weights are not packed: the rows are turned around, so that mv vectors hold one number of each; then every number of the weights is read once and multiplies
// them all, MN rows of weight at a time, while memory is asked for the next MN.
enum { MORE = VW == 16 ? 32 : 16, MV = MORE / VW, MN = VW == 16 ? 8 : VW == 8 ? 6 : MR == 8 ? 4 : 2 };
_Static_assert(MORE / 2 % GROUP == 0 && GROUP % VW == 0, "turned rows fill whole vectors");
// sum[r][n] = row n of the turned x with w[r], KC numbers at a time, since long chains of sums lose digits. The bias joins the last part before that
// joins the others, as in gemm(): the same bits.
static inline __attribute__((always_inline)) void turned_dots(float (*sum)[MORE], const int mv, const float *x, const float *const *w, const float *bias, int C) {
    memset(sum, 0, MN * sizeof *sum);
    for (int c0 = 0; c0 < C; c0 += KC) {
        vec s[MN][MV];
        UNROLL for (int r = 0; r < MN; r++) UNROLL for (int j = 0; j < mv; j++) s[r][j] = (vec){0};
        for (int c = c0; c < min(c0 + KC, C); c++) {
            vec y[MV];
            if (c % LINE == 0) UNROLL for (int r = 0; r < MN; r++) ask(w[r], (size_t)MN*C + c);
            UNROLL for (int j = 0; j < mv; j++) { y[j] = *(const vec *)(x + ((size_t)j*C + c)*VW); KEEP(y[j]); }
            UNROLL for (int r = 0; r < MN; r++) UNROLL for (int j = 0; j < mv; j++) s[r][j] += w[r][c] * y[j];
        }
        if (bias && c0 + KC >= C) UNROLL for (int r = 0; r < MN; r++) UNROLL for (int j = 0; j < mv; j++) s[r][j] += bias[r];
        UNROLL for (int r = 0; r < MN; r++) UNROLL for (int j = 0; j < mv; j++) *(vec *)(sum[r] + j*VW) += s[r][j];
    }
}
static void more_rows(float *out, const float *inp, const float *weight, int N, int C, int OC, const Epilogue *e) {
    enum { COLUMNS = 8 * MN };
    int half = N <= MORE / 2, lines = half ? MORE / 2 : MORE;
    float *x = scratch(PANEL_A, (size_t)C * MORE);
    Epilogue rest = e ? (Epilogue){NULL, e->pre, e->act, NULL} : (Epilogue){0};
    if (N <= lines - GROUP) memset(x, 0, (size_t)C * lines * sizeof(float));    // vectors that turn() leaves alone
    turn(x, inp, C, N, C, FP32);
    #pragma omp parallel for if ((double)N * C * OC > LITTLE)
    for (int o0 = 0; o0 < OC; o0 += COLUMNS) {
        int o1 = min(o0 + COLUMNS, OC);
        for (int o = o0; o < o1; o += MN) {
            const float *w[MN];
            float sum[MN][MORE], own_bias[MN], *bias = e && e->bias ? own_bias : NULL;
            UNROLL for (int r = 0; r < MN; r++) { int row = min(o + r, OC - 1); w[r] = weight + (size_t)row*C, own_bias[r] = bias ? e->bias[row] : 0; }
            if (half) turned_dots(sum, MV / 2, x, w, bias, C); else turned_dots(sum, MV, x, w, bias, C);
            int n = 0;
            if (MN % 4 == 0 && o + MN <= OC)            // turned back 4 x 4 at a time
                for (; n + 4 <= N; n += 4) UNROLL for (int r = 0; r < MN; r += 4) transpose4(out + (size_t)n*OC + o + r, OC, &sum[r][n], MORE);
            for (; n < N; n++) for (int r = 0; r < MN && o + r < OC; r++) out[(size_t)n*OC + o + r] = sum[r][n];
        }
        epilogue(out, OC, &rest, 0, N, o0, o1);
    }
}

void linear_forward_fast(float *out, float *pre, const float *inp, const float *weight, const float *packed, const float *bias, int N, int C, int OC, Activation act, Precision how) {
    Epilogue e = {bias, pre, act, NULL}, *finish = bias || pre || act ? &e : NULL;
    if (N <= FEW && how == FP32) few_rows(out, inp, weight, N, C, OC, finish);
    else if (N <= MORE && how == FP32 && !packed) more_rows(out, inp, weight, N, C, OC, finish);
    else multiply(N, OC, C, inp, C, 1, weight, 1, C, packed, 0, out, OC, finish, NULL, how);
}

void linear_backward_inp_fast(float *dinp, const float *dpre, const float *weight, int N, int C, int OC, bool add, Precision how) {
    multiply(N, C, OC, dpre, OC, 1, weight, C, 1, NULL, add, dinp, C, NULL, NULL, how);
}

// Many rows are summed in two halves, whatever the number of threads: two cores then read the rows that they have made themselves.
void linear_backward_weight_fast(float *dweight, float *dbias, const float *dpre, const float *inp, int N, int C, int OC, Precision how) {
    enum { MANY = 1024 };
    Epilogue e = {.sums = dbias};
    float *half = N >= MANY ? scratch(HALF, (size_t)OC*C + OC) : NULL;
    if (half) memset(half + (size_t)OC*C, 0, OC * sizeof(float));
    multiply(OC, C, N, dpre, 1, OC, inp, C, 1, NULL, 1, dweight, C, &e, half, how);
    if (!half) return;
    #pragma omp parallel for if ((double)OC * C > 2*PIECE)
    for (int o = 0; o < OC; o++) for (int c = 0; c < C; c++) dweight[(size_t)o*C + c] += half[(size_t)o*C + c];
    for (int o = 0; o < OC && dbias; o++) dbias[o] += half[(size_t)OC*C + o];
}

// ---- attention over spans -----------------------------------------------------------------------------------------------------
// A tile is up to R neighbouring rows. For each of the two intervals it takes all keys that any of its rows sees; where a row of the tile sees
// less, its scores become -inf. The scores of a tile fit the cache, so the softmax is an exact one, not an online one.
// Keys (and for backward, values) are first turned around into panels [group of VW keys][HS][VW], along which the products walk straight ahead.

enum { R = 16 };                                // rows of a tile

// c (RT rows, nv vectors) = [c +] sum_p a[r*ar + p*ap] b[p*bp + j*bj ..]
static inline __attribute__((always_inline)) void product_nv(const int nv, int k, const float *a, size_t ar, size_t ap, const float *b, size_t bp, size_t bj,
                                                             float *c, size_t cr, int add) {
    vec s[RT][3];
    UNROLL for (int r = 0; r < RT; r++) UNROLL for (int j = 0; j < nv; j++) s[r][j] = add ? *(vec *)(c + r*cr + j*VW) : (vec){0};
    for (int p = 0; p < k; p++) {
        vec y[3];
        UNROLL for (int j = 0; j < nv; j++) { y[j] = *(const vec *)(b + p*bp + j*bj); KEEP(y[j]); }
        UNROLL for (int r = 0; r < RT; r++) UNROLL for (int j = 0; j < nv; j++) s[r][j] += a[r*ar + p*ap] * y[j];
    }
    UNROLL for (int r = 0; r < RT; r++) UNROLL for (int j = 0; j < nv; j++) *(vec *)(c + r*cr + j*VW) = s[r][j];
}

// the same for m rows (rounded up to RT) and n vectors
static void product(int m, int n, int k, const float *a, size_t ar, size_t ap, const float *b, size_t bp, size_t bj, float *c, size_t cr, int add) {
    for (int nv; n > 0; n -= nv, b += nv*bj, c += nv*VW) {
        nv = n == 4 ? 2 : min(n, 3);
        for (int r = 0; r < m; r += RT) {
            if (nv == 3) product_nv(3, k, a + r*ar, ar, ap, b, bp, bj, c + r*cr, cr, add);
            else if (nv == 2) product_nv(2, k, a + r*ar, ar, ap, b, bp, bj, c + r*cr, cr, add);
            else product_nv(1, k, a + r*ar, ar, ap, b, bp, bj, c + r*cr, cr, add);
        }
    }
}

// out (all,D) = inp (rows,HS), completed with zeros
static void pad(float *out, int all, int D, const float *inp, size_t ld, int rows, int HS, Precision how) {
    for (int r = 0; r < rows; r++) {
        if (r + AHEAD < rows) ask_for_row(inp + (r + AHEAD)*ld, HS);
        for (int i = 0; i < HS; i++) out[(size_t)r*D + i] = inp[r*ld + i];
        for (int i = HS; i < D; i++) out[(size_t)r*D + i] = 0;
    }
    memset(out + (size_t)rows*D, 0, (size_t)(all - rows) * D * sizeof(float));
    round_operands(out, (size_t)rows*D, how);
}

// The same, but where nothing is to be rounded or completed: inp itself. *ld: of what is returned
static const float *padded(float *out, int all, int D, const float *inp, size_t *ld, int rows, int HS, Precision how) {
    if (how == FP32 && D == HS && rows == all) return inp;
    pad(out, all, D, inp, *ld, rows, HS, how);
    *ld = (size_t)D;
    return out;
}

static int length(const Span *s, int part) { return s->hi[part] > s->lo[part] ? s->hi[part] - s->lo[part] : 0; }

// Some rows, from row t on, and all that they see: keys [lo,hi) of each interval, counted from key `base` on; column at[part] of the scores is key
// from[part], a multiple of GROUP
typedef struct Tile { int t, base, rows, lo[2], hi[2], from[2], at[2], columns; } Tile;
static Tile widen(Tile x, const Span *s) {
    x.rows++, x.columns = 0;
    for (int part = 0; part < 2; part++) {
        if (length(s, part)) {
            int lo = s->lo[part] - x.base, hi = s->hi[part] - x.base, first = x.lo[part] == x.hi[part];
            if (first || lo < x.lo[part]) x.lo[part] = lo;
            if (first || hi > x.hi[part]) x.hi[part] = hi;
        }
        x.from[part] = x.lo[part] / GROUP * GROUP, x.at[part] = x.columns;
        if (x.hi[part] > x.lo[part]) x.columns += round_up(x.hi[part] - x.from[part], GROUP);
    }
    return x;
}
// Rows join as long as the tile grows by fewer columns than a tile of their own would have.
static Tile tile_at(const Span *span, int t, int T, int base) {
    Tile x = widen((Tile){.t = t, .base = base}, span + t);
    while (x.rows < R && t + x.rows < T) {
        Tile more = widen(x, span + t + x.rows), own = widen((Tile){.base = base}, span + t + x.rows);
        if (more.columns > x.columns + own.columns) break;
        x = more;
    }
    return x;
}

// s (columns) = value wherever the row does not see the key
static void hide(float *s, const Tile *x, const Span *span, float value) {
    ivec lane;
    for (int l = 0; l < VW; l++) lane[l] = l;
    for (int part = 0; part < 2; part++) {
        int n = (part ? x->columns : x->at[1]) - x->at[part], first = x->base + x->from[part], lo = span->lo[part] - first, hi = span->hi[part] - first;
        if (!length(span, part)) lo = hi = n;
        for (int j = 0; j < n; j += VW) {       // whole vectors, since they are read as such next
            vec *y = (vec *)(s + x->at[part] + j);
            if (j < lo || j + VW > hi) *y = choose((lane + j >= lo) & (lane + j < hi), *y, (vec){0} + value);
        }
    }
}

// s (R, ls) = rows a, lda numbers apart, times the keys of the tile, from panels
static void against_keys(float *s, size_t ls, const Tile *x, const float *a, size_t lda, const float *panel, int HS) {
    for (int part = 0; part < 2; part++)
        product(x->rows, ((part ? x->columns : x->at[1]) - x->at[part]) / VW, HS, a, lda, 1, panel + (size_t)x->from[part]*HS, VW, HS*VW, s + x->at[part], ls, 0);
}
// c (R,D) = p (R, ls) times the rows of b, ldb numbers apart, that the tile sees
static void combine_keys(float *c, int D, const Tile *x, const float *p, size_t ls, const float *b, size_t ldb) {
    for (int part = 0; part < 2; part++)
        product(x->rows, D / VW, x->hi[part] - x->lo[part], p + x->at[part] + x->lo[part] - x->from[part], ls, 1, b + (size_t)x->lo[part]*ldb, ldb, VW, c, D, part);
}

// What attention costs at most, in multiply-adds; to turn a key or a query around is like ten of them for each number
#define ATTENTION_WORK ((double)B * NH * HS * (2.0 * Tq * Tk + 10.0 * (Tq + Tk)))

// Rows [t0,t1) of a span table that see keys of [k0,k1) only, which nobody else sees: parts can be worked on at the same time.
typedef struct Part { int t0, t1, k0, k1, tile, tiles; } Part;
static Part *find_parts(const Span *span, int T, int Tk, int *parts) {
    Part *part = (Part *)scratch(PARTS, (size_t)T * (sizeof(Part) / sizeof(float)));
    int n = 0, low = Tk, high = 0;
    for (int t = T - 1; t >= 0; t--) {                  // from the end: the smallest key that row t or a later one sees
        for (int p = 0; p < 2; p++) if (length(span + t, p)) low = min(low, span[t].lo[p]);
        part[t].k0 = low;
    }
    for (int t = 0; t < T; t++) {
        if (t == 0 || high <= part[t].k0) {             // everything that rows before t see lies below
            if (n) part[n - 1].t1 = t, part[n - 1].k1 = max(high, part[n - 1].k0);
            part[n++] = (Part){.t0 = t, .k0 = part[t].k0};
        }
        for (int p = 0; p < 2; p++) if (length(span + t, p) && span[t].hi[p] > high) high = span[t].hi[p];
    }
    if (n) part[n - 1].t1 = T, part[n - 1].k1 = max(high, part[n - 1].k0);
    *parts = n;
    return part;
}

// The tiles of all parts: those of part i are tile[part[i].tile] and what follows, part[i].tiles of them
static Tile *find_tiles(Part *part, int parts, const Span *span, int T) {
    Tile *tile = (Tile *)scratch(ALL_TILES, (size_t)T * (sizeof(Tile) / sizeof(float)));
    int n = 0;
    for (int i = 0; i < parts; i++) {
        part[i].tile = n;
        for (int t = part[i].t0; t < part[i].t1; t += tile[n++].rows) tile[n] = tile_at(span, t, part[i].t1, part[i].k0);
        part[i].tiles = n - part[i].tile;
    }
    return tile;
}

// What backward does with a row of HS numbers: x [+]= factor d
static void put(float *x, const float *d, float factor, int HS, bool add) {
    if (add) for (int i = 0; i < HS; i++) x[i] += factor * d[i];
    else for (int i = 0; i < HS; i++) x[i] = factor * d[i];
}
// What it does with the keys of part i, from the first of k0..k1-1 on in dk_p, dv_p (.,D), and, where it overwrites, with those beside it that nobody sees
static void put_keys(float *dk, float *dv, const float *dk_p, const float *dv_p, float scale, const Part *part, int i, int parts, int Tk, int D, int HS, size_t ld, bool add) {
    int first = i ? part[i - 1].k1 : 0, last = i == parts - 1 ? Tk : part[i].k1;
    for (int j = first; j < last; j++) {
        if (j >= part[i].k0 && j < part[i].k1) put(dk + j*ld, dk_p + (size_t)(j - part[i].k0)*D, scale, HS, add), put(dv + j*ld, dv_p + (size_t)(j - part[i].k0)*D, 1, HS, add);
        else if (!add) memset(dk + j*ld, 0, HS * sizeof(float)), memset(dv + j*ld, 0, HS * sizeof(float));
    }
}

// ---- attention on AMX tiles -----------------------------------------------------------------------------------------------------
// 32 rows x 32 keys make a block. The blocks that some row of a tile of 32 rows sees are computed one after the other; where not all rows see all
// keys of a block, hide_block() does the rest. Scores stand block by block, so that a block is contiguous.
#ifdef AMX

// Of 32 rows: interval i of the one that starts first, last; that ends first, last
typedef struct Reach { int first[2], start[2], end[2], last[2]; } Reach;
static Reach reach_of(const Span *span, int rows, int base) {
    Reach x = {{INT32_MAX, INT32_MAX}, {0, 0}, {INT32_MAX, INT32_MAX}, {0, 0}};
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++) {
            int lo = span[r].lo[i] - base, hi = span[r].hi[i] - base;
            if (lo >= hi) { x.end[i] = 0; continue; }   // one that sees nothing: no block is seen by all
            x.first[i] = min(x.first[i], lo), x.start[i] = max(x.start[i], lo);
            x.end[i] = min(x.end[i], hi), x.last[i] = max(x.last[i], hi);
        }
    return x;
}
static int some_see(const Reach *x, int j) { return (x->first[0] < j + LINES && j < x->last[0]) || (x->first[1] < j + LINES && j < x->last[1]); }
static int all_see(const Reach *x, int j) { return (x->start[0] <= j && j + LINES <= x->end[0]) || (x->start[1] <= j && j + LINES <= x->end[1]); }

// s (32,32) = value where row r does not see key j + column
static void hide_block(float *s, const Span *span, int rows, int j, float value) {
    ivec lane;
    for (int l = 0; l < VW; l++) lane[l] = j + l;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < LINES; c += VW) {
            ivec x = lane + c, sees = ((x >= span[r].lo[0]) & (x < span[r].hi[0])) | ((x >= span[r].lo[1]) & (x < span[r].hi[1]));
            vec *y = (vec *)(s + r*LINES + c);
            *y = choose(sees, *y, (vec){0} + value);
        }
}

// c (32, D) = the packed blocks a (n of them) times the keys key[0..n-1] of b, packed with columns of HS as lines
static void combine_blocks(float *c, int D, const uint32_t *a, const int *key, int n, const uint32_t *b, int keys) {
    int along = round_up(keys, DEPTH) / DEPTH;
    for (int d = 0; d < D; d += LINES)
        for (int i = 0, run; i < n; i += run) {
            for (run = 1; i + run < n && key[i + run] == key[i + run - 1] + LINES; run++);
            tile_block(run, a + (size_t)i*2*TILE_SIZE, b + ((size_t)(d / LINES)*along + key[i] / DEPTH)*2*TILE_SIZE, i > 0, c + d, D);
        }
}

static void tile_attention_forward(float *out, float *lse, const float *q, const float *k, const float *v, const Span *span,
                                   int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv) {
    int D = round_up(HS, DEPTH), depth = D / DEPTH, parts;
    float scale = 1 / sqrtf(HS);
    const Part *part = find_parts(span, Tq, Tk, &parts);
    #pragma omp parallel if (ATTENTION_WORK > LITTLE)
    {
        tiles_on();
        #pragma omp for collapse(3)
        for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
        for (int i = 0; i < parts; i++) {
            int base = part[i].k0, keys = part[i].k1 - base, all = round_up(keys, LINES), most = all / LINES;
            size_t head_q = (size_t)b*Tq*ldq + h*HS, head_k = ((size_t)b*Tk + base)*ldkv + h*HS, operand = (size_t)all * D / 2, block = LINES * LINES;
            uint32_t *kp = (uint32_t *)scratch(TRANSPOSED, 2*operand), *vp = kp + operand, *qp = (uint32_t *)scratch(TILE, LINES * D / 2 + most), *p = (uint32_t *)scratch(PADDED, most * block / 2);
            float *s = scratch(SCORES, most * block + (size_t)LINES * D), *out_tile = s + most * block;
            int *key = (int *)qp + LINES * D / 2;
            pack_tiles(kp, k + head_k, keys, HS, ldkv, 1, 1);
            pack_tiles(vp, v + head_k, HS, keys, 1, ldkv, 1);
            for (int t = part[i].t0; t < part[i].t1; t += LINES) {
                int rows = min(LINES, part[i].t1 - t), n = 0;
                const Span *see = span + t;
                Reach reach = reach_of(see, rows, base);

                // pass 1: scores and their maxima
                vec tops[LINES];
                float top[LINES], sum[LINES];
                pack_tiles(qp, q + head_q + (size_t)t*ldq, rows, HS, ldq, 1, 0);
                for (int r = 0; r < LINES; r++) tops[r] = (vec){0} - INFINITY;
                for (int j = 0; j < keys; j += LINES) if (some_see(&reach, j)) {
                    float *s_j = s + n*block;
                    tile_block(depth, qp, kp + (size_t)j * D / 2, 0, s_j, LINES);
                    if (!all_see(&reach, j)) hide_block(s_j, see, rows, base + j, -INFINITY);
                    for (int r = 0; r < rows; r++) for (int c = 0; c < LINES; c += VW) { vec y = *(vec *)(s_j + r*LINES + c); tops[r] = choose(y > tops[r], y, tops[r]); }
                    key[n++] = j;
                }

                // pass 2: softmax, not yet divided by its sum
                vec sums[LINES];
                for (int r = 0; r < rows; r++) {
                    top[r] = largest_of(tops[r]), sums[r] = (vec){0};
                    if (see[r].lo[0] >= see[r].hi[0] && see[r].lo[1] >= see[r].hi[1]) top[r] = 0;
                }
                for (int a = 0; a < n; a++) {
                    float *s_a = s + a*block;
                    for (int r = 0; r < rows; r++)
                        for (int c = 0; c < LINES; c += VW) {
                            vec y = vexp((*(vec *)(s_a + r*LINES + c) - top[r]) * scale);
                            *(vec *)(s_a + r*LINES + c) = y;
                            sums[r] += y;
                        }
                    pack_tiles(p + a*block / 2, s_a, rows, LINES, LINES, 1, 0);
                }

                // pass 3: weighted sum of values
                combine_blocks(out_tile, D, p, key, n, vp, keys);
                for (int r = 0; r < rows; r++) {
                    sum[r] = sum_of(sums[r]);
                    float *out_r = out + (((size_t)b*Tq + t + r)*NH + h)*HS, factor = sum[r] == 0 ? 0 : 1 / sum[r];
                    for (int d = 0; d < HS; d++) out_r[d] = n ? out_tile[r*D + d] * factor : 0;
                    lse[((size_t)b*NH + h)*Tq + t + r] = top[r] * scale + logf(sum[r]);
                }
            }
        }
        tiles_off();
    }
}

static void tile_attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse, const float *q, const float *k,
                                    const float *v, const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, bool add) {
    int D = round_up(HS, DEPTH), depth = D / DEPTH, C = NH*HS, parts;
    float scale = 1 / sqrtf(HS);
    const Part *part = find_parts(span, Tq, Tk, &parts);
    #pragma omp parallel if (ATTENTION_WORK > LITTLE)
    {
        tiles_on();
        #pragma omp for collapse(3)
        for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
        for (int i = 0; i < parts; i++) {
            int base = part[i].k0, keys = part[i].k1 - base, all = round_up(keys, LINES), most = all / LINES;
            size_t head_q = (size_t)b*Tq*ldq + h*HS, head_of_keys = (size_t)b*Tk*ldkv + h*HS, head_k = head_of_keys + (size_t)base*ldkv, head_out = (size_t)b*Tq*C + h*HS;
            size_t operand = (size_t)all * D / 2, block = LINES * LINES, few = LINES * D / 2;
            uint32_t *kp = (uint32_t *)scratch(TRANSPOSED, 3*operand), *vp = kp + operand, *kc = vp + operand;      // K, V, and K with its columns as lines
            uint32_t *left = (uint32_t *)scratch(TILE, 4*few + most), *dout_left = left + few, *right = dout_left + few, *dout_right = right + few;
            uint32_t *ds_packed = (uint32_t *)scratch(SCORES, most * block / 2);
            float *dk_p = scratch(PADDED, 2*(size_t)all*D + LINES * D), *dv_p = dk_p + (size_t)all*D, *dq_tile = dv_p + (size_t)all*D;
            int *key = (int *)(left + 4*few);
            pack_tiles(kp, k + head_k, keys, HS, ldkv, 1, 1);
            pack_tiles(vp, v + head_k, keys, HS, ldkv, 1, 1);
            pack_tiles(kc, k + head_k, HS, keys, 1, ldkv, 1);
            memset(dk_p, 0, (size_t)2*all*D * sizeof(float));
            for (int t = part[i].t0; t < part[i].t1; t += LINES) {
                int rows = min(LINES, part[i].t1 - t), n = 0;
                const Span *see = span + t;
                const float *q_t = q + head_q + (size_t)t*ldq, *dout_t = dout + head_out + (size_t)t*C, *out_t = out + head_out + (size_t)t*C;
                const float *lse_t = lse + ((size_t)b*NH + h)*Tq + t;
                Reach reach = reach_of(see, rows, base);
                float delta[LINES] = {0};
                pack_tiles(left, q_t, rows, HS, ldq, 1, 0), pack_tiles(dout_left, dout_t, rows, HS, C, 1, 0);
                pack_tiles(right, q_t, HS, rows, 1, ldq, 1), pack_tiles(dout_right, dout_t, HS, rows, 1, C, 1);
                for (int r = 0; r < rows; r++) delta[r] = dot(dout_t + (size_t)r*C, out_t + (size_t)r*C, HS);

                for (int j = 0; j < keys; j += LINES) if (some_see(&reach, j)) {
                    // pass 1: scores and dp; p = exp(scores - lse), ds = p (dp - dout.out), both 0 where a row does not see a key
                    _Alignas(64) float p[LINES * LINES], ds[LINES * LINES];
                    _Alignas(64) uint32_t turned[2 * TILE_SIZE];
                    tile_block(depth, left, kp + (size_t)j * D / 2, 0, p, LINES);
                    tile_block(depth, dout_left, vp + (size_t)j * D / 2, 0, ds, LINES);
                    for (int r = 0; r < rows; r++)
                        for (int c = 0; c < LINES; c += VW) {
                            vec y = vexp(*(vec *)(p + r*LINES + c) * scale - lse_t[r]);
                            *(vec *)(p + r*LINES + c) = y;
                            *(vec *)(ds + r*LINES + c) = y * (*(vec *)(ds + r*LINES + c) - delta[r]);
                        }
                    if (!all_see(&reach, j)) hide_block(p, see, rows, base + j, 0), hide_block(ds, see, rows, base + j, 0);

                    // pass 2: dk_j += ds_j q (scaled at the end), dv_j += p_j dout; ds is kept for dq
                    pack_tiles(ds_packed + n*block / 2, ds, rows, LINES, LINES, 1, 0);
                    pack_tiles(turned, ds, LINES, rows, 1, LINES, 0);
                    for (int d = 0; d < D; d += LINES) tile_block(1, turned, right + d*LINES / 2, 1, dk_p + (size_t)j*D + d, D);
                    pack_tiles(turned, p, LINES, rows, 1, LINES, 0);
                    for (int d = 0; d < D; d += LINES) tile_block(1, turned, dout_right + d*LINES / 2, 1, dv_p + (size_t)j*D + d, D);
                    key[n++] = j;
                }

                // pass 3: dq += scale ds k
                combine_blocks(dq_tile, D, ds_packed, key, n, kc, keys);
                if (!n) memset(dq_tile, 0, LINES * D * sizeof(float));
                for (int r = 0; r < rows; r++) put(dq + head_q + (size_t)(t + r)*ldq, dq_tile + r*D, scale, HS, add);
            }
            put_keys(dk + head_of_keys, dv + head_of_keys, dk_p, dv_p, scale, part, i, parts, Tk, D, HS, ldkv, add);
        }
        tiles_off();
    }
}
#endif

void attention_forward_fast(float *out, float *lse, const float *q, const float *k, const float *v, const Span *span,
                            int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, Precision how) {
#ifdef AMX
    if (on_tiles(how)) { tile_attention_forward(out, lse, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv); return; }
#endif
    int D = round_up(HS, VW), parts;
    float scale = 1 / sqrtf(HS);
    Part *part = find_parts(span, Tq, Tk, &parts);
    const Tile *tile = find_tiles(part, parts, span, Tq);
    #pragma omp parallel for collapse(3) if (ATTENTION_WORK > LITTLE)
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++)
    for (int i = 0; i < parts; i++) {
        int base = part[i].k0, keys = part[i].k1 - base, ls = 2*round_up(keys, GROUP) + 16;
        size_t head_q = (size_t)b*Tq*ldq + h*HS, head_k = ((size_t)b*Tk + base)*ldkv + h*HS;
        float *kt = scratch(TRANSPOSED, (size_t)round_up(keys, GROUP) * HS);
        float *s = scratch(SCORES, (size_t)R * ls), *q_tile = scratch(TILE, (size_t)2*R*D), *out_tile = q_tile + R*D;
        turn(kt, k + head_k, ldkv, keys, HS, how);
        size_t ldv = (size_t)ldkv;
        const float *values = padded(scratch(PADDED, (size_t)keys * D), keys, D, v + head_k, &ldv, keys, HS, how);
        for (const Tile *x = tile + part[i].tile, *end = x + part[i].tiles; x < end; x++) {
            int t = x->t;
            // pass 1: scores
            size_t ld_rows = (size_t)ldq;
            const float *rows = padded(q_tile, round_up(x->rows, RT), D, q + head_q + (size_t)t*ldq, &ld_rows, x->rows, HS, how);
            against_keys(s, ls, x, rows, ld_rows, kt, HS);

            // pass 2: softmax, not yet divided by its sum
            float sum[R] = {0};
            for (int r = 0; r < x->rows; r++) {
                const Span *see = span + t + r;
                float *s_r = s + (size_t)r*ls, top;
                vec tops = (vec){0} - INFINITY, sums = {0};
                hide(s_r, x, see, -INFINITY);
                for (int j = 0; j < x->columns; j += VW) { vec y = *(vec *)(s_r + j); tops = choose(y > tops, y, tops); }
                top = largest_of(tops);
                if (!length(see, 0) && !length(see, 1)) top = 0;                        // sees nothing: exp(-inf - 0) = 0
                for (int j = 0; j < x->columns; j += VW) { vec p = vexp((*(vec *)(s_r + j) - top) * scale); *(vec *)(s_r + j) = p; sums += p; }
                round_operands(s_r, x->columns, how);
                sum[r] = sum_of(sums);
                lse[((size_t)b*NH + h)*Tq + t + r] = top * scale + logf(sum[r]);
            }

            // pass 3: weighted sum of values
            combine_keys(out_tile, D, x, s, ls, values, ldv);
            for (int r = 0; r < x->rows; r++) {
                float *out_r = out + (((size_t)b*Tq + t + r)*NH + h)*HS, factor = sum[r] == 0 ? 0 : 1 / sum[r];
                for (int d = 0; d < HS; d++) out_r[d] = out_tile[r*D + d] * factor;
            }
        }
    }
}

void attention_backward_fast(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse, const float *q, const float *k,
                             const float *v, const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, bool add, Precision how) {
#ifdef AMX
    if (on_tiles(how)) { tile_attention_backward(dq, dk, dv, dout, out, lse, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv, add); return; }
#endif
    int D = round_up(HS, VW), C = NH*HS, parts;
    float scale = 1 / sqrtf(HS);
    Part *part = find_parts(span, Tq, Tk, &parts);
    const Tile *tile = find_tiles(part, parts, span, Tq);
    #pragma omp parallel for collapse(3) if (ATTENTION_WORK > LITTLE)
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++)
    for (int i = 0; i < parts; i++) {
        int base = part[i].k0, keys = part[i].k1 - base, all = round_up(keys, GROUP), ls = 2*all + 16;
        size_t head_q = (size_t)b*Tq*ldq + h*HS, head_of_keys = (size_t)b*Tk*ldkv + h*HS, head_k = head_of_keys + (size_t)base*ldkv, head_out = (size_t)b*Tq*C + h*HS;
        float *kt = scratch(TRANSPOSED, (size_t)2*all*HS), *vt = kt + (size_t)all*HS;
        float *dk_p = scratch(PADDED, (size_t)3*all*D), *dv_p = dk_p + (size_t)all*D;
        float *p = scratch(SCORES, (size_t)2*R * ls), *ds = p + (size_t)R*ls;
        float *q_tile = scratch(TILE, (size_t)3*R*D), *dout_tile = q_tile + R*D, *dq_tile = dout_tile + R*D;
        turn(kt, k + head_k, ldkv, keys, HS, how);
        turn(vt, v + head_k, ldkv, keys, HS, how);
        size_t ldk = (size_t)ldkv;
        const float *rows_of_k = padded(dv_p + (size_t)all*D, keys, D, k + head_k, &ldk, keys, HS, how);
        memset(dk_p, 0, (size_t)2*all*D * sizeof(float));
        for (const Tile *x = tile + part[i].tile, *end = x + part[i].tiles; x < end; x++) {
            int t = x->t;
            const float *dout_t = dout + head_out + (size_t)t*C, *out_t = out + head_out + (size_t)t*C;

            // pass 1: scores and dp
            size_t ld_q = (size_t)ldq, ld_dout = (size_t)C;
            int whole = round_up(x->rows, RT);
            const float *rows_of_q = padded(q_tile, whole, D, q + head_q + (size_t)t*ldq, &ld_q, x->rows, HS, how), *rows_of_dout = padded(dout_tile, whole, D, dout_t, &ld_dout, x->rows, HS, how);
            against_keys(p, ls, x, rows_of_q, ld_q, kt, HS);
            against_keys(ds, ls, x, rows_of_dout, ld_dout, vt, HS);

            // pass 2: p = exp(scores - lse), ds = p (dp - dout.out), both 0 where the row does not see the key
            for (int r = 0; r < x->rows; r++) {
                float *p_r = p + (size_t)r*ls, *ds_r = ds + (size_t)r*ls, delta = dot(dout_t + (size_t)r*C, out_t + (size_t)r*C, HS), lse_r = lse[((size_t)b*NH + h)*Tq + t + r];
                for (int j = 0; j < x->columns; j += VW) {
                    vec y = vexp(*(vec *)(p_r + j) * scale - lse_r);
                    *(vec *)(p_r + j) = y;
                    *(vec *)(ds_r + j) = y * (*(vec *)(ds_r + j) - delta);
                }
                hide(p_r, x, span + t + r, 0);
                hide(ds_r, x, span + t + r, 0);
                round_operands(p_r, x->columns, how);
                round_operands(ds_r, x->columns, how);
            }

            // pass 3: dq += scale ds k
            combine_keys(dq_tile, D, x, ds, ls, rows_of_k, ldk);
            for (int r = 0; r < x->rows; r++) put(dq + head_q + (size_t)(t + r)*ldq, dq_tile + r*D, scale, HS, add);

            // pass 4: dk_j += ds_j q (scaled at the end), dv_j += p_j dout
            for (int side = 0; side < 2; side++) {
                int n = (side ? x->columns : x->at[1]) - x->at[side];
                product(n, D/VW, x->rows, ds + x->at[side], 1, ls, rows_of_q, ld_q, VW, dk_p + (size_t)x->from[side]*D, D, 1);
                product(n, D/VW, x->rows, p + x->at[side], 1, ls, rows_of_dout, ld_dout, VW, dv_p + (size_t)x->from[side]*D, D, 1);
            }
        }
        put_keys(dk + head_of_keys, dv + head_of_keys, dk_p, dv_p, scale, part, i, parts, Tk, D, HS, ldkv, add);
    }
}

// ---- cross-entropy ------------------------------------------------------------------------------------------------------------

static float largest(const float *x, int n, float top) {
    vec tops = (vec){0} + top;
    int v = 0;
    for (; v + VW <= n; v += VW) { vec y = *(const vec *)(x + v); tops = choose(y > tops, y, tops); }
    for (; v < n; v++) top = fmaxf(top, x[v]);
    for (int i = 0; i < VW; i++) top = fmaxf(top, tops[i]);
    return top;
}

// sum of exp(x - top); in double from one piece to the next, so that a large vocabulary loses nothing
static double sum_exp(const float *x, int n, float top) {
    double total = 0;
    for (int from = 0, to; from < n; from = to) {
        vec sums = {0};
        int v = from;
        to = min(n, from + 1024);
        for (; v + VW <= to; v += VW) sums += vexp(*(const vec *)(x + v) - top);
        for (int i = 0; i < VW; i++) total += sums[i];
        for (; v < to; v++) total += expf(x[v] - top);
    }
    return total;
}

void cross_entropy_forward_fast(float *loss, float *row_loss, float *lse, const float *logits, const int *target, const double *weight, double scale, int excluded,
                                int N, int V) {
    int before = excluded < 0 ? V : excluded, behind = excluded < 0 ? 0 : V - excluded - 1;        // the entries on both sides of the excluded one
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        const float *left = logits + (size_t)n*V, *right = left + V - behind;
        row_loss[n] = lse[n] = 0;
        if (weight[n] == 0) continue;
        float top = largest(right, behind, largest(left, before, -INFINITY));
        lse[n] = (float)(top + log(sum_exp(left, before, top) + sum_exp(right, behind, top)));
        row_loss[n] = (float)(weight[n] * (lse[n] - left[target[n]]));
    }
    double total = 0;
    for (int n = 0; n < N; n++) total += row_loss[n];
    *loss = (float)(scale * total);
}

void cross_entropy_backward_fast(float *logits, const float *dloss, const float *lse, const int *target, const double *weight, double scale, int excluded,
                                 int N, int V) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        float *row = logits + (size_t)n*V, d = (float)(*dloss * scale * weight[n]);
        if (weight[n] == 0) { memset(row, 0, V * sizeof(float)); continue; }
        FOR_VECTORS(V, v, count, store(row + v, d * vexp(load(row + v, count) - lse[n]), count));
        row[target[n]] -= d;
        if (excluded >= 0) row[excluded] = 0;
    }
}
