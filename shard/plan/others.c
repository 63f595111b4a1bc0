#include "shard/plan/others.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

static const char *const NAME[SHARD_N_OTHERS] = { "program", "program_files", "mpi", "mpi_files", "weight_pages",
                                                  "resident_anonymous", "resident_shared", "resident_files",
                                                  "device_context", "device_nccl", "device_graphs" };

const char *shard_other_name(shard_other k) { return (unsigned)k < SHARD_N_OTHERS ? NAME[k] : "?"; }

/* Measured with Debian 12's C library and Open MPI 4.1, on worlds of 1 to 3; the bounds leave room for others. */
static const shard_estimate PROGRAM = { 1 * MIB, 256 * KIB, 16 * MIB, false };
static const shard_estimate PROGRAM_FILES = { 5 * MIB, 1 * MIB, 64 * MIB, false };

static shard_estimate around(uint64_t n) { return (shard_estimate){ n, n / 4, 4 * n + 16 * MIB, false }; }

/* MPI keeps something for every peer, and maps a segment of each. */
static shard_estimate mpi(uint32_t world) { return world > 1 ? around(1280 * KIB + world * 384ull * KIB) : (shard_estimate){ 0 }; }
static shard_estimate mpi_files(uint32_t world) { return world > 1 ? around(world * 2816ull * KIB) : (shard_estimate){ 0 }; }

static shard_estimate sum(shard_estimate a, shard_estimate b)
{
    return (shard_estimate){ a.bytes + b.bytes, a.low + b.low, a.high + b.high, false };
}

static shard_estimate exactly(uint64_t n) { return (shard_estimate){ n, n, n, false }; }

shard_estimate shard_process_bytes(uint32_t world)
{
    return sum(sum(PROGRAM, PROGRAM_FILES), sum(mpi(world), mpi_files(world)));
}

/* What a driver and its libraries keep on the host; pinned memory may be counted as any of the three kinds, or as none. */
static shard_estimate driver(const shard_rank_bytes *b)
{
    return b->backend == KERN_ON_CUDA ? (shard_estimate){ 192 * MIB, 0, 2048 * MIB + b->pinned, false } : (shard_estimate){ 0 };
}

/* What is carved and written before ready.  An answer's buffer is touched as far as answers go; threads, the manifest and
 * the allocator's own books come on top. */
static shard_estimate anonymous(const shard_rank_bytes *b, uint32_t world)
{
    uint64_t touched = SHARD_STEP_FRAME + SHARD_STEP_SCRATCH;
    const bool cpu = b->backend == KERN_ON_CPU;
    shard_estimate x = exactly((cpu ? b->activations.bytes + b->rope_tables : 0) + b->host.bytes + b->comm_private + b->comm_staging + touched);

    x.low = x.bytes - x.bytes / 8;                         /* newer kernels count roughly, each core for itself */
    x.high += b->step_buffers - touched + 16 * MIB;
    return sum(sum(x, driver(b)), sum(PROGRAM, mpi(world)));
}

/* Every rank maps the whole segment of the transport and has seen each of its pages. */
static shard_estimate shared(const shard_rank_bytes *b, uint32_t world)
{
    shard_estimate x = exactly((b->backend == KERN_ON_CPU ? b->kv_pool : 0) + b->comm_shared);

    x.low = x.bytes - x.bytes / 8;
    x.high += 8 * KIB + mpi(world).high + driver(b).high;  /* last pages; segments of MPI */
    return x;
}

static shard_estimate files(const shard_rank_bytes *b, uint32_t world)
{
    shard_estimate x = { b->weights.mapped, 0, b->weights.mapped + 64 * MIB, false };      /* the header, other pages around */

    return sum(sum(x, driver(b)), sum(PROGRAM_FILES, mpi_files(world)));
}

/* One communicator at most, and none where sums go over the host. */
static shard_estimate nccl(uint32_t world)
{
    shard_estimate x = shard_nccl_bytes(world, SHARD_NCCL_CHANNELS, SHARD_NCCL_SIMPLE);

    x.low = 0;
    return x;
}

uint32_t shard_n_others(const shard_rank_bytes *b)
{
    return b->backend == KERN_ON_CUDA ? SHARD_N_OTHERS : SHARD_OTHER_CONTEXT;
}

shard_estimate shard_other_of(const shard_rank_bytes *b, uint32_t world, shard_other k)
{
    switch (k) {
    case SHARD_OTHER_PROGRAM:       return PROGRAM;
    case SHARD_OTHER_PROGRAM_FILES: return PROGRAM_FILES;
    case SHARD_OTHER_MPI:           return mpi(world);
    case SHARD_OTHER_MPI_FILES:     return mpi_files(world);
    case SHARD_OTHER_WEIGHT_PAGES:  return (shard_estimate){ b->weights.mapped, 0, b->weights.mapped, false };
    case SHARD_OTHER_ANONYMOUS:     return anonymous(b, world);
    case SHARD_OTHER_SHARED:        return shared(b, world);
    case SHARD_OTHER_FILES:         return files(b, world);
    case SHARD_OTHER_CONTEXT:       return shard_cuda_context_bytes();
    case SHARD_OTHER_NCCL:          return nccl(world);
    case SHARD_OTHER_GRAPHS:        return shard_cuda_graph_bytes();
    case SHARD_N_OTHERS:            break;
    }
    return exactly(0);
}
