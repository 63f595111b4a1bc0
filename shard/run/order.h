/* order.h - tokens best first: the ranks' lists merged as far as they are known, or a whole row sorted.
 * Layer: shard/run.  Pure.  Better is the larger logit, then the lower id; the two zeros are equal. */
#ifndef SHARD_ORDER_H
#define SHARD_ORDER_H

#include "kernels/kernels.h"
#include "shard/run/step.h"

/* The records that all ranks' candidates op left for one row. */
typedef struct shard_records {
    const uint8_t  *first;                 /* rank 0's: a kern_cand_head, then its list */
    size_t          stride;                /* bytes from a rank's record to the next rank's */
    uint32_t        world;
    const uint32_t *n_slice;               /* (world) tokens in each rank's slice */
} shard_records;

static inline const kern_cand_head *shard_records_head(const shard_records *r, uint32_t rank)
{
    return (const kern_cand_head *)(const void *)(r->first + rank * r->stride);
}
static inline const kern_cand_entry *shard_records_list(const shard_records *r, uint32_t rank)
{
    return (const kern_cand_entry *)(const void *)(shard_records_head(r, rank) + 1);
}

typedef struct shard_ordered {
    const kern_cand_entry *entry;          /* (n) best first */
    uint32_t n;                            /* so many are known to be the n best */
    bool     whole;                        /* they are the whole vocabulary */
} shard_ordered;

/* Merge the lists into `out` (room for world x KERN_MAX_CANDIDATES), until a list that is not its whole slice ends: what
 * would follow is unknown.  world is at most 64. */
shard_ordered shard_order_lists(const shard_records *r, kern_cand_entry *out);
/* Sort a whole row: entry[i] = {i, logit}.  Both arrays hold n; the result lies in `entry`. */
shard_ordered shard_order_row(kern_cand_entry *entry, kern_cand_entry *scratch, uint32_t n);
/* Entries in the order of their logits, then of their ids where the log-probabilities are equal: different logits often
 * round to the same one far from the best, and a client sees nothing else of them. */
void shard_order_ties(shard_top *top, uint32_t n);

#endif
