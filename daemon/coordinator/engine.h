/* engine.h - the loop: cold start, schedule, send, collect, restart, drain; and the door through which calls enter.
 * Layer: daemon/coordinator.  The engine runs on the main thread (it forks mpirun: PDEATHSIG follows the forking
 * thread); the functions marked [any] may be called from every thread. */
#ifndef DAEMON_ENGINE_H
#define DAEMON_ENGINE_H

#include "daemon/coordinator/request.h"
#include "daemon/text/chat.h"
#include "phalanx/v1/control.pb-c.h"
#include "proto/base/log.h"
#include "proto/config/config.h"
#include "shard/store/set.h"

typedef enum daemon_state { DAEMON_STARTING, DAEMON_READY, DAEMON_RESTARTING, DAEMON_DRAINING, DAEMON_FAILED } daemon_state;
typedef struct daemon_engine daemon_engine;

/* What calls need of the model; filled by the cold start's manifest step, immutable from then on. */
typedef struct daemon_model {
    shard_manifest manifest;
    daemon_tokenizer *tokenizer;           /* NULL: the set has none */
    daemon_template *own_chat;             /* the set's own table; NULL: chat is one of the known ones */
    const daemon_template *chat;           /* NULL: not served; why_no_chat says why */
    char why_no_chat[256];
    uint32_t context;                      /* positions a sequence may have: min(model, KV pool) */
} daemon_model;

typedef struct daemon_engine_args {
    const proto_config *config;
    const px_log_sink  *log;
    const char *config_path;               /* for the ranks; "" if all came from flags */
    const bool *from_flag;                 /* (proto_n_fields): set by a flag, over the file */
    struct daemon_watcher *watcher;        /* started before any thread; borrowed */
    const char *rank_program;              /* path of phalanx-rank */
    int signal_fd;                         /* signalfd of SIGTERM, SIGINT, SIGCHLD-free */
    /* Called on the engine's thread when the state changes (health). */
    void (*state_changed)(void *ctx, daemon_state s); void *ctx;
    bool        dry_run;            /* end before memory is taken */
} daemon_engine_args;

px_code daemon_engine_open(daemon_engine **g, px_alloc *a, const daemon_engine_args *args, px_err *e);
/* Cold start, then serve until drained or failed.  Returns the exit code of the process: 0 drained, 3 refused or
 * restarts used up, 1 internal.  ready() is called at the first ready (prints the line). */
int     daemon_engine_run(daemon_engine *g, void (*ready)(void *ctx), void *ctx);
void    daemon_engine_close(daemon_engine *g);

daemon_state daemon_engine_state(const daemon_engine *g);                 /* [any] */
/* NULL until the manifest step is done; then valid until close. */
const daemon_model *daemon_engine_model(const daemon_engine *g);          /* [any] */
/* Hand a request over; the engine takes its own reference.  Errors, all before anything happened: PX_EEXIST (live
 * request_id), PX_EBUSY (queue full), PX_EPEER (not ready, restarting, draining: retryable). */
px_code daemon_engine_submit(daemon_engine *g, daemon_request *r, px_err *e);   /* [any] */
/* After setting r->cancelled: makes the engine look at once. */
void    daemon_engine_wake(daemon_engine *g);                              /* [any], also from a signal-free context only */
bool    daemon_engine_abort(daemon_engine *g, const char *request_id);    /* [any] true: it was live */

/* A snapshot for GetServerInfo: the engine fills a message of the public API.  The message and all it points to come
 * from a (an arena); never free_unpacked. [any] */
px_code daemon_engine_info(const daemon_engine *g, px_alloc *a, Phalanx__V1__GetServerInfoResponse **out, px_err *e);

#endif
