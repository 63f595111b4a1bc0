/* blocks.h - which KV block belongs to whom.  Ids are global: every rank uses the same ones.
 * Layer: daemon/coordinator.  Engine's thread.  Pure. */
#ifndef DAEMON_BLOCKS_H
#define DAEMON_BLOCKS_H

#include "proto/base/alloc.h"

typedef struct daemon_blocks {
    px_alloc *a;
    uint32_t  n, n_free, block;      /* block: tokens each */
    uint32_t *free;                  /* (n) owned; a stack: the last freed is the warmest */
} daemon_blocks;

px_code daemon_blocks_init(daemon_blocks *b, px_alloc *a, uint32_t n, uint32_t block, px_err *e);
void    daemon_blocks_deinit(daemon_blocks *b);
uint32_t daemon_blocks_for(const daemon_blocks *b, uint64_t tokens);      /* ceil */
bool    daemon_blocks_take(daemon_blocks *b, uint32_t want, uint32_t *out);  /* all or none */
void    daemon_blocks_give(daemon_blocks *b, const uint32_t *ids, uint32_t n);

#endif
