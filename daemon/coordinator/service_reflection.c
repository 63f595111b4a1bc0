/* Server reflection, v1 and v1alpha: the two differ in nothing but the package's name, so one codec serves both. */
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/service.h"
#include "grpc/reflection_v1.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest  request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

static void answer_file(daemon_call *c, response *m, const daemon_file *f, const char *what)
{
    Grpc__Reflection__V1__FileDescriptorResponse file = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    char text[200];

    if (f) {
        ProtobufCBinaryData bytes = daemon_service_bytes((const char *)f->data, f->bytes);
        file.n_file_descriptor_proto = 1;
        file.file_descriptor_proto = &bytes;
        m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
        m->file_descriptor_response = &file;
        daemon_call_send(c, &m->base);
        return;
    }
    snprintf(text, sizeof text, "not found: %.150s", what);
    error.error_code = GRPC_STATUS_NOT_FOUND;
    error.error_message = px_utf8_valid(text, strlen(text)) ? text : (char *)(uintptr_t)"not found";
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    m->error_response = &error;
    daemon_call_send(c, &m->base);
}

static void answer_services(daemon_call *c, response *m)
{
    const daemon_reflection *r = &daemon_service_of(c)->reflection;
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    px_alloc *a = daemon_call_scratch(c);
    Grpc__Reflection__V1__ServiceResponse *one = px_new(a, Grpc__Reflection__V1__ServiceResponse, r->n_services);
    px_err e = {0};

    list.service = px_new(a, Grpc__Reflection__V1__ServiceResponse *, r->n_services);
    if (!one || !list.service) {
        px_fail(&e, PX_ENOMEM, "list_services", "no memory for the answer");
        daemon_service_refuse(c, &e, false, true);
        return;
    }
    for (; list.n_service < r->n_services; list.n_service++) {
        grpc__reflection__v1__service_response__init(&one[list.n_service]);
        one[list.n_service].name = (char *)(uintptr_t)r->service[list.n_service];
        list.service[list.n_service] = &one[list.n_service];
    }
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    m->list_services_response = &list;
    daemon_call_send(c, &m->base);
}

void daemon_reflection_message(daemon_call *c, const uint8_t *data, size_t n)
{
    const daemon_reflection *r = &daemon_service_of(c)->reflection;
    response m = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    request *req;

    if (!data) {
        daemon_call_finish(c, NULL);
        return;
    }
    if (!(req = (void *)daemon_service_unpack(c, &grpc__reflection__v1__server_reflection_request__descriptor, data, n))) return;
    m.valid_host = req->host;
    m.original_request = req;
    switch (req->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_file(c, &m, daemon_reflection_file(r, req->file_by_filename), req->file_by_filename);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_file(c, &m, daemon_reflection_symbol(r, req->file_containing_symbol), req->file_containing_symbol);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(c, &m);
        break;
    default:                                 /* the interface has no extensions */
        answer_file(c, &m, NULL, "there are no extensions");
        break;
    }
    daemon_call_arena_drop(c);
}

/* The answer has left: the next question. */
void daemon_reflection_resume(daemon_call *c)
{
    if (!daemon_call_can_send(c)) return;
    if (daemon_rpc_draining(daemon_call_rpc(c)))
        daemon_call_fail(c, &(daemon_status_out){ GRPC_STATUS_UNAVAILABLE, "the service is shutting down", true, true, 1000 });
    else daemon_call_read(c);
}
