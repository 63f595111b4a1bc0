/* device_test.c - the CUDA device on the host build's runtime: memory, the ring, graphs, and an error in every call. */
#include "tests/testlib.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda/plugin.h"
#include "tests/cuda_host/cuda_host.h"

#define PIECE ((size_t)KERN_CUDA_PIECE_BYTES)

/* The matmul's library is another file's matter; here it is something that is opened last and may fail. */
px_code kern_cuda_blas_open(kern_dev *d, px_err *e)
{
    d->blas = px_new(d->a, char, 16);
    return d->blas ? PX_OK : px_fail(e, PX_ENOMEM, "blas", "16 bytes");
}
void kern_cuda_blas_close(kern_dev *d)
{
    if (d->blas) px_alloc_put(d->a, d->blas, 16, 1);
    d->blas = NULL;
}

static px_heap heap;
static kern_dev *d;
static px_err e;

static void ok(px_code rc)
{
    if (rc) fail_msg("%s: %s: %s", px_code_name(rc), e.field, e.text);
}

/* That `rc` is this code, about this field; clears e. */
static void refused(px_code rc, px_code code, const char *field)
{
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    px_err_clear(&e);
}

static void configure(bool lazy)
{
    cuh_config c = cuh_defaults();

    c.lazy = lazy;
    cuh_inject_nothing();
    cuh_configure(&c);
}

static int up(void **state)
{
    (void)state;
    configure(true);
    px_err_clear(&e);
    px_heap_init(&heap, "test");
    ok(kern_cuda_open(&d, &heap.a, &(kern_open_args){ .threads = 2 }, &e));
    return 0;
}

static int down(void **state)
{
    (void)state;
    cuh_inject_nothing();
    kern_cuda_close(d);
    d = NULL;
    assert_int_equal(atomic_load(&heap.count.live), 0);
    assert_int_equal(cuh_live_bytes(), 0);
    px_heap_deinit(&heap);
    return 0;
}

/* ---- memory ---- */

static void memory_is_zeroed_counted_and_bounded(void **state)
{
    uint8_t host[64] = { 1, 2, 3 }, back[64];
    kern_buf b, none;
    kern_info info;

    (void)state;
    ok(kern_cuda_alloc(d, 1000, &b, &e));
    assert_int_equal((uintptr_t)b.h % 64, 0);
    memset(back, 7, sizeof back);
    ok(kern_cuda_download(d, back, kern_buf_at(b, 936, 64), 64, &e));
    for (int i = 0; i < 64; i++) assert_int_equal(back[i], 0);
    ok(kern_cuda_upload(d, kern_buf_at(b, 101, 64), host, 64, &e));
    ok(kern_cuda_download(d, back, kern_buf_at(b, 101, 64), 64, &e));
    assert_memory_equal(host, back, 64);
    refused(kern_cuda_upload(d, kern_buf_at(b, 0, 63), host, 64, &e), PX_EINTERNAL, "upload.dst");
    refused(kern_cuda_download(d, back, kern_buf_at(b, 0, 63), 64, &e), PX_EINTERNAL, "download.src");
    ok(kern_cuda_info(d, &info, &e));
    assert_int_equal(info.held_bytes, 1000);
    assert_int_equal(info.arch, 80);
    assert_string_equal(info.name, "host");
    assert_int_equal(info.total_bytes, cuh_current().memory_bytes);
    assert_true(info.free_bytes + 1000 <= info.total_bytes);
    assert_true(info.driver[0] && info.runtime[0]);
    ok(kern_cuda_alloc(d, 0, &none, &e));
    assert_int_equal(none.bytes, 0);
    refused(kern_cuda_alloc(d, cuh_current().memory_bytes, &(kern_buf){0}, &e), PX_ENOMEM, "kern_buf");
    kern_cuda_free(d, &none);
    kern_cuda_free(d, &b);
    kern_cuda_free(d, &b);                                 /* nothing left: legal */
    assert_null(b.h);
    assert_int_equal(d->held_bytes, 0);
    ok(kern_cuda_alloc(d, 8, &b, &e));                     /* a failed one leaves no error behind */
    kern_cuda_free(d, &b);
}

static void only_memory_that_the_device_reaches_is_wrapped(void **state)
{
    uint8_t pageable[64];
    void *pinned;
    kern_buf b, w;

    (void)state;
    refused(kern_cuda_wrap(d, pageable, sizeof pageable, &w, &e), PX_EINTERNAL, "wrap.host");
    refused(kern_cuda_wrap(d, NULL, 1, &w, &e), PX_EINTERNAL, "wrap.host");
    ok(kern_cuda_wrap(d, NULL, 0, &w, &e));
    ok(kern_cuda_alloc(d, 64, &b, &e));
    ok(kern_cuda_wrap(d, b.h, 64, &w, &e));
    assert_ptr_equal(w.h, b.h);
    kern_cuda_free(d, &b);
    assert_int_equal(cudaMallocHost(&pinned, 64), cudaSuccess);
    ok(kern_cuda_wrap(d, pinned, 64, &w, &e));
    assert_non_null(w.h);
    assert_int_equal(w.bytes, 64);
    assert_int_equal(cudaFreeHost(pinned), cudaSuccess);
}

/* ---- the ring ---- */

static uint8_t *noise(size_t n, uint64_t seed)
{
    uint8_t *p = malloc(n);

    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0) test_rand(&seed);
        p[i] = (uint8_t)(seed >> (i % 8 * 8));
    }
    return p;
}

/* What was given can be written over when upload returns, although the device has done nothing yet: streams are lazy. */
static void uploads_survive_their_source_and_go_round_the_ring(void **state)
{
    static const size_t size[] = { 1, 63, PIECE - 1, 2, PIECE, 65, PIECE + 1, 3 * PIECE + 17, 4096, 7 };
    const size_t total = (size_t)KERN_CUDA_RING_BYTES * 2 + 12345, n_sizes = sizeof size / sizeof *size;
    uint8_t *want = noise(total, 1), *step = malloc(4 * PIECE), *got = malloc(total);
    kern_buf b;

    (void)state;
    assert_true(step && got);
    ok(kern_cuda_alloc(d, total, &b, &e));
    for (size_t at = 0, i = 0; at < total; i++) {
        const size_t n = total - at < size[i % n_sizes] ? total - at : size[i % n_sizes];

        memcpy(step, want + at, n);
        ok(kern_cuda_upload(d, kern_buf_at(b, at, n), step, n, &e));
        memset(step, 0xee, n);
        at += n;
    }
    ok(kern_cuda_download(d, got, b, total, &e));
    assert_memory_equal(got, want, total);
    /* More than the ring in one call, and it is not behind what came before. */
    memset(got, 0, total);
    ok(kern_cuda_upload(d, kern_buf_at(b, 1, total - 1), want, total - 1, &e));
    ok(kern_cuda_download(d, got, kern_buf_at(b, 1, total - 1), total - 1, &e));
    assert_memory_equal(got, want, total - 1);
    kern_cuda_free(d, &b);
    free(want), free(step), free(got);
}

static void small_uploads_share_a_piece(void **state)
{
    const unsigned long events = cuh_calls("cudaEventRecord");
    uint32_t v = 0;
    kern_buf b;

    (void)state;
    ok(kern_cuda_alloc(d, 4096, &b, &e));
    for (uint32_t i = 0; i < 1000; i++) ok(kern_cuda_upload(d, kern_buf_at(b, i * 4, 4), &i, 4, &e));
    assert_int_equal(cuh_calls("cudaEventRecord"), events);
    ok(kern_cuda_download(d, &v, kern_buf_at(b, 999 * 4, 4), 4, &e));
    assert_int_equal(v, 999);
    kern_cuda_free(d, &b);
}

/* ---- graphs ---- */

static void put_copy(kern_buf to, kern_buf from)
{
    assert_int_equal(cudaMemcpyAsync(to.h, from.h, 4, cudaMemcpyDeviceToDevice, kern_cuda_native_queue(d)), cudaSuccess);
}

static uint32_t value(kern_buf b)
{
    uint32_t v;

    ok(kern_cuda_download(d, &v, b, 4, &e));
    return v;
}

static void set(kern_buf b, uint32_t v) { ok(kern_cuda_upload(d, b, &v, 4, &e)); }

static void what_was_recorded_is_replayed_on_what_is_there_now(void **state)
{
    kern_buf a, b, c;
    bool replayed = true;

    (void)state;
    ok(kern_cuda_alloc(d, 4, &a, &e));
    ok(kern_cuda_alloc(d, 4, &b, &e));
    ok(kern_cuda_alloc(d, 4, &c, &e));
    ok(kern_cuda_replay(d, 7, &replayed, &e));
    assert_false(replayed);                                /* no such graph: run the ops */
    const size_t gets = atomic_load(&heap.count.gets);
    set(a, 1);
    ok(kern_cuda_record(d, 7, &e));
    put_copy(b, a);
    ok(kern_cuda_end(d, &e));
    assert_int_equal(value(b), 0);                         /* kept, not run */
    for (uint32_t v = 5; v < 8; v++) {
        set(a, v);
        ok(kern_cuda_replay(d, 7, &replayed, &e));
        assert_true(replayed);
        assert_int_equal(value(b), v);
    }
    ok(kern_cuda_record(d, 7, &e));                        /* replaces */
    put_copy(c, a);
    ok(kern_cuda_end(d, &e));
    set(a, 9);
    ok(kern_cuda_replay(d, 7, &replayed, &e));
    assert_int_equal(value(c), 9);
    assert_int_equal(value(b), 7);
    ok(kern_cuda_record(d, 7, &e));                        /* by nothing: it is gone, and the ops are run again */
    ok(kern_cuda_end(d, &e));
    ok(kern_cuda_replay(d, 7, &replayed, &e));
    assert_false(replayed);
    assert_int_equal(atomic_load(&heap.count.gets), gets);
    kern_cuda_free(d, &a), kern_cuda_free(d, &b), kern_cuda_free(d, &c);
}

static void a_record_refuses_what_a_graph_cannot_hold(void **state)
{
    uint32_t v = 0;
    bool replayed;
    kern_info info;
    kern_buf b, other;

    (void)state;
    ok(kern_cuda_alloc(d, 8, &b, &e));
    refused(kern_cuda_end(d, &e), PX_EINVAL, "end");
    ok(kern_cuda_record(d, 1, &e));
    refused(kern_cuda_record(d, 2, &e), PX_EINVAL, "record");
    refused(kern_cuda_upload(d, b, &v, 4, &e), PX_EINVAL, "upload");
    refused(kern_cuda_download(d, &v, b, 4, &e), PX_EINVAL, "download");
    refused(kern_cuda_alloc(d, 4, &other, &e), PX_EINVAL, "alloc");
    refused(kern_cuda_wait(d, &e), PX_EINVAL, "wait");
    refused(kern_cuda_info(d, &info, &e), PX_EINVAL, "info");
    refused(kern_cuda_replay(d, 1, &replayed, &e), PX_EINVAL, "replay");
    put_copy(kern_buf_at(b, 4, 4), b);
    ok(kern_cuda_end(d, &e));                              /* none of them spoilt it */
    ok(kern_cuda_replay(d, 1, &replayed, &e));
    assert_true(replayed);
    kern_cuda_free(d, &b);
    ok(kern_cuda_record(d, 3, &e));                        /* down() closes a device that records */
}

static void graphs_are_as_many_as_said(void **state)
{
    kern_buf b;

    (void)state;
    ok(kern_cuda_alloc(d, 8, &b, &e));
    for (uint32_t id = 1000; id < 1000 + KERN_CUDA_MAX_GRAPHS; id++) {
        ok(kern_cuda_record(d, id, &e));
        put_copy(kern_buf_at(b, 4, 4), b);
        ok(kern_cuda_end(d, &e));
    }
    refused(kern_cuda_record(d, 1, &e), PX_ERANGE, "record");
    ok(kern_cuda_record(d, 1000, &e));
    ok(kern_cuda_end(d, &e));
    ok(kern_cuda_record(d, 1, &e));                        /* 1000 left its place */
    ok(kern_cuda_end(d, &e));
    kern_cuda_free(d, &b);
}

/* A recording that something broke leaves an ordinary queue, and the graph of that id as it was. */
static void a_broken_recording_ends_in_an_error(void **state)
{
    bool replayed = true;
    void *p;

    (void)state;
    ok(kern_cuda_record(d, 1, &e));
    assert_int_not_equal(cudaMalloc(&p, 4), cudaSuccess);
    refused(kern_cuda_end(d, &e), PX_EDEVICE, "end");
    ok(kern_cuda_replay(d, 1, &replayed, &e));
    assert_false(replayed);
    ok(kern_cuda_wait(d, &e));
}

/* ---- errors ---- */

static void open_names_what_is_wrong_with_the_device(void **state)
{
    cuh_config c = cuh_defaults();
    kern_dev *none = d;

    (void)state;
    refused(kern_cuda_open(&none, &heap.a, &(kern_open_args){ .device = 1 }, &e), PX_ERANGE, "device");
    assert_null(none);
    c.sm = 75;
    cuh_configure(&c);
    assert_int_equal(kern_cuda_open(&none, &heap.a, &(kern_open_args){0}, &e), PX_EUNSUP);
    assert_non_null(strstr(e.text, "7.5"));
    px_err_clear(&e);
    static const struct { int sm; const char *found; } fp8[] = { { 80, "compute capability 8.0" }, { 86, "compute capability 8.6" }, { 89, NULL }, { 90, NULL } };
    for (size_t i = 0; i < sizeof fp8 / sizeof *fp8; i++) {
        c.sm = fp8[i].sm;
        cuh_configure(&c);
        assert_int_equal(kern_cuda_open(&none, &heap.a, &(kern_open_args){ .fp8_activations = true }, &e), fp8[i].found ? PX_EUNSUP : PX_OK);
        assert_true(fp8[i].found ? !none : none != NULL);
        if (fp8[i].found) {
            assert_string_equal(e.field, "fp8_activations");
            assert_string_equal(e.found, fp8[i].found);
            assert_string_equal(e.expected, "8.9 or more");
        }
        px_err_clear(&e);
        kern_cuda_close(none);
    }
    refused(kern_cuda_open(&none, &heap.a, &(kern_open_args){ .fp8_activations = true, .deterministic = true }, &e), PX_EINVAL, "fp8_activations");
    c = cuh_defaults();
    c.driver = 0;
    cuh_configure(&c);
    refused(kern_cuda_open(&none, &heap.a, &(kern_open_args){0}, &e), PX_EDEVICE, "device");
    configure(true);
}

static void the_probe_tells_driver_from_device(void **state)
{
    cuh_config c = cuh_defaults();

    (void)state;
    ok(phalanx_kern_probe(&e));
    c.devices = 0;
    cuh_configure(&c);
    refused(phalanx_kern_probe(&e), PX_ENOTFOUND, "device");
    c = cuh_defaults();
    c.driver = 0;
    cuh_configure(&c);
    refused(phalanx_kern_probe(&e), PX_ENOTFOUND, "driver");
    c.driver = 11040;                                       /* the same error as none: only its version differs */
    cuh_configure(&c);
    cuh_inject("cudaGetDeviceCount", 1, cudaErrorInsufficientDriver, false);
    assert_int_equal(phalanx_kern_probe(&e), PX_EUNSUP);
    assert_string_equal(e.found, "11.4");
    assert_true(strlen(e.expected) >= 4);
    refused(e.code, PX_EUNSUP, "driver");
    cuh_inject("cudaGetDeviceCount", 1, cudaErrorLaunchFailure, false);
    assert_int_equal(phalanx_kern_probe(&e), PX_EDEVICE);
    assert_non_null(strstr(e.text, "cudaErrorLaunchFailure"));
    refused(e.code, PX_EDEVICE, "driver");
    configure(true);
}

/* After an error that the device does not survive every call tells of it, and of where it was met. */
static void a_lost_device_says_so_for_good(void **state)
{
    bool replayed;
    uint32_t v = 0;
    kern_info info;
    kern_buf b, other;

    (void)state;
    ok(kern_cuda_alloc(d, 8, &b, &e));
    cuh_inject("cudaStreamSynchronize", 1, cudaErrorIllegalAddress, false);
    assert_int_equal(kern_cuda_wait(d, &e), PX_EDEVICE);
    assert_non_null(strstr(e.text, "cudaErrorIllegalAddress"));
    refused(e.code, PX_EDEVICE, "wait");
    assert_int_equal(kern_cuda_upload(d, b, &v, 4, &e), PX_EDEVICE);
    assert_non_null(strstr(e.text, "lost since wait: cudaErrorIllegalAddress"));
    refused(e.code, PX_EDEVICE, "upload");
    refused(kern_cuda_download(d, &v, b, 4, &e), PX_EDEVICE, "download");
    refused(kern_cuda_wait(d, &e), PX_EDEVICE, "wait");
    refused(kern_cuda_alloc(d, 4, &other, &e), PX_EDEVICE, "alloc");
    refused(kern_cuda_wrap(d, b.h, 4, &other, &e), PX_EDEVICE, "wrap");
    refused(kern_cuda_info(d, &info, &e), PX_EDEVICE, "info");
    refused(kern_cuda_record(d, 1, &e), PX_EDEVICE, "record");
    refused(kern_cuda_replay(d, 1, &replayed, &e), PX_EDEVICE, "replay");
    refused(kern_cuda_done(d, "matmul", 0, &e), PX_EDEVICE, "matmul");
    kern_cuda_free(d, &b);
}

/* An error of one call is that call's alone: the next one works, and CUDA's own memory of it is gone. */
static void a_passing_error_passes(void **state)
{
    (void)state;
    cuh_inject("cudaStreamSynchronize", 1, cudaErrorInvalidValue, false);
    refused(kern_cuda_wait(d, &e), PX_EDEVICE, "wait");
    assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
    ok(kern_cuda_wait(d, &e));
}

/* A graph of one copy, and its end. */
static px_code end_with_a_copy(kern_dev *dev, kern_buf b)
{
    const cudaError_t s = cudaMemcpyAsync(b.h, (char *)b.h + 4, 4, cudaMemcpyDeviceToDevice, kern_cuda_native_queue(dev));
    const px_code rc = kern_cuda_end(dev, &e);

    return s ? kern_cuda_done(dev, "copy", (cu_status)s, &e) : rc;
}

/* Everything that a device does, once; stops at the first error.  Closes what it opened. */
static px_code whole_life(px_alloc *a)
{
    static uint8_t bytes[PIECE * 17];
    kern_dev *dev = NULL;
    kern_buf b = {0}, w;
    kern_info info;
    bool replayed;
    px_code rc;

    if ((rc = kern_cuda_open(&dev, a, &(kern_open_args){0}, &e)) || (rc = kern_cuda_alloc(dev, sizeof bytes, &b, &e)) ||
        (rc = kern_cuda_wrap(dev, b.h, b.bytes, &w, &e)) || (rc = kern_cuda_upload(dev, b, bytes, sizeof bytes, &e)) ||
        (rc = kern_cuda_record(dev, 1, &e)) || (rc = end_with_a_copy(dev, b)) || (rc = kern_cuda_record(dev, 1, &e)) ||
        (rc = end_with_a_copy(dev, b)) || (rc = kern_cuda_replay(dev, 1, &replayed, &e)) ||
        (rc = kern_cuda_download(dev, bytes, b, PIECE, &e)) || (rc = kern_cuda_info(dev, &info, &e)) || (rc = kern_cuda_wait(dev, &e)))
        goto done;
done:
    if (dev) kern_cuda_free(dev, &b);
    kern_cuda_close(dev);
    return rc;
}

/* Each call of the runtime, each time that it is called: the caller hears of it, and everything is given back.  (Calls that
 * give back are left out: what they do not take stays.) */
static void an_error_in_any_call_is_told_and_leaves_nothing(void **state)
{
    static const char *const calls[] = {
        "cudaGetDeviceCount", "cudaSetDevice", "cudaDeviceGetAttribute", "cudaStreamCreateWithFlags", "cudaHostAlloc",
        "cudaEventCreateWithFlags", "cudaMalloc", "cudaMemsetAsync", "cudaStreamSynchronize", "cudaPointerGetAttributes",
        "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphGetNodes",
        "cudaGraphInstantiate", "cudaGraphUpload", "cudaGraphLaunch", "cudaMemGetInfo", "cudaGetDeviceProperties",
    };
    px_heap h;

    (void)state;
    configure(false);
    px_heap_init(&h, "test");
    ok(whole_life(&h.a));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        bool reached = false;
        unsigned at = 1;

        for (;; at += at < 2 ? 1 : 7) {                                /* the loop of the ring: its calls are alike */
            const unsigned long before = cuh_calls(calls[i]);

            cuh_inject(calls[i], at, cudaErrorInvalidConfiguration, false);
            px_code rc = whole_life(&h.a);
            cuh_inject_nothing();
            assert_int_equal(cuh_live_bytes(), 0);
            assert_int_equal(atomic_load(&h.count.live), 0);
            if (cuh_calls(calls[i]) - before < at) break;              /* not called so often */
            reached = true;
            if (rc == PX_OK) continue;                                 /* in close: it goes on */
            assert_int_equal(rc, PX_EDEVICE);
            assert_true(e.field[0]);
            if (!strstr(e.text, "cudaErrorInvalidConfiguration")) fail_msg("%s, call %u: %s", calls[i], at, e.text);
            px_err_clear(&e);
        }
        if (!reached) fail_msg("%s is never called", calls[i]);
    }
    px_heap_deinit(&h);
    configure(true);
}

static px_code build_and_drop(px_alloc *a, px_err *out)
{
    kern_dev *dev;
    px_code rc = kern_cuda_open(&dev, a, &(kern_open_args){0}, out);

    kern_cuda_close(dev);
    return rc;
}

static void open_survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(build_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define ON_A_DEVICE(f) cmocka_unit_test_setup_teardown(f, up, down)
        ON_A_DEVICE(memory_is_zeroed_counted_and_bounded),
        ON_A_DEVICE(only_memory_that_the_device_reaches_is_wrapped),
        ON_A_DEVICE(uploads_survive_their_source_and_go_round_the_ring),
        ON_A_DEVICE(small_uploads_share_a_piece),
        ON_A_DEVICE(what_was_recorded_is_replayed_on_what_is_there_now),
        ON_A_DEVICE(a_record_refuses_what_a_graph_cannot_hold),
        ON_A_DEVICE(graphs_are_as_many_as_said),
        ON_A_DEVICE(a_broken_recording_ends_in_an_error),
        ON_A_DEVICE(open_names_what_is_wrong_with_the_device),
        ON_A_DEVICE(the_probe_tells_driver_from_device),
        ON_A_DEVICE(a_lost_device_says_so_for_good),
        ON_A_DEVICE(a_passing_error_passes),
        cmocka_unit_test(an_error_in_any_call_is_told_and_leaves_nothing),
        cmocka_unit_test(open_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
