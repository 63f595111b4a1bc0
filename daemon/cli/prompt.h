/* prompt.h - the prompt of a request as the command line gives it: a text, ids, or messages.
 * Layer: daemon/cli. */
#ifndef DAEMON_PROMPT_H
#define DAEMON_PROMPT_H

#include <jansson.h>

#include "daemon/cli/options.h"
#include "phalanx/v1/inference.pb-c.h"

typedef struct daemon_prompt {
    px_alloc   *a;
    const char *text, *ids_text, *chat, *system, *messages_file;    /* what was given, else NULL */
    char       *read;  size_t read_bytes;                            /* owned: a text from standard input, a file */
    Phalanx__V1__Prompt   prompt;
    Phalanx__V1__TokenIds ids;                                       /* ids.ids owned */
    Phalanx__V1__Message **message; size_t n_messages;               /* owned, of doc's texts */
    json_t     *doc;                                                 /* owned */
} daemon_prompt;

void daemon_prompt_init(daemon_prompt *p, px_alloc *a);
void daemon_prompt_deinit(daemon_prompt *p);      /* idempotent */
/* Read what was given; TEXT, ids or a file named "-" come from standard input.
 * Errors: PX_EINVAL (more or less than one; no ids; no messages: e->field says which), PX_ENOTFOUND, PX_EIO, PX_ENOMEM. */
px_code daemon_prompt_read(daemon_prompt *p, px_err *e);
static inline bool daemon_prompt_is_chat(const daemon_prompt *p) { return p->chat || p->messages_file; }

ProtobufCBinaryData daemon_prompt_bytes(const char *s);              /* NULL: empty; borrowed */

#endif
