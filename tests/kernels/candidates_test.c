/* candidates_test.c - maxima, sums, draws and lists of a slice of the vocabulary: every path equal to the definition,
 * and the definition against a full sort, sums in double, and the distribution that a draw must have. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/rows.h"

enum { OUT = sizeof(kern_cand_head) + KERN_MAX_CANDIDATES * sizeof(kern_cand_entry) };

static int by_logit(const void *x, const void *y)
{
    const kern_cand_entry *a = x, *b = y;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* What must stand in a row, found the long way. */
static void check_row(const kern_candidates_args *a, const kern_cand_param *p, const float *x, const kern_cand_head *h)
{
    uint32_t n = a->n_valid;
    const kern_cand_entry *list = (const kern_cand_entry *)(h + 1);
    kern_cand_entry *all = malloc((n + 1) * sizeof *all);
    double sum = 0, tsum = 0;
    bool finite = true;

    for (uint32_t i = 0; i < n; i++) {
        all[i] = (kern_cand_entry){ a->vocab_begin + i, x[i] };
        finite = finite && isfinite(x[i]);
    }
    assert_int_equal(h->nonfinite, !finite);
    if (!n || !finite) {
        assert_true(h->max == -INFINITY && h->sum == 0 && h->best == UINT32_MAX && h->drawn == UINT32_MAX);
        assert_true(h->n_list == 0 && !h->has_target);
        free(all);
        return;
    }
    qsort(all, n, sizeof *all, by_logit);
    assert_int_equal(h->best, all[0].id);
    assert_true(h->best_logit == all[0].logit && h->max == all[0].logit);
    assert_int_equal(h->n_list, p->n_list < n ? p->n_list : n);
    for (uint32_t i = 0; i < h->n_list; i++) assert_true(list[i].id == all[i].id && list[i].logit == all[i].logit);
    for (uint32_t i = 0; i < n; i++) sum += exp((double)x[i] - all[0].logit);
    assert_true(fabs(h->sum - sum) < 2e-5 * sum);
    bool has = p->target >= a->vocab_begin && p->target < a->vocab_begin + n;
    assert_int_equal(h->has_target, has);
    if (has) assert_true(h->target_logit == x[p->target - a->vocab_begin]);
    if (!(p->temperature > 0)) {
        assert_true(h->tmax == -INFINITY && h->tsum == 0 && h->drawn == UINT32_MAX);
        free(all);
        return;
    }
    for (uint32_t i = 0; i < n; i++) tsum += exp((double)(x[i] / p->temperature) - all[0].logit / p->temperature);
    assert_true(h->tmax == all[0].logit / p->temperature && fabs(h->tsum - tsum) < 2e-5 * tsum);
    if (p->draw) {
        kern_draw d = { p->seed, p->position, p->sequence, KERN_PURPOSE_TOKEN };
        uint32_t best = 0;
        float value = -INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            float v = x[i] / p->temperature + kern_gumbel(&d, a->vocab_begin + i);
            if (v > value) {
                value = v;
                best = i;
            }
        }
        assert_int_equal(h->drawn, a->vocab_begin + best);
        assert_true(h->drawn_value == value && h->drawn_logit == x[best]);
    } else {
        assert_int_equal(h->drawn, UINT32_MAX);
    }
    free(all);
}

static void run_rows(uint32_t n_valid, uint32_t begin, uint32_t max, uint32_t live, int kind, uint64_t *seed)
{
    static const float temperatures[] = { 0.0f, 0.7f, 1.0f, 100.0f, 0.01f };
    static const uint32_t lists[] = { 0, 1, 10, 256, 37 };
    kern_dev one = { .threads = 1 };
    uint32_t stride = n_valid + 5;
    kern_candidates_args a = { .rows = row_count(max, live), .logits = row_buf((size_t)max * stride * 4), .stride = stride,
                               .vocab_begin = begin, .n_valid = n_valid, .params = row_buf(max * sizeof(kern_cand_param)),
                               .out_stride = OUT };
    kern_buf untouched = row_buf((size_t)max * OUT);
    px_err e = {0};

    memset(untouched.h, 0x5a, untouched.bytes);
    row_fill(a.logits, seed, 8.0f);
    for (uint32_t t = 0; t < max; t++) {
        float *x = (float *)a.logits.h + (size_t)t * stride;
        for (uint32_t i = 0; i < n_valid; i++) {
            if (kind == 1) x[i] = (float)(int)x[i];                       /* ties, and zeros of both signs */
            if (kind == 2) x[i] = (float)i * 0.001f;                       /* ascending: the list's worst case */
            if (kind == 3) x[i] = -0.0f;
            if (kind == 5) x[i] = i % 7 == 3 ? 1e9f : 0.0f;                /* noise vanishes: draws tie */
        }
        for (uint32_t i = n_valid; i < stride; i++) x[i] = 1e30f;          /* padded rows are no candidates */
        if (kind == 4 && t % 2 && n_valid) {
            static const float bad[] = { NAN, INFINITY, -INFINITY };
            x[test_rand(seed) % n_valid] = bad[t / 2 % 3];
        }
        ((kern_cand_param *)a.params.h)[t] = (kern_cand_param){
            .seed = test_rand(seed), .sequence = t % 4, .position = (uint32_t)test_rand(seed) % 4096,
            .temperature = temperatures[test_rand(seed) % 5], .n_list = lists[test_rand(seed) % 5],
            .draw = test_rand(seed) % 4 != 0,
            .target = test_rand(seed) % 3 ? begin + (uint32_t)(test_rand(seed) % (n_valid + 2)) : UINT32_MAX };
    }
    a.out = row_copy(untouched);
    assert_int_equal(row_paths[0].candidates(&one, &a, &e), PX_OK);
    for (uint32_t t = 0; t < live; t++)
        check_row(&a, (kern_cand_param *)a.params.h + t, (float *)a.logits.h + (size_t)t * stride,
                  (kern_cand_head *)((char *)a.out.h + (size_t)t * OUT));
    assert_memory_equal((char *)a.out.h + (size_t)live * OUT, (char *)untouched.h + (size_t)live * OUT,
                        (size_t)(max - live) * OUT);
    for (uint32_t r = 0; r < ROW_RUNS; r++) {
        row_run run;
        kern_candidates_args b = a;
        if (!row_run_get(r, &run)) continue;
        kern_dev d = { .threads = run.threads };
        b.out = row_copy(untouched);
        assert_int_equal(run.path->candidates(&d, &b, &e), PX_OK);
        row_equal(b.out, a.out, "candidates", run.path->name);
        row_drop(&b.out);
    }
    row_drop(&a.rows.live);
    row_drop(&a.logits);
    row_drop(&a.params);
    row_drop(&a.out);
    row_drop(&untouched);
}

static void rows_equal_the_definition(void **state)
{
    static const uint32_t sizes[] = { 0, 1, 2, 15, 16, 17, 31, 64, 255, 256, 257, 1000, 2048, 2051, 5000 };
    static const uint32_t begins[] = { 0, 1, 2, 3, 24576, 0xfffffff0u - 5000 };
    uint64_t seed = 21;
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 6; kind++) {
            uint32_t max = sizes[i] > 500 ? 4 : 1 + (uint32_t)(test_rand(&seed) % 12);
            run_rows(sizes[i], begins[test_rand(&seed) % 6], max, max - (kind % 2 && max > 1), kind, &seed);
        }
    run_rows(100, 7, 3, 0, 0, &seed);
    run_rows(3000, 7, 40, 40, 1, &seed);
}

/* The best of the slices' draws is the draw over the whole, wherever it is cut. */
static void a_draw_is_the_same_at_any_cut(void **state)
{
    enum { N = 1000 };
    uint64_t seed = 22;
    kern_dev one = { .threads = 1 };
    (void)state;
    for (uint32_t p = 0; p < 3; p++) {
        if (!row_paths[p].runs()) continue;
        for (uint32_t i = 0; i < 40; i++) {
            kern_rows rows = row_count(1, 1);
            kern_buf logits = row_buf(N * 4);
            kern_cand_param q = { .seed = test_rand(&seed), .position = i, .temperature = 0.8f, .draw = 1, .target = UINT32_MAX };
            kern_cand_head whole, part[2];
            px_err e = {0};
            row_fill(logits, &seed, 2.0f);
            kern_candidates_args a = { .rows = rows, .logits = logits, .stride = N, .n_valid = N, .params = { &q, sizeof q },
                                       .out = { &whole, sizeof whole }, .out_stride = sizeof whole };
            assert_int_equal(row_paths[p].candidates(&one, &a, &e), PX_OK);
            uint32_t cut = (uint32_t)(test_rand(&seed) % (N + 1));
            for (uint32_t h = 0; h < 2; h++) {
                a.vocab_begin = h ? cut : 0;
                a.n_valid = a.stride = h ? N - cut : cut;
                a.logits = kern_buf_at(logits, h ? cut * 4 : 0, (h ? N - cut : cut) * 4);
                a.out.h = &part[h];
                assert_int_equal(row_paths[p].candidates(&one, &a, &e), PX_OK);
            }
            uint32_t w = part[1].drawn_value > part[0].drawn_value;
            assert_int_equal(part[w].drawn, whole.drawn);
            assert_true(part[w].drawn_value == whole.drawn_value);
            row_drop(&rows.live);
            row_drop(&logits);
        }
    }
}

/* Draws are distributed as the softmax: chi-square over 12 tokens, with 40,000 positions, then 40,000 seeds. */
static void draws_follow_the_softmax(void **state)
{
    enum { N = 12, DRAWS = 40000 };
    static const float logits[N] = { 0, 1, -1, 2, 0.5f, -2, 1.5f, 0, 0.25f, -0.5f, -3, 1 };
    kern_dev one = { .threads = 1 };
    const row_path *path = &row_paths[row_paths[1].runs() ? 1 : 0];
    (void)state;
    for (int by_seed = 0; by_seed < 2; by_seed++) {
        double expect[N], sum = 0, chi = 0;
        uint32_t count[N] = {0}, live = 1;
        for (int i = 0; i < N; i++) sum += expect[i] = exp(logits[i] / 0.9);
        for (uint32_t i = 0; i < DRAWS; i++) {
            kern_cand_head h;
            kern_cand_param p = { .seed = by_seed ? i : 99, .position = by_seed ? 5 : i, .temperature = 0.9f, .draw = 1,
                                  .target = UINT32_MAX };
            kern_candidates_args a = { .rows = { 1, { &live, 4 } }, .logits = { (void *)logits, sizeof logits }, .stride = N,
                                       .n_valid = N, .params = { &p, sizeof p }, .out = { &h, sizeof h },
                                       .out_stride = sizeof h };
            px_err e = {0};
            assert_int_equal(path->candidates(&one, &a, &e), PX_OK);
            assert_true(h.drawn < N);
            count[h.drawn]++;
        }
        for (int i = 0; i < N; i++) {
            double want = DRAWS * expect[i] / sum;
            chi += (count[i] - want) * (count[i] - want) / want;
        }
        print_message("chi-square of 11 degrees: %.2f\n", chi);
        assert_true(chi < 31.3);             /* one in a thousand lies above */
    }
}

static void wrong_arguments_are_named(void **state)
{
    kern_dev one = { .threads = 1 };
    (void)state;
    for (uint32_t p = 0; p < 3; p++) {
        uint32_t live = 1;
        float x[8] = {0};
        kern_cand_param q = { .n_list = 2, .target = UINT32_MAX };
        kern_cand_head h[2];
        kern_candidates_args a = { .rows = { 1, { &live, 4 } }, .logits = { x, sizeof x }, .stride = 8, .n_valid = 8,
                                   .params = { &q, sizeof q }, .out = { h, sizeof h }, .out_stride = sizeof *h + 8 };
        if (!row_paths[p].runs()) continue;
#define REFUSED(name)                                                          \
    do {                                                                       \
        px_err e = {0};                                                        \
        assert_int_equal(row_paths[p].candidates(&one, &a, &e), PX_EINTERNAL); \
        assert_string_equal(e.field, name);                                    \
    } while (0)
        REFUSED("n_list");                   /* no room */
        q.n_list = KERN_MAX_CANDIDATES + 1;
        REFUSED("n_list");
        q.n_list = 1;
        a.n_valid = 9;
        REFUSED("stride");
        a.n_valid = 8;
        a.vocab_begin = UINT32_MAX;
        REFUSED("vocab_begin");
        a.vocab_begin = 0;
        a.logits.bytes = 28;
        REFUSED("logits");
        a.logits.bytes = 32;
        a.out_stride = 32;
        REFUSED("out_stride");
        a.out_stride = sizeof *h + 8;
        a.out.bytes = sizeof *h;
        REFUSED("out");
        a.out.bytes = sizeof h;
        px_err e = {0};
        assert_int_equal(row_paths[p].candidates(&one, &a, &e), PX_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_definition), cmocka_unit_test(a_draw_is_the_same_at_any_cut),
        cmocka_unit_test(draws_follow_the_softmax),  cmocka_unit_test(wrong_arguments_are_named),
    };
    _Static_assert(sizeof(kern_cand_head) == 64, "the head of a row is 64 bytes");
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
