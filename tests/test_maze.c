// test_maze.c: mazes that are refused, free flight.
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

int main(int argc, char **argv) {
    if (argc < 2) { puts("usage: test_maze SCRATCH_DIRECTORY"); return 2; }
    test_refusals(argv[1]);
    test_any_text();
    test_layouts(argv[1]);
    test_free_flight();
    return finish("test_maze");
}
