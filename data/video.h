// video.h: bouncing sprites: small grey videos to train a video model on, and measures of the frames that such a model makes up.
// One or two sprites (disc, square or ring) move with constant velocity; the borders of the frame reflect them, they do not see each other. A frame
// (size, size) is -1 in the background and +1 in a sprite. Lengths are in pixels, times in frames: row y, column x of a frame covers [y, y+1) x [x, x+1).
//   video_start(), video_step(), video_render()   the generator
//   frame_score()                                 the measures of one frame; frame_error() is the first of them: how far from any frame of the generator?
//   video_sheet()                                 rows of frames in a picture
// Everything is exact and needs no model of perception, because the generator can be asked for every frame that it could have drawn.
#pragma once
#include "../common.h"

typedef struct VideoConfig {
    int size, sprites;                                  // pixels of an edge, e.g. 16; 1 or 2
    double radius, speed_min, speed_max;                // half the width of a sprite, e.g. 2.5; pixels a frame, e.g. 0.5 to 1.5
} VideoConfig;
enum { DISC, SQUARE, RING, SHAPES, MOST_SPRITES = 2, MOST_SIZE = 32, MOST_PIXELS = MOST_SIZE * MOST_SIZE };
typedef struct Sprite { double q[2], v[2]; int shape; } Sprite;        // position (x, y) of its middle, velocity

// ---- the generator ------------------------------------------------------------------------------------------------------------

static void video_check(VideoConfig c) {
    if (c.size < 1 || c.size > MOST_SIZE || c.sprites < 1 || c.sprites > MOST_SPRITES) die("videos have frames of 1 to %d pixels and 1 to %d sprites", MOST_SIZE, MOST_SPRITES);
    if (!(c.radius >= 2.5 && c.radius < 0.5 * c.size)) die("a sprite of radius %g cannot move in a frame of %d pixels, or is too small to have a shape (2.5 is the least)", c.radius, c.size);
    if (!(0 <= c.speed_min && c.speed_min <= c.speed_max && c.speed_max > 0 && c.speed_max < INFINITY)) die("speeds from %g to %g are not possible", c.speed_min, c.speed_max);
}

// sprites (sprites), anywhere inside, in any direction; overwritten
static void video_start(VideoConfig c, Sprite *sprites, Rng *r) {
    video_check(c);
    for (Sprite *s = sprites; s < sprites + c.sprites; s++) {
        for (int i = 0; i < 2; i++) s->q[i] = c.radius + (c.size - 2*c.radius) * uniform(r);
        double angle = 2*3.14159265358979323846 * uniform(r), speed = c.speed_min + (c.speed_max - c.speed_min) * uniform(r);
        s->v[0] = speed * cos(angle), s->v[1] = speed * sin(angle), s->shape = below(r, SHAPES);
    }
}

// One frame further. Middles stay in [radius, size - radius]. Exact at any speed: to and fro in a room is motion on a circle of twice its length, folded.
static void video_step(VideoConfig c, Sprite *sprites) {
    double room = c.size - 2*c.radius;
    for (Sprite *s = sprites; s < sprites + c.sprites; s++)
        for (int i = 0; i < 2; i++) {
            double x = fmod(s->q[i] + s->v[i] - c.radius, 2*room);
            if (x < 0) x += 2*room;
            if (x > room) x = 2*room - x, s->v[i] = -s->v[i];
            s->q[i] = c.radius + x;
        }
}

// Share of a pixel that lies `depth` behind a straight edge, seen through a tent two pixels wide. Shifted copies of a tent on a grid add up to the same sum and
// the same middle wherever it stands; so a sprite between pixels neither flickers nor wobbles (a square not at all, round ones by a hundredth of a pixel).
static double ramp(double depth) { return depth <= -1 ? 0 : depth >= 1 ? 1 : depth < 0 ? (1 + depth)*(1 + depth)/2 : 1 - (1 - depth)*(1 - depth)/2; }
// share of the pixel whose middle is (dx, dy) from the middle of the sprite
static double sprite_cover(int shape, double radius, double dx, double dy) {
    if (shape == SQUARE) return ramp(radius - fabs(dx)) * ramp(radius - fabs(dy));
    double d = sqrt(dx*dx + dy*dy);
    return ramp(radius - d) - (shape == RING ? ramp(0.4*radius - d) : 0);
}

// frame (size, size), overwritten; where sprites overlap, the brighter counts
static void video_render(VideoConfig c, const Sprite *sprites, real *frame) {
    for (int i = 0; i < c.size * c.size; i++) frame[i] = -1;
    for (const Sprite *s = sprites; s < sprites + c.sprites; s++) {
        int from[2], to[2];
        for (int i = 0; i < 2; i++) from[i] = (int)fmax(s->q[i] - c.radius - 1, 0), to[i] = (int)fmin(ceil(s->q[i] + c.radius + 1), c.size);
        for (int y = from[1]; y < to[1]; y++)
            for (int x = from[0]; x < to[0]; x++) {
                real value = (real)(2 * sprite_cover(s->shape, c.radius, x + 0.5 - s->q[0], y + 0.5 - s->q[1]) - 1);
                if (value > frame[y*c.size + x]) frame[y*c.size + x] = value;
            }
    }
}

// ---- measures -----------------------------------------------------------------------------------------------------------------

// Every sprite drawn alone at every point of a grid of n x n positions, a quarter of a pixel apart: picture (SHAPES, n*n, size*size)
typedef struct VideoSearch { VideoConfig config; int n; double spacing; real *picture; } VideoSearch;

static void grid_position(const VideoSearch *s, int point, double q[2]) {
    q[0] = s->config.radius + point % s->n * s->spacing, q[1] = s->config.radius + point / s->n * s->spacing;
}
static real *grid_picture(const VideoSearch *s, int shape, int point) {
    return s->picture + ((size_t)shape * (size_t)(s->n * s->n) + (size_t)point) * (size_t)(s->config.size * s->config.size);
}

// to be freed with video_search_free()
static VideoSearch video_search_create(VideoConfig c) {
    video_check(c);
    VideoSearch s = {.config = c, .n = (int)ceil(4 * (c.size - 2*c.radius)) + 1};
    s.spacing = (c.size - 2*c.radius) / (s.n - 1), s.picture = NEW(real, SHAPES * (size_t)(s.n * s.n) * (size_t)(c.size * c.size));
    c.sprites = 1;
    for (int shape = 0; shape < SHAPES; shape++)
        for (int point = 0; point < s.n * s.n; point++) {
            Sprite sprite = {.shape = shape};
            grid_position(&s, point, sprite.q);
            video_render(c, &sprite, grid_picture(&s, shape, point));
        }
    return s;
}
static void video_search_free(VideoSearch *s) { free(s->picture); *s = (VideoSearch){0}; }

// squared distance of a frame from the brighter of two pictures, all (pixels)
static real grid_distance(const real *frame, const real *a, const real *b, int pixels) {
    real sum = 0;
    #pragma omp simd reduction(+:sum)                   // the sum may be reordered
    for (int i = 0; i < pixels; i++) {
        real d = frame[i] - (a[i] > b[i] ? a[i] : b[i]);
        sum += d*d;
    }
    return sum;
}

// root of the mean squared difference of a frame (size, size) from the frame of these sprites
static double frame_distance(VideoConfig c, const real *frame, const Sprite *sprites) {
    real drawn[MOST_PIXELS];
    double sum = 0;
    video_render(c, sprites, drawn);
    #pragma omp simd reduction(+:sum)                   // the sum may be reordered
    for (int i = 0; i < c.size * c.size; i++) sum += ((double)frame[i] - (double)drawn[i]) * ((double)frame[i] - (double)drawn[i]);
    return sqrt(sum / (c.size * c.size));
}

// Downhill from the grid points at (2): every point for one sprite while the other stays, in turn, until that helps no more; then between the points, one
// coordinate after the other, with steps that are halved when none helps. Returns the frame_distance() reached, at q of the sprites.
static double descend(const VideoSearch *s, const real *frame, Sprite *sprites, int at[MOST_SPRITES]) {
    VideoConfig c = s->config;
    real best = INFINITY;
    bool better = true;
    while (better) {
        better = false;
        for (int k = 0; k < c.sprites; k++) {
            const real *other = c.sprites == 1 ? NULL : grid_picture(s, sprites[1 - k].shape, at[1 - k]);
            for (int point = 0; point < s->n * s->n; point++) {
                const real *picture = grid_picture(s, sprites[k].shape, point);
                real d = grid_distance(frame, picture, other ? other : picture, c.size * c.size);
                if (d < best) best = d, at[k] = point, better = c.sprites > 1;
            }
        }
    }
    for (int k = 0; k < c.sprites; k++) if (best < INFINITY) grid_position(s, at[k], sprites[k].q); else sprites[k].q[0] = sprites[k].q[1] = NAN;
    if (!(best < INFINITY)) return INFINITY;
    double least = frame_distance(c, frame, sprites);
    for (double step = s->spacing / 2; step > 1e-5; step /= better ? 1 : 2) {
        better = false;
        for (int i = 0; i < 4 * c.sprites; i++) {
            double *q = &sprites[i / 4].q[i / 2 % 2], was = *q;
            *q = fmin(fmax(was + (i % 2 ? step : -step), c.radius), c.size - c.radius);
            double d = frame_distance(c, frame, sprites);
            if (d < least) least = d, better = true; else *q = was;
        }
    }
    return least;
}

// The least frame_distance() of frame (size, size) over all positions that the sprites can have. sprites (sprites): shapes are read, the positions found are
// written to q. One sprite: downhill from the best point of the grid. Two: from the best of all pairs of points a pixel apart, and from that pair with the
// sprites exchanged: an upper bound, which is not the least in one frame of a thousand, where sprites cover each other. A frame with a NaN, or with numbers
// whose squares overflow, is nowhere: INFINITY, at NaN.
static double frame_error(const VideoSearch *s, const real *frame, Sprite *sprites) {
    int m = (s->n + 3) / 4, at[MOST_SPRITES] = {0};     // m: every fourth point of an axis
    real best = INFINITY;
    if (s->config.sprites == 1) return descend(s, frame, sprites, at);

    for (int i = 0; i < m*m; i++)
        for (int j = 0; j < m*m; j++) {
            int a = i / m * 4 * s->n + i % m * 4, b = j / m * 4 * s->n + j % m * 4;
            real d = grid_distance(frame, grid_picture(s, sprites[0].shape, a), grid_picture(s, sprites[1].shape, b), s->config.size * s->config.size);
            if (d < best) best = d, at[0] = a, at[1] = b;
        }
    Sprite other[MOST_SPRITES] = {sprites[0], sprites[1]};
    int exchanged[MOST_SPRITES] = {at[1], at[0]};
    double least = descend(s, frame, sprites, at), least_exchanged = descend(s, frame, other, exchanged);
    if (least_exchanged < least) sprites[0] = other[0], sprites[1] = other[1];
    return least_exchanged < least ? least_exchanged : least;
}

// root of the mean square of what lies outside of [-1,1]; frame (n). A NaN lies outside.
static double out_of_range(const real *frame, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double over = fabs((double)frame[i]) - 1;
        if (!(over <= 0)) sum += over*over;
    }
    return sqrt(sum / n);
}

// connected regions of pixels above 0, neighbours left, right, above and below; frame (size, size)
static int count_objects(const real *frame, int size) {
    bool seen[MOST_PIXELS] = {false};
    int stack[MOST_PIXELS], objects = 0;                // a pixel is put there once
    for (int i = 0; i < size * size; i++) {
        if (seen[i] || !(frame[i] > 0)) continue;
        int n = 0;
        objects++, seen[i] = true, stack[n++] = i;
        while (n) {
            int p = stack[--n], near[4] = {p - size, p + size, p % size ? p - 1 : -1, (p + 1) % size ? p + 1 : -1};
            for (int k = 0; k < 4; k++) {
                int next = near[k];
                if (next >= 0 && next < size * size && !seen[next] && frame[next] > 0) seen[next] = true, stack[n++] = next;
            }
        }
    }
    return objects;
}

// How far apart are two states, both (sprites), in pixels: the farther sprite counts. Nobody can tell two of one shape apart, so the better of both ways counts.
static double farther(VideoConfig c, const Sprite *a, const Sprite *b) {
    double d[2][2] = {{0}};
    for (int i = 0; i < c.sprites; i++) for (int j = 0; j < c.sprites; j++) d[i][j] = hypot(a[i].q[0] - b[j].q[0], a[i].q[1] - b[j].q[1]);
    if (c.sprites == 1) return d[0][0];
    double straight = d[0][0] > d[1][1] ? d[0][0] : d[1][1], crossed = d[0][1] > d[1][0] ? d[0][1] : d[1][0];
    return a[0].shape == a[1].shape && crossed < straight ? crossed : straight;
}

typedef struct FrameScore {
    double error, out_of_range;                         // frame_error(), out_of_range()
    double position_error, jump;                        // pixels from the true state; from where the last frame's was found, over speed_max: at most 1 in a true video
    int objects, objects_true;                          // count_objects() of the frame and of the true one, which has 1 where two sprites touch
    Sprite found[MOST_SPRITES];                         // no velocity
} FrameScore;
// truth (sprites): the true state at this time, which is that of the context stepped on; last: the score of the frame before, NULL: there is none, jump 0
static FrameScore frame_score(const VideoSearch *s, const real *frame, const Sprite *truth, const FrameScore *last) {
    VideoConfig c = s->config;
    FrameScore f = {0};
    real drawn[MOST_PIXELS];
    for (int k = 0; k < c.sprites; k++) f.found[k].shape = truth[k].shape;
    f.error = frame_error(s, frame, f.found), f.out_of_range = out_of_range(frame, c.size * c.size);
    f.position_error = farther(c, f.found, truth), f.jump = last ? farther(c, f.found, last->found) / c.speed_max : 0;
    video_render(c, truth, drawn);
    f.objects = count_objects(frame, c.size), f.objects_true = count_objects(drawn, c.size);
    return f;
}

// ---- contact sheet ------------------------------------------------------------------------------------------------------------

// pixels of an edge along which so many frames stand, with lines of one pixel between and around them; so also where the frame of this number begins
static int sheet_edge(int frames, int size, int zoom) { return frames * (size*zoom + 1) + 1; }
// Draws frames (columns, size, size) as the row number `row` of a picture of sheet_edge(columns, ..) x sheet_edge(rows, ..); lines keep the background of the
// picture. -1 is black, +1 white; NaN shows in magenta.
static void video_sheet(Picture *p, int row, const real *frames, int columns, int size, int zoom) {
    for (int t = 0; t < columns; t++)
        for (int i = 0; i < size * size; i++) {
            double value = (double)frames[(size_t)t * (size_t)(size * size) + (size_t)i], x = sheet_edge(t, size, zoom) + i % size * zoom, y = sheet_edge(row, size, zoom) + i / size * zoom;
            unsigned grey = (unsigned)lrint(127.5 * (fmin(fmax(value, -1), 1) + 1));
            picture_box(p, x, y, x + zoom, y + zoom, isnan(value) ? 0xff00ff : grey * 0x010101);
        }
}
