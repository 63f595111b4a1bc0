#include "daemon/rank/convert.h"

#include <stdio.h>

typedef Phalanx__Wire__Step        wire_step;
typedef Phalanx__Wire__SlotOp      wire_op;
typedef Phalanx__Wire__Entry       wire_entry;
typedef Phalanx__Wire__Result      wire_result;
typedef Phalanx__Wire__EntryResult wire_entry_result;
typedef Phalanx__Wire__RowResult   wire_row;

static px_code no_memory(px_err *e, const char *what)
{
    return px_fail(e, PX_ENOMEM, what, "no memory for the message");
}

px_code daemon_pack(px_alloc *a, const ProtobufCMessage *m, uint8_t **data, size_t *n, px_err *e)
{
    *n = protobuf_c_message_get_packed_size(m);
    if (!(*data = px_new(a, uint8_t, *n))) return no_memory(e, m->descriptor->name);
    protobuf_c_message_pack(m, *data);
    return PX_OK;
}

/* ---- step ---- */

px_code daemon_step_encode(px_alloc *a, const shard_step *in, uint8_t **data, size_t *n, px_err *e)
{
    wire_step w = PHALANX__WIRE__STEP__INIT;

    w.number = in->number;
    w.n_ops = in->n_ops;
    w.n_entries = in->n_entries;
    wire_op *op = px_new(a, wire_op, in->n_ops);
    wire_entry *entry = px_new(a, wire_entry, in->n_entries);
    if (!(w.ops = px_new(a, wire_op *, in->n_ops)) || !(w.entries = px_new(a, wire_entry *, in->n_entries)) || !op || !entry)
        return no_memory(e, "step");
    for (uint32_t i = 0; i < in->n_ops; i++) {
        const shard_slot_op *x = &in->op[i];
        op[i] = (wire_op)PHALANX__WIRE__SLOT_OP__INIT;
        op[i].op = (Phalanx__Wire__SlotOp__Kind)x->op;
        op[i].slot = x->slot;
        op[i].n_blocks = x->n_blocks;
        op[i].blocks = (uint32_t *)(uintptr_t)x->block;            /* packed, not changed */
        op[i].temperature = x->sampling.temperature;
        op[i].top_p = x->sampling.top_p;
        op[i].min_p = x->sampling.min_p;
        op[i].top_k = x->sampling.top_k;
        op[i].seed = x->sampling.seed;
        op[i].sequence = x->sampling.sequence;
        w.ops[i] = &op[i];
    }
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry *x = &in->entry[i];
        entry[i] = (wire_entry)PHALANX__WIRE__ENTRY__INIT;
        entry[i].slot = x->slot;
        entry[i].first_pos = x->first_pos;
        entry[i].n = x->n;
        entry[i].n_ids = x->id ? x->n : 0;
        entry[i].ids = (uint32_t *)(uintptr_t)x->id;
        entry[i].rows = x->rows;
        entry[i].sample = x->sample;
        entry[i].ban_eos = x->ban_eos;
        entry[i].logprob = x->logprob;
        entry[i].top = x->top;
        entry[i].n_targets = x->target ? x->n : 0;
        entry[i].targets = (uint32_t *)(uintptr_t)x->target;
        w.entries[i] = &entry[i];
    }
    return daemon_pack(a, &w.base, data, n, e);
}

static px_code decode_entry(const wire_entry *w, uint32_t i, shard_entry *x, px_err *e)
{
    if (w->rows > SHARD_ROWS_ALL) return px_fail(e, PX_ERANGE, "step.entry.rows", "entry %u: rows is %u, not 0..2", i, w->rows);
    if (w->n_ids && w->n_ids != w->n)
        return px_fail(e, PX_EINVAL, "step.entry.ids", "entry %u: %zu ids for %u tokens", i, w->n_ids, w->n);
    if (w->n_targets && w->n_targets != w->n)
        return px_fail(e, PX_EINVAL, "step.entry.targets", "entry %u: %zu targets for %u tokens", i, w->n_targets, w->n);
    *x = (shard_entry){ .slot = w->slot, .first_pos = w->first_pos, .n = w->n, .id = w->n_ids ? w->ids : NULL,
                        .rows = (shard_rows_wanted)w->rows, .sample = w->sample, .ban_eos = w->ban_eos,
                        .logprob = w->logprob, .top = w->top, .target = w->n_targets ? w->targets : NULL };
    return PX_OK;
}

px_code daemon_step_decode(px_alloc *a, const uint8_t *data, size_t n, shard_step *out, px_err *e)
{
    px_code rc;
    ProtobufCMessage *m;

    if ((rc = proto_pb_unpack(&phalanx__wire__step__descriptor, a, n, data, &m, e))) return rc;
    const wire_step *w = (const wire_step *)m;
    shard_slot_op *op = px_new(a, shard_slot_op, w->n_ops);
    shard_entry *entry = px_new(a, shard_entry, w->n_entries);
    if (!op || !entry) return no_memory(e, "step");
    for (size_t i = 0; i < w->n_ops; i++) {
        const wire_op *x = w->ops[i];
        if ((unsigned)x->op > SHARD_SLOT_CLOSE)
            return px_fail(e, PX_ERANGE, "step.op", "op %zu: kind %d, not 0..2", i, (int)x->op);
        op[i].op = x->op == PHALANX__WIRE__SLOT_OP__KIND__OPEN ? SHARD_SLOT_OPEN
                 : x->op == PHALANX__WIRE__SLOT_OP__KIND__EXTEND ? SHARD_SLOT_EXTEND : SHARD_SLOT_CLOSE;
        op[i].slot = x->slot;
        op[i].block = x->blocks;
        op[i].n_blocks = (uint32_t)x->n_blocks;
        op[i].sampling = (shard_sampling){ .temperature = x->temperature, .top_p = x->top_p, .min_p = x->min_p,
                                           .top_k = x->top_k, .seed = x->seed, .sequence = x->sequence };
    }
    for (size_t i = 0; i < w->n_entries; i++)
        if ((rc = decode_entry(w->entries[i], (uint32_t)i, &entry[i], e))) return rc;
    *out = (shard_step){ .number = w->number, .op = op, .n_ops = (uint32_t)w->n_ops, .entry = entry,
                         .n_entries = (uint32_t)w->n_entries };
    return PX_OK;
}

/* ---- result ---- */

static px_code encode_row(px_alloc *a, const shard_row_result *x, wire_row *w, px_err *e)
{
    *w = (wire_row)PHALANX__WIRE__ROW_RESULT__INIT;
    w->position = x->position;
    w->id = x->id;
    w->logprob = x->logprob;
    w->n_top_ids = w->n_top_logprobs = x->n_top;
    if (!x->n_top) return PX_OK;
    if (!(w->top_ids = px_new(a, uint32_t, x->n_top)) || !(w->top_logprobs = px_new(a, float, x->n_top)))
        return no_memory(e, "result");
    for (uint32_t k = 0; k < x->n_top; k++) {
        w->top_ids[k] = x->top[k].id;
        w->top_logprobs[k] = x->top[k].logprob;
    }
    return PX_OK;
}

px_code daemon_result_encode(px_alloc *a, const shard_result *in, uint8_t **data, size_t *n, px_err *e)
{
    wire_result w = PHALANX__WIRE__RESULT__INIT;
    px_code rc;

    w.step = in->step;
    w.full_gathers = in->full_gathers;
    w.kv_saturated = in->kv_saturated;
    w.n_entries = in->n_entries;
    wire_entry_result *entry = px_new(a, wire_entry_result, in->n_entries);
    if (!(w.entries = px_new(a, wire_entry_result *, in->n_entries)) || !entry) return no_memory(e, "result");
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry_result *x = &in->entry[i];
        entry[i] = (wire_entry_result)PHALANX__WIRE__ENTRY_RESULT__INIT;
        entry[i].slot = x->slot;
        entry[i].nonfinite = x->nonfinite;
        entry[i].n_rows = x->n_rows;
        wire_row *row = px_new(a, wire_row, x->n_rows);
        if (!(entry[i].rows = px_new(a, wire_row *, x->n_rows)) || !row) return no_memory(e, "result");
        for (uint32_t k = 0; k < x->n_rows; k++) {
            if ((rc = encode_row(a, &x->row[k], &row[k], e))) return rc;
            entry[i].rows[k] = &row[k];
        }
        w.entries[i] = &entry[i];
    }
    return daemon_pack(a, &w.base, data, n, e);
}

static px_code decode_row(px_alloc *a, const wire_row *w, shard_row_result *x, px_err *e)
{
    if (w->n_top_ids != w->n_top_logprobs)
        return px_fail(e, PX_EINVAL, "result.top", "%zu ids, %zu log-probabilities", w->n_top_ids, w->n_top_logprobs);
    shard_top *top = px_new(a, shard_top, w->n_top_ids);
    if (!top) return no_memory(e, "result");
    for (size_t k = 0; k < w->n_top_ids; k++) top[k] = (shard_top){ w->top_ids[k], w->top_logprobs[k] };
    *x = (shard_row_result){ .position = w->position, .id = w->id, .logprob = w->logprob, .top = top,
                             .n_top = (uint32_t)w->n_top_ids };
    return PX_OK;
}

px_code daemon_result_decode(px_alloc *a, const uint8_t *data, size_t n, shard_result *out, px_err *e)
{
    px_code rc;
    ProtobufCMessage *m;

    if ((rc = proto_pb_unpack(&phalanx__wire__result__descriptor, a, n, data, &m, e))) return rc;
    const wire_result *w = (const wire_result *)m;
    shard_entry_result *entry = px_new(a, shard_entry_result, w->n_entries);
    if (!entry) return no_memory(e, "result");
    for (size_t i = 0; i < w->n_entries; i++) {
        const wire_entry_result *x = w->entries[i];
        shard_row_result *row = px_new(a, shard_row_result, x->n_rows);
        if (!row) return no_memory(e, "result");
        for (size_t k = 0; k < x->n_rows; k++)
            if ((rc = decode_row(a, x->rows[k], &row[k], e))) return rc;
        entry[i] = (shard_entry_result){ .slot = x->slot, .nonfinite = x->nonfinite, .row = row, .n_rows = (uint32_t)x->n_rows };
    }
    *out = (shard_result){ .step = w->step, .entry = entry, .n_entries = (uint32_t)w->n_entries,
                           .full_gathers = w->full_gathers, .kv_saturated = w->kv_saturated };
    return PX_OK;
}

/* ---- errors ---- */

static char *borrow(const char *s)
{
    return (char *)(uintptr_t)s;               /* protobuf-c's structs are not const; packing changes nothing */
}

void daemon_error_to_wire(const px_err *e, Phalanx__Wire__Error *w)
{
    *w = (Phalanx__Wire__Error)PHALANX__WIRE__ERROR__INIT;
    w->code = e->code;
    w->rank = e->rank;
    w->host = borrow(e->host);
    w->file = borrow(e->file);
    w->field = borrow(e->field);
    w->found = borrow(e->found);
    w->expected = borrow(e->expected);
    w->text = borrow(e->text);
    w->src = borrow(e->src ? e->src : "");
    w->line = e->line > 0 ? (uint32_t)e->line : 0;
}

void daemon_error_from_wire(const Phalanx__Wire__Error *w, px_err *e)
{
    *e = (px_err){ .code = w->code < PX_N_CODES ? (px_code)w->code : PX_EINTERNAL, .rank = w->rank, .line = (int)w->line,
                   .src = "rank" };
    snprintf(e->host, sizeof e->host, "%s", w->host);
    snprintf(e->file, sizeof e->file, "%s", w->file);
    snprintf(e->field, sizeof e->field, "%s", w->field);
    snprintf(e->found, sizeof e->found, "%s", w->found);
    snprintf(e->expected, sizeof e->expected, "%s", w->expected);
    snprintf(e->text, sizeof e->text, "%s", w->text);
}
