/* ring.c - bytes between host and device through pinned memory, which the device's copy engine reads by itself.
 * Uploads fill the ring piece after piece; a piece is filled again only when what was put on the queue from it has
 * travelled.  So a caller that reads a file is ahead of the copies by the ring's size, and an upload of a few bytes costs
 * no event.  Downloads wait anyway: they land in one place behind the ring. */
#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>
#include <string.h>

#define ALIGN 64u                                   /* where each upload begins in a piece */
#define SHARED_COPY_BYTES (1u << 20)                /* from here on several threads copy: one is slower than the bus */

px_code kern_cuda_ring_open(kern_dev *d, px_err *e)
{
    kern_cuda_ring *r = &d->ring;
    px_code rc = kern_cuda_done(d, "ring", cudaHostAlloc((void **)&r->base, KERN_CUDA_RING_BYTES + KERN_CUDA_LANDING_BYTES,
                                                         cudaHostAllocDefault), e);

    for (uint32_t i = 0; !rc && i < KERN_CUDA_PIECES; i++)
        rc = kern_cuda_done(d, "ring", cudaEventCreateWithFlags((cudaEvent_t *)&r->travelled[i], cudaEventDisableTiming), e);
    return rc;
}

void kern_cuda_ring_close(kern_dev *d)
{
    kern_cuda_ring *r = &d->ring;

    for (uint32_t i = 0; i < KERN_CUDA_PIECES; i++)
        if (r->travelled[i]) (void)cudaEventDestroy((cudaEvent_t)r->travelled[i]);
    if (r->base) (void)cudaFreeHost(r->base);
    *r = (kern_cuda_ring){0};
}

static px_code next_piece(kern_dev *d, px_err *e)
{
    kern_cuda_ring *r = &d->ring;
    const uint32_t next = (r->piece + 1) % KERN_CUDA_PIECES;
    px_code rc;

    if ((rc = kern_cuda_done(d, "upload", cudaEventRecord((cudaEvent_t)r->travelled[r->piece], (cudaStream_t)d->stream), e)))
        return rc;
    r->under_way[r->piece] = true;
    if (r->under_way[next] && (rc = kern_cuda_done(d, "upload", cudaEventSynchronize((cudaEvent_t)r->travelled[next]), e)))
        return rc;
    r->under_way[next] = false;
    r->piece = next;
    r->used = 0;
    return PX_OK;
}

static void fill(void *dst, const void *src, size_t bytes, uint32_t threads)
{
    const size_t share = px_align_up((bytes + threads - 1) / threads, 4096);

    if (threads == 1 || bytes < SHARED_COPY_BYTES) {
        memcpy(dst, src, bytes);
        return;
    }
#ifdef _OPENMP                                      /* in the host build one thread does all */
#pragma omp parallel for schedule(static, 1) num_threads((int)threads)
#endif
    for (uint32_t i = 0; i < threads; i++) {
        const size_t at = i * share;

        if (at < bytes) memcpy((char *)dst + at, (const char *)src + at, bytes - at < share ? bytes - at : share);
    }
}

px_code kern_cuda_upload(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e)
{
    kern_cuda_ring *r = &d->ring;
    px_code rc;

    if ((rc = kern_cuda_idle(d, "upload", e)) || (rc = kern_cuda_need(dst, bytes, 1, 1, "upload.dst", e))) return rc;
    for (size_t done = 0; done < bytes;) {
        if (r->used == KERN_CUDA_PIECE_BYTES && (rc = next_piece(d, e))) return rc;
        uint8_t *piece = r->base + (size_t)r->piece * KERN_CUDA_PIECE_BYTES + r->used;
        const size_t room = KERN_CUDA_PIECE_BYTES - r->used, n = bytes - done < room ? bytes - done : room;

        fill(piece, (const char *)src + done, n, d->threads);
        if ((rc = kern_cuda_done(d, "upload", cudaMemcpyAsync((char *)dst.h + done, piece, n, cudaMemcpyHostToDevice,
                                                              (cudaStream_t)d->stream), e))) return rc;
        r->used += px_align_up(n, ALIGN);
        done += n;
    }
    return PX_OK;
}

px_code kern_cuda_download(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e)
{
    uint8_t *landing = d->ring.base + KERN_CUDA_RING_BYTES;
    const cudaStream_t s = (cudaStream_t)d->stream;
    px_code rc;

    if ((rc = kern_cuda_idle(d, "download", e)) || (rc = kern_cuda_need(src, bytes, 1, 1, "download.src", e))) return rc;
    for (size_t done = 0; done < bytes;) {
        const size_t n = bytes - done < KERN_CUDA_LANDING_BYTES ? bytes - done : KERN_CUDA_LANDING_BYTES;

        if ((rc = kern_cuda_done(d, "download", cudaMemcpyAsync(landing, (const char *)src.h + done, n, cudaMemcpyDeviceToHost, s), e)) ||
            (rc = kern_cuda_done(d, "download", cudaStreamSynchronize(s), e))) return rc;
        memcpy((char *)dst + done, landing, n);
        done += n;
    }
    return PX_OK;
}
