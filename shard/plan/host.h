/* host.h - host memory and time of a cold start by the way weights are loaded (memory/formulas section 8).
 * Layer: shard/plan.  Pure. */
#ifndef SHARD_HOST_H
#define SHARD_HOST_H

#include <stddef.h>
#include <stdint.h>

typedef enum shard_load {
    SHARD_LOAD_SHARD_MMAP,     /* ours on CPU: a rank maps its own shard and nothing else */
    SHARD_LOAD_SHARD_UPLOAD,   /* ours on a device: shard through a pinned ring */
    SHARD_LOAD_NAIVE,          /* every rank reads the whole checkpoint into memory */
    SHARD_LOAD_MMAP,           /* every rank maps the checkpoint and keeps it */
    SHARD_LOAD_MMAP_DROP,      /* maps it and drops pages behind the upload */
    SHARD_LOAD_STAGED,         /* reads it once a host through staging buffers, cache dropped or O_DIRECT */
    SHARD_LOAD_REPACK,         /* CPU: weights rewritten while the mapping stays */
    SHARD_LOAD_PRIVATE,        /* CPU: slices copied out, checkpoint closed */
    SHARD_N_LOADS
} shard_load;
const char *shard_load_name(shard_load l);     /* "shard_mmap" ... */

#define SHARD_STAGING (2ull * 64 << 20)        /* of one rank: two pinned buffers of 64 MiB */

typedef struct shard_rates { uint64_t disk, link, populate; } shard_rates;     /* bytes a second: disk, host to device, zeroing by one core */

typedef struct shard_host_case {               /* one host */
    uint32_t ranks;                            /* on it */
    uint32_t threads;                          /* of a rank: they populate */
    uint64_t file, largest_tensor;             /* the checkpoint */
    uint64_t shards, largest_shard;            /* weights of this host's ranks: sum, largest */
    uint64_t pool;                             /* KV of this host's ranks, to be populated; 0 on a device */
    shard_rates rate;
} shard_host_case;

typedef struct shard_host_need {
    uint64_t anonymous;        /* peak */
    uint64_t page_cache;       /* file-backed: evictable, and what a warm restart wants */
    uint64_t staging;          /* of the anonymous */
    uint64_t read;             /* distinct bytes from disk */
    double   read_s, upload_s, populate_s;
    double   cold_s, warm_s;   /* with cold and with warm page cache; without the program's own start and warm-up */
} shard_host_need;

shard_host_need shard_host_of(const shard_host_case *c, shard_load l);

#endif
