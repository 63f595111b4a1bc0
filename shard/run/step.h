/* step.h - what a rank is told to do and what it answers: plain C images of the wire's Step and Result.
 * Layer: shard/run.  Arrays are borrowed for the call. */
#ifndef SHARD_STEP_H
#define SHARD_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHARD_NO_ID UINT32_MAX
#define SHARD_MAX_LOGPROBS 64u                 /* top log-probabilities of a generated token */

typedef struct shard_sampling {                 /* of a slot */
    float    temperature, top_p, min_p;         /* 0 = greedy; 1 = off; 0 = off */
    uint32_t top_k;                             /* 0 = off */
    uint64_t seed;
    uint32_t sequence;                          /* index of the sequence within its request */
} shard_sampling;

typedef struct shard_slot_op {                  /* opened, extended, closed; in this order within a step */
    enum { SHARD_SLOT_OPEN, SHARD_SLOT_EXTEND, SHARD_SLOT_CLOSE } op;
    uint32_t slot;
    const uint32_t *block; uint32_t n_blocks;   /* appended to the slot's block list */
    shard_sampling sampling;                    /* OPEN */
} shard_slot_op;

typedef enum shard_rows_wanted { SHARD_ROWS_NONE, SHARD_ROWS_LAST, SHARD_ROWS_ALL } shard_rows_wanted;

/* One kind of entry serves decode, a prefill chunk and Score. */
typedef struct shard_entry {
    uint32_t slot, first_pos, n;                /* tokens at positions first_pos .. first_pos + n - 1 */
    const uint32_t *id;                         /* (n), or NULL: n = 1 and the id is the last one sampled in this slot */
    shard_rows_wanted rows;                     /* which rows need logits */
    bool     sample;                            /* sample after the last row (rows must be LAST) */
    bool     ban_eos;                           /* the model's end ids are no candidates for this draw (min_new_tokens) */
    bool     logprob;                           /* log-probability of the sampled / target id */
    uint32_t top;                               /* so many best [id, logprob] a row; Score: up to the vocabulary */
    const uint32_t *target;                     /* rows ALL: (n) id whose log-probability is wanted, SHARD_NO_ID none */
} shard_entry;

typedef struct shard_step {
    uint64_t number;
    const shard_slot_op *op; uint32_t n_ops;
    const shard_entry *entry; uint32_t n_entries;
} shard_step;

typedef struct shard_top { uint32_t id; float logprob; } shard_top;
typedef struct shard_row_result {
    uint32_t position;                          /* the distribution after the token at this position */
    uint32_t id;                                /* sampled id, or the target; SHARD_NO_ID none */
    float    logprob;                           /* raw distribution: before temperature */
    const shard_top *top; uint32_t n_top;       /* best first; ties by lowest id */
} shard_row_result;
typedef struct shard_entry_result {
    uint32_t slot;
    bool     nonfinite;                         /* this sequence's numbers are not finite: it ends with INTERNAL */
    const shard_row_result *row; uint32_t n_rows;
} shard_entry_result;
typedef struct shard_result {                   /* borrowed from the executor until the next step */
    uint64_t step;
    const shard_entry_result *entry; uint32_t n_entries;
    uint32_t full_gathers;                      /* rows whose limits needed the whole row */
    uint32_t kv_saturated;                      /* rows of a rank whose values f16 KV had to saturate */
} shard_result;

#endif
