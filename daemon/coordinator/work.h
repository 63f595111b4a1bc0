/* work.h - the threads that tokenize long texts, so that neither the engine nor a poller waits for them.
 * Layer: daemon/coordinator.  Bounded in jobs and in bytes. */
#ifndef DAEMON_WORK_H
#define DAEMON_WORK_H

#include <pthread.h>

#include "proto/base/alloc.h"

#define DAEMON_WORK_THREADS 2u
#define DAEMON_WORK_JOBS    256u
#define DAEMON_WORK_BYTES   (64u << 20)       /* of text that may wait; one job is always taken */

typedef struct daemon_task {
    void (*run)(void *ctx); void *ctx;        /* on a worker's thread; always called, also while closing */
    size_t bytes;
    struct daemon_task *next;
} daemon_task;                                /* the caller's storage, until run returns */

typedef struct daemon_work {
    pthread_mutex_t lock; pthread_cond_t some;
    daemon_task *first, *last;
    uint32_t n_jobs; size_t bytes;
    pthread_t thread[DAEMON_WORK_THREADS]; uint32_t n_threads;
    bool stop;
} daemon_work;

px_code daemon_work_init(daemon_work *w, px_err *e);                 /* PX_EIO: no thread */
px_code daemon_work_put(daemon_work *w, daemon_task *j, px_err *e);   /* any thread; PX_EBUSY: full */
void    daemon_work_deinit(daemon_work *w);                          /* runs what waits, joins */

#endif
