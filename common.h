// common.h: what a network needs, shared by the programs. Read from top to bottom; nothing is declared ahead.
//   1 random     philox() as a stream: rng(), uniform(), below()
//   2 memory     two arenas of device memory, their dry run; upload(), download(); the fake device
//   3 kernels    one dispatcher for every line of kernels.h; the choice of device and threads
//   4 tensors    Tensor, leaf(), the tape, backward()
//   5 parameters param(), initialisation, AdamW with clipping and moving average
//   6 ops        forward and backward beside each other, in the order in which a transformer block uses them
//   7 checkpoint weights, average, moments and configuration in one safetensors file
//   8 training   one optimiser step; the loop around it, its log, its directory
// Letters: B batch, T positions of one sequence, C width, N = B*T rows, NH heads, HS head size, V vocabulary, G groups of modulation.
// t is always a position. A gradient is called d + the name of its tensor and is added to, unless a kernel says otherwise.
#pragma once
#include "io.h"
#include "kernels.h"
#include <sys/mman.h>
#include <tgmath.h>
#ifdef _OPENMP
#include <omp.h>
#endif

// ---- 1. random ----------------------------------------------------------------------------------------------------------------
// Nothing is stored but (seed, stream) and a counter: the same numbers on every device and for any number of threads.

typedef enum { RNG_INIT = 1, RNG_DATA, RNG_LEVEL, RNG_DROPOUT, RNG_SAMPLE, RNG_EVAL, RNG_NOISE, RNG_HELD, RNG_STEP, RNG_CHOICE } Purpose;
typedef struct Rng { uint64_t seed, stream, index; } Rng;

// A stream for one purpose and one step (or tensor, or sample): streams never overlap.
static uint64_t stream_of(Purpose purpose, uint64_t step) { return (uint64_t)purpose << 56 | step; }
static Rng rng(uint64_t seed, Purpose purpose, uint64_t step) { return (Rng){seed, stream_of(purpose, step), 0}; }

// uniform in [0,1)
static double uniform(Rng *r) { Philox x = philox(r->seed, r->stream, r->index++); return unit(x.w[0], x.w[1]); }
// N(0,1) by Box and Muller; two uniforms each, nothing is kept
static double normal(Rng *r) {
    double radius = sqrt(-2 * log(1 - uniform(r)));     // 1 - uniform is never 0
    return radius * cos(6.283185307179586477 * uniform(r));
}
// uniform in 0..n-1
static int below(Rng *r, int n) { return (int)(uniform(r) * n); }

// ---- 2. memory ----------------------------------------------------------------------------------------------------------------
// Device memory comes from two arenas: `persistent` (parameters, moments, caches) lives as long as the program, `per_step` (activations
// and their gradients) is emptied before every step. How large they must be is found by a dry run: the same code with kernels switched off
// and addresses that only count.
//     begin_dry_run();  build the network, run one largest step;  end_dry_run();  then do it again for real.
// Only kernels, upload() and download() may touch device memory. In a build with -DFAKE_DEVICE everything else that tries crashes at once.

// --device cuda puts both arenas on a GPU; transfers and kernels go there then (cuda_kernels.cu), and nothing else changes.
// Three words: the device is where tensors live; the fake device is this CPU with its arenas locked (mprotect) outside of kernels and transfers; the
// emulated device (tests/cuda_emu.h) is a GPU played by the CPU.

typedef struct Arena { char *base; size_t used, peak, size; } Arena;
static Arena persistent, per_step;
static bool dry;
static enum { CPU, CUDA } device;
static char device_name[256] = "the CPU";
#ifdef WITH_CUDA                                        // ON_CUDA(a) b: on a GPU a, otherwise b
#define ON_CUDA(call) if (device == CUDA) { call; } else
#else
#define ON_CUDA(call)                                   // a build without nvcc: device stays CPU
#endif

static void protect(int how) {
#ifdef FAKE_DEVICE
    if (persistent.base) mprotect(persistent.base, persistent.size, how);
    if (per_step.base) mprotect(per_step.base, per_step.size, how);
#else
    (void)how;
#endif
}
static void unlock_arenas(void)  { protect(PROT_READ | PROT_WRITE); }
static void lock_arenas(void) { protect(PROT_NONE); }

// bytes of device memory, aligned to 64; a dry run counts them and hands out an address that nothing may touch
static void *arena_take(Arena *a, size_t bytes) {
    size_t at = a->used;
    a->used += (bytes + 63) / 64 * 64;
    if (a->used > a->peak) a->peak = a->used;
    if (dry) return (void *)(uintptr_t)(at + 64);
    if (a->used > a->size) die("internal error: a step needs more memory than its dry run did");
    return a->base + at;
}

static void arena_map(Arena *a) {
    long page = sysconf(_SC_PAGESIZE);
    *a = (Arena){.size = (a->peak + (size_t)page) / (size_t)page * (size_t)page};
    ON_CUDA(a->base = cuda_allocate(a->size); return) {}
    a->base = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->base == MAP_FAILED) die("out of memory: %.1f MB cannot be allocated (try less at a time)", (double)a->size * 1e-6);
    madvise(a->base, a->size, MADV_HUGEPAGE);
#ifdef FAKE_DEVICE
    memset(a->base, 0xFF, a->size);                     // every float a NaN: what is read before it is written shows
#endif
}
static void arena_unmap(Arena *a) {
    if (a->base) { ON_CUDA(cuda_release(a->base)) munmap(a->base, a->size); }
    *a = (Arena){0};
}

static void begin_dry_run(void) { arena_unmap(&persistent), arena_unmap(&per_step); dry = true; }

// Maps what the dry run counted, or ends the program with one line that says what is missing.
static void end_dry_run(bool print) {
    size_t need = persistent.peak + per_step.peak, all = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE), have = all;
    ON_CUDA(have = cuda_memory(&all)) {}
    if (need > have) die("%.1f MB of memory are needed, %s has %.1f MB%s: try less at a time (--batch, --samples), or a smaller network", (double)need * 1e-6,
                         device == CUDA ? device_name : "this machine", (double)have * 1e-6, device == CUDA ? " free" : "");
    if (print) printf("memory on %s: %.1f MB persistent (weights, moments, caches), %.1f MB a step (activations, gradients)\n",
                      device_name, (double)persistent.peak * 1e-6, (double)per_step.peak * 1e-6);
    dry = false;
    arena_map(&persistent);
    arena_map(&per_step);
    lock_arenas();
}

static void upload(void *to, const void *host, size_t bytes) {
    if (dry) return;
    ON_CUDA(cuda_upload(to, host, bytes); return) {}
    unlock_arenas();
    memcpy(to, host, bytes);
    lock_arenas();
}
// The host waits for a GPU here (and in upload() of more than 32 MB)
static void download(void *host, const void *from, size_t bytes) {
    if (dry) { memset(host, 0, bytes); return; }
    ON_CUDA(cuda_download(host, from, bytes); return) {}
    unlock_arenas();
    memcpy(host, from, bytes);
    lock_arenas();
}

// a copy on the device that lives until the end of the step
static void *to_device(const void *host, size_t bytes) { void *p = arena_take(&per_step, bytes); upload(p, host, bytes); return p; }

// Host memory of one step (tensors, tape, index arrays): pieces that are reused step after step, so that a step allocates nothing.
static struct { char *piece[64]; size_t size[64], used; int n, at; } host;

static void *host_take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    while (host.at < host.n && host.used + bytes > host.size[host.at]) host.at++, host.used = 0;
    if (host.at == host.n) {
        if (host.n == 64) die("internal error: host memory in too many pieces");
        size_t least = (size_t)1 << (20 + host.n / 4);   // later pieces are larger
        host.size[host.n] = bytes > least ? bytes : least;
        host.piece[host.n] = allocate(host.size[host.n]);
        host.n++;
    }
    void *p = host.piece[host.at] + host.used;
    host.used += bytes;
    return memset(p, 0, bytes);
}
#define HOST(type, n) ((type *)host_take(sizeof(type) * (size_t)(n)))

// ---- 3. kernels ---------------------------------------------------------------------------------------------------------------

static Precision precision = FP32;                      // of the products in linear() and attention()
#if REAL_IS_DOUBLE                                      // the fast bodies know float alone
#define RUN_FAST(name, args) name##_cpu args
#else
static bool naive;                                      // plain bodies only
#define RUN_FAST(name, args) if (naive) name##_cpu args; else name##_fast args
#endif
#ifndef TIMED
#define TIMED(name, call) call                          // tests/bench_steps.c takes the time here
#endif
#define DISPATCH(name, params, args)      static inline void name params { if (dry) return; unlock_arenas(); TIMED(name, ON_CUDA(name##_cuda args) name##_cpu args); lock_arenas(); }
#define DISPATCH_FAST(name, params, args) static inline void name params { if (dry) return; unlock_arenas(); TIMED(name, ON_CUDA(name##_cuda args) RUN_FAST(name, args)); lock_arenas(); }
KERNELS(DISPATCH, DISPATCH_FAST)

#ifdef WITH_CUDA
static void cuda_failed(const char *line) { die("%s", line); }
#endif
// 0: one for each core
static void threads_select(int threads) {
#ifdef _OPENMP
    if (threads) omp_set_num_threads(threads);
    if (threads > omp_get_num_procs()) fprintf(stderr, "%s: --threads %d are more than the %d cores: slower than one for each\n", program_name, threads, omp_get_num_procs());
#else
    if (threads > 1) die("--threads %d: this build has no OpenMP, it knows one thread", threads);
#endif
}
// Chooses where tensors live and kernels run: "cpu" or "cuda". Once, before the first dry run; `naive` must be set before.
static void device_select(const char *name) {
    if (!strcmp(name, "cpu")) return;
    if (strcmp(name, "cuda")) die("--device %s: cpu or cuda", name);
#ifdef WITH_CUDA
    device = CUDA;
    cuda_naive = naive;
    cuda_open(cuda_failed, device_name, sizeof device_name);
#elif REAL_IS_DOUBLE
    die("--device cuda: a build in double knows the CPU only");
#else
    die("--device cuda: this program was built without CUDA, because there was no nvcc (install the CUDA toolkit, put nvcc into PATH, make clean all)");
#endif
}

// Threads, kernels, device and precision from the options that all programs have; writes the precision that auto stands for.
static void select_machine(int threads, const char *on, const char **how, bool plain) {
    threads_select(threads);
    bool bf16 = !strcmp(*how, "bf16"), choose = !strcmp(*how, "auto");
    if (!bf16 && !choose && strcmp(*how, "fp32")) die("--precision %s: fp32, bf16 or auto", *how);
    precision = bf16 ? BF16 : FP32;
#if !REAL_IS_DOUBLE
    naive = plain;
    if (choose && !naive && has_matrix_unit() && strcmp(on, "cuda")) precision = BF16;
#else
    (void)plain;
#endif
    device_select(on);
    if (bf16 && device == CUDA) die("--precision bf16: not with --device cuda yet, tensor cores are not used (fp32 or auto)");
    *how = precision == BF16 ? "bf16" : "fp32";         // what the configuration then shows
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
}

// ---- 4. tensors and tape ------------------------------------------------------------------------------------------------------
// An op computes its output at once and appends one node to the tape. Creation order is a topological order (an op can only use what
// exists), so backward() is one loop from the last node to the first. A case that needs this: b = f(a), c = g(b) + h(b), where every use
// of b must be done before it is f's turn.

typedef struct Tensor {
    real *data, *grad;                                  // (B,T,C); grad is NULL until something flows back
    int B, T, C;
    enum { CONSTANT, PARAMETER, LEAF, ACTIVATION } kind;
    const char *name;
    const real *packed;                                 // of a weight: see params_pack(), or NULL
    const real *pre; Activation act;                    // pre: data lies in a shared buffer, and is act(pre) once more when backward needs it
} Tensor;
enum { PARAMS = 1, INPUTS = 2 };                        // what backward() is asked for

typedef struct Node {
    void (*back)(const void *args);                     // adds to the gradients of what the op read
    const void *args;
    Tensor *out;
    bool in_place;                                      // the op changed `out`, another node made it: its gradient is still needed below
} Node;
static struct { Node node[1 << 16]; Tensor *leaf[16]; int n, leaves, wanted; bool off, spent; } tape;

static size_t count(const Tensor *x) { return (size_t)x->B * (size_t)x->T * (size_t)x->C; }
static int rows(const Tensor *x) { return x->B * x->T; }

static Tensor *tensor(int B, int T, int C, int kind, const char *name) {
    Tensor *x = HOST(Tensor, 1);
    *x = (Tensor){.B = B, .T = T, .C = C, .kind = kind, .name = name};
    x->data = arena_take(&per_step, count(x) * sizeof(real));
    return x;
}
// numbers that are on the device already
static Tensor *constant(real *data, int B, int T, int C, const char *name) {
    Tensor *x = HOST(Tensor, 1);
    *x = (Tensor){.data = data, .B = B, .T = T, .C = C, .kind = CONSTANT, .name = name};
    return x;
}
// numbers of the host (B,T,C), put on the device until the end of the step; NULL: NULL
static Tensor *on_device(const real *x, int B, int T, int C, const char *name) {
    return x ? constant(to_device(x, (size_t)B * (size_t)T * (size_t)C * sizeof(real)), B, T, C, name) : NULL;
}
static Tensor *activation(int B, int T, int C, const char *name) { return tensor(B, T, C, ACTIVATION, name); }

// Marks x as an input: backward(loss, INPUTS) leaves d loss / d x in x->grad.
static Tensor *leaf(Tensor *x) {
    if (tape.leaves == (int)(sizeof tape.leaf / sizeof *tape.leaf)) die("internal error: more leaves than a tape has room for");
    tape.leaf[tape.leaves++] = x;
    x->kind = LEAF;
    return x;
}

// the arguments of a node's backward, kept until the step ends
static void *record(void (*back)(const void *), Tensor *out, bool in_place, size_t size) {
    void *args = host_take(size);
    if (tape.off) return args;
    if (tape.n == (int)(sizeof tape.node / sizeof *tape.node)) die("internal error: tape full");
    tape.node[tape.n++] = (Node){back, args, out, in_place};
    return args;
}
#define RECORD(type, back, out, ...) (*(type *)record(back, out, false, sizeof(type)) = (type){out, __VA_ARGS__})

// Activation gradients are recycled: a buffer is free again once backward() has left the node that made its tensor. Shapes repeat, so a
// buffer is reused by the next tensor of its shape. (Of its size would not do: sizes that happen to be equal in a dry run need not be in a step.)
static struct { int rows, C; real *buffer; } recycled[256];
static int n_recycled;

static bool wants(const Tensor *x) {
    return x && (x->kind == ACTIVATION || (x->kind == PARAMETER && tape.wanted & PARAMS) || (x->kind == LEAF && tape.wanted & INPUTS));
}

// Gives x a gradient; true if it has just got one, which is not set yet. Only for an x that is wanted.
static bool new_grad(Tensor *x) {
    if (x->grad) return false;
    for (int i = n_recycled - 1; i >= 0 && !x->grad; i--)
        if (recycled[i].rows == rows(x) && recycled[i].C == x->C) { x->grad = recycled[i].buffer; recycled[i] = recycled[--n_recycled]; }
    if (!x->grad) x->grad = arena_take(&per_step, count(x) * sizeof(real));
    return true;
}
// where to add d loss / d x; NULL if nobody asked for it
static real *grad_of(Tensor *x) {
    if (!wants(x)) return NULL;
    if (new_grad(x)) fill(x->grad, 0, count(x));
    return x->grad;
}
// The same for a kernel that can write: *add if it must add to what is there already
static real *grad_for(Tensor *x, bool *add) {
    *add = wants(x) && !new_grad(x);
    return wants(x) ? x->grad : NULL;
}
// Adds rows of d, ld numbers apart, to the gradient of x
static void add_grad(Tensor *x, const real *d, int ld) {
    if (!wants(x)) return;
    if (new_grad(x)) copy_columns(x->grad, d, rows(x), x->C, x->C, ld); else add_columns(x->grad, d, rows(x), x->C, x->C, ld);
}
// Where d loss / d x is d loss / d out: x takes the buffer of out, which nobody reads after this, or adds it to what it has
static void pass_on(Tensor *x, Tensor *out) {
    if (wants(x) && !x->grad) x->grad = out->grad, out->grad = NULL; else add_grad(x, out->grad, x->C);
}
static void recycle(Tensor *x) {                        // where cross_entropy has written the gradient over the data, there is no buffer
    if (x->grad && x->grad != x->data && n_recycled < 256)
        recycled[n_recycled].rows = rows(x), recycled[n_recycled].C = x->C, recycled[n_recycled++].buffer = x->grad;
    x->grad = NULL;
}

static struct { real *data; size_t size; } hidden;      // the shared buffer of linear_hidden()

static void begin_step(void) {
    per_step.used = 0;
    host.at = 0, host.used = 0;
    tape.n = tape.leaves = n_recycled = 0;
    tape.spent = false;
    hidden.data = NULL, hidden.size = 0;
}

// d loss / d everything that is wanted (PARAMS: added to the parameters' gradients; INPUTS: the gradients of leaf() tensors), where dout, on the host and
// like out, is d loss / d out; dout NULL: out is the loss itself, one number.
static void backward_from(Tensor *out, const real *dout, int wanted) {
    if (tape.spent) die("internal error: backward twice, but cross_entropy has overwritten its logits");
    tape.wanted = wanted;
    for (int i = 0; i < tape.n; i++) tape.node[i].out->grad = NULL;
    for (int i = 0; i < tape.leaves; i++) tape.leaf[i]->grad = NULL;
    if (dout) upload(grad_of(out), dout, count(out) * sizeof(real)); else fill(grad_of(out), 1, 1);
    for (int i = tape.n - 1; i >= 0; i--) {
        Node *n = &tape.node[i];
        if (!n->out->grad) continue;                    // nothing flows here
        n->back(n->args);
        if (!n->in_place && n->out->kind == ACTIVATION) recycle(n->out);
    }
}
static void backward(Tensor *loss, int wanted) { backward_from(loss, NULL, wanted); }

// ---- 5. parameters ------------------------------------------------------------------------------------------------------------
// A parameter is registered once, under its official name; init, optimiser, checkpoint, tests and printing walk this one list.
// All parameters lie in one array, likewise gradients, moments and moving averages: the optimiser is one kernel call.

typedef enum { ZERO, ONE, UNIFORM, NORMAL } Init;       // UNIFORM: U(-bound, bound); NORMAL: N(0, bound^2)
typedef struct Param { Tensor t; int dims; Init init; double bound; size_t offset; } Param;
typedef struct Params {
    Param **list;
    int n, room;
    size_t size;                                        // numbers in each array, padding included
    real *data, *grad, *m, *v, *ema;                    // grad .. ema are NULL unless training
    double *norm2;                                      // on the device: |grad|^2
} Params;

// shape (rows, columns), or (columns) if rows is 0
static Tensor *param(Params *ps, const char *name, int rows, int columns, Init init, double bound) {
    if (ps->n == ps->room) {
        ps->room = 2*ps->room + 64;
        ps->list = realloc(ps->list, (size_t)ps->room * sizeof *ps->list);
        if (!ps->list) die("out of memory");
    }
    Param *p = NEW(Param, 1);
    *p = (Param){.dims = rows ? 2 : 1, .t = {.B = 1, .T = rows ? rows : 1, .C = columns, .kind = PARAMETER, .name = strdup(name)}, .init = init, .bound = bound, .offset = ps->size};
    ps->size += (count(&p->t) + 15) / 16 * 16;
    ps->list[ps->n++] = p;
    return &p->t;
}

static size_t params_count(const Params *ps) { size_t n = 0; for (int i = 0; i < ps->n; i++) n += count(&ps->list[i]->t); return n; }

// Lets every tensor of the list read from (and, in training, add gradients to) these arrays.
static void params_point(Params *ps, real *data) {
    for (int i = 0; i < ps->n; i++) {
        Param *p = ps->list[i];
        p->t.data = data + p->offset, p->t.packed = NULL;
        p->t.grad = ps->grad ? ps->grad + p->offset : NULL;
    }
}

// Takes the memory (after every param() call) and initialises: parameter i from stream (RNG_INIT, i) of `seed`.
static void params_create(Params *ps, bool training, uint64_t seed) {
    size_t bytes = ps->size * sizeof(real);
    ps->data = arena_take(&persistent, bytes);
    fill(ps->data, 0, ps->size);
    ps->grad = ps->m = ps->v = ps->ema = NULL;
    if (training) {
        real **array[] = {&ps->grad, &ps->m, &ps->v, &ps->ema};
        for (int i = 0; i < 4; i++) *array[i] = arena_take(&persistent, bytes), fill(*array[i], 0, ps->size);
        ps->norm2 = arena_take(&persistent, sizeof(double));
    }
    params_point(ps, ps->data);
    if (dry) return;
    real *values = NEW(real, ps->size);
    for (int i = 0; i < ps->n; i++) {
        Param *p = ps->list[i];
        Rng r = rng(seed, RNG_INIT, (uint64_t)i);
        for (size_t j = 0; j < count(&p->t); j++)
            values[p->offset + j] = (real)(p->init == ONE ? 1 : p->init == ZERO ? 0 : (p->init == NORMAL ? normal(&r) : 2*uniform(&r) - 1) * p->bound);
    }
    upload(ps->data, values, bytes);
    if (training) upload(ps->ema, values, bytes);
    free(values);
}

static void params_free(Params *ps) {
    for (int i = 0; i < ps->n; i++) free((char *)ps->list[i]->t.name), free(ps->list[i]);
    free(ps->list);
    *ps = (Params){0};
}

// Packs the weights once for all products that will read them, which must not change from here on. The GPU and the plain bodies have no use for it.
static void params_pack(Params *ps) {
#if !REAL_IS_DOUBLE
    if (ps->grad) die("internal error: weights that are trained cannot be packed");
    if (naive || device == CUDA) return;
    for (int i = 0; i < ps->n; i++) {
        Tensor *t = &ps->list[i]->t;
        if (ps->list[i]->dims < 2) continue;
        real *packed = arena_take(&persistent, packed_size(t->C, t->T, precision) * sizeof(real));
        t->packed = packed;
        if (dry) continue;
        unlock_arenas();
        pack_weight(packed, t->data, t->C, t->T, precision);
        lock_arenas();
    }
#else
    (void)ps;
#endif
}

static void zero_grad(Params *ps) { fill(ps->grad, 0, ps->size); }

// |grad| over all parameters; leaves its square on the device for params_update()
static double grad_norm(Params *ps) {
    double norm2;
    sum_squares(ps->norm2, ps->grad, ps->size);
    download(&norm2, ps->norm2, sizeof norm2);
    return sqrt(norm2);
}

// One AdamW step. The average starts fast: its decay is min(a.ema, (1 + n)/(10 + n)) at step n = 1, 2, ...
static void params_update(Params *ps, AdamW a) {
    a.ema = fmin(a.ema, (1.0 + a.step) / (10.0 + a.step));
    adamw(ps->data, ps->m, ps->v, ps->ema, ps->grad, ps->norm2, ps->size, a);
}

static bool all_finite(const real *device, size_t n) {
    real *x = NEW(real, n);
    download(x, device, n * sizeof(real));
    bool finite = true;
    for (size_t i = 0; i < n; i++) finite = finite && isfinite(x[i]);
    free(x);
    return finite;
}
// The name of the first tensor that holds a NaN or an infinity: parameters, then activations in the order of their making, then gradients.
// NULL: all are finite.
static const char *first_not_finite(const Params *ps, const char **what) {
    *what = "parameter";
    for (int i = 0; i < ps->n; i++) if (!all_finite(ps->list[i]->t.data, count(&ps->list[i]->t))) return ps->list[i]->t.name;
    *what = "activation";
    for (int i = 0; i < tape.n; i++) {
        const Tensor *x = tape.node[i].out;
        if (!all_finite(x->pre ? x->pre : x->data, count(x))) return x->name;  // a shared buffer holds another layer's by now
    }
    *what = "gradient";
    for (int i = 0; i < ps->n; i++) if (ps->grad && !all_finite(ps->list[i]->t.grad, count(&ps->list[i]->t))) return ps->list[i]->t.name;
    return NULL;
}

// ---- 6. ops -------------------------------------------------------------------------------------------------------------------

// x[n] = weight[id[n]]: weight (V,C), id (B,T) on the device -> (B,T,C)
typedef struct { Tensor *out, *weight; const int *id; } Embedding;
static void embedding_back(const void *p) {
    const Embedding *e = p;
    if (wants(e->weight)) embedding_backward(grad_of(e->weight), e->out->grad, e->id, rows(e->out), e->out->C);
}
static Tensor *embedding(Tensor *weight, const int *id, int B, int T) {
    Tensor *out = tensor(B, T, weight->C, weight->kind == CONSTANT ? CONSTANT : ACTIVATION, "embedding");
    embedding_forward(out->data, weight->data, id, rows(out), out->C);
    RECORD(Embedding, embedding_back, out, weight, id);
    return out;
}

// Sinusoids of G levels (on the device, double) -> (1,G,F), a constant
static Tensor *level_features(const double *level, int G, int F) {
    Tensor *out = tensor(1, G, F, CONSTANT, "level_features");
    level_embedding(out->data, level, G, F);
    return out;
}

// act(x W^T + b): W (OC,C) as PyTorch stores it, b (1,OC) or NULL -> (B,T,OC)
typedef struct { Tensor *out, *x, *weight, *bias; real *pre; Activation act; } Linear;
static void linear_back(const void *p) {
    const Linear *l = p;
    real *d = l->out->grad;
    int N = rows(l->x), C = l->x->C, OC = l->out->C;
    if (l->act != LINEAR_ONLY && !l->out->pre) activation_backward(d, NULL, l->pre, count(l->out), l->act);
    bool add;
    real *dx = grad_for(l->x, &add);
    if (dx) linear_backward_inp(dx, d, l->weight->data, N, C, OC, add, precision);
    if (l->x->pre) activation_backward(l->x->grad, l->x->data, l->x->pre, count(l->x), l->x->act);      // what its own backward would do, and its value once more
    if (!wants(l->weight)) return;
    linear_backward_weight(grad_of(l->weight), l->bias ? grad_of(l->bias) : NULL, d, l->x->data, N, C, OC, precision);
}
static Tensor *linear_into(Tensor *out, Tensor *x, Tensor *weight, Tensor *bias, Activation act) {
    bool kept = act != LINEAR_ONLY && !tape.off, by_value = act == RELU && out->data != hidden.data;      // the slope of ReLU shows in its value, if that stays
    real *pre = kept && !by_value ? arena_take(&per_step, count(out) * sizeof(real)) : NULL;
    linear_forward(out->data, pre, x->data, weight->data, weight->packed, bias ? bias->data : NULL, rows(x), x->C, weight->T, act, precision);
    if (kept && by_value) pre = out->data;
    RECORD(Linear, linear_back, out, x, weight, bias, pre, act);
    return out;
}
static Tensor *linear(Tensor *x, Tensor *weight, Tensor *bias, Activation act) {
    return linear_into(activation(x->B, x->T, weight->T, weight->name), x, weight, bias, act);
}

// The same for a wide hidden layer: its result lies in a buffer that all such layers share, so only one linear() may read it, before the next
// one of these is made. Backward computes it again from `pre`, which saves a third of what an MLP keeps.
static Tensor *linear_hidden(Tensor *x, Tensor *weight, Tensor *bias, Activation act) {
    Tensor *out = HOST(Tensor, 1);
    *out = (Tensor){.B = x->B, .T = x->T, .C = weight->T, .kind = ACTIVATION, .name = weight->name, .act = act};
    if (hidden.size < count(out)) hidden.size = count(out), hidden.data = arena_take(&per_step, count(out) * sizeof(real));
    out->data = hidden.data;
    linear_into(out, x, weight, bias, act);
    if (!tape.off) out->pre = ((const Linear *)tape.node[tape.n - 1].args)->pre;
    return out;
}

// Without a tape nothing but x is needed of all that has been made since `mark` (per_step.used): x moves there, and the rest is free for the next layer,
// which then works in memory that is in the caches already.
static Tensor *keep(Tensor *x, size_t mark) {
    if (!tape.off) return x;
    size_t bytes = count(x) * sizeof(real);
    per_step.used = mark;
    real *to = arena_take(&per_step, bytes);
    if ((uintptr_t)x->data < (uintptr_t)to + bytes) die("internal error: %s cannot move over itself", x->name);
    copy_columns(to, x->data, rows(x), x->C, x->C, x->C);
    x->data = to, hidden.data = NULL, hidden.size = 0;
    return x;
}

// Rows first..first+n-1 of a weight as a weight of its own
static Tensor *weight_rows(const Tensor *weight, int first, int n) {
    Tensor *part = HOST(Tensor, 1);
    size_t from = (size_t)first * (size_t)weight->C;
    *part = *weight;
    part->T = n, part->data += from, part->packed = NULL;
    if (part->grad) part->grad += from;
    return part;
}

// Modulation of one branch: shift, scale and gate are columns of mod (1,G,ld) from these offsets on; mod NULL: none.
// group (N) on the device; NULL: all rows are group 0.
// A negative offset: not there. A LayerNorm with a bias is shifted by it: {bias, NULL, 0, -1, -1}.
typedef struct { Tensor *mod; const int *group; int shift, scale, gate; } Modulation;
static const real *mod_data(Modulation m, int column) { return m.mod && column >= 0 ? m.mod->data + column : NULL; }
static real *mod_grad(Modulation m, int column) { real *d = m.mod && column >= 0 ? grad_of(m.mod) : NULL; return d ? d + column : NULL; }

// One GRU cell: gi, gh (N,3C) are the products of its input and of its state h (N,C) -> the next state, the shape of h
typedef struct { Tensor *out, *gi, *gh, *h; } Gru;
static void gru_back(const void *p) {
    const Gru *g = p;
    gru_backward(grad_of(g->gi), grad_of(g->gh), grad_of(g->h), g->out->grad, g->gi->data, g->gh->data, g->h->data, rows(g->out), g->out->C);
}
static Tensor *gru(Tensor *gi, Tensor *gh, Tensor *h) {
    if (rows(gi) != rows(h) || rows(gh) != rows(h) || gi->C != 3*h->C || gh->C != 3*h->C) die("internal error: a GRU of %d states, %d and %d gates", h->C, gi->C, gh->C);
    Tensor *out = activation(h->B, h->T, h->C, "gru");
    gru_forward(out->data, gi->data, gh->data, h->data, rows(h), h->C);
    RECORD(Gru, gru_back, out, gi, gh, h);
    return out;
}

// LN(x; weight) (1 + scale) + shift, or RMSNorm in the place of LN -> (B,T,C)
typedef enum { LAYER, RMS } NormKind;
typedef struct { Tensor *out, *x, *weight; Modulation m; real *mean, *rstd; } Norm;
static void norm_modulate_back(const void *p) {
    const Norm *n = p;
    norm_modulate_backward(grad_of(n->x), grad_of(n->weight), mod_grad(n->m, n->m.shift), mod_grad(n->m, n->m.scale),
                           n->out->grad, n->x->data, n->mean, n->rstd, n->weight->data, mod_data(n->m, n->m.scale), n->m.group,
                           rows(n->x), n->x->C, n->m.mod ? n->m.mod->T : 0, n->m.mod ? n->m.mod->C : 0);
}
static Tensor *norm_modulate(Tensor *x, Tensor *weight, Modulation m, NormKind kind, double eps) {
    Tensor *out = activation(x->B, x->T, x->C, weight->name);
    size_t bytes = (size_t)rows(x) * sizeof(real);
    real *mean = kind == LAYER ? arena_take(&per_step, bytes) : NULL, *rstd = arena_take(&per_step, bytes);
    norm_modulate_forward(out->data, mean, rstd, x->data, weight->data, mod_data(m, m.shift), mod_data(m, m.scale), m.group, eps,
                          rows(x), x->C, m.mod ? m.mod->C : 0);
    RECORD(Norm, norm_modulate_back, out, x, weight, m, mean, rstd);
    return out;
}

// Rotary tables for P positions: cosine, sine (P,HS), one angle an element; element i turns with pair[i] (-1: stays). All on the device.
typedef struct { real *cosine, *sine; int *pair; int P, HS; } Rope;

// The tables of the angles (P,HS) and pairs (HS) on the host; in a dry run they are not read
static Rope rope_of(int P, int HS, const double *angle, const int *pair) {
    size_t size = (size_t)P * (size_t)HS, bytes = size * sizeof(real);
    Rope r = {.P = P, .HS = HS};
    r.cosine = arena_take(&persistent, bytes), r.sine = arena_take(&persistent, bytes), r.pair = arena_take(&persistent, (size_t)HS * sizeof(int));
    if (dry) return r;
    real *cosine = allocate(bytes), *sine = allocate(bytes);
    for (size_t i = 0; i < size; i++) cosine[i] = (real)cos(angle[i]), sine[i] = (real)sin(angle[i]);
    upload(r.cosine, cosine, bytes), upload(r.sine, sine, bytes), upload(r.pair, pair, (size_t)HS * sizeof(int));
    free(cosine), free(sine);
    return r;
}
// Half-split rotary (Su et al. 2021): i and i + HS/2 turn by p base^(-2i/HS). An odd last element stays.
static Rope rope_create(int P, int HS, double base) {
    int *pair = NEW(int, HS), half = HS / 2;
    double *angle = NEW(double, dry ? 1 : (size_t)P * (size_t)HS);
    for (int i = 0; i < HS; i++) pair[i] = i < half ? i + half : i < 2*half ? i - half : -1;
    for (int p = 0; p < P && !dry; p++)
        for (int i = 0; i < 2*half; i++) angle[(size_t)p*(size_t)HS + (size_t)i] = p * pow(base, -2.0 * (i % half) / HS);
    Rope r = rope_of(P, HS, angle, pair);
    free(angle), free(pair);
    return r;
}

// Turns the first `heads` heads of x in place (so nobody may have read x before this, and its own backward does not); position (N) on the device -> x
typedef struct { Tensor *x; Rope r; const int *position; int heads; } RopeArgs;
static void rope_back(const void *p) {
    const RopeArgs *a = p;
    rope_backward(a->x->grad, a->r.cosine, a->r.sine, a->position, a->r.pair, rows(a->x), a->x->C, a->heads, a->r.HS);
}
static Tensor *rope(Tensor *x, Rope r, const int *position, int heads) {
    rope_forward(x->data, r.cosine, r.sine, position, r.pair, rows(x), x->C, heads, r.HS);
    *(RopeArgs *)record(rope_back, x, true, sizeof(RopeArgs)) = (RopeArgs){x, r, position, heads};
    return x;
}

// RMSNorm, in place, of each of the `heads` heads of x that begin at column `first` (nobody may have read x before this, as with rope()); they share
// weight (1,HS). Then they turn, as rope() would turn them; r NULL: they do not -> x
typedef struct { Tensor *x, *weight; real *kept, *rstd; int first, heads; Rope r; const int *position; } HeadNorm;
static void head_norm_back(const void *p) {
    const HeadNorm *a = p;
    head_norm_backward(a->x->grad + a->first, grad_of(a->weight), a->kept, a->rstd, a->weight->data, a->r.cosine, a->r.sine, a->position, a->r.pair,
                       rows(a->x), a->x->C, a->heads, a->weight->C);
}
static Tensor *head_norm(Tensor *x, int first, int heads, Tensor *weight, double eps, const Rope *r, const int *position) {
    int HS = weight->C;
    if (first < 0 || first + heads*HS > x->C) die("internal error: %d heads of %d from column %d of %d", heads, HS, first, x->C);
    if (r && r->HS != HS) die("internal error: heads of %d, rotary tables of %d", HS, r->HS);
    size_t all = (size_t)rows(x) * (size_t)heads;
    real *kept = tape.off ? NULL : arena_take(&per_step, all * (size_t)HS * sizeof(real)), *rstd = tape.off ? NULL : arena_take(&per_step, all * sizeof(real));
    Rope turn = r ? *r : (Rope){0};
    head_norm_forward(x->data + first, kept, rstd, weight->data, turn.cosine, turn.sine, position, turn.pair, eps, rows(x), x->C, heads, HS);
    *(HeadNorm *)record(head_norm_back, x, true, sizeof(HeadNorm)) = (HeadNorm){x, weight, kept, rstd, first, heads, turn, position};
    return x;
}

// Attention of q to keys and values, which are the columns column.. and column + C.. of kv. There are B sequences: each has rows(q)/B queries
// and rows(kv)/B keys; query row t of a sequence sees the keys of span[t], on the device -> (q->B, q->T, C).
// Attention of qkv (B,T,3C) to itself: attention(qkv, qkv, C, span, B, NH).
typedef struct { Tensor *out, *q, *kv; int column, B; const Span *span; real *lse; int NH; } Attention;
static void attention_back(const void *p) {
    const Attention *a = p;
    int C = a->out->C, ldq = a->q->C, ldkv = a->kv->C;
    real *k = a->kv->data + a->column;
    if (!wants(a->q) || !wants(a->kv)) die("internal error: attention to a constant has no gradient yet");
    // queries, keys and values that are all of their tensors have their gradients written; otherwise they are added to what is there
    bool all = a->q == a->kv ? ldq == 3*C : ldq == C && ldkv == 2*C, add = !(all && !a->q->grad && !a->kv->grad);
    if (!add) new_grad(a->q), new_grad(a->kv);          // without zeros in them
    real *dq = grad_of(a->q), *dk = grad_of(a->kv) + a->column;
    attention_backward(dq, dk, dk + C, a->out->grad, a->out->data, a->lse, a->q->data, k, k + C, a->span,
                       a->B, rows(a->q) / a->B, rows(a->kv) / a->B, a->NH, C / a->NH, ldq, ldkv, add, precision);
}
static Tensor *attention(Tensor *q, Tensor *kv, int column, const Span *span, int B, int NH) {
    int C = (kv->C - column) / 2;
    Tensor *out = activation(q->B, q->T, C, "attention");
    real *lse = arena_take(&per_step, (size_t)rows(q) * (size_t)NH * sizeof(real)), *k = kv->data + column;
    attention_forward(out->data, lse, q->data, k, k + C, span, B, rows(q) / B, rows(kv) / B, NH, C / NH, q->C, kv->C, precision);
    RECORD(Attention, attention_back, out, q, kv, column, B, span, lse, NH);
    return out;
}

// A cache of keys|values (B,W,2C): of each sequence the rows from..from+rows-1 of kv (B,T,.), columns column.., go to the slots slot..slot+rows-1.
// Attention then reads it as a constant: attention(q, constant(cache, B, W, 2*C, "cache"), 0, span, B, NH), with the tape off.
static void cache_store(real *cache, int W, int slot, const Tensor *kv, int from, int rows, int column) {
    if (slot < 0 || slot + rows > W) die("internal error: rows %d..%d of a cache of %d", slot, slot + rows - 1, W);
    if (from < 0 || from + rows > kv->T) die("internal error: rows %d..%d of %d for a cache", from, from + rows - 1, kv->T);
    store_rows(cache + (size_t)slot * (size_t)(kv->C - column), kv->data + (size_t)from * (size_t)kv->C + column, kv->B, rows, kv->T, W, kv->C - column, kv->C);
}

// x + gate dropout(branch) -> (B,T,C)
typedef struct { Tensor *out, *x, *branch; Modulation m; Dropout drop; } Residual;
static void gated_residual_back(const void *p) {
    const Residual *r = p;
    bool add;
    real *dbranch = grad_for(r->branch, &add);
    gated_residual_backward(dbranch, mod_grad(r->m, r->m.gate), r->out->grad, r->branch->data, mod_data(r->m, r->m.gate),
                            r->m.group, r->drop, add, rows(r->x), r->x->C, r->m.mod ? r->m.mod->T : 0, r->m.mod ? r->m.mod->C : 0);
    pass_on(r->x, r->out);
}
static Tensor *gated_residual(Tensor *x, Tensor *branch, Modulation m, Dropout drop) {
    Tensor *out = activation(x->B, x->T, x->C, "residual");
    gated_residual_forward(out->data, x->data, branch->data, mod_data(m, m.gate), m.group, drop, rows(x), x->C, m.mod ? m.mod->C : 0);
    RECORD(Residual, gated_residual_back, out, x, branch, m, drop);
    return out;
}

// rows row[0..N-1] of x, all distinct, on the device -> (1,N,C)
typedef struct { Tensor *out, *x; const int *row; } Gather;
static void gather_rows_back(const void *p) {
    const Gather *g = p;
    if (wants(g->x)) gather_rows_backward(grad_of(g->x), g->out->grad, g->row, rows(g->out), g->out->C);
}
static Tensor *gather_rows(Tensor *x, const int *row, int N) {
    Tensor *out = activation(1, N, x->C, "rows");
    gather_rows_forward(out->data, x->data, row, N, x->C);
    RECORD(Gather, gather_rows_back, out, x, row);
    return out;
}

// act(x + y), of one shape. With an activation y itself becomes the sum: nobody else may read it, nor its own backward (attention's and ReLU's do).
typedef struct { Tensor *out, *x, *y; Activation act; } Sum;
static void sum_back(const void *p) {
    const Sum *s = p;
    if (s->act != LINEAR_ONLY) activation_backward(s->out->grad, NULL, s->y->data, count(s->out), s->act);      // as in linear_back(): nobody reads it after us
    add_grad(s->y, s->out->grad, s->y->C);
    pass_on(s->x, s->out);
}
static Tensor *sum(Tensor *x, Tensor *y, Activation act) {
    if (rows(x) != rows(y) || x->C != y->C) die("internal error: the sum of (%d,%d) and (%d,%d)", rows(x), x->C, rows(y), y->C);
    Tensor *out = activation(x->B, x->T, x->C, "sum");
    sum_forward(out->data, act != LINEAR_ONLY ? y->data : NULL, x->data, y->data, count(out), act);
    RECORD(Sum, sum_back, out, x, y, act);
    return out;
}

// Columns first..first+n-1 of x (B,T,C) -> (B,T,n)
typedef struct { Tensor *out, *x; int first; } Columns;
static void columns_back(const void *p) {
    const Columns *c = p;
    if (wants(c->x)) add_columns(grad_of(c->x) + c->first, c->out->grad, rows(c->x), c->out->C, c->x->C, c->out->C);
}
static Tensor *columns_of(Tensor *x, int first, int n) {
    if (first < 0 || n < 1 || first + n > x->C) die("internal error: columns %d..%d of %d", first, first + n - 1, x->C);
    Tensor *out = activation(x->B, x->T, n, "columns");
    copy_columns(out->data, x->data + first, rows(x), n, n, x->C);
    RECORD(Columns, columns_back, out, x, first);
    return out;
}

// The columns of n tensors with as many rows, side by side; NULL among them: not there -> (B,T,sum of C)
typedef struct { Tensor *out, **x; int n; } Concat;
static void concat_back(const void *p) {
    const Concat *c = p;
    for (int i = 0, first = 0; i < c->n; first += c->x[i++]->C)
        add_grad(c->x[i], c->out->grad + first, c->out->C);
}
static Tensor *concat(int n, Tensor *const *x) {
    Tensor **there = HOST(Tensor *, n);
    int m = 0, C = 0, first = 0;
    for (int i = 0; i < n; i++) if (x[i]) there[m++] = x[i], C += x[i]->C;
    for (int i = 0; i < m; i++) if (rows(there[i]) != rows(there[0])) die("internal error: %d rows beside %d", rows(there[i]), rows(there[0]));
    Tensor *out = activation(there[0]->B, there[0]->T, C, "concat");
    for (int i = 0; i < m; first += there[i++]->C) copy_columns(out->data + first, there[i]->data, rows(out), there[i]->C, C, there[i]->C);
    RECORD(Concat, concat_back, out, there, m);
    return out;
}
#define CONCAT(...) concat((int)(sizeof((Tensor *[]){__VA_ARGS__}) / sizeof(Tensor *)), (Tensor *[]){__VA_ARGS__})

// The same numbers as (B,T,C): a second tensor on the data of x
typedef struct { Tensor *out, *x; } Reshape;
static void reshape_back(const void *p) {
    const Reshape *r = p;
    pass_on(r->x, r->out);
}
static Tensor *reshape(Tensor *x, int B, int T, int C) {
    if ((size_t)B * (size_t)T * (size_t)C != count(x)) die("internal error: %zu numbers cannot be (%d,%d,%d)", count(x), B, T, C);
    Tensor *out = HOST(Tensor, 1);
    *out = *x;
    out->B = B, out->T = T, out->C = C, out->grad = NULL, out->packed = NULL;
    RECORD(Reshape, reshape_back, out, x);
    return out;
}

// The coefficients of mix(), below, made row by row: N of each, on the host
typedef struct Rows { double *a, *b, *c; } Rows;
static Rows rows_create(int N) { return (Rows){HOST(double, N), HOST(double, N), HOST(double, N)}; }
// a[n] x[n] + b[n] y[n] + c[n] z[n] for every row n; coefficients on the host, (N). y, z NULL: not there -> the shape of x
typedef struct { Tensor *out, *x, *y, *z; const double *a, *b, *c; } Mix;
static void mix_back(const void *p) {
    const Mix *m = p;
    mix_rows_backward(grad_of(m->x), grad_of(m->y), grad_of(m->z), m->out->grad, m->a, m->b, m->c, rows(m->out), m->out->C);
}
static Tensor *mix(Tensor *x, const double *a, Tensor *y, const double *b, Tensor *z, const double *c) {
    Tensor *out = activation(x->B, x->T, x->C, "mix");
    size_t bytes = (size_t)rows(x) * sizeof(double);
    const double *da = to_device(a, bytes), *db = y ? to_device(b, bytes) : NULL, *dc = z ? to_device(c, bytes) : NULL;
    mix_rows_forward(out->data, x->data, y ? y->data : NULL, z ? z->data : NULL, da, db, dc, rows(x), x->C);
    RECORD(Mix, mix_back, out, x, y, z, da, db, dc);
    return out;
}

// scale * sum of weight (pred - target)^2 -> (1,1,1). target like pred, and gets no gradient; weight (N,P) on the host: each of P equal parts of a row has one.
// error: the terms of the sum, like pred.
typedef struct { Tensor *out, *pred, *target; const double *weight; double scale; int P; } SquareError;
static void square_error_back(const void *p) {
    const SquareError *s = p;
    if (wants(s->pred)) square_error_backward(grad_of(s->pred), s->out->grad, s->pred->data, s->target->data, s->weight, s->scale, rows(s->pred), s->pred->C, s->P);
}
static Tensor *square_error(Tensor *pred, Tensor *target, const double *weight, double scale, int P, Tensor **error) {
    if (count(target) != count(pred) || pred->C % P) die("internal error: %zu numbers beside %zu, or %d columns in %d parts", count(pred), count(target), pred->C, P);
    Tensor *out = activation(1, 1, 1, "loss");
    const double *w = to_device(weight, (size_t)rows(pred) * (size_t)P * sizeof(double));
    *error = tensor(pred->B, pred->T, pred->C, CONSTANT, "error");
    square_error_forward(out->data, (*error)->data, pred->data, target->data, w, scale, rows(pred), pred->C, P);
    RECORD(SquareError, square_error_back, out, pred, target, w, scale, P);
    return out;
}

// scale * sum_n weight[n] * -log softmax(logits[n] without entry `excluded`)[target[n]] -> (1,1,1); row_loss (N) keeps the terms of the sum.
// target (N) and weight (N, double) on the device. Backward writes the gradient over the logits, so they must have no other reader.
typedef struct { Tensor *out, *logits; real *lse; const int *target; const double *weight; double scale; int excluded; } CrossEntropy;
static void cross_entropy_back(const void *p) {
    const CrossEntropy *c = p;
    cross_entropy_backward(c->logits->data, c->out->grad, c->lse, c->target, c->weight, c->scale, c->excluded, rows(c->logits), c->logits->C);
    c->logits->grad = c->logits->data;
    tape.spent = true;
}
static Tensor *cross_entropy(Tensor *logits, const int *target, const double *weight, double scale, int excluded, Tensor **row_loss) {
    int N = rows(logits);
    Tensor *out = activation(1, 1, 1, "loss");
    real *lse = arena_take(&per_step, (size_t)N * sizeof(real));
    *row_loss = tensor(1, N, 1, CONSTANT, "row_loss");
    cross_entropy_forward(out->data, (*row_loss)->data, lse, logits->data, target, weight, scale, excluded, N, logits->C);
    RECORD(CrossEntropy, cross_entropy_back, out, logits, lse, target, weight, scale, excluded);
    return out;
}

// ---- 7. checkpoint ------------------------------------------------------------------------------------------------------------
// One safetensors file: <name>, ema.<name>, adam_m.<name>, adam_v.<name> (F32), extra I32 arrays of the program, and in the metadata
// the program's name, every saved option and the step. All randomness, the place in the data included, follows from seed and step, and the
// file says so: there is no state of a generator to keep, and this is all there is to resume.

static const char *const checkpoint_prefix[4] = {"", "ema.", "adam_m.", "adam_v."};
static real *checkpoint_array(const Params *ps, int i) { return (real *[]){ps->data, ps->ema, ps->m, ps->v}[i]; }

// `extra` (n_extra I32 numbers under extra_name) belongs to the program, e.g. its vocabulary; n_extra 0: none
static void checkpoint_save(const char *path, const Params *ps, const Option *options, int step_done,
                            const char *extra_name, const int *extra, size_t n_extra) {
    StWriter w = st_create(path);
    char text[4096];
    snprintf(text, sizeof text, "%d", step_done);
    st_declare_meta(&w, "program", program_name);
    st_declare_meta(&w, "step", text);
    st_declare_meta(&w, "random", "Philox4x32-10 of (seed, purpose, step): the next numbers and the place in the data follow from these");
    for (const Option *o = options; o->name; o++) if (o->saved) { option_format(o, text, sizeof text); st_declare_meta(&w, o->name, text); }
    st_end_meta(&w);
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < ps->n; i++) {
            const Tensor *t = &ps->list[i]->t;
            size_t shape[2] = {(size_t)t->T, (size_t)t->C};
            snprintf(text, sizeof text, "%s%s", checkpoint_prefix[a], t->name);
            st_declare(&w, text, "F32", ps->list[i]->dims, shape + 2 - ps->list[i]->dims);
        }
    if (n_extra) st_declare(&w, extra_name, "I32", 1, &n_extra);
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < ps->n; i++) {
            size_t n = count(&ps->list[i]->t);
            real *values = NEW(real, n);
            float *out = NEW(float, n);
            download(values, checkpoint_array(ps, a) + ps->list[i]->offset, n * sizeof(real));
            for (size_t j = 0; j < n; j++) out[j] = (float)values[j];
            st_write(&w, out, n * sizeof(float));
            free(values), free(out);
        }
    if (n_extra) st_write(&w, extra, n_extra * sizeof(int));
    st_commit(&w);
}

// Reads <prefix><name> of every parameter into `array`. Ends the program if one is missing or has another shape.
static void checkpoint_read(const SafeTensors *st, const char *path, const Params *ps, const char *prefix, real *array) {
    for (int i = 0; i < ps->n; i++) {
        const Tensor *t = &ps->list[i]->t;
        char name[512];
        snprintf(name, sizeof name, "%s%s", prefix, t->name);
        const StTensor *s = st_find(st, name);
        if (!s) die("%s: tensor %s is missing", path, name);
        if (!st_is_real(s) || s->count != count(t) || s->dims < 1 || s->shape[s->dims - 1] != (size_t)t->C)
            die("%s: tensor %s has another shape than (%d,%d) of this configuration", path, name, t->T, t->C);
        if (dry) continue;
        real *values = NEW(real, s->count);
        for (size_t j = 0; j < s->count; j++) values[j] = (real)st_number(s, j);
        upload(array + ps->list[i]->offset, values, s->count * sizeof(real));
        free(values);
    }
}
static void checkpoint_resume(const SafeTensors *st, const char *path, const Params *ps) {
    for (int a = 0; a < 4; a++) checkpoint_read(st, path, ps, checkpoint_prefix[a], checkpoint_array(ps, a));
}

// Takes the saved options from a checkpoint; an option of the command line that says otherwise ends the program, unless its name is in
// `may_change` (as " data seed "). Returns the step.
static int checkpoint_options(const SafeTensors *st, const char *path, Option *options, const char *may_change) {
    const char *program = st_meta(st, "program"), *done = st_meta(st, "step");
    if (!program || !done) die("%s: not a checkpoint of %s", path, program_name);
    if (strcmp(program, program_name)) die("%s: a checkpoint of %s, not of %s", path, program, program_name);
    for (Option *o = options; o->name; o++) {
        if (!o->saved) continue;
        const char *value = st_meta(st, o->name);
        if (!value) die("%s: the checkpoint does not say --%s", path, o->name);
        char now[4096];
        option_format(o, now, sizeof now);
        if (o->given && has_word(may_change, o->name)) continue;
        if (o->given && strcmp(now, value)) die("%s: trained with --%s %s, not %s (leave the option out; may change:%.*s)", path, o->name, value, now, (int)strlen(may_change) - 1, may_change);
        char *copy = strdup(value);                     // options keep pointing at it until the program ends
        if (!copy || !option_set(o, copy)) die("%s: --%s %s is not possible", path, o->name, value);
        if (o->type != TEXT) free(copy);
    }
    char *end;
    long steps_done = strtol(done, &end, 10);
    if (end == done || *end || steps_done < 0 || steps_done > 1000000000) die("%s: step '%s' is not possible", path, done);
    return (int)steps_done;
}

// ---- 8. training --------------------------------------------------------------------------------------------------------------

// Backward and update, for a loss that has just been computed. Returns the loss, and the norm of the gradient; ends the program if either is not finite.
static double optimiser_step(Params *ps, Tensor *loss, AdamW a, double *norm) {
    zero_grad(ps);
    backward(loss, PARAMS);
    *norm = grad_norm(ps);                              // here the host waits for a GPU, once in a step
    real value;
    download(&value, loss->data, sizeof value);
    if (!dry && !(isfinite(value) && isfinite(*norm))) {
        const char *what, *name = first_not_finite(ps, &what);
        die("step %d: loss %g, gradient norm %g: the first tensor that is not finite is the %s %s (try a smaller --lr)",
            a.step, (double)value, *norm, what, name ? name : "?");
    }
    params_update(ps, a);
    return (double)value;
}

// log.csv, to be written from step done + 1 on. Lines of later steps, from a run that was killed after its last checkpoint, are cut off.
static FILE *open_log(const char *path, bool resume, int done) {
    FILE *log = resume ? fopen(path, "r+") : NULL;
    if (log) {
        char line[256];
        long keep = 0;
        while (fgets(line, sizeof line, log) && strchr(line, '\n') && atoi(line) <= done) keep = ftell(log);
        if (ftruncate(fileno(log), keep) || fseek(log, keep, SEEK_SET)) die("cannot write %s: %s", path, strerror(errno));
        if (keep) return log;
    } else if (!(log = fopen(path, "w"))) die("cannot write %s: %s", path, strerror(errno));
    fprintf(log, "step,loss,grad_norm,seconds\n");
    return log;
}

// Makes this the only train of the directory `out`, and refuses to overwrite. False if the directory is not there yet.
static bool claim_out(const char *out, const char *checkpoint, bool resume, bool force) {
    bool mine = lock_directory(out);
    if (exists(checkpoint) && !resume && !force) die("%s is there already: --resume goes on, --force overwrites it, --out names another place", checkpoint);
    return mine;
}

// Steps done+1..steps, or until Ctrl-C, with progress (in `unit`s, per_step of them in a step), log.csv and checkpoints on the way and at the end.
typedef struct Training {
    const char *out, *checkpoint, *unit;                // out: the directory, claimed with claim_out(); claimed: what that returned
    bool claimed, resume, force;
    int done, steps, save_every;
    double per_step;
    double (*step)(int step, double *norm);             // one step; returns the loss, and the norm of the gradient
    void (*save)(int done);                             // writes the checkpoint
    double loss, seconds, rate;                         // out: mean loss of about the last fifty steps; spent; units a second
} Training;

// The log first: whatever happens, it knows every step of the checkpoint. It is the lesser of the two, so its trouble is told second.
static void save_both(const Training *t, int done, FILE *log, const char *log_path) {
    int error = fflush(log) ? errno : 0;
    t->save(done);
    if (error) die("cannot write %s: %s", log_path, strerror(error));
}
static void train_loop(Training *t) {
    Path log_place = path_in(t->out, "log.csv");
    make_directory(t->out);
    if (!t->claimed) claim_out(t->out, t->checkpoint, t->resume, t->force);
    catch_signals();
    FILE *log = open_log(log_place.text, t->resume, t->done);
    double start = seconds(), norm;
    int first = t->done, seen = 0;
    while (t->done < t->steps && !interrupted) {
        double loss = t->step(++t->done, &norm);
        t->loss += (loss - t->loss) / (++seen < 50 ? seen : 50);
        t->seconds = seconds() - start;
        double steps_per_s = (t->done - first) / t->seconds;
        t->rate = steps_per_s * t->per_step;
        fprintf(log, "%d,%.6g,%.6g,%.2f\n", t->done, loss, norm, t->seconds);
        progress(t->done == t->steps || interrupted, "step %6d/%d | loss %.4f | gnorm %6.3f | %7.0f %s/s | %4.0f s left",
                 t->done, t->steps, t->loss, norm, t->rate, t->unit, (t->steps - t->done) / steps_per_s);
        if (t->save_every && t->done % t->save_every == 0 && t->done < t->steps) save_both(t, t->done, log, log_place.text);
    }
    t->seconds = seconds() - start;
    save_both(t, t->done, log, log_place.text);
    fclose(log);
    if (interrupted) printf("interrupted: saved %s (./%s train --resume --out %s goes on)\n", t->checkpoint, program_name, t->out);
}
