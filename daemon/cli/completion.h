/* completion.h - what Generate and Chat answer: shown as it comes, or collected for one JSON object.
 * Layer: daemon/cli. */
#ifndef DAEMON_COMPLETION_H
#define DAEMON_COMPLETION_H

#include <jansson.h>

#include "daemon/cli/client.h"
#include "daemon/text/detok.h"
#include "phalanx/v1/inference.pb-c.h"

typedef struct daemon_completion {
    px_alloc    *a;
    bool         quiet;               /* nothing is shown as it comes */
    daemon_ids   prompt, ids;         /* owned */
    daemon_bytes text;                /* owned */
    json_t      *logprobs;            /* owned */
    char         request_id[256], finish[16];        /* "": no finish came */
    bool         has_seed, has_usage, has_stop_id, has_stop_text;
    uint64_t     seed;
    uint32_t     prompt_tokens, completion_tokens, stop_id;
    daemon_bytes stop_text;           /* owned */
    px_time_us   begin, first, last;  /* of the call, of the first and of the last message with tokens */
    size_t       first_tokens;        /* in the first message with tokens */
} daemon_completion;

px_code daemon_completion_init(daemon_completion *x, px_alloc *a, bool quiet, px_err *e);
void    daemon_completion_deinit(daemon_completion *x);
/* daemon_client_take of a GenerateResponse. */
px_code daemon_completion_take(void *ctx, const ProtobufCMessage *m, px_err *e);
/* One JSON object on standard output, whatever came; e and st tell how the call ended (e->code PX_OK: well). */
px_code daemon_completion_print(const daemon_completion *x, const daemon_client_status *st, const px_err *ended, px_err *e);
/* "24 tokens, 105.3 tokens/s, first after 45 ms, prompt of 12 tokens" on standard error. */
void    daemon_completion_stats(const daemon_completion *x);

#endif
