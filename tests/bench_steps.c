// bench_steps.c: whole training steps of bd3lm, the share of each kind of kernel in them, and sampling; in bf16 too where there is a matrix unit.
//     build/bench_steps [S|T|P|demo]...        S: 6 layers, width 384    P: the paper's network, 12 layers, width 768    T: 4 layers, width 192
#define TESTING
static double seconds(void);
static void charge(const char *kernel, double from);
#define TIMED(name, call) do { double from = seconds(); call; charge(#name, from); } while (0)
#include "../bd3lm.c"

static struct { const char *name; double seconds; } charged[64];
static void charge(const char *kernel, double from) {
    int i = 0;
    while (charged[i].name && charged[i].name != kernel) i++;
    charged[i].name = kernel;
    charged[i].seconds += seconds() - from;
}
static double sum_of(const char *prefix) {
    double sum = 0;
    for (int i = 0; charged[i].name; i++) if (!strncmp(charged[i].name, prefix, strlen(prefix))) sum += charged[i].seconds;
    return sum;
}

// the kernels that took more than a hundredth of `all` seconds
static void print_shares(double all) {
    double kernels = 0;
    printf("           of which");
    for (int i = 0; charged[i].name; i++) {
        kernels += charged[i].seconds;
        if (charged[i].seconds > 0.01 * all) printf(" %s %.0f %%,", charged[i].name, 100 * charged[i].seconds / all);
    }
    printf(" outside of kernels %.0f %%\n", 100 * (all - kernels) / all);
}

typedef struct Size { const char *name; int layers, width, heads, symbols, T, block, B, steps; } Size;
static const Size sizes[] = {
    {"S", 6, 384, 6, 256, 256, 16, 16, 3}, {"T", 4, 192, 6, 64, 128, 4, 32, 8}, {"P", 12, 768, 12, 50258, 1024, 16, 1, 2}, {"demo", 2, 96, 8, 4256, 64, 4, 8, 50},
};

// tokens/s of the fastest step, after one to warm up; random tokens
static void train(const Size *z) {
    Corpus c = {.n = {1 << 20}};
    c.vocab.size = z->symbols + 2, c.vocab.mask = z->symbols, c.vocab.bos = z->symbols + 1;
    c.id[TRAIN] = NEW(int, c.n[TRAIN]);
    Rng r = rng(1, RNG_DATA, 0);
    for (size_t i = 0; i < c.n[TRAIN]; i++) c.id[TRAIN][i] = below(&r, z->symbols);
    opt.layers = z->layers, opt.width = z->width, opt.heads = z->heads, opt.length = z->T, opt.block = z->block, opt.batch = z->B;
    training.x = NEW(int, z->B * z->T), training.counted = NEW(int, z->B * z->T), training.corpus = c;
    double norm, best = 1e30;
    NetConfig config = net_config(&c.vocab);
    Net *net = &training.net;
    begin_dry_run();
    *net = net_create(config, true, 1, z->T, 0, 0);
    train_step(1, &norm);
    net_free(net);
    end_dry_run(false);
    *net = net_create(config, true, 1, z->T, 0, 0);
    train_step(1, &norm);
    memset(charged, 0, sizeof charged);
    double all = 0;
    for (int s = 2; s < 2 + z->steps; s++) {
        double from = seconds();
        train_step(s, &norm);
        double took = seconds() - from;
        all += took;
        if (took < best) best = took;
    }
    double products = sum_of("linear"), attention = sum_of("attention");
    printf("train %-4s %7.0f tokens/s | products %2.0f %%, attention %2.0f %%, the rest %2.0f %% | %.2f GB of tensors, %zu parameters\n", z->name, z->B * z->T / best,
           100 * products / all, 100 * attention / all, 100 * (all - products - attention) / all, (double)(persistent.size + per_step.size) * 1e-9, params_count(&net->ps));
    print_shares(all);
    net_free(net);
    free(c.id[TRAIN]), free(training.x), free(training.counted);
}

// One text of `blocks` blocks after the window is full, first-hitting with the cache, as `sample` writes it; an untrained network takes as long.
static void sample(const Size *z, int block, int blocks) {
    int V = z->symbols + 2, W = z->T, L = W + (blocks + 1) * block;
    NetConfig config = {.NL = z->layers, .C = z->width, .NH = z->heads, .cond = 128, .V = V, .mask = V - 2, .adaln = true, .freq = 256, .mlp = 4, .rope_base = 10000, .eps = 1e-5};
    Net net = {0};
    Sampler s = {.net = &net, .B = 1, .L = L, .block = block, .x = NEW(int, L), .row = NEW(int, block), .top = 0.9, .rng = rng(1, RNG_SAMPLE, 0)};
    for (int t = 0; t < L; t++) s.x[t] = t < W ? t % z->symbols : V - 2;
    tape.off = true;
    for (int real_run = 0; real_run < 2; real_run++) {
        if (real_run) end_dry_run(false); else begin_dry_run();
        net_free(&net);
        net = net_create(config, false, 1, L, 1, W);
        if (!real_run) { const double *p = predict_rows(&s, 0, block, 1); draw_tokens(p, HOST(double, 1), 1, V); }
    }
    for (int at = 0; at < W + block; at += block) sample_block(&s, at);
    s.forwards = s.nfe = s.pairs = 0;
    memset(charged, 0, sizeof charged);
    double from = seconds();
    for (int at = W + block; at < L; at += block) sample_block(&s, at);
    double took = seconds() - from;
    // bytes of weights; a pass that only stores keys and values ends with those of the last layer
    double read = 4.0 * z->width * ((double)s.forwards * z->layers * 12 * z->width - (double)(s.forwards - s.nfe) * 10 * z->width + (double)s.nfe * V);
    printf("sample %-4s block %2d %7.1f tokens/s | %.2f passes, %.0f key pairs a token | weights read at %.1f GB/s | cache and weights %.2f GB\n", z->name, block, blocks * block / took,
           (double)s.forwards / (blocks * block), (double)s.pairs / (blocks * block), read / took * 1e-9, (double)persistent.size * 1e-9);
    print_shares(took);
    tape.off = false;
    net_free(&net);
    free(s.x), free(s.row);
}

int main(int argc, char **argv) {
    int threads = 1;
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    for (int p = FP32; p <= (has_matrix_unit() ? BF16 : FP32); p++) {
        precision = (Precision)p;
        printf("%s, %d threads:\n", p == BF16 ? "bf16" : "fp32", threads);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            bool wanted = argc == 1;
            for (int a = 1; a < argc; a++) wanted = wanted || !strcmp(argv[a], sizes[i].name);
            if (!wanted) continue;
            train(&sizes[i]);
            if (!strcmp(sizes[i].name, "S")) sample(&sizes[i], 4, 25), sample(&sizes[i], 16, 6);
            if (!strcmp(sizes[i].name, "P")) sample(&sizes[i], 16, 2);
        }
    }
    if (!has_matrix_unit()) printf("bf16: not measured, this processor has no AMX tiles\n");
    return 0;
}
