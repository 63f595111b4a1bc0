/* digest.h - digests of bytes as they stream by: XXH3-128 against accidents, SHA-256 against tampering.
 * Layer: shard/store.  A shard_hash is used by one thread. */
#ifndef SHARD_DIGEST_H
#define SHARD_DIGEST_H

#include "shard/store/set.h"

#define XXH_STATIC_LINKING_ONLY      /* the state as a plain value: no allocation behind the interface's back */
#include <xxhash.h>

typedef struct shard_hash {
    shard_digest_kind kind;
    XXH3_state_t      xxh;
    void             *sha;           /* EVP_MD_CTX, only for SHA-256; owned */
} shard_hash;

/* Errors: PX_ENOMEM. */
px_code shard_hash_init(shard_hash *h, shard_digest_kind kind, px_err *e);
void    shard_hash_deinit(shard_hash *h);                          /* idempotent; accepts a zeroed one */
void    shard_hash_reset(shard_hash *h);                           /* begin again */
void    shard_hash_update(shard_hash *h, const void *data, size_t n);
void    shard_hash_text(shard_hash *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void    shard_hash_final(shard_hash *h, shard_digest *out);        /* then reset before the next */

uint32_t    shard_digest_size(shard_digest_kind kind);              /* 16 or 32 */
const char *shard_digest_name(shard_digest_kind kind);              /* "xxh3-128", "sha256" */
bool        shard_digest_kind_parse(const char *name, shard_digest_kind *out);
bool        shard_digest_equal(const shard_digest *x, const shard_digest *y);
/* Lower-case hexadecimal of the kind's length, nothing else. */
bool        shard_digest_parse(shard_digest_kind kind, const char *hex, shard_digest *out);
/* px_mismatch with both digests in hexadecimal. */
px_code     shard_digest_mismatch(px_err *e, px_code code, const char *field, const shard_digest *found,
                                  const shard_digest *expected);

#endif
