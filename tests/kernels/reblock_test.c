/* reblock_test.c - blocks that are only read become blocks that are multiplied with: by how much values change, at every cut, and what
 * is refused. */
#include "tests/testlib.h"

#include "kernels/reblock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1024 };

/* rms: of what changes in random blocks, relative to the values; 0: nothing does.  nearer: than Q8_0, and so many times at least. */
static const struct { kern_dtype from, to; double rms, nearer; } PAIR[] = {
    { KERN_Q5_0, KERN_Q8_0, 0, 0 },      { KERN_IQ4_NL, KERN_Q8_0, 0, 0 },    { KERN_IQ4_XS, KERN_Q8_0, 2.5e-4, 0.99 },
    { KERN_Q3_K, KERN_Q4_HL, 2.5e-4, 8 },      { KERN_Q5_1, KERN_Q8_M, 0, 0 },      { KERN_Q4_K, KERN_Q4_1, 3e-4, 6 }, { KERN_Q5_K, KERN_Q8_M, 3e-4, 9 },
    { KERN_Q2_K, KERN_Q2_HM, 5e-4, 8 }, { KERN_Q6_K, KERN_Q8_H, 2e-4, 20 }, { KERN_IQ2_XS, KERN_Q4_HL, 4e-4, 10 },
};
#define N_PAIRS (sizeof PAIR / sizeof *PAIR)

static size_t row_bytes(kern_dtype t, size_t n)
{
    uint64_t bytes;

    assert_true(kern_matrix_bytes(t, 1, n, &bytes));
    return bytes;
}
static bool has_minimum(kern_dtype t) { return t != KERN_Q8_0 && t != KERN_Q8_H && t != KERN_Q4_HL; }

static void put(uint8_t *p, float x)
{
    uint16_t h = kern_f32_to_f16(x);
    p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8);
}

/* Where a block has its scale, and its minimum behind it. */
static size_t head_at(kern_dtype t) { return t == KERN_Q3_K ? 108 : t == KERN_Q2_K ? 80 : t == KERN_Q6_K ? 208 : 0; }

/* Random quants and small scales, a scale and a minimum as models have them: the values lie on both sides of zero. */
static uint8_t *random_row(kern_dtype t, size_t n, uint64_t *seed)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    size_t bytes = row_bytes(t, n);
    uint8_t *row = malloc(bytes);

    for (size_t i = 0; i < bytes; i++) row[i] = (uint8_t)test_rand(seed);
    for (size_t i = 0; i < bytes; i += f->block_bytes) {
        float d = 0.002f * (1 + (float)(test_rand(seed) % 1000) / 1000);
        put(row + i + head_at(t), t == KERN_Q4_K || t == KERN_Q5_K || t == KERN_Q3_K || t == KERN_Q6_K ? d / 32 : d);
        if (t == KERN_Q5_1) put(row + i + 2, -16 * d);
        if (t == KERN_Q4_K) put(row + i + 2, d / 4);
        if (t == KERN_Q5_K) put(row + i + 2, d / 2);
        if (t == KERN_Q2_K) put(row + i + 82, 1.2f * d);
    }
    return row;
}

static void distance_is_small_and_told(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (size_t k = 0; k < N_PAIRS; k++) {
        const kern_dtype from = PAIR[k].from, to = PAIR[k].to;
        double error = 0, size = 0, other = 0, sums[2] = { 0 };

        assert_int_equal(kern_reblock_to(from), to);
        for (int round = 0; round < 200; round++) {
            uint8_t *row = random_row(from, MOST, &seed), *out = malloc(row_bytes(to, MOST)), bytes[MOST / 32 * 34];
            float was[MOST], is[MOST], eight[MOST], step[MOST / 32];

            assert_true(kern_row_reblock(from, row, 0, MOST, out, sums));
            kern_row_to_f32(from, row, MOST, was);
            kern_row_to_f32(to, out, MOST, is);
            for (size_t i = 0; i < MOST; i += 32) step[i / 32] = kern_row_step(from, row, i);
            assert_true(kern_row_requantise(was, step, MOST, bytes));
            kern_row_to_f32(KERN_Q8_0, bytes, MOST, eight);
            for (size_t i = 0; i < MOST; i++) {
                error += ((double)is[i] - (double)was[i]) * ((double)is[i] - (double)was[i]);
                other += ((double)eight[i] - (double)was[i]) * ((double)eight[i] - (double)was[i]);
                size += (double)was[i] * (double)was[i];
            }
            for (size_t i = 0; i < MOST && PAIR[k].rms == 0; i++) assert_true(was[i] == is[i]);        /* but for a zero's sign */
            free(row), free(out);
        }
        print_message("%s as %s: %.3g of its size, as Q8_0 %.3g\n", kern_dtype_get(from)->name, kern_dtype_get(to)->name,
                      sqrt(error / size), sqrt(other / size));
        assert_true(sqrt(error / size) <= PAIR[k].rms);
        assert_true(sqrt(error) * PAIR[k].nearer <= sqrt(other));
        assert_true(fabs(sums[1] - size) <= size * 1e-6 && fabs(sums[0] - error) <= error * 1e-3);      /* fp32 rounds values */
    }
}

/* What every type of GGUF that has no kernels of its own changes by when a set keeps it: shard/store/README.md states these. */
static void golden_blocks_change_by_so_much(void **state)
{
    static const struct { kern_dtype from; double rms; } kept[] = {
        { KERN_Q5_0, 0 },      { KERN_Q5_1, 0 },      { KERN_IQ4_NL, 0 },    { KERN_IQ4_XS, 2.5e-4 }, { KERN_Q4_K, 1.5e-4 },
        { KERN_Q5_K, 1.5e-4 },   { KERN_Q6_K, 2e-4 },   { KERN_Q3_K, 2.5e-4 },   { KERN_Q2_K, 2e-4 },    { KERN_IQ2_XS, 3e-4 },
    };
    enum { N = 8 * 512 };

    (void)state;
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++) {
        const kern_dtype from = kept[k].from, to = kern_reblock_to(from) < KERN_N_DTYPES ? kern_reblock_to(from) : KERN_Q8_0;
        uint8_t blocks[N], quants[2 * N];
        float was[N], is[N], step[N / 32];
        double sums[2] = { 0 }, error = 0, size = 0, plain = 0;
        char name[64];
        FILE *f;

        snprintf(name, sizeof name, "tiny/quants/%s.bin", kern_dtype_get(from)->name);
        assert_non_null(f = fopen(test_golden(name), "rb"));
        assert_int_equal(fread(blocks, 1, sizeof blocks, f), row_bytes(from, N));
        fclose(f);
        kern_row_to_f32(from, blocks, N, was);
        for (size_t i = 0; i < N; i += 32) step[i / 32] = kern_row_step(from, blocks, i);
        assert_true(kern_row_requantise(was, step, N, quants));
        kern_row_to_f32(KERN_Q8_0, quants, N, is);
        kern_row_distance(was, is, N, &plain, &size);
        size = 0;
        if (kern_reblock_to(from) == to) assert_true(kern_row_reblock(from, blocks, 0, N, quants, sums));
        kern_row_to_f32(to, quants, N, is);
        kern_row_distance(was, is, N, &error, &size);
        print_message("%s as %s: %.3g of its size, as Q8_0 %.3g\n", kern_dtype_get(from)->name, kern_dtype_get(to)->name,
                      sqrt(error / size), sqrt(plain / size));
        if (!(sqrt(error / size) <= kept[k].rms)) fail_msg("%s: %g", kern_dtype_get(from)->name, sqrt(error / size));
    }
}

/* A cut at any multiple of 32, also through a block of 256, from memory that ends where the row ends. */
static void a_cut_is_a_part_of_the_row(void **state)
{
    uint64_t seed = 6;

    (void)state;
    for (size_t k = 0; k < N_PAIRS; k++) {
        const kern_dtype from = PAIR[k].from, to = PAIR[k].to;
        uint8_t *row = random_row(from, MOST, &seed), *whole = malloc(row_bytes(to, MOST));
        float was[MOST], is[MOST];
        double sums[2] = { 0 };

        assert_true(kern_row_reblock(from, row, 0, MOST, whole, sums));
        kern_row_to_f32(to, whole, MOST, was);
        for (size_t col = 0; col < MOST; col += 32)
            for (size_t n = 0; n <= MOST - col; n += 96) {
                uint8_t *part = malloc(row_bytes(to, n) + 1);
                part[row_bytes(to, n)] = 0xa5;
                assert_true(kern_row_reblock(from, row, col, n, part, sums));
                if (to != KERN_Q2_HM || (col % 64 == 0 && n % 64 == 0)) assert_memory_equal(part, whole + row_bytes(to, col), row_bytes(to, n));
                kern_row_to_f32(to, part, n, is);
                assert_memory_equal(is, was + col, n * sizeof *is);
                assert_int_equal(part[row_bytes(to, n)], 0xa5);
                free(part);
            }
        free(row), free(whole);
    }
}

/* All products of an fp16 and a scale: off by 2^-11 at most, and by nothing where fp16 become coarse. */
static void scales_lose_half_a_unit(void **state)
{
    uint8_t block[144] = { 0 }, out[20];

    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++)
        for (int scale = 0; scale < 64; scale++) {
            float d = kern_f16_to_f32((uint16_t)h), each = d * (float)scale;
            double sums[2] = { 0 };
            block[0] = (uint8_t)h, block[1] = (uint8_t)(h >> 8);
            block[2] = 0, block[3] = 0;
            block[4] = (uint8_t)scale;
            bool fits = fabsf(each) < 65520.0f;            /* false for a NaN */
            if (kern_row_reblock(KERN_Q4_K, block, 0, 32, out, sums) != fits) fail_msg("scale %04x times %d", h, scale);
            if (!fits) continue;
            float is = kern_f16_to_f32((uint16_t)(out[0] | out[1] << 8));
            if (!(fabsf(is - each) <= (fabsf(each) < 0x1p-13f ? 0 : fabsf(each) * 0x1p-11f)))
                fail_msg("scale %04x times %d is %a, not %a", h, scale, (double)is, (double)each);
            /* the same as a minimum */
            block[0] = block[1] = 0;
            block[2] = (uint8_t)h, block[3] = (uint8_t)(h >> 8);
            block[8] = (uint8_t)scale;
            assert_true(kern_row_reblock(KERN_Q4_K, block, 0, 32, out, sums));
            assert_true(kern_f16_to_f32((uint16_t)(out[2] | out[3] << 8)) == -is);
            block[8] = 0;
        }
}

/* The minimum makes up for what the scale lost: the mean of a group's values is off by the minimum's own rounding and no more. */
static void the_mean_is_kept(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (size_t k = 0; k < N_PAIRS; k++) {
        const size_t columns = PAIR[k].to == KERN_Q2_HM ? 16 : 32;
        if (!has_minimum(PAIR[k].to)) continue;
        uint8_t *row = random_row(PAIR[k].from, MOST, &seed), *out = malloc(row_bytes(PAIR[k].to, MOST));
        float was[MOST], is[MOST];
        double sums[2] = { 0 };

        assert_true(kern_row_reblock(PAIR[k].from, row, 0, MOST, out, sums));
        kern_row_to_f32(PAIR[k].from, row, MOST, was);
        kern_row_to_f32(PAIR[k].to, out, MOST, is);
        for (size_t g = 0; g < MOST; g += columns) {
            const uint8_t *b = columns == 32 ? out + row_bytes(PAIR[k].to, g) + 2 : out + g / 64 * 32 + 18 + g % 64 / 16 * 4;
            double mean = 0, top = 0, m = fabs((double)kern_f16_to_f32((uint16_t)(b[0] | b[1] << 8)));
            for (size_t i = g; i < g + columns; i++) {
                mean += ((double)is[i] - (double)was[i]) / (double)columns;
                top = fmax(top, fabs((double)was[i]));
            }
            assert_true(fabs(mean) <= m * 0x1.01p-11 + 0x1p-25 + top * 0x1p-23);        /* half a unit of the smallest fp16; fp32 rounds values */
        }
        free(row), free(out);
    }
}

/* Any scales and minima that a block of Q2_K can have: a value is off by what rounding its scale and its minimum costs, and what is
 * beyond fp16 is refused. */
static void two_bits_keep_their_levels(void **state)
{
    uint64_t seed = 10;
    int refused = 0, same = 0;

    (void)state;
    for (int round = 0; round < 200000; round++) {
        uint8_t block[84], out[24];
        float was[256], is[32];
        double sums[2] = { 0 }, error = 0, size = 0;
        size_t col = 32 * (test_rand(&seed) >> 8 & 7);
        bool fits = true;

        for (size_t i = 0; i < sizeof block; i++) block[i] = (uint8_t)(test_rand(&seed) >> 8);
        if (round % 2) put(block + 80, 0.01f), put(block + 82, round % 4 == 1 ? 0.01f : -0.3f);
        const float d = kern_f16_to_f32((uint16_t)(block[80] | block[81] << 8)), dmin = kern_f16_to_f32((uint16_t)(block[82] | block[83] << 8));
        for (size_t i = col / 16; i < col / 16 + 2; i++) fits = fits && fabsf(d * (float)(block[i] & 15)) < 65504.0f && fabsf(dmin * (float)(block[i] >> 4)) < 65472.0f;
        kern_row_to_f32(KERN_Q2_K, block, 256, was);
        if (!kern_row_reblock(KERN_Q2_K, block, col, 32, out, sums)) {
            assert_false(fits);
            refused++;
            continue;
        }
        kern_row_to_f32(KERN_Q2_HM, out, 32, is);
        for (size_t c = 0; c < 32; c++) {
            const uint8_t scales = block[col / 16 + c / 16], *quants = block + 16 + col / 128 * 32 + c;
            const double each = fabs((double)d * (scales & 15)), least = fabs((double)dmin * (scales >> 4)), x = (double)was[col + c];
            const int q = out[c % 16] >> c / 16 * 2 & 3;
            double off = (double)is[c] - x;
            error += off * off;
            size += x * x;
            assert_int_equal(q, *quants >> col % 128 / 32 * 2 & 3);
            /* the scale's 2^-11 of at most three of its steps, less their mean; the minimum's of itself and of that mean; fp32's own */
            if (!(fabs(off) <= (each < 0x1p-13 ? 0 : 3 * each * 0x1p-11) + (least + 3 * each * 0x1p-11) * 0x1p-11 + 0x1p-25 + (fabs(x) + least) * 0x1p-22))
                fail_msg("round %d: %a became %a", round, x, (double)is[c]);
        }
        for (size_t i = 0; i < 16; i++) assert_int_equal(out[i] >> 4, 0);
        assert_true(fabs(sums[0] - error) <= error * 1e-2 + size * 1e-12 && fabs(sums[1] - size) <= size * 1e-5);
        same += error == 0;
    }
    assert_true(refused > 10000 && same > 1000);
}

/* Scales that hold for sixteen columns, any fp16 times any scale of Q6_K: no value is off by more than 2^-11 of itself, and by nothing
 * where fp16 become coarse; bytes are the levels or three times the levels. */
static void sixteens_lose_half_a_unit(void **state)
{
    uint64_t seed = 11;
    int nearer = 0, refused = 0;

    (void)state;
    for (uint32_t h = 0; h < 0x10000; h += 1 + h % 5)
        for (int scale = -128; scale < 128; scale += 2) {
            uint8_t block[210], out[36];
            float was[256], is[32], d = kern_f16_to_f32((uint16_t)h);
            double sums[2] = { 0 }, error = 0, size = 0;
            size_t g = test_rand(&seed) >> 8 & 7;

            memset(block, (int)(test_rand(&seed) >> 8 & 255), sizeof block);
            block[208] = (uint8_t)h, block[209] = (uint8_t)(h >> 8);
            block[192 + 2 * g] = (uint8_t)scale, block[193 + 2 * g] = (uint8_t)(scale + 1);
            bool fits = fabsf(d * (float)scale) < 65520.0f && fabsf(d * (float)(scale + 1)) < 65520.0f;                /* false for a NaN */
            if (kern_row_reblock(KERN_Q6_K, block, 32 * g, 32, out, sums) != fits) fail_msg("scale %04x times %d", h, scale);
            refused += !fits;
            if (!fits) continue;
            kern_row_to_f32(KERN_Q6_K, block, 256, was);
            kern_row_to_f32(KERN_Q8_H, out, 32, is);
            for (size_t c = 0; c < 32; c++) {
                float x = was[32 * g + c], each = fabsf(d * (float)(scale + (int)c / 16));
                double off = (double)is[c] - (double)x;
                if (!(fabs(off) <= (each < 0x1p-13f ? 0 : fabs((double)x) * 0x1p-11))) fail_msg("%a became %a", (double)x, (double)is[c]);
                error += off * off;
                size += (double)x * (double)x;
            }
            assert_true(fabs(sums[0] - error) <= error * 1e-6 && fabs(sums[1] - size) <= size * 1e-6);
            nearer += error > 0 && abs((int8_t)out[4]) > 32;
        }
    assert_true(nearer > 100000 && refused > 100000);
}

/* Named levels with any fp16 for a scale: no value is off by more than 2^-11 of itself, or than its level
 * times half of the smallest fp16. */
static void named_levels_keep_their_names(void **state)
{
    static const struct { kern_dtype t; size_t d; } kind[] = { { KERN_Q3_K, 108 }, { KERN_IQ2_XS, 0 } };
    uint64_t seed = 12;

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        int refused = 0, same = 0;
        for (uint32_t round = 0; round < 100000; round++) {
            uint8_t block[110], out[20];
            float was[256], is[32];
            double sums[2] = { 0 }, error = 0, size = 0;
            size_t g = test_rand(&seed) >> 8 & 7;
            bool fits = true;

            for (size_t i = 0; i < sizeof block; i++) block[i] = (uint8_t)(test_rand(&seed) >> 8);
            const uint16_t h = (uint16_t)(round * 40503u);
            block[kind[k].d] = (uint8_t)h, block[kind[k].d + 1] = (uint8_t)(h >> 8);
            kern_row_to_f32(kind[k].t, block, 256, was);
            double each[2];
            for (int half = 0; half < 2; half++) {
                const float d = kern_f16_to_f32(h);
                const size_t i = 2 * g + (size_t)half;
                const uint8_t *s = block + 96, eighths = half ? block[66 + g] >> 4 : block[66 + g] & 15;
                each[half] = kind[k].t == KERN_IQ2_XS ? (double)d * (2 * eighths + 1) / 8
                           : (double)d * (((i < 8 ? s[i] & 15 : s[i - 8] >> 4) | (s[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32);
                fits = fits && fabs(each[half]) < 65520;                        /* false for a NaN */
            }
            if (kern_row_reblock(kind[k].t, block, 32 * g, 32, out, sums) != fits) fail_msg("type %zu, scale %04x", k, h);
            refused += !fits;
            if (!fits) continue;
            kern_row_to_f32(KERN_Q4_HL, out, 32, is);
            for (size_t c = 0; c < 32; c++) {
                const double x = (double)was[32 * g + c], off = (double)is[c] - x, level = each[c / 16] != 0 ? x / each[c / 16] : 0;
                if (!(fabs(off) <= fmax(fabs(x) * 0x1.001p-11, fabs(level) * 0x1p-25))) fail_msg("%a became %a", x, (double)is[c]);
                if (kind[k].t == KERN_Q3_K && fabs(each[c / 16]) < 0x1p-13) assert_true(off == 0);
                error += off * off;
                size += x * x;
            }
            assert_true(fabs(sums[0] - error) <= error * 1e-3 + size * 1e-13 && fabs(sums[1] - size) <= size * 1e-6);
            same += error == 0;
        }
        assert_true(refused > 5000 && same > 5000 && same < 95000);
    }
}

static void what_is_refused(void **state)
{
    static const uint16_t bad[] = { 0x7c00, 0xfc00, 0x7e00, 0x7c01 };
    uint64_t seed = 7;
    double sums[2] = { 0 };

    (void)state;
    for (kern_dtype t = 0; t <= KERN_N_DTYPES; t++) {
        bool known = false;
        uint8_t row[256] = { 0 }, out[288];
        for (size_t k = 0; k < N_PAIRS; k++) known |= PAIR[k].from == t;
        if (known) continue;
        assert_int_equal(kern_reblock_to(t), KERN_N_DTYPES);
        assert_false(kern_row_reblock(t, row, 0, 32, out, sums));
    }
    for (size_t k = 0; k < N_PAIRS; k++) {
        const kern_dtype from = PAIR[k].from;
        const bool minimum = has_minimum(PAIR[k].to);
        uint8_t *row = random_row(from, MOST, &seed), *out = malloc(row_bytes(PAIR[k].to, MOST));
        size_t last = row_bytes(from, MOST) - kern_dtype_get(from)->block_bytes + head_at(from);
        for (size_t i = 0; i < 4; i++)
            for (size_t at = 0; at < (minimum ? 4u : 2u); at += 2) {
                uint8_t was[2] = { row[last + at], row[last + at + 1] };
                row[last + at] = (uint8_t)bad[i], row[last + at + 1] = (uint8_t)(bad[i] >> 8);
                assert_false(kern_row_reblock(from, row, 0, MOST, out, sums));
                assert_true(kern_row_reblock(from, row, 0, MOST - 256, out, sums));
                row[last + at] = was[0], row[last + at + 1] = was[1];
            }
        assert_true(kern_row_reblock(from, row, 0, MOST, out, sums));
        free(row), free(out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_is_small_and_told),
        cmocka_unit_test(golden_blocks_change_by_so_much),
        cmocka_unit_test(a_cut_is_a_part_of_the_row),
        cmocka_unit_test(scales_lose_half_a_unit),
        cmocka_unit_test(the_mean_is_kept),
        cmocka_unit_test(two_bits_keep_their_levels),
        cmocka_unit_test(sixteens_lose_half_a_unit),
        cmocka_unit_test(named_levels_keep_their_names),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
