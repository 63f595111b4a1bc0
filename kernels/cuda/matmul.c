/* matmul.c - the dispatch of matmul on CUDA: checks, and which path takes a call.
 *
 *   F32 weights                       matmul_f32.cu, any number of rows
 *   up to 64 rows, and all under      skinny.cuh: panels as they are, one launch for all weights of a type, and a second where
 *     `deterministic`                 K is cut
 *   more rows                         unpack.cu: up to 128 MiB of weights at a time as plain rows, then a library (blas.h),
 *                                     then the rows' scales; rows from live to max are written, too, with what they hold.
 *                                     FP8 with fp8_activations: w8a8.cu, bytes on both sides; where the library has nothing
 *                                     for a shape, that product goes as without */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/matmul.h"

/* chunk: blocks of 32 columns that a warp of the skinny path takes in a turn. */
static const struct path { uint32_t chunk; cu_skinny_fn *skinny; cu_unpack_fn *unpack; } paths[KERN_N_DTYPES] = {
    [KERN_BF16] = { 1, cu_skinny_bf16, cu_unpack_bf16 }, [KERN_F16] = { 1, cu_skinny_f16, cu_unpack_f16 },
    [KERN_FP8] = { 2, cu_skinny_fp8, cu_unpack_fp8 },
    [KERN_Q8_0] = { 2, cu_skinny_q8_0, cu_unpack_q8_0 }, [KERN_Q8_M] = { 2, cu_skinny_q8_m, cu_unpack_q8_m },
    [KERN_Q8_H] = { 2, cu_skinny_q8_h, cu_unpack_q8_h }, [KERN_Q2_HM] = { 4, cu_skinny_q2_hm, cu_unpack_q2_hm },
    [KERN_Q4_HL] = { 4, cu_skinny_q4_hl, cu_unpack_q4_hl },
    [KERN_Q4_0] = { 4, cu_skinny_q4_0, cu_unpack_q4_0 }, [KERN_Q4_1] = { 4, cu_skinny_q4_1, cu_unpack_q4_1 },
    [KERN_W8] = { 2, cu_skinny_w8, cu_unpack_w8 }, [KERN_W4] = { 4, cu_skinny_w4, cu_unpack_w4 },
};

static px_code check_weight(const kern_matmul_args *a, uint32_t i, px_err *e)
{
    const kern_weight *w = &a->w[i];
    uint64_t bytes;
    px_code rc;

    if ((unsigned)w->dtype >= KERN_N_DTYPES || (w->dtype != KERN_F32 && !paths[w->dtype].skinny)) {
        const kern_dtype_info *f = kern_dtype_get(w->dtype);
        char want[128];
        return px_refuse(e, PX_EUNSUP, "matmul.w", f ? f->name : "?", kern_dtype_weights(want, sizeof want),
                         "the CUDA backend does not multiply with weights of this type");
    }
    if (kern_act_of(w->dtype) != a->act)
        return px_fail(e, PX_EINTERNAL, "matmul.act", "activation format %d, weights of %s want %d", (int)a->act,
                       kern_dtype_get(w->dtype)->name, (int)kern_act_of(w->dtype));
    if (w->cols != a->cols)
        return px_fail(e, PX_EINTERNAL, "matmul.cols", "%u columns of weights, %u of activations", w->cols, a->cols);
    if ((rc = kern_panel_bytes(w->dtype, w->rows, w->cols, &bytes, e))) return rc;
    if (bytes > SIZE_MAX) return px_fail(e, PX_ERANGE, "matmul.w", "%llu bytes", (unsigned long long)bytes);
    if ((rc = kern_cuda_need(w->panels, (size_t)bytes, 1, 64, "matmul.w", e))) return rc;
    if (w->rows > a->out_stride[i])
        return px_fail(e, PX_EINTERNAL, "matmul.out_stride", "%u outputs, a stride of %u", w->rows, a->out_stride[i]);
    /* The last row need not have its padding. */
    return kern_cuda_need(a->out[i], a->rows.max ? (size_t)(a->rows.max - 1) * a->out_stride[i] + w->rows : 0, 4, 4, "matmul.out", e);
}

static px_code run_skinny(kern_dev *d, const kern_matmul_args *a, const struct path *p, cu_mm *m, px_err *e)
{
    const uint32_t tile = cu_mm_cut(m, a->rows.max, p->chunk, d->n_sm, d->deterministic);
    /* Partial sums of all rows would be large: 64 at a time. */
    const uint32_t step = m->splits > 1 && a->rows.max > CU_MM_MANY_ROWS ? CU_MM_MANY_ROWS : a->rows.max;
    cu_status s = 0;
    px_code rc;

    if ((rc = kern_cuda_need(a->workspace, cu_mm_partial_bytes(m, step), 1, 16, "matmul.workspace", e))) return rc;
    m->partial = a->workspace.h;
    for (uint32_t row = 0; row < a->rows.max && !s; row += step) {
        m->row0 = row;
        m->row1 = a->rows.max - row < step ? a->rows.max : row + step;
        s = p->skinny(m, tile, d->max_shared, d->stream);
        if (!s && m->splits > 1) s = cu_skinny_combine(m, d->stream);
    }
    return kern_cuda_done(d, "matmul", s, e);
}

/* The workspace of the path of many rows, and what its products read of activations. */
typedef struct many {
    char *blas, *bytes, *tile;                 /* the library's own; activations as e4m3; weights */
    float *scales;                             /* of `bytes`, a float a row */
    bool fp8, quantised;                       /* products may be FP8's; `bytes` and `scales` are there */
} many;

/* Whether the library multiplies this tile as bytes, g then says how, and activations are there. */
static px_code take_fp8(kern_dev *d, const cu_mm *m, many *s, kern_gemm *g, bool *taken, px_err *e)
{
    kern_gemm bytes = *g;
    px_code rc;

    *taken = false;
    if (!s->fp8) return PX_OK;
    bytes.type = KERN_GEMM_E4M3;
    bytes.x = s->bytes;
    bytes.x_stride = g->k;
    if ((rc = kern_cuda_gemm_has(d, &bytes, taken, e))) return rc;
    if (!d->recording) d->products[*taken]++;
    if (!*taken) return PX_OK;
    *g = bytes;
    if (s->quantised) return PX_OK;
    s->quantised = true;                       /* once for all weights of the call */
    return kern_cuda_done(d, "matmul", cu_fp8_rows(m, (uint8_t *)s->bytes, s->scales, d->stream), e);
}

/* Panels [at, at + n) of w; g lacks only what follows from them. */
static px_code run_tile(kern_dev *d, const cu_mm *m, const struct path *p, many *s, kern_gemm g, const cu_mm_weight *w, uint32_t at, uint32_t n, px_err *e)
{
    const uint32_t row = at * KERN_PANEL_ROWS;
    const uint8_t *panels = w->panels + at * w->stride;
    cu_mm_scales by = { .row = m->act, .row_stride = m->act_stride };
    bool fp8;
    px_code rc;

    g.m = w->rows - row < n * KERN_PANEL_ROWS ? w->rows - row : n * KERN_PANEL_ROWS;
    g.out = w->out + row;
    if ((rc = take_fp8(d, m, s, &g, &fp8, e))) return rc;
    if (fp8) by = (cu_mm_scales){ .row = s->scales, .row_stride = sizeof(float), .column = panels + w->stride - 64, .column_stride = w->stride };
    if ((rc = kern_cuda_done(d, "matmul", (fp8 ? cu_unpack_fp8_bytes : p->unpack)(panels, w->stride, n, m->blocks, s->tile, d->stream), e))
        || (rc = kern_cuda_gemm(d, &g, e)) || !m->head)
        return rc;
    return kern_cuda_done(d, "matmul", cu_scale_rows(m, &by, g.out, g.out_stride, g.m, d->stream), e);
}

static px_code run_many(kern_dev *d, const kern_matmul_args *a, const struct path *p, kern_dtype t, const cu_mm *m, px_err *e)
{
    const uint32_t k = 32 * m->blocks;
    size_t scales_at = 0;
    many s = { .fp8 = t == KERN_FP8 && d->fp8_activations };
    const size_t before = CU_MM_BLAS_BYTES + (s.fp8 ? cu_mm_fp8_bytes(a->rows.max, m->blocks, &scales_at) : 0);
    px_code rc;

    s.blas = (char *)a->workspace.h + (CU_MM_ALIGN - (uintptr_t)a->workspace.h % CU_MM_ALIGN) % CU_MM_ALIGN;
    s.bytes = s.blas + CU_MM_BLAS_BYTES;
    s.scales = (float *)(void *)(s.bytes + scales_at);
    s.tile = s.blas + before;

    for (uint32_t i = 0; i < KERN_MAX_MATMULS; i++) {
        const cu_mm_weight *w = &m->w[i];
        const uint32_t step = cu_mm_unpack_panels(w->n_panels, m->blocks);
        const size_t tile = (size_t)step * KERN_PANEL_ROWS * k * 2;

        if (!w->n_panels) continue;
        if (!step) return px_fail(e, PX_EUNSUP, "matmul.cols", "%u columns", k);
        if ((rc = kern_cuda_need(a->workspace, CU_MM_ALIGN + before + tile, 1, 1, "matmul.workspace", e))) return rc;
        const kern_gemm g = { .type = t == KERN_BF16 ? KERN_GEMM_BF16 : KERN_GEMM_F16, .n = a->rows.max, .k = k, .w = s.tile,
                              .x = m->act + m->head, .x_stride = m->act_stride / 2, .out_stride = w->out_stride, .workspace = s.blas,
                              .workspace_bytes = CU_MM_BLAS_BYTES };
        for (uint32_t at = 0; at < w->n_panels; at += step)
            if ((rc = run_tile(d, m, p, &s, g, w, at, w->n_panels - at < step ? w->n_panels - at : step, e))) return rc;
    }
    return PX_OK;
}

/* Weights [i, end) of one type. */
static px_code run(kern_dev *d, const kern_matmul_args *a, uint32_t i, uint32_t end, px_err *e)
{
    const kern_dtype t = a->w[i].dtype;
    cu_mm m = { .blocks = a->cols / 32 + (a->cols % 32 != 0), .act = a->in.h, .act_stride = kern_cuda_act_stride(a->act, a->cols),
                .head = a->act == KERN_ACT_Q12 || a->act == KERN_ACT_F16 ? 64 : 0, .live = a->rows.live.h, .row1 = a->rows.max };

    for (uint32_t j = 0; j < KERN_MAX_MATMULS; j++) m.w[j].group0 = UINT32_MAX;
    for (uint32_t n = 0; i < end; i++) {
        const kern_weight *w = &a->w[i];
        if (!w->rows) continue;
        m.w[n] = (cu_mm_weight){ .panels = w->panels.h, .stride = kern_panel_stride(t, w->cols), .rows = w->rows, .group0 = m.n_groups,
                                 .n_panels = w->rows / KERN_PANEL_ROWS + (w->rows % KERN_PANEL_ROWS != 0), .out = a->out[i].h,
                                 .out_stride = a->out_stride[i] };
        m.n_groups += m.w[n++].n_panels;
    }
    if (!m.n_groups) return PX_OK;
    if (m.n_groups > CU_MAX_GRID_YZ)                            /* no path has more blocks than panels */
        return px_fail(e, PX_EUNSUP, "matmul.w", "%u panels of output rows in one call, the CUDA backend takes %u", m.n_groups,
                       CU_MAX_GRID_YZ);
    if (t == KERN_F32) return kern_cuda_done(d, "matmul", cu_matmul_f32(&m, d->stream), e);
    if (a->rows.max > CU_MM_MANY_ROWS && !d->deterministic) return run_many(d, a, &paths[t], t, &m, e);
    return run_skinny(d, a, &paths[t], &m, e);
}

px_code kern_cuda_matmul(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    px_code rc;

    if (a->n > KERN_MAX_MATMULS) return px_fail(e, PX_EINTERNAL, "matmul.n", "%u weights", a->n);
    if ((unsigned)a->act >= KERN_N_ACTS) return px_fail(e, PX_EINTERNAL, "matmul.act", "format %d", (int)a->act);
    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "matmul.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "matmul.rows", e))) return rc;
    if ((rc = kern_cuda_need(a->in, a->rows.max, kern_cuda_act_stride(a->act, a->cols), 16, "matmul.in", e))) return rc;
    for (uint32_t i = 0; i < a->n; i++)
        if ((rc = check_weight(a, i, e))) return rc;
    if (!a->rows.max) return PX_OK;
    for (uint32_t i = 0, end; i < a->n; i = end) {
        for (end = i + 1; end < a->n && a->w[end].dtype == a->w[i].dtype; end++) {}
        if ((rc = run(d, a, i, end, e))) return rc;
    }
    return PX_OK;
}
