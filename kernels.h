// kernels.h: THE list of kernels, one line each. A program computes through these and nothing else.
//
// Every kernel, K(name, parameters, arguments) or F(...), has a plain body name_cpu (cpu_kernels.c) and a twin name_cuda (cuda_kernels.cu); F kernels have
// a second, fast body for the CPU, name_fast (cpu_fast.c).
// common.h turns every line into a dispatcher `name`; tests/parity.c does not link unless every line has its parity_name.
// Pointers and plain numbers only, so that this file is clean in C and in C++. Outputs first, then inputs, dims last.
// An output is overwritten unless it is a gradient, d + the name of another array: gradients are added to, except where a line says otherwise.
//
// `real` is a macro: float in the programs, double for gradient checks and for the oracle of tests/parity.c.
// Letters: B batch, T rows (positions) of one sequence, C width, N rows in all (mostly B*T), NH heads, HS head size, V vocabulary,
// OC output columns, G groups, F columns of sinusoids, P positions of the rotary tables (in square_error: parts of a row), W slots of a cache, S rows of a sequence of which T are meant; ld, ldq, ldkv, ldi, ldo: numbers from one row to the next.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef real
#define real float
#endif
#define WIDE_float  0                           // REAL_IS_DOUBLE is 1 where real is double, 0 where it is float
#define WIDE_double 1
#define WIDE_(type) WIDE_##type
#define WIDE(type) WIDE_(type)
#define REAL_IS_DOUBLE WIDE(real)

#ifdef __CUDACC__
#define BOTH __host__ __device__                // compiled for both sides of the seam
#else
#define BOTH
#endif

// A query row sees the keys [lo[0], hi[0]) and [lo[1], hi[1]), which do not overlap. Every mask of this repository is of this form.
typedef struct Span { int lo[2], hi[2]; } Span;

// GELU: its approximation with tanh; GELU_EXACT: with the error function
typedef enum { LINEAR_ONLY, GELU, SILU, GELU_EXACT, RELU, ELU, ACTIVATIONS } Activation;

// How the products of linear layers and attention are computed. BF16: both operands are rounded to bfloat16 first; sums stay as they are.
typedef enum { FP32, BF16 } Precision;

// Asks memory for the n numbers that stand SOON numbers behind x, to be read or to be written: loops that walk through large arrays need not wait for them then.
// Behind the end of an array it asks in vain.
enum { SOON = 512, LINE_BYTES = 64 };
#define ASK_SOON(x, n, write) \
    for (size_t i_ = 0; i_ < (size_t)(n) * sizeof *(x); i_ += LINE_BYTES) __builtin_prefetch((const void *)((uintptr_t)(x) + SOON * sizeof *(x) + i_), write)
#define SOON_READ(x, n)  ASK_SOON(x, n, 0)
#define SOON_WRITE(x, n) ASK_SOON(x, n, 1)

// Philox4x32-10 (Salmon et al. 2011): 128 random bits as a pure function of (seed, stream, index), the same on every device.
typedef struct Philox { uint32_t w[4]; } Philox;
BOTH static inline Philox philox(uint64_t seed, uint64_t stream, uint64_t index) {
    Philox x = {{(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p = (uint64_t)0xD2511F53u * x.w[0], q = (uint64_t)0xCD9E8D57u * x.w[2];
        Philox y = {{(uint32_t)(q >> 32) ^ x.w[1] ^ k0, (uint32_t)q, (uint32_t)(p >> 32) ^ x.w[3] ^ k1, (uint32_t)p}};
        x = y;
    }
    return x;
}
// uniform in [0,1) with all 53 bits of a double
BOTH static inline double unit(uint32_t high, uint32_t low) { return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53; }

// One dropout call: element c of row n is set to 0 if word c%4 of philox(seed, stream, n*ceil(C/4) + c/4) is below p * 2^32.
typedef struct Dropout { double p; uint64_t seed, stream; } Dropout;

// What AdamW needs beside its arrays (Loshchilov & Hutter 2019, Alg. 2; clipping and EMA as PyTorch and torch_ema do them).
typedef struct AdamW {
    double lr, beta1, beta2, eps, weight_decay;
    double max_norm;                            // gradients are scaled by min(1, max_norm / (norm + 1e-6)); 0: off
    double ema;                                 // the decay: average += (1 - ema) * (param - average); of this very step
    int step;                                   // 1, 2, ...: for the bias correction
} AdamW;

#define KERNELS(K, F) \
    /* out (n) = value */ \
    K(fill, (real *out, double value, size_t n), (out, value, n)) \
    /* out (N,C) = weight (V,C) [id (N)] */ \
    K(embedding_forward,  (real *out, const real *weight, const int *id, int N, int C), (out, weight, id, N, C)) \
    K(embedding_backward, (real *dweight, const real *dout, const int *id, int N, int C), (dweight, dout, id, N, C)) \
    /* out (G,F) = cos(level_g f_i) | sin(level_g f_i), f_i = 10000^(-i/(F/2)); an odd last column is 0 */ \
    K(level_embedding, (real *out, const double *level, int G, int F), (out, level, G, F)) \
    /* pre (N,OC) = inp (N,C) weight (OC,C)^T + bias (OC); out = act(pre). bias may be NULL; pre NULL: not kept. packed: weight from pack_weight() for this `how`, or NULL */ \
    F(linear_forward, (real *out, real *pre, const real *inp, const real *weight, const real *packed, const real *bias, int N, int C, int OC, Activation act, \
                       Precision how), (out, pre, inp, weight, packed, bias, N, C, OC, act, how)) \
    /* add: to dinp; otherwise dinp is overwritten */ \
    F(linear_backward_inp, (real *dinp, const real *dpre, const real *weight, int N, int C, int OC, bool add, Precision how), (dinp, dpre, weight, N, C, OC, add, how)) \
    F(linear_backward_weight, (real *dweight, real *dbias, const real *dpre, const real *inp, int N, int C, int OC, Precision how), \
                              (dweight, dbias, dpre, inp, N, C, OC, how)) \
    /* pre (n) = x + y; out = act(pre). pre may be NULL */ \
    F(sum_forward, (real *out, real *pre, const real *x, const real *y, size_t n, Activation act), (out, pre, x, y, n, act)) \
    /* d (n): on entry d(out), on exit d(pre) = d(out) act'(pre): overwrites. out (n) = act(pre); NULL: nobody needs it */ \
    F(activation_backward, (real *d, real *out, const real *pre, size_t n, Activation act), (d, out, pre, n, act)) \
    /* Modulation, here and below: row n belongs to group[n] (group NULL: 0), and reads shift, scale, gate at group*ld + c; group -1: identity. G groups. */ \
    /* out (N,C) = LN(x; weight) * (1 + scale) + shift; mean, rstd (N) are kept. scale NULL: 0, shift is then a bias; both NULL: plain LN. dshift, dscale likewise. */ \
    /* mean NULL, here and in backward: RMSNorm in the place of LN: nothing is subtracted, rstd = 1 / sqrt(mean of x^2 + eps) */ \
    K(norm_modulate_forward, (real *out, real *mean, real *rstd, const real *x, const real *weight, const real *shift, const real *scale, const int *group, \
                              double eps, int N, int C, int ld), (out, mean, rstd, x, weight, shift, scale, group, eps, N, C, ld)) \
    F(norm_modulate_backward, (real *dx, real *dweight, real *dshift, real *dscale, const real *dout, const real *x, const real *mean, const real *rstd, \
                               const real *weight, const real *scale, const int *group, int N, int C, int G, int ld), \
                              (dx, dweight, dshift, dscale, dout, x, mean, rstd, weight, scale, group, N, C, G, ld)) \
    /* x (N,ld): turns, in place, the first `heads` heads of HS columns; row n stands at position[n]; cosine, sine (P,HS); pair (HS) */ \
    F(rope_forward,  (real *x, const real *cosine, const real *sine, const int *position, const int *pair, int N, int ld, int heads, int HS), \
                     (x, cosine, sine, position, pair, N, ld, heads, HS)) \
    F(rope_backward, (real *dx, const real *cosine, const real *sine, const int *position, const int *pair, int N, int ld, int heads, int HS), \
                     (dx, cosine, sine, position, pair, N, ld, heads, HS)) \
    /* x (N,ld), in place: each of the first `heads` heads of HS columns becomes weight (HS) * x / sqrt(mean of x^2 + eps); kept (N,heads*HS): what they were; */ \
    /* rstd (N,heads): 1 / the root. kept and rstd may be NULL: not kept. Then they turn, as in rope_forward(); cosine NULL: they do not */ \
    F(head_norm_forward,  (real *x, real *kept, real *rstd, const real *weight, const real *cosine, const real *sine, const int *position, const int *pair, double eps, \
                           int N, int ld, int heads, int HS), (x, kept, rstd, weight, cosine, sine, position, pair, eps, N, ld, heads, HS)) \
    /* dx (N,ld): on entry d(out), on exit d(x): overwrites. It turns back first; cosine NULL: it does not. dweight may be NULL */ \
    F(head_norm_backward, (real *dx, real *dweight, const real *kept, const real *rstd, const real *weight, const real *cosine, const real *sine, const int *position, \
                           const int *pair, int N, int ld, int heads, int HS), (dx, dweight, kept, rstd, weight, cosine, sine, position, pair, N, ld, heads, HS)) \
    /* out (B,Tq,NH*HS), lse (B,NH,Tq): softmax(q k^T / sqrt(HS) over span (Tq)) v. Rows of q, k|v are ldq, ldkv numbers apart. */ \
    /* Keys that a row does not see change nothing in its result, unless they hold NaN or infinity and lie before the last key that some row sees (in backward: anywhere) */ \
    F(attention_forward, (real *out, real *lse, const real *q, const real *k, const real *v, const Span *span, \
                          int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, Precision how), \
                          (out, lse, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv, how)) \
    /* add: to dq, dk and dv; otherwise these columns are overwritten, for keys that nobody sees with 0 */ \
    F(attention_backward, (real *dq, real *dk, real *dv, const real *dout, const real *out, const real *lse, const real *q, const real *k, const real *v, \
                           const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, bool add, Precision how), \
                          (dq, dk, dv, dout, out, lse, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv, add, how)) \
    /* out (N,C) = x + gate * dropout(branch). gate NULL: 1 */ \
    K(gated_residual_forward,  (real *out, const real *x, const real *branch, const real *gate, const int *group, Dropout drop, int N, int C, int ld), \
                               (out, x, branch, gate, group, drop, N, C, ld)) \
    /* dx is dout. add: to dbranch; otherwise dbranch is overwritten */ \
    K(gated_residual_backward, (real *dbranch, real *dgate, const real *dout, const real *branch, const real *gate, const int *group, \
                                Dropout drop, bool add, int N, int C, int G, int ld), (dbranch, dgate, dout, branch, gate, group, drop, add, N, C, G, ld)) \
    /* out (N,C) = inp [row (N)]; the rows are distinct */ \
    K(gather_rows_forward,  (real *out, const real *inp, const int *row, int N, int C), (out, inp, row, N, C)) \
    K(gather_rows_backward, (real *dinp, const real *dout, const int *row, int N, int C), (dinp, dout, row, N, C)) \
    /* out (B,W,C): rows 0..T-1 of each sequence = the first C columns of rows 0..T-1 of inp (B,S,ld): keys and values go into a cache */ \
    K(store_rows, (real *out, const real *inp, int B, int T, int S, int W, int C, int ld), (out, inp, B, T, S, W, C, ld)) \
    /* out (N,C of ldo) = the C columns of inp (N,C of ldi): pieces of a row are put side by side, or taken out of it */ \
    K(copy_columns, (real *out, const real *inp, int N, int C, int ldo, int ldi), (out, inp, N, C, ldo, ldi)) \
    /* dinp (N,C of ldi) += the C columns of dout (N,C of ldo) */ \
    K(add_columns, (real *dinp, const real *dout, int N, int C, int ldi, int ldo), (dinp, dout, N, C, ldi, ldo)) \
    /* One cell of a recurrent network (GRU), from the products of its input, gi (N,3C) = r|q|n, and of its state h (N,C), gh (N,3C): */ \
    /* r = sig(gi_r + gh_r); q = sig(gi_q + gh_q); n = tanh(gi_n + r gh_n); out (N,C) = (1 - q) n + q h */ \
    F(gru_forward,  (real *out, const real *gi, const real *gh, const real *h, int N, int C), (out, gi, gh, h, N, C)) \
    /* dgi, dgh, dh may be NULL */ \
    F(gru_backward, (real *dgi, real *dgh, real *dh, const real *dout, const real *gi, const real *gh, const real *h, int N, int C), \
                    (dgi, dgh, dh, dout, gi, gh, h, N, C)) \
    /* out (n): independent standard normal numbers, limited to +-most: i and i+1 (i even) from philox(seed, stream, i/2) by Box-Muller, in double */ \
    K(gaussian, (real *out, uint64_t seed, uint64_t stream, double most, size_t n), (out, seed, stream, most, n)) \
    /* error (N,C) = weight (pred - target)^2; loss (1) = scale * its sum. weight (N,P), double: column c has that of part c / (C/P) of the row; P divides C */ \
    K(square_error_forward,  (real *loss, real *error, const real *pred, const real *target, const double *weight, double scale, int N, int C, int P), \
                             (loss, error, pred, target, weight, scale, N, C, P)) \
    K(square_error_backward, (real *dpred, const real *dloss, const real *pred, const real *target, const double *weight, double scale, int N, int C, int P), \
                             (dpred, dloss, pred, target, weight, scale, N, C, P)) \
    /* out (N,C) = a (N) x + b (N) y + c (N) z, in double: every step of a continuous diffusion. y and z may be NULL */ \
    K(mix_rows_forward,  (real *out, const real *x, const real *y, const real *z, const double *a, const double *b, const double *c, int N, int C), \
                         (out, x, y, z, a, b, c, N, C)) \
    /* dx, dy, dz may be NULL */ \
    K(mix_rows_backward, (real *dx, real *dy, real *dz, const real *dout, const double *a, const double *b, const double *c, int N, int C), \
                         (dx, dy, dz, dout, a, b, c, N, C)) \
    /* row_loss (N) = weight (N) * -log softmax(logits (N,V) without entry `excluded`)[target (N)]; loss (1) = scale * sum. lse (N) is kept. */ \
    /* A row of weight 0 is not read. excluded = -1: none */ \
    F(cross_entropy_forward, (real *loss, real *row_loss, real *lse, const real *logits, const int *target, const double *weight, double scale, int excluded, \
                              int N, int V), (loss, row_loss, lse, logits, target, weight, scale, excluded, N, V)) \
    /* logits (N,V) are overwritten by their gradient */ \
    F(cross_entropy_backward, (real *logits, const real *dloss, const real *lse, const int *target, const double *weight, double scale, int excluded, \
                               int N, int V), (logits, dloss, lse, target, weight, scale, excluded, N, V)) \
    /* p (N,V), double: softmax of logits (N,V) without entry `excluded` (-1: none), cut to its nucleus and renormalised: of the tokens sorted by */ \
    /* probability, of equal ones the smaller id first, those whose running total is at most `top` (the one that passes it is out), and always the first. top >= 1: all */ \
    K(softmax_nucleus, (double *p, const real *logits, double top, int excluded, int N, int V), (p, logits, top, excluded, N, V)) \
    /* drawn (N): inverse transform of u (N), uniform in [0,1), through p (N,V): the first token whose running total exceeds u. If none does, the last */ \
    /* that is possible: by rounding the total may be 1 - 1e-16; so also for u >= 1 */ \
    K(categorical, (int *drawn, const double *p, const double *u, int N, int V), (drawn, p, u, N, V)) \
    /* out (1) = sum of x (n) squared */ \
    K(sum_squares, (double *out, const real *x, size_t n), (out, x, n)) \
    /* one AdamW step on n numbers, clipped by the norm sqrt(norm2[0]), and the moving average of the result. grad is read only */ \
    K(adamw, (real *param, real *m, real *v, real *ema, const real *grad, const double *norm2, size_t n, AdamW a), (param, m, v, ema, grad, norm2, n, a))

#ifdef __cplusplus
extern "C" {
#endif
#define DECLARE(name, params, args)      void name##_cpu params;
#define DECLARE_FAST(name, params, args) void name##_cpu params; void name##_fast params;
KERNELS(DECLARE, DECLARE_FAST)
bool has_matrix_unit(void);                     // of this CPU: bf16 is then much faster than float32
size_t packed_size(int C, int OC, Precision how);       // numbers that pack_weight() writes
void pack_weight(float *packed, const float *weight, int C, int OC, Precision how);     // weight (OC,C) in the order in which linear_forward_fast() would pack it, in each call; in FP32, up to four rows read the weight itself

// The second device, in builds that have it (cuda_kernels.cu). Errors end the program through on_error(one line). Transfers and kernels run in the order
// of the calls; the host waits in cuda_download(), and in cuda_upload() when more than 32 MB were sent since.
#if !REAL_IS_DOUBLE
#define DECLARE_CUDA(name, params, args) void name##_cuda params;
KERNELS(DECLARE_CUDA, DECLARE_CUDA)
extern bool cuda_naive;                                         // the plain kernels of products, attention and cross-entropy
void cuda_open(void (*on_error)(const char *line), char *name, size_t size);       // takes the first device; name (size): what it is called
size_t cuda_memory(size_t *all);                                // free bytes on the device, of `all`
void *cuda_allocate(size_t bytes);
void cuda_release(void *device);
void cuda_upload(void *device, const void *host, size_t bytes);
void cuda_download(void *host, const void *device, size_t bytes);
#endif
#ifdef __cplusplus
}
#endif
