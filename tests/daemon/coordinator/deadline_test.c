/* A step that hangs ends the process with 3 and is named; one that ends in time ends nothing. */
#include "daemon/coordinator/deadline.h"
#include "tests/testlib.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void life(daemon_deadline *d);

/* `run` in a process of its own: its exit code, and what it logged. */
static int watched(life *run, char *said, size_t cap)
{
    int pipe_fd[2], status = -1;
    ssize_t n, all = 0;

    assert_int_equal(pipe(pipe_fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        px_log_sink log;
        daemon_deadline d;
        px_err e = {0};
        close(pipe_fd[0]);
        px_log_init(&log, pipe_fd[1], PX_INFO, -1);
        alarm(60);
        if (daemon_deadline_open(&d, &log, &e)) _exit(9);
        run(&d);
        daemon_deadline_close(&d);
        _exit(0);
    }
    close(pipe_fd[1]);
    while ((n = read(pipe_fd[0], said + all, cap - 1 - (size_t)all)) > 0) all += n;
    said[all] = 0;
    close(pipe_fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void hang(daemon_deadline *d)
{
    daemon_deadline_set(d, "parse", 10 * 1000000);
    daemon_deadline_clear(d);
    daemon_deadline_set(d, "manifest", 50000);
    for (;;) pause();
}

static void end_in_time(daemon_deadline *d)
{
    daemon_deadline_set(d, "parse", 40000);
    daemon_deadline_clear(d);
    daemon_deadline_set(d, "manifest", 0);
    usleep(150000);
    daemon_deadline_set(d, "plan", 40000);
    daemon_deadline_set(d, "spawn", 20 * 1000000);
    usleep(150000);
}

static void a_step_that_hangs_is_named(void **state)
{
    char said[2000];
    (void)state;
    assert_int_equal(watched(hang, said, sizeof said), 3);
    assert_non_null(strstr(said, "step manifest was not done within 0.05 s"));
    assert_non_null(strstr(said, "deadline"));
    assert_null(strstr(said, "parse"));
}

static void a_step_that_ends_in_time_ends_nothing(void **state)
{
    char said[2000];
    (void)state;
    assert_int_equal(watched(end_in_time, said, sizeof said), 0);
    assert_string_equal(said, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_step_that_hangs_is_named),
                                        cmocka_unit_test(a_step_that_ends_in_time_ends_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
