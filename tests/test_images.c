// test_images.c: data/images.h: small files of every format, pixel by pixel; parts, names, what is refused and in which words; Fashion-MNIST, if it is there.
#define TESTING
#include "../common.h"
#include "../data/images.h"
#include "check.h"
#include <sys/wait.h>

static const char *scratch;
typedef struct Text { unsigned char at[1 << 20]; size_t size; } Text;           // a file to be
static Text text;                                                               // the one that is being made
static void add(const void *bytes, size_t n) { memcpy(text.at + text.size, bytes, n), text.size += n; }
static void add_word(uint32_t x) { add((unsigned char[4]){(unsigned char)(x >> 24), (unsigned char)(x >> 16), (unsigned char)(x >> 8), (unsigned char)x}, 4); }
static Path save(const char *name, const void *bytes, size_t n) {
    Path path = path_in(scratch, name);
    FILE *f = fopen(path.text, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) die("cannot write %s", path.text);
    return path;
}
static Path saved(const char *name) { Path path = save(name, text.at, text.size); text.size = 0; return path; }
static void removed(const char *name) { CHECK(!unlink(path_in(scratch, name).text), "%s", name); }
static unsigned char some(int i) { return (unsigned char)(1 + i * 37 % 251); }  // never 0: the border is

// Opened by another process: "" if it ends well, otherwise what it says, which must be one line, with exit status 1
static const char *refusal(Path path, bool test) {
    static char said[1500];
    int fd[2], status;
    size_t n = 0;
    memset(said, 0, sizeof said);
    fflush(stdout);
    if (pipe(fd)) die("no pipe");
    pid_t child = fork();
    if (!child) {
        dup2(fd[1], 2), close(fd[0]);
        Images m = images_open(path.text, test);
        images_free(&m);
        _exit(0);
    }
    close(fd[1]);
    for (ssize_t got; n < sizeof said - 1 && (got = read(fd[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)got;
    close(fd[0]);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status), "%s: %s", path.text, said);
    CHECK(n ? WEXITSTATUS(status) == 1 && strchr(said, '\n') == said + n - 1 : WEXITSTATUS(status) == 0, "%s: status %d, '%s'", path.text, WEXITSTATUS(status), said);
    return said;
}
static void refuses(Path path, bool test, const char *words) {
    const char *said = refusal(path, test);
    CHECK(strstr(said, words), "%s: '%s', not '%s'", path.text, said, words);
}

// ---- IDX ----------------------------------------------------------------------------------------------------------------------
static void idx_pictures(int n, int h, int w, int first) {
    add_word(0x0803), add_word((uint32_t)n), add_word((uint32_t)h), add_word((uint32_t)w);
    for (int i = 0; i < n * h * w; i++) text.at[text.size++] = some(first + i);
}
static void idx_labels(int n, int first) {
    add_word(0x0801), add_word((uint32_t)n);
    for (int i = 0; i < n; i++) text.at[text.size++] = (unsigned char)((first + i) % 10);
}
// Pictures from..to of idx_pictures(.., h, w, 0), each in the middle of zeros
static void check_idx(const Images *m, int from, int to, int h, int w) {
    if (!CHECK(m->n == to - from && m->classes == 10 && m->size == 32 && m->channels == 1, "%d pictures of %d x %d", m->n, m->channels, m->size)) return;
    int bad = 0, top = (32 - h)/2, left = (32 - w)/2;
    for (int i = 0; i < m->n; i++) {
        for (int y = 0; y < 32; y++)
            for (int x = 0; x < 32; x++) {
                bool inside = y >= top && y < top + h && x >= left && x < left + w;
                bad += m->pixel[(i*32 + y)*32 + x] != (inside ? some(((from + i)*h + y - top)*w + x - left) : 0);
            }
        CHECK(m->label[i] == (from + i) % 10, "label %d: %d", i, m->label[i]);
    }
    CHECK(!bad, "%d pixels of %d pictures of %d x %d are wrong", bad, m->n, h, w);
}

static void test_idx(void) {
    static const int shape[][2] = {{28, 28}, {1, 1}, {32, 32}, {5, 32}, {32, 5}, {27, 30}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        int h = shape[s][0], w = shape[s][1];
        idx_labels(13, 0), saved("labels-idx1-ubyte");
        idx_pictures(13, h, w, 0);
        Path path = saved("images-idx3-ubyte");
        Images m = images_open(path.text, false);            // no second file: 13 are 11 and 2
        check_idx(&m, 0, 11, h, w);
        CHECK(m.n && !strcmp(m.name[0], "0") && !strcmp(m.name[9], "9"), "names");
        images_free(&m);
        CHECK(!m.pixel && !m.label && !m.n, "freed");
        m = images_open(path.text, true);
        check_idx(&m, 11, 13, h, w);
        images_free(&m);
    }
    // two files
    idx_labels(7, 0), saved("train-labels-idx1-fashion");
    idx_pictures(7, 4, 4, 0);
    Path path = saved("train-images-idx3-fashion");
    idx_labels(8, 0), saved("t10k-labels-idx1-fashion");
    idx_pictures(8, 4, 4, 0), saved("t10k-images-idx3-fashion");
    Images m = images_open(path.text, false);
    check_idx(&m, 0, 7, 4, 4);
    CHECK(!strcmp(m.name[0], "T-shirt") && !strcmp(m.name[9], "boot"), "names of Fashion-MNIST: %s to %s", m.name[0], m.name[9]);
    images_free(&m);
    m = images_open(path.text, true);
    check_idx(&m, 0, 8, 4, 4);
    images_free(&m);
    m = images_open(path_in(scratch, "t10k-images-idx3-fashion").text, true);           // alone it is cut, too
    check_idx(&m, 7, 8, 4, 4);
    images_free(&m);

    removed("t10k-labels-idx1-fashion");
    refuses(path, true, "t10k-labels-idx1-fashion: the labels of");
    idx_labels(9, 0), saved("t10k-labels-idx1-fashion");
    refuses(path, true, "9 labels for 8 pictures");
    removed("t10k-images-idx3-fashion");
    m = images_open(path.text, true);
    check_idx(&m, 6, 7, 4, 4);
    images_free(&m);
}

// what is wrong with pictures and labels; each file is right but for one place
static void test_idx_refusals(void) {
    static const struct { int n, h, w, extra; const char *words; } bad[] = {
        {7, 4, 4, 1, "IDX, 7 pictures of 4 x 4: 128 bytes are needed, 129 are there"}, {7, 4, 4, -1, "128 bytes are needed, 127 are there"}, {7, 4, 4, -112, "128 bytes are needed, 16 are there"},
        {7, 4, 4, -113, "its header is truncated"}, {7, 4, 4, -124, "its header is truncated"}, {0, 4, 4, 0, "IDX of 0 pictures"}, {-1, 4, 4, 0, "IDX of 4294967295 pictures (1 to 1048576 are possible)"},
        {7, 33, 4, 0, "pictures of 33 x 4 pixels (1 x 1 to 32 x 32 are possible)"}, {7, 4, 33, 0, "4 x 33"}, {7, 0, 4, 0, "0 x 4"}, {7, 4, 0, 0, "4 x 0"}, {7, 1 << 20, 1 << 20, 0, "1048576 x 1048576"}};
    idx_labels(7, 0), saved("labels-idx1");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool huge = bad[i].h > 32 || bad[i].w > 32 || bad[i].n < 0;
        idx_pictures(huge ? 0 : bad[i].n, bad[i].h, bad[i].w, 0);
        if (huge) text.size = 4, add_word((uint32_t)bad[i].n), text.size += 8;
        text.size += (size_t)bad[i].extra;
        refuses(saved("images-idx3"), false, bad[i].words);
    }
    static const struct { int at, value, size; const char *words; } wrong_labels[] = {
        {12, 10, 15, "labels-idx1: picture 4 has label 10 (0 to 9 are possible)"}, {14, 255, 15, "picture 6 has label 255"}, {7, 6, 15, "labels-idx1: 6 labels for 7 pictures"},
        {4, 1, 15, "16777223 labels for 7 pictures"}, {3, 3, 15, "labels-idx1: not IDX labels"}, {0, 8, 15, "not IDX labels"}, {8, 0, 16, "labels-idx1: IDX, 7 labels: 15 bytes are needed, 16 are there"},
        {8, 0, 14, "15 bytes are needed, 14 are there"}, {8, 0, 8, "15 bytes are needed, 8 are there"}, {8, 0, 7, "not IDX labels"}, {8, 0, 0, "not IDX labels"}};
    idx_pictures(7, 4, 4, 0);
    Path path = saved("images-idx3");
    for (size_t i = 0; i < sizeof wrong_labels / sizeof *wrong_labels; i++) {
        idx_labels(7, 0);
        text.at[wrong_labels[i].at] = (unsigned char)wrong_labels[i].value, text.size = (size_t)wrong_labels[i].size;
        saved("labels-idx1");
        refuses(path, false, wrong_labels[i].words);
    }
    removed("labels-idx1");
    refuses(path, false, "labels-idx1: the labels of ");
    idx_pictures(7, 4, 4, 0);
    refuses(saved("pictures"), false, "the name of IDX pictures must contain images-idx3");
    mkdir(path_in(scratch, "images-idx3.d").text, 0777);
    idx_pictures(7, 4, 4, 0);
    refuses(saved("images-idx3.d/pictures"), false, "must contain images-idx3");         // a folder's name does not count

    idx_labels(5, 0), saved("labels-idx1");
    idx_pictures(5, 4, 4, 0);
    path = saved("images-idx3");
    refuses(path, true, "of fewer than six pictures (5) none is for testing");
    CHECK(!*refusal(path, false), "five pictures to train on");
    static const char *const nothing[] = {"", "x", "hello, world\n", "\x89PNG\r\n\x1a\n and so on", "<html>", "\x1f"};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) refuses(save("nothing", nothing[i], strlen(nothing[i])), false, "nothing: neither IDX pictures (MNIST), nor CIFAR-10 (binary), nor a font");
    idx_labels(7, 0);
    refuses(saved("labels-idx1"), false, "neither IDX pictures");
    refuses(path_in(scratch, "none"), false, "none: No such file");
    refuses(path_in(scratch, "."), false, "not a regular file");
}

// ---- gzip ---------------------------------------------------------------------------------------------------------------------
#ifdef ZLIB_VERSION
static const bool zlib = true;
static Text packed;
static void pack(void) {                                // text -> packed
    z_stream z = {.next_in = text.at, .avail_in = (uInt)text.size, .next_out = packed.at, .avail_out = sizeof packed.at};
    CHECK(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK && deflate(&z, Z_FINISH) == Z_STREAM_END, "gzip");
    packed.size = sizeof packed.at - z.avail_out, text.size = 0;
    deflateEnd(&z);
}
static void test_gzip(void) {
    idx_labels(60, 0), pack(), save("labels-idx1.gz", packed.at, packed.size);
    idx_pictures(60, 28, 28, 0), pack();
    Path path = save("images-idx3.gz", packed.at, packed.size);
    Images m = images_open(path.text, false);
    check_idx(&m, 0, 50, 28, 28);
    images_free(&m);
    for (size_t cut = 2; cut < packed.size; cut += cut < 30 || cut > packed.size - 20 ? 1 : 97) refuses(save("images-idx3.gz", packed.at, cut), false, "images-idx3.gz: gzip'ed, but truncated");
    packed.at[packed.size] = 7;
    refuses(save("images-idx3.gz", packed.at, packed.size + 1), false, "images-idx3.gz: gzip'ed, but something stands behind its end (1 bytes)");
    for (int i = 0; i < 3; i++) {                       // the checksum, the length, the way of packing
        size_t at = i == 0 ? packed.size - 8 : i == 1 ? packed.size - 1 : 2;
        packed.at[at] ^= 1;
        refuses(save("images-idx3.gz", packed.at, packed.size), false, "images-idx3.gz: gzip'ed, but broken");
        packed.at[at] ^= 1;
    }
    save("images-idx3.gz", packed.at, packed.size);
    save("labels-idx1.gz", packed.at, 40);
    refuses(path, false, "labels-idx1.gz: gzip'ed, but truncated");
    add("hello", 5), pack();
    refuses(save("hello.gz", packed.at, packed.size), false, "hello.gz: neither IDX pictures");
    pack();
    refuses(save("empty.gz", packed.at, packed.size), false, "neither IDX pictures");

    memset(text.at, 0, text.size = 100000), pack();     // 100 KB in 100 bytes or so
    unsigned char *out;
    size_t n;
    const char *error = gunzip(&out, &n, packed.at, packed.size, 100001);
    CHECK(!error && n == 100000 && !out[0] && !out[99999], "%s", error);
    free(out);
    error = gunzip(&out, &n, packed.at, packed.size, 99999);
    CHECK(error && !strcmp(error, "gzip has packed 99999 bytes or more") && !out, "%s", error ? error : "accepted");
    error = gunzip(&out, &n, packed.at, packed.size, packed.size - 1);
    CHECK(error && strstr(error, "more than") && !out, "%s", error ? error : "accepted");
}
#else
static const bool zlib = false;
static void test_gzip(void) {
    puts("         skipped: no zlib");
    refuses(save("images-idx3.gz", "\x1f\x8b\x08", 3), false, "built without zlib");
}
#endif

// ---- CIFAR-10 -----------------------------------------------------------------------------------------------------------------
static void cifar(int n, int first) {
    for (int i = first; i < first + n; i++) {
        text.at[text.size++] = (unsigned char)(i % 10);
        for (int j = 0; j < 3072; j++) text.at[text.size++] = some(i*3072 + j);
    }
}
static void check_cifar(const Images *m, int from, int to) {
    if (!CHECK(m->n == to - from && m->classes == 10 && m->size == 32 && m->channels == 3, "%d pictures of %d x %d", m->n, m->channels, m->size)) return;
    int bad = 0;
    for (int i = 0; i < m->n; i++) {
        for (int j = 0; j < 3072; j++) bad += m->pixel[i*3072 + j] != some((from + i)*3072 + j);
        CHECK(m->label[i] == (from + i) % 10, "label %d: %d", i, m->label[i]);
    }
    CHECK(!bad, "%d pixels are wrong", bad);
    CHECK(!strcmp(m->name[0], "airplane") && !strcmp(m->name[9], "truck"), "names");
}
static void test_cifar(void) {
    static const char *const names[] = {"data_batch_1.bin", "data_batch_12345.bin", "data_batch_3.bin"};
    unlink(path_in(scratch, "test_batch.bin").text);    // of an earlier test
    for (int two = 0; two < 2; two++)
        for (int i = 0; i < 3; i++) {
            if (two) cifar(3, 20), saved("test_batch.bin");
            cifar(14, 0);
            Path path = saved(names[i]);
            Images m = images_open(path.text, false);
            check_cifar(&m, 0, two ? 14 : 12);
            images_free(&m);
            m = images_open(path.text, true);
            check_cifar(&m, two ? 20 : 12, two ? 23 : 14);
            images_free(&m);
        }
    cifar(6, 0);
    memcpy(text.at, "\0\1\0\0", 4);                     // begins like a font, and is none
    Images m = images_open(saved("any").text, true);
    CHECK(m.n == 1 && m.channels == 3 && m.label[0] == 5 && !strcmp(m.name[5], "dog"), "%d pictures", m.n);
    images_free(&m);
    cifar(6, 0);
    memcpy(text.at, "\0\0\10\3", 4);                    // begins like IDX
    refuses(saved("any"), false, "any: IDX");
    cifar(6, 0);
    text.at[2 * 3073] = 10;
    refuses(saved("any"), false, "picture 2 has label 10 (0 to 9 are possible)");
    cifar(6, 0), text.size--;
    refuses(saved("any"), false, "neither IDX pictures");
}

// ---- a font -------------------------------------------------------------------------------------------------------------------
#if defined(STB_IMAGE_IMPLEMENTATION) && defined(STB_IMAGE_WRITE_IMPLEMENTATION)
static void add_png(const unsigned char *pixels, int w, int h, int channels) {
    int size;
    unsigned char *png = stbi_write_png_to_mem(pixels, w * channels, w, h, channels, &size);
    if (!png) die("out of memory");
    add(png, (size_t)size);
    free(png);
}
static void add_plain(unsigned color, int alpha) {      // a glyph of 8 x 8, all of one colour
    unsigned char rgba[64 * 4];
    for (int i = 0; i < 64; i++) for (int c = 0; c < 4; c++) rgba[4*i + c] = (unsigned char)(c < 3 ? color >> (16 - 8*c) : (unsigned)alpha);
    add_png(rgba, 8, 8, 4);
}
static void font(void) { add("\0\1\0\0", 4), add("tables of no interest", 21); }

// the mean over the area that pixel (X, Y) covers of a white square with the glyph in its middle, counted in squares of 1/32 of a pixel of rgba
static double slowly(const unsigned char *rgba, int w, int h, int c, int X, int Y) {
    int side = w > h ? w : h, left = (side - w)/2, top = (side - h)/2;
    double sum = 0;
    for (int v = Y*side; v < (Y + 1)*side; v++)
        for (int u = X*side; u < (X + 1)*side; u++) {
            int x = u/32 - left, y = v/32 - top;
            const unsigned char *p = rgba + 4*(y*w + x);
            sum += x < 0 || y < 0 || x >= w || y >= h ? 255 : p[3]/255.0 * p[c] + (1 - p[3]/255.0) * 255;
        }
    return sum / side / side;
}

static void test_font(void) {
    // shrunk, kept, blown up; wide, high, odd
    static const int shape[][2] = {{136, 128}, {32, 32}, {64, 32}, {31, 64}, {1, 1}, {7, 2}, {33, 1}};
    enum { SHAPES_ = sizeof shape / sizeof *shape };
    static unsigned char rgba[SHAPES_][136 * 128 * 4];
    font();
    for (int s = 0; s < SHAPES_; s++) {
        for (int i = 0; i < shape[s][0] * shape[s][1] * 4; i++) rgba[s][i] = (unsigned char)(i % 4 < 3 ? some(i + s) : i / 4 % 3 * 127);
        add_png(rgba[s], shape[s][0], shape[s][1], 4), add("between", s % 3);
    }
    Images m;
    const char *error = images_parse(&m, text.at, text.size);
    CHECK(!error && m.n == SHAPES_ && m.channels == 3 && m.classes == 7 && m.size == 32, "%d glyphs: %s", m.n, error);
    for (int s = 0; s < m.n; s++)
        for (int c = 0; c < 3; c++)
            for (int i = 0; i < 1024; i += s ? 1 : 5) CHECK_CLOSE("a pixel of a glyph", m.pixel[(s*3 + c)*1024 + i], slowly(rgba[s], shape[s][0], shape[s][1], c, i % 32, i / 32), 0.5 + 1e-9);
    images_free(&m);
    text.size = 0;

    // colours, parts, and PNGs that are none among them
    static const struct { unsigned color; int alpha, class; } glyph[12] = {
        {0x808080, 255, 0}, {0xff0000, 255, 1}, {0xff8000, 255, 2}, {0xffff00, 255, 3}, {0x00ff00, 255, 4}, {0x0000ff, 255, 5}, {0x8000ff, 255, 6}, {0xff0080, 255, 6}, {0xff0010, 255, 1},
        {0x00ffff, 255, 5}, {0xff0000, 40, 0}, {0x00c000, 128, 4}};
    font();
    for (int i = 0; i < 12; i++) {
        add_plain(glyph[i].color, glyph[i].alpha);
        add("\x89PNG\r\n\x1a\n", 8), add_word(i % 2 ? 0xfffffff0 : 5), add("IHDR?", 5);         // a length beyond the file, or a chunk of nonsense
        if (i == 3) add_plain(0xff0000, 255), text.at[text.size - 20] ^= 255, text.at[text.size - 40] ^= 255;    // does not unpack
    }
    add_plain(0xff0000, 255), text.size--;              // the last lacks its last byte
    Path path = saved("train-glyphs.ttf");
    for (int test = 0; test < 2; test++) {
        m = images_open(path.text, test);
        CHECK(m.n == (test ? 2 : 10), "%d glyphs", m.n);
        for (int i = 0; i < m.n; i++) {
            int k = test ? 6*i + 5 : i + i/5;
            for (int c = 0; c < 3; c++) {
                double want = 255 - glyph[k].alpha / 255.0 * (255 - (glyph[k].color >> (16 - 8*c) & 255));
                CHECK_CLOSE("colour", m.pixel[(i*3 + c)*1024 + 77], want, 0.5);
            }
            CHECK(m.label[i] == glyph[k].class, "glyph %d: %s", k, m.name[m.label[i]]);
        }
        images_free(&m);
    }
    static const char *const names[7] = {"grey", "red", "orange", "yellow", "green", "blue", "purple"};
    for (int i = 0; i < 7; i++) CHECK(!strcmp(color_names[i], names[i]), "%s", color_names[i]);
    // a white picture with so many pixels of one hue: 48 is saturated, 32 pixels are enough; the most frequent hue counts
    unsigned char pixel[3072];
    for (int n = 30; n < 35; n++) {
        memset(pixel, 255, sizeof pixel);
        for (int i = 0; i < n; i++) pixel[i] = 207;     // cyan
        CHECK(color_class(pixel) == (n < 32 ? 0 : 5), "%d pixels", n);
        for (int i = 0; i < n; i++) pixel[i] = 208;
        CHECK(color_class(pixel) == 0, "pale");
    }
    for (int i = 0; i < 40; i++) pixel[i] = 0, pixel[1024 + 100 + i] = pixel[2048 + 100 + i] = i < 39 ? 0 : 255;
    CHECK(color_class(pixel) == 5, "40 cyan, 39 red");
    pixel[0] = 255;
    CHECK(color_class(pixel) == 1, "39 cyan, 39 red: the first of the names");
    pixel[1] = 255;
    CHECK(color_class(pixel) == 1, "38 cyan, 39 red");
    // where one colour ends: hue h is (255, 255 h/60, 0) up to 60, and so on
    static const struct { int r, g, b, class; } edge[] = {
        {240, 79, 0, 1}, {240, 80, 0, 2}, {240, 179, 0, 2}, {240, 180, 0, 3}, {201, 240, 0, 3}, {200, 240, 0, 4}, {0, 240, 199, 4}, {0, 240, 200, 5}, {79, 0, 240, 5}, {80, 0, 240, 6},
        {240, 0, 81, 6}, {240, 0, 80, 1}, {240, 0, 240, 6}, {240, 240, 0, 3}, {0, 240, 240, 5}};
    for (size_t i = 0; i < sizeof edge / sizeof *edge; i++) {
        memset(pixel, edge[i].r, 1024), memset(pixel + 1024, edge[i].g, 1024), memset(pixel + 2048, edge[i].b, 1024);
        CHECK(color_class(pixel) == edge[i].class, "%d %d %d: %s", edge[i].r, edge[i].g, edge[i].b, color_names[color_class(pixel)]);
    }

    font();
    refuses(saved("a.ttf"), false, "a.ttf: a font without PNGs");
    font(), add_plain(0, 255);
    path = saved("a.ttf");
    refuses(path, true, "fewer than six pictures (1)");
    CHECK(!*refusal(path, false), "one glyph to train on");
    font(), add_plain(0, 255), memcpy(text.at, "OTTO", 4);
    refuses(saved("a.otf"), false, "neither IDX pictures");
#ifdef ZLIB_VERSION
    for (int much = 0; much < 2; much++) {              // a pixel whose data goes on for 1 or 33 MiB
        size_t n = (much ? 33u : 1u) << 20;
        uLongf length = sizeof packed.at;
        unsigned char *zeros = allocate(n);
        CHECK(compress(packed.at, &length, zeros, n) == Z_OK, "compress()");
        font(), add("\x89PNG\r\n\x1a\n", 8);
        add_word(13), add("IHDR", 4), add_word(1), add_word(1), add("\10\0\0\0\0....", 9);        // no checksum is looked at
        add_word((uint32_t)length), add("IDAT", 4), add(packed.at, length), add("....\0\0\0\0IEND....", 16);
        path = saved("a.ttf");
        if (much) refuses(path, false, "a font without PNGs");
        else CHECK(!*refusal(path, false), "1 MiB for a pixel");
        free(zeros);
    }
#endif
    // a blue PNG, and in it, in a chunk that nobody knows, a red one: one glyph, the blue one. So long that the blue one has a byte too many: the red one
    unsigned char png[2][256], zeros[1] = {0};
    size_t size[2];
    for (int i = 0; i < 2; i++) font(), add_plain(i ? 0xff0000 : 0x0000ff, 255), size[i] = text.size - 25, memcpy(png[i], text.at + 25, size[i]), text.size = 0;
    for (int more = 0; more < 3; more++) {
        size_t chunk = more ? (size_t)PNG_BYTES - 12 - size[0] + (size_t)more - 1 : size[1];
        font(), add(png[0], 33), add_word((uint32_t)chunk), add("zzzz", 4), add(png[1], size[1]);      // 33: signature and header
        for (size_t i = size[1]; i < chunk + 4; i++) add(zeros, 1);
        add(png[0] + 33, size[0] - 33);
        error = images_parse(&m, text.at, text.size);
        CHECK(!error && m.n == 1 && m.label[0] == (more < 2 ? 5 : 1), "case %d: %d glyphs, %s", more, m.n, error ? error : color_names[m.label[0]]);
        images_free(&m), text.size = 0;
    }
    font(), add(png[0], size[0]), text.at[text.size - 9] = 100;         // its end promises more than is there
    refuses(saved("a.ttf"), false, "a font without PNGs");
    static unsigned char wide[1025 * 4];
    for (int w = 1024; w < 1026; w++) {
        font(), add_png(wide, w, 1, 4);
        path = saved("a.ttf");
        if (w > 1024) refuses(path, false, "a font without PNGs");
        else CHECK(!*refusal(path, false), "1024 pixels");
    }
}
#else
static void test_font(void) { puts("         skipped: no stb_image"); }
#endif

// ---- anything -----------------------------------------------------------------------------------------------------------------

// Broken files are refused, or are pictures with classes; sanitizers watch. Each lies in memory of its own length.
static void test_any_bytes(void) {
    Rng r = rng(1, RNG_EVAL, 0);
    int pictures = 0, labels = 0;
    for (int round = 0; round < 3000; round++) {
        int kind = below(&r, 4), changes = below(&r, 4);
        text.size = 0;
        if (kind == 0) idx_pictures(1 + below(&r, 9), 1 + below(&r, 34), 1 + below(&r, 34), round);
        if (kind == 1) cifar(1 + below(&r, 3), round);
        if (kind == 2) idx_labels(below(&r, 9), 0);
#if defined(STB_IMAGE_IMPLEMENTATION) && defined(STB_IMAGE_WRITE_IMPLEMENTATION)
        if (kind == 3) { font(); for (int i = below(&r, 4); i >= 0; i--) add_plain((unsigned)below(&r, 1 << 24), below(&r, 256)); }
#endif
#ifdef ZLIB_VERSION
        bool gz = below(&r, 3) == 0;
        if (gz) pack(), text = packed;
#endif
        while (changes-- && text.size) {
            int at = below(&r, below(&r, 2) && text.size > 40 ? 40 : (int)text.size);
            if (below(&r, 8) == 0) text.size = (size_t)at;
            else text.at[at] = (unsigned char)(below(&r, 2) ? below(&r, 256) : text.at[at] ^ 1 << below(&r, 8));
        }
        unsigned char *bytes = memcpy(NEW(unsigned char, text.size), text.at, text.size), *out = NULL;
        size_t size = text.size, unpacked = 0;
        const char *error = NULL;
        Images m = {.n = 1 + below(&r, 9), .classes = 10};
        if (!labels_parse(&m, bytes, size)) labels++;
        images_free(&m);
#ifdef ZLIB_VERSION
        if (gz) error = gunzip(&out, &unpacked, bytes, size, 1 << 24);
#endif
        if (!error) error = images_parse(&m, out ? out : bytes, out ? unpacked : size);
        if (error) CHECK(*error && !strchr(error, '\n') && !m.pixel && !m.label, "round %d: '%s'", round, error);
        else {
            int bad = 0;
            text.size = 0, idx_labels(m.n, round);
            if (!m.label) error = labels_parse(&m, text.at, text.size);
            for (int i = 0; i < m.n && !error; i++) bad += m.label[i] >= m.classes;
            CHECK(!error && !bad && m.n > 0 && m.size == 32 && *m.name[m.classes - 1], "round %d: %d pictures, %d labels are wrong: %s", round, m.n, bad, error);
            pictures++;
        }
        images_free(&m), free(bytes), free(out);
    }
    CHECK(pictures > 500 && pictures < 2500 && labels > 5, "%d of 3000 accepted, %d as labels", pictures, labels);
    text.size = 0;
}

// ---- the real thing -----------------------------------------------------------------------------------------------------------
static void test_fashion(void) {
    const char *file = "data/cache/fashion-mnist/train-images-idx3-ubyte.gz";
    if (!exists(file) || !zlib) return;
    for (int test = 0; test < 2; test++) {
        Images m = images_open(file, test);
        int count[10] = {0}, n = test ? 10000 : 60000;
        double sum = 0, squares = 0;
        long border = 0;
        CHECK(m.n == n && m.channels == 1, "%d pictures", m.n);
        for (int i = 0; i < m.n; i++) {
            count[m.label[i]]++;
            for (int y = 0; y < 32; y++)
                for (int x = 0; x < 32; x++) {
                    double p = m.pixel[(i*32 + y)*32 + x] / 255.0;
                    if (y < 2 || y > 29 || x < 2 || x > 29) border += p != 0;
                    else sum += p, squares += p*p;
                }
        }
        double pixels = 784.0 * m.n, mean = sum / pixels;
        CHECK(!border, "%ld pixels of the border", border);
        for (int k = 0; k < 10; k++) CHECK(count[k] == n / 10, "%s: %d", m.name[k], count[k]);
        if (!test) CHECK_CLOSE("mean", mean, 0.2860, 5e-5);
        if (!test) CHECK_CLOSE("std", sqrt(squares / pixels - mean*mean), 0.3530, 5e-5);
        CHECK(!strcmp(m.name[9], "boot") && (test || m.label[0] == 9), "the first is a boot");
        images_free(&m);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_images SCRATCH_DIRECTORY"); return 2; }
    Path folder = path_in(argv[1], "images");
    scratch = folder.text;
    make_directory(scratch);
    test_idx();
    test_idx_refusals();
    test_gzip();
    test_cifar();
    test_font();
    test_any_bytes();
    test_fashion();
    return finish("test_images");
}
