/* phalanx.v1.Control: what an operator asks. */
#include <string.h>

#include "daemon/coordinator/service.h"
#include "shard/plan/bytes.h"

void daemon_server_info_message(daemon_call *c, const uint8_t *data, size_t n)
{
    Phalanx__V1__GetServerInfoResponse *m;
    px_err e = {0};

    if (!daemon_service_unpack(c, &phalanx__v1__get_server_info_request__descriptor, data, n)) return;
    if (daemon_engine_info(daemon_service_of(c)->engine, daemon_call_scratch(c), &m, &e)) daemon_service_refuse(c, &e, false, true);
    else daemon_call_finish(c, &m->base);
}

/* Known as soon as the manifest was read, also while the service restarts. */
static const daemon_model *known_model(daemon_call *c)
{
    const daemon_model *model = daemon_engine_model(daemon_service_of(c)->engine);
    px_err e = {0};

    if (model) return model;
    px_fail(&e, PX_EPEER, "state", "the model is not known yet: the service is starting");
    daemon_service_refuse(c, &e, false, true);
    return NULL;
}

void daemon_model_info_message(daemon_call *c, const uint8_t *data, size_t n)
{
    Phalanx__V1__GetModelInfoRequest *req = (void *)daemon_service_unpack(c, &phalanx__v1__get_model_info_request__descriptor, data, n);
    Phalanx__V1__GetModelInfoResponse m = PHALANX__V1__GET_MODEL_INFO_RESPONSE__INIT;
    const daemon_model *model = req ? known_model(c) : NULL;
    char source[65], plan[65], kv[32];
    px_err e = {0};

    if (!model) return;
    if (daemon_check_model(&req->model, model, &e)) {
        daemon_service_refuse(c, &e, false, false);
        return;
    }
    const shard_manifest *set = &model->manifest;
    const shard_arch *arch = &set->arch;
    shard_digest_hex(&set->source, source);
    shard_digest_hex(&set->plan, plan);
    m.name = (char *)(uintptr_t)set->model;
    m.revision = (char *)(uintptr_t)set->revision;
    m.family = (char *)(uintptr_t)arch->family;
    m.n_layer = arch->n_layer;
    m.d_model = arch->d_model;
    m.d_ff = arch->d_ff;
    m.n_head = arch->n_head;
    m.n_kv_head = arch->n_kv_head;
    m.head_dim = arch->head_dim;
    m.n_vocab = arch->n_vocab;
    m.context = model->context;
    m.arithmetic = (char *)(uintptr_t)set->arith;
    m.source_digest = source;
    m.plan_digest = plan;
    m.ranks = set->world;
    m.has_tokenizer = model->tokenizer != NULL;
    m.chat_template = (char *)(uintptr_t)(model->chat ? daemon_template_name(model->chat) : "");
    m.n_eos_ids = set->n_eos;
    m.eos_ids = (uint32_t *)(uintptr_t)set->eos;
    if (set->bos != UINT32_MAX) {
        m.bos_presence_case = PHALANX__V1__GET_MODEL_INFO_RESPONSE__BOS_PRESENCE_BOS_ID;
        m.bos_id = set->bos;
    }
    m.stored_bytes = set->stored_bytes;
    proto_config_show(daemon_service_of(c)->config, proto_config_find("kv.dtype"), kv, sizeof kv);
    for (uint32_t r = 0; r < set->world; r++) {          /* replicated heads count where they lie */
        const shard_cut *cut = &set->split.cut[r];
        uint64_t bytes;
        if (shard_kv_token_bytes(arch, kv, cut->kv_head.end - cut->kv_head.begin, &bytes, &e)) {
            daemon_service_refuse(c, &e, false, false);
            return;
        }
        m.kv_bytes_per_token += bytes;
    }
    daemon_call_finish(c, &m.base);
}

void daemon_abort_message(daemon_call *c, const uint8_t *data, size_t n)
{
    Phalanx__V1__AbortRequest *req = (void *)daemon_service_unpack(c, &phalanx__v1__abort_request__descriptor, data, n);
    Phalanx__V1__AbortResponse m = PHALANX__V1__ABORT_RESPONSE__INIT;
    char id[128];
    px_err e = {0};

    if (!req || !daemon_service_ready(c)) return;
    if (!req->request_id.len) px_fail(&e, PX_EINVAL, "request_id", "which request is to be aborted?");
    if (e.code || daemon_check_request_id(&req->request_id, id, &e)) {
        daemon_service_refuse(c, &e, false, false);
        return;
    }
    m.found = daemon_engine_abort(daemon_service_of(c)->engine, id);
    daemon_call_finish(c, &m.base);
}
