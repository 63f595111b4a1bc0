#include "tests/testlib.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *in_tmp(const char *name)
{
    static char path[4][512];
    static unsigned at;
    char *out = path[at++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", test_tmpdir(), name);
    return out;
}

static size_t n_open(void)
{
    size_t n = 0;
    for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- files ---- */

static void a_file_comes_back_whole(void **state)
{
    static const size_t sizes[] = { 0, 1, 4095, 4096, 100000 };
    px_debug d;
    (void)state;
    px_debug_init(&d, "io", -1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        px_err e = {0};
        size_t n = sizes[i], got = 99;
        char *in = malloc(n + 1), *out = NULL;
        memset(in, 'a' + (int)i, n);
        assert_int_equal(px_write_file(in_tmp("f"), in, n, i % 2, &e), PX_OK);
        assert_int_equal(px_read_file(&d.a, in_tmp("f"), n, &out, &got, &e), PX_OK);
        assert_int_equal(got, n);
        assert_memory_equal(in, out, n);
        assert_int_equal(out[n], 0);
        px_alloc_put(&d.a, out, got + 1, 1);
        if (n) {
            assert_int_equal(px_read_file(&d.a, in_tmp("f"), n - 1, &out, &got, &e), PX_ERANGE);
            assert_string_equal(e.file, in_tmp("f"));
            assert_null(out);
        }
        free(in);
    }
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void a_file_that_says_zero_bytes_is_read(void **state)
{
    px_heap h;
    px_err e = {0};
    char *out;
    size_t n;
    (void)state;
    px_heap_init(&h, "io");
    assert_int_equal(px_read_file(&h.a, "/proc/self/status", 1 << 20, &out, &n, &e), PX_OK);
    assert_non_null(strstr(out, "Name:"));
    assert_int_equal(strlen(out), n);
    px_alloc_put(&h.a, out, n + 1, 1);
    assert_int_equal(px_read_file(&h.a, "/proc/self/status", 100, &out, &n, &e), PX_ERANGE);
    assert_int_equal(h.count.live, 0);
    px_heap_deinit(&h);
}

static void what_is_no_file_is_refused(void **state)
{
    px_heap h;
    char *out;
    size_t n;
    px_err e = {0};
    (void)state;
    px_heap_init(&h, "io");
    assert_int_equal(px_read_file(&h.a, in_tmp("absent"), 100, &out, &n, &e), PX_ENOTFOUND);
    assert_string_equal(e.file, in_tmp("absent"));
    px_err_clear(&e);
    assert_int_equal(px_read_file(&h.a, test_tmpdir(), 100, &out, &n, &e), PX_EIO);
    assert_string_equal(e.file, test_tmpdir());
    px_err_clear(&e);
    assert_int_equal(mkfifo(in_tmp("fifo"), 0600), 0);
    assert_int_equal(px_read_file(&h.a, in_tmp("fifo"), 100, &out, &n, &e), PX_EIO);    /* and does not wait */
    px_err_clear(&e);
    assert_int_equal(px_read_file(&h.a, "/dev/zero", 100, &out, &n, &e), PX_EIO);
    px_heap_deinit(&h);
}

static px_code read_and_drop(px_alloc *a, px_err *e)
{
    char *out;
    size_t n;
    px_code rc = px_read_file(a, "/proc/self/status", 1 << 20, &out, &n, e);
    if (!rc) px_alloc_put(a, out, n + 1, 1);
    return rc;
}

static void reading_survives_every_oom(void **state) { (void)state; test_oom_sweep(read_and_drop); }

static void a_full_disk_is_an_error_and_leaves_the_device(void **state)
{
    px_err e = {0};
    struct stat st;
    (void)state;
    assert_int_equal(px_write_file("/dev/full", "x", 1, false, &e), PX_EIO);
    assert_string_equal(e.file, "/dev/full");
    assert_non_null(strstr(e.text, "No space left"));
    assert_string_equal(e.found, "0 of 1 bytes");
    assert_int_equal(stat("/dev/full", &st), 0);
    px_err_clear(&e);
    assert_int_equal(px_write_file(in_tmp("no/such"), "x", 1, false, &e), PX_ENOTFOUND);
    assert_string_equal(e.file, in_tmp("no/such"));
}

static void a_half_written_file_is_removed(void **state)
{
    px_err e = {0};
    struct stat st;
    struct rlimit before, small;
    char data[8192] = {0};
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){ .rlim_cur = 4096, .rlim_max = before.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    px_code rc = px_write_file(in_tmp("half"), data, sizeof data, false, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, PX_EIO);
    assert_string_equal(e.file, in_tmp("half"));
    assert_string_equal(e.found, "4096 of 8192 bytes");
    assert_int_equal(stat(in_tmp("half"), &st), -1);
}

static void writes_go_to_their_offset(void **state)
{
    px_err e = {0};
    char back[8] = {0};
    (void)state;
    int fd = open(in_tmp("p"), O_RDWR | O_CREAT, 0600);
    assert_int_equal(px_pwrite_exact(fd, "abc", 3, 5, &e), PX_OK);
    assert_int_equal(pread(fd, back, 8, 0), 8);
    assert_memory_equal(back, "\0\0\0\0\0abc", 8);
    assert_int_equal(px_pwrite_exact(fd, "abc", 3, (uint64_t)INT64_MAX - 1, &e), PX_ERANGE);
    px_err_clear(&e);
    assert_int_equal(px_pwrite_exact(-1, "abc", 3, 0, &e), PX_EIO);
    close(fd);
    px_err_clear(&e);
    assert_int_equal(px_fsync_path(in_tmp("p"), &e), PX_OK);
    assert_int_equal(px_fsync_path(test_tmpdir(), &e), PX_OK);
    assert_int_equal(px_fsync_path(in_tmp("absent"), &e), PX_ENOTFOUND);
    assert_string_equal(e.file, in_tmp("absent"));
}

static void a_tree_goes_and_links_are_not_followed(void **state)
{
    px_err e = {0};
    char deep[2048];
    struct stat st;
    (void)state;
    assert_int_equal(mkdir(in_tmp("keep"), 0700), 0);
    assert_int_equal(px_write_file(in_tmp("keep/file"), "x", 1, false, &e), PX_OK);
    assert_int_equal(mkdir(in_tmp("t"), 0700), 0);
    assert_int_equal(mkdir(in_tmp("t/a"), 0700), 0);
    assert_int_equal(px_write_file(in_tmp("t/a/file"), "x", 1, false, &e), PX_OK);
    assert_int_equal(symlink(in_tmp("keep"), in_tmp("t/a/link")), 0);
    assert_int_equal(symlink(in_tmp("keep"), in_tmp("toplink")), 0);
    assert_int_equal(px_remove_tree(in_tmp("t"), &e), PX_OK);
    assert_int_equal(lstat(in_tmp("t"), &st), -1);
    assert_int_equal(px_remove_tree(in_tmp("toplink"), &e), PX_OK);
    assert_int_equal(lstat(in_tmp("toplink"), &st), -1);
    assert_int_equal(stat(in_tmp("keep/file"), &st), 0);
    assert_int_equal(px_remove_tree(in_tmp("t"), &e), PX_OK);           /* absent */

    snprintf(deep, sizeof deep, "%s", in_tmp("deep"));
    for (int i = 0; i < 80; i++) {
        assert_int_equal(mkdir(deep, 0700), 0);
        snprintf(deep + strlen(deep), sizeof deep - strlen(deep), "/d");
    }
    assert_int_equal(px_remove_tree(in_tmp("deep"), &e), PX_ERANGE);
    /* From the middle on, both halves are within the bound. */
    snprintf(deep, sizeof deep, "%s", in_tmp("deep"));
    for (int i = 0; i < 30; i++) snprintf(deep + strlen(deep), sizeof deep - strlen(deep), "/d");
    px_err_clear(&e);
    assert_int_equal(px_remove_tree(deep, &e), PX_OK);
    assert_int_equal(px_remove_tree(in_tmp("deep"), &e), PX_OK);
    assert_int_equal(lstat(in_tmp("deep"), &st), -1);
}

static void paths_join_or_are_refused(void **state)
{
    char out[16];
    px_err e = {0};
    (void)state;
    assert_int_equal(px_path_join(out, sizeof out, "a", "b", &e), PX_OK);
    assert_string_equal(out, "a/b");
    assert_int_equal(px_path_join(out, sizeof out, "/", "b", &e), PX_OK);
    assert_string_equal(out, "/b");
    assert_int_equal(px_path_join(out, sizeof out, "", "b", &e), PX_OK);
    assert_string_equal(out, "b");
    assert_int_equal(px_path_join(out, sizeof out, "1234567", "12345678", &e), PX_ERANGE);
    assert_string_equal(out, "");
    assert_string_equal(e.file, "12345678");
}

/* ---- transfers ---- */

typedef struct feed { int fd; const uint8_t *data; size_t n; bool close_after; } feed;

/* Writes in odd small pieces. */
static void *feeder(void *ctx)
{
    feed *f = ctx;
    uint64_t seed = 4;
    for (size_t at = 0; at < f->n;) {
        size_t part = 1 + test_rand(&seed) % 5000;
        if (part > f->n - at) part = f->n - at;
        if (px_write_exact(f->fd, f->data + at, part, px_now_us() + 20000000, NULL)) break;
        at += part;
    }
    if (f->close_after) close(f->fd);
    return NULL;
}

static void ends(int kind, bool nonblock, int fd[2])
{
    if (kind == 0) assert_int_equal(pipe(fd), 0);
    else assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    if (nonblock) for (int i = 0; i < 2; i++) fcntl(fd[i], F_SETFL, O_NONBLOCK);
}

static void transfers_are_exact(void **state)
{
    enum { N = 700000 };
    uint8_t *in = malloc(N), *out = malloc(N);
    uint64_t seed = 8;
    (void)state;
    for (size_t i = 0; i < N; i++) in[i] = (uint8_t)test_rand(&seed);
    for (int round = 0; round < 8; round++) {
        int fd[2];
        px_err e = {0};
        pthread_t t;
        px_time_us deadline = round & 4 ? PX_NEVER : px_now_us() + 20000000;
        ends(round & 1, round & 2, fd);
        feed f = { .fd = fd[1], .data = in, .n = N, .close_after = true };
        memset(out, 0, N);
        pthread_create(&t, NULL, feeder, &f);
        assert_int_equal(px_read_exact(fd[0], out, N, deadline, &e), PX_OK);
        assert_memory_equal(in, out, N);
        assert_int_equal(px_read_exact(fd[0], out, 1, deadline, &e), PX_EPEER);
        assert_string_equal(e.found, "0 of 1 bytes");
        pthread_join(t, NULL);
        close(fd[0]);
    }
    free(in);
    free(out);
}

static void a_deadline_ends_a_transfer(void **state)
{
    static uint8_t big[4 << 20];
    (void)state;
    for (int round = 0; round < 4; round++) {
        int fd[2];
        px_err e = {0};
        char c[3];
        ends(round & 1, round & 2, fd);
        assert_int_equal(write(fd[1], "ab", 2), 2);
        px_time_us begin = px_now_us();
        assert_int_equal(px_read_exact(fd[0], c, 3, begin + 30000, &e), PX_ETIMEOUT);
        assert_in_range(px_now_us() - begin, 29000, 5000000);
        assert_string_equal(e.found, "2 of 3 bytes");
        px_err_clear(&e);
        assert_int_equal(write(fd[1], "ab", 2), 2);
        assert_int_equal(px_read_exact(fd[0], c, 2, 0, &e), PX_OK);             /* past, but ready */
        assert_int_equal(px_read_exact(fd[0], c, 2, 0, &e), PX_ETIMEOUT);
        px_err_clear(&e);
        begin = px_now_us();                                                    /* nobody reads */
        assert_int_equal(px_write_exact(fd[1], big, sizeof big, begin + 30000, &e), PX_ETIMEOUT);
        assert_in_range(px_now_us() - begin, 29000, 5000000);
        close(fd[0]);
        close(fd[1]);
    }
}

static void a_lost_peer_is_no_signal(void **state)
{
    int fd[2];
    px_err e = {0};
    char c;
    (void)state;
    ends(1, false, fd);
    close(fd[0]);
    assert_int_equal(px_write_exact(fd[1], "x", 1, PX_NEVER, &e), PX_EPEER);    /* SIGPIPE would end the test */
    px_err_clear(&e);
    assert_int_equal(px_send_fds(fd[1], fd + 1, 1, PX_NEVER, &e), PX_EPEER);
    close(fd[1]);
    px_err_clear(&e);
    assert_int_equal(px_read_exact(fd[1], &c, 1, px_now_us() + 1000, &e), PX_EIO);      /* a closed descriptor */
    assert_non_null(strstr(e.text, "Bad file descriptor"));
}

static void an_earlier_error_stays(void **state)
{
    px_err e = {0};
    char c;
    (void)state;
    px_fail(&e, PX_EINVAL, "first", "cause");
    assert_int_equal(px_read_exact(-1, &c, 1, 0, &e), PX_EIO);
    assert_int_equal(e.code, PX_EINVAL);
    assert_string_equal(e.field, "first");
    assert_string_equal(e.found, "");
}

/* ---- descriptors ---- */

static void descriptors_go_over(void **state)
{
    int fd[2], in[3], out[3];
    px_err e = {0};
    char word[2];
    (void)state;
    size_t before = n_open();
    ends(1, false, fd);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(px_memfd("m", 100, &in[i], &e), PX_OK);
        word[0] = (char)('a' + i);
        assert_int_equal(px_pwrite_exact(in[i], word, 1, 0, &e), PX_OK);
    }
    assert_int_equal(px_send_fds(fd[1], in, 3, px_now_us() + 1000000, &e), PX_OK);
    assert_int_equal(px_recv_fds(fd[0], out, 3, px_now_us() + 1000000, &e), PX_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pread(out[i], word, 1, 0), 1);
        assert_int_equal(word[0], 'a' + i);
        assert_int_equal(fcntl(out[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        close(in[i]);
        close(out[i]);
    }
    assert_int_equal(px_send_fds(fd[1], NULL, 0, PX_NEVER, &e), PX_OK);
    assert_int_equal(px_recv_fds(fd[0], NULL, 0, PX_NEVER, &e), PX_OK);
    close(fd[0]);
    close(fd[1]);
    assert_int_equal(n_open(), before);
}

static void a_wrong_number_of_descriptors_is_refused_and_closed(void **state)
{
    int fd[2], out[3], in[3];
    px_err e = {0};
    char found[32];
    (void)state;
    ends(1, false, fd);
    for (int i = 0; i < 3; i++) in[i] = fd[0];
    size_t before = n_open();
    for (size_t n = 0; n <= 3; n++) {
        if (n == 2) continue;
        px_err_clear(&e);
        assert_int_equal(px_send_fds(fd[1], in, n, PX_NEVER, &e), PX_OK);
        assert_int_equal(px_recv_fds(fd[0], out, 2, px_now_us() + 1000000, &e), PX_EMISMATCH);
        assert_string_equal(e.field, "descriptors");
        snprintf(found, sizeof found, "%zu descriptors", n);
        assert_string_equal(e.found, found);
        assert_string_equal(e.expected, "2 descriptors");
        assert_true(out[0] == -1 && out[1] == -1);
        assert_int_equal(n_open(), before);
    }
    px_err_clear(&e);
    assert_int_equal(px_recv_fds(fd[0], out, 1, px_now_us() + 10000, &e), PX_ETIMEOUT);
    px_err_clear(&e);
    assert_int_equal(px_send_fds(fd[1], in, 1000, PX_NEVER, &e), PX_ERANGE);
    px_err_clear(&e);
    close(fd[1]);
    assert_int_equal(px_recv_fds(fd[0], out, 1, PX_NEVER, &e), PX_EPEER);
    close(fd[0]);
}

/* ---- mappings ---- */

static void a_memfd_maps_and_keeps_its_size(void **state)
{
    int fd = -1;
    px_err e = {0};
    void *w = NULL, *r = NULL;
    (void)state;
    assert_int_equal(px_memfd("shared", 10000, &fd, &e), PX_OK);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 5000), -1);
    assert_int_equal(ftruncate(fd, 20000), -1);
    assert_int_equal(px_map_fd("mapped", fd, 10000, true, true, &w, &e), PX_OK);
    assert_int_equal(px_map_fd("mapped", fd, 10000, false, false, &r, &e), PX_OK);
    assert_int_equal(((uint8_t *)r)[9999], 0);
    ((uint8_t *)w)[9999] = 7;
    assert_int_equal(((uint8_t *)r)[9999], 7);
    munmap(w, 10000);
    munmap(r, 10000);
    assert_int_equal(px_map_fd("mapped", fd, 10001, false, false, &r, &e), PX_ERANGE);
    assert_string_equal(e.field, "mapped");
    assert_string_equal(e.found, "10000 bytes");
    assert_string_equal(e.expected, "10001 bytes");
    assert_null(r);
    px_err_clear(&e);
    assert_int_equal(px_map_fd("mapped", fd, 0, false, false, &r, &e), PX_EINVAL);
    assert_string_equal(e.field, "mapped");
    close(fd);
    px_err_clear(&e);
    assert_int_equal(px_map_fd("mapped", fd, 10, false, false, &r, &e), PX_EIO);
    assert_string_equal(e.field, "mapped");
    px_err_clear(&e);
    assert_int_equal(px_memfd("shared", SIZE_MAX, &fd, &e), PX_ERANGE);
    assert_string_equal(e.field, "shared");
    assert_int_equal(fd, -1);
}

/* ---- words ---- */

static void utf8_is_judged(void **state)
{
    static const char *const good[] = { "", "abc", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf",
                                        "\xef\xbf\xbf", "\xed\x9f\xbf" };
    static const char *const bad[] = { "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                                       "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xff", "\xe2\x82", "a\xc3", "\xc3(" };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(px_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(px_utf8_valid(bad[i], strlen(bad[i])));
    assert_true(px_utf8_valid("a\0b", 3));
}

static void the_nearest_word_is_found(void **state)
{
    static const char *const words[] = { "transport", "threads", "ranks", "set" };
    (void)state;
    assert_string_equal(px_nearest("rank", words, 4), "ranks");
    assert_string_equal(px_nearest("trasnport", words, 4), "transport");
    assert_string_equal(px_nearest("thread", words, 4), "threads");
    assert_string_equal(px_nearest("transport", words, 4), "transport");
    assert_string_equal(px_nearest("xxansport", words, 4), "transport");      /* 2 */
    assert_string_equal(px_nearest("xxxnsport", words, 4), "transport");      /* 3 of 9 */
    assert_null(px_nearest("xxxxsport", words, 4));                           /* 4 of 9 */
    assert_null(px_nearest("elephant", words, 4));
    assert_null(px_nearest("ranks", words, 0));
    char longer[300];
    memset(longer, 'r', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_null(px_nearest(longer, words, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_comes_back_whole),
        cmocka_unit_test(a_file_that_says_zero_bytes_is_read),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(reading_survives_every_oom),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_the_device),
        cmocka_unit_test(a_half_written_file_is_removed),
        cmocka_unit_test(writes_go_to_their_offset),
        cmocka_unit_test(a_tree_goes_and_links_are_not_followed),
        cmocka_unit_test(paths_join_or_are_refused),
        cmocka_unit_test(transfers_are_exact),
        cmocka_unit_test(a_deadline_ends_a_transfer),
        cmocka_unit_test(a_lost_peer_is_no_signal),
        cmocka_unit_test(an_earlier_error_stays),
        cmocka_unit_test(descriptors_go_over),
        cmocka_unit_test(a_wrong_number_of_descriptors_is_refused_and_closed),
        cmocka_unit_test(a_memfd_maps_and_keeps_its_size),
        cmocka_unit_test(utf8_is_judged),
        cmocka_unit_test(the_nearest_word_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
