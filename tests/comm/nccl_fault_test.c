/* nccl, when something goes wrong: every call that can fail or hang does so, at the first time and later ones; a rank dies.
 * Nobody waits for longer than the time-out, everybody ends with an error that says what it was, and nothing is left.
 *
 * SOON_US is the limit of those waits only that cannot end otherwise, and all before them have WAIT_US: what is found must not
 * depend on who is run when. */
#include "tests/comm/nccl_world.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 3 };
#define MOST_US (WAIT_US / 2)                  /* two times SOON_US, and a machine that is busy */
#define NEVER   UINT_MAX

/* Which rounds of `serve` rank 2 does not end, and how long it then waits for a call and for the device. */
static struct { unsigned from; px_time_us call_us, watch_us; } lost;

static void fault(fake_call call, fake_how how, uint32_t rank, int nth, int result)
{
    test_nccl_fresh();
    test_nccl->fault.call = call;
    test_nccl->fault.how = how;
    test_nccl->fault.rank = rank;
    test_nccl->fault.nth = nth;
    test_nccl->fault.result = result;
    lost.from = NEVER;
}

/* Whatever it was: it stays over.  No assertion here: a forked child must not run on in the test program. */
static void nothing_goes_on(test_rank *r)
{
    uint8_t all[N];

    if (!comm_poll(r->c, NULL) || comm_gather_all(r->c, "x", 1, all, NULL) != PX_EPEER
        || comm_barrier_all(r->c, NULL) != PX_EPEER || !test_nccl_round(r, 0, 0, 4)) {
        px_err_clear(&r->e);
        r->rc = px_fail(&r->e, PX_EINTERNAL, "test", "a call after the end went on");
    }
}

/* A served step: sums are put on the queue, the wait for it is watched. */
static void serve(test_rank *r)
{
    comm_watch *w = NULL;
    px_code rc, seen;

    if (r->rc || (r->rc = comm_watch_open(&w, r->a, r->c, &r->e))) return;
    for (unsigned round = 0; round < 5 && !r->rc; round++) {
        const bool all_end = round < lost.from, by_itself = r->rank == 2;
        px_err found = {0};
        test_nccl_limits(r, !all_end && by_itself ? lost.call_us : WAIT_US, WAIT_US);
        comm_watch_arm(w, all_end ? WAIT_US : by_itself ? lost.watch_us : SOON_US, "the step");
        rc = test_nccl_round(r, 0, round, PARTIAL_FLOATS);
        seen = comm_watch_disarm(w, &found);
        if (seen) r->e = found;                /* why the device's wait ended */
        r->rc = seen ? seen : rc;
    }
    comm_watch_close(w);
    if (r->rc) nothing_goes_on(r);
}

/* The limits of NCCL's calls while it is opened: of the faulty rank, and of the others. */
static void run_faulty(test_rank *r, px_time_us own_us, px_time_us others_us, void (*fn)(test_rank *r))
{
    const px_time_us begun = px_now_us();

    memset(r, 0, N * sizeof *r);
    r[test_nccl->fault.rank].args.timeout_us = own_us;
    test_nccl_ranks(r, N, others_us, fn);
    assert_true(px_now_us() - begun < MOST_US);
}

/* ---- opening ---- */

static void opening_says_what_failed(void **state)
{
    static const struct { fake_call call; fake_how how; int result; px_code rc; const char *says; } row[] = {
        { FAKE_ID, FAKE_REFUSES, 2, PX_EIO, "ncclGetUniqueId: unhandled system error" },
        { FAKE_INIT, FAKE_REFUSES, 1, PX_EDEVICE, "ncclCommInitRankConfig: unhandled cuda error: the fake" },
        { FAKE_INIT, FAKE_REFUSES, 5, PX_EINTERNAL, "ncclCommInitRankConfig: invalid usage" },
        { FAKE_INIT, FAKE_LATER, 6, PX_EPEER, "ncclCommInitRankConfig: remote process" },
        { FAKE_INIT, FAKE_HANGS, 0, PX_ETIMEOUT, "ncclCommInitRankConfig: still in progress after 1000 ms on rank 1" },
        { FAKE_WINDOW, FAKE_REFUSES, 3, PX_EINTERNAL, "ncclCommWindowRegister: internal error" },
        { FAKE_WINDOW, FAKE_LATER, 2, PX_EIO, "ncclCommWindowRegister: unhandled system error" },
        { FAKE_WINDOW, FAKE_HANGS, 0, PX_ETIMEOUT, "ncclCommWindowRegister: still in progress after 6000 ms on rank 1" },
    };
    test_rank r[N];

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const uint32_t who = row[i].call == FAKE_ID ? 0 : 1;
        fault(row[i].call, row[i].how, who, 1, row[i].result);
        const bool init = row[i].call == FAKE_INIT;            /* else all have met before, within the same time */
        run_faulty(r, row[i].how != FAKE_HANGS ? WAIT_US : init ? SOON_US : 6 * SOON_US, init ? SOON_US : WAIT_US, NULL);
        for (uint32_t k = 0; k < N; k++) {
            assert_true(r[k].rc != PX_OK);
            assert_null(r[k].c);
        }
        assert_int_equal(r[who].rc, row[i].rc);
        assert_string_equal(r[who].e.field, "nccl");
        if (!strstr(r[who].e.text, row[i].says)) fail_msg("row %zu says \"%s\"", i, r[who].e.text);
    }
}

/* Without NCCL's memory one rank takes the device's, and nobody has windows. */
static void memory_that_is_refused_is_the_devices(void **state)
{
    test_rank r[N];

    (void)state;
    fault(FAKE_MEM, FAKE_REFUSES, 2, 1, 2);
    run_faulty(r, WAIT_US, WAIT_US, serve);
    for (int k = 0; k < N; k++) assert_int_equal(r[k].rc, PX_OK);
    assert_int_equal(test_nccl->sums[0], 5 * N);
    assert_int_equal(test_nccl->sums[1], 0);
}

/* ---- a step ---- */

static void a_step_that_fails_ends_on_all_ranks(void **state)
{
    static const struct { fake_how how; int result; px_time_us call_us, watch_us; px_code rc; const char *says; } row[] = {
        { FAKE_REFUSES, 3, WAIT_US, WAIT_US, PX_EINTERNAL, "ncclAllReduce: internal error" },
        { FAKE_LATER, 1, WAIT_US, WAIT_US, PX_EDEVICE, "unhandled cuda error" },   /* by the call or by the watch, who looks first */
        { FAKE_HANGS, 0, SOON_US, WAIT_US, PX_ETIMEOUT, "ncclAllReduce: still in progress after 1000 ms on rank 2" },
        { FAKE_HANGS, 0, WAIT_US, SOON_US, PX_ETIMEOUT, "the step: rank 2 waited 1000 ms" },
        { FAKE_STALLS, 0, WAIT_US, SOON_US, PX_ETIMEOUT, "the step: rank 2 waited 1000 ms" },
        { FAKE_BREAKS, 6, WAIT_US, WAIT_US, PX_EPEER, "ncclCommGetAsyncError: remote process" },
        { FAKE_BREAKS, 1, WAIT_US, WAIT_US, PX_EDEVICE, "ncclCommGetAsyncError: unhandled cuda error" },
    };
    test_rank r[N];

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int nth = 1; nth <= 4; nth += 3) {
            fault(FAKE_REDUCE, row[i].how, 2, nth, row[i].result);
            lost.from = (unsigned)nth - 1;
            lost.call_us = row[i].call_us;
            lost.watch_us = row[i].watch_us;
            run_faulty(r, WAIT_US, WAIT_US, serve);
            for (int k = 0; k < N; k++) assert_true(r[k].rc != PX_OK);
            assert_int_equal(r[0].rc, PX_ETIMEOUT);        /* who waits for the others learns it by the watch */
            assert_int_equal(r[2].rc, row[i].rc);
            assert_string_equal(r[2].e.field, "nccl");
            if (!strstr(r[2].e.text, row[i].says)) fail_msg("row %zu says \"%s\"", i, r[2].e.text);
            assert_int_equal(test_nccl->aborts, N);
            if (test_nccl->sums[1] != N * (nth - 1))
                fail_msg("row %zu, call %d: %d sums before it, rank 2 says \"%s\"", i, nth, test_nccl->sums[1], r[2].e.text);
        }
}

/* ---- the measurement ---- */

static void measure_within(test_rank *r, px_time_us host_us)
{
    comm_measured m;

    if (r->rc) return;
    test_nccl_limits(r, SOON_US, host_us);
    r->rc = comm_measure_all(r->c, PARTIAL, &m, &r->e);
}

static void measure(test_rank *r) { measure_within(r, SOON_US); }
static void measure_as_its_cause(test_rank *r) { measure_within(r, r->rank == 1 ? WAIT_US : SOON_US); }

static void a_measurement_that_fails_ends_on_all_ranks(void **state)
{
    test_rank r[N];

    (void)state;
    for (int how = FAKE_REFUSES; how <= FAKE_BREAKS; how++)
        for (int nth = 1; nth <= 12; nth += 11) {
            fault(FAKE_REDUCE, (fake_how)how, 1, nth, 6);
            run_faulty(r, WAIT_US, WAIT_US, measure);
            for (int k = 0; k < N; k++) assert_true(r[k].rc != PX_OK);
        }
    fault(FAKE_DEREGISTER, FAKE_HANGS, 1, 1, 0);
    run_faulty(r, WAIT_US, WAIT_US, measure_as_its_cause);
    assert_int_equal(r[1].rc, PX_ETIMEOUT);
    assert_non_null(strstr(r[1].e.text, "ncclCommWindowDeregister"));
}

/* ---- closing ---- */

static void a_close_that_fails_aborts(void **state)
{
    test_rank r[N];

    (void)state;
    for (int how = FAKE_REFUSES; how <= FAKE_LATER; how++)
        for (int call = FAKE_DEREGISTER; call <= FAKE_FINALIZE; call++) {
            fault((fake_call)call, (fake_how)how, 0, 1, 3);
            run_faulty(r, WAIT_US, WAIT_US, serve);
            for (int k = 0; k < N; k++) assert_int_equal(r[k].rc, PX_OK);
            assert_int_equal(test_nccl->aborts, 1);
        }
}

/* ---- aborts ---- */

static void *abort_soon(void *arg)
{
    usleep(20000);
    comm_abort(arg);
    return NULL;
}

/* Two threads abort while the third polls a sum that never begins. */
static void sum_and_abort(test_rank *r)
{
    pthread_t t[2];

    if (r->rc) return;
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, abort_soon, r->c), 0);
    r->rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    comm_abort(r->c);
}

static void an_abort_ends_a_call(void **state)
{
    test_rank r = { .world = 1, .args = { .alone = true, .timeout_us = WAIT_US } };

    (void)state;
    fault(FAKE_REDUCE, FAKE_HANGS, 0, 1, 0);
    const px_time_us begun = px_now_us();
    test_nccl_ranks(&r, 1, WAIT_US, sum_and_abort);
    assert_true(px_now_us() - begun < MOST_US);
    assert_int_equal(r.rc, PX_EPEER);
    assert_string_equal(r.e.text, "the communicator was aborted");
    assert_int_equal(test_nccl->aborts, 1);
}

/* As in a rank that serves: a graph holds sums.  NCCL's abort comes back only when that is dropped; who aborts waits a while. */
static void abort_under_a_graph(test_rank *r)
{
    const float *const *views;
    uint32_t n;

    if (r->rc || (r->rc = r->device.record(r, &r->e)) || (r->rc = comm_reduce_views_all(r->c, 0, PARTIAL, &views, &n, &r->e))
        || (r->rc = r->device.end(r, &r->e))) return;
    const px_time_us begun = px_now_us();
    comm_abort(r->c);
    if (px_now_us() - begun > MOST_US) r->rc = px_fail(&r->e, PX_ETIMEOUT, "test", "the abort waited for the graph");
    else if (comm_poll(r->c, NULL) != PX_EPEER) r->rc = px_fail(&r->e, PX_EINTERNAL, "test", "the communicator goes on");
    else if (atomic_load(&test_nccl->live) != 1) r->rc = px_fail(&r->e, PX_EINTERNAL, "test", "the fake did not wait");
    r->queue.n_graph = 0;                                  /* dropped: the close finds that it ends */
}

static void an_abort_waits_for_no_graph(void **state)
{
    test_rank r = { .world = 1, .args = { .alone = true, .timeout_us = WAIT_US } };

    (void)state;
    test_nccl_fresh();
    test_nccl_ranks(&r, 1, WAIT_US, abort_under_a_graph);
    assert_int_equal(r.rc, PX_OK);
    assert_int_equal(test_nccl->aborts, 1);
}

/* ---- a call that ends the communicator, and a watch beside it ---- */

/* The watch's own abort, after it has found something: the call's may come back now, once it is there. */
void __real_comm_abort(comm *c);
void __wrap_comm_abort(comm *c);
void __wrap_comm_abort(comm *c)
{
    const px_time_us until = px_now_us() + WAIT_US;

    __real_comm_abort(c);
    if (!test_nccl->abort_stays) return;
    while (!atomic_load(&test_nccl->stays) && px_now_us() < until) usleep(1000);
    atomic_store(&test_nccl->stays, 0);
}

static void serve_one_step(test_rank *r)
{
    comm_watch *w = NULL;
    px_err found = {0};
    px_code seen;

    if (r->rc || (r->rc = comm_watch_open(&w, r->a, r->c, &r->e))) return;
    comm_watch_arm(w, WAIT_US, "the step");
    test_nccl_limits(r, lost.call_us, WAIT_US);
    r->rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
    seen = comm_watch_disarm(w, &found);
    if (!seen || seen != r->rc || strcmp(found.text, r->e.text)) {
        char text[600];
        px_err_format(&found, text, sizeof text);
        px_err_clear(&r->e);
        r->rc = px_fail(&r->e, PX_EINTERNAL, "test", "the watch found %s: %s", px_code_name(seen), text);
    }
    comm_watch_close(w);
}

/* The call is held in the abort that it ends with until the watch has looked: who disarms hears of the call's own error. */
static void a_watch_that_finds_the_abort_says_why(void **state)
{
    static const struct { fake_how how; px_time_us call_us; px_code rc; const char *says; } row[] = {
        { FAKE_HANGS, SOON_US, PX_ETIMEOUT, "ncclAllReduce: still in progress after 1000 ms on rank 0" },
        { FAKE_REFUSES, WAIT_US, PX_EDEVICE, "ncclAllReduce: unhandled cuda error" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        test_rank r = { .world = 1, .args = { .alone = true } };
        fault(FAKE_REDUCE, row[i].how, 0, 1, 1);
        test_nccl->abort_stays = true;
        const px_time_us begun = px_now_us();
        lost.call_us = row[i].call_us;
        test_nccl_ranks(&r, 1, WAIT_US, serve_one_step);
        assert_true(px_now_us() - begun < MOST_US);        /* the watch did look */
        if (r.rc != row[i].rc || !strstr(r.e.text, row[i].says)) fail_msg("row %zu: %s: %s", i, px_code_name(r.rc), r.e.text);
        assert_int_equal(test_nccl->aborts, 1);
    }
}

/* ---- a call that does not come back ---- */

typedef struct onlooker { comm *c; px_code rc; bool went_past; } onlooker;

static void *look_while_it_stays(void *arg)
{
    onlooker *o = arg;

    while (!atomic_load(&test_nccl->stays)) usleep(1000);
    o->rc = comm_poll(o->c, NULL);
    o->went_past = atomic_load(&test_nccl->stays);
    atomic_store(&test_nccl->stays, 0);
    return NULL;
}

static void sum_and_look(test_rank *r)
{
    onlooker o = { .c = r->c };
    pthread_t t;

    if (r->rc) return;
    assert_int_equal(pthread_create(&t, NULL, look_while_it_stays, &o), 0);
    r->rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
    pthread_join(t, NULL);
    if (!r->rc && (o.rc || !o.went_past)) r->rc = px_fail(&r->e, PX_EINTERNAL, "test", "the poll waited, or said %d", o.rc);
}

static void a_poll_waits_for_no_call(void **state)
{
    test_rank r = { .world = 1, .args = { .alone = true, .timeout_us = WAIT_US } };

    (void)state;
    fault(FAKE_REDUCE, FAKE_STAYS, 0, 1, 0);
    test_nccl_ranks(&r, 1, WAIT_US, sum_and_look);
    assert_int_equal(r.rc, PX_OK);
}

/* ---- a process that is killed ---- */

static void serve_or_die(test_rank *r)
{
    if (!r->rc && r->rank == 2) {
        r->rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
        raise(SIGKILL);
    }
    serve(r);
}

static void survivors_of_a_killed_rank_end(void **state)
{
    const px_time_us begun = px_now_us();
    int status[N];

    (void)state;
    test_nccl_fresh();
    lost.from = 1;                                         /* the first it ends */
    test_nccl_processes(N, serve_or_die, status);
    assert_true(px_now_us() - begun < MOST_US);
    assert_true(WIFSIGNALED(status[2]));
    for (int i = 0; i < 2; i++) assert_true(WIFEXITED(status[i]) && WEXITSTATUS(status[i]) == PX_ETIMEOUT);
    assert_int_equal(test_nccl->live, 1);                  /* the killed one's */
    assert_int_equal(test_nccl->aborts, 2);
    assert_int_equal(test_nccl->misuse, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_says_what_failed),
        cmocka_unit_test(memory_that_is_refused_is_the_devices),
        cmocka_unit_test(a_step_that_fails_ends_on_all_ranks),
        cmocka_unit_test(a_measurement_that_fails_ends_on_all_ranks),
        cmocka_unit_test(a_close_that_fails_aborts),
        cmocka_unit_test(an_abort_ends_a_call),
        cmocka_unit_test(an_abort_waits_for_no_graph),
        cmocka_unit_test(a_watch_that_finds_the_abort_says_why),
        cmocka_unit_test(a_poll_waits_for_no_call),
        cmocka_unit_test(survivors_of_a_killed_rank_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
