/* sample.h - candidates -> the token, and log-probabilities.  Every rank runs this on the same gathered records and
 * comes to the same token.  Exact over the whole vocabulary: where the best of each slice do not show where a limit
 * falls, the answer is "the whole row is needed", never a shorter list.
 * Layer: shard/run.  Pure. */
#ifndef SHARD_SAMPLE_H
#define SHARD_SAMPLE_H

#include "shard/run/order.h"
#include "shard/run/step.h"

/* A row's distribution, slices merged by ascending rank. */
typedef struct shard_row {
    float    max, log_sum;                 /* raw: logprob = (x - max) - log_sum */
    float    tsum;                         /* sum of px_exp(x / T - its maximum); 0 for greedy */
    uint32_t best, drawn;                  /* ids; SHARD_NO_ID if every slice is empty */
    float    best_logit, drawn_logit;
    bool     nonfinite, has_target;
    float    target_logit;
} shard_row;

shard_row shard_row_merge(const shard_records *r);
float     shard_row_logprob(const shard_row *w, float logit);

/* How the next token is chosen. */
typedef struct shard_choice {
    const shard_sampling *sampling;
    uint32_t position;                     /* of the new token */
    const uint32_t *ban; uint32_t n_ban;   /* ids that are no candidates: fewer than the vocabulary has */
} shard_choice;

/* What to ask of the candidates op: entries of the list, and whether the slice draws. */
uint32_t shard_choice_list(const shard_choice *c);
bool     shard_choice_draws(const shard_choice *c);

/* The token.  o: what is known of the row's order.  false: it takes the whole row, ask again with it (o->whole). */
bool shard_choose(const shard_choice *c, const shard_row *w, const shard_ordered *o, kern_cand_entry *token);

#endif
