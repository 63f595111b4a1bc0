#include "daemon/rank/contract.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "proto/wire/frame.h"
#include "shard/run/executor.h"

uint32_t daemon_contract_threads(const proto_config *c, uint32_t world)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (c->threads) return c->threads;
    return cores > (long)world ? (uint32_t)(cores / (long)world) : 1;
}

comm_kind daemon_contract_transport(const proto_config *c, uint32_t world)
{
    if (world == 1) return COMM_LOCAL;
    return c->transport == PROTO_TRANSPORT_MPI ? COMM_MPI : COMM_SHM;
}

kern_path daemon_contract_cpu(const proto_config *c)
{
    switch (c->cpu) {
    case PROTO_CPU_SCALAR: return KERN_PATH_SCALAR;
    case PROTO_CPU_AVX2:   return KERN_PATH_AVX2;
    case PROTO_CPU_AVX512: return KERN_PATH_AVX512;
    case PROTO_CPU_AUTO:   break;
    }
    return KERN_PATH_AUTO;
}

static kern_kv_dtype kv_dtype(const proto_config *c)
{
    return c->kv_dtype == PROTO_KV_F32 ? KERN_KV_F32 : KERN_KV_F16;
}

shard_demand daemon_contract_demand(const proto_config *c, uint32_t world)
{
    return (shard_demand){ .kv_dtype = kv_dtype(c), .kv_tokens = c->kv_tokens, .kv_block = c->kv_block,
                           .max_sequences = c->max_sequences, .token_budget = c->token_budget,
                           .threads = daemon_contract_threads(c, world) };
}

uint32_t daemon_contract_context(const proto_config *c, const shard_manifest *m)
{
    uint64_t pool = ((uint64_t)c->kv_tokens + c->kv_block - 1) / c->kv_block * c->kv_block;

    return pool < m->arch.n_ctx ? (uint32_t)pool : m->arch.n_ctx;
}

void daemon_contract_facts(const proto_config *c, const char *config_path, const shard_manifest *m, const char *dir,
                           void (*fn)(void *ctx, const daemon_fact *f), void *ctx)
{
    char value[256], hex[65], manifest[1100];

    snprintf(value, sizeof value, "%u", PROTO_WIRE_VERSION);
    fn(ctx, &(daemon_fact){ "wire", value, "" });
    fn(ctx, &(daemon_fact){ "build", PHALANX_BUILD, "" });
    snprintf(manifest, sizeof manifest, "%s/manifest.json", dir);
    snprintf(value, sizeof value, "%s/%s", m->arith, c->kv_dtype == PROTO_KV_F32 ? "f32" : "f16");
    fn(ctx, &(daemon_fact){ "arithmetic", value, manifest });
    snprintf(value, sizeof value, "%016" PRIx64, shard_rope_digest(&m->arch, daemon_contract_context(c, m)));
    fn(ctx, &(daemon_fact){ "rope", value, manifest });
    shard_digest_hex(&m->manifest, hex);
    fn(ctx, &(daemon_fact){ "manifest", hex, manifest });
    shard_digest_hex(&m->plan, hex);
    fn(ctx, &(daemon_fact){ "plan", hex, manifest });
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        if (f->scope != PROTO_GLOBAL) continue;
        proto_config_show(c, f, value, sizeof value);
        fn(ctx, &(daemon_fact){ f->key, value, config_path });
    }
}
