/* model.h - what a path on the command line names: a checkpoint or a shard set.
 * Layer: daemon/cli. */
#ifndef DAEMON_MODEL_H
#define DAEMON_MODEL_H

#include "daemon/text/tokenizer.h"
#include "shard/store/sharder.h"

/* True if path is the folder (or the manifest) of a shard set; dir then holds the folder. */
bool daemon_model_is_set(const char *path, char *dir, size_t cap);
/* The tokenizer of a GGUF, of a checkpoint's folder, of a set, or of a file tokenizer*.json or tokenizer*.model itself.
 * Errors: PX_ENOTFOUND (the model has none), and those of the readers. */
px_code daemon_model_tokenizer(daemon_tokenizer **t, px_alloc *a, const char *path, px_err *e);

/* What goes into a set beside the weights, out of a GGUF or of the folder around safetensors. */
typedef struct daemon_model_assets {
    px_alloc   *a;
    char        dir[4096];                             /* of the checkpoint; "" for a GGUF */
    char       *tokenizer;  size_t tokenizer_bytes;    /* owned */
    char       *chat;       size_t chat_bytes;         /* owned */
    char       *table;      size_t table_bytes;        /* owned */
    shard_asset list[3];    size_t n;                  /* what shard_pack takes; points into the above and the GGUF */
    const char *why_no_tokenizer;                      /* static; NULL if there is one */
    const char *why_no_template;                       /* static; NULL if there is one */
    bool        unknown_template;                      /* there is one, no table is known for it, and none was given */
} daemon_model_assets;
/* path: where the checkpoint was opened.  table: a file that ops/chat-template.py wrote, or NULL.  Errors: PX_EUNSUP (a tokenizer or pre-tokenizer that is not read), PX_EMISMATCH
 * (more tokens than the table has rows; a chat table of another template), PX_ECORRUPT, PX_ENOMEM. */
px_code daemon_model_assets_init(daemon_model_assets *x, px_alloc *a, const shard_checkpoint *c, const char *path, bool tokenizer,
                                 const char *table, px_err *e);
void    daemon_model_assets_deinit(daemon_model_assets *x);

#endif
