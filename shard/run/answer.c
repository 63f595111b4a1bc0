#include "shard/run/engine.h"
#include "shard/run/sample.h"

#include <stdio.h>
#include <string.h>

/* A rank's part of the answer: the flags of each entry, how many rows saturated the KV cache, then the records. */
static size_t flags_bytes(uint32_t n_entries) { return px_align_up(((size_t)n_entries + 1) * sizeof(uint32_t), 64); }

typedef struct answer {
    shard_executor *x;
    const shard_forward_shape *shape;
    size_t records_at, stride;             /* in x->all: first record, from rank to rank */
    uint32_t n_rows, n_tops, full_gathers;
} answer;

void shard_answer_choice(const shard_executor *x, const shard_entry *n, struct shard_choice *c)
{
    *c = (shard_choice){ .sampling = &x->slots.slot[n->slot].sampling, .position = n->first_pos + n->n };
    if (n->ban_eos) {
        c->ban = x->manifest->eos;
        c->n_ban = x->manifest->n_eos;
    }
}

/* ---- gathering ---- */

static px_code gather_all(answer *w, const shard_step *in, px_err *e)
{
    shard_executor *x = w->x;
    const shard_step_layout *y = &x->plan.activations.image;
    uint32_t *mine = (uint32_t *)(void *)x->mine, *flags = (uint32_t *)(void *)(x->image + y->flags.at);
    uint32_t *head_flags = (uint32_t *)(void *)(x->image + y->head_flags.at), saturated = 0, t = 0, s = 0;
    const size_t records = (size_t)w->shape->head_rows * w->shape->record_bytes;
    px_code rc;

    w->records_at = flags_bytes(in->n_entries);
    w->stride = w->records_at + records;
    if ((rc = x->ops->download(x->dev, flags, x->f.flags, w->shape->rows * sizeof *flags, e))) return rc;
    if (w->shape->head_rows
        && ((rc = x->ops->download(x->dev, head_flags, x->f.head_flags, w->shape->head_rows * sizeof *flags, e))
            || (rc = x->ops->download(x->dev, x->mine + w->records_at, x->f.cand, records, e))))
        return rc;
    for (uint32_t i = 0; i < in->n_entries; i++) {
        uint32_t all = 0;

        for (uint32_t j = 0; j < in->entry[i].n; j++, t++) {
            all |= flags[t];
            saturated += (flags[t] & KERN_FLAG_KV_SATURATED) != 0;
        }
        for (uint32_t j = 0; j < shard_entry_head_rows(&in->entry[i]); j++) all |= head_flags[s++];
        mine[i] = all;
    }
    mine[in->n_entries] = saturated;
    return comm_gather_all(x->f.comm, x->mine, w->stride, x->all, e);
}

/* One row whole, from every rank's slice, sorted. */
static px_code gather_row_all(const answer *w, uint32_t row, shard_ordered *o, px_err *e)
{
    shard_executor *x = w->x;
    const size_t bytes = x->plan.host.row_bytes, own = x->n_slice[x->rank] * sizeof(float);
    const kern_buf at = kern_buf_at(x->f.logits, (size_t)row * x->weights.head.rows * sizeof(float), own);
    uint32_t n = 0;
    px_code rc;

    if (own && (rc = x->ops->download(x->dev, x->mine, at, own, e))) return rc;
    if ((rc = comm_gather_all(x->f.comm, x->mine, bytes, x->all_row, e))) return rc;
    for (uint32_t k = 0; k < x->world; k++) {
        const float *logit = (const float *)(const void *)(x->all_row + k * bytes);
        for (uint32_t i = 0; i < x->n_slice[k]; i++, n++) x->order[0][n] = (kern_cand_entry){ n, logit[i] };
    }
    *o = shard_order_row(x->order[0], x->order[1], n);
    return PX_OK;
}

/* ---- a row's result ---- */

static px_code answer_row(answer *w, const shard_entry *n, uint32_t j, uint32_t row, shard_row_result *out,
                          bool *nonfinite, px_err *e)
{
    shard_executor *x = w->x;
    const shard_records r = { x->all + w->records_at + (size_t)row * w->shape->record_bytes, w->stride, x->world,
                              x->n_slice };
    const shard_row v = shard_row_merge(&r);
    const uint32_t n_vocab = x->slots.n_vocab, top = n->top < n_vocab ? n->top : n_vocab;
    shard_ordered o = { .entry = x->order[0] };
    kern_cand_entry token = { SHARD_NO_ID, 0 };
    shard_choice c;
    bool chosen = true;
    px_code rc;

    *out = (shard_row_result){ .position = n->first_pos + j, .id = SHARD_NO_ID };
    if (v.nonfinite) *nonfinite = true;
    if (*nonfinite) return PX_OK;

    shard_answer_choice(x, n, &c);
    if (top || (n->sample && shard_choice_list(&c))) o = shard_order_lists(&r, x->order[0]);
    if (n->sample && !(chosen = shard_choose(&c, &v, &o, &token))) w->full_gathers++;
    if (!chosen || top > o.n) {
        if ((rc = gather_row_all(w, row, &o, e))) return rc;
        if (!chosen && !shard_choose(&c, &v, &o, &token))
            return px_fail(e, PX_EINTERNAL, "sample", "no candidate in a whole row");
    }
    if (n->target && n->target[j] != SHARD_NO_ID) {
        if (!v.has_target) return px_fail(e, PX_EINTERNAL, "entry.target", "token %u is in no slice", n->target[j]);
        token = (kern_cand_entry){ n->target[j], v.target_logit };
    }
    out->id = token.id;
    if (n->logprob && token.id != SHARD_NO_ID) out->logprob = shard_row_logprob(&v, token.logit);
    if (top) {
        shard_top *best = x->top + w->n_tops;
        for (uint32_t i = 0; i < top; i++)
            best[i] = (shard_top){ o.entry[i].id, shard_row_logprob(&v, o.entry[i].logit) };
        shard_order_ties(best, top);
        out->top = best;
        out->n_top = top;
        w->n_tops += top;
    }
    return PX_OK;
}

/* ---- the check that every rank sampled the same ---- */

static px_code compare_all(const answer *w, const shard_step *in, px_err *e)
{
    shard_executor *x = w->x;
    uint32_t *mine = (uint32_t *)(void *)x->mine;
    const size_t bytes = flags_bytes(in->n_entries);
    char found[24], expected[24];
    px_code rc;

    for (uint32_t i = 0; i < in->n_entries; i++) mine[i] = in->entry[i].sample ? x->entry[i].row[0].id : SHARD_NO_ID;
    if ((rc = comm_gather_all(x->f.comm, mine, bytes, x->all, e))) return rc;
    for (uint32_t k = 0; k < x->world; k++)
        for (uint32_t i = 0; i < in->n_entries; i++) {
            const uint32_t theirs = ((const uint32_t *)(const void *)(x->all + k * bytes))[i];
            const uint32_t first = ((const uint32_t *)(const void *)x->all)[i];

            if (theirs == first) continue;
            snprintf(found, sizeof found, "%u", theirs);
            snprintf(expected, sizeof expected, "%u", first);
            rc = px_mismatch(e, "sample", found, expected);
            if (e) e->rank = (int)k;
            return rc;
        }
    return PX_OK;
}

px_code shard_answer_all(shard_executor *x, const shard_step *in, const shard_forward_shape *shape, shard_result *out,
                         px_err *e)
{
    answer w = { .x = x, .shape = shape };
    uint32_t row = 0;
    px_code rc;

    if ((rc = gather_all(&w, in, e))) return rc;
    for (uint32_t k = 0; k < x->world; k++)
        out->kv_saturated += ((const uint32_t *)(const void *)(x->all + k * w.stride))[in->n_entries];
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry *n = &in->entry[i];
        shard_entry_result *r = &x->entry[i];
        shard_row_result *first = &x->row[w.n_rows];
        uint32_t flags = 0;
        bool nonfinite;

        for (uint32_t k = 0; k < x->world; k++) flags |= ((const uint32_t *)(const void *)(x->all + k * w.stride))[i];
        nonfinite = (flags & KERN_FLAG_NONFINITE) != 0;
        *r = (shard_entry_result){ .slot = n->slot, .row = first, .n_rows = shard_entry_head_rows(n) };
        for (uint32_t j = 0; j < r->n_rows; j++, row++, w.n_rows++) {
            const uint32_t at = n->rows == SHARD_ROWS_ALL ? j : n->n - 1;
            if ((rc = answer_row(&w, n, at, row, &x->row[w.n_rows], &nonfinite, e))) return rc;
        }
        r->nonfinite = nonfinite;
    }
    *out = (shard_result){ .step = in->number, .entry = x->entry, .n_entries = in->n_entries,
                           .full_gathers = w.full_gathers, .kv_saturated = out->kv_saturated };
    return x->check_samples ? compare_all(&w, in, e) : PX_OK;
}
