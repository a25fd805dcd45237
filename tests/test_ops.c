// test_ops.c: every op of common.h against central differences, in double, at odd sizes; then the rules of the tape.
// A gradient passes if max|g - fd| / max|g| <= 1e-7 for every input, and no gradient is zero altogether.
#define RANDOM_SEED 7
#include "../common.h"
#include "check.h"

// ---- a scalar from any tensor: sum_i r_i x_i with fixed random r ---------------------------------------------------------------
static real *probe_numbers(size_t n) {
    real *r = HOST(real, n);
    Rng g = rng(RANDOM_SEED, RNG_SAMPLE, 1);
    for (size_t i = 0; i < n; i++) r[i] = (real)(2*uniform(&g) - 1);
    return r;
}
typedef struct { Tensor *out, *x; real *r; } Probe;
static void probe_back(const void *p) {
    const Probe *a = p;
    size_t n = count(a->x);
    real d, *g = NEW(real, n), *device = grad_of(a->x);
    download(&d, a->out->grad, sizeof d);
    download(g, device, n * sizeof(real));
    for (size_t i = 0; i < n; i++) g[i] += d * a->r[i];
    upload(device, g, n * sizeof(real));
    free(g);
}
static Tensor *probe(Tensor *x) {
    size_t n = count(x);
    Tensor *out = activation(1, 1, 1, "probe");
    real *r = probe_numbers(n), *values = NEW(real, n), sum = 0;
    download(values, x->data, n * sizeof(real));
    for (size_t i = 0; i < n; i++) sum += r[i] * values[i];
    upload(out->data, &sum, sizeof sum);
    free(values);
    RECORD(Probe, probe_back, out, x, r);
    return out;
}

// ---- cases: build() makes the loss from the parameters in[] --------------------------------------------------------------------
static Tensor *in[16];
static Params ps;
static int variant;
static Tensor *add(const char *name, int rows, int columns) { int i = ps.n; return in[i] = param(&ps, name, rows, columns, UNIFORM, 1); }
static int *ints(int n, const int *values) { return to_device(values, (size_t)n * sizeof(int)); }

static void embedding_inputs(void) { add("weight", 4, 5); }
static Tensor *embedding_case(void) { return probe(embedding(in[0], ints(6, (int[]){3, 0, 1, 3, 2, 3}), 2, 3)); }

static void linear_inputs(void) { add("x", 6, 5); add("weight", 7, 5); if (variant != ACTIVATIONS) add("bias", 1, 7); }
static Tensor *linear_case(void) { return probe(linear(in[0], in[1], variant == ACTIVATIONS ? NULL : in[2], variant % ACTIVATIONS)); }

static void sum_inputs(void) { add("x", 6, 5); add("weight", 5, 5); }
static Tensor *sum_case(void) {                          // h has the first reader that takes over a gradient, and two that add to it
    Tensor *h = linear(in[0], in[1], NULL, LINEAR_ONLY), *y = linear(h, in[1], NULL, LINEAR_ONLY);
    return probe(CONCAT(sum(h, y, variant), sum(h, in[0], LINEAR_ONLY), sum(h, h, LINEAR_ONLY), reshape(h, 1, 6, 5)));
}

static void norm_inputs(void) { int form = variant % 4; add("x", 6, 5); add("weight", 1, 5); if (form) add("mod", form == 2 ? 1 : 3, form == 2 ? 5 : 17); }
static Tensor *norm_case(void) {
    int form = variant % 4;
    NormKind kind = variant < 4 ? LAYER : RMS;
    if (!form) return probe(norm_modulate(in[0], in[1], (Modulation){0}, kind, 1e-5));
    if (form == 2) return probe(norm_modulate(in[0], in[1], (Modulation){in[2], NULL, 0, -1, -1}, kind, 1e-5));
    return probe(norm_modulate(in[0], in[1], (Modulation){in[2], ints(6, (int[]){0, 2, -1, 1, 1, -1}), 3, form == 1 ? 10 : -1, 0}, kind, 1e-2));
}

static void residual_inputs(void) { add("x", 6, 5); add("branch", 6, 5); if (variant) add("mod", 3, 17); }
static Tensor *residual_case(void) {
    Dropout drop = {variant == 2 ? 0.4 : 0, 11, 12};
    Modulation m = {variant ? in[2] : NULL, variant ? ints(6, (int[]){0, 2, -1, 1, 1, -1}) : NULL, 0, 0, 7};
    return probe(gated_residual(in[0], in[1], m, drop));
}

static Rope rotary;
static void heads_inputs(void) { add("x", 4, 3); add("weight", 3*4 + 2, 3); add("norm", 1, 4); if (variant) add("norm2", 1, 4), rotary = rope_create(9, 4, 50); }
static Tensor *heads_case(void) {
    Tensor *x = linear(in[0], in[1], NULL, LINEAR_ONLY);
    if (!variant) return probe(head_norm(x, 1, 3, in[2], 1e-2, NULL, NULL));       // a column before the heads and one behind them stay
    const int *position = ints(4, (int[]){0, 8, 3, 1});
    return probe(head_norm(head_norm(x, 0, 1, in[2], 1e-2, &rotary, position), 4, 2, in[3], 1e-2, &rotary, position));
}

static void rope_inputs(void) { add("x", 4, 3); add("weight", 3*5 + 2, 3); rotary = rope_create(9, 5, 50); }     // HS = 5: one column stays
static Tensor *rope_case(void) { return probe(rope(linear(in[0], in[1], NULL, LINEAR_ONLY), rotary, ints(4, (int[]){0, 8, 3, 1}), 2)); }

static void attention_inputs(void) { add("qkv", 5, 3*2*3); }
static Tensor *attention_case(void) {
    Tensor *x = in[0];
    static const Span span[2][5] = {{{{0}, {1}}, {{0}, {2}}, {{0}, {3}}, {{0}, {4}}, {{0}, {5}}},                                    // causal
                                    {{{1, 3}, {2, 5}}, {{1, 3}, {2, 5}}, {{0, 0}, {0, 0}}, {{0, 0}, {5, 0}}, {{0, 4}, {3, 5}}}};      // two parts, none, all
    return probe(attention(x, x, x->C / 3, to_device(span[variant], sizeof span[0]), x->B, 2));
}

static void gather_inputs(void) { add("x", 6, 5); }
static Tensor *gather_case(void) { return probe(gather_rows(in[0], ints(3, (int[]){4, 0, 5}), 3)); }

static void columns_inputs(void) { add("x", 6, 7); }
static Tensor *columns_case(void) { return probe(columns_of(in[0], variant ? 0 : 2, variant ? 7 : 3)); }

static void concat_inputs(void) { add("x", 6, 3); add("y", 6, 4); }
static Tensor *concat_case(void) { return probe(CONCAT(NULL, in[0], in[1], NULL, in[0])); }

static void reshape_inputs(void) { add("x", 8, 3); add("w", 5, 4); add("u", 2, 10); }
static Tensor *reshape_case(void) {                      // what is reshaped has three readers, two of them in other shapes
    Tensor *y = linear(reshape(in[0], 2, 3, 4), in[1], NULL, GELU), *wide = reshape(y, 1, 3, 10), *a = linear(wide, in[2], NULL, LINEAR_ONLY);
    return probe(CONCAT(reshape(a, 1, 6, 1), y, reshape(columns_of(wide, 1, 2), 6, 1, 1)));
}

static void gru_inputs(void) { add("x", 6, 4); add("h", 2, 5); add("wi", 15, 4); add("wh", 15, 5); add("bi", 1, 15); add("bh", 1, 15); }
static Tensor *gru_case(void) {                          // three steps from a state that is given, with the same weights; all states are read
    Tensor *h[4] = {in[1]};
    for (int k = 0; k < 3; k++) {
        Tensor *x = gather_rows(in[0], ints(2, (int[]){k, 3 + k}), 2);
        h[k + 1] = gru(linear(x, in[2], in[4], LINEAR_ONLY), linear(h[k], in[3], in[5], LINEAR_ONLY), h[k]);
    }
    return probe(CONCAT(h[1], h[2], h[3]));
}

static void entropy_inputs(void) { add("x", 4, 3); add("weight", 6, 3); }
static Tensor *entropy_case(void) {
    Tensor *row_loss, *logits = linear(in[0], in[1], NULL, LINEAR_ONLY);
    double weight[] = {1.5, 0, 0.25, 3};
    return cross_entropy(logits, ints(4, (int[]){0, 1, 5, 2}), to_device(weight, sizeof weight), 0.2, variant ? 3 : -1, &row_loss);
}

static void square_inputs(void) { add("x", 3, 4); add("w", 6, 4); }
static Tensor *square_case(void) {
    Tensor *error, *target = tensor(1, 3, 6, CONSTANT, "target"), *pred = linear(in[0], in[1], NULL, LINEAR_ONLY);
    real y[18];
    double weight[9] = {1.5, 0, 0.25, 3, -1, 2, 0.5, 1, 4};
    for (int i = 0; i < 18; i++) y[i] = (real)(i % 7) / 7;
    upload(target->data, y, sizeof y);
    return square_error(pred, target, weight, 0.3, variant ? 3 : 1, &error);
}

static double value_of(Tensor *(*build)(void)) {
    begin_step();
    tape.off = true;
    Tensor *loss = build();
    tape.off = false;
    real x;
    download(&x, loss->data, sizeof x);
    return (double)x;
}

// Leaves in the place of the parameters: INPUTS gives them the same gradients
static void check_leaves(const char *name, Tensor *(*build)(void)) {
    Tensor *parameter[16];
    begin_step();
    for (int i = 0; i < ps.n; i++) parameter[i] = in[i], in[i] = leaf(constant(in[i]->data, in[i]->B, in[i]->T, in[i]->C, in[i]->name));
    backward(build(), INPUTS);
    for (int i = 0; i < ps.n; i++) {
        size_t bytes = count(in[i]) * sizeof(real);
        real *as_parameter = allocate(bytes), *as_leaf = allocate(bytes);
        download(as_parameter, parameter[i]->grad, bytes);
        download(as_leaf, in[i]->grad, bytes);
        size_t same = 0;
        for (size_t k = 0; k < count(in[i]); k++) same += as_parameter[k] == as_leaf[k];       // 0 may be -0: one is added to a zero, the other written
        CHECK(same == count(in[i]), "%s variant %d: %s has another gradient as a leaf", name, variant, in[i]->name);
        free(as_parameter), free(as_leaf);
        in[i] = parameter[i];
    }
}

// all inputs of one case
static void gradcheck(const char *name, void (*inputs)(void), Tensor *(*build)(void), int variants) {
    for (variant = 0; variant < variants; variant++) {
        for (int pass = 0; pass < 2; pass++) {
            if (!pass) begin_dry_run(); else end_dry_run(false);
            params_free(&ps);
            inputs();
            params_create(&ps, true, 3 + (uint64_t)variant);
            begin_step();
            backward(build(), PARAMS);
            check_leaves(name, build);
        }
        for (int i = 0; i < ps.n; i++) {
            size_t n = count(in[i]);
            real *x = NEW(real, n), *g = NEW(real, n);
            double worst = 0, largest = 0, eps = 1e-5;
            download(x, in[i]->data, n * sizeof(real));
            download(g, in[i]->grad, n * sizeof(real));
            for (size_t j = 0; j < n; j++) {
                real old = x[j];
                double f[2];
                for (int s = 0; s < 2; s++) {
                    x[j] = old + (real)(s ? -eps : eps);
                    upload(in[i]->data, x, n * sizeof(real));
                    f[s] = value_of(build);
                }
                x[j] = old;
                upload(in[i]->data, x, n * sizeof(real));
                double diff = fabs((f[0] - f[1]) / (2*eps) - (double)g[j]);
                worst = diff <= worst ? worst : diff;           // a NaN becomes and stays the worst
                largest = fmax(largest, fabs((double)g[j]));
            }
            CHECK(largest > 0 && worst / largest <= 1e-7, "%s variant %d, d %s: %g of %g", name, variant, in[i]->name, worst, largest);
            free(x), free(g);
        }
    }
}

// A sum by hand, and its terms: rows (1, 2 | 3, 4) and (0, 0 | 0, 0), targets 1, weights (2 | 0.5) and (1 | 3)
static void test_square_error(void) {
    begin_step();
    Tensor *pred = tensor(1, 2, 4, CONSTANT, "pred"), *target = tensor(1, 2, 4, CONSTANT, "target"), *error;
    real x[8] = {1, 2, 3, 4}, ones[8] = {1, 1, 1, 1, 1, 1, 1, 1}, weight[8] = {2, 2, 0.5, 0.5, 1, 1, 3, 3}, got[8], sum;
    upload(pred->data, x, sizeof x), upload(target->data, ones, sizeof ones);
    Tensor *loss = square_error(pred, target, (double[]){2, 0.5, 1, 3}, 0.5, 2, &error);
    download(got, error->data, sizeof got), download(&sum, loss->data, sizeof sum);
    for (int i = 0; i < 8; i++) CHECK_CLOSE("term", got[i], weight[i] * (x[i] - 1) * (x[i] - 1), 1e-12);
    CHECK_CLOSE("square error", sum, 0.5 * 16.5, 1e-12);
    leaf(pred);
    backward_from(loss, (real[]){10}, INPUTS);
    download(got, pred->grad, sizeof got);
    for (int i = 0; i < 8; i++) CHECK_CLOSE("gradient", got[i], 10 * 0.5 * 2 * weight[i] * (x[i] - 1), 1e-12);
}

// Rows 1 and 2 of both sequences, without their first column, into slots 3 and 4; everything else stays
static void test_cache_store(void) {
    begin_step();
    Tensor *kv = tensor(2, 4, 3, CONSTANT, "kv"), *cache = tensor(2, 6, 2, CONSTANT, "cache");
    real x[24], got[24];
    for (int i = 0; i < 24; i++) x[i] = i;
    upload(kv->data, x, sizeof x), fill(cache->data, -1, 24);
    cache_store(cache->data, 6, 3, kv, 1, 2, 1);
    download(got, cache->data, sizeof got);
    for (int b = 0; b < 2; b++) for (int w = 0; w < 6; w++) for (int c = 0; c < 2; c++)
        CHECK_CLOSE("cache", got[(b*6 + w)*2 + c], w == 3 || w == 4 ? (b*4 + w - 2)*3 + 1 + c : -1, 0);
}

// ---- rules of the tape ----------------------------------------------------------------------------------------------------------
static Tensor *reused_of(Tensor *a) {                    // b = f(a), c = g(b) + b: b has two readers
    Tensor *b = linear(a, in[1], NULL, GELU), *c = linear(b, in[2], NULL, LINEAR_ONLY);
    return gated_residual(c, b, (Modulation){0}, (Dropout){0});
}
static Tensor *reused(void) { return probe(reused_of(in[0])); }
static void reused_inputs(void) { add("x", 3, 4); add("w", 5, 4); add("u", 5, 5); }

static void test_tape(void) {
    real g[2][20], zero[12] = {0}, x[12];
    gradcheck("tensor with two readers", reused_inputs, reused, 1);

    begin_step();                                        // backward twice: activations start from zero, parameters add up
    zero_grad(&ps);
    Tensor *loss = reused();
    backward(loss, PARAMS);
    download(g[0], in[1]->grad, sizeof g[0]);
    backward(loss, PARAMS);
    download(g[1], in[1]->grad, sizeof g[1]);
    for (int i = 0; i < 20; i++) CHECK_CLOSE("backward twice adds", g[1][i], 2*g[0][i], 1e-12);

    begin_step();                                        // INPUTS: the leaf gets its gradient, parameters are untouched
    zero_grad(&ps);
    Tensor *x0 = leaf(tensor(1, 3, 4, CONSTANT, "x0"));
    download(x, in[0]->data, sizeof x);
    upload(x0->data, x, sizeof x);
    loss = probe(reused_of(x0));
    backward(loss, INPUTS);
    download(g[0], in[1]->grad, sizeof g[0]);
    for (int i = 0; i < 20; i++) CHECK(g[0][i] == 0, "a parameter gradient under INPUTS");
    CHECK(x0->grad, "the leaf has no gradient");
    download(zero, x0->grad, sizeof zero);
    backward(loss, PARAMS | INPUTS);
    download(x, x0->grad, sizeof x);
    zero_grad(&ps);
    begin_step();
    backward(reused(), PARAMS);
    download(g[1], in[0]->grad, 12 * sizeof(real));
    for (int i = 0; i < 12; i++) {
        CHECK_CLOSE("leaf gradient", zero[i], g[1][i], 1e-12);
        CHECK_CLOSE("leaf gradient, second time", x[i], g[1][i], 1e-12);
        CHECK(zero[i] != 0, "zero leaf gradient");
    }

    // backward_from a tensor: as from its dot product with the same numbers, for parameters and leaves; from a loss: times a number
    real *all[2] = {NEW(real, ps.size), NEW(real, ps.size)}, factor = -2.5;
    for (int i = 0; i < 2; i++) {
        begin_step();
        zero_grad(&ps);
        Tensor *y = reused_of(in[0]);
        if (i) backward_from(y, probe_numbers(count(y)), PARAMS); else backward(probe(y), PARAMS);
        download(all[i], ps.grad, ps.size * sizeof(real));
    }
    CHECK(!memcmp(all[0], all[1], ps.size * sizeof(real)), "backward_from gives other gradients than a dot product");
    begin_step();
    zero_grad(&ps);
    backward_from(reused(), &factor, PARAMS);
    download(all[1], ps.grad, ps.size * sizeof(real));
    for (size_t i = 0; i < ps.size; i++) CHECK_CLOSE("backward_from a loss", all[1][i], -2.5 * (double)all[0][i], 1e-12);
    begin_step();
    zero_grad(&ps);
    x0 = leaf(constant(in[0]->data, 1, 3, 4, "x0"));
    Tensor *y = reused_of(x0);
    backward_from(y, probe_numbers(count(y)), INPUTS);
    download(x, x0->grad, sizeof x), download(all[1], ps.grad, ps.size * sizeof(real));
    for (int i = 0; i < 12; i++) CHECK_CLOSE("backward_from, leaf", x[i], zero[i], 1e-12);
    for (size_t i = 0; i < ps.size; i++) CHECK(all[1][i] == 0, "a parameter gradient under INPUTS");
    free(all[0]), free(all[1]);

    // a step takes the same memory every time
    size_t used[3];
    for (int i = 0; i < 3; i++) { begin_step(); backward(reused(), PARAMS); used[i] = per_step.used; }
    CHECK(used[0] == used[1] && used[1] == used[2] && used[2] <= per_step.size, "%zu %zu %zu of %zu", used[0], used[1], used[2], per_step.size);

    // head_norm() keeps what backward needs, and nothing without a tape
    for (int off = 0; off < 2; off++) {
        begin_step();
        tape.off = off;
        y = linear(in[0], in[1], NULL, LINEAR_ONLY);
        size_t before = per_step.used;
        head_norm(y, 0, 1, in[1], 1e-5, NULL, NULL);
        CHECK(off ? per_step.used == before : per_step.used > before, "head_norm(), tape.off %d: %zu to %zu bytes", off, before, per_step.used);
        tape.off = false;
    }

    // keep(): with a tape nothing happens; without one the numbers move to the mark, and only they are held
    for (int off = 0; off < 2; off++) {
        begin_step();
        tape.off = off;
        size_t mark = per_step.used, later;
        y = reused_of(in[0]);
        real *was = y->data, before[64], after[64];
        download(before, was, count(y) * sizeof(real)), later = per_step.used;
        y = keep(y, mark);
        download(after, y->data, count(y) * sizeof(real));
        CHECK(!memcmp(before, after, count(y) * sizeof(real)), "keep() changes numbers");
        CHECK(off ? per_step.used == mark + (count(y) * sizeof(real) + 63) / 64 * 64 && y->data != was : per_step.used == later && y->data == was, "keep(), tape.off %d: %zu to %zu bytes", off, later, per_step.used);
        tape.off = false;
    }
}

// ---- optimiser against its definition -------------------------------------------------------------------------------------------
static void test_adamw(void) {
    begin_dry_run();
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(false);
        params_free(&ps);
        add("w", 1, 3);
        params_create(&ps, true, 5);
    }
    real w[3], g[3] = {0.3, -2, 5}, got[3], ema[3];
    double x[3], m[3] = {0}, v[3] = {0}, average[3];
    download(w, ps.data, sizeof w);
    for (int i = 0; i < 3; i++) x[i] = average[i] = w[i];
    for (int step_number = 1; step_number <= 4; step_number++) {
        AdamW a = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .max_norm = 1.5, .ema = 0.9999, .step = step_number};
        zero_grad(&ps);
        upload(ps.grad, g, sizeof g);
        double norm = grad_norm(&ps), decay = (1.0 + step_number) / (10.0 + step_number);
        params_update(&ps, a);
        CHECK_CLOSE("norm", norm, sqrt(0.09 + 4 + 25), 1e-12);
        for (int i = 0; i < 3; i++) {
            double d = (double)g[i] * 1.5 / (norm + 1e-6);
            m[i] = 0.9*m[i] + 0.1*d, v[i] = 0.99*v[i] + 0.01*d*d;
            x[i] -= 0.01 * (m[i] / (1 - pow(0.9, step_number)) / (sqrt(v[i] / (1 - pow(0.99, step_number))) + 1e-8) + 0.1*x[i]);
            average[i] = decay*average[i] + (1 - decay)*x[i];
        }
    }
    download(got, ps.data, sizeof got);
    download(ema, ps.ema, sizeof ema);
    for (int i = 0; i < 3; i++) { CHECK_CLOSE("AdamW", got[i], x[i], 1e-12); CHECK_CLOSE("moving average", ema[i], average[i], 1e-12); }
}

int main(void) {
    gradcheck("embedding", embedding_inputs, embedding_case, 1);
    gradcheck("linear", linear_inputs, linear_case, ACTIVATIONS + 1);   // every activation; without bias
    gradcheck("sum", sum_inputs, sum_case, ACTIVATIONS);
    gradcheck("norm_modulate", norm_inputs, norm_case, 8);     // plain, modulated, with a bias, with a bias for each group; the same of RMSNorm
    gradcheck("gated_residual", residual_inputs, residual_case, 3);     // plain, gated, gated with dropout
    gradcheck("head_norm", heads_inputs, heads_case, 2);               // some columns; a weight for the first head, one for the others, which turn
    gradcheck("rope", rope_inputs, rope_case, 1);
    gradcheck("attention", attention_inputs, attention_case, 2);
    gradcheck("gather_rows", gather_inputs, gather_case, 1);
    gradcheck("columns_of", columns_inputs, columns_case, 2);           // some, all
    gradcheck("concat", concat_inputs, concat_case, 1);
    gradcheck("reshape", reshape_inputs, reshape_case, 1);
    gradcheck("gru", gru_inputs, gru_case, 1);
    gradcheck("square_error", square_inputs, square_case, 2);           // a weight for each row; for each third of it
    gradcheck("cross_entropy", entropy_inputs, entropy_case, 2);        // with and without an excluded entry
    test_square_error();
    test_cache_store();
    test_tape();
    test_adamw();
    return finish("test_ops");
}
