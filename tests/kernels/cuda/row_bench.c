#include "tests/kernels/cuda/row_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

row_bench row_bench_open(void)
{
    row_bench b = { .heap = malloc(sizeof *b.heap) };
    px_err e = {0};

    assert_non_null(b.heap);
    px_heap_init(b.heap, "test");
    if (kern_cpu_ops(KERN_PATH_SCALAR, &b.cpu, &e) || b.cpu->open(&b.cpu_d, &b.heap->a, &(kern_open_args){ .threads = 1 }, &e))
        fail_msg("%s: %s", e.field, e.text);
    b.d = cuda_ops_open(&b.ops, &b.heap->a, &(kern_open_args){ .threads = 1 });
    return b;
}

void row_bench_close(row_bench *b)
{
    b->ops->close(b->d);
    b->cpu->close(b->cpu_d);
    assert_int_equal(atomic_load(&b->heap->count.live), 0);
    px_heap_deinit(b->heap);
    free(b->heap);
    *b = (row_bench){0};
}

row_pair row_pair_get(const row_bench *b, size_t bytes)
{
    row_pair p = { .host = { malloc(bytes + !bytes), bytes } };
    px_err e = {0};

    assert_non_null(p.host.h);
    memset(p.host.h, 0xff, bytes);
    if (b->ops->alloc(b->d, bytes, &p.dev, &e)) fail_msg("%s: %s", e.field, e.text);
    row_pair_upload(b, &p);
    return p;
}

row_pair row_pair_normal(const row_bench *b, size_t floats, float size, uint64_t *seed)
{
    row_pair p = row_pair_get(b, floats * 4);

    for (size_t i = 0; i < floats; i++) ((float *)p.host.h)[i] = test_rand_normal(seed) * size;
    row_pair_upload(b, &p);
    return p;
}

void row_pair_upload(const row_bench *b, row_pair *p)
{
    px_err e = {0};

    if (p->host.bytes && b->ops->upload(b->d, p->dev, p->host.h, p->host.bytes, &e)) fail_msg("%s: %s", e.field, e.text);
}

void row_pair_put(const row_bench *b, row_pair *p)
{
    free(p->host.h);
    b->ops->free(b->d, &p->dev);
    *p = (row_pair){0};
}

void *row_pair_download(const row_bench *b, const row_pair *p)
{
    void *got = malloc(p->host.bytes + 1);
    px_err e = {0};

    assert_non_null(got);
    if (p->host.bytes && b->ops->download(b->d, got, p->dev, p->host.bytes, &e)) fail_msg("%s: %s", e.field, e.text);
    return got;
}

void row_same_float(float got, float want, const char *what, size_t i)
{
    if (!memcmp(&got, &want, sizeof got) || (isnan(got) && isnan(want))) return;
    if (fabsf(got) < 0x1p-126f && fabsf(want) < 0x1p-126f) return;
    fail_msg("%s: number %zu is %.9g, not %.9g", what, i, (double)got, (double)want);
}

void row_pair_same(const row_bench *b, const row_pair *p, const char *what)
{
    float *got = row_pair_download(b, p);

    for (size_t i = 0; i < p->host.bytes / 4; i++) row_same_float(got[i], ((float *)p->host.h)[i], what, i);
    free(got);
}

row_live row_live_get(const row_bench *b, uint32_t max, uint32_t live)
{
    row_live c = { .count = row_pair_get(b, 4) };

    memcpy(c.count.host.h, &live, 4);
    row_pair_upload(b, &c.count);
    c.host = (kern_rows){ max, c.count.host };
    c.dev = (kern_rows){ max, c.count.dev };
    return c;
}
