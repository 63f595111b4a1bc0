/* reblock.c - blocks of GGUF that are only read, as Q4_1, Q8_0, Q8_M, Q8_H, Q2_HM and Q4_HL (reblock.h).  Up to 256 columns are taken apart
 * beside each other; quants move as they are, eight to a word; nothing is searched for, and no value is computed. */
#include "kernels/reblock.h"
#include "kernels/gguf_blocks.h"
#include "kernels/half.h"
#include "kernels/panel.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte i of a word is column i");

#define EACH 0x0101010101010101ull                /* one in each byte */
#define BEYOND_HALF 65520.0f                      /* would round to infinity */

/* 256 columns, q * d + m: in eight groups of 32, or sixteen of 16.  q is signed where the stored type's is. */
typedef struct groups {
    _Alignas(64) uint8_t q[256];
    float    d[16], m[16];                        /* as the block has them */
    uint32_t d_half[16], m_half[16];              /* as they are stored, in fp16 */
    int32_t  fits[16];                            /* both do */
    int32_t  sum[16], squares[16];                /* of the quants, the latter of their squares */
    float    lost[16], lost_m[16];                /* by storing them so */
    double   error[16], size[16];                 /* squares: of what changes, of the values */
} groups;

static uint64_t word(const uint8_t *p) { uint64_t w; memcpy(&w, p, sizeof w); return w; }

/* x where `mask` has all bits, y where it has none: a choice that loops over lanes have without a branch. */
static inline float pick(uint32_t mask, float x, float y) { return kern_float_of((kern_bits_of(x) & mask) | (kern_bits_of(y) & ~mask)); }

#define ROW_PATH 0
#include "kernels/reblock_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/reblock_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/reblock_body.h"

/* ---- the quants and scales of each type: of the first n groups, or of all eight ---- */

/* Words of eight go to memory in pairs: what reads them next takes sixteen, which a CPU has to wait for when they came as eight and eight. */
static void put_pair(uint8_t *p, uint64_t low, uint64_t high) { _mm_storeu_si128((__m128i *)p, _mm_set_epi64x((int64_t)high, (int64_t)low)); }

/* Nibbles of 16 bytes: columns i low, 16 + i high. */
static void nibbles(const uint8_t *p, uint64_t q[4])
{
    for (int i = 0; i < 2; i++) {
        q[i] = word(p + 8 * i) & 15 * EACH;
        q[2 + i] = word(p + 8 * i) >> 4 & 15 * EACH;
    }
}

static void put_four(uint8_t *p, const uint64_t q[4])
{
    put_pair(p, q[0], q[1]);
    put_pair(p + 16, q[2], q[3]);
}

/* Eight bits as the fifth bits of eight bytes: byte i keeps bit i, which a sum carries to the top of its byte and no further. */
static uint64_t fifth(uint8_t bits)
{
    uint64_t one = bits * EACH & 0x8040201008040201ull;

    return ((one + 0x7f * EACH) & (0x80 * EACH)) >> 3;
}

/* Eight bytes below 128, less `by` each: none borrows from the next. */
static uint64_t less(uint64_t bytes, uint64_t by) { return ((bytes | 0x80 * EACH) - by * EACH) ^ 0x80 * EACH; }

static void q5_0(kern_path path, const uint8_t *p, int n, groups *b)
{
    (void)path;
    for (int g = 0; g < n; g++, p += 22) {
        uint64_t q[4];
        b->d[g] = kern_half_at(p);
        nibbles(p + 6, q);
        for (int i = 0; i < 4; i++) q[i] = less(q[i] | fifth(p[2 + i]), 16);
        put_four(b->q + 32 * g, q);
    }
}

static void q5_1(kern_path path, const uint8_t *p, int n, groups *b)
{
    (void)path;
    for (int g = 0; g < n; g++, p += 24) {
        uint64_t q[4];
        b->d[g] = kern_half_at(p);
        b->m[g] = kern_half_at(p + 2);
        nibbles(p + 8, q);
        for (int i = 0; i < 4; i++) q[i] |= fifth(p[4 + i]);
        put_four(b->q + 32 * g, q);
    }
}

/* A group's nibbles are the low or the high ones of 32 bytes, shared with the next or the last group. */
static void q4_or_q5_k(const uint8_t *p, const uint8_t *high, const uint8_t *low, groups *b)
{
    const float d = kern_half_at(p), dmin = kern_half_at(p + 2);

    for (int g = 0; g < 8; g++) {
        uint64_t q[4];
        int scale, min;
        kern_k_scale_and_min(p + 4, g, &scale, &min);
        b->d[g] = d * (float)scale;
        b->m[g] = -(dmin * (float)min);
        for (int i = 0; i < 4; i++) {
            q[i] = word(low + g / 2 * 32 + 8 * i) >> g % 2 * 4 & 15 * EACH;
            if (high) q[i] |= (word(high + 8 * i) >> g & EACH) << 4;
        }
        put_four(b->q + 32 * g, q);
    }
}

static void q4_k(kern_path path, const uint8_t *p, int n, groups *b) { (void)path, (void)n; q4_or_q5_k(p, NULL, p + 16, b); }
static void q5_k(kern_path path, const uint8_t *p, int n, groups *b) { (void)path, (void)n; q4_or_q5_k(p, p + 16, p + 48, b); }

static void iq4_nl(kern_path path, const uint8_t *p, int n, groups *b)
{
    for (int g = 0; g < n; g++, p += 18) {
        uint64_t q[4];
        b->d[g] = kern_half_at(p);
        nibbles(p + 2, q);
        put_four(b->q + 32 * g, q);
    }
    if (n < 8) memset(b->q + 32 * n, 0, (size_t)(8 - n) * 32);
    ROW_ON(path, levels, b->q);
}

static void iq4_xs(kern_path path, const uint8_t *p, int n, groups *b)
{
    const float d = kern_half_at(p);

    (void)n;
    for (int g = 0; g < 8; g++) {
        uint64_t q[4];
        b->d[g] = d * (float)kern_iq4_xs_scale(p, g);
        nibbles(p + 8 + 16 * g, q);
        put_four(b->q + 32 * g, q);
    }
    ROW_ON(path, levels, b->q);
}

/* Quants of three bits, less 4, are the first levels of Q4_HL. */
static void q3_k(kern_path path, const uint8_t *p, int n, groups *b)
{
    const float d = kern_half_at(p + 108);

    (void)path, (void)n;
    for (int i = 0; i < 16; i++) b->d[i] = d * (float)kern_q3_k_scale(p + 96, i);
    for (int g = 0; g < 8; g++) {
        uint64_t q[4];
        for (int i = 0; i < 4; i++) q[i] = (word(p + 32 + g / 4 * 32 + 8 * i) >> g % 4 * 2 & 3 * EACH) | (word(p + 8 * i) >> g & EACH) << 2;
        put_four(b->q + 32 * g, q);
    }
}

static void q6_k(kern_path path, const uint8_t *p, int n, groups *b)
{
    const float d = kern_half_at(p + 208);

    (void)path, (void)n;
    for (int i = 0; i < 16; i++) b->d[i] = d * (float)(int8_t)p[192 + i];
    for (int g = 0; g < 8; g++) {
        uint64_t q[4];
        for (int i = 0; i < 4; i++) {
            uint64_t low = word(p + g / 4 * 64 + g % 2 * 32 + 8 * i) >> g % 4 / 2 * 4 & 15 * EACH;
            uint64_t high = word(p + 128 + g / 4 * 32 + 8 * i) >> g % 4 * 2 & 3 * EACH;
            q[i] = less(low | high << 4, 32);
        }
        put_four(b->q + 32 * g, q);
    }
}

static void iq2_xs(kern_path path, const uint8_t *p, int n, groups *b)
{
    const float d = kern_half_at(p);

    (void)path, (void)n;
    for (int g = 0; g < 8; g++) {
        b->d[2 * g] = d * (0.5f + (float)(p[66 + g] & 15)) * 0.25f;
        b->d[2 * g + 1] = d * (0.5f + (float)(p[66 + g] >> 4)) * 0.25f;
    }
    kern_iq2_numbers(p, b->q);
}

static void q2_k(kern_path path, const uint8_t *p, int n, groups *b)
{
    const float d = kern_half_at(p + 80), dmin = kern_half_at(p + 82);

    (void)path, (void)n;
    for (int i = 0; i < 16; i++) {
        b->d[i] = d * (float)(p[i] & 15);
        b->m[i] = -(dmin * (float)(p[i] >> 4));
    }
    for (int g = 0; g < 8; g++) {
        uint64_t q[4];
        for (int i = 0; i < 4; i++) q[i] = word(p + 16 + g / 4 * 32 + 8 * i) >> g % 4 * 2 & 3 * EACH;
        put_four(b->q + 32 * g, q);
    }
}

static const struct {
    kern_dtype to;                                              /* F32: none */
    void (*take)(kern_path path, const uint8_t *p, int n, groups *b);
} KIND[KERN_N_DTYPES] = {
    [KERN_Q5_0] = { KERN_Q8_0, q5_0 },   [KERN_IQ4_NL] = { KERN_Q8_0, iq4_nl },  [KERN_IQ4_XS] = { KERN_Q8_0, iq4_xs },
    [KERN_Q3_K] = { KERN_Q4_HL, q3_k },  [KERN_Q5_1] = { KERN_Q8_M, q5_1 },      [KERN_Q4_K] = { KERN_Q4_1, q4_k },
    [KERN_Q5_K] = { KERN_Q8_M, q5_k },   [KERN_Q2_K] = { KERN_Q2_HM, q2_k },     [KERN_Q6_K] = { KERN_Q8_H, q6_k },
    [KERN_IQ2_XS] = { KERN_Q4_HL, iq2_xs },
};

kern_dtype kern_reblock_to(kern_dtype t) { return (unsigned)t < KERN_N_DTYPES && KIND[t].to != KERN_F32 ? KIND[t].to : KERN_N_DTYPES; }

/* ---- into the stored type ---- */

static uint8_t *put_pairs(const groups *b, int g, uint8_t *out)
{
    for (int i = 2 * g; i < 2 * g + 2; i++, out += 4) {
        kern_half_put(out, (uint16_t)b->d_half[i]);
        kern_half_put(out + 2, (uint16_t)b->m_half[i]);
    }
    return out;
}

/* Group g, which is the row's first, second, ... of 32 columns: `at`. */
static uint8_t *put(const groups *b, int g, kern_dtype to, size_t at, uint8_t *out)
{
    const uint8_t *q = b->q + 32 * g;

    if (to == KERN_Q2_HM) {
        uint64_t low = word(q) | word(q + 16) << 2, high = word(q + 8) | word(q + 24) << 2;
        uint8_t *quants = at % 2 ? out - 24 : out;              /* of both, which stand before the pairs of both */
        if (at % 2) put_pair(quants, word(quants) | low << 4, word(quants + 8) | high << 4);
        else put_pair(quants, low, high);
        return put_pairs(b, g, at % 2 ? out : out + 16);
    }
    if (kern_block_halves(to)) {
        kern_half_put(out, (uint16_t)b->d_half[2 * g]);
        kern_half_put(out + 2, (uint16_t)b->d_half[2 * g + 1]);
        out += 4;
    } else {
        kern_half_put(out, (uint16_t)b->d_half[g]);
        out += 2;
        if (to != KERN_Q8_0) {
            kern_half_put(out, (uint16_t)b->m_half[g]);
            out += 2;
        }
    }
    if (kern_block_row(to) == 32) {
        memcpy(out, q, 32);
        return out + 32;
    }
    put_pair(out, word(q) | word(q + 16) << 4, word(q + 8) | word(q + 24) << 4);
    return out + 16;
}

bool kern_row_reblock_on(kern_path path, kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2])
{
    const kern_dtype_info *f = kern_dtype_get(from);
    const kern_dtype to = kern_reblock_to(from);
    const int each = kern_block_halves(to) || to == KERN_Q2_HM ? 16 : 32;
    const size_t start = col;
    uint8_t *out = dst;
    groups b;

    if (to == KERN_N_DTYPES) return false;
    memset(&b, 0, sizeof b);                                    /* a row's last groups may be fewer than eight */
    for (size_t end = col + n; col < end;) {
        const uint8_t *block = (const uint8_t *)row + col / f->block * f->block_bytes;
        const int first = (int)(col % f->block / 32), left = (int)((end - col) / 32 < 8 ? (end - col) / 32 : 8), some = left < 8 - first ? left : 8 - first;

        KIND[from].take(path, block, some, &b);
        if (to == KERN_Q2_HM) ROW_ON(path, pairs_of_16, &b);
        else if (to == KERN_Q4_HL) ROW_ON(path, levels_of_16, &b);
        else if (to == KERN_Q8_H) ROW_ON(path, halves_of_16, &b);
        else ROW_ON(path, halves_of_32, to == KERN_Q8_0, to == KERN_Q8_0 ? 0 : 1, &b);
        for (int i = 32 * first / each; i < 32 * (first + some) / each; i++) {
            if (!b.fits[i]) return false;
            sums[0] += b.error[i];
            sums[1] += b.size[i];
        }
        for (int g = first; g < first + some; g++, col += 32) out = put(&b, g, to, (col - start) / 32, out);
    }
    return true;
}

bool kern_row_reblock(kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2])
{
    return kern_row_reblock_on(kern_row_path(), from, row, col, n, dst, sums);
}
