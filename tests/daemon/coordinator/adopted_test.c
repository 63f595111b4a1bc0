/* A job's orphans are ended and reaped with it; the statuses of other children stay for whoever waits for them. */
#include "daemon/coordinator/adopted.h"
#include "daemon/coordinator/supervisor.h"
#include "tests/testlib.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE ((px_time_us)20000000)

static daemon_job job;
static char said[256];                      /* where the job writes the pids of what it starts */

static void spawn(const char *script)
{
    char line[1024];
    px_err e = {0};

    snprintf(said, sizeof said, "%s/pids", test_tmpdir());
    unlink(said);
    snprintf(line, sizeof line, "to='%s'; exec >\"$to\"; %s", said, script);
    const char *const arg[] = { "-c", line, NULL };
    daemon_job_args args = { .rank_program = "/bin/sh", .ranks = 1, .threads = 1, .rank_arg = arg, .dir = test_tmpdir() };
    assert_int_equal(daemon_job_spawn(&job, &args, &e), PX_OK);
}

/* The job's own end is its shell's, whatever ends beside it. */
static void ends_with(const char *expected)
{
    char how[64] = "";
    siginfo_t info;

    assert_int_equal(waitid(P_PID, (id_t)job.pid, &info, WEXITED | WNOWAIT), 0);
    assert_true(daemon_job_ended(&job, how, sizeof how));
    assert_string_equal(how, expected);
    assert_true(!job.pid);
}

static size_t pids(pid_t *pid, size_t cap)
{
    FILE *f = fopen(said, "r");
    size_t n = 0;

    assert_non_null(f);
    while (n < cap && fscanf(f, "%d", &pid[n]) == 1) n++;
    fclose(f);
    return n;
}

/* Not even a zombie: a signal would find that. */
static bool gone(pid_t pid) { return kill(pid, 0) && errno == ESRCH; }

static pid_t child(int code)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (!pid) {
        alarm(60);
        if (code < 0) pause();
        _exit(code);
    }
    return pid;
}

static void orphans_end_with_the_job(void **state)
{
    pid_t pid[3];
    (void)state;
    spawn("sleep 300 & echo $!; true & echo $!; (sleep 300 & echo $!); exit 5");
    ends_with("exit status 5");
    assert_int_equal(pids(pid, 3), 3);
    assert_false(gone(pid[0]) || gone(pid[2]));
    assert_int_equal(daemon_adopted_end(0, PATIENCE), 0);
    for (int i = 0; i < 3; i++) assert_true(gone(pid[i]));
}

static void a_tree_falls_from_its_top(void **state)
{
    pid_t pid[3];
    (void)state;
    /* The lower ones are no children of ours until those above them have died; no TERM ends any. */
    spawn("trap '' TERM; sh -c 'echo $$; sh -c \"echo \\$\\$; sleep 300 & echo \\$!; wait\"; true' & "
          "while [ $(wc -l <\"$to\") -lt 3 ]; do sleep 0.01; done; exit 0");
    ends_with("exit status 0");
    assert_int_equal(pids(pid, 3), 3);
    for (int i = 0; i < 3; i++) assert_false(gone(pid[i]));
    assert_int_equal(daemon_adopted_end(0, PATIENCE), 0);
    for (int i = 0; i < 3; i++) assert_true(gone(pid[i]));
}

static void other_children_are_left_alone(void **state)
{
    siginfo_t info;
    int status;
    pid_t spare = child(7), other = child(3), alive = child(-1);
    (void)state;
    assert_int_equal(waitid(P_PID, (id_t)spare, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(waitid(P_PID, (id_t)other, &info, WEXITED | WNOWAIT), 0);
    spawn("sleep 300 & exit 0");
    ends_with("exit status 0");
    assert_int_equal(daemon_adopted_end(spare, PATIENCE), 0);
    assert_int_equal(waitpid(spare, &status, 0), spare);              /* its status is there for who asks by its pid */
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_true(gone(other));
    assert_int_equal(waitpid(alive, &status, WNOHANG), 0);            /* neither killed nor waited for */
    kill(alive, SIGKILL);
    assert_int_equal(waitpid(alive, &status, 0), alive);
}

static void a_mark_is_known_by_all_its_bytes(void **state)
{
    static char near[4][64];
    char *env[] = { near[0], near[1], near[2], near[3], NULL }, *arg[] = { "sleep", "300", NULL };
    int started[2], status;
    (void)state;
    snprintf(near[0], sizeof near[0], "PHALANX_COORDINATOR=%d0", (int)getpid());
    snprintf(near[1], sizeof near[1], "XPHALANX_COORDINATOR=%d", (int)getpid());
    snprintf(near[2], sizeof near[2], "X=PHALANX_COORDINATOR=%d", (int)getpid());
    snprintf(near[3], sizeof near[3], "PHALANX_COORDINATOR=");
    for (int marked = 0; marked < 2; marked++) {
        if (marked) snprintf(near[2], sizeof near[2], "PHALANX_COORDINATOR=%d", (int)getpid());
        assert_int_equal(pipe2(started, O_CLOEXEC), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
            execvpe("sleep", arg, env);
            _exit(127);
        }
        close(started[1]);
        assert_int_equal(read(started[0], &status, 1), 0);            /* it is another program by now */
        close(started[0]);
        assert_int_equal(daemon_adopted_end(0, PATIENCE), 0);
        if (marked) assert_true(gone(pid));
        else {
            assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
            kill(pid, SIGKILL);
            assert_int_equal(waitpid(pid, &status, 0), pid);
        }
    }
}

static void a_job_without_orphans_leaves_at_once(void **state)
{
    (void)state;
    spawn("exit 0");
    ends_with("exit status 0");
    px_time_us began = px_now_us();
    assert_int_equal(daemon_adopted_end(0, PATIENCE), 0);
    assert_true(px_now_us() - began < PATIENCE / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(orphans_end_with_the_job), cmocka_unit_test(a_tree_falls_from_its_top),
                                        cmocka_unit_test(other_children_are_left_alone),
                                        cmocka_unit_test(a_mark_is_known_by_all_its_bytes),
                                        cmocka_unit_test(a_job_without_orphans_leaves_at_once) };
    px_err e = {0};

    if (daemon_adopted_begin(&e)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
