/* cuda_kernels.cu: every kernel of kernels.h once more, for one CUDA device. Same order, names and arguments as cpu_kernels.c, whose loops say what
   each one computes; here stands how the work is spread over a GPU.

   name_kernel runs on the device; name_cuda below it is its launcher: it asserts what the kernel needs and chooses grid and block. Any size is right:
   grids are rounded up, and threads without work leave or carry zeros. The host waits in cuda_download(), and in cuda_upload() for more than 32 MB.
   Deterministic: no two threads add to the same number, every sum has one order: it follows from the sizes, --naive and (attention) the GPU's shared memory.
   float32, and double where the CPU twin is double, except for the sums of a softmax. Products, attention and cross_entropy_forward have a plain kernel
   (--naive) beside the tiled one.
   bf16 would go into product() and the two launchers of attention: tensor cores are not here yet, and the programs refuse --precision bf16 with this device.

   Words: a thread has 32 neighbours, itself included, in its warp, where it is lane 0..31; the lanes of a warp run together and can look into each other's
   registers (shuffles). The threads of a block share fast memory on the chip, in 32 banks: two lanes that want different rows of one bank wait for each other.
   Blocks of a grid run in any order. What does not fit into a thread's registers goes to "local" memory, which is slow: on sm_80 and sm_90 no kernel
   here uses any.

   The same text is compiled as C++ for the CPU, with tests/cuda_emu.h in the place of CUDA's header: so it is tested on machines without a GPU.
   Above every kernel: formula and CPU twin / grid: who does what / memory: traffic / needs: conditions.                                              */
#include "kernels.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#ifdef __CUDACC__
#include <cuda_runtime.h>
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char name##_bytes[]; type *name = (type *)name##_bytes
#define LAUNCH(kernel, grid, threads, bytes, ...) kernel<<<grid, threads, bytes>>>(__VA_ARGS__)
#else
#include "tests/cuda_emu.h"
#endif

// ---- the device ---------------------------------------------------------------------------------------------------------------

bool cuda_naive;
static void (*fail)(const char *line);                  // ends the program
static cudaDeviceProp gpu;
enum { STAGING = 32 << 20 };
static char *staging;                                   // page-locked memory, from which copies to the device run while the host goes on
static size_t staged;                                   // bytes of it in use since the host last waited

static void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    char line[256];
    snprintf(line, sizeof line, "CUDA: %s: %s", what, cudaGetErrorString(error));
    fail(line);
}
#define CHECK(call) check(call, #call)

// Launches a kernel. An empty grid (no rows) is skipped: CUDA would call it an error. An error while a kernel runs shows up at a later call,
// perhaps under another kernel's name; with CUDA_LAUNCH_BLOCKING=1 in the environment it finds the right one.
#define RUN(kernel, grid, threads, bytes, ...) do { \
    dim3 grid_(grid); \
    if (grid_.x && grid_.y && grid_.z) { LAUNCH(kernel, grid_, dim3(threads), bytes, __VA_ARGS__); check(cudaGetLastError(), #kernel); } \
} while (0)

static unsigned blocks(size_t n, int size) { size_t b = (n + (size_t)size - 1) / (size_t)size; assert(b <= 2147483647 && "one dimension of a grid"); return (unsigned)b; }

// ---- pieces that kernels share ------------------------------------------------------------------------------------------------

__device__ inline size_t thread_number(void) { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline int group_of(const int *group, int n) { return group ? group[n] : 0; }

// the sum of x over the `width` (a power of two, at most 32) neighbouring lanes, in all of them
template <class T> __device__ inline T sum_lanes(T x, int width) { for (int o = width / 2; o; o /= 2) x += __shfl_xor_sync(~0u, x, o); return x; }
__device__ inline float max_lanes(float x, int width) { for (int o = width / 2; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, o)); return x; }

// the sums of x[0..M-1] over all threads of a block of whole warps, in all of them: lanes as a tree, warps in order
template <int M> __device__ inline void sum_block(double (&x)[M]) {
    SHARED(double, part, [M][32]);
    for (int k = 0; k < M; k++) x[k] = sum_lanes(x[k], 32);
    __syncthreads();                                    // the last sums have been read by everyone
    if (threadIdx.x % 32 == 0) for (int k = 0; k < M; k++) part[k][threadIdx.x / 32] = x[k];
    __syncthreads();                                    // all warps have written
    for (int k = 0; k < M; k++) {
        x[k] = 0;
        for (int w = 0; w < (int)blockDim.x / 32; w++) x[k] += part[k][w];
    }
}
__device__ inline double sum_block(double x) { double one[1] = {x}; sum_block(one); return one[0]; }

// Sums over rows run by columns: a block has 8 columns x and 128 runners y, runner y takes the rows y, y+128, ... Here the runners of each column are
// added, in order. (Eight floats are what memory delivers at a time; few columns a block make more blocks.)
enum { COLUMNS = 8, RUNNERS = 128 };
__device__ inline float sum_runners(float x) {
    SHARED(float, part, [RUNNERS][COLUMNS]);
    __syncthreads();                                    // the last sum has been read by everyone
    part[threadIdx.y][threadIdx.x] = x;
    __syncthreads();                                    // all runners have written
    x = 0;
    for (int y = 0; y < RUNNERS; y++) x += part[y][threadIdx.x];
    return x;
}

// Sums over a whole array, in double: up to 1024 blocks of 256 threads leave the sums of their parts here, and one block adds them. Parts by sizes only.
enum { PARTS = 1024 };
static __device__ double part_sums[PARTS];
static size_t part_size(size_t n) { size_t each = (n + PARTS - 1) / PARTS; return each < 4096 ? 4096 : each; }        // a block for less is not worth it

// total_parts: out = scale * sum of part_sums                                                  CPU twins: sum_squares_cpu, square_error_forward_cpu
// grid: one block of 256 threads; thread i takes parts i, i+256, ..
// memory: reads part_sums once
// needs: parts <= 1024
template <class T> static __global__ void total_parts_kernel(T *out, double scale, int parts) {
    double sum = 0;
    for (int p = threadIdx.x; p < parts; p += 256) sum += part_sums[p];
    sum = sum_block(sum);
    if (threadIdx.x == 0) *out = (T)(scale * sum);
}

// fill: out (n) = value                                                                                        CPU twin: fill_cpu
// grid: one thread per element
// memory: writes out once
// needs: any n
static __global__ void fill_kernel(float *out, float value, size_t n) {
    size_t i = thread_number();
    if (i < n) out[i] = value;
}
void fill_cuda(float *out, double value, size_t n) { RUN(fill_kernel, blocks(n, 256), 256, 0, out, (float)value, n); }

// ---- embeddings ---------------------------------------------------------------------------------------------------------------

// embedding_forward: out[n] = weight[id[n]]                                                                    CPU twin: embedding_forward_cpu
// grid: one thread per element of out
// memory: reads the named rows, writes out once
// needs: any N, C
static __global__ void embedding_forward_kernel(float *out, const float *weight, const int *id, size_t size, int C) {
    size_t i = thread_number();
    if (i < size) out[i] = weight[(size_t)id[i / C] * C + i % C];
}
void embedding_forward_cuda(float *out, const float *weight, const int *id, int N, int C) {
    size_t size = (size_t)N * C;
    RUN(embedding_forward_kernel, blocks(size, 256), 256, 0, out, weight, id, size, C);
}

// embedding_backward: dweight[id[n]] += dout[n]                                                                CPU twin: embedding_backward_cpu
// grid: one warp per row n and 128 columns: the warp of the first row of an id adds up all rows of this id, in order; the others leave
// memory: reads dout once, id in loads of 32 by every warp (N*C/128 times in all, from cache), reads and writes the named rows of dweight
// needs: any N, C; the slowest warp has the most frequent id, MASK: about N/4 rows of a doubled pass one after the other
static __global__ void embedding_backward_kernel(float *dweight, const float *dout, const int *id, int N, int C) {
    int n = blockIdx.x, lane = threadIdx.x, c0 = blockIdx.y * 128 + lane, v = id[n];
    for (int m0 = 0; m0 < n; m0 += 32)
        if (__any_sync(~0u, m0 + lane < n && id[m0 + lane] == v)) return;      // the whole warp: an earlier row does it
    float sum[4] = {0, 0, 0, 0};
    for (int m0 = n; m0 < N; m0 += 32) {
        unsigned same = __ballot_sync(~0u, m0 + lane < N && id[m0 + lane] == v);
        for (; same; same &= same - 1) {                // one bit a row, from the lowest
            const float *dout_m = dout + (size_t)(m0 + __ffs((int)same) - 1) * C;
            #pragma unroll
            for (int k = 0; k < 4; k++) if (c0 + 32*k < C) sum[k] += dout_m[c0 + 32*k];
        }
    }
    #pragma unroll
    for (int k = 0; k < 4; k++) if (c0 + 32*k < C) dweight[(size_t)v * C + c0 + 32*k] += sum[k];
}
void embedding_backward_cuda(float *dweight, const float *dout, const int *id, int N, int C) {
    RUN(embedding_backward_kernel, dim3((unsigned)N, blocks(C, 128)), 32, 0, dweight, dout, id, N, C);
}

// level_embedding: out[g] = cos(level f_i) | sin(level f_i)                                                    CPU twin: level_embedding_cpu
// grid: one thread per element of out
// memory: writes out once
// needs: any G, F; phases in double
static __global__ void level_embedding_kernel(float *out, const double *level, int G, int F) {
    size_t i = thread_number();
    int half = F / 2, c = (int)(i % F), k = c % (half ? half : 1);
    if (i >= (size_t)G * F) return;
    double turns = level[i / F] * exp(-log(10000.0) * k / half) / 3.14159265358979323846;         // angle / pi, for cospi and sinpi: cos and sin of large angles spill to local memory
    out[i] = c >= 2*half ? 0 : (float)(c < half ? cospi(turns) : sinpi(turns));
}
void level_embedding_cuda(float *out, const double *level, int G, int F) {
    RUN(level_embedding_kernel, blocks((size_t)G * F, 128), 128, 0, out, level, G, F);
}

// ---- linear layers ------------------------------------------------------------------------------------------------------------

// 0.7978845608 = sqrt(2/pi), 0.39894228 = 1/sqrt(2 pi), see act() in cpu_kernels.c
__device__ inline float act(float x, Activation a) {
    if (a == GELU) return x/2 * (1 + tanhf(0.7978845608f * (x + 0.044715f*x*x*x)));
    if (a == SILU) return x / (1 + expf(-x));
    if (a == GELU_EXACT) return x/2 * erfcf(x * -0.70710678f);
    if (a == RELU) return x <= 0 ? 0 : x;
    if (a == ELU) return x > 0 ? x : expm1f(x);
    return x;
}
__device__ inline float act_derivative(float x, Activation a) {
    if (a == GELU) {
        float th = tanhf(0.7978845608f * (x + 0.044715f*x*x*x));
        return (1 + th)/2 + x/2 * (1 - th*th) * 0.7978845608f * (1 + 3*0.044715f*x*x);
    }
    if (a == SILU) { float sig = 1 / (1 + expf(-x)); return sig + x*sig*(1 - sig); }
    if (a == GELU_EXACT) return erfcf(x * -0.70710678f)/2 + x * expf(-x*x/2) * 0.39894228f;
    if (a == RELU) return x > 0 ? 1 : x <= 0 ? 0 : x;
    if (a == ELU) return x > 0 ? 1 : expf(x);
    return 1;
}

// All products are one: c (M,N) = sum over k of a(m,k) b(n,k); in this section M and N are the rows and columns of c. K_INNER: an operand is stored with k
// running fastest, a[m*lda + k]; otherwise a[k*lda + m].
// add: c += sum; otherwise pre = sum + bias, c = act(pre), where pre and bias may be NULL.
struct Product { float *c, *pre; const float *a, *b, *bias; int lda, ldb, M, N, K; Activation act; bool add; };

__device__ inline void finish(const Product &p, int m, int n, float sum) {
    if (m >= p.M || n >= p.N) return;
    size_t at = (size_t)m * p.N + n;
    if (p.add) { p.c[at] += sum; return; }
    if (p.bias) sum += p.bias[n];
    if (p.pre) p.pre[at] = sum;
    p.c[at] = act(sum, p.act);
}

// naive_product: one thread per element of c                                                     CPU twins: linear_*_cpu
// grid: one thread per element, blocks of 16 x 16
// memory: every element of c reads a row and a column: a N times, b M times, in part from cache
// needs: any M, N, K
template <bool A_K_INNER, bool B_K_INNER> static __global__ void naive_product_kernel(Product p) {
    int n = blockIdx.x * 16 + threadIdx.x, m = blockIdx.y * 16 + threadIdx.y;
    float sum = 0;
    if (m < p.M && n < p.N)
        for (int k = 0; k < p.K; k++) sum += p.a[A_K_INNER ? (size_t)m*p.lda + k : (size_t)k*p.lda + m] * p.b[B_K_INNER ? (size_t)n*p.ldb + k : (size_t)k*p.ldb + n];
    finish(p, m, n, sum);
}

// The fused one works on tiles: 128 x 128 of c per block, 8 x 8 of them per thread, 8 k's at a time. A piece of an operand (128 rows, 8 k's) comes as one
// float4 per thread and is kept as piece[k][row].
enum { TILE = 128, DEPTH = 8, LDP = TILE + 4 };         // + 4: rows of a piece start at other banks, and still at multiples of 16 bytes
enum { SPLIT_ROOM = 8 << 20 };
static __device__ float split_sums[SPLIT_ROOM];         // the partial sums where k is split over blocks: 32 MB that all products share, one after the other

// p[0..3], where `left` numbers are left in this line; 0 beyond its end
__device__ inline float4 load4(const float *p, int left) {
    if (left >= 4 && (uintptr_t)p % 16 == 0) return *(const float4 *)p;
    return make_float4(left > 0 ? p[0] : 0, left > 1 ? p[1] : 0, left > 2 ? p[2] : 0, left > 3 ? p[3] : 0);
}
template <bool K_INNER> __device__ inline float4 fetch(const float *p, int ld, int row0, int rows, int k0, int k1) {
    int i = threadIdx.x;
    if (K_INNER) { int row = row0 + i/2, k = k0 + i%2*4; return load4(p + (size_t)row*ld + k, row < rows ? k1 - k : 0); }
    int k = k0 + i/32, row = row0 + i%32*4;
    return load4(p + (size_t)k*ld + row, k < k1 ? rows - row : 0);
}
template <bool K_INNER> __device__ inline void place(float (*piece)[LDP], float4 x) {
    int i = threadIdx.x, row = K_INNER ? i/2 : i%32*4, k = K_INNER ? i%2*4 : i/32;
    if (K_INNER) piece[k][row] = x.x, piece[k + 1][row] = x.y, piece[k + 2][row] = x.z, piece[k + 3][row] = x.w;
    else *(float4 *)&piece[k][row] = x;
}

// product: the same by tiles                                                                   CPU twins: linear_*_cpu
// grid: (N/128, M/128, splits of k), 256 threads; thread (x,y) of 16 x 16 owns rows 8y..8y+7, columns x, x+16, .., x+112
// memory: a is read N/128 times, b M/128 times; two pieces of each in shared memory, 17 KB: one is used while the next arrives. 64 fma need 16 numbers of it
// needs: any M, N, K; 16-byte loads where addresses allow
template <bool A_K_INNER, bool B_K_INNER> static __global__ void __launch_bounds__(256, 2) product_kernel(Product p) {
    SHARED(float, as, [2][DEPTH][LDP]);
    SHARED(float, bs, [2][DEPTH][LDP]);
    int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE, x = threadIdx.x % 16, y = threadIdx.x / 16;
    int each = (p.K + gridDim.z*DEPTH - 1) / (gridDim.z*DEPTH) * DEPTH, k0 = blockIdx.z * each, k1 = min(k0 + each, p.K);
    float sum[8][8] = {};
    place<A_K_INNER>(as[0], fetch<A_K_INNER>(p.a, p.lda, m0, p.M, k0, k1));
    place<B_K_INNER>(bs[0], fetch<B_K_INNER>(p.b, p.ldb, n0, p.N, k0, k1));
    __syncthreads();                                    // the first pieces are complete
    for (int half = 0; k0 < k1; half ^= 1, k0 += DEPTH) {
        float4 next_a = fetch<A_K_INNER>(p.a, p.lda, m0, p.M, k0 + DEPTH, k1), next_b = fetch<B_K_INNER>(p.b, p.ldb, n0, p.N, k0 + DEPTH, k1);   // arrive meanwhile
        #pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float a[8], b[8];
            *(float4 *)a = *(float4 *)&as[half][k][8*y], *(float4 *)(a + 4) = *(float4 *)&as[half][k][8*y + 4];
            #pragma unroll
            for (int j = 0; j < 8; j++) b[j] = bs[half][k][x + 16*j];
            #pragma unroll
            for (int i = 0; i < 8; i++)
                #pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] += a[i] * b[j];
        }
        place<A_K_INNER>(as[half ^ 1], next_a), place<B_K_INNER>(bs[half ^ 1], next_b);         // last read before the barrier that ended the round before
        __syncthreads();                                // everyone is done with this half, and the other is complete
    }
    #pragma unroll                                      // an index that is not known when compiling would move sum out of the registers
    for (int i = 0; i < 8; i++)
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            int m = m0 + 8*y + i, n = n0 + x + 16*j;
            if (gridDim.z == 1) finish(p, m, n, sum[i][j]);
            else if (m < p.M && n < p.N) split_sums[((size_t)blockIdx.z*p.M + m)*p.N + n] = sum[i][j];
        }
}

// product_total: the partial sums of a split product, added in order                           CPU twin: none
// grid: one thread per element of c
// memory: reads the partial sums once, reads (add) and writes c once
// needs: splits * M * N <= SPLIT_ROOM
static __global__ void product_total_kernel(Product p, int splits) {
    size_t i = thread_number(), size = (size_t)p.M * p.N;
    if (i >= size) return;
    float sum = 0;
    for (int z = 0; z < splits; z++) sum += split_sums[z*size + i];
    finish(p, (int)(i / p.N), (int)(i % p.N), sum);
}

// few_rows: c = act(a b^T + bias) for a handful of rows, as in sampling: bound by reading b    CPU twin: linear_forward_cpu
// grid: (N/8, M/8), one warp per column n of c and 8 rows m; lane i takes k = i, i+32, ...
// memory: b is read M/8 times, a from cache, c is written once
// needs: any M, N, K
static __global__ void few_rows_kernel(Product p) {
    int n = blockIdx.x * 8 + threadIdx.x / 32, m0 = blockIdx.y * 8, lane = threadIdx.x % 32;
    if (n >= p.N) return;                               // a whole warp
    float sum[8] = {};
    for (int k = lane; k < p.K; k += 32) {
        float b = p.b[(size_t)n*p.ldb + k];
        #pragma unroll
        for (int i = 0; i < 8; i++) if (m0 + i < p.M) sum[i] += p.a[(size_t)(m0 + i)*p.lda + k] * b;
    }
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        float total = sum_lanes(sum[i], 32);
        if (lane == 0) finish(p, m0 + i, n, total);
    }
}

// A small c with a long k (weight gradients) has too few tiles to keep a large GPU busy: then k is split, until there are 256 blocks, or parts would be shorter
// than 256. By sizes only, so that sums are the same on every GPU.
static int splits_of(int M, int N, int K) {
    int tiles = (int)(blocks(M, TILE) * blocks(N, TILE)), splits = 1;
    while (tiles * splits < 256 && K / (2*splits) >= 256 && (size_t)2*splits * M * N <= SPLIT_ROOM) splits *= 2;
    return splits;
}

// BF16 belongs here: a kernel on tensor cores in the place of product_kernel, operands rounded on the way into shared memory, sums in float32.
template <bool A_K_INNER, bool B_K_INNER> static void product(Product p, Precision how) {
    assert(how == FP32 && "bf16 on tensor cores is not here yet");
    assert(blocks(p.M, cuda_naive ? 16 : TILE) <= 65535 && "rows are the second dimension of a grid");
    if (cuda_naive) { RUN((naive_product_kernel<A_K_INNER, B_K_INNER>), dim3(blocks(p.N, 16), blocks(p.M, 16)), dim3(16, 16), 0, p); return; }
    int splits = splits_of(p.M, p.N, p.K);
    RUN((product_kernel<A_K_INNER, B_K_INNER>), dim3(blocks(p.N, TILE), blocks(p.M, TILE), splits), 256, 0, p);
    if (splits > 1) RUN(product_total_kernel, blocks((size_t)p.M * p.N, 256), 256, 0, p, splits);
}

void linear_forward_cuda(float *out, float *pre, const float *inp, const float *weight, const float *packed, const float *bias, int N, int C, int OC, Activation a, Precision how) {
    (void)packed;
    Product p = {out, pre, inp, weight, bias, C, C, N, OC, C, a, false};          // out (N,OC) = inp (N,C) weight (OC,C)^T
    if (N <= 16 && !cuda_naive && how == FP32) RUN(few_rows_kernel, dim3(blocks(OC, 8), blocks(N, 8)), 256, 0, p);
    else product<true, true>(p, how);
}

void linear_backward_inp_cuda(float *dinp, const float *dpre, const float *weight, int N, int C, int OC, bool add, Precision how) {
    Product p = {dinp, NULL, dpre, weight, NULL, OC, C, N, C, OC, LINEAR_ONLY, add};               // dinp (N,C) [+]= dpre (N,OC) weight (OC,C)
    product<true, false>(p, how);
}

// column_sums: dbias (OC) += sum over rows of dpre (N,OC)                                      CPU twin: linear_backward_weight_cpu
// grid: one block per 8 columns, with 128 runners
// memory: reads dpre once
// needs: blocks of 8 x 128; any N, OC
static __global__ void __launch_bounds__(COLUMNS * RUNNERS) column_sums_kernel(float *dbias, const float *dpre, int N, int OC) {
    int o = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (o < OC) for (int n = threadIdx.y; n < N; n += RUNNERS) sum += dpre[(size_t)n*OC + o];
    sum = sum_runners(sum);
    if (o < OC && threadIdx.y == 0) dbias[o] += sum;
}

void linear_backward_weight_cuda(float *dweight, float *dbias, const float *dpre, const float *inp, int N, int C, int OC, Precision how) {
    Product p = {dweight, NULL, dpre, inp, NULL, OC, C, OC, C, N, LINEAR_ONLY, true};              // dweight (OC,C) += dpre (N,OC)^T inp (N,C)
    product<false, false>(p, how);
    if (dbias) RUN(column_sums_kernel, blocks(OC, COLUMNS), dim3(COLUMNS, RUNNERS), 0, dbias, dpre, N, OC);
}

// sum_forward, activation_backward: pre = x + y, out = act(pre); d *= act'(pre), out = act(pre)   CPU twins: sum_forward_cpu, activation_backward_cpu
// grid: one thread per element
// memory: each array once
// needs: any n
static __global__ void sum_forward_kernel(float *out, float *pre, const float *x, const float *y, size_t n, Activation a) {
    size_t i = thread_number();
    if (i >= n) return;
    float sum = x[i] + y[i];
    if (pre) pre[i] = sum;
    out[i] = act(sum, a);
}
static __global__ void activation_backward_kernel(float *d, float *out, const float *pre, size_t n, Activation a) {
    size_t i = thread_number();
    if (i >= n) return;
    d[i] *= act_derivative(pre[i], a);
    if (out) out[i] = act(pre[i], a);
}
void sum_forward_cuda(float *out, float *pre, const float *x, const float *y, size_t n, Activation a) {
    RUN(sum_forward_kernel, blocks(n, 256), 256, 0, out, pre, x, y, n, a);
}
void activation_backward_cuda(float *d, float *out, const float *pre, size_t n, Activation a) { RUN(activation_backward_kernel, blocks(n, 256), 256, 0, d, out, pre, n, a); }

// ---- norm and modulation ------------------------------------------------------------------------------------------------------

// norm_modulate_forward: out = LN(x; weight) (1 + scale) + shift; RMSNorm where mean is NULL    CPU twin: norm_modulate_forward_cpu
// grid: one warp per row, 8 rows per block; lane i takes columns i, i+32, ...
// memory: reads x (twice more from cache), writes out, mean, rstd once
// needs: any N, C
static __global__ void norm_modulate_forward_kernel(float *out, float *mean, float *rstd, const float *x, const float *weight, const float *shift,
                                                    const float *scale, const int *group, double eps, int N, int C, int ld) {
    int n = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (n >= N) return;                                 // a whole warp
    const float *x_n = x + (size_t)n*C;
    float m = 0, var = 0;
    if (mean) for (int c = lane; c < C; c += 32) m += x_n[c];
    m = sum_lanes(m, 32) / C;
    for (int c = lane; c < C; c += 32) var += (x_n[c] - m) * (x_n[c] - m);
    float r = (float)(1 / sqrt((double)sum_lanes(var, 32) / C + eps));
    if (lane == 0) rstd[n] = r;
    if (lane == 0 && mean) mean[n] = m;
    int g = group_of(group, n);
    const float *shift_g = shift && g >= 0 ? shift + (size_t)g*ld : NULL, *scale_g = scale && g >= 0 ? scale + (size_t)g*ld : NULL;
    for (int c = lane; c < C; c += 32) {
        float y = (x_n[c] - m) * r * weight[c], by = shift_g ? shift_g[c] : 0;
        out[(size_t)n*C + c] = scale_g ? y * (1 + scale_g[c]) + by : y + by;
    }
}
void norm_modulate_forward_cuda(float *out, float *mean, float *rstd, const float *x, const float *weight, const float *shift, const float *scale,
                                const int *group, double eps, int N, int C, int ld) {
    RUN(norm_modulate_forward_kernel, blocks(N, 8), 256, 0, out, mean, rstd, x, weight, shift, scale, group, eps, N, C, ld);
}

// norm_modulate_backward, pass 1: dxhat = dout (1 + scale) weight; dx += rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)); RMSNorm: without mean(dxhat)
//                                                                                              CPU twin: norm_modulate_backward_cpu
// grid: one warp per row, 8 rows per block; lane i takes columns i, i+32, ...
// memory: reads dout and x (once more from cache), reads and writes dx
// needs: any N, C
static __global__ void norm_modulate_backward_kernel(float *dx, const float *dout, const float *x, const float *mean, const float *rstd, const float *weight,
                                                     const float *scale, const int *group, int N, int C, int ld) {
    int n = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (n >= N) return;                                 // a whole warp
    int g = group_of(group, n);
    const float *dout_n = dout + (size_t)n*C, *x_n = x + (size_t)n*C, *scale_g = scale && g >= 0 ? scale + (size_t)g*ld : NULL;
    float m = mean ? mean[n] : 0, r = rstd[n], sum = 0, dot = 0;
    for (int c = lane; c < C; c += 32) {
        float dxhat = dout_n[c] * (scale_g ? 1 + scale_g[c] : 1) * weight[c];
        sum += dxhat;
        dot += dxhat * (x_n[c] - m) * r;
    }
    sum = mean ? sum_lanes(sum, 32) / C : 0, dot = sum_lanes(dot, 32) / C;
    for (int c = lane; c < C; c += 32) {
        float dxhat = dout_n[c] * (scale_g ? 1 + scale_g[c] : 1) * weight[c];
        dx[(size_t)n*C + c] += r * (dxhat - sum - (x_n[c] - m) * r * dot);
    }
}

// pass 2, by columns: dweight += sum dout (1 + scale) xhat;  of each group dscale += sum dout xhat weight, dshift += sum dout
// grid: (C/8, 1 + G), one block per 8 columns, with 128 runners; blockIdx.y + first = 0: dweight, over all rows; 1 + g: dshift, dscale, over the rows of group g
// memory: reads dout and x twice if both are wanted, group (1 + G) C/8 times from cache
// needs: blocks of 8 x 128; any N, C, G
static __global__ void __launch_bounds__(COLUMNS * RUNNERS) norm_modulate_backward_params_kernel(float *dweight, float *dshift, float *dscale, const float *dout, const float *x, const float *mean,
                                                            const float *rstd, const float *weight, const float *scale, const int *group, int N, int C, int ld, int first) {
    int c = blockIdx.x * COLUMNS + threadIdx.x, mine = (int)blockIdx.y + first - 1;
    float sum = 0, sum_xhat = 0;
    if (c < C) for (int n = threadIdx.y; n < N; n += RUNNERS) {
        int g = group_of(group, n);
        if (mine >= 0 && g != mine) continue;
        float d = dout[(size_t)n*C + c], xhat = (x[(size_t)n*C + c] - (mean ? mean[n] : 0)) * rstd[n];
        sum += d;
        sum_xhat += mine < 0 && scale && g >= 0 ? d * (1 + scale[(size_t)g*ld + c]) * xhat : d * xhat;
    }
    sum = sum_runners(sum), sum_xhat = sum_runners(sum_xhat);
    if (c >= C || threadIdx.y) return;
    if (mine < 0) { dweight[c] += sum_xhat; return; }
    if (dshift) dshift[(size_t)mine*ld + c] += sum;
    if (dscale) dscale[(size_t)mine*ld + c] += sum_xhat * weight[c];
}
void norm_modulate_backward_cuda(float *dx, float *dweight, float *dshift, float *dscale, const float *dout, const float *x, const float *mean, const float *rstd,
                                 const float *weight, const float *scale, const int *group, int N, int C, int G, int ld) {
    if (dx) RUN(norm_modulate_backward_kernel, blocks(N, 8), 256, 0, dx, dout, x, mean, rstd, weight, scale, group, N, C, ld);
    int first = dweight ? 0 : 1, jobs = (dweight ? 1 : 0) + (dshift || dscale ? G : 0);
    assert(jobs <= 65535 && "groups are the second dimension of a grid");
    RUN(norm_modulate_backward_params_kernel, dim3(blocks(C, COLUMNS), jobs), dim3(COLUMNS, RUNNERS), 0, dweight, dshift, dscale, dout, x, mean, rstd, weight, scale, group, N, C, ld, first);
}

// ---- rotary positions ---------------------------------------------------------------------------------------------------------

// rope_forward, rope_backward: the pair (x_i, x_j), j = pair[i], i < j, turns, or turns back      CPU twins: rope_forward_cpu, rope_backward_cpu
// grid: one thread per element of each head; those that are not the first of a pair leave
// memory: reads and writes the first heads*HS columns of x once, the tables from cache
// needs: any N, heads, HS
template <bool TURN_BACK> static __global__ void rope_kernel(float *x, const float *cosine, const float *sine, const int *position, const int *pair, size_t size, int ld, int heads, int HS) {
    size_t at = thread_number();
    if (at >= size) return;
    int i = (int)(at % HS), j = pair[i], h = (int)(at / HS % heads);
    size_t n = at / HS / heads;
    if (j <= i) return;
    float *x_nh = x + n*ld + (size_t)h*HS;
    const float *cos_p = cosine + (size_t)position[n]*HS, *sin_p = sine + (size_t)position[n]*HS;
    float a = x_nh[i], b = x_nh[j];
    x_nh[i] = TURN_BACK ? a*cos_p[i] + b*sin_p[j] : a*cos_p[i] - b*sin_p[i];
    x_nh[j] = TURN_BACK ? b*cos_p[j] - a*sin_p[i] : b*cos_p[j] + a*sin_p[j];
}
void rope_forward_cuda(float *x, const float *cosine, const float *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    size_t size = (size_t)N * heads * HS;
    RUN(rope_kernel<false>, blocks(size, 256), 256, 0, x, cosine, sine, position, pair, size, ld, heads, HS);
}
void rope_backward_cuda(float *dx, const float *cosine, const float *sine, const int *position, const int *pair, int N, int ld, int heads, int HS) {
    size_t size = (size_t)N * heads * HS;
    RUN(rope_kernel<true>, blocks(size, 256), 256, 0, dx, cosine, sine, position, pair, size, ld, heads, HS);
}

// ---- RMSNorm of heads ---------------------------------------------------------------------------------------------------------

// head_norm_forward: x' = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps), for every head             CPU twin: head_norm_forward_cpu
// grid: one warp per head of a row, 8 per block; lane i takes columns i, i+32, ...
// memory: reads (once more from cache) and writes the first heads*HS columns of x, writes kept and rstd once
// needs: any N, heads, HS
static __global__ void head_norm_forward_kernel(float *x, float *kept, float *rstd, const float *weight, double eps, size_t all, int ld, int heads, int HS) {
    size_t at = (size_t)blockIdx.x * 8 + threadIdx.x / 32;                              // head at % heads of row at / heads
    int lane = threadIdx.x % 32;
    if (at >= all) return;                              // a whole warp
    float *x_nh = x + at / heads * ld + at % heads * HS, sum = 0;
    for (int c = lane; c < HS; c += 32) sum += x_nh[c] * x_nh[c];
    float r = (float)(1 / sqrt((double)sum_lanes(sum, 32) / HS + eps));
    if (lane == 0 && rstd) rstd[at] = r;
    for (int c = lane; c < HS; c += 32) {
        if (kept) kept[at*HS + c] = x_nh[c];
        x_nh[c] = x_nh[c] * r * weight[c];
    }
}
void head_norm_forward_cuda(float *x, float *kept, float *rstd, const float *weight, const float *cosine, const float *sine, const int *position, const int *pair, double eps,
                            int N, int ld, int heads, int HS) {
    size_t all = (size_t)N * heads;
    RUN(head_norm_forward_kernel, blocks(all, 8), 256, 0, x, kept, rstd, weight, eps, all, ld, heads, HS);
    if (cosine) rope_forward_cuda(x, cosine, sine, position, pair, N, ld, heads, HS);
}

// head_norm_backward, pass 1, by columns: dweight += sum dx' xhat over rows and heads          CPU twin: head_norm_backward_cpu
// grid: one block per 8 columns of a head, with 128 runners over the heads of all rows
// memory: reads dx and kept once
// needs: blocks of 8 x 128; any N, heads, HS
static __global__ void __launch_bounds__(COLUMNS * RUNNERS) head_norm_backward_weight_kernel(float *dweight, const float *dx, const float *kept, const float *rstd,
                                                                                             size_t all, int ld, int heads, int HS) {
    int c = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (c < HS) for (size_t at = threadIdx.y; at < all; at += RUNNERS) sum += dx[at / heads * ld + at % heads * HS + c] * kept[at*HS + c] * rstd[at];
    sum = sum_runners(sum);
    if (c < HS && threadIdx.y == 0) dweight[c] += sum;
}

// pass 2: dxhat = dx' weight; dx = rstd (dxhat - xhat mean(dxhat xhat))
// grid: one warp per head of a row, 8 per block; lane i takes columns i, i+32, ...
// memory: reads kept, reads and writes the first heads*HS columns of dx (both are read once more, from cache)
// needs: any N, heads, HS; pass 1 is over
static __global__ void head_norm_backward_kernel(float *dx, const float *kept, const float *rstd, const float *weight, size_t all, int ld, int heads, int HS) {
    size_t at = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (at >= all) return;                              // a whole warp
    float *dx_nh = dx + at / heads * ld + at % heads * HS, r = rstd[at], dot = 0;
    const float *x_nh = kept + at*HS;
    for (int c = lane; c < HS; c += 32) dot += dx_nh[c] * weight[c] * x_nh[c] * r;
    dot = sum_lanes(dot, 32) / HS;
    for (int c = lane; c < HS; c += 32) dx_nh[c] = r * (dx_nh[c] * weight[c] - x_nh[c] * r * dot);
}
void head_norm_backward_cuda(float *dx, float *dweight, const float *kept, const float *rstd, const float *weight, const float *cosine, const float *sine, const int *position,
                             const int *pair, int N, int ld, int heads, int HS) {
    size_t all = (size_t)N * heads;
    if (cosine) rope_backward_cuda(dx, cosine, sine, position, pair, N, ld, heads, HS);
    if (dweight) RUN(head_norm_backward_weight_kernel, blocks(HS, COLUMNS), dim3(COLUMNS, RUNNERS), 0, dweight, dx, kept, rstd, all, ld, heads, HS);
    RUN(head_norm_backward_kernel, blocks(all, 8), 256, 0, dx, kept, rstd, weight, all, ld, heads, HS);
}

// ---- attention over spans -----------------------------------------------------------------------------------------------------

struct Attend {                                         // the arguments of attention, see kernels.h
    float *out, *lse, *dq, *dk, *dv;
    const float *dout, *q, *k, *v;
    const Span *span;
    int B, Tq, Tk, NH, HS, ldq, ldkv;
    float scale;
    bool add;
};
__device__ inline bool sees(const Span &s, int j) { return (j >= s.lo[0] && j < s.hi[0]) || (j >= s.lo[1] && j < s.hi[1]); }
__device__ inline bool sees_any(const Span &s, int from, int to) { return max(s.lo[0], from) < min(s.hi[0], to) || max(s.lo[1], from) < min(s.hi[1], to); }
#define FOR_KEYS(j, s) for (int part_ = 0; part_ < 2; part_++) for (int j = (s).lo[part_]; j < (s).hi[part_]; j++)

__device__ inline float dot(const float *a, const float *b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// naive_attention_forward: out = sum_j p_j v_j, p = softmax(q.k_j scale)                       CPU twin: attention_forward_cpu
// grid: one thread per query row of a head, with the loops of the twin
// memory: every row reads twice the keys that it sees, and their values once
// needs: any sizes
static __global__ void naive_attention_forward_kernel(Attend a) {
    size_t i = thread_number();
    if (i >= (size_t)a.B * a.NH * a.Tq) return;
    int t = (int)(i % a.Tq), h = (int)(i / a.Tq % a.NH), b = (int)(i / a.Tq / a.NH);
    const float *q_bth = a.q + ((size_t)b*a.Tq + t)*a.ldq + h*a.HS, *k_bh = a.k + (size_t)b*a.Tk*a.ldkv + h*a.HS, *v_bh = a.v + (size_t)b*a.Tk*a.ldkv + h*a.HS;
    float *out_bth = a.out + (((size_t)b*a.Tq + t)*a.NH + h)*a.HS, top = -INFINITY;
    double sum = 0;
    FOR_KEYS(j, a.span[t]) { float s = a.scale * dot(q_bth, k_bh + (size_t)j*a.ldkv, a.HS); if (!(s <= top)) top = s; }
    for (int d = 0; d < a.HS; d++) out_bth[d] = 0;
    FOR_KEYS(j, a.span[t]) {
        float p = expf(a.scale * dot(q_bth, k_bh + (size_t)j*a.ldkv, a.HS) - top);
        sum += p;
        for (int d = 0; d < a.HS; d++) out_bth[d] += p * v_bh[(size_t)j*a.ldkv + d];
    }
    if (sum != 0) for (int d = 0; d < a.HS; d++) out_bth[d] /= (float)sum;
    a.lse[i] = (float)(top + log(sum));
}

// The fused ones work on tiles: rows of D >= HS numbers, filled up with zeros, in shared memory. D + 4: rows start at other banks.
// PIECE: room for the keys, or for the weights p, whichever is larger.
enum { QUERIES = 64, BACKWARD_ROWS = 32 };                       // query rows of a forward tile; rows of both kinds of a backward tile
template <int D> struct Tile { enum { LD = D + 4, KEYS = D <= 64 ? 64 : 32, LP = KEYS + 4,       // KEYS: keys of a forward tile; LP: from one row of weights p to the next
    PIECE = KEYS*LD > QUERIES*LP ? KEYS*LD : QUERIES*LP,
    FORWARD = QUERIES*LD + PIECE + KEYS*LD, BACKWARD = 4*BACKWARD_ROWS*LD + 2*BACKWARD_ROWS*(BACKWARD_ROWS + 4) }; };       // floats of shared memory

// tile (R,LD) = rows first.. of x, which lie ld apart; rows from `end` on and columns from HS on are 0
template <int D, int R> __device__ inline void load_tile(float *tile, const float *x, int ld, int first, int end, int HS) {
    for (int i = threadIdx.x; i < R*D; i += 256) {
        int r = i / D, d = i % D;
        tile[r*Tile<D>::LD + d] = first + r < end && d < HS ? x[(size_t)(first + r)*ld + d] : 0;
    }
}
// s[i][j] = a_i . b_j: rows i of the tile a, rows x + 16 j of the tile b, four columns at a time
template <int D, int I, int J> __device__ inline void dots(float (&s)[I][J], const float *a, const float *b, int x) {
    #pragma unroll
    for (int i = 0; i < I; i++)
        #pragma unroll
        for (int j = 0; j < J; j++) s[i][j] = 0;
    #pragma unroll 2
    for (int d = 0; d < D; d += 4) {
        float4 bj[J];
        #pragma unroll
        for (int j = 0; j < J; j++) bj[j] = *(const float4 *)(b + (x + 16*j)*Tile<D>::LD + d);
        #pragma unroll
        for (int i = 0; i < I; i++) {
            float4 ai = *(const float4 *)(a + i*Tile<D>::LD + d);
            #pragma unroll
            for (int j = 0; j < J; j++) s[i][j] += ai.x*bj[j].x + ai.y*bj[j].y + ai.z*bj[j].z + ai.w*bj[j].w;
        }
    }
}
// sum[i][e] += sum over j < N of p_i[j] b_j[x + 16 e]: rows i of the scores p (ldp apart), rows j of the tile b
template <int D, int I, int N> __device__ inline void add_product(float (&sum)[I][D/16], const float *p, int ldp, const float *b, int x) {
    #pragma unroll 2                                    // all of them at once would not fit into registers
    for (int j = 0; j < N; j += 4)
        #pragma unroll
        for (int i = 0; i < I; i++) {
            float4 pi = *(const float4 *)(p + i*ldp + j);
            #pragma unroll
            for (int e = 0; e < D/16; e++) {
                const float *b_j = b + j*Tile<D>::LD + x + 16*e;
                sum[i][e] += pi.x*b_j[0] + pi.y*b_j[Tile<D>::LD] + pi.z*b_j[2*Tile<D>::LD] + pi.w*b_j[3*Tile<D>::LD];
            }
        }
}

// attention_forward: the same with an online softmax: scores never leave the chip              CPU twin: attention_forward_cpu
// grid: one block per 64 query rows of a head, 256 threads; thread (x,y) of 16 x 16 owns rows 4y..4y+3, keys x, x+16, .. of a tile, columns x, x+16, .. of out
// memory: reads q once, the visible tiles of k and v Tq/64 times, writes out and lse once; shared memory: Tile<D>::FORWARD floats
// needs: HS <= D; any Tq, Tk; a tile of keys that none of the block's query rows sees is skipped
template <int D> static __global__ void __launch_bounds__(256) attention_forward_kernel(Attend a) {
    enum { KEYS = Tile<D>::KEYS, LD = Tile<D>::LD, LP = Tile<D>::LP };
    DYNAMIC_SHARED(float, memory);
    SHARED(Span, spans, [QUERIES]);
    float *qs = memory, *ks = qs + QUERIES*LD, *ps = ks, *vs = ks + Tile<D>::PIECE;      // the weights p take the place of the keys
    int tiles = (a.Tq + QUERIES - 1) / QUERIES, t0 = (int)(blockIdx.x % tiles) * QUERIES, h = (int)(blockIdx.x / tiles) % a.NH, b = (int)(blockIdx.x / tiles) / a.NH;
    int i0 = threadIdx.x, x = i0 % 16, y = i0 / 16;
    const float *k_bh = a.k + (size_t)b*a.Tk*a.ldkv + h*a.HS, *v_bh = a.v + (size_t)b*a.Tk*a.ldkv + h*a.HS;
    load_tile<D, QUERIES>(qs, a.q + (size_t)b*a.Tq*a.ldq + h*a.HS, a.ldq, t0, a.Tq, a.HS);
    if (i0 < QUERIES) { Span none = {{0, 0}, {0, 0}}; spans[i0] = t0 + i0 < a.Tq ? a.span[t0 + i0] : none; }
    __syncthreads();                                    // spans are complete
    int end = 0;                                        // one past the last key that a row of this block sees; what lies behind may be anything
    for (int r = 0; r < QUERIES; r++) for (int p = 0; p < 2; p++) if (spans[r].lo[p] < spans[r].hi[p]) end = max(end, spans[r].hi[p]);

    float sum[4] = {0, 0, 0, 0}, top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, out[4][D/16] = {};
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        if (!__syncthreads_or(sees_any(spans[i0 % QUERIES], j0, j0 + KEYS))) continue;   // a barrier and a vote: everyone is done with the last tile; no row sees this one
        load_tile<D, KEYS>(ks, k_bh, a.ldkv, j0, end, a.HS);
        load_tile<D, KEYS>(vs, v_bh, a.ldkv, j0, end, a.HS);
        __syncthreads();                                // the tiles are complete
        float s[4][KEYS/16];
        dots<D>(s, qs + 4*y*LD, ks, x);
        __syncthreads();                                // everyone is done with the keys: the weights p may take their place
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float most = top[i];
            #pragma unroll
            for (int j = 0; j < KEYS/16; j++) {
                s[i][j] = sees(spans[4*y + i], j0 + x + 16*j) ? s[i][j] * a.scale : -INFINITY;
                most = fmaxf(most, s[i][j]);
            }
            most = max_lanes(most, 16);
            float shrink = top[i] == -INFINITY ? 0 : expf(top[i] - most);          // what was summed so far, relative to the new maximum
            sum[i] *= shrink, top[i] = most;
            #pragma unroll
            for (int e = 0; e < D/16; e++) out[i][e] *= shrink;
            #pragma unroll
            for (int j = 0; j < KEYS/16; j++) {
                float p = s[i][j] == -INFINITY ? 0 : expf(s[i][j] - most);
                sum[i] += p;                            // over this lane's keys only; lanes are added at the end
                ps[(4*y + i)*LP + x + 16*j] = p;
            }
        }
        __syncthreads();                                // the weights are complete
        add_product<D, 4, KEYS>(out, ps + 4*y*LP, LP, vs, x);
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        int t = t0 + 4*y + i;
        float total = sum_lanes(sum[i], 16);
        if (total == 0 && sees_any(spans[4*y + i], 0, a.Tk)) total = NAN;      // every score is -inf, as after an overflow: not the same as no key at all
        if (t >= a.Tq) continue;
        #pragma unroll
        for (int e = 0; e < D/16; e++)
            if (x + 16*e < a.HS) a.out[(((size_t)b*a.Tq + t)*a.NH + h)*a.HS + x + 16*e] = total != 0 ? out[i][e] / total : 0;
        if (x == 0) a.lse[((size_t)b*a.NH + h)*a.Tq + t] = top[i] + logf(total);
    }
}

// dynamic shared memory of so many floats, if this device has it beside the static arrays of attention
template <class Kernel> static bool allow_shared(Kernel kernel, size_t floats) {
    if (floats * sizeof(float) + QUERIES * sizeof(Span) > gpu.sharedMemPerBlockOptin) return false;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(floats * sizeof(float))));
    return true;
}
template <int D> static bool fused_attention_forward(Attend a) {
    if (cuda_naive || !allow_shared(attention_forward_kernel<D>, Tile<D>::FORWARD)) return false;
    RUN(attention_forward_kernel<D>, blocks((size_t)blocks(a.Tq, QUERIES) * a.B * a.NH, 1), 256, Tile<D>::FORWARD * sizeof(float), a);
    return true;
}
void attention_forward_cuda(float *out, float *lse, const float *q, const float *k, const float *v, const Span *span,
                            int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, Precision how) {
    assert(how == FP32 && "bf16 on tensor cores is not here yet");
    Attend a = {out, lse, NULL, NULL, NULL, NULL, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv, (float)(1 / sqrt((double)HS)), false};
    if (HS <= 32 ? fused_attention_forward<32>(a) : HS <= 64 ? fused_attention_forward<64>(a) : HS <= 128 && fused_attention_forward<128>(a)) return;
    RUN(naive_attention_forward_kernel, blocks((size_t)B * NH * Tq, 128), 128, 0, a);
}

// naive_attention_backward: dq, or dk and dv                                                   CPU twin: attention_backward_cpu
// grid: KEYS: one thread per key of a head, over all rows that see it: dk, dv; otherwise one thread per query row, over its keys: dq
// memory: every thread reads the rows of the other side
// needs: any sizes
template <bool KEYS> static __global__ void naive_attention_backward_kernel(Attend a) {
    size_t i = thread_number();
    int T = KEYS ? a.Tk : a.Tq;
    if (i >= (size_t)a.B * a.NH * T) return;
    int own = (int)(i % T), h = (int)(i / T % a.NH), b = (int)(i / T / a.NH);
    size_t own_row = ((size_t)b*T + own) * (KEYS ? a.ldkv : a.ldq) + h*a.HS;
    if (!a.add) for (int d = 0; d < a.HS; d++) {
        if (KEYS) a.dk[own_row + d] = a.dv[own_row + d] = 0; else a.dq[own_row + d] = 0;
    }
    for (int t = KEYS ? 0 : own; t < (KEYS ? a.Tq : own + 1); t++) {
        size_t row_q = ((size_t)b*a.Tq + t)*a.ldq + h*a.HS, row_out = (((size_t)b*a.Tq + t)*a.NH + h)*a.HS;
        float delta = dot(a.dout + row_out, a.out + row_out, a.HS), lse = a.lse[((size_t)b*a.NH + h)*a.Tq + t];
        for (int j = KEYS ? own : 0; j < (KEYS ? own + 1 : a.Tk); j++) {
            if (!sees(a.span[t], j)) continue;
            size_t row_k = ((size_t)b*a.Tk + j)*a.ldkv + h*a.HS;
            float p = expf(a.scale * dot(a.q + row_q, a.k + row_k, a.HS) - lse), ds = p * (dot(a.dout + row_out, a.v + row_k, a.HS) - delta);
            for (int d = 0; d < a.HS; d++) {
                if (KEYS) a.dv[row_k + d] += p * a.dout[row_out + d], a.dk[row_k + d] += a.scale * ds * a.q[row_q + d];
                else a.dq[row_q + d] += a.scale * ds * a.k[row_k + d];
            }
        }
    }
}

// attention_backward: the same by tiles; p is made again from lse                              CPU twin: attention_backward_cpu
// grid: one block per 32 rows of a head, 256 threads. KEYS: its rows are keys, and tiles of queries pass by: dk += scale ds^T q, dv += p^T dout;
//       otherwise its rows are queries, and keys pass by: dq += scale ds k. Thread (x,y) of 16 x 16 owns rows 2y, 2y+1, others x, x+16, columns x, x+16, ..
// memory: own rows once, the visible tiles of the other side T/32 times, out with dout; shared memory: Tile<D>::BACKWARD floats
// needs: HS <= D; any Tq, Tk; a tile without a visible pair is not read
template <int D, bool KEYS> static __global__ void __launch_bounds__(256) attention_backward_kernel(Attend a) {
    enum { LD = Tile<D>::LD, LP = BACKWARD_ROWS + 4 };
    DYNAMIC_SHARED(float, memory);
    SHARED(Span, spans, [BACKWARD_ROWS]);                        // of the query rows, as are these two
    SHARED(float, lse, [BACKWARD_ROWS]);
    SHARED(float, delta, [BACKWARD_ROWS]);
    // own1, own2: k, v (KEYS) or q, dout; other1, other2: q, dout (KEYS) or k, v
    float *own1 = memory, *own2 = own1 + BACKWARD_ROWS*LD, *other1 = own2 + BACKWARD_ROWS*LD, *other2 = other1 + BACKWARD_ROWS*LD, *ps = other2 + BACKWARD_ROWS*LD, *ds = ps + BACKWARD_ROWS*LP;
    int T = KEYS ? a.Tk : a.Tq, S = KEYS ? a.Tq : a.Tk, C = a.NH * a.HS;
    int tiles = (T + BACKWARD_ROWS - 1) / BACKWARD_ROWS, t0 = (int)(blockIdx.x % tiles) * BACKWARD_ROWS, h = (int)(blockIdx.x / tiles) % a.NH, b = (int)(blockIdx.x / tiles) / a.NH;
    int i0 = threadIdx.x, x = i0 % 16, y = i0 / 16;
    size_t at_q = (size_t)b*a.Tq*a.ldq + h*a.HS, at_k = (size_t)b*a.Tk*a.ldkv + h*a.HS, at_out = (size_t)b*a.Tq*C + h*a.HS;
    load_tile<D, BACKWARD_ROWS>(own1, KEYS ? a.k + at_k : a.q + at_q, KEYS ? a.ldkv : a.ldq, t0, T, a.HS);
    load_tile<D, BACKWARD_ROWS>(own2, KEYS ? a.v + at_k : a.dout + at_out, KEYS ? a.ldkv : C, t0, T, a.HS);

    bool known = false;                                 // what belongs to the query rows: own rows once, others with every tile
    float sum1[2][D/16] = {}, sum2[2][D/16] = {};       // dk and dv, or dq and nothing
    for (int s0 = 0; s0 < S; s0 += BACKWARD_ROWS) {
        int q0 = KEYS ? s0 : t0, k0 = KEYS ? t0 : s0;
        if (!__syncthreads_or(q0 + i0 % BACKWARD_ROWS < a.Tq && sees_any(a.span[q0 + i0 % BACKWARD_ROWS], k0, k0 + BACKWARD_ROWS))) continue;     // a barrier and a vote, as above
        load_tile<D, BACKWARD_ROWS>(other1, KEYS ? a.q + at_q : a.k + at_k, KEYS ? a.ldq : a.ldkv, s0, S, a.HS);
        load_tile<D, BACKWARD_ROWS>(other2, KEYS ? a.dout + at_out : a.v + at_k, KEYS ? C : a.ldkv, s0, S, a.HS);
        if (KEYS || !known) {
            int r = i0 / 8, t = q0 + r;                 // 8 threads per query row: delta = dout.out
            float part = 0;
            if (t < a.Tq) for (int d = i0 % 8; d < a.HS; d += 8) part += a.dout[at_out + (size_t)t*C + d] * a.out[at_out + (size_t)t*C + d];
            part = sum_lanes(part, 8);
            Span none = {{0, 0}, {0, 0}};
            if (i0 % 8 == 0) delta[r] = part, spans[r] = t < a.Tq ? a.span[t] : none, lse[r] = t < a.Tq ? a.lse[((size_t)b*a.NH + h)*a.Tq + t] : 0;
            known = true;
        }
        __syncthreads();                                // tiles, spans, lse and delta are complete
        float s[2][2], dp[2][2];
        dots<D>(s, own1 + 2*y*LD, other1, x);
        dots<D>(dp, own2 + 2*y*LD, other2, x);
        #pragma unroll
        for (int i = 0; i < 2; i++)
            #pragma unroll
            for (int j = 0; j < 2; j++) {
                int row = 2*y + i, column = x + 16*j, query = KEYS ? column : row, key = k0 + (KEYS ? row : column);
                bool seen = sees(spans[query], key);
                float p = seen ? expf(a.scale * s[i][j] - lse[query]) : 0;
                ps[row*LP + column] = p;
                ds[row*LP + column] = seen ? p * (dp[i][j] - delta[query]) : 0;
            }
        __syncthreads();                                // p and ds are complete
        add_product<D, 2, BACKWARD_ROWS>(sum1, ds + 2*y*LP, LP, other1, x);
        if (KEYS) add_product<D, 2, BACKWARD_ROWS>(sum2, ps + 2*y*LP, LP, other2, x);
    }
    #pragma unroll
    for (int i = 0; i < 2; i++)
        #pragma unroll
        for (int e = 0; e < D/16; e++) {
            int t = t0 + 2*y + i, d = x + 16*e;
            if (t >= T || d >= a.HS) continue;
            float *out1 = KEYS ? a.dk + at_k + (size_t)t*a.ldkv + d : a.dq + at_q + (size_t)t*a.ldq + d, *out2 = a.dv + at_k + (size_t)t*a.ldkv + d;
            *out1 = (a.add ? *out1 : 0) + a.scale * sum1[i][e];
            if (KEYS) *out2 = (a.add ? *out2 : 0) + sum2[i][e];
        }
}
template <int D> static bool fused_attention_backward(Attend a) {
    if (cuda_naive || !allow_shared(attention_backward_kernel<D, true>, Tile<D>::BACKWARD) || !allow_shared(attention_backward_kernel<D, false>, Tile<D>::BACKWARD)) return false;
    RUN((attention_backward_kernel<D, false>), blocks((size_t)blocks(a.Tq, BACKWARD_ROWS) * a.B * a.NH, 1), 256, Tile<D>::BACKWARD * sizeof(float), a);
    RUN((attention_backward_kernel<D, true>), blocks((size_t)blocks(a.Tk, BACKWARD_ROWS) * a.B * a.NH, 1), 256, Tile<D>::BACKWARD * sizeof(float), a);
    return true;
}
void attention_backward_cuda(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse, const float *q, const float *k, const float *v,
                             const Span *span, int B, int Tq, int Tk, int NH, int HS, int ldq, int ldkv, bool add, Precision how) {
    assert(how == FP32 && "bf16 on tensor cores is not here yet");
    Attend a = {(float *)out, (float *)lse, dq, dk, dv, dout, q, k, v, span, B, Tq, Tk, NH, HS, ldq, ldkv, (float)(1 / sqrt((double)HS)), add};
    if (HS <= 32 ? fused_attention_backward<32>(a) : HS <= 64 ? fused_attention_backward<64>(a) : HS <= 128 && fused_attention_backward<128>(a)) return;
    RUN(naive_attention_backward_kernel<false>, blocks((size_t)B * NH * Tq, 128), 128, 0, a);
    RUN(naive_attention_backward_kernel<true>, blocks((size_t)B * NH * Tk, 128), 128, 0, a);
}

// ---- residual branch ----------------------------------------------------------------------------------------------------------

// A Dropout as a kernel wants it: an element becomes 0 if its 32 bits are below limit = p * 2^32, others are multiplied by keep = 1/(1-p).
struct Drop { uint64_t seed, stream, limit; float keep; };
static Drop drop_of(Dropout d) { Drop drop = {d.seed, d.stream, (uint64_t)ceil(d.p * 4294967296.0), (float)(1 / (1 - d.p))}; return drop; }

// the factors 0 or keep of the four columns of quad i = n*ceil(C/4) + c/4
__device__ inline float4 dropout_factors(const Drop &d, size_t i) {
    if (d.limit == 0) return make_float4(1, 1, 1, 1);
    Philox x = philox(d.seed, d.stream, i);
    return make_float4(x.w[0] < d.limit ? 0 : d.keep, x.w[1] < d.limit ? 0 : d.keep, x.w[2] < d.limit ? 0 : d.keep, x.w[3] < d.limit ? 0 : d.keep);
}
__device__ inline float component(float4 f, int k) { return k == 0 ? f.x : k == 1 ? f.y : k == 2 ? f.z : f.w; }

// The four columns of a thread, which share a Philox call. at: the place of the first; f: what each is multiplied with, by dropout and gate. Returns how many
// of them are inside of the N rows of C columns.
__device__ inline int branch_quad(size_t *at, float (&f)[4], const float *gate, const int *group, const Drop &drop, int N, int C, int ld) {
    size_t i = thread_number(), quads = (size_t)(C + 3) / 4, n = i / quads;
    if (n >= (size_t)N) return 0;
    int c0 = (int)(i % quads) * 4, g = group_of(group, (int)n), columns = min(4, C - c0);
    float4 dropped = dropout_factors(drop, i);
    *at = n*C + c0;
    #pragma unroll
    for (int k = 0; k < 4; k++) f[k] = component(dropped, k) * (k < columns && gate && g >= 0 ? gate[(size_t)g*ld + c0 + k] : 1);
    return columns;
}

// gated_residual_forward: out = x + gate * dropout(branch)                                     CPU twin: gated_residual_forward_cpu
// grid: one thread per four columns of a row, which share a Philox call
// memory: reads x and branch, writes out once; gate from cache
// needs: any N, C
static __global__ void gated_residual_forward_kernel(float *out, const float *x, const float *branch, const float *gate, const int *group, Drop drop, int N, int C, int ld) {
    size_t at;
    float f[4];
    int columns = branch_quad(&at, f, gate, group, drop, N, C, ld);
    #pragma unroll
    for (int k = 0; k < 4; k++) if (k < columns) out[at + k] = x[at + k] + f[k] * branch[at + k];
}
void gated_residual_forward_cuda(float *out, const float *x, const float *branch, const float *gate, const int *group, Dropout drop, int N, int C, int ld) {
    RUN(gated_residual_forward_kernel, blocks((size_t)N * ((C + 3) / 4), 256), 256, 0, out, x, branch, gate, group, drop_of(drop), N, C, ld);
}

// gated_residual_backward, pass 1: dbranch [+]= gate f dout (dx is dout)                       CPU twin: gated_residual_backward_cpu
// grid: one thread per four columns of a row, which share a Philox call
// memory: reads dout, writes dbranch once, and reads it if it adds
// needs: any N, C
static __global__ void gated_residual_backward_kernel(float *dbranch, const float *dout, const float *gate, const int *group, Drop drop, bool add, int N, int C, int ld) {
    size_t at;
    float f[4];
    int columns = branch_quad(&at, f, gate, group, drop, N, C, ld);
    #pragma unroll
    for (int k = 0; k < 4; k++) if (k < columns) dbranch[at + k] = (add ? dbranch[at + k] : 0) + f[k] * dout[at + k];
}

// pass 2, by columns: dgate of each group += sum over its rows of f branch dout
// grid: (C/8, G), one block per 8 columns, with 128 runners
// memory: reads branch and dout once, group G C/8 times from cache
// needs: blocks of 8 x 128; any N, C, G
static __global__ void __launch_bounds__(COLUMNS * RUNNERS) gated_residual_backward_gate_kernel(float *dgate, const float *dout, const float *branch, const int *group, Drop drop, int N, int C, int ld) {
    int c = blockIdx.x * COLUMNS + threadIdx.x, g = blockIdx.y;
    float sum = 0;
    if (c < C) for (int n = threadIdx.y; n < N; n += RUNNERS)
        if (group_of(group, n) == g) sum += component(dropout_factors(drop, (size_t)n * ((C + 3) / 4) + c / 4), c % 4) * branch[(size_t)n*C + c] * dout[(size_t)n*C + c];
    sum = sum_runners(sum);
    if (c < C && threadIdx.y == 0) dgate[(size_t)g*ld + c] += sum;
}
void gated_residual_backward_cuda(float *dbranch, float *dgate, const float *dout, const float *branch, const float *gate, const int *group,
                                  Dropout drop, bool add, int N, int C, int G, int ld) {
    assert(G <= 65535 && "groups are the second dimension of a grid");
    if (dbranch) RUN(gated_residual_backward_kernel, blocks((size_t)N * ((C + 3) / 4), 256), 256, 0, dbranch, dout, gate, group, drop_of(drop), add, N, C, ld);
    if (dgate && gate) RUN(gated_residual_backward_gate_kernel, dim3(blocks(C, COLUMNS), G), dim3(COLUMNS, RUNNERS), 0, dgate, dout, branch, group, drop_of(drop), N, C, ld);
}

// ---- rows ---------------------------------------------------------------------------------------------------------------------

// gather_rows_forward, gather_rows_backward: out[n] = inp[row[n]]; dinp[row[n]] += dout[n]     CPU twins: gather_rows_forward_cpu, gather_rows_backward_cpu
// grid: one thread per element of out
// memory: reads and writes the named rows once
// needs: distinct rows (in backward two threads would add to the same number)
static __global__ void gather_rows_forward_kernel(float *out, const float *inp, const int *row, size_t size, int C) {
    size_t i = thread_number();
    if (i < size) out[i] = inp[(size_t)row[i / C] * C + i % C];
}
static __global__ void gather_rows_backward_kernel(float *dinp, const float *dout, const int *row, size_t size, int C) {
    size_t i = thread_number();
    if (i < size) dinp[(size_t)row[i / C] * C + i % C] += dout[i];
}
void gather_rows_forward_cuda(float *out, const float *inp, const int *row, int N, int C) {
    RUN(gather_rows_forward_kernel, blocks((size_t)N * C, 256), 256, 0, out, inp, row, (size_t)N * C, C);
}
void gather_rows_backward_cuda(float *dinp, const float *dout, const int *row, int N, int C) {
    RUN(gather_rows_backward_kernel, blocks((size_t)N * C, 256), 256, 0, dinp, dout, row, (size_t)N * C, C);
}

// store_rows: rows 0..T-1 of each sequence of out (B,W,C) = the first C columns of those of inp (B,S,ld)       CPU twin: store_rows_cpu
// grid: one thread per element
// memory: reads and writes these elements once
// needs: T <= S, T <= W, C <= ld
static __global__ void store_rows_kernel(float *out, const float *inp, size_t size, int T, int S, int W, int C, int ld) {
    size_t i = thread_number();
    if (i < size) out[(i / C / T * W + i / C % T) * C + i % C] = inp[(i / C / T * S + i / C % T) * ld + i % C];
}
void store_rows_cuda(float *out, const float *inp, int B, int T, int S, int W, int C, int ld) {
    assert(T <= S && T <= W && C <= ld);
    RUN(store_rows_kernel, blocks((size_t)B * T * C, 256), 256, 0, out, inp, (size_t)B * T * C, T, S, W, C, ld);
}

// copy_columns, add_columns: C columns of every row, out = inp; dinp += dout                   CPU twins: copy_columns_cpu, add_columns_cpu
// grid: one thread per element
// memory: reads one side once, writes (add: reads and writes) the other once
// needs: C at most the distance of two rows
template <bool ADD> static __global__ void columns_kernel(float *to, const float *from, size_t size, int C, int ld_to, int ld_from) {
    size_t i = thread_number(), n = i / C, c = i % C;
    if (i >= size) return;
    if (ADD) to[n*ld_to + c] += from[n*ld_from + c]; else to[n*ld_to + c] = from[n*ld_from + c];
}
void copy_columns_cuda(float *out, const float *inp, int N, int C, int ldo, int ldi) {
    assert(C <= ldo && C <= ldi);
    RUN(columns_kernel<false>, blocks((size_t)N * C, 256), 256, 0, out, inp, (size_t)N * C, C, ldo, ldi);
}
void add_columns_cuda(float *dinp, const float *dout, int N, int C, int ldi, int ldo) {
    assert(C <= ldi && C <= ldo);
    RUN(columns_kernel<true>, blocks((size_t)N * C, 256), 256, 0, dinp, dout, (size_t)N * C, C, ldi, ldo);
}

// ---- recurrent cell -----------------------------------------------------------------------------------------------------------

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// gru_forward, gru_backward: out = (1 - q) n + q h, and its gradients                          CPU twins: gru_forward_cpu, gru_backward_cpu
// grid: one thread per element of out
// memory: forward reads gi, gh, h and writes out once; backward reads these and dout, reads and writes dgi, dgh, dh once: 8 and 22 numbers an element
// needs: any N, C
static __global__ void gru_forward_kernel(float *out, const float *gi, const float *gh, const float *h, size_t size, int C) {
    size_t i = thread_number(), r = i / C * 3*C + i % C, q = r + C, m = q + C;
    if (i >= size) return;
    float reset = sigmoid(gi[r] + gh[r]), keep = sigmoid(gi[q] + gh[q]), fresh = tanhf(gi[m] + reset * gh[m]);
    out[i] = (1 - keep) * fresh + keep * h[i];
}
static __global__ void gru_backward_kernel(float *dgi, float *dgh, float *dh, const float *dout, const float *gi, const float *gh, const float *h, size_t size, int C) {
    size_t i = thread_number(), r = i / C * 3*C + i % C, q = r + C, m = q + C;
    if (i >= size) return;
    float reset = sigmoid(gi[r] + gh[r]), keep = sigmoid(gi[q] + gh[q]), fresh = tanhf(gi[m] + reset * gh[m]), d = dout[i];
    float dkeep = d * (h[i] - fresh) * keep * (1 - keep), dfresh = d * (1 - keep) * (1 - fresh*fresh), dreset = dfresh * gh[m] * reset * (1 - reset);
    if (dgi) dgi[r] += dreset, dgi[q] += dkeep, dgi[m] += dfresh;
    if (dgh) dgh[r] += dreset, dgh[q] += dkeep, dgh[m] += dfresh * reset;
    if (dh) dh[i] += keep * d;
}
void gru_forward_cuda(float *out, const float *gi, const float *gh, const float *h, int N, int C) {
    RUN(gru_forward_kernel, blocks((size_t)N * C, 256), 256, 0, out, gi, gh, h, (size_t)N * C, C);
}
void gru_backward_cuda(float *dgi, float *dgh, float *dh, const float *dout, const float *gi, const float *gh, const float *h, int N, int C) {
    RUN(gru_backward_kernel, blocks((size_t)N * C, 256), 256, 0, dgi, dgh, dh, dout, gi, gh, h, (size_t)N * C, C);
}

// ---- diffusion of numbers -----------------------------------------------------------------------------------------------------

// gaussian: standard normal numbers by Box-Muller, in double                                   CPU twin: gaussian_cpu
// grid: one thread per pair of numbers, which share a Philox call
// memory: writes out once
// needs: any n
static __global__ void gaussian_kernel(float *out, uint64_t seed, uint64_t stream, double most, size_t n) {
    size_t i = thread_number();
    if (2*i >= n) return;
    Philox x = philox(seed, stream, i);
    double radius = sqrt(-2 * log(unit(x.w[0], x.w[1]) + 0x1p-53)), turns = 2 * unit(x.w[2], x.w[3]);      // half turns, as in level_embedding_kernel()
    out[2*i] = (float)fmin(fmax(radius * cospi(turns), -most), most);
    if (2*i + 1 < n) out[2*i + 1] = (float)fmin(fmax(radius * sinpi(turns), -most), most);
}
void gaussian_cuda(float *out, uint64_t seed, uint64_t stream, double most, size_t n) {
    RUN(gaussian_kernel, blocks((n + 1) / 2, 256), 256, 0, out, seed, stream, most, n);
}

// square_error_forward: error = weight (pred - target)^2, and sums of its parts                CPU twin: square_error_forward_cpu
// grid: one block of 256 threads per part of error; then total_parts
// memory: reads pred and target, writes error once; weight from cache
// needs: blocks of whole warps; any N; P divides C; arithmetic in double, as in the twin
static __global__ void square_error_forward_kernel(float *error, const float *pred, const float *target, const double *weight, size_t size, size_t each, int C, int P) {
    size_t end = min(size, (blockIdx.x + 1) * each);
    double sum = 0;
    for (size_t i = blockIdx.x * each + threadIdx.x; i < end; i += 256) {
        double d = (double)pred[i] - target[i];
        sum += error[i] = (float)(weight[i / C * P + i % C / (C/P)] * d * d);
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) part_sums[blockIdx.x] = sum;
}
void square_error_forward_cuda(float *loss, float *error, const float *pred, const float *target, const double *weight, double scale, int N, int C, int P) {
    assert(C % P == 0);
    size_t size = (size_t)N * C, each = part_size(size);
    int parts = (int)((size + each - 1) / each);
    RUN(square_error_forward_kernel, parts, 256, 0, error, pred, target, weight, size, each, C, P);
    RUN(total_parts_kernel<float>, 1, 256, 0, loss, scale, parts);
}

// square_error_backward: dpred += 2 dloss scale weight (pred - target)                         CPU twin: square_error_backward_cpu
// grid: one thread per element
// memory: reads pred and target, reads and writes dpred once; weight from cache
// needs: any N; P divides C
static __global__ void square_error_backward_kernel(float *dpred, const float *dloss, const float *pred, const float *target, const double *weight, double scale, size_t size, int C, int P) {
    size_t i = thread_number();
    if (i < size) dpred[i] += (float)(2 * *dloss * scale * weight[i / C * P + i % C / (C/P)] * ((double)pred[i] - target[i]));
}
void square_error_backward_cuda(float *dpred, const float *dloss, const float *pred, const float *target, const double *weight, double scale, int N, int C, int P) {
    assert(C % P == 0);
    RUN(square_error_backward_kernel, blocks((size_t)N * C, 256), 256, 0, dpred, dloss, pred, target, weight, scale, (size_t)N * C, C, P);
}

// mix_rows_forward, mix_rows_backward: out = a x + b y + c z; dx += a dout, ...               CPU twins: mix_rows_forward_cpu, mix_rows_backward_cpu
// grid: one thread an element
// memory: forward reads x, y, z and writes out once; backward reads dout, reads and writes dx, dy, dz once
// needs: any N, C; arithmetic in double, as in the twins
static __global__ void mix_rows_forward_kernel(float *out, const float *x, const float *y, const float *z, const double *a, const double *b, const double *c, size_t size, int C) {
    size_t i = thread_number(), n = i / C;
    if (i < size) out[i] = (float)(a[n]*x[i] + (y ? b[n]*y[i] : 0) + (z ? c[n]*z[i] : 0));
}
static __global__ void mix_rows_backward_kernel(float *dx, float *dy, float *dz, const float *dout, const double *a, const double *b, const double *c, size_t size, int C) {
    size_t i = thread_number(), n = i / C;
    if (i >= size) return;
    if (dx) dx[i] += (float)(a[n]*dout[i]);
    if (dy) dy[i] += (float)(b[n]*dout[i]);
    if (dz) dz[i] += (float)(c[n]*dout[i]);
}
void mix_rows_forward_cuda(float *out, const float *x, const float *y, const float *z, const double *a, const double *b, const double *c, int N, int C) {
    RUN(mix_rows_forward_kernel, blocks((size_t)N * C, 256), 256, 0, out, x, y, z, a, b, c, (size_t)N * C, C);
}
void mix_rows_backward_cuda(float *dx, float *dy, float *dz, const float *dout, const double *a, const double *b, const double *c, int N, int C) {
    RUN(mix_rows_backward_kernel, blocks((size_t)N * C, 256), 256, 0, dx, dy, dz, dout, a, b, c, (size_t)N * C, C);
}

// ---- cross-entropy ------------------------------------------------------------------------------------------------------------

// naive_cross_entropy_forward: row_loss = weight (lse - logits[target])                        CPU twin: cross_entropy_forward_cpu
// grid: one thread per row, with the loops of the twin
// memory: reads logits twice, neighbouring threads V numbers apart
// needs: any N, V
static __global__ void naive_cross_entropy_forward_kernel(float *row_loss, float *lse, const float *logits, const int *target, const double *weight, int excluded, int N, int V) {
    int n = (int)thread_number();
    if (n >= N) return;
    const float *logits_n = logits + (size_t)n*V;
    row_loss[n] = lse[n] = 0;
    if (weight[n] == 0) return;
    float top = -INFINITY;
    double sum = 0;
    for (int v = 0; v < V; v++) if (v != excluded && !(logits_n[v] <= top)) top = logits_n[v];
    for (int v = 0; v < V; v++) if (v != excluded) sum += expf(logits_n[v] - top);
    lse[n] = (float)(top + log(sum));
    row_loss[n] = (float)(weight[n] * (lse[n] - logits_n[target[n]]));
}

// (top, sum) stands for sum * exp(top): joins a second pair to the first
__device__ inline void join(float &top, float &sum, float top2, float sum2) {
    float most = fmaxf(top, top2);
    sum = most == -INFINITY ? sum + sum2 : sum * expf(top - most) + sum2 * expf(top2 - most);      // both empty: 0, or a NaN that must not be lost
    top = most;
}

// cross_entropy_forward: the same in one reading; the softmax is never stored                  CPU twin: cross_entropy_forward_cpu
// grid: one block per row, 256 threads; thread i takes v = i, i+256, ..
// memory: reads logits once (rows of weight 0 not at all)
// needs: 256 threads; any N, V
static __global__ void cross_entropy_forward_kernel(float *row_loss, float *lse, const float *logits, const int *target, const double *weight, int excluded, int V) {
    SHARED(float, tops, [8]);
    SHARED(float, sums, [8]);
    int n = blockIdx.x, i = threadIdx.x;
    const float *logits_n = logits + (size_t)n*V;
    if (weight[n] == 0) {                               // the whole block
        if (i == 0) row_loss[n] = lse[n] = 0;
        return;
    }
    float top = -INFINITY, sum = 0;
    for (int v = i; v < V; v += 256) {
        float s = logits_n[v];
        if (v == excluded) continue;
        if (s > top) sum = sum * expf(top - s) + 1, top = s;           // only a new maximum costs a second exp
        else if (s != -INFINITY) sum += expf(s - top);
    }
    for (int o = 16; o; o /= 2) { float top2 = __shfl_xor_sync(~0u, top, o), sum2 = __shfl_xor_sync(~0u, sum, o); join(top, sum, top2, sum2); }
    if (i % 32 == 0) tops[i / 32] = top, sums[i / 32] = sum;
    __syncthreads();                                    // the pairs of all warps are there
    if (i) return;
    for (int w = 1; w < 8; w++) join(top, sum, tops[w], sums[w]);
    lse[n] = top + logf(sum);
    row_loss[n] = (float)(weight[n] * (lse[n] - logits_n[target[n]]));
}

// total_loss: loss = scale * sum of row_loss (N), in double                                    CPU twin: cross_entropy_forward_cpu
// grid: one block of 256 threads; thread i takes rows i, i+256, ..
// memory: reads row_loss once
// needs: one block of whole warps
static __global__ void total_loss_kernel(float *loss, const float *row_loss, double scale, int N) {
    double sum = 0;
    for (int n = threadIdx.x; n < N; n += 256) sum += row_loss[n];
    sum = sum_block(sum);
    if (threadIdx.x == 0) *loss = (float)(scale * sum);
}
void cross_entropy_forward_cuda(float *loss, float *row_loss, float *lse, const float *logits, const int *target, const double *weight, double scale, int excluded,
                                int N, int V) {
    if (cuda_naive) RUN(naive_cross_entropy_forward_kernel, blocks(N, 128), 128, 0, row_loss, lse, logits, target, weight, excluded, N, V);
    else RUN(cross_entropy_forward_kernel, N, 256, 0, row_loss, lse, logits, target, weight, excluded, V);
    RUN(total_loss_kernel, 1, 256, 0, loss, row_loss, scale, N);
}

// cross_entropy_backward: logits = dloss scale weight (softmax - one-hot), in place            CPU twin: cross_entropy_backward_cpu
// grid: one block per row, 256 threads; thread i takes v = i, i+256, ..
// memory: reads (rows of weight 0 not) and writes logits once
// needs: any N, V
static __global__ void cross_entropy_backward_kernel(float *logits, const float *dloss, const float *lse, const int *target, const double *weight, double scale, int excluded, int V) {
    int n = blockIdx.x;
    float *logits_n = logits + (size_t)n*V, d = (float)(*dloss * scale * weight[n]);
    bool dead = weight[n] == 0;
    for (int v = threadIdx.x; v < V; v += 256)
        logits_n[v] = dead || v == excluded ? 0 : d * (expf(logits_n[v] - lse[n]) - (v == target[n]));
}
void cross_entropy_backward_cuda(float *logits, const float *dloss, const float *lse, const int *target, const double *weight, double scale, int excluded, int N, int V) {
    RUN(cross_entropy_backward_kernel, N, 256, 0, logits, dloss, lse, target, weight, scale, excluded, V);
}

// ---- drawing tokens -----------------------------------------------------------------------------------------------------------

// softmax_nucleus: p = softmax of a row, cut to its nucleus, in double                         CPU twin: softmax_nucleus_cpu
// grid: one block per row, 256 threads; thread i takes v = i, i+256, ..
// memory: reads logits twice; writes p, reads it some 20 times (bisection looks for the smallest number that is in; 400 KB per row at V = 50k: cache), cuts and divides it
// needs: 256 threads; any N, V
static __global__ void softmax_nucleus_kernel(double *p, const float *logits, double top, int excluded, int V) {
    SHARED(float, tops, [8]);
    SHARED(int, equals, [8]);
    int n = blockIdx.x, i = threadIdx.x;
    const float *logits_n = logits + (size_t)n*V;
    double *p_n = p + (size_t)n*V, sum = 0;

    // pass 1: e, whose largest is exactly 1. A NaN is not the largest, but makes the sum NaN
    float largest = -INFINITY;
    for (int v = i; v < V; v += 256) if (v != excluded) largest = fmaxf(largest, logits_n[v]);
    largest = max_lanes(largest, 32);
    if (i % 32 == 0) tops[i / 32] = largest;
    __syncthreads();                                    // all warps have written
    for (int w = 0; w < 8; w++) largest = fmaxf(largest, tops[w]);
    for (int v = i; v < V; v += 256) sum += p_n[v] = v == excluded ? 0 : exp((double)logits_n[v] - (double)largest);
    sum = sum_block(sum);

    // pass 2: bisection. The tokens with e >= low add up to more than the limit, those with e >= high do not: they are `ahead` tokens, of total `running`;
    // not_out: tokens with e >= low
    long long low = 0, high = __double_as_longlong(1.0) + 1;           // numbers >= 0 are ordered like their bits
    double limit = top * sum, running = 0, ahead = 0, not_out = V;
    if (!(top < 1 && sum > 0)) low = high = 0, running = sum;          // all, or NaN
    for (long long middle = high - 1; high - low > 1 && not_out - ahead > 1; middle = low + (high - low) / 2) {        // at first: the largest alone
        double least = __longlong_as_double(middle), total[2] = {0, 0};               // probability, tokens
        for (int v = i; v < V; v += 256) if (p_n[v] >= least) total[0] += p_n[v], total[1] += 1;
        sum_block(total);
        if (total[0] > limit) low = middle, not_out = total[1]; else high = middle, ahead = total[1], running = total[0];
    }

    // pass 3: what is left in [low, high) is one value, of one token or of several: the first few are in, and the very first token always. 256 tokens at a time, to know who is before whom
    double in = __longlong_as_double(high), out = __longlong_as_double(low), before = running, kept = 0;
    int seen = 0;
    for (int v0 = 0; v0 < V; v0 += 256) {
        int v = v0 + i;
        double e = v < V ? p_n[v] : 0;
        bool undecided = v < V && e < in, equal = undecided && e >= out;
        unsigned lanes = __ballot_sync(~0u, equal);
        __syncthreads();                                // the last counts have been read by everyone
        if (i % 32 == 0) equals[i / 32] = __popc(lanes);
        __syncthreads();                                // all warps have written
        int rank = seen + __popc(lanes & ((1u << i % 32) - 1));
        for (int w = 0; w < 8; w++) seen += equals[w], rank += w < i / 32 ? equals[w] : 0;
        if (equal && (ahead + rank == 0 || before + (rank + 1) * e <= limit)) kept += e;
        else if (undecided) p_n[v] = 0;
    }
    running = before + sum_block(kept);
    for (int v = i; v < V; v += 256) p_n[v] /= running;
}
void softmax_nucleus_cuda(double *p, const float *logits, double top, int excluded, int N, int V) { RUN(softmax_nucleus_kernel, N, 256, 0, p, logits, top, excluded, V); }

// categorical: drawn = the first token whose running total exceeds u                           CPU twin: categorical_cpu
// grid: one block per row, 256 threads; thread i sums the i-th part of the row, thread 0 finds the part and walks through it
// memory: reads p once, and one part again
// needs: 256 threads; any N, V
static __global__ void categorical_kernel(int *drawn, const double *p, const double *u, int V) {
    SHARED(double, part, [256]);
    SHARED(int, last, [256]);
    int n = blockIdx.x, i = threadIdx.x, each = (V + 255) / 256, possible = 0;
    const double *p_n = p + (size_t)n*V;
    double sum = 0;
    for (int v = i * each; v < min(V, (i + 1) * each); v++) { sum += p_n[v]; if (p_n[v] > 0) possible = v; }
    part[i] = sum, last[i] = possible;
    __syncthreads();                                    // all parts are there
    if (i) return;
    double running = 0;
    int k = 0, v = 0;
    while (k < 256 && !(u[n] < running + part[k])) possible = max(possible, last[k]), running += part[k++];
    if (k < 256) possible = last[k];                    // if rounding lets the walk end without a token
    for (v = k * each; k < 256 && v < min(V, (k + 1) * each); v++) { running += p_n[v]; if (u[n] < running) { possible = v; break; } }
    drawn[n] = possible;
}
void categorical_cuda(int *drawn, const double *p, const double *u, int N, int V) { RUN(categorical_kernel, N, 256, 0, drawn, p, u, V); }

// ---- optimiser ----------------------------------------------------------------------------------------------------------------

// sum_squares: out = sum of x squared, in double                                               CPU twin: sum_squares_cpu
// grid: one block of 256 threads per part of x; then total_parts
// memory: reads x once
// needs: blocks of whole warps; any n
static __global__ void sum_squares_kernel(const float *x, size_t n, size_t each) {
    size_t end = min(n, (blockIdx.x + 1) * each);
    double sum = 0;
    for (size_t i = blockIdx.x * each + threadIdx.x; i < end; i += 256) sum += (double)x[i] * x[i];
    sum = sum_block(sum);
    if (threadIdx.x == 0) part_sums[blockIdx.x] = sum;
}
void sum_squares_cuda(double *out, const float *x, size_t n) {
    size_t each = part_size(n);
    int parts = (int)((n + each - 1) / each);
    RUN(sum_squares_kernel, parts, 256, 0, x, n, each);
    RUN(total_parts_kernel<double>, 1, 256, 0, out, 1.0, parts);
}

// adamw: one step with clipping by the norm sqrt(norm2), and the moving average                CPU twin: adamw_cpu
// grid: one thread per number
// memory: reads five arrays and writes four, once each: 36 bytes a number
// needs: any n
struct AdamWStep { float b1, b2, decay, keep, m_scale, v_scale, eps, max_norm; };        // decay: lr wd; keep: 1 - ema; m_scale: lr/(1-b1^t); v_scale: 1/(1-b2^t)
static __global__ void adamw_kernel(float *param, float *m, float *v, float *ema, const float *grad, const double *norm2, size_t n, AdamWStep a) {
    size_t i = thread_number();
    if (i >= n) return;
    float clip = a.max_norm > 0 ? a.max_norm / ((float)sqrt(*norm2) + 1e-6f) : 1, g = grad[i] * (clip < 1 ? clip : 1);
    float m_i = a.b1*m[i] + (1 - a.b1)*g, v_i = a.b2*v[i] + (1 - a.b2)*g*g, p = param[i];
    p -= a.m_scale * m_i / (sqrtf(v_i * a.v_scale) + a.eps) + a.decay * p;
    m[i] = m_i, v[i] = v_i, param[i] = p;
    ema[i] += a.keep * (p - ema[i]);
}
void adamw_cuda(float *param, float *m, float *v, float *ema, const float *grad, const double *norm2, size_t n, AdamW a) {
    AdamWStep s = {(float)a.beta1, (float)a.beta2, (float)(a.lr * a.weight_decay), (float)(1 - a.ema), (float)(a.lr / (1 - pow(a.beta1, a.step))),
                   (float)(1 / (1 - pow(a.beta2, a.step))), (float)a.eps, (float)a.max_norm};
    RUN(adamw_kernel, blocks(n, 256), 256, 0, param, m, v, ema, grad, norm2, n, s);
}

// ---- the seam: memory and transfers -------------------------------------------------------------------------------------------

void cuda_open(void (*on_error)(const char *line), char *name, size_t size) {
    char line[512];
    int devices = 0;
    fail = on_error;
    cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess || !devices) {
        snprintf(line, sizeof line, "--device cuda: no CUDA device found (%s)", error == cudaErrorInsufficientDriver ? "no driver, or one older than this build" : error != cudaSuccess ? cudaGetErrorString(error) : "none");
        fail(line);
    }
    CHECK(cudaSetDevice(0));
    CHECK(cudaGetDeviceProperties(&gpu, 0));
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, (const void *)fill_kernel);
    if (error != cudaSuccess) {
        snprintf(line, sizeof line, "--device cuda: this build has no code for %s (make clean all CUDA_ARCH=sm_%d%d): %s", gpu.name, gpu.major, gpu.minor, cudaGetErrorString(error));
        fail(line);
    }
    CHECK(cudaMallocHost((void **)&staging, STAGING));
    snprintf(name, size, "%s", gpu.name);
}

size_t cuda_memory(size_t *all) {
    size_t available;
    CHECK(cudaMemGetInfo(&available, all));
    return available;
}

void *cuda_allocate(size_t bytes) {
    void *p;
    if (cudaMalloc(&p, bytes) == cudaSuccess) return p;
    char line[512];
    size_t all, available = cuda_memory(&all);
    snprintf(line, sizeof line, "out of GPU memory: %.1f MB are needed, %.1f MB of %s are free (try less at a time)", bytes * 1e-6, available * 1e-6, gpu.name);
    fail(line);
    return NULL;
}
void cuda_release(void *device) { CHECK(cudaFree(device)); }

// Up to 32 MB since the last download travel from page-locked memory while the host goes on; more waits. Copies and kernels run in one queue, so an upload
// may overwrite what kernels launched before it still read.
void cuda_upload(void *device, const void *host, size_t bytes) {
    if (bytes > STAGING) { CHECK(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice)); return; }
    if (staged + bytes > STAGING) { CHECK(cudaDeviceSynchronize()); staged = 0; }
    memcpy(staging + staged, host, bytes);
    CHECK(cudaMemcpyAsync(device, staging + staged, bytes, cudaMemcpyHostToDevice, 0));
    staged += (bytes + 15) / 16 * 16;
}

// Waits for all kernels and copies before it.
void cuda_download(void *host, const void *device, size_t bytes) {
    if (!bytes) return;
    CHECK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
    staged = 0;
}
