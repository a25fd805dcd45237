// check_df.h: recomputes golden files of the official Diffusion Forcing code through the functions of df.c and data/maze.h. No second implementation: only
// translation. The files' tensors are (T, B, C), token first; here every token of every sequence is a row.
#pragma once
#include "golden.h"     // brings: refuse(), need_tensor(), compare(), check_files()

static int find_name(Golden *g, const char *key, const char *const *names, int n) {
    for (int i = 0; i < n; i++) if (!strcmp(meta_text(g, key), names[i])) return i;
    refuse(g, "not supported: %s=%s", key, meta_text(g, key));
    return -1;
}
// the schedule that the metadata names; false and a line if there is none
static bool read_schedule(Golden *g, Schedule *s) {
    int kind = find_name(g, "schedule", schedule_name, SCHEDULES);
    if (kind < 0 || !need_whole(g, "T", 1, 1e6) || !need_number(g, "tol", 0, 1)) return false;
    *s = schedule_create((ScheduleKind)kind, (int)meta(g, "T"));
    return true;
}

// the shape of a tensor of the file, in place of one that metadata would give: exactly `dims` numbers; false and a line otherwise
static bool read_shape(Golden *g, const char *name, int dims, int *shape) {
    const StTensor *t = st_find(g->st, name);
    if (!t) return refuse(g, "%s is missing", name);
    bool right = t->dims == dims && t->count > 0;
    for (int i = 0; right && i < dims; i++) right = t->shape[i] < 1000000, shape[i] = (int)t->shape[i];
    return right || refuse(g, "%s has not the shape that is needed", name);
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
        Tensor *x0, *eps, *shown = stabilise(t.x[0], label, t.k, paper ? -1 : (int)meta(g, "stabilization_level") - 1, NULL, &s);
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
            guidance[i] = i == S - 1 ? 0 : coded_guidance(from, b);
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
        Tensor *x0, *eps, *shown = stabilise(t.x[0], label, t.k, (int)meta(g, "stabilization_level") - 1, t.x[3], &s);
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
        int rows = which < MATRICES ? matrix_rows(kind, T, S, u) : S + (int)((which == MATRICES ? (T + 1) / 2 : T) * u);
        char name[64];
        snprintf(name, sizeof name, "out.%s%s", which == MATRICES + 1 ? "paper_pyramid" : matrix_name[kind], which == TRAPEZOID ? "_fixed" : "");
        if (!need_shape(g, name, SHAPE(rows, T))) return;              // before memory is taken on the word of the metadata
        double *x = NEW(double, (size_t)rows * (size_t)T);
        for (int m = 0; m < rows; m++)
            for (int t = 0; t < T; t++) x[(size_t)m * (size_t)T + (size_t)t] = which < MATRICES ? matrix_entry(kind, m, t, T, S, u) : which == MATRICES ? coded_trapezoid(m, t, T, S, u) : coded_pyramid(m, t, S, u);
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
    for (int q = 0; q < 19; q++) rank[q] = coded_rank(q + 1, N);
    for (int i = 0; i < T * B; i++) {
        double y = 0;
        for (int d = 0; d < D; d++) y += truth[(size_t)i * (size_t)D + (size_t)d];
        for (int n = 0; n < N; n++) { sample[n] = 0; for (int d = 0; d < D; d++) sample[n] += pred[((size_t)n * (size_t)(T*B) + (size_t)i) * (size_t)D + (size_t)d]; }
        each[i] = crps(sample, N, y);
        coded += coded_crps(sample, N, y), size += fabs(y), mean += each[i] / (T * B);
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

// One file that is already in memory.
static void check_golden(Golden *g) {
    static const struct { const char *kind; void (*check)(Golden *); } kinds[] = {
        {"df_schedule", check_schedule}, {"df_snr_weight", check_snr_weight}, {"df_qsample", check_qsample}, {"df_convert", check_convert},
        {"df_ddim_step", check_ddim_step}, {"df_ddpm_step", check_ddpm_step}, {"df_matrix", check_matrix}, {"df_matrix_levels", check_matrix_levels},
        {"df_crps", check_crps}, {"df_maze_physics", check_maze_physics}, {"df_waypoints", check_waypoints}, {"df_waypoint_loop", check_waypoint_loop},
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
    return check_files(files, file, check_golden);
}
