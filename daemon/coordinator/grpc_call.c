/* A call's life: heard of, read, answered, closed. */
#include <stdio.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "daemon/coordinator/grpc_inside.h"

#define MAX_CALLS        16384u              /* alive at once; more: RESOURCE_EXHAUSTED */
#define ARENA_CHUNK      (16u << 10)
#define ARENA_CAP        (64u << 20)         /* what one message may become when unpacked */

typedef struct daemon_call_inside inside;

static inside *in(const daemon_call *c) { return c->inside; }

/* ---- references ---- */

daemon_call *daemon_call_ref(daemon_call *c)
{
    atomic_fetch_add_explicit(&in(c)->refs, 1, memory_order_relaxed);
    return c;
}

void daemon_call_unref(daemon_call *c)
{
    inside *i = in(c);
    daemon_queue *q = i->q;

    if (atomic_fetch_sub_explicit(&i->refs, 1, memory_order_acq_rel) != 1) return;
    if (c->method && c->method->drop) c->method->drop(c);
    if (i->listed) {
        pthread_mutex_lock(&q->lock);
        if (i->prev) i->prev->next = i->next; else q->alive = i->next;
        if (i->next) i->next->prev = i->prev;
        pthread_mutex_unlock(&q->lock);
        atomic_fetch_sub_explicit(&q->r->n_calls, 1, memory_order_relaxed);
    }
    if (i->recv) grpc_byte_buffer_destroy(i->recv);
    if (i->sent) grpc_byte_buffer_destroy(i->sent);
    for (size_t k = 0; k < i->n_trailer; k++) grpc_slice_unref(i->trailer[k].value);
    if (i->has_text) grpc_slice_unref(i->text);
    grpc_call_details_destroy(&i->details);
    grpc_metadata_array_destroy(&i->meta);
    daemon_call_arena_drop(c);
    px_alloc *a = &q->r->heap.a;
    grpc_call *call = i->call;
    px_del(a, i, 1);
    if (call) grpc_call_unref(call);         /* last: the server may be gone right after */
}

bool daemon_call_over(const daemon_call *c) { return atomic_load_explicit(&in(c)->over, memory_order_acquire); }
daemon_rpc *daemon_call_rpc(const daemon_call *c) { return in(c)->q->r; }

static void set_over(inside *i)
{
    if (atomic_exchange_explicit(&i->over, true, memory_order_acq_rel)) return;
    if (i->c.method && i->c.method->end) i->c.method->end(&i->c);
}

/* ---- memory ---- */

px_alloc *daemon_call_arena(daemon_call *c)
{
    inside *i = in(c);

    if (!i->has_arena) px_arena_init(&i->arena, &i->q->r->heap.a, "calls", ARENA_CHUNK, 0, ARENA_CAP);
    i->has_arena = true;
    return &i->arena.a;
}

void daemon_call_arena_drop(daemon_call *c)
{
    inside *i = in(c);

    if (i->has_arena) px_arena_deinit(&i->arena);
    i->has_arena = false;
}

px_alloc *daemon_call_scratch(daemon_call *c) { return &in(c)->q->scratch.a; }

/* ---- sends ---- */

bool daemon_call_can_send(const daemon_call *c) { return !in(c)->sending && !daemon_call_over(c); }

static void start_send(inside *i, const ProtobufCMessage *m, bool status)
{
    grpc_op op[3];
    size_t n = 0;

    memset(op, 0, sizeof op);
    if (!i->begun) {
        op[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
        i->begun = true;
    }
    if (m) {
        grpc_slice s = grpc_slice_malloc(protobuf_c_message_get_packed_size(m));
        protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(s));
        i->sent = grpc_raw_byte_buffer_create(&s, 1);
        grpc_slice_unref(s);
        op[n].op = GRPC_OP_SEND_MESSAGE;
        op[n++].data.send_message.send_message = i->sent;
    }
    if (status) {
        op[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op[n].data.send_status_from_server.trailing_metadata_count = i->n_trailer;
        op[n].data.send_status_from_server.trailing_metadata = i->trailer;
        op[n].data.send_status_from_server.status = i->code;
        op[n++].data.send_status_from_server.status_details = i->has_text ? &i->text : NULL;
    }
    if (!n) return;
    i->sending = true;
    i->send_began = px_now_us();
    i->q->n_sending++;
    daemon_call_ref(&i->c);
    if (grpc_call_start_batch(i->call, op, n, &i->on_send, NULL) != GRPC_CALL_OK) {
        i->q->n_sending--;                   /* only misuse comes here: end the call rather than hang */
        grpc_call_cancel(i->call, NULL);
        daemon_call_unref(&i->c);
    }
}

static void on_send(void *owner, bool ok)
{
    inside *i = owner;
    (void)ok;                                /* a failed send is followed by the close */

    i->sending = false;
    i->q->n_sending--;
    if (i->sent) grpc_byte_buffer_destroy(i->sent);
    i->sent = NULL;
    if (i->closing) {
        i->closing = false;
        if (!i->cancelled) start_send(i, NULL, true);
    } else if (!daemon_call_over(&i->c) && i->c.method->resume) i->c.method->resume(&i->c);
    daemon_call_unref(&i->c);
}

void daemon_call_begin(daemon_call *c)
{
    if (daemon_call_can_send(c)) start_send(in(c), NULL, false);
}

void daemon_call_send(daemon_call *c, const ProtobufCMessage *m)
{
    if (daemon_call_can_send(c)) start_send(in(c), m, false);
}

void daemon_call_finish(daemon_call *c, const ProtobufCMessage *m)
{
    inside *i = in(c);

    if (!daemon_call_can_send(c)) return;
    i->code = GRPC_STATUS_OK;
    start_send(i, m, true);
    set_over(i);
}

static void add_trailer(inside *i, const char *key, const char *value)
{
    i->trailer[i->n_trailer++] = (grpc_metadata){ .key = grpc_slice_from_static_string(key),
                                                  .value = grpc_slice_from_copied_string(value) };
}

void daemon_call_fail(daemon_call *c, const daemon_status_out *s)
{
    inside *i = in(c);
    char ms[16];

    if (daemon_call_over(c)) return;
    i->code = s->code;
    i->text = grpc_slice_from_copied_string(s->details);
    i->has_text = true;
    if (s->told) add_trailer(i, "retryable", s->retryable ? "true" : "false");
    if (s->told && s->retryable && s->retry_after_ms) {
        snprintf(ms, sizeof ms, "%u", s->retry_after_ms);
        add_trailer(i, "retry-after-ms", ms);
    }
    if (i->sending) i->closing = true;
    else start_send(i, NULL, true);
    set_over(i);
}

/* ---- receiving ---- */

void daemon_call_read(daemon_call *c)
{
    inside *i = in(c);
    grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };

    if (i->reading || daemon_call_over(c)) return;
    op.data.recv_message.recv_message = &i->recv;
    i->reading = true;
    daemon_call_ref(c);
    if (grpc_call_start_batch(i->call, &op, 1, &i->on_recv, NULL) != GRPC_CALL_OK) {
        grpc_call_cancel(i->call, NULL);
        daemon_call_unref(c);
    }
}

static void refuse(inside *i, grpc_status_code code, const char *why)
{
    daemon_call_fail(&i->c, &(daemon_status_out){ .code = code, .details = why });
}

static void on_recv(void *owner, bool ok)
{
    inside *i = owner;
    grpc_byte_buffer *b = i->recv;
    grpc_byte_buffer_reader reader;

    i->recv = NULL;
    i->reading = false;
    if (daemon_call_over(&i->c)) {
        if (b) grpc_byte_buffer_destroy(b);
    } else if (!ok || !b) {
        /* The end of what the client sends; or too large a message, and then the core has ended the call itself. */
        if (grpc_call_failed_before_recv_message(i->call)) { }
        else if (i->c.method->streams_in) i->c.method->message(&i->c, NULL, 0);
        else refuse(i, GRPC_STATUS_INVALID_ARGUMENT, "no request message came");
    } else if (!grpc_byte_buffer_reader_init(&reader, b)) {
        grpc_byte_buffer_destroy(b);
        refuse(i, GRPC_STATUS_INTERNAL, "the request message cannot be read");
    } else {
        grpc_slice s = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
        grpc_byte_buffer_destroy(b);
        i->c.method->message(&i->c, GRPC_SLICE_START_PTR(s), GRPC_SLICE_LENGTH(s));
        grpc_slice_unref(s);
    }
    daemon_call_unref(&i->c);
}

static void on_close(void *owner, bool ok)
{
    inside *i = owner;
    (void)ok;

    if (i->cancelled) set_over(i);
    daemon_call_unref(&i->c);
}

/* ---- new calls ---- */

static void on_new(void *owner, bool ok);

px_code daemon_call_expect(daemon_queue *q)
{
    inside *i = px_new(&q->r->heap.a, inside, 1);

    if (!i) return PX_ENOMEM;
    i->q = q;
    i->c.inside = i;
    i->c.service = q->r->args.service;
    atomic_init(&i->refs, 1);
    grpc_call_details_init(&i->details);
    grpc_metadata_array_init(&i->meta);
    i->on_new = (daemon_tag){ on_new, i };
    i->on_close = (daemon_tag){ on_close, i };
    i->on_recv = (daemon_tag){ on_recv, i };
    i->on_send = (daemon_tag){ on_send, i };
    if (grpc_server_request_call(q->r->server, &i->call, &i->details, &i->meta, q->cq, q->cq, &i->on_new) != GRPC_CALL_OK) {
        daemon_call_unref(&i->c);
        return PX_EINTERNAL;
    }
    return PX_OK;
}

static const daemon_method *find_method(const daemon_rpc *r, grpc_slice path)
{
    for (size_t k = 0; k < r->args.n_methods; k++)
        if (grpc_slice_str_cmp(path, r->args.method[k].path) == 0) return &r->args.method[k];
    return NULL;
}

static px_time_us deadline_of(gpr_timespec t)
{
    if (gpr_time_cmp(t, gpr_inf_future(t.clock_type)) >= 0) return PX_NEVER;
    gpr_timespec left = gpr_time_sub(gpr_convert_clock_type(t, GPR_CLOCK_MONOTONIC), gpr_now(GPR_CLOCK_MONOTONIC));
    if (left.tv_sec > INT32_MAX) return PX_NEVER;
    if (left.tv_sec < 0) return px_now_us();
    return px_now_us() + (px_time_us)left.tv_sec * 1000000 + left.tv_nsec / 1000;
}

static void on_new(void *owner, bool ok)
{
    inside *i = owner;
    daemon_queue *q = i->q;
    daemon_rpc *r = q->r;
    grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER };

    if (!ok) {                               /* the server shuts down */
        daemon_call_unref(&i->c);
        return;
    }
    q->owed++;
    pthread_mutex_lock(&q->lock);
    i->next = q->alive;
    if (q->alive) q->alive->prev = i;
    q->alive = i;
    i->listed = true;
    pthread_mutex_unlock(&q->lock);
    uint32_t n = atomic_fetch_add_explicit(&r->n_calls, 1, memory_order_relaxed);

    /* The close first, in a batch of its own: it is the signal that the client is gone.  It takes over our reference. */
    op.data.recv_close_on_server.cancelled = &i->cancelled;
    if (grpc_call_start_batch(i->call, &op, 1, &i->on_close, NULL) != GRPC_CALL_OK) {
        daemon_call_unref(&i->c);
        return;
    }
    i->c.deadline = deadline_of(i->details.deadline);
    i->c.method = find_method(r, i->details.method);
    if (!i->c.method) {
        char text[160], *path = grpc_slice_to_c_string(i->details.method);
        snprintf(text, sizeof text, "there is no method %.100s", path);
        gpr_free(path);
        refuse(i, GRPC_STATUS_UNIMPLEMENTED, text);
    } else if (n >= MAX_CALLS) {
        daemon_call_fail(&i->c, &(daemon_status_out){ GRPC_STATUS_RESOURCE_EXHAUSTED, "too many calls are open", true, true, 1000 });
    } else daemon_call_read(&i->c);
}
