#include "daemon/coordinator/validate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "shard/plan/bytes.h"

typedef Phalanx__V1__Sampling        sampling_msg;
typedef Phalanx__V1__Decoding        decoding_msg;
typedef Phalanx__V1__Stopping        stopping_msg;
typedef Phalanx__V1__ResponseOptions response_msg;
typedef Phalanx__V1__Prompt          prompt_msg;

static px_code out_of_range(px_err *e, const char *field, double found, const char *expected)
{
    char f[40];
    snprintf(f, sizeof f, "%.9g", found);
    return px_refuse(e, PX_ERANGE, field, f, expected, "out of range");
}

static px_code too_many(px_err *e, const char *field, uint64_t found, uint64_t most, const char *unit)
{
    char f[40], x[60];
    snprintf(f, sizeof f, "%llu", (unsigned long long)found);
    snprintf(x, sizeof x, "at most %llu", (unsigned long long)most);
    return px_refuse(e, PX_ERANGE, field, f, x, "too many %s", unit);
}

static px_code not_yet(px_err *e, const char *field)
{
    return px_fail(e, PX_EUNSUP, field, "not served yet");
}

/* ---- parts ---- */

px_code daemon_check_model(const ProtobufCBinaryData *name, const daemon_model *model, px_err *e)
{
    const char *have = model->manifest.model;
    char found[100];

    if (!name->len || (name->len == strlen(have) && !memcmp(name->data, have, name->len))) return PX_OK;
    snprintf(found, sizeof found, "%.*s", name->len > 96 ? 96 : (int)name->len, (const char *)name->data);
    return px_refuse(e, PX_ENOTFOUND, "model", found, have, "another model is served");
}

px_code daemon_check_tokenizer(const daemon_model *model, const char *field, px_err *e)
{
    if (model->tokenizer) return PX_OK;
    return px_fail(e, PX_EUNSUP, field, "the shard set has no tokenizer: it serves token ids");
}

px_code daemon_check_text(const ProtobufCBinaryData *text, const char *field, px_err *e)
{
    if (text->len > DAEMON_MAX_PROMPT_BYTES) return too_many(e, field, text->len, DAEMON_MAX_PROMPT_BYTES, "bytes");
    if (!px_utf8_valid((const char *)text->data, text->len)) return px_fail(e, PX_EINVAL, field, "the text is not UTF-8");
    return PX_OK;
}

px_code daemon_check_ids(const uint32_t *id, size_t n, uint32_t n_vocab, const char *field, px_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] >= n_vocab) {
            char name[64], expected[40];
            snprintf(name, sizeof name, "%s[%zu]", field, i);
            snprintf(expected, sizeof expected, "below %u", n_vocab);
            char found[24];
            snprintf(found, sizeof found, "%u", id[i]);
            return px_refuse(e, PX_ERANGE, name, found, expected, "the id is not in the vocabulary");
        }
    return PX_OK;
}

/* Control characters: C0, DEL, and C1 (U+0080..U+009F: C2 80..C2 9F). */
static bool printable(const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] == 0x7f || (s[i] == 0xc2 && i + 1 < n && s[i + 1] < 0xa0)) return false;
    return true;
}

px_code daemon_check_request_id(const ProtobufCBinaryData *id, char out[128], px_err *e)
{
    uint64_t random;

    if (id->len > DAEMON_MAX_REQUEST_ID) return too_many(e, "request_id", id->len, DAEMON_MAX_REQUEST_ID, "bytes");
    if (!px_utf8_valid((const char *)id->data, id->len) || !printable(id->data, id->len))
        return px_fail(e, PX_EINVAL, "request_id", "it has to be printable UTF-8");
    if (id->len) {
        memcpy(out, id->data, id->len);
        out[id->len] = 0;
        return PX_OK;
    }
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) return px_fail_errno(e, "request_id", "getrandom");
    snprintf(out, 128, "%016llx", (unsigned long long)random);
    return PX_OK;
}

/* ---- sampling, decoding, stopping, response ---- */

static px_code sampling(daemon_ask *q, bool has_temperature, float temperature, const sampling_msg *m,
                        const shard_manifest *set, px_err *e)
{
    shard_sampling *s = &q->in.sampling;

    *s = (shard_sampling){
        .temperature = isnan(set->default_temperature) ? 1 : set->default_temperature,
        .top_p = isnan(set->default_top_p) ? 1 : set->default_top_p,
        .top_k = set->default_top_k == UINT32_MAX ? 0 : set->default_top_k,
    };
    if (has_temperature) {
        if (!(temperature >= 0 && temperature <= 100)) return out_of_range(e, "temperature", temperature, "0 (greedy) to 100");
        s->temperature = temperature == 0 ? 0 : temperature;         /* no negative zero */
    }
    if (m && m->top_k_presence_case == PHALANX__V1__SAMPLING__TOP_K_PRESENCE_TOP_K) s->top_k = m->top_k;
    if (m && m->top_p_presence_case == PHALANX__V1__SAMPLING__TOP_P_PRESENCE_TOP_P) {
        if (!(m->top_p > 0 && m->top_p <= 1)) return out_of_range(e, "sampling.top_p", m->top_p, "above 0, up to 1");
        s->top_p = m->top_p;
    }
    if (m && m->min_p_presence_case == PHALANX__V1__SAMPLING__MIN_P_PRESENCE_MIN_P) {
        if (!(m->min_p >= 0 && m->min_p <= 1)) return out_of_range(e, "sampling.min_p", m->min_p, "0 to 1");
        s->min_p = m->min_p == 0 ? 0 : m->min_p;
    }
    if (m && m->num_sequences > DAEMON_MAX_NUM_SEQUENCES) return not_yet(e, "sampling.num_sequences");
    if (m && m->seed_presence_case == PHALANX__V1__SAMPLING__SEED_PRESENCE_SEED) s->seed = m->seed;
    else if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed)
        return px_fail_errno(e, "sampling.seed", "getrandom");
    return PX_OK;
}

static px_code decoding(const decoding_msg *m, px_err *e)
{
    if (!m) return PX_OK;
    if (!isfinite(m->presence_penalty)) return out_of_range(e, "decoding.presence_penalty", m->presence_penalty, "a finite number");
    if (!isfinite(m->frequency_penalty)) return out_of_range(e, "decoding.frequency_penalty", m->frequency_penalty, "a finite number");
    if (!isfinite(m->repetition_penalty)) return out_of_range(e, "decoding.repetition_penalty", m->repetition_penalty, "a finite number");
    if (m->presence_penalty != 0) return not_yet(e, "decoding.presence_penalty");
    if (m->frequency_penalty != 0) return not_yet(e, "decoding.frequency_penalty");
    if (m->repetition_penalty != 0 && m->repetition_penalty != 1) return not_yet(e, "decoding.repetition_penalty");
    if (m->n_logit_bias) return not_yet(e, "decoding.logit_bias");
    return PX_OK;
}

static px_code stop_strings(daemon_ask *q, const stopping_msg *m, const daemon_model *model, px_err *e)
{
    char field[64];

    if (!m->n_stop_strings) return PX_OK;
    if (daemon_check_tokenizer(model, "stopping.stop_strings", e)) return q->precondition = true, PX_EUNSUP;
    if (m->n_stop_strings > DAEMON_MAX_STOP_STRINGS)
        return too_many(e, "stopping.stop_strings", m->n_stop_strings, DAEMON_MAX_STOP_STRINGS, "stop strings");
    for (size_t i = 0; i < m->n_stop_strings; i++) {
        const ProtobufCBinaryData *s = &m->stop_strings[i];
        snprintf(field, sizeof field, "stopping.stop_strings[%zu]", i);
        if (!s->len) return px_fail(e, PX_EINVAL, field, "a stop string is empty");
        if (s->len > DAEMON_MAX_STOP_BYTES) return too_many(e, field, s->len, DAEMON_MAX_STOP_BYTES, "bytes");
        if (daemon_check_text(s, field, e)) return PX_EINVAL;
        q->stop[i] = (const char *)s->data;
        q->stop_bytes[i] = s->len;
    }
    q->n_stop = m->n_stop_strings;
    return PX_OK;
}

static px_code stopping(daemon_ask *q, const stopping_msg *m, const daemon_model *model, px_err *e)
{
    px_code rc;

    q->in.n_eos = model->manifest.n_eos;
    memcpy(q->in.eos, model->manifest.eos, sizeof q->in.eos);
    if (!m) return PX_OK;
    q->in.ignore_eos = m->ignore_eos;
    q->include_stop = m->include_stop_strings;
    q->in.min_new = m->min_new_tokens;
    if (m->max_new_tokens_presence_case == PHALANX__V1__STOPPING__MAX_NEW_TOKENS_PRESENCE_MAX_NEW_TOKENS) {
        q->max_new_set = true;
        q->max_new = m->max_new_tokens;
        if (!q->max_new) return px_refuse(e, PX_ERANGE, "stopping.max_new_tokens", "0", "at least 1", "nothing would be generated");
    }
    if (m->n_stop_token_ids > DAEMON_MAX_STOP_IDS)
        return too_many(e, "stopping.stop_token_ids", m->n_stop_token_ids, DAEMON_MAX_STOP_IDS, "stop ids");
    if ((rc = daemon_check_ids(m->stop_token_ids, m->n_stop_token_ids, model->manifest.arch.n_vocab, "stopping.stop_token_ids", e)))
        return rc;
    for (size_t i = 0; i < m->n_stop_token_ids; i++) q->in.stop_id[i] = m->stop_token_ids[i];
    q->in.n_stop_id = (uint32_t)m->n_stop_token_ids;
    return stop_strings(q, m, model, e);
}

static px_code response(daemon_ask *q, const response_msg *m, const daemon_model *model, px_err *e)
{
    uint32_t most = SHARD_MAX_LOGPROBS < model->manifest.arch.n_vocab ? SHARD_MAX_LOGPROBS : model->manifest.arch.n_vocab;

    if (!m) return PX_OK;
    if (m->top_logprobs > most) return too_many(e, "response.top_logprobs", m->top_logprobs, most, "alternatives");
    q->in.logprobs = m->logprobs || m->top_logprobs;
    q->in.top = m->top_logprobs;
    return PX_OK;
}

static px_code prompt(daemon_ask *q, const prompt_msg *m, const daemon_model *model, px_err *e)
{
    if (m && m->prompt_case == PHALANX__V1__PROMPT__PROMPT_TEXT) {
        if (daemon_check_tokenizer(model, "prompt.text", e)) return q->precondition = true, PX_EUNSUP;
        if (!m->text.len) return px_fail(e, PX_EINVAL, "prompt.text", "the prompt is empty");
        q->text = (const char *)m->text.data;
        q->text_bytes = m->text.len;
        return daemon_check_text(&m->text, "prompt.text", e);
    }
    if (m && m->prompt_case == PHALANX__V1__PROMPT__PROMPT_TOKEN_IDS && m->token_ids && m->token_ids->n_ids) {
        q->ids = m->token_ids->ids;
        q->n_ids = m->token_ids->n_ids;
        return PX_OK;                        /* the ids themselves: daemon_ask_prompt */
    }
    return px_fail(e, PX_EINVAL, m && m->prompt_case == PHALANX__V1__PROMPT__PROMPT_TOKEN_IDS ? "prompt.token_ids" : "prompt",
                   "the prompt is empty");
}

/* ---- messages ---- */

/* What Generate and Chat share. */
typedef struct common {
    const ProtobufCBinaryData *request_id, *model;
    bool has_temperature; float temperature;
    const sampling_msg *sampling; const decoding_msg *decoding; const stopping_msg *stopping; const response_msg *response;
    int32_t priority;
} common;

static px_code ask_common(daemon_ask *q, const common *c, const daemon_model *model, px_err *e)
{
    px_code rc;

    *q = (daemon_ask){ .in = { .kind = DAEMON_GENERATE, .deadline = PX_NEVER, .want_text = model->tokenizer != NULL } };
    if ((rc = daemon_check_request_id(c->request_id, q->in.id, e)) || (rc = daemon_check_model(c->model, model, e)) ||
        (rc = sampling(q, c->has_temperature, c->temperature, c->sampling, &model->manifest, e)) ||
        (rc = decoding(c->decoding, e)) || (rc = stopping(q, c->stopping, model, e)) ||
        (rc = response(q, c->response, model, e)))
        return rc;
    return c->priority ? not_yet(e, "priority") : PX_OK;
}

px_code daemon_ask_generate(daemon_ask *q, const Phalanx__V1__GenerateRequest *m, const daemon_model *model, px_err *e)
{
    common c = { &m->request_id, &m->model,
                 m->temperature_presence_case == PHALANX__V1__GENERATE_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE,
                 m->temperature, m->sampling, m->decoding, m->stopping, m->response, m->priority };
    px_code rc = ask_common(q, &c, model, e);

    return rc ? rc : prompt(q, m->prompt, model, e);
}

px_code daemon_ask_chat(daemon_ask *q, px_alloc *a, const Phalanx__V1__ChatRequest *m, const daemon_model *model, px_err *e)
{
    common c = { &m->request_id, &m->model,
                 m->temperature_presence_case == PHALANX__V1__CHAT_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE,
                 m->temperature, m->sampling, m->decoding, m->stopping, m->response, m->priority };
    px_code rc = ask_common(q, &c, model, e);
    size_t sum = 0;
    char field[64];

    if (rc) return rc;
    if (daemon_check_tokenizer(model, "messages", e)) return q->precondition = true, PX_EUNSUP;
    if (!model->chat) {
        q->precondition = true;
        return px_fail(e, PX_EUNSUP, "messages", "%s", model->why_no_chat);
    }
    if (!m->n_messages) return px_fail(e, PX_EINVAL, "messages", "the conversation is empty");
    if (m->n_messages > DAEMON_MAX_MESSAGES) return too_many(e, "messages", m->n_messages, DAEMON_MAX_MESSAGES, "messages");
    if (!(q->message = px_new(a, daemon_message, m->n_messages)))
        return px_fail(e, PX_ENOMEM, "messages", "no memory for %zu messages", m->n_messages);
    q->n_messages = m->n_messages;
    for (size_t i = 0; i < m->n_messages; i++) {
        const Phalanx__V1__Message *x = m->messages[i];
        snprintf(field, sizeof field, "messages[%zu].role", i);
        if (!px_utf8_valid((const char *)x->role.data, x->role.len) || (x->role.len && memchr(x->role.data, 0, x->role.len)))
            return px_fail(e, PX_EINVAL, field, "unknown role");
        char *role = px_alloc_zero(a, x->role.len + 1, 1, 1);
        if (!role) return px_fail(e, PX_ENOMEM, field, "no memory for a role");
        if (x->role.len) memcpy(role, x->role.data, x->role.len);
        snprintf(field, sizeof field, "messages[%zu].content", i);
        if ((rc = daemon_check_text(&x->content, field, e))) return rc;
        sum += x->content.len;
        if (sum > DAEMON_MAX_PROMPT_BYTES) return too_many(e, "messages", sum, DAEMON_MAX_PROMPT_BYTES, "bytes");
        q->message[i] = (daemon_message){ role, (const char *)x->content.data, x->content.len };
    }
    q->text_bytes = sum;
    return PX_OK;
}

px_code daemon_ask_score(daemon_ask *q, const Phalanx__V1__ScoreRequest *m, const daemon_model *model, px_err *e)
{
    const uint32_t n_vocab = model->manifest.arch.n_vocab;
    px_code rc;

    *q = (daemon_ask){ .in = { .kind = DAEMON_SCORE, .deadline = PX_NEVER, .logprobs = true, .top = m->top,
                               .sampling = { .top_p = 1 } } };
    if ((rc = daemon_check_request_id(&m->request_id, q->in.id, e)) || (rc = daemon_check_model(&m->model, model, e))) return rc;
    if (m->top > n_vocab) return too_many(e, "top", m->top, n_vocab, "ids: the vocabulary is smaller");
    if (m->top > SHARD_MAX_RESULT_TOPS) return too_many(e, "top", m->top, SHARD_MAX_RESULT_TOPS, "ids: no step's answer holds more");
    return prompt(q, m->prompt, model, e);
}

/* ---- the prompt's ids ---- */

size_t daemon_ask_max_ids(const daemon_model *model) { return (size_t)model->context + 1; }

static px_code too_long(px_err *e, const char *field, uint64_t found, uint64_t most, const char *what)
{
    char f[40], x[60];
    snprintf(f, sizeof f, "%llu", (unsigned long long)found);
    snprintf(x, sizeof x, "at most %llu", (unsigned long long)most);
    return px_refuse(e, PX_ERANGE, field, f, x, "%s", what);
}

px_code daemon_ask_prompt(daemon_ask *q, const uint32_t *id, size_t n, const daemon_model *model, uint32_t default_max_new,
                          px_err *e)
{
    bool score = q->in.kind == DAEMON_SCORE;
    uint64_t most = score ? model->context : (uint64_t)model->context - 1;       /* one token has to follow */
    px_code rc;

    if (!n) return px_fail(e, PX_EINVAL, "prompt", "the prompt is empty");
    if (n > most) return too_long(e, "prompt", n, most, "the prompt is longer than the context");
    if ((rc = daemon_check_ids(id, n, model->manifest.arch.n_vocab, "prompt.token_ids", e))) return rc;
    q->in.n_prompt = (uint32_t)n;
    if (score) return PX_OK;
    uint32_t left = model->context - (uint32_t)n;
    if (q->max_new_set && q->max_new > left)
        return too_long(e, "stopping.max_new_tokens", q->max_new, left, "prompt and max_new_tokens are longer than the context");
    q->in.max_new = q->max_new_set ? q->max_new : default_max_new < left ? default_max_new : left;
    if (q->in.min_new > q->in.max_new)
        return too_long(e, "stopping.min_new_tokens", q->in.min_new, q->in.max_new, "more than max_new_tokens");
    return PX_OK;
}
