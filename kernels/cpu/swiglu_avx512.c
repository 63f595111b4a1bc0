/* swiglu_avx512.c - swiglu on AVX-512: the body with vec_avx512.h. */
#include "kernels/cpu/vec_avx512.h"

#define OP kern_cpu_swiglu_avx512
#define QUANT kern_cpu_quant_avx512
#include "kernels/cpu/swiglu_body.h"
