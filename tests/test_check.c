// test_check.c: proves that `check` can fail. For every golden file: zero any input or weight that is used and not zero already, or move one
// compared element by ten times its bound (integers and flags by one), and check must fail; the untouched file passes.
#define TESTING
#include "../bd3lm.c"
#include "check.h"

// The only inputs that a file's configuration makes meaningless: with clip_min = 1 everything is masked, whatever the uniforms are.
static bool unused(const SafeTensors *st, const char *name) {
    const char *kind = st_meta(st, "kind"), *low = st_meta(st, "clip_min");
    return !strcmp(kind, "bd3_noise") && strtod(low, NULL) >= 1 && (!strcmp(name, "in.u_mask"));
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
            bool zero = true, grad = !strncmp(t->name, "grad.", 5);
            double largest = 0;
            for (size_t j = 0; j < t->count; j++) zero = zero && st_number(t, j) == 0, largest = fmax(largest, fabs(st_number(t, j)));
            if (strncmp(t->name, "out.", 4) && !grad) {
                if (!zero && !unused(&st, t->name)) {
                    memset(bytes, 0, t->to - t->from);
                    CHECK(!passes(argv[f], &st), "%s: %s zeroed, and check still passes", argv[f], t->name);
                }
            } else for (int where = 0; where < 3; where++) {         // first, middle, last element
                size_t j = where == 0 ? 0 : where == 1 ? t->count / 2 : t->count - 1;
                double want = st_number(t, j);
                if (!strcmp(t->dtype, "F32")) { float x = (float)(want + 10 * (grad ? tol_grad * largest : tol * fmax(1, fabs(want)))); memcpy(bytes + 4*j, &x, 4); }
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
