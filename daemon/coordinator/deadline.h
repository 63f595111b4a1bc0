/* deadline.h - the deadline of steps that wait in the kernel and not in poll: a file of a server that is gone can hold a
 * read for ever.  When it passes, the step is named and the process ends with 3; the watcher beside it cleans up.
 * Layer: daemon/coordinator.  One thread of its own; set and clear from one other. */
#ifndef DAEMON_DEADLINE_H
#define DAEMON_DEADLINE_H

#include "proto/base/log.h"
#include "proto/base/watch.h"

typedef struct daemon_deadline {
    px_watch           watch;
    const px_log_sink *log;
} daemon_deadline;

/* A deadline that cannot be watched is an error of the start, not a start without one. */
px_code daemon_deadline_open(daemon_deadline *d, const px_log_sink *log, px_err *e);
void    daemon_deadline_close(daemon_deadline *d);
/* step: a string that outlives it.  limit 0: as clear. */
void    daemon_deadline_set(daemon_deadline *d, const char *step, px_time_us limit);
void    daemon_deadline_clear(daemon_deadline *d);

#endif
