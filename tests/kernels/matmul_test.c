/* matmul_test.c - quant, matmul and embed: every path against the scalar twin by memcmp, the twin against double. */
#include "tests/kernels/fixture.h"

#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const kern_dtype types[] = { KERN_F32, KERN_F16, KERN_BF16, KERN_FP8, KERN_Q8_0, KERN_Q8_M, KERN_Q8_H, KERN_Q2_HM, KERN_Q4_HL, KERN_Q4_0,
                                    KERN_Q4_1, KERN_W8, KERN_W4 };
#define N_TYPES (sizeof types / sizeof *types)

static uint32_t pick(uint64_t *seed, uint32_t n) { return (uint32_t)(test_rand(seed) % n); }

/* ---- weights: random blocks in plain order, and the same in panels ---- */

typedef struct weights { kern_dtype t; uint32_t rows, cols; uint8_t *plain, *panels; size_t row_bytes; uint64_t bytes; } weights;

enum { PLAIN, EXTREME };      /* scales: of a real model's size; or anything finite: negative, zero, subnormal, largest */

static void half_random(uint8_t *p, int style, uint64_t *seed)
{
    static const uint16_t edge[] = { 0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x7bff, 0xfbff, 0x3c00 };
    uint16_t h = style == PLAIN ? kern_f32_to_f16(0.02f * test_rand_normal(seed))
               : pick(seed, 3) ? (uint16_t)(test_rand(seed) & 0xbbff) : edge[pick(seed, 9)];
    memcpy(p, &h, 2);
}

/* What lies between two scales of a plain row: a group has 4 blocks, the last of a row may have fewer. */
static uint32_t quant_bytes(kern_dtype t) { return t == KERN_Q8_0 || t == KERN_W8 || t == KERN_Q8_M || t == KERN_Q8_H ? 32 : 16; }
/* A minimum or another scale behind the scale. */
static bool has_two(kern_dtype t) { return t == KERN_Q4_1 || t == KERN_Q8_M || t == KERN_Q8_H || t == KERN_Q4_HL; }
static uint32_t head_bytes(kern_dtype t) { return has_two(t) ? 4 : 2; }
/* The byte of quants that are all as large, or as small, as they can be. */
static int extreme(kern_dtype t, bool large)
{
    bool with_sign = quant_bytes(t) == 32 && t != KERN_Q8_M;

    if (t == KERN_Q4_HL) return large ? 0xaa : 0xee;              /* 43 and -43 */
    return large ? (with_sign ? 0x7f : 0xff) : with_sign ? 0x80 : 0;
}
static uint32_t group_blocks(kern_dtype t) { return t == KERN_W8 || t == KERN_W4 ? 4 : 1; }

static void pack_all(const weights *w)
{
    for (uint32_t r = 0; r < w->rows; r += 16) {
        const void *src[16];
        uint32_t k = w->rows - r < 16 ? w->rows - r : 16;
        for (uint32_t i = 0; i < k; i++) src[i] = w->plain + (r + i) * w->row_bytes;
        kern_panel_pack(w->t, src, k, w->cols, w->panels + r / 16 * kern_panel_stride(w->t, w->cols));
    }
}

/* Block b of a row: whole blocks of quants are set to one byte where `value` is not negative. */
static void set_block(const weights *w, uint32_t row, uint32_t b, int value)
{
    if (w->t == KERN_Q2_HM) {
        const uint8_t in = b % 2 ? 0xf0 : 0x0f;
        uint8_t *p = w->plain + row * w->row_bytes + b / 2 * 32;
        for (uint32_t i = 0; i < 16; i++) p[i] = (uint8_t)((p[i] & ~in) | (value & in));
        return;
    }
    uint32_t group = group_blocks(w->t), q = quant_bytes(w->t);
    uint8_t *p = w->plain + row * w->row_bytes + b / group * (head_bytes(w->t) + group * q) + head_bytes(w->t) + b % group * q;

    memset(p, value, q);
}

static weights weights_random(kern_dtype t, uint32_t rows, uint32_t cols, int style, uint64_t *seed)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    weights w = { .t = t, .rows = rows, .cols = cols };
    uint64_t row_bytes;

    assert_true(kern_matrix_bytes(t, 1, cols, &row_bytes));
    w.row_bytes = row_bytes;
    size_t n = (size_t)rows * w.row_bytes;
    w.plain = malloc(n);
    assert_int_equal(kern_panel_bytes(t, rows, cols, &w.bytes, NULL), PX_OK);
    w.panels = aligned_alloc(64, w.bytes);
    for (size_t i = 0; i < n; i++) w.plain[i] = (uint8_t)test_rand(seed);
    for (uint32_t r = 0; f->block > 1 && r < rows; r++)
        for (uint32_t b = 0; b < cols / 32; b++) {
            if (t == KERN_Q2_HM) {
                for (uint32_t k = 0; k < 4; k++) half_random(w.plain + r * w.row_bytes + b / 2 * 32 + 16 + b % 2 * 8 + 2 * k, style, seed);
            } else if (b % group_blocks(t) == 0) {
                uint8_t *p = w.plain + r * w.row_bytes + b / group_blocks(t) * (size_t)f->block_bytes;
                half_random(p, style, seed);
                if (has_two(t)) half_random(p + 2, style, seed);
            }
            if (style == EXTREME && !pick(seed, 4))              /* full range: where 16-bit sums would saturate */
                set_block(&w, r, b, extreme(t, pick(seed, 2)));
        }
    for (uint32_t r = 0; t == KERN_FP8 && r < rows; r++) {
        float d = style == PLAIN ? 1e-4f * (1 + (float)pick(seed, 8)) : ldexpf(test_rand_normal(seed), (int)pick(seed, 160) - 140);
        memcpy(w.plain + r * w.row_bytes, &d, 4);
    }
    for (size_t i = 0; f->block == 1 && t != KERN_FP8 && i < n; i += f->block_bytes) {
        float x = 0.05f * test_rand_normal(seed);
        if (style == EXTREME) x = ldexpf(x, (int)pick(seed, 160) - 140);      /* subnormal ones, too */
        if (t == KERN_F16) half_random(w.plain + i, style, seed);
        else kern_row_from_f32(t, &x, 1, w.plain + i);
    }
    pack_all(&w);
    return w;
}

static void weights_drop(weights *w) { free(w->plain), free(w->panels); }

static kern_weight weight_of(const weights *w)
{
    return (kern_weight){ .dtype = w->t, .rows = w->rows, .cols = w->cols, .panels = { w->panels, w->bytes } };
}

/* ---- activations ---- */

static void fill(float *x, size_t n, int style, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = test_rand_normal(seed);
        if (style == PLAIN) continue;
        switch (pick(seed, 8)) {
        case 0: x[i] = 0; break;
        case 1: x[i] = ldexpf(x[i], -(int)pick(seed, 40)); break;
        case 2: x[i] = (float)((int)pick(seed, 255) - 127) + (float)((int)pick(seed, 33) - 16) / 32; break;   /* ties */
        case 3: x[i] = pick(seed, 2) ? 127 : -127; break;
        }
    }
    if (style == PLAIN) return;
    for (size_t b = 0; b + 32 <= n; b += 32) {                 /* some blocks as a whole */
        float big = 1.0f, tiny;
        uint32_t sub = 0x00000005;
        memcpy(&tiny, &sub, 4);
        switch (pick(seed, 12)) {
        case 0: for (int i = 0; i < 32; i++) x[b + i] = pick(seed, 2) ? 3.0f : -3.0f; break;       /* all +-127 + 8 */
        case 1: for (int i = 0; i < 32; i++) x[b + i] = 7.0f; break;
        case 2: for (int i = 0; i < 32; i++) x[b + i] = 0; break;
        case 3: for (int i = 0; i < 32; i++) x[b + i] *= 0x1p-101f; break;                          /* around the limit */
        case 4: for (int i = 0; i < 32; i++) x[b + i] = tiny; break;
        case 5: for (int i = 0; i < 32; i++) x[b + i] *= 0x1p118f; break;
        case 6: x[b + pick(seed, 32)] = big * 0x1.fffffep127f; break;
        }
    }
}

static void *quantise(const bench *f, kern_act act, const float *x, uint32_t rows, uint32_t cols, uint32_t *flags)
{
    size_t bytes = kern_act_bytes(KERN_ON_CPU, act, rows, cols);
    uint8_t *out = aligned_alloc(64, bytes + 64);
    uint32_t live = rows;
    px_err e = {0};

    memset(out, 0xa5, bytes + 64);
    kern_quant_args a = { .rows = { rows + 1, { &live, 4 } }, .cols = cols, .act = act,
                          .in = { (void *)(uintptr_t)x, (size_t)rows * cols * 4 }, .out = { out, bytes },
                          .flags = { flags, rows * 4 } };
    assert_int_equal(f->ops->quant(f->d, &a, &e), PX_OK);
    for (int i = 0; i < 64; i++) assert_int_equal(out[bytes + i], 0xa5);
    return out;
}

static void quant_is_equal_on_every_path(void **state)
{
    uint64_t seed = 11;

    (void)state;
    for (int round = 0; round < 120; round++) {
        uint32_t rows = 1 + pick(&seed, 9), cols = 1 + pick(&seed, 300);
        kern_act act = round % 4 == 0 ? KERN_ACT_BF16 : round % 4 == 1 ? KERN_ACT_F32 : KERN_ACT_Q12;
        float *x = malloc((size_t)rows * cols * 4);              /* exactly: a read beyond the last row is seen */
        uint32_t want_flags[16] = {0}, flags[16];

        fill(x, (size_t)rows * cols, EXTREME, &seed);
        if (round % 3 == 0) {
            static const uint32_t bad[] = { 0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001 };
            memcpy(x + pick(&seed, rows * cols), bad + round % 5, 4);
        }
        bench s = bench_open(KERN_PATH_SCALAR, 1);
        uint8_t *want = quantise(&s, act, x, rows, cols, want_flags);
        for (kern_path p = KERN_PATH_AVX2; p < KERN_N_PATHS; p++) {
            if (!kern_cpu_has(p)) continue;
            bench f = bench_open(p, 1 + 2 * (round % 2));
            memset(flags, 0, sizeof flags);
            uint8_t *got = quantise(&f, act, x, rows, cols, flags);
            assert_memory_equal(got, want, kern_act_bytes(KERN_ON_CPU, act, rows, cols));
            assert_memory_equal(flags, want_flags, sizeof flags);
            free(got);
            bench_close(&f);
        }
        free(want), free(x);
        bench_close(&s);
    }
}

static void a_block_that_is_not_finite_is_zero_and_flagged(void **state)
{
    (void)state;
    for (kern_act act = 0; act < KERN_N_ACTS; act++)
        for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++) {
            if (!kern_cpu_has(p)) continue;
            float x[3 * 96];
            uint32_t flags[3] = { KERN_FLAG_KV_SATURATED, 0, 0 };
            for (int i = 0; i < 3 * 96; i++) x[i] = (float)(i % 7) - 3;
            x[40] = NAN;                                          /* row 0, block 1 */
            x[2 * 96 + 95] = -INFINITY;                           /* row 2, block 2 */
            if (act == KERN_ACT_BF16) x[2 * 96 + 95] = 0x1.fffffep127f;      /* rounds to infinity */
            bench f = bench_open(p, 1);
            uint8_t *q = quantise(&f, act, x, 3, 96, flags);
            size_t stride = kern_act_bytes(KERN_ON_CPU, act, 1, 96), block = act == KERN_ACT_Q12 ? 64 : 128;
            assert_int_equal(flags[0], KERN_FLAG_NONFINITE | KERN_FLAG_KV_SATURATED);
            assert_int_equal(flags[1], 0);
            assert_int_equal(flags[2], KERN_FLAG_NONFINITE);
            for (size_t i = 0; i < block; i++) {
                assert_int_equal(q[block + i], 0);
                assert_int_equal(q[2 * stride + 2 * block + i], 0);
            }
            assert_memory_not_equal(q, q + block, block);         /* the block before it is not zero */
            if (act == KERN_ACT_Q12) {
                kern_q12 m[3];
                memcpy(m, q + 3 * 64, sizeof m);
                assert_true(m[0].scale > 0 && m[1].scale == 0 && m[1].neg8 == 0 && m[2].scale > 0);
            }
            free(q);
            bench_close(&f);
        }
}

static void twelve_bits_are_what_the_text_says(void **state)
{
    bench f = bench_open(KERN_PATH_SCALAR, 1);
    float x[64] = { 127, -127, 0.5f, 1.5f, -0.5f, 0.03125f, 0.09375f };
    uint32_t flags = 0;
    kern_q12 m[2];

    (void)state;
    x[20] = 1;
    x[32] = 0x1p-101f;
    int8_t *q = quantise(&f, KERN_ACT_Q12, x, 1, 64, &flags);
    memcpy(m, q + 128, sizeof m);
    int8_t q1[] = { 127, -127, 0, 2, 0, 0, 0 }, q2[] = { 0, 0, 8, -8, -8, 0, 2 };
    assert_memory_equal(q, q1, sizeof q1);
    assert_memory_equal(q + 32, q2, sizeof q2);
    assert_true(m[0].scale == 127.0f / 2032.0f);
    assert_int_equal(m[0].neg8_first, -8 * (32 - 6));
    assert_true(m[0].sum_f == 42.0f && m[0].neg8 == -8 * (26 + 16));
    assert_true(m[1].scale == 0 && m[1].neg8 == 0);
    free(q);
    bench_close(&f);
}

static void the_smallest_block_that_counts(void **state)
{
    (void)state;
    for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++) {
        if (!kern_cpu_has(p)) continue;
        bench f = bench_open(p, 1);
        float x[64] = { 0 };
        uint32_t flags = 0;
        kern_q12 m[2];

        x[5] = -0x1p-100f;
        x[37] = 0x1.fffffep-101f;                 /* the next smaller number */
        int8_t *q = quantise(&f, KERN_ACT_Q12, x, 1, 64, &flags);
        memcpy(m, q + 128, sizeof m);
        assert_int_equal(q[5], -127);
        assert_true(m[0].scale == 0x1p-100f / 2032.0f && m[0].neg8 == 8 * 2032);
        assert_int_equal(q[64 + 5], 0);
        assert_true(m[1].scale == 0 && m[1].neg8 == 0);
        assert_int_equal(flags, 0);
        free(q);
        bench_close(&f);
    }
}

/* ---- matmul ---- */

/* n weights times rows of activations; the outputs lie one after the other, each (rows, stride) with a guard. */
static float *multiply(const bench *f, const weights *w, uint32_t n, void *act, uint32_t rows, uint32_t stride, size_t *count)
{
    uint32_t live = rows;
    px_err e = {0};
    kern_act t = kern_act_of(w[0].t);
    float *out;

    *count = (size_t)n * rows * stride;
    out = malloc(*count * 4);
    memset(out, 0x5a, *count * 4);
    kern_matmul_args a = { .rows = { rows + 3, { &live, 4 } }, .act = t, .cols = w[0].cols,
                           .in = { act, kern_act_bytes(KERN_ON_CPU, t, rows, w[0].cols) }, .n = n };
    for (uint32_t i = 0; i < n; i++) {
        a.w[i] = weight_of(&w[i]);
        a.out[i] = (kern_buf){ out + (size_t)i * rows * stride, (size_t)rows * stride * 4 };
        a.out_stride[i] = stride;
    }
    px_code rc = f->ops->matmul(f->d, &a, &e);
    if (rc) fail_msg("%s: %s", e.field, e.text);
    for (uint32_t i = 0; i < n; i++)                    /* columns from w.rows on are not written */
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = w[i].rows; c < stride; c++) {
                uint32_t v;
                memcpy(&v, out + ((size_t)i * rows + r) * stride + c, 4);
                assert_int_equal(v, 0x5a5a5a5a);
            }
    return out;
}

/* A NaN's payload is not defined: all NaN count as one. */
static void one_nan(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i])) x[i] = NAN;
}

static void compare_paths(const weights *w, uint32_t n, const float *x, uint32_t rows, uint32_t stride)
{
    uint32_t *flags = calloc(rows, 4);
    size_t count;
    bench s = bench_open(KERN_PATH_SCALAR, 1);
    void *act = quantise(&s, kern_act_of(w[0].t), x, rows, w[0].cols, flags);
    float *want = multiply(&s, w, n, act, rows, stride, &count);

    one_nan(want, count);
    for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++)
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            if (!kern_cpu_has(p) || (p == KERN_PATH_SCALAR && threads == 1)) continue;
            bench f = bench_open(p, threads);
            float *got = multiply(&f, w, n, act, rows, stride, &count);
            one_nan(got, count);
            if (memcmp(got, want, count * 4))
                for (size_t i = 0; i < count; i++)
                    if (memcmp(got + i, want + i, 4))
                        fail_msg("%s %s, %u threads, %u x %u x %u: element %zu is %a, not %a", f.ops->name,
                                 kern_dtype_get(w[0].t)->name, threads, rows, w[0].rows, w[0].cols, i, (double)got[i],
                                 (double)want[i]);
            free(got);
            bench_close(&f);
        }
    free(want), free(act), free(flags);
    bench_close(&s);
}

static void matmul_is_equal_on_every_path(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (uint32_t i = 0; i < N_TYPES * 36; i++) {
        kern_dtype t = types[i % N_TYPES];
        uint32_t round = i / N_TYPES, rows = round < 20 ? 1 + round : 1 + pick(&seed, 70);
        uint32_t cols = kern_dtype_get(t)->block > 1 ? 32 * (1 + pick(&seed, 20)) : 1 + pick(&seed, 200);
        uint32_t outs = 1 + pick(&seed, round % 4 ? 100 : 300), stride = outs + pick(&seed, 20);
        weights w = weights_random(t, outs, cols, round % 2 ? EXTREME : PLAIN, &seed);
        float *x = malloc((size_t)rows * cols * 4);

        fill(x, (size_t)rows * cols, round % 3 ? EXTREME : PLAIN, &seed);
        compare_paths(&w, 1, x, rows, stride);
        free(x);
        weights_drop(&w);
    }
}

static void one_row_of_the_model_s_shapes(void **state)
{
    static const uint32_t shape[][2] = { { 192, 576 }, { 768, 576 }, { 576, 768 }, { 576, 384 } };
    uint64_t seed = 5;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < N_TYPES; k++) {
            weights w = weights_random(types[k], shape[i][0], shape[i][1], PLAIN, &seed);
            float *x = malloc(shape[i][1] * 4);
            fill(x, shape[i][1], PLAIN, &seed);
            compare_paths(&w, 1, x, 1, shape[i][0]);
            free(x);
            weights_drop(&w);
        }
}

static void three_weights_at_once(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (uint32_t rows = 1; rows <= 13; rows += 4) {
        /* Types may differ as long as they read the same activations. */
        weights w[3] = { weights_random(KERN_Q4_1, 200, 160, PLAIN, &seed), weights_random(KERN_Q8_0, 40, 160, PLAIN, &seed),
                         weights_random(KERN_Q4_0, 7, 160, PLAIN, &seed) };
        float *x = malloc((size_t)rows * 160 * 4);
        fill(x, (size_t)rows * 160, PLAIN, &seed);
        compare_paths(w, 3, x, rows, 210);
        free(x);
        for (int i = 0; i < 3; i++) weights_drop(&w[i]);
        weights flat[3] = { weights_random(KERN_FP8, 90, 50, PLAIN, &seed), weights_random(KERN_F16, 40, 50, PLAIN, &seed),
                            weights_random(KERN_FP8, 17, 50, PLAIN, &seed) };
        x = malloc((size_t)rows * 50 * 4);
        fill(x, (size_t)rows * 50, PLAIN, &seed);
        compare_paths(flat, 3, x, rows, 95);
        free(x);
        for (int i = 0; i < 3; i++) weights_drop(&flat[i]);
    }
}

/* The largest sums: 16-bit intermediate results would saturate, a float conversion would round. */
static void full_range_values_do_not_saturate(void **state)
{
    uint64_t seed = 21;

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++)
        for (int sign = 0; sign < 4; sign++) {
            weights w = weights_random(types[k], 48, 96, EXTREME, &seed);
            if (kern_dtype_get(types[k])->block > 1) {
                for (uint32_t r = 0; r < 48; r++)
                    for (uint32_t b = 0; b < 3; b++)
                        set_block(&w, r, b, extreme(w.t, !(sign & 1)));
                pack_all(&w);
            }
            float x[96 * 9];
            for (int i = 0; i < 96 * 9; i++) x[i] = sign & 2 ? -5 : 5;
            for (int i = 0; i < 96 * 9; i += 3) x[i] = (sign & 2 ? -5 : 5) * 0.9999f;
            compare_paths(&w, 1, x, 9, 48);
            weights_drop(&w);
        }
}

/* Bytes of 255 by the largest activations: 32 * 255 * 2032 in a block, and a float holds it to the last unit. */
static void unsigned_bytes_reach_their_largest_sum(void **state)
{
    static const int value[] = { 255, 254, 128, 127, 1, 0 };
    uint64_t seed = 23;

    (void)state;
    for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++)
        for (int sign = -1; sign <= 1 && kern_cpu_has(p); sign += 2) {
            weights w = weights_random(KERN_Q8_M, 16, 32, PLAIN, &seed);
            bench f = bench_open(p, 1);
            float x[5 * 32];
            uint32_t flags[5] = { 0 };
            size_t count;

            for (uint32_t r = 0; r < 16; r++) {
                const uint16_t head[2] = { 0x3c00, r % 2 ? 0xc400 : 0 };               /* scale 1, minimum 0 or -4 */
                memcpy(w.plain + r * w.row_bytes, head, sizeof head);
                set_block(&w, r, 0, value[r % 6]);
            }
            pack_all(&w);
            for (int i = 0; i < 5 * 32; i++) x[i] = (float)sign * 2032;                   /* scale 1: quants of +-127, 0 */
            void *act = quantise(&f, KERN_ACT_Q12, x, 5, 32, flags);
            float *out = multiply(&f, &w, 1, act, 5, 16, &count);
            for (uint32_t i = 0; i < 5 * 16; i++) {
                uint32_t r = i % 16;
                assert_true(out[i] == (float)(sign * 32 * 2032 * (value[r % 6] - (r % 2 ? 4 : 0))));
            }
            free(out), free(act);
            bench_close(&f);
            weights_drop(&w);
        }
}

/* Halves of a block with the largest sums of either sign, 16 * 128 * 2032 (of levels 16 * 43 * 2032) each: neither half takes from the
 * other, and the sums are exact. */
static void halves_have_sums_of_their_own(void **state)
{
    static const struct { kern_dtype t; int value[6]; uint8_t stored[6]; } kind[] = {
        { KERN_Q8_H, { -128, -127, 127, 1, 0, -1 }, { 0x80, 0x81, 0x7f, 1, 0, 0xff } },
        { KERN_Q4_HL, { -43, 43, -4, 3, 0, 25 }, { 14, 10, 0, 7, 4, 9 } },
    };
    uint64_t seed = 24;

    (void)state;
    for (size_t k = 0; k < 2; k++)
        for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++)
            for (int sign = 0; sign < 4 && kern_cpu_has(p); sign++)
                for (uint32_t rows = 1; rows <= 9; rows += 2) {
                    const int *value = kind[k].value;
                    weights w = weights_random(kind[k].t, 48, 64, PLAIN, &seed);
                    bench f = bench_open(p, 1);
                    float x[9 * 64];
                    uint32_t flags[9] = { 0 };
                    size_t count;

                    for (uint32_t r = 0; r < 48; r++)
                        for (uint32_t b = 0; b < 2; b++) {
                            const uint16_t head[2] = { 0x3c00, r % 2 ? 0x4000 : 0xb800 };              /* scales 1, and 2 or -1/2 */
                            const uint8_t first = kind[k].stored[r % 6], last = kind[k].stored[(r / 6 + b) % 6];
                            uint8_t *block = w.plain + r * w.row_bytes + kern_dtype_get(w.t)->block_bytes * b;
                            memcpy(block, head, sizeof head);
                            memset(block + 4, w.t == KERN_Q4_HL ? first | last << 4 : first, 16);
                            if (w.t == KERN_Q8_H) memset(block + 20, last, 16);
                        }
                    pack_all(&w);
                    for (uint32_t i = 0; i < rows * 64; i++) x[i] = (i % 32 < 16 ? sign & 1 : sign >> 1) ? -2032 : 2032;
                    void *act = quantise(&f, KERN_ACT_Q12, x, rows, 64, flags);
                    float *out = multiply(&f, &w, 1, act, rows, 48, &count);
                    for (uint32_t i = 0; i < rows * 48; i++) {
                        uint32_t r = i % 48;
                        double want = 0;
                        for (uint32_t b = 0; b < 2; b++)
                            want += 16 * 2032 * (value[r % 6] * (sign & 1 ? -1.0 : 1.0)
                                                 + value[(r / 6 + b) % 6] * (r % 2 ? 2 : -0.5) * (sign >> 1 ? -1.0 : 1.0));
                        assert_true((double)out[i] == want);
                    }
                    free(out), free(act);
                    bench_close(&f);
                    weights_drop(&w);
                }
}

static void the_twin_is_close_to_double(void **state)
{
    uint64_t seed = 17;

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++) {
        enum { ROWS = 4, OUT = 40, K = 576 };
        weights w = weights_random(types[k], OUT, K, PLAIN, &seed);
        float x[ROWS * K], row[K];
        uint32_t flags[ROWS] = {0};
        size_t count;
        double err = 0, size = 0;

        fill(x, ROWS * K, PLAIN, &seed);
        bench s = bench_open(KERN_PATH_SCALAR, 1);
        void *act = quantise(&s, kern_act_of(types[k]), x, ROWS, K, flags);
        float *got = multiply(&s, &w, 1, act, ROWS, OUT, &count);
        for (uint32_t o = 0; o < OUT; o++) {
            kern_row_to_f32(types[k], w.plain + o * w.row_bytes, K, row);
            for (uint32_t r = 0; r < ROWS; r++) {
                double want = 0, v = got[r * OUT + o];
                for (uint32_t c = 0; c < K; c++) {
                    float xc = x[r * K + c];
                    if (types[k] == KERN_BF16) xc = kern_bf16_to_f32(kern_f32_to_bf16(xc));
                    want += (double)row[c] * xc;
                }
                err += (v - want) * (v - want);
                size += want * want;
            }
        }
        /* Root mean square: rounding of fp32 for the flat types, of 12 bits (half a step of 1/2032 of a block's
         * maximum, some 2.5 sigma: 3.5e-4) for the quantised ones. */
        double bound = kern_dtype_get(types[k])->block == 1 ? 1e-6 : 6e-4;
        if (!(sqrt(err / size) < bound)) fail_msg("%s: %g", kern_dtype_get(types[k])->name, sqrt(err / size));
        /* And not closer than 12 bits can be: the test sees the activations' rounding. */
        if (bound > 1e-5) assert_true(sqrt(err / size) > 5e-5);
        free(got), free(act);
        bench_close(&s);
        weights_drop(&w);
    }
}

static void matmul_refuses_what_does_not_fit(void **state)
{
    uint64_t seed = 2;
    weights w = weights_random(KERN_Q4_1, 32, 64, PLAIN, &seed);
    uint32_t live = 2;
    static uint8_t act[1024];
    float out[64];

    (void)state;
    for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++) {
        if (!kern_cpu_has(p)) continue;
        bench f = bench_open(p, 1);
        const kern_matmul_args good = { .rows = { 2, { &live, 4 } }, .act = KERN_ACT_Q12, .cols = 64,
            .in = { act, kern_act_bytes(KERN_ON_CPU, KERN_ACT_Q12, 2, 64) }, .n = 1, .w = { weight_of(&w) },
            .out = { { out, sizeof out } }, .out_stride = { 32 } };
        assert_int_equal(f.ops->matmul(f.d, &good, NULL), PX_OK);
        struct { const char *field; px_code code; kern_matmul_args a; } bad[9];
        for (int i = 0; i < 9; i++) bad[i].a = good, bad[i].code = PX_EINTERNAL;
        bad[0].field = "matmul.n";          bad[0].a.n = 4;
        bad[1].field = "matmul.act";        bad[1].a.act = KERN_ACT_F32; bad[1].a.in.bytes = sizeof act;
        bad[2].field = "matmul.cols";       bad[2].a.cols = 32;
        bad[3].field = "matmul.w";          bad[3].a.w[0].panels.bytes--;
        bad[4].field = "matmul.in";         bad[4].a.in.bytes--;
        bad[5].field = "matmul.out";        bad[5].a.out[0].bytes--;
        bad[6].field = "matmul.out_stride"; bad[6].a.out_stride[0] = 31;
        bad[7].field = "matmul.dtype";      bad[7].a.w[0].dtype = KERN_Q6_K; bad[7].code = PX_EUNSUP;
        bad[8].field = "cols";              bad[8].a.w[0].cols = bad[8].a.cols = 33; bad[8].code = PX_ERANGE;
        for (int i = 0; i < 9; i++) {
            px_err e = {0};
            assert_int_equal(f.ops->matmul(f.d, &bad[i].a, &e), bad[i].code);
            assert_string_equal(e.field, bad[i].field);
        }
        bench_close(&f);
    }
    weights_drop(&w);
}

static void embed_reads_rows_of_the_slice(void **state)
{
    uint64_t seed = 31;

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++)
        for (kern_path p = KERN_PATH_SCALAR; p < KERN_N_PATHS; p++) {
            if (!kern_cpu_has(p)) continue;
            enum { D = 96, N = 600 };
            bench f = bench_open(p, 1 + 2 * (p % 2));
            weights w = weights_random(types[k], 40, D, PLAIN, &seed);
            uint32_t ids[N], live = N;
            static float out[N * D];
            float want[D];
            px_err e = {0};

            for (int i = 0; i < N; i++) ids[i] = pick(&seed, 200);
            ids[0] = 100, ids[1] = 137, ids[2] = 138, ids[3] = 99, ids[4] = UINT32_MAX;
            memset(out, 0x5a, sizeof out);
            /* 38 of the 40 rows are ids: the last two are padding. */
            kern_embed_args a = { .rows = { N, { &live, 4 } }, .table = weight_of(&w), .vocab_begin = 100, .vocab_end = 138,
                                  .ids = { ids, sizeof ids }, .out = { out, sizeof out } };
            assert_int_equal(f.ops->embed(f.d, &a, &e), PX_OK);
            for (int i = 0; i < N; i++) {
                memset(want, 0, sizeof want);
                if (ids[i] >= 100 && ids[i] < 138)
                    kern_row_to_f32(types[k], w.plain + (ids[i] - 100) * w.row_bytes, D, want);
                assert_memory_equal(out + i * D, want, sizeof want);
            }
            a.out.bytes--;
            assert_int_equal(f.ops->embed(f.d, &a, &e), PX_EINTERNAL);
            assert_string_equal(e.field, "embed.out");
            px_err_clear(&e);
            a.table.panels.bytes--;
            assert_int_equal(f.ops->embed(f.d, &a, &e), PX_EINTERNAL);
            assert_string_equal(e.field, "embed.table");
            bench_close(&f);
            weights_drop(&w);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quant_is_equal_on_every_path),
        cmocka_unit_test(a_block_that_is_not_finite_is_zero_and_flagged),
        cmocka_unit_test(twelve_bits_are_what_the_text_says),
        cmocka_unit_test(the_smallest_block_that_counts),
        cmocka_unit_test(matmul_is_equal_on_every_path),
        cmocka_unit_test(one_row_of_the_model_s_shapes),
        cmocka_unit_test(three_weights_at_once),
        cmocka_unit_test(full_range_values_do_not_saturate),
        cmocka_unit_test(unsigned_bytes_reach_their_largest_sum),
        cmocka_unit_test(halves_have_sums_of_their_own),
        cmocka_unit_test(the_twin_is_close_to_double),
        cmocka_unit_test(matmul_refuses_what_does_not_fit),
        cmocka_unit_test(embed_reads_rows_of_the_slice),
    };
    kern_ftz_set();
    for (kern_path p = KERN_PATH_AVX2; p < KERN_N_PATHS; p++)
        if (!kern_cpu_has(p)) print_message("SKIP: this CPU has no path %d\n", (int)p);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
