/* pipeline.h - the steps around the merges in a tokenizer.json: normalizer, pre-tokenizer, post-processor, decoder.
 * Layer: daemon/text, private to the room.  Steps whose meaning is not known are refused by name: nothing is guessed. */
#ifndef DAEMON_PIPELINE_H
#define DAEMON_PIPELINE_H

#include "daemon/text/draft.h"

typedef struct daemon_pipeline {
    daemon_vocab_kind kind;
    daemon_prefix prefix;
    bool        nfc;
    bool        normalizes_spaces;                  /* they are the normalizer's, and of added tokens that are normalized, too */
    const char *stage[DAEMON_SPLIT_STAGES + 1];     /* borrowed from the document or static */
    const char *bos;                                /* borrowed: what the post-processor puts in front; NULL: nothing */
} daemon_pipeline;

/* doc: the whole tokenizer.json.  Errors: PX_EUNSUP, PX_ECORRUPT, PX_ERANGE (too many stages); e->field is the step, with
 * its place ("pre_tokenizer.pretokenizers[1].type"), e->found what stands there. */
px_code daemon_pipeline_read(daemon_pipeline *p, const json_t *doc, px_err *e);

#endif
