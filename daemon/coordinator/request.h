/* request.h - a request's truth: ids, what was sampled, what was sent; and the way between engine and call.
 * Layer: daemon/coordinator.  Reference counted.  Three parts: `in` is fixed before submit; `run` belongs to the
 * engine's thread; `out` is shared under its lock.  The engine never blocks on a client: it appends to `out` and calls
 * notify; the call takes all that is pending as one message. */
#ifndef DAEMON_REQUEST_H
#define DAEMON_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/text/detok.h"
#include "proto/base/io.h"
#include "shard/run/step.h"

typedef enum daemon_kind { DAEMON_GENERATE, DAEMON_SCORE } daemon_kind;
typedef enum daemon_finish { DAEMON_RUNNING, DAEMON_STOP, DAEMON_LENGTH, DAEMON_CANCELLED, DAEMON_ERROR } daemon_finish;

typedef struct daemon_request daemon_request;

typedef struct daemon_request_in {
    daemon_kind kind;
    char      id[128];                    /* request_id: printable UTF-8, 1..127 bytes */
    uint32_t *prompt; uint32_t n_prompt;  /* owned by the request */
    shard_sampling sampling;
    uint32_t  max_new, min_new;           /* resolved: n_prompt + max_new <= context */
    uint32_t  stop_id[64]; uint32_t n_stop_id;   /* beside the model's end ids */
    uint32_t  eos[8]; uint32_t n_eos;     /* the model's end ids */
    bool      ignore_eos;
    bool      logprobs; uint32_t top;     /* Score: up to the vocabulary */
    bool      want_text;                  /* the set has a tokenizer */
    px_time_us deadline;                  /* absolute, PX_NEVER if none */
    void    (*notify)(void *ctx); void *ctx;     /* called by the engine's thread when `out` changed; must not block */
    void    (*release)(void *ctx);        /* once, when the request is freed: notify comes no more; may be NULL */
} daemon_request_in;

typedef struct daemon_token_out { uint32_t id; float logprob; uint32_t top_at, n_top; } daemon_token_out;

typedef struct daemon_request_out {       /* under lock */
    bool      accepted;                   /* blocks are reserved: send the initial metadata */
    daemon_bytes text;                    /* pending delta */
    daemon_token_out *token; size_t n_token, cap_token;         /* pending */
    shard_top *top; size_t n_top, cap_top;                       /* pending; token[].top_at indexes it */
    shard_row_result *row; size_t n_row, cap_row;                /* Score: pending; row.top is NULL, entries lie in `top` in order */
    daemon_finish finish;                 /* not RUNNING: nothing more is appended */
    char      stop_string[256]; size_t n_stop_string; bool has_stop_string;    /* may contain U+0000 */
    uint32_t  stop_id; bool has_stop_id;
    px_err    error;                      /* finish ERROR or CANCELLED: why; code -> gRPC status */
    bool      retryable;
    uint32_t  n_completion;
    size_t    pending_bytes;              /* rough size of what waits; the engine pauses a Score beyond DAEMON_PAUSE_BYTES */
    px_time_us oldest;                    /* when the oldest pending thing was appended */
} daemon_request_out;

#define DAEMON_PAUSE_BYTES (4u << 20)
#define DAEMON_SLOW_READER_US (60 * 1000000ll)   /* pending for so long: RESOURCE_EXHAUSTED */

struct daemon_request {
    px_alloc *a;
    _Atomic uint32_t refs;
    _Atomic bool cancelled;               /* set by the call (client gone, deadline); read by the engine each step */
    daemon_request_in in;
    pthread_mutex_t lock;
    daemon_request_out out;
    /* engine's thread only */
    daemon_detok detok; bool has_detok;
    uint32_t *token; uint32_t n_token;    /* sampled so far; room for max_new */
    uint32_t  n_done;                     /* positions whose KV is written */
    int32_t   slot;                       /* -1: none */
    uint32_t *block; uint32_t n_block;    /* reserved at admission: prompt + max_new */
    uint32_t n_taken;                     /* of them; with a window the rest are these again, in turn */
    bool      opened;                     /* the ranks know the slot */
    bool      replayed;                   /* the ranks do not know the last token: send its id */
    bool      ended;
    daemon_request *prev, *next;          /* in the scheduler's list */
};

/* Takes prompt.  Stop strings are copied into the detokenizer.  Errors: PX_ENOMEM. */
px_code daemon_request_open(daemon_request **r, px_alloc *a, const daemon_request_in *in, const daemon_tokenizer *t,
                            const char *const *stop, const size_t *stop_bytes, size_t n_stop, bool include_stop, px_err *e);
daemon_request *daemon_request_ref(daemon_request *r);
void daemon_request_unref(daemon_request *r);

/* Whether it has not ended yet: its id is in use.  Any thread. */
bool daemon_request_lives(daemon_request *r);

/* ---- the engine's side ---- */
void daemon_request_accept(daemon_request *r);
/* One entry's result: tokens, text, log-probabilities; may end the request (stop, length, not finite, no memory). */
void daemon_request_take(daemon_request *r, const shard_entry_result *res);
/* Idempotent.  e: why, for CANCELLED (may be NULL) and ERROR. */
void daemon_request_end(daemon_request *r, daemon_finish finish, const px_err *e, bool retryable);
bool daemon_request_paused(daemon_request *r);                 /* too much waits for the client */
bool daemon_request_slow(daemon_request *r, px_time_us now);   /* and has waited too long */

/* ---- the call's side ---- */
/* Moves what is pending into *out (which the caller zeroed before the first take, and deinits); flags and counters are
 * copied.  out->text/token/top/row are the delta; swap, so that both sides keep their storage. */
void daemon_request_swap(daemon_request *r, daemon_request_out *out);
void daemon_request_out_deinit(daemon_request_out *out, px_alloc *a);

#endif
