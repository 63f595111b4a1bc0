/* folder.h - the text side of a checkpoint's folder: tokenizer.json or tokenizer.model, tokenizer_config.json, the template.
 * Layer: daemon/text. */
#ifndef DAEMON_FOLDER_H
#define DAEMON_FOLDER_H

#include "daemon/text/tokenizer.h"

/* The normal form of the tokenizer in dir (tokenizer.json, else tokenizer.model; tokenizer_config.json beside it) or of the one
 * file `name` in it (NULL: search).  json is put with px_put-size bytes + 1.  eos: ids of the model's configuration.
 * Errors: PX_ENOTFOUND (neither file), those of the imports and of px_read_file; e->file is the file. */
px_code daemon_tokenizer_from_folder(px_alloc *a, const char *dir, const char *name, const uint32_t *eos, size_t n_eos, char **json,
                                     size_t *bytes, px_err *e);
#define DAEMON_TEMPLATE_BYTES (16 << 20)               /* of the largest chat template that is taken along */

/* The chat template's text: chat_template.jinja, else tokenizer_config.json's chat_template (of a list of them the one named
 * "default").  Put with px_put-size bytes + 1.
 * Errors: PX_ENOTFOUND (none), PX_ECORRUPT (not JSON, no text), those of px_read_file; e->file is the file. */
px_code daemon_template_from_folder(px_alloc *a, const char *dir, char **text, size_t *bytes, px_err *e);

#endif
