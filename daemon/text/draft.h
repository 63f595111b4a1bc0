/* draft.h - a tokenizer between a model's files and the normal form: every import fills one, one place writes it down.
 * Layer: daemon/text, private to the room. */
#ifndef DAEMON_DRAFT_H
#define DAEMON_DRAFT_H

#include <jansson.h>

#include "daemon/text/normal.h"

#define DAEMON_NO_ID64 UINT64_MAX

typedef struct daemon_draft {
    px_alloc   *a;                          /* borrowed */
    daemon_vocab_kind kind;
    daemon_prefix prefix;
    bool        nfc, ignore_merges, add_bos;
    const char *stage[DAEMON_SPLIT_STAGES + 1];   /* borrowed; ends with NULL */
    const char *pre_name;                   /* borrowed */
    size_t      n;                          /* tokens */
    json_t     *tokens;                     /* owned; (n) strings */
    char       *types;                      /* owned; (n + 1) a digit a token */
    bool       *eog;                        /* owned; (n) */
    json_t     *late;                       /* owned; ids, see normal.h; NULL: none */
    json_t     *merges;                     /* owned; "left right" by rank; empty where there are scores */
    double     *scores;                     /* owned; (n); SentencePiece only; NULL: merges */
    uint64_t    bos, eos, unk, pad;         /* DAEMON_NO_ID64: none */
} daemon_draft;

/* Errors: PX_ENOMEM; PX_ECORRUPT (n; e->field is `field`). */
px_code daemon_draft_init(daemon_draft *d, px_alloc *a, daemon_vocab_kind kind, size_t n, const char *field, px_err *e);
/* A string into one of the arrays; key is the file's own name of it.  Errors: PX_ECORRUPT (not UTF-8: "key[i]"), PX_ENOMEM. */
px_code daemon_draft_append(json_t *array, const char *key, size_t i, const char *s, size_t bytes, px_err *e);
/* The normal form, opened once to prove it; put with px_del(a, *json, *bytes + 1).  Control tokens that are known to end a
 * generation, and eos, are added to eog.  Errors: those of daemon_tokenizer_open and of ranks.h; PX_ENOMEM. */
px_code daemon_draft_finish(daemon_draft *d, char **json, size_t *bytes, px_err *e);
void    daemon_draft_deinit(daemon_draft *d);     /* idempotent; accepts a zeroed draft */

px_code daemon_draft_no_memory(px_err *e);

#endif
