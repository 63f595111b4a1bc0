/* executor.h - a rank's engine: carves its arenas from the plan, then runs step after step.
 * Layer: shard/run (where kernels and comm meet).  One thread.  Nothing is allocated after open: law 2. */
#ifndef SHARD_EXECUTOR_H
#define SHARD_EXECUTOR_H

#include "comm/comm.h"
#include "kernels/kernels.h"
#include "shard/plan/bytes.h"
#include "shard/run/step.h"
#include "shard/run/weights.h"
#include "shard/store/set.h"

typedef struct shard_executor shard_executor;

typedef struct shard_executor_args {
    const kern_ops *ops;
    kern_dev *dev;                          /* open, borrowed: comm's buffers lie there too; NULL: a CPU's own */
    const shard_manifest *manifest;         /* borrowed; outlives the executor */
    const shard_file *file;                 /* this rank's shard, open and checked; borrowed */
    uint32_t rank;
    comm    *comm;                          /* opened with the plan's partial_bytes and gather_bytes; borrowed */
    const shard_demand *demand;             /* the plan's input; n_blocks below may be smaller than it asks */
    uint32_t n_blocks;                      /* agreed by all ranks */
    void    *kv_memory; size_t kv_bytes;    /* host memory for the KV pool (a mapped memory file), or NULL: own */
    bool     check_samples;                 /* debug: compare every rank's sampled ids */
    shard_progress progress;                /* of the upload of weights */
} shard_executor_args;

/* Errors: PX_ENOMEM, PX_ERANGE, PX_EUNSUP, PX_ECORRUPT with file and tensor. */
px_code shard_executor_open(shard_executor **x, px_alloc *a, const shard_executor_args *args, px_err *e);
void    shard_executor_close(shard_executor *x);
/* Collective among the ranks.  PX_EINVAL and PX_ERANGE (a step that cannot be: slot, position, block, rows over budget)
 * are found before any collective is called, on every rank alike, and change nothing.  At most max_sequences rows need
 * logits, and at most SHARD_MAX_RESULT_TOPS pairs (bytes.h; n_vocab x max_sequences if that is less) are answered.
 * Temperatures below 1e-5 are greedy.  PX_EMISMATCH: check_samples found another id on rank e->rank. */
px_code shard_executor_step_all(shard_executor *x, const shard_step *in, shard_result *out, px_err *e);
/* One step of every shape that serving will use, results dropped, slots left closed. */
px_code shard_executor_warm_up_all(shard_executor *x, px_err *e);
/* What the plan said. */
const shard_rank_bytes *shard_executor_plan(const shard_executor *x);
/* What is held, not by the plan's word: weights summed over the tensors in use, the KV pool as wrapped, arenas
 * (activations, rope tables, host tables) as counted when they were taken. */
typedef struct shard_executor_held { uint64_t weights, kv, arenas; } shard_executor_held;
shard_executor_held shard_executor_holds(const shard_executor *x);
/* Digest of the rope tables: part of the hello.  0 if there was no memory to make them. */
uint64_t shard_rope_digest(const shard_arch *m, uint32_t n_ctx);

#endif
