/* shardfile.h - the layout of a rank's shard, shared by its writer and its readers.
 * Layer: shard/store, private to it.  The file: 8 bytes of header length, the JSON header padded with spaces so that data
 * begin on a 64-byte boundary of the file, then the tensors without holes: global ones first, then layer by layer. */
#ifndef SHARD_SHARDFILE_H
#define SHARD_SHARDFILE_H

#include "shard/store/manifest.h"

typedef struct shard_entry {                /* one tensor of a rank */
    shard_role   role;
    uint32_t     layer;
    kern_dtype   type;
    bool         vector;
    shard_extent x;                         /* where it lies in the whole tensor */
    uint64_t     offset, bytes;             /* in the data; multiples of 64 */
    shard_digest digest;
} shard_entry;

/* Everything that follows from architecture, types and split.  Put with px_del, n.  PX_EUNSUP, PX_ERANGE, PX_ENOMEM. */
px_code shard_entries_init(shard_entry **out, size_t *n, uint64_t *data_bytes, px_alloc *a, const shard_arch *m,
                           const shard_types *t, const shard_split *s, uint32_t rank, px_err *e);

/* The i-th pair of a shard's __metadata__ (without the tensors'); false at the end. */
bool shard_meta(const shard_manifest *m, uint32_t rank, size_t i, const char **key, char value[256]);

/* The header with its length, `*bytes` a multiple of 64; its size does not depend on what the digests are.
 * Put with px_del, *bytes. */
px_code shard_header_text(const shard_manifest *m, uint32_t rank, const shard_entry *entry, size_t n, px_alloc *a,
                          uint8_t **text, size_t *bytes, px_err *e);

/* The tensors of an open shard, in file order, with the digests that its header records. */
const shard_entry *shard_file_entries(const shard_file *f, size_t *n);
const shard_manifest *shard_file_manifest(const shard_file *f);
uint32_t           shard_file_rank(const shard_file *f);
px_alloc          *shard_file_alloc(const shard_file *f);

/* Bytes that a check of this depth reads; the same choice that shard_file_check makes. */
uint64_t shard_file_check_bytes(const shard_file *f, const shard_check_args *args);

#endif
