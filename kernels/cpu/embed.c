/* embed.c - rows of the table, and rows by index: copies and conversions without a rounding that a path could change.
 * Embedding: d * q is exact in fp32; with a minimum, one rounded addition.  Ids of other ranks give rows of +0. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#define PART_BYTES 65536u      /* less than this is not worth another thread */

static uint32_t parts(uint32_t rows, uint32_t cols)
{
    uint64_t n = (uint64_t)rows * cols * 4 / PART_BYTES + 1;

    return n < rows ? (uint32_t)n : rows;
}

typedef struct embed_ctx { const kern_embed_args *a; uint32_t rows; uint64_t stride; } embed_ctx;

static void embed_body(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const embed_ctx *c = ctx;
    const kern_weight *w = &c->a->table;
    const uint32_t *ids = c->a->ids.h;
    uint32_t lo, hi;

    kern_cpu_share(c->rows, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) {
        float *out = (float *)c->a->out.h + (size_t)t * w->cols;
        uint32_t row = ids[t] - c->a->vocab_begin;
        if (ids[t] < c->a->vocab_begin || ids[t] >= c->a->vocab_end || row >= w->rows)
            memset(out, 0, (size_t)w->cols * 4);
        else
            kern_panel_row_to_f32(w->dtype, (const uint8_t *)w->panels.h + row / KERN_PANEL_ROWS * c->stride,
                                  row % KERN_PANEL_ROWS, w->cols, out);
    }
}

px_code kern_cpu_embed(kern_dev *d, const kern_embed_args *a, px_err *e)
{
    embed_ctx c = { .a = a, .rows = kern_cpu_rows(&a->rows) };
    uint64_t bytes;
    px_code rc;

    if ((rc = kern_panel_bytes(a->table.dtype, a->table.rows, a->table.cols, &bytes, e))
        || (rc = kern_cpu_need(a->table.panels, bytes, 1, "embed.table", e))
        || (rc = kern_cpu_need(a->ids, c.rows, 4, "embed.ids", e))
        || (rc = kern_cpu_need(a->out, c.rows, (size_t)a->table.cols * 4, "embed.out", e)))
        return rc;
    c.stride = kern_panel_stride(a->table.dtype, a->table.cols);
    kern_cpu_split(d, parts(c.rows, a->table.cols), embed_body, &c);
    return PX_OK;
}

typedef struct gather_ctx { const kern_gather_args *a; uint32_t rows; } gather_ctx;

static void gather_body(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const gather_ctx *c = ctx;
    const uint32_t *index = c->a->index.h;
    size_t bytes = (size_t)c->a->cols * 4;
    uint32_t lo, hi;

    kern_cpu_share(c->rows, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++)
        memcpy((uint8_t *)c->a->out.h + t * bytes, (const uint8_t *)c->a->in.h + index[t] * bytes, bytes);
}

px_code kern_cpu_gather(kern_dev *d, const kern_gather_args *a, px_err *e)
{
    gather_ctx c = { .a = a, .rows = kern_cpu_rows(&a->rows) };
    size_t row = (size_t)a->cols * 4;
    const uint32_t *index = a->index.h;
    px_code rc;

    if ((rc = kern_cpu_need(a->index, c.rows, 4, "gather.index", e))
        || (rc = kern_cpu_need(a->out, c.rows, row, "gather.out", e)))
        return rc;
    for (uint32_t t = 0; t < c.rows; t++)
        if ((rc = kern_cpu_need(a->in, (size_t)index[t] + 1, row, "gather.in", e))) return rc;
    kern_cpu_split(d, parts(c.rows, a->cols), gather_body, &c);
    return PX_OK;
}
