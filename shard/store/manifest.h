/* manifest.h - what the writer and the readers of a set share: names, digests of the plan, JSON of an architecture.
 * Layer: shard/store, private to it. */
#ifndef SHARD_MANIFEST_H
#define SHARD_MANIFEST_H

#include "shard/store/digest.h"
#include "shard/store/set.h"

#include <jansson.h>

#define SHARD_MANIFEST_FILE "manifest.json"
#define SHARD_MAX_RANKS     64u
#define SHARD_MAX_ASSETS    64u

void shard_rank_file_name(uint32_t rank, uint32_t world, char out[64]);    /* "rank-000-of-002.safetensors" */
bool shard_asset_name_ok(const char *name);                                /* a plain file name that is not one of ours */

/* Arithmetic ids of the matrix types in a set, with KV in f16, joined by '+'. */
void shard_arith_of(const shard_arch *m, const shard_types *t, char out[64]);

/* Feed a canonical text: the architecture; the whole plan (architecture, types, split, every rank's cut). */
void    shard_arch_hash(shard_hash *h, const shard_arch *m);
px_code shard_plan_digest(shard_digest_kind kind, const shard_arch *m, const shard_types *t, const shard_split *s,
                          shard_digest *out, px_err *e);

/* JSON of an architecture and of types (run lengths over the layers).  NULL: no memory.  Readers check everything;
 * e->field is the member's path. */
json_t *shard_arch_to_json(const shard_arch *m);
json_t *shard_types_to_json(const shard_arch *m, const shard_types *t);
px_code shard_arch_from_json(const json_t *o, shard_arch *m, px_err *e);
px_code shard_types_from_json(const json_t *o, px_alloc *a, const shard_arch *m, shard_types *t, px_err *e);

/* Members of a JSON object; path is what errors call them.  PX_EINVAL (none, or of another type), PX_ERANGE. */
px_code shard_json_u64(const json_t *o, const char *path, const char *key, uint64_t max, uint64_t *out, px_err *e);
px_code shard_json_number(const json_t *o, const char *path, const char *key, double *out, px_err *e);
px_code shard_json_bool(const json_t *o, const char *path, const char *key, bool *out, px_err *e);
px_code shard_json_text(const json_t *o, const char *path, const char *key, char *out, size_t cap, px_err *e);
px_code shard_json_digest(const json_t *o, const char *path, const char *key, shard_digest_kind kind, shard_digest *out,
                          px_err *e);
/* A string that is UTF-8 whatever s is: bytes that are not become '?'. */
json_t *shard_json_string(const char *s);

/* The text of manifest.json for m (its rank, asset, digests filled); also fills m->manifest.  Put with px_put, *bytes + 1. */
px_code shard_manifest_text(shard_manifest *m, px_alloc *a, char **text, size_t *bytes, px_err *e);

#endif
