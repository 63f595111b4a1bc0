/* attention_avx512.c - attention on AVX-512: the body with vec_avx512.h. */
#include "kernels/cpu/vec_avx512.h"

#define OP kern_cpu_attention_avx512
#include "kernels/cpu/attention_body.h"
