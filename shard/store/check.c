/* The one checker of verify and cold start: digests through the mapping that will be served. */
#include "shard/store/shardfile.h"

#include "proto/base/io.h"

#include <stdio.h>
#include <string.h>

#define CHUNK       (4u << 20)
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

px_code shard_file_check(const shard_file *f, const shard_check_args *args, px_err *errs, size_t cap, size_t *n_errs)
{
    pick p = pick_of(f, args);
    uint64_t done = 0, total = shard_file_check_bytes(f, args);
    size_t n, bad = 0;
    const shard_entry *x = shard_file_entries(f, &n);
    const shard_manifest *m = shard_file_manifest(f);
    px_err spare = { .rank = -1 };
    shard_hash h;
    px_code rc, first = PX_OK;

    *n_errs = 0;
    if (cap) px_err_clear(&errs[0]);
    if ((rc = shard_hash_init(&h, m->digest_kind, cap ? &errs[0] : &spare))) {
        *n_errs = cap ? 1 : 0;
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        const uint8_t *data = shard_file_data(f) + x[i].offset;
        shard_digest found;
        if (!pick_next(&p)) continue;
        shard_hash_reset(&h);
        for (uint64_t at = 0; at < x[i].bytes;) {
            size_t part = x[i].bytes - at < CHUNK ? (size_t)(x[i].bytes - at) : CHUNK;
            if (args && args->cancel && *args->cancel) {
                px_err *e = bad < cap ? &errs[bad] : &spare;
                px_err_clear(e);
                rc = cancelled(e);
                *n_errs = bad < cap ? bad + 1 : cap;
                shard_hash_deinit(&h);
                return rc;
            }
            shard_hash_update(&h, data + at, part);
            at += part;
            done += part;
            if (args && args->progress) args->progress(args->ctx, done, total);
        }
        shard_hash_final(&h, &found);
        if (!shard_digest_equal(&found, &x[i].digest)) {
            px_err *e = bad < cap ? &errs[bad] : &spare;
            char name[64];
            px_err_clear(e);
            shard_digest_mismatch(e, PX_ECORRUPT, shard_tensor_name(x[i].role, x[i].layer, name, sizeof name), &found,
                                  &x[i].digest);
            px_err_set_file(e, shard_file_path(f));
            e->rank = (int)shard_file_rank(f);
            if (!first) first = e->code;
            bad++;
        }
    }
    shard_hash_deinit(&h);
    *n_errs = bad < cap ? bad : cap;
    return first;
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
    for (uint32_t r = 0; r < m.world; r++) shard_file_close(file[r]);
    shard_manifest_deinit(&m);
    *n_errs = n < cap ? n : cap;
    return first;
}
