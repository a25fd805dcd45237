// check_bd3lm.h: recomputes golden files of the official BD3-LM code through the functions of bd3lm.c. No second implementation: only translation.
// The files' letters are the paper's (L length, L' block_size, t level, xt noisy ids); they are translated here and nowhere else.
#pragma once
#include "golden.h"     // brings: refuse(), need_tensor(), compare(), read_weights(), check_files()

// Metadata and weights of a network -> *c; false and a line if something is missing, not supported or does not fit.
static bool read_net_config(Golden *g, NetConfig *c, bool ar) {
    if ((!ar && !need_value(g, "time_conditioning", "0")) || !need_value(g, "adaln", ar ? "0" : "1")) return false;
    const char *whole[] = {"layers", "hidden", "heads", "mlp_ratio", "length", "vocab", "block_size", "cond_dim", "freq_dim"};
    for (int i = 0; i < (ar ? 6 : 9); i++) if (!need_whole(g, whole[i], 1, 1e6)) return false;
    if (!need_whole(g, "mask_id", 0, meta(g, "vocab") - 1) || !need_number(g, "rope_base", 1, 1e9) || !need_number(g, "ln_eps", 0, 1) || !need_number(g, "tol", 0, 1)) return false;
    *c = (NetConfig){.NL = (int)meta(g, "layers"), .C = (int)meta(g, "hidden"), .NH = (int)meta(g, "heads"), .cond = ar ? 1 : (int)meta(g, "cond_dim"),
                     .V = (int)meta(g, "vocab"), .mask = (int)meta(g, "mask_id"), .adaln = !ar, .freq = ar ? 1 : (int)meta(g, "freq_dim"),
                     .mlp = (int)meta(g, "mlp_ratio"), .rope_base = meta(g, "rope_base"), .eps = meta(g, "ln_eps")};
    if (c->C % c->NH) return refuse(g, "hidden=%d heads=%d do not fit", c->C, c->NH);
    // the weights that fix every size, before any memory is taken on the word of the metadata
    char last[64];
    snprintf(last, sizeof last, "param.blocks.%d.mlp.0.weight", c->NL - 1);
    return c->NL <= g->st->tensors && need_shape(g, "param.vocab_embed.embedding", SHAPE(c->V, c->C)) && (double)c->mlp * c->C < 1e9 && need_shape(g, last, SHAPE(c->mlp * c->C, c->C))
        && (ar || need_shape(g, "param.sigma_map.mlp.0.weight", SHAPE(c->cond, c->freq)));
}

// kind bd3_loss_grad: loss, logits, log-probabilities and the gradient of every weight
static void check_loss_grad(Golden *g) {
    const char *algo = meta_text(g, "algo");
    bool ar = !strcmp(algo, "ar"), mdlm = !strcmp(algo, "mdlm");
    NetConfig c;
    if (!ar && !mdlm && strcmp(algo, "bd3lm")) { refuse(g, "not supported: algo=%s (bd3lm, mdlm, ar are)", algo); return; }
    if (!ar && (!need_value(g, "mdlm_loss_scale", "0") || !need_value(g, "noise", "loglinear") || !need_number(g, "clip_min", 0, 1))) return;
    if (!need_value(g, "causal", ar ? "1" : "0") || !need_value(g, "doubled", ar || mdlm ? "0" : "1") || !need_whole(g, "batch", 1, 1e6)
        || !need_whole(g, "training", 0, 1) || !need_whole(g, "ignore_bos", 0, 1) || !need_number(g, "tol_grad", 0, 1) || !read_net_config(g, &c, ar)) return;
    int B = (int)meta(g, "batch"), T = (int)meta(g, "length"), block = ar ? 1 : mdlm ? T : (int)meta(g, "block_size"), S = ar ? T - 1 : T;
    if (T % block || (ar && T < 2)) { refuse(g, "length=%d block_size=%d do not fit", T, block); return; }

    // inputs
    double *x0 = need_tensor(g, "in.x0", c.V, SHAPE(B, T)), *am = x0 ? need_tensor(g, "in.attention_mask", 2, SHAPE(B, T)) : NULL;
    double *w = am ? ar ? NEW(double, 1) : need_tensor(g, "in.t", 0, SHAPE(B, T / block)) : NULL;
    double *xt = w ? ar ? NEW(double, B*T) : need_tensor(g, "in.xt", c.V, SHAPE(B, T)) : NULL;
    if (!xt) { free(x0), free(am), free(w); return; }
    size_t all = (size_t)B * (size_t)T, rows = (size_t)B * (size_t)S, n_logits = rows * (size_t)c.V;
    int *x = to_int(x0, all), *counted = to_int(am, all), *x_tau = to_int(xt, all);
    double *log_p = NEW(double, n_logits);
    real *logits = NEW(real, n_logits);
    Net net = {0};
    Loss loss = {0};
    for (int i = 0; !ar && i < B * (T / block); i++) {
        if (!(w[i] > 0 && w[i] <= 1)) { refuse(g, "in.t[%d] = %g: a level in (0,1] is needed", i, w[i]); goto done; }
        w[i] = coded_weight(w[i], meta(g, "clip_min"));
    }
    if (!meta(g, "training") && meta(g, "ignore_bos")) for (int b = 0; b < B; b++) counted[b*T] = 0;

    // the network, once dry, then for real
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        net_free(&net);
        net = net_create(c, true, 1, T, 0, 0);
        if (!read_weights(g, &net.ps)) { if (!pass) end_dry_run(false); goto done; }
        begin_step();
        zero_grad(&net.ps);
        loss = ar ? ar_loss(&net, x, counted, B, T) : bd3_loss(&net, x, x_tau, w, counted, B, T, block, true);
        download(logits, loss.logits->data, n_logits * sizeof(real));          // backward overwrites them
        backward(loss.loss, PARAMS);
    }

    // outputs
    for (size_t i = 0; i < rows; i++) {
        double *p = log_p + i * (size_t)c.V;
        subs_log_probs(p, logits + i * (size_t)c.V, c.V, c.mask, ar ? c.mask : x_tau[i]);
        for (int v = 0; v < c.V; v++) if (p[v] == -INFINITY) p[v] = -1e6;      // the official constant for "impossible"
    }
    compare(g, "out.log_probs", log_p, SHAPE(B, S, c.V));
    for (size_t i = 0; i < n_logits; i++) log_p[i] = (double)logits[i];
    compare(g, "out.logits", log_p, SHAPE(B, S, c.V));
    compare_device(g, "out.token_loss", loss.row_loss->data, SHAPE(B, S));
    compare_device(g, "out.loss", loss.loss->data, SHAPE(1));
    for (int i = 0; i < net.ps.n; i++) {
        const Tensor *t = &net.ps.list[i]->t;
        char name[256];
        int shape[2], dims = param_dims(net.ps.list[i], shape);
        snprintf(name, sizeof name, "grad.%s", t->name);
        compare_device(g, name, t->grad, dims, shape);
    }
done:
    net_free(&net);
    free(x), free(counted), free(x_tau), free(w), free(log_p), free(logits);
}

// kind bd3_masks: which row sees which, as 0 and 1
static void check_masks(Golden *g) {
    if (!need_whole(g, "length", 1, 1e4) || !need_whole(g, "block_size", 1, 1e4)) return;
    int T = (int)meta(g, "length"), block = (int)meta(g, "block_size"), S = 2*T;
    if (T % block) { refuse(g, "block_size=%d does not divide length=%d", block, T); return; }
    if (!need_shape(g, "out.mask", SHAPE(S, S)) || !need_shape(g, "out.sample_mask", SHAPE(T, T))) return;
    double *mask = NEW(double, S*S), *sample = NEW(double, T*T);
    for (int i = 0; i < S; i++) {
        Span s = attends(i, T, block);
        for (int part = 0; part < 2; part++) for (int j = s.lo[part]; j < s.hi[part]; j++) mask[i*S + j] += 1;
    }
    for (int i = 0; i < T; i++) for (int j = 0; j < T; j++) sample[i*T + j] = mask[(T + i)*S + T + j];
    compare(g, "out.mask", mask, SHAPE(S, S));
    compare(g, "out.sample_mask", sample, SHAPE(T, T));
    free(mask), free(sample);
}

// kind bd3_noise: from uniforms to levels, weights and noisy ids
static void check_noise(Golden *g) {
    if (!need_value(g, "noise", "loglinear") || !need_value(g, "mdlm_loss_scale", "0") || !need_value(g, "resample", "0") || !need_value(g, "rounds_used", "1")) return;
    if (!need_whole(g, "batch", 1, 1e6) || !need_whole(g, "length", 1, 1e6) || !need_whole(g, "block_size", 1, 1e6) || !need_whole(g, "vocab", 1, 1e6)
        || !need_whole(g, "mask_id", 0, meta(g, "vocab") - 1) || !need_whole(g, "antithetic", 0, 1) || !need_whole(g, "ignore_bos", 0, 1)
        || !need_number(g, "clip_min", 0, 1) || !need_number(g, "clip_max", 0, 1) || !need_number(g, "tol", 0, 1)) return;
    int B = (int)meta(g, "batch"), T = (int)meta(g, "length"), block = (int)meta(g, "block_size"), blocks = T / block, mask = (int)meta(g, "mask_id");
    double low = meta(g, "clip_min"), high = meta(g, "clip_max");
    bool stratified = meta(g, "antithetic") != 0;
    if (T % block) { refuse(g, "block_size=%d does not divide length=%d", block, T); return; }
    double *u = need_tensor(g, "in.u", 0, SHAPE(B, blocks)), *u_mask = u ? need_tensor(g, "in.u_mask", 0, SHAPE(1, B, T)) : NULL;
    double *x0 = u_mask ? need_tensor(g, "in.x0", (int)meta(g, "vocab"), SHAPE(B, T)) : NULL;
    if (!x0) { free(u), free(u_mask); return; }
    int N = B * blocks, *x = to_int(x0, (size_t)B*(size_t)T), *x_tau = NEW(int, B*T);
    double *tau = NEW(double, N), *out = NEW(double, B*T);
    draw_levels(out, u, B, blocks, 0, 1, stratified);
    compare(g, "out.eps", out, SHAPE(B, blocks));
    draw_levels(tau, u, B, blocks, low, high, stratified);
    compare(g, "out.t", tau, SHAPE(B, blocks));
    for (int i = 0; i < N; i++) out[i] = mask_prob(tau[i]);
    compare(g, "out.move_chance", out, SHAPE(B, blocks));
    for (int i = 0; i < N; i++) out[i] = -coded_weight(tau[i], low);                        // the official sign: loss = loss_scale * log p
    compare(g, "out.loss_scale", out, SHAPE(B, blocks));
    for (int b = 0; b < B; b++) out[b] = coded_sigma(tau[b*blocks]);
    compare(g, "out.sigma", out, SHAPE(B));
    corrupt(x_tau, x, tau, u_mask, mask, B, T, block, meta(g, "ignore_bos") != 0);
    for (int i = 0; i < B*T; i++) out[i] = x_tau[i];
    compare(g, "out.xt", out, SHAPE(B, T));
    free(u), free(u_mask), free(x), free(x_tau), free(tau), free(out);
}

// kind bd3_cache: each block, partly masked, after the clean blocks before it, by the function that sampling uses. A window that is full drops its
// oldest block, so the same from the ids of the last `window` tokens alone is another set of numbers.
static void check_cache(Golden *g) {
    NetConfig c;
    if (!read_net_config(g, &c, false) || !need_whole(g, "window", 1, 1e9)) return;
    int T = (int)meta(g, "length"), block = (int)meta(g, "block_size"), W = meta(g, "window") < T ? (int)meta(g, "window") : T, blocks = T / block;
    if (T % block || W % block) { refuse(g, "length=%d window=%s block_size=%d: blocks must fill both", T, meta_text(g, "window"), block); return; }
    if (!need_shape(g, "out.logits", SHAPE(blocks, block, c.V))) return;
    double *x0 = need_tensor(g, "in.x0", c.V, SHAPE(1, T)), *xt = x0 ? need_tensor(g, "in.xt", c.V, SHAPE(1, T)) : NULL;
    if (!xt) { free(x0); return; }
    size_t one = (size_t)block * (size_t)c.V, all = (size_t)blocks * one;
    int *x = to_int(x0, (size_t)T), *x_tau = to_int(xt, (size_t)T), *now = NEW(int, T), *row = NEW(int, T), *position = NEW(int, T);
    double *logits = NEW(double, all), *uncached = NEW(double, all);
    real *values = NEW(real, one);
    Span *span = NEW(Span, T);
    Net net = {0};
    bool off = tape.off;
    tape.off = true;
    for (int i = 0; i < T; i++) {
        Span s = attends(T + i, T, block);                                                  // the clean-clean quarter
        position[i] = i, span[i] = (Span){.lo = {s.lo[0] - T}, .hi = {s.hi[0] - T}};
    }
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        net_free(&net);
        net = net_create(c, false, 1, T, 1, W);
        if (!read_weights(g, &net.ps)) { if (!pass) end_dry_run(false); goto done; }
        Sampler s = {.net = &net, .B = 1, .L = T, .block = block, .x = now};
        memcpy(now, x, (size_t)T * sizeof(int));
        for (int b = 0, at = 0; b < blocks; b++, at += block) {
            int from = at + block > W ? at + block - W : 0, S = at + block - from;
            memcpy(now + at, x_tau + at, (size_t)block * sizeof(int));
            for (int i = 0; i < block; i++) row[i] = i;
            download(values, forward_cached(&s, at, block, row, block), one * sizeof(real));
            for (size_t i = 0; i < one; i++) logits[(size_t)b*one + i] = (double)values[i];
            for (int i = 0; i < block; i++) row[i] = S - block + i;
            begin_step();
            download(values, forward(&net, (Input){1, S, -1, now + from, position, span}, row, block)->data, one * sizeof(real));
            for (size_t i = 0; i < one; i++) uncached[(size_t)b*one + i] = (double)values[i];
            memcpy(now + at, x + at, (size_t)block * sizeof(int));
            forward_cached(&s, at, block, NULL, 0);
        }
    }
    compare(g, "out.logits", logits, SHAPE(blocks, block, c.V));
    if (W < T) compare(g, "out.logits_uncached", uncached, SHAPE(blocks, block, c.V));
done:
    tape.off = off;
    net_free(&net);
    free(x), free(x_tau), free(now), free(row), free(position), free(logits), free(uncached), free(values), free(span);
}

// kind bd3_sampler_step: from logits to the law of the next token, and the token that was drawn to its place
static void check_sampler_step(Golden *g) {
    const char *mode = meta_text(g, "mode");
    bool first = !strcmp(mode, "first_hitting");
    if (!first && strcmp(mode, "ancestral")) { refuse(g, "not supported: mode=%s (ancestral, first_hitting are)", mode); return; }
    if (!need_value(g, "noise", "loglinear") || !need_whole(g, "batch", 1, first ? 1 : 1e6) || !need_whole(g, "block_size", 1, 1e6) || !need_whole(g, "vocab", 1, 1e6)
        || !need_whole(g, "mask_id", 0, meta(g, "vocab") - 1) || !need_number(g, "nucleus_p", 0, 1) || !need_number(g, "tol", 0, 1)
        || (!first && !need_whole(g, "steps", 1, 1e9))) return;
    int B = (int)meta(g, "batch"), n = (int)meta(g, "block_size"), V = (int)meta(g, "vocab"), mask = (int)meta(g, "mask_id"), N, masks = 0;
    double *in = need_tensor(g, "in.logits", 0, SHAPE(B, n, V)), *ids = in ? need_tensor(g, "in.x", V, SHAPE(B, n)) : NULL;
    double *drawn = ids ? need_tensor(g, "in.draw", V, SHAPE(B, n)) : NULL;
    if (!drawn) { free(in), free(ids); return; }
    N = B * n;
    size_t all = (size_t)N * (size_t)V;
    int *x = to_int(ids, (size_t)N), *row = NEW(int, N);
    double *p = NEW(double, all), *q = NEW(double, all), *u = NULL, *pick = NULL, *out = NULL;
    real *logits = NEW(real, all);
    for (size_t i = 0; i < all; i++) logits[i] = (real)in[i];
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        begin_step();
        double *law = arena_take(&per_step, all * sizeof(double));
        softmax_nucleus(law, to_device(logits, all * sizeof(real)), meta(g, "nucleus_p"), mask, N, V);
        download(p, law, all * sizeof(double));
    }
    for (int i = 0; i < N; i++) for (int v = 0; v < V && x[i] != mask; v++) p[(size_t)i*(size_t)V + (size_t)v] = v == x[i];     // uncovered tokens stay
    compare(g, "out.p_x0", p, SHAPE(B, n, V));
    if (!first) {
        if (!(u = need_tensor(g, "in.t", 0, SHAPE(B)))) goto done;
        for (int i = 0; i < N; i++) {
            double *q_i = q + (size_t)i*(size_t)V, *p_i = p + (size_t)i*(size_t)V, stay = x[i] == mask ? stay_masked(u[i / n], u[i / n] - 1 / meta(g, "steps")) : 0;
            for (int v = 0; v < V; v++) q_i[v] = (1 - stay) * p_i[v];
            q_i[mask] += stay;
        }
        compare(g, "out.q_xs", q, SHAPE(B, n, V));
        for (int i = 0; i < N; i++) if (x[i] != mask) drawn[i] = x[i];
        compare(g, "out.x_next", drawn, SHAPE(B, n));
        goto done;
    }
    masks = masked_rows(row, x, n, mask, 0);
    if (!(u = need_tensor(g, "in.u", 0, SHAPE(masks))) || !(pick = need_tensor(g, "in.pick", n, SHAPE(masks)))) goto done;
    out = NEW(double, (size_t)masks * (size_t)(n + 2));                                    // level and position of each step, then the block after it
    double tau = 1;
    for (int i = 0; i < masks; i++) {
        int left = masked_rows(row, x, n, mask, 0), which = (int)pick[i];
        if (which >= left) { refuse(g, "in.pick[%d] = %d: only %d are masked", i, which, left); goto done; }
        out[i] = tau = coded_hitting(tau, left, u[i]), out[masks + i] = row[which];
        x[row[which]] = (int)drawn[row[which]];
        for (int t = 0; t < n; t++) out[2*masks + i*n + t] = x[t];
    }
    compare(g, "out.t", out, SHAPE(masks));
    compare(g, "out.position", out + masks, SHAPE(masks));
    compare(g, "out.x_next", out + 2*masks, SHAPE(masks, n));
done:
    free(in), free(drawn), free(x), free(row), free(p), free(q), free(u), free(pick), free(out), free(logits);
}

// One file that is already in memory.
static void check_golden(Golden *g) {
    const char *kind = golden_kind(g, "bd3lm");
    if (!kind) return;
    if (!strcmp(kind, "bd3_loss_grad")) check_loss_grad(g);
    else if (!strcmp(kind, "bd3_masks")) check_masks(g);
    else if (!strcmp(kind, "bd3_noise")) check_noise(g);
    else if (!strcmp(kind, "bd3_cache")) check_cache(g);
    else if (!strcmp(kind, "bd3_sampler_step")) check_sampler_step(g);
    else refuse(g, "not supported: kind=%s", kind);
    golden_complete(g);
}

static int run_check(int files, char **file) {
    set_up();
    precision = FP32;                                   // whatever the processor has
    return check_files(files, file, check_golden);
}
