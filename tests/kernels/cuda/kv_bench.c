#include "tests/kernels/cuda/kv_bench.h"

#include <stdlib.h>
#include <string.h>

#ifndef TEST_CUDA_PLUGIN
#include "tests/cuda_host/cuda_host.h"
#endif

cuda_bench cuda_bench_open(void **state, bool deterministic)
{
    cuda_bench b = { .heap = malloc(sizeof *b.heap) };

    (void)state;
    assert_non_null(b.heap);
    px_heap_init(b.heap, "test");
    b.d = cuda_ops_open(&b.ops, &b.heap->a, &(kern_open_args){ .threads = 1, .deterministic = deterministic });
    return b;
}

void cuda_bench_close(cuda_bench *b)
{
    b->ops->close(b->d);
    assert_int_equal(atomic_load(&b->heap->count.live), 0);
    px_heap_deinit(b->heap);
    free(b->heap);
    *b = (cuda_bench){0};
}

kern_buf cuda_bench_put(const cuda_bench *b, const void *src, size_t bytes)
{
    kern_buf out;
    px_err e = {0};

    if (b->ops->alloc(b->d, bytes ? bytes : 1, &out, &e) || (bytes && b->ops->upload(b->d, out, src, bytes, &e)))
        fail_msg("%s: %s", e.field, e.text);
    return out;
}

kern_buf cuda_bench_poisoned(const cuda_bench *b, size_t bytes)
{
    void *p = malloc(bytes + 1);

    assert_non_null(p);
    memset(p, 0xff, bytes);
    kern_buf out = cuda_bench_put(b, p, bytes);
    free(p);
    return out;
}

void cuda_bench_get(const cuda_bench *b, void *dst, kern_buf src, size_t bytes)
{
    px_err e = {0};

    if (b->ops->download(b->d, dst, src, bytes, &e)) fail_msg("%s: %s", e.field, e.text);
}

void cuda_bench_defined(const void *p, size_t bytes)
{
#ifndef TEST_CUDA_PLUGIN
    cuh_defined(p, bytes);
#else
    (void)p;
    (void)bytes;
#endif
}
