/* kernels.h - the one table of ops; every backend is an instance of it.
 * Layer: kernels (sees proto).  Buffers are opaque handles in the backend's memory; work is put on one queue in order;
 * only upload, download and wait cross to the host.  On CPU the queue runs at once.
 * All that changes between steps (ids, positions, block tables, row -> slot, live rows) lies in buffers at fixed
 * addresses; host arguments are only what is fixed for a bucket of row counts.  Padded rows are legal in every op:
 * each op works on the first *live rows of at most `rows.max`.
 * Arithmetic: every op has exactly one definition, in kernels/README.md; the scalar twin is that text in C, and every
 * other path equals it bit for bit.  Threading: one thread per kern_dev. */
#ifndef KERN_KERNELS_H
#define KERN_KERNELS_H

#include "kernels/dtype.h"
#include "kernels/math.h"
#include "proto/base/alloc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KERN_ABI 4u

/* Where ops run.  Sizes of both are pure functions that are always built: a laptop plans GPUs. */
typedef enum kern_backend { KERN_ON_CPU, KERN_ON_CUDA, KERN_N_BACKENDS } kern_backend;

typedef struct kern_dev kern_dev;                       /* a backend's instance; opaque */
typedef struct kern_buf { void *h; size_t bytes; } kern_buf;   /* handle + extent; on CPU h is the address */
static inline kern_buf kern_buf_at(kern_buf b, size_t offset, size_t bytes)
{
    const kern_buf part = { (char *)b.h + offset, bytes };

    return part;
}

typedef struct kern_rows { uint32_t max; kern_buf live; } kern_rows;  /* live: one uint32 on the device, <= max */

/* Activation formats: what a matmul reads.  Chosen by the weights' type (findings: quality). */
typedef enum kern_act { KERN_ACT_F32, KERN_ACT_BF16, KERN_ACT_Q12, KERN_ACT_F16, KERN_N_ACTS } kern_act;
kern_act kern_act_of(kern_dtype w);                      /* F32 -> F32, BF16 -> BF16, F16, FP8 -> F16 (on CPU kept in fp32), Q*, W* -> Q12 */
/* Bytes of `rows` rows, one at a stride of the bytes of one; pure; a multiple of 64.  On CUDA a Q12 or F16 row is 16 fp32 of
 * which the first is the row's scale (a power of two), then fp16 padded to 32 columns: kernels/cuda/README.md. */
size_t   kern_act_bytes(kern_backend b, kern_act t, uint32_t rows, uint32_t cols);
/* Workspace of a backend for steps of at most `rows` rows: what matmul and attention need beside their operands.
 * max_cols, max_out: the widest input and the most output rows of any weight of this rank. */
typedef struct kern_shape { uint32_t rows, threads, n_head, n_kv_head, head_dim, max_cols, max_out, n_ctx; bool fp8_activations; } kern_shape;
size_t   kern_workspace_bytes(kern_backend b, const kern_shape *s);

typedef struct kern_weight { kern_dtype dtype; uint32_t rows, cols; kern_buf panels; } kern_weight;

/* KV blocks of this rank.  layer l, block b, head k at
 *   ((l * n_blocks + b) * n_kv_head + k) * 2 * block * kern_kv_vector_bytes()
 * first K: tiles of 16 keys, head_dim-major within a tile ([block/16][head_dim][16]); then V: [block][head_dim].
 * INT8: behind K's elements [block] fp32 scales, behind V's likewise: x = q * scale, scale = max |x| / 127 of the vector.
 * FP8: e4m3 without a scale; what is beyond +-448 saturates. */
typedef enum kern_kv_dtype { KERN_KV_F16, KERN_KV_F32, KERN_KV_BF16, KERN_KV_INT8, KERN_KV_FP8, KERN_N_KV } kern_kv_dtype;
size_t kern_kv_vector_bytes(kern_kv_dtype t, uint32_t head_dim);    /* of one K or V vector, scale included; 0: no such type */
typedef struct kern_kv {
    kern_buf pool;
    kern_kv_dtype dtype;
    uint32_t n_layer, n_blocks, block, n_kv_head, head_dim;
} kern_kv;
size_t kern_kv_block_bytes(kern_kv_dtype t, uint32_t n_layer, uint32_t block, uint32_t n_kv_head, uint32_t head_dim);

/* Row flags: one uint32 a row, bits are OR-ed by ops; cleared by upload at the step's start. */
enum { KERN_FLAG_NONFINITE = 1u, KERN_FLAG_KV_SATURATED = 2u };

/* ---- argument blocks; shapes beside each buffer; T = rows, all matrices row-major fp32 unless stated ---- */
typedef struct kern_embed_args {
    kern_rows rows; kern_weight table;       /* this rank's slice of the vocabulary: table.rows (padded) x d */
    uint32_t vocab_begin, vocab_end;          /* ids in [begin, end) are ours; others give +0 rows */
    kern_buf ids;                             /* (T) u32 */
    kern_buf out;                             /* (T, d) */
} kern_embed_args;

/* Where an op that leaves rows for a matmul also brings them into its format, as quant would: the same bits, and one op less on
 * the queue.  out.h = NULL: it does not.  If it does, the op's `out` is scratch, and what it holds afterwards is not said. */
typedef struct kern_act_rows { kern_act act; kern_buf out; kern_buf flags /* (T) u32 */; } kern_act_rows;

#define KERN_MAX_VIEWS 64
typedef struct kern_add_norm_args {
    kern_rows rows; uint32_t cols; float eps;
    uint32_t n_views; kern_buf view[KERN_MAX_VIEWS];  /* (T, cols) partial sums, added in tree order (proto/base/tree.h) */
    kern_buf residual;                        /* (T, cols): first ? = sum : += sum (residual + sum); n_views 0: unchanged */
    bool first;
    kern_buf weight;                          /* (cols) f32, or h = NULL: no norm, no out */
    kern_buf out;                             /* (T, cols) normed */
    kern_act_rows act;                        /* of the normed rows */
} kern_add_norm_args;

typedef struct kern_gather_args {             /* out[i] = in[index[i]] */
    kern_rows rows; uint32_t cols; kern_buf in; kern_buf index /* (rows) u32 */; kern_buf out;
} kern_gather_args;

typedef struct kern_quant_args {              /* fp32 rows -> activation format, zero-padded to 32 columns */
    kern_rows rows; uint32_t cols; kern_act act; kern_buf in /* (T, cols) */; kern_buf out; kern_buf flags /* (T) u32 */;
} kern_quant_args;

#define KERN_MAX_MATMULS 3
typedef struct kern_matmul_args {             /* up to three weights on the same activations (q,k,v; gate,up) */
    kern_rows rows; kern_act act; uint32_t cols; kern_buf in;   /* activations as quant left them */
    uint32_t n; kern_weight w[KERN_MAX_MATMULS];
    kern_buf out[KERN_MAX_MATMULS];           /* (T, out_stride) fp32; columns [0, w.rows) are written */
    uint32_t out_stride[KERN_MAX_MATMULS];    /* >= w.rows, elements */
    kern_buf workspace;
} kern_matmul_args;

typedef struct kern_rope_append_args {
    kern_rows rows; uint32_t n_head, n_kv_head, head_dim, layer;
    kern_buf q;                               /* (T, n_head, head_dim) in place: rotated, scaled by 1/sqrtf(head_dim) */
    kern_buf k, v;                            /* (T, n_kv_head, head_dim) */
    kern_buf cos, sin;                        /* (n_ctx, head_dim/2) */
    kern_buf pos;                             /* (T) u32 */
    kern_buf row_slot;                        /* (T) u32: row of block_table */
    kern_buf block_table; uint32_t table_stride;   /* (slots, stride) u32 block ids */
    kern_kv kv; kern_buf flags;
    kern_buf q_bias, k_bias, v_bias;          /* (n_head, head_dim), (n_kv_head, head_dim) f32, added first; h = NULL: none */
    kern_buf q_norm, k_norm; float eps;       /* (head_dim) f32: RMS norm of each head, then the rotation; h = NULL: none */
} kern_rope_append_args;

typedef struct kern_attention_args {          /* causal: row sees keys 0..pos of its slot, or of them the last `window` */
    kern_rows rows; uint32_t n_head, n_kv_head, head_dim, layer;
    uint32_t window;                          /* 0: none; it counts the row's own key */
    kern_buf q;                               /* (T, n_head, head_dim) rotated, scaled */
    kern_buf head_map;                        /* (n_head) u32: query head -> KV head of this rank */
    kern_buf pos, row_slot, block_table; uint32_t table_stride;
    kern_kv kv; kern_buf out;                 /* (T, n_head, head_dim) */
    kern_buf workspace;
} kern_attention_args;

typedef struct kern_swiglu_args {             /* out = (g / (1 + px_exp(-g))) * u */
    kern_rows rows; uint32_t cols; kern_buf gate, up, out; uint32_t stride;   /* all (T, stride) */
    kern_act_rows act;                        /* stride = cols */
} kern_swiglu_args;

/* Candidates of one slice of the vocabulary, for rows that are sampled or scored. */
#define KERN_MAX_CANDIDATES 256u
typedef struct kern_cand_param {              /* one a row, uploaded */
    uint64_t seed; uint32_t sequence, position; /* position of the new token */
    float    temperature;                     /* 0: greedy, no draw */
    uint32_t n_list;                          /* 0..KERN_MAX_CANDIDATES best of the slice wanted */
    uint32_t draw;                            /* 1: Gumbel draw over the whole slice wanted */
    uint32_t target;                          /* id whose logit is wanted; UINT32_MAX none */
} kern_cand_param;
typedef struct kern_cand_head {
    float    max, sum;                        /* raw: maximum, sum of px_exp(x - max) in 16 lanes; empty slice: -inf, 0 */
    float    tmax, tsum;                      /* the same of x / temperature (temperature > 0) */
    uint32_t best; float best_logit;          /* lowest id of the largest logit; UINT32_MAX if the slice is empty */
    uint32_t drawn; float drawn_value, drawn_logit;   /* largest x/T + gumbel, ties to the lowest id */
    float    target_logit; uint32_t has_target;
    uint32_t n_list;                          /* entries that follow: min(n_list wanted, slice) */
    uint32_t nonfinite;                       /* a logit of the slice is not finite */
    uint32_t pad[3];
} kern_cand_head;                             /* 64 bytes */
typedef struct kern_cand_entry { uint32_t id; float logit; } kern_cand_entry;   /* best first, ties to the lowest id */
typedef struct kern_candidates_args {
    kern_rows rows; kern_buf logits; uint32_t stride;   /* (S, stride) */
    uint32_t vocab_begin, n_valid;            /* ids [begin, begin + n_valid): padded rows are no candidates */
    kern_buf params;                          /* (S) kern_cand_param */
    kern_buf out; uint32_t out_stride;        /* bytes a row: sizeof(kern_cand_head) + room for the list */
    kern_buf workspace;                       /* not read on CPU */
} kern_candidates_args;

typedef struct kern_open_args {
    uint32_t threads;                         /* CPU: 1..1024; CUDA: that copy large uploads into pinned memory, 0: one */
    uint32_t device;                          /* CUDA: ordinal among the visible devices */
    bool     deterministic;                   /* CUDA: law 5 in full; on CPU it always holds */
    /* CUDA: products of more than 64 rows with FP8 weights take activations as e4m3, a scale a row.  PX_EUNSUP, field of this name: on
     * CPU, and below compute capability 8.9; PX_EINVAL: with deterministic. */
    bool     fp8_activations;
} kern_open_args;

/* What a device says of itself; empty strings and zeros on CPU, where the host is asked. */
typedef struct kern_info {
    char     name[64], driver[32], runtime[32];   /* "NVIDIA H200", "13.0", "13.0" */
    uint32_t arch;                            /* 90 for compute capability 9.0 */
    uint64_t free_bytes, total_bytes;         /* now, by the driver's word */
    uint64_t held_bytes;                      /* of it by this kern_dev's `alloc` */
    uint32_t products_fp8, products_f16;      /* fp8_activations, outside of records: so taken, and as without it: no algorithm */
} kern_info;

#define KERN_MAX_GRAPHS 64u
#define KERN_MAX_HEAD_DIM 256u                /* of rope_append and attention, in every backend */

typedef struct kern_ops {
    uint32_t size, abi;                       /* sizeof(kern_ops), KERN_ABI */
    kern_backend backend;
    bool        own_memory;                   /* buffers lie in memory of their own: host memory must be uploaded */
    const char *name;                         /* "cpu-scalar", "cpu-avx2", "cpu-avx512", "cuda", "cuda-host" (tests) */

    px_code (*open)(kern_dev **d, px_alloc *a, const kern_open_args *args, px_err *e);
    void    (*close)(kern_dev *d);
    px_code (*info)(kern_dev *d, kern_info *out, px_err *e);
    /* Memory that the backend can read.  wrap: memory that outlives the buffer and that the backend can reach as it is: on
     * CPU any host address, on CUDA a device's (PX_EINTERNAL for pageable host memory). */
    px_code (*alloc)(kern_dev *d, size_t bytes, kern_buf *out, px_err *e);     /* zeroed, populated, 64-byte aligned */
    void    (*free)(kern_dev *d, kern_buf *b);
    px_code (*wrap)(kern_dev *d, void *host, size_t bytes, kern_buf *out, px_err *e);
    /* In order with the queue; src may be used again on return.  On CUDA through the pinned ring: the copy to the device
     * goes on while the caller reads the next piece. */
    px_code (*upload)(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e);
    px_code (*download)(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e);   /* waits */
    px_code (*wait)(kern_dev *d, px_err *e);  /* for all that was put on the queue; PX_EDEVICE: what failed on the device */
    void   *(*native_queue)(kern_dev *d);     /* for comm; NULL on CPU */
    /* Graphs: what is put on the queue between record and end is kept and not run; replay puts it on the queue as it was
     * recorded, host arguments included.  Nothing but ops may stand between record and end.  Backends without memory of
     * their own keep nothing: ops run at once, and replay says false. */
    px_code (*record)(kern_dev *d, uint32_t id, px_err *e);       /* id < KERN_MAX_GRAPHS; a second time: replaced, by nothing: dropped */
    px_code (*end)(kern_dev *d, px_err *e);
    px_code (*replay)(kern_dev *d, uint32_t id, bool *replayed, px_err *e);   /* false: no such graph, run the ops */

    px_code (*embed)(kern_dev *d, const kern_embed_args *a, px_err *e);
    px_code (*add_norm)(kern_dev *d, const kern_add_norm_args *a, px_err *e);
    px_code (*gather)(kern_dev *d, const kern_gather_args *a, px_err *e);
    px_code (*quant)(kern_dev *d, const kern_quant_args *a, px_err *e);
    px_code (*matmul)(kern_dev *d, const kern_matmul_args *a, px_err *e);
    px_code (*rope_append)(kern_dev *d, const kern_rope_append_args *a, px_err *e);
    px_code (*attention)(kern_dev *d, const kern_attention_args *a, px_err *e);
    px_code (*swiglu)(kern_dev *d, const kern_swiglu_args *a, px_err *e);
    px_code (*candidates)(kern_dev *d, const kern_candidates_args *a, px_err *e);
} kern_ops;

/* ---- open: choose once ---- */
typedef enum kern_path { KERN_PATH_AUTO, KERN_PATH_SCALAR, KERN_PATH_AVX2, KERN_PATH_AVX512, KERN_N_PATHS } kern_path;
/* The table for a path; AUTO: the best that cpuid allows.  PX_EUNSUP (field "cpu") names the missing instruction set.
 * AVX2 needs avx2+fma+f16c; AVX512 needs avx512f/bw/vl/dq/vnni (+ AVX2's). */
px_code kern_cpu_ops(kern_path path, const kern_ops **ops, px_err *e);
bool    kern_cpu_has(kern_path path);

/* Arithmetic id of a weight type with a KV type, e.g. "q12-f16-tree-1": stands in manifest and hello. */
const char *kern_arith_id(kern_dtype w, kern_kv_dtype kv);

#ifdef __cplusplus
}
#endif

#endif
