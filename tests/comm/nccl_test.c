/* nccl: sums, windows, graphs and the choice between algorithms, on a fake NCCL; what is missing says so.  Faults while it runs
 * are in nccl_fault_test.c. */
#include "comm/nccl_lib.h"
#include "tests/comm/nccl_world.h"

#include <string.h>

static void all_ok(const test_rank *r, uint32_t n)
{
    char text[600];

    for (uint32_t i = 0; i < n; i++)
        if (r[i].rc) fail_msg("rank %u of %u: %s", i, n, px_err_format(&r[i].e, text, sizeof text));
}

static void some_rounds(test_rank *r)
{
    for (unsigned round = 0; round < 6 && !r->rc; round++) r->rc = test_nccl_round(r, round % 3 == 2, round, round == 1 ? 1 : PARTIAL_FLOATS - round);
}

static void sums_are_right(void **state)
{
    (void)state;
    for (int version = 22000; version <= 22809; version += 809)
        for (uint32_t n = 1; n <= FAKE_RANKS; n++) {
            test_rank r[FAKE_RANKS] = {0};
            test_nccl_fresh();
            test_nccl->version = version;
            for (uint32_t i = 0; i < n; i++) {
                r[i].args.alone = true;
                r[i].args.channels = 4;
            }
            test_nccl_ranks(r, n, WAIT_US, some_rounds);
            all_ok(r, n);
            assert_int_equal(test_nccl->sums[version == 22809], 6 * n);
            assert_int_equal(test_nccl->sums[version != 22809], 0);
            assert_int_equal(test_nccl->aborts, 0);
            assert_int_equal(test_nccl->max_ctas, 4);
        }
}

/* A call whose time is up when it is looked at for the first time, and that has been done by then. */
static void round_out_of_time(test_rank *r)
{
    if (r->rc) return;
    test_nccl_limits(r, -1, WAIT_US);
    r->rc = test_nccl_round(r, 0, 0, PARTIAL_FLOATS);
    if (!r->rc) test_nccl_limits(r, WAIT_US, WAIT_US);
}

static void what_is_done_is_not_late(void **state)
{
    test_rank r = { .args.alone = true };

    (void)state;
    test_nccl_fresh();
    test_nccl->polls = 1;
    test_nccl_ranks(&r, 1, WAIT_US, round_out_of_time);
    all_ok(&r, 1);
    test_nccl_fresh();
    test_nccl->polls = 2;                                  /* not even at the last look */
    test_nccl_ranks(&r, 1, WAIT_US, round_out_of_time);
    assert_int_equal(r.rc, PX_ETIMEOUT);
    assert_int_equal(test_nccl->aborts, 1);
}

/* ---- processes ---- */

static void sums_are_right_between_processes(void **state)
{
    enum { N = 3 };
    int status[N];

    (void)state;
    test_nccl_fresh();
    test_nccl_processes(N, some_rounds, status);
    for (int i = 0; i < N; i++) assert_int_equal(status[i], 0);
    assert_int_equal(test_nccl->sums[1], 6 * N);
    test_nccl_nothing_left();
}

/* ---- graphs ---- */

static void record_and_replay(test_rank *r)
{
    const comm_device *d = &r->device;
    const float *const *views;
    uint32_t n;
    float sum[8], mine[8];

    if (r->rc) return;
    if (!comm_captures(r->c)) r->rc = px_fail(&r->e, PX_EINTERNAL, "captures", "no graph may hold it");
    if (!r->rc && !(r->rc = d->record(r, &r->e)))
        for (int i = 0; i < 3 && !r->rc; i++) r->rc = comm_reduce_views_all(r->c, 0, sizeof mine, &views, &n, &r->e);   /* the same turn */
    if (!r->rc) r->rc = d->end(r, &r->e);
    for (int k = 1; k <= 3 && !r->rc; k++) {
        for (int i = 0; i < 8; i++) mine[i] = (float)(k * (i + (int)r->rank));
        if ((r->rc = d->to_device(r, comm_partial(r->c, 0), mine, sizeof mine, &r->e)) || (r->rc = d->replay(r, &r->e)) ||
            (r->rc = d->to_host(r, sum, views[0], sizeof sum, &r->e)))
            return;
        for (int i = 0; i < 8; i++)
            if (sum[i] != (float)(k * (3 * i + 3))) r->rc = px_fail(&r->e, PX_ECORRUPT, "sum", "replay %d: %g", k, (double)sum[i]);
    }
    if (!r->rc && !(r->rc = d->record(r, &r->e))) r->rc = d->end(r, &r->e);        /* an empty one instead */
}

static void a_graph_holds_it(void **state)
{
    test_rank r[3] = {0};

    (void)state;
    test_nccl_fresh();
    test_nccl_ranks(r, 3, WAIT_US, record_and_replay);
    all_ok(r, 3);
    assert_int_equal(test_nccl->sums[1], 3 * 3 * 3);
    assert_int_equal(test_nccl->aborts, 0);
}

/* ---- the choice ---- */

static comm_measured measured[FAKE_RANKS];
static bool captures[FAKE_RANKS];

static void measure(test_rank *r)
{
    if (r->rc || (r->rc = comm_measure_all(r->c, 400, &measured[r->rank], &r->e))) return;
    captures[r->rank] = comm_captures(r->c);
    for (unsigned round = 0; round < 4 && !r->rc; round++) r->rc = test_nccl_round(r, round % 2, round, PARTIAL_FLOATS);
}

/* COMM_N_ALGORITHMS: whichever, and the same on all ranks. */
static void chooses(comm_algorithm want)
{
    test_rank r[3] = {0};

    memset(measured, 0, sizeof measured);
    test_nccl_ranks(r, 3, WAIT_US, measure);
    all_ok(r, 3);
    assert_int_equal(test_nccl->aborts, 0);                /* the measurement's graph is gone, too */
    for (int i = 0; i < 3; i++) {
        const comm_measured *m = &measured[i];
        if (want != COMM_N_ALGORITHMS) assert_int_equal(m->chosen, want);
        assert_memory_equal(m, &measured[0], sizeof *m);
        assert_int_equal(captures[i], m->chosen != COMM_STAGED);
        assert_true(m->graphs);
        assert_int_equal(m->n, 5);
        for (uint32_t k = 0; k < m->n; k++) {
            assert_int_equal(m->at[k].bytes, k == 4 ? PARTIAL : 400u << k);
            for (comm_algorithm a = 0; a < COMM_N_ALGORITHMS; a++)
                if (m->there[a] && !m->wrong[a]) assert_true(m->at[k].us[a] > 0 && m->at[k].us[a] < 1e6f);
        }
    }
}

/* Staged may win on this machine, and may not; what takes 2 ms a sum may not win. */
static void the_slow_way_is_not_chosen(void **state)
{
    (void)state;
    test_nccl_fresh();
    test_nccl->delay_us[0] = 2000;
    chooses(COMM_N_ALGORITHMS);
    assert_true(measured[0].chosen != COMM_PLAIN);
    assert_true(measured[0].there[COMM_PLAIN] && measured[0].there[COMM_SYMMETRIC] && measured[0].there[COMM_STAGED]);
}

static void wrong_sums_are_not_chosen(void **state)
{
    (void)state;
    test_nccl_fresh();
    test_nccl->wrong[0] = test_nccl->wrong[1] = true;
    chooses(COMM_STAGED);
    assert_true(measured[0].wrong[COMM_PLAIN] && measured[0].wrong[COMM_SYMMETRIC] && !measured[0].wrong[COMM_STAGED]);
}

static void measure_alone(test_rank *r)
{
    if (!r->rc) r->rc = comm_measure_all(r->c, 400, &measured[r->rank], &r->e);
}

static size_t live[2];

/* The host's memory for the trial goes back where NCCL was chosen. */
static void measure_and_count(test_rank *r)
{
    for (int i = 0; i < 2; i++) {
        if (!r->rc) r->rc = comm_barrier_all(r->host, &r->e);
        if (r->rank == 0) live[i] = r->a->count->live;
        if (!r->rc) r->rc = comm_barrier_all(r->host, &r->e);
        if (!r->rc && !i) measure(r);
    }
}

static void a_host_without_room_is_not_tried(void **state)
{
    (void)state;
    for (int small = 0; small < 2; small++) {
        test_rank r[2] = { { .host_is_small = small }, { .host_is_small = small } };
        test_nccl_fresh();
        test_nccl_ranks(r, 2, WAIT_US, measure_and_count);
        all_ok(r, 2);
        assert_int_equal(measured[0].there[COMM_STAGED], !small);
        if (measured[0].chosen != COMM_STAGED) assert_int_equal(live[0], live[1]);
        else assert_false(small);
    }
}

/* Alone nothing goes over the host, so that only these two can win. */
static void of_two_the_faster_or_the_right_one(void **state)
{
    static const struct { unsigned delay[2]; bool wrong[2], no_window; int version; comm_algorithm want; px_code rc; } row[] = {
        { { 1500, 0 }, { false, false }, false, 22809, COMM_SYMMETRIC, PX_OK },
        { { 0, 1500 }, { false, false }, false, 22809, COMM_PLAIN, PX_OK },
        { { 1500, 0 }, { false, true }, false, 22809, COMM_PLAIN, PX_OK },
        { { 0, 1500 }, { true, false }, false, 22809, COMM_SYMMETRIC, PX_OK },
        { { 0, 0 }, { false, false }, true, 22809, COMM_PLAIN, PX_OK },
        { { 0, 0 }, { false, false }, false, 22602, COMM_PLAIN, PX_OK },
        { { 0, 0 }, { true, true }, false, 22809, COMM_PLAIN, PX_ECORRUPT },
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        test_rank r = { .args.alone = true };
        test_nccl_fresh();
        memcpy(test_nccl->delay_us, row[i].delay, sizeof row[i].delay);
        memcpy(test_nccl->wrong, row[i].wrong, sizeof row[i].wrong);
        test_nccl->no_window = row[i].no_window;
        test_nccl->version = row[i].version;
        test_nccl_ranks(&r, 1, WAIT_US, measure_alone);
        assert_int_equal(r.rc, row[i].rc);
        if (!r.rc) assert_int_equal(measured[0].chosen, row[i].want);
        else assert_string_equal(r.e.field, "selftest");
        assert_int_equal(measured[0].there[COMM_SYMMETRIC], !row[i].no_window && row[i].version >= 22700);
    }
}

static void measure_badly(test_rank *r)
{
    comm_measured m;

    if (r->rc) return;
    assert_int_equal(comm_measure_all(r->c, 402, &m, &r->e), PX_ERANGE);
    assert_string_equal(r->e.field, "row_bytes");
}

/* ---- what is not there ---- */

static void alone_needs_no_library(void **state)
{
    test_rank r = {0};

    (void)state;
    test_nccl_fresh();
    test_nccl_absent = true;
    test_nccl_ranks(&r, 1, WAIT_US, some_rounds);
    all_ok(&r, 1);
    assert_int_equal(test_nccl_opened, 0);
    r = (test_rank){ .args.alone = true };
    test_nccl_absent = false;
    test_nccl_ranks(&r, 1, WAIT_US, measure_badly);
}

static void the_library_is_absent(void **state)
{
    test_rank r[2] = {0};
    char version[16] = "x";

    (void)state;
    test_nccl_fresh();
    test_nccl_absent = true;
    test_nccl_ranks(r, 2, WAIT_US, NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r[i].rc, PX_EUNSUP);
        assert_string_equal(r[i].e.field, "nccl");
        assert_non_null(strstr(r[i].e.found, "libphalanx-there-is-none.so.2: cannot open"));
    }
    comm_nccl_version(version, sizeof version);
    assert_string_equal(version, "");
    test_nccl_absent = false;
    comm_nccl_version(version, sizeof version);
    assert_string_equal(version, "2.28.9");
    comm_nccl_version_text(2408, version, sizeof version);
    assert_string_equal(version, "2.4.8");
}

static void one_host_lacks_it_or_has_another(void **state)
{
    (void)state;
    for (int other = 0; other < 2; other++) {
        test_rank r[3] = {0};
        test_nccl_fresh();
        if (other) r[1].version = 22703;
        else r[1].lacks_nccl = true;
        test_nccl_ranks(r, 3, WAIT_US, NULL);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(r[i].rc, other ? PX_EMISMATCH : i == 1 ? PX_EUNSUP : PX_EPEER);
            assert_string_equal(r[i].e.field, "nccl");
            if (other) assert_string_equal(r[i].e.found, "2.27.3");
            if (other || i != 1) assert_non_null(strstr(r[i].e.text, "rank 1"));
        }
    }
}

static void it_is_too_old(void **state)
{
    test_rank r[2] = {0};

    (void)state;
    test_nccl_fresh();
    test_nccl->version = 21705;
    test_nccl_ranks(r, 2, WAIT_US, NULL);
    assert_int_equal(r[0].rc, PX_EUNSUP);
    assert_string_equal(r[0].e.found, "2.17.5");
    assert_string_equal(r[0].e.expected, "2.18.0");
}

static void a_function_is_missing(void **state)
{
    static const char *const needed[] = { "ncclGetVersion", "ncclGetUniqueId", "ncclCommInitRankConfig", "ncclCommGetAsyncError",
                                          "ncclCommFinalize", "ncclCommDestroy", "ncclCommAbort", "ncclAllReduce",
                                          "ncclGetErrorString", "ncclGetLastError" };
    static const char *const spared[] = { "ncclMemAlloc", "ncclMemFree", "ncclCommWindowRegister", "ncclCommWindowDeregister" };

    (void)state;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        test_rank r[2] = {0};
        test_nccl_fresh();
        test_nccl_lacks = needed[i];
        test_nccl_ranks(r, 2, WAIT_US, NULL);
        assert_int_equal(r[1].rc, PX_EUNSUP);
        assert_string_equal(r[1].e.expected, needed[i]);
    }
    for (size_t i = 0; i < sizeof spared / sizeof *spared; i++) {
        test_rank r[2] = {0};
        test_nccl_fresh();
        test_nccl_lacks = spared[i];
        test_nccl_ranks(r, 2, WAIT_US, some_rounds);
        all_ok(r, 2);
        assert_int_equal(test_nccl->sums[0], 12);
        assert_int_equal(test_nccl->sums[1], 0);
    }
}

/* ---- `reduce` ---- */

static void open_by_reduce(test_rank *r)
{
    static const struct { comm_reduce how; const char *name; } row[] = {
        { COMM_REDUCE_AUTO, "nccl" }, { COMM_REDUCE_NCCL, "nccl" }, { COMM_REDUCE_ORDERED, "staged" } };

    for (size_t i = 0; i < sizeof row / sizeof *row && !r->rc; i++) {
        comm *c = NULL;
        if ((r->rc = comm_open_device_all(&c, r->a, &r->args, row[i].how, &r->e))) return;
        if (strcmp(comm_name(c), r->world == 1 ? "staged" : row[i].name))
            r->rc = px_fail(&r->e, PX_EINTERNAL, "name", "%s for %d", comm_name(c), (int)row[i].how);
        if (!r->rc) r->rc = comm_barrier_all(r->host, &r->e);
        comm_close(c);
    }
}

static void close_and_open_by_reduce(test_rank *r)
{
    comm_close(r->c);
    r->c = NULL;
    if (!r->rc) r->rc = comm_barrier_all(r->host, &r->e);
    if (!r->rc) open_by_reduce(r);
}

static void reduce_names_the_transport(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 2; n++) {
        test_rank r[2] = {0};
        test_nccl_fresh();
        test_nccl_ranks(r, n, WAIT_US, close_and_open_by_reduce);
        all_ok(r, n);
    }
}

/* ---- memory ---- */

static void measured_too(test_rank *r)
{
    comm_watch *w = NULL;

    if (!r->rc) r->rc = comm_measure_all(r->c, PARTIAL, &measured[0], &r->e);
    if (!r->rc) r->rc = comm_watch_open(&w, r->a, r->c, &r->e);
    comm_watch_close(w);
}

static px_code open_and_close(px_alloc *a, px_err *e)
{
    test_rank r = { .world = 1, .a = a, .args = { .alone = true, .timeout_us = WAIT_US } };

    test_nccl_fresh();
    test_nccl_rank(&r, &(comm_args){ .kind = COMM_LOCAL, .world = 1, .partial_bytes = PARTIAL, .gather_bytes = 40 }, measured_too);
    *e = r.e;
    return r.rc;
}

static void every_oom_is_survived(void **state)
{
    (void)state;
    test_oom_sweep(open_and_close);
    test_nccl_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_right),
        cmocka_unit_test(what_is_done_is_not_late),
        cmocka_unit_test(sums_are_right_between_processes),
        cmocka_unit_test(a_graph_holds_it),
        cmocka_unit_test(the_slow_way_is_not_chosen),
        cmocka_unit_test(wrong_sums_are_not_chosen),
        cmocka_unit_test(a_host_without_room_is_not_tried),
        cmocka_unit_test(of_two_the_faster_or_the_right_one),
        cmocka_unit_test(alone_needs_no_library),
        cmocka_unit_test(the_library_is_absent),
        cmocka_unit_test(one_host_lacks_it_or_has_another),
        cmocka_unit_test(it_is_too_old),
        cmocka_unit_test(a_function_is_missing),
        cmocka_unit_test(reduce_names_the_transport),
        cmocka_unit_test(every_oom_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
