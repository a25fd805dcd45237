// test_check.c: proves that `check` can fail. For every golden file: zero any input or weight that is used and not zero already, or move one
// compared element by ten times its bound (integers and flags by one), and check must fail; the untouched file passes.
// Built once for each program: -DPROGRAM='"../df.c"'.
#define TESTING
#include PROGRAM
#include "check.h"

// The only inputs that a file's configuration makes meaningless: with clip_min = 1 everything is masked, whatever the uniforms are; with eta = 0 no noise
// is added; a way of one cell has no waypoint that could be moved; rewards and actions are not part of every token.
static bool unused(const SafeTensors *st, const StTensor *t) {
    const char *kind = st_meta(st, "kind"), *low = st_meta(st, "clip_min"), *eta = st_meta(st, "eta");
    return (!strcmp(kind, "bd3_noise") && strtod(low, NULL) >= 1 && !strcmp(t->name, "in.u_mask")) || (eta && strtod(eta, NULL) == 0 && !strcmp(t->name, "in.noise"))
        || (!strcmp(t->name, "in.rewards") && !strcmp(st_meta(st, "use_reward"), "0")) || (!strcmp(t->name, "in.actions") && !*st_meta(st, "action_mean"))
        || (!strcmp(kind, "df_waypoints") && !strncmp(t->name, "in.u_", 5) && t->shape[0] == 1);
}

// An element that the program rightly never computes: of acdit's layers the last clean block, and in the last layer all clean rows
static bool not_computed(const SafeTensors *st, const StTensor *t, size_t j) {
    if (strcmp(st_meta(st, "kind"), "acdit_loss_grad") || strncmp(t->name, "out.layer", 9)) return false;
    long tokens = (long)t->shape[1] / 2, row = (long)(j / t->shape[2]) % (2*tokens), block = strtol(st_meta(st, "block_size"), NULL, 10);
    bool last = strtol(t->name + 9, NULL, 10) == strtol(st_meta(st, "depth"), NULL, 10) - 1;
    return row < tokens && (row >= tokens - block || last);
}

static bool passes(const char *file, const SafeTensors *st) {
    Golden g = {.st = st, .file = file};
    check_golden(&g);
    return g.failed == 0 && g.passed > 0;
}

int main(int argc, char **argv) {
    int files = 0;
    FILE *report = stdout;
    stdout = fopen("/dev/null", "w");                    // the lines that check prints are not wanted here
    for (int f = 1; f < argc; f++, files++) {
        SafeTensors st = st_open(argv[f]);
        CHECK(passes(argv[f], &st), "%s fails", argv[f]);
        double tol = strtod(st_meta(&st, "tol"), NULL), tol_grad = st_meta(&st, "tol_grad") ? strtod(st_meta(&st, "tol_grad"), NULL) : 0;
        for (int i = 0; i < st.tensors; i++) {
            StTensor *t = &st.tensor[i];
            unsigned char *bytes = (unsigned char *)t->data, *old = allocate(t->to - t->from);
            memcpy(old, bytes, t->to - t->from);
            bool by_tensor = st_meta(&st, "rule") && !strcmp(st_meta(&st, "rule"), "tensor"), zero = true, grad = !strncmp(t->name, "grad.", 5);
            double largest = 0;
            for (size_t j = 0; j < t->count; j++) zero = zero && st_number(t, j) == 0, largest = fmax(largest, fabs(st_number(t, j)));
            if (strncmp(t->name, "out.", 4) && !grad) {
                if (!zero && !unused(&st, t)) {
                    memset(bytes, 0, t->to - t->from);
                    CHECK(!passes(argv[f], &st), "%s: %s zeroed, and check still passes", argv[f], t->name);
                }
            } else for (int where = 0; where < 3; where++) {         // first, middle, last element
                size_t j = where == 0 ? 0 : where == 1 ? t->count / 2 : t->count - 1;
                if (not_computed(&st, t, j)) continue;
                double want = st_number(t, j);
                double moved = want + 10 * (tol == 0 ? 1 : grad ? tol_grad * largest : tol * fmax(1, by_tensor ? largest : fabs(want)));
                float single = (float)moved;
                if (!strcmp(t->dtype, "F32")) memcpy(bytes + 4*j, &single, 4);
                else if (!strcmp(t->dtype, "F64")) memcpy(bytes + 8*j, &moved, 8);
                else if (!strcmp(t->dtype, "I32")) { int x = (int)want + 1; memcpy(bytes + 4*j, &x, 4); }
                else bytes[j] ^= 1;
                CHECK(!passes(argv[f], &st), "%s: %s[%zu] moved, and check still passes", argv[f], t->name, j);
                memcpy(bytes, old, t->to - t->from);
            }
            memcpy(bytes, old, t->to - t->from);
            free(old);
        }
        st_free(&st);
    }
    stdout = report;
    CHECK(files > 0, "no files");
    return finish("test_check");
}
