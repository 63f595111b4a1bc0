/* reblock.c - blocks of GGUF that are only read, as Q4_1, Q8_0, Q8_M and Q8_H (reblock.h).  Quants move as they are, eight to a word; but for
 * Q2_K's scales nothing is searched for, and no value is computed. */
#include "kernels/reblock.h"
#include "kernels/gguf_blocks.h"
#include "kernels/half.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte i of a word is column i");

#define EACH 0x0101010101010101ull                /* one in each byte */

/* 32 columns: q * d + m, q in the order of the columns. */
typedef struct group { uint64_t q[4]; float d, m; } group;

static uint64_t word(const uint8_t *p) { uint64_t w; memcpy(&w, p, sizeof w); return w; }

/* Nibbles of 16 bytes: columns i low, 16 + i high. */
static void nibbles(const uint8_t *p, uint64_t q[4])
{
    for (int i = 0; i < 2; i++) {
        q[i] = word(p + 8 * i) & 15 * EACH;
        q[2 + i] = word(p + 8 * i) >> 4 & 15 * EACH;
    }
}

/* Eight bits as the fifth bits of eight bytes: byte i keeps bit i, which a sum carries to the top of its byte and no further. */
static uint64_t fifth(uint8_t bits)
{
    uint64_t one = bits * EACH & 0x8040201008040201ull;

    return ((one + 0x7f * EACH) & (0x80 * EACH)) >> 3;
}

/* ---- a group of each type ---- */

static void q5_0(const uint8_t *p, int g, group *b)
{
    (void)g;
    *b = (group){ .d = kern_half_at(p) };
    nibbles(p + 6, b->q);
    for (int i = 0; i < 4; i++)                    /* minus 16, each byte by itself: none borrows from the next */
        b->q[i] = ((b->q[i] | fifth(p[2 + i]) | 0x80 * EACH) - 16 * EACH) ^ 0x80 * EACH;
}

static void q5_1(const uint8_t *p, int g, group *b)
{
    (void)g;
    *b = (group){ .d = kern_half_at(p), .m = kern_half_at(p + 2) };
    nibbles(p + 8, b->q);
    for (int i = 0; i < 4; i++) b->q[i] |= fifth(p[4 + i]);
}

/* A group's nibbles are the low or the high ones of 32 bytes, shared with the next or the last group. */
static void q4_or_q5_k(const uint8_t *p, const uint8_t *high, const uint8_t *q, int g, group *b)
{
    int scale, min;

    kern_k_scale_and_min(p + 4, g, &scale, &min);
    b->d = kern_half_at(p) * (float)scale;
    b->m = -(kern_half_at(p + 2) * (float)min);
    for (int i = 0; i < 4; i++) {
        b->q[i] = word(q + g / 2 * 32 + 8 * i) >> g % 2 * 4 & 15 * EACH;
        if (high) b->q[i] |= (word(high + 8 * i) >> g & EACH) << 4;
    }
}

static void q4_k(const uint8_t *p, int g, group *b) { q4_or_q5_k(p, NULL, p + 16, g, b); }
static void q5_k(const uint8_t *p, int g, group *b) { q4_or_q5_k(p, p + 16, p + 48, g, b); }

/* Eight levels in a word, without a way through memory. */
static uint64_t levels_of(uint64_t n)
{
    uint64_t w = 0;

    for (int i = 0; i < 8; i++) w |= (uint64_t)(uint8_t)kern_iq4_level[n >> 8 * i & 15] << 8 * i;
    return w;
}

static void levels(const uint8_t *p, uint64_t q[4])
{
    nibbles(p, q);
    for (int i = 0; i < 4; i++) q[i] = levels_of(q[i]);
}

static void iq4_nl(const uint8_t *p, int g, group *b)
{
    (void)g;
    *b = (group){ .d = kern_half_at(p) };
    levels(p + 2, b->q);
}

static void iq4_xs(const uint8_t *p, int g, group *b)
{
    *b = (group){ .d = kern_half_at(p) * (float)kern_iq4_xs_scale(p, g) };
    levels(p + 8 + 16 * g, b->q);
}

/* Sixteen scales s of -32..31 times quants of -4..3: their products fit a byte when they change sign, and so does d. */
static void q3_k(const uint8_t *p, int g, group *b)
{
    const uint8_t *high = p, *two = p + 32 + g / 4 * 32;
    int8_t q[32];

    for (int k = 0; k < 2; k++) {
        int scale = kern_q3_k_scale(p + 96, 2 * g + k);
        for (int c = 16 * k; c < 16 * k + 16; c++) q[c] = (int8_t)(scale * (4 - (two[c] >> g % 4 * 2 & 3) - (high[c] >> g & 1) * 4));
    }
    b->d = -kern_half_at(p + 108);
    b->m = 0;
    memcpy(b->q, q, sizeof q);
}

/* x as fp16, its bytes at p; *lost: what that took away, which is exact. */
static bool put_half(float x, uint8_t *p, double *lost)
{
    uint16_t h = kern_one_float(x);

    kern_half_put(p, h);
    *lost = (double)x - (double)kern_one_half(h);
    return fabsf(x) < 65520.0f;                                 /* false for a NaN, too; from here on it would round to infinity */
}

/* Of n quants. */
typedef struct moments { int n, sum, squares; } moments;

/* The sum of squares of d * q + m. */
static double squares(double d, double m, moments q) { return d * d * q.squares + 2 * d * m * q.sum + m * m * q.n; }

static moments moments_of(const group *b, bool with_sign)
{
    moments m = { .n = 32 };
    uint8_t q[32];

    memcpy(q, b->q, sizeof q);
    for (int i = 0; i < 32; i++) {
        int v = with_sign ? (int8_t)q[i] : q[i];
        m.sum += v;
        m.squares += v * v;
    }
    return m;
}

/* The levels of a block of 256 whose scales hold for sixteen columns each, and what becomes of them. */
typedef struct sixteens {
    int8_t q[256];
    float each[16], scale[16];                                  /* as the block has it; as it is stored, of a level times `times` */
    int32_t times[16], squares[16];                             /* squares: the sum of those of the levels */
} sixteens;

#define ROW_PATH 0
#include "kernels/reblock_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/reblock_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/reblock_body.h"

/* ---- Q2_K: d * sc * q - dmin * m for 16 columns, four levels ---- */

static int sum_of_bytes(uint64_t w) { return (int)(w * EACH >> 56); }                 /* below 256 */

/* The scale of four levels from a to a + 3b: the part-th part of their distance, so that they are about whole numbers; or, where there
 * is no such part, the least that makes bytes of them. */
static float q2_k_scale(float a, float b, float part, uint8_t *out)
{
    float most = fmaxf(fabsf(a), fabsf(a + 3 * b));

    kern_half_put(out, kern_scale_of_bytes(part > 0 ? fabsf(b) / part : most / 127, most));
    return kern_half_at(out);
}

/* Sixteen quants as the bytes of their levels; what that changes. */
static void q2_k_sixteen(const uint8_t *two, int down, float a, float b, float scale, uint8_t *out, double sums[2])
{
    const float magic = 0x1.8p23f;                              /* at it a float has no digits after the point */
    uint64_t level[4];
    int count[4] = { 0, 0, 0, 0 };

    for (int q = 0; q < 4; q++) {
        float x = scale > 0 ? ((a + (float)q * b) / scale + magic) - magic : 0;
        level[q] = (uint8_t)(int8_t)x;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t w = word(two + 8 * i) >> down, one = w & EACH, high = w >> 1 & EACH, both = one & high;
        uint64_t bytes = (EACH ^ (one | high)) * level[0] | (one ^ both) * level[1] | (high ^ both) * level[2] | both * level[3];
        memcpy(out + 8 * i, &bytes, 8);
        count[1] += sum_of_bytes(one ^ both);
        count[2] += sum_of_bytes(high ^ both);
        count[3] += sum_of_bytes(both);
    }
    count[0] = 16 - count[1] - count[2] - count[3];
    for (int q = 0; q < 4; q++) {
        double was = (double)a + q * (double)b, off = was - (double)scale * (int8_t)level[q];
        sums[0] += off * off * count[q];
        sums[1] += was * was * count[q];
    }
}

/* The minimum of sixteen columns is no multiple of their scale, but nearly one of some part of it: bytes have room for many. */
static bool q2_k(kern_path path, const uint8_t *p, int first, int end, uint8_t *out, double sums[2])
{
    const float d = kern_half_at(p + 80), dmin = kern_half_at(p + 82);
    _Alignas(64) float r[16], most[16], part[16], a[16], b[16];

    if (!isfinite(d) || !isfinite(dmin)) return false;
    for (int i = 0; i < 16; i++) {
        b[i] = d * (float)(p[i] & 15);
        a[i] = -(dmin * (float)(p[i] >> 4));
        r[i] = b[i] != 0 ? a[i] / b[i] : 0;
        most[i] = fminf(126.5f / fmaxf(fabsf(r[i]), fabsf(r[i] + 3)), fabsf(b[i]) * 0x1p14f);      /* fp16 has too few digits below */
    }
    ROW_ON(path, q2_k_parts, r, most, part);
    for (int i = 2 * first; i < 2 * end; i++) {
        uint8_t *to = out + 36 * (i / 2 - first);
        float scale = q2_k_scale(a[i], b[i], part[i], to + 2 * (i % 2));
        q2_k_sixteen(p + 16 + i / 8 * 32 + 16 * (i % 2), i % 8 / 2 * 2, a[i], b[i], scale, to + 4 + 16 * (i % 2), sums);
    }
    return true;
}

/* ---- Q6_K, IQ2_XS: d * scale * q for 16 columns ---- */

/* Levels may be multiplied by `most`, 1 or 3, and then are where that part of the scale is nearer to a fp16. */
static bool sixteens_put(kern_path path, sixteens *b, int most, int first, int end, uint8_t *out, double sums[2])
{
    ROW_ON(path, sixteens_scaled, most, b);
    for (int i = 2 * first; i < 2 * end; i++) {
        double lost = (double)b->each[i] - (double)b->scale[i] * b->times[i], none;
        uint8_t *to = out + 36 * (i / 2 - first);

        if (!(fabsf(b->each[i]) < 65520.0f)) return false;                              /* a NaN, too */
        put_half(b->scale[i], to + 2 * (i % 2), &none);
        memcpy(to + 4 + 16 * (i % 2), b->q + 16 * i, 16);
        sums[0] += lost * lost * b->squares[i];
        sums[1] += (double)b->each[i] * (double)b->each[i] * b->squares[i];
    }
    return true;
}

static bool q6_k(kern_path path, const uint8_t *p, int first, int end, uint8_t *out, double sums[2])
{
    const float d = kern_half_at(p + 208);
    _Alignas(64) sixteens b;

    for (int i = 0; i < 16; i++) b.each[i] = d * (float)(int8_t)p[192 + i];
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 4; i++) {
            uint64_t low = word(p + g / 4 * 64 + g % 2 * 32 + 8 * i) >> g % 4 / 2 * 4 & 15 * EACH;
            uint64_t high = word(p + 128 + g / 4 * 32 + 8 * i) >> g % 4 * 2 & 3 * EACH;
            low = ((low | high << 4 | 0x80 * EACH) - 32 * EACH) ^ 0x80 * EACH;          /* minus 32, as in q5_0 */
            memcpy(b.q + 32 * g + 8 * i, &low, 8);
        }
    return sixteens_put(path, &b, 3, first, end, out, sums);
}

static bool iq2_xs(kern_path path, const uint8_t *p, int first, int end, uint8_t *out, double sums[2])
{
    const float d = kern_half_at(p);
    _Alignas(64) sixteens b;

    for (int g = 0; g < 8; g++) {
        b.each[2 * g] = d * (0.5f + (float)(p[66 + g] & 15)) * 0.25f;
        b.each[2 * g + 1] = d * (0.5f + (float)(p[66 + g] >> 4)) * 0.25f;
    }
    kern_iq2_levels(p, b.q);
    return sixteens_put(path, &b, 1, first, end, out, sums);                            /* 43 times 3 is no byte */
}

/* A type's group, or groups that become blocks by themselves: false where fp16 does not hold one. */
static const struct {
    kern_dtype to;                                              /* F32: none */
    void (*group)(const uint8_t *, int, group *);
    bool (*direct)(kern_path, const uint8_t *, int first, int end, uint8_t *out, double sums[2]);
} KIND[KERN_N_DTYPES] = {
    [KERN_Q5_0] = { KERN_Q8_0, q5_0 }, [KERN_IQ4_NL] = { KERN_Q8_0, iq4_nl }, [KERN_IQ4_XS] = { KERN_Q8_0, iq4_xs },
    [KERN_Q3_K] = { KERN_Q8_0, q3_k }, [KERN_Q5_1] = { KERN_Q8_M, q5_1 }, [KERN_Q4_K] = { KERN_Q4_1, q4_k },
    [KERN_Q5_K] = { KERN_Q8_M, q5_k }, [KERN_Q2_K] = { .to = KERN_Q8_H, .direct = q2_k },
    [KERN_Q6_K] = { .to = KERN_Q8_H, .direct = q6_k }, [KERN_IQ2_XS] = { .to = KERN_Q8_H, .direct = iq2_xs },
};

kern_dtype kern_reblock_to(kern_dtype t) { return (unsigned)t < KERN_N_DTYPES && KIND[t].to != KERN_F32 ? KIND[t].to : KERN_N_DTYPES; }

/* ---- into the stored type ---- */

bool kern_row_reblock_on(kern_path path, kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2])
{
    const kern_dtype_info *f = kern_dtype_get(from);
    const kern_dtype to = kern_reblock_to(from);
    uint8_t *out = dst;

    if (to == KERN_N_DTYPES) return false;
    for (size_t end = col + n; col < end; col += 32) {
        const uint8_t *block = (const uint8_t *)row + col / f->block * f->block_bytes;
        const int g = (int)(col % f->block / 32);
        double lost_d, lost_m = 0;
        moments n32;
        group b;

        if (KIND[from].direct) {
            const int n_groups = (int)(f->block / 32), some = end - col < (size_t)(32 * (n_groups - g)) ? (int)((end - col) / 32) : n_groups - g;
            if (!KIND[from].direct(path, block, g, g + some, out, sums)) return false;
            out += (size_t)some * kern_dtype_get(to)->block_bytes;
            col += 32 * (size_t)(some - 1);
            continue;
        }
        KIND[from].group(block, g, &b);
        n32 = moments_of(&b, to == KERN_Q8_0);
        if (!put_half(b.d, out, &lost_d)) return false;
        out += 2;
        if (to != KERN_Q8_0) {                          /* what the scale has lost of the mean the minimum can give back */
            float back = (float)lost_d * (float)n32.sum / 32;
            if (!put_half(b.m + back, out, &lost_m)) return false;
            lost_m -= (double)back;
            out += 2;
        }
        sums[1] += squares((double)b.d, (double)b.m, n32);
        if (lost_d != 0 || lost_m != 0) sums[0] += squares(lost_d, lost_m, n32);
        if (to == KERN_Q4_1)
            for (int i = 0; i < 2; i++) b.q[i] |= b.q[2 + i] << 4;
        memcpy(out, b.q, to == KERN_Q4_1 ? 16 : 32);
        out += to == KERN_Q4_1 ? 16 : 32;
    }
    return true;
}

bool kern_row_reblock(kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2])
{
    return kern_row_reblock_on(kern_row_path(), from, row, col, n, dst, sums);
}
