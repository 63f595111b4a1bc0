#include "proto/base/io.h"
#include "proto/base/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS         253             /* the kernel's own limit a message */
#define MAX_TREE_DEPTH  64

px_time_us px_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (px_time_us)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static px_code file_errno(const char *path, const char *what, px_err *e)
{
    px_code rc = px_fail_errno(e, "", what);
    px_err_set_file(e, path);
    return rc;
}

/* ---- whole files ---- */

px_code px_read_file(px_alloc *a, const char *path, size_t cap, char **data, size_t *bytes, px_err *e)
{
    char *buf = NULL;
    size_t have = 0, room = 0;
    struct stat st;
    px_code rc;

    *data = NULL;
    *bytes = 0;
    /* O_NONBLOCK: the open of a FIFO that nobody writes would wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return file_errno(path, "open", e);
    if (fstat(fd, &st)) { rc = file_errno(path, "stat", e); goto fail; }
    if (!S_ISREG(st.st_mode)) {
        rc = px_fail(e, PX_EIO, "", "not a regular file");
        px_err_set_file(e, path);
        goto fail;
    }
    if ((uint64_t)st.st_size > cap || cap > SIZE_MAX - 2) goto too_large;

    /* The size is where reading begins, not what is believed: the file may grow, shrink, or say 0 (procfs). */
    room = (size_t)st.st_size + 2;
    if (!(buf = a->get(a, room, 1))) goto no_memory;
    for (;;) {
        ssize_t n = read(fd, buf + have, room - have - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) { rc = file_errno(path, "read", e); goto fail; }
        if (n == 0) break;
        have += (size_t)n;
        if (have > cap) goto too_large;
        if (have == room - 1) {
            size_t more = room < 4096 ? 8192 : room > cap / 2 ? cap + 2 : room * 2;
            char *p = px_alloc_grow(a, buf, room, more, 1, 1);
            if (!p) goto no_memory;
            buf = p;
            room = more;
        }
    }
    if (room != have + 1) {             /* the caller puts bytes + 1 */
        char *p = px_alloc_grow(a, buf, room, have + 1, 1, 1);
        if (!p) goto no_memory;
        buf = p;
    }
    buf[have] = '\0';
    close(fd);
    *data = buf;
    *bytes = have;
    return PX_OK;

no_memory:
    rc = px_fail(e, PX_ENOMEM, "", "reading %zu bytes", room);
    px_err_set_file(e, path);
    goto fail;
too_large:
    rc = px_fail(e, PX_ERANGE, "", "larger than %zu bytes", cap);
    px_err_set_file(e, path);
fail:
    px_alloc_put(a, buf, room, 1);
    close(fd);
    return rc;
}

px_code px_pwrite_exact(int fd, const void *buf, size_t n, uint64_t offset, px_err *e)
{
    const uint8_t *p = buf;

    if (offset > INT64_MAX || n > INT64_MAX - offset) return px_fail(e, PX_ERANGE, "", "file offset overflows");
    while (n) {
        ssize_t done = pwrite(fd, p, n, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = ENOSPC;      /* no progress would be an endless loop */
        if (done <= 0) return px_fail_errno(e, "", "write");
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return PX_OK;
}

px_code px_write_file(const char *path, const void *data, size_t n, bool sync, px_err *e)
{
    struct stat st;
    px_code rc = PX_OK;

    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0) return file_errno(path, "open", e);
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if ((rc = px_write_exact(fd, data, n, PX_NEVER, e))) goto fail;
    if (sync && fsync(fd)) { rc = px_fail_errno(e, "", "fsync"); goto fail; }
    if (close(fd)) { fd = -1; rc = px_fail_errno(e, "", "close"); goto fail; }
    return PX_OK;

fail:
    px_err_set_file(e, path);
    if (fd >= 0) close(fd);
    if (regular) unlink(path);              /* no half file is left; a device stays */
    return rc;
}

px_code px_fsync_path(const char *path, px_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return file_errno(path, "open", e);
    px_code rc = fsync(fd) ? file_errno(path, "fsync", e) : PX_OK;
    close(fd);
    return rc;
}

/* Removes what `name` in folder `at` is, without following a link. */
static px_code remove_at(int at, const char *name, unsigned depth, px_err *e)
{
    px_code rc = PX_OK;
    DIR *dir = NULL;
    struct dirent *d;

    if (unlinkat(at, name, 0) == 0 || errno == ENOENT) return PX_OK;
    if (errno != EISDIR && errno != EPERM) return file_errno(name, "remove", e);
    if (depth >= MAX_TREE_DEPTH) return px_fail(e, PX_ERANGE, "", "more than %d folders deep", MAX_TREE_DEPTH);

    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? PX_OK : file_errno(name, "remove", e);
    if (!(dir = fdopendir(fd))) {
        rc = file_errno(name, "remove", e);
        close(fd);
        return rc;
    }
    while ((errno = 0, d = readdir(dir))) {
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) continue;
        if ((rc = remove_at(dirfd(dir), d->d_name, depth + 1, e))) goto fail;
    }
    if (errno) { rc = file_errno(name, "read folder", e); goto fail; }
    closedir(dir);
    if (unlinkat(at, name, AT_REMOVEDIR) && errno != ENOENT) return file_errno(name, "remove", e);
    return PX_OK;

fail:
    closedir(dir);
    return rc;
}

px_code px_remove_tree(const char *path, px_err *e)
{
    return remove_at(AT_FDCWD, path, 0, e);
}

px_code px_path_join(char *out, size_t cap, const char *dir, const char *name, px_err *e)
{
    size_t n = strlen(dir);
    int made = snprintf(out, cap, "%s%s%s", dir, n && dir[n - 1] != '/' ? "/" : "", name);
    if (made >= 0 && (size_t)made < cap) return PX_OK;
    if (cap) out[0] = '\0';
    px_code rc = px_fail(e, PX_ERANGE, "", "path longer than %zu bytes", cap ? cap - 1 : 0);
    px_err_set_file(e, name);
    return rc;
}

/* ---- descriptors with deadlines ---- */

/* Waits until fd is ready for `events`; PX_ETIMEOUT at the deadline. */
static px_code wait_ready(int fd, short events, px_time_us deadline, px_err *e)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = events };
        struct timespec t, *left = NULL;
        if (deadline != PX_NEVER) {
            px_time_us us = deadline > 0 ? deadline - px_now_us() : 0;
            if (us < 0) us = 0;
            t = (struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
            left = &t;
        }
        int n = ppoll(&p, 1, left, NULL);
        if (n > 0 && (p.revents & POLLNVAL)) {
            errno = EBADF;
            return px_fail_errno(e, "", "poll");
        }
        if (n > 0) return PX_OK;                /* errors and hang-ups show in the transfer */
        if (n == 0) return px_fail(e, PX_ETIMEOUT, "", "the deadline passed");
        if (errno != EINTR) return px_fail_errno(e, "", "poll");
    }
}

/* A transfer that stopped half-way: its cause, and how far it came. */
static px_code partly(px_err *e, px_err *cause, size_t done, size_t n)
{
    snprintf(cause->found, sizeof cause->found, "%zu of %zu bytes", done, n);
    if (e && e->code == PX_OK) *e = *cause;
    return cause->code;
}

px_code px_read_exact(int fd, void *buf, size_t n, px_time_us deadline, px_err *e)
{
    uint8_t *p = buf;
    size_t have = 0;
    bool is_socket = true;
    px_err cause = {0};

    while (have < n) {
        ssize_t got;
        if (is_socket) {
            got = recv(fd, p + have, n - have, MSG_DONTWAIT);
            if (got < 0 && errno == ENOTSOCK) { is_socket = false; continue; }
        } else {
            if (wait_ready(fd, POLLIN, deadline, &cause)) goto fail;
            got = read(fd, p + have, n - have);
        }
        if (got > 0) { have += (size_t)got; continue; }
        if (got == 0) { px_fail(&cause, PX_EPEER, "", "closed before all bytes came"); goto fail; }
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) { px_fail_errno(&cause, "", "read"); goto fail; }
        if (wait_ready(fd, POLLIN, deadline, &cause)) goto fail;
    }
    return PX_OK;

fail:
    return partly(e, &cause, have, n);
}

px_code px_write_exact(int fd, const void *buf, size_t n, px_time_us deadline, px_err *e)
{
    const uint8_t *p = buf;
    size_t done = 0;
    bool is_socket = true;
    px_err cause = {0};

    while (done < n) {
        ssize_t put;
        if (is_socket) {
            put = send(fd, p + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (put < 0 && errno == ENOTSOCK) { is_socket = false; continue; }
        } else if (deadline == PX_NEVER) {
            put = write(fd, p + done, n - done);
        } else {
            /* A pipe that is ready takes PIPE_BUF bytes without waiting; more might wait past the deadline. */
            size_t part = n - done < PIPE_BUF ? n - done : PIPE_BUF;
            if (wait_ready(fd, POLLOUT, deadline, &cause)) goto fail;
            put = write(fd, p + done, part);
        }
        if (put > 0) { done += (size_t)put; continue; }
        if (put == 0) errno = ENOSPC;           /* no progress would be an endless loop */
        else if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) { px_fail_errno(&cause, "", "write"); goto fail; }
        if (wait_ready(fd, POLLOUT, deadline, &cause)) goto fail;
    }
    return PX_OK;

fail:
    return partly(e, &cause, done, n);
}

px_code px_send_fds(int sock, const int *fds, size_t n, px_time_us deadline, px_err *e)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * MAX_FDS)] = {0};
    char byte = 'F';
    struct iovec io = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
    px_code rc;

    if (n > MAX_FDS) return px_fail(e, PX_ERANGE, "", "%zu descriptors, at most %d", n, MAX_FDS);
    if (n) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    }
    for (;;) {
        ssize_t put = sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put == 1) return PX_OK;
        if (put < 0 && errno == EINTR) continue;
        if (put == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return px_fail_errno(e, "", "send descriptors");
        if ((rc = wait_ready(sock, POLLOUT, deadline, e))) return rc;
    }
}

px_code px_recv_fds(int sock, int *fds, size_t n, px_time_us deadline, px_err *e)
{
    /* Room for every descriptor that a message can hold: what is surplus must be seen to be closed. */
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    int got[MAX_FDS];
    size_t n_got = 0;
    char byte = 0;
    struct iovec io = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr m;
    ssize_t bytes;
    px_code rc;

    for (size_t i = 0; i < n; i++) fds[i] = -1;
    if (n > MAX_FDS) return px_fail(e, PX_ERANGE, "", "%zu descriptors, at most %d", n, MAX_FDS);
    for (;;) {
        m = (struct msghdr){ .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control };
        bytes = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (bytes >= 0) break;
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) return px_fail_errno(e, "", "receive descriptors");
        if ((rc = wait_ready(sock, POLLIN, deadline, e))) return rc;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here && n_got < MAX_FDS; i++)
            memcpy(&got[n_got++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
    if (m.msg_flags & MSG_CTRUNC) {
        rc = px_fail(e, PX_ECORRUPT, "", "truncated control message");
        goto fail;
    }
    if (bytes == 0) {
        rc = px_fail(e, PX_EPEER, "", "closed before the descriptors came");
        goto fail;
    }
    if (n_got != n) {
        char found[48], expected[48];
        snprintf(found, sizeof found, "%zu descriptors", n_got);
        snprintf(expected, sizeof expected, "%zu descriptors", n);
        rc = px_mismatch(e, "descriptors", found, expected);
        goto fail;
    }
    if (n) memcpy(fds, got, n * sizeof *fds);
    return PX_OK;

fail:
    for (size_t i = 0; i < n_got; i++) close(got[i]);
    return rc;
}

/* ---- mappings ---- */

px_code px_memfd(const char *name, size_t bytes, int *fd, px_err *e)
{
    px_code rc;

    *fd = -1;
    if (bytes > INT64_MAX) return px_fail(e, PX_ERANGE, name, "%zu bytes", bytes);
    int f = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (f < 0) return px_fail_errno(e, name, "memfd_create");
    if (ftruncate(f, (off_t)bytes)) { rc = px_fail_errno(e, name, "ftruncate"); goto fail; }
    if (fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) { rc = px_fail_errno(e, name, "seal"); goto fail; }
    *fd = f;
    return PX_OK;

fail:
    close(f);
    return rc;
}

px_code px_map_fd(const char *name, int fd, size_t bytes, bool write, bool populate, void **out, px_err *e)
{
    struct stat st;

    *out = NULL;
    if (!bytes) return px_fail(e, PX_EINVAL, name, "a mapping of 0 bytes");
    if (fstat(fd, &st)) return px_fail_errno(e, name, "stat");
    if (st.st_size < 0 || (uint64_t)st.st_size < bytes) {
        char found[32], expected[32];
        snprintf(found, sizeof found, "%lld bytes", (long long)st.st_size);
        snprintf(expected, sizeof expected, "%zu bytes", bytes);
        return px_refuse(e, PX_ERANGE, name, found, expected, "the file is shorter than the mapping");
    }
    void *p = mmap(NULL, bytes, write ? PROT_READ | PROT_WRITE : PROT_READ,
                   MAP_SHARED | (populate ? MAP_POPULATE : 0), fd, 0);
    if (p == MAP_FAILED) return px_fail_errno(e, name, "mmap");
    *out = p;
    return PX_OK;
}

/* ---- words ---- */

bool px_utf8_valid(const char *s, size_t n)
{
    while (n) {
        uint32_t c;
        size_t step = px_utf8_next(s, n, &c);
        if (!step) return false;
        s += step;
        n -= step;
    }
    return true;
}

#define NEAREST_LEN 64

static size_t distance(const char *a, size_t n, const char *b, size_t m)
{
    size_t row[NEAREST_LEN + 1];

    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *px_nearest(const char *word, const char *const *words, size_t n)
{
    size_t len = strlen(word), limit = len / 3 > 2 ? len / 3 : 2, best = limit + 1;
    const char *out = NULL;

    if (len > NEAREST_LEN) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t m = strlen(words[i]);
        if (m > NEAREST_LEN) continue;
        size_t d = distance(word, len, words[i], m);
        if (d < best) {
            best = d;
            out = words[i];
        }
    }
    return out;
}
