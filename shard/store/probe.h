/* probe.h - what a path is: a GGUF, a safetensors checkpoint, a bare config.json, a shard set.
 * Layer: shard/store. */
#ifndef SHARD_PROBE_H
#define SHARD_PROBE_H

#include "proto/base/err.h"

typedef enum shard_probe_kind { SHARD_IS_GGUF, SHARD_IS_SAFETENSORS, SHARD_IS_CONFIG, SHARD_IS_SET,
                               SHARD_IS_MODEL /* a file like those of configs/models */ } shard_probe_kind;

typedef struct shard_probe {
    shard_probe_kind kind;
    char dir[4096];               /* the folder of all files below */
    char config[4096];            /* config.json, for SAFETENSORS and CONFIG */
    char weights[4096];           /* the one file, or "" */
    char index[4096];             /* the index, or "" */
} shard_probe;

/* Errors: PX_ENOTFOUND (no such path; a folder without a model: e->field is the file that is missing), PX_EINVAL (a file
 * that is none of these), PX_EUNSUP (adapter_config.json: an adapter), PX_EIO, PX_ERANGE (a path too long).  e->file is the path. */
px_code shard_probe_path(shard_probe *p, const char *path, px_err *e);

#endif
