/* coldstart.h - named steps with deadlines, from parse to ready; and what is known of the ranks.
 * Layer: daemon/coordinator.  The engine's thread writes; GetServerInfo reads a copy under the lock. */
#ifndef DAEMON_COLDSTART_H
#define DAEMON_COLDSTART_H

#include <pthread.h>

#include "comm/comm.h"
#include "daemon/coordinator/deadline.h"
#include "daemon/coordinator/engine.h"
#include "daemon/coordinator/link.h"
#include "daemon/coordinator/supervisor.h"
#include "shard/plan/bytes.h"

typedef enum daemon_phase { DAEMON_PARSE, DAEMON_MANIFEST, DAEMON_PLAN, DAEMON_SPAWN, DAEMON_HELLO, DAEMON_COMPARE,
                            DAEMON_AGREE, DAEMON_MAP, DAEMON_MPI, DAEMON_CARVE, DAEMON_WARM_UP, DAEMON_ALL_READY,
                            DAEMON_N_PHASES } daemon_phase;
const char *daemon_phase_name(daemon_phase p);

typedef enum daemon_phase_state { DAEMON_WAITING, DAEMON_DOING, DAEMON_DONE, DAEMON_BROKEN } daemon_phase_state;

/* percent: of the work, the ranks' mean. */
typedef struct daemon_phase_info { daemon_phase_state state; px_time_us began, took, limit; uint32_t percent; char detail[160]; } daemon_phase_info;

typedef struct daemon_rank_info {
    uint32_t pid;
    char     host[64], cpu_path[16], boot_id[64];
    uint64_t free_bytes;
    struct { char name[64], driver[32], runtime[32], nccl[32]; uint32_t arch, ordinal; uint64_t free_bytes, total_bytes; } gpu;   /* device: cuda */
    uint64_t weights[2], kv[2], arena[2], step[2], comm[2];      /* planned, measured */
    uint64_t rss;
    uint32_t verify_percent;                            /* of the full check in the background */
    uint32_t stage_percent;                             /* of the stage that runs */
    struct { char name[24]; uint64_t live, peak; } subsystem[16]; uint32_t n_subsystems;
    struct { char kind[24]; uint64_t estimated, low, high, measured; } other[16]; uint32_t n_others;    /* what is not ours */
} daemon_rank_info;

/* Everything GetServerInfo shows, under one lock. */
typedef struct daemon_status {
    pthread_mutex_t   lock;
    daemon_state      state;
    char              detail[256];
    uint32_t          generation;
    daemon_phase_info phase[DAEMON_N_PHASES];
    daemon_rank_info *rank; uint32_t world;             /* (world) owned by the engine */
    uint32_t          blocks_total, blocks_free, running, waiting;
    uint64_t          steps, full_gathers, kv_saturated;
    comm_kind         transport;
} daemon_status;

typedef struct daemon_coldstart {
    px_alloc *a;
    const daemon_engine_args *args;
    daemon_model   *model;
    daemon_status  *status;
    daemon_watcher *watcher;
    daemon_deadline deadline;                           /* of the step that runs */
    daemon_links    links;
    daemon_job      job;
    shard_rank_bytes *plan;                             /* (world) owned */
    uint32_t        world, generation, n_blocks;
    char            dir[96];                            /* the service's private folder, and the job's in it */
    char            job_dir[128];
    int            *kv_fd; int shm_fd;                  /* memory files; the KV ones outlive a restart */
    bool            nccl;                               /* how a device's sums are added: found at each start */
    bool            stop;                               /* SIGTERM or SIGINT came */
    bool            dry;                                /* agree, and go no further */
    int             wake_fd;
} daemon_coldstart;

/* Steps manifest and plan; once. */
px_code daemon_coldstart_model(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n_errs);
/* Spawn to ready.  Every mismatch goes to errs.  PX_ECANCELLED: a signal came. */
px_code daemon_coldstart_job(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n_errs);
/* Where the cold start only sampled a shard, the whole of it is checked while it serves.  PX_OK: begun or not needed. */
px_code daemon_coldstart_verify(daemon_coldstart *c, px_err *e);
/* End the job, whatever state it is in; removes its folder.  Clean: says BYE and lets it leave by itself. */
void    daemon_coldstart_end_job(daemon_coldstart *c, bool clean);
void    daemon_coldstart_close(daemon_coldstart *c);

/* ---- between coldstart.c, model.c, hello.c, devices.c, fit.c and status.c ---- */
/* A step, into the status and under its deadline; its end also into the log.  detail: what it found, or why it failed. */
void    daemon_coldstart_begin(daemon_coldstart *c, daemon_phase p);
void    daemon_coldstart_end(daemon_coldstart *c, daemon_phase p, px_code rc, const char *detail);
/* Next frame of a rank, or why there is none: PX_ETIMEOUT, PX_EPEER (a rank or the launcher is gone), PX_ECANCELLED. */
px_code daemon_coldstart_next(daemon_coldstart *c, px_time_us deadline, const char *what, daemon_event *ev, px_err *e);
/* Every rank's hello, compared with what we expect; every mismatch to errs. */
px_code daemon_coldstart_hello(daemon_coldstart *c, px_time_us deadline, px_err *errs, size_t cap, size_t *n, px_err *e);
/* Into the status: how far a step that runs has come. */
void    daemon_coldstart_progress(daemon_coldstart *c, daemon_phase p, uint32_t percent);
/* A frame of a rank that is no report: a second hello, or worse. */
px_code daemon_coldstart_unexpected(const daemon_coldstart *c, const daemon_event *ev, px_err *e);
/* Whether weights, buffers and all blocks of the plan fit the free memory that the ranks told: a host's ranks share its
 * memory, those on one GPU the GPU's.  The plan is the allocation: fewer blocks are no answer, the most that would fit is
 * told.  detail: how much is left.  fit.c */
px_code daemon_coldstart_fit(const daemon_coldstart *c, char *detail, size_t cap, px_err *e);
/* The first rank that shares with this one; its own number if none before it does. */
uint32_t daemon_coldstart_first(const daemon_coldstart *c, uint32_t rank, bool (*share)(const daemon_rank_info *a, const daemon_rank_info *b));
/* device: cuda, when all hellos are there: every rank's GPU, driver and NCCL held against rank 0's; then how sums are added.
 * devices.c */
void daemon_coldstart_devices(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n);
bool daemon_rank_same_device(const daemon_rank_info *a, const daemon_rank_info *b);
void    daemon_errors_add(const px_err *e, px_err *errs, size_t cap, size_t *n);      /* dropped when errs is full */

/* A REPORT frame: into the status; errors to errs. */
void    daemon_status_report(daemon_status *s, px_alloc *a, uint32_t rank, const proto_frame *f, uint32_t *stage,
                             uint32_t *percent, px_err *errs, size_t cap, size_t *n_errs);
/* A line a rank: every arena planned and actual, every estimate and its reading. */
void    daemon_status_log_memory(daemon_status *s, const px_log_sink *log);

#endif
