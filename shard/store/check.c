/* The one checker of verify and cold start: digests through the mapping that will be served. */
#include "shard/store/shardfile.h"

#include "proto/base/guard.h"
#include "proto/base/io.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define CHUNK       (4u << 20)
#define MAX_THREADS 256u
#define MOST_READ   (2ull << 30)        /* enough to know how fast this machine reads */
#define SAMPLE      16u

shard_depth shard_depth_resolve(shard_depth d, uint64_t bytes, uint64_t most)
{
    if (d != SHARD_CHECK_AUTO) return d;
    return bytes <= most ? SHARD_CHECK_FULL : SHARD_CHECK_SAMPLE;
}

px_code shard_depth_parse(const char *word, shard_depth *out, px_err *e)
{
    static const char *const WORD[] = { "header", "sample", "full", "auto" };
    const char *near;

    for (size_t i = 0; i < 4; i++)
        if (!strcmp(word, WORD[i])) {
            *out = (shard_depth)i;
            return PX_OK;
        }
    near = px_nearest(word, WORD, 4);
    return px_fail(e, PX_EINVAL, "depth", "\"%.32s\" is no depth: header, sample, full or auto%s%s", word,
                   near ? "; the nearest is " : "", near ? near : "");
}

/* Which tensors a check reads: each of those left is taken with the chance (wanted left) / (tensors left), so that
 * exactly the wanted number is, without a list of them. */
typedef struct pick { uint64_t state; size_t want, left; } pick;

static pick pick_of(const shard_file *f, const shard_check_args *args)
{
    shard_depth d = args ? args->depth : SHARD_CHECK_AUTO;
    pick p = { .state = args ? args->seed + shard_file_rank(f) : 0 };

    shard_file_entries(f, &p.left);
    d = shard_depth_resolve(d, shard_file_bytes(f), SHARD_AUTO_FULL);
    p.want = d == SHARD_CHECK_HEADER ? 0 : d == SHARD_CHECK_FULL ? p.left : args && args->n_sample ? args->n_sample : SAMPLE;
    if (p.want > p.left) p.want = p.left;
    return p;
}

static bool pick_next(pick *p)
{
    uint64_t z = (p->state += 0x9E3779B97F4A7C15u);         /* splitmix64 */
    bool take;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    take = p->want && z % p->left < p->want;
    p->left--;
    p->want -= take;
    return take;
}

uint64_t shard_file_check_bytes(const shard_file *f, const shard_check_args *args)
{
    pick p = pick_of(f, args);
    uint64_t sum = 0;
    size_t n;
    const shard_entry *x = shard_file_entries(f, &n);

    for (size_t i = 0; i < n; i++)
        if (pick_next(&p)) sum += x[i].bytes;
    return sum;
}

static px_code cancelled(px_err *e) { return px_fail(e, PX_ECANCELLED, "", "the check was cancelled"); }

/* ---- a file, by some threads: each takes the next tensor ---- */

typedef struct verdict { bool wanted, bad; shard_digest found; } verdict;
typedef struct work {
    const shard_file *f;
    const shard_check_args *args;           /* may be NULL */
    verdict       *v;                       /* (n) */
    size_t         n;
    atomic_size_t  next;
    atomic_bool    stop;
    pthread_mutex_t lock;                   /* progress and failures */
    uint64_t       done, total;
    px_err         failed;                  /* a digest that could not be begun */
} work;

static bool stopped(work *w)
{
    if (w->args && w->args->cancel && *w->args->cancel) atomic_store(&w->stop, true);
    return atomic_load_explicit(&w->stop, memory_order_relaxed);
}

static void advance(work *w, size_t bytes)
{
    pthread_mutex_lock(&w->lock);
    w->done += bytes;
    if (w->args && w->args->progress) w->args->progress(w->args->ctx, w->done, w->total);
    pthread_mutex_unlock(&w->lock);
}

static void *worker(void *ctx)
{
    work *w = ctx;
    size_t n;
    const shard_entry *x = shard_file_entries(w->f, &n);
    px_err e = { .rank = -1 };
    shard_hash h;

    const bool was = px_guard_exempt(true); /* beside the steps, where the check runs while serving */
    if (shard_hash_init(&h, shard_file_manifest(w->f)->digest_kind, &e)) {
        pthread_mutex_lock(&w->lock);
        if (!w->failed.code) w->failed = e;
        pthread_mutex_unlock(&w->lock);
        atomic_store(&w->stop, true);
        px_guard_exempt(was);
        return NULL;
    }
    for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n && !stopped(w);) {
        const uint8_t *data = shard_file_data(w->f) + x[i].offset;
        if (!w->v[i].wanted) continue;
        shard_hash_reset(&h);
        for (uint64_t at = 0; at < x[i].bytes && !stopped(w);) {
            size_t part = x[i].bytes - at < CHUNK ? (size_t)(x[i].bytes - at) : CHUNK;
            shard_hash_update(&h, data + at, part);
            at += part;
            advance(w, part);
        }
        if (atomic_load(&w->stop)) break;
        shard_hash_final(&h, &w->v[i].found);
        w->v[i].bad = !shard_digest_equal(&w->v[i].found, &x[i].digest);
    }
    shard_hash_deinit(&h);
    px_guard_exempt(was);                   /* one of these threads is the caller's */
    return NULL;
}

/* This thread is the first of them, and does all where no other can be made. */
static void run_all(void *(*fn)(void *), void *ctx, uint32_t threads)
{
    pthread_t t[MAX_THREADS];
    uint32_t n = 0;

    if (threads > MAX_THREADS) threads = MAX_THREADS;
    while (n + 1 < threads && pthread_create(&t[n], NULL, fn, ctx) == 0) n++;
    fn(ctx);
    for (uint32_t i = 0; i < n; i++) pthread_join(t[i], NULL);
}

px_code shard_file_check(const shard_file *f, const shard_check_args *args, px_err *errs, size_t cap, size_t *n_errs)
{
    pick p = pick_of(f, args);
    work w = { .f = f, .args = args, .total = shard_file_check_bytes(f, args) };
    px_alloc *a = shard_file_alloc(f);
    const shard_entry *x = shard_file_entries(f, &w.n);
    size_t bad = 0;
    px_err spare = { .rank = -1 };
    px_code first = PX_OK;

#define SLOT (bad < cap ? &errs[bad] : &spare)
    *n_errs = 0;
    px_err_clear(SLOT);
    if (!(w.v = px_new(a, verdict, w.n))) {
        *n_errs = cap ? 1 : 0;
        return px_fail(SLOT, PX_ENOMEM, "", "no memory to check %zu tensors", w.n);
    }
    for (size_t i = 0; i < w.n; i++) w.v[i].wanted = pick_next(&p);
    pthread_mutex_init(&w.lock, NULL);
    run_all(worker, &w, args && args->threads ? args->threads : 1);
    pthread_mutex_destroy(&w.lock);
    for (size_t i = 0; i < w.n; i++) {
        char name[64];
        if (!w.v[i].bad) continue;
        px_err *e = SLOT;
        px_err_clear(e);
        shard_digest_mismatch(e, PX_ECORRUPT, shard_tensor_name(x[i].role, x[i].layer, name, sizeof name), &w.v[i].found,
                              &x[i].digest);
        px_err_set_file(e, shard_file_path(f));
        e->rank = (int)shard_file_rank(f);
        if (!first) first = e->code;
        bad++;
    }
    if (atomic_load(&w.stop)) {
        px_err *e = SLOT;
        px_err_clear(e);
        if (w.failed.code) *e = w.failed;
        first = w.failed.code ? w.failed.code : cancelled(e);
        bad++;
    }
#undef SLOT
    px_del(a, w.v, w.n);
    *n_errs = bad < cap ? bad : cap;
    return first;
}

/* ---- how fast ---- */

typedef struct reading { shard_file *const *file; uint32_t n; uint64_t most; atomic_ullong next; atomic_ullong sum; } reading;

/* Adds up a part after the other; the sum is kept so that no compiler leaves the reading out. */
static void *reader(void *ctx)
{
    reading *g = ctx;
    uint64_t sum = 0;

    for (;;) {
        uint64_t at = atomic_fetch_add(&g->next, CHUNK);
        if (at >= g->most) break;
        for (uint32_t r = 0; r < g->n; r++) {
            size_t bytes;
            const uint8_t *map = shard_file_map(g->file[r], &bytes);
            if (at >= bytes) {
                at -= bytes;
                continue;
            }
            size_t end = bytes - at < CHUNK ? bytes : (size_t)at + CHUNK;
            for (size_t i = (size_t)at; i + 64 <= end; i += 64) {
                uint64_t v[8];
                memcpy(v, map + i, sizeof v);
                sum += (v[0] + v[1]) + (v[2] + v[3]) + (v[4] + v[5]) + (v[6] + v[7]);
            }
            break;
        }
    }
    atomic_fetch_add(&g->sum, sum);
    return NULL;
}

static void measure(shard_file *const *file, uint32_t n, const shard_check_args *args, uint64_t bytes, px_time_us took)
{
    reading g = { .file = file, .n = n };
    uint32_t threads = args->threads ? args->threads : 1;

    for (uint32_t r = 0; r < n; r++) g.most += shard_file_bytes(file[r]);
    if (g.most > MOST_READ) g.most = MOST_READ;
    px_time_us began = px_now_us();
    run_all(reader, &g, threads);
    double s = (double)(px_now_us() - began + 1) / 1e6;
    *args->speed = (shard_check_speed){ .bytes = bytes, .seconds = (double)took / 1e6, .threads = threads,
                                        .read_per_second = (double)g.most / s };
}

/* ---- the set ---- */

typedef struct whole { const shard_check_args *args; uint64_t before, total; } whole;

static void whole_progress(void *ctx, uint64_t done, uint64_t total)
{
    const whole *w = ctx;
    (void)total;
    w->args->progress(w->args->ctx, w->before + done, w->total);
}

px_code shard_set_check(px_alloc *a, const char *dir, uint32_t ranks, const shard_check_args *args, px_err *errs, size_t cap,
                        size_t *n_errs)
{
    static const shard_check_args DEFAULT = { .depth = SHARD_CHECK_AUTO };
    shard_file *file[SHARD_MAX_RANKS] = { NULL };
    shard_check_args each = args ? *args : DEFAULT;
    whole w = { .args = &each };
    shard_check_args inner;
    shard_manifest m;
    px_err spare = { .rank = -1 };
    px_code rc, first = PX_OK;
    size_t n = 0, more;

/* the next free slot, and what a callee may fill of the rest */
#define SLOT  (n < cap ? &errs[n] : &spare)
#define REST  (n < cap ? cap - n : 0)
    *n_errs = 0;
    px_err_clear(SLOT);
    if ((rc = shard_manifest_read(&m, a, dir, SLOT))) {
        *n_errs = cap ? 1 : 0;
        return rc;
    }
    if (ranks && ranks != m.world) {
        char found[16], expected[16];
        snprintf(found, sizeof found, "%u", m.world);
        snprintf(expected, sizeof expected, "%u", ranks);
        px_err_clear(SLOT);
        first = px_mismatch(SLOT, "ranks", found, expected);
        px_err_set_file(SLOT, dir);
        n++;
    }
    for (uint32_t i = 0; i < m.n_assets; i++) {
        char *data;
        size_t bytes;
        px_err_clear(SLOT);
        if ((rc = shard_manifest_asset(&m, a, dir, m.asset[i].name, &data, &bytes, SLOT))) {
            if (!first) first = rc;
            n++;
            continue;
        }
        px_del(a, data, bytes + 1);
    }
    for (uint32_t r = 0; r < m.world; r++) {
        if ((rc = shard_file_open(&file[r], a, dir, &m, r, REST ? &errs[n] : &spare, REST ? REST : 1, &more))) {
            if (!first) first = rc;
            n += more;
        } else {
            w.total += shard_file_check_bytes(file[r], &each);
        }
    }
    inner = each;
    if (each.progress) {
        inner.progress = whole_progress;
        inner.ctx = &w;
    }
    px_time_us began = px_now_us();
    for (uint32_t r = 0; r < m.world; r++) {
        if (!file[r]) continue;
        rc = shard_file_check(file[r], &inner, REST ? &errs[n] : &spare, REST ? REST : 1, &more);
        if (rc && !first) first = rc;
        n += more;
        w.before += shard_file_check_bytes(file[r], &each);
        if (rc == PX_ECANCELLED) {
            first = rc;
            break;
        }
    }
#undef SLOT
#undef REST
    if (!first && each.speed) measure(file, m.world, &each, w.total, px_now_us() - began + 1);
    for (uint32_t r = 0; r < m.world; r++) shard_file_close(file[r]);
    shard_manifest_deinit(&m);
    *n_errs = n < cap ? n : cap;
    return first;
}
