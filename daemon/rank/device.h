/* device.h - the device of a rank with `device: cuda`: opened before the hello, comm's side of it, and the watchdog beside
 * its steps.
 * Layer: daemon/rank. */
#ifndef DAEMON_RANK_DEVICE_H
#define DAEMON_RANK_DEVICE_H

#include "daemon/rank/rank.h"

/* The plugin, then this rank's device: fills ops, dev, gpu, ordinal.  Errors: PX_ENOTFOUND, PX_EUNSUP, PX_EMISMATCH,
 * PX_EDEVICE with field plugin, driver or device; PX_EINVAL (devices). */
px_code daemon_rank_device_open(daemon_rank *r, px_err *e);
void    daemon_rank_device_close(daemon_rank *r);
/* Sums between the ranks' devices, over r->comm or by NCCL as the coordinator said: fills sums.  Collective with NCCL, which is
 * waited for until `until`. */
px_code daemon_rank_device_sums_all(daemon_rank *r, px_time_us until, px_err *e);
/* Bytes of device memory that `kind` has taken: what is free now against what was free then. */
uint64_t daemon_rank_device_taken(daemon_rank *r, uint64_t *free_before);
/* A line, where fp8_activations is set: how many products of the warm-up go so, and how many as without, for want of an algorithm. */
void daemon_rank_device_tell_products(daemon_rank *r);

/* While a step runs: asks the communicator for errors, and ends a step that does not end.  Who finds something tells the
 * coordinator what is known and ends this process: the thread of the step may hang for good. */
px_code daemon_rank_watch_open(daemon_rank *r, px_err *e);
void    daemon_rank_watch_close(daemon_rank *r);
void    daemon_rank_watch_begin(daemon_rank *r, uint64_t step, uint32_t tokens);
void    daemon_rank_watch_end(daemon_rank *r);

#endif
