/* writer_test.c - blocks land where they belong, whichever way they go; a block that cannot be written is told, once, by whoever asks. */
#include "shard/store/writer.h"
#include "tests/testlib.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES = 3, BLOCKS = 41 };

static px_heap heap;

static void fill(uint8_t *block, int file, int index)
{
    uint64_t seed = (uint64_t)(file * 1000 + index + 1);

    for (size_t i = 0; i < SHARD_BLOCK_BYTES; i += 8) {
        uint64_t x = test_rand(&seed);
        memcpy(block + i, &x, 8);
    }
}

/* How the second way looks, which all blocks but some take, as all are slow: as the file system has it, not there, or one that refuses every write. */
typedef enum second { AS_IT_IS, NONE, REFUSES } second;

static void blocks_land_where_they_belong(void **state)
{
    const char *folder = test_tmpdir();
    uint8_t *want = malloc(SHARD_BLOCK_BYTES), *found = malloc(SHARD_BLOCK_BYTES);

    (void)state;
    for (second how = AS_IT_IS; how <= REFUSES; how++) {
        shard_target to[FILES];
        char path[FILES][512];
        shard_writer *w;
        uint8_t *b;
        px_err e = { 0 };

        assert_int_equal(shard_writer_open(&w, &heap.a, FILES, 0, &e), PX_OK);
        for (int f = 0; f < FILES; f++) {
            snprintf(path[f], sizeof path[f], "%s/%d-%d", folder, (int)how, f);
            to[f] = (shard_target){ .fd = open(path[f], O_WRONLY | O_CREAT | O_EXCL, 0600), .path = path[f] };
            to[f].direct = how == NONE ? -1 : open(path[f], how == REFUSES ? O_RDONLY : O_WRONLY | O_DIRECT);
            assert_true(to[f].fd >= 0);
        }
        for (int i = 0; i < BLOCKS; i++) {
            assert_int_equal(shard_writer_block(w, &b, &e), PX_OK);
            assert_int_equal((uintptr_t)b % 4096, 0);
            fill(b, i % FILES, i);
            shard_writer_put(w, &to[i % FILES], b, (uint64_t)(i / FILES) * SHARD_BLOCK_BYTES);
        }
        assert_int_equal(shard_writer_wait(w, &e), PX_OK);
        for (int i = 0; i < BLOCKS; i++) {
            int fd = open(path[i % FILES], O_RDONLY);
            assert_int_equal(pread(fd, found, SHARD_BLOCK_BYTES, (off_t)(i / FILES) * SHARD_BLOCK_BYTES), SHARD_BLOCK_BYTES);
            close(fd);
            fill(want, i % FILES, i);
            assert_memory_equal(found, want, SHARD_BLOCK_BYTES);
        }
        shard_writer_close(w);
        for (int f = 0; f < FILES; f++) {
            close(to[f].fd);
            if (to[f].direct >= 0) close(to[f].direct);
        }
    }
    free(want);
    free(found);
}

static void a_full_disk_is_told(void **state)
{
    shard_target to = { .fd = open("/dev/full", O_WRONLY), .direct = -1, .path = "/dev/full" };
    shard_writer *w;
    uint8_t *b;
    px_err e = { 0 }, again = { 0 };

    (void)state;
    assert_int_equal(shard_writer_open(&w, &heap.a, 1, SHARD_SLOW_US, &e), PX_OK);
    assert_int_equal(shard_writer_block(w, &b, &e), PX_OK);
    shard_writer_put(w, &to, b, 0);
    assert_int_equal(shard_writer_wait(w, &e), PX_EIO);
    assert_string_equal(e.field, "out");
    assert_string_equal(e.file, "/dev/full");
    assert_int_equal(shard_writer_block(w, &b, &again), PX_EIO);
    assert_string_equal(again.file, "/dev/full");
    shard_writer_close(w);
    close(to.fd);
}

static void what_is_put_may_be_given_up(void **state)
{
    shard_target to = { .fd = open("/dev/null", O_WRONLY), .direct = -1, .path = "/dev/null" };
    shard_writer *w;
    uint8_t *b;
    px_err e = { 0 };

    (void)state;
    for (int n = 0; n < 5; n++) {
        assert_int_equal(shard_writer_open(&w, &heap.a, 1, SHARD_SLOW_US, &e), PX_OK);
        for (int i = 0; i < n; i++) {
            assert_int_equal(shard_writer_block(w, &b, &e), PX_OK);
            shard_writer_put(w, &to, b, 0);
        }
        assert_int_equal(shard_writer_block(w, &b, &e), PX_OK);       /* held, and never put */
        shard_writer_close(w);
    }
    close(to.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_land_where_they_belong),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(what_is_put_may_be_given_up),
    };

    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
