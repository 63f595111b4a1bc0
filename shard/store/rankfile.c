#include "shard/store/rankfile.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static px_code of_file(px_code rc, const shard_rankfile *f, px_err *e)
{
    if (rc && e && !e->field[0]) snprintf(e->field, sizeof e->field, "out");
    if (rc) px_err_set_file(e, f->path);
    return rc;
}

px_code shard_rankfile_open(shard_rankfile *f, shard_writer *w, const char *folder, const char *name, uint64_t bytes, px_err *e)
{
    px_code rc;

    *f = (shard_rankfile){ .w = w, .to = { .fd = -1, .direct = -1 } };
    if ((rc = px_path_join(f->path, sizeof f->path, folder, name, e))) return rc;
    f->to.path = f->path;
    f->to.fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->to.fd < 0) return of_file(px_fail_errno(e, "out", "open"), f, e);
    if (!w) return ftruncate(f->to.fd, (off_t)bytes) ? of_file(px_fail_errno(e, "out", "make room"), f, e) : PX_OK;
    /* blocks now, so that a full disk is found before the work; file systems that cannot are asked at each write */
    if (fallocate(f->to.fd, 0, 0, (off_t)bytes) && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return of_file(px_fail_errno(e, "out", "reserve space"), f, e);
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
    if (f->n) rc = of_file(px_pwrite_exact(f->to.fd, f->block, f->n, f->at, e), f, e);
    if (!rc) rc = of_file(px_pwrite_exact(f->to.fd, header, n, 0, e), f, e);
    if (!rc && fsync(f->to.fd)) rc = of_file(px_fail_errno(e, "out", "fsync"), f, e);
    if (close(f->to.fd) && !rc) rc = of_file(px_fail_errno(e, "out", "close"), f, e);
    f->to.fd = -1;
    shard_rankfile_deinit(f);
    return rc;
}
