/* Candidates -> the token, on records made here: limits against a plain reference, draws against their distribution,
 * and the same token at any number of slices. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/run/sample.h"
#include "tests/testlib.h"

#define MOST_VOCAB 2000u
#define RECORD     (sizeof(kern_cand_head) + KERN_MAX_CANDIDATES * sizeof(kern_cand_entry))

/* ---- what the candidates op leaves, made plainly ---- */

static const float *sorting;
static int by_logit(const void *a, const void *b)
{
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (sorting[i] != sorting[j]) return sorting[i] > sorting[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

typedef struct table {
    uint8_t  *bytes;
    uint32_t  n_slice[64];
    shard_records r;
} table;

static void make_slice(kern_cand_head *h, const float *x, uint32_t begin, uint32_t n, const shard_choice *c)
{
    kern_cand_entry *list = (kern_cand_entry *)(void *)(h + 1);
    const float t = c->sampling->temperature;
    const kern_draw d = { c->sampling->seed, c->position, c->sampling->sequence, KERN_PURPOSE_TOKEN };
    uint32_t order[MOST_VOCAB];

    *h = (kern_cand_head){ .max = -INFINITY, .tmax = -INFINITY, .best = SHARD_NO_ID, .drawn = SHARD_NO_ID };
    if (n == 0) return;
    for (uint32_t i = 0; i < n; i++) order[i] = begin + i;
    sorting = x;
    qsort(order, n, sizeof *order, by_logit);
    h->best = order[0];
    h->best_logit = h->max = x[order[0]];
    h->tmax = t > 0 ? h->max / t : 0;
    for (uint32_t i = begin; i < begin + n; i++) {
        h->sum += px_exp(x[i] - h->max);
        if (t > 0) h->tsum += px_exp(x[i] / t - h->tmax);
        if (t > 0 && shard_choice_draws(c)) {
            const float v = x[i] / t + kern_gumbel(&d, i);
            if (h->drawn == SHARD_NO_ID || v > h->drawn_value) {
                h->drawn = i;
                h->drawn_value = v;
                h->drawn_logit = x[i];
            }
        }
    }
    h->n_list = shard_choice_list(c) < n ? shard_choice_list(c) : n;
    for (uint32_t i = 0; i < h->n_list; i++) list[i] = (kern_cand_entry){ order[i], x[order[i]] };
}

/* `world` slices of unequal length; the last is empty when there are more than two. */
static void make(table *t, const float *x, uint32_t n, uint32_t world, const shard_choice *c)
{
    uint32_t at = 0;

    t->bytes = calloc(world, RECORD);
    assert_non_null(t->bytes);
    for (uint32_t k = 0; k < world; k++) {
        uint32_t m = world > 2 && k + 1 == world ? 0 : k + (world > 2 ? 2 : 1) >= world ? n - at : n / world / (1 + k % 2);
        t->n_slice[k] = m;
        make_slice((kern_cand_head *)(void *)(t->bytes + k * RECORD), x, at, m, c);
        at += m;
    }
    assert_int_equal(at, n);
    t->r = (shard_records){ t->bytes, RECORD, world, t->n_slice };
}

/* The whole way of a row: lists, and the whole row where they do not reach. */
static uint32_t pick(const float *x, uint32_t n, uint32_t world, const shard_choice *c, bool *whole)
{
    static kern_cand_entry a[64 * KERN_MAX_CANDIDATES], b[64 * KERN_MAX_CANDIDATES];
    kern_cand_entry token = { SHARD_NO_ID, 0 };
    shard_ordered o;
    shard_row w;
    table t;

    make(&t, x, n, world, c);
    w = shard_row_merge(&t.r);
    o = shard_order_lists(&t.r, a);
    *whole = !shard_choose(c, &w, &o, &token);
    if (*whole) {
        for (uint32_t i = 0; i < n; i++) a[i] = (kern_cand_entry){ i, x[i] };
        o = shard_order_row(a, b, n);
        assert_true(shard_choose(c, &w, &o, &token));
    }
    assert_true(token.id < n && token.logit == x[token.id]);
    free(t.bytes);
    return token.id;
}

/* Probabilities that the limits leave, in double, by the text: temperature, min-p, top-k, top-p, each renormalised. */
static void reference(const float *x, uint32_t n, const shard_choice *c, double *p)
{
    const shard_sampling *s = c->sampling;
    uint32_t order[MOST_VOCAB], m = 0;
    double sum = 0, mass = 0;

    for (uint32_t i = 0; i < n; i++) {
        bool ban = false;
        p[i] = 0;
        for (uint32_t j = 0; j < c->n_ban; j++) ban |= c->ban[j] == i;
        if (!ban) order[m++] = i;
    }
    sorting = x;
    qsort(order, m, sizeof *order, by_logit);
    const double top = (double)x[order[0]] / (double)s->temperature;
    for (uint32_t i = 0; i < m; i++)
        if (exp((double)x[order[i]] / (double)s->temperature - top) < (double)s->min_p) m = i;
    if (s->top_k && m > s->top_k) m = s->top_k;
    for (uint32_t i = 0; i < m; i++) sum += exp((double)x[order[i]] / (double)s->temperature - top);
    for (uint32_t i = 0; i < m; i++) {
        mass += exp((double)x[order[i]] / (double)s->temperature - top) / sum;
        if (mass >= (double)s->top_p) m = i + 1;
    }
    sum = 0;
    for (uint32_t i = 0; i < m; i++) sum += p[order[i]] = exp((double)x[order[i]] / (double)s->temperature - top);
    for (uint32_t i = 0; i < m; i++) p[order[i]] /= sum;
}

static void logits_of(float *x, uint32_t n, float spread, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) x[i] = spread * test_rand_normal(&seed);
}

/* ---- tests ---- */

static const shard_sampling kinds[] = {
    { .temperature = 1, .top_p = 1 },
    { .temperature = 0.7f, .top_p = 1 },
    { .temperature = 1, .top_p = 1, .top_k = 5 },
    { .temperature = 1.3f, .top_p = 0.8f },
    { .temperature = 1, .top_p = 1, .min_p = 0.05f },
    { .temperature = 1.1f, .top_p = 0.9f, .min_p = 0.02f, .top_k = 20 },
    { .temperature = 2, .top_p = 0.99f },                  /* far beyond the 256 best */
    { .temperature = 3, .top_p = 1, .min_p = 0.001f },
    { .temperature = 2, .top_p = 0.95f, .top_k = 700 },
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static void draws_follow_the_distribution_under_every_limit(void **state)
{
    enum { N = 1200, DRAWS = 1500 };
    static float x[N];
    static double p[N];
    static uint32_t count[N];
    const uint32_t ban[2] = { 3, 700 };

    (void)state;
    logits_of(x, N, 2.0f, 7);
    x[3] = 9;                                  /* a banned id that would win most draws */
    for (size_t k = 0; k < N_KINDS; k++)
        for (uint32_t n_ban = 0; n_ban <= 2; n_ban += 2) {
            uint32_t n_whole = 0, bins = 0;
            double chi = 0, rest_p = 0, rest_n = 0;

            memset(count, 0, sizeof count);
            for (uint32_t i = 0; i < DRAWS; i++) {
                shard_sampling s = kinds[k];
                bool whole;
                s.seed = 1000 + i;
                const shard_choice c = { &s, 17, ban, n_ban };
                count[pick(x, N, 2, &c, &whole)]++;
                n_whole += whole;
            }
            const shard_choice c = { &kinds[k], 17, ban, n_ban };
            reference(x, N, &c, p);
            for (uint32_t i = 0; i < N; i++) {
                if (p[i] == 0) assert_int_equal(count[i], 0);
                if (p[i] * DRAWS >= 5) {
                    chi += (count[i] - p[i] * DRAWS) * (count[i] - p[i] * DRAWS) / (p[i] * DRAWS);
                    bins++;
                } else {
                    rest_p += p[i];
                    rest_n += count[i];
                }
            }
            if (rest_p * DRAWS >= 5) {
                chi += (rest_n - rest_p * DRAWS) * (rest_n - rest_p * DRAWS) / (rest_p * DRAWS);
                bins++;
            }
            const double dof = bins > 1 ? bins - 1 : 1, z = (chi - dof) / sqrt(2 * dof);
            printf("kind %zu, %u banned: %u bins, chi2 %.1f, z %.2f, %u rows whole\n", k, n_ban, bins, chi, z, n_whole);
            assert_true(z < 5);
            if (k >= 6) assert_true(n_whole == DRAWS);
            if (n_ban == 0 && (k < 3 || k == 5)) assert_int_equal(n_whole, 0);
        }
}

static void the_token_does_not_depend_on_the_slices(void **state)
{
    enum { N = 900 };
    static float x[N];

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        for (size_t k = 0; k < N_KINDS; k++) {
            shard_sampling s = kinds[k];
            const uint32_t ban[1] = { (uint32_t)seed };
            bool whole;
            uint32_t first;

            s.seed = seed * 77;
            logits_of(x, N, 1.5f, seed);
            const shard_choice c = { &s, (uint32_t)seed, ban, seed % 3 == 0 };
            first = pick(x, N, 1, &c, &whole);
            for (uint32_t world = 2; world <= 7; world++) assert_int_equal(pick(x, N, world, &c, &whole), first);
        }
}

static void top_k_one_is_greedy(void **state)
{
    enum { N = 400 };
    static float x[N];

    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        shard_sampling k1 = { .temperature = 1.5f, .top_p = 1, .top_k = 1, .seed = seed }, g = { .top_p = 1 };
        bool whole;

        logits_of(x, N, 1, seed);
        const shard_choice a = { &k1, 5, NULL, 0 }, b = { &g, 5, NULL, 0 };
        assert_int_equal(pick(x, N, 3, &a, &whole), pick(x, N, 3, &b, &whole));
        assert_false(whole);
    }
}

static void ties_go_to_the_lowest_id_and_banned_ids_never_win(void **state)
{
    float x[40];
    shard_sampling g = { .top_p = 1 }, k1 = { .temperature = 1, .top_p = 1, .top_k = 1 };
    const uint32_t ban[3] = { 4, 9, 21 };
    bool whole;

    (void)state;
    for (int i = 0; i < 40; i++) x[i] = -1;
    x[4] = x[9] = x[21] = x[30] = x[33] = 2;
    x[12] = -0.0f;
    for (uint32_t world = 1; world <= 4; world++)
        for (uint32_t n = 0; n <= 3; n++) {
            static const uint32_t want[4] = { 4, 9, 21, 30 };
            const shard_choice a = { &g, 1, ban, n }, b = { &k1, 1, ban, n };
            assert_int_equal(pick(x, 40, world, &a, &whole), want[n]);
            assert_int_equal(pick(x, 40, world, &b, &whole), want[n]);
        }
}

static void rows_sort_like_the_comparison(void **state)
{
    enum { N = 1999 };
    static float x[N];
    static kern_cand_entry a[N], b[N];
    uint32_t order[N];

    (void)state;
    logits_of(x, N, 3, 5);
    for (uint32_t i = 0; i < N; i += 3) x[i] = floorf(x[i]);      /* ties */
    x[10] = -0.0f;
    x[500] = 0;
    x[501] = -INFINITY;
    for (uint32_t i = 0; i < N; i++) {
        a[i] = (kern_cand_entry){ i, x[i] };
        order[i] = i;
    }
    sorting = x;
    qsort(order, N, sizeof *order, by_logit);
    const shard_ordered o = shard_order_row(a, b, N);
    assert_true(o.whole && o.n == N && o.entry == a);
    for (uint32_t i = 0; i < N; i++) assert_int_equal(o.entry[i].id, order[i]);
}

static void merged_lists_are_known_as_far_as_they_are(void **state)
{
    enum { N = 600 };
    static float x[N];
    static kern_cand_entry out[3 * KERN_MAX_CANDIDATES];
    uint32_t order[N];
    shard_sampling s = { .temperature = 1, .top_p = 1, .top_k = 10 };
    const shard_choice c = { &s, 0, NULL, 0 };
    table t;

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        x[i] = (float)((i * 7919u) % 601u);
        order[i] = i;
    }
    sorting = x;
    qsort(order, N, sizeof *order, by_logit);
    make(&t, x, N, 3, &c);
    const shard_ordered o = shard_order_lists(&t.r, out);
    assert_true(o.n >= 10 && o.n < 30 && !o.whole);
    for (uint32_t i = 0; i < o.n; i++) assert_int_equal(o.entry[i].id, order[i]);
    free(t.bytes);

    s.top_k = 256;                             /* slices of fewer than 256: everything is known */
    make(&t, x, 300, 3, &c);
    const shard_ordered all = shard_order_lists(&t.r, out);
    assert_true(all.n == 300 && all.whole);
    free(t.bytes);
}

static void equal_log_probabilities_go_by_id(void **state)
{
    enum { N = 5000 };
    static shard_top top[N];
    const shard_top want[] = { { 9, -1 }, { 0, -2 }, { 4, -2 }, { 8, -2 }, { 1, -3 } };

    (void)state;
    for (uint32_t i = 0; i < 5; i++) top[i] = want[i];
    top[1].id = 8, top[3].id = 0;
    shard_order_ties(top, 5);
    for (uint32_t i = 0; i < 5; i++) assert_true(top[i].id == want[i].id && top[i].logprob == want[i].logprob);
    for (uint32_t i = 0; i < N; i++) top[i] = (shard_top){ i * 1777 % N, i < N - 1 ? -7 : -8 };
    const uint32_t last = top[N - 1].id;
    shard_order_ties(top, N);
    for (uint32_t i = 0; i < N - 1; i++) assert_int_equal(top[i].id, i < last ? i : i + 1);
    assert_int_equal(top[N - 1].id, last);
    shard_order_ties(top, 0);
}

static void log_probabilities_sum_to_one(void **state)
{
    enum { N = 700 };
    static float x[N];
    const shard_sampling g = { .top_p = 1 };
    const shard_choice c = { &g, 0, NULL, 0 };

    (void)state;
    logits_of(x, N, 4, 3);
    for (uint32_t world = 1; world <= 5; world++) {
        double sum = 0;
        table t;
        shard_row w;

        make(&t, x, N, world, &c);
        w = shard_row_merge(&t.r);
        for (uint32_t i = 0; i < N; i++) sum += exp((double)shard_row_logprob(&w, x[i]));
        assert_true(fabs(sum - 1) < 1e-5);
        free(t.bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_distribution_under_every_limit),
        cmocka_unit_test(the_token_does_not_depend_on_the_slices),
        cmocka_unit_test(top_k_one_is_greedy),
        cmocka_unit_test(ties_go_to_the_lowest_id_and_banned_ids_never_win),
        cmocka_unit_test(rows_sort_like_the_comparison),
        cmocka_unit_test(merged_lists_are_known_as_far_as_they_are),
        cmocka_unit_test(equal_log_probabilities_go_by_id),
        cmocka_unit_test(log_probabilities_sum_to_one),
    };
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
