/* split.h - who owns which rows, columns, heads (memory/formulas C1-C9, DESIGN section 4).
 * Layer: shard/plan (sees shard/model, kernels, proto).  Immutable after init: share freely. */
#ifndef SHARD_SPLIT_H
#define SHARD_SPLIT_H

#include "shard/model/arch.h"

typedef struct shard_range { uint32_t begin, end; } shard_range;   /* [begin, end) */

/* Storage of one tensor class per layer: what a format or a file says.  dtype[role] for layer-independent roles. */
typedef struct shard_types {
    px_alloc  *a;
    uint32_t   n_layer;
    kern_dtype global[SHARD_N_ROLES];       /* TOKEN_EMBD, OUTPUT, OUTPUT_NORM */
    kern_dtype *layer;                      /* (n_layer x SHARD_N_ROLES) owned */
} shard_types;
px_code shard_types_init(shard_types *t, px_alloc *a, uint32_t n_layer, px_err *e);   /* everything F32 */
void    shard_types_deinit(shard_types *t);
static inline kern_dtype shard_type_of(const shard_types *t, shard_role r, uint32_t layer);
/* Named formats of golden.json: "f32" "bf16" "bf16_hf" "q4_0" "q4_k_m" "pure_q4_k" "w8a16_g128" ...; mixtures by the
 * rules of formulas section 3.  bf16_hf: vectors too.  PX_ENOTFOUND (field "format") lists the nearest. */
px_code shard_types_format(shard_types *t, px_alloc *a, const shard_arch *m, const char *format, px_err *e);

/* How attention and FFN are dealt.  Aligned: as eight leaves of whole heads and FFN units, so that 1, 2, 4 and 8 ranks hold whole
 * leaves (where heads and FFN units divide by 8).  It is planned; sets and the forward pass have only the other two. */
typedef enum shard_ffn_split { SHARD_SPLIT_EVEN, SHARD_SPLIT_BALANCED, SHARD_SPLIT_ALIGNED } shard_ffn_split;
#define SHARD_LEAVES 8u
const char *shard_ffn_split_name(shard_ffn_split s);      /* "even" "balanced" "aligned" */
typedef enum shard_vocab_split { SHARD_VOCAB_UNPADDED, SHARD_VOCAB_PADDED64 } shard_vocab_split;

typedef struct shard_cut {                  /* one rank; the same for every layer */
    shard_range q_head, kv_head;            /* heads stored here (KV heads may be replicated) */
    shard_range ffn;                        /* columns of ffn_down = rows of gate, up */
    shard_range vocab;                      /* rows of the table, padding included: may end beyond n_vocab */
} shard_cut;

typedef struct shard_split {
    px_alloc *a;
    uint32_t  world;
    shard_ffn_split   ffn;
    shard_vocab_split vocab;
    uint32_t  attn_unit_heads;              /* query heads a unit */
    bool      kv_replicated;
    uint32_t  ffn_unit;
    shard_cut *cut;                         /* (world) owned */
} shard_split;

/* Errors: PX_ERANGE (e->field "ranks"; text names the largest world that works, or the nearest), PX_EUNSUP (field "split": heads
 * or FFN units that do not make eight leaves), PX_ENOMEM. */
px_code shard_split_init(shard_split *s, px_alloc *a, const shard_arch *m, const shard_types *t, uint32_t world,
                         shard_ffn_split ffn, shard_vocab_split vocab, px_err *e);
void    shard_split_deinit(shard_split *s);
/* Query head (global index) -> KV head local to this rank's kv_head range. */
uint32_t shard_split_kv_of(const shard_arch *m, const shard_cut *c, uint32_t q_head);
/* Rows and columns of a tensor that a rank stores; row0/col0 where they begin in the whole tensor.  Vocabulary rows
 * beyond n_vocab are zero rows. */
typedef struct shard_extent { uint64_t row0, rows, col0, cols; } shard_extent;
void    shard_split_extent(const shard_split *s, const shard_arch *m, shard_role r, uint32_t rank, shard_extent *x);

static inline kern_dtype shard_type_of(const shard_types *t, shard_role r, uint32_t layer)
{
    return r <= SHARD_OUTPUT ? t->global[r] : t->layer[(size_t)layer * SHARD_N_ROLES + r];
}

#endif
