// gallery.h: what acdit.c does with a trained network: it makes pictures and videos, shows them on the way, and judges them. Part of acdit.c, which includes it.
//   judge_forward(), school_step(), run_classify()      a classifier, and the space in which sets of pictures are compared
//   plan_create(), make_pictures(), run_sample()        pictures by the sampler of acdit.c
//   along_the_way(), save_sheet()                       what is seen of them: strip, frames, animation, terminal, sheet
//   block_losses(), run_eval()                          what a block gains from those before it; how good pictures and videos are
#pragma once

// ---- the classifier -----------------------------------------------------------------------------------------------------------
// It judges pictures, and its next to last layer is the space in which sets of pictures are compared.

enum { FEATURES = 64, PIECE = 100 };                    // pictures of a step
typedef struct Judge { Params ps; Dense fc0, fc1, fc2; } Judge;
static Judge judge_create(bool train, int pixels, int classes, uint64_t seed) {
    Judge j = {0};
    j.fc0 = dense(&j.ps, "fc0", -1, 256, pixels, UNIFORM), j.fc1 = dense(&j.ps, "fc1", -1, FEATURES, 256, UNIFORM), j.fc2 = dense(&j.ps, "fc2", -1, classes, FEATURES, UNIFORM);
    params_create(&j.ps, train, seed);
    return j;
}
// x (1,n,pixels) -> logits (1,n,classes); features (1,n,FEATURES)
static Tensor *judge_forward(Judge *j, Tensor *x, Tensor **features) {
    *features = apply(apply(x, j->fc0, RELU), j->fc1, RELU);
    return apply(*features, j->fc2, LINEAR_ONLY);
}
static Path judge_path(void) { return path_in(opt.classifier, "classifier.safetensors"); }

// n pictures (n, pixels) on the host -> the labels that the classifier gives them, and their features (n,FEATURES)
static void judge_pictures(Judge *j, const real *pictures, int n, int pixels, double *features, int *guessed) {
    int classes = j->fc2.weight->T;
    real *values = NEW(real, PIECE * (FEATURES + classes));
    tape.off = true;
    for (int at = 0; at < n; at += PIECE) {
        int m = n - at < PIECE ? n - at : PIECE;
        begin_step();
        Tensor *f, *logits = judge_forward(j, on_device(pictures + (size_t)at * (size_t)pixels, 1, m, pixels, "pictures"), &f);
        download(values, f->data, count(f) * sizeof(real)), download(values + PIECE * FEATURES, logits->data, count(logits) * sizeof(real));
        for (int i = 0; i < m * FEATURES; i++) features[(size_t)at * FEATURES + (size_t)i] = (double)values[i];
        for (int i = 0; i < m; i++) {
            const real *row = values + PIECE * FEATURES + (size_t)i * (size_t)classes;
            guessed[at + i] = 0;
            for (int c = 1; c < classes; c++) if (row[c] > row[guessed[at + i]]) guessed[at + i] = c;
        }
    }
    tape.off = false;
    free(values);
}
// The share of n guesses that are right; of_class (classes): the same of each class (NaN: there is none), or NULL
static double accuracy_of(const int *guessed, const int *label, int n, double *of_class, int classes) {
    int right = 0, *seen = NEW(int, classes), *hit = NEW(int, classes);
    for (int i = 0; i < n; i++) right += guessed[i] == label[i], seen[label[i]]++, hit[label[i]] += guessed[i] == label[i];
    for (int c = 0; of_class && c < classes; c++) of_class[c] = seen[c] ? (double)hit[c] / seen[c] : NAN;
    free(seen), free(hit);
    return (double)right / n;
}
// all pictures of the data: pictures (n, pixels), to be freed; label (n)
static real *all_pictures(const Data *d, int *label) {
    size_t pixels = (size_t)numbers_of(layout());
    real *p = NEW(real, (size_t)d->count * pixels);
    for (int i = 0; i < d->count; i++) label[i] = data_picture(d, i, NULL, p + (size_t)i * pixels);
    return p;
}

static struct { Judge judge; Data data; int steps; } school;
static double school_step(int step, double *norm) {
    int pixels = numbers_of(layout());
    begin_step();
    int *label = HOST(int, PIECE);
    real *x = HOST(real, PIECE * pixels);
    double *weight = HOST(double, PIECE);
    Rng r = rng((uint64_t)opt.seed, RNG_DATA, (uint64_t)step);
    for (int i = 0; i < PIECE; i++) label[i] = data_picture(&school.data, below(&r, school.data.count), NULL, x + (size_t)i * (size_t)pixels), weight[i] = 1;
    Tensor *features, *row_loss, *logits = judge_forward(&school.judge, on_device(x, 1, PIECE, pixels, "x"), &features);
    Tensor *loss = cross_entropy(logits, to_device(label, PIECE * sizeof(int)), to_device(weight, PIECE * sizeof(double)), 1.0 / PIECE, -1, &row_loss);
    double left = 1 - (double)step / school.steps;
    return optimiser_step(&school.judge.ps, loss, (AdamW){.lr = 1e-3 * fmax(left, 0.01), .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2, .ema = opt.ema, .step = step}, norm);
}
static void school_save(int done) { checkpoint_save(judge_path().text, &school.judge.ps, options, done, NULL, NULL, 0); }

static int run_classify(int files, char **file) {
    (void)files, (void)file;
    set_up();
    if (is_video()) die("--data video: no classifier is needed, the laws of motion tell the classes apart");
    Path place = judge_path();
    if (exists(path_in(opt.classifier, "acdit.safetensors").text)) die("--classifier %s: a model stands there (name another directory)", opt.classifier);
    if (exists(place.text) && !opt.force) die("%s is there already: --force overwrites it, --classifier names another place", place.text);
    bool mine = claim_out(opt.classifier, place.text, false, opt.force);
    school.data = data_open(false, false);
    Layout y = layout();
    double norm;
    school.steps = opt.epochs * (school.data.count / PIECE + 1);
    print_configuration("classify", options);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(true); else begin_dry_run();
        school.judge = judge_create(true, numbers_of(y), opt.classes, (uint64_t)opt.seed);
        if (!pass) { school_step(1, &norm); params_free(&school.judge.ps); }
    }
    Training t = {.out = opt.classifier, .checkpoint = place.text, .unit = "pictures", .claimed = mine, .force = opt.force, .steps = school.steps, .per_step = PIECE,
                  .step = school_step, .save = school_save};
    train_loop(&t);
    data_free(&school.data);
    school.data = data_open(true, true);
    int n = school.data.count, *label = NEW(int, n), *guessed = NEW(int, n);
    double *features = NEW(double, (size_t)n * FEATURES);
    real *pictures = all_pictures(&school.data, label);
    params_point(&school.judge.ps, school.judge.ps.ema);                // the average is what others will use
    judge_pictures(&school.judge, pictures, n, numbers_of(y), features, guessed);
    printf("classify: steps=%d loss=%.4f test_pictures=%d test_accuracy=%.4f seconds=%.1f\n", t.done, t.loss, n, accuracy_of(guessed, label, n, NULL, opt.classes), t.seconds);
    free(label), free(guessed), free(features), free(pictures), params_free(&school.judge.ps), data_free(&school.data);
    return 0;
}

// ---- making pictures ------------------------------------------------------------------------------------------------------------

// How pictures are cut when they are made: `y` may have more frames than training had. window: finished blocks that a block sees
typedef struct Plan { Layout y; int N, block, window, *order, steps[MOST_STEPS]; double guidance; Solver solver; Context context; } Plan;
static struct {
    Net net;
    SafeTensors checkpoint;
    Plan plan;
    double seconds;             // of making pictures
    long passes;
    double flops;               // of these passes, and how many pictures they made
    int made;
} run;

static Plan plan_create(void) {
    Plan p = {.solver = (Solver)CHOICE("solver", opt.solver, solver_name), .context = context_mode(), .guidance = opt.guidance};
    Layout y = layout();
    int trained[MOST_N], n = trained_blocks(trained), N = opt.sample_blocks ? opt.sample_blocks : trained[n - 1], steps[MOST_STEPS];
    const char *why = blocks_error(y, N, !is_video());
    if (why) die("--sample-blocks %d: of %d x %d x %d patches, %d blocks %s", N, y.frames, y.side, y.side, N, why);
    bool known = false;
    for (int i = 0; i < n; i++) known = known || trained[i] == N;
    if (!known) fprintf(stderr, "acdit: --sample-blocks %d: trained on %s blocks alone, expect worse pictures\n", N, opt.blocks);
    p.block = y.T / N, p.window = N - 1, p.N = N;
    if (opt.length) {
        if (!is_video()) die("--length %d belongs to --data video", opt.length);
        if (opt.length < 4) die("--length %d: a motion shows in 4 frames or more", opt.length);
        y.frames = opt.length, y.T = opt.length * y.side * y.side, p.N = y.T / p.block;
        if (y.T % p.block) die("--length %d: blocks of %d frames are needed whole", opt.length, p.block / y.side / y.side);
        if (p.N > N && N == 1) die("--length %d: a network that knows one block sees no frames before it, so nothing can go on (--blocks 2 or more)", opt.length);
        if (p.N > N && coded_rope()) die("--length %d: --rope code cannot slide along a video, its positions are not relative (train with --rope paper)", opt.length);
        if (p.N > N && opt.recompute) die("--recompute and --length %d exclude each other: a ring of keys is needed to go on beyond the training length", opt.length);
        if (p.N < N) p.window = p.N - 1;
    }
    if (p.context == NOISED) {
        if (given("guidance") && opt.guidance > 1) die("--guidance %g: with --context noised both halves would need a cache of their own (leave it out)", opt.guidance);
        p.guidance = 1;
    }
    if (p.guidance > 1 && opt.drop == 0) fprintf(stderr, "acdit: --guidance %g: trained without --label-drop, the network does not know pictures without a label\n", p.guidance);
    int listed = *opt.steps_per_block ? parse_list("steps-per-block", opt.steps_per_block, steps, MOST_STEPS, 1) : 0;
    if (listed && given("sampling-steps")) die("--sampling-steps and --steps-per-block exclude each other");
    for (int i = 0; i < MOST_STEPS; i++) {
        p.steps[i] = listed ? steps[i < listed ? i : listed - 1] : opt.sampling_steps;
        if (p.steps[i] > K - (p.solver == DPMPP)) die("--%s %d: %s takes at most %d steps", listed ? "steps-per-block" : "sampling-steps", p.steps[i], opt.solver, K - (p.solver == DPMPP));
    }
    p.y = y, p.order = NEW(int, y.T), token_order(p.order, y, p.N, !is_video());
    return p;
}
static Sampler sampler_of(const Plan *p, int B, const int *label, uint64_t number) {
    Sampler s = sampler_create(&run.net, B, p->N, p->block, p->window, (uint64_t)opt.seed, number, p->y.D);
    s.solver = p->solver, s.guidance = p->guidance, s.context = p->context, s.recompute = opt.recompute, s.label = label, s.order = p->order;
    memcpy(s.steps, p->steps, sizeof s.steps);
    return s;
}

// Opens the checkpoint in --out. Ends the program if there is none.
static void open_run(void) {
    set_up();
    Path path = checkpoint_path();
    if (!exists(path.text)) die("%s: no checkpoint (./acdit train --out %s makes one)", path.text, opt.out);
    run.checkpoint = st_open(path.text);
    read_options(&run.checkpoint, path.text, " data seed batch ");
    run.plan = plan_create();
}
// The network of the checkpoint, dry or for real, with room for B pictures in its cache
static void load_network(int B) {
    int most = 0, H = run.plan.guidance > 1 ? 2 : 1;
    for (int i = 0; i < MOST_STEPS; i++) if (run.plan.steps[i] > most) most = run.plan.steps[i];
    run.net = net_create(net_config(run.plan.y.frames > clip_frames() ? run.plan.y.frames : clip_frames()), false, 0, B, cache_slots(run.plan.window, run.plan.block, run.plan.guidance), most * H * B);
    checkpoint_read(&run.checkpoint, checkpoint_path().text, &run.net.ps, "ema.", run.net.ps.data);
    params_pack(&run.net.ps);
}
// In a dry run: the largest step of the sampler
static void rehearse(int B) {
    int *label = NEW(int, B), k[2] = {K - 1, K / 2}, largest = opt.recompute ? run.plan.N - 1 : run.plan.N > 1;
    Sampler s = sampler_of(&run.plan, B, label, 0);
    sample_step(&s, largest, 0, k);
    sampler_free(&s), free(label);
}

// Makes n pictures of these labels (n) into picture (n, numbers), B side by side; after: called behind every step of the first batch, or NULL
static void make_pictures(real *picture, const int *label, int n, int B, void (*after)(Sampler *s, int i, int step, Tensor *x, Tensor *eps_label, Tensor *eps_null)) {
    Layout y = run.plan.y;
    size_t numbers = (size_t)numbers_of(y);
    double start = seconds();
    flops_counted = 0, pairs_counted = 0;
    tape.off = true;
    for (int at = 0; at < n; at += B) {
        int m = n - at < B ? n - at : B;
        Sampler s = sampler_of(&run.plan, m, label + at, (uint64_t)at);
        s.watch = at ? NULL : after;
        for (int i = 0; i < s.N; i++) {
            sample_block(&s, i);
            progress(at + m >= n && i == s.N - 1, "pictures %6d/%d | block %d/%d | %.1f s", at + m, n, i + 1, s.N, seconds() - start);
        }
        for (int b = 0; b < m; b++) from_tokens(picture + (size_t)(at + b) * numbers, s.x + (size_t)b * numbers, y, run.plan.order);
        run.passes += s.passes, run.made += m;
        sampler_free(&s);
    }
    tape.off = false;
    run.flops += flops_counted, run.seconds += seconds() - start;
}

// What is seen on the way: a strip of pictures of each of the first few, --frames, --watch
enum { STRIP_ROWS = 10, STRIP_COLUMNS = 17 };
static struct { Picture strip; int total, done, column, frames, rows; real *picture, *tokens; Animation animation; } way;
static void way_create(int n) {
    Layout y = run.plan.y;
    int edge = y.side * y.patch, zoom = zoom_of(edge), cell = edge * zoom + 1;
    way.rows = n < STRIP_ROWS ? n : STRIP_ROWS;
    for (int i = 0; i < run.plan.N; i++) way.total += steps_of(run.plan.steps, i);
    way.strip = picture_create(STRIP_COLUMNS * cell + 1, way.rows * cell + 1, 0xffffff);
    way.picture = NEW(real, numbers_of(y)), way.tokens = NEW(real, y.side * y.side * y.D);
    if (*opt.frames) make_directory(opt.frames);
    if (*opt.animate) way.animation = animation_open(opt.animate, (way.rows * (edge + 1) + 1) * 2*zoom, (edge + 2) * 2*zoom, 0.12);
}
static void along_the_way(Sampler *s, int i, int step, Tensor *x, Tensor *eps_label, Tensor *eps_null) {
    (void)x, (void)eps_label, (void)eps_null;
    if (dry) return;
    Layout y = run.plan.y;
    int edge = y.side * y.patch, zoom = zoom_of(edge), cell = edge * zoom + 1, frame = i * s->block / (y.side * y.side);
    size_t numbers = (size_t)numbers_of(y);
    way.done++;
    bool wanted = way.done == 1 || way.done * (STRIP_COLUMNS - 1) >= (way.column + 1) * way.total;
    if (wanted && way.done > 1) way.column++;
    bool moves = *opt.animate && (way.done % ((way.total + 49) / 50) == 0 || step == steps_of(s->steps, i) - 1);       // about 50 frames
    if (!wanted && !*opt.frames && !moves && !opt.watch) return;
    int first = frame * y.side * y.side, begun = (i + 1) * s->block - first;       // tokens of this frame that are not begun yet stay grey
    Picture still = *opt.frames ? picture_create(way.rows * cell + 1, cell + 1, 0xffffff) : (Picture){0}, moving = moves ? picture_create(way.rows * (edge + 1) + 1, edge + 2, 0xffffff) : (Picture){0};
    for (int b = 0; b < way.rows && b < s->B; b++) {
        memset(way.tokens, 0, (size_t)(y.side * y.side) * token_size(s));
        memcpy(way.tokens, s->x + (size_t)b * numbers + (size_t)(first * y.D), (size_t)(begun < y.side * y.side ? begun : y.side * y.side) * token_size(s));
        frame_from_tokens(way.picture, way.tokens, y, s->order + first);
        if (wanted && way.column < STRIP_COLUMNS) draw_frame(&way.strip, way.column * cell + 1, b * cell + 1, way.picture, y, frame, zoom);
        if (*opt.frames) draw_frame(&still, b * cell + 1, 1, way.picture, y, frame, zoom);
        if (moves) draw_frame(&moving, b * (edge + 1) + 1, 1, way.picture, y, frame, 1);
        if (!opt.watch || b || (!isatty(STDOUT_FILENO) && step < steps_of(s->steps, i) - 1)) continue;
        char above[64];
        snprintf(above, sizeof above, "block %d, step %d", i, step + 1);
        print_frame(way.picture, y, frame, above, way.done > 1);
    }
    if (moves) animation_picture(&way.animation, &moving, 2 * zoom);
    if (*opt.frames) {
        char name[64];
        snprintf(name, sizeof name, "%05d.png", way.frames++);
        picture_save(&still, path_in(opt.frames, name).text);
    }
    picture_free(&still), picture_free(&moving);
}
// At the end of its animation a video plays
static void play_videos(const real *picture) {
    Layout y = run.plan.y;
    int edge = y.side * y.patch;
    for (int t = 0; is_video() && t < y.frames; t++) {
        Picture p = picture_create(way.rows * (edge + 1) + 1, edge + 2, 0xffffff);
        for (int b = 0; b < way.rows; b++) draw_frame(&p, b * (edge + 1) + 1, 1, picture + (size_t)b * (size_t)numbers_of(y), y, t, 1);
        animation_picture(&way.animation, &p, 2 * zoom_of(edge)), picture_free(&p);
    }
}

// The sheet of what was made: pictures: a row for each class; videos: a row for each, at most 32 frames of it
static void save_sheet(const real *picture, int n, int classes, const char *path) {
    Layout y = run.plan.y;
    bool video = is_video();
    int edge = y.side * y.patch, zoom = zoom_of(edge), cell = edge * zoom + 1, every = (y.frames + 31) / 32, columns = video ? (y.frames + every - 1) / every : n / classes, rows = video ? n : classes;
    if (every > 1) printf("the sheet shows every %dth of %d frames\n", every, y.frames);
    if (columns > 64 || rows > 64) printf("the sheet shows the first %d columns and %d rows\n", columns < 64 ? columns : 64, rows < 64 ? rows : 64);
    if (columns > 64) columns = 64;
    if (rows > 64) rows = 64;
    Picture p = picture_create(columns * cell + 1, rows * cell + 1, 0xffffff);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            int which = video ? r % (n / classes) * classes + r / (n / classes) : c * classes + r;       // rows of one class stand together
            if (which < n) draw_frame(&p, c * cell + 1, r * cell + 1, picture + (size_t)which * (size_t)numbers_of(y), y, video ? c * every : 0, zoom);
        }
    picture_save(&p, path), picture_free(&p);
}

// Does not judge, and says why; ends the program if --classifier was asked for
__attribute__((format(printf, 2, 3))) static bool no_judge(SafeTensors *st, const char *format, ...) {
    va_list args;
    va_start(args, format);
    Line why = one_line(format, args);
    va_end(args);
    if (given("classifier")) die("%s", why.text);
    printf("pictures are not judged: %s\n", why.text);
    st_free(st);
    return false;
}
// The classifier in --classifier; false if there is none for these pictures
static bool judge_open(SafeTensors *st) {
    Path path = judge_path();
    if (is_video()) return false;
    if (!exists(path.text)) return no_judge(st, "%s is not there (./acdit classify --classifier %s makes it)", path.text, opt.classifier);
    *st = st_open(path.text);
    const char *what[] = {"edge", "channels", "classes"}, *program = st_meta(st, "program");
    int have[] = {opt.edge, opt.channels, opt.classes};
    if (!program || strcmp(program, program_name)) return no_judge(st, "%s: not a checkpoint of acdit", path.text);
    for (int i = 0; i < 3; i++) {
        const char *value = st_meta(st, what[i]);
        if (!value || strtol(value, NULL, 10) != have[i]) return no_judge(st, "%s: a classifier of pictures with %s=%s, not %d (./acdit classify --data FILE --classifier DIR makes another)", path.text, what[i], value ? value : "?", have[i]);
    }
    const char *names = st_meta(st, "names");
    if (names && strcmp(names, opt.names)) return no_judge(st, "%s: a classifier of %s, not of %s (./acdit classify --data FILE --classifier DIR makes another)", path.text, names, opt.names);
    return true;
}
static Judge judge_load(const SafeTensors *st) {
    Judge j = judge_create(false, opt.edge * opt.edge * opt.channels, opt.classes, 0);
    checkpoint_read(st, judge_path().text, &j.ps, "ema.", j.ps.data);
    return j;
}

// the labels of n pictures: each class in turn, or --class alone; returns how many classes
static int wanted_labels(int *label, int n, int classes) {
    int one = -1;
    if (*opt.class) {
        char *end;
        long number = strtol(opt.class, &end, 10);
        for (int c = 0; c < opt.classes; c++) if (!strcmp(class_name(c), opt.class) || (!*end && end != opt.class && number == c)) one = c;
        if (one < 0) die("--class %s: 0 to %d, or one of %s", opt.class, opt.classes - 1, opt.names);
        classes = 1;
    }
    for (int i = 0; label && i < n; i++) label[i] = one >= 0 ? one : i % classes;
    return classes;
}

// What the laws of motion tell of n videos, as key=value pairs; accuracy (classes)
static void print_videos(const real *picture, const int *label, int n, double *accuracy) {
    Layout y = run.plan.y;
    VideoSearch search = video_search_create(video_config());
    double error = 0, position = 0, velocity = 0, objects = 0;
    int *guessed = NEW(int, n);
    for (int i = 0; i < n; i++) {
        MotionScore m = motion_score(&search, picture + (size_t)i * (size_t)numbers_of(y), y.frames, label[i]);
        error += m.error / n, position += m.position_error / n, velocity += m.velocity / n, objects += m.objects / n, guessed[i] = m.guessed;
    }
    double right = accuracy_of(guessed, label, n, accuracy, opt.classes);
    printf(" class_accuracy=%.4f frame_error=%.4f position_error=%.4f velocity=%.4f objects=%.3f", right, error, position, velocity, objects);
    video_search_free(&search), free(guessed);
}

// --cost of sampling, for one picture: counted while they were made, and by the formulas of METHOD
static void print_sampling_cost(void) {
    const Plan *p = &run.plan;
    double C = opt.width, NL = opt.layers, L = p->y.T, H = p->guidance > 1 ? 2 : 1, steps = p->steps[0], rest, clean;
    bool same = true;
    for (int i = 0; i < p->N; i++) same = same && steps_of(p->steps, i) == steps;
    rest = flops_conditions(NL, C, run.net.c.freq, steps * H) + flops_ends(C, p->y.D, steps * H * L + L - p->block, steps * H * L);
    clean = flops_clean(NL, C, L, p->block);
    double counted = run.flops / run.made, noised = H * steps * NL * flops_sweep(C, L, p->block);
    printf("work for one picture of %.0f tokens in %d blocks, GFLOP: counted %.4f", L, p->N, counted * 1e-9);
    bool holds = same && p->window == p->N - 1 && !opt.recompute && p->context == CLEAN;
    if (holds)
        printf(" = %.4f by the paper's formula (%.0f sweeps) + %.4f clean tokens, once + %.4f modulation and both ends; the whole sequence at once: %.4f a sweep, saved by blocks: %.1f %%", noised * 1e-9,
               H * steps, clean * 1e-9, rest * 1e-9, NL * flops_full(C, L) * 1e-9, 100 * flops_saved(C, L, p->block));
    else printf(" (the formulas are for equal steps in all blocks, clean context, the cache and no more blocks than it holds)");
    printf("\ncost: blocks=%d counted=%.0f", p->N, counted);
    if (holds) printf(" formula=%.0f paper=%.0f", noised + clean + rest, noised);
    printf("\n");
}

static void limit_samples(int n) {
    double numbers = numbers_of(run.plan.y);
    if (n > 1 << 20 || n * numbers > 1e9) die("--samples %d: %d pictures of %.0f numbers are more than a million, or a billion numbers", opt.samples, n, numbers);
}
static int run_sample(int files, char **file) {
    (void)files, (void)file;
    open_run();
    int classes = wanted_labels(NULL, 0, opt.classes), n = opt.samples * classes, B = n < opt.batch ? n : opt.batch, *label = NEW(int, n), *guessed = NEW(int, n);
    wanted_labels(label, n, classes);
    Layout y = run.plan.y;
    size_t numbers = (size_t)numbers_of(y);
    limit_samples(n);
    print_configuration("sample", options);
    make_directory(opt.out);
    SafeTensors st = {0};
    Judge judge = {0};
    bool judged = judge_open(&st);
    real *picture = NEW(real, (size_t)n * numbers);
    double *features = NEW(double, (size_t)n * FEATURES), *accuracy = NEW(double, opt.classes);
    tape.off = true;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(true); else begin_dry_run();
        load_network(B);
        if (judged) judge = judge_load(&st);
        if (pass) break;
        rehearse(B);
        if (judged) judge_pictures(&judge, picture, PIECE < n ? PIECE : n, (int)numbers, features, guessed), params_free(&judge.ps);
        tape.off = true, net_free(&run.net);
    }
    way_create(B < classes ? B : classes);
    make_pictures(picture, label, n, B, along_the_way);
    if (*opt.animate) play_videos(picture), animation_close(&way.animation);
    Path sheet = path_in(opt.out, "sheet.png"), steps = path_in(opt.out, "steps.png"), table = path_in(opt.out, "classes.csv");
    save_sheet(picture, n, classes, sheet.text), picture_save(&way.strip, steps.text);
    printf("wrote %s (a row for each %s) and %s (the first %d, from noise on the left)\n", sheet.text, is_video() ? "video" : "class", steps.text, way.rows);
    if (opt.cost) print_sampling_cost();
    printf("sample: pictures=%d blocks=%d steps=%d passes=%ld gflop_per_picture=%.4f pictures_per_s=%.2f seconds=%.3f", n, run.plan.N, run.plan.steps[0], run.passes, run.flops / run.made * 1e-9,
           n / run.seconds, run.seconds);
    if (is_video()) print_videos(picture, label, n, accuracy);
    if (judged) {
        judge_pictures(&judge, picture, n, (int)numbers, features, guessed);
        printf(" class_accuracy=%.4f", accuracy_of(guessed, label, n, accuracy, opt.classes));
        params_free(&judge.ps), st_free(&st);
    }
    printf("\n");
    FILE *csv = fopen(table.text, "w");
    if (!csv) die("cannot write %s: %s", table.text, strerror(errno));
    fprintf(csv, "class,name,accuracy\n");
    for (int c = 0; c < classes; c++) fprintf(csv, "%d,%s,%.4f\n", label[c], class_name(label[c]), is_video() || judged ? accuracy[label[c]] : NAN);
    if (fclose(csv)) die("cannot write %s: %s", table.text, strerror(errno));
    free(picture), free(features), free(accuracy), free(label), free(guessed), free(way.picture), free(way.tokens), free(run.plan.order), picture_free(&way.strip), net_free(&run.net), st_free(&run.checkpoint);
    return 0;
}

// ---- what a context is worth ----
// Mean loss of every block on pictures that the network has not seen: with the true blocks before it, with another picture's, with none, and with blocks that the
// sampler made in their place, each from the true ones before it. A network sees such blocks when it samples and never saw them in training; what it loses by them is
// at most the difference to the true ones ("exposure"): a perfect network would lose something too, since another past has another future.
enum { TRUE_BLOCKS, OTHERS, NOTHING, MADE, SHOWN };
static const char *const shown_name[SHOWN] = {"true", "other", "none", "made"};

static int kinds_shown(void) { return run.plan.context == NOISED ? 1 : opt.exposure ? SHOWN : MADE; }

// The blocks 0..N-2 of pictures x (B,T,D) on the host, made anew
static void make_context(real *made, const real *x, const int *label, int B, uint64_t number) {
    const Plan *p = &run.plan;
    Sampler s = sampler_of(p, B, label, number);
    size_t block = (size_t)p->block * token_size(&s), all = (size_t)p->N * block;
    memcpy(made, x, (size_t)B * all);
    for (int i = 0; i + 1 < p->N; i++) {
        sample_block(&s, i);
        for (int b = 0; b < B; b++) {
            size_t at = (size_t)b * all + (size_t)i * block;
            memcpy((char *)made + at, (char *)s.x + at, block), memcpy((char *)s.x + at, (const char *)x + at, block);
        }
    }
    sampler_free(&s);
}
// Number i of so many pictures, evenly spread over the data, as tokens; returns its label
static int held_tokens(real *tokens, const Data *d, int i, int pictures, real *picture) {
    Rng r = rng((uint64_t)opt.seed, RNG_HELD, (uint64_t)i);
    int label = data_picture(d, (int)((long)i * d->count / pictures), &r, picture);
    to_tokens(tokens, picture, run.plan.y, run.plan.order);
    return label;
}
// loss (SHOWN, pictures, N)
static void block_losses(double *loss, const Data *d, int pictures, int B) {
    const Plan *p = &run.plan;
    Layout y = p->y;
    int N = p->N, block = p->block, numbers = numbers_of(y), *k = NEW(int, B*N), *label = NEW(int, B);
    real *x = NEW(real, B * numbers), *other = NEW(real, B * numbers), *made = NEW(real, B * numbers), *picture = NEW(real, numbers), *error = NEW(real, B * numbers);
    for (int at = 0; at < pictures; at += B) {
        int m = pictures - at < B ? pictures - at : B;
        Rng r = rng((uint64_t)opt.seed, RNG_EVAL, (uint64_t)at);
        for (int b = 0; b < m; b++) {
            held_tokens(other + b * numbers, d, (at + b + 1) % pictures, pictures, picture);
            label[b] = held_tokens(x + b * numbers, d, at + b, pictures, picture);
        }
        draw_levels(k, m, N, &r);
        if (kinds_shown() > MADE) make_context(made, x, label, m, (uint64_t)at);
        for (int shown = 0; shown < kinds_shown(); shown++) {
            begin_step();
            Tensor *noise = tensor(m, y.T, y.D, CONSTANT, "noise"), *clean = on_device(x, m, y.T, y.D, "x");
            Tensor *seen = shown == OTHERS ? on_device(other, m, y.T, y.D, "other") : shown == MADE ? on_device(made, m, y.T, y.D, "made") : clean;
            gaussian(noise->data, (uint64_t)opt.seed, stream_of(RNG_NOISE, (uint64_t)at), INFINITY, count(noise));
            Loss l = acdit_loss(&run.net, clean, seen, noise, k, label, p->order, N, shown == NOTHING ? NONE : p->context);
            download(error, l.error->data, (size_t)(m * numbers) * sizeof(real));
            for (int i = 0; i < m * numbers; i++) loss[((size_t)shown * (size_t)pictures + (size_t)(at + i / numbers)) * (size_t)N + (size_t)(i % numbers / (block * y.D))] += (double)error[i] / (block * y.D);
        }
        if (!dry) progress(at + m >= pictures, "losses of %6d/%d pictures", at + m, pictures);
    }
    free(k), free(label), free(x), free(other), free(made), free(picture), free(error);
}
// mean and its standard error of n numbers, `stride` apart; minus: those of b are taken away
static void mean_of(double *mean, double *error, const double *a, const double *b, int n, int stride) {
    double sum = 0, sum2 = 0;
    for (int i = 0; i < n; i++) { double v = a[(size_t)i * (size_t)stride] - (b ? b[(size_t)i * (size_t)stride] : 0); sum += v / n, sum2 += v * v / n; }
    *mean = sum, *error = n > 1 ? sqrt(fmax(0, sum2 - sum*sum) / (n - 1)) : NAN;
}
// The table of the losses, also as blocks.csv; returns the least number of standard errors by which the true context is better than another's, over all later blocks
static double print_losses(const double *loss, int pictures, const char *path) {
    int N = run.plan.N, shown = kinds_shown();
    size_t one = (size_t)pictures * (size_t)N;
    double least = INFINITY, mean, error, more, more_error;
    FILE *csv = fopen(path, "w");
    if (!csv) die("cannot write %s: %s", path, strerror(errno));
    fprintf(csv, "block");
    for (int s = 0; s < shown; s++) fprintf(csv, ",%s,%s_stderr,%s_more,%s_more_stderr", shown_name[s], shown_name[s], shown_name[s], shown_name[s]);
    printf("loss of each block when it sees the true blocks before it, another picture's, none%s; and by how much that is more than with the true ones (+- standard error)\n%5s", shown > MADE ? ", or blocks made in their place" : "", "block");
    for (int s = 0; s < shown; s++) printf("  %8s%s", shown_name[s], s ? "            more" : "");
    for (int i = 0; i < N; i++) {
        printf("\n%5d", i), fprintf(csv, "\n%d", i);
        for (int s = 0; s < shown; s++) {
            const double *l = loss + (size_t)s * one + i, *truth = loss + i;
            mean_of(&mean, &error, l, NULL, pictures, N), mean_of(&more, &more_error, l, truth, pictures, N);
            printf("  %8.5f", mean), fprintf(csv, ",%.6g,%.3g,%.6g,%.3g", mean, error, more, more_error);
            if (s) printf(" %7.5f +-%7.5f", more, more_error);
            if (s == OTHERS && i && !(more / more_error >= least)) least = more / more_error;
        }
    }
    printf("\n"), fprintf(csv, "\n");
    if (fclose(csv)) die("cannot write %s: %s", path, strerror(errno));
    return least;
}

// What true pictures would get in the place of the made ones: as many of the held ones, beside all of them. guessed (held)
static void print_yardstick(const double *features, const int *label, const int *guessed, int held, int n) {
    if (n > held / 2) n = held / 2;
    double *some = NEW(double, (size_t)n * FEATURES), *rest = NEW(double, (size_t)n * FEATURES), precise, recall;
    for (int i = 0; i < n; i++) {
        long at = (long)i * held / n, beside = at + held / n / 2;
        memcpy(some + (size_t)i * FEATURES, features + (size_t)at * FEATURES, FEATURES * sizeof(double)), memcpy(rest + (size_t)i * FEATURES, features + (size_t)beside * FEATURES, FEATURES * sizeof(double));
    }
    if (n > 3) {
        precision_recall(&precise, &recall, rest, n, some, n, FEATURES, 3);
        printf("true pictures in the place of made ones: frechet=%.4f class_accuracy=%.4f precision=%.4f recall=%.4f\n", frechet_distance(features, held, some, n, FEATURES), accuracy_of(guessed, label, held, NULL, opt.classes), precise, recall);
    }
    free(some), free(rest);
}

static int run_eval(int files, char **file) {
    (void)files, (void)file;
    open_run();
    Data data = data_open(true, true);
    Layout y = run.plan.y;
    if (opt.exposure && run.plan.context == NOISED) die("--exposure: a network of --context noised has no clean blocks to exchange");
    int classes = wanted_labels(NULL, 0, opt.classes), n = opt.samples * classes, B = n < opt.batch ? n : opt.batch, *label = NEW(int, n), N = run.plan.N, held = data.video ? 0 : data.count;
    size_t numbers = (size_t)numbers_of(y), more = (size_t)(n > held ? n : held);
    int *guessed = NEW(int, more), *held_label = NEW(int, held + 1);
    wanted_labels(label, n, classes);
    limit_samples(n);
    if (n < 4) die("--samples %d: %d pictures are too few to judge (4 at least)", opt.samples, n);
    print_configuration("eval", options);
    SafeTensors st = {0};
    Judge judge = {0};
    bool judged = judge_open(&st);
    real *picture = NEW(real, (size_t)n * numbers), *held_picture = judged ? all_pictures(&data, held_label) : NULL;
    double *features = NEW(double, (size_t)n * FEATURES), *held_features = NEW(double, (size_t)(held + 1) * FEATURES), *accuracy = NEW(double, opt.classes);
    double *loss = NEW(double, (size_t)SHOWN * (size_t)n * (size_t)N);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) end_dry_run(true); else begin_dry_run();
        tape.off = true;
        load_network(B);
        if (judged) judge = judge_load(&st);
        if (pass) break;
        rehearse(B);
        block_losses(loss, &data, B, B);
        if (judged) judge_pictures(&judge, held_picture, PIECE < held ? PIECE : held, (int)numbers, held_features, guessed), judge_pictures(&judge, picture, PIECE < n ? PIECE : n, (int)numbers, features, guessed), params_free(&judge.ps);
        memset(loss, 0, (size_t)SHOWN * (size_t)n * (size_t)N * sizeof(double));
        net_free(&run.net);
    }
    tape.off = true;
    block_losses(loss, &data, n, B);
    double sure = print_losses(loss, n, path_in(opt.out, "blocks.csv").text), mean, error, total = 0;
    for (int i = 0; i < N; i++) mean_of(&mean, &error, loss + i, NULL, n, N), total += mean / N;
    make_pictures(picture, label, n, B, NULL);
    double precise = 0, recall = 0, accurate = 0;
    if (judged) {
        judge_pictures(&judge, picture, n, (int)numbers, features, guessed);
        accurate = accuracy_of(guessed, label, n, NULL, opt.classes);
        judge_pictures(&judge, held_picture, held, (int)numbers, held_features, guessed);
        int some = n < 2000 ? n < held ? n : held : 2000 < held ? 2000 : held;         // as many of either kind, since more points have smaller balls
        double *spread = NEW(double, (size_t)some * FEATURES);
        for (int i = 0; i < some; i++) memcpy(spread + (size_t)i * FEATURES, held_features + (size_t)((long)i * held / some) * FEATURES, FEATURES * sizeof(double));
        precision_recall(&precise, &recall, spread, some, features, some, FEATURES, 3);
        free(spread);
        print_yardstick(held_features, held_label, guessed, held, n);
        params_free(&judge.ps), st_free(&st);
    }
    printf("eval: pictures=%d blocks=%d steps=%d loss=%.5f", n, N, run.plan.steps[0], total);
    if (N > 1 && run.plan.context == CLEAN) printf(" true_below_other=%.1f", sure);
    if (data.video) print_videos(picture, label, n, accuracy);
    if (judged) printf(" frechet=%.4f class_accuracy=%.4f precision=%.4f recall=%.4f", frechet_distance(held_features, held, features, n, FEATURES), accurate, precise, recall);
    printf(" pictures_per_s=%.2f seconds=%.1f\n", n / run.seconds, run.seconds);
    free(picture), free(held_picture), free(features), free(held_features), free(accuracy), free(loss), free(label), free(guessed), free(held_label), free(run.plan.order);
    net_free(&run.net), st_free(&run.checkpoint), data_free(&data);
    return 0;
}
