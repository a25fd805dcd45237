// check_bd3lm.h: recomputes golden files of the official BD3-LM code through the functions of bd3lm.c. No second implementation: only translation.
// The files' letters are the paper's (L length, L' block_size, t level, xt noisy ids); they are translated here and nowhere else.
#pragma once

typedef struct Golden {
    const SafeTensors *st;
    const char *file;
    int passed, failed, compared;
} Golden;

__attribute__((format(printf, 2, 3))) static bool refuse(Golden *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("FAIL  %s  ", g->file);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    g->failed++;
    return false;
}

static const char *meta_text(Golden *g, const char *key) { const char *s = st_meta(g->st, key); return s ? s : ""; }
static double meta(Golden *g, const char *key) { return strtod(meta_text(g, key), NULL); }

// every key must be there, a number, and within [min, max]
static bool need_number(Golden *g, const char *key, double min, double max) {
    char *end;
    const char *s = meta_text(g, key);
    double x = strtod(s, &end);
    if (end == s || *end || !(x >= min && x <= max)) return refuse(g, "metadata %s='%s': a number from %g to %g is needed", key, s, min, max);
    return true;
}
static bool need_value(Golden *g, const char *key, const char *value) {
    const char *s = meta_text(g, key);
    if (strcmp(s, value) && !(strtod(s, NULL) == strtod(value, NULL) && *s >= '0' && *s <= '9')) return refuse(g, "not supported: %s=%s (only %s)", key, s, value);
    return true;
}

// a tensor of n numbers as doubles, NULL (and a line) if it is missing or has another size; whole: ids from 0 to below, or 0/1
static double *need_tensor(Golden *g, const char *name, size_t n, int below) {
    const StTensor *t = st_find(g->st, name);
    if (!t) { refuse(g, "%s is missing", name); return NULL; }
    if (t->count != n) { refuse(g, "%s has %zu numbers, %zu are needed", name, t->count, n); return NULL; }
    double *x = NEW(double, n);
    for (size_t i = 0; i < n; i++) {
        x[i] = st_number(t, i);
        if (below && !(x[i] >= 0 && x[i] < below && x[i] == floor(x[i]))) { refuse(g, "%s[%zu] = %g: not a whole number from 0 to %d", name, i, x[i], below - 1); free(x); return NULL; }
    }
    return x;
}
static int *to_int(double *x, size_t n) {               // frees x
    int *y = NEW(int, n);
    for (size_t i = 0; i < n; i++) y[i] = (int)x[i];
    free(x);
    return y;
}

// Compares one expected tensor by the rule of golden/README.md; a NaN stays the worst.
static void compare(Golden *g, const char *name, const double *got, size_t n) {
    const StTensor *t = st_find(g->st, name);
    if (!t) { refuse(g, "%s is missing", name); return; }
    g->compared++;
    if (t->count != n) { refuse(g, "%s has %zu numbers, %zu were computed", name, t->count, n); return; }
    bool grad = !strncmp(name, "grad.", 5), whole = !st_is_real(t), by_tensor = grad || !strcmp(meta_text(g, "rule"), "tensor");
    double tol = REAL_IS_DOUBLE ? 1e-6 : meta(g, grad ? "tol_grad" : "tol"), largest = 0, worst = -1, worst_bound = 0;
    size_t at = 0;
    bool ok = true;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(st_number(t, i)));
    for (size_t i = 0; i < n; i++) {
        double want = st_number(t, i), size = grad ? largest : fmax(1, by_tensor ? largest : fabs(want)), bound = whole ? 0 : tol * size, diff = fabs(got[i] - want);
        bool fine = isfinite(got[i]) && diff <= bound;
        double excess = fine ? (bound > 0 ? diff / bound : 0) : isfinite(diff) ? 1e9 + diff : INFINITY;
        if (excess > worst) worst = excess, at = i, worst_bound = bound;
        ok = ok && fine;
    }
    char shape[128] = "";
    for (int i = 0; i < t->dims; i++) snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%zu", i ? "," : "", t->shape[i]);
    double want = n ? st_number(t, at) : 0, have = n ? got[at] : 0;
    printf("%-4s  %s  %s  (%s)  worst |got-want| %.3g at %zu  got %.9g  want %.9g  bound %.3g\n", ok ? "ok" : "FAIL", g->file, name, shape, fabs(have - want), at, have, want, worst_bound);
    if (ok) g->passed++; else g->failed++;
}

static void compare_device(Golden *g, const char *name, const real *device, size_t n) {
    real *x = NEW(real, n);
    double *y = NEW(double, n);
    download(x, device, n * sizeof(real));
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    compare(g, name, y, n);
    free(x), free(y);
}

// kind bd3_loss_grad: loss, logits, log-probabilities and the gradient of every weight
static void check_loss_grad(Golden *g) {
    const char *algo = meta_text(g, "algo");
    bool ar = !strcmp(algo, "ar"), mdlm = !strcmp(algo, "mdlm");
    if (!ar && !mdlm && strcmp(algo, "bd3lm")) { refuse(g, "not supported: algo=%s (bd3lm, mdlm, ar are)", algo); return; }
    if (!need_value(g, "time_conditioning", "0") || !need_value(g, "mdlm_loss_scale", "0") || !need_value(g, "noise", "loglinear")) return;
    if (!need_value(g, "adaln", ar ? "0" : "1") || !need_value(g, "causal", ar ? "1" : "0") || !need_value(g, "doubled", ar || mdlm ? "0" : "1")) return;
    const char *counts[] = {"layers", "hidden", "heads", "cond_dim", "freq_dim", "mlp_ratio", "batch", "length", "block_size", "vocab"};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) if (!need_number(g, counts[i], 1, 1e6)) return;
    if (!need_number(g, "mask_id", 0, meta(g, "vocab") - 1) || !need_number(g, "rope_base", 1, 1e9) || !need_number(g, "ln_eps", 0, 1) || !need_number(g, "clip_min", 0, 1)
        || !need_number(g, "tol", 0, 1) || !need_number(g, "tol_grad", 0, 1) || !need_number(g, "training", 0, 1) || !need_number(g, "ignore_bos", 0, 1)) return;
    NetConfig c = {(int)meta(g, "layers"), (int)meta(g, "hidden"), (int)meta(g, "heads"), (int)meta(g, "cond_dim"), (int)meta(g, "vocab"), (int)meta(g, "mask_id"), !ar,
                   (int)meta(g, "freq_dim"), (int)meta(g, "mlp_ratio"), meta(g, "rope_base"), meta(g, "ln_eps")};
    int B = (int)meta(g, "batch"), T = (int)meta(g, "length"), block = mdlm ? T : (int)meta(g, "block_size"), rows = ar ? B*(T - 1) : B*T;
    if (c.C % c.NH || T % block || (ar && T < 2)) { refuse(g, "hidden=%d heads=%d length=%d block_size=%d do not fit", c.C, c.NH, T, block); return; }
    size_t blocks = (size_t)B * (size_t)(T / block), all = (size_t)B * (size_t)T;

    // inputs
    double *x0 = need_tensor(g, "in.x0", all, c.V), *am = x0 ? need_tensor(g, "in.attention_mask", all, 2) : NULL;
    double *w = am ? ar ? NEW(double, 1) : need_tensor(g, "in.t", blocks, 0) : NULL, *xt = w ? ar ? NEW(double, all) : need_tensor(g, "in.xt", all, c.V) : NULL;
    if (!xt) return;
    int *x = to_int(x0, all), *counted = to_int(am, all), *x_tau = to_int(xt, all);
    double *log_p = NEW(double, (size_t)rows * (size_t)c.V);
    real *logits = NEW(real, (size_t)rows * (size_t)c.V);
    for (size_t i = 0; !ar && i < blocks; i++) {
        if (!(w[i] > 0 && w[i] <= 1)) { refuse(g, "in.t[%zu] = %g: a level in (0,1] is needed", i, w[i]); goto freed; }
        w[i] = coded_weight(w[i], meta(g, "clip_min"));
    }
    if (!meta(g, "training") && meta(g, "ignore_bos")) for (int b = 0; b < B; b++) counted[b*T] = 0;

    // the network, once dry, then for real
    Net n = {0};
    Loss loss = {0};
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) begin_dry_run(); else end_dry_run(false);
        if (pass) net_free(&n);
        n = net_create(c, true, 1, T, 0, 0);
        for (int i = 0; pass && i < n.ps.n; i++) {
            const Param *p = n.ps.list[i];
            char name[256];
            snprintf(name, sizeof name, "param.%s", p->t.name);
            double *values = need_tensor(g, name, count(&p->t), 0);
            if (!values) goto done;
            real *r = NEW(real, count(&p->t));
            for (size_t j = 0; j < count(&p->t); j++) r[j] = (real)values[j];
            upload(p->t.data, r, count(&p->t) * sizeof(real));
            free(values), free(r);
        }
        begin_step();
        zero_grad(&n.ps);
        loss = ar ? ar_loss(&n, x, counted, B, T) : bd3_loss(&n, x, x_tau, w, counted, B, T, block);
        download(logits, loss.logits->data, (size_t)rows * (size_t)c.V * sizeof(real));     // backward overwrites them
        backward(loss.loss, PARAMS);
    }

    // outputs
    for (int i = 0; i < rows; i++) {
        double *p = log_p + (size_t)i * (size_t)c.V;
        subs_log_probs(p, logits + (size_t)i * (size_t)c.V, c.V, c.mask, ar ? c.mask : x_tau[i]);
        for (int v = 0; v < c.V; v++) if (p[v] == -INFINITY) p[v] = -1e6;                   // the official constant for "impossible"
    }
    compare(g, "out.log_probs", log_p, (size_t)rows * (size_t)c.V);
    for (size_t i = 0; i < (size_t)rows * (size_t)c.V; i++) log_p[i] = (double)logits[i];
    compare(g, "out.logits", log_p, (size_t)rows * (size_t)c.V);
    compare_device(g, "out.token_loss", loss.row_loss->data, (size_t)rows);
    compare_device(g, "out.loss", loss.loss->data, 1);
    for (int i = 0; i < n.ps.n; i++) {
        char name[256];
        snprintf(name, sizeof name, "grad.%s", n.ps.list[i]->t.name);
        compare_device(g, name, n.ps.list[i]->t.grad, count(&n.ps.list[i]->t));
    }
    for (int i = 0; i < g->st->tensors; i++) {
        const char *name = g->st->tensor[i].name;
        bool known = strncmp(name, "param.", 6);
        for (int j = 0; j < n.ps.n; j++) known = known || !strcmp(name + 6, n.ps.list[j]->t.name);
        if (!known) refuse(g, "%s: the network has no such weight", name);
    }
done:
    net_free(&n);
freed:
    free(x), free(counted), free(x_tau), free(w), free(log_p), free(logits);
}

// kind bd3_masks: which row sees which, as 0 and 1
static void check_masks(Golden *g) {
    if (!need_number(g, "length", 1, 1e4) || !need_number(g, "block_size", 1, 1e4)) return;
    int T = (int)meta(g, "length"), block = (int)meta(g, "block_size"), S = 2*T;
    if (T % block) { refuse(g, "block_size=%d does not divide length=%d", block, T); return; }
    double *mask = NEW(double, S*S), *sample = NEW(double, T*T);
    for (int i = 0; i < S; i++) {
        Span s = attends(i, T, block);
        for (int part = 0; part < 2; part++) for (int j = s.lo[part]; j < s.hi[part]; j++) mask[i*S + j] += 1;
    }
    for (int i = 0; i < T; i++) for (int j = 0; j < T; j++) sample[i*T + j] = mask[(T + i)*S + T + j];
    compare(g, "out.mask", mask, (size_t)S*(size_t)S);
    compare(g, "out.sample_mask", sample, (size_t)T*(size_t)T);
    free(mask), free(sample);
}

// kind bd3_noise: from uniforms to levels, weights and noisy ids
static void check_noise(Golden *g) {
    if (!need_value(g, "noise", "loglinear") || !need_value(g, "mdlm_loss_scale", "0") || !need_value(g, "resample", "0") || !need_value(g, "rounds_used", "1")) return;
    if (!need_number(g, "batch", 1, 1e6) || !need_number(g, "length", 1, 1e6) || !need_number(g, "block_size", 1, 1e6) || !need_number(g, "vocab", 1, 1e6)
        || !need_number(g, "mask_id", 0, meta(g, "vocab") - 1) || !need_number(g, "clip_min", 0, 1) || !need_number(g, "clip_max", 0, 1) || !need_number(g, "tol", 0, 1)
        || !need_number(g, "antithetic", 0, 1) || !need_number(g, "ignore_bos", 0, 1)) return;
    int B = (int)meta(g, "batch"), T = (int)meta(g, "length"), block = (int)meta(g, "block_size"), blocks = T / block, N = B * blocks, mask = (int)meta(g, "mask_id");
    double low = meta(g, "clip_min"), high = meta(g, "clip_max");
    bool stratified = meta(g, "antithetic") != 0;
    if (T % block) { refuse(g, "block_size=%d does not divide length=%d", block, T); return; }
    double *u = need_tensor(g, "in.u", (size_t)N, 0), *u_mask = u ? need_tensor(g, "in.u_mask", (size_t)B*(size_t)T, 0) : NULL;
    double *x0 = u_mask ? need_tensor(g, "in.x0", (size_t)B*(size_t)T, (int)meta(g, "vocab")) : NULL;
    if (!x0) return;
    int *x = to_int(x0, (size_t)B*(size_t)T), *x_tau = NEW(int, B*T);
    double *tau = NEW(double, N), *out = NEW(double, B*T);
    draw_levels(out, u, B, blocks, 0, 1, stratified);
    compare(g, "out.eps", out, (size_t)N);
    draw_levels(tau, u, B, blocks, low, high, stratified);
    compare(g, "out.t", tau, (size_t)N);
    for (int i = 0; i < N; i++) out[i] = mask_prob(tau[i]);
    compare(g, "out.move_chance", out, (size_t)N);
    for (int i = 0; i < N; i++) out[i] = -coded_weight(tau[i], low);                        // the official sign: loss = loss_scale * log p
    compare(g, "out.loss_scale", out, (size_t)N);
    for (int b = 0; b < B; b++) out[b] = coded_sigma(tau[b*blocks]);
    compare(g, "out.sigma", out, (size_t)B);
    corrupt(x_tau, x, tau, u_mask, mask, B, T, block, meta(g, "ignore_bos") != 0);
    for (int i = 0; i < B*T; i++) out[i] = x_tau[i];
    compare(g, "out.xt", out, (size_t)B*(size_t)T);
    free(u), free(u_mask), free(x), free(x_tau), free(tau), free(out);
}

// One file that is already in memory. Every out.* and grad.* tensor must have been compared.
static void check_golden(Golden *g) {
    int before = g->failed, expected = 0;
    const char *kind = meta_text(g, "kind");
    g->compared = 0;
    if (strcmp(meta_text(g, "paper"), "bd3lm")) { refuse(g, "a file of paper '%s', not of bd3lm", meta_text(g, "paper")); return; }
    if (!strcmp(kind, "bd3_loss_grad")) check_loss_grad(g);
    else if (!strcmp(kind, "bd3_masks")) check_masks(g);
    else if (!strcmp(kind, "bd3_noise")) check_noise(g);
    else refuse(g, "not supported: kind=%s", kind);
    for (int i = 0; i < g->st->tensors; i++) expected += !strncmp(g->st->tensor[i].name, "out.", 4) || !strncmp(g->st->tensor[i].name, "grad.", 5);
    if (g->failed == before && g->compared != expected) refuse(g, "%d tensors are expected, %d were compared", expected, g->compared);
}

static int run_check(int files, char **file) {
    set_up();
    Golden g = {0};
    for (int i = 0; i < files; i++) {
        size_t size;
        unsigned char *bytes = read_file(file[i], &size);
        SafeTensors st;
        const char *error = st_parse(&st, bytes, size), *slash = strrchr(file[i], '/');
        g.st = &st, g.file = slash ? slash + 1 : file[i];
        if (error) refuse(&g, "not a safetensors file: %s", error); else { check_golden(&g); st_free(&st); }
        free(bytes);
    }
    printf("%d passed, %d failed\n", g.passed, g.failed);
    return g.failed != 0;
}
