/* watch.h - a thread that looks while another waits, perhaps for good: at the clock, and at what its owner asks.
 * Layer: proto.  Threading: arm and disarm from one thread; the functions of px_watch_on run on the watch's own, which may
 * allocate beside a step (guard.h).
 *
 * Stands beside a step loop: arm and disarm take one lock each and allocate nothing.  They signal only where the thread would
 * sleep too long, as a rule never: between two steps it sleeps on until its next look. */
#ifndef PROTO_WATCH_H
#define PROTO_WATCH_H

#include <pthread.h>

#include "proto/base/io.h"

/* One wait of the watched thread, as it was armed. */
typedef struct px_watched {
    const char *what;                  /* static storage */
    uint64_t    number;
    px_time_us  began, limit;
} px_watched;

typedef struct px_watch_on {
    px_time_us every;                                             /* from look to look; PX_NEVER: only when it is late */
    px_code  (*ask)(void *ctx, px_err *e);                        /* at each look, no lock held; NULL: only the clock counts */
    px_code  (*late)(void *ctx, const px_watched *w, px_err *e);  /* fills e; under the lock: nothing else */
    void     (*found)(void *ctx, const px_err *e);                /* once, no lock held: ends the wait, or the process */
    void      *ctx;
} px_watch_on;

typedef struct px_watch {              /* caller's storage; does not move while open */
    px_watch_on     on;
    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  news;
    px_watched      wait;
    px_time_us      deadline, wakes;   /* of the wait; of the thread, when it sleeps (PX_NEVER: by a signal) */
    px_err          first;             /* what was found; stays */
    bool            open, armed, over;
} px_watch;

/* PX_ENOMEM (field: the caller's): there is no thread. */
px_code px_watch_open(px_watch *w, const px_watch_on *on, const char *field, px_err *e);
void    px_watch_close(px_watch *w);   /* joins the thread; idempotent; accepts a zeroed one, as arm and disarm do (nothing) */
/* From here to disarm: an error of `ask`, or `limit` gone by, is found; an answer that comes later is not, whoever waited knows
 * more.  Armed again without a disarm: a new wait. */
void    px_watch_arm(px_watch *w, const char *what, uint64_t number, px_time_us limit);
/* What was found, now or ever. */
px_code px_watch_disarm(px_watch *w, px_err *e);

#endif
