/* nccl on a GPU, with the NCCL that is there: a communicator of one rank, out of place, in graphs, in a window, aborted.
 * Prints what it takes and the times.  Without a GPU or NCCL it is skipped, and says what is missing. */
#include "comm/device.h"
#include "kernels/cuda/open.h"
#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>

#define FLOATS  (256u * 8192u)                         /* 256 rows of a 70B model */
#define PARTIAL (FLOATS * sizeof(float))
#define OWN_GRAPH     0u
#define MEASURE_GRAPH 1u
#define SOON_US (4 * (px_time_us)1000000)              /* less than a close waits before it aborts */

static px_heap heap;
static const kern_ops *ops;
static kern_dev *dev;
static comm *host, *c;
static px_err e;
static float in[FLOATS], out[FLOATS];

static void ok(px_code rc)
{
    char text[700];

    if (rc) fail_msg("%s", px_err_format(&e, text, sizeof text));
}

static px_code get(void *ctx, size_t bytes, void **p, px_err *err)
{
    kern_buf b = {0};
    px_code rc = ops->alloc(ctx, bytes, &b, err);

    *p = b.h;
    return rc;
}

static void put(void *ctx, void *p, size_t bytes) { ops->free(ctx, &(kern_buf){ .h = p, .bytes = bytes }); }

static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *err)
{
    return ops->download(ctx, dst, (kern_buf){ .h = (void *)(uintptr_t)src, .bytes = bytes }, bytes, err);
}

static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *err)
{
    return ops->upload(ctx, (kern_buf){ .h = dst, .bytes = bytes }, src, bytes, err);
}

static px_code record(void *ctx, px_err *err) { return ops->record(ctx, MEASURE_GRAPH, err); }
static px_code end(void *ctx, px_err *err) { return ops->end(ctx, err); }

static px_code replay(void *ctx, px_err *err)
{
    bool done = false;
    px_code rc = ops->replay(ctx, MEASURE_GRAPH, &done, err);

    return rc || done ? rc : px_fail(err, PX_EINTERNAL, "graph", "none was kept");
}

static comm_device device;

static int up(void **state)
{
    kern_info before, after;

    (void)state;
    px_err_clear(&e);
    ok(ops->open(&dev, &heap.a, &(kern_open_args){ .threads = 1 }, &e));
    device = (comm_device){ .ctx = dev, .queue = ops->native_queue(dev), .get = get, .put = put, .to_host = to_host,
                            .to_device = to_device, .record = record, .end = end, .replay = replay };
    ok(comm_open(&host, &heap.a, &(comm_args){ .kind = COMM_LOCAL, .world = 1, .partial_bytes = 64, .gather_bytes = 64 }, &e));
    ok(ops->info(dev, &before, &e));
    const px_time_us begun = px_now_us();
    ok(comm_open_nccl_all(&c, &heap.a, &(comm_device_args){ .device = &device, .host = host, .partial_bytes = PARTIAL, .alone = true }, &e));
    const px_time_us took = px_now_us() - begun;
    ok(ops->info(dev, &after, &e));
    printf("opened in %lld ms, %.1f MiB of the device, of which %.1f are the buffers\n", (long long)took / 1000,
           (double)(before.free_bytes - after.free_bytes) / 1048576, 3 * (double)PARTIAL / 1048576);
    return 0;
}

static int down(void **state)
{
    const px_time_us begun = px_now_us();

    (void)state;
    comm_close(c);
    const px_time_us took = px_now_us() - begun;
    comm_close(host);
    ops->close(dev);
    c = host = NULL;
    dev = NULL;
    return heap.count.live || took > SOON_US;
}

/* Of one rank: the partial sum's own bits, in another buffer. */
static void fill(unsigned which, unsigned round, size_t n)
{
    for (size_t i = 0; i < n; i++) in[i] = (float)((i * 2654435761u + round) % 65521) / 64 - 500;
    ok(to_device(dev, comm_partial(c, which), in, n * sizeof *in, &e));
}

static void same(const float *sum, size_t n)
{
    ok(to_host(dev, out, sum, n * sizeof *out, &e));
    assert_memory_equal(out, in, n * sizeof *out);
}

static void sums_out_of_place(void **state)
{
    const float *const *views;
    uint32_t n_views;

    (void)state;
    ok(to_host(dev, out, comm_partial(c, 1), PARTIAL, &e));
    for (size_t i = 0; i < FLOATS; i++) assert_true(out[i] == 0);
    for (unsigned round = 0; round < 8; round++) {
        const size_t n = round ? FLOATS >> round : FLOATS;
        fill(round % 2, round, n);
        ok(comm_reduce_views_all(c, round % 2, n * sizeof *in, &views, &n_views, &e));
        assert_int_equal(n_views, 1);
        assert_ptr_not_equal(views[0], comm_partial(c, round % 2));
        same(views[0], n);
        ok(comm_poll(c, &e));
    }
}

static void sums_in_a_graph(void **state)
{
    const float *const *views;
    uint32_t n_views;
    bool done;

    (void)state;
    fill(0, 0, FLOATS);
    ok(comm_reduce_views_all(c, 0, PARTIAL, &views, &n_views, &e));        /* once op by op: NCCL connects at the first call */
    ok(ops->wait(dev, &e));
    ok(ops->record(dev, OWN_GRAPH, &e));
    for (int i = 0; i < 3; i++) ok(comm_reduce_views_all(c, 0, PARTIAL, &views, &n_views, &e));
    ok(ops->end(dev, &e));
    for (unsigned round = 1; round < 4; round++) {
        fill(0, round, FLOATS);
        ok(ops->replay(dev, OWN_GRAPH, &done, &e));
        assert_true(done);
        same(views[0], FLOATS);
    }
    ok(ops->record(dev, OWN_GRAPH, &e));                   /* an empty one in its place, or NCCL does not end */
    ok(ops->end(dev, &e));
}

static void a_measurement(void **state)
{
    const float *const *views;
    uint32_t n_views;
    comm_measured m;

    (void)state;
    ok(comm_measure_all(c, 8192 * sizeof(float), &m, &e));
    assert_true(m.there[COMM_PLAIN] && !m.wrong[COMM_PLAIN] && m.graphs && m.n == 9);
    printf("chosen: %s\nbytes,us_nccl,us_symmetric\n", comm_algorithm_name(m.chosen));
    for (uint32_t i = 0; i < m.n; i++)
        printf("%zu,%.2f,%.2f\n", m.at[i].bytes, (double)m.at[i].us[COMM_PLAIN], (double)m.at[i].us[COMM_SYMMETRIC]);
    fill(1, 9, 4096);
    ok(comm_reduce_views_all(c, 1, 4096 * sizeof(float), &views, &n_views, &e));
    same(views[0], 4096);
}

static void an_abort(void **state)
{
    const float *const *views;
    uint32_t n_views;

    (void)state;
    comm_abort(c);
    comm_abort(c);
    assert_int_equal(comm_poll(c, &e), PX_EPEER);
    px_err_clear(&e);
    assert_int_equal(comm_reduce_views_all(c, 0, 64, &views, &n_views, &e), PX_EPEER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sums_out_of_place, up, down),
        cmocka_unit_test_setup_teardown(sums_in_a_graph, up, down),
        cmocka_unit_test_setup_teardown(a_measurement, up, down),
        cmocka_unit_test_setup_teardown(an_abort, up, down),
    };
    char version[32], text[700];

    if (kern_cuda_ops(&ops, TEST_CUDA_PLUGIN, &e)) {
        printf("SKIPPED: %s\n", px_err_format(&e, text, sizeof text));
        return !strcmp(e.field, "driver") || !strcmp(e.field, "device") ? 77 : 1;
    }
    comm_nccl_version(version, sizeof version);
    if (!version[0]) {
        printf("SKIPPED: libnccl.so.2 cannot be opened\n");
        return 77;
    }
    printf("NCCL %s\n", version);
    px_heap_init(&heap, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
