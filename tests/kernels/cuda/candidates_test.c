/* candidates_test.c - candidates on CUDA: every maximum, id, draw and list has the bits of the CPU's definition, sums are within
 * 2e-5 of it (they are added in another order). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/sizes.h"
#include "tests/kernels/cuda/row_bench.h"

static const double SUM_BOUND = 2e-5;
enum { OUT = sizeof(kern_cand_head) + KERN_MAX_CANDIDATES * sizeof(kern_cand_entry) };

typedef struct shape { uint32_t n, begin, max, live, kind, pad, places; } shape;    /* places: rows that the workspace has room for */

static void same_sum(float got, float want, const char *what)
{
    if (isnan(want) ? !isnan(got) : !(fabs((double)got - want) <= SUM_BOUND * fabs((double)want)))
        fail_msg("%s: %.9g, not %.9g", what, (double)got, (double)want);
}

/* Sums apart, the rows are the same bytes. */
static void same_row(const shape *s, uint32_t t, uint8_t *got, const uint8_t *want)
{
    kern_cand_head g, w;

    memcpy(&g, got, sizeof g);
    memcpy(&w, want, sizeof w);
    same_sum(g.sum, w.sum, "sum");
    same_sum(g.tsum, w.tsum, "tsum");
    row_same_float(g.max, w.max, "max", t);
    row_same_float(g.tmax, w.tmax, "tmax", t);
    row_same_float(g.drawn_value, w.drawn_value, "drawn_value", t);
    if (g.best != w.best || g.drawn != w.drawn || g.n_list != w.n_list || g.nonfinite != w.nonfinite || g.has_target != w.has_target)
        fail_msg("n %u begin %u kind %u row %u: best %u drawn %u n_list %u nonfinite %u target %u, not %u %u %u %u %u", s->n, s->begin, s->kind,
                 t, g.best, g.drawn, g.n_list, g.nonfinite, g.has_target, w.best, w.drawn, w.n_list, w.nonfinite, w.has_target);
    g.sum = w.sum, g.tsum = w.tsum, g.max = w.max, g.tmax = w.tmax, g.drawn_value = w.drawn_value;
    assert_memory_equal(&g, &w, sizeof g);                   /* logits are copies */
    for (uint32_t i = sizeof g; i < OUT; i += 8)
        if (memcmp(got + i, want + i, 8)) {
            kern_cand_entry ge, we;
            memcpy(&ge, got + i, 8);
            memcpy(&we, want + i, 8);
            fail_msg("n %u begin %u kind %u row %u: entry %zu of %u is %u %.9g, not %u %.9g", s->n, s->begin, s->kind, t, (i - sizeof g) / 8,
                     w.n_list, ge.id, (double)ge.logit, we.id, (double)we.logit);
        }
}

static void fill(const shape *s, float *x, uint32_t t, uint64_t *seed)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };

    for (uint32_t i = 0; i < s->n; i++) {
        x[i] = test_rand_normal(seed) * 8.0f;
        if (s->kind == 1) x[i] = (float)(int)x[i];           /* ties, and zeros of both signs */
        if (s->kind == 2) x[i] = (float)i * 0.001f;          /* the best are all in one tile */
        if (s->kind == 3) x[i] = -0.0f;                      /* the list is nothing but ties */
        if (s->kind == 5) x[i] = i % 7 == 3 ? 1e9f : 0.0f;   /* noise vanishes: draws tie */
        if (s->kind == 6) x[i] = copysignf(i % 3 ? 1e-40f : 0.0f, x[i]);   /* too small to be numbers */
    }
    if (s->kind == 4 && t % 2 && s->n) x[test_rand(seed) % s->n] = bad[t / 2 % 3];
}

static void run(const row_bench *b, const shape *s, const float *temperatures, uint64_t *seed)
{
    static const uint32_t lists[] = { 0, 1, 10, 256, 37 };
    const uint32_t stride = s->n + s->pad, max = s->max;
    row_live n = row_live_get(b, max, s->live);
    row_pair logits = row_pair_get(b, (size_t)max * stride * 4), params = row_pair_get(b, max * sizeof(kern_cand_param));
    row_pair out = row_pair_get(b, (size_t)max * OUT), work = row_pair_get(b, s->places * kern_cuda_candidates_row_bytes(s->n));
    kern_candidates_args cpu = { .rows = n.host, .logits = logits.host, .stride = stride, .vocab_begin = s->begin, .n_valid = s->n,
                                 .params = params.host, .out = out.host, .out_stride = OUT };
    kern_candidates_args cuda = cpu;
    px_err e = {0};

    for (uint32_t t = 0; t < max; t++) {
        fill(s, (float *)logits.host.h + (size_t)t * stride, t, seed);
        for (uint32_t i = 0; i < s->pad; i++) ((float *)logits.host.h)[(size_t)t * stride + s->n + i] = 1e30f;     /* no candidates */
        ((kern_cand_param *)params.host.h)[t] = (kern_cand_param){
            .seed = test_rand(seed), .sequence = t % 4, .position = (uint32_t)test_rand(seed) % 4096, .temperature = temperatures[test_rand(seed) % 5],
            .n_list = lists[test_rand(seed) % 5], .draw = test_rand(seed) % 4 != 0,
            .target = test_rand(seed) % 3 ? s->begin - 1 + (uint32_t)(test_rand(seed) % (s->n + 3)) : UINT32_MAX };
    }
    row_pair_upload(b, &logits);
    row_pair_upload(b, &params);
    cuda.rows = n.dev, cuda.logits = logits.dev, cuda.params = params.dev, cuda.out = out.dev, cuda.workspace = work.dev;
    if (b->cpu->candidates(b->cpu_d, &cpu, &e) || b->ops->candidates(b->d, &cuda, &e)) fail_msg("%s: %s", e.field, e.text);
    uint8_t *got = row_pair_download(b, &out);
    for (uint32_t t = 0; t < max; t++) {
        if (t < s->live) same_row(s, t, got + (size_t)t * OUT, (uint8_t *)out.host.h + (size_t)t * OUT);
        else assert_memory_equal(got + (size_t)t * OUT, (uint8_t *)out.host.h + (size_t)t * OUT, OUT);
    }
    free(got);
    row_pair *all[] = { &logits, &params, &out, &work, &n.count };
    for (size_t i = 0; i < 5; i++) row_pair_put(b, all[i]);
}

static const float usual[] = { 0.0f, 0.7f, 1.0f, 100.0f, 0.01f };

static void rows_have_the_bits_of_the_definition(void **state)
{
    static const uint32_t sizes[] = { 0, 1, 2, 3, 15, 257, 1000, 4093, 4096, 4099, 9000 };
    static const uint32_t begins[] = { 0, 1, 2, 3, 24576, 0xfffffff0u - 9000 };
    row_bench b = row_bench_open();
    uint64_t seed = 61;
    (void)state;
    for (uint32_t i = 0; i < 11; i++)
        for (uint32_t kind = 0; kind < 7; kind++) {
            if (EFFORT_TSAN ? i % 4 != 1 || kind % 6 : EFFORT_SANITIZED && (i + kind) % 3) continue;
            const uint32_t max = sizes[i] > 500 ? 2 + kind % 2 : 5;
            run(&b, &(shape){ sizes[i], begins[(i + kind) % 6], max, max - (kind % 3 == 1), kind, kind % 2 ? 5 : (4 - sizes[i] % 4) % 4, 2 }, usual, &seed);
            cuda_ops_next_schedule();
        }
    row_bench_close(&b);
}

/* x / T beyond fp32: values that are infinite, sums that are no numbers. */
static void temperatures_may_be_tiny(void **state)
{
    static const float tiny[] = { 1e-30f, 1e-37f, 1e-38f, 1e30f, 1e38f };
    row_bench b = row_bench_open();
    uint64_t seed = 62;
    (void)state;
    for (uint32_t kind = 0; kind < (EFFORT_TSAN ? 1 : 7); kind += EFFORT_SANITIZED ? 5 : 1) {
        run(&b, &(shape){ kind == 5 ? 9000 : 300, 3, 4, 4, kind, 0, 4 }, tiny, &seed);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

#if !EFFORT_TSAN                             /* more threads than it takes */
/* More lists than a block holds: those of 66 tiles, joined in two rounds. */
static void lists_of_many_tiles_are_joined_in_rounds(void **state)
{
    const uint32_t n = 66 * KERN_CUDA_CAND_TILE - 5;
    row_bench b = row_bench_open();
    row_live rows = row_live_get(&b, 1, 1);
    uint64_t seed = 63;
    row_pair logits = row_pair_normal(&b, n, 1.0f, &seed), params = row_pair_get(&b, sizeof(kern_cand_param)), out = row_pair_get(&b, OUT);
    row_pair work = row_pair_get(&b, kern_cuda_candidates_row_bytes(n));
    px_err e = {0};

    (void)state;
    *(kern_cand_param *)params.host.h = (kern_cand_param){ .n_list = KERN_MAX_CANDIDATES, .target = UINT32_MAX };
    row_pair_upload(&b, &params);
    kern_candidates_args a = { .rows = rows.host, .logits = logits.host, .stride = n, .vocab_begin = 1, .n_valid = n, .params = params.host,
                               .out = out.host, .out_stride = OUT };
    assert_int_equal(b.cpu->candidates(b.cpu_d, &a, &e), PX_OK);
    a.rows = rows.dev, a.logits = logits.dev, a.params = params.dev, a.out = out.dev, a.workspace = work.dev;
    if (b.ops->candidates(b.d, &a, &e)) fail_msg("%s: %s", e.field, e.text);
    uint8_t *got = row_pair_download(&b, &out);
    same_row(&(shape){ .n = n, .begin = 1 }, 0, got, out.host.h);
    free(got);
    row_pair *all[] = { &logits, &params, &out, &work, &rows.count };
    for (size_t i = 0; i < 5; i++) row_pair_put(&b, all[i]);
    row_bench_close(&b);
}
#endif

/* The workspace of the planner's shape is enough for the step's rows, wherever the slice begins. */
static void the_plan_has_room_for_every_slice(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 20000; n++)
        for (uint32_t begin = 0; begin < 4; begin++) {
            const uint32_t groups = n ? (begin + n - 1) / 4 + 1 : 0, tiles = (groups + KERN_CUDA_CAND_TILE / 4 - 1) / (KERN_CUDA_CAND_TILE / 4);
            assert_true(kern_cuda_candidates_row_bytes(n) >= (size_t)tiles * KERN_CUDA_CAND_TILE_BYTES);
        }
    const kern_shape s = { .rows = 2048, .n_head = 1, .n_kv_head = 1, .head_dim = 64, .max_cols = 32, .max_out = 128256, .n_ctx = 128 };
    assert_int_equal(kern_cuda_candidates_workspace_bytes(&s), 32 * KERN_CUDA_CAND_TILE_BYTES * KERN_CUDA_CAND_ROWS);
    assert_true(kern_workspace_bytes(KERN_ON_CUDA, &s) >= kern_cuda_candidates_workspace_bytes(&s));
}

static void wrong_arguments_are_named(void **state)
{
    row_bench b = row_bench_open();
    row_live n = row_live_get(&b, 2, 2);
    row_pair x = row_pair_get(&b, 2 * 8 * 4), p = row_pair_get(&b, 2 * sizeof(kern_cand_param)), out = row_pair_get(&b, 2 * sizeof(kern_cand_head));
    row_pair work = row_pair_get(&b, kern_cuda_candidates_row_bytes(8));
    const kern_candidates_args good = { .rows = n.dev, .logits = x.dev, .stride = 8, .n_valid = 8, .params = p.dev, .out = out.dev,
                                        .out_stride = sizeof(kern_cand_head), .workspace = work.dev };
    px_err e;

    (void)state;
#define REFUSED(code, name, change) CUDA_REFUSED(b, candidates, good, code, name, change)
    REFUSED(PX_EINTERNAL, "candidates.stride", a.n_valid = 9);
    REFUSED(PX_EINTERNAL, "candidates.vocab_begin", a.vocab_begin = UINT32_MAX);
    REFUSED(PX_EUNSUP, "candidates.n_valid", a.stride = a.n_valid = UINT32_MAX);
    REFUSED(PX_EINTERNAL, "candidates.logits", a.logits.bytes -= 4);
    REFUSED(PX_EINTERNAL, "candidates.params", a.params.bytes -= 1);
    REFUSED(PX_EINTERNAL, "candidates.out_stride", a.out_stride = 32);
    REFUSED(PX_EINTERNAL, "candidates.out", a.out.bytes -= 8);
    REFUSED(PX_EINTERNAL, "candidates.rows", a.rows.live.h = NULL);
    REFUSED(PX_EINTERNAL, "candidates.workspace", a.workspace.bytes -= 1);

    /* A list that a row has no room for is cut: the device's parameters are nobody's to refuse. */
    for (uint32_t t = 0; t < 2; t++) {
        ((kern_cand_param *)p.host.h)[t] = (kern_cand_param){ .n_list = UINT32_MAX, .target = 3 };
        for (uint32_t i = 0; i < 8; i++) ((float *)x.host.h)[8 * t + i] = (float)(i * 3 % 8);
    }
    row_pair_upload(&b, &p);
    row_pair_upload(&b, &x);
    if (b.ops->candidates(b.d, &good, &e)) fail_msg("%s: %s", e.field, e.text);
    kern_cand_head *h = row_pair_download(&b, &out);
    for (uint32_t t = 0; t < 2; t++) {
        assert_int_equal(h[t].n_list, 0);
        assert_int_equal(h[t].best, 5);
        assert_true(h[t].has_target == 1 && h[t].target_logit == 1.0f);
    }
    free(h);
    row_pair *all[] = { &x, &p, &out, &work, &n.count };
    for (size_t i = 0; i < 5; i++) row_pair_put(&b, all[i]);
    row_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_the_bits_of_the_definition),
        cmocka_unit_test(temperatures_may_be_tiny),
#if !EFFORT_TSAN
        cmocka_unit_test(lists_of_many_tiles_are_joined_in_rounds),
#endif
        cmocka_unit_test(the_plan_has_room_for_every_slice),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    kern_ftz_set();                                          /* as in a rank; the CPU insists */
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
