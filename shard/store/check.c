/* The one checker of verify and cold start: digests through the mapping that will be served. */
#include "shard/store/mapping.h"
#include "shard/store/shardfile.h"

#include "proto/base/guard.h"
#include "proto/base/io.h"

#include <pthread.h>
#include <sched.h>
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

/* ---- tensors of some files, by some threads: each takes the largest that is left, so that all end at about one time ---- */

typedef struct item { const shard_file *f; const shard_entry *x; bool bad; shard_digest found; } item;
typedef struct work {
    const shard_check_args *args;           /* may be NULL */
    item          *item;                    /* (n), file after file */
    uint32_t      *order;                   /* (n), by size */
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
    px_err e = { .rank = -1 };
    shard_hash h;

    const bool was = px_guard_exempt(true); /* beside the steps, where the check runs while serving */
    if (shard_hash_init(&h, shard_file_manifest(w->item->f)->digest_kind, &e)) {
        pthread_mutex_lock(&w->lock);
        if (!w->failed.code) w->failed = e;
        pthread_mutex_unlock(&w->lock);
        atomic_store(&w->stop, true);
        px_guard_exempt(was);
        return NULL;
    }
    for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n && !stopped(w);) {
        item *t = &w->item[w->order[i]];
        const uint8_t *data = shard_file_data(t->f) + t->x->offset;
        shard_hash_reset(&h);
        for (uint64_t at = 0; at < t->x->bytes && !stopped(w);) {
            size_t part = t->x->bytes - at < CHUNK ? (size_t)(t->x->bytes - at) : CHUNK;
            shard_hash_update(&h, data + at, part);
            at += part;
            advance(w, part);
        }
        if (atomic_load(&w->stop)) break;
        shard_hash_final(&h, &t->found);
        t->bad = !shard_digest_equal(&t->found, &t->x->digest);
    }
    shard_hash_deinit(&h);
    px_guard_exempt(was);                   /* one of these threads is the caller's */
    return NULL;
}

/* The next CPU of `all` after *cpu that is not this thread's own; false: there is none. */
static bool other_cpu(const cpu_set_t *all, int *cpu)
{
    const int own = sched_getcpu();

    while (++*cpu < CPU_SETSIZE)
        if (CPU_ISSET(*cpu, all) && *cpu != own) return true;
    return false;
}

/* This thread is the first of them, and does all where no other can be made.  spread: each of the others begins on a CPU of its own, where
 * the scheduler might leave it beside its maker for longer than a small set takes. */
static void run_all(void *(*fn)(void *), void *ctx, uint32_t threads, bool spread)
{
    pthread_t t[MAX_THREADS];
    cpu_set_t all, one;
    uint32_t n = 0;
    int cpu = -1;

    if (threads > MAX_THREADS) threads = MAX_THREADS;
    spread = spread && !sched_getaffinity(0, sizeof all, &all);
    for (; n + 1 < threads && pthread_create(&t[n], NULL, fn, ctx) == 0; n++) {
        if (!spread || !other_cpu(&all, &cpu)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(t[n], sizeof one, &one);             /* moves it there now */
        pthread_setaffinity_np(t[n], sizeof all, &all);             /* and lets it go where it likes */
    }
    fn(ctx);
    for (uint32_t i = 0; i < n; i++) pthread_join(t[i], NULL);
}

static int larger_first(const void *ctx, uint32_t x, uint32_t y)
{
    const item *t = ctx;
    return t[x].x->bytes > t[y].x->bytes ? -1 : t[x].x->bytes < t[y].x->bytes;
}

/* The picked tensors of the files, one after the other; n is their number. */
static void list(work *w, const shard_file *const *file, uint32_t n_files)
{
    w->n = 0;
    for (uint32_t k = 0; k < n_files; k++) {
        pick p = pick_of(file[k], w->args);
        size_t n;
        const shard_entry *x = shard_file_entries(file[k], &n);

        for (size_t i = 0; i < n; i++) {
            if (!pick_next(&p)) continue;
            w->item[w->n] = (item){ .f = file[k], .x = &x[i] };
            w->order[w->n] = (uint32_t)w->n;
            w->n++;
        }
    }
    shard_order_sort(w->order, w->n, larger_first, w->item);
}

static void report(const item *t, px_err *e)
{
    char name[64];

    shard_digest_mismatch(e, PX_ECORRUPT, shard_tensor_name(t->x->role, t->x->layer, name, sizeof name), &t->found, &t->x->digest);
    px_err_set_file(e, shard_file_path(t->f));
    e->rank = (int)shard_file_rank(t->f);
}

/* The first n_files of `file`, of one set.  spread: as run_all; not where other ranks have threads on the same CPUs. */
static px_code check_files(px_alloc *a, const shard_file *const *file, uint32_t n_files, const shard_check_args *args, bool spread,
                           px_err *errs, size_t cap, size_t *n_errs)
{
    work w = { .args = args };
    size_t most = 0, bad = 0;
    px_err spare = { .rank = -1 };
    px_code first = PX_OK;

#define SLOT (bad < cap ? &errs[bad] : &spare)
    *n_errs = 0;
    px_err_clear(SLOT);
    for (uint32_t k = 0; k < n_files; k++) {
        w.total += shard_file_check_bytes(file[k], args);
        most += pick_of(file[k], args).want;
    }
    if (!most) return PX_OK;
    w.item = px_new(a, item, most);
    w.order = px_new(a, uint32_t, most);
    if (!w.item || !w.order) {
        *n_errs = cap ? 1 : 0;
        first = px_fail(SLOT, PX_ENOMEM, "", "no memory to check %zu tensors", most);
        goto done;
    }
    list(&w, file, n_files);
    pthread_mutex_init(&w.lock, NULL);
    run_all(worker, &w, args && args->threads ? args->threads : 1, spread);
    pthread_mutex_destroy(&w.lock);
    for (size_t i = 0; i < w.n; i++) {
        if (!w.item[i].bad) continue;
        px_err *e = SLOT;
        px_err_clear(e);
        report(&w.item[i], e);
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
    *n_errs = bad < cap ? bad : cap;
done:
#undef SLOT
    if (w.item) px_del(a, w.item, most);
    if (w.order) px_del(a, w.order, most);
    return first;
}

px_code shard_file_check(const shard_file *f, const shard_check_args *args, px_err *errs, size_t cap, size_t *n_errs)
{
    return check_files(shard_file_alloc(f), &f, 1, args, false, errs, cap, n_errs);
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
    run_all(reader, &g, threads, true);
    double s = (double)(px_now_us() - began + 1) / 1e6;
    *args->speed = (shard_check_speed){ .bytes = bytes, .seconds = (double)took / 1e6, .threads = threads,
                                        .read_per_second = (double)g.most / s };
}

/* ---- the set ---- */

px_code shard_set_check(px_alloc *a, const char *dir, uint32_t ranks, const shard_check_args *args, px_err *errs, size_t cap,
                        size_t *n_errs)
{
    static const shard_check_args DEFAULT = { .depth = SHARD_CHECK_AUTO };
    shard_file *file[SHARD_MAX_RANKS] = { NULL };
    uint32_t n_files = 0;
    uint64_t bytes = 0;
    shard_manifest m;
    px_err spare = { .rank = -1 };
    px_code rc, first = PX_OK;
    size_t n = 0, more;

    if (!args) args = &DEFAULT;
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
        size_t had;
        px_err_clear(SLOT);
        if ((rc = shard_manifest_asset(&m, a, dir, m.asset[i].name, &data, &had, SLOT))) {
            if (!first) first = rc;
            n++;
            continue;
        }
        px_del(a, data, had + 1);
    }
    for (uint32_t r = 0; r < m.world; r++) {
        if ((rc = shard_file_open(&file[n_files], a, dir, &m, r, REST ? &errs[n] : &spare, REST ? REST : 1, &more))) {
            if (!first) first = rc;
            n += more;
        } else {
            bytes += shard_file_check_bytes(file[n_files++], args);
        }
    }
    px_time_us began = px_now_us();
    rc = check_files(a, (const shard_file *const *)file, n_files, args, true, REST ? &errs[n] : &spare,
                     REST ? REST : 1, &more);
    if (rc && (!first || rc == PX_ECANCELLED)) first = rc;
    n += more;
#undef SLOT
#undef REST
    if (!first && args->speed) measure(file, n_files, args, bytes, px_now_us() - began + 1);
    for (uint32_t k = 0; k < n_files; k++) shard_file_close(file[k]);
    shard_manifest_deinit(&m);
    *n_errs = n < cap ? n : cap;
    return first;
}
