#include "shard/store/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/io.h"

px_code shard_mapping_open(shard_mapping *m, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    struct stat st, again;
    void *p = NULL;
    int fd = -1;

    *m = (shard_mapping){ .a = a };
    if (!(m->path = px_strdup(a, path))) { rc = px_fail(e, PX_ENOMEM, "path", "no memory for a path"); goto fail; }
    /* O_NONBLOCK: a FIFO in the place of a model must not hang the program. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) { rc = px_fail_errno(e, "", "open"); goto fail; }
    if (fstat(fd, &st)) { rc = px_fail_errno(e, "", "fstat"); goto fail; }
    if (!S_ISREG(st.st_mode)) { rc = px_fail(e, PX_EINVAL, "", "is not a regular file"); goto fail; }
    if (st.st_size <= 0) { rc = px_fail(e, PX_ECORRUPT, "", "the file is empty"); goto fail; }
    if ((rc = px_map_fd("file", fd, (size_t)st.st_size, false, false, &p, e))) goto fail;
    madvise(p, (size_t)st.st_size, MADV_HUGEPAGE);    /* what must come from disk comes in huge pages; a kernel without them says no */
    m->data = p;
    m->bytes = (size_t)st.st_size;
    px_mapped_add(&m->listed, m->data, m->bytes, m->path);
    if (fstat(fd, &again)) { rc = px_fail_errno(e, "", "fstat"); goto fail; }
    if (again.st_size != st.st_size) {
        rc = px_fail(e, PX_ECORRUPT, "", "the file changes its size while it is opened");
        goto fail;
    }
    close(fd);
    return PX_OK;

fail:
    px_err_set_file(e, path);
    if (fd >= 0) close(fd);
    shard_mapping_close(m);
    return rc;
}

void shard_mapping_close(shard_mapping *m)
{
    px_mapped_drop(&m->listed);
    if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
    if (m->path) px_strdel(m->a, m->path);
    *m = (shard_mapping){0};
}

static void sift(uint32_t *order, size_t root, size_t n, int (*cmp)(const void *, uint32_t, uint32_t), const void *ctx)
{
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        uint32_t t = order[root];
        if (child + 1 < n && cmp(ctx, order[child], order[child + 1]) < 0) child++;
        if (cmp(ctx, t, order[child]) >= 0) return;
        order[root] = order[child];
        order[child] = t;
    }
}

void shard_order_sort(uint32_t *order, size_t n, int (*cmp)(const void *ctx, uint32_t x, uint32_t y), const void *ctx)
{
    for (size_t i = n / 2; i-- > 0;) sift(order, i, n, cmp, ctx);
    for (size_t end = n; end > 1; end--) {
        uint32_t t = order[0];
        order[0] = order[end - 1];
        order[end - 1] = t;
        sift(order, 0, end - 1, cmp, ctx);
    }
}
