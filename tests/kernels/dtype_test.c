/* dtype_test.c - formats against the golden tables, blocks against golden bits, panels there and back. */
#include "tests/testlib.h"

#include "kernels/kernels.h"
#include "kernels/panel.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *load_json(const char *name)
{
    json_error_t why;
    json_t *j = json_load_file(test_golden(name), 0, &why);
    if (!j) fail_msg("%s: %s", name, why.text);
    return j;
}

static void formats_are_the_golden_ones(void **state)
{
    json_t *golden = load_json("memory/golden.json"), *formats = json_object_get(golden, "formats"), *f;
    json_t *index = load_json("tiny/quants/index.json");
    const char *name;
    int n = 0;

    (void)state;
    json_object_foreach(formats, name, f) {
        kern_dtype t;
        uint64_t bytes;
        long long block = json_integer_value(json_object_get(f, "block"));
        long long each = json_integer_value(json_object_get(f, "bytes"));

        assert_int_equal(kern_dtype_parse(name, &t, NULL), PX_OK);
        assert_string_equal(kern_dtype_get(t)->name, name);
        assert_int_equal(kern_dtype_get(t)->block, block);
        assert_int_equal(kern_dtype_get(t)->block_bytes, each);
        assert_true(kern_matrix_bytes(t, 7, 3 * (uint64_t)block, &bytes));
        assert_int_equal(bytes, 21 * each);
        json_t *i = json_object_get(index, name);
        if (i) assert_int_equal(kern_dtype_get(t)->ggml, json_integer_value(json_object_get(i, "ggml_type")));
        assert_int_equal(kern_dtype_of_ggml(kern_dtype_get(t)->ggml), t);
        n++;
    }
    assert_int_equal(n, KERN_FP8);                    /* all that stand before the split formats */
    formats = json_object_get(golden, "split_formats");
    n = 0;
    json_object_foreach(formats, name, f) {
        kern_dtype t;
        uint64_t bytes;
        double bpw = json_real_value(json_object_get(f, "bpw"));

        assert_int_equal(kern_dtype_parse(name, &t, NULL), PX_OK);
        assert_true(kern_matrix_bytes(t, 4096, 4096, &bytes));
        if (t == KERN_FP8) bytes -= 4;
        assert_true((double)bytes * 8 == bpw * 4096 * 4096);
        n++;
    }
    assert_int_equal(n, KERN_Q8_M - KERN_FP8);        /* and before what is ours alone */
    json_decref(golden);
    json_decref(index);
}

static void names_and_numbers_that_do_not_exist(void **state)
{
    px_err e = {0};
    kern_dtype t;

    (void)state;
    assert_int_equal(kern_dtype_parse("q4_1", &t, &e), PX_OK);
    assert_int_equal(t, KERN_Q4_1);
    assert_int_equal(kern_dtype_parse("Q4_2", &t, &e), PX_EINVAL);
    assert_int_equal(e.code, PX_EINVAL);
    assert_string_equal(e.field, "dtype");
    assert_int_equal(kern_dtype_of_ggml(4), KERN_N_DTYPES);
    assert_int_equal(kern_dtype_of_ggml(UINT32_MAX), KERN_N_DTYPES);
    assert_null(kern_dtype_get(KERN_N_DTYPES));
    assert_string_equal(kern_arith_id(KERN_Q4_1, KERN_KV_F16), "q12-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_Q8_M, KERN_KV_F16), "q12-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_Q8_H, KERN_KV_F16), "q12-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_Q2_HM, KERN_KV_F16), "q12-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_Q4_HL, KERN_KV_F16), "q12-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_BF16, KERN_KV_F32), "bf16-f32-tree-1");
    assert_string_equal(kern_arith_id(KERN_FP8, KERN_KV_F16), "f16-f16-tree-1");
    assert_string_equal(kern_arith_id(KERN_Q6_K, KERN_KV_F32), "none");
}

static void matrix_sizes_with_tails_and_overflow(void **state)
{
    uint64_t bytes = 1;

    (void)state;
    assert_true(kern_matrix_bytes(KERN_W8, 3, 129, &bytes));
    assert_int_equal(bytes, 3 * 129 + 2 * 3 * 2);
    assert_true(kern_matrix_bytes(KERN_W4, 3, 129, &bytes));
    assert_int_equal(bytes, 3 * 65 + 12);
    assert_true(kern_matrix_bytes(KERN_W4Z, 3, 129, &bytes));
    assert_int_equal(bytes, 3 * 65 + 12 + 3);
    assert_true(kern_matrix_bytes(KERN_Q2_HM, 3, 160, &bytes));
    assert_int_equal(bytes, 3 * (2 * 32 + 24));
    assert_false(kern_matrix_bytes(KERN_Q2_HM, 3, 48, &bytes));
    assert_false(kern_matrix_bytes(KERN_Q2_HM, UINT64_MAX / 16, 64, &bytes));
    assert_true(kern_matrix_bytes(KERN_Q4_1, 0, 64, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(kern_matrix_bytes(KERN_Q4_1, 3, 33, &bytes));
    assert_false(kern_matrix_bytes(KERN_F32, 1ull << 40, 1ull << 40, &bytes));
    assert_false(kern_matrix_bytes(KERN_FP8, UINT64_MAX, 1, &bytes));
    assert_false(kern_matrix_bytes(KERN_W8, 1ull << 62, 4, &bytes));
    assert_false(kern_matrix_bytes(KERN_N_DTYPES, 1, 1, &bytes));
}

static void *load_bytes(const char *type, const char *suffix, size_t *n)
{
    char name[64];
    snprintf(name, sizeof name, "tiny/quants/%s.%s", type, suffix);
    FILE *f = fopen(test_golden(name), "rb");
    assert_non_null(f);
    void *p = malloc(1 << 20);
    assert_non_null(p);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void blocks_are_read_bit_for_bit(void **state)
{
    int n = 0;

    (void)state;
    for (kern_dtype t = KERN_F16; t < KERN_FP8; t++, n++) {          /* all that GGUF has */
        const kern_dtype_info *f = kern_dtype_get(t);
        size_t n_bin, n_f32;
        uint8_t *bin = load_bytes(f->name, "bin", &n_bin);
        float *want = load_bytes(f->name, "f32", &n_f32), *got = malloc(n_f32);

        assert_int_equal(n_f32, 8 * 512 * 4);
        assert_int_equal(n_bin, 8 * 512 / f->block * f->block_bytes);
        assert_true(f->readable);
        kern_row_to_f32(t, bin, n_f32 / 4, got);
        for (size_t i = 0; i < n_f32 / 4; i++)
            if (memcmp(&got[i], &want[i], 4)) fail_msg("%s: value %zu is %a, not %a", f->name, i, (double)got[i], (double)want[i]);
        /* the last block alone, in memory that ends where it ends */
        uint8_t *last = malloc(f->block_bytes);
        memcpy(last, bin + n_bin - f->block_bytes, f->block_bytes);
        memset(got, 0xa5, n_f32);
        kern_row_to_f32(t, last, f->block, got);
        assert_memory_equal(got, want + n_f32 / 4 - f->block, f->block * 4);
        assert_int_equal(((uint8_t *)(got + f->block))[0], 0xa5);
        free(last), free(bin), free(want), free(got);
    }
    assert_int_equal(n, 15);
}

static void halves_round_to_even_and_saturate(void **state)
{
    static const struct { float x; uint16_t h; } pair[] = {
        { 0, 0 }, { -0.0f, 0x8000 }, { 1, 0x3c00 }, { -2, 0xc000 }, { 65504, 0x7bff }, { 65519.996f, 0x7bff },
        { 65520, 0x7bff }, { 1e30f, 0x7bff }, { -INFINITY, 0xfbff }, { 0x1p-24f, 1 }, { 0x1p-25f, 0 },
        { 0x1.000002p-25f, 1 }, { 0x1.8p-24f, 2 }, { 0x1p-14f, 0x400 }, { 0x1.ff8p-15f, 0x3ff }, { 0x1.ffcp-15f, 0x400 },
        { 2049.0f, 0x6800 }, { 2051.0f, 0x6802 }, { 1e-40f, 0 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++)
        if (kern_f32_to_f16(pair[i].x) != pair[i].h)
            fail_msg("%a: %04x, not %04x", (double)pair[i].x, kern_f32_to_f16(pair[i].x), pair[i].h);
    for (uint32_t h = 0; h < 0x10000; h++)          /* there and back for all that is finite */
        if ((h & 0x7c00) != 0x7c00) assert_int_equal(kern_f32_to_f16(kern_f16_to_f32((uint16_t)h)), h);
    assert_true(isnan(kern_f16_to_f32(0x7c01)) && isinf(kern_f16_to_f32(0xfc00)));
    assert_int_equal(kern_f32_to_f16(NAN) & 0x7fff, 0x7e00);
    for (uint32_t h = 0; h < 0x10000; h++)
        if ((h & 0x7f80) != 0x7f80) assert_int_equal(kern_f32_to_bf16(kern_bf16_to_f32((uint16_t)h)), h);
    assert_int_equal(kern_f32_to_bf16(0x1.01p0f), 0x3f80);       /* ties go to even */
    assert_int_equal(kern_f32_to_bf16(0x1.03p0f), 0x3f82);
    assert_true(isnan(kern_bf16_to_f32(kern_f32_to_bf16(NAN))));
    float in[2] = { 1.5f, -3 }, f[2];
    uint16_t b[2];
    kern_row_from_f32(KERN_F32, in, 2, f);
    kern_row_from_f32(KERN_BF16, in, 2, b);
    assert_true(f[1] == -3 && b[0] == 0x3fc0 && b[1] == 0xc040);
}

static void panels_hold_what_was_packed(void **state)
{
    static const kern_dtype types[] = { KERN_F32, KERN_F16, KERN_BF16, KERN_FP8, KERN_Q8_0, KERN_Q8_M, KERN_Q8_H, KERN_Q2_HM, KERN_Q4_HL, KERN_Q4_0,
                                        KERN_Q4_1, KERN_W8, KERN_W4 };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (uint32_t cols = 32; cols <= 416; cols += 32)
            for (uint32_t rows = 1; rows <= 16; rows += 5) {
                kern_dtype t = types[i];
                const kern_dtype_info *f = kern_dtype_get(t);
                uint32_t n = f->block == 1 ? cols - rows % 32 : cols;      /* flat types: any number of columns */
                uint64_t bytes;
                size_t stride = kern_panel_stride(t, n);
                uint8_t *row[16], *panel = malloc(stride + 64);
                const void *src[16];
                float want[416], got[416];

                assert_true(kern_matrix_bytes(t, 1, n, &bytes));
                for (uint32_t r = 0; r < rows; r++) {
                    src[r] = row[r] = malloc(bytes);           /* exactly: the sanitizer sees a read beyond cols */
                    for (size_t k = 0; k < bytes; k++) row[r][k] = (uint8_t)test_rand(&seed);
                    for (size_t k = 0; k < bytes; k += f->block_bytes)      /* finite scales */
                        if (t == KERN_Q2_HM) {
                            for (size_t half = k + 17; half < bytes && half < k + 32; half += 2) row[r][half] &= 0xbb;
                        } else if (f->block > 1) {
                            row[r][k + 1] &= 0xbb;
                            if (t == KERN_Q4_1 || t == KERN_Q8_M || t == KERN_Q8_H || t == KERN_Q4_HL) row[r][k + 3] &= 0xbb;
                        } else if (t == KERN_F16) row[r][k + 1] &= 0xbb;
                    if (t == KERN_FP8) row[r][3] &= 0xbf;
                }
                memset(panel, 0xa5, stride + 64);
                kern_panel_pack(t, src, rows, n, panel);
                for (uint32_t k = 0; k < 64; k++) assert_int_equal(panel[stride + k], 0xa5);
                for (uint32_t r = 0; r < 16; r++) {
                    kern_panel_row_to_f32(t, panel, r, n, got);
                    if (r < rows) kern_row_to_f32(t, row[r], n, want);
                    else memset(want, 0, sizeof want);
                    for (uint32_t k = 0; r >= rows && k < n; k++) assert_true(got[k] == 0);   /* Q4_0: -8 * 0 is -0 */
                    if (r < rows) assert_memory_equal(got, want, n * sizeof *got);
                }
                for (uint32_t r = 0; r < rows; r++) free(row[r]);
                free(panel);
            }
}

/* The text of dtype.h, element by element: a reader that knows nothing of panel.h. */
static void groups_of_128_lie_as_the_text_says(void **state)
{
    enum { MOST = 12 * 32, BYTES = 3 * (2 + 128) };
    uint64_t seed = 12;

    (void)state;
    for (int four = 0; four < 2; four++)
        for (uint32_t cols = 32; cols <= MOST; cols += 32) {
            kern_dtype t = four ? KERN_W4 : KERN_W8;
            uint32_t n = cols / 32, block = four ? 16 : 32, quants = four ? 256 : 512;
            uint8_t row[2][BYTES], *panel = malloc(kern_panel_stride(t, cols));
            const void *src[2] = { row[0], row[1] };
            float got[MOST];

            for (size_t k = 0; k < BYTES; k++) row[0][k] = (uint8_t)(test_rand(&seed) & 0xbb), row[1][k] = (uint8_t)(test_rand(&seed) & 0xbb);
            kern_panel_pack(t, src, 2, cols, panel);
            assert_int_equal(kern_panel_stride(t, cols), n * quants + (n + 7) / 8 * 64);
            for (uint32_t r = 0; r < 2; r++) {
                kern_row_to_f32(t, row[r], cols, got);
                for (uint32_t c = 0; c < cols; c++) {
                    const uint8_t *group = row[r] + c / 128 * (2 + 4 * block), *unit = panel + c / 256 * (8 * quants + 64);
                    uint32_t in = c % 32, left = n - c / 256 * 8, have = left < 8 ? left : 8;
                    const uint8_t *quad = unit + c / 32 % 8 * quants + 4 * r;
                    const uint8_t *scale = unit + have * quants + c / 128 % 2 * 32 + 2 * r;
                    uint8_t q = quad[64 * ((four ? in % 16 : in) / 4) + in % 4];
                    uint8_t plain = group[2 + c / 32 % 4 * block + (four ? in % 16 : in)];
                    float d = kern_f16_to_f32((uint16_t)(group[0] | group[1] << 8));
                    int w = !four ? (int8_t)q : (in < 16 ? q & 15 : q >> 4) - 8;

                    assert_int_equal(plain, q);
                    assert_memory_equal(scale, group, 2);
                    assert_true(got[c] == d * (float)w);
                }
            }
            free(panel);
        }
}

/* The same of Q8_M, and its value: an unsigned byte times the scale plus the minimum, in fp32. */
static void bytes_with_a_minimum_lie_as_the_text_says(void **state)
{
    enum { N = 5, ROW = 36 * N };
    uint8_t row[3][ROW], *panel = malloc(kern_panel_stride(KERN_Q8_M, 32 * N));
    const void *src[3] = { row[0], row[1], row[2] };
    float plain[32 * N], packed[32 * N];
    uint64_t seed = 14;

    (void)state;
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t k = 0; k < ROW; k++) row[r][k] = (uint8_t)(test_rand(&seed) & (k % 36 < 4 ? 0xbb : 0xff));
    kern_panel_pack(KERN_Q8_M, src, 3, 32 * N, panel);
    for (uint32_t r = 0; r < 3; r++) {
        kern_row_to_f32(KERN_Q8_M, row[r], 32 * N, plain);
        kern_panel_row_to_f32(KERN_Q8_M, panel, r, 32 * N, packed);
        for (uint32_t c = 0; c < 32 * N; c++) {
            const uint8_t *block = row[r] + c / 32 * 36, *unit = panel + c / 32 * 576;
            float d = kern_f16_to_f32((uint16_t)(block[0] | block[1] << 8)), m = kern_f16_to_f32((uint16_t)(block[2] | block[3] << 8));

            assert_int_equal(unit[c % 32 / 4 * 64 + 4 * r + c % 4], block[4 + c % 32]);
            assert_memory_equal(unit + 512 + 2 * r, block, 2);
            assert_memory_equal(unit + 544 + 2 * r, block + 2, 2);
            assert_true(plain[c] == d * (float)block[4 + c % 32] + m && packed[c] == plain[c]);
        }
    }
    free(panel);
}

/* And of Q8_H: a signed byte times the scale of its half. */
static void bytes_with_a_scale_a_half_lie_as_the_text_says(void **state)
{
    enum { N = 5, ROW = 36 * N };
    uint8_t row[16][ROW], *panel = malloc(kern_panel_stride(KERN_Q8_H, 32 * N));
    const void *src[16];
    float plain[32 * N], packed[32 * N];
    uint64_t seed = 15;

    (void)state;
    for (uint32_t n = 3; n <= 16; n += 13) {                 /* a panel with missing rows, and a whole one */
        for (uint32_t r = 0; r < n; r++) {
            src[r] = row[r];
            for (uint32_t k = 0; k < ROW; k++) row[r][k] = (uint8_t)(test_rand(&seed) >> 8 & (k % 36 < 4 ? 0xbb : 0xff));
        }
        kern_panel_pack(KERN_Q8_H, src, n, 32 * N, panel);
        for (uint32_t r = 0; r < n; r++) {
            kern_row_to_f32(KERN_Q8_H, row[r], 32 * N, plain);
            kern_panel_row_to_f32(KERN_Q8_H, panel, r, 32 * N, packed);
            for (uint32_t c = 0; c < 32 * N; c++) {
                const uint8_t *block = row[r] + c / 32 * 36, *unit = panel + c / 32 * 576, *d = block + c % 32 / 16 * 2;

                assert_int_equal(unit[c % 32 / 4 * 64 + 4 * r + c % 4], block[4 + c % 32]);
                assert_memory_equal(unit + 512 + 32 * (c % 32 / 16) + 2 * r, d, 2);
                assert_true(plain[c] == kern_f16_to_f32((uint16_t)(d[0] | d[1] << 8)) * (float)(int8_t)block[4 + c % 32] && packed[c] == plain[c]);
            }
        }
    }
    free(panel);
}

/* And of Q4_HL: the level that a nibble names times the scale of its half. */
static void named_levels_lie_as_the_text_says(void **state)
{
    static const int level[16] = { -4, -3, -2, -1, 0, 1, 2, 3, 8, 25, 43, 0, -8, -25, -43, 0 };
    enum { N = 5, ROW = 20 * N };
    uint8_t row[16][ROW], *panel = malloc(kern_panel_stride(KERN_Q4_HL, 32 * N));
    const void *src[16];
    float plain[32 * N], packed[32 * N];
    uint64_t seed = 18;

    (void)state;
    for (uint32_t n = 3; n <= 16; n += 13) {
        for (uint32_t r = 0; r < n; r++) {
            src[r] = row[r];
            for (uint32_t k = 0; k < ROW; k++) row[r][k] = (uint8_t)(test_rand(&seed) >> 8 & (k % 20 < 4 ? 0xbb : 0xff));
        }
        kern_panel_pack(KERN_Q4_HL, src, n, 32 * N, panel);
        for (uint32_t r = 0; r < n; r++) {
            kern_row_to_f32(KERN_Q4_HL, row[r], 32 * N, plain);
            kern_panel_row_to_f32(KERN_Q4_HL, panel, r, 32 * N, packed);
            for (uint32_t c = 0; c < 32 * N; c++) {
                const uint8_t *block = row[r] + c / 32 * 20, *unit = panel + c / 32 * 320, *d = block + c % 32 / 16 * 2;
                const uint8_t byte = block[4 + c % 16];

                assert_int_equal(unit[c % 16 / 4 * 64 + 4 * r + c % 4], byte);
                assert_memory_equal(unit + 256 + 32 * (c % 32 / 16) + 2 * r, d, 2);
                assert_true(plain[c] == kern_f16_to_f32((uint16_t)(d[0] | d[1] << 8)) * (float)level[c % 32 < 16 ? byte & 15 : byte >> 4]);
                assert_true(packed[c] == plain[c]);
            }
        }
    }
    free(panel);
}

/* And of Q2_HM: two bits times the scale of sixteen columns plus their minimum; a last block alone has a place of its own. */
static void two_bits_lie_as_the_text_says(void **state)
{
    enum { N = 5, ROW = 2 * 32 + 24, COLS = 32 * N };
    uint8_t row[16][ROW], *panel = malloc(kern_panel_stride(KERN_Q2_HM, COLS));
    const void *src[16];
    float plain[COLS], packed[COLS];
    uint64_t seed = 17;

    (void)state;
    for (uint32_t n = 3; n <= 16; n += 13) {
        for (uint32_t r = 0; r < n; r++) {
            src[r] = row[r];
            for (uint32_t k = 0; k < ROW; k++) row[r][k] = (uint8_t)(test_rand(&seed) >> 8 & (k % 32 >= 16 ? 0xbb : 0xff));
        }
        kern_panel_pack(KERN_Q2_HM, src, n, COLS, panel);
        for (uint32_t r = 0; r < n; r++) {
            kern_row_to_f32(KERN_Q2_HM, row[r], COLS, plain);
            kern_panel_row_to_f32(KERN_Q2_HM, panel, r, COLS, packed);
            for (uint32_t c = 0; c < COLS; c++) {
                const uint8_t *group = row[r] + c / 64 * 32, *unit = panel + c / 64 * 512, *pair = group + 16 + c % 64 / 16 * 4;
                const uint8_t byte = unit[c % 16 / 4 * 64 + 4 * r + c % 4];
                float d = kern_f16_to_f32((uint16_t)(pair[0] | pair[1] << 8)), m = kern_f16_to_f32((uint16_t)(pair[2] | pair[3] << 8));

                assert_int_equal(byte, group[c % 16]);
                assert_memory_equal(unit + 256 + c % 64 / 16 * 64 + 4 * r, pair, 4);
                assert_true(plain[c] == d * (float)(byte >> c % 64 / 16 * 2 & 3) + m && packed[c] == plain[c]);
            }
        }
    }
    free(panel);
}

/* The types with a panel layout, as a sentence has them; cut where the room ends. */
static const char *weights(void)
{
    static char list[128];
    char small[8];
    size_t n = 0, commas = 0;

    kern_dtype_weights(list, sizeof list);
    assert_int_equal(strncmp(list, "F32, F16, BF16, ", 16), 0);
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++) {
        const char *name = kern_dtype_get(t)->name, *at = strstr(list, name);
        const size_t len = strlen(name);
        while (at && ((at > list && at[-1] != ' ') || (at[len] && at[len] != ',' && at[len] != ' '))) at = strstr(at + 1, name);
        assert_true(!at == !kern_dtype_get(t)->weight);
        n += at != NULL;
    }
    for (const char *c = list; *c; c++) commas += *c == ',';
    assert_int_equal(commas, n - 2);
    assert_non_null(strstr(list, " or "));
    assert_string_equal(kern_dtype_weights(small, sizeof small), "F32, F1");
    return list;
}

/* What OCP says of e4m3: 4 bits of exponent, whose bias is 7, and 3 digits; exponent 0: without the leading one. */
static double e4m3(uint8_t q)
{
    int e = q >> 3 & 15, m = q & 7;

    return (q & 0x80 ? -1.0 : 1.0) * ldexp(e ? 8 + m : m, (e ? e : 1) - 10);
}

/* FP8 has one scale a row in plain order, sixteen behind a panel's columns; every byte has its value. */
static void fp8_lies_as_the_text_says(void **state)
{
    enum { N = 256 + 3 * 32 + 21 };
    uint8_t row[16][4 + N], *panel = malloc(kern_panel_stride(KERN_FP8, N));
    const void *src[16];
    float plain[N], packed[N];
    uint64_t seed = 16;

    (void)state;
    for (uint32_t n = 3; n <= 16; n += 13) {
        memset(panel, 0xa5, kern_panel_stride(KERN_FP8, N));
        for (uint32_t r = 0; r < n; r++) {
            const float d = ldexpf(1, -(int)r);
            src[r] = row[r];
            for (uint32_t k = 0; k < N; k++) row[r][4 + k] = k < 256 ? (uint8_t)(k + r) : (uint8_t)(test_rand(&seed) >> 8);
            memcpy(row[r], &d, 4);
        }
        kern_panel_pack(KERN_FP8, src, n, N, panel);
        for (uint32_t r = 0; r < n; r++) {
            kern_row_to_f32(KERN_FP8, row[r], N, plain);
            kern_panel_row_to_f32(KERN_FP8, panel, r, N, packed);
            for (uint32_t c = 0; c < N; c++) {
                const uint8_t q = row[r][4 + c];
                /* of 16 columns: 0 8 1 9 | 2 10 3 11 | 4 12 5 13 | 6 14 7 15 */
                const uint32_t vector = c % 8 / 2, byte = c % 2 * 2 + c / 8 % 2;

                assert_int_equal(panel[c / 16 * 256 + 64 * vector + 4 * r + byte], q);
                assert_true((double)plain[c] * ldexp(1, (int)r) == e4m3(q));            /* 0x7f and 0xff: 480 */
                assert_true(packed[c] == plain[c]);
            }
            assert_memory_equal(panel + (N + 31) / 32 * 512 + 4 * r, row[r], 4);
        }
        for (uint32_t r = n; r < 16; r++) {                     /* a missing row is zeros, and so is what pads the columns */
            kern_panel_row_to_f32(KERN_FP8, panel, r, N, packed);
            for (uint32_t c = 0; c < N; c++) assert_true(packed[c] == 0);
        }
        for (uint32_t c = N; c < (N + 31) / 32 * 32; c++)
            for (uint32_t r = 0; r < 16; r++) assert_int_equal(panel[c / 16 * 256 + 64 * (c % 8 / 2) + 4 * r + c % 2 * 2 + c / 8 % 2], 0);
    }
    free(panel);
}

static void panels_lie_as_described(void **state)
{
    uint64_t bytes;
    px_err e = {0};

    (void)state;
    assert_int_equal(kern_panel_bytes(KERN_Q4_1, 17, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * 3 * 320);
    assert_int_equal(kern_panel_bytes(KERN_Q8_M, 17, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * 3 * 576);
    assert_int_equal(kern_block_find(KERN_Q8_M, 3, 2).scales, 2 * 576 + 512);
    assert_int_equal(kern_block_find(KERN_Q8_M, 3, 2).second, 2 * 576 + 544);
    assert_int_equal(kern_panel_bytes(KERN_Q8_H, 17, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * 3 * 576);
    assert_int_equal(kern_block_find(KERN_Q8_H, 3, 2).second, 2 * 576 + 544);
    assert_int_equal(kern_panel_bytes(KERN_Q4_HL, 17, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * 3 * 320);
    assert_int_equal(kern_block_find(KERN_Q4_HL, 3, 2).second, 2 * 320 + 288);
    assert_int_equal(kern_panel_bytes(KERN_Q2_HM, 17, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * (512 + 384));
    assert_int_equal(kern_panel_bytes(KERN_Q2_HM, 16, 48, &bytes, &e), PX_ERANGE);
    px_err_clear(&e);
    assert_int_equal(kern_panel_bytes(KERN_Q4_0, 16, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 576 + 320);
    assert_int_equal(kern_panel_bytes(KERN_Q8_0, 16, 96, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 1088 + 576);
    assert_int_equal(kern_panel_bytes(KERN_BF16, 1, 33, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2048);
    assert_int_equal(kern_panel_bytes(KERN_F32, 1, 33, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 64 * 64);
    assert_int_equal(kern_panel_bytes(KERN_FP8, 17, 33, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * (2 * 512 + 64));
    assert_int_equal(kern_block_find(KERN_Q8_0, 3, 1).scales, 1024 + 32);
    assert_int_equal(kern_block_find(KERN_Q8_0, 3, 2).scales, 1088 + 512);

    assert_int_equal(kern_panel_bytes(KERN_F16, 17, 33, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 2 * 2048);
    assert_int_equal(kern_panel_bytes(KERN_W8, 16, 13 * 32, &bytes, &e), PX_OK);
    assert_int_equal(bytes, 8 * 512 + 64 + 5 * 512 + 64);
    assert_int_equal(kern_block_find(KERN_W8, 13, 7).scales, 8 * 512 + 32);
    assert_int_equal(kern_block_find(KERN_W8, 13, 12).scales, 8 * 512 + 64 + 5 * 512 + 32);
    assert_int_equal(kern_block_find(KERN_W4, 3, 2).scales, 3 * 256);

    assert_int_equal(kern_panel_bytes(KERN_W4Z, 16, 128, &bytes, &e), PX_EUNSUP);
    assert_string_equal(e.field, "dtype");
    assert_string_equal(e.found, "W4Z");
    assert_string_equal(e.expected, weights());
    px_err_clear(&e);
    assert_int_equal(kern_panel_bytes(KERN_Q4_0, 16, 48, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.field, "cols");
    assert_string_equal(e.found, "48 columns");
    px_err_clear(&e);
    assert_int_equal(kern_panel_bytes(KERN_W8, 16, 129, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.found, "129 columns");
    px_err_clear(&e);
    assert_int_equal(kern_panel_bytes(KERN_F32, UINT64_MAX, UINT64_MAX / 256, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.field, "cols");
    assert_int_equal(kern_panel_bytes(KERN_F32, 1, UINT64_MAX, &bytes, NULL), PX_ERANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_are_the_golden_ones),
        cmocka_unit_test(names_and_numbers_that_do_not_exist),
        cmocka_unit_test(matrix_sizes_with_tails_and_overflow),
        cmocka_unit_test(blocks_are_read_bit_for_bit),
        cmocka_unit_test(halves_round_to_even_and_saturate),
        cmocka_unit_test(panels_hold_what_was_packed),
        cmocka_unit_test(groups_of_128_lie_as_the_text_says),
        cmocka_unit_test(bytes_with_a_minimum_lie_as_the_text_says),
        cmocka_unit_test(bytes_with_a_scale_a_half_lie_as_the_text_says),
        cmocka_unit_test(named_levels_lie_as_the_text_says),
        cmocka_unit_test(two_bits_lie_as_the_text_says),
        cmocka_unit_test(fp8_lies_as_the_text_says),
        cmocka_unit_test(panels_lie_as_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
