// test_common.c: random numbers against published answers, memory, safetensors (round trip and refusals), the command line, text and vocabulary.
#define TESTING
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// fsync and rename as io.h calls them, watched: the order in which a file reaches the disk
static char order[256];
static long long synced_size;
static int watched_fsync(int fd) {
    struct stat s;
    fstat(fd, &s);
    strcat(order, S_ISDIR(s.st_mode) ? "directory " : "file ");
    if (!S_ISDIR(s.st_mode)) synced_size = (long long)s.st_size;
    return fsync(fd);
}
static int watched_rename(const char *from, const char *to) { strcat(order, "rename "); return rename(from, to); }
#define fsync watched_fsync
#define rename watched_rename
#include "../bd3lm.c"
#include "check.h"
#include <sys/resource.h>
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

static void test_philox(void) {
    // known answers of Random123 (kat_vectors, philox4x32 with 10 rounds): counter, key -> four words
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; i++) {
        const uint32_t *k = kat[i];
        Philox x = philox((uint64_t)k[5] << 32 | k[4], (uint64_t)k[3] << 32 | k[2], (uint64_t)k[1] << 32 | k[0]);
        for (int j = 0; j < 4; j++) CHECK(x.w[j] == k[6 + j], "vector %d word %d: %08x", i, j, x.w[j]);
    }
    Rng a = rng(5, RNG_DATA, 3), b = rng(5, RNG_DATA, 4), c = rng(5, RNG_DATA, 3);
    double mean = 0;
    int counts[7] = {0}, n = 70000;
    for (int i = 0; i < n; i++) {
        double x = uniform(&a);
        CHECK(x >= 0 && x < 1, "%g", x);
        mean += x / n;
        counts[below(&b, 7)]++;
    }
    CHECK_CLOSE("mean of uniforms", mean, 0.5, 5 * sqrt(1.0/12/n));
    for (int i = 0; i < 7; i++) CHECK_CLOSE("below(7)", counts[i] / (double)n, 1.0/7, 5 * sqrt(6.0/49/n));
    a.index = 0;
    CHECK(uniform(&a) == uniform(&c), "the same stream twice");
}

// On the CPU, where any memory will do. Moments within five standard errors; neighbours, streams and seeds have nothing to do with each other; the limit is met as often as it must be
static void test_gaussian(void) {
    enum { N = 100000 };
    float *x = NEW(float, N), *limited = NEW(float, N), *other = NEW(float, N);
    double moment[5] = {0}, beside = 0, next = 0, stream = 0, seed = 0;
    int at_limit = 0, elsewhere = 0;
    gaussian(x, 5, 3, INFINITY, N), gaussian(limited, 5, 3, 1.5, N);
    for (int i = 0; i < N; i++) {
        for (int k = 1; k <= 4; k++) moment[k] += pow(x[i], k) / N;
        if (i >= 2) beside += (double)x[i] * x[i - 1] / N, next += (double)x[i] * x[i - 2] / N;
        at_limit += fabsf(limited[i]) == 1.5f;
        elsewhere += limited[i] != fminf(fmaxf(x[i], -1.5f), 1.5f);
    }
    CHECK(elsewhere == 0, "%d numbers are limited to something else", elsewhere);
    gaussian(other, 5, 4, INFINITY, N);
    for (int i = 0; i < N; i++) stream += (double)x[i] * other[i] / N;
    gaussian(other, 6, 3, INFINITY, N);
    for (int i = 0; i < N; i++) seed += (double)x[i] * other[i] / N;
    CHECK_CLOSE("mean", moment[1], 0, 5 / sqrt(N));
    CHECK_CLOSE("variance", moment[2], 1, 5 * sqrt(2.0 / N));
    CHECK_CLOSE("third moment", moment[3], 0, 5 * sqrt(15.0 / N));
    CHECK_CLOSE("fourth moment", moment[4], 3, 5 * sqrt(96.0 / N));
    CHECK_CLOSE("product of neighbours", beside, 0, 5 / sqrt(N));
    CHECK_CLOSE("product with the number after the next", next, 0, 5 / sqrt(N));
    CHECK_CLOSE("product with another stream", stream, 0, 5 / sqrt(N));
    CHECK_CLOSE("product with another seed", seed, 0, 5 / sqrt(N));
    double share = erfc(1.5 / sqrt(2));
    CHECK_CLOSE("share at the limit", at_limit / (double)N, share, 5 * sqrt(share * (1 - share) / N));
    free(x), free(limited), free(other);
}

// ---- safetensors -----------------------------------------------------------------------------------------------------------------
static const char *parse(const char *header, size_t data, SafeTensors *st) {   // a file made of this header and `data` zero bytes
    size_t n = strlen(header);
    unsigned char *bytes = allocate(8 + n + data);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(n >> 8*i);
    memcpy(bytes + 8, header, n);
    const char *error = st_parse(st, bytes, 8 + n + data);
    if (error) free(bytes); else st->file = bytes;
    return error;
}

static void test_safetensors(const char *dir) {
    Path place = path_in(dir, "x.safetensors");
    const char *path = place.text;
    unlink(path);
    StWriter w = st_create(path);
    st_declare_meta(&w, "tricky \"key\"\n", "back\\slash \xc3\xa9 \x01");
    st_end_meta(&w);
    size_t shape[2] = {2, 3}, scalar = 1;
    st_declare(&w, "a.b", "F32", 2, shape);
    st_declare(&w, "n", "I32", 1, &scalar);
    float x[6] = {1, -2, 3.5f, NAN, INFINITY, 1e-40f};
    int n = -7;
    st_write(&w, x, sizeof x);
    CHECK(!exists(path), "the file exists before the commit");
    st_write(&w, &n, sizeof n);
    st_commit(&w);
    struct stat whole;
    CHECK(!strcmp(order, "file rename directory ") && !stat(path, &whole) && whole.st_size == synced_size, "%s, %lld bytes", order, synced_size);
    SafeTensors st = st_open(path);
    const StTensor *t = st_find(&st, "a.b"), *u = st_find(&st, "n");
    CHECK(t && t->dims == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->count == 6, "shape");
    for (int i = 0; i < 6 && t; i++) { float y = (float)st_number(t, (size_t)i); CHECK(!memcmp(&y, &x[i], 4) || (isnan(y) && isnan(x[i])), "element %d", i); }
    CHECK(u && st_number(u, 0) == -7 && !st_is_real(u), "integer");
    CHECK(!st_find(&st, "c") && st_meta(&st, "tricky \"key\"\n") && !strcmp(st_meta(&st, "tricky \"key\"\n"), "back\\slash \xc3\xa9 \x01"), "metadata");
    st_free(&st);

    // every dtype
    const char *all = "{\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},\"l\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]},\"h\":{\"dtype\":\"F16\",\"shape\":[6],\"data_offsets\":[16,28]},"
                      "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[28,32]},\"u\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[32,33]},\"t\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[33,34]}}";
    CHECK(!parse(all, 34, &st), "every dtype");
    double d = 0.1;
    int64_t l = -5000000000;
    uint16_t half[6] = {0x3C00, 0xC000, 0x0001, 0x7C00, 0x7E00, 0x3555}, brain[2] = {0x3F80, 0xC049};
    unsigned char *data = st.file + 8 + strlen(all), u8 = 255, yes = 1;
    memcpy(data, &d, 8), memcpy(data + 8, &l, 8), memcpy(data + 16, half, 12), memcpy(data + 28, brain, 4), memcpy(data + 32, &u8, 1), memcpy(data + 33, &yes, 1);
    CHECK(st_number(st_find(&st, "d"), 0) == 0.1 && st_number(st_find(&st, "l"), 0) == -5e9 && st_number(st_find(&st, "u"), 0) == 255 && st_number(st_find(&st, "t"), 0) == 1, "F64 I64 U8 BOOL");
    t = st_find(&st, "h");
    CHECK(st_number(t, 0) == 1 && st_number(t, 1) == -2 && st_number(t, 2) == 0x1p-24 && isinf(st_number(t, 3)) && isnan(st_number(t, 4)) && st_number(t, 5) == 0.333251953125, "F16");
    CHECK(st_number(st_find(&st, "b"), 0) == 1 && st_number(st_find(&st, "b"), 1) == -3.140625, "BF16");
    st_free(&st);
    CHECK(!parse("{\"__metadata__\":{\"k\":\"\\u00e9\\ud83d\\ude00\\n\"}}  ", 0, &st) && !strcmp(st_meta(&st, "k"), "\xc3\xa9\xf0\x9f\x98\x80\n"), "\\u escapes");
    st_free(&st);

    // what must be refused, each for its own reason
    #define T(rest) "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}" rest
    static const struct { const char *header; size_t data; const char *word; } bad[] = {
        {"", 0, "object"}, {"[]", 0, "object"}, {"{", 0, "string expected"}, {T(""), 8, "'}'"}, {T("} x"), 8, "behind"}, {T("}"), 7, "outside"}, {T("}"), 9, "fill"},
        {T(",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}"), 12, "overlap"}, {T(",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}"), 16, "gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,32]}}", 32, "twice"}, {"{\"__metadata__\":{\"k\":\"1\",\"l\":\"2\",\"k\":\"3\"}}", 0, "key twice"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "unknown dtype"}, {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "disagree"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "outside"}, {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "lacks"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "whole number"}, {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8, "too large"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,8]}}", 8, "too large"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "8 dimensions"}, {"{\"a\":{\"dtype\":\"F32\",\"colour\":[2],\"data_offsets\":[0,8]}}", 8, "unknown field"},
        {T(",\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}"), 8, "one name"}, {"{\"a\\x\":1}", 0, "bad escape"}, {"{\"a\\u12g4\":1}", 0, "bad \\u escape"}, {"{\"a\\ud800\":1}", 0, "no character"},
        {"{\"a\n\":1}", 0, "control"}, {"{\"a", 0, "without end"}, {"{\"a\" 1}", 0, "':'"}, {"{\"a\":1}", 0, "'{'"}, {"{\"__metadata__\":{\"k\":1}}", 0, "string expected"},
        {"{\"__metadata__\":[]}", 0, "'{'"}, {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "'['"}, {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "','"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *error = parse(bad[i].header, bad[i].data, &st);
        CHECK(error && strstr(error, bad[i].word), "%s: '%s', not '%s'", bad[i].header, error ? error : "accepted", bad[i].word);
        if (!error) st_free(&st);
    }
    // a tensor without elements may stand between two others; a long header of many tensors takes no more memory than it is long
    CHECK(!parse(T(",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},\"c\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}"), 12, &st), "an empty tensor");
    st_free(&st);
    size_t room = (size_t)4 << 20, used = 1;
    char *many = NEW(char, room);
    many[0] = '{';
    for (int i = 0; used + 100 < room; i++) used += (size_t)sprintf(many + used, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
    strcpy(many + used, "}");
    struct rlimit limit, old;
    getrlimit(RLIMIT_AS, &old);
    limit = old;
    limit.rlim_cur = (rlim_t)1 << 30;
    if (!SANITIZED) setrlimit(RLIMIT_AS, &limit);        // a sanitizer's own memory does not fit in there
    CHECK(!parse(many, 0, &st) && st.tensors > 50000, "a header of 4 MB");
    setrlimit(RLIMIT_AS, &old);
    st_free(&st);
    free(many);
    unsigned char tiny[8] = {9};
    CHECK(st_parse(&st, tiny, 7) && st_parse(&st, tiny, 8) && strstr(st_parse(&st, tiny, 8), "longer"), "a file shorter than its header");
}

// ---- options -----------------------------------------------------------------------------------------------------------------------
static void test_options(void) {
    int i = 3;
    double r = 0.1;
    const char *s = "x";
    bool f = false;
    char text[64];
    Option o[] = {{"i", INT, &i, 1, 10, " a b ", "", false, false}, {"r", REAL, &r, 0, 1, " a ", "", false, false}, {"s", TEXT, &s, 0, 0, " ab ", "", false, false}, {"f", FLAG, &f, 0, 1, " a ", "", false, false}};
    CHECK(option_set(&o[0], "7") && i == 7 && !option_set(&o[0], "0") && !option_set(&o[0], "11") && !option_set(&o[0], "7x") && !option_set(&o[0], "") && !option_set(&o[0], "1e3") && i == 7, "INT");
    CHECK(!option_set(&o[0], "99999999999999999999"), "INT overflow");
    CHECK(option_set(&o[1], "1e-3") && r == 1e-3 && !option_set(&o[1], "nan") && !option_set(&o[1], "inf") && !option_set(&o[1], "2") && !option_set(&o[1], "a") && r == 1e-3, "REAL");
    r = 0.1 + 0.2;
    option_format(&o[1], text, sizeof text);
    CHECK(strtod(text, NULL) == r, "a number survives being written: %s", text);
    CHECK(option_has(&o[0], "a") && option_has(&o[0], "b") && !option_has(&o[2], "a") && option_has(&o[2], "ab"), "verbs");
}

// ---- text --------------------------------------------------------------------------------------------------------------------------
static void test_text(void) {
    const char *text = "the cat sat on the mat, the cat ate the rat; the end\n\xc3\xa9t\xc3\xa9 is not the end of the cat";
    size_t size = strlen(text);
    for (int merges = 0; merges <= 40; merges += 8) {
        Vocabulary v = vocabulary_learn(text, size, false, merges);
        CHECK(v.merges <= merges && v.size == 256 + v.merges + 2 && v.bos == v.size - 2 && v.mask == v.size - 1, "V = %d", v.size);
        int *id = NEW(int, size);
        char *out = NEW(char, size * 64 + 1);
        size_t n = encode(&v, text, size, id);
        CHECK(n <= size && (v.merges == 0) == (n == size) && decode(&v, id, n, "?", out) == size && !memcmp(out, text, size), "%d merges: %zu ids", v.merges, n);
        for (size_t i = 0; i < n; i++) CHECK(id[i] >= 0 && id[i] < v.bos, "id %d", id[i]);
        if (merges >= 8) {                               // counted by hand: th, he and at stand 7 times each; th is seen first, then at, then th+e
            CHECK(!memcmp(v.piece[256], "th", 2) && !memcmp(v.piece[257], "at", 2) && v.length[258] == 3 && !memcmp(v.piece[258], "the", 3), "first merges");
            Vocabulary w = vocabulary_create(false, v.merges, (const int (*)[2])v.merge);
            int *again = NEW(int, size);
            CHECK(encode(&w, text, size, again) == n && !memcmp(id, again, n * sizeof(int)), "the merges alone give the same ids");
            free(again);
            vocabulary_free(&w);
        }
        free(id), free(out);
        vocabulary_free(&v);
    }
    int pairs[2][2] = {{'t', 'h'}, {'h', 'e'}}, ids[8];   // the earlier merge wins: th+e, not t+he
    Vocabulary two = vocabulary_create(false, 2, (const int (*)[2])pairs);
    CHECK(encode(&two, "the he", 6, ids) == 4 && ids[0] == 256 && ids[1] == 'e' && ids[2] == ' ' && ids[3] == 257, "%d %d %d %d", ids[0], ids[1], ids[2], ids[3]);
    vocabulary_free(&two);
    char mixed[] = "Hello,  World! 42 times";
    size_t n = fold_text8(mixed, strlen(mixed));
    CHECK(n == 17 && !memcmp(mixed, "hello world times", 17), "%.*s", (int)n, mixed);
    Vocabulary v = vocabulary_create(true, 0, NULL);
    int id[17];
    encode(&v, mixed, n, id);
    CHECK(v.size == 29 && id[0] == 8 && id[5] == 0, "text8");
    vocabulary_free(&v);
    size_t from, to, end = 0;
    for (int s = TRAIN; s <= TEST; s++) { text_split(12345, s, &from, &to); CHECK(from == end && to > from, "split"); end = to; }
    CHECK(end == 12345, "splits cover the file");

    // sample quality on a case that can be counted by hand
    char *sample[2] = {"the cat zzz the cat", "on the mat"};
    size_t length[2] = {19, 10};
    Quality q = text_quality(sample, length, 2, text, size);
    CHECK_CLOSE("known_words", q.known_words, 6.0/7, 1e-12);            // the cat zzz the cat the mat ("on" is too short)
    CHECK_CLOSE("distinct2", q.distinct2, 5.0/6, 1e-12);                // the-cat cat-zzz zzz-the the-cat on-the the-mat
    CHECK(q.longest_copy == 10, "%d", q.longest_copy);                  // "on the mat"
    char *same[1] = {"abab"};
    CHECK_CLOSE("entropy", text_quality(same, (size_t[]){4}, 1, text, size).entropy, log(2), 1e-12);
    CHECK(text_quality(same, (size_t[]){4}, 1, text, size).longest_copy == 1, "one letter");
}

// ---- memory ------------------------------------------------------------------------------------------------------------------------
static void test_memory(void) {
    begin_dry_run();
    real *a = arena_take(&persistent, 100), *b = arena_take(&per_step, 10 * sizeof(real));
    real x[10] = {1}, y[10] = {2};
    upload(b, x, sizeof x);                              // nothing may be touched in a dry run
    fill(b, 3, 10);
    download(y, b, sizeof y);
    CHECK(a && b && persistent.peak == 128 && per_step.peak == 64 && y[0] == 0, "dry run");
    end_dry_run(false);
    begin_step();
    b = arena_take(&per_step, 10 * sizeof(real));
    upload(b, x, sizeof x);
    download(y, b, sizeof y);
    CHECK(y[0] == 1 && (uintptr_t)b % 64 == 0, "upload, download");
    fill(b, 3, 10);
    download(y, b, sizeof y);
    CHECK(y[0] == 3 && y[9] == 3, "fill");
}

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_common SCRATCH_DIRECTORY"); return 2; }
    test_philox();
    test_gaussian();
    test_safetensors(argv[1]);
    test_options();
    test_text();
    test_memory();
    return finish("test_common");
}
