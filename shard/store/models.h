/* models.h - architectures by name: the files of configs/models, which are built into the program, and files like them.
 * Layer: shard/store.  Pure; libyaml takes its own memory from malloc and gives it back before the return. */
#ifndef SHARD_MODELS_H
#define SHARD_MODELS_H

#include "shard/model/arch.h"

typedef struct shard_model_text { const char *name, *text; size_t bytes; } shard_model_text;
extern const shard_model_text shard_models[];          /* in the order of size within a family */
extern const size_t           shard_n_models;

/* NULL: no such name.  Case, and '_' for '-', do not matter. */
const shard_model_text *shard_model_find(const char *name);
/* The known name nearest to a word, or NULL. */
const char *shard_model_nearest(const char *word);

/* One flat map, strict.  name stands in errors as the file.  dtype: of all tensors.  The numbers are checked.
 * Errors: PX_ENOTFOUND (an unknown key: the nearest is named; a key that must be there), PX_EEXIST (a key twice), PX_EINVAL
 * (no YAML, no flat map, another type; anchors, aliases, tags), PX_ERANGE. */
px_code shard_model_parse(shard_arch *m, kern_dtype *dtype, const char *name, const char *text, size_t bytes, px_err *e);

#endif
