// motion.h: small grey videos of one sprite whose class is the way it moves, and measures of the videos that a model makes up for a class.
// The sprite, its frames and what is known about single frames are those of video.h. Its middle moves in a square room: the frame without a border of one radius.
//   STRAIGHT  constant velocity, reflected by the borders: video_step()
//   FALL      constant acceleration downwards, the same in every video; floor and walls reflect and take no energy, the ceiling is not reached
//   CIRCLE    turns about the middle of the frame with constant angular speed, in either sense
//   SWING     harmonic motion along a line through the middle of the frame
//   STILL     stays where it is
//   motion_video()   the generator
//   motion_score()   the measures of a video
// A law is a closed form of time, motion_at(), with up to four numbers; so a video can be asked which numbers fit it best, under every law, and nothing must
// be trained to tell the classes apart.
#pragma once
#include "video.h"

enum { STRAIGHT, FALL, CIRCLE, SWING, STILL, MOTIONS };
static const char *const motion_name[MOTIONS] = {"straight", "fall", "circle", "swing", "still"};

// ---- the generator ------------------------------------------------------------------------------------------------------------

// What of it a kind uses, and the range: position q at time 0, in the room (STRAIGHT, FALL: x only, STILL); velocity v (STRAIGHT: of length speed_min to
// speed_max, FALL: x only, at most speed_max to either side); frames `period` between two bounces and `phase` since the last one, at time 0 (FALL: tops are
// half the room to the whole room above the floor); angle `turn` a frame, 1/16 to 1/8 of a full one, negative for CIRCLE the other way round, `phase` at time
// 0, and `extent` a quarter to half of the room (CIRCLE, SWING); `angle` of the line (SWING).
typedef struct Motion { int kind; double q[2], v[2], period, phase, turn, extent, angle; } Motion;

static const double full_turn = 6.283185307179586477;
static double room(VideoConfig c) { return c.size - 2*c.radius; }
static double gravity(VideoConfig c) { return room(c) / 22; }                                      // pixels a frame and frame
static double bounce_period(VideoConfig c, double height) { return sqrt(8 * height / gravity(c)); }

static void motion_check(VideoConfig c, int kind, int T, int least) {
    video_check(c);
    if (kind < 0 || kind >= MOTIONS) die("there is no kind of motion %d (0 to %d)", kind, MOTIONS - 1);
    if (T < least) die("a video of %d frames is too short for its motion (%d is the least)", T, least);
    if (c.sprites != 1) die("kinds of motion are those of one sprite, not of %d", c.sprites);
    if (!(room(c) >= 6)) die("a sprite of radius %g has no room to move in a frame of %d pixels (its middle needs 6 pixels)", c.radius, c.size);
    if (!(c.speed_min >= 0.1 && c.speed_max <= room(c) / 4)) die("speeds from %g to %g: motion needs 0.1 to %g pixels a frame", c.speed_min, c.speed_max, room(c) / 4);
}

// to and fro in [0, width]: a motion on a circle of twice its length, folded
static double fold(double x, double width) { x = fmod(x, 2*width); return width - fabs(width - (x < 0 ? x + 2*width : x)); }

// position q at time t, which may be negative and between frames
static void motion_at(const Motion *m, VideoConfig c, double t, double q[2]) {
    double low = c.radius, middle = 0.5 * c.size, wave = m->phase + m->turn * t, s;
    switch (m->kind) {
    case STRAIGHT: for (int i = 0; i < 2; i++) q[i] = low + fold(m->q[i] + m->v[i]*t - low, room(c)); break;
    case FALL:     s = fmod(m->phase + t, m->period), s += s < 0 ? m->period : 0;                  // since the last bounce
                   q[0] = low + fold(m->q[0] + m->v[0]*t - low, room(c)), q[1] = c.size - c.radius - gravity(c)/2 * s * (m->period - s); break;
    case CIRCLE:   q[0] = middle + m->extent * cos(wave), q[1] = middle + m->extent * sin(wave); break;
    case SWING:    q[0] = middle + m->extent * cos(wave) * cos(m->angle), q[1] = middle + m->extent * cos(wave) * sin(m->angle); break;
    default:       q[0] = m->q[0], q[1] = m->q[1];
    }
}

// all numbers of a kind, in its ranges
static Motion motion_random(int kind, VideoConfig c, Rng *r) {
    Motion m = {.kind = kind};
    for (int i = 0; i < 2; i++) m.q[i] = c.radius + room(c) * uniform(r);
    double speed = c.speed_min + (c.speed_max - c.speed_min) * uniform(r), angle = full_turn * uniform(r);
    m.v[0] = kind == FALL ? c.speed_max * (2*uniform(r) - 1) : speed * cos(angle), m.v[1] = speed * sin(angle);
    m.period = bounce_period(c, room(c) * (1 + uniform(r)) / 2), m.phase = (kind == FALL ? m.period : full_turn) * uniform(r);
    m.turn = full_turn / 16 * (1 + uniform(r)), m.extent = room(c) / 4 * (1 + uniform(r)), m.angle = angle / 2;
    if (kind == CIRCLE && below(r, 2)) m.turn = -m.turn;
    return m;
}

// frames (T,size,size), truth (T): where the sprite is, and as velocity its way to the next frame; both overwritten
static void motion_video(real *frames, Sprite *truth, int kind, VideoConfig c, int T, Rng *r) {
    motion_check(c, kind, T, 1);
    Motion m = motion_random(kind, c, r);
    int shape = below(r, SHAPES);
    for (int t = 0; t < T; t++) {
        double next[2];
        truth[t].shape = shape, motion_at(&m, c, t, truth[t].q), motion_at(&m, c, t + 1, next);
        for (int i = 0; i < 2; i++) truth[t].v[i] = next[i] - truth[t].q[i];
        video_render(c, &truth[t], frames + (size_t)t * (size_t)(c.size * c.size));
    }
}

// ---- the law that fits positions best -----------------------------------------------------------------------------------------

enum { WINDOW = 8 };                                    // frames
typedef struct Track { VideoConfig c; int n; const double (*p)[2]; } Track;        // positions p (n,2), time 0 in their middle
static double track_time(const Track *w, int t) { return t - (w->n - 1) / 2.0; }

// The best straight motion in one axis. To and fro is a straight line for which a position x stands for -x, too, and for both a double room further on: every
// line of a grid says for which place each position stands, and then the best line is known in closed form; its slope, in pixels a frame, is cut at speed_max.
static void fit_axis(const Track *w, Motion *m, int axis) {
    VideoConfig c = w->c;
    double best = INFINITY, width = room(c), steps = ceil(8 * c.speed_max), squares = w->n * (w->n*w->n - 1.0) / 12;    // of the times
    for (double x = 0; x <= width; x += 0.5)
        for (double k = -steps; k <= steps; k++) {
            double sum = 0, product = 0, square = 0;
            for (int t = 0; t < w->n; t++) {
                double line = x + c.speed_max * k/steps * track_time(w, t), at = w->p[t][axis] - c.radius;
                double one = at + 2*width * rint((line - at) / (2*width)), other = -at + 2*width * rint((line + at) / (2*width));
                at = fabs(line - one) < fabs(line - other) ? one : other;
                sum += at, product += at * track_time(w, t), square += at * at;
            }
            double slope = fmin(fmax(product / squares, -c.speed_max), c.speed_max), d = square - sum*sum/w->n - slope * (2*product - slope*squares);
            if (d < best) best = d, m->q[axis] = c.radius + sum/w->n, m->v[axis] = slope;
        }
}

// What follows from `turn` or `phase` in closed form, cut at its range. FALL: where the bounce nearest to time 0 is known, s frames away from it the height is
// g/2 s (period - s), which is linear in the period; as no period is shorter than a window, there is no other bounce. CIRCLE: the mean of the positions, turned
// back. SWING: each axis is the sum of a cosine and a sine, which are orthogonal as time is symmetric; scaled to length 1 they make the best line the main axis
// of four numbers (a matrix of rank 1).
static void fit_rest(const Track *w, Motion *m) {
    VideoConfig c = w->c;
    double a[2] = {0}, b[2] = {0}, aa = 0, bb = 0, middle = 0.5 * c.size;         // a, b: products of both axes with cosine and sine; FALL: of the height with s
    for (int t = 0; t < w->n; t++) {
        double time = track_time(w, t), s = fabs(m->phase + time), co = cos(m->turn * time), si = sin(m->turn * time);
        if (m->kind == FALL) { a[1] += s * ((c.size - c.radius - w->p[t][1]) / (gravity(c)/2) + s*s), aa += s*s; continue; }
        for (int i = 0; i < 2; i++) a[i] += (w->p[t][i] - middle) * co, b[i] += (w->p[t][i] - middle) * si;
        aa += co*co, bb += si*si;
    }
    if (m->kind == FALL) { m->period = fmin(fmax(a[1] / aa, bounce_period(c, room(c)/2)), bounce_period(c, room(c))); return; }
    double x = (a[0] + b[1]) / w->n, y = (a[1] - b[0]) / w->n;
    if (m->kind == SWING) {
        m->angle = atan2(2 * (a[0]*a[1]/aa + b[0]*b[1]/bb), (a[0]*a[0] - a[1]*a[1])/aa + (b[0]*b[0] - b[1]*b[1])/bb) / 2;
        x = (a[0] * cos(m->angle) + a[1] * sin(m->angle)) / aa, y = -(b[0] * cos(m->angle) + b[1] * sin(m->angle)) / bb;
    }
    m->phase = atan2(y, x), m->extent = fmin(fmax(hypot(x, y), room(c)/4), room(c)/2);
}

// sum of squared distances of the positions from the law
static double misfit(const Track *w, const Motion *m) {
    double sum = 0, q[2];
    for (int t = 0; t < w->n; t++) motion_at(m, w->c, track_time(w, t), q), sum += (w->p[t][0] - q[0])*(w->p[t][0] - q[0]) + (w->p[t][1] - q[1])*(w->p[t][1] - q[1]);
    return sum;
}

// Completes m, and keeps it in *best if it is better than what is there
static bool improves(const Track *w, Motion *m, Motion *best, double *least) {
    fit_rest(w, m);
    double d = misfit(w, m);
    if (!(d < *least)) return false;
    *least = d, *best = *m;
    return true;
}
// The best of a grid of `phase` (FALL) or `turn`, on one side of 0 and then on the other; then between its points, with steps that are halved when none helps.
static Motion fit_wave(const Track *w, int kind) {
    double low = kind == FALL ? 0 : full_turn/16, high = kind == FALL ? bounce_period(w->c, room(w->c)) / 2 : full_turn/8, least[2] = {INFINITY, INFINITY};
    Motion best[2];
    for (int side = 0; side < 2; side++) {
        Motion m = {.kind = kind};
        double step = (high - low) / 53, *x = kind == FALL ? &m.phase : &m.turn, *at = kind == FALL ? &best[side].phase : &best[side].turn;
        for (int i = 0; i <= 53; i++) *x = side ? -low - i*step : low + i*step, improves(w, &m, &best[side], &least[side]);
        for (step /= 2; step > 1e-7; )
            if (!(*x = fmax(*at - step, side ? -high : low), improves(w, &m, &best[side], &least[side]))
                && !(*x = fmin(*at + step, side ? -low : high), improves(w, &m, &best[side], &least[side]))) step /= 2;
    }
    return best[least[1] < least[0]];
}

// The numbers of a kind with the least squared distance from the positions, which must be finite, within the ranges of the kind: what lies outside is cut, which
// for the speed of STRAIGHT is almost the best. q may leave the room: motion_at() folds it.
static Motion motion_fit(const Track *w, int kind) {
    VideoConfig c = w->c;
    Motion m = {.kind = kind};
    if (kind == FALL || kind == CIRCLE || kind == SWING) m = fit_wave(w, kind);
    if (kind == STRAIGHT || kind == FALL) fit_axis(w, &m, 0);
    if (kind == STILL) for (int t = 0; t < w->n; t++) for (int i = 0; i < 2; i++) m.q[i] += w->p[t][i] / w->n;
    if (kind != STRAIGHT) return m;
    fit_axis(w, &m, 1);
    double speed = hypot(m.v[0], m.v[1]), allowed = fmin(fmax(speed, c.speed_min), c.speed_max);
    for (int i = 0; i < 2; i++) m.v[i] = speed > 0 ? m.v[i] * (allowed / speed) : i ? 0 : allowed;
    return m;
}

// ---- measures -----------------------------------------------------------------------------------------------------------------

typedef struct MotionScore {
    double error;                                       // mean frame_error(): how far is a frame from the nearest one that could have been drawn
    double position_error;                              // law[kind]
    double velocity;                                    // mean |change of speed from frame to frame - the law's change of speed| over the law's mean speed
    double objects;                                     // mean of count_objects()
    double law[MOTIONS];                                // mean distance in pixels of the positions found from the law of every kind
    int shape, guessed;                                 // the shape that fits the first frames best; the kind of the least law, -1: none
} MotionScore;

// Scores frames (T,size,size), 4 or more, as a video of this kind. A law is fitted anew to every 8 frames, in windows that overlap by half (a shorter video is
// one window; the last window ends with the video): so a bounce is like any other moment, one bad frame spoils two windows, and a small error that adds up is
// a small error. How well the windows agree with each other is not judged. The law's change of speed is 0 for CIRCLE and STILL, and for STRAIGHT but where it
// bounces; its mean speed counts as speed_min at least, for the sake of STILL. A frame that is nowhere (see frame_error()) makes error, position_error,
// velocity and law INFINITY, and guessed -1; objects is always finite, and 0 for a frame of NaN.
static MotionScore motion_score(const VideoSearch *s, const real *frames, int T, int kind) {
    VideoConfig c = s->config;
    motion_check(c, kind, T, 4);
    size_t pixels = (size_t)(c.size * c.size);
    MotionScore score = {.guessed = -1, .velocity = INFINITY, .position_error = INFINITY};
    double (*p)[2] = (void *)NEW(double, 2*T), least = INFINITY;
    for (int shape = 0; shape < SHAPES; shape++) {      // pass 1: the shape. A frame that is nowhere is so in every shape
        double sum = 0;
        for (int t = 0; t < T && t < WINDOW; t++) {
            double e = frame_error(s, frames + (size_t)t * pixels, &(Sprite){.shape = shape});
            sum += e < INFINITY ? e : 0;
        }
        if (sum < least) least = sum, score.shape = shape;
    }
    for (int t = 0; t < T; t++) {                       // pass 2: where is it?
        Sprite found = {.shape = score.shape};
        score.error += frame_error(s, frames + (size_t)t * pixels, &found), score.objects += count_objects(frames + (size_t)t * pixels, c.size);
        p[t][0] = found.q[0], p[t][1] = found.q[1];
    }
    score.error /= T, score.objects /= T;
    bool everywhere = score.error < INFINITY;
    for (int k = 0; k < MOTIONS; k++) score.law[k] = everywhere ? 0 : INFINITY;

    int n = T < WINDOW ? T : WINDOW, windows = 0;       // pass 3: every law in every window
    double change = 0, speed = 0;
    for (int first = 0; everywhere; first = first + n/2 < T - n ? first + n/2 : T - n) {
        Track w = {c, n, (const double (*)[2])(p + first)};
        for (int k = 0; k < MOTIONS; k++) {
            Motion m = motion_fit(&w, k);
            double q[WINDOW][2], last[2] = {0};
            for (int t = 0; t < n; t++) {
                motion_at(&m, c, track_time(&w, t), q[t]), score.law[k] += hypot(w.p[t][0] - q[t][0], w.p[t][1] - q[t][1]) / n;
                if (k != kind || !t) continue;
                double now[2] = {hypot(w.p[t][0] - w.p[t - 1][0], w.p[t][1] - w.p[t - 1][1]), hypot(q[t][0] - q[t - 1][0], q[t][1] - q[t - 1][1])};
                if (t > 1) change += fabs((now[0] - last[0]) - (now[1] - last[1])) / (n - 2);
                speed += now[1] / (n - 1), last[0] = now[0], last[1] = now[1];
            }
        }
        windows++;
        if (first + n == T) break;
    }
    if (everywhere) {
        for (int k = 0; k < MOTIONS; k++) {
            score.law[k] /= windows;
            if (score.guessed < 0 || score.law[k] < score.law[score.guessed]) score.guessed = k;
        }
        score.position_error = score.law[kind], score.velocity = change / fmax(speed, windows * c.speed_min);
    }
    free(p);
    return score;
}
