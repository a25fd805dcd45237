/* bd3lm.c: Block Diffusion language models (Arriola et al. 2025, arXiv 2503.09573, "BD3-LM"). Trains on any text file, evaluates, writes text.

   A text is cut into blocks. Blocks are written from left to right, as a language model writes tokens; inside a block all tokens
   start as MASK and are uncovered in random order, as a masked diffusion model does. Blocks of one token are next-token prediction,
   one block is full-sequence diffusion.

       make bd3lm data && ./bd3lm train && ./bd3lm sample --watch

   Start reading at METHOD (section 3), then loss (5), sampling (6), then the network (4). One step further down is common.h (ops),
   then cpu_kernels.c.
   Not here: stop rules, search of the clipping interval, SEDD.

   paper             here                                    (t is always a position in this repository, never a level)
   L, L', B          T, block, T / block                     tokens of a sequence, tokens of a block, blocks
   t, alpha_t        tau, 1 - mask_prob(tau)                 level of a block, in (0, 1]
   x^b, x_t^b        x, x_tau                                clean and noisy tokens
   m, V              mask, V                                 id of MASK, number of ids, MASK included
   x_theta           forward()                               the network
   beta, omega       clip_min, clip_max                      levels are drawn from [clip_min, clip_max]                                        */
#include "common.h"     // brings: tensors, tape, ops, parameters, checkpoints; through io.h: files, command line
                        //         NEW(type, n): zeroed, you free it; HOST(type, n) and to_device(): live until the next begin_step()
#include "data/text.h"  // brings: bytes or text8 or byte pairs as symbols, splits, measures of sample quality

// ---- 1. configuration ---------------------------------------------------------------------------------------------------------

typedef struct NetConfig {
    int NL, C, NH;              // layers, width, heads, e.g. 12, 768, 12 (paper, small)
    int cond;                   // width of the level's embedding, e.g. 128
    int V, mask;                // vocabulary with BOS and MASK; id of MASK
    bool adaln;                 // modulated branches (adaLN-zero); false for the autoregressive network
    int freq, mlp;              // sinusoids of a level, e.g. 256; width of the MLP over C, e.g. 4
    double rope_base, eps;      // 10000; 1e-5 under the root of LayerNorm
} NetConfig;

static struct {
    int layers, width, heads, cond, length, block, merges, steps, batch, warmup, save_every, seed, threads, samples, characters, draws, sampling_steps;
    double lr, dropout, max_norm, ema, clip_min, clip_max, nucleus;
    const char *data, *text, *charset, *objective, *out, *prompt, *split, *device, *sampler, *estimator, *given_text,
        *precision, *animate;
    bool resume, force, watch, quality, naive;
} opt = {
    .layers = 2, .width = 96, .heads = 8, .cond = 128, .length = 64, .block = 4, .merges = 4000, .steps = 3000, .batch = 8, .warmup = 50, .save_every = 500, .seed = 1,
    .samples = 1, .characters = 512, .draws = 1, .sampling_steps = 1000,
    .lr = 1.5e-3, .max_norm = 1, .ema = 0.9999, .clip_min = 1e-3, .clip_max = 1, .nucleus = 0.9,
    .data = "data/cache/kjv.txt", .text = "", .charset = "bytes", .objective = "bd3", .out = "out/bd3lm", .prompt = "", .split = "test", .device = "cpu", .precision = "auto",
    .sampler = "first_hitting", .estimator = "levels", .given_text = "", .animate = "",
};

static Option options[] = {
    // name, type, variable with its default, smallest, largest, verbs, meaning, saved in checkpoints, given
    {"data",     TEXT, &opt.data,      0, 0, " train eval sample ", "text file", true, false},
    {"text-hash",TEXT, &opt.text,      0, 0, " ", "size and hash of the text that was trained on", true, false},
    {"charset",  TEXT, &opt.charset,   0, 0, " train ", "bytes, or text8: 27 symbols", true, false},
    {"vocab",    INT,  &opt.merges,    0, 60000, " train ", "byte pairs learned from the text on top of the charset; 0: none", true, false},
    {"objective",TEXT, &opt.objective, 0, 0, " train ", "bd3: block diffusion, or ar: next-token prediction", true, false},
    {"block",    INT,  &opt.block,     1, 1e6, " train ", "tokens of a block; it divides --length; equal to it: one block, masked diffusion", true, false},
    {"length",   INT,  &opt.length,    2, 1e6, " train ", "tokens of a training sequence, BOS included (T)", true, false},
    {"layers",   INT,  &opt.layers,    1, 1000, " train ", "layers of the network (NL)", true, false},
    {"width",    INT,  &opt.width,     1, 1e5, " train ", "width of the network (C)", true, false},
    {"heads",    INT,  &opt.heads,     1, 1e5, " train ", "attention heads (NH); they divide --width", true, false},
    {"cond",     INT,  &opt.cond,      1, 1e5, " train ", "width of the level's embedding", true, false},
    {"dropout",  REAL, &opt.dropout,   0, 0.99, " train ", "share of branch outputs dropped; 0: off", true, false},
    {"batch",    INT,  &opt.batch,     1, 1e6, " train eval ", "sequences of a batch (B)", true, false},
    {"steps",    INT,  &opt.steps,     1, 1e9, " train ", "optimiser steps", true, false},
    {"lr",       REAL, &opt.lr,        0, 10, " train ", "learning rate after warm-up", true, false},
    {"warmup",   INT,  &opt.warmup,    0, 1e9, " train ", "steps of linear warm-up; 0: off", true, false},
    {"clip-grad",REAL, &opt.max_norm,  0, 1e9, " train ", "largest norm of the gradient; 0: off", true, false},
    {"ema",      REAL, &opt.ema,       0, 1, " train ", "decay of the moving average of the weights", true, false},
    {"clip-min", REAL, &opt.clip_min,  1e-6, 1, " train ", "smallest level drawn in training (beta)", true, false},
    {"clip-max", REAL, &opt.clip_max,  1e-6, 1, " train ", "largest level drawn in training (omega)", true, false},
    {"save-every",INT, &opt.save_every,0, 1e9, " train ", "steps between two checkpoints on the way; 0: only at the end", false, false},
    {"seed",     INT,  &opt.seed,      0, 2147483647, " train eval sample ", "seed of all randomness", true, false},
    {"samples",  INT,  &opt.samples,   1, 1000, " sample ", "texts to write, side by side", false, false},
    {"chars",    INT,  &opt.characters,1, 1e6, " sample ", "bytes of each text, the prompt included", false, false},
    {"sampler",  TEXT, &opt.sampler,   0, 0, " sample ", "first_hitting: one token a pass, or ancestral: steps down the levels", false, false},
    {"sampling-steps", INT, &opt.sampling_steps, 1, 1e6, " sample ", "steps of --sampler ancestral in each block", false, false},
    {"nucleus",  REAL, &opt.nucleus,   0, 1, " sample ", "keep the most likely tokens up to this total probability; 1: all, 0: the likeliest alone", false, false},
    {"prompt",   TEXT, &opt.prompt,    0, 0, " sample ", "beginning of the text", false, false},
    {"watch",    FLAG, &opt.watch,     0, 1, " sample ", "show the masks of the first text turn into words", false, false},
    {"animate",  TEXT, &opt.animate,   0, 0, " sample ", "file: an animated SVG of the same", false, false},
    {"quality",  FLAG, &opt.quality,   0, 1, " sample ", "measure the texts beside held-out text", false, false},
    {"split",    TEXT, &opt.split,     0, 0, " eval ", "train, validation or test", false, false},
    {"text",     TEXT, &opt.given_text, 0, 0, " eval ", "a text to evaluate, of any length, in the place of a part of --data", false, false},
    {"estimator",TEXT, &opt.estimator, 0, 0, " eval ", "of the bound: levels, as in training; masks: a random number of masks; exact: all sets of masks", false, false},
    {"draws",    INT,  &opt.draws,     1, 1e6, " eval ", "Monte-Carlo draws of levels or masks for each sequence", false, false},
    {"out",      TEXT, &opt.out,       0, 0, " train eval sample ", "directory of the checkpoint", false, false},
    {"resume",   FLAG, &opt.resume,    0, 1, " train ", "go on from the checkpoint in --out; steps, data (its place), save-every, threads, naive, device may change", false, false},
    {"force",    FLAG, &opt.force,     0, 1, " train ", "overwrite the checkpoint in --out", false, false},
    {"threads",  INT,  &opt.threads,   0, 4096, " train eval sample check ", "threads; 0: one for each core", false, false},
    {"device",   TEXT, &opt.device,    0, 0, " train eval sample check ", "cpu, or cuda: one NVIDIA GPU", false, false},
    {"precision",TEXT, &opt.precision, 0, 0, " train eval sample ", "products in fp32 or bf16; auto: bf16 where the processor has a matrix unit; cuda knows fp32 only", false, false},
    {"naive",    FLAG, &opt.naive,     0, 1, " train eval sample check ", "plain kernels only", false, false},
    {0},
};

static bool is_ar(void) {
    if (!strcmp(opt.objective, "ar")) return true;
    if (strcmp(opt.objective, "bd3")) die("--objective %s: bd3 or ar", opt.objective);
    return false;
}

static bool is_text8(void) {
    if (!strcmp(opt.charset, "text8")) return true;
    if (strcmp(opt.charset, "bytes")) die("--charset %s: bytes or text8", opt.charset);
    return false;
}

static void set_up(void) {
    select_machine(opt.threads, opt.device, &opt.precision, opt.naive);
    if (!*opt.out) die("--out '': the name of a directory is needed");
}

static bool given(const char *name) { for (const Option *o = options; o->name; o++) if (!strcmp(o->name, name)) return o->given; return false; }

// ---- 2. data ------------------------------------------------------------------------------------------------------------------

typedef struct Corpus {
    char *text;                 // folded to the charset
    size_t size;
    Vocabulary vocab;
    int *id[3];                 // symbols of the training, validation and test part
    size_t n[3], characters[3];
} Corpus;

// Reads the text and encodes the three parts; the byte pairs are learned from the training part unless a vocabulary is given (then corpus_free frees it).
static Corpus corpus_load(const char *path, const Vocabulary *vocab) {
    Corpus c = {0};
    bool text8 = is_text8();
    if (!exists(path)) die("%s: no such file (make data fetches the default text; --data takes any other)", path);
    c.text = text_read(path, text8, &c.size);
    char mark[64];
    snprintf(mark, sizeof mark, "%zu:%016llx", c.size, (unsigned long long)hash_bytes(c.text, c.size));
    if (*opt.text && (opt.resume || !given("data")) && strcmp(opt.text, mark))
        die(opt.resume ? "%s is not the text that was trained on (--data may name another place of it, not another text)"
                       : "%s is not the text that was trained on (--data %s takes it all the same)", path, path);
    if (!*opt.text && !(opt.text = strdup(mark))) die("out of memory");
    size_t from, to;
    text_split(c.size, TRAIN, &from, &to);
    c.vocab = vocab ? *vocab : vocabulary_learn(c.text, to, text8, opt.merges);
    opt.merges = c.vocab.merges;                        // a small text yields fewer than were asked for: say and save what was learned
    for (int s = TRAIN; s <= TEST; s++) {
        text_split(c.size, s, &from, &to);
        c.id[s] = NEW(int, to - from);
        c.n[s] = encode(&c.vocab, c.text + from, to - from, c.id[s]);
        c.characters[s] = to - from;
    }
    return c;
}
static void corpus_free(Corpus *c) {
    free(c->text);
    for (int s = 0; s < 3; s++) free(c->id[s]);
    vocabulary_free(&c->vocab);
}

// A window is BOS and T-1 symbols from `from` on. x (T); counted (T) is 0 beyond the end of the part.
static void window(const Corpus *c, Split s, size_t from, int T, int *x, int *counted) {
    x[0] = c->vocab.bos, counted[0] = 1;
    for (int t = 1; t < T; t++) {
        size_t i = from + (size_t)t - 1;
        x[t] = i < c->n[s] ? c->id[s][i] : c->vocab.bos;
        counted[t] = i < c->n[s];
    }
}

// B windows from random places of the training part; the same for the same seed and step
static void draw_batch(const Corpus *c, int step, int B, int T, int *x, int *counted) {
    Rng r = rng((uint64_t)opt.seed, RNG_DATA, (uint64_t)step);
    for (int b = 0; b < B; b++) window(c, TRAIN, (size_t)(uniform(&r) * (double)(c->n[TRAIN] - (size_t)T + 2)), T, x + b*T, counted + b*T);
}

// ---- 3. METHOD ----------------------------------------------------------------------------------------  <- start here ---------
// log p(x) = sum_b log p(x^b | x^<b): every block is generated by a masked diffusion model that sees the clean blocks before it.        (Sec. 3.1)
// What is minimised is a bound of its negative, code in bd3_loss():
//     L_BD = sum_b E_tau E_q [ w(tau) sum over the masked tokens l of block b of -log p(x_l | x_tau^b, x^<b) ]                          (Eq. 8)

// Absorbing noise: at level tau a token is replaced by MASK with probability 1 - alpha(tau); linear schedule alpha(tau) = 1 - tau.      (Sec. 4.1)
static double mask_prob(double tau)    { return tau; }
static double nelbo_weight(double tau) { return 1 / tau; }      // -alpha'(tau) / (1 - alpha(tau))                                       (Eq. 8)

// One level for each block, stratified over the batch: of N = B*blocks levels, number i falls into [i/N, (i+1)/N] before it             (App. C.4)
// is stretched over [clip_min, clip_max]. Clipping changes only this law, never the weight.                                           (Sec. 5.2)
// tau (B,blocks), u (B,blocks) uniform in [0,1)
static void draw_levels(double *tau, const double *u, int B, int blocks, double clip_min, double clip_max, bool stratified) {
    int levels = B * blocks;
    for (int i = 0; i < levels; i++) {
        double e = stratified ? (u[i] + i) / levels : u[i];
        tau[i] = clip_min + (clip_max - clip_min) * (e - floor(e));        // modulo 1: rounding may give exactly 1
    }
}

// x_tau ~ q(. | x): each token of a block is masked with the same probability. BOS, at position 0, never is.                            (Sec. 4.1)
// x_tau, x, u (B,T), tau (B, T/block): token i of the batch lies in block i / block, since block divides T
static void corrupt(int *x_tau, const int *x, const double *tau, const double *u, int mask, int B, int T, int block, bool keep_bos) {
    for (int i = 0; i < B*T; i++) x_tau[i] = u[i] <= mask_prob(tau[i / block]) && !(keep_bos && i % T == 0) ? mask : x[i];
}

// What row i of the doubled sequence [noisy x_tau | clean x] attends to, T tokens each:                                       (Sec. 3.2, App. B.6)
//   a noisy row of block b sees noisy block b (M_BD) and the clean blocks before b (M_OBC);
//   a clean row of block b sees the clean blocks up to and including b (M_BC).
// Both copies of a token stand at the same position. Only noisy rows predict; clean rows are there to be seen. An interval that is not
// needed is empty. With one block the first T rows see [0, T) and nothing clean: then the second half can be left out.
static Span attends(int i, int T, int block) {
    int start = i % T / block * block, end = start + block;
    return i < T ? (Span){.lo = {start, T}, .hi = {end, T + start}} : (Span){.lo = {T}, .hi = {T + end}};
}

// SUBS (Sahoo et al. 2024): MASK is never predicted, and an uncovered token stays what it is. log p(. | x_tau, x^<b) at one position:     (App. B.3)
// log_p (V), logits (V), current: the token that stands there. For `check` and the tests. In the loss the same is done by cross_entropy(), which
// leaves MASK out of the softmax, and by the weight 0 of tokens that are not masked; in sampling by softmax_nucleus(), which leaves MASK out too,
// and by asking for masked tokens only.
static void subs_log_probs(double *log_p, const real *logits, int V, int mask, int current) {
    for (int v = 0; v < V; v++) log_p[v] = -INFINITY;
    if (current != mask) { log_p[current] = 0; return; }
    double top = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) if (v != mask && !((double)logits[v] <= top)) top = (double)logits[v];      // !(<=): a NaN gets through
    for (int v = 0; v < V; v++) if (v != mask) sum += exp((double)logits[v] - top);
    double log_sum = top + log(sum);
    for (int v = 0; v < V; v++) if (v != mask) log_p[v] = (double)logits[v] - log_sum;
}

// One step back in time, from level tau to a smaller one `to`, where the network predicts p for x: an uncovered token stays what it is; MASK stays MASK     (Eq. 15)
// with probability (1 - alpha(to)) / (1 - alpha(tau)), and otherwise becomes a token drawn from p.
static double stay_masked(double tau, double to) { return mask_prob(to) / mask_prob(tau); }

// ---- 4. network ---------------------------------------------------------------------------------------------------------------
// The paper's DiT: pre-norm transformer, rotary positions, every branch modulated by the level (adaLN-zero). Names and shapes are the official ones.
// The level is not shown to the network (time_conditioning = 0): it always reads level 0, so its modulation is a learned constant, G = 1.

typedef struct Layer { Tensor *norm1, *attn_qkv, *attn_out, *norm2, *mlp0, *mlp0_bias, *mlp2, *mlp2_bias, *ada, *ada_bias; } Layer;
typedef struct Net {
    NetConfig c;
    Params ps;
    Tensor *embedding, *sigma0, *sigma0_bias, *sigma2, *sigma2_bias, *norm_final, *linear, *linear_bias, *ada, *ada_bias;
    Layer *layer;
    Rope rope;
    real *cache;                // keys|values (NL,B,W,2C) for sampling, else NULL
    int cache_B, W;
    real *mods;                 // with a cache: all modulations (NL,6C)|(2C) of level 0, once a pass has computed them
    bool mods_known;
    Dropout drop;               // of the next residual branch; p = 0 outside of training
} Net;

static Tensor *named(Params *ps, const char *suffix, int layer, int rows, int columns, Init init, double bound) {
    char name[128];
    if (layer >= 0) snprintf(name, sizeof name, "blocks.%d.%s", layer, suffix); else snprintf(name, sizeof name, "%s", suffix);
    return param(ps, name, rows, columns, init, bound);
}

// Registers all parameters and takes their memory; P: largest position + 1; cache_B, W: sequences and slots of the cache, 0 for none.
static Net net_create(NetConfig c, bool training, uint64_t seed, int P, int cache_B, int W) {
    Net net = {.c = c, .layer = NEW(Layer, c.NL), .cache_B = cache_B, .W = W};
    Params *ps = &net.ps;
    int C = c.C, M = c.mlp * C;
    // PyTorch's default for a linear layer: U(-1/sqrt(fan-in), 1/sqrt(fan-in)), bias included
    double bound_C = 1 / sqrt((double)C), bound_M = 1 / sqrt((double)M), bound_cond = 1 / sqrt((double)c.cond), bound_freq = 1 / sqrt((double)c.freq);
    net.embedding = named(ps, "vocab_embed.embedding", -1, c.V, C, UNIFORM, bound_C);
    if (c.adaln) {
        net.sigma0 = named(ps, "sigma_map.mlp.0.weight", -1, c.cond, c.freq, UNIFORM, bound_freq);
        net.sigma0_bias = named(ps, "sigma_map.mlp.0.bias", -1, 0, c.cond, UNIFORM, bound_freq);
        net.sigma2 = named(ps, "sigma_map.mlp.2.weight", -1, c.cond, c.cond, UNIFORM, bound_cond);
        net.sigma2_bias = named(ps, "sigma_map.mlp.2.bias", -1, 0, c.cond, UNIFORM, bound_cond);
    }
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net.layer[l];
        y->norm1 = named(ps, "norm1.weight", l, 0, C, ONE, 0);
        y->attn_qkv = named(ps, "attn_qkv.weight", l, 3*C, C, UNIFORM, bound_C);
        y->attn_out = named(ps, "attn_out.weight", l, C, C, UNIFORM, bound_C);
        y->norm2 = named(ps, "norm2.weight", l, 0, C, ONE, 0);
        y->mlp0 = named(ps, "mlp.0.weight", l, M, C, UNIFORM, bound_C);
        y->mlp0_bias = named(ps, "mlp.0.bias", l, 0, M, UNIFORM, bound_C);
        y->mlp2 = named(ps, "mlp.2.weight", l, C, M, UNIFORM, bound_M);
        y->mlp2_bias = named(ps, "mlp.2.bias", l, 0, C, UNIFORM, bound_M);
        if (!c.adaln) continue;
        y->ada = named(ps, "adaLN_modulation.weight", l, 6*C, c.cond, ZERO, 0);        // gates start at 0: every layer starts as the identity
        y->ada_bias = named(ps, "adaLN_modulation.bias", l, 0, 6*C, ZERO, 0);
    }
    net.norm_final = named(ps, "output_layer.norm_final.weight", -1, 0, C, ONE, 0);
    net.linear = named(ps, "output_layer.linear.weight", -1, c.V, C, ZERO, 0);
    net.linear_bias = named(ps, "output_layer.linear.bias", -1, 0, c.V, ZERO, 0);
    if (c.adaln) {
        net.ada = named(ps, "output_layer.adaLN_modulation.weight", -1, 2*C, c.cond, ZERO, 0);
        net.ada_bias = named(ps, "output_layer.adaLN_modulation.bias", -1, 0, 2*C, ZERO, 0);
    }
    params_create(ps, training, seed);
    net.rope = rope_create(P, C / c.NH, c.rope_base);
    if (cache_B && c.adaln) net.mods = arena_take(&persistent, ((size_t)c.NL * 6 + 2) * (size_t)C * sizeof(real));
    if (cache_B) {                                      // 0: a slot that nobody sees yet must not hold a NaN, see attention_forward in kernels.h
        size_t size = (size_t)c.NL * (size_t)cache_B * (size_t)W * 2*(size_t)C;
        net.cache = arena_take(&persistent, size * sizeof(real));
        fill(net.cache, 0, size);
    }
    return net;
}
static void net_free(Net *net) { params_free(&net->ps); free(net->layer); *net = (Net){0}; }

// The modulation weight cond + bias of layer l (NL: the output layer) -> (1,1,columns). It depends on nothing but the weights, so a sampler, which
// never changes them, computes it once: a layer reads 6C cond numbers for it and 12C^2 for all its other products.
static Tensor *modulation(Net *net, Tensor *cond, Tensor *weight, Tensor *bias, int l) {
    real *kept = net->mods ? net->mods + (size_t)l * 6 * (size_t)net->c.C : NULL;
    if (!net->mods_known || !tape.off) {
        Tensor *mod = linear(cond, weight, bias, LINEAR_ONLY);
        if (kept) store_rows(kept, mod->data, 1, 1, 1, 1, mod->C, mod->C);
        return mod;
    }
    return constant(kept, 1, 1, weight->T, weight->name);
}

// What the network is shown: ids (B,T), and for each of the T rows of a sequence its position and what it attends to. (In the doubled pass
// T counts both copies.) With a cache (slot >= 0) the rows are stored at slots slot.. and spans are intervals of the cache.
typedef struct Input { int B, T, slot; const int *id, *position; const Span *span; } Input;

// Logits (1,N,V) of the rows row[0..N-1] of the B*T. row NULL: none (NULL), the pass only fills the cache.
// In the last layer only these rows ask; of all others nothing is needed but what they show: keys and values.
static Tensor *forward(Net *net, Input in, const int *row, int N) {
    NetConfig c = net->c;
    int C = c.C, all = in.B * in.T, keys = in.slot < 0 ? in.T : net->W;         // keys of a sequence
    int *position = HOST(int, all), *row_position = HOST(int, N);
    Span *row_span = HOST(Span, N);                     // of the wanted rows: here all sequences are one, with in.B * keys keys
    for (int i = 0; i < all; i++) {
        position[i] = in.position[i % in.T];
        if (position[i] >= net->rope.P) die("internal error: position %d, rotary tables end at %d", position[i], net->rope.P);
    }
    for (int i = 0; row && i < N; i++) {
        row_position[i] = position[row[i]], row_span[i] = in.span[row[i] % in.T];
        for (int p = 0; p < 2; p++) row_span[i].lo[p] += row[i] / in.T * keys, row_span[i].hi[p] += row[i] / in.T * keys;
    }
    const int *id = to_device(in.id, (size_t)all * sizeof(int)), *at = to_device(position, (size_t)all * sizeof(int));
    const int *wanted = row ? to_device(row, (size_t)N * sizeof(int)) : NULL, *wanted_at = to_device(row_position, (size_t)N * sizeof(int));
    const Span *span = to_device(in.span, (size_t)in.T * sizeof(Span)), *wanted_span = to_device(row_span, (size_t)N * sizeof(Span));

    Tensor *x = embedding(net->embedding, id, in.B, in.T), *cond = NULL;
    if (c.adaln && !(net->mods_known && tape.off)) {
        const double *level = to_device(&(double){0}, sizeof(double));
        cond = linear(linear(level_features(level, 1, c.freq), net->sigma0, net->sigma0_bias, SILU), net->sigma2, net->sigma2_bias, SILU);
    }
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net->layer[l];
        Tensor *mod = c.adaln ? modulation(net, cond, y->ada, y->ada_bias, l) : NULL;          // shift, scale, gate; twice
        Modulation attn = {mod, NULL, 0, C, 2*C}, mlp = {mod, NULL, 3*C, 4*C, 5*C};
        bool last = l == c.NL - 1;
        size_t mark = per_step.used;

        Tensor *h = norm_modulate(x, y->norm1, attn, LAYER, c.eps), *q = NULL, *kv;   // queries are the first C columns of q; keys and values the last 2C of kv
        if (!last) q = kv = rope(linear(h, y->attn_qkv, NULL, LINEAR_ONLY), net->rope, at, 2*c.NH);
        else kv = rope(linear(h, weight_rows(y->attn_qkv, C, 2*C), NULL, LINEAR_ONLY), net->rope, at, c.NH);
        real *cache = net->cache ? net->cache + (size_t)l * (size_t)net->cache_B * (size_t)net->W * 2*(size_t)C : NULL;
        if (in.slot >= 0) cache_store(cache, net->W, in.slot, kv, 0, kv->T, kv->C - 2*C);
        if (last && !row) return NULL;
        if (last) {
            q = rope(linear(gather_rows(h, wanted, N), weight_rows(y->attn_qkv, 0, C), NULL, LINEAR_ONLY), net->rope, wanted_at, c.NH);
            x = gather_rows(x, wanted, N);
        }
        if (in.slot >= 0) kv = constant(cache, in.B, keys, 2*C, "cache");
        Tensor *a = attention(q, kv, kv->C - 2*C, last ? wanted_span : span, last ? 1 : in.B, c.NH);
        net->drop.stream++;
        x = gated_residual(x, linear(a, y->attn_out, NULL, LINEAR_ONLY), attn, net->drop);

        h = linear_hidden(norm_modulate(x, y->norm2, mlp, LAYER, c.eps), y->mlp0, y->mlp0_bias, GELU);
        net->drop.stream++;
        x = gated_residual(x, linear(h, y->mlp2, y->mlp2_bias, LINEAR_ONLY), mlp, net->drop);
        if (!last) x = keep(x, mark);
    }
    Modulation out = {c.adaln ? modulation(net, cond, net->ada, net->ada_bias, c.NL) : NULL, NULL, 0, C, 0};
    net->mods_known = net->mods && !dry && tape.off;
    return linear(norm_modulate(x, net->norm_final, out, LAYER, c.eps), net->linear, net->linear_bias, LINEAR_ONLY);
}

// ---- 5. loss ------------------------------------------------------------------------------------------------------------------

typedef struct Loss { Tensor *loss, *logits, *row_loss; double n_counted; } Loss;  // loss: mean over the counted tokens; row_loss: w * nll of each

// (1 / n_counted) sum over the rows of weight * -log p(target)
static Loss mean_loss(Net *net, Tensor *logits, const int *target, const double *weight, double n_counted) {
    size_t N = (size_t)rows(logits);
    Loss l = {.logits = logits, .n_counted = n_counted};
    l.loss = cross_entropy(logits, to_device(target, N * sizeof(int)), to_device(weight, N * sizeof(double)), 1 / n_counted, net->c.mask, &l.row_loss);
    return l;
}

// L_BD = E sum_b w(tau_b) * -log p(x^b | x_tau^b, x^<b), the mean over all counted tokens, masked or not.                               (Eq. 8)
// x, x_tau, counted (B,T) 1 or 0; w (B, T/block). One block sees no clean tokens: nothing is doubled (MDLM).
// Only masked tokens go through the output layer (SUBS: the others cost nothing); all_logits: all B*T do, for those who want to look at them.
// In a dry run N is B*T - 1: no step has more masked tokens, since a BOS never is one, and it differs from B*T, so that no two tensors have one shape
// there, and share a gradient buffer, that have different ones in a step.
static Loss bd3_loss(Net *net, const int *x, const int *x_tau, const double *w, const int *counted, int B, int T, int block, bool all_logits) {
    int N = 0, copies = T == block ? 1 : 2, S = copies * T;                 // N rows are predicted, of the S rows of each sequence
    int *id = HOST(int, B * S), *position = HOST(int, S), *row = HOST(int, B*T), *target = HOST(int, B*T);
    Span *span = HOST(Span, S);
    double *weight = HOST(double, B*T), n_counted = 0;
    for (int i = 0; i < S; i++) position[i] = i % T, span[i] = attends(i, T, block);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int i = b*T + t;
            id[b*S + t] = x_tau[i];
            if (copies == 2) id[b*S + T + t] = x[i];
            n_counted += counted[i];
            bool masked = counted[i] && x_tau[i] == net->c.mask;
            if (masked || all_logits || (dry && i > 0)) row[N] = b*S + t, target[N] = x[i], weight[N] = masked ? w[i / block] : 0, N++;
        }
    return mean_loss(net, forward(net, (Input){B, S, -1, id, position, span}, row, N), target, weight, n_counted);
}

// The yardstick: -log p(x_t | x_<t), each token predicted from the row before it. All T-1 predictions of a sequence, exactly.
static Loss ar_loss(Net *net, const int *x, const int *counted, int B, int T) {
    int S = T - 1, N = B * S;
    int *id = HOST(int, N), *target = HOST(int, N), *position = HOST(int, S), *row = HOST(int, N);
    Span *span = HOST(Span, S);
    double *weight = HOST(double, N), n_counted = 0;
    for (int t = 0; t < S; t++) position[t] = t, span[t] = (Span){.lo = {0}, .hi = {t + 1}};
    for (int b = 0; b < B; b++)
        for (int t = 0; t < S; t++) {
            int i = b*S + t;
            id[i] = x[b*T + t], target[i] = x[b*T + t + 1], row[i] = i;
            n_counted += weight[i] = counted[b*T + t + 1];
        }
    return mean_loss(net, forward(net, (Input){B, S, -1, id, position, span}, row, N), target, weight, n_counted);
}

// The loss of one batch with fresh levels and masks, drawn from stream (purpose, number)
static Loss draw_loss(Net *net, const int *x, const int *counted, int B, int T, int block, Purpose purpose, uint64_t number,
                      double clip_min, double clip_max) {
    int levels = B * (T / block), *x_tau = HOST(int, B*T);
    double *u = HOST(double, B*T), *tau = HOST(double, levels), *w = HOST(double, levels);
    Rng r = rng((uint64_t)opt.seed, purpose, number);
    for (int i = 0; i < levels; i++) u[i] = uniform(&r);
    draw_levels(tau, u, B, T / block, clip_min, clip_max, true);
    for (int i = 0; i < B*T; i++) u[i] = uniform(&r);
    if (purpose == RNG_EVAL) {                          // stratum i belongs to block i: over a corpus that is no harm, but one text must meet all levels
        double *drawn = HOST(double, levels);
        int turn = below(&r, levels);
        memcpy(drawn, tau, (size_t)levels * sizeof(double));
        for (int i = 0; i < levels; i++) tau[i] = drawn[(i + turn) % levels];
    }
    corrupt(x_tau, x, tau, u, net->c.mask, B, T, block, true);
    for (int i = 0; i < B*T; i++) if (!counted[i] && i % T) x_tau[i] = net->c.mask;        // beyond the end of a text nothing is known
    for (int i = 0; i < levels; i++) w[i] = nelbo_weight(tau[i]);
    return bd3_loss(net, x, x_tau, w, counted, B, T, block, false);
}

// ---- 6. sampling --------------------------------------------------------------------------------------------------------------
// Everything about probabilities is in double with 53-bit uniforms: samplers of many steps are distorted by less (Zheng et al. 2024).
// Probabilities stay on the device: uniforms go there and tokens come back.

typedef struct Sampler {
    Net *net;
    int B, L, block;                                    // sequences side by side; tokens that each has room for; tokens of a block (1: AR)
    int *x, *row;                                       // (B,L), MASK where nothing is known yet; (B*block) the rows that are predicted next
    int steps;                                          // of ancestral sampling, in each block; 0: first-hitting
    double top;                                         // nucleus
    Rng rng;
    long nfe, forwards, pairs;                          // evaluations that changed a text, as the paper counts, of all texts together;
                                                        // all passes of the batch; query-key pairs of these in each layer but the last
    void (*watch)(const struct Sampler *s, int known, int end);
} Sampler;

// The rows start..start+n-1 of every sequence through the network and into the cache. Returns the logits (N,V) of the rows row[0..N-1]
// of these B*n; row NULL: none. The cache is a ring of W slots: the oldest tokens are overwritten, and positions go on
// (rotary attention sees only their differences). A block divides W, so it never wraps. The result lives until the next call.
static real *forward_cached(Sampler *s, int start, int n, const int *row, int N) {
    begin_step();
    int B = s->B, W = s->net->W, seen = start + n < W ? start + n : W;
    int *id = HOST(int, B * n), *position = HOST(int, n);
    Span *span = HOST(Span, n);
    for (int t = 0; t < n; t++) position[t] = start + t, span[t] = (Span){.lo = {0}, .hi = {seen}};
    for (int b = 0; b < B; b++) memcpy(id + b*n, s->x + (size_t)b*(size_t)s->L + start, (size_t)n * sizeof(int));
    Tensor *logits = forward(s->net, (Input){B, n, start % W, id, position, span}, row, N);
    s->forwards++;
    for (int t = 0; t < n; t++) s->pairs += (long)B * (span[t].hi[0] - span[t].lo[0]);
    return row ? logits->data : NULL;
}

// One pass, then for each of the rows row[0..N-1] of s the probabilities p(x | x_tau^b, x^<b) of the token that it predicts, cut to the nucleus: a row that
// is MASK predicts itself; in AR a row predicts the next token. p (N,V) lives until the next pass.
static double *predict_rows(Sampler *s, int start, int n, int N) {
    const real *logits = forward_cached(s, start, n, s->row, N);
    double *p = arena_take(&per_step, (size_t)N * (size_t)s->net->c.V * sizeof(double));
    softmax_nucleus(p, logits, s->top, s->net->c.mask, N, s->net->c.V);
    return p;
}

// a token for each row of p (N,V), by inverse transform of u (N)
static const int *draw_tokens(const double *p, const double *u, int N, int V) {
    int *drawn = arena_take(&per_step, (size_t)N * sizeof(int)), *token = HOST(int, N);
    categorical(drawn, p, to_device(u, (size_t)N * sizeof(double)), N, V);
    download(token, drawn, (size_t)N * sizeof(int));
    return token;
}

// n numbers uniform in [0,1)
static double *uniforms(Rng *r, int n) {
    double *u = HOST(double, n);
    for (int i = 0; i < n; i++) u[i] = uniform(r);
    return u;
}

// the token of row b*block + t: position start + t of sequence b
static int *token_at(const Sampler *s, int start, int row) { return s->x + (size_t)(row / s->block) * (size_t)s->L + start + row % s->block; }

// the rows of x (n) that are MASK, from the left, counted from `first` on; returns how many
static int masked_rows(int *row, const int *x, int n, int mask, int first) {
    int masks = 0;
    for (int t = 0; t < n; t++) if (x[t] == mask) row[masks++] = first + t;
    return masks;
}

// First-hitting (the law of Eq. 25 without its times): the next token to appear is a uniformly random masked one. As the network does not see the
// level, the times never enter.
static void first_hitting(Sampler *s, int start) {
    int n = s->block, mask = s->net->c.mask;
    for (;;) {
        int N = 0;
        for (int b = 0; b < s->B; b++) {
            int *row = s->row + N, masks = masked_rows(row, token_at(s, start, b*n), n, mask, b*n);
            if (masks) row[0] = row[below(&s->rng, masks)], N++;
        }
        if (!N) return;
        const double *p = predict_rows(s, start, n, N);
        const int *token = draw_tokens(p, uniforms(&s->rng, N), N, s->net->c.V);
        for (int k = 0; k < N; k++) *token_at(s, start, s->row[k]) = token[k];
        s->nfe += N;
        if (s->watch) s->watch(s, start, start + n);
    }
}

// Ancestral sampling: I steps down the levels 1, 1 - 1/I, ..., 1/I, 0; the last step uncovers whatever is left. The network runs only
// after a step that changed something, since its prediction is the same otherwise; texts that are done keep their tokens.
static void ancestral(Sampler *s, int start) {
    int n = s->block, mask = s->net->c.mask, N = 0;
    const double *p = NULL;
    double *u = NULL;
    bool changed = true;
    for (int i = 0; i < s->steps; i++) {
        if (changed) {
            N = 0;
            for (int b = 0; b < s->B; b++) N += masked_rows(s->row + N, token_at(s, start, b*n), n, mask, b*n);
            if (!N) return;
            p = predict_rows(s, start, n, N);
            u = HOST(double, N);
        }
        // u / uncover is 1 or more with probability stay_masked(): the token stays MASK. Otherwise it is uniform in [0,1) again, and draws the token.
        double uncover = 1 - stay_masked((double)(s->steps - i) / s->steps, (double)(s->steps - i - 1) / s->steps);
        changed = false;
        for (int k = 0; k < N; k++) u[k] = uniform(&s->rng) / uncover, changed = changed || u[k] < 1;
        if (!changed) continue;
        const int *token = draw_tokens(p, u, N, s->net->c.V);
        for (int k = 0, last = -1; k < N; k++) {
            int b = s->row[k] / n;
            if (u[k] >= 1) continue;
            *token_at(s, start, s->row[k]) = token[k];
            if (b != last) s->nfe++, last = b;          // rows of one text follow each other
        }
        if (s->watch) s->watch(s, start, start + n);
    }
}

// One block (Alg. 2), and one more pass over it, clean: its keys and values are what later blocks see.
static void sample_block(Sampler *s, int start) {
    if (s->steps) ancestral(s, start); else first_hitting(s, start);
    if (start + s->block < s->L) forward_cached(s, start, s->block, NULL, 0);
}

// AR: the token before predicts this one.
static void sample_next(Sampler *s, int t) {
    if (s->x[t] != s->net->c.mask) { forward_cached(s, t - 1, 1, NULL, 0); return; }      // of the prompt, which all texts share
    for (int b = 0; b < s->B; b++) s->row[b] = b;
    const double *p = predict_rows(s, t - 1, 1, s->B);
    const int *token = draw_tokens(p, uniforms(&s->rng, s->B), s->B, s->net->c.V);
    for (int b = 0; b < s->B; b++) *token_at(s, t, b) = token[b];
    s->nfe += s->B;
    if (s->watch) s->watch(s, t, t + 1);
}

// ---- 7. evaluation ------------------------------------------------------------------------------------------------------------

// Three estimates of the bound (Eq. 8). Of the m tokens of a block that may be masked k are, and sum is that of their -log p:
//   levels  tau uniform in the official code's [0.001, 1], each token masked with probability tau:  sum / tau                           (Eq. 8)
//   masks   k uniform in 1..m, then a uniformly random set of k tokens:                        sum m / k              (Zheng et al. 2024, Prop. 3.1)
//   exact   all 2^m - 1 sets, each with its weight in the mean of masks, or of levels from [0, 1]:  sum (k-1)! (m-k)! / m!          (NOTES.md, 4)
// BOS is never masked, and what lies beyond the end of a text always is: neither is one of the m.
typedef enum { LEVELS, MASKS, EXACT, ESTIMATORS } Estimator;
static const char *const estimator_name[] = {"levels", "masks", "exact"};

// One pass of an estimator over a batch, random numbers from stream `number`; EXACT: the sum over set = 1..2^block-1 is the bound.
static Loss estimate(Net *net, const int *x, const int *counted, int B, int T, int block, Estimator estimator, int set, uint64_t number) {
    if (estimator == LEVELS) return draw_loss(net, x, counted, B, T, block, RNG_EVAL, number, block == 1 ? 1 : 1e-3, 1);
    int *x_tau = HOST(int, B*T), *place = HOST(int, block);
    double *w = HOST(double, B * (T / block));
    Rng r = rng((uint64_t)opt.seed, RNG_EVAL, number);
    for (int i = 0; i < B * (T / block); i++) {
        int m = 0, k = 0;
        for (int j = i*block; j < (i + 1)*block; j++) {
            x_tau[j] = counted[j] || j % T == 0 ? x[j] : net->c.mask;
            if (counted[j]) place[m++] = j;
        }
        if (estimator == MASKS && m) {
            int draws = 1 + below(&r, m);
            while (k < draws) {                         // the first k of `place` are the set
                int other = k + below(&r, m - k), swap = place[other];
                place[other] = place[k], place[k++] = swap;
            }
            w[i] = (double)m / k;
        } else if (estimator == EXACT && set < 1 << m) {
            for (int a = 0; a < m; a++) if (set >> a & 1) place[k++] = place[a];
            w[i] = tgamma(k) * tgamma(m - k + 1) / tgamma(m + 1);
        }
        while (k > 0) x_tau[place[--k]] = net->c.mask;
    }
    return bd3_loss(net, x, x_tau, w, counted, B, T, block, false);
}

// nats per token. error: standard error of the mean over batches, which differ in text and in draws; draw_error: over repeated draws on this very
// text, 0 if nothing is random. NAN: one batch, or one draw, says nothing about its error.
typedef struct Result { double nats, error, draw_error, bits_per_char; long tokens; } Result;

// Mean loss over consecutive windows of a part: the bound of -log p by an estimator, whatever levels training used. For AR -log p itself, and for
// blocks of one too, where every token is masked as in the official evaluation. BOS is not counted. In a dry run: one batch, one pass.
static Result evaluate(Net *net, const Corpus *c, Split split, int B, int T, int block, bool ar, Estimator estimator, int draws, bool show) {
    int all = (int)((c->n[split] + (size_t)T - 2) / (size_t)(T - 1)), *x = NEW(int, B*T), *counted = NEW(int, B*T);
    if (dry) all = all < B ? all : B;
    double sum = 0, sum2 = 0, tokens = 0, characters = 0;
    bool random = !ar && block > 1 && estimator != EXACT;
    int passes = ar || dry ? 1 : estimator == EXACT ? (1 << block) - 1 : draws, batches = 0;
    double *of_pass = NEW(double, passes);              // nats of the whole text
    uint64_t number = 0;
    bool off = tape.off;
    tape.off = true;
    for (int w0 = 0; w0 < all; w0 += B) {
        int Bw = all - w0 < B ? all - w0 : B;
        for (int b = 0; b < Bw; b++) {
            window(c, split, (size_t)(w0 + b) * (size_t)(T - 1), T, x + b*T, counted + b*T);
            counted[b*T] = 0;
            for (int t = 1; t < T; t++) if (counted[b*T + t]) characters += c->vocab.length[x[b*T + t]];
        }
        double batch = 0, n_counted = 0;                // mean over the draws, or sum over the sets
        for (int d = 0; d < passes; d++) {
            begin_step();
            Loss loss = ar ? ar_loss(net, x, counted, Bw, T) : estimate(net, x, counted, Bw, T, block, estimator, d + 1, number++);
            real mean;
            download(&mean, loss.loss->data, sizeof mean);
            n_counted = loss.n_counted;
            batch += (double)mean / (estimator == EXACT && !ar ? 1 : passes);
            of_pass[d] += (double)mean * n_counted;
        }
        sum += batch * n_counted, sum2 += batch * batch * n_counted, tokens += n_counted, batches++;
        if (show) progress(w0 + B >= all, "windows %6d/%d | nats per token %.4f", w0 + Bw, all, sum / tokens);
    }
    tape.off = off;
    double mean = sum / tokens, spread = 0;
    for (int d = 0; d < passes; d++) spread += pow(of_pass[d] / tokens - mean, 2);
    free(x), free(counted), free(of_pass);
    return (Result){.nats = mean, .bits_per_char = sum / characters / log(2), .tokens = (long)tokens,
                    .error = batches > 1 ? sqrt(fmax(0, sum2 / tokens - mean*mean) / (batches - 1)) : NAN,
                    .draw_error = !random ? 0 : passes > 1 ? sqrt(spread / (passes - 1) / passes) : NAN};
}

// ---- 8. as coded --------------------------------------------------------------------------------------------------------------
// What only the official code does; needed to reproduce its numbers, never used in training.

// The official loss weighs every masked token with 1 instead of 1/tau as soon as clip_min > 0.5.
static double coded_weight(double tau, double clip_min) { return clip_min > 0.5 ? 1 : nelbo_weight(tau); }

// The level as the official network would be shown it: sigma = -log(1 - p), cut at log 1000.
static double coded_sigma(double tau) { return fmin(-log1p(-mask_prob(tau)), log(1000)); }

// The level at which the next of n masked tokens is uncovered, u uniform: the largest of n uniform levels below tau (Eq. 25). The official sampler
// computes it, and nothing depends on it as long as the network is not shown the level.
static double coded_hitting(double tau, int n, double u) { return tau * pow(u, 1.0 / n); }

#include "tests/check_bd3lm.h"  // brings: run_check(), the glue between golden files and the functions above

// ---- 9. command line ----------------------------------------------------------------------------------------------------------

static NetConfig net_config(const Vocabulary *v) {
    if (!is_ar() && opt.length % opt.block) die("--block %d does not divide --length %d", opt.block, opt.length);
    if (opt.width % opt.heads) die("--heads %d do not divide --width %d", opt.heads, opt.width);
    if ((double)opt.batch * opt.length > 1e8) die("--batch %d times --length %d is more than 100 million tokens", opt.batch, opt.length);
    if (opt.clip_min > opt.clip_max) die("--clip-min %g is larger than --clip-max %g", opt.clip_min, opt.clip_max);
    return (NetConfig){.NL = opt.layers, .C = opt.width, .NH = opt.heads, .cond = opt.cond, .V = v->size, .mask = v->mask, .adaln = !is_ar(),
                       .freq = 256, .mlp = 4, .rope_base = 10000, .eps = 1e-5};
}

static Path checkpoint_path(void) { return path_in(opt.out, "bd3lm.safetensors"); }

// The byte pairs of a checkpoint (its file is `path`)
static Vocabulary checkpoint_vocabulary(const SafeTensors *st, const char *path) {
    const StTensor *m = st_find(st, "vocab.merges");
    size_t n = m ? m->count : 0;
    if (n != 2*(size_t)opt.merges || (m && strcmp(m->dtype, "I32"))) die("%s: tensor vocab.merges does not hold the %d pairs of --vocab", path, opt.merges);
    int (*merge)[2] = (int (*)[2])NEW(int, n + 2);
    for (size_t i = 0; i < n; i++) merge[i / 2][i % 2] = (int)st_number(m, i);
    Vocabulary v = vocabulary_create(is_text8(), opt.merges, (const int (*)[2])merge);
    free(merge);
    return v;
}

// Options and corpus (with_text; otherwise its vocabulary alone) of the checkpoint in --out. Ends the program if there is none.
static SafeTensors open_checkpoint(Corpus *corpus, bool with_text, int *step_done, const char *may_change) {
    Path place = checkpoint_path();
    const char *path = place.text;
    if (!exists(path)) die("%s: no checkpoint (./bd3lm train --out %s makes one)", path, opt.out);
    SafeTensors st = st_open(path);
    *step_done = checkpoint_options(&st, path, options, may_change);
    Vocabulary v = checkpoint_vocabulary(&st, path);
    *corpus = with_text ? corpus_load(opt.data, &v) : (Corpus){.vocab = v};
    return st;
}

// What train_step() and save() work on
static struct { Net net; Corpus corpus; int *x, *counted; } training;

static double train_step(int step, double *norm) {
    Net *net = &training.net;
    begin_step();
    draw_batch(&training.corpus, step, opt.batch, opt.length, training.x, training.counted);
    net->drop = (Dropout){opt.dropout, (uint64_t)opt.seed, stream_of(RNG_DROPOUT, (uint64_t)step << 16)};
    Loss loss = is_ar() ? ar_loss(net, training.x, training.counted, opt.batch, opt.length)
                        : draw_loss(net, training.x, training.counted, opt.batch, opt.length, opt.block, RNG_LEVEL, (uint64_t)step, opt.clip_min, opt.clip_max);
    net->drop.p = 0;
    return optimiser_step(&net->ps, loss.loss, (AdamW){.lr = opt.lr * (opt.warmup ? fmin(1, (double)step / opt.warmup) : 1), .beta1 = 0.9, .beta2 = 0.999,
                                                       .eps = 1e-8, .max_norm = opt.max_norm, .ema = opt.ema, .step = step}, norm);
}
static void save(int done) {
    const Vocabulary *v = &training.corpus.vocab;
    checkpoint_save(checkpoint_path().text, &training.net.ps, options, done, "vocab.merges", &v->merge[0][0], (size_t)v->merges * 2);
}

static int run_train(int files, char **file) {
    (void)files, (void)file;
    set_up();
    Path place = checkpoint_path();
    const char *path = place.text;
    Corpus *corpus = &training.corpus;
    Net *net = &training.net;
    SafeTensors st = {0};
    int done = 0;
    bool mine = claim_out(opt.out, path, opt.resume, opt.force);
    if (opt.resume) {
        st = open_checkpoint(corpus, true, &done, " steps data ");
        if (done >= opt.steps) die("%s has done its %d steps: --steps says how far to go on", path, done);
    } else *corpus = corpus_load(opt.data, NULL);
    NetConfig c = net_config(&corpus->vocab);
    int B = opt.batch, T = opt.length;
    if (corpus->n[TRAIN] < (size_t)T) die("%s: the text is too short: %zu training symbols are fewer than --length %d", opt.data, corpus->n[TRAIN], T);
    print_configuration("train", options);
    printf("data: %zu characters, %zu training symbols (%.2f characters each), V=%d\n", corpus->size, corpus->n[TRAIN],
           (double)corpus->characters[TRAIN] / (double)corpus->n[TRAIN], c.V);

    // memory: once dry, then for real
    double norm;
    training.x = NEW(int, B*T), training.counted = NEW(int, B*T);
    begin_dry_run();
    *net = net_create(c, true, (uint64_t)opt.seed, T, 0, 0);
    if (opt.resume) checkpoint_resume(&st, path, &net->ps);         // does it fit? before any memory is taken on its word
    train_step(1, &norm);
    net_free(net);
    end_dry_run(true);
    *net = net_create(c, true, (uint64_t)opt.seed, T, 0, 0);
    printf("network: %zu parameters\n", params_count(&net->ps));
    if (opt.resume) { checkpoint_resume(&st, path, &net->ps); st_free(&st); }

    Training t = {.out = opt.out, .checkpoint = path, .unit = "tokens", .claimed = mine, .resume = opt.resume, .force = opt.force, .done = done, .steps = opt.steps,
                  .save_every = opt.save_every, .per_step = (double)B * T, .step = train_step, .save = save};
    train_loop(&t);
    printf("train: steps=%d loss=%.4f parameters=%zu tokens_per_s=%.0f seconds=%.1f\n", t.done, t.loss, params_count(&net->ps), t.rate, t.seconds);
    net_free(net);
    corpus_free(corpus);
    free(training.x), free(training.counted);
    return 0;
}

// The symbols of a text that stands on the command line, to be freed; *n of them. For text8 it is folded as the corpus is, but what would be lost
// is refused.
static int *encode_text(const Vocabulary *v, const char *option, const char *given_text, size_t *n) {
    size_t size = strlen(given_text);
    char *text = strdup(given_text);
    if (!text) die("out of memory");
    for (size_t i = 0; v->text8 && i < size; i++)
        if (text[i] != ' ' && !((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z')) die("--%s: '%c' is not a symbol of text8 (a..z and space)", option, text[i]);
    if (v->text8) size = fold_text8(text, size);
    int *id = NEW(int, size + 1);
    *n = encode(v, text, size, id);
    free(text);
    return id;
}

static Estimator find_estimator(bool ar) {
    Estimator e = LEVELS;
    while (e < ESTIMATORS && strcmp(opt.estimator, estimator_name[e])) e++;
    if (e == ESTIMATORS) die("--estimator %s: levels, masks or exact", opt.estimator);
    if (ar && given("estimator")) die("--estimator %s: a model of --objective ar needs none, its likelihood is exact (leave the option out)", opt.estimator);
    if ((ar || e == EXACT) && given("draws")) die("--draws %d: nothing is drawn here (leave the option out)", opt.draws);
    if (e == EXACT && opt.block > 16) die("--estimator exact: 2^%d - 1 sets of masks are too many (blocks of 16 at most)", opt.block);
    return e;
}

static int run_eval(int files, char **file) {
    (void)files, (void)file;
    set_up();
    int done;
    Corpus corpus;
    bool text = given("text");
    SafeTensors st = open_checkpoint(&corpus, !text, &done, " data seed batch ");
    NetConfig c = net_config(&corpus.vocab);
    Estimator estimator = find_estimator(is_ar());
    const char *names[] = {"train", "validation", "test"};
    int split = 0;
    while (split < 3 && strcmp(opt.split, names[split])) split++;
    if (split == 3) die("--split %s: train, validation or test", opt.split);
    if (text) {
        if (given("split")) die("--split %s and --text exclude each other", opt.split);
        if (!*opt.given_text) die("--text '': an empty text has no symbols");
        corpus.id[split] = encode_text(&corpus.vocab, "text", opt.given_text, &corpus.n[split]);
    }
    if (!corpus.n[split]) die("%s: no symbols in the %s part", opt.data, opt.split);
    print_configuration("eval", options);
    begin_dry_run();
    Net net = net_create(c, false, 0, opt.length, 0, 0);
    checkpoint_read(&st, checkpoint_path().text, &net.ps, "ema.", net.ps.data);
    evaluate(&net, &corpus, split, opt.batch, opt.length, opt.block, is_ar(), estimator, 1, false);
    net_free(&net);
    end_dry_run(true);
    net = net_create(c, false, 0, opt.length, 0, 0);
    checkpoint_read(&st, checkpoint_path().text, &net.ps, "ema.", net.ps.data);
    st_free(&st);
    Result r = evaluate(&net, &corpus, split, opt.batch, opt.length, opt.block, is_ar(), estimator, opt.draws, true);
    printf("eval: split=%s tokens=%ld nats=%.4f stderr=%.4f draw_stderr=%.4f ppl=%.3f bits_per_char=%.4f total_nats=%.4f estimator=%s\n", text ? "text" : opt.split,
           r.tokens, r.nats, r.error, r.draw_error, exp(r.nats), r.bits_per_char, r.nats * (double)r.tokens, is_ar() ? "likelihood" : opt.estimator);
    net_free(&net);
    corpus_free(&corpus);
    return 0;
}

// --watch: on a terminal the current line is redrawn in place; in a pipe every state is a line of its own.
static const Vocabulary *watch_vocab;
static void watch(const Sampler *s, int start, int end) {
    enum { TAIL = 256 };                                // no more tokens of the current line are looked at
    static char text[TAIL * MAX_PIECE + 1], masked[TAIL * MAX_PIECE + 1];
    static int first;                                   // the first token of the current line
    bool terminal = isatty(STDOUT_FILENO);
    int shown = end - start < TAIL ? end - start : TAIL, width = 0;
    if (start - first > TAIL) first = start - TAIL;
    decode(watch_vocab, s->x + first, (size_t)(start - first), "", text);
    decode(watch_vocab, s->x + start, (size_t)shown, "\u2591", masked);
    for (char *p = text; *p; p++) width += (*p & 0xC0) != 0x80;
    for (char *p = masked; *p; p++) width += (*p & 0xC0) != 0x80;          // bytes that begin a character
    if (*text && width >= columns()) {                  // a full line stays as it is, and the next one begins with this block
        if (terminal) printf("\r\033[K%s\n", text);
        first = start;
        text[0] = 0;
    }
    for (char *p = text; *p; p++) if (*p == '\n') *p = ' ';
    for (char *p = masked; *p; p++) if (*p == '\n') *p = ' ';
    printf(terminal ? "\r\033[K%s%s" : "%s%s\n", text, masked);
    fflush(stdout);
    if (terminal) usleep(20000);
}

// --animate: the first text as it stands after every pass, in lines that are broken at spaces
static Animation animation;
static void animate(const Sampler *s, int end) {
    enum { WIDE = 64 };
    char *text = NEW(char, (size_t)end * MAX_PIECE + 1);
    decode(watch_vocab, s->x, (size_t)end, "\u2591", text);
    int line = 0;
    animation_begin(&animation);
    for (char *p = text, *next; *p; p = next) {
        char *space = NULL;
        int n = 0;
        for (next = p; *next && *next != '\n' && n < WIDE; next++) {
            if (*next == ' ') space = next;
            for (n++; (next[1] & 0xC0) == 0x80;) next++;        // to the last byte of this character
        }
        if (n == WIDE && space) next = space;
        fprintf(animation.file, "<text x=\"10\" y=\"%d\" font-family=\"monospace\" font-size=\"14\" xml:space=\"preserve\">", 24 + 20 * line++);
        char kept = *next;
        *next = 0, animation_text(&animation, p), *next = kept;
        fprintf(animation.file, "</text>");
        if (*next == ' ' || *next == '\n') next++;
    }
    animation_end(&animation);
    free(text);
}
static void show(const Sampler *s, int start, int end) {
    if (opt.watch) watch(s, start, end);
    if (*opt.animate) animate(s, end);
}

// Quality of B texts into `out` as key=value pairs; prints that of as many pieces of the test part, evenly spread and of the same size.
static void print_quality(const Corpus *c, char *const *text, const size_t *size, int B, size_t chars, char *out, size_t out_size) {
    const char *form = " known_words=%.3f entropy=%.3f distinct2=%.3f longest_copy=%d";
    size_t from, to, train_from, train_to, *held_size = NEW(size_t, B);
    char **held = NEW(char *, B);
    text_split(c->size, TRAIN, &train_from, &train_to);
    text_split(c->size, TEST, &from, &to);
    for (int b = 0; b < B; b++) {
        size_t at = from + (to - from) / (size_t)B * (size_t)b;
        held[b] = c->text + at;
        held_size[b] = to - at < chars ? to - at : chars;
    }
    Quality h = text_quality(held, held_size, B, c->text, train_to), q = text_quality(text, size, B, c->text, train_to);
    snprintf(out, out_size, form, h.known_words, h.entropy, h.distinct2, h.longest_copy);
    printf("held-out text, cut the same way:%s\n", out);
    snprintf(out, out_size, form, q.known_words, q.entropy, q.distinct2, q.longest_copy);
    free(held), free(held_size);
}

// Steps of ancestral sampling in a block; 0: first-hitting, or next-token prediction.
static int ancestral_steps(bool ar) {
    bool first = !strcmp(opt.sampler, "first_hitting");
    if (!first && strcmp(opt.sampler, "ancestral")) die("--sampler %s: first_hitting or ancestral", opt.sampler);
    if (ar && given("sampler")) die("--sampler %s: a model of --objective ar has no masks (leave the option out)", opt.sampler);
    if (first && given("sampling-steps")) die("--sampling-steps %d belongs to --sampler ancestral", opt.sampling_steps);
    return first ? 0 : opt.sampling_steps;
}

static int run_sample(int files, char **file) {
    (void)files, (void)file;
    set_up();
    int done;
    Corpus corpus;
    SafeTensors st = open_checkpoint(&corpus, opt.quality, &done, " data seed ");
    NetConfig c = net_config(&corpus.vocab);
    Vocabulary *v = &corpus.vocab;
    size_t prompt_size;
    int *prompt_id = encode_text(v, "prompt", opt.prompt, &prompt_size), prompts = (int)prompt_size;
    bool ar = is_ar(), one_block = !ar && opt.block == opt.length;
    int block = ar ? 1 : opt.block, B = opt.samples, chars = opt.characters;
    int L = (1 + prompts + chars + block - 1) / block * block;         // a token is a character or more (BOS is none, but is never learned)
    if (one_block) L = opt.length;
    if (strlen(opt.prompt) >= (size_t)chars) die("--prompt: its %zu bytes leave nothing to write of --chars %d", strlen(opt.prompt), chars);
    if (1 + prompts > L) die("--prompt: %d tokens are more than the %d of one sequence", prompts, L - 1);
    Sampler s = {.B = B, .L = L, .block = block, .steps = ancestral_steps(ar), .top = opt.nucleus, .rng = rng((uint64_t)opt.seed, RNG_SAMPLE, 0)};
    int W = ar ? opt.length - 1 : opt.length;                          // as many keys as a row saw in training
    if (W > L) W = L;
    s.x = NEW(int, (size_t)B * (size_t)L), s.row = NEW(int, (size_t)B * (size_t)block);
    tape.off = true;
    print_configuration("sample", options);

    begin_dry_run();
    Net net = net_create(c, false, 0, L, B, W);
    s.net = &net;
    checkpoint_read(&st, checkpoint_path().text, &net.ps, "ema.", net.ps.data);
    int most = s.steps ? B * block : B;                                // rows that are drawn from one pass
    const double *p = predict_rows(&s, 0, block, most);
    draw_tokens(p, HOST(double, most), most, c.V);
    net_free(&net);
    end_dry_run(true);
    net = net_create(c, false, 0, L, B, W);
    checkpoint_read(&st, checkpoint_path().text, &net.ps, "ema.", net.ps.data);
    st_free(&st);
    for (size_t i = 0; i < (size_t)B * (size_t)L; i++) s.x[i] = v->mask;
    for (int b = 0; b < B; b++) {
        s.x[(size_t)b*(size_t)L] = v->bos;
        memcpy(s.x + (size_t)b*(size_t)L + 1, prompt_id, (size_t)prompts * sizeof(int));
    }
    s.forwards = s.pairs = 0;
    watch_vocab = v;
    s.watch = opt.watch || *opt.animate ? show : NULL;
    if (*opt.animate) animation = animation_open(opt.animate, 580, 60 + 20 * (chars / 50 + 1), 0.12);

    // blocks from left to right until every text is long enough
    char **text = NEW(char *, B);
    size_t *size = NEW(size_t, B), shortest = 0;
    for (int b = 0; b < B; b++) text[b] = NEW(char, (size_t)L * 64 + 1);
    double start = seconds();
    int at = 0;
    for (; at < L && shortest < (size_t)chars; at += block) {
        if (!ar) sample_block(&s, at); else if (at) sample_next(&s, at);
        shortest = SIZE_MAX;
        for (int b = 0; b < B; b++) {
            size[b] = decode(v, s.x + (size_t)b*(size_t)L, (size_t)(at + block), "", text[b]);
            if (size[b] > (size_t)chars) size[b] = (size_t)chars, text[b][chars] = 0;
            if (size[b] < shortest) shortest = size[b];
        }
    }
    double spent = seconds() - start;
    if (*opt.animate) animation_close(&animation);
    if (opt.watch) printf("\n\n");
    size_t total = 0;
    for (int b = 0; b < B; b++) {
        if (B > 1) printf("--- %d\n", b + 1);
        if (b > 0 || !opt.watch || !isatty(STDOUT_FILENO)) printf("%s\n", text[b]);
        total += size[b];
    }
    if (shortest < (size_t)chars) printf("(%d characters were asked for: a model of one block writes at most %d tokens)\n", chars, L - 1);
    char more[512] = "";
    if (opt.quality) print_quality(&corpus, text, size, B, (size_t)chars, more, sizeof more);
    int written = at - 1 - prompts > 0 ? at - 1 - prompts : 0;          // tokens of each text that are neither BOS nor prompt
    printf("sample: samples=%d characters=%zu nfe=%.6g forwards=%ld tokens=%d key_pairs_per_token=%.1f%s characters_per_s=%.0f seconds=%.1f\n", B, total,
           (double)s.nfe / B, s.forwards, B * written, (double)s.pairs / (written ? (double)B * written : NAN), more, (double)total / spent, spent);
    for (int b = 0; b < B; b++) free(text[b]);
    free(text), free(size), free(s.x), free(s.row), free(prompt_id);
    net_free(&net);
    corpus_free(&corpus);
    return 0;
}

static const Verb verbs[] = {
    {"train", "", "Trains a model on a text file.", run_train},
    {"eval", "", "Bound on the negative log-likelihood of held-out text (exact for --objective ar).", run_eval},
    {"sample", "", "Writes text with a trained model.", run_sample},
    {"check", "FILE... ", "Recomputes golden files of the official code.", run_check},
    {0},
};

#ifndef TESTING
int main(int argc, char **argv) { return run_command("bd3lm", argc, argv, verbs, options); }
#endif
