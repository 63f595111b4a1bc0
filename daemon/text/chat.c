#include "daemon/text/chat.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "daemon/text/bytelevel.h"
#include "daemon/text/chat_table.h"
#include "daemon/text/detok.h"
#include "daemon/text/normal.h"
#include "proto/base/log.h"

static px_code role_error(size_t i, const char *role, const char *want, px_err *e)
{
    char field[48], found[64];

    snprintf(field, sizeof field, "messages[%zu].role", i);
    return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, field, px_log_quote(role ? role : "", -1, found, sizeof found), want);
}

static daemon_role role_of(const daemon_message *m)
{
    daemon_role r = 0;

    while (r < DAEMON_N_ROLES && (!m->role || strcmp(m->role, daemon_role_name[r]))) r++;
    return r;
}

/* All messages, before anything is made of them. */
static px_code check(const daemon_template *t, const daemon_message *msg, size_t n, px_err *e)
{
    char field[48], found[64];

    if (n == 0) return px_fail(e, PX_EINVAL, "messages", "a conversation without a message");
    for (size_t i = 0; i < n; i++) {
        daemon_role r = role_of(&msg[i]), before = i ? role_of(&msg[i - 1]) : DAEMON_SYSTEM;
        if (r == DAEMON_N_ROLES) return role_error(i, msg[i].role, "system, user or assistant", e);
        if (r == DAEMON_SYSTEM && i) return role_error(i, msg[i].role, "user or assistant: a system message can only be the first", e);
        if (r == DAEMON_SYSTEM && t->system_in == DAEMON_IN_NONE)
            return role_error(i, msg[i].role, "user or assistant: the model's template knows no system message", e);
        if (t->alternate && r != DAEMON_SYSTEM && r != (before == DAEMON_USER ? DAEMON_ASSISTANT : DAEMON_USER))
            return role_error(i, msg[i].role, before == DAEMON_USER ? "assistant: they take turns" : "user: they take turns", e);
        if (i + 1 == n && r != DAEMON_USER && (t->user_last || (r == DAEMON_SYSTEM && t->system_in != DAEMON_IN_OWN)))
            return role_error(i, msg[i].role, "user: the last message is the user's", e);
        size_t valid = daemon_utf8_prefix(msg[i].content, msg[i].content_bytes);
        if (valid == msg[i].content_bytes) continue;
        snprintf(field, sizeof field, "messages[%zu].content", i);
        snprintf(found, sizeof found, "an invalid byte at offset %zu", valid);
        return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, field, found, "UTF-8");
    }
    return PX_OK;
}

/* ---- rendering ---- */

/* White space as Python's strip() has it: by the bidirectional class, or a space separator. */
static bool is_space(utf8proc_int32_t c)
{
    const utf8proc_property_t *p = utf8proc_get_property(c);

    return p->category == UTF8PROC_CATEGORY_ZS || p->bidi_class == UTF8PROC_BIDI_CLASS_WS ||
           p->bidi_class == UTF8PROC_BIDI_CLASS_B || p->bidi_class == UTF8PROC_BIDI_CLASS_S;
}

static void trim_left(const char **p, size_t *n)
{
    utf8proc_int32_t c;

    while (*n) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)*p, (utf8proc_ssize_t)*n, &c);
        if (used <= 0 || !is_space(c)) return;
        *p += used;
        *n -= (size_t)used;
    }
}

static void trim_right(const char *p, size_t *n)
{
    utf8proc_int32_t c;

    while (*n) {
        size_t at = *n - 1;
        while (at && ((uint8_t)p[at] & 0xc0) == 0x80) at--;
        if (utf8proc_iterate((const utf8proc_uint8_t *)p + at, (utf8proc_ssize_t)(*n - at), &c) <= 0 || !is_space(c)) return;
        *n = at;
    }
}

static void drop_thinking(bool keep_newlines, const char **p, size_t *n)
{
    static const char end[] = "</think>";
    size_t at = 0;
    const char *found;

    while ((found = memmem(*p + at, *n - at, end, sizeof end - 1))) at = (size_t)(found - *p) + sizeof end - 1;
    while (at && !keep_newlines && at < *n && (*p)[at] == '\n') at++;
    *p += at;
    *n -= at;
}

typedef struct rendering { const daemon_template *t; daemon_piece_fn *fn; void *ctx; const daemon_message *system; } rendering;

static px_code put(rendering *r, const char *text, bool trusted, size_t n, px_err *e)
{
    return n ? r->fn(r->ctx, text, n, trusted, e) : PX_OK;
}

static px_code own(rendering *r, const char *text, px_err *e)
{
    return put(r, text, true, strlen(text), e);
}

/* The content of a turn; with_system: the system's text stands in front of it, and what is trimmed is both together. */
static px_code content(rendering *r, daemon_role role, const char *p, size_t n, bool with_system, px_err *e)
{
    const struct daemon_turn *s = &r->t->turn[DAEMON_SYSTEM];
    px_code rc;
    size_t after = strlen(s->suffix), system = with_system ? r->system->content_bytes : 0;
    bool trim = r->t->turn[role].trim;

    if (role == DAEMON_ASSISTANT && r->t->drop_thinking) drop_thinking(r->t->keep_newlines, &p, &n);
    if (trim && !with_system) trim_left(&p, &n);
    if (trim) trim_right(p, &n);
    if (!with_system) return put(r, p, false, n, e);
    if (trim && !n) trim_right(s->suffix, &after);
    if ((rc = own(r, s->prefix, e)) || (rc = put(r, r->system->content, false, system, e)) ||
        (rc = put(r, s->suffix, true, after, e)))
        return rc;
    return put(r, p, false, n, e);
}

static px_code turn(rendering *r, daemon_role role, const char *p, size_t n, bool with_system, px_err *e)
{
    const struct daemon_turn *t = &r->t->turn[role];
    px_code rc;

    if ((rc = own(r, t->prefix, e)) || (rc = content(r, role, p, n, with_system, e))) return rc;
    return own(r, t->suffix, e);
}

/* The user's message that the system's text goes into; n: none. */
static size_t system_place(const daemon_template *t, const daemon_message *msg, size_t n)
{
    size_t at = n;

    for (size_t i = 0; i < n; i++)
        if (role_of(&msg[i]) == DAEMON_USER && (at == n || t->system_in == DAEMON_IN_LAST_USER)) at = i;
    return t->system_in == DAEMON_IN_OWN ? n : at;
}

px_code daemon_chat_render(const daemon_template *t, const daemon_message *msg, size_t n, daemon_piece_fn *fn, void *ctx, px_err *e)
{
    rendering r = { .t = t, .fn = fn, .ctx = ctx };
    daemon_message made = { "system", t->default_system, t->default_system ? strlen(t->default_system) : 0 };
    px_code rc;
    size_t i = 0, place;

    if ((rc = check(t, msg, n, e)) || (rc = own(&r, t->begin, e))) return rc;
    if (role_of(&msg[0]) == DAEMON_SYSTEM) r.system = &msg[i++];
    else if (t->default_system) r.system = &made;
    if (r.system && t->system_in == DAEMON_IN_OWN &&
        (rc = turn(&r, DAEMON_SYSTEM, r.system->content, r.system->content_bytes, false, e)))
        return rc;
    place = r.system ? system_place(t, msg, n) : n;
    for (; i < n; i++)
        if ((rc = turn(&r, role_of(&msg[i]), msg[i].content, msg[i].content_bytes, i == place, e))) return rc;
    return own(&r, t->generation, e);
}

/* ---- encoding ---- */

/* A prompt being written: what stands between two control tokens is encoded as one. */
typedef struct prompt {
    const daemon_tokenizer *tok;
    daemon_encode_args      args;
    daemon_bytes            part;        /* since the last control token */
    daemon_bytes            own;         /* the template's, not yet looked through: a token may lie across its pieces */
    size_t                  before;      /* ids that were there */
    daemon_ids             *out;
} prompt;

static px_code flush(prompt *p, px_err *e)
{
    px_code rc;

    p->args.continues = p->out->n > p->before;
    rc = p->part.n ? daemon_tokenizer_encode(p->tok, p->part.p, p->part.n, &p->args, p->out, e) : PX_OK;
    p->part.n = 0;
    return rc;
}

static px_code special(prompt *p, uint32_t id, px_err *e)
{
    char found[48], want[48];

    if (p->args.max_ids == 0 || p->out->n < p->args.max_ids) return daemon_ids_push(p->out, &id, 1, e);
    snprintf(found, sizeof found, "at least %zu tokens", p->out->n + 1);
    snprintf(want, sizeof want, "at most %zu", p->args.max_ids);
    return px_err_set_mismatch(e, PX_ERANGE, __FILE__, __LINE__, "messages", found, want);
}

/* The template's own text: control tokens become ids, what is between them goes to the part. */
static px_code look_through(prompt *p, px_err *e)
{
    px_code rc;
    size_t at = 0, begin, n, end = p->own.n;
    uint32_t id;

    p->own.n = 0;
    for (size_t from = 0; daemon_trie_find(&p->tok->added, p->own.p, end, from, true, &id, &begin, &n); from = begin + n) {
        if (!daemon_tokenizer_is_special(p->tok, id)) continue;      /* user-defined: found again when the part is encoded */
        if ((rc = daemon_bytes_put(&p->part, p->own.p + at, begin - at, e)) || (rc = flush(p, e)) || (rc = special(p, id, e))) return rc;
        at = begin + n;
    }
    return daemon_bytes_put(&p->part, p->own.p + at, end - at, e);
}

static px_code piece(void *ctx, const char *text, size_t bytes, bool trusted, px_err *e)
{
    prompt *p = ctx;
    px_code rc;

    if (trusted) return daemon_bytes_put(&p->own, text, bytes, e);
    if (p->own.n && (rc = look_through(p, e))) return rc;
    return daemon_bytes_put(&p->part, text, bytes, e);
}

px_code daemon_chat_encode(const daemon_template *t, const daemon_tokenizer *tok, const daemon_message *msg, size_t n,
                           size_t max_ids, daemon_ids *out, px_err *e)
{
    px_code rc;
    prompt p = { .tok = tok, .args = { .max_ids = max_ids }, .before = out->n, .out = out };

    daemon_bytes_init(&p.part, out->a);
    daemon_bytes_init(&p.own, out->a);
    if ((rc = check(t, msg, n, e))) goto done;
    for (size_t i = 0; t->control[i]; i++) {
        uint32_t id = daemon_tokenizer_find(tok, t->control[i], strlen(t->control[i]));
        if (id != DAEMON_NO_TOKEN && daemon_tokenizer_is_special(tok, id)) continue;
        rc = px_fail(e, PX_EUNSUP, "chat_template", "%s needs the control token %s, which the tokenizer lacks", t->name, t->control[i]);
        goto done;
    }
    if (!(rc = daemon_chat_render(t, msg, n, piece, &p, e)) && !(rc = p.own.n ? look_through(&p, e) : PX_OK)) rc = flush(&p, e);

done:
    daemon_bytes_deinit(&p.own);
    daemon_bytes_deinit(&p.part);
    if (rc) out->n = p.before;
    return rc;
}
