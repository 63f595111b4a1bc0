#include "daemon/coordinator/deadline.h"

#include <unistd.h>

#include "daemon/rank/fields.h"

#define REFUSED 3                          /* exit code of a start that was refused */

static px_code late(void *ctx, const px_watched *of, px_err *e)
{
    (void)ctx;
    return px_fail(e, PX_ETIMEOUT, daemon_field_name(DAEMON_FIELD_DEADLINE), "step %s was not done within %.7g s", of->what,
                   (double)of->limit / 1e6);
}

static void refuse(void *ctx, const px_err *e)
{
    const daemon_deadline *d = ctx;

    px_log_err(d->log, PX_ERROR, "coldstart_refused", e);
    _exit(REFUSED);                        /* the thread that hangs cannot be ended; nothing of it is lost: nobody was served */
}

px_code daemon_deadline_open(daemon_deadline *d, const px_log_sink *log, px_err *e)
{
    d->log = log;
    return px_watch_open(&d->watch, &(px_watch_on){ .every = PX_NEVER, .late = late, .found = refuse, .ctx = d }, "deadline", e);
}

void daemon_deadline_set(daemon_deadline *d, const char *step, px_time_us limit)
{
    if (limit) px_watch_arm(&d->watch, step, 0, limit);
    else daemon_deadline_clear(d);
}

void daemon_deadline_clear(daemon_deadline *d) { px_watch_disarm(&d->watch, NULL); }
void daemon_deadline_close(daemon_deadline *d) { px_watch_close(&d->watch); }
