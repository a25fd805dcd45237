// cpu_kernels.c: every kernel of kernels.h in plain C, in the order of the list. Read these to know what a kernel means.
// They are also the oracle of the tests: compiled with -Dreal=double they judge the fast bodies, so they stay simple.
// Shapes stand in kernels.h. Sums over rows or columns run in a fixed order: the same bits for any number of threads.
#include "kernels.h"
#include <string.h>
#include <tgmath.h>                             // exp, tanh, ... of the width of their argument
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif

// Loops that sum over rows are split by columns, so that no two threads add to the same number. A multiple of 16 (a cache line of floats).
static int columns_per_thread(int C) { int part = (C + omp_get_max_threads() - 1) / omp_get_max_threads(); return (part + 15) / 16 * 16; }

static int min(int a, int b) { return a < b ? a : b; }
static int group_of(const int *group, int n) { return group ? group[n] : 0; }

void fill_cpu(real *out, double value, size_t n) {
    #pragma omp parallel for if (n > 100000)
    for (size_t i = 0; i < n; i++) out[i] = (real)value;
}

// ---- embeddings ---------------------------------------------------------------------------------------------------------------

void embedding_forward_cpu(real *out, const real *weight, const int *id, int N, int C) {
    for (int n = 0; n < N; n++) memcpy(out + (size_t)n*C, weight + (size_t)id[n]*C, C * sizeof(real));
}

void embedding_backward_cpu(real *dweight, const real *dout, const int *id, int N, int C) {
    int part = columns_per_thread(C);
    #pragma omp parallel for
    for (int c0 = 0; c0 < C; c0 += part)
        for (int n = 0; n < N; n++)
            for (int c = c0; c < min(C, c0 + part); c++) dweight[(size_t)id[n]*C + c] += dout[(size_t)n*C + c];
}

void level_embedding_cpu(real *out, const double *level, int G, int F) {
    int half = F / 2;
    double frequency[half + 1];                 // phases in double: float loses them at large levels
    for (int i = 0; i < half; i++) frequency[i] = exp(-log(10000.0) * i / half);
    #pragma omp parallel for if ((double)G * F > 2000)
    for (int g = 0; g < G; g++) {
        for (int i = 0; i < half; i++) {
            double phase = level[g] * frequency[i];
            out[g*F + i] = (real)cos(phase);
            out[g*F + half + i] = (real)sin(phase);
        }
        if (F % 2) out[g*F + F - 1] = 0;        // an odd last column
    }
}

// ---- linear layers ------------------------------------------------------------------------------------------------------------

// An operand of a product: in BF16 the nearest number with 8 bits of mantissa, ties to even. NaN stays NaN.
static real operand(real x, Precision how) {
    if (how == FP32 || x != x) return x;
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
    memcpy(&f, &bits, 4);
    return f;
}

// GELU(x) = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3);  SiLU(x) = x sig(x);  exact GELU(x) = x/2 erfc(-x/sqrt 2);  ELU(x) = x or exp(x) - 1
// Comparisons with NaN are false: here and in the slopes they are written so that it stays NaN
static real act(real x, Activation a) {
    if (a == GELU) return x/2 * (1 + tanh((real)0.7978845608028654 * (x + (real)0.044715*x*x*x)));
    if (a == SILU) return x / (1 + exp(-x));
    if (a == GELU_EXACT) return x/2 * erfc(x * (real)-0.7071067811865476);
    if (a == RELU) return x <= 0 ? 0 : x;
    if (a == ELU) return x > 0 ? x : expm1(x);
    return x;
}

// GELU'(x) = (1 + tanh u)/2 + x/2 (1 - tanh^2 u) u';  SiLU'(x) = sig + x sig (1 - sig);  exact GELU'(x) = erfc(-x/sqrt 2)/2 + x exp(-x^2/2)/sqrt(2 pi);  ReLU'(0) = 0
static real act_derivative(real x, Activation a) {
    if (a == GELU) {
        real th = tanh((real)0.7978845608028654 * (x + (real)0.044715*x*x*x));
        return (1 + th)/2 + x/2 * (1 - th*th) * (real)0.7978845608028654 * (1 + 3*(real)0.044715*x*x);
    }
    if (a == SILU) { real sig = 1 / (1 + exp(-x)); return sig + x*sig*(1 - sig); }
    if (a == GELU_EXACT) return erfc(x * (real)-0.7071067811865476)/2 + x * exp(-x*x/2) * (real)0.3989422804014327;
    if (a == RELU) return x > 0 ? 1 : x <= 0 ? 0 : x;
    if (a == ELU) return x > 0 ? 1 : exp(x);
    return 1;
}

void linear_forward_cpu(real *out, real *pre, const real *inp, const real *weight, const real *packed, const real *bias, int N, int C, int OC, Activation a,
                        Precision how) {
    (void)packed;
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        const real *inp_n = inp + (size_t)n*C;
        for (int o = 0; o < OC; o++) {
            const real *weight_o = weight + (size_t)o*C;
            real sum = 0;
            #pragma omp simd reduction(+:sum)   // the sum may be reordered: allows vector adds
            for (int c = 0; c < C; c++) sum += operand(inp_n[c], how) * operand(weight_o[c], how);
            if (bias) sum += bias[o];
            if (pre) pre[(size_t)n*OC + o] = sum;
            out[(size_t)n*OC + o] = act(sum, a);
        }
    }
}

// fwd: pre = inp W^T + b      bwd: dinp [+]= dpre W
void linear_backward_inp_cpu(real *dinp, const real *dpre, const real *weight, int N, int C, int OC, bool add, Precision how) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        if (!add) memset(dinp + (size_t)n*C, 0, C * sizeof(real));
        for (int o = 0; o < OC; o++) {
            real d = operand(dpre[(size_t)n*OC + o], how);
            for (int c = 0; c < C; c++) dinp[(size_t)n*C + c] += d * operand(weight[(size_t)o*C + c], how);
        }
    }
}

// fwd: pre = inp W^T + b      bwd: dW += dpre^T inp, db += sum over rows of dpre
void linear_backward_weight_cpu(real *dweight, real *dbias, const real *dpre, const real *inp, int N, int C, int OC, Precision how) {
    #pragma omp parallel for
    for (int o = 0; o < OC; o++)
        for (int n = 0; n < N; n++) {
            real d = dpre[(size_t)n*OC + o];
            if (dbias) dbias[o] += d;
            for (int c = 0; c < C; c++) dweight[(size_t)o*C + c] += operand(d, how) * operand(inp[(size_t)n*C + c], how);
        }
}

void sum_forward_cpu(real *out, real *pre, const real *x, const real *y, size_t n, Activation a) {
    #pragma omp parallel for if (n > 5000)
    for (size_t i = 0; i < n; i++) {
        real sum = x[i] + y[i];
        if (pre) pre[i] = sum;
        out[i] = act(sum, a);
    }
}

void activation_backward_cpu(real *d, real *out, const real *pre, size_t n, Activation a) {
    #pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        d[i] *= act_derivative(pre[i], a);
        if (out) out[i] = act(pre[i], a);
    }
}

// ---- LayerNorm, RMSNorm and modulation ----------------------------------------------------------------------------------------

// fwd: xhat = (x - mean) rstd;  y = xhat w;  out = y (1 + scale) + shift.      Without `mean`: RMSNorm, which takes 0 in its place
void norm_modulate_forward_cpu(real *out, real *mean, real *rstd, const real *x, const real *weight, const real *shift, const real *scale, const int *group,
                               double eps, int N, int C, int ld) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++) {
        const real *x_n = x + (size_t)n*C;
        real *out_n = out + (size_t)n*C;
        real sum = 0, var = 0;
        int summed = mean ? C : 0;
        SOON_READ(x_n, C); SOON_WRITE(out_n, C);
        #pragma omp simd reduction(+:sum)
        for (int c = 0; c < summed; c++) sum += x_n[c];
        real m = sum / C;
        #pragma omp simd reduction(+:var)
        for (int c = 0; c < C; c++) var += (x_n[c] - m) * (x_n[c] - m);
        real r = (real)(1 / sqrt((double)var / C + eps));
        if (mean) mean[n] = m;
        rstd[n] = r;
        int g = group_of(group, n);
        const real *shift_g = shift && g >= 0 ? shift + (size_t)g*ld : NULL, *scale_g = scale && g >= 0 ? scale + (size_t)g*ld : NULL;
        // loops without a question in them become vectors
        if (scale_g && shift_g) for (int c = 0; c < C; c++) out_n[c] = (x_n[c] - m) * r * weight[c] * (1 + scale_g[c]) + shift_g[c];
        else if (scale_g) for (int c = 0; c < C; c++) out_n[c] = (x_n[c] - m) * r * weight[c] * (1 + scale_g[c]);
        else if (shift_g) for (int c = 0; c < C; c++) out_n[c] = (x_n[c] - m) * r * weight[c] + shift_g[c];
        else for (int c = 0; c < C; c++) out_n[c] = (x_n[c] - m) * r * weight[c];
    }
}

// bwd: dshift += dout;  dscale += dout y;  dy = dout (1 + scale);  dw += dy xhat;  dxhat = dy w;
//      dx += rstd (dxhat - mean_c(dxhat) - xhat mean_c(dxhat xhat)).      RMSNorm: without mean_c(dxhat)
void norm_modulate_backward_cpu(real *dx, real *dweight, real *dshift, real *dscale, const real *dout, const real *x, const real *mean, const real *rstd,
                                const real *weight, const real *scale, const int *group, int N, int C, int G, int ld) {
    (void)G;                                    // groups are found by looking at every row
    // pass 1, by rows: dx. (The test stands inside the loop: between `if` and `for` a compiler that ignores a pragma may take it for the statement.)
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++) {
        if (!dx) continue;
        int g = group_of(group, n);
        const real *x_n = x + (size_t)n*C, *dout_n = dout + (size_t)n*C, *scale_g = scale && g >= 0 ? scale + (size_t)g*ld : NULL;
        real *dx_n = dx + (size_t)n*C;
        real centre = mean ? mean[n] : 0, sum = 0, dot = 0;
        #pragma omp simd reduction(+:sum,dot)
        for (int c = 0; c < C; c++) {
            real dxhat = dout_n[c] * (scale_g ? 1 + scale_g[c] : 1) * weight[c];
            sum += dxhat;
            dot += dxhat * (x_n[c] - centre) * rstd[n];
        }
        if (!mean) sum = 0;
        for (int c = 0; c < C; c++) {
            real dxhat = dout_n[c] * (scale_g ? 1 + scale_g[c] : 1) * weight[c];
            dx_n[c] += rstd[n] * (dxhat - sum/C - (x_n[c] - centre) * rstd[n] * dot/C);
        }
    }
    // pass 2, by columns: the parameters
    int part = columns_per_thread(C);
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int c0 = 0; c0 < C; c0 += part)
        for (int n = 0; n < N; n++) {
            int g = group_of(group, n), modulated = scale && g >= 0, m = min(part, C - c0);
            size_t mod = (size_t)(g >= 0 ? g : 0)*ld + c0;
            const real *dout_n = dout + (size_t)n*C + c0, *x_n = x + (size_t)n*C + c0, *w = weight + c0;
            real centre = mean ? mean[n] : 0;
            if (dweight && modulated) for (int c = 0; c < m; c++) dweight[c0 + c] += dout_n[c] * (1 + scale[mod + c]) * (x_n[c] - centre) * rstd[n];
            else if (dweight) for (int c = 0; c < m; c++) dweight[c0 + c] += dout_n[c] * (x_n[c] - centre) * rstd[n];
            if (dscale && g >= 0) for (int c = 0; c < m; c++) dscale[mod + c] += dout_n[c] * (x_n[c] - centre) * rstd[n] * w[c];
            if (dshift && g >= 0) for (int c = 0; c < m; c++) dshift[mod + c] += dout_n[c];
        }
}

// ---- rotary positions ---------------------------------------------------------------------------------------------------------

// One row. The pair (x_i, x_j), j = pair[i] > i, turns:   x_i' = x_i cos_i - x_j sin_i,   x_j' = x_j cos_j + x_i sin_j
// back, the transposed matrix:   dx_i = dx_i' cos_i + dx_j' sin_j,   dx_j = dx_j' cos_j - dx_i' sin_i
static void turn_heads(real *x, const real *cosine, const real *sine, const int *pair, int heads, int HS, bool back) {
    int partner[HS];
    real other[HS], old[HS];                            // x_i' = cos_i x_i + other_i x_partner(i), for both elements of a pair; one that has no partner stays
    for (int i = 0; i < HS; i++) {
        partner[i] = pair[i] < 0 ? i : pair[i];
        real s = back ? -sine[partner[i]] : sine[i];
        other[i] = pair[i] > i ? -s : s;
    }
    for (int h = 0; h < heads; h++) {
        real *x_h = x + (size_t)h*HS;
        memcpy(old, x_h, HS * sizeof(real));
        for (int i = 0; i < HS; i++) x_h[i] = pair[i] < 0 ? old[i] : cosine[i] * old[i] + other[i] * old[partner[i]];
    }
}
void rope_forward_cpu(real *x, const real *cosine, const real *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    #pragma omp parallel for if ((double)N * heads * HS > 20000)
    for (int n = 0; n < N; n++) turn_heads(x + (size_t)n*ld, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, pair, heads, HS, false);
}
void rope_backward_cpu(real *dx, const real *cosine, const real *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    #pragma omp parallel for if ((double)N * heads * HS > 20000)
    for (int n = 0; n < N; n++) turn_heads(dx + (size_t)n*ld, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, pair, heads, HS, true);
}

// ---- RMSNorm of heads ---------------------------------------------------------------------------------------------------------

// fwd: xhat = x rstd, rstd = 1 / sqrt(mean_c(x^2) + eps);  x' = xhat w, turned
void head_norm_forward_cpu(real *x, real *kept, real *rstd, const real *weight, const real *cosine, const real *sine, const int *position, const int *pair, double eps,
                           int N, int ld, int heads, int HS) {
    #pragma omp parallel for if ((double)N * heads * HS > 20000)
    for (int n = 0; n < N; n++) {
        real *x_n = x + (size_t)n*ld;
        if (kept) memcpy(kept + (size_t)n*heads*HS, x_n, (size_t)heads*HS * sizeof(real));
        for (int h = 0; h < heads; h++) {
            real *x_nh = x_n + (size_t)h*HS, sum = 0;
            #pragma omp simd reduction(+:sum)
            for (int c = 0; c < HS; c++) sum += x_nh[c] * x_nh[c];
            real r = (real)(1 / sqrt((double)sum / HS + eps));
            if (rstd) rstd[(size_t)n*heads + h] = r;
            #pragma omp simd
            for (int c = 0; c < HS; c++) x_nh[c] = x_nh[c] * r * weight[c];
        }
        if (cosine) turn_heads(x_n, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, pair, heads, HS, false);
    }
}

// bwd: turned back;  dw += dx' xhat, over all rows and heads;  dxhat = dx' w;  dx = rstd (dxhat - xhat mean_c(dxhat xhat))
void head_norm_backward_cpu(real *dx, real *dweight, const real *kept, const real *rstd, const real *weight, const real *cosine, const real *sine, const int *position, const int *pair,
                            int N, int ld, int heads, int HS) {
    enum { RUNNERS = 16 };                      // a head has few columns: the rows are split, always in as many runs, whose sums are added in order
    real sums[RUNNERS * HS];
    #pragma omp parallel for if ((double)N * heads * HS > 20000)
    for (int k = 0; k < RUNNERS; k++) {
        real *sum = sums + k*HS;
        for (int c = 0; c < HS; c++) sum[c] = 0;
        for (int n = (int)((int64_t)N * k / RUNNERS); n < (int64_t)N * (k + 1) / RUNNERS; n++) {
            if (cosine) turn_heads(dx + (size_t)n*ld, cosine + (size_t)position[n]*HS, sine + (size_t)position[n]*HS, pair, heads, HS, true);
            for (int h = 0; h < heads; h++) {
                real *dx_nh = dx + (size_t)n*ld + (size_t)h*HS, dot = 0, r = rstd[(size_t)n*heads + h];
                const real *x_nh = kept + ((size_t)n*heads + h)*HS;
                #pragma omp simd reduction(+:dot)
                for (int c = 0; c < HS; c++) {
                    real along = dx_nh[c] * x_nh[c] * r;
                    sum[c] += along;
                    dot += along * weight[c];
                }
                real mean = dot / HS;
                #pragma omp simd
                for (int c = 0; c < HS; c++) dx_nh[c] = r * (dx_nh[c] * weight[c] - x_nh[c] * r * mean);
            }
        }
    }
    for (int k = 0; dweight && k < RUNNERS; k++)
        for (int c = 0; c < HS; c++) dweight[c] += sums[k*HS + c];
}

// ---- attention over spans -----------------------------------------------------------------------------------------------------

static real dot(const real *a, const real *b, int n, Precision how) {
    real sum = 0;
    #pragma omp simd reduction(+:sum)
    for (int i = 0; i < n; i++) sum += operand(a[i], how) * operand(b[i], how);
    return sum;
}

// The loop over the keys that a row sees; a row without keys gives 0 (and lse = -inf).
#define FOR_KEYS(j, s) for (int part_ = 0; part_ < 2; part_++) for (int j = (s).lo[part_]; j < (s).hi[part_]; j++)

// out = sum_j p_j v_j,   p_j = exp(q.k_j / sqrt(HS) - lse),   lse = log sum_j exp(q.k_j / sqrt(HS))
void attention_forward_cpu(real *out, real *lse, const real *q, const real *k, const real *v, const Span *span,
                           int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, Precision how) {
    real scale = (real)(1 / sqrt((double)HS));
    #pragma omp parallel for collapse(3)
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++)
    for (int t = 0; t < Tq; t++) {
        const real *q_bth = q + ((size_t)b*Tq + t)*ldq + h*HS;
        const real *k_bh = k + (size_t)b*Tk*ldkv + h*HS, *v_bh = v + (size_t)b*Tk*ldkv + h*HS;
        real *out_bth = out + (((size_t)b*Tq + t)*NH + h)*HS;

        // pass 1: the largest score, subtracted below because exp(89) already overflows float; !(s <= top) is true for a NaN
        real top = -INFINITY;
        FOR_KEYS(j, span[t]) { real s = scale * dot(q_bth, k_bh + (size_t)j*ldkv, HS, how); if (!(s <= top)) top = s; }

        // pass 2: weighted sum of values
        double sum = 0;
        for (int i = 0; i < HS; i++) out_bth[i] = 0;
        FOR_KEYS(j, span[t]) {
            real p = exp(scale * dot(q_bth, k_bh + (size_t)j*ldkv, HS, how) - top);
            sum += p;
            for (int i = 0; i < HS; i++) out_bth[i] += operand(p, how) * operand(v_bh[(size_t)j*ldkv + i], how);
        }
        if (sum != 0) for (int i = 0; i < HS; i++) out_bth[i] /= (real)sum;
        lse[((size_t)b*NH + h)*Tq + t] = (real)(top + log(sum));
    }
}

static void clear_heads(real *x, int rows, int C, int ld) { for (int n = 0; n < rows; n++) memset(x + (size_t)n*ld, 0, C * sizeof(real)); }

// fwd: s_j = q.k_j scale;  p = softmax(s);  out = sum_j p_j v_j
// bwd: dv_j [+]= p_j dout;  dp_j = dout.v_j;  ds_j = p_j (dp_j - dout.out);  dq [+]= scale sum_j ds_j k_j;  dk_j [+]= scale ds_j q
void attention_backward_cpu(real *dq, real *dk, real *dv, const real *dout, const real *out, const real *lse, const real *q, const real *k, const real *v,
                            const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, bool add, Precision how) {
    real scale = (real)(1 / sqrt((double)HS));
    if (!add) clear_heads(dq, B*Tq, NH*HS, ldq), clear_heads(dk, B*Tk, NH*HS, ldkv), clear_heads(dv, B*Tk, NH*HS, ldkv);
    #pragma omp parallel for collapse(2)        // a head's dk, dv belong to one thread
    for (int b = 0; b < B; b++)
    for (int h = 0; h < NH; h++)
    for (int t = 0; t < Tq; t++) {
        size_t row_q = ((size_t)b*Tq + t)*ldq + h*HS, row_out = (((size_t)b*Tq + t)*NH + h)*HS;
        const real *dout_bth = dout + row_out;
        real delta = dot(dout_bth, out + row_out, HS, FP32), lse_bht = lse[((size_t)b*NH + h)*Tq + t];
        FOR_KEYS(j, span[t]) {
            size_t row_k = ((size_t)b*Tk + j)*ldkv + h*HS;
            real p = exp(scale * dot(q + row_q, k + row_k, HS, how) - lse_bht);
            real ds = p * (dot(dout_bth, v + row_k, HS, how) - delta);
            for (int i = 0; i < HS; i++) {
                dv[row_k + i] += operand(p, how) * operand(dout_bth[i], how);
                dq[row_q + i] += scale * operand(ds, how) * operand(k[row_k + i], how);
                dk[row_k + i] += scale * operand(ds, how) * operand(q[row_q + i], how);
            }
        }
    }
}

// ---- residual branch ----------------------------------------------------------------------------------------------------------

// The factors 0 or 1/(1-p) of the columns c0..c0+CHUNK-1 of row n, of which those beyond C mean nothing; c0 is a multiple of CHUNK
enum { CHUNK = 48 };
static void dropout_factors(real *f, Dropout drop, int n, int c0, int C) {
    real keep = (real)(1 / (1 - drop.p));
    uint64_t first = (uint64_t)n * (uint64_t)((C + 3) / 4) + (uint64_t)c0 / 4;
    double limit = drop.p * 4294967296.0;
    if (drop.p == 0) { for (int c = 0; c < CHUNK; c++) f[c] = 1; return; }
    for (int i = 0; i < CHUNK; i += 4) {
        Philox x = philox(drop.seed, drop.stream, first + (uint64_t)i / 4);
        for (int k = 0; k < 4; k++) f[i + k] = x.w[k] < limit ? 0 : keep;
    }
}

void gated_residual_forward_cpu(real *out, const real *x, const real *branch, const real *gate, const int *group, Dropout drop, int N, int C, int ld) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++) {
        int g = group_of(group, n);
        for (int c0 = 0; c0 < C; c0 += CHUNK) {
            real f[CHUNK], *out_n = out + (size_t)n*C + c0;
            const real *x_n = x + (size_t)n*C + c0, *branch_n = branch + (size_t)n*C + c0, *gate_g = gate && g >= 0 ? gate + (size_t)g*ld + c0 : NULL;
            int m = min(CHUNK, C - c0);
            SOON_READ(x_n, m); SOON_READ(branch_n, m); SOON_WRITE(out_n, m);
            dropout_factors(f, drop, n, c0, C);
            if (gate_g) for (int c = 0; c < m; c++) f[c] *= gate_g[c];
            for (int c = 0; c < m; c++) out_n[c] = x_n[c] + f[c] * branch_n[c];
        }
    }
}

// fwd: out = x + gate f branch      bwd: dx = dout;  dbranch [+]= gate f dout;  dgate += sum over rows of f branch dout
void gated_residual_backward_cpu(real *dbranch, real *dgate, const real *dout, const real *branch, const real *gate, const int *group,
                                 Dropout drop, bool add, int N, int C, int G, int ld) {
    (void)G;
    // pass 1, by rows: the branch
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++) {
        if (!dbranch) continue;
        int g = group_of(group, n);
        for (int c0 = 0; c0 < C; c0 += CHUNK) {
            int m = min(CHUNK, C - c0);
            real f[CHUNK], *dbranch_n = dbranch + (size_t)n*C + c0;
            const real *dout_n = dout + (size_t)n*C + c0, *gate_g = gate && g >= 0 ? gate + (size_t)g*ld + c0 : NULL;
            SOON_READ(dout_n, m); SOON_WRITE(dbranch_n, m);
            dropout_factors(f, drop, n, c0, C);
            if (gate_g) for (int c = 0; c < m; c++) f[c] *= gate_g[c];
            if (add) for (int c = 0; c < m; c++) dbranch_n[c] += f[c] * dout_n[c];
            else for (int c = 0; c < m; c++) dbranch_n[c] = f[c] * dout_n[c];
        }
    }
    if (!dgate || !gate) return;
    // pass 2, by columns: the gate
    int part = (columns_per_thread(C) + CHUNK - 1) / CHUNK * CHUNK, later = (SOON + C - 1) / C * C - SOON;      // SOON + later: whole rows
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int p0 = 0; p0 < C; p0 += part)
        for (int n = 0; n < N; n++) for (int c0 = p0; c0 < min(C, p0 + part) && group_of(group, n) >= 0; c0 += CHUNK) {
            int m = min(CHUNK, C - c0);
            size_t at = (size_t)n*C + c0, mod = (size_t)group_of(group, n)*ld + c0;
            real f[CHUNK];
            SOON_READ(branch + at + later, m); SOON_READ(dout + at + later, m);
            dropout_factors(f, drop, n, c0, C);
            for (int c = 0; c < m; c++) dgate[mod + c] += f[c] * branch[at + c] * dout[at + c];
        }
}

// ---- rows ---------------------------------------------------------------------------------------------------------------------

void gather_rows_forward_cpu(real *out, const real *inp, const int *row, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++) memcpy(out + (size_t)n*C, inp + (size_t)row[n]*C, C * sizeof(real));
}

void gather_rows_backward_cpu(real *dinp, const real *dout, const int *row, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 20000)     // the rows are distinct
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) dinp[(size_t)row[n]*C + c] += dout[(size_t)n*C + c];
}

void store_rows_cpu(real *out, const real *inp, int B, int T, int S, int W, int C, int ld) {
    #pragma omp parallel for collapse(2) if ((double)B * T * C > 20000)
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) memcpy(out + ((size_t)b*W + t)*C, inp + ((size_t)b*S + t)*ld, C * sizeof(real));
}

void copy_columns_cpu(real *out, const real *inp, int N, int C, int ldo, int ldi) {
    #pragma omp parallel for if ((double)N * C > 100000)
    for (int n = 0; n < N; n++) memcpy(out + (size_t)n*ldo, inp + (size_t)n*ldi, C * sizeof(real));
}
void add_columns_cpu(real *dinp, const real *dout, int N, int C, int ldi, int ldo) {
    #pragma omp parallel for if ((double)N * C > 100000)
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) dinp[(size_t)n*ldi + c] += dout[(size_t)n*ldo + c];
}

// ---- recurrent cell -----------------------------------------------------------------------------------------------------------

static real sigmoid(real x) { return 1 / (1 + exp(-x)); }

// reset, keep, fresh: r, q, n of kernels.h
void gru_forward_cpu(real *out, const real *gi, const real *gh, const real *h, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 5000)
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) {
            size_t i = (size_t)n*C + c, r = (size_t)n*3*C + c, q = r + C, m = q + C;
            real reset = sigmoid(gi[r] + gh[r]), keep = sigmoid(gi[q] + gh[q]), fresh = tanh(gi[m] + reset * gh[m]);
            out[i] = (1 - keep) * fresh + keep * h[i];
        }
}

// fwd: n = tanh(gi_n + r gh_n);  out = (1 - q) n + q h
// bwd: dh += q dout;  through the tanh dout (1 - q) (1 - n^2), added to dgi_n, and times r to dgh_n;  the same times gh_n r (1 - r) to dgi_r and dgh_r;
//      dout (h - n) q (1 - q) to dgi_q and dgh_q
void gru_backward_cpu(real *dgi, real *dgh, real *dh, const real *dout, const real *gi, const real *gh, const real *h, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 5000)
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) {
            size_t i = (size_t)n*C + c, r = (size_t)n*3*C + c, q = r + C, m = q + C;
            real reset = sigmoid(gi[r] + gh[r]), keep = sigmoid(gi[q] + gh[q]), fresh = tanh(gi[m] + reset * gh[m]), d = dout[i];
            real dkeep = d * (h[i] - fresh) * keep * (1 - keep), dfresh = d * (1 - keep) * (1 - fresh*fresh), dreset = dfresh * gh[m] * reset * (1 - reset);
            if (dgi) dgi[r] += dreset, dgi[q] += dkeep, dgi[m] += dfresh;
            if (dgh) dgh[r] += dreset, dgh[q] += dkeep, dgh[m] += dfresh * reset;
            if (dh) dh[i] += keep * d;
        }
}

// ---- diffusion of numbers -----------------------------------------------------------------------------------------------------

// radius sqrt(-2 log u), u in (0,1]: at most 8.57; two numbers are its sides in a random direction
void gaussian_cpu(real *out, uint64_t seed, uint64_t stream, double most, size_t n) {
    #pragma omp parallel for if (n > 5000)
    for (size_t i = 0; i < n; i += 2) {
        Philox x = philox(seed, stream, i / 2);
        double radius = sqrt(-2 * log(unit(x.w[0], x.w[1]) + 0x1p-53)), angle = 6.283185307179586 * unit(x.w[2], x.w[3]), pair[2] = {radius * cos(angle), radius * sin(angle)};
        for (size_t j = i; j < n && j < i + 2; j++) out[j] = (real)fmin(fmax(pair[j - i], -most), most);
    }
}

// error = weight (pred - target)^2, loss = scale sum error
void square_error_forward_cpu(real *loss, real *error, const real *pred, const real *target, const double *weight, double scale, int N, int C, int P) {
    double total = 0;
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) {
            size_t i = (size_t)n*C + c;
            double d = (double)pred[i] - target[i];
            error[i] = (real)(weight[(size_t)n*P + c / (C/P)] * d * d);
        }
    for (size_t i = 0; i < (size_t)N*C; i++) total += error[i];
    *loss = (real)(scale * total);
}

// fwd: loss = scale sum weight (pred - target)^2      bwd: dpred += 2 dloss scale weight (pred - target)
void square_error_backward_cpu(real *dpred, const real *dloss, const real *pred, const real *target, const double *weight, double scale, int N, int C, int P) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) {
            size_t i = (size_t)n*C + c;
            dpred[i] += (real)(2 * *dloss * scale * weight[(size_t)n*P + c / (C/P)] * ((double)pred[i] - target[i]));
        }
}

void mix_rows_forward_cpu(real *out, const real *x, const real *y, const real *z, const double *a, const double *b, const double *c, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++)
        for (size_t i = (size_t)n*C; i < (size_t)(n + 1)*C; i++) out[i] = (real)(a[n]*x[i] + (y ? b[n]*y[i] : 0) + (z ? c[n]*z[i] : 0));
}

// fwd: out = a x + b y + c z      bwd: dx += a dout;  dy += b dout;  dz += c dout
void mix_rows_backward_cpu(real *dx, real *dy, real *dz, const real *dout, const double *a, const double *b, const double *c, int N, int C) {
    #pragma omp parallel for if ((double)N * C > 20000)
    for (int n = 0; n < N; n++)
        for (size_t i = (size_t)n*C; i < (size_t)(n + 1)*C; i++) {
            if (dx) dx[i] += (real)(a[n]*dout[i]);
            if (dy) dy[i] += (real)(b[n]*dout[i]);
            if (dz) dz[i] += (real)(c[n]*dout[i]);
        }
}

// ---- cross-entropy ------------------------------------------------------------------------------------------------------------

// row_loss = weight (lse - logits[target]),   lse = log sum_{v != excluded} exp(logits_v)
void cross_entropy_forward_cpu(real *loss, real *row_loss, real *lse, const real *logits, const int *target, const double *weight, double scale, int excluded,
                               int N, int V) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        const real *logits_n = logits + (size_t)n*V;
        row_loss[n] = lse[n] = 0;
        if (weight[n] == 0) continue;
        real top = -INFINITY;
        double sum = 0;
        for (int v = 0; v < V; v++) if (v != excluded && !(logits_n[v] <= top)) top = logits_n[v];
        for (int v = 0; v < V; v++) if (v != excluded) sum += exp(logits_n[v] - top);
        lse[n] = (real)(top + log(sum));
        row_loss[n] = (real)(weight[n] * (lse[n] - logits_n[target[n]]));
    }
    double total = 0;
    for (int n = 0; n < N; n++) total += row_loss[n];
    *loss = (real)(scale * total);
}

// dlogits_v = dloss scale weight (exp(logits_v - lse) - [v = target]), 0 at v = excluded
void cross_entropy_backward_cpu(real *logits, const real *dloss, const real *lse, const int *target, const double *weight, double scale, int excluded,
                                int N, int V) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        real *logits_n = logits + (size_t)n*V, d = (real)(*dloss * scale * weight[n]);
        if (weight[n] == 0) { memset(logits_n, 0, V * sizeof(real)); continue; }
        for (int v = 0; v < V; v++) logits_n[v] = v == excluded ? 0 : d * (exp(logits_n[v] - lse[n]) - (v == target[n]));
    }
}

// ---- drawing tokens -----------------------------------------------------------------------------------------------------------

// Numbers >= 0 are ordered like their bits.
static uint64_t bits_of(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }
static double number_of(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }

// p_v = e_v / sum e over the nucleus, 0 elsewhere,   e_v = exp(logits_v - max)
// Nothing needs sorting: the nucleus is every token above some number, and of those that have it the first few. Bisection finds the number. It reads
// the row 63 times at most, and some 20 times mostly: it stops as soon as a single token is left between its bounds.
void softmax_nucleus_cpu(double *p, const real *logits, double top, int excluded, int N, int V) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        const real *logits_n = logits + (size_t)n*V;
        double *p_n = p + (size_t)n*V, largest = -INFINITY, sum = 0;

        // pass 1: e, whose largest is exactly 1; with a NaN among the logits the sum is NaN, and then the whole row
        for (int v = 0; v < V; v++) if (v != excluded && logits_n[v] > largest) largest = logits_n[v];
        for (int v = 0; v < V; v++) sum += p_n[v] = v == excluded ? 0 : exp(logits_n[v] - largest);

        // pass 2: bisection. The e of at least `low` are too much, those of at least `high` are not: they are `ahead` tokens, of total `running`
        uint64_t low = 0, high = bits_of(1) + 1;
        double limit = top * sum, running = 0, ahead = 0, not_out = V;
        if (!(top < 1 && sum > 0)) low = high = 0, running = sum;       // all, or NaN
        for (uint64_t middle = high - 1; high - low > 1 && not_out - ahead > 1; middle = low + (high - low) / 2) {     // at first: the largest alone
            double least = number_of(middle), total = 0, tokens = 0;
            #pragma omp simd reduction(+:total,tokens)
            for (int v = 0; v < V; v++) total += p_n[v] >= least ? p_n[v] : 0, tokens += p_n[v] >= least ? 1 : 0;
            if (total > limit) low = middle, not_out = tokens; else high = middle, ahead = tokens, running = total;
        }

        // pass 3: what is left in [low, high) is one number, of several tokens perhaps: the first few are in
        double in = number_of(high), out = number_of(low), before = running;
        for (int v = 0, equal = 0; v < V; v++) {
            if (!(p_n[v] < in)) continue;
            if (p_n[v] >= out && (ahead + equal == 0 || before + (equal + 1) * p_n[v] <= limit)) running = before + ++equal * p_n[v];
            else p_n[v] = 0;
        }
        for (int v = 0; v < V; v++) p_n[v] /= running;
    }
}

void categorical_cpu(int *drawn, const double *p, const double *u, int N, int V) {
    #pragma omp parallel for
    for (int n = 0; n < N; n++) {
        const double *p_n = p + (size_t)n*V;
        double running = 0;
        int last = 0, v = 0;
        for (; v < V; v++) {
            if (p_n[v] > 0) last = v;
            running += p_n[v];
            if (u[n] < running) break;
        }
        drawn[n] = v < V ? v : last;
    }
}

// ---- optimiser ----------------------------------------------------------------------------------------------------------------

void sum_squares_cpu(double *out, const real *x, size_t n) {
    enum { PARTS = 1024 };                      // fixed parts, added in order: independent of the number of threads
    double part[PARTS];
    size_t each = (n + PARTS - 1) / PARTS;
    #pragma omp parallel for if (n > 50000)
    for (int p = 0; p < PARTS; p++) {
        double sum = 0;
        #pragma omp simd reduction(+:sum)
        for (size_t i = p*each; i < (n < (p + 1)*each ? n : (p + 1)*each); i++) sum += (double)x[i] * x[i];
        part[p] = sum;
    }
    *out = 0;
    for (int p = 0; p < PARTS; p++) *out += part[p];
}

// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  param -= lr (mhat / (sqrt(vhat) + eps) + weight_decay param)
void adamw_cpu(real *param, real *m, real *v, real *ema, const real *grad, const double *norm2, size_t n, AdamW a) {
    double clip = a.max_norm > 0 ? fmin(1, a.max_norm / (sqrt(*norm2) + 1e-6)) : 1;
    real b1 = (real)a.beta1, b2 = (real)a.beta2, decay = (real)(a.lr * a.weight_decay), keep = (real)(1 - a.ema);
    real m_scale = (real)(a.lr / (1 - pow(a.beta1, a.step))), v_scale = (real)(1 / (1 - pow(a.beta2, a.step))), eps = (real)a.eps;
    #pragma omp parallel for if (n > 50000)
    for (size_t i = 0; i < n; i++) {
        real g = grad[i] * (real)clip;
        m[i] = b1*m[i] + (1 - b1)*g;
        v[i] = b2*v[i] + (1 - b2)*g*g;
        param[i] -= m_scale * m[i] / (sqrt(v[i] * v_scale) + eps) + decay * param[i];
        ema[i] += keep * (param[i] - ema[i]);
    }
}
