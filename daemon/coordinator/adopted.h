/* adopted.h - processes of a job whose own parent died before them.
 * Layer: daemon/coordinator.  Engine's (= main) thread.
 * mpirun reaps its ranks, unless it is killed; then they would be process 1's, and in a container that one may reap late
 * or never.  So they become our children, and we end and reap them when the job ends.  What we start has a mark in its
 * environment: children that we did not start (those of a shell that became us, or what falls to us as process 1) are not
 * killed.  (A session of its own would mark a job, too, but schedulers give each session its own share of the processors:
 * beside busy neighbours that slows the ranks.) */
#ifndef DAEMON_ADOPTED_H
#define DAEMON_ADOPTED_H

#include <sys/types.h>

#include "proto/base/err.h"
#include "proto/base/io.h"

/* From now on we are the parent of every descendant whose own parent dies, and what is started has the mark.  Before any
 * thread: it changes the environment.  PX_EIO, PX_ENOMEM. */
px_code daemon_adopted_begin(px_err *e);
/* Kill and reap our children that have the mark, and those that fall to us as they die; until none is left, or patience
 * ends.  Other children that have ended are reaped too, but not `spare`, for which someone waits by its pid.
 * 0, or the pid of one that is left. */
pid_t   daemon_adopted_end(pid_t spare, px_time_us patience);

#endif
