/* topk_avx2.c - candidates on AVX2: the body with vec_avx2.h. */
#include "kernels/cpu/vec_avx2.h"

#define OP kern_cpu_candidates_avx2
#include "kernels/cpu/topk_body.h"
