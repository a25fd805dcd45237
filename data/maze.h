// maze.h: D4RL's maze2d without D4RL: layouts, a point mass that is pushed through them, the waypoint controller and the data that it makes, episodes and scores.
// Everything in double. Cell (x, y) is row x, column y of the layout; its middle stands at position (x - 0.2, y - 0.2): the walls of D4RL's physics are
// shifted against its cells, and so is the space that the ball has (papers: D4RL, Fu et al. 2020; numbers: golden kinds df_maze_physics, df_waypoints).
//   maze_open()      a layout of D4RL, or a file in ASCII: # wall, O free, G goal
//   maze_path()      cells from start to target, by value iteration
//   maze_step()      0.01 seconds of the ball under an action
//   controller_act() pushes the ball from waypoint to waypoint
//   maze_dataset()   D4RL's data: a long way from one random target to the next
//   episode_step()   one step of an evaluation: reward, return, first reach, contacts
//   act_straight(), act_waypoints(), act_follow()    policies without a network: position, velocity, target or plan -> action
#pragma once
#include "../common.h"      // brings: rng(), uniform(); through io.h: read_file(), die()
#include <math.h>

// ---- cells and paths ----------------------------------------------------------------------------------------------------------

enum { MOVES = 5, MAZE_STATES = 1024, ROUNDS = 50 };
typedef struct Maze {
    int rows, columns, free, goal[2];                   // free: cells that are no wall; goal: G or, as D4RL, the first free cell
    int steps;                                          // of an episode
    bool have_score;                                    // D4RL says which returns are 0 and 100; for a maze of one's own nobody does
    double score[2];
    char cell[MAZE_STATES];                             // (rows, columns), '#', 'O' or 'G'
} Maze;

static bool is_wall(const Maze *m, int x, int y) { return x < 0 || y < 0 || x >= m->rows || y >= m->columns || m->cell[x*m->columns + y] == '#'; }

// where a move from cell (x,y) leads: stay, y-1, y+1, x-1, x+1; walls stop it
static void maze_move(const Maze *m, int x, int y, int move, int to[2]) {
    static const int dx[MOVES] = {0, 0, 0, -1, 1}, dy[MOVES] = {0, -1, 1, 0, 0};
    bool stays = is_wall(m, x + dx[move], y + dy[move]);
    to[0] = stays ? x : x + dx[move], to[1] = stays ? y : y + dy[move];
}

// value (states, MOVES), state x + y*rows: 50 rounds of q[s,a] = [s is the target] + 0.99 max q[next(s,a)], from 0. So a cell that is further than 48 moves
// away hardly knows the way: staying there is worth 0.
static void maze_values(const Maze *m, const int target[2], double (*value)[MOVES]) {
    double best[MAZE_STATES] = {0};
    int states = m->rows * m->columns, next[MAZE_STATES][MOVES];
    for (int s = 0; s < states; s++)
        for (int a = 0; a < MOVES; a++) {
            int to[2];
            maze_move(m, s % m->rows, s / m->rows, a, to);
            next[s][a] = to[0] + to[1]*m->rows;
        }
    for (int round = 0; round < ROUNDS; round++) {
        for (int s = 0; s < states; s++)
            for (int a = 0; a < MOVES; a++) value[s][a] = (s == target[0] + target[1]*m->rows) + 0.99 * best[next[s][a]];
        for (int s = 0; s < states; s++) {
            best[s] = value[s][0];
            for (int a = 1; a < MOVES; a++) best[s] = fmax(best[s], value[s][a]);
        }
    }
}

// The cells after `start` on the way to `target`, that included; at most 100. Returns how many; 0 if there is no way, or one of them is a wall or outside.
static int maze_path(const Maze *m, const int start[2], const int target[2], int (*cell)[2]) {
    double value[MAZE_STATES][MOVES];
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

// ---- layouts ------------------------------------------------------------------------------------------------------------------

// steps of an episode and reference returns of D4RL's version 1; of open there is only version 0, of small none
static const struct { const char *name, *rows; int steps; double score[2]; } maze_layouts[] = {
    {"umaze",       "#####\\#GOO#\\###O#\\#OOO#\\#####", 300, {23.85, 161.86}},
    {"medium",      "########\\#OO##OO#\\#OO#OOO#\\##OOO###\\#OO#OOO#\\#O#OO#O#\\#OOO#OG#\\########", 600, {13.13, 277.39}},
    {"large",       "############\\#OOOO#OOOOO#\\#O##O#O#O#O#\\#OOOOOO#OOO#\\#O####O###O#\\#OO#O#OOOOO#\\##O#O#O#O###\\#OO#OOO#OGO#\\############", 800, {6.7, 273.99}},
    {"umaze_eval",  "#####\\#OOG#\\#O###\\#OOO#\\#####", 300, {36.63, 141.4}},
    {"medium_eval", "########\\#OOOOOG#\\#O#O##O#\\#OOOO#O#\\###OO###\\#OOOOOO#\\#OO##OO#\\########", 600, {13.07, 204.93}},
    {"large_eval",  "############\\#OO#OOO#OGO#\\##O###O#O#O#\\#OO#O#OOOOO#\\#O##O#OO##O#\\#OOOOOO#OOO#\\#O##O#O#O###\\#OOOO#OOOOO#\\############", 800, {16.4, 302.22}},
    {"open",        "#######\\#OOOOO#\\#OOGOO#\\#OOOOO#\\#######", 150, {0.01, 20.66}},
    {"small",       "######\\#OOOO#\\#O##O#\\#OOOO#\\######", 600, {0}},
};
enum { MAZE_LAYOUTS = sizeof maze_layouts / sizeof *maze_layouts };

// Rows end with a backslash or a newline. Returns NULL, or what is wrong (until the next call); rows and columns are then counted from 1, cells from (0,0).
#define WRONG(...) (snprintf(wrong, sizeof wrong, __VA_ARGS__), wrong)
static const char *maze_parse(Maze *m, const char *text) {
    static char wrong[200];
    *m = (Maze){.goal = {-1, -1}, .steps = 600};
    int n = 0;
    for (const char *end = text + strlen(text), *p = text; p < end; p++) {
        int row = m->rows + 1, column = 0;
        for (; *p && *p != '\\' && *p != '\n'; p++) {
            column++;
            if (!strchr("#OG", *p)) return WRONG("row %d, column %d: '%c' (byte %d); a maze consists of # (wall), O (free) and G (goal)", row, column, *p > 32 && *p < 127 ? *p : '?', (unsigned char)*p);
            if (n == MAZE_STATES) return WRONG("row %d, column %d: a maze has at most %d cells", row, column, MAZE_STATES);
            if (*p == 'G') {
                if (m->goal[0] >= 0) return WRONG("row %d, column %d: a maze has one goal G", row, column);
                m->goal[0] = m->rows, m->goal[1] = column - 1;
            }
            m->free += *p != '#', m->cell[n++] = *p;
        }
        if (!m->rows) m->columns = column;
        if (!column && strspn(p, "\\\n") == strlen(p)) break;           // nothing but ends of rows follows
        if (!column || column != m->columns) return WRONG("row %d has %d cells, row 1 has %d; the rows of a maze are equally long", row, column, m->columns);
        m->rows++;
    }
    if (!m->free) return "a maze needs a free cell O";
    for (int s = 0; s < n; s++) {
        int x = s / m->columns, y = s % m->columns;
        bool border = x == 0 || y == 0 || x == m->rows - 1 || y == m->columns - 1;
        if (border && !is_wall(m, x, y)) return WRONG("row %d, column %d: a wall # is missing; a maze is closed on all sides", x + 1, y + 1);
        if (m->goal[0] < 0 && !is_wall(m, x, y)) m->goal[0] = x, m->goal[1] = y;
    }
    for (int t = 0; t < n; t++) {                       // from everywhere to everywhere, as the controller finds it
        double value[MAZE_STATES][MOVES];
        int target[2] = {t % m->rows, t / m->rows};
        if (is_wall(m, target[0], target[1])) continue;
        maze_values(m, target, value);
        for (int s = 0; s < n; s++)
            if (value[s][0] == 0 && !is_wall(m, s % m->rows, s / m->rows))
                return WRONG("no path from cell (%d,%d) to cell (%d,%d) in %d moves", s % m->rows, s / m->rows, target[0], target[1], ROUNDS - 2);
    }
    return NULL;
}

// One of the layouts, or a file (episodes of 600 steps, no score); ends the program if it is neither.
static void maze_open(Maze *m, const char *name) {
    for (int i = 0; i < MAZE_LAYOUTS; i++) {
        if (strcmp(name, maze_layouts[i].name)) continue;
        maze_parse(m, maze_layouts[i].rows);
        m->steps = maze_layouts[i].steps, m->have_score = maze_layouts[i].score[1] > 0;
        memcpy(m->score, maze_layouts[i].score, sizeof m->score);
        return;
    }
    if (!exists(name)) die("there is no maze '%s': give a file, or umaze, medium, large, umaze_eval, medium_eval, large_eval, open or small", name);
    size_t size;
    char *text = (char *)read_file(name, &size);
    const char *error = strlen(text) == size ? maze_parse(m, text) : "a byte 0; a maze is a text of # (wall), O (free) and G (goal)";
    free(text);
    if (error) die("%s: %s", name, error);
}

// The score of a return, 100 (R - low) / (high - low); NaN without have_score
static double maze_score(const Maze *m, double R) { return m->have_score ? 100 * (R - m->score[0]) / (m->score[1] - m->score[0]) : NAN; }

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

// ---- the controller -----------------------------------------------------------------------------------------------------------

// The controller knows where it goes by cells: the way from the rounded position to the rounded target, each waypoint moved by up to 0.2 towards the middle
// of the space that the ball has, the last one not. It pushes like a spring and a damper towards the next waypoint.
typedef struct Controller { int target[2], n, next; double waypoint[100][2], previous[2]; bool planned; } Controller;
static int cell_of(double x) { return x > -1 && x < MAZE_STATES ? (int)rint(x) : -1; }         // -1: outside, or NaN
static double distance2(const double a[2], const double b[2]) { return hypot(a[0] - b[0], a[1] - b[1]); }

// Policies get position, velocity and target (2) and give action (2). This one pushes straight to the target, walls or not, like a spring and a damper.
static void act_straight(double action[2], const double position[2], const double velocity[2], const double target[2]) {
    for (int i = 0; i < 2; i++) action[i] = clamp(10 * (target[i] - position[i]) - velocity[i], -1, 1);
}
// Does this target need a new plan?
static bool controller_needs_plan(const Controller *c, const double target[2]) {
    return !c->planned || c->target[0] != cell_of(target[0]) || c->target[1] != cell_of(target[1]);
}
// u (100,2) uniform in [0,1): row i moves waypoint i. Returns the number of waypoints; 0: there is no way.
static int controller_plan(Controller *c, const Maze *m, const double position[2], const double target[2], const double (*u)[2]) {
    int start[2], cell[100][2];
    for (int i = 0; i < 2; i++) start[i] = cell_of(position[i]), c->target[i] = cell_of(target[i]);
    // A ball at the low side of its space rounds to a wall (where D4RL may find no way): then from the cell that has the space.
    if (is_wall(m, start[0], start[1])) for (int i = 0; i < 2; i++) start[i] = cell_of(position[i] + 0.2);
    for (int i = 0; i < 2; i++) c->previous[i] = start[i];
    c->n = maze_path(m, start, c->target, cell), c->next = 0, c->planned = true;
    for (int k = 0; k < c->n; k++) for (int i = 0; i < 2; i++) c->waypoint[k][i] = cell[k][i] - (k < c->n - 1 ? 0.2 * u[k][i] : 0);
    return c->n;
}
// action (2); true when the target cell is reached. (D4RL also asks that the ball moved less than 0.1 since the last call, which it always did.)
static bool controller_act(Controller *c, double action[2], const double position[2], const double velocity[2]) {
    double cell[2] = {c->target[0], c->target[1]};
    bool slow = distance2(c->previous, position) < 0.1, arrived = distance2(position, cell) < 0.1 && slow;
    const double *aim = arrived || c->next >= c->n ? cell : c->waypoint[c->next];
    act_straight(action, position, velocity, aim);
    if (!arrived && distance2(position, aim) < 0.1 && slow) c->next++;
    c->previous[0] = position[0], c->previous[1] = position[1];
    return arrived;
}

// a plan to this target, if it needs one, with its waypoints moved at random
static void controller_aim(Controller *c, const Maze *m, Rng *r, const double position[2], const double target[2]) {
    double u[100][2];
    if (!controller_needs_plan(c, target)) return;
    for (int k = 0; k < 100; k++) u[k][0] = uniform(r), u[k][1] = uniform(r);
    controller_plan(c, m, position, target, (const double (*)[2])u);
}

// ---- the data -----------------------------------------------------------------------------------------------------------------

// a position: any free cell, each as likely as the others, + U(-0.1, 0.1)
static void maze_place(const Maze *m, Rng *r, double position[2]) {
    int nth = below(r, m->free), s = 0;
    while (m->cell[s] == '#' || nth-- > 0) s++;
    position[0] = s / m->columns + 0.2*uniform(r) - 0.1, position[1] = s % m->columns + 0.2*uniform(r) - 0.1;
}
static Ball maze_reset(const Maze *m, Rng *r) {
    Ball b;
    maze_place(m, r, b.q);
    for (int i = 0; i < 2; i++) b.v[i] = 0.1 * normal(r);
    return b;
}

// The ball on its way from target to target. seen: what the controller sees; since: steps since the last target.
typedef struct Walk { Controller controller; Ball ball, seen; int since; } Walk;

// One step: obs (4) = x, y, vx, vy and action (2) as they are recorded. Returns whether the next target is due: this one is reached, or has had `most` steps and
// this one (D4RL counts so).
// stale: D4RL's script forgets to look at the ball after such a step, so that the next step sees, and records, the same state once more.
static bool walk_step(Walk *w, const Maze *m, const double noise[2], int most, bool stale, double obs[4], double action[2]) {
    bool done = controller_act(&w->controller, action, w->seen.q, w->seen.v) || w->since >= most;
    for (int i = 0; i < 2; i++) obs[i] = w->seen.q[i], obs[2 + i] = w->seen.v[i], action[i] = clamp(action[i] + noise[i], -1, 1);
    maze_step(m, &w->ball, action);
    w->since = done ? 0 : w->since + 1;
    if (!done || !stale) w->seen = w->ball;
    return done;
}

// D4RL's data, one long way. obs (steps,4), action (steps,2): in row i what was seen, and what was done then; done (steps): the last row before a new target.
// noise: standard deviation of what is added to the actions before they are clipped (0.5 fits the published moments of D4RL's data, 0 does not). stale as in walk_step(); D4RL: true.
static void maze_dataset(const Maze *m, int steps, uint64_t seed, double noise, bool stale, real *obs, real *action, bool *done) {
    Rng r = rng(seed, RNG_DATA, (uint64_t)1 << 48);     // no step of training counts that far
    Walk w = {.ball = maze_reset(m, &r)};
    double target[2];
    w.seen = w.ball;
    maze_place(m, &r, target);
    for (size_t i = 0; i < (size_t)steps; i++) {
        double o[4], a[2], extra[2] = {0};
        for (int j = 0; j < 2 && noise > 0; j++) extra[j] = noise * normal(&r);
        controller_aim(&w.controller, m, &r, w.seen.q, target);
        done[i] = walk_step(&w, m, extra, m->steps, stale, o, a);
        for (int j = 0; j < 4; j++) obs[4*i + j] = (real)o[j];
        for (int j = 0; j < 2; j++) action[2*i + j] = (real)a[j];
        if (done[i]) maze_place(m, &r, target);
    }
}

// ---- episodes -----------------------------------------------------------------------------------------------------------------

typedef struct Episode {
    const Maze *maze;
    Ball ball;
    double target[2];
    int steps, R;                                       // so far; R: the return, steps that ended within 0.5 of the target
    int first_reach, if_stay;                           // steps before the first of them (all steps: there is none yet), and from it on: R of a ball that stays
    int hits, collisions;                               // steps with contact, and how many of them had none before
    bool touches;
} Episode;

// multi: the target is a free cell + U(-0.1, 0.1) instead of the goal (Multi2D)
static Episode episode_begin(const Maze *m, bool multi, Rng *r) {
    Episode e = {.maze = m, .ball = maze_reset(m, r), .target = {m->goal[0], m->goal[1]}};
    if (multi) maze_place(m, r, e.target);
    return e;
}

// action (2), clipped to [-1,1]; returns the reward. An episode ends when e->steps == m->steps; whoever calls sees to that.
static int episode_step(Episode *e, const double action[2]) {
    bool touched = e->touches;
    e->touches = maze_step(e->maze, &e->ball, action) > 0;
    int reward = distance2(e->ball.q, e->target) <= 0.5;
    e->steps++, e->R += reward;
    if (e->R) e->if_stay++; else e->first_reach++;
    e->hits += e->touches, e->collisions += e->touches && !touched;
    return reward;
}

// The controller as a policy. c: {0} at the beginning of an episode
static void act_waypoints(double action[2], Controller *c, const Maze *m, Rng *r, const double position[2], const double velocity[2], const double target[2]) {
    controller_aim(c, m, r, position, target);
    controller_act(c, action, position, velocity);
}

// Along a plan of positions (T,2), of which step t is due; a plan begins at t = 0 where the ball is.
//     u = 12.5 (plan_t - position) + 1.2 ((plan_t - plan_{t-1}) - velocity)                                   (official code, branch main)
static void act_follow(double action[2], const double position[2], const double velocity[2], const double (*plan)[2], int t) {
    for (int i = 0; i < 2; i++) {
        double before = t ? plan[t - 1][i] : position[i];
        action[i] = clamp(12.5 * (plan[t][i] - position[i]) + 1.2 * (plan[t][i] - before - velocity[i]), -1, 1);
    }
}
