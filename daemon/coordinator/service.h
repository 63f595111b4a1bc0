/* service.h - the methods of phalanx.v1, health and reflection over the mechanism of grpc.h.
 * Layer: daemon/coordinator.  One object for all calls, shared by the pollers. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include <stdatomic.h>

#include "daemon/coordinator/grpc.h"
#include "daemon/coordinator/reflection.h"
#include "daemon/coordinator/server.h"
#include "daemon/coordinator/validate.h"
#include "daemon/coordinator/work.h"

#define DAEMON_INLINE_TEXT (4u << 10)        /* shorter texts are tokenized on the poller */

typedef struct daemon_service {
    px_alloc *a;                             /* requests and streams; outlives the engine */
    const proto_config *config;
    const px_log_sink *log;
    daemon_engine *engine;
    daemon_work work;
    daemon_reflection reflection;
    _Atomic bool serving;                    /* health */
} daemon_service;

extern const daemon_method daemon_methods[];
extern const size_t daemon_n_methods;

/* ---- what the methods share; on the call's poller ---- */
static inline daemon_service *daemon_service_of(const daemon_call *c) { return c->service; }
/* End the call with the status of e's code; precondition: PX_EUNSUP means what the set lacks. */
void daemon_service_refuse(daemon_call *c, const px_err *e, bool precondition, bool retryable);
/* The model, if inference is served now; else the call was ended with UNAVAILABLE, and NULL. */
const daemon_model *daemon_service_ready(daemon_call *c);
/* A request message out of the call's arena; NULL: the call was ended. */
ProtobufCMessage *daemon_service_unpack(daemon_call *c, const ProtobufCMessageDescriptor *d, const uint8_t *data, size_t n);
/* text -> bytes of a message, borrowed. */
static inline ProtobufCBinaryData daemon_service_bytes(const char *s, size_t n)
{
    return (ProtobufCBinaryData){ n, (uint8_t *)(uintptr_t)s };
}

/* ---- hooks, a file a group (see the table in service.c) ---- */
void daemon_generate_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_chat_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_score_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_stream_resume(daemon_call *c);
void daemon_stream_end(daemon_call *c);
void daemon_stream_drop(daemon_call *c);

void daemon_tokenize_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_detokenize_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_text_resume(daemon_call *c);
void daemon_text_drop(daemon_call *c);

void daemon_server_info_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_model_info_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_abort_message(daemon_call *c, const uint8_t *data, size_t n);

void daemon_health_check_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_health_watch_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_health_watch_resume(daemon_call *c);
void daemon_health_watch_drop(daemon_call *c);

void daemon_reflection_message(daemon_call *c, const uint8_t *data, size_t n);
void daemon_reflection_resume(daemon_call *c);

#endif
