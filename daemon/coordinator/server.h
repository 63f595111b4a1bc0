/* server.h - the gRPC server on the C core: queues, pollers, calls, health, reflection, phalanx.v1.
 * Layer: daemon/coordinator.  Owns its threads. */
#ifndef DAEMON_SERVER_H
#define DAEMON_SERVER_H

#include "daemon/coordinator/engine.h"
#include "daemon/coordinator/limits.h"


typedef struct daemon_server daemon_server;

/* Listens at once (health NOT_SERVING, calls UNAVAILABLE until the engine is ready).  *port: the bound one.
 * Errors: PX_EBUSY (address in use or not ours: e->field "listen", e->found the address), PX_ENOMEM. */
px_code daemon_server_open(daemon_server **s, px_alloc *a, const proto_config *c, const px_log_sink *log,
                           daemon_engine *engine, uint16_t *port, px_err *e);
/* Health follows: SERVING only in DAEMON_READY.  Any thread. */
void    daemon_server_set_state(daemon_server *s, daemon_state st);
/* New calls get UNAVAILABLE, Watch and reflection streams end, running ones go on until they are done or the deadline
 * comes; then everything left is cancelled.  Joins all threads. */
void    daemon_server_drain(daemon_server *s, px_time_us deadline);
void    daemon_server_close(daemon_server *s);

#endif
