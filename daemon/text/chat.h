/* chat.h - chat templates as data tables, known by the digest of the template's text or derived from it beforehand.
 * Layer: daemon/text.  A rendered conversation is a list of pieces: text that is only text, and special ids that
 * only the template may write.  The daemon runs no Jinja. */
#ifndef DAEMON_CHAT_H
#define DAEMON_CHAT_H

#include "daemon/text/tokenizer.h"

typedef struct daemon_message { const char *role; const char *content; size_t content_bytes; } daemon_message;
typedef struct daemon_template daemon_template;     /* immutable; static table entries, or opened ones */

/* By the XXH3-128 digest of the template's text (32 hex digits are computed inside), or NULL if it is not known. */
const daemon_template *daemon_template_by_text(const char *text, size_t bytes);
/* By name ("chatml", "smollm2", ...); NULL and e filled with the list of names if unknown. */
const daemon_template *daemon_template_by_name(const char *name, px_err *e);
const char *daemon_template_name(const daemon_template *t);
void daemon_template_names(char *buf, size_t cap);          /* "chatml, smollm2" */

/* A table in a file, as ops/chat-template.py derives it (chat_json.c says its form).  text: the template that it must have been
 * derived from; NULL: any.
 * Errors: PX_ECORRUPT, PX_EUNSUP (another format), PX_ERANGE (over 1 MiB), PX_EMISMATCH (another template), PX_ENOMEM;
 * e->field is the key. */
px_code daemon_template_open(daemon_template **t, px_alloc *a, const char *json, size_t bytes, const char *text, size_t text_bytes,
                             px_err *e);
void    daemon_template_close(daemon_template *t);          /* of an opened one; NULL is legal */

/* The pieces of a conversation, generation prompt included.  trusted: written by the template, so the names of control tokens
 * in it are those tokens; other pieces are text whatever they hold.  fn returns non-PX_OK to stop.
 * Errors: PX_EINVAL (a role that is unknown or not in its place, no message: e->field "messages[3].role"), fn's. */
typedef px_code daemon_piece_fn(void *ctx, const char *text, size_t bytes, bool trusted, px_err *e);
px_code daemon_chat_render(const daemon_template *t, const daemon_message *msg, size_t n, daemon_piece_fn *fn, void *ctx, px_err *e);

/* Conversation -> prompt ids, generation prompt included.  Roles: system (first only), user, assistant.
 * Errors: those of daemon_chat_render; PX_EINVAL (content is not UTF-8), PX_ERANGE (max_ids), PX_EUNSUP (the tokenizer lacks
 * a token of the template), PX_ENOMEM. */
px_code daemon_chat_encode(const daemon_template *t, const daemon_tokenizer *tok, const daemon_message *msg, size_t n,
                           size_t max_ids, daemon_ids *out, px_err *e);

#endif
