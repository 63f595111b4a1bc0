/* bytes.h - THE sizing function: every arena of a rank.  `phalanx plan` prints it, cold start carves exactly it.
 * Layer: shard/plan.  Pure.  Formulas: memory/formulas sections 2-7; conventions C1-C9. */
#ifndef SHARD_BYTES_H
#define SHARD_BYTES_H

#include "kernels/kernels.h"
#include "shard/plan/split.h"

uint64_t shard_params(const shard_arch *m);                          /* UINT64_MAX: beyond 64 bits */
uint64_t shard_params_of(const shard_arch *m, shard_role r);         /* of a class of tensors, all layers and experts */
uint64_t shard_params_active(const shard_arch *m);                   /* that a token meets: the experts in use only */
px_code  shard_source_bytes(const shard_arch *m, const shard_types *t, uint64_t *bytes, px_err *e);   /* the whole model, unsplit */

/* Weights of a rank: golden.json's bytes (stored, formulas C1-C8) and arena, and what the panel layout maps. */
typedef struct shard_weight_bytes { uint64_t stored, arena, mapped; uint32_t tensors; } shard_weight_bytes;
px_code shard_weight_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank,
                              bool panels /* also fill mapped; refuses types without panels */,
                              shard_weight_bytes *out, px_err *e);

/* KV: bytes of a vector of head_dim in a cache dtype by name: f32 f16 bf16 fp8 int8_th q8_0 q4_0. */
px_code  shard_kv_vector_bytes(const char *dtype, uint32_t head_dim, uint64_t *bytes, px_err *e);
/* Layers that keep all positions, and layers that keep a window of them. */
void     shard_kv_layers(const shard_arch *m, uint32_t *full, uint32_t *sliding);
/* per token on one rank holding kv_heads, all layers */
px_code  shard_kv_token_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t *bytes, px_err *e);
/* Bytes on one rank of a sequence of n tokens, in pages; sliding layers hold less (formulas section 5). */
px_code  shard_kv_sequence_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t n_tokens,
                                 uint32_t page, uint32_t chunk, uint64_t *bytes, px_err *e);

/* What a deployment asks of a rank. */
typedef struct shard_demand {
    kern_backend  backend;                 /* 0: CPU */
    kern_kv_dtype kv_dtype;
    uint32_t kv_tokens, kv_block;          /* pool: ceil(tokens / block) blocks */
    uint32_t max_sequences;                /* slots, and rows that need logits in a step (S) */
    uint32_t token_budget;                 /* rows in a step (T) */
    uint32_t threads;
    bool     fp8_activations;              /* of CUDA: products of many rows with FP8 weights */
} shard_demand;

/* Whether a matmul has FP8 weights, without which fp8_activations means nothing: PX_EINVAL, field of this name. */
px_code shard_check_fp8_activations(const shard_arch *m, const shard_types *t, px_err *e);
/* What kern_workspace_bytes asks of a rank. */
kern_shape shard_shape_of(const shard_arch *m, const shard_cut *c, const shard_demand *d, uint32_t n_ctx);

/* Where a buffer lies in its arena.  Both numbers are multiples of 64. */
typedef struct shard_span { uint64_t at, bytes; } shard_span;

/* What changes from step to step, in one image that is uploaded as one piece.  T = token_budget, S = max_sequences. */
typedef struct shard_step_layout {
    shard_span n_rows, n_head_rows;        /* one u32 each: live rows, live rows of the LM head */
    shard_span id, pos, slot, flags;       /* (T) u32: token, position, row of the block table, row flags (uploaded as 0) */
    shard_span head_row, head_flags;       /* (S) u32: which rows need logits; their flags in the LM head */
    shard_span param;                      /* (S) kern_cand_param */
} shard_step_layout;

/* The device arena: every buffer that the forward pass uses, at a fixed place. */
typedef struct shard_layout {
    shard_span residual, normed;           /* (T, d_model) f32 */
    shard_span act;                        /* activations in a matmul's format: the widest of all matmuls */
    shard_span q, k, v, attn;              /* (T, heads of this rank, head_dim) f32 */
    shard_span gate, up;                   /* (T, FFN rows of this rank) f32 */
    shard_span head_in;                    /* (S, d_model) f32 */
    shard_span logits;                     /* (S, rows of the vocabulary slice) f32 */
    shard_span cand;                       /* (S, record) */
    shard_span workspace;                  /* the backend's */
    shard_span step;                       /* shard_step_layout lies in it */
    shard_span block_table;                /* (S, table_stride) u32 */
    shard_span head_map;                   /* (heads of this rank) u32 */
    uint32_t   table_stride;               /* blocks of the longest context */
    uint64_t   bytes;
    shard_step_layout image;               /* offsets inside `step` */
} shard_layout;

/* The host arena: the executor itself, what it composes, gathers and answers. */
typedef struct shard_host_layout {
    shard_span executor, layers;           /* objects of shard/run */
    shard_span step, block_table;          /* images of the device's */
    shard_span mine, all;                  /* all-gather of a step's answer: (gather_bytes), (world, gather_bytes) */
    shard_span all_row;                    /* all-gather of one row: (world, row_bytes) */
    shard_span order[2];                   /* (max(n_vocab, 256 world)) kern_cand_entry: lists merged, rows sorted */
    shard_span slots, shadow;              /* (S) what a sequence has on this rank; the copy that a step is checked on */
    shard_span entries, rows, tops;        /* results: (S), (S), (max_tops) */
    uint32_t   max_tops, row_bytes;        /* row_bytes: the longest slice of any rank */
    uint64_t   bytes;
} shard_host_layout;

/* Objects of shard/run, counted here because the plan comes first; shard/run asserts that they fit. */
#define SHARD_EXECUTOR_BYTES 8192u
#define SHARD_LAYER_BYTES    384u
#define SHARD_SLOT_BYTES     64u
#define SHARD_RESULT_BYTES   32u           /* an entry's or a row's result */
/* What a rank receives, unpacks and answers a step in: a frame, a step, and on rank 0 a result with its message, whose pages
 * are touched only when an answer is so long. */
#define SHARD_STEP_FRAME     (8u << 20)
#define SHARD_STEP_SCRATCH   (16u << 20)
#define SHARD_STEP_ANSWER    (40u << 20)
#define SHARD_MAX_RESULT_TOPS       (1u << 20)    /* [id, log-probability] pairs that the answer of one step can hold */

typedef struct shard_rank_bytes {
    kern_backend backend;
    shard_weight_bytes weights;
    uint32_t n_blocks;                      /* KV blocks */
    uint32_t n_ctx;                         /* longest context: the model's, or what the pool holds if that is less */
    uint64_t kv_block_bytes, kv_pool;
    uint64_t rope_tables;                   /* cos and sin */
    shard_layout activations;               /* .bytes */
    shard_host_layout host;                 /* .bytes: slots, block tables, sampling state, results */
    uint64_t step_buffers;                  /* SHARD_STEP_*: of the messages */
    uint64_t comm_shared, comm_private;     /* transport buffers: shared segment (once a host), own */
    size_t   partial_bytes, gather_bytes;   /* arguments for comm: the same on every rank */
    /* A device with memory of its own (0 on CPU): */
    uint64_t comm_device;                   /* partial sums and their sum, on the device */
    uint64_t comm_staging;                  /* on the host, where sums go over it; with NCCL it is not taken */
    uint64_t pinned;                        /* on the host: through it go uploads and downloads */
    uint64_t device_total;                  /* weights as one arena, KV pool, rope tables, activations, comm_device */
    uint64_t total;                         /* all that this rank owns on the host, the shared segment counted on rank 0; with
                                             * a device its weights are there, and on the host only pages that can be dropped */
} shard_rank_bytes;

/* Rows of the vocabulary slice that are tokens, and not padding. */
uint32_t shard_vocab_valid(const shard_arch *m, const shard_cut *c);

/* transport: 0 local, 1 shm, 2 mpi as in comm/comm.h.  Errors: PX_ERANGE (e->field: kv.tokens, kv.block, max_sequences,
 * token_budget, threads, model), PX_EUNSUP (a type without panels). */
px_code shard_rank_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank,
                            const shard_demand *d, int transport, shard_rank_bytes *out, px_err *e);

#endif
