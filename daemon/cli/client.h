/* client.h - a small synchronous gRPC client on the C core: one call at a time, one completion queue.
 * Layer: daemon/cli.  One thread. */
#ifndef DAEMON_CLIENT_H
#define DAEMON_CLIENT_H

#include <protobuf-c/protobuf-c.h>

#include "proto/base/io.h"

typedef struct daemon_client daemon_client;

typedef struct daemon_client_status {
    int  code;                    /* gRPC's; 0: OK */
    char message[1024];
    bool told, retryable;         /* told: the server said whether it is */
} daemon_client_status;

/* "UNAVAILABLE" ... */
const char *daemon_client_status_name(int code);

/* Connects, waiting until the deadline at most.  Errors: PX_EINVAL (address), PX_EPEER (nobody there: found), PX_ECANCELLED
 * (a signal came), PX_ENOMEM. */
px_code daemon_client_open(daemon_client **c, px_alloc *a, const char *address, px_time_us deadline, px_err *e);
void    daemon_client_close(daemon_client *c);       /* NULL is legal */

/* One call: sends the request, hands every message that comes to fn (borrowed for the call), waits for the status.
 * Unary calls are streams of one message.  fn may end the call with an error, which is then returned; a signal
 * (daemon_cli_interrupts) cancels it: PX_ECANCELLED.  *st is always filled.  Errors: by the status: PX_EPEER
 * (UNAVAILABLE), PX_EINVAL, PX_ERANGE, PX_EUNSUP, PX_ENOTFOUND, PX_EEXIST, PX_EBUSY, PX_ETIMEOUT ...; e->field is the
 * status's name.  PX_ECORRUPT: an answer that is no such message. */
typedef px_code daemon_client_take(void *ctx, const ProtobufCMessage *m, px_err *e);
px_code daemon_client_call(daemon_client *c, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *answer, px_time_us deadline, daemon_client_take *fn, void *ctx,
                           daemon_client_status *st, px_err *e);

#endif
