// cuda_emu.h: runs CUDA kernels on a CPU, compiled as C++17 by g++ or clang++, so that they are tested on any machine.
//
// Blocks run in parallel (OpenMP). The threads of a block are fibres on one OS thread, switched only where CUDA threads may wait for
// each other: __syncthreads, __syncwarp, shuffles, votes. In between, one thread runs after the other, in one of four orders (see `order`),
// and all memory starts as NaN: a missing barrier usually gives wrong numbers in at least one order, and the same ones in every run.
// What CUDA leaves undefined ends the program here: one line says which kernel, block and thread, and the exit status is 99.
// Environment: EMU_ORDER=0..3; faults on request: EMU_DEVICES=0 no device, EMU_MEMORY=bytes of the device, EMU_ARCH=none no code for it.
#pragma once
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __has_feature                             // clang's way to say that the address sanitizer is on
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
extern "C" {                                     // declared here, because some installations lack the header
void __asan_poison_memory_region(const volatile void *, size_t);
void __asan_unpoison_memory_region(const volatile void *, size_t);
void __sanitizer_start_switch_fiber(void **, const void *, size_t);
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
}
#define EMU_ASAN(...) __VA_ARGS__
#else
#define EMU_ASAN(...)
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// There is no __shared__: SHARED(float, tile, [32][33]); is __shared__ __align__(16) float tile[32][33]; in CUDA. Here the local static is the
// variable's identity: all threads of a block get one address, in a pool that starts as NaN for every block and is checked when it ends.
#define SHARED(type, name, ...) static char name##_site; using name##_type = type __VA_ARGS__; \
    auto &name = *(name##_type *)emu::shared(&name##_site, #name, sizeof(name##_type))
#define DYNAMIC_SHARED(type, name) type *name = (type *)emu::shared(nullptr, #name, emu::running.dynamic)
#define LAUNCH(kernel, grid, threads, shared_bytes, ...) emu::call(#kernel, kernel, grid, threads, shared_bytes)(__VA_ARGS__)

struct dim3 { unsigned x, y, z; constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {} };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
constexpr int warpSize = 32;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorInvalidConfiguration = 9, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100,
                   cudaErrorInvalidDevice, cudaErrorNoKernelImageForDevice = 209 };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef struct CUstream_st *cudaStream_t;
struct cudaDeviceProp { char name[256]; int major, minor, multiProcessorCount; size_t totalGlobalMem, sharedMemPerBlockOptin; };
struct cudaFuncAttributes { size_t sharedSizeBytes; int maxThreadsPerBlock, maxDynamicSharedSizeBytes, binaryVersion; };

namespace emu {
// ---- state --------------------------------------------------------------------------------------------------------------------------
inline bool env_is(const char *name, const char *value) { const char *v = getenv(name); return v && !strcmp(v, value); }

// bit 0: threads and blocks run from the last to the first; bit 1: a warp runs on until it stands at a block barrier; otherwise every thread runs to its next meeting point before any goes on
inline int order = getenv("EMU_ORDER") ? atoi(getenv("EMU_ORDER")) & 3 : 0;
// Device arrays end exactly where the forbidden pages begin, so an odd length is aligned like its elements. A test of kernels that read
// float4 from arrays of odd length sets 16: addresses are then multiples of it, as cudaMalloc's are, and up to 15 bytes go unwatched.
inline size_t alignment = 1;

constexpr size_t SHARED_DEFAULT = 48 << 10, SHARED_MAX = 227 << 10, POOL = 1 << 20, ZONE = 512, GUARD = 1 << 20, PAGE = 64 << 10;    // of any machine
constexpr size_t STACK = EMU_ASAN(3 *) (64 << 10);
constexpr uint32_t RED = 0xFFFFFACE;             // fills the red zones beside shared variables: NaN for those who read it
constexpr uint64_t CANARY = 0xFACEFEEDCAFED00D;  // the far end of every stack

enum State : char { NEW, READY, WAITS, EXITED };
enum Kind { BARRIER, BARRIER_OR, WARP, SHUFFLE, VOTE };
constexpr const char *kind_name[] = {"__syncthreads", "__syncthreads_or", "__syncwarp", "a shuffle", "a vote"};

struct Fiber { void *at[5]; ucontext_t context; bool fresh = true; char *stack = nullptr; size_t size = 0; void *fake = nullptr; dim3 tid; };
struct Wait { unsigned mask; int line; Kind kind; int from; };                              // what a thread waits for, or waited for last
struct alignas(16) Word { char byte[16]; };
struct Warp { unsigned waiting, exited; int first; bool mixed; Word sent[32], received[32]; };
struct Memory { size_t bytes; char *base; size_t span; };
struct Variable { const void *site; const char *name; char *at; size_t bytes; };
struct Block {
    int n = 0, started = 0, exited = 0, cur = -1;                                            // cur: the thread that runs now
    int here = 0, line = 0, any = 0, result = 0; Kind kind = BARRIER;                          // the block barrier; any: of the votes so far
    State state[1024]; Wait wait[1024]; Fiber *fiber[1024]; Warp warp[32];
    Fiber home, *entered = nullptr;
    std::vector<Fiber *> idle; std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Variable> vars; Memory memory; char *pool = nullptr; size_t used = 0, fixed = 0;             // shared memory; fixed: bytes of it that are not dynamic
    const std::function<void()> *body = nullptr;
    std::unique_ptr<char[]> signal_stack{new char[STACK]};
    Block(); ~Block();
};
struct Launch { const char *name; dim3 grid, block; size_t dynamic, allowed; };

inline thread_local Block *block = nullptr;      // of this OS thread; blocks outlive launches, so that stacks are made once
inline thread_local dim3 tid, bid;
inline Launch running;
inline std::map<char *, Memory> memory;          // what cudaMalloc gave, by address
inline std::map<const void *, size_t> allowed;   // dynamic shared memory that cudaFuncSetAttribute granted
inline size_t used_memory = 0;
inline cudaError_t last_error = cudaSuccess;

__attribute__((noreturn, noinline, cold, format(printf, 1, 2))) inline void die(const char *format, ...) {
    static char dead = 0;
    if (__atomic_exchange_n(&dead, 1, __ATOMIC_SEQ_CST)) for (;;) pause();                   // another block was first
    char text[1024]; int n = snprintf(text, 200, "cuda_emu: kernel %s", running.name);
    if (block && block->n) n += snprintf(text + n, 100, ", block (%u,%u,%u)", bid.x, bid.y, bid.z);
    if (block && block->cur >= 0) n += snprintf(text + n, 100, ", thread (%u,%u,%u)", tid.x, tid.y, tid.z);
    n += snprintf(text + n, 3, ": ");
    va_list args; va_start(args, format); n += vsnprintf(text + n, 500, format, args); va_end(args);
    text[n++] = '\n';
    if (write(2, text, n)) {}
    _exit(99);
}
struct At { char s[40]; At(int i) { unsigned x = running.block.x, y = running.block.y; snprintf(s, sizeof s, "(%u,%u,%u)", i % x, i / x % y, i / x / y); } };

// ---- memory -------------------------------------------------------------------------------------------------------------------------
// bytes of NaN between two regions that nobody may touch
inline Memory take(size_t bytes, char **at) {
    Memory m = {bytes, nullptr, 0};
#ifdef __SANITIZE_ADDRESS__
    *at = m.base = (char *)malloc(bytes);
#else
    size_t length = (bytes + alignment - 1) / alignment * alignment, pages = (length + PAGE - 1) / PAGE * PAGE;
    m.span = pages + 2*GUARD;
    void *p = mmap(nullptr, m.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect((char *)p + GUARD, pages, PROT_READ | PROT_WRITE)) return m;
    m.base = (char *)p; *at = m.base + GUARD + pages - length;
#endif
    if (m.base) memset(*at, 0xFF, bytes);
    return m;
}
inline void give(const Memory &m) {
#ifdef __SANITIZE_ADDRESS__
    free(m.base);
#else                                            // the addresses stay taken, so that a stale pointer never points to something new
    if (mmap(m.base, m.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) munmap(m.base, m.span);
#endif
}
inline bool on_device(const void *p, size_t n = 1) {                                          // do all n bytes lie in one allocation?
    auto it = memory.upper_bound((char *)p);
    if (it == memory.begin()) return false;
    --it;
    size_t offset = (char *)p - it->first;
    return offset < it->second.bytes && n <= it->second.bytes - offset;
}
inline void on_fault(int signal_number, siginfo_t *info, void *) {
    if (!block || block->cur < 0) { signal(signal_number, SIG_DFL); return; }                // not in a kernel: crash as usual
    char *p = (char *)info->si_addr;
    if (info->si_code == SI_KERNEL) die("touched a misaligned or impossible address");
    for (auto &m : memory)
        if (p >= m.second.base && p < m.second.base + m.second.span)
            die("touched memory out of bounds: byte %td of an array of %zu bytes", p - m.first, m.second.bytes);
    die("touched memory out of bounds: address %p", (void *)p);
}
inline Block::Block() {
    memory = take(POOL, &pool);
    if (!memory.base) die("no memory");
    EMU_ASAN(__asan_poison_memory_region(pool, POOL);)
#ifndef __SANITIZE_ADDRESS__
    stack_t ss = {}; ss.ss_sp = signal_stack.get(), ss.ss_size = STACK; sigaltstack(&ss, nullptr);
    struct sigaction act = {}; act.sa_sigaction = on_fault, act.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &act, nullptr), sigaction(SIGBUS, &act, nullptr);
#endif
}
inline Block::~Block() {
    EMU_ASAN(__asan_unpoison_memory_region(pool, POOL); free(pool);)
#ifndef __SANITIZE_ADDRESS__
    munmap(memory.base, memory.span);
    stack_t off = {}; off.ss_flags = SS_DISABLE; sigaltstack(&off, nullptr);
#endif
    for (auto &f : fibers) free(f->stack);
    block = nullptr;
}
// the variable of this place in the program; the first thread of a block that comes by makes it. site NULL: dynamic shared memory
inline void *shared(const void *site, const char *name, size_t bytes) {
    Block &b = *block;
    for (const Variable &v : b.vars) if (v.site == site) return v.at;
    if (site) b.fixed += bytes;
    if (b.fixed > SHARED_DEFAULT || b.fixed + running.dynamic > (running.dynamic > running.allowed ? SHARED_DEFAULT : SHARED_MAX))
        die("too much shared memory at `%s': %zu bytes, and %zu dynamic ones", name, b.fixed, running.dynamic);
    char *at = b.pool + b.used;
    if (b.vars.empty()) at += ZONE;
    b.used = at + (bytes + 15) / 16 * 16 + ZONE - b.pool;
    if (b.used > POOL) die("too many shared variables");
    EMU_ASAN(__asan_unpoison_memory_region(at, bytes);)
    memset(at, 0xFF, bytes);
#ifndef __SANITIZE_ADDRESS__
    if (b.vars.empty()) std::fill((uint32_t *)b.pool, (uint32_t *)at, RED);
    std::fill((uint32_t *)(at + (bytes + 3) / 4 * 4), (uint32_t *)(b.pool + b.used), RED);
#endif
    b.vars.push_back({site, name, at, bytes});
    return at;
}
inline void check_red_zones(Block &b) {
#ifndef __SANITIZE_ADDRESS__
    for (size_t i = 0; i < b.vars.size(); i++) {
        const Variable &v = b.vars[i];
        for (uint32_t *p = (uint32_t *)b.pool; i == 0 && p < (uint32_t *)v.at; p++)
            if (*p != RED) die("a thread wrote out of bounds, before shared `%s'", v.name);
        uint32_t *end = (uint32_t *)(i + 1 < b.vars.size() ? b.vars[i + 1].at : b.pool + b.used);
        for (uint32_t *p = (uint32_t *)(v.at + (v.bytes + 3) / 4 * 4); p < end; p++)
            if (*p != RED) die("a thread wrote out of bounds, to byte %td of shared `%s' of %zu bytes", (char *)p - v.at, v.name, v.bytes);
    }
#endif
    EMU_ASAN(__asan_poison_memory_region(b.pool, b.used);)
    b.vars.clear(), b.used = b.fixed = 0;
}

// ---- threads ------------------------------------------------------------------------------------------------------------------------
__attribute__((noinline)) inline void resume(Fiber *to) { __builtin_longjmp(to->at, 1); }
__attribute__((noinline)) inline void jump(Fiber *from, Fiber *to) {                          // returns when somebody jumps back
#if defined(__SANITIZE_ADDRESS__) || !defined(__x86_64__)                                     // two system calls, but known to sanitizers and everywhere
    EMU_ASAN(__sanitizer_start_switch_fiber(&from->fake, to->stack, to->size);)
    swapcontext(&from->context, &to->context);
    EMU_ASAN(__sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);)
#else
    from->fresh = false;
    if (__builtin_setjmp(from->at)) return;
    if (to->fresh) setcontext(&to->context);
    resume(to);
#endif
}
// the thread to run after thread i, -1 if none can. stay: rather one of the same warp
inline int choose(int i, bool stay) {
    Block &b = *block;
    bool back = order & 1;
    for (int lo = stay ? i / 32 * 32 : 0, hi = stay && lo + 32 < b.n ? lo + 32 : b.n;; lo = 0, hi = b.n, stay = false) {
        if (!stay && b.started < b.n) { int k = b.started++; return back ? b.n - 1 - k : k; }
        for (int k = lo, j = i; k < hi; k++) {
            if (back) j = j == lo ? hi - 1 : j - 1; else j = j == hi - 1 ? lo : j + 1;
            if (b.state[j] == READY) return j;
        }
        if (!stay) return -1;
    }
}
inline void deadlock() {
    Block &b = *block;
    int i = 0, j = 0, count = 0;
    while (b.state[i] != WAITS) i++;
    for (int k = i; k < b.n; k++) if (b.state[k] == WAITS) { count++; if (b.wait[k].line != b.wait[i].line) j = k; }
    const Wait &u = b.wait[i], &v = b.wait[j];
    if (j) die("deadlock: %d threads wait for ever, %s at %s in line %d, %s at %s in line %d", count, At(i).s, kind_name[u.kind], u.line, At(j).s, kind_name[v.kind], v.line);
    die("deadlock: %d threads wait for ever, the first of them %s at %s in line %d", count, At(i).s, kind_name[u.kind], u.line);
}
inline void fiber_main();
inline Fiber *fiber_for(int i) {                 // the fibre to enter, so that thread i runs
    Block &b = *block;
    if (b.state[i] != NEW) return b.fiber[i];
    if (b.idle.empty()) {
        b.fibers.emplace_back(new Fiber);
        Fiber *f = b.fibers.back().get();
        f->stack = (char *)malloc(f->size = STACK), memcpy(f->stack, &CANARY, 8);
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack, f->context.uc_stack.ss_size = STACK, f->context.uc_link = nullptr;
        makecontext(&f->context, fiber_main, 0);
        b.idle.push_back(f);
    }
    b.entered = b.idle.back(), b.idle.pop_back();
    return b.entered;
}
inline void thread_ends(int i) {
    Block &b = *block;
    b.state[i] = EXITED, b.exited++;
    if (b.here) die("exits, but other threads wait at %s in line %d", kind_name[b.kind], b.line);
    Warp &w = b.warp[i / 32];
    w.exited |= 1u << i % 32;
    for (unsigned rest = w.waiting; rest; rest &= rest - 1) {
        const Wait &o = b.wait[i / 32 * 32 + __builtin_ctz(rest)];
        if (o.mask >> i % 32 & 1) die("exits, but the mask %08x of %s in line %d names its lane", o.mask, kind_name[o.kind], o.line);
    }
    if (memcmp(b.fiber[i]->stack, &CANARY, 8)) die("needs more stack than the %zu bytes of a thread", STACK);
}
inline void fiber_main() {                       // a fibre takes one thread after the other, as long as they end without leaving others ready
    Block &b = *block;
    Fiber *me = b.entered;
    EMU_ASAN(if (b.home.size) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);      // the very first one is entered from home
             else __sanitizer_finish_switch_fiber(nullptr, (const void **)&b.home.stack, &b.home.size);)
    for (;;) {
        int i = b.cur; unsigned x = running.block.x, y = running.block.y;
        b.fiber[i] = me, b.state[i] = READY, tid = me->tid = dim3(i % x, i / x % y, i / x / y);
        (*b.body)();
        thread_ends(i);
        int next = choose(i, order & 2);
        if (next < 0 && b.exited < b.n) deadlock();
        b.cur = next;
        if (next >= 0 && b.state[next] == NEW) continue;
        b.idle.push_back(me);
        jump(me, next < 0 ? &b.home : b.fiber[next]);
    }
}
inline void go_on(int i, int next) {             // thread i waits; returns when it is its turn again
    Block &b = *block;
    if (next < 0) deadlock();
    if (next == i) return;
    b.cur = next;
    Fiber *me = b.fiber[i];
    jump(me, fiber_for(next));
    tid = me->tid;
}
inline int meet_block(Kind kind, int vote, int line) {
    Block &b = *block;
    int i = b.cur, from = i;
    b.wait[i] = {0, line, kind, 0};
    if (b.exited) { int e = 0; while (b.state[e] != EXITED) e++; die("waits at %s in line %d, but thread %s has exited", kind_name[kind], line, At(e).s); }
    if (!b.here) b.line = line, b.kind = kind, b.any = 0;
    if (b.line != line || b.kind != kind) die("divergent barrier: lines %d and %d", b.line, line);
    b.any |= vote;
    b.state[i] = WAITS;
    if (++b.here == b.n) b.here = 0, b.result = b.any, memset(b.state, READY, b.n), from = order & 1 ? 0 : b.n - 1;   // start anew with the first thread
    go_on(i, choose(from, order & 2 && b.here));
    return b.result;
}
// All lanes of the mask meet, then each has what lane `from` sent (VOTE: the mask of those who sent 1).
inline void meet_warp(Kind kind, unsigned mask, int from, int line) {
    Block &b = *block;
    int i = b.cur, first = i / 32 * 32; Warp &w = b.warp[i / 32]; unsigned self = 1u << i % 32;
    if (b.n - first < 32) mask &= (1u << (b.n - first)) - 1;                                  // the last warp may have fewer lanes
    b.wait[i] = {mask, line, kind, from};
    const char *name = kind_name[kind];
    if (!(mask & self)) die("%s in line %d: the mask %08x does not name the calling lane", name, line, mask);
    if (!(mask >> from & 1)) die("%s in line %d reads from lane %d, which is not in the mask %08x", name, line, from, mask);
    if (mask & w.exited) die("%s in line %d: the mask %08x names lane %d, which has exited", name, line, mask, __builtin_ctz(mask & w.exited));
    if (!w.waiting) w.first = i, w.mixed = false;
    const Wait &f = b.wait[w.first];
    w.mixed = w.mixed || f.mask != mask || f.line != line || f.kind != kind;
    unsigned together = self | (w.mixed ? 0 : w.waiting);                                     // who is here for this very exchange
    for (unsigned rest = w.mixed ? w.waiting : 0; rest; rest &= rest - 1) {
        int j = __builtin_ctz(rest);
        const Wait &o = b.wait[first + j];
        if (o.mask != mask && o.mask & self && mask >> j & 1) die("%s in line %d: different masks, %08x and %08x", name, line, o.mask, mask);
        if (o.mask == mask && (o.line != line || o.kind != kind)) die("divergent %s: lines %d and %d", name + 2*(kind > WARP), o.line, line);
        if (o.mask == mask) together |= 1u << j;
    }
    w.waiting |= self, b.state[i] = WAITS;
    if (together == mask) {
        unsigned votes = 0;
        if (kind == VOTE) for (int j = 0; j < 32; j++) if (mask >> j & 1) votes |= (unsigned)w.sent[j].byte[0] << j;
        for (unsigned rest = mask; rest; rest &= rest - 1) {
            int j = __builtin_ctz(rest);
            if (kind == VOTE) memcpy(&w.received[j], &votes, 4); else w.received[j] = w.sent[b.wait[first + j].from];
            b.state[first + j] = READY;
        }
        w.waiting &= ~mask;
    }
    go_on(i, choose(i, order & 2));
}
inline int lane() { return block->cur % 32; }
template <class R, class T> inline R exchange(Kind kind, unsigned mask, T v, int from, int line) {
    static_assert(sizeof(T) <= 16 && std::is_trivially_copyable<T>::value, "a shuffle moves up to 16 bytes");
    int i = block->cur; Warp &w = block->warp[i / 32]; R r;
    memcpy(&w.sent[i % 32], &v, sizeof v), meet_warp(kind, mask, from, line), memcpy(&r, &w.received[i % 32], sizeof r);
    return r;
}

// ---- launch -------------------------------------------------------------------------------------------------------------------------
inline void run(const std::function<void()> &body) {
    dim3 g = running.grid;
    long long blocks = (long long)g.x * g.y * g.z;
    #pragma omp parallel for schedule(dynamic)
    for (long long k = 0; k < blocks; k++) {
        static thread_local std::unique_ptr<Block> mine;
        if (!mine) mine.reset(new Block);
        Block &b = *(block = mine.get());
        long long i = order & 1 ? blocks - 1 - k : k;
        bid = dim3(i % g.x, i / g.x % g.y, i / g.x / g.y);
        b.n = running.block.x * running.block.y * running.block.z, b.started = b.exited = b.here = 0, b.body = &body;
        memset(b.state, NEW, sizeof b.state);
        for (Warp &w : b.warp) w.waiting = w.exited = 0;
        b.cur = choose(0, false);
        jump(&b.home, fiber_for(b.cur));
        check_red_zones(b);
        b.n = 0;
    }
}
inline cudaError_t fail(cudaError_t e) { if (e) last_error = e; return e; }
inline cudaError_t device() { return env_is("EMU_DEVICES", "0") ? cudaErrorNoDevice : cudaSuccess; }
inline cudaError_t code() { return device() ? device() : env_is("EMU_ARCH", "none") ? cudaErrorNoKernelImageForDevice : cudaSuccess; }
inline size_t total_memory() { const char *v = getenv("EMU_MEMORY"); return v ? strtoull(v, nullptr, 10) : (size_t)8 << 30; }

struct Copy { void *to; const void *from; size_t bytes; };
inline std::vector<Copy> pending;                // of cudaMemcpyAsync
inline void flush() { for (const Copy &c : pending) memmove(c.to, c.from, c.bytes); pending.clear(); }
inline bool copy_is_right(const void *to, const void *from, size_t n, int kind) {                 // a side that is named host must be no device memory
    bool to_device = kind & 1, from_device = kind & 2;
    return !device() && (!n || ((to_device ? on_device(to, n) : !on_device(to)) && (from_device ? on_device(from, n) : !on_device(from))));
}

template <class... P> struct Call {
    const char *name; void (*kernel)(P...); dim3 grid, block; size_t bytes;
    template <class T> static void check(int i, const T &v) {
        if constexpr (std::is_pointer<T>::value)
            if (v && !on_device((const void *)v)) die("argument %d, %p, is no device memory (a host pointer, or freed)", i, (const void *)v);
    }
    void operator()(P... p) const {              // like the real one: an error is left for cudaGetLastError
        dim3 g = grid, t = block; size_t limit = allowed.count((const void *)kernel) ? allowed[(const void *)kernel] : 0;
        bool ok = g.x && g.y && g.z && g.x <= 2147483647u && g.y <= 65535 && g.z <= 65535 && t.x && t.y && t.z && t.x <= 1024 && t.y <= 1024 && t.z <= 64
                  && t.x * t.y * t.z <= 1024;
        cudaError_t e = code() ? code() : !ok ? cudaErrorInvalidConfiguration : bytes > SHARED_DEFAULT && bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
        if (fail(e)) return;
        flush();
        running = {name, grid, block, bytes, limit};
        int i = 0; (void)i; (check<P>(++i, p), ...);
        std::tuple<P...> args(p...); auto f = kernel;
        run([&args, f] { std::apply(f, args); });
    }
};
template <class... P> Call<P...> call(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes) { return {name, kernel, grid, block, bytes}; }
}  // namespace emu

// ---- what kernels call: every place where threads meet knows its line ----------------------------------------------------------------
#define threadIdx ((const dim3 &)emu::tid)
#define blockIdx  ((const dim3 &)emu::bid)
#define blockDim  ((const dim3 &)emu::running.block)
#define gridDim   ((const dim3 &)emu::running.grid)
#define EMU_LINE int line = __builtin_LINE()
inline void __syncthreads(EMU_LINE) { emu::meet_block(emu::BARRIER, 0, line); }
inline int __syncthreads_or(int vote, EMU_LINE) { return emu::meet_block(emu::BARRIER_OR, vote != 0, line); }
inline void __syncwarp(unsigned mask = ~0u, EMU_LINE) { emu::meet_warp(emu::WARP, mask, emu::lane(), line); }
template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32, EMU_LINE) {
    return emu::exchange<T>(emu::SHUFFLE, mask, v, (emu::lane() & -width) | (from & (width - 1)), line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, EMU_LINE) {
    int l = emu::lane(); return emu::exchange<T>(emu::SHUFFLE, mask, v, (l ^ x) < (l & -width) + width ? l ^ x : l, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, int d, int width = 32, EMU_LINE) {
    int l = emu::lane(); return emu::exchange<T>(emu::SHUFFLE, mask, v, (l & (width - 1)) >= d ? l - d : l, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, int d, int width = 32, EMU_LINE) {
    int l = emu::lane(); return emu::exchange<T>(emu::SHUFFLE, mask, v, (l & (width - 1)) + d < width ? l + d : l, line);
}
inline unsigned __ballot_sync(unsigned mask, int vote, EMU_LINE) { return emu::exchange<unsigned>(emu::VOTE, mask, (char)(vote != 0), emu::lane(), line); }
inline int __any_sync(unsigned mask, int vote, EMU_LINE) { return __ballot_sync(mask, vote, line) != 0; }
inline int __all_sync(unsigned mask, int vote, EMU_LINE) { return __ballot_sync(mask, !vote, line) == 0; }
template <class T> inline T atomicAdd(T *p, std::common_type_t<T> v) {
    T old, sum;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do sum = old + v; while (!__atomic_compare_exchange(p, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> inline T min(T a, T b) { static_assert(std::is_integral<T>::value, "fminf"); return a < b ? a : b; }
template <class T> inline T max(T a, T b) { static_assert(std::is_integral<T>::value, "fmaxf"); return a > b ? a : b; }
#define rsqrtf(x) (1.0f / sqrtf(x))              // a macro, because newer C libraries have a function of this name
#define cospi(x) cos(M_PI * (x))                 // likewise
#define sinpi(x) sin(M_PI * (x))
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
inline double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }

// ---- the runtime library -------------------------------------------------------------------------------------------------------------
extern "C" __attribute__((used)) inline void cuda_emu_order(int order) { emu::order = order & 3; }
inline cudaError_t cudaGetLastError() { cudaError_t e = emu::last_error; emu::last_error = cudaSuccess; return e; }
inline const char *cudaGetErrorString(cudaError_t e) {
    static const struct { cudaError_t e; const char *text; } table[] = {{cudaSuccess, "no error"}, {cudaErrorInvalidValue, "invalid argument"},
        {cudaErrorMemoryAllocation, "out of memory"}, {cudaErrorInvalidConfiguration, "invalid configuration argument"},
        {cudaErrorNoDevice, "no CUDA-capable device is detected"}, {cudaErrorInvalidDevice, "invalid device ordinal"},
        {cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"}};
    for (auto &t : table) if (t.e == e) return t.text;
    return "unrecognized error code";
}
inline cudaError_t cudaGetDeviceCount(int *n) { *n = !emu::device(); return emu::fail(emu::device()); }
inline cudaError_t cudaSetDevice(int d) { return emu::fail(emu::device() ? emu::device() : d ? cudaErrorInvalidDevice : cudaSuccess); }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d) {
    cudaError_t e = cudaSetDevice(d);
    if (!e) *p = {"a GPU emulated on the CPU", 9, 0, 1, emu::total_memory(), emu::SHARED_MAX};
    return e;
}
inline cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = emu::total_memory(), *free_bytes = *total > emu::used_memory ? *total - emu::used_memory : 0;
    return emu::fail(emu::device());
}
template <class T> cudaError_t cudaMalloc(T **p, size_t n) {
    *p = nullptr;
    if (emu::device() || !n) return emu::fail(emu::device());
    if (emu::used_memory > emu::total_memory() || n > emu::total_memory() - emu::used_memory) return emu::fail(cudaErrorMemoryAllocation);
    char *at = nullptr;
    emu::Memory m = emu::take(n, &at);
    if (!m.base) return emu::fail(cudaErrorMemoryAllocation);
    emu::memory[at] = m, emu::used_memory += n, *p = (T *)at;
    return cudaSuccess;
}
inline cudaError_t cudaFree(void *p) {
    auto it = emu::memory.find((char *)p);
    if (!p || emu::device()) return emu::fail(emu::device());
    emu::flush();
    if (it == emu::memory.end()) return emu::fail(cudaErrorInvalidValue);
    emu::used_memory -= it->second.bytes, emu::give(it->second), emu::memory.erase(it);
    return cudaSuccess;
}
template <class T> cudaError_t cudaMallocHost(T **p, size_t n) {
    *p = (T *)malloc(n ? n : 1);
    if (*p) memset((void *)*p, 0xFF, n);
    return emu::fail(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
inline cudaError_t cudaFreeHost(void *p) { free(p); return cudaSuccess; }
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
    emu::flush();
    if (!emu::copy_is_right(to, from, n, kind)) return emu::fail(emu::device() ? emu::device() : cudaErrorInvalidValue);
    if (n) memmove(to, from, n);
    return cudaSuccess;
}
// as late as the real one may: before the next launch, copy or wait. A source that is used again too early shows.
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t = 0) {
    if (!emu::copy_is_right(to, from, n, kind)) return emu::fail(emu::device() ? emu::device() : cudaErrorInvalidValue);
    emu::pending.push_back({to, from, n});
    return cudaSuccess;
}
inline cudaError_t cudaMemset(void *p, int value, size_t n) {
    emu::flush();
    if (emu::device() || !n) return emu::fail(emu::device());
    if (!emu::on_device(p, n)) return emu::fail(cudaErrorInvalidValue);
    memset(p, value, n);
    return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { emu::flush(); return emu::fail(emu::device()); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
template <class K> cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute, int bytes) {
    if (emu::code() || bytes < 0 || (size_t)bytes > emu::SHARED_MAX) return emu::fail(emu::code() ? emu::code() : cudaErrorInvalidValue);
    emu::allowed[(const void *)kernel] = bytes;
    return cudaSuccess;
}
template <class K> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, K *kernel) {
    size_t given = emu::allowed.count((const void *)kernel) ? emu::allowed[(const void *)kernel] : 0;
    if (!emu::code()) *a = {0, 1024, (int)(given ? given : emu::SHARED_DEFAULT), 90};
    return emu::fail(emu::code());
}
