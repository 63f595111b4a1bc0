/* The workers: every job runs once, the queue is bounded, closing runs what waits. */
#include <semaphore.h>
#include <stdatomic.h>

#include "daemon/coordinator/work.h"
#include "tests/testlib.h"

typedef struct gate { sem_t go; _Atomic int ran; } gate;

static void wait_at(void *ctx)
{
    gate *g = ctx;
    sem_wait(&g->go);
    atomic_fetch_add(&g->ran, 1);
}

static void bounds_and_end(void **state)
{
    static daemon_task job[DAEMON_WORK_JOBS + DAEMON_WORK_THREADS + 1];
    daemon_work w;
    gate g;
    px_err e = {0};
    size_t taken = 0, n = sizeof job / sizeof *job;
    (void)state;

    sem_init(&g.go, 0, 0);
    atomic_init(&g.ran, 0);
    assert_int_equal(daemon_work_init(&w, &e), PX_OK);
    for (; taken < n; taken++) {
        job[taken] = (daemon_task){ .run = wait_at, .ctx = &g, .bytes = 10 };
        if (daemon_work_put(&w, &job[taken], &e)) break;
    }
    assert_int_equal(e.code, PX_EBUSY);
    assert_string_equal(e.field, "queue");
    assert_in_range(taken, DAEMON_WORK_JOBS, DAEMON_WORK_JOBS + DAEMON_WORK_THREADS);
    for (size_t i = 0; i < taken; i++) sem_post(&g.go);
    daemon_work_deinit(&w);
    assert_int_equal(atomic_load(&g.ran), taken);
    daemon_work_deinit(&w);
    sem_destroy(&g.go);
}

static void bytes_are_bounded_but_one_is_taken(void **state)
{
    daemon_work w;
    gate g;
    px_err e = {0};
    daemon_task job[DAEMON_WORK_THREADS + 2];
    size_t taken = 0;
    (void)state;

    sem_init(&g.go, 0, 0);
    atomic_init(&g.ran, 0);
    assert_int_equal(daemon_work_init(&w, &e), PX_OK);
    /* As many as are being run do not wait; of those that wait the second is one too many. */
    for (; taken < DAEMON_WORK_THREADS + 2; taken++) {
        job[taken] = (daemon_task){ .run = wait_at, .ctx = &g, .bytes = DAEMON_WORK_BYTES };
        if (daemon_work_put(&w, &job[taken], &e)) break;
    }
    assert_int_equal(e.code, PX_EBUSY);
    assert_in_range(taken, 1, DAEMON_WORK_THREADS + 1);
    for (size_t i = 0; i < taken; i++) sem_post(&g.go);
    daemon_work_deinit(&w);
    assert_int_equal(atomic_load(&g.ran), taken);
    sem_destroy(&g.go);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(bounds_and_end), cmocka_unit_test(bytes_are_bounded_but_one_is_taken) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
