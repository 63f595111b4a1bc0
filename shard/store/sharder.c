/* A checkpoint becomes a set: tensor by tensor, each cut for every rank while its pages are warm.  Memory is a chunk of panels a thread,
 * 2 MiB a rank and 8 MiB more, whatever the model's size; a thread reads a tensor for the source's digest while the one before it is
 * converted, and others write. */
#include "shard/store/sharder.h"

#include "proto/base/io.h"
#include "shard/plan/bytes.h"
#include "shard/store/outdir.h"
#include "shard/store/pack.h"
#include "shard/store/rankfile.h"
#include "shard/store/shardfile.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ZERO_SIZES 32u
#define HASH_CHUNK  (4u << 20)
#define READ_AHEAD  (32u << 20)          /* of the source, while what comes before it is converted */
#define DIGEST_TEXT 65536u              /* room for the manifest beside the shards, generously */

typedef struct rank_out {
    shard_rankfile file;
    shard_entry *entry; size_t n_entries;    /* owned */
    uint64_t     data_at, data_bytes;
} rank_out;

/* A tensor of the source whose digest a thread of its own makes; this pass also brings its pages into the cache for the cuts. */
typedef struct reading {
    const struct run   *of;
    const shard_source *src, *next;          /* next: NULL or what will be wanted after it */
    shard_hash   hash;
    shard_digest digest;
    px_code      rc;
    px_err       e;
    pthread_t    thread;
    bool         beside;                     /* it has the thread */
    atomic_bool  stop;
} reading;

typedef struct run {
    px_alloc *a;
    const shard_pack_args *args;
    const shard_arch *arch;
    shard_manifest m;                   /* filled as it will be written */
    shard_outdir dir;
    rank_out     rank[SHARD_MAX_RANKS];
    shard_writer *writer;
    shard_packer packer;
    shard_hash   hash, source;
    reading      ahead;
    uint64_t     done, total;
    rank_out    *to;                    /* of the tensor being written */
    struct { uint64_t bytes; shard_digest digest; } zeros[ZERO_SIZES]; size_t n_zeros;    /* sparse: by size */
} run;

static px_code check_cancel(const run *s, px_err *e)
{
    if (s->args->cancel && *s->args->cancel) return px_fail(e, PX_ECANCELLED, "", "sharding was cancelled; nothing is left");
    return PX_OK;
}

/* The digest of so many zeros: a model has few sizes of tensors, and each is hashed once. */
static px_code zero_digest(run *s, uint64_t bytes, shard_digest *out, px_err *e)
{
    static const uint8_t zeros[1u << 16];
    px_code rc;

    for (size_t i = 0; i < s->n_zeros; i++)
        if (s->zeros[i].bytes == bytes) return *out = s->zeros[i].digest, PX_OK;
    shard_hash_reset(&s->hash);
    for (uint64_t left = bytes; left;) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        if ((rc = check_cancel(s, e))) return rc;
        shard_hash_update(&s->hash, zeros, n);
        left -= n;
    }
    shard_hash_final(&s->hash, out);
    if (s->n_zeros < ZERO_SIZES) s->zeros[s->n_zeros].bytes = bytes, s->zeros[s->n_zeros++].digest = *out;
    return PX_OK;
}

/* The place of the header, which is known at the end. */
static px_code append_header(rank_out *to, px_err *e)
{
    static const uint8_t zeros[1u << 16];
    px_code rc = PX_OK;

    for (uint64_t left = to->data_at; left && !rc;) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        rc = shard_rankfile_append(&to->file, zeros, n, e);
        left -= n;
    }
    return rc;
}

static px_code put(void *ctx, const void *data, size_t n, px_err *e)
{
    run *s = ctx;
    px_code rc = check_cancel(s, e);

    if (rc) return rc;
    if ((rc = shard_rankfile_append(&s->to->file, data, n, e))) return rc;
    shard_hash_update(&s->hash, data, n);
    s->done += n;
    if (s->args->progress) s->args->progress(s->args->ctx, s->done, s->total);
    return PX_OK;
}

/* ---- before anything is written ---- */

static px_code check_args(const shard_pack_args *args, px_err *e)
{
    if (args->ranks < 1 || args->ranks > SHARD_MAX_RANKS) {
        px_code rc = px_fail(e, PX_ERANGE, "ranks", "a set has 1 to %u ranks", SHARD_MAX_RANKS);
        if (e) {
            snprintf(e->found, sizeof e->found, "%u", args->ranks);
            snprintf(e->expected, sizeof e->expected, "1 to %u", SHARD_MAX_RANKS);
        }
        return rc;
    }
    if (args->n_assets > SHARD_MAX_ASSETS) return px_fail(e, PX_ERANGE, "assets", "more than %u", SHARD_MAX_ASSETS);
    for (size_t i = 0; i < args->n_assets; i++) {
        if (!shard_asset_name_ok(args->asset[i].name))
            return px_fail(e, PX_EINVAL, "assets", "\"%.64s\" is no name for a file of a set", args->asset[i].name);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(args->asset[i].name, args->asset[k].name))
                return px_fail(e, PX_EINVAL, "assets", "\"%s\" comes twice", args->asset[i].name);
    }
    return PX_OK;
}

static px_code fill_manifest(run *s, px_err *e)
{
    const shard_pack_args *args = s->args;
    shard_manifest *m = &s->m;
    const char *revision = args->revision ? args->revision : shard_checkpoint_revision(args->source);
    px_code rc;

    if (args->split == SHARD_SPLIT_ALIGNED) return px_fail(e, PX_EUNSUP, "split", "aligned is planned, and no set is cut so yet");
    m->a = s->a;
    m->version = SHARD_FORMAT_VERSION;
    m->world = args->ranks;
    m->arch = *s->arch;
    m->policy = args->policy;
    m->split_ffn = args->split;
    m->split_vocab = args->vocab;
    m->digest_kind = args->digest;
    m->source.n = shard_digest_size(args->digest);      /* its value is known at the end, its length now */
    m->source_bytes = shard_checkpoint_bytes(args->source);
    m->default_temperature = m->default_top_p = NAN;
    m->default_top_k = UINT32_MAX;
    snprintf(m->model, sizeof m->model, "%s", s->arch->name);
    snprintf(m->revision, sizeof m->revision, "%s", revision ? revision : "");
    snprintf(m->layout, sizeof m->layout, "%s", SHARD_LAYOUT);
    snprintf(m->builder, sizeof m->builder, "phalanx %s", PHALANX_VERSION);

    if ((rc = shard_types_stored(&m->types, s->a, s->arch, shard_checkpoint_types(args->source), args->policy, e)) ||
        (rc = shard_split_init(&m->split, s->a, s->arch, &m->types, m->world, m->split_ffn, m->split_vocab, e)) ||
        (rc = shard_plan_digest(m->digest_kind, s->arch, &m->types, &m->split, &m->plan, e)))
        return rc;
    shard_arith_of(s->arch, &m->types, m->arith);
    if (!(m->rank = px_new(s->a, shard_manifest_rank, m->world)))
        return px_fail(e, PX_ENOMEM, "ranks", "%u ranks", m->world);
    if (args->n_assets && !(m->asset = px_new(s->a, shard_manifest_asset_entry, args->n_assets)))
        return px_fail(e, PX_ENOMEM, "assets", "%zu assets", args->n_assets);
    m->n_assets = (uint32_t)args->n_assets;
    for (uint32_t i = 0; i < m->n_assets; i++) {
        shard_manifest_asset_entry *x = &m->asset[i];
        snprintf(x->name, sizeof x->name, "%s", args->asset[i].name);
        x->bytes = args->asset[i].bytes;
        shard_hash_reset(&s->hash);
        shard_hash_update(&s->hash, args->asset[i].data, args->asset[i].bytes);
        shard_hash_final(&s->hash, &x->digest);
        if (!strcmp(x->name, "tokenizer.json")) m->tokenizer = x->digest;
    }
    return PX_OK;
}

/* Sizes of everything: the layout of every rank, the header it will need. */
static px_code lay_out(run *s, uint64_t *bytes, px_err *e)
{
    shard_manifest *m = &s->m;
    px_code rc;

    *bytes = DIGEST_TEXT;
    for (uint32_t i = 0; i < m->n_assets; i++) *bytes += m->asset[i].bytes;
    for (uint32_t r = 0; r < m->world; r++) {
        rank_out *to = &s->rank[r];
        shard_weight_bytes w;
        uint8_t *header;
        size_t header_bytes;
        if ((rc = shard_entries_init(&to->entry, &to->n_entries, &to->data_bytes, s->a, s->arch, &m->types, &m->split, r, e)) ||
            (rc = shard_weight_bytes_of(s->arch, &m->types, &m->split, r, true, &w, e)))
            return rc;
        if (w.mapped != to->data_bytes) return px_fail(e, PX_EINTERNAL, "mapped_bytes", "the plan and the file disagree");
        for (size_t i = 0; i < to->n_entries; i++) to->entry[i].digest.n = shard_digest_size(m->digest_kind);
        if ((rc = shard_header_text(m, r, to->entry, to->n_entries, s->a, &header, &header_bytes, e))) return rc;
        px_del(s->a, header, header_bytes);
        to->data_at = header_bytes;
        shard_rank_file_name(r, m->world, m->rank[r].file);
        m->rank[r].mapped_bytes = to->data_bytes;
        m->rank[r].bytes = to->data_at + to->data_bytes;
        s->total += to->data_bytes;
        m->stored_bytes += w.stored;
        if (__builtin_add_overflow(*bytes, m->rank[r].bytes, bytes) || *bytes > INT64_MAX)
            return px_fail(e, PX_ERANGE, "ranks", "a set beyond 63 bits");
    }
    return PX_OK;
}

/* ---- tensors ---- */

/* Up to so many bytes of the source from `at` will be wanted soon. */
static void expect(const shard_source *src, size_t at, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from, to;

    if (at >= src->bytes) return;
    from = ((uintptr_t)src->data + at) / page * page;
    to = (uintptr_t)src->data + at + (src->bytes - at < n ? src->bytes - at : n);
    madvise((void *)from, to - from, MADV_WILLNEED);
}

static void *read_tensor(void *ctx)
{
    reading *x = ctx;

    shard_hash_reset(&x->hash);
    for (size_t at = 0; at < x->src->bytes; at += HASH_CHUNK) {
        if (atomic_load(&x->stop) || (x->rc = check_cancel(x->of, &x->e))) return NULL;
        expect(x->src, at + READ_AHEAD, HASH_CHUNK);
        shard_hash_update(&x->hash, x->src->data + at, x->src->bytes - at < HASH_CHUNK ? x->src->bytes - at : HASH_CHUNK);
    }
    shard_hash_final(&x->hash, &x->digest);
    if (x->next) expect(x->next, 0, READ_AHEAD);
    return NULL;
}

/* Every rank has the same tensors in the same order; NULL: there is none, or the checkpoint lacks it. */
static const shard_source *source_of(const run *s, size_t index)
{
    const rank_out *first = &s->rank[0];

    if (index >= first->n_entries) return NULL;
    return shard_checkpoint_tensor(s->args->source, first->entry[index].role, first->entry[index].layer);
}

static void read_begin(run *s, size_t index)
{
    reading *x = &s->ahead;

    x->src = source_of(s, index);
    x->next = source_of(s, index + 1);
    x->rc = PX_OK;
    if (!x->src || s->args->sparse) return;
    x->beside = !pthread_create(&x->thread, NULL, read_tensor, x);
    if (!x->beside) read_tensor(x);
}

static void read_end(run *s)
{
    if (s->ahead.beside) pthread_join(s->ahead.thread, NULL);
    s->ahead.beside = false;
}

/* The tensor as it stands in the source goes into the source's digest. */
static px_code count_source(run *s, const char *name, px_err *e)
{
    reading *x = &s->ahead;
    char hex[65];
    px_code rc;

    read_end(s);
    if (!x->src) return px_fail(e, PX_ECORRUPT, name, "the checkpoint lacks it");
    if (s->args->sparse && (rc = zero_digest(s, x->src->bytes, &x->digest, e))) return rc;
    if (x->rc) {
        if (e) *e = x->e;
        return x->rc;
    }
    shard_digest_hex(&x->digest, hex);
    shard_hash_text(&s->source, "%s %s %llu %llu %s\n", name, kern_dtype_get(x->src->dtype)->name,
                    (unsigned long long)x->src->rows, (unsigned long long)x->src->cols, hex);
    return PX_OK;
}

/* Done with it: its pages leave this process (they stay in the cache of the system). */
static void forget(const shard_source *src)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)src->data + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)src->data + src->bytes) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* What rank k's part of a tensor adds to its class. */
static void count_conversion(shard_conversion *c, const shard_source *src, const shard_entry *x, uint32_t k, const shard_packer *p)
{
    uint64_t bytes = 0, rows = x->x.row0 + x->x.rows <= src->rows ? x->x.rows : x->x.row0 < src->rows ? src->rows - x->x.row0 : 0;

    if (x->vector || x->type == src->dtype) return;
    if (!c->n) {
        c->from = src->dtype;
        c->to = x->type;
    }
    if (!k) {
        c->n++;
        c->source_bytes += src->bytes;
    }
    kern_matrix_bytes(x->type, rows, x->x.cols, &bytes);        /* it was laid out with no less: it fits */
    c->stored_bytes += bytes;
    c->error += p->error;
    c->size += p->size;
}

static px_code write_tensor(run *s, size_t index, shard_pack_result *out, px_err *e)
{
    const shard_entry *first = &s->rank[0].entry[index];
    const shard_role r = first->role;
    const shard_source *src = s->ahead.src;
    char name[64];
    px_code rc = PX_OK;

    shard_tensor_name(r, first->layer, name, sizeof name);
    if ((rc = count_source(s, name, e))) return rc;
    read_begin(s, index + 1);
    for (uint32_t k = 0; k < s->m.world; k++) {
        rank_out *to = &s->rank[k];
        shard_entry *x = &to->entry[index];
        if (s->args->sparse) {
            if ((rc = zero_digest(s, x->bytes, &x->digest, e))) return rc;
            continue;
        }
        s->to = to;
        if (to->file.at + to->file.n != to->data_at + x->offset) return px_fail(e, PX_EINTERNAL, name, "rank %u has other bytes before it than planned", k);
        shard_hash_reset(&s->hash);
        s->packer.error = s->packer.size = 0;
        rc = x->vector ? shard_packer_vector(&s->packer, src, &x->x, put, s, e)
                       : shard_packer_matrix(&s->packer, src, &x->x, x->type, s->arch->head_dim, put, s, e);
        if (!rc && to->file.at + to->file.n != to->data_at + x->offset + x->bytes)
            rc = px_fail(e, PX_EINTERNAL, name, "rank %u got other bytes than planned", k);
        if (rc) {
            if (rc == PX_ECANCELLED) return rc;
            if (e && !e->field[0]) snprintf(e->field, sizeof e->field, "%s", name);
            px_err_set_file(e, src->file);
            return rc;
        }
        shard_hash_final(&s->hash, &x->digest);
        count_conversion(&out->converted[r], src, x, k, &s->packer);
    }
    forget(src);
    return PX_OK;
}

static px_code write_tensors(run *s, shard_pack_result *out, px_err *e)
{
    px_code rc;

    shard_hash_text(&s->source, "phalanx source 1\n");
    shard_arch_hash(&s->source, s->arch);
    for (uint32_t k = 0; k < s->m.world && !s->args->sparse; k++)
        if ((rc = append_header(&s->rank[k], e))) return rc;
    read_begin(s, 0);
    for (size_t i = 0; i < s->rank[0].n_entries; i++)
        if ((rc = write_tensor(s, i, out, e))) return rc;
    shard_hash_final(&s->source, &s->m.source);
    return PX_OK;
}

/* ---- headers, assets, manifest ---- */

static px_code finish_rank(run *s, uint32_t r, px_err *e)
{
    rank_out *to = &s->rank[r];
    uint8_t *header;
    size_t bytes;
    px_code rc = shard_header_text(&s->m, r, to->entry, to->n_entries, s->a, &header, &bytes, e);

    if (rc) return rc;
    if (bytes != to->data_at) rc = px_fail(e, PX_EINTERNAL, "header", "it grew while the tensors were written");
    if (!rc) rc = shard_rankfile_finish(&to->file, header, bytes, e);
    shard_hash_reset(&s->hash);
    shard_hash_update(&s->hash, header, bytes);
    shard_hash_final(&s->hash, &s->m.rank[r].header);
    px_del(s->a, header, bytes);
    return rc;
}

static px_code write_named(run *s, const char *name, const void *data, size_t bytes, px_err *e)
{
    char path[4200];
    px_code rc = px_path_join(path, sizeof path, s->dir.partial, name, e);

    return shard_out_code(rc ? rc : px_write_file(path, data, bytes, true, e), path, e);
}

static px_code finish(run *s, px_err *e)
{
    char *text;
    size_t bytes;
    px_code rc;

    for (uint32_t r = 0; r < s->m.world; r++)
        if ((rc = check_cancel(s, e)) || (rc = finish_rank(s, r, e))) return rc;
    for (size_t i = 0; i < s->args->n_assets; i++)
        if ((rc = write_named(s, s->args->asset[i].name, s->args->asset[i].data, s->args->asset[i].bytes, e))) return rc;
    if ((rc = shard_manifest_text(&s->m, s->a, &text, &bytes, e))) return rc;
    rc = write_named(s, SHARD_MANIFEST_FILE, text, bytes, e);
    px_del(s->a, text, bytes + 1);
    if (!rc) rc = check_cancel(s, e);
    return rc ? rc : shard_outdir_commit(&s->dir, e);
}

static void result_of(const run *s, shard_pack_result *out)
{
    out->source_bytes = s->m.source_bytes;
    out->stored_bytes = s->m.stored_bytes;
    out->mapped_bytes = s->total;
    for (uint32_t r = 0; r < s->m.world; r++) out->rank_mapped[r] = s->rank[r].data_bytes;
}

px_code shard_pack(px_alloc *a, const shard_pack_args *args, shard_pack_result *out, px_err *e)
{
    uint64_t bytes;
    run *s = NULL;
    px_code rc;

    memset(out, 0, sizeof *out);
    if ((rc = check_args(args, e))) return rc;
    if (!(s = px_new(a, run, 1))) return px_fail(e, PX_ENOMEM, "", "a sharder");
    s->a = a;
    s->args = args;
    s->arch = shard_checkpoint_arch(args->source);
    s->dir.fd = -1;
    for (uint32_t r = 0; r < SHARD_MAX_RANKS; r++) s->rank[r].file.to = (shard_target){ .fd = -1, .direct = -1 };
    shard_packer_init(&s->packer, a, args->threads);
    s->ahead.of = s;
    if ((rc = shard_hash_init(&s->hash, args->digest, e)) || (rc = shard_hash_init(&s->source, args->digest, e)) ||
        (rc = shard_hash_init(&s->ahead.hash, args->digest, e)))
        goto fail;
    if ((rc = fill_manifest(s, e)) || (rc = lay_out(s, &bytes, e))) goto fail;
    if ((rc = shard_outdir_open(&s->dir, args->out, args->note, args->ctx, e))) goto fail;
    if (args->progress) args->progress(args->ctx, 0, s->total);         /* from here on OUT.partial is ours */
    if (!args->sparse && (rc = shard_outdir_room(&s->dir, bytes, e))) goto fail;
    if (!args->sparse && (rc = shard_writer_open(&s->writer, a, args->ranks, SHARD_SLOW_US, e))) goto fail;
    for (uint32_t r = 0; r < args->ranks; r++)
        if ((rc = shard_rankfile_open(&s->rank[r].file, s->writer, s->dir.partial, s->m.rank[r].file, s->m.rank[r].bytes, e))) goto fail;
    if ((rc = write_tensors(s, out, e)) || (rc = finish(s, e))) goto fail;
    result_of(s, out);

fail:                                   /* also the way out of success: everything here is idempotent */
    atomic_store(&s->ahead.stop, true);
    read_end(s);
    shard_writer_close(s->writer);
    for (uint32_t r = 0; r < SHARD_MAX_RANKS; r++) {
        shard_rankfile_deinit(&s->rank[r].file);
        if (s->rank[r].entry) px_del(a, s->rank[r].entry, s->rank[r].n_entries);
    }
    shard_outdir_drop(&s->dir);
    shard_packer_deinit(&s->packer);
    shard_hash_deinit(&s->hash);
    shard_hash_deinit(&s->source);
    shard_hash_deinit(&s->ahead.hash);
    shard_manifest_deinit(&s->m);
    px_del(a, s, 1);
    return rc;
}
