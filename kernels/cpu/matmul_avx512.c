/* matmul_avx512.c - matmul with AVX-512 and VNNI (definition: matmul.c).
 *
 * A tile is R rows of activations x P panels (16 outputs each), R * P <= 8, so that accumulators and unpacked weights
 * stay in the 32 registers.  One row walks 8 panels at once: one stream per core leaves a third of the memory's
 * bandwidth unused, and so does the lack of a short software prefetch.  Many rows take one panel at a time: its
 * nibbles are unpacked once for 8 rows.
 * vpdpbusd multiplies unsigned weights (nibbles; bytes XOR 0x80) by signed activations and does not saturate; the two
 * terms q1 and q2 have their own sums, S = 16 S1 + S2.  The offset of the weights (8, 128) is taken out by starting a
 * sum at -8 sumX: S2 for nibbles, S1 (which counts 16-fold) for bytes. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/unroll.h"

#include <immintrin.h>
#include <string.h>

#define AHEAD 2560u            /* bytes of prefetch: 8 blocks of Q4_1 */

typedef enum weight_kind { W4_0, W4_1, W8_0 } weight_kind;

/* Bytes of a block's quants, and of what follows from a block to the next of the same parity. */
KERN_INLINE uint32_t quants_of(weight_kind k) { return k == W8_0 ? 512 : 256; }

KERN_INLINE __m512i quad(const uint8_t *p)              /* 4 bytes to all 16 outputs: folds into the instruction */
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

KERN_INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

/* The lines of a block that lie AHEAD of it; past a panel's end, in the panel that this stream visits next. */
KERN_INLINE void prefetch(const uint8_t *panel, size_t off, size_t bytes, size_t stride, int P)
{
    size_t at = off + AHEAD;

    if (at >= stride) at += (size_t)(P - 1) * stride;
    KERN_UNROLL
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)panel + at + i, _MM_HINT_T0);
}

/* One block of one panel times R rows.  x[r]: the rows' quads of this block, meta[r]: their scales. */
KERN_INLINE void block_q(weight_kind k, int R, const uint8_t *quants, const uint8_t *scales, const uint8_t *const *x,
                    const kern_q12 *const *meta, __m512 *acc)
{
    __m512i s1[8], s2[8];

    /* Else the compiler keeps the quads of one panel for the next, in registers that it does not have. */
    __asm__ volatile("" ::: "memory");
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        s1[r] = k == W8_0 ? _mm512_set1_epi32(meta[r]->neg8) : _mm512_setzero_si512();
        s2[r] = k == W4_0 ? _mm512_set1_epi32(meta[r]->neg8) : _mm512_setzero_si512();
    }
    if (k == W8_0) {
        KERN_UNROLL
        for (int j = 0; j < 8; j++) {
            __m512i w = _mm512_xor_si512(_mm512_loadu_si512(quants + 64 * j), _mm512_set1_epi8((char)0x80));
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
    __m512 d = halves(scales), m = k == W4_1 ? halves(scales + 32) : d;
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        __m512 s = _mm512_set1_ps(meta[r]->scale);
        __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(s1[r], 4), s2[r]);
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, s), acc[r]);
        if (k == W4_1) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(meta[r]->sum_f), _mm512_mul_ps(m, s), acc[r]);
    }
}

KERN_INLINE void store(const kern_mm *m, uint32_t row, uint32_t panel, __m512 v)
{
    uint32_t at = panel * KERN_PANEL_ROWS, left = m->w_rows - at;
    float *out = m->out + row * m->out_stride + at;

    if (left >= KERN_PANEL_ROWS) _mm512_storeu_ps(out, v);
    else _mm512_mask_storeu_ps(out, (__mmask16)((1u << left) - 1), v);
}

KERN_INLINE void tile_q(weight_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride, *x[8];
    const kern_q12 *meta[8];
    const size_t stride = m->stride, q = quants_of(k), step = k == W4_1 ? 320 : 2 * q + 64;
    __m512 acc[8];

    KERN_UNROLL
    for (int i = 0; i < R * P; i++) acc[i] = _mm512_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        x[r] = m->act + (row + (uint32_t)r) * m->act_stride;
        meta[r] = (const kern_q12 *)(x[r] + (size_t)m->blocks * 64);
    }
    /* Q4_0 and Q8_0: blocks in pairs, their scales behind both. */
    uint32_t n = k == W4_1 ? m->blocks : m->blocks / 2;
    size_t off = 0;
    for (uint32_t b = 0; b < n; b++, off += step) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            prefetch(w + (size_t)p * stride, off, step, stride, P);
            block_q(k, R, at, at + (k == W4_1 ? q : 2 * q), x, meta, acc + p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 64, meta[r]++;
        if (k == W4_1) continue;
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            block_q(k, R, at + q, at + 2 * q + 32, x, meta, acc + p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 64, meta[r]++;
    }
    if (k != W4_1 && m->blocks % 2) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * stride + off;
            block_q(k, R, at, at + q, x, meta, acc + p * R);
        }
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc[p * R + r]);
    }
}

KERN_INLINE void tile_bf16(int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride;
    const float *x[8];
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512 acc[8];

    KERN_UNROLL
    for (int i = 0; i < R * P; i++) acc[i] = _mm512_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) x[r] = (const float *)(m->act + (row + (uint32_t)r) * m->act_stride);
    for (uint32_t b = 0; b < m->blocks; b++) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *at = w + (size_t)p * m->stride + (size_t)b * 1024;
            __m512 even[8], odd[8];

            __asm__ volatile("" ::: "memory");     /* as in block_q */
            prefetch(w + (size_t)p * m->stride, (size_t)b * 1024, 1024, m->stride, P);
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
            for (int r = 0; r < R; r++) acc[p * R + r] = _mm512_add_ps(acc[p * R + r], _mm512_add_ps(even[r], odd[r]));
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += 32;
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc[p * R + r]);
    }
}

KERN_INLINE void tile_f32(int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride;
    const float *x[8];
    __m512 acc[8];

    KERN_UNROLL
    for (int i = 0; i < R * P; i++) acc[i] = _mm512_setzero_ps();
    KERN_UNROLL
    for (int r = 0; r < R; r++) x[r] = (const float *)(m->act + (row + (uint32_t)r) * m->act_stride);
    for (uint32_t c = 0; c < m->blocks * 32; c++) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            prefetch(w + (size_t)p * m->stride, (size_t)c * 64, 64, m->stride, P);
            __m512 v = _mm512_loadu_ps(w + (size_t)p * m->stride + (size_t)c * 64);
            KERN_UNROLL
            for (int r = 0; r < R; r++) acc[p * R + r] = _mm512_fmadd_ps(v, _mm512_set1_ps(x[r][c]), acc[p * R + r]);
        }
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc[p * R + r]);
    }
}

typedef enum tile_kind { T4_0 = W4_0, T4_1 = W4_1, T8_0 = W8_0, TBF16, TF32 } tile_kind;

KERN_INLINE void tile(tile_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    if (k == TBF16) tile_bf16(R, P, m, row, panel);
    else if (k == TF32) tile_f32(R, P, m, row, panel);
    else tile_q((weight_kind)k, R, P, m, row, panel);
}

/* R rows times panels [lo, hi): P at a time, then the rest. */
KERN_INLINE void panels(tile_kind k, int R, int P, const kern_mm *m, uint32_t row, uint32_t lo, uint32_t hi)
{
    for (; hi - lo >= (uint32_t)P; lo += (uint32_t)P) tile(k, R, P, m, row, lo);
    if (P > 4 && hi - lo >= 4) { tile(k, R, 4, m, row, lo); lo += 4; }
    if (P > 2 && hi - lo >= 2) { tile(k, R, 2, m, row, lo); lo += 2; }
    if (P > 1 && hi - lo >= 1) tile(k, R, 1, m, row, lo);
}

KERN_INLINE void run(tile_kind k, const kern_mm *m)
{
    /* With more than one chunk of rows, a few panels at a time stay in the caches for all of them. */
    uint32_t group = m->rows <= 8 ? m->hi - m->lo : 8;

    for (uint32_t lo = m->lo; lo < m->hi; lo += group) {
        uint32_t hi = m->hi - lo < group ? m->hi : lo + group, n;
        for (uint32_t row = 0; row < m->rows; row += n) {
            n = kern_mm_chunk(m->rows - row, 8);
            switch (n) {
            case 1: panels(k, 1, 8, m, row, lo, hi); break;
            case 2: panels(k, 2, 4, m, row, lo, hi); break;
            case 3: panels(k, 3, 2, m, row, lo, hi); break;
            case 4: panels(k, 4, 2, m, row, lo, hi); break;
            case 5: panels(k, 5, 1, m, row, lo, hi); break;
            case 6: panels(k, 6, 1, m, row, lo, hi); break;
            case 7: panels(k, 7, 1, m, row, lo, hi); break;
            default: panels(k, 8, 1, m, row, lo, hi);
            }
        }
    }
}

static void q4_0(const kern_mm *m) { run(T4_0, m); }
static void q4_1(const kern_mm *m) { run(T4_1, m); }
static void q8_0(const kern_mm *m) { run(T8_0, m); }
static void bf16(const kern_mm *m) { run(TBF16, m); }
static void f32(const kern_mm *m) { run(TF32, m); }

px_code kern_cpu_matmul_avx512(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    static const kern_mm_table table = { {
        [KERN_Q4_0] = q4_0, [KERN_Q4_1] = q4_1, [KERN_Q8_0] = q8_0, [KERN_BF16] = bf16, [KERN_F32] = f32,
    } };

    return kern_cpu_matmul_run(d, a, &table, e);
}
