/* arch.h - the numbers of an architecture, and every tensor's role and shape.
 * Layer: shard/model (sees kernels, proto).  Plain values. */
#ifndef SHARD_ARCH_H
#define SHARD_ARCH_H

#include "kernels/dtype.h"
#include "kernels/math.h"
#include "proto/base/alloc.h"

#define SHARD_MAX_HEAD_DIM 512u
#define SHARD_MAX_LAYERS   65536u

typedef struct shard_arch {
    char     name[96];            /* what the checkpoint calls itself, "" if nothing */
    char     family[32];          /* "llama": a name of family.c */
    uint32_t n_layer, d_model, d_ff, n_head, n_kv_head, head_dim, n_vocab, n_ctx;
    float    rms_eps;
    bool     tied;                /* one table for embedding and output */
    bool     qkv_bias;            /* of q, k and v; none of the output */
    bool     qk_norm;             /* an RMS norm of every head of q and k, before the rotation */
    bool     sandwich_norms;      /* norms behind attention and FFN too (planned, not served) */
    uint32_t n_expert, n_expert_used;     /* 0: dense (experts are planned, not served) */
    uint32_t sliding_window;      /* keys that a token sees, its own among them; 0: all before it */
    uint32_t n_full_attention;    /* with a window: layers that see everything all the same (planned, not served); 0: every layer slides */
    kern_rope_kind rope_kind;
    double   rope_theta, rope_factor, rope_low_freq, rope_high_freq;
    uint32_t rope_ctx_orig;
    uint32_t n_rope_divisors;     /* 0, or head_dim/2: rope_freqs.weight */
    float    rope_divisor[SHARD_MAX_HEAD_DIM / 2];
    uint32_t bos, eos[8], n_eos;  /* ids; bos UINT32_MAX: none */
} shard_arch;

typedef enum shard_role {
    SHARD_TOKEN_EMBD, SHARD_OUTPUT_NORM, SHARD_OUTPUT,
    SHARD_ATTN_NORM, SHARD_ATTN_Q, SHARD_ATTN_K, SHARD_ATTN_V, SHARD_ATTN_OUT,
    SHARD_ATTN_Q_BIAS, SHARD_ATTN_K_BIAS, SHARD_ATTN_V_BIAS, SHARD_Q_NORM, SHARD_K_NORM,
    SHARD_FFN_NORM, SHARD_FFN_GATE, SHARD_FFN_UP, SHARD_FFN_DOWN, SHARD_ROUTER,
    SHARD_ATTN_POST_NORM, SHARD_FFN_POST_NORM,
    SHARD_N_ROLES
} shard_role;

typedef enum shard_cut_kind { SHARD_CUT_NONE, SHARD_CUT_Q_ROWS, SHARD_CUT_KV_ROWS, SHARD_CUT_FFN_ROWS, SHARD_CUT_VOCAB_ROWS,
                              SHARD_CUT_Q_COLS, SHARD_CUT_FFN_COLS } shard_cut_kind;

typedef struct shard_role_info {
    const char    *name;          /* of the tensor in a shard: "token_embd", "blk.%u.attn_q" ... (without ".weight") */
    bool           per_layer;
    bool           vector;        /* 1-D: always F32 in a set */
    shard_cut_kind cut;
} shard_role_info;

const shard_role_info *shard_role_get(shard_role r);
/* "blk.3.attn_q.weight", "token_embd.weight"; returns buf. */
const char *shard_tensor_name(shard_role r, uint32_t layer, char *buf, size_t cap);
bool shard_arch_has(const shard_arch *m, shard_role r);                      /* tied: no SHARD_OUTPUT; dense: no router */
void shard_arch_shape(const shard_arch *m, shard_role r, uint64_t *rows, uint64_t *cols);   /* whole tensor (of one expert), vectors 1 x n */
/* Every number in range and consistent (n_head % n_kv_head, head_dim even, products fit...); e->field names the number. */
px_code shard_arch_check(const shard_arch *m, px_err *e);
/* Copy n bytes as the model's name: cut at a character's end; nothing is copied of what is not UTF-8. */
void shard_arch_set_name(shard_arch *m, const char *name, size_t n);
/* What is served: a family that is (family.h), dense, and with what its family has; e->field is what differs. */
px_code shard_arch_check_served(const shard_arch *m, px_err *e);

#endif
