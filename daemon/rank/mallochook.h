/* mallochook.h - count what libraries take from malloc in a step.
 * Layer: daemon/rank, debug and sanitizer builds (PHALANX_MALLOC_HOOK). */
#ifndef DAEMON_MALLOCHOOK_H
#define DAEMON_MALLOCHOOK_H

#include <stdbool.h>

bool daemon_malloc_hook(void);              /* false: this build cannot count */

#endif
