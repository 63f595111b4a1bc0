/* populate.h - every page of a mapping there before ready, on all of a rank's threads, with progress.
 * Layer: daemon/rank. */
#ifndef DAEMON_POPULATE_H
#define DAEMON_POPULATE_H

#include <stdint.h>

#include "proto/base/err.h"

/* `p` lies on a page and may be written; what stands in it stays.  progress is called on the caller's thread only.
 * PX_ENOMEM, field "kv": the pages cannot be had. */
px_code daemon_populate(void *p, size_t bytes, uint32_t threads, void (*progress)(void *ctx, uint64_t done, uint64_t total),
                        void *ctx, px_err *e);

#endif
