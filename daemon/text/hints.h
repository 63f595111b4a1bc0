/* hints.h - what a checkpoint's folder says about its tokenizer beside the tokenizer's own file.
 * Layer: daemon/text, private to the room. */
#ifndef DAEMON_HINTS_H
#define DAEMON_HINTS_H

#include "daemon/text/draft.h"

/* Ids and add_bos of the draft: tokenizer_config.json first, then what the file itself says (bos: the token that its
 * post-processor puts in front, NULL: none), then the architecture's ids, then well-known names.  h may be NULL.
 * Errors: PX_ECORRUPT (not JSON; a token that the vocabulary lacks; an added token's id that is no whole number), e->field
 * "tokenizer_config.json: eos_token"; PX_EUNSUP (tokens that were added behind the file's own: without them a model would never end its
 * answer). */
px_code daemon_hints_apply(const daemon_hints *h, daemon_draft *d, const char *bos, px_err *e);

/* The text of a tokenizer_config.json or added_tokens.json, or NULL.  Their numbers are reals: transformers writes 10^30 for "no
 * model_max_length": numbers of any size are taken. */
json_t *daemon_hints_load(const char *text, size_t bytes, json_error_t *why);

#endif
