// test_emu.cu: the emulator of cuda_emu.h runs correct kernels right, in all four orders and to the same bits, and ends wrong ones.
#include "cuda_emu.h"
#include "check.h"
#include <sys/wait.h>

#ifdef __SANITIZE_ADDRESS__
static const bool asan = true;
#else
static const bool asan = false;
#endif
template <class T> static T *device(const std::vector<T> &h) {
    T *d;
    CHECK(cudaMalloc(&d, h.size() * sizeof(T)) == cudaSuccess && cudaMemcpy(d, h.data(), h.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess, "upload");
    return d;
}
template <class T> static std::vector<T> host(T *d, size_t n) {
    std::vector<T> h(n);
    CHECK(cudaMemcpy(h.data(), d, n * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess, "download");
    return h;
}
static std::vector<float> numbers(size_t n) {    // in (-1, 1), the same every time
    std::vector<float> x(n);
    unsigned s = 1;
    for (float &v : x) s = s * 1664525u + 1013904223u, v = (float)(s >> 8) / 8388608.0f - 1;
    return x;
}

// ---- kernels; the template flags leave a barrier out ----------------------------------------------------------------------------------
template <int TS, bool FIRST, bool SECOND> __global__ void matmul(int M, int N, int K, const float *a, const float *b, float *c) {   // c (M,N) = a (M,K) b (K,N)
    SHARED(float, as, [TS][TS + 1]);
    SHARED(float, bs, [TS][TS + 1]);
    int x = threadIdx.x, y = threadIdx.y, i = blockIdx.y * TS + y, j = blockIdx.x * TS + x;
    float sum = 0;
    for (int k = 0; k < K; k += TS) {
        as[y][x] = i < M && k + x < K ? a[i*K + k + x] : 0;
        bs[y][x] = k + y < K && j < N ? b[(k + y)*N + j] : 0;
        if (FIRST) __syncthreads();
        for (int p = 0; p < TS; p++) sum += as[y][p] * bs[p][x];
        if (SECOND) __syncthreads();
    }
    if (i < M && j < N) c[i*N + j] = sum;
}
__device__ float warp_max(float v) { for (int o = 16; o; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o)); return v; }
template <class T> __device__ T warp_sum(T v) { for (int o = 16; o; o /= 2) v += __shfl_down_sync(~0u, v, o); return __shfl_sync(~0u, v, 0); }
__global__ void softmax(int N, int C, const float *x, float *y) {                                      // one warp per row
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= N) return;
    float m = -INFINITY, z = 0;
    for (int j = threadIdx.x; j < C; j += warpSize) m = fmaxf(m, x[row*C + j]);
    m = warp_max(m);
    for (int j = threadIdx.x; j < C; j += warpSize) z += expf(x[row*C + j] - m);
    z = warp_sum(z);
    for (int j = threadIdx.x; j < C; j += warpSize) y[row*C + j] = expf(x[row*C + j] - m) / z;
}
template <bool BARRIER> __global__ void tree_sum(int C, const float *x, float *y) {                     // one block per row
    DYNAMIC_SHARED(float, part);
    int t = threadIdx.x, n = blockDim.x;
    float s = 0;
    for (int j = t; j < C; j += n) s += x[blockIdx.x*C + j];
    part[t] = s;
    __syncthreads();
    for (int o = n / 2; o; o /= 2) {
        if (t < o) part[t] += part[t + o];
        if (BARRIER) __syncthreads();
    }
    if (t == 0) y[blockIdx.x] = part[0];
}
template <class T> __device__ T block_sum(T v) {                                                       // called twice below: one variable, two uses
    SHARED(T, part, [32]);
    int t = threadIdx.x;
    v = warp_sum(v);
    if (t % 32 == 0) part[t / 32] = v;
    __syncthreads();
    v = warp_sum(t % 32 < (int)blockDim.x / 32 ? part[t % 32] : 0);
    __syncthreads();
    return v;
}
__global__ void moments(int C, const float *x, double *y) {
    SHARED(int, calls);
    if (threadIdx.x == 0) calls = 40;
    double a = 0, b = 0;
    for (int j = threadIdx.x; j < C; j += blockDim.x) a += x[blockIdx.x*C + j];
    a = block_sum(a) / C;
    for (int j = threadIdx.x; j < C; j += blockDim.x) b += (x[blockIdx.x*C + j] - a) * (x[blockIdx.x*C + j] - a);
    b = block_sum(b) / C;
    if (threadIdx.x == 0) y[blockIdx.x*3] = a, y[blockIdx.x*3 + 1] = b, y[blockIdx.x*3 + 2] = calls + 2;
}
static __device__ float scale[2];                                                                      // a plain static here
__global__ void compact(int n, const float *x, float *y, int *count, unsigned *flags) {                // what is positive, in order, warp by warp
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = i % 32;
    bool keep = i < n && x[i] > 0;
    unsigned who = __ballot_sync(~0u, keep);
    int start = 0;
    if (lane == 0) start = i, atomicAdd(count, __builtin_popcount(who));
    start = __shfl_sync(~0u, start, 0);
    if (keep) y[start + __builtin_popcount(who & ((1u << lane) - 1))] = x[i] * scale[1];
    int any = __any_sync(~0u, keep), all = __all_sync(~0u, keep), odd = __syncthreads_or(i == 5);
    if (lane == 0) atomicAdd(flags, (unsigned)(any + 2*all + 4*odd));
}
__global__ void scan(const int *x, int *y, float *total) {                                             // inclusive sums; half warps, then quarters by width
    int i = threadIdx.x, v = x[i], q = v;
    unsigned mask = i % 32 < 16 ? 0xFFFFu : 0xFFFF0000u;
    if (i % 32 < 16) v += 0; else v = __shfl_sync(mask, v, 16 + i % 16);                               // one half alone: the other must not be waited for
    __syncwarp();
    for (int d = 1; d < 32; d *= 2) { int u = __shfl_up_sync(~0u, v, d); if (i % 32 >= d) v += u; }
    for (int d = 1; d < 8; d *= 2) q += __shfl_down_sync(~0u, q, d, 8);
    y[i] = v, y[blockDim.x + i] = __shfl_sync(~0u, q, 0, 8), y[2*blockDim.x + i] = __shfl_xor_sync(~0u, q, 16, 8);
    atomicAdd(total, (float)x[i]);
    float4 f = make_float4((float)i, 1, 2, 3);
    f = __shfl_xor_sync(~0u, f, 1);
    atomicAdd(total + 1, f.x + f.w);
}
__global__ void reverse_big(int n, const float *x, float *y) {                                          // all of a row in dynamic shared memory
    DYNAMIC_SHARED(float, s);
    for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = s[n - 1 - i];
}
template <bool BARRIER> __global__ void pipeline(int n, const float *x, float *y) {                      // while one buffer is read, the other is filled
    SHARED(float, buffer, [2][64]);
    int t = threadIdx.x;
    float sum = 0;
    buffer[0][t] = x[t];
    __syncthreads();
    for (int k = 0; k < n; k++) {
        if (k + 1 < n) buffer[(k + 1) % 2][t] = x[(k + 1)*64 + t];
        for (int i = 0; i < 64; i++) sum += buffer[k % 2][(t + i) % 64] * (float)(i + 1);
        if (BARRIER) __syncthreads();
    }
    y[t] = sum;
}
__global__ void grid3(int *y) {
    int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x, t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[b * (blockDim.x * blockDim.y * blockDim.z) + t] += t + 1000*b;
}
__global__ void two_loops(const float *x, float *y) {                                                  // warps wait for each other at other times than lanes do
    SHARED(float, s, [64]);
    int t = threadIdx.x;
    for (int k = 0; k < 4; k++) {
        s[t] = x[k*64 + t];
        __syncwarp();
        float v = s[t ^ 1];
        for (int r = 0; r <= t / 32; r++) v += __shfl_xor_sync(~0u, v, 1 + k);
        __syncthreads();
        y[k*64 + t] = v + s[63 - t];
        __syncthreads();
    }
}
__global__ void moved(int *y) {                                                                         // shuffles within groups of 8
    int t = threadIdx.x;
    y[t] = __shfl_up_sync(~0u, t, 3, 8), y[32 + t] = __shfl_down_sync(~0u, t, 3, 8), y[64 + t] = __shfl_xor_sync(~0u, t, 13, 8), y[96 + t] = __shfl_sync(~0u, t, 11, 8);
}
__global__ void tickets(int *next, int *y) {                                                           // who comes when
    int t = threadIdx.x;
    for (int half = 0; half < 2; half++) {
        y[atomicAdd(next, 1)] = 200*half + t;
        __syncwarp();
        y[atomicAdd(next, 1)] = 200*half + 100 + t;
        __syncthreads();
    }
}

// ---- right results --------------------------------------------------------------------------------------------------------------------
static void right(const char *what, std::vector<float> *seen, const std::vector<float> &got, const std::vector<double> &want, double bound) {
    for (size_t i = 0; i < want.size(); i++) CHECK_CLOSE(what, got[i], want[i], bound);
    if (seen->empty()) *seen = got;
    CHECK(seen->size() == got.size() && !memcmp(seen->data(), got.data(), got.size() * sizeof(float)), "%s: other bits in order %d", what, emu::order);
}
static void test_kernels(void) {
    const int M = 37, N = 45, K = 50, R = 7, C = 77, n = 1000, big = 50 * 1024 / 4 + 3;
    std::vector<float> a = numbers(M*K), b = numbers(K*N), x = numbers(big), seen[8];
    std::vector<double> c(M*N), soft(R*C), sums(R), rev(big), pipe(64), loops(256);
    for (int i = 0; i < M; i++) for (int j = 0; j < N; j++) for (int k = 0; k < K; k++) c[i*N + j] += (double)a[i*K + k] * b[k*N + j];
    for (int i = 0; i < R; i++) {
        double z = 0;
        for (int j = 0; j < C; j++) z += exp(x[i*C + j]), sums[i] += x[i*C + j];
        for (int j = 0; j < C; j++) soft[i*C + j] = exp(x[i*C + j]) / z;
    }
    for (int i = 0; i < big; i++) rev[i] = x[big - 1 - i];
    for (int t = 0; t < 64; t++) for (int k = 0; k < 5; k++) for (int i = 0; i < 64; i++) pipe[t] += x[k*64 + (t + i) % 64] * (i + 1.0);
    for (int k = 0; k < 4; k++) for (int t = 0; t < 64; t++) {                                         // what two_loops does to one warp's lanes
        double v[32], u[32];
        for (int l = 0; l < 32; l++) v[l] = x[k*64 + t / 32 * 32 + (l ^ 1)];
        for (int r = 0; r <= t / 32; r++) { for (int l = 0; l < 32; l++) u[l] = v[l] + v[l ^ (1 + k)]; memcpy(v, u, sizeof v); }
        loops[k*64 + t] = v[t % 32] + x[k*64 + 63 - t];
    }
    std::vector<int> ones(64);
    for (int i = 0; i < 64; i++) ones[i] = i % 5 + 1;
    float *da = device(a), *db = device(b), *dx = device(x), *dy = device(x);
    int *di = device(ones), *dj = device(std::vector<int>(192));
    double *dd = device(std::vector<double>(3*R));
    unsigned *du = device(std::vector<unsigned>(1));
    CHECK(cudaFuncSetAttribute(reverse_big, cudaFuncAttributeMaxDynamicSharedMemorySize, big*4) == cudaSuccess, "attribute");
    for (int order = 0; order < 4; order++) {
        cuda_emu_order(order);
        cudaMemset(dy, 0xFF, big*4);
        LAUNCH((matmul<16, true, true>), dim3((N + 15) / 16, (M + 15) / 16), dim3(16, 16), 0, M, N, K, da, db, dy);
        right("matmul", &seen[0], host(dy, M*N), c, 1e-5);
        LAUNCH((matmul<32, true, true>), dim3((N + 31) / 32, (M + 31) / 32), dim3(32, 32), 0, M, N, K, da, db, dy);
        right("matmul", &seen[0], host(dy, M*N), c, 1e-5);
        LAUNCH(softmax, (R + 3) / 4, dim3(32, 4), 0, R, C, dx, dy);
        right("softmax", &seen[1], host(dy, R*C), soft, 1e-6);
        LAUNCH(tree_sum<true>, R, 128u, 128 * sizeof(float), C, dx, dy);
        right("tree_sum", &seen[2], host(dy, R), sums, 1e-5);
        LAUNCH(reverse_big, 1, 1000, big * sizeof(float), big, dx, dy);
        right("reverse_big", &seen[3], host(dy, big), rev, 0);
        LAUNCH(pipeline<true>, 1, 64, 0, 5, dx, dy);
        right("pipeline", &seen[4], host(dy, 64), pipe, 1e-2);
        LAUNCH(two_loops, 1, 64, 0, dx, dy);
        right("two_loops", &seen[5], host(dy, 256), loops, 1e-5);

        LAUNCH(moments, R, 96, 0, C, dx, dd);
        std::vector<double> m = host(dd, 3*R);
        for (int i = 0; i < R; i++) {
            double v = 0;
            for (int j = 0; j < C; j++) v += (x[i*C + j] - sums[i]/C) * (x[i*C + j] - sums[i]/C) / C;
            CHECK_CLOSE("mean", m[i*3], sums[i] / C, 1e-14);
            CHECK_CLOSE("variance", m[i*3 + 1], v, 1e-14);
            CHECK(m[i*3 + 2] == 42, "a scalar in shared memory");
        }
        cudaMemset(dj, 0, 192*4), cudaMemset(du, 0, 4), cudaMemset(dy, 0, big*4), scale[1] = 2;
        LAUNCH(compact, (n + 63) / 64, 64, 0, n, dx, dy, dj, du);
        std::vector<float> y = host(dy, n + 64), want(n + 64);
        int count = 0; unsigned flags = 8;                                                              // or: in both warps of the first block
        for (int w = 0; w < n; w += 32) {
            int k = w, all = w + 32 <= n;
            for (int i = w; i < w + 32 && i < n; i++) if (x[i] > 0) want[k++] = 2 * x[i]; else all = 0;
            count += k - w, flags += (k > w) + 2*all;
        }
        CHECK(host(dj, 1)[0] == count && host(du, 1)[0] == flags && !memcmp(y.data(), want.data(), n*4), "compact: %d of %d", host(dj, 1)[0], count);

        LAUNCH(scan, 1, 64, 0, di, dj, dy + n);
        std::vector<int> s = host(dj, 192);
        std::vector<float> total = host(dy + n, 2);
        int sum = 0, every = 0;
        for (int i = 0; i < 64; i++) {
            int eight = 0;
            for (int j = 0; j < 8; j++) eight += ones[i / 8 * 8 + j];
            sum = i % 32 ? sum + ones[i] : ones[i], every += ones[i];
            CHECK(s[i] == sum && s[64 + i] == eight, "scan of %d: %d, %d", i, s[i], s[64 + i]);
            if (i % 32 == 16) CHECK(s[128 + i] == s[64 + i / 8 * 8 - 16], "xor may reach back: %d", s[128 + i]);
        }
        CHECK(total[0] == every && total[1] == 63 * 32 + 3 * 64, "atomicAdd: %g %g", total[0], total[1]);

        cudaMemset(dj, 0, 192*4);
        LAUNCH(grid3, dim3(2, 3, 2), dim3(2, 3, 2), 0, dj);
        s = host(dj, 144);
        for (int i = 0; i < 144; i++) CHECK(s[i] == i % 12 + 1000 * (i / 12), "every thread once: %d at %d", s[i], i);

        LAUNCH(moved, 1, 32, 0, dj);
        s = host(dj, 128);
        for (int t = 0; t < 32; t++) CHECK(s[t] == (t % 8 < 3 ? t : t - 3) && s[32 + t] == (t % 8 > 4 ? t : t + 3)
                                           && s[64 + t] == ((t ^ 13) / 8 > t / 8 ? t : t ^ 13) && s[96 + t] == t / 8 * 8 + 3, "moved, lane %d", t);
        cudaMemset(du, 0, 4);
        LAUNCH(tickets, 1, 40, 0, (int *)du, dj);
        s = host(dj, 160);
        for (int i = 0; i < 160; i++) {
            int half = i / 80, in = i % 80, stage = in / 40, k = in % 40, warp0 = order & 1 ? 8 : 32;   // warp0: lanes of the warp that comes first
            if (order & 2) {                                                                            // greedy: one warp takes both stages, up to the barrier
                bool second = in >= 2*warp0;
                int n = second ? 40 - warp0 : warp0;
                in -= second ? 2*warp0 : 0, stage = in / n, k = in % n + (second ? warp0 : 0);
            }
            CHECK(s[i] == 200*half + 100*stage + (order & 1 ? 39 - k : k), "order %d, place %d: thread %d", order, i, s[i]);
        }
    }
    CHECK(cudaGetLastError() == cudaSuccess, "no error is left");

    // a missing barrier shows in some order
    int wrong[4] = {};
    for (int order = 0; order < 4; order++) {
        cuda_emu_order(order);
        LAUNCH((matmul<16, false, true>), dim3(3, 3), dim3(16, 16), 0, M, N, K, da, db, dy);
        wrong[0] += !!memcmp(host(dy, M*N).data(), seen[0].data(), M*N*4);
        LAUNCH((matmul<16, true, false>), dim3(3, 3), dim3(16, 16), 0, M, N, K, da, db, dy);
        wrong[1] += !!memcmp(host(dy, M*N).data(), seen[0].data(), M*N*4);
        LAUNCH(tree_sum<false>, R, 128, 128 * sizeof(float), C, dx, dy);
        wrong[2] += !!memcmp(host(dy, R).data(), seen[2].data(), R*4);
        LAUNCH(pipeline<false>, 1, 64, 0, 5, dx, dy);
        wrong[3] += !!memcmp(host(dy, 64).data(), seen[4].data(), 64*4);
    }
    CHECK(wrong[0] && wrong[1], "matmul without its first, second barrier: wrong in %d, %d orders", wrong[0], wrong[1]);
    CHECK(wrong[2], "tree_sum without its barrier: wrong in %d orders", wrong[2]);
    CHECK(wrong[3], "pipeline without its barrier: wrong in %d orders", wrong[3]);
    for (void *p : {(void *)da, (void *)db, (void *)dx, (void *)dy, (void *)di, (void *)dj, (void *)dd, (void *)du}) CHECK(cudaFree(p) == cudaSuccess, "free");
    cuda_emu_order(0);
}

// ---- planted faults --------------------------------------------------------------------------------------------------------------------
__global__ void write_beyond(float *x) { x[threadIdx.x] = 1; }
__global__ void write_at(uintptr_t x) { *(volatile float *)x = 1; }                                    // a pointer in disguise
__global__ void read_beyond(const float *x, float *y) { y[threadIdx.x % 32] = x[threadIdx.x]; }
__global__ void shared_beyond(float *x) { SHARED(float, s, [32]); float *p = &s[0]; p[threadIdx.x + 1] = x[threadIdx.x]; }
__global__ void shared_before(float *x) { SHARED(float, s, [32]); float *p = &s[0]; p[(int)threadIdx.x - 1] = x[threadIdx.x]; }
__global__ void dynamic_beyond(float *x) { DYNAMIC_SHARED(float, s); s[threadIdx.x + 1] = x[threadIdx.x]; }
__global__ void shared_too_big(float *x) { SHARED(float, s, [12289]); x[0] = s[0]; }
__global__ void shared_sum_too_big(float *x) { SHARED(float, s, [5000]); DYNAMIC_SHARED(float, d); x[0] = s[0] + d[0]; }
__global__ void divergent(float *x) {
    if (threadIdx.x < 7)
        __syncthreads();
    else
        __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void early_exit(float *x, int first, int last) { if ((int)threadIdx.x >= first && (int)threadIdx.x <= last) return; __syncthreads(); x[threadIdx.x] = 1; }
__global__ void half_warp(float *x) { if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1); }
__global__ void never_meet(float *x) {
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
    __syncthreads();
}
__global__ void not_in_mask(float *x) { x[threadIdx.x] = __shfl_xor_sync(0xFFFFu, x[threadIdx.x], 1); }
__global__ void from_outside(float *x) { if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xFFFFu, x[threadIdx.x], 16); }
__global__ void beyond_block(float *x) { x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 16); }  // with 24 threads
__global__ void two_masks(float *x) { x[threadIdx.x] = __shfl_xor_sync(threadIdx.x < 16 ? ~0u : 0xFFFF8000u, x[threadIdx.x], 1); }
__global__ void two_shuffles(float *x) {
    if (threadIdx.x % 2)
        x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
    else
        x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
}
__global__ void half_ballot(unsigned *x) { if (threadIdx.x % 2) x[threadIdx.x] = __ballot_sync(~0u, 1); }
__global__ void half_syncwarp(float *x) { if (threadIdx.x < 8) __syncwarp(); x[threadIdx.x] = 1; }
__global__ void deep(void) { memset(emu::block->fiber[emu::block->cur]->stack, 0, 8); }            // as too deep a stack would

struct Fault { const char *word, *asan_word; void (*run)(float *x); };
static const Fault faults[] = {
    {"write_beyond, block (0,0,0), thread (33,0,0): touched memory out of bounds", "heap-buffer-overflow", [](float *x) { LAUNCH(write_beyond, 1, 34, 0, x); }},
    {"read_beyond, block (0,0,0), thread (33,0,0): touched memory out of bounds", "heap-buffer-overflow", [](float *x) { LAUNCH(read_beyond, 1, 34, 0, x, x); }},
    {"shared `s' of 128 bytes", "use-after-poison", [](float *x) { LAUNCH(shared_beyond, 1, 32, 0, x); }},
    {"before shared `s'", "use-after-poison", [](float *x) { LAUNCH(shared_before, 1, 32, 0, x); }},
    {"byte 128 of shared `s'", "use-after-poison", [](float *x) { LAUNCH(dynamic_beyond, 1, 32, 128, x); }},
    {"too much shared memory at `s': 49156", nullptr, [](float *x) { LAUNCH(shared_too_big, 1, 1, 0, x); }},
    {"too much shared memory", nullptr, [](float *x) { LAUNCH(shared_sum_too_big, 1, 1, 40000, x); }},
    {"divergent barrier: lines", nullptr, [](float *x) { LAUNCH(divergent, 1, 32, 0, x); }},
    {"more stack", nullptr, [](float *) { LAUNCH(deep, 1, 1, 0); }},
    {"exits, but other threads wait at __syncthreads", nullptr, [](float *x) { LAUNCH(early_exit, 1, 33, 0, x, 20, 20); }},
    {"has exited", nullptr, [](float *x) { int back = emu::order & 1; LAUNCH(early_exit, 1, 33, 0, x, back, 31 + back); }},
    {"kernel half_warp, block (0,0,0), thread (", nullptr, [](float *x) { LAUNCH(half_warp, 1, 32, 0, x); }},
    {"exit", nullptr, [](float *x) { LAUNCH(half_warp, 1, 32, 0, x); }},
    {"deadlock: 32 threads wait", nullptr, [](float *x) { LAUNCH(never_meet, 1, 32, 0, x); }},
    {"does not name the calling lane", nullptr, [](float *x) { LAUNCH(not_in_mask, 1, 32, 0, x); }},
    {"not in the mask 0000ffff", nullptr, [](float *x) { LAUNCH(from_outside, 1, 32, 0, x); }},
    {"not in the mask 00ffffff", nullptr, [](float *x) { LAUNCH(beyond_block, 1, 24, 0, x); }},
    {"different masks, ", nullptr, [](float *x) { LAUNCH(two_masks, 1, 32, 0, x); }},
    {"divergent shuffle: lines", nullptr, [](float *x) { LAUNCH(two_shuffles, 1, 32, 0, x); }},
    {"exit", nullptr, [](float *x) { LAUNCH(half_ballot, 1, 32, 0, (unsigned *)x); }},
    {"exit", nullptr, [](float *x) { LAUNCH(half_syncwarp, 1, 32, 0, x); }},
    {"kernel write_beyond: argument 1", nullptr, [](float *) { float h[32]; LAUNCH(write_beyond, 1, 1, 0, h); }},
    {"argument 2", nullptr, [](float *x) { std::vector<float> h(32); LAUNCH(read_beyond, 1, 1, 0, x, h.data()); }},
    {"touched memory out of bounds", "heap-use-after-free", [](float *x) { cudaFree(x); LAUNCH(write_at, 1, 1, 0, (uintptr_t)x); }},
    {"argument 1", nullptr, [](float *x) { cudaFree(x); LAUNCH(write_beyond, 1, 1, 0, x); }},
    {"argument 1", nullptr, [](float *x) { LAUNCH(write_beyond, 1, 1, 0, x + 33); }},
};
static int in_child(void (*run)(float *), char *text, size_t size) {       // what the child wrote to stderr, and its exit status
    int fd[2];
    if (pipe(fd)) return -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 2), close(fd[0]), close(fd[1]);
        run(device(std::vector<float>(33, 1.0f)));
        cudaDeviceSynchronize();
        _exit(cudaGetLastError() ? 98 : 0);
    }
    close(fd[1]);
    size_t n = 0;
    char rest[4096];
    for (ssize_t got; (got = n < size - 1 ? read(fd[0], text + n, size - 1 - n) : read(fd[0], rest, sizeof rest)) > 0;) if (n < size - 1) n += (size_t)got;
    text[n] = 0, close(fd[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static void test_faults(void) {
    char text[4096];
    for (int order = 0; order < 4; order++)
        for (const Fault &f : faults) {
            cuda_emu_order(order);
            int status = in_child(f.run, text, sizeof text);
            const char *word = asan && f.asan_word ? f.asan_word : f.word;
            if (order % 2 && strstr(word, "thread (33")) word = "thread (33,0,0): touched";            // either order comes upon the same thread
            CHECK(status == (asan && f.asan_word ? 1 : 99) && strstr(text, word), "order %d: status %d, wanted `%s', got: %.300s", order, status, word, text);
        }
    cuda_emu_order(0);
}

// ---- undefined memory, faults on request, limits ------------------------------------------------------------------------------------------
__global__ void read_unset(float *y, double *z) {
    SHARED(float, s, [64]);
    SHARED(double, d, [64]);
    DYNAMIC_SHARED(float, e);
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    y[i] = s[t], y[gridDim.x * blockDim.x + i] = e[t], z[i] = d[t];
    __syncthreads();
    s[t] = e[t] = 1, d[t] = 1;                   // must not be seen by the next block of the same place
}
__global__ void nothing(float *x) { if (x) x[0] = 1; }
static void test_unset(void) {
    float *y;
    double *z;
    CHECK(cudaMalloc(&y, 1000*4) == cudaSuccess && cudaMalloc(&z, 512*8) == cudaSuccess, "cudaMalloc");
    for (float v : host(y, 1000)) CHECK(isnan(v), "device memory starts as NaN: %g", v);
    cudaMemset(y, 0, 1000*4), cudaMemset(z, 0, 512*8);
    for (int twice = 0; twice < 2; twice++) LAUNCH(read_unset, 7, 64, 64*4, y, z);
    for (float v : host(y, 2*7*64)) CHECK(isnan(v), "shared memory starts as NaN: %g", v);
    for (double v : host(z, 7*64)) CHECK(isnan(v), "shared memory starts as NaN: %g", v);
    cudaFree(y), cudaFree(z);
}
#define GIVES(call, code) do { cudaError_t e_ = (call); CHECK(e_ == (code), "%s: %s", #call, cudaGetErrorString(e_)); cudaGetLastError(); } while (0)
#define LEAVES(code, ...) do { LAUNCH(__VA_ARGS__); cudaError_t e_ = cudaGetLastError(); \
    CHECK(e_ == (code) && cudaGetLastError() == cudaSuccess, "LAUNCH(%s): %s", #__VA_ARGS__, cudaGetErrorString(e_)); } while (0)
static void test_limits(void) {
    float *x = device(std::vector<float>(64, 0.0f)), *y, h[64];
    LEAVES(cudaSuccess, nothing, 1, 1, 0, NULL);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 0, 1, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1, 0, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, dim3(1, 0), 1, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1, 1025, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1, dim3(32, 33), 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1, dim3(1, 1, 65), 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1, dim3(1u << 31, 2), 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, 1u << 31, 1, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, dim3(1, 65536), 1, 0, x);
    LEAVES(cudaErrorInvalidConfiguration, nothing, dim3(1, 1, 65536), 1, 0, x);
    LEAVES(cudaErrorInvalidValue, nothing, 1, 1, (48 << 10) + 1, x);
    GIVES(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1), cudaErrorInvalidValue);
    GIVES(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10), cudaSuccess);
    LEAVES(cudaErrorInvalidValue, nothing, 1, 1, (100 << 10) + 1, x);
    CHECK(host(x, 1)[0] == 0, "a refused launch ran");
    LEAVES(cudaSuccess, nothing, dim3(1, 65535), 1, 100 << 10, x);
    CHECK(host(x, 1)[0] == 1, "a launch within limits did not run");

    GIVES(cudaMemcpy(x, h, sizeof h, cudaMemcpyHostToDevice), cudaSuccess);
    GIVES(cudaMemcpyAsync(h, x, sizeof h, cudaMemcpyDeviceToHost), cudaSuccess);
    GIVES(cudaMemcpy(x + 32, x, 32*4, cudaMemcpyDeviceToDevice), cudaSuccess);
    GIVES(cudaMemcpy(x + 1, h, sizeof h, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(h, x, sizeof h + 1, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(h, h + 32, 32*4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(x, x + 32, 32*4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(h, h + 32, 32*4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(x, x + 32, 32*4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(x, h, 32*4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(x, h, 0, cudaMemcpyHostToDevice), cudaSuccess);
    GIVES(cudaMemset(x + 1, 0, sizeof h), cudaErrorInvalidValue);
    GIVES(cudaMemset(h, 0, sizeof h), cudaErrorInvalidValue);
    GIVES(cudaFree(x + 1), cudaErrorInvalidValue);
    GIVES(cudaFree(h), cudaErrorInvalidValue);
    GIVES(cudaFree(NULL), cudaSuccess);
    GIVES(cudaMallocHost(&y, 64), cudaSuccess);
    GIVES(cudaMemcpy(y, x, 64, cudaMemcpyDeviceToHost), cudaSuccess);
    GIVES(cudaFreeHost(y), cudaSuccess);
    GIVES(cudaMalloc(&y, 0), cudaSuccess);
    for (size_t n : {1u, 255u, 256u, 4096u, 4100u}) {
        GIVES(cudaMalloc(&y, n), cudaSuccess);
        CHECK(asan || (size_t)y % 256 == (256 - n % 256) % 256, "%zu bytes at %p", n, (void *)y);
        GIVES(cudaFree(y), cudaSuccess);
    }
    emu::alignment = 16;
    GIVES(cudaMalloc(&y, 33*4), cudaSuccess);
    CHECK((size_t)y % 16 == 0, "%p", (void *)y);
    GIVES(cudaFree(y), cudaSuccess);
    emu::alignment = 1;

    size_t left = 0, total = 0;
    int n;
    cudaDeviceProp prop;
    cudaFuncAttributes attributes;
    setenv("EMU_MEMORY", "1000", 1);
    GIVES(cudaMalloc(&y, 745), cudaErrorMemoryAllocation);
    CHECK(y == NULL && cudaMemGetInfo(&left, &total) == cudaSuccess && left == 744 && total == 1000, "%zu of %zu left", left, total);
    GIVES(cudaMalloc(&y, 744), cudaSuccess);
    CHECK(cudaMemGetInfo(&left, &total) == cudaSuccess && left == 0, "%zu left", left);
    GIVES(cudaFree(y), cudaSuccess);
    CHECK(cudaGetDeviceProperties(&prop, 0) == cudaSuccess && prop.totalGlobalMem == 1000 && prop.sharedMemPerBlockOptin == 227 << 10, "properties");
    unsetenv("EMU_MEMORY");
    GIVES(cudaGetDeviceProperties(&prop, 1), cudaErrorInvalidDevice);
    GIVES(cudaFuncGetAttributes(&attributes, nothing), cudaSuccess);

    cudaMemset(x, 0, 64*4);
    setenv("EMU_ARCH", "none", 1);
    LEAVES(cudaErrorNoKernelImageForDevice, nothing, 1, 1, 0, x);
    GIVES(cudaFuncGetAttributes(&attributes, nothing), cudaErrorNoKernelImageForDevice);
    GIVES(cudaGetDeviceCount(&n), cudaSuccess);
    CHECK(n == 1 && host(x, 1)[0] == 0, "n = %d", n);
    unsetenv("EMU_ARCH"), setenv("EMU_DEVICES", "0", 1);
    GIVES(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    CHECK(n == 0, "n = %d", n);
    GIVES(cudaSetDevice(0), cudaErrorNoDevice);
    GIVES(cudaMalloc(&y, 4), cudaErrorNoDevice);
    GIVES(cudaDeviceSynchronize(), cudaErrorNoDevice);
    LEAVES(cudaErrorNoDevice, nothing, 1, 1, 0, x);
    unsetenv("EMU_DEVICES");
    GIVES(cudaFree(x), cudaSuccess);
}

int main(void) {
    test_faults();                               // first: children of a process that has run OpenMP cannot use it
    test_kernels();
    test_unset();
    test_limits();
    return finish("test_emu");
}
