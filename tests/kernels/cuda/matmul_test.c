/* matmul_test.c - matmul on CUDA: near a sum in double over exactly what the formats keep, within a bound that allows for the
 * order of additions and nothing else; near the CPU's definition within what its other rounding of activations allows; and
 * under `deterministic` the same bits in any company. */
#include "kernels/cuda/matmul.h"
#include "tests/kernels/cuda/mm_bench.h"

#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOW = EFFORT_TSAN };                    /* every kernel of few rows, fewer shapes */
/* quant has 256 threads a row. */
static uint32_t at_most(uint32_t rows) { return SLOW && rows > 13 ? 13 : rows; }

static const kern_dtype types[] = { KERN_F32, KERN_BF16, KERN_F16, KERN_Q8_0, KERN_Q4_0, KERN_Q4_1, KERN_W8, KERN_W4, KERN_Q8_M, KERN_Q8_H, KERN_FP8,
                                    KERN_Q2_HM, KERN_Q4_HL };
#define N_TYPES (sizeof types / sizeof *types)

static uint32_t pick(uint64_t *seed, uint32_t n) { return (uint32_t)(test_rand(seed) % n); }

static kern_shape shape_of(uint32_t rows, uint32_t cols, uint32_t out)
{
    return (kern_shape){ .rows = rows, .threads = 1, .n_head = 1, .n_kv_head = 1, .head_dim = 2, .max_cols = cols, .max_out = out, .n_ctx = 1 };
}

static bool is_bytes(kern_dtype t) { return t == KERN_Q8_0 || t == KERN_Q8_M || t == KERN_Q8_H || t == KERN_W8 || t == KERN_FP8; }

static uint32_t quantum(kern_dtype t) { return kern_act_of(t) == KERN_ACT_Q12 ? 32 : 1; }

/* Weights that the path of many rows rounds to fp16. */
static bool are_rounded(kern_dtype t) { return kern_act_of(t) == KERN_ACT_Q12 || t == KERN_FP8; }
static double rounded(kern_dtype t, double v) { return are_rounded(t) ? kern_f16_to_f32(kern_f32_to_f16((float)v)) : v; }

/* Every sum has at most cols + 48 additions and roundings (warps, splits, minima and scales included), each within
 * 2^-24 of a partial sum, which is at most the sum of magnitudes; tensor cores, which align and cut, within 2^-23.  A wrong, lost or
 * doubled term is about 1 / cols of that sum: far outside for these widths.  2^-120: products that underflow. */
static double allowed(uint32_t cols, double magnitudes) { return (cols + 48) * 0x1p-23 * magnitudes + 0x1p-120; }

static void check(const mm_call *c, bool many, float *const out[KERN_MAX_MATMULS])
{
    const uint32_t cols = c->w[0]->cols;
    double *x = calloc(cols, sizeof *x);

    assert_non_null(x);
    for (uint32_t i = 0; i < c->n; i++) {
        const mm_weights *w = c->w[i];
        const uint32_t stride = w->rows + c->pad;
        for (uint32_t t = 0; t < c->max; t++) {
            const float *got = out[i] + (size_t)t * stride;
            if (t < c->live) mm_row_kept(kern_act_of(w->t), c->x + (size_t)t * cols, cols, x);
            for (uint32_t r = 0; r < stride; r++) {
                uint32_t bits;
                memcpy(&bits, got + r, 4);
                if (r >= w->rows || (t >= c->live && !many)) {
                    if (bits != MM_UNWRITTEN) fail_msg("%s: row %u of %u live, output %u of %u was written", kern_dtype_get(w->t)->name, t, c->live, r, w->rows);
                    continue;
                }
                if (t >= c->live) continue;
                double want = 0, size = 0;
                for (uint32_t k = 0; k < cols; k++) {
                    const double v = w->value[(size_t)r * cols + k];
                    want += (many ? rounded(w->t, v) : v) * x[k];
                    size += w->size[(size_t)r * cols + k] * fabs(x[k]);
                }
                if (!(fabs(got[r] - want) <= allowed(cols, size)))
                    fail_msg("%s %u x %u, %u rows: row %u, output %u: %g, expected %g, off by %g of %g", kern_dtype_get(w->t)->name, w->rows, cols,
                             c->max, t, r, got[r], want, fabs(got[r] - want), allowed(cols, size));
            }
        }
    }
    free(x);
}

/* One call of n weights, outputs of untidy sizes. */
static void one_call(kern_dtype t, uint32_t max, uint32_t live, uint32_t cols, const uint32_t *rows, uint32_t n, bool deterministic, uint64_t *seed)
{
    uint32_t widest = 0;
    mm_weights w[KERN_MAX_MATMULS];
    float *out[KERN_MAX_MATMULS];
    mm_call c = { .max = max, .live = live, .n = n, .pad = pick(seed, 6), .x = mm_rows_random(max, cols, seed) };

    for (uint32_t i = 0; i < n; i++) {
        c.w[i] = &w[i];
        w[i] = mm_weights_random(t, rows[i], cols, seed);
        widest = rows[i] > widest ? rows[i] : widest;
    }
    const kern_shape shape = shape_of(max, cols, widest);
    mm_bench b = mm_bench_open(deterministic, &shape);
    mm_call_run(&b, &c, out);
    check(&c, max > CU_MM_MANY_ROWS && !deterministic && t != KERN_F32, out);
    for (uint32_t i = 0; i < n; i++) {
        mm_weights_drop(&w[i]);
        free(out[i]);
    }
    free((void *)c.x);
    mm_bench_close(&b);
}

/* Every kernel, with tiles that are full, and ragged; fewer live rows than there could be; one weight, two, three. */
static void every_type_and_number_of_rows(void **state)
{
    static const uint32_t maxes[] = { 1, 4, 5, 8, 13, 16, 27, 32, 47, 64, 71 };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < N_TYPES; i += SLOW ? 3 : 1)
        for (size_t j = EFFORT_SANITIZED ? i % 3 : 0; j < sizeof maxes / sizeof *maxes; j += SLOW ? 5 : EFFORT_SANITIZED ? 3 : 1) {
            const uint32_t n = SLOW ? 1 : 1 + pick(&seed, 3), q = quantum(types[i]), max = at_most(maxes[j]);
            const uint32_t rows[3] = { 1 + pick(&seed, 70), 1 + pick(&seed, 40), 1 + pick(&seed, 20) };
            one_call(types[i], max, j % 3 == 1 ? 1 + pick(&seed, max) : max, q * (1 + pick(&seed, SLOW ? 180 : 420) / q), rows, n, j % 4 == 3, &seed);
        }
}

/* Every ragged end of a panel's layout: blocks 1 to 17 are parts of every unit, group and chunk.  Sanitizers see a third of each type's. */
static void every_number_of_blocks(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (size_t i = SLOW; i < N_TYPES; i += SLOW ? 2 : 1)       /* the other half of the types */
        for (uint32_t blocks = EFFORT_SANITIZED && !SLOW ? 1 + i % 3 : 1; blocks <= 17; blocks += SLOW ? 17 : EFFORT_SANITIZED ? 3 : 1) {
            const uint32_t rows[1] = { 1 + pick(&seed, 33) };
            one_call(types[i], at_most(blocks % 5 ? 2 : 66), 2, 32 * blocks - (quantum(types[i]) == 1 && blocks % 3 == 0 ? 1 + pick(&seed, 31) : 0), rows, 1, false, &seed);
        }
}

/* Narrow weights with many columns: K is cut, and a second kernel adds. */
static void a_cut_sum_is_added_up(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (size_t i = 1; i < (SLOW ? 2 : N_TYPES); i++) {
        const uint32_t rows[2] = { 9, 18 }, cols = is_bytes(types[i]) ? 2080 - (quantum(types[i]) == 1 ? 9 : 0) : quantum(types[i]) == 1 ? 1050 : 4224;
        one_call(types[i], 18, 17, cols, rows, 2, i % 2, &seed);
    }
}

static void no_rows_and_no_outputs(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (size_t i = 0; i < (SLOW ? 2 : N_TYPES); i++) {
        const uint32_t rows[1] = { 20 };
        one_call(types[i], 3, 0, 64, rows, 1, false, &seed);
        one_call(types[i], SLOW ? 5 : 70, 0, 64, rows, 1, true, &seed);
    }
}

/* A row's bits, whatever the number of rows beside it, its place among them, and how many could be: with K cut, and whole. */
static void deterministic_bits_do_not_know_their_company(void **state)
{
    static const uint32_t maxes[] = { 1, 2, 6, 11, 30, 64, 67 };
    uint64_t seed = 6;

    (void)state;
    for (size_t i = 0; i < N_TYPES && !SLOW; i += EFFORT_SANITIZED ? 3 : 1) {
        const uint32_t cols = i % 2 ? 1056 : 288, n_rows = i % 2 ? 20 : 300;
        mm_weights w = mm_weights_random(types[i], n_rows, cols, &seed);
        float *x = mm_rows_random(67, cols, &seed), *mine = x + 66 * (size_t)cols, *first = NULL;
        for (size_t j = 0; j < sizeof maxes / sizeof *maxes; j += EFFORT_SANITIZED ? 2 : 1) {
            const uint32_t max = maxes[j], at = pick(&seed, max);
            const kern_shape shape = shape_of(max, cols, n_rows);
            float *rows = calloc((size_t)max * cols, 4), *out[KERN_MAX_MATMULS];
            mm_bench b = mm_bench_open(true, &shape);
            assert_non_null(rows);
            memcpy(rows, x, (size_t)(max - 1) * cols * 4);
            memcpy(rows + (size_t)(max - 1) * cols, rows + (size_t)at * cols, (size_t)cols * 4);
            memcpy(rows + (size_t)at * cols, mine, (size_t)cols * 4);
            mm_call c = { .max = max, .live = at + 1 + pick(&seed, max - at), .n = 1, .w = { &w }, .x = rows };
            mm_call_run(&b, &c, out);
            memmove(out[0], out[0] + (size_t)at * n_rows, n_rows * 4);
            if (!first) first = out[0];
            else {
                assert_memory_equal(first, out[0], n_rows * 4);
                free(out[0]);
            }
            mm_bench_close(&b);
            free(rows);
        }
        mm_weights_drop(&w);
        free(x), free(first);
    }
}

/* The CPU rounds activations of quants per block of 32 to 12 bits: s = m / 2032, X within a half, so within m / 4064 (and a
 * rounding of it); CUDA to fp16: within 2^-11 of the value, or 2^-25 of the row's scale.  The path of many rows also rounds weights
 * to fp16.  The rest are both sides' additions. */
static void near_the_definition_of_the_cpu(void **state)
{
    uint64_t seed = 7;
    const kern_ops *cpu = NULL;
    px_err e = {0};

    (void)state;
    assert_int_equal(kern_cpu_ops(KERN_PATH_SCALAR, &cpu, &e), PX_OK);
    for (size_t i = 0; i < N_TYPES && !EFFORT_SANITIZED; i++)
        for (uint32_t many = 0; many < 2; many++) {
            const kern_act act = kern_act_of(types[i]);
            const uint32_t cols = 352, n = 37, max = many ? 65 : 6;
            const kern_shape shape = shape_of(max, cols, n);
            mm_weights w = mm_weights_random(types[i], n, cols, &seed);
            float *x = mm_rows_random(max, cols, &seed), *out[KERN_MAX_MATMULS], *want = calloc((size_t)max * n, 4);
            uint32_t live = max, *flags = calloc(max, 4);
            const size_t act_bytes = kern_act_bytes(KERN_ON_CPU, act, max, cols);
            uint8_t *kept = calloc(act_bytes, 1);
            mm_bench b = mm_bench_open(false, &shape);
            fenv_t env;
            kern_dev *d;

            assert_true(want && flags && kept);
            mm_call_run(&b, &(mm_call){ .max = max, .live = live, .n = 1, .w = { &w }, .x = x }, out);
            assert_int_equal(fegetenv(&env), 0);
            kern_ftz_set();                                       /* of the CPU's definition alone */
            if (cpu->open(&d, &b.heap->a, &(kern_open_args){ .threads = 1 }, &e)
                || cpu->quant(d, &(kern_quant_args){ .rows = { max, { &live, 4 } }, .cols = cols, .act = act, .in = { x, (size_t)max * cols * 4 },
                                                     .out = { kept, act_bytes }, .flags = { flags, (size_t)max * 4 } }, &e)
                || cpu->matmul(d, &(kern_matmul_args){ .rows = { max, { &live, 4 } }, .act = act, .cols = cols, .in = { kept, act_bytes }, .n = 1,
                                                       .w = { { types[i], n, cols, { w.panels, w.bytes } } },
                                                       .out = { { want, (size_t)max * n * 4 } }, .out_stride = { n } }, &e))
                fail_msg("%s: %s", e.field, e.text);
            cpu->close(d);
            assert_int_equal(fesetenv(&env), 0);
            for (uint32_t t = 0; t < max; t++) {
                const float *row = x + (size_t)t * cols;
                float most = 0;
                for (uint32_t k = 0; k < cols; k++) most = fmaxf(most, fabsf(row[k]));
                for (uint32_t r = 0; r < n; r++) {
                    double bound = 0, size = 0;
                    for (uint32_t k = 0; k < cols; k++) {
                        const double s = w.size[(size_t)r * cols + k];
                        float block = 0;
                        for (uint32_t j = k / 32 * 32; j < k / 32 * 32 + 32 && j < cols; j++) block = fmaxf(block, fabsf(row[j]));
                        size += s * fabs(row[k]);
                        if (act == KERN_ACT_Q12) bound += s * (block / 4063 + fabs(row[k]) * 0x1p-11 + 0x1p-25 * fmax(1, most / 16384));
                        if (act == KERN_ACT_F16) bound += s * (fabs(row[k]) * 0x1p-11 + 0x1p-25 * fmax(1, most / 16384));
                        if (are_rounded(types[i]) && many) bound += (s * 0x1p-11 + 0x1p-25) * fabs(row[k]) * 1.001;
                    }
                    bound += 2 * allowed(cols, size);
                    const double off = fabs((double)out[0][(size_t)t * n + r] - want[(size_t)t * n + r]);
                    if (!(off <= bound)) fail_msg("%s: row %u, output %u: off by %g of %g", kern_dtype_get(types[i])->name, t, r, off, bound);
                }
            }
            mm_weights_drop(&w);
            free(x), free(out[0]), free(want), free(flags), free(kept);
            mm_bench_close(&b);
        }
}

/* With 99 KB of shared memory the ring is shorter, or a tile: the same bits as with 163 KB.  More rounds than there are in any ring. */
static void a_device_of_little_shared_memory_answers_the_same(void **state)
{
    static const struct { uint32_t max, wk; bool deterministic; } calls[] = { { 4, 8, false }, { 8, 4, false }, { 16, 4, false }, { 32, 2, false },
                                                                              { 64, 1, false }, { 64, 2, true } };
    static const kern_dtype rings[] = { KERN_BF16, KERN_FP8, KERN_Q8_0, KERN_Q8_M, KERN_Q4_0, KERN_Q4_HL, KERN_Q2_HM };     /* the others' are like these */
    enum { CALLS = sizeof calls / sizeof *calls, N = CALLS * sizeof rings / sizeof *rings, ROWS = 20, STEP = EFFORT_SANITIZED ? 5 : 1 };
    float *want[N] = {0};

    (void)state;
    for (int little = 0; little < 2 && !SLOW; little++) {
        if (!mm_bench_little_shared(little)) {
            puts("SKIPPED: a GPU has as much shared memory as it has");
            skip();
        }
        for (size_t i = 0; i < N; i += STEP) {
            const kern_dtype t = rings[i / CALLS];
            const uint32_t max = calls[i % CALLS].max, chunk = is_bytes(t) ? 2 : quantum(t) == 1 ? 1 : 4, cols = 32 * (5 * calls[i % CALLS].wk * chunk + 1);
            const kern_shape shape = shape_of(max, cols, ROWS);
            uint64_t seed = 10 + i;
            mm_weights w = mm_weights_random(t, ROWS, cols, &seed);
            float *x = mm_rows_random(max, cols, &seed), *out[KERN_MAX_MATMULS];
            mm_bench b = mm_bench_open(calls[i % CALLS].deterministic, &shape);

            mm_call_run(&b, &(mm_call){ .max = max, .live = max, .n = 1, .w = { &w }, .x = x }, out);
            if (little) {
                assert_memory_equal(want[i], out[0], (size_t)max * ROWS * 4);
                free(want[i]), free(out[0]);
            } else {
                want[i] = out[0];
            }
            free(x);
            mm_weights_drop(&w);
            mm_bench_close(&b);
        }
    }
    mm_bench_little_shared(false);
}

static void wrong_arguments_are_named(void **state)
{
    uint64_t seed = 8;
    const kern_shape shape = shape_of(70, 64, 40);
    mm_bench b = mm_bench_open(false, &shape);
    mm_weights w = mm_weights_random(KERN_Q8_0, 40, 64, &seed);
    const uint32_t live = 2;
    px_err e = {0};
    kern_matmul_args good = { .rows = { 2, mm_bench_put(&b, &live, 4) }, .act = KERN_ACT_Q12, .cols = 64, .in = mm_bench_poisoned(&b, 70 * 192), .n = 1,
                              .w = { mm_weight_on(&b, &w) }, .out = { mm_bench_poisoned(&b, 70 * 40 * 4) }, .out_stride = { 40 }, .workspace = b.workspace };
    enum { CASES = 14 };
    kern_matmul_args a[CASES];
    static const char *const field[CASES] = { "matmul.n", "matmul.act", "matmul.act", "matmul.rows", "matmul.in", "matmul.w", "matmul.cols", "matmul.out_stride",
                                              "matmul.out", "matmul.w", "matmul.workspace", "matmul.w", "matmul.cols", "matmul.w" };

    (void)state;
    for (int i = 0; i < CASES; i++) a[i] = good;
    a[0].n = 4;
    a[1].act = KERN_N_ACTS;
    a[2].act = KERN_ACT_BF16;
    a[3].rows.live.bytes = 3;
    a[4].in.bytes = 2 * 192 - 1;
    a[5].w[0].panels.bytes--;
    a[6].w[0].cols = 32;
    a[7].out_stride[0] = 39;
    a[8].out[0].bytes = (40 + 40) * 4 - 1;
    a[9].w[0].dtype = KERN_Q6_K;
    a[10].rows.max = 70, a[10].workspace.bytes = 1 << 20;
    a[11].w[0].rows = 16 * 65536 + 1;
    a[12].cols = (1u << 30) + 1;
    a[13].n = 3;                                                  /* one has room in a grid, three have not; nobody looks at so much memory */
    for (int i = 0; i < 3; i++) {
        a[13].w[i] = good.w[0], a[13].out[i] = good.out[0];
        a[13].w[i].rows = a[13].out_stride[i] = 16 * 21846;
        a[13].w[i].panels.bytes = a[13].out[i].bytes = (size_t)1 << 40;
    }
    for (int i = 0; i < CASES; i++) {
        px_err_clear(&e);
        const px_code rc = b.ops->matmul(b.d, &a[i], &e);
        if (rc != (i == 9 || i > 11 ? PX_EUNSUP : PX_EINTERNAL)) fail_msg("case %d: %s", i, px_code_name(rc));
        assert_string_equal(e.field, field[i]);
    }
    px_err_clear(&e);
    if (b.ops->matmul(b.d, &good, &e)) fail_msg("%s: %s", e.field, e.text);
    kern_buf *all[] = { &good.rows.live, &good.in, &good.w[0].panels, &good.out[0] };
    for (size_t i = 0; i < 4; i++) b.ops->free(b.d, all[i]);
    mm_weights_drop(&w);
    mm_bench_close(&b);
}

/* What record keeps does again what it did, with what lies on the device by then. */
static void a_graph_keeps_it(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (uint32_t max = 5; max < (SLOW ? 6 : 80); max += 66) {
        const kern_shape shape = shape_of(max, 128, 50);
        mm_bench b = mm_bench_open(false, &shape);
        mm_weights w = mm_weights_random(KERN_Q4_0, 50, 128, &seed);
        float *x = mm_rows_random(max, 128, &seed), *before = calloc(max, 50 * 4), *after = calloc(max, 50 * 4);
        uint32_t live = max;
        bool replayed = false;
        px_err e = {0};
        kern_quant_args q = { .rows = { max, mm_bench_put(&b, &live, 4) }, .cols = 128, .act = KERN_ACT_Q12, .in = mm_bench_put(&b, x, max * 512),
                              .out = mm_bench_poisoned(&b, kern_act_bytes(KERN_ON_CUDA, KERN_ACT_Q12, max, 128)), .flags = mm_bench_put(&b, x, max * 4) };
        kern_matmul_args m = { .rows = q.rows, .act = q.act, .cols = 128, .in = q.out, .n = 1, .w = { mm_weight_on(&b, &w) },
                               .out = { mm_bench_poisoned(&b, max * 200) }, .out_stride = { 50 }, .workspace = b.workspace };

        assert_true(before && after);
        if (b.ops->quant(b.d, &q, &e) || b.ops->matmul(b.d, &m, &e)) fail_msg("%s: %s", e.field, e.text);
        mm_bench_get(&b, before, m.out[0], max * 200);
        if (b.ops->record(b.d, 1, &e) || b.ops->quant(b.d, &q, &e) || b.ops->matmul(b.d, &m, &e) || b.ops->end(b.d, &e)) fail_msg("%s: %s", e.field, e.text);
        for (uint32_t k = 0; k < max * 128; k++) x[k] = -x[k];
        if (b.ops->upload(b.d, q.in, x, max * 512, &e) || b.ops->replay(b.d, 1, &replayed, &e)) fail_msg("%s: %s", e.field, e.text);
        assert_true(replayed);
        mm_bench_get(&b, after, m.out[0], max * 200);
        for (uint32_t k = 0; k < max * 50; k++) assert_true(after[k] == -before[k]);
        kern_buf *all[] = { &q.rows.live, &q.in, &q.out, &q.flags, &m.w[0].panels, &m.out[0] };
        for (size_t i = 0; i < 6; i++) b.ops->free(b.d, all[i]);
        free(x), free(before), free(after);
        mm_weights_drop(&w);
        mm_bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_number_of_rows), cmocka_unit_test(every_number_of_blocks), cmocka_unit_test(a_cut_sum_is_added_up),
        cmocka_unit_test(no_rows_and_no_outputs), cmocka_unit_test(deterministic_bits_do_not_know_their_company),
        cmocka_unit_test(near_the_definition_of_the_cpu), cmocka_unit_test(a_device_of_little_shared_memory_answers_the_same),
        cmocka_unit_test(wrong_arguments_are_named), cmocka_unit_test(a_graph_keeps_it),
    };
    return mm_bench_main(tests, sizeof tests / sizeof *tests);
}
