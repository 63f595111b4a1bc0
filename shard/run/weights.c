#include "shard/run/weights.h"

#include <stdio.h>

typedef struct source {
    shard_weights *w;
    const kern_ops *ops; kern_dev *dev; const shard_manifest *m; const shard_file *file; uint32_t rank;
    const uint8_t *data;                   /* the first tensor's first byte in the mapping */
} source;

/* The shard's checker has compared all this with the manifest; a shape that differs here is a bug or a torn file, and
 * a matmul would read past the mapping. */
static px_code view(const source *s, shard_role r, uint32_t layer, kern_weight *w, px_err *e)
{
    const void *data;
    uint64_t rows, cols, want_bytes;
    size_t bytes;
    char name[64], found[64], expected[64];
    shard_extent x;
    px_code rc;

    shard_tensor_name(r, layer, name, sizeof name);
    if ((rc = shard_file_tensor(s->file, r, layer, &data, &w->dtype, &rows, &cols, &bytes, e))) return rc;
    shard_split_extent(&s->m->split, &s->m->arch, r, s->rank, &x);
    if (shard_role_get(r)->vector)
        want_bytes = x.rows * x.cols * sizeof(float);
    else if ((rc = kern_panel_bytes(w->dtype, x.rows, x.cols, &want_bytes, e)))
        return rc;
    if (rows != x.rows || cols != x.cols || bytes < want_bytes || rows > UINT32_MAX || cols > UINT32_MAX) {
        snprintf(found, sizeof found, "%llu x %llu, %zu bytes", (unsigned long long)rows, (unsigned long long)cols, bytes);
        snprintf(expected, sizeof expected, "%llu x %llu, %llu bytes", (unsigned long long)x.rows,
                 (unsigned long long)x.cols, (unsigned long long)want_bytes);
        rc = px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, name, found, expected);
        px_err_set_file(e, shard_file_path(s->file));
        return rc;
    }
    w->rows = (uint32_t)rows;
    w->cols = (uint32_t)cols;
    s->w->bytes += bytes;
    if (s->ops->own_memory) {
        const size_t at = (size_t)((const uint8_t *)data - s->data);
        if (at > s->w->arena.bytes || bytes > s->w->arena.bytes - at)
            return px_fail(e, PX_EINTERNAL, name, "%zu bytes at %zu of the %zu that were uploaded", bytes, at, s->w->arena.bytes);
        w->panels = kern_buf_at(s->w->arena, at, bytes);
        return PX_OK;
    }
    /* Nothing writes weights: wrap takes no const because other buffers are written. */
    return s->ops->wrap(s->dev, (void *)(uintptr_t)data, bytes, &w->panels, e);
}

/* Left as it is, a buffer of nothing, where the architecture has none. */
static px_code vector(const source *s, shard_role r, uint32_t layer, kern_buf *b, px_err *e)
{
    kern_weight w = {0};
    px_code rc = shard_arch_has(&s->m->arch, r) ? view(s, r, layer, &w, e) : PX_OK;
    *b = w.panels;
    return rc;
}

#define PIECE ((size_t)8 << 20)                /* of an upload: the device copies one while the next is read */

static px_code upload(const source *s, size_t bytes, const shard_progress *progress, px_err *e)
{
    px_code rc = s->ops->alloc(s->dev, bytes, &s->w->arena, e);

    for (size_t at = 0; !rc && at < bytes; at += PIECE) {
        const size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        rc = s->ops->upload(s->dev, kern_buf_at(s->w->arena, at, n), s->data + at, n, e);
        if (!rc && progress && progress->fn) progress->fn(progress->ctx, at + n, bytes);
    }
    return rc ? rc : s->ops->wait(s->dev, e);
}

void shard_weights_unmap(shard_weights *w, const kern_ops *ops, kern_dev *dev)
{
    if (w->arena.h) ops->free(dev, &w->arena);
}

px_code shard_weights_map(shard_weights *w, const kern_ops *ops, kern_dev *dev, const shard_manifest *m,
                          const shard_file *file, uint32_t rank, uint64_t bytes, const shard_progress *progress,
                          shard_layer *layer, px_err *e)
{
    const source s = { w, ops, dev, m, file, rank, shard_file_data(file) };
    px_code rc;

    *w = (shard_weights){ .layer = layer, .n_layer = m->arch.n_layer };
    if (ops->own_memory && (rc = upload(&s, (size_t)bytes, progress, e))) return rc;
    if ((rc = view(&s, SHARD_TOKEN_EMBD, 0, &w->embd, e)) || (rc = vector(&s, SHARD_OUTPUT_NORM, 0, &w->out_norm, e)))
        return rc;
    w->head = w->embd;
    if (!m->arch.tied && (rc = view(&s, SHARD_OUTPUT, 0, &w->head, e))) return rc;

    for (uint32_t l = 0; l < w->n_layer; l++) {
        shard_layer *y = &layer[l];
        if ((rc = vector(&s, SHARD_ATTN_NORM, l, &y->attn_norm, e)) || (rc = view(&s, SHARD_ATTN_Q, l, &y->q, e))
            || (rc = view(&s, SHARD_ATTN_K, l, &y->k, e)) || (rc = view(&s, SHARD_ATTN_V, l, &y->v, e))
            || (rc = vector(&s, SHARD_ATTN_Q_BIAS, l, &y->q_bias, e)) || (rc = vector(&s, SHARD_ATTN_K_BIAS, l, &y->k_bias, e))
            || (rc = vector(&s, SHARD_ATTN_V_BIAS, l, &y->v_bias, e)) || (rc = vector(&s, SHARD_Q_NORM, l, &y->q_norm, e))
            || (rc = vector(&s, SHARD_K_NORM, l, &y->k_norm, e)) || (rc = view(&s, SHARD_ATTN_OUT, l, &y->out, e)) || (rc = vector(&s, SHARD_FFN_NORM, l, &y->ffn_norm, e))
            || (rc = view(&s, SHARD_FFN_GATE, l, &y->gate, e)) || (rc = view(&s, SHARD_FFN_UP, l, &y->up, e))
            || (rc = view(&s, SHARD_FFN_DOWN, l, &y->down, e)))
            return rc;
    }
    return PX_OK;
}
