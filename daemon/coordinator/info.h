/* info.h - the engine's status as the public API's message.
 * Layer: daemon/coordinator. */
#ifndef DAEMON_INFO_H
#define DAEMON_INFO_H

#include "daemon/coordinator/coldstart.h"
#include "phalanx/v1/control.pb-c.h"

/* The message and all it points to come from a (an arena).  PX_ENOMEM. */
px_code daemon_info_make(px_alloc *a, const proto_config *c, daemon_status *s, const daemon_model *m,
                         Phalanx__V1__GetServerInfoResponse **out, px_err *e);

#endif
