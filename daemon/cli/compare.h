/* compare.h - `phalanx plan --compare`: what a running service planned, holds and is estimated to take.
 * Layer: daemon/cli. */
#ifndef DAEMON_COMPARE_H
#define DAEMON_COMPARE_H

#include "daemon/cli/cli.h"

/* Exit code: DAEMON_EXIT_REFUSED if anything that is ours differs from its plan, DAEMON_EXIT_UNAVAILABLE if nobody answers
 * at the address or the service is not ready. */
int daemon_cli_compare(px_alloc *a, const char *address, bool json);

#endif
