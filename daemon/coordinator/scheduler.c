#include "daemon/coordinator/scheduler.h"

#include <stdio.h>

static void list_push(daemon_list *l, daemon_request *r)
{
    r->prev = l->last;
    r->next = NULL;
    if (l->last) l->last->next = r; else l->first = r;
    l->last = r;
    l->n++;
}

static void list_remove(daemon_list *l, daemon_request *r)
{
    if (r->prev) r->prev->next = r->next; else l->first = r->next;
    if (r->next) r->next->prev = r->prev; else l->last = r->prev;
    r->prev = r->next = NULL;
    l->n--;
}

px_code daemon_scheduler_init(daemon_scheduler *s, px_alloc *a, const daemon_scheduler_args *args, px_err *e)
{
    px_code rc;

    *s = (daemon_scheduler){ .a = a, .args = *args };
    if ((rc = daemon_blocks_init(&s->blocks, a, args->n_blocks, args->block, e))) goto fail;
    if (!(s->free_slot = px_new(a, uint32_t, args->max_sequences)) ||
        !(s->closing = px_new(a, uint32_t, args->max_sequences)) ||
        !(s->op = px_new(a, shard_slot_op, 2 * (size_t)args->max_sequences)) ||
        !(s->entry = px_new(a, shard_entry, args->max_sequences)) ||
        !(s->who = px_new(a, daemon_request *, args->max_sequences)) ||
        !(s->targets = px_new(a, uint32_t, args->token_budget))) {
        rc = px_fail(e, PX_ENOMEM, "max_sequences", "%u slots", args->max_sequences);
        goto fail;
    }
    daemon_scheduler_forget_slots(s);
    return PX_OK;

fail:
    daemon_scheduler_deinit(s);
    return rc;
}

void daemon_scheduler_deinit(daemon_scheduler *s)
{
    if (!s->a) return;
    for (daemon_list *l = &s->waiting; l; l = l == &s->waiting ? &s->running : NULL)
        while (l->first) {
            daemon_request *r = l->first;
            list_remove(l, r);
            daemon_request_unref(r);
        }
    if (s->targets) px_del(s->a, s->targets, s->args.token_budget);
    if (s->who) px_del(s->a, s->who, s->args.max_sequences);
    if (s->entry) px_del(s->a, s->entry, s->args.max_sequences);
    if (s->op) px_del(s->a, s->op, 2 * (size_t)s->args.max_sequences);
    if (s->closing) px_del(s->a, s->closing, s->args.max_sequences);
    if (s->free_slot) px_del(s->a, s->free_slot, s->args.max_sequences);
    daemon_blocks_deinit(&s->blocks);
    *s = (daemon_scheduler){0};
}

void daemon_scheduler_forget_slots(daemon_scheduler *s)
{
    s->n_closing = 0;
    s->n_free_slot = s->args.max_sequences;
    for (uint32_t i = 0; i < s->n_free_slot; i++) s->free_slot[i] = s->n_free_slot - 1 - i;
}

void daemon_scheduler_add(daemon_scheduler *s, daemon_request *r)
{
    list_push(&s->waiting, daemon_request_ref(r));
}

/* Take a request off its list, give back what it holds. */
static void release(daemon_scheduler *s, daemon_list *l, daemon_request *r)
{
    list_remove(l, r);
    if (r->slot >= 0) {
        if (r->opened) s->closing[s->n_closing++] = (uint32_t)r->slot;   /* told before the slot is opened again */
        s->free_slot[s->n_free_slot++] = (uint32_t)r->slot;
        r->slot = -1;
        r->opened = false;
    }
    if (r->block) {
        daemon_blocks_give(&s->blocks, r->block, r->n_taken);
        px_del(r->a, r->block, r->n_block);
        r->block = NULL;
        r->n_block = r->n_taken = 0;
    }
    daemon_request_unref(r);
}

static void reap_list(daemon_scheduler *s, daemon_list *l, px_time_us now)
{
    for (daemon_request *r = l->first, *next; r; r = next) {
        next = r->next;
        px_err e = {0};
        if (atomic_load_explicit(&r->cancelled, memory_order_acquire))
            daemon_request_end(r, DAEMON_CANCELLED, NULL, false);
        else if (now >= r->in.deadline) {
            px_fail(&e, PX_ETIMEOUT, "deadline", "the request's deadline passed");
            daemon_request_end(r, DAEMON_ERROR, &e, false);
        } else if (daemon_request_slow(r, now)) {
            px_fail(&e, PX_EBUSY, "stream", "the client has not read for %lld s", DAEMON_SLOW_READER_US / 1000000);
            daemon_request_end(r, DAEMON_ERROR, &e, false);
        }
        if (r->ended) release(s, l, r);
    }
}

void daemon_scheduler_reap(daemon_scheduler *s, px_time_us now)
{
    reap_list(s, &s->running, now);
    reap_list(s, &s->waiting, now);
}

/* Blocks that the keys span which a step reads and writes: the window's older ones and a chunk, and one more since they need
 * not begin with a block (shard_kv_sequence_bytes plans the same). */
static uint32_t blocks_seen(const daemon_scheduler *s)
{
    if (!s->args.window) return UINT32_MAX;
    return daemon_blocks_for(&s->blocks, (uint64_t)s->args.window - 1 + s->args.token_budget) + 1;
}

void daemon_scheduler_admit(daemon_scheduler *s)
{
    const uint32_t most = blocks_seen(s);
    daemon_request *r;

    while ((r = s->waiting.first)) {
        uint32_t want = daemon_blocks_for(&s->blocks, (uint64_t)r->in.n_prompt + r->in.max_new);
        uint32_t take = want < most ? want : most;
        if (!s->n_free_slot || take > s->blocks.n_free) return;
        px_err e = {0};
        if (!(r->block = px_new(r->a, uint32_t, want))) {
            px_fail(&e, PX_ENOMEM, "request", "%u block ids", want);
            daemon_request_end(r, DAEMON_ERROR, &e, true);
            release(s, &s->waiting, r);
            continue;
        }
        r->n_block = want;
        r->n_taken = take;
        daemon_blocks_take(&s->blocks, take, r->block);
        for (uint32_t i = take; i < want; i++) r->block[i] = r->block[i - take];
        r->slot = (int32_t)s->free_slot[--s->n_free_slot];
        r->n_done = 0;
        list_remove(&s->waiting, r);
        list_push(&s->running, r);
        daemon_request_accept(r);
        r->opened = false;
    }
}

void daemon_scheduler_trim(daemon_scheduler *s, uint32_t queue)
{
    while (s->waiting.n > queue) {
        daemon_request *r = s->waiting.last;
        px_err e = {0};
        px_fail(&e, PX_EBUSY, "queue", "%u requests wait already", queue);
        daemon_request_end(r, DAEMON_ERROR, &e, true);
        release(s, &s->waiting, r);
    }
}

static shard_entry *add_entry(daemon_scheduler *s, daemon_request *r, uint32_t first, uint32_t n, const uint32_t *id)
{
    shard_entry *x = &s->entry[s->n_entries];
    *x = (shard_entry){ .slot = (uint32_t)r->slot, .first_pos = first, .n = n, .id = id };
    s->who[s->n_entries++] = r;
    return x;
}

/* Rows and pairs that this step may still answer with. */
typedef struct room { uint32_t tokens, rows, tops, targets; } room;

static void want_sample(shard_entry *x, const daemon_request *r)
{
    x->rows = SHARD_ROWS_LAST;
    x->sample = true;
    x->logprob = r->in.logprobs;
    x->top = r->in.top;
    x->ban_eos = !r->in.ignore_eos && r->n_token < r->in.min_new;
}

static void compose_generate(daemon_scheduler *s, daemon_request *r, room *left)
{
    if (r->n_done < r->in.n_prompt) {                    /* a chunk of the prompt */
        uint32_t n = r->in.n_prompt - r->n_done;
        bool last = n <= left->tokens && left->rows && left->tops >= r->in.top;
        if (n > left->tokens) n = left->tokens;
        if (!last && n == r->in.n_prompt - r->n_done) n--;        /* no room for its logits: keep a token for later */
        if (!n) return;
        shard_entry *x = add_entry(s, r, r->n_done, n, r->in.prompt + r->n_done);
        left->tokens -= n;
        if (!last) return;
        left->rows--;
        left->tops -= r->in.top;
        want_sample(x, r);
    } else {
        if (!left->tokens || !left->rows || left->tops < r->in.top) return;
        shard_entry *x = add_entry(s, r, r->n_done, 1, r->replayed ? &r->token[r->n_token - 1] : NULL);
        left->tokens--;
        left->rows--;
        left->tops -= r->in.top;
        want_sample(x, r);
    }
}

static void compose_score(daemon_scheduler *s, daemon_request *r, room *left)
{
    if (daemon_request_paused(r)) return;
    uint32_t n = r->in.n_prompt - r->n_done;
    if (n > left->tokens) n = left->tokens;
    if (n > left->rows) n = left->rows;
    if (r->in.top && n > left->tops / r->in.top) n = left->tops / r->in.top;
    if (!n) return;
    shard_entry *x = add_entry(s, r, r->n_done, n, r->in.prompt + r->n_done);
    uint32_t *target = s->targets + left->targets;
    left->targets += n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t next = r->n_done + i + 1;
        target[i] = next < r->in.n_prompt ? r->in.prompt[next] : SHARD_NO_ID;
    }
    x->rows = SHARD_ROWS_ALL;
    x->logprob = true;
    x->top = r->in.top;
    x->target = target;
    left->tokens -= n;
    left->rows -= n;
    left->tops -= n * r->in.top;
}

static bool decoding(const daemon_request *r)
{
    return r->in.kind == DAEMON_GENERATE && r->n_done >= r->in.n_prompt;
}

bool daemon_scheduler_compose(daemon_scheduler *s, uint64_t number, shard_step *out)
{
    room left = { s->args.token_budget, s->args.max_sequences, s->args.max_result_tops, 0 };

    s->n_entries = 0;
    s->n_ops = s->n_closing;                             /* the closes go first; they are filled in below */
    /* Decodes first, so that a long prompt delays no stream; then prompts in their order. */
    for (int pass = 0; pass < 2; pass++)
        for (daemon_request *r = s->running.first; r; r = r->next) {
            if (decoding(r) != (pass == 0)) continue;
            uint32_t before = s->n_entries;
            if (r->in.kind == DAEMON_SCORE) compose_score(s, r, &left);
            else compose_generate(s, r, &left);
            if (s->n_entries > before && !r->opened) {
                s->op[s->n_ops++] = (shard_slot_op){ .op = SHARD_SLOT_OPEN, .slot = (uint32_t)r->slot, .block = r->block,
                                                     .n_blocks = r->n_block, .sampling = r->in.sampling };
                r->opened = true;
            }
        }
    if (!s->n_entries) return false;                     /* closes wait for a step that is sent */
    for (uint32_t i = 0; i < s->n_closing; i++)
        s->op[i] = (shard_slot_op){ .op = SHARD_SLOT_CLOSE, .slot = s->closing[i] };
    s->n_closing = 0;
    /* More streams than tokens in a step: who was first is last next time. */
    if (s->running.n > s->args.token_budget && decoding(s->running.first)) {
        daemon_request *r = s->running.first;
        list_remove(&s->running, r);
        list_push(&s->running, r);
    }
    *out = (shard_step){ .number = number, .op = s->op, .n_ops = s->n_ops, .entry = s->entry, .n_entries = s->n_entries };
    return true;
}

px_code daemon_scheduler_apply(daemon_scheduler *s, const shard_result *res, px_err *e)
{
    char found[32], expected[32];

    if (res->n_entries != s->n_entries) {
        snprintf(found, sizeof found, "%u", res->n_entries);
        snprintf(expected, sizeof expected, "%u", s->n_entries);
        return px_mismatch(e, "result.entries", found, expected);
    }
    for (uint32_t i = 0; i < s->n_entries; i++) {
        const shard_entry *x = &s->entry[i];
        const shard_entry_result *y = &res->entry[i];
        uint32_t rows = x->rows == SHARD_ROWS_ALL ? x->n : x->rows == SHARD_ROWS_LAST ? 1 : 0;
        if (y->slot != x->slot || y->n_rows != rows)
            return px_fail(e, PX_EMISMATCH, "result.entry", "entry %u answers slot %u with %u rows, asked was slot %u with %u",
                           i, y->slot, y->n_rows, x->slot, rows);
        daemon_request *r = s->who[i];
        r->n_done += x->n;
        r->replayed = false;
        daemon_request_take(r, y);
        if (r->ended) release(s, &s->running, r);
    }
    s->n_entries = 0;
    return PX_OK;
}

void daemon_scheduler_end_all(daemon_scheduler *s, const px_err *e, bool retryable)
{
    for (daemon_list *l = &s->waiting; l; l = l == &s->waiting ? &s->running : NULL)
        while (l->first) {
            daemon_request_end(l->first, DAEMON_ERROR, e, retryable);
            release(s, l, l->first);
        }
    s->n_entries = 0;
}
