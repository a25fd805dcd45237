// check_df.h: recomputes golden files of the official Diffusion Forcing code through the functions of df.c and data/maze.h. No second implementation: only
// translation. The files' tensors are (T, B, C), token first; here every token of every sequence is a row.
#pragma once
#include "golden.h"     // brings: refuse(), need_tensor(), compare(), check_files()

// the schedule that the metadata names; false and a line if there is none
static bool read_schedule(Golden *g, Schedule *s) {
    int kind = find_name(g, "schedule", schedule_name, SCHEDULES);
    if (kind < 0 || !need_whole(g, "T", 1, 1e5) || !need_number(g, "tol", 0, 1)) return false;
    *s = schedule_create((ScheduleKind)kind, (int)meta(g, "T"));
    return true;
}

// Inputs of a step: levels or indices (T,B) and tokens (T,B,C), on the device after read_tokens().
typedef struct Tokens { int shape[3], N, C; real *host[4]; Tensor *x[4]; int *k, *next; } Tokens;
static void tokens_free(Tokens *t) { for (int i = 0; i < 4; i++) free(t->host[i]); free(t->k), free(t->next); }
// names: up to four tensors like the first; k, next: (T,B), numbers from low to high; NULL: none
static bool read_tokens(Golden *g, Tokens *t, const char *const names[4], const char *k, const char *next, int low, int high) {
    *t = (Tokens){0};
    if (!read_shape(g, names[0], 3, t->shape)) return false;
    t->N = t->shape[0] * t->shape[1], t->C = t->shape[2];
    size_t size = (size_t)t->N * (size_t)t->C;
    for (int i = 0; i < 4 && names[i]; i++) {
        double *x = need_tensor(g, names[i], 0, 3, t->shape);
        if (!x) return false;
        t->host[i] = NEW(real, size);
        for (size_t j = 0; j < size; j++) t->host[i][j] = (real)x[j];
        free(x);
    }
    const char *index[2] = {k, next};
    int **to[2] = {&t->k, &t->next};
    for (int i = 0; i < 2 && index[i]; i++) {
        double *x = need_tensor(g, index[i], 0, 2, t->shape);
        if (!x) return false;
        for (int n = 0; n < t->N; n++) if (!(x[n] >= low && x[n] <= high && x[n] == floor(x[n]))) { refuse(g, "%s[%d] = %g: a whole number from %d to %d is needed", index[i], n, x[n], low, high); free(x); return false; }
        *to[i] = to_int(x, (size_t)t->N);
    }
    return true;
}
static void tokens_upload(Tokens *t) {
    begin_step();
    for (int i = 0; i < 4; i++) if (t->host[i]) t->x[i] = constant(to_device(t->host[i], (size_t)t->N * (size_t)t->C * sizeof(real)), 1, t->N, t->C, "tokens");
}
static void limit(real *x, size_t n, double most) { for (size_t i = 0; i < n; i++) x[i] = (real)fmin(fmax((double)x[i], -most), most); }
static void compare_rows(Golden *g, const char *name, const Tensor *x, const Tokens *t) { if (!dry) compare_device(g, name, x->data, 3, t->shape); }
static void compare_ints(Golden *g, const char *name, const int *x, int dims, const int *shape) {
    int n = 1;
    for (int i = 0; i < dims; i++) n *= shape[i];
    double *y = NEW(double, n);
    for (int i = 0; i < n; i++) y[i] = x[i];
    compare(g, name, y, dims, shape);
    free(y);
}
// A body that computes and compares, once dry, then for real
#define FOR_PASSES(t) for (int pass = 0; pass < 2; pass++) if (pass ? end_dry_run(false) : begin_dry_run(), tokens_upload(&(t)), true)

static void check_schedule(Golden *g) {
    Schedule s;
    if (!read_schedule(g, &s)) return;
    int K = s.K;
    double *x[6], *coded = coded_alpha_bar((ScheduleKind)find_name(g, "schedule", schedule_name, SCHEDULES), K);
    for (int i = 0; i < 6; i++) x[i] = NEW(double, K);
    for (int k = 0; k < K; k++) {
        double fresh;
        x[0][k] = s.beta[k], x[1][k] = alpha_bar(&s, k), x[2][k] = snr(&s, k);
        ddpm(&x[3][k], &x[4][k], &fresh, &s, k);
        x[5][k] = k ? fresh * fresh : 0;
    }
    const char *names[] = {"out.betas", "out.alphas_cumprod", "out.snr", "out.posterior_mean_coef1", "out.posterior_mean_coef2", "out.posterior_variance"};
    for (int i = 0; i < 6; i++) compare(g, names[i], x[i], SHAPE(K)), free(x[i]);
    compare(g, "out.alphas_cumprod_coded", coded, SHAPE(K));
    free(coded), schedule_free(&s);
}

static void check_snr_weight(Golden *g) {
    Schedule s = {0};
    static const char *const forms[] = {"min_snr", "fused_coded", "fused_paper"};
    int shape[2], form = find_name(g, "form", forms, 3);
    if (form < 0 || !need_number(g, "gamma", 0, 1) || !need_number(g, "snr_clip", 1e-9, 1e9) || !read_shape(g, "in.k", 2, shape) || !read_schedule(g, &s)) { schedule_free(&s); return; }
    double *k = need_tensor(g, "in.k", s.K, 2, shape), C = meta(g, "snr_clip"), gamma = meta(g, "gamma");
    if (!k) { schedule_free(&s); return; }
    int T = shape[0], B = shape[1];
    double *w[OBJECTIVES], *history = NEW(double, T*B), *n = NEW(double, T), *h = NEW(double, T);
    for (int o = 0; o < OBJECTIVES; o++) w[o] = NEW(double, T*B);
    for (int first = 0; first < (form == 2 ? 2 : 1); first++) {
        for (int b = 0; b < B; b++) {
            for (int t = 0; t < T; t++) n[t] = fmin(snr(&s, (int)k[t*B + b]), C) / C, h[t] = 0;
            if (form) signal_history(h, n, T, gamma, form == 1 || first);
            for (int t = 0; t < T; t++) {
                history[t*B + b] = h[t];
                for (int o = 0; o < OBJECTIVES; o++) w[o][t*B + b] = snr_weight((Objective)o, snr(&s, (int)k[t*B + b]), form == 1 ? coded_history(h[t], gamma) : h[t], C);
            }
        }
        static const char *const names[2][OBJECTIVES] = {{"out.w_noise", "out.w_x0", "out.w_v"}, {"out.w_noise_first", "out.w_x0_first", "out.w_v_first"}};
        for (int o = 0; o < OBJECTIVES; o++) compare(g, names[first][o], w[o], 2, shape);
    }
    if (form == 1) compare(g, "out.h", history, 2, shape);
    for (int o = 0; o < OBJECTIVES; o++) free(w[o]);
    free(k), free(history), free(n), free(h), schedule_free(&s);
}

static void check_qsample(Golden *g) {
    Schedule s;
    Tokens t = {0};
    if (!read_schedule(g, &s)) return;
    if (!need_number(g, "clip_noise", 0, 1e9) || !read_tokens(g, &t, (const char *const[4]){"in.x0", "in.noise"}, "in.k", NULL, 0, s.K - 1)) goto done;
    size_t size = (size_t)t.N * (size_t)t.C;
    t.host[2] = NEW(real, size);
    memcpy(t.host[2], t.host[1], size * sizeof(real));
    limit(t.host[2], size, meta(g, "clip_noise"));
    FOR_PASSES(t) {
        Rows r = rows_create(t.N);
        for (int n = 0; n < t.N; n++) noising(&r.a[n], &r.b[n], alpha_bar(&s, t.k[n])), r.c[n] = -r.b[n];
        compare_rows(g, "out.x_k", mix(t.x[0], r.a, t.x[1], r.b, NULL, NULL), &t);
        compare_rows(g, "out.x_k_clamped", mix(t.x[0], r.a, t.x[2], r.b, NULL, NULL), &t);
        compare_rows(g, "out.v", mix(t.x[2], r.a, t.x[0], r.c, NULL, NULL), &t);           // v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0
    }
done:
    tokens_free(&t), schedule_free(&s);
}

static void check_convert(Golden *g) {
    Schedule s;
    Tokens t = {0};
    if (!read_schedule(g, &s)) return;
    if (!need_number(g, "clip_noise", 0, 1e9) || !read_tokens(g, &t, (const char *const[4]){"in.x_k", "in.model_out", "in.model_out"}, "in.k", NULL, 0, s.K - 1)) goto done;
    limit(t.host[2], (size_t)t.N * (size_t)t.C, meta(g, "clip_noise"));
    FOR_PASSES(t) for (int o = 0; o < OBJECTIVES; o++) {
        char name[64];
        Tensor *x0, *eps;
        split(&x0, &eps, t.x[0], t.x[o == PRED_NOISE ? 2 : 1], t.k, (Objective)o, &s);
        snprintf(name, sizeof name, "out.x0_%s", objective_name[o]), compare_rows(g, name, x0, &t);
        snprintf(name, sizeof name, "out.eps_%s", objective_name[o]), compare_rows(g, name, eps, &t);
    }
done:
    tokens_free(&t), schedule_free(&s);
}

// branch main: every token from its DDIM index to another; branch paper: row i is step i
static void check_ddim_step(Golden *g) {
    Schedule s;
    Tokens t = {0};
    bool paper = !strcmp(meta_text(g, "branch"), "paper");
    int *label = NULL, objective = find_name(g, "objective", objective_name, OBJECTIVES);
    double *guidance = NULL;
    if (objective < 0 || (!paper && !need_value(g, "branch", "main")) || !read_schedule(g, &s)) return;
    if (!need_whole(g, "S", 1, s.K) || !need_number(g, "eta", 0, 1) || !need_number(g, "clip_noise", 0, 1e9) || (!paper && !need_whole(g, "stabilization_level", 0, s.K))) goto done;
    int S = (int)meta(g, "S");
    if (!read_tokens(g, &t, (const char *const[4]){"in.x", "in.model_out", "in.noise"}, paper ? NULL : "in.curr", paper ? NULL : "in.next", 0, S)) goto done;
    size_t size = (size_t)t.N * (size_t)t.C;
    label = NEW(int, t.N), guidance = NEW(double, S);
    limit(t.host[2], size, meta(g, "clip_noise"));
    if (objective == PRED_NOISE) limit(t.host[1], size, meta(g, "clip_noise"));
    if (paper) {
        if (t.shape[0] != S) { refuse(g, "S=%d does not fit %d rows", S, t.shape[0]); goto done; }
        t.k = NEW(int, t.N), t.next = NEW(int, t.N);
        limit(t.host[0], (size_t)t.shape[1] * (size_t)t.C, 20);                            // the first step clamps pure noise
    }
    for (int n = 0; n < t.N; n++) {
        int from = paper ? S - n / t.shape[1] : t.k[n], to = paper ? from - 1 : t.next[n];
        t.k[n] = coded_level(from, S, s.K), t.next[n] = coded_level(to, S, s.K);
    }
    FOR_PASSES(t) {
        for (int n = 0; n < t.N; n++) label[n] = t.k[n] < 0 && !paper ? (int)meta(g, "stabilization_level") - 1 : t.k[n];
        Tensor *x0, *eps, *shown = stabilise(t.x[0], label, t.k, NULL, &s);
        split(&x0, &eps, shown, t.x[1], label, (Objective)objective, &s);
        compare_rows(g, "out.x0", x0, &t);
        compare_rows(g, "out.x_next", step_ddim(t.x[0], x0, eps, t.x[2], t.k, label, t.next, meta(g, "eta"), &s), &t);
        if (!paper) compare_rows(g, "out.net_x", shown, &t), compare_rows(g, "out.eps", eps, &t);
    }
    if (paper) {
        int *level = NEW(int, S + 1);
        for (int i = 0; i <= S; i++) level[i] = coded_level(S - i, S, s.K);
        for (int i = 0; i < S; i++) {
            double a, b, c, from = alpha_bar(&s, level[i]);
            ddim(&a, &b, &c, from, alpha_bar(&s, level[i + 1]), meta(g, "eta"));
            guidance[i] = coded_guidance(from, alpha_bar(&s, level[i + 1]), a, b);
        }
        compare_ints(g, "out.level", level, SHAPE(S + 1));
        compare(g, "out.guidance_const", guidance, SHAPE(S));
        free(level);
    } else {
        compare_ints(g, "out.curr_level", t.k, 2, t.shape);
        compare_ints(g, "out.next_level", t.next, 2, t.shape);
        compare_ints(g, "out.net_level", label, 2, t.shape);
    }
done:
    tokens_free(&t), free(label), free(guidance), schedule_free(&s);
}

static void check_ddpm_step(Golden *g) {
    Schedule s;
    Tokens t = {0};
    int *label = NULL, objective = find_name(g, "objective", objective_name, OBJECTIVES);
    if (objective < 0 || !need_value(g, "branch", "main") || !read_schedule(g, &s)) return;
    if (!need_whole(g, "S", s.K, s.K) || !need_number(g, "clip_noise", 0, 1e9) || !need_whole(g, "stabilization_level", 0, s.K)
        || !read_tokens(g, &t, (const char *const[4]){"in.x", "in.model_out", "in.noise", "in.noise_stab"}, "in.curr", "in.next", 0, s.K)) goto done;
    size_t size = (size_t)t.N * (size_t)t.C;
    label = NEW(int, t.N);
    for (int i = objective == PRED_NOISE ? 1 : 2; i < 4; i++) limit(t.host[i], size, meta(g, "clip_noise"));
    for (int n = 0; n < t.N; n++) {
        if (t.next[n] != (t.k[n] ? t.k[n] - 1 : 0)) { refuse(g, "in.next[%d] = %d: one level below %d is needed", n, t.next[n], t.k[n]); goto done; }
        t.k[n] = level_of(t.k[n], s.K, s.K);
    }
    FOR_PASSES(t) {
        for (int n = 0; n < t.N; n++) label[n] = t.k[n] < 0 ? (int)meta(g, "stabilization_level") - 1 : t.k[n];
        Tensor *x0, *eps, *shown = stabilise(t.x[0], label, t.k, t.x[3], &s);
        split(&x0, &eps, shown, t.x[1], label, (Objective)objective, &s);
        compare_rows(g, "out.net_x", shown, &t);
        compare_rows(g, "out.x_next", step_ddpm(t.x[0], shown, x0, t.x[2], t.k, &s), &t);
    }
    compare_ints(g, "out.net_level", label, 2, t.shape);
done:
    tokens_free(&t), free(label), schedule_free(&s);
}

static void check_matrix(Golden *g) {
    if (!need_whole(g, "horizon", 1, 1e4) || !need_whole(g, "S", 1, 1e4) || !need_number(g, "uncertainty_scale", 0, 1e4) || !need_whole(g, "T", 1, 1e6)) return;
    int T = (int)meta(g, "horizon"), S = (int)meta(g, "S"), K = (int)meta(g, "T");
    double u = meta(g, "uncertainty_scale");
    for (int which = 0; which < MATRICES + 2; which++) {               // the four; then the coded trapezoid and the pyramid of the RNN code
        MatrixKind kind = which < MATRICES ? (MatrixKind)which : TRAPEZOID;
        int rows = which < MATRICES ? matrix_rows(kind, T, S, u) : which == MATRICES ? coded_rows(TRAPEZOID, T, S, u) : S + (int)(T * u);
        char name[64];
        snprintf(name, sizeof name, "out.%s%s", which == MATRICES + 1 ? "paper_pyramid" : matrix_name[kind], which == TRAPEZOID ? "_fixed" : "");
        if (!need_shape(g, name, SHAPE(rows, T))) return;              // before memory is taken on the word of the metadata
        double *x = NEW(double, (size_t)rows * (size_t)T);
        for (int m = 0; m < rows; m++)
            for (int t = 0; t < T; t++) x[(size_t)m * (size_t)T + (size_t)t] = which < MATRICES ? matrix_entry(kind, m, t, T, S, u) : which == MATRICES ? coded_entry(TRAPEZOID, m, t, T, S, u) : coded_pyramid(m, t, S, u);
        compare(g, name, x, SHAPE(rows, T));
        free(x);
    }
    double *x = NEW(double, S + 1);
    for (int i = 0; i <= S; i++) x[i] = coded_level(i, S, K);
    compare(g, "out.levels", x, SHAPE(S + 1));
    free(x);
}

static void check_matrix_levels(Golden *g) {
    if (!need_whole(g, "T", 1, 1e6)) return;
    int K = (int)meta(g, "T");
    for (const char *p = meta_text(g, "S"); *p;) {
        char *end, name[64];
        long S = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || S < 1 || S > K) { refuse(g, "metadata S='%s': numbers from 1 to %d are needed", meta_text(g, "S"), K); return; }
        double *coded = NEW(double, S + 1), *exact = NEW(double, S + 1);
        for (int i = 0; i <= (int)S; i++) coded[i] = coded_level(i, (int)S, K), exact[i] = level_of(i, (int)S, K);
        snprintf(name, sizeof name, "out.levels_%ld", S), compare(g, name, coded, SHAPE((int)S + 1));
        snprintf(name, sizeof name, "out.exact_%ld", S), compare(g, name, exact, SHAPE((int)S + 1));
        free(coded), free(exact);
        p = *end ? end + 1 : end;
    }
}

static void check_crps(Golden *g) {
    int shape[4];
    if (!read_shape(g, "in.pred", 4, shape)) return;
    int N = shape[0], T = shape[1], B = shape[2], D = shape[3];
    if (N < 20) { refuse(g, "in.pred: %d samples are fewer than the 20 that quantiles need", N); return; }
    double *pred = need_tensor(g, "in.pred", 0, 4, shape), *truth = pred ? need_tensor(g, "in.truth", 0, 3, shape + 1) : NULL;
    if (!truth) { free(pred); return; }
    double *sample = NEW(double, N), *each = NEW(double, T * B), coded = 0, size = 0, mean = 0;
    int rank[19];
    for (int q = 0; q < 19; q++) rank[q] = quantile_rank(q + 1, N);
    for (int i = 0; i < T * B; i++) {
        double y = 0;
        for (int d = 0; d < D; d++) y += truth[(size_t)i * (size_t)D + (size_t)d];
        for (int n = 0; n < N; n++) { sample[n] = 0; for (int d = 0; d < D; d++) sample[n] += pred[((size_t)n * (size_t)(T*B) + (size_t)i) * (size_t)D + (size_t)d]; }
        each[i] = crps(sample, N, y);
        coded += quantile_loss(sample, N, y), size += fabs(y), mean += each[i] / (T * B);
    }
    coded /= size;
    compare_ints(g, "out.rank", rank, SHAPE(19));
    compare(g, "out.crps_sum", &coded, 0, NULL);
    compare(g, "out.crps_empirical", each, SHAPE(T, B));
    compare(g, "out.crps_empirical_sum", &mean, 0, NULL);
    free(pred), free(truth), free(sample), free(each);
}

static bool read_maze(Golden *g, Maze *m) {
    const char *error = maze_parse(m, meta_text(g, "maze"));
    return !error || refuse(g, "metadata maze: %s", error);
}

static void check_maze_physics(Golden *g) {
    Maze m;
    int shape[2];
    if (!need_number(g, "tol", 0, 1) || !read_maze(g, &m) || !read_shape(g, "in.action", 2, shape)) return;
    int n = shape[0];
    double *a = need_tensor(g, "in.action", 0, SHAPE(n, 2)), *q0 = a ? need_tensor(g, "in.qpos0", 0, SHAPE(2)) : NULL, *v0 = q0 ? need_tensor(g, "in.qvel0", 0, SHAPE(2)) : NULL;
    if (v0) {
        Ball b = {{q0[0], q0[1]}, {v0[0], v0[1]}};
        double *q = NEW(double, 2*n), *v = NEW(double, 2*n), *contacts = NEW(double, n);
        for (int i = 0; i < n; i++) {
            contacts[i] = maze_step(&m, &b, a + 2*i);
            for (int j = 0; j < 2; j++) q[2*i + j] = b.q[j], v[2*i + j] = b.v[j];
        }
        compare(g, "out.qpos", q, SHAPE(n, 2));
        compare(g, "out.qvel", v, SHAPE(n, 2));
        compare(g, "out.contacts", contacts, SHAPE(n));
        free(q), free(v), free(contacts);
    }
    free(a), free(q0), free(v0);
}

static void check_waypoints(Golden *g) {
    Maze m;
    if (!need_number(g, "tol", 0, 1) || !read_maze(g, &m) || !need_value(g, "iterations", "50") || !need_value(g, "discount", "0.99") || !need_value(g, "jitter", "0.2") || !need_whole(g, "cases", 1, 1000)) return;
    int states = m.rows * m.columns;
    for (int i = 0; i < (int)meta(g, "cases"); i++) {
        char name[64];
        int shape[2];
        snprintf(name, sizeof name, "in.u_%d", i);
        if (!read_shape(g, name, 2, shape) || shape[0] > 100) return;
        double *u = need_tensor(g, name, 0, SHAPE(shape[0], 2)), *start, *target;
        snprintf(name, sizeof name, "in.start_%d", i), start = need_tensor(g, name, 32, SHAPE(2));
        snprintf(name, sizeof name, "in.target_%d", i), target = need_tensor(g, name, 32, SHAPE(2));
        if (u && start && target && !is_wall(&m, (int)start[0], (int)start[1]) && !is_wall(&m, (int)target[0], (int)target[1])) {
            static Controller c;
            static double value[MAZE_STATES][MOVES], jitter[100][2];
            int goal[2] = {(int)target[0], (int)target[1]}, from[2] = {(int)start[0], (int)start[1]}, cell[100][2];
            memcpy(jitter, u, (size_t)shape[0] * sizeof *jitter);
            c.planned = false;
            int n = controller_plan(&c, &m, start, target, (const double (*)[2])jitter);
            maze_values(&m, goal, value), maze_path(&m, from, goal, cell);
            snprintf(name, sizeof name, "out.q_%d", i), compare(g, name, &value[0][0], SHAPE(states, MOVES));
            snprintf(name, sizeof name, "out.cells_%d", i), compare_ints(g, name, &cell[0][0], SHAPE(n, 2));
            snprintf(name, sizeof name, "out.waypoints_%d", i), compare(g, name, &c.waypoint[0][0], SHAPE(n, 2));
        } else refuse(g, "case %d: start or target is missing or a wall", i);
        free(u), free(start), free(target);
    }
    double *wall = need_tensor(g, "in.wall", 2, SHAPE(m.rows, m.columns));
    for (int i = 0; wall && i < states; i++) if (wall[i] != (m.cell[i] == '#')) { refuse(g, "in.wall[%d] is not that of metadata maze", i); break; }
    free(wall);
}

// the data of D4RL: controller and physics in closed loop; after a step that is done the controller sees the state before it once more
static void check_waypoint_loop(Golden *g) {
    Maze m;
    int shape[2], draws[2];
    if (!need_number(g, "tol", 0, 1) || !read_maze(g, &m) || !need_whole(g, "max_steps", 1, 1e9) || !read_shape(g, "in.target", 2, shape) || !read_shape(g, "in.u", 2, draws)) return;
    int n = shape[0], used = 0;
    double *target = need_tensor(g, "in.target", 0, SHAPE(n, 2)), *u = need_tensor(g, "in.u", 0, SHAPE(draws[0], 2)), *q0 = need_tensor(g, "in.qpos0", 0, SHAPE(2)), *v0 = need_tensor(g, "in.qvel0", 0, SHAPE(2));
    double *obs = NEW(double, 4*n), *action = NEW(double, 2*n), *done = NEW(double, n), *new_plan = NEW(double, n);
    if (target && u && q0 && v0) {
        static double jitter[100][2];
        Walk w = {.ball = {{q0[0], q0[1]}, {v0[0], v0[1]}}};
        w.seen = w.ball;
        for (int i = 0; i < n; i++) {
            const double *goal = target + 2*i;
            if (controller_needs_plan(&w.controller, goal)) {
                for (int k = 0; k < 100; k++) for (int j = 0; j < 2; j++) jitter[k][j] = used + k < draws[0] ? u[2*(used + k) + j] : 0;
                int waypoints = controller_plan(&w.controller, &m, w.seen.q, goal, (const double (*)[2])jitter);
                if (!waypoints) { refuse(g, "step %d: no way to the target", i); goto done; }
                used += waypoints - 1, new_plan[i] = 1;
            }
            done[i] = walk_step(&w, &m, (const double[2]){0}, (int)meta(g, "max_steps"), true, obs + 4*i, action + 2*i);
        }
        compare(g, "out.obs", obs, SHAPE(n, 4));
        compare(g, "out.action", action, SHAPE(n, 2));
        compare(g, "out.done", done, SHAPE(n));
        compare(g, "out.new_plan", new_plan, SHAPE(n));
    }
done:
    free(target), free(u), free(q0), free(v0), free(obs), free(action), free(done), free(new_plan);
}

// ---- networks: the files' (T,B,C) are our (B,T,C) ----

// name (T,B,C) as (B,T,C); NULL and a line if it has another shape. below > 0: levels
static real *read_sequence(Golden *g, const char *name, int below, int T, int B, int C) {
    double *x = need_tensor(g, name, below, C ? 3 : 2, (int[]){T, B, C});
    if (!x) return NULL;
    size_t width = C ? (size_t)C : 1;
    real *y = NEW(real, (size_t)T * (size_t)B * width);
    for (int t = 0; t < T; t++) for (int b = 0; b < B; b++) for (size_t c = 0; c < width; c++)
        y[((size_t)b * (size_t)T + (size_t)t) * width + c] = (real)x[((size_t)t * (size_t)B + (size_t)b) * width + c];
    free(x);
    return y;
}
static void compare_sequence(Golden *g, const char *name, const real *x, int T, int B, int C) {
    size_t width = C ? (size_t)C : 1;
    double *y = NEW(double, (size_t)T * (size_t)B * width);
    for (int t = 0; t < T; t++) for (int b = 0; b < B; b++) for (size_t c = 0; c < width; c++)
        y[((size_t)t * (size_t)B + (size_t)b) * width + c] = (double)x[((size_t)b * (size_t)T + (size_t)t) * width + c];
    compare(g, name, y, C ? 3 : 2, (int[]){T, B, C});
    free(y);
}
static void compare_tensor(Golden *g, const char *name, const Tensor *x) {
    if (dry) return;
    real *y = NEW(real, count(x));
    download(y, x->data, count(x) * sizeof(real));
    compare_sequence(g, name, y, x->T, x->B, x->C);
    free(y);
}
// numbers "a,b,..." of the metadata; returns how many, at most `most`; -1 and a line if it is no such list
static int meta_list(Golden *g, const char *key, double *x, int most) {
    int n = 0;
    for (const char *p = meta_text(g, key); *p;) {
        char *end;
        if (n == most) { refuse(g, "metadata %s: more than %d numbers", key, most); return -1; }
        x[n++] = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !isfinite(x[n - 1])) { refuse(g, "metadata %s='%s': numbers with commas are needed", key, meta_text(g, key)); return -1; }
        p = *end ? end + 1 : end;
    }
    return n;
}
static bool read_scaling(Golden *g, Scaling *n) {
    *n = (Scaling){0};
    double *mean = n->mean, *std = n->std;
    n->obs = meta_list(g, "observation_mean", mean, 4), n->act = meta_list(g, "action_mean", mean + (n->obs > 0 ? n->obs : 0), 2);
    if (n->obs < 0 || n->act < 0) return false;
    if (meta_list(g, "observation_std", std, 4) != n->obs || meta_list(g, "action_std", std + n->obs, 2) != n->act) return refuse(g, "means and standard deviations do not fit");
    if (meta(g, "use_reward") == 1) {
        n->reward = 1;
        mean[n->obs + n->act] = meta(g, "reward_mean"), std[n->obs + n->act] = meta(g, "reward_std");
    }
    for (int i = 0; i < n->obs + n->act + n->reward; i++) if (!(std[i] > 0)) return refuse(g, "a standard deviation of %g", std[i]);
    return n->obs > 0 || refuse(g, "no observation");
}

// the network that the metadata and the weights describe, without memory yet
static bool read_config(Golden *g, NetConfig *c, const Schedule *s, bool recurrent, int obs, int window) {
    *c = (NetConfig){.recurrent = recurrent, .K = s->K, .window = window, .P = 1};
    int shape[2];
    if (st_meta(g->st, "cond_dim")) {
        if (!need_whole(g, "cond_dim", 1, 1e4)) return false;
        c->E = (int)meta(g, "cond_dim");
    }
    if (recurrent) {
        if (!need_whole(g, "z_dim", 1, 1e5) || !need_whole(g, "network_size", 2, 1e4) || !need_whole(g, "num_gru_layers", 1, 64) || !need_whole(g, "num_mlp_layers", 1, 64)) return false;
        if (!read_shape(g, "param.transition_model.x_from_z.weight", 2, shape)) return false;
        c->C = shape[0], c->Z = (int)meta(g, "z_dim"), c->N = (int)meta(g, "network_size"), c->M = (int)meta(g, "num_mlp_layers"), c->G = (int)meta(g, "num_gru_layers"), c->first = obs;
        if (c->Z % c->G) return refuse(g, "%d GRU cells do not divide z_dim=%d", c->G, c->Z);
        if (c->M == 1) return true;
        if (!read_shape(g, "param.transition_model.model.mlp_before_gru.0.mlp.0.weight", 2, shape)) return false;
        c->W = shape[0];
        return true;
    }
    if (!need_whole(g, "size", 2, 1e5) || !need_whole(g, "heads", 1, 1e4) || !need_whole(g, "ff", 1, 1e6) || !need_whole(g, "layers", 1, 1000) || !need_whole(g, "causal", 0, 1)) return false;
    if (!read_shape(g, "param.diffusion_model.model.out.weight", 2, shape)) return false;
    c->C = shape[0], c->d = (int)meta(g, "size"), c->NH = (int)meta(g, "heads"), c->ff = (int)meta(g, "ff"), c->NL = (int)meta(g, "layers"), c->causal = meta(g, "causal") == 1;
    return c->d % c->NH == 0 || refuse(g, "%d heads do not divide size=%d", c->NH, c->d);
}
static void compare_grads(Golden *g, const Net *net) {
    for (int i = 0; i < net->ps.n && !dry; i++) {
        char name[256];
        int shape[2], dims = param_dims(net->ps.list[i], shape);
        snprintf(name, sizeof name, "grad.%s", net->ps.list[i]->t.name);
        compare_device(g, name, net->ps.list[i]->t.grad, dims, shape);
    }
}

// What one loss of a golden file needs; weight (B,T): that of the levels alone, masked (B,T,P): with the mask too
typedef struct LossCase { int B, T, C, E, P; real *x, *noise, *cond, *first; int *k; double *weight, *masked, scale; } LossCase;
static void loss_case_free(LossCase *c) { free(c->x), free(c->noise), free(c->cond), free(c->first), free(c->k), free(c->weight), free(c->masked); }
static int *levels_of(real *x, int n) { int *k = NEW(int, n); for (int i = 0; x && i < n; i++) k[i] = (int)x[i]; free(x); return k; }

// Weights into a network, in the dry run too: a network that the file does not hold gets no memory on the word of the metadata
static bool weights_fit(Golden *g, Net *net) {
    if (read_weights(g, &net->ps)) return true;
    net_free(net);
    if (dry) begin_dry_run(), end_dry_run(false);       // a dry run of nothing
    return false;
}
static void compare_loss(Golden *g, const LossCase *c, NetConfig config, const Schedule *s, Objective o) {
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(false); else begin_dry_run();
        Net net = net_create(config, true, 1, 0);
        if (!weights_fit(g, &net)) return;
        for (int masked = 0; masked < 2; masked++) {                     // the file has the terms without mask, their sum with it
            begin_step(), zero_grad(&net.ps);
            Tensor *x = on_device(c->x, c->B, c->T, c->C, "x"), *noise = on_device(c->noise, c->B, c->T, c->C, "noise"), *z0 = NULL;
            if (config.recurrent) z0 = rnn_start(&net, on_device(c->first, c->B, 1, config.first, "first"), c->B);
            Loss l = df_loss(&net, s, o, x, noise, c->k, on_device(c->cond, c->B, c->T, c->E, "condition"), z0, masked ? c->masked : c->weight, masked ? c->P : 1, c->scale, false);
            if (!masked) { compare_tensor(g, "out.element_loss", l.error); continue; }
            backward(l.loss, PARAMS);
            Tensor *x0, *eps;
            tape.off = true;
            split(&x0, &eps, l.x_k, l.prediction, c->k, o, s);
            tape.off = false;
            if (dry) continue;
            compare_device(g, "out.loss", l.loss->data, 0, NULL);
            compare_grads(g, &net);
            compare_tensor(g, "out.model_out", l.prediction);
            compare_tensor(g, "out.x0", x0);
            if (!config.recurrent) compare_tensor(g, "out.x_k", l.x_k);
            if (!config.recurrent) continue;
            if (config.first) compare_device(g, "out.z0", z0->data, SHAPE(c->B, config.Z));
            real *z = NEW(real, (size_t)c->T * (size_t)c->B * (size_t)config.Z);
            double *y = NEW(double, (size_t)c->T * (size_t)c->B * (size_t)config.Z);
            for (int t = 0; t < c->T; t++) download(z + t * c->B * config.Z, l.state.after[t]->data, (size_t)(c->B * config.Z) * sizeof(real));
            for (int i = 0; i < c->T * c->B * config.Z; i++) y[i] = (double)z[i];
            compare(g, "out.z", y, SHAPE(c->T, c->B, config.Z));
            free(z), free(y);
        }
        net_free(&net);
    }
}

// weights of the levels (B,T) as the metadata says: use_snr and use_cum_snr of branch paper, or use_fused_snr of branch main
static bool read_weights_of_levels(Golden *g, LossCase *c, const Schedule *s, Objective o, bool fused, bool min_snr) {      // fused alone: the history alone
    if (!need_number(g, "snr_clip", 1e-9, 1e9) || (fused && !need_number(g, "cum_snr_decay_used", 0, 1))) return false;
    double clip = meta(g, "snr_clip"), gamma = fused ? meta(g, "cum_snr_decay_used") : 0, *n = NEW(double, c->T), *h = NEW(double, c->T);
    c->weight = NEW(double, c->B * c->T);
    for (int b = 0; b < c->B; b++) {
        for (int t = 0; t < c->T; t++) n[t] = fmin(snr(s, c->k[b*c->T + t]), clip) / clip, h[t] = 0;
        if (fused) signal_history(h, n, c->T, gamma, true);
        for (int t = 0; t < c->T; t++) c->weight[b*c->T + t] = min_snr ? snr_weight(o, snr(s, c->k[b*c->T + t]), coded_history(h[t], gamma), clip) : fused && t ? clip * h[t] : 0.5 * clip;
    }
    free(n), free(h);
    return true;
}

static void check_gru_loss_grad(Golden *g) {
    Schedule s = {0};
    NetConfig config;
    Scaling norm = {0};
    LossCase c = {.P = 1};
    double *obs = NULL, *act = NULL, *rew = NULL, *alive = NULL;
    int shape[3], objective = find_name(g, "objective", objective_name, OBJECTIVES);
    bool planner = !strcmp(meta_text(g, "net"), "planner");
    if (objective < 0 || (!planner && !need_value(g, "net", "series")) || !read_schedule(g, &s)) goto done;
    if (!need_number(g, "tol_grad", 0, 1) || !need_number(g, "loss_factor", 0, 1e9) || !need_whole(g, "use_snr", 0, 1) || !need_whole(g, "use_cum_snr", 0, 1)) goto done;
    if (planner) {
        if (!read_scaling(g, &norm) || norm.obs != 4 || norm.act != 2 || !need_whole(g, "frame_stack", 1, 1000) || !read_shape(g, "in.observations", 3, shape)) { refuse(g, "not a planner of four observations and two actions"); goto done; }
        int B = shape[0], n = shape[1], fs = (int)meta(g, "frame_stack"), ch = scaling_channels(&norm);
        if (n % fs) { refuse(g, "frame_stack=%d does not divide %d frames", fs, n); goto done; }
        c.B = B, c.T = n / fs, c.P = fs, c.C = fs * ch;
        obs = need_tensor(g, "in.observations", 0, SHAPE(B, n, 4)), act = need_tensor(g, "in.actions", 0, SHAPE(B, n, 2));
        rew = need_tensor(g, "in.rewards", 0, SHAPE(B, n)), alive = need_tensor(g, "in.nonterminals", 2, SHAPE(B, n));
        if (!obs || !act || !rew || !alive) goto done;
        c.x = NEW(real, B*n*ch), c.first = NEW(real, 4*B), c.masked = NEW(double, B*n);
        for (int b = 0; b < B; b++) {
            for (int j = 0; j < n; j++) scale_frame(&norm, c.x + (b*n + j)*ch, j + 1 < n ? obs + (b*n + j + 1)*4 : NULL, act + (b*n + j)*2, rew[b*n + j]);
            scale_observation(&norm, c.first + 4*b, obs + b*n*4);
            for (int j = 0; j < n; j++) c.masked[b*n + j] = (j ? c.masked[b*n + j - 1] : 1) * alive[b*n + j];
        }
    } else {
        if (!read_shape(g, "in.x", 3, shape)) goto done;
        c.T = shape[0], c.B = shape[1], c.C = shape[2];
        c.x = read_sequence(g, "in.x", 0, c.T, c.B, c.C);
    }
    if (!read_config(g, &config, &s, true, planner ? 4 : 0, c.T)) goto done;
    if (config.C != c.C) { refuse(g, "a network for tokens of %d numbers, not %d", config.C, c.C); goto done; }
    c.E = config.E;
    if (c.E && !(c.cond = read_sequence(g, "in.cond", 0, c.T, c.B, c.E))) goto done;
    for (int b = 0; c.cond && b < c.B; b++) for (int e = 0; e < c.E; e++) c.cond[b*c.T*c.E + e] = 0;          // that of the first token
    c.noise = read_sequence(g, "in.noise", 0, c.T, c.B, c.C);
    real *k = read_sequence(g, "in.k", s.K, c.T, c.B, 0);
    if (!k || !c.noise || !c.x) { free(k); goto done; }
    c.k = levels_of(k, c.B * c.T), c.scale = meta(g, "loss_factor") / ((double)c.B * c.T * c.C);
    limit(c.noise, (size_t)c.B * (size_t)c.T * (size_t)c.C, meta(g, "clip_noise"));
    bool weigh = meta(g, "use_snr") == 1;
    if (!read_weights_of_levels(g, &c, &s, (Objective)objective, meta(g, "use_cum_snr") == 1, weigh)) goto done;
    if (!c.masked) { c.masked = NEW(double, c.B * c.T); for (int i = 0; i < c.B * c.T; i++) c.masked[i] = 1; }
    for (int i = 0; i < c.B * c.T * c.P; i++) c.masked[i] *= c.weight[i / c.P];
    if (planner) compare_sequence(g, "out.x", c.x, c.T, c.B, c.C);
    compare_loss(g, &c, config, &s, (Objective)objective);
    // element_loss has no loss_factor and no mask; square_error()'s terms have no factor either
done:
    free(obs), free(act), free(rew), free(alive), loss_case_free(&c), schedule_free(&s);
}

static void check_transformer_loss_grad(Golden *g) {
    Schedule s = {0};
    NetConfig config;
    Scaling norm = {0};
    LossCase c = {.P = 1};
    double *obs = NULL, *act = NULL, *alive = NULL, *terminal = NULL, *k_first = NULL, *mask = NULL;
    real *k = NULL;
    int shape[3], objective = find_name(g, "objective", objective_name, OBJECTIVES);
    if (objective < 0 || !read_schedule(g, &s)) goto done;
    if (!need_number(g, "tol_grad", 0, 1) || !need_number(g, "clip_noise", 0, 1e9) || !need_whole(g, "use_fused_snr", 0, 1) || !need_whole(g, "frame_stack", 1, 1000) || !need_whole(g, "n_tokens", 1, 1e5)) goto done;
    if (!read_scaling(g, &norm) || !read_shape(g, "in.observations", 3, shape)) goto done;
    int fs = (int)meta(g, "frame_stack"), T = (int)meta(g, "n_tokens"), B = shape[0], n = shape[1], ch = scaling_channels(&norm), F = fs * T;
    if (n != fs * (T - 1) + 1) { refuse(g, "%d frames for %d tokens", n, T); goto done; }
    c.B = B, c.T = T, c.P = fs, c.C = fs * ch;
    obs = need_tensor(g, "in.observations", 0, SHAPE(B, n, 4)), act = need_tensor(g, "in.actions", 0, SHAPE(B, n, 2)), alive = need_tensor(g, "in.nonterminals", 2, SHAPE(B, n));
    if (!obs || !act || !alive || !read_config(g, &config, &s, false, 0, T)) goto done;
    if (config.C != c.C) { refuse(g, "a network for tokens of %d numbers, not %d", config.C, c.C); goto done; }
    if (!config.causal && !(terminal = need_tensor(g, "in.terminal", T + 1, SHAPE(B)))) goto done;
    if (st_find(g->st, "in.k_first") && !(k_first = need_tensor(g, "in.k_first", s.K, SHAPE(B)))) goto done;
    k = read_sequence(g, "in.k_raw", s.K, T, B, 0), c.noise = read_sequence(g, "in.noise", 0, T, B, c.C);
    if (!k || !c.noise) goto done;
    limit(c.noise, (size_t)B * (size_t)T * (size_t)c.C, meta(g, "clip_noise"));
    c.x = NEW(real, B*F*ch), c.masked = NEW(double, B*F), mask = NEW(double, B*F);
    for (int b = 0; b < B; b++) {
        for (int j = 0; j < F; j++) {                                   // the first token repeats the first observation, without action
            int i = j < fs ? 0 : j - fs + 1;
            scale_frame(&norm, c.x + (b*F + j)*ch, obs + (b*n + i)*4, j < fs ? NULL : act + (b*n + i - 1)*2, 0);
            mask[b*F + j] = (j ? mask[b*F + j - 1] : 1) * (j < fs ? 1 : alive[b*n + j - fs]);
        }
        for (int t = 0; t < T; t++) {
            bool dead = true;
            for (int j = t*fs; j < (t + 1)*fs; j++) {
                double keep = terminal ? t < terminal[b] : 1;
                c.masked[b*F + j] = mask[b*F + j] * fmax(keep, 0.05);
                dead = dead && mask[b*F + j] * keep == 0;
            }
            if (dead) k[b*T + t] = (real)(s.K - 1);
        }
        if (k_first) k[b*T] = (real)k_first[b];
    }
    c.k = levels_of(k, B*T), k = NULL, c.scale = 1.0 / ((double)B * T * c.C);
    compare_sequence(g, "out.x", c.x, T, B, c.C);
    real *weight = NEW(real, B*F);
    for (int i = 0; i < B*F; i++) weight[i] = (real)c.masked[i];
    compare_sequence(g, "out.frame_weight", weight, F, B, 0);
    for (int i = 0; i < B*T; i++) weight[i] = (real)c.k[i];
    compare_sequence(g, "out.k", weight, T, B, 0);
    free(weight);
    if (!read_weights_of_levels(g, &c, &s, (Objective)objective, meta(g, "use_fused_snr") == 1, true)) goto done;
    for (int i = 0; i < B*F; i++) c.masked[i] *= c.weight[i / fs];
    compare_loss(g, &c, config, &s, (Objective)objective);
done:
    free(obs), free(act), free(alive), free(terminal), free(k_first), free(mask), free(k), loss_case_free(&c), schedule_free(&s);
}

// A sampler that replays a file: its noise, and what it does row by row
static struct Replay { const real *noise; int draws; size_t size; real *x_rows, *z_rows, *grad_rows; double *from, *to, *lo, *hi; int row, rows; } replay;
static const real *replay_noise(Sampler *s) { (void)s; return replay.noise + (size_t)(replay.draws++) * replay.size; }
static void replay_row(Sampler *s, const int *from, const int *to) {
    int lo = s->lo, hi = s->hi, m = replay.row++, B = s->B, T = s->T, C = s->net->c.C;
    if (m >= replay.rows) die("internal error: more rows than the file has");
    for (int t = 0; t < T; t++) {
        replay.from[m*T + t] = t >= lo && t < hi ? from[t - lo] : -9, replay.to[m*T + t] = t >= lo && t < hi ? to[t - lo] : -9;
        for (int b = 0; b < B; b++) for (int c = 0; c < C; c++) {
            size_t at = ((size_t)(m*T + t) * (size_t)B + (size_t)b) * (size_t)C + (size_t)c, here = ((size_t)b * (size_t)T + (size_t)t) * (size_t)C + (size_t)c;
            replay.x_rows[at] = t >= lo && t < hi ? s->x[here] : 0;
            if (s->grad) replay.grad_rows[at] = s->grad[here];
        }
    }
    replay.lo[m] = lo, replay.hi[m] = hi;
    size_t z = (size_t)T * (size_t)B * (size_t)s->net->c.Z;
    if (s->z) memcpy(replay.z_rows + (size_t)m * z, s->z + (size_t)B * (size_t)s->net->c.Z, z * sizeof(real));
}
static void replay_start(const Sampler *s, int rows) {
    size_t n = (size_t)rows * (size_t)s->T, x = n * (size_t)s->B * (size_t)s->net->c.C;
    replay.size = (size_t)s->T * (size_t)s->B * (size_t)s->net->c.C, replay.row = replay.draws = 0, replay.rows = rows;
    replay.x_rows = NEW(real, x), replay.grad_rows = NEW(real, x), replay.z_rows = NEW(real, n * (size_t)s->B * (size_t)(s->net->c.Z + 1));
    replay.from = NEW(double, n), replay.to = NEW(double, n), replay.lo = NEW(double, rows), replay.hi = NEW(double, rows);
}
static void replay_end(void) {
    free(replay.x_rows), free(replay.grad_rows), free(replay.z_rows), free(replay.from), free(replay.to), free(replay.lo), free(replay.hi);
    replay = (struct Replay){0};
}
// out.x_rows (rows+1 or rows, T, B, C); before: the state before the first row is its first entry
static void compare_rows_of(Golden *g, const char *name, const real *rows_, const real *before, int rows, int T, int B, int C) {
    size_t size = (size_t)T * (size_t)B * (size_t)C, first = before ? size : 0;
    double *y = NEW(double, first + (size_t)rows * size);
    for (int t = 0; before && t < T; t++) for (int b = 0; b < B; b++) for (int c = 0; c < C; c++) y[(t*B + b)*C + c] = (double)before[(b*T + t)*C + c];
    for (size_t i = 0; i < (size_t)rows * size; i++) y[first + i] = (double)rows_[i];
    compare(g, name, y, SHAPE(rows + (before != NULL), T, B, C));
    free(y);
}
// noise (rows,T,B,C) of the file as (rows,B,T,C), clamped
static real *read_noise(Golden *g, const char *name, int rows, int T, int B, int C) {
    double *x = need_tensor(g, name, 0, SHAPE(rows, T, B, C));
    if (!x) return NULL;
    real *y = NEW(real, (size_t)rows * (size_t)T * (size_t)B * (size_t)C);
    for (int m = 0; m < rows; m++) for (int t = 0; t < T; t++) for (int b = 0; b < B; b++) for (int c = 0; c < C; c++)
        y[((size_t)(m*B + b) * (size_t)T + (size_t)t) * (size_t)C + (size_t)c] = (real)x[((size_t)(m*T + t) * (size_t)B + (size_t)b) * (size_t)C + (size_t)c];
    limit(y, (size_t)rows * (size_t)T * (size_t)B * (size_t)C, meta(g, "clip_noise"));
    free(x);
    return y;
}

// The network of the file and a sampler for it: the largest row is run dry first. Then the weights are read. window: as the network's, if 0.
static bool open_sampler(Golden *g, Net *net, Sampler *p, NetConfig c, const Schedule *s, int B, int T) {
    Sampler asked = *p;
    asked.how.level = coded_level, asked.how.draw = replay_noise;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(false); else begin_dry_run();
        *net = net_create(c, false, 1, c.recurrent || !c.causal ? 0 : B);
        if (!weights_fit(g, net)) return false;
        if (pass) break;
        int n = !c.recurrent && T > c.window ? c.window : T, *k = NEW(int, B*n);
        replay.noise = NEW(real, B*n*c.C), replay.size = 0;
        rehearse(net, s, asked.how, B, n);
        if (c.recurrent) {                              // a pass over known tokens
            begin_step(), tape.off = true;
            State state = {.z = rnn_start(net, on_device(replay.noise, B, 1, c.first, "first"), B)};
            Tensor *x0, *eps, *x = on_device(replay.noise, B, n, c.C, "x");
            Rows r = rows_create(B*n);
            x = mix(x, r.a, x, r.b, NULL, NULL);
            split(&x0, &eps, x, net->run(net, (Input){.x = x, .k = k, .cond = c.E ? tensor(B, n, c.E, CONSTANT, "condition") : NULL}, &state), k, asked.how.objective, s);
        }
        free(k), free((real *)replay.noise), net_free(net);
    }
    tape.off = false;
    *p = sampler_create(net, s, asked.how, B, T, 0);
    p->given = asked.given, p->how.watch = replay_row;
    return true;
}

// What all runs have in common. false and a line if something is missing.
static bool read_sampling(Golden *g, Sampler *p, Schedule *s) {
    int objective = find_name(g, "objective", objective_name, OBJECTIVES);
    *p = (Sampler){.how = {.shown = -1, .clean = -1, .on_truth = true}};
    if (objective < 0 || !read_schedule(g, s)) return false;
    if (!need_whole(g, "S", 1, s->K) || !need_number(g, "eta", 0, 1) || !need_number(g, "clip_noise", 0, 1e9) || !need_number(g, "uncertainty_scale", 0, 1e4)) return false;
    p->how.objective = (Objective)objective, p->how.S = (int)meta(g, "S"), p->how.eta = meta(g, "eta"), p->how.u = meta(g, "uncertainty_scale");
    return true;
}
static bool read_matrix_and_stabilisation(Golden *g, Sampler *p, const Schedule *s) {
    int matrix = find_name(g, "scheduling_matrix", matrix_name, MATRICES);
    if (matrix < 0 || !need_whole(g, "stabilization_level", 0, s->K)) return false;
    p->how.matrix = (MatrixKind)matrix, p->how.shown = (int)meta(g, "stabilization_level") - 1, p->how.matrix_rows = coded_rows, p->how.matrix_entry = coded_entry;
    return p->how.S < s->K || refuse(g, "not supported: S=%d ancestral steps in a roll-out", p->how.S);
}

// start token | plan | padding, of the transformer; with guidance (branch main) also its gradients
static void check_main_plan(Golden *g, bool guidance) {
    Schedule s = {0};
    Sampler p = {0};
    Net net = {0};
    NetConfig config;
    Scaling scaling;
    int shape[2];
    double *start = NULL, *goal = NULL, *w = NULL;
    real *init = NULL, *noise = NULL, *before = NULL, *target = NULL;
    CodedGoal coded = {0};
    Guide guide = {.scale = 1, .futures = 1, .strength = coded_guidance_main, .gradient = coded_goal_gradient, .goal = &coded};
    if (!read_sampling(g, &p, &s) || !read_matrix_and_stabilisation(g, &p, &s) || !read_scaling(g, &scaling) || !need_whole(g, "frame_stack", 1, 1000)
        || !need_whole(g, "n_tokens", 2, 1e4) || !need_whole(g, "horizon", 1, 1e5) || !need_number(g, "guidance_scale", 0, 1e9) || !read_shape(g, "in.start", 2, shape)) goto done;
    int fs = (int)meta(g, "frame_stack"), horizon = (int)meta(g, "horizon"), H = (horizon + fs - 1) / fs, B = shape[0], ch = scaling_channels(&scaling), C = fs * ch;
    if (!read_config(g, &config, &s, false, 0, (int)meta(g, "n_tokens"))) goto done;
    int T = config.causal ? 1 + H : config.window, rows = coded_rows(p.how.matrix, H, p.how.S, p.how.u) - 1;
    if (1 + H > config.window || config.C != C) { refuse(g, "%d tokens of %d numbers do not fit the network", 1 + H, C); goto done; }
    start = need_tensor(g, "in.start", 0, SHAPE(B, scaling.obs)), init = read_sequence(g, "in.init_noise", 0, H, B, C);
    if (!start || !init || (p.how.eta > 0 && !(noise = read_noise(g, "in.noise", rows, T, B, C)))) goto done;
    limit(init, (size_t)B * (size_t)H * (size_t)C, meta(g, "clip_noise"));
    p.given = 1;
    if (guidance) {
        if (!need_value(g, "branch", "main") || !(goal = need_tensor(g, "in.goal", 0, SHAPE(B, scaling.obs)))) goto done;
        bool shared = !strcmp(meta_text(g, "weight_columns"), "shared");
        int columns = scaling.obs / 2 + 1, F = T * fs;
        if ((!shared && !need_value(g, "weight_columns", "separate")) || scaling.obs % 2) { refuse(g, "not supported: weight_columns"); goto done; }
        w = NEW(double, F * columns), target = NEW(real, B * F * ch);
        coded_weights(w, F, fs, horizon, columns, shared);
        for (int i = 0; i < B*F; i++) for (int j = 0; j < scaling.obs; j++) target[i*ch + j] = (real)(i % F < fs ? start : goal)[i / F * scaling.obs + j];
        coded = (CodedGoal){scaling.obs, scaling.act, fs, meta(g, "guidance_scale"), w, target};
        compare(g, "out.weight", w, SHAPE(F, columns));
        p.how.guide = &guide;
    } else if (meta(g, "guidance_scale") != 0) { refuse(g, "not supported: guidance in a roll-out"); goto done; }
    if (!open_sampler(g, &net, &p, config, &s, B, T)) goto done;
    replay_start(&p, rows), replay.noise = noise;
    if (guidance) p.grad = NEW(real, B*T*C);
    memset(p.x, 0, (size_t)(B*T*C) * sizeof(real));     // actions of the start, and the padding
    for (int b = 0; b < B; b++) {
        for (int f = 0; f < fs; f++) for (int j = 0; j < scaling.obs; j++) p.x[b*T*C + f*ch + j] = (real)start[b*scaling.obs + j];
        memcpy(p.x + (b*T + 1)*C, init + b*H*C, (size_t)(H*C) * sizeof(real));
    }
    before = NEW(real, B*T*C);
    memcpy(before, p.x, (size_t)(B*T*C) * sizeof(real));
    sample_chunk(&p, 0, 1, H, T);
    compare_rows_of(g, "out.x_rows", replay.x_rows, before, rows, T, B, C);
    compare(g, "out.from", replay.from, SHAPE(rows, T));
    compare(g, "out.to", replay.to, SHAPE(rows, T));
    if (guidance) compare_rows_of(g, "out.grad", replay.grad_rows, NULL, rows, T, B, C);
    sampler_free(&p), replay_end();
done:
    tape.off = false;
    if (net.ps.list) net_free(&net);
    free(start), free(goal), free(w), free(target), free(init), free(noise), free(before), schedule_free(&s);
}

// a sliding window behind known tokens, with conditions
static void check_main_window(Golden *g) {
    Schedule s = {0};
    Sampler p = {0};
    Net net = {0};
    NetConfig config;
    int shape[3], rows = 0;
    real *x = NULL, *init = NULL, *cond = NULL, *noise = NULL;
    if (!read_sampling(g, &p, &s) || !read_matrix_and_stabilisation(g, &p, &s) || !read_shape(g, "in.x", 3, shape) || !read_shape(g, "out.window_lo", 1, &rows)) goto done;
    int T = shape[0], B = shape[1], C = shape[2];
    if (!need_whole(g, "context_frames", 1, T) || !need_whole(g, "chunk_size", 1, T) || !need_whole(g, "n_tokens", 1, T) || !read_config(g, &config, &s, false, 0, (int)meta(g, "n_tokens"))) goto done;
    int given = (int)meta(g, "context_frames"), chunk = (int)meta(g, "chunk_size"), all = 0;
    for (int at = given; at < T; at += chunk) all += coded_rows(p.how.matrix, T - at < chunk ? T - at : chunk, p.how.S, p.how.u) - 1;
    if (config.C != C || !config.causal || chunk >= config.window || all != rows) { refuse(g, "chunks of %d in a window of %d, %d rows: not a causal network's roll-out", chunk, config.window, rows); goto done; }
    x = read_sequence(g, "in.x", 0, T, B, C), init = read_sequence(g, "in.init_noise", 0, T, B, C), noise = read_noise(g, "in.noise", rows, T, B, C);
    if (!x || !init || !noise || (config.E && !(cond = read_sequence(g, "in.cond", 0, T, B, config.E)))) goto done;
    limit(init, (size_t)B * (size_t)T * (size_t)C, meta(g, "clip_noise"));
    p.given = given;
    if (!open_sampler(g, &net, &p, config, &s, B, T)) goto done;
    replay_start(&p, rows), replay.noise = noise;
    for (int b = 0; b < B; b++) for (int t = 0; t < T; t++) memcpy(p.x + (b*T + t)*C, (t < given ? x : init) + (b*T + t)*C, (size_t)C * sizeof(real));
    if (cond) memcpy(p.cond, cond, (size_t)(B*T*config.E) * sizeof(real));
    for (int b = 0; cond && b < B; b++) for (int e = 0; e < config.E; e++) p.cond[b*T*config.E + e] = 0;
    roll_out(&p, chunk);
    compare_rows_of(g, "out.x_rows", replay.x_rows, NULL, rows, T, B, C);
    compare(g, "out.from", replay.from, SHAPE(rows, T));
    compare(g, "out.to", replay.to, SHAPE(rows, T));
    compare(g, "out.window_lo", replay.lo, SHAPE(rows));
    compare(g, "out.window_hi", replay.hi, SHAPE(rows));
    compare_sequence(g, "out.x", p.x, T, B, C);
    sampler_free(&p), replay_end();
done:
    tape.off = false;
    if (net.ps.list) net_free(&net);
    free(x), free(init), free(cond), free(noise), schedule_free(&s);
}

// the recurrent planner: its rows say which step a token takes; a finished one keeps its x
static void check_paper_plan(Golden *g, bool guidance) {
    Schedule s = {0};
    Sampler p = {0};
    Net net = {0};
    NetConfig config;
    Scaling scaling;
    Goal at = {0};
    Guide guide = {.scale = 1, .futures = 1, .strength = coded_guidance, .gradient = goal_gradient, .goal = &at, .repeat = true};
    int shape[2], *from = NULL, *to = NULL;
    double *obs = NULL, *goal = NULL, *index = NULL;
    real *init = NULL, *noise = NULL, *first = NULL, *before = NULL;
    if (!read_sampling(g, &p, &s) || !read_scaling(g, &scaling) || !need_whole(g, "frame_stack", 1, 1000) || !need_whole(g, "horizon_tokens", 1, 1e4) || !read_shape(g, "in.obs", 2, shape)) goto done;
    int fs = (int)meta(g, "frame_stack"), H = (int)meta(g, "horizon_tokens"), B = shape[0], C = fs * scaling_channels(&scaling), rows = p.how.S + (int)(H * p.how.u);
    if (!need_number(g, "guidance_scale", 0, 1e9) || !need_whole(g, "ddim_repeats", 0, 1000) || !need_whole(g, "n_frames", 1, 1e6) || !read_config(g, &config, &s, true, scaling.obs, H)) goto done;
    int R = (int)meta(g, "ddim_repeats");
    if (config.C != C || p.how.eta != 0) { refuse(g, "not supported: eta=%g, tokens of %d numbers", p.how.eta, C); goto done; }
    obs = need_tensor(g, "in.obs", 0, SHAPE(B, scaling.obs)), init = read_sequence(g, "in.init_noise", 0, H, B, C);
    if (!obs || !init) goto done;
    limit(init, (size_t)B * (size_t)H * (size_t)C, fmin(20, meta(g, "clip_noise")));
    if (guidance) {
        if (!need_value(g, "branch", "paper") || !(goal = need_tensor(g, "in.goal", 0, SHAPE(B, 2)))) goto done;
        at = (Goal){.scaling = &scaling, .goal = goal, .frames = fs, .weight = meta(g, "n_frames") / (double)(H * fs), .last_counts = H * fs < (int)meta(g, "n_frames")};
        guide.scale = meta(g, "guidance_scale"), guide.futures = R > 1 ? R : 1, p.how.guide = &guide;
        if (R > 1) {                                    // (rows,T,R-1,B,C) as (rows,R-1,B,T,C); the last draw of each row is not used
            double *x = need_tensor(g, "in.mcg_noise", 0, SHAPE(rows, H, R - 1, B, C));
            if (!x) goto done;
            noise = NEW(real, (size_t)rows * (size_t)(H * (R - 1)) * (size_t)(B * C));
            size_t n = 0;
            for (int m = 0; m < rows; m++) for (int j = 0; j < R - 2; j++) for (int b = 0; b < B; b++) for (int t = 0; t < H; t++) for (int c = 0; c < C; c++)
                noise[n++] = (real)x[((((size_t)m * (size_t)H + (size_t)t) * (size_t)(R - 1) + (size_t)j) * (size_t)B + (size_t)b) * (size_t)C + (size_t)c];
            free(x);
            limit(noise, n, meta(g, "clip_noise"));
        }
    } else if (meta(g, "guidance_scale") != 0) { refuse(g, "not supported: guidance in a roll-out"); goto done; }
    if (!open_sampler(g, &net, &p, config, &s, B, H)) goto done;
    replay_start(&p, rows), replay.noise = noise;
    if (guidance) p.grad = NEW(real, B*H*C);
    p.how.all = true;                                       // the official loop asks about finished tokens too
    memcpy(p.x, init, (size_t)(B*H*C) * sizeof(real));
    first = NEW(real, B * scaling.obs), before = NEW(real, B*H*C), from = NEW(int, H), to = NEW(int, H), index = NEW(double, rows * H);
    memcpy(before, p.x, (size_t)(B*H*C) * sizeof(real));
    for (int b = 0; b < B; b++) scale_observation(&scaling, first + b*scaling.obs, obs + b*scaling.obs);
    begin_step(), tape.off = true;
    Tensor *z0 = rnn_start(&net, on_device(first, B, 1, scaling.obs, "first"), B);
    compare_device(g, "out.z0", z0->data, SHAPE(B, config.Z));
    download(p.z, z0->data, count(z0) * sizeof(real));
    for (int m = 0; m < rows; m++) {
        for (int t = 0; t < H; t++) {
            int step = coded_pyramid(m, t, p.how.S, p.how.u);
            from[t] = step < p.how.S ? p.how.S - step : 1, to[t] = step < p.how.S ? from[t] - 1 : 1;
            index[m*H + t] = step < p.how.S ? step : p.how.S - 1;
        }
        sample_row(&p, 0, H, from, to);
    }
    compare_rows_of(g, "out.x_rows", replay.x_rows, before, rows, H, B, C);
    compare_rows_of(g, "out.z_rows", replay.z_rows, NULL, rows, H, B, config.Z);
    compare(g, "out.index", index, SHAPE(rows, H));
    if (guidance) compare_rows_of(g, "out.grad", replay.grad_rows, NULL, rows, H, B, C);
    sampler_free(&p), replay_end();
done:
    tape.off = false;
    if (net.ps.list) net_free(&net);
    free(obs), free(goal), free(index), free(init), free(noise), free(first), free(before), free(from), free(to), schedule_free(&s);
}

// the recurrent network on series: context as level 0 with noise, then chunks, whose finished tokens take the last step again; the state is carried on
static void check_paper_series(Golden *g) {
    Schedule s = {0};
    Sampler p = {0};
    Net net = {0};
    NetConfig config;
    int shape[3], calls = 0, *from = NULL, *to = NULL, *k = NULL;
    real *x = NULL, *cond = NULL, *context_noise = NULL, *init = NULL, *noise = NULL, *row_noise = NULL;
    double *given_noise = NULL, *of_call[5] = {0};
    if (!read_sampling(g, &p, &s) || !read_shape(g, "in.x", 3, shape) || !read_shape(g, "out.call_token", 1, &calls)) goto done;
    int T = shape[0], B = shape[1], C = shape[2];
    if (!need_whole(g, "context_frames", 1, T - 1) || !need_whole(g, "chunk_size", 1, T) || !read_config(g, &config, &s, true, 0, T)) goto done;
    int context = (int)meta(g, "context_frames"), chunk = (int)meta(g, "chunk_size"), all = 0, Z = config.Z;
    for (int at = context; at < T; at += chunk) { int n = T - at < chunk ? T - at : chunk; all += n * (p.how.S + (int)(n * p.how.u)); }
    if (config.C != C || all != calls) { refuse(g, "%d calls do not fit chunks of %d", calls, chunk); goto done; }
    x = read_sequence(g, "in.x", 0, T, B, C), context_noise = read_sequence(g, "in.context_noise", 0, context, B, C), init = read_sequence(g, "in.init_noise", 0, T - context, B, C);
    given_noise = need_tensor(g, "in.noise", 0, SHAPE(calls, B, C));
    if (!x || !context_noise || !init || !given_noise || (config.E && !(cond = read_sequence(g, "in.cond", 0, T, B, config.E)))) goto done;
    for (int b = 0; cond && b < B; b++) for (int e = 0; e < config.E; e++) cond[b*T*config.E + e] = 0;
    limit(context_noise, (size_t)(B*context*C), meta(g, "clip_noise")), limit(init, (size_t)(B*(T - context)*C), meta(g, "clip_noise"));
    if (!open_sampler(g, &net, &p, config, &s, B, T)) goto done;
    if (cond) memcpy(p.cond, cond, (size_t)(B*T*config.E) * sizeof(real));
    for (int b = 0; b < B; b++) {
        memcpy(p.x + b*T*C, x + b*T*C, (size_t)(context*C) * sizeof(real));
        memcpy(p.x + (b*T + context)*C, init + b*(T - context)*C, (size_t)((T - context)*C) * sizeof(real));
    }
    begin_step(), tape.off = true;
    k = NEW(int, B * context);
    Rows r = rows_create(B * context);
    for (int i = 0; i < B*context; i++) noising(&r.a[i], &r.b[i], alpha_bar(&s, 0));
    Tensor *x_k = mix(some_tokens(&p, p.x, 0, context, C, "context"), r.a, on_device(context_noise, B, context, C, "noise"), r.b, NULL, NULL), *x0, *eps;
    State state = {.z = rnn_start(&net, NULL, B)};
    split(&x0, &eps, x_k, net.run(&net, (Input){.x = x_k, .cond = some_tokens(&p, p.cond, 0, context, config.E, "condition"), .k = k}, &state), k, p.how.objective, &s);
    real *values = NEW(real, B*T*(C + Z));
    double *z = NEW(double, context*B*Z);
    for (int t = 0; t < context; t++) {
        download(values, state.after[t]->data, (size_t)(B*Z) * sizeof(real));
        for (int i = 0; i < B*Z; i++) z[t*B*Z + i] = (double)values[i];
    }
    memcpy(p.z + context*B*Z, values, (size_t)(B*Z) * sizeof(real));
    compare(g, "out.z_context", z, SHAPE(context, B, Z));
    download(values, x0->data, (size_t)(B*context*C) * sizeof(real));
    for (int b = 0; b < B; b++) memcpy(p.x + b*T*C, values + b*context*C, (size_t)(context*C) * sizeof(real));
    free(z), free(values);
    for (int i = 0; i < 5; i++) of_call[i] = NEW(double, calls * B * (i < 2 ? 1 : i < 4 ? C : Z));         // token, index, x, x_next, z
    from = NEW(int, T), to = NEW(int, T), row_noise = NEW(real, B*T*C);
    replay_start(&p, calls), replay.noise = row_noise;
    int call = 0;
    for (int at = context, n; at < T; at += n) {
        n = T - at < chunk ? T - at : chunk;
        for (int m = 0; m < p.how.S + (int)(n * p.how.u); m++) {
            for (int t = 0; t < n; t++) {
                int step = coded_pyramid(m, t, p.how.S, p.how.u);
                if (step == p.how.S) step--;
                from[t] = p.how.S - step, to[t] = from[t] - 1;
                of_call[0][call + t] = at + t, of_call[1][call + t] = step;
                for (int b = 0; b < B; b++) for (int c = 0; c < C; c++) {
                    of_call[2][((call + t)*B + b)*C + c] = (double)p.x[(b*T + at + t)*C + c];
                    row_noise[(b*T + at + t)*C + c] = (real)fmin(fmax(given_noise[((call + t)*B + b)*C + c], -meta(g, "clip_noise")), meta(g, "clip_noise"));
                }
            }
            replay.draws = 0;
            sample_row(&p, at, at + n, from, to);
            for (int t = 0; t < n; t++) {
                for (int b = 0; b < B; b++) for (int c = 0; c < C; c++) of_call[3][((call + t)*B + b)*C + c] = (double)p.x[(b*T + at + t)*C + c];
                for (int i = 0; i < B*Z; i++) of_call[4][(call + t)*B*Z + i] = (double)p.z[(at + t + 1)*B*Z + i];
            }
            call += n;
        }
    }
    compare(g, "out.call_token", of_call[0], SHAPE(calls)), compare(g, "out.call_index", of_call[1], SHAPE(calls));
    compare(g, "out.call_x", of_call[2], SHAPE(calls, B, C)), compare(g, "out.call_x_next", of_call[3], SHAPE(calls, B, C));
    compare(g, "out.call_z", of_call[4], SHAPE(calls, B, Z));
    compare_sequence(g, "out.x", p.x, T, B, C);
    sampler_free(&p), replay_end();
done:
    tape.off = false;
    if (net.ps.list) net_free(&net);
    for (int i = 0; i < 5; i++) free(of_call[i]);
    free(x), free(cond), free(context_noise), free(init), free(noise), free(row_noise), free(given_noise), free(from), free(to), free(k), schedule_free(&s);
}
static void check_rollout(Golden *g) {
    static const char *const runs[] = {"main_plan", "main_window", "paper_plan", "paper_series"};
    int run = find_name(g, "run", runs, 4);
    if (run == 0) check_main_plan(g, false);
    if (run == 1) check_main_window(g);
    if (run == 2) check_paper_plan(g, false);
    if (run == 3) check_paper_series(g);
}
static void check_guidance(Golden *g) { if (!strcmp(meta_text(g, "branch"), "paper")) check_paper_plan(g, true); else check_main_plan(g, true); }

// One file that is already in memory.
static void check_golden(Golden *g) {
    static const struct { const char *kind; void (*check)(Golden *); } kinds[] = {
        {"df_schedule", check_schedule}, {"df_snr_weight", check_snr_weight}, {"df_qsample", check_qsample}, {"df_convert", check_convert},
        {"df_ddim_step", check_ddim_step}, {"df_ddpm_step", check_ddpm_step}, {"df_matrix", check_matrix}, {"df_matrix_levels", check_matrix_levels},
        {"df_crps", check_crps}, {"df_maze_physics", check_maze_physics}, {"df_waypoints", check_waypoints}, {"df_waypoint_loop", check_waypoint_loop},
        {"df_gru_loss_grad", check_gru_loss_grad}, {"df_transformer_loss_grad", check_transformer_loss_grad},
        {"df_rollout", check_rollout}, {"df_guidance", check_guidance},
    };
    const char *kind = golden_kind(g, "df");
    if (!kind) return;
    int i = 0, n = sizeof kinds / sizeof *kinds;
    while (i < n && strcmp(kind, kinds[i].kind)) i++;
    if (i < n) kinds[i].check(g); else refuse(g, "not supported: kind=%s", kind);
    golden_complete(g);
}
static int run_check(int files, char **file) {
    set_up();
    precision = FP32;                                   // whatever the processor has
    return check_files(files, file, check_golden);
}
