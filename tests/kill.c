// kill.c: kill SCRATCH TEXT KILLS IN_WRITE kills `./bd3lm train --save-every 1` with SIGKILL, KILLS times or more, at random instants, until IN_WRITE of them have fallen
// between the opening of the temporary file and its renaming. Proof of that: after the death the temporary file is there, and was changed by the run that died.
// After every kill the checkpoint is a whole one, of the step it had before or a later one, and the next run goes on from it; nothing but the one temporary
// file is ever left over. In the end a run in one piece gives the same file, byte for byte, so every one of them went on from the right numbers.
#include "../io.h"
#include "check.h"
#include <sys/wait.h>
#include "../kernels.h"

static const char *dir;                                 // the scratch directory
static Path checkpoint, part;

// ./bd3lm train in the background; steps 0: many. resume: from `out`, else a new one
static pid_t train(const char *out, const char *text, int steps, int every, bool resume) {
    char n[16], k[16];
    snprintf(n, sizeof n, "%d", steps);
    snprintf(k, sizeof k, "%d", every);
    char *fresh[] = {"./bd3lm", "train", "--data", (char *)text, "--vocab", "1500", "--layers", "2", "--width", "64", "--heads", "4", "--length", "16", "--batch", "1", "--dropout", "0.1",
                     "--threads", "1", "--force", "--out", (char *)out, "--steps", n, "--save-every", k, NULL};
    char *again[] = {"./bd3lm", "train", "--resume", "--threads", "1", "--out", (char *)out, "--steps", n, "--save-every", k, NULL};
    fflush(NULL);
    pid_t child = fork();
    if (child) return child;
    Path log = path_in(dir, "kill.log");
    if (!freopen(log.text, "w", stdout) || dup2(fileno(stdout), STDERR_FILENO) < 0) _exit(3);
    execv("./bd3lm", resume ? again : fresh);
    _exit(3);
}
static int finished(pid_t child) { int status; waitpid(child, &status, 0); return status; }

// the step of the checkpoint, -1 if there is none or it is not whole
static int step_of_checkpoint(void) {
    if (!exists(checkpoint.text)) return -1;
    size_t size;
    SafeTensors st;
    unsigned char *bytes = read_file(checkpoint.text, &size);
    const char *error = st_parse(&st, bytes, size);
    int step = error ? -1 : atoi(st_meta(&st, "step"));
    if (!error) { CHECK(st.tensors > 50 && st_find(&st, "vocab.merges"), "%d tensors", st.tensors); st_free(&st); }
    else CHECK(false, "the checkpoint is broken: %s", error);
    free(bytes);
    return step;
}

int main(int argc, char **argv) {
    if (argc != 5) { puts("usage: kill SCRATCH_DIRECTORY TEXT KILLS IN_WRITE"); return 2; }
    dir = argv[1];
    int kills = atoi(argv[3]), wanted = atoi(argv[4]), landed = 0, round = 0, step = -1, went_on = 0;
    Path out = path_in(dir, "killed"), whole = path_in(dir, "whole");
    checkpoint = path_in(out.text, "bd3lm.safetensors"), part = path_in(out.text, "bd3lm.safetensors.part");
    CHECK(!exists(out.text), "%s is there already", out.text);

    for (; round < kills || (landed < wanted && round < 4*kills); round++) {
        Philox random = philox(7, (uint64_t)round, 0);
        struct stat before = {0}, after;
        stat(part.text, &before);                        // what the last kill left over stays where it is
        pid_t child = train(out.text, argv[2], 1000000, 1, step >= 0);
        // the instant: every second kill shortly after a temporary file was seen to appear, the others at any time; the first ones may find no checkpoint yet
        bool aim = round % 2;
        double deadline = seconds() + 20;
        if (aim) {
            siginfo_t dead = {0};
            bool waiting = true;
            while (waiting && !dead.si_pid && seconds() < deadline) {
                struct stat now;                         // as the last kill left it, or not there
                waiting = stat(part.text, &now) || (now.st_mtim.tv_sec == before.st_mtim.tv_sec && now.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
                waitid(P_PID, (id_t)child, &dead, WEXITED | WNOHANG | WNOWAIT);
            }
            usleep(random.w[0] % 3000);
        } else usleep(random.w[0] % 400000);
        kill(child, SIGKILL);
        int status = finished(child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "round %d: the run ended by itself, status %x", round, status);

        landed += !stat(part.text, &after) && (after.st_mtim.tv_sec != before.st_mtim.tv_sec || after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
        int now = step_of_checkpoint();
        CHECK(now >= step, "round %d: the checkpoint went from step %d to %d", round, step, now);
        went_on += now > step;
        step = now;
    }
    CHECK(round >= kills && landed >= wanted, "%d kills, %d of them in a write", round, landed);
    CHECK(went_on > 0, "no run ever went on");

    // to the end, and the same in one piece
    CHECK(finished(train(out.text, argv[2], step + 2, 0, true)) == 0, "the last run fails");
    CHECK(finished(train(whole.text, argv[2], step + 2, 0, false)) == 0, "the run in one piece fails");
    size_t a_size, b_size;
    unsigned char *a = read_file(checkpoint.text, &a_size), *b = read_file(path_in(whole.text, "bd3lm.safetensors").text, &b_size);
    CHECK(a_size == b_size && !memcmp(a, b, a_size), "after %d kills the checkpoint differs from that of a run in one piece", round);
    CHECK(!exists(part.text), "a temporary file is left over");
    free(a), free(b);
    printf("%d kills, %d between opening and renaming, %d runs saved, step %d of %zu bytes\n", round, landed, went_on, step, a_size);
    return finish("kill");
}
