/* math.c - exp, log, random numbers and rope tables: the one definition of each. */
#include "kernels/math.h"

#include <math.h>
#include <string.h>
#include <xmmintrin.h>

#include "kernels/poly.h"

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float of_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float px_exp(float x)
{
    if (x != x) return x;
    if (x < KERN_EXP_MIN) return 0.0f;
    if (x > KERN_EXP_MAX) x = KERN_EXP_MAX;

    float t = fmaf(x, KERN_EXP_LOG2E, KERN_EXP_MAGIC);
    float n = t - KERN_EXP_MAGIC;
    float r = fmaf(n, -KERN_EXP_LN2_HI, x);
    r = fmaf(n, -KERN_EXP_LN2_LO, r);

    float p = KERN_EXP_E4;
    p = fmaf(p, r, KERN_EXP_E3);
    p = fmaf(p, r, KERN_EXP_E2);
    p = fmaf(p, r, KERN_EXP_E1);
    p = fmaf(p, r, KERN_EXP_E0);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    /* 0.7 < p < 1.42 and -126 <= n <= 127: the exponent field neither overflows nor reaches zero. */
    return of_bits(bits_of(p) + (bits_of(t) << 23));
}

float px_log(float x)
{
    if (x != x) return x;
    if (x < 0.0f) return of_bits(0x7fc00000u);
    if (x < KERN_LOG_TINY) return -INFINITY;
    if (x == INFINITY) return x;

    uint32_t u = bits_of(x);
    int32_t e = (int32_t)(u - KERN_LOG_SQRTH) >> 23;
    float f = of_bits(u - ((uint32_t)e << 23)) - 1.0f;
    float k = (float)e;

    float p = KERN_LOG_L8;
    p = fmaf(p, f, KERN_LOG_L7);
    p = fmaf(p, f, KERN_LOG_L6);
    p = fmaf(p, f, KERN_LOG_L5);
    p = fmaf(p, f, KERN_LOG_L4);
    p = fmaf(p, f, KERN_LOG_L3);
    p = fmaf(p, f, KERN_LOG_L2);
    p = fmaf(p, f, KERN_LOG_L1);
    p = fmaf(p, f, KERN_LOG_L0);
    float z = f * f;
    float y = (p * f) * z;
    y = fmaf(k, KERN_LOG_LN2_LO, y);
    y = fmaf(z, -0.5f, y);
    y = f + y;
    return fmaf(k, KERN_LOG_LN2_HI, y);
}

void kern_philox(const uint32_t c[4], const uint32_t k[2], uint32_t out[4])
{
    uint32_t x0 = c[0], x1 = c[1], x2 = c[2], x3 = c[3], k0 = k[0], k1 = k[1];

    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)KERN_PHILOX_M0 * x0, p1 = (uint64_t)KERN_PHILOX_M1 * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)p1;
        x3 = (uint32_t)p0;
        k0 += KERN_PHILOX_W0;
        k1 += KERN_PHILOX_W1;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

float kern_gumbel_of(uint32_t word)
{
    float v = fmaf((float)(int32_t)(word >> 1), 0x1p-31f, 0x1p-32f);   /* (0, 1] */
    float e = v < KERN_GUMBEL_CUT ? fmaf(fmaf(v, KERN_THIRD, 0.5f) * v, v, v) : -px_log(1.0f - v);

    return -px_log(e);
}

float kern_gumbel(const kern_draw *d, uint32_t id)
{
    uint32_t c[4] = { id / 4, d->position, d->sequence, d->purpose };
    uint32_t k[2] = { (uint32_t)d->seed, (uint32_t)(d->seed >> 32) }, w[4];

    kern_philox(c, k, w);
    return kern_gumbel_of(w[id % 4]);
}

#define FTZ_DAZ 0x8040u                     /* MXCSR bits 15 (flush to zero) and 6 (denormals are zero) */

void kern_ftz_set(void)
{
    _mm_setcsr(_mm_getcsr() | FTZ_DAZ);
}

bool kern_ftz_is_set(void)
{
    return (_mm_getcsr() & FTZ_DAZ) == FTZ_DAZ;
}

/* Inverse frequency of pair i, as the models' reference computes it, in double. */
static double rope_frequency(const kern_rope *r, uint32_t head_dim, uint32_t i)
{
    const double two_pi = 6.283185307179586476925287;
    double f = 1.0 / pow(r->theta, 2.0 * i / head_dim);

    if (r->kind == KERN_ROPE_LINEAR) f /= r->factor;
    if (r->kind == KERN_ROPE_LLAMA3) {
        double wave = two_pi / f;
        if (wave > r->n_ctx_orig / r->low_freq) {
            f /= r->factor;
        } else if (wave >= r->n_ctx_orig / r->high_freq) {
            double s = (r->n_ctx_orig / wave - r->low_freq) / (r->high_freq - r->low_freq);
            f = (1.0 - s) * f / r->factor + s * f;
        }
    }
    return r->divisors ? f / (double)r->divisors[i] : f;
}

void kern_rope_tables(const kern_rope *r, uint32_t head_dim, uint32_t n_pos, float *cos_out, float *sin_out)
{
    size_t half = head_dim / 2;

    for (size_t i = 0; i < half; i++) {
        float f = (float)rope_frequency(r, head_dim, (uint32_t)i);
        for (uint32_t p = 0; p < n_pos; p++) {
            double angle = (double)((float)p * f);
            cos_out[p * half + i] = (float)cos(angle);
            sin_out[p * half + i] = (float)sin(angle);
        }
    }
}
