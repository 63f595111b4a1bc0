/* mirror.h - a small executor on CPU beside a device's: the same rank's weights, read from the shard's mapping, a few rows,
 * a few tokens of KV.  What the device computes in warm-up is held against it.
 * Layer: shard/run.  Lives in warm-up only. */
#ifndef SHARD_MIRROR_H
#define SHARD_MIRROR_H

#include "shard/run/engine.h"

#define SHARD_MIRROR_TOKENS 128u           /* of KV: at least a block */

typedef struct shard_mirror {
    shard_executor *x;                     /* NULL: there is none */
    comm           *comm;                  /* nobody is met: it only holds the partial sums */
    kern_ops        ops;                   /* the CPU's; a cache of a type that it lacks holds fp32, rounded as that type is */
} shard_mirror;

/* For steps of at most n rows of one sequence.  Errors: PX_ENOMEM, what an executor's open says. */
px_code shard_mirror_open(shard_mirror *m, const shard_executor *of, uint32_t n, px_err *e);
void    shard_mirror_close(shard_mirror *m);
/* Slots and image of the step, as the device has them; no forward pass. */
px_code shard_mirror_follow(shard_mirror *m, const shard_step *in, px_err *e);

#endif
