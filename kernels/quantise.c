/* quantise.c - fp32 rows into the types with scales, and into F16 (dtype.h: the rules), compiled for each instruction set from
 * quantise_body.h.  The bits depend on nothing but the values. */
#include "kernels/dtype.h"
#include "kernels/half.h"

#include <math.h>
#include <string.h>

#define F16_MOST 65504.0f

/* The scale of signed bytes whose largest magnitude is `most`: a 127th of it to the nearest fp16, or the next larger one where a quant
 * would be beyond 127 (the tie goes to 128; scales among the subnormals are coarse). */
static uint16_t scale_of_bytes(float most)
{
    uint16_t h = kern_one_float(most / 127.0f);

    while (most > 0 && (h == 0 || most / kern_one_half(h) >= 127.5f)) h++;
    return h;
}

#define FP8_MOST 448.0f
#define FP8_TINY 0x1p-100f

float kern_fp8_scale(float most) { return most < FP8_TINY ? 0 : most / FP8_MOST; }

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
    return ROW_ON(path, quantise, t, src, n, dst);
}

bool kern_row_to_bytes_on(kern_path path, const float *src, size_t n, void *dst, double sums[2])
{
    if (n % 32) return false;
    return ROW_ON(path, bytes, src, n, dst, sums);
}

bool kern_row_requantise_on(kern_path path, const float *src, const float *step, size_t n, void *dst)
{
    return ROW_ON(path, requantise, src, step, n, dst);
}

void kern_row_distance_on(kern_path path, const float *was, const float *is, size_t n, double *error, double *size)
{
    ROW_ON(path, distance, was, is, n, error, size);
}

bool kern_row_quantise(kern_dtype t, const float *src, size_t n, void *dst) { return kern_row_quantise_on(kern_row_path(), t, src, n, dst); }

float kern_row_magnitude(const float *src, size_t n) { return ROW_ON(kern_row_path(), magnitude, src, n); }

void kern_row_to_fp8_on(kern_path path, const float *src, size_t n, float d, void *dst) { ROW_ON(path, to_fp8, src, n, d, dst); }

void kern_row_to_fp8(const float *src, size_t n, float d, void *dst) { kern_row_to_fp8_on(kern_row_path(), src, n, d, dst); }

bool kern_row_to_bytes(const float *src, size_t n, void *dst, double sums[2]) { return kern_row_to_bytes_on(kern_row_path(), src, n, dst, sums); }

bool kern_row_requantise(const float *src, const float *step, size_t n, void *dst)
{
    return kern_row_requantise_on(kern_row_path(), src, step, n, dst);
}

void kern_row_distance(const float *was, const float *is, size_t n, double *error, double *size)
{
    kern_row_distance_on(kern_row_path(), was, is, n, error, size);
}
