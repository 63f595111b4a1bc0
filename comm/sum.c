/* sum.c - built with -O3: the loops are plain so that the compiler makes vectors of them.  Vectors change no bit: every
 * element keeps its own additions. */
#include "comm/sum.h"

#include <string.h>

#include "comm/comm.h"
#include "proto/base/tree.h"

#define BLOCK 1024u                   /* floats: a block and its partial sums stay in the first cache */

static void add2(float *restrict out, const float *restrict a, const float *restrict b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = a[i] + b[i];
}

static void add_to(float *restrict out, const float *restrict b, size_t len)
{
    for (size_t i = 0; i < len; i++) out[i] = out[i] + b[i];
}

/* Depth is log2 of the ranks: six frames of one block for 64. */
static void sum_block(float *restrict out, const float *const *view, unsigned n, size_t at, size_t len)
{
    if (n == 1) {
        memcpy(out, view[0] + at, len * sizeof *out);
    } else if (n == 2) {
        add2(out, view[0] + at, view[1] + at, len);
    } else {
        unsigned left = px_tree_split(n);
        float right[BLOCK];
        sum_block(out, view, left, at, len);
        if (n - left == 1) {
            add_to(out, view[left] + at, len);
        } else {
            sum_block(right, view + left, n - left, at, len);
            add_to(out, right, len);
        }
    }
}

void comm_sum_views(float *restrict out, const float *const *view, unsigned n, size_t len)
{
    for (size_t at = 0; at < len; at += BLOCK) sum_block(out + at, view, n, at, len - at < BLOCK ? len - at : BLOCK);
}

void comm_sum_tree(float *restrict out, const float *restrict base, size_t stride, unsigned n, size_t len)
{
    const float *view[COMM_MAX_WORLD];

    for (unsigned i = 0; i < n; i++) view[i] = base + i * stride;
    comm_sum_views(out, view, n, len);
}
