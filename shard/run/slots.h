/* slots.h - what a sequence has on this rank: block list, tokens so far, how it is sampled.  And the check of a step:
 * all that could be wrong with it is found before anything changes.
 * Layer: shard/run.  The arrays lie in the executor's arena. */
#ifndef SHARD_SLOTS_H
#define SHARD_SLOTS_H

#include "shard/plan/bytes.h"
#include "shard/run/step.h"

typedef struct shard_slot {
    bool     open, used;                   /* used: an entry of the step being checked names it */
    bool     has_last;                     /* last is the id that was sampled after the last token */
    uint32_t n_blocks, n_tokens, last;
    shard_sampling sampling;
} shard_slot;
_Static_assert(sizeof(shard_slot) <= SHARD_SLOT_BYTES, "the plan counts SHARD_SLOT_BYTES a slot");

typedef struct shard_slots {
    shard_slot *slot, *shadow;             /* (n) each */
    uint32_t   *table;                     /* (n, stride): the host's image of the block table */
    uint32_t    n, stride, block, n_blocks, n_ctx, n_vocab, token_budget, max_tops;
    uint32_t    dirty_begin, dirty_end;    /* rows of the table that the device has not seen */
} shard_slots;

/* What a step asks for in all. */
typedef struct shard_step_needs { uint32_t rows, head_rows, tops; } shard_step_needs;

/* PX_EINVAL (a step that contradicts itself or the slots) or PX_ERANGE (a number outside its range); e->field: op.op,
 * op.slot, op.block, op.n_blocks, op.sampling.*, entries, entry.slot, entry.first_pos, entry.n, entry.id, entry.rows,
 * entry.sample, entry.top, entry.target, rows.  Changes nothing but the shadow. */
px_code shard_slots_check(shard_slots *s, const shard_step *in, shard_step_needs *needs, px_err *e);
/* Carry out the ops of a checked step. */
void    shard_slots_apply(shard_slots *s, const shard_step *in);

/* Rows of an entry that need logits. */
static inline uint32_t shard_entry_head_rows(const shard_entry *n)
{
    return n->rows == SHARD_ROWS_ALL ? n->n : n->rows == SHARD_ROWS_LAST ? 1 : 0;
}

#endif
