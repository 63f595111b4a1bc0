#include "kernels/kv_round.h"

#include <math.h>

#include "kernels/dtype.h"
#include "kernels/half.h"

#define BF16_MOST 0x1.fep127f

static float as_bf16(float x)
{
    return kern_bf16_to_f32(kern_f32_to_bf16(fabsf(x) > BF16_MOST ? copysignf(BF16_MOST, x) : x));
}

static void as_int8(float *x, uint32_t head_dim, uint32_t step)
{
    float most = 0;

    for (uint32_t i = 0; i < head_dim; i++) most = fmaxf(most, fabsf(x[(size_t)i * step]));
    const bool zero = most < 0x1p-100f;
    const float inv = zero ? 0 : 127 / most, scale = zero ? 0 : most / 127;
    for (uint32_t i = 0; i < head_dim; i++) x[(size_t)i * step] = nearbyintf(x[(size_t)i * step] * inv) * scale;
}

void kern_kv_round(kern_kv_dtype t, float *x, uint32_t head_dim, uint32_t step)
{
    if (t == KERN_KV_INT8) {
        as_int8(x, head_dim, step);
        return;
    }
    for (uint32_t i = 0; i < head_dim; i++) {
        float *const at = x + (size_t)i * step;
        if (t == KERN_KV_F16) *at = kern_f16_to_f32(kern_f32_to_f16(*at));
        if (t == KERN_KV_BF16) *at = as_bf16(*at);
        if (t == KERN_KV_FP8) *at = kern_fp8_to_float(kern_float_to_fp8(*at));
    }
}
