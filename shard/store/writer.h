/* writer.h - threads that write blocks of files, beside whoever fills them.
 * Layer: shard/store. */
#ifndef SHARD_WRITER_H
#define SHARD_WRITER_H

#include "proto/base/alloc.h"
#include "proto/base/err.h"
#include "proto/base/io.h"

#include <stdint.h>

#define SHARD_BLOCK_BYTES (2u << 20)         /* a huge page: one fault maps it, where 512 small ones would take 32 */

/* Of whatever was done to write to `path`: an error that names neither gets the field "out" and the path.  Returns rc. */
px_code  shard_out_code(px_code rc, const char *path, px_err *e);

/* A file that blocks go to.  Two ways lead there: through the system's cache and past it. */
typedef struct shard_target {
    int         fd, direct;                  /* direct: opened with O_DIRECT; -1: the file system has no such way */
    const char *path;
} shard_target;

#define SHARD_SLOW_US ((px_time_us)4000)     /* 500 MB/s */

typedef struct shard_writer shard_writer;
/* With room for `holders` to have a block each, and some more to be written meanwhile.  Blocks go through the cache; while they take
 * `slow` or longer, past it.  Errors: PX_ENOMEM. */
px_code  shard_writer_open(shard_writer **out, px_alloc *a, uint32_t holders, px_time_us slow, px_err *e);
void     shard_writer_close(shard_writer *w);               /* what is not written yet never is; NULL: nothing */

/* An empty block of SHARD_BLOCK_BYTES, the caller's until it puts it; waits until one has been written.
 * Errors: why writing has failed (field "out", with the path), of any file. */
px_code  shard_writer_block(shard_writer *w, uint8_t **out, px_err *e);
/* A full block belongs at `at` of the file, a multiple of its size.  The target stays where it is until the wait. */
void     shard_writer_put(shard_writer *w, const shard_target *to, uint8_t *block, uint64_t at);
/* Until all that was put is written (not: on the disk).  Errors: as above, of the first block that could not be. */
px_code  shard_writer_wait(shard_writer *w, px_err *e);

#endif
