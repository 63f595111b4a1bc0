#include "tests/testlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void test_oom_sweep(px_code (*build_and_drop)(px_alloc *a, px_err *e))
{
    for (int64_t at = 0; at < 100000; at++) {
        px_debug d;
        px_err e = {0};
        px_debug_init(&d, "test", at);
        px_code rc = build_and_drop(&d.a, &e);
        bool reached = d.n_gets > at;
        size_t faults = px_debug_deinit(&d);
        if (faults) print_error("fail_at %lld: %s\n", (long long)at, d.first);
        assert_int_equal(faults, 0);
        if (!reached) {
            assert_int_equal(rc, PX_OK);
            assert_true(at > 0);        /* a sweep over nothing proves nothing */
            return;
        }
        if (rc != PX_OK && rc != PX_ENOMEM) print_error("fail_at %lld: code %s\n", (long long)at, px_code_name(rc));
        assert_true(rc == PX_ENOMEM || rc == PX_OK);
        assert_true(rc == PX_OK || e.code == PX_ENOMEM);
    }
    fail_msg("the sweep does not end");
}

int test_heap_end(px_heap *h, int failed)
{
    size_t live = h->count.live;

    px_heap_deinit(h);
    if (live) print_error("%zu bytes leaked\n", live);
    return failed || live ? 1 : 0;
}

static char tmpdir[256];
static pid_t tmpdir_owner;

static void drop_tmpdir(void)
{
    if (getpid() == tmpdir_owner) px_remove_tree(tmpdir, NULL);
}

const char *test_tmpdir(void)
{
    if (!tmpdir[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(tmpdir, sizeof tmpdir, "%s/phalanx-test.XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(tmpdir)) { perror("mkdtemp"); exit(1); }
        tmpdir_owner = getpid();
        atexit(drop_tmpdir);
    }
    return tmpdir;
}

static const char *in_dir(const char *dir, const char *name)
{
    static char buf[8][512];
    static unsigned at;
    char *out = buf[at++ % 8];
    snprintf(out, sizeof buf[0], "%s/%s", dir, name);
    return out;
}

const char *test_golden(const char *name) { return in_dir(TEST_GOLDEN_DIR, name); }

const char *test_shared(const char *name)
{
    const char *path = in_dir(TEST_SHARED_DIR, name);
    if (access(path, R_OK) == 0) return path;
    printf("SKIP: ../shared/%s is absent\n", name);
    return NULL;
}

uint64_t test_rand(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double test_rand_unit(uint64_t *state) { return (double)(test_rand(state) >> 11) * 0x1p-53; }

float test_rand_normal(uint64_t *state)
{
    double u = 1.0 - test_rand_unit(state), v = test_rand_unit(state);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
