/* normal.h - the inside of a tokenizer, and its normal form: the one JSON document that a set stores.
 * Layer: daemon/text, private to the room.
 *
 *   {"format": 1,                              another number is refused
 *    "kind": "bpe-bytelevel",                  other kinds are refused by name
 *    "pre": {"name": "smollm", "stages": ["\\p{N}", "..."]},     see split.h; the name is for people
 *    "ignore_merges": false,                   a piece that is a token is that token, whatever the merges say
 *    "add_bos": false,                         begin-of-text in front when add_special is asked for
 *    "bos": 1, "eos": 2, "unk": 0, "pad": 2,   ids or null
 *    "eog": [0, 2],                            ids that end generation
 *    "types": "333111...",                     a digit a token (daemon_token_type)
 *    "tokens": ["<|endoftext|>", ...],         normal ones in the byte alphabet, others as they are; index = id
 *    "merges": ["Ġ t", ...]}                   in the byte alphabet; index = rank
 *
 * All keys are needed, no other is allowed.  The document is hostile until it has been opened. */
#ifndef DAEMON_NORMAL_H
#define DAEMON_NORMAL_H

#include "daemon/text/split.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/trie.h"
#include "daemon/text/vocab.h"

#define DAEMON_NORMAL_FORMAT 1
#define DAEMON_NORMAL_KIND   "bpe-bytelevel"
#define DAEMON_NORMAL_BYTES  ((size_t)256 << 20)    /* largest document that is opened */

struct daemon_tokenizer {
    px_alloc      *a;                  /* borrowed */
    daemon_vocab   vocab;
    daemon_merges  merges;
    daemon_trie    added;
    daemon_split   pre;
    bool          *eog;                /* (vocab.n) owned */
    uint32_t       bos, eos, unk, pad; /* DAEMON_NO_TOKEN: none */
    bool           ignore_merges, add_bos;
};

/* Fill a zeroed *t from the document; the caller deinits it, also after a failure.
 * Errors: PX_ECORRUPT, PX_ERANGE (e->field is the key), PX_EUNSUP (format, kind), PX_ENOMEM. */
px_code daemon_normal_read(daemon_tokenizer *t, px_alloc *a, const char *json, size_t bytes, px_err *e);
void    daemon_normal_deinit(daemon_tokenizer *t);

#endif
