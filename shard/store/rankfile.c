#include "shard/store/rankfile.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

px_code shard_rankfile_open(shard_rankfile *f, shard_writer *w, const char *folder, const char *name, uint64_t bytes, px_err *e)
{
    px_code rc;

    *f = (shard_rankfile){ .w = w, .to = { .fd = -1, .direct = -1 } };
    if ((rc = px_path_join(f->path, sizeof f->path, folder, name, e))) return rc;
    f->to.path = f->path;
    f->to.fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->to.fd < 0) return shard_out_code(px_fail_errno(e, "out", "open"), f->path, e);
    if (!w) return ftruncate(f->to.fd, (off_t)bytes) ? shard_out_code(px_fail_errno(e, "out", "make room"), f->path, e) : PX_OK;
    /* blocks now, so that a full disk is found before the work; file systems that cannot are asked at each write */
    if (fallocate(f->to.fd, 0, 0, (off_t)bytes) && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return shard_out_code(px_fail_errno(e, "out", "reserve space"), f->path, e);
    f->to.direct = open(f->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    return PX_OK;
}

void shard_rankfile_deinit(shard_rankfile *f)
{
    if (f->to.fd >= 0) close(f->to.fd);
    if (f->to.direct >= 0) close(f->to.direct);
    f->to.fd = f->to.direct = -1;
}

/* Pages of the cache get their size from the write that first touches them, and a tensor's parts are small: so bytes are laid behind each
 * other until they fill a huge page, and whoever maps the file has a thousandth of the faults. */
px_code shard_rankfile_append(shard_rankfile *f, const void *data, size_t n, px_err *e)
{
    const uint8_t *from = data;
    px_code rc;

    while (n) {
        if (!f->block && (rc = shard_writer_block(f->w, &f->block, e))) return rc;
        size_t some = SHARD_BLOCK_BYTES - f->n < n ? SHARD_BLOCK_BYTES - f->n : n;
        memcpy(f->block + f->n, from, some);
        f->n += some;
        from += some;
        n -= some;
        if (f->n < SHARD_BLOCK_BYTES) break;
        shard_writer_put(f->w, &f->to, f->block, f->at);
        f->at += SHARD_BLOCK_BYTES;
        f->block = NULL;
        f->n = 0;
    }
    return PX_OK;
}

px_code shard_rankfile_finish(shard_rankfile *f, const void *header, size_t n, px_err *e)
{
    px_code rc = f->w ? shard_writer_wait(f->w, e) : PX_OK;

    if (rc) return rc;
    if (f->n) rc = shard_out_code(px_pwrite_exact(f->to.fd, f->block, f->n, f->at, e), f->path, e);
    if (!rc) rc = shard_out_code(px_pwrite_exact(f->to.fd, header, n, 0, e), f->path, e);
    if (!rc && fsync(f->to.fd)) rc = shard_out_code(px_fail_errno(e, "out", "fsync"), f->path, e);
    if (close(f->to.fd) && !rc) rc = shard_out_code(px_fail_errno(e, "out", "close"), f->path, e);
    f->to.fd = -1;
    shard_rankfile_deinit(f);
    return rc;
}
