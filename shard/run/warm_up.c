/* warm_up.c - before serving: known input through every kernel in use and through the ranks' sums, then every shape that
 * serving will use. */
#include "shard/run/engine.h"
#include "shard/run/mirror.h"
#include "shard/run/selftest.h"

#include <string.h>

#define SELFTEST_ROWS 6u
/* Rows of the prompt that warms the step up.  More rows are more of the same: every arena has its pages since it was
 * carved, and the largest message is one of the self-test's sums. */
#define WARM_UP_ROWS  32u

#define DEVICE_BOUND 0.03f                 /* a tenth of what one lost block of 32 columns makes; 16-bit inputs stay below a third */

/* The step on this rank's executor, and where a mirror stands beside the device the same ids, positions and blocks there. */
static px_code step_both_all(shard_executor *x, shard_mirror *m, const shard_step *in, px_err *e)
{
    shard_result r;
    px_code rc = shard_executor_step_all(x, in, &r, e);

    return rc || !m->x ? rc : shard_mirror_follow(m, in, e);
}

/* Two short steps, after each of which the same positions go through the twin: many rows and one row are two variants. */
static px_code self_test_all(shard_executor *x, const uint32_t *blocks, uint32_t n_blocks, px_err *e)
{
    const shard_slots *v = &x->slots;
    uint32_t id[SELFTEST_ROWS], n = SELFTEST_ROWS;
    const bool apart = x->ops->own_memory;
    const float bound = x->ops->backend == KERN_ON_CUDA ? DEVICE_BOUND : 0;
    shard_mirror mirror = {0};
    shard_forward scalar;
    shard_forward *twin = &scalar;
    px_code rc;

    if (n > v->token_budget) n = v->token_budget;
    if (n + 1 > v->n_ctx) n = v->n_ctx - 1;
    if (!n) return PX_OK;                                   /* a context of one token */
    if (n_blocks * v->block > SHARD_MIRROR_TOKENS) n_blocks = SHARD_MIRROR_TOKENS / v->block;
    for (uint32_t i = 0; i < n; i++) id[i] = (i * 37 + 1) % v->n_vocab;
    const shard_slot_op op[2] = { { .op = SHARD_SLOT_OPEN, .block = blocks, .n_blocks = n_blocks, .sampling = { .top_p = 1 } },
                                  { .op = SHARD_SLOT_CLOSE } };
    const shard_entry prompt = { .n = n, .id = id, .rows = SHARD_ROWS_LAST };
    const shard_entry more = { .first_pos = n, .n = 1, .id = id, .rows = SHARD_ROWS_LAST };
    const shard_step step[3] = { { .op = op, .n_ops = 1, .entry = &prompt, .n_entries = 1 }, { .entry = &more, .n_entries = 1 },
                                 { .op = &op[1], .n_ops = 1 } };

    if (apart) {
        if ((rc = shard_mirror_open(&mirror, x, n, e))) return rc;
        twin = &mirror.x->f;
    }
    for (int i = 0; i < 2; i++) {
        if ((rc = step_both_all(x, &mirror, &step[i], e))) goto out;
        if (!apart) {
            scalar = x->f;
            if ((rc = kern_cpu_ops(KERN_PATH_SCALAR, &scalar.ops, e))) goto out;
        }
        if ((rc = shard_selftest_kernels(&x->f, twin, bound, &x->a.a, i ? 1 : n, e))) goto out;
    }
    if (!(rc = step_both_all(x, &mirror, &step[2], e))) rc = shard_selftest_sums_all(&x->f, &x->a.a, x->rank, x->world, e);
out:
    shard_mirror_close(&mirror);
    return rc;
}

/* The self-test, then a short prompt, a limited draw, a decode from the last token, a whole row. */
px_code shard_executor_warm_up_all(shard_executor *x, px_err *e)
{
    const shard_slots *v = &x->slots;
    const uint32_t scratch = (uint32_t)(x->plan.host.order[1].bytes / sizeof(uint32_t));
    uint32_t *list = (uint32_t *)(void *)x->order[0], *ids = (uint32_t *)(void *)x->order[1];   /* unused before the answer */
    uint32_t n_blocks = v->stride < v->n_blocks ? v->stride : v->n_blocks, n = v->token_budget;
    const shard_sampling limits = { .temperature = 1, .top_p = 0.9f, .min_p = 0.01f, .top_k = 40, .seed = 1 };
    shard_result r;
    px_code rc;

    if (n_blocks > scratch) n_blocks = scratch;
    if (n > scratch) n = scratch;
    if (n > WARM_UP_ROWS) n = WARM_UP_ROWS;
    if (n + 2 > n_blocks * v->block) n = n_blocks * v->block - 2;      /* a block has 16 tokens or more */
    if (n + 2 > v->n_ctx) n = v->n_ctx > 2 ? v->n_ctx - 2 : 1;                          /* and the context may be tiny */
    for (uint32_t i = 0; i < n_blocks; i++) list[i] = i;
    memset(ids, 0, n * sizeof *ids);
    if ((rc = self_test_all(x, list, n_blocks, e))) return rc;

    const shard_slot_op op[2] = {
        { .op = SHARD_SLOT_OPEN, .block = list, .n_blocks = n_blocks, .sampling = limits },
        { .op = SHARD_SLOT_CLOSE },
    };
    const shard_entry prompt = { .n = n, .id = ids, .rows = SHARD_ROWS_LAST, .sample = true, .logprob = true, .top = 5 };
    const shard_entry decode = { .first_pos = n, .n = 1, .rows = SHARD_ROWS_LAST, .sample = true };
    uint32_t zero = 0;
    const shard_entry score = { .first_pos = n + 1, .n = 1, .id = &zero, .rows = SHARD_ROWS_ALL, .logprob = true,
                                .target = &zero, .top = v->n_vocab < v->max_tops ? v->n_vocab : v->max_tops };

    if ((rc = shard_executor_step_all(x, &(shard_step){ .op = op, .n_ops = 1, .entry = &prompt, .n_entries = 1 }, &r, e)))
        return rc;
    if (x->slots.slot[0].has_last && v->n_ctx >= n + 1) {
        if ((rc = shard_executor_step_all(x, &(shard_step){ .entry = &decode, .n_entries = 1 }, &r, e))) return rc;
        if (v->n_ctx >= n + 2
            && (rc = shard_executor_step_all(x, &(shard_step){ .entry = &score, .n_entries = 1 }, &r, e)))
            return rc;
    }
    if ((rc = shard_graph_record_all(x, e))) return rc;
    return shard_executor_step_all(x, &(shard_step){ .op = &op[1], .n_ops = 1 }, &r, e);
}
