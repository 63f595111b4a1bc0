/* testlib.h - what every test program shares: the OOM sweep, scratch folders, golden files.
 * Layer: tests (nothing includes tests). */
#ifndef TESTS_TESTLIB_H
#define TESTS_TESTLIB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/base/alloc.h"
#include "proto/base/io.h"

/* Run build_and_drop with an allocator that fails at the 0th, 1st, 2nd ... get until a run needs no failure.
 * Every failing run must return PX_ENOMEM (or succeed without the allocation), and leave no fault and no leak. */
void test_oom_sweep(px_code (*build_and_drop)(px_alloc *a, px_err *e));

/* The end of a program whose tests share a heap: its exit code, 1 if tests failed or bytes of the heap are live, and says so. */
int test_heap_end(px_heap *h, int failed);

/* A fresh folder under the temporary folder, removed at exit, also when the test fails. */
const char *test_tmpdir(void);

/* Path of a golden file below tests/golden (returns static storage of 8 rotating buffers). */
const char *test_golden(const char *name);
/* Path below ../shared, or NULL with a printed line "SKIP: ..." when the file is absent. */
const char *test_shared(const char *name);

/* Deterministic random numbers: splitmix64. */
uint64_t test_rand(uint64_t *state);
double   test_rand_unit(uint64_t *state);    /* [0, 1) */
float    test_rand_normal(uint64_t *state);

#endif
