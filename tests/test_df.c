// test_df.c: the method's equalities. Compiled twice: in double (gradients, sharp bounds) and in float with the fast kernels (the bits that programs run).
#define TESTING
#include "../df.c"
#include "check.h"
#include "close.h"
#include "allocations.h"

// Thousands of rows are too slow where the memory of tensors is opened and closed around every kernel; the same code is run there by the other tests.
#ifdef FAKE_DEVICE
static const bool MANY_PASSES = false;
#else
static const bool MANY_PASSES = true;
#endif
static const double TIGHT = REAL_IS_DOUBLE ? 1e-11 : 5e-5;


// ---- small networks with odd sizes ------------------------------------------------------------------------------------------------
enum { LEVELS = 50 };
static NetConfig rnn(int C, int G, int E, int first) {
    return (NetConfig){.recurrent = true, .C = C, .E = E, .Z = 8, .W = 10, .N = 6, .M = 2, .G = G, .first = first, .K = LEVELS, .window = 8};
}
static NetConfig transformer(int C, bool causal, int P, int E) {
    return (NetConfig){.causal = causal, .C = C, .E = E, .d = 12, .NH = 2, .ff = 14, .NL = 2, .P = P, .K = LEVELS, .window = 8};
}
// With all parameters moved: nothing is zero
static Net make_net(NetConfig c, int cache_B, uint64_t seed) {
    Net n = {0};
    begin_dry_run();
    n = net_create(c, true, seed, cache_B);
    net_free(&n);
    arena_take(&per_step, 8 << 20);
    end_dry_run(false);
    n = net_create(c, true, seed, cache_B);
    real *x = NEW(real, n.ps.size);
    Rng r = rng(seed, RNG_INIT, 999);
    download(x, n.ps.data, n.ps.size * sizeof(real));
    for (size_t i = 0; i < n.ps.size; i++) x[i] += (real)(0.4*uniform(&r) - 0.2);
    upload(n.ps.data, x, n.ps.size * sizeof(real));
    free(x);
    return n;
}
static real *to_host(const Tensor *t) { real *x = NEW(real, count(t)); download(x, t->data, count(t) * sizeof(real)); return x; }
static real *randoms(size_t n, uint64_t stream) {
    real *x = NEW(real, n);
    Rng r = rng(1, RNG_DATA, stream);
    for (size_t i = 0; i < n; i++) x[i] = (real)normal(&r);
    return x;
}

// The prediction for tokens 0..n-1 of arrays of T tokens (B,T,.), from the start, with no cache -> (B,n,C) on the host
static real *predict(Net *net, const real *x, const int *k, const real *cond, const real *first, int B, int T, int n) {
    NetConfig c = net->c;
    begin_step(), tape.off = true;
    real *px = HOST(real, B*n*c.C), *pc = HOST(real, B*n*c.E + 1);
    int *pk = HOST(int, B*n);
    for (int b = 0; b < B; b++) {
        memcpy(px + b*n*c.C, x + b*T*c.C, (size_t)(n*c.C) * sizeof(real)), memcpy(pk + b*n, k + b*T, (size_t)n * sizeof(int));
        if (c.E) memcpy(pc + b*n*c.E, cond + b*T*c.E, (size_t)(n*c.E) * sizeof(real));
    }
    State state = {.z = c.recurrent ? rnn_start(net, on_device(c.first ? first : NULL, B, 1, c.first, "first"), B) : NULL};
    real *out = to_host(net->run(net, (Input){.x = on_device(px, B, n, c.C, "x"), .cond = on_device(c.E ? pc : NULL, B, n, c.E, "cond"), .k = pk}, &state));
    tape.off = false;
    return out;
}

// x0 and eps as the textbook has them, from the prediction p for a token x that has the part ab of its signal
static void textbook(double *x0, double *eps, Objective o, double ab, double x, double p) {
    double signal = sqrt(ab), noise = sqrt(1 - ab);
    *x0 = o == PRED_X0 ? p : o == PRED_NOISE ? (x - noise * p) / signal : signal * x - noise * p;
    *eps = o == PRED_NOISE ? p : o == PRED_X0 ? (x - signal * p) / noise : noise * x + signal * p;
}

// Noise that is known: list[i] for draw i
static real *noise_list;
static const real *listed_noise(Sampler *s) { return noise_list + (size_t)s->draws++ * (size_t)(s->B * s->T * s->net->c.C); }

static Sampling plainly(Objective o, MatrixKind matrix, int S, double u, double eta) {
    return (Sampling){.objective = o, .matrix = matrix, .S = S, .u = u, .eta = eta, .shown = -1, .level = level_of, .matrix_rows = matrix_rows, .matrix_entry = matrix_entry, .draw = draw_noise};
}

// ---- levels and weights -------------------------------------------------------------------------------------------------------------
static void test_levels(void) {
    // S steps of exactly K/S levels, rounded down: the level is the largest below index K/S
    for (int K = 7; K <= 1000; K = K < 20 ? K + 1 : K * 3 - 1)
        for (int S = 1; S <= K; S += S < 130 ? 1 : 37)
            for (int i = 0; i <= S; i++) {
                long level = level_of(i, S, K);
                bool ok = S * (level + 1) <= (long)i * K && (long)i * K < S * (level + 2) && (i == 0 || level_of(i - 1, S, K) < level) && (i < S || level == K - 1) && (i > 0 || level == -1);
                if (!ok) CHECK(ok, "K %d S %d index %d: level %ld", K, S, i, level);
            }
    CHECK(level_of(15, 60, 1000) == 249 && level_of(27, 60, 1000) == 449 && coded_level(15, 60, 1000) == 248, "%d", level_of(15, 60, 1000));

    // DDPM is DDIM with eta = 1 and one level a step: x = sqrt(ab) x0 + sqrt(1 - ab) eps has the same mean, and the same variance
    for (int kind = 0; kind < SCHEDULES; kind++) {
        Schedule s = schedule_create((ScheduleKind)kind, 1000);
        for (int k = 0; k < s.K; k++) {
            double x0, eps, fresh, of_x0, of_x, sd, from = alpha_bar(&s, k), to = alpha_bar(&s, k - 1);
            ddim(&x0, &eps, &fresh, from, to, 1), ddpm(&of_x0, &of_x, &sd, &s, k);
            CHECK_CLOSE("DDPM and DDIM: of x0", of_x0 + of_x * sqrt(from), x0, 1e-10);
            CHECK_CLOSE("DDPM and DDIM: of eps", of_x * sqrt(1 - from), eps, 1e-10);
            CHECK_CLOSE("DDPM and DDIM: standard deviation", sd, fresh, 1e-10);
            for (double eta = 0; eta <= 1; eta += 0.25) {
                ddim(&x0, &eps, &fresh, from, to, eta);
                CHECK_CLOSE("a DDIM step has the noise of its level", eps*eps + fresh*fresh, 1 - to, 1e-12);
                CHECK_CLOSE("and its signal", x0*x0, to, 1e-12);
            }
        }
        schedule_free(&s);
    }
}
// A token that is shown as clean: its x0 is finite, and it has no noise (0/0 without care)
static void test_clean(void) {
    for (int o = 0; o < OBJECTIVES; o++) {
        double of_x, of_prediction, x0_of_x, x0_of_prediction;
        predicted_noise(&of_x, &of_prediction, (Objective)o, 1), predicted_x0(&x0_of_x, &x0_of_prediction, (Objective)o, 1);
        CHECK(of_x == 0 && of_prediction == 0, "%s: %g %g", objective_name[o], of_x, of_prediction);
        CHECK(x0_of_x == (o != PRED_X0) && x0_of_prediction == (o == PRED_X0), "%s: %g %g", objective_name[o], x0_of_x, x0_of_prediction);
    }
}
static void test_weights(void) {
    // by hand: snr 4, 1, 1/4 with C = 2, so n = 1, 1/2, 1/8; gamma 1/2: history 0, 1/2, 1/2, or with `first` 0, 1, 3/4
    double ab[] = {0.8, 0.5, 0.2}, w[3];
    static const double want[3][OBJECTIVES][3] = {              // min-SNR; fused; fused, first
        {{0.5, 1, 1}, {2, 1, 0.25}, {0.4, 0.5, 0.2}},
        {{0.5, 1, 1}, {2, 1.5, 1.125}, {0.4, 0.6, 1.125/2.125}},
        {{0.5, 1, 1}, {2, 2, 1.5625}, {0.4, 2.0/3, 1.5625/2.5625}}};
    Schedule s = {3, NULL, ab};
    for (int how = 0; how < 3; how++)
        for (int o = 0; o < OBJECTIVES; o++) {
            begin_step();
            token_weights(w, how ? FUSED_SNR : MIN_SNR, (int[]){0, 1, 2}, 1, 3, &s, (Objective)o, 0.5, 2, how == 2, false);
            for (int t = 0; t < 3; t++) CHECK_CLOSE("weight by hand", w[t], want[how][o][t], 1e-12);
        }
    begin_step();
    token_weights(w, UNIFORM_WEIGHT, (int[]){0, 1, 2}, 1, 3, &s, PRED_V, 0.5, 2, false, false);
    CHECK(w[0] == 1 && w[1] == 1 && w[2] == 1, "%g %g %g", w[0], w[1], w[2]);

    // teacher forcing: the history is clean, so its n is 1: history 0, 1/2, 3/4
    begin_step();
    token_weights(w, FUSED_SNR, (int[]){0, 1, 2}, 1, 3, &s, PRED_X0, 0.5, 2, false, true);
    static const double behind_clean[] = {2, 1.5, 1.5625};
    for (int t = 0; t < 3; t++) CHECK_CLOSE("weight behind a clean history", w[t], behind_clean[t], 1e-12);

    // sequences do not see each other's history
    double both[6];
    begin_step();
    token_weights(both, FUSED_SNR, (int[]){2, 2, 0, 0, 1, 2}, 2, 3, &s, PRED_X0, 0.5, 2, true, false);
    for (int t = 0; t < 3; t++) CHECK_CLOSE("weight in the second sequence", both[3 + t], want[2][PRED_X0][t], 1e-12);

    // numbers of the official code: the history begins as the first signal, and is multiplied by gamma once more where it is used
    static const int k[] = {100, 900, 500, 14, 999};
    static const double history[] = {0, 1, .900811, .830598, .847538},
        coded[OBJECTIVES][5] = {{.208331, 1, 1, .087052, 1}, {5, 4.504057, 4.241671, 5, 3.813922}, {.199998, .818316, .809221, .085563, .792269}};
    Schedule sig = schedule_create(SCHEDULE_SIGMOID, 1000);
    double n[5], h[5];
    for (int t = 0; t < 5; t++) n[t] = fmin(snr(&sig, k[t]), 5) / 5;
    signal_history(h, n, 5, 0.9, true);
    for (int t = 0; t < 5; t++) {
        CHECK_CLOSE("history of the official example", h[t], history[t], 1e-6);
        for (int o = 0; o < OBJECTIVES; o++) CHECK_CLOSE("weight of the official example", snr_weight((Objective)o, snr(&sig, k[t]), coded_history(h[t], 0.9), 5), coded[o][t], 2e-6);
    }
    schedule_free(&sig);
}

// the levels of training: uniform, independent from token to token and from sequence to sequence; full: one for each sequence
static double chi_square(const int *counts, int n) {
    double total = 0, x = 0;
    for (int i = 0; i < n; i++) total += counts[i];
    for (int i = 0; i < n; i++) x += pow(counts[i] - total / n, 2) / (total / n);
    return x;
}
static void test_draws(void) {
    enum { B = 20000, T = 4, K = 8 };
    int *k = NEW(int, B*T);
    for (int noise = 0; noise < NOISES; noise++) {
        Rng r = rng(3, RNG_LEVEL, (uint64_t)noise);
        int one[K] = {0}, tokens[K*K] = {0}, sequences[K*K] = {0}, ends[K*K] = {0}, differ = 0;
        draw_levels(k, (Noise)noise, B, T, K, &r);
        for (int i = 0; i < B*T; i++) {
            bool ok = k[i] >= 0 && k[i] < K;
            if (!ok) { CHECK(ok, "level %d", k[i]); return; }
            if (noise != FULL || i % T == 0) one[k[i]]++;
        }
        for (int b = 0; b < B; b++) {
            int *mine = k + b*T;
            tokens[mine[0]*K + mine[1]]++, ends[mine[0]*K + mine[T - 1]]++;
            if (b % 2) sequences[mine[-T]*K + mine[0]]++;
            for (int t = 1; t < T; t++) differ += mine[t] != mine[0];
        }
        // a chi-square variable of n degrees of freedom is n +- sqrt(2n): bounds of five standard deviations
        double d1 = K - 1, d2 = K*K - 1;
        CHECK(chi_square(one, K) <= d1 + 5*sqrt(2*d1), "%s: levels, chi-square %g", noise_name[noise], chi_square(one, K));
        CHECK(chi_square(sequences, K*K) <= d2 + 5*sqrt(2*d2), "%s: two sequences, chi-square %g", noise_name[noise], chi_square(sequences, K*K));
        if (noise == FULL) { CHECK(differ == 0, "%d tokens have a level of their own", differ); continue; }
        CHECK(chi_square(tokens, K*K) <= d2 + 5*sqrt(2*d2), "%s: tokens 0 and 1, chi-square %g", noise_name[noise], chi_square(tokens, K*K));
        CHECK(chi_square(ends, K*K) <= d2 + 5*sqrt(2*d2), "%s: first and last token, chi-square %g", noise_name[noise], chi_square(ends, K*K));
    }
    free(k);
}

// ---- the schedule of sampling ---------------------------------------------------------------------------------------------------------
static void test_matrices(void) {
    static const double us[] = {0, 0.3, 0.5, 1, 2, 2.5, 7};
    for (int kind = 0; kind < MATRICES; kind++)
        for (int T = 1; T <= 9; T++)
            for (int S = 1; S <= 12; S += S < 3 ? 1 : 4)
                for (int i = 0; i < 7; i++) {
                    double u = us[i];
                    int rows = matrix_rows((MatrixKind)kind, T, S, u);
                    bool begins = true, falls = true, ends = true, some = true, late = true;
                    for (int t = 0; t < T; t++) {
                        begins = begins && matrix_entry((MatrixKind)kind, 0, t, T, S, u) == S, ends = ends && matrix_entry((MatrixKind)kind, rows - 1, t, T, S, u) == 0;
                        for (int m = 1; m < rows; m++) {
                            int by = matrix_entry((MatrixKind)kind, m - 1, t, T, S, u) - matrix_entry((MatrixKind)kind, m, t, T, S, u);
                            falls = falls && (by == 0 || by == 1);
                            // token t begins with the first row from t u on (from both ends: the nearer one)
                            double wait = kind == FULL_SEQUENCE ? 0 : kind == AUTOREGRESSIVE ? t * S : u * (kind == TRAPEZOID && T - 1 - t < t ? T - 1 - t : t);
                            late = late && (by == 1) == (m > floor(wait) && m <= floor(wait) + S);
                        }
                    }
                    int m = rows - 2, moves = 0;                    // no row too many
                    for (int t = 0; t < T; t++) moves += matrix_entry((MatrixKind)kind, m, t, T, S, u) > 0;
                    some = moves > 0;
                    CHECK(begins && falls && ends && some && late, "%s T %d S %d u %g: begins at S %d, falls by 0 or 1 %d, ends at 0 %d, without a row too many %d, in its turn %d",
                          matrix_name[kind], T, S, u, begins, falls, ends, some, late);
                }
    for (int T = 1; T <= 9; T++) for (int S = 1; S <= 12; S++) {
        int rows = matrix_rows(AUTOREGRESSIVE, T, S, 0);
        bool pyramid = rows == matrix_rows(PYRAMID, T, S, S), full = S + 1 == matrix_rows(PYRAMID, T, S, 0);
        for (int m = 0; m < rows; m++) for (int t = 0; t < T; t++) {
            pyramid = pyramid && matrix_entry(PYRAMID, m, t, T, S, S) == matrix_entry(AUTOREGRESSIVE, m, t, T, S, 3);
            full = full && matrix_entry(PYRAMID, m, t, T, S, 0) == matrix_entry(FULL_SEQUENCE, m, t, T, S, 3);
        }
        CHECK(pyramid && full && rows == T*S + 1, "T %d S %d: u = S is autoregressive %d, u = 0 is the full sequence %d", T, S, pyramid, full);
    }
}

// ---- all tokens at one level: DDIM and DDPM as everywhere ------------------------------------------------------------------------------
static void test_ordinary(void) {
    enum { B = 2, T = 5, C = 3, S = 7, N = B*T*C };
    Schedule s = schedule_create(SCHEDULE_LINEAR, LEVELS);
    noise_list = randoms((size_t)LEVELS * N, 11);
    real *cond = randoms(B*T*2, 12), *start = randoms(N, 13);
    for (int kind = 0; kind < 3; kind++) {
        Net n = make_net(kind == 0 ? rnn(C, 2, 2, 0) : transformer(C, kind == 1, 1, 2), kind == 1 ? B : 0, 5);
        for (int o = 0; o < OBJECTIVES; o++)
            for (int way = 0; way < 4; way++) {                     // eta 0, 1/2, 1; DDPM
                Sampling how = plainly((Objective)o, way == 3 ? PYRAMID : FULL_SEQUENCE, way == 3 ? LEVELS : S, 0, way == 3 ? 0 : way / 2.0);
                how.ddpm = way == 3, how.draw = listed_noise;
                Sampler p = sampler_create(&n, &s, how, B, T, 1);
                memcpy(p.x, start, N * sizeof(real)), memcpy(p.cond, cond, B*T*2 * sizeof(real));
                if (n.c.recurrent) sampler_start(&p, NULL);
                roll_out(&p, T);

                real x[N];
                int steps = how.S, k[B*T];
                memcpy(x, start, sizeof x);
                for (int i = steps, row = 0; i > 0; i--, row++) {
                    int level = i * LEVELS / steps - 1, to = (i - 1) * LEVELS / steps - 1;
                    double a = s.alpha_bar[level], b = to < 0 ? 1 : s.alpha_bar[to], sigma = how.eta * sqrt((1 - b) / (1 - a)) * sqrt(1 - a/b);
                    for (int j = 0; j < B*T; j++) k[j] = level;
                    real *prediction = predict(&n, x, k, cond, NULL, B, T, T);
                    for (int j = 0; j < N; j++) {
                        double x0, eps, z = (double)noise_list[row*N + j];
                        textbook(&x0, &eps, (Objective)o, a, (double)x[j], (double)prediction[j]);
                        if (way < 3) x[j] = (real)(sqrt(b) * x0 + sqrt(fmax(0, 1 - b - sigma*sigma)) * eps + sigma * z);
                        else {                                      // Ho et al. 2020, Algorithm 2
                            double beta = s.beta[level];
                            x[j] = (real)((((double)x[j] - beta / sqrt(1 - a) * eps) / sqrt(1 - beta)) + sqrt(beta * (1 - b) / (1 - a)) * z);
                        }
                    }
                    free(prediction);
                }
                char what[80];
                snprintf(what, sizeof what, "one level: network %d, %s, way %d", kind, objective_name[o], way);
                close_to(what, p.x, x, N, REAL_IS_DOUBLE ? 1e-10 : 2e-3);
                CHECK(p.rows == steps && p.draws == (way ? steps : 0), "%ld rows, %ld draws", p.rows, p.draws);
                sampler_free(&p);
            }
        net_free(&n);
    }
    free(noise_list), free(cond), free(start), schedule_free(&s);
}

// ---- who influences whom, to the bit -----------------------------------------------------------------------------------------------
static void test_influence(void) {
    enum { B = 2, T = 6 };
    for (int kind = 0; kind < 5; kind++) {
        bool patches = kind == 2 || kind == 4, causal = kind < 3;
        int C = patches ? 8 : 3;
        Net n = make_net(kind == 0 ? rnn(C, 2, 0, 0) : transformer(C, causal, patches ? 4 : 1, 0), 0, 7);
        real *x = randoms((size_t)(B*T*C), 21);
        int k[B*T];
        for (int i = 0; i < B*T; i++) k[i] = 7 * (i + 1) % LEVELS;
        real *base = predict(&n, x, k, NULL, NULL, B, T, T);
        for (int t = 0; t < T; t++)
            for (int what = 0; what < 2; what++) {                  // another value, another level
                real old = x[t*C];
                int level = k[t];
                if (what) k[t] = (level + 11) % LEVELS; else x[t*C] = old + 1;
                real *got = predict(&n, x, k, NULL, NULL, B, T, T);
                x[t*C] = old, k[t] = level;
                for (int i = 0; i < B*T; i++) {
                    bool same = same_bits(got + i*C, base + i*C, (size_t)C), sees = i < T && (!causal || i >= t);
                    CHECK(same != sees, "network %d: %s of token %d, prediction %d: %s", kind, what ? "level" : "value", t, i, same ? "unchanged" : "changed");
                }
                free(got);
            }
        free(x), free(base), net_free(&n);
    }
}

// ---- asking only about what changes -------------------------------------------------------------------------------------------------
// The states that a sampler has kept, against one pass over all final tokens as the network was shown them. The tokens of the last chunk may never have been
// shown clean.
static void check_states(Sampler *s, int chunk) {
    int B = s->B, T = s->T, C = s->net->c.C, Z = s->net->c.Z, *k = NEW(int, B*T);
    real *shown = NEW(real, B*T*C);
    begin_step(), tape.off = true;
    for (int i = 0; i < B*T; i++) {
        double of_x = 1, of_noise = 0;
        k[i] = i % T < s->given && !s->how.on_truth ? -1 : s->how.shown;
        if (k[i] >= 0) of_x = sqrt(s->s->alpha_bar[k[i]]), of_noise = s->how.true_noise ? sqrt(1 - s->s->alpha_bar[k[i]]) : 0;
        for (int c = 0; c < C; c++) shown[i*C + c] = (real)(of_x * (double)s->x[i*C + c] + of_noise * (double)s->noise[i*C + c]);
    }
    State state = {.z = rnn_start(s->net, NULL, B)};
    int *said = NEW(int, B*T);                          // what is shown as it is, is said to be of level 0
    for (int i = 0; i < B*T; i++) said[i] = k[i] < 0 ? 0 : k[i];
    s->net->run(s->net, (Input){.x = on_device(shown, B, T, C, "x"), .cond = on_device(s->cond, B, T, s->net->c.E, "cond"), .k = said}, &state);
    free(said);
    for (int t = 0; t < T - chunk; t++) {
        CHECK(s->seen[t] == k[t], "token %d: %d", t, s->seen[t]);
        real *z = to_host(state.after[t]);
        close_to("state", s->z + (t + 1)*B*Z, z, (size_t)(B*Z), TIGHT);
        free(z);
    }
    free(k), free(shown);
}
// Schedules that are none of ours: of three tokens the second is clean while those beside it still move; with u = 1 nothing moves in the first row
static int odd_rows(MatrixKind kind, int T, int S, double u) { (void)kind, (void)T; return 8 + S + (int)u; }
static int odd_entry(MatrixKind kind, int m, int t, int T, int S, double u) {
    (void)kind, (void)T;
    int past = m - (int[]){3, 0, 6}[t % 3] - (int)u;
    return past < 0 ? S : past > S ? 0 : S - past;
}
static void test_asking(void) {
    enum { B = 2, GIVEN = 2, C = 3, E = 2, S = 5, WAYS = 8 };
    static const struct { MatrixKind matrix; double u; } way[WAYS] = {{PYRAMID, 1}, {PYRAMID, 2.5}, {PYRAMID, 7.5}, {AUTOREGRESSIVE, 0}, {TRAPEZOID, 1}, {FULL_SEQUENCE, 0}, {FULL_SEQUENCE, 0}, {FULL_SEQUENCE, 1}};
    Schedule s = schedule_create(SCHEDULE_SIGMOID, LEVELS);
    for (int kind = 0; kind < 3; kind++) {                          // recurrent, far beyond its training length; causal transformer, whose window slides; its patches
        int T = kind == 0 ? 20 : 13, width = kind == 2 ? 8 : C, size = B * T * width;
        Net n = make_net(kind == 0 ? rnn(C, 2, E, 0) : transformer(width, true, kind == 2 ? 4 : 1, kind == 2 ? 0 : E), kind == 0 ? 0 : B, 8);
        real *known = randoms((size_t)size, 31), *cond = randoms((size_t)(B*T*E), 32);
        for (int w = 0; w < WAYS; w++) for (int chunk = 1; chunk <= 3; chunk += 2) for (int stable = 0; stable < 4; stable++) for (int eta = 0; eta < 2; eta++) {
            if ((kind + w + chunk/2 + stable + eta) % 2) continue;                                 // half of them
            real *x[2];
            long asked[2], naive[2];
            for (int all = 0; all < 2; all++) {
                Sampling how = plainly(PRED_V, way[w].matrix, S, way[w].u, eta);
                if (w >= WAYS - 2) how.matrix_rows = odd_rows, how.matrix_entry = odd_entry;
                how.all = all, how.shown = stable == 0 ? -1 : stable == 1 ? level_of(1, S, LEVELS) : 4, how.true_noise = stable >= 2, how.on_truth = stable == 3;
                Sampler p = sampler_create(&n, &s, how, B, T, 9);
                p.given = GIVEN;
                for (int b = 0; b < B; b++) memcpy(p.x + b*T*width, known + b*T*width, (size_t)(GIVEN*width) * sizeof(real));
                if (n.c.E) memcpy(p.cond, cond, (size_t)(B*T*E) * sizeof(real));
                if (kind == 0) sampler_start(&p, NULL);
                roll_out(&p, chunk);
                if (kind == 0) check_states(&p, chunk);
                x[all] = p.x, asked[all] = p.asked, naive[all] = p.naive, p.x = NULL;
                sampler_free(&p);
            }
            char what[96];
            snprintf(what, sizeof what, "network %d, way %d, chunk %d, stabilisation %d, eta %d", kind, w, chunk, stable, eta);
            if (REAL_IS_DOUBLE) CHECK(same_bits(x[0], x[1], (size_t)size), "%s", what);
            else close_to(what, x[0], x[1], (size_t)size, 1e-4);    // the fast products add in an order that depends on the number of rows
            CHECK(asked[0] < asked[1] && naive[0] == naive[1] && asked[1] <= naive[1], "asked about %ld of %ld, all: %ld of %ld", asked[0], naive[0], asked[1], naive[1]);
            free(x[0]), free(x[1]);
        }
        free(known), free(cond), net_free(&n);
    }
    schedule_free(&s);
}

// Autoregressive: S times about every token while it is made, and once about each before the last, clean. When the window of a transformer slides, positions
// have changed: once about the whole window, then S - 1 times about the last token. And a pyramid with u = S makes the same samples with the same questions.
static void test_autoregressive(void) {
    enum { B = 2, C = 3, S = 6, T = 12 };
    Schedule s = schedule_create(SCHEDULE_COSINE, LEVELS);
    for (int kind = 0; kind < 2; kind++)
        for (int given = 0; given < 4; given += 3)
            for (int chunk = 1; chunk <= (kind ? 1 : T); chunk += 4) {
                Net n = make_net(kind ? transformer(C, true, 1, 0) : rnn(C, 1, 0, 0), kind ? B : 0, 9);
                int W = kind ? n.c.window : T;
                real *x[2];
                for (int pyramid = 0; pyramid < 2; pyramid++) {
                    Sampling how = plainly(PRED_X0, pyramid ? PYRAMID : AUTOREGRESSIVE, S, pyramid ? S : 0, 1);
                    how.shown = 4;
                    Sampler p = sampler_create(&n, &s, how, B, T, 10);
                    p.given = given;
                    if (!kind) sampler_start(&p, NULL);
                    roll_out(&p, chunk);
                    long want = (W - given) * S + W - 1 + (T - W) * (W + S - 1);
                    CHECK(p.asked == B * want && p.rows == (T - given) * S, "network %d, given %d, chunk %d: asked about %ld tokens, not %ld; %ld rows", kind, given, chunk, p.asked, B * want, p.rows);
                    x[pyramid] = p.x, p.x = NULL;
                    sampler_free(&p);
                }
                CHECK(same_bits(x[0], x[1], B*T*C), "network %d, given %d, chunk %d: a pyramid with u = S", kind, given, chunk);
                free(x[0]), free(x[1]), net_free(&n);
            }
    schedule_free(&s);
}

// ---- training: the loss, and teacher forcing --------------------------------------------------------------------------------------------
static void test_loss(void) {
    enum { B = 2, T = 5, E = 2, FIRST = 4 };
    Schedule s = schedule_create(SCHEDULE_LINEAR, LEVELS);
    for (int kind = 0; kind < 4; kind++)
        for (int o = 0; o < OBJECTIVES; o++)
            for (int teacher = 0; teacher < (kind == 3 ? 1 : 2); teacher++) {
                bool patches = kind == 2;
                int C = patches ? 8 : 3, P = patches ? 2 : 1, k[B*T], N = B*T*C;
                Net n = make_net(kind == 0 ? rnn(C, 2, E, FIRST) : transformer(C, kind != 3, patches ? 4 : 1, patches ? 0 : E), 0, 12);
                real *x = randoms((size_t)N, 41), *noise = randoms((size_t)N, 42), *cond = randoms(B*T*E, 43), *first = randoms(B*FIRST, 44), *x_k = NEW(real, N), loss;
                double weight[B*T*2], want = 0;
                for (int i = 0; i < B*T; i++) k[i] = 17 * (i + 2) % LEVELS, weight[P*i] = 1 + 0.1*i, weight[P*i + P - 1] = 2 - 0.1*i;
                begin_step(), tape.off = true;
                Tensor *z0 = kind == 0 ? rnn_start(&n, on_device(first, B, 1, FIRST, "first"), B) : NULL;
                Loss l = df_loss(&n, &s, (Objective)o, on_device(x, B, T, C, "x"), on_device(noise, B, T, C, "noise"), k, on_device(n.c.E ? cond : NULL, B, T, E, "cond"), z0, weight, P, 0.5, teacher);
                download(&loss, l.loss->data, sizeof loss);
                real *prediction = to_host(l.prediction), *got_x = to_host(l.x_k);
                CHECK(l.prediction->B == B && l.prediction->T == T && l.prediction->C == C, "(%d,%d,%d)", l.prediction->B, l.prediction->T, l.prediction->C);

                for (int i = 0; i < N; i++) {
                    double ab = s.alpha_bar[k[i / C]], signal = sqrt(ab), part = sqrt(1 - ab), x0 = (double)x[i], eps = (double)noise[i];
                    double target = o == PRED_NOISE ? eps : o == PRED_X0 ? x0 : signal * eps - part * x0;
                    x_k[i] = (real)(signal * x0 + part * eps);
                    want += 0.5 * weight[i / C * P + i % C / (C / P)] * pow((double)prediction[i] - target, 2);
                }
                CHECK_CLOSE("loss", loss, want, TIGHT * want);
                close_to("noisy tokens", got_x, x_k, (size_t)N, TIGHT);

                // the predictions: with a noisy history one pass from the start; with a clean one, T passes over the clean tokens and one noisy one
                real *whole = teacher ? NULL : predict(&n, x_k, k, cond, first, B, T, T), *mixed = NEW(real, N), *all = NEW(real, N);
                int level[B*T];
                for (int t = 0; t < T && teacher; t++) {
                    for (int i = 0; i < B*T; i++) level[i] = i % T < t ? 0 : k[i], memcpy(mixed + i*C, (i % T < t ? x : x_k) + i*C, (size_t)C * sizeof(real));
                    real *part = predict(&n, mixed, level, cond, first, B, T, t + 1);
                    for (int b = 0; b < B; b++) memcpy(all + (b*T + t)*C, part + (b*(t + 1) + t)*C, (size_t)C * sizeof(real));
                    free(part);
                }
                close_to(teacher ? "teacher forcing" : "noisy history", prediction, teacher ? all : whole, (size_t)N, TIGHT);
                tape.off = false;
                free(x), free(noise), free(cond), free(first), free(x_k), free(prediction), free(got_x), free(whole), free(mixed), free(all);
                net_free(&n);
            }
    schedule_free(&s);
}

// ---- gradients against central differences ----------------------------------------------------------------------------------------------
// The whole loss, of inputs on the host. Where the objective lets the target depend on an input (x0 on x, eps on the noise, v on both), that input is no leaf:
// a target gets no gradient.
enum { GB = 2, GT = 4, GE = 2, GFIRST = 4 };
typedef struct Case { Net net; Objective o; bool teacher; int C, parts; real *input[4]; size_t size[4]; Tensor *leaf[4]; Schedule s; } Case;   // x, noise, condition, first
static Loss loss_of(Case *a) {
    NetConfig c = a->net.c;
    int k[GB*GT], width[4] = {a->C, a->C, c.E, c.first};
    double weight[GB*GT*2];
    for (int i = 0; i < GB*GT; i++) k[i] = 13 * (i + 1) % LEVELS;
    for (int i = 0; i < GB*GT*a->parts; i++) weight[i] = 1 + 0.3 * (i % 5);
    begin_step();
    for (int i = 0; i < 4; i++) {
        a->leaf[i] = on_device(width[i] ? a->input[i] : NULL, GB, i < 3 ? GT : 1, width[i], "input");
        if (a->leaf[i] && !(i == 0 && a->o != PRED_NOISE) && !(i == 1 && a->o != PRED_X0)) leaf(a->leaf[i]);
    }
    return df_loss(&a->net, &a->s, a->o, a->leaf[0], a->leaf[1], k, a->leaf[2], c.recurrent ? rnn_start(&a->net, a->leaf[3], GB) : NULL, weight, a->parts, 1, a->teacher);
}
static double loss_at(Case *a, real *where, real *on_device_too, real value) {      // with one number changed
    real old = *where, loss;
    *where = value;
    if (on_device_too) upload(on_device_too, where, sizeof(real));
    download(&loss, loss_of(a).loss->data, sizeof loss);
    *where = old;
    if (on_device_too) upload(on_device_too, where, sizeof(real));
    return (double)loss;
}
static void check_gradient(Case *a, const char *name, real *x, real *device_x, const real *g, size_t n, int few, Rng *r) {
    double worst = 0, largest = 0, h = 1e-5, rounding = 5e-11 * loss_at(a, x, NULL, *x);
    for (size_t j = 0; j < n; j++) largest = fmax(largest, fabs((double)g[j]));
    for (int i = 0; i < few; i++) {
        size_t j = few < (int)n ? (size_t)below(r, (int)n) : (size_t)i % n;
        double slope = (loss_at(a, x + j, device_x ? device_x + j : NULL, (real)((double)x[j] + h)) - loss_at(a, x + j, device_x ? device_x + j : NULL, (real)((double)x[j] - h))) / (2*h);
        worst = worst_of(worst, fabs(slope - (double)g[j]));
    }
    CHECK(largest > 0 && worst <= 1e-7 * largest + rounding, "%s, %s%s: d %s: %g of %g", a->net.c.recurrent ? "rnn" : "transformer", objective_name[a->o], a->teacher ? ", doubled" : "", name, worst, largest);
}
static void test_gradients(void) {
    static const char *const input_name[] = {"x", "noise", "condition", "first"};
    const struct { NetConfig c; bool teacher; } cases[] = {{rnn(3, 1, GE, GFIRST), false}, {rnn(3, 4, GE, 0), false}, {rnn(3, 4, GE, GFIRST), true}, {transformer(3, false, 1, GE), false},
        {transformer(3, true, 1, GE), true}, {transformer(8, true, 4, 0), false}, {transformer(8, false, 4, 0), false}, {transformer(8, true, 4, 0), true}};
    for (int i = 0; i < 8; i++)
        for (int o = 0; o < OBJECTIVES; o++) {
            NetConfig c = cases[i].c;
            Case a = {.net = make_net(c, 0, 21), .o = (Objective)o, .teacher = cases[i].teacher, .C = c.C, .parts = c.C % 2 ? 1 : 2, .s = schedule_create(SCHEDULE_COSINE, LEVELS),
                      .size = {(size_t)(GB*GT*c.C), (size_t)(GB*GT*c.C), (size_t)(GB*GT*c.E), (size_t)(GB*c.first)}};
            Rng r = rng(4, RNG_DATA, (uint64_t)i);
            for (int j = 0; j < 4; j++) a.input[j] = randoms(a.size[j] + 1, (uint64_t)(50 + j));
            zero_grad(&a.net.ps);
            backward(loss_of(&a).loss, PARAMS | INPUTS);
            real *g = NEW(real, a.net.ps.size), *p = NEW(real, a.net.ps.size), *d[4] = {0};
            download(g, a.net.ps.grad, a.net.ps.size * sizeof(real)), download(p, a.net.ps.data, a.net.ps.size * sizeof(real));
            for (int j = 0; j < 4; j++) if (a.leaf[j] && a.leaf[j]->kind == LEAF) d[j] = NEW(real, a.size[j]), download(d[j], a.leaf[j]->grad, a.size[j] * sizeof(real));
            tape.off = true;
            for (int j = 0; j < a.net.ps.n; j++) {
                Param *q = a.net.ps.list[j];
                check_gradient(&a, q->t.name, p + q->offset, q->t.data, g + q->offset, count(&q->t), 4, &r);
            }
            for (int j = 0; j < 4; j++) {
                if (d[j]) check_gradient(&a, input_name[j], a.input[j], NULL, d[j], a.size[j], (int)a.size[j], &r);
                CHECK((d[j] != NULL) == (j < 2 ? (int)o == (j ? PRED_X0 : PRED_NOISE) : a.size[j] > 0), "input %d", j);
                free(d[j]);
            }
            for (int j = 0; j < 4; j++) free(a.input[j]);
            tape.off = false;
            free(g), free(p), net_free(&a.net), schedule_free(&a.s);
        }
}

// ---- guidance ---------------------------------------------------------------------------------------------------------------------------
// x after a DDIM step whose eps has moved by -sqrt(1 - from) g, and x0 with it: by how much more than without
static void test_guided(void) {
    Rng r = rng(5, RNG_DATA, 0);
    for (int i = 0; i < 2000; i++) {
        double from = 0.001 + 0.99 * uniform(&r), to = i % 10 ? from + (1 - from) * uniform(&r) : 1, eta = i % 3 ? uniform(&r) : i % 2, x = normal(&r), eps = normal(&r), g = normal(&r), after[2];
        double of_x0, of_eps, fresh;
        ddim(&of_x0, &of_eps, &fresh, from, to, eta);
        for (int moved = 0; moved < 2; moved++) {
            double e = eps - moved * sqrt(1 - from) * g, x0 = (x - sqrt(1 - from) * e) / sqrt(from);
            after[moved] = of_x0 * x0 + of_eps * e;
        }
        CHECK_CLOSE("guided step", after[0] + guided(from, to, of_x0, of_eps) * g, after[1], 1e-12 * (1 + fabs(after[1])) / from);
    }
}

// J as goal_gradient() has it, of the mean of R futures, through the network: token t of a future is drawn again from the last one of that token, and predicted
// after the tokens before it as they were shown
enum { JB = 2, JT = 4, JC = 4 };
static double J_of(const Goal *goal, const real *x0) {
    double sum = 0;
    for (int i = 0; i < JB*JT*2; i++) {
        double d[2];
        for (int j = 0; j < 2; j++) d[j] = (double)x0[2*i + j] * goal->scaling->std[j] + goal->scaling->mean[j] - goal->goal[i / (JT*2) * 2 + j];
        if (goal->last_counts || i % (JT*2) < JT*2 - 1) sum -= goal->weight * sqrt(d[0]*d[0] + d[1]*d[1]);
    }
    return sum;
}
static double J_through(Net *n, const Schedule *s, Objective o, const Goal *goal, const real *shown, const int *k, int first_draw, int R, bool repeat) {
    enum { N = JB*JT*JC };
    real x0[N], next[N], x[N], *p = predict(n, shown, k, NULL, NULL, JB, JT, JT);
    double eps, clean, sum;
    for (int i = 0; i < N; i++) textbook(&clean, &eps, o, s->alpha_bar[k[i / JC]], (double)shown[i], (double)p[i]), x0[i] = (real)clean;
    free(p);
    sum = J_of(goal, x0) * (repeat ? 2 : 1);
    for (int j = 1; j < R - repeat; j++) {
        const real *fresh = noise_list + (first_draw + j - 1) * N;
        for (int t = 0; t < JT; t++) {
            memcpy(x, shown, sizeof x);
            for (int b = 0; b < JB; b++) for (int c = 0; c < JC; c++) {
                int i = (b*JT + t)*JC + c;
                double ab = s->alpha_bar[k[i / JC]];
                x[i] = (real)(sqrt(ab) * (double)x0[i] + sqrt(1 - ab) * (double)fresh[i]);
            }
            p = predict(n, x, k, NULL, NULL, JB, JT, t + 1);
            for (int b = 0; b < JB; b++) for (int c = 0; c < JC; c++) {
                int i = (b*JT + t)*JC + c;
                textbook(&clean, &eps, o, s->alpha_bar[k[i / JC]], (double)x[i], (double)p[(b*(t + 1) + t)*JC + c]), next[i] = (real)clean;
            }
            free(p);
        }
        memcpy(x0, next, sizeof x0);
        sum += J_of(goal, x0);
    }
    return sum / R;
}
// Only the tokens of the plan count: neither what stands before it nor the padding behind.
static void test_plan_counts(void) {
    enum { B = 2, TT = 4, FS = 2, CH = 3, C = FS * CH };
    Scaling scaling = {.obs = 2, .act = 1, .mean = {0.5, -1, 0}, .std = {2, 0.5, 1}};
    double goal[] = {1, 2, -1, 0};
    real x0[B*TT*C], whole[B*TT*C], part[B*TT*C];
    for (int i = 0; i < B*TT*C; i++) x0[i] = (real)sin(i);
    Goal all = {.scaling = &scaling, .goal = goal, .frames = FS, .weight = 1, .last_counts = true}, some = all;
    some.from = 1, some.tokens = 2;
    goal_gradient(&(Guide){.goal = &all}, x0, whole, B, 0, TT, C), goal_gradient(&(Guide){.goal = &some}, x0, part, B, 0, TT, C);
    for (int i = 0; i < B*TT*C; i++) {
        int t = i / C % TT;
        CHECK(part[i] == (t >= 1 && t < 3 ? whole[i] : 0), "token %d: %g", t, (double)part[i]);
        CHECK(i % CH == 2 || whole[i] != 0, "%d", i);
    }
    some.last_counts = false;
    goal_gradient(&(Guide){.goal = &some}, x0, part, B, 0, TT, C);
    CHECK(part[3*C - CH] == 0 && part[3*C - 2*CH] != 0, "the plan's last frame");
}
static void test_guidance(void) {
    enum { N = JB*JT*JC, S = 10, SHOWN = 3 };
    Schedule s = schedule_create(SCHEDULE_SIGMOID, LEVELS);
    const Scaling scaling = {.obs = 2, .mean = {1, -2}, .std = {2, 0.7}};
    const double goal[2*JB] = {3, 1, -1, 0.5};
    noise_list = randoms(8 * N, 61);
    for (int kind = 0; kind < 12; kind++) {
        bool recurrent = kind < 8, repeat = kind % 2, ddpm = kind == 7 || kind == 11;
        int R = recurrent && kind >= 2 ? 3 : 1, G = kind % 4 < 2 ? 1 : 2, steps = ddpm ? LEVELS : S;
        Net n = make_net(recurrent ? rnn(JC, G, 0, 0) : transformer(JC, kind == 9, 1, 0), kind == 9 ? JB : 0, (uint64_t)(30 + kind));
        Goal at = {.scaling = &scaling, .goal = goal, .frames = 2, .weight = 0.7, .last_counts = kind % 3 != 0};
        Guide guide = {.scale = 1.7, .futures = R, .strength = guided, .gradient = goal_gradient, .goal = &at, .repeat = repeat};
        Sampling how = plainly((Objective)(kind % 3), PYRAMID, steps, 1, ddpm ? 0 : kind % 4 / 3.0);
        how.shown = SHOWN, how.draw = listed_noise, how.ddpm = ddpm;
        int from[JT] = {0, 6, 8, 10}, to[JT] = {0, 5, 7, 10}, k[N];
        real *after[2], *start = randoms(N, 62), grad[N], shown[N];
        for (int on = 0; on < 2; on++) {
            how.guide = on ? &guide : NULL;
            Sampler p = sampler_create(&n, &s, how, JB, JT, 3);
            memcpy(p.x, start, N * sizeof(real));
            if (on) p.grad = NEW(real, N);
            if (recurrent) sampler_start(&p, NULL);
            sample_row(&p, 0, JT, from, to);
            if (on) memcpy(grad, p.grad, sizeof grad);
            after[on] = p.x, p.x = NULL;
            sampler_free(&p);
        }
        for (int i = 0; i < JB*JT; i++) {
            k[i] = from[i % JT] ? level_of(from[i % JT], steps, LEVELS) : SHOWN;
            for (int c = 0; c < JC; c++) shown[i*JC + c] = (real)((double)start[i*JC + c] * (from[i % JT] ? 1 : sqrt(s.alpha_bar[SHOWN])));
        }
        // the gradient
        double worst = 0, largest = 0, h = 1e-5, rounding = 0;
        for (int i = 0; i < N && REAL_IS_DOUBLE; i++) {
            real old = shown[i];
            double J[2];
            for (int side = 0; side < 2; side++) shown[i] = (real)((double)old + (side ? -h : h)), J[side] = J_through(&n, &s, how.objective, &at, shown, k, how.eta > 0 || ddpm, R, repeat && R > 1);
            shown[i] = old, rounding = 5e-11 * fabs(J[0]);
            worst = worst_of(worst, fabs((J[0] - J[1]) / (2*h) - (double)grad[i])), largest = fmax(largest, fabs((double)grad[i]));
        }
        CHECK(!REAL_IS_DOUBLE || (largest > 0 && worst <= 1e-7 * largest + rounding), "kind %d: dJ/dx: %g of %g", kind, worst, largest);
        // what it does: eps moves by -scale sqrt(1 - ab) g, and x0 with it. Of a DDPM step, x by beta / sqrt(alpha) times that
        double moved = 0;
        worst = 0;
        for (int i = 0; i < N; i++) {
            int t = i / JC % JT;
            double g = 1.7 * (double)grad[i], want = 0;
            if (from[t] != to[t]) {
                double a = alpha_bar(&s, k[i / JC]), b = alpha_bar(&s, level_of(to[t], steps, LEVELS)), sigma = how.eta * sqrt((1 - b) / (1 - a)) * sqrt(1 - a/b);
                want = ddpm ? s.beta[k[i / JC]] / sqrt(1 - s.beta[k[i / JC]]) * g : sqrt(b) * (1 - a) / sqrt(a) * g - sqrt(1 - b - sigma*sigma) * sqrt(1 - a) * g;
            }
            worst = worst_of(worst, fabs((double)after[1][i] - (double)after[0][i] - want)), moved = fmax(moved, fabs(want));
        }
        CHECK(moved > 0 && worst <= moved * (REAL_IS_DOUBLE ? 1e-9 : 1e-3), "kind %d: a guided step: %g of %g", kind, worst, moved);
        free(after[0]), free(after[1]), free(start), net_free(&n);
    }
    free(noise_list), schedule_free(&s);
}

// ---- exact denoisers in the place of a network -------------------------------------------------------------------------------------------
static Net denoiser(int C, int window, int K, Tensor *(*run)(Net *, Input, State *)) {
    begin_dry_run(), arena_take(&per_step, 192 << 20), end_dry_run(false);
    return (Net){.c = {.C = C, .K = K, .window = window}, .run = run};
}
static double prediction_of(Objective o, double ab, double x, double x0) {          // that says x0 about x
    double eps = (x - sqrt(ab) * x0) / sqrt(1 - ab);
    return o == PRED_NOISE ? eps : o == PRED_X0 ? x0 : sqrt(ab) * eps - sqrt(1 - ab) * x0;
}

// x_0 of N(0, first), x_t of N(a x_{t-1}, s2); each of the numbers of a token on its own. What is known of token t before it is observed: the last observed token
// before it, predicted forward to N(mean, variance). Observed are the tokens of the history that are said to be of level `clean`.
static struct { double a, s2, first; int clean; Objective o; const Schedule *s; } ar = {.a = 0.8, .s2 = 0.3, .first = 1.5, .clean = 2};
static void ar_forward(double *mean, double *variance, int t, int last, double x_last) {       // last -1: nothing is observed
    double m = last < 0 ? 0 : x_last, v = last < 0 ? ar.first : 0;
    for (int i = last < 0 ? 0 : last; i < t; i++) m *= ar.a, v = ar.a*ar.a*v + ar.s2;
    *mean = m, *variance = v;
}
static Tensor *ar_run(Net *net, Input in, State *state) {
    int B = in.x->B, T = in.x->T / 2, C = in.x->C;
    real *x = HOST(real, count(in.x)), *out = HOST(real, B*T*C);
    (void)net, (void)state;
    download(x, in.x->data, count(in.x) * sizeof(real));
    for (int b = 0; b < B; b++) for (int t = 0; t < T; t++) {
        int last = t - 1;
        while (last >= 0 && in.k[b*2*T + T + last] != ar.clean) last--;
        double m, v, ab = ar.s->alpha_bar[in.k[b*2*T + t]];
        for (int c = 0; c < C; c++) {
            double x_k = (double)x[(b*2*T + t)*C + c];
            ar_forward(&m, &v, t, last, last < 0 ? 0 : (double)x[(b*2*T + T + last)*C + c]);
            // a Gaussian prior and a Gaussian measurement: precisions add up
            out[(b*T + t)*C + c] = (real)prediction_of(ar.o, ab, x_k, (m/v + sqrt(ab)/(1 - ab) * x_k) / (1/v + ab/(1 - ab)));
        }
    }
    return on_device(out, B, T, C, "exact");
}

// The bound with this denoiser, for every set S of four tokens. It is quadratic in the noise and in x, so that noise of +-1 and x = root r, r in {-1,1}^4, with
// root root^T the covariance, give its mean over both exactly; and all levels are summed. Three facts:
//   for each x it is at least -log of the model's own density, a Gaussian that a chain of K steps makes;
//   on the average over x it is at least the entropy of x_S, which is the mean of -log p(x_S);
//   by as much as the chain says: KL(q(x^K) || N(0,1)) + sum over k of KL of two normal laws of the same mean, the true variance f^2 + c^2 V against f^2 of the
//   model, (u - log(1 + u))/2 with u = c^2 V / f^2, where V is the variance of x0 given x^k. It shrinks as K grows, but not to 0: u_1 is beta_1/beta_0 for every K.
//   With the linear schedule u_k goes to 1/k, which leaves half of Euler's 0.5772 for each number of each token; at K = 1000 0.46 are left.
enum { ET = 4, POINTS = 1 << ET, EC = 2 };
static void test_elbo(void) {
    static const int Ks[4] = {50, 200, 1000, 200};                // and once more with another schedule
    double root[ET][ET] = {{0}}, gap[4][1 << ET];
    for (int j = 0; j < ET; j++) for (int t = j; t < ET; t++) root[t][j] = pow(ar.a, t - j) * sqrt(j ? ar.s2 : ar.first);
    for (int i = 0; i < 4; i++) {
        int K = Ks[i], B = K * POINTS * 2, N = B * ET;
        Schedule s = schedule_create(i < 3 ? SCHEDULE_LINEAR : SCHEDULE_SIGMOID, K);
        Net n = denoiser(EC, ET, K, ar_run);
        real *x = NEW(real, N*EC), *noise = NEW(real, N*EC), *unknown = NEW(real, N*EC);
        int *k = NEW(int, N);
        double *nats = NEW(double, B);
        for (int b = 0; b < B; b++) for (int t = 0; t < ET; t++) for (int c = 0; c < EC; c++) {
            int point = c ? (5*(b % POINTS) + 3) % POINTS : b % POINTS, at = (b*ET + t)*EC + c;
            for (int j = 0; j < ET; j++) x[at] += (real)(root[t][j] * (point >> j & 1 ? 1 : -1));
            noise[at] = b / POINTS % 2 ? 1 : -1, unknown[at] = (real)(3 + t), k[b*ET + t] = b / (2*POINTS);
        }
        ar.s = &s;
        for (int set = 1; set < 1 << ET; set++) {
            bool observed[ET];
            double want[POINTS] = {0}, entropy = 0, excess = 0, mean[POINTS] = {0}, all = 0;
            for (int t = 0; t < ET; t++) observed[t] = set >> t & 1;
            ar.o = (Objective)(set % OBJECTIVES);
            begin_step(), tape.off = true;
            elbo_draw(nats, &n, &s, ar.o, on_device(x, B, ET, EC, "x"), on_device(noise, B, ET, EC, "noise"), on_device(unknown, B, ET, EC, "unknown"), NULL, NULL, k, observed, NULL, 1, ar.clean);
            for (int b = 0; b < B; b++) mean[b % POINTS] += nats[b] / (2*K), all += nats[b] / B;

            for (int t = 0, last = -1; t < ET; t++) {
                if (!observed[t]) continue;
                double m, v, left = s.alpha_bar[K - 1], spread, model_v = 1, of_m = 0;
                ar_forward(&m, &v, t, last, 1);                     // m: what a last token of 1 would become
                spread = last < 0 ? 0 : m*m * (pow(ar.a, 2*last) * ar.first + ar.s2 * (1 - pow(ar.a, 2*last)) / (1 - ar.a*ar.a));       // variance of that mean
                entropy += EC * 0.5 * log(2*M_PI*M_E * v);
                excess += EC * 0.5 * (left * (v + spread) - left - log(left * v + 1 - left));
                for (int level = K - 1; level >= 0; level--) {
                    double a = s.alpha_bar[level], before = level ? s.alpha_bar[level - 1] : 1, beta = s.beta[level], V = v * (1 - a) / (v * a + 1 - a), c = beta * sqrt(before) / (1 - a),
                           d = (1 - before) * sqrt(1 - beta) / (1 - a), f2 = level ? beta * (1 - before) / (1 - a) : beta, u = level ? c*c*V / f2 : V / beta - 1;
                    excess += EC * 0.5 * (u - log1p(u));
                    // the model's law of x^{k-1}, whose mean is of_m times m: x0 is predicted as V/v m + sqrt(a) V/(1 - a) x
                    double of_x = c * sqrt(a) * V / (1 - a) + d;
                    of_m = of_x * of_m + c * V / v, model_v = of_x*of_x * model_v + f2;
                }
                for (int b = 0; b < POINTS; b++) for (int j = 0; j < EC; j++) {
                    double before = last < 0 ? 0 : m * (double)x[(b*ET + last)*EC + j], d = (double)x[(b*ET + t)*EC + j] - of_m * before;
                    want[b] += 0.5 * (log(2*M_PI * model_v) + d*d / model_v);
                }
                last = t;
            }
            for (int b = 0; b < POINTS; b++) CHECK(mean[b] >= want[b], "K %d, set %d, x %d: the bound %g is below %g", K, set, b, mean[b], want[b]);
            CHECK(all >= entropy, "K %d, set %d: the bound %g is below %g", K, set, all, entropy);
            CHECK_CLOSE("bound minus entropy", all - entropy, excess, REAL_IS_DOUBLE ? 1e-8 : 2e-3);
            gap[i][set] = all - entropy;
            int size = __builtin_popcount((unsigned)set) * EC;
            if (i == 1 || i == 2) CHECK(gap[i][set] < gap[i - 1][set], "set %d: the gap grows from %g to %g", set, gap[i - 1][set], gap[i][set]);
            CHECK(i != 2 || (gap[i][set] < 0.5 * size && gap[i][set] > 0.5772/2 * size), "set %d: %g nats too many, of %d numbers", set, gap[i][set], size);
        }
        tape.off = false;
        free(x), free(noise), free(unknown), free(k), free(nats), schedule_free(&s);
    }
}

// Three tokens of a Gaussian, denoised exactly whatever their levels are: E[x0 | x] = mu + S D (D S D + N)^-1 (x - D mu), D = sqrt(ab), N = 1 - ab on the diagonal
enum { ST = 3 };
static const double mu[ST] = {0.5, -1, 0.2}, sigma[ST][ST] = {{1, 0.6, 0.3}, {0.6, 0.8, -0.2}, {0.3, -0.2, 0.5}};
static const Schedule *gaussian_schedule;
static Tensor *gaussian_run(Net *net, Input in, State *state) {
    int B = in.x->B;
    double m[ST][2*ST] = {{0}}, gain[ST][ST] = {{0}}, d[ST];
    real *x = HOST(real, count(in.x)), *out = HOST(real, count(in.x));
    (void)net, (void)state;
    download(x, in.x->data, count(in.x) * sizeof(real));
    for (int t = 0; t < ST; t++) d[t] = sqrt(alpha_bar(gaussian_schedule, in.k[t]));
    for (int i = 0; i < ST; i++) for (int j = 0; j < ST; j++) m[i][j] = d[i] * sigma[i][j] * d[j] + (i == j) * (1 - d[i]*d[i]), m[i][ST + j] = i == j;
    for (int p = 0; p < ST; p++) {                                  // Gauss and Jordan
        double pivot = m[p][p];
        for (int j = 0; j < 2*ST; j++) m[p][j] /= pivot;
        for (int i = 0; i < ST; i++) if (i != p) { double by = m[i][p]; for (int j = 0; j < 2*ST; j++) m[i][j] -= by * m[p][j]; }
    }
    for (int i = 0; i < ST; i++) for (int j = 0; j < ST; j++) for (int l = 0; l < ST; l++) gain[i][j] += sigma[i][l] * d[l] * m[l][ST + j];
    for (int b = 0; b < B; b++) for (int i = 0; i < ST; i++) {
        double x0 = mu[i];
        for (int j = 0; j < ST; j++) x0 += gain[i][j] * ((double)x[b*ST + j] - d[j] * mu[j]);
        out[b*ST + i] = (real)x0;
    }
    return on_device(out, B, ST, 1, "exact");
}
static void test_statistics(void) {
    enum { B = 2000, K = 300 };
    static const struct { const char *name; MatrixKind matrix; double u, eta; bool ddpm; } way[] = {{"ddim, eta 0", FULL_SEQUENCE, 0, 0, false}, {"ddim, eta 1", FULL_SEQUENCE, 0, 1, false},
        {"ddpm", FULL_SEQUENCE, 0, 0, true}, {"pyramid, eta 0", PYRAMID, 100, 0, false}, {"trapezoid, eta 1", TRAPEZOID, 100, 1, false}, {"autoregressive, eta 0", AUTOREGRESSIVE, 0, 0, false},
        {"pyramid, ddpm", PYRAMID, 50, 0, true}};
    Schedule s = schedule_create(SCHEDULE_COSINE, K);
    gaussian_schedule = &s;
    Net n = denoiser(1, ST, K, gaussian_run);
    for (int w = 0; w < 7; w++) {
        Sampling how = plainly(PRED_X0, way[w].matrix, K, way[w].u, way[w].eta);
        how.ddpm = way[w].ddpm;
        Sampler p = sampler_create(&n, &s, how, B, ST, (uint64_t)(70 + w));
        roll_out(&p, ST);
        double mean[ST] = {0};
        for (int i = 0; i < B*ST; i++) mean[i % ST] += (double)p.x[i] / B;
        for (int i = 0; i < ST; i++) {
            CHECK(fabs(mean[i] - mu[i]) <= 5 * sqrt(sigma[i][i] / B), "%s: mean %d: %g, not %g", way[w].name, i, mean[i], mu[i]);
            for (int j = 0; j <= i; j++) {
                double c = 0, error = sqrt((sigma[i][i] * sigma[j][j] + sigma[i][j] * sigma[i][j]) / B);
                for (int b = 0; b < B; b++) c += ((double)p.x[b*ST + i] - mean[i]) * ((double)p.x[b*ST + j] - mean[j]) / (B - 1);
                CHECK(fabs(c - sigma[i][j]) <= 5 * error, "%s: covariance of %d and %d: %g, not %g +- %g", way[w].name, i, j, c, sigma[i][j], error);
            }
        }
        sampler_free(&p);
    }
    schedule_free(&s);
}

#ifdef COUNTS_ALLOCATIONS
// Nothing allocates inside a step: as many allocations after 2 steps as after 20, for every task, and none in a row of the sampler.
static void check_training(const char *net, const char *noise, bool causal, void (*open)(void)) {
    __typeof__(opt) kept = opt;
    opt.net = net, opt.noise = noise, opt.causal = causal;
    opt.levels = LEVELS, opt.tokens = 5, opt.batch = 3, opt.width = 12, opt.state = 8, opt.level_width = 6, opt.heads = 2, opt.frames = 2, opt.data_steps = 1000, opt.patches = !strcmp(net, "rnn") ? 1 : 2;
    opt.weight = "fused_snr", opt.size = 8;
    open();
    if (token.E) opt.patches = 1;
    NetConfig c = net_config();
    int n = opt.batch * token.window;
    tape.off = false;
    long second = 0;
    training.net = make_net(c, 0, 1), training.schedule = schedule(), training.batch = batch_create(opt.batch, token.window), training.k = NEW(int, n), training.weight = NEW(double, n);
    counting = true;
    for (int step = 1; step <= 20; step++) {
        double norm, loss = train_step(step, &norm);
        CHECK(isfinite(loss) && norm > 0, "%g %g", loss, norm);
        if (step == 2) second = allocations;
    }
    CHECK(allocations == second, "%s, %s, %s: %ld allocations after step 2, %ld after step 20", task->name, net, noise, second, allocations);
    counting = false;
    net_free(&training.net), batch_free(&training.batch), schedule_free(&training.schedule), free(training.k), free(training.weight);
    memset(&token, 0, sizeof token);
    opt = kept;
}
static void open_cross(void) { task = &tasks[0], cross_open(); }
static void open_maze(void) { task = &tasks[1], opt.patches = 1, maze_task_open(); }
static void open_video(void) { task = &tasks[2], video_open(); }
static void open_series(void) {                                     // forty days of two series
    char text[4096] = "date,a,b\n";
    Rng r = rng(1, RNG_INIT, 0);
    for (int i = 0; i < 40; i++) snprintf(text + strlen(text), 64, "2026-%02d-%02d,%d,%d\n", 1 + i / 28, 1 + i % 28, i * 7 % 5, i * 3 % 11);
    const char *error = series_parse(&data.series, text, strlen(text));
    if (!error) error = series_prepare(&data.series, "", 4, 4, &r);
    CHECK(!error, "%s", error);
    task = &tasks[3], token.C = data.series.dims, token.E = series_covariate_count(&data.series), token.window = opt.tokens;
}
static void test_allocations(void) {
    enum { B = 2, T = 20, S = 4, C = 4 };
    counting = true;
    long start = allocations, second = 0;
    void *volatile one = NEW(int, 1);                               // volatile: or a compiler leaves out both
    free(one);
    CHECK(allocations == start + 1, "%ld allocations are counted for one", allocations - start);
    counting = false;
    check_training("rnn", "independent", false, open_cross);
    check_training("rnn", "teacher", false, open_maze);
    check_training("transformer", "independent", false, open_maze);
    check_training("transformer", "teacher", true, open_video);
    check_training("rnn", "full", false, open_series);
    check_training("transformer", "independent", true, open_series);

    Schedule s = schedule_create(SCHEDULE_SIGMOID, LEVELS);
    const Scaling scaling = {.obs = 2, .std = {1, 1}};
    const double target[2*B] = {1, 2, 3, 4};
    const Goal goal = {.scaling = &scaling, .goal = target, .frames = 2, .weight = 1, .last_counts = true};
    const Guide guide = {.scale = 1, .futures = 1, .strength = guided, .gradient = goal_gradient, .goal = &goal}, futures = {.scale = 1, .futures = 3, .strength = guided, .gradient = goal_gradient, .goal = &goal};
    for (int kind = 0; kind < 6; kind++) {                          // rnn, causal, not causal; with guidance
        bool on = kind >= 3;
        Net n = make_net(kind % 3 == 0 ? rnn(C, 2, 2, 0) : transformer(C, kind % 3 == 1, 1, 2), B, 40);
        Sampling how = plainly(PRED_V, PYRAMID, S, 1, 1);
        int from[T], to[T], given = 6, rows_done = 0;
        how.shown = 3, how.true_noise = true;
        if (on) how.guide = kind == 3 ? &futures : &guide;
        Sampler p = sampler_create(&n, &s, how, B, T, 5);
        p.given = given;
        if (kind % 3 == 0) sampler_start(&p, NULL);
        counting = true;
        for (int at = given; at < T; at += 2) {
            int hi = at + 2, lo = hi > p.window ? hi - p.window : 0, rows = matrix_rows(PYRAMID, 2, S, 1);
            if (on && kind == 3) lo = 0;
            for (int m = 0; m < rows - 1; m++) {
                for (int t = lo; t < hi; t++) from[t - lo] = t < at ? 0 : matrix_entry(PYRAMID, m, t - at, 2, S, 1), to[t - lo] = t < at ? 0 : matrix_entry(PYRAMID, m + 1, t - at, 2, S, 1);
                sample_row(&p, lo, hi, from, to);
                if (++rows_done == 2) second = allocations;
            }
        }
        CHECK(allocations == second && rows_done == 35, "sampler %d: %ld allocations after row 2, %ld after row %d", kind, second, allocations, rows_done);
        counting = false;
        sampler_free(&p), net_free(&n);
    }
    schedule_free(&s);
    tape.off = false;
}
#endif

int main(void) {
#ifdef _OPENMP
    omp_set_num_threads(1);                              // many small passes: threads would wait for each other most of the time
#endif
    test_levels(), test_clean(), test_weights(), test_draws(), test_matrices();
    test_ordinary();
    test_influence();
    if (MANY_PASSES) test_asking();
    test_autoregressive();
    test_loss();
    if (REAL_IS_DOUBLE) test_gradients();
    test_guided(), test_guidance(), test_plan_counts();
    test_elbo();
    if (MANY_PASSES) test_statistics();
#ifdef COUNTS_ALLOCATIONS
    test_allocations();
#endif
    return finish(REAL_IS_DOUBLE ? "test_df (double)" : "test_df (float, fast kernels)");
}
