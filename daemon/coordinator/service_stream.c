/* Generate, Chat and Score: from the message over tokenization to the engine, and its deltas back as a stream. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/service.h"

/* The most that one message carries of alternatives; the rest of a delta goes into the next ones, so that a stream
 * that fell behind stays below what clients take as one message. */
#define MESSAGE_TOPS (64u << 10)

/* What the engine rings.  It outlives both sides: the call lets go of it when it ends, the request when it is freed. */
typedef struct bell {
    px_alloc *a;
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    daemon_call *call;                       /* NULL: the call has ended */
} bell;

typedef enum stage { TOKENIZING, STREAMING } stage;

typedef struct stream {
    daemon_service *s;
    daemon_call    *c;
    const daemon_model *model;
    stage           at;
    daemon_ask      ask;                     /* borrows from the call's arena, until the request is open */
    daemon_job      job;
    _Atomic bool    ids_known;               /* job is done: ids, e */
    daemon_ids      ids;
    px_err          e;
    bell           *bell;
    daemon_request *r;
    daemon_request_out out;                  /* the delta that is being sent */
    size_t          n_token, n_row, n_top;   /* of the delta, sent so far */
    bool            text_sent, first_sent, begun;
} stream;

/* ---- the bell ---- */

static void bell_unref(bell *b)
{
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_destroy(&b->lock);
    px_del(b->a, b, 1);
}

static void bell_ring(void *ctx)             /* the engine's thread */
{
    bell *b = ctx;

    pthread_mutex_lock(&b->lock);
    if (b->call) daemon_call_post(b->call);
    pthread_mutex_unlock(&b->lock);
}

static void bell_release(void *ctx) { bell_unref(ctx); }

static bell *bell_open(px_alloc *a, daemon_call *c)
{
    bell *b = px_new(a, bell, 1);

    if (!b) return NULL;
    b->a = a;
    atomic_init(&b->refs, 2);                /* the stream's and the request's */
    pthread_mutex_init(&b->lock, NULL);
    b->call = c;
    return b;
}

/* ---- from the message to the engine ---- */

static px_code open_request(stream *t, const uint32_t *id, size_t n, px_err *e)
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

static void submit(stream *t, const uint32_t *id, size_t n)
{
    px_err e = {0};

    t->at = STREAMING;
    if (open_request(t, id, n, &e) || daemon_engine_submit(t->s->engine, t->r, &e)) {
        daemon_service_refuse(t->c, &e, false, true);
        return;
    }
    daemon_ids_deinit(&t->ids);
    daemon_call_arena_drop(t->c);
}

static void tokenize(stream *t)
{
    size_t most = daemon_ask_max_ids(t->model);

    if (daemon_call_over(t->c)) return;
    if (t->ask.message)
        daemon_chat_encode(t->model->chat, t->model->tokenizer, t->ask.message, t->ask.n_messages, most, &t->ids, &t->e);
    else
        daemon_tokenizer_encode(t->model->tokenizer, t->ask.text, t->ask.text_bytes,
                                &(daemon_encode_args){ .add_special = true, .max_ids = most }, &t->ids, &t->e);
}

static void tokenized(stream *t)
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
    stream *t = ctx;
    daemon_call *c = t->c;

    tokenize(t);
    atomic_store_explicit(&t->ids_known, true, memory_order_release);
    daemon_call_post(c);
    daemon_call_unref(c);
}

static void start(stream *t)
{
    px_err e = {0};

    if (!t->ask.text && !t->ask.message) submit(t, t->ask.ids, t->ask.n_ids);
    else if (t->ask.text_bytes < DAEMON_INLINE_TEXT) {
        tokenize(t);
        tokenized(t);
    } else {
        t->job = (daemon_job){ .run = run_job, .ctx = t, .bytes = t->ask.text_bytes };
        daemon_call_ref(t->c);
        if (!daemon_work_put(&t->s->work, &t->job, &e)) return;
        daemon_service_refuse(t->c, &e, false, true);
        daemon_call_unref(t->c);
    }
}

typedef enum which { GENERATE, CHAT, SCORE } which;

static px_code ask(stream *t, which w, const ProtobufCMessage *m, px_err *e)
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
    stream *t;
    px_err e = {0};

    if (!m) return;
    if (!(t = px_new(s->a, stream, 1))) {
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

/* ---- from the engine to the stream ---- */

/* Log-probabilities of n tokens from `first` on; false: no memory. */
static bool add_logprobs(const stream *t, px_alloc *a, size_t first, size_t n, Phalanx__V1__Output *o)
{
    Phalanx__V1__TokenLogprob *one = px_new(a, Phalanx__V1__TokenLogprob, n);

    if (!one || !(o->logprobs = px_new(a, Phalanx__V1__TokenLogprob *, n))) return false;
    for (size_t i = 0; i < n; i++) {
        const daemon_token_out *x = &t->out.token[first + i];
        Phalanx__V1__TopLogprob *top = px_new(a, Phalanx__V1__TopLogprob, x->n_top);
        phalanx__v1__token_logprob__init(&one[i]);
        o->logprobs[i] = &one[i];
        one[i].id = x->id;
        one[i].logprob = x->logprob;
        if (!top || !(one[i].top = px_new(a, Phalanx__V1__TopLogprob *, x->n_top))) return false;
        for (uint32_t k = 0; k < x->n_top; k++) {
            phalanx__v1__top_logprob__init(&top[k]);
            top[k].id = t->out.top[x->top_at + k].id;
            top[k].logprob = t->out.top[x->top_at + k].logprob;
            one[i].top[k] = &top[k];
        }
        one[i].n_top = x->n_top;
    }
    o->n_logprobs = n;
    return true;
}

static void add_finish(const stream *t, Phalanx__V1__FinishInfo *f)
{
    f->finish_reason = t->out.finish == DAEMON_STOP ? PHALANX__V1__FINISH_REASON__STOP : PHALANX__V1__FINISH_REASON__LENGTH;
    if (t->out.has_stop_string) {
        f->stop_case = PHALANX__V1__FINISH_INFO__STOP_STOP_STRING;
        f->stop_string = daemon_service_bytes(t->out.stop_string, t->out.n_stop_string);
    } else if (t->out.has_stop_id) {
        f->stop_case = PHALANX__V1__FINISH_INFO__STOP_STOP_TOKEN_ID;
        f->stop_token_id = t->out.stop_id;
    }
}

static bool ended_well(const stream *t) { return t->out.finish == DAEMON_STOP || t->out.finish == DAEMON_LENGTH; }

static void no_memory(stream *t)
{
    px_err e = {0};

    px_fail(&e, PX_ENOMEM, "stream", "no memory for a message");
    daemon_service_refuse(t->c, &e, false, true);
}

/* One message of the delta; the last one of a stream that ended well carries the status too. */
static void send_generated(stream *t)
{
    px_alloc *a = daemon_call_scratch(t->c);
    Phalanx__V1__GenerateResponse m = PHALANX__V1__GENERATE_RESPONSE__INIT;
    Phalanx__V1__Output o = PHALANX__V1__OUTPUT__INIT, *outputs = &o;
    Phalanx__V1__PromptInfo prompt = PHALANX__V1__PROMPT_INFO__INIT;
    Phalanx__V1__FinishInfo finish = PHALANX__V1__FINISH_INFO__INIT;
    Phalanx__V1__Usage usage = PHALANX__V1__USAGE__INIT;
    size_t n = 0, tops = 0;

    while (t->n_token + n < t->out.n_token && tops < MESSAGE_TOPS) tops += t->out.token[t->n_token + n++].n_top + 1;
    bool last = t->n_token + n == t->out.n_token && ended_well(t);
    m.request_id = daemon_service_bytes(t->r->in.id, strlen(t->r->in.id));
    if (!t->first_sent) {
        prompt.token_ids = t->r->in.prompt;
        prompt.n_token_ids = t->r->in.n_prompt;
        prompt.seed = t->r->in.sampling.seed;
        m.prompt_info = &prompt;
    }
    if (!t->text_sent) o.text = daemon_service_bytes(t->out.text.p, t->out.text.n);
    if (n && (!(o.token_ids = px_new(a, uint32_t, n)) || (t->r->in.logprobs && !add_logprobs(t, a, t->n_token, n, &o)))) {
        no_memory(t);
        return;
    }
    for (; o.n_token_ids < n; o.n_token_ids++) o.token_ids[o.n_token_ids] = t->out.token[t->n_token + o.n_token_ids].id;
    if (last) {
        add_finish(t, &finish);
        o.finish_info = &finish;
        usage.prompt_tokens = t->r->in.n_prompt;
        usage.completion_tokens = t->out.n_completion;
        m.usage = &usage;
    }
    m.outputs = &outputs;
    m.n_outputs = 1;
    t->n_token += n;
    t->text_sent = t->first_sent = t->begun = true;
    if (last) daemon_call_finish(t->c, &m.base);
    else daemon_call_send(t->c, &m.base);
}

static void send_scored(stream *t)
{
    px_alloc *a = daemon_call_scratch(t->c);
    Phalanx__V1__ScoreResponse m = PHALANX__V1__SCORE_RESPONSE__INIT;
    const shard_row_result *row = &t->out.row[t->n_row];
    const shard_top *top = t->out.top + t->n_top;

    m.position = row->position;
    if (row->id != SHARD_NO_ID) {
        m.id_presence_case = PHALANX__V1__SCORE_RESPONSE__ID_PRESENCE_ID;
        m.id = row->id;
        m.logprob_presence_case = PHALANX__V1__SCORE_RESPONSE__LOGPROB_PRESENCE_LOGPROB;
        m.logprob = row->logprob;
    }
    if (row->n_top && (!(m.top_ids = px_new(a, uint32_t, row->n_top)) || !(m.top_logprobs = px_new(a, float, row->n_top)))) {
        no_memory(t);
        return;
    }
    for (; m.n_top_ids < row->n_top; m.n_top_ids++, m.n_top_logprobs++) {
        m.top_ids[m.n_top_ids] = top[m.n_top_ids].id;
        m.top_logprobs[m.n_top_logprobs] = top[m.n_top_logprobs].logprob;
    }
    t->n_top += row->n_top;
    t->begun = true;
    if (++t->n_row == t->out.n_row && ended_well(t)) daemon_call_finish(t->c, &m.base);
    else daemon_call_send(t->c, &m.base);
}

/* Whether something of the delta has not been sent. */
static bool more(const stream *t)
{
    if (t->r->in.kind == DAEMON_SCORE) return t->n_row < t->out.n_row;
    return t->n_token < t->out.n_token || (!t->text_sent && t->out.text.n);
}

static void log_end(const stream *t)
{
    static const char *const how[] = { "running", "stop", "length", "cancelled", "error" };
    char id[600];

    if (t->s->log->level > PX_DEBUG) return;
    px_log_line(t->s->log, PX_DEBUG, "request_end", "request_id=%s finish=%s prompt=%u completion=%u",
                px_log_quote(t->r->in.id, -1, id, sizeof id), how[t->out.finish], t->r->in.n_prompt, t->out.n_completion);
}

/* As long as the send slot is free: what is left of the delta, then the end, or the next delta. */
static void pump(stream *t)
{
    while (daemon_call_can_send(t->c)) {
        if (more(t)) {
            if (t->r->in.kind == DAEMON_SCORE) send_scored(t);
            else send_generated(t);
        } else if (t->out.finish != DAEMON_RUNNING) {
            log_end(t);
            if (!ended_well(t)) daemon_service_refuse(t->c, &t->out.error, false, t->out.retryable);
            else if (t->r->in.kind == DAEMON_SCORE) daemon_call_finish(t->c, NULL);
            else send_generated(t);          /* nothing but the end is left */
        } else {
            bool accepted = t->out.accepted;
            daemon_request_swap(t->r, &t->out);
            t->n_token = t->n_row = t->n_top = 0;
            t->text_sent = false;
            if (t->out.pending_bytes > DAEMON_PAUSE_BYTES) daemon_engine_wake(t->s->engine);   /* it waited for room */
            if (t->out.accepted && !accepted && !t->begun && !more(t)) {
                t->begun = true;
                daemon_call_begin(t->c);
            } else if (!more(t) && t->out.finish == DAEMON_RUNNING) return;
        }
    }
}

void daemon_stream_resume(daemon_call *c)
{
    stream *t = c->state;

    if (!t) return;
    if (t->at == STREAMING) pump(t);
    else if (t->job.run && atomic_load_explicit(&t->ids_known, memory_order_acquire)) tokenized(t);
}

void daemon_stream_end(daemon_call *c)
{
    stream *t = c->state;

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
    stream *t = c->state;

    if (!t) return;
    daemon_ids_deinit(&t->ids);
    daemon_request_out_deinit(&t->out, t->s->a);
    daemon_request_unref(t->r);
    px_del(t->s->a, t, 1);
    c->state = NULL;
}
