#include "daemon/text/chat.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/text/bytelevel.h"
#include "daemon/text/detok.h"
#include "proto/base/log.h"

/* A message is: open, role, after_role, content, close, after_close; open and close are control tokens. */
struct daemon_template {
    const char *name;
    const char *open, *close;
    const char *after_role, *after_close;
    const char *system;                 /* what a conversation begins with that has no system message; NULL: nothing */
};

enum { CHATML, SMOLLM2, N_TEMPLATES };

static const daemon_template template[N_TEMPLATES] = {
    [CHATML]  = { "chatml", "<|im_start|>", "<|im_end|>", "\n", "\n", NULL },
    [SMOLLM2] = { "smollm2", "<|im_start|>", "<|im_end|>", "\n", "\n",
                  "You are a helpful AI assistant named SmolLM, trained by Hugging Face" },
};

/* XXH3-128 of template texts in circulation (tests/daemon/text/chat_test.c has the texts). */
static const struct { const char *digest; int of; } known[] = {
    { "98f63cc3d421d28f99ab995e9629dacd", SMOLLM2 },
    { "f0a6a8278439fdb056191e205a440263", CHATML },
    { "a344e8c84fb0282dda206a9e46a4ac01", CHATML },       /* the same, behind a default for add_generation_prompt */
};

const daemon_template *daemon_template_by_text(const char *text, size_t bytes)
{
    XXH128_canonical_t c;
    char hex[2 * sizeof c.digest + 1];

    XXH128_canonicalFromHash(&c, XXH3_128bits(text, bytes));
    for (size_t i = 0; i < sizeof c.digest; i++) snprintf(hex + 2 * i, 3, "%02x", c.digest[i]);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(hex, known[i].digest)) return &template[known[i].of];
    return NULL;
}

const daemon_template *daemon_template_by_name(const char *name, px_err *e)
{
    char names[128], quoted[96];

    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (!strcmp(name, template[i].name)) return &template[i];
    daemon_template_names(names, sizeof names);
    px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "chat_template",
                        px_log_quote(name, -1, quoted, sizeof quoted), names);
    return NULL;
}

const char *daemon_template_name(const daemon_template *t)
{
    return t->name;
}

void daemon_template_names(char *buf, size_t cap)
{
    size_t at = 0;

    if (cap) *buf = 0;
    for (size_t i = 0; i < N_TEMPLATES && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? ", " : "", template[i].name);
}

/* A prompt being written. */
typedef struct prompt {
    const daemon_template  *t;
    const daemon_tokenizer *tok;
    daemon_encode_args      args;
    uint32_t                open, close;
    daemon_bytes            part;        /* scratch: text between two control tokens is encoded as one */
    daemon_ids             *out;
} prompt;

static px_code special(prompt *p, uint32_t id, px_err *e)
{
    char found[48], want[48];

    if (p->args.max_ids == 0 || p->out->n < p->args.max_ids) return daemon_ids_push(p->out, &id, 1, e);
    snprintf(found, sizeof found, "at least %zu tokens", p->out->n + 1);
    snprintf(want, sizeof want, "at most %zu", p->args.max_ids);
    return px_err_set_mismatch(e, PX_ERANGE, __FILE__, __LINE__, "messages", found, want);
}

/* open, role, what follows it, and the content if there is one: the beginning of a message. */
static px_code begin(prompt *p, const char *role, const char *content, size_t bytes, px_err *e)
{
    px_code rc;

    p->part.n = 0;
    if ((rc = special(p, p->open, e)) || (rc = daemon_bytes_put(&p->part, role, strlen(role), e)) ||
        (rc = daemon_bytes_put(&p->part, p->t->after_role, strlen(p->t->after_role), e)) ||
        (rc = daemon_bytes_put(&p->part, content, bytes, e)))
        return rc;
    return daemon_tokenizer_encode(p->tok, p->part.p, p->part.n, &p->args, p->out, e);
}

static px_code message(prompt *p, const char *role, const char *content, size_t bytes, px_err *e)
{
    px_code rc;

    if ((rc = begin(p, role, content, bytes, e)) || (rc = special(p, p->close, e))) return rc;
    return daemon_tokenizer_encode(p->tok, p->t->after_close, strlen(p->t->after_close), &p->args, p->out, e);
}

/* All messages, before anything is encoded. */
static px_code check(const daemon_message *msg, size_t n, px_err *e)
{
    char field[48], found[64];

    if (n == 0) return px_fail(e, PX_EINVAL, "messages", "a conversation without a message");
    for (size_t i = 0; i < n; i++) {
        const char *role = msg[i].role;
        snprintf(field, sizeof field, "messages[%zu].role", i);
        if (!role || (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant")))
            return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, field,
                                       px_log_quote(role ? role : "", -1, found, sizeof found),
                                       "system, user or assistant");
        if (i && !strcmp(role, "system"))
            return px_fail(e, PX_EINVAL, field, "a system message can only be the first");
        size_t valid = daemon_utf8_prefix(msg[i].content, msg[i].content_bytes);
        if (valid == msg[i].content_bytes) continue;
        snprintf(field, sizeof field, "messages[%zu].content", i);
        snprintf(found, sizeof found, "an invalid byte at offset %zu", valid);
        return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, field, found, "UTF-8");
    }
    return PX_OK;
}

static px_code control(const prompt *p, const char *name, uint32_t *id, px_err *e)
{
    *id = daemon_tokenizer_find(p->tok, name, strlen(name));
    if (*id != DAEMON_NO_TOKEN && daemon_tokenizer_is_special(p->tok, *id)) return PX_OK;
    return px_fail(e, PX_EUNSUP, "chat_template", "%s needs the control token %s, which the tokenizer lacks", p->t->name,
                   name);
}

px_code daemon_chat_encode(const daemon_template *t, const daemon_tokenizer *tok, const daemon_message *msg, size_t n,
                           size_t max_ids, daemon_ids *out, px_err *e)
{
    px_code rc;
    size_t before = out->n;
    prompt p = { .t = t, .tok = tok, .args = { .max_ids = max_ids }, .out = out };
    const daemon_encode_args bos = { .add_special = true, .max_ids = max_ids };

    daemon_bytes_init(&p.part, out->a);
    if ((rc = check(msg, n, e)) || (rc = control(&p, t->open, &p.open, e)) ||
        (rc = control(&p, t->close, &p.close, e)) || (rc = daemon_tokenizer_encode(tok, "", 0, &bos, out, e)))
        goto done;
    if (t->system && strcmp(msg[0].role, "system") &&
        (rc = message(&p, "system", t->system, strlen(t->system), e)))
        goto done;
    for (size_t i = 0; i < n; i++)
        if ((rc = message(&p, msg[i].role, msg[i].content, msg[i].content_bytes, e))) goto done;
    rc = begin(&p, "assistant", "", 0, e);

done:
    daemon_bytes_deinit(&p.part);
    if (rc) out->n = before;
    return rc;
}
