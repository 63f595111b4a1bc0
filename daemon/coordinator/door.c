/* door.c - what other threads ask of the engine: its state, a request to be taken, one to be ended. */
#include <string.h>
#include <unistd.h>

#include "daemon/coordinator/engine_inside.h"

daemon_state daemon_engine_state(const daemon_engine *g)
{
    daemon_engine *x = (daemon_engine *)(uintptr_t)g;      /* the lock is all that changes */
    pthread_mutex_lock(&x->status.lock);
    daemon_state s = x->status.state;
    pthread_mutex_unlock(&x->status.lock);
    return s;
}

const daemon_model *daemon_engine_model(const daemon_engine *g)
{
    return atomic_load_explicit(&g->model_ready, memory_order_acquire) ? &g->model : NULL;
}

void daemon_engine_wake(daemon_engine *g)
{
    uint64_t one = 1;
    ssize_t ignored = write(g->wake_fd, &one, sizeof one);   /* EAGAIN: it is awake already */
    (void)ignored;
}

static bool push(px_alloc *a, daemon_request ***v, size_t *n, size_t *cap, daemon_request *r)
{
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 64;
        void *p = px_alloc_grow(a, *v, *cap, more, sizeof **v, _Alignof(daemon_request *));
        if (!p) return false;
        *v = p;
        *cap = more;
    }
    (*v)[(*n)++] = r;
    return true;
}

px_code daemon_engine_submit(daemon_engine *g, daemon_request *r, px_err *e)
{
    px_code rc = PX_OK;
    size_t bound = (size_t)g->args.config->queue + g->args.config->max_sequences;

    pthread_mutex_lock(&g->door);
    if (!g->open) {
        rc = px_fail(e, PX_EPEER, "state", "the service is not ready");
        goto out;
    }
    for (size_t i = 0; i < g->n_live; i++)
        if (!strcmp(g->live[i]->in.id, r->in.id) && daemon_request_lives(g->live[i])) {
            rc = px_fail(e, PX_EEXIST, "request_id", "a request with this id is running");
            goto out;
        }
    if (g->n_live >= bound + g->args.config->max_sequences || g->inbox.n >= bound) {
        rc = px_fail(e, PX_EBUSY, "queue", "%u requests wait already", g->args.config->queue);
        goto out;
    }
    if (!push(g->a, &g->live, &g->n_live, &g->cap_live, r)) {
        rc = px_fail(e, PX_ENOMEM, "queue", "no memory for a request");
        goto out;
    }
    daemon_request_ref(r);
    if (!push(g->a, &g->inbox.v, &g->inbox.n, &g->inbox.cap, r)) {
        g->n_live--;
        daemon_request_unref(r);
        rc = px_fail(e, PX_ENOMEM, "queue", "no memory for a request");
        goto out;
    }
    daemon_request_ref(r);
out:
    pthread_mutex_unlock(&g->door);
    if (!rc) daemon_engine_wake(g);
    return rc;
}

bool daemon_engine_abort(daemon_engine *g, const char *request_id)
{
    bool found = false;

    pthread_mutex_lock(&g->door);
    for (size_t i = 0; i < g->n_live && !found; i++)
        if (!strcmp(g->live[i]->in.id, request_id) && daemon_request_lives(g->live[i])) {
            atomic_store_explicit(&g->live[i]->cancelled, true, memory_order_release);
            found = true;
        }
    pthread_mutex_unlock(&g->door);
    if (found) daemon_engine_wake(g);
    return found;
}

void daemon_engine_sweep(daemon_engine *g)
{
    pthread_mutex_lock(&g->door);
    for (size_t i = 0; i < g->inbox.n; i++) {
        daemon_scheduler_add(&g->sched, g->inbox.v[i]);
        daemon_request_unref(g->inbox.v[i]);
    }
    g->inbox.n = 0;
    for (size_t i = 0; i < g->n_live;) {
        if (!g->live[i]->ended) {
            i++;
            continue;
        }
        daemon_request_unref(g->live[i]);
        g->live[i] = g->live[--g->n_live];
    }
    pthread_mutex_unlock(&g->door);
}
