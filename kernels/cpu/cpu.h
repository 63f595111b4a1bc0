/* cpu.h - what the files of the CPU backend share: the device, the split over threads, every op of every path.
 * Layer: kernels, private to kernels/cpu and kernels/open.c (and the tests of this room).
 *
 * Paths: each op has a scalar twin (kern_cpu_OP_scalar, the definition in C) and may have an AVX2 and an AVX-512
 * version, each in its own file OP_avx2.c / OP_avx512.c, which alone is compiled with the instruction set's flags:
 * no inline function of such a file may leak into others.  A path that has nothing better to offer names the scalar
 * function in open.c's table.  All versions of an op write the same bits.
 *
 * Threads: an op splits its work with kern_cpu_split over rows, heads or output panels, never over the terms of one
 * sum.  With one thread nothing of OpenMP is entered.  Small work (less than some microseconds) is not worth a fork:
 * ask for fewer parts. */
#ifndef KERN_CPU_H
#define KERN_CPU_H

#include "kernels/kernels.h"

struct kern_dev {
    px_alloc *a;               /* owns this object and the buffers of `alloc` */
    uint32_t  threads;         /* >= 1 */
    bool      recording;       /* between record and end */
};

/* Run body(ctx, part, n_parts) for part = 0 .. n_parts-1, each once, on at most d->threads threads; n_parts is
 * min(d->threads, max_parts) and at least 1.  Body's share of n items: kern_cpu_share. */
typedef void kern_cpu_body(const void *ctx, uint32_t part, uint32_t n_parts);
void kern_cpu_split(kern_dev *d, uint32_t max_parts, kern_cpu_body *body, const void *ctx);

/* Items [*lo, *hi) of n for a part: contiguous, as even as possible. */
static inline void kern_cpu_share(uint32_t n, uint32_t part, uint32_t n_parts, uint32_t *lo, uint32_t *hi)
{
    *lo = (uint32_t)((uint64_t)n * part / n_parts);
    *hi = (uint32_t)((uint64_t)n * (part + 1) / n_parts);
}

/* Live rows of an op: min(*live, max). */
static inline uint32_t kern_cpu_rows(const kern_rows *r)
{
    uint32_t live = *(const uint32_t *)r->live.h;
    return live < r->max ? live : r->max;
}

/* PX_EINTERNAL naming op and buffer when b is smaller than n * each bytes (a bug of the caller, found before it
 * becomes a stray write). */
px_code kern_cpu_need(kern_buf b, size_t n, size_t each, const char *field, px_err *e);

/* ---- device (backend.c) ---- */
px_code kern_cpu_open(kern_dev **out, px_alloc *a, const kern_open_args *args, px_err *e);
px_code kern_cpu_info(kern_dev *d, kern_info *out, px_err *e);
void    kern_cpu_close(kern_dev *d);
px_code kern_cpu_alloc(kern_dev *d, size_t bytes, kern_buf *out, px_err *e);
void    kern_cpu_free(kern_dev *d, kern_buf *b);
px_code kern_cpu_wrap(kern_dev *d, void *host, size_t bytes, kern_buf *out, px_err *e);
px_code kern_cpu_upload(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e);
px_code kern_cpu_download(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e);
px_code kern_cpu_wait(kern_dev *d, px_err *e);
void   *kern_cpu_native_queue(kern_dev *d);
px_code kern_cpu_record(kern_dev *d, uint32_t id, px_err *e);
px_code kern_cpu_end(kern_dev *d, px_err *e);
px_code kern_cpu_replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e);

/* ---- activations in 12 bits (quant*.c writes, matmul*.c reads), opaque to everyone else ----
 * A row of K columns has n = ceil(K / 32) blocks: n x 64 bytes (32 of q1, then 32 of q2, columns ascending, so that
 * 4 bytes are a quad that VNNI broadcasts), then n kern_q12; a row's bytes are padded to 64. */
typedef struct kern_q12 {
    float   scale, sum_f;      /* s; (float)sumX, exact */
    int32_t neg8_first, neg8;  /* -8 sumX of columns 0..15 and of all, from which sums over unsigned weights start */
} kern_q12;
/* sumX of columns 0..15 (last false) or 16..31 as a float: exact, and so is the eighth. */
static inline float kern_q12_half_sum(const kern_q12 *x, bool last) { return (float)(last ? x->neg8 - x->neg8_first : x->neg8_first) * -0.125f; }
static inline uint32_t kern_cpu_blocks(uint32_t cols) { return cols / 32 + (cols % 32 != 0); }
static inline size_t kern_q12_stride(uint32_t cols) { return ((size_t)kern_cpu_blocks(cols) * 80 + 63) / 64 * 64; }
/* BF16 and F32 activations: rows of fp32, padded with zeros to 32 columns; BF16's are rounded to bf16 values. */
static inline size_t kern_flat_stride(uint32_t cols) { return (size_t)kern_cpu_blocks(cols) * 128; }

/* ---- ops, by path ---- */
#define KERN_CPU_OP(op, path) px_code kern_cpu_##op##_##path(kern_dev *d, const kern_##op##_args *a, px_err *e)

px_code kern_cpu_embed(kern_dev *d, const kern_embed_args *a, px_err *e);     /* copies: one version serves all paths */
px_code kern_cpu_gather(kern_dev *d, const kern_gather_args *a, px_err *e);
KERN_CPU_OP(quant, scalar);       KERN_CPU_OP(quant, avx2);       KERN_CPU_OP(quant, avx512);
KERN_CPU_OP(matmul, scalar);      KERN_CPU_OP(matmul, avx2);      KERN_CPU_OP(matmul, avx512);
KERN_CPU_OP(add_norm, scalar);    KERN_CPU_OP(add_norm, avx2);    KERN_CPU_OP(add_norm, avx512);
KERN_CPU_OP(rope_append, scalar); KERN_CPU_OP(rope_append, avx2); KERN_CPU_OP(rope_append, avx512);
KERN_CPU_OP(attention, scalar);   KERN_CPU_OP(attention, avx2);   KERN_CPU_OP(attention, avx512);
KERN_CPU_OP(swiglu, scalar);      KERN_CPU_OP(swiglu, avx2);      KERN_CPU_OP(swiglu, avx512);
KERN_CPU_OP(candidates, scalar);  KERN_CPU_OP(candidates, avx2);  KERN_CPU_OP(candidates, avx512);

/* Pure; the workspace of each beside its op, summed up by kern_cpu_workspace_bytes (workspace.c). */
size_t kern_cpu_act_stride(kern_act t, uint32_t cols);
size_t kern_cpu_workspace_bytes(const kern_shape *s);
size_t kern_cpu_attention_workspace_bytes(const kern_shape *s);

#endif
