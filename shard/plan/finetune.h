/* finetune.h - the worksheet of a fine-tune: bytes per parameter, optimizer sharding, activations (formulas section 10).
 * Layer: shard/plan.  Pure. */
#ifndef SHARD_FINETUNE_H
#define SHARD_FINETUNE_H

#include "shard/plan/split.h"

typedef struct shard_optimizer {
    const char *name;                              /* as golden.json's optimizer_bytes_per_param */
    uint32_t    weight, grad, master, m, v;        /* bytes a parameter; 0: none */
    uint32_t    group;                             /* 8-bit states: 8 more bytes for so many parameters; 0: none */
} shard_optimizer;
#define SHARD_N_OPTIMIZERS 6u
extern const shard_optimizer shard_optimizers[SHARD_N_OPTIMIZERS];
uint32_t shard_optimizer_bytes(const shard_optimizer *o);      /* a parameter, without the group's extra */

typedef struct shard_finetune {
    uint32_t batch, sequence;          /* of one replica */
    uint32_t replicas;                 /* data-parallel: what ZeRO divides by */
    uint32_t zero;                     /* 0..3 */
    uint32_t tp;                       /* tensor-parallel ranks */
    uint32_t lora_rank;                /* 0: all parameters are trained */
    bool     checkpointing;            /* activations are computed again */
} shard_finetune;

typedef struct shard_finetune_bytes {  /* of one device; ceilings */
    uint64_t trainable, frozen;        /* parameters of the whole model */
    uint64_t weights, base, grads, master, moments;
    uint64_t activations, activations_checkpointed, activations_full;     /* the one that counts; both forms */
    uint64_t total;
} shard_finetune_bytes;

/* base_bytes: the frozen model in its storage format (LoRA).  Errors: PX_ERANGE (e->field: batch, sequence, replicas,
 * zero, tp, lora_rank, model). */
px_code shard_finetune_of(const shard_arch *m, const shard_optimizer *o, const shard_finetune *f, uint64_t base_bytes,
                          shard_finetune_bytes *out, px_err *e);

#endif
