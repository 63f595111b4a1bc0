/* math.h - the functions that law 5 allows instead of libm, one definition each (kernels/README.md).
 * Layer: kernels.  Pure; the caller runs with flush-to-zero set. */
#ifndef KERN_MATH_H
#define KERN_MATH_H

#include "proto/base/err.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

float px_exp(float x);      /* one polynomial; 0 below -87, clamped above 88; NaN stays NaN */
float px_log(float x);      /* one polynomial; px_log(0) = -inf, px_log(inf) = inf; negative: NaN */

/* Philox4x32-10: counter c[4], key k[2] -> 4 words. */
void kern_philox(const uint32_t c[4], const uint32_t k[2], uint32_t out[4]);
/* Gumbel noise of a token: counter = (id / 4, position of the new token, sequence index, purpose), key = seed
 * (low, high word), word = id mod 4. */
typedef struct kern_draw { uint64_t seed; uint32_t position, sequence, purpose; } kern_draw;
float kern_gumbel(const kern_draw *d, uint32_t id);
float kern_gumbel_of(uint32_t word);        /* of one Philox word */
enum { KERN_PURPOSE_TOKEN = 0 };             /* the draw of a token over a vocabulary: what candidates uses */

/* Set flush-to-zero and denormals-are-zero on this thread (threads made afterwards inherit it); check them. */
void kern_ftz_set(void);
bool kern_ftz_is_set(void);

/* Rope tables: inv_freq in double rounded to fp32 (theta, scaling as in kern_rope), angle = position * frequency in
 * fp32, cos/sin of it rounded to fp32.  cos and sin: (n_pos, head_dim/2) each. */
typedef enum kern_rope_kind { KERN_ROPE_NONE, KERN_ROPE_LINEAR, KERN_ROPE_LLAMA3 } kern_rope_kind;
typedef struct kern_rope {
    double   theta, factor, low_freq, high_freq;
    uint32_t n_ctx_orig;
    kern_rope_kind kind;
    const float *divisors;      /* (head_dim/2) rope_freqs.weight or NULL; borrowed; inverse frequencies are divided by it */
} kern_rope;
void kern_rope_tables(const kern_rope *r, uint32_t head_dim, uint32_t n_pos, float *cos_out, float *sin_out);

#ifdef __cplusplus
}
#endif

#endif
