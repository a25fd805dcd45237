// fuzz.c: fuzz SCRATCH N [FIRST] [FILE...] gives N broken files (numbers FIRST, FIRST + 1, ...; the same for the same number) to every reader: the header of
// safetensors, checkpoints, golden files (FILE...), texts and byte pairs, series, files of pictures; of bd3lm, df or acdit. A reader must accept or refuse with one line: no crash, no sanitizer's report, no memory
// on the word of a file. Every message of st_parse() and of series_parse() and every way in which a checkpoint is refused must be reached, and some files of each kind be accepted.
// Broken how: the header is cut into JSON tokens, and a token is dropped, doubled, swapped or replaced by one that is unlikely to be expected; then bytes and lengths.
#define TESTING
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

// A reader that refuses ends the program; here it comes back to refused(), and the place that called die() is noted.
static jmp_buf ended;
__attribute__((noreturn)) static void end(int status) { longjmp(ended, status ? status : 1); }
#define exit end
#include "../io.h"
#undef exit
static void note(int line, const char *format);
#define die(...) (note(__LINE__, FIRST_OF(__VA_ARGS__, 0)), die(__VA_ARGS__))
#define FIRST_OF(first, ...) first
#include PROGRAM                                        // -DPROGRAM='"../df.c"': its checkpoints and golden files; with -DDF, -DACDIT what only these know
#ifndef DF
#include "../data/series.h"
#endif
#include "check.h"

const char *__asan_default_options(void) { return "allocator_may_return_null=1:max_allocation_size_mb=256:detect_leaks=0"; }   // more is "out of memory"

// ---- what has been reached, shared with the processes that read ---------------------------------------------------------------
enum { HEADER, CHECKPOINT, GOLDEN, TEXTS, SERIES, KINDS, MESSAGES = 256 };
static const char *const kind_name[KINDS] = {"header", "checkpoint", "golden", "text", "series"};
static struct { long at, accepted[KINDS], refused[KINDS], reached[MESSAGES], failed; char failure[512]; } *seen;
static struct { char text[128]; int line; } message[MESSAGES];   // of st_parse and series_parse (line 0), and lines of common.h and bd3lm.c that call die() on a checkpoint
static int messages;

// The messages are read from the source, so that a new one cannot be forgotten: every "..." behind `error = `, `return ` or a quoted character and a comma
// between two lines of io.h; every line with die(" between two lines of another file ("": up to its end).
static void read_messages(const char *path, const char *from, const char *to, bool parser) {
    size_t size;
    char *text = (char *)read_file(path, &size), *at = strstr(text, from), *stop = at ? *to ? strstr(at, to) : text + size : NULL;
    if (!CHECK(stop, "%s: not found: %s ... %s", path, from, to)) return;
    int line = 1;
    for (char *p = text; p < at; p++) line += *p == '\n';
    for (; at < stop; at++) {
        line += *at == '\n';
        bool starts = parser ? !strncmp(at, "error = \"", 9) || !strncmp(at, "return \"", 8) || !strncmp(at, "', \"", 4) : !strncmp(at, "die(\"", 5);
        if (!starts || messages == MESSAGES) continue;
        const char *open = strchr(at, '"') + 1, *close = open;
        while (*close != '"' || close[-1] == '\\') close++;
        char found[128] = "";
        for (const char *p = open; p < close && p - open < 120; p++) { if (*p == '\\') p++; strncat(found, p, 1); }
        bool known = false;
        for (int i = 0; parser && i < messages; i++) known = known || !strcmp(message[i].text, found);
        if (!known) { strcpy(message[messages].text, found); message[messages++].line = parser ? 0 : line; }
    }
    free(text);
}
static void reach_parser(const char *error) { for (int i = 0; i < messages; i++) if (!message[i].line && !strcmp(message[i].text, error)) seen->reached[i]++; }
static void note(int line, const char *format) {
    for (int i = 0; i < messages; i++) if (message[i].line == line && !strncmp(message[i].text, format, strlen(message[i].text))) seen->reached[i]++;
}

// ---- breaking -----------------------------------------------------------------------------------------------------------------
typedef struct Bytes { unsigned char *at; size_t size; } Bytes;
static Rng r;                                           // of this file
static int pick(int n) { return below(&r, n); }

static const char *const strings[] = {
    "", "F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "dtype", "shape", "data_offsets", "__metadata__", "format", "program", "step", "vocab.merges", "kind", "paper",
    "0", "1", "2", "3", "4", "-1", "7", "24", "256", "257", "1000000", "2147483647", "2147483648", "99999999999999999999", "1e308", "1e-320", "nan", "inf", "0x10", "1.5", " 1", "1 ", "1000", "60000",
    "bd3lm", "df", "ar", "bd3", "mdlm", "text8", "bytes", "bd3_masks", "bd3_noise", "bd3_loss_grad", "loglinear", "none", "noised", "video", "acdit", "\\u0041\\u00e9\\u20ac", "\\ud83d\\ude00", "\\ud800", "\\udc00", "\\ud800\\u0041",
    "\\u0000", "\\u12", "\\uzzzz", "\\", "\\x", "\\\"", "\\n\\t\\r\\b\\f\\/", "\x01", "\n", "\x7f", "\x80\xff", "\xc3\xa9", "%s%n", "../../x"};
static const char *const numbers[] = {"0", "1", "2", "3", "4", "8", "-1", "1.5", "1e3", "007", "", "255", "65536", "2147483648", "4294967296", "1152921504606846976", "9223372036854775808",
                                      "18446744073709551615", "18446744073709551616", "99999999999999999999999999", "1,1,1,1,1,1,1,1,1", "1,1,1,1,1,1,1,1,1,1", "1,2", "null", "true", "\"1\"", "[0]"};
static const char *const values_to_try[] = {"0", "1", "2", "3", "5", "7", "100", "99996", "1000000", "1000000", "0.9", "x"};
static const char *const marks[] = {"{", "}", "[", "]", ":", ",", "\"", " ", "\n", "{}", "[]", ",,", "[[[[[[[[[[[[[[[[[[[[", "{\"a\":{\"b\":{\"c\":{", "x", "\x00"};
#define ANY(list) list[pick((int)(sizeof list / sizeof *list))]

// the token at s[i]: a string with its quotes, a run of digits, or one byte
static size_t json_token(const unsigned char *s, size_t i, size_t n) {
    size_t j = i + 1;
    if (s[i] == '"') { while (j < n && s[j] != '"') j += 1 + (s[j] == '\\'); return j < n ? j + 1 : n; }
    if (s[i] >= '0' && s[i] <= '9') while (j < n && s[j] >= '0' && s[j] <= '9') j++;
    return j;
}

static void replace(Bytes *b, size_t from, size_t to, const void *with, size_t n) {
    unsigned char *out = allocate(b->size - (to - from) + n + 1);
    memcpy(out, b->at, from);
    memcpy(out + from, with, n);
    memcpy(out + from + n, b->at + to, b->size - to);
    free(b->at);
    *b = (Bytes){out, b->size - (to - from) + n};
}

// One change of a header (JSON alone); `values`: a string that is a value becomes another
static void break_header(Bytes *h, bool values) {
    size_t start[4096], stop[4096], n = 0;
    for (size_t i = 0; i < h->size && n < 4096; i = stop[n++]) start[n] = i, stop[n] = json_token(h->at, i, h->size);
    if (!n) return;
    size_t t = (size_t)pick((int)n), u = (size_t)pick((int)n);
    if (values) {                                       // a string behind a colon, mostly of the metadata, which stand first; or a name before one
        char colon = pick(8) ? 0 : ':';
        if (pick(8)) t = t % 130 % n;
        for (size_t k = 0; k < n && (!t || h->at[start[t]] != '"' || (h->at[start[t - 1]] == ':') != !colon || stop[t] >= h->size); k++) t = (t + 1) % n;
    }
    unsigned char first = h->at[start[t]], *copy;
    size_t length = stop[u] - start[u];
    char text[128];
    switch (values ? 7 : pick(8)) {
    case 0: u = t + (size_t)(pick(2) * pick(9)); replace(h, start[t], stop[u < n ? u : n - 1], "", 0); break;
    case 1: copy = memcpy(allocate(length), h->at + start[u], length); replace(h, stop[t], stop[t], copy, length); free(copy); break;
    case 2:                                             // another token of the same kind: names that stand twice, offsets of another tensor
        for (size_t k = 0; k < n && h->at[start[u]] != first; k++) u = (u + 1) % n;
        length = stop[u] - start[u];
        copy = memcpy(allocate(length), h->at + start[u], length); replace(h, start[t], stop[t], copy, length); free(copy); break;
    case 3: { const char *m = ANY(marks); replace(h, start[t], pick(2) ? stop[t] : start[t], m, strlen(m)); break; }
    default:                                            // something unlikely of the same kind
        if (first == '"') {
            const char *s = pick(3) ? ANY(values_to_try) : ANY(strings);
            if (pick(4)) { snprintf(text, sizeof text, "\"%s\"", s); replace(h, start[t], stop[t], text, strlen(text)); }
            else replace(h, start[t] + 1, start[t] + 1, s, strlen(s));
        } else if (first >= '0' && first <= '9') { const char *s = ANY(numbers); replace(h, start[t], stop[t], s, strlen(s)); }
        else { const char *s = ANY(marks); replace(h, start[t], stop[t], s, strlen(s)); }
    }
}

// a whole entry of the header, from name to '}', stands twice or is dropped
static void break_entry(Bytes *h) {
    size_t start[512], stop[512], n = 0;
    for (size_t i = 1; i < h->size && n < 512;) {
        size_t from = i;
        int depth = 0;
        for (; i < h->size; i = json_token(h->at, i, h->size)) { depth += h->at[i] == '{'; if (h->at[i] == '}' && --depth <= 0) break; }
        start[n] = from, stop[n] = i + 1 < h->size ? i + 1 : h->size, n++;
        i += 2;
    }
    if (!n) return;
    size_t k = (size_t)pick((int)n), length = stop[k] - start[k];
    unsigned char *copy = allocate(length + 1);
    memcpy(copy, h->at + start[k], length);
    copy[length] = ',';
    if (pick(2)) replace(h, start[k], start[k], copy, length + 1);
    else replace(h, start[k], stop[k] + (stop[k] < h->size), "", 0);
    free(copy);
}

// A broken copy of a file, in a piece of memory that ends where it ends; kept whole once in 36
static Bytes break_file(const Bytes *base) {
    size_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | base->at[i];
    Bytes h = {memcpy(allocate(n + 1), base->at + 8, n), n}, data = {memcpy(allocate(base->size - 8 - n + 1), base->at + 8 + n, base->size - 8 - n), base->size - 8 - n};
    int what = pick(36);
    if (what && what < 10) for (int k = 1 + pick(3); k; k--) break_header(&h, false);
    if (what > 15) for (int k = 1 + pick(4) / 3; k; k--) break_header(&h, true);
    if (what == 10) break_entry(&h);
    if (what == 11) for (int k = 1 + pick(8); k && h.size; k--) h.at[(size_t)(uniform(&r) * (double)h.size)] ^= (unsigned char)(1 << pick(8));
    if (what == 12 || pick(16) == 0) for (int k = 1 + pick(64); k && data.size; k--) data.at[(size_t)(uniform(&r) * (double)data.size)] = (unsigned char)pick(256);
    if (what == 13) replace(&h, (size_t)(uniform(&r) * (double)h.size), h.size, "", 0);
    if (what == 14) { size_t cut = pick(2) ? (size_t)pick(16) : (size_t)(uniform(&r) * (double)data.size); data.size = pick(2) ? cut < data.size ? data.size - cut : 0 : data.size; if (pick(2)) replace(&data, 0, 0, "01234567", (size_t)pick(9)); }
    uint64_t says = h.size;
    if (what == 15) says = pick(3) == 0 ? ~(uint64_t)0 >> pick(64) : h.size + (uint64_t)pick(17) - 8;
    Bytes out = {allocate(8 + h.size + data.size), 8 + h.size + data.size};
    for (int i = 0; i < 8; i++) out.at[i] = (unsigned char)(says >> 8*i);
    memcpy(out.at + 8, h.at, h.size);
    memcpy(out.at + 8 + h.size, data.at, data.size);
    if (pick(64) == 0) {                                // cut anywhere
        out.size = (size_t)(uniform(&r) * (double)out.size * (pick(2) ? 1 : 0.01));
        unsigned char *cut = allocate(out.size);
        memcpy(cut, out.at, out.size);
        free(out.at), out.at = cut;
    }
    free(h.at), free(data.at);
    return out;
}

// ---- reading ------------------------------------------------------------------------------------------------------------------
// A reader returns whether it accepts; it may also end the program.
#ifdef DF
static bool read_checkpoint(const SafeTensors *st) {
    Option *o = &options[pick((int)(sizeof options / sizeof *options) - 1)];
    o->given = pick(4) == 0;                            // stood on the command line, with its default
    int done = checkpoint_options(st, "FILE", options, " steps seed csv context ");
    if (opt.data_steps > 2000) opt.data_steps = 2000;   // time, not memory
    choose_task(true);
    task->open();
    NetConfig c = net_config();
    Schedule s = schedule();
    begin_dry_run();
    for (int pass = 0; pass < 2; pass++) {              // as train --resume does: dry, then for real
        Net net = net_create(c, true, 1, 0);
        checkpoint_resume(st, "FILE", &net.ps);
        net_free(&net);
        if (!pass) end_dry_run(false);
    }
    schedule_free(&s);
    return done >= 0;
}
#elif defined ACDIT
static bool read_checkpoint(const SafeTensors *st) {
    Option *o = &options[pick((int)(sizeof options / sizeof *options) - 1)];
    o->given = pick(4) == 0;                            // stood on the command line, with its default
    int done = checkpoint_options(st, "FILE", options, " steps data "), N[MOST_N];
    trained_blocks(N);
    NetConfig c = net_config(clip_frames());
    for (int i = 0; i < opt.classes; i++) class_name(i);
    begin_dry_run();
    for (int pass = 0; pass < 2; pass++) {              // as train --resume does: dry, then for real
        Net net = net_create(c, true, 1, 0, 0, 0);
        checkpoint_resume(st, "FILE", &net.ps);
        net_free(&net);
        if (!pass) end_dry_run(false);
    }
    return done >= 0;
}
#else
static bool read_checkpoint(const SafeTensors *st) {
    Option *o = &options[pick((int)(sizeof options / sizeof *options) - 1)];
    o->given = pick(4) == 0;                            // stood on the command line, with its default
    int done = checkpoint_options(st, "FILE", options, " steps data ");
    Vocabulary v = checkpoint_vocabulary(st, "FILE");
    NetConfig c = net_config(&v);
    begin_dry_run();
    for (int pass = 0; pass < 2; pass++) {              // as train --resume does: dry, then for real
        Net net = net_create(c, true, 1, 8, 0, 0);
        checkpoint_resume(st, "FILE", &net.ps);
        net_free(&net);
        if (!pass) end_dry_run(false);
    }
    vocabulary_free(&v);
    return done >= 0;
}
#endif

static bool read_golden(const SafeTensors *st) {
    Golden g = {.st = st, .file = "FILE"};
    check_golden(&g);
    return g.failed == 0 && g.passed > 0;
}

#ifdef DF                                               // it reads no texts
static bool read_text(void) { return pick(2); }
#elif defined ACDIT
// A file of pictures, most often with something wrong in it: what is accepted fills its arrays
static bool read_text(void) {
    int n = pick(6), h = 1 + pick(40), w = pick(2) ? h : 1 + pick(40), style = pick(4);
    size_t size = style == 0 ? 16 + (size_t)(n * h * w) : style == 1 ? (size_t)(n * 3073) : style == 2 ? 400 : (size_t)pick(300);
    unsigned char *bytes = allocate(size + 1);
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)pick(style == 1 ? 10 : 256);
    if (style == 0) { unsigned char head[16] = {0, 0, 8, 3, 0, 0, 0, (unsigned char)n, 0, 0, 0, (unsigned char)h, 0, 0, 0, (unsigned char)w}; memcpy(bytes, head, 16); }
    if (style == 2) for (int k = 0; k < 3; k++) memcpy(bytes + (k ? pick(380) : 0), k ? "\x89PNG\r\n\x1a\n\0\0\0\rIHDR" : "\0\1\0\0", k ? 16 : 4);
    if (style == 3 && size > 3) memcpy(bytes, pick(2) ? "\x1f\x8b\x08" : "\0\0\x08\x01", 3);
    for (int k = pick(3) ? 0 : pick(4); k > 0 && size; k--) bytes[pick((int)size)] = (unsigned char)pick(256);
    if (pick(8) == 0) size = (size_t)pick((int)size + 1);
    unsigned char *cut = memcpy(allocate(size), bytes, size);      // a piece of memory that ends where the file ends
    free(bytes);
    Images m = {0};
    const char *error = pick(4) ? images_parse(&m, cut, size) : labels_parse(&m, cut, size);
    int sum = 0;
    if (!error && m.pixel) for (size_t i = 0; i < (size_t)m.n * (size_t)(m.size * m.size * m.channels); i++) sum += m.pixel[i];
    if (!error && m.label) for (int i = 0; i < m.n; i++) sum += m.label[i];
    free(cut), images_free(&m);
    return !error && sum >= 0;
}
#else
// Any bytes are a text: what is encoded decodes to the same bytes. Byte pairs of a file may be impossible.
static bool read_text(void) {
    size_t size = (size_t)pick(pick(8) ? 400 : 4000);
    char *text = (char *)allocate(size + 1);
    int letters = 1 + pick(30), style = pick(4);
    for (size_t i = 0; i < size; i++) text[i] = (char)(style == 0 ? pick(256) : style == 1 ? 'a' + pick(letters) : style == 2 ? "ab  \n\xc3\xa9Z0"[pick(9)] : 'x');
    bool text8 = pick(2), good = true;
    if (text8) size = fold_text8(text, size);
    Vocabulary v;
    if (pick(2)) v = vocabulary_learn(text, size, text8, pick(60));
    else {
        int pair[40][2], n = pick(41);
        for (int i = 0; i < n; i++) for (int j = 0; j < 2; j++) pair[i][j] = pick(40) == 0 ? pick(1 << 30) * (pick(2) ? 2 : -2) : style == 3 && i ? (text8 ? 27 : 256) + i - 1 : text8 ? pick(27) : style ? 'a' + pick(8) : pick(256);
        v = vocabulary_create(text8, n, (const int (*)[2])pair);
    }
    int *id = NEW(int, size);
    size_t n = encode(&v, text, size, id);
    char *back = (char *)allocate(n * MAX_PIECE + 1);
    for (size_t i = 0; i < n; i++) good = good && id[i] >= 0 && id[i] < v.bos;
    if (!good || n > size || decode(&v, id, n, "", back) != size || memcmp(back, text, size)) {
        seen->failed++;
        snprintf(seen->failure, sizeof seen->failure, "file %ld: a text does not survive encode and decode", seen->at);
    }
    vocabulary_free(&v);
    free(text), free(id), free(back);
    return true;
}
#endif

// A table, most often with something wrong in it. What is accepted can be prepared, and all that follows from it is finite, unless it is refused with one line.
static bool read_series(void) {
    static const char *const cells[] = {"", "nan", "-inf", "1e999", "x", "1 2", "0x1p3", "1e100", "-1e-320", "1970-01-01", "2000-02-30", "2000-02-29 23:59", "9999-12-31", "0000-01-01T00:00:60", "a\n", "\n", ",", "1,2\n",
                                        "\"1\"", "0123456789012345678901234567890123456789012345678901234567890123", "\xff\xfe", "\r"};
    enum { ROOM = 4096 };
    char text[ROOM + 512];
    int columns = 1 + pick(4), rows = 1 + pick(24), dates = pick(2), step = 1 + pick(40), often = pick(3) ? 500 : 12, n = 0;
    for (int row = 0; row <= rows && n < ROOM; row++)
        for (int c = 0; c < columns && n < ROOM; c++) {
            char cell[32];
            if (!row && (c || !dates || pick(2))) snprintf(cell, sizeof cell, "%c%d", 'a' + c, c);
            else if (!row) *cell = 0;
            else if (!c && dates) snprintf(cell, sizeof cell, "%04d-%02d-%02d %02d:00", 1990 + row*step / 336, 1 + row*step / 28 % 12, 1 + row*step % 28, pick(24));
            else snprintf(cell, sizeof cell, "%.*g", 1 + pick(17), (uniform(&r) - 0.5) * pow(10, pick(8) ? 3 : 200 * uniform(&r) - 100));
            n += sprintf(text + n, "%s%s", pick(often) ? cell : ANY(cells), c < columns - 1 ? "," : pick(4) ? "\n" : "\r\n");
        }
    for (int k = pick(3) ? 0 : pick(4); k > 0; k--) text[pick(n)] = (char)(pick(3) ? ",\n-e. 0T"[pick(9)] : pick(256));
    size_t size = (size_t)(pick(16) ? n : pick(n) * pick(3) / 2);
    unsigned char *bytes = memcpy(allocate(size), text, size);                // a piece of memory that ends where the text ends
    Series s;
    const char *error = series_parse(&s, bytes, size);
    free(bytes);
    if (error) { reach_parser(strchr(error, ':') + 2); return false; }
    error = series_prepare(&s, pick(2) ? "" : frequencies[pick(7)].name, pick(4), pick(4), &r);
    if (!error) {
        int count = series_covariate_count(&s), start = 1 + pick(s.steps);
        double *out = NEW(double, count > 18 * s.dims ? count : 18 * s.dims), sum = 0;
        for (int t = 0; t < s.steps; t++) { series_covariates(&s, t, out); for (int i = 0; i < count; i++) sum += 0 * out[i]; }
        for (size_t b = 0; b < sizeof baselines / sizeof *baselines; b++) { baselines[b].sample(&s, start, 3, 6, &r, out); for (int i = 0; i < 18 * s.dims; i++) sum += 0 * out[i]; }
        free(out);
        if (!(sum == 0)) seen->failed++, snprintf(seen->failure, sizeof seen->failure, "file %ld: a series of which something is not finite", seen->at);
    }
    series_free(&s);
    return !error;
}

static void read_one(const Bytes *base, int kind, FILE *log, char *const *line, const size_t *length) {
    static Option options_kept[sizeof options / sizeof *options];
    static char opt_kept[sizeof opt];
    memcpy(options_kept, options, sizeof options);
    memcpy(opt_kept, &opt, sizeof opt);
    volatile bool accepted = false;
    SafeTensors st = {0};
    rewind(log);
    if (!setjmp(ended)) {
        if (kind == TEXTS) accepted = read_text();
        else if (kind == SERIES) accepted = read_series();
        else {
            Bytes file = break_file(base);
            const char *error = st_parse(&st, file.at, file.size);
            if (error) { reach_parser(error); free(file.at); }
            else {
                st.file = file.at;
                double sum = 0;
                for (int i = 0; i < st.tensors; i++) for (size_t j = 0; j < st.tensor[i].count; j++) sum += st_number(&st.tensor[i], j) != 0;
                accepted = kind == CHECKPOINT ? read_checkpoint(&st) : kind == GOLDEN ? read_golden(&st) : sum >= 0;
                st_free(&st);
            }
        }
    } else {                                            // refused through die(): one line
        dry = false;
        tape.off = false;
        fflush(log);
        const char *end_of_line = memchr(*line, '\n', *length);
        bool plain = end_of_line == *line + *length - 1 && *length < 1200;
        for (const char *p = *line; p < end_of_line; p++) plain = plain && (unsigned char)*p >= ' ' && *p != 127;
        if (!plain || strstr(*line, "out of memory") || strstr(*line, "internal error") || strstr(*line, "of memory are needed")) {
            seen->failed++;
            snprintf(seen->failure, sizeof seen->failure, "file %ld (%s): %.300s", seen->at, kind_name[kind], *line);
        }
    }
    if (accepted) seen->accepted[kind]++; else seen->refused[kind]++;
    memcpy(options, options_kept, sizeof options);
    memcpy(&opt, opt_kept, sizeof opt);
}

// a small checkpoint, as train writes it
#ifdef DF
static Bytes a_checkpoint(const char *scratch) {
    opt.layers = 1, opt.width = 6, opt.state = 4, opt.level_width = 4, opt.tokens = 5, opt.levels = 20, opt.batch = 4;
    choose_task(false), task->open();
    Path path = path_in(scratch, "fuzz_df.safetensors");
    begin_dry_run();
    Net net;
    for (int pass = 0; pass < 2; pass++) { if (pass) end_dry_run(false); net = net_create(net_config(), true, 1, 0); if (!pass) net_free(&net); }
    checkpoint_save(path.text, &net.ps, options, 7, NULL, NULL, 0);
    net_free(&net);
    Bytes b;
    b.at = read_file(path.text, &b.size);
    return b;
}
#elif defined ACDIT
static Bytes a_checkpoint(const char *scratch) {
    opt.layers = 1, opt.width = 12, opt.heads = 3, opt.patch = 8, opt.blocks = "1,4", opt.classes = 3, opt.names = "a,b,c";
    Path path = path_in(scratch, "fuzz_acdit.safetensors");
    begin_dry_run();
    Net net;
    for (int pass = 0; pass < 2; pass++) { if (pass) end_dry_run(false); net = net_create(net_config(1), true, 1, 0, 0, 0); if (!pass) net_free(&net); }
    checkpoint_save(path.text, &net.ps, options, 7, NULL, NULL, 0);
    net_free(&net);
    Bytes b;
    b.at = read_file(path.text, &b.size);
    return b;
}
#else
static Bytes a_checkpoint(const char *scratch) {
    opt.layers = 1, opt.width = 6, opt.heads = 2, opt.cond = 3, opt.length = 8, opt.merges = 5, opt.batch = 1000000, opt.clip_max = 0.05;
    opt.text = "1:2";
    const char *words = "the cat and the hat and that mat, the cat the hat";
    Vocabulary v = vocabulary_learn(words, strlen(words), true, opt.merges);
    opt.charset = "text8", opt.merges = v.merges;
    Path path = path_in(scratch, "fuzz.safetensors");
    begin_dry_run();
    Net net;
    for (int pass = 0; pass < 2; pass++) { if (pass) end_dry_run(false); net = net_create(net_config(&v), true, 1, 8, 0, 0); if (!pass) net_free(&net); }
    checkpoint_save(path.text, &net.ps, options, 7, "vocab.merges", &v.merge[0][0], 2*(size_t)v.merges);
    net_free(&net);
    vocabulary_free(&v);
    Bytes b;
    b.at = read_file(path.text, &b.size);
    return b;
}
#endif

int main(int argc, char **argv) {
    if (argc < 3) { puts("usage: fuzz SCRATCH_DIRECTORY N [FIRST [FILE...]]"); return 2; }
    long n = atol(argv[2]), first = argc > 3 ? atol(argv[3]) : 0, chunk = 250;
#ifdef _OPENMP
    omp_set_num_threads(1);                             // a process with threads does not fork
#endif
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    read_messages("io.h", "// ---- 3. safetensors", "static SafeTensors st_open", true);
    CHECK(messages > 25, "only %d messages of st_parse() found", messages);
    int parser = messages;
    read_messages("data/series.h", "// ---- 1. reading", "static Series series_read", true);
    int series = messages;
    CHECK(series - parser == 14, "%d messages of series_parse() found", series - parser);
    read_messages("common.h", "static void checkpoint_read(", "// ---- 8. training", false);
#ifdef DF
    read_messages("df.c", "static void choose_task(", "if (given(\"out\")", false);
#elif defined ACDIT
    read_messages("acdit.c", "static Layout layout(void)", "// Opens what --data names", false);
    read_messages("acdit.c", "static int parse_list(", "// ---- 8. training", false);
#else
    read_messages("bd3lm.c", "static NetConfig net_config(", "static Path checkpoint_path(", false);
    read_messages("bd3lm.c", "static Vocabulary checkpoint_vocabulary(", "static SafeTensors open_checkpoint(", false);
#endif
    int golden = argc > 4 ? argc - 4 : 0;
    Bytes checkpoint = a_checkpoint(argv[1]), *file = NEW(Bytes, golden);
    for (int i = 0; i < golden; i++) file[i].at = read_file(argv[4 + i], &file[i].size);
    if (setjmp(ended)) { puts("0 passed, 1 failed"); return 1; }

    for (long from = first; from < first + n && seen->failed < 10; from += chunk) {
        fflush(NULL);
        pid_t child = fork();
        if (child < 0) { perror("fork"); return 1; }
        if (!child) {                                   // what a refused file leaves in memory goes with the process
            char *line = NULL;
            size_t length = 0;
            FILE *log = open_memstream(&line, &length);
            stdout = fopen("/dev/null", "w");
            stderr = log;
            for (long i = from; i < from + chunk && i < first + n; i++) {
                seen->at = i;
                r = rng(1, RNG_SAMPLE, (uint64_t)i);
                int turn = pick(8), kind = turn == 0 ? pick(2) ? TEXTS : SERIES : turn == 1 && golden ? GOLDEN : turn < 4 ? HEADER : CHECKPOINT;
                read_one(kind == CHECKPOINT || !golden ? &checkpoint : &file[pick(golden)], kind, log, &line, &length);
            }
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        CHECK(status == 0, "file %ld: the reader crashed (status %x); again: fuzz SCRATCH 1 %ld", seen->at, status, seen->at);
    }
    CHECK(seen->failed == 0, "%ld times, e.g. %s", seen->failed, seen->failure);
    for (int k = 0; k < KINDS && n >= 1000; k++) {
        printf("%-10s %7ld accepted %7ld refused\n", kind_name[k], seen->accepted[k], seen->refused[k]);
        CHECK((seen->accepted[k] > 0 || (k == GOLDEN && !golden)) && (seen->refused[k] > 0 || (k == GOLDEN && !golden)), "no file of kind %s is accepted, or none refused", kind_name[k]);
    }
    for (int i = 0; i < messages && n >= 1000; i++) CHECK(seen->reached[i] > 0, "never reached: %s", message[i].text);
    printf("%ld files, %d messages of st_parse(), %d of series_parse(), %d of checkpoints\n", n, parser, series - parser, messages - series);
    return finish("fuzz");
}
