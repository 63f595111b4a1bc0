/* watch.c - the thread that looks while another waits for the device: for errors that NCCL met behind our back, and at the
 * clock.  It sleeps for good while nothing is armed, and between two looks else. */
#include "comm/table.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#define LOOK_US 5000

struct comm_watch {
    px_alloc *a;
    comm     *c;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t  news;
    bool      armed, idle, over;
    px_time_us deadline, timeout_us;
    const char *what;
    px_err    found;                               /* the first thing; stays */
};

static void next_look(comm_watch *w)
{
    const px_time_us until = px_now_us() + LOOK_US;
    const struct timespec at = { .tv_sec = until / 1000000, .tv_nsec = until % 1000000 * 1000 };

    pthread_cond_timedwait(&w->news, &w->lock, &at);
}

/* With the lock; it is let go while NCCL is asked. */
static void look(comm_watch *w)
{
    px_err e = {0};
    px_code rc;

    pthread_mutex_unlock(&w->lock);
    rc = comm_poll(w->c, &e);
    pthread_mutex_lock(&w->lock);
    if (!rc && w->armed && px_now_us() >= w->deadline)
        rc = px_fail(&e, PX_ETIMEOUT, "nccl", "%s: rank %u waited %lld ms for the device", w->what, w->c->rank,
                     (long long)(w->timeout_us / 1000));
    if (!rc || w->found.code) return;
    w->found = e;
    pthread_mutex_unlock(&w->lock);
    comm_abort(w->c);
    pthread_mutex_lock(&w->lock);
}

static void *watch(void *arg)
{
    comm_watch *w = arg;

    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        if (w->armed && !w->found.code) {
            next_look(w);
            if (w->armed && !w->over) look(w);
        } else {
            w->idle = true;
            pthread_cond_wait(&w->news, &w->lock);
            w->idle = false;
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

px_code comm_watch_open(comm_watch **out, px_alloc *a, comm *c, px_err *e)
{
    comm_watch *w = px_new(a, comm_watch, 1);
    pthread_condattr_t clock;

    *out = NULL;
    if (!w) return px_fail(e, PX_ENOMEM, "watch", "%zu bytes", sizeof *w);
    w->a = a;
    w->c = c;
    pthread_mutex_init(&w->lock, NULL);            /* these cannot fail on Linux */
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->news, &clock);
    pthread_condattr_destroy(&clock);
    int failed = pthread_create(&w->thread, NULL, watch, w);
    if (!failed) {
        *out = w;
        return PX_OK;
    }
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    px_del(a, w, 1);
    return px_fail(e, PX_ENOMEM, "watch", "no thread: %s", strerror(failed));
}

void comm_watch_close(comm_watch *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    px_del(w->a, w, 1);
}

void comm_watch_arm(comm_watch *w, px_time_us timeout_us, const char *what)
{
    const px_time_us now = px_now_us();

    pthread_mutex_lock(&w->lock);
    w->armed = true;
    w->what = what;
    w->timeout_us = timeout_us;
    w->deadline = timeout_us > PX_NEVER - now ? PX_NEVER : now + timeout_us;
    if (w->idle) pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
}

px_code comm_watch_disarm(comm_watch *w, px_err *e)
{
    px_code rc;

    pthread_mutex_lock(&w->lock);
    w->armed = false;
    rc = w->found.code;
    if (rc && e && !e->code) *e = w->found;
    pthread_mutex_unlock(&w->lock);
    return rc;
}
