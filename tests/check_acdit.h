// check_acdit.h: recomputes golden files of the official ACDiT code, and of the solvers that it uses, through the functions of acdit.c. No second implementation: only
// translation. The files' letters are b pictures, N blocks of B tokens, t levels, D numbers of a token; layers have the official layout of 2N blocks, whose last
// clean block acdit.c leaves out.
#pragma once
#include "golden.h"     // brings: refuse(), need_tensor(), compare(), read_weights(), check_files()

// as many whole numbers from `least` on as the list has, at most `room`; 0 and a line if it is none
static int read_list(Golden *g, const char *key, int *list, int room, int least) {
    int n = 0;
    for (const char *p = meta_text(g, key); n == 0 || *p; n++) {
        char *end;
        long x = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || x < least || x > 1000000 || n == room) { refuse(g, "metadata %s='%s': up to %d whole numbers from %d on are needed", key, meta_text(g, key), room, least); return 0; }
        list[n] = (int)x, p = *end ? end + 1 : end;
    }
    return n;
}
static bool read_axes(Golden *g, Axes *a, int HS) {
    a->n = read_list(g, "rope_dims", a->dims, 3, 2);
    if (!a->n) return false;
    int sum = 0;
    for (int j = 0; j < a->n; j++) { sum += a->dims[j]; if (a->dims[j] % 2) return refuse(g, "rope_dims=%s: even numbers are needed", meta_text(g, "rope_dims")); }
    if (read_list(g, "rope_lens", a->length, 3, 1) != a->n) return refuse(g, "rope_lens=%s does not fit rope_dims=%s", meta_text(g, "rope_lens"), meta_text(g, "rope_dims"));
    return sum <= HS || refuse(g, "rope_dims=%s are more than a head of %d", meta_text(g, "rope_dims"), HS);
}
static bool compare_bases(Golden *g, const char *key, Axes a, double (*base)(int length)) {
    int want[3];
    if (read_list(g, key, want, 3, 1) != a.n) return refuse(g, "%s=%s does not fit the axes", key, meta_text(g, key));
    for (int j = 0; j < a.n; j++) if (want[j] != (int)base(a.length[j])) return refuse(g, "%s: base %g, not %d", key, base(a.length[j]), want[j]);
    return true;
}

// Pictures of a file: their layout, and the order of the tokens (order: to be freed); false and a line if the metadata do not fit
static bool read_layout(Golden *g, Layout *y, int *N, int **order) {
    const char *const whole[] = {"spatial_len", "temporal_len", "ar_len", "block_size", "token_dim", "channels", "patch"};
    for (int i = 0; i < 7; i++) if (!need_whole(g, whole[i], 1, 1e5)) return false;
    if (!need_whole(g, "square_block", 0, 1) || !need_number(g, "tol", 0, 1)) return false;
    int spatial = (int)meta(g, "spatial_len"), side = (int)lrint(sqrt(spatial));
    bool square = meta(g, "square_block") != 0;
    if (side * side != spatial || meta(g, "temporal_len") * spatial > 1e5 || meta(g, "patch") > 1000 || meta(g, "channels") > 1000) return refuse(g, "spatial_len=%d temporal_len=%s are not supported", spatial, meta_text(g, "temporal_len"));
    *y = layout_of((int)meta(g, "temporal_len"), side, (int)meta(g, "patch"), (int)meta(g, "channels")), *N = (int)meta(g, "ar_len");
    if (meta(g, "token_dim") != y->D || (double)*N * meta(g, "block_size") != y->T) return refuse(g, "ar_len=%d block_size=%s token_dim=%s do not fit", *N, meta_text(g, "block_size"), meta_text(g, "token_dim"));
    const char *why = blocks_error(*y, *N, square);
    if (why || (square && y->frames > 1)) return refuse(g, "%d blocks %s", *N, why ? why : "of a video are not squares");
    *order = NEW(int, y->T), token_order(*order, *y, *N, square);
    return true;
}
// the network of a file, and that its weights fit, before any memory is taken on the word of the metadata
static bool read_net_config(Golden *g, NetConfig *c, Layout y) {
    const char *const whole[] = {"depth", "hidden", "heads", "mlp_ratio", "num_classes"};
    for (int i = 0; i < 5; i++) if (!need_whole(g, whole[i], 1, 1e5)) return false;
    *c = (NetConfig){.NL = (int)meta(g, "depth"), .C = (int)meta(g, "hidden"), .NH = (int)meta(g, "heads"), .mlp = (int)meta(g, "mlp_ratio"), .D = y.D, .classes = (int)meta(g, "num_classes"),
                     .freq = 256, .eps = 1e-6, .frames = y.frames, .side = y.side};
    if (!need_whole(g, "null_class", c->classes, c->classes)) return false;
    if (c->C % c->NH || c->C / c->NH != meta(g, "head_dim")) return refuse(g, "hidden=%d heads=%d head_dim=%s do not fit", c->C, c->NH, meta_text(g, "head_dim"));
    const char *const ropes[] = {"paper", "code"};
    int coded = find_name(g, "rope", ropes, 2);
    if (coded < 0 || !read_axes(g, &c->axes, c->C / c->NH) || !compare_bases(g, "rope_bases", c->axes, coded ? coded_rope_base : rope_base)) return false;
    if (c->axes.n == 1 && y.side > 1) return refuse(g, "not supported: one axis for pictures");
    c->angles = coded ? coded_rope_angles : rope_angles;
    char last[64];
    snprintf(last, sizeof last, "param.blocks.%d.mlp.fc1.weight", c->NL - 1);
    return (double)c->mlp * c->C < 1e7 && need_shape(g, last, SHAPE(c->mlp * c->C, c->C)) && need_shape(g, "param.x_embedder.weight", SHAPE(c->C, c->D))
        && need_shape(g, "param.y_embedder.embedding_table.weight", SHAPE(c->classes + 1, c->C));
}

static real *need_reals(Golden *g, const char *name, int dims, const int *shape) {
    double *x = need_tensor(g, name, 0, dims, shape);
    if (!x) return NULL;
    size_t n = 1;
    for (int i = 0; i < dims; i++) n *= (size_t)shape[i];
    real *r = NEW(real, n);
    for (size_t i = 0; i < n; i++) r[i] = (real)x[i];
    free(x);
    return r;
}
static int *need_ints(Golden *g, const char *name, int below, int dims, const int *shape) {
    double *x = need_tensor(g, name, below, dims, shape);
    size_t n = 1;
    for (int i = 0; i < dims; i++) n *= (size_t)shape[i];
    return x ? to_int(x, n) : NULL;
}

// The tokens behind layer l as the official layout has them; rows that acdit.c never computes are left out: the last clean block, and all clean ones of the last layer
static void compare_layer(Golden *g, int l, const Tensor *x, int B, int T, int block, int NL) {
    int clean = l < NL - 1 || T == block ? T - block : 0, S = clean + T, C = x->C;
    real *values = NEW(real, (size_t)B * (size_t)S * (size_t)C);
    double *got = NEW(double, (size_t)B * 2*(size_t)T * (size_t)C);
    bool *row = NEW(bool, B * 2*T);
    char name[32];
    download(values, x->data, (size_t)B * (size_t)S * (size_t)C * sizeof(real));
    for (int i = 0; i < B * 2*T; i++) {
        int b = i / (2*T), t = i % (2*T);
        row[i] = t >= T || t < clean;
        for (int c = 0; c < C && row[i]; c++) got[(size_t)i*(size_t)C + (size_t)c] = (double)values[((size_t)(b*S) + (size_t)(t < T ? t : clean + t - T)) * (size_t)C + (size_t)c];
    }
    snprintf(name, sizeof name, "out.layer%d", l);
    compare_some(g, name, got, row, SHAPE(B, 2*T, C));
    free(values), free(got), free(row);
}

// kind acdit_loss_grad: one training step on given noise
static void check_loss_grad(Golden *g) {
    Layout y;
    NetConfig c;
    int N, *order = NULL;
    if (!need_whole(g, "batch", 1, 1e4) || !need_number(g, "tol_grad", 0, 1) || !read_layout(g, &y, &N, &order)) return;
    int B = (int)meta(g, "batch"), T = y.T, block = T / N, D = y.D;
    real *clean = NULL, *noise = NULL, *noised = NULL;
    int *k = NULL, *label = NULL;
    Net net = {0};
    Loss loss = {0};
    double *blocks = NULL;
    if (!read_net_config(g, &c, y) || !(clean = need_reals(g, "in.clean", SHAPE(B, N, block, D))) || !(noise = need_reals(g, "in.noise", SHAPE(B, N, block, D)))
        || !(noised = need_reals(g, "in.noised", SHAPE(B, N, block, D))) || !(k = need_ints(g, "in.t", K, SHAPE(B, N))) || !(label = need_ints(g, "in.y", c.classes + 1, SHAPE(B)))) goto done;
    blocks = NEW(double, B*N);
    Tensor **after = NEW(Tensor *, c.NL), *cond = NULL;
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        net_free(&net);
        net = net_create(c, true, 1, 0, 0, 0);
        if (!read_weights(g, &net.ps)) { if (!pass) end_dry_run(false); free(after); goto done; }
        begin_step();
        zero_grad(&net.ps);
        net.after = after;
        Tensor *x = on_device(clean, B, T, D, "x");
        loss = acdit_loss(&net, x, x, on_device(noise, B, T, D, "noise"), k, label, order, N, CLEAN);
        double *level = HOST(double, B*N);
        int *labels = HOST(int, B*N);
        for (int i = 0; i < B*N; i++) level[i] = k[i], labels[i] = label[i / N];
        backward(loss.loss, PARAMS);
        tape.off = true;
        condition(&net, level, labels, B*N, NULL, &cond);
        tape.off = false;
    }
    // in.noised is what the official network was fed: it must be what noising makes of the other inputs
    real *values = NEW(real, B*T*D);
    download(values, loss.x_k->data, (size_t)(B*T*D) * sizeof(real));
    int other = -1;                                     // a place where it is not
    for (int i = 0; i < B*T*D; i++) if (!(fabs((double)values[i] - (double)noised[i]) <= 1e-6 * fmax(4, fabs((double)noised[i])))) other = i;
    if (other >= 0) refuse(g, "in.noised[%d] = %g: in.clean, in.noise and in.t give %g", other, (double)noised[other], (double)values[other]);
    compare_device(g, "out.cond", cond->data, SHAPE(B, N, c.C));
    for (int l = 0; l < c.NL; l++) compare_layer(g, l, after[l], B, T, block, c.NL);
    compare_device(g, "out.pred", loss.prediction->data, SHAPE(B, T, D));
    compare_device(g, "out.loss", loss.loss->data, 0, NULL);
    download(values, loss.error->data, (size_t)(B*T*D) * sizeof(real));
    for (int i = 0; i < B*T*D; i++) blocks[i / (block*D)] += (double)values[i] / (block*D);
    compare(g, "out.loss_block", blocks, SHAPE(B, N));
    for (int i = 0; i < net.ps.n; i++) {
        char name[256];
        int shape[2], dims = param_dims(net.ps.list[i], shape);
        snprintf(name, sizeof name, "grad.%s", net.ps.list[i]->t.name);
        compare_device(g, name, net.ps.list[i]->t.grad, dims, shape);
    }
    free(values), free(after);
done:
    net_free(&net);
    free(order), free(clean), free(noise), free(noised), free(k), free(label), free(blocks);
}

// kind acdit_rope: angles of given positions, and a vector turned by them through the op that the network uses
static void check_rope(Golden *g) {
    int shape[2], pos_shape[2];
    Axes a;
    if (!need_number(g, "tol", 0, 1) || !read_shape(g, "in.q", 2, shape) || !read_shape(g, "in.pos", 2, pos_shape) || !read_axes(g, &a, shape[1])) return;
    int P = shape[0], HS = shape[1], *pair = NULL, *m = NULL, *place = NULL;
    if (pos_shape[0] != a.n || pos_shape[1] != P) { refuse(g, "in.pos has not the shape that the metadata asks for"); return; }
    double *angle = NULL, *out = NULL;
    real *q = need_reals(g, "in.q", 2, shape), *turned = NULL;
    if (!q || !(m = need_ints(g, "in.pos", 1000000, 2, pos_shape))) goto done;
    size_t size = (size_t)P * (size_t)HS;
    angle = NEW(double, size), out = NEW(double, size), pair = NEW(int, HS), place = NEW(int, P), turned = NEW(real, size);
    for (int coded = 0; coded < 2; coded++) {
        const char *const form = coded ? "code" : "paper";
        char name[32];
        snprintf(name, sizeof name, "rope_bases_%s", form);
        if (!compare_bases(g, name, a, coded ? coded_rope_base : rope_base)) goto done;
        for (int p = 0; p < P; p++) {
            int at[3] = {0};
            for (int j = 0; j < a.n; j++) at[j] = m[j*P + p];
            (coded ? coded_rope_angles : rope_angles)(angle + (size_t)p * (size_t)HS, pair, at, a, HS);
            place[p] = p;
        }
        for (int sine = 0; sine < 2; sine++) {
            for (size_t i = 0; i < size; i++) out[i] = sine ? sin(angle[i]) : cos(angle[i]);
            snprintf(name, sizeof name, "out.%s_%s", sine ? "sin" : "cos", form), compare(g, name, out, SHAPE(P, HS));
        }
        for (int j = 0, at = 0; j < a.n; at += a.dims[j++]) {         // the frequencies: angles at position 1
            int one[3] = {j == 0, j == 1, j == 2};
            (coded ? coded_rope_angles : rope_angles)(angle, pair, one, a, HS);
            snprintf(name, sizeof name, "out.freq_%s_%d", form, j), compare(g, name, angle + at, SHAPE(a.dims[j] / 2));
        }
        for (int p = 0; p < P; p++) {
            int at[3] = {0};
            for (int j = 0; j < a.n; j++) at[j] = m[j*P + p];
            (coded ? coded_rope_angles : rope_angles)(angle + (size_t)p * (size_t)HS, pair, at, a, HS);
        }
        for (int pass = 0; pass < 2; pass++) {
            if (!pass) begin_dry_run(); else end_dry_run(false);
            Rope r = rope_of(P, HS, angle, pair);
            begin_step();
            Tensor *x = rope(on_device(q, 1, P, HS, "q"), r, to_device(place, (size_t)P * sizeof(int)), 1);
            download(turned, x->data, size * sizeof(real));
        }
        for (size_t i = 0; i < size; i++) out[i] = (double)turned[i];
        snprintf(name, sizeof name, "out.q_%s", form), compare(g, name, out, SHAPE(P, HS));
    }
done:
    free(q), free(m), free(angle), free(out), free(pair), free(place), free(turned);
}

// rows of spans as 0 and 1 (rows, keys)
static void paint(double *mask, int i, int keys, Span s, int shift) { for (int p = 0; p < 2; p++) for (int j = s.lo[p]; j < s.hi[p]; j++) mask[i*keys + j + shift] += 1; }
// kind acdit_mask: which row sees which
static void check_mask(Golden *g) {
    if (!need_whole(g, "ar_len", 1, 1000) || !need_whole(g, "block_size", 1, 1000)) return;
    int N = (int)meta(g, "ar_len"), block = (int)meta(g, "block_size"), T = N * block;
    if (T > 2000) { refuse(g, "ar_len=%d block_size=%d: too many tokens", N, block); return; }
    const char *const names[2] = {"out.mask_code", "out.mask_paper"}, *const cells[2] = {"cells_code", "cells_paper"};
    for (int paper = 0; paper < 2; paper++) {
        int clean = paper ? T - block : T, S = clean + T;
        long pairs = 0;
        double *mask = NEW(double, S*S);
        for (int i = 0; i < S; i++) paint(mask, i, S, attends(i, clean, block), 0);
        for (int i = 0; i < S*S; i++) pairs += mask[i] != 0;
        compare(g, names[paper], mask, SHAPE(S, S));
        if (pairs != meta(g, cells[paper]) * block * block) refuse(g, "%s=%s: %ld pairs of tokens were counted", cells[paper], meta_text(g, cells[paper]), pairs);
        free(mask);
    }
    for (int i = 1; i < N; i++) {
        int keys = (i + 1) * block;
        char name[32];
        double *mask = NEW(double, 2*block * keys);
        for (int t = 0; t < 2*block; t++) paint(mask, t, keys, attends_cached(t, block, (i - 1) * block, i * block, i * block, block), 0);
        snprintf(name, sizeof name, "out.mask_infer_%d", i), compare(g, name, mask, SHAPE(2*block, keys));
        free(mask);
    }
}

// kind acdit_patch: from a picture to tokens, where they stand, and back
static void check_patch(Golden *g) {
    if (!need_whole(g, "frames", 1, 1e4) || !need_whole(g, "channels", 1, 1e4) || !need_whole(g, "height", 1, 1e4) || !need_whole(g, "width", 1, 1e4)) return;
    Layout y;
    int N, *order = NULL;
    if (!read_layout(g, &y, &N, &order)) return;
    int T = y.T, D = y.D, edge = y.side * y.patch, axes = y.frames > 1 ? 3 : 2, shape[2];
    if (meta(g, "height") != edge || meta(g, "width") != edge || meta(g, "frames") != y.frames) { refuse(g, "height=%s width=%s frames=%s do not fit the patches", meta_text(g, "height"), meta_text(g, "width"), meta_text(g, "frames")); free(order); return; }
    real *picture = need_reals(g, "in.latent", SHAPE(y.frames, y.channels, edge, edge)), *tokens = NEW(real, T*D), *back = NEW(real, T*D);
    double *out = NEW(double, T * (D > 3 ? D : 3));
    if (!picture || !read_shape(g, "out.pos", 2, shape)) goto done;
    axes = shape[0] == 3 ? 3 : axes;
    to_tokens(tokens, picture, y, order), from_tokens(back, tokens, y, order);
    if (memcmp(back, picture, (size_t)(T*D) * sizeof(real))) refuse(g, "the way to tokens and back changes the picture");
    for (int i = 0; i < T*D; i++) out[i] = (double)tokens[i];
    compare(g, "out.tokens", out, SHAPE(N, T/N, D));
    for (int i = 0; i < T*D; i++) out[i] = picture_index(y, order[i / D], i % D);
    compare(g, "out.token_map", out, SHAPE(N, T/N, D));
    for (int i = 0; i < T; i++) out[i] = order[i];
    compare(g, "out.raster", out, SHAPE(T));
    for (int i = 0; i < T; i++) {
        int m[3] = {order[i] / y.side / y.side, order[i] / y.side % y.side, order[i] % y.side};
        for (int j = 0; j < axes; j++) out[j*T + i] = m[3 - axes + j];
    }
    compare(g, "out.pos", out, SHAPE(axes, T));
done:
    free(order), free(picture), free(tokens), free(back), free(out);
}

// kind acdit_cached_sample: the sampler as it stands, from given noise; what the network says in the first steps of each block
static struct { Golden *g; int kept; } sampled;
static void compare_sampled(const char *form, int i, int step, const Tensor *x, const Sampler *s) {
    char name[64];
    snprintf(name, sizeof name, "out.%s_b%d_s%d", form, i, step);
    if (x) compare_device(sampled.g, name, x->data, SHAPE(s->B, s->block, s->net->c.D));
}
static void watch_sampled(Sampler *s, int i, int step, Tensor *x, Tensor *eps_label, Tensor *eps_null) {
    if (step >= sampled.kept || dry) return;
    compare_sampled("x", i, step, x, s), compare_sampled("eps_cond", i, step, eps_label, s), compare_sampled("eps_null", i, step, eps_null, s);
}
static void check_sample(Golden *g) {
    Layout y;
    NetConfig c;
    int N, *order = NULL;
    if (!need_whole(g, "batch", 1, 1e4) || !need_whole(g, "steps", 1, 1000) || !need_whole(g, "eps_steps_kept", 0, 1000) || !need_number(g, "cfg", 0, 1000)
        || !need_value(g, "solver", "dpmsolver++ order 2 midpoint, linspace, final sigma 0") || !read_layout(g, &y, &N, &order)) return;
    int B = (int)meta(g, "batch"), block = y.T / N, S = (int)meta(g, "steps"), D = y.D, *label = NULL, *levels = NULL, *k = NEW(int, S + 1);
    real *noise = NULL;
    double *out = NEW(double, B * block * D);
    Net net = {0};
    if (!read_net_config(g, &c, y) || !(noise = need_reals(g, "in.noise", SHAPE(B, N, block, D))) || !(label = need_ints(g, "in.y", c.classes + 1, SHAPE(B)))
        || !(levels = need_ints(g, "in.timesteps", K, SHAPE(S)))) goto done;
    solver_levels(k, DPMPP, S);
    for (int i = 0; i < S; i++) if (k[i] != levels[i]) { refuse(g, "in.timesteps[%d] = %d, not %d", i, levels[i], k[i]); goto done; }
    sampled.g = g, sampled.kept = (int)meta(g, "eps_steps_kept");
    tape.off = true;
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        net_free(&net);
        Sampler s = sampler_create(&net, B, N, block, N - 1, 1, 0, D);
        s.guidance = meta(g, "cfg"), s.label = label, s.order = order, s.watch = watch_sampled, s.steps[0] = S;
        for (int i = 1; i < 64; i++) s.steps[i] = S;
        memcpy(s.x, noise, (size_t)(B * y.T * D) * sizeof(real));
        net = net_create(c, false, 1, B, cache_slots(N - 1, block, s.guidance), S * halves(&s) * B);
        if (!read_weights(g, &net.ps)) { if (!pass) end_dry_run(false); sampler_free(&s); goto done; }
        for (int i = 0; i < N; i++) sample_block(&s, i);
        for (int i = 0; pass && i < N; i++) {
            char name[32];
            begin_step();
            const real *x = blocks_of(&s, i, 1);
            for (int j = 0; j < B * block * D; j++) out[j] = (double)x[j];
            snprintf(name, sizeof name, "out.block_%d", i), compare(g, name, out, SHAPE(B, block, D));
        }
        sampler_free(&s);
    }
done:
    tape.off = false;
    net_free(&net);
    free(order), free(label), free(levels), free(k), free(noise), free(out);
}

// kind acdit_solver: a solver driven by eps = a x + b sin(t/100)
static void check_solver(Golden *g) {
    int kind = find_name(g, "solver", solver_name, SOLVERS), shape[4] = {0};
    const StTensor *x_in = st_find(g->st, "in.x");
    if (kind < 0 || !need_whole(g, "steps", 1, 1000) || !need_number(g, "a", -1e6, 1e6) || !need_number(g, "b", -1e6, 1e6) || !need_number(g, "tol", 0, 1)
        || !need_value(g, "train_steps", "1000") || !need_value(g, "beta_schedule", "linear")) return;
    int S = (int)meta(g, "steps"), dims = x_in ? x_in->dims : 0, *levels = NULL, *k = NEW(int, S + 1), n = 1;
    bool leading = !strcmp(meta_text(g, "spacing"), "leading");
    real *x = NULL, *z = NULL, *values = NULL;
    double *eps = NULL, *traj = NULL, *sigma = NULL;
    if (dims < 1 || dims > 3 || !read_shape(g, "in.x", dims, shape + 1)) { refuse(g, "in.x: one to three dimensions are needed"); goto done; }
    if (!leading && strcmp(meta_text(g, "spacing"), kind == DPMPP ? "linspace" : "trailing")) { refuse(g, "not supported: spacing=%s", meta_text(g, "spacing")); goto done; }
    for (int i = 1; i <= dims; i++) n *= shape[i];
    shape[0] = S;
    if (!(x = need_reals(g, "in.x", dims, shape + 1)) || !(levels = need_ints(g, "in.timesteps", K, SHAPE(S))) || (kind == DDPM && !(z = need_reals(g, "in.z", dims + 1, shape)))) goto done;
    if (leading) coded_levels(k, S); else solver_levels(k, kind, S);
    for (int i = 0; i < S; i++) if (k[i] != levels[i]) { refuse(g, "in.timesteps[%d] = %d, not %d", i, levels[i], k[i]); goto done; }
    eps = NEW(double, (size_t)S * (size_t)n), traj = NEW(double, (size_t)(S + 1) * (size_t)n), sigma = NEW(double, S + 1), values = NEW(real, n);
    for (int i = 0; i < n; i++) traj[i] = (double)x[i];
    real *x0_before = NEW(real, n);
    for (int step = 0; step < S; step++) {
        size_t at = (size_t)step * (size_t)n, bytes = (size_t)n * sizeof(real);
        for (int i = 0; i < n; i++) eps[at + (size_t)i] = meta(g, "a") * (double)x[i] + meta(g, "b") * sin(k[step] / 100.0), values[i] = (real)eps[at + (size_t)i];
        for (int pass = 0; pass < 2; pass++) {
            if (!pass) begin_dry_run(); else end_dry_run(false);
            begin_step();
            Step c = solver_step(kind, k, step);
            Tensor *x0, *next, *other = kind == DDPM ? on_device(z + at, 1, 1, n, "z") : kind == DPMPP && step ? on_device(x0_before, 1, 1, n, "x0") : NULL;
            next = take_step(on_device(x, 1, 1, n, "x"), on_device(values, 1, 1, n, "eps"), other, c, &x0);
            if (!pass) continue;
            download(x, next->data, bytes), download(x0_before, x0->data, bytes);
        }
        for (int i = 0; i < n; i++) traj[at + (size_t)(n + i)] = (double)x[i];
        sigma[step] = exp(-lambda(k[step]));
    }
    free(x0_before);
    compare(g, "out.eps", eps, dims + 1, shape);
    if (kind == DPMPP) compare(g, "out.sigmas", sigma, SHAPE(S + 1));
    shape[0] = S + 1;
    compare(g, "out.traj", traj, dims + 1, shape);
done:
    free(levels), free(k), free(x), free(z), free(values), free(eps), free(traj), free(sigma);
}

// kind acdit_embed: level and label to condition; the noise schedule; noising
static void check_embed(Golden *g) {
    int n_shape[1], x_shape[4] = {0}, dims;
    const StTensor *x_in = st_find(g->st, "in.x0");
    if (!need_whole(g, "num_classes", 1, 1e5) || !need_whole(g, "hidden", 1, 1e5) || !need_whole(g, "freq_dim", 2, 1e4) || !need_value(g, "max_period", "10000") || !need_number(g, "tol", 0, 1)
        || !read_shape(g, "in.t", 1, n_shape)) return;
    Net net = {.c = {.C = (int)meta(g, "hidden"), .classes = (int)meta(g, "num_classes"), .freq = (int)meta(g, "freq_dim")}};
    NetConfig c = net.c;
    int G = n_shape[0], *k = NULL, *label = NULL, width = 1;
    dims = x_in ? x_in->dims : 0;
    if (dims < 1 || dims > 4 || !read_shape(g, "in.x0", dims, x_shape) || x_shape[0] != G) { refuse(g, "in.x0: as many rows as in.t, in one to four dimensions, are needed"); return; }
    for (int i = 1; i < dims; i++) width *= x_shape[i];
    real *x = NULL, *noise = NULL;
    double *level = NEW(double, G), table[K];
    Tensor *features = NULL, *t_emb = NULL, *y_emb = NULL, *x_k = NULL, *table_part = NULL;
    if (!need_shape(g, "param.t_embedder.mlp.0.weight", SHAPE(c.C, c.freq)) || !need_shape(g, "param.y_embedder.embedding_table.weight", SHAPE(c.classes + 1, c.C))
        || !(k = need_ints(g, "in.t", K, SHAPE(G))) || !(label = need_ints(g, "in.y", c.classes + 1, SHAPE(G))) || !(x = need_reals(g, "in.x0", dims, x_shape)) || !(noise = need_reals(g, "in.noise", dims, x_shape))) goto done;
    for (int i = 0; i < G; i++) level[i] = k[i];
    tape.off = true;
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        net_free(&net);
        net.c = c;
        embedder_create(&net);
        params_create(&net.ps, false, 1);
        if (!read_weights(g, &net.ps)) { if (!pass) end_dry_run(false); goto done; }
        begin_step();
        features = level_features(to_device(level, (size_t)G * sizeof(double)), G, c.freq);
        condition(&net, level, label, G, &t_emb, &y_emb);
        table_part = embedding(net.labels, to_device(label, (size_t)G * sizeof(int)), 1, G);
        Rows r = rows_create(G);
        for (int i = 0; i < G; i++) noising(&r.a[i], &r.b[i], k[i]);
        x_k = mix(on_device(x, 1, G, width, "x"), r.a, on_device(noise, 1, G, width, "noise"), r.b, NULL, NULL);
    }
    compare_device(g, "out.sincos", features->data, SHAPE(G, c.freq));
    compare_device(g, "out.t_emb", t_emb->data, SHAPE(G, c.C));
    compare_device(g, "out.y_emb", table_part->data, SHAPE(G, c.C));
    compare_device(g, "out.cond", y_emb->data, SHAPE(G, c.C));
    compare_device(g, "out.xt", x_k->data, dims, x_shape);
    for (int i = 0; i < K; i++) table[i] = beta(i);
    compare(g, "out.betas", table, SHAPE(K));
    for (int i = 0; i < K; i++) table[i] = alpha_bar(i);
    compare(g, "out.abar", table, SHAPE(K));
    for (int i = 0; i < K; i++) {
        char name[32];
        snprintf(name, sizeof name, "abar_%d", i);
        if (*meta_text(g, name) && !(fabs(meta(g, name) - alpha_bar(i)) <= 1e-12 * alpha_bar(i))) refuse(g, "metadata %s=%s, not %.16g", name, meta_text(g, name), alpha_bar(i));
    }
done:
    tape.off = false;
    net_free(&net);
    free(k), free(label), free(x), free(noise), free(level);
}

// One file that is already in memory.
static void check_golden(Golden *g) {
    const char *kind = golden_kind(g, "acdit");
    if (!kind) return;
    if (!strcmp(kind, "acdit_loss_grad")) check_loss_grad(g);
    else if (!strcmp(kind, "acdit_rope")) check_rope(g);
    else if (!strcmp(kind, "acdit_mask")) check_mask(g);
    else if (!strcmp(kind, "acdit_patch")) check_patch(g);
    else if (!strcmp(kind, "acdit_cached_sample")) check_sample(g);
    else if (!strcmp(kind, "acdit_solver")) check_solver(g);
    else if (!strcmp(kind, "acdit_embed")) check_embed(g);
    else refuse(g, "not supported: kind=%s", kind);
    golden_complete(g);
}
static int run_check(int files, char **file) {
    set_up();
    precision = FP32;                                   // whatever the processor has
    return check_files(files, file, check_golden);
}
