/* What every rank says before anything can hang, compared fact by fact with what the coordinator expects. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/convert.h"
#include "daemon/rank/fields.h"

typedef struct expected {
    px_arena *arena;
    struct { const char *field, *value; } v[DAEMON_MAX_FACTS];
    size_t n;
    bool full;                          /* some are not in it: then nothing may be compared */
} expected;

static void expect(void *ctx, const daemon_fact *f)
{
    expected *x = ctx;
    if (x->n == sizeof x->v / sizeof *x->v) {
        x->full = true;
        return;
    }
    x->v[x->n].field = px_strdup(&x->arena->a, f->field);
    x->v[x->n].value = px_strdup(&x->arena->a, f->value);
    if (x->v[x->n].field && x->v[x->n].value) x->n++;
    else x->full = true;
}

static px_code check_full(const expected *x, px_err *e)
{
    return x->full ? px_fail(e, PX_ENOMEM, daemon_field_name(DAEMON_FIELD_HELLO), "no memory for the facts that are expected") : PX_OK;
}

static void compare(const expected *x, const Phalanx__Wire__Hello *h, px_err *errs, size_t cap, size_t *n)
{
    px_err e = {0};

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

static void differs(const Phalanx__Wire__Hello *h, daemon_field f, const char *found, const char *expected_text, px_err *errs,
                    size_t cap, size_t *n)
{
    px_err e = {0};

    px_mismatch(&e, daemon_field_name(f), found, expected_text);
    px_err_set_rank(&e, (int)h->rank, h->host);
    daemon_errors_add(&e, errs, cap, n);
}

static void compare_clock(const daemon_coldstart *c, const Phalanx__Wire__Hello *h, px_err *errs, size_t cap, size_t *n)
{
    struct timespec t;
    char found[48], want[48];

    clock_gettime(CLOCK_REALTIME, &t);
    double skew = (double)h->time_us / 1e6 - ((double)t.tv_sec + (double)t.tv_nsec / 1e9);
    double most = c->args->config->max_clock_skew_s;
    if (skew <= most && skew >= -most) return;
    snprintf(found, sizeof found, "%+.3f s", skew);
    snprintf(want, sizeof want, "within %.0f s", most);
    differs(h, DAEMON_FIELD_CLOCK, found, want, errs, cap, n);
}

/* The plan of a rank with the threads that it has: its numbers are computed here again, and compared. */
static void compare_rank(daemon_coldstart *c, const Phalanx__Wire__Hello *h, px_err *errs, size_t cap, size_t *n)
{
    const shard_manifest *m = &c->model->manifest;
    shard_demand d = daemon_contract_demand(c->args->config, c->world);
    expected x = { .n = 0 };
    px_arena arena;
    px_err e = {0};

    d.threads = h->threads ? h->threads : d.threads;
    if (shard_rank_bytes_of(&m->arch, &m->types, &m->split, h->rank, &d, (int)c->status->transport, &c->plan[h->rank], &e)) {
        px_err_set_rank(&e, (int)h->rank, h->host);
        daemon_errors_add(&e, errs, cap, n);
        return;
    }
    px_arena_init(&arena, c->a, "wire", 16384, 0, 0);
    x.arena = &arena;
    daemon_contract_rank_facts(m, c->args->config->set, h->rank, &c->plan[h->rank], true, expect, &x);
    if (check_full(&x, &e)) daemon_errors_add(&e, errs, cap, n);
    else compare(&x, h, errs, cap, n);
    px_arena_deinit(&arena);
}

static void compare_all(daemon_coldstart *c, const expected *x, const Phalanx__Wire__Hello *h, px_err *errs, size_t cap, size_t *n)
{
    px_err e = {0};

    compare_clock(c, h, errs, cap, n);
    for (size_t i = 0; i < h->n_errors; i++) {
        daemon_error_from_wire(h->errors[i], &e);
        daemon_errors_add(&e, errs, cap, n);
    }
    if (h->n_errors) return;                             /* without its set or configuration it knows no facts */
    compare(x, h, errs, cap, n);
    compare_rank(c, h, errs, cap, n);
}

/* What GetServerInfo and the log say of a rank. */
static void keep(daemon_coldstart *c, const Phalanx__Wire__Hello *h)
{
    daemon_rank_info *info = &c->status->rank[h->rank];
    char host[140], boot[80], cpu[40], features[300];

    pthread_mutex_lock(&c->status->lock);
    *info = (daemon_rank_info){ .pid = h->pid, .free_bytes = h->free_bytes };
    snprintf(info->host, sizeof info->host, "%s", h->host);
    snprintf(info->cpu_path, sizeof info->cpu_path, "%s", h->cpu_path);
    snprintf(info->boot_id, sizeof info->boot_id, "%s", h->boot_id);
    if (h->device) {
        snprintf(info->gpu.name, sizeof info->gpu.name, "%s", h->device->name);
        snprintf(info->gpu.driver, sizeof info->gpu.driver, "%s", h->device->driver);
        snprintf(info->gpu.runtime, sizeof info->gpu.runtime, "%s", h->device->runtime);
        snprintf(info->gpu.nccl, sizeof info->gpu.nccl, "%s", h->device->nccl);
        info->gpu.arch = h->device->arch, info->gpu.ordinal = h->device->ordinal;
        info->gpu.free_bytes = h->device->free_bytes, info->gpu.total_bytes = h->device->total_bytes;
    }
    pthread_mutex_unlock(&c->status->lock);
    px_log_line(c->args->log, PX_INFO, "hello", "rank=%u rank_host=%s pid=%u boot=%s threads=%u free=%" PRIu64 " cpu=%s features=%s facts=%zu",
                h->rank, px_log_quote(h->host, -1, host, sizeof host), h->pid, px_log_quote(info->boot_id, -1, boot, sizeof boot),
                h->threads, h->free_bytes, px_log_quote(info->cpu_path, -1, cpu, sizeof cpu),
                px_log_quote(h->cpu_features, -1, features, sizeof features), h->n_facts);
    if (h->device)
        px_log_line(c->args->log, PX_INFO, "hello_device", "rank=%u gpu=%s ordinal=%u arch=%u driver=%s runtime=%s nccl=%s free=%" PRIu64 " total=%" PRIu64,
                    h->rank, px_log_quote(info->gpu.name, -1, host, sizeof host), info->gpu.ordinal, info->gpu.arch,
                    px_log_quote(info->gpu.driver, -1, features, 100), px_log_quote(info->gpu.runtime, -1, features + 100, 100),
                    px_log_quote(info->gpu.nccl, -1, features + 200, 100), info->gpu.free_bytes, info->gpu.total_bytes);
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
        px_fail(e, PX_EINVAL, daemon_field_name(DAEMON_FIELD_HELLO), "frame %u of %zu bytes where a hello is due, or one that is none",
                ev->frame.type, ev->frame.n);
        daemon_links_reject(&c->links, ev->rank, e);      /* a stranger on our socket */
        px_err_clear(e);
        rc = PX_OK;
        goto out;
    }
    const Phalanx__Wire__Hello *h = (const Phalanx__Wire__Hello *)m;
    uint32_t rank = h->rank;
    char found[32], want[32];
    if ((pid_t)h->pid != c->links.fresh[ev->rank].pid) {
        snprintf(found, sizeof found, "%u", h->pid);
        snprintf(want, sizeof want, "%d", (int)c->links.fresh[ev->rank].pid);
        rc = px_mismatch(e, daemon_field_name(DAEMON_FIELD_HELLO_PID), found, want);
    } else if (h->world != c->world) {
        snprintf(found, sizeof found, "%u", h->world);
        snprintf(want, sizeof want, "%u", c->world);
        rc = px_mismatch(e, daemon_field_name(DAEMON_FIELD_HELLO_WORLD), found, want);
    } else {
        rc = daemon_links_adopt(&c->links, ev->rank, rank, e);
    }
    if (rc) {
        px_err_set_rank(e, (int)rank, h->host);
        goto out;
    }
    daemon_watcher_pid(c->watcher, (pid_t)h->pid);
    keep(c, h);
    compare_all(c, x, h, errs, cap, n);
    *counted = true;
out:
    px_arena_deinit(&arena);
    return rc;
}

px_code daemon_coldstart_unexpected(const daemon_coldstart *c, const daemon_event *ev, px_err *e)
{
    px_code rc = ev->frame.type == PHALANX__WIRE__FRAME_TYPE__HELLO
        ? px_fail(e, PX_EEXIST, daemon_field_name(DAEMON_FIELD_HELLO), "rank %u said hello twice", ev->rank)
        : px_fail(e, PX_EINVAL, daemon_field_name(DAEMON_FIELD_HELLO), "rank %u sent frame %u before it serves", ev->rank, ev->frame.type);

    px_err_set_rank(e, (int)ev->rank, c->status->rank[ev->rank].host);
    return rc;
}

/* Which ranks are missing, and what came in their place. */
static void name_missing(daemon_coldstart *c, px_code code, px_err *errs, size_t cap, size_t *n)
{
    pid_t pid = 0;
    size_t held = daemon_links_unfinished(&c->links, &pid);
    char more[160] = "";

    if (held) snprintf(more, sizeof more, "; process %d stopped after %zu bytes of one", (int)pid, held);
    else if (c->links.turned_away.code)
        snprintf(more, sizeof more, "; process %d was turned away: %.100s", (int)c->links.turned_away_pid, c->links.turned_away.text);
    for (uint32_t r = 0; r < c->world; r++)
        if (c->links.rank[r].fd < 0) {
            px_err late = {0};
            if (code == PX_ETIMEOUT)
                px_fail(&late, code, daemon_field_name(DAEMON_FIELD_HELLO), "rank %u said no hello within %u s%s", r,
                        c->args->config->hello_s, more);
            else                                          /* the launcher ends the others with the first that ends */
                px_fail(&late, code, daemon_field_name(DAEMON_FIELD_HELLO), "rank %u had said no hello when the job ended%s", r, more);
            px_err_set_rank(&late, (int)r, "");
            daemon_errors_add(&late, errs, cap, n);
        }
    if (c->links.turned_away.code) daemon_errors_add(&c->links.turned_away, errs, cap, n);
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
    rc = check_full(&x, e);
    while (!rc && have < c->world) {
        if ((rc = daemon_coldstart_next(c, deadline, "hello", &ev, e))) break;
        if (ev.kind == DAEMON_EV_FRAME && (rc = daemon_coldstart_unexpected(c, &ev, e))) break;
        if (ev.kind != DAEMON_EV_FRESH) continue;
        if ((rc = take_hello(c, &ev, &x, errs, cap, n, &counted, e))) break;
        have += counted;
        daemon_coldstart_progress(c, DAEMON_HELLO, have * 100 / c->world);
    }
    if (!rc && !*n) daemon_coldstart_devices(c, errs, cap, n);
    if (rc == PX_ETIMEOUT || rc == PX_EPEER) name_missing(c, rc, errs, cap, n);
    if (rc == PX_ETIMEOUT) px_err_clear(e);               /* each has been named */
    px_arena_deinit(&arena);
    return rc;
}
