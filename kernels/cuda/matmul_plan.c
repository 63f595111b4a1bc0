/* matmul_plan.c - how a product is cut into blocks of threads, and the memory that takes: pure, needs no toolkit.
 *
 * Few rows: many warps along K of few panels, so that even a small weight has a block for every multiprocessor and a
 * block's sums meet in shared memory.  More rows: activations are read once a block, so blocks get wider.  Where there are still
 * fewer blocks than multiprocessors, K is cut and the sums of the cuts are added by a second kernel. */
#include "kernels/cuda/matmul.h"

#define MAX_SPLITS 16u

typedef struct shape { uint32_t rows, tile, wm, wk; } shape;      /* up to so many rows */
static const shape by_rows[] = { { 4, 8, 1, 8 }, { 8, 8, 2, 4 }, { 16, 16, 2, 4 }, { 32, 32, 4, 2 }, { UINT32_MAX, 64, 8, 1 } };
static const uint32_t fixed_wm = 4, fixed_wk = 2;                 /* whatever the rows */

static shape shape_of(uint32_t rows, bool deterministic)
{
    uint32_t i = 0;

    while (rows > by_rows[i].rows) i++;
    if (!deterministic) return by_rows[i];
    return (shape){ rows, by_rows[i].tile, fixed_wm, fixed_wk };
}

uint32_t cu_mm_cut(cu_mm *m, uint32_t rows, uint32_t chunk_blocks, uint32_t n_sm, bool deterministic)
{
    const shape s = shape_of(rows, deterministic);
    const uint32_t chunks = (m->blocks + chunk_blocks - 1) / chunk_blocks, sm = n_sm < CU_MM_MAX_SM ? n_sm : CU_MM_MAX_SM;
    uint32_t splits, most = chunks / (4 * s.wk);                  /* fewer than 4 rounds are all start and end */

    m->wm = s.wm;
    m->wk = s.wk;
    m->n_groups = 0;
    for (uint32_t i = 0; i < KERN_MAX_MATMULS; i++) {
        m->w[i].group0 = m->w[i].n_panels ? m->n_groups : UINT32_MAX;
        m->n_groups += (m->w[i].n_panels + 2 * s.wm - 1) / (2 * s.wm);
    }
    splits = (uint64_t)m->n_groups * 4 >= (uint64_t)sm * 3 || !m->n_groups ? 1 : (sm + m->n_groups - 1) / m->n_groups;
    if (most > MAX_SPLITS) most = MAX_SPLITS;
    m->splits = splits < most ? splits : most ? most : 1;
    return s.tile;
}

size_t cu_mm_partial_bytes(const cu_mm *m, uint32_t rows)
{
    return m->splits > 1 ? (size_t)m->splits * rows * 32 * m->wm * m->n_groups * sizeof(float) : 0;
}

uint32_t cu_mm_unpack_panels(uint32_t n, uint32_t blocks)
{
    const uint64_t most = CU_MM_UNPACK_BYTES / ((uint64_t)blocks * 64 * KERN_PANEL_ROWS);

    return n < most ? n : (uint32_t)most;
}

size_t cu_mm_fp8_bytes(uint32_t rows, uint32_t blocks, size_t *scales_at)
{
    *scales_at = px_align_up((size_t)rows * blocks * 32, CU_MM_ALIGN);
    return *scales_at + px_align_up((size_t)rows * sizeof(float), CU_MM_ALIGN);
}

/* Splits are made while groups < 3/4 of the multiprocessors: splits x groups < sm + groups <= 7/4 sm; and of weights of at
 * most max_out rows. */
static uint64_t partial_bound(const kern_shape *s, uint32_t rows, uint32_t wm)
{
    const uint64_t a_group = (uint64_t)32 * wm * rows * sizeof(float);
    const uint64_t by_device = 7 * CU_MM_MAX_SM / 4, by_weights = (uint64_t)MAX_SPLITS * KERN_MAX_MATMULS * (s->max_out / (32 * wm) + 1);

    return a_group * (by_device < by_weights ? by_device : by_weights);
}

size_t kern_cuda_matmul_workspace_bytes(const kern_shape *s)
{
    const uint32_t few = s->rows < CU_MM_MANY_ROWS ? s->rows : CU_MM_MANY_ROWS;
    uint64_t most = partial_bound(s, few, fixed_wm);

    for (uint32_t i = 0; i < sizeof by_rows / sizeof *by_rows; i++) {
        const uint64_t n = partial_bound(s, few < by_rows[i].rows ? few : by_rows[i].rows, by_rows[i].wm);
        if (n > most) most = n;
        if (few <= by_rows[i].rows) break;
    }
    if (s->rows > CU_MM_MANY_ROWS) {
        const uint64_t row = ((uint64_t)s->max_cols / 32 + 1) * 64, whole = ((uint64_t)s->max_out + KERN_PANEL_ROWS) * row;
        uint64_t n = (uint64_t)CU_MM_ALIGN + CU_MM_BLAS_BYTES + (whole < CU_MM_UNPACK_BYTES ? whole : CU_MM_UNPACK_BYTES);
        size_t unused;
        if (s->fp8_activations) n += cu_mm_fp8_bytes(s->rows, s->max_cols / 32 + 1, &unused);
        if (n > most) most = n;
    }
    return most;
}
