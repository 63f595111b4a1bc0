/* quant_test.c - quant on CUDA: every value, scale, flag and pad is what the text in quant.cu and panel.cuh says. */
#include "tests/kernels/cuda/mm_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const kern_shape no_matmul = { .rows = 1, .threads = 1, .n_head = 1, .n_kv_head = 1, .head_dim = 2, .max_cols = 32, .max_out = 16, .n_ctx = 1 };

/* Where column k of a block of 32 stands: the text of panel.cuh, from the other side. */
static uint32_t place(kern_act act, uint32_t k)
{
    static const uint32_t swapped[4] = { 0, 2, 1, 3 };

    if (act == KERN_ACT_F32) return k;
    if (act == KERN_ACT_Q12) return 8 * (k % 16 / 4) + 4 * (k / 16) + swapped[k % 4];
    return 8 * (k % 8 / 2) + 2 * (k / 8) + k % 2;
}

typedef struct quantised { uint8_t *out; uint32_t *flags; size_t stride; } quantised;

/* Bytes of rows that are not live, and what lies between rows, stay all ones. */
static quantised run(kern_act act, const float *x, uint32_t max, uint32_t live, uint32_t cols, uint32_t flags_before)
{
    mm_bench b = mm_bench_open(false, &no_matmul);
    quantised q = { .stride = kern_act_bytes(KERN_ON_CUDA, act, 1, cols), .flags = calloc(max, 4) };
    px_err e = {0};

    assert_int_equal(q.stride % 64, 0);
    assert_non_null(q.out = calloc(max, q.stride));
    for (uint32_t t = 0; t < max; t++) q.flags[t] = flags_before;
    kern_quant_args a = { .rows = { max, mm_bench_put(&b, &live, 4) }, .cols = cols, .act = act, .in = mm_bench_put(&b, x, (size_t)max * cols * 4),
                          .out = mm_bench_poisoned(&b, max * q.stride), .flags = mm_bench_put(&b, q.flags, max * 4) };
    if (b.ops->quant(b.d, &a, &e)) fail_msg("%s: %s", e.field, e.text);
    mm_bench_get(&b, q.out, a.out, max * q.stride);
    mm_bench_get(&b, q.flags, a.flags, max * 4);
    kern_buf *all[] = { &a.rows.live, &a.in, &a.out, &a.flags };
    for (size_t i = 0; i < 4; i++) b.ops->free(b.d, all[i]);
    mm_bench_close(&b);
    return q;
}

static void drop(quantised *q) { free(q->out), free(q->flags); }

/* Value k of a row, as what it means. */
static double value(kern_act act, const uint8_t *row, uint32_t k)
{
    const uint32_t at = k / 32 * 32 + place(act, k % 32);
    float scale = 1, f;
    uint16_t h;

    if (act == KERN_ACT_F32) {
        memcpy(&f, row + 4 * (size_t)at, 4);
        return f;
    }
    if (act != KERN_ACT_BF16) memcpy(&scale, row, 4), row += 64;
    memcpy(&h, row + 2 * (size_t)at, 2);
    return act == KERN_ACT_BF16 ? kern_bf16_to_f32(h) : (double)kern_f16_to_f32(h) * scale;
}

static void every_value_is_rounded_once_and_stands_in_its_place(void **state)
{
    static const uint32_t widths[] = { 1, 2, 31, 32, 33, 64, 100, 257, 1056 };
    uint64_t seed = 5;

    (void)state;
    for (uint32_t i = EFFORT_TSAN ? 4 : 0; i < (EFFORT_TSAN ? 5 : sizeof widths / sizeof *widths); i++)
        for (kern_act act = 0; act < KERN_N_ACTS; act++) {
            const uint32_t cols = widths[i], max = 9, live = i % 2 ? 9 : 6;
            float *x = mm_rows_random(max, cols, &seed);
            double *want = calloc(cols, sizeof *want);
            quantised q = run(act, x, max, live, cols, KERN_FLAG_KV_SATURATED);

            assert_non_null(want);
            for (uint32_t t = 0; t < max; t++) {
                const uint8_t *row = q.out + t * q.stride;
                assert_int_equal(q.flags[t], KERN_FLAG_KV_SATURATED);
                if (t >= live) {
                    for (size_t k = 0; k < q.stride; k++) assert_int_equal(row[k], 0xff);
                    continue;
                }
                mm_row_kept(act, x + (size_t)t * cols, cols, want);
                for (uint32_t k = 0; k < (cols + 31) / 32 * 32; k++)
                    if (value(act, row, k) != (k < cols ? want[k] : 0))
                        fail_msg("format %d, row %u of %u, column %u of %u: %g", (int)act, t, max, k, cols, value(act, row, k));
            }
            drop(&q);
            free(x), free(want);
        }
}

static void a_scale_is_the_smallest_power_of_two_that_does(void **state)
{
    static const struct { float most, scale; } cases[] = {
        { 0, 1 }, { 1, 1 }, { 32768, 1 }, { -32768, 1 }, { 0x1.000002p15f, 2 }, { 65536, 2 }, { -0x1.000002p16f, 4 }, { 0x1p100f, 0x1p85f },
        { 0x1.fffffep127f, 0x1p113f },
    };
    float x[9][32] = {{0}};

    (void)state;
    for (uint32_t t = 0; t < 9; t++) x[t][3 * t] = cases[t].most;
    for (uint32_t i = 0; i < 2; i++) {
        const kern_act act = i ? KERN_ACT_F16 : KERN_ACT_Q12;
        quantised q = run(act, x[0], 9, 9, 32, 0);
        for (uint32_t t = 0; t < 9; t++) {
            float scale;
            memcpy(&scale, q.out + t * q.stride, 4);
            assert_true(scale == cases[t].scale);
            assert_true(fabs(value(act, q.out + t * q.stride, 3 * t) / cases[t].most - 1) <= 0x1p-11 || cases[t].most == 0);
            assert_int_equal(q.flags[t], 0);
        }
        drop(&q);
    }
}

static void a_row_that_is_not_finite_is_zeros_and_flagged(void **state)
{
    static const uint32_t bad[] = { 0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001, 0x7f7f8000 /* infinite as bf16 */ };

    (void)state;
    for (kern_act act = 0; act < KERN_N_ACTS; act++)
        for (uint32_t i = 0; i < 6; i++) {
            float x[3 * 70];
            for (uint32_t k = 0; k < 3 * 70; k++) x[k] = 1.0f + (float)(k % 7);
            memcpy(x + 70 + 11 * i, bad + i, 4);
            quantised q = run(act, x, 3, 3, 70, KERN_FLAG_KV_SATURATED);
            const bool is_bad = i < 5 || act == KERN_ACT_BF16;
            assert_int_equal(q.flags[0], KERN_FLAG_KV_SATURATED);
            assert_int_equal(q.flags[1], KERN_FLAG_KV_SATURATED | (is_bad ? KERN_FLAG_NONFINITE : 0));
            assert_int_equal(q.flags[2], KERN_FLAG_KV_SATURATED);
            for (uint32_t k = 0; k < 96; k++) {
                assert_true(value(act, q.out, k) == (k < 70 ? x[k] : 0));
                if (is_bad) assert_true(value(act, q.out + q.stride, k) == 0);
                assert_true(value(act, q.out + 2 * q.stride, k) == (k < 70 ? x[140 + k] : 0));
            }
            drop(&q);
        }
}

static void wrong_arguments_are_named(void **state)
{
    mm_bench b = mm_bench_open(false, &no_matmul);
    const uint32_t live = 2;
    px_err e = {0};
    kern_quant_args good = { .rows = { 2, mm_bench_put(&b, &live, 4) }, .cols = 40, .act = KERN_ACT_Q12, .in = mm_bench_poisoned(&b, 2 * 40 * 4),
                             .out = mm_bench_poisoned(&b, 2 * 192), .flags = mm_bench_poisoned(&b, 8) };
    kern_quant_args a[6] = { good, good, good, good, good, good };
    static const char *const field[6] = { "act", "quant.rows", "quant.in", "act.out", "act.flags", "quant.cols" };

    (void)state;
    a[0].act = KERN_N_ACTS;
    a[1].rows.live.bytes = 3;
    a[2].in.bytes--;
    a[3].out.bytes--;
    a[4].flags.bytes--;
    a[5].cols = (1u << 30) + 1;
    for (int i = 0; i < 6; i++) {
        px_err_clear(&e);
        assert_int_equal(b.ops->quant(b.d, &a[i], &e), i == 5 ? PX_EUNSUP : PX_EINTERNAL);
        assert_string_equal(e.field, field[i]);
    }
    kern_buf *all[] = { &good.rows.live, &good.in, &good.out, &good.flags };
    for (size_t i = 0; i < 4; i++) b.ops->free(b.d, all[i]);
    mm_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_rounded_once_and_stands_in_its_place),
        cmocka_unit_test(a_scale_is_the_smallest_power_of_two_that_does),
        cmocka_unit_test(a_row_that_is_not_finite_is_zeros_and_flagged),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    return mm_bench_main(tests, sizeof tests / sizeof *tests);
}
