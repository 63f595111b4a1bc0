/* Generate, Chat and Score: the engine's deltas as messages of a stream, then its end. */
#include <string.h>

#include "daemon/coordinator/service_stream.h"

/* The most that one message carries of alternatives; the rest of a delta goes into the next ones, so that a stream
 * that fell behind stays below what clients take as one message. */
#define MESSAGE_TOPS (64u << 10)

/* Log-probabilities of n tokens from `first` on; false: no memory. */
static bool add_logprobs(const daemon_stream *t, px_alloc *a, size_t first, size_t n, Phalanx__V1__Output *o)
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

static void add_finish(const daemon_stream *t, Phalanx__V1__FinishInfo *f)
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

static bool ended_well(const daemon_stream *t) { return t->out.finish == DAEMON_STOP || t->out.finish == DAEMON_LENGTH; }

static void no_memory(daemon_stream *t)
{
    px_err e = {0};

    px_fail(&e, PX_ENOMEM, "stream", "no memory for a message");
    daemon_service_refuse(t->c, &e, false, true);
}

/* One message of the delta; the last one of a stream that ended well carries the status too. */
static void send_generated(daemon_stream *t)
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

static void send_scored(daemon_stream *t)
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
static bool more(const daemon_stream *t)
{
    if (t->r->in.kind == DAEMON_SCORE) return t->n_row < t->out.n_row;
    return t->n_token < t->out.n_token || (!t->text_sent && t->out.text.n);
}

static void log_end(const daemon_stream *t)
{
    static const char *const how[] = { "running", "stop", "length", "cancelled", "error" };
    char id[600];

    if (t->s->log->level > PX_DEBUG) return;
    px_log_line(t->s->log, PX_DEBUG, "request_end", "request_id=%s finish=%s prompt=%u completion=%u",
                px_log_quote(t->r->in.id, -1, id, sizeof id), how[t->out.finish], t->r->in.n_prompt, t->out.n_completion);
}

void daemon_stream_answer(daemon_stream *t)
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
