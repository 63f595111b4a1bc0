/* supervisor.h - the MPI job: start, watch, end, again; and the watcher that cleans up after our own death.
 * Layer: daemon/coordinator.  Engine's (= main) thread: PDEATHSIG follows the forking thread. */
#ifndef DAEMON_SUPERVISOR_H
#define DAEMON_SUPERVISOR_H

#include <sys/types.h>

#include "proto/base/alloc.h"
#include "proto/base/io.h"
#include "proto/base/log.h"
#include "proto/config/config.h"

/* A small process, forked before any thread.  It blocks in read(); at end of file (we are gone, however) it kills what
 * it was told of after 3 s, removes the job folder and exits. */
typedef struct daemon_watcher daemon_watcher;
struct daemon_watcher { pid_t pid; int pipe; };
px_code daemon_watcher_start(daemon_watcher *w, px_err *e);
void    daemon_watcher_dir(const daemon_watcher *w, const char *dir);    /* remove this at our death */
void    daemon_watcher_pid(const daemon_watcher *w, pid_t pid);          /* kill this at our death */
void    daemon_watcher_stop(daemon_watcher *w);                          /* clean exit: nothing is killed; reaped */

#define DAEMON_MAX_ARGS (2 * PROTO_MAX_FIELDS + 64)     /* each field, a launcher's flags and ours */

typedef struct daemon_job_args {
    const char *launcher;              /* "mpirun", or NULL: one rank, started directly */
    const char *rank_program;
    uint32_t    ranks, threads;
    const char *const *rank_arg;       /* NULL-terminated: what phalanx-rank gets after its own name */
    const char *dir;                   /* private folder of the job: session files, shared memory */
} daemon_job_args;

typedef struct daemon_job { pid_t pid; int pidfd; } daemon_job;          /* pid 0: none */

/* PX_EIO, PX_ENOTFOUND (no launcher), PX_ERANGE (no room for MPI's files in dir: found, expected).  The child's standard output goes to our standard error. */
px_code daemon_job_spawn(daemon_job *j, const daemon_job_args *args, px_err *e);
/* The child's exit, if it has ended: true, and *text says how ("exit status 1", "signal 9"). */
bool    daemon_job_ended(daemon_job *j, char *text, size_t cap);
/* End it, whatever state it is in, and reap it.  First SIGTERM if `gently`, SIGKILL after patience. */
void    daemon_job_end(daemon_job *j, bool gently, px_time_us patience);

/* A fresh private folder for sockets and job files: under $XDG_RUNTIME_DIR or the temporary folder.  A Unix socket's path
 * ends at 107 bytes: PX_ERANGE if the folder's is too long. */
px_code daemon_job_dir_make(char *out, size_t cap, px_err *e);

#endif
