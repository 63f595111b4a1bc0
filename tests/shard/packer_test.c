/* packer_test.c - one matrix by several threads: the same bytes in the same order as by one, and the first thing that goes wrong ends
 * it.  Large enough for a dozen chunks, which the tiny models are not. */
#include "shard/store/pack.h"
#include "tests/testlib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 1499, COLS = 1024 };
static const uint32_t threads[] = { 2, 3, 5, 16 };
#define N_THREADS (sizeof threads / sizeof *threads)

static px_heap heap;
static float *value;
static const shard_extent part = { .row0 = 3, .rows = ROWS - 3, .col0 = 32, .cols = COLS - 64 };

typedef struct taken { uint8_t *bytes; size_t n, cap, calls, fail_at; } taken;

static px_code take(void *ctx, const void *data, size_t n, px_err *e)
{
    taken *t = ctx;


    if (++t->calls == t->fail_at) return px_fail(e, PX_EIO, "out", "call %zu", t->calls);
    assert_true(n <= t->cap - t->n);
    memcpy(t->bytes + t->n, data, n);
    t->n += n;
    return PX_OK;
}

static px_code pack(uint32_t n_threads, kern_dtype type, taken *t, double sums[2], px_err *e)
{
    const shard_source src = { .data = (const uint8_t *)value, .bytes = sizeof(float) * ROWS * COLS, .dtype = KERN_F32, .rows = ROWS, .cols = COLS };
    shard_packer p;
    px_code rc;

    shard_packer_init(&p, &heap.a, n_threads);
    t->n = t->calls = 0;
    rc = shard_packer_matrix(&p, &src, &part, type, 0, take, t, e);
    sums[0] = p.error;
    sums[1] = p.size;
    shard_packer_deinit(&p);
    return rc;
}

static taken room(void) { return (taken){ .bytes = malloc(sizeof(float) * ROWS * COLS * 2), .cap = sizeof(float) * ROWS * COLS * 2 }; }

static void threads_change_nothing(void **state)
{
    static const kern_dtype type[] = { KERN_F32, KERN_BF16, KERN_Q8_0, KERN_Q4_0, KERN_W8, KERN_FP8 };
    taken one = room(), many = room();

    (void)state;
    for (size_t k = 0; k < sizeof type / sizeof *type; k++) {
        double sums[2], others[2];
        px_err e = { 0 };
        assert_int_equal(pack(1, type[k], &one, sums, &e), PX_OK);
        assert_true(one.calls >= 4 && (sums[0] > 0) == (type[k] != KERN_F32));
        for (size_t i = 0; i < N_THREADS; i++) {
            assert_int_equal(pack(threads[i], type[k], &many, others, &e), PX_OK);
            assert_true(many.n == one.n && many.calls == one.calls);
            assert_memory_equal(many.bytes, one.bytes, one.n);
            assert_memory_equal(sums, others, sizeof sums);
        }
    }
    free(one.bytes);
    free(many.bytes);
}

/* Whichever thread meets which first: the row that comes first is named, and nothing from its chunk on is handed over. */
static void the_first_bad_row_is_named(void **state)
{
    static const int bad[] = { 1290, 700, 1498, 701 };
    taken t = room();
    double sums[2];

    (void)state;
    for (size_t k = 0; k < 4; k++) value[bad[k] * COLS + 64] = k % 2 ? NAN : INFINITY;
    for (size_t i = 0; i < N_THREADS; i++) {
        px_err e = { 0 };
        assert_int_equal(pack(threads[i], KERN_Q8_0, &t, sums, &e), PX_ERANGE);
        assert_string_equal(e.text, "row 700 has a value that Q8_0 does not hold");
        assert_true(t.calls > 0 && t.n <= kern_panel_stride(KERN_Q8_0, part.cols) * 697 / 16);
        px_err_clear(&e);
        assert_int_equal(pack(threads[i], KERN_FP8, &t, sums, &e), PX_ERANGE);
        assert_string_equal(e.text, "row 700 has a value that FP8 does not hold");
        assert_int_equal(t.calls, 0);                    /* found before the first is written */
    }
    for (size_t k = 0; k < 4; k++) value[bad[k] * COLS + 64] = 0;
    free(t.bytes);
}

/* One scale, of the largest value of the cut: what lies beside the cut has no say. */
static void a_cut_has_one_scale(void **state)
{
    static const int inside[] = { 3 * COLS + 32, (ROWS - 1) * COLS + COLS - 33, 800 * COLS + 500 };
    static const int outside[] = { 2 * COLS + 500, 3 * COLS + 31, 900 * COLS + COLS - 32 };
    taken t = room();
    const uint64_t stride = kern_panel_stride(KERN_FP8, part.cols);
    double sums[2];

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const float was[2] = { value[inside[k]], value[outside[k]] };
        px_err e = { 0 };
        value[inside[k]] = -448 * 8;
        value[outside[k]] = 1e30f;
        assert_int_equal(pack(3, KERN_FP8, &t, sums, &e), PX_OK);
        assert_int_equal(t.n, (part.rows + 15) / 16 * stride);
        for (size_t r = 0; r < (part.rows + 15) / 16 * 16; r++) {
            float d, row[COLS];
            memcpy(&d, t.bytes + (r / 16 + 1) * stride - 64 + r % 16 * 4, 4);
            assert_true(d == (r < part.rows ? 8 : 0));
            if (r != ((size_t)inside[k] / COLS - part.row0)) continue;
            kern_panel_row_to_f32(KERN_FP8, t.bytes + r / 16 * stride, r % 16, part.cols, row);
            assert_true(row[(size_t)inside[k] % COLS - part.col0] == -448 * 8);
        }
        value[inside[k]] = was[0];
        value[outside[k]] = was[1];
    }
    free(t.bytes);
}

static void a_sink_that_fails_ends_it(void **state)
{
    taken t = room();
    double sums[2];

    (void)state;
    for (size_t i = 0; i < N_THREADS; i++)
        for (t.fail_at = 1; t.fail_at <= 4; t.fail_at++) {
            px_err e = { 0 };
            assert_int_equal(pack(threads[i], KERN_BF16, &t, sums, &e), PX_EIO);
            assert_int_equal(t.calls, t.fail_at);
            assert_string_equal(e.field, "out");
        }
    free(t.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(the_first_bad_row_is_named),
        cmocka_unit_test(a_cut_has_one_scale),
        cmocka_unit_test(a_sink_that_fails_ends_it),
    };
    uint64_t seed = 31;
    int rc;

    value = malloc(sizeof(float) * ROWS * COLS);
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++) value[i] = (float)((double)(test_rand(&seed) >> 11) * 0x1p-53 - 0.5);
    px_heap_init(&heap, "test");
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    px_heap_deinit(&heap);
    free(value);
    return rc;
}
