#include "daemon/coordinator/blocks.h"

#include <assert.h>
#include <string.h>

px_code daemon_blocks_init(daemon_blocks *b, px_alloc *a, uint32_t n, uint32_t block, px_err *e)
{
    *b = (daemon_blocks){ .a = a, .n = n, .n_free = n, .block = block };
    if (!(b->free = px_new(a, uint32_t, n))) {
        *b = (daemon_blocks){0};
        return px_fail(e, PX_ENOMEM, "kv.tokens", "%u block ids", n);
    }
    for (uint32_t i = 0; i < n; i++) b->free[i] = n - 1 - i;       /* block 0 goes first */
    return PX_OK;
}

void daemon_blocks_deinit(daemon_blocks *b)
{
    if (b->free) px_del(b->a, b->free, b->n);
    *b = (daemon_blocks){0};
}

uint32_t daemon_blocks_for(const daemon_blocks *b, uint64_t tokens)
{
    return (uint32_t)((tokens + b->block - 1) / b->block);
}

bool daemon_blocks_take(daemon_blocks *b, uint32_t want, uint32_t *out)
{
    if (want > b->n_free) return false;
    for (uint32_t i = 0; i < want; i++) out[i] = b->free[--b->n_free];
    return true;
}

void daemon_blocks_give(daemon_blocks *b, const uint32_t *ids, uint32_t n)
{
    assert(b->n_free + n <= b->n);
    for (uint32_t i = n; i > 0; i--) b->free[b->n_free++] = ids[i - 1];
}
