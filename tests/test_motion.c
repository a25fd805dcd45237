// test_motion.c: data/motion.h: the laws against simulations and recurrences, their fits, and the scores of true, wrong and broken videos.
#define TESTING
#include "../common.h"
#include "../data/motion.h"
#include "check.h"
#include <sys/wait.h>

static const VideoConfig small = {.size = 16, .sprites = 1, .radius = 2.5, .speed_min = 0.5, .speed_max = 1.5};
static const VideoConfig configs[] = {{16, 1, 2.5, 0.5, 1.5}, {32, 1, 3.5, 0.2, 4}, {12, 1, 2.5, 0.3, 1}, {16, 1, 4, 1, 1}};

// does this end the program with status 1 and a message?
#define DIES(statement) do { int status_; fflush(stdout); pid_t child_ = fork(); \
    if (!child_) { if (!freopen("/dev/null", "w", stderr)) _exit(2); statement; _exit(0); } \
    CHECK(waitpid(child_, &status_, 0) == child_ && WIFEXITED(status_) && WEXITSTATUS(status_) == 1, "%s", #statement); } while (0)

// ---- laws ---------------------------------------------------------------------------------------------------------------------

static double away(const double a[2], const double b[2]) { return hypot(a[0] - b[0], a[1] - b[1]); }

static void check_straight(const Motion *m, VideoConfig c) {
    Sprite s = {.q = {m->q[0], m->q[1]}, .v = {m->v[0], m->v[1]}};
    double speed = hypot(m->v[0], m->v[1]), q[2];
    CHECK(speed >= c.speed_min - 1e-12 && speed <= c.speed_max + 1e-12, "speed %g", speed);
    for (int t = 0; t < 64; t++, video_step(c, &s)) { motion_at(m, c, t, q); CHECK_CLOSE("as video_step()", away(q, s.q), 0, 1e-10); }
}

// from bounce to bounce with position and velocity, which the closed form does not have; and the energy, which nothing changes
static void check_fall(const Motion *m, VideoConfig c) {
    double g = (c.size - 2*c.radius) / 22, floor_ = c.size - c.radius, half = m->period / 2, height = g/2 * m->phase * (m->period - m->phase), up = g * (half - m->phase);
    double energy = g * height + up*up/2, top = energy / g, q[2], x[3], y[3];
    int bounces = 0;
    Sprite s = {.q = {m->q[0], c.size / 2.0}, .v = {m->v[0], 0}};
    CHECK_CLOSE("acceleration", gravity(c), g, 1e-12);
    CHECK(top >= (c.size - 2*c.radius) / 2 - 1e-9 && top <= c.size - 2*c.radius + 1e-9, "height %g", top);
    CHECK(fabs(m->v[0]) <= c.speed_max, "speed %g", m->v[0]);
    for (int t = 0; t < 64; t++, video_step(c, &s)) {
        motion_at(m, c, t, q);
        CHECK_CLOSE("height", floor_ - q[1], height, 1e-9);
        CHECK_CLOSE("sideways", q[0], s.q[0], 1e-9);
        CHECK_CLOSE("energy", g * height + up*up/2, energy, 1e-9);
        double left = 1, until = (up + sqrt(up*up + 2*g*height)) / g;     // the floor is there
        if (until < left) left -= until, height = 0, up = sqrt(2*energy), bounces++;
        height += up*left - g/2 * left*left, up -= g * left;
    }
    CHECK(abs(bounces - (int)(64 / m->period)) <= 1, "%d bounces of period %g", bounces, m->period);
    for (int t = 0; t < 60; t++) {                      // free flight: the second difference is g; in a bounce it is less
        for (int i = 0; i < 3; i++) motion_at(m, c, t + i, q), x[i] = q[0], y[i] = q[1];
        double s0 = fmod(m->phase + t, m->period);
        if (s0 + 2 < m->period) CHECK_CLOSE("second difference", y[2] - 2*y[1] + y[0], g, 1e-9);
        else CHECK(y[2] - 2*y[1] + y[0] < g + 1e-9, "%g", y[2] - 2*y[1] + y[0]);
        CHECK(fabs(x[1] - x[0]) <= fabs(m->v[0]) + 1e-9, "%g", x[1] - x[0]);
    }
}

static void check_circle(const Motion *m, VideoConfig c) {
    double last[2], q[2], middle[2] = {c.size / 2.0, c.size / 2.0};
    motion_at(m, c, full_turn / m->turn, last), motion_at(m, c, 0, q);
    CHECK_CLOSE("after a full turn", away(q, last), 0, 1e-9);
    for (int t = 0; t < 64; t++, memcpy(last, q, sizeof q)) {
        motion_at(m, c, t, q);
        CHECK_CLOSE("distance from the middle", away(q, middle), m->extent, 1e-9);
        if (!t) continue;
        double x = last[0] - 8, y = last[1] - 8, u = q[0] - 8, v = q[1] - 8, shift = 8 - middle[0];
        x += shift, y += shift, u += shift, v += shift;
        CHECK_CLOSE("angle", atan2(x*v - y*u, x*u + y*v), m->turn, 1e-9);
        CHECK_CLOSE("chord", away(q, last), 2 * m->extent * sin(fabs(m->turn) / 2), 1e-9);
    }
}

static void check_swing(const Motion *m, VideoConfig c) {
    double far = 0, middle = c.size / 2.0;
    for (int t = 1; t < 64; t++) {
        double q[3][2], period[2];
        for (int i = 0; i < 3; i++) { motion_at(m, c, t - 1 + i, q[i]); q[i][0] -= middle, q[i][1] -= middle; }
        motion_at(m, c, t + full_turn / m->turn, period), period[0] -= middle, period[1] -= middle;
        CHECK_CLOSE("period", away(period, q[1]), 0, 1e-9);
        CHECK_CLOSE("line through the middle", q[1][0] * sin(m->angle) - q[1][1] * cos(m->angle), 0, 1e-9);
        for (int i = 0; i < 2; i++) CHECK_CLOSE("the force goes with the distance", q[2][i] - 2*q[1][i] + q[0][i], -2*(1 - cos(m->turn)) * q[1][i], 1e-9);
        far = fmax(far, hypot(q[1][0], q[1][1]));
    }
    CHECK(far <= m->extent + 1e-9 && far >= 0.9 * m->extent, "%g of %g", far, m->extent);
}

static void test_laws(void) {
    int left = 0, circles = 0;
    for (int i = 0; i < 600; i++) {
        VideoConfig c = configs[i % 4];
        int kind = i / 4 % MOTIONS;
        Rng r = rng(1, RNG_DATA, (uint64_t)i);
        Motion m = motion_random(kind, c, &r);
        double q[2], near[2], half = c.size / 2.0 - c.radius, fastest = 0, outmost = 0;
        for (double t = -20; t < 64; t += 0.1) {        // in the room, and without jumps, at any time
            motion_at(&m, c, t, q), motion_at(&m, c, t + 1e-3, near), fastest = fmax(fastest, away(q, near) / 1e-3);
            for (int k = 0; k < 2; k++) outmost = fmax(outmost, fabs(q[k] - c.size / 2.0));
        }
        CHECK(outmost <= half + 1e-9, "%s: %g from the middle", motion_name[kind], outmost);
        double swiftest[MOTIONS] = {c.speed_max, hypot(c.speed_max, gravity(c) * m.period / 2), m.extent * fabs(m.turn), m.extent * m.turn, 0};
        CHECK(fastest <= swiftest[kind] + 1e-6 && (kind == FALL || fastest >= 0.99 * swiftest[kind] * (kind == STRAIGHT ? c.speed_min / c.speed_max : 1)), "%s: %g", motion_name[kind], fastest);
        if (kind == STRAIGHT) check_straight(&m, c);
        if (kind == FALL) check_fall(&m, c);
        if (kind == CIRCLE) check_circle(&m, c), circles++, left += m.turn < 0;
        if (kind == SWING) check_swing(&m, c);
        if (kind == STILL) motion_at(&m, c, 0, q), motion_at(&m, c, 63, near), CHECK(away(q, near) == 0, "moves");
        if (kind == CIRCLE || kind == SWING)
            CHECK(fabs(m.turn) >= full_turn/16 && fabs(m.turn) <= full_turn/8 && m.extent >= half/2 && m.extent <= half, "turn %g, extent %g", m.turn, m.extent);
    }
    CHECK_CLOSE("share of circles in one sense", (double)left / circles, 0.5, 0.2);
    CHECK_CLOSE("to and fro", fold(-0.5, 2) + 10 * fold(2.5, 2) + 100 * fold(-7, 2) + 1000 * fold(9, 2), 0.5 + 15 + 100 + 1000, 1e-9);
}

static void test_videos(void) {
    real frames[20 * 256], again[20 * 256], drawn[256];
    Sprite truth[20], same[20];
    int shapes[SHAPES] = {0};
    for (int i = 0; i < 200; i++) {
        Rng r = rng(2, RNG_DATA, (uint64_t)i), r2 = r, r3 = r;
        motion_video(frames, truth, i % MOTIONS, small, 20, &r), motion_video(again, same, i % MOTIONS, small, 20, &r2);
        CHECK(!memcmp(frames, again, sizeof frames), "the same seed, another video");
        Motion m = motion_random(i % MOTIONS, small, &r3);
        for (int t = 0; t < 20; t++) {
            double q[2];
            motion_at(&m, small, t, q), video_render(small, &truth[t], drawn);
            CHECK(away(q, truth[t].q) == 0 && truth[t].shape == truth[0].shape, "truth at %d", t);
            CHECK(!memcmp(drawn, frames + 256*t, sizeof drawn), "frame %d is not that of its truth", t);
            if (t) for (int k = 0; k < 2; k++) CHECK_CLOSE("way", truth[t - 1].q[k] + truth[t - 1].v[k], truth[t].q[k], 1e-12);
        }
        shapes[truth[0].shape]++;
    }
    for (int i = 0; i < SHAPES; i++) CHECK(shapes[i] > 40, "%d of shape %d", shapes[i], i);

    Rng r = rng(2, RNG_DATA, 0);
    static const VideoConfig wrong[] = {{16, 2, 2.5, 0.5, 1.5}, {16, 1, 2.5, 0, 1.5}, {16, 1, 2.5, 0.5, 3}, {16, 1, 5.5, 0.5, 1}, {10, 1, 2.5, 0.5, 1}, {16, 1, NAN, 0.5, 1}, {16, 1, 2.5, NAN, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) DIES(motion_video(frames, truth, STRAIGHT, wrong[i], 8, &r));
    DIES(motion_video(frames, truth, -1, small, 8, &r));
    DIES(motion_video(frames, truth, MOTIONS, small, 8, &r));
    DIES(motion_video(frames, truth, STILL, small, 0, &r));
}

// ---- fits ---------------------------------------------------------------------------------------------------------------------

static void test_fits(void) {
    int wrong[2] = {0}, n_wrong = 0;
    for (int i = 0; i < 4000; i++) {
        VideoConfig c = configs[i % 4];
        int kind = i / 4 % MOTIONS, n = 4 + i / 20 % 5;
        Rng r = rng(3, RNG_DATA, (uint64_t)i);
        Motion m = motion_random(kind, c, &r);
        double p[WINDOW][2], first = below(&r, 50), size = 0.2 * uniform(&r), sum = 0;
        Track w = {c, n, (const double (*)[2])p};
        for (int t = 0; t < n; t++) motion_at(&m, c, first + t, p[t]);
        Motion fit = motion_fit(&w, kind);
        CHECK_CLOSE(motion_name[kind], sqrt(misfit(&w, &fit) / n), 0, 1e-5);

        for (int t = 0; t < n; t++)                     // with noise the best fit is as near as the truth (at the edge of the speeds, almost)
            for (int k = 0; k < 2; k++) { double was = p[t][k]; p[t][k] = fmin(fmax(was + size * normal(&r), c.radius), c.size - c.radius), sum += (p[t][k] - was) * (p[t][k] - was); }
        double least = INFINITY;
        int guessed = -1;
        for (int k = 0; k < MOTIONS; k++) {
            Motion other = motion_fit(&w, k);
            double d = misfit(&w, &other), speed = hypot(other.v[0], other.v[1]), half = c.size / 2.0 - c.radius;
            if (k == kind) CHECK(d <= sum * (k == STRAIGHT ? 1.1 : 1 + 1e-6) + 1e-6, "%s of %d frames: %g, of the truth %g", motion_name[kind], n, sqrt(d/n), sqrt(sum/n));
            if (d < least) least = d, guessed = k;
            // and within the ranges of its kind
            if (k == STRAIGHT) CHECK(speed >= c.speed_min - 1e-9 && speed <= c.speed_max + 1e-9, "speed %g", speed);
            if (k == FALL) CHECK(fabs(other.v[0]) <= c.speed_max && gravity(c) * other.period*other.period/8 <= 2*half + 1e-9 && gravity(c) * other.period*other.period/8 >= half - 1e-9, "period %g", other.period);
            if (k == CIRCLE || k == SWING) CHECK(other.extent >= half/2 && other.extent <= half && fabs(other.turn) <= full_turn/8 + 1e-9 && fabs(other.turn) >= full_turn/16 - 1e-9, "extent %g, turn %g", other.extent, other.turn);
        }
        if (n == WINDOW && i % 4 == 0) n_wrong++, wrong[size > 0.1] += guessed != kind;
    }
    CHECK(n_wrong > 150 && wrong[0] == 0 && wrong[1] <= n_wrong / 100, "%d and %d of %d guesses wrong", wrong[0], wrong[1], n_wrong);
}

// ---- scores -------------------------------------------------------------------------------------------------------------------

static void render(real *frames, int shape, int T, const double (*p)[2]) {
    for (int t = 0; t < T; t++) video_render(small, &(Sprite){.q = {p[t][0], p[t][1]}, .shape = shape}, frames + 256*t);
}

static void test_true_videos(const VideoSearch *s) {
    static real frames[64 * 256];
    Sprite truth[64];
    static const int lengths[] = {4, 8, 9, 16, 64}, videos[] = {20, 300, 20, 300, 10};
    for (int i = 0; i < 5; i++) {
        int T = lengths[i], seen[MOTIONS][MOTIONS] = {{0}}, wrong = 0;
        for (int v = 0; v < videos[i]; v++) {
            int kind = v % MOTIONS;
            Rng r = rng(4, RNG_DATA, (uint64_t)(1000*i + v));
            motion_video(frames, truth, kind, small, T, &r);
            MotionScore score = motion_score(s, frames, T, kind);
            CHECK_CLOSE("error", score.error, 0, 1e-4);
            CHECK_CLOSE("position", score.position_error, 0, 1e-3);
            CHECK_CLOSE("velocity", score.velocity, 0, 2e-3);
            CHECK(score.objects == 1 && score.shape == truth[0].shape, "%g objects, shape %d not %d, %s, %d frames, video %d, error %g", score.objects, score.shape, truth[0].shape, motion_name[kind], T, v, score.error);
            CHECK(score.position_error == score.law[kind], "law");
            seen[kind][score.guessed]++, wrong += score.guessed != kind;
        }
        bool good = CHECK(wrong <= videos[i] / 100, "%d of %d videos of %d frames are taken for others", wrong, videos[i], T);
        for (int k = 0; k < MOTIONS && !good; k++) for (int g = 0; g < MOTIONS; g++) fprintf(stderr, "%s%6d%s", g ? "" : motion_name[k], seen[k][g], g == MOTIONS - 1 ? "\n" : "");
    }
}

// positions for which the scores are known
static void test_known_scores(const VideoSearch *s) {
    static real frames[16 * 256];
    double p[16][2], q[16][2];
    for (int t = 0; t < 8; t++) p[t][0] = 5 + 0.75*t, p[t][1] = 8;     // slides where it should stand: mean |t - 3.5| = 2
    render(frames, DISC, 8, p);
    MotionScore score = motion_score(s, frames, 8, STILL);
    CHECK(score.guessed == STRAIGHT, "guessed %d", score.guessed);
    CHECK_CLOSE("a video that slides, as still", score.position_error, 1.5, 1e-3);
    CHECK_CLOSE("its speed does not change", score.velocity, 0, 1e-3);
    for (int t = 0; t < 8; t++) p[t][0] = 9, p[t][1] = 7;              // stands where it should slide, at half a pixel a frame at least
    render(frames, RING, 8, p), score = motion_score(s, frames, 8, STRAIGHT);
    CHECK(score.guessed == STILL && score.shape == RING, "guessed %d", score.guessed);
    CHECK_CLOSE("a video that stands, as straight", score.position_error, 0.5 * 2, 1e-3);

    // short and long steps in turn, far from the borders: by the formula of the best line
    double slope = 0, off = 0;
    for (int t = 0; t < 8; t++) p[t][0] = 4.5 + 0.75*t + (t % 2 ? 0.2 : 0), p[t][1] = 8, slope += (p[t][0] - 4.5) * (t - 3.5) / 42;
    for (int t = 0; t < 8; t++) off += fabs(p[t][0] - (4.5 + 0.75*3.5 + 0.1) - slope * (t - 3.5)) / 8;
    render(frames, SQUARE, 8, p), score = motion_score(s, frames, 8, STRAIGHT);
    CHECK_CLOSE("stumbling: positions", score.position_error, off, 1e-3);
    CHECK_CLOSE("stumbling: speeds", score.velocity, (0.95 - 0.55) / slope, 3e-3);

    // a circle that limps: every other frame a tenth of a radian ahead. The fitted circle halves the way; chords differ by 2 R (sin - sin)
    for (int t = 0; t < 16; t++) { double a = 0.5*t + 0.1*(t % 2); p[t][0] = 8 + 4*cos(a), p[t][1] = 8 + 4*sin(a); }
    render(frames, DISC, 16, p), score = motion_score(s, frames, 16, CIRCLE);
    CHECK(score.guessed == CIRCLE, "guessed %d", score.guessed);
    CHECK_CLOSE("limping: positions", score.position_error, 4 * 0.05, 0.01);
    CHECK_CLOSE("limping: speeds", score.velocity, (sin(0.3) - sin(0.2)) / sin(0.25), 0.02);
    // an error that adds up slowly is a small one in every window: a circle whose turn grows from 0.5 to 0.6
    for (int t = 0; t < 16; t++) { double a = 0.5*t + 0.1*t*t/30; p[t][0] = 8 + 4*cos(a), p[t][1] = 8 + 4*sin(a); }
    render(frames, DISC, 16, p), score = motion_score(s, frames, 16, CIRCLE);
    CHECK(score.guessed == CIRCLE && score.position_error < 0.1 && score.position_error > 0.01, "%d, %g", score.guessed, score.position_error);

    // one frame elsewhere: with 16 frames, in windows from 0, 4 and 8, frame 1 is in one window of three, frame 5 in two
    for (int k = 0; k < 2; k++) {
        for (int t = 0; t < 16; t++) p[t][0] = 8, p[t][1] = 6, q[t][0] = t == 4*k + 1 ? 12 : 8, q[t][1] = 6;
        render(frames, DISC, 16, q), score = motion_score(s, frames, 16, STILL);     // the mean is half a pixel off: 7 half pixels and one of 3.5
        CHECK_CLOSE("one frame elsewhere", score.position_error, (k + 1) / 3.0 * (7*0.5 + 3.5) / 8, 1e-3);
        // steps 4, 4, 0, ...: one change of 4 if it is the second frame of a window, else two, each a sixth of those of its window; three windows
        CHECK_CLOSE("there and back", score.velocity, (k ? 1 + 2 : 1) * (4 / 6.0) / (3 * small.speed_min), 2e-3);
        CHECK(score.guessed == STILL, "guessed %d", score.guessed);
    }
    // the last window ends with the video: of 9 frames the last is in the second of two
    for (int t = 0; t < 9; t++) q[t][0] = t == 8 ? 12 : 8;
    render(frames, DISC, 9, q), score = motion_score(s, frames, 9, STILL);
    CHECK_CLOSE("the last frame elsewhere", score.position_error, 0.5 * (7*0.5 + 3.5) / 8, 1e-3);
    // every frame is counted: an error of a known size in one of them
    for (int t = 0; t < 9; t++) q[t][0] = 8;
    render(frames, DISC, 9, q);
    for (int i = 0; i < 256; i++) frames[8*256 + i] += i % 2 ? 0.09f : -0.09f;
    score = motion_score(s, frames, 9, STILL);
    CHECK_CLOSE("a frame with a pattern", score.error, 0.09 / 9, 2e-4);
    frames[0] = frames[255] = 1, score = motion_score(s, frames, 9, STILL);
    CHECK_CLOSE("two more objects in one frame", score.objects, 1 + 2 / 9.0, 1e-9);
}

static void test_wrong_videos(const VideoSearch *s) {
    static real frames[16 * 256], other[16 * 256], mixed[16 * 256];
    Sprite truth[16];
    double shuffled = 0, objects = 0, least_of_others = INFINITY;
    int order[16];
    for (int i = 0; i < 50; i++) {
        int kind = i % MOTIONS;
        Rng r = rng(5, RNG_DATA, (uint64_t)i);
        motion_video(frames, truth, kind, small, 16, &r);
        MotionScore score = motion_score(s, frames, 16, kind);
        for (int k = 0; k < MOTIONS; k++) if (k != kind) least_of_others = fmin(least_of_others, score.law[k]);
        MotionScore as_other = motion_score(s, frames, 16, (kind + 1) % MOTIONS);
        CHECK(as_other.position_error == score.law[(kind + 1) % MOTIONS] && as_other.guessed == kind && as_other.error == score.error, "scored as another kind");

        if (kind != STILL) {                            // frames in another order
            for (int t = 0; t < 16; t++) { int j = below(&r, t + 1); order[t] = order[j], order[j] = t; }
            for (int t = 0; t < 16; t++) memcpy(mixed + 256*t, frames + 256*order[t], 256 * sizeof *frames);
            score = motion_score(s, mixed, 16, kind), shuffled += score.position_error / 40;
            CHECK(score.error < 1e-4 && score.position_error > 0.3 && score.velocity > 0.1, "%s, shuffled: %g %g", motion_name[kind], score.position_error, score.velocity);
        }
        motion_video(other, truth, (kind + 1) % MOTIONS, small, 16, &r);        // a second sprite
        for (int p = 0; p < 16 * 256; p++) mixed[p] = frames[p] > other[p] ? frames[p] : other[p];
        score = motion_score(s, mixed, 16, kind), objects += score.objects / 50;      // 1 where they touch
        CHECK(score.error > 0.2 && score.error < 1 && score.objects >= 1 && score.objects <= 2, "two sprites: error %g, %g objects", score.error, score.objects);
        for (int t = 0; t < 16; t++) memcpy(mixed + 256*t, t % 2 ? frames + 256*t : other + 256*t, 256 * sizeof *frames);    // in turn
        score = motion_score(s, mixed, 16, kind);
        CHECK(score.position_error > 0.3 && score.position_error < 16, "two videos in turn: %g", score.position_error);
        for (int p = 0; p < 16 * 256; p++) mixed[p] = (real)normal(&r);
        score = motion_score(s, mixed, 16, kind);
        CHECK(score.error > 0.8 && score.error < 3 && score.position_error > 0.3 && score.position_error < 16 && score.velocity < 100 && score.objects > 10, "noise: %g %g %g, %g objects", score.error, score.position_error, score.velocity, score.objects);
        for (int p = 0; p < 16 * 256; p++) mixed[p] = -1;
        score = motion_score(s, mixed, 16, kind);
        CHECK(score.error > 0.2 && score.error < 1 && score.objects == 0, "black: %g, %g objects", score.error, score.objects);

        // one pixel that is no number, in any frame, or a number without bounds
        memcpy(mixed, frames, sizeof mixed), mixed[i * 4095 / 49] = i % 3 ? NAN : i % 2 ? INFINITY : -INFINITY;
        score = motion_score(s, mixed, 16, kind);
        CHECK(score.error == INFINITY && score.position_error == INFINITY && score.velocity == INFINITY && score.guessed == -1 && score.objects >= 1 && score.objects <= 2, "%g %g %g %d", score.error, score.position_error, score.velocity, score.guessed);
        for (int k = 0; k < MOTIONS; k++) CHECK(score.law[k] == INFINITY, "%g", score.law[k]);
    }
    for (int p = 0; p < 16 * 256; p++) mixed[p] = NAN;
    MotionScore score = motion_score(s, mixed, 16, FALL);
    CHECK(score.error == INFINITY && score.guessed == -1 && score.objects == 0, "%g %d %g", score.error, score.guessed, score.objects);
    CHECK(objects > 1.2, "%g of two sprites", objects);
    CHECK(shuffled > 1, "shuffled frames: %g pixels", shuffled);
    CHECK(least_of_others > 0.2, "another kind comes as near as %g", least_of_others);

    // the shape is that of the first frames even where one of them is nowhere
    Rng r = rng(6, RNG_DATA, 0);
    for (int i = 0; i < 6; i++) {
        motion_video(frames, truth, SWING, small, 16, &r);
        frames[256 * (i % 2 ? 0 : 7)] = NAN;
        CHECK(motion_score(s, frames, 16, SWING).shape == truth[0].shape, "shape");
    }
    DIES(motion_score(s, frames, 3, SWING));
    DIES(motion_score(s, frames, 16, MOTIONS));
    VideoSearch two = {.config = {16, 2, 2.5, 0.5, 1.5}};
    DIES(motion_score(&two, frames, 16, SWING));
}

int main(void) {
    VideoSearch s = video_search_create(small);
    test_laws();
    test_videos();
    test_fits();
    test_true_videos(&s);
    test_known_scores(&s);
    test_wrong_videos(&s);
    video_search_free(&s);
    return finish("test_motion");
}
