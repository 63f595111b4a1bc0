/* The meeting place itself: the count wraps, nobody is forgotten asleep, a break wakes everybody. */
#include "comm/meet.h"
#include "tests/testlib.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 5u

typedef struct worker {
    comm_meet m;
    unsigned  rounds;
    uint64_t  seed;
    bool      dawdle;
    _Atomic uint32_t *round_of;      /* (world) the round that each rank is in: nobody may be two away */
    px_code   rc;
    px_err    e;
    bool      strayed;
} worker;

static void *meet_often(void *arg)
{
    worker *w = arg;
    for (unsigned k = 1; k <= w->rounds && !w->rc; k++) {
        atomic_store(&w->round_of[w->m.rank], k);
        w->rc = comm_meet_all(&w->m, COMM_CALL_BARRIER, 0, 0, &w->e);
        for (uint32_t r = 0; r < w->m.world && !w->rc; r++) {
            uint32_t at = atomic_load(&w->round_of[r]);
            if (at != k && at != k + 1) w->strayed = true;
        }
        if (w->dawdle && test_rand(&w->seed) % 1000 == 0) usleep((useconds_t)(test_rand(&w->seed) % 200));
    }
    return NULL;
}

static void run(uint32_t world, unsigned rounds, px_time_us spin_us, bool shared, uint32_t first_word, bool dawdle)
{
    comm_seat *seats = aligned_alloc(COMM_SEAT_BYTES, MOST * sizeof *seats);
    _Atomic uint32_t round_of[MOST] = {0};
    worker w[MOST];
    pthread_t t[MOST];
    memset(seats, 0, MOST * sizeof *seats);
    for (uint32_t r = 0; r < world; r++) atomic_store(&seats[r].word, first_word);
    for (uint32_t r = 0; r < world; r++) {
        w[r] = (worker){ .rounds = rounds, .seed = r, .dawdle = dawdle, .round_of = round_of };
        comm_meet_init(&w[r].m, seats, r, world, shared, 20 * 1000000);
        w[r].m.spin_us = spin_us;
    }
    for (uint32_t r = 0; r < world; r++) assert_int_equal(pthread_create(&t[r], NULL, meet_often, &w[r]), 0);
    for (uint32_t r = 0; r < world; r++) pthread_join(t[r], NULL);
    for (uint32_t r = 0; r < world; r++) {
        if (w[r].rc) print_error("rank %u: %s\n", r, w[r].e.text);
        assert_int_equal(w[r].rc, PX_OK);
        assert_false(w[r].strayed);
        assert_int_equal(atomic_load(&seats[r].sleepers), 0);
    }
    free(seats);
}

/* Twenty seconds pass at once if one wake is lost. */
static void no_wake_is_lost(void **state)
{
    (void)state;
    for (uint32_t world = 2; world <= MOST; world++) {
        run(world, 20000, 0, world % 2, 0, false);      /* always asleep */
        run(world, 20000, 1, world % 2, 0, true);       /* on the edge between spinning and sleep */
        run(world, 5000, 50, world % 2, 0, true);
    }
}

static void the_count_wraps(void **state)
{
    (void)state;
    run(3, 2000, 5, true, UINT32_MAX - 1001, true);
    run(2, 2000, 5, false, INT32_MAX - 1001, false);
}

static void rounds_by_the_hundred_thousand(void **state)
{
    (void)state;
    run(3, 100000, 2, true, 0, false);
    run(4, 100000, 2, false, 0, false);
}

static void who_is_late_is_named(void **state)
{
    comm_seat *seats = aligned_alloc(COMM_SEAT_BYTES, 3 * sizeof *seats);
    comm_meet m;
    px_err e = {0};
    (void)state;
    memset(seats, 0, 3 * sizeof *seats);
    atomic_store(&seats[1].word, 2);                     /* rank 1 came, rank 2 does not */
    comm_meet_init(&m, seats, 0, 3, true, 30000);
    px_time_us before = px_now_us();
    assert_int_equal(comm_meet_all(&m, COMM_CALL_BARRIER, 0, 0, &e), PX_ETIMEOUT);
    assert_true(px_now_us() - before >= 30000);
    assert_string_equal(e.field, "comm");
    assert_string_equal(e.found, "rank 2 has not come");
    free(seats);
}

static void who_came_for_something_else_is_named(void **state)
{
    comm_seat *seats = aligned_alloc(COMM_SEAT_BYTES, 2 * sizeof *seats);
    comm_meet a, b;
    px_err e = {0};
    (void)state;
    memset(seats, 0, 2 * sizeof *seats);
    comm_meet_init(&a, seats, 0, 2, true, 1000);
    comm_meet_init(&b, seats, 1, 2, true, 1000);
    assert_int_equal(comm_meet_all(&a, COMM_CALL_REDUCE, 1, 64, &e), PX_ETIMEOUT);
    px_err_clear(&e);
    assert_int_equal(comm_meet_all(&b, COMM_CALL_GATHER, 0, 64, &e), PX_EMISMATCH);
    assert_string_equal(e.field, "call");
    assert_string_equal(e.found, "rank 0: reduce of 64 bytes, buffer 1");
    assert_string_equal(e.expected, "rank 1: gather of 64 bytes, buffer 0");
    free(seats);
}

static void *wait_for_ever(void *arg)
{
    worker *w = arg;
    w->rc = comm_meet_all(&w->m, COMM_CALL_BARRIER, 0, 0, &w->e);
    return NULL;
}

static void a_break_wakes_who_sleeps_and_who_comes(void **state)
{
    comm_seat *seats = aligned_alloc(COMM_SEAT_BYTES, 3 * sizeof *seats);
    (void)state;
    for (unsigned k = 0; k < 300; k++) {                 /* the break falls before, into and after the going to sleep */
        worker w[2];
        pthread_t t[2];
        memset(seats, 0, 3 * sizeof *seats);
        for (uint32_t r = 0; r < 2; r++) {
            w[r] = (worker){0};
            comm_meet_init(&w[r].m, seats, r, 3, false, 20 * 1000000);
            assert_int_equal(pthread_create(&t[r], NULL, wait_for_ever, &w[r]), 0);
        }
        for (volatile unsigned spin = 0; spin < k * 400; spin++) { }
        comm_meet_break(seats, 3, false);
        for (uint32_t r = 0; r < 2; r++) {
            pthread_join(t[r], NULL);
            assert_int_equal(w[r].rc, PX_EPEER);
            assert_string_equal(w[r].e.field, "comm");
        }
    }
    free(seats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_wake_is_lost),
        cmocka_unit_test(the_count_wraps),
        cmocka_unit_test(rounds_by_the_hundred_thousand),
        cmocka_unit_test(who_is_late_is_named),
        cmocka_unit_test(who_came_for_something_else_is_named),
        cmocka_unit_test(a_break_wakes_who_sleeps_and_who_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
