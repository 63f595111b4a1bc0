/* vec_probe_avx512.c - the vector functions of vec_avx512.h, callable from a test. */
#include "kernels/cpu/vec_avx512.h"
#include "tests/kernels/rows.h"

static void exps(const float *x, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) v_store(y + i, v_exp(v_load(x + i)));
}

static void logs(const float *x, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) v_store(y + i, v_log(v_load(x + i)));
}

static void gumbels(const uint32_t *w, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) v_store(y + i, v_gumbel(w + i));
}

static void words(const kern_draw *d, uint32_t group, uint32_t *w) { v_philox_64(d, group, w); }

const row_vec row_vec_avx512 = { exps, logs, gumbels, words };
