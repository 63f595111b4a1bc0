/* gguf_arch.h - the metadata of a GGUF file as an architecture.
 * Layer: shard/store.  Pure. */
#ifndef SHARD_GGUF_ARCH_H
#define SHARD_GGUF_ARCH_H

#include "shard/model/arch.h"
#include "shard/store/gguf.h"

/* Reads the families of shard/model/family.c: those that are served or, if not `served` (the planner asks), all.  n_vocab is the rows of token_embd.weight,
 * tied the absence of output.weight, rope_freqs.weight the divisors of the rope frequencies.
 * Errors: PX_EUNSUP (e->field is the key; found, expected), PX_EMISMATCH, PX_ENOTFOUND, PX_ERANGE.  Numbers are checked. */
px_code shard_gguf_arch(shard_arch *m, const shard_gguf *g, bool served, px_err *e);

#endif
