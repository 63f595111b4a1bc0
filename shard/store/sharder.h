/* sharder.h - a checkpoint becomes a shard set, streaming: memory does not grow with the model.
 * Layer: shard/store. */
#ifndef SHARD_SHARDER_H
#define SHARD_SHARDER_H

#include "shard/store/checkpoint.h"

typedef enum shard_digest_kind { SHARD_XXH3_128, SHARD_SHA256 } shard_digest_kind;
typedef enum shard_policy { SHARD_AS_FILE, SHARD_TO_F32, SHARD_TO_BF16 } shard_policy;

typedef struct shard_asset { const char *name; const void *data; size_t bytes; } shard_asset;   /* "tokenizer.json", "chat_template.txt" ... */

typedef struct shard_pack_args {
    const shard_checkpoint *source;
    const char *out;                        /* folder to make; refused if it exists */
    uint32_t ranks;
    shard_policy policy;                    /* as_file stores F16 as F32 */
    shard_ffn_split split;
    shard_vocab_split vocab;                /* padded64 */
    shard_digest_kind digest;
    const shard_asset *asset; size_t n_assets;
    bool sparse;                            /* the source is zeros: read nothing, leave holes, reserve nothing */
    const char *revision;                   /* NULL: the checkpoint's */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); void *ctx;    /* bytes written; may be NULL */
    void (*note)(void *ctx, const char *line);                                 /* log lines: a stale OUT.partial removed */
    const volatile int *cancel;             /* set from a signal handler: PX_ECANCELLED, nothing is left */
} shard_pack_args;

typedef struct shard_pack_result {
    uint64_t source_bytes, stored_bytes, mapped_bytes;     /* over all ranks for the last two */
    uint64_t converted_f16_bytes;                            /* F16 stored as F32: how much the set grew */
    uint64_t rank_mapped[64];
} shard_pack_result;

/* Errors: PX_EEXIST (OUT is there), PX_EBUSY (OUT.partial is locked by another run), PX_EIO (disk full ... nothing is
 * left), PX_ERANGE (cannot be cut so), PX_EUNSUP, PX_ECORRUPT. */
px_code shard_pack(px_alloc *a, const shard_pack_args *args, shard_pack_result *out, px_err *e);

#endif
