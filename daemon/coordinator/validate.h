/* validate.h - a request message becomes what the engine takes, every field checked.
 * Layer: daemon/coordinator.  Pure: no engine, no threads.  Errors name the field as the message has it
 * ("sampling.top_p", "prompt.token_ids[3]"), found and expected.
 *
 * Two steps, because a text's ids are known only after tokenization: the message is checked first (daemon_ask_*),
 * the prompt's ids then (daemon_ask_prompt), which resolves max_new_tokens too. */
#ifndef DAEMON_VALIDATE_H
#define DAEMON_VALIDATE_H

#include "daemon/coordinator/engine.h"
#include "daemon/coordinator/limits.h"
#include "phalanx/v1/inference.pb-c.h"

typedef struct daemon_ask {
    daemon_request_in in;                    /* prompt is filled by the caller after daemon_ask_prompt */
    const char *stop[DAEMON_MAX_STOP_STRINGS];       /* borrowed from the message, like all below */
    size_t   stop_bytes[DAEMON_MAX_STOP_STRINGS], n_stop;
    bool     include_stop;
    bool     max_new_set; uint32_t max_new;
    const char *text; size_t text_bytes;     /* the prompt as text; NULL: ids or a conversation */
    const uint32_t *ids; size_t n_ids;       /* the prompt as ids */
    daemon_message *message; size_t n_messages;      /* Chat: from the allocator handed in */
    bool     precondition;                   /* PX_EUNSUP: the set lacks what this needs (else: not served yet) */
} daemon_ask;

/* Errors: PX_EINVAL, PX_ERANGE (a value), PX_ENOTFOUND (another model's name), PX_EUNSUP (see precondition), PX_ENOMEM. */
px_code daemon_ask_generate(daemon_ask *q, const Phalanx__V1__GenerateRequest *m, const daemon_model *model, px_err *e);
px_code daemon_ask_chat(daemon_ask *q, px_alloc *a, const Phalanx__V1__ChatRequest *m, const daemon_model *model, px_err *e);
px_code daemon_ask_score(daemon_ask *q, const Phalanx__V1__ScoreRequest *m, const daemon_model *model, px_err *e);
/* The ids of the prompt: none, out of the vocabulary, longer than the context; and what may follow them.
 * Errors: PX_EINVAL, PX_ERANGE. */
px_code daemon_ask_prompt(daemon_ask *q, const uint32_t *id, size_t n, const daemon_model *model, uint32_t default_max_new,
                          px_err *e);
/* How many ids are worth finding: beyond that a prompt is too long. */
size_t  daemon_ask_max_ids(const daemon_model *model);

/* Parts that other calls need.  `tokenizer`: the set must have one (PX_EUNSUP). */
px_code daemon_check_model(const ProtobufCBinaryData *name, const daemon_model *model, px_err *e);
px_code daemon_check_tokenizer(const daemon_model *model, const char *field, px_err *e);
px_code daemon_check_text(const ProtobufCBinaryData *text, const char *field, px_err *e);      /* size, UTF-8 */
px_code daemon_check_ids(const uint32_t *id, size_t n, uint32_t n_vocab, const char *field, px_err *e);
/* Copies a given id ("": makes a random one: 16 hex digits). */
px_code daemon_check_request_id(const ProtobufCBinaryData *id, char out[128], px_err *e);

#endif
