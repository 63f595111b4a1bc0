#include "daemon/cli/completion.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef Phalanx__V1__Output           output;
typedef Phalanx__V1__GenerateResponse response;
typedef Phalanx__V1__TokenLogprob     token_logprob;

px_code daemon_completion_init(daemon_completion *x, px_alloc *a, bool quiet, px_err *e)
{
    *x = (daemon_completion){ .a = a, .quiet = quiet, .begin = px_now_us() };
    daemon_ids_init(&x->prompt, a);
    daemon_ids_init(&x->ids, a);
    daemon_bytes_init(&x->text, a);
    daemon_bytes_init(&x->stop_text, a);
    if (!(x->logprobs = json_array())) return px_fail(e, PX_ENOMEM, "logprobs", "no memory");
    return PX_OK;
}

void daemon_completion_deinit(daemon_completion *x)
{
    json_decref(x->logprobs);
    daemon_bytes_deinit(&x->stop_text);
    daemon_bytes_deinit(&x->text);
    daemon_ids_deinit(&x->ids);
    daemon_ids_deinit(&x->prompt);
    *x = (daemon_completion){0};
}

/* ---- what comes ---- */

/* JSON has no infinities: the lowest float stands for minus infinity. */
static json_t *number(float v)
{
    if (isnan(v)) return json_null();
    return json_real(isinf(v) ? (v < 0 ? -FLT_MAX : FLT_MAX) : v);
}

static px_code add_logprob(daemon_completion *x, const token_logprob *p, px_err *e)
{
    json_t *top = json_array(), *entry;

    for (size_t i = 0; top && i < p->n_top; i++)
        if (p->top[i]) json_array_append_new(top, json_pack("[I, o]", (json_int_t)p->top[i]->id, number(p->top[i]->logprob)));
    entry = json_pack("{s:I, s:o, s:o}", "id", (json_int_t)p->id, "logprob", number(p->logprob), "top", top);
    if (!entry || json_array_append_new(x->logprobs, entry)) return px_fail(e, PX_ENOMEM, "logprobs", "no memory");
    return PX_OK;
}

static px_code take_finish(daemon_completion *x, const Phalanx__V1__FinishInfo *f, px_err *e)
{
    const char *word = "error";

    if (f->finish_reason == PHALANX__V1__FINISH_REASON__STOP) word = "stop";
    if (f->finish_reason == PHALANX__V1__FINISH_REASON__LENGTH) word = "length";
    if (f->finish_reason == PHALANX__V1__FINISH_REASON__CANCELLED) word = "cancelled";
    snprintf(x->finish, sizeof x->finish, "%s", word);
    if (f->stop_case == PHALANX__V1__FINISH_INFO__STOP_STOP_TOKEN_ID) {
        x->has_stop_id = true;
        x->stop_id = f->stop_token_id;
    }
    if (f->stop_case == PHALANX__V1__FINISH_INFO__STOP_STOP_STRING) {
        x->has_stop_text = true;
        return daemon_bytes_put(&x->stop_text, (const char *)f->stop_string.data, f->stop_string.len, e);
    }
    return PX_OK;
}

static px_code take_output(daemon_completion *x, const output *o, px_err *e)
{
    px_code rc;

    if (o->index) return px_fail(e, PX_EUNSUP, "outputs.index", "several sequences came; this command shows one");
    if (o->n_token_ids) {
        x->last = px_now_us();
        if (!x->first) {
            x->first = x->last;
            x->first_tokens = o->n_token_ids;
        }
    }
    if ((rc = daemon_ids_push(&x->ids, o->token_ids, o->n_token_ids, e)) ||
        (rc = daemon_bytes_put(&x->text, (const char *)o->text.data, o->text.len, e)))
        return rc;
    if (!x->quiet && o->text.len) {
        fwrite(o->text.data, 1, o->text.len, stdout);
        fflush(stdout);
    }
    for (size_t i = 0; i < o->n_logprobs; i++)
        if (o->logprobs[i] && (rc = add_logprob(x, o->logprobs[i], e))) return rc;
    return o->finish_info ? take_finish(x, o->finish_info, e) : PX_OK;
}

px_code daemon_completion_take(void *ctx, const ProtobufCMessage *m, px_err *e)
{
    daemon_completion *x = ctx;
    const response *r = (const response *)m;
    px_code rc;

    if (r->request_id.len && r->request_id.len < sizeof x->request_id &&
        px_utf8_valid((const char *)r->request_id.data, r->request_id.len)) {
        memcpy(x->request_id, r->request_id.data, r->request_id.len);
        x->request_id[r->request_id.len] = 0;
    }
    if (r->prompt_info) {
        x->has_seed = true;
        x->seed = r->prompt_info->seed;
        if ((rc = daemon_ids_push(&x->prompt, r->prompt_info->token_ids, r->prompt_info->n_token_ids, e))) return rc;
    }
    for (size_t i = 0; i < r->n_outputs; i++)
        if (r->outputs[i] && (rc = take_output(x, r->outputs[i], e))) return rc;
    if (r->usage) {
        x->has_usage = true;
        x->prompt_tokens = r->usage->prompt_tokens;
        x->completion_tokens = r->usage->completion_tokens;
    }
    return PX_OK;
}

/* ---- the one object ---- */

static json_t *ids_json(const daemon_ids *v)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < v->n; i++) json_array_append_new(list, json_integer((json_int_t)v->id[i]));
    return list;
}

static json_t *text_json(const daemon_bytes *b)
{
    json_t *s = json_stringn(b->n ? b->p : "", b->n);
    return s ? s : json_string("");
}

/* Takes value. */
static bool put(json_t *doc, const char *key, json_t *value) { return json_object_set_new(doc, key, value) == 0; }

static bool put_end(json_t *doc, const daemon_completion *x, const daemon_client_status *st, const px_err *ended)
{
    char seed[24];
    bool ok = true;

    if (*x->request_id) ok = put(doc, "request_id", json_string(x->request_id)) && ok;
    if (x->has_seed) {                          /* text: JSON readers lose 64-bit integers */
        snprintf(seed, sizeof seed, "%" PRIu64, x->seed);
        ok = put(doc, "seed", json_string(seed)) && ok;
    }
    if (x->has_stop_id) ok = put(doc, "stop_token_id", json_integer((json_int_t)x->stop_id)) && ok;
    if (x->has_stop_text) ok = put(doc, "stop_string", text_json(&x->stop_text)) && ok;
    if (ended->code)
        ok = put(doc, "error", json_pack("{s:s, s:s, s:b}", "status",
                 ended->code == PX_ECANCELLED ? "CANCELLED" : st->code ? daemon_client_status_name(st->code)
                 : ended->code == PX_EPEER ? "UNAVAILABLE" : px_code_name(ended->code), "message",
                 *st->message ? st->message : ended->text, "retryable",
                 st->told ? st->retryable : ended->code == PX_EPEER)) && ok;
    return ok;
}

px_code daemon_completion_print(const daemon_completion *x, const daemon_client_status *st, const px_err *ended, px_err *e)
{
    const char *finish = ended->code == PX_ECANCELLED ? "cancelled" : ended->code || !*x->finish ? "error" : x->finish;
    json_t *doc = json_object();
    bool ok = doc && put(doc, "prompt_token_ids", ids_json(&x->prompt)) && put(doc, "token_ids", ids_json(&x->ids)) &&
              put(doc, "text", text_json(&x->text)) && put(doc, "finish_reason", json_string(finish)) &&
              put(doc, "usage", json_pack("{s:I, s:I}", "prompt_tokens",
                  (json_int_t)(x->has_usage ? x->prompt_tokens : x->prompt.n), "completion_tokens",
                  (json_int_t)(x->has_usage ? x->completion_tokens : x->ids.n))) &&
              put(doc, "logprobs", json_incref(x->logprobs)) && put_end(doc, x, st, ended);

    if (ok) {
        json_dumpf(doc, stdout, JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(doc);
    return ok ? PX_OK : px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
}

void daemon_completion_stats(const daemon_completion *x)
{
    double seconds = (double)(x->last - x->first) / 1e6;
    size_t after = x->ids.n - x->first_tokens;

    fprintf(stderr, "%zu tokens", x->ids.n);
    if (after && seconds > 0) fprintf(stderr, ", %.1f tokens/s", (double)after / seconds);
    if (x->first) fprintf(stderr, ", the first after %.0f ms", (double)(x->first - x->begin) / 1e3);
    fprintf(stderr, ", prompt of %zu tokens\n", x->prompt.n);
}
