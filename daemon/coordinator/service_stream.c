/* Generate, Chat and Score: from the message over tokenization to the engine, and the stream's life. */
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/service_stream.h"

/* ---- the bell ---- */

/* What the engine rings.  It outlives both sides: the call lets go of it when it ends, the request when it is freed. */
typedef struct daemon_bell {
    px_alloc *a;
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    daemon_call *call;                       /* NULL: the call has ended */
} daemon_bell;

static void bell_unref(daemon_bell *b)
{
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_destroy(&b->lock);
    px_del(b->a, b, 1);
}

static void bell_ring(void *ctx)             /* the engine's thread */
{
    daemon_bell *b = ctx;

    pthread_mutex_lock(&b->lock);
    if (b->call) daemon_call_post(b->call);
    pthread_mutex_unlock(&b->lock);
}

static void bell_release(void *ctx) { bell_unref(ctx); }

static daemon_bell *bell_open(px_alloc *a, daemon_call *c)
{
    daemon_bell *b = px_new(a, daemon_bell, 1);

    if (!b) return NULL;
    b->a = a;
    atomic_init(&b->refs, 2);                /* the stream's and the request's */
    pthread_mutex_init(&b->lock, NULL);
    b->call = c;
    return b;
}

/* ---- from the message to the engine ---- */

static px_code open_request(daemon_stream *t, const uint32_t *id, size_t n, px_err *e)
{
    daemon_ask *q = &t->ask;
    px_alloc *a = t->s->a;
    px_code rc;

    if ((rc = daemon_ask_prompt(q, id, n, t->model, t->s->config->default_max_new_tokens, e))) return rc;
    if (!(q->in.prompt = px_new(a, uint32_t, n)) || !(t->bell = bell_open(a, t->c))) {
        rc = px_fail(e, PX_ENOMEM, "request", "no memory for a request");
        goto fail;
    }
    memcpy(q->in.prompt, id, n * sizeof *id);
    q->in.deadline = t->c->deadline;
    q->in.notify = bell_ring;
    q->in.release = bell_release;
    q->in.ctx = t->bell;
    if ((rc = daemon_request_open(&t->r, a, &q->in, t->model->tokenizer, q->stop, q->stop_bytes, q->n_stop, q->include_stop, e))) {
        bell_unref(t->bell);                 /* there is no request to let go of it */
        goto fail;
    }
    q->in.prompt = NULL;
    return PX_OK;

fail:
    if (q->in.prompt) px_del(a, q->in.prompt, n);
    q->in.prompt = NULL;
    return rc;
}

static void submit(daemon_stream *t, const uint32_t *id, size_t n)
{
    px_err e = {0};

    t->streaming = true;
    if (open_request(t, id, n, &e) || daemon_engine_submit(t->s->engine, t->r, &e)) {
        daemon_service_refuse(t->c, &e, false, true);
        return;
    }
    daemon_ids_deinit(&t->ids);
    daemon_call_arena_drop(t->c);
}

static void tokenize(daemon_stream *t)
{
    size_t most = daemon_ask_max_ids(t->model);

    if (daemon_call_over(t->c)) return;
    if (t->ask.message)
        daemon_chat_encode(t->model->chat, t->model->tokenizer, t->ask.message, t->ask.n_messages, most, &t->ids, &t->e);
    else
        daemon_tokenizer_encode(t->model->tokenizer, t->ask.text, t->ask.text_bytes,
                                &(daemon_encode_args){ .add_special = true, .max_ids = most }, &t->ids, &t->e);
}

static void tokenized(daemon_stream *t)
{
    px_err e = {0};

    if (t->e.code == PX_ERANGE) {            /* it gave up early: say it in the caller's words */
        char most[40];
        snprintf(most, sizeof most, "at most %u", t->model->context - (t->ask.in.kind != DAEMON_SCORE));
        px_refuse(&e, PX_ERANGE, t->ask.message ? "messages" : "prompt.text", t->e.found, most,
                  "the prompt is longer than the context");
        daemon_service_refuse(t->c, &e, false, false);
    } else if (t->e.code) daemon_service_refuse(t->c, &t->e, t->e.code == PX_EUNSUP, t->e.code == PX_ENOMEM);
    else submit(t, t->ids.id, t->ids.n);
}

static void run_job(void *ctx)               /* a worker's thread */
{
    daemon_stream *t = ctx;
    daemon_call *c = t->c;

    tokenize(t);
    atomic_store_explicit(&t->ids_known, true, memory_order_release);
    daemon_call_post(c);
    daemon_call_unref(c);
}

static void start(daemon_stream *t)
{
    px_err e = {0};

    if (!t->ask.text && !t->ask.message) submit(t, t->ask.ids, t->ask.n_ids);
    else if (t->ask.text_bytes < DAEMON_INLINE_TEXT) {
        tokenize(t);
        tokenized(t);
    } else {
        t->job = (daemon_task){ .run = run_job, .ctx = t, .bytes = t->ask.text_bytes };
        daemon_call_ref(t->c);
        if (!daemon_work_put(&t->s->work, &t->job, &e)) return;
        daemon_service_refuse(t->c, &e, false, true);
        daemon_call_unref(t->c);
    }
}

typedef enum which { GENERATE, CHAT, SCORE } which;

static px_code ask(daemon_stream *t, which w, const ProtobufCMessage *m, px_err *e)
{
    switch (w) {
    case GENERATE: return daemon_ask_generate(&t->ask, (const void *)m, t->model, e);
    case CHAT:     return daemon_ask_chat(&t->ask, daemon_call_arena(t->c), (const void *)m, t->model, e);
    default:       return daemon_ask_score(&t->ask, (const void *)m, t->model, e);
    }
}

static void message(daemon_call *c, which w, const ProtobufCMessageDescriptor *d, const uint8_t *data, size_t n)
{
    daemon_service *s = daemon_service_of(c);
    const daemon_model *model = daemon_service_ready(c);
    ProtobufCMessage *m = model ? daemon_service_unpack(c, d, data, n) : NULL;
    daemon_stream *t;
    px_err e = {0};

    if (!m) return;
    if (!(t = px_new(s->a, daemon_stream, 1))) {
        px_fail(&e, PX_ENOMEM, "request", "no memory for a stream");
        daemon_service_refuse(c, &e, false, true);
        return;
    }
    t->s = s;
    t->c = c;
    t->model = model;
    daemon_ids_init(&t->ids, s->a);
    c->state = t;
    if (ask(t, w, m, &e)) daemon_service_refuse(c, &e, t->ask.precondition, e.code == PX_ENOMEM);
    else start(t);
}

void daemon_generate_message(daemon_call *c, const uint8_t *data, size_t n)
{
    message(c, GENERATE, &phalanx__v1__generate_request__descriptor, data, n);
}

void daemon_chat_message(daemon_call *c, const uint8_t *data, size_t n)
{
    message(c, CHAT, &phalanx__v1__chat_request__descriptor, data, n);
}

void daemon_score_message(daemon_call *c, const uint8_t *data, size_t n)
{
    message(c, SCORE, &phalanx__v1__score_request__descriptor, data, n);
}

/* ---- its life ---- */

void daemon_stream_resume(daemon_call *c)
{
    daemon_stream *t = c->state;

    if (!t) return;
    if (t->streaming) daemon_stream_answer(t);
    else if (t->job.run && atomic_load_explicit(&t->ids_known, memory_order_acquire)) tokenized(t);
}

void daemon_stream_end(daemon_call *c)
{
    daemon_stream *t = c->state;

    if (!t) return;
    if (t->bell) {
        pthread_mutex_lock(&t->bell->lock);
        t->bell->call = NULL;
        pthread_mutex_unlock(&t->bell->lock);
        bell_unref(t->bell);
        t->bell = NULL;
    }
    if (t->r && t->out.finish == DAEMON_RUNNING) {
        atomic_store_explicit(&t->r->cancelled, true, memory_order_release);
        daemon_engine_wake(t->s->engine);
    }
}

void daemon_stream_drop(daemon_call *c)
{
    daemon_stream *t = c->state;

    if (!t) return;
    daemon_ids_deinit(&t->ids);
    daemon_request_out_deinit(&t->out, t->s->a);
    daemon_request_unref(t->r);
    px_del(t->s->a, t, 1);
    c->state = NULL;
}
