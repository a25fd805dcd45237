// images.h: small pictures, each of a class, from files that others have made.
//   images_open()   the training or the test part of a data set. Its file, gzip'ed or not, is known by its bytes, not by its name:
//     IDX       MNIST and its kin (Fashion-MNIST, KMNIST): grey, up to 32 x 32, in even margins of 0; "labels-idx1" in place of "images-idx3" names the labels
//     CIFAR-10  binary, 32 x 32 in colour (cat data_batch_?.bin >data_batch_12345.bin joins the five files of the training part)
//     a font    that holds PNGs, such as NotoColorEmoji.ttf: glyphs on white, shrunk to 32 x 32; a glyph's class is its colour
// The test part is a file of its own if it is there: "t10k-" in place of "train-" (IDX), "test_batch" in place of "data_batch_N" (CIFAR-10). Otherwise it is the
// last sixth of the pictures; of a font every sixth glyph, because neighbours are alike and the last are all of a kind.
#pragma once
#include "../io.h"
#if __has_include(<zlib.h>) && !defined NO_ZLIB            // NO_ZLIB: the header is there, the library is not
#include <zlib.h>
#endif

enum { IMAGE_EDGE = 32, IMAGE_AREA = IMAGE_EDGE * IMAGE_EDGE, MOST_IMAGES = 1 << 20, PNG_BYTES = 1 << 18, PNG_EDGE = 1024, PNG_MEMORY = 1 << 25 };

#if __has_include(<stb/stb_image.h>)
// what a PNG unpacks to is bounded too: a few bytes can stand for a thousand times as many
static void *png_memory(void *old, size_t bytes) { return bytes > PNG_MEMORY ? NULL : realloc(old, bytes); }
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_FAILURE_STRINGS
#define STBI_MAX_DIMENSIONS PNG_EDGE
#define STBI_MALLOC(bytes) png_memory(NULL, bytes)
#define STBI_REALLOC(old, bytes) png_memory(old, bytes)
#define STBI_FREE(old) free(old)
#pragma GCC diagnostic push                             // the warnings of others
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop
#endif

typedef struct Images {
    int n, classes, size, channels;                     // size: pixels of an edge, 32
    unsigned char *pixel, *label;                       // (n, channels, size, size), 0..255, channels red, green, blue or grey; (n), less than classes
    const char *const *name;                            // (classes), not to be freed
} Images;

static const char *const digit_names[10] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
static const char *const fashion_names[10] = {"T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"};
static const char *const cifar_names[10] = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
static const char *const color_names[7] = {"grey", "red", "orange", "yellow", "green", "blue", "purple"};

static void images_free(Images *m) { free(m->pixel), free(m->label), *m = (Images){0}; }

// ---- 1. formats ---------------------------------------------------------------------------------------------------------------
// Each function returns NULL, or what is wrong with the bytes in words that stand until the next call; then there is nothing to be freed.

__attribute__((format(printf, 1, 2))) static const char *wrong(const char *format, ...) {
    static char message[160];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return message;
}
static uint32_t big_endian(const unsigned char *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

// What gzip'ed bytes stand for -> *out (*n), to be freed; at most `most` bytes
static const char *gunzip(unsigned char **out, size_t *n, const unsigned char *bytes, size_t size, size_t most) {
    *out = NULL, *n = 0;
#ifdef ZLIB_VERSION
    if (size > most) return wrong("more than %zu bytes", most);
    z_stream z = {.next_in = (unsigned char *)bytes, .avail_in = (uInt)size};
    size_t room = 0;
    int status = inflateInit2(&z, 16 + MAX_WBITS);      // 16: gzip, checksum included
    while (status == Z_OK && *n < most) {
        if (*n == room) {
            room = room ? 2*room : 4*size + 64;
            if (room > most) room = most;
            if (!(*out = realloc(*out, room))) die("out of memory: %zu bytes are not to be had", room);
        }
        z.next_out = *out + *n, z.avail_out = (uInt)(room - *n);
        status = inflate(&z, Z_NO_FLUSH);
        *n = room - z.avail_out;
    }
    inflateEnd(&z);
    if (status == Z_STREAM_END && !z.avail_in) return NULL;
    free(*out), *out = NULL;
    if (status == Z_MEM_ERROR) die("out of memory");
    if (status == Z_STREAM_END) return wrong("gzip'ed, but something stands behind its end (%u bytes)", z.avail_in);
    if (status == Z_OK) return wrong("gzip has packed %zu bytes or more", most);
    return status == Z_BUF_ERROR ? "gzip'ed, but truncated" : "gzip'ed, but broken";
#else
    (void)bytes, (void)size, (void)most;
    return "gzip'ed, and built without zlib (make setup installs it, then make clean all)";
#endif
}

// IDX: 00 00 08 03, then n, height and width, big-endian, then pixels. The label is not here: m->label stays NULL.
static const char *idx_parse(Images *m, const unsigned char *bytes, size_t size) {
    if (size < 16) return "IDX, but its header is truncated";
    uint32_t n = big_endian(bytes + 4), h = big_endian(bytes + 8), w = big_endian(bytes + 12);
    if (n < 1 || n > MOST_IMAGES) return wrong("IDX of %u pictures (1 to %d are possible)", n, MOST_IMAGES);
    if (h < 1 || w < 1 || h > IMAGE_EDGE || w > IMAGE_EDGE) return wrong("IDX of pictures of %u x %u pixels (1 x 1 to %d x %d are possible)", h, w, IMAGE_EDGE, IMAGE_EDGE);
    size_t need = 16 + (size_t)n * h * w;
    if (size != need) return wrong("IDX, %u pictures of %u x %u: %zu bytes are needed, %zu are there", n, h, w, need, size);
    *m = (Images){(int)n, 10, IMAGE_EDGE, 1, NEW(unsigned char, (size_t)n * IMAGE_AREA), NULL, digit_names};
    size_t top = (IMAGE_EDGE - h)/2, left = (IMAGE_EDGE - w)/2;
    for (size_t row = 0; row < (size_t)n * h; row++) memcpy(m->pixel + (row/h * IMAGE_EDGE + top + row%h) * IMAGE_EDGE + left, bytes + 16 + row*w, w);
    return NULL;
}

// The labels of idx_parse()'s pictures: 00 00 08 01, then n, then a byte each
static const char *labels_parse(Images *m, const unsigned char *bytes, size_t size) {
    if (size < 8 || big_endian(bytes) != 0x0801) return "not IDX labels (the first bytes should be 00 00 08 01)";
    if (big_endian(bytes + 4) != (uint32_t)m->n) return wrong("%u labels for %d pictures", big_endian(bytes + 4), m->n);
    if (size != 8 + (size_t)m->n) return wrong("IDX, %d labels: %zu bytes are needed, %zu are there", m->n, 8 + (size_t)m->n, size);
    for (int i = 0; i < m->n; i++) if (bytes[8 + i] >= m->classes) return wrong("picture %d has label %d (0 to %d are possible)", i, bytes[8 + i], m->classes - 1);
    m->label = memcpy(allocate((size_t)m->n), bytes + 8, (size_t)m->n);
    return NULL;
}

// CIFAR-10: records of a label and three planes
static const char *cifar_parse(Images *m, const unsigned char *bytes, size_t size) {
    enum { PLANES = 3 * IMAGE_AREA, RECORD = 1 + PLANES };
    size_t n = size / RECORD;
    if (n < 1 || n > MOST_IMAGES || size % RECORD) return "neither IDX pictures (MNIST), nor CIFAR-10 (binary), nor a font with PNGs (NotoColorEmoji.ttf)";
    for (size_t i = 0; i < n; i++) if (bytes[i * RECORD] >= 10) return wrong("of CIFAR-10's size, but picture %zu has label %d (0 to 9 are possible)", i, bytes[i * RECORD]);
    *m = (Images){(int)n, 10, IMAGE_EDGE, 3, NEW(unsigned char, n * PLANES), NEW(unsigned char, n), cifar_names};
    for (size_t i = 0; i < n; i++) m->label[i] = bytes[i * RECORD], memcpy(m->pixel + i * PLANES, bytes + i * RECORD + 1, PLANES);
    return NULL;
}

// bytes of the PNG that begins here, from its signature to its IEND; 0 if there is no such end
static size_t png_size(const unsigned char *png, size_t left) {
    if (left > PNG_BYTES) left = PNG_BYTES;
    for (size_t at = 8, length; at + 12 <= left; at += 12 + length) {       // a chunk: length, name, data, checksum
        length = big_endian(png + at);
        if (length > left - at - 12) return 0;
        if (!memcmp(png + at + 4, "IEND", 4)) return at + 12 + length;
    }
    return 0;
}

// rgba (h, w, 4) in the middle of a white square -> pixel (3, 32, 32): the mean over the area that each pixel covers. Exact: lengths are counted in
// 1/(32 side) of the square's edge, so that a pixel of rgba is 32 long and one of the picture `side`.
static int shared_length(int from, int to, int side) {  // by pixel `from` of rgba and pixel `to` of the picture, along one edge
    int start = from * IMAGE_EDGE > to * side ? from * IMAGE_EDGE : to * side, a = (from + 1) * IMAGE_EDGE, b = (to + 1) * side;
    return (a < b ? a : b) - start;
}
static void glyph_shrink(unsigned char *pixel, const unsigned char *rgba, int w, int h) {
    int side = w > h ? w : h, left = (side - w)/2, top = (side - h)/2;
    uint64_t dark[3 * IMAGE_AREA] = {0}, whole = 255 * (uint64_t)(side * side);         // what each pixel lacks to white
    for (int y = top; y < top + h; y++)
        for (int x = left; x < left + w; x++, rgba += 4)
            for (int Y = y * IMAGE_EDGE / side; rgba[3] && Y * side < (y + 1) * IMAGE_EDGE; Y++)
                for (int X = x * IMAGE_EDGE / side; X * side < (x + 1) * IMAGE_EDGE; X++) {
                    uint64_t area = (uint64_t)shared_length(y, Y, side) * (uint64_t)shared_length(x, X, side);
                    for (int c = 0; c < 3; c++) dark[c*IMAGE_AREA + Y*IMAGE_EDGE + X] += area * rgba[3] * (255u - rgba[c]);
                }
    for (int i = 0; i < 3 * IMAGE_AREA; i++) pixel[i] = (unsigned char)(255 - (dark[i] + whole/2) / whole);
}

// The colour of a picture (3, 32, 32): that of most of its saturated pixels, whose largest channel is 48 or more above the smallest. By hue, in degrees: red
// from -20, orange from 20, yellow from 45, green from 70, blue from 170, purple from 260. Grey if less than a 32nd of the pixels is saturated.
static int color_class(const unsigned char *pixel) {
    static const int from[7] = {0, -20, 20, 45, 70, 170, 260};
    int count[7] = {0}, saturated = 0, best = 1;
    for (int i = 0; i < IMAGE_AREA; i++) {
        int r = pixel[i], g = pixel[IMAGE_AREA + i], b = pixel[2*IMAGE_AREA + i], k = 6;
        int most = r > g ? r : g, least = r < g ? r : g;
        if (b > most) most = b; else if (b < least) least = b;
        if (most - least < 48) continue;
        double hue = 60 * (most == r ? 0 : most == g ? 2 : 4) + 60.0 * (most == r ? g - b : most == g ? b - r : r - g) / (most - least);      // -60 to 300
        while (k > 1 && hue < from[k]) k--;
        if (hue < from[1]) k = 6;
        count[k]++, saturated++;
    }
    for (int k = 2; k < 7; k++) if (count[k] > count[best]) best = k;
    return saturated < IMAGE_AREA / 32 ? 0 : best;
}

// The PNGs of a font, wherever they stand; those that do not decode are passed over
static const char *font_parse(Images *m, const unsigned char *bytes, size_t size) {
#ifdef STB_IMAGE_IMPLEMENTATION
    *m = (Images){0, 7, IMAGE_EDGE, 3, NULL, NULL, color_names};
    const unsigned char *at = bytes, *end = bytes + size;
    while ((at = memmem(at, (size_t)(end - at), "\x89PNG\r\n\x1a\n", 8)) && m->n < MOST_IMAGES) {
        size_t length = png_size(at, (size_t)(end - at));
        int w, h, channels;
        unsigned char *rgba = length ? stbi_load_from_memory(at, (int)length, &w, &h, &channels, 4) : NULL;
        at += rgba ? length : 8;
        if (!rgba) continue;
        m->pixel = grow(m->pixel, m->n, 3 * IMAGE_AREA), m->label = grow(m->label, m->n, 1);
        unsigned char *pixel = m->pixel + (size_t)m->n * 3 * IMAGE_AREA;
        glyph_shrink(pixel, rgba, w, h);
        m->label[m->n++] = (unsigned char)color_class(pixel);
        free(rgba);
    }
    return m->n ? NULL : "a font without PNGs (NotoColorEmoji.ttf has some)";
#else
    (void)m, (void)bytes, (void)size;
    return "a font, whose PNGs are not read: built without stb_image (make setup installs it, then make clean all)";
#endif
}

// Any of the three. The labels of IDX are still to be read: labels_parse().
static const char *images_parse(Images *m, const unsigned char *bytes, size_t size) {
    uint32_t magic = size < 4 ? 0 : big_endian(bytes);
    *m = (Images){0};
    if (magic == 0x0803) return idx_parse(m, bytes, size);
    const char *error = cifar_parse(m, bytes, size);    // which may begin like a font
    return error && magic == 0x10000 ? font_parse(m, bytes, size) : error;
}

// ---- 2. files -----------------------------------------------------------------------------------------------------------------

// The whole file, unpacked if it is gzip'ed; the caller frees it.
static unsigned char *images_read(const char *path, size_t *size) {
    unsigned char *bytes = read_file(path, size), *packed = bytes;
    if (*size < 2 || bytes[0] != 0x1f || bytes[1] != 0x8b) return bytes;
    const char *error = gunzip(&bytes, size, packed, *size, (size_t)1 << 30);
    if (error) die("%s: %s", path, error);
    free(packed);
    return bytes;
}

// Does the last part of path contain `from`, perhaps followed by digits? Then other is path with `to` in its place.
static bool other_name(Path *other, const char *path, const char *from, const char *digits, const char *to) {
    const char *slash = strrchr(path, '/'), *at = strstr(slash ? slash + 1 : path, from);
    if (!at) return false;
    const char *rest = at + strlen(from) + strspn(at + strlen(from), digits);
    if ((size_t)snprintf(other->text, sizeof other->text, "%.*s%s%s", (int)(at - path), path, to, rest) >= sizeof other->text) die("%s: path too long", path);
    return true;
}

// test: which part. Ends the program with one line if anything is wrong.
static Images images_open(const char *path, bool test) {
    Path other, labels;
    bool two = (other_name(&other, path, "train-", "", "t10k-") || other_name(&other, path, "data_batch_", "0123456789", "test_batch")) && exists(other.text);
    if (two && test) path = other.text;
    Images m;
    size_t size;
    unsigned char *bytes = images_read(path, &size);
    const char *error = images_parse(&m, bytes, size);
    if (error) die("%s: %s", path, error);
    free(bytes);
    if (!m.label) {
        if (!other_name(&labels, path, "images-idx3", "", "labels-idx1")) die("%s: the name of IDX pictures must contain images-idx3; with labels-idx1 in its place it names their labels", path);
        if (!exists(labels.text)) die("%s: the labels of %s should be here, and are missing", labels.text, path);
        bytes = images_read(labels.text, &size);
        if ((error = labels_parse(&m, bytes, size))) die("%s: %s", labels.text, error);
        free(bytes);
        if (strcasestr(path, "fashion")) m.name = fashion_names;
    }
    if (two) return m;

    int all = m.n;
    size_t area = (size_t)m.channels * IMAGE_AREA;
    m.n = 0;
    for (int i = 0; i < all; i++) {
        bool of_test = m.name == color_names ? i % 6 == 5 : i >= all - all/6;
        if (of_test == test) m.label[m.n] = m.label[i], memmove(m.pixel + area * (size_t)m.n++, m.pixel + area * (size_t)i, area);
    }
    if (!m.n) die("%s: of fewer than six pictures (%d) none is for testing", path, all);
    return m;
}
