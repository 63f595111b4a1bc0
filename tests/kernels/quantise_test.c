/* quantise_test.c - fp32 rows into the stored types: what can be held exactly is, all else within half a step, and what cannot be is
 * refused. */
#include "tests/testlib.h"

#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

enum { MOST = 416 };
static const kern_dtype TYPE[] = { KERN_Q8_0, KERN_Q4_0, KERN_Q4_1, KERN_W8, KERN_W4, KERN_Q8_M, KERN_Q8_H };
#define N_TYPES (sizeof TYPE / sizeof *TYPE)

static bool nibbles(kern_dtype t) { return t == KERN_Q4_0 || t == KERN_Q4_1 || t == KERN_W4; }
static bool minimum(kern_dtype t) { return t == KERN_Q4_1 || t == KERN_Q8_M; }
static int highest(kern_dtype t) { return t == KERN_Q8_M ? 255 : t == KERN_Q4_1 ? 15 : nibbles(t) ? 7 : 127; }
static size_t group(kern_dtype t) { return t == KERN_W8 || t == KERN_W4 ? 128 : t == KERN_Q8_H ? 16 : 32; }

static float uniform(uint64_t *seed) { return (float)((double)(test_rand(seed) >> 11) * 0x1p-52 - 1); }

/* A row there and back; behind it nothing may be written. */
static bool back(kern_dtype t, const float *x, size_t n, float *out)
{
    uint8_t quants[MOST * 2 + 64];
    uint64_t bytes;

    assert_true(kern_matrix_bytes(t, 1, n, &bytes));
    memset(quants, 0xa5, sizeof quants);
    bool ok = kern_row_quantise(t, x, n, quants);
    for (size_t i = 0; i < 64; i++) assert_int_equal(quants[bytes + i], 0xa5);
    if (ok) kern_row_to_f32(t, quants, n, out);
    return ok;
}

/* Values that are a scale times quants, with the largest quant in each group. */
static void what_a_type_holds_comes_back(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++)
        for (size_t n = 32; n <= MOST; n += 32) {
            kern_dtype t = TYPE[k];
            float x[MOST], got[MOST], d = 0, m = 0;
            for (size_t i = 0; i < n; i++) {
                uint64_t r = test_rand(&seed) >> 8;
                if (i % group(t) == 0) {
                    d = kern_f16_to_f32((uint16_t)(0x1000 + r % 0x2000));      /* 0.0005 to 0.125 */
                    m = minimum(t) ? -8 * d : 0;
                }
                int q = minimum(t) ? (int)(r % (uint64_t)(highest(t) + 1)) : nibbles(t) ? (int)(r % 16) - 8 : (int)(r % 255) - 127;
                if (i % group(t) == 1) q = minimum(t) ? 0 : nibbles(t) ? -8 : 127;
                if (i % group(t) == 2 && minimum(t)) q = highest(t);
                x[i] = d * (float)q + m;
            }
            assert_true(back(t, x, n, got));
            for (size_t i = 0; i < n; i++) assert_true(got[i] == x[i]);
        }
}

/* The step is what the type's own text says; a scale is rounded to fp16, by 2^-11 of itself at most. */
static void rounding_is_half_a_step(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++)
        for (int round = 0; round < 300; round++) {
            kern_dtype t = TYPE[k];
            float x[MOST], got[MOST], scale = ldexpf(1, round % 20 - 10), shift = minimum(t) ? uniform(&seed) * scale : 0;
            for (size_t i = 0; i < MOST; i++) x[i] = (uniform(&seed) + uniform(&seed)) * scale + shift;
            assert_true(back(t, x, MOST, got));
            for (size_t g = 0; g < MOST; g += group(t)) {
                size_t n = MOST - g < group(t) ? MOST - g : group(t);
                float top = 0, low = x[g], high = x[g], step;
                for (size_t i = g; i < g + n; i++) top = fmaxf(top, fabsf(x[i])), low = fminf(low, x[i]), high = fmaxf(high, x[i]);
                step = (minimum(t) ? high - low : top) / (float)highest(t);
                /* the scale that uses -8 clamps what is near +8: a whole step there */
                float bound = step * (nibbles(t) && t != KERN_Q4_1 ? 1.0f : 0.5f) + 0x1p-10f * (top + fabsf(low));
                for (size_t i = g; i < g + n; i++)
                    if (fabsf(got[i] - x[i]) > bound) fail_msg("%s: %g came back as %g", kern_dtype_get(t)->name, (double)x[i], (double)got[i]);
            }
        }
}

static double squared_error(const float *x, float d)
{
    double sum = 0;

    for (size_t i = 0; i < 32; i++) {
        double q = d == 0 ? 0 : nearbyint((double)x[i] / (double)d), r;
        q = q < -8 ? -8 : q > 7 ? 7 : q;
        r = (double)x[i] - q * (double)d;
        sum += r * r;
    }
    return sum;
}

/* Of two scales the better one, each block on its own: with either alone some blocks are worse. */
static void nibbles_take_the_better_scale(void **state)
{
    uint64_t seed = 5;
    int full = 0, even = 0;

    (void)state;
    for (int round = 0; round < 400; round++) {
        float x[32], got[32], top = 0;
        double found = 0, a, b;
        for (size_t i = 0; i < 32; i++) {
            x[i] = uniform(&seed) * uniform(&seed);
            if (fabsf(x[i]) > fabsf(top)) top = x[i];
        }
        assert_true(back(KERN_Q4_0, x, 32, got));
        for (size_t i = 0; i < 32; i++) found += ((double)got[i] - (double)x[i]) * ((double)got[i] - (double)x[i]);
        a = squared_error(x, kern_f16_to_f32(kern_f32_to_f16(top / -8)));
        b = squared_error(x, kern_f16_to_f32(kern_f32_to_f16(fabsf(top) / 7)));
        assert_true(found <= (a < b ? a : b) * 1.000001);
        a < b ? full++ : even++;
    }
    assert_true(full > 40 && even > 40);
}

static void constant_and_tiny_rows(void **state)
{
    static const float value[] = { 0, -0.0f, 1, -1, 0.1f, 1e-7f, -3e-8f, 1e-30f, 65504 };

    (void)state;
    for (size_t k = 0; k < N_TYPES; k++)
        for (size_t v = 0; v < sizeof value / sizeof *value; v++) {
            float x[128], got[128];
            for (size_t i = 0; i < 128; i++) x[i] = value[v];
            assert_true(back(TYPE[k], x, 128, got));
            for (size_t i = 0; i < 128; i++) assert_true(fabsf(got[i] - x[i]) <= fabsf(x[i]) * 0x1p-8f + 5e-7f);
        }
}

static void halves_are_the_nearest(void **state)
{
    const float x[] = { 1, 2049, 2051, -65519, 1e-9f, 0.333333f };
    uint16_t h[6];

    (void)state;
    assert_true(kern_row_quantise(KERN_F16, x, 6, h));
    for (int i = 0; i < 6; i++) assert_int_equal(h[i], kern_f32_to_f16(x[i]));
}

static void what_cannot_be_held_is_refused(void **state)
{
    static const struct { kern_dtype t; float most; } LIMIT[] = {
        { KERN_F16, 65519 }, { KERN_Q4_1, 65504 }, { KERN_Q4_0, 7.0f * 65504 }, { KERN_W4, 7.0f * 65504 }, { KERN_Q8_0, 127.0f * 65504 },
        { KERN_W8, 127.0f * 65504 }, { KERN_Q8_M, 65504 }, { KERN_Q8_H, 127.0f * 65504 },
    };
    static const kern_dtype other[] = { KERN_F32, KERN_BF16, KERN_Q6_K, KERN_W4Z, KERN_N_DTYPES };
    float x[MOST] = { 0 };
    uint8_t out[MOST * 2];

    (void)state;
    for (size_t k = 0; k < sizeof LIMIT / sizeof *LIMIT; k++) {
        const float bad[] = { NAN, INFINITY, -INFINITY, 1e38f, LIMIT[k].most * 1.001f, -LIMIT[k].most * 1.001f };
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
            for (size_t at = 0; at < MOST; at += 45) {
                x[at] = bad[i];
                assert_false(kern_row_quantise(LIMIT[k].t, x, MOST, out));
                x[at] = -LIMIT[k].most;
                assert_true(kern_row_quantise(LIMIT[k].t, x, MOST, out));
                x[at] = 0;
            }
        if (LIMIT[k].t != KERN_F16) assert_false(kern_row_quantise(LIMIT[k].t, x, 33, out));
    }
    for (size_t k = 0; k < sizeof other / sizeof *other; k++) assert_false(kern_row_quantise(other[k], x, 32, out));
}

/* The finite values of e4m3, ascending from 0, as OCP defines them; the last is 448. */
enum { E4M3 = 127 };
static double e4m3_of(int i) { return ldexp(i < 8 ? i : 8 + i % 8, (i < 8 ? 1 : i / 8) - 10); }

/* The nearest; of two as near the one whose last digit is even. */
static double nearest_e4m3(double x)
{
    int best = 0;

    for (int i = 1; i < E4M3; i++) {
        double is = fabs(fabs(x) - e4m3_of(i)), was = fabs(fabs(x) - e4m3_of(best));
        if (is < was || (is == was && i % 2 == 0)) best = i;
    }
    return copysign(e4m3_of(best), x);
}

static void fp8_is_the_nearest_of_its_values(void **state)
{
    uint64_t seed = 7;

    (void)state;
    for (int round = 0; round < 200; round++) {
        const size_t n = 1 + (size_t)round;
        uint8_t q[4 + MOST + 1];
        float x[MOST], got[MOST], d = ldexpf(1, round % 40 - 30);
        for (size_t i = 0; i < n; i++) {
            double a = e4m3_of((int)(test_rand(&seed) % E4M3)), b = e4m3_of((int)(test_rand(&seed) % E4M3)), tie = (a + e4m3_of(0)) / 2;
            x[i] = d * (float)(i % 3 == 0 ? a : i % 3 == 1 ? (a + b) / 2 : i % 2 ? tie : 448.0 * (double)uniform(&seed) * (double)uniform(&seed));
            if (i % 5 == 0) x[i] = d * (float)((e4m3_of((int)(i / 5) % (E4M3 - 1)) + e4m3_of((int)(i / 5) % (E4M3 - 1) + 1)) / 2);    /* every tie */
            if (test_rand(&seed) >> 8 & 1) x[i] = -x[i];
        }
        x[test_rand(&seed) % n] = -448 * d;                          /* so the scale is d */
        assert_true(back(KERN_FP8, x, n, got));
        for (size_t i = 0; i < n; i++)
            if ((double)got[i] != nearest_e4m3((double)x[i] / (double)d) * (double)d)
                fail_msg("%a times %a came back as %a", (double)x[i] / (double)d, (double)d, (double)got[i]);
        assert_true(kern_fp8_scale(kern_row_magnitude(x, n)) == d);
        q[4 + n] = 0xa5;
        kern_row_to_fp8(x, n, d / 2, q);                             /* a scale that is too small: the largest stay at 448 */
        kern_row_to_f32(KERN_FP8, q, n, got);
        for (size_t i = 0; i < n; i++) assert_true((double)got[i] == nearest_e4m3((double)x[i] / (double)d * 2) * (double)d / 2);
        assert_int_equal(q[4 + n], 0xa5);
    }
}

/* Whatever the largest magnitude is, it comes back within a rounding, and nothing else is off by more than a 16th, or half of the
 * smallest step; what is nearly nothing is zeros, what is not finite refused. */
static void fp8_scales_reach_from_nothing_to_the_largest_float(void **state)
{
    static const float most[] = { 0x1.fffffep127f, 1e30f, 3, 1e-20f, 0x1p-100f };
    float x[MOST], got[MOST];
    uint64_t seed = 8;

    (void)state;
    for (size_t k = 0; k < sizeof most / sizeof *most; k++) {
        for (size_t i = 0; i < MOST; i++) x[i] = most[k] * uniform(&seed) * ldexpf(1, -(int)(i % 20));
        x[7] = -most[k];
        assert_true(back(KERN_FP8, x, MOST, got));
        assert_true(fabs((double)got[7] / (double)x[7] - 1) < 1e-6);
        for (size_t i = 0; i < MOST; i++) assert_true(fabsf(got[i] - x[i]) <= fabsf(x[i]) * 0.0626f + most[k] * (0x1.001p-10f / 448));
    }
    for (size_t i = 0; i < MOST; i++) x[i] = 0x1.fp-101f;
    assert_true(back(KERN_FP8, x, MOST, got));
    for (size_t i = 0; i < MOST; i++) assert_true(got[i] == 0);
    for (size_t at = 0; at < MOST; at += 45)
        for (int k = 0; k < 3; k++) {
            x[at] = k == 0 ? NAN : k == 1 ? INFINITY : -INFINITY;
            assert_true(isnan(kern_row_magnitude(x, MOST)));
            assert_false(back(KERN_FP8, x, MOST, got));
            x[at] = 0;
        }
}

/* No value of Q8_M is off by more than half its scale, also where scales are subnormal, or a minimum's fp16 is coarse beside the range:
 * the minimum is rounded down. */
static void a_minimum_is_below_all_values(void **state)
{
    uint64_t seed = 6;

    (void)state;
    for (int round = 0; round < 4000; round++) {
        float x[32], got[32], base = ldexpf(uniform(&seed), round % 45 - 28), range = ldexpf(1, round / 45 % 40 - 30);
        uint8_t out[36];
        for (int i = 0; i < 32; i++) x[i] = base + uniform(&seed) * range;
        assert_true(kern_row_quantise(KERN_Q8_M, x, 32, out));
        kern_row_to_f32(KERN_Q8_M, out, 32, got);
        float d = kern_f16_to_f32((uint16_t)(out[0] | out[1] << 8)), m = kern_f16_to_f32((uint16_t)(out[2] | out[3] << 8));
        for (int i = 0; i < 32; i++) {
            assert_true(m <= x[i]);
            assert_true(fabsf(got[i] - x[i]) <= d * 0.5001f + fabsf(x[i]) * 0x1p-22f);
        }
    }
}

/* Levels fall on quants where they can, and never is it worse than without knowing them. */
static void levels_are_kept(void **state)
{
    static const struct { kern_dtype t; double most; } row[] = {      /* most: of the error without levels, root mean square */
        { KERN_Q5_0, 0 }, { KERN_IQ4_NL, 0 }, { KERN_IQ4_XS, 0.4 }, { KERN_Q5_1, 0.75 }, { KERN_Q4_K, 0.6 }, { KERN_Q5_K, 0.75 },
        { KERN_Q6_K, 1 }, { KERN_Q3_K, 1 }, { KERN_Q2_K, 1 }, { KERN_IQ2_XS, 1 },
    };
    uint64_t seed = 11;

    (void)state;
    for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
        const kern_dtype_info *f = kern_dtype_get(row[k].t);
        double plain = 0, with = 0, size = 0;
        for (int round = 0; round < 200; round++) {
            uint8_t block[512], quants[512];
            float x[256], got[256], step[8];
            for (uint32_t i = 0; i < f->block_bytes; i++) block[i] = (uint8_t)(test_rand(&seed) >> 8);
            for (uint32_t i = 1; i < 4; i += 2) block[i] = (uint8_t)(0x20 | (block[i] & 0x83));      /* what may be a scale is a small one */
            if (row[k].t == KERN_Q6_K || row[k].t == KERN_Q3_K || row[k].t == KERN_Q2_K)
                for (uint32_t i = 1; i < 5; i += 2) block[f->block_bytes - i] = (uint8_t)(0x20 | (block[f->block_bytes - i] & 3));
            kern_row_to_f32(row[k].t, block, f->block, x);
            for (uint32_t i = 0; i < f->block; i += 32) step[i / 32] = kern_row_step(row[k].t, block, i);
            assert_true(kern_row_quantise(KERN_Q8_0, x, f->block, quants));
            kern_row_to_f32(KERN_Q8_0, quants, f->block, got);
            kern_row_distance(x, got, f->block, &plain, &size);
            assert_true(kern_row_requantise(x, step, f->block, quants));
            kern_row_to_f32(KERN_Q8_0, quants, f->block, got);
            kern_row_distance(x, got, f->block, &with, &size);
        }
        print_message("%s: %.3g of its size, %.3g without levels\n", f->name, sqrt(2 * with / size), sqrt(2 * plain / size));
        assert_true(plain > 0 && with <= row[k].most * row[k].most * plain);
    }
}

/* Steps that no file should have: not a number, beyond fp16, far from the values. */
static void odd_levels_do_no_harm(void **state)
{
    static const float odd[] = { NAN, INFINITY, 65504, 1e30f, 1e-30f, 6e-8f, -1, 0 };
    float x[32], got[32];
    uint8_t plain[34], with[34];

    (void)state;
    for (size_t v = 0; v < sizeof odd / sizeof *odd; v++)
        for (float scale = 1e-8f; scale < 1e7f; scale *= 10) {
            for (int i = 0; i < 32; i++) x[i] = scale * (float)(i - 13);
            if (31 * scale > 127.0f * 65504) continue;
            assert_true(kern_row_quantise(KERN_Q8_0, x, 32, plain) && kern_row_requantise(x, &odd[v], 32, with));
            kern_row_to_f32(KERN_Q8_0, with, 32, got);
            for (int i = 0; i < 32; i++) assert_true(fabsf(got[i] - x[i]) <= 18 * scale / 127 + 5e-7f);
        }
    assert_false(kern_row_requantise((float[32]){ INFINITY }, odd, 32, with));
    assert_false(kern_row_requantise(x, odd, 31, with));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp8_is_the_nearest_of_its_values),
        cmocka_unit_test(fp8_scales_reach_from_nothing_to_the_largest_float),
        cmocka_unit_test(what_a_type_holds_comes_back),
        cmocka_unit_test(rounding_is_half_a_step),
        cmocka_unit_test(nibbles_take_the_better_scale),
        cmocka_unit_test(constant_and_tiny_rows),
        cmocka_unit_test(halves_are_the_nearest),
        cmocka_unit_test(what_cannot_be_held_is_refused),
        cmocka_unit_test(a_minimum_is_below_all_values),
        cmocka_unit_test(levels_are_kept),
        cmocka_unit_test(odd_levels_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
