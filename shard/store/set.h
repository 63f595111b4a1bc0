/* set.h - a shard set: its manifest, a rank's shard mapped read-only, and the one checker for verify and cold start.
 * Layer: shard/store.  Immutable after open. */
#ifndef SHARD_SET_H
#define SHARD_SET_H

#include "shard/plan/split.h"
#include "shard/store/sharder.h"

#define SHARD_FORMAT_VERSION 1u

typedef struct shard_digest { uint8_t b[32]; uint32_t n; } shard_digest;      /* n bytes are used: 16 or 32 */
void shard_digest_hex(const shard_digest *d, char out[65]);

typedef struct shard_manifest_rank { char file[64]; uint64_t bytes, mapped_bytes; shard_digest header; } shard_manifest_rank;
typedef struct shard_manifest_asset_entry { char name[64]; uint64_t bytes; shard_digest digest; } shard_manifest_asset_entry;

typedef struct shard_manifest {             /* manifest.json, checked whole against itself */
    px_alloc   *a;
    uint32_t    version, world;
    shard_arch  arch;
    shard_types types;                      /* stored types */
    shard_policy policy;
    shard_ffn_split split_ffn; shard_vocab_split split_vocab;
    shard_split split;                      /* computed from arch, types, world; its digest equals the recorded plan digest */
    char        model[96], revision[96], arith[64], layout[32], builder[64];
    shard_digest_kind digest_kind;
    shard_digest source, plan, tokenizer, manifest;   /* manifest: digest of the file's bytes */
    uint64_t    source_bytes, stored_bytes;
    shard_manifest_rank  *rank;             /* (world) owned */
    shard_manifest_asset_entry *asset; uint32_t n_assets;   /* owned */
    bool        has_tokenizer, has_template;
    uint32_t    bos, eos[8], n_eos;
    float       default_temperature, default_top_p; uint32_t default_top_k;   /* generation defaults; NAN / UINT32_MAX unset */
} shard_manifest;

px_code shard_manifest_read(shard_manifest *m, px_alloc *a, const char *dir, px_err *e);
void    shard_manifest_deinit(shard_manifest *m);
/* An asset of the set, checked against its digest in the manifest; put with px_put size bytes + 1.  PX_ENOTFOUND. */
px_code shard_manifest_asset(const shard_manifest *m, px_alloc *a, const char *dir, const char *name,
                             char **data, size_t *bytes, px_err *e);

typedef struct shard_file shard_file;       /* one rank's shard, mapped */
/* Opens, maps, checks the header against the manifest (depth `header`): every tensor of this rank present, type, shape,
 * extent, alignment, no holes, metadata (rank, world, plan digest, revision, arithmetic...).  All mismatches go to errs. */
px_code shard_file_open(shard_file **f, px_alloc *a, const char *dir, const shard_manifest *m, uint32_t rank,
                        px_err *errs, size_t cap, size_t *n_errs);
void    shard_file_close(shard_file *f);
const char *shard_file_path(const shard_file *f);
uint64_t shard_file_bytes(const shard_file *f);
const void *shard_file_map(const shard_file *f, size_t *bytes);
const uint8_t *shard_file_data(const shard_file *f);       /* the first tensor: data lie in one piece */
/* A tensor of this rank in panels (vectors: plain F32); borrowed from the mapping. */
px_code shard_file_tensor(const shard_file *f, shard_role r, uint32_t layer, const void **data, kern_dtype *t,
                          uint64_t *rows, uint64_t *cols, size_t *bytes, px_err *e);

typedef enum shard_depth { SHARD_CHECK_HEADER, SHARD_CHECK_SAMPLE, SHARD_CHECK_FULL, SHARD_CHECK_AUTO } shard_depth;
px_code shard_depth_parse(const char *word, shard_depth *out, px_err *e);
#define SHARD_AUTO_FULL (4ull << 30)        /* read and digested in under 2 s from the page cache */
/* What AUTO means for a file of so many bytes: FULL up to `most`, else SAMPLE; other depths are themselves. */
shard_depth shard_depth_resolve(shard_depth d, uint64_t bytes, uint64_t most);
/* How fast a whole set was digested, and how fast the same threads read the same pages when they only add them up. */
typedef struct shard_check_speed { uint64_t bytes; double seconds, read_per_second; uint32_t threads; } shard_check_speed;
typedef struct shard_check_args {
    shard_depth depth;                      /* AUTO: full where the bytes take under 2 s, else sample */
    uint64_t    seed;                       /* of the sample */
    uint32_t    n_sample;                   /* tensors a rank (default 16 when 0) */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); void *ctx;
    const volatile int *cancel;
    uint32_t    threads;                    /* tensors are shared out among so many; 0: one */
    shard_check_speed *speed;               /* shard_set_check: filled after a check without a fault; may be NULL */
} shard_check_args;
/* Digests of an open shard, through its own mapping.  Every bad tensor goes to errs (up to cap). */
px_code shard_file_check(const shard_file *f, const shard_check_args *args, px_err *errs, size_t cap, size_t *n_errs);
/* The whole set: manifest, every rank's file, assets.  ranks: what the deployment wants (0: what the set says). */
px_code shard_set_check(px_alloc *a, const char *dir, uint32_t ranks, const shard_check_args *args,
                        px_err *errs, size_t cap, size_t *n_errs);

#endif
