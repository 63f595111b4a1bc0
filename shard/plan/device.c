#include "shard/plan/device.h"

#define MIB (1ull << 20)
#define PIECE (2 * MIB)                    /* the driver hands memory out in pieces of 2 MiB */
#define CONTROL 4096u

uint64_t shard_nccl_channel_bytes(uint64_t simple)
{
    uint64_t receive = CONTROL + SHARD_NCCL_LL + SHARD_NCCL_LL128 + simple;
    return (receive + PIECE - 1) / PIECE * PIECE + PIECE;      /* sending needs one piece */
}

shard_estimate shard_nccl_bytes(uint32_t world, uint32_t channels, uint64_t simple)
{
    uint64_t each = shard_nccl_channel_bytes(simple);
    shard_estimate x = { 0 };

    if (world < 2) return x;
    x.bytes = each * channels;
    x.low = each * (channels < 2 ? channels : 2);
    x.high = each * 32 * (world - 1);
    if (x.high < x.bytes) x.high = x.bytes;
    return x;
}

/* Priors: about 300 MB with lazy loading of kernels, above 1 GB with all of them loaded. */
shard_estimate shard_cuda_context_bytes(void) { return (shard_estimate){ 512 * MIB, 256 * MIB, 1280 * MIB, false }; }
/* A captured step is small beside its buffers, which are ours. */
shard_estimate shard_cuda_graph_bytes(void) { return (shard_estimate){ 64 * MIB, 0, 512 * MIB, false }; }
