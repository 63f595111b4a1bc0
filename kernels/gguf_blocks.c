/* gguf_blocks.c - the blocks of GGUF that are read and not multiplied with (gguf_blocks.h): tables, parts of blocks, and what
 * gguf_blocks_body.h has for each instruction set. */
#include "kernels/gguf_blocks.h"
#include "kernels/half.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

/* The levels of IQ4. */
const int8_t kern_iq4_level[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

/* The 512 rows of eight levels of IQ2_XS, a byte each, the first the lowest: from two bits each (0, 1, 2: 8, 25, 43). */
#define V(bits, i) ((uint64_t)(bits) >> 2 * (i) & 3)
#define L(bits, i) (8 + 17 * V(bits, i) + (V(bits, i) >> 1)) << 8 * (i)
#define R(bits) L(bits, 0) | L(bits, 1) | L(bits, 2) | L(bits, 3) | L(bits, 4) | L(bits, 5) | L(bits, 6) | L(bits, 7)
static const uint64_t iq2_row[512] = {
    R(0x0000), R(0x0002), R(0x0005), R(0x0008), R(0x000a), R(0x0011), R(0x0014), R(0x0016), R(0x0019), R(0x0020), R(0x0022), R(0x0025),
    R(0x0028), R(0x0041), R(0x0044), R(0x0046), R(0x0049), R(0x0050), R(0x0052), R(0x0055), R(0x0058), R(0x0061), R(0x0064), R(0x0080),
    R(0x0082), R(0x0085), R(0x0088), R(0x0091), R(0x0094), R(0x0099), R(0x00a0), R(0x0101), R(0x0104), R(0x0106), R(0x0109), R(0x0110),
    R(0x0112), R(0x0115), R(0x0118), R(0x011a), R(0x0121), R(0x0124), R(0x0140), R(0x0142), R(0x0145), R(0x0148), R(0x0151), R(0x0154),
    R(0x0160), R(0x0168), R(0x0181), R(0x0184), R(0x0190), R(0x0200), R(0x0202), R(0x0205), R(0x0208), R(0x0211), R(0x0214), R(0x0220),
    R(0x0241), R(0x0244), R(0x0250), R(0x0255), R(0x0280), R(0x028a), R(0x0401), R(0x0404), R(0x0406), R(0x0409), R(0x0410), R(0x0412),
    R(0x0415), R(0x0418), R(0x0421), R(0x0424), R(0x0440), R(0x0442), R(0x0445), R(0x0448), R(0x0451), R(0x0454), R(0x0456), R(0x0460),
    R(0x0481), R(0x0484), R(0x0490), R(0x0500), R(0x0502), R(0x0505), R(0x0508), R(0x0511), R(0x0514), R(0x0520), R(0x0541), R(0x0544),
    R(0x0550), R(0x0561), R(0x0580), R(0x0601), R(0x0604), R(0x0610), R(0x0626), R(0x0640), R(0x0642), R(0x0684), R(0x0800), R(0x0802),
    R(0x0805), R(0x0808), R(0x080a), R(0x0811), R(0x0814), R(0x0820), R(0x0825), R(0x0841), R(0x0844), R(0x0850), R(0x0858), R(0x0880),
    R(0x08a0), R(0x08aa), R(0x0901), R(0x0904), R(0x0910), R(0x0940), R(0x0981), R(0x0989), R(0x0a00), R(0x0a20), R(0x0a28), R(0x0a96),
    R(0x0aa0), R(0x1001), R(0x1004), R(0x1006), R(0x1009), R(0x1010), R(0x1012), R(0x1015), R(0x1018), R(0x1021), R(0x1024), R(0x1040),
    R(0x1042), R(0x1045), R(0x1048), R(0x1051), R(0x1054), R(0x1060), R(0x106a), R(0x1081), R(0x1084), R(0x1090), R(0x1100), R(0x1102),
    R(0x1105), R(0x1108), R(0x1111), R(0x1114), R(0x1120), R(0x1141), R(0x1144), R(0x1150), R(0x1180), R(0x1194), R(0x1196), R(0x1201),
    R(0x1204), R(0x1206), R(0x1210), R(0x1240), R(0x1260), R(0x1400), R(0x1402), R(0x1405), R(0x1408), R(0x1411), R(0x1414), R(0x1420),
    R(0x1441), R(0x1444), R(0x1449), R(0x1450), R(0x1464), R(0x1480), R(0x1501), R(0x1504), R(0x1510), R(0x1540), R(0x1600), R(0x1614),
    R(0x1649), R(0x1801), R(0x1804), R(0x1810), R(0x1812), R(0x1840), R(0x1854), R(0x1886), R(0x1900), R(0x1905), R(0x1966), R(0x1a51),
    R(0x1aa9), R(0x2000), R(0x2002), R(0x2005), R(0x2008), R(0x200a), R(0x2011), R(0x2014), R(0x2020), R(0x2041), R(0x2044), R(0x2050),
    R(0x2080), R(0x20a0), R(0x2101), R(0x2104), R(0x2110), R(0x2140), R(0x2148), R(0x2165), R(0x2200), R(0x2222), R(0x2280), R(0x22a8),
    R(0x2401), R(0x2404), R(0x2410), R(0x2429), R(0x2440), R(0x2500), R(0x2541), R(0x2552), R(0x2599), R(0x2601), R(0x261a), R(0x26a6),
    R(0x2800), R(0x2808), R(0x280a), R(0x2820), R(0x2855), R(0x2888), R(0x28a2), R(0x2968), R(0x2990), R(0x2a08), R(0x2a20), R(0x2a82),
    R(0x2a88), R(0x2a8a), R(0x4001), R(0x4004), R(0x4006), R(0x4009), R(0x4010), R(0x4012), R(0x4015), R(0x4018), R(0x4021), R(0x4024),
    R(0x4040), R(0x4042), R(0x4045), R(0x4048), R(0x404a), R(0x4051), R(0x4054), R(0x4060), R(0x4065), R(0x4081), R(0x4084), R(0x4090),
    R(0x4100), R(0x4102), R(0x4105), R(0x4108), R(0x4111), R(0x4114), R(0x4120), R(0x4141), R(0x4144), R(0x4150), R(0x4180), R(0x4185),
    R(0x41a2), R(0x4201), R(0x4204), R(0x4210), R(0x4212), R(0x4229), R(0x4240), R(0x4400), R(0x4402), R(0x4405), R(0x4408), R(0x4411),
    R(0x4414), R(0x4419), R(0x4420), R(0x4441), R(0x4444), R(0x4450), R(0x4480), R(0x4494), R(0x4501), R(0x4504), R(0x4510), R(0x4524),
    R(0x4540), R(0x459a), R(0x4600), R(0x460a), R(0x4644), R(0x4650), R(0x4801), R(0x4804), R(0x4810), R(0x4840), R(0x4845), R(0x4854),
    R(0x4862), R(0x4900), R(0x4911), R(0x4944), R(0x4950), R(0x4969), R(0x4a04), R(0x5000), R(0x5002), R(0x5005), R(0x5008), R(0x5011),
    R(0x5014), R(0x5020), R(0x5028), R(0x5041), R(0x5044), R(0x5050), R(0x5080), R(0x5101), R(0x5104), R(0x5110), R(0x5115), R(0x5140),
    R(0x5142), R(0x5200), R(0x5244), R(0x52aa), R(0x5401), R(0x5404), R(0x5410), R(0x5421), R(0x5440), R(0x5460), R(0x5481), R(0x54a1),
    R(0x5500), R(0x5508), R(0x5580), R(0x5588), R(0x5621), R(0x5668), R(0x56a1), R(0x5800), R(0x5814), R(0x5841), R(0x5850), R(0x5899),
    R(0x591a), R(0x5940), R(0x5942), R(0x5a85), R(0x6001), R(0x6004), R(0x6010), R(0x6040), R(0x6054), R(0x6062), R(0x6086), R(0x60a9),
    R(0x6100), R(0x6224), R(0x624a), R(0x6292), R(0x6400), R(0x6416), R(0x6510), R(0x6540), R(0x6545), R(0x65a4), R(0x6801), R(0x686a),
    R(0x6925), R(0x6a06), R(0x6a54), R(0x6a62), R(0x8000), R(0x8002), R(0x8005), R(0x8008), R(0x8011), R(0x8014), R(0x8020), R(0x802a),
    R(0x8041), R(0x8044), R(0x8050), R(0x8080), R(0x8082), R(0x80a8), R(0x80aa), R(0x8101), R(0x8104), R(0x8106), R(0x8110), R(0x8140),
    R(0x8151), R(0x8159), R(0x8200), R(0x8220), R(0x8280), R(0x8282), R(0x82a0), R(0x82a8), R(0x8401), R(0x8404), R(0x8410), R(0x8412),
    R(0x8415), R(0x8440), R(0x8460), R(0x8489), R(0x8500), R(0x8544), R(0x85a5), R(0x8618), R(0x866a), R(0x8800), R(0x8808), R(0x8825),
    R(0x885a), R(0x8880), R(0x8882), R(0x88a8), R(0x8906), R(0x8a22), R(0x8a80), R(0x8a88), R(0x8a96), R(0x8aa8), R(0x9001), R(0x9004),
    R(0x9010), R(0x9040), R(0x9056), R(0x9084), R(0x9100), R(0x9122), R(0x9164), R(0x9256), R(0x9289), R(0x9400), R(0x9405), R(0x9444),
    R(0x9450), R(0x9458), R(0x9529), R(0x9590), R(0x9592), R(0x9641), R(0x9851), R(0x98a6), R(0x9949), R(0x9a15), R(0x9a60), R(0xa000),
    R(0xa002), R(0xa008), R(0xa00a), R(0xa020), R(0xa02a), R(0xa0a0), R(0xa151), R(0xa159), R(0xa1a6), R(0xa200), R(0xa202), R(0xa208),
    R(0xa22a), R(0xa280), R(0xa2a0), R(0xa440), R(0xa495), R(0xa665), R(0xa698), R(0xa80a), R(0xa820), R(0xa822), R(0xa828), R(0xa8a0),
    R(0xa8a8), R(0xa904), R(0xa984), R(0xa986), R(0xaa28), R(0xaa2a), R(0xaa91), R(0xaaaa),
};
#undef V
#undef L
#undef R

/* Bytes of all bits where seven bits of signs, and the eighth that makes their number even, are set. */
#define P(s) (((s) ^ (s) >> 1 ^ (s) >> 2 ^ (s) >> 3 ^ (s) >> 4 ^ (s) >> 5 ^ (s) >> 6) & 1)
#define B(s, i) ((uint64_t)((s) >> (i) & 1) * 255 << 8 * (i))
#define M(s) B(s, 0) | B(s, 1) | B(s, 2) | B(s, 3) | B(s, 4) | B(s, 5) | B(s, 6) | (uint64_t)P(s) * 255 << 56
#define M8(s) M(s), M((s) + 1), M((s) + 2), M((s) + 3), M((s) + 4), M((s) + 5), M((s) + 6), M((s) + 7)
static const uint64_t iq2_minus[128] = {
    M8(0), M8(8), M8(16), M8(24), M8(32), M8(40), M8(48), M8(56), M8(64), M8(72), M8(80), M8(88), M8(96), M8(104), M8(112), M8(120),
};
#undef P
#undef B
#undef M
#undef M8

static uint32_t u32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

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

int kern_iq4_xs_scale(const uint8_t *p, int g)
{
    uint32_t high = p[2] | (uint32_t)p[3] << 8;

    return ((p[4 + g / 2] >> g % 2 * 4 & 15) | (int)(high >> 2 * g & 3) << 4) - 32;
}

/* Eight levels with their signs; no byte is 0, so none carries. */
static int64_t iq2_eight(const uint8_t *p)
{
    uint32_t word = p[0] | (uint32_t)p[1] << 8;
    uint64_t minus = iq2_minus[word >> 9];

    return (int64_t)((iq2_row[word & 511] ^ minus) + (minus & 0x0101010101010101ull));
}

/* IQ2_XS: d, 32 words (nine bits: a row of eight levels; seven bits: signs, of which the eighth makes their number even), 16 scales in
 * nibbles, each of two words.  The levels with their signs; apart, as vectors are slower at this. */
__attribute__((noinline)) void kern_iq2_levels(const uint8_t *p, int8_t q[256])
{
    for (int w = 0; w < 32; w += 2)
        _mm_storeu_si128((__m128i *)(q + 8 * w), _mm_set_epi64x(iq2_eight(p + 4 + 2 * w), iq2_eight(p + 2 + 2 * w)));
}

/* Bits 4 and 5 of a level's byte (8, 25, 43) are 0, 1, 2. */
static int64_t iq2_eight_numbers(const uint8_t *p)
{
    const uint64_t each = 0x0101010101010101ull;
    uint32_t word = p[0] | (uint32_t)p[1] << 8;

    return (int64_t)((iq2_row[word & 511] >> 4 & 3 * each) | (iq2_minus[word >> 9] & 4 * each) | 8 * each);
}

__attribute__((noinline)) void kern_iq2_numbers(const uint8_t *p, uint8_t q[256])
{
    for (int w = 0; w < 32; w += 2)
        _mm_storeu_si128((__m128i *)(q + 8 * w), _mm_set_epi64x(iq2_eight_numbers(p + 4 + 2 * w), iq2_eight_numbers(p + 2 + 2 * w)));
}

#define ROW_PATH 0
#include "kernels/gguf_blocks_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/gguf_blocks_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/gguf_blocks_body.h"

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
        return fabsf(kern_half_at(p));
    case KERN_Q4_K:
    case KERN_Q5_K:
        kern_k_scale_and_min(p + 4, g, &scale, &min);
        return fabsf(kern_half_at(p) * (float)scale);
    case KERN_IQ4_XS:
        return fabsf(kern_half_at(p) * (float)kern_iq4_xs_scale(p, g));
    default:
        return 0;
    }
}

void kern_gguf_to_f32(kern_path path, kern_dtype t, const void *src, size_t n, float *dst)
{
    ROW_ON(path, to_f32, t, src, n, dst);
}
