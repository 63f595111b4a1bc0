/* planted.h - launchers of planted.cu.  Layer: tests/cuda_host. */
#ifndef TESTS_CUDA_HOST_PLANTED_H
#define TESTS_CUDA_HOST_PLANTED_H

#include "kernels/cuda/launch.h"

/* in: 128 floats; out: 128 and 128 a block; count: one, zero. */
CU_API cu_status planted(const char *fault, const float *in, float *out, unsigned *count, cu_stream s);
CU_API cu_status good_sum(const float *in, uint32_t rows, uint32_t cols, float *out, cu_stream s);
CU_API cu_status good_sum_overtaken(const float *in, uint32_t rows, uint32_t cols, float *out, cu_stream s);     /* between asking and launching */
CU_API cu_status good_copy(const void *in, uint32_t n, void *out, cu_stream s);          /* n: units of 16 bytes */
CU_API cu_status good_multiply(int bf16, const uint16_t *a, const uint16_t *b, uint32_t m, uint32_t k, float *out, cu_stream s);
CU_API cu_status good_last_block(const float *in, float *out, unsigned *count, cu_stream s);

#endif
