/* guard.h - law 2 at run time: while a step runs, nothing is allocated.
 * Layer: proto (sees err.h).  Armed for the whole process, so that a kernel's threads are guarded, too; a thread that
 * lawfully works beside the steps (the background check) is exempt.  Allocators that take memory from the system report
 * to it; pools, fixed buffers and an arena's kept chunks do not.  One atomic load an allocation, in every build. */
#ifndef PROTO_GUARD_H
#define PROTO_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/err.h"

void    px_guard_arm(void);
/* PX_EINTERNAL, field "guard": something was allocated since; e->text names the first subsystem and its bytes. */
px_code px_guard_disarm(px_err *e);
bool    px_guard_exempt(bool on);                     /* this thread; returns what it was */
/* For allocators. */
void    px_guard_saw(const char *subsystem, size_t bytes);
/* For a hook of malloc: what libraries allocate while a step runs is counted, not refused. */
void    px_guard_saw_malloc(void);
size_t  px_guard_mallocs(void);

#endif
