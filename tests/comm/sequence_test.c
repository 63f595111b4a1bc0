/* The sequence check: ranks that did the same go on; who did another thing is named, with what it did. */
#include "comm/comm.h"
#include "tests/testlib.h"

#include <pthread.h>
#include <string.h>

enum { N = 3 };

static px_heap heap;

typedef struct rank {
    comm_local_group *group;
    uint32_t rank;
    size_t   gather_bytes;
    void   (*fn)(struct rank *r, comm *c);
    px_code  rc;
    px_err   e;
} rank;

static void *run(void *arg)
{
    rank *r = arg;
    comm *c = NULL;

    if (!(r->rc = comm_open(&c, &heap.a, &(comm_args){ .kind = COMM_LOCAL, .rank = r->rank, .world = N, .partial_bytes = 64, .group = r->group,
                                                        .gather_bytes = r->gather_bytes, .timeout_us = 20 * 1000000 }, &r->e))) r->fn(r, c);
    comm_close(c);
    return NULL;
}

static void ranks(rank *r, size_t gather_bytes, void (*fn)(rank *r, comm *c))
{
    comm_local_group *group = NULL;
    pthread_t t[N];
    px_err e = {0};

    assert_int_equal(comm_local_group_open(&group, &heap.a, N, &e), PX_OK);
    for (uint32_t i = 0; i < N; i++) {
        r[i] = (rank){ .group = group, .rank = i, .gather_bytes = gather_bytes, .fn = fn };
        assert_int_equal(pthread_create(&t[i], NULL, run, &r[i]), 0);
    }
    for (int i = 0; i < N; i++) pthread_join(t[i], NULL);
    comm_local_group_close(group);
}

static px_code calls(rank *r, comm *c, unsigned n)
{
    const float *const *views;
    uint8_t all[N];
    uint32_t n_views;

    for (unsigned i = 0; i < n && !r->rc; i++)
        if (!(r->rc = comm_reduce_views_all(c, i % 2, 16, &views, &n_views, &r->e)) && !(r->rc = comm_gather_all(c, "x", 1, all, &r->e)))
            r->rc = comm_barrier_all(c, &r->e);
    return r->rc;
}

static void the_same_steps(rank *r, comm *c)
{
    for (unsigned step = 0; step < 4 && !r->rc; step++) {
        if (step == 1) r->rc = comm_sequence_on(c, &r->e);
        if (!r->rc && !calls(r, c, step == 2 ? COMM_SEQUENCE_KEPT / 2 : 2)) {
            comm_sequence_graph(c, step);
            r->rc = comm_sequence_step_all(c, &r->e);
        }
    }
}

static void who_did_the_same_goes_on(void **state)
{
    rank r[N];

    (void)state;
    for (size_t gather = 1; gather <= 64; gather += 21) {
        ranks(r, gather, the_same_steps);
        for (int i = 0; i < N; i++) assert_int_equal(r[i].rc, PX_OK);
    }
    assert_int_equal(heap.count.live, 0);
}

/* ---- another graph, one more, one too early ---- */

static void another_graph(rank *r, comm *c)
{
    if ((r->rc = comm_sequence_on(c, &r->e)) || calls(r, c, 1)) return;
    comm_sequence_graph(c, r->rank == 1 ? 9 : 4);
    r->rc = comm_sequence_step_all(c, &r->e);
    px_err later = {0};
    assert_int_equal(comm_barrier_all(c, &later), PX_EPEER);
}

static void one_more(rank *r, comm *c)
{
    if ((r->rc = comm_sequence_on(c, &r->e)) || calls(r, c, 1)) return;
    if (r->rank != 2) comm_sequence_graph(c, 4);
    r->rc = comm_sequence_step_all(c, &r->e);
}

static void one_too_early(rank *r, comm *c)
{
    if ((r->rc = comm_sequence_on(c, &r->e))) return;
    if (r->rank == 0) comm_sequence_graph(c, 7);
    if (calls(r, c, 1)) return;
    if (r->rank != 0) comm_sequence_graph(c, 7);
    r->rc = comm_sequence_step_all(c, &r->e);
}

static void far_behind(rank *r, comm *c)
{
    if ((r->rc = comm_sequence_on(c, &r->e)) || calls(r, c, COMM_SEQUENCE_KEPT / 3 + 1)) return;
    comm_sequence_graph(c, r->rank);
    r->rc = comm_sequence_step_all(c, &r->e);
}

/* A step that ended alike does not hide that an earlier one did not: without step_all nothing is forgotten. */
static void the_other_one_is_named(void **state)
{
    static const struct { void (*fn)(rank *r, comm *c); const char *found, *expected, *text; } row[] = {
        { another_graph, "graph 9", "graph 4", "call 4 of the step: rank 1 did graph 9, the others graph 4" },
        { one_more, "nothing", "graph 4", "call 4 of the step: rank 2 did nothing, the others graph 4" },
        { one_too_early, "graph 7", "reduce of 4 f32", "call 1 of the step: rank 0 did graph 7, the others reduce of 4 f32" },
        { far_behind, "", "", "the ranks' calls differ behind the first 512 of the step" },
    };
    rank r[N];

    (void)state;
    for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
        ranks(r, k == 1 ? 5 : 64, row[k].fn);
        for (int i = 0; i < N; i++) {
            assert_int_equal(r[i].rc, PX_EMISMATCH);
            assert_string_equal(r[i].e.field, "sequence");
            assert_string_equal(r[i].e.found, row[k].found);
            assert_string_equal(r[i].e.expected, row[k].expected);
            assert_string_equal(r[i].e.text, row[k].text);
        }
    }
    assert_int_equal(heap.count.live, 0);
}

static void off_and_impossible(rank *r, comm *c)
{
    comm_sequence_graph(c, r->rank);                       /* off: nothing is compared, nobody is waited for */
    if (r->rank == 0) r->rc = comm_sequence_step_all(c, &r->e);
    px_err e = {0};
    assert_int_equal(comm_sequence_on(c, &e), PX_ERANGE);
    assert_string_equal(e.field, "gather_bytes");
}

static void off_it_is_nothing(void **state)
{
    rank r[N];

    (void)state;
    ranks(r, 0, off_and_impossible);
    assert_int_equal(r[0].rc, PX_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_did_the_same_goes_on),
        cmocka_unit_test(the_other_one_is_named),
        cmocka_unit_test(off_it_is_nothing),
    };
    px_heap_init(&heap, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
