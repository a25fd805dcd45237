// test_bd3lm.c: the method's equalities. Compiled twice: in double (gradients, sharp bounds) and in float with the fast kernels (the bits that programs run).
#define TESTING
#include "../bd3lm.c"
#include "check.h"
#include "allocations.h"

// Laws and errors take hundreds of thousands of small passes: too slow where the memory of tensors is opened and closed around every kernel, and the
// code that they run is run there by the other tests and by tests/long.sh.
#ifdef FAKE_DEVICE
static const bool MANY_PASSES = false;
#else
static const bool MANY_PASSES = true;
#endif

static const double TIGHT = REAL_IS_DOUBLE ? 1e-10 : 2e-5;

// A small network with odd sizes and nothing zero: also the gates and the output layer are random.
static NetConfig small(int V, bool adaln) { return (NetConfig){2, 10, 2, 3, V, V - 1, adaln, 6, 3, 100, 1e-5}; }

static void all_random(Net *n, uint64_t seed) {
    real *x = NEW(real, n->ps.size);
    Rng r = rng(seed, RNG_INIT, 999);
    for (size_t i = 0; i < n->ps.size; i++) x[i] = (real)(1.2*uniform(&r) - 0.6);
    upload(n->ps.data, x, n->ps.size * sizeof(real));
    free(x);
}

// Enough memory for any test below: persistent for the network, step for a large pass.
static Net open_net(NetConfig c, int P, int cache_B, int W, uint64_t seed) {
    Net n = {0};
    begin_dry_run();
    n = net_create(c, true, seed, P, cache_B, W);
    net_free(&n);
    arena_take(&per_step, 192 << 20);
    end_dry_run(false);
    n = net_create(c, true, seed, P, cache_B, W);
    all_random(&n, seed);
    return n;
}

static real *to_host(const real *device, size_t n) { real *x = NEW(real, n); download(x, device, n * sizeof(real)); return x; }

// the logits (N,V) of a sampler's pass
static void cached_logits(real *logits, Sampler *s, int start, int n, const int *row, int N) {
    download(logits, forward_cached(s, start, n, row, N), (size_t)N * (size_t)s->net->c.V * sizeof(real));
}

// ---- gradient of the whole loss against central differences ---------------------------------------------------------------------
static Loss whole_loss(Net *n, int kind, const int *x, const int *x_tau, const double *w, const int *counted) {
    begin_step();
    n->drop = (Dropout){kind == 2 ? 0.3 : 0, 5, 6};
    return kind == 3 ? ar_loss(n, x, counted, 2, 6) : bd3_loss(n, x, x_tau, w, counted, 2, 6, kind == 1 ? 6 : 2, true);
}
static void test_gradients(void) {
    for (int kind = 0; kind < 4; kind++) {               // doubled, one block, doubled with dropout, AR
        Net n = open_net(small(7, kind != 3), 6, 0, 0, 3);
        int x[12] = {5, 1, 2, 3, 4, 0, 5, 0, 0, 1, 3, 2}, x_tau[12] = {5, 6, 2, 6, 6, 0, 5, 6, 6, 1, 6, 2}, counted[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0};
        double w[6] = {1.3, 2.5, 1.1, 4, 1.7, 2.2};
        zero_grad(&n.ps);
        backward(whole_loss(&n, kind, x, x_tau, w, counted).loss, PARAMS);
        tape.off = true;
        for (int i = 0; i < n.ps.n; i++) {
            Tensor *t = &n.ps.list[i]->t;
            real *g = to_host(t->grad, count(t)), *p = to_host(t->data, count(t));
            double worst = 0, largest = 0;
            for (size_t j = 0; j < count(t); j++) {
                real old = p[j], f[2];
                for (int s = 0; s < 2; s++) {
                    p[j] = old + (real)(s ? -1e-5 : 1e-5);
                    upload(t->data, p, count(t) * sizeof(real));
                    download(&f[s], whole_loss(&n, kind, x, x_tau, w, counted).loss->data, sizeof(real));
                }
                p[j] = old;
                upload(t->data, p, count(t) * sizeof(real));
                double diff = fabs((double)(f[0] - f[1]) / 2e-5 - (double)g[j]);
                worst = diff <= worst ? worst : diff;
                largest = fmax(largest, fabs((double)g[j]));
            }
            CHECK(largest > 0 && worst / largest <= 1e-7, "kind %d, d %s: %g of %g", kind, t->name, worst, largest);
            free(g), free(p);
        }
        tape.off = false;
        net_free(&n);
    }
}

// ---- doubled pass == two passes ---------------------------------------------------------------------------------------------------
// Reference for one block: [clean blocks before it | noisy block] as a sequence of its own. Its rows see what the paper's two passes show them.
static Input one_block_view(const int *x, const int *x_tau, int block, int b) {
    int S = (b + 1) * block, *id = HOST(int, S), *position = HOST(int, S);
    Span *span = HOST(Span, S);
    for (int i = 0; i < S; i++) {
        id[i] = i < b*block ? x[i] : x_tau[i];
        position[i] = i;
        span[i] = (Span){.lo = {0}, .hi = {(i / block + 1) * block}};
    }
    return (Input){1, S, -1, id, position, span};
}

// the parameters' gradients against g
static void close_gradients(const char *what, const Net *n, const real *g, int block) {
    real *h = to_host(n->ps.grad, n->ps.size);
    double largest = 0, worst = 0;
    for (size_t i = 0; i < n->ps.size; i++) {
        double diff = fabs((double)(g[i] - h[i]));
        largest = fmax(largest, fabs((double)g[i]));
        worst = diff <= worst ? worst : diff;
    }
    CHECK(largest > 0 && worst <= largest * (REAL_IS_DOUBLE ? 1e-11 : 1e-4), "gradients, %s, block %d: %g of %g", what, block, worst, largest);
    free(h);
}

static void test_two_passes(void) {
    enum { T = 12 };
    NetConfig c = small(9, true);
    int x[T] = {7, 1, 2, 3, 4, 0, 5, 6, 0, 1, 3, 2}, x_tau[T] = {7, 8, 2, 8, 4, 8, 8, 8, 0, 1, 8, 2}, counted[T], sizes[] = {1, 2, 3, 4, 6};
    for (int t = 0; t < T; t++) counted[t] = 1;
    for (int s = 0; s < 5; s++) {
        int block = sizes[s], V = c.V;
        Net n = open_net(c, T, 1, T, 4);
        double w[T];
        for (int b = 0; b < T / block; b++) w[b] = 1 + 0.3*b;

        begin_step();
        zero_grad(&n.ps);
        Loss loss = bd3_loss(&n, x, x_tau, w, counted, 1, T, block, true);
        real whole;
        download(&whole, loss.loss->data, sizeof whole);
        real *doubled = to_host(loss.logits->data, (size_t)T * (size_t)V);
        backward(loss.loss, PARAMS);
        real *g = to_host(n.ps.grad, n.ps.size);

        // training sends only the masked rows through the output layer: the same loss, the same gradients
        begin_step();
        zero_grad(&n.ps);
        Loss masked = bd3_loss(&n, x, x_tau, w, counted, 1, T, block, false);
        real part;
        download(&part, masked.loss->data, sizeof part);
        CHECK_CLOSE("masked rows alone: loss", part, whole, TIGHT);
        CHECK(rows(masked.logits) < T, "%d rows", rows(masked.logits));
        backward(masked.loss, PARAMS);
        close_gradients("masked rows alone", &n, g, block);

        // gradients: the blocks one by one, each its own sequence
        zero_grad(&n.ps);
        for (int b = 0; b < T / block; b++) {
            begin_step();
            int row[T], target[T];
            double weight[T];
            for (int t = 0; t < block; t++) row[t] = b*block + t, target[t] = x[b*block + t], weight[t] = x_tau[b*block + t] == c.mask ? w[b] : 0;
            Tensor *row_loss, *logits = forward(&n, one_block_view(x, x_tau, block, b), row, block);
            real *got = to_host(logits->data, (size_t)block * (size_t)V);
            for (int i = 0; i < block * V; i++) CHECK_CLOSE("logits, block by block", got[i], doubled[b*block*V + i], TIGHT);
            free(got);
            backward(cross_entropy(logits, to_device(target, (size_t)block * sizeof(int)), to_device(weight, (size_t)block * sizeof(double)), 1.0/T, c.mask, &row_loss), PARAMS);
        }
        close_gradients("block by block", &n, g, block);

        // values: literally two passes. Pass 1, clean: keys and values of every block; pass 2: each noisy block against them
        tape.off = true;
        for (int b = 0; b < T / block; b++) {
            for (int clean = 0; clean < 2; clean++) {
                begin_step();
                int row[T], position[T];
                Span span[T];
                for (int t = 0; t < block; t++) row[t] = t, position[t] = b*block + t, span[t] = (Span){.lo = {0}, .hi = {(b + 1) * block}};
                Tensor *logits = forward(&n, (Input){1, block, b*block, (clean ? x : x_tau) + b*block, position, span}, clean ? NULL : row, block);
                if (clean) continue;
                real *got = to_host(logits->data, (size_t)block * (size_t)V);
                for (int i = 0; i < block * V; i++) CHECK_CLOSE("logits, two passes", got[i], doubled[b*block*V + i], TIGHT);
                free(got);
            }
        }
        tape.off = false;
        free(doubled), free(g);
        net_free(&n);
    }
}

// ---- who influences whom, to the bit ----------------------------------------------------------------------------------------------
static void test_influence(void) {
    enum { T = 12, BLOCK = 3 };
    NetConfig c = small(9, true);
    Net n = open_net(c, T, 0, 0, 5);
    int x[T] = {7, 1, 2, 3, 4, 0, 5, 6, 0, 1, 3, 2}, x_tau[T] = {7, 8, 2, 8, 4, 8, 8, 8, 0, 1, 8, 2}, counted[T];
    double w[T / BLOCK] = {1, 1, 1, 1};
    for (int t = 0; t < T; t++) counted[t] = 1;
    tape.off = true;
    begin_step();
    real *base = to_host(bd3_loss(&n, x, x_tau, w, counted, 1, T, BLOCK, true).logits->data, (size_t)T * (size_t)c.V);
    for (int t = 0; t < T; t++)
        for (int half = 0; half < 2; half++) {           // change one clean, then one noisy token
            int *y = half ? x_tau : x, old = y[t];
            y[t] = (old + 1) % 8;
            begin_step();
            real *got = to_host(bd3_loss(&n, x, x_tau, w, counted, 1, T, BLOCK, true).logits->data, (size_t)T * (size_t)c.V);
            y[t] = old;
            for (int b = 0; b < T / BLOCK; b++) {
                size_t from = (size_t)(b * BLOCK * c.V);
                bool same = !memcmp(got + from, base + from, (size_t)(BLOCK * c.V) * sizeof(real)), sees = half ? b == t / BLOCK : b > t / BLOCK;
                CHECK(same != sees, "%s token %d, noisy block %d: %s", half ? "noisy" : "clean", t, b, same ? "unchanged" : "changed");
            }
            free(got);
        }
    free(base);
    tape.off = false;
    net_free(&n);
}

// ---- block 1, everything masked == the model's own sequential likelihood ------------------------------------------------------------
static void test_block_one(void) {
    enum { T = 9 };
    Net n = open_net(small(9, true), T, 1, T, 6);
    int x[T] = {7, 1, 2, 3, 4, 0, 5, 6, 0}, x_tau[T], counted[T];
    double u[T], tau[T], w[T], sum = 0, log_p[9];
    real logits[9];
    for (int t = 0; t < T; t++) u[t] = 0.999 * t / T, counted[t] = t > 0;
    draw_levels(tau, u, 1, T, 1, 1, true);
    corrupt(x_tau, x, tau, u, n.c.mask, 1, T, 1, true);
    for (int t = 0; t < T; t++) { w[t] = nelbo_weight(tau[t]); CHECK(x_tau[t] == (t ? n.c.mask : x[t]) && w[t] == 1, "position %d", t); }
    tape.off = true;
    begin_step();
    real loss;
    download(&loss, bd3_loss(&n, x, x_tau, w, counted, 1, T, 1, true).loss->data, sizeof loss);

    int state[T];                                        // the sampler's own pass: MASK at t, clean tokens in the cache
    Sampler s = {.net = &n, .B = 1, .L = T, .block = 1, .x = state};
    for (int t = 0; t < T; t++) {
        memcpy(state, x, sizeof state);
        state[t] = n.c.mask;
        if (t) { cached_logits(logits, &s, t, 1, (int[]){0}, 1); subs_log_probs(log_p, logits, n.c.V, n.c.mask, n.c.mask); sum -= log_p[x[t]]; }
        state[t] = x[t];
        forward_cached(&s, t, 1, NULL, 0);
    }
    CHECK_CLOSE("block 1 = sequential likelihood", loss, sum / (T - 1), TIGHT);
    tape.off = false;
    net_free(&n);
}

// ---- sampling with a cache == without one ---------------------------------------------------------------------------------------------
// Two sequences side by side, two layers: every row of every block, by the function that sampling uses, against one pass over all ids.
static void test_cache(void) {
    enum { B = 2, T = 12 };
    NetConfig c = small(9, true);
    int x[B*T] = {7, 1, 2, 3, 4, 0, 5, 6, 0, 1, 3, 2, 7, 0, 0, 4, 1, 3, 6, 2, 2, 5, 1, 6}, x_tau[B*T] = {7, 8, 2, 8, 4, 8, 8, 8, 0, 1, 8, 2, 7, 0, 8, 8, 1, 8, 6, 8, 8, 8, 1, 6};
    int now[B*T], row[B*T];
    tape.off = true;
    for (int block = 1; block <= T; block++) {
        if (T % block) continue;
        Net n = open_net(c, T, B, T, 4);
        Sampler s = {.net = &n, .B = B, .L = T, .block = block, .x = now};
        for (int i = 0; i < B * block; i++) row[i] = i;
        memcpy(now, x, sizeof now);
        for (int at = 0; at < T; at += block) {
            size_t size = (size_t)(block * c.V);
            for (int b = 0; b < B; b++) memcpy(now + b*T + at, x_tau + b*T + at, (size_t)block * sizeof(int));
            real *cached = NEW(real, B * size);
            cached_logits(cached, &s, at, block, row, B * block);
            for (int b = 0; b < B; b++) {
                int last[T];
                for (int t = 0; t < block; t++) last[t] = at + t;
                begin_step();
                real *whole = to_host(forward(&n, one_block_view(x + b*T, x_tau + b*T, block, at / block), last, block)->data, size);
                for (size_t i = 0; i < size; i++) CHECK_CLOSE("cached and uncached", cached[(size_t)b*size + i], whole[i], TIGHT);
                free(whole);
            }
            free(cached);
            for (int b = 0; b < B; b++) memcpy(now + b*T + at, x + b*T + at, (size_t)block * sizeof(int));
            forward_cached(&s, at, block, NULL, 0);
        }
        net_free(&n);
    }
    tape.off = false;
}

// ---- a cache that is full: one layer against the last W tokens alone --------------------------------------------------------------
// Keys are rotated at absolute positions and the oldest block is overwritten. As rotary attention sees differences of positions only, and keys of
// a single layer depend on their own token alone, this must equal a fresh pass over the last W tokens at positions 0..W-1.
static void test_ring(void) {
    enum { T = 14, W = 6, BLOCK = 2 };
    NetConfig c = small(9, true);
    c.NL = 1;
    Net n = open_net(c, T, 1, W, 9);
    int x[T] = {7, 1, 2, 3, 4, 0, 5, 6, 0, 1, 3, 2, 7, 4}, position[W];
    Span span[W];
    Sampler s = {.net = &n, .B = 1, .L = T, .block = BLOCK, .x = x};
    tape.off = true;
    for (int at = 0; at < T; at += BLOCK)
        for (int i = 0, first = at + BLOCK - W; i < BLOCK; i++) {          // row i of this block, by the function that sampling uses
            real ring[16];
            cached_logits(ring, &s, at, BLOCK, &i, 1);
            if (first < 0) continue;
            for (int t = 0; t < W; t++) position[t] = t, span[t] = (Span){.lo = {0}, .hi = {(t / BLOCK + 1) * BLOCK}};
            begin_step();
            real *fresh = to_host(forward(&n, (Input){1, W, -1, x + first, position, span}, (int[]){W - BLOCK + i}, 1)->data, (size_t)c.V);
            for (int v = 0; v < c.V; v++) CHECK_CLOSE("ring", ring[v], fresh[v], TIGHT);
            free(fresh);
        }
    tape.off = false;
    net_free(&n);
}

// ---- toy world by enumeration: V = 3 (two symbols and MASK), T = 4 -------------------------------------------------------------------
enum { TT = 4 };
// -log p(x_i) at the masked rows of block b when the rows of `masked` (bits) are MASK
static void toy_nll(Net *n, const int *x, int block, int b, int masked, double *nll) {
    int x_tau[16], row[16], V = n->c.V;
    for (int t = 0; t < (b + 1) * block; t++) x_tau[t] = masked >> t & 1 ? n->c.mask : x[t];
    for (int t = 0; t < block; t++) row[t] = b*block + t;
    begin_step();
    real *logits = to_host(forward(n, one_block_view(x, x_tau, block, b), row, block)->data, (size_t)(block * V));
    for (int t = 0; t < block; t++) {
        double log_p[16];
        subs_log_probs(log_p, logits + V*t, V, n->c.mask, x_tau[b*block + t]);
        nll[t] = -log_p[x[b*block + t]];
    }
    free(logits);
}

// NELBO of x (T) by enumeration. A set of k of the n tokens of a block that may be masked has the weight integral of tau^(k-1) (1-tau)^(n-k) =
// (k-1)! (n-k)! / n!. keep_bos: position 0 never is masked; positions from `end` on always are, and do not count. *log_p (keep_bos false):
// log-probability under the law of the sampler, p(set) = mean over the next position i of p(x_i | rest) p(set without i).
static double toy_bound(Net *net, const int *x, int T, int block, bool keep_bos, int end, double *log_p) {
    double bound = 0;
    *log_p = 0;
    for (int b = 0; b < T / block; b++) {
        double p[16] = {1};
        int beyond = 0, may = 0;
        for (int t = 0; t < block; t++) {
            if (b*block + t >= end) beyond |= 1 << t;
            else if (!keep_bos || b || t) may |= 1 << t;
        }
        int n = __builtin_popcount((unsigned)may);
        for (int set = 1; set < 1 << block; set++) {
            double nll[16];
            int k = __builtin_popcount((unsigned)set);
            if (set & ~may) continue;
            toy_nll(net, x, block, b, (set | beyond) << b*block, nll);
            for (int i = 0; i < block; i++) {
                if (!(set >> i & 1)) continue;
                bound += nll[i] * tgamma(k) * tgamma(n - k + 1) / tgamma(n + 1);
                p[set] += exp(-nll[i]) * p[set & ~(1 << i)] / k;
            }
        }
        *log_p += log(p[may]);
    }
    return bound;
}

// which position of a block is uncovered first
static int first_pick[TT];
static void note_first(const Sampler *s, int known, int end) {
    if (s->nfe / s->B % (end - known) == 1) for (int b = 0; b < s->B; b++) first_pick[s->row[b] % s->block]++;
}

// ancestral sampling: a token that is uncovered stays what it is
static void only_uncovers(const Sampler *s, int known, int end) {
    static int before[8 * TT], start = -1;
    for (int i = 0; i < s->B * TT; i++) {
        if (i % TT < known || i % TT >= end) continue;
        bool kept = start != known || before[i] == s->net->c.mask || before[i] == s->x[i];
        if (!kept) CHECK(kept, "token %d of text %d changed from %d to %d", i % TT, i / TT, before[i], s->x[i]);
    }
    memcpy(before, s->x, (size_t)(s->B * TT) * sizeof(int));
    start = known;
    for (int b = 0; b < s->B; b++) for (int t = known; t < end; t++) if (s->x[b*TT + t] == s->net->c.mask) return;
    start = -1;                                          // the block is done
}

// How often each of the 16 texts is written in `rounds` batches of N; the sampler as the last round left it
static Sampler toy_counts(Net *n, int block, int steps, int N, int rounds, int counts[16], void (*watch)(const Sampler *, int, int)) {
    int *x = NEW(int, N * TT), *row = NEW(int, N * block);
    Sampler s = {0};
    memset(counts, 0, 16 * sizeof *counts);
    for (int round = 0; round < rounds; round++) {
        s = (Sampler){.net = n, .B = N, .L = TT, .block = block, .x = x, .row = row, .steps = steps, .top = 1, .rng = rng(1, RNG_SAMPLE, (uint64_t)(round + 10*block + 100*steps)), .watch = watch};
        for (int i = 0; i < N * TT; i++) x[i] = n->c.mask;
        for (int at = 0; at < TT; at += block) sample_block(&s, at);
        for (int i = 0; i < N; i++) counts[x[4*i] + 2*x[4*i + 1] + 4*x[4*i + 2] + 8*x[4*i + 3]]++;
    }
    free(x), free(row);
    return s;
}

// Pearson's statistic of counts against a law, and of two samples of the same size against each other
static double fit(const int counts[16], const double p[16]) {
    double total = 0, x = 0;
    for (int i = 0; i < 16; i++) total += counts[i];
    for (int i = 0; i < 16; i++) x += pow(counts[i] - total * p[i], 2) / (total * p[i]);
    return x;
}
static double two_samples(const int a[16], const int b[16]) {
    double x = 0;
    for (int i = 0; i < 16; i++) x += pow(a[i] - b[i], 2) / fmax(1, a[i] + b[i]);
    return x;
}
// the chance that a chi-square variable of `dof` degrees of freedom exceeds x: 1 - the series of the incomplete gamma function
static double chi_square_p(double x, int dof) {
    double a = dof / 2.0, term = exp(a * log(x / 2) - x / 2 - lgamma(a + 1)), sum = 0;
    for (int n = 1; n < 2000; n++) sum += term, term *= x / 2 / (a + n);
    return 1 - sum;
}

// temperature 1 / by
static void scale_output(Net *n, double by) {
    Tensor *list[] = {n->linear, n->linear_bias};
    for (int i = 0; i < 2; i++) {
        real *x = to_host(list[i]->data, count(list[i]));
        for (size_t j = 0; j < count(list[i]); j++) x[j] *= (real)by;
        upload(list[i]->data, x, count(list[i]) * sizeof(real));
        free(x);
    }
}

// larger weights: what is uncovered, and in which order, must matter
static void sharpen(Net *n) {
    real *x = to_host(n->ps.data, n->ps.size);
    for (size_t i = 0; i < n->ps.size; i++) x[i] *= 3;
    upload(n->ps.data, x, n->ps.size * sizeof(real));
    free(x);
}

static void test_toy(void) {
    Net n = open_net(small(3, true), TT, 2000, TT, 8);
    sharpen(&n);
    tape.off = true;
    for (int block = 1; block <= TT; block *= 2) {
        double total = 0, p_of[16], gap = 0;
        for (int code = 0; code < 16; code++) {
            int x[TT];
            double log_p, bound;
            for (int t = 0; t < TT; t++) x[t] = code >> t & 1;
            bound = toy_bound(&n, x, TT, block, false, TT, &log_p);
            CHECK(bound >= -log_p - 1e-6, "block %d, x %d: bound %g below %g", block, code, bound, -log_p);
            if (block == 1) CHECK_CLOSE("bound = likelihood at block 1", bound, -log_p, 1e-6);
            gap += bound + log_p;
            total += p_of[code] = exp(log_p);
        }
        CHECK_CLOSE("sum of p(x)", total, 1, 1e-5);
        CHECK(block == 1 || gap > 1e-4, "block %d: no gap, the test proves nothing", block);

        // the Monte-Carlo estimate of training and evaluation: copies of one sequence, BOS kept, levels from [0.001, 1]
        enum { COPIES = 2000, DRAWS = 20 };
        int *many = NEW(int, COPIES * TT), *counted = NEW(int, COPIES * TT);
        double unused, sum = 0, sum2 = 0;
        for (int i = 0; i < COPIES * TT; i++) many[i] = (i % TT) % 2, counted[i] = 1;
        for (int d = 0; d < DRAWS; d++) {
            real estimate;
            begin_step();
            download(&estimate, draw_loss(&n, many, counted, COPIES, TT, block, RNG_EVAL, (uint64_t)d, 1e-3, 1).loss->data, sizeof estimate);
            sum += (double)estimate / DRAWS, sum2 += (double)estimate * (double)estimate / DRAWS;
        }
        double exact = toy_bound(&n, many, TT, block, true, TT, &unused) / TT, error = sqrt((sum2 - sum*sum) / (DRAWS - 1));
        CHECK_CLOSE("Monte-Carlo bound", sum, exact, 5*error + 1e-3*exact);
        CHECK(5*error < 0.1 * exact, "block %d: too rough to prove anything: %g of %g", block, error, exact);
        free(many), free(counted);

        // the sampler draws from that law: counts within five standard deviations
        enum { N = 2000, ROUNDS = 5 };
        int counts[16];
        memset(first_pick, 0, sizeof first_pick);
        Sampler s = toy_counts(&n, block, 0, N, ROUNDS, counts, note_first);
        CHECK(s.nfe == (long)TT * N && s.forwards == TT + TT/block - 1, "nfe %ld forwards %ld", s.nfe, s.forwards);
        for (int code = 0; code < 16; code++)
            CHECK_CLOSE("share of a sample", counts[code] / (double)(N * ROUNDS), p_of[code], 5 * sqrt(p_of[code] / (N * ROUNDS)));
        for (int t = 0, n = N * ROUNDS * (TT / block); t < block && block > 1; t++)
            CHECK_CLOSE("share of a position to be uncovered first", first_pick[t] / (double)n, 1.0 / block, 5 * sqrt(1.0 / block / n));
    }
    tape.off = false;
    net_free(&n);
}

// ---- the law of the samplers, by chi-square ---------------------------------------------------------------------------------------------
// A toy world of two blocks of two, chosen so that every text is likely enough to be counted, and order and temperature matter. 10,000 texts.
static void test_law(void) {
    enum { BLOCK = 2, N = 5, ROUNDS = 2000, STEPS = 256 };
    CHECK_CLOSE("chi-square, 15 degrees", chi_square_p(30.57791, 15), 0.01, 1e-6);
    CHECK_CLOSE("chi-square, 2 degrees", chi_square_p(3, 2), exp(-1.5), 1e-12);
    Net n = open_net(small(3, true), TT, N, TT, 32);
    double p[16];
    int first[16], many[16], other[16];
    tape.off = true;
    scale_output(&n, 4);
    for (int code = 0; code < 16; code++) {
        int x[TT];
        for (int t = 0; t < TT; t++) x[t] = code >> t & 1;
        toy_bound(&n, x, TT, BLOCK, false, TT, &p[code]);
        p[code] = exp(p[code]);
        CHECK(p[code] * N * ROUNDS > 50, "text %d is too rare to be counted: %g", code, p[code]);
    }
    toy_counts(&n, BLOCK, 0, N, ROUNDS, first, NULL);
    toy_counts(&n, BLOCK, STEPS, N, ROUNDS, many, only_uncovers);
    CHECK(chi_square_p(fit(first, p), 15) > 0.01, "first-hitting: %g", fit(first, p));
    CHECK(chi_square_p(fit(many, p), 15) > 0.01, "ancestral: %g", fit(many, p));
    CHECK(chi_square_p(two_samples(first, many), 15) > 0.01, "first-hitting and ancestral: %g", two_samples(first, many));
    // the same tests see that a single step draws the tokens of a block independently of each other, and a sampler at temperature 0.9
    toy_counts(&n, BLOCK, 1, N, ROUNDS, other, NULL);
    CHECK(chi_square_p(fit(other, p), 15) < 0.01, "one step passes for many: %g", fit(other, p));
    CHECK(chi_square_p(two_samples(first, other), 15) < 0.01, "one step passes for first-hitting: %g", two_samples(first, other));
    scale_output(&n, 1 / 0.9);
    for (int steps = 0; steps <= STEPS; steps += STEPS) {
        toy_counts(&n, BLOCK, steps, N, ROUNDS, other, NULL);
        CHECK(chi_square_p(fit(other, p), 15) < 0.01, "%d steps: temperature 0.9 passes for 1: %g", steps, fit(other, p));
        CHECK(chi_square_p(two_samples(first, other), 15) < 0.01, "%d steps: temperature 0.9 passes for first-hitting: %g", steps, two_samples(first, other));
    }
    tape.off = false;
    net_free(&n);
}

// ---- three estimates of one bound --------------------------------------------------------------------------------------------------------
// A text that fills one block of eight must meet all levels, not those of the first stratum: its only token is masked in half of the draws.
static void test_short_text(void) {
    enum { T = 16, DRAWS = 400 };
    Net n = open_net(small(5, true), T, 0, 0, 11);
    int x[T] = {0}, counted[T] = {0, 1}, masked = 0;
    tape.off = true;
    for (int d = 0; d < DRAWS; d++) {
        real loss;
        begin_step();
        download(&loss, estimate(&n, x, counted, 1, T, 2, LEVELS, 1, (uint64_t)d).loss->data, sizeof loss);
        masked += loss > 0;
    }
    CHECK(abs(masked - DRAWS / 2) <= 5 * sqrt(DRAWS) / 2, "masked in %d of %d draws", masked, DRAWS);
    tape.off = false;
    net_free(&n);
}

// A text of two windows and a bit, in batches of two: the exact estimator equals enumeration; the others find it within five standard errors over
// many runs, and the error that they report is that of their runs.
static void test_estimators(void) {
    enum { RUNS = 800, DRAWS = 2 };
    const int cases[][3] = {{3, 4, 2}, {3, 4, 4}, {7, 6, 1}, {7, 6, 3}, {9, 8, 4}};         // V, T, block; the last window ends inside a block
    int seed = opt.seed;
    for (int i = 0; i < 5; i++) {
        int V = cases[i][0], T = cases[i][1], block = cases[i][2], id[32], length[16], size = 2*(T - 1) + 1 + T/4;
        Net n = open_net(small(V, true), T, 0, 0, 11);
        Corpus c = {.vocab = {.bos = V - 2, .mask = V - 1, .length = length}, .id = {[TEST] = id}, .n = {[TEST] = (size_t)size}};
        Rng r = rng(3, RNG_DATA, (uint64_t)i);
        sharpen(&n);
        for (int v = 0; v < V; v++) length[v] = 2;
        for (int t = 0; t < size; t++) id[t] = below(&r, V - 1);
        double exact = 0, unused, spread[ESTIMATORS] = {0};
        tape.off = true;
        for (int at = 0; at < size; at += T - 1) {
            int x[16], counted[16];
            window(&c, TEST, (size_t)at, T, x, counted);
            exact += toy_bound(&n, x, T, block, true, size - at < T - 1 ? 1 + size - at : T, &unused) / size;
        }
        for (Estimator e = LEVELS; e < ESTIMATORS; e++) {
            int x[2][16], counted[16];                   // what stands beyond the end of the text must not matter, to the bit
            real loss[2];
            for (int other = 0; other < 2; other++) {
                window(&c, TEST, (size_t)(2*(T - 1)), T, x[other], counted);
                counted[0] = 0;
                for (int t = 1; t < T; t++) if (!counted[t]) x[other][t] = other;
                begin_step();
                download(&loss[other], estimate(&n, x[other], counted, 1, T, block, e, 1, 5).loss->data, sizeof *loss);
            }
            CHECK(loss[0] == loss[1] && memcmp(x[0], x[1], (size_t)T * sizeof(int)), "%s: %g and %g", estimator_name[e], (double)loss[0], (double)loss[1]);
            double mean = 0, runs2 = 0, errors2 = 0;
            for (int run = 0; run < RUNS; run++) {
                opt.seed = 1000*i + run;
                Result got = evaluate(&n, &c, TEST, 2, T, block, false, e, DRAWS, false);
                CHECK(got.tokens == size && fabs(got.bits_per_char * 2 * log(2) - got.nats) <= 1e-9, "%ld tokens, %g bits", got.tokens, got.bits_per_char);
                if (e == EXACT || block == 1) {
                    CHECK_CLOSE("exact estimator and enumeration", got.nats, exact, REAL_IS_DOUBLE ? 1e-10 : 1e-5);
                    CHECK(got.draw_error == 0, "%g", got.draw_error);
                    break;
                }
                mean += got.nats / RUNS, runs2 += pow(got.nats - exact, 2) / RUNS, errors2 += pow(got.draw_error, 2) / RUNS;
            }
            if (e == EXACT || block == 1) continue;
            // [0.001, 1] instead of [0, 1] moves the mean of `levels` by less than a thousandth
            CHECK_CLOSE(estimator_name[e], mean, exact, 5 * sqrt(errors2 / RUNS) + (e == LEVELS ? 1e-3 * exact : 0));
            CHECK(5 * sqrt(errors2 / RUNS) < (e == LEVELS ? 0.15 : 0.05) * exact, "too rough to prove anything: %g of %g", sqrt(errors2 / RUNS), exact);
            CHECK_CLOSE("reported error over that of the runs", sqrt(errors2 / runs2), 1, 0.2);
            spread[e] = sqrt(errors2);
        }
        CHECK(block == 1 || (spread[MASKS] > 0 && spread[MASKS] < spread[LEVELS]), "block %d: error %g of masks, %g of levels", block, spread[MASKS], spread[LEVELS]);
        tape.off = false;
        net_free(&n);
    }

    // the error over texts: random texts, each evaluated exactly, against the mean over all of them
    enum { WINDOWS = 24 };
    Net n = open_net(small(3, true), TT, 0, 0, 11);
    int id[WINDOWS * (TT - 1)], length[3] = {1, 1, 1};
    Corpus c = {.vocab = {.bos = 0, .mask = 2, .length = length}, .id = {[TEST] = id}, .n = {[TEST] = WINDOWS * (TT - 1)}};
    double all = 0, unused, mean = 0, runs2 = 0, errors2 = 0;
    tape.off = true;
    for (int code = 0; code < 8; code++) all += toy_bound(&n, (int[TT]){0, code & 1, code >> 1 & 1, code >> 2}, TT, 2, true, TT, &unused) / (TT - 1) / 8;
    for (int run = 0; run < RUNS; run++) {
        Rng r = rng(4, RNG_DATA, (uint64_t)run);
        for (int t = 0; t < WINDOWS * (TT - 1); t++) id[t] = below(&r, 2);
        Result got = evaluate(&n, &c, TEST, 1, TT, 2, false, EXACT, 1, false);
        mean += got.nats / RUNS, runs2 += pow(got.nats - all, 2) / RUNS, errors2 += pow(got.error, 2) / RUNS;
    }
    CHECK_CLOSE("mean over texts", mean, all, 5 * sqrt(errors2 / RUNS));
    CHECK_CLOSE("reported error over texts", sqrt(errors2 / runs2), 1, 0.2);
    c.n[TEST] = TT - 1;
    Result one = evaluate(&n, &c, TEST, 1, TT, 2, false, MASKS, 1, false);
    CHECK(isnan(one.error) && isnan(one.draw_error), "one window and one draw say nothing about their error: %g %g", one.error, one.draw_error);
    tape.off = false;
    net_free(&n);
    opt.seed = seed;
}

// ---- what sampling costs --------------------------------------------------------------------------------------------------------------
// With T steps, each of the L' tokens of a block is uncovered in a step of its own, uniform and independent of the others. So the evaluations that
// change a text are the occupied ones of T bins after L' throws: T (1 - (1 - 1/T)^L') in the mean (Zheng et al. 2024).
static void test_nfe(void) {
    enum { L = 8, B = 4, ROUNDS = 1000 };
    const int cases[][2] = {{2, 3}, {4, 1}, {4, 4}, {4, 16}, {8, 8}};          // block, T
    Net n = open_net(small(3, true), L, B, L, 8);
    int x[B * L], row[B * L];
    tape.off = true;
    for (int c = 0; c < 5; c++) {
        int block = cases[c][0], T = cases[c][1], blocks = L / block, masks = 0;
        long nfe = 0, most = 0;
        for (int round = 0; round < ROUNDS; round++) {
            Sampler s = {.net = &n, .B = B, .L = L, .block = block, .steps = T, .x = x, .row = row, .top = 1, .rng = rng(2, RNG_SAMPLE, (uint64_t)(ROUNDS*c + round))};
            for (int i = 0; i < B * L; i++) x[i] = n.c.mask;
            for (int at = 0; at < L; at += block) sample_block(&s, at);
            for (int i = 0; i < B * L; i++) masks += x[i] == n.c.mask;
            nfe += s.nfe;
            most = s.forwards > most ? s.forwards : most;
        }
        double empty = pow(1 - 1.0 / T, block), both = pow(1 - 2.0 / T, block), mean = T * (1 - empty), variance = T * (T - 1.0) * both + T * empty - T * empty * T * empty;
        double N = (double)B * ROUNDS * blocks;
        CHECK_CLOSE("evaluations of a block", (double)nfe / N, mean, 5 * sqrt(fmax(0, variance) / N) + 1e-9);
        CHECK(masks == 0 && most <= (T + 1) * blocks - 1, "block %d, T %d: %d masks left, %ld forwards", block, T, masks, most);
    }
    net_free(&n);

    // one text: nothing runs twice, and only the storing passes come on top
    n = open_net(small(3, true), L, 1, L, 8);
    for (int i = 0; i < 50; i++) {
        int text[L], rows[L];
        Sampler s = {.net = &n, .B = 1, .L = L, .block = 4, .steps = 1 + i, .x = text, .row = rows, .top = 1, .rng = rng(3, RNG_SAMPLE, (uint64_t)i)};
        for (int t = 0; t < L; t++) text[t] = n.c.mask;
        for (int at = 0; at < L; at += 4) sample_block(&s, at);
        CHECK(s.forwards == s.nfe + L / 4 - 1 && s.nfe >= L / 4 && s.nfe <= L, "%d steps: nfe %ld, forwards %ld", s.steps, s.nfe, s.forwards);
    }
    tape.off = false;
    net_free(&n);
}

// Once the window is full, every block costs the same, however long the text: counted in query-key pairs.
static void test_flat(void) {
    enum { B = 3, W = 6, L = 60 };
    for (int block = 1; block <= 3; block++) {
        bool ar = block == 1;
        Net n = open_net(small(9, !ar), L, B, W, 9);
        int x[B * L], row[B * 3], known = ar ? 1 : 0;
        tape.off = true;
        for (int i = 0; i < B * L; i++) x[i] = ar && i % L == 0 ? 7 : n.c.mask;
        Sampler s = {.net = &n, .B = B, .L = L, .block = block, .x = x, .row = row, .top = 0.9, .rng = rng(4, RNG_SAMPLE, 0)};
        for (int at = known; at + block < L; at += block) {          // the last block is not stored
            long before = s.pairs;
            if (ar) sample_next(&s, at); else sample_block(&s, at);
            int window = at + block - known < W ? at + block - known : W;      // one query row a token for AR; else `block` rows in block + 1 passes
            CHECK(s.pairs - before == (long)B * window * (ar ? 1 : block * (block + 1)), "block %d at %d: %ld pairs", block, at, s.pairs - before);
        }
        CHECK(s.pairs > 0, "%ld", s.pairs);
        tape.off = false;
        net_free(&n);
    }
}

// NaN in all logits: no token is right, but every sampler ends and leaves no MASK.
static void test_nan(void) {
    enum { B = 2, L = 6 };
    for (int kind = 0; kind < 6; kind++) {               // first-hitting, ancestral, AR; part of the law, all of it
        bool ar = kind % 3 == 2;
        int size = ar ? 1 : 3, x[B * L], row[B * 3], masks = 0;
        Net n = open_net(small(9, !ar), L, B, L, 14);
        fill(n.linear_bias->data, NAN, count(n.linear_bias));
        tape.off = true;
        Sampler s = {.net = &n, .B = B, .L = L, .block = size, .x = x, .row = row, .steps = kind % 3 == 1 ? 8 : 0, .top = kind < 3 ? 0.9 : 1, .rng = rng(8, RNG_SAMPLE, 0)};
        for (int i = 0; i < B * L; i++) x[i] = ar && i % L == 0 ? 7 : n.c.mask;
        for (int at = ar; at < L; at += size) { if (ar) sample_next(&s, at); else sample_block(&s, at); }
        for (int i = 0; i < B * L; i++) masks += x[i] < 0 || x[i] >= n.c.mask;
        CHECK(masks == 0, "sampler %d: %d masks left", kind, masks);
        tape.off = false;
        net_free(&n);
    }
}

#ifdef COUNTS_ALLOCATIONS
// Nothing allocates inside a step: as many allocations after 2 steps as after 50, in training and for every sampler.
static void test_allocations(void) {
    enum { V = 300, B = 2, T = 12, L = 240 };
    counting = true;
    long start = allocations, second = 0;
    free(NEW(int, 1));
    CHECK(allocations == start + 1, "%ld allocations are counted for one", allocations - start);

    int id[100], x[B * L], counted[B * T], row[B * 3], block = opt.block, length = opt.length, batch = opt.batch;
    Rng r = rng(5, RNG_DATA, 0);
    for (int t = 0; t < 100; t++) id[t] = below(&r, V - 2);
    Corpus c = {.vocab = {.bos = V - 2, .mask = V - 1}, .id = {[TRAIN] = id}, .n = {[TRAIN] = 100}};
    opt.block = 3, opt.length = T, opt.batch = B, opt.dropout = 0.1;
    Net n = open_net(small(V, true), T, 0, 0, 12);
    training.net = n, training.corpus = c, training.x = x, training.counted = counted;
    for (int step = 1; step <= 50; step++) {
        double norm, loss = train_step(step, &norm);
        CHECK(isfinite(loss), "%g", loss);
        if (step == 2) second = allocations;
    }
    CHECK(allocations == second, "training: %ld allocations after step 2, %ld after step 50", second, allocations);
    net_free(&n);
    opt.block = block, opt.length = length, opt.batch = batch, opt.dropout = 0;

    tape.off = true;
    for (int kind = 0; kind < 3; kind++) {               // first-hitting, ancestral, AR; the window is full from block 4 on
        bool ar = kind == 2;
        int size = ar ? 1 : 3, known = ar ? 1 : 0;
        n = open_net(small(V, !ar), L, B, T, 12);
        Sampler s = {.net = &n, .B = B, .L = L, .block = size, .x = x, .row = row, .steps = kind == 1 ? 8 : 0, .top = 0.9, .rng = rng(6, RNG_SAMPLE, 0)};
        for (int i = 0; i < B * L; i++) x[i] = ar && i % L == 0 ? V - 2 : n.c.mask;
        for (int step = 1; step <= 50; step++) {
            int at = (step - 1) * size + known;
            if (ar) sample_next(&s, at); else sample_block(&s, at);
            if (step == 2) second = allocations;
        }
        CHECK(allocations == second, "sampler %d: %ld allocations after block 2, %ld after block 50", kind, second, allocations);
        net_free(&n);
    }
    tape.off = false;
    counting = false;
}
#endif

// ---- precision of the draws -------------------------------------------------------------------------------------------------------------
// One token that always has the same law: half of it on one symbol, the other half evenly on 2048. An ancestral sampler of many steps draws from
// (law (1 - stay), MASK stay) at each, so that each of the 2048 is a very rare event.
enum { TAIL = 2048, MANY = 1 << 14, RACES = 100 };

// The categorical as an exponential race, argmax q / -log u (Gumbel's trick), with uniforms of 24 or 53 bits from SplitMix; the mask, entry n - 1, starts.
static int race(const double *q, int n, uint64_t *state, int bits) {
    int winner = n - 1;
    double best = INFINITY, unit = bits == 24 ? 0x1p-24 : 0x1p-53;
    for (int v = n - 1; v >= 0; v--) {
        uint64_t z = *state += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u, z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        double u = (double)(int64_t)((z ^ z >> 31) >> (64 - bits)) * unit;
        if (1 - u >= best * q[v]) continue;              // as -log u >= 1 - u, most need no logarithm
        double time = -log(u) / q[v];
        if (time < best) best = time, winner = v;
    }
    return winner;
}

// entropy of the law whose share of the 2048 is `tail`
static double entropy_of(double tail) { return -tail * log(tail / TAIL) - (1 - tail) * log(1 - tail); }

// Zheng et al. 2024: with 24 bits no Gumbel number exceeds 16.6, rare tokens lose, and the entropy falls as if by a lower temperature.
static void test_precision(void) {
    enum { V = TAIL + 2 };                               // the likely symbol is 0, MASK the last
    Net n = open_net(small(V, true), 1, 1, 1, 13);
    double p[V] = {0.5}, q[V], share[3] = {0};           // p[mask] = 0
    real bias[V];
    for (int v = 1; v <= TAIL; v++) p[v] = 0.5 / TAIL;
    for (int v = 0; v < V; v++) bias[v] = v < V - 1 ? (real)log(p[v]) : 0;
    fill(n.linear->data, 0, count(n.linear));
    upload(n.linear_bias->data, bias, sizeof bias);
    tape.off = true;
    for (int i = 0; i < RACES; i++) {
        int x = n.c.mask, row;
        Sampler s = {.net = &n, .B = 1, .L = 1, .block = 1, .x = &x, .row = &row, .steps = MANY, .top = 1, .rng = rng(7, RNG_SAMPLE, (uint64_t)i)};
        sample_block(&s, 0);
        share[0] += (x > 0) / (double)RACES;
        for (int kind = 1; kind < 3; kind++) {
            uint64_t state = philox(7, (uint64_t)kind, (uint64_t)i).w[0];
            x = n.c.mask;
            for (int step = 0; x == n.c.mask; step++) {
                double stay = stay_masked((double)(MANY - step) / MANY, (double)(MANY - step - 1) / MANY);
                for (int v = 0; v < V; v++) q[v] = v == n.c.mask ? stay : (1 - stay) * p[v];
                x = race(q, V, &state, kind == 1 ? 24 : 53);
            }
            share[kind] += (x > 0) / (double)RACES;
        }
    }
    double error = sqrt(0.25 / RACES), right = entropy_of(0.5);
    CHECK_CLOSE("inverse transform in double: share of rare tokens", share[0], 0.5, 4 * error);
    CHECK_CLOSE("race with 53 bits: share of rare tokens", share[2], 0.5, 4 * error);
    CHECK(share[1] < 0.5 - 4 * error, "race with 24 bits: share of rare tokens %g", share[1]);
    CHECK(entropy_of(share[1]) < right - 0.3 && entropy_of(share[0]) > right - 0.3 && entropy_of(share[2]) > right - 0.3,
          "entropy %g ours, %g with 24 bits, %g with 53, %g of the law", entropy_of(share[0]), entropy_of(share[1]), entropy_of(share[2]), right);
    tape.off = false;
    net_free(&n);
}

// ---- pieces of the method -----------------------------------------------------------------------------------------------------------
static void test_pieces(void) {
    // what a row may see for L = 6, L' = 2 (the case of the paper's Figure 3), drawn by hand: noisy | clean
    const char *figure[12] = {
        "##.... ......", "##.... ......", "..##.. ##....", "..##.. ##....", "....## ####..", "....## ####..",
        "...... ##....", "...... ##....", "...... ####..", "...... ####..", "...... ######", "...... ######"};
    for (int i = 0; i < 12; i++) {
        Span s = attends(i, 6, 2);
        for (int j = 0; j < 12; j++) {
            bool sees = (j >= s.lo[0] && j < s.hi[0]) || (j >= s.lo[1] && j < s.hi[1]);
            CHECK(sees == (figure[i][j + (j > 5)] == '#'), "row %d, key %d", i, j);
        }
    }
    long pairs = 0;                                      // L^2 + L L' of them
    for (int i = 0; i < 80; i++) { Span s = attends(i, 40, 5); pairs += s.hi[0] - s.lo[0] + s.hi[1] - s.lo[1]; }
    CHECK(pairs == 40*40 + 40*5, "%ld", pairs);

    // levels: one in every stratum, stretched over the clipping interval
    double u[12], tau[12];
    Rng r = rng(1, RNG_LEVEL, 0);
    for (int i = 0; i < 12; i++) u[i] = uniform(&r);
    draw_levels(tau, u, 3, 4, 0.2, 0.8, true);
    for (int i = 0; i < 12; i++) CHECK(tau[i] >= 0.2 + 0.05*i && tau[i] <= 0.2 + 0.05*(i + 1), "level %d: %g", i, tau[i]);

    // nucleus: the token that crosses the threshold is dropped, the first is always kept
    double p[4], q[4];
    const real log_of[4] = {log((real)0.2), log((real)0.5), log((real)0.05), log((real)0.25)};
    softmax_nucleus_cpu(p, log_of, 0.8, -1, 1, 4);
    CHECK_CLOSE("nucleus", p[1], 0.5 / 0.75, REAL_IS_DOUBLE ? 1e-15 : 1e-7);
    CHECK_CLOSE("nucleus", p[3], 0.25 / 0.75, REAL_IS_DOUBLE ? 1e-15 : 1e-7);
    CHECK(p[0] == 0 && p[2] == 0, "%g %g", p[0], p[2]);
    softmax_nucleus_cpu(q, log_of, 0.1, -1, 1, 4);
    CHECK(q[1] == 1 && q[0] == 0 && q[2] == 0 && q[3] == 0, "greedy");
    for (int round = 0; round < 200; round++) {          // against picking the largest again and again; few different values, so many ties
        enum { V = 23 };
        double law[V], got[V], want[V] = {0}, total = 0, running = 0, kept = 0, top = round % 10 / 10.0 + 1e-9;      // no total lies on it
        real value[V];
        bool used[V] = {false};
        for (int v = 0; v < V; v++) value[v] = log((real)(below(&r, 6) * below(&r, 4))), total += law[v] = exp((double)value[v]);
        for (int v = 0; v < V; v++) law[v] /= total;
        for (int n = 0; n < V; n++) {
            int best = -1;
            for (int v = 0; v < V; v++) if (!used[v] && (best < 0 || law[v] > law[best])) best = v;
            used[best] = true;
            if ((running += law[best]) > top && n) break;
            want[best] = law[best], kept = running;
        }
        softmax_nucleus_cpu(got, value, top, -1, 1, V);
        for (int v = 0; v < V; v++) CHECK(fabs(got[v] - want[v] / kept) <= 1e-14 && (got[v] == 0) == (want[v] == 0), "round %d, token %d: %g, not %g", round, v, got[v], want[v] / kept);
    }

    // as coded: weight 1 as soon as clip_min is above 1/2
    CHECK(coded_weight(0.7, 0.55) == 1 && coded_weight(0.7, 0.5) == nelbo_weight(0.7) && nelbo_weight(0.7) == 1/0.7, "weights");

    // SUBS: MASK is impossible, an uncovered token is certain
    real logits[4] = {1, 2, 30, 0};
    double log_p[4], sum = 0;
    subs_log_probs(log_p, logits, 4, 2, 2);
    for (int v = 0; v < 4; v++) sum += exp(log_p[v]);
    CHECK(log_p[2] == -INFINITY, "%g", log_p[2]);
    CHECK_CLOSE("SUBS adds up to one", sum, 1, 1e-12);
    subs_log_probs(log_p, logits, 4, 2, 3);
    CHECK(log_p[3] == 0 && log_p[0] == -INFINITY && log_p[1] == -INFINITY, "carry over");

    // at the start every prediction is uniform over V - 1 symbols, and every layer the identity
    NetConfig c = small(9, true);
    Net n = {0};
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        if (pass) net_free(&n);
        n = net_create(c, true, 1, 4, 0, 0);
        begin_step();
        int x[4] = {7, 1, 2, 3}, x_tau[4] = {7, 8, 8, 8}, counted[4] = {0, 1, 1, 1};
        real loss;
        download(&loss, bd3_loss(&n, x, x_tau, (double[]){1, 1}, counted, 1, 4, 2, true).loss->data, sizeof loss);
        if (pass) CHECK_CLOSE("loss at the start", loss, log(8), 1e-6);
    }
    net_free(&n);
}

int main(void) {
    test_pieces();
    if (REAL_IS_DOUBLE) test_gradients();
    test_two_passes();
    test_influence();
    test_block_one();
    test_cache();
    test_ring();
    test_nan();
    test_toy();
#ifdef COUNTS_ALLOCATIONS
    test_allocations();
#endif
#ifdef _OPENMP
    omp_set_num_threads(1);                              // many small passes: threads would wait for each other most of the time
#endif
    test_flat();
    if (MANY_PASSES) test_law(), test_estimators(), test_nfe();
    test_short_text();
    if (MANY_PASSES && !REAL_IS_DOUBLE) test_precision();        // nothing in it depends on `real`
    return finish(REAL_IS_DOUBLE ? "test_bd3lm (double)" : "test_bd3lm (float, fast kernels)");
}
