/* staged: sums between devices have the bits of the tree, whatever host transport carries them; what fails says so and
 * holds nothing. The device is a piece of host memory that no transport may touch but through its functions. */
#include "comm/device.h"
#include "comm/table.h"
#include "proto/base/tree.h"
#include "tests/testlib.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST    5u
#define FLOATS  700u
#define PARTIAL (FLOATS * sizeof(float))
#define GATHER  333u
#define ROUNDS  6u

static px_heap heap;

static float value(uint32_t rank, unsigned round, size_t i)
{
    uint64_t s = (uint64_t)rank << 40 ^ (uint64_t)round << 20 ^ i;
    uint64_t z = test_rand(&s);
    return (float)(int32_t)(uint32_t)z * 0x1p-31f * (float)(1u << (z >> 60));
}

/* ---- a device of host memory: an address there is the host's with its bits turned, so that touching it is a fault ---- */

#define TURN ((uintptr_t)1 << 62)

typedef struct device { int calls, fail_at; size_t held; } device;

static void *over(void *p) { return (void *)((uintptr_t)p ^ TURN); }

static bool fails(device *d) { return ++d->calls == d->fail_at; }

static px_code get(void *ctx, size_t bytes, void **out, px_err *e)
{
    device *d = ctx;
    void *p = NULL;
    if (fails(d) || posix_memalign(&p, 256, bytes)) return px_fail(e, PX_ENOMEM, "device", "%zu bytes", bytes);
    memset(p, 0, bytes);
    d->held += bytes;
    *out = over(p);
    return PX_OK;
}

static void put(void *ctx, void *p, size_t bytes)
{
    ((device *)ctx)->held -= bytes;
    free(over(p));
}

static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    if (fails(ctx)) return px_fail(e, PX_EIO, "device", "the copy to the host failed");
    memcpy(dst, over((void *)(uintptr_t)src), bytes);
    return PX_OK;
}

static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    if (fails(ctx)) return px_fail(e, PX_EIO, "device", "the copy to the device failed");
    memcpy(over(dst), src, bytes);
    return PX_OK;
}

static comm_device device_of(device *d)
{
    return (comm_device){ .ctx = d, .get = get, .put = put, .to_host = to_host, .to_device = to_device };
}

/* ---- ranks as threads ---- */

typedef struct job {
    comm_kind kind; comm_local_group *group; int fd;
    uint32_t rank, n;
    char wrong[200];
} job;

static comm *host_of(const job *j, px_err *e)
{
    comm *c = NULL;
    comm_open(&c, &heap.a, &(comm_args){ .kind = j->kind, .rank = j->rank, .world = j->n, .partial_bytes = PARTIAL,
                                         .gather_bytes = GATHER, .timeout_us = 20 * 1000000, .shm_fd = j->fd,
                                         .group = j->group }, e);
    return c;
}

static void check_round(job *j, comm *c, unsigned round)
{
    const size_t len = round == 1 ? 1 : FLOATS - round;
    float in[FLOATS], want[FLOATS], *got;
    const float *const *views;
    px_err e = {0};
    uint32_t n = 0;

    for (size_t i = 0; i < len; i++) {
        float each[MOST];
        const float *view[MOST];
        for (uint32_t r = 0; r < j->n; r++) {
            each[r] = value(r, round, i);
            view[r] = &each[r];
        }
        in[i] = each[j->rank];
        want[i] = px_tree_sum(view, j->n, 0);
    }
    memcpy(over(comm_partial(c, round % 2)), in, len * sizeof *in);
    if (comm_reduce_views_all(c, round % 2, len * sizeof *in, &views, &n, &e)) {
        px_err_format(&e, j->wrong, sizeof j->wrong);
        return;
    }
    got = over((void *)(uintptr_t)views[0]);
    if (n != 1) snprintf(j->wrong, sizeof j->wrong, "%u views", n);
    else if (memcmp(got, want, len * sizeof *want)) snprintf(j->wrong, sizeof j->wrong, "round %u: other sums", round);
}

static void *run(void *arg)
{
    job *j = arg;
    device d = {0};
    const comm_device on = device_of(&d);
    uint8_t mine[GATHER], all[MOST * GATHER];
    px_err e = {0};
    comm *c = NULL, *host = host_of(j, &e);

    if (!host || comm_open_staged(&c, &heap.a, &(comm_device_args){ .device = &on, .host = host, .partial_bytes = PARTIAL }, &e)) {
        px_err_format(&e, j->wrong, sizeof j->wrong);
        comm_close(host);
        return NULL;
    }
    if (d.held != comm_device_bytes(j->n, PARTIAL)) snprintf(j->wrong, sizeof j->wrong, "%zu bytes held", d.held);
    for (unsigned round = 0; round < ROUNDS && !j->wrong[0]; round++) check_round(j, c, round);
    memset(mine, 'a' + (int)j->rank, sizeof mine);
    if (!j->wrong[0] && (comm_gather_all(c, mine, sizeof mine, all, &e) || comm_barrier_all(c, &e))) px_err_format(&e, j->wrong, sizeof j->wrong);
    for (uint32_t r = 0; r < j->n && !j->wrong[0]; r++)
        if (all[r * GATHER] != 'a' + r || all[(r + 1) * GATHER - 1] != 'a' + r) snprintf(j->wrong, sizeof j->wrong, "gathered wrong");
    comm_close(c);
    comm_close(host);
    if (d.held && !j->wrong[0]) snprintf(j->wrong, sizeof j->wrong, "%zu bytes left", d.held);
    return NULL;
}

static void world_of(comm_kind kind, uint32_t n)
{
    comm_local_group *group = NULL;
    pthread_t t[MOST];
    job j[MOST];
    px_err e = {0};
    int fd = -1;

    if (kind == COMM_LOCAL) assert_int_equal(comm_local_group_open(&group, &heap.a, n, &e), PX_OK);
    else assert_int_equal(px_memfd("comm-test", comm_shm_bytes(n, PARTIAL, GATHER), &fd, &e), PX_OK);
    for (uint32_t r = 0; r < n; r++) {
        j[r] = (job){ .kind = kind, .group = group, .fd = fd, .rank = r, .n = n };
        assert_int_equal(pthread_create(&t[r], NULL, run, &j[r]), 0);
    }
    for (uint32_t r = 0; r < n; r++) pthread_join(t[r], NULL);
    for (uint32_t r = 0; r < n; r++)
        if (j[r].wrong[0]) fail_msg("kind %d, rank %u of %u: %s", (int)kind, r, n, j[r].wrong);
    comm_local_group_close(group);
    if (fd >= 0) close(fd);
}

static void sums_have_the_bits_of_the_tree(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MOST; n++) {
        world_of(COMM_LOCAL, n);
        world_of(COMM_SHM, n);
    }
}

/* ---- one rank: what can be seen without peers ---- */

static void a_world_of_one_copies_nothing(void **state)
{
    device d = {0};
    const comm_device on = device_of(&d);
    px_err e = {0};
    job j = { .kind = COMM_LOCAL, .n = 1, .fd = -1 };
    comm *c = NULL, *host = host_of(&j, &e);
    const float *const *views;
    uint32_t n;
    int calls;

    (void)state;
    assert_int_equal(comm_open_staged(&c, &heap.a, &(comm_device_args){ .device = &on, .host = host, .partial_bytes = PARTIAL }, &e), PX_OK);
    assert_true(comm_captures(c));
    assert_string_equal(comm_name(c), "staged");
    calls = d.calls;
    for (int i = 0; i < 3; i++) {                      /* the same buffer again and again: a graph that is replayed does that */
        assert_int_equal(comm_reduce_views_all(c, 0, PARTIAL, &views, &n, &e), PX_OK);
        assert_int_equal(n, 1);
        assert_ptr_equal(views[0], comm_partial(c, 0));
    }
    assert_int_equal(d.calls, calls);
    comm_close(c);
    assert_int_equal(d.held, 0);
    assert_int_equal(comm_open_staged(&c, &heap.a, &(comm_device_args){ .device = &on, .host = host, .partial_bytes = PARTIAL + 4 }, &e), PX_ERANGE);
    assert_null(c);
    comm_close(host);
}

/* The first get and every one after it: the error, and nothing held. */
static void a_device_without_memory_leaves_nothing(void **state)
{
    comm_local_group *group = NULL;
    px_err e = {0};
    job j = { .kind = COMM_LOCAL, .n = 2, .fd = -1 };

    (void)state;
    assert_int_equal(comm_local_group_open(&group, &heap.a, 2, &e), PX_OK);
    j.group = group;
    comm *host = host_of(&j, &e), *c;
    for (int at = 1; at <= 3; at++) {
        device d = { .fail_at = at };
        const comm_device on = device_of(&d);
        assert_int_equal(comm_open_staged(&c, &heap.a, &(comm_device_args){ .device = &on, .host = host, .partial_bytes = PARTIAL }, &e), PX_ENOMEM);
        assert_null(c);
        assert_int_equal(d.held, 0);
    }
    comm_close(host);
    comm_local_group_close(group);
}

/* A copy that fails ends the comm: the ranks are no longer in step. */
static void a_copy_that_fails_ends_it(void **state)
{
    comm_local_group *group = NULL;
    px_err e = {0};
    job j = { .kind = COMM_LOCAL, .n = 2, .fd = -1 };
    device d = { .fail_at = 4 };                       /* three buffers are taken first */
    const comm_device on = device_of(&d);
    const float *const *views;
    uint32_t n;

    (void)state;
    assert_int_equal(comm_local_group_open(&group, &heap.a, 2, &e), PX_OK);
    j.group = group;
    comm *host = host_of(&j, &e), *c;
    assert_int_equal(comm_open_staged(&c, &heap.a, &(comm_device_args){ .device = &on, .host = host, .partial_bytes = PARTIAL }, &e), PX_OK);
    assert_int_equal(comm_reduce_views_all(c, 0, PARTIAL, &views, &n, &e), PX_EIO);
    px_err_clear(&e);
    assert_int_equal(comm_reduce_views_all(c, 1, PARTIAL, &views, &n, &e), PX_EPEER);
    comm_close(c);
    comm_close(host);
    comm_local_group_close(group);
    assert_int_equal(d.held, 0);
}

static void sizes_are_bounded(void **state)
{
    (void)state;
    assert_int_equal(comm_device_bytes(1, 1000), 2 * 1024);
    assert_int_equal(comm_device_bytes(8, 1000), 3 * 1024);
    assert_int_equal(comm_device_bytes(0, 1000), 0);
    assert_int_equal(comm_device_bytes(COMM_MAX_WORLD + 1, 1000), 0);
    assert_int_equal(comm_device_bytes(2, SIZE_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_have_the_bits_of_the_tree),
        cmocka_unit_test(a_world_of_one_copies_nothing),
        cmocka_unit_test(a_device_without_memory_leaves_nothing),
        cmocka_unit_test(a_copy_that_fails_ends_it),
        cmocka_unit_test(sizes_are_bounded),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
