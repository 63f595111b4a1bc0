#include "shard/store/shardfile.h"

#include "proto/base/io.h"
#include "proto/base/mapped.h"
#include "shard/store/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_CAP (100u << 20)          /* what safetensors readers accept */

/* ---- layout ---- */

px_code shard_entries_init(shard_entry **out, size_t *n, uint64_t *data_bytes, px_alloc *a, const shard_arch *m,
                           const shard_types *t, const shard_split *s, uint32_t rank, px_err *e)
{
    size_t count = 0, at = 0;
    shard_entry *x = NULL;
    px_code rc;

    *out = NULL;
    *n = 0;
    *data_bytes = 0;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        if (shard_arch_has(m, r)) count += shard_role_get(r)->per_layer ? m->n_layer : 1;
    if (!(*out = px_new(a, shard_entry, count))) return px_fail(e, PX_ENOMEM, "", "%zu tensors of a shard", count);
    *n = count;
    for (int64_t layer = -1; layer < m->n_layer; layer++)          /* -1: the global tensors */
        for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
            const shard_role_info *info = shard_role_get(r);
            if (!shard_arch_has(m, r) || info->per_layer != (layer >= 0)) continue;
            x = &(*out)[at++];
            *x = (shard_entry){ .role = r, .layer = layer < 0 ? 0 : (uint32_t)layer, .vector = info->vector,
                                .offset = *data_bytes };
            x->type = info->vector ? KERN_F32 : shard_type_of(t, r, x->layer);
            shard_split_extent(s, m, r, rank, &x->x);
            if (info->vector) x->bytes = (x->x.cols * sizeof(float) + 63) / 64 * 64;
            else if ((rc = kern_panel_bytes(x->type, x->x.rows, x->x.cols, &x->bytes, e))) goto fail;
            if (__builtin_add_overflow(*data_bytes, x->bytes, data_bytes) || *data_bytes > INT64_MAX / 2) {
                rc = px_fail(e, PX_ERANGE, "", "a shard beyond 63 bits");
                goto fail;
            }
        }
    return PX_OK;

fail:
    if (e) {                                /* which tensor cannot be cut so */
        char name[64];
        snprintf(e->field, sizeof e->field, "%s", shard_tensor_name(x->role, x->layer, name, sizeof name));
    }
    px_del(a, *out, count);
    *out = NULL;
    *n = 0;
    return rc;
}

bool shard_meta(const shard_manifest *m, uint32_t rank, size_t i, const char **key, char value[256])
{
    static const char *const KEY[] = { "format", "rank", "world", "revision", "source", "plan", "model", "layout",
                                       "arithmetic", "policy", "digest", "tokenizer", "builder" };
    if (i >= sizeof KEY / sizeof *KEY) return false;
    *key = KEY[i];
    switch (i) {
    case 0:  snprintf(value, 256, "%u", m->version); break;
    case 1:  snprintf(value, 256, "%u", rank); break;
    case 2:  snprintf(value, 256, "%u", m->world); break;
    case 3:  snprintf(value, 256, "%s", m->revision); break;
    case 4:  shard_digest_hex(&m->source, value); break;
    case 5:  shard_digest_hex(&m->plan, value); break;
    case 6:  snprintf(value, 256, "%s", m->model); break;
    case 7:  snprintf(value, 256, "%s", m->layout); break;
    case 8:  snprintf(value, 256, "%s", m->arith); break;
    case 9:  snprintf(value, 256, "%s", shard_policy_name(m->policy)); break;
    case 10: snprintf(value, 256, "%s", shard_digest_name(m->digest_kind)); break;
    case 11: shard_digest_hex(&m->tokenizer, value); break;
    default: snprintf(value, 256, "%s", m->builder); break;
    }
    return true;
}

/* "Q4_1 192 576 ": what a tensor's metadata say before its digest. */
static void entry_words(const shard_entry *x, char out[96])
{
    snprintf(out, 96, "%s %llu %llu ", kern_dtype_get(x->type)->name, (unsigned long long)x->x.rows,
             (unsigned long long)x->x.cols);
}

static const char *entry_name(const shard_entry *x, char buf[64]) { return shard_tensor_name(x->role, x->layer, buf, 64); }

px_code shard_header_text(const shard_manifest *m, uint32_t rank, const shard_entry *entry, size_t n, px_alloc *a,
                          uint8_t **text, size_t *bytes, px_err *e)
{
    json_t *o = json_object(), *meta = json_object();
    char value[256], name[64], key[80], words[96], hex[65], *dump = NULL;
    const char *k;
    int bad = !o || !meta;
    size_t used;

    *text = NULL;
    if (!bad) bad |= json_object_set_new(o, "__metadata__", meta);
    else if (meta) json_decref(meta);
    for (size_t i = 0; !bad && shard_meta(m, rank, i, &k, value); i++) bad |= json_object_set_new(meta, k, shard_json_string(value));
    for (size_t i = 0; !bad && i < n; i++) {
        const shard_entry *x = &entry[i];
        json_int_t count = (json_int_t)(x->vector ? x->bytes / sizeof(float) : x->bytes);
        entry_name(x, name);
        snprintf(key, sizeof key, "t.%s", name);
        entry_words(x, words);
        shard_digest_hex(&x->digest, hex);
        bad |= json_object_set_new(meta, key, json_sprintf("%s%s", words, hex));
        bad |= json_object_set_new(o, name, json_pack("{s:s,s:[I],s:[I,I]}", "dtype", x->vector ? "F32" : "U8", "shape", count,
                                                      "data_offsets", (json_int_t)x->offset,
                                                      (json_int_t)(x->offset + x->bytes)));
    }
    if (!bad) dump = json_dumps(o, JSON_COMPACT);
    if (o) json_decref(o);
    used = dump ? strlen(dump) : 0;
    *bytes = (8 + used + 63) / 64 * 64;
    if (!dump || *bytes - 8 > HEADER_CAP || !(*text = px_new(a, uint8_t, *bytes))) {
        free(dump);
        return px_fail(e, PX_ENOMEM, "", "the header of %zu tensors", n);
    }
    memset(*text, ' ', *bytes);
    for (int i = 0; i < 8; i++) (*text)[i] = (uint8_t)((uint64_t)(*bytes - 8) >> (8 * i));
    memcpy(*text + 8, dump, used);
    free(dump);
    return PX_OK;
}

/* ---- an open shard ---- */

struct shard_file {
    px_alloc    *a;
    char         path[4096];
    uint32_t     rank;
    uint8_t     *map;
    size_t       map_bytes;
    px_mapped    listed;
    uint64_t     data_at, data_bytes;
    shard_entry *entry;                     /* owned */
    size_t       n_entries;
    size_t       first[SHARD_N_ROLES];      /* position of a role's first tensor */
    size_t       per_layer;                 /* tensors a layer */
    const shard_manifest *m;                /* borrowed */
};

/* Collects mismatches; the first one's code is the answer. */
typedef struct found {
    px_err *errs, spare;
    size_t  cap, n;
    px_code first;
    const char *path;
    uint32_t rank;
} found;

static px_err *next(found *w)
{
    px_err *e = w->n < w->cap ? &w->errs[w->n] : &w->spare;
    px_err_clear(e);
    return e;
}

static void took(found *w, px_err *e)
{
    if (!w->first) w->first = e->code;
    px_err_set_file(e, w->path);
    e->rank = (int)w->rank;
    w->n++;
}

static void differs(found *w, px_code code, const char *field, const char *is, const char *was)
{
    px_err *e = next(w);
    px_err_set_mismatch(e, code, __FILE__, __LINE__, field, is, was);
    took(w, e);
}

static void differs_bytes(found *w, const char *field, uint64_t is, uint64_t was)
{
    char a[40], b[40];
    snprintf(a, sizeof a, "%llu bytes", (unsigned long long)is);
    snprintf(b, sizeof b, "%llu bytes", (unsigned long long)was);
    differs(w, PX_EMISMATCH, field, a, b);
}

static void check_meta(found *w, const json_t *meta, const shard_manifest *m)
{
    const char *key;
    char want[256];

    for (size_t i = 0; shard_meta(m, w->rank, i, &key, want); i++) {
        const char *is = json_string_value(json_object_get(meta, key));
        json_t *plain = shard_json_string(want);        /* as it was written */
        const char *was = plain ? json_string_value(plain) : want;
        if (!is || strcmp(is, was)) differs(w, PX_EMISMATCH, key, is ? is : "nothing", was);
        if (plain) json_decref(plain);
    }
}

static void check_entry(found *w, const json_t *o, const json_t *meta, shard_entry *x, shard_digest_kind kind)
{
    char name[64], field[96], key[80], words[96], is[64], was[64];
    const json_t *t = json_object_get(o, entry_name(x, name)), *at = json_object_get(t, "data_offsets");
    const json_t *shape = json_object_get(t, "shape");
    const char *dtype = json_string_value(json_object_get(t, "dtype")), *note;
    json_int_t begin = json_integer_value(json_array_get(at, 0)), end = json_integer_value(json_array_get(at, 1));
    json_int_t count = (json_int_t)(x->vector ? x->bytes / sizeof(float) : x->bytes);

    if (!t) {
        differs(w, PX_ENOTFOUND, name, "nothing", "a tensor of this rank");
        return;
    }
    if (!dtype || strcmp(dtype, x->vector ? "F32" : "U8")) {
        snprintf(field, sizeof field, "%s.dtype", name);
        differs(w, PX_EMISMATCH, field, dtype ? dtype : "nothing", x->vector ? "F32" : "U8");
    }
    if (json_array_size(at) != 2 || end - begin != (json_int_t)x->bytes) {
        snprintf(field, sizeof field, "%s.bytes", name);
        differs_bytes(w, field, end > begin ? (uint64_t)(end - begin) : 0, x->bytes);
    } else if (begin != (json_int_t)x->offset) {
        snprintf(field, sizeof field, "%s.offset", name);
        differs_bytes(w, field, begin > 0 ? (uint64_t)begin : 0, x->offset);
    }
    if (json_array_size(shape) != 1 || json_integer_value(json_array_get(shape, 0)) != count) {
        snprintf(field, sizeof field, "%s.shape", name);
        snprintf(is, sizeof is, "%lld", (long long)json_integer_value(json_array_get(shape, 0)));
        snprintf(was, sizeof was, "%lld", (long long)count);
        differs(w, PX_EMISMATCH, field, is, was);
    }
    snprintf(key, sizeof key, "t.%s", name);
    entry_words(x, words);
    note = json_string_value(json_object_get(meta, key));
    if (!note || strncmp(note, words, strlen(words)) || !shard_digest_parse(kind, note + strlen(words), &x->digest)) {
        snprintf(field, sizeof field, "%s.type", name);
        differs(w, PX_EMISMATCH, field, note ? note : "nothing", words);
    }
}

/* The header of the mapped file against the manifest: who it is first, for that names the cause best. */
static px_code check_header(shard_file *f, const shard_manifest *m, found *w, px_err *e)
{
    uint64_t size = f->map_bytes, n = 0;
    const json_t *meta;
    json_error_t je;
    json_t *o = NULL;
    px_code rc = PX_OK;
    size_t before = w->n;

    for (int i = 0; size >= 8 && i < 8; i++) n |= (uint64_t)f->map[i] << (8 * i);
    if (size < 8 || n > size - 8 || n > HEADER_CAP || (n + 8) % 64 || n < 2 ||
        !(o = json_loadb((const char *)f->map + 8, (size_t)n, JSON_REJECT_DUPLICATES, &je)) || !json_is_object(o)) {
        if (size != m->rank[f->rank].bytes) {
            differs_bytes(w, "bytes", size, m->rank[f->rank].bytes);
        } else {
            px_err *bad = next(w);
            px_fail(bad, PX_ECORRUPT, "header", "is no safetensors header");
            took(w, bad);
        }
        goto out;
    }
    f->data_at = n + 8;
    meta = json_object_get(o, "__metadata__");
    check_meta(w, meta, m);
    if (w->n > before) goto out;            /* another shard: its sizes and tensors follow from that */
    if (size != m->rank[f->rank].bytes) differs_bytes(w, "bytes", size, m->rank[f->rank].bytes);
    else if (size - f->data_at != f->data_bytes) differs_bytes(w, "header", f->data_at, size - f->data_bytes);
    for (size_t i = 0; i < f->n_entries; i++) check_entry(w, o, meta, &f->entry[i], m->digest_kind);
    if (json_object_size(o) != f->n_entries + 1) {
        char is[32], was[32];
        snprintf(is, sizeof is, "%zu", json_object_size(o) ? json_object_size(o) - 1 : 0);
        snprintf(was, sizeof was, "%zu", f->n_entries);
        differs(w, PX_EMISMATCH, "tensors", is, was);
    }
    if (w->n == before) {                   /* what no comparison above looked at */
        shard_digest digest;
        shard_hash h;
        if ((rc = shard_hash_init(&h, m->digest_kind, e))) goto out;
        shard_hash_update(&h, f->map, (size_t)f->data_at);
        shard_hash_final(&h, &digest);
        shard_hash_deinit(&h);
        if (!shard_digest_equal(&digest, &m->rank[f->rank].header)) {
            px_err *bad = next(w);
            shard_digest_mismatch(bad, PX_ECORRUPT, "header", &digest, &m->rank[f->rank].header);
            took(w, bad);
        }
    }

out:
    if (o) json_decref(o);
    return rc;
}

static px_code map_file(shard_file *f, px_err *e)
{
    struct stat st;
    void *p;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    px_code rc = PX_OK;

    if (fd < 0) return px_fail_errno(e, "file", "open");
    if (fstat(fd, &st)) rc = px_fail_errno(e, "file", "stat");
    else if (!S_ISREG(st.st_mode)) rc = px_fail(e, PX_EINVAL, "file", "is no regular file");
    else if (st.st_size > 0) {
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            rc = px_fail_errno(e, "file", "mmap");
        } else {
            f->map = p;
            f->map_bytes = (size_t)st.st_size;
            px_mapped_add(&f->listed, p, f->map_bytes, f->path);
        }
    }
    close(fd);                              /* the mapping keeps the file */
    return rc;
}

px_code shard_file_open(shard_file **out, px_alloc *a, const char *dir, const shard_manifest *m, uint32_t rank, px_err *errs,
                        size_t cap, size_t *n_errs)
{
    found w = { .errs = errs, .cap = cap, .rank = rank };
    shard_file *f = NULL;
    px_err *e = next(&w);
    px_code rc;

    *out = NULL;
    *n_errs = 0;
    if (rank >= m->world) {
        char is[16], was[32];
        snprintf(is, sizeof is, "%u", rank);
        snprintf(was, sizeof was, "0 to %u", m->world - 1);
        differs(&w, PX_ERANGE, "rank", is, was);
        rc = PX_ERANGE;
        goto fail;
    }
    if (!(f = px_new(a, shard_file, 1))) {
        rc = px_fail(e, PX_ENOMEM, "", "a shard");
        goto fail;
    }
    *f = (shard_file){ .a = a, .rank = rank, .m = m };
    if ((rc = px_path_join(f->path, sizeof f->path, dir, m->rank[rank].file, e))) goto fail;
    w.path = f->path;
    if ((rc = shard_entries_init(&f->entry, &f->n_entries, &f->data_bytes, a, &m->arch, &m->types, &m->split, rank,
                                 e)))
        goto fail;
    for (size_t i = f->n_entries; i-- > 0;) f->first[f->entry[i].role] = i;
    for (size_t i = 0; i < f->n_entries; i++)
        f->per_layer += shard_role_get(f->entry[i].role)->per_layer && f->entry[i].layer == 0;
    if ((rc = map_file(f, e)) || (rc = check_header(f, m, &w, e))) goto fail;
    if (w.n) {
        rc = w.first;
        goto fail;
    }
    *out = f;
    return PX_OK;

fail:
    if (w.n == 0) took(&w, e);
    *n_errs = w.n < cap ? w.n : cap;
    shard_file_close(f);
    return rc;
}

void shard_file_close(shard_file *f)
{
    if (!f) return;
    px_mapped_drop(&f->listed);
    if (f->map) munmap(f->map, f->map_bytes);
    if (f->entry) px_del(f->a, f->entry, f->n_entries);
    px_del(f->a, f, 1);
}

const char *shard_file_path(const shard_file *f) { return f->path; }
uint64_t shard_file_bytes(const shard_file *f) { return f->map_bytes; }

const void *shard_file_map(const shard_file *f, size_t *bytes)
{
    *bytes = f->map_bytes;
    return f->map;
}

const shard_entry *shard_file_entries(const shard_file *f, size_t *n)
{
    *n = f->n_entries;
    return f->entry;
}

const uint8_t *shard_file_data(const shard_file *f) { return f->map + f->data_at; }
const shard_manifest *shard_file_manifest(const shard_file *f) { return f->m; }
uint32_t shard_file_rank(const shard_file *f) { return f->rank; }
px_alloc *shard_file_alloc(const shard_file *f) { return f->a; }

px_code shard_file_tensor(const shard_file *f, shard_role r, uint32_t layer, const void **data, kern_dtype *t, uint64_t *rows,
                          uint64_t *cols, size_t *bytes, px_err *e)
{
    const shard_entry *x;

    if (r == SHARD_OUTPUT && f->m->arch.tied) r = SHARD_TOKEN_EMBD;      /* one table, stored once */
    if (r >= SHARD_N_ROLES || !shard_arch_has(&f->m->arch, r) || layer >= (shard_role_get(r)->per_layer ? f->m->arch.n_layer : 1)) {
        char name[64];
        return px_fail(e, PX_ENOTFOUND, r < SHARD_N_ROLES ? shard_tensor_name(r, layer, name, sizeof name) : "role",
                       "a shard of this model has no such tensor");
    }
    x = &f->entry[f->first[r] + layer * f->per_layer];
    *data = shard_file_data(f) + x->offset;
    *t = x->type;
    *rows = x->x.rows;
    *cols = x->x.cols;
    *bytes = (size_t)x->bytes;
    return PX_OK;
}
