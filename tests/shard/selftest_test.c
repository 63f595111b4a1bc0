/* The self-test of warm-up: it passes on every path, and finds one wrong bit of any kernel, and of any sum. */
#include "tests/testlib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/run/engine.h"
#include "shard/run/selftest.h"
#include "tests/shard/apart.h"
#include "tests/shard/cluster.h"

#define MODEL TEST_GOLDEN_DIR "/tiny/gguf/smollm_like_f16/model.gguf"

typedef struct results { px_code rc[4]; px_err e[4]; } results;

static void warm_up(void *ctx, uint32_t rank, shard_executor *x)
{
    results *w = ctx;
    w->rc[rank] = shard_executor_warm_up_all(x, &w->e[rank]);
}

static void run(const kern_ops *ops, kern_path path, uint32_t world, results *w)
{
    px_err e = {0};
    const test_cluster_args args = { .set = test_set(MODEL, SHARD_AS_FILE, world), .path = path, .ops = ops };
    test_cluster *c = test_cluster_open(&args, &e);

    assert_non_null(c);
    *w = (results){ .rc = { PX_OK } };
    test_cluster_run(c, warm_up, w);
    test_cluster_close(c);
}

static void passes_on_every_path(void **state)
{
    results w;
    (void)state;

    for (kern_path p = KERN_PATH_AUTO; p < KERN_N_PATHS; p++)
        for (uint32_t world = 1; world <= 3; world++) {
            if (!kern_cpu_has(p) && p != KERN_PATH_AUTO) continue;
            run(NULL, p, world, &w);
            for (uint32_t r = 0; r < world; r++) assert_int_equal(w.rc[r], PX_OK);
        }
}

/* ---- kernels with one wrong bit ---- */

static const kern_ops *good;

static void spoil(kern_buf b, size_t at)
{
    uint32_t bits;
    memcpy(&bits, (char *)b.h + at, sizeof bits);
    bits ^= 1u;
    memcpy((char *)b.h + at, &bits, sizeof bits);
}

static px_code bad_embed(kern_dev *d, const kern_embed_args *a, px_err *e)
{
    px_code rc = good->embed(d, a, e);
    spoil(a->out, 4);
    return rc;
}

static px_code bad_norm(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    px_code rc = good->add_norm(d, a, e);
    spoil(a->out, 8);
    return rc;
}

static px_code bad_matmul(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    px_code rc = good->matmul(d, a, e);
    spoil(a->out[0], 0);
    return rc;
}

static px_code bad_attention(kern_dev *d, const kern_attention_args *a, px_err *e)
{
    px_code rc = good->attention(d, a, e);
    for (size_t i = 0; i < a->head_dim; i++) ((float *)a->out.h)[i] *= 1.5f;
    return rc;
}

static px_code bad_rope(kern_dev *d, const kern_rope_append_args *a, px_err *e)
{
    px_code rc = good->rope_append(d, a, e);
    for (size_t i = 0; i < a->head_dim; i++) ((float *)a->q.h)[i] *= -1;
    return rc;
}

static px_code bad_swiglu(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    kern_swiglu_args plain = *a;
    plain.act.out.h = NULL;
    px_code rc = good->swiglu(d, &plain, e);
    for (size_t i = 0; i < a->cols; i++) ((float *)a->out.h)[i] *= 1.5f;
    if (rc || !a->act.out.h) return rc;
    return good->quant(d, &(kern_quant_args){ .rows = a->rows, .cols = a->cols, .act = a->act.act, .in = a->out, .out = a->act.out,
                                              .flags = a->act.flags }, e);
}

/* The norm is right, what a matmul reads of it is not. */
static px_code bad_act(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    px_code rc = good->add_norm(d, a, e);
    if (a->act.out.h) memset(a->act.out.h, 0, 32);
    return rc;
}

static px_code bad_candidates(kern_dev *d, const kern_candidates_args *a, px_err *e)
{
    px_code rc = good->candidates(d, a, e);
    spoil(a->out, offsetof(kern_cand_head, best_logit));
    return rc;
}

static void finds_a_bad_kernel(void **state)
{
    kern_ops bad[8];
    static const char *const where[8] = { "embedding", "norm", "head", "attention", "attention", "FFN", "head", "attention" };
    results w;
    px_err e = {0};
    (void)state;

    assert_int_equal(kern_cpu_ops(KERN_PATH_AUTO, &good, &e), PX_OK);
    for (size_t i = 0; i < 8; i++) bad[i] = *good;
    bad[0].embed = bad_embed;
    bad[1].add_norm = bad_norm;
    bad[2].matmul = bad_matmul;
    bad[3].attention = bad_attention;
    bad[4].rope_append = bad_rope;
    bad[5].swiglu = bad_swiglu;
    bad[6].candidates = bad_candidates;
    bad[7].add_norm = bad_act;
    for (size_t i = 0; i < 8; i++) {
        run(&bad[i], KERN_PATH_AUTO, 1, &w);
        if (w.rc[0] != PX_ECORRUPT) fail_msg("kernel %zu: %s", i, px_code_name(w.rc[0]));
        assert_string_equal(w.e[0].field, "selftest");
        if (!strstr(w.e[0].text, where[i])) fail_msg("kernel %zu: %s", i, w.e[0].text);
        assert_true(w.e[0].found[0] && w.e[0].expected[0]);
    }
}

/* ---- a device: held against a mirror in the host's memory ---- */

/* One number of the first output is made another while nothing is recorded. */
static px_code bad_far_matmul(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    const float wrong = 1000;
    px_code rc = test_apart_ops.matmul(d, a, e);

    if (!rc && !test_apart_records(d)) rc = test_apart_ops.upload(d, a->out[0], &wrong, sizeof wrong, e);
    return rc;
}

static void a_device_is_held_against_its_mirror(void **state)
{
    kern_ops bad = test_apart_ops;
    (void)state;

    bad.matmul = bad_far_matmul;
    for (int i = 0; i < 2; i++) {
        const test_cluster_args args = { .set = test_set(MODEL, SHARD_AS_FILE, 2), .ops = i ? &bad : &test_apart_ops,
                                         .device = test_apart_device };
        results w = { .rc = { PX_OK } };
        px_err e = {0};
        test_cluster *c = test_cluster_open(&args, &e);

        assert_non_null(c);
        test_cluster_run(c, warm_up, &w);
        for (int r = 0; r < 2; r++) {
            assert_int_equal(w.rc[r], i ? PX_ECORRUPT : PX_OK);
            if (i) assert_non_null(strstr(w.e[r].found, "apart"));
        }
        test_cluster_close(c);
    }
}

/* ---- sums of which something is wrong ---- */

typedef enum wrong { NOTHING_WRONG, SHARE, VIEW } wrong;

/* The linker sends every call of comm_reduce_views_all here (--wrap): the reduction as it is, but for one rank's comm. */
static struct { const comm *at; wrong how; int call; float *spoilt; const float *views[COMM_MAX_WORLD]; } fault;

px_code __real_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);
px_code __wrap_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);

px_code __wrap_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e)
{
    const bool now = c == fault.at && fault.call-- == 0;
    px_code rc;

    if (now && fault.how == SHARE) comm_partial(c, which)[bytes / sizeof(float) - 1] += 0.125f;
    if ((rc = __real_comm_reduce_views_all(c, which, bytes, views, n, e)) || !now || fault.how != VIEW) return rc;
    assert_non_null(fault.spoilt = malloc(bytes));          /* one number of what came from rank 0 */
    memcpy(fault.spoilt, (*views)[0], bytes);
    fault.spoilt[bytes / sizeof(float) / 2] += 0.125f;
    for (uint32_t i = 0; i < *n; i++) fault.views[i] = i ? (*views)[i] : fault.spoilt;
    *views = fault.views;
    return rc;
}

static void sums(void *ctx, uint32_t rank, shard_executor *x)
{
    results *w = ctx;
    w->rc[rank] = shard_selftest_sums_all(&x->f, &x->a.a, x->rank, x->world, &w->e[rank]);
}

/* The fault on `rank` at the sum of size class `call`. */
static void run_sums(uint32_t world, wrong how, uint32_t rank, int call, results *w)
{
    px_err e = {0};
    const test_cluster_args args = { .set = test_set(MODEL, SHARD_AS_FILE, world) };
    test_cluster *c = test_cluster_open(&args, &e);

    assert_non_null(c);
    *w = (results){ .rc = { PX_OK } };
    memset(&fault, 0, sizeof fault);
    fault.at = test_cluster_executor(c, rank)->f.comm;
    fault.how = how;
    fault.call = call;
    test_cluster_run(c, sums, w);
    if (how) assert_true(fault.call < 0);                   /* it was there */
    free(fault.spoilt);
    memset(&fault, 0, sizeof fault);
    test_cluster_close(c);
}

static void refused(const results *w, uint32_t rank)
{
    assert_int_equal(w->rc[rank], PX_ECORRUPT);
    assert_string_equal(w->e[rank].field, "selftest");
    assert_non_null(strstr(w->e[rank].text, "sum"));
    assert_true(w->e[rank].found[0] && strcmp(w->e[rank].found, w->e[rank].expected));
}

/* A rank that gives a wrong share: every rank's sum is wrong, in every size class. */
static void finds_a_wrong_share(void **state)
{
    results w;
    (void)state;

    for (uint32_t world = 2; world <= 3; world++)
        for (uint32_t rank = 0; rank < world; rank++)
            for (int call = 0; call < 3; call++) {
                run_sums(world, SHARE, rank, call, &w);
                for (uint32_t r = 0; r < world; r++) refused(&w, r);
            }
}

/* A rank whose comm shows it something else than its peers see: that rank alone refuses. */
static void finds_a_wrong_view(void **state)
{
    results w;
    (void)state;

    for (uint32_t rank = 0; rank < 3; rank++) {
        run_sums(3, VIEW, rank, 2, &w);
        for (uint32_t r = 0; r < 3; r++)
            if (r == rank) refused(&w, r);
            else assert_int_equal(w.rc[r], PX_OK);
    }
    run_sums(3, NOTHING_WRONG, 0, 2, &w);
    for (uint32_t r = 0; r < 3; r++) assert_int_equal(w.rc[r], PX_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(passes_on_every_path), cmocka_unit_test(finds_a_bad_kernel),
                                        cmocka_unit_test(finds_a_wrong_share), cmocka_unit_test(finds_a_wrong_view),
                                        cmocka_unit_test(a_device_is_held_against_its_mirror) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
