/* Sets that are folders: packed from a checkpoint, read by the store. */
#include <stdio.h>
#include <string.h>

#include "tests/shard/cluster.h"
#include "tests/testlib.h"

static void die(const char *what, const px_err *e)
{
    char line[512];

    fail_msg("%s: %s", what, px_err_format(e, line, sizeof line));
}

const char *test_set(const char *source, shard_policy policy, uint32_t world)
{
    static struct { char key[400], dir[600]; } made[128];
    static size_t n_made;
    char key[400];
    shard_checkpoint *ck = NULL;
    shard_pack_result r;
    px_heap heap;
    px_err e = {0};

    snprintf(key, sizeof key, "%s|%d|%u", source, (int)policy, world);
    for (size_t i = 0; i < n_made; i++)
        if (!strcmp(made[i].key, key)) return made[i].dir;
    assert_true(n_made < sizeof made / sizeof *made);
    snprintf(made[n_made].key, sizeof made[n_made].key, "%s", key);
    snprintf(made[n_made].dir, sizeof made[n_made].dir, "%s/set%zu", test_tmpdir(), n_made);

    px_heap_init(&heap, "set");
    if (shard_checkpoint_open(&ck, &heap.a, source, &e)) die(source, &e);
    const shard_pack_args args = { .source = ck, .out = made[n_made].dir, .ranks = world, .policy = policy,
                                   .split = SHARD_SPLIT_BALANCED, .vocab = SHARD_VOCAB_PADDED64 };
    if (shard_pack(&heap.a, &args, &r, &e)) die(source, &e);
    shard_checkpoint_close(ck);
    px_heap_deinit(&heap);
    return made[n_made++].dir;
}

static px_code open_file(shard_file **f, px_alloc *a, const char *set, const shard_manifest *m, uint32_t rank, px_err *e)
{
    size_t n_errs = 0;

    return shard_file_open(f, a, set, m, rank, e, 1, &n_errs);
}

test_cluster *test_cluster_open(const test_cluster_args *args, px_err *e)
{
    static const test_shards folder = { .manifest = shard_manifest_read, .drop = shard_manifest_deinit, .open = open_file,
                                        .close = shard_file_close };

    return test_cluster_start(args, &folder, e);
}
