/* backend.c - the CPU as a device: memory is the host's, the queue runs at once, work is split by OpenMP. */
#include "kernels/cpu/cpu.h"

#include <stdatomic.h>
#include <string.h>

#define MAX_THREADS 1024u

void kern_cpu_split(kern_dev *d, uint32_t max_parts, kern_cpu_body *body, const void *ctx)
{
    uint32_t n = d->threads < max_parts ? d->threads : max_parts;

    if (n <= 1) {
        body(ctx, 0, 1);
        return;
    }
#pragma omp parallel for schedule(static, 1) num_threads((int)n)
    for (uint32_t part = 0; part < n; part++) body(ctx, part, n);
}

px_code kern_cpu_need(kern_buf b, size_t n, size_t each, const char *field, px_err *e)
{
    size_t bytes;

    if (px_mul(n, each, &bytes)) return px_fail(e, PX_EINTERNAL, field, "%zu x %zu bytes overflow", n, each);
    if (bytes > b.bytes || (bytes && !b.h))
        return px_fail(e, PX_EINTERNAL, field, "a buffer of %zu bytes where %zu are used", b.bytes, bytes);
    return PX_OK;
}

static void check_flushing(const void *ctx, uint32_t part, uint32_t n_parts)
{
    _Atomic uint32_t *bad = *(_Atomic uint32_t *const *)ctx;

    (void)part, (void)n_parts;
    if (!kern_ftz_is_set()) atomic_fetch_add(bad, 1);
}

px_code kern_cpu_open(kern_dev **out, px_alloc *a, const kern_open_args *args, px_err *e)
{
    const uint32_t threads = args->threads;
    _Atomic uint32_t bad = 0, *where = &bad;
    kern_dev *d;

    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return px_fail(e, PX_ERANGE, "threads", "%u threads, 1 to %u are possible", threads, MAX_THREADS);
    if (args->fp8_activations) return px_refuse(e, PX_EUNSUP, "fp8_activations", "cpu", "cuda", "the CPU multiplies FP8 weights with fp32");
    if (!(d = px_new(a, kern_dev, 1))) return px_fail(e, PX_ENOMEM, "kern_dev", "%zu bytes", sizeof *d);
    *d = (kern_dev){ .a = a, .threads = threads };
    /* Makes the threads, too: the first op finds them. */
    kern_cpu_split(d, threads, check_flushing, &where);
    if (bad) {
        kern_cpu_close(d);
        return px_fail(e, PX_EINTERNAL, "ftz", "%u of %u threads do not flush subnormal numbers to zero", bad, threads);
    }
    *out = d;
    return PX_OK;
}

void kern_cpu_close(kern_dev *d)
{
    if (d) px_del(d->a, d, 1);
}

px_code kern_cpu_info(kern_dev *d, kern_info *out, px_err *e)
{
    (void)d, (void)e;
    *out = (kern_info){0};
    return PX_OK;
}

px_code kern_cpu_alloc(kern_dev *d, size_t bytes, kern_buf *out, px_err *e)
{
    *out = (kern_buf){0};
    void *p = d->a->get(d->a, bytes, 64);
    if (!p) return px_fail(e, PX_ENOMEM, "kern_buf", "%zu bytes", bytes);
    memset(p, 0, bytes);                       /* zeroed, and every page is there from now on */
    *out = (kern_buf){ p, bytes };
    return PX_OK;
}

void kern_cpu_free(kern_dev *d, kern_buf *b)
{
    if (b->h) d->a->put(d->a, b->h, b->bytes);
    *b = (kern_buf){0};
}

px_code kern_cpu_wrap(kern_dev *d, void *host, size_t bytes, kern_buf *out, px_err *e)
{
    (void)d;
    *out = (kern_buf){0};
    if (!host && bytes) return px_fail(e, PX_EINTERNAL, "wrap.host", "no memory to wrap");
    *out = (kern_buf){ host, bytes };
    return PX_OK;
}

px_code kern_cpu_upload(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e)
{
    px_code rc = kern_cpu_need(dst, bytes, 1, "upload.dst", e);

    (void)d;
    if (!rc && bytes) memcpy(dst.h, src, bytes);
    return rc;
}

px_code kern_cpu_download(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e)
{
    px_code rc = kern_cpu_need(src, bytes, 1, "download.src", e);

    (void)d;
    if (!rc && bytes) memcpy(dst, src.h, bytes);
    return rc;
}

px_code kern_cpu_wait(kern_dev *d, px_err *e)
{
    (void)d, (void)e;
    return PX_OK;
}

void *kern_cpu_native_queue(kern_dev *d)
{
    (void)d;
    return NULL;
}

/* Ops have run when they return, so there is nothing to keep; what a graph backend would refuse is refused here too,
 * so that the CPU finds the mistake. */
px_code kern_cpu_record(kern_dev *d, uint32_t id, px_err *e)
{
    if (d->recording) return px_fail(e, PX_EINVAL, "record", "record %u inside another record", id);
    d->recording = true;
    return PX_OK;
}

px_code kern_cpu_end(kern_dev *d, px_err *e)
{
    if (!d->recording) return px_fail(e, PX_EINVAL, "end", "end without record");
    d->recording = false;
    return PX_OK;
}

px_code kern_cpu_replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e)
{
    *replayed = false;
    if (d->recording) return px_fail(e, PX_EINVAL, "replay", "replay %u inside a record", id);
    return PX_OK;
}
