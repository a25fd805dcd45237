// test_video.c: pictures and their files.
#define TESTING
#include "../common.h"
#include "check.h"
#include <sys/wait.h>

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

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_video SCRATCH_DIRECTORY"); return 2; }
    test_drawing();
    test_png(argv[1]);
    return finish("test_video");
}
