/* fixture.h - a path's table with an open device, for the tests of this room.
 * Layer: tests. */
#ifndef TESTS_KERNELS_FIXTURE_H
#define TESTS_KERNELS_FIXTURE_H

#include "tests/testlib.h"

#include "kernels/kernels.h"

#include <stdlib.h>

typedef struct bench { const kern_ops *ops; kern_dev *d; px_heap *heap; } bench;

static inline bench bench_open(kern_path path, uint32_t threads)
{
    bench b = { .heap = malloc(sizeof *b.heap) };
    px_err e = {0};

    assert_non_null(b.heap);
    px_heap_init(b.heap, "test");
    assert_int_equal(kern_cpu_ops(path, &b.ops, &e), PX_OK);
    if (b.ops->open(&b.d, &b.heap->a, &(kern_open_args){ .threads = threads }, &e)) fail_msg("%s: %s", e.field, e.text);
    return b;
}

static inline void bench_close(bench *b)
{
    b->ops->close(b->d);
    assert_int_equal(atomic_load(&b->heap->count.live), 0);
    px_heap_deinit(b->heap);
    free(b->heap);
    *b = (bench){0};
}

#endif
