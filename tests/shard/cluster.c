#include "tests/shard/cluster.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/testlib.h"

static void die(const char *what, const px_err *e)
{
    char line[512];

    fail_msg("%s: %s", what, px_err_format(e, line, sizeof line));
}

/* ---- ranks ---- */

typedef struct rank {
    test_cluster   *c;
    uint32_t        rank;
    pthread_t       thread;
    shard_file     *file;
    comm           *comm, *staged;
    comm_device     device;
    kern_dev       *dev;
    shard_executor *x;
    px_code         rc;
    px_err          e;
} rank;

struct test_cluster {
    px_heap        heap;
    px_alloc      *a;
    shard_manifest manifest;
    shard_demand   demand;
    const char    *set;
    const test_shards *shards;
    bool           bench, deterministic;
    comm_kind      transport;
    int            shm_fd;                 /* -1: none */
    const kern_ops *ops;
    comm_device   (*device)(kern_dev *d);
    comm_local_group *group;
    uint32_t       world, n_threads;
    rank           rank[COMM_MAX_WORLD];
    pthread_mutex_t lock;
    pthread_cond_t  work, done;
    uint64_t       job;                    /* counts jobs; a thread runs each once */
    uint32_t       running;
    bool           quit;
    void         (*fn)(void *ctx, uint32_t rank, shard_executor *x);
    void          *ctx;
};

static void *rank_main(void *p)
{
    rank *r = p;
    test_cluster *c = r->c;
    uint64_t seen = 0;

    kern_ftz_set();
    if (c->bench && c->demand.threads == 1) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(r->rank % (uint32_t)sysconf(_SC_NPROCESSORS_ONLN), &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    for (;;) {
        pthread_mutex_lock(&c->lock);
        while (c->job == seen && !c->quit) pthread_cond_wait(&c->work, &c->lock);
        if (c->quit) break;
        seen = c->job;
        pthread_mutex_unlock(&c->lock);
        c->fn(c->ctx, r->rank, r->x);
        pthread_mutex_lock(&c->lock);
        if (--c->running == 0) pthread_cond_signal(&c->done);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void test_cluster_run(test_cluster *c, void (*fn)(void *ctx, uint32_t rank, shard_executor *x), void *ctx)
{
    pthread_mutex_lock(&c->lock);
    c->fn = fn;
    c->ctx = ctx;
    c->running = c->world;
    c->job++;
    pthread_cond_broadcast(&c->work);
    while (c->running) pthread_cond_wait(&c->done, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

/* ---- sums of a table with memory of its own ---- */

static px_code get_sums(void *ctx, size_t bytes, void **out, px_err *e)
{
    const rank *r = ctx;
    kern_buf b;
    px_code rc = r->c->ops->alloc(r->dev, bytes, &b, e);

    *out = b.h;
    return rc;
}

static void put_sums(void *ctx, void *p, size_t bytes)
{
    const rank *r = ctx;
    r->c->ops->free(r->dev, &(kern_buf){ p, bytes });
}

static px_code sums_to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    const rank *r = ctx;
    return r->c->ops->download(r->dev, dst, (kern_buf){ (void *)(uintptr_t)src, bytes }, bytes, e);
}

static px_code sums_to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    const rank *r = ctx;
    return r->c->ops->upload(r->dev, (kern_buf){ dst, bytes }, src, bytes, e);
}

static comm_device own_device(rank *r)
{
    return (comm_device){ .ctx = r, .queue = r->c->ops->native_queue(r->dev), .get = get_sums, .put = put_sums,
                          .to_host = sums_to_host, .to_device = sums_to_device };
}

static void open_rank(void *ctx, uint32_t k, shard_executor *unused)
{
    test_cluster *c = ctx;
    rank *r = &c->rank[k];
    shard_rank_bytes plan;

    (void)unused;
    if ((r->rc = shard_rank_bytes_of(&c->manifest.arch, &c->manifest.types, &c->manifest.split, k, &c->demand,
                                     (int)c->transport, &plan, &r->e))
        || (r->rc = c->shards->open(&r->file, c->a, c->set, &c->manifest, k, &r->e)))
        return;
    const comm_args ca = { .kind = c->transport, .shm_fd = c->shm_fd, .rank = k, .world = c->world, .partial_bytes = plan.partial_bytes,
                           .gather_bytes = plan.gather_bytes, .group = c->group };
    if ((r->rc = comm_open(&r->comm, c->a, &ca, &r->e))) return;
    if (c->ops->own_memory) {
        const kern_open_args open = { .threads = c->demand.threads, .deterministic = c->deterministic,
                                      .fp8_activations = c->demand.fp8_activations };
        if ((r->rc = c->ops->open(&r->dev, c->a, &open, &r->e))) return;
        r->device = c->device ? c->device(r->dev) : own_device(r);
        const comm_device_args da = { .device = &r->device, .host = r->comm, .partial_bytes = plan.partial_bytes };
        if ((r->rc = comm_open_staged(&r->staged, c->a, &da, &r->e))) return;
    }
    const shard_executor_args xa = { .ops = c->ops, .dev = r->dev, .manifest = &c->manifest, .file = r->file, .rank = k,
                                     .comm = r->staged ? r->staged : r->comm, .demand = &c->demand, .n_blocks = plan.n_blocks,
                                     .check_samples = !c->bench };
    r->rc = shard_executor_open(&r->x, c->a, &xa, &r->e);
}

static void close_rank(void *ctx, uint32_t k, shard_executor *x)
{
    test_cluster *c = ctx;

    shard_executor_close(x);
    comm_close(c->rank[k].staged);
    if (c->rank[k].dev) c->ops->close(c->rank[k].dev);
    comm_close(c->rank[k].comm);
    c->shards->close(c->rank[k].file);
}

test_cluster *test_cluster_start(const test_cluster_args *args, const test_shards *shards, px_err *e)
{
    test_cluster *c = calloc(1, sizeof *c);
    px_code rc;

    assert_non_null(c);
    px_heap_init(&c->heap, "cluster");
    c->a = args->a ? args->a : &c->heap.a;
    c->set = args->set;
    c->shards = shards;
    c->bench = args->bench;
    c->deterministic = args->deterministic;
    c->transport = args->transport;
    c->shm_fd = -1;
    c->demand = args->demand;
    if (!c->demand.kv_tokens) c->demand.kv_tokens = 4096;
    if (!c->demand.kv_block) c->demand.kv_block = 16;
    if (!c->demand.max_sequences) c->demand.max_sequences = 64;
    if (!c->demand.token_budget) c->demand.token_budget = 128;
    if (!c->demand.threads) c->demand.threads = 1;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->done, NULL);
    kern_ftz_set();
    c->ops = args->ops;
    c->device = args->device;
    if (!c->ops && (rc = kern_cpu_ops(args->path, &c->ops, e))) goto fail;
    c->demand.backend = c->ops->backend;
    if ((rc = shards->manifest(&c->manifest, c->a, c->set, e))) goto fail;
    c->world = c->manifest.world;
    if (c->world > 1 && (rc = comm_local_group_open(&c->group, c->a, c->world, e))) goto fail;
    if (c->transport == COMM_SHM) {
        shard_rank_bytes plan;
        if ((rc = shard_rank_bytes_of(&c->manifest.arch, &c->manifest.types, &c->manifest.split, 0, &c->demand, COMM_SHM,
                                      &plan, e))
            || (rc = px_memfd("cluster", plan.comm_shared, &c->shm_fd, e)))
            goto fail;
    }
    for (uint32_t k = 0; k < c->world; k++) {
        c->rank[k].c = c;
        c->rank[k].rank = k;
        assert_int_equal(pthread_create(&c->rank[k].thread, NULL, rank_main, &c->rank[k]), 0);
        c->n_threads++;
    }
    test_cluster_run(c, open_rank, c);
    for (uint32_t k = 0; k < c->world; k++)
        if (c->rank[k].rc) {
            *e = c->rank[k].e;
            goto fail;
        }
    return c;

fail:
    test_cluster_close(c);
    return NULL;
}

void test_cluster_close(test_cluster *c)
{
    if (!c) return;
    if (c->n_threads) test_cluster_run(c, close_rank, c);
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    for (uint32_t k = 0; k < c->n_threads; k++) pthread_join(c->rank[k].thread, NULL);
    if (c->group) comm_local_group_close(c->group);
    if (c->shm_fd >= 0) close(c->shm_fd);
    c->shards->drop(&c->manifest);
    px_heap_deinit(&c->heap);
    free(c);
}

const shard_manifest *test_cluster_manifest(const test_cluster *c) { return &c->manifest; }
kern_dev *test_cluster_dev(const test_cluster *c, uint32_t k) { return c->rank[k].dev; }
shard_executor *test_cluster_executor(const test_cluster *c, uint32_t k) { return c->rank[k].x; }

/* ---- steps ---- */

typedef struct step_job { const shard_step *in; shard_result out[COMM_MAX_WORLD]; px_code rc[COMM_MAX_WORLD]; px_err *e; } step_job;

static void step_rank(void *ctx, uint32_t k, shard_executor *x)
{
    step_job *j = ctx;

    j->rc[k] = shard_executor_step_all(x, j->in, &j->out[k], &j->e[k]);
}

static void same_result(const shard_result *a, const shard_result *b)
{
    assert_int_equal(a->n_entries, b->n_entries);
    assert_int_equal(a->full_gathers, b->full_gathers);
    for (uint32_t i = 0; i < a->n_entries; i++) {
        assert_int_equal(a->entry[i].n_rows, b->entry[i].n_rows);
        assert_int_equal(a->entry[i].nonfinite, b->entry[i].nonfinite);
        for (uint32_t r = 0; r < a->entry[i].n_rows; r++) {
            const shard_row_result *p = &a->entry[i].row[r], *q = &b->entry[i].row[r];
            assert_int_equal(p->id, q->id);
            assert_memory_equal(&p->logprob, &q->logprob, sizeof p->logprob);
            assert_int_equal(p->n_top, q->n_top);
            if (p->n_top) assert_memory_equal(p->top, q->top, p->n_top * sizeof *p->top);
        }
    }
}

px_code test_cluster_step(test_cluster *c, const shard_step *in, shard_result *out, px_err *e)
{
    px_err errs[COMM_MAX_WORLD] = {{0}};
    step_job j = { .in = in, .e = errs };

    test_cluster_run(c, step_rank, &j);
    for (uint32_t k = 1; k < c->world; k++) {
        assert_int_equal(j.rc[k], j.rc[0]);
        assert_string_equal(errs[k].field, errs[0].field);
        if (!j.rc[0]) same_result(&j.out[0], &j.out[k]);
    }
    if (e) *e = errs[0];
    *out = j.out[0];
    return j.rc[0];
}

static void step(test_cluster *c, const shard_step *in, shard_result *out)
{
    px_err e = {0};

    if (test_cluster_step(c, in, out, &e)) die("step", &e);
}

/* ---- the usual things ---- */

void test_open_slot(test_cluster *c, uint32_t slot, uint32_t n_tokens, const shard_sampling *p)
{
    static const shard_sampling greedy = { .top_p = 1 };
    const uint32_t n = (n_tokens + c->demand.kv_block - 1) / c->demand.kv_block;
    uint32_t block[512];
    shard_result r;

    assert_true(n <= 512);
    for (uint32_t i = 0; i < n; i++) block[i] = slot * n + (n - 1 - i);        /* never in order */
    const shard_slot_op op = { .op = SHARD_SLOT_OPEN, .slot = slot, .block = block, .n_blocks = n,
                               .sampling = p ? *p : greedy };
    step(c, &(shard_step){ .op = &op, .n_ops = 1 }, &r);
}

void test_close_slot(test_cluster *c, uint32_t slot)
{
    const shard_slot_op op = { .op = SHARD_SLOT_CLOSE, .slot = slot };
    shard_result r;

    step(c, &(shard_step){ .op = &op, .n_ops = 1 }, &r);
}

void test_score(test_cluster *c, uint32_t slot, const uint32_t *id, uint32_t n, uint32_t chunk, float *lp)
{
    const uint32_t n_vocab = c->manifest.arch.n_vocab;
    shard_result r;

    test_open_slot(c, slot, n, NULL);
    for (uint32_t at = 0; at < n; at += chunk) {
        const shard_entry en = { .slot = slot, .first_pos = at, .n = n - at < chunk ? n - at : chunk, .id = id + at,
                                 .rows = SHARD_ROWS_ALL, .top = n_vocab };
        step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r);
        assert_int_equal(r.entry[0].n_rows, en.n);
        assert_false(r.entry[0].nonfinite);
        for (uint32_t i = 0; i < en.n; i++) {
            const shard_row_result *row = &r.entry[0].row[i];
            float *to = lp + (size_t)(at + i) * n_vocab;

            assert_int_equal(row->position, at + i);
            assert_int_equal(row->n_top, n_vocab);
            for (uint32_t v = 0; v < n_vocab; v++) to[v] = NAN;
            for (uint32_t v = 0; v < n_vocab; v++) {
                assert_true(row->top[v].id < n_vocab && isnan(to[row->top[v].id]));     /* every id once */
                assert_true(v == 0 || row->top[v - 1].logprob >= row->top[v].logprob);
                to[row->top[v].id] = row->top[v].logprob;
            }
        }
    }
    test_close_slot(c, slot);
}

void test_generate(test_cluster *c, uint32_t slot, const shard_sampling *p, const uint32_t *prompt, uint32_t n_prompt,
                   uint32_t chunk, uint32_t n_new, uint32_t *id, float *logprob)
{
    shard_result r;

    test_open_slot(c, slot, n_prompt + n_new, p);
    for (uint32_t at = 0; at < n_prompt; at += chunk) {
        const uint32_t n = n_prompt - at < chunk ? n_prompt - at : chunk;
        const bool last = at + n == n_prompt;
        const shard_entry en = { .slot = slot, .first_pos = at, .n = n, .id = prompt + at,
                                 .rows = last ? SHARD_ROWS_LAST : SHARD_ROWS_NONE, .sample = last, .logprob = true };
        step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r);
    }
    for (uint32_t i = 0;; i++) {
        id[i] = r.entry[0].row[0].id;
        if (logprob) logprob[i] = r.entry[0].row[0].logprob;
        if (i + 1 == n_new) break;
        const shard_entry en = { .slot = slot, .first_pos = n_prompt + i, .n = 1, .rows = SHARD_ROWS_LAST, .sample = true,
                                 .logprob = true };
        step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r);
    }
    test_close_slot(c, slot);
}
