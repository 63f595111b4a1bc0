/* matmul_body.h - tiles, panels and chunks of rows, once for AVX2 and once for AVX-512 (OP names the function).
 * Layer: kernels/cpu; after the primitives of matmul_avx2.c or matmul_avx512.c:
 *   MM_ROWS          rows of activations whose accumulators stay in registers; rows x panels of a tile are at most as many
 *   MM_ACC, mm_acc   registers, and their type, for the 16 outputs of a panel
 *   block_q          one block of 32 quantised columns of a panel times R rows
 *   half_two         16 columns of two bits of a panel times R rows
 *   block_bf16       one block of 32 columns in bf16
 *   block_fp8        one block of 32 columns in FP8, without its scale; scale_fp8 (16 scales, acc): with it
 *   step_f16, step_f32   one vector of 64 bytes: two columns, one column
 *   mm_zero, store   an accumulator of nothing; the outputs of one row and panel
 *
 * A row of panels is a stream, and one row of activations walks MM_ROWS of them at once: one stream per core leaves a third of
 * the memory's bandwidth unused, and so does the lack of a short software prefetch. */

#define AHEAD 2560u            /* bytes of prefetch: 8 blocks of Q4_1 */

/* The lines of a block that lie AHEAD of it; past a panel's end, in the panel that this stream visits next. */
KERN_INLINE void prefetch(const uint8_t *panel, size_t off, size_t bytes, size_t stride, int P)
{
    size_t at = off + AHEAD;

    if (at >= stride) at += (size_t)(P - 1) * stride;
    KERN_UNROLL
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)panel + at + i, _MM_HINT_T0);
}

/* Activations of R rows: their quads, and the scales of their blocks. */
typedef struct rows_q { const uint8_t *x[MM_ROWS]; const kern_q12 *meta[MM_ROWS]; } rows_q;

/* Blocks [i, i + n) of a unit of `have` blocks at `off` of P panels. */
KERN_INLINE void blocks_q(kern_dtype t, int R, int P, const uint8_t *w, size_t stride, size_t off, uint32_t i, uint32_t n,
                     uint32_t have, bool ahead, rows_q *a, mm_acc *acc)
{
    const size_t q = kern_block_quants(t), group = kern_block_group(t);

    KERN_UNROLL
    for (uint32_t b = i; b < i + n; b++) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *panel = w + (size_t)p * stride, *unit = panel + off;
            /* of all the blocks at once, and with the last ones the scales */
            if (ahead && b == i) prefetch(panel, off + i * q, n * q + (i + n == kern_block_unit(t) ? 64 : 0), stride, P);
            block_q(t, R, unit + b * q, unit + have * q + b / group * 32, a->x, a->meta, acc + MM_ACC * p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) a->x[r] += 64, a->meta[r]++;
    }
}

KERN_INLINE void tile_q(kern_dtype t, int R, int P, const kern_mm *m, uint32_t row, const uint8_t *w, mm_acc *acc)
{
    const uint32_t unit = (uint32_t)kern_block_unit(t), pair = unit < 2 ? unit : 2;
    const size_t q = kern_block_quants(t);
    rows_q a;
    size_t off = 0;
    uint32_t left = m->blocks;

    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        a.x[r] = m->act + (row + (uint32_t)r) * m->act_stride;
        a.meta[r] = (const kern_q12 *)(a.x[r] + (size_t)m->blocks * 64);
    }
    for (; left >= unit; left -= unit, off += unit * q + 64)
        for (uint32_t i = 0; i < unit; i += pair) blocks_q(t, R, P, w, m->stride, off, i, pair, unit, true, &a, acc);
    if (unit > 1)
        for (uint32_t i = 0; i < left; i++) blocks_q(t, R, P, w, m->stride, off, i, 1, left, false, &a, acc);
}

/* Q2_HM: units of two blocks, of which the last may be half a one. */
KERN_INLINE void tile_two(int R, int P, const kern_mm *m, uint32_t row, const uint8_t *w, mm_acc *acc)
{
    const uint8_t *x[MM_ROWS];
    const kern_q12 *meta[MM_ROWS];
    size_t off = 0;

    KERN_UNROLL
    for (int r = 0; r < R; r++) {
        x[r] = m->act + (row + (uint32_t)r) * m->act_stride;
        meta[r] = (const kern_q12 *)(x[r] + (size_t)m->blocks * 64);
    }
    for (uint32_t left = m->blocks; left;) {
        KERN_UNROLL
        for (int b = 0; b < 2 && left; b++, left--) {
            KERN_UNROLL
            for (int p = 0; p < P; p++) {
                const uint8_t *unit = w + (size_t)p * m->stride + off;
                if (!b) prefetch(unit - off, off, KERN_Q2_HM_UNIT, m->stride, P);
                KERN_UNROLL
                for (int h = 0; h < 2; h++) half_two(R, 2 * b + h, unit, x, meta, acc + MM_ACC * p * R);
            }
            KERN_UNROLL
            for (int r = 0; r < R; r++) x[r] += 64, meta[r]++;
        }
        off += KERN_Q2_HM_UNIT;
    }
}

KERN_INLINE void tile_flat(kern_dtype t, int R, int P, const kern_mm *m, uint32_t row, const uint8_t *w, mm_acc *acc)
{
    const uint32_t step = t == KERN_BF16 ? 1024 : t == KERN_FP8 ? 512 : 64, columns = t == KERN_BF16 || t == KERN_FP8 ? 32 : t == KERN_F16 ? 2 : 1;
    const uint32_t n = m->blocks * (32 / columns);
    const float *x[MM_ROWS];

    KERN_UNROLL
    for (int r = 0; r < R; r++) x[r] = (const float *)(m->act + (row + (uint32_t)r) * m->act_stride);
    for (uint32_t i = 0; i < n; i++) {
        const size_t off = (size_t)i * step;
        KERN_UNROLL
        for (int p = 0; p < P; p++) {
            const uint8_t *panel = w + (size_t)p * m->stride;
            prefetch(panel, off, step, m->stride, P);
            if (t == KERN_BF16) block_bf16(R, panel + off, x, acc + MM_ACC * p * R);
            else if (t == KERN_FP8) block_fp8(R, panel + off, x, acc + MM_ACC * p * R);
            else if (t == KERN_F16) step_f16(R, panel + off, x, acc + MM_ACC * p * R);
            else step_f32(R, panel + off, x, acc + MM_ACC * p * R);
        }
        KERN_UNROLL
        for (int r = 0; r < R; r++) x[r] += columns;
    }
}

KERN_INLINE void tile(kern_dtype t, int R, int P, const kern_mm *m, uint32_t row, uint32_t panel)
{
    const uint8_t *w = m->panels + panel * m->stride;
    mm_acc acc[MM_ACC * MM_ROWS];

    KERN_UNROLL
    for (int i = 0; i < MM_ACC * R * P; i++) acc[i] = mm_zero();
    if (t == KERN_F32 || t == KERN_F16 || t == KERN_BF16 || t == KERN_FP8) tile_flat(t, R, P, m, row, w, acc);
    else if (t == KERN_Q2_HM) tile_two(R, P, m, row, w, acc);
    else tile_q(t, R, P, m, row, w, acc);
    if (t == KERN_FP8) {
        KERN_UNROLL
        for (int p = 0; p < P; p++) scale_fp8(R, w + (size_t)p * m->stride + (size_t)m->blocks * 512, acc + MM_ACC * p * R);
    }
    KERN_UNROLL
    for (int p = 0; p < P; p++) {
        KERN_UNROLL
        for (int r = 0; r < R; r++) store(m, row + (uint32_t)r, panel + (uint32_t)p, acc + MM_ACC * (p * R + r));
    }
}

/* R rows times panels [lo, hi): as many at a time as registers allow, then the rest. */
KERN_INLINE void panels(kern_dtype t, int R, const kern_mm *m, uint32_t row, uint32_t lo, uint32_t hi)
{
    const int P = MM_ROWS / R;                    /* 8, 4, 2, 2, 1 ... */

    for (; hi - lo >= (uint32_t)P; lo += (uint32_t)P) tile(t, R, P, m, row, lo);
    if (P > 4 && hi - lo >= 4) { tile(t, R, 4, m, row, lo); lo += 4; }
    if (P > 2 && hi - lo >= 2) { tile(t, R, 2, m, row, lo); lo += 2; }
    if (P > 1 && hi - lo >= 1) tile(t, R, 1, m, row, lo);
}

KERN_INLINE void run(kern_dtype t, const kern_mm *m)
{
    /* With more than one chunk of rows, a few panels at a time stay in the caches for all of them. */
    uint32_t group = m->rows <= MM_ROWS ? m->hi - m->lo : MM_ROWS;

    for (uint32_t lo = m->lo; lo < m->hi; lo += group) {
        uint32_t hi = m->hi - lo < group ? m->hi : lo + group, n;
        for (uint32_t row = 0; row < m->rows; row += n) {
            n = kern_mm_chunk(m->rows - row, MM_ROWS);
            switch (n) {
            case 1: panels(t, 1, m, row, lo, hi); break;
            case 2: panels(t, 2, m, row, lo, hi); break;
            case 3: panels(t, 3, m, row, lo, hi); break;
#if MM_ROWS > 4
            case 4: panels(t, 4, m, row, lo, hi); break;
            case 5: panels(t, 5, m, row, lo, hi); break;
            case 6: panels(t, 6, m, row, lo, hi); break;
            case 7: panels(t, 7, m, row, lo, hi); break;
#endif
            default: panels(t, MM_ROWS, m, row, lo, hi);
            }
        }
    }
}

static void q4_0(const kern_mm *m) { run(KERN_Q4_0, m); }
static void q4_1(const kern_mm *m) { run(KERN_Q4_1, m); }
static void q8_0(const kern_mm *m) { run(KERN_Q8_0, m); }
static void q8_m(const kern_mm *m) { run(KERN_Q8_M, m); }
static void q8_h(const kern_mm *m) { run(KERN_Q8_H, m); }
static void q2_hm(const kern_mm *m) { run(KERN_Q2_HM, m); }
static void q4_hl(const kern_mm *m) { run(KERN_Q4_HL, m); }
static void w8(const kern_mm *m) { run(KERN_W8, m); }
static void w4(const kern_mm *m) { run(KERN_W4, m); }
static void bf16(const kern_mm *m) { run(KERN_BF16, m); }
static void f16(const kern_mm *m) { run(KERN_F16, m); }
static void fp8(const kern_mm *m) { run(KERN_FP8, m); }
static void f32(const kern_mm *m) { run(KERN_F32, m); }

px_code OP(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    static const kern_mm_table table = { {
        [KERN_Q4_0] = q4_0, [KERN_Q4_1] = q4_1, [KERN_Q8_0] = q8_0, [KERN_Q8_M] = q8_m, [KERN_Q8_H] = q8_h, [KERN_Q2_HM] = q2_hm,
        [KERN_Q4_HL] = q4_hl, [KERN_W8] = w8, [KERN_W4] = w4, [KERN_BF16] = bf16, [KERN_F16] = f16, [KERN_FP8] = fp8,
        [KERN_F32] = f32,
    } };

    return kern_cpu_matmul_run(d, a, &table, e);
}
