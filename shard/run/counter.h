/* counter.h - an allocator that counts what one owner takes from another allocator: a reading to hold against the plan.
 * Layer: shard/run.  One thread.  May be copied before anybody keeps its address. */
#ifndef SHARD_COUNTER_H
#define SHARD_COUNTER_H

#include "proto/base/alloc.h"

typedef struct shard_counter {
    px_alloc  a;
    px_alloc *under;                       /* borrowed */
    uint64_t  live;                        /* bytes taken and not put back */
} shard_counter;

void shard_counter_init(shard_counter *c, px_alloc *under);

#endif
