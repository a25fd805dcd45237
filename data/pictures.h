// pictures.h: pictures and videos as tokens, in blocks; and how they are shown: in a picture file, in a terminal.
//   Layout, token_order(), blocks_error()    which patch is which token of which block
//   to_tokens(), from_tokens()               there and back
//   draw_frame(), print_frame()              pixels for people
// Numbers of pictures go from -1 to 1.
#pragma once
#include "../common.h"

// frames of side x side patches, each patch x patch pixels of `channels` numbers. A picture lies in memory as (frames, channels, edge, edge).
typedef struct Layout { int frames, side, patch, channels, T, D; } Layout;
static Layout layout_of(int frames, int side, int patch, int channels) {
    return (Layout){frames, side, patch, channels, frames * side * side, channels * patch * patch};
}
static int numbers_of(Layout y) { return y.T * y.D; }

// Where each token of the sequence stands: (time * side + row) * side + column. square: blocks are squares of a grid, row by row, and so are the tokens of a block;
// otherwise time, rows and columns in turn. order (T)
static void token_order(int *order, Layout y, int N, bool square) {
    int block = y.T / N, s = (int)lrint(sqrt(block)), grid = y.side / s;
    for (int i = 0; i < y.T; i++) {
        int b = i / block, j = i % block;
        order[i] = square ? (b / grid * s + j / s) * y.side + b % grid * s + j % s : i;
    }
}
// can a picture be cut into N blocks like that? NULL, or why not
static const char *blocks_error(Layout y, int N, bool square) {
    int block = N > 0 && y.T % N == 0 ? y.T / N : 0, s = (int)lrint(sqrt(block)), spatial = y.side * y.side;
    if (!block) return "do not divide the tokens";
    if (square && (s * s != block || y.side % s)) return "are no grid of squares";
    if (!square && block % spatial && spatial % block) return "are neither whole frames nor equal parts of a frame";
    return NULL;
}
// Number d of the token at `place` is the number at this index of the picture: row in the patch, column in the patch, channel
static int picture_index(Layout y, int place, int d) {
    int edge = y.side * y.patch, frame = place / y.side / y.side, row = place / y.side % y.side * y.patch + d / y.channels / y.patch;
    int column = place % y.side * y.patch + d / y.channels % y.patch;
    return ((frame * y.channels + d % y.channels) * edge + row) * edge + column;
}
static void to_tokens(real *tokens, const real *picture, Layout y, const int *order) {
    for (int i = 0; i < numbers_of(y); i++) tokens[i] = picture[picture_index(y, order[i / y.D], i % y.D)];
}
static void from_tokens(real *picture, const real *tokens, Layout y, const int *order) {
    for (int i = 0; i < numbers_of(y); i++) picture[picture_index(y, order[i / y.D], i % y.D)] = tokens[i];
}
// the same for the tokens of one frame, which follow each other, and its part of the order
static void frame_from_tokens(real *picture, const real *tokens, Layout y, const int *order) {
    for (int i = 0; i < numbers_of(y) / y.frames; i++) picture[picture_index(y, order[i / y.D], i % y.D)] = tokens[i];
}

// One frame of a picture at (x0, y0), enlarged; -1 is black, 1 is white, NaN magenta
static void draw_frame(Picture *p, int x0, int y0, const real *picture, Layout y, int frame, int zoom) {
    int edge = y.side * y.patch;
    const real *f = picture + (size_t)frame * (size_t)(y.channels * edge * edge);
    for (int i = 0; i < edge * edge; i++) {
        unsigned color = 0;
        bool nan = false;
        for (int c = 0; c < 3; c++) {
            double v = (double)f[(y.channels == 3 ? c : 0) * edge * edge + i];
            nan = nan || isnan(v), color = color << 8 | (unsigned)lrint(127.5 * (fmin(fmax(nan ? 0 : v, -1), 1) + 1));
        }
        picture_box(p, x0 + i % edge * zoom, y0 + i / edge * zoom, x0 + (i % edge + 1) * zoom, y0 + (i / edge + 1) * zoom, nan ? 0xff00ff : color);
    }
}
static int zoom_of(int edge) { return edge >= 64 ? 1 : edge >= 24 ? 2 : 3; }

// The same in a terminal, two pixels in a character, over what stood there before (again); in a pipe by letters, one below the other. above: a line over it
static void print_frame(const real *picture, Layout y, int frame, const char *above, bool again) {
    int edge = y.side * y.patch;
    bool terminal = isatty(STDOUT_FILENO);
    const real *f = picture + (size_t)frame * (size_t)(y.channels * edge * edge);
    if (terminal && again) printf("\033[%dA", (edge + 1) / 2 + 1);
    printf("%s%s\n", terminal ? "\033[K" : "", above);
    for (int row = 0; row < edge; row += 2) {
        for (int x = 0; x < edge; x++) {
            int rgb[2][3];
            for (int h = 0; h < 2; h++) for (int c = 0; c < 3; c++) {
                int at = row + h < edge ? (row + h) * edge + x : row * edge + x;
                rgb[h][c] = (int)lrint(127.5 * (fmin(fmax((double)f[(y.channels == 3 ? c : 0) * edge * edge + at], -1), 1) + 1));
            }
            if (terminal) printf("\033[38;2;%d;%d;%dm\033[48;2;%d;%d;%dm\u2580", rgb[0][0], rgb[0][1], rgb[0][2], rgb[1][0], rgb[1][1], rgb[1][2]);
            else putchar(" .:-=+*#%@"[(rgb[0][1] + rgb[1][1]) * 10 / 512]);
        }
        printf(terminal ? "\033[0m\n" : "\n");
    }
    fflush(stdout);
    if (terminal) usleep(20000);
}
