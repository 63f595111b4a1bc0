/* selftest.h - known input through every kernel variant in use, held against the scalar twin; one reduction a size class.
 * Layer: shard/run.  Part of warm-up: allocates, and leaves residual, normed and the KV of its rows overwritten. */
#ifndef SHARD_SELFTEST_H
#define SHARD_SELFTEST_H

#include "shard/run/forward.h"

/* After a step of n rows: its ids, positions and block table are still uploaded, in both.  Every layer whose weights have
 * a type that none before had, embedding, norm and a part of the head.  On CPU the twin is the same forward pass with the
 * scalar ops, and bound 0 wants the same bits; beside a device it is another one in the host's memory, and differences
 * may be `bound` of their row's largest number.  PX_ECORRUPT, field "selftest"; found and expected say where and what. */
px_code shard_selftest_kernels(shard_forward *f, shard_forward *twin, float bound, px_alloc *a, uint32_t n, px_err *e);
/* Collective: exact sums of one row, of a part, and of the largest message.  PX_ECORRUPT, field "selftest". */
px_code shard_selftest_sums_all(shard_forward *f, px_alloc *a, uint32_t rank, uint32_t world, px_err *e);

#endif
