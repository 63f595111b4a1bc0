/* row_path.h - one text of the functions over rows, compiled for each instruction set: a body is included once a path, with ROW_PATH
 * 0 (any x86-64), 1 (AVX2) or 2 (AVX-512), and defines its functions with ROW_FN and ROW(name).  No guard: each body includes it.
 * Their loops have a constant length and no sum in a lane's order, so that every path gives the same bits (-ffp-contract=off).
 * Beside kernels/cpu, whose files are compiled with an instruction set's flags: these functions stand without a backend. */
#ifdef ROW_PATH
#undef ROW
#undef ROW_FN
#if ROW_PATH == 0
#define ROW(name) name##_plain
#define ROW_FN static __attribute__((unused))
#elif ROW_PATH == 1
#define ROW(name) name##_avx2
#define ROW_FN static __attribute__((unused, target("avx2")))
#elif defined(__clang__)
#define ROW(name) name##_avx512
#define ROW_FN static __attribute__((unused, target("avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define ROW(name) name##_avx512
#define ROW_FN static __attribute__((unused, target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif
#endif

#ifndef KERN_ROW_PATH_H
#define KERN_ROW_PATH_H

#include "kernels/kernels.h"

/* The functions of dtype.h and reblock.h on a path that the CPU has; for tests. */
void kern_row_to_f32_on(kern_path path, kern_dtype t, const void *src, size_t n, float *dst);
bool kern_row_quantise_on(kern_path path, kern_dtype t, const float *src, size_t n, void *dst);
void kern_row_to_fp8_on(kern_path path, const float *src, size_t n, float d, void *dst);
bool kern_row_to_bytes_on(kern_path path, const float *src, size_t n, void *dst, double sums[2]);
bool kern_row_requantise_on(kern_path path, const float *src, const float *step, size_t n, void *dst);
void kern_row_distance_on(kern_path path, const float *was, const float *is, size_t n, double *error, double *size);
bool kern_row_reblock_on(kern_path path, kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2]);
void kern_panel_pack_on(kern_path path, kern_dtype t, const void *const *src, uint32_t n_rows, uint64_t cols, void *panel);

/* A function of a body, on a path. */
#define ROW_ON(path, name, ...) \
    ((path) == KERN_PATH_AVX512 ? name##_avx512(__VA_ARGS__) : (path) == KERN_PATH_AVX2 ? name##_avx2(__VA_ARGS__) : name##_plain(__VA_ARGS__))

/* The best path that the CPU has. */
static inline kern_path kern_row_path(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq"))
        return KERN_PATH_AVX512;
    return __builtin_cpu_supports("avx2") ? KERN_PATH_AVX2 : KERN_PATH_SCALAR;
}

#endif
