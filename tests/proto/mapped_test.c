/* A mapped file that is truncated while it is read: named, by whoever asked to; any other SIGBUS kills as ever. */
#include "tests/testlib.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/mapped.h"

#define PAGES 4

typedef struct file { char path[256]; int fd; volatile char *at; size_t bytes; } file;

static void make(file *f, const char *name)
{
    void *p;
    px_err e = {0};

    f->bytes = PAGES * (size_t)sysconf(_SC_PAGESIZE);
    snprintf(f->path, sizeof f->path, "%s/%s", test_tmpdir(), name);
    assert_true((f->fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC, 0600)) >= 0);
    assert_int_equal(ftruncate(f->fd, (off_t)f->bytes), 0);
    assert_int_equal(px_map_fd("file", f->fd, f->bytes, false, false, &p, &e), PX_OK);
    f->at = p;
}

static void drop(file *f)
{
    munmap((void *)(uintptr_t)f->at, f->bytes);
    close(f->fd);
    unlink(f->path);
}

static int pipe_to_parent;

static void tell(void *ctx, const px_err *e)
{
    const char *word = ctx;

    assert_string_equal(word, "context");
    _exit(write(pipe_to_parent, e, sizeof *e) == (ssize_t)sizeof *e ? 7 : 8);
}

static void *read_all(void *arg)
{
    const file *f = arg;
    for (size_t i = 0; i < f->bytes; i += 512) (void)f->at[i];
    return NULL;
}

/* A child reads `f` in a thread, as a check does; *e is what its guard was told.  The child's wait status. */
static int child_reads(file *f, bool guarded, bool listed, px_err *e)
{
    static char word[] = "context";
    struct rlimit no_core = { 0, 0 };
    int p[2], status;

    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        px_mapped mine = {0}, other = {0};
        pthread_t thread;
        px_err ignored = {0};
        pipe_to_parent = p[1];
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGBUS, SIG_DFL);                     /* what a sanitizer has put there */
        px_mapped_add(&other, &ignored, sizeof ignored, "/another/file");
        if (listed) px_mapped_add(&mine, (const void *)(uintptr_t)f->at, f->bytes, f->path);
        if (px_mapped_guard(tell, word, &ignored)) _exit(9);
        if (!guarded && px_mapped_guard(NULL, NULL, &ignored)) _exit(9);
        if (pthread_create(&thread, NULL, read_all, f)) _exit(9);
        pthread_join(thread, NULL);
        px_mapped_drop(&mine);
        px_mapped_drop(&mine);
        px_mapped_drop(&other);
        _exit(0);
    }
    close(p[1]);
    *e = (px_err){0};
    ssize_t got = read(p[0], e, sizeof *e);
    assert_true(got == 0 || got == (ssize_t)sizeof *e);
    close(p[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void a_whole_file_is_read(void **state)
{
    file f;
    px_err e;
    (void)state;
    make(&f, "whole");
    int status = child_reads(&f, true, true, &e);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0 && !e.code);
    drop(&f);
}

static void a_truncated_file_is_named(void **state)
{
    file f;
    px_err e;
    char want[64];
    (void)state;
    make(&f, "cut");
    assert_int_equal(ftruncate(f.fd, 100), 0);
    int status = child_reads(&f, true, true, &e);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_int_equal(e.code, PX_ECORRUPT);
    assert_string_equal(e.field, "size");
    assert_string_equal(e.file, f.path);
    assert_string_equal(e.found, "100 bytes");
    snprintf(want, sizeof want, "%zu bytes", f.bytes);
    assert_string_equal(e.expected, want);
    assert_int_equal(e.rank, -1);
    unlink(f.path);                                       /* and where nothing is left to measure */
    status = child_reads(&f, true, true, &e);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_string_equal(e.field, "size");
    assert_string_equal(e.found, "");
    drop(&f);
}

/* The name holds a file of full length, the mapping cannot be read: what a failing disk looks like. */
static void a_file_that_cannot_be_read_is_named(void **state)
{
    file f, g;
    px_err e;
    (void)state;
    make(&f, "bad");
    assert_int_equal(ftruncate(f.fd, 100), 0);
    unlink(f.path);
    make(&g, "bad");
    int status = child_reads(&f, true, true, &e);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_int_equal(e.code, PX_EIO);
    assert_string_equal(e.field, "file");
    assert_string_equal(e.file, f.path);
    drop(&g);
    munmap((void *)(uintptr_t)f.at, f.bytes);
    close(f.fd);
}

static void what_is_not_ours_kills(void **state)
{
    file f;
    px_err e;
    (void)state;
    make(&f, "other");
    assert_int_equal(ftruncate(f.fd, 0), 0);
    int status = child_reads(&f, true, false, &e);        /* not listed */
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS && !e.code);
    status = child_reads(&f, false, true, &e);            /* nobody to tell */
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS && !e.code);
    drop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_read), cmocka_unit_test(a_truncated_file_is_named),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named), cmocka_unit_test(what_is_not_ours_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
