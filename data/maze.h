// maze.h: D4RL's maze2d without D4RL: layouts, a point mass that is pushed through them, and the waypoint controller that makes the data.
// Everything in double. Cell (x, y) is row x, column y of the layout; its middle stands at position (x - 0.2, y - 0.2): the walls of D4RL's physics are
// shifted against its cells, and so is the space that the ball has (papers: D4RL, Fu et al. 2020; numbers: golden kinds df_maze_physics, df_waypoints).
//   maze_parse()     a layout in ASCII: # wall, O free, G goal
//   maze_step()      0.01 seconds of the ball under an action
//   maze_path()      cells from start to target, by value iteration
//   controller_act() pushes the ball from waypoint to waypoint
#pragma once
#include "../io.h"
#include <math.h>

typedef struct Maze {
    int rows, columns, free, goal[2];                   // free: cells that are no wall; goal -1: none
    char cell[1024];                                    // (rows, columns), '#', 'O' or 'G'
} Maze;
static const char *const maze_layouts[][2] = {
    {"umaze", "#####\\#GOO#\\###O#\\#OOO#\\#####"},
    {"medium", "########\\#OO##OO#\\#OO#OOO#\\##OOO###\\#OO#OOO#\\#O#OO#O#\\#OOO#OG#\\########"},
    {"large", "############\\#OOOO#OOOOO#\\#O##O#O#O#O#\\#OOOOOO#OOO#\\#O####O###O#\\#OO#O#OOOOO#\\##O#O#O#O###\\#OO#OOO#OGO#\\############"},
};

static bool is_wall(const Maze *m, int x, int y) { return x < 0 || y < 0 || x >= m->rows || y >= m->columns || m->cell[x*m->columns + y] == '#'; }

// Rows end with a backslash or a newline. Returns NULL, or what is wrong.
static const char *maze_parse(Maze *m, const char *text) {
    *m = (Maze){.goal = {-1, -1}};
    int n = 0, width = 0;
    for (const char *p = text;; p++) {
        bool end = !*p || *p == '\\' || *p == '\n';
        if (!end) {
            if (!strchr("#OG", *p)) return "a maze consists of # (wall), O (free) and G (goal)";
            if (n == (int)sizeof m->cell) return "a maze has at most 1024 cells";
            if (*p == 'G') {
                if (m->goal[0] >= 0) return "a maze has one goal G";
                m->goal[0] = m->rows, m->goal[1] = width;
            }
            m->free += *p != '#', m->cell[n++] = *p, width++;
            continue;
        }
        if (width) {
            if (m->rows && width != m->columns) return "the rows of a maze are equally long";
            m->rows++, m->columns = width, width = 0;
        }
        if (!*p) break;
    }
    if (!m->free) return "a maze needs a free cell";
    for (int x = 0; x < m->rows; x++)
        for (int y = 0; y < m->columns; y++)
            if ((x == 0 || y == 0 || x == m->rows - 1 || y == m->columns - 1) && !is_wall(m, x, y)) return "a maze is closed by walls on all sides";
    return NULL;
}

// ---- physics ------------------------------------------------------------------------------------------------------------------
// A ball of radius 0.1 on two sliding joints with damping; motors push with up to 100 N. MuJoCo's rules (2.x): semi-implicit Euler, damping implicit, contacts
// that are springs and dampers of the walls' squares, as forces that may only push.

typedef struct Ball { double q[2], v[2]; } Ball;        // position and velocity
static const double ball_radius = 0.1, ball_mass = 4.0 / 3 * 3.14159265358979323846 * 0.1 * 0.1 * 0.1 * 1000, time_step = 0.01, ball_damping = 1, motor = 100;
static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

// One step under an action in [-1,1]^2, clipped; returns the number of contacts with walls.
static int maze_step(const Maze *m, Ball *b, const double action[2]) {
    enum { MOST = 16 };
    const double margin = 0.002, stiff = 1 / (0.95*0.02 * 0.95*0.02), damp = 2 / (0.95*0.02);
    double f[2], n[MOST][2], bias[MOST], soft[MOST], push[MOST] = {0};
    int contacts = 0;
    for (int i = 0; i < 2; i++) b->v[i] = clamp(b->v[i], -5, 5), f[i] = motor * clamp(action[i], -1, 1) - ball_damping * b->v[i];

    // pass 1: which walls are near, how far, in which direction
    int x0 = (int)floor(fmin(fmax(b->q[0] + 0.2, -9), 9999)), y0 = (int)floor(fmin(fmax(b->q[1] + 0.2, -9), 9999));    // wherever it is, NaN included
    for (int x = x0 - 1; x <= x0 + 2; x++)
        for (int y = y0 - 1; y <= y0 + 2; y++) {
            if (!is_wall(m, x, y) || x < 0 || y < 0 || x >= m->rows || y >= m->columns) continue;
            double d[2] = {b->q[0] - clamp(b->q[0], x - 0.7, x + 0.3), b->q[1] - clamp(b->q[1], y - 0.7, y + 0.3)};
            double distance = hypot(d[0], d[1]), gap = distance - ball_radius;
            if (!(gap < margin) || distance == 0) continue;
            double r = gap - margin, depth = fmin(fabs(r) / 0.001, 1);
            double impedance = 0.9 + 0.05 * (depth <= 0.5 ? 2*depth*depth : 1 - 2*(1 - depth)*(1 - depth));
            int i = contacts++;
            n[i][0] = d[0] / distance, n[i][1] = d[1] / distance;
            soft[i] = (1 - impedance) / impedance * 2 / (3 * ball_mass);
            bias[i] = (n[i][0]*f[0] + n[i][1]*f[1]) / ball_mass + damp * (n[i][0]*b->v[0] + n[i][1]*b->v[1]) + stiff * impedance * r;
        }

    // pass 2: the forces that minimise 1/2 p A p + bias p over p >= 0, A_ij = n_i.n_j / mass + [i = j] soft_i, one after the other until none changes
    for (int sweep = 0; sweep < 10000; sweep++) {
        double change = 0;
        for (int i = 0; i < contacts; i++) {
            double slope = bias[i] + soft[i] * push[i], was = push[i];
            for (int j = 0; j < contacts; j++) slope += (n[i][0]*n[j][0] + n[i][1]*n[j][1]) / ball_mass * push[j];
            push[i] = fmax(0, was - slope / (1 / ball_mass + soft[i]));
            change = fmax(change, fabs(push[i] - was));
        }
        if (change <= 1e-12) break;
    }

    // pass 3: velocity, then position with the new velocity
    for (int i = 0; i < contacts; i++) f[0] += push[i] * n[i][0], f[1] += push[i] * n[i][1];
    for (int i = 0; i < 2; i++) b->v[i] += time_step * f[i] / (ball_mass + time_step * ball_damping), b->q[i] += time_step * b->v[i];
    return contacts;
}

// ---- paths and the controller -------------------------------------------------------------------------------------------------

enum { MOVES = 5, MAZE_STATES = 1024 };
// where a move from cell (x,y) leads: stay, y-1, y+1, x-1, x+1; walls stop it
static void maze_move(const Maze *m, int x, int y, int move, int to[2]) {
    static const int dx[MOVES] = {0, 0, 0, -1, 1}, dy[MOVES] = {0, -1, 1, 0, 0};
    bool stays = is_wall(m, x + dx[move], y + dy[move]);
    to[0] = stays ? x : x + dx[move], to[1] = stays ? y : y + dy[move];
}

// value (states, MOVES), state x + y*rows: 50 rounds of q[s,a] = [s is the target] + 0.99 max q[next(s,a)], from 0
static void maze_values(const Maze *m, const int target[2], double (*value)[MOVES]) {
    double best[MAZE_STATES] = {0};
    int states = m->rows * m->columns;
    for (int round = 0; round < 50; round++) {
        for (int s = 0; s < states; s++)
            for (int a = 0; a < MOVES; a++) {
                int x = s % m->rows, y = s / m->rows, to[2];
                maze_move(m, x, y, a, to);
                value[s][a] = (x == target[0] && y == target[1]) + 0.99 * best[to[0] + to[1]*m->rows];
            }
        for (int s = 0; s < states; s++) {
            best[s] = value[s][0];
            for (int a = 1; a < MOVES; a++) best[s] = fmax(best[s], value[s][a]);
        }
    }
}

// The cells after `start` on the way to `target`, that included; at most 100. Returns how many; 0 if there is no way, or one of them is a wall or outside.
static int maze_path(const Maze *m, const int start[2], const int target[2], int (*cell)[2]) {
    static double value[MAZE_STATES][MOVES];
    if (is_wall(m, start[0], start[1]) || is_wall(m, target[0], target[1])) return 0;
    maze_values(m, target, value);
    int at[2] = {start[0], start[1]}, n = 0;
    while (n < 100) {
        const double *q = value[at[0] + at[1]*m->rows];
        int move = 0;
        for (int a = 1; a < MOVES; a++) if (q[a] > q[move]) move = a;
        int to[2];
        maze_move(m, at[0], at[1], move, to);
        at[0] = cell[n][0] = to[0], at[1] = cell[n][1] = to[1], n++;
        if (at[0] == target[0] && at[1] == target[1]) return n;
    }
    return 0;
}

// The controller knows where it goes by cells: the way from the rounded position to the rounded target, each waypoint moved by up to 0.2 towards the middle
// of the space that the ball has, the last one not. It pushes like a spring and a damper towards the next waypoint.
typedef struct Controller { int target[2], n, next; double waypoint[100][2], previous[2]; bool planned; } Controller;
static int cell_of(double x) { return x > -1 && x < MAZE_STATES ? (int)rint(x) : -1; }         // -1: outside, or NaN
static double distance2(const double a[2], const double b[2]) { return hypot(a[0] - b[0], a[1] - b[1]); }

// Does this target need a new plan?
static bool controller_needs_plan(const Controller *c, const double target[2]) {
    return !c->planned || c->target[0] != cell_of(target[0]) || c->target[1] != cell_of(target[1]);
}
// u (100,2) uniform in [0,1): row i moves waypoint i. Returns the number of waypoints; 0: there is no way.
static int controller_plan(Controller *c, const Maze *m, const double position[2], const double target[2], const double (*u)[2]) {
    int start[2], cell[100][2];
    for (int i = 0; i < 2; i++) start[i] = cell_of(position[i]), c->target[i] = cell_of(target[i]), c->previous[i] = start[i];
    c->n = maze_path(m, start, c->target, cell), c->next = 0, c->planned = true;
    for (int k = 0; k < c->n; k++) for (int i = 0; i < 2; i++) c->waypoint[k][i] = cell[k][i] - (k < c->n - 1 ? 0.2 * u[k][i] : 0);
    return c->n;
}
// action (2); true when the target cell is reached. (D4RL also asks that the ball moved less than 0.1 since the last call, which it always did.)
static bool controller_act(Controller *c, double action[2], const double position[2], const double velocity[2]) {
    double cell[2] = {c->target[0], c->target[1]};
    bool slow = distance2(c->previous, position) < 0.1, arrived = distance2(position, cell) < 0.1 && slow;
    const double *aim = arrived || c->next >= c->n ? cell : c->waypoint[c->next];
    for (int i = 0; i < 2; i++) action[i] = clamp(10 * (aim[i] - position[i]) - velocity[i], -1, 1);
    if (!arrived && distance2(position, aim) < 0.1 && slow) c->next++;
    c->previous[0] = position[0], c->previous[1] = position[1];
    return arrived;
}
