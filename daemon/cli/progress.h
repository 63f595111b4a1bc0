/* progress.h - a bar on standard error while something long runs; nothing when that is no terminal.
 * Layer: daemon/cli.  Plain value; draws at most ten times a second. */
#ifndef DAEMON_PROGRESS_H
#define DAEMON_PROGRESS_H

#include "proto/base/io.h"

typedef struct daemon_progress {
    const char *label;            /* borrowed */
    bool        on, drawn;
    px_time_us  begin, last;
} daemon_progress;

void daemon_progress_init(daemon_progress *p, const char *label);
void daemon_progress_step(daemon_progress *p, uint64_t done, uint64_t total);      /* bytes */
void daemon_progress_end(daemon_progress *p);                                      /* wipes the bar; idempotent */

#endif
