/* half.h - fp16 and fp32 on the bits: without a branch for loops over rows, and with the one that is nearly always right for a scale
 * (kern_f16_to_f32 and kern_f32_to_f16 of dtype.h).  Layer: kernels, its own.  The same under every rounding and flushing mode. */
#ifndef KERN_HALF_H
#define KERN_HALF_H

#include <stdint.h>
#include <string.h>

static inline float kern_float_of(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline uint32_t kern_bits_of(float f) { uint32_t b; memcpy(&b, &f, 4); return b; }

static inline float kern_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = h & 0x7fffu;
    uint32_t small = kern_bits_of((float)(int32_t)a * 0x1p-24f);             /* subnormal in fp16: an integer, exactly */
    uint32_t normal = (a << 13) + (112u << 23), is_small = 0u - (a < 0x400u), is_normal = 0u - (a >= 0x400u && a < 0x7c00u);
    uint32_t other = a << 13 | 0x7f800000u | (uint32_t)(a > 0x7c00u) << 22;  /* NaN made quiet */

    return kern_float_of(sign | (small & is_small) | (normal & is_normal) | (other & ~(is_small | is_normal)));
}

static inline uint16_t kern_float_to_half(float f)
{
    uint32_t b = kern_bits_of(f), sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu;
    uint32_t normal = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    /* subnormal in fp16: shifted by 14 to 24; from 25 on less than half a step is left, up to 2^-25, whose tie goes to 0 */
    uint32_t down = 126u - (a >> 23), shift = down < 25u ? down : 25u, man = (a & 0x7fffffu) | 0x800000u;
    uint32_t small = (man + (1u << ((shift - 1u) & 31u)) - 1u + (man >> (shift & 31u) & 1u)) >> (shift & 31u);
    uint32_t h = a >= 0x38800000u ? normal : small;

    h = a >= 0x477ff000u ? 0x7bffu : h;                                       /* would round to 65536 or is infinite */
    h = a > 0x7f800000u ? 0x7e00u : h;
    return (uint16_t)(sign | h);
}

/* One at a time. */
static inline float kern_one_half(uint16_t h)
{
    uint32_t a = h & 0x7fffu;

    if (a - 0x400u >= 0x7800u) return kern_half_to_float(h);                 /* subnormal, infinite, NaN */
    return kern_float_of((uint32_t)(h & 0x8000u) << 16 | ((a << 13) + (112u << 23)));
}

static inline uint16_t kern_one_float(float f)
{
    uint32_t b = kern_bits_of(f), a = b & 0x7fffffffu;

    if (a - 0x38800000u >= 0x477ff000u - 0x38800000u) return kern_float_to_half(f);
    return (uint16_t)((b >> 16 & 0x8000u) | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
}

/* OCP e4m3.  The fp16 that has a byte's sign, exponent and digits in place is 2^-8 of its value, exactly, subnormal or not.  0x7f and 0xff
 * are NaN there; they are never made, and read as 480. */
static inline uint16_t kern_fp8_half(uint8_t q) { return (uint16_t)((q & 0x80u) << 8 | (q & 0x7fu) << 7); }
static inline float kern_fp8_to_float(uint8_t q) { return kern_half_to_float(kern_fp8_half(q)) * 256.0f; }

/* To nearest even; what is beyond 448 becomes 448. */
static inline uint8_t kern_float_to_fp8(float f)
{
    uint32_t b = kern_bits_of(f), a = b & 0x7fffffffu;
    uint32_t normal = (a - (120u << 23) + 0x7ffffu + (a >> 20 & 1u)) >> 20;
    uint32_t small = kern_bits_of(kern_float_of(a) * 512.0f + 0x1p23f) & 15u;          /* below 2^-6: a whole number of 2^-9, 8 at most */
    uint32_t q = a >= 0x3c800000u ? normal : small;

    return (uint8_t)((b >> 24 & 0x80u) | (q > 0x7eu ? 0x7eu : q));
}

/* As two bytes of a block, the low one first. */
static inline float kern_half_at(const uint8_t *p) { return kern_one_half((uint16_t)(p[0] | p[1] << 8)); }
static inline void kern_half_put(uint8_t *p, uint16_t h) { p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8); }

#endif
