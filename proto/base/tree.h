/* tree.h - the one order in which ranks' partial sums are added (findings: law 5).
 * A binary tree over the rank index, split at the largest power of two below n:
 * n = 3: (r0 + r1) + r2;  n = 4: (r0 + r1) + (r2 + r3);  n = 6: ((r0+r1)+(r2+r3)) + (r4+r5).
 * Layer: proto.  Header only: a handful of additions that kernels and comm must share. */
#ifndef PROTO_TREE_H
#define PROTO_TREE_H

#include <stddef.h>

static inline unsigned px_tree_split(unsigned n)   /* n >= 2: how many ranks go to the left */
{
    unsigned p = 1;
    while (p * 2 < n) p *= 2;
    return p;
}

/* Sum element i of the n views; the views may lie anywhere. */
static inline float px_tree_sum(const float *const *view, unsigned n, size_t i)
{
    if (n == 1) return view[0][i];
    unsigned left = px_tree_split(n);
    return px_tree_sum(view, left, i) + px_tree_sum(view + left, n - left, i);
}

#endif
