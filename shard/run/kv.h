/* kv.h - the KV blocks of this rank: one pool, of our own or in memory that was handed to us.
 * Layer: shard/run. */
#ifndef SHARD_KV_H
#define SHARD_KV_H

#include "kernels/kernels.h"
#include "shard/plan/bytes.h"

typedef struct shard_kv {
    kern_kv  kv;
    bool     own;                          /* the pool was allocated here */
} shard_kv;

/* n_blocks: what the ranks agreed on, at most what the plan asked for.  memory: host memory of `bytes` for the pool (a
 * mapped memory file that outlives the pool), or NULL.
 * Errors: PX_ERANGE ("kv.blocks": none, or more than planned; "kv.memory": too small), PX_ENOMEM. */
px_code shard_kv_init(shard_kv *p, const kern_ops *ops, kern_dev *dev, const shard_arch *m, const shard_cut *c,
                      const shard_demand *d, const shard_rank_bytes *plan, uint32_t n_blocks, void *memory,
                      size_t bytes, px_err *e);
void    shard_kv_deinit(shard_kv *p, const kern_ops *ops, kern_dev *dev);

/* Blocks that hold n tokens. */
static inline uint32_t shard_kv_blocks_for(uint64_t n_tokens, uint32_t block)
{
    return (uint32_t)((n_tokens + block - 1) / block);
}

#endif
