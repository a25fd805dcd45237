// tasks.h: the four tasks of df.c. Each says what a token is, makes training sequences, and samples and judges what a network has learned:
//   cross    ways across a square: what a memory is for (Fig. 7)
//   maze2d   plans through D4RL's mazes, and the episodes that they lead to (Tab. 1)
//   video    bouncing sprites: roll-outs far beyond the training length (Fig. 3)
//   series   forecasts of a table in time order (Tab. 2)
// This file is a part of df.c, which includes it behind section 8: it uses opt, token, run, Batch, Task, Sampler, Guide, sampling(), open_net(). It ends in tasks[].
// Each task: NAME_open() what a token is; NAME_batch() training sequences; NAME_run(), or NAME_sample() and NAME_evaluate(): sampling and judging.
#pragma once
#include "maze.h"
#include "video.h"
#include "series.h"

// How observations, actions and rewards become numbers around 0: (x - mean) / std, channels in this order
typedef struct Scaling { int obs, act, reward; double mean[7], std[7]; } Scaling;
static int scaling_channels(const Scaling *n) { return n->obs + n->act + n->reward; }
// out (channels) of an observation, which is 0 where it is NULL, and an action, which is the mean where it is NULL
static void scale_observation(const Scaling *n, real *out, const double *obs) { for (int i = 0; i < n->obs; i++) out[i] = (real)(((obs ? obs[i] : 0) - n->mean[i]) / n->std[i]); }
static void scale_frame(const Scaling *n, real *out, const double *obs, const double *act, double reward) {
    scale_observation(n, out, obs);
    for (int i = n->obs; i < n->obs + n->act; i++) out[i] = (real)(act ? (act[i - n->obs] - n->mean[i]) / n->std[i] : 0);
    if (n->reward) out[n->obs + n->act] = (real)((reward - n->mean[n->obs + n->act]) / n->std[n->obs + n->act]);
}

static struct {
    Maze maze;
    Scaling scaling, whole;             // of a token's channels; of the four numbers of an observation
    real *obs, *act;                    // (data_steps, 4), (data_steps, 2)
    VideoConfig video;
    Series series;
} data;

// cross: straight ways from a corner of a square to the opposite one, in T steps. A sequence begins anywhere on its way; what is behind the end has weight 0.
static const double corner[4][2] = {{-1, -1}, {1, -1}, {1, 1}, {-1, 1}};
static void cross_open(void) { token.C = 2, token.first = 2, token.window = opt.tokens; }
static void cross_batch(Batch *b, Rng *r) {
    for (int i = 0; i < b->B; i++) {
        int from = below(r, 4), at = below(r, b->T);
        for (int t = 0; t <= b->T; t++)
            for (int j = 0; j < 2; j++) {
                bool ahead = at + t <= b->T;
                double x = ahead ? corner[from][j] * (1 - 2.0 * (at + t) / b->T) + 0.01 * normal(r) : 0;
                if (t == 0) b->first[2*i + j] = (real)x; else b->x[(i*b->T + t - 1)*2 + j] = (real)x, b->weight[i*b->T + t - 1] = ahead;
            }
    }
}

// maze2d: windows of one long walk made as D4RL makes its data (its seed is not --seed). They begin anywhere and run across the ends of episodes, as the official
// code's do. A token is `frames` steps of [observation after the step, action]. The observation before them becomes the recurrent network's first state; a
// transformer gets it as one more token in front (`ahead`), repeated, without actions.
static bool positions_only(void) { return CHOICE("channels", opt.channels, ((const char *const[]){"all", "positions"})) == 1; }
static void maze_task_open(void) {
    bool positions = positions_only();
    int n = opt.data_steps, need = (opt.tokens + 1) * opt.frames + 2;
    if (n < need) die("--data-steps %d: one sequence needs %d", n, need);
    maze_open(&data.maze, opt.maze);
    if (!data.obs) data.obs = NEW(real, 4*(size_t)n), data.act = NEW(real, 2*(size_t)n);
    bool *done = NEW(bool, n);
    maze_dataset(&data.maze, n, 1, 0.5, true, data.obs, data.act, done);
    free(done);
    double sum[6] = {0}, sum2[6] = {0}, mean[6], std[6];
    for (int i = 0; i < n; i++) for (int j = 0; j < 6; j++) { double x = (double)(j < 4 ? data.obs[4*i + j] : data.act[2*i + j - 4]); sum[j] += x, sum2[j] += x*x; }
    for (int j = 0; j < 6; j++) mean[j] = sum[j] / n, std[j] = sqrt(sum2[j] / n - mean[j]*mean[j]);
    for (int j = 0; j < 6; j++) if (!(std[j] > 1e-6)) die("--maze %s: too small, the ball never moves in its data", opt.maze);
    data.scaling = (Scaling){.obs = positions ? 2 : 4, .act = positions ? 0 : 2}, data.whole = (Scaling){.obs = 4, .act = 2};
    memcpy(data.whole.mean, mean, sizeof mean), memcpy(data.whole.std, std, sizeof std);
    memcpy(data.scaling.mean, mean, sizeof mean), memcpy(data.scaling.std, std, sizeof std);
    token.C = opt.frames * scaling_channels(&data.scaling), token.first = recurrent() ? 4 : 0, token.window = opt.tokens + 1, token.parts = opt.frames;
}
static void maze_batch(Batch *b, Rng *r) {
    int fs = opt.frames, ch = scaling_channels(&data.scaling), ahead = recurrent() ? 0 : 1;                // tokens before the first step
    bool first_is_known = uniform(r) < 0.5, override = !strcmp(opt.noise, "independent");
    for (int i = 0; i < b->B; i++) {
        int at = below(r, opt.data_steps - b->T * fs - 1), end = 2 + below(r, b->T - 1);
        for (int t = 0; t < b->T; t++)
            for (int f = 0; f < fs; f++) {
                int j = at + (t - ahead)*fs + f;
                double obs[4], act[2];
                for (int c = 0; c < 4; c++) obs[c] = (double)data.obs[4*(size_t)(t < ahead ? at : j + 1) + (size_t)c];
                for (int c = 0; c < 2 && t >= ahead; c++) act[c] = (double)data.act[2*(size_t)j + (size_t)c];
                scale_frame(&data.scaling, b->x + (((size_t)i*(size_t)b->T + (size_t)t)*(size_t)fs + (size_t)f)*(size_t)ch, obs, t < ahead ? NULL : act, 0);
                if (t == 0 && f == 0 && !ahead) { for (int c = 0; c < 4; c++) obs[c] = (double)data.obs[4*(size_t)at + (size_t)c]; scale_observation(&data.whole, b->first + 4*i, obs); }
            }
        // as branch main: sequences of all lengths, behind whose end there is noise that hardly counts; and half of the time the first token is nearly known
        for (int t = 0; override && ahead && !opt.causal && t < b->T; t++)
            if (t >= end) { b->level[i*b->T + t] = opt.levels - 1; for (int f = 0; f < fs; f++) b->weight[(i*b->T + t)*fs + f] = 0.05; }
        if (override && ahead && first_is_known) b->level[i*b->T] = below(r, opt.levels / 4 ? opt.levels / 4 : 1);
    }
}

// video: bouncing sprites. A token is a frame, patch by patch
static void video_open(void) {
    data.video = (VideoConfig){.size = opt.size, .sprites = opt.sprites, .radius = 2.5, .speed_min = 0.5, .speed_max = 1.5};
    if (opt.size % opt.patches) die("--patches %d do not divide --size %d", opt.patches, opt.size);
    token.C = opt.size * opt.size, token.window = opt.tokens;
}
// frames (n, size, size) to tokens, or back
static void patches(real *to, const real *from, int n, bool back) {
    int S = opt.size, p = S / opt.patches, at = 0;
    for (int i = 0; i < n; i++)
        for (int a = 0; a < S*S; a++, at++) {
            int patch = a / (p*p), y = patch / opt.patches * p + a % (p*p) / p, x = patch % opt.patches * p + a % p, pixel = i*S*S + y*S + x;
            if (back) to[pixel] = from[at]; else to[at] = from[pixel];
        }
}
static void video_frames(real *x, int T, Sprite *sprites) {            // tokens of T frames from here on
    real frame[MOST_PIXELS];
    for (int t = 0; t < T; t++) {
        video_render(data.video, sprites, frame);
        patches(x + t*token.C, frame, 1, false);
        video_step(data.video, sprites);
    }
}
static void video_batch(Batch *b, Rng *r) {
    for (int i = 0; i < b->B; i++) {
        Sprite sprites[MOST_SPRITES] = {0};
        video_start(data.video, sprites, r);
        video_frames(b->x + (size_t)i * (size_t)(b->T * token.C), b->T, sprites);
    }
}

// series: windows of the training part, with what is known about each step as its condition; that of the first token is 0
static void series_open(void) {
    Rng r = rng(1, RNG_INIT, 1u << 20);                 // not of --seed: sampling with another one must meet the same numbers
    if (!exists(opt.csv)) die("%s: no such file (sh data/get.sh wind fetches the default; --csv takes any other)", opt.csv);
    data.series = series_read(opt.csv);
    int held = data.series.steps / 18;                  // a year of wind
    const char *error = series_prepare(&data.series, "", held, held, &r);
    if (error) die("%s: %s", opt.csv, error);
    if (data.series.train < opt.tokens) die("%s: its %d training steps are fewer than --tokens %d", opt.csv, data.series.train, opt.tokens);
    token.C = data.series.dims, token.E = series_covariate_count(&data.series), token.window = opt.tokens;
}
static void series_tokens(real *x, real *cond, const Series *s, int at, int T) {
    double *z = HOST(double, s->dims), *c = HOST(double, token.E);
    for (int t = 0; t < T; t++) {
        if (x) { normalised(s, z, at + t); for (int d = 0; d < s->dims; d++) x[t*s->dims + d] = (real)z[d]; }
        series_covariates(s, at + t, c);
        for (int e = 0; e < token.E; e++) cond[t*token.E + e] = (real)c[e];
    }
}
static void series_batch(Batch *b, Rng *r) {            // for the bound: windows of what follows the training part
    int from = opt.elbo ? data.series.train : 0, to = opt.elbo ? data.series.steps : data.series.train;
    if (to - from < b->T) die("%s: %d steps are fewer than --tokens %d", opt.csv, to - from, b->T);
    for (int i = 0; i < b->B; i++) {
        real *cond = b->cond + i * b->T * token.E;
        series_tokens(b->x + i * b->T * token.C, cond, &data.series, from + below(r, to - from - b->T + 1), b->T);
        for (int e = 0; e < token.E; e++) cond[e] = 0;
    }
}

// cross: paths (B,T+1,2) from the corners on, in plans of n tokens each; every plan knows nothing but where it begins
static void cross_paths(real *path, Sampling how, int B, int T, int n, uint64_t seed) {
    real *here = NEW(real, 2*B);
    for (int b = 0; b < B; b++) for (int j = 0; j < 2; j++) here[2*b + j] = path[b*(T + 1)*2 + j] = (real)corner[b % 4][j];
    for (int at = 0; at < T; at += n) {
        if (n > T - at) n = T - at;
        Sampler s = sampler_create(&run.net, &run.schedule, how, B, n, seed + ((uint64_t)at << 32));
        sampler_start(&s, here);
        roll_out(&s, n);
        for (int b = 0; b < B; b++) {
            memcpy(path + (b*(T + 1) + at + 1)*2, s.x + b*n*2, (size_t)n * 2*sizeof(real));
            memcpy(here + 2*b, s.x + (b*n + n - 1)*2, 2*sizeof(real));
        }
        close_sampler(&s);
    }
    free(here);
}
typedef struct CrossScore { double straight, v, back, off; } CrossScore;       // shares of paths that end at the opposite corner, at a neighbouring one, where they began; far from all
static CrossScore cross_score(const real *path, int B, int T) {
    CrossScore c = {0};
    for (int b = 0; b < B; b++) {
        const real *end = path + (b*(T + 1) + T)*2, *start = path + b*(T + 1)*2;
        int same = (end[0] * start[0] > 0) + (end[1] * start[1] > 0);
        if (fabs((double)end[0]) < 0.7 || fabs((double)end[1]) < 0.7 || fabs((double)end[0]) > 1.3 || fabs((double)end[1]) > 1.3) c.off += 1.0 / B;
        else *(same == 0 ? &c.straight : same == 1 ? &c.v : &c.back) += 1.0 / B;
    }
    return c;
}
static void cross_run(bool draw) {
    int T = opt.length ? opt.length : opt.tokens, B = opt.samples, n = given("plan") ? opt.plan : (T + 1) / 2;
    Sampling how = sampling();
    open_net(how, B, T);
    real *path = NEW(real, 2 * B * (T + 1) * 2);
    CrossScore score[2];
    for (int i = 0; i < 2; i++) cross_paths(path + i*B*(T + 1)*2, how, B, T, i ? n : T, (uint64_t)opt.seed), score[i] = cross_score(path + i*B*(T + 1)*2, B, T);
    if (draw) {
        static const char *const kind[] = {"memory", "no_memory", "data"};
        FILE *csv = create_csv("cross.csv", "kind,path,t,x,y");
        Picture p = picture_create(3*260, 260, 0xffffff);
        for (int i = 0; i < 3; i++) for (int b = 0; b < B; b++) for (int t = 0; t <= T; t++) {
            double q[2], before[2] = {0}, left = i == 2 ? 0 : i == 0 ? 260 : 520;
            for (int j = 0; j < 2; j++) q[j] = i < 2 ? (double)path[((i*B + b)*(T + 1) + t)*2 + j] : corner[b % 4][j] * (1 - 2.0*t/T);
            for (int j = 0; j < 2 && t; j++) before[j] = i < 2 ? (double)path[((i*B + b)*(T + 1) + t - 1)*2 + j] : corner[b % 4][j] * (1 - 2.0*(t - 1)/T);
            fprintf(csv, "%s,%d,%d,%.4f,%.4f\n", kind[i], b, t, q[0], q[1]);
            if (t) picture_line(&p, left + 130 + 100*before[0], 130 - 100*before[1], left + 130 + 100*q[0], 130 - 100*q[1], 1.5, (unsigned[]){0x1f77b4, 0xd62728, 0x2ca02c, 0x9467bd}[b % 4]);
        }
        Path png = path_in(opt.out, "cross.png");
        close_csv(csv, "cross.csv"), picture_save(&p, png.text), picture_free(&p);
        printf("wrote %s: data, with memory, without\n", png.text);
    }
    printf("%s: task=cross samples=%d straight=%.3f v=%.3f back=%.3f off=%.3f no_memory_plan=%d no_memory_straight=%.3f no_memory_v=%.3f no_memory_back=%.3f no_memory_off=%.3f", verb_name, B,
           score[0].straight, score[0].v, score[0].back, score[0].off, n, score[1].straight, score[1].v, score[1].back, score[1].off);
    free(path);
}
static void cross_sample(void) { cross_run(true); }
static void cross_evaluate(void) { cross_run(false); }

// maze2d: J = - sum over frames of w |p - g|, p the position of a frame (un-normalised) and g the goal of its sequence: any frame may be the last                (Eq. C.1 ff.)
typedef struct Goal {
    const Scaling *scaling;
    const double *goal;         // (B,2)
    int frames;                 // of a token
    double weight;              // w
    bool last_counts;           // the last frame too
    int from, tokens;           // the plan: these tokens alone count; 0, 0: all
} Goal;
static void goal_gradient(const Guide *guide, const real *x0, real *d, int B, int first, int n, int C) {
    const Goal *goal = guide->goal;
    int ch = C / goal->frames, F = n * goal->frames, from = (goal->from - first) * goal->frames, to = goal->tokens ? from + goal->tokens * goal->frames : F;
    const double *mean = goal->scaling->mean, *std = goal->scaling->std;
    for (int i = 0; i < B*F; i++) {
        int f = i % F;
        double v[2], w = f < from || f >= to || (f == to - 1 && !goal->last_counts) ? 0 : goal->weight;
        for (int j = 0; j < 2; j++) v[j] = (double)x0[i*ch + j] * std[j] + mean[j] - goal->goal[i / F * 2 + j];
        double distance = hypot(v[0], v[1]);
        for (int c = 0; c < ch; c++) d[i*ch + c] = c < 2 && distance > 0 ? (real)(-w * v[c] / distance * std[c]) : 0;
    }
}

// maze2d: guidance to the goals of a batch, goal (B,2): J of `at`, which maze_plan() tells where the plan lies
static Goal maze_goal(const double *goal) { return (Goal){.scaling = &data.scaling, .goal = goal, .frames = opt.frames, .weight = 1, .last_counts = true}; }
static Guide maze_guide(const Goal *at) { return (Guide){.scale = opt.guidance, .futures = opt.futures, .strength = guided, .gradient = goal_gradient, .goal = at}; }

// Plans of H tokens for B episodes from what is observed on; plan (B, H*frames, channels), in the units of the environment
static void maze_plan(double *plan, Sampling how, Goal *at, const Episode *e, int B, int H, uint64_t seed) {
    int fs = opt.frames, ch = scaling_channels(&data.scaling), C = fs * ch, ahead = recurrent() ? 0 : 1, T = ahead && !opt.causal ? token.window : H + ahead;
    real *first = NEW(real, 4*B);
    at->from = ahead, at->tokens = H;                   // neither the start nor the padding behind the plan
    Sampler s = sampler_create(&run.net, &run.schedule, how, B, T, seed);
    s.given = ahead;
    for (int b = 0; b < B; b++) {
        double obs[4] = {e[b].ball.q[0], e[b].ball.q[1], e[b].ball.v[0], e[b].ball.v[1]};
        scale_observation(&data.whole, first + 4*b, obs);
        for (int f = 0; ahead && f < fs; f++) scale_frame(&data.scaling, s.x + (size_t)b*(size_t)(T*C) + f*ch, obs, NULL, 0);
        for (int i = (ahead + H)*C; i < T*C; i++) s.x[(size_t)b*(size_t)(T*C) + (size_t)i] = 0;
    }
    if (!ahead) sampler_start(&s, first);
    sample_chunk(&s, 0, ahead, H, T);
    for (int b = 0; b < B; b++) {
        const real *x = s.x + ((size_t)b*(size_t)T + (size_t)ahead)*(size_t)C;
        for (int i = 0; i < H*C; i++) plan[b*H*C + i] = (double)x[i] * data.scaling.std[i % ch] + data.scaling.mean[i % ch];
    }
    close_sampler(&s);
    free(first);
}
static bool goals_are_random(void) { return CHOICE("goals", opt.goals, ((const char *const[]){"single", "multi"})) == 1; }
static void check_futures(void) { if (!recurrent() && opt.futures > 1) die("--futures %d: Monte-Carlo guidance needs --net rnn", opt.futures); }
static void maze_evaluate(void) {
    static const char *const controllers[] = {"pd", "actions", "straight", "waypoints"};
    int B = opt.samples, fs = opt.frames, ch = scaling_channels(&data.scaling), steps = data.maze.steps, most = (steps + fs - 1) / fs;
    enum { PD, ACTIONS, STRAIGHT, WAYPOINTS } who = (int)CHOICE("controller", opt.controller, controllers);
    bool plans = who == PD || who == ACTIONS;
    bool multi = goals_are_random();
    if (who == ACTIONS && positions_only()) die("--controller actions: this network plans positions only");
    check_futures();
    if (!recurrent() && most > opt.tokens) most = opt.tokens;
    Sampling how = sampling();
    double *goal = NEW(double, 2*B), *plan = NEW(double, B*most*fs*ch), (*positions)[2] = (double (*)[2])NEW(double, 2*most*fs);
    Goal at = maze_goal(goal);
    Guide guide = maze_guide(&at);
    if (opt.guidance > 0) how.guide = &guide;
    if (plans) open_net(how, B, most + 1);
    Episode *e = NEW(Episode, B);
    Controller *c = NEW(Controller, B);
    Rng *r = NEW(Rng, B);
    for (int b = 0; b < B; b++) {
        r[b] = rng((uint64_t)opt.seed, RNG_EVAL, (uint64_t)b), e[b] = episode_begin(&data.maze, multi, &r[b]);
        goal[2*b] = e[b].target[0], goal[2*b + 1] = e[b].target[1];
    }
    for (int step = 0, H, next; step < steps; step = next) {
        H = (steps - step + fs - 1) / fs;
        if (H > most) H = most;
        next = step + (plans && opt.replan > H*fs ? H*fs : opt.replan);                  // a plan that ends is made anew
        if (next > steps) next = steps;
        if (plans) maze_plan(plan, how, &at, e, B, H, (uint64_t)opt.seed + ((uint64_t)step << 32));
        for (int b = 0; b < B; b++) {
            double *mine = plan + b*H*fs*ch, action[2];
            for (int t = 0; t < H*fs && who == PD; t++) positions[t][0] = mine[t*ch], positions[t][1] = mine[t*ch + 1];
            for (int t = 0; t < next - step; t++) {
                Ball *ball = &e[b].ball;
                if (who == PD) act_follow(action, ball->q, ball->v, (const double (*)[2])positions, t);
                else if (who == ACTIONS) action[0] = mine[t*ch + 4], action[1] = mine[t*ch + 5];
                else if (who == STRAIGHT) act_straight(action, ball->q, ball->v, e[b].target);
                else act_waypoints(action, &c[b], &data.maze, &r[b], ball->q, ball->v, e[b].target);
                episode_step(&e[b], action);
            }
        }
        progress(next == steps, "step %d/%d of %d episodes", next, steps, B);
    }
    double sum = 0, sum2 = 0, reach = 0, hits = 0, collisions = 0, reached = 0, stay = 0;
    FILE *csv = create_csv("episodes.csv", "episode,return,score,first_reach,return_if_stay,wall_steps,collisions");
    for (int b = 0; b < B; b++) {
        double score = maze_score(&data.maze, e[b].R);
        sum += e[b].R, sum2 += (double)e[b].R * e[b].R, hits += e[b].hits, collisions += e[b].collisions, stay += e[b].if_stay;
        if (e[b].R) reached++, reach += e[b].first_reach;
        fprintf(csv, "%d,%d,%.2f,%d,%d,%d,%d\n", b, e[b].R, score, e[b].first_reach, e[b].if_stay, e[b].hits, e[b].collisions);
    }
    close_csv(csv, "episodes.csv");
    double mean = sum / B, error = B > 1 ? sqrt(fmax(0, sum2 / B - mean*mean) / (B - 1)) : NAN;
    printf("eval: task=maze2d maze=%s controller=%s matrix=%s guidance=%g futures=%d episodes=%d return=%.2f stderr=%.2f score=%.2f score_stderr=%.2f "
           "reached=%.3f first_reach=%.1f return_if_stay=%.1f wall_steps=%.1f collisions=%.1f", opt.maze, opt.controller, opt.matrix, opt.guidance, opt.futures, B, mean, error, maze_score(&data.maze, mean),
           maze_score(&data.maze, error) - maze_score(&data.maze, 0), reached / B, reached ? reach / reached : NAN, stay / B, hits / B, collisions / B);
    free(e), free(c), free(r), free(goal), free(plan), free(positions);
}
// Plans while they denoise: a row of pictures for each, walls where the physics has them
static struct { int stages; double *x; } stages;                        // (stages, B, H*frames, 2)
static void keep_stage(Sampler *s, const int *from, const int *to) {
    int C = s->net->c.C, ch = scaling_channels(&data.scaling), fs = opt.frames, ahead = recurrent() ? 0 : 1;
    int H = opt.length ? opt.length : opt.tokens, rows = s->how.matrix_rows(s->how.matrix, H, s->how.S, s->how.u) - 1;
    if (opt.watch) watch_row(s, from, to);
    for (int stage = 1; stage < stages.stages; stage++) for (int t = 0; t < H; t++) {
        int row = stage * rows / (stages.stages - 1);
        if (s->row[ahead + t] != (row > 1 ? row : 1)) continue;         // of few rows one may be several stages
        for (int b = 0; b < s->B; b++) for (int i = t*fs; i < (t + 1)*fs; i++) for (int j = 0; j < 2; j++)
            stages.x[(((size_t)stage * (size_t)s->B + (size_t)b) * (size_t)(H*fs) + (size_t)i)*2 + (size_t)j] =
                (double)s->x[((size_t)b*(size_t)s->T + (size_t)ahead)*(size_t)C + (size_t)(i*ch + j)] * data.scaling.std[j] + data.scaling.mean[j];
    }
}
static void maze_animate(const Episode *e, int B, int steps) {
    enum { CELL = 28 };
    const Maze *m = &data.maze;
    int wide = m->columns * CELL, high = m->rows * CELL, shown = B < 4 ? B : 4;
    Animation a = animation_open(opt.animate, shown * (wide + 8), high, 0.1);
    for (int b = 0; b < shown; b++) for (int s = 0; s < m->rows * m->columns; s++) if (m->cell[s] == '#')
        fprintf(a.file, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#b0b0b0\"/>\n", b * (wide + 8) + s % m->columns * CELL, s / m->columns * CELL, CELL, CELL);
    for (int stage = 1; stage < stages.stages; stage++) {
        animation_begin(&a);
        for (int b = 0; b < shown; b++) {               // an svg of its own: what leaves the maze is cut off
            const double *x = stages.x + ((size_t)stage*(size_t)B + (size_t)b) * (size_t)(steps*2);
            fprintf(a.file, "<svg x=\"%d\" width=\"%d\" height=\"%d\"><polyline fill=\"none\" stroke=\"#1f77b4\" stroke-width=\"2\" points=\"", b * (wide + 8), wide, high);
            for (int i = 0; i < steps; i++) if (isfinite(x[2*i] + x[2*i + 1])) fprintf(a.file, "%.0f,%.0f ", (x[2*i + 1] + 0.7) * CELL, (x[2*i] + 0.7) * CELL);
            fprintf(a.file, "\"/><circle cx=\"%.0f\" cy=\"%.0f\" r=\"5\" fill=\"#0000c0\"/><circle cx=\"%.0f\" cy=\"%.0f\" r=\"6\" fill=\"#00a000\"/></svg>",
                    (e[b].ball.q[1] + 0.7) * CELL, (e[b].ball.q[0] + 0.7) * CELL, (e[b].target[1] + 0.7) * CELL, (e[b].target[0] + 0.7) * CELL);
        }
        animation_end(&a);
    }
    animation_close(&a);
}
static void maze_sample(void) {
    enum { STAGES = 6, CELL = 30 };
    int B = opt.samples, fs = opt.frames, H = opt.length ? opt.length : opt.tokens;
    bool multi = goals_are_random();
    check_futures();
    if (!recurrent() && H > opt.tokens) die("--length %d: a transformer that was trained on %d tokens plans no more", H, opt.tokens);
    Sampling how = sampling();
    double *goal = NEW(double, 2*B), *plan = NEW(double, B*H*opt.frames*scaling_channels(&data.scaling));
    Goal at = maze_goal(goal);
    Guide guide = maze_guide(&at);
    if (opt.guidance > 0) how.guide = &guide;
    open_net(how, B, H + 1);
    how.watch = keep_stage, how.any_order = !opt.watch;
    stages.stages = *opt.animate ? 41 : STAGES, stages.x = NEW(double, stages.stages * B * H * fs * 2);
    int last_stage = stages.stages - 1;
    Episode *e = NEW(Episode, B);
    for (int b = 0; b < B; b++) {
        Rng r = rng((uint64_t)opt.seed, RNG_EVAL, (uint64_t)b);
        e[b] = episode_begin(&data.maze, multi, &r), goal[2*b] = e[b].target[0], goal[2*b + 1] = e[b].target[1];
    }
    maze_plan(plan, how, &at, e, B, H, (uint64_t)opt.seed);
    Maze *m = &data.maze;
    int wide = m->columns * CELL + 4, high = m->rows * CELL + 4, shown = B < 6 ? B : 6;
    Picture p = picture_create((STAGES - 1) * wide, shown * high, 0xffffff);
    FILE *csv = create_csv("maze.csv", "kind,plan,stage,t,x,y");
    for (int c = 0; c < m->rows * m->columns; c++) if (m->cell[c] == '#') fprintf(csv, "wall,,,,%.1f,%.1f\n", c / m->columns - 0.2, c % m->columns - 0.2);     // their middles
    for (int b = 0; b < B; b++) fprintf(csv, "start,%d,,,%.4f,%.4f\ngoal,%d,,,%.4f,%.4f\n", b, e[b].ball.q[0], e[b].ball.q[1], b, e[b].target[0], e[b].target[1]);
    for (int b = 0; b < B; b++) for (int stage = 1; stage < STAGES; stage++) {
        double left = (stage - 1) * wide, top = b * high, last[2] = {e[b].ball.q[0], e[b].ball.q[1]};
        #define PX(q) (left + ((q)[1] + 0.7) * CELL)
        #define PY(q) (top + ((q)[0] + 0.7) * CELL)
        for (int s = 0; s < m->rows * m->columns && b < shown; s++) if (m->cell[s] == '#')
            picture_box(&p, left + s % m->columns * CELL, top + s / m->columns * CELL, left + (s % m->columns + 1) * CELL, top + (s / m->columns + 1) * CELL, 0xb0b0b0);
        for (int i = 0; i < H*fs; i++) {
            const double *q = stages.x + ((size_t)(stage * last_stage / (STAGES - 1))*(size_t)B + (size_t)b) * (size_t)(H*fs*2) + 2*i;
            fprintf(csv, "plan,%d,%d,%d,%.4f,%.4f\n", b, stage, i, q[0], q[1]);
            unsigned red = (unsigned)(255.0 * i / (H*fs));
            bool inside = PX(last) >= left && PX(last) < left + wide && PY(last) >= top && PY(last) < top + high && PX(q) >= left && PX(q) < left + wide && PY(q) >= top && PY(q) < top + high;
            if (b < shown && inside) picture_line(&p, PX(last), PY(last), PX(q), PY(q), 1.5, red << 16 | 0x2000 | (255 - red));
            last[0] = q[0], last[1] = q[1];
        }
        if (b < shown) picture_disc(&p, PX(e[b].ball.q), PY(e[b].ball.q), 4, 0x0000c0), picture_disc(&p, PX(e[b].target), PY(e[b].target), 5, 0x00a000);
    }
    Path png = path_in(opt.out, "maze.png");
    close_csv(csv, "maze.csv"), picture_save(&p, png.text), picture_free(&p);
    if (*opt.animate) maze_animate(e, B, H*fs);
    double near = 0;
    for (int b = 0; b < B; b++) {
        double least = INFINITY;
        for (int i = 0; i < H*fs; i++) least = fmin(least, distance2(stages.x + ((size_t)last_stage*(size_t)B + (size_t)b) * (size_t)(H*fs*2) + 2*i, e[b].target));
        near += (least < 0.5) / (double)B;
    }
    printf("wrote %s: a plan a row, while it denoises; start blue, goal green, early steps blue, late ones red\n", png.text);
    printf("sample: task=maze2d samples=%d plans_that_pass_the_goal=%.3f", B, near);
    free(goal), free(plan), free(e), free(stages.x);
}

// video: the frames after `context` true ones, and how far each is from any frame that the generator could draw
static void video_run(bool draw) {
    int B = opt.samples, T = opt.length ? opt.length : 10 * opt.tokens, C = token.C, given_frames = opt.context, shown = B < 4 ? B : 4, S = opt.size;
    if (given_frames >= opt.tokens || given_frames >= T) die("--context %d: of at most %d frames", given_frames, (T < opt.tokens ? T : opt.tokens) - 1);
    if (opt.chunk + (recurrent() ? 0 : 1) > token.window) die("--chunk %d: a network that sees %d frames makes at most %d at a time", opt.chunk, token.window, token.window - 1);
    Sampling how = sampling();
    open_net(how, B, recurrent() ? given_frames + 2*opt.chunk : token.window);
    Sampler s = sampler_create(&run.net, &run.schedule, how, B, T, (uint64_t)opt.seed);
    real *truth = NEW(real, (size_t)B * (size_t)T * (size_t)C), *frames = NEW(real, (size_t)T * (size_t)C);
    Sprite *start = NEW(Sprite, B * MOST_SPRITES);
    s.given = given_frames;
    for (int b = 0; b < B; b++) {
        Rng r = rng((uint64_t)opt.seed, RNG_EVAL, (uint64_t)b);
        Sprite sprites[MOST_SPRITES] = {0};
        video_start(data.video, sprites, &r);
        memcpy(start + b*MOST_SPRITES, sprites, sizeof sprites);
        video_frames(truth + (size_t)b*(size_t)(T*C), T, sprites);
        memcpy(s.x + (size_t)b*(size_t)(T*C), truth + (size_t)b*(size_t)(T*C), (size_t)(given_frames*C) * sizeof(real));
    }
    if (run.net.c.recurrent) sampler_start(&s, NULL);
    roll_out(&s, opt.chunk);
    VideoSearch search = video_search_create(data.video);
    FrameScore *score = NEW(FrameScore, (size_t)B * (size_t)T);
    Picture sheet = picture_create(sheet_edge(20, S, 2), sheet_edge(2*shown, S, 2), 0x404080);
    for (int b = 0; b < B; b++) {
        Sprite sprites[MOST_SPRITES] = {0};
        memcpy(sprites, start + b*MOST_SPRITES, sizeof sprites);
        patches(frames, s.x + (size_t)b*(size_t)(T*C), T, true);
        for (int t = 0; t < T; t++) {
            score[b*T + t] = frame_score(&search, frames + t*C, sprites, t ? &score[b*T + t - 1] : NULL);
            video_step(data.video, sprites);
        }
        for (int which = 0; which < 2 && draw && b < shown; which++) {  // twenty frames of the true video, and of this one
            real few[20 * MOST_PIXELS], *from = NEW(real, (size_t)(T*C));
            patches(from, (which ? s.x : truth) + (size_t)b*(size_t)(T*C), T, true);
            for (int i = 0; i < 20; i++) memcpy(few + i*C, from + (T < 20 ? i % T : (long)i * (T - 1) / 19) * C, (size_t)C * sizeof(real));
            video_sheet(&sheet, 2*b + which, few, 20, S, 2);
            free(from);
        }
    }
    FILE *csv = create_csv("video.csv", "frame,error,stderr,out_of_range,objects_wrong,position_error,jump");
    double late = 0, last_error = 0, objects = 0;
    for (int t = 0; t < T; t++) {
        double m[5] = {0}, square = 0;
        for (int b = 0; b < B; b++) {
            const FrameScore *f = &score[b*T + t];
            m[0] += f->error / B, square += f->error * f->error / B, m[1] += f->out_of_range / B;
            m[2] += (f->objects != f->objects_true) / (double)B, m[3] += f->position_error / B, m[4] += f->jump / B;
        }
        fprintf(csv, "%d,%.5f,%.5f,%.5f,%.4f,%.4f,%.4f\n", t, m[0], B > 1 ? sqrt(fmax(0, square - m[0]*m[0]) / (B - 1)) : 0, m[1], m[2], m[3], m[4]);
        if (t >= given_frames) late += m[0] / (T - given_frames), objects += m[2] / (T - given_frames);
        last_error = m[0];
    }
    close_csv(csv, "video.csv");
    if (draw) {
        Path png = path_in(opt.out, "video.png");
        picture_save(&sheet, png.text);
        printf("wrote %s: twenty frames of %d, the true video above the one that was made, which knows the first %d\n", png.text, T, given_frames);
    }
    printf("%s: task=video noise=%s samples=%d frames=%d error=%.4f error_last=%.4f objects_wrong=%.4f", verb_name, opt.noise, B, T, late, last_error, objects);
    picture_free(&sheet), video_search_free(&search), close_sampler(&s);
    free(truth), free(frames), free(start), free(score);
}
static void video_sample(void) { video_run(true); }
static void video_evaluate(void) { video_run(false); }

// series: forecasts of the steps after `context` known ones; N samples of each, whose lags are their own
static struct { Series copy; int at; } forecast;
static void forecast_conditions(Sampler *s, int at, int n) {            // of tokens at..at+n-1, for every sample from its own past
    Series *c = &forecast.copy;
    double *kept = NEW(double, s->T * c->dims);
    size_t from = (size_t)forecast.at * (size_t)c->dims;
    memcpy(kept, c->x + from, (size_t)(s->T * c->dims) * sizeof(double));
    for (int b = 0; b < s->B; b++) {
        for (int t = 0; t < at; t++) for (int d = 0; d < c->dims; d++)
            if (t >= s->given) c->x[from + (size_t)(t*c->dims + d)] = (double)s->x[((size_t)b*(size_t)s->T + (size_t)t)*(size_t)c->dims + (size_t)d] * c->std[d] + c->mean[d];
        series_tokens(NULL, s->cond + ((size_t)b*(size_t)s->T + (size_t)at) * (size_t)token.E, c, forecast.at + at, n);
        for (int e = 0; at == 0 && e < token.E; e++) s->cond[(size_t)b*(size_t)s->T*(size_t)token.E + (size_t)e] = 0;
    }
    memcpy(c->x + from, kept, (size_t)(s->T * c->dims) * sizeof(double));
    free(kept);
}
static int compare_doubles(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }

// series: continuous ranked probability score of N samples against y: mean |x_i - y| - 1/2 mean |x_i - x_j|. Sorts the samples. In sorted order the second
// mean is a sum over gaps: x_i stands above i samples and below N - 1 - i.
static double crps(double *sample, int N, double y) {
    double to_truth = 0, spread = 0;
    qsort(sample, (size_t)N, sizeof *sample, compare_doubles);
    for (int i = 0; i < N; i++) to_truth += fabs(sample[i] - y), spread += (2.0*i - N + 1) * sample[i];
    return to_truth / N - spread / N / N;
}

// CRPS_sum as gluonts and the official code count it, and so as Tab. 2 does: 19 quantiles instead of all; to be divided by the sum of |y|. sample (N) sorted.
static int quantile_rank(int q, int N) { return (int)(q / 20.0 * N); }                    // 1-based, of the quantile q/20
static double quantile_loss(const double *sample, int N, double y) {
    double sum = 0;
    for (int q = 1; q < 20; q++) {
        double x = sample[quantile_rank(q, N) - 1];
        sum += 2 * fabs((x - y) * ((y <= x) - q / 20.0)) / 19;
    }
    return sum;
}

static void series_run(bool draw) {
    Series *c = &data.series;
    int N = opt.samples, T = opt.length ? opt.length : opt.tokens, D = c->dims, context = opt.context, H = T - context;
    int test = c->train + c->validation, windows = H > 0 ? (c->steps - test) / H : 0;      // test: its first step
    const StTensor *out = st_find(&run.checkpoint, recurrent() ? "ema.transition_model.x_from_z.weight" : "ema.diffusion_model.model.out.weight");
    if (out && out->shape[0] != (size_t)D) die("%s has %d columns to forecast, the network was trained on %zu", opt.csv, D, (size_t)out->shape[0]);
    if (H < 1) die("--context %d leaves nothing to forecast of %d tokens", context, T);
    if (test < context || windows < 1) die("%s: its last %d rows, the test part, are fewer than a forecast of %d (a smaller --length)", opt.csv, c->steps - test, H);
    if (N < 20) die("--samples %d: the quantiles of a forecast need at least 20", N);
    if (!recurrent() && (T > opt.tokens || opt.chunk >= token.window)) die("--length %d, --chunk %d: more than a transformer of %d tokens sees", T, opt.chunk, opt.tokens);
    int lag = c->frequency->lags > 1 ? c->frequency->lag[1] : INT_MAX;
    if (opt.chunk > lag - 1) die("--chunk %d: a lag of %d steps would show a forecast the truth (%d at most)", opt.chunk, lag, lag - 1);
    if (draw) windows = 1;
    Sampling how = sampling();
    how.before = forecast_conditions;
    open_net(how, N, T);
    double total[4] = {0}, exact[4] = {0}, size = 0, *sample = NEW(double, N), *other = NEW(double, (size_t)N * (size_t)H * (size_t)D);
    FILE *csv = create_csv("series.csv", "t,column,truth,q05,q50,q95");
    forecast.copy = *c;
    for (int w = 0; w < windows; w++) {
        forecast.at = test + w*H - context;
        Sampler s = sampler_create(&run.net, &run.schedule, how, N, T, (uint64_t)opt.seed + ((uint64_t)w << 32));
        s.given = context;
        for (int b = 0; b < N; b++) {
            real *cond = s.cond + (size_t)b * (size_t)(T * token.E);
            if (context) series_tokens(s.x + (size_t)b*(size_t)(T*D), cond, c, forecast.at, context);
            for (int e = 0; context && e < token.E; e++) cond[e] = 0;
        }
        if (run.net.c.recurrent) sampler_start(&s, NULL);
        roll_out(&s, opt.chunk);
        for (int who = 0; who < 4; who++) {             // this network, then the baselines
            Rng r = rng((uint64_t)opt.seed, RNG_EVAL, (uint64_t)(4*w + who));
            if (who) baselines[who - 1].sample(c, test + w*H, H, N, &r, other);
            for (int t = 0; t < H; t++) {
                for (int column = who ? D : 0; column <= D; column++) {                    // D: the sum of all, which is judged
                    double y = 0, score;
                    int from = column < D ? column : 0, to = column < D ? column + 1 : D;
                    for (int d = from; d < to; d++) y += c->x[(size_t)(test + w*H + t)*(size_t)D + (size_t)d];
                    for (int b = 0; b < N; b++) {
                        sample[b] = 0;
                        const double *theirs = other + ((size_t)b*(size_t)H + (size_t)t)*(size_t)D;
                        const real *mine = s.x + ((size_t)b*(size_t)T + (size_t)(context + t))*(size_t)D;
                        for (int d = from; d < to; d++) sample[b] += who ? theirs[d] : (double)mine[d] * c->std[d] + c->mean[d];
                    }
                    score = crps(sample, N, y);         // and sorts
                    if (column == D) exact[who] += score, total[who] += quantile_loss(sample, N, y);
                    if (column == D && !who) size += fabs(y);
                    if (!who) fprintf(csv, "%d,%s,%.4f,%.4f,%.4f,%.4f\n", test + w*H + t, column < D ? c->name[column] : "sum", y, sample[N/20], sample[N/2], sample[N*19/20]);
                }
            }
        }
        close_sampler(&s);
        progress(w == windows - 1, "window %d/%d | CRPS_sum %.4f", w + 1, windows, total[0] / size);
    }
    close_csv(csv, "series.csv");
    printf("%s: task=series windows=%d steps=%d samples=%d crps_sum=%.4f last_value=%.4f seasonal_naive=%.4f var1=%.4f crps_unnormalised=%.3f var1_unnormalised=%.3f", verb_name, windows, H, N,
           total[0] / size, total[1] / size, total[2] / size, total[3] / size, exact[0] / (windows * H), exact[3] / (windows * H));
    free(sample), free(other);
}
static void series_sample(void) { series_run(true); }
static void series_evaluate(void) { series_run(false); }

static const Task tasks[] = {
    {"cross", cross_open, cross_batch, cross_sample, cross_evaluate, {{"samples", "32"}, {"matrix", "autoregressive"}}},
    {"maze2d", maze_task_open, maze_batch, maze_sample, maze_evaluate,
        {{"tokens", "30"}, {"frames", "10"}, {"schedule", "linear"}, {"state", "64"}, {"width", "128"}, {"batch", "64"}, {"samples", "8"}, {"lr", "5e-4"}, {"layers", "3"},
         {"transformer:layers", "4"}, {"transformer:weight", "min_snr"}, {"transformer:channels", "positions"}}},
    {"video", video_open, video_batch, video_sample, video_evaluate,
        {{"net", "transformer"}, {"causal", "1"}, {"tokens", "20"}, {"width", "128"}, {"layers", "4"}, {"batch", "32"}, {"weight", "fused_snr"}, {"schedule", "cosine"},
         {"matrix", "autoregressive"}, {"samples", "4"}, {"stabilise", "15"}, {"rnn:state", "128"}, {"rnn:width", "256"}, {"rnn:causal", "0"}}},
    {"series", series_open, series_batch, series_sample, series_evaluate,
        {{"tokens", "14"}, {"context", "7"}, {"cells", "4"}, {"layers", "1"}, {"state", "128"}, {"width", "128"}, {"level-width", "32"}, {"objective", "pred_v"}, {"batch", "64"}, {"eta", "1"},
         {"samples", "100"}, {"matrix", "autoregressive"}, {"transformer:layers", "3"}, {"transformer:causal", "1"}}},
    {0},
};

