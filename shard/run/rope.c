/* rope.c - a digest of the rope tables, by which ranks find that they would rotate alike. */
#include "shard/run/engine.h"

#include <xxhash.h>

uint64_t shard_rope_digest(const shard_arch *m, uint32_t n_ctx)
{
    const size_t n = (size_t)n_ctx * (m->head_dim / 2);
    const kern_rope r = shard_rope_of(m);
    uint64_t digest = 0;
    px_heap heap;
    float *t;

    px_heap_init(&heap, "rope");
    if ((t = px_new(&heap.a, float, 2 * n))) {
        kern_rope_tables(&r, m->head_dim, n_ctx, t, t + n);
        digest = XXH3_64bits(t, 2 * n * sizeof *t);
        px_del(&heap.a, t, 2 * n);
    }
    px_heap_deinit(&heap);
    return digest;
}
