#include "daemon/coordinator/service.h"

#include <string.h>

#include "proto/wire/pb.h"

#define STREAM daemon_stream_resume, daemon_stream_end, daemon_stream_drop

const daemon_method daemon_methods[] = {
    { "/phalanx.v1.Inference/Generate", false, daemon_generate_message, STREAM },
    { "/phalanx.v1.Inference/Chat", false, daemon_chat_message, STREAM },
    { "/phalanx.v1.Inference/Score", false, daemon_score_message, STREAM },
    { "/phalanx.v1.Inference/Tokenize", false, daemon_tokenize_message, daemon_text_resume, NULL, daemon_text_drop },
    { "/phalanx.v1.Inference/Detokenize", false, daemon_detokenize_message, daemon_text_resume, NULL, daemon_text_drop },
    { "/phalanx.v1.Control/GetServerInfo", false, daemon_server_info_message, NULL, NULL, NULL },
    { "/phalanx.v1.Control/GetModelInfo", false, daemon_model_info_message, NULL, NULL, NULL },
    { "/phalanx.v1.Control/Abort", false, daemon_abort_message, NULL, NULL, NULL },
    { "/grpc.health.v1.Health/Check", false, daemon_health_check_message, NULL, NULL, NULL },
    { "/grpc.health.v1.Health/Watch", false, daemon_health_watch_message, daemon_health_watch_resume, NULL,
      daemon_health_watch_drop },
    { "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true, daemon_reflection_message,
      daemon_reflection_resume, NULL, NULL },
    { "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true, daemon_reflection_message,
      daemon_reflection_resume, NULL, NULL },
};
const size_t daemon_n_methods = sizeof daemon_methods / sizeof *daemon_methods;

static grpc_status_code status_of(px_code code, bool precondition)
{
    switch (code) {
    case PX_OK:         return GRPC_STATUS_OK;
    case PX_EINVAL:
    case PX_ERANGE:
    case PX_EMISMATCH:  return GRPC_STATUS_INVALID_ARGUMENT;
    case PX_ENOMEM:
    case PX_EBUSY:      return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case PX_ENOTFOUND:  return GRPC_STATUS_NOT_FOUND;
    case PX_EEXIST:     return GRPC_STATUS_ALREADY_EXISTS;
    case PX_EUNSUP:     return precondition ? GRPC_STATUS_FAILED_PRECONDITION : GRPC_STATUS_UNIMPLEMENTED;
    case PX_ETIMEOUT:   return GRPC_STATUS_DEADLINE_EXCEEDED;
    case PX_EDEVICE:                    /* the ranks start again */
    case PX_EPEER:      return GRPC_STATUS_UNAVAILABLE;
    case PX_ECANCELLED: return GRPC_STATUS_CANCELLED;
    default:            return GRPC_STATUS_INTERNAL;
    }
}

void daemon_service_refuse(daemon_call *c, const px_err *e, bool precondition, bool retryable)
{
    char text[1100];
    grpc_status_code status = status_of(e->code, precondition);
    daemon_status_out out = { .code = status, .details = px_err_format(e, text, sizeof text) };

    if (status == GRPC_STATUS_UNAVAILABLE || status == GRPC_STATUS_RESOURCE_EXHAUSTED) {
        out.told = true;
        out.retryable = retryable;
        out.retry_after_ms = status == GRPC_STATUS_UNAVAILABLE ? 1000 : 200;
    }
    daemon_call_fail(c, &out);
}

const daemon_model *daemon_service_ready(daemon_call *c)
{
    static const char *const why[] = { "the service is starting", "", "a rank was lost, the service restarts",
                                       "the service is shutting down", "the service has failed" };
    daemon_service *s = daemon_service_of(c);
    daemon_state st = daemon_engine_state(s->engine);
    px_err e = {0};

    if (st == DAEMON_READY && !daemon_rpc_draining(daemon_call_rpc(c))) return daemon_engine_model(s->engine);
    px_fail(&e, PX_EPEER, "state", "%s", why[st == DAEMON_READY ? DAEMON_DRAINING : st]);
    daemon_service_refuse(c, &e, false, st != DAEMON_FAILED);
    return NULL;
}

ProtobufCMessage *daemon_service_unpack(daemon_call *c, const ProtobufCMessageDescriptor *d, const uint8_t *data, size_t n)
{
    ProtobufCMessage *m = NULL;
    px_err e = {0};

    if (proto_pb_unpack(d, daemon_call_arena(c), n, data, &m, &e)) daemon_service_refuse(c, &e, false, false);
    return m;
}
