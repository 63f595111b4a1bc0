#include "shard/plan/finetune.h"

#include "shard/plan/bytes.h"

const shard_optimizer shard_optimizers[SHARD_N_OPTIMIZERS] = {
    { "adam_fp32",        4, 4, 0, 4, 4, 0 },
    { "adam_mixed",       2, 2, 4, 4, 4, 0 },
    { "adam_mixed_fp32g", 2, 4, 4, 4, 4, 0 },
    { "adam_bf16_pure",   2, 2, 0, 2, 2, 0 },
    { "adam8bit_mixed",   2, 2, 4, 1, 1, 256 },
    { "sgd_momentum",     2, 2, 4, 4, 0, 0 },
};

uint32_t shard_optimizer_bytes(const shard_optimizer *o) { return o->weight + o->grad + o->master + o->m + o->v; }

static uint64_t ceil_div(uint64_t n, uint64_t by) { return n / by + (n % by != 0); }

/* Sum of in + out of every matrix that LoRA adds to: attention and FFN, all layers and experts. */
static uint64_t lora_sides(const shard_arch *m)
{
    static const shard_role role[] = { SHARD_ATTN_Q, SHARD_ATTN_K, SHARD_ATTN_V, SHARD_ATTN_OUT, SHARD_FFN_GATE, SHARD_FFN_UP,
                                       SHARD_FFN_DOWN };
    uint64_t sum = 0;

    for (size_t i = 0; i < sizeof role / sizeof *role; i++) {
        uint64_t rows, cols;
        shard_arch_shape(m, role[i], &rows, &cols);
        sum += (rows + cols) * (m->n_expert && i >= 4 ? m->n_expert : 1);
    }
    return sum * m->n_layer;
}

static px_code range(px_err *e, const char *field, uint64_t v, uint64_t lo, uint64_t hi)
{
    if (v >= lo && v <= hi) return PX_OK;
    return px_fail(e, PX_ERANGE, field, "%llu is not in %llu..%llu", (unsigned long long)v, (unsigned long long)lo, (unsigned long long)hi);
}

px_code shard_finetune_of(const shard_arch *m, const shard_optimizer *o, const shard_finetune *f, uint64_t base_bytes,
                          shard_finetune_bytes *out, px_err *e)
{
    const uint64_t dp = f->replicas;
    uint64_t params = shard_params(m), n, per_layer, sbd, sides, states, held;
    px_code rc;

    *out = (shard_finetune_bytes){ 0 };
    if ((rc = range(e, "batch", f->batch, 1, 1u << 16)) || (rc = range(e, "sequence", f->sequence, 1, 1u << 24)) ||
        (rc = range(e, "replicas", f->replicas, 1, 1u << 16)) || (rc = range(e, "zero", f->zero, 0, 3)) ||
        (rc = range(e, "tp", f->tp, 1, 1024)) || (rc = range(e, "lora_rank", f->lora_rank, 0, 1u << 14)) ||
        (rc = range(e, "model", params, 1, UINT64_MAX >> 8)))
        return rc;
    if (f->lora_rank) {
        sides = lora_sides(m);
        if (__builtin_mul_overflow(sides, (uint64_t)f->lora_rank, &out->trainable) || out->trainable > UINT64_MAX >> 8)
            return px_fail(e, PX_ERANGE, "lora_rank", "%u makes adapters beyond 64 bits", f->lora_rank);
        out->frozen = params;
    } else {
        out->trainable = params;
    }
    n = ceil_div(out->trainable, f->tp);
    states = n * (o->m + o->v) + (o->group ? ceil_div(n, o->group) * 8 : 0);
    out->weights = ceil_div(n * o->weight, f->zero >= 3 ? dp : 1);
    held = ceil_div(base_bytes, f->tp);
    out->base = f->lora_rank ? ceil_div(held, f->zero >= 3 ? dp : 1) : 0;
    out->grads = ceil_div(n * o->grad, f->zero >= 2 ? dp : 1);
    out->master = ceil_div(n * o->master, f->zero >= 1 ? dp : 1);
    out->moments = ceil_div(states, f->zero >= 1 ? dp : 1);
    /* 34 s b d a layer (tiled attention, 16 bits); checkpointing keeps 2 s b d and computes one layer again */
    if (__builtin_mul_overflow((uint64_t)f->batch * f->sequence, (uint64_t)m->d_model, &sbd) ||
        __builtin_mul_overflow(sbd, 34u, &per_layer) || __builtin_mul_overflow(per_layer, (uint64_t)m->n_layer, &out->activations_full))
        return px_fail(e, PX_ERANGE, "batch", "the activations are beyond 64 bits");
    out->activations_full = ceil_div(out->activations_full, f->tp);
    out->activations_checkpointed = ceil_div(2 * sbd * m->n_layer + per_layer, f->tp);
    out->activations = f->checkpointing ? out->activations_checkpointed : out->activations_full;
    if (__builtin_add_overflow(out->weights + out->base + out->grads + out->master + out->moments, out->activations, &out->total))
        return px_fail(e, PX_ERANGE, "model", "the sum is beyond 64 bits");
    return PX_OK;
}
