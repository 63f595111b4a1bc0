#include "tests/kernels/cuda/kv_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t element_bytes(kern_kv_dtype t) { return t == KERN_KV_F32 ? 4 : t == KERN_KV_F16 || t == KERN_KV_BF16 ? 2 : 1; }

double kv_fp8_value(uint8_t b)
{
    const int e = b >> 3 & 15, m = b & 7;
    const double x = e == 15 && m == 7 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);

    return b & 0x80 ? -x : x;
}

uint8_t kv_fp8_nearest(float x)
{
    const double want = fabs((double)x);
    uint8_t best = 0;

    for (uint8_t b = 1; b < 0x7f; b++) {
        const double now = fabs(kv_fp8_value(b) - want), was = fabs(kv_fp8_value(best) - want);
        if (now < was || (now == was && b % 2 == 0)) best = b;
    }
    return signbit(x) ? best | 0x80 : best;
}

/* Bytes before a block of a head. */
static size_t block_at(const kern_kv *kv, uint32_t layer, uint32_t block, uint32_t head)
{
    return (((size_t)layer * kv->n_blocks + block) * kv->n_kv_head + head) * 2 * kv->block * kern_kv_vector_bytes(kv->dtype, kv->head_dim);
}

static void poison(const kern_kv *kv, uint64_t *seed)
{
    uint8_t *p = kv->pool.h;

    for (size_t i = 0; i + 4 <= kv->pool.bytes; i += 4) {
        const uint32_t f16 = test_rand(seed) % 4 ? 0x7e017e01u : 0xfc00fc00u, f32 = test_rand(seed) % 4 ? 0x7fc00001u : 0xff800000u;
        const uint32_t bf16 = test_rand(seed) % 4 ? 0x7fc17fc1u : 0xff80ff80u;
        const uint32_t x = kv->dtype == KERN_KV_F16 ? f16 : kv->dtype == KERN_KV_F32 ? f32 : kv->dtype == KERN_KV_BF16 ? bf16
                           : kv->dtype == KERN_KV_FP8 ? 0x7fff7f7fu : f32;     /* int8: any quant; a scale is NaN or infinite */
        memcpy(p + i, &x, 4);
    }
}

kv_image kv_image_make(const kern_kv *shape, uint32_t slots, uint32_t stride, const uint32_t *n_keys, uint64_t *seed)
{
    kv_image m = { .kv = *shape, .slots = slots, .stride = stride };
    uint32_t used = 0;

    for (uint32_t s = 0; s < slots; s++) used += (n_keys[s] + shape->block - 1) / shape->block;
    m.kv.n_blocks = used + 2;
    m.kv.pool.bytes = kern_kv_block_bytes(shape->dtype, shape->n_layer, shape->block, shape->n_kv_head, shape->head_dim) * m.kv.n_blocks;
    m.kv.pool.h = malloc(m.kv.pool.bytes);
    m.table = malloc(((size_t)slots * stride + 1) * sizeof *m.table);
    uint32_t *order = malloc(m.kv.n_blocks * sizeof *order), next = 0;
    assert_true(m.kv.pool.h && m.table && order);
    poison(&m.kv, seed);
    for (uint32_t i = 0; i < m.kv.n_blocks; i++) {
        const uint32_t j = (uint32_t)(test_rand(seed) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t s = 0; s < slots; s++)
        for (uint32_t b = 0; b < stride; b++)
            m.table[s * stride + b] = b < (n_keys[s] + shape->block - 1) / shape->block ? order[next++] : UINT32_MAX;
    free(order);
    return m;
}

void kv_image_drop(kv_image *m)
{
    free(m->kv.pool.h);
    free(m->table);
    *m = (kv_image){0};
}

size_t kv_image_at(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, uint32_t i)
{
    const kern_kv *kv = &m->kv;
    const uint32_t in = pos % kv->block, h = kv->head_dim;
    const size_t element = v ? (size_t)in * h + i : (size_t)(in / 16) * 16 * h + (size_t)i * 16 + in % 16;
    const size_t half = (size_t)kv->block * kern_kv_vector_bytes(kv->dtype, h);

    return block_at(kv, layer, m->table[slot * m->stride + pos / kv->block], head) + (v ? half : 0) + element * element_bytes(kv->dtype);
}

size_t kv_image_scale_at(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v)
{
    const kern_kv *kv = &m->kv;
    const size_t half = (size_t)kv->block * kern_kv_vector_bytes(kv->dtype, kv->head_dim);

    return block_at(kv, layer, m->table[slot * m->stride + pos / kv->block], head) + (v ? half : 0)
           + (size_t)kv->block * kv->head_dim + 4 * (pos % kv->block);
}

void kv_image_put(kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, const float *x)
{
    uint8_t *pool = m->kv.pool.h;
    float top = 0.0f;

    for (uint32_t i = 0; i < m->kv.head_dim; i++) top = fmaxf(top, fabsf(x[i]));
    const bool zero = top < ldexpf(1.0f, -100);
    const float inv = zero ? 0.0f : 127.0f / top, scale = zero ? 0.0f : top / 127.0f;
    if (m->kv.dtype == KERN_KV_INT8) memcpy(pool + kv_image_scale_at(m, layer, slot, pos, head, v), &scale, 4);
    for (uint32_t i = 0; i < m->kv.head_dim; i++) {
        uint8_t *p = pool + kv_image_at(m, layer, slot, pos, head, v, i);
        const uint16_t half = m->kv.dtype == KERN_KV_BF16 ? kern_f32_to_bf16(x[i]) : kern_f32_to_f16(x[i]);
        switch (m->kv.dtype) {
        case KERN_KV_F32:  memcpy(p, x + i, 4); break;
        case KERN_KV_INT8: *p = (uint8_t)(int8_t)nearbyintf(x[i] * inv); break;
        case KERN_KV_FP8:  *p = kv_fp8_nearest(x[i]); break;
        default:           memcpy(p, &half, 2);
        }
    }
}

double kv_image_get(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, uint32_t i)
{
    const uint8_t *pool = m->kv.pool.h, *p = pool + kv_image_at(m, layer, slot, pos, head, v, i);
    uint16_t half;
    float f;

    switch (m->kv.dtype) {
    case KERN_KV_F32:
        memcpy(&f, p, 4);
        return f;
    case KERN_KV_INT8:
        memcpy(&f, pool + kv_image_scale_at(m, layer, slot, pos, head, v), 4);
        return (double)f * (int8_t)*p;
    case KERN_KV_FP8:
        return kv_fp8_value(*p);
    default:
        memcpy(&half, p, 2);
        return m->kv.dtype == KERN_KV_BF16 ? kern_bf16_to_f32(half) : kern_f16_to_f32(half);
    }
}
