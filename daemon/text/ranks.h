/* ranks.h - SentencePiece's way of merging: any two tokens that together are a token, the one of the best rank first.
 * Layer: daemon/text, private to the room. */
#ifndef DAEMON_RANKS_H
#define DAEMON_RANKS_H

#include "daemon/text/vocab.h"

/* Every pair of normal tokens that makes a token with a rank (DAEMON_NO_ID: none).
 * Errors: PX_ERANGE (a token of more than DAEMON_RANK_BYTES has a rank; e->field "tokens[i]"), PX_ENOMEM. */
px_code daemon_ranks_merges(daemon_merges *m, px_alloc *a, const daemon_vocab *v, const uint32_t *rank, px_err *e);

/* Ranks by scores, the highest first; equal scores have equal ranks.  Only normal tokens that two others make have one.
 * score, rank: one a token.  Errors: PX_ECORRUPT (a score is not a number), PX_EUNSUP (an unused token that two others make:
 * SentencePiece would take it apart again), e->field "scores[i]" or "tokens[i]"; PX_ENOMEM. */
px_code daemon_ranks_of_scores(uint32_t *rank, px_alloc *a, const daemon_vocab *v, const double *score, px_err *e);

/* Ranks by a list of merges (left, right, result): true if that list says the same as ranks do - what makes one token stands
 * together, and no pair is missing. */
bool daemon_ranks_of_merges(uint32_t *rank, const daemon_vocab *v, const daemon_merge *merge, size_t n);

#endif
