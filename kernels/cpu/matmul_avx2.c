/* matmul_avx2.c - matmul with AVX2 and FMA (definition: matmul.c).
 *
 * Half a panel (8 outputs) fills a register; a tile is R rows x P panels, each panel as two halves one after the other.
 * vpmaddubsw adds two products u8 x s8 in 16 bits and saturates, so what goes in is bounded: nibbles give at most
 * 2 * 15 * 127 a step, 30,480 over the 8 quads of a block, and stay in 16 bits for the whole block.  Bytes take the
 * sign trick, |w| * (x with w's sign): at most 2 * 128 * 127 = 32,512, widened after every step; their small second
 * term (2 * 128 * 8 a step, 16,384 over a block) stays in 16 bits.
 * Unsigned bytes (Q8_M) would give up to 2 * 255 * 127 a step: they go in as w - 128, which has the bounds of signed bytes, and 128 sumX
 * is added at the end.  |128 sumX| <= 128 * 32 * 2040 = 8,355,840, and the sum of w - 128 is no larger: int32 holds both.
 * Q4_HL's nibbles become the levels that they name and go on as signed bytes.
 * The signed bytes of Q8_H and Q4_HL have a sum for each half of a block; so have the two bits of Q2_HM, whose 8 * 3 * 127 a half stay in 16 bits. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/unroll.h"
#include "kernels/panel.h"

#include <immintrin.h>
#include <string.h>

#define MM_ROWS 4
#define MM_ACC 2
typedef __m256 mm_acc;

KERN_INLINE __m256i quad(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

KERN_INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

KERN_INLINE mm_acc mm_zero(void) { return _mm256_setzero_ps(); }

/* Quad j (0..7) of a block's columns as signed bytes; unsigned ones are too small by 128. */
KERN_INLINE __m256i bytes_at(kern_dtype t, const uint8_t *quants, int j)
{
    const __m256i level = _mm256_broadcastsi128_si256(_mm_setr_epi8(KERN_Q4_HL_LEVELS));
    __m256i v = _mm256_loadu_si256((const __m256i *)(quants + 64 * (t == KERN_Q4_HL ? j % 4 : j)));

    if (t == KERN_Q4_HL) return _mm256_shuffle_epi8(level, _mm256_and_si256(j < 4 ? v : _mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)));
    return t == KERN_Q8_M ? _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80)) : v;
}

/* Sums of columns 4 * from up to 4 * to of such bytes. */
KERN_INLINE void sums_of_bytes(kern_dtype t, int R, int from, int to, const uint8_t *quants, const uint8_t *const *x, __m256i *s)
{
    const __m256i sixteen = _mm256_set1_epi16(16), one = _mm256_set1_epi16(1);
    __m256i s2[4];

    KERN_UNROLL
    for (int r = 0; r < R; r++) s[r] = s2[r] = _mm256_setzero_si256();
    KERN_UNROLL
    for (int j = from; j < to; j++) {
        __m256i w = bytes_at(t, quants, j), size = _mm256_abs_epi8(w);
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            __m256i q1 = _mm256_sign_epi8(quad(x[r] + 4 * j), w), q2 = _mm256_sign_epi8(quad(x[r] + 32 + 4 * j), w);
            s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(_mm256_maddubs_epi16(size, q1), sixteen));
            s2[r] = _mm256_add_epi16(s2[r], _mm256_maddubs_epi16(size, q2));
        }
    }
    KERN_UNROLL
    for (int r = 0; r < R; r++) s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(s2[r], one));
}

KERN_INLINE void add_scaled(int R, const __m256i *s, __m256 d, const kern_q12 *const *meta, __m256 *acc)
{
    KERN_UNROLL
    for (int r = 0; r < R; r++)
        acc[2 * r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[r]), _mm256_mul_ps(d, _mm256_set1_ps(meta[r]->scale)), acc[2 * r]);
}

/* 16-bit sums of both terms as one. */
KERN_INLINE void join(int R, const __m256i *s1, const __m256i *s2, __m256i *s)
{
    const __m256i sixteen = _mm256_set1_epi16(16), one = _mm256_set1_epi16(1);

    KERN_UNROLL
    for (int r = 0; r < R; r++) s[r] = _mm256_add_epi32(_mm256_madd_epi16(s1[r], sixteen), _mm256_madd_epi16(s2[r], one));
}

/* One block of half a panel times R rows; acc[2 * r]. */
KERN_INLINE void half_q(kern_dtype t, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                    const kern_q12 *const *meta, __m256 *acc)
{
    const bool unsigned_bytes = t == KERN_Q8_M, bytes = t == KERN_Q8_0 || t == KERN_W8 || unsigned_bytes, less_8 = t == KERN_Q4_0 || t == KERN_W4;
    __m256i s[4], s1[4], s2[4];

    /* Else the compiler keeps the quads of one half for the next, in registers that it does not have. */
    __asm__ volatile("" ::: "memory");
    KERN_UNROLL
    for (int r = 0; r < R; r++) s1[r] = s2[r] = _mm256_setzero_si256();
    if (kern_block_halves(t)) {
        sums_of_bytes(t, R, 0, 4, quants, x, s);
        add_scaled(R, s, halves(scales), meta, acc);
        sums_of_bytes(t, R, 4, 8, quants, x, s);
        add_scaled(R, s, halves(scales + 32), meta, acc);
        return;
    }
    if (bytes) {
        sums_of_bytes(t, R, 0, 8, quants, x, s);
        KERN_UNROLL
        for (int r = 0; r < R && unsigned_bytes; r++) s[r] = _mm256_add_epi32(s[r], _mm256_set1_epi32(-16 * meta[r]->neg8));
    } else {
        const __m256i mask = _mm256_set1_epi8(15);
        KERN_UNROLL
        for (int j = 0; j < 4; j++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(quants + 64 * j));
            __m256i lo = _mm256_and_si256(v, mask), hi = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
            KERN_UNROLL
            for (int r = 0; r < R; r++) {
                s1[r] = _mm256_add_epi16(s1[r], _mm256_maddubs_epi16(lo, quad(x[r] + 4 * j)));
                s2[r] = _mm256_add_epi16(s2[r], _mm256_maddubs_epi16(lo, quad(x[r] + 32 + 4 * j)));
                s1[r] = _mm256_add_epi16(s1[r], _mm256_maddubs_epi16(hi, quad(x[r] + 16 + 4 * j)));
                s2[r] = _mm256_add_epi16(s2[r], _mm256_maddubs_epi16(hi, quad(x[r] + 48 + 4 * j)));
            }
        }
        join(R, s1, s2, s);
        KERN_UNROLL
        for (int r = 0; r < R && less_8; r++) s[r] = _mm256_add_epi32(s[r], _mm256_set1_epi32(meta[r]->neg8));
    }
    add_scaled(R, s, halves(scales), meta, acc);
    if (kern_block_minimum(t)) {
        __m256 m = halves(scales + 32);
        KERN_UNROLL
        for (int r = 0; r < R; r++)
            acc[2 * r] = _mm256_fmadd_ps(_mm256_set1_ps(meta[r]->sum_f), _mm256_mul_ps(m, _mm256_set1_ps(meta[r]->scale)), acc[2 * r]);
    }
}

KERN_INLINE void block_q(kern_dtype t, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                    const kern_q12 *const *meta, __m256 *acc)
{
    half_q(t, R, quants, scales, x, meta, acc);
    half_q(t, R, quants + 32, scales + 16, x, meta, acc + 1);
}

KERN_INLINE void half_bf16(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    __m256 even[4], odd[4];

    __asm__ volatile("" ::: "memory");     /* as in half_q */
    KERN_UNROLL
    for (int r = 0; r < R; r++) even[r] = odd[r] = _mm256_setzero_ps();
    KERN_UNROLL
    for (int j = 0; j < 16; j++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(at + 64 * j));
        __m256 v0 = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
        __m256 v1 = _mm256_castsi256_ps(_mm256_and_si256(v, upper));
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            even[r] = _mm256_fmadd_ps(v0, _mm256_set1_ps(x[r][2 * j]), even[r]);
            odd[r] = _mm256_fmadd_ps(v1, _mm256_set1_ps(x[r][2 * j + 1]), odd[r]);
        }
    }
    KERN_UNROLL
    for (int r = 0; r < R; r++) acc[2 * r] = _mm256_add_ps(acc[2 * r], _mm256_add_ps(even[r], odd[r]));
}

KERN_INLINE void block_bf16(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    half_bf16(R, at, x, acc);
    half_bf16(R, at + 32, x, acc + 1);
}

/* Of 8 rows' pairs of 16 bits: the even columns of 8 rows in the low half of the register, the odd ones in the high half. */
KERN_INLINE __m256i by_column(__m256i v)
{
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);

    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, apart), 0xd8);
}

/* 16 columns of a unit of Q2_HM for 8 outputs, those of bits 2 i and 2 i + 1; acc[2 * r]. */
KERN_INLINE void half_two_8(int R, int i, const uint8_t *unit, const uint8_t *const *x, const kern_q12 *const *meta, __m256 *acc)
{
    const __m256i three = _mm256_set1_epi8(3);
    const __m256i pair = by_column(_mm256_loadu_si256((const __m256i *)(unit + 256 + 64 * i)));
    const __m256 d = _mm256_cvtph_ps(_mm256_castsi256_si128(pair)), m = _mm256_cvtph_ps(_mm256_extracti128_si256(pair, 1));
    const int h = i % 2 * 16;
    __m256i s[4], s1[4], s2[4];

    __asm__ volatile("" ::: "memory");     /* as in half_q */
    KERN_UNROLL
    for (int r = 0; r < R; r++) s1[r] = s2[r] = _mm256_setzero_si256();
    KERN_UNROLL
    for (int j = 0; j < 4; j++) {
        __m256i w = _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256((const __m256i *)(unit + 64 * j)), 2 * i), three);
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            s1[r] = _mm256_add_epi16(s1[r], _mm256_maddubs_epi16(w, quad(x[r] + h + 4 * j)));
            s2[r] = _mm256_add_epi16(s2[r], _mm256_maddubs_epi16(w, quad(x[r] + 32 + h + 4 * j)));
        }
    }
    join(R, s1, s2, s);
    add_scaled(R, s, d, meta, acc);
    KERN_UNROLL
    for (int r = 0; r < R; r++)
        acc[2 * r] = _mm256_fmadd_ps(_mm256_set1_ps(kern_q12_half_sum(meta[r], h)), _mm256_mul_ps(m, _mm256_set1_ps(meta[r]->scale)), acc[2 * r]);
}

KERN_INLINE void half_two(int R, int i, const uint8_t *unit, const uint8_t *const *x, const kern_q12 *const *meta, __m256 *acc)
{
    half_two_8(R, i, unit, x, meta, acc);
    half_two_8(R, i, unit + 32, x, meta, acc + 1);
}

KERN_INLINE void step_f16(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    __m256i v[2] = { by_column(_mm256_loadu_si256((const __m256i *)at)), by_column(_mm256_loadu_si256((const __m256i *)(at + 32))) };

    KERN_UNROLL
    for (int h = 0; h < 2; h++) {
        __m256 v0 = _mm256_cvtph_ps(_mm256_castsi256_si128(v[h])), v1 = _mm256_cvtph_ps(_mm256_extracti128_si256(v[h], 1));
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            acc[2 * r + h] = _mm256_fmadd_ps(v0, _mm256_set1_ps(x[r][0]), acc[2 * r + h]);
            acc[2 * r + h] = _mm256_fmadd_ps(v1, _mm256_set1_ps(x[r][1]), acc[2 * r + h]);
        }
    }
}

/* Each vector twice: its low bytes are columns 2j, 2j + 1 of 16, its high bytes those 8 further on; so columns ascend. */
KERN_INLINE void half_fp8(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    const __m256i in_place = _mm256_set1_epi16((short)0xbf80);

    __asm__ volatile("" ::: "memory");     /* as in half_q */
    KERN_UNROLL
    for (int i = 0; i < 16; i++) {
        const int c = 16 * (i / 8) + 8 * (i / 4 % 2) + 2 * (i % 4);
        __m256i v = _mm256_loadu_si256((const __m256i *)(at + 256 * (i / 8) + 64 * (i % 4)));
        if (i / 4 % 2 == 0) v = _mm256_slli_epi16(v, 8);
        v = by_column(_mm256_and_si256(_mm256_srai_epi16(v, 1), in_place));
        __m256 v0 = _mm256_cvtph_ps(_mm256_castsi256_si128(v)), v1 = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            acc[2 * r] = _mm256_fmadd_ps(v0, _mm256_set1_ps(x[r][c]), acc[2 * r]);
            acc[2 * r] = _mm256_fmadd_ps(v1, _mm256_set1_ps(x[r][c + 1]), acc[2 * r]);
        }
    }
}

KERN_INLINE void block_fp8(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    half_fp8(R, at, x, acc);
    half_fp8(R, at + 32, x, acc + 1);
}

KERN_INLINE void scale_fp8(int R, const uint8_t *scales, __m256 *acc)
{
    KERN_UNROLL
    for (int h = 0; h < 2; h++) {
        __m256 d = _mm256_mul_ps(_mm256_loadu_ps((const float *)scales + 8 * h), _mm256_set1_ps(256.0f));
        KERN_UNROLL
        for (int r = 0; r < R; r++) acc[2 * r + h] = _mm256_mul_ps(acc[2 * r + h], d);
    }
}

KERN_INLINE void step_f32(int R, const uint8_t *at, const float *const *x, __m256 *acc)
{
    __m256 v0 = _mm256_loadu_ps((const float *)at), v1 = _mm256_loadu_ps((const float *)at + 8);

    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        __m256 xc = _mm256_set1_ps(x[r][0]);
        acc[2 * r] = _mm256_fmadd_ps(v0, xc, acc[2 * r]);
        acc[2 * r + 1] = _mm256_fmadd_ps(v1, xc, acc[2 * r + 1]);
    }
}

KERN_INLINE void store(const kern_mm *m, uint32_t row, uint32_t panel, const __m256 *v)
{
    uint32_t at = panel * KERN_PANEL_ROWS, left = m->w_rows - at;
    float *out = m->out + row * m->out_stride + at, tail[KERN_PANEL_ROWS];

    if (left >= KERN_PANEL_ROWS) {
        _mm256_storeu_ps(out, v[0]);
        _mm256_storeu_ps(out + 8, v[1]);
    } else {
        _mm256_storeu_ps(tail, v[0]);
        _mm256_storeu_ps(tail + 8, v[1]);
        memcpy(out, tail, left * sizeof *out);
    }
}

#define OP kern_cpu_matmul_avx2
#include "kernels/cpu/matmul_body.h"
