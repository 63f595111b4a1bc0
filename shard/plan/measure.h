/* measure.h - memory that this host has left.
 * Layer: shard/plan.  Reads /proc and the cgroup's files. */
#ifndef SHARD_MEASURE_H
#define SHARD_MEASURE_H

#include "proto/base/err.h"

#include <stdint.h>

typedef struct shard_free_memory {
    uint64_t available;         /* MemAvailable */
    uint64_t cgroup;            /* limit less use plus file pages that can be dropped; UINT64_MAX: no limit */
    uint64_t bytes;             /* the smaller */
} shard_free_memory;

/* root: "" for the real ones; tests put a folder before /proc and /sys.  Errors: PX_ENOTFOUND, PX_ECORRUPT (field MemAvailable). */
px_code shard_measure_free(const char *root, shard_free_memory *out, px_err *e);

/* Resident memory of this process by what lies behind it. */
typedef struct shard_resident { uint64_t anonymous, shared, files; } shard_resident;
/* Errors: PX_ENOTFOUND (no /proc/self/status), PX_ECORRUPT (field RssAnon, RssShmem or RssFile). */
px_code shard_measure_resident(const char *root, shard_resident *out, px_err *e);

#endif
