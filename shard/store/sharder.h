/* sharder.h - a checkpoint becomes a shard set, streaming: memory does not grow with the model.
 * Layer: shard/store. */
#ifndef SHARD_SHARDER_H
#define SHARD_SHARDER_H

#include "shard/store/checkpoint.h"

typedef enum shard_digest_kind { SHARD_XXH3_128, SHARD_SHA256 } shard_digest_kind;
/* What the matrices of a set are stored as.  The last six quantise F32, F16 and BF16 sources (kern_row_quantise); w8a16 and w4a16
 * are mixtures: matrices of the layers in groups of 128, the table (tied or not) in F16, the head in W8 or F16; and FP8: matrices of
 * the layers in FP8, table and head in BF16. */
typedef enum shard_policy {
    SHARD_AS_FILE, SHARD_TO_F32, SHARD_TO_BF16, SHARD_TO_FP8, SHARD_TO_W8A16, SHARD_TO_W4A16, SHARD_TO_Q8_0, SHARD_TO_Q4_0, SHARD_TO_Q4_1,
    SHARD_N_POLICIES
} shard_policy;

typedef struct shard_asset { const char *name; const void *data; size_t bytes; } shard_asset;   /* "tokenizer.json", "chat_template.txt" ... */

typedef struct shard_pack_args {
    const shard_checkpoint *source;
    const char *out;                        /* folder to make; refused if it exists */
    uint32_t ranks;
    shard_policy policy;
    shard_ffn_split split;
    shard_vocab_split vocab;                /* padded64 */
    shard_digest_kind digest;
    uint32_t threads;                       /* that convert, 0: 1; the set's bytes are the same for any number */
    const shard_asset *asset; size_t n_assets;
    bool sparse;                            /* the source is zeros: read nothing, leave holes, reserve nothing */
    const char *revision;                   /* NULL: the checkpoint's */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); void *ctx;    /* bytes written, 0 when OUT.partial is made; may be NULL */
    void (*note)(void *ctx, const char *line);                                 /* log lines: a stale OUT.partial removed */
    const volatile int *cancel;             /* set from a signal handler: PX_ECANCELLED, nothing is left */
} shard_pack_args;

/* The matrices of a class that are stored as another type than the checkpoint has. */
typedef struct shard_conversion {
    uint32_t   n;                           /* of them; 0: all are stored as they were */
    kern_dtype from, to;                    /* of the first one */
    uint64_t   source_bytes, stored_bytes;  /* the latter over all ranks, without padding */
    double     error, size;                 /* sums of squares: of what rounding changed, of the values; 0: exact */
} shard_conversion;

typedef struct shard_pack_result {
    uint64_t source_bytes, stored_bytes, mapped_bytes;     /* over all ranks for the last two */
    shard_conversion converted[SHARD_N_ROLES];
    uint64_t rank_mapped[64];
} shard_pack_result;

/* Errors: PX_EEXIST (OUT is there), PX_EBUSY (OUT.partial is locked by another run), PX_EIO (disk full ... nothing is
 * left), PX_ERANGE (cannot be cut so), PX_EUNSUP, PX_ECORRUPT. */
px_code shard_pack(px_alloc *a, const shard_pack_args *args, shard_pack_result *out, px_err *e);

#endif
