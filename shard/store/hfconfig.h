/* hfconfig.h - config.json of Hugging Face, in its classic form and in the form of transformers 5, as an architecture.
 * Layer: shard/store.  Pure. */
#ifndef SHARD_HFCONFIG_H
#define SHARD_HFCONFIG_H

#include "shard/model/arch.h"

/* Reads the families of shard/model/family.c: those that are served or, if not `served` (the planner asks), all of them, of a
 * picture model the language model.  dtype: what the file says of its tensors (F32 if nothing).  revision (cap bytes): the commit, if the file names one, else "".
 * Errors: PX_EUNSUP (e->field is the key: model_type, architectures, hidden_act, attention_bias, rope_scaling.rope_type,
 * quantization_config ...; found, expected), PX_EMISMATCH (a value of another type), PX_ENOTFOUND (a key that must be
 * there), PX_ERANGE, PX_EINVAL (not JSON), and those of px_read_file.  The numbers are checked (shard_arch_check). */
px_code shard_hfconfig_read(shard_arch *m, kern_dtype *dtype, char *revision, size_t cap, bool served, px_alloc *a,
                            const char *path, px_err *e);

/* generation_config.json, where there is one: the ids in its eos_token_id end a generation, beside config.json's.
 * Errors: PX_EMISMATCH, PX_ERANGE (eos_token_id), PX_EINVAL, and those of px_read_file; an absent file is none. */
px_code shard_hfconfig_add_generation(shard_arch *m, px_alloc *a, const char *path, px_err *e);

#endif
