/* forward.h - the forward pass of one rank: rows of tokens in, candidates of its slice of the vocabulary out.
 * Layer: shard/run (where kernels and comm meet).  Fixed after open; every buffer has one address for its life. */
#ifndef SHARD_FORWARD_H
#define SHARD_FORWARD_H

#include "comm/comm.h"
#include "shard/run/weights.h"

typedef struct shard_forward {
    const kern_ops   *ops;                  /* all borrowed from the executor */
    kern_dev         *dev;
    comm             *comm;
    const shard_arch *arch;
    const shard_cut  *cut;                  /* what this rank owns */
    const shard_weights *w;
    kern_kv           kv;

    /* the step, uploaded: T = token budget, S = rows of the LM head */
    kern_buf n_rows, n_head_rows;           /* one u32 each */
    kern_buf id, pos, slot, flags;          /* (T) u32 */
    kern_buf head_row, head_flags;          /* (S) u32 */
    kern_buf param;                         /* (S) kern_cand_param */
    kern_buf block_table;                   /* (slots, table_stride) u32 */
    kern_buf head_map;                      /* (heads) u32 */
    kern_buf cos, sin;                      /* (n_ctx, head_dim / 2) f32 */
    uint32_t table_stride, max_rows, max_head_rows;

    /* what the layers leave to each other */
    kern_buf residual, normed;              /* (T, d_model) f32; normed: where no matmul reads the rows, or several formats are read */
    kern_buf act, q, k, v, attn, gate, up;
    kern_buf head_in, logits, cand, workspace;

    /* partial sums: two buffers take turns, and each has its views */
    kern_buf partial[2];
    const float *seen[2][KERN_MAX_VIEWS];   /* the address behind a view: one that moves is wrapped again */
    kern_buf view[2][KERN_MAX_VIEWS];
    unsigned turn;
} shard_forward;

/* What changes from step to step but is no buffer. */
typedef struct shard_forward_shape {
    uint32_t rows, head_rows;               /* live rows, as the uploaded n_rows and n_head_rows say */
    uint32_t record_bytes;                  /* a row of `cand`: head and list */
} shard_forward_shape;

/* Collective.  Leaves flags, logits (head_rows) and cand (head_rows records). */
px_code shard_forward_all(shard_forward *f, const shard_forward_shape *s, px_err *e);
/* Its two halves: embed to the last norm for n rows (collective), and logits and candidates (local). */
px_code shard_forward_body_all(shard_forward *f, uint32_t n, px_err *e);
px_code shard_forward_head(shard_forward *f, const shard_forward_shape *s, px_err *e);

/* The host says how many rows there can be in powers of two: the smallest that holds n, at most `most`. */
uint32_t shard_forward_bucket(uint32_t n, uint32_t most);

/* Its parts, each local to this rank: a layer's halves leave their partial sum in the buffer of this turn. */
kern_rows shard_forward_rows(const shard_forward *f, uint32_t n);
px_code   shard_forward_multiply(shard_forward *f, kern_rows rows, kern_buf in, uint32_t cols, uint32_t n, const kern_weight *w,
                                 const kern_buf *out, const uint32_t *stride, kern_buf flags, px_err *e);
px_code   shard_forward_embed(shard_forward *f, uint32_t n, px_err *e);
/* in: the normed rows in fp32; in.h = NULL: the norm left them in f->act, as the weights want them. */
px_code   shard_forward_attend(shard_forward *f, uint32_t layer, uint32_t n, kern_buf in, px_err *e);
px_code   shard_forward_feed(shard_forward *f, uint32_t layer, uint32_t n, kern_buf in, px_err *e);
/* What that norm is told; out.h = NULL: the weights read rows in different formats. */
kern_act_rows shard_forward_attend_wants(const shard_forward *f, uint32_t layer);

#endif
