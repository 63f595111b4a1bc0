/* rope_avx512.c - rope_append on AVX-512: the body with vec_avx512.h. */
#include "kernels/cpu/vec_avx512.h"

#define OP kern_cpu_rope_append_avx512
#include "kernels/cpu/rope_body.h"
