/* sum.h - arrays added in tree order (proto/base/tree.h), for transports that hand out one view of sums.
 * Layer: comm, internal. */
#ifndef COMM_SUM_H
#define COMM_SUM_H

#include <stddef.h>

/* out[i] = px_tree_sum of the n (1..COMM_MAX_WORLD) arrays, i < len; bit for bit.  out overlaps none of them. */
void comm_sum_views(float *restrict out, const float *const *view, unsigned n, size_t len);
/* The same of the arrays base + r * stride. */
void comm_sum_tree(float *restrict out, const float *restrict base, size_t stride, unsigned n, size_t len);

#endif
