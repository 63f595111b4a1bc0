/* gguf_blocks.c - the blocks of GGUF that are read and not multiplied with (gguf_blocks.h).  A function a type: one block in, its
 * values out, each product exact in fp32 and a minimum subtracted with one rounding, in the order in which ggml does it. */
#include "kernels/gguf_blocks.h"

#include <math.h>
#include <string.h>

/* The levels of IQ4, and the 512 rows of eight levels of IQ2_XS: two bits each (0, 1, 2: 8, 25, 43), the first the lowest. */
const int8_t kern_iq4_level[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
static const uint8_t iq2_level[4] = { 8, 25, 43, 0 };
static const uint16_t iq2_row[512] = {
    0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0016, 0x0019, 0x0020, 0x0022, 0x0025, 0x0028, 0x0041, 0x0044, 0x0046,
    0x0049, 0x0050, 0x0052, 0x0055, 0x0058, 0x0061, 0x0064, 0x0080, 0x0082, 0x0085, 0x0088, 0x0091, 0x0094, 0x0099, 0x00a0, 0x0101,
    0x0104, 0x0106, 0x0109, 0x0110, 0x0112, 0x0115, 0x0118, 0x011a, 0x0121, 0x0124, 0x0140, 0x0142, 0x0145, 0x0148, 0x0151, 0x0154,
    0x0160, 0x0168, 0x0181, 0x0184, 0x0190, 0x0200, 0x0202, 0x0205, 0x0208, 0x0211, 0x0214, 0x0220, 0x0241, 0x0244, 0x0250, 0x0255,
    0x0280, 0x028a, 0x0401, 0x0404, 0x0406, 0x0409, 0x0410, 0x0412, 0x0415, 0x0418, 0x0421, 0x0424, 0x0440, 0x0442, 0x0445, 0x0448,
    0x0451, 0x0454, 0x0456, 0x0460, 0x0481, 0x0484, 0x0490, 0x0500, 0x0502, 0x0505, 0x0508, 0x0511, 0x0514, 0x0520, 0x0541, 0x0544,
    0x0550, 0x0561, 0x0580, 0x0601, 0x0604, 0x0610, 0x0626, 0x0640, 0x0642, 0x0684, 0x0800, 0x0802, 0x0805, 0x0808, 0x080a, 0x0811,
    0x0814, 0x0820, 0x0825, 0x0841, 0x0844, 0x0850, 0x0858, 0x0880, 0x08a0, 0x08aa, 0x0901, 0x0904, 0x0910, 0x0940, 0x0981, 0x0989,
    0x0a00, 0x0a20, 0x0a28, 0x0a96, 0x0aa0, 0x1001, 0x1004, 0x1006, 0x1009, 0x1010, 0x1012, 0x1015, 0x1018, 0x1021, 0x1024, 0x1040,
    0x1042, 0x1045, 0x1048, 0x1051, 0x1054, 0x1060, 0x106a, 0x1081, 0x1084, 0x1090, 0x1100, 0x1102, 0x1105, 0x1108, 0x1111, 0x1114,
    0x1120, 0x1141, 0x1144, 0x1150, 0x1180, 0x1194, 0x1196, 0x1201, 0x1204, 0x1206, 0x1210, 0x1240, 0x1260, 0x1400, 0x1402, 0x1405,
    0x1408, 0x1411, 0x1414, 0x1420, 0x1441, 0x1444, 0x1449, 0x1450, 0x1464, 0x1480, 0x1501, 0x1504, 0x1510, 0x1540, 0x1600, 0x1614,
    0x1649, 0x1801, 0x1804, 0x1810, 0x1812, 0x1840, 0x1854, 0x1886, 0x1900, 0x1905, 0x1966, 0x1a51, 0x1aa9, 0x2000, 0x2002, 0x2005,
    0x2008, 0x200a, 0x2011, 0x2014, 0x2020, 0x2041, 0x2044, 0x2050, 0x2080, 0x20a0, 0x2101, 0x2104, 0x2110, 0x2140, 0x2148, 0x2165,
    0x2200, 0x2222, 0x2280, 0x22a8, 0x2401, 0x2404, 0x2410, 0x2429, 0x2440, 0x2500, 0x2541, 0x2552, 0x2599, 0x2601, 0x261a, 0x26a6,
    0x2800, 0x2808, 0x280a, 0x2820, 0x2855, 0x2888, 0x28a2, 0x2968, 0x2990, 0x2a08, 0x2a20, 0x2a82, 0x2a88, 0x2a8a, 0x4001, 0x4004,
    0x4006, 0x4009, 0x4010, 0x4012, 0x4015, 0x4018, 0x4021, 0x4024, 0x4040, 0x4042, 0x4045, 0x4048, 0x404a, 0x4051, 0x4054, 0x4060,
    0x4065, 0x4081, 0x4084, 0x4090, 0x4100, 0x4102, 0x4105, 0x4108, 0x4111, 0x4114, 0x4120, 0x4141, 0x4144, 0x4150, 0x4180, 0x4185,
    0x41a2, 0x4201, 0x4204, 0x4210, 0x4212, 0x4229, 0x4240, 0x4400, 0x4402, 0x4405, 0x4408, 0x4411, 0x4414, 0x4419, 0x4420, 0x4441,
    0x4444, 0x4450, 0x4480, 0x4494, 0x4501, 0x4504, 0x4510, 0x4524, 0x4540, 0x459a, 0x4600, 0x460a, 0x4644, 0x4650, 0x4801, 0x4804,
    0x4810, 0x4840, 0x4845, 0x4854, 0x4862, 0x4900, 0x4911, 0x4944, 0x4950, 0x4969, 0x4a04, 0x5000, 0x5002, 0x5005, 0x5008, 0x5011,
    0x5014, 0x5020, 0x5028, 0x5041, 0x5044, 0x5050, 0x5080, 0x5101, 0x5104, 0x5110, 0x5115, 0x5140, 0x5142, 0x5200, 0x5244, 0x52aa,
    0x5401, 0x5404, 0x5410, 0x5421, 0x5440, 0x5460, 0x5481, 0x54a1, 0x5500, 0x5508, 0x5580, 0x5588, 0x5621, 0x5668, 0x56a1, 0x5800,
    0x5814, 0x5841, 0x5850, 0x5899, 0x591a, 0x5940, 0x5942, 0x5a85, 0x6001, 0x6004, 0x6010, 0x6040, 0x6054, 0x6062, 0x6086, 0x60a9,
    0x6100, 0x6224, 0x624a, 0x6292, 0x6400, 0x6416, 0x6510, 0x6540, 0x6545, 0x65a4, 0x6801, 0x686a, 0x6925, 0x6a06, 0x6a54, 0x6a62,
    0x8000, 0x8002, 0x8005, 0x8008, 0x8011, 0x8014, 0x8020, 0x802a, 0x8041, 0x8044, 0x8050, 0x8080, 0x8082, 0x80a8, 0x80aa, 0x8101,
    0x8104, 0x8106, 0x8110, 0x8140, 0x8151, 0x8159, 0x8200, 0x8220, 0x8280, 0x8282, 0x82a0, 0x82a8, 0x8401, 0x8404, 0x8410, 0x8412,
    0x8415, 0x8440, 0x8460, 0x8489, 0x8500, 0x8544, 0x85a5, 0x8618, 0x866a, 0x8800, 0x8808, 0x8825, 0x885a, 0x8880, 0x8882, 0x88a8,
    0x8906, 0x8a22, 0x8a80, 0x8a88, 0x8a96, 0x8aa8, 0x9001, 0x9004, 0x9010, 0x9040, 0x9056, 0x9084, 0x9100, 0x9122, 0x9164, 0x9256,
    0x9289, 0x9400, 0x9405, 0x9444, 0x9450, 0x9458, 0x9529, 0x9590, 0x9592, 0x9641, 0x9851, 0x98a6, 0x9949, 0x9a15, 0x9a60, 0xa000,
    0xa002, 0xa008, 0xa00a, 0xa020, 0xa02a, 0xa0a0, 0xa151, 0xa159, 0xa1a6, 0xa200, 0xa202, 0xa208, 0xa22a, 0xa280, 0xa2a0, 0xa440,
    0xa495, 0xa665, 0xa698, 0xa80a, 0xa820, 0xa822, 0xa828, 0xa8a0, 0xa8a8, 0xa904, 0xa984, 0xa986, 0xaa28, 0xaa2a, 0xaa91, 0xaaaa,
};

static float half(const uint8_t *p) { return kern_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }
static uint32_t u32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

/* Fifth bits in a word: bit i for value i.  Q5_0: d, bits, nibbles; Q5_1: d, minimum, bits, nibbles. */
static void q5_0(const uint8_t *p, float *y)
{
    float d = half(p);
    uint32_t high = u32(p + 2);

    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((int)((p[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        y[16 + i] = d * (float)((int)(p[6 + i] >> 4 | (high >> (16 + i) & 1) << 4) - 16);
    }
}

static void q5_1(const uint8_t *p, float *y)
{
    float d = half(p), m = half(p + 2);
    uint32_t high = u32(p + 4);

    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((p[8 + i] & 15) | (high >> i & 1) << 4) + m;
        y[16 + i] = d * (float)(p[8 + i] >> 4 | (high >> (16 + i) & 1) << 4) + m;
    }
}

/* ---- 256 values: two halves of 128, each of groups that share bytes and differ in the bits they take ---- */

/* 16 scales and minima in nibbles, two bits a value, d, dmin. */
static void q2_k(const uint8_t *p, float *y)
{
    const uint8_t *scale = p, *q = p + 16;
    float d = half(p + 80), dmin = half(p + 82);

    for (int g = 0; g < 16; g++, y += 16) {
        const uint8_t *at = q + g / 8 * 32 + g % 2 * 16;
        float each = d * (float)(scale[g] & 15), min = dmin * (float)(scale[g] >> 4);
        for (int i = 0; i < 16; i++) y[i] = each * (float)(at[i] >> g % 8 / 2 * 2 & 3) - min;
    }
}

/* Third bits (a byte for eight groups), two bits a value, 16 scales of six bits in 12 bytes, d. */
static void q3_k(const uint8_t *p, float *y)
{
    const uint8_t *high = p, *q = p + 32, *s = p + 96;
    float d = half(p + 108);

    for (int g = 0; g < 16; g++, y += 16) {
        const uint8_t *at = q + g / 8 * 32 + g % 2 * 16, *h = high + g % 2 * 16;
        int scale = (g < 8 ? s[g] & 15 : s[g - 8] >> 4) | (s[8 + g % 4] >> g / 4 * 2 & 3) << 4;
        float each = d * (float)(scale - 32);
        for (int i = 0; i < 16; i++) y[i] = each * (float)((at[i] >> g % 8 / 2 * 2 & 3) - (h[i] >> g / 2 & 1 ? 0 : 4));
    }
}

void kern_k_scale_and_min(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

/* d, dmin, scales, and nibbles: 32 values low and 32 values high of 32 bytes.  Q5_K: before them a fifth bit, a byte for 8 groups. */
static void q4_or_q5_k(const uint8_t *p, const uint8_t *high, const uint8_t *q, float *y)
{
    float d = half(p), dmin = half(p + 2);

    for (int g = 0; g < 8; g++, y += 32) {
        const uint8_t *at = q + g / 2 * 32;
        int scale, min;
        float each, m;
        kern_k_scale_and_min(p + 4, g, &scale, &min);
        each = d * (float)scale;
        m = dmin * (float)min;
        for (int i = 0; i < 32; i++) y[i] = each * (float)((at[i] >> g % 2 * 4 & 15) + (high ? (high[i] >> g & 1) << 4 : 0)) - m;
    }
}

static void q4_k(const uint8_t *p, float *y) { q4_or_q5_k(p, NULL, p + 16, y); }
static void q5_k(const uint8_t *p, float *y) { q4_or_q5_k(p, p + 16, p + 48, y); }

/* Nibbles, two more bits a value, 16 signed scales, d. */
static void q6_k(const uint8_t *p, float *y)
{
    float d = half(p + 208);

    for (int g = 0; g < 16; g++, y += 16) {
        int quarter = g % 8 / 2;                                        /* of 32 values in a half of 128 */
        const uint8_t *low = p + g / 8 * 64 + quarter % 2 * 32 + g % 2 * 16, *high = p + 128 + g / 8 * 32 + g % 2 * 16;
        float each = d * (float)(int8_t)p[192 + g];
        for (int i = 0; i < 16; i++)
            y[i] = each * (float)((int)((low[i] >> quarter / 2 * 4 & 15) | (high[i] >> quarter * 2 & 3) << 4) - 32);
    }
}

/* ---- levels of a table ---- */

static void iq4_nl(const uint8_t *p, float *y)
{
    float d = half(p);

    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)kern_iq4_level[p[2 + i] & 15];
        y[16 + i] = d * (float)kern_iq4_level[p[2 + i] >> 4];
    }
}

/* d, two high bits and then four low bits of eight scales, nibbles as IQ4_NL has them. */
int kern_iq4_xs_scale(const uint8_t *p, int g)
{
    uint32_t high = p[2] | (uint32_t)p[3] << 8;

    return ((p[4 + g / 2] >> g % 2 * 4 & 15) | (int)(high >> 2 * g & 3) << 4) - 32;
}

static void iq4_xs(const uint8_t *p, float *y)
{
    float d = half(p);

    for (int g = 0; g < 8; g++, y += 32) {
        const uint8_t *at = p + 8 + 16 * g;
        float each = d * (float)kern_iq4_xs_scale(p, g);
        for (int i = 0; i < 16; i++) {
            y[i] = each * (float)kern_iq4_level[at[i] & 15];
            y[16 + i] = each * (float)kern_iq4_level[at[i] >> 4];
        }
    }
}

/* d, 32 words (nine bits: a row of eight levels; seven bits: signs, of which the eighth makes their number even), 16 scales in
 * nibbles, each of two words. */
static void iq2_xs(const uint8_t *p, float *y)
{
    float d = half(p);

    for (int w = 0; w < 32; w++, y += 8) {
        uint32_t word = p[2 + 2 * w] | (uint32_t)p[3 + 2 * w] << 8, row = iq2_row[word & 511], signs = word >> 9;
        float each = d * (0.5f + (float)(p[66 + w / 4] >> w % 4 / 2 * 4 & 15)) * 0.25f;
        signs |= (uint32_t)__builtin_parity(signs) << 7;
        for (int i = 0; i < 8; i++) y[i] = each * (float)iq2_level[row >> 2 * i & 3] * (signs >> i & 1 ? -1.0f : 1.0f);
    }
}

float kern_row_step(kern_dtype t, const void *row, size_t col)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    const uint8_t *p = row;
    int g, scale, min;

    if (!f) return 0;
    p += col / f->block * f->block_bytes;
    g = (int)(col % f->block / 32);
    switch (t) {
    case KERN_Q5_0:
    case KERN_Q5_1:
    case KERN_IQ4_NL:
        return fabsf(half(p));
    case KERN_Q4_K:
    case KERN_Q5_K:
        kern_k_scale_and_min(p + 4, g, &scale, &min);
        return fabsf(half(p) * (float)scale);
    case KERN_IQ4_XS:
        return fabsf(half(p) * (float)kern_iq4_xs_scale(p, g));
    default:
        return 0;
    }
}

void kern_gguf_to_f32(kern_dtype t, const void *src, size_t n, float *dst)
{
    static void (*const reader[KERN_N_DTYPES])(const uint8_t *, float *) = {
        [KERN_Q5_0] = q5_0, [KERN_Q5_1] = q5_1, [KERN_Q2_K] = q2_k, [KERN_Q3_K] = q3_k, [KERN_Q4_K] = q4_k, [KERN_Q5_K] = q5_k,
        [KERN_Q6_K] = q6_k, [KERN_IQ4_NL] = iq4_nl, [KERN_IQ4_XS] = iq4_xs, [KERN_IQ2_XS] = iq2_xs,
    };
    const kern_dtype_info *f = kern_dtype_get(t);
    const uint8_t *p = src;

    if (!f || !reader[t]) {
        memset(dst, 0, n * sizeof *dst);            /* not readable: the table of types says so */
        return;
    }
    for (; n >= f->block; n -= f->block, p += f->block_bytes, dst += f->block) reader[t](p, dst);
}
