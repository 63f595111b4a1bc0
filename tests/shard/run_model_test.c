/* The default model against the reference: teacher-forced continuations and a text, at 2 and 3 ranks.  Needs the shared
 * folder; says so and is reported as skipped where that is absent. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/shard/cluster.h"
#include "tests/testlib.h"

#define CHUNK   64u
#define MOST    2048u
#define N_TOP   10u

static const char *model, *continuations, *text;

/* What is asked of a path. */
typedef struct bound { double kl, worst, margin, perplexity; } bound;
static const bound q12 = { 5e-5, 0.25, 0.05, 0.0015 };
static const bound exact = { 1e-6, 0.002, 0.01, 0.0001 };

static test_cluster *open_or_fail(shard_policy policy, kern_kv_dtype kv, uint32_t world)
{
    px_err e = {0};
    char line[512];
    test_cluster *c = test_cluster_open(&(test_cluster_args){ .set = test_set(model, policy, world),
                                                              .demand = { .kv_dtype = kv } }, &e);
    if (!c) fail_msg("%s", px_err_format(&e, line, sizeof line));
    return c;
}

/* Score ids in chunks; each(ctx, position, row) for positions >= from.  Rows before do not ask for anything. */
static void score(test_cluster *c, const uint32_t *id, uint32_t n, uint32_t from, uint32_t top,
                  void (*each)(void *ctx, uint32_t pos, const shard_row_result *row), void *ctx)
{
    uint32_t target[MOST];
    shard_result r;
    px_err e = {0};

    for (uint32_t i = 0; i < n; i++) target[i] = i + 1 < n ? id[i + 1] : SHARD_NO_ID;
    test_open_slot(c, 0, n, NULL);
    for (uint32_t at = 0, m; at < n; at += m) {
        const bool wanted = at >= from;
        m = !wanted && from - at < CHUNK ? from - at : n - at < CHUNK ? n - at : CHUNK;
        const shard_entry en = { .n = m, .first_pos = at, .id = id + at, .rows = wanted ? SHARD_ROWS_ALL : SHARD_ROWS_NONE,
                                 .logprob = wanted, .top = wanted ? top : 0, .target = wanted ? target + at : NULL };
        if (test_cluster_step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, &e)) fail_msg("%s", e.text);
        for (uint32_t i = 0; wanted && i < m; i++) each(ctx, at + i, &r.entry[0].row[i]);
    }
    test_close_slot(c, 0);
}

/* ---- continuations ---- */

typedef struct forced {
    const json_t *steps;
    uint32_t n_prompt;
    double kl, worst, flipped;
    uint32_t n;
} forced;

static void forced_step(void *ctx, uint32_t pos, const shard_row_result *row)
{
    forced *f = ctx;
    const json_t *s = json_array_get(f->steps, pos + 1 - f->n_prompt), *top = json_object_get(s, "top");
    const double norm = json_real_value(json_object_get(s, "logsumexp")), margin = json_real_value(json_object_get(s, "margin"));
    double kl = 0, p_rest = 1, q_rest = 1;

    for (uint32_t i = 0; i < N_TOP; i++) {
        const json_t *pair = json_array_get(top, i);
        const uint32_t id = (uint32_t)json_integer_value(json_array_get(pair, 0));
        const double want = json_real_value(json_array_get(pair, 1)) - norm;
        double got = NAN;

        for (uint32_t k = 0; k < row->n_top; k++)
            if (row->top[k].id == id) got = (double)row->top[k].logprob;
        if (!(fabs(got - want) <= f->worst)) f->worst = fabs(got - want);
        kl += exp(want) * (want - got);
        p_rest -= exp(want);
        q_rest -= exp(got);
    }
    if (p_rest > 1e-9 && q_rest > 1e-9) kl += p_rest * log(p_rest / q_rest);
    f->kl += kl;
    f->n++;
    if (row->top[0].id != (uint32_t)json_integer_value(json_object_get(s, "id")) && margin > f->flipped) f->flipped = margin;
}

static void continuations_meet(test_cluster *c, const char *name, uint32_t world, const bound *b, bool short_ones)
{
    json_t *all = json_load_file(continuations, 0, NULL);
    double most_kl = 0, most_flipped = 0, worst = 0;

    assert_non_null(all);
    for (size_t p = 0; p < json_array_size(all); p++) {
        const json_t *j = json_array_get(all, p), *prompt = json_object_get(j, "prompt_ids"), *greedy = json_object_get(j, "greedy");
        uint32_t id[MOST], n = 0;
        forced f = { .steps = json_object_get(j, "steps"), .n_prompt = (uint32_t)json_array_size(prompt) };

        if (short_ones && f.n_prompt > 64) continue;
        for (size_t i = 0; i < json_array_size(prompt); i++) id[n++] = (uint32_t)json_integer_value(json_array_get(prompt, i));
        for (size_t i = 0; i + 1 < json_array_size(greedy); i++) id[n++] = (uint32_t)json_integer_value(json_array_get(greedy, i));
        assert_true(n <= MOST);
        score(c, id, n, f.n_prompt - 1, 256, forced_step, &f);
        assert_int_equal(f.n, json_array_size(f.steps));
        f.kl /= f.n;
        if (!(f.kl <= most_kl)) most_kl = f.kl;
        if (f.flipped > most_flipped) most_flipped = f.flipped;
        if (!(f.worst <= worst)) worst = f.worst;
    }
    json_decref(all);
    printf("%s, %u ranks: worst mean KL %.2g, worst log-probability off by %.2g, largest flipped margin %.2g\n", name, world,
           most_kl, worst, most_flipped);
    assert_true(most_kl <= b->kl);
    assert_true(worst <= b->worst);
    assert_true(most_flipped <= b->margin);
}

/* ---- text ---- */

static void add_nll(void *ctx, uint32_t pos, const shard_row_result *row)
{
    (void)pos;
    if (row->id != SHARD_NO_ID) *(double *)ctx -= (double)row->logprob;
}

static void perplexity_meets(test_cluster *c, const char *name, uint32_t world, const bound *b)
{
    json_t *j = json_load_file(text, 0, NULL);
    const json_t *ids = json_object_get(j, "ids");
    const double want = json_real_value(json_object_get(j, "perplexity"));
    const uint32_t n = (uint32_t)json_array_size(ids);
    double nll = 0, got;
    uint32_t id[MOST];

    assert_true(n > 100 && n <= MOST);
    for (uint32_t i = 0; i < n; i++) id[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    score(c, id, n, 0, 0, add_nll, &nll);
    got = exp(nll / (n - 1));
    printf("%s, %u ranks: perplexity %.4f, reference %.4f (%+.4f %%)\n", name, world, got, want, 100 * (got / want - 1));
    json_decref(j);
    assert_true(fabs(got / want - 1) <= b->perplexity);
}

/* ---- tests ---- */

static void the_default_path_meets_its_bounds(void **state)
{
    (void)state;
    for (uint32_t world = 1; world <= 3; world++) {
        test_cluster *c = open_or_fail(SHARD_AS_FILE, KERN_KV_F16, world);
        continuations_meet(c, "q4_1, f16 KV", world, &q12, world == 1);
        perplexity_meets(c, "q4_1, f16 KV", world, &q12);
        test_cluster_close(c);
    }
}

static void the_exact_path_meets_its_bounds(void **state)
{
    (void)state;
    for (uint32_t world = 2; world <= 3; world++) {
        test_cluster *c = open_or_fail(SHARD_TO_F32, KERN_KV_F32, world);
        continuations_meet(c, "f32, f32 KV", world, &exact, true);
        perplexity_meets(c, "f32, f32 KV", world, &exact);
        test_cluster_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_path_meets_its_bounds),
        cmocka_unit_test(the_exact_path_meets_its_bounds),
    };

    model = test_shared("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    continuations = test_shared("golden/continuations.json");
    text = test_shared("golden/text.json");
    if (!model || !continuations || !text) return 77;      /* ctest reports a skip */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
