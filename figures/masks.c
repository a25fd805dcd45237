// masks.c: who sees whom in the doubled or single sequence of a program, from the function that its network uses. Built once for each program by figures/masks.sh:
// -DPROGRAM='"../df.c"' -DWHICH=2. Prints one line a row: # where it sees the key of that column, . where not; then a blank line and a line of noise levels.
#define TESTING
#include PROGRAM

int main(void) {
    enum { T = 6, BLOCK = 2 };
    int rows = WHICH == 1 ? 2*T : WHICH == 2 ? T : 2*T - BLOCK, levels = WHICH == 2 ? T : T / BLOCK;
    for (int i = 0; i < rows; i++) {
#if WHICH == 1
        Span s = attends(i, T, BLOCK);                  // [noisy | clean]
#elif WHICH == 2
        Span s = attends(i, T, 1, 0, true, false);      // one sequence, causal
#else
        Span s = attends(i, T - BLOCK, BLOCK);          // [clean without its last block | noised]
#endif
        for (int j = 0; j < rows; j++) putchar((j >= s.lo[0] && j < s.hi[0]) || (j >= s.lo[1] && j < s.hi[1]) ? '#' : '.');
        putchar('\n');
    }
    putchar('\n');
    Rng r = rng(2 + WHICH, RNG_LEVEL, 0);
#if WHICH == 1
    double tau[T], u[T];
    for (int i = 0; i < levels; i++) u[i] = uniform(&r);
    draw_levels(tau, u, 1, levels, 0, 1, true);
    for (int i = 0; i < levels; i++) printf("%.2f ", tau[i]);
#elif WHICH == 2
    int k[T];
    draw_levels(k, INDEPENDENT, 1, levels, 1000, &r);
    for (int i = 0; i < levels; i++) printf(WHICH == 2 ? "%.1f " : "%.2f ", k[i] / 999.0);
#else
    int k[T];
    draw_levels(k, 1, levels, &r);
    for (int i = 0; i < levels; i++) printf(WHICH == 2 ? "%.1f " : "%.2f ", k[i] / 999.0);
#endif
    putchar('\n');
    return 0;
}
