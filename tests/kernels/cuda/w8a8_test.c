/* w8a8_test.c - products of many rows with fp8_activations: FP8 weights and activations as a scalar loop rounds and adds them, and all
 * that is not taken so the same bits as without the key. */
#include "kernels/cuda/matmul.h"
#include "tests/kernels/cuda/mm_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t pick(uint64_t *seed, uint32_t n) { return (uint32_t)(test_rand(seed) % n); }

static kern_shape shape_of(uint32_t rows, uint32_t cols, uint32_t out, bool key)
{
    return (kern_shape){ .rows = rows, .threads = 1, .n_head = 1, .n_kv_head = 1, .head_dim = 2, .max_cols = cols, .max_out = out, .n_ctx = 1,
                         .fp8_activations = key };
}

/* ---- the scalar loop ---- */

static double value_of(uint8_t b) { return (b & 0x80 ? -1 : 1) * ldexp(b & 0x78 ? 8 + b % 8 : b % 8, (b & 0x78 ? b / 8 % 16 : 1) - 10); }

/* The nearest byte, of two equally near the even one, at most 448. */
static uint8_t byte_of(float x)
{
    uint8_t best = 0;

    for (uint8_t b = 1; b < 0x7f; b++) {
        const double is = fabs(value_of(b) - fabs((double)x)), was = fabs(value_of(best) - fabs((double)x));
        if (is < was || (is == was && b % 2 == 0)) best = b;
    }
    return signbit(x) ? best | 0x80 : best;
}

/* A row of activations: as fp16 behind a power of two, and these as bytes behind a 448th of the largest. */
typedef struct kept { double scale; double *v; } kept;

static void keep(const float *x, uint32_t cols, kept *k)
{
    float most = 0, *half = malloc(cols * sizeof *half);
    double by_two = 1;

    assert_non_null(half);
    for (uint32_t c = 0; c < cols; c++) most = fmaxf(most, fabsf(x[c]));
    while (most / by_two > 32768) by_two *= 2;
    most = 0;
    for (uint32_t c = 0; c < cols; c++) {
        half[c] = kern_f16_to_f32(kern_f32_to_f16((float)(x[c] / by_two)));
        most = fmaxf(most, fabsf(half[c]));
    }
    k->scale = by_two * (most / 448.0f);
    for (uint32_t c = 0; c < cols; c++) k->v[c] = most > 0 ? value_of(byte_of(half[c] * (448.0f / most))) : 0;
    free(half);
}

/* Additions in fp32; a byte that is rounded the other way is a 16th of a term, so a 16th of 1 / cols of these magnitudes.  The tensor
 * cores of a GPU cut what they add to fewer bits than fp32's, of the largest product. */
static double allowed(uint32_t cols, double magnitudes)
{
#ifdef TEST_CUDA_PLUGIN
    return (cols * 0x1p-24 + 0x1p-9) * magnitudes + 0x1p-120;
#else
    return (cols + 6) * 0x1p-24 * magnitudes + 0x1p-120;
#endif
}

static mm_weights weights(uint32_t rows, uint32_t cols, uint64_t *seed)
{
    mm_weights w = mm_weights_random(KERN_FP8, rows, cols, seed);
    const size_t row_bytes = 4 + (size_t)cols;

    for (uint32_t r = 0; r < rows; r += 16) {            /* again without NaN, which 480 is to the library */
        const uint32_t n = rows - r < 16 ? rows - r : 16;
        const void *src[16];
        for (uint32_t i = 0; i < n; i++) {
            uint8_t *p = w.plain + (r + i) * row_bytes;
            for (uint32_t c = 0; c < cols; c++)
                if ((p[4 + c] & 0x7f) == 0x7f) p[4 + c] ^= 1;
            src[i] = p;
        }
        kern_panel_pack(KERN_FP8, src, n, cols, w.panels + r / 16 * kern_panel_stride(KERN_FP8, cols));
    }
    return w;
}

static double weight_at(const mm_weights *w, uint32_t r, uint32_t c, double *scale)
{
    const uint8_t *p = w->plain + (4 + (size_t)w->cols) * r;
    float d;

    memcpy(&d, p, 4);
    *scale = d;
    return value_of(p[4 + c]);
}

/* Rows that are live near the loop's, those behind them zeros, what lies beside them as it was. */
static void check(const mm_call *c, uint32_t i, const float *out)
{
    const mm_weights *w = c->w[i];
    const uint32_t cols = w->cols, stride = w->rows + c->pad;
    kept row = { .v = calloc(cols, sizeof *row.v) };

    assert_non_null(row.v);
    for (uint32_t t = 0; t < c->max; t++) {
        if (t < c->live) keep(c->x + (size_t)t * cols, cols, &row);
        for (uint32_t r = 0; r < stride; r++) {
            const float got = out[(size_t)t * stride + r];
            double sum = 0, size = 0, scale = 0;
            uint32_t bits;
            memcpy(&bits, &got, 4);
            if (r >= w->rows) {
                assert_int_equal(bits, MM_UNWRITTEN);
                continue;
            }
            if (t >= c->live) {
                if (got != 0) fail_msg("row %u of %u live, output %u: %g", t, c->live, r, got);
                continue;
            }
            for (uint32_t k = 0; k < cols; k++) {
                const double term = weight_at(w, r, k, &scale) * row.v[k];
                sum += term;
                size += fabs(term);
            }
            scale *= row.scale;
            if (!(fabs(got - scale * sum) <= allowed(cols, scale * size)))
                fail_msg("%u x %u, %u rows: row %u, output %u: %g, expected %g, off by %g of %g", w->rows, cols, c->max, t, r, got, scale * sum,
                         fabs(got - scale * sum), allowed(cols, scale * size));
        }
    }
    free(row.v);
}

/* ---- calls ---- */

typedef struct counted { uint32_t fp8, f16; } counted;

static counted count(const mm_bench *b)
{
    kern_info now;
    px_err e = {0};

    if (b->ops->info(b->d, &now, &e)) fail_msg("%s: %s", e.field, e.text);
    return (counted){ now.products_fp8, now.products_f16 };
}

/* The call on a device with the key, or without. */
static counted run(const mm_call *c, bool key, float *out[KERN_MAX_MATMULS])
{
    uint32_t widest = 0;

    for (uint32_t i = 0; i < c->n; i++) widest = c->w[i]->rows > widest ? c->w[i]->rows : widest;
    const kern_shape shape = shape_of(c->max, c->w[0]->cols, widest, key);
    mm_bench b = mm_bench_open(false, &shape);
    const counted before = count(&b);
    mm_call_run(&b, c, out);
    counted now = count(&b);
    mm_bench_close(&b);
    now.fp8 -= before.fp8;
    now.f16 -= before.f16;
    return now;
}

static void same_without_the_key(const mm_call *c, uint32_t i, const float *out)
{
    float *want[KERN_MAX_MATMULS];
    const counted n = run(c, false, want);

    assert_int_equal(n.fp8 + n.f16, 0);
    assert_memory_equal(out, want[i], (size_t)c->max * (c->w[i]->rows + c->pad) * 4);
    for (uint32_t j = 0; j < c->n; j++) free(want[j]);
}

/* Whole 16 bytes of outputs, and from row to row: what the library wants for bytes. */
static bool suits(const mm_call *c, uint32_t i) { return c->w[i]->rows % 4 == 0 && (c->w[i]->rows + c->pad) % 4 == 0; }

static void one_call(uint32_t max, uint32_t live, uint32_t cols, const uint32_t *rows, uint32_t n, uint32_t pad, uint64_t *seed)
{
    mm_weights w[KERN_MAX_MATMULS];
    float *out[KERN_MAX_MATMULS];
    mm_call c = { .max = max, .live = live, .n = n, .pad = pad, .x = mm_rows_random(max, cols, seed) };
    uint32_t taken = 0;

    for (uint32_t i = 0; i < n; i++) {
        w[i] = weights(rows[i], cols, seed);
        c.w[i] = &w[i];
    }
    const counted got = run(&c, true, out);
    for (uint32_t i = 0; i < n; i++) taken += suits(&c, i);
#ifndef TEST_CUDA_PLUGIN
    assert_int_equal(got.fp8, taken);
#endif
    assert_int_equal(got.fp8 + got.f16, n);
    for (uint32_t i = 0; i < n; i++) {
        /* on a GPU the library decides, and of a call that is not of one mind nobody says which */
        if (got.fp8 == n || (got.fp8 == taken && suits(&c, i))) check(&c, i, out[i]);
        else if (!got.fp8 || got.fp8 == taken) same_without_the_key(&c, i, out[i]);
        free(out[i]);
    }
    for (uint32_t i = 0; i < n; i++) mm_weights_drop(&w[i]);
    free((void *)c.x);
}

static void every_shape(void **state)
{
    static const struct { uint32_t max, live, cols, n, rows[3], pad; } list[] = {
        { 65, 65, 32, 1, { 16 }, 0 },       { 66, 66, 352, 1, { 48 }, 0 },      { 71, 50, 95, 1, { 64 }, 4 },
        { 130, 3, 417, 1, { 20 }, 0 },      { 66, 0, 64, 1, { 16 }, 0 },        { 80, 79, 33, 3, { 48, 20, 36 }, 0 },
        { 65, 64, 200, 2, { 4, 260 }, 8 },  { 66, 65, 96, 3, { 48, 37, 20 }, 0 },   /* the second as without: 37 outputs */
        { 67, 67, 100, 2, { 32, 16 }, 1 },                                          /* neither: 33 from row to row */
        { 65, 30, 64, 1, { 18 }, 2 },
    };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += EFFORT_SANITIZED ? 3 : 1)
        one_call(list[i].max, list[i].live, list[i].cols, list[i].rows, list[i].n, list[i].pad, &seed);
}

static void every_number_of_blocks(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (uint32_t blocks = 1; blocks <= 18; blocks += EFFORT_SANITIZED ? 5 : 1) {
        const uint32_t rows[1] = { 4 * (1 + pick(&seed, 12)) };
        one_call(65, 65, 32 * blocks - pick(&seed, 32), rows, 1, 0, &seed);
    }
}

/* Steps of 64 rows and less, and other types, whatever their rows. */
static void the_key_is_of_many_rows_and_fp8(void **state)
{
    static const struct { kern_dtype t; uint32_t max; } list[] = { { KERN_FP8, 64 }, { KERN_FP8, 3 }, { KERN_F16, 66 }, { KERN_BF16, 65 }, { KERN_Q8_0, 66 } };
    uint64_t seed = 3;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += EFFORT_SANITIZED ? 4 : 1) {
        mm_weights w = list[i].t == KERN_FP8 ? weights(32, 128, &seed) : mm_weights_random(list[i].t, 32, 128, &seed);
        float *out[KERN_MAX_MATMULS];
        mm_call c = { .max = list[i].max, .live = list[i].max, .n = 1, .w = { &w }, .x = mm_rows_random(list[i].max, 128, &seed) };
        const counted n = run(&c, true, out);
        assert_int_equal(n.fp8 + n.f16, 0);
        same_without_the_key(&c, 0, out[0]);
        mm_weights_drop(&w);
        free(out[0]), free((void *)c.x);
    }
}

/* ---- rows that quant does not leave ---- */

enum { ROWS = 66, COLS = 96, OUT = 20, STRIDE = 64 + 2 * COLS };

/* Activations as they lie: scale, and fp16 in the order of panel.cuh. */
static void put_row(uint8_t *acts, uint32_t t, float scale, const uint16_t *half)
{
    memcpy(acts + t * STRIDE, &scale, 4);
    for (uint32_t c = 0; c < COLS; c++) memcpy(acts + t * STRIDE + 64 + 2 * (c / 32 * 32 + 8 * (c % 8 / 2) + 2 * (c % 32 / 8) + c % 2), &half[c], 2);
}

static void a_row_that_is_not_finite_stays_so(void **state)
{
    static const uint16_t odd[] = { 0x7c00, 0xfc00, 0x7e01, 0xffff };    /* infinities, NaN */
    const kern_shape shape = shape_of(ROWS, COLS, OUT, true);
    mm_bench b = mm_bench_open(false, &shape);
    uint64_t seed = 4;
    mm_weights w = weights(OUT, COLS, &seed);
    uint8_t *acts = calloc(ROWS, STRIDE);
    float out[ROWS * OUT];
    uint32_t live = ROWS;
    uint16_t half[COLS];
    px_err e = {0};

    (void)state;
    assert_non_null(acts);
    for (uint32_t t = 0; t < ROWS; t++) {
        for (uint32_t c = 0; c < COLS; c++) half[c] = t == 5 ? (c % 2 ? 0x8000 : 0) : t == 6 ? (c == 7) : kern_f32_to_f16(test_rand_normal(&seed));
        if (t < 4) half[pick(&seed, COLS)] = odd[t];
        put_row(acts, t, t == 7 ? 0x1p100f : 1.0f, half);
    }
    kern_matmul_args m = { .rows = { ROWS, mm_bench_put(&b, &live, 4) }, .act = KERN_ACT_F16, .cols = COLS, .in = mm_bench_put(&b, acts, ROWS * STRIDE), .n = 1,
                           .w = { mm_weight_on(&b, &w) }, .out = { mm_bench_poisoned(&b, sizeof out) }, .out_stride = { OUT }, .workspace = b.workspace };
    if (b.ops->matmul(b.d, &m, &e)) fail_msg("%s: %s", e.field, e.text);
    mm_bench_get(&b, out, m.out[0], sizeof out);
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t r = 0; r < OUT; r++) {
            double scale;
            const double of_one = weight_at(&w, r, 7, &scale) * scale * 0x1p-24;
            if (t < 4 ? isfinite(out[t * OUT + r]) : !isfinite(out[t * OUT + r])) fail_msg("row %u, output %u: %g", t, r, out[t * OUT + r]);
            if (t == 5) assert_true(out[t * OUT + r] == 0);
            if (t == 6) assert_true(fabs(out[t * OUT + r] - of_one) <= fabs(of_one) * 0x1p-21);      /* fp16's smallest number, as 448 */
        }
    kern_buf *all[] = { &m.rows.live, &m.in, &m.w[0].panels, &m.out[0] };
    for (size_t i = 0; i < 4; i++) b.ops->free(b.d, all[i]);
    free(acts);
    mm_weights_drop(&w);
    mm_bench_close(&b);
}

/* ---- graphs, refusals ---- */

/* What record keeps narrows the rows that are there by then; products are counted when they run one by one. */
static void a_graph_keeps_it(void **state)
{
    const kern_shape shape = shape_of(ROWS, COLS, OUT, true);
    mm_bench b = mm_bench_open(false, &shape);
    uint64_t seed = 5;
    mm_weights w = weights(OUT, COLS, &seed);
    float *x = mm_rows_random(ROWS, COLS, &seed), before[ROWS * OUT], after[ROWS * OUT];
    uint32_t live = ROWS;
    bool replayed = false;
    px_err e = {0};
    kern_quant_args q = { .rows = { ROWS, mm_bench_put(&b, &live, 4) }, .cols = COLS, .act = KERN_ACT_F16, .in = mm_bench_put(&b, x, ROWS * COLS * 4),
                          .out = mm_bench_poisoned(&b, ROWS * STRIDE), .flags = mm_bench_put(&b, x, ROWS * 4) };
    kern_matmul_args m = { .rows = q.rows, .act = q.act, .cols = COLS, .in = q.out, .n = 1, .w = { mm_weight_on(&b, &w) },
                           .out = { mm_bench_poisoned(&b, sizeof before) }, .out_stride = { OUT }, .workspace = b.workspace };

    (void)state;
    if (b.ops->quant(b.d, &q, &e) || b.ops->matmul(b.d, &m, &e)) fail_msg("%s: %s", e.field, e.text);
    mm_bench_get(&b, before, m.out[0], sizeof before);
    const counted ran = count(&b);
    if (b.ops->record(b.d, 1, &e) || b.ops->quant(b.d, &q, &e) || b.ops->matmul(b.d, &m, &e) || b.ops->end(b.d, &e)) fail_msg("%s: %s", e.field, e.text);
    for (uint32_t k = 0; k < ROWS * COLS; k++) x[k] = -x[k];
    if (b.ops->upload(b.d, q.in, x, ROWS * COLS * 4, &e) || b.ops->replay(b.d, 1, &replayed, &e)) fail_msg("%s: %s", e.field, e.text);
    assert_true(replayed);
    mm_bench_get(&b, after, m.out[0], sizeof after);
    for (uint32_t k = 0; k < ROWS * OUT; k++) assert_true(after[k] == -before[k]);
    assert_int_equal(count(&b).fp8, ran.fp8);
    assert_true(ran.fp8 > 0);
    kern_buf *all[] = { &q.rows.live, &q.in, &q.out, &q.flags, &m.w[0].panels, &m.out[0] };
    for (size_t i = 0; i < 6; i++) b.ops->free(b.d, all[i]);
    free(x);
    mm_weights_drop(&w);
    mm_bench_close(&b);
}

/* A workspace that was sized without the key is too small by what the rows take as bytes. */
static void a_workspace_without_room_is_named(void **state)
{
    const kern_shape shape = shape_of(ROWS, COLS, OUT, true), without = shape_of(ROWS, COLS, OUT, false);
    size_t scales_at;
    const size_t less = kern_workspace_bytes(KERN_ON_CUDA, &without), room = cu_mm_fp8_bytes(ROWS, COLS / 32 + 1, &scales_at);
    mm_bench b = mm_bench_open(false, &shape);
    uint64_t seed = 6;
    mm_weights w = weights(OUT, COLS, &seed);
    uint32_t live = ROWS;
    kern_matmul_args m = { .rows = { ROWS, mm_bench_put(&b, &live, 4) }, .act = KERN_ACT_F16, .cols = COLS, .in = mm_bench_poisoned(&b, ROWS * STRIDE), .n = 1,
                           .w = { mm_weight_on(&b, &w) }, .out = { mm_bench_poisoned(&b, ROWS * OUT * 4) }, .out_stride = { OUT }, .workspace = b.workspace };

    (void)state;
    assert_true(scales_at >= ROWS * COLS && scales_at % 256 == 0 && room >= scales_at + ROWS * 4);
    assert_int_equal(kern_workspace_bytes(KERN_ON_CUDA, &shape), less + room);
    CUDA_REFUSED(b, matmul, m, PX_EINTERNAL, "matmul.workspace", a.workspace.bytes = less);
    kern_buf *all[] = { &m.rows.live, &m.in, &m.w[0].panels, &m.out[0] };
    for (size_t i = 0; i < 4; i++) b.ops->free(b.d, all[i]);
    mm_weights_drop(&w);
    mm_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape), cmocka_unit_test(every_number_of_blocks), cmocka_unit_test(the_key_is_of_many_rows_and_fp8),
        cmocka_unit_test(a_row_that_is_not_finite_stays_so), cmocka_unit_test(a_graph_keeps_it), cmocka_unit_test(a_workspace_without_room_is_named),
    };
    return mm_bench_main(tests, sizeof tests / sizeof *tests);
}
