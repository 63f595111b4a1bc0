/* rope_avx2.c - rope_append on AVX2: the body with vec_avx2.h. */
#include "kernels/cpu/vec_avx2.h"

#define OP kern_cpu_rope_append_avx2
#include "kernels/cpu/rope_body.h"
