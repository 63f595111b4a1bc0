/* chat.h - chat templates as data tables, known by the digest of the template's text.
 * Layer: daemon/text.  A rendered conversation is a list of pieces: text that is only text, and special ids that
 * only the template may write.  The daemon runs no Jinja. */
#ifndef DAEMON_CHAT_H
#define DAEMON_CHAT_H

#include "daemon/text/tokenizer.h"

typedef struct daemon_message { const char *role; const char *content; size_t content_bytes; } daemon_message;
typedef struct daemon_template daemon_template;     /* static table entries */

/* By the XXH3-128 digest of the template's text (32 hex digits are computed inside), or NULL if it is not known. */
const daemon_template *daemon_template_by_text(const char *text, size_t bytes);
/* By name ("chatml", "smollm2", ...); NULL and e filled with the list of names if unknown. */
const daemon_template *daemon_template_by_name(const char *name, px_err *e);
const char *daemon_template_name(const daemon_template *t);
void daemon_template_names(char *buf, size_t cap);          /* "chatml, smollm2" */

/* Conversation -> prompt ids, generation prompt included.  Roles: system (first only), user, assistant.
 * Errors: PX_EINVAL (unknown role, system not first, no message: e->field "messages[3].role"), PX_ERANGE (max_ids),
 * PX_EUNSUP (the tokenizer lacks a token of the template), PX_ENOMEM. */
px_code daemon_chat_encode(const daemon_template *t, const daemon_tokenizer *tok, const daemon_message *msg, size_t n,
                           size_t max_ids, daemon_ids *out, px_err *e);

#endif
