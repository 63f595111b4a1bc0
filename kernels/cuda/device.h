/* device.h - the CUDA device behind a kern_dev, and what the ops of this room share: argument checks and errors.
 * Layer: kernels/cuda, private to it (and its tests).  No CUDA type: C files and .cu files include it.
 * Threading: one thread per kern_dev, the one that opened it: CUDA's current device is the thread's.
 *
 * An op (kernels/cuda/OP.cu, `extern "C" px_code kern_cuda_OP(kern_dev *d, const kern_OP_args *a, px_err *e)`):
 *   1. checks what the host knows of its arguments with kern_cuda_need and kern_cuda_rows: PX_EINTERNAL, never a fault;
 *   2. launches on d->stream;
 *   3. ends in `return kern_cuda_done(d, "OP", status, e);`.
 * It neither allocates nor waits, so that it can be recorded; it has run once before it is recorded, because the first
 * launch of a kernel loads its code. */
#ifndef KERN_CUDA_DEVICE_H
#define KERN_CUDA_DEVICE_H

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KERN_CUDA_MIN_ARCH   80u             /* mma of bf16, cp.async */
#define KERN_CUDA_FP8_ARCH   89u             /* mma of e4m3 */
#define CU_MAX_COLS          (1u << 30)      /* no sum of columns and a block's threads overflows */
#define CU_MAX_GRID_YZ       65535u          /* blocks of a grid's second and third dimension */
#define KERN_CUDA_MAX_GRAPHS 256u            /* ids that can be recorded at the same time */
#define KERN_CUDA_PIECES     16u             /* of the ring: one is filled while others travel */
#define KERN_CUDA_PIECE_BYTES (KERN_CUDA_RING_BYTES / KERN_CUDA_PIECES)

typedef struct kern_cuda_ring {              /* ring.c */
    uint8_t *base;                           /* pinned: the pieces, then the landing place of downloads */
    void    *travelled[KERN_CUDA_PIECES];    /* cudaEvent_t: what was put on the queue from the piece is there */
    bool     under_way[KERN_CUDA_PIECES];    /* its event is recorded and not known to have happened */
    uint32_t piece; size_t used;             /* where the next byte goes */
} kern_cuda_ring;

typedef struct kern_cuda_graph { uint32_t id; void *exec; /* cudaGraphExec_t, NULL: a free place */ } kern_cuda_graph;

struct kern_dev {
    px_alloc *a;                             /* owns this object and what is allocated for it on the host */
    cu_stream stream;                        /* all work goes here, in order */
    uint32_t  device, arch, n_sm;            /* ordinal; 90 for compute capability 9.0; multiprocessors */
    size_t    max_shared;                    /* bytes of shared memory that a block can have when it asks (cu_allow_shared) */
    bool      deterministic;                 /* a row's bits may not depend on the other rows of the step */
    bool      fp8_activations; uint32_t products[2];    /* matmul: see kern_open_args; put on the queue, [true]: as FP8 */
    bool      recording; uint32_t record_id;
    uint32_t  threads;                       /* that copy large uploads into the ring; at least 1 */
    uint64_t  held_bytes;                    /* device memory of alloc */
    cu_status lost;                          /* an error after which CUDA answers nothing else; 0: none */
    char      lost_in[32];                   /* the op or call that met it */
    void     *blas;                          /* matmul's library; kern_cuda_blas_open */
    kern_cuda_ring ring;
    kern_cuda_graph graph[KERN_CUDA_MAX_GRAPHS];
};

/* ---- for ops ---- */

/* PX_OK for 0; else PX_EDEVICE (PX_ENOMEM when it was memory), field: `field` (the op), text: CUDA's name and words.  An
 * error that is for good is remembered, and every later call tells of it.  CUDA's own memory of the error is cleared. */
px_code kern_cuda_done(kern_dev *d, const char *field, cu_status s, px_err *e);
/* PX_EINTERNAL, field: the argument, when b is smaller than n * each bytes or not aligned to `align` (a power of two). */
px_code kern_cuda_need(kern_buf b, size_t n, size_t each, size_t align, const char *field, px_err *e);
px_code kern_cuda_rows(const kern_rows *r, const char *field, px_err *e);      /* rows.live is a u32 */
/* Rows in a format of matmul's.  out NULL: none.  Errors: fields "act", "act.out", "act.flags". */
typedef struct cu_act_to { uint8_t *out; size_t stride; uint32_t *flags; kern_act act; } cu_act_to;
px_code kern_cuda_act_to(const kern_act_rows *a, const kern_rows *r, uint32_t cols, cu_act_to *to, px_err *e);

/* ---- of the matmul's file: the library of large matrix products ---- */
px_code kern_cuda_blas_open(kern_dev *d, px_err *e);     /* fills d->blas */
void    kern_cuda_blas_close(kern_dev *d);               /* idempotent; accepts a device that was not opened whole */

/* ---- ring.c ---- */
px_code kern_cuda_ring_open(kern_dev *d, px_err *e);
void    kern_cuda_ring_close(kern_dev *d);
px_code kern_cuda_upload(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e);
px_code kern_cuda_download(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e);

/* ---- graph.c ---- */
void    kern_cuda_graphs_close(kern_dev *d);
px_code kern_cuda_record(kern_dev *d, uint32_t id, px_err *e);
px_code kern_cuda_end(kern_dev *d, px_err *e);
px_code kern_cuda_replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e);

/* ---- device.c ---- */
px_code kern_cuda_open(kern_dev **out, px_alloc *a, const kern_open_args *args, px_err *e);
void    kern_cuda_close(kern_dev *d);
px_code kern_cuda_info(kern_dev *d, kern_info *out, px_err *e);
px_code kern_cuda_alloc(kern_dev *d, size_t bytes, kern_buf *out, px_err *e);
void    kern_cuda_free(kern_dev *d, kern_buf *b);
px_code kern_cuda_wrap(kern_dev *d, void *host, size_t bytes, kern_buf *out, px_err *e);
px_code kern_cuda_wait(kern_dev *d, px_err *e);
void   *kern_cuda_native_queue(kern_dev *d);
/* PX_EINVAL, field: the call, between record and end; what is lost stays lost. */
px_code kern_cuda_idle(kern_dev *d, const char *call, px_err *e);

/* ---- ops ---- */
px_code kern_cuda_embed(kern_dev *d, const kern_embed_args *a, px_err *e);
px_code kern_cuda_add_norm(kern_dev *d, const kern_add_norm_args *a, px_err *e);
px_code kern_cuda_gather(kern_dev *d, const kern_gather_args *a, px_err *e);
px_code kern_cuda_quant(kern_dev *d, const kern_quant_args *a, px_err *e);
px_code kern_cuda_matmul(kern_dev *d, const kern_matmul_args *a, px_err *e);
px_code kern_cuda_rope_append(kern_dev *d, const kern_rope_append_args *a, px_err *e);
px_code kern_cuda_attention(kern_dev *d, const kern_attention_args *a, px_err *e);
px_code kern_cuda_swiglu(kern_dev *d, const kern_swiglu_args *a, px_err *e);
px_code kern_cuda_candidates(kern_dev *d, const kern_candidates_args *a, px_err *e);

#ifdef __cplusplus
}
#endif

#endif
