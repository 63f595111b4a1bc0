#include "tests/shard/cuda_run.h"

#include <math.h>
#include <stdio.h>

#ifndef TEST_CUDA_PLUGIN
#include "tests/cuda_host/cuda_host.h"
#endif

const kern_ops *test_cuda_ops(px_err *e)
{
#ifndef TEST_CUDA_PLUGIN
    cuh_config c = cuh_current();

    c.memory_bytes = (size_t)8 << 30;
    cuh_configure(&c);
#endif
    return cuda_ops_find(e);
}

void test_cuda_multiplies_fp8(bool on)
{
#ifdef TEST_CUDA_PLUGIN
    (void)on;
#else
    cuh_config c = cuh_current();

    c.sm = on ? 89 : 80;
    cuh_configure(&c);
#endif
}

void test_cuda_reschedule(void)
{
#ifndef TEST_CUDA_PLUGIN
    static unsigned n;
    cuh_schedule(++n % cuh_n_schedules());
#endif
}

unsigned long test_cuda_launches(void)
{
#ifdef TEST_CUDA_PLUGIN
    return 0;
#else
    return cuh_calls("cudaLaunchKernel");
#endif
}

typedef struct warm { px_code rc[COMM_MAX_WORLD]; px_err e[COMM_MAX_WORLD]; } warm;

static void warm_up(void *ctx, uint32_t rank, shard_executor *x)
{
    warm *w = ctx;
    w->rc[rank] = shard_executor_warm_up_all(x, &w->e[rank]);
}

void test_cuda_warm_up(test_cluster *c)
{
    warm w = {0};

    test_cluster_run(c, warm_up, &w);
    for (uint32_t k = 0; k < COMM_MAX_WORLD; k++)
        if (w.rc[k]) fail_msg("rank %u: %s: %s (found %s, expected %s)", k, w.e[k].field, w.e[k].text, w.e[k].found, w.e[k].expected);
}

void test_cuda_row(const shard_row_result *row, uint32_t n_vocab, float *lp)
{
    assert_int_equal(row->n_top, n_vocab);
    for (uint32_t v = 0; v < n_vocab; v++) lp[v] = NAN;
    for (uint32_t v = 0; v < n_vocab; v++) {
        assert_true(row->top[v].id < n_vocab && isnan(lp[row->top[v].id]));     /* every id once */
        lp[row->top[v].id] = row->top[v].logprob;
    }
}

void test_cuda_score(test_cluster *c, uint32_t slot, const uint32_t *id, uint32_t n, uint32_t prefill, uint32_t chunk, float *lp)
{
    const uint32_t n_vocab = test_cluster_manifest(c)->arch.n_vocab;
    shard_result r;
    px_err e = {0};

    test_open_slot(c, slot, n, NULL);
    for (uint32_t at = 0, m; at < n; at += m) {
        m = at >= prefill ? 1 : prefill - at < chunk ? prefill - at : chunk;
        const shard_entry en = { .slot = slot, .first_pos = at, .n = m, .id = id + at, .rows = SHARD_ROWS_ALL, .top = n_vocab };
        if (test_cluster_step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, &e)) fail_msg("%s: %s", e.field, e.text);
        assert_int_equal(r.entry[0].n_rows, m);
        assert_false(r.entry[0].nonfinite);
        for (uint32_t i = 0; i < m; i++) test_cuda_row(&r.entry[0].row[i], n_vocab, lp + (size_t)(at + i) * n_vocab);
    }
    test_close_slot(c, slot);
}
