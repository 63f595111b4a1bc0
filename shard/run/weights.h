/* weights.h - this rank's weights: views of the mapped shard, in the shapes that the ops want.
 * Layer: shard/run.  Owns nothing: the arrays lie in the executor's arena, the numbers in the shard's mapping. */
#ifndef SHARD_WEIGHTS_H
#define SHARD_WEIGHTS_H

#include "kernels/kernels.h"
#include "shard/plan/bytes.h"
#include "shard/store/set.h"

typedef struct shard_layer {
    kern_buf    attn_norm, ffn_norm;       /* (d_model) f32 */
    kern_weight q, k, v;                   /* rows cut by heads */
    kern_buf    q_bias, k_bias, v_bias;    /* one a row, f32; h = NULL: the family has none */
    kern_buf    q_norm, k_norm;            /* (head_dim) f32; h = NULL: none */
    kern_weight out;                       /* columns cut by heads: leaves a partial sum */
    kern_weight gate, up;                  /* rows cut */
    kern_weight down;                      /* columns cut: leaves a partial sum */
} shard_layer;
_Static_assert(sizeof(shard_layer) <= SHARD_LAYER_BYTES, "the plan counts SHARD_LAYER_BYTES a layer");

typedef struct shard_weights {
    kern_weight  embd, head;               /* this rank's slice of the vocabulary; tied: the same */
    kern_buf     out_norm;                 /* (d_model) f32 */
    kern_buf     arena;                    /* memory of the device's own: the shard's data, as it lies in the file */
    shard_layer *layer;                    /* (n_layer) */
    uint32_t     n_layer;
    uint64_t     bytes;                    /* of all views, a tied head once */
} shard_weights;

/* Called as bytes are uploaded; may be NULL. */
typedef struct shard_progress { void (*fn)(void *ctx, uint64_t done, uint64_t total); void *ctx; } shard_progress;

/* Views of every tensor of `rank`; layer: (n_layer) places, borrowed.  Where the device has memory of its own the data is
 * uploaded first, in one piece of `bytes` (the plan's weights.mapped).  Errors: PX_ENOTFOUND, PX_ECORRUPT (a shape that
 * is not the split's; e->field is the tensor), PX_EUNSUP (a type that the backend cannot multiply with), PX_ENOMEM. */
px_code shard_weights_map(shard_weights *w, const kern_ops *ops, kern_dev *dev, const shard_manifest *m,
                          const shard_file *file, uint32_t rank, uint64_t bytes, const shard_progress *progress,
                          shard_layer *layer, px_err *e);
void    shard_weights_unmap(shard_weights *w, const kern_ops *ops, kern_dev *dev);

#endif
