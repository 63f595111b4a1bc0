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

px_code shard_rankfile_open(shard_rankfile *f, px_alloc *a, const char *folder, const char *name, uint64_t bytes, bool sparse, px_err *e)
{
    px_code rc;

    *f = (shard_rankfile){ .a = a, .fd = -1 };
    if ((rc = px_path_join(f->path, sizeof f->path, folder, name, e))) return rc;
    f->fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd < 0) return of_file(px_fail_errno(e, "out", "open"), f, e);
    if (sparse) return ftruncate(f->fd, (off_t)bytes) ? of_file(px_fail_errno(e, "out", "make room"), f, e) : PX_OK;
    if (!(f->stage = px_new(a, uint8_t, SHARD_STAGE_BYTES))) return px_fail(e, PX_ENOMEM, "out", "%u bytes to write with", SHARD_STAGE_BYTES);
    /* blocks now, so that a full disk is found before the work; file systems that cannot are asked at each write */
    if (fallocate(f->fd, 0, 0, (off_t)bytes) && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return of_file(px_fail_errno(e, "out", "reserve space"), f, e);
    return PX_OK;
}

void shard_rankfile_deinit(shard_rankfile *f)
{
    if (f->fd >= 0) close(f->fd);
    if (f->stage) px_del(f->a, f->stage, SHARD_STAGE_BYTES);
    f->fd = -1;
    f->stage = NULL;
}

/* Pages of the cache get their size from the write that first touches them, and a tensor's parts are small: bytes are written a whole
 * huge page at a time, so that whoever maps the file has a thousandth of the faults.  The disk begins with each at once, instead of
 * all at the end, when they are waited for. */
static px_code write_stage(const shard_rankfile *f, const uint8_t *stage, size_t n, uint64_t at, px_err *e)
{
    px_code rc = of_file(px_pwrite_exact(f->fd, stage, n, at, e), f, e);

    if (!rc) sync_file_range(f->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);       /* only a hint: fsync will tell */
    return rc;
}

static px_code flush(shard_rankfile *f, shard_full_stage *full, px_err *e)
{
    px_code rc = PX_OK;

    if (full && !full->to && !full->stage && !(full->stage = px_new(f->a, uint8_t, SHARD_STAGE_BYTES)))
        return px_fail(e, PX_ENOMEM, "out", "%u bytes to write with", SHARD_STAGE_BYTES);
    if (full && !full->to) {
        uint8_t *empty = full->stage;
        *full = (shard_full_stage){ .to = f, .stage = f->stage, .at = f->at };
        f->stage = empty;
    } else {
        rc = write_stage(f, f->stage, f->staged, f->at, e);
    }
    if (rc) return rc;
    f->at += f->staged;
    f->staged = 0;
    return PX_OK;
}

px_code shard_rankfile_append(shard_rankfile *f, const void *data, size_t n, shard_full_stage *full, px_err *e)
{
    const uint8_t *from = data;
    px_code rc = PX_OK;

    while (n && !rc) {
        size_t some = SHARD_STAGE_BYTES - f->staged < n ? SHARD_STAGE_BYTES - f->staged : n;
        memcpy(f->stage + f->staged, from, some);
        f->staged += some;
        from += some;
        n -= some;
        if (f->staged == SHARD_STAGE_BYTES) rc = flush(f, full, e);
    }
    return rc;
}

px_code shard_full_stage_write(shard_full_stage *full, px_err *e)
{
    px_code rc = full->to ? write_stage(full->to, full->stage, SHARD_STAGE_BYTES, full->at, e) : PX_OK;

    full->to = NULL;
    return rc;
}

void shard_full_stage_deinit(shard_full_stage *full, px_alloc *a)
{
    if (full->stage) px_del(a, full->stage, SHARD_STAGE_BYTES);
    *full = (shard_full_stage){ 0 };
}

px_code shard_rankfile_finish(shard_rankfile *f, const void *header, size_t n, px_err *e)
{
    px_code rc = f->staged ? flush(f, NULL, e) : PX_OK;

    if (!rc) rc = of_file(px_pwrite_exact(f->fd, header, n, 0, e), f, e);
    if (!rc && fsync(f->fd)) rc = of_file(px_fail_errno(e, "out", "fsync"), f, e);
    if (close(f->fd) && !rc) rc = of_file(px_fail_errno(e, "out", "close"), f, e);
    f->fd = -1;
    return rc;
}
