/* bytes.h - THE sizing function: every arena of a rank.  `phalanx plan` prints it, cold start carves exactly it.
 * Layer: shard/plan.  Pure.  Formulas: memory/formulas sections 2-7; conventions C1-C9. */
#ifndef SHARD_BYTES_H
#define SHARD_BYTES_H

#include "kernels/kernels.h"
#include "shard/plan/split.h"

uint64_t shard_params(const shard_arch *m);
px_code  shard_source_bytes(const shard_arch *m, const shard_types *t, uint64_t *bytes, px_err *e);   /* the whole model, unsplit */

/* Weights of a rank: golden.json's bytes (stored, formulas C1-C8) and arena, and what the panel layout maps. */
typedef struct shard_weight_bytes { uint64_t stored, arena, mapped; uint32_t tensors; } shard_weight_bytes;
px_code shard_weight_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank,
                              bool panels /* also fill mapped; refuses types without panels */,
                              shard_weight_bytes *out, px_err *e);

/* KV: bytes of a vector of head_dim in a cache dtype by name: f32 f16 bf16 fp8 int8_th q8_0 q4_0. */
px_code  shard_kv_vector_bytes(const char *dtype, uint32_t head_dim, uint64_t *bytes, px_err *e);
/* per token on one rank holding kv_heads, all layers */
px_code  shard_kv_token_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t *bytes, px_err *e);
/* Bytes on one rank of a sequence of n tokens, in pages; sliding layers hold less (formulas section 5). */
px_code  shard_kv_sequence_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t n_tokens,
                                 uint32_t page, uint32_t chunk, uint64_t *bytes, px_err *e);

/* What a deployment asks of a rank on CPU. */
typedef struct shard_demand {
    kern_kv_dtype kv_dtype;
    uint32_t kv_tokens, kv_block;          /* pool: ceil(tokens / block) blocks */
    uint32_t max_sequences;                /* slots, and rows that need logits in a step (S) */
    uint32_t token_budget;                 /* rows in a step (T) */
    uint32_t threads;
} shard_demand;

/* Offsets inside one activation arena: every buffer the forward pass uses, at a fixed place. 64-byte multiples. */
typedef struct shard_layout {
    uint64_t residual, normed, act, qkv_q, qkv_k, qkv_v, attn, gate, up, ffn_act, head_in, logits, cand, flags, step, workspace;
    uint64_t residual_bytes, normed_bytes, act_bytes, q_bytes, k_bytes, v_bytes, attn_bytes, gate_bytes, up_bytes,
             ffn_act_bytes, head_in_bytes, logits_bytes, cand_bytes, flags_bytes, step_bytes, workspace_bytes;
    uint64_t bytes;                         /* the arena */
} shard_layout;

typedef struct shard_rank_bytes {
    shard_weight_bytes weights;
    uint32_t n_blocks;                      /* KV blocks */
    uint64_t kv_block_bytes, kv_pool;
    uint64_t rope_tables;                   /* cos and sin */
    uint64_t tables;                        /* block tables, head map, slots, sampling state, results */
    shard_layout activations;               /* .bytes */
    uint64_t comm_shared, comm_private;     /* transport buffers: shared segment (once a host), own */
    size_t   partial_bytes, gather_bytes;   /* arguments for comm */
    uint64_t total;                         /* all of the above that this rank owns, the shared segment counted on rank 0 */
} shard_rank_bytes;

/* comm_kind: 0 local, 1 shm, 2 mpi as in comm/comm.h. */
px_code shard_rank_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank,
                            const shard_demand *d, int comm_kind, shard_rank_bytes *out, px_err *e);

#endif
