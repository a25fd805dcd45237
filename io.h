// io.h: what touches the outside. Errors, files, safetensors, the command line, progress, pictures.
// Every byte that is read is checked before it is trusted; whatever is wrong gets one line on stderr that says what to do.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#pragma GCC diagnostic ignored "-Wunused-function"      // a header of static functions: no program uses all of them

// ---- 1. errors ----------------------------------------------------------------------------------------------------------------

static const char *program_name = "ardiff";

// A message that may quote a file stays one line, and of a sane length, whatever the file says
typedef struct Line { char text[1024]; } Line;
static Line one_line(const char *format, va_list args) {
    Line line;
    vsnprintf(line.text, sizeof line.text, format, args);
    for (char *p = line.text; *p; p++) if ((unsigned char)*p < ' ' || *p == 127) *p = '?';
    return line;
}

// One line on stderr, exit status 1. Say what is wrong, where, and what to do.
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", program_name, one_line(format, args).text);
    exit(1);
}

// Zeroed memory, to be freed; ends the program instead of returning NULL
static void *allocate(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) die("out of memory: %zu bytes are not to be had", bytes);
    return p;
}
// FNV-1a of n bytes
static uint64_t hash_bytes(const char *s, size_t n) {
    uint64_t h = 1469598103934665603u;
    while (n--) h = (h ^ (unsigned char)*s++) * 1099511628211u;
    return h ^ h >> 29;
}
#define NEW(type, n) ((type *)allocate(sizeof(type) * (size_t)(n)))

static double seconds(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }

// ---- 2. files -----------------------------------------------------------------------------------------------------------------

// The whole file, with a 0 behind its last byte (not counted in *size); the caller frees it.
static unsigned char *read_file(const char *path, size_t *size) {
    struct stat st;
    if (stat(path, &st)) die("%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) die("%s: not a regular file", path);       // before it is opened: a pipe would wait for its writer
    FILE *f = fopen(path, "rb");
    if (!f) die("%s: %s", path, strerror(errno));
    unsigned char *bytes = allocate((size_t)st.st_size + 1);
    *size = fread(bytes, 1, (size_t)st.st_size, f);
    if (*size != (size_t)st.st_size)
        die("%s: read %zu of %lld bytes: %s", path, *size, (long long)st.st_size, ferror(f) ? strerror(errno) : "the file shrank");
    fclose(f);
    return bytes;
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

// mkdir -p
static void make_directory(const char *path) {
    char part[4096];
    if (strlen(path) >= sizeof part) die("%s: path too long", path);
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] != '/' && path[i]) continue;
        memcpy(part, path, i);
        part[i] = 0;
        struct stat st;
        if (mkdir(part, 0777) && errno != EEXIST) die("cannot make the directory %s: %s", part, strerror(errno));
        if (stat(part, &st) || !S_ISDIR(st.st_mode)) die("%s is in the way: not a directory (choose another --out)", part);
    }
}

// Makes this process the only one that holds `path`, until it ends in whatever way: the kernel keeps the lock, no file tells of it. False if
// there is no such directory. A file system that knows no locks is taken as it is.
static bool lock_directory(const char *path) {
    int dir = open(path, O_RDONLY | O_DIRECTORY);
    if (dir < 0) return false;
    if (flock(dir, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) die("%s is in use: another process trains there (wait for it, or choose another --out)", path);
    return true;                                        // and stays open
}

// dir/name
typedef struct Path { char text[4096]; } Path;
static Path path_in(const char *dir, const char *name) {
    Path p;
    if ((size_t)snprintf(p.text, sizeof p.text, "%s/%s", dir, name) >= sizeof p.text) die("%s/%s: path too long", dir, name);
    return p;
}

// `file`, the stream that wrote `temporary`, becomes `path`: file to disk, rename over the old one, directory to disk. At every instant `path` is a whole
// file, the old or the new.
static void commit_file(FILE *file, const char *temporary, const char *path) {
    if (fflush(file) || fsync(fileno(file)) || fclose(file) || rename(temporary, path)) {
        int error = errno;
        unlink(temporary);
        die("cannot write %s: %s", path, strerror(error));
    }
    const char *slash = strrchr(path, '/');
    char *parent = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    int dir = parent ? open(parent, O_RDONLY | O_DIRECTORY) : -1;
    if (dir >= 0) fsync(dir), close(dir);
    free(parent);
}

// ---- 3. safetensors -----------------------------------------------------------------------------------------------------------
// A file is: 8 bytes header length n (little endian); n bytes of JSON, {"name": {"dtype": ..., "shape": [...], "data_offsets": [from, to]}, ...,
// "__metadata__": {string: string}}; data.

enum { ST_MAX_DIMS = 8 };
typedef struct StTensor {
    char *name, dtype[8];
    int dims;
    size_t shape[ST_MAX_DIMS], count, from, to;         // count elements in bytes [from, to) of the data
    const unsigned char *data;                          // not aligned: read through st_number()
} StTensor;
typedef struct SafeTensors {
    unsigned char *file;
    StTensor *tensor;
    char **key, **value;                                // metadata
    int tensors, pairs;
} SafeTensors;

static const struct { const char *name; size_t size; } st_types[] =
    {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"U8", 1}, {"BOOL", 1}};
static size_t st_type_size(const char *dtype) {
    for (size_t i = 0; i < sizeof st_types / sizeof *st_types; i++) if (!strcmp(dtype, st_types[i].name)) return st_types[i].size;
    return 0;
}

// A reader of the little JSON that a header may contain. `error` is the first thing that went wrong; then every function returns at once.
typedef struct Json { const unsigned char *at, *end; const char *error; } Json;

static void json_space(Json *j) { while (j->at < j->end && strchr(" \t\r\n", *j->at) && *j->at) j->at++; }
static bool json_take(Json *j, char c) {                // skips space; takes c if it is next
    json_space(j);
    if (j->error || j->at >= j->end || *j->at != c) return false;
    j->at++;
    return true;
}
static void json_need(Json *j, char c, const char *error) { if (!json_take(j, c) && !j->error) j->error = error; }

static int json_hex4(Json *j) {
    int x = 0;
    for (int i = 0; i < 4; i++) {
        int c = j->at < j->end ? *j->at++ : 0, digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) { j->error = "bad \\u escape in the header"; return 0; }
        x = x*16 + digit;
    }
    return x;
}

static char *json_string(Json *j) {                     // UTF-8, malloc'ed
    json_need(j, '"', "string expected in the header");
    size_t n = 0;
    const unsigned char *end = j->at;                   // decoded, a string is never longer than it stands there
    while (!j->error && end < j->end && *end != '"') end += 1 + (*end == '\\' && end + 1 < j->end);
    char *out = NEW(char, end - j->at + 1);
    while (!j->error) {
        if (j->at >= j->end) { j->error = "string without end in the header"; break; }
        unsigned c = *j->at++;
        if (c == '"') break;
        if (c < 32) { j->error = "control character in a string of the header"; break; }
        if (c != '\\') { out[n++] = (char)c; continue; }
        c = j->at < j->end ? *j->at++ : 0;
        const char *from = "\"\\/bfnrt", *to = "\"\\/\b\f\n\r\t", *e = c ? strchr(from, (int)c) : NULL;
        if (e) { out[n++] = to[e - from]; continue; }
        if (c != 'u') { j->error = "bad escape in a string of the header"; break; }
        unsigned u = (unsigned)json_hex4(j);
        if (u >= 0xD800 && u < 0xDC00 && j->end - j->at >= 6 && j->at[0] == '\\' && j->at[1] == 'u') {
            j->at += 2;
            unsigned low = (unsigned)json_hex4(j);
            u = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00) : 0;
        }
        if (!j->error && (u == 0 || (u >= 0xD800 && u < 0xE000))) j->error = "\\u escape that is no character";
        if (j->error) break;
        if (u < 0x80) out[n++] = (char)u;
        else {
            int more = u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
            out[n++] = (char)((0xFF00u >> (more + 1)) | (u >> 6*more));
            while (more--) out[n++] = (char)(0x80 | ((u >> 6*more) & 63));
        }
    }
    out[n] = 0;
    return out;
}

static size_t json_size(Json *j) {
    json_space(j);
    size_t x = 0;
    int digits = 0;
    for (; !j->error && j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++, digits++) {
        if (x > (SIZE_MAX - 9) / 10) { j->error = "number too large in the header"; return 0; }
        x = x*10 + (size_t)(*j->at - '0');
    }
    if (!digits && !j->error) j->error = "whole number expected in the header";
    return x;
}

static void st_free(SafeTensors *st) {
    for (int i = 0; i < st->tensors; i++) free(st->tensor[i].name);
    for (int i = 0; i < st->pairs; i++) free(st->key[i]), free(st->value[i]);
    free(st->tensor), free(st->key), free(st->value), free(st->file);
    *st = (SafeTensors){0};
}

static void st_parse_tensor(Json *j, StTensor *t) {
    int seen = 0, before;
    json_need(j, '{', "'{' expected in the header");
    do {
        char *field = json_string(j);
        json_need(j, ':', "':' expected in the header");
        before = seen;
        if (!strcmp(field, "dtype")) {
            char *dtype = json_string(j);
            if (!j->error && !st_type_size(dtype)) j->error = "unknown dtype";
            if (!j->error) strcpy(t->dtype, dtype);
            free(dtype);
            seen |= 1;
        } else if (!strcmp(field, "shape")) {
            json_need(j, '[', "'[' expected in the header");
            if (!json_take(j, ']')) {
                do {
                    if (t->dims == ST_MAX_DIMS) { j->error = "more than 8 dimensions"; break; }
                    t->shape[t->dims++] = json_size(j);
                } while (json_take(j, ','));
                json_need(j, ']', "']' expected in the header");
            }
            seen |= 2;
        } else if (!strcmp(field, "data_offsets")) {
            json_need(j, '[', "'[' expected in the header");
            t->from = json_size(j);
            json_need(j, ',', "',' expected in the header");
            t->to = json_size(j);
            json_need(j, ']', "']' expected in the header");
            seen |= 4;
        } else if (!j->error) j->error = "unknown field of a tensor";
        if (!j->error && seen == before) j->error = "a field of a tensor stands twice";
        free(field);
    } while (json_take(j, ','));
    json_need(j, '}', "'}' expected in the header");
    if (!j->error && seen != 7) j->error = "a tensor lacks dtype, shape or data_offsets";
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static int by_place(const void *a, const void *b) {
    const StTensor *const *s = a, *const *t = b;
    if ((*s)->from != (*t)->from) return (*s)->from < (*t)->from ? -1 : 1;
    return (*s)->to < (*t)->to ? -1 : (*s)->to > (*t)->to;
}

// What no tensor shows alone: two of one name, a gap or an overlap. Sorted, so that a file of a million tensors does not take hours.
static const char *st_parse_whole(const SafeTensors *st, size_t data_size) {
    size_t n = (size_t)(st->tensors > st->pairs ? st->tensors : st->pairs), at = 0;
    char **name = NEW(char *, n);
    const StTensor **place = NEW(const StTensor *, st->tensors);
    const char *error = NULL;
    for (int i = 0; i < st->tensors; i++) place[i] = &st->tensor[i];
    qsort(place, (size_t)st->tensors, sizeof *place, by_place);
    for (int i = 0; i < st->tensors; at = place[i++]->to) if (place[i]->from != at) error = "tensors overlap or leave a gap";
    if (!error && at != data_size) error = "the tensors do not fill the file";
    for (int i = 0; i < st->pairs; i++) name[i] = st->key[i];
    qsort(name, (size_t)st->pairs, sizeof *name, by_name);
    for (int i = 1; i < st->pairs; i++) if (!strcmp(name[i - 1], name[i])) error = "metadata names a key twice";
    for (int i = 0; i < st->tensors; i++) name[i] = st->tensor[i].name;
    qsort(name, (size_t)st->tensors, sizeof *name, by_name);
    for (int i = 1; i < st->tensors; i++) if (!strcmp(name[i - 1], name[i])) error = "two tensors of one name";
    free(name), free(place);
    return error;
}

// room for one more element; it doubles whenever n is a power of two
static void *grow(void *list, int n, size_t size) {
    if (n & (n - 1)) return list;
    list = realloc(list, (n ? 2*(size_t)n : 1) * size);
    if (!list) die("out of memory");
    return list;
}

// NULL, or what is wrong with these bytes. They must live as long as st.
static const char *st_parse(SafeTensors *st, const unsigned char *bytes, size_t size) {
    *st = (SafeTensors){0};
    uint64_t header = 0;
    if (size < 8) return "shorter than 8 bytes";
    for (int i = 7; i >= 0; i--) header = header << 8 | bytes[i];
    if (header > size - 8) return "the header is longer than the file (truncated?)";
    Json j = {bytes + 8, bytes + 8 + header, NULL};
    const unsigned char *data = bytes + 8 + header;
    size_t data_size = size - 8 - (size_t)header;
    json_need(&j, '{', "the header is not a JSON object");
    if (!json_take(&j, '}')) {
        do {
            char *name = json_string(&j);
            json_need(&j, ':', "':' expected in the header");
            if (!strcmp(name, "__metadata__")) {
                free(name);
                json_need(&j, '{', "'{' expected in the header");
                if (json_take(&j, '}')) continue;
                do {
                    st->key = grow(st->key, st->pairs, sizeof(char *));
                    st->value = grow(st->value, st->pairs, sizeof(char *));
                    st->key[st->pairs] = json_string(&j);
                    json_need(&j, ':', "':' expected in the header");
                    st->value[st->pairs++] = json_string(&j);
                } while (json_take(&j, ','));
                json_need(&j, '}', "'}' expected in the header");
                continue;
            }
            st->tensor = grow(st->tensor, st->tensors, sizeof(StTensor));
            StTensor *t = &st->tensor[st->tensors++];
            *t = (StTensor){.name = name};
            if (!j.error) st_parse_tensor(&j, t);
            if (j.error) break;
            t->count = 1;
            for (int i = 0; i < t->dims; i++) {
                if (t->shape[i] && t->count > SIZE_MAX / 16 / t->shape[i]) { j.error = "a shape too large for any machine"; break; }
                t->count *= t->shape[i];
            }
            if (!j.error && (t->to < t->from || t->to > data_size)) j.error = "a tensor lies outside of the file (truncated?)";
            if (!j.error && t->to - t->from != t->count * st_type_size(t->dtype)) j.error = "shape and size of a tensor disagree";
            if (j.error) break;
            t->data = data + t->from;
        } while (json_take(&j, ','));
        json_need(&j, '}', "'}' expected in the header");
    }
    json_space(&j);
    if (!j.error && j.at != j.end) j.error = "something stands behind the header";
    if (!j.error) j.error = st_parse_whole(st, data_size);
    if (j.error) st_free(st);
    return j.error;
}

// Reads and checks a file; ends the program if anything is wrong with it.
static SafeTensors st_open(const char *path) {
    size_t size;
    SafeTensors st;
    unsigned char *bytes = read_file(path, &size);
    const char *error = st_parse(&st, bytes, size);
    if (error) die("%s: not a safetensors file: %s", path, error);
    st.file = bytes;
    return st;
}

static const StTensor *st_find(const SafeTensors *st, const char *name) {
    for (int i = 0; i < st->tensors; i++) if (!strcmp(st->tensor[i].name, name)) return &st->tensor[i];
    return NULL;
}

static const char *st_meta(const SafeTensors *st, const char *key) {
    for (int i = 0; i < st->pairs; i++) if (!strcmp(st->key[i], key)) return st->value[i];
    return NULL;
}

static bool st_is_real(const StTensor *t) { return t->dtype[0] == 'F' || (t->dtype[0] == 'B' && t->dtype[1] == 'F'); }

// Element i as a number (I64 beyond 2^53 is rounded)
static double st_number(const StTensor *t, size_t i) {
    const unsigned char *p = t->data + i * st_type_size(t->dtype);
    float f; double d; int64_t l; int32_t n; uint16_t h; uint32_t bits;
    if (!strcmp(t->dtype, "F32")) { memcpy(&f, p, 4); return f; }
    if (!strcmp(t->dtype, "F64")) { memcpy(&d, p, 8); return d; }
    if (!strcmp(t->dtype, "I32")) { memcpy(&n, p, 4); return n; }
    if (!strcmp(t->dtype, "I64")) { memcpy(&l, p, 8); return (double)l; }
    if (!strcmp(t->dtype, "BF16")) { memcpy(&h, p, 2); bits = (uint32_t)h << 16; memcpy(&f, &bits, 4); return f; }
    if (!strcmp(t->dtype, "F16")) {
        memcpy(&h, p, 2);
        int sign = h >> 15, exponent = h >> 10 & 31, mantissa = h & 1023;
        d = exponent == 31 ? (mantissa ? NAN : INFINITY) : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        return sign ? -d : d;
    }
    return *p;                                          // U8, BOOL
}

// Writing: declare every tensor, then give the data in the same order, then commit. Until the commit nothing stands under `path`.
typedef struct StWriter { FILE *file; char *path, *temporary, *header; size_t used, room, offset; } StWriter;

__attribute__((format(printf, 2, 3))) static void st_print(StWriter *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text;
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) die("out of memory");
    if (w->used + (size_t)n + 1 > w->room) {
        w->room = 2 * (w->used + (size_t)n + 1);
        w->header = realloc(w->header, w->room);
        if (!w->header) die("out of memory");
    }
    memcpy(w->header + w->used, text, (size_t)n + 1);
    w->used += (size_t)n;
    free(text);
}
static void st_print_string(StWriter *w, const char *s) {
    st_print(w, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 32) st_print(w, "\\u%04x", c);
        else st_print(w, c == '"' || c == '\\' ? "\\%c" : "%c", c);
    }
    st_print(w, "\"");
}

static StWriter st_create(const char *path) {
    StWriter w = {.path = strdup(path)};
    if (!w.path || asprintf(&w.temporary, "%s.part", path) < 0) die("out of memory");
    st_print(&w, "{\"__metadata__\":{\"format\":\"pt\"");
    return w;
}
static void st_declare_meta(StWriter *w, const char *key, const char *value) {
    st_print(w, ",");
    st_print_string(w, key);
    st_print(w, ":");
    st_print_string(w, value);
}
static void st_end_meta(StWriter *w) { st_print(w, "}"); }
static void st_declare(StWriter *w, const char *name, const char *dtype, int dims, const size_t *shape) {
    size_t bytes = st_type_size(dtype);
    st_print(w, ",");
    st_print_string(w, name);
    st_print(w, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
    for (int i = 0; i < dims; i++) st_print(w, "%s%zu", i ? "," : "", shape[i]), bytes *= shape[i];
    st_print(w, "],\"data_offsets\":[%zu,%zu]}", w->offset, w->offset + bytes);
    w->offset += bytes;
}
static void st_write(StWriter *w, const void *data, size_t bytes) {
    if (!w->file) {                                     // the header, padded to a multiple of 8 so that the data is aligned
        st_print(w, "}");
        while (w->used % 8) st_print(w, " ");
        unsigned char n[8];
        for (int i = 0; i < 8; i++) n[i] = (unsigned char)((uint64_t)w->used >> 8*i);
        if (!(w->file = fopen(w->temporary, "wb"))) die("cannot write %s: %s", w->temporary, strerror(errno));
        if (fwrite(n, 1, 8, w->file) != 8 || fwrite(w->header, 1, w->used, w->file) != w->used) goto fail;
    }
    if (fwrite(data, 1, bytes, w->file) == bytes) return;
fail:;
    int error = errno;
    unlink(w->temporary);
    die("cannot write %s: %s", w->path, strerror(error));
}
static void st_commit(StWriter *w) {
    commit_file(w->file, w->temporary, w->path);
    free(w->path), free(w->temporary), free(w->header);
}

// ---- 4. command line ----------------------------------------------------------------------------------------------------------
// One table per program drives parsing, --help and the echoed configuration.

typedef struct Option {
    const char *name;
    enum { INT, REAL, TEXT, FLAG } type;
    void *value;                                        // int *, double *, const char **, bool *: holds the default before parsing
    double min, max;                                    // of a number, both allowed
    const char *verbs;                                  // which verbs take it, as " train sample "
    const char *help;                                   // meaning and unit
    bool saved;                                         // part of a checkpoint: other verbs and --resume read it from there
    bool given;                                         // stood on the command line
} Option;
typedef struct Verb { const char *name, *arguments, *help; int (*run)(int files, char **file); } Verb;

// Is `word` one of the words of `list`, which has a space before and behind every word?
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n) if (p > list && p[-1] == ' ' && p[n] == ' ') return true;
    return false;
}
static bool option_has(const Option *o, const char *verb) { return has_word(o->verbs, verb); }

static void option_format(const Option *o, char *out, size_t size) {
    switch (o->type) {
    case INT:  snprintf(out, size, "%d", *(int *)o->value); break;
    case REAL:                                          // the shortest of two forms that reads back as the same number
        snprintf(out, size, "%g", *(double *)o->value);
        if (strtod(out, NULL) != *(double *)o->value) snprintf(out, size, "%.17g", *(double *)o->value);
        break;
    case TEXT: snprintf(out, size, "%s", *(const char **)o->value); break;
    case FLAG: snprintf(out, size, "%d", *(bool *)o->value); break;
    }
}

// Sets an option from text; false if the text is not of its type or outside of its range.
static bool option_set(Option *o, const char *text) {
    char *end = NULL;
    errno = 0;
    if (o->type == TEXT) { *(const char **)o->value = text; return true; }
    if (o->type == REAL) {
        double x = strtod(text, &end);
        if (end == text || *end || !(x >= o->min && x <= o->max)) return false;
        *(double *)o->value = x;
        return true;
    }
    long x = strtol(text, &end, 10);
    if (end == text || *end || errno || !((double)x >= o->min && (double)x <= o->max)) return false;
    if (o->type == INT) *(int *)o->value = (int)x; else *(bool *)o->value = x != 0;
    return true;
}

static const char *verb_name = "VERB";
__attribute__((noreturn, format(printf, 1, 2))) static void die_usage(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: %s (%s %s --help)\n", program_name, one_line(format, args).text, program_name, verb_name);
    exit(2);
}

static void print_help(const Verb *verb, const Option *options) {
    printf("usage: %s %s %s[--option value ...]\n%s\n\n", program_name, verb->name, verb->arguments, verb->help);
    for (const Option *o = options; o->name; o++) {
        if (!option_has(o, verb->name)) continue;
        char value[4096];
        option_format(o, value, sizeof value);
        printf("  --%-12s %s%s%s%s\n", o->name, o->help, o->type == FLAG ? "" : " [", o->type == FLAG ? "" : value, o->type == FLAG ? "" : "]");
    }
}

// Runs `PROGRAM VERB [FILE...] [--option value | --option=value]`. Exit status: the verb's; 2 for usage.
static int run_command(const char *program, int argc, char **argv, const Verb *verbs, Option *options) {
    const Verb *verb = NULL;
    signal(SIGXFSZ, SIG_IGN);                           // a file that may not grow is an error like a full disk, not the end
    program_name = program;                             // not argv[0]: checkpoints of every build carry it
#ifdef _OPENMP
    // A thread that waits for the others spins for milliseconds, on a core that another program may need: on a busy machine everything then takes
    // several times longer. Here it soon sleeps. OpenMP reads these variables when a program starts, so it starts once more.
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT") && !setenv("GOMP_SPINCOUNT", "5000", 1) && !setenv("KMP_BLOCKTIME", "0", 0))
        execv("/proc/self/exe", argv);                  // comes back only where there is no /proc; then nothing is lost
#endif
    if (argc < 2 || !strcmp(argv[1], "--help")) {
        printf("usage: %s VERB [--option value ...]\n\n", program_name);
        for (const Verb *v = verbs; v->name; v++) printf("  %-8s %s\n", v->name, v->help);
        printf("\n%s VERB --help names every option of a verb.\n", program_name);
        return argc < 2 ? 2 : 0;
    }
    for (const Verb *v = verbs; v->name; v++) if (!strcmp(argv[1], v->name)) verb = v;
    if (!verb) die_usage("no verb '%s'", argv[1]);
    verb_name = verb->name;

    char **file = NEW(char *, argc);
    int files = 0;
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "--", 2)) {
            if (!*verb->arguments) die_usage("%s: what is '%s'? options start with --", verb->name, argv[i]);
            file[files++] = argv[i];
            continue;
        }
        if (!strcmp(argv[i], "--help")) { print_help(verb, options); free(file); return 0; }
        char name[64] = "";
        const char *equals = strchr(argv[i], '=');
        size_t n = equals ? (size_t)(equals - argv[i] - 2) : strlen(argv[i] + 2);
        if (n < sizeof name) memcpy(name, argv[i] + 2, n);
        Option *o = options;
        while (o->name && (strcmp(o->name, name) || !option_has(o, verb->name))) o++;
        if (!o->name) die_usage("%s has no option %s", verb->name, argv[i]);
        const char *text = equals ? equals + 1 : o->type == FLAG ? "1" : ++i < argc ? argv[i] : NULL;
        if (!text) die_usage("--%s needs a value", name);
        if (!option_set(o, text)) {
            if (o->type == FLAG) die_usage("--%s %s: 0 or 1", name, text);
            die_usage("--%s %s: a%s number from %g to %g is needed", name, text, o->type == INT ? " whole" : "", o->min, o->max);
        }
        o->given = true;
    }
    if (*verb->arguments && !files) die_usage("%s needs %s", verb->name, verb->arguments);
    int status = verb->run(files, file);
    free(file);
    if (fflush(stdout) || ferror(stdout)) die("cannot write to standard output: %s", strerror(errno));
    return status;
}

// the index of text among n names; ends the program with a line that lists them if it is none
static int choice(const char *option, const char *text, const char *const *names, int n) {
    char list[256] = "";
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, names[i])) return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", !i ? "" : i == n - 1 ? " or " : ", ", names[i]);
    }
    die("--%s %s: %s", option, text, list);
}
#define CHOICE(option, text, names) choice(option, text, names, (int)(sizeof(names) / sizeof *(names)))

static void print_configuration(const char *verb, const Option *options) {
    printf("%s %s:", program_name, verb);
    for (const Option *o = options; o->name; o++) {
        char value[4096];
        if (!option_has(o, verb) && !o->saved) continue;
        option_format(o, value, sizeof value);
        for (char *p = value; *p; p++) if (*p > 0 && *p < ' ') *p = ' ';
        if (*value) printf(strchr(value, ' ') ? " %s='%s'" : " %s=%s", o->name, value);
    }
    printf("\n");
}

// ---- 5. progress --------------------------------------------------------------------------------------------------------------

// One line of progress: in place on a terminal, otherwise every few seconds. `last`: print it in any case and stay below it.
__attribute__((format(printf, 2, 3))) static void progress(bool last, const char *format, ...) {
    static double shown, kept;
    bool terminal = isatty(STDOUT_FILENO);
    double now = seconds();
    if (!last && now - shown < (terminal ? 0.2 : 4)) return;
    shown = now;
    va_list args;
    va_start(args, format);
    if (terminal) printf("\r\033[K");
    vprintf(format, args);
    va_end(args);
    if (!terminal || last || now - kept > 10) { printf("\n"); kept = now; }
    fflush(stdout);
}

// columns of the terminal, 80 if standard output is none
static int columns(void) {
    struct winsize w;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

static volatile sig_atomic_t interrupted;               // Ctrl-C or SIGTERM came: finish the step, save, leave
static void on_signal(int s) { (void)s; interrupted = 1; }
static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};     // a second Ctrl-C ends at once
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

// ---- 6. pictures --------------------------------------------------------------------------------------------------------------
// Figures without a plotting program: boxes, discs and lines, anti-aliased, into a picture that is saved as PNG. Coordinates are in pixels: pixel (x, y)
// covers [x, x+1) x [y, y+1), y grows downwards. A colour is 0xRRGGBB. What lies outside of the picture is clipped, what is NaN is not drawn.

#if __has_include(<stb/stb_image_write.h>)
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push                             // the warnings of others
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop
#endif

typedef struct Picture { int width, height; unsigned char *rgb; } Picture;     // rgb (height, width, 3), rows from the top

static Picture picture_create(int width, int height, unsigned color) {
    if (width < 1 || height < 1 || (size_t)width * (size_t)height > (size_t)1 << 26) die("a picture of %d x %d pixels is not possible (1 to 2^26 in all)", width, height);
    size_t pixels = (size_t)width * (size_t)height;
    Picture p = {width, height, allocate(pixels * 3)};
    for (size_t i = 0; i < pixels; i++) for (int c = 0; c < 3; c++) p.rgb[3*i + (size_t)c] = (unsigned char)(color >> (16 - 8*c));
    return p;
}
static void picture_free(Picture *p) { free(p->rgb); *p = (Picture){0}; }

// pixel (x, y), which is inside: the share `cover` of it takes the colour
static void picture_mix(Picture *p, int x, int y, double cover, unsigned color) {
    unsigned char *rgb = p->rgb + 3 * ((size_t)y * (size_t)p->width + (size_t)x);
    if (cover <= 0) return;
    for (int c = 0; c < 3; c++) rgb[c] = (unsigned char)lrint(rgb[c] + fmin(cover, 1) * ((int)(color >> (16 - 8*c) & 255) - rgb[c]));
}
// x as a pixel boundary 0..size
static int picture_edge(double x, int size) { return (int)fmin(fmax(x, 0), size); }

// everything between x0 and x1, y0 and y1
static void picture_box(Picture *p, double x0, double y0, double x1, double y1, unsigned color) {
    if (!(x0 < x1 && y0 < y1)) return;
    for (int y = picture_edge(floor(y0), p->height); y < picture_edge(ceil(y1), p->height); y++)
        for (int x = picture_edge(floor(x0), p->width); x < picture_edge(ceil(x1), p->width); x++)
            picture_mix(p, x, y, (fmin(x1, x + 1) - fmax(x0, x)) * (fmin(y1, y + 1) - fmax(y0, y)), color);
}

// a line with round ends: what is nearer than thickness/2 to the segment; the edge is a ramp of one pixel
static void picture_line(Picture *p, double x0, double y0, double x1, double y1, double thickness, unsigned color) {
    double dx = x1 - x0, dy = y1 - y0, length2 = dx*dx + dy*dy, reach = thickness/2 + 0.5;
    if (!(thickness > 0 && length2 < INFINITY)) return;     // also NaN anywhere
    for (int y = picture_edge(floor(fmin(y0, y1) - reach), p->height); y < picture_edge(ceil(fmax(y0, y1) + reach), p->height); y++)
        for (int x = picture_edge(floor(fmin(x0, x1) - reach), p->width); x < picture_edge(ceil(fmax(x0, x1) + reach), p->width); x++) {
            double px = x + 0.5 - x0, py = y + 0.5 - y0, along = length2 > 0 ? fmin(fmax((px*dx + py*dy) / length2, 0), 1) : 0;
            picture_mix(p, x, y, fmin(reach - hypot(px - along*dx, py - along*dy), thickness), color);      // a hairline is faint, not one pixel wide
        }
}
static void picture_disc(Picture *p, double x, double y, double radius, unsigned color) { picture_line(p, x, y, x, y, 2*radius, color); }

// PNG, never half written
static void picture_save(const Picture *p, const char *path) {
#ifdef STB_IMAGE_WRITE_IMPLEMENTATION
    char *temporary;
    int size;
    unsigned char *png = stbi_write_png_to_mem(p->rgb, 3 * p->width, p->width, p->height, 3, &size);
    if (!png || asprintf(&temporary, "%s.part", path) < 0) die("out of memory");
    FILE *file = fopen(temporary, "wb");
    if (!file) die("cannot write %s: %s", temporary, strerror(errno));
    if (fwrite(png, 1, (size_t)size, file) != (size_t)size) {
        int error = errno;
        unlink(temporary);
        die("cannot write %s: %s", path, strerror(error));
    }
    commit_file(file, temporary, path);
    free(png), free(temporary);
#else
    die("cannot write %s, a picture of %d x %d: built without stb_image_write (make setup installs it, then make clean all)", path, p->width, p->height);
#endif
}

// ---- 7. animations ------------------------------------------------------------------------------------------------------------
// Frames that follow each other in an SVG file, which every browser plays, over and over. A frame is SVG that is printed into `file`.

typedef struct Animation { FILE *file; char *path, *temporary; int frames; double seconds; } Animation;

// seconds: for which a frame is seen; the last one is seen for two seconds more
static Animation animation_open(const char *path, int width, int height, double seconds) {
    Animation a = {.path = strdup(path), .seconds = seconds};
    if (!a.path || asprintf(&a.temporary, "%s.part", path) < 0) die("out of memory");
    if (!(a.file = fopen(a.temporary, "wb"))) die("cannot write %s: %s", a.temporary, strerror(errno));
    fprintf(a.file, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, height, width, height, width, height);
    return a;
}
static void animation_begin(Animation *a) { fprintf(a->file, "<g class=\"f\" id=\"f%d\">", a->frames++); }
static void animation_end(Animation *a) { fprintf(a->file, "</g>\n"); }
// text as SVG wants it
static void animation_text(Animation *a, const char *text) {
    for (; *text; text++) if (*text == '&') fputs("&amp;", a->file); else if (*text == '<') fputs("&lt;", a->file); else fputc((unsigned char)*text < ' ' ? ' ' : *text, a->file);
}
// a frame that is a picture, enlarged
static void animation_picture(Animation *a, const Picture *p, int zoom) {
#ifdef STB_IMAGE_WRITE_IMPLEMENTATION
    static const char *const digit = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int size, pixels = p->width * p->height, grey = 1;
    unsigned char *one = allocate((size_t)pixels);      // a grey picture takes a third of the bytes
    for (int i = 0; i < pixels; i++) one[i] = p->rgb[3*i], grey = grey && one[i] == p->rgb[3*i + 1] && one[i] == p->rgb[3*i + 2];
    unsigned char *png = grey ? stbi_write_png_to_mem(one, p->width, p->width, p->height, 1, &size) : stbi_write_png_to_mem(p->rgb, 3 * p->width, p->width, p->height, 3, &size);
    free(one);
    if (!png) die("out of memory");
    animation_begin(a);
    fprintf(a->file, "<image width=\"%d\" height=\"%d\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,", p->width * zoom, p->height * zoom);
    for (int i = 0; i < size; i += 3) {                 // base64: three bytes are four digits
        unsigned bits = (unsigned)png[i] << 16 | (i + 1 < size ? (unsigned)png[i + 1] << 8 : 0) | (i + 2 < size ? (unsigned)png[i + 2] : 0);
        for (int j = 0; j < 4; j++) fputc(i + j <= size ? digit[bits >> (18 - 6*j) & 63] : '=', a->file);
    }
    fprintf(a->file, "\"/>");
    animation_end(a);
    free(png);
#else
    (void)zoom;
    die("cannot write %s, pictures of %d x %d: built without stb_image_write (make setup installs it, then make clean all)", a->path, p->width, p->height);
#endif
}
// Each frame is hidden but for its share of the time. Frees a.
static void animation_close(Animation *a) {
    double total = a->frames * a->seconds + 2;
    fprintf(a->file, "<style>.f{visibility:hidden;animation:%.3fs step-end infinite}", total);
    for (int i = 0; i < a->frames; i++) {
        double from = 100 * i * a->seconds / total, to = i == a->frames - 1 ? 100 : 100 * (i + 1) * a->seconds / total;
        fprintf(a->file, "\n@keyframes k%d{0%%{visibility:%s}%.3f%%{visibility:visible}", i, i ? "hidden" : "visible", from);
        if (to < 100) fprintf(a->file, "%.3f%%{visibility:hidden}", to);
        fprintf(a->file, "}#f%d{animation-name:k%d}", i, i);
    }
    fprintf(a->file, "\n#f%d{visibility:visible}</style>\n</svg>\n", a->frames - 1);       // where nothing moves the last frame is seen
    commit_file(a->file, a->temporary, a->path);
    free(a->path), free(a->temporary);
}
