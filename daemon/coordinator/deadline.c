#include "daemon/coordinator/deadline.h"

#include <time.h>
#include <unistd.h>

#include "daemon/rank/fields.h"

#define REFUSED 3                          /* exit code of a start that was refused */

static void refuse(const daemon_deadline *d)
{
    px_err e = {0};

    px_fail(&e, PX_ETIMEOUT, daemon_field_name(DAEMON_FIELD_DEADLINE), "step %s was not done within %.3g s", d->step,
            (double)d->limit / 1e6);
    px_log_err(d->log, PX_ERROR, "coldstart_refused", &e);
    _exit(REFUSED);                        /* the thread that hangs cannot be ended; nothing of it is lost: nobody was served */
}

static void *watch(void *arg)
{
    daemon_deadline *d = arg;

    pthread_mutex_lock(&d->lock);
    while (!d->quit) {
        if (!d->step) {
            pthread_cond_wait(&d->changed, &d->lock);
            continue;
        }
        if (px_now_us() >= d->at) refuse(d);
        const struct timespec until = { .tv_sec = d->at / 1000000, .tv_nsec = d->at % 1000000 * 1000 };
        pthread_cond_timedwait(&d->changed, &d->lock, &until);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

px_code daemon_deadline_open(daemon_deadline *d, const px_log_sink *log, px_err *e)
{
    pthread_condattr_t clock;
    int rc;

    *d = (daemon_deadline){ .log = log };
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);    /* the clock of px_now_us */
    pthread_cond_init(&d->changed, &clock);
    pthread_condattr_destroy(&clock);
    if ((rc = pthread_create(&d->thread, NULL, watch, d)))
        return px_fail(e, PX_ENOMEM, "deadline", "no thread to watch the start (error %d)", rc);
    d->open = true;
    return PX_OK;
}

static void change(daemon_deadline *d, const char *step, px_time_us limit, bool quit)
{
    if (!d->open) return;
    pthread_mutex_lock(&d->lock);
    d->step = step;
    d->limit = limit;
    d->at = px_now_us() + limit;
    d->quit = quit;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

void daemon_deadline_set(daemon_deadline *d, const char *step, px_time_us limit) { change(d, limit ? step : NULL, limit, false); }
void daemon_deadline_clear(daemon_deadline *d) { change(d, NULL, 0, false); }

void daemon_deadline_close(daemon_deadline *d)
{
    if (!d->open) return;
    change(d, NULL, 0, true);
    pthread_join(d->thread, NULL);
    d->open = false;
}
