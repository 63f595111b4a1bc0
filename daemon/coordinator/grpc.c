#include "daemon/coordinator/grpc.h"

#include <time.h>

#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#include "daemon/coordinator/grpc_inside.h"

#define POSTED_REQUESTS  32u                 /* calls that a queue is ready to hear of */
#define SCRATCH_CHUNK    (256u << 10)
#define SCRATCH_RETAIN   (1u << 20)
#define SCRATCH_CAP      (256u << 20)
#define STALL_LOOK_US    (5 * 1000000ll)     /* how often stalled sends are looked for, while there are sends */
#define FORCED_US        500000              /* for our own statuses to leave before the core cancels */

typedef struct daemon_call_inside inside;

/* ---- wake-ups ---- */

static void wake(daemon_queue *q)
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
    daemon_queue *q = c->inside->q;

    pthread_mutex_lock(&q->lock);
    put_mail(c->inside);
    pthread_mutex_unlock(&q->lock);
    wake(q);
}

void daemon_rpc_post_all(daemon_rpc *r)
{
    for (uint32_t k = 0; k < r->args.pollers; k++) {
        daemon_queue *q = &r->queue[k];
        pthread_mutex_lock(&q->lock);
        for (inside *i = q->alive; i; i = i->next) put_mail(i);
        pthread_mutex_unlock(&q->lock);
        wake(q);
    }
}

bool daemon_rpc_draining(const daemon_rpc *r) { return atomic_load_explicit(&r->draining, memory_order_acquire); }

static void on_wake(void *owner, bool ok)
{
    daemon_queue *q = owner;
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

/* ---- pollers ---- */

/* Sends that the client has not taken for too long. */
static void look_for_stalls(daemon_queue *q, px_time_us now)
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
    daemon_queue *q = ctx;

    for (;;) {
        gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
        if (q->n_sending || q->owed)
            until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(STALL_LOOK_US, GPR_TIMESPAN));
        grpc_event ev = grpc_completion_queue_next(q->cq, until, NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN) return NULL;
        if (ev.type == GRPC_OP_COMPLETE) {
            daemon_tag *t = ev.tag;
            t->fn(t->owner, ev.success);
            px_arena_reset(&q->scratch);
        }
        while (q->owed && !daemon_call_expect(q)) q->owed--;       /* without memory at the next look */
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
    r->shutdown = (daemon_tag){ on_shutdown, r };
    gpr_set_log_function(say_nothing);
    grpc_init();
    r->core = true;
    for (uint32_t k = 0; k < args->pollers; k++) {
        daemon_queue *q = &r->queue[k];
        q->r = r;
        q->wake = (daemon_tag){ on_wake, q };
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
        daemon_queue *q = &r->queue[k];
        for (uint32_t n = 0; n < POSTED_REQUESTS; n++)
            if ((rc = daemon_call_expect(q))) {
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
