/* attention.h - the launchers of attention and what they are given; how a step's work is split, as pure functions that the
 * planner shares.  Plain C.  Layer: kernels/cuda.
 *
 * One arithmetic, whichever kernel a query goes to.  Keys lie in leaves of 64 absolute positions (the plain kernel: 128).
 * A part is a whole number of leaves, taken in ascending order: m = largest score so far, o and l are multiplied by
 * 2^(old m - m) and a leaf's p = 2^(score - m) are added.  Parts are merged in ascending order: M' = max(M, m),
 * a = 2^(M - M'), b = 2^(m - M'), l = fmaf(l_part, b, l * a), o = fmaf(o_part, b, o * a); at the end o / l.
 * `deterministic`: a part is CU_PART positions, always; so a query's bits depend on nothing but its keys.  Otherwise a part
 * is what fills the GPU.  With a window a row's parts are counted from the one (otherwise the leaf) that its first key lies in;
 * leaves before it are skipped, and in a leaf that others see a key that the row does not see adds nothing.
 *
 * Two kernels share a step's rows.  A tile of `run_tile` consecutive rows belongs to one block of `prefill` for each KV
 * head, which takes the runs in it: at least CU_MIN_RUN rows of one slot at consecutive positions.  All other rows go to
 * `decode`, with blocks for each row, KV head and split of its keys.  Both find runs by the same text (attention.cuh).
 * Under `deterministic` prefill keeps its parts' sums in shared memory.  Compute capability 8.6 and 8.9 have no room for those of head_dim
 * 128: there `decode` takes all rows, to the same bits and more slowly. */
#ifndef KERN_CUDA_ATTENTION_H
#define KERN_CUDA_ATTENTION_H

#include "kernels/cuda/kv.h"

#define CU_LEAF     64u                      /* keys of a leaf */
#define CU_PART     512u                     /* keys of a part under `deterministic` */
#define CU_MIN_PART 128u                     /* otherwise: the fewest keys that a split is made for */
#define CU_MIN_RUN  8u
#define CU_SPLITS   128u                     /* of a row's keys, at most */
#define CU_BLOCKS   1024u                    /* what a decode launch should come to: a few for each multiprocessor */
#define CU_LEAST_SHARED   (99u << 10)        /* bytes of shared memory that a block can have: of compute capability 8.6 and 8.9 */
#define CU_PREFILL_SHARED (163u << 10)       /* of 8.0: what prefill keeps parts in with head_dim 128 */
#define CU_FEW_ROWS 32u                      /* launches of so few rows are all decode */

typedef struct cu_attention {
    cu_kv kv;
    const uint32_t *live, *pos, *row_slot, *head_map;
    const float *q;
    float *out;
    uint32_t rows, n_head;
    uint32_t window;                         /* a row sees its own key and the window - 1 before it; 0: all before it */
    uint32_t run_tile;                       /* rows; 0: no run is looked for, every row is decoded */
    uint32_t splits;                         /* decode's blocks for a row's keys */
    uint32_t part;                           /* keys of a part; 0: one part a split */
    uint32_t n_parts;                        /* room for parts of a row and head; 0: splits is 1 and nothing is left to merge */
    float *part_o;                           /* (rows, n_head, n_parts, head_dim) */
    float *part_ml;                          /* (rows, n_head, n_parts, 2): m (in powers of two), l */
} cu_attention;

CU_API cu_status cu_attention_plain(const cu_attention *a, cu_stream s);     /* every type and head_dim */
CU_API cu_status cu_attention_decode(const cu_attention *a, cu_stream s);    /* cu_attention_fast */
CU_API cu_status cu_attention_prefill(const cu_attention *a, cu_stream s);   /* cu_attention_fast */
CU_API cu_status cu_attention_decode_window(const cu_attention *a, cu_stream s);    /* what the two call for rows with a window */
CU_API cu_status cu_attention_prefill_window(const cu_attention *a, cu_stream s);
CU_API cu_status cu_attention_merge(const cu_attention *a, cu_stream s);     /* n_parts > 0: what decode or plain left */

static inline int cu_attention_fast(uint32_t dtype, uint32_t head_dim)
{
    return dtype != CU_KV_F32 && (head_dim == 64 || head_dim == 128);
}

/* The most keys of a row that its parts cover: a part may begin before the window. */
static inline uint32_t cu_attention_span(uint32_t n_ctx, uint32_t window)
{
    return window && window < n_ctx && n_ctx - window > CU_PART ? window + CU_PART : n_ctx;
}

/* How the keys of `rows` rows are split, at most n_ctx of each. */
typedef struct cu_attention_split { uint32_t splits, part, n_parts; } cu_attention_split;

static inline cu_attention_split cu_attention_split_of(uint32_t rows, uint32_t n_kv_head, uint32_t n_ctx, int deterministic)
{
    const uint64_t pairs = (uint64_t)(rows ? rows : 1) * (n_kv_head ? n_kv_head : 1);
    const uint32_t unit = deterministic ? CU_PART : CU_MIN_PART;
    const uint32_t most = (uint32_t)(((uint64_t)n_ctx + unit - 1) / unit);
    cu_attention_split s;

    s.part = deterministic ? CU_PART : 0;
    s.splits = pairs >= CU_BLOCKS / (deterministic ? 4 : 2) ? 1 : (uint32_t)((CU_BLOCKS + pairs - 1) / pairs);
    if (s.splits > CU_SPLITS) s.splits = CU_SPLITS;
    if (s.splits > most) s.splits = most ? most : 1;
    s.n_parts = s.splits == 1 ? 0 : deterministic ? most : s.splits;
    return s;
}

/* Bytes of workspace for n_parts parts a row and head: their o, then from *ml on their m and l. */
static inline size_t cu_attention_parts_bytes(uint32_t rows, uint32_t n_head, uint32_t head_dim, uint32_t n_parts, size_t *ml)
{
    const size_t parts = (size_t)rows * n_head * n_parts;

    *ml = (parts * head_dim * sizeof(float) + 63) / 64 * 64;
    return *ml + parts * 2 * sizeof(float);
}

/* Rows of a prefill tile: 128 queries, a query being a head of a row.  0, where all rows are decoded, too, if its parts have no place. */
static inline uint32_t cu_attention_run_tile(uint32_t rows, uint32_t n_head, uint32_t n_kv_head, uint32_t head_dim, uint32_t part, size_t max_shared)
{
    const uint32_t group = n_kv_head && n_head > n_kv_head ? (n_head + n_kv_head - 1) / n_kv_head : 1;

    if (rows <= CU_FEW_ROWS || (part && head_dim == 128 && max_shared < CU_PREFILL_SHARED)) return 0;
    return group > 4 ? 16 : group > 2 ? 32 : group > 1 ? 64 : 128;
}

#endif
