// cpu_fast.c: the few bodies that deserve speed on a CPU: matrix product, activations, span attention, cross-entropy. Float only.
// Each stands beside its plain twin in cpu_kernels.c, which says what is computed; here stands how. Read vexp(), then tile(), then gemm().
// Vectors are GCC/Clang vector extensions, so one text serves AVX-512, AVX2, SSE2 and Arm. No flag may reassociate this file (vexp would break).
#include "kernels.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VW = 16, MR = 8, NV = 3 };               // VW floats a vector; a register tile is MR rows x NV vectors, see tile()
#elif defined(__AVX__)
enum { VW = 8, MR = 6, NV = 2 };
#elif defined(__aarch64__)
enum { VW = 4, MR = 8, NV = 3 };
#else
enum { VW = 4, MR = 6, NV = 2 };
#endif
typedef float   vec  __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VW * 4), aligned(4), may_alias));
#define UNROLL _Pragma("GCC unroll 16")         // accumulators stay in registers only if every loop over them is unrolled

static int min(int a, int b) { return a < b ? a : b; }
static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

// A buffer of this thread for n floats; its content is lost when a later call asks for more. Each use has its own slot.
enum { PANEL_A, PANEL_B, TRANSPOSED, PADDED, SCORES, TILE, SLOTS };
static float *scratch(int slot, size_t n) {
    static _Thread_local float *buffer[SLOTS];
    static _Thread_local size_t size[SLOTS];
    if (size[slot] < n) {
        free(buffer[slot]);
        size[slot] = n;
        buffer[slot] = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
        if (!buffer[slot]) abort();             // a few hundred kilobytes: a machine without them cannot go on
    }
    return buffer[slot];
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
    ivec two_n = ((ivec)magic - 0x4B400000 + 127) << 23;
    return choose(x < -87.0f, (vec){0}, p * (vec)two_n);
}

// GELU(x) = x/2 (1 + tanh u) = x sig(2u), u = sqrt(2/pi) (x + 0.044715 x^3);   SiLU(x) = x sig(x)
static inline vec sigmoid(vec x) { return 1.0f / (1.0f + vexp(-x)); }
static inline vec gelu_2u(vec x) { return 1.5957691216057308f * (x + 0.044715f * x*x*x); }
static inline vec vact(vec x, Activation a) {
    if (a == GELU) return x * sigmoid(gelu_2u(x));
    if (a == SILU) return x * sigmoid(x);
    return x;
}
static inline vec vact_derivative(vec x, Activation a) {
    vec u = x, slope = (vec){0} + 1.0f;
    if (a == LINEAR_ONLY) return slope;
    if (a == GELU) u = gelu_2u(x), slope = 1.5957691216057308f * (1.0f + 3*0.044715f * x*x);
    vec sig = sigmoid(u);
    return sig + x * sig * (1.0f - sig) * slope;
}

// i walks through n numbers in vectors of `count` numbers: VW, and what is left at the end
#define FOR_VECTORS(n, i, count) for (size_t i = 0, count; i < (n) && (count = (n) - i < VW ? (n) - i : VW); i += VW)

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

void activation_backward_fast(float *d, const float *pre, size_t n, Activation a) {
    size_t part = 1 << 14;
    #pragma omp parallel for
    for (size_t p = 0; p < n; p += part)
        FOR_VECTORS(n - p < part ? n - p : part, i, count)
            store(d + p + i, load(d + p + i, count) * vact_derivative(load(pre + p + i, count), a), count);
}

// ---- matrix product -----------------------------------------------------------------------------------------------------------
// C = A B by panels that fit the caches. A and B are first copied ("packed") into strips in which the inner loop walks straight ahead.

enum {
    NR = NV * VW,                               // columns of a register tile
    KC = 384,                                   // depth of a strip
    MC = MR * 16, NC = NR * 4,                  // rows and columns of a block, one thread's work: its strips fit the L2 cache
    MP = MC * 32, NP = NC * 16                  // rows and columns of a panel, packed at once
};

// What happens to a finished row of C: + bias, copy to pre, activation
typedef struct { const float *bias; float *pre; Activation act; } Epilogue;

// strip[i/W][p][i%W] = x(i, p) = src[i*si + p*sp] for i < w, p < k; columns beyond w are zero
static inline void pack(float *strip, const float *src, int w, int k, size_t si, size_t sp, const int W) {
    if (w == W && si == 1) { for (int p = 0; p < k; p++) memcpy(strip + p*W, src + p*sp, W * sizeof(float)); return; }
    if (w == W) for (int p = 0; p < k; p++) for (int i = 0; i < W; i++) strip[p*W + i] = src[i*si + p*sp];
    else for (int p = 0; p < k; p++) for (int i = 0; i < W; i++) strip[p*W + i] = i < w ? src[i*si + p*sp] : 0;
}

// C (m,n) = [C +] a^T b for one register tile: a (k,MR), b (k,NR). Ragged tiles finish in a full-size copy.
static void tile(int k, const float *a, const float *b, int add, float *C, size_t ldc, int m, int n) {
    vec c[MR][NV];
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) c[i][j] = (vec){0};
    for (int p = 0; p < k; p++)
        UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) c[i][j] += a[p*MR + i] * *(const vec *)(b + p*NR + j*VW);

    float full[MR * NR], *out = C;
    size_t ld = ldc;
    int ragged = m < MR || n < NR;
    if (ragged) {
        out = full, ld = NR;
        if (add) for (int i = 0; i < m; i++) memcpy(full + i*NR, C + i*ldc, n * sizeof(float));
    }
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) {
        vec *o = (vec *)(out + i*ld + j*VW);
        if (add) *o += c[i][j]; else *o = c[i][j];
    }
    if (ragged) for (int i = 0; i < m; i++) memcpy(C + i*ldc, full + i*NR, n * sizeof(float));
}

static void epilogue(float *C, size_t ldc, const Epilogue *e, int i0, int i1, int j0, int j1) {
    for (int i = i0; i < i1; i++)
        FOR_VECTORS((size_t)(j1 - j0), j, count) {
            size_t at = i*ldc + j0 + j;
            vec x = load(C + at, count);
            if (e->bias) x += load(e->bias + j0 + j, count);
            if (e->pre) store(e->pre + at, x, count);
            store(C + at, vact(x, e->act), count);
        }
}

// C (M,N) = [C +] A B with A(i,p) = A[i*ai + p*ap] (M,K) and B(p,j) = B[p*bp + j*bj] (K,N): the strides say which operand is transposed.
static void gemm(int M, int N, int K, const float *A, size_t ai, size_t ap, const float *B, size_t bp, size_t bj, int add, float *C, size_t ldc,
                 const Epilogue *e) {
    float *a = scratch(PANEL_A, (size_t)MP * KC), *b = scratch(PANEL_B, (size_t)NP * KC);   // of the calling thread, shared by all
    #pragma omp parallel if ((double)M * N * K > 1e5)
    for (int j0 = 0; j0 < N; j0 += NP)
    for (int p0 = 0; p0 < K; p0 += KC)
    for (int i0 = 0; i0 < M; i0 += MP) {
        int n = min(NP, N - j0), k = min(KC, K - p0), m = min(MP, M - i0), last = p0 + k == K;
        if (i0 == 0)
            #pragma omp for nowait              // the barrier behind the next loop serves both
            for (int j = 0; j < n; j += NR) pack(b + (size_t)j*k, B + p0*bp + (j0 + j)*bj, min(NR, n - j), k, bj, bp, NR);
        #pragma omp for
        for (int i = 0; i < m; i += MR) pack(a + (size_t)i*k, A + (i0 + i)*ai + p0*ap, min(MR, m - i), k, ai, ap, MR);
        #pragma omp for collapse(2) schedule(dynamic)
        for (int jc = 0; jc < n; jc += NC)
        for (int ic = 0; ic < m; ic += MC) {
            int j1 = min(n, jc + NC), i1 = min(m, ic + MC);
            for (int j = jc; j < j1; j += NR)
                for (int i = ic; i < i1; i += MR)
                    tile(k, a + (size_t)i*k, b + (size_t)j*k, add || p0, C + (i0 + i)*ldc + j0 + j, ldc, min(MR, m - i), min(NR, n - j));
            if (e && last) epilogue(C, ldc, e, i0 + ic, i0 + i1, j0 + jc, j0 + j1);
        }
    }
}

void linear_forward_fast(float *out, float *pre, const float *inp, const float *weight, const float *bias, int N, int C, int OC, Activation act) {
    if (N < 8) { linear_forward_cpu(out, pre, inp, weight, bias, N, C, OC, act); return; }     // too few rows to pay for packing
    Epilogue e = {bias, pre, act};
    gemm(N, OC, C, inp, C, 1, weight, 1, C, 0, out, OC, bias || pre || act ? &e : NULL);
}

void linear_backward_inp_fast(float *dinp, const float *dpre, const float *weight, int N, int C, int OC) {
    gemm(N, C, OC, dpre, OC, 1, weight, C, 1, 1, dinp, C, NULL);
}

void linear_backward_weight_fast(float *dweight, float *dbias, const float *dpre, const float *inp, int N, int C, int OC) {
    gemm(OC, C, N, dpre, 1, OC, inp, C, 1, 1, dweight, C, NULL);
    if (!dbias) return;
    int part = 64;
    #pragma omp parallel for
    for (int o0 = 0; o0 < OC; o0 += part)
        for (int n = 0; n < N; n++)
            for (int o = o0; o < min(OC, o0 + part); o++) dbias[o] += dpre[(size_t)n*OC + o];
}

// ---- attention over spans -----------------------------------------------------------------------------------------------------
// Rows with the same span form a tile of up to R rows (blocks of 4 and more fill it), so a tile sees exactly the keys of its span: no masks.
// The scores of a tile stand compactly, first interval then second, in a buffer that stays in cache: an exact softmax, not an online one.

enum { R = 4, STRIP = 3 * VW };

// c (R, nv vectors) = [c +] sum_p a[r*ar + p*ap] b[p*bp ..]
static inline __attribute__((always_inline)) void product_nv(const int nv, int k, const float *a, size_t ar, size_t ap, const float *b, size_t bp,
                                                             float *c, size_t cr, int add) {
    vec s[R][nv];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int j = 0; j < nv; j++) s[r][j] = add ? *(vec *)(c + r*cr + j*VW) : (vec){0};
    for (int p = 0; p < k; p++)
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int j = 0; j < nv; j++) s[r][j] += a[r*ar + p*ap] * *(const vec *)(b + p*bp + j*VW);
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int j = 0; j < nv; j++) *(vec *)(c + r*cr + j*VW) = s[r][j];
}

// the same for n columns, rounded up to whole vectors
static void product(int n, int k, const float *a, size_t ar, size_t ap, const float *b, size_t bp, float *c, size_t cr, int add) {
    for (int left = (n + VW - 1) / VW, nv; left > 0; left -= nv, b += nv*VW, c += nv*VW) {
        nv = left == 4 ? 2 : min(left, 3);
        if (nv == 3) product_nv(3, k, a, ar, ap, b, bp, c, cr, add);
        else if (nv == 2) product_nv(2, k, a, ar, ap, b, bp, c, cr, add);
        else product_nv(1, k, a, ar, ap, b, bp, c, cr, add);
    }
}

// rows t.. of (T,ld) that share one span, at most R
static int rows_alike(const Span *span, int t, int T) {
    int m = 1;
    while (m < R && t + m < T && !memcmp(span + t, span + t + m, sizeof *span)) m++;
    return m;
}

// copy `rows` rows of HS numbers, factor times, to rows of D numbers; D - HS columns and rows up to R are zero
static void copy_rows(float *out, int D, const float *inp, size_t ld, int rows, int HS, float factor) {
    for (int r = 0; r < R; r++)
        for (int i = 0; i < D; i++) out[r*D + i] = r < rows && i < HS ? factor * inp[r*ld + i] : 0;
}

// out (rows,D) = inp (rows,HS), completed with zeros
static void pad(float *out, int D, const float *inp, size_t ld, int rows, int HS) {
    for (int r = 0; r < rows; r++) {
        memcpy(out + (size_t)r*D, inp + r*ld, HS * sizeof(float));
        memset(out + (size_t)r*D + HS, 0, (D - HS) * sizeof(float));
    }
}
// out (HS,ld_out) = inp (rows,HS) transposed; columns from `rows` on stay as they are
static void transpose(float *out, size_t ld_out, const float *inp, size_t ld, int rows, int HS) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < HS; i++) out[i*ld_out + r] = inp[r*ld + i];
}

static int length(const Span *s, int part) { return s->hi[part] > s->lo[part] ? s->hi[part] - s->lo[part] : 0; }

// s (R, ls) = rows a (R,D) times the columns of bt (HS, ld) that the span names
static void against_keys(float *s, size_t ls, const Span *span, const float *a, int D, const float *bt, size_t ld, int HS) {
    product(length(span, 0), HS, a, D, 1, bt + span->lo[0], ld, s, ls, 0);
    product(length(span, 1), HS, a, D, 1, bt + span->lo[1], ld, s + length(span, 0), ls, 0);       // overwrites what the first wrote too far
}

// c (R,D) = p (R, ls) times the rows of b (.,D) that the span names
static void combine_keys(float *c, int D, const Span *span, const float *p, size_t ls, const float *b) {
    product(D, length(span, 0), p, ls, 1, b + (size_t)span->lo[0]*D, D, c, D, 0);
    product(D, length(span, 1), p + length(span, 0), ls, 1, b + (size_t)span->lo[1]*D, D, c, D, 1);
}

void attention_forward_fast(float *out, float *lse, const float *q, const float *k, const float *v, const Span *span,
                            int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv) {
    int D = round_up(HS, VW), ls = Tk + 2*STRIP, ldt = Tk + STRIP;
    float scale = 1 / sqrtf(HS);
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++) {
        const float *q_bh = q + (size_t)b*Tq*ldq + h*HS, *k_bh = k + (size_t)b*Tk*ldkv + h*HS, *v_bh = v + (size_t)b*Tk*ldkv + h*HS;
        float *kt = scratch(TRANSPOSED, (size_t)HS * ldt), *vp = scratch(PADDED, (size_t)Tk * D);
        float *s = scratch(SCORES, (size_t)R * ls), *q_tile = scratch(TILE, (size_t)2*R*D), *out_tile = q_tile + R*D;
        transpose(kt, ldt, k_bh, ldkv, Tk, HS);
        pad(vp, D, v_bh, ldkv, Tk, HS);
        for (int t = 0, m; t < Tq; t += m) {
            m = rows_alike(span, t, Tq);
            int n = length(span + t, 0) + length(span + t, 1);

            // pass 1: scores
            copy_rows(q_tile, D, q_bh + (size_t)t*ldq, ldq, m, HS, scale);
            against_keys(s, ls, span + t, q_tile, D, kt, ldt, HS);

            // pass 2: softmax; what stands beyond n becomes exp(-inf) = 0
            for (int r = 0; r < m; r++) {
                float *s_r = s + (size_t)r*ls, top = -INFINITY, sum = 0;
                vec tops = (vec){0} - INFINITY, sums = {0};
                for (int j = n; j < round_up(n, VW); j++) s_r[j] = -INFINITY;
                for (int j = 0; j < n; j += VW) { vec x = *(vec *)(s_r + j); tops = choose(x > tops, x, tops); }
                for (int i = 0; i < VW; i++) top = fmaxf(top, tops[i]);
                for (int j = 0; j < n; j += VW) { vec p = vexp(*(vec *)(s_r + j) - top); *(vec *)(s_r + j) = p; sums += p; }
                for (int i = 0; i < VW; i++) sum += sums[i];
                for (int j = 0; j < n; j += VW) *(vec *)(s_r + j) *= 1 / sum;
                lse[((size_t)b*NH + h)*Tq + t + r] = n ? top + logf(sum) : -INFINITY;
            }

            // pass 3: weighted sum of values
            combine_keys(out_tile, D, span + t, s, ls, vp);
            for (int r = 0; r < m; r++) memcpy(out + (((size_t)b*Tq + t + r)*NH + h)*HS, out_tile + r*D, HS * sizeof(float));
        }
    }
}

void attention_backward_fast(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse, const float *q, const float *k,
                             const float *v, const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv) {
    int D = round_up(HS, VW), ls = Tk + 2*STRIP, ldt = Tk + STRIP, C = NH*HS;
    float scale = 1 / sqrtf(HS);
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++) {
        size_t head_q = (size_t)b*Tq*ldq + h*HS, head_k = (size_t)b*Tk*ldkv + h*HS, head_out = (size_t)b*Tq*C + h*HS;
        float *kt = scratch(TRANSPOSED, (size_t)2*HS * ldt), *vt = kt + (size_t)HS*ldt;
        float *kp = scratch(PADDED, (size_t)3*Tk * D), *dk_p = kp + (size_t)Tk*D, *dv_p = dk_p + (size_t)Tk*D;
        float *p = scratch(SCORES, (size_t)2*R * ls), *ds = p + (size_t)R*ls;
        float *q_tile = scratch(TILE, (size_t)3*R*D), *dout_tile = q_tile + R*D, *dq_tile = dout_tile + R*D;
        transpose(kt, ldt, k + head_k, ldkv, Tk, HS);
        transpose(vt, ldt, v + head_k, ldkv, Tk, HS);
        pad(kp, D, k + head_k, ldkv, Tk, HS);
        memset(dk_p, 0, (size_t)2*Tk*D * sizeof(float));
        for (int t = 0, m; t < Tq; t += m) {
            m = rows_alike(span, t, Tq);
            int n = length(span + t, 0) + length(span + t, 1);
            const float *dout_t = dout + head_out + (size_t)t*C, *out_t = out + head_out + (size_t)t*C;

            // pass 1: p and dp
            copy_rows(q_tile, D, q + head_q + (size_t)t*ldq, ldq, m, HS, scale);
            copy_rows(dout_tile, D, dout_t, C, m, HS, 1);
            against_keys(p, ls, span + t, q_tile, D, kt, ldt, HS);
            against_keys(ds, ls, span + t, dout_tile, D, vt, ldt, HS);

            // pass 2: ds = p (dp - dout.out)
            for (int r = 0; r < m; r++) {
                float *p_r = p + (size_t)r*ls, *ds_r = ds + (size_t)r*ls, delta = 0;
                for (int i = 0; i < HS; i++) delta += dout_t[r*C + i] * out_t[r*C + i];
                float lse_r = lse[((size_t)b*NH + h)*Tq + t + r];
                for (int j = 0; j < n; j += VW) {
                    vec x = vexp(*(vec *)(p_r + j) - lse_r);
                    *(vec *)(p_r + j) = x;
                    *(vec *)(ds_r + j) = x * (*(vec *)(ds_r + j) - delta);
                }
            }

            // pass 3: dq += scale ds k
            combine_keys(dq_tile, D, span + t, ds, ls, kp);
            for (int r = 0; r < m; r++) for (int i = 0; i < HS; i++) dq[head_q + (size_t)(t + r)*ldq + i] += scale * dq_tile[r*D + i];

            // pass 4: dk_j += ds_j q scale,  dv_j += p_j dout, R keys at a time (the scale is in q_tile)
            for (int part = 0, at = 0; part < 2; at += length(span + t, part++))
                for (int j = 0, keys = length(span + t, part); j < keys; j += R) {
                    size_t row = (size_t)(span[t].lo[part] + j) * D;
                    if (j + R <= keys) {
                        product(D, m, ds + at + j, 1, ls, q_tile, D, dk_p + row, D, 1);
                        product(D, m, p + at + j, 1, ls, dout_tile, D, dv_p + row, D, 1);
                    } else for (int e = j; e < keys; e++, row += D)
                        for (int r = 0; r < m; r++) for (int i = 0; i < HS; i++) {
                            dk_p[row + i] += ds[r*ls + at + e] * q_tile[r*D + i];
                            dv_p[row + i] += p[r*ls + at + e] * dout_tile[r*D + i];
                        }
                }
        }
        for (int j = 0; j < Tk; j++) for (int i = 0; i < HS; i++) {
            dk[head_k + (size_t)j*ldkv + i] += dk_p[(size_t)j*D + i];
            dv[head_k + (size_t)j*ldkv + i] += dv_p[(size_t)j*D + i];
        }
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
        FOR_VECTORS((size_t)V, v, count) store(row + v, d * vexp(load(row + v, count) - lse[n]), count);
        row[target[n]] -= d;
        if (excluded >= 0) row[excluded] = 0;
    }
}
