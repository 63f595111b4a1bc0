/* detok.h - incremental detokenizer and stop strings for one stream.
 * Layer: daemon/text.  One thread.  Never cuts a UTF-8 sequence: bytes that may still become a character are held
 * back; one U+FFFD per maximal invalid part, of a SentencePiece vocabulary per byte, as its makers do; the space that such
 * a tokenizer puts in front of a text is dropped.  Text that could begin a stop string is held back: the longest end of
 * the text that is a beginning of a stop string, not more.  The work is linear in the text times the stop strings. */
#ifndef DAEMON_DETOK_H
#define DAEMON_DETOK_H

#include "daemon/text/tokenizer.h"

/* A growing byte buffer. */
typedef struct daemon_bytes { px_alloc *a; char *p; size_t n, cap; } daemon_bytes;
void    daemon_bytes_init(daemon_bytes *b, px_alloc *a);
px_code daemon_bytes_put(daemon_bytes *b, const char *p, size_t n, px_err *e);
void    daemon_bytes_deinit(daemon_bytes *b);

typedef struct daemon_stop {
    char     *text;                /* (bytes) owned copy */
    uint32_t *border;              /* (bytes) owned: longest proper border of text[0..i] (Knuth-Morris-Pratt) */
    uint32_t  bytes, matched;      /* matched: how much of it the text so far ends with */
} daemon_stop;

typedef struct daemon_detok {
    const daemon_tokenizer *t;     /* borrowed */
    px_alloc *a;
    uint8_t   tail[4];             /* bytes of an unfinished sequence */
    uint32_t  n_tail;
    bool      skip_special;        /* special tokens give no text (Generate); else their names (Detokenize), but of a
                                    * SentencePiece vocabulary, whose own decoder writes none */
    daemon_bytes hold;             /* decoded text; what lies before `released` is gone to the caller */
    size_t    released;
    daemon_stop *stop;             /* (n_stop) owned */
    size_t    n_stop;
    bool      include_stop;        /* the stop string itself is part of the text */
    bool      begins;              /* nothing was decoded yet, and this is a text's beginning: set true by init; a caller
                                    * whose text goes on from another one (a completion) sets it false */
    bool      deaf;                /* set by the caller: stop strings that end in this token do not count */
    bool      stopped;
    size_t    which;               /* the stop string that was completed */
} daemon_detok;

/* Errors: PX_EINVAL (a stop string is empty or not UTF-8; e->field "stop_strings[i]"), PX_ERANGE (over 1 GiB),
 * PX_ENOMEM.  How many and how long they may be is the caller's bound. */
px_code daemon_detok_init(daemon_detok *d, px_alloc *a, const daemon_tokenizer *t, bool skip_special,
                          const char *const *stop, const size_t *stop_bytes, size_t n_stop, bool include_stop,
                          px_err *e);
/* Feed one token; appends what can be released to out.  *hit: a stop string was completed, nothing more comes (further
 * tokens give nothing and *hit again), and `which` says which stop string: the one that ends first, of those that end
 * together the longest.  hit and which may not be NULL.
 * Errors: PX_ERANGE (no such id; e->field "token_ids"), PX_ENOMEM. */
px_code daemon_detok_push(daemon_detok *d, uint32_t id, daemon_bytes *out, bool *hit, size_t *which, px_err *e);
/* End of the stream: releases what is held (an unfinished sequence becomes U+FFFD, which completes no stop string). */
px_code daemon_detok_finish(daemon_detok *d, daemon_bytes *out, px_err *e);
void    daemon_detok_deinit(daemon_detok *d);

#endif
