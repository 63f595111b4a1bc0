/* others.h - memory of a rank that nobody carves: the program, MPI, and what the operating system counts in all.
 * Layer: shard/plan.  Pure.  Estimates with bounds; `phalanx plan` prints them, a rank holds its readings against them.
 * Without a device the list ends before the device's kinds. */
#ifndef SHARD_OTHERS_H
#define SHARD_OTHERS_H

#include "shard/plan/bytes.h"
#include "shard/plan/device.h"

typedef enum shard_other {
    SHARD_OTHER_PROGRAM,           /* anonymous memory of the process as it starts */
    SHARD_OTHER_PROGRAM_FILES,     /* and its resident pages of program and libraries */
    SHARD_OTHER_MPI,               /* anonymous and shared memory that MPI_Init takes */
    SHARD_OTHER_MPI_FILES,         /* pages of its plug-ins, and of its segments if they are files */
    SHARD_OTHER_WEIGHT_PAGES,      /* of the weights' mapping that are in memory */
    SHARD_OTHER_ANONYMOUS,         /* of the whole process: RssAnon, */
    SHARD_OTHER_SHARED,            /* RssShmem, */
    SHARD_OTHER_FILES,             /* RssFile */
    SHARD_OTHER_CONTEXT,           /* of a device's memory: what opening it takes, kernels included, */
    SHARD_OTHER_NCCL,              /* communicators, */
    SHARD_OTHER_GRAPHS,            /* and what warm-up takes: graphs, code that is loaded late */
    SHARD_N_OTHERS
} shard_other;
const char *shard_other_name(shard_other k);               /* "program" "program_files" ... */

/* Kinds that a rank with this plan has: the first so many. */
uint32_t shard_n_others(const shard_rank_bytes *b);
/* Of a rank with this plan in a world of `world`. */
shard_estimate shard_other_of(const shard_rank_bytes *b, uint32_t world, shard_other k);

/* The process itself, without anything that is carved: program and MPI. */
shard_estimate shard_process_bytes(uint32_t world);

#endif
