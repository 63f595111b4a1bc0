/* grpc.h - the mechanism of the gRPC server on the C core: queues with a poller each, call objects, sends, wake-ups.
 * Layer: daemon/coordinator.  Knows no method; methods are a table (service.h).
 *
 * A call belongs to the queue that announced it, and everything that happens to it happens on that queue's poller
 * thread: its hooks need no lock.  Functions marked [any] may be called from every thread; the caller holds a
 * reference or knows that the call has not ended.  A call is counted: one for each tag that is under way, one while
 * it lies in the mailbox, and those that others take. */
#ifndef DAEMON_GRPC_H
#define DAEMON_GRPC_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "proto/base/alloc.h"
#include "proto/base/io.h"

typedef struct daemon_rpc daemon_rpc;
typedef struct daemon_call daemon_call;

typedef struct daemon_method {
    const char *path;                       /* "/phalanx.v1.Inference/Generate" */
    bool streams_in;                        /* the client may send several messages: daemon_call_read asks for the next */
    /* A message arrived (borrowed for the call); data NULL: the client has sent all (streams_in only). */
    void (*message)(daemon_call *c, const uint8_t *data, size_t n);
    void (*resume)(daemon_call *c);         /* posted, or the send slot is free again; may come without a reason */
    void (*end)(daemon_call *c);            /* once: nothing more will be sent; stop what produces for it */
    void (*drop)(daemon_call *c);           /* [any] the call goes: free `state` */
} daemon_method;                            /* the last three may be NULL */

struct daemon_call_inside;                  /* tags, operations */
struct daemon_call {
    const daemon_method *method;
    void *service;                          /* as given to daemon_rpc_open */
    void *state;                            /* the method's */
    px_time_us deadline;                    /* of the call; PX_NEVER if none */
    struct daemon_call_inside *inside;
};

typedef struct daemon_rpc_args {
    const char *address;                    /* HOST:PORT */
    const daemon_method *method; size_t n_methods;
    void    *service;
    uint32_t pollers;                       /* 1..DAEMON_MAX_POLLERS */
    uint32_t max_message;                   /* bytes that a client may send as one message */
    px_time_us stall;                       /* a send that the client does not take for so long ends its call */
} daemon_rpc_args;

#define DAEMON_MAX_POLLERS 16u

/* Listens and serves at once.  *port: the bound one.  a is used by all threads.
 * Errors: PX_EBUSY (cannot listen there: e->field "listen", e->found the address), PX_ENOMEM, PX_EIO. */
px_code daemon_rpc_open(daemon_rpc **r, px_alloc *a, const daemon_rpc_args *args, uint16_t *port, px_err *e);
/* resume for every call that lives. [any] */
void    daemon_rpc_post_all(daemon_rpc *r);
bool    daemon_rpc_draining(const daemon_rpc *r);                     /* [any] */
/* Stop listening; calls go on until they are done or the deadline comes, then they get UNAVAILABLE.  Returns when no
 * call is left. */
void    daemon_rpc_drain(daemon_rpc *r, px_time_us deadline);
void    daemon_rpc_close(daemon_rpc *r);                              /* after drain, and when nobody posts any more */
daemon_rpc *daemon_call_rpc(const daemon_call *c);                    /* [any] */

daemon_call *daemon_call_ref(daemon_call *c);                         /* [any] */
void    daemon_call_unref(daemon_call *c);                            /* [any] */
void    daemon_call_post(daemon_call *c);                             /* [any] resume, on its poller */
bool    daemon_call_over(const daemon_call *c);                       /* [any] ended by us, or the client is gone */

/* ---- on the call's poller ---- */
px_alloc *daemon_call_arena(daemon_call *c);        /* the call's own, for what was unpacked; capped; NULL: no memory */
void    daemon_call_arena_drop(daemon_call *c);     /* give it back early */
px_alloc *daemon_call_scratch(daemon_call *c);      /* the queue's arena: emptied after the hook that uses it */
bool    daemon_call_can_send(const daemon_call *c); /* not over, and the send slot is free */
void    daemon_call_read(daemon_call *c);           /* streams_in: the next message */
void    daemon_call_begin(daemon_call *c);          /* the initial metadata; takes the send slot */
void    daemon_call_send(daemon_call *c, const ProtobufCMessage *m);      /* takes the send slot */
void    daemon_call_finish(daemon_call *c, const ProtobufCMessage *m);    /* last message (or NULL) and status OK */

typedef struct daemon_status_out {
    grpc_status_code code;
    const char *details;                    /* copied */
    bool     told, retryable;               /* told: "retryable" goes into the trailing metadata */
    uint32_t retry_after_ms;                /* and this, unless 0 */
} daemon_status_out;
/* Allowed at any time: waits for the send slot by itself. */
void    daemon_call_fail(daemon_call *c, const daemon_status_out *s);

#endif
