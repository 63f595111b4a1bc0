/* watch.c - what is looked at while a rank waits for the device: errors that NCCL met behind our back, and the clock. */
#include "comm/table.h"
#include "proto/base/watch.h"

#define LOOK_US 5000

struct comm_watch {
    px_alloc *a;
    comm     *c;
    px_watch  watch;
};

static px_code ask(void *ctx, px_err *e)
{
    comm_watch *w = ctx;
    return comm_poll(w->c, e);
}

static px_code late(void *ctx, const px_watched *of, px_err *e)
{
    comm_watch *w = ctx;
    return px_fail(e, PX_ETIMEOUT, "nccl", "%s: rank %u waited %lld ms for the device", of->what, w->c->rank,
                   (long long)(of->limit / 1000));
}

static void found(void *ctx, const px_err *e)
{
    comm_watch *w = ctx;
    (void)e;                                       /* disarm says it */
    comm_abort(w->c);
}

px_code comm_watch_open(comm_watch **out, px_alloc *a, comm *c, px_err *e)
{
    comm_watch *w = px_new(a, comm_watch, 1);
    px_code rc;

    *out = NULL;
    if (!w) return px_fail(e, PX_ENOMEM, "watch", "%zu bytes", sizeof *w);
    w->a = a;
    w->c = c;
    if ((rc = px_watch_open(&w->watch, &(px_watch_on){ .every = LOOK_US, .ask = ask, .late = late, .found = found, .ctx = w }, "watch", e))) {
        px_del(a, w, 1);
        return rc;
    }
    *out = w;
    return PX_OK;
}

void comm_watch_close(comm_watch *w)
{
    if (!w) return;
    px_watch_close(&w->watch);
    px_del(w->a, w, 1);
}

void    comm_watch_arm(comm_watch *w, px_time_us timeout_us, const char *what) { px_watch_arm(&w->watch, what, 0, timeout_us); }
px_code comm_watch_disarm(comm_watch *w, px_err *e) { return px_watch_disarm(&w->watch, e); }
