/* bpe.h - byte-pair merges of one piece of text by a heap: n log n in the piece, whatever it holds.
 * Layer: daemon/text.  The scratch belongs to one call of the encoder. */
#ifndef DAEMON_BPE_H
#define DAEMON_BPE_H

#include "daemon/text/tokenizer.h"
#include "daemon/text/vocab.h"

typedef struct daemon_bpe {
    px_alloc *a;                              /* borrowed */
    struct daemon_symbol { uint32_t id, prev, next; } *sym;    /* a doubly linked list over the piece */
    size_t    cap_sym;
    uint64_t *heap;                           /* rank << 32 | index of the left symbol: least first */
    size_t    n_heap, cap_heap;
} daemon_bpe;

void    daemon_bpe_init(daemon_bpe *b, px_alloc *a);
/* Append the ids of a piece; bytes without a token are left out, and their neighbours become neighbours.
 * Errors: PX_ERANGE (a piece of 2 GiB), PX_ENOMEM. */
px_code daemon_bpe_piece(daemon_bpe *b, const daemon_vocab *v, const daemon_merges *m, const char *p, size_t n,
                         daemon_ids *out, px_err *e);
void    daemon_bpe_deinit(daemon_bpe *b);

#endif
