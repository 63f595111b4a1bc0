#include "tests/kernels/cuda/kv_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef TEST_CUDA_PLUGIN
#include "kernels/cuda/open.h"
#else
#include "kernels/cuda/device.h"
#include "tests/cuda_host/cuda_host.h"

/* A device opens the library of matrix products, and none is multiplied here. */
px_code kern_cuda_blas_open(kern_dev *d, px_err *e)
{
    (void)d;
    (void)e;
    return PX_OK;
}
void kern_cuda_blas_close(kern_dev *d) { (void)d; }
#endif

static const kern_ops *find_ops(px_err *e)
{
#ifdef TEST_CUDA_PLUGIN
    const kern_ops *ops;
    return kern_cuda_ops(&ops, TEST_CUDA_PLUGIN, e) ? NULL : ops;
#else
    static const kern_ops ops = {
        .size = sizeof ops, .abi = KERN_ABI, .backend = KERN_ON_CUDA, .name = "cuda-host",
        .open = kern_cuda_open, .close = kern_cuda_close, .alloc = kern_cuda_alloc, .free = kern_cuda_free,
        .upload = kern_cuda_upload, .download = kern_cuda_download, .wait = kern_cuda_wait,
        .record = kern_cuda_record, .end = kern_cuda_end, .replay = kern_cuda_replay,
        .rope_append = kern_cuda_rope_append, .attention = kern_cuda_attention,
    };
    (void)e;
    return &ops;
#endif
}

cuda_bench cuda_bench_open(void **state, bool deterministic)
{
    cuda_bench b = { .heap = malloc(sizeof *b.heap) };
    px_err e = {0};

    (void)state;
    assert_non_null(b.heap);
    px_heap_init(b.heap, "test");
    b.ops = find_ops(&e);
    if (!b.ops || b.ops->open(&b.d, &b.heap->a, &(kern_open_args){ .threads = 1, .deterministic = deterministic }, &e))
        fail_msg("%s: %s", e.field, e.text);
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

void cuda_bench_next_schedule(void)
{
#ifndef TEST_CUDA_PLUGIN
    static unsigned next;
    cuh_schedule(next++ % cuh_n_schedules());
#endif
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

int cuda_bench_main(const struct CMUnitTest *tests, size_t n)
{
    px_err e = {0};

    if (!find_ops(&e)) {
        printf("SKIPPED: %s: %s\n", e.field, e.text);
        return 77;
    }
    return _cmocka_run_group_tests("cuda", tests, n, NULL, NULL);
}
