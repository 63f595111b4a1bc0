#include "daemon/coordinator/server.h"

#include "daemon/coordinator/service.h"
#include "proto/phalanx/descriptors.h"

#define POLLERS 2u

struct daemon_server {
    daemon_service s;
    daemon_rpc *rpc;
    bool has_work;
};

px_code daemon_server_open(daemon_server **out, px_alloc *a, const proto_config *c, const px_log_sink *log,
                           daemon_engine *engine, uint16_t *port, px_err *e)
{
    px_code rc;
    daemon_server *v = px_new(a, daemon_server, 1);

    *out = NULL;
    if (!v) return px_fail(e, PX_ENOMEM, "listen", "no memory for the server");
    v->s = (daemon_service){ .a = a, .config = c, .log = log, .engine = engine };
    if ((rc = daemon_reflection_init(&v->s.reflection, a, proto_api_descriptors, proto_api_descriptors_bytes, e))) goto fail;
    if ((rc = daemon_work_init(&v->s.work, e))) goto fail;
    v->has_work = true;
    daemon_rpc_args args = { .address = c->listen, .method = daemon_methods, .n_methods = daemon_n_methods, .service = &v->s,
                             .pollers = POLLERS, .max_message = DAEMON_MAX_MESSAGE, .stall = DAEMON_SLOW_READER_US };
    if ((rc = daemon_rpc_open(&v->rpc, a, &args, port, e))) goto fail;
    *out = v;
    return PX_OK;

fail:
    daemon_server_close(v);
    return rc;
}

void daemon_server_set_state(daemon_server *v, daemon_state st)
{
    atomic_store_explicit(&v->s.serving, st == DAEMON_READY, memory_order_release);
    daemon_rpc_post_all(v->rpc);
}

void daemon_server_drain(daemon_server *v, px_time_us deadline) { daemon_rpc_drain(v->rpc, deadline); }

void daemon_server_close(daemon_server *v)
{
    px_alloc *a;

    if (!v) return;
    if (v->rpc) daemon_rpc_drain(v->rpc, px_now_us());    /* no call is left, so no job of one either */
    if (v->has_work) daemon_work_deinit(&v->s.work);
    daemon_rpc_close(v->rpc);
    daemon_reflection_deinit(&v->s.reflection);
    a = v->s.a;
    px_del(a, v, 1);
}
