/* model.c - the first steps of the cold start, of the coordinator alone: manifest, tokenizer and templates, and the plan. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/fields.h"

/* The set's own table, if it has one: it was derived from the set's template when the set was made, and is digested with it. */
static px_code read_chat_table(daemon_coldstart *c, px_err *e)
{
    daemon_model *m = c->model;
    const char *dir = c->args->config->set;
    bool there = false;
    char *data;
    size_t n;
    px_code rc;

    for (uint32_t i = 0; i < m->manifest.n_assets; i++) there |= !strcmp(m->manifest.asset[i].name, "chat_template.json");
    if (!there) return PX_OK;
    if ((rc = shard_manifest_asset(&m->manifest, c->a, dir, "chat_template.json", &data, &n, e))) return rc;
    rc = daemon_template_open(&m->own_chat, c->a, data, n, NULL, 0, e);
    px_alloc_put(c->a, data, n + 1, 1);
    if (rc) px_err_set_file(e, dir);
    m->chat = m->own_chat;
    return rc;
}

static px_code read_text(daemon_coldstart *c, px_err *e)
{
    daemon_model *m = c->model;
    const proto_config *cfg = c->args->config;
    char *data, names[160];
    size_t n;
    px_code rc;

    if (m->manifest.has_tokenizer) {
        if ((rc = shard_manifest_asset(&m->manifest, c->a, cfg->set, "tokenizer.json", &data, &n, e))) return rc;
        rc = daemon_tokenizer_open(&m->tokenizer, c->a, data, n, e);
        px_alloc_put(c->a, data, n + 1, 1);
        if (rc) return rc;
    } else {
        snprintf(m->why_no_chat, sizeof m->why_no_chat, "the shard set has no tokenizer");
    }
    if (cfg->chat_template[0]) {
        if (!(m->chat = daemon_template_by_name(cfg->chat_template, e))) return e->code;
        return PX_OK;
    }
    if (!m->tokenizer) return PX_OK;
    if ((rc = read_chat_table(c, e)) || m->chat) return rc;
    if (!m->manifest.has_template) {
        snprintf(m->why_no_chat, sizeof m->why_no_chat, "the shard set has no chat template; set chat_template");
        return PX_OK;
    }
    if ((rc = shard_manifest_asset(&m->manifest, c->a, cfg->set, "chat_template.txt", &data, &n, e))) return rc;
    m->chat = daemon_template_by_text(data, n);
    px_alloc_put(c->a, data, n + 1, 1);
    if (!m->chat) {
        daemon_template_names(names, sizeof names);
        snprintf(m->why_no_chat, sizeof m->why_no_chat,
                 "the model's chat template is not known: ops/chat-template.py, or chat_template: %s", names);
    }
    return PX_OK;
}

static px_code make_plan(daemon_coldstart *c, char *detail, size_t cap, px_err *e)
{
    const shard_manifest *m = &c->model->manifest;
    shard_demand d = daemon_contract_demand(c->args->config, c->world);
    comm_kind kind = daemon_contract_transport(c->args->config, c->world);
    const bool cuda = d.backend == KERN_ON_CUDA;
    uint64_t worst = 0;
    px_code rc;

    if (!(c->plan = px_new(c->a, shard_rank_bytes, c->world)) ||
        !(c->kv_fd = px_new(c->a, int, c->world)) ||
        !(c->status->rank = px_new(c->a, daemon_rank_info, c->world)))
        return px_fail(e, PX_ENOMEM, "ranks", "%u ranks", c->world);
    for (uint32_t r = 0; r < c->world; r++) c->kv_fd[r] = -1;
    if (d.fp8_activations && (rc = shard_check_fp8_activations(&m->arch, &m->types, e))) return px_err_set_file(e, c->args->config->set), rc;
    for (uint32_t r = 0; r < c->world; r++) {
        if ((rc = shard_rank_bytes_of(&m->arch, &m->types, &m->split, r, &d, (int)kind, &c->plan[r], e))) return rc;
        const uint64_t need = cuda ? c->plan[r].device_total : c->plan[r].total;
        if (need > worst) worst = need;
        c->n_blocks = r && c->n_blocks < c->plan[r].n_blocks ? c->n_blocks : c->plan[r].n_blocks;
    }
    c->status->world = c->world;
    c->status->transport = kind;
    c->model->context = daemon_contract_context(c->args->config, m);
    snprintf(detail, cap, "%u ranks, worst rank %" PRIu64 " bytes%s, %u KV blocks", c->world, worst,
             cuda ? " on its GPU" : "", c->n_blocks);
    return PX_OK;
}

px_code daemon_coldstart_model(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n_errs)
{
    const proto_config *cfg = c->args->config;
    daemon_model *m = c->model;
    px_err e = {0};
    px_code rc;
    char detail[160] = "", found[32], expected[32];

    if ((rc = daemon_deadline_open(&c->deadline, c->args->log, &e))) return daemon_errors_add(&e, errs, cap, n_errs), rc;
    daemon_coldstart_begin(c, DAEMON_PARSE);
    daemon_coldstart_end(c, DAEMON_PARSE, PX_OK, c->args->config_path);
    daemon_coldstart_begin(c, DAEMON_MANIFEST);
    if ((rc = shard_manifest_read(&m->manifest, c->a, cfg->set, &e))) goto manifest_done;
    c->world = m->manifest.world;
    if (cfg->ranks && cfg->ranks != c->world) {
        snprintf(found, sizeof found, "%u", c->world);
        snprintf(expected, sizeof expected, "%u", cfg->ranks);
        rc = px_mismatch(&e, daemon_field_name(DAEMON_FIELD_RANKS), found, expected);
        px_err_set_file(&e, cfg->set);
        goto manifest_done;
    }
    rc = read_text(c, &e);
    snprintf(detail, sizeof detail, "%s, %u ranks", m->manifest.model, c->world);
manifest_done:
    daemon_coldstart_end(c, DAEMON_MANIFEST, rc, rc ? e.text : detail);
    if (rc) return daemon_errors_add(&e, errs, cap, n_errs), rc;
    daemon_coldstart_begin(c, DAEMON_PLAN);
    rc = make_plan(c, detail, sizeof detail, &e);
    daemon_coldstart_end(c, DAEMON_PLAN, rc, rc ? e.text : detail);
    if (rc) daemon_errors_add(&e, errs, cap, n_errs);
    return rc;
}
