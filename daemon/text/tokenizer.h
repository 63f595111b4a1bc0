/* tokenizer.h - text -> ids and ids -> bytes, from the set's one normal form.
 * Layer: daemon/text (sees shard/store for importing, proto).  Immutable after open: share between threads; every
 * call takes its own allocator for scratch.  Time and memory are linear (n log n) in the text, worst case included. */
#ifndef DAEMON_TOKENIZER_H
#define DAEMON_TOKENIZER_H

#include "proto/base/alloc.h"

typedef struct daemon_tokenizer daemon_tokenizer;

#define DAEMON_NO_TOKEN UINT32_MAX

typedef struct daemon_encode_args {
    bool parse_special;     /* control tokens in the text become their ids; else they are text */
    bool add_special;       /* add BOS where the tokenizer adds it */
    bool continues;         /* more text stands before this one: no space is put in front where only a text's beginning has one */
    size_t max_ids;         /* PX_ERANGE when *out, with what was in it, gets longer (0: no bound) */
} daemon_encode_args;

typedef struct daemon_ids { px_alloc *a; uint32_t *id; size_t n, cap; } daemon_ids;   /* owned by whoever holds it */
void daemon_ids_init(daemon_ids *v, px_alloc *a);
px_code daemon_ids_push(daemon_ids *v, const uint32_t *id, size_t n, px_err *e);
void daemon_ids_deinit(daemon_ids *v);

/* Open the normal form (bytes of the set's tokenizer file). */
px_code daemon_tokenizer_open(daemon_tokenizer **t, px_alloc *a, const char *json, size_t bytes, px_err *e);
void    daemon_tokenizer_close(daemon_tokenizer *t);

/* Appends to *out; its allocator also serves the scratch (up to some 40 bytes a byte of one long word).  After an
 * error *out holds what it held before.  User-defined tokens are always found in the text.  Bytes for which the
 * vocabulary has no token are left out, as its makers do.
 * Errors: PX_EINVAL (text is not UTF-8: e->found has the offset), PX_ERANGE (max_ids, found early), PX_ENOMEM. */
px_code daemon_tokenizer_encode(const daemon_tokenizer *t, const char *text, size_t bytes,
                                const daemon_encode_args *args, daemon_ids *out, px_err *e);

uint32_t daemon_tokenizer_n_vocab(const daemon_tokenizer *t);
uint32_t daemon_tokenizer_bos(const daemon_tokenizer *t);           /* DAEMON_NO_TOKEN if none */
bool     daemon_tokenizer_is_eog(const daemon_tokenizer *t, uint32_t id);      /* ends generation: eos, <|im_end|> ... */
bool     daemon_tokenizer_is_special(const daemon_tokenizer *t, uint32_t id);  /* control tokens */
/* By the exact bytes as daemon_tokenizer_bytes gives them; special tokens first; DAEMON_NO_TOKEN if none. */
uint32_t daemon_tokenizer_find(const daemon_tokenizer *t, const char *token, size_t bytes);
/* Bytes of one token as they enter the text (special tokens: their name); not terminated; borrowed.  NULL: no such id. */
const char *daemon_tokenizer_bytes(const daemon_tokenizer *t, uint32_t id, size_t *bytes);

/* Import: the normal form out of a model's own files; json is put with px_put-size bytes+1.
 * The document was opened once before it is returned.
 * Errors: PX_ENOTFOUND (a GGUF without a tokenizer: legal, the set is then without one), PX_EUNSUP (a model, a step or an
 * option of an unknown name: e->field is the key, e->found the name), PX_EMISMATCH (a key of another type), PX_ECORRUPT,
 * PX_ERANGE, PX_ENOMEM. */
struct shard_gguf;
px_code daemon_tokenizer_from_gguf(px_alloc *a, const struct shard_gguf *g, char **json, size_t *bytes, px_err *e);

/* What stands beside a tokenizer's own file; all may be absent. */
typedef struct daemon_hints {
    const char *config; size_t config_bytes;        /* the text of tokenizer_config.json; NULL: none */
    const char *added; size_t added_bytes;          /* the text of added_tokens.json, beside a tokenizer.model; NULL: none */
    const uint32_t *eos; size_t n_eos;              /* ids that end a generation, as the model's configuration says */
} daemon_hints;
/* tokenizer.json of the tokenizers library: byte-level BPE, or SentencePiece's BPE in either layout.  hints may be NULL. */
px_code daemon_tokenizer_from_json(px_alloc *a, const char *text, size_t n, const daemon_hints *hints, char **json,
                                   size_t *bytes, px_err *e);
/* tokenizer.model of SentencePiece: BPE with byte fallback. */
px_code daemon_tokenizer_from_model(px_alloc *a, const void *data, size_t n, const daemon_hints *hints, char **json,
                                    size_t *bytes, px_err *e);

#endif
