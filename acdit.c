/* acdit.c: ACDiT (Hu et al. 2024, arXiv 2412.07720). Trains on small labelled pictures or videos, makes new ones block by block, and judges them.

   A picture is cut into patches (tokens), and the tokens into blocks. Blocks come one after the other, as words come in a language model; inside a block all tokens
   start as noise and are denoised together, as in a diffusion model, looking at the finished blocks before them. One block is full-sequence diffusion (DiT),
   blocks of one token are autoregression over continuous tokens. Finished blocks are clean and never change: their keys and values are computed once.

       make acdit && sh data/get.sh fashion && ./acdit train && ./acdit sample --watch
       ./acdit check tests/golden/acdit/mask_n3_b2.safetensors                           recomputes numbers of the official code

   (code) marks what the paper leaves open and its official code decides. Start reading at METHOD (section 2), then acdit_loss() (4), sample_step() (5), forward() (3); what is done with a trained network stands in data/gallery.h. One step down is common.h.
   "The official code" is github.com/thunlp/ACDiT; what only that code does stands in section 6. Not here: the image autoencoder in front of the network (pictures are
   small enough without one), text, fine-tuning for classification.

   paper             here                                (t is always a position in this repository, never a level)
   N, B, L           N, block, T = N * block             blocks ("AR length"), tokens of a block, tokens of a picture or video; B here: pictures of a batch
   t in 0..999       k                                   level of a block; k[b*N + i] is that of block i of picture b
   bar alpha_t       alpha_bar(k)
   x_i, x_i^(t)      x, x_k                              clean and noised tokens of block i; c_i and n_i in the paper's figures
   eps_theta         forward()                           predicts the noise
   h, theta          C, 12 C^2                           width, weights of a layer that every token meets
   -                 D, G, S, H, w                       numbers of a token, conditions of a pass, steps of a solver, halves of guidance, its scale
   L_j, d_j, b_j     Axes.length, .dims, rope_base()     length of an axis of the picture, its share of a head, base of its rotations                    */
#include "common.h"      // brings: Span: a row sees the keys lo[0]..hi[0]-1 and lo[1]..hi[1]-1; tensors, tape, ops, parameters, checkpoints, training; through io.h: files, command line, pictures
                         //         NEW(type, n): zeroed, you free it; HOST(type, n): zeroed, like to_device() it lives until the next begin_step()
                         //         dry: a rehearsal without arithmetic that counts how much memory a step takes
#include "data/images.h" // brings: labelled pictures from files
#include "data/motion.h" // brings: videos of kinds of motion, and which law a video follows
#include "data/pictures.h" // brings: pictures as tokens in blocks (Layout, token_order), and how they are shown
#include "data/scores.h" // brings: Frechet distance, precision and recall

// ---- 1. configuration ---------------------------------------------------------------------------------------------------------

static struct {
    int layers, width, heads, patch, clip, size, edge, channels, classes, batch, steps, warmup, save_every, seed, threads, samples, sampling_steps, length, sample_blocks, epochs;
    double lr, decay, max_norm, weight_decay, ema, drop, guidance;
    const char *data, *blocks, *context, *rope, *names, *pictures, *out, *device, *precision, *solver, *steps_per_block, *frames, *animate, *classifier, *class;
    bool resume, force, watch, cost, recompute, exposure, naive;
} opt = {
    .layers = 4, .width = 96, .heads = 3, .patch = 4, .clip = 8, .size = 16, .edge = 32, .channels = 1, .classes = 1, .batch = 32, .steps = 2000, .warmup = 50, .save_every = 1000,
    .seed = 1, .samples = 8, .sampling_steps = 25, .epochs = 8,
    .lr = 5e-3, .decay = 0.15, .max_norm = 1, .ema = 0.995, .drop = 0.1, .guidance = 3,
    .data = "data/cache/fashion-mnist/train-images-idx3-ubyte.gz", .blocks = "4", .context = "clean", .rope = "paper", .names = "", .pictures = "", .out = "out/acdit", .device = "cpu",
    .precision = "auto", .solver = "dpmpp", .steps_per_block = "", .frames = "", .animate = "", .classifier = "out/classifier", .class = "",
};

static Option options[] = {
    // name, type, variable with its default, smallest, largest, verbs, meaning, saved in checkpoints, given
    {"data",     TEXT, &opt.data,      0, 0, " train eval classify ", "pictures: an IDX file (gz or not, its labels beside it), CIFAR-10 binary, a font of emoji; or video: generated", true, false},
    {"blocks",   TEXT, &opt.blocks,    0, 0, " train ", "blocks of a picture or video (N); several, as 1,4,16: one of them is drawn for each batch", true, false},
    {"patch",    INT,  &opt.patch,     1, 64, " train ", "pixels of an edge of a patch, which is a token", true, false},
    {"clip",     INT,  &opt.clip,      4, 1000, " train ", "video: frames of a training video", true, false},
    {"size",     INT,  &opt.size,      11, 32, " train ", "video: pixels of an edge of a frame", true, false},
    {"edge",     INT,  &opt.edge,      1, 64, " ", "pixels of an edge of what was trained on", true, false},
    {"channels", INT,  &opt.channels,  1, 3, " ", "of what was trained on: 1 grey, 3 red, green, blue", true, false},
    {"classes",  INT,  &opt.classes,   1, 1000, " ", "of what was trained on", true, false},
    {"names",    TEXT, &opt.names,     0, 0, " ", "of these classes", true, false},
    {"pictures", TEXT, &opt.pictures,  0, 0, " ", "number and hash of the pictures that were trained on", true, false},
    {"context",  TEXT, &opt.context,   0, 0, " train ", "what a block sees of those before it: clean, or noised (the ablation of the paper's Fig. 6b)", true, false},
    {"rope",     TEXT, &opt.rope,      0, 0, " train ", "rotary positions: paper, or code: as official weights want them", true, false},
    {"layers",   INT,  &opt.layers,    1, 1000, " train ", "layers of the network (NL)", true, false},
    {"width",    INT,  &opt.width,     1, 1e5, " train ", "width of the network (C)", true, false},
    {"heads",    INT,  &opt.heads,     1, 1e4, " train ", "attention heads (NH); they divide --width", true, false},
    {"batch",    INT,  &opt.batch,     1, 1e5, " train sample eval ", "pictures side by side (B)", true, false},
    {"steps",    INT,  &opt.steps,     1, 1e9, " train ", "optimiser steps", true, false},
    {"lr",       REAL, &opt.lr,        0, 10, " train ", "learning rate between warm-up and decay", true, false},
    {"warmup",   INT,  &opt.warmup,    0, 1e9, " train ", "steps of linear warm-up; 0: off", true, false},
    {"decay",    REAL, &opt.decay,     0, 1, " train ", "share of the steps, at the end, in which the learning rate falls to 1/64; 0: off", true, false},
    {"clip-grad",REAL, &opt.max_norm,  0, 1e9, " train ", "largest norm of the gradient; 0: off", true, false},
    {"weight-decay", REAL, &opt.weight_decay, 0, 10, " train ", "of AdamW", true, false},
    {"ema",      REAL, &opt.ema,       0, 1, " train ", "decay of the moving average of the weights", true, false},
    {"label-drop", REAL, &opt.drop,    0, 1, " train ", "share of the pictures whose label is hidden; guidance needs some", true, false},
    {"save-every", INT, &opt.save_every, 0, 1e9, " train ", "steps between two checkpoints on the way; 0: only at the end", false, false},
    {"seed",     INT,  &opt.seed,      0, 2147483647, " train sample eval classify ", "seed of all randomness", true, false},
    {"samples",  INT,  &opt.samples,   1, 1e6, " sample eval ", "pictures or videos to make of each class", false, false},
    {"class",    TEXT, &opt.class,     0, 0, " sample eval ", "name or number of the one class to make; all if not given", false, false},
    {"solver",   TEXT, &opt.solver,    0, 0, " sample eval ", "dpmpp: DPM-Solver++ of second order, ddim, or ddpm", false, false},
    {"sampling-steps", INT, &opt.sampling_steps, 1, 1000, " sample eval ", "steps of the solver in each block (S)", false, false},
    {"steps-per-block", TEXT, &opt.steps_per_block, 0, 0, " sample eval ", "as 25,15,10: steps of block 0, 1, 2 and all later ones", false, false},
    {"guidance", REAL, &opt.guidance,  0, 1000, " sample eval ", "scale of classifier-free guidance; 1: off. The paper has 1.5 for images and 2.5 for videos; networks of a few minutes want more", false, false},
    {"sample-blocks", INT, &opt.sample_blocks, 0, 1e6, " sample eval ", "blocks (N) of a picture, of a clip of a video; 0: the last of --blocks", false, false},
    {"length",   INT,  &opt.length,    0, 1e6, " sample ", "video: frames to make, as many as you like; 0: as in training", false, false},
    {"recompute",FLAG, &opt.recompute, 0, 1, " sample ", "without the cache: all clean blocks again in every step", false, false},
    {"exposure", FLAG, &opt.exposure,  0, 1, " eval ", "the losses also with blocks that the sampler made in the place of the true ones", false, false},
    {"cost",     FLAG, &opt.cost,      0, 1, " train sample ", "print the work, counted and as the paper's formula says; train: and leave", false, false},
    {"frames",   TEXT, &opt.frames,    0, 0, " sample ", "directory: a picture after every step", false, false},
    {"animate",  TEXT, &opt.animate,   0, 0, " sample ", "file: an animated SVG of the same", false, false},
    {"watch",    FLAG, &opt.watch,     0, 1, " sample ", "show the first picture come out of the noise, in the terminal", false, false},
    {"classifier", TEXT, &opt.classifier, 0, 0, " sample eval classify ", "directory of the classifier that judges pictures", false, false},
    {"epochs",   INT,  &opt.epochs,    1, 1e4, " classify ", "times that the classifier sees the training pictures", false, false},
    {"out",      TEXT, &opt.out,       0, 0, " train sample eval ", "directory of the checkpoint", false, false},
    {"resume",   FLAG, &opt.resume,    0, 1, " train ", "go on from the checkpoint in --out; steps, data (its place), save-every, threads, naive, device, precision may change", false, false},
    {"force",    FLAG, &opt.force,     0, 1, " train classify ", "overwrite what is there", false, false},
    {"threads",  INT,  &opt.threads,   0, 4096, " train sample eval classify check ", "threads; 0: one for each core", false, false},
    {"device",   TEXT, &opt.device,    0, 0, " train sample eval classify check ", "cpu, or cuda: one NVIDIA GPU", false, false},
    {"precision",TEXT, &opt.precision, 0, 0, " train sample eval classify ", "products in fp32 or bf16; auto: bf16 where the processor has a matrix unit; cuda knows fp32 only", false, false},
    {"naive",    FLAG, &opt.naive,     0, 1, " train sample eval classify check ", "plain kernels only", false, false},
    {0},
};
static bool given(const char *name) { for (const Option *o = options; o->name; o++) if (!strcmp(o->name, name)) return o->given; return false; }
static void set_up(void) {
    select_machine(opt.threads, opt.device, &opt.precision, opt.naive);
    if (!*opt.out || !*opt.classifier) die("--%s '': the name of a directory is needed", *opt.out ? "classifier" : "out");
}


// ---- 2. METHOD ----------------------------------------------------------------------------------------  <- start here ---------
// p(x_0 .. x_{N-1}) = prod_i p(x_i | x_<i): blocks in order, each drawn by a diffusion model that sees the finished, clean blocks before it.         (Eq. 1)
//     L = E_k E_eps sum_i | eps - forward(x_i^(k_i); k_i, label, x_<i) |^2                                                                         (Eq. 3)

// How much of the signal is left at level k of K = 1000: variances beta from 1e-4 to 0.02, all blocks alike (code). alpha_bar(-1) is 1: clean.     (Sec. 3)
enum { K = 1000 };
static double beta(int k) { return 1e-4 + (0.02 - 1e-4) * k / (K - 1); }
static double alpha_bar(int k) {
    static double table[K];
    if (!table[0]) for (int i = 0; i < K; i++) table[i] = (i ? table[i - 1] : 1) * (1 - beta(i));
    return k < 0 ? 1 : table[k];
}
// x^(k) = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps
static void noising(double *of_x, double *of_noise, int k) { *of_x = sqrt(alpha_bar(k)), *of_noise = sqrt(1 - alpha_bar(k)); }

// One level for each block, independent of all others (code; Eq. 3 leaves it open): k (B,N)
static void draw_levels(int *k, int B, int N, Rng *r) { for (int i = 0; i < B*N; i++) k[i] = below(r, K); }
// Some pictures are shown without their label (classes: the null label), so that one network knows p(x) as well as p(x | label) (code)
static void drop_labels(int *label, int B, int classes, double p, Rng *r) { for (int b = 0; b < B; b++) if (uniform(r) < p) label[b] = classes; }

// What row i of the doubled sequence [c_0 .. c_{N-2} | n_0 .. n_{N-1}] attends to, the "skip-causal attention mask":                       (Sec. 4.2, Fig. 2a)
//   a clean token of block j sees the clean blocks up to and including j (so it can be cached: it never sees noise);
//   a noised token of block j sees the clean blocks before j, and noised block j.
// clean: tokens of the clean half. (N-1) * block are enough, since nobody looks at the last clean block: this makes N^2 blocks of attention, as many as DiT has.
static Span attends(int i, int clean, int block) {
    int t = i < clean ? i : i - clean, start = t / block * block, end = start + block;
    return i < clean ? (Span){.hi = {end}} : (Span){.lo = {0, clean + start}, .hi = {start, clean + end}};
}
// The ablation: noised context, as in Diffusion Forcing. There are no clean tokens; noised block j sees noised blocks up to j.                   (Fig. 6b)
static Span attends_noised(int i, int block) { return (Span){.hi = {(i / block + 1) * block}}; }
// No context at all, to find out what one is worth: block j alone
static Span attends_alone(int i, int block) { return (Span){.lo = {i / block * block}, .hi = {(i / block + 1) * block}}; }
// The same when sampling. Rows: [stored: finished blocks that enter the cache in this pass | block i | block i without its label].                     (Fig. 2b)
// Keys are slots of the cache: [0, seen) the finished blocks, from `scratch` on the copies of block i.
//   a row of a finished block sees the blocks up to and including its own (in a ring: all of them);
//   a row of block i sees all finished blocks, and its own copy.
// stored: rows of finished blocks; from: the token at which they begin
static Span attends_cached(int i, int stored, int from, int seen, int scratch, int block) {
    int end = from + (i / block + 1) * block, own = scratch + (i - stored) / block * block;
    return i < stored ? (Span){.hi = {end < seen ? end : seen}} : (Span){.lo = {0, own}, .hi = {seen, own + block}};
}

// RoPE-ND: a head is cut into a segment of d_j elements for each axis j of the picture (row, column; in a video also time), and element i of a segment turns with
// element i + d_j/2 by the angle m_j b_j^(-2i/d_j), where m_j is the token's position along that axis. So q.k depends on differences of positions alone.    (Sec. 4.3)
typedef struct Axes { int n, dims[3], length[3]; } Axes;
static double rope_base(int length) { return 100 * ceil(8.0 * length / (100 * 3.14159265358979323846)); }
// angle, pair (HS): of every element; pair -1: it does not turn. m (axes)
static void rope_angles(double *angle, int *pair, const int *m, Axes a, int HS) {
    for (int i = 0; i < HS; i++) angle[i] = 0, pair[i] = -1;
    for (int j = 0, at = 0; j < a.n; at += a.dims[j++])
        for (int i = 0, half = a.dims[j] / 2; i < half; i++) {
            angle[at + i] = angle[at + half + i] = m[j] * pow(rope_base(a.length[j]), -2.0 * i / a.dims[j]);
            pair[at + i] = at + half + i, pair[at + half + i] = at + i;
        }
}

// Guidance: away from what would be expected without the label, eps = eps_null + w (eps_label - eps_null), for w > 1
static void guidance(double *of_label, double *of_null, double w) { *of_label = w, *of_null = 1 - w; }

// A step of a solver from level k[step] to k[step + 1]:  x0 = x0_x x + x0_eps eps;  x = x_x x + x_x0 x0 + x_other other.  alpha^2 = alpha_bar, sigma^2 = 1 - alpha_bar
//   dpmpp  DPM-Solver++, second order, multistep (Lu et al. 2022; the paper: 25 steps): other is x0', the x0 of the step before
//            x = sigma_to/sigma x + alpha_to (1 - e^-h) ((1 + h/2h') x0 - h/2h' x0'),  h = lambda(to) - lambda(now), h' that of the step before; the last step gives x0
//   ddim   (Song et al. 2021, eta = 0)  x = alpha_to x0 + sigma_to eps, with eps from x and x0
//   ddpm   (Ho et al. 2020): other is fresh noise; r = alpha_bar / alpha_bar_to
//            mean sqrt(r) sigma_to^2/sigma^2 x + alpha_to (1-r)/sigma^2 x0, variance (1-r) sigma_to^2/sigma^2
typedef enum { DPMPP, DDIM, DDPM, SOLVERS } Solver;
static const char *const solver_name[] = {"dpmpp", "ddim", "ddpm"};
typedef struct Step { double x0_x, x0_eps, x_x, x_x0, x_other; } Step;
// log(alpha / sigma) of a level: half the log of its signal-to-noise ratio
static double lambda(int k) { return 0.5 * log(alpha_bar(k) / (1 - alpha_bar(k))); }
// k (S+1) from solver_levels(); k[step + 1] = -1: to clean
static Step solver_step(Solver solver, const int *k, int step) {
    double now = alpha_bar(k[step]), to = alpha_bar(k[step + 1]), ratio = sqrt((1 - to) / (1 - now));
    Step s = {.x0_x = 1 / sqrt(now), .x0_eps = -sqrt(1/now - 1)};
    if (solver == DDPM) {
        double r = now / to;                            // a last step from above level 0 has noise of deviation 1e-10, as in the official library
        s.x_x = sqrt(r) * (1 - to) / (1 - now), s.x_x0 = sqrt(to) * (1 - r) / (1 - now), s.x_other = k[step] > 0 ? sqrt(fmax((1 - to) / (1 - now) * (1 - r), 1e-20)) : 0;
    } else if (solver == DDIM || to == 1) {
        s.x_x = ratio, s.x_x0 = sqrt(to) - ratio * sqrt(now);
    } else {
        double h = lambda(k[step + 1]) - lambda(k[step]), of_x0 = -sqrt(to) * expm1(-h), back = step ? h / (2 * (lambda(k[step]) - lambda(k[step - 1]))) : 0;
        s.x_x = ratio, s.x_x0 = of_x0 * (1 + back), s.x_other = -of_x0 * back;
    }
    return s;
}
// The levels k (S+1) at which a solver asks, evenly spaced from 999 down, and -1, clean, behind them. dpmpp: all but the last of S + 1 that end at 0; the others: S that
// end a step above clean
static void solver_levels(int *k, Solver solver, int S) {
    for (int i = 0; i < S; i++) k[i] = solver == DPMPP ? (int)rint((double)(K - 1) * (S - i) / S) : (int)rint((double)K * (S - i) / S) - 1;
    k[S] = -1;
}

// ---- the work (Sec. 4.4, App. A) ----
// FLOPs (two for each product and sum) for one picture. Of a layer: a token costs 2 theta = 24 C^2, a pair of query and key 4 C.
// One denoising sweep over all blocks, finished blocks cached: 2 L theta + 2 C L^2 + 2 C L block; one over the whole sequence at once: 2 L theta + 4 C L^2.
static double flops_sweep(double C, double L, double block) { return 24*C*C * L + 2*C * L*L + 2*C * L*block; }
static double flops_full(double C, double L) { return flops_sweep(C, L, L); }
// Share of that work that blocks save: at most one half                                                                                      (Sec. 4.4)
static double flops_saved(double C, double L, double block) { return (1 - block/L) / (2 + 12*C / L); }
// What the formula leaves out, for a pass of all NL layers: the clean tokens, once (in the last layer only their keys and values); the modulations, 6C numbers a layer and
// 2C at the end for each of G conditions (a sampler computes them once for all blocks); tokens into the network and numbers out of it.
// In training clean and noised tokens go through together: 2L - B tokens and L^2 pairs a layer.
static double flops_clean(double NL, double C, double L, double block) { return (NL - 1) * (24*C*C * (L - block) + 4*C * (L*L - L*block) / 2) + 4*C*C * (L - block); }
static double flops_conditions(double NL, double C, double freq, double G) { return G * (2*freq*C + 2*C*C + NL * 12*C*C + 4*C*C); }
static double flops_ends(double C, double D, double tokens_in, double tokens_out) { return 2*D*C * (tokens_in + tokens_out); }

// ---- 3. network ---------------------------------------------------------------------------------------------------------------
// A pre-norm transformer that noised tokens pass modulated by their block's level and their picture's label (adaLN-zero: shift, scale and gate before and behind each
// branch), and clean tokens as they are: the same weights, no level, no label, no gate. Names and shapes are the official ones.

typedef struct NetConfig {
    int NL, C, NH, mlp;         // layers, width, heads, width of the MLP over C: 4
    int D, classes, freq;       // numbers of a token; labels 0..classes-1, and classes: the null label; sinusoids of a level: 256
    double eps;                 // under the root of RMSNorm: 1e-6
    Axes axes;
    void (*angles)(double *angle, int *pair, const int *m, Axes a, int HS);     // rope_angles(), or as coded
    int frames, side;           // positions: time 0..frames-1, row and column 0..side-1
} NetConfig;

typedef struct Dense { Tensor *weight, *bias; } Dense;                  // a linear layer
typedef struct Layer { Tensor *norm1, *norm2, *q_norm, *k_norm; Dense qkv, proj, fc1, fc2, ada; } Layer;
typedef struct Net {
    NetConfig c;
    Params ps;
    Tensor *labels, *norm_final;
    Dense x_embedder, time0, time2, linear, ada;
    Layer *layer;
    Rope rope;
    real *cache;                // keys|values (NL,cache_B,slots,2C) for sampling, else NULL
    int cache_B, slots;
    real *mods;                 // modulations (NL,rows,6C)|(rows,2C) of all steps of a sampler, which are the same in every block; mods_rows 0: none
    int mods_rows, mods_steps;  // mods_steps: of how many steps of a sampler the modulations are known, 0: none
    Tensor **after;             // (NL), or NULL: where to leave the tokens behind each layer, for `check` and the tests
} Net;

static double flops_counted;                            // of all passes since somebody set it to 0: counted where they are made
static long pairs_counted;                              // pairs of a query and a key in the layers

// Xavier: U(-bound, bound), bound^2 = 6 / (fan-in + fan-out); bias 0. how: UNIFORM, NORMAL of deviation 0.02, or ZERO
static Dense dense(Params *ps, const char *name, int layer, int out, int in, Init how) {
    char text[96];
    Dense d;
    int n = layer >= 0 ? snprintf(text, sizeof text, "blocks.%d.%s", layer, name) : snprintf(text, sizeof text, "%s", name);
    strcpy(text + n, ".weight"), d.weight = param(ps, text, out, in, how, how == NORMAL ? 0.02 : sqrt(6.0 / (in + out)));
    strcpy(text + n, ".bias"), d.bias = param(ps, text, 0, out, ZERO, 0);
    return d;
}
static Tensor *norm_weight(Params *ps, const char *name, int layer, int n) {
    char text[96];
    snprintf(text, sizeof text, "blocks.%d.%s.weight", layer, name);
    return param(ps, text, 0, n, ONE, 0);
}
static void embedder_create(Net *net) {
    int C = net->c.C;
    net->time0 = dense(&net->ps, "t_embedder.mlp.0", -1, C, net->c.freq, NORMAL), net->time2 = dense(&net->ps, "t_embedder.mlp.2", -1, C, C, NORMAL);
    net->labels = param(&net->ps, "y_embedder.embedding_table.weight", net->c.classes + 1, C, NORMAL, 0.02);
}

// Rotations for every token of `frames` frames of side x side patches: position (time * side + row) * side + column
static Rope rope_nd_create(NetConfig c) {
    int P = c.frames * c.side * c.side, HS = c.C / c.NH, *pair = NEW(int, HS);
    double *angle = NEW(double, dry ? (size_t)HS : (size_t)P * (size_t)HS);
    for (int p = 0; p < (dry ? 1 : P); p++) {
        int m[3] = {p / c.side / c.side, p / c.side % c.side, p % c.side};
        c.angles(angle + (size_t)p * (size_t)HS, pair, m + 3 - c.axes.n, c.axes, HS);
    }
    Rope r = rope_of(P, HS, angle, pair);
    free(angle), free(pair);
    return r;
}

// Registers all parameters and takes their memory; cache_B, slots: pictures and tokens of the cache, mods_rows: conditions of a sampler, 0: none.
static Net net_create(NetConfig c, bool training, uint64_t seed, int cache_B, int slots, int mods_rows) {
    Net net = {.c = c, .layer = NEW(Layer, c.NL), .cache_B = cache_B, .slots = slots, .mods_rows = mods_rows};
    Params *ps = &net.ps;
    int C = c.C, M = c.mlp * C;
    net.x_embedder = (Dense){.weight = param(ps, "x_embedder.weight", C, c.D, UNIFORM, sqrt(6.0 / (c.D + C)))};
    embedder_create(&net);
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net.layer[l];
        y->norm1 = norm_weight(ps, "norm1", l, C), y->norm2 = norm_weight(ps, "norm2", l, C);
        y->qkv = dense(ps, "attn.qkv", l, 3*C, C, UNIFORM), y->proj = dense(ps, "attn.proj", l, C, C, UNIFORM);
        y->q_norm = norm_weight(ps, "attn.q_norm", l, C / c.NH), y->k_norm = norm_weight(ps, "attn.k_norm", l, C / c.NH);
        y->fc1 = dense(ps, "mlp.fc1", l, M, C, UNIFORM), y->fc2 = dense(ps, "mlp.fc2", l, C, M, UNIFORM);
        y->ada = dense(ps, "adaLN_modulation.1", l, 6*C, C, ZERO);     // gates start at 0: for noised tokens every layer starts as the identity
    }
    net.norm_final = param(ps, "final_layer.norm_final.weight", 0, C, ONE, 0);
    net.linear = dense(ps, "final_layer.linear", -1, c.D, C, ZERO), net.ada = dense(ps, "final_layer.adaLN_modulation.1", -1, 2*C, C, ZERO);
    params_create(ps, training, seed);
    net.rope = rope_nd_create(c);
    size_t size = (size_t)c.NL * (size_t)cache_B * (size_t)slots * 2*(size_t)C;
    if (mods_rows) net.mods = arena_take(&persistent, (size_t)mods_rows * ((size_t)c.NL * 6 + 2) * (size_t)C * sizeof(real));
    if (cache_B) net.cache = arena_take(&persistent, size * sizeof(real)), fill(net.cache, 0, size);      // 0: slots that nobody sees must not hold a NaN
    return net;
}
static void net_free(Net *net) { params_free(&net->ps); free(net->layer); *net = (Net){0}; }

static Tensor *apply(Tensor *x, Dense d, Activation act) {
    flops_counted += 2.0 * rows(x) * x->C * d.weight->T;
    return linear(x, d.weight, d.bias, act);
}
static Tensor *apply_hidden(Tensor *x, Dense d, Activation act) {      // see linear_hidden()
    flops_counted += 2.0 * rows(x) * x->C * d.weight->T;
    return linear_hidden(x, d.weight, d.bias, act);
}
// rows first..first+n-1 of a linear layer as a layer of its own
static Dense part_of(Dense d, int first, int n) {
    Tensor *bias = HOST(Tensor, 1);
    *bias = *d.bias;
    bias->C = n, bias->data += first;
    if (bias->grad) bias->grad += first;
    return (Dense){weight_rows(d.weight, first, n), bias};
}

// SiLU(level + label) of G conditions (1,G,C), which is all that the modulations ask for. level, label (G). of_level, sum: what it is made of, or NULL
static Tensor *condition(Net *net, const double *level, const int *label, int G, Tensor **of_level, Tensor **sum_of) {
    Tensor *features = level_features(to_device(level, (size_t)G * sizeof(double)), G, net->c.freq);
    Tensor *l = apply(apply(features, net->time0, SILU), net->time2, LINEAR_ONLY), *y = embedding(net->labels, to_device(label, (size_t)G * sizeof(int)), 1, G);
    Tensor *act = sum(l, y, SILU);                      // y is their sum now
    if (of_level) *of_level = l;
    if (sum_of) *sum_of = y;
    return act;
}

// What the network is shown: of each of B pictures `clean` tokens and behind them `noised` ones, with the position of each and what it attends to (for all pictures
// alike). Row (b, t) has condition group[b*T + t] of the G, -1: none, a clean token. mods_from: row of the table from which on their modulations stand, -1: nowhere.
// cached: clean tokens are stored from slot clean_at on, noised ones from noised_at on, and spans are intervals of the slots.
typedef struct Input {
    Tensor *x;                  // (B, T = clean + noised, D)
    int clean, noised, G, mods_from, clean_at, noised_at;
    bool cached;
    const int *position, *group, *label;
    const double *level;
    const Span *span;
} Input;

// Where the modulations of layer l (NL: of the output) stand in the table, from row `first` on; and those that a pass uses: from the table, or of cond (1,G,.)
static real *mods_at(const Net *net, int l, int first) {
    size_t C = (size_t)net->c.C;
    return net->mods + (size_t)l * (size_t)net->mods_rows * 6*C + (size_t)first * (l < net->c.NL ? 6 : 2) * C;
}
static Tensor *modulation(Net *net, Tensor *cond, Dense ada, int l, Input in) {
    return cond ? apply(cond, ada, LINEAR_ONLY) : constant(mods_at(net, l, in.mods_from), 1, in.G, ada.weight->T, "modulation");
}

// The noise that it predicts: (B, noised, D). Clean tokens predict nothing: behind the last layer nobody asks for them, so there they have keys and values alone.
static Tensor *forward(Net *net, Input in) {
    NetConfig c = net->c;
    int B = in.x->B, T = in.clean + in.noised, n = B * in.noised, C = c.C;
    int *position = HOST(int, B*T), *row = HOST(int, n), *row_position = HOST(int, n), *row_group = HOST(int, n);      // of all tokens; of the noised ones
    long pairs[2] = {0};                                // of clean and of noised queries
    for (int i = 0; i < B*T; i++) {
        position[i] = in.position[i % T];
        if (position[i] >= net->rope.P) die("internal error: position %d, rotary tables end at %d", position[i], net->rope.P);
    }
    for (int i = 0; i < n; i++) row[i] = i / in.noised * T + in.clean + i % in.noised, row_position[i] = position[row[i]], row_group[i] = in.group[row[i]];
    for (int t = 0; t < T; t++) for (int p = 0; p < 2; p++) pairs[t >= in.clean] += (long)B * (in.span[t].hi[p] - in.span[t].lo[p]);
    size_t all_bytes = (size_t)(B*T) * sizeof(int), row_bytes = (size_t)n * sizeof(int);
    const int *at = to_device(position, all_bytes), *group = to_device(in.group, all_bytes), *wanted = to_device(row, row_bytes);
    const int *wanted_at = to_device(row_position, row_bytes), *wanted_group = to_device(row_group, row_bytes);
    const Span *span = to_device(in.span, (size_t)T * sizeof(Span));

    Tensor *cond = in.mods_from < 0 ? condition(net, in.level, in.label, in.G, NULL, NULL) : NULL, *x = apply(in.x, net->x_embedder, LINEAR_ONLY);
    for (int l = 0; l < c.NL; l++) {
        Layer *y = &net->layer[l];
        size_t mark = per_step.used;
        bool last = l == c.NL - 1 && in.clean;          // only noised tokens ask, and go on
        Tensor *mod = modulation(net, cond, y->ada, l, in), *q, *kv;           // shift, scale, gate; twice
        Tensor *h = norm_modulate(x, y->norm1, (Modulation){mod, group, 0, C, 2*C}, RMS, c.eps);
        if (last) {
            kv = head_norm(apply(h, part_of(y->qkv, C, 2*C), LINEAR_ONLY), 0, c.NH, y->k_norm, c.eps, &net->rope, at);
            q = head_norm(apply(gather_rows(h, wanted, n), part_of(y->qkv, 0, C), LINEAR_ONLY), 0, c.NH, y->q_norm, c.eps, &net->rope, wanted_at);
            x = gather_rows(x, wanted, n), group = wanted_group;
        } else q = kv = head_norm(head_norm(apply(h, y->qkv, LINEAR_ONLY), 0, c.NH, y->q_norm, c.eps, &net->rope, at), C, c.NH, y->k_norm, c.eps, &net->rope, at);
        int column = kv->C - 2*C;                       // keys and values are the last 2C columns of kv
        if (in.cached) {
            real *cache = net->cache + (size_t)l * (size_t)net->cache_B * (size_t)net->slots * 2*(size_t)C;
            if (in.clean) cache_store(cache, net->slots, in.clean_at, kv, 0, in.clean, column);
            cache_store(cache, net->slots, in.noised_at, kv, in.clean, in.noised, column);
            kv = constant(cache, B, net->slots, 2*C, "cache"), column = 0;
        }
        Tensor *a = attention(q, kv, column, last ? span + in.clean : span, B, c.NH);
        long asked = last ? pairs[1] : pairs[0] + pairs[1];
        pairs_counted += asked, flops_counted += 4.0 * C * (double)asked;
        Modulation attn = {mod, group, 0, C, 2*C}, mlp = {mod, group, 3*C, 4*C, 5*C};
        x = gated_residual(x, apply(a, y->proj, LINEAR_ONLY), attn, (Dropout){0});
        h = apply_hidden(norm_modulate(x, y->norm2, mlp, RMS, c.eps), y->fc1, GELU);
        x = gated_residual(x, apply(h, y->fc2, LINEAR_ONLY), mlp, (Dropout){0});
        if (l < c.NL - 1) x = keep(x, mark);
        if (net->after) net->after[l] = x;
    }
    Modulation out = {modulation(net, cond, net->ada, c.NL, in), group, 0, C, 0};
    return reshape(apply(norm_modulate(x, net->norm_final, out, RMS, c.eps), net->linear, LINEAR_ONLY), B, in.noised, c.D);
}

// ---- 4. loss ------------------------------------------------------------------------------------------------------------------

// a coefficient of mix() that is the same for n rows
static double *same(int n, double value) { double *a = HOST(double, n); for (int i = 0; i < n; i++) a[i] = value; return a; }

// side by side for each picture: the first n tokens of x, then all of y
static Tensor *beside(Tensor *x, int n, Tensor *y) {
    int B = y->B, T = y->T, D = y->C;
    if (!n) return y;
    return reshape(CONCAT(columns_of(reshape(x, B, 1, x->T * D), 0, n * D), reshape(y, B, 1, T * D)), B, n + T, D);
}

// What each block sees: the clean blocks before it, noised ones (the ablation), or, to find out what a context is worth, none
typedef enum { CLEAN, NOISED, NONE } Context;
static const char *const context_name[] = {"clean", "noised"};

// L = mean over pictures, tokens and numbers of (eps - forward(x^(k); k, label, x_<i))^2. Input, above, says what the network is shown.     (Eq. 3 as a mean: code)
// x, noise (B,T,D) on the device, tokens in the order of the sequence; k (B,N); label (B); order (T): where each token stands. seen_x: the clean tokens that are shown, mostly x itself.
typedef struct Loss { Tensor *loss, *error, *prediction, *x_k; } Loss;
static Loss acdit_loss(Net *net, Tensor *x, Tensor *seen_x, Tensor *noise, const int *k, const int *label, const int *order, int N, Context context) {
    int B = x->B, T = x->T, block = T / N, clean = context == CLEAN ? T - block : 0, S = clean + T;
    Rows r = rows_create(B*T);
    for (int i = 0; i < B*T; i++) noising(&r.a[i], &r.b[i], k[i / block]);
    Loss l = {.x_k = mix(x, r.a, noise, r.b, NULL, NULL)};

    int *position = HOST(int, S), *group = HOST(int, B*S), *group_label = HOST(int, B*N);
    double *level = HOST(double, B*N);
    Span *span = HOST(Span, S);
    for (int i = 0; i < S; i++) {
        position[i] = order[i < clean ? i : i - clean];
        span[i] = context == CLEAN ? attends(i, clean, block) : context == NOISED ? attends_noised(i, block) : attends_alone(i, block);
        for (int b = 0; b < B; b++) group[b*S + i] = i < clean ? -1 : b*N + (i - clean) / block;
    }
    for (int i = 0; i < B*N; i++) level[i] = k[i], group_label[i] = label[i / N];
    Tensor *shown = beside(seen_x, clean, l.x_k);
    shown->kind = CONSTANT;                             // nobody asks for its gradient
    l.prediction = forward(net, (Input){.x = shown, .clean = clean, .noised = T, .G = B*N, .mods_from = -1, .position = position, .group = group, .label = group_label, .level = level, .span = span});
    l.loss = square_error(l.prediction, noise, same(B*T, 1), 1 / ((double)B * T * x->C), 1, &l.error);
    return l;
}

// ---- 5. sampling --------------------------------------------------------------------------------------------------------------
// For block i: start from noise, S steps of a solver, each asking the network about the block (once more without its label, for guidance) while it looks at the keys
// and values of the finished blocks. These depend on neither level nor label, so both halves share ONE cache. The first step of block i also takes block i-1, now
// clean, through the network, and stores it. In a video that goes on beyond the training length the cache is a ring: the oldest block makes room. (A block that has left
// still acts through the keys of later blocks, which saw it; so this is more than a network that sees the window alone.)

enum { MOST_STEPS = 64 };
typedef struct Sampler {
    Net *net;
    int B, N, block, window;    // pictures; blocks to make; tokens of a block; blocks that the cache holds
    Solver solver;
    int steps[MOST_STEPS];      // of block 0, 1, ...; the last number holds for all later ones
    double guidance;            // > 1: two halves
    bool recompute;             // nothing is kept: all finished blocks go through the network in every step
    Context context;
    const int *label, *order;   // (B), position of every token (N*block)
    real *x;                    // (B, N*block, D): finished blocks, the one in the making, and noise
    real *x0;                   // (B, block, D): the last prediction of x0
    long passes;
    uint64_t seed;              // of everything that is drawn
    uint64_t number;            // of the first picture: what is drawn for one does not depend on those beside it
    // called after every step of the solver, or NULL: x (B,block,D) as it was before, and what the network said of it
    void (*watch)(struct Sampler *s, int i, int step, Tensor *x, Tensor *eps_label, Tensor *eps_null);
} Sampler;
static int halves(const Sampler *s) { return s->guidance > 1 ? 2 : 1; }
static int steps_of(const int *steps, int i) { return steps[i < MOST_STEPS ? i : MOST_STEPS - 1]; }
// the label of condition g: with labels, then, with guidance, without; in the ablation the finished blocks' last
static int label_of(const Sampler *s, int g) { return halves(s) == 2 && g / s->B == 1 ? s->net->c.classes : s->label[g % s->B]; }
// slots of the cache: the window, and the block in the making, twice with guidance
static int cache_slots(int window, int block, double guidance) { return (window + (guidance > 1 ? 2 : 1)) * block; }

static size_t token_size(const Sampler *s) { return (size_t)s->net->c.D * sizeof(real); }
// blocks i..i+n-1 of every picture: host memory (B,n*block,D), until the next begin_step()
static real *blocks_of(const Sampler *s, int i, int n) {
    size_t one = (size_t)n * (size_t)s->block * token_size(s), all = (size_t)s->N * (size_t)s->block * token_size(s);
    char *out = host_take((size_t)s->B * one);
    for (int b = 0; b < s->B; b++) memcpy(out + (size_t)b * one, (char *)s->x + (size_t)b * all + (size_t)(i * s->block) * token_size(s), one);
    return (real *)out;
}
static void put_block(const Sampler *s, int i, const real *from) {
    size_t one = (size_t)s->block * token_size(s), all = (size_t)s->N * one;
    for (int b = 0; b < s->B; b++) memcpy((char *)s->x + (size_t)b * all + (size_t)i * one, (const char *)from + (size_t)b * one, one);
}

static void normals(real *x, size_t n, Rng r) { for (size_t i = 0; i < n; i++) x[i] = (real)normal(&r); }

// What the network says of block i, x (B,block,D) at level k: eps (B, halves * block, D). The finished blocks from..i-1 go through it too, and into the cache;
// as clean tokens, or, in the ablation, as blocks at level 0 with their picture's label: the nearest to clean that training has shown.
// step: of those whose modulations are in the table; -1: they are computed.
static Tensor *predict_block(Sampler *s, int i, Tensor *x, int k, int from, int step) {
    int B = s->B, block = s->block, H = halves(s), stored = (i - from) * block, T = stored + H * block, scratch = s->window * block;
    bool noised = s->context == NOISED;
    int *position = HOST(int, T), *group = HOST(int, B*T), G = H*B + (noised ? B : 0), *label = HOST(int, G);
    double *level = HOST(double, G);
    Span *span = HOST(Span, T);
    int seen = (i < s->window ? i : s->window) * block;
    for (int t = 0; t < T; t++) {
        position[t] = s->order[t < stored ? from * block + t : i * block + (t - stored) % block];
        span[t] = attends_cached(t, stored, from * block, seen, scratch, block);
        for (int b = 0; b < B; b++) group[b*T + t] = t >= stored ? (t - stored) / block * B + b : noised ? H*B + b : -1;
    }
    for (int g = 0; g < G; g++) level[g] = g < H*B ? k : 0, label[g] = label_of(s, g);
    Tensor *shown = H == 2 ? beside(x, block, x) : x;
    if (stored) shown = beside(on_device(blocks_of(s, from, i - from), B, stored, s->net->c.D, "finished"), stored, shown);
    s->passes++;
    return forward(s->net, (Input){.x = shown, .clean = stored, .noised = H * block, .G = G, .mods_from = step < 0 ? -1 : step * G, .cached = true, .clean_at = s->window ? from % s->window * block : 0, .noised_at = scratch,
                                   .position = position, .group = group, .label = label, .level = level, .span = span});
}

// x one step further, with the network's eps; *x0: the picture that they point at
static Tensor *take_step(Tensor *x, Tensor *eps, Tensor *other, Step c, Tensor **x0) {
    int n = rows(x);
    *x0 = mix(x, same(n, c.x0_x), eps, same(n, c.x0_eps), NULL, NULL);
    return mix(x, same(n, c.x_x), *x0, same(n, c.x_x0), other, same(n, c.x_other));
}
// eps of the network, (B, 2*block, D), taken apart and put together by guidance
static Tensor *guided(Tensor *eps, Tensor **eps_label, Tensor **eps_null, double w) {
    int B = eps->B, block = eps->T / 2, D = eps->C;
    double of_label, of_null;
    guidance(&of_label, &of_null, w);
    Tensor *both = reshape(eps, B, 1, 2*block*D);
    *eps_label = reshape(columns_of(both, 0, block*D), B, block, D), *eps_null = reshape(columns_of(both, block*D, block*D), B, block, D);
    return mix(*eps_label, same(B*block, of_label), *eps_null, same(B*block, of_null), NULL, NULL);
}
// One step of block i: x from level k[step] to k[step + 1]
static void sample_step(Sampler *s, int i, int step, const int *k) {
    begin_step();
    int B = s->B, block = s->block, D = s->net->c.D, from = s->recompute ? 0 : step == 0 && i > 0 ? i - 1 : i;
    size_t bytes = (size_t)(B * block) * token_size(s);
    Tensor *x = on_device(blocks_of(s, i, 1), B, block, D, "x"), *eps = predict_block(s, i, x, k[step], from, s->net->mods_steps ? step : -1), *eps_null = NULL, *eps_label = eps, *x0, *other = NULL;
    if (halves(s) == 2) eps = guided(eps, &eps_label, &eps_null, s->guidance);
    Step c = solver_step(s->solver, k, step);
    if (c.x_other != 0 || dry) {
        real *z = s->x0;
        if (s->solver == DDPM) {                        // a stream for each picture, block and step: 20, 26 and 10 bits of its number
            z = host_take(bytes);
            for (int b = 0; b < B; b++) normals(z + b * block*D, (size_t)(block*D), rng(s->seed, RNG_STEP, (s->number + (uint64_t)b) << 36 | (uint64_t)i << 10 | (uint64_t)step));
        }
        other = on_device(z, B, block, D, "other");
    }
    Tensor *next = take_step(x, eps, other, c, &x0);
    real *values = host_take(bytes);
    download(values, next->data, bytes), put_block(s, i, values);
    download(s->x0, x0->data, bytes);
    if (s->watch) s->watch(s, i, step, x, eps_label, eps_null);
}

// The modulations of S steps, for all pictures and halves, into the table. They depend on level and label alone, so all blocks share them.
static void modulate(Sampler *s, const int *k, int S) {
    Net *net = s->net;
    int G = halves(s) * s->B;
    for (int step = 0; step < S; step++) {
        begin_step();
        double *level = HOST(double, G);
        int *label = HOST(int, G);
        for (int g = 0; g < G; g++) level[g] = k[step], label[g] = label_of(s, g);
        Tensor *cond = condition(net, level, label, G, NULL, NULL);
        for (int l = 0; l <= net->c.NL; l++) {
            Tensor *mod = apply(cond, l < net->c.NL ? net->layer[l].ada : net->ada, LINEAR_ONLY);
            store_rows(mods_at(net, l, step * G), mod->data, 1, G, G, G, mod->C, mod->C);
        }
    }
    net->mods_steps = S;
}
// Block i, from the noise that stands in its place
static void sample_block(Sampler *s, int i) {
    int S = steps_of(s->steps, i), *k = NEW(int, S + 1);
    solver_levels(k, s->solver, S);
    if (i == 0 || s->net->mods_steps != S) {
        s->net->mods_steps = 0;
        if (S * halves(s) * s->B <= s->net->mods_rows && s->context != NOISED) modulate(s, k, S);
    }
    for (int step = 0; step < S; step++) sample_step(s, i, step, k);
    free(k);
}

// B pictures of N blocks, each of which sees at most `window` before it; D numbers of a token. Everything is noise until sample_block(). number: of the first picture
static Sampler sampler_create(Net *net, int B, int N, int block, int window, uint64_t seed, uint64_t number, int D) {
    Sampler s = {.net = net, .B = B, .N = N, .block = block, .window = window, .guidance = 1, .seed = seed, .number = number};
    size_t picture = (size_t)(N * block) * (size_t)D;
    s.x = NEW(real, (size_t)B * picture), s.x0 = NEW(real, B * block * D);
    for (int b = 0; b < B; b++) normals(s.x + (size_t)b * picture, dry ? 0 : picture, rng(seed, RNG_SAMPLE, number + (uint64_t)b));
    return s;
}
static void sampler_free(Sampler *s) { free(s->x), free(s->x0); }

// ---- 6. as coded --------------------------------------------------------------------------------------------------------------
// What only the official code does; needed to reproduce its numbers.

// Its rotary positions: other bases; frequencies f_i = b^(-i/(n-1)), both ends included; and pairs that reach across the whole head, so that the two elements of a
// pair turn by the angles of different axes. With two or more axes this is no rotation, and q.k depends on more than differences of positions.
static double coded_rope_base(int length) { return 100 * (floor(floor(8 * length / 3.14159265358979323846) / 100) + 1); }
static void coded_rope_angles(double *angle, int *pair, const int *m, Axes a, int HS) {
    for (int i = 0; i < HS; i++) angle[i] = 0, pair[i] = i < HS/2 ? i + HS/2 : i < HS/2*2 ? i - HS/2 : -1;
    for (int j = 0, at = 0; j < a.n; at += a.dims[j++])
        for (int i = 0, half = a.dims[j] / 2; i < half; i++)
            angle[at + i] = angle[at + half + i] = m[j] * (half > 1 ? pow(coded_rope_base(a.length[j]), -(double)i / (half - 1)) : 1);
}
// The levels of the other solvers as its library spaces them by default: (S-1) K/S, ..., K/S, 0
static void coded_levels(int *k, int S) { for (int i = 0; i < S; i++) k[i] = (S - 1 - i) * (K/S); k[S] = -1; }

// ---- 7. data, and what the options say ------------------------------------------------------------------------------------------

// What is trained on: pictures from a file, or generated videos
typedef struct Data { bool video; Images images; int count; } Data;
static bool is_video(void) { return !strcmp(opt.data, "video"); }
static VideoConfig video_config(void) { return (VideoConfig){.size = opt.edge, .sprites = 1, .radius = 2.5, .speed_min = 0.5, .speed_max = 1.5}; }
static int clip_frames(void) { return is_video() ? opt.clip : 1; }
static Layout layout(void) {
    if (opt.edge % opt.patch) die("--patch %d does not divide the %d pixels of an edge", opt.patch, opt.edge);
    return layout_of(clip_frames(), opt.edge / opt.patch, opt.patch, opt.channels);
}

// Opens what --data names, and sets the options that say what it holds; `trained`: they are those of a checkpoint, and must agree.
static Data data_open(bool test, bool trained) {
    Data d = {.video = is_video()};
    int edge = opt.size, channels = 1, classes = MOTIONS;
    const char *const *name = motion_name;
    if (!d.video) d.images = images_open(opt.data, test), edge = d.images.size, channels = d.images.channels, classes = d.images.classes, name = d.images.name, d.count = d.images.n;
    if (trained && (edge != opt.edge || channels != opt.channels || classes != opt.classes))
        die("%s: %d classes of %d x %d x %d numbers; the checkpoint was trained on %d classes of %d x %d x %d", opt.data, classes, channels, edge, edge, opt.classes, opt.channels, opt.edge, opt.edge);
    opt.edge = edge, opt.channels = channels, opt.classes = classes;
    size_t size = 1;
    for (int i = 0; i < classes; i++) size += strlen(name[i]) + 1;
    char *names = NEW(char, size);                      // the option keeps it until the program ends
    for (int i = 0; i < classes; i++) strcat(strcat(names, i ? "," : ""), name[i]);
    opt.names = names;
    return d;
}
// Marks the pictures that are trained on; a run that goes on must have the same ones
static void data_mark(const Data *d) {
    char mark[64];
    uint64_t hash = d->video ? 0 : hash_bytes((const char *)d->images.pixel, (size_t)d->count * (size_t)numbers_of(layout())) ^ hash_bytes((const char *)d->images.label, (size_t)d->count);
    snprintf(mark, sizeof mark, "%d:%016llx", d->count, (unsigned long long)hash);
    if (d->video) return;
    if (*opt.pictures && strcmp(opt.pictures, mark)) die("%s: not the pictures that were trained on (--data may name another place of them, not other pictures)", opt.data);
    if (!*opt.pictures && !(opt.pictures = strdup(mark))) die("out of memory");
}
static void data_free(Data *d) { if (!d->video) images_free(&d->images); *d = (Data){0}; }
static const char *class_name(int label) {
    static char name[64];
    const char *p = opt.names;
    for (int i = 0; i < label; i++) p += strcspn(p, ",") + (p[strcspn(p, ",")] != 0);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
    return name;
}

// Picture `which` (a video of a random kind of motion) into picture (numbers_of), from -1 to 1; returns its label
static int data_picture(const Data *d, int which, Rng *r, real *picture) {
    Layout y = layout();
    if (d->video) {
        int kind = below(r, MOTIONS);
        Sprite *truth = NEW(Sprite, y.frames);
        motion_video(picture, truth, kind, video_config(), y.frames, r);
        free(truth);
        return kind;
    }
    const unsigned char *p = d->images.pixel + (size_t)which * (size_t)numbers_of(y);
    for (int i = 0; i < numbers_of(y); i++) picture[i] = (real)(p[i] / 127.5 - 1);
    return d->images.label[which];
}

// The numbers of a list such as 25,15,10 into list (room), which are `least` or more; returns how many
static int parse_list(const char *option, const char *text, int *list, int room, int least) {
    int n = 0;
    for (const char *p = text; n == 0 || *p; n++) {
        char *end;
        long x = strtol(p, &end, 10);
        if (end == p || (*end && (*end != ',' || !end[1])) || x < least || x > 1000000 || n == room) die("--%s %s: up to %d whole numbers from %d on, as 16,4,1", option, text, room, least);
        list[n] = (int)x, p = *end ? end + 1 : end;
    }
    return n;
}
enum { MOST_N = 16 };
// The numbers of blocks that a network is trained on; ends the program if a picture cannot be cut so. N (MOST_N); returns how many
static int trained_blocks(int *N) {
    int n = parse_list("blocks", opt.blocks, N, MOST_N, 1);
    Layout y = layout();
    for (int i = 0; i < n; i++) {
        const char *why = blocks_error(y, N[i], !is_video());
        if (why) die("--blocks %d: of %d x %d x %d patches, %d blocks %s", N[i], y.frames, y.side, y.side, N[i], why);
    }
    return n;
}

static bool coded_rope(void) { const char *const names[] = {"paper", "code"}; return CHOICE("rope", opt.rope, names); }

// Axes of a head of HS elements: row and column get a half each; time, row and column 2/8, 3/8, 3/8, whole pairs; what is left does not turn
static Axes axes_of(int frames, int side, bool video, int HS) {
    int share[2][3] = {{1, 1}, {2, 3, 3}}, unit = HS / 2 / (video ? 8 : 2);
    Axes a = {.n = video ? 3 : 2};
    for (int j = 0; j < a.n; j++) a.dims[j] = 2 * share[video][j] * unit, a.length[j] = video && j == 0 ? frames : side;
    return a;
}
static Context context_mode(void) {
    return (Context)CHOICE("context", opt.context, context_name);
}
// frames: of the longest video whose positions the network will meet
static NetConfig net_config(int frames) {
    Layout y = layout();
    if (opt.width % opt.heads) die("--heads %d do not divide --width %d", opt.heads, opt.width);
    if ((double)opt.batch * y.T * y.D > 1e8) die("--batch %d times %d numbers is more than 100 million", opt.batch, y.T * y.D);
    context_mode();                                     // refuses other words
    Axes axes = axes_of(y.frames, y.side, is_video(), opt.width / opt.heads);
    if (!axes.dims[0]) die("--heads %d: heads of %d elements have no room for positions (%d at least)", opt.heads, opt.width / opt.heads, is_video() ? 16 : 4);
    return (NetConfig){.NL = opt.layers, .C = opt.width, .NH = opt.heads, .mlp = 4, .D = y.D, .classes = opt.classes, .freq = 256, .eps = 1e-6, .axes = axes,
                       .angles = coded_rope() ? coded_rope_angles : rope_angles, .frames = frames, .side = y.side};
}

#include "tests/check_acdit.h"  // brings: run_check(), the glue between golden files and the functions above

// ---- 8. training --------------------------------------------------------------------------------------------------------------

// What train_step() and save() work on
static struct {
    Net net;
    Data data;
    int N[MOST_N], n_N, *order[MOST_N], *k, *label;     // numbers of blocks, and the order of the tokens for each; (B,N), (B)
    real *x, *picture;                                  // (B,T,D), (numbers)
} training;

static Path checkpoint_path(void) { return path_in(opt.out, "acdit.safetensors"); }
// The options of a checkpoint; returns its step. --data may name other pictures, but not videos in their place.
static int read_options(const SafeTensors *st, const char *path, const char *may_change) {
    int done = checkpoint_options(st, path, options, may_change);
    const char *trained = st_meta(st, "data");
    if (is_video() == !!strcmp(trained, "video")) die("--data %s: %s was trained on %s", opt.data, path, trained);
    return done;
}

// Warm-up, constant, decay in the last 15 % (paper); it ends at 1/64 (code)
static double learning_rate(int step) {
    double from = opt.steps * (1 - opt.decay), ratio = opt.decay > 0 && step > from ? (step - from) / (opt.steps - from) : 0;
    return opt.lr * (opt.warmup ? fmin(1, (double)step / opt.warmup) : 1) * pow(0.5, 6 * ratio);
}

// The loss of a batch cut into N[which] blocks: pictures, levels, dropped labels and noise of this step
static Loss draw_loss(int which, int step) {
    Layout y = layout();
    int B = opt.batch, N = training.N[which], numbers = numbers_of(y);
    Rng r = rng((uint64_t)opt.seed, RNG_DATA, (uint64_t)step), levels = rng((uint64_t)opt.seed, RNG_LEVEL, (uint64_t)step);
    for (int b = 0; b < B; b++) {
        int place = training.data.count ? below(&r, training.data.count) : 0;
        training.label[b] = data_picture(&training.data, place, &r, training.picture);
        to_tokens(training.x + (size_t)b * (size_t)numbers, training.picture, y, training.order[which]);
    }
    draw_levels(training.k, B, N, &levels), drop_labels(training.label, B, opt.classes, opt.drop, &levels);
    Tensor *noise = tensor(B, y.T, y.D, CONSTANT, "noise"), *x = on_device(training.x, B, y.T, y.D, "x");
    gaussian(noise->data, (uint64_t)opt.seed, stream_of(RNG_NOISE, (uint64_t)step), INFINITY, count(noise));
    return acdit_loss(&training.net, x, x, noise, training.k, training.label, training.order[which], N, context_mode());
}
static double train_step(int step, double *norm) {
    begin_step();
    Rng r = rng((uint64_t)opt.seed, RNG_CHOICE, (uint64_t)step);
    Loss loss = draw_loss(below(&r, training.n_N), step);
    return optimiser_step(&training.net.ps, loss.loss, (AdamW){.lr = learning_rate(step), .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = opt.weight_decay,
                                                               .max_norm = opt.max_norm, .ema = opt.ema, .step = step}, norm);
}
static void save(int done) { checkpoint_save(checkpoint_path().text, &training.net.ps, options, done, NULL, NULL, 0); }

static void training_create(void) {
    Layout y = layout();
    int B = opt.batch;
    training.n_N = trained_blocks(training.N);
    for (int i = 0; i < training.n_N; i++) training.order[i] = NEW(int, y.T), token_order(training.order[i], y, training.N[i], !is_video());
    training.k = NEW(int, B * y.T), training.label = NEW(int, B), training.x = NEW(real, B * numbers_of(y)), training.picture = NEW(real, numbers_of(y));
}
static void training_free(void) {
    for (int i = 0; i < training.n_N; i++) free(training.order[i]);
    free(training.k), free(training.label), free(training.x), free(training.picture), data_free(&training.data);
}

// --cost of training: what a forward pass of one picture takes, counted in a dry run and by the formulas of METHOD
static void print_training_cost(void) {
    Layout y = layout();
    printf("work of the forward pass for one picture of %d tokens: pairs of a query and a key in a layer (all but the last), and GFLOP\n"
           "%6s %12s %12s %12s %12s %12s %12s\n", y.T, "blocks", "pairs", "DiT's", "counted", "noised", "clean", "rest");
    for (int i = 0; i < training.n_N; i++) {
        double N = training.N[i], block = y.T / N, C = opt.width, NL = opt.layers;
        bool clean = context_mode() == CLEAN;
        begin_step();
        flops_counted = 0, pairs_counted = 0;
        draw_loss(i, 1);
        double counted = flops_counted / opt.batch, pairs = (double)pairs_counted / opt.batch, last = y.T * (y.T + block) / 2.0, noised = NL * flops_sweep(C, y.T, block);
        double cleans = clean ? flops_clean(NL, C, y.T, block) : 0, rest = flops_conditions(NL, C, training.net.c.freq, N) + flops_ends(C, y.D, (clean ? 2 - 1/N : 1) * y.T, y.T);
        printf("%6d %12.0f %12.0f %12.6f %12.6f %12.6f %12.6f\n", training.N[i], NL > 1 ? (pairs - last) / (NL - 1) : pairs, (double)y.T * y.T, counted * 1e-9, noised * 1e-9,
               cleans * 1e-9, rest * 1e-9);
        printf("cost: blocks=%d counted=%.0f formula=%.0f\n", training.N[i], counted, noised + cleans + rest);
    }
}

static int run_train(int files, char **file) {
    (void)files, (void)file;
    set_up();
    Path place = checkpoint_path();
    Net *net = &training.net;
    SafeTensors st = {0};
    int done = 0;
    bool mine = !opt.cost && claim_out(opt.out, place.text, opt.resume, opt.force);
    if (opt.resume) {
        if (!exists(place.text)) die("%s: no checkpoint (./acdit train --out %s makes one)", place.text, opt.out);
        st = st_open(place.text);
        done = read_options(&st, place.text, " steps data ");
        if (done >= opt.steps) die("%s has done its %d steps: --steps says how far to go on", place.text, done);
    }
    if (!is_video() && (given("clip") || given("size")) && !opt.resume) die("--%s belongs to --data video", given("clip") ? "clip" : "size");
    training.data = data_open(false, opt.resume);
    NetConfig c = net_config(clip_frames());
    training_create();
    data_mark(&training.data);
    print_configuration("train", options);

    // memory: once dry (every number of blocks), then for real
    double norm;
    begin_dry_run();
    *net = net_create(c, true, (uint64_t)opt.seed, 0, 0, 0);
    if (opt.resume) checkpoint_resume(&st, place.text, &net->ps);
    if (opt.cost) { print_training_cost(); net_free(net); end_dry_run(false); training_free(); return 0; }
    for (int i = 0; i < training.n_N; i++) { begin_step(); optimiser_step(&net->ps, draw_loss(i, 1).loss, (AdamW){.step = 1}, &norm); }
    net_free(net);
    end_dry_run(true);
    *net = net_create(c, true, (uint64_t)opt.seed, 0, 0, 0);
    printf("network: %zu parameters\n", params_count(&net->ps));
    if (opt.resume) { checkpoint_resume(&st, place.text, &net->ps); st_free(&st); }

    Training t = {.out = opt.out, .checkpoint = place.text, .unit = "pictures", .claimed = mine, .resume = opt.resume, .force = opt.force, .done = done, .steps = opt.steps,
                  .save_every = opt.save_every, .per_step = opt.batch, .step = train_step, .save = save};
    train_loop(&t);
    printf("train: steps=%d loss=%.5f parameters=%zu pictures_per_s=%.1f seconds=%.1f\n", t.done, t.loss, params_count(&net->ps), t.rate, t.seconds);
    net_free(net), training_free();
    return 0;
}

// ---- 9. making and judging pictures, command line -----------------------------------------------------------------------------

#include "data/gallery.h"       // brings: run_sample(), run_eval(), run_classify()

static const Verb verbs[] = {
    {"train", "", "Trains a model on labelled pictures, or on videos.", run_train},
    {"sample", "", "Makes pictures or videos with a trained model.", run_sample},
    {"eval", "", "Judges a trained model: what its blocks gain from those before them, and how good its pictures are.", run_eval},
    {"classify", "", "Trains the classifier that judges pictures.", run_classify},
    {"check", "FILE... ", "Recomputes golden files of the official code.", run_check},
    {0},
};

#ifndef TESTING
int main(int argc, char **argv) { return run_command("acdit", argc, argv, verbs, options); }
#endif
