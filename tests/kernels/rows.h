/* rows.h - what the tests of the ops over rows, heads and vocabulary share: the paths, devices and buffers.
 * Layer: tests. */
#ifndef TESTS_KERNELS_ROWS_H
#define TESTS_KERNELS_ROWS_H

#include "kernels/cpu/cpu.h"
#include "tests/testlib.h"

typedef struct row_path {
    const char *name;
    bool (*runs)(void);                     /* this processor has it */
    px_code (*add_norm)(kern_dev *, const kern_add_norm_args *, px_err *);
    px_code (*rope_append)(kern_dev *, const kern_rope_append_args *, px_err *);
    px_code (*attention)(kern_dev *, const kern_attention_args *, px_err *);
    px_code (*quant)(kern_dev *, const kern_quant_args *, px_err *);
    px_code (*swiglu)(kern_dev *, const kern_swiglu_args *, px_err *);
    px_code (*candidates)(kern_dev *, const kern_candidates_args *, px_err *);
} row_path;

extern const row_path row_paths[3];         /* scalar first */
/* The path on a number of threads; false (and a printed line, once) where the processor lacks it. */
#define ROW_RUNS 5
typedef struct row_run { const row_path *path; uint32_t threads; } row_run;
bool row_run_get(uint32_t i, row_run *out); /* i < ROW_RUNS: avx2 and avx512 on 1 and 3 threads, scalar on 3 */

/* The vector functions themselves (vec_probe_*.c). */
typedef struct row_vec {
    void (*exp)(const float *x, float *y, uint32_t n);               /* n a multiple of 16 */
    void (*log)(const float *x, float *y, uint32_t n);
    void (*gumbel)(const uint32_t *words, float *y, uint32_t n);
    void (*philox)(const kern_draw *d, uint32_t group, uint32_t *words);   /* 64 */
} row_vec;
extern const row_vec row_vec_avx2, row_vec_avx512;

/* A buffer of its own, exactly n bytes, so that a sanitizer sees every stray access. */
kern_buf row_buf(size_t bytes);
kern_buf row_copy(kern_buf b);
void     row_drop(kern_buf *b);
void     row_fill(kern_buf b, uint64_t *seed, float scale);            /* normal numbers */
kern_rows row_count(uint32_t max, uint32_t live);                       /* live: row_buf */
void     row_equal(kern_buf a, kern_buf b, const char *what, const char *path);

#endif
