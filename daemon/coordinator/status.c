/* What the ranks report of themselves, kept for GetServerInfo. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/convert.h"
#include "shard/plan/others.h"

void daemon_errors_add(const px_err *e, px_err *errs, size_t cap, size_t *n)
{
    if (*n < cap) errs[(*n)++] = *e;
}

/* Kinds are keys of a log line: what is none is not taken. */
static void take_others(daemon_rank_info *info, const Phalanx__Wire__Report *w)
{
    info->n_others = 0;
    for (size_t i = 0; i < w->n_others && info->n_others < sizeof info->other / sizeof *info->other; i++) {
        const Phalanx__Wire__Estimate *x = w->others[i];
        shard_other k = 0;
        while (k < SHARD_N_OTHERS && strcmp(x->kind, shard_other_name(k))) k++;
        if (k == SHARD_N_OTHERS) continue;
        snprintf(info->other[info->n_others].kind, sizeof info->other->kind, "%s", shard_other_name(k));
        info->other[info->n_others].estimated = x->estimated, info->other[info->n_others].measured = x->measured;
        info->other[info->n_others].low = x->low, info->other[info->n_others].high = x->high;
        info->n_others++;
    }
}

void daemon_status_report(daemon_status *s, px_alloc *a, uint32_t rank, const proto_frame *f, uint32_t *stage,
                          uint32_t *percent, px_err *errs, size_t cap, size_t *n_errs)
{
    ProtobufCMessage *m;
    px_arena arena;
    px_err e = {0};

    *stage = *percent = 0;
    px_arena_init(&arena, a, "wire", 16384, 0, 4u << 20);
    if (proto_pb_unpack(&phalanx__wire__report__descriptor, &arena.a, f->n, f->data, &m, &e)) {
        px_err_set_rank(&e, (int)rank, "");
        daemon_errors_add(&e, errs, cap, n_errs);
        px_arena_deinit(&arena);
        return;
    }
    const Phalanx__Wire__Report *w = (const Phalanx__Wire__Report *)m;
    *stage = (uint32_t)w->stage;
    *percent = w->percent < 100 ? w->percent : 100;
    for (size_t i = 0; i < w->n_errors; i++) {
        daemon_error_from_wire(w->errors[i], &e);
        daemon_errors_add(&e, errs, cap, n_errs);
    }
    pthread_mutex_lock(&s->lock);
    daemon_rank_info *info = &s->rank[rank];
    if (w->weights_planned) {
        info->weights[0] = w->weights_planned, info->weights[1] = w->weights_measured;
        info->kv[0] = w->kv_planned,           info->kv[1] = w->kv_measured;
        info->arena[0] = w->arena_planned,     info->arena[1] = w->arena_measured;
        info->step[0] = w->step_planned,       info->step[1] = w->step_measured;
        info->comm[0] = w->comm_planned,       info->comm[1] = w->comm_measured;
    }
    if (w->n_others) take_others(info, w);
    info->rss = w->rss;
    info->stage_percent = *percent;
    if (w->stage == PHALANX__WIRE__STAGE__VERIFY) info->verify_percent = *percent;
    info->n_subsystems = 0;
    for (size_t i = 0; i < w->n_subsystems && i < sizeof info->subsystem / sizeof *info->subsystem; i++) {
        snprintf(info->subsystem[i].name, sizeof info->subsystem[i].name, "%s", w->subsystems[i]->name);
        info->subsystem[i].live = w->subsystems[i]->live;
        info->subsystem[i].peak = w->subsystems[i]->peak;
        info->n_subsystems++;
    }
    pthread_mutex_unlock(&s->lock);
    px_arena_deinit(&arena);
}

void daemon_status_log_memory(daemon_status *s, const px_log_sink *log)
{
    char line[1024];

    pthread_mutex_lock(&s->lock);
    for (uint32_t r = 0; r < s->world; r++) {
        const daemon_rank_info *i = &s->rank[r];
        const struct { const char *name; const uint64_t *v; } arena[] = {
            { "weights", i->weights }, { "kv", i->kv }, { "arena", i->arena }, { "step", i->step }, { "comm", i->comm } };
        uint64_t off = 0;                     /* may be below zero: what a rank says may be anything */
        size_t n = 0;
        for (size_t k = 0; k < sizeof arena / sizeof *arena; k++) {
            off += arena[k].v[1] - arena[k].v[0];
            n += (size_t)snprintf(line + n, sizeof line - n, " %s=%" PRIu64 "/%" PRIu64, arena[k].name, arena[k].v[1], arena[k].v[0]);
        }
        for (uint32_t k = 0; k < i->n_others && n + 80 < sizeof line; k++)
            n += (size_t)snprintf(line + n, sizeof line - n, " %s=%" PRIu64 "~%" PRIu64, i->other[k].kind, i->other[k].measured,
                                  i->other[k].estimated);
        px_log_line(log, off ? PX_WARN : PX_INFO, "memory_of_rank", "of=%u difference=%" PRId64 "%s", r, (int64_t)off, line);
    }
    pthread_mutex_unlock(&s->lock);
}
