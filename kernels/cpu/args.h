/* args.h - what the ops over rows, heads and vocabulary check and compute from their arguments before they start.
 * Layer: kernels/cpu.  Checks are against bugs of the caller, so they say PX_EINTERNAL and the argument's name; what
 * they bound is every address that an op forms from the contents of a buffer. */
#ifndef KERN_CPU_ARGS_H
#define KERN_CPU_ARGS_H

#include "kernels/cpu/cpu.h"

#define KERN_SPAN 128u                       /* keys of an attention span (kernels/README.md) */
#define KERN_TILE 16u                        /* keys of a K tile */
#define KERN_F16_OVERFLOW 65520.0f           /* from here on fp16 rounds to infinity */

/* Each gives the live rows.  Errors: PX_EINTERNAL, field: the argument. */
px_code kern_args_rope_append(const kern_rope_append_args *a, uint32_t *live, px_err *e);
px_code kern_args_attention(const kern_attention_args *a, uint32_t threads, uint32_t *live, px_err *e);
px_code kern_args_add_norm(const kern_add_norm_args *a, uint32_t *live, px_err *e);
px_code kern_args_swiglu(const kern_swiglu_args *a, uint32_t *live, px_err *e);
px_code kern_args_candidates(const kern_candidates_args *a, uint32_t *live, px_err *e);

/* What add_norm and swiglu do at their end with the rows that they left in `in`: nothing, or the path's quant. */
static inline px_code kern_args_act(kern_dev *d, const kern_act_rows *a, const kern_rows *rows, uint32_t cols, kern_buf in,
                                    px_code (*quant)(kern_dev *, const kern_quant_args *, px_err *), px_err *e)
{
    if (!a->out.h) return PX_OK;
    return quant(d, &(kern_quant_args){ .rows = *rows, .cols = cols, .act = a->act, .in = in, .out = a->out, .flags = a->flags }, e);
}

/* The first key that a row at `pos` sees. */
static inline uint32_t kern_first_key(uint32_t pos, uint32_t window) { return window && pos >= window ? pos - window + 1 : 0; }

/* Bytes of workspace that a thread of attention needs: a span of K and of V in fp32. */
static inline size_t kern_attention_scratch(uint32_t head_dim)
{
    return (size_t)2 * KERN_SPAN * head_dim * sizeof(float);
}

/* Elements before block b, KV head h of layer l: its K; its V lies block * head_dim elements further. */
static inline size_t kern_kv_at(const kern_kv *kv, uint32_t layer, uint32_t block, uint32_t head)
{
    return (((size_t)layer * kv->n_blocks + block) * kv->n_kv_head + head) * 2 * kv->block * kv->head_dim;
}

static inline const uint32_t *kern_u32(kern_buf b) { return b.h; }
static inline float *kern_f32(kern_buf b) { return b.h; }

#endif
