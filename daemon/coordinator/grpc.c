#include "daemon/coordinator/grpc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#define POSTED_REQUESTS  32u                 /* calls that a queue is ready to hear of */
#define MAX_CALLS        16384u              /* alive at once; more: RESOURCE_EXHAUSTED */
#define ARENA_CHUNK      (16u << 10)
#define ARENA_CAP        (64u << 20)         /* what one message may become when unpacked */
#define SCRATCH_CHUNK    (256u << 10)
#define SCRATCH_RETAIN   (1u << 20)
#define SCRATCH_CAP      (256u << 20)
#define STALL_LOOK_US    (5 * 1000000ll)     /* how often stalled sends are looked for, while there are sends */
#define FORCED_US        500000              /* for our own statuses to leave before the core cancels */

typedef struct tag { void (*fn)(void *owner, bool ok); void *owner; } tag;

typedef struct queue {
    daemon_rpc *r;
    grpc_completion_queue *cq;
    pthread_t   thread; bool started;
    grpc_call  *wake_call;                   /* on the lame channel: an empty batch on it posts `wake` */
    tag         wake;
    _Atomic bool waking;                     /* the tag is under way */
    pthread_mutex_t lock;                    /* guards mailbox and list */
    struct daemon_call_inside *mail_first, *mail_last;
    struct daemon_call_inside *alive;        /* doubly linked */
    px_arena    scratch;
    uint32_t    n_sending;
    px_time_us  next_look;
} queue;

struct daemon_rpc {
    px_alloc    *a;
    px_heap      heap;                       /* calls and what they unpack */
    daemon_rpc_args args;
    bool         core;                       /* grpc_init was called */
    grpc_server *server;
    grpc_channel *lame;
    queue        queue[DAEMON_MAX_POLLERS];
    tag          shutdown;
    pthread_mutex_t lock; pthread_cond_t cond;
    bool         done;                       /* the core has shut the server down */
    bool         serving, drained;
    _Atomic bool draining, forced;
    _Atomic uint32_t n_calls;
};

typedef struct daemon_call_inside inside;
struct daemon_call_inside {
    daemon_call  c;
    queue       *q;
    _Atomic uint32_t refs;
    _Atomic bool over;
    grpc_call   *call;
    grpc_call_details   details;
    grpc_metadata_array meta;
    tag          on_new, on_close, on_recv, on_send;
    int          cancelled;
    grpc_byte_buffer *recv, *sent;
    px_arena     arena; bool has_arena;
    bool         reading, sending, begun;
    bool         closing, closed;            /* the status waits for the send slot; it was handed to the core */
    grpc_status_code code;
    grpc_slice   text; bool has_text;
    grpc_metadata trailer[2]; size_t n_trailer;
    px_time_us   send_began;
    inside      *mail_next; bool mailed;
    inside      *prev, *next; bool listed;
};

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
    queue *q = i->q;

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
bool daemon_rpc_draining(const daemon_rpc *r) { return atomic_load_explicit(&r->draining, memory_order_acquire); }

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

/* ---- wake-ups ---- */

static void wake(queue *q)
{
    if (atomic_exchange_explicit(&q->waking, true, memory_order_acq_rel)) return;
    grpc_call_start_batch(q->wake_call, NULL, 0, &q->wake, NULL);
}

/* Under the queue's lock.  A call that is just being freed (no reference left) is passed over. */
static void put_mail(inside *i)
{
    uint32_t n = atomic_load_explicit(&i->refs, memory_order_relaxed);

    if (i->mailed) return;
    do
        if (!n) return;
    while (!atomic_compare_exchange_weak_explicit(&i->refs, &n, n + 1, memory_order_relaxed, memory_order_relaxed));
    i->mailed = true;
    i->mail_next = NULL;
    if (i->q->mail_last) i->q->mail_last->mail_next = i; else i->q->mail_first = i;
    i->q->mail_last = i;
}

void daemon_call_post(daemon_call *c)
{
    queue *q = in(c)->q;

    pthread_mutex_lock(&q->lock);
    put_mail(in(c));
    pthread_mutex_unlock(&q->lock);
    wake(q);
}

void daemon_rpc_post_all(daemon_rpc *r)
{
    for (uint32_t k = 0; k < r->args.pollers; k++) {
        queue *q = &r->queue[k];
        pthread_mutex_lock(&q->lock);
        for (inside *i = q->alive; i; i = i->next) put_mail(i);
        pthread_mutex_unlock(&q->lock);
        wake(q);
    }
}

static void on_wake(void *owner, bool ok)
{
    queue *q = owner;
    (void)ok;

    atomic_store_explicit(&q->waking, false, memory_order_release);     /* before the look: no post is missed */
    pthread_mutex_lock(&q->lock);
    inside *i = q->mail_first;
    q->mail_first = q->mail_last = NULL;
    pthread_mutex_unlock(&q->lock);
    while (i) {
        pthread_mutex_lock(&q->lock);
        inside *next = i->mail_next;
        i->mailed = false;
        pthread_mutex_unlock(&q->lock);
        if (!daemon_call_over(&i->c)) {
            if (atomic_load_explicit(&q->r->forced, memory_order_acquire))
                daemon_call_fail(&i->c, &(daemon_status_out){ GRPC_STATUS_UNAVAILABLE, "the service is shutting down",
                                                              true, true, 1000 });
            else if (i->c.method && i->c.method->resume) i->c.method->resume(&i->c);
        }
        daemon_call_unref(&i->c);
        i = next;
    }
}

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
        i->closed = true;
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

static px_code expect_call(queue *q)
{
    inside *i = px_new(&q->r->heap.a, inside, 1);

    if (!i) return PX_ENOMEM;
    i->q = q;
    i->c.inside = i;
    i->c.service = q->r->args.service;
    atomic_init(&i->refs, 1);
    grpc_call_details_init(&i->details);
    grpc_metadata_array_init(&i->meta);
    i->on_new = (tag){ on_new, i };
    i->on_close = (tag){ on_close, i };
    i->on_recv = (tag){ on_recv, i };
    i->on_send = (tag){ on_send, i };
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
    return px_now_us() + (px_time_us)left.tv_sec * 1000000 + left.tv_nsec / 1000;
}

static void on_new(void *owner, bool ok)
{
    inside *i = owner;
    queue *q = i->q;
    daemon_rpc *r = q->r;
    grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER };

    if (!ok) {                               /* the server shuts down */
        daemon_call_unref(&i->c);
        return;
    }
    expect_call(q);                          /* without memory: one less is posted; the others go on */
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

/* ---- pollers ---- */

/* Sends that the client has not taken for too long. */
static void look_for_stalls(queue *q, px_time_us now)
{
    inside *stalled[64];
    size_t n = 0;

    q->next_look = now + STALL_LOOK_US;
    pthread_mutex_lock(&q->lock);
    for (inside *i = q->alive; i && n < sizeof stalled / sizeof *stalled; i = i->next)
        if (i->sending && now - i->send_began > q->r->args.stall) stalled[n++] = i;     /* the send's tag holds it */
    pthread_mutex_unlock(&q->lock);
    for (size_t k = 0; k < n; k++) {
        stalled[k]->send_began = now;
        grpc_call_cancel_with_status(stalled[k]->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "the client does not read its stream", NULL);
    }
}

static void *poll_queue(void *ctx)
{
    queue *q = ctx;

    for (;;) {
        gpr_timespec until = q->n_sending ? gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(STALL_LOOK_US, GPR_TIMESPAN))
                                          : gpr_inf_future(GPR_CLOCK_MONOTONIC);
        grpc_event ev = grpc_completion_queue_next(q->cq, until, NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN) return NULL;
        if (ev.type == GRPC_OP_COMPLETE) {
            tag *t = ev.tag;
            t->fn(t->owner, ev.success);
            px_arena_reset(&q->scratch);
        }
        if (q->n_sending) {
            px_time_us now = px_now_us();
            if (now >= q->next_look) look_for_stalls(q, now);
        }
    }
}

/* ---- the server ---- */

static void on_shutdown(void *owner, bool ok)
{
    daemon_rpc *r = owner;
    (void)ok;

    pthread_mutex_lock(&r->lock);
    r->done = true;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

/* The core's own lines: what matters of them comes back as a return value. */
static void say_nothing(gpr_log_func_args *args) { (void)args; }

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value };
}

static px_code listen_on(daemon_rpc *r, uint16_t *port, px_err *e)
{
    grpc_arg arg[] = {
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),                        /* two servers must not share a port unseen */
        int_arg("grpc.compression_enabled_algorithms_bitset", 1),    /* no compression: no gzip bombs */
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)r->args.max_message),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 20000),                  /* a client that is gone without a word is found */
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000),   /* clients may ping as well */
    };
    grpc_channel_args args = { sizeof arg / sizeof *arg, arg };
    grpc_server_credentials *open_door = grpc_insecure_server_credentials_create();

    r->server = grpc_server_create(&args, NULL);
    for (uint32_t k = 0; k < r->args.pollers; k++) {
        r->queue[k].cq = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(r->server, r->queue[k].cq, NULL);
    }
    int bound = grpc_server_add_http2_port(r->server, r->args.address, open_door);
    grpc_server_credentials_release(open_door);
    if (bound <= 0)
        return px_refuse(e, PX_EBUSY, "listen", r->args.address, "a free address of this machine", "cannot listen there");
    *port = (uint16_t)bound;
    return PX_OK;
}

px_code daemon_rpc_open(daemon_rpc **out, px_alloc *a, const daemon_rpc_args *args, uint16_t *port, px_err *e)
{
    px_code rc;
    daemon_rpc *r = px_new(a, daemon_rpc, 1);
    pthread_condattr_t monotonic;

    *out = NULL;
    if (!r) return px_fail(e, PX_ENOMEM, "listen", "no memory for the server");
    r->a = a;
    r->args = *args;
    px_heap_init(&r->heap, "grpc");
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    r->shutdown = (tag){ on_shutdown, r };
    gpr_set_log_function(say_nothing);
    grpc_init();
    r->core = true;
    for (uint32_t k = 0; k < args->pollers; k++) {
        queue *q = &r->queue[k];
        q->r = r;
        q->wake = (tag){ on_wake, q };
        pthread_mutex_init(&q->lock, NULL);
        px_arena_init(&q->scratch, &r->heap.a, "calls", SCRATCH_CHUNK, SCRATCH_RETAIN, SCRATCH_CAP);
    }
    if ((rc = listen_on(r, port, e))) goto fail;
    r->lame = grpc_lame_client_channel_create(NULL, GRPC_STATUS_UNAVAILABLE, "wake");
    for (uint32_t k = 0; k < args->pollers; k++)
        r->queue[k].wake_call = grpc_channel_create_call(r->lame, NULL, 0, r->queue[k].cq,
                                                         grpc_slice_from_static_string("/wake"), NULL,
                                                         gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_server_start(r->server);
    r->serving = true;
    for (uint32_t k = 0; k < args->pollers; k++) {
        queue *q = &r->queue[k];
        for (uint32_t n = 0; n < POSTED_REQUESTS; n++)
            if ((rc = expect_call(q))) {
                px_fail(e, rc, "listen", "no memory for a call");
                goto fail;
            }
        if (pthread_create(&q->thread, NULL, poll_queue, q)) {
            rc = px_fail(e, PX_EIO, "listen", "no thread for a completion queue");
            goto fail;
        }
        q->started = true;
    }
    *out = r;
    return PX_OK;

fail:
    daemon_rpc_close(r);
    return rc;
}

/* True when the core has shut down; false at the deadline. */
static bool wait_done(daemon_rpc *r, px_time_us deadline)
{
    struct timespec at = { deadline / 1000000, deadline % 1000000 * 1000 };

    pthread_mutex_lock(&r->lock);
    while (!r->done) {
        if (deadline == PX_NEVER) pthread_cond_wait(&r->cond, &r->lock);
        else if (pthread_cond_timedwait(&r->cond, &r->lock, &at)) break;
    }
    bool done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}

void daemon_rpc_drain(daemon_rpc *r, px_time_us deadline)
{
    if (r->drained) return;
    r->drained = true;
    atomic_store_explicit(&r->draining, true, memory_order_release);
    grpc_server_shutdown_and_notify(r->server, r->queue[0].cq, &r->shutdown);
    daemon_rpc_post_all(r);                  /* streams without an end of their own end now */
    if (wait_done(r, deadline)) return;
    atomic_store_explicit(&r->forced, true, memory_order_release);
    daemon_rpc_post_all(r);
    if (wait_done(r, px_now_us() + FORCED_US)) return;
    grpc_server_cancel_all_calls(r->server);
    wait_done(r, PX_NEVER);
}

void daemon_rpc_close(daemon_rpc *r)
{
    if (!r) return;
    if (r->serving && r->queue[0].started) daemon_rpc_drain(r, px_now_us());
    for (uint32_t k = 0; k < r->args.pollers; k++)
        if (r->queue[k].wake_call) grpc_call_unref(r->queue[k].wake_call);
    if (r->lame) grpc_channel_destroy(r->lame);
    if (r->serving && !r->drained) {         /* half open: no poller takes the tags yet */
        grpc_server_shutdown_and_notify(r->server, r->queue[0].cq, &r->shutdown);
        grpc_server_cancel_all_calls(r->server);
    }
    for (uint32_t k = 0; k < r->args.pollers; k++)
        if (r->queue[k].cq) {
            grpc_completion_queue_shutdown(r->queue[k].cq);
            if (r->queue[k].started) pthread_join(r->queue[k].thread, NULL);
            else if (r->serving) poll_queue(&r->queue[k]);
        }
    if (r->server) grpc_server_destroy(r->server);
    for (uint32_t k = 0; k < r->args.pollers; k++) {
        if (r->queue[k].cq) grpc_completion_queue_destroy(r->queue[k].cq);
        px_arena_deinit(&r->queue[k].scratch);
        pthread_mutex_destroy(&r->queue[k].lock);
    }
    if (r->core) grpc_shutdown_blocking();
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
    px_heap_deinit(&r->heap);
    px_del(r->a, r, 1);
}
