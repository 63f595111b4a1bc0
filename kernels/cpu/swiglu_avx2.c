/* swiglu_avx2.c - swiglu on AVX2: the body with vec_avx2.h. */
#include "kernels/cpu/vec_avx2.h"

#define OP kern_cpu_swiglu_avx2
#define QUANT kern_cpu_quant_avx2
#include "kernels/cpu/swiglu_body.h"
