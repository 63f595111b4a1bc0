/* detok.h - incremental detokenizer and stop strings for one stream.
 * Layer: daemon/text.  One thread.  Never cuts a UTF-8 sequence: bytes that may still become a character are held
 * back; one U+FFFD per maximal invalid part.  Text that could begin a stop string is held back. */
#ifndef DAEMON_DETOK_H
#define DAEMON_DETOK_H

#include "daemon/text/tokenizer.h"

typedef struct daemon_detok {
    const daemon_tokenizer *t;     /* borrowed */
    px_alloc *a;
    uint8_t   tail[4];             /* bytes of an unfinished sequence */
    uint32_t  n_tail;
    bool      skip_special;        /* special tokens give no text (Generate); else their names (Detokenize) */
    char     *hold;                /* owned: decoded text not yet released because a stop string may begin in it */
    size_t    n_hold, cap_hold;
    char    **stop;                /* owned copies */
    size_t   *stop_bytes, n_stop;
    bool      include_stop;        /* the stop string itself is part of the text */
    bool      stopped;
} daemon_detok;

px_code daemon_detok_init(daemon_detok *d, px_alloc *a, const daemon_tokenizer *t, bool skip_special,
                          const char *const *stop, const size_t *stop_bytes, size_t n_stop, bool include_stop, px_err *e);
/* Feed one token; appends what can be released to out (a growing byte buffer).  *hit: a stop string was completed,
 * nothing more comes and `which` says which stop string. */
typedef struct daemon_bytes { px_alloc *a; char *p; size_t n, cap; } daemon_bytes;
void    daemon_bytes_init(daemon_bytes *b, px_alloc *a);
px_code daemon_bytes_put(daemon_bytes *b, const char *p, size_t n, px_err *e);
void    daemon_bytes_deinit(daemon_bytes *b);
px_code daemon_detok_push(daemon_detok *d, uint32_t id, daemon_bytes *out, bool *hit, size_t *which, px_err *e);
/* End of the stream: releases what is held (an unfinished sequence becomes U+FFFD). */
px_code daemon_detok_finish(daemon_detok *d, daemon_bytes *out, px_err *e);
void    daemon_detok_deinit(daemon_detok *d);

#endif
