#include "daemon/cli/client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "proto/config/config.h"
#include "proto/wire/pb.h"

#define TICK_MS          50               /* how long a signal may stay unseen */
#define MAX_ANSWER       (256 << 20)      /* bytes of one message: a vocabulary's log-probabilities fit by far */
#define UNPACK_CAP       ((size_t)1 << 30)

struct daemon_client {
    px_alloc *a;
    grpc_channel *channel;
    grpc_completion_queue *queue;
    char address[300];
};

static const char *const status_names[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED" };

const char *daemon_client_status_name(int code)
{
    return code >= 0 && code < (int)(sizeof status_names / sizeof *status_names) ? status_names[code] : "UNKNOWN";
}

static px_code code_of(int status)
{
    switch (status) {
    case GRPC_STATUS_OK:                  return PX_OK;
    case GRPC_STATUS_CANCELLED:           return PX_ECANCELLED;
    case GRPC_STATUS_INVALID_ARGUMENT:    return PX_EINVAL;
    case GRPC_STATUS_OUT_OF_RANGE:        return PX_ERANGE;
    case GRPC_STATUS_NOT_FOUND:           return PX_ENOTFOUND;
    case GRPC_STATUS_ALREADY_EXISTS:      return PX_EEXIST;
    case GRPC_STATUS_FAILED_PRECONDITION:
    case GRPC_STATUS_UNIMPLEMENTED:       return PX_EUNSUP;
    case GRPC_STATUS_RESOURCE_EXHAUSTED:  return PX_EBUSY;
    case GRPC_STATUS_DEADLINE_EXCEEDED:   return PX_ETIMEOUT;
    case GRPC_STATUS_UNAVAILABLE:         return PX_EPEER;
    default:                              return PX_EINTERNAL;
    }
}

static gpr_timespec in_us(px_time_us us)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(us, GPR_TIMESPAN));
}

static gpr_timespec at(px_time_us deadline)
{
    px_time_us now = px_now_us();

    if (deadline == PX_NEVER) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return in_us(deadline > now ? deadline - now : 0);
}

/* ---- connecting ---- */

static px_code wait_connected(daemon_client *c, px_time_us deadline, px_err *e)
{
    grpc_connectivity_state state = grpc_channel_check_connectivity_state(c->channel, 1);

    while (state != GRPC_CHANNEL_READY) {
        if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN)
            return px_fail(e, PX_EPEER, "address", "no server answers at %s", c->address);
        if (px_now_us() >= deadline)
            return px_fail(e, PX_EPEER, "address", "no server answered at %s in time", c->address);
        if (daemon_cli_interrupted()) return px_fail(e, PX_ECANCELLED, "address", "interrupted");
        px_time_us left = deadline - px_now_us(), tick = TICK_MS * 1000;
        grpc_channel_watch_connectivity_state(c->channel, state, in_us(left < tick ? left : tick), c->queue, NULL);
        grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        state = grpc_channel_check_connectivity_state(c->channel, 1);
    }
    return PX_OK;
}

static grpc_arg whole(const char *key, int value)
{
    return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value };
}

px_code daemon_client_open(daemon_client **out, px_alloc *a, const char *address, px_time_us deadline, px_err *e)
{
    grpc_arg args[] = { whole(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, MAX_ANSWER), whole(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
                        whole(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
                        whole(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1) };
    grpc_channel_args list = { sizeof args / sizeof *args, args };
    grpc_channel_credentials *insecure;
    daemon_client *c = px_new(a, daemon_client, 1);
    char host[256], target[320];
    uint16_t port;
    px_code rc;

    *out = NULL;
    if (!c) return px_fail(e, PX_ENOMEM, "address", "no memory for a client");
    c->a = a;
    grpc_init();
    if ((rc = proto_split_address(address, host, sizeof host, &port, e))) {
        if (e) snprintf(e->field, sizeof e->field, "address");
        goto fail;
    }
    snprintf(c->address, sizeof c->address, "%s", address);
    snprintf(target, sizeof target, "dns:///%s", address);
    insecure = grpc_insecure_credentials_create();
    c->channel = grpc_channel_create(target, insecure, &list);
    grpc_channel_credentials_release(insecure);
    c->queue = grpc_completion_queue_create_for_next(NULL);
    if ((rc = wait_connected(c, deadline, e))) goto fail;
    *out = c;
    return PX_OK;

fail:
    daemon_client_close(c);
    return rc;
}

void daemon_client_close(daemon_client *c)
{
    if (!c) return;
    if (c->channel) grpc_channel_destroy(c->channel);
    if (c->queue) {
        grpc_completion_queue_shutdown(c->queue);
        while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN) { }
        grpc_completion_queue_destroy(c->queue);
    }
    grpc_shutdown();
    px_del(c->a, c, 1);
}

/* ---- a call ---- */

typedef struct call {
    daemon_client *c;
    grpc_call *call;
    const ProtobufCMessageDescriptor *answer;
    daemon_client_take *fn;
    void *ctx;
    px_arena arena;
    grpc_byte_buffer *request, *message;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    unsigned under_way;                /* batches */
    bool reading, interrupted;
    px_code rc;                        /* of fn or of unpacking: the call is cancelled */
} call;

enum { TAG_SEND = 1, TAG_STATUS, TAG_READ };

static void *tag(int n) { return (void *)(uintptr_t)n; }

static px_code start(call *x, const grpc_op *ops, size_t n, int t, px_err *e)
{
    if (grpc_call_start_batch(x->call, ops, n, tag(t), NULL) != GRPC_CALL_OK)
        return px_fail(e, PX_EINTERNAL, "grpc", "the call took no operation");
    x->under_way++;
    return PX_OK;
}

static px_code read_next(call *x, px_err *e)
{
    grpc_op op = { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->message };
    px_code rc = start(x, &op, 1, TAG_READ, e);

    x->reading = !rc;
    return rc;
}

static void pack(call *x, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    grpc_slice slice = grpc_slice_malloc(n);

    protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(slice));
    x->request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
}

static px_code begin(call *x, const ProtobufCMessage *request, px_err *e)
{
    px_code rc;

    pack(x, request);
    grpc_op send[4] = { { .op = GRPC_OP_SEND_INITIAL_METADATA },
                        { .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x->request },
                        { .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
                        { .op = GRPC_OP_RECV_INITIAL_METADATA,
                          .data.recv_initial_metadata.recv_initial_metadata = &x->initial } };
    grpc_op status = { .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                       .data.recv_status_on_client = { .trailing_metadata = &x->trailing, .status = &x->status,
                                                       .status_details = &x->details } };

    if ((rc = start(x, &status, 1, TAG_STATUS, e)) || (rc = start(x, send, 4, TAG_SEND, e))) return rc;
    return read_next(x, e);
}

static void take_message(call *x, px_err *e)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *m;
    grpc_slice all;

    if (!grpc_byte_buffer_reader_init(&reader, x->message)) {
        x->rc = px_fail(e, PX_ECORRUPT, "answer", "the message cannot be read");
    } else {
        all = grpc_byte_buffer_reader_readall(&reader);
        x->rc = proto_pb_unpack(x->answer, &x->arena.a, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all), &m, e);
        if (!x->rc) x->rc = x->fn(x->ctx, m, e);
        grpc_slice_unref(all);
        grpc_byte_buffer_reader_destroy(&reader);
        px_arena_reset(&x->arena);
    }
    grpc_byte_buffer_destroy(x->message);
    x->message = NULL;
}

static void on_read(call *x, bool ok, px_err *e)
{
    x->reading = false;
    if (!ok || !x->message) return;              /* no more of them: the status follows */
    if (x->rc || x->interrupted) {
        grpc_byte_buffer_destroy(x->message);
        x->message = NULL;
        return;
    }
    take_message(x, e);
    if (!x->rc) x->rc = read_next(x, e);
    if (x->rc) grpc_call_cancel(x->call, NULL);
}

static void run(call *x, px_err *e)
{
    while (x->under_way) {
        grpc_event v = grpc_completion_queue_next(x->c->queue, in_us(TICK_MS * 1000), NULL);
        if (v.type == GRPC_OP_COMPLETE) {
            x->under_way--;
            if (v.tag == tag(TAG_READ)) on_read(x, v.success != 0, e);
        }
        if (daemon_cli_interrupted() && !x->interrupted) {
            x->interrupted = true;
            grpc_call_cancel(x->call, NULL);
        }
    }
}

static void read_status(const call *x, daemon_client_status *st)
{
    size_t n = GRPC_SLICE_LENGTH(x->details);

    st->code = (int)x->status;
    if (n >= sizeof st->message) n = sizeof st->message - 1;
    memcpy(st->message, GRPC_SLICE_START_PTR(x->details), n);
    st->message[n] = 0;
    while (n && !px_utf8_valid(st->message, n)) st->message[--n] = 0;        /* cut in a character */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)st->message[i] < ' ' || st->message[i] == 127) st->message[i] = '?';
    for (size_t i = 0; i < x->trailing.count; i++) {
        const grpc_metadata *m = &x->trailing.metadata[i];
        if (grpc_slice_str_cmp(m->key, "retryable")) continue;
        st->told = true;
        st->retryable = !grpc_slice_str_cmp(m->value, "true");
    }
}

px_code daemon_client_call(daemon_client *c, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *answer, px_time_us deadline, daemon_client_take *fn, void *ctx,
                           daemon_client_status *st, px_err *e)
{
    call x = { .c = c, .answer = answer, .fn = fn, .ctx = ctx, .status = GRPC_STATUS_UNKNOWN, .details = grpc_empty_slice() };
    px_code rc;

    *st = (daemon_client_status){ .code = GRPC_STATUS_UNKNOWN };
    px_arena_init(&x.arena, c->a, "answers", 65536, 1 << 20, UNPACK_CAP);
    grpc_metadata_array_init(&x.initial);
    grpc_metadata_array_init(&x.trailing);
    x.call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue,
                                      grpc_slice_from_static_string(method), NULL, at(deadline), NULL);
    if ((x.rc = begin(&x, request, e))) grpc_call_cancel(x.call, NULL);
    run(&x, e);
    read_status(&x, st);
    if (x.rc) rc = x.rc;
    else if (x.interrupted && st->code) rc = px_fail(e, PX_ECANCELLED, "CANCELLED", "interrupted");
    else if (st->code) rc = px_fail(e, code_of(st->code), daemon_client_status_name(st->code), "%s",
                                    *st->message ? st->message : "no message");
    else rc = PX_OK;
    if (x.message) grpc_byte_buffer_destroy(x.message);
    if (x.request) grpc_byte_buffer_destroy(x.request);
    grpc_metadata_array_destroy(&x.initial);
    grpc_metadata_array_destroy(&x.trailing);
    grpc_slice_unref(x.details);
    grpc_call_unref(x.call);
    px_arena_deinit(&x.arena);
    return rc;
}
