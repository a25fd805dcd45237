// test_maze.c: mazes that are refused, free flight, walls that hold, the data of D4RL and its published moments, episodes counted by hand, policies.
#define TESTING
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

// die() ends in exit(): here it jumps back, with its line in said
static jmp_buf ended;
__attribute__((noreturn)) static void end(int status) { longjmp(ended, status + 1); }
#define exit end
#include "../data/maze.h"
#include "check.h"

static char said[1500];
static bool opens(Maze *m, const char *name) {
    FILE *kept = stderr;
    memset(said, 0, sizeof said);
    stderr = fmemopen(said, sizeof said - 1, "w");
    volatile bool good = false;
    if (!setjmp(ended)) maze_open(m, name), good = true;
    fclose(stderr);
    stderr = kept;
    return good;
}
static Maze open_maze(const char *name) {
    Maze m = {0};
    CHECK(opens(&m, name), "%s: %s", name, said);
    return m;
}

// ---- layouts ------------------------------------------------------------------------------------------------------------------

static void test_refusals(const char *dir) {
    static const struct { const char *text, *words; } bad[] = {
        {"", "needs a free cell"}, {"\n\n", "needs a free cell"}, {"###\n###\n###\n", "needs a free cell"},
        {"####\n#OO#\n###\n", "row 3 has 3 cells, row 1 has 4"}, {"####\\#OOO#\\####", "row 2 has 5 cells, row 1 has 4"}, {"\n###\n#O#\n###", "row 1 has 0 cells"}, {"###\n\n#O#\n###", "row 2 has 0 cells, row 1 has 3"},
        {"####\n#Ox#\n####", "row 2, column 3: 'x' (byte 120)"}, {"###\r\n#O#\r\n###", "row 1, column 4: '?' (byte 13)"}, {"###\n#\xc3\xa9#\n###", "row 2, column 2: '?' (byte 195)"},
        {"####\n#GG#\n####", "row 2, column 3: a maze has one goal"}, {"###\n#OO\n###", "row 2, column 3: a wall # is missing"}, {"#O#\n#O#\n###", "row 1, column 2: a wall # is missing"}, {"###\n#O#\n#G#", "row 3, column 2: a wall"}, {"O", "row 1, column 1: a wall"},
        {"#####\n#O#O#\n#####", "no path from cell (1,3) to cell (1,1)"}, {"#####\n#O###\n##O##\n#####", "no path from cell (2,2) to cell (1,1)"}};
    Maze m;
    Path path = path_in(dir, "maze.txt");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *error = maze_parse(&m, bad[i].text);
        CHECK(error && strstr(error, bad[i].words), "%s: '%s', not '%s'", bad[i].text, error ? error : "accepted", bad[i].words);
        FILE *f = fopen(path.text, "wb");
        fputs(bad[i].text, f), fclose(f);
        CHECK(!opens(&m, path.text) && strstr(said, "maze.txt: ") && strstr(said, bad[i].words) && strchr(said, '\n') == said + strlen(said) - 1, "%s: %s", bad[i].text, said);
    }
    CHECK(!opens(&m, "no such maze") && strstr(said, "there is no maze 'no such maze'"), "%s", said);
    for (int i = 0; i < MAZE_LAYOUTS; i++) CHECK(strstr(said, maze_layouts[i].name), "%s is not named in: %s", maze_layouts[i].name, said);
    CHECK(!opens(&m, dir) && strstr(said, "not a regular file"), "%s", said);
    FILE *f = fopen(path.text, "wb");
    fwrite("###\n#O#\n###\n\0x", 1, 14, f), fclose(f);
    CHECK(!opens(&m, path.text) && strstr(said, "a byte 0"), "%s", said);

    // the largest that fits, and one cell more; the longest way that is known, and one move more
    char text[4000];
    for (int length = 48; length <= 51; length++) {                     // a corridor of as many cells
        memset(text, '#', sizeof text);
        for (int y = 1; y <= length; y++) text[length + 3 + y] = 'O';
        text[length + 2] = text[2*length + 5] = '\n', text[3*length + 8] = 0;
        const char *error = maze_parse(&m, text);
        int way[100][2], n = error ? 0 : maze_path(&m, (int[2]){1, 1}, (int[2]){1, length}, way);
        CHECK(length < 50 ? !error && n == length - 1 : error && strstr(error, "in 48 moves"), "a corridor of %d: %s, %d moves", length, error ? error : "accepted", n);
    }
    for (int more = 0; more < 2; more++) {
        memset(text, '#', sizeof text), text[34] = 'O', text[1024 + more] = 0;
        for (int row = 1; row <= 32; row++) memmove(text + row*33, text + row*33 - 1, sizeof text - 33 - (size_t)row*33), text[row*33 - 1] = '\n';
        const char *error = maze_parse(&m, text);
        CHECK(more ? error && strstr(error, "row 33, column 1: a maze has at most 1024 cells") : !error && m.rows == 32 && m.columns == 32, "%d cells: %s", 1024 + more, error ? error : "accepted");
    }
}

// Any text is refused with a reason or is a maze: closed, its cells counted, ways from everywhere to everywhere
static void test_any_text(void) {
    Rng r = rng(1, RNG_EVAL, 0);
    int accepted = 0;
    for (int i = 0; i < 3000; i++) {
        char text[200] = {0};
        const char *base = maze_layouts[below(&r, MAZE_LAYOUTS)].rows;
        if (i % 4) strcpy(text, base); else for (int j = 0, n = below(&r, 60); j < n; j++) text[j] = "#OG\\\n#\0x"[below(&r, 8)];
        for (int change = 1 + below(&r, 3); change && *text; change--) text[below(&r, (int)strlen(text))] = "#OOG\n#"[below(&r, 6)];
        Maze m;
        if (maze_parse(&m, text)) continue;
        int free = 0, way[100][2];
        bool good = m.free > 0 && !is_wall(&m, m.goal[0], m.goal[1]);
        for (int s = 0; s < m.rows * m.columns; s++) free += m.cell[s] != '#';
        for (int s = 0; s < m.rows * m.columns; s++) {
            int start[2] = {s / m.columns, s % m.columns};
            if (!is_wall(&m, start[0], start[1])) good = good && maze_path(&m, start, m.goal, way) && maze_path(&m, m.goal, start, way);
        }
        CHECK(good && free == m.free, "text %d: %s", i, text);
        accepted++;
    }
    CHECK(accepted > 300, "%d accepted", accepted);
}

static void test_layouts(const char *dir) {
    static const struct { const char *name; int rows, columns, free, goal[2], steps; double low, high; } want[] = {
        {"umaze", 5, 5, 7, {1, 1}, 300, 23.85, 161.86}, {"medium", 8, 8, 26, {6, 6}, 600, 13.13, 277.39}, {"large", 9, 12, 46, {7, 9}, 800, 6.7, 273.99},
        {"umaze_eval", 5, 5, 7, {1, 3}, 300, 36.63, 141.4}, {"medium_eval", 8, 8, 26, {1, 6}, 600, 13.07, 204.93}, {"large_eval", 9, 12, 47, {1, 9}, 800, 16.4, 302.22}, {"open", 5, 7, 15, {2, 3}, 150, 0.01, 20.66}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        Maze m = open_maze(want[i].name);
        CHECK(m.rows == want[i].rows && m.columns == want[i].columns && m.free == want[i].free && m.goal[0] == want[i].goal[0] && m.goal[1] == want[i].goal[1] && m.steps == want[i].steps,
              "%s: %dx%d, %d free, goal (%d,%d), %d steps", want[i].name, m.rows, m.columns, m.free, m.goal[0], m.goal[1], m.steps);
        CHECK(m.have_score, "%s", want[i].name);
        CHECK_CLOSE(want[i].name, maze_score(&m, want[i].low), 0, 1e-12);
        CHECK_CLOSE(want[i].name, maze_score(&m, want[i].high), 100, 1e-12);
    }
    Maze m = open_maze("umaze");
    CHECK_CLOSE("score of 0", maze_score(&m, 0), -17.2813564, 1e-6);    // -23.85 / 138.01
    CHECK_CLOSE("score of 200", maze_score(&m, 200), 127.6356786, 1e-6);
    m = open_maze("small");
    CHECK(!m.have_score && isnan(maze_score(&m, 10)) && m.goal[0] == 1 && m.goal[1] == 1 && m.free == 10, "no goal: the first free cell, and no score");

    Path path = path_in(dir, "maze.txt");
    FILE *f = fopen(path.text, "wb");
    fputs("######\n#OOO##\n##OGO#\n######\n\n", f), fclose(f);
    m = open_maze(path.text);
    CHECK(m.rows == 4 && m.columns == 6 && m.free == 6 && m.goal[0] == 2 && m.goal[1] == 3 && !m.have_score && m.steps == 600, "a file");
}

// ---- physics ------------------------------------------------------------------------------------------------------------------

// from rest under full force along the open way of umaze, to numbers of D4RL's model worked out by hand: v' = v + h (100 a - D v) / (m + h D), x' = x + h v'
static void test_free_flight(void) {
    static const struct { int step; double v, x; } want[] = {{1, 0.23816384, 0.00238164}, {2, 0.47576046, 0.00713924}, {10, 2.35627493, 0.13005864}, {20, 4.65702955, 0.49268024}};
    Maze m = open_maze("umaze");
    for (int d = 0; d < 2; d++) {                       // row 3 is free from column 1 to 3, column 3 from row 1 to 3
        Ball b = {.q = {d ? 2.9 : 0.5, d ? 0.5 : 2.9}};
        double start = b.q[d], action[2] = {d ? 0 : 7, d ? 7 : 0};      // clipped to 1
        for (int i = 1, w = 0; i <= 30; i++) {
            CHECK(maze_step(&m, &b, action) == 0, "step %d touches a wall", i);
            if (w < 4 && i == want[w].step) {
                CHECK_CLOSE("v", b.v[d], want[w].v, 1e-8);
                CHECK_CLOSE("x", b.q[d] - start, want[w].x, 1e-8);
                w++;
            }
            if (i == 22) CHECK_CLOSE("v at step 22", b.v[d], 5.11063371, 1e-8);
            if (i >= 23) CHECK_CLOSE("v is clipped before a step, not after it", b.v[d], 5.22625565, 1e-8);
            CHECK(b.v[!d] == 0, "no force, no velocity");
        }
    }
}

// The centre stays 0.1 away from the walls' squares. Contacts are springs: under the hardest pushes it comes nearer, by 0.069 in four million steps.
static const double penetration = 0.075;
static double distance_to_walls(const Maze *m, const double q[2]) {
    double least = 1e9;
    for (int x = 0; x < m->rows; x++)
        for (int y = 0; y < m->columns; y++)
            if (is_wall(m, x, y)) least = fmin(least, hypot(q[0] - clamp(q[0], x - 0.7, x + 0.3), q[1] - clamp(q[1], y - 0.7, y + 0.3)));
    return least;
}
static void test_walls(void) {
    for (int layout = 0; layout < MAZE_LAYOUTS; layout++) {
        Maze m = open_maze(maze_layouts[layout].name);
        Rng r = rng(2, RNG_EVAL, (uint64_t)layout);
        Ball b = maze_reset(&m, &r);
        double action[2] = {0}, deepest = 0;
        int touched = 0;
        bool inside = true;
        for (int i = 0; i < 20000; i++) {
            if (uniform(&r) < 0.03) action[0] = 2 * (below(&r, 3) - 1), action[1] = 2 * (below(&r, 3) - 1);
            touched += maze_step(&m, &b, action) > 0;
            double depth = ball_radius - distance_to_walls(&m, b.q);
            deepest = depth <= deepest ? deepest : depth;               // a NaN stays
            inside = inside && !is_wall(&m, (int)floor(b.q[0] + 0.7), (int)floor(b.q[1] + 0.7));
        }
        CHECK(touched > 1000, "%s: %d steps with contact", maze_layouts[layout].name, touched);
        CHECK(inside && deepest > 0.01 && deepest <= penetration, "%s: %g too near to a wall", maze_layouts[layout].name, deepest);
    }
}

// ---- the data -----------------------------------------------------------------------------------------------------------------

typedef struct Data { int n; real *obs, *action; bool *done; } Data;
static Data data_of(const Maze *m, int n, uint64_t seed, double noise, bool stale) {
    Data d = {n, NEW(real, 4*n), NEW(real, 2*n), NEW(bool, n)};
    maze_dataset(m, n, seed, noise, stale, d.obs, d.action, d.done);
    return d;
}
static void data_free(Data *d) { free(d->obs), free(d->action), free(d->done); }

// Mean and standard deviation of each column, as the authors of Diffusion Forcing publish them for the data of D4RL (x, y, vx, vy, action). The standard error of
// the mean of n rows, which hang together, is that of 50 blocks; D4RL's own (of N rows) is added.
// (With millions of rows all agree to about 3 standard errors but one: the mean of x in large is 3.672, not 3.730, 4 standard errors of D4RL's rows.)
static void test_moments(void) {
    static const struct { const char *name; int N; double mean[6], std[6]; } want[] = {
        {"umaze",  1000000, {1.9327888, 2.3744664, 2.0562936e-4, -1.0198415e-3, .00153824, .00433588}, {.89972174, .7093159, 2.2128615, 2.468173, .7043469, .7506248}},
        {"medium", 2000000, {3.5092521, 3.4765592, 4.1014933e-5, 3.8480070e-5, .00123821, .00124745}, {1.3371079, 1.52102, 2.3407657, 2.3693702, .73977315, .7459419}},
        {"large",  4000000, {3.7296331, 5.3047247, 4.7289828e-5, 2.9168357e-5, .00100675, .00078245}, {1.8070312, 2.5687592, 2.4368455, 2.6493697, .72493, .7394606}}};
    enum { BLOCKS = 50, LENGTH = 10000 };
    for (int w = 0; w < 3; w++) {
        Maze m = open_maze(want[w].name);
        Data d = data_of(&m, BLOCKS * LENGTH, 1, 0.5, true);
        for (int c = 0; c < 6; c++) {
            double sum[BLOCKS] = {0}, square[BLOCKS] = {0}, mean = 0, variance = 0, error = 0, error2 = 0;
            for (int i = 0; i < d.n; i++) {
                double x = c < 4 ? d.obs[4*i + c] : d.action[2*i + c - 4], far = x - want[w].mean[c];
                sum[i / LENGTH] += far / LENGTH, square[i / LENGTH] += far * far / LENGTH;
            }
            for (int b = 0; b < BLOCKS; b++) mean += sum[b] / BLOCKS, variance += square[b] / BLOCKS;
            for (int b = 0; b < BLOCKS; b++) error += (sum[b] - mean) * (sum[b] - mean), error2 += (square[b] - variance) * (square[b] - variance);
            double part = sqrt((1 + (double)d.n / want[w].N) / BLOCKS / (BLOCKS - 1)), std = sqrt(variance - mean*mean);
            CHECK_CLOSE(want[w].name, mean, 0, 4 * part * sqrt(error));
            CHECK_CLOSE(want[w].name, std, want[w].std[c], 4 * part * sqrt(error2) / (2 * std));
            CHECK(part * sqrt(error) < 0.03 * std, "%s, column %d: the bound says little, %g", want[w].name, c, part * sqrt(error));
        }
        data_free(&d);
    }
}

// Every row follows from the one before: the ball under the recorded action. After a row that is done D4RL shows the same state once more.
static void test_walk(void) {
    Maze m = open_maze("medium");
    for (int stale = 0; stale < 2; stale++) {
        Data d = data_of(&m, 20000, 3, 0.2, stale);
        int ends = 0, since = 0, longest = 0;
        double worst = 0, nearest = 1, most = 0;
        bool at_cell = true, same = true;
        Ball b = {{0}, {0}};
        for (int i = 0; i < d.n; i++) {
            const real *o = d.obs + 4*i;
            if (stale && i && d.done[i - 1]) same = same && !memcmp(o, o - 4, 4 * sizeof *o);
            else {
                for (int j = 0; j < 2 && i; j++) { double off = fabs(o[j] - b.q[j]) + fabs(o[2 + j] - b.v[j]); worst = off <= worst ? worst : off; }
                b = (Ball){{o[0], o[1]}, {o[2], o[3]}};
            }
            maze_step(&m, &b, (const double[2]){d.action[2*i], d.action[2*i + 1]});
            nearest = fmin(nearest, distance_to_walls(&m, (const double[2]){o[0], o[1]}));
            most = fmax(most, fmax(fabs(d.action[2*i]), fabs(d.action[2*i + 1])));
            since++;
            if (d.done[i]) {
                at_cell = at_cell && hypot(o[0] - rint(o[0]), o[1] - rint(o[1])) < 0.1 + 1e-6;
                longest = since > longest ? since : longest, ends++, since = 0;
            }
        }
        CHECK_CLOSE("a row and what follows from the one before", worst, 0, 1e-4);      // float rounds the row, contacts are stiff
        CHECK(same && at_cell && ends > 50 && longest < m.steps, "stale %d: %d targets, the longest way has %d steps", stale, ends, longest);
        CHECK(most == 1 && nearest > ball_radius - penetration, "actions up to %g, %g from a wall", most, nearest);
        data_free(&d);
    }
    // the same seed, the same bits, however many steps; another seed, other data
    Data a = data_of(&m, 3000, 3, 0.2, true), b = data_of(&m, 2000, 3, 0.2, true), c = data_of(&m, 2000, 4, 0.2, true);
    CHECK(!memcmp(a.obs, b.obs, 8000 * sizeof(real)) && !memcmp(a.action, b.action, 4000 * sizeof(real)) && !memcmp(a.done, b.done, 2000), "the same seed");
    CHECK(b.obs[0] != c.obs[0] && memcmp(b.obs, c.obs, 8000 * sizeof(real)) && memcmp(b.action, c.action, 4000 * sizeof(real)), "another seed");
    data_free(&a), data_free(&b), data_free(&c);

    // A target that is not reached is given up after `steps` more steps (D4RL counts from 0), wherever the ball is then; the next one is reached all the same.
    m.steps = 60;
    a = data_of(&m, 20000, 5, 0.5, true);
    int since = 0, longest = 0, given_up = 0, reached = 0;
    for (int i = 0; i < a.n; i++) {
        since++;
        if (!a.done[i]) continue;
        longest = since > longest ? since : longest, given_up += since == 61, reached += since < 61, since = 0;
    }
    CHECK(longest == 61 && given_up > 200 && reached > 50, "longest %d, %d given up, %d reached", longest, given_up, reached);
    data_free(&a);
    Controller wall = {0};
    CHECK(controller_plan(&wall, &m, (const double[2]){0.45, 0.45}, (const double[2]){6, 6}, (const double[100][2]){{0}}) > 8, "a ball that rounds to a wall finds its way");
}

// ---- episodes -----------------------------------------------------------------------------------------------------------------

static void test_episodes(void) {
    Maze m = open_maze("umaze");
    static const struct { const char *what; double q[2], v[2]; int R, first_reach, if_stay; } way[] = {        // five steps without force; the goal is (1,1)
        {"at rest on the goal",      {1, 1},       {0},     5, 0, 5}, {"at rest 0.5 away",      {1, 1.5},     {0},     5, 0, 5}, {"at rest 0.51 away",   {1, 1.51}, {0}, 0, 5, 0},
        {"leaves after one step",    {1, 1.49},    {0, 1},  1, 0, 5}, {"arrives with the third", {1, 1.52},    {0, -1}, 3, 2, 3}, {"passes by",           {1, 1.52}, {0, 1}, 0, 5, 0}};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        Episode e = {.maze = &m, .ball = {{way[i].q[0], way[i].q[1]}, {way[i].v[0], way[i].v[1]}}, .target = {1, 1}};
        int sum = 0;
        for (int j = 0; j < 5; j++) sum += episode_step(&e, (const double[2]){0, 0});
        CHECK(e.steps == 5 && e.R == way[i].R && sum == e.R && e.first_reach == way[i].first_reach && e.if_stay == way[i].if_stay && e.hits == 0 && e.collisions == 0,
              "%s: R %d, first reach %d, if it stays %d, hits %d", way[i].what, e.R, e.first_reach, e.if_stay, e.hits);
    }

    // From x = 1.1 under full force: the wall holds from 1.2 on, contact begins 0.002 before it, and 0.0853 (8 steps) < 0.098 < 0.107 (9 steps): the tenth step touches.
    Episode e = {.maze = &m, .ball = {.q = {1.1, 1}}, .target = {1, 1}};
    for (int j = 0; j < 9; j++) episode_step(&e, (const double[2]){1, 0});
    CHECK(e.hits == 0 && e.collisions == 0, "%d hits", e.hits);
    episode_step(&e, (const double[2]){1, 0});
    CHECK(e.hits == 1 && e.collisions == 1, "%d hits, %d collisions", e.hits, e.collisions);
    int hits = 1, collisions = 1;
    bool before = true;
    for (int j = 0; j < 600; j++) {                     // to and fro, by the distance to the walls
        bool touches = distance_to_walls(&m, e.ball.q) < ball_radius + 0.002;
        hits += touches, collisions += touches && !before, before = touches;
        episode_step(&e, (const double[2]){j / 60 % 2 ? 1 : -1, 0});
    }
    CHECK(e.hits == hits && e.collisions == collisions && collisions > 8 && hits > 5 * collisions, "%d of %d hits, %d of %d collisions", e.hits, hits, e.collisions, collisions);

    // beginnings: every free cell as likely as the others, +- 0.1; velocity 0.1 N(0,1); the goal, or a place like the start
    Rng r = rng(4, RNG_EVAL, 0);
    int n = 70000, starts[MAZE_STATES] = {0}, targets[MAZE_STATES] = {0};
    double v[2] = {0}, far = 0, fourth = 0;
    for (int i = 0; i < n; i++) {
        Episode a = episode_begin(&m, i % 2, &r);
        for (int j = 0; j < 2; j++) {
            far = fmax(far, fmax(fabs(a.ball.q[j] - rint(a.ball.q[j])), fabs(a.target[j] - rint(a.target[j]))));
            v[0] += a.ball.v[j] / n / 2, v[1] += a.ball.v[j] * a.ball.v[j] / n / 2, fourth += a.ball.v[j] * a.ball.v[j] * a.ball.v[j] * a.ball.v[j] / n / 2;
        }
        if (i % 2 == 0) CHECK(a.target[0] == 1 && a.target[1] == 1, "one goal");
        else targets[cell_of(a.target[0])*m.columns + cell_of(a.target[1])]++;
        starts[cell_of(a.ball.q[0])*m.columns + cell_of(a.ball.q[1])]++;
    }
    for (int s = 0; s < m.rows * m.columns; s++) {
        double part = m.cell[s] == '#' ? 0 : 1.0 / m.free;
        CHECK_CLOSE("starts", (double)starts[s] / n, part, 5 * sqrt(part / n));
        CHECK_CLOSE("targets", 2.0 * targets[s] / n, part, 5 * sqrt(2 * part / n));
    }
    CHECK(far > 0.0999 && far <= 0.1 + 1e-12, "%g from a cell", far);
    CHECK_CLOSE("mean velocity", v[0], 0, 5 * 0.1 / sqrt(2*n));
    CHECK_CLOSE("its square", v[1], 0.01, 5 * 0.01 * sqrt(2.0 / (2*n)));
    CHECK_CLOSE("its fourth power", fourth, 3e-4, 5 * 1e-4 * sqrt(96.0 / (2*n)));
}

// ---- policies -----------------------------------------------------------------------------------------------------------------

static void test_policies(void) {
    Maze m = open_maze("umaze");
    Rng r = rng(6, RNG_EVAL, 0);
    double a[2];
    act_straight(a, (const double[2]){1, 1}, (const double[2]){0.25, -0.5}, (const double[2]){1.05, 1});
    CHECK_CLOSE("10 * 0.05 - 0.25", a[0], 0.25, 1e-12);
    CHECK_CLOSE("0.5", a[1], 0.5, 1e-12);
    const double plan[3][2] = {{1.02, 1}, {1.04, 1.01}, {9, -9}};
    act_follow(a, (const double[2]){1, 1}, (const double[2]){0.1, 0}, plan, 0);
    CHECK_CLOSE("12.5 * 0.02 + 1.2 * (0.02 - 0.1)", a[0], 0.154, 1e-12);
    CHECK_CLOSE("nothing to do", a[1], 0, 1e-12);
    act_follow(a, (const double[2]){1, 1}, (const double[2]){0.1, 0}, plan, 1);
    CHECK_CLOSE("12.5 * 0.04 + 1.2 * (0.02 - 0.1)", a[0], 0.404, 1e-12);
    CHECK_CLOSE("12.5 * 0.01 + 1.2 * 0.01", a[1], 0.137, 1e-12);
    act_follow(a, (const double[2]){1, 1}, (const double[2]){0, 0}, plan, 2);
    CHECK(a[0] == 1 && a[1] == -1, "clipped: %g %g", a[0], a[1]);

    // along row 3, which is free: straight to its end, and behind a plan that moves by 0.01 a step and then waits
    for (int follow = 0; follow < 2; follow++) {
        double line[500][2], behind = 0;
        for (int t = 0; t < 500; t++) line[t][0] = 2.9, line[t][1] = fmin(0.9 + 0.01*t, 2.9);
        Episode e = {.maze = &m, .ball = {.q = {2.8, 0.9}}, .target = {2.9, 2.9}};
        for (int t = 0; t < 500; t++) {
            if (follow) act_follow(a, e.ball.q, e.ball.v, (const double (*)[2])line, t); else act_straight(a, e.ball.q, e.ball.v, e.target);
            episode_step(&e, a);
            double off = distance2(e.ball.q, line[t]);
            behind = off <= behind ? behind : off;
        }
        CHECK_CLOSE("it stops at the end", distance2(e.ball.q, e.target) + hypot(e.ball.v[0], e.ball.v[1]), 0, 1e-9);
        CHECK(e.hits == 0 && e.R == e.if_stay && e.R > 250, "%d hits, R %d of %d", e.hits, e.R, e.if_stay);
        if (follow) CHECK(behind <= 0.12, "%g behind the plan", behind);       // 12.5 * 0.1 = 1.2 * (1 - 0.01) + damping
    }

    // from every cell to every other: the controller arrives, the straight way ends at a wall
    int slowest = 0;
    for (int s = 0; s < 25; s++)
        for (int t = 0; t < 25; t++) {
            if (m.cell[s] == '#' || m.cell[t] == '#') continue;
            Episode e = {.maze = &m, .ball = {.q = {s / 5, s % 5}}, .target = {t / 5 + 0.1, t % 5 - 0.1}};
            const double cell[2] = {t / 5, t % 5};
            Controller c = {0};
            int steps = 0;
            while (steps < 300 && !(distance2(e.ball.q, cell) < 0.1)) act_waypoints(a, &c, &m, &r, e.ball.q, e.ball.v, e.target), episode_step(&e, a), steps++;
            slowest = steps > slowest ? steps : slowest;
            for (int i = 0; i < 200; i++) act_waypoints(a, &c, &m, &r, e.ball.q, e.ball.v, e.target), episode_step(&e, a);
            CHECK(distance2(e.ball.q, cell) < 1e-6, "from (%d,%d) to (%d,%d): it does not stay", s / 5, s % 5, t / 5, t % 5);
        }
    CHECK(slowest <= 200, "%d steps", slowest);
    Episode e = {.maze = &m, .ball = {.q = {3, 1}}, .target = {1, 1}};
    for (int i = 0; i < 300; i++) act_straight(a, e.ball.q, e.ball.v, e.target), episode_step(&e, a);
    CHECK(e.R == 0 && e.hits > 250 && e.collisions < 20, "R %d, %d hits, %d collisions", e.R, e.hits, e.collisions);
}

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_maze SCRATCH_DIRECTORY"); return 2; }
    test_refusals(argv[1]);
    test_any_text();
    test_layouts(argv[1]);
    test_free_flight();
    test_walls();
    test_moments();
    test_walk();
    test_episodes();
    test_policies();
    return finish("test_maze");
}
