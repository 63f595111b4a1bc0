/* checkpoint.h - any source of weights: its architecture and its tensors by role.
 * Layer: shard/store.  GGUF (v2, v3), a safetensors folder (single file or index, with config.json), one .safetensors
 * beside its config.json.  Data lie in mappings until close. */
#ifndef SHARD_CHECKPOINT_H
#define SHARD_CHECKPOINT_H

#include "shard/plan/split.h"

typedef struct shard_source {               /* one tensor of the checkpoint */
    kern_dtype     dtype;
    uint64_t       rows, cols;
    const uint8_t *data;                    /* row-major, blocks along columns; at any address: memcpy, no casts */
    size_t         bytes;
    const char    *file;                    /* for messages */
    bool           qk_permuted;             /* some GGUFs: rows of a head are interleaved pairs; the sharder undoes it */
} shard_source;

struct shard_gguf;
typedef struct shard_checkpoint shard_checkpoint;

/* Refuses by name what is not read: architecture, rope type, tensor type, biases, experts...  Missing, surplus or
 * mis-shaped tensors are errors that name the tensor, found and expected. */
px_code shard_checkpoint_open(shard_checkpoint **c, px_alloc *a, const char *path, px_err *e);
/* Weights of a model's real shapes that nobody trained: name as shard_arch_read takes it, matrices in its dtype (F32, F16,
 * BF16).  Numbers follow from the seed, uniform with the deviation that keeps a row's norm; sparse: all are zero.  The
 * memory is that of the largest tensor, whatever the model.  Errors: those of shard_arch_read; PX_EUNSUP, PX_ENOMEM. */
px_code shard_checkpoint_synthetic(shard_checkpoint **c, px_alloc *a, const char *name, uint64_t seed, bool sparse, px_err *e);
void    shard_checkpoint_close(shard_checkpoint *c);
const shard_arch   *shard_checkpoint_arch(const shard_checkpoint *c);
const shard_types  *shard_checkpoint_types(const shard_checkpoint *c);        /* as in the file */
/* NULL where shard_arch_has says no (tied: no SHARD_OUTPUT) or there is no such layer. */
const shard_source *shard_checkpoint_tensor(const shard_checkpoint *c, shard_role r, uint32_t layer);
const struct shard_gguf *shard_checkpoint_gguf(const shard_checkpoint *c);    /* NULL for safetensors */
uint64_t shard_checkpoint_bytes(const shard_checkpoint *c);                   /* source_bytes: sum over its tensors */
const char *shard_checkpoint_revision(const shard_checkpoint *c);             /* "" if unknown */

/* Architecture alone, served or not: from a GGUF, a folder, a config.json, a .safetensors, a set's manifest, a file like
 * those of configs/models or a name of one (for the planner).  Types are the file's; of a config.json its dtype, for vectors too. */
px_code shard_arch_read(shard_arch *m, shard_types *t, px_alloc *a, const char *path, px_err *e);

#endif
