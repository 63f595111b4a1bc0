#include "daemon/rank/contract.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/rank/fields.h"
#include "proto/wire/frame.h"
#include "shard/run/executor.h"
#include "shard/store/pack.h"

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
    switch (c->kv_dtype) {
    case PROTO_KV_F32:  return KERN_KV_F32;
    case PROTO_KV_BF16: return KERN_KV_BF16;
    case PROTO_KV_INT8: return KERN_KV_INT8;
    case PROTO_KV_FP8:  return KERN_KV_FP8;
    case PROTO_KV_F16:  break;
    }
    return KERN_KV_F16;
}

shard_demand daemon_contract_demand(const proto_config *c, uint32_t world)
{
    return (shard_demand){ .backend = c->device == PROTO_DEVICE_CUDA ? KERN_ON_CUDA : KERN_ON_CPU, .kv_dtype = kv_dtype(c), .kv_tokens = c->kv_tokens, .kv_block = c->kv_block,
                           .max_sequences = c->max_sequences, .token_budget = c->token_budget,
                           .threads = daemon_contract_threads(c, world), .fp8_activations = c->fp8_activations };
}

uint32_t daemon_contract_context(const proto_config *c, const shard_manifest *m)
{
    uint64_t pool = ((uint64_t)c->kv_tokens + c->kv_block - 1) / c->kv_block * c->kv_block;

    return pool < m->arch.n_ctx ? (uint32_t)pool : m->arch.n_ctx;
}

void daemon_contract_facts(const proto_config *c, const char *config_path, const shard_manifest *m, const char *dir,
                           void (*fn)(void *ctx, const daemon_fact *f), void *ctx)
{
    char value[256], kv[32], hex[65], manifest[1100];

    snprintf(value, sizeof value, "%u", PROTO_WIRE_VERSION);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_WIRE), value, "" });
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_BUILD), PHALANX_BUILD, "" });
    comm_mpi_version(value, sizeof value);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_MPI_VERSION), value, "" });
    snprintf(manifest, sizeof manifest, "%s/manifest.json", dir);
    proto_config_show(c, proto_config_find("kv.dtype"), kv, sizeof kv);
    snprintf(value, sizeof value, "%s/%s", m->arith, kv);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_ARITHMETIC), value, manifest });
    snprintf(value, sizeof value, "%016" PRIx64, shard_rope_digest(&m->arch, daemon_contract_context(c, m)));
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_ROPE), value, manifest });
    shard_digest_hex(&m->manifest, hex);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_MANIFEST), hex, manifest });
    shard_digest_hex(&m->plan, hex);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_PLAN), hex, manifest });
    shard_digest_hex(&m->tokenizer, hex);
    fn(ctx, &(daemon_fact){ daemon_field_name(DAEMON_FIELD_TOKENIZER), hex, manifest });
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        if (f->scope != PROTO_GLOBAL) continue;
        proto_config_show(c, f, value, sizeof value);
        fn(ctx, &(daemon_fact){ f->key, value, config_path });
    }
}

void daemon_contract_rank_facts(const shard_manifest *m, const char *dir, uint32_t rank, const shard_rank_bytes *plan,
                                bool of_shard, void (*fn)(void *ctx, const daemon_fact *f), void *ctx)
{
    const struct { const char *field; uint64_t v; } number[] = {
        { "plan.weights_stored", plan->weights.stored },   { "plan.weights_mapped", plan->weights.mapped },
        { "plan.tensors", plan->weights.tensors },         { "plan.n_blocks", plan->n_blocks },
        { "plan.n_ctx", plan->n_ctx },                     { "plan.kv_block_bytes", plan->kv_block_bytes },
        { "plan.kv_pool", plan->kv_pool },                 { "plan.rope_tables", plan->rope_tables },
        { "plan.activations", plan->activations.bytes },   { "plan.workspace", plan->activations.workspace.bytes },
        { "plan.host", plan->host.bytes },                 { "plan.comm_shared", plan->comm_shared },
        { "plan.comm_private", plan->comm_private },       { "plan.partial_bytes", plan->partial_bytes },
        { "plan.gather_bytes", plan->gather_bytes },       { "plan.total", plan->total },
        { "plan.comm_device", plan->comm_device },         { "plan.comm_staging", plan->comm_staging },
        { "plan.device_total", plan->device_total },
    };
    char value[256], hex[65], file[1200];

    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        snprintf(value, sizeof value, "%" PRIu64, number[i].v);
        fn(ctx, &(daemon_fact){ number[i].field, value, "" });
    }
    if (!of_shard) return;
    snprintf(file, sizeof file, "%s/%s", dir, m->rank[rank].file);
    shard_digest_hex(&m->rank[rank].header, hex);
    const struct { const char *field, *v; } word[] = {
        { "shard.layout", m->layout },     { "shard.arithmetic", m->arith },
        { "shard.revision", m->revision }, { "shard.policy", shard_policy_name(m->policy) }, { "shard.header", hex },
    };
    const struct { const char *field; uint64_t v; } count[] = {
        { "shard.format", m->version }, { "shard.rank", rank }, { "shard.world", m->world }, { "shard.bytes", m->rank[rank].bytes },
    };
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) fn(ctx, &(daemon_fact){ word[i].field, word[i].v, file });
    for (size_t i = 0; i < sizeof count / sizeof *count; i++) {
        snprintf(value, sizeof value, "%" PRIu64, count[i].v);
        fn(ctx, &(daemon_fact){ count[i].field, value, file });
    }
}

void daemon_contract_cpu_features(char *out, size_t cap)
{
    size_t n = 0;

    out[0] = 0;
#define HAS(name) do { if (__builtin_cpu_supports(name)) n += (size_t)snprintf(out + n, n < cap ? cap - n : 0, "%s%s", n ? " " : "", name); \
                       if (n >= cap) n = cap - 1; } while (0)
#if defined(__x86_64__)
    __builtin_cpu_init();
    HAS("sse4.2"); HAS("avx"); HAS("avx2"); HAS("fma"); HAS("avx512f"); HAS("avx512bw"); HAS("avx512vl"); HAS("avx512vnni");
#endif
#undef HAS
    (void)n;
}
