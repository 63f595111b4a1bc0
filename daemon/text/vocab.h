/* vocab.h - the tokens of a byte-level vocabulary, and the merges among them.
 * Layer: daemon/text.  Immutable once built: share freely.  Everything is owned by the structs. */
#ifndef DAEMON_VOCAB_H
#define DAEMON_VOCAB_H

#include "proto/base/alloc.h"

#define DAEMON_NO_ID UINT32_MAX
#define DAEMON_MAX_VOCAB (1u << 22)      /* tokens; ids and hash slots stay far below 32 bits */

/* GGUF's numbers, written as one digit a token in the normal form. */
typedef enum daemon_token_type {
    DAEMON_TOKEN_NORMAL = 1, DAEMON_TOKEN_UNKNOWN, DAEMON_TOKEN_CONTROL, DAEMON_TOKEN_USER, DAEMON_TOKEN_UNUSED
} daemon_token_type;

/* Tokens are found by class, so that no text can reach a control token that happens to have the same bytes. */
typedef enum daemon_token_class {
    DAEMON_CLASS_SPECIAL,                /* control, unknown */
    DAEMON_CLASS_TEXT,                   /* normal, user-defined: what merges may build */
    DAEMON_CLASS_OTHER,                  /* unused, and normal ones that are not written in the byte alphabet */
    DAEMON_N_CLASSES
} daemon_token_class;

typedef struct daemon_token {
    uint32_t at, bytes;                  /* in the pool: the bytes as they enter the text; specials: their name */
    uint8_t  type, class;
} daemon_token;

typedef struct daemon_vocab {
    px_alloc     *a;                     /* borrowed */
    daemon_token *token;                 /* (n) */
    uint32_t      n, n_added;            /* n_added: how many daemon_vocab_add has filled */
    char         *pool;                  /* bytes of all tokens */
    size_t        pool_bytes, pool_used;
    uint32_t     *slot;                  /* (n_slot) open addressing by class and bytes; id + 1, 0: free */
    size_t        n_slot;                /* a power of two */
    uint32_t      byte_id[256];          /* token of one byte, DAEMON_NO_ID: the vocabulary has none */
    size_t        longest;               /* bytes of the longest token */
} daemon_vocab;

/* Room for n tokens whose texts have pool_bytes in all. */
px_code daemon_vocab_init(daemon_vocab *v, px_alloc *a, uint32_t n, size_t pool_bytes, px_err *e);
/* The next token, as the normal form writes it.  Of two tokens with equal bytes the first is found.
 * Errors: PX_ECORRUPT (no text, or more than was announced), e->field "tokens[i]". */
px_code daemon_vocab_add(daemon_vocab *v, const char *text, size_t bytes, int type, px_err *e);
uint32_t daemon_vocab_find(const daemon_vocab *v, daemon_token_class c, const char *bytes, size_t n);
void    daemon_vocab_deinit(daemon_vocab *v);

typedef struct daemon_merge { uint32_t left, right, result; } daemon_merge;
typedef struct daemon_merges {
    px_alloc     *a;
    daemon_merge *merge;                 /* (n) by rank: a lower rank is applied first */
    uint32_t      n, n_added;
    struct daemon_merge_slot { uint32_t left, right, rank; } *slot;   /* rank DAEMON_NO_ID: free */
    size_t        n_slot;                /* a power of two */
} daemon_merges;

px_code daemon_merges_init(daemon_merges *m, px_alloc *a, uint32_t n, px_err *e);
/* The next merge, "left right" in the byte alphabet.  A pair that came before keeps its first rank.
 * Errors: PX_ECORRUPT (not two known tokens whose concatenation is a known token), e->field "merges[i]". */
px_code daemon_merges_add(daemon_merges *m, const daemon_vocab *v, const char *text, size_t bytes, px_err *e);
/* Rank of a pair, DAEMON_NO_ID if it does not merge. */
uint32_t daemon_merges_rank(const daemon_merges *m, uint32_t left, uint32_t right);
void    daemon_merges_deinit(daemon_merges *m);

#endif
