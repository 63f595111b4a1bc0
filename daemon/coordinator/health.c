/* grpc.health.v1: SERVING only while the engine is ready. */
#include <string.h>

#include "daemon/coordinator/service.h"
#include "grpc/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckRequest  request;
typedef Grpc__Health__V1__HealthCheckResponse response;
#define SERVING         GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

typedef struct watch { bool known; int told; } watch;     /* told: the status sent last, -1 none */

static bool known(const char *service)
{
    return !*service || !strcmp(service, "phalanx.v1.Inference") || !strcmp(service, "phalanx.v1.Control");
}

static int status_now(const daemon_call *c)
{
    bool serving = atomic_load_explicit(&daemon_service_of(c)->serving, memory_order_acquire);
    return serving && !daemon_rpc_draining(daemon_call_rpc(c)) ? SERVING : NOT_SERVING;
}

void daemon_health_check_message(daemon_call *c, const uint8_t *data, size_t n)
{
    request *req = (void *)daemon_service_unpack(c, &grpc__health__v1__health_check_request__descriptor, data, n);
    response m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    px_err e = {0};

    if (!req) return;
    if (!known(req->service)) {
        px_fail(&e, PX_ENOTFOUND, "service", "there is no such service");
        daemon_service_refuse(c, &e, false, false);
        return;
    }
    m.status = status_now(c);
    daemon_call_finish(c, &m.base);
}

void daemon_health_watch_message(daemon_call *c, const uint8_t *data, size_t n)
{
    request *req = (void *)daemon_service_unpack(c, &grpc__health__v1__health_check_request__descriptor, data, n);
    watch *w;
    px_err e = {0};

    if (!req) return;
    if (!(w = px_new(daemon_service_of(c)->a, watch, 1))) {
        px_fail(&e, PX_ENOMEM, "service", "no memory for a watch");
        daemon_service_refuse(c, &e, false, true);
        return;
    }
    *w = (watch){ known(req->service), -1 };
    c->state = w;
    daemon_call_arena_drop(c);
    daemon_health_watch_resume(c);
}

void daemon_health_watch_resume(daemon_call *c)
{
    watch *w = c->state;
    response m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    if (!w || !daemon_call_can_send(c)) return;          /* asked again when the slot is free */
    int now = w->known ? status_now(c) : (int)SERVICE_UNKNOWN;
    if (now != w->told) {
        w->told = now;
        m.status = now;
        daemon_call_send(c, &m.base);
    } else if (daemon_rpc_draining(daemon_call_rpc(c)))
        daemon_call_fail(c, &(daemon_status_out){ GRPC_STATUS_UNAVAILABLE, "the service is shutting down", true, true, 1000 });
}

void daemon_health_watch_drop(daemon_call *c)
{
    if (c->state) px_del(daemon_service_of(c)->a, (watch *)c->state, 1);
    c->state = NULL;
}
