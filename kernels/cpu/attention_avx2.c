/* attention_avx2.c - attention on AVX2: the body with vec_avx2.h. */
#include "kernels/cpu/vec_avx2.h"

#define OP kern_cpu_attention_avx2
#include "kernels/cpu/attention_body.h"
