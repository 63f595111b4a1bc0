/* service_stream.h - a Generate, Chat or Score call from within: its object, and what its two files call of each other.
 * Layer: daemon/coordinator, internal to service_stream.c (from the message to the engine, and the stream's life) and
 * service_answer.c (from the engine to the client).  On the call's poller, where nothing else is said. */
#ifndef DAEMON_SERVICE_STREAM_H
#define DAEMON_SERVICE_STREAM_H

#include "daemon/coordinator/service.h"

typedef struct daemon_stream {
    daemon_service *s;
    daemon_call    *c;
    const daemon_model *model;
    bool            streaming;               /* else it is being tokenized */
    daemon_ask      ask;                     /* borrows from the call's arena, until the request is open */
    daemon_task     job;
    _Atomic bool    ids_known;               /* job is done: ids, e */
    daemon_ids      ids;
    px_err          e;
    struct daemon_bell *bell;                /* what the engine rings; service_stream.c */
    daemon_request *r;
    daemon_request_out out;                  /* the delta that is being sent */
    size_t          n_token, n_row, n_top;   /* of the delta, sent so far */
    bool            text_sent, first_sent, begun;
} daemon_stream;

/* As long as the send slot is free: what is left of the delta, then the end, or the next delta.  service_answer.c */
void daemon_stream_answer(daemon_stream *t);

#endif
