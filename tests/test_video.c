// test_video.c: pictures and their files, bouncing sprites, and the measures of the frames that a model makes up.
#define TESTING
#include "../common.h"
#include "../data/video.h"
#include "check.h"
#include <sys/wait.h>

static const VideoConfig small = {.size = 16, .sprites = 1, .radius = 2.5, .speed_min = 0.5, .speed_max = 1.5}, pair = {16, 2, 2.5, 0.5, 1.5};
static double noise(Rng *r) { return sqrt(-2 * log(1 - uniform(r))) * cos(2*3.14159265358979323846 * uniform(r)); }     // standard normal

// does this end the program with status 1 and a message?
#define DIES(statement) do { int status_; fflush(stdout); pid_t child_ = fork(); \
    if (!child_) { if (!freopen("/dev/null", "w", stderr)) _exit(2); statement; _exit(0); } \
    CHECK(waitpid(child_, &status_, 0) == child_ && WIFEXITED(status_) && WEXITSTATUS(status_) == 1, "%s", #statement); } while (0)

// ---- pictures --------------------------------------------------------------------------------------------------------------------

static int red(const Picture *p, int x, int y) { return p->rgb[3 * (y*p->width + x)]; }
static double sum_of_red(const Picture *p) { double s = 0; for (int i = 0; i < p->width * p->height; i++) s += p->rgb[3*i] / 255.0; return s; }

static void test_drawing(void) {
    Picture p = picture_create(20, 10, 0x102030);
    CHECK(p.rgb[0] == 0x10 && p.rgb[1] == 0x20 && p.rgb[3*200 - 1] == 0x30, "background");
    picture_free(&p);
    p = picture_create(20, 10, 0);
    picture_box(&p, 2, 3, 5, 4.5, 0xff0000);
    CHECK(red(&p, 2, 3) == 255 && red(&p, 4, 3) == 255 && red(&p, 5, 3) == 0 && red(&p, 1, 3) == 0 && red(&p, 2, 2) == 0 && abs(red(&p, 2, 4) - 128) <= 1, "box");
    CHECK(p.rgb[3 * (3*20 + 2) + 1] == 0, "green in red");
    picture_free(&p);
    p = picture_create(20, 10, 0);
    picture_disc(&p, 9.3, 4.8, 3, 0xffffff);
    CHECK_CLOSE("area of a disc", sum_of_red(&p), 3.14159265 * 9, 0.3);
    picture_free(&p);
    p = picture_create(20, 10, 0);
    picture_line(&p, 3, 2, 15, 8, 1.5, 0xffffff);
    CHECK_CLOSE("area of a line", sum_of_red(&p), 1.5 * hypot(12, 6) + 3.14159265 * 0.75*0.75, 1);
    picture_free(&p);
    p = picture_create(20, 10, 0);
    picture_line(&p, 2, 5.5, 18, 5.5, 0.25, 0xffffff);
    CHECK_CLOSE("area of a hairline", sum_of_red(&p), 0.25 * 16, 0.4);
    picture_free(&p);

    DIES(picture_create(0, 5, 0));
    DIES(picture_create(100000, 100000, 0));
    // clipped, and nothing where a number is none
    p = picture_create(20, 10, 0);
    picture_disc(&p, 0, 0, 4, 0xffffff);
    CHECK_CLOSE("a quarter of a disc", sum_of_red(&p), 3.14159265 * 16 / 4, 0.3);
    picture_box(&p, -1e9, -1e9, 1e9, 1e9, 0);
    CHECK(sum_of_red(&p) == 0, "a box over everything");
    picture_line(&p, -1e6, 5, 1e6, 5, 2, 0xffffff);
    CHECK_CLOSE("a line through everything", sum_of_red(&p), 40, 0.1);
    picture_box(&p, -1e9, -1e9, 1e9, 1e9, 0);
    picture_box(&p, NAN, 0, 5, 5, 0xffffff), picture_box(&p, 0, 0, 5, NAN, 0xffffff), picture_box(&p, 5, 5, 1, 1, 0xffffff);
    picture_disc(&p, NAN, 5, 3, 0xffffff), picture_disc(&p, 5, 5, NAN, 0xffffff), picture_disc(&p, 100, 5, 3, 0xffffff), picture_disc(&p, INFINITY, 5, 3, 0xffffff);
    picture_line(&p, 0, 0, NAN, 5, 1, 0xffffff), picture_line(&p, 0, 0, 5, 5, -1, 0xffffff);
    CHECK(sum_of_red(&p) == 0, "what is no number, or elsewhere, was drawn");
    picture_free(&p);
}

#ifdef STB_IMAGE_WRITE_IMPLEMENTATION
static uint32_t big_endian(const unsigned char *b) { return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]; }

static void test_png(const char *dir) {
    Path place = path_in(dir, "sheet.png"), part = path_in(dir, "sheet.png.part");
    Picture p = picture_create(83, 40, 0x404040);
    for (int i = 0; i < 20; i++) picture_disc(&p, 4.1 * i, 20 + 15 * sin(i), 3 + i % 4, 0x123456u * (unsigned)i & 0xffffff);
    picture_save(&p, place.text), picture_save(&p, place.text);        // the second replaces the first
    CHECK(!exists(part.text), "the temporary file is still there");

    // signature; chunks of length, kind, data, checksum that fill the file: IHDR first, IDAT, IEND last and empty
    size_t size, at = 8, packed = 0;
    unsigned char *b = read_file(place.text, &size);
    CHECK(size > 57 && !memcmp(b, "\x89PNG\r\n\x1a\n", 8), "signature");
    CHECK(big_endian(b + 8) == 13 && !memcmp(b + 12, "IHDR", 4) && (int)big_endian(b + 16) == p.width && (int)big_endian(b + 20) == p.height && b[24] == 8 && b[25] == 2, "IHDR");
    char last[5] = "";
    while (at + 12 <= size && big_endian(b + at) <= size - at - 12) {
        uint32_t length = big_endian(b + at), crc = ~0u;
        memcpy(last, b + at + 4, 4);
        if (!strcmp(last, "IDAT")) packed += length, CHECK((b[at + 8] << 8 | b[at + 9]) % 31 == 0 && (b[at + 8] & 15) == 8, "zlib's header");
        for (size_t i = at + 4; i < at + 8 + length; i++) { crc ^= b[i]; for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0); }
        CHECK(~crc == big_endian(b + at + 8 + length), "checksum of %s", last);
        at += 12 + length;
    }
    CHECK(at == size && !strcmp(last, "IEND") && packed > 100 && packed < 3 * (size_t)p.width * (size_t)p.height, "%zu of %zu bytes, %zu packed, last %s", at, size, packed, last);
    free(b);

    // a save that fails leaves the old file alone
    if (mkdir(part.text, 0777)) CHECK(false, "mkdir");
    DIES(picture_save(&p, place.text));
    rmdir(part.text);
    size_t now;
    b = read_file(place.text, &now);
    CHECK(now == size, "%zu of %zu bytes", now, size);
    free(b), picture_free(&p);
}
#else
static void test_png(const char *dir) { (void)dir; puts("         skipped: no stb_image_write"); }
#endif

static void test_sheet(void) {
    real frames[2 * 4] = {-1, 1, 0, 5,  -7, NAN, 0.5f, -0.5f};
    Picture p = picture_create(sheet_edge(2, 2, 3), sheet_edge(2, 2, 3), 0x800000);
    CHECK(p.width == 15 && p.height == 15, "%d x %d", p.width, p.height);
    video_sheet(&p, 1, frames, 2, 2, 3);
    static const int want[2][4] = {{0, 255, 128, 255}, {0, 255, 191, 64}};
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 9; k++) {
                int x = 1 + 7*t + 3*(i % 2) + k % 3, y = 8 + 3*(i / 2) + k / 3;
                CHECK(abs(red(&p, x, y) - want[t][i]) <= 1 && (p.rgb[3 * (y*15 + x) + 1] == red(&p, x, y)) == (t*4 + i != 5), "frame %d pixel %d: %d", t, i, red(&p, x, y));
            }
    for (int k = 0; k < 15; k++) CHECK(red(&p, k, 7) == 128 && red(&p, k, 14) == 128 && red(&p, 0, k) == 128 && red(&p, 7, k) == 128 && red(&p, 14, k) == 128 && red(&p, k, 3) == 128, "lines, and the other row");
    picture_free(&p);
}

// ---- the generator -----------------------------------------------------------------------------------------------------------------

static void test_motion(void) {
    static const double speeds[] = {0.3, 1.5, 10, 100};
    for (int i = 0; i < 4; i++) {
        VideoConfig c = {16, 2, 2.5, speeds[i] / 2, speeds[i]};
        Rng r = rng(1, RNG_DATA, (uint64_t)i);
        Sprite s[2];
        video_start(c, s, &r);
        for (int t = 0; t < 1000; t++) {
            Sprite was[2] = {s[0], s[1]};
            double speed[2] = {hypot(s[0].v[0], s[0].v[1]), hypot(s[1].v[0], s[1].v[1])};
            video_step(c, s);
            for (int k = 0; k < 2; k++) {
                CHECK_CLOSE("speed", hypot(s[k].v[0], s[k].v[1]), speed[k], 1e-12);
                CHECK(speed[k] >= c.speed_min - 1e-12 && speed[k] <= c.speed_max + 1e-12, "%g", speed[k]);
                for (int j = 0; j < 2; j++) {
                    double q = was[k].q[j], v = was[k].v[j];     // the same, one border after the other
                    for (double left = fabs(v); left > 0;) {
                        double until = v > 0 ? 13.5 - q : q - 2.5;
                        if (left <= until) { q += v > 0 ? left : -left; break; }
                        left -= until, q = v > 0 ? 13.5 : 2.5, v = -v;
                    }
                    CHECK_CLOSE("position", s[k].q[j], q, 1e-10);
                    CHECK(v == s[k].v[j] && s[k].q[j] >= 2.5 - 1e-12 && s[k].q[j] <= 13.5 + 1e-12, "velocity %g, position %g", s[k].v[j], s[k].q[j]);
                }
            }
        }
    }
    // the same seed, the same sprites; all shapes, all quarters of the frame and of directions
    int shapes[SHAPES] = {0}, places[16] = {0};
    for (int i = 0; i < 3000; i++) {
        Rng r = rng(7, RNG_DATA, (uint64_t)i), again = r;
        Sprite s, t;
        video_start(small, &s, &r), video_start(small, &t, &again);
        CHECK(!memcmp(s.q, t.q, sizeof s.q) && !memcmp(s.v, t.v, sizeof s.v) && s.shape == t.shape, "seed");
        shapes[s.shape]++, places[(s.q[0] > 8) | (s.q[1] > 8) << 1 | (s.v[0] > 0) << 2 | (s.v[1] > 0) << 3]++;
    }
    for (int i = 0; i < SHAPES; i++) CHECK_CLOSE("share of a shape", shapes[i] / 3000.0, 1.0/3, 5 * sqrt(2.0/9/3000));
    for (int i = 0; i < 16; i++) CHECK_CLOSE("share of a start", places[i] / 3000.0, 1.0/16, 5 * sqrt(15.0/256/3000));
}

static void test_rendering(void) {
    for (int shape = 0; shape < SHAPES; shape++)
        for (double radius = 2.5; radius < 4.1; radius += 0.5) {
            VideoConfig c = {16, 1, radius, 0.5, 1.5};
            double area = shape == SQUARE ? 4*radius*radius : 3.14159265 * radius*radius * (shape == RING ? 0.84 : 1), first = 0;
            Rng r = rng(2, RNG_DATA, (uint64_t)shape);
            for (int i = 0; i < 200; i++) {
                Sprite s = {.shape = shape, .q = {radius + 1 + (14 - 2*radius) * uniform(&r), radius + 1 + (14 - 2*radius) * uniform(&r)}};
                real frame[256];
                double mass = 0, mx = 0, my = 0;
                bool inside = true;
                video_render(c, &s, frame);
                for (int p = 0; p < 256; p++) {
                    double m = ((double)frame[p] + 1) / 2;
                    inside &= m >= 0 && m <= 1;
                    mass += m, mx += m * (p % 16 + 0.5), my += m * (p / 16 + 0.5);
                }
                if (!i) first = mass;
                CHECK(inside, "outside of [-1,1]");
                CHECK_CLOSE("mass", mass, first, 0.01 * area);
                CHECK_CLOSE("mass and area", mass, area, 0.01 * area + 0.5);
                CHECK_CLOSE("middle x", mx / mass, s.q[0], 0.01);
                CHECK_CLOSE("middle y", my / mass, s.q[1], 0.01);
                CHECK(count_objects(frame, 16) == 1, "shape %d radius %g: %d objects", shape, radius, count_objects(frame, 16));
            }
        }
    static const VideoConfig wrong[] = {{0, 1, 2.5, 0, 1}, {33, 1, 2.5, 0, 1}, {16, 0, 2.5, 0, 1}, {16, 3, 2.5, 0, 1}, {16, 1, 2.4, 0, 1}, {16, 1, 8, 0, 1}, {16, 1, NAN, 0, 1},
                                        {16, 1, 2.5, -1, 1}, {16, 1, 2.5, 2, 1}, {16, 1, 2.5, 0, 0}, {16, 1, 2.5, 0, INFINITY}, {16, 1, 2.5, NAN, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) DIES(video_check(wrong[i]));
    // two sprites: the brighter pixel
    real both[256], one[256], other[256];
    Sprite s[2] = {{.q = {6, 7.3}, .shape = DISC}, {.q = {8.2, 9}, .shape = RING}};
    video_render(pair, s, both), video_render(small, &s[0], one), video_render(small, &s[1], other);
    for (int p = 0; p < 256; p++) CHECK(both[p] == (one[p] > other[p] ? one[p] : other[p]), "pixel %d", p);
}

// ---- measures -----------------------------------------------------------------------------------------------------------------------

// the least distance over a grid much finer than that of the search
static double brute_force(VideoConfig c, const real *frame, int shape) {
    double least = INFINITY;
    for (double y = c.radius; y <= c.size - c.radius; y += 0.05)
        for (double x = c.radius; x <= c.size - c.radius; x += 0.05) {
            double d = frame_distance(c, frame, &(Sprite){.q = {x, y}, .shape = shape});
            if (d < least) least = d;
        }
    return least;
}

static void test_frame_error(void) {
    VideoSearch search = video_search_create(small);
    Rng r = rng(4, RNG_DATA, 0);
    real frame[256];
    for (int i = 0; i < 200; i++) {
        Sprite s, found;
        video_start(small, &s, &r);
        found = s, found.q[0] = found.q[1] = 0;
        video_render(small, &s, frame);
        CHECK_CLOSE("error of a rendered frame", frame_error(&search, frame, &found), 0, 1e-5);
        CHECK_CLOSE("position found", farther(small, &s, &found), 0, 1e-4);

        for (int p = 0; p < 256; p++) frame[p] += 0.25f;
        CHECK_CLOSE("distance of a brighter frame", frame_distance(small, frame, &s), 0.25, 1e-6);
        video_render(small, &s, frame);

        // noise of known size: the error is about as large, and at most the distance from the true position
        double size = 0.05 + 0.3 * uniform(&r);
        for (int p = 0; p < 256; p++) frame[p] += (real)(size * noise(&r));
        double error = frame_error(&search, frame, &found);
        CHECK_CLOSE("error of a noisy frame", error, size, 0.25 * size);
        CHECK(error <= frame_distance(small, frame, &s), "%g", error);
        CHECK_CLOSE("position found in noise", farther(small, &s, &found), 0, 1.2 * size);
    }
    for (int i = 0; i < 40; i++) {
        // frames that no sprite made: noise, half a sprite, two sprites that shine through each other, a blur
        Sprite s, other, found;
        real second[256];
        video_start(small, &s, &r), video_start(small, &other, &r);
        video_render(small, &s, frame), video_render(small, &other, second);
        for (int p = 0; p < 256; p++) {
            if (i % 4 == 0) frame[p] = (real)noise(&r);
            if (i % 4 == 1) frame[p] = p % 16 < s.q[0] ? -1 : frame[p];
            if (i % 4 == 2) frame[p] = (real)(0.55 * (double)frame[p] + 0.45 * (double)second[p]);
            if (i % 4 == 3) frame[p] = (real)(2*exp(-0.05 * (pow(p % 16 - s.q[0], 2) + 0.3 * pow(p / 16 - s.q[1], 2))) - 1 + 0.1 * noise(&r));
        }
        found = s;
        double error = frame_error(&search, frame, &found), least = brute_force(small, frame, s.shape);
        CHECK(error <= least + 1e-4, "kind %d: %g, by brute force %g", i % 4, error, least);
        CHECK_CLOSE("error at the position found", frame_distance(small, frame, &found), error, 1e-12);
        CHECK(found.q[0] >= 2.5 && found.q[0] <= 13.5 && found.q[1] >= 2.5 && found.q[1] <= 13.5, "(%g,%g)", found.q[0], found.q[1]);
    }
    // a NaN in any pixel, or a number without bounds, is an error without bounds
    for (int p = 0; p < 256; p += 15) {
        Sprite s, found;
        video_start(small, &s, &r);
        video_render(small, &s, frame);
        found = s, frame[p] = p % 2 ? NAN : INFINITY;
        double error = frame_error(&search, frame, &found);
        CHECK(!(error < INFINITY) && isnan(found.q[0]) && isnan(found.q[1]), "pixel %d: %g", p, error);
    }
    video_search_free(&search);
}

static void test_pairs(void) {
    VideoSearch search = video_search_create(pair);
    Rng r = rng(5, RNG_DATA, 0);
    real frame[256];
    int missed = 0, astray = 0, n = 300;
    for (int i = 0; i < n; i++) {
        Sprite s[2], found[2];
        video_start(pair, s, &r);
        memcpy(found, s, sizeof s), found[0].q[0] = found[1].q[1] = 0;
        video_render(pair, s, frame);
        double error = frame_error(&search, frame, found);
        CHECK_CLOSE("error at the positions found", frame_distance(pair, frame, found), error, 1e-12);
        missed += !(error <= 1e-4), astray += !(farther(pair, s, found) <= 1e-2);
        for (int p = 0; p < 256; p++) frame[p] += (real)(0.2 * noise(&r));
        missed += !(frame_error(&search, frame, found) <= frame_distance(pair, frame, s)), astray += !(farther(pair, s, found) <= 1);
    }
    CHECK(missed <= n / 100, "%d of %d errors are not the least", missed, 2*n);
    CHECK(astray <= n / 100, "%d of %d positions are not found", astray, 2*n);
    frame[77] = NAN;
    Sprite found[2] = {{.shape = DISC}, {.shape = RING}};
    CHECK(!(frame_error(&search, frame, found) < INFINITY) && isnan(found[0].q[0]) && isnan(found[1].q[1]), "NaN");

    // two of a shape cannot be told apart, two of different shapes can; the farther one counts
    Sprite a[2] = {{.q = {3, 4}, .shape = DISC}, {.q = {9, 9}, .shape = DISC}}, b[2] = {{.q = {9, 10}, .shape = DISC}, {.q = {3, 6}, .shape = DISC}};
    CHECK_CLOSE("one shape", farther(pair, a, b), 2, 1e-12);
    a[1].shape = b[1].shape = RING;
    CHECK_CLOSE("two shapes", farther(pair, a, b), hypot(6, 6), 1e-12);
    CHECK_CLOSE("one sprite", farther(small, a, b), hypot(6, 6), 1e-12);
    video_search_free(&search);
}

static void test_scores(void) {
    real range[6] = {-1, 1, 0.5f, -3, 1.5f, 0};
    CHECK_CLOSE("out of range", out_of_range(range, 6), sqrt((4 + 0.25) / 6), 1e-12);
    range[2] = NAN;
    CHECK(isnan(out_of_range(range, 6)), "NaN is in range");

    // # is above 0; diagonals do not connect, neither do the ends of neighbouring rows; a pixel of 0 or NaN is background
    static const struct { const char *text; int objects; } pictures[] = {
        {"................", 0}, {"################", 1}, {"#..#........#..#", 4}, {".#..#.#..#......", 4}, {"...##...........", 2}, {"#..##...........", 2}, {"#0#.............", 2},
        {"####...#.#.#.###", 1}, {"#.#.#.#.#.#.###.", 1}, {"##0#####n##n####", 1}, {".0..####.n..#...", 2}};
    for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++) {
        real frame[16];
        for (int p = 0; p < 16; p++) { char c = pictures[i].text[p]; frame[p] = c == '#' ? 1e-3f : c == '0' ? 0 : c == 'n' ? NAN : -1; }
        CHECK(count_objects(frame, 4) == pictures[i].objects, "%s: %d", pictures[i].text, count_objects(frame, 4));
    }

    // a true video scores as one; a frame that is shown too late, and too early, is behind by its motion and jumps twice as far
    VideoSearch search = video_search_create(small);
    VideoConfig c = small;
    c.speed_min = c.speed_max;
    for (int i = 0; i < 20; i++) {
        Rng r = rng(6, RNG_DATA, (uint64_t)i);
        Sprite s[MOST_SPRITES] = {0};
        FrameScore score = {0}, last;
        real frame[256];
        video_start(c, s, &r);
        for (int t = 0; t < 20; t++, video_step(c, s)) {
            video_render(c, s, frame);
            last = score, score = frame_score(&search, frame, s, t ? &last : NULL);
            CHECK_CLOSE("error", score.error, 0, 1e-5);
            CHECK_CLOSE("position", score.position_error, 0, 1e-4);
            CHECK_CLOSE("out of range", score.out_of_range, 0, 1e-12);
            CHECK(score.objects == 1 && score.objects_true == 1 && score.jump <= 1 + 1e-3 && (t || score.jump == 0), "%d of %d objects, jump %g", score.objects, score.objects_true, score.jump);
        }
        s->q[0] = s->q[1] = 8;                         // far from borders: in a straight line
        video_render(c, s, frame);
        score = frame_score(&search, frame, s, NULL);
        video_step(c, s);
        last = score, score = frame_score(&search, frame, s, &last);
        CHECK_CLOSE("a frame that stands still", score.position_error, 1.5, 1e-3);
        CHECK_CLOSE("its jump", score.jump, 0, 1e-3);
        video_step(c, s);
        video_render(c, s, frame);
        last = score, score = frame_score(&search, frame, s, &last);
        CHECK_CLOSE("jump of two frames", score.jump, 2, 1e-3);
        frame[0] = 1, frame[255] = 3;
        score = frame_score(&search, frame, s, &last);
        CHECK(score.objects == 3 && score.objects_true == 1, "%d objects, truly %d", score.objects, score.objects_true);
        CHECK_CLOSE("out of range", score.out_of_range, 2 / 16.0, 1e-12);
        frame[0] = NAN;
        score = frame_score(&search, frame, s, &last);
        CHECK(!(score.error < INFINITY) && isnan(score.position_error) && isnan(score.jump) && isnan(score.out_of_range), "%g %g %g", score.error, score.position_error, score.jump);
    }
    video_search_free(&search);
}

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_video SCRATCH_DIRECTORY"); return 2; }
    test_drawing();
    test_png(argv[1]);
    test_sheet();
    test_motion();
    test_rendering();
    test_frame_error();
    test_pairs();
    test_scores();
    return finish("test_video");
}
