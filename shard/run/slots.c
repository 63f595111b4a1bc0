#include "shard/run/slots.h"

#include "shard/run/kv.h"
#include <string.h>

/* Below this a draw is the largest logit, whatever the noise: logits that differ at all differ by far more than it. */
#define GREEDY_BELOW 1e-5f

/* ---- the check, on the shadow ---- */

static px_code check_sampling(const shard_sampling *p, px_err *e)
{
    if (!(p->temperature >= 0 && p->temperature <= 100))
        return px_fail(e, PX_ERANGE, "op.sampling.temperature", "%g is not in 0..100", (double)p->temperature);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return px_fail(e, PX_ERANGE, "op.sampling.top_p", "%g is not in (0, 1]", (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return px_fail(e, PX_ERANGE, "op.sampling.min_p", "%g is not in 0..1", (double)p->min_p);
    return PX_OK;
}

static px_code check_op(shard_slots *s, const shard_slot_op *op, px_err *e)
{
    shard_slot *t;
    px_code rc;

    if ((uint32_t)op->op > SHARD_SLOT_CLOSE) return px_fail(e, PX_EINVAL, "op.op", "%u is no operation", (unsigned)op->op);
    if (op->slot >= s->n) return px_fail(e, PX_ERANGE, "op.slot", "slot %u of %u", op->slot, s->n);
    t = &s->shadow[op->slot];
    if (op->op == SHARD_SLOT_OPEN) {
        if (t->open) return px_fail(e, PX_EINVAL, "op.slot", "slot %u is open already", op->slot);
        if ((rc = check_sampling(&op->sampling, e))) return rc;
        *t = (shard_slot){ .open = true };
    } else if (!t->open) {
        return px_fail(e, PX_EINVAL, "op.slot", "slot %u is not open", op->slot);
    }
    if (op->op == SHARD_SLOT_CLOSE) {
        *t = (shard_slot){0};
        return PX_OK;
    }
    if (op->n_blocks && !op->block) return px_fail(e, PX_EINVAL, "op.block", "%u blocks without a list", op->n_blocks);
    if (op->n_blocks > s->stride - t->n_blocks)
        return px_fail(e, PX_ERANGE, "op.n_blocks", "%u more blocks on %u: a context has %u", op->n_blocks, t->n_blocks,
                       s->stride);
    for (uint32_t i = 0; i < op->n_blocks; i++)
        if (op->block[i] >= s->n_blocks)
            return px_fail(e, PX_ERANGE, "op.block", "block %u of %u", op->block[i], s->n_blocks);
    t->n_blocks += op->n_blocks;
    return PX_OK;
}

static px_code check_ids(const shard_slots *s, const shard_slot *t, const shard_entry *n, px_err *e)
{
    if (!n->id) {
        if (n->n != 1) return px_fail(e, PX_EINVAL, "entry.id", "%u tokens without ids", n->n);
        if (!t->has_last) return px_fail(e, PX_EINVAL, "entry.id", "slot %u has sampled no token", n->slot);
    }
    for (uint32_t i = 0; n->id && i < n->n; i++)
        if (n->id[i] >= s->n_vocab)
            return px_fail(e, PX_ERANGE, "entry.id", "token %u of %u", n->id[i], s->n_vocab);
    if (n->target && n->rows != SHARD_ROWS_ALL)
        return px_fail(e, PX_EINVAL, "entry.target", "targets belong to an entry that wants all rows");
    for (uint32_t i = 0; n->target && i < n->n; i++)
        if (n->target[i] >= s->n_vocab && n->target[i] != SHARD_NO_ID)
            return px_fail(e, PX_ERANGE, "entry.target", "token %u of %u", n->target[i], s->n_vocab);
    return PX_OK;
}

static px_code check_entry(shard_slots *s, const shard_entry *n, px_err *e)
{
    shard_slot *t;

    if (n->slot >= s->n) return px_fail(e, PX_ERANGE, "entry.slot", "slot %u of %u", n->slot, s->n);
    t = &s->shadow[n->slot];
    if (!t->open) return px_fail(e, PX_EINVAL, "entry.slot", "slot %u is not open", n->slot);
    if (t->used) return px_fail(e, PX_EINVAL, "entry.slot", "two entries name slot %u", n->slot);
    t->used = true;
    if (n->first_pos != t->n_tokens)
        return px_fail(e, PX_EINVAL, "entry.first_pos", "position %u, slot %u holds %u tokens", n->first_pos, n->slot,
                       t->n_tokens);
    if (n->n == 0) return px_fail(e, PX_EINVAL, "entry.n", "no tokens");
    if (n->n > s->n_ctx - t->n_tokens)
        return px_fail(e, PX_ERANGE, "entry.n", "%u tokens after %u: the context has %u", n->n, t->n_tokens, s->n_ctx);
    if (shard_kv_blocks_for((uint64_t)t->n_tokens + n->n, s->block) > t->n_blocks)
        return px_fail(e, PX_ERANGE, "entry.n", "%u tokens after %u: slot %u has %u blocks of %u", n->n, t->n_tokens,
                       n->slot, t->n_blocks, s->block);
    if ((uint32_t)n->rows > SHARD_ROWS_ALL)
        return px_fail(e, PX_EINVAL, "entry.rows", "%u is no choice of rows", (unsigned)n->rows);
    if (n->sample && n->rows != SHARD_ROWS_LAST)
        return px_fail(e, PX_EINVAL, "entry.sample", "sampling wants the last row and no other");
    if (n->sample && n->top > SHARD_MAX_LOGPROBS)
        return px_fail(e, PX_ERANGE, "entry.top", "%u of at most %u", n->top, SHARD_MAX_LOGPROBS);
    return check_ids(s, t, n, e);
}

px_code shard_slots_check(shard_slots *s, const shard_step *in, shard_step_needs *needs, px_err *e)
{
    uint64_t rows = 0, head_rows = 0, tops = 0;
    px_code rc;

    *needs = (shard_step_needs){0};
    if ((in->n_ops && !in->op) || (in->n_entries && !in->entry))
        return px_fail(e, PX_EINVAL, "step", "a count without a list");
    memcpy(s->shadow, s->slot, s->n * sizeof *s->slot);
    for (uint32_t i = 0; i < in->n_ops; i++)
        if ((rc = check_op(s, &in->op[i], e))) return rc;
    if (in->n_entries > s->n) return px_fail(e, PX_ERANGE, "entries", "%u of at most %u", in->n_entries, s->n);
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry *n = &in->entry[i];
        const uint64_t top = n->top < s->n_vocab ? n->top : s->n_vocab;

        if ((rc = check_entry(s, n, e))) return rc;
        rows += n->n;
        head_rows += shard_entry_head_rows(n);
        tops += shard_entry_head_rows(n) * top;
    }
    if (rows > s->token_budget)
        return px_fail(e, PX_ERANGE, "rows", "%llu rows, the token budget is %u", (unsigned long long)rows, s->token_budget);
    if (head_rows > s->n)
        return px_fail(e, PX_ERANGE, "entry.rows", "%llu rows need logits, at most %u", (unsigned long long)head_rows, s->n);
    if (tops > s->max_tops)
        return px_fail(e, PX_ERANGE, "entry.top", "%llu pairs in one answer, at most %u", (unsigned long long)tops,
                       s->max_tops);
    *needs = (shard_step_needs){ (uint32_t)rows, (uint32_t)head_rows, (uint32_t)tops };
    return PX_OK;
}

/* ---- the ops, carried out ---- */

void shard_slots_apply(shard_slots *s, const shard_step *in)
{
    for (uint32_t i = 0; i < in->n_ops; i++) {
        const shard_slot_op *op = &in->op[i];
        shard_slot *t = &s->slot[op->slot];

        if (op->op == SHARD_SLOT_CLOSE) {
            *t = (shard_slot){0};
            continue;
        }
        if (op->op == SHARD_SLOT_OPEN) {
            *t = (shard_slot){ .open = true, .last = SHARD_NO_ID, .sampling = op->sampling };
            if (t->sampling.temperature < GREEDY_BELOW) t->sampling.temperature = 0;
        }
        if (op->n_blocks == 0) continue;
        memcpy(s->table + (size_t)op->slot * s->stride + t->n_blocks, op->block, op->n_blocks * sizeof *op->block);
        t->n_blocks += op->n_blocks;
        if (s->dirty_begin == s->dirty_end) s->dirty_begin = op->slot, s->dirty_end = op->slot + 1;
        if (op->slot < s->dirty_begin) s->dirty_begin = op->slot;
        if (op->slot >= s->dirty_end) s->dirty_end = op->slot + 1;
    }
}
