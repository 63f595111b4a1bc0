/* norm_avx2.c - add_norm on AVX2: the body with vec_avx2.h. */
#include "kernels/cpu/vec_avx2.h"

#define OP kern_cpu_add_norm_avx2
#define QUANT kern_cpu_quant_avx2
#include "kernels/cpu/norm_body.h"
