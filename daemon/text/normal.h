/* normal.h - the inside of a tokenizer, and its normal form: the one JSON document that a set stores.
 * Layer: daemon/text, private to the room.
 *
 *   {"format": 2,                              1 is read too: it lacks nfc, space_prefix, ranks; others are refused
 *    "kind": "bpe-bytelevel",                  or "bpe-sentencepiece"; other kinds are refused by name
 *    "pre": {"name": "smollm", "stages": ["\\p{N}", "..."]},     see split.h; the name is for people; SentencePiece: no stages
 *    "nfc": false,                             text is composed first
 *    "space_prefix": "never",                  SentencePiece: a space is put in front of "always" every part between added
 *                                              tokens, or only the "first"; decoding drops it
 *    "ignore_merges": false,                   a piece that is a token is that token, whatever the merges say
 *    "add_bos": false,                         begin-of-text in front when add_special is asked for
 *    "bos": 1, "eos": 2, "unk": 0, "pad": 2,   ids or null
 *    "eog": [0, 2],                            ids that end generation
 *    "types": "333111...",                     a digit a token (daemon_token_type)
 *    "late": [1, 32000],                       only where there are such: added tokens that are looked for in a part when its
 *                                              spaces stand in it, with the space in front that a part has (space_prefix "always")
 *    "tokens": ["<|endoftext|>", ...],         normal ones as vocab.h's kind writes them, others as they are; index = id
 *    "merges": ["Ġ t", ...],              written as tokens are; index = rank
 *    "ranks": null}                            or, with no merges: a rank a token, -1 for none: any two tokens that make a
 *                                              token merge with its rank (SentencePiece's own rule)
 *
 * All keys but "late" are needed, no other is allowed.  The document is hostile until it has been opened. */
#ifndef DAEMON_NORMAL_H
#define DAEMON_NORMAL_H

#include "daemon/text/split.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/trie.h"
#include "daemon/text/vocab.h"

#define DAEMON_NORMAL_FORMAT 2
#define DAEMON_RANK_BYTES    256                    /* of the longest token with a rank: every place in it is tried as a cut */
#define DAEMON_NORMAL_BYTES  ((size_t)256 << 20)    /* largest document that is opened */

typedef enum daemon_prefix { DAEMON_PREFIX_NEVER, DAEMON_PREFIX_FIRST, DAEMON_PREFIX_ALWAYS, DAEMON_N_PREFIXES } daemon_prefix;
extern const char *const daemon_prefix_name[DAEMON_N_PREFIXES];
extern const char *const daemon_vocab_kind_name[2];

struct daemon_tokenizer {
    px_alloc      *a;                  /* borrowed */
    daemon_vocab   vocab;
    daemon_merges  merges;
    daemon_trie    added;
    bool          *is_late;            /* (vocab.n) owned; NULL: none, and the two below are empty */
    daemon_trie    early, late;        /* those of `added` that are not late; those that are, with the space in front */
    daemon_split   pre;
    bool          *eog;                /* (vocab.n) owned */
    uint32_t       bos, eos, unk, pad; /* DAEMON_NO_TOKEN: none */
    bool           ignore_merges, add_bos, nfc;
    bool           cut_at_spaces;      /* no token has a space behind another character */
    daemon_prefix  prefix;
};

/* Fill a zeroed *t from the document; the caller deinits it, also after a failure.
 * Errors: PX_ECORRUPT, PX_ERANGE (e->field is the key), PX_EUNSUP (format, kind), PX_ENOMEM. */
px_code daemon_normal_read(daemon_tokenizer *t, px_alloc *a, const char *json, size_t bytes, px_err *e);
void    daemon_normal_deinit(daemon_tokenizer *t);

#endif
