/* panel.cuh - panels of weights (dtype.h) as a warp reads them: where bytes lie, and mma fragments from them.
 * Layer: kernels/cuda, for .cu files.
 *
 * A warp takes two panels at a time, 32 output rows.  With p = lane / 16, r4 = lane / 4 % 4, t = lane % 4, a lane's 16 bytes
 * at 64 (4 v + t) + 16 r4 of a block in panel p are four rows, 4 r4 .. 4 r4 + 3, of 4 bytes each: a pair of columns (16-bit types)
 * or a quad (bytes, nibbles; of two bits a quad of two blocks).  Rows 0 and 1 of the four are rows g and g + 8 of one mma's A, rows 2 and
 * 3 of another's: two mma take 16 bytes of every lane as they are, without a shuffle.
 *
 * So lane t of four holds, of a block of 32 columns, the 8 columns
 *   16-bit, FP8      8i + 2t, 8i + 2t + 1   for i = 0..3
 *   all others       4t, 4t + 2, 4t + 1, 4t + 3, and 16 further on the same   (so paired because nibbles are cheap to get so)
 * and activations are kept in this order (cu_act_column): what a lane needs of a block is 16 bytes in one piece.  Sums over K
 * do not see it, as long as weights and activations agree.  Of these others an mma of 16 columns takes a half of the block, not a
 * part of both: a scale of 16 columns (Q8_H, Q2_HM, Q4_HL) can be applied after it. */
#ifndef KERN_CUDA_PANEL_CUH
#define KERN_CUDA_PANEL_CUH

#include "kernels/cuda/ptx.h"
#include "kernels/dtype.h"

/* Column within a block of 32 of value s (0..7) of lane t.  The bytes of FP8 lie so in their words that they are in the order of pairs. */
template <bool PAIRS>
__host__ __device__ constexpr unsigned cu_act_column(unsigned t, unsigned s)
{
    return PAIRS ? 8 * (s / 2) + 2 * t + s % 2 : 16 * (s / 4) + 4 * t + (s % 4 == 1 ? 2 : s % 4 == 2 ? 1 : s % 4);
}

template <kern_dtype D>
struct cu_panel {
    static constexpr bool PAIRS = D == KERN_BF16 || D == KERN_F16;
    static constexpr bool FP8 = D == KERN_FP8;                                        /* scales behind all columns */
    static constexpr bool FLAT = PAIRS || FP8;                                        /* no scales between blocks */
    static constexpr bool UNSIGNED = D == KERN_Q8_M;                                  /* bytes of 0..255 */
    static constexpr bool TWO_BITS = D == KERN_Q2_HM;                                 /* two blocks' in a byte; pairs of scale and minimum */
    static constexpr bool LEVELS = D == KERN_Q4_HL;                                   /* nibbles that name levels */
    static constexpr bool HALVES = D == KERN_Q8_H || TWO_BITS || LEVELS;              /* two scales, of columns 0..15 and 16..31 */
    static constexpr bool BYTES = D == KERN_Q8_0 || D == KERN_W8 || D == KERN_Q8_M || D == KERN_Q8_H;
    static constexpr bool MINIMA = D == KERN_Q4_1 || D == KERN_Q8_M || TWO_BITS;
    static constexpr bool TWO = (MINIMA || HALVES) && !TWO_BITS;                      /* 16 minima or scales behind 16 scales */
    static constexpr unsigned QUANTS = PAIRS ? 1024 : BYTES || FP8 ? 512 : TWO_BITS ? 128 : 256;      /* bytes of a block of 32 columns */
    static constexpr unsigned VECS = QUANTS < 256 ? 1 : QUANTS / 256;                 /* 16-byte vectors a lane and block */
    static constexpr unsigned SPAN = QUANTS < 256 ? 256 / QUANTS : 1;                 /* blocks in a vector, of which the last may be missing */
    static constexpr unsigned GROUP = D == KERN_W8 || D == KERN_W4 ? 4 : 1;           /* blocks that share a scale */
    static constexpr unsigned GROUP_META = FLAT ? 0 : 32 * (MINIMA ? 2 : 1) * (HALVES ? 2 : 1);       /* scales, minima of a group */
    static constexpr unsigned FOUR_ROWS = TWO_BITS ? 16 : 8;                          /* bytes of four rows' scales */
    static constexpr unsigned UNIT = FLAT ? 1 : MINIMA || HALVES ? SPAN : 2 * GROUP;  /* blocks between two lots of scales */
    static constexpr unsigned UNIT_META = UNIT / GROUP * GROUP_META;
    static constexpr unsigned UNIT_BYTES = UNIT * QUANTS + UNIT_META;

    /* Quants of block b. */
    static __device__ __forceinline__ size_t quants(unsigned b) { return (size_t)(b / UNIT) * UNIT_BYTES + b % UNIT / SPAN * SPAN * QUANTS; }
    /* Scales of the group that block b of n belongs to; a last unit may be short, but for a vector of several blocks, and its scales
     * follow its quants. */
    static __device__ __forceinline__ size_t meta(unsigned n, unsigned b)
    {
        const unsigned unit = b / UNIT, left = SPAN > 1 ? UNIT : n - unit * UNIT;

        return (size_t)unit * UNIT_BYTES + (left < UNIT ? left : UNIT) * QUANTS + b % UNIT / GROUP * GROUP_META;
    }
};

__device__ __forceinline__ unsigned cu_word(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/* Bytes 0 and 2 (selector 0x4240) or 1 and 3 (0x4341) of four as two fp16, less `LESS`: exact, since fp16 holds every whole number up to
 * 2048.  0x6400 is 1024, whose last bit is 1.  Signed bytes: with their top bits flipped and 128 less. */
template <unsigned LESS>
__device__ __forceinline__ unsigned cu_bytes_to_half2(unsigned v, unsigned selector)
{
    const __half2 biased = cu_as_half2(cu_prmt(v, 0x64646464u, selector));

    return cu_bits(cu_fma2(biased, cu_as_half2(0x3c003c00u), cu_as_half2(0xe400e400u + 0x10001u * LESS)));               /* - 1024 - LESS */
}

/* Levels 4 i .. 4 i + 3 of Q4_HL as bytes, CU_LEVEL_BIAS too large, so that no top bit is set. */
enum { CU_LEVEL_BIAS = 64 };
__host__ __device__ constexpr unsigned cu_level_word(unsigned i)
{
    constexpr int level[16] = { KERN_Q4_HL_LEVELS };
    unsigned word = 0;

    for (unsigned k = 0; k < 4; k++) word |= static_cast<unsigned>(level[4 * i + k] + CU_LEVEL_BIAS) << (8 * k);
    return word;
}

/* The levels that the lower four nibbles of v name, a byte each.  Of eight bytes a nibble below 8 chooses one and any other the sign of
 * one, which is 0: a lookup gives the byte where the other gives zeros. */
__device__ __forceinline__ unsigned cu_levels(unsigned v)
{
    constexpr unsigned A = cu_level_word(0), B = cu_level_word(1), C = cu_level_word(2), D = cu_level_word(3);
    static_assert(!((A | B | C | D) & 0x80808080u), "levels of 7 bits");

    return cu_prmt(A, B, v) | cu_prmt(C, D, v ^ 0x8888u);
}

/* The low (or high) nibbles of bytes 0 and 2 as two fp16, less `LESS` (8 or 0): exact. */
template <int LESS, bool HIGH>
__device__ __forceinline__ unsigned cu_nibbles_to_half2(unsigned v)
{
    const __half2 biased = cu_as_half2(cu_lop3<0xea>(v, HIGH ? 0x00f000f0u : 0x000f000fu, 0x64006400u));

    if (HIGH) return cu_bits(cu_fma2(biased, cu_as_half2(0x2c002c00u), cu_as_half2(LESS ? 0xd480d480u : 0xd400d400u)));  /* / 16 - 64 - LESS */
    return cu_bits(cu_fma2(biased, cu_as_half2(0x3c003c00u), cu_as_half2(LESS ? 0xe408e408u : 0xe400e400u)));            /* - 1024 - LESS */
}

/* Bits 0 and 1 (or 2 and 3) of bytes 0 and 2 as two fp16: exact. */
template <bool HIGH>
__device__ __forceinline__ unsigned cu_two_bits_to_half2(unsigned v)
{
    const __half2 biased = cu_as_half2(cu_lop3<0xea>(v, HIGH ? 0x000c000cu : 0x00030003u, 0x64006400u));

    if (HIGH) return cu_bits(cu_fma2(biased, cu_as_half2(0x34003400u), cu_as_half2(0xdc00dc00u)));        /* / 4 - 256 */
    return cu_bits(cu_fma2(biased, cu_as_half2(0x3c003c00u), cu_as_half2(0xe400e400u)));                  /* - 1024 */
}

/* The high bytes of two 16-bit halves, e4m3, as two fp16 of 2^-8 of their values: exact, subnormal or not (kern_fp8_half). */
__device__ __forceinline__ unsigned cu_fp8_to_half2(unsigned v) { return cu_lop3<0xea>(v, 0x80008000u, v >> 1 & 0x3f803f80u); }

/* Block b's vectors of this lane as four rows of 8 values in the order of activations: value[row][word]. */
template <kern_dtype D>
__device__ __forceinline__ void cu_panel_values(const uint4 (&v)[cu_panel<D>::VECS], unsigned b, unsigned (&value)[4][4])
{
    typedef cu_panel<D> P;
    constexpr int LESS = P::MINIMA ? 0 : 8;

    CU_UNROLL
    for (int r = 0; r < 4; r++) {
        if constexpr (P::PAIRS) {
            CU_UNROLL
            for (int i = 0; i < 4; i++) value[r][i] = cu_word(v[i], r);
        } else if constexpr (P::FP8) {
            CU_UNROLL
            for (int i = 0; i < 2; i++) {
                value[r][2 * i] = cu_fp8_to_half2(cu_word(v[i], r) << 8);
                value[r][2 * i + 1] = cu_fp8_to_half2(cu_word(v[i], r));
            }
        } else if constexpr (P::BYTES) {
            CU_UNROLL
            for (int i = 0; i < 2; i++) {
                const unsigned flipped = cu_word(v[i], r) ^ (P::UNSIGNED ? 0u : 0x80808080u);
                value[r][2 * i] = cu_bytes_to_half2<P::UNSIGNED ? 0 : 128>(flipped, 0x4240);
                value[r][2 * i + 1] = cu_bytes_to_half2<P::UNSIGNED ? 0 : 128>(flipped, 0x4341);
            }
        } else if constexpr (P::LEVELS) {      /* bytes 0 and 2 below 1 and 3: their levels are then pairs of columns of both halves */
            const unsigned pairs = cu_prmt(cu_word(v[0], r), 0, 0x3120), even = cu_levels(pairs), odd = cu_levels(pairs >> 16);
            value[r][0] = cu_bytes_to_half2<CU_LEVEL_BIAS>(even, 0x4240);
            value[r][1] = cu_bytes_to_half2<CU_LEVEL_BIAS>(odd, 0x4240);
            value[r][2] = cu_bytes_to_half2<CU_LEVEL_BIAS>(even, 0x4341);
            value[r][3] = cu_bytes_to_half2<CU_LEVEL_BIAS>(odd, 0x4341);
        } else if constexpr (P::TWO_BITS) {
            const unsigned even = cu_word(v[0], r) >> 4 * (b % P::SPAN), odd = even >> 8;
            value[r][0] = cu_two_bits_to_half2<false>(even);
            value[r][1] = cu_two_bits_to_half2<false>(odd);
            value[r][2] = cu_two_bits_to_half2<true>(even);
            value[r][3] = cu_two_bits_to_half2<true>(odd);
        } else {
            const unsigned even = cu_word(v[0], r), odd = even >> 8;
            value[r][0] = cu_nibbles_to_half2<LESS, false>(even);
            value[r][1] = cu_nibbles_to_half2<LESS, false>(odd);
            value[r][2] = cu_nibbles_to_half2<LESS, true>(even);
            value[r][3] = cu_nibbles_to_half2<LESS, true>(odd);
        }
    }
}

/* Four fp16 at p (8-byte aligned) as floats: the scales, or minima, of a lane's four rows. */
__device__ __forceinline__ void cu_four_halves(const void *p, float (&f)[4])
{
    const uint2 v = *static_cast<const uint2 *>(p);
    const float2 a = __half22float2(cu_as_half2(v.x)), b = __half22float2(cu_as_half2(v.y));

    f[0] = a.x, f[1] = a.y, f[2] = b.x, f[3] = b.y;
}

/* Four pairs of fp16: the scales of a lane's four rows and their minima. */
__device__ __forceinline__ void cu_four_pairs(const void *p, float (&d)[4], float (&m)[4])
{
    const uint4 v = cu_load16(p);

    CU_UNROLL
    for (int i = 0; i < 4; i++) {
        const float2 pair = __half22float2(cu_as_half2(cu_word(v, i)));
        d[i] = pair.x, m[i] = pair.y;
    }
}

/* The scales of an FP8 panel's rows 4 r4 .. 4 r4 + 3, for values that are 2^-8 of theirs; end: of the panel. */
__device__ __forceinline__ void cu_fp8_scales(const uint8_t *end, unsigned r4, float (&f)[4])
{
    const uint4 v = cu_load16(end - 64 + 16 * r4);

    CU_UNROLL
    for (int i = 0; i < 4; i++) f[i] = __uint_as_float(cu_word(v, i)) * 256.0f;
}

#endif
