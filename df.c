/* df.c: Diffusion Forcing (Chen et al. 2024, arXiv 2407.01392).

   A sequence of continuous tokens (frames, pieces of a plan, days of a series) where every token has its own noise level: from clean (known) to pure noise
   (unknown). A network that learned to denoise any mixture of levels can be sampled along any schedule: all tokens together, one after the other, or the near
   future ahead of the far.

       make df && ./df check tests/golden/df/df_schedule_linear_50.safetensors

   Here so far: METHOD (section 3) and the maze of data/maze.h, proved against the official code; networks, training and sampling follow.

   paper                here                                 (t is always a position in this repository, never a level)
   x_t^k, k_t           x, k                                 token t at noise level k; levels are 0..K-1, index 0 has one step of noise already; clean is -1
   alpha_k, bar alpha   alpha_bar(schedule, k)               alpha_bar of -1 is 1
   script K (M x T)     matrix_entry()                       the schedule of sampling: entries are DDIM indices, S (noise) .. 0 (clean)                     */
#include "common.h"     // brings: tensors, tape, ops; through io.h: files, command line
#include "data/maze.h"  // brings: layouts, physics and controller of maze2d

// ---- 1. configuration ---------------------------------------------------------------------------------------------------------

static struct { int threads; const char *device; bool naive; } opt = {.device = "cpu"};
__attribute__((unused)) static Option options[] = {                     // unused: in tests, which have no command line
    {"threads", INT,  &opt.threads, 0, 4096, " check ", "threads; 0: one for each core", false, false},
    {"device",  TEXT, &opt.device,  0, 0, " check ", "cpu, or cuda: one NVIDIA GPU", false, false},
    {"naive",   FLAG, &opt.naive,   0, 1, " check ", "plain kernels only", false, false},
    {0},
};
static void set_up(void) {
    threads_select(opt.threads);
#if !REAL_IS_DOUBLE
    naive = opt.naive;
#endif
    device_select(opt.device);
}

// ---- 3. METHOD ----------------------------------------------------------------------------------------  <- start here ---------
// Token t of a sequence is noised to its own level k_t, independently of all others; one network denoises all of them:
//     L = E_k E_eps sum_t w(k_t) | target - net(x_t^{k_t}, k_t, z_{t-1}) |^2                                                        (Eq. 3.1)
// Everything below is a number for each token; tensors change by mix(): out = a x + b y + c z, with coefficients for each row.

// How much of the signal is left at level k. linear: beta from 1e-4 to 0.02 (for K = 1000; scaled for others). cosine, sigmoid: alpha_bar is given.
typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_SIGMOID, SCHEDULES } ScheduleKind;
static const char *const schedule_name[] = {"linear", "cosine", "sigmoid"};
typedef struct Schedule { int K; double *beta, *alpha_bar; } Schedule;              // (K)

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double signal_left(ScheduleKind kind, double u) {                // at the part u of the way, before it is divided by that of u = 0
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

// What the network predicts: eps, x0, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0. Either gives x0 and eps as  a x^k + b prediction.   (App. D.1)
typedef enum { PRED_NOISE, PRED_X0, PRED_V, OBJECTIVES } Objective;
static const char *const objective_name[] = {"pred_noise", "pred_x0", "pred_v"};
static void predicted_x0(double *of_x, double *of_prediction, Objective o, double ab) {
    *of_x          = o == PRED_NOISE ? 1 / sqrt(ab) : o == PRED_X0 ? 0 : sqrt(ab);
    *of_prediction = o == PRED_NOISE ? -sqrt(1/ab - 1) : o == PRED_X0 ? 1 : -sqrt(1 - ab);
}
static void predicted_noise(double *of_x, double *of_prediction, Objective o, double ab) {
    double x, p;                                                        // eps = (x^k / sqrt(alpha_bar) - x0) / sqrt(1/alpha_bar - 1)
    predicted_x0(&x, &p, o, ab);
    *of_x          = o == PRED_NOISE ? 0 : (1 / sqrt(ab) - x) / sqrt(1/ab - 1);
    *of_prediction = o == PRED_NOISE ? 1 : -p / sqrt(1/ab - 1);
}

// Loss weights. min-SNR (Hang et al. 2023): of x0, min(snr, C). Fused: a token whose history tells much about it counts as if it had more signal itself,
// S' = 1 - (1 - S)(1 - S_history), where S is min(snr, C)/C and S_history the running mean of S before it.                              (App. B.1)
// n = min(snr, C)/C, s = snr/C: the signal with and without its limit; history in [0,1], 0 for min-SNR.
static double snr_weight(Objective o, double snr, double history, double C) {
    double limited = 1 - (1 - history) * (1 - fmin(snr, C)/C), free = 1 - (1 - history) * (1 - snr/C);
    return o == PRED_NOISE ? limited / free : o == PRED_X0 ? limited * C : limited * C / (free * C + 1);
}
// S_history of token t, for T tokens: 0, then gamma S + (1 - gamma) n. first: S begins as n of the first token; otherwise as 0 before it.
static void signal_history(double *history, const double *n, int T, double gamma, bool first) {
    double running = 0;
    for (int t = 0; t < T; t++) {
        history[t] = running;
        running = t == 0 && first ? n[0] : gamma * running + (1 - gamma) * n[t];
    }
}

// The schedule of sampling: row m, token t. u: how many indices later each token starts than the one before it ("pyramid", causal uncertainty).   (Eq. B.1)
// Full sequence: all tokens alike. Autoregressive: pyramid with u = S. Trapezoid: both ends first.
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
// The level of a DDIM index: S steps of K/S levels, from -1 (clean) up
static int level_of(int index, int S, int K) { return index == 0 ? -1 : (int)((long)index * K / S) - 1; }

// One step of a token from alpha_bar `from` to `to` (DDIM; eta = 1: as noisy as DDPM):  x = of_x0 x0 + of_noise eps + fresh noise'            (Song et al. 2021)
//     fresh = eta sqrt((1 - from/to) (1 - to)/(1 - from)),   of_noise = sqrt(1 - to - fresh^2), written without that difference
static void ddim(double *of_x0, double *of_noise, double *fresh, double from, double to, double eta) {
    double part = (1 - from/to) / (1 - from);
    *of_x0 = sqrt(to), *fresh = to == 1 ? 0 : eta * sqrt(part * (1 - to));
    *of_noise = to == 1 ? 0 : sqrt((1 - to) * (1 - eta*eta*part));
    if (eta == 1 && to < 1) *of_noise = sqrt(from / (to * (1 - from))) * (1 - to);
}
// One step of DDPM, from level k to k - 1: mean of_x0 x0 + of_x x, standard deviation `fresh`                                   (Ho et al. 2020, Eqs. 6-7)
static void ddpm(double *of_x0, double *of_x, double *fresh, const Schedule *s, int k) {
    double before = alpha_bar(s, k - 1), after = alpha_bar(s, k);
    *of_x0 = s->beta[k] * sqrt(before) / (1 - after), *of_x = (1 - before) * sqrt(1 - s->beta[k]) / (1 - after);
    *fresh = k == 0 ? 0 : sqrt(fmax(s->beta[k] * (1 - before) / (1 - after), 1e-20));
}

// ---- 6. sampling --------------------------------------------------------------------------------------------------------------

// mix() with coefficients that are made row by row
typedef struct Rows { double *a, *b, *c; } Rows;
static Rows rows_create(int N) { return (Rows){HOST(double, N), HOST(double, N), HOST(double, N)}; }

// x0 and eps of each row from x, which stands at level k (N), and the network's prediction
static void split(Tensor **x0, Tensor **noise, Tensor *x, Tensor *prediction, const int *k, Objective o, const Schedule *s) {
    int N = rows(x);
    Rows p = rows_create(N), q = rows_create(N);
    for (int n = 0; n < N; n++) predicted_x0(&p.a[n], &p.b[n], o, alpha_bar(s, k[n])), predicted_noise(&q.a[n], &q.b[n], o, alpha_bar(s, k[n]));
    *x0 = mix(x, p.a, prediction, p.b, NULL, NULL);
    *noise = mix(x, q.a, prediction, q.b, NULL, NULL);
}

// Stabilisation: tokens that are clean (k = -1) are shown to the network as slightly noisy ones of level `shown`, so that it does not trust its own output
// too much. noise NULL: only the label and the scale, as the official DDIM sampler does; otherwise with real noise. label (N): the levels shown.    (App. C.4)
static Tensor *stabilise(Tensor *x, int *label, const int *k, int shown, Tensor *noise, const Schedule *s) {
    int N = rows(x);
    Rows r = rows_create(N);
    for (int n = 0; n < N; n++) {
        label[n] = k[n] < 0 ? shown : k[n];
        r.a[n] = 1, r.b[n] = 0;
        if (k[n] < 0 && shown >= 0) noising(&r.a[n], &r.b[n], alpha_bar(s, shown));
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

// ---- 7. evaluation ------------------------------------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }

// Continuous ranked probability score of N samples against y: mean |x_i - y| - 1/2 mean |x_i - x_j|. Sorts the samples. In sorted order the second
// mean is a sum over gaps: x_i stands above i samples and below N - 1 - i.
static double crps(double *sample, int N, double y) {
    double to_truth = 0, spread = 0;
    qsort(sample, (size_t)N, sizeof *sample, compare_doubles);
    for (int i = 0; i < N; i++) to_truth += fabs(sample[i] - y), spread += (2.0*i - N + 1) * sample[i];
    return to_truth / N - spread / N / N;
}

// ---- 8. as coded: what only the official code does, for golden files -----------------------------------------------------------

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
static int coded_trapezoid(int m, int t, int T, int S, double u) {
    int entry = 0;
    for (int i = 0; i < (T + 1) / 2; i++)
        if (t == i || t == (T - i) % T) { int index = S + (int)(i * u) - m; entry = index < 0 ? 0 : index > S ? S : index; }
    return entry;
}
// The RNN code counts DDIM steps upwards: the step that a token takes in row m; S: done
static int coded_pyramid(int m, int t, int S, double u) { int step = m - (int)(t * u); return step < 0 ? 0 : step > S ? S : step; }
// How strongly the RNN code guides a step: (1 - from) - of_noise sqrt(1 - from)
static double coded_guidance(double from, double of_noise) { return (1 - from) - of_noise * sqrt(1 - from); }

// CRPS_sum of gluonts and the official code: mean over 19 quantiles of the quantile loss, to be divided by the sum of |y|. sample (N) sorted.
static int coded_rank(int q, int N) { return (int)(q / 20.0 * N); }                    // 1-based, of the quantile q/20
static double coded_crps(const double *sample, int N, double y) {
    double sum = 0;
    for (int q = 1; q < 20; q++) {
        double x = sample[coded_rank(q, N) - 1];
        sum += 2 * fabs((x - y) * ((y <= x) - q / 20.0)) / 19;
    }
    return sum;
}

// ---- 9. command line ----------------------------------------------------------------------------------------------------------

#include "tests/check_df.h"     // brings: run_check(), the glue between golden files and the functions above

static const Verb verbs[] = {
    {"check", "FILE... ", "Recomputes golden files of the official code.", run_check},
    {0},
};

#ifndef TESTING
int main(int argc, char **argv) { return run_command("df", argc, argv, verbs, options); }
#endif
