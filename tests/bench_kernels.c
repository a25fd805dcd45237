// bench_kernels.c: how fast this machine is, and what share of that each kernel reaches. Machine and kernels are measured in turns, within seconds
// of each other: on a shared machine numbers of different runs do not compare. Best of several. GB: 1e9 bytes, of what must move at least once.
#include "../cpu_fast.c"                        // its vectors and its exp are measured too
#include <stdio.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int threads = 1;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }

// seconds of the fastest run of `body`, repeated for about `budget` seconds and at least three times
#define BEST(budget, body) ({                                                                                                                  \
    double best_ = 1e30, from_ = now();                                                                                                        \
    for (int n_ = 0; n_ < 3 || now() - from_ < (budget); n_++) { double t_ = now(); body; t_ = now() - t_; if (t_ < best_) best_ = t_; }       \
    best_; })

// ---- peaks --------------------------------------------------------------------------------------------------------------------

enum { CHAINS = VW == 16 ? 24 : 12 };           // independent sums: enough to hide the latency of a multiply-add
static void multiply_add(int times) {
    #pragma omp parallel
    {
        vec x[CHAINS], a = (vec){0} + 1.0000001f, b = (vec){0} + 1e-9f;
        _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) x[i] = b * (float)i;
        for (int n = 0; n < times; n++)
            _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) {
                x[i] = x[i] * a + b;
#if defined(__x86_64__)
                __asm__ volatile("" : "+x"(x[i]));
#elif defined(__aarch64__)
                __asm__ volatile("" : "+w"(x[i]));
#endif
            }
        volatile float sink = 0;
        _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) sink += x[i][0];
        (void)sink;
    }
}
static double flops_peak(void) { int times = 1 << 18; return 2.0 * VW * CHAINS * times * threads / BEST(0.2, multiply_add(times)) * 1e-9; }

#ifdef AMX
static void multiply_tiles(int times, const uint32_t *a, const uint32_t *b) {           // operands in the first cache, as tile_block() reads them
    #pragma omp parallel
    {
        float c[LINES * LINES];
        tiles_on();
        for (int n = 0; n < times; n++) tile_block(8, a, b, 0, c, LINES);
        tiles_off();
    }
}
static double tiles_peak(void) {
    static uint32_t a[16 * TILE_SIZE], b[16 * TILE_SIZE];
    int times = 1 << 14;
    return 2.0 * LINES * LINES * DEPTH * 8 * times * threads / BEST(0.2, multiply_tiles(times, a, b)) * 1e-9;
}
#endif

enum { BIG = 1 << 26 };                         // floats; 256 MB are in no cache
static float *big;
static void scale_all(void) {
    #pragma omp parallel for
    for (size_t i = 0; i < BIG; i++) big[i] *= 1.0001f;
}
static double memory_peak(void) { return 2.0 * BIG * sizeof(float) / BEST(0.5, scale_all()) * 1e-9; }

// ---- kernels ------------------------------------------------------------------------------------------------------------------

static double peak_flops, peak_memory;          // GFLOP/s of the precision that is measured, GB/s
static Precision how;

static float *numbers(size_t n) {               // uniform in [-0.5, 0.5]
    float *x = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    for (size_t i = 0; i < n; i += 4) { Philox p = philox(1, 2, i); for (size_t j = i; j < n && j < i + 4; j++) x[j] = (float)(p.w[j - i] >> 8) * 0x1p-24f - 0.5f; }
    return x;
}
static void flops_line(const char *what, double flops, double s) {
    printf("%-58s %9.3f ms %8.1f GFLOP/s  %5.2f of peak\n", what, s * 1e3, flops / s * 1e-9, flops / s * 1e-9 / peak_flops);
}
static void bytes_line(const char *what, double bytes, double s) {
    printf("%-58s %9.3f ms %8.1f GB/s     %5.2f of memory\n", what, s * 1e3, bytes / s * 1e-9, bytes / s * 1e-9 / peak_memory);
}

static void products(int N, int C, int OC) {
    float *x = numbers((size_t)N*C), *w = numbers((size_t)OC*C), *y = numbers((size_t)N*OC), *dx = numbers((size_t)N*C), *dw = numbers((size_t)OC*C);
    double flops = 2.0 * N * C * OC;
    char text[128];
    snprintf(text, sizeof text, "linear_forward          rows %5d  %4d -> %4d", N, C, OC);
    flops_line(text, flops, BEST(0.3, linear_forward_fast(y, NULL, x, w, NULL, NULL, N, C, OC, LINEAR_ONLY, how)));
    if (N >= 64) {
        snprintf(text, sizeof text, "linear_backward_inp     rows %5d  %4d -> %4d", N, C, OC);
        flops_line(text, flops, BEST(0.3, linear_backward_inp_fast(dx, y, w, N, C, OC, true, how)));
        snprintf(text, sizeof text, "linear_backward_weight  rows %5d  %4d -> %4d", N, C, OC);
        flops_line(text, flops, BEST(0.3, linear_backward_weight_fast(dw, NULL, y, x, N, C, OC, how)));
    }
    free(x), free(w), free(y), free(dx), free(dw);
}

// the doubled sequence of bd3lm: T noisy and T clean rows; block 1 as in AR
static void attention(int B, int T, int block, int NH, int HS) {
    int S = 2*T, C = NH*HS;
    Span *span = calloc(S, sizeof(Span));
    double pairs = 0;
    for (int i = 0; i < S; i++) {
        int start = i % T / block * block, end = start + block;
        span[i] = i < T ? (Span){.lo = {start, T}, .hi = {end, T + start}} : (Span){.lo = {T}, .hi = {T + end}};
        for (int p = 0; p < 2; p++) pairs += (double)B * NH * (span[i].hi[p] - span[i].lo[p]);
    }
    size_t n = (size_t)B*S*C;
    float *qkv = numbers(3*n), *out = numbers(n), *dout = numbers(n), *dqkv = numbers(3*n), *lse = numbers((size_t)B*NH*S);
    char text[128];
    snprintf(text, sizeof text, "attention_forward       B %2d T %4d block %4d NH %2d HS %2d", B, T, block, NH, HS);
    flops_line(text, 4*HS*pairs, BEST(0.3, attention_forward_fast(out, lse, qkv, qkv + C, qkv + 2*C, span, B, S, S, NH, HS, 3*C, 3*C, how)));
    snprintf(text, sizeof text, "attention_backward      B %2d T %4d block %4d NH %2d HS %2d", B, T, block, NH, HS);
    flops_line(text, 10*HS*pairs, BEST(0.3, attention_backward_fast(dqkv, dqkv + C, dqkv + 2*C, dout, out, lse, qkv, qkv + C, qkv + 2*C, span, B, S, S, NH, HS, 3*C, 3*C, false, how)));
    free(span), free(qkv), free(out), free(dout), free(dqkv), free(lse);
}

enum { SMALL = 4096 };                          // floats: in the first cache
static void exponentials_of(const float *x, int times) {
    #pragma omp parallel
    {
        float y[SMALL];
        for (int again = 0; again < times; again++) {
            for (int i = 0; i < SMALL; i += VW) *(vec *)(y + i) = vexp(*(vec *)(x + i));
            __asm__ volatile("" : : "r"(y) : "memory");
        }
    }
}
static void exponentials(void) {
    int times = 1024;
    float *x = numbers(SMALL);
    double s = BEST(0.2, exponentials_of(x, times));
    printf("%-58s %9.3f ms %8.2f billion/s\n", "vexp", s * 1e3, (double)SMALL * times * threads / s * 1e-9);
    free(x);
}

static void elementwise(int N, int C) {
    size_t n = (size_t)N*C;
    double f = sizeof(float);
    float *x = numbers(n), *y = numbers(n), *z = numbers(n), *u = numbers(n), *mod = numbers(6*C), *dmod = numbers(6*C), *w = numbers(C), *dw = numbers(C), *mean = numbers(N), *rstd = numbers(N);
    double norm2 = 1;
    norm_modulate_forward_cpu(y, mean, rstd, x, w, mod, mod + C, NULL, 1e-5, N, C, 6*C);
    printf("rows %d, width %d:\n", N, C);
    bytes_line("norm_modulate_forward", 2*f*n, BEST(0.2, norm_modulate_forward_cpu(y, mean, rstd, x, w, mod, mod + C, NULL, 1e-5, N, C, 6*C)));
    bytes_line("norm_modulate_backward", 4*f*n, BEST(0.2, norm_modulate_backward_fast(z, dw, dmod, dmod + C, y, x, mean, rstd, w, mod + C, NULL, N, C, 1, 6*C)));
    bytes_line("gated_residual_forward", 3*f*n, BEST(0.2, gated_residual_forward_cpu(y, x, z, mod, NULL, (Dropout){0}, N, C, 6*C)));
    bytes_line("gated_residual_forward, dropout 0.1", 3*f*n, BEST(0.2, gated_residual_forward_cpu(y, x, z, mod, NULL, (Dropout){0.1, 1, 2}, N, C, 6*C)));
    bytes_line("gated_residual_backward", 3*f*n, BEST(0.2, gated_residual_backward_cpu(z, dmod, y, u, mod, NULL, (Dropout){0}, false, N, C, 1, 6*C)));
    bytes_line("activation_backward (GELU)", 3*f*n, BEST(0.2, activation_backward_fast(y, NULL, x, n, GELU)));
    bytes_line("adamw", 9*f*n, BEST(0.2, adamw_cpu(x, y, z, u, x, &norm2, n, (AdamW){.lr = 1e-9, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .ema = 0.9999, .max_norm = 1, .step = 9})));
    free(x), free(y), free(z), free(u), free(mod), free(dmod), free(w), free(dw), free(mean), free(rstd);
}

static void products_and_attention(void) {
    products(8192, 384, 384);
    products(8192, 384, 1152);
    products(8192, 384, 1536);
    products(8192, 1536, 384);
    products(2048, 2048, 2048);
    products(64, 384, 1536);
    products(16, 384, 1536);
    products(4, 384, 1536);
    products(1, 384, 1536);
    attention(2, 1024, 16, 12, 64);
    attention(2, 1024, 1, 12, 64);
    attention(2, 1024, 1024, 12, 64);
    attention(16, 256, 16, 6, 64);
    attention(32, 128, 4, 6, 32);
}

int main(void) {
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    big = numbers(BIG);
    peak_flops = flops_peak(), peak_memory = memory_peak();
    free(big);
    printf("%d threads, vectors of %d floats, tile %d x %d vectors: multiply-add peak %.0f GFLOP/s, memory %.1f GB/s (read + write)\n",
           threads, VW, MR, NV, peak_flops, peak_memory);
    products_and_attention();
    exponentials();
    elementwise(8192, 384);
#ifdef AMX
    if (has_matrix_unit()) {
        how = BF16, peak_flops = tiles_peak();
        printf("bf16 on AMX tiles: peak %.0f GFLOP/s\n", peak_flops);
        products_and_attention();
    }
#endif
    double again = flops_peak();
    printf("multiply-add peak at the end: %.0f GFLOP/s\n", again);
    return 0;
}
