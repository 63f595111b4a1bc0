#include "daemon/coordinator/request.h"

#include <string.h>

px_code daemon_request_open(daemon_request **out, px_alloc *a, const daemon_request_in *in, const daemon_tokenizer *t,
                            const char *const *stop, const size_t *stop_bytes, size_t n_stop, bool include_stop, px_err *e)
{
    px_code rc;
    daemon_request *r = px_new(a, daemon_request, 1);

    *out = NULL;
    if (!r) return px_fail(e, PX_ENOMEM, "request", "no memory for a request");
    *r = (daemon_request){ .a = a, .slot = -1, .in = *in };
    r->in.prompt = NULL;                               /* taken only on success */
    r->in.release = NULL;
    atomic_init(&r->refs, 1);
    pthread_mutex_init(&r->lock, NULL);
    daemon_bytes_init(&r->out.text, a);
    if (in->max_new && !(r->token = px_new(a, uint32_t, in->max_new))) {
        rc = px_fail(e, PX_ENOMEM, "max_new_tokens", "room for %u tokens", in->max_new);
        goto fail;
    }
    if (in->want_text) {
        if ((rc = daemon_detok_init(&r->detok, a, t, true, stop, stop_bytes, n_stop, include_stop, e))) goto fail;
        r->has_detok = true;
    }
    r->in.prompt = in->prompt;
    r->in.release = in->release;
    *out = r;
    return PX_OK;

fail:
    daemon_request_unref(r);
    return rc;
}

daemon_request *daemon_request_ref(daemon_request *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void daemon_request_out_deinit(daemon_request_out *out, px_alloc *a)
{
    daemon_bytes_deinit(&out->text);
    if (out->token) px_del(a, out->token, out->cap_token);
    if (out->top) px_del(a, out->top, out->cap_top);
    if (out->row) px_del(a, out->row, out->cap_row);
    *out = (daemon_request_out){0};
}

void daemon_request_unref(daemon_request *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    if (r->has_detok) daemon_detok_deinit(&r->detok);
    daemon_request_out_deinit(&r->out, r->a);
    if (r->block) px_del(r->a, r->block, r->n_block);
    if (r->token) px_del(r->a, r->token, r->in.max_new);
    if (r->in.prompt) px_del(r->a, r->in.prompt, r->in.n_prompt);
    pthread_mutex_destroy(&r->lock);
    if (r->in.release) r->in.release(r->in.ctx);
    px_del(r->a, r, 1);
}

static void notify(daemon_request *r)
{
    if (r->in.notify) r->in.notify(r->in.ctx);
}

void daemon_request_accept(daemon_request *r)
{
    pthread_mutex_lock(&r->lock);
    r->out.accepted = true;
    pthread_mutex_unlock(&r->lock);
    notify(r);
}

/* Under the lock: what is held back is released, and the end is written down. */
static void finish_locked(daemon_request *r, daemon_finish finish, const px_err *e, bool retryable)
{
    px_err late = {0};

    if (r->ended) return;
    r->ended = true;
    if (r->has_detok && (finish == DAEMON_STOP || finish == DAEMON_LENGTH) &&
        daemon_detok_finish(&r->detok, &r->out.text, &late)) {
        finish = DAEMON_ERROR;
        e = &late;
    }
    r->out.finish = finish;
    r->out.n_completion = r->n_token;
    r->out.retryable = retryable;
    if (e) r->out.error = *e;
    else if (finish == DAEMON_CANCELLED) px_fail(&r->out.error, PX_ECANCELLED, "request", "the request was cancelled");
}

void daemon_request_end(daemon_request *r, daemon_finish finish, const px_err *e, bool retryable)
{
    pthread_mutex_lock(&r->lock);
    finish_locked(r, finish, e, retryable);
    pthread_mutex_unlock(&r->lock);
    notify(r);
}

/* Room for n more in a growing array: doubles. */
static void *room(px_alloc *a, void *p, size_t used, size_t *cap, size_t n, size_t each, size_t align)
{
    size_t want;

    if (px_add(used, n, &want)) return NULL;
    if (want <= *cap) return p;
    size_t next = *cap ? *cap : 16;
    while (next < want)
        if (px_mul(next, 2, &next)) return NULL;
    void *q = px_alloc_grow(a, p, *cap, next, each, align);
    if (q) *cap = next;
    return q;
}

static bool add_tops(daemon_request *r, const shard_row_result *row)
{
    daemon_request_out *o = &r->out;
    void *p;

    if (!row->n_top) return true;
    if (!(p = room(r->a, o->top, o->n_top, &o->cap_top, row->n_top, sizeof *o->top, _Alignof(shard_top)))) return false;
    o->top = p;
    memcpy(o->top + o->n_top, row->top, row->n_top * sizeof *o->top);
    o->n_top += row->n_top;
    o->pending_bytes += row->n_top * sizeof *o->top;
    return true;
}

static bool add_score_row(daemon_request *r, const shard_row_result *row)
{
    daemon_request_out *o = &r->out;
    void *p = room(r->a, o->row, o->n_row, &o->cap_row, 1, sizeof *o->row, _Alignof(shard_row_result));

    if (!p) return false;
    o->row = p;
    o->row[o->n_row] = *row;
    o->row[o->n_row++].top = NULL;
    o->pending_bytes += sizeof *o->row;
    return add_tops(r, row);
}

static bool add_token(daemon_request *r, const shard_row_result *row)
{
    daemon_request_out *o = &r->out;
    void *p = room(r->a, o->token, o->n_token, &o->cap_token, 1, sizeof *o->token, _Alignof(daemon_token_out));

    if (!p) return false;
    o->token = p;
    o->token[o->n_token++] = (daemon_token_out){ row->id, row->logprob, (uint32_t)o->n_top, row->n_top };
    o->pending_bytes += sizeof *o->token;
    return add_tops(r, row);
}

static bool among(uint32_t id, const uint32_t *list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i] == id) return true;
    return false;
}

/* One sampled token: under the lock. */
static void take_token(daemon_request *r, const shard_row_result *row, px_err *e)
{
    bool hit = false;
    size_t which = 0;

    if (!add_token(r, row)) {
        px_fail(e, PX_ENOMEM, "request", "no memory for a token");
        return;
    }
    r->token[r->n_token++] = row->id;
    bool may_stop = r->n_token > r->in.min_new;
    bool eos = !r->in.ignore_eos && among(row->id, r->in.eos, r->in.n_eos);
    if (may_stop && (eos || among(row->id, r->in.stop_id, r->in.n_stop_id))) {
        r->out.has_stop_id = true;
        r->out.stop_id = row->id;
        finish_locked(r, DAEMON_STOP, NULL, false);
        return;
    }
    /* Rows beyond the tokenizer's vocabulary (some models pad it) can be sampled; they have no text. */
    if (r->has_detok && row->id < daemon_tokenizer_n_vocab(r->detok.t)) {
        r->detok.deaf = !may_stop;
        if (daemon_detok_push(&r->detok, row->id, &r->out.text, &hit, &which, e)) return;
        if (hit) {
            size_t n = r->detok.stop[which].bytes;
            if (n >= sizeof r->out.stop_string) n = sizeof r->out.stop_string - 1;
            memcpy(r->out.stop_string, r->detok.stop[which].text, n);
            r->out.stop_string[n] = 0;
            r->out.n_stop_string = n;
            r->out.has_stop_string = true;
            finish_locked(r, DAEMON_STOP, NULL, false);
            return;
        }
    }
    if (r->n_token >= r->in.max_new) finish_locked(r, DAEMON_LENGTH, NULL, false);
}

void daemon_request_take(daemon_request *r, const shard_entry_result *res)
{
    px_err e = {0};
    bool changed = false;

    pthread_mutex_lock(&r->lock);
    if (!r->out.pending_bytes) r->out.oldest = px_now_us();
    if (res->nonfinite)
        px_fail(&e, PX_EINTERNAL, "logits", "the model's numbers are not finite for this input");
    for (uint32_t i = 0; i < res->n_rows && !e.code && !r->ended; i++) {
        changed = true;
        if (r->in.kind == DAEMON_GENERATE) take_token(r, &res->row[i], &e);
        else if (!add_score_row(r, &res->row[i])) px_fail(&e, PX_ENOMEM, "request", "no memory for a row of scores");
    }
    if (e.code) finish_locked(r, DAEMON_ERROR, &e, e.code == PX_ENOMEM);
    else if (r->in.kind == DAEMON_SCORE && r->n_done >= r->in.n_prompt) finish_locked(r, DAEMON_STOP, NULL, false);
    changed = changed || r->ended;
    pthread_mutex_unlock(&r->lock);
    if (changed) notify(r);
}

bool daemon_request_lives(daemon_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool lives = r->out.finish == DAEMON_RUNNING;
    pthread_mutex_unlock(&r->lock);
    return lives;
}

bool daemon_request_paused(daemon_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool paused = r->out.pending_bytes > DAEMON_PAUSE_BYTES;
    pthread_mutex_unlock(&r->lock);
    return paused;
}

bool daemon_request_slow(daemon_request *r, px_time_us now)
{
    pthread_mutex_lock(&r->lock);
    bool slow = r->out.pending_bytes && now - r->out.oldest > DAEMON_SLOW_READER_US;
    pthread_mutex_unlock(&r->lock);
    return slow;
}

void daemon_request_swap(daemon_request *r, daemon_request_out *out)
{
    pthread_mutex_lock(&r->lock);
    daemon_request_out mine = r->out;
    /* The caller's emptied storage goes back for the next delta. */
    r->out.text = out->text;
    r->out.token = out->token; r->out.cap_token = out->cap_token;
    r->out.top = out->top;     r->out.cap_top = out->cap_top;
    r->out.row = out->row;     r->out.cap_row = out->cap_row;
    r->out.text.n = r->out.n_token = r->out.n_top = r->out.n_row = 0;
    if (!r->out.text.a) daemon_bytes_init(&r->out.text, r->a);
    r->out.pending_bytes = 0;
    *out = mine;
    pthread_mutex_unlock(&r->lock);
}
