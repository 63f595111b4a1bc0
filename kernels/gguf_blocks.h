/* gguf_blocks.h - reading the block types of GGUF that no backend multiplies with: Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, IQ2_XS.
 * Layer: kernels, its own.  Pure; every bit pattern is a block, so nothing can be wrong with one but its size. */
#ifndef KERN_GGUF_BLOCKS_H
#define KERN_GGUF_BLOCKS_H

#include "kernels/row_path.h"

/* n elements, a multiple of the block, as fp32; another type: zeros. */
void kern_gguf_to_f32(kern_path path, kern_dtype t, const void *src, size_t n, float *dst);

/* Parts of blocks.  Q4_K, Q5_K: scale and minimum, six bits each, of the group g (0..7) of 32, from their 12 bytes. */
void kern_k_scale_and_min(const uint8_t *s, int g, int *scale, int *min);
/* Q3_K: the scale of group g (0..15) of 16, -32..31, from its 12 bytes. */
static inline int kern_q3_k_scale(const uint8_t *s, int g)
{
    return ((g < 8 ? s[g] & 15 : s[g - 8] >> 4) | (s[8 + g % 4] >> g / 4 * 2 & 3) << 4) - 32;
}
/* IQ4_XS: the scale of group g, -32..31, from a block.  IQ4_NL, IQ4_XS: what a nibble stands for. */
int  kern_iq4_xs_scale(const uint8_t *block, int g);
extern const int8_t kern_iq4_level[16];
/* IQ2_XS: the 256 levels of a block with their signs, +-8, 25 or 43. */
void kern_iq2_levels(const uint8_t *block, int8_t q[256]);
/* Those levels as numbers of KERN_Q4_HL_LEVELS. */
void kern_iq2_numbers(const uint8_t *block, uint8_t q[256]);

#endif
