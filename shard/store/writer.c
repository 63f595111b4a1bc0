#include "shard/store/writer.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 2, MORE = 4, SLOW_ONES = 2, LOOK_AGAIN = 16 };
#define PAGE 4096u                           /* what memory and offsets past the cache are multiples of */

typedef struct block {
    const shard_target *to;
    uint8_t            *bytes;
    uint64_t            at;
} block;

/* Blocks are owned by the pool that was made with it, whoever holds them. */
struct shard_writer {
    px_alloc       *a;
    uint32_t        n;                       /* blocks */
    uint8_t        *memory;                  /* (n * SHARD_BLOCK_BYTES) owned: the blocks */
    uint8_t       **empty;  uint32_t n_empty;                /* (n) owned */
    block          *full;   uint32_t n_full;                 /* (n) owned; the first one goes first */
    uint32_t        busy;                    /* blocks that a thread is at */
    bool            stop;
    px_code         rc;                      /* of the first block that could not be written */
    px_err          e;
    px_time_us      slow;
    uint32_t        slow_ones;               /* the last so many blocks through the cache took so long */
    uint32_t        past;                    /* so many blocks went past it */
    pthread_t       thread[THREADS]; uint32_t n_threads;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
};

px_code shard_out_code(px_code rc, const char *path, px_err *e)
{
    if (!rc) return rc;
    if (e && !e->field[0]) snprintf(e->field, sizeof e->field, "out");
    px_err_set_file(e, path);
    return rc;
}

/* Through the cache a file is there for whoever reads it next.  But the cache may have to be given memory first, by a system that lacks it
 * or by the host of a virtual machine, and then that takes many times longer than the disk: 7 ms a block where the disk takes 2, and all
 * of it a processor's.  So while it does, blocks go past it, but for one now and then that looks again. */
static bool choose_past(shard_writer *w, const shard_target *to)
{
    return to->direct >= 0 && w->slow_ones >= SLOW_ONES && ++w->past % LOOK_AGAIN != 0;
}

static px_code write_block(const block *b, bool past, px_err *e)
{
    px_code rc;

    if (past && pwrite(b->to->direct, b->bytes, SHARD_BLOCK_BYTES, (off_t)b->at) == (ssize_t)SHARD_BLOCK_BYTES) return PX_OK;
    /* A whole block, so that the cache takes a huge page for it.  The disk begins at once, instead of at the end, when it is waited for. */
    if ((rc = px_pwrite_exact(b->to->fd, b->bytes, SHARD_BLOCK_BYTES, b->at, e))) return shard_out_code(rc, b->to->path, e);
    sync_file_range(b->to->fd, (off_t)b->at, SHARD_BLOCK_BYTES, SYNC_FILE_RANGE_WRITE);       /* only a hint: fsync will tell */
    return PX_OK;
}

/* One block of the queue, with the lock, which is not held while it is written. */
static void write_one(shard_writer *w)
{
    block b = w->full[0];
    bool past = choose_past(w, b.to);
    px_err e = { 0 };
    px_time_us took;
    px_code rc;

    memmove(w->full, w->full + 1, --w->n_full * sizeof *w->full);
    w->busy++;
    pthread_mutex_unlock(&w->lock);
    took = px_now_us();
    rc = write_block(&b, past, &e);
    took = px_now_us() - took;
    pthread_mutex_lock(&w->lock);
    if (!past) w->slow_ones = took < w->slow ? 0 : w->slow_ones + 1;
    if (rc && !w->rc) {
        w->rc = rc;
        w->e = e;
    }
    w->busy--;
    w->empty[w->n_empty++] = b.bytes;
    pthread_cond_broadcast(&w->changed);
}

static void *write_blocks(void *ctx)
{
    shard_writer *w = ctx;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->stop && !w->n_full) pthread_cond_wait(&w->changed, &w->lock);
        if (w->stop) break;
        write_one(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

px_code shard_writer_open(shard_writer **out, px_alloc *a, uint32_t holders, px_time_us slow, px_err *e)
{
    shard_writer *w = px_new(a, shard_writer, 1);

    *out = NULL;
    if (!w) return px_fail(e, PX_ENOMEM, "out", "a writer");
    w->a = a;
    w->n = holders + MORE;
    w->slow = slow;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (!(w->memory = px_alloc_zero(a, w->n, SHARD_BLOCK_BYTES, PAGE)) || !(w->empty = px_new(a, uint8_t *, w->n)) ||
        !(w->full = px_new(a, block, w->n))) {
        shard_writer_close(w);
        return px_fail(e, PX_ENOMEM, "out", "%u x %u bytes to write with", holders + MORE, SHARD_BLOCK_BYTES);
    }
    while (w->n_empty < w->n) {
        w->empty[w->n_empty] = w->memory + (size_t)w->n_empty * SHARD_BLOCK_BYTES;
        w->n_empty++;
    }
    while (w->n_threads < THREADS && !pthread_create(&w->thread[w->n_threads], NULL, write_blocks, w)) w->n_threads++;
    *out = w;
    return PX_OK;
}

void shard_writer_close(shard_writer *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    while (w->n_threads) pthread_join(w->thread[--w->n_threads], NULL);
    if (w->memory) px_alloc_put(w->a, w->memory, w->n, SHARD_BLOCK_BYTES);
    if (w->empty) px_del(w->a, w->empty, w->n);
    if (w->full) px_del(w->a, w->full, w->n);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    px_del(w->a, w, 1);
}

/* With the lock: something of the queue gets done. */
static void advance(shard_writer *w)
{
    if (!w->n_threads && w->n_full) write_one(w);           /* none could be started: whoever waits writes */
    else pthread_cond_wait(&w->changed, &w->lock);
}

px_code shard_writer_block(shard_writer *w, uint8_t **out, px_err *e)
{
    px_code rc;

    pthread_mutex_lock(&w->lock);
    while (!w->rc && !w->n_empty) advance(w);
    rc = w->rc;
    if (!rc) *out = w->empty[--w->n_empty];
    else if (e) *e = w->e;
    pthread_mutex_unlock(&w->lock);
    return rc;
}

void shard_writer_put(shard_writer *w, const shard_target *to, uint8_t *bytes, uint64_t at)
{
    pthread_mutex_lock(&w->lock);
    w->full[w->n_full++] = (block){ to, bytes, at };
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

px_code shard_writer_wait(shard_writer *w, px_err *e)
{
    px_code rc;

    pthread_mutex_lock(&w->lock);
    while (!w->rc && (w->n_full || w->busy)) advance(w);
    rc = w->rc;
    if (rc && e) *e = w->e;
    pthread_mutex_unlock(&w->lock);
    return rc;
}
