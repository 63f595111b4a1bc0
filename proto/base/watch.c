#include "proto/base/watch.h"

#include <string.h>
#include <time.h>

#include "proto/base/guard.h"

static px_time_us later(px_time_us now, px_time_us by) { return by > PX_NEVER - now ? PX_NEVER : now + by; }

/* When the thread has to look next. */
static px_time_us next_look(const px_watch *w, px_time_us now)
{
    const px_time_us look = later(now, w->on.every);

    if (!w->armed || w->first.code) return PX_NEVER;
    return look < w->deadline ? look : w->deadline;
}

static void sleep_until(px_watch *w, px_time_us until)
{
    const struct timespec at = { .tv_sec = until / 1000000, .tv_nsec = until % 1000000 * 1000 };

    w->wakes = until;
    if (until == PX_NEVER) pthread_cond_wait(&w->news, &w->lock);
    else pthread_cond_timedwait(&w->news, &w->lock, &at);
}

/* With the lock; it is let go while others are asked and told, who may take long. */
static void look(px_watch *w)
{
    px_err e = {0};
    px_code rc = PX_OK;

    if (w->on.ask) {
        pthread_mutex_unlock(&w->lock);
        rc = w->on.ask(w->on.ctx, &e);
        pthread_mutex_lock(&w->lock);
    }
    if (!w->armed) return;                         /* the wait ended meanwhile, and whoever waited knows how */
    if (!rc && px_now_us() >= w->deadline) rc = w->on.late(w->on.ctx, &w->wait, &e);
    if (!rc) return;
    w->first = e;
    pthread_mutex_unlock(&w->lock);
    w->on.found(w->on.ctx, &e);
    pthread_mutex_lock(&w->lock);
}

static void *watch(void *arg)
{
    px_watch *w = arg;

    px_guard_exempt(true);
    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        sleep_until(w, next_look(w, px_now_us()));
        if (px_now_us() >= w->wakes && w->armed && !w->over) look(w);      /* else it was a signal: there is another time to wake */
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

px_code px_watch_open(px_watch *w, const px_watch_on *on, const char *field, px_err *e)
{
    pthread_condattr_t clock;
    int failed;

    *w = (px_watch){ .on = *on, .wakes = PX_NEVER };
    pthread_mutex_init(&w->lock, NULL);                    /* these cannot fail on Linux */
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);    /* the clock of px_now_us */
    pthread_cond_init(&w->news, &clock);
    pthread_condattr_destroy(&clock);
    if (!(failed = pthread_create(&w->thread, NULL, watch, w))) {
        w->open = true;
        return PX_OK;
    }
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    *w = (px_watch){0};
    return px_fail(e, PX_ENOMEM, field, "no thread to watch it: %s", strerror(failed));
}

void px_watch_close(px_watch *w)
{
    if (!w->open) return;
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    *w = (px_watch){0};
}

void px_watch_arm(px_watch *w, const char *what, uint64_t number, px_time_us limit)
{
    const px_time_us now = px_now_us();

    if (!w->open) return;
    pthread_mutex_lock(&w->lock);
    w->wait = (px_watched){ what, number, now, limit };
    w->deadline = later(now, limit);
    w->armed = true;
    if (next_look(w, now) < w->wakes) pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
}

px_code px_watch_disarm(px_watch *w, px_err *e)
{
    px_code rc;

    if (!w->open) return PX_OK;
    pthread_mutex_lock(&w->lock);
    w->armed = false;
    rc = w->first.code;
    if (rc && e && !e->code) *e = w->first;
    pthread_mutex_unlock(&w->lock);
    return rc;
}
