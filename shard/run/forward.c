/* forward.c - from token ids to candidates, one layer after the other.
 *
 * Every rank runs this at the same time on its own share.  q, k, v, gate and up are cut by rows: each rank computes
 * its own heads and its own part of the FFN, and needs nobody.  The two matmuls that end a block (attention's output,
 * the FFN's down) are cut by columns: each rank has a partial sum of the whole row, and the ranks add up.  So does the
 * embedding, where one rank has the token's row and the others have zeros.  The sum, the residual and the next norm are
 * one op. */
#include "shard/run/forward.h"

/* Live rows are on the device; the host only says how many there can be, in powers of two. */
uint32_t shard_forward_bucket(uint32_t n, uint32_t most)
{
    uint32_t b = 1;
    while (b < n) b *= 2;
    return b < most ? b : most;
}

kern_rows shard_forward_rows(const shard_forward *f, uint32_t n) { return (kern_rows){ shard_forward_bucket(n, f->max_rows), f->n_rows }; }

/* ---- the sum between ranks ---- */

/* A partial sum lies in the buffer of this turn: add all ranks' in tree order to the residual (or begin it), and leave
 * the normed row for what follows: in f->act if `next` says so, else in f->normed. */
static px_code sum_and_norm_all(shard_forward *f, uint32_t n, bool first, kern_buf norm, kern_act_rows next, px_err *e)
{
    const uint32_t d = f->arch->d_model;
    const unsigned turn = f->turn;
    const size_t bytes = (size_t)n * d * sizeof(float);
    kern_add_norm_args a = { .rows = shard_forward_rows(f, n), .cols = d, .eps = f->arch->rms_eps, .residual = f->residual,
                             .first = first, .weight = norm, .out = f->normed, .act = next };
    const float *const *views;
    px_code rc;

    if ((rc = comm_reduce_views_all(f->comm, turn, bytes, &views, &a.n_views, e))) return rc;
    if (a.n_views > KERN_MAX_VIEWS) return px_fail(e, PX_EINTERNAL, "views", "%u of them", a.n_views);
    for (uint32_t i = 0; i < a.n_views; i++) {
        if (f->seen[turn][i] != views[i]) {
            if ((rc = f->ops->wrap(f->dev, (void *)(uintptr_t)views[i], f->partial[turn].bytes, &f->view[turn][i], e)))
                return rc;
            f->seen[turn][i] = views[i];
        }
        a.view[i] = f->view[turn][i];
    }
    f->turn = !turn;
    return f->ops->add_norm(f->dev, &a, e);
}

/* ---- matmuls: activations in the format that the weights want ---- */

/* Where the op before leaves rows in the one format that all of these weights read; a file may mix types, then nowhere. */
static kern_act_rows wanted(const shard_forward *f, uint32_t n, const kern_weight *w)
{
    for (uint32_t i = 1; i < n; i++)
        if (kern_act_of(w[i].dtype) != kern_act_of(w[0].dtype)) return (kern_act_rows){ 0 };
    return (kern_act_rows){ kern_act_of(w[0].dtype), f->act, f->flags };
}

kern_act_rows shard_forward_attend_wants(const shard_forward *f, uint32_t layer)
{
    const shard_layer *y = &f->w->layer[layer];
    return wanted(f, 3, (kern_weight[]){ y->q, y->k, y->v });
}

static kern_act_rows feed_wants(const shard_forward *f, uint32_t layer)
{
    const shard_layer *y = &f->w->layer[layer];
    return wanted(f, 2, (kern_weight[]){ y->gate, y->up });
}

/* Of the norm that was told so. */
static kern_buf rows_of(const shard_forward *f, kern_act_rows next) { return next.out.h ? (kern_buf){ 0 } : f->normed; }

/* Up to three weights on the same rows: `in` in fp32, or with `in.h` NULL f->act, where the op before left them.  Of fp32
 * rows a format is made once for all weights that read it. */
px_code shard_forward_multiply(shard_forward *f, kern_rows rows, kern_buf in, uint32_t cols, uint32_t n, const kern_weight *w,
                               const kern_buf *out, const uint32_t *stride, kern_buf flags, px_err *e)
{
    px_code rc;

    for (kern_act act = 0; act < KERN_N_ACTS; act++) {
        kern_matmul_args m = { .rows = rows, .act = act, .cols = cols, .in = f->act, .workspace = f->workspace };
        for (uint32_t i = 0; i < n; i++)
            if (kern_act_of(w[i].dtype) == act) {
                m.w[m.n] = w[i];
                m.out[m.n] = out[i];
                m.out_stride[m.n++] = stride[i];
            }
        if (m.n == 0) continue;
        if (in.h && (rc = f->ops->quant(f->dev, &(kern_quant_args){ .rows = rows, .cols = cols, .act = act, .in = in,
                                                                    .out = f->act, .flags = flags }, e)))
            return rc;
        if ((rc = f->ops->matmul(f->dev, &m, e))) return rc;
    }
    return PX_OK;
}

/* A matmul cut by columns: its result is this rank's partial sum. */
static px_code multiply_partial(shard_forward *f, kern_rows rows, kern_buf in, const kern_weight *w, px_err *e)
{
    return shard_forward_multiply(f, rows, in, w->cols, 1, w, &f->partial[f->turn], &f->arch->d_model, f->flags, e);
}

/* ---- the parts of the model, in order ---- */

/* ids -> partial: this rank's rows of the table, zeros for the others' tokens. */
px_code shard_forward_embed(shard_forward *f, uint32_t n, px_err *e)
{
    return f->ops->embed(f->dev, &(kern_embed_args){ .rows = shard_forward_rows(f, n), .table = f->w->embd,
                                                     .vocab_begin = f->cut->vocab.begin, .vocab_end = f->cut->vocab.end,
                                                     .ids = f->id, .out = f->partial[f->turn] }, e);
}

/* normed -> q, k, v -> [biases, norms of heads], rope, KV append -> attention -> partial */
px_code shard_forward_attend(shard_forward *f, uint32_t layer, uint32_t n, kern_buf in, px_err *e)
{
    const shard_layer *y = &f->w->layer[layer];
    const uint32_t heads = f->cut->q_head.end - f->cut->q_head.begin, hd = f->arch->head_dim;
    const kern_rows rows = shard_forward_rows(f, n);
    const kern_weight w[3] = { y->q, y->k, y->v };
    const kern_buf out[3] = { f->q, f->k, f->v };
    const uint32_t stride[3] = { y->q.rows, y->k.rows, y->v.rows };
    px_code rc;

    if ((rc = shard_forward_multiply(f, rows, in, f->arch->d_model, 3, w, out, stride, f->flags, e))) return rc;
    if ((rc = f->ops->rope_append(f->dev, &(kern_rope_append_args){
            .rows = rows, .n_head = heads, .n_kv_head = f->kv.n_kv_head, .head_dim = hd, .layer = layer, .q = f->q,
            .k = f->k, .v = f->v, .cos = f->cos, .sin = f->sin, .pos = f->pos, .row_slot = f->slot,
            .block_table = f->block_table, .table_stride = f->table_stride, .kv = f->kv, .flags = f->flags,
            .q_bias = y->q_bias, .k_bias = y->k_bias, .v_bias = y->v_bias, .q_norm = y->q_norm, .k_norm = y->k_norm,
            .eps = f->arch->rms_eps }, e)))
        return rc;
    if ((rc = f->ops->attention(f->dev, &(kern_attention_args){
            .rows = rows, .n_head = heads, .n_kv_head = f->kv.n_kv_head, .head_dim = hd, .layer = layer,
            .window = f->arch->sliding_window, .q = f->q, .head_map = f->head_map, .pos = f->pos, .row_slot = f->slot, .block_table = f->block_table,
            .table_stride = f->table_stride, .kv = f->kv, .out = f->attn, .workspace = f->workspace }, e)))
        return rc;
    return multiply_partial(f, rows, f->attn, &y->out, e);
}

/* normed -> gate, up -> SwiGLU -> partial */
px_code shard_forward_feed(shard_forward *f, uint32_t layer, uint32_t n, kern_buf in, px_err *e)
{
    const shard_layer *y = &f->w->layer[layer];
    const kern_rows rows = shard_forward_rows(f, n);
    const kern_weight w[2] = { y->gate, y->up };
    const kern_buf out[2] = { f->gate, f->up };
    const uint32_t stride[2] = { y->gate.rows, y->up.rows };
    px_code rc;

    if ((rc = shard_forward_multiply(f, rows, in, f->arch->d_model, 2, w, out, stride, f->flags, e))) return rc;
    if ((rc = f->ops->swiglu(f->dev, &(kern_swiglu_args){ .rows = rows, .cols = y->gate.rows, .gate = f->gate,
                                                          .up = f->up, .out = f->gate, .stride = y->gate.rows,
                                                          .act = wanted(f, 1, &y->down) }, e)))
        return rc;
    return multiply_partial(f, rows, (kern_buf){ 0 }, &y->down, e);
}

/* Rows that need logits -> this rank's slice of the logits -> its candidates. */
px_code shard_forward_head(shard_forward *f, const shard_forward_shape *s, px_err *e)
{
    const kern_rows rows = { shard_forward_bucket(s->head_rows, f->max_head_rows), f->n_head_rows };
    const kern_weight *w = &f->w->head;
    px_code rc;

    if ((rc = f->ops->gather(f->dev, &(kern_gather_args){ .rows = rows, .cols = f->arch->d_model, .in = f->normed,
                                                          .index = f->head_row, .out = f->head_in }, e)))
        return rc;
    if (w->rows && (rc = shard_forward_multiply(f, rows, f->head_in, f->arch->d_model, 1, w, &f->logits, &w->rows, f->head_flags, e)))
        return rc;
    return f->ops->candidates(f->dev, &(kern_candidates_args){
        .rows = rows, .logits = f->logits, .stride = w->rows, .vocab_begin = f->cut->vocab.begin,
        .n_valid = shard_vocab_valid(f->arch, f->cut), .params = f->param, .out = f->cand,
        .out_stride = s->record_bytes, .workspace = f->workspace }, e);
}

px_code shard_forward_body_all(shard_forward *f, uint32_t n, px_err *e)
{
    const uint32_t n_layer = f->w->n_layer;
    kern_act_rows next = shard_forward_attend_wants(f, 0);
    px_code rc;

    if ((rc = shard_forward_embed(f, n, e)) || (rc = sum_and_norm_all(f, n, true, f->w->layer[0].attn_norm, next, e))) return rc;
    for (uint32_t l = 0; l < n_layer; l++) {
        const kern_act_rows feed = feed_wants(f, l);
        const bool last = l + 1 == n_layer;    /* its rows are gathered in fp32 */

        if ((rc = shard_forward_attend(f, l, n, rows_of(f, next), e))
            || (rc = sum_and_norm_all(f, n, false, f->w->layer[l].ffn_norm, feed, e)))
            return rc;
        next = last ? (kern_act_rows){ 0 } : shard_forward_attend_wants(f, l + 1);
        if ((rc = shard_forward_feed(f, l, n, rows_of(f, feed), e))
            || (rc = sum_and_norm_all(f, n, false, last ? f->w->out_norm : f->w->layer[l + 1].attn_norm, next, e)))
            return rc;
    }
    return PX_OK;
}

px_code shard_forward_all(shard_forward *f, const shard_forward_shape *s, px_err *e)
{
    px_code rc = shard_forward_body_all(f, s->rows, e);

    return rc || !s->head_rows ? rc : shard_forward_head(f, s, e);
}
