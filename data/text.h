// text.h: any text file as a sequence of symbols.
//   bytes   ids 0..255 are the bytes                  text8   ids 0..26 are space, a..z: everything else becomes a space, runs of spaces one space
// With merges (byte pair encoding, Sennrich et al. 2016), id base + i joins the pair that is most frequent once the i merges before it are
// done; pairs never cross the end of a word.
// The last two ids are BOS and MASK, so V = base + merges + 2. Neither ever stands in a text.
// "Characters" are bytes everywhere. The first 90 % of a file is for training, the next 5 % for validation, the last 5 % for testing.
#pragma once
#include "../io.h"

typedef enum { TRAIN, VALIDATION, TEST } Split;
enum { MAX_PIECE = 64 };                                // bytes of the longest piece that one id may stand for

typedef struct Vocabulary {
    bool text8;
    int base, merges, size, bos, mask;                  // size = V counts BOS and MASK
    int (*merge)[2];                                    // merge[i]: the two ids that make id base + i
    char **piece;                                       // the bytes of an id, not 0-terminated
    int *length;                                        // their number; 0 for BOS and MASK
} Vocabulary;

// ---- a table of words ---------------------------------------------------------------------------------------------------------

typedef struct Words { const char **word; int *length, *slot, n, room; } Words;    // slot: hash table of indices + 1, 4*room long

static int words_place(const Words *w, const char *s, int length) {
    size_t mask = (size_t)w->room*4 - 1, i = hash_bytes(s, (size_t)length) & mask;
    while (w->slot[i] && (w->length[w->slot[i] - 1] != length || memcmp(w->word[w->slot[i] - 1], s, (size_t)length))) i = (i + 1) & mask;
    return (int)i;
}
static int words_find(const Words *w, const char *s, int length) { return w->n ? w->slot[words_place(w, s, length)] - 1 : -1; }   // index or -1

// index of a word, added if it is new; the bytes are not copied
static int words_add(Words *w, const char *s, int length) {
    if (w->n == w->room) {
        w->room = w->room ? 2*w->room : 1024;
        w->word = realloc(w->word, (size_t)w->room * sizeof *w->word);
        w->length = realloc(w->length, (size_t)w->room * sizeof *w->length);
        free(w->slot);
        w->slot = NEW(int, (size_t)w->room * 4);
        if (!w->word || !w->length) die("out of memory");
        for (int i = 0; i < w->n; i++) w->slot[words_place(w, w->word[i], w->length[i])] = i + 1;
    }
    int i = words_place(w, s, length);
    if (!w->slot[i]) { w->word[w->n] = s; w->length[w->n] = length; w->slot[i] = ++w->n; }
    return w->slot[i] - 1;
}
static void words_free(Words *w) { free(w->word), free(w->length), free(w->slot); *w = (Words){0}; }

static bool is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 128; }   // bytes of UTF-8 sequences count as letters

// length of the piece at s (n bytes left): letters with at most one space before them, or one byte
static int piece_length(const char *s, size_t n) {
    size_t i = s[0] == ' ' && n > 1 && is_letter((unsigned char)s[1]);
    while (i < n && i < MAX_PIECE && is_letter((unsigned char)s[i])) i++;
    return i ? (int)i : 1;
}

// ---- vocabulary ---------------------------------------------------------------------------------------------------------------

static Vocabulary vocabulary_create(bool text8, int merges, const int (*merge)[2]) {
    Vocabulary v = {.text8 = text8, .base = text8 ? 27 : 256, .merges = merges};
    v.bos = v.base + merges, v.mask = v.bos + 1, v.size = v.mask + 1;
    v.merge = (int (*)[2])NEW(int, 2*merges + 2);
    v.piece = NEW(char *, v.size);
    v.length = NEW(int, v.size);
    for (int i = 0; i < v.base; i++) {
        v.piece[i] = NEW(char, 1);
        v.piece[i][0] = (char)(!text8 ? i : i ? 'a' + i - 1 : ' ');
        v.length[i] = 1;
    }
    for (int i = 0; i < merges; i++) {
        int a = v.merge[i][0] = merge[i][0], b = v.merge[i][1] = merge[i][1], id = v.base + i;
        if (a < 0 || b < 0 || a >= id || b >= id || v.length[a] + v.length[b] > MAX_PIECE) die("merge %d of the vocabulary is not possible", i);
        v.length[id] = v.length[a] + v.length[b];
        v.piece[id] = NEW(char, v.length[id]);
        memcpy(v.piece[id], v.piece[a], (size_t)v.length[a]);
        memcpy(v.piece[id] + v.length[a], v.piece[b], (size_t)v.length[b]);
    }
    return v;
}
static void vocabulary_free(Vocabulary *v) {
    for (int i = 0; i < v->size; i++) free(v->piece[i]);
    free(v->piece), free(v->length), free(v->merge);
    *v = (Vocabulary){0};
}

// id of a byte of the folded text
static int base_id(const Vocabulary *v, char c) { return !v->text8 ? (unsigned char)c : c == ' ' ? 0 : c - 'a' + 1; }

// A table from pairs of ids to a number
typedef struct Pairs { int (*key)[2]; long *value; int n, *slot, room; } Pairs;
static size_t pair_place(const Pairs *p, const int key[2]) {
    size_t mask = (size_t)p->room*4 - 1, s = hash_bytes((const char *)key, 2 * sizeof(int)) & mask;
    while (p->slot[s] && memcmp(p->key[p->slot[s] - 1], key, 2 * sizeof(int))) s = (s + 1) & mask;
    return s;
}
static long *pair_value(Pairs *p, int a, int b) {       // a new pair is added with value 0
    if (p->n == p->room) {
        p->room = p->room ? 2*p->room : 1024;
        p->key = realloc(p->key, (size_t)p->room * sizeof *p->key);
        p->value = realloc(p->value, (size_t)p->room * sizeof *p->value);
        free(p->slot);
        p->slot = NEW(int, (size_t)p->room * 4);
        if (!p->key || !p->value) die("out of memory");
        for (int i = 0; i < p->n; i++) p->slot[pair_place(p, p->key[i])] = i + 1;
    }
    int key[2] = {a, b};
    size_t s = pair_place(p, key);
    if (!p->slot[s]) { memcpy(p->key[p->n], key, sizeof key); p->value[p->n] = 0; p->slot[s] = ++p->n; }
    return &p->value[p->slot[s] - 1];
}
static void pairs_free(Pairs *p) { free(p->key), free(p->value), free(p->slot); *p = (Pairs){0}; }

// joins every neighbouring (a, b) of a word into id; returns the new length
static int join(int *symbol, int n, int a, int b, int id) {
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (i + 1 < n && symbol[i] == a && symbol[i + 1] == b) symbol[m++] = id, i++;
        else symbol[m++] = symbol[i];
    }
    return m;
}

// Learns `merges` pairs from text: each time the most frequent pair inside words (ties: the one seen first). Fewer if no pair is left that
// occurs twice.
static Vocabulary vocabulary_learn(const char *text, size_t size, bool text8, int merges) {
    Vocabulary base = vocabulary_create(text8, 0, NULL);
    Words words = {0};
    long *times = NULL;
    for (size_t i = 0, n; i < size && merges; i += n) {
        n = (size_t)piece_length(text + i, size - i);
        int old = words.n, room = words.room, w = words_add(&words, text + i, (int)n);
        if (words.room != room && !(times = realloc(times, (size_t)words.room * sizeof *times))) die("out of memory");
        times[w] = w == old ? 1 : times[w] + 1;
    }
    int (*symbol)[MAX_PIECE] = (int (*)[MAX_PIECE])NEW(int, MAX_PIECE * (size_t)words.n), *n = NEW(int, words.n);
    Pairs pairs = {0};
    for (int w = 0; w < words.n; w++) {
        n[w] = words.length[w];
        for (int i = 0; i < n[w]; i++) symbol[w][i] = base_id(&base, words.word[w][i]);
        for (int i = 0; i + 1 < n[w]; i++) *pair_value(&pairs, symbol[w][i], symbol[w][i + 1]) += times[w];
    }
    int (*merge)[2] = (int (*)[2])NEW(int, 2*merges + 2), learned = 0;
    for (; learned < merges; learned++) {
        int best = 0;
        for (int i = 1; i < pairs.n; i++) if (pairs.value[i] > pairs.value[best]) best = i;
        if (!pairs.n || pairs.value[best] < 2) break;
        int a = merge[learned][0] = pairs.key[best][0], b = merge[learned][1] = pairs.key[best][1];
        for (int w = 0; w < words.n; w++) {
            bool has = false;
            for (int i = 0; i + 1 < n[w] && !has; i++) has = symbol[w][i] == a && symbol[w][i + 1] == b;
            if (!has) continue;
            for (int i = 0; i + 1 < n[w]; i++) *pair_value(&pairs, symbol[w][i], symbol[w][i + 1]) -= times[w];
            n[w] = join(symbol[w], n[w], a, b, base.base + learned);
            for (int i = 0; i + 1 < n[w]; i++) *pair_value(&pairs, symbol[w][i], symbol[w][i + 1]) += times[w];
        }
    }
    Vocabulary v = vocabulary_create(text8, learned, (const int (*)[2])merge);
    vocabulary_free(&base);
    pairs_free(&pairs);
    words_free(&words);
    free(symbol), free(n), free(times), free(merge);
    return v;
}

// Ids of a folded text -> id (at least size long); returns their number. Inside a word the earliest merge goes first, as in learning.
static size_t encode(const Vocabulary *v, const char *text, size_t size, int *id) {
    Pairs rank = {0};                                   // rank + 1 of each merge; 0, added on look-up, for a pair that is none
    for (int i = 0; i < v->merges; i++) *pair_value(&rank, v->merge[i][0], v->merge[i][1]) = i + 1;
    Words known = {0};                                  // words met before, and where their ids stand in `id`
    size_t *from = NULL, n = 0;
    int *count = NULL;
    for (size_t i = 0, length; i < size; i += length) {
        length = v->merges ? (size_t)piece_length(text + i, size - i) : 1;
        if (length == 1) { id[n++] = base_id(v, text[i]); continue; }
        int old = known.n, room = known.room, w = words_add(&known, text + i, (int)length);
        if (known.room != room) {
            from = realloc(from, (size_t)known.room * sizeof *from);
            count = realloc(count, (size_t)known.room * sizeof *count);
            if (!from || !count) die("out of memory");
        }
        if (w == old) {                                 // a new word
            int *symbol = id + n, m = (int)length;
            for (int j = 0; j < m; j++) symbol[j] = base_id(v, text[i + (size_t)j]);
            for (;;) {
                long first = 0;
                for (int j = 0; j + 1 < m; j++) { long r = *pair_value(&rank, symbol[j], symbol[j + 1]); if (r && (!first || r < first)) first = r; }
                if (!first) break;
                m = join(symbol, m, v->merge[first - 1][0], v->merge[first - 1][1], v->base + (int)first - 1);
            }
            from[w] = n, count[w] = m;
        } else memmove(id + n, id + from[w], (size_t)count[w] * sizeof(int));
        n += (size_t)count[w];
    }
    pairs_free(&rank);
    words_free(&known);
    free(from), free(count);
    return n;
}

// bytes of n ids -> out (at least MAX_PIECE n + 1 long), 0-terminated; BOS is silent, MASK becomes `mask`. Returns the number of bytes.
static size_t decode(const Vocabulary *v, const int *id, size_t n, const char *mask, char *out) {
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const char *piece = id[i] == v->mask ? mask : v->piece[id[i]];
        size_t length = id[i] == v->mask ? strlen(mask) : (size_t)v->length[id[i]];
        if (length) memcpy(out + m, piece, length);
        m += length;
    }
    out[m] = 0;
    return m;
}

// ---- files --------------------------------------------------------------------------------------------------------------------

// text8's alphabet, in place; returns the new size
static size_t fold_text8(char *text, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
        if (c >= 'a' && c <= 'z') text[n++] = c;
        else if (n && text[n - 1] != ' ') text[n++] = ' ';
    }
    return n;
}

static char *text_read(const char *path, bool text8, size_t *size) {
    char *text = (char *)read_file(path, size);
    if (text8) *size = fold_text8(text, *size);
    return text;
}

// the bytes [*from, *to) of a split
static void text_split(size_t size, Split split, size_t *from, size_t *to) {
    size_t cut[4] = {0, size / 100 * 90, size / 100 * 95, size};
    *from = cut[split], *to = cut[split + 1];
}

// ---- how much a sample looks like the text ------------------------------------------------------------------------------------

typedef struct Quality {
    double known_words;                                 // share of words of three letters or more that occur in the training text
    double entropy;                                     // of single characters, nats
    double distinct2;                                   // distinct pairs of neighbouring words / all pairs
    int longest_copy;                                   // characters in a row that stand in the training text
} Quality;

// next word (a run of letters) at or after *i; false at the end
static bool next_word(const char *s, size_t n, size_t *i, size_t *length) {
    while (*i < n && !is_letter((unsigned char)s[*i])) ++*i;
    for (*length = 0; *i + *length < n && is_letter((unsigned char)s[*i + *length]);) ++*length;
    return *length > 0;
}

// Does any run of k characters of the samples stand in the text? Rolling hashes, then the bytes themselves.
static bool copies(char *const *sample, const size_t *size, int n, const char *text, size_t text_size, size_t k) {
    enum { SLOTS = 1 << 17 };
    const uint64_t base = 1099511628211u;
    uint64_t top = 1;
    const char **slot = NEW(const char *, SLOTS);
    bool found = false;
    for (size_t i = 1; i < k; i++) top *= base;
    for (int pass = 0; pass <= n && !found; pass++) {   // samples into the table, then the text against it
        const char *s = pass < n ? sample[pass] : text;
        size_t length = pass < n ? size[pass] : text_size;
        uint64_t h = 0;
        for (size_t i = 0; i < length && !found; i++) {
            h = h * base + (unsigned char)s[i] + 1;
            if (i + 1 < k) continue;
            const char *from = s + i + 1 - k;
            size_t at = (h ^ h >> 31) & (SLOTS - 1);
            while (slot[at] && memcmp(slot[at], from, k)) at = (at + 1) & (SLOTS - 1);
            if (pass == n) found = slot[at] != NULL;
            else if (!slot[at]) slot[at] = from;
            h -= top * ((uint64_t)(unsigned char)*from + 1);
        }
    }
    free(slot);
    return found;
}

// n samples against the training text. The samples together must be shorter than 100,000 characters.
static Quality text_quality(char *const *sample, const size_t *size, int n, const char *text, size_t text_size) {
    Quality q = {0};
    Words known = {0}, seen = {0};
    Pairs pairs = {0};
    for (size_t i = 0, length = 0; next_word(text, text_size, &i, &length); i += length) words_add(&known, text + i, (int)length);

    size_t words = 0, hits = 0, n_pairs = 0, total = 0, counts[256] = {0}, longest = 0;
    for (int k = 0; k < n; k++) {
        const char *s = sample[k];
        int before = -1;
        for (size_t i = 0, length = 0; next_word(s, size[k], &i, &length); i += length) {
            if (length >= 3) words++, hits += words_find(&known, s + i, (int)length) >= 0;
            int word = words_add(&seen, s + i, (int)length);
            if (before >= 0) n_pairs++, ++*pair_value(&pairs, before, word);
            before = word;
        }
        for (size_t i = 0; i < size[k]; i++) counts[(unsigned char)s[i]]++;
        total += size[k];
        if (size[k] > longest) longest = size[k];
    }
    if (total >= 100000) die("text_quality: more than 100,000 characters");
    q.known_words = words ? (double)hits / (double)words : 0;
    q.distinct2 = n_pairs ? (double)pairs.n / (double)n_pairs : 0;
    for (int c = 0; c < 256; c++) if (counts[c]) { double p = (double)counts[c] / (double)total; q.entropy -= p * log(p); }
    size_t low = 0, high = longest;                     // a copy of length k contains one of length k-1: bisection
    while (low < high) { size_t k = (low + high + 1) / 2; if (copies(sample, size, n, text, text_size, k)) low = k; else high = k - 1; }
    q.longest_copy = (int)low;
    words_free(&known);
    words_free(&seen);
    pairs_free(&pairs);
    return q;
}
