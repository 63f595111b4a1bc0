/* device.h - memory that is not ours: communicators, contexts, graphs.  Estimates with bounds, replaced by measurement.
 * Layer: shard/plan.  Pure.  memory/formulas section 7. */
#ifndef SHARD_DEVICE_H
#define SHARD_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct shard_estimate {
    uint64_t bytes, low, high;             /* low <= bytes <= high; all equal: known to the byte */
    bool     measured;
} shard_estimate;

/* NCCL's buffers of one channel to one connected peer: the three protocols that are received, and what is sent. */
#define SHARD_NCCL_LL     (8u * 512u * 8u * 16u)
#define SHARD_NCCL_LL128  (120u * 640u * 8u * 8u)
#define SHARD_NCCL_SIMPLE 4194304u         /* NCCL_BUFFSIZE */
#define SHARD_NCCL_CHANNELS 24u            /* that NCCL takes on one host with NVLink, when nobody says */
uint64_t shard_nccl_channel_bytes(uint64_t simple /* NCCL_BUFFSIZE */);
/* A ring over all ranks of `channels` channels; the high bound is every pair connected over 32.  One rank: nothing. */
shard_estimate shard_nccl_bytes(uint32_t world, uint32_t channels, uint64_t simple);
shard_estimate shard_cuda_context_bytes(void);
shard_estimate shard_cuda_graph_bytes(void);

#endif
