/* quantise.c - fp32 rows into the types with scales, and into F16 (dtype.h: the rules), compiled for each instruction set from
 * quantise_body.h.  The bits depend on nothing but the values. */
#include "kernels/dtype.h"
#include "kernels/half.h"

#include <math.h>
#include <string.h>

#define F16_MOST 65504.0f

static void put_half(uint8_t *p, uint16_t h) { p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8); }

/* The scale of bytes: max |x| / 127 to the nearest fp16, or the next larger one where a quant would exceed 127 (scales among the
 * subnormals are coarse). */
static uint16_t scale_of_bytes(float most)
{
    uint16_t h = kern_one_float(most / 127.0f);

    if (most == 0) return 0;
    while (h == 0 || most / kern_one_half(h) >= 127.5f) h++;         /* the tie goes to 128 */
    return h;
}

/* The largest fp16 that is not above x; of magnitudes up to 65504. */
static uint16_t half_below(float x)
{
    uint16_t h = kern_one_float(x);

    if (kern_one_half(h) <= x) return h;
    return (uint16_t)(h & 0x8000 ? h + 1 : h - 1);                /* a positive h is not 0 here: 0 is above no positive x */
}

#define ROW_PATH 0
#include "kernels/quantise_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/quantise_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/quantise_body.h"

bool kern_row_quantise_on(kern_path path, kern_dtype t, const float *src, size_t n, void *dst)
{
    if (path == KERN_PATH_AVX512) return quantise_avx512(t, src, n, dst);
    return path == KERN_PATH_AVX2 ? quantise_avx2(t, src, n, dst) : quantise_plain(t, src, n, dst);
}

bool kern_row_to_bytes_on(kern_path path, const float *src, size_t n, void *dst, double sums[2])
{
    if (n % 32) return false;
    if (path == KERN_PATH_AVX512) return bytes_avx512(src, n, dst, sums);
    return path == KERN_PATH_AVX2 ? bytes_avx2(src, n, dst, sums) : bytes_plain(src, n, dst, sums);
}

bool kern_row_requantise_on(kern_path path, const float *src, const float *step, size_t n, void *dst)
{
    if (path == KERN_PATH_AVX512) return requantise_avx512(src, step, n, dst);
    return path == KERN_PATH_AVX2 ? requantise_avx2(src, step, n, dst) : requantise_plain(src, step, n, dst);
}

void kern_row_distance_on(kern_path path, const float *was, const float *is, size_t n, double *error, double *size)
{
    if (path == KERN_PATH_AVX512) distance_avx512(was, is, n, error, size);
    else if (path == KERN_PATH_AVX2) distance_avx2(was, is, n, error, size);
    else distance_plain(was, is, n, error, size);
}

bool kern_row_quantise(kern_dtype t, const float *src, size_t n, void *dst) { return kern_row_quantise_on(kern_row_path(), t, src, n, dst); }

bool kern_row_to_bytes(const float *src, size_t n, void *dst, double sums[2]) { return kern_row_to_bytes_on(kern_row_path(), src, n, dst, sums); }

bool kern_row_requantise(const float *src, const float *step, size_t n, void *dst)
{
    return kern_row_requantise_on(kern_row_path(), src, step, n, dst);
}

void kern_row_distance(const float *was, const float *is, size_t n, double *error, double *size)
{
    kern_row_distance_on(kern_row_path(), was, is, n, error, size);
}
