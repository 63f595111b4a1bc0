/* backend_test.c - choosing a path, the device's memory, its queue, and gather. */
#include "tests/kernels/fixture.h"

#include <string.h>

static void auto_takes_the_best_and_a_lack_is_named(void **state)
{
    const kern_ops *ops, *best;
    px_err e = {0};

    (void)state;
    assert_int_equal(kern_cpu_ops(KERN_PATH_AUTO, &best, &e), PX_OK);
    for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++) {
        px_code rc = kern_cpu_ops(p, &ops, &e);
        if (kern_cpu_has(p)) {
            assert_int_equal(rc, PX_OK);
            assert_int_equal(ops->size, sizeof(kern_ops));
            assert_int_equal(ops->abi, KERN_ABI);
            if (p == KERN_PATH_AVX512 || !kern_cpu_has((kern_path)(p + 1))) assert_ptr_equal(ops, best);
        } else {
            print_message("SKIP: this CPU has no path %d\n", (int)p);
            assert_int_equal(rc, PX_EUNSUP);
            assert_string_equal(e.field, "cpu");
            px_err_clear(&e);
        }
    }
    assert_true(kern_cpu_has(KERN_PATH_SCALAR));
    assert_int_equal(kern_cpu_ops(KERN_N_PATHS, &ops, &e), PX_EINVAL);
    assert_string_equal(e.field, "cpu");
    assert_false(kern_cpu_has(KERN_N_PATHS));
}

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    const kern_ops *ops;
    kern_dev *d = NULL;
    kern_buf b = {0};
    px_code rc;

    if ((rc = kern_cpu_ops(KERN_PATH_AUTO, &ops, e))) return rc;
    if (!(rc = ops->open(&d, a, &(kern_open_args){ .threads = 2 }, e)) && !(rc = ops->alloc(d, 1000, &b, e))) ops->free(d, &b);
    ops->close(d);
    return rc;
}

static void open_survives_every_oom(void **state) { (void)state; test_oom_sweep(build_and_drop); }

static void open_wants_threads_that_flush(void **state)
{
    const kern_ops *ops;
    px_heap h;
    kern_dev *d;
    px_err e = {0};

    (void)state;
    px_heap_init(&h, "test");
    assert_int_equal(kern_cpu_ops(KERN_PATH_SCALAR, &ops, &e), PX_OK);
    assert_int_equal(ops->open(&d, &h.a, &(kern_open_args){ .threads = 0 }, &e), PX_ERANGE);
    assert_string_equal(e.field, "threads");
    px_err_clear(&e);
    assert_int_equal(ops->open(&d, &h.a, &(kern_open_args){ .threads = 1, .fp8_activations = true }, &e), PX_EUNSUP);
    assert_string_equal(e.field, "fp8_activations");
    px_err_clear(&e);
    __builtin_ia32_ldmxcsr(0x1f80);               /* the processor's default */
    assert_int_equal(ops->open(&d, &h.a, &(kern_open_args){ .threads = 1 }, &e), PX_EINTERNAL);
    kern_ftz_set();
    assert_string_equal(e.field, "ftz");
    assert_null(d);
    assert_int_equal(atomic_load(&h.count.live), 0);
    px_heap_deinit(&h);
}

static void memory_is_zeroed_aligned_and_bounded(void **state)
{
    bench f = bench_open(KERN_PATH_AUTO, 1);
    kern_buf b, w;
    uint8_t host[64] = { 1, 2, 3 }, back[64];
    px_err e = {0};

    (void)state;
    assert_int_equal(f.ops->alloc(f.d, 1000, &b, &e), PX_OK);
    assert_int_equal((uintptr_t)b.h % 64, 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(((uint8_t *)b.h)[i], 0);
    assert_int_equal(f.ops->upload(f.d, kern_buf_at(b, 100, 64), host, 64, &e), PX_OK);
    assert_int_equal(f.ops->download(f.d, back, kern_buf_at(b, 100, 64), 64, &e), PX_OK);
    assert_memory_equal(host, back, 64);
    assert_int_equal(f.ops->upload(f.d, kern_buf_at(b, 0, 63), host, 64, &e), PX_EINTERNAL);
    assert_string_equal(e.field, "upload.dst");
    px_err_clear(&e);
    assert_int_equal(f.ops->download(f.d, back, kern_buf_at(b, 0, 63), 64, &e), PX_EINTERNAL);
    assert_string_equal(e.field, "download.src");
    px_err_clear(&e);
    assert_int_equal(f.ops->wrap(f.d, host, sizeof host, &w, &e), PX_OK);
    assert_ptr_equal(w.h, host);
    assert_int_equal(f.ops->wrap(f.d, NULL, 1, &w, &e), PX_EINTERNAL);
    assert_int_equal(f.ops->wait(f.d, &e), PX_OK);
    assert_null(f.ops->native_queue(f.d));
    f.ops->free(f.d, &b);
    f.ops->free(f.d, &b);                         /* nothing left: legal */
    assert_null(b.h);
    bench_close(&f);
}

static void recording_is_checked_though_nothing_is_kept(void **state)
{
    bench f = bench_open(KERN_PATH_AUTO, 1);
    bool replayed = true;
    px_err e = {0};

    (void)state;
    assert_int_equal(f.ops->end(f.d, &e), PX_EINVAL);
    assert_string_equal(e.field, "end");
    px_err_clear(&e);
    assert_int_equal(f.ops->record(f.d, 1, &e), PX_OK);
    assert_int_equal(f.ops->record(f.d, 2, &e), PX_EINVAL);
    assert_string_equal(e.field, "record");
    px_err_clear(&e);
    assert_int_equal(f.ops->replay(f.d, 1, &replayed, &e), PX_EINVAL);
    assert_string_equal(e.field, "replay");
    px_err_clear(&e);
    assert_int_equal(f.ops->end(f.d, &e), PX_OK);
    replayed = true;
    assert_int_equal(f.ops->replay(f.d, 1, &replayed, &e), PX_OK);
    assert_false(replayed);
    bench_close(&f);
}

static void gather_copies_live_rows(void **state)
{
    enum { N = 300, COLS = 200 };
    static float in[50 * COLS], out[N * COLS];
    static uint32_t index[N];
    uint64_t seed = 4;

    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        bench f = bench_open(KERN_PATH_AUTO, threads);
        uint32_t live = N - 1;
        px_err e = {0};
        kern_gather_args a = { .rows = { N, { &live, 4 } }, .cols = COLS, .in = { in, sizeof in },
                               .index = { index, sizeof index }, .out = { out, sizeof out } };
        for (int i = 0; i < 50 * COLS; i++) in[i] = test_rand_normal(&seed);
        for (int i = 0; i < N; i++) index[i] = (uint32_t)(test_rand(&seed) % 50);
        index[N - 1] = 7777;                        /* not live: not read */
        memset(out, 0x5a, sizeof out);
        assert_int_equal(f.ops->gather(f.d, &a, &e), PX_OK);
        for (int i = 0; i < N - 1; i++) assert_memory_equal(out + i * COLS, in + index[i] * COLS, COLS * 4);
        for (int i = 0; i < COLS * 4; i++) assert_int_equal(((uint8_t *)(out + (N - 1) * COLS))[i], 0x5a);
        live = N + 5;                               /* more than max: max */
        assert_int_equal(f.ops->gather(f.d, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "gather.in");
        bench_close(&f);
    }
}

static void sizes_are_pure_and_do_not_overflow(void **state)
{
    kern_shape s = { .rows = 64, .threads = 2, .n_head = 9, .head_dim = 64, .max_cols = 1536, .n_ctx = 2048 };

    (void)state;
    assert_int_equal(kern_act_of(KERN_F32), KERN_ACT_F32);
    assert_int_equal(kern_act_of(KERN_BF16), KERN_ACT_BF16);
    assert_int_equal(kern_act_of(KERN_Q8_0), KERN_ACT_Q12);
    for (kern_act t = 0; t < KERN_N_ACTS; t++) {
        assert_int_equal(kern_act_bytes(KERN_ON_CPU, t, 3, 33) % 64, 0);
        assert_int_equal(kern_act_bytes(KERN_ON_CPU, t, 3, 33), 3 * kern_act_bytes(KERN_ON_CPU, t, 1, 64));
        assert_int_equal(kern_act_bytes(KERN_ON_CPU, t, UINT32_MAX, UINT32_MAX), SIZE_MAX);
    }
    assert_int_equal(kern_kv_block_bytes(KERN_KV_F16, 30, 16, 3, 64), 16 * 23040);
    assert_int_equal(kern_kv_block_bytes(KERN_KV_F32, 30, 16, 3, 64), 2 * 16 * 23040);
    assert_int_equal(kern_kv_block_bytes(KERN_KV_F32, UINT32_MAX, UINT32_MAX, UINT32_MAX, 64), SIZE_MAX);
    assert_int_equal(kern_workspace_bytes(KERN_ON_CPU, &s) % 64, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_takes_the_best_and_a_lack_is_named),
        cmocka_unit_test(open_survives_every_oom),
        cmocka_unit_test(open_wants_threads_that_flush),
        cmocka_unit_test(memory_is_zeroed_aligned_and_bounded),
        cmocka_unit_test(recording_is_checked_though_nothing_is_kept),
        cmocka_unit_test(gather_copies_live_rows),
        cmocka_unit_test(sizes_are_pure_and_do_not_overflow),
    };
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
