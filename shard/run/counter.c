#include "shard/run/counter.h"

static void *get(px_alloc *a, size_t bytes, size_t align)
{
    shard_counter *c = (shard_counter *)(void *)a;
    void *p = c->under->get(c->under, bytes, align);

    if (p) c->live += bytes;
    return p;
}

static void put(px_alloc *a, void *p, size_t bytes)
{
    shard_counter *c = (shard_counter *)(void *)a;

    if (p) c->live -= bytes;
    c->under->put(c->under, p, bytes);
}

/* No px_count of its own: the allocator below is in the list already. */
void shard_counter_init(shard_counter *c, px_alloc *under)
{
    *c = (shard_counter){ .a = { .get = get, .put = put }, .under = under };
}
