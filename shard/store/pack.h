/* pack.h - one tensor of a checkpoint as a rank stores it: type conversion, cut, q/k order, panels.
 * Layer: shard/store.  A shard_packer is used by one thread, has others of its own, and of each a chunk of panels and 16 rows. */
#ifndef SHARD_PACK_H
#define SHARD_PACK_H

#include "shard/store/sharder.h"

#define SHARD_LAYOUT "cpu-panel16-v1"

const char *shard_policy_name(shard_policy p);                       /* "as_file" "F32" "BF16" "FP8" "w8a16" "w4a16" "Q8_0" "Q4_0" "Q4_1" */
px_code     shard_policy_parse(const char *word, shard_policy *out, px_err *e);   /* field "format" */

#define SHARD_POLICIES "as_file, F32, BF16, FP8, w8a16, w4a16, Q8_0, Q4_0 or Q4_1"

/* What as_file makes of a readable type of `cols` columns: itself where the kernels multiply with it; else the type that has its levels
 * (kernels/reblock.h), or Q8_0, or BF16 where columns are no multiple of 32. */
kern_dtype  shard_type_kept(kern_dtype file, uint64_t cols);

/* The types of a set cut from a checkpoint of types `file`: vectors F32; as_file: shard_type_kept; a policy that quantises stores what
 * the planner's format of that name says (types.c), and F16 where columns are no multiple of 32.  Errors (field: the tensor):
 * PX_EUNSUP (a type that cannot be stored, or is quantised already), PX_ERANGE (as_file: W8 and W4 whose columns are no multiple of
 * 32), PX_ENOMEM. */
px_code shard_types_stored(shard_types *stored, px_alloc *a, const shard_arch *m, const shard_types *file,
                           shard_policy policy, px_err *e);
/* The same types, for a plan of a named format: as_file, if it changes none.  Errors: also PX_EUNSUP (field "format"). */
px_code shard_types_served(shard_types *stored, px_alloc *a, const shard_arch *m, const shard_types *named, px_err *e);

/* Where packed bytes go, in order: one call at a time, of any of the packer's threads. */
typedef px_code (*shard_sink)(void *ctx, const void *data, size_t n, px_err *e);

#define SHARD_PACK_THREADS 16u
typedef struct shard_pack_room {              /* of one thread; all owned */
    uint8_t  *panels;  size_t panels_bytes;   /* a chunk of packed panels */
    double   *sums;    size_t sums_n;         /* two a panel, added in order: the bits depend on no thread */
    uint8_t  *rows;    size_t rows_bytes;     /* 16 converted rows */
    float    *wide;    size_t wide_n;         /* one source row in fp32 */
    float    *back;    size_t back_n;         /* a row as its quants say */
    float    *step;    size_t step_n;         /* kern_row_step of each 32 columns */
    float     scale;                          /* of the whole matrix (FP8) */
} shard_pack_room;

typedef struct shard_packer {
    px_alloc *a;
    uint32_t  threads;                        /* that fill panels, 1 to SHARD_PACK_THREADS, the caller's among them */
    shard_pack_room room[SHARD_PACK_THREADS];
    double    error, size;                    /* sums of squares: of what rounding changed, of the values; the caller resets them */
} shard_packer;

void shard_packer_init(shard_packer *p, px_alloc *a, uint32_t threads /* 0: 1 */);
void shard_packer_deinit(shard_packer *p);    /* idempotent */

/* Matrix: the rows and columns of x in panels of `type`; rows beyond the source's are zero rows.
 * Vector: fp32, padded with zeros to 64 bytes.  head_dim is for undoing the interleaving of q and k rows.
 * Errors: PX_ECORRUPT (x is not inside the source), PX_ERANGE (a value that the type cannot hold), PX_ENOMEM, and what the sink says. */
px_code shard_packer_matrix(shard_packer *p, const shard_source *src, const shard_extent *x, kern_dtype type,
                            uint32_t head_dim, shard_sink sink, void *ctx, px_err *e);
px_code shard_packer_vector(shard_packer *p, const shard_source *src, const shard_extent *x, shard_sink sink, void *ctx,
                            px_err *e);

#endif
