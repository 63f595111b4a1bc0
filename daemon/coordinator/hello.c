/* What every rank says before anything can hang, compared fact by fact with what the coordinator expects. */
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/convert.h"

typedef struct expected {
    px_arena *arena;
    struct { const char *field, *value; } v[64];
    size_t n;
} expected;

static void expect(void *ctx, const daemon_fact *f)
{
    expected *x = ctx;
    if (x->n == sizeof x->v / sizeof *x->v) return;
    x->v[x->n].field = px_strdup(&x->arena->a, f->field);
    x->v[x->n].value = px_strdup(&x->arena->a, f->value);
    if (x->v[x->n].field && x->v[x->n].value) x->n++;
}

static void compare(const expected *x, const Phalanx__Wire__Hello *h, px_err *errs, size_t cap, size_t *n)
{
    px_err e = {0};

    for (size_t i = 0; i < h->n_errors; i++) {
        daemon_error_from_wire(h->errors[i], &e);
        daemon_errors_add(&e, errs, cap, n);
    }
    if (h->n_errors) return;                             /* without its set or configuration it knows no facts */
    for (size_t i = 0; i < x->n; i++) {
        const Phalanx__Wire__Fact *f = NULL;
        for (size_t k = 0; k < h->n_facts; k++)
            if (!strcmp(h->facts[k]->field, x->v[i].field)) f = h->facts[k];
        if (f && !strcmp(f->value, x->v[i].value)) continue;
        px_err_clear(&e);
        px_mismatch(&e, x->v[i].field, f ? f->value : "(nothing)", x->v[i].value);
        if (f && f->file[0]) px_err_set_file(&e, f->file);
        px_err_set_rank(&e, (int)h->rank, h->host);
        daemon_errors_add(&e, errs, cap, n);
    }
}

/* One hello: who it is, and whether all it says is what we expect. */
static px_code take_hello(daemon_coldstart *c, daemon_event *ev, const expected *x, px_err *errs, size_t cap, size_t *n,
                          bool *counted, px_err *e)
{
    ProtobufCMessage *m;
    px_arena arena;
    px_code rc;

    *counted = false;
    px_arena_init(&arena, c->a, "wire", 16384, 0, 4u << 20);
    if (ev->frame.type != PHALANX__WIRE__FRAME_TYPE__HELLO ||
        proto_pb_unpack(&phalanx__wire__hello__descriptor, &arena.a, ev->frame.n, ev->frame.data, &m, e)) {
        px_err_clear(e);
        daemon_links_reject(&c->links, ev->rank);         /* a stranger on our socket */
        rc = PX_OK;
        goto out;
    }
    const Phalanx__Wire__Hello *h = (const Phalanx__Wire__Hello *)m;
    if ((pid_t)h->pid != c->links.fresh[ev->rank].pid || h->world != c->world) {
        char found[32], want[32];
        snprintf(found, sizeof found, "%u of %u", h->pid, h->world);
        snprintf(want, sizeof want, "%d of %u", (int)c->links.fresh[ev->rank].pid, c->world);
        rc = px_mismatch(e, "hello.pid", found, want);
        goto out;
    }
    uint32_t rank = h->rank;
    if ((rc = daemon_links_adopt(&c->links, ev->rank, rank, e))) goto out;
    daemon_watcher_pid(c->watcher, (pid_t)h->pid);
    pthread_mutex_lock(&c->status->lock);
    daemon_rank_info *info = &c->status->rank[rank];
    *info = (daemon_rank_info){ .pid = h->pid, .free_bytes = h->free_bytes };
    snprintf(info->host, sizeof info->host, "%s", h->host);
    snprintf(info->cpu_path, sizeof info->cpu_path, "%s", h->cpu_path);
    pthread_mutex_unlock(&c->status->lock);
    compare(x, h, errs, cap, n);
    *counted = true;
out:
    px_arena_deinit(&arena);
    return rc;
}

px_code daemon_coldstart_hello(daemon_coldstart *c, px_time_us deadline, px_err *errs, size_t cap, size_t *n, px_err *e)
{
    expected x = { .n = 0 };
    px_arena arena;
    daemon_event ev;
    uint32_t have = 0;
    bool counted;
    px_code rc = PX_OK;

    px_arena_init(&arena, c->a, "wire", 16384, 0, 0);
    x.arena = &arena;
    daemon_contract_facts(c->args->config, c->args->config_path, &c->model->manifest, c->args->config->set, expect, &x);
    while (have < c->world) {
        if ((rc = daemon_coldstart_next(c, deadline, "hello", &ev, e))) break;
        if (ev.kind != DAEMON_EV_FRESH) continue;
        if ((rc = take_hello(c, &ev, &x, errs, cap, n, &counted, e))) break;
        have += counted;
    }
    for (uint32_t r = 0; rc == PX_ETIMEOUT && r < c->world; r++)
        if (c->links.rank[r].fd < 0) {
            px_err late = {0};
            px_fail(&late, PX_ETIMEOUT, "hello", "rank %u said no hello", r);
            px_err_set_rank(&late, (int)r, "");
            daemon_errors_add(&late, errs, cap, n);
        }
    px_arena_deinit(&arena);
    return rc;
}
