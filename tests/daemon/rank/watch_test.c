/* The watch beside a rank's steps, with the real one's end of the process: what the coordinator hears, and when.
 * The rank is a child, its sums go over the fake NCCL, and its reports come to the test through a pipe. */
#include "tests/comm/nccl_world.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/rank/device.h"

typedef struct heard {
    px_err   e;
    uint32_t stage;
    int      aborts;                                   /* of NCCL's, until then */
    bool     came_back;                                /* no report: the step's thread did */
    px_code  rc;                                       /* then: of the step */
} heard;

static daemon_rank rank;
static int out;

static void say(const heard *h)
{
    if (write(out, h, sizeof *h) != (ssize_t)sizeof *h) _exit(99);     /* shorter than a pipe's atomic write */
}

_Static_assert(sizeof(heard) <= 4096, "PIPE_BUF");

/* What the watch calls where the rank has a coordinator. */
px_code daemon_rank_report(daemon_rank *r, uint32_t stage, uint32_t percent, const px_err *err, size_t n_err, px_err *e)
{
    heard h = { .stage = stage, .aborts = atomic_load(&test_nccl->aborts) };

    (void)r, (void)percent, (void)e;
    if (n_err) h.e = err[0];
    say(&h);
    return PX_OK;
}

static void one_step(test_rank *r)
{
    heard h = { .came_back = true };

    if (r->rc) _exit(98);
    rank.sums = r->c;
    if (test_nccl->fault.how == FAKE_HANGS) test_nccl_limits(r, SOON_US, WAIT_US);
    px_log_init(&rank.log, 2, PX_ERROR, 0);
    if (daemon_rank_watch_open(&rank, &r->e)) _exit(97);
    daemon_rank_watch_begin(&rank, 7, 0);
    h.rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
    daemon_rank_watch_end(&rank);
    daemon_rank_watch_close(&rank);
    h.e = r->e;
    h.aborts = atomic_load(&test_nccl->aborts);
    say(&h);
}

/* Runs one step of a rank, whose sum meets `how`.  Returns the child's exit code. */
static int step(fake_how how, int result, uint32_t step_s, heard *h)
{
    int at[2], status;
    heard more;
    pid_t pid;

    memset(h, 0, sizeof *h);
    test_nccl->fault.call = FAKE_REDUCE;
    test_nccl->fault.how = how;
    test_nccl->fault.nth = 1;
    test_nccl->fault.result = result;
    assert_int_equal(pipe(at), 0);
    assert_true((pid = fork()) >= 0);
    if (!pid) {
        test_rank r = { .world = 1, .args = { .alone = true, .timeout_us = WAIT_US } };
        close(at[0]);
        out = at[1];
        rank.config.step_s = step_s;
        test_nccl_rank(&r, &(comm_args){ .kind = COMM_LOCAL, .world = 1, .partial_bytes = PARTIAL, .gather_bytes = 40 }, one_step);
        _exit(0);
    }
    close(at[1]);
    const ssize_t first = read(at[0], h, sizeof *h);
    const ssize_t second = read(at[0], &more, sizeof more);            /* 0: the child has ended and said no more */
    close(at[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(first, sizeof *h);
    assert_int_equal(second, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void reported(const heard *h, px_code code, const char *field, const char *says)
{
    assert_false(h->came_back);
    assert_int_equal(h->stage, PHALANX__WIRE__STAGE__SERVE);
    if (h->e.code != code || strcmp(h->e.field, field) || !strstr(h->e.text, says))
        fail_msg("reported %s: %s: %s", px_code_name(h->e.code), h->e.field, h->e.text);
    assert_int_equal(h->e.rank, 0);
}

static void a_step_that_ends_is_not_reported(void **state)
{
    heard h;

    (void)state;
    test_nccl_fresh();
    assert_int_equal(step(FAKE_REFUSES, 0, 60, &h), 0);                 /* refuses with success: nothing is wrong */
    assert_true(h.came_back);
    assert_int_equal(h.rc, PX_OK);
    assert_int_equal(h.aborts, 0);
}

static void an_error_behind_its_back_is_reported(void **state)
{
    heard h;

    (void)state;
    test_nccl_fresh();
    assert_int_equal(step(FAKE_BREAKS, 6, 60, &h), 1);
    reported(&h, PX_EPEER, "nccl", "ncclCommGetAsyncError: remote process");
}

/* The step's thread is held in the abort that its call's failure ends with: the watch looks, and must not report that. */
static void a_call_that_aborts_is_reported_by_its_cause(void **state)
{
    heard h;

    (void)state;
    test_nccl_fresh();
    test_nccl->abort_stays = true;
    assert_int_equal(step(FAKE_HANGS, 0, 60, &h), 1);
    reported(&h, PX_ETIMEOUT, "nccl", "ncclAllReduce: still in progress after 1000 ms");
    test_nccl_fresh();
    test_nccl->abort_stays = true;
    assert_int_equal(step(FAKE_REFUSES, 1, 60, &h), 1);
    reported(&h, PX_EDEVICE, "nccl", "ncclAllReduce: unhandled cuda error");
}

static void a_late_step_is_reported_before_the_abort(void **state)
{
    heard h;

    (void)state;
    test_nccl_fresh();
    assert_int_equal(step(FAKE_STALLS, 0, 1, &h), 1);
    reported(&h, PX_ETIMEOUT, "step", "step 7 has not ended on the device after ");
    const double after = strtod(strstr(h.e.text, "after ") + strlen("after "), NULL);
    if (after < 0.8 || after > 60) fail_msg("\"%s\": the limit is 7/8 of a second", h.e.text);
    assert_int_equal(h.aborts, 0);                                      /* that might hang, and nobody would hear */
    assert_int_equal(test_nccl->aborts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_that_ends_is_not_reported),
        cmocka_unit_test(an_error_behind_its_back_is_reported),
        cmocka_unit_test(a_call_that_aborts_is_reported_by_its_cause),
        cmocka_unit_test(a_late_step_is_reported_before_the_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
