/* matmul_avx2.c - matmul with AVX2 and FMA (definition: matmul.c).
 *
 * Half a panel (8 outputs) fills a register; a tile is R rows x P panels, each panel as two halves one after the other.
 * vpmaddubsw adds two products u8 x s8 in 16 bits and saturates, so what goes in is bounded: nibbles give at most
 * 2 * 15 * 127 a step, 30,480 over the 8 quads of a block, and stay in 16 bits for the whole block.  Bytes take the
 * sign trick, |w| * (x with w's sign): at most 2 * 128 * 127 = 32,512, widened after every step; their small second
 * term (2 * 128 * 8 a step, 16,384 over a block) stays in 16 bits. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/unroll.h"

#include <immintrin.h>
#include <string.h>

#define AHEAD 2560u            /* bytes of prefetch */

typedef enum weight_kind { W4_0, W4_1, W8_0 } weight_kind;

KERN_INLINE __m256i quad(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

KERN_INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

KERN_INLINE void prefetch(const uint8_t *panel, size_t off, size_t bytes, size_t stride, int P)
{
    size_t at = off + AHEAD;

    if (at >= stride) at += (size_t)(P - 1) * stride;
    KERN_UNROLL
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)panel + at + i, _MM_HINT_T0);
}

/* One block of half a panel times R rows; acc[2 * r]. */
KERN_INLINE void block_q(weight_kind k, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                    const kern_q12 *const *meta, __m256 *acc)
{
    const __m256i sixteen = _mm256_set1_epi16(16), one = _mm256_set1_epi16(1);
    __m256i s[4], s1[4], s2[4];

    /* Else the compiler keeps the quads of one half for the next, in registers that it does not have. */
    __asm__ volatile("" ::: "memory");
    KERN_UNROLL
    for (int r = 0; r < R; r++) s[r] = s1[r] = s2[r] = _mm256_setzero_si256();
    if (k == W8_0) {
        KERN_UNROLL
        for (int j = 0; j < 8; j++) {
            __m256i w = _mm256_loadu_si256((const __m256i *)(quants + 64 * j)), size = _mm256_abs_epi8(w);
            KERN_UNROLL
            for (int r = 0; r < R; r++) {
                __m256i q1 = _mm256_sign_epi8(quad(x[r] + 4 * j), w), q2 = _mm256_sign_epi8(quad(x[r] + 32 + 4 * j), w);
                s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(_mm256_maddubs_epi16(size, q1), sixteen));
                s2[r] = _mm256_add_epi16(s2[r], _mm256_maddubs_epi16(size, q2));
            }
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(s2[r], one));
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
        KERN_UNROLL
        for (int r = 0; r < R; r++) {
            s[r] = _mm256_add_epi32(_mm256_madd_epi16(s1[r], sixteen), _mm256_madd_epi16(s2[r], one));
            if (k == W4_0) s[r] = _mm256_add_epi32(s[r], _mm256_set1_epi32(meta[r]->neg8));
        }
    }
    __m256 d = halves(scales), m = k == W4_1 ? halves(scales + 32) : d;
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        __m256 scale = _mm256_set1_ps(meta[r]->scale);
        acc[2 * r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[r]), _mm256_mul_ps(d, scale), acc[2 * r]);
        if (k == W4_1)
            acc[2 * r] = _mm256_fmadd_ps(_mm256_set1_ps(meta[r]->sum_f), _mm256_mul_ps(m, scale), acc[2 * r]);
    }
}

KERN_INLINE void block_both(weight_kind k, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                       const kern_q12 *const *meta, __m256 *acc)
{
    block_q(k, R, quants, scales, x, meta, acc);
    block_q(k, R, quants + 32, scales + 16, x, meta, acc + 1);
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

KERN_INLINE void tile_q(weight_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride, *x[4];
    const kern_q12 *meta[4];
    const size_t stride = m->stride, q = k == W8_0 ? 512 : 256, step = k == W4_1 ? 320 : 2 * q + 64;
    __m256 acc[8];

    KERN_UNROLL
    for (int i = 0; i < 2 * R * P; i++) acc[i] = _mm256_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        x[r] = m->act + (row + (uint32_t)r) * m->act_stride;
        meta[r] = (const kern_q12 *)(x[r] + (size_t)m->blocks * 64);
    }
    uint32_t n = k == W4_1 ? m->blocks : m->blocks / 2;
    size_t off = 0;
    for (uint32_t b = 0; b < n; b++, off += step) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            prefetch(w + (size_t)p * stride, off, step, stride, P);
            block_both(k, R, at, at + (k == W4_1 ? q : 2 * q), x, meta, acc + 2 * p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 64, meta[r]++;
        if (k == W4_1) continue;
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            block_both(k, R, at + q, at + 2 * q + 32, x, meta, acc + 2 * p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 64, meta[r]++;
    }
    if (k != W4_1 && m->blocks % 2) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            block_both(k, R, at, at + q, x, meta, acc + 2 * p * R);
        }
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc + 2 * (p * R + r));
    }
}

KERN_INLINE void tile_bf16(int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride;
    const float *x[4];
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    __m256 acc[8];

    KERN_UNROLL
    for (int i = 0; i < 2 * R * P; i++) acc[i] = _mm256_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) x[r] = (const float *)(m->act + (row + (uint32_t)r) * m->act_stride);
    for (uint32_t b = 0; b < m->blocks; b++) {
        KERN_UNROLL
        for (int i = 0; i < 2 * P; i++) {
            const uint8_t *base = w + (size_t)(i / 2) * m->stride, *at = base + (size_t)b * 1024 + 32 * (i % 2);
            __m256 even[4], odd[4];

            __asm__ volatile("" ::: "memory");     /* as in block_q */
            if (i % 2 == 0) prefetch(base, (size_t)b * 1024, 1024, m->stride, P);
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
            for (int r = 0; r < R; r++) {
                __m256 *to = acc + 2 * (i / 2 * R + r) + i % 2;
                *to = _mm256_add_ps(*to, _mm256_add_ps(even[r], odd[r]));
            }
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 32;
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc + 2 * (p * R + r));
    }
}

KERN_INLINE void tile_f32(int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride;
    const float *x[4];
    __m256 acc[8];

    KERN_UNROLL
    for (int i = 0; i < 2 * R * P; i++) acc[i] = _mm256_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) x[r] = (const float *)(m->act + (row + (uint32_t)r) * m->act_stride);
    for (uint32_t c = 0; c < m->blocks * 32; c++) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const float *at = (const float *)(w + (size_t)p * m->stride + (size_t)c * 64);
            __m256 v0 = _mm256_loadu_ps(at), v1 = _mm256_loadu_ps(at + 8);

            prefetch(w + (size_t)p * m->stride, (size_t)c * 64, 64, m->stride, P);
            KERN_UNROLL
            for (int r = 0; r < R; r++) {
                __m256 *to = acc + 2 * (p * R + r), xc = _mm256_set1_ps(x[r][c]);
                to[0] = _mm256_fmadd_ps(v0, xc, to[0]);
                to[1] = _mm256_fmadd_ps(v1, xc, to[1]);
            }
        }
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc + 2 * (p * R + r));
    }
}

typedef enum tile_kind { T4_0 = W4_0, T4_1 = W4_1, T8_0 = W8_0, TBF16, TF32 } tile_kind;

KERN_INLINE void tile(tile_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    if (k == TBF16) tile_bf16(R, P, m, row, panel);
    else if (k == TF32) tile_f32(R, P, m, row, panel);
    else tile_q((weight_kind)k, R, P, m, row, panel);
}

KERN_INLINE void panels(tile_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t lo, uint32_t hi)
{
    for (; hi - lo >= (uint32_t)P; lo += (uint32_t)P) tile(k, R, P, m, row, lo);
    if (P > 2 && hi - lo >= 2) { tile(k, R, 2, m, row, lo); lo += 2; }
    if (P > 1 && hi - lo >= 1) tile(k, R, 1, m, row, lo);
}

KERN_INLINE void run(tile_kind k, const kern_mm *m)
{
    uint32_t group = m->rows <= 4 ? m->hi - m->lo : 4;

    for (uint32_t lo = m->lo; lo < m->hi; lo += group) {
        uint32_t hi = m->hi - lo < group ? m->hi : lo + group, n;
        for (uint32_t row = 0; row < m->rows; row += n) {
            n = kern_mm_chunk(m->rows - row, 4);
            switch (n) {
            case 1: panels(k, 1, 4, m, row, lo, hi); break;
            case 2: panels(k, 2, 2, m, row, lo, hi); break;
            case 3: panels(k, 3, 1, m, row, lo, hi); break;
            default: panels(k, 4, 1, m, row, lo, hi);
            }
        }
    }
}

static void q4_0(const kern_mm *m) { run(T4_0, m); }
static void q4_1(const kern_mm *m) { run(T4_1, m); }
static void q8_0(const kern_mm *m) { run(T8_0, m); }
static void bf16(const kern_mm *m) { run(TBF16, m); }
static void f32(const kern_mm *m) { run(TF32, m); }

px_code kern_cpu_matmul_avx2(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    static const kern_mm_table table = { {
        [KERN_Q4_0] = q4_0, [KERN_Q4_1] = q4_1, [KERN_Q8_0] = q8_0, [KERN_BF16] = bf16, [KERN_F32] = f32,
    } };

    return kern_cpu_matmul_run(d, a, &table, e);
}
