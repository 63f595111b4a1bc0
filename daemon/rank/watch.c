/* watch.c - beside the steps of a rank with a device: a step that does not end, and errors that come behind its back. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "proto/base/guard.h"

#define LOOK_NS        50000000l              /* how often */
#define ROW_LIMIT_US   500000ll               /* as the coordinator's watchdog */
#define SOONER         8                      /* this part of the time sooner than that one: a rank knows more */

/* The step's thread may sit in the driver for good: nothing is closed, nobody is waited for. */
static void give_up(daemon_rank *r, px_err *e)
{
    px_err ignored = {0};

    px_err_set_rank(e, (int)r->rank, r->log.host);
    px_log_err(&r->log, PX_ERROR, "step_lost", e);
    if (r->sums) comm_abort(r->sums);
    daemon_rank_report(r, PHALANX__WIRE__STAGE__SERVE, 0, e, 1, &ignored);
    _exit(1);
}

static void look(daemon_rank *r, px_time_us deadline, px_time_us began)
{
    px_err e = {0};

    if (px_now_us() > deadline) {
        px_fail(&e, PX_ETIMEOUT, "step", "step %llu has not ended on the device after %lld s", (unsigned long long)r->watch.step,
                (long long)((px_now_us() - began) / 1000000));
        give_up(r, &e);
    }
    if (comm_poll(r->sums, &e)) give_up(r, &e);
}

static void *watch(void *arg)
{
    daemon_rank *r = arg;

    px_guard_exempt(true);
    pthread_mutex_lock(&r->watch.lock);
    while (!r->watch.stop) {
        struct timespec until;
        if (!r->watch.deadline) {
            pthread_cond_wait(&r->watch.changed, &r->watch.lock);
            continue;
        }
        look(r, r->watch.deadline, r->watch.began);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        if (until.tv_nsec >= 1000000000l) until.tv_sec++, until.tv_nsec -= 1000000000l;
        pthread_cond_timedwait(&r->watch.changed, &r->watch.lock, &until);
    }
    pthread_mutex_unlock(&r->watch.lock);
    return NULL;
}

px_code daemon_rank_watch_open(daemon_rank *r, px_err *e)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&r->watch.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->watch.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if ((errno = pthread_create(&r->watch.thread, NULL, watch, r))) return px_fail_errno(e, "step", "pthread_create");
    r->watch.runs = true;
    return PX_OK;
}

static void set(daemon_rank *r, uint64_t step, px_time_us began, px_time_us deadline, bool stop)
{
    pthread_mutex_lock(&r->watch.lock);
    r->watch.step = step;
    r->watch.began = began;
    r->watch.deadline = deadline;
    r->watch.stop = stop;
    pthread_cond_signal(&r->watch.changed);
    pthread_mutex_unlock(&r->watch.lock);
}

void daemon_rank_watch_begin(daemon_rank *r, uint64_t step, uint32_t tokens)
{
    px_time_us now = px_now_us(), limit = (px_time_us)r->config.step_s * 1000000 + tokens * ROW_LIMIT_US;

    if (r->watch.runs) set(r, step, now, now + limit - limit / SOONER, false);
}

void daemon_rank_watch_end(daemon_rank *r)
{
    if (r->watch.runs) set(r, 0, 0, 0, false);
}

void daemon_rank_watch_close(daemon_rank *r)
{
    if (!r->watch.runs) return;
    set(r, 0, 0, 0, true);
    pthread_join(r->watch.thread, NULL);
    r->watch.runs = false;
}
