/* math_test.c - exp, log, Philox, Gumbel noise and rope tables against libm, published vectors and each other. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/rows.h"

static float of_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

/* Distance in units of the last place of the true value. */
static double ulps(float got, double want)
{
    float w = (float)want;
    double unit = (double)nextafterf(fabsf(w), INFINITY) - fabs((double)w);
    return fabs((double)got - want) / unit;
}

static void exp_is_near_libm(void **state)
{
    double worst = 0;
    (void)state;
    for (uint32_t i = 0; i <= 1000000; i++) {
        float x = -87.0f + 175.0f * ((float)i / 1000000.0f);
        double u = ulps(px_exp(x), exp((double)x));
        if (u > worst) worst = u;
    }
    for (int32_t e = -40; e < 0; e++)
        for (uint32_t i = 0; i < 1000; i++) {
            float x = ldexpf(1.0f + (float)i / 1000.0f, e);
            if (ulps(px_exp(x), exp((double)x)) > worst) worst = ulps(px_exp(x), exp((double)x));
            if (ulps(px_exp(-x), exp(-(double)x)) > worst) worst = ulps(px_exp(-x), exp(-(double)x));
        }
    print_message("px_exp: %.3f ulp\n", worst);
    assert_true(worst < 1.5);
}

static void exp_has_its_edges(void **state)
{
    (void)state;
    assert_true(px_exp(0.0f) == 1.0f && px_exp(-0.0f) == 1.0f);
    assert_true(px_exp(-87.0f) > 0.0f && bits_of(px_exp(nextafterf(-87.0f, -100.0f))) == 0);
    assert_true(bits_of(px_exp(-INFINITY)) == 0 && bits_of(px_exp(-FLT_MAX)) == 0);
    assert_true(px_exp(88.0f) == px_exp(89.0f) && px_exp(88.0f) == px_exp(INFINITY) && isfinite(px_exp(INFINITY)));
    assert_true(isnan(px_exp(NAN)));
    for (float x = -87.0f; x < 88.0f; x += 0.01f) assert_true(px_exp(x) <= px_exp(x + 0.01f));
}

static void log_is_near_libm(void **state)
{
    double worst = 0;
    (void)state;
    for (uint32_t u = 0x00800000; u < 0x7f800000; u += 997) {
        double l = log((double)of_bits(u));
        if (l == 0) continue;
        double d = ulps(px_log(of_bits(u)), l);
        if (d > worst) worst = d;
    }
    for (uint32_t u = 0x3f000000; u < 0x40000000; u += 13) {
        double l = log((double)of_bits(u));
        if (l == 0) continue;
        double d = ulps(px_log(of_bits(u)), l);
        if (d > worst) worst = d;
    }
    print_message("px_log: %.3f ulp\n", worst);
    assert_true(worst < 2.0);
}

static void log_has_its_edges(void **state)
{
    (void)state;
    assert_true(px_log(1.0f) == 0.0f);
    assert_true(px_log(0.0f) == -INFINITY && px_log(-0.0f) == -INFINITY);
    assert_true(px_log(of_bits(1)) == -INFINITY);                 /* denormals are zero */
    assert_true(px_log(INFINITY) == INFINITY);
    assert_true(isnan(px_log(-1.0f)) && isnan(px_log(-INFINITY)) && isnan(px_log(NAN)));
    assert_true(fabs(px_log(FLT_MIN) - log((double)FLT_MIN)) < 1e-5);
    assert_true(fabs(px_log(FLT_MAX) - log((double)FLT_MAX)) < 1e-5);
}

/* Known answers published with the generator. */
static void philox_gives_the_published_words(void **state)
{
    static const struct { uint32_t c[4], k[2], w[4]; } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        uint32_t w[4];
        kern_philox(known[i].c, known[i].k, w);
        assert_memory_equal(w, known[i].w, sizeof w);
    }
}

static void gumbel_follows_its_formula(void **state)
{
    uint64_t seed = 5;
    kern_draw d = { 0x123456789abcdef0u, 77, 3, KERN_PURPOSE_TOKEN };
    (void)state;
    assert_true(kern_gumbel_of(0xffffffffu) == -INFINITY);        /* v rounds to 1: never drawn against a number */
    assert_true(isfinite(kern_gumbel_of(0)) && kern_gumbel_of(0) > 22.0f);
    for (int i = 0; i < 200000; i++) {
        uint32_t w = i < 1000 ? (uint32_t)i << 22 : (uint32_t)test_rand(&seed);
        double v = ((double)(w >> 1) + 0.5) / 2147483648.0, want = -log(-log1p(-v)), got = kern_gumbel_of(w);
        if (v < 0.999) assert_true(fabs(got - want) < 1e-5 * (1.0 + fabs(want)));   /* above, 1 - v is coarse */
    }
    /* Counter, key and word of a token. */
    for (uint32_t id = 0; id < 100; id++) {
        uint32_t c[4] = { id / 4, 77, 3, 0 }, k[2] = { 0x9abcdef0u, 0x12345678u }, w[4];
        kern_philox(c, k, w);
        assert_int_equal(bits_of(kern_gumbel(&d, id)), bits_of(kern_gumbel_of(w[id % 4])));
    }
}

static void check_vec(const row_vec *v, const char *name)
{
    enum { N = 4096 };
    float x[N], y[N];
    uint32_t w[N], i = 0;
    uint64_t u = 0;

    while (u < 0x100000000u) {              /* every 509th float: all exponents, both signs, NaNs */
        for (i = 0; i < N; i++, u += 509) x[i] = of_bits((uint32_t)u);
        v->exp(x, y, N);
        for (i = 0; i < N; i++)
            if (bits_of(y[i]) != bits_of(px_exp(x[i]))) fail_msg("%s: exp of %08x", name, bits_of(x[i]));
        v->log(x, y, N);
        for (i = 0; i < N; i++)
            if (bits_of(y[i]) != bits_of(px_log(x[i]))) fail_msg("%s: log of %08x", name, bits_of(x[i]));
    }
    for (u = 0; u < 0x100000000u; u += (uint64_t)N * 2039) {
        for (i = 0; i < N; i++) w[i] = (uint32_t)(u + i * 2039u);
        if (!u) w[0] = 0xffffffffu;
        v->gumbel(w, y, N);
        for (i = 0; i < N; i++)
            if (bits_of(y[i]) != bits_of(kern_gumbel_of(w[i]))) fail_msg("%s: gumbel of %08x", name, w[i]);
    }
    uint64_t seed = 9;
    for (int n = 0; n < 200; n++) {
        kern_draw d = { test_rand(&seed), (uint32_t)test_rand(&seed), (uint32_t)test_rand(&seed), (uint32_t)test_rand(&seed) };
        uint32_t group = (uint32_t)test_rand(&seed) >> 2, k[2] = { (uint32_t)d.seed, (uint32_t)(d.seed >> 32) };
        v->philox(&d, group, w);
        for (i = 0; i < 16; i++) {
            uint32_t c[4] = { group + i, d.position, d.sequence, d.purpose }, out[4];
            kern_philox(c, k, out);
            assert_memory_equal(out, w + 4 * i, sizeof out);
        }
    }
}

static void vectors_equal_the_definition(void **state)
{
    (void)state;
    if (kern_cpu_has(KERN_PATH_AVX2)) check_vec(&row_vec_avx2, "avx2");
    else printf("SKIP: avx2: this processor lacks it\n");
    if (kern_cpu_has(KERN_PATH_AVX512)) check_vec(&row_vec_avx512, "avx512");
    else printf("SKIP: avx512: this processor lacks it\n");
}

/* The formulas of the reference, in double and written down a second time. */
static double frequency(int kind, double theta, uint32_t dim, uint32_t i)
{
    double f = exp(-log(theta) * (2.0 * i) / dim);
    if (kind == 1) return f / 4.0;
    if (kind == 2) {
        double wave = 2 * 3.14159265358979323846 / f, low = 8192 / 1.0, high = 8192 / 4.0;
        if (wave < high) return f;
        if (wave > low) return f / 32.0;
        double s = (8192 / wave - 1.0) / (4.0 - 1.0);
        return (1 - s) * f / 32.0 + s * f;
    }
    return f;
}

static void rope_tables_follow_the_reference(void **state)
{
    enum { DIM = 64, N = 500 };
    float *c = malloc(N * DIM / 2 * 4), *s = malloc(N * DIM / 2 * 4), divisor[DIM / 2];
    (void)state;
    for (uint32_t i = 0; i < DIM / 2; i++) divisor[i] = 1.0f + (float)i / 8.0f;
    for (int kind = 0; kind < 3; kind++)
        for (int divided = 0; divided < 2; divided++) {
            kern_rope r = { .theta = kind == 2 ? 500000.0 : 10000.0, .factor = kind == 1 ? 4.0 : 32.0, .low_freq = 1.0,
                            .high_freq = 4.0, .n_ctx_orig = 8192, .kind = (kern_rope_kind)kind,
                            .divisors = divided ? divisor : NULL };
            kern_rope_tables(&r, DIM, N, c, s);
            for (uint32_t i = 0; i < DIM / 2; i++) {
                double f = frequency(kind, r.theta, DIM, i) / (divided ? divisor[i] : 1.0);
                for (uint32_t p = 0; p < N; p++) {
                    /* the angle is rounded to fp32: up to half a unit of it, beside the frequency's */
                    double tol = 1e-7 + 1.3e-7 * p * f;
                    assert_true(fabs(c[p * DIM / 2 + i] - cos(p * f)) < tol);
                    assert_true(fabs(s[p * DIM / 2 + i] - sin(p * f)) < tol);
                }
            }
            assert_true(c[0] == 1.0f && s[0] == 0.0f);
        }
    free(c);
    free(s);
}

static void ftz_is_set_here_and_checked(void **state)
{
    volatile float tiny = 0x1p-126f;
    (void)state;
    assert_true(kern_ftz_is_set());
    assert_true(tiny * 0.5f == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ftz_is_set_here_and_checked), cmocka_unit_test(exp_is_near_libm),
        cmocka_unit_test(exp_has_its_edges),           cmocka_unit_test(log_is_near_libm),
        cmocka_unit_test(log_has_its_edges),           cmocka_unit_test(philox_gives_the_published_words),
        cmocka_unit_test(gumbel_follows_its_formula),  cmocka_unit_test(vectors_equal_the_definition),
        cmocka_unit_test(rope_tables_follow_the_reference),
    };
    if (kern_ftz_is_set()) return 1;         /* it must be us who set it */
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
