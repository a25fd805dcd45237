// test_acdit.c: the method's equalities. Compiled twice: in double (gradients, sharp bounds) and in float with the fast kernels (the bits that programs run).
#define TESTING
#include "../acdit.c"
#include "check.h"
#include "close.h"

static const double TIGHT = REAL_IS_DOUBLE ? 1e-11 : 5e-5;

static real *to_host(const real *device, size_t n) { real *x = NEW(real, n); download(x, device, n * sizeof(real)); return x; }
static real *randoms(size_t n, uint64_t stream) { real *x = NEW(real, n); normals(x, n, rng(1, RNG_DATA, stream)); return x; }

// ---- small networks with odd sizes ------------------------------------------------------------------------------------------------
// 4 x 4 patches (or 3 frames of 2 x 2) of 3 numbers; heads of 10 elements, of which a video's axes turn none and a picture's all but 2
static NetConfig small(bool video, int NL) {
    return (NetConfig){.NL = NL, .C = video ? 48 : 30, .NH = 3, .mlp = 2, .D = 3, .classes = 4, .freq = 6, .eps = 1e-6, .axes = axes_of(3, video ? 2 : 4, video, video ? 16 : 10),
                       .angles = rope_angles, .frames = video ? 9 : 1, .side = video ? 2 : 4};
}
// With all parameters moved: nothing is zero. as_made: as training begins
static Net make_net(NetConfig c, int cache_B, int slots, uint64_t seed, bool as_made) {
    begin_dry_run();
    Net n = net_create(c, true, seed, cache_B, slots, cache_B ? 2 * 5 * cache_B : 0);
    net_free(&n);
    arena_take(&per_step, 16 << 20);
    end_dry_run(false);
    n = net_create(c, true, seed, cache_B, slots, cache_B ? 2 * 5 * cache_B : 0);
    if (as_made) return n;
    real *x = to_host(n.ps.data, n.ps.size);
    Rng r = rng(seed, RNG_INIT, 999);
    for (size_t i = 0; i < n.ps.size; i++) x[i] += (real)(0.6*uniform(&r) - 0.3);
    upload(n.ps.data, x, n.ps.size * sizeof(real));
    free(x);
    return n;
}
// A batch of B pictures of c in N blocks; its loss with fresh levels
typedef struct Case { int B, N, T, D, *order, *k, *label; real *x, *noise; } Case;
static Case make_case(NetConfig c, int B, int N, bool square) {
    Layout y = layout_of(c.frames, c.side, 1, c.D);
    if (c.axes.n == 3) y = layout_of(3, c.side, 1, c.D);
    Case a = {.B = B, .N = N, .T = y.T, .D = y.D, .order = NEW(int, y.T), .k = NEW(int, B*N), .label = NEW(int, B)};
    token_order(a.order, y, N, square);
    Rng r = rng(3, RNG_LEVEL, (uint64_t)N);
    draw_levels(a.k, B, N, &r);
    for (int b = 0; b < B; b++) a.label[b] = below(&r, c.classes + 1);
    a.x = randoms((size_t)(B * y.T * y.D), 5), a.noise = randoms((size_t)(B * y.T * y.D), 6);
    return a;
}
static void case_free(Case *a) { free(a->order), free(a->k), free(a->label), free(a->x), free(a->noise); }
static Loss case_loss(Net *net, const Case *a, const real *context_x, Context context) {
    begin_step();
    Tensor *x = on_device(a->x, a->B, a->T, a->D, "x");
    return acdit_loss(net, x, context_x ? on_device(context_x, a->B, a->T, a->D, "context") : x, on_device(a->noise, a->B, a->T, a->D, "noise"), a->k, a->label, a->order, a->N, context);
}

// ---- METHOD -------------------------------------------------------------------------------------------------------------------------
static void test_mask(void) {
    // three blocks of two tokens, as the paper draws it: rows c0 c0 c1 c1 n0 n0 n1 n1 n2 n2, without the third clean block
    static const char *const drawn[10] = {"##........", "##........", "####......", "####......", "....##....", "....##....", "##....##..", "##....##..", "####....##", "####....##"};
    for (int i = 0; i < 10; i++)
        for (int j = 0; j < 10; j++) {
            Span s = attends(i, 4, 2);
            CHECK(((j >= s.lo[0] && j < s.hi[0]) || (j >= s.lo[1] && j < s.hi[1])) == (drawn[i][j] == '#'), "row %d, key %d", i, j);
        }
    for (int N = 1; N <= 12; N++) {                     // as many pairs as full attention over one sequence has
        long pairs = 0;
        for (int i = 0; i < (2*N - 1) * 3; i++) { Span s = attends(i, (N - 1) * 3, 3); pairs += s.hi[0] - s.lo[0] + s.hi[1] - s.lo[1]; }
        CHECK(pairs == 9L*N*N, "%d blocks: %ld pairs", N, pairs);
    }
    for (int i = 0; i < 12; i++) { Span s = attends_noised(i, 4); CHECK(s.lo[0] == 0 && s.hi[0] == (i/4 + 1) * 4 && s.hi[1] == s.lo[1], "row %d", i); }
    for (int i = 0; i < 12; i++) { Span s = attends_alone(i, 4); CHECK(s.lo[0] == i/4 * 4 && s.hi[0] == (i/4 + 1) * 4 && s.hi[1] == s.lo[1], "row %d alone", i); }
}

// Angles turn by differences of positions alone, as the paper has it, and lengths stay; as coded neither holds
static void test_rope(void) {
    for (int axes = 1; axes <= 3; axes++)
        for (int coded = 0; coded < 2; coded++) {
            Axes a = axes == 1 ? (Axes){1, {12}, {9}} : axes_of(9, 7, axes == 3, axes == 3 ? 16 : 12);
            int HS = axes == 3 ? 16 : 12, pair[16];
            double q[16], k[16], dots[2], size[2] = {0}, angle[16], turned[2][16];
            Rng r = rng(2, RNG_DATA, (uint64_t)axes);
            for (int i = 0; i < HS; i++) q[i] = normal(&r), k[i] = normal(&r);
            for (int shift = 0; shift < 2; shift++) {
                for (int which = 0; which < 2; which++) {
                    int m[3] = {1 + 2*which + 3*shift, 2 - which + 2*shift, 3*which + shift};
                    (coded ? coded_rope_angles : rope_angles)(angle, pair, m, a, HS);
                    const double *v = which ? k : q;
                    for (int i = 0; i < HS; i++) turned[which][i] = pair[i] < 0 ? v[i] : v[i] * cos(angle[i]) + (pair[i] > i ? -1 : 1) * v[pair[i]] * sin(angle[i]);
                }
                dots[shift] = 0;
                for (int i = 0; i < HS; i++) dots[shift] += turned[0][i] * turned[1][i], size[shift] += turned[0][i] * turned[0][i] - q[i] * q[i];
            }
            bool relative = fabs(dots[0] - dots[1]) <= 1e-12 && fabs(size[0]) <= 1e-12 && fabs(size[1]) <= 1e-12;
            CHECK(relative == (!coded || axes == 1), "%d axes, %s: %g and %g, %g", axes, coded ? "code" : "paper", dots[0], dots[1], size[0]);
        }
    CHECK(rope_base(16) == 100 && rope_base(39) == 100 && rope_base(40) == 200 && rope_base(1024) == 2700, "bases");
    CHECK(coded_rope_base(39) == 100 && coded_rope_base(78) == 200 && coded_rope_base(1024) == 2700, "coded bases");
    Axes v = axes_of(16, 16, true, 64), p = axes_of(1, 32, false, 64);
    CHECK(v.n == 3 && v.dims[0] == 16 && v.dims[1] == 24 && v.dims[2] == 24 && v.length[0] == 16, "a video's axes");
    CHECK(p.n == 2 && p.dims[0] == 32 && p.dims[1] == 32 && p.length[0] == 32, "a picture's axes");
}

static void test_draws(void) {
    CHECK(beta(0) == 1e-4 && fabs(beta(K - 1) - 0.02) <= 1e-15 && fabs(alpha_bar(999) - 4.0358297653756754e-05) <= 1e-17 && alpha_bar(-1) == 1, "alpha_bar(999) = %g", alpha_bar(999));
    enum { B = 3000, N = 4 };
    static int k[B*N], label[B];
    Rng r = rng(9, RNG_LEVEL, 1);
    draw_levels(k, B, N, &r);
    double mean = 0, product = 0, square = 0;
    for (int i = 0; i < B*N; i++) { CHECK(k[i] >= 0 && k[i] < K, "level %d", k[i]); mean += k[i] / (double)(B*N); }
    for (int b = 0; b < B; b++) product += (k[b*N] - 499.5) * (k[b*N + 1] - 499.5) / B, square += pow(k[b*N] - 499.5, 2) / B;
    CHECK(fabs(mean - 499.5) <= 5 * 288.7 / sqrt(B*N), "mean level %g", mean);
    CHECK(fabs(product / square) <= 5 / sqrt(B), "levels of two blocks: correlation %g", product / square);
    for (int b = 0; b < B; b++) label[b] = b % 7;
    drop_labels(label, B, 7, 0.1, &r);
    int dropped = 0;
    for (int b = 0; b < B; b++) { CHECK(label[b] == b % 7 || label[b] == 7, "label %d", label[b]); dropped += label[b] == 7; }
    CHECK(fabs(dropped - 0.1*B) <= 5 * sqrt(0.09*B), "%d labels dropped", dropped);
}

// Solvers on numbers whose law is N(m, v): what a perfect network would say is known, and so is where the flow ends: at x (v alone shrinks) for level 999 = pure noise
static double ideal_eps(double x, int k, double m, double v) { double a = alpha_bar(k), s = a*v + 1 - a; return sqrt(1 - a) * (x - sqrt(a) * m) / s; }
static double solve(Solver solver, int S, double x, double m, double v, Rng *r) {
    int *k = NEW(int, S + 1);
    double before = 0;
    solver_levels(k, solver, S);
    for (int i = 0; i < S; i++) {
        Step c = solver_step(solver, k, i);
        double x0 = c.x0_x * x + c.x0_eps * ideal_eps(x, k[i], m, v), other = solver == DDPM ? normal(r) : before;
        x = c.x_x * x + c.x_x0 * x0 + c.x_other * other, before = x0;
    }
    free(k);
    return x;
}
static void test_solvers(void) {
    double m = 0.3, v = 0.25, error[2][3];
    Rng r = rng(4, RNG_SAMPLE, 0);
    for (int solver = DPMPP; solver <= DDIM; solver++)
        for (int i = 0; i < 3; i++) {                   // the flow keeps (x - m sqrt(a)) / sqrt(a v + 1 - a)
            error[solver][i] = 0;
            for (double z = -2; z <= 2; z += 0.5) {
                double a = alpha_bar(K - 1), start = sqrt(a) * m + z * sqrt(a*v + 1 - a);
                error[solver][i] = fmax(error[solver][i], fabs(solve(solver, (int[]){25, 50, 100}[i], start, m, v, &r) - (m + z * sqrt(v))));
            }
        }
    CHECK(error[DDIM][1] < error[DDIM][0] / 1.5 && error[DDIM][2] < error[DDIM][1] / 1.5, "ddim: %g, %g, %g", error[DDIM][0], error[DDIM][1], error[DDIM][2]);
    for (int i = 0; i < 3; i++) CHECK(error[DPMPP][i] < error[DDIM][i] / 2, "%d steps: dpmpp %g, ddim %g", (int[]){25, 50, 100}[i], error[DPMPP][i], error[DDIM][i]);
    enum { DRAWS = 4000 };
    double mean = 0, square = 0;
    for (int i = 0; i < DRAWS; i++) { double x = solve(DDPM, 250, normal(&r), m, v, &r); mean += x / DRAWS, square += x*x / DRAWS; }
    CHECK(fabs(mean - m) <= 5 * sqrt(v / DRAWS), "ddpm: mean %g", mean);
    CHECK(fabs(square - mean*mean - v) <= 5 * v * sqrt(2.0 / DRAWS) + 0.01*v, "ddpm: variance %g", square - mean*mean);
    int k[K + 1];
    solver_levels(k, DPMPP, 25);
    static const int published[25] = {999, 959, 919, 879, 839, 799, 759, 719, 679, 639, 599, 559, 519, 480, 440, 400, 360, 320, 280, 240, 200, 160, 120, 80, 40};
    CHECK(!memcmp(k, published, sizeof published), "the paper's 25 levels");
    for (int S = 1; S <= K - 1; S++) for (int solver = 0; solver < SOLVERS; solver++) {
        solver_levels(k, solver, S);
        bool falls = k[0] == K - 1;
        for (int i = 1; i < S; i++) falls = falls && k[i] < k[i - 1] && k[i] >= 0 && fabs(k[i - 1] - k[i] - (double)K / S) <= 1;
        Step last = solver_step(solver, k, S - 1);
        CHECK(falls && k[S - 1] <= (double)K / S + 1 && last.x_x == 0 && last.x_x0 == 1, "%s: %d steps do not fall evenly to a clean picture", solver_name[solver], S);
    }
}

static void test_order(void) {
    // 4 x 4 patches in four squares: the first block is the top left
    static const int four[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
    Layout y = layout_of(1, 4, 2, 3);
    int order[64];
    token_order(order, y, 4, true);
    CHECK(!memcmp(order, four, sizeof four), "four squares");
    const struct { int frames, side, N; bool square; } cases[] = {{1, 8, 1, true}, {1, 8, 4, true}, {1, 8, 16, true}, {1, 8, 64, true}, {1, 6, 9, true}, {4, 4, 2, false}, {4, 4, 4, false}, {4, 4, 8, false}, {4, 4, 64, false}};
    for (int i = 0; i < 9; i++) {
        y = layout_of(cases[i].frames, cases[i].side, 2, 3);
        CHECK(!blocks_error(y, cases[i].N, cases[i].square), "case %d", i);
        token_order(order, y, cases[i].N, cases[i].square);
        bool seen[64] = {false};
        for (int t = 0; t < y.T; t++) { CHECK(order[t] >= 0 && order[t] < y.T && !seen[order[t]], "case %d, token %d", i, t); seen[order[t]] = true; }
        real *picture = randoms((size_t)numbers_of(y), 7), *tokens = NEW(real, numbers_of(y)), *back = NEW(real, numbers_of(y));
        to_tokens(tokens, picture, y, order), from_tokens(back, tokens, y, order);
        CHECK(same_bits(back, picture, (size_t)numbers_of(y)), "case %d: there and back", i);
        free(picture), free(tokens), free(back);
    }
    CHECK(blocks_error(layout_of(1, 8, 1, 1), 2, true) && blocks_error(layout_of(1, 8, 1, 1), 5, true) && blocks_error(layout_of(1, 8, 1, 1), 0, true) && blocks_error(layout_of(1, 6, 1, 1), 16, true), "no grids");
    CHECK(blocks_error(layout_of(4, 3, 1, 1), 3, false) && blocks_error(layout_of(4, 2, 1, 1), 5, false), "no frames");
}

// ---- loss ---------------------------------------------------------------------------------------------------------------------------

// As training begins the network predicts 0: the loss is the mean square of the noise
static void test_start(void) {
    for (int N = 1; N <= 16; N *= 4) {
        Net net = make_net(small(false, 2), 0, 0, 11, true);
        Case a = make_case(net.c, 3, N, true);
        Loss l = case_loss(&net, &a, NULL, CLEAN);
        double want = 0;
        for (int i = 0; i < a.B * a.T * a.D; i++) want += (double)a.noise[i] * (double)a.noise[i] / (a.B * a.T * a.D);
        real *loss = to_host(l.loss->data, 1);
        CHECK_CLOSE("loss at the start", (double)loss[0], want, 1e-6 * want);
        free(loss), case_free(&a), net_free(&net);
    }
}

// As training begins all gates are 0: noised tokens pass every layer unchanged, clean ones do not
static void test_gates(void) {
    Net net = make_net(small(false, 3), 0, 0, 22, true);
    Case a = make_case(net.c, 2, 4, true);
    Tensor *after[3];
    net.after = after;
    case_loss(&net, &a, NULL, CLEAN);
    int clean = a.T - a.T/4, C = net.c.C, S = clean + a.T;
    real *one = to_host(after[0]->data, count(after[0])), *two = to_host(after[1]->data, count(after[1])), *three = to_host(after[2]->data, count(after[2]));
    for (int b = 0; b < a.B; b++) {
        size_t noised = (size_t)(b*S + clean) * (size_t)C, n = (size_t)(a.T * C), first = (size_t)(b*S) * (size_t)C;
        CHECK(same_bits(one + noised, two + noised, n) && same_bits(two + noised, three + (size_t)(b * a.T * C), n), "noised tokens of picture %d move", b);
        CHECK(!same_bits(one + first, two + first, (size_t)(clean * C)), "clean tokens of picture %d stay", b);
    }
    free(one), free(two), free(three), case_free(&a), net_free(&net);
}

// Changed clean tokens of a block change the predictions of later blocks, and of no others: to the bit
static void test_influence(void) {
    for (int video = 0; video < 2; video++) {
        int N = video ? 3 : 4;
        Net net = make_net(small(video, 2), 0, 0, 12, false);
        Case a = make_case(net.c, 2, N, !video);
        size_t n = (size_t)(a.B * a.T * a.D);
        int block = a.T / N;
        real *base = to_host(case_loss(&net, &a, NULL, CLEAN).prediction->data, n), *moved = NEW(real, n);
        for (int i = 0; i < N; i++) {
            memcpy(moved, a.x, n * sizeof(real));
            for (int t = 0; t < block; t++) moved[(size_t)((i * block + t) * a.D)] += 1;           // of picture 0
            real *now = to_host(case_loss(&net, &a, moved, CLEAN).prediction->data, n);
            for (int b = 0; b < a.B; b++)
                for (int j = 0; j < N; j++) {
                    size_t at = (size_t)((b * a.T + j * block) * a.D);
                    CHECK(same_bits(now + at, base + at, (size_t)(block * a.D)) == (b > 0 || j <= i), "block %d changed, block %d of picture %d", i, j, b);
                }
            free(now);
        }
        free(base), free(moved), case_free(&a), net_free(&net);
    }
}

// The paper's network with nothing left out: every row through every layer, any number of clean tokens, attention by a mask over all pairs. With no clean tokens and one
// block this is DiT (with RoPE and RMSNorm).
static Tensor *plain_forward(Net *net, Tensor *x, int clean, const int *order, const int *k, const int *label, int N) {
    NetConfig c = net->c;
    int B = x->B, S = x->T, T = S - clean, C = c.C, block = T / N;
    int *position = HOST(int, B*S), *group = HOST(int, B*S), *labels = HOST(int, B*N), *row = HOST(int, B*T);
    double *level = HOST(double, B*N);
    Span *span = HOST(Span, S);
    for (int i = 0; i < B*S; i++) position[i] = order[i % S < clean ? i % S : i % S - clean], group[i] = i % S < clean ? -1 : i / S * N + (i % S - clean) / block;
    for (int i = 0; i < B*N; i++) level[i] = k[i], labels[i] = label[i / N];
    for (int i = 0; i < B*T; i++) row[i] = i / T * S + clean + i % T;
    for (int i = 0; i < S; i++) span[i] = attends(i, clean, block);
    const int *at = to_device(position, (size_t)(B*S) * sizeof(int)), *g = to_device(group, (size_t)(B*S) * sizeof(int));
    const Span *spans = to_device(span, (size_t)S * sizeof(Span));
    Tensor *cond = condition(net, level, labels, B*N, NULL, NULL), *h = apply(x, net->x_embedder, LINEAR_ONLY);
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net->layer[l];
        Tensor *mod = apply(cond, y->ada, LINEAR_ONLY), *qkv = apply(norm_modulate(h, y->norm1, (Modulation){mod, g, 0, C, 2*C}, RMS, c.eps), y->qkv, LINEAR_ONLY);
        qkv = rope(head_norm(head_norm(qkv, 0, c.NH, y->q_norm, c.eps, NULL, NULL), C, c.NH, y->k_norm, c.eps, NULL, NULL), net->rope, at, 2*c.NH);
        h = gated_residual(h, apply(attention(qkv, qkv, C, spans, B, c.NH), y->proj, LINEAR_ONLY), (Modulation){mod, g, 0, C, 2*C}, (Dropout){0});
        Modulation second = {mod, g, 3*C, 4*C, 5*C};
        h = gated_residual(h, apply(linear(norm_modulate(h, y->norm2, second, RMS, c.eps), y->fc1.weight, y->fc1.bias, GELU), y->fc2, LINEAR_ONLY), second, (Dropout){0});
    }
    Tensor *out = apply(norm_modulate(h, net->norm_final, (Modulation){apply(cond, net->ada, LINEAR_ONLY), g, 0, C, 0}, RMS, c.eps), net->linear, LINEAR_ONLY);
    return gather_rows(out, to_device(row, (size_t)(B*T) * sizeof(int)), B*T);
}
// N = 1 is DiT, the last clean block is dead weight, and so are all but keys and values of clean tokens in the last layer: predictions and all gradients are the same
static void test_nothing_missing(void) {
    for (int N = 1; N <= 16; N *= 4) for (int dead = 0; dead < 2; dead++) {
        Net net = make_net(small(false, 2), 0, 0, 13, false);
        Case a = make_case(net.c, 2, N, true);
        size_t n = (size_t)(a.B * a.T * a.D);
        zero_grad(&net.ps);
        Loss l = case_loss(&net, &a, NULL, CLEAN);
        backward(l.loss, PARAMS);
        real *prediction = to_host(l.prediction->data, n), *grad = to_host(net.ps.grad, net.ps.size);
        begin_step();
        zero_grad(&net.ps);
        int clean = dead ? a.T : a.T - a.T / N;
        Rows r = rows_create(a.B * a.T);
        double *weight = HOST(double, a.B * a.T);
        for (int i = 0; i < a.B * a.T; i++) noising(&r.a[i], &r.b[i], a.k[i / (a.T / N)]), weight[i] = 1;
        Tensor *x = on_device(a.x, a.B, a.T, a.D, "x"), *noise = on_device(a.noise, a.B, a.T, a.D, "noise"), *error;
        Tensor *p = plain_forward(&net, beside(x, clean, mix(x, r.a, noise, r.b, NULL, NULL)), clean, a.order, a.k, a.label, N);
        backward(square_error(p, noise, weight, 1 / (double)n, 1, &error), PARAMS);
        real *plain = to_host(p->data, n), *plain_grad = to_host(net.ps.grad, net.ps.size);
        close_to("predictions", prediction, plain, n, TIGHT);
        for (int i = 0; i < net.ps.n; i++) close_to(net.ps.list[i]->t.name, grad + net.ps.list[i]->offset, plain_grad + net.ps.list[i]->offset, count(&net.ps.list[i]->t), REAL_IS_DOUBLE ? 1e-10 : 5e-4);
        free(prediction), free(grad), free(plain), free(plain_grad), case_free(&a), net_free(&net);
    }
}

static void test_gradients(void) {
    const struct { bool video; int N; Context context; } cases[] = {{false, 1, CLEAN}, {false, 4, CLEAN}, {true, 3, CLEAN}, {true, 6, CLEAN}, {false, 4, NOISED}, {false, 4, NONE}};
    for (int i = 0; i < 6; i++) {
        Net net = make_net(small(cases[i].video, 2), 0, 0, 14, false);
        Case a = make_case(net.c, 2, cases[i].N, !cases[i].video);
        zero_grad(&net.ps);
        backward(case_loss(&net, &a, NULL, cases[i].context).loss, PARAMS);
        real *g = to_host(net.ps.grad, net.ps.size), *p = to_host(net.ps.data, net.ps.size);
        Rng r = rng(8, RNG_DATA, (uint64_t)i);
        tape.off = true;
        for (int j = 0; j < net.ps.n; j++) {
            Param *q = net.ps.list[j];
            double largest = 0;
            for (size_t e = 0; e < count(&q->t); e++) largest = fmax(largest, fabs((double)g[q->offset + e]));
            for (int probe = 0; probe < 3; probe++) {
                size_t e = q->offset + (size_t)below(&r, (int)count(&q->t));
                double step = 1e-5, loss[2];
                for (int side = 0; side < 2; side++) {
                    real value = p[e] + (real)(side ? step : -step);
                    upload(net.ps.data + e, &value, sizeof value);
                    real *l = to_host(case_loss(&net, &a, NULL, cases[i].context).loss->data, 1);
                    loss[side] = (double)l[0];
                    free(l);
                }
                upload(net.ps.data + e, &p[e], sizeof(real));
                double want = (loss[1] - loss[0]) / (2*step);
                CHECK(fabs((double)g[e] - want) <= 1e-7 * fmax(1e-2, largest) + 1e-9, "case %d: %s[%zu]: %.9g, differences give %.9g", i, q->t.name, e - q->offset, (double)g[e], want);
            }
        }
        tape.off = false;
        free(g), free(p), case_free(&a), net_free(&net);
    }
}

// ---- sampling -----------------------------------------------------------------------------------------------------------------------

static struct { real *eps[4]; int n; } heard;           // what the network said, in turn
static void listen(Sampler *s, int i, int step, Tensor *x, Tensor *eps_label, Tensor *eps_null) {
    (void)i, (void)step, (void)x;
    size_t n = (size_t)(s->B * s->block * s->net->c.D);
    if (heard.n < 2) heard.eps[2*heard.n] = to_host(eps_label->data, n), heard.eps[2*heard.n + 1] = eps_null ? to_host(eps_null->data, n) : NULL, heard.n++;
}
static Sampler make_sampler(Net *net, const Case *a, int N, int window, double w) {
    Sampler s = sampler_create(net, a->B, N, a->T / a->N, window, 5, 0, net->c.D);
    s.label = a->label, s.order = a->order, s.guidance = w;
    for (int i = 0; i < 64; i++) s.steps[i] = i ? 3 : 5;
    return s;
}
// With the cache as without it, for every solver, with guidance and without; steps can differ from block to block
static void test_cached(void) {
    tape.off = true;
    for (int video = 0; video < 2; video++) for (int solver = 0; solver < SOLVERS; solver++) for (int guided = 0; guided < 2; guided++) for (int context = CLEAN; context <= (guided ? CLEAN : NOISED); context++) {
        int N = video ? 3 : 4;
        Net net = make_net(small(video, 2), 2, 200, 15, false);
        Case a = make_case(net.c, 2, N, !video);
        size_t n = (size_t)(a.B * a.T * a.D);
        real *x[2];
        for (int recompute = 0; recompute < 2; recompute++) {
            Sampler s = make_sampler(&net, &a, N, N - 1, guided ? 2.5 : 1);
            s.solver = (Solver)solver, s.recompute = recompute, s.context = (Context)context;
            net.slots = cache_slots(s.window, s.block, s.guidance);
            for (int i = 0; i < N; i++) sample_block(&s, i);
            CHECK(s.passes == 5 + 3*(N - 1), "%ld passes", s.passes);
            x[recompute] = memcpy(NEW(real, n), s.x, n * sizeof(real));
            sampler_free(&s);
        }
        close_to("cached and recomputed", x[0], x[1], n, REAL_IS_DOUBLE ? 1e-9 : 2e-3);
        free(x[0]), free(x[1]), case_free(&a), net_free(&net);
    }
    tape.off = false;
}
// The modulations of all steps from the table, or computed in every step; blocks with other numbers of steps, and a second sampler, want another table
static void test_table(void) {
    tape.off = true;
    Net net = make_net(small(false, 2), 2, 200, 23, false);
    Case a = make_case(net.c, 2, 4, true);
    size_t n = (size_t)(a.B * a.T * a.D);
    int room = net.mods_rows, *labels = a.label, others[2] = {1, 3};
    for (int sampler = 0; sampler < 2; sampler++) {
        real *x[2];
        a.label = sampler ? others : labels;
        for (int table = 0; table < 2; table++) {
            Sampler s = make_sampler(&net, &a, 4, 3, 2);
            net.slots = cache_slots(s.window, s.block, s.guidance), net.mods_rows = table ? room : 0;
            for (int i = 0; i < 4; i++) { sample_block(&s, i); CHECK(net.mods_steps == (table ? s.steps[i] : 0), "%d steps in the table", net.mods_steps); }
            x[table] = memcpy(NEW(real, n), s.x, n * sizeof(real));
            sampler_free(&s);
        }
        close_to("table and computed", x[1], x[0], n, REAL_IS_DOUBLE ? 1e-9 : 2e-3);
        free(x[0]), free(x[1]);
    }
    a.label = labels;
    case_free(&a), net_free(&net);
    double of_label, of_null;
    guidance(&of_label, &of_null, 2.5);
    CHECK(of_label == 2.5 && of_null == -1.5, "guidance %g, %g", of_label, of_null);
    tape.off = false;
}
// One cache for both halves of guidance, against two samplers, one with the label and one without, each with a cache of its own
static void test_shared_cache(void) {
    tape.off = true;
    Net net = make_net(small(false, 2), 2, 200, 16, false);
    Case a = make_case(net.c, 2, 4, true), none = a;
    int nobody[2] = {net.c.classes, net.c.classes}, k[4];
    none.label = nobody;
    solver_levels(k, DPMPP, 3);
    size_t one = (size_t)(a.B * 4 * a.D);
    real *clean = randoms((size_t)(a.B * a.T * a.D), 9), *said[3] = {0};
    for (int which = 0; which < 3; which++) {           // both, with the label, without
        Sampler s = make_sampler(&net, which == 2 ? &none : &a, 4, 3, which ? 1 : 2);
        memcpy(s.x, clean, (size_t)(a.B * a.T * a.D) * sizeof(real));
        net.slots = cache_slots(s.window, s.block, s.guidance);
        for (int i = 0; i < 4; i++) {
            begin_step();
            Tensor *eps = predict_block(&s, i, on_device(blocks_of(&s, i, 1), a.B, 4, a.D, "x"), k[1], i ? i - 1 : i, -1);
            free(said[which]), said[which] = to_host(eps->data, one * (which ? 1 : 2));
        }
        sampler_free(&s);
    }
    for (int b = 0; b < a.B; b++)
        for (int half = 0; half < 2; half++)
            close_to(half ? "without label" : "with label", said[0] + (size_t)((2*b + half) * 4 * a.D), said[1 + half] + (size_t)(b * 4 * a.D), (size_t)(4 * a.D), TIGHT);
    CHECK(!same_bits(said[1], said[2], one), "the label has no influence");
    for (int i = 0; i < 3; i++) free(said[i]);
    free(clean), case_free(&a), net_free(&net);
    tape.off = false;
}
// What the sampler is told of a block, given the true ones before it, is what training would predict there
static void test_as_trained(void) {
    tape.off = true;
    for (int context = CLEAN; context <= NOISED; context++) {
        Net net = make_net(small(true, 2), 2, 200, 17, false);
        Case a = make_case(net.c, 2, 3, false);
        size_t one = (size_t)(a.B * 4 * a.D), all = (size_t)(a.B * a.T * a.D);
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < a.B * 3; j++) a.k[j] = j % 3 == i ? 321 : 0;
            if (context == NOISED) memset(a.noise, 0, all * sizeof(real));
            real *trained = to_host(case_loss(&net, &a, NULL, (Context)context).prediction->data, all), *x_k = to_host(case_loss(&net, &a, NULL, (Context)context).x_k->data, all);
            Sampler s = make_sampler(&net, &a, 3, 2, 1);
            s.context = (Context)context, net.slots = cache_slots(s.window, s.block, s.guidance);
            // the ablation reads finished blocks as blocks at level 0, whose signal is scaled by sqrt(alpha_bar)
            memcpy(s.x, context == NOISED ? x_k : a.x, all * sizeof(real));
            for (int b = 0; b < a.B; b++) memcpy(s.x + (b*a.T + i*4) * a.D, x_k + (b*a.T + i*4) * a.D, (size_t)(4 * a.D) * sizeof(real));
            real *said = NULL;
            for (int j = 0; j <= i; j++) {
                begin_step();
                Tensor *eps = predict_block(&s, j, on_device(blocks_of(&s, j, 1), a.B, 4, a.D, "x"), j == i ? 321 : 0, j ? j - 1 : j, -1);
                free(said), said = to_host(eps->data, one);
            }
            for (int b = 0; b < a.B; b++) close_to("as trained", said + b * 4 * a.D, trained + (b*a.T + i*4) * a.D, (size_t)(4 * a.D), TIGHT);
            free(said), free(trained), free(x_k), sampler_free(&s);
        }
        case_free(&a), net_free(&net);
    }
    tape.off = false;
}
// Beyond the training length the cache is a ring. With one layer keys and values depend on their own token alone, so a block far along must be told what a short video
// that holds nothing but its window is told: positions count by their differences only.
static void test_ring(void) {
    enum { LONG = 9, WINDOW = 2 };
    tape.off = true;
    for (int parts = 1; parts <= 2; parts++) {          // a block is a frame, or half of one
        int block = 4 / parts, N = LONG * parts;
        NetConfig c = small(true, 1);
        Net net = make_net(c, 2, 200, 18, false);
        Case a = make_case(c, 2, 3 * parts, false);
        int *order = NEW(int, LONG * 4);
        for (int i = 0; i < LONG * 4; i++) order[i] = i;
        size_t one = (size_t)(block * a.D), frames = (size_t)(LONG * 4 * a.D);
        real *video = randoms(2 * frames, 10);
        Sampler s = sampler_create(&net, 2, N, block, WINDOW * parts, 5, 0, a.D);
        s.label = a.label, s.order = order, s.guidance = 2;
        memcpy(s.x, video, 2 * frames * sizeof(real));
        for (int i = 0; i < N; i++) {
            net.slots = cache_slots(s.window, s.block, s.guidance);
            begin_step();
            real *said = to_host(predict_block(&s, i, on_device(blocks_of(&s, i, 1), 2, block, a.D, "x"), 444, i ? i - 1 : i, -1)->data, 4 * one);
            int from = i < WINDOW * parts ? 0 : i - WINDOW * parts, n = i - from + 1;
            if (parts == 2 && from % 2) { free(said); continue; }      // a short video begins with a whole frame
            Sampler q = sampler_create(&net, 2, n, block, n > 1 ? n - 1 : 1, 5, 0, a.D);
            q.label = a.label, q.order = order, q.guidance = 2, q.recompute = true;
            for (int b = 0; b < 2; b++) memcpy(q.x + (size_t)b * (size_t)n * one, video + (size_t)b * frames + (size_t)from * one, (size_t)n * one * sizeof(real));
            real *cache = net.cache;
            Net other = net;                            // its own cache, in the second half of the slots
            other.cache = cache + (size_t)(2 * 100 * 2 * c.C), other.slots = cache_slots(q.window, q.block, q.guidance), q.net = &other;
            begin_step();
            real *fresh = to_host(predict_block(&q, n - 1, on_device(blocks_of(&q, n - 1, 1), 2, block, a.D, "x"), 444, 0, -1)->data, 4 * one);
            close_to("far along", said, fresh, 4 * one, REAL_IS_DOUBLE ? 1e-10 : 1e-4);
            free(said), free(fresh), sampler_free(&q);
        }
        free(video), free(order), sampler_free(&s), case_free(&a), net_free(&net);
    }
    tape.off = false;
}
// What is drawn for a picture does not depend on those beside it
static void test_beside(void) {
    tape.off = true;
    for (int solver = 0; solver < SOLVERS; solver++) {
        Net net = make_net(small(false, 2), 3, 200, 19, false);
        Case a = make_case(net.c, 3, 4, true);
        size_t one = (size_t)(a.T * a.D);
        real *together = NULL;
        for (int alone = 0; alone < 2; alone++) {
            Case b = a;
            if (alone) b.B = 1, b.label = a.label + 2;
            Sampler s = make_sampler(&net, &b, 4, 3, 2);
            s.solver = (Solver)solver;
            if (alone) { s.number = 2, normals(s.x, one, rng(5, RNG_SAMPLE, 2)); }
            net.slots = cache_slots(s.window, s.block, s.guidance);
            for (int i = 0; i < 4; i++) sample_block(&s, i);
            if (!alone) together = memcpy(NEW(real, one), s.x + 2*one, one * sizeof(real)); else close_to("alone", s.x, together, one, REAL_IS_DOUBLE ? 1e-9 : 2e-3);
            sampler_free(&s);
        }
        free(together), case_free(&a), net_free(&net);
    }
    tape.off = false;
}

// ---- the work -----------------------------------------------------------------------------------------------------------------------
static void test_cost(void) {
    for (int video = 0; video < 2; video++) for (int NL = 1; NL <= 3; NL++) for (int N = 1; N <= 16; N += N == 1 ? 2 : 1) {
        NetConfig c = small(video, NL);
        c.mlp = 4;
        if (video ? N > 12 || 12 % N || ((12/N) % 4 && 4 % (12/N)) : N != 1 && N != 4 && N != 16) continue;
        Net net = make_net(c, 2, 200, 20, false);
        Case a = make_case(c, 2, N, !video);
        int block = a.T / N;
        flops_counted = 0, pairs_counted = 0;
        case_loss(&net, &a, NULL, CLEAN);
        double want = NL * flops_sweep(c.C, a.T, block) + flops_clean(NL, c.C, a.T, block) + flops_conditions(NL, c.C, c.freq, N) + flops_ends(c.C, c.D, 2*a.T - block, a.T);
        CHECK(fabs(flops_counted / 2 - want) <= 1e-9 * want, "training, %d layers, %d blocks: %.0f, formula %.0f", NL, N, flops_counted / 2, want);
        CHECK(pairs_counted / 2 == (NL - 1L) * a.T * a.T + a.T * (a.T + block) / 2, "%ld pairs", pairs_counted / 2);
        tape.off = true;
        for (int H = 1; H <= 2; H++) {
            Sampler s = make_sampler(&net, &a, N, N - 1, H);
            for (int i = 0; i < 64; i++) s.steps[i] = 3;
            net.slots = cache_slots(s.window, s.block, s.guidance);
            flops_counted = 0;
            for (int i = 0; i < N; i++) sample_block(&s, i);
            want = 3.0 * H * NL * flops_sweep(c.C, a.T, block) + flops_clean(NL, c.C, a.T, block) + flops_conditions(NL, c.C, c.freq, 3 * H) + flops_ends(c.C, c.D, 3 * N * H * block + (N - 1) * block, 3 * N * H * block);
            CHECK(fabs(flops_counted / 2 - want) <= 1e-9 * want, "sampling, %d layers, %d blocks, %d halves: %.0f, formula %.0f", NL, N, H, flops_counted / 2, want);
            sampler_free(&s);
        }
        tape.off = false;
        case_free(&a), net_free(&net);
    }
    // worked cases: width 768
    const double L[5] = {1024, 4096, 16384, 65536, 65536}, B[5] = {256, 1024, 1024, 4096, 1024}, saved[5] = {0.068, 0.176, 0.366, 0.438, 0.460};
    for (int i = 0; i < 5; i++) {
        CHECK(fabs(flops_saved(768, L[i], B[i]) - saved[i]) <= 0.0006, "saved %g", flops_saved(768, L[i], B[i]));
        CHECK(fabs(1 - flops_sweep(768, L[i], B[i]) / flops_full(768, L[i]) - flops_saved(768, L[i], B[i])) <= 1e-12, "the formula and its parts");
    }
}

// The learning rate warms up, stays, and ends at 1/64
static void test_rate(void) {
    opt.steps = 1000, opt.warmup = 10, opt.decay = 0.15, opt.lr = 1;
    CHECK_CLOSE("first", learning_rate(1), 0.1, 1e-15);
    CHECK_CLOSE("constant", learning_rate(850), 1, 1e-15);
    CHECK_CLOSE("half way down", learning_rate(925), 1.0/8, 1e-12);
    CHECK_CLOSE("last", learning_rate(1000), 1.0/64, 1e-12);
}

// No held video is one of training, and each is drawn by its number alone
static void test_held(void) {
    opt.data = "video", opt.edge = 16, opt.patch = 4, opt.clip = 8, opt.classes = MOTIONS;
    Layout y = layout();
    Data d = {.video = true};
    run.plan = (Plan){.y = y, .order = NEW(int, y.T)};
    token_order(run.plan.order, y, 4, false);
    size_t n = (size_t)numbers_of(y), bytes = n * sizeof(real);
    enum { FEW = 40 };
    real *held = NEW(real, FEW * n), *trained = NEW(real, n), *tokens = NEW(real, n), *again = NEW(real, n);
    for (int i = 0; i < FEW; i++) held_tokens(held + (size_t)i * n, &d, i, FEW, trained);
    for (int step = 0; step <= FEW; step++) {
        Rng r = rng((uint64_t)opt.seed, RNG_DATA, (uint64_t)step);
        data_picture(&d, 0, &r, trained), to_tokens(tokens, trained, y, run.plan.order);
        for (int i = 0; i < FEW; i++) CHECK(memcmp(held + (size_t)i * n, tokens, bytes), "video %d is one of step %d", i, step);
    }
    held_tokens(again, &d, 7, FEW, trained);
    CHECK(!memcmp(again, held + 7*n, bytes) && memcmp(again, held + 8*n, bytes), "a held video is not the same twice, or two are");
    free(held), free(trained), free(tokens), free(again), free(run.plan.order);
}

int main(void) {
#ifdef _OPENMP
    omp_set_num_threads(1);                              // many small passes: threads would wait for each other most of the time
#endif
    test_mask(), test_rope(), test_draws(), test_solvers(), test_order();
    test_start(), test_gates(), test_influence(), test_nothing_missing();
    if (REAL_IS_DOUBLE) test_gradients();
    test_cached(), test_table(), test_shared_cache(), test_as_trained(), test_ring(), test_beside();
    test_cost(), test_rate(), test_held();
    return finish(REAL_IS_DOUBLE ? "test_acdit (double)" : "test_acdit (float, fast kernels)");
}
