/* df.c: Diffusion Forcing (Chen et al. 2024, arXiv 2407.01392). Trains, samples and judges on four small tasks: paths, plans in mazes, video, time series.

   A sequence of continuous tokens (frames, pieces of a plan, days of a series) where every token has its own noise level, from clean (known) to pure noise
   (unknown). A network that has learned to denoise any mixture of levels can be sampled along any schedule: all tokens together, one after the other, or the
   near future ahead of the far. One call of it, at x_t, its present level and the state z_{t-1}, gives the prediction and z_t both.

       make df && ./df train && ./df sample --watch                                      the task "cross"; ./df train --help lists the others
       ./df check tests/golden/df/df_schedule_linear_50.safetensors                      recomputes numbers of the official code

   Start reading at METHOD (section 2), then df_loss() (4), sample_row(), sample_chunk(), roll_out() (5), rnn_step() (3), train_step() (9); then one task in
   data/tasks.h, cross first. One step further down is common.h (ops), then cpu_kernels.c.
   "The official code" is github.com/buoyancy99/diffusion-forcing: its branch paper has the recurrent network, branch main a transformer. What only that code
   does stands in section 7. Not here: convolutional networks, robot data, the clamp of noise at +-20 or +-6, history guidance of the follow-up paper.

   paper                 here                                (t is always a position in this repository, never a level)
   k_t in 0..K           k = k_t - 1                         level of token t: -1 is clean, 0 has one step of noise, K - 1 is pure noise
   x_t^{k_t}             x_k in the loss, x when sampling    token t at its level
   beta_k, bar alpha_k   s->beta[k], alpha_bar(s, k)         alpha_bar(s, -1) is 1
   z_t                   z, state->after[]                   recurrent: what tokens up to t left behind; a transformer has keys and values instead
   eps_theta             net->run()                          predicts eps, x0 or v (Objective)
   T, M                  T, matrix_rows()                    tokens; rows of the sampling schedule
   script K (M x T)      matrix_entry(m, t)                  that schedule, the "matrix": entries are DDIM indices, S (noise) .. 0 (clean); level_of()
   k_small               Sampling.shown, --stabilise         level as which clean history is shown
   gamma, C, S-bar       snr_decay, snr_clip, history        fused SNR
   log c(x)              J, Guide                            what guidance climbs                                                                        */
#include "common.h"      // brings: tensors, tape, ops, parameters, checkpoints, training; through io.h: files, command line, pictures
                         //         NEW(type, n): zeroed, you free it; HOST(type, n): zeroed, like to_device() it lives until the next begin_step()
                         //         dry: a rehearsal without arithmetic that counts how much memory a step takes

// ---- 1. configuration ---------------------------------------------------------------------------------------------------------

static struct {
    int levels, tokens, frames, batch, steps, warmup, save_every, seed, threads, width, layers, state, level_width, cells, heads, patches, data_steps, size,
        sprites, samples, length, context, chunk, sampling_steps, stabilise, plan, futures, replan, draws;
    double lr, max_norm, weight_decay, ema, snr_clip, snr_decay, uncertainty, eta, guidance;
    const char *task, *net, *noise, *schedule, *objective, *weight, *out, *device, *precision, *maze, *channels, *csv, *sampler, *matrix, *stabilise_with, *controller, *goals,
        *observed, *schedule_png, *animate;
    bool causal, snr_first, stabilise_truth, elbo, watch, resume, force, naive;
} opt = {
    .levels = 1000, .tokens = 16, .frames = 1, .batch = 64, .steps = 2000, .warmup = 100, .save_every = 1000, .seed = 1, .width = 64, .layers = 2, .state = 32,
    .level_width = 16, .cells = 1, .heads = 4, .patches = 1, .data_steps = 300000, .size = 16, .sprites = 1, .samples = 16, .context = 4, .chunk = 1, .sampling_steps = 20,
    .stabilise = 10, .futures = 1, .replan = 10, .draws = 16,
    .lr = 1e-3, .max_norm = 1, .weight_decay = 1e-4, .ema = 0.999, .snr_clip = 5, .snr_decay = 0.9, .uncertainty = 1,
    .task = "cross", .net = "rnn", .noise = "independent", .schedule = "cosine", .objective = "pred_x0", .weight = "uniform", .out = "", .device = "cpu", .precision = "auto",
    .maze = "umaze", .channels = "all", .csv = "data/cache/wind.csv", .sampler = "ddim", .matrix = "pyramid", .stabilise_with = "label", .controller = "pd", .goals = "single",
    .observed = "", .schedule_png = "", .animate = "",
};

static Option options[] = {
    // name, type, variable with its default, smallest, largest, verbs, meaning, saved in checkpoints, given
    {"task",     TEXT, &opt.task,      0, 0, " train sample eval ", "cross, maze2d, video or series; it changes defaults, which the first line of output shows", true, false},
    {"net",      TEXT, &opt.net,       0, 0, " train ", "rnn: the paper's recurrent network, or transformer", true, false},
    {"noise",    TEXT, &opt.noise,     0, 0, " train ", "independent: a level for each token; teacher: clean history; full: one level for all tokens", true, false},
    {"levels",   INT,  &opt.levels,    2, 1e5, " train ", "noise levels (K)", true, false},
    {"schedule", TEXT, &opt.schedule,  0, 0, " train ", "linear, cosine or sigmoid", true, false},
    {"objective",TEXT, &opt.objective, 0, 0, " train ", "what is predicted: pred_noise, pred_x0 or pred_v", true, false},
    {"weight",   TEXT, &opt.weight,    0, 0, " train ", "of a token's loss: uniform, min_snr or fused_snr", true, false},
    {"snr-clip", REAL, &opt.snr_clip,  1e-6, 1e6, " train ", "largest signal-to-noise ratio that counts (C)", true, false},
    {"snr-decay",REAL, &opt.snr_decay, 0, 1, " train ", "fused SNR: decay of what the history tells (gamma)", true, false},
    {"snr-first",FLAG, &opt.snr_first, 0, 1, " train ", "fused SNR: the history begins as the first token's signal, not as 0", true, false},
    {"tokens",   INT,  &opt.tokens,    2, 1e4, " train ", "tokens of a training sequence (T)", true, false},
    {"frames",   INT,  &opt.frames,    1, 1e4, " train ", "maze2d: steps of the environment in a token", true, false},
    {"width",    INT,  &opt.width,     2, 1e5, " train ", "width of the layers", true, false},
    {"layers",   INT,  &opt.layers,    1, 1000, " train ", "rnn: layers before and after the GRU; transformer: layers", true, false},
    {"state",    INT,  &opt.state,     1, 1e5, " train ", "rnn: numbers of the latent state z", true, false},
    {"level-width", INT, &opt.level_width, 4, 1e5, " train ", "rnn: sinusoids of a level", true, false},
    {"cells",    INT,  &opt.cells,     1, 64, " train ", "rnn: GRU cells; they divide --state", true, false},
    {"heads",    INT,  &opt.heads,     1, 1e4, " train ", "transformer: attention heads; they divide --width", true, false},
    {"patches",  INT,  &opt.patches,   1, 1e4, " train ", "transformer, video: patches along an edge of a frame; they divide --size", true, false},
    {"causal",   FLAG, &opt.causal,    0, 1, " train ", "transformer: a token sees only earlier ones", true, false},
    {"batch",    INT,  &opt.batch,     1, 1e6, " train ", "sequences of a step (B)", true, false},
    {"steps",    INT,  &opt.steps,     1, 1e9, " train ", "optimiser steps", true, false},
    {"lr",       REAL, &opt.lr,        0, 10, " train ", "learning rate after warm-up", true, false},
    {"warmup",   INT,  &opt.warmup,    0, 1e9, " train ", "steps of linear warm-up; 0: off", true, false},
    {"clip-grad",REAL, &opt.max_norm,  0, 1e9, " train ", "largest norm of the gradient; 0: off", true, false},
    {"weight-decay", REAL, &opt.weight_decay, 0, 10, " train ", "of AdamW", true, false},
    {"ema",      REAL, &opt.ema,       0, 1, " train ", "decay of the moving average of the weights", true, false},
    {"save-every",INT, &opt.save_every,0, 1e9, " train ", "steps between two checkpoints on the way; 0: only at the end", false, false},
    {"seed",     INT,  &opt.seed,      0, 2147483647, " train sample eval ", "seed of all randomness", true, false},
    {"maze",     TEXT, &opt.maze,      0, 0, " train ", "maze2d: umaze, medium, large, ... or a file of # (wall), O (free) and G (goal; without one the first free cell)", true, false},
    {"channels", TEXT, &opt.channels,  0, 0, " train ", "maze2d: all: positions, velocities and actions; positions: these alone", true, false},
    {"data-steps", INT,&opt.data_steps,1000, 1e8, " train ", "maze2d: steps of the training data", true, false},
    {"size",     INT,  &opt.size,      6, 32, " train ", "video: pixels of an edge of a frame", true, false},
    {"sprites",  INT,  &opt.sprites,   1, 2, " train ", "video: moving objects", true, false},
    {"csv",      TEXT, &opt.csv,       0, 0, " train sample eval ", "series: a table, names in its first row, dates in its first column if any", true, false},
    {"samples",  INT,  &opt.samples,   1, 1e5, " sample eval ", "sequences to sample side by side: paths, episodes, videos; series: samples of each forecast", false, false},
    {"length",   INT,  &opt.length,    0, 1e5, " sample eval ", "tokens of a sampled sequence; 0: as in training, for video ten times as many", false, false},
    {"context",  INT,  &opt.context,   0, 1e4, " train sample eval ", "video, series: tokens that are given", true, false},
    {"chunk",    INT,  &opt.chunk,     1, 1e4, " sample eval ", "video, series: tokens that are made at a time", false, false},
    {"matrix",   TEXT, &opt.matrix,    0, 0, " sample eval ", "schedule of the levels: full_sequence, pyramid, autoregressive or trapezoid", false, false},
    {"uncertainty", REAL, &opt.uncertainty, 0, 1e4, " sample eval ", "pyramid, trapezoid: rows by which each token is later than the one before it", false, false},
    {"sampler",  TEXT, &opt.sampler,   0, 0, " sample eval ", "ddim, or ddpm: every level", false, false},
    {"sampling-steps", INT, &opt.sampling_steps, 1, 1e5, " sample eval ", "DDIM steps of a token (S)", false, false},
    {"eta",      REAL, &opt.eta,       0, 1, " sample eval ", "noise of a DDIM step; 0: none, 1: as DDPM", false, false},
    {"stabilise",INT,  &opt.stabilise, 0, 1e5, " sample eval ", "clean tokens are shown as if they had this many steps of noise (level index + 1); 0: as clean", false, false},
    {"stabilise-with", TEXT, &opt.stabilise_with, 0, 0, " sample eval ", "label: the level and the scale alone, or noise: real noise too", false, false},
    {"stabilise-truth", FLAG, &opt.stabilise_truth, 0, 1, " sample eval ", "given tokens too", false, false},
    {"plan",     INT,  &opt.plan,      1, 1e4, " sample eval ", "cross: tokens of a plan without memory; half of --tokens if not given", false, false},
    {"guidance", REAL, &opt.guidance,  0, 1e38, " sample eval ", "maze2d: scale of the guidance to the goal; 0: off", false, false},
    {"futures",  INT,  &opt.futures,   1, 1000, " sample eval ", "maze2d, rnn: futures that the guidance of a token is averaged over (Monte-Carlo guidance)", false, false},
    {"replan",   INT,  &opt.replan,    1, 1e5, " eval ", "maze2d: steps that are done before a new plan", false, false},
    {"controller", TEXT, &opt.controller, 0, 0, " eval ", "maze2d: pd: follows the plan's positions; actions: those of the plan; straight, waypoints: without a network", false, false},
    {"goals",    TEXT, &opt.goals,     0, 0, " sample eval ", "maze2d: single: the maze's own; multi: a random one each", false, false},
    {"elbo",     FLAG, &opt.elbo,      0, 1, " eval ", "the bound on -log p of sequences of the task (maze2d: of its data; series: of the part behind the training)", false, false},
    {"observed", TEXT, &opt.observed,  0, 0, " eval ", "--elbo: the tokens whose likelihood is asked for, as 0-3,7; all if not given", false, false},
    {"draws",    INT,  &opt.draws,     1, 1e6, " eval ", "--elbo: levels drawn for each token", false, false},
    {"schedule-png", TEXT, &opt.schedule_png, 0, 0, " sample ", "a picture of the schedule: rows of the matrix from top to bottom", false, false},
    {"animate",  TEXT, &opt.animate,   0, 0, " sample ", "maze2d: file: an animated SVG of the first plans while they denoise", false, false},
    {"watch",    FLAG, &opt.watch,     0, 1, " sample ", "show the first sequence row by row: its levels (a full bar is noise) and the first number of each token", false, false},
    {"out",      TEXT, &opt.out,       0, 0, " train sample eval ", "directory of the checkpoint; out/df/TASK if not given", false, false},
    {"resume",   FLAG, &opt.resume,    0, 1, " train ", "go on from the checkpoint in --out; steps, save-every, threads, naive, device may change", false, false},
    {"force",    FLAG, &opt.force,     0, 1, " train ", "overwrite the checkpoint in --out", false, false},
    {"threads",  INT,  &opt.threads,   0, 4096, " train sample eval check ", "threads; 0: one for each core", false, false},
    {"device",   TEXT, &opt.device,    0, 0, " train sample eval check ", "cpu, or cuda: one NVIDIA GPU", false, false},
    {"precision",TEXT, &opt.precision, 0, 0, " train sample eval ", "products in fp32 or bf16; auto: bf16 where the processor has a matrix unit; cuda knows fp32 only", false, false},
    {"naive",    FLAG, &opt.naive,     0, 1, " train sample eval check ", "plain kernels only", false, false},
    {0},
};
static bool given(const char *name) { for (const Option *o = options; o->name; o++) if (!strcmp(o->name, name)) return o->given; return false; }
static void set_up(void) { select_machine(opt.threads, opt.device, &opt.precision, opt.naive); if (given("out") && !*opt.out) die("--out '': the name of a directory is needed"); }


// ---- 2. METHOD ----------------------------------------------------------------------------------------  <- start here ---------
// Token t of a sequence is noised to its own level k_t, independently of all others; one network denoises all of them:
//     L = E_k E_eps sum_t w(k_t) | target - net(x_t^{k_t}, k_t, z_{t-1}) |^2                                                        (Eq. 3.1)
// Everything below is a number for each token; tensors change by mix(): out = a x + b y + c z, with coefficients for each row.

// How much of the signal is left at level k. linear: beta from 1e-4 to 0.02 (for K = 1000; scaled for others). cosine, sigmoid: alpha_bar is given.
typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_SIGMOID, SCHEDULES } ScheduleKind;
static const char *const schedule_name[] = {"linear", "cosine", "sigmoid"};
typedef struct Schedule { int K; double *beta, *alpha_bar; } Schedule;              // (K)

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double signal_left(ScheduleKind kind, double u) {                // alpha_bar at the fraction u of all levels, up to a factor: only ratios are used
    if (kind == SCHEDULE_COSINE) { double c = cos((u + 0.008) / 1.008 * 1.57079632679489661923); return c * c; }
    return (sigmoid(3) - sigmoid(6*u - 3)) / (sigmoid(3) - sigmoid(-3));
}
static Schedule schedule_create(ScheduleKind kind, int K) {
    Schedule s = {K, NEW(double, K), NEW(double, K)};
    for (int k = 0; k < K; k++) {
        double step = 1000.0 / K, u = K > 1 ? (double)k / (K - 1) : 0;
        if (kind == SCHEDULE_LINEAR) s.beta[k] = step * (1e-4 + u * (0.02 - 1e-4));
        else s.beta[k] = fmin(fmax(1 - signal_left(kind, (k + 1.0) / K) / signal_left(kind, (double)k / K), 0), 0.999);
        s.alpha_bar[k] = (k ? s.alpha_bar[k - 1] : 1) * (1 - s.beta[k]);
    }
    return s;
}
static void schedule_free(Schedule *s) { free(s->beta), free(s->alpha_bar); }
static double alpha_bar(const Schedule *s, int k) { return k < 0 ? 1 : s->alpha_bar[k]; }
static double snr(const Schedule *s, int k) { return alpha_bar(s, k) / (1 - alpha_bar(s, k)); }

// x^k = sqrt(alpha_bar) x^0 + sqrt(1 - alpha_bar) eps                                                                                (Sec. 2)
static void noising(double *of_x0, double *of_noise, double ab) { *of_x0 = sqrt(ab), *of_noise = sqrt(1 - ab); }

// What the network predicts: eps, x0, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0. Each gives x0 and eps as  a x^k + b prediction.   (App. D.1)
typedef enum { PRED_NOISE, PRED_X0, PRED_V, OBJECTIVES } Objective;
static const char *const objective_name[] = {"pred_noise", "pred_x0", "pred_v"};
static void predicted_x0(double *of_x, double *of_prediction, Objective o, double ab) {
    *of_x          = o == PRED_NOISE ? 1 / sqrt(ab) : o == PRED_X0 ? 0 : sqrt(ab);
    *of_prediction = o == PRED_NOISE ? -sqrt(1/ab - 1) : o == PRED_X0 ? 1 : -sqrt(1 - ab);
}
static void predicted_noise(double *of_x, double *of_prediction, Objective o, double ab) {
    if (ab == 1) { *of_x = *of_prediction = 0; return; }                 // a clean token has no noise, and does not move
    double x, p;                                                        // eps = (x^k / sqrt(alpha_bar) - x0) / sqrt(1/alpha_bar - 1)
    predicted_x0(&x, &p, o, ab);
    *of_x          = o == PRED_NOISE ? 0 : (1 / sqrt(ab) - x) / sqrt(1/ab - 1);
    *of_prediction = o == PRED_NOISE ? 1 : -p / sqrt(1/ab - 1);
}

// Loss weights. min-SNR (Hang et al. 2023): the squared error of x0 counts min(snr, C). Fused: a token whose history tells much about it counts as if it had
// more signal itself: n' = 1 - (1 - n)(1 - history), with n = min(snr, C)/C and history in [0,1] the running mean of n before it.         (App. B.1)
// An error of eps is |x0 error|^2 = |eps error|^2 / snr, of v |v error|^2 / (snr + 1): the weight of x0 is divided by that, with the fused snr, free * C.
// history 0: min-SNR. limited, free: n' with and without the limit C.
static double snr_weight(Objective o, double snr, double history, double C) {
    double limited = 1 - (1 - history) * (1 - fmin(snr, C)/C), free = 1 - (1 - history) * (1 - snr/C);
    return o == PRED_NOISE ? limited / free : o == PRED_X0 ? limited * C : limited * C / (free * C + 1);
}
// history (T): before token t the running mean of n: gamma history + (1 - gamma) n. It begins as 0, or (first) as n of the first token: the paper leaves that open
static void signal_history(double *history, const double *n, int T, double gamma, bool first) {
    double running = 0;
    for (int t = 0; t < T; t++) {
        history[t] = running;
        running = t == 0 && first ? n[0] : gamma * running + (1 - gamma) * n[t];
    }
}

// The matrix, the schedule of sampling: one row a step, one column a token, entries from S (noise) to 0 (clean).                       (Eq. B.1)
// Each token starts u rows later than the one before it ("causal uncertainty"). Three tokens, S = 4, u = 1, rows from left to right:
//     full_sequence    444 333 222 111 000                                           all tokens alike
//     pyramid          444 344 234 123 012 001 000                                   the near future ahead of the far
//     autoregressive   444 344 244 144 044 034 024 014 004 003 002 001 000           pyramid with u = S: one after the other
//     trapezoid        444 343 232 121 010 000                                       both ends first
typedef enum { FULL_SEQUENCE, PYRAMID, AUTOREGRESSIVE, TRAPEZOID, MATRICES } MatrixKind;
static const char *const matrix_name[] = {"full_sequence", "pyramid", "autoregressive", "trapezoid"};
static int start_of(MatrixKind kind, int t, int T, int S, double u) {   // how many rows a token waits
    return kind == FULL_SEQUENCE ? 0 : kind == AUTOREGRESSIVE ? t * S : (int)((kind == TRAPEZOID && t > T - 1 - t ? T - 1 - t : t) * u);
}
static int matrix_rows(MatrixKind kind, int T, int S, double u) { return S + 1 + start_of(kind, kind == TRAPEZOID ? (T - 1) / 2 : T - 1, T, S, u); }
static int matrix_entry(MatrixKind kind, int m, int t, int T, int S, double u) {
    int index = S + start_of(kind, t, T, S, u) - m;
    return index < 0 ? 0 : index > S ? S : index;
}
// The level of a DDIM index: S steps of K/S levels, from -1 (clean) up; K = 1000, S = 50: -1, 19, 39, ..., 999
static int level_of(int index, int S, int K) { return index == 0 ? -1 : (int)((long)index * K / S) - 1; }

// One step of a token from alpha_bar `from` to `to` (DDIM; eta = 1: as noisy as DDPM):  x = of_x0 x0 + of_noise eps + fresh noise'            (Song et al. 2021)
//     fresh = eta sqrt((1 - from/to) (1 - to)/(1 - from)),   of_noise = sqrt(1 - to - fresh^2), written without that difference
static void ddim(double *of_x0, double *of_noise, double *fresh, double from, double to, double eta) {
    double part = (1 - from/to) / (1 - from);
    *of_x0 = sqrt(to), *fresh = to == 1 ? 0 : eta * sqrt(part * (1 - to));
    *of_noise = to == 1 ? 0 : sqrt((1 - to) * (1 - eta*eta*part));
    // eta = 1: 1 - part = from (1 - to) / (to (1 - from)), which cancels badly where from is near to
    if (eta == 1 && to < 1) *of_noise = sqrt(from / (to * (1 - from))) * (1 - to);
}
// One step of DDPM, from level k to k - 1: mean of_x0 x0 + of_x x, standard deviation `fresh`                                   (Ho et al. 2020, Eqs. 6-7)
static void ddpm(double *of_x0, double *of_x, double *fresh, const Schedule *s, int k) {
    double before = alpha_bar(s, k - 1), after = alpha_bar(s, k);
    *of_x0 = s->beta[k] * sqrt(before) / (1 - after), *of_x = (1 - before) * sqrt(1 - s->beta[k]) / (1 - after);
    *fresh = k == 0 ? 0 : sqrt(fmax(s->beta[k] * (1 - before) / (1 - after), 1e-20));
}

// Guidance climbs some J (the paper: log c). With g = dJ/dx it moves eps by - sqrt(1 - from) g, hence x0 by + sqrt(1/from - 1) sqrt(1 - from) g (Dhariwal & Nichol
// 2021). A step is linear in both, so x moves by guided() * g. from, to: alpha_bar before and after; `to` is for coded_guidance(), which has the same type.
static double guided(double from, double to, double of_x0, double of_noise) { (void)to; return (of_x0 * sqrt(1/from - 1) - of_noise) * sqrt(1 - from); }

// A bound of -log p of the tokens of any set A, each given what is known before it: z_{t-1} has seen tokens of A clean, all others as pure noise. (Thm. 3.1, App. A)
//     -log p(x_A) <= sum over t in A of [ KL(q(x^K|x^0) || N(0,I)) + sum_{j=2..K} E KL(q(x^{j-1}|x^j,x^0) || p(x^{j-1}|x^j,z)) - E log p(x^0|x^1,z) ]
// j is the paper's level, k = j - 1 here. p has the mean of a DDPM step with the predicted x0 and the variance of q (beta[0] in the last term): each KL is a
// weighted square error. elbo_prior() is the first term, elbo_term(k) one of the sum, elbo_term(0) the last. C numbers; error2 = |predicted x0 - x0|^2, size2 = |x0|^2
static double elbo_prior(const Schedule *s, double size2, int C) {
    double left = alpha_bar(s, s->K - 1);
    return 0.5 * (left * size2 - C * (left + log1p(-left)));
}
static double elbo_term(const Schedule *s, int k, double error2, int C) {
    double of_x0, of_x, fresh;
    if (k == 0) return 0.5 * (error2 / s->beta[0] + C * log(6.283185307179586 * s->beta[0]));
    ddpm(&of_x0, &of_x, &fresh, s, k);
    return 0.5 * of_x0 * of_x0 * error2 / (fresh * fresh);
}

// ---- 3. networks --------------------------------------------------------------------------------------------------------------
// Two networks behind one function type: the paper's recurrent one, and a transformer. Names and shapes are those of the official code, so that its weights can
// be read: the digits in time1, time3, mlp0, mlp2, init0 ... are PyTorch's places in a Sequential, where activations count too.
// Each token comes with its level; nothing else tells a network what is known and what is noise.

typedef struct NetConfig {
    bool recurrent, causal;     // causal: of the transformer; the recurrent network always is
    int C, E;                   // numbers of a token; of its condition, 0: none
    int Z, W, N, M, G, first;   // recurrent: state, width, sinusoids of a level, layers of an MLP, GRU cells; numbers that the first state is made of, 0: it is 0
    int d, NH, ff, NL, P;       // transformer: width, heads, hidden width, layers, patches of a token
    int K, window;              // levels; transformer: the most tokens that it sees
} NetConfig;

typedef struct Dense { Tensor *weight, *bias; } Dense;                  // a linear layer
typedef struct Block { Dense mlp0, mlp2, shortcut; bool has_shortcut; } Block;      // shortcut: where the width changes
typedef struct Layer { Dense in_proj, out_proj, linear1, linear2, norm1, norm2; } Layer;
typedef struct Net Net;

// What a network is shown: x (B,T,C), tokens first..first+T-1 of B sequences, the levels k (B*T) that they are said to have, and cond (B,T,E) or NULL.
// doubled (teacher forcing): the sequence is [noisy | clean], T/2 tokens each; noisy token t is predicted from the clean tokens before it; a prediction is
// made for the noisy ones alone.
typedef struct Input { Tensor *x, *cond; const int *k; int first; bool doubled; } Input;
// What the tokens before `first` have left behind. z (B,1,Z): the state of the recurrent network; after[t] is that after token first + t, which the
// network fills in. cached: the transformer keeps keys and values of every token that it is shown, and sees those of the tokens before `first`.
typedef struct State { Tensor *z, **after; bool cached; } State;

struct Net {
    NetConfig c;
    Params ps;
    Tensor *(*run)(Net *net, Input in, State *state);                   // the prediction of eps, x0 or v: (B,T,C); doubled: (B,T/2,C)
    Tensor *levels, *positions;                                         // constants: sinusoids of the levels -1..K-1, of the positions 0..window-1
    Dense time1, time3, cond0, cond2, before, after, x_from_z, encoder[3];                          // recurrent
    Block *blocks_before, *blocks_after;
    struct { Dense ih, hh; } *gru;
    Dense init0, init2, out;                                            // transformer
    Tensor *patch;                                                      // (P,d), added to the patches of a token; NULL if there is one
    Layer *layer;
    real *cache;                                                        // keys|values (NL,B,window*P,2d), for sampling; else NULL
    int cache_B;
};

// sin(p f_i) | cos(p f_i) of n integers p from `first` on, f_i = 10000^(-i/(F/2 - 1)) -> (1,n,F), persistent. Phases in double.
static Tensor *sinusoids(int first, int n, int F) {
    size_t size = (size_t)n * (size_t)F;
    real *table = arena_take(&persistent, size * sizeof(real)), *values = NEW(real, dry ? 0 : size);
    int half = F / 2;
    for (int i = 0; !dry && i < n; i++)
        for (int j = 0; j < half; j++) {
            double phase = (first + i) * exp(-log(10000.0) * j / (half > 1 ? half - 1 : 1));
            values[(size_t)i*(size_t)F + (size_t)j] = (real)sin(phase), values[(size_t)i*(size_t)F + (size_t)(half + j)] = (real)cos(phase);
        }
    upload(table, values, size * sizeof(real));
    free(values);
    Tensor *t = NEW(Tensor, 1);
    *t = (Tensor){.data = table, .B = 1, .T = n, .C = F, .kind = CONSTANT, .name = "sinusoids"};
    return t;
}

// PyTorch's default: weights and biases in U(-bound, bound) with bound 1/sqrt(fan-in); or the bounds that are given
__attribute__((format(printf, 6, 7))) static Dense dense(Params *ps, int out, int in, double bound, double bias_bound, const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(name, sizeof name - 16, format, args);
    va_end(args);
    Dense d;
    bool attention = n > 7 && !strcmp(name + n - 7, "in_proj");         // PyTorch joins the words in its attention: in_proj_weight
    strcpy(name + n, attention ? "_weight" : ".weight"), d.weight = param(ps, name, out, in, UNIFORM, bound);
    strcpy(name + n, attention ? "_bias" : ".bias"), d.bias = param(ps, name, 0, out, bias_bound > 0 ? UNIFORM : ZERO, bias_bound);
    return d;
}
#define DENSE(out, in, ...) dense(ps, out, in, 1 / sqrt((double)(in)), 1 / sqrt((double)(in)), __VA_ARGS__)
static Tensor *apply(Tensor *x, Dense d, Activation act) { return linear(x, d.weight, d.bias, act); }

// ---- the recurrent network (App. D.1, branch paper) ----
// u = [z | x | level | condition];  MLP of residual blocks;  GRU cells, each with its part of z as state;  MLP: the next z;  the prediction is a linear map of it
// z_{t-1} goes in twice, beside x and as the state of the cells; z_t is what the second MLP makes of the cells' output, not that output itself.

static Block block_create(Params *ps, int out, int in, const char *name) {
    Block b = {.has_shortcut = out != in};
    b.mlp0 = DENSE(out, in, "%s.mlp.0", name), b.mlp2 = DENSE(out, out, "%s.mlp.2", name);
    if (b.has_shortcut) b.shortcut = DENSE(out, in, "%s.shortcut", name);
    return b;
}
// M - 1 blocks and a linear layer; the MLP before the GRU with M = 1 is one block alone, that after it one linear layer
static Block *mlp_create(Params *ps, Dense *last, int out, int in, int W, int M, bool block_alone, const char *name) {
    Block *b = NEW(Block, M);
    char text[64];
    for (int i = 0; i < M - 1; i++) snprintf(text, sizeof text, "%s.%d", name, i), b[i] = block_create(ps, W, i ? W : in, text);
    if (M > 1) *last = DENSE(out, W, "%s.%d", name, M - 1);
    else if (block_alone) b[0] = block_create(ps, out, in, name);
    else *last = DENSE(out, in, "%s", name);
    return b;
}
static void rnn_create(Net *net) {
    NetConfig c = net->c;
    Params *ps = &net->ps;
    int in = c.Z + c.C + c.N + (c.E ? c.N : 0), H = c.Z / c.G;
    #define MODEL "transition_model.model."
    net->time1 = DENSE(c.N, c.N, MODEL "time_mlp.1"), net->time3 = DENSE(c.N, c.N, MODEL "time_mlp.3");
    if (c.E) net->cond0 = DENSE(c.N, c.E, MODEL "external_cond_mlp.0"), net->cond2 = DENSE(c.N, c.N, MODEL "external_cond_mlp.2");
    net->blocks_before = mlp_create(ps, &net->before, c.Z, in, c.W, c.M, true, MODEL "mlp_before_gru");
    net->blocks_after = mlp_create(ps, &net->after, c.Z, c.Z, c.W, c.M, false, MODEL "mlp_after_gru");
    net->gru = allocate((size_t)c.G * sizeof *net->gru);
    for (int i = 0; i < c.G; i++) {
        const char *const part[2] = {"ih", "hh"};
        for (int j = 0; j < 2; j++) {
            char name[64];
            Dense *d = j ? &net->gru[i].hh : &net->gru[i].ih;
            snprintf(name, sizeof name, MODEL "gru_stack.%d.weight_%s", i, part[j]), d->weight = param(ps, name, 3*H, j || i ? H : c.Z, UNIFORM, 1 / sqrt((double)H));
            snprintf(name, sizeof name, MODEL "gru_stack.%d.bias_%s", i, part[j]), d->bias = param(ps, name, 0, 3*H, UNIFORM, 1 / sqrt((double)H));
        }
    }
    net->x_from_z = DENSE(c.C, c.Z, "transition_model.x_from_z");
    for (int i = 0; c.first && i < 3; i++) net->encoder[i] = DENSE(i < 2 ? 128 : c.Z, i ? 128 : c.first, "init_encoder.%d", 2*i);
    net->levels = sinusoids(-1, c.K + 1, c.N);
}

// GELU(shortcut(v) + mlp(v))
static Tensor *block_forward(Tensor *v, const Block *b) {
    Tensor *h = apply(linear_hidden(v, b->mlp0.weight, b->mlp0.bias, GELU_EXACT), b->mlp2, LINEAR_ONLY);
    return sum(b->has_shortcut ? apply(v, b->shortcut, LINEAR_ONLY) : v, h, GELU_EXACT);
}
static Tensor *mlp_forward(Tensor *u, const Block *b, Dense last, int M, bool block_alone) {
    size_t mark = per_step.used;
    for (int i = 0; i < M - 1; i++) u = keep(block_forward(u, &b[i]), mark);
    return M == 1 && block_alone ? block_forward(u, &b[0]) : apply(u, last, LINEAR_ONLY);
}
// The state before the first token of what is known of it: first (B,1,n), or zeros
static Tensor *rnn_start(Net *net, Tensor *first, int B) {
    if (net->c.first) return apply(apply(apply(first, net->encoder[0], ELU), net->encoder[1], ELU), net->encoder[2], LINEAR_ONLY);
    Tensor *z = tensor(B, 1, net->c.Z, CONSTANT, "z0");
    fill(z->data, 0, count(z));
    return z;
}
// z_t from z_{t-1} (B,1,Z) and, of the token, x, the level's embedding e and the condition's g (B,1,.)
static Tensor *rnn_step(Net *net, Tensor *z, Tensor *x, Tensor *e, Tensor *g) {
    int G = net->c.G, H = net->c.Z / G;
    Tensor *u = mlp_forward(CONCAT(z, x, e, g), net->blocks_before, net->before, net->c.M, true), **h = HOST(Tensor *, G);
    for (int i = 0; i < G; i++) {
        Tensor *part = G > 1 ? columns_of(z, i*H, H) : z;
        u = h[i] = gru(apply(u, net->gru[i].ih, LINEAR_ONLY), apply(part, net->gru[i].hh, LINEAR_ONLY), part);
    }
    return mlp_forward(G > 1 ? concat(G, h) : u, net->blocks_after, net->after, net->c.M, false);
}
// The levels' embeddings e and the conditions' g (NULL: there are none) of all tokens at once, where z plays no part: (B,T,N)
static void rnn_embed(Net *net, Input in, Tensor **e, Tensor **g) {
    int B = in.x->B, T = in.x->T, *id = HOST(int, B*T);
    for (int i = 0; i < B*T; i++) id[i] = in.k[i] + 1;
    *e = apply(apply(embedding(net->levels, to_device(id, (size_t)(B*T) * sizeof(int)), B, T), net->time1, GELU_EXACT), net->time3, LINEAR_ONLY);
    *g = net->c.E ? apply(apply(in.cond, net->cond0, GELU_EXACT), net->cond2, LINEAR_ONLY) : NULL;
}
static Tensor *rnn_run(Net *net, Input in, State *state) {
    NetConfig c = net->c;
    int B = in.x->B, T = in.x->T, predicted = in.doubled ? T / 2 : T;
    Tensor *e, *g, *x = reshape(in.x, B, 1, T * c.C), *z = state->z, **used = HOST(Tensor *, T);
    rnn_embed(net, in, &e, &g);
    e = reshape(e, B, 1, T * c.N), g = g ? reshape(g, B, 1, T * c.N) : NULL;               // of which token t takes its columns
    state->after = HOST(Tensor *, T);
    for (int t = 0; t < predicted; t++)
        for (int copy = 0; copy < (in.doubled ? 2 : 1); copy++) {      // doubled: the noisy token for its prediction, then the clean one for the state
            int s = t + copy * predicted;
            Tensor *after = rnn_step(net, z, columns_of(x, s * c.C, c.C), columns_of(e, s * c.N, c.N), g ? columns_of(g, s * c.N, c.N) : NULL);
            if (copy == 0) used[t] = after;
            if (copy == in.doubled) z = state->after[t] = after;
        }
    return apply(reshape(concat(predicted, used), B, predicted, c.Z), net->x_from_z, LINEAR_ONLY);
}

// Every token on its own, from the state that state->after says was before it: other values of x_t after the same past. *after_all (B,T,Z): the states after them
static Tensor *rnn_apart(Net *net, Input in, const State *state, Tensor **after_all) {
    NetConfig c = net->c;
    int B = in.x->B, T = in.x->T;
    Tensor *e, *g, **z = HOST(Tensor *, T);
    for (int t = 0; t < T; t++) z[t] = t ? state->after[t - 1] : state->z;
    rnn_embed(net, in, &e, &g);
    Tensor *after = rnn_step(net, reshape(concat(T, z), B*T, 1, c.Z), reshape(in.x, B*T, 1, c.C), reshape(e, B*T, 1, c.N), g ? reshape(g, B*T, 1, c.N) : NULL);
    *after_all = reshape(after, B, T, c.Z);
    return reshape(apply(after, net->x_from_z, LINEAR_ONLY), B, T, c.C);
}

// ---- the transformer (branch main) ----
// Post-norm layers over the patches of all tokens; a patch knows its token's position, its place in the token, its token's level and condition.

static void transformer_create(Net *net, int cache_B) {
    NetConfig c = net->c;
    Params *ps = &net->ps;
    int d = c.d, F = d / 2, n = c.C / c.P;
    #define ROOT "diffusion_model.model."
    net->layer = NEW(Layer, c.NL);
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net->layer[l];
        #define AT ROOT "transformer.layers.%d."
        y->in_proj = dense(ps, 3*d, d, sqrt(6.0 / (4*d)), 0, AT "self_attn.in_proj", l);
        y->out_proj = dense(ps, d, d, 1 / sqrt((double)d), 0, AT "self_attn.out_proj", l);
        y->linear1 = DENSE(c.ff, d, AT "linear1", l), y->linear2 = DENSE(d, c.ff, AT "linear2", l);
        for (int i = 0; i < 2; i++) {
            char name[96];
            Dense *norm = i ? &y->norm2 : &y->norm1;
            snprintf(name, sizeof name, AT "norm%d.weight", l, i + 1), norm->weight = param(ps, name, 0, d, ONE, 0);
            snprintf(name, sizeof name, AT "norm%d.bias", l, i + 1), norm->bias = param(ps, name, 0, d, ZERO, 0);
        }
    }
    net->init0 = DENSE(d, n + F + c.E, ROOT "init_mlp.0"), net->init2 = DENSE(d, d, ROOT "init_mlp.2"), net->out = DENSE(n, d, ROOT "out");
    if (c.P > 1) net->patch = param(ps, ROOT "patch", c.P, d, UNIFORM, 1);
    net->levels = sinusoids(-1, c.K + 1, F), net->positions = sinusoids(0, c.window, d);
    size_t size = (size_t)c.NL * (size_t)cache_B * (size_t)c.window * (size_t)c.P * 2*(size_t)d;
    net->cache_B = cache_B;
    if (cache_B) net->cache = arena_take(&persistent, size * sizeof(real)), fill(net->cache, 0, size);
}

// What row i of T tokens of P patches sees: its own token and those before it; not causal: all. doubled: as the rows of bd3lm.c with a block of one token:
// a noisy one sees itself and the clean ones before it, a clean one the clean ones up to itself. first: tokens that the cache holds.
static Span attends(int i, int T, int P, int first, bool causal, bool doubled) {
    int half = T / 2, t = i / P;
    if (doubled && t < half) return (Span){.lo = {t * P, half * P}, .hi = {(t + 1) * P, (half + t) * P}};
    if (doubled) return (Span){.lo = {half * P}, .hi = {(t + 1) * P}};
    return (Span){.lo = {0}, .hi = {(first + (causal ? t + 1 : T)) * P}};
}
static Tensor *transformer_run(Net *net, Input in, State *state) {
    NetConfig c = net->c;
    int B = in.x->B, T = in.x->T, d = c.d, P = c.P, S = T * P, slots = state->cached ? c.window * P : S;
    int *level = HOST(int, B*S), *position = HOST(int, B*S), *place = HOST(int, B*S);
    Span *spans = HOST(Span, S);
    for (int i = 0; i < B*S; i++) {
        int t = i % S / P;
        level[i] = in.k[i / P] + 1, position[i] = in.first + (in.doubled ? t % (T / 2) : t), place[i] = i % P;
        if (position[i] >= c.window) die("internal error: token %d of a window of %d", position[i], c.window);
    }
    for (int i = 0; i < S; i++) spans[i] = attends(i, T, P, in.first, c.causal, in.doubled);
    size_t bytes = (size_t)(B*S) * sizeof(int);
    const Span *span = to_device(spans, (size_t)S * sizeof(Span));

    Tensor *e = embedding(net->levels, to_device(level, bytes), B, S), *cond = c.E ? in.cond : NULL;
    if (cond && P > 1) die("internal error: a condition of tokens with patches");
    Tensor *h = apply(apply(CONCAT(reshape(in.x, B, S, c.C / P), e, cond), net->init0, RELU), net->init2, LINEAR_ONLY);
    h = sum(h, embedding(net->positions, to_device(position, bytes), B, S), LINEAR_ONLY);
    if (net->patch) h = sum(h, embedding(net->patch, to_device(place, bytes), B, S), LINEAR_ONLY);
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net->layer[l];
        size_t mark = per_step.used;
        Tensor *qkv = apply(h, y->in_proj, LINEAR_ONLY), *kv = qkv;
        if (state->cached) {
            real *cache = net->cache + (size_t)l * (size_t)net->cache_B * (size_t)slots * 2*(size_t)d;
            cache_store(cache, slots, in.first * P, qkv, 0, qkv->T, d);
            kv = constant(cache, B, slots, 2*d, "cache");
        }
        Tensor *a = apply(attention(qkv, kv, kv->C - 2*d, span, B, c.NH), y->out_proj, LINEAR_ONLY);
        h = norm_modulate(sum(h, a, LINEAR_ONLY), y->norm1.weight, (Modulation){y->norm1.bias, NULL, 0, -1, -1}, LAYER, 1e-5);
        a = apply(apply(h, y->linear1, RELU), y->linear2, LINEAR_ONLY);
        h = keep(norm_modulate(sum(h, a, LINEAR_ONLY), y->norm2.weight, (Modulation){y->norm2.bias, NULL, 0, -1, -1}, LAYER, 1e-5), mark);
    }
    Tensor *prediction = reshape(apply(h, net->out, LINEAR_ONLY), B, T, c.C);
    return in.doubled ? reshape(columns_of(reshape(prediction, B, 1, T * c.C), 0, T/2 * c.C), B, T/2, c.C) : prediction;
}

// Registers all parameters and takes their memory; cache_B: sequences of the transformer's cache, 0: none.
static Net net_create(NetConfig c, bool training, uint64_t seed, int cache_B) {
    Net net = {.c = c, .run = c.recurrent ? rnn_run : transformer_run};
    if (c.recurrent) rnn_create(&net); else transformer_create(&net, cache_B);
    params_create(&net.ps, training, seed);
    return net;
}
static void net_free(Net *net) {
    params_free(&net->ps);
    free(net->blocks_before), free(net->blocks_after), free(net->gru), free(net->layer), free(net->levels), free(net->positions);
    *net = (Net){0};
}

// ---- 4. loss ------------------------------------------------------------------------------------------------------------------


// The kinds of noise in training. Diffusion Forcing: a level for each token; and its two limits, teacher forcing (next-token diffusion after a clean history)
// and full-sequence diffusion (one level for all tokens).
typedef enum { INDEPENDENT, TEACHER, FULL, NOISES } Noise;
static const char *const noise_name[] = {"independent", "teacher", "full"};
// k (B,T): levels 0..K-1. Teacher forcing draws as independent does: what differs is the history, see doubled()
static void draw_levels(int *k, Noise noise, int B, int T, int K, Rng *r) {
    for (int i = 0; i < B*T; i++) k[i] = noise == FULL && i % T ? k[i - 1] : below(r, K);
}

// The weight of each token's loss (B,T): 1, min-SNR, or fused SNR with what history tells (first: see signal_history; clean: of a history at level 0)
typedef enum { UNIFORM_WEIGHT, MIN_SNR, FUSED_SNR, WEIGHTINGS } Weighting;
static const char *const weighting_name[] = {"uniform", "min_snr", "fused_snr"};
static void token_weights(double *w, Weighting how, const int *k, int B, int T, const Schedule *s, Objective o, double gamma, double C, bool first, bool clean) {
    double *n = HOST(double, T), *history = HOST(double, T);
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) n[t] = fmin(snr(s, clean ? 0 : k[b*T + t]), C) / C;
        if (how == FUSED_SNR) signal_history(history, n, T, gamma, first);
        for (int t = 0; t < T; t++) w[b*T + t] = how == UNIFORM_WEIGHT ? 1 : snr_weight(o, snr(s, k[b*T + t]), history[t], C);
    }
}


// [x_k | history] side by side, T tokens each, with their levels: every noisy token meets a history that has levels of its own
static Input doubled(Tensor *x_k, Tensor *history, Tensor *cond, const int *k, const int *k_history) {
    int B = x_k->B, T = x_k->T, C = x_k->C, *both = HOST(int, 2*B*T);
    for (int i = 0; i < B*T; i++) both[i / T * 2*T + i % T] = k[i], both[i / T * 2*T + T + i % T] = k_history[i];
    Input in = {.x = reshape(CONCAT(reshape(x_k, B, 1, T*C), reshape(history, B, 1, T*C)), B, 2*T, C), .k = both, .doubled = true};
    if (cond) in.cond = reshape(CONCAT(reshape(cond, B, 1, T * cond->C), reshape(cond, B, 1, T * cond->C)), B, 2*T, cond->C);
    return in;
}

// L = scale sum_{b,t} sum_p w[b,t,p] | part p of (target_t - net(x_t^{k_t}, k_t, z_{t-1})) |^2                                          (Eq. 3.1, Alg. 1)
// A token's C numbers are P equal parts with a weight each (a maze token: its steps); P = 1: one weight a token. noise (B,T,C) on the device; k (B,T); z0 (B,1,Z)
// or NULL. teacher: the history is clean, said to be of level 0, since -1 is never trained on.
typedef struct Loss { Tensor *loss, *error, *x_k, *prediction; State state; } Loss;
static Loss df_loss(Net *net, const Schedule *s, Objective o, Tensor *x, Tensor *noise, const int *k, Tensor *cond, Tensor *z0, const double *weight, int P,
                    double scale, bool teacher) {
    int B = x->B, T = x->T;
    Rows r = rows_create(B*T);
    for (int i = 0; i < B*T; i++) noising(&r.a[i], &r.b[i], alpha_bar(s, k[i])), r.c[i] = -r.b[i];
    Loss l = {.x_k = mix(x, r.a, noise, r.b, NULL, NULL), .state = {.z = z0}};
    Input in = {.x = l.x_k, .cond = cond, .k = k};
    if (teacher) in = doubled(l.x_k, x, cond, k, HOST(int, B*T));
    l.prediction = net->run(net, in, &l.state);
    Tensor *target = o == PRED_NOISE ? noise : o == PRED_X0 ? x : mix(noise, r.a, x, r.c, NULL, NULL);     // v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0
    l.loss = square_error(l.prediction, target, weight, scale, P, &l.error);
    return l;
}

// ---- 5. sampling --------------------------------------------------------------------------------------------------------------
// Algorithm 2 as the official code reads it: one call at x_t, its present level and z_{t-1} gives both the prediction and z_t. (As printed, z_t comes first and
// the target level is shown; training never does that.) x lives on the host between two rows of the schedule.

// x0 and eps of each row from x, which stands at level k (N), and the network's prediction
static void split(Tensor **x0, Tensor **noise, Tensor *x, Tensor *prediction, const int *k, Objective o, const Schedule *s) {
    int N = rows(x);
    Rows p = rows_create(N), q = rows_create(N);
    for (int n = 0; n < N; n++) predicted_x0(&p.a[n], &p.b[n], o, alpha_bar(s, k[n])), predicted_noise(&q.a[n], &q.b[n], o, alpha_bar(s, k[n]));
    *x0 = mix(x, p.a, prediction, p.b, NULL, NULL);
    *noise = mix(x, q.a, prediction, q.b, NULL, NULL);
}

// Stabilisation: tokens that are clean (k = -1) are shown to the network as slightly noisy ones of level label >= 0, so that it does not trust its own output
// too much. noise NULL: only the label and the scale, as the official DDIM sampler does; otherwise with real noise. label (N): the levels shown.    (App. C.4)
static Tensor *stabilise(Tensor *x, const int *label, const int *k, Tensor *noise, const Schedule *s) {
    int N = rows(x);
    Rows r = rows_create(N);
    for (int n = 0; n < N; n++) {
        r.a[n] = 1, r.b[n] = 0;
        if (k[n] < 0 && label[n] >= 0) noising(&r.a[n], &r.b[n], alpha_bar(s, label[n]));
    }
    return mix(x, r.a, noise, r.b, NULL, NULL);
}

// x after one step of every row from level k to `to`; rows that stay at their level keep what they are
static Tensor *step_ddim(Tensor *x, Tensor *x0, Tensor *eps, Tensor *noise, const int *k, const int *label, const int *to, double eta, const Schedule *s) {
    int N = rows(x);
    Rows r = rows_create(N), keep = rows_create(N);
    for (int n = 0; n < N; n++) {
        bool stays = k[n] == to[n];
        if (!stays) ddim(&r.a[n], &r.b[n], &r.c[n], alpha_bar(s, label[n]), alpha_bar(s, to[n]), eta);
        keep.a[n] = stays, keep.b[n] = !stays;
    }
    return mix(x, keep.a, mix(x0, r.a, eps, r.b, noise, r.c), keep.b, NULL, NULL);
}
static Tensor *step_ddpm(Tensor *x, Tensor *shown, Tensor *x0, Tensor *noise, const int *k, const Schedule *s) {
    int N = rows(x);
    Rows r = rows_create(N), keep = rows_create(N);
    for (int n = 0; n < N; n++) {
        keep.a[n] = k[n] < 0, keep.b[n] = k[n] >= 0;
        if (k[n] >= 0) ddpm(&r.a[n], &r.b[n], &r.c[n], s, k[n]);
    }
    return mix(x, keep.a, mix(x0, r.a, shown, r.b, noise, r.c), keep.b, NULL, NULL);
}

// Guidance: x_t is moved along the gradient of some J(x0) with respect to the network's input.                                          (Sec. 3.4)
// gradient: of J at one prediction x0 (B,n,C) of tokens first..first+n-1, into d (B,n,C), all on the host. futures: R predictions of every token, drawn by noising
// the last one again, take part with the weight 1/R each (Monte-Carlo guidance); recurrent network only.
typedef struct Guide {
    double scale;
    int futures;
    double (*strength)(double from, double to, double of_x0, double of_noise);     // x moves by strength * scale * dJ/dx; guided() unless as coded
    void (*gradient)(const struct Guide *g, const real *x0, real *d, int B, int first, int n, int C);
    const void *goal;                                                   // what gradient() needs to know
    bool repeat;                                                        // as coded: the first prediction is repeated, R - 1 are drawn
} Guide;

struct Sampler;
typedef struct Sampling {       // how to sample
    Objective objective;
    MatrixKind matrix;
    int S;                      // DDIM steps
    double u, eta;              // uncertainty scale of the matrix; how noisy a step is
    int shown;                  // stabilisation: the level as which clean tokens are shown; -1: off, they are shown as they are and
    int clean;                  // said to be of this level: 0, the least that a network was trained on (-1 as coded)
    bool true_noise, on_truth;  // with real noise; given tokens too
    bool ddpm;                  // S = K: every token takes ancestral steps
    bool all;                   // ask about every token in every row: the same numbers, more work
    const Guide *guide;         // or NULL
    int (*level)(int index, int S, int K);                              // level_of(), matrix_rows(), matrix_entry() unless as coded
    int (*matrix_rows)(MatrixKind kind, int T, int S, double u);
    int (*matrix_entry)(MatrixKind kind, int m, int t, int T, int S, double u);
    const real *(*draw)(struct Sampler *s);                             // noise (B,T,C) for the tokens lo..hi-1 of a row with eta > 0, or for one more future
    void (*before)(struct Sampler *s, int at, int n);                   // called before tokens at..at+n-1 are made, or NULL
    void (*watch)(struct Sampler *s, const int *from, const int *to);   // called after every row, or NULL
    bool any_order;             // watch() looks at s->row, and may see the tokens of a diagonal in different rows
} Sampling;

typedef struct Sampler {
    Net *net;
    const Schedule *s;
    Sampling how;
    int B, T, given, window;    // sequences; tokens, the first `given` of which are known; tokens that the network sees at once
    real *x, *cond, *z;         // (B,T,C), (B,T,E), and z (T+1,B,Z): the state before each token
    real *noise;                // (B,T,C) of stabilisation: drawn once, so that a clean token always looks alike
    real *fresh;                // (B,T,C): where draw() puts what it draws
    bool *due;                  // (T), or NULL: along a diagonal, see diagonal(): tokens up to the last that moves in their row, asked about unless seen
    int *row;                   // (T): rows of the schedule that token t has gone through, in its chunk
    int *seen;                  // (T): the label under which the network has seen token t with its present values and past (z, keys and values still hold); else UNSEEN
    int lo, hi;                 // the window
    uint64_t seed;
    long rows, asked, naive, draws;     // rows of the matrix done; tokens that the network was asked about, and what asking about all would have been
    real *grad;                 // (B,T,C) of the last guided row, or NULL: not wanted
} Sampler;
enum { UNSEEN = -2 };

static void normals(real *x, int B, size_t size, size_t from, size_t to, uint64_t seed, uint64_t number) {      // x (B,size): columns from..to-1
    for (int b = 0; b < B; b++) {
        Rng r = rng(seed, RNG_SAMPLE, number << 24 | (uint64_t)b);
        for (size_t i = from; i < to; i++) x[(size_t)b*size + i] = (real)normal(&r);
    }
}
static const real *draw_noise(Sampler *s) {
    size_t C = (size_t)s->net->c.C;
    normals(s->fresh, s->B, (size_t)s->T * C, (size_t)s->lo * C, (size_t)s->hi * C, s->seed, (uint64_t)(2 + s->draws++));
    return s->fresh;
}
// All tokens are noise at first; whoever knows some writes them over. seed: of everything that is drawn.
static Sampler sampler_create(Net *net, const Schedule *s, Sampling how, int B, int T, uint64_t seed) {
    NetConfig c = net->c;
    size_t size = (size_t)T * (size_t)c.C;
    Sampler p = {.net = net, .s = s, .how = how, .B = B, .T = T, .window = c.recurrent ? T : c.window, .seed = seed};
    p.x = NEW(real, (size_t)B * size), p.noise = NEW(real, (size_t)B * size), p.fresh = NEW(real, (size_t)B * size), p.seen = NEW(int, T), p.row = NEW(int, T);
    if (c.E) p.cond = NEW(real, (size_t)B * (size_t)T * (size_t)c.E);
    if (c.recurrent) p.z = NEW(real, (size_t)(T + 1) * (size_t)B * (size_t)c.Z);
    for (int t = 0; t < T; t++) p.seen[t] = UNSEEN;
    if (!dry) normals(p.x, B, size, 0, size, seed, 0);
    if (!dry && how.true_noise) normals(p.noise, B, size, 0, size, seed, 1);
    return p;
}
static void sampler_free(Sampler *s) { free(s->x), free(s->cond), free(s->z), free(s->noise), free(s->fresh), free(s->seen), free(s->row), free(s->grad); }
// The first state of a recurrent network, of what is known before the first token: first (B,n), or NULL
static void sampler_start(Sampler *s, const real *first) {
    begin_step(), tape.off = true;
    Tensor *z = rnn_start(s->net, on_device(first, s->B, 1, s->net->c.first, "first"), s->B);
    download(s->z, z->data, count(z) * sizeof(real));
}
// tokens first..first+n-1 of an array (B,T,C) on the host -> (B,n,C) on the device; NULL stays NULL
static Tensor *some_tokens(const Sampler *s, const real *x, int first, int n, int C, const char *name) {
    if (!x) return NULL;
    size_t row = (size_t)C * sizeof(real);
    real *part = HOST(real, (size_t)s->B * (size_t)n * (size_t)C);
    for (int b = 0; b < s->B; b++) memcpy(part + (size_t)b * (size_t)n * (size_t)C, x + ((size_t)b * (size_t)s->T + (size_t)first) * (size_t)C, (size_t)n * row);
    return on_device(part, s->B, n, C, name);
}

// J's gradient with respect to the network's input, from R predictions x0 of the same tokens
static void guide_gradient(Sampler *s, Tensor *x0, Input in, State *state, int first, const int *label) {
    int B = x0->B, n = x0->T, C = x0->C, N = B*n, R = s->how.guide->futures > 1 ? s->how.guide->futures : 1, drawn = R - (s->how.guide->repeat && R > 1);
    size_t size = count(x0);
    Tensor **future = HOST(Tensor *, drawn), *all;
    future[0] = x0;
    Rows r = rows_create(N);
    for (int i = 0; i < N; i++) noising(&r.a[i], &r.b[i], alpha_bar(s->s, label[i]));
    for (int j = 1; j < drawn; j++) {
        Tensor *eps, *unused, *fresh = some_tokens(s, s->how.draw(s), first, n, C, "future noise");
        in.x = mix(future[j - 1], r.a, fresh, r.b, NULL, NULL);
        split(&future[j], &eps, in.x, rnn_apart(s->net, in, state, &unused), label, s->how.objective, s->s);
    }
    all = drawn > 1 ? concat(drawn, future) : x0;                       // (B,n, drawn * C)
    real *values = HOST(real, size), *d = HOST(real, size), *sum = HOST(real, size * (size_t)drawn);
    for (int j = 0; j < drawn; j++) {
        download(values, future[j]->data, size * sizeof(real));
        s->how.guide->gradient(s->how.guide, values, d, B, first, n, C);
        for (int i = 0; i < N; i++) for (int c = 0; c < C; c++)
            sum[((size_t)i * (size_t)drawn + (size_t)j) * (size_t)C + (size_t)c] = d[i*C + c] * (real)(j == 0 && drawn < R ? 2 : 1) / R;
    }
    backward_from(all, sum, INPUTS);
}

// One row of the schedule for tokens lo..hi-1: from, to (hi - lo) are their DDIM indices before and after; of equal ones the token stays as it is.
// A network that looks only backwards is asked about those tokens alone whose prediction is needed, and those before them that it has not seen as they are.
static void sample_row(Sampler *s, int lo, int hi, const int *from, const int *to) {
    NetConfig c = s->net->c;
    int B = s->B, first = hi, last = lo - 1;
    bool backwards = c.recurrent || c.causal, guided = s->how.guide && s->how.guide->scale != 0;
    begin_step();
    int *shown_as = HOST(int, hi - lo);
    // pass 0: what each token is shown as, and which have to be asked about: from the first that moves, or whose state or keys are not those of what it is now,
    // to the last that moves. A network that looks ahead, and a gradient through the whole row, need them all.
    if (lo != s->lo && !c.recurrent) for (int t = 0; t < s->T; t++) s->seen[t] = UNSEEN;      // positions are counted inside the window
    s->lo = lo, s->hi = hi;
    for (int t = lo; t < hi; t++) {
        int k = s->how.level(from[t - lo], s->how.S, s->s->K);
        shown_as[t - lo] = k >= 0 ? k : t < s->given && !s->how.on_truth ? -1 : s->how.shown;
        bool moves = from[t - lo] != to[t - lo], due = s->due && s->due[t];
        if (moves || due) last = t;
        if (first == hi && (moves || (s->seen[t] != shown_as[t - lo] && (due || !s->due)))) first = t;
    }
    s->rows++, s->naive += (long)B * (hi - lo);
    bool noisy = last >= lo && (s->how.eta > 0 || s->how.ddpm);        // a row in which nothing moves draws nothing
    if (!backwards || guided || s->how.all) first = lo, last = hi - 1;
    if (last < first) { if (s->how.watch) s->how.watch(s, from, to); return; }             // nothing moves
    int n = last - first + 1, N = B * n;
    s->asked += N;

    // pass 1: what the network is shown, and its prediction
    int *k = HOST(int, N), *next = HOST(int, N), *label = HOST(int, N), *said = HOST(int, N);
    for (int i = 0; i < N; i++) {
        int t = first + i % n - lo;
        k[i] = s->how.level(from[t], s->how.S, s->s->K), next[i] = s->how.level(to[t], s->how.S, s->s->K), label[i] = shown_as[t], said[i] = label[i] < 0 ? s->how.clean : label[i];
    }
    tape.off = !guided;
    Tensor *x = some_tokens(s, s->x, first, n, c.C, "x"), *x0, *eps;
    Tensor *shown = stabilise(x, label, k, s->how.true_noise ? some_tokens(s, s->noise, first, n, c.C, "stabilising noise") : NULL, s->s);
    if (guided) shown = leaf(constant(shown->data, B, n, c.C, "shown"));
    State state = {.cached = c.causal && !c.recurrent && !guided};
    size_t Z = (size_t)c.Z, states = (size_t)B * Z;
    if (c.recurrent) state.z = on_device(s->z + (size_t)first * states, B, 1, c.Z, "z");
    if (s->due) state.after = HOST(Tensor *, n);
    for (int t = 1; s->due && t < n; t++) state.after[t - 1] = on_device(s->z + (size_t)(first + t) * states, B, 1, c.Z, "z");
    Input in = {.x = shown, .cond = some_tokens(s, s->cond, first, n, c.E, "condition"), .k = said, .first = first - lo};
    Tensor *after_all = NULL, *prediction = s->due ? rnn_apart(s->net, in, &state, &after_all) : s->net->run(s->net, in, &state);
    split(&x0, &eps, shown, prediction, label, s->how.objective, s->s);

    // pass 2: the step, with guidance
    Tensor *noise = noisy ? some_tokens(s, s->how.draw(s), first, n, c.C, "noise") : NULL;
    Tensor *after = s->how.ddpm ? step_ddpm(x, shown, x0, noise, k, s->s) : step_ddim(x, x0, eps, noise, k, label, next, s->how.eta, s->s);
    if (guided) {
        guide_gradient(s, x0, in, &state, first, label);
        Rows r = rows_create(N);
        for (int i = 0; i < N; i++) {
            double of_x0, of_noise, fresh, here = alpha_bar(s->s, label[i]), there = alpha_bar(s->s, next[i]);
            ddim(&of_x0, &of_noise, &fresh, here, there, s->how.ddpm ? 1 : s->how.eta);          // the mean of a DDPM step is that of eta = 1
            r.a[i] = 1, r.b[i] = k[i] == next[i] ? 0 : s->how.guide->scale * s->how.guide->strength(here, there, of_x0, of_noise);
        }
        Tensor *grad = constant(shown->grad, B, n, c.C, "gradient");
        if (s->grad) download(s->grad, grad->data, count(grad) * sizeof(real));
        after = mix(after, r.a, grad, r.b, NULL, NULL);
    }
    tape.off = true;

    // pass 3: back to the host
    real *values = HOST(real, (size_t)N * (size_t)c.C);
    download(values, after->data, (size_t)N * (size_t)c.C * sizeof(real));
    for (int i = 0; i < N; i++) {
        int t = first + i % n;
        if (k[i] == next[i]) continue;
        for (int j = 0; j < c.C; j++)
            if (!isfinite(values[i*c.C + j])) die("row %ld of the schedule: token %d of sequence %d is not finite%s", s->due ? (long)s->row[t] : s->rows, t, i / n, guided ? " (try a smaller --guidance)" : "");
        memcpy(s->x + ((size_t)(i / n) * (size_t)s->T + (size_t)t) * (size_t)c.C, values + (size_t)i * (size_t)c.C, (size_t)c.C * sizeof(real));
    }
    for (int t = first; t < s->T; t++) s->seen[t] = t > last || from[t - lo] != to[t - lo] || (s->due && t > first) ? UNSEEN : shown_as[t - lo];
    for (int t = 0; c.recurrent && !s->due && t < n; t++) download(s->z + (size_t)(first + t + 1) * states, state.after[t]->data, states * sizeof(real));
    if (s->due) {
        real *z = HOST(real, (size_t)n * states);
        download(z, after_all->data, (size_t)n * states * sizeof(real));
        for (int i = 0; i < N; i++) memcpy(s->z + (size_t)(first + i % n + 1) * states + (size_t)(i / n) * Z, z + (size_t)i * Z, Z * sizeof(real));
    }
    if (s->how.watch) s->how.watch(s, from, to);
}

// A recurrent network waits in row m for the state before token t, and for what row m - 1 made of it: (m, t) needs (m, t-1) and (m-1, t). So all tokens of a
// diagonal m + t can be asked about at once, in products with many more rows. The numbers are those of row by row but for the order of sums;
// what has to see or to draw something in every row goes by rows.
static bool diagonal(const Sampler *s) {
    return s->net->c.recurrent && !s->how.guide && s->how.eta == 0 && !s->how.ddpm && !s->how.all && (!s->how.watch || s->how.any_order);
}

// In a dry run: the memory of a row of n tokens, and of the first state
static void rehearse(Net *net, const Schedule *s, Sampling how, int B, int n) {
    how.watch = NULL;
    Sampler p = sampler_create(net, s, how, B, n, 0);
    int *from = NEW(int, n), *to = NEW(int, n);
    for (int t = 0; t < n; t++) from[t] = 1;
    sample_row(&p, 0, n, from, to);
    if (diagonal(&p)) p.due = NEW(bool, n), sample_row(&p, 0, n, from, to), free(p.due);
    if (net->c.recurrent) sampler_start(&p, p.x);
    free(from), free(to), sampler_free(&p);
}

// Denoises tokens first..first+n-1 along the matrix; those of the window before them are clean, those behind them, up to hi, stay pure noise.
// By diagonals token first + i goes through row m in pass m + i. The first row goes as a row: it looks at those before them too, if anything moves in it.
static void sample_chunk(Sampler *s, int lo, int first, int n, int hi) {
    #define ENTRY(m, i) s->how.matrix_entry(s->how.matrix, m, i, n, s->how.S, s->how.u)
    int rows = s->how.matrix_rows(s->how.matrix, n, s->how.S, s->how.u) - 1, *from = NEW(int, hi - lo), *to = NEW(int, hi - lo);
    bool *due = NEW(bool, s->T), begins = false;
    for (int i = 0; i < n; i++) begins = begins || ENTRY(0, i) != ENTRY(1, i);
    bool diagonals = diagonal(s) && n > 1 && begins;
    int passes = diagonals ? rows + n - 1 : rows, *last = NEW(int, diagonals ? rows : 0);
    long before = s->rows, naive = s->naive;
    for (int m = 0; diagonals && m < rows; m++) for (int i = 0; i < n; i++) if (ENTRY(m, i) != ENTRY(m + 1, i)) last[m] = i;      // the last that moves
    for (int pass = 0; pass < passes; pass++) {
        int least = diagonals && pass;                  // the row that tokens wait in until it is their turn
        for (int t = lo; t < hi; t++) {
            int i = t - first, m = least ? pass - i : pass, inside = i >= 0 && i < n && m >= least && m < rows;
            from[t - lo] = i < 0 ? 0 : i >= n ? s->how.S : ENTRY(m < least ? least : m > rows ? rows : m, i);
            to[t - lo] = inside ? ENTRY(m + 1, i) : from[t - lo];
            due[t] = inside && least && i <= last[m], s->row[t] = inside ? m + 1 : m < least ? least : rows;
        }
        s->due = least ? due : NULL;
        sample_row(s, lo, hi, from, to);
    }
    #undef ENTRY
    s->due = NULL, s->rows = before + rows, s->naive = naive + (long)rows * s->B * (hi - lo);
    free(from), free(to), free(last), free(due);
}
// All tokens after the given ones, `chunk` at a time: beyond what the network has ever seen. A recurrent network carries its state on; a transformer's window slides.
static void roll_out(Sampler *s, int chunk) {
    for (int at = s->given, n; at < s->T; at += n) {
        n = s->T - at < chunk ? s->T - at : chunk;
        if (s->how.before) s->how.before(s, at, n);
        sample_chunk(s, at + n > s->window ? at + n - s->window : 0, at, n, at + n);
    }
}

// ---- 6. likelihood ------------------------------------------------------------------------------------------------------------

// The bound (see elbo_term) of -log p(x_S) for the tokens of S, observed (T): one draw of every token's level, so that the mean over many draws is the bound.
// History: a token of S is clean, said to be of level `clean`; any other is noise of the highest level. One pass over the doubled sequence; nats (B).
static void elbo_draw(double *nats, Net *net, const Schedule *s, Objective o, Tensor *x, Tensor *noise, Tensor *unknown, Tensor *cond, Tensor *z0, const int *k, const bool *observed,
                      const double *weight, int P, int clean) {
    int B = x->B, T = x->T, C = x->C, *k_history = HOST(int, B*T);
    Rows r = rows_create(B*T), q = rows_create(B*T);
    for (int i = 0; i < B*T; i++) {
        noising(&r.a[i], &r.b[i], alpha_bar(s, k[i]));
        q.a[i] = observed[i % T], q.b[i] = !observed[i % T], k_history[i] = observed[i % T] ? clean : s->K - 1;
    }
    Tensor *x_k = mix(x, r.a, noise, r.b, NULL, NULL), *history = mix(x, q.a, unknown, q.b, NULL, NULL), *x0, *eps;
    State state = {.z = z0};
    split(&x0, &eps, x_k, net->run(net, doubled(x_k, history, cond, k, k_history), &state), k, o, s);
    real *want = HOST(real, count(x)), *got = HOST(real, count(x));
    download(want, x->data, count(x) * sizeof(real)), download(got, x0->data, count(x) * sizeof(real));
    for (int b = 0; b < B; b++) {
        nats[b] = 0;
        for (int t = 0; t < T; t++) {
            double error2 = 0, size2 = 0;
            for (int i = (b*T + t)*C; i < (b*T + t + 1)*C; i++) error2 += pow((double)(got[i] - want[i]), 2), size2 += (double)want[i] * (double)want[i];
            if (observed[t] && (!weight || weight[(b*T + t)*P] > 0)) nats[b] += elbo_prior(s, size2, C) + s->K * elbo_term(s, k[b*T + t], error2, C);
        }
    }
}

// ---- 7. as coded: what only the official code does, for golden files -----------------------------------------------------------

// alpha_bar of the sigmoid schedule with sigmoid(3) and sigmoid(-3) rounded to float32
static double *coded_alpha_bar(ScheduleKind kind, int K) {
    Schedule s = schedule_create(kind, K);
    double high = (float)sigmoid(3), low = (float)sigmoid(-3), before = 0, product = 1;
    for (int k = 0; kind == SCHEDULE_SIGMOID && k <= K; k++) {
        double now = (high - sigmoid(6.0*k/K - 3)) / (high - low);
        if (k) s.alpha_bar[k - 1] = product *= 1 - fmin(fmax(1 - now / before, 0), 0.999);
        before = now;
    }
    free(s.beta);
    return s.alpha_bar;
}
// The history as coded: its running mean begins as n of the first token, and it is multiplied by gamma once more where it is used.
static double coded_history(double history, double gamma) { return gamma * history; }

// Levels by a float32 linspace from -1 to K - 1, then truncated: one too low for a few S (60, 120, ...)
static int coded_level(int index, int S, int K) {
    float step = (float)K / (float)S;
    return (int)(index < (S + 1) / 2 ? (float)(-1 + (double)index * (double)step) : (float)((double)(K - 1) - (double)(S - index) * (double)step));
}
// The trapezoid whose second half is shifted by one, since column -0 is column 0
static int coded_rows(MatrixKind kind, int T, int S, double u) { return kind == TRAPEZOID ? S + (int)((T + 1) / 2 * u) : matrix_rows(kind, T, S, u); }
static int coded_entry(MatrixKind kind, int m, int t, int T, int S, double u) {
    if (kind != TRAPEZOID) return matrix_entry(kind, m, t, T, S, u);
    int entry = 0;
    for (int i = 0; i < (T + 1) / 2; i++)
        if (t == i || t == (T - i) % T) { int index = S + (int)(i * u) - m; entry = index < 0 ? 0 : index > S ? S : index; }
    return entry;
}
// The RNN code counts DDIM steps upwards: the step that a token takes in row m; S: done
static int coded_pyramid(int m, int t, int S, double u) { int step = m - (int)(t * u); return step < 0 ? 0 : step > S ? S : step; }
// How strongly the RNN code guides a step: (1 - from) - of_noise sqrt(1 - from), and the last one not; branch main: sqrt(1 - to) in the place of sqrt(1 - from)
static double coded_guidance(double from, double to, double of_x0, double of_noise) { (void)of_x0; return to == 1 ? 0 : (1 - from) - of_noise * sqrt(1 - from); }
static double coded_guidance_main(double from, double to, double of_x0, double of_noise) { return (of_x0 * sqrt(1/from - 1) - of_noise) * sqrt(1 - to); }

// The guidance of branch main: J = -1000 scale mean over frames, sequences and columns of w tanh(|e|/2) for each pair e of observation channels, and w |e| of the actions
// in a last column, which is there without actions too. Target: the start in the first frames, then the goal. w (F, columns).
typedef struct CodedGoal { int obs, act, frames; double scale; const double *w; const real *target; } CodedGoal;       // target (B,F,channels)
static void coded_weights(double *w, int F, int frames, int horizon, int columns, bool shared) {
    for (int f = 0; f < F; f++) for (int j = 0; j < columns; j++)
        w[f*columns + j] = j == 0 && !shared ? (f < frames ? 20 : f < frames + horizon ? 1 : 0) : f < frames ? 2 : 8;     // shared: both columns are one piece of memory
}
static void coded_goal_gradient(const Guide *guide, const real *x0, real *d, int B, int first, int n, int C) {
    const CodedGoal *g = guide->goal;
    int ch = g->obs + g->act, F = n * g->frames, pairs = g->obs / 2, columns = pairs + 1;
    (void)C, (void)first;
    for (int i = 0; i < B*F; i++)
        for (int j = 0; j < columns; j++) {
            int from = 2*j, to = j < pairs ? from + 2 : ch;
            double e2 = 0, e[8];
            for (int c = from; c < to; c++) e[c - from] = (double)x0[i*ch + c] - (double)g->target[i*ch + c], e2 += e[c - from] * e[c - from];
            double r = sqrt(e2), th = tanh(r / 2), slope = j < pairs ? (1 - th*th) / 2 : 1;
            for (int c = from; c < to; c++) d[i*ch + c] = (real)(r > 0 ? -1000 * g->scale / ((double)F * B * columns) * g->w[i % F * columns + j] * slope * e[c - from] / r : 0);
        }
}

// ---- 8. what the options say ---------------------------------------------------------------------------------------------------

// What a token is; a task says so when it is opened
static struct {
    int C, E, first;            // numbers of a token, of its condition (0: none), of what the first state of a recurrent network is made of (0: nothing)
    int window, parts;          // tokens of a training sequence, which is all that a transformer ever sees; parts of a token with weights of their own (0: none)
} token;

// Training sequences: x (B,T,C), and where there are any, conditions (B,T,E), what the first state is made of (B,first), weights (B,T,P) of the P parts of each
// token, levels (B,T) that are not drawn (-1: drawn). On the host.
typedef struct Batch { int B, T, P; real *x, *cond, *first; double *weight; int *level; } Batch;

typedef struct Task {
    const char *name;
    void (*open)(void);                                 // data, and what a token is
    void (*batch)(Batch *b, Rng *r);                    // training sequences
    void (*sample)(void), (*evaluate)(void);
    const char *preset[32][2];                          // options with other defaults; "net:name" for one kind of network alone
} Task;
static const Task *task;

static bool recurrent(void) { return CHOICE("net", opt.net, ((const char *const[]){"rnn", "transformer"})) == 0; }
static Noise noise_mode(void) { return (Noise)CHOICE("noise", opt.noise, noise_name); }
static Objective objective(void) { return (Objective)CHOICE("objective", opt.objective, objective_name); }
static Schedule schedule(void) {
    Schedule s = schedule_create((ScheduleKind)CHOICE("schedule", opt.schedule, schedule_name), opt.levels);
    for (int k = 0; k < s.K; k++) if (!(s.beta[k] < 1)) die("--schedule %s: with --levels %d nothing is left of the signal at level %d (more than 20 are needed)", opt.schedule, opt.levels, k);
    return s;
}
static NetConfig net_config(void) {
    NetConfig c = {.recurrent = recurrent(), .causal = opt.causal, .C = token.C, .E = token.E, .Z = opt.state, .W = opt.width, .N = opt.level_width, .M = opt.layers, .G = opt.cells,
                   .first = token.first, .d = opt.width, .NH = opt.heads, .ff = 4 * opt.width, .NL = opt.layers,
                   .P = opt.patches * opt.patches, .K = opt.levels, .window = token.window};
    if (c.recurrent && c.Z % c.G) die("--cells %d do not divide --state %d", c.G, c.Z);
    if (!c.recurrent && c.d % c.NH) die("--heads %d do not divide --width %d", c.NH, c.d);
    if (c.recurrent && c.P > 1) die("--patches %d belong to --net transformer", opt.patches);
    if (c.P > 1 && strcmp(task->name, "video")) die("--patches %d belong to --task video", opt.patches);
    if (!c.recurrent && token.first && !strcmp(task->name, "cross")) die("--task cross: its start is the first state of --net rnn; a transformer has none");
    if (!c.recurrent && !c.causal && noise_mode() == TEACHER) die("--noise teacher: a history needs --net rnn, or --causal");
    if ((double)opt.batch * token.window * token.C > 1e9) die("--batch %d: more than a billion numbers", opt.batch);
    return c;
}
static Path checkpoint_path(void) { return path_in(opt.out, "df.safetensors"); }

static struct { Net net; Schedule schedule; SafeTensors checkpoint; long rows, asked, naive; } run;     // what run_sample() and run_eval() work with
static void watch_row(Sampler *s, const int *from, const int *to) {
    (void)from;
    int n = s->hi - s->lo, room = columns() - 12, C = s->net->c.C;
    printf(isatty(STDOUT_FILENO) ? "\r\033[K%5ld " : "%5ld ", s->rows);
    static const char *const bar[] = {" ", "\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
    for (int t = 0; t < n && t < room / 2; t++) printf("%s", bar[(to[t]*8 + s->how.S - 1) / s->how.S]);        // rounded up: only a clean token is blank
    printf(" |");
    for (int t = 0, used = (n < room / 2 ? n : room / 2) + 6; t < n && used < room; t++, used += 6) printf(" %+.2f", (double)s->x[(size_t)(s->lo + t) * (size_t)C]);
    if (isatty(STDOUT_FILENO)) { fflush(stdout); usleep(20000); } else printf("\n");
}

// Not more numbers than an int counts, with those of the pictures
static void limit_samples(int T) { if ((double)opt.samples * T * token.C > 2e8) die("--samples %d of %d tokens: more than 200 million numbers", opt.samples, T); }
// How to sample, from the options
static Sampling sampling(void) {
    static const char *const samplers[] = {"ddim", "ddpm"}, *const withs[] = {"label", "noise"};
    Sampling how = {.objective = objective(), .matrix = (MatrixKind)CHOICE("matrix", opt.matrix, matrix_name), .S = opt.sampling_steps, .u = opt.uncertainty, .eta = opt.eta,
                    .shown = opt.stabilise - 1, .true_noise = CHOICE("stabilise-with", opt.stabilise_with, withs) == 1, .on_truth = opt.stabilise_truth,
                    .ddpm = CHOICE("sampler", opt.sampler, samplers) == 1, .level = level_of, .matrix_rows = matrix_rows, .matrix_entry = matrix_entry,
                    .draw = draw_noise, .watch = opt.watch ? watch_row : NULL};
    if (how.ddpm && given("sampling-steps") && how.S != opt.levels) die("--sampler ddpm takes every level: --sampling-steps is %d", opt.levels);
    if (how.ddpm) how.S = opt.levels;
    if (how.S > opt.levels) die("--sampling-steps %d: there are %d levels", how.S, opt.levels);
    if (opt.stabilise > opt.levels) die("--stabilise %d: there are %d levels", opt.stabilise, opt.levels);
    if ((how.matrix == PYRAMID || how.matrix == TRAPEZOID) && how.u * (token.window + opt.length) > 1e8) die("--uncertainty %g: too many rows", how.u);
    if (how.matrix == AUTOREGRESSIVE && (double)how.S * (token.window + opt.length) > 1e8) die("--sampling-steps %d: too many rows", how.S);
    limit_samples(opt.length ? opt.length : !strcmp(task->name, "video") ? 10 * token.window : token.window);
    return how;
}
// The network for rows of up to n tokens of B sequences, with the averaged weights
static void open_net(Sampling how, int B, int n) {
    NetConfig c = net_config();
    int cache = c.recurrent || !c.causal ? 0 : B;
    const char *path = checkpoint_path().text;
    if (!c.recurrent && n > c.window) n = c.window;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(true); else begin_dry_run();
        run.net = net_create(c, false, 0, cache);
        checkpoint_read(&run.checkpoint, path, &run.net.ps, "ema.", run.net.ps.data);
        if (!pass) rehearse(&run.net, &run.schedule, how, B, n), net_free(&run.net);
    }
    tape.off = true;
}
static void close_sampler(Sampler *s) { run.rows += s->rows, run.asked += s->asked, run.naive += s->naive; sampler_free(s); }
static FILE *create_csv(const char *name, const char *header) {
    Path path = path_in(opt.out, name);
    FILE *f = fopen(path.text, "w");
    if (!f) die("cannot write %s: %s", path.text, strerror(errno));
    fprintf(f, "%s\n", header);
    return f;
}
static void close_csv(FILE *f, const char *name) {
    int error = fflush(f) || ferror(f) ? errno : 0;
    if (fclose(f) || error) die("cannot write %s: %s", path_in(opt.out, name).text, strerror(error ? error : errno));
    printf("wrote %s\n", path_in(opt.out, name).text);
}

#include "data/tasks.h"  // brings: tasks[], and through its own headers mazes, bouncing sprites, tables

// ---- 9. training ---------------------------------------------------------------------------------------------------------------

// The task, and its defaults for all options that nobody has given, if they are wanted. An entry "net:name" counts for that network alone.
static void choose_task(bool defaults) {
    static char out[64];
    int i = 0;
    while (tasks[i].name && strcmp(tasks[i].name, opt.task)) i++;
    if (!(task = &tasks[i])->name) die("--task %s: cross, maze2d, video or series", opt.task);
    for (int both = 0; defaults && both < 2; both++)    // those of a network come second, when the network is known
        for (const char *const (*p)[2] = task->preset; (*p)[0]; p++) {
            const char *colon = strchr((*p)[0], ':'), *name = colon ? colon + 1 : (*p)[0];
            if ((colon != NULL) != both || (colon && strncmp(opt.net, (*p)[0], (size_t)(colon - (*p)[0])))) continue;
            for (Option *o = options; o->name; o++) if (!strcmp(o->name, name) && !o->given) option_set(o, (*p)[1]);
        }
    if (given("out") && !*opt.out) die("--out '': the name of a directory is needed");
    if (!*opt.out) snprintf(out, sizeof out, "out/df/%s", task->name), opt.out = out;
}

static struct { Net net; Schedule schedule; Batch batch; int *k; double *weight; } training;

static Batch batch_create(int B, int T) {
    int P = token.parts ? token.parts : 1;
    Batch b = {.B = B, .T = T, .P = P, .x = NEW(real, (size_t)B*(size_t)T*(size_t)token.C), .cond = token.E ? NEW(real, (size_t)B*(size_t)T*(size_t)token.E) : NULL,
               .first = token.first ? NEW(real, B*token.first) : NULL, .weight = NEW(double, B*T*P), .level = NEW(int, B*T)};
    return b;
}
static void batch_free(Batch *b) { free(b->x), free(b->cond), free(b->first), free(b->weight), free(b->level); }
static void batch_draw(Batch *b, Rng r) {
    for (int i = 0; i < b->B * b->T * b->P; i++) b->weight[i] = 1;
    for (int i = 0; i < b->B * b->T; i++) b->level[i] = -1;
    task->batch(b, &r);
}

static double train_step(int step, double *norm) {
    Net *net = &training.net;
    Batch *b = &training.batch;
    Rng r = rng((uint64_t)opt.seed, RNG_LEVEL, (uint64_t)step);
    int B = b->B, T = b->T;
    begin_step();
    batch_draw(b, rng((uint64_t)opt.seed, RNG_DATA, (uint64_t)step));
    draw_levels(training.k, noise_mode(), B, T, opt.levels, &r);
    for (int i = 0; i < B*T; i++) if (b->level[i] >= 0) training.k[i] = b->level[i];
    token_weights(training.weight, (Weighting)CHOICE("weight", opt.weight, weighting_name), training.k, B, T, &training.schedule, objective(),
                  opt.snr_decay, opt.snr_clip, opt.snr_first, noise_mode() == TEACHER);
    for (int i = 0; i < B*T*b->P; i++) b->weight[i] *= training.weight[i / b->P];
    Tensor *noise = tensor(B, T, token.C, CONSTANT, "noise");
    gaussian(noise->data, (uint64_t)opt.seed, stream_of(RNG_NOISE, (uint64_t)step), INFINITY, count(noise));
    Tensor *z0 = net->c.recurrent ? rnn_start(net, on_device(b->first, B, 1, token.first, "first"), B) : NULL;
    Loss loss = df_loss(net, &training.schedule, objective(), on_device(b->x, B, T, token.C, "x"), noise, training.k, on_device(b->cond, B, T, token.E, "condition"), z0,
                        b->weight, b->P, 1 / ((double)B * T * token.C), noise_mode() == TEACHER);
    return optimiser_step(&net->ps, loss.loss, (AdamW){.lr = opt.lr * (opt.warmup ? fmin(1, (double)step / opt.warmup) : 1), .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
                                                       .weight_decay = opt.weight_decay, .max_norm = opt.max_norm, .ema = opt.ema, .step = step}, norm);
}
static void save(int done) { checkpoint_save(checkpoint_path().text, &training.net.ps, options, done, NULL, NULL, 0); }

// Options of the checkpoint in --out, and the task's data. Ends the program if there is none.
static SafeTensors open_checkpoint(int *done, const char *may_change) {
    choose_task(false);                                 // only the checkpoint knows the task for certain
    Path path = checkpoint_path();
    if (!exists(path.text)) die("%s: no checkpoint (./df train --task %s --out %s makes one)", path.text, opt.task, opt.out);
    SafeTensors st = st_open(path.text);
    *done = checkpoint_options(&st, path.text, options, may_change);
    for (Option *o = options; o->name; o++) if (o->saved) o->given = true;
    choose_task(true);
    task->open();
    return st;
}

static int run_train(int files, char **file) {
    (void)files, (void)file;
    set_up();
    choose_task(!opt.resume);
    Path place = checkpoint_path();
    Net *net = &training.net;
    SafeTensors st = {0};
    int done = 0;
    bool mine = claim_out(opt.out, place.text, opt.resume, opt.force);
    if (opt.resume) {
        st = open_checkpoint(&done, " steps ");
        if (done >= opt.steps) die("%s has done its %d steps: --steps says how far to go on", place.text, done);
    } else task->open();
    NetConfig c = net_config();
    int B = opt.batch, T = token.window;
    print_configuration("train", options);
    training.schedule = schedule(), training.batch = batch_create(B, T), training.k = NEW(int, B*T), training.weight = NEW(double, B*T);

    // memory: once dry, then for real
    double norm;
    begin_dry_run();
    *net = net_create(c, true, (uint64_t)opt.seed, 0);
    if (opt.resume) checkpoint_resume(&st, place.text, &net->ps);
    train_step(1, &norm);
    net_free(net);
    end_dry_run(true);
    *net = net_create(c, true, (uint64_t)opt.seed, 0);
    printf("network: %zu parameters\n", params_count(&net->ps));
    if (opt.resume) { checkpoint_resume(&st, place.text, &net->ps); st_free(&st); }

    Training t = {.out = opt.out, .checkpoint = place.text, .unit = "sequences", .claimed = mine, .resume = opt.resume, .force = opt.force, .done = done, .steps = opt.steps,
                  .save_every = opt.save_every, .per_step = B, .step = train_step, .save = save};
    train_loop(&t);
    printf("train: task=%s steps=%d loss=%.5f parameters=%zu sequences_per_s=%.1f seconds=%.1f\n", task->name, t.done, t.loss, params_count(&net->ps), t.rate, t.seconds);
    net_free(net), batch_free(&training.batch), schedule_free(&training.schedule);
    free(training.k), free(training.weight);
    return 0;
}

// ---- 10. command line ----------------------------------------------------------------------------------------------------------

// "0-3,7" into (T); false if it is no such list
static bool parse_observed(const char *text, bool *observed, int T) {
    for (int t = 0; t < T; t++) observed[t] = !*text;
    for (const char *p = text; *p;) {
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end == p) return false;
        if (*end == '-') { p = end + 1; to = strtol(p, &end, 10); if (end == p) return false; }
        if (from < 0 || to < from || to >= T || (*end && *end != ',')) return false;
        for (long t = from; t <= to; t++) observed[t] = true;
        if (*end && !end[1]) return false;
        p = *end ? end + 1 : end;
    }
    return true;
}
static void elbo_evaluate(void) {
    int B = opt.samples, T = token.window, C = token.C;
    bool *observed = NEW(bool, T);
    if (!recurrent() && !opt.causal) die("--elbo: the bound goes from the past to the future: --net rnn, or --causal");
    limit_samples(T);
    if (!parse_observed(opt.observed, observed, T)) die("--observed %s: tokens from 0 to %d as 0-3,7", opt.observed, T - 1);
    NetConfig c = net_config();
    Batch b = batch_create(B, T);
    batch_draw(&b, rng((uint64_t)opt.seed, RNG_EVAL, 1));
    int *k = NEW(int, B*T), seen = 0, draws = opt.draws;
    double *nats = NEW(double, B), *mean = NEW(double, B), sum = 0, sum2 = 0;
    tape.off = true;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(true); else begin_dry_run();
        run.net = net_create(c, false, 0, 0);
        checkpoint_read(&run.checkpoint, checkpoint_path().text, &run.net.ps, "ema.", run.net.ps.data);
        for (int d = 0; d < (pass ? draws : 1); d++) {
            begin_step();
            Rng r = rng((uint64_t)opt.seed, RNG_LEVEL, (uint64_t)d);
            for (int i = 0; i < B*T; i++) k[i] = (int)fmin((uniform(&r) + d) / draws * opt.levels, opt.levels - 1);       // stratified over the draws
            Tensor *noise = tensor(B, T, C, CONSTANT, "noise"), *unknown = tensor(B, T, C, CONSTANT, "unknown");
            gaussian(noise->data, (uint64_t)opt.seed, stream_of(RNG_NOISE, (uint64_t)(2*d)), INFINITY, count(noise));
            gaussian(unknown->data, (uint64_t)opt.seed, stream_of(RNG_NOISE, (uint64_t)(2*d + 1)), INFINITY, count(noise));
            Tensor *z0 = c.recurrent ? rnn_start(&run.net, on_device(b.first, B, 1, token.first, "first"), B) : NULL;
            elbo_draw(nats, &run.net, &run.schedule, objective(), on_device(b.x, B, T, C, "x"), noise, unknown,
                      on_device(b.cond, B, T, token.E, "condition"), z0, k, observed, b.weight, b.P, 0);
            for (int i = 0; pass && i < B; i++) mean[i] += nats[i] / draws;
        }
        if (!pass) net_free(&run.net);
    }
    for (int i = 0; i < B; i++) sum += mean[i] / B, sum2 += mean[i] * mean[i] / B;
    for (int i = 0; i < B*T; i++) seen += observed[i % T] && b.weight[i * b.P] > 0;
    printf("eval: task=%s elbo_nats=%.4f stderr=%.4f observed_tokens=%d nats_per_number=%.5f sequences=%d draws=%d", task->name, sum, B > 1 ? sqrt(fmax(0, sum2 - sum*sum) / (B - 1)) : NAN, seen,
           seen ? sum * B / ((double)seen * C) : 0, B, draws);
    free(observed), free(k), free(nats), free(mean), batch_free(&b);
}

static int run_network(void (*what)(void)) {
    double start = seconds();
    what();
    if (run.rows) printf(" rows=%ld asked=%ld naive=%ld", run.rows, run.asked, run.naive);
    printf(" seconds=%.1f\n", seconds() - start);
    if (run.net.ps.list) net_free(&run.net);
    schedule_free(&run.schedule), st_free(&run.checkpoint);
    return 0;
}
static void open_run(void) {
    int done;
    set_up();
    run.checkpoint = open_checkpoint(&done, " seed csv context ");
    run.schedule = schedule();
    print_configuration(verb_name, options);
}
static int run_sample(int files, char **file) {
    (void)files, (void)file;
    open_run();
    if (*opt.animate && strcmp(task->name, "maze2d")) die("--animate belongs to --task maze2d, %s was trained on %s", checkpoint_path().text, task->name);
    if (*opt.schedule_png) {
        Sampling how = sampling();
        int T = opt.length ? opt.length : opt.tokens, rows = matrix_rows(how.matrix, T, how.S, how.u), high = rows > 400 ? 1 : 400 / rows, wide = T > 400 ? 1 : 400 / T;
        Picture p = picture_create(T * wide, rows * high, 0xffffff);
        for (int m = 0; m < rows; m++) for (int t = 0; t < T; t++)
            picture_box(&p, t * wide, m * high, (t + 1) * wide, (m + 1) * high, (unsigned)(255 - 255 * matrix_entry(how.matrix, m, t, T, how.S, how.u) / how.S) * 0x010101);
        picture_save(&p, opt.schedule_png), picture_free(&p);
        printf("wrote %s: %d rows from top to bottom, %d tokens from left to right; black is noise\n", opt.schedule_png, rows, T);
    }
    return run_network(task->sample);
}
static int run_eval(int files, char **file) {
    (void)files, (void)file;
    const char *const bound[] = {"observed", "draws"};
    for (int i = 0; i < 2; i++) if (given(bound[i]) && !opt.elbo) die("--%s belongs to --elbo", bound[i]);
    open_run();
    return run_network(opt.elbo ? elbo_evaluate : task->evaluate);
}

#include "tests/check_df.h"     // brings: run_check(), the glue between golden files and the functions above

static const Verb verbs[] = {
    {"train", "", "Trains a model on one of the tasks.", run_train},
    {"sample", "", "Samples from a trained model, into a table and a picture.", run_sample},
    {"eval", "", "Measures a trained model: the task's own measures, or with --elbo a bound of the likelihood.", run_eval},
    {"check", "FILE... ", "Recomputes golden files of the official code.", run_check},
    {0},
};

#ifndef TESTING
int main(int argc, char **argv) { return run_command("df", argc, argv, verbs, options); }
#endif
