/* engine_inside.h - the engine from within: its object, and what its three files call of each other.
 * Layer: daemon/coordinator, internal to engine.c (a service's life), door.c (what other threads may ask) and steps.c (step
 * after step while a job lives). */
#ifndef DAEMON_ENGINE_INSIDE_H
#define DAEMON_ENGINE_INSIDE_H

#include "daemon/coordinator/coldstart.h"
#include "daemon/coordinator/scheduler.h"

typedef struct daemon_mail { daemon_request **v; size_t n, cap; } daemon_mail;

struct daemon_engine {
    px_alloc *a;
    daemon_engine_args args;
    daemon_model   model;
    _Atomic bool   model_ready;
    daemon_status  status;
    daemon_coldstart cold;
    daemon_scheduler sched; bool has_sched;
    px_arena       wire;                       /* a step's frame and its answer; reset each step */
    int            wake_fd;
    uint64_t       step;
    pthread_mutex_t door;                      /* guards the four below */
    daemon_mail    inbox;
    daemon_request **live; size_t n_live, cap_live;     /* submitted and not ended; each holds a reference */
    bool           open;
    /* engine's thread */
    px_time_us     restarts[64]; uint32_t n_restarts;
    px_time_us     next_memory_log; size_t last_memory;
    bool           stepped;                    /* since the last look at the memory */
    bool           draining; px_time_us drain_until;
    bool           bad_shard;                  /* the check in the background found a bad digest: final */
};

/* Inbox to scheduler; the ended leave the list of the living.  door.c */
void    daemon_engine_sweep(daemon_engine *g);
/* To the log, to GetServerInfo and to health; requests are let in while it is ready. */
void    daemon_engine_set_state(daemon_engine *g, daemon_state s, const char *detail);
/* What GetServerInfo shows of blocks and requests. */
void    daemon_engine_publish(daemon_engine *g);
/* Serve until drained (PX_OK) or until the job is lost.  steps.c */
px_code daemon_engine_serve(daemon_engine *g, px_err *e);

#endif
