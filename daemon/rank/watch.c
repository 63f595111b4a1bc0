/* watch.c - beside the steps of a rank with a device: a step that does not end, and errors that come behind its back. */
#include <unistd.h>

#include "daemon/rank/device.h"

#define LOOK_US        50000                  /* how often */
#define ROW_LIMIT_US   500000ll               /* as the coordinator's watchdog, but for DAEMON_RANK_SOONER */

static px_code ask(void *ctx, px_err *e)
{
    daemon_rank *r = ctx;
    return comm_poll(r->sums, e);
}

static px_code late(void *ctx, const px_watched *of, px_err *e)
{
    (void)ctx;
    return px_fail(e, PX_ETIMEOUT, "step", "step %llu has not ended on the device after %.1f s", (unsigned long long)of->number,
                   (double)(px_now_us() - of->began) / 1e6);
}

/* The step's thread may sit in the driver for good: nothing is closed, nobody is waited for.  The abort, which lets the peers'
 * kernels end, comes last: it may wait some seconds for whoever is inside NCCL, and the coordinator's own time is nearly over. */
static void give_up(void *ctx, const px_err *found)
{
    daemon_rank *r = ctx;
    px_err e = *found, ignored = {0};

    px_err_set_rank(&e, (int)r->rank, r->log.host);
    px_log_err(&r->log, PX_ERROR, "step_lost", &e);
    daemon_rank_report(r, PHALANX__WIRE__STAGE__SERVE, 0, &e, 1, &ignored);
    if (r->sums) comm_abort(r->sums);
    _exit(1);
}

px_code daemon_rank_watch_open(daemon_rank *r, px_err *e)
{
    return px_watch_open(&r->watch, &(px_watch_on){ .every = LOOK_US, .ask = ask, .late = late, .found = give_up, .ctx = r }, "step", e);
}

void daemon_rank_watch_begin(daemon_rank *r, uint64_t step, uint32_t tokens)
{
    const px_time_us limit = (px_time_us)r->config.step_s * 1000000 + tokens * ROW_LIMIT_US;

    px_watch_arm(&r->watch, "step", step, limit - limit / DAEMON_RANK_SOONER);
}

void daemon_rank_watch_end(daemon_rank *r)
{
    if (px_watch_disarm(&r->watch, NULL)) px_watch_close(&r->watch);   /* it is in give_up: whose process this is no more */
}

void daemon_rank_watch_close(daemon_rank *r) { px_watch_close(&r->watch); }
