/* rank.h - the parts of phalanx-rank: its life before serving, and serving.
 * Layer: daemon/rank.  One object in main's frame; one thread, and one more for the background check. */
#ifndef DAEMON_RANK_H
#define DAEMON_RANK_H

#include <pthread.h>

#include "daemon/rank/contract.h"
#include "comm/device.h"
#include "daemon/rank/convert.h"
#include "proto/base/log.h"
#include "proto/base/watch.h"
#include "proto/wire/frame.h"
#include "shard/plan/measure.h"
#include "shard/run/executor.h"

#define DAEMON_RANK_ERRORS  32
#define DAEMON_RANK_SOONER  8          /* a rank gives up by this part of a time sooner than the coordinator: it knows more */

typedef struct daemon_rank {
    px_log_sink  log;
    px_heap      heap;                     /* everything that is carved before ready: no get after it (law 2) */
    px_heap      transport;                /* what comm takes: counted apart */
    px_heap      talk;                     /* hellos and reports */
    proto_config config;
    char         config_path[1024];
    const char  *socket;
    uint32_t     generation, rank, world;
    int          fd;                       /* to the coordinator */
    pthread_mutex_t send_lock;             /* main thread and the background check both report */
    const kern_ops *ops;
    shard_manifest manifest; bool has_manifest;
    shard_file  *file;
    comm        *comm;
    shard_executor *executor;
    void        *kv; size_t kv_bytes;      /* mapping of the coordinator's memory file */
    int          shm_fd;
    Phalanx__Wire__Setup setup;            /* plain numbers */
    px_err       err[DAEMON_RANK_ERRORS]; size_t n_err;
    pthread_t    checker; bool checking; volatile int stop_check;
    shard_resident at_start, mpi;          /* readings: before anything was read; what MPI_Init added */
    uint64_t     steps;
    /* device: cuda */
    kern_dev    *dev; kern_info gpu; uint32_t ordinal;
    comm_device  sums_on; comm *sums; uint64_t sums_held;      /* partial sums on the device, over comm or by NCCL */
    size_t       sums_beside;                                  /* on the host: of NCCL, and of the sequence check */
    uint64_t     taken_context, taken_nccl, taken_graphs;      /* of the device's memory by others than us: readings */
    pthread_t    digester; bool digesting; px_code digest_rc; _Atomic uint32_t digest_percent; _Atomic bool digested;
    px_err       digest_err[DAEMON_RANK_ERRORS]; size_t n_digest_err;
    px_watch     watch;                    /* of the step that runs; closed: not beside this rank */
    bool         greeted;                  /* the hello is out: reports may follow */
    bool         counts_mallocs;           /* debug and sanitizer builds: mallochook.h */
    uint32_t     told_percent;             /* of the stage that runs */
    uint8_t     *frame, *scratch, *answer; /* step loop: SHARD_STEP_*, mapped before ready; answer: on rank 0 */
    px_mmap      buffers;
} daemon_rank;

/* Said once everything that can be known without memory or peers is known. */
px_code daemon_rank_hello(daemon_rank *r, px_err *e);
/* SETUP, then stage after stage as the coordinator says GO, until SERVE. */
px_code daemon_rank_prepare(daemon_rank *r, px_err *e);
/* Step after step until BYE (PX_OK) or the coordinator is gone (PX_EPEER). */
px_code daemon_rank_serve(daemon_rank *r, px_err *e);
void    daemon_rank_close(daemon_rank *r);

/* Report a stage: its errors (none: done), and what was planned and measured. */
px_code daemon_rank_report(daemon_rank *r, uint32_t stage, uint32_t percent, const px_err *err, size_t n_err, px_err *e);
/* Report how far a stage has come, in steps of five per cent; 100 is said with its verdict. */
void    daemon_rank_progress(daemon_rank *r, uint32_t stage, uint64_t done, uint64_t total);
px_code daemon_rank_send(daemon_rank *r, uint16_t type, const ProtobufCMessage *m, px_err *e);
/* A shard that is truncated under us, or cannot be read any more, is reported by name; the rank then ends. */
px_code daemon_rank_guard(daemon_rank *r, px_err *e);

#endif
