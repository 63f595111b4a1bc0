/* topk_avx512.c - candidates on AVX-512: the body with vec_avx512.h. */
#include "kernels/cpu/vec_avx512.h"

#define OP kern_cpu_candidates_avx512
#include "kernels/cpu/topk_body.h"
