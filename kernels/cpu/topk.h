/* topk.h - the n best of a slice of the vocabulary, and the head of a row's candidates.
 * Layer: kernels/cpu.  The order is total (larger logit first, ties to the lowest id), so every way of selecting gives
 * the same list. */
#ifndef KERN_CPU_TOPK_H
#define KERN_CPU_TOPK_H

#include "kernels/cpu/args.h"

#define KERN_BEST_CAP (4 * KERN_MAX_CANDIDATES + 64)

typedef struct kern_best {
    uint32_t want, n, cap;
    float    floor;                          /* once `want` are kept: a logit must be larger to enter */
    uint64_t key[KERN_BEST_CAP];             /* logit's order in the high word, complement of the id in the low */
} kern_best;

void kern_best_init(kern_best *b, uint32_t want);
/* Ids come in ascending order; `logit` is finite and > b->floor (a smaller one only costs time). */
void kern_best_put(kern_best *b, uint32_t id, float logit);
/* The best, sorted: min(want, put) entries; logits are read from slice[id - begin]. */
uint32_t kern_best_take(kern_best *b, const float *slice, uint32_t begin, kern_cand_entry *out);

/* A row without candidates: an empty slice, or one with a non-finite logit (then flagged). */
void kern_cand_empty(kern_cand_head *h, bool nonfinite);
/* The logit of the wanted id, if the slice has it. */
void kern_cand_target(kern_cand_head *h, const kern_candidates_args *a, const kern_cand_param *p, const float *slice);

#endif
