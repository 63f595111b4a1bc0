/* act.h - activations, sampling and head: the arena that all layers share (memory/formulas section 6).
 * Layer: shard/plan.  Pure; built without any backend. */
#ifndef SHARD_ACT_H
#define SHARD_ACT_H

#include "shard/plan/split.h"

/* Bytes of an element: of a matmul's input and output, of the residual stream, of what a sum between ranks carries. */
typedef struct shard_act_kind { uint32_t act, res, comm; } shard_act_kind;
#define SHARD_ACT_CPU  ((shard_act_kind){ 4, 4, 4 })
#define SHARD_ACT_CUDA ((shard_act_kind){ 2, 4, 2 })

typedef struct shard_act {
    uint64_t residual;                 /* lives through the step */
    uint64_t attn, ffn, head;          /* one after the other in the same place; ffn: of the experts where there are */
    uint64_t total;                    /* residual and the largest of the three */
    uint64_t scores_if_naive;          /* what attention without tiles would add: query heads x T x T floats */
    uint64_t sampling;                 /* rank 0: probabilities, sort keys, counts, grammar masks; else 0 */
} shard_act;

/* tokens: rows of a step (T); sequences: rows that need logits (S).  Errors: PX_ERANGE (field token_budget,
 * max_sequences: 0; model: beyond 64 bits). */
px_code shard_act_of(const shard_arch *m, const shard_split *s, uint32_t rank, uint32_t tokens, uint32_t sequences,
                     shard_act_kind kind, shard_act *out, px_err *e);

#endif
