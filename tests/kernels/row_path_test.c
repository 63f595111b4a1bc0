/* row_path_test.c - what rows are read and quantised to is the same on every path, bit for bit. */
#include "tests/testlib.h"

#include "kernels/reblock.h"
#include "kernels/row_path.h"

#include <math.h>
#include <string.h>

enum { MOST = 1024 };

static bool same(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return false;     /* a NaN's payload is no part of it */
    return true;
}

/* The paths of this CPU beside the plain one. */
static size_t others(kern_path path[2])
{
    size_t n = 0;

    for (kern_path p = KERN_PATH_AVX2; p <= kern_row_path(); p++) path[n++] = p;
    if (!n) print_message("this CPU has the plain path alone\n");
    return n;
}

static void rows_are_read_alike(void **state)
{
    kern_path path[2] = { 0 };
    size_t n_paths = others(path);
    uint64_t seed = 21;

    (void)state;
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++)
        for (int round = 0; round < 60 && kern_dtype_get(t)->readable; round++) {
            uint8_t bytes[4 * MOST + 64];
            float want[MOST], got[MOST + 16];
            size_t n = kern_dtype_get(t)->block == 1 ? (size_t)(1 + test_rand(&seed) % MOST) : t == KERN_W8 || t == KERN_W4 || t == KERN_Q2_HM ? 32 * (1 + test_rand(&seed) % 32)
                     : kern_dtype_get(t)->block * (1 + test_rand(&seed) % (MOST / kern_dtype_get(t)->block));
            for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(test_rand(&seed) >> 8);
            kern_row_to_f32_on(KERN_PATH_SCALAR, t, bytes, n, want);
            for (size_t k = 0; k < n_paths; k++) {
                memset(got, 0x5a, sizeof got);
                kern_row_to_f32_on(path[k], t, bytes, n, got);
                if (!same(want, got, n)) fail_msg("%s, %zu columns: path %d differs", kern_dtype_get(t)->name, n, path[k]);
                for (size_t i = 4 * n; i < sizeof got; i++) assert_int_equal(((uint8_t *)got)[i], 0x5a);
            }
        }
}

static void blocks_move_alike(void **state)
{
    kern_path path[2] = { 0 };
    size_t n_paths = others(path), held = 0;
    uint64_t seed = 25;

    (void)state;
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++)
        for (int round = 0; round < 300 && kern_reblock_to(t) < KERN_N_DTYPES; round++) {
            uint8_t bytes[2 * MOST], want[2 * MOST], got[2 * MOST];
            size_t each = kern_dtype_get(t)->block_bytes, cols = 1024, col = 32 * (test_rand(&seed) % 8), n = 32 * (1 + test_rand(&seed) % 8) + (cols - 512) * (size_t)(round % 2);
            double sums[2] = { 1, 2 }, others_sums[2] = { 1, 2 };
            bool ok;
            for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(test_rand(&seed) >> 8);
            for (size_t i = 0; i + each <= sizeof bytes && round % 3; i += each) {          /* scales as files have them, most of the time */
                const size_t at = t == KERN_Q2_K ? 80 : t == KERN_Q3_K ? 108 : t == KERN_Q6_K ? 208 : 0;
                bytes[i + at + 1] = (uint8_t)(0x14 | (bytes[i + at + 1] & 0x0b));
                if (at + 3 < each) bytes[i + at + 3] = (uint8_t)(0x14 | (bytes[i + at + 3] & 0x0b));
            }
            memset(want, 0x5a, sizeof want);
            ok = kern_row_reblock_on(KERN_PATH_SCALAR, t, bytes, col, n, want, sums);
            held += ok;
            for (size_t k = 0; k < n_paths; k++) {
                others_sums[0] = 1, others_sums[1] = 2;
                memset(got, 0x5a, sizeof got);
                assert_int_equal(kern_row_reblock_on(path[k], t, bytes, col, n, got, others_sums), ok);
                if (ok && (memcmp(got, want, sizeof got) || memcmp(sums, others_sums, sizeof sums)))
                    fail_msg("%s, columns %zu and %zu more: path %d differs", kern_dtype_get(t)->name, col, n, path[k]);
            }
        }
    assert_true(held > 1000);
}

/* Values of all sizes, ties, zeros, and now and then one that no type holds. */
static float value(uint64_t *seed, int round)
{
    uint64_t r = test_rand(seed) >> 8;
    float x = (float)((double)(r % 2000001) * 1e-6 - 1);

    if (r >> 24 & 1 && round % 3 == 0) x = (float)((int)(r % 33) - 16) / 16;
    if (round % 5 == 4 && (r >> 25) % 500 == 0) x = INFINITY;
    if (round % 7 == 6 && (r >> 25) % 2) x = 0;
    return ldexpf(x, round % 60 - 40);
}

static void rows_are_quantised_alike(void **state)
{
    enum { N_TYPES = 9 };
    static const kern_dtype type[N_TYPES] = { KERN_F16, KERN_FP8, KERN_Q8_0, KERN_Q4_0, KERN_Q4_1, KERN_Q8_M, KERN_Q8_H, KERN_W8, KERN_W4 };
    kern_path path[2] = { 0 };
    size_t n_paths = others(path), held = 0, refused = 0;
    uint64_t seed = 22;

    (void)state;
    for (int round = 0; round < 1200; round++) {
        uint8_t want[4 * MOST], got[4 * MOST];
        float x[MOST], step[MOST / 32];
        size_t n = 32 * (1 + test_rand(&seed) % (MOST / 32));
        for (size_t i = 0; i < n; i++) x[i] = value(&seed, round);
        for (size_t i = 0; i < n / 32; i++) step[i] = i % 3 ? fabsf(x[32 * i]) / (float)(i % 3) : 0;
        for (size_t k = 0; k <= N_TYPES; k++) {
            bool again = k == N_TYPES, ok;
            double sums[2] = { 1, 2 }, sums_got[2] = { 1, 2 };
            memset(want, 0x5a, sizeof want);
            ok = again ? kern_row_requantise_on(KERN_PATH_SCALAR, x, step, n, want) : kern_row_quantise_on(KERN_PATH_SCALAR, type[k], x, n, want);
            ok ? held++ : refused++;
            kern_row_distance_on(KERN_PATH_SCALAR, x, x + n % 64 / 32, n - 32, &sums[0], &sums[1]);
            for (size_t j = 0; j < n_paths; j++) {
                memset(got, 0x5a, sizeof got);
                assert_int_equal(again ? kern_row_requantise_on(path[j], x, step, n, got) : kern_row_quantise_on(path[j], type[k], x, n, got), ok);
                if (ok) assert_memory_equal(got, want, sizeof got);
                sums_got[0] = 1, sums_got[1] = 2;
                if (type[k % N_TYPES] == KERN_Q8_0) {
                    double plain[2] = { 3, 4 }, other[2] = { 3, 4 };
                    assert_int_equal(kern_row_to_bytes_on(path[j], x, n, got, other), kern_row_to_bytes_on(KERN_PATH_SCALAR, x, n, got, plain));
                    if (ok && isfinite(plain[1])) assert_memory_equal(plain, other, sizeof plain);
                }
                kern_row_distance_on(path[j], x, x + n % 64 / 32, n - 32, &sums_got[0], &sums_got[1]);
                if (isfinite(sums[1]) && isfinite(sums[0])) assert_memory_equal(sums, sums_got, sizeof sums);
            }
        }
    }
    assert_true(held > 1000 && refused > 100);
}

/* One pass gives the bytes and, but for rounding, the sums of two. */
static void bytes_come_with_what_they_change(void **state)
{
    uint64_t seed = 23;

    (void)state;
    for (int round = 0; round < 200; round++) {
        uint8_t once[2 * MOST], twice[2 * MOST];
        float x[MOST], back[MOST];
        size_t n = 32 * (1 + test_rand(&seed) % (MOST / 32));
        double want[2] = { 0 }, got[2] = { 0 };
        for (size_t i = 0; i < n; i++) x[i] = value(&seed, round % 4);
        assert_true(kern_row_quantise(KERN_Q8_0, x, n, twice) && kern_row_to_bytes(x, n, once, got));
        assert_memory_equal(once, twice, n / 32 * 34);
        kern_row_to_f32(KERN_Q8_0, once, n, back);
        kern_row_distance(x, back, n, &want[0], &want[1]);
        for (int k = 0; k < 2; k++) assert_true(fabs(got[k] - want[k]) <= 1e-5 * want[k]);
        assert_true(want[1] > 0);
    }
    assert_false(kern_row_to_bytes((float[33]){ 0 }, 33, (uint8_t[64]){ 0 }, (double[2]){ 0 }));
    assert_false(kern_row_to_bytes((float[32]){ [7] = NAN }, 32, (uint8_t[64]){ 0 }, (double[2]){ 0 }));
}

/* A whole panel on every path is the panel of 15 rows, which is written another way, with zeros as the 16th. */
static void panels_are_packed_alike(void **state)
{
    enum { COLS = 544 };
    static uint8_t row[16][4 * COLS], want[64 * COLS + 4096], got[64 * COLS + 4096];
    const void *src[16];
    uint64_t seed = 24;

    (void)state;
    for (uint32_t r = 0; r < 16; r++) src[r] = row[r];
    for (size_t i = 0; i < sizeof row - sizeof *row; i++) row[i / sizeof *row][i % sizeof *row] = (uint8_t)(test_rand(&seed) >> 8);
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++)
        for (uint32_t cols = kern_dtype_get(t)->block > 1 ? 32 : 1; cols <= COLS && kern_dtype_get(t)->weight; cols += kern_dtype_get(t)->block > 1 ? 32 : 7) {
            uint64_t stride = kern_panel_stride(t, cols);
            memset(want, 0xa5, sizeof want);
            kern_panel_pack_on(KERN_PATH_SCALAR, t, src, 15, cols, want);
            for (kern_path p = KERN_PATH_SCALAR; p <= kern_row_path(); p++) {
                memset(got, 0xa5, sizeof got);
                got[stride - 1] = 1;
                kern_panel_pack_on(p, t, src, 16, cols, got);
                if (memcmp(want, got, sizeof got)) fail_msg("%s, %u columns: path %d differs", kern_dtype_get(t)->name, cols, p);
                assert_int_equal(got[stride], 0xa5);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read_alike),
        cmocka_unit_test(blocks_move_alike),
        cmocka_unit_test(rows_are_quantised_alike),
        cmocka_unit_test(bytes_come_with_what_they_change),
        cmocka_unit_test(panels_are_packed_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
