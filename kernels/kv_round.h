/* kv_round.h - what a KV cache of each type keeps of a vector, where no backend at hand has one: the definition that
 * cuda/rope_append.cu and tests/kernels/cuda hold.  Layer: kernels; pure. */
#ifndef KERN_KV_ROUND_H
#define KERN_KV_ROUND_H

#include "kernels/kernels.h"

/* The vector x[0], x[step], ... of head_dim finite numbers becomes what is read back from a cache of type t. */
void kern_kv_round(kern_kv_dtype t, float *x, uint32_t head_dim, uint32_t step);

#endif
