#include "daemon/coordinator/info.h"

#include <string.h>

#include "daemon/coordinator/limits.h"

typedef Phalanx__V1__GetServerInfoResponse response;
typedef Phalanx__V1__Subsystem             subsystem;

#define MAX_SUBSYSTEMS 64

typedef struct builder { px_alloc *a; bool full; } builder;

static char *text(builder *b, const char *s)
{
    char *p = px_strdup(b->a, s);
    if (!p) b->full = true;
    return p;
}

static void *many(builder *b, size_t n, size_t each)
{
    void *p = px_alloc_zero(b->a, n, each, _Alignof(max_align_t));
    if (!p) b->full = true;
    return p;
}

typedef struct mine { builder *b; subsystem **v; size_t n; } mine;

/* Allocators of one name are one line. */
static void add_mine(void *ctx, const char *name, size_t live, size_t peak)
{
    mine *l = ctx;
    subsystem *s;

    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->v[i]->name, name)) {
            l->v[i]->live_bytes += live;
            l->v[i]->peak_bytes += peak;
            return;
        }
    if (l->n == MAX_SUBSYSTEMS || !(s = many(l->b, 1, sizeof *s))) return;
    phalanx__v1__subsystem__init(s);
    s->name = (char *)(uintptr_t)name;                     /* static storage */
    s->live_bytes = live;
    s->peak_bytes = peak;
    l->v[l->n++] = s;
}

static void phases(builder *b, const daemon_status *s, response *r)
{
    static const char *const states[] = { "waiting", "running", "done", "failed" };

    if (!(r->cold_start = many(b, DAEMON_N_PHASES, sizeof *r->cold_start))) return;
    for (int p = 0; p < DAEMON_N_PHASES; p++) {
        Phalanx__V1__ColdStartStep *x = many(b, 1, sizeof *x);
        if (!x) return;
        phalanx__v1__cold_start_step__init(x);
        x->name = text(b, daemon_phase_name((daemon_phase)p));
        x->state = text(b, states[s->phase[p].state]);
        const daemon_phase_info *i = &s->phase[p];
        x->duration_us = (uint64_t)(i->state == DAEMON_DOING ? px_now_us() - i->began : i->took);
        x->percent = i->percent;
        x->deadline_us = (uint64_t)i->limit;
        x->detail = text(b, s->phase[p].detail);
        r->cold_start[r->n_cold_start++] = x;
    }
}

static void one_rank(builder *b, const daemon_rank_info *i, uint32_t rank, Phalanx__V1__RankInfo *x)
{
    phalanx__v1__rank_info__init(x);
    x->rank = rank;
    x->host = text(b, i->host);
    x->pid = i->pid;
    x->cpu_path = text(b, i->cpu_path);
    x->weights_planned = i->weights[0], x->weights_measured = i->weights[1];
    x->kv_planned = i->kv[0],           x->kv_measured = i->kv[1];
    x->arena_planned = i->arena[0],     x->arena_measured = i->arena[1];
    x->step_planned = i->step[0],       x->step_measured = i->step[1];
    x->comm_planned = i->comm[0],       x->comm_measured = i->comm[1];
    x->rss_bytes = i->rss;
    x->verify_percent = i->verify_percent;
    if (!(x->others = many(b, i->n_others, sizeof *x->others))) return;
    for (uint32_t k = 0; k < i->n_others; k++) {
        Phalanx__V1__Estimate *o = many(b, 1, sizeof *o);
        if (!o) return;
        phalanx__v1__estimate__init(o);
        o->kind = text(b, i->other[k].kind);
        o->estimated = i->other[k].estimated, o->low = i->other[k].low, o->high = i->other[k].high;
        o->measured = i->other[k].measured;
        x->others[x->n_others++] = o;
    }
    if (!(x->subsystems = many(b, i->n_subsystems, sizeof *x->subsystems))) return;
    for (uint32_t k = 0; k < i->n_subsystems; k++) {
        subsystem *s = many(b, 1, sizeof *s);
        if (!s) return;
        phalanx__v1__subsystem__init(s);
        s->name = text(b, i->subsystem[k].name);
        s->live_bytes = i->subsystem[k].live;
        s->peak_bytes = i->subsystem[k].peak;
        x->subsystems[x->n_subsystems++] = s;
    }
}

static void ranks(builder *b, const daemon_status *s, response *r)
{
    if (!s->rank || !(r->ranks = many(b, s->world, sizeof *r->ranks))) return;
    for (uint32_t k = 0; k < s->world; k++) {
        Phalanx__V1__RankInfo *x = many(b, 1, sizeof *x);
        if (!x) return;
        one_rank(b, &s->rank[k], k, x);
        r->ranks[r->n_ranks++] = x;
    }
}

static void settings(builder *b, const proto_config *c, response *r)
{
    char value[1100];

    if (!(r->settings = many(b, proto_n_fields, sizeof *r->settings))) return;
    for (size_t i = 0; i < proto_n_fields; i++) {
        Phalanx__V1__Setting *x = many(b, 1, sizeof *x);
        if (!x) return;
        phalanx__v1__setting__init(x);
        x->key = (char *)(uintptr_t)proto_fields[i].key;
        x->value = text(b, proto_config_show(c, &proto_fields[i], value, sizeof value));
        r->settings[r->n_settings++] = x;
    }
}

static void limits(builder *b, const daemon_model *m, response *r)
{
    Phalanx__V1__Limits *x = many(b, 1, sizeof *x);

    if (!x) return;
    phalanx__v1__limits__init(x);
    x->context = m ? m->context : 0;
    x->max_prompt_bytes = DAEMON_MAX_PROMPT_BYTES;
    x->max_num_sequences = DAEMON_MAX_NUM_SEQUENCES;
    x->max_top_logprobs = SHARD_MAX_LOGPROBS;
    x->max_stop_strings = DAEMON_MAX_STOP_STRINGS;
    x->max_stop_string_bytes = DAEMON_MAX_STOP_BYTES;
    x->max_stop_token_ids = DAEMON_MAX_STOP_IDS;
    x->max_message_bytes = DAEMON_MAX_MESSAGE;
    r->limits = x;
}

px_code daemon_info_make(px_alloc *a, const proto_config *c, daemon_status *s, const daemon_model *m,
                         response **out, px_err *e)
{
    static const char *const states[] = { "starting", "ready", "restarting", "draining", "failed" };
    static const char *const transports[] = { "local", "shm", "mpi" };
    builder b = { a, false };
    response *r = many(&b, 1, sizeof *r);

    *out = NULL;
    if (!r) goto out;
    phalanx__v1__get_server_info_response__init(r);
    r->version = text(&b, PHALANX_BUILD);
    pthread_mutex_lock(&s->lock);
    r->state = text(&b, states[s->state]);
    r->state_detail = text(&b, s->detail);
    r->generation = s->generation;
    phases(&b, s, r);
    ranks(&b, s, r);
    r->kv_blocks_total = s->blocks_total;
    r->kv_blocks_free = s->blocks_free;
    r->running = s->running;
    r->waiting = s->waiting;
    r->steps = s->steps;
    r->full_gathers = s->full_gathers;
    r->kv_saturated = s->kv_saturated;
    r->transport = text(&b, transports[s->transport]);
    pthread_mutex_unlock(&s->lock);
    settings(&b, c, r);
    limits(&b, m, r);
    if ((r->subsystems = many(&b, MAX_SUBSYSTEMS, sizeof *r->subsystems))) {
        mine l = { &b, r->subsystems, 0 };
        px_count_each(add_mine, &l);
        r->n_subsystems = l.n;
    }
out:
    if (b.full) return px_fail(e, PX_ENOMEM, "GetServerInfo", "no memory for the answer");
    *out = r;
    return PX_OK;
}
