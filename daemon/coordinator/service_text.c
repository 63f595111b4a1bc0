/* Tokenize and Detokenize: short texts on the poller, long ones on a worker. */
#include <string.h>

#include "daemon/coordinator/service.h"

typedef struct text_call {
    daemon_service *s;
    daemon_call    *c;
    const daemon_model *model;
    bool            encode;
    daemon_encode_args args;
    const char     *text; size_t bytes;      /* Tokenize; in the call's arena, like ids */
    const uint32_t *ids; size_t n_ids;       /* Detokenize */
    daemon_task     job;
    _Atomic bool    done;
    /* the answer */
    daemon_ids      out_ids;
    daemon_bytes    out_text;
    px_err          e;
} text_call;

static px_code decode(text_call *t, px_err *e)
{
    daemon_detok d = {0};
    bool hit;
    size_t which;
    px_code rc = daemon_detok_init(&d, t->s->a, t->model->tokenizer, false, NULL, NULL, 0, false, e);

    for (size_t i = 0; i < t->n_ids && !rc; i++) {
        if (!(i & 0xfff) && daemon_call_over(t->c)) rc = px_fail(e, PX_ECANCELLED, "call", "the client is gone");
        else rc = daemon_detok_push(&d, t->ids[i], &t->out_text, &hit, &which, e);
    }
    if (!rc) rc = daemon_detok_finish(&d, &t->out_text, e);
    daemon_detok_deinit(&d);
    return rc;
}

static void run(text_call *t)
{
    if (daemon_call_over(t->c)) return;
    if (t->encode) daemon_tokenizer_encode(t->model->tokenizer, t->text, t->bytes, &t->args, &t->out_ids, &t->e);
    else decode(t, &t->e);
}

static void run_job(void *ctx)
{
    text_call *t = ctx;
    daemon_call *c = t->c;

    run(t);
    atomic_store_explicit(&t->done, true, memory_order_release);
    daemon_call_post(c);
    daemon_call_unref(c);
}

static void answer(text_call *t)
{
    Phalanx__V1__TokenizeResponse ids = PHALANX__V1__TOKENIZE_RESPONSE__INIT;
    Phalanx__V1__DetokenizeResponse text = PHALANX__V1__DETOKENIZE_RESPONSE__INIT;

    if (t->e.code) {
        daemon_service_refuse(t->c, &t->e, false, true);
        return;
    }
    ids.ids = t->out_ids.id;
    ids.n_ids = t->out_ids.n;
    text.text = daemon_service_bytes(t->out_text.p, t->out_text.n);
    daemon_call_finish(t->c, t->encode ? &ids.base : &text.base);
}

static void start(daemon_call *c, text_call *t, size_t bytes)
{
    px_err e = {0};

    if (bytes < DAEMON_INLINE_TEXT) {
        run(t);
        answer(t);
        return;
    }
    t->job = (daemon_task){ .run = run_job, .ctx = t, .bytes = bytes };
    daemon_call_ref(c);
    if (!daemon_work_put(&t->s->work, &t->job, &e)) return;
    daemon_service_refuse(c, &e, false, true);
    daemon_call_unref(c);
}

/* NULL: the call was ended. */
static text_call *open_call(daemon_call *c, const daemon_model *model)
{
    daemon_service *s = daemon_service_of(c);
    text_call *t = px_new(s->a, text_call, 1);
    px_err e = {0};

    if (!t) {
        px_fail(&e, PX_ENOMEM, "call", "no memory for a call");
        daemon_service_refuse(c, &e, false, true);
        return NULL;
    }
    t->s = s;
    t->c = c;
    t->model = model;
    daemon_ids_init(&t->out_ids, s->a);
    daemon_bytes_init(&t->out_text, s->a);
    c->state = t;
    return t;
}

void daemon_tokenize_message(daemon_call *c, const uint8_t *data, size_t n)
{
    const daemon_model *model = daemon_service_ready(c);
    Phalanx__V1__TokenizeRequest *m = model ? (void *)daemon_service_unpack(c, &phalanx__v1__tokenize_request__descriptor, data, n) : NULL;
    px_err e = {0};
    bool lacks = false;

    if (!m) return;
    if (daemon_check_model(&m->model, model, &e) || (lacks = daemon_check_tokenizer(model, "text", &e) != PX_OK) ||
        daemon_check_text(&m->text, "text", &e)) {
        daemon_service_refuse(c, &e, lacks, false);
        return;
    }
    text_call *t = open_call(c, model);
    if (!t) return;
    t->encode = true;
    t->args = (daemon_encode_args){ .parse_special = m->parse_special, .add_special = m->add_special };
    t->text = (const char *)m->text.data;
    t->bytes = m->text.len;
    start(c, t, t->bytes);
}

void daemon_detokenize_message(daemon_call *c, const uint8_t *data, size_t n)
{
    const daemon_model *model = daemon_service_ready(c);
    Phalanx__V1__DetokenizeRequest *m = model ? (void *)daemon_service_unpack(c, &phalanx__v1__detokenize_request__descriptor, data, n) : NULL;
    px_err e = {0};
    bool lacks = false;

    if (!m) return;
    if (m->n_ids > DAEMON_MAX_DETOKENIZE) px_fail(&e, PX_ERANGE, "ids", "%zu ids are more than %u", m->n_ids, DAEMON_MAX_DETOKENIZE);
    if (e.code || daemon_check_model(&m->model, model, &e) ||
        (lacks = daemon_check_tokenizer(model, "ids", &e) != PX_OK) ||
        daemon_check_ids(m->ids, m->n_ids, daemon_tokenizer_n_vocab(model->tokenizer), "ids", &e)) {
        daemon_service_refuse(c, &e, lacks, false);
        return;
    }
    text_call *t = open_call(c, model);
    if (!t) return;
    t->ids = m->ids;
    t->n_ids = m->n_ids;
    start(c, t, t->n_ids * sizeof *t->ids);
}

void daemon_text_resume(daemon_call *c)
{
    text_call *t = c->state;
    if (t && t->job.run && atomic_load_explicit(&t->done, memory_order_acquire)) answer(t);
}

void daemon_text_drop(daemon_call *c)
{
    text_call *t = c->state;

    if (!t) return;
    daemon_ids_deinit(&t->out_ids);
    daemon_bytes_deinit(&t->out_text);
    px_del(t->s->a, t, 1);
    c->state = NULL;
}
