#include "daemon/rank/device.h"

#include <stdio.h>
#include <unistd.h>

#include "kernels/cuda/open.h"

/* ---- opening ---- */

/* Where no list says more, a rank takes the device of its number on its host; with fewer devices they are dealt in turn.
 * How many there are is only known by asking for one that is not. */
static px_code open_device(daemon_rank *r, px_err *e)
{
    kern_open_args args = { .threads = daemon_contract_threads(&r->config, r->world), .deterministic = r->config.deterministic,
                            .fp8_activations = r->config.fp8_activations };
    uint32_t want;
    bool listed;
    px_code rc;

    if ((rc = proto_config_device(&r->config, comm_launcher_local_rank(), &want, &listed, e))) return rc;
    args.device = want;
    while ((rc = r->ops->open(&r->dev, &r->heap.a, &args, e)) == PX_ERANGE && !listed && args.device) {
        px_err_clear(e);
        args.device--;
    }
    if (!rc && args.device != want && want % (args.device + 1) != args.device) {
        r->ops->close(r->dev);
        r->dev = NULL;
        args.device = want % (args.device + 1);
        rc = r->ops->open(&r->dev, &r->heap.a, &args, e);
    }
    r->ordinal = args.device;
    return rc;
}

px_code daemon_rank_device_open(daemon_rank *r, px_err *e)
{
    px_code rc;

    if ((rc = kern_cuda_ops(&r->ops, NULL, e)) || (rc = open_device(r, e)) || (rc = r->ops->info(r->dev, &r->gpu, e))) return rc;
    /* What lies there beside us is counted as ours: nobody can tell before there is a context. */
    r->taken_context = r->gpu.total_bytes - r->gpu.free_bytes;
    return PX_OK;
}

void daemon_rank_device_close(daemon_rank *r)
{
    comm_close(r->sums);
    if (r->dev) r->ops->close(r->dev);
    r->sums = NULL;
    r->dev = NULL;
}

void daemon_rank_device_tell_products(daemon_rank *r)
{
    kern_info now;

    if (!r->config.fp8_activations || r->ops->info(r->dev, &now, NULL)) return;
    px_log_line(&r->log, now.products_f16 ? PX_WARN : PX_INFO, "fp8_activations", "products=%u as_f16=%u", now.products_fp8, now.products_f16);
}

uint64_t daemon_rank_device_taken(daemon_rank *r, uint64_t *free_before)
{
    kern_info now;
    uint64_t before = *free_before;

    if (r->ops->info(r->dev, &now, NULL)) return 0;
    *free_before = now.free_bytes;
    return before > now.free_bytes ? before - now.free_bytes : 0;
}

/* ---- comm's side ---- */

static px_code get(void *ctx, size_t bytes, void **out, px_err *e)
{
    daemon_rank *r = ctx;
    kern_buf b;
    px_code rc = r->ops->alloc(r->dev, bytes, &b, e);

    *out = b.h;
    if (!rc) r->sums_held += bytes;
    return rc;
}

static void put(void *ctx, void *p, size_t bytes)
{
    daemon_rank *r = ctx;

    r->sums_held -= bytes;
    r->ops->free(r->dev, &(kern_buf){ p, bytes });
}

static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    daemon_rank *r = ctx;
    return r->ops->download(r->dev, dst, (kern_buf){ (void *)(uintptr_t)src, bytes }, bytes, e);
}

static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    daemon_rank *r = ctx;
    return r->ops->upload(r->dev, (kern_buf){ dst, bytes }, src, bytes, e);
}

static void failed(void *ctx, const px_err *e)
{
    px_err ignored = {0};

    daemon_rank_report(ctx, PHALANX__WIRE__STAGE__MPI, 0, e, 1, &ignored);
}

/* The executor's graphs have the lower numbers, and are recorded later. */
#define MEASURED (KERN_MAX_GRAPHS - 1)

static px_code record(void *ctx, px_err *e)
{
    daemon_rank *r = ctx;
    return r->ops->record(r->dev, MEASURED, e);
}

static px_code end(void *ctx, px_err *e)
{
    daemon_rank *r = ctx;
    return r->ops->end(r->dev, e);
}

static px_code replay(void *ctx, px_err *e)
{
    daemon_rank *r = ctx;
    bool replayed;
    px_code rc = r->ops->replay(r->dev, MEASURED, &replayed, e);
    return rc || replayed ? rc : px_fail(e, PX_EINTERNAL, "replay", "the graph of the measurement is gone");
}

/* What each way of adding takes, a line a size; rank 0 speaks for all. */
static void tell(const daemon_rank *r, const comm_measured *m)
{
    char line[256];

    for (uint32_t i = 0; i < m->n && r->rank == 0; i++) {
        size_t n = 0;
        for (comm_algorithm a = 0; a < COMM_N_ALGORITHMS; a++)
            if (m->there[a]) n += (size_t)snprintf(line + n, sizeof line - n, " %s_us=%.1f", comm_algorithm_name(a), (double)m->at[i].us[a]);
        px_log_line(&r->log, PX_INFO, "sum_latency", "bytes=%zu%s", m->at[i].bytes, n ? line : "");
    }
    if (r->rank == 0)
        px_log_line(&r->log, PX_INFO, "sums", "chosen=%s measured=%s", comm_algorithm_name(m->chosen), m->graphs ? "graph" : "calls");
}

px_code daemon_rank_device_sums_all(daemon_rank *r, px_time_us until, px_err *e)
{
    const px_time_us left = until - px_now_us();
    comm_device_args args = { .device = &r->sums_on, .host = r->comm, .partial_bytes = r->setup.partial_bytes, .timeout_us = left > 1 ? left : 1 };
    const size_t host = atomic_load(&r->transport.count.live);
    uint64_t before = 0;
    comm_measured measured;
    px_code rc;

    r->sums_on = (comm_device){ .ctx = r, .queue = r->ops->native_queue(r->dev), .get = get, .put = put, .to_host = to_host,
                                .to_device = to_device, .record = record, .end = end, .replay = replay, .failed = failed };
    daemon_rank_device_taken(r, &before);
    if ((rc = comm_open_device_all(&r->sums, &r->transport.a, &args, r->setup.nccl ? COMM_REDUCE_NCCL : COMM_REDUCE_ORDERED, e)))
        return rc;
    if (r->world > 1) {
        if ((rc = comm_measure_all(r->sums, r->manifest.arch.d_model * sizeof(float), &measured, e))) return rc;
        tell(r, &measured);
        /* the graph that was measured holds NCCL's sums */
        if (r->setup.nccl && !(rc = record(r, e))) rc = end(r, e);
    }
    before = daemon_rank_device_taken(r, &before);
    r->taken_nccl = before > r->sums_held ? before - r->sums_held : 0;
    if (r->setup.nccl) r->sums_beside = atomic_load(&r->transport.count.live) - host;
    return rc;
}
