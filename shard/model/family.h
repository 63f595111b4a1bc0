/* family.h - the table of architectures: what a checkpoint's word for its architecture means.
 * Layer: shard/model (sees kernels, proto).  Constant.  README.md of this folder adds one, step by step.
 *
 * A row says what neither config.json nor GGUF metadata says: which tensors there are beside those of Llama, what a key that is
 * not there means (the defaults of transformers' configuration classes), and whether the forward pass knows all of it. */
#ifndef SHARD_FAMILY_H
#define SHARD_FAMILY_H

#include "shard/model/arch.h"

typedef struct shard_family_sizes { uint32_t n_layer, d_model, d_ff, n_head, n_vocab; } shard_family_sizes;

typedef struct shard_family {
    const char *name;             /* of shard_arch.family, and of a set's manifest */
    const char *model_type, *architecture;      /* of a config.json; a family may have more than one row */
    const char *gguf;             /* general.architecture; NULL: such files go by the name of another */
    bool     served;              /* else the planner alone knows it */
    bool     gguf_pairs;          /* a GGUF's rows of q and k: the two that rotate together lie side by side */
    bool     qkv_bias, qk_norm, sandwich_norms, experts;
    bool     slides;              /* layers may keep a window; else one is refused */
    bool     asks_to_slide;       /* a window counts only with use_sliding_window: true */
    bool     tied;                /* from here on: what a config.json means that is silent */
    uint32_t n_kv_head;           /* 0: as many as query heads */
    uint32_t head_dim;            /* 0: d_model / n_head */
    uint32_t n_ctx;
    double   rope_theta;
    uint32_t window;
    uint32_t full_every;          /* of so many layers the last sees everything; 0: all slide, where any does */
    const shard_family_sizes *sizes;            /* of a config that leaves them out, else NULL */
} shard_family;

extern const shard_family shard_families[];
extern const size_t shard_n_families;

typedef enum shard_family_word { SHARD_FAMILY_NAME, SHARD_FAMILY_MODEL_TYPE, SHARD_FAMILY_ARCHITECTURE, SHARD_FAMILY_GGUF } shard_family_word;

/* The row of which `word` is `s`, or NULL; served: of those alone. */
const shard_family *shard_family_find(shard_family_word word, const char *s, bool served);
/* "llama, mistral or qwen2": what there is to find; returns buf. */
const char *shard_family_list(shard_family_word word, bool served, char *buf, size_t cap);

#endif
