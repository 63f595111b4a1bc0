/* rows.c - paths, devices and buffers of the row ops' tests. */
#include "tests/kernels/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool scalar_runs(void) { return true; }
static bool avx2_runs(void) { return kern_cpu_has(KERN_PATH_AVX2); }
static bool avx512_runs(void) { return kern_cpu_has(KERN_PATH_AVX512); }

#define PATH(p) { "cpu-" #p, p##_runs, kern_cpu_add_norm_##p, kern_cpu_rope_append_##p, kern_cpu_attention_##p, \
                  kern_cpu_quant_##p, kern_cpu_swiglu_##p, kern_cpu_candidates_##p }
const row_path row_paths[3] = { PATH(scalar), PATH(avx2), PATH(avx512) };

bool row_run_get(uint32_t i, row_run *out)
{
    static const struct { uint32_t path, threads; } runs[ROW_RUNS] = { { 0, 3 }, { 1, 1 }, { 1, 3 }, { 2, 1 }, { 2, 3 } };
    static bool told[3];

    *out = (row_run){ &row_paths[runs[i].path], runs[i].threads };
    if (out->path->runs()) return true;
    if (!told[runs[i].path]) printf("SKIP: %s: this processor lacks it\n", out->path->name);
    told[runs[i].path] = true;
    return false;
}

kern_buf row_buf(size_t bytes)
{
    kern_buf b = { malloc(bytes ? bytes : 1), bytes };
    assert_non_null(b.h);
    memset(b.h, 0, bytes);
    return b;
}

kern_buf row_copy(kern_buf b)
{
    kern_buf c = row_buf(b.bytes);
    memcpy(c.h, b.h, b.bytes);
    return c;
}

void row_drop(kern_buf *b)
{
    free(b->h);
    *b = (kern_buf){0};
}

void row_fill(kern_buf b, uint64_t *seed, float scale)
{
    for (size_t i = 0; i < b.bytes / 4; i++) ((float *)b.h)[i] = test_rand_normal(seed) * scale;
}

kern_rows row_count(uint32_t max, uint32_t live)
{
    kern_rows r = { max, row_buf(4) };
    memcpy(r.live.h, &live, 4);
    return r;
}

void row_equal(kern_buf a, kern_buf b, const char *what, const char *path)
{
    assert_int_equal(a.bytes, b.bytes);
    for (size_t i = 0; i < a.bytes; i++)
        if (((uint8_t *)a.h)[i] != ((uint8_t *)b.h)[i])
            fail_msg("%s: %s differs from the definition at byte %zu of %zu", path, what, i, a.bytes);
}
