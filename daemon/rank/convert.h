/* convert.h - the wire's Step and Result <-> the executor's; errors <-> the wire's Error.
 * Layer: daemon/rank.  Storage comes from the allocator that is handed in (an arena or a fixed buffer). */
#ifndef DAEMON_CONVERT_H
#define DAEMON_CONVERT_H

#include "proto/wire/pb.h"
#include "shard/run/step.h"
#include "wire/rank.pb-c.h"

/* Bytes of a step -> *out, which points into a's memory.  PX_EINVAL, PX_ERANGE. */
px_code daemon_step_decode(px_alloc *a, const uint8_t *data, size_t n, shard_step *out, px_err *e);
px_code daemon_step_encode(px_alloc *a, const shard_step *in, uint8_t **data, size_t *n, px_err *e);
px_code daemon_result_decode(px_alloc *a, const uint8_t *data, size_t n, shard_result *out, px_err *e);
px_code daemon_result_encode(px_alloc *a, const shard_result *in, uint8_t **data, size_t *n, px_err *e);

/* *w points into *e: valid as long as it is. */
void daemon_error_to_wire(const px_err *e, Phalanx__Wire__Error *w);
void daemon_error_from_wire(const Phalanx__Wire__Error *w, px_err *e);

/* Pack any message into a's memory. */
px_code daemon_pack(px_alloc *a, const ProtobufCMessage *m, uint8_t **data, size_t *n, px_err *e);

#endif
