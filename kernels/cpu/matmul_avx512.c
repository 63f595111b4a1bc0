/* matmul_avx512.c - matmul with AVX-512 and VNNI (definition: matmul.c).
 *
 * A tile is R rows of activations x P panels (16 outputs each), R * P <= 8, so that accumulators and unpacked weights
 * stay in the 32 registers.  One row walks 8 panels at once, many rows take one panel at a time: its nibbles are unpacked
 * once for 8 rows (matmul_body.h).
 * vpdpbusd multiplies unsigned weights (nibbles; bytes XOR 0x80; Q8_M's bytes as they are) by signed activations and does not saturate; the two
 * terms q1 and q2 have their own sums, S = 16 S1 + S2.  The offset of the weights (8, 128) is taken out by starting a
 * sum at -8 sumX: S2 for nibbles, S1 (which counts 16-fold) for bytes.  |S1| <= 8 * 65,280 + 32 * 255 * 127 < 2^21: 16 S1 fits.  Q8_H has such
 * sums of each half of a block, and Q4_HL, whose nibbles become the levels that they name, 128 too large, too. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/unroll.h"
#include "kernels/panel.h"

#include <immintrin.h>
#include <string.h>

#define MM_ROWS 8
#define MM_ACC 1
typedef __m512 mm_acc;

KERN_INLINE __m512i quad(const uint8_t *p)              /* 4 bytes to all 16 outputs: folds into the instruction */
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

KERN_INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

KERN_INLINE mm_acc mm_zero(void) { return _mm512_setzero_ps(); }

/* The sums of both terms, 16 s1 + s2. */
KERN_INLINE void add_scaled(int R, const __m512i *s1, const __m512i *s2, __m512 d, const kern_q12 *const *meta, __m512 *acc)
{
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(s1[r], 4), s2[r]);
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, _mm512_set1_ps(meta[r]->scale)), acc[r]);
    }
}

/* Quad j of a block of Q8_H or Q4_HL as unsigned bytes, 128 too large. */
KERN_INLINE __m512i bytes_at(kern_dtype t, const uint8_t *quants, int j)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80), level = _mm512_xor_si512(flip, _mm512_broadcast_i32x4(_mm_setr_epi8(KERN_Q4_HL_LEVELS)));
    __m512i v = _mm512_loadu_si512(quants + 64 * (t == KERN_Q4_HL ? j % 4 : j));

    if (t == KERN_Q4_HL) return _mm512_shuffle_epi8(level, _mm512_and_si512(j < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)));
    return _mm512_xor_si512(v, flip);
}

/* Half of such a block: columns 16 h to 16 h + 15. */
KERN_INLINE void half_h(kern_dtype t, int R, int h, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                        const kern_q12 *const *meta, __m512 *acc)
{
    __m512i s1[8], s2[8];

    __asm__ volatile("" ::: "memory");     /* as in block_q */
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        s1[r] = _mm512_set1_epi32(meta[r]->neg8_first);
        if (h) s1[r] = _mm512_sub_epi32(_mm512_set1_epi32(meta[r]->neg8), s1[r]);
        s2[r] = _mm512_setzero_si512();
    }
    KERN_UNROLL
    for (int j = 4 * h; j < 4 * h + 4; j++) {
        __m512i w = bytes_at(t, quants, j);
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            s1[r] = _mm512_dpbusd_epi32(s1[r], w, quad(x[r] + 4 * j));
            s2[r] = _mm512_dpbusd_epi32(s2[r], w, quad(x[r] + 32 + 4 * j));
        }
    }
    add_scaled(R, s1, s2, halves(scales + 32 * h), meta, acc);
}

/* One block of one panel times R rows.  x[r]: the rows' quads of this block, meta[r]: their scales. */
KERN_INLINE void block_q(kern_dtype t, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                    const kern_q12 *const *meta, __m512 *acc)
{
    const bool signed_bytes = t == KERN_Q8_0 || t == KERN_W8, bytes = signed_bytes || t == KERN_Q8_M, less_8 = t == KERN_Q4_0 || t == KERN_W4;
    __m512i s1[8], s2[8];

    if (kern_block_halves(t)) {
        half_h(t, R, 0, quants, scales, x, meta, acc);
        half_h(t, R, 1, quants, scales, x, meta, acc);
        return;
    }
    /* Else the compiler keeps the quads of one panel for the next, in registers that it does not have. */
    __asm__ volatile("" ::: "memory");
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        s1[r] = signed_bytes ? _mm512_set1_epi32(meta[r]->neg8) : _mm512_setzero_si512();
        s2[r] = less_8 ? _mm512_set1_epi32(meta[r]->neg8) : _mm512_setzero_si512();
    }
    if (bytes) {
        KERN_UNROLL
        for (int j = 0; j < 8; j++) {
            __m512i w = _mm512_loadu_si512(quants + 64 * j);
            if (signed_bytes) w = _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80));
            KERN_UNROLL
            for (int r = 0; r < R; r++) {
                s1[r] = _mm512_dpbusd_epi32(s1[r], w, quad(x[r] + 4 * j));
                s2[r] = _mm512_dpbusd_epi32(s2[r], w, quad(x[r] + 32 + 4 * j));
            }
        }
    } else {
        const __m512i mask = _mm512_set1_epi8(15);
        KERN_UNROLL
        for (int j = 0; j < 4; j++) {
            __m512i v = _mm512_loadu_si512(quants + 64 * j);
            __m512i lo = _mm512_and_si512(v, mask), hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
            KERN_UNROLL
            for (int r = 0; r < R; r++) {
                s1[r] = _mm512_dpbusd_epi32(s1[r], lo, quad(x[r] + 4 * j));
                s2[r] = _mm512_dpbusd_epi32(s2[r], lo, quad(x[r] + 32 + 4 * j));
                s1[r] = _mm512_dpbusd_epi32(s1[r], hi, quad(x[r] + 16 + 4 * j));
                s2[r] = _mm512_dpbusd_epi32(s2[r], hi, quad(x[r] + 48 + 4 * j));
            }
        }
    }
    add_scaled(R, s1, s2, halves(scales), meta, acc);
    if (kern_block_minimum(t)) {
        __m512 m = halves(scales + 32);
        KERN_UNROLL
        for (int r = 0; r < R; r++)
            acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(meta[r]->sum_f), _mm512_mul_ps(m, _mm512_set1_ps(meta[r]->scale)), acc[r]);
    }
}

/* 16 columns of a unit of Q2_HM, those of bits 2 i and 2 i + 1; x[r], meta[r]: of the block that they are a half of. */
KERN_INLINE void half_two(int R, int i, const uint8_t *unit, const uint8_t *const *x, const kern_q12 *const *meta, __m512 *acc)
{
    const __m512i three = _mm512_set1_epi8(3), pair = _mm512_loadu_si512(unit + 256 + 64 * i);
    const __m512 d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pair)), m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pair, 16)));
    const int h = i % 2 * 16;
    __m512i s1[8], s2[8];

    __asm__ volatile("" ::: "memory");     /* as in block_q */
    KERN_UNROLL
    for (int r = 0; r < R; r++) s1[r] = s2[r] = _mm512_setzero_si512();
    KERN_UNROLL
    for (int j = 0; j < 4; j++) {
        __m512i w = _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(unit + 64 * j), (unsigned)(2 * i)), three);
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            s1[r] = _mm512_dpbusd_epi32(s1[r], w, quad(x[r] + h + 4 * j));
            s2[r] = _mm512_dpbusd_epi32(s2[r], w, quad(x[r] + 32 + h + 4 * j));
        }
    }
    add_scaled(R, s1, s2, d, meta, acc);
    KERN_UNROLL
    for (int r = 0; r < R; r++)
        acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(kern_q12_half_sum(meta[r], h)), _mm512_mul_ps(m, _mm512_set1_ps(meta[r]->scale)), acc[r]);
}

KERN_INLINE void block_bf16(int R, const uint8_t *at, const float *const *x, __m512 *acc)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512 even[8], odd[8];

    __asm__ volatile("" ::: "memory");     /* as in block_q */
    KERN_UNROLL
    for (int r = 0; r < R; r++) even[r] = odd[r] = _mm512_setzero_ps();
    KERN_UNROLL
    for (int j = 0; j < 16; j++) {
        __m512i v = _mm512_loadu_si512(at + 64 * j);
        __m512 v0 = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        __m512 v1 = _mm512_castsi512_ps(_mm512_and_si512(v, upper));
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            even[r] = _mm512_fmadd_ps(v0, _mm512_set1_ps(x[r][2 * j]), even[r]);
            odd[r] = _mm512_fmadd_ps(v1, _mm512_set1_ps(x[r][2 * j + 1]), odd[r]);
        }
    }
    KERN_UNROLL
    for (int r = 0; r < R; r++) acc[r] = _mm512_add_ps(acc[r], _mm512_add_ps(even[r], odd[r]));
}

KERN_INLINE void step_f16(int R, const uint8_t *at, const float *const *x, __m512 *acc)
{
    __m512i v = _mm512_loadu_si512(at);
    __m512 v0 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
    __m512 v1 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));

    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        acc[r] = _mm512_fmadd_ps(v0, _mm512_set1_ps(x[r][0]), acc[r]);
        acc[r] = _mm512_fmadd_ps(v1, _mm512_set1_ps(x[r][1]), acc[r]);
    }
}

/* Each vector twice: its low bytes are columns 2j, 2j + 1 of 16, its high bytes those 8 further on; so columns ascend. */
KERN_INLINE void block_fp8(int R, const uint8_t *at, const float *const *x, __m512 *acc)
{
    const __m512i in_place = _mm512_set1_epi16((short)0xbf80);

    __asm__ volatile("" ::: "memory");     /* as in block_q */
    KERN_UNROLL
    for (int i = 0; i < 16; i++) {
        const int c = 16 * (i / 8) + 8 * (i / 4 % 2) + 2 * (i % 4);
        __m512i v = _mm512_loadu_si512(at + 256 * (i / 8) + 64 * (i % 4));
        if (i / 4 % 2 == 0) v = _mm512_slli_epi16(v, 8);
        v = _mm512_and_si512(_mm512_srai_epi16(v, 1), in_place);
        __m512 v0 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
        __m512 v1 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            acc[r] = _mm512_fmadd_ps(v0, _mm512_set1_ps(x[r][c]), acc[r]);
            acc[r] = _mm512_fmadd_ps(v1, _mm512_set1_ps(x[r][c + 1]), acc[r]);
        }
    }
}

KERN_INLINE void scale_fp8(int R, const uint8_t *scales, __m512 *acc)
{
    __m512 d = _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(256.0f));

    KERN_UNROLL
    for (int r = 0; r < R; r++) acc[r] = _mm512_mul_ps(acc[r], d);
}

KERN_INLINE void step_f32(int R, const uint8_t *at, const float *const *x, __m512 *acc)
{
    __m512 v = _mm512_loadu_ps(at);

    KERN_UNROLL
    for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(v, _mm512_set1_ps(x[r][0]), acc[r]);
}

KERN_INLINE void store(const kern_mm *m, uint32_t row, uint32_t panel, const __m512 *v)
{
    uint32_t at = panel * KERN_PANEL_ROWS, left = m->w_rows - at;
    float *out = m->out + row * m->out_stride + at;

    if (left >= KERN_PANEL_ROWS) _mm512_storeu_ps(out, *v);
    else _mm512_mask_storeu_ps(out, (__mmask16)((1u << left) - 1), *v);
}

#define OP kern_cpu_matmul_avx512
#include "kernels/cpu/matmul_body.h"
