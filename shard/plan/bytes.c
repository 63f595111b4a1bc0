#include "shard/plan/bytes.h"

#include <string.h>

#define ARENA_TENSOR 256u
#define ARENA_WHOLE  (2u << 20)
#define PANEL_ALIGN  64u

static bool add(uint64_t *sum, uint64_t n) { return __builtin_add_overflow(*sum, n, sum); }

static bool align_up(uint64_t n, uint64_t to, uint64_t *out)
{
    if (__builtin_add_overflow(n, to - 1, out)) return true;
    *out = *out / to * to;
    return false;
}

static px_code too_big(px_err *e, shard_role r, uint32_t layer)
{
    char name[64];
    return px_fail(e, PX_ERANGE, shard_tensor_name(r, layer, name, sizeof name), "its bytes are beyond 64 bits");
}

/* Experts are as many matrices of the same shape and cut. */
static uint64_t copies(const shard_arch *m, shard_role r)
{
    return m->n_expert && (r == SHARD_FFN_GATE || r == SHARD_FFN_UP || r == SHARD_FFN_DOWN) ? m->n_expert : 1;
}

uint64_t shard_params_of(const shard_arch *m, shard_role r)
{
    uint64_t rows, cols, n;

    if (!shard_arch_has(m, r)) return 0;
    shard_arch_shape(m, r, &rows, &cols);
    if (__builtin_mul_overflow(rows, cols, &n) || __builtin_mul_overflow(n, copies(m, r), &n) ||
        (shard_role_get(r)->per_layer && __builtin_mul_overflow(n, (uint64_t)m->n_layer, &n)))
        return UINT64_MAX;
    return n;
}

uint64_t shard_params(const shard_arch *m)
{
    uint64_t sum = 0;

    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        if (add(&sum, shard_params_of(m, r))) return UINT64_MAX;
    return sum;
}

uint64_t shard_params_active(const shard_arch *m)
{
    uint64_t n = shard_params(m);

    if (n == UINT64_MAX) return n;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        if (copies(m, r) > 1) n -= shard_params_of(m, r) / m->n_expert * (m->n_expert - m->n_expert_used);
    return n;
}

/* Stored bytes of one matrix or vector, and what it takes in an arena: the data of a type with groups and their scales
 * are two allocations, aligned one by one (C8). */
static bool tensor_bytes(kern_dtype t, uint64_t rows, uint64_t cols, uint64_t *stored, uint64_t *arena)
{
    uint64_t data = 0, rest, a, b;

    if (rows == 0 || cols == 0) {
        *stored = *arena = 0;
        return true;
    }
    if (!kern_matrix_bytes(t, rows, cols, stored)) return false;
    if (t == KERN_W8 && __builtin_mul_overflow(rows, cols, &data)) return false;
    if ((t == KERN_W4 || t == KERN_W4Z) && __builtin_mul_overflow(rows, cols / 2 + cols % 2, &data)) return false;
    if (data == 0) data = *stored;
    rest = *stored - data;
    if (align_up(data, ARENA_TENSOR, &a) || align_up(rest, ARENA_TENSOR, &b)) return false;
    return !__builtin_add_overflow(a, b, arena);
}

px_code shard_source_bytes(const shard_arch *m, const shard_types *t, uint64_t *bytes, px_err *e)
{
    *bytes = 0;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        uint64_t rows, cols, n, unused;
        if (!shard_arch_has(m, r)) continue;
        shard_arch_shape(m, r, &rows, &cols);
        for (uint32_t i = 0; i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++)
            if (!tensor_bytes(shard_type_of(t, r, i), rows, cols, &n, &unused) ||
                __builtin_mul_overflow(n, copies(m, r), &n) || add(bytes, n))
                return too_big(e, r, i);
    }
    return PX_OK;
}

px_code shard_weight_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank, bool panels,
                              shard_weight_bytes *out, px_err *e)
{
    px_code rc;

    *out = (shard_weight_bytes){ 0 };
    if (rank >= s->world) return px_fail(e, PX_ERANGE, "rank", "rank %u of a world of %u", rank, s->world);
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_role_info *info = shard_role_get(r);
        uint32_t n_layer = info->per_layer ? m->n_layer : 1;
        shard_extent x;
        if (!shard_arch_has(m, r)) continue;
        shard_split_extent(s, m, r, rank, &x);
        for (uint32_t i = 0, run; i < n_layer; i += run) {     /* layers of one type are counted at once */
            kern_dtype type = shard_type_of(t, r, i);
            uint64_t n, stored, arena, mapped = 0;
            for (run = 1; i + run < n_layer && shard_type_of(t, r, i + run) == type;) run++;
            if (!tensor_bytes(type, x.rows, x.cols, &stored, &arena)) return too_big(e, r, i);
            n = (uint64_t)copies(m, r) * run;
            if (panels && info->vector) {
                if (align_up(stored, PANEL_ALIGN, &mapped)) return too_big(e, r, i);
            } else if (panels && x.rows && x.cols) {
                if ((rc = kern_panel_bytes(type, x.rows, x.cols, &mapped, e))) return rc;
            }
            if (__builtin_mul_overflow(stored, n, &stored) || __builtin_mul_overflow(arena, n, &arena) ||
                __builtin_mul_overflow(mapped, n, &mapped) ||
                add(&out->stored, stored) || add(&out->arena, arena) || add(&out->mapped, mapped))
                return too_big(e, r, i);
            out->tensors += (uint32_t)n;
        }
    }
    if (align_up(out->arena, ARENA_WHOLE, &out->arena)) return px_fail(e, PX_ERANGE, "weights", "bytes are beyond 64 bits");
    return PX_OK;
}

/* ---- the KV cache (formulas section 5) ---- */

px_code shard_kv_vector_bytes(const char *dtype, uint32_t head_dim, uint64_t *bytes, px_err *e)
{
    static const struct { const char *name; uint32_t n, bytes, extra; } KV[] = {
        { "f32", 1, 4, 0 }, { "f16", 1, 2, 0 }, { "bf16", 1, 2, 0 }, { "fp8", 1, 1, 0 },
        { "int8_th", 1, 1, 4 }, { "q8_0", 32, 34, 0 }, { "q4_0", 32, 18, 0 },
    };

    for (size_t i = 0; i < sizeof KV / sizeof *KV; i++) {
        if (strcmp(dtype, KV[i].name)) continue;
        if (head_dim % KV[i].n)
            return px_fail(e, PX_ERANGE, "kv.dtype", "%s needs heads of a multiple of %u, this model's have %u", dtype,
                           KV[i].n, head_dim);
        *bytes = (uint64_t)head_dim / KV[i].n * KV[i].bytes + KV[i].extra;
        return PX_OK;
    }
    return px_fail(e, PX_ENOTFOUND, "kv.dtype", "no cache type is called \"%.32s\": f32 f16 bf16 fp8 int8_th q8_0 q4_0", dtype);
}

void shard_kv_layers(const shard_arch *m, uint32_t *full, uint32_t *sliding)
{
    *full = !m->sliding_window ? m->n_layer : m->n_full_attention < m->n_layer ? m->n_full_attention : m->n_layer;
    *sliding = m->n_layer - *full;
}

px_code shard_kv_token_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t *bytes, px_err *e)
{
    uint64_t vector;
    px_code rc = shard_kv_vector_bytes(dtype, m->head_dim, &vector, e);

    if (rc) return rc;
    if (__builtin_mul_overflow(vector, 2ull * kv_heads, bytes) || __builtin_mul_overflow(*bytes, (uint64_t)m->n_layer, bytes))
        return px_fail(e, PX_ERANGE, "kv", "the bytes of a token are beyond 64 bits");
    return PX_OK;
}

px_code shard_kv_sequence_bytes(const shard_arch *m, const char *dtype, uint32_t kv_heads, uint64_t n_tokens, uint32_t page,
                                uint32_t chunk, uint64_t *bytes, px_err *e)
{
    uint64_t pages, held, token, layer_pages;
    uint32_t full, sliding;
    px_code rc;

    if (page == 0) return px_fail(e, PX_ERANGE, "kv.block", "a page of 0 tokens");
    if ((rc = shard_kv_token_bytes(m, dtype, kv_heads, &token, e))) return rc;
    shard_kv_layers(m, &full, &sliding);
    pages = held = n_tokens / page + (n_tokens % page != 0);
    if (sliding) {
        /* the window's older tokens and the chunk being written; one more because it need not start on a page */
        uint64_t span = (uint64_t)m->sliding_window - 1 + chunk;
        uint64_t most = span / page + (span % page != 0) + 1;
        if (most < held) held = most;
    }
    if (__builtin_mul_overflow(pages, (uint64_t)full, &layer_pages) || __builtin_mul_overflow(held, (uint64_t)sliding, &held) ||
        __builtin_add_overflow(layer_pages, held, &layer_pages) ||
        __builtin_mul_overflow(token / m->n_layer, (uint64_t)page, bytes) || __builtin_mul_overflow(*bytes, layer_pages, bytes))
        return px_fail(e, PX_ERANGE, "kv", "the bytes of a sequence are beyond 64 bits");
    return PX_OK;
}
