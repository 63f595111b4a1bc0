/* trie.h - finds added tokens (control and user-defined) in a text: leftmost, then longest.
 * Layer: daemon/text.  Immutable once built.  A look costs at most DAEMON_TRIE_DEPTH steps, most cost one. */
#ifndef DAEMON_TRIE_H
#define DAEMON_TRIE_H

#include "daemon/text/vocab.h"

#define DAEMON_TRIE_DEPTH 256              /* bytes of the longest added token */

typedef struct daemon_trie_node { uint32_t id, control_id; } daemon_trie_node;   /* DAEMON_NO_ID: no token ends here */
typedef struct daemon_trie {
    px_alloc *a;
    daemon_trie_node *node;                /* (n_node); node 0 is the root */
    uint32_t  n_node, cap_node;
    struct daemon_trie_edge { uint64_t key; uint32_t to; } *edge;    /* by node << 8 | byte; to 0: free */
    size_t    n_edge;                      /* a power of two */
} daemon_trie;

/* Of all control and user-defined tokens of v, or of those with `which` in only (v->n; NULL: all), each with `before` in front.
 * Errors: PX_ERANGE (a longer one; e->field "tokens[i]"), PX_ENOMEM. */
px_code daemon_trie_init(daemon_trie *t, px_alloc *a, const daemon_vocab *v, const bool *only, bool which, const char *before, px_err *e);
/* The first added token in s from byte `from` on: its id, place and length; false if there is none.
 * Control tokens count only if `control`. */
bool    daemon_trie_find(const daemon_trie *t, const char *s, size_t n, size_t from, bool control, uint32_t *id,
                         size_t *at, size_t *bytes);
void    daemon_trie_deinit(daemon_trie *t);

#endif
