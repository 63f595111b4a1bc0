/* ops.h - the table that these tests are about: the host build's (tests/cuda_host/table.h), or with TEST_CUDA_PLUGIN defined that of
 * the plugin on a GPU (skipped loudly where there is none).
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_OPS_H
#define TESTS_KERNELS_CUDA_OPS_H

#include "kernels/kernels.h"

#include "tests/kernels/cuda/effort.h"
#include "tests/testlib.h"

/* NULL: there is no device; *e says what is missing. */
const kern_ops *cuda_ops_find(px_err *e);
/* An open device for tests; what is missing fails the test.  The host build's has compute capability 8.9 where the arguments want it. */
kern_dev       *cuda_ops_open(const kern_ops **ops, px_alloc *a, const kern_open_args *args);
/* The host build: the next of the shim's schedules, from here on.  A GPU has its own. */
void            cuda_ops_next_schedule(void);
/* The host build: devices opened from here on have 99 KB of shared memory a block, as compute capability 8.6 and 8.9, or again 163 KB, as
 * 8.0.  false: a GPU has what it has. */
bool            cuda_ops_little_shared(bool little);
/* Runs the group.  77: there is no device, nothing was tested. */
int             cuda_ops_main(const struct CMUnitTest *tests, size_t n, CMFixtureFunction after);

/* That the bench's `op` refuses `args` with `change` made in a copy of them, `a`: the code, and the field that it names. */
#define CUDA_REFUSED(bench, op, args, code, name, change)                  \
    do {                                                                   \
        kern_##op##_args a = args;                                         \
        px_err refusal = {0};                                              \
        change;                                                            \
        assert_int_equal((bench).ops->op((bench).d, &a, &refusal), code);  \
        assert_string_equal(refusal.field, name);                          \
    } while (0)

#endif
