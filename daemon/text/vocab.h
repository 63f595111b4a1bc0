/* vocab.h - the tokens of a vocabulary, byte-level or SentencePiece's, and the merges among them.
 * Layer: daemon/text.  Immutable once built: share freely.  Everything is owned by the structs. */
#ifndef DAEMON_VOCAB_H
#define DAEMON_VOCAB_H

#include "proto/base/alloc.h"

#define DAEMON_NO_ID UINT32_MAX
#define DAEMON_MAX_VOCAB (1u << 22)      /* tokens; ids and hash slots stay far below 32 bits */
#define DAEMON_MAX_MERGES (4 * DAEMON_MAX_VOCAB)

/* GGUF's numbers, written as one digit a token in the normal form. */
typedef enum daemon_token_type {
    DAEMON_TOKEN_NORMAL = 1, DAEMON_TOKEN_UNKNOWN, DAEMON_TOKEN_CONTROL, DAEMON_TOKEN_USER, DAEMON_TOKEN_UNUSED,
    DAEMON_TOKEN_BYTE                    /* SentencePiece: "<0x41>", one byte of a character that has no token */
} daemon_token_type;

/* How tokens are written.  Byte-level: bytes in the alphabet of bytelevel.h.  SentencePiece: UTF-8 with U+2581 for spaces. */
typedef enum daemon_vocab_kind { DAEMON_BYTELEVEL, DAEMON_SENTENCEPIECE } daemon_vocab_kind;

/* Tokens are found by class, so that no text can reach a control token that happens to have the same bytes. */
typedef enum daemon_token_class {
    DAEMON_CLASS_SPECIAL,                /* control, unknown */
    DAEMON_CLASS_TEXT,                   /* normal, user-defined: what merges may build */
    DAEMON_CLASS_OTHER,                  /* unused, single bytes, and normal ones that are not written in the byte alphabet */
    DAEMON_N_CLASSES
} daemon_token_class;

typedef struct daemon_token {
    uint32_t at, bytes;                  /* in the pool: the bytes as they enter the text; specials: their name */
    uint8_t  type, class;
} daemon_token;

typedef struct daemon_vocab {
    px_alloc     *a;                     /* borrowed */
    daemon_vocab_kind kind;
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
px_code daemon_vocab_init(daemon_vocab *v, px_alloc *a, daemon_vocab_kind kind, uint32_t n, size_t pool_bytes, px_err *e);
/* The next token, as the normal form writes it.  Of two tokens with equal bytes the first is found.
 * Errors: PX_ECORRUPT (no text, more than was announced, a byte that is not written "<0x41>"), e->field "tokens[i]". */
px_code daemon_vocab_add(daemon_vocab *v, const char *text, size_t bytes, int type, px_err *e);
uint32_t daemon_vocab_find(const daemon_vocab *v, daemon_token_class c, const char *bytes, size_t n);
void    daemon_vocab_deinit(daemon_vocab *v);

/* A pair of tokens, what they make, and when: a lower rank is applied first, of equal ranks the leftmost. */
typedef struct daemon_merge { uint32_t left, right, rank, result; } daemon_merge;
typedef struct daemon_merges {
    px_alloc     *a;
    uint32_t      n, n_added;
    daemon_merge *slot;                  /* (n_slot) open addressing by left and right; rank DAEMON_NO_ID: free */
    size_t        n_slot;                /* a power of two */
} daemon_merges;

px_code daemon_merges_init(daemon_merges *m, px_alloc *a, uint32_t n, px_err *e);
/* The next merge, "left right" as the vocabulary writes them; its rank is its number.  A pair that came before keeps its
 * first rank.  Errors: PX_ECORRUPT (not two known tokens whose concatenation is a known token), e->field "merges[i]". */
px_code daemon_merges_add(daemon_merges *m, const daemon_vocab *v, const char *text, size_t bytes, px_err *e);
/* The same by ids and with a rank; there is room for n in all. */
void    daemon_merges_put(daemon_merges *m, const daemon_merge *x);
/* NULL: the pair does not merge. */
const daemon_merge *daemon_merges_find(const daemon_merges *m, uint32_t left, uint32_t right);
void    daemon_merges_deinit(daemon_merges *m);

/* Ids of "left right" and of what they make (the rank is not touched); false if one of the three is not a token that
 * text can reach.  both: scratch of `bytes`. */
bool    daemon_merge_resolve(const daemon_vocab *v, const char *text, size_t bytes, char *both, daemon_merge *out);

#endif
