#include "shard/store/outdir.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static px_code fail_on(px_err *e, const char *path, const char *what)
{
    px_code rc = px_fail_errno(e, "out", what);
    px_err_set_file(e, path);
    return rc;
}

static px_code refuse_existing(const char *out, px_err *e)
{
    struct stat st;
    px_code rc;

    if (lstat(out, &st)) return errno == ENOENT ? PX_OK : fail_on(e, out, "stat");
    rc = px_fail(e, PX_EEXIST, "out", "is already there; a set is never written over");
    px_err_set_file(e, out);
    return rc;
}

/* Open and lock what is at d->partial now.  *same: the name still means what was locked. */
static px_code lock_partial(shard_outdir *d, bool *same, px_err *e)
{
    struct stat held, named;
    px_code rc;

    *same = false;
    d->fd = open(d->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->fd < 0) return errno == ENOENT ? PX_OK : fail_on(e, d->partial, "open");
    if (flock(d->fd, LOCK_EX | LOCK_NB)) {
        rc = errno == EWOULDBLOCK ? px_fail(e, PX_EBUSY, "out", "another run is writing it") : px_fail_errno(e, "out", "lock");
        px_err_set_file(e, d->partial);
        close(d->fd);
        d->fd = -1;
        return rc;
    }
    *same = !fstat(d->fd, &held) && !lstat(d->partial, &named) && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    if (!*same) {
        close(d->fd);
        d->fd = -1;
    }
    return PX_OK;
}

px_code shard_outdir_open(shard_outdir *d, const char *out, void (*note)(void *ctx, const char *line), void *ctx, px_err *e)
{
    size_t n = strlen(out);
    bool same;
    px_code rc;

    *d = (shard_outdir){ .fd = -1 };
    while (n > 1 && out[n - 1] == '/') n--;
    if (n == 0 || n >= sizeof d->out || !strcmp(out, "/"))
        return px_fail(e, PX_EINVAL, "out", "\"%.64s\" is no folder to make", out);
    memcpy(d->out, out, n);
    snprintf(d->partial, sizeof d->partial, "%s.partial", d->out);
    if ((rc = refuse_existing(d->out, e))) return rc;

    /* Two runs may do this at once: whoever locks the folder that the name means in the end has it. */
    for (int tries = 0; tries < 100; tries++) {
        bool made = mkdir(d->partial, 0777) == 0;
        if (!made && errno != EEXIST) return fail_on(e, d->partial, "mkdir");
        if ((rc = lock_partial(d, &same, e))) return rc;
        if (!same) continue;
        if (made) return PX_OK;
        if (note) {
            char line[4200];
            snprintf(line, sizeof line, "removed %s, left by a run that ended early", d->partial);
            note(ctx, line);
        }
        rc = px_remove_tree(d->partial, e);      /* the lock is held until the next one is made */
        close(d->fd);
        d->fd = -1;
        if (rc) return rc;
    }
    rc = px_fail(e, PX_EBUSY, "out", "other runs keep making it");
    px_err_set_file(e, d->partial);
    return rc;
}

px_code shard_outdir_room(const shard_outdir *d, uint64_t bytes, px_err *e)
{
    struct statvfs v;
    uint64_t free_bytes;
    px_code rc;

    if (fstatvfs(d->fd, &v)) return fail_on(e, d->partial, "statvfs");
    free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    if (v.f_blocks == 0 || bytes <= free_bytes) return PX_OK;     /* some file systems do not tell */
    rc = px_fail(e, PX_EIO, "out", "No space left on device: the set needs %llu bytes, %llu are free",
                 (unsigned long long)bytes, (unsigned long long)free_bytes);
    if (e && e->code == PX_EIO && !e->found[0]) {
        snprintf(e->found, sizeof e->found, "%llu bytes free", (unsigned long long)free_bytes);
        snprintf(e->expected, sizeof e->expected, "%llu bytes", (unsigned long long)bytes);
    }
    px_err_set_file(e, d->out);
    return rc;
}

px_code shard_outdir_commit(shard_outdir *d, px_err *e)
{
    char parent[4096], *slash;
    px_code rc;

    if (fsync(d->fd)) return fail_on(e, d->partial, "fsync");
    if (renameat2(AT_FDCWD, d->partial, AT_FDCWD, d->out, RENAME_NOREPLACE)) {
        if (errno == EEXIST) return refuse_existing(d->out, e);
        if (errno != EINVAL && errno != ENOSYS) return fail_on(e, d->out, "rename");
        if ((rc = refuse_existing(d->out, e))) return rc;         /* a file system without the flag */
        if (rename(d->partial, d->out)) return fail_on(e, d->out, "rename");
    }
    close(d->fd);
    d->fd = -1;
    snprintf(parent, sizeof parent, "%s", d->out);
    slash = strrchr(parent, '/');
    if (!slash) snprintf(parent, sizeof parent, ".");
    else slash[slash == parent ? 1 : 0] = 0;
    return px_fsync_path(parent, e);
}

void shard_outdir_drop(shard_outdir *d)
{
    if (d->fd < 0) return;
    px_remove_tree(d->partial, NULL);
    close(d->fd);
    d->fd = -1;
}
