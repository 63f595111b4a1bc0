/* Format: the GGUF specification of the ggml project.  Little-endian; header, metadata, tensor infos, aligned data. */
#include "shard/store/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/io.h"
#include "shard/store/mapping.h"

enum { T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STR, T_ARRAY, T_U64, T_I64, T_F64, N_T };
static const uint8_t type_bytes[N_T] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
static const char *const type_name[N_T] = { "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool",
                                            "string", "array", "uint64", "int64", "float64" };

#define MAX_COUNT      (1u << 24)     /* keys, tensors, elements of an array; the largest models have some hundred thousand, of merges.
                                       * A hole in a file is read as zeros, which are empty strings, by the thousand million. */
#define MAX_KEY_BYTES  65535u         /* of the specification */
#define MAX_NAME_BYTES 255u
#define MIN_ALIGN      8u
#define MAX_ALIGN      65536u

typedef struct kv {
    const char    *key;
    const uint8_t *value;             /* first byte of the value; strings and arrays: after their lengths */
    uint64_t       n;                 /* bytes of a string, elements of an array, else 1 */
    uint32_t       key_bytes;
    uint8_t        type, item;        /* item: the elements of an array */
} kv;

struct shard_gguf {
    px_alloc          *a;
    shard_mapping      map;
    kv                *kv;            /* (kv_cap) owned, kv_n used */
    size_t             kv_n, kv_cap;
    shard_gguf_tensor *tensor;        /* (tensor_cap) owned, tensor_n used */
    size_t             tensor_n, tensor_cap;
    uint32_t          *by_key;        /* (kv_n) owned: kv in the order of their keys */
    uint32_t          *by_name;       /* (tensor_n) owned */
};

typedef struct cursor { const uint8_t *at, *end; } cursor;

/* ---- names in errors ---- */

typedef struct label { char s[96]; } label;

static label label_of(const void *name, size_t bytes)
{
    label l = {0};
    size_t n = bytes < sizeof l.s - 1 ? bytes : sizeof l.s - 1;
    if (n) memcpy(l.s, name, n);
    return l;
}

/* ---- reading ---- */

static size_t left(const cursor *c) { return (size_t)(c->end - c->at); }

static px_code take(cursor *c, size_t n, const uint8_t **out, const char *field, px_err *e)
{
    *out = c->at;
    if (n > left(c))
        return px_fail(e, PX_ECORRUPT, field, "the file ends %zu bytes early", n - left(c));
    c->at += n;
    return PX_OK;
}

static px_code take_u32(cursor *c, uint32_t *out, const char *field, px_err *e)
{
    const uint8_t *p;
    px_code rc = take(c, 4, &p, field, e);
    *out = 0;
    if (!rc) memcpy(out, p, 4);
    return rc;
}

static px_code take_u64(cursor *c, uint64_t *out, const char *field, px_err *e)
{
    const uint8_t *p;
    px_code rc = take(c, 8, &p, field, e);
    *out = 0;
    if (!rc) memcpy(out, p, 8);
    return rc;
}

static px_code take_str(cursor *c, const uint8_t **s, uint64_t *bytes, const char *field, px_err *e)
{
    px_code rc = take_u64(c, bytes, field, e);
    if (rc) return rc;
    if (*bytes > left(c))
        return px_fail(e, PX_ECORRUPT, field, "a string of %" PRIu64 " bytes where %zu are left", *bytes, left(c));
    return take(c, (size_t)*bytes, s, field, e);
}

static px_code check_bools(const uint8_t *p, uint64_t n, const char *field, px_err *e)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1) return px_fail(e, PX_ECORRUPT, field, "a bool of value %u; 0 or 1 is expected", p[i]);
    return PX_OK;
}

static px_code take_array(cursor *c, kv *v, const char *field, px_err *e)
{
    px_code rc;
    uint32_t item;
    const uint8_t *p;
    uint64_t bytes;

    if ((rc = take_u32(c, &item, field, e)) || (rc = take_u64(c, &v->n, field, e))) return rc;
    if (item == T_ARRAY) return px_fail(e, PX_EUNSUP, field, "arrays of arrays are not read");
    if (item >= N_T) return px_fail(e, PX_ECORRUPT, field, "an array of the unknown type %u; 0 to %d are known", item, N_T - 1);
    v->item = (uint8_t)item;
    v->value = c->at;
    /* Every element takes bytes of the file, so a count that lies is found before anything is walked. */
    if (v->n > left(c) / (item == T_STR ? 8u : type_bytes[item]))
        return px_fail(e, PX_ECORRUPT, field, "an array of %" PRIu64 " elements where %zu bytes are left", v->n, left(c));
    if (v->n > MAX_COUNT) return px_fail(e, PX_ERANGE, field, "an array of %" PRIu64 " elements; at most %u are read", v->n, MAX_COUNT);
    if (item != T_STR) {
        if ((rc = take(c, (size_t)v->n * type_bytes[item], &p, field, e))) return rc;
        return item == T_BOOL ? check_bools(p, v->n, field, e) : PX_OK;
    }
    for (uint64_t i = 0; i < v->n; i++)
        if ((rc = take_str(c, &p, &bytes, field, e))) return rc;
    return PX_OK;
}

static px_code take_kv(cursor *c, kv *v, px_err *e)
{
    px_code rc;
    const uint8_t *key;
    uint64_t key_bytes;
    uint32_t type;
    label l;

    *v = (kv){ .n = 1 };
    if ((rc = take_str(c, &key, &key_bytes, "metadata key", e))) return rc;
    l = label_of(key, (size_t)key_bytes);
    if (!key_bytes || key_bytes > MAX_KEY_BYTES)
        return px_fail(e, PX_ECORRUPT, "metadata key", "a key of %" PRIu64 " bytes; 1 to %u are expected", key_bytes, MAX_KEY_BYTES);
    if (!px_utf8_valid((const char *)key, (size_t)key_bytes))
        return px_fail(e, PX_ECORRUPT, "metadata key", "a key that is not UTF-8");
    v->key = (const char *)key;
    v->key_bytes = (uint32_t)key_bytes;
    if ((rc = take_u32(c, &type, l.s, e))) return rc;
    if (type >= N_T) return px_fail(e, PX_ECORRUPT, l.s, "metadata of the unknown type %u; 0 to %d are known", type, N_T - 1);
    v->type = (uint8_t)type;
    if (type == T_ARRAY) return take_array(c, v, l.s, e);
    if (type == T_STR) return take_str(c, &v->value, &v->n, l.s, e);
    if ((rc = take(c, type_bytes[type], &v->value, l.s, e))) return rc;
    return type == T_BOOL ? check_bools(v->value, 1, l.s, e) : PX_OK;
}

/* A type that is not read, by its name where it has one. */
static px_code unknown_type(uint32_t type, const char *tensor, px_err *e)
{
    static const char *const name[40] = { [15] = "Q8_K", [16] = "IQ2_XXS", [18] = "IQ3_XXS", [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",
                                          [29] = "IQ1_M", [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4" };

    if (type < sizeof name / sizeof *name && name[type])
        return px_fail(e, PX_EUNSUP, tensor, "GGML type %u (%s) is not read", type, name[type]);
    return px_fail(e, PX_EUNSUP, tensor, "GGML type %u is not known", type);
}

/* Shape, type and size; data is set to the offset's place later, when the start of the data is known. */
static px_code take_tensor(cursor *c, shard_gguf_tensor *t, uint64_t *offset, px_err *e)
{
    px_code rc;
    const uint8_t *name;
    uint64_t name_bytes, dim[4] = { 1, 1, 1, 1 }, bytes;
    uint32_t n_dims;
    label l;

    *t = (shard_gguf_tensor){0};
    if ((rc = take_str(c, &name, &name_bytes, "tensor name", e))) return rc;
    if (!name_bytes || name_bytes > MAX_NAME_BYTES)
        return px_fail(e, PX_ECORRUPT, "tensor name", "a name of %" PRIu64 " bytes; 1 to %u are expected", name_bytes, MAX_NAME_BYTES);
    if (!px_utf8_valid((const char *)name, (size_t)name_bytes))
        return px_fail(e, PX_ECORRUPT, "tensor name", "a name that is not UTF-8");
    l = label_of(name, (size_t)name_bytes);
    t->name = (const char *)name;
    t->name_bytes = (size_t)name_bytes;
    if ((rc = take_u32(c, &n_dims, l.s, e))) return rc;
    if (n_dims < 1 || n_dims > 4) return px_fail(e, PX_ECORRUPT, l.s, "a tensor of %u dimensions; 1 to 4 are expected", n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        if ((rc = take_u64(c, &dim[i], l.s, e))) return rc;
        if (!dim[i]) return px_fail(e, PX_ECORRUPT, l.s, "dimension %u is 0; 1 or more is expected", i);
    }
    if ((rc = take_u32(c, &t->type, l.s, e)) || (rc = take_u64(c, offset, l.s, e))) return rc;
    if (dim[3] != 1)
        return px_fail(e, PX_EUNSUP, l.s, "shape [%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
                       "]: tensors of more than 3 dimensions are not read", dim[3], dim[2], dim[1], dim[0]);
    t->planes = dim[2];
    t->cols = dim[0];
    t->rows = dim[1];
    t->dtype = t->type == UINT32_MAX ? KERN_N_DTYPES : kern_dtype_of_ggml(t->type);
    if (t->dtype >= KERN_N_DTYPES)
        return unknown_type(t->type, l.s, e);
    if (!kern_matrix_bytes(t->dtype, t->rows, t->cols, &bytes) || __builtin_mul_overflow(bytes, t->planes, &bytes) || bytes > SIZE_MAX)
        return px_fail(e, PX_ECORRUPT, l.s, "[%" PRIu64 ",%" PRIu64 "] of %s: not whole blocks, or no such size",
                       t->rows, t->cols, kern_dtype_get(t->dtype)->name);
    t->bytes = (size_t)bytes;
    return PX_OK;
}

/* ---- order, duplicates, overlap ---- */

static int compare(const char *x, size_t xn, const char *y, size_t yn)
{
    int d = memcmp(x, y, xn < yn ? xn : yn);
    return d ? d : (xn > yn) - (xn < yn);
}

static int compare_keys(const void *ctx, uint32_t x, uint32_t y)
{
    const kv *v = ctx;
    return compare(v[x].key, v[x].key_bytes, v[y].key, v[y].key_bytes);
}

static int compare_names(const void *ctx, uint32_t x, uint32_t y)
{
    const shard_gguf_tensor *t = ctx;
    return compare(t[x].name, t[x].name_bytes, t[y].name, t[y].name_bytes);
}

static int compare_places(const void *ctx, uint32_t x, uint32_t y)
{
    const shard_gguf_tensor *t = ctx;
    return t[x].data != t[y].data ? (t[x].data > t[y].data) - (t[x].data < t[y].data) : (x > y) - (x < y);
}

static void sort(uint32_t *order, size_t n, int (*cmp)(const void *, uint32_t, uint32_t), const void *ctx)
{
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    shard_order_sort(order, n, cmp, ctx);
}

static const kv *kv_find(const shard_gguf *g, const char *key)
{
    size_t lo = 0, hi = g->kv_n, n = strlen(key);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const kv *v = &g->kv[g->by_key[mid]];
        int d = compare(v->key, v->key_bytes, key, n);
        if (!d) return v;
        if (d < 0) lo = mid + 1; else hi = mid;
    }
    return NULL;
}

/* ---- opening ---- */

/* One more element; arrays grow with what was really read, never with what a header claims. */
static px_code grow(px_alloc *a, void **array, size_t *cap, size_t need, size_t each, size_t align, px_err *e)
{
    size_t to = *cap ? *cap * 2 : 64;
    void *p;
    if (need <= *cap) return PX_OK;
    if (!(p = px_alloc_grow(a, *array, *cap, to, each, align)))
        return px_fail(e, PX_ENOMEM, "", "no memory for %zu entries", to);
    *array = p;
    *cap = to;
    return PX_OK;
}

static px_code read_head(cursor *c, uint64_t *n_tensor, uint64_t *n_kv, px_err *e)
{
    px_code rc;
    const uint8_t *magic;
    uint32_t version;

    if ((rc = take(c, 4, &magic, "magic", e))) return rc;
    if (memcmp(magic, "GGUF", 4)) return px_fail(e, PX_ECORRUPT, "magic", "does not begin with GGUF");
    if ((rc = take_u32(c, &version, "version", e))) return rc;
    if (version && !(version & 0xFFFF))
        return px_fail(e, PX_EUNSUP, "version", "a big-endian GGUF file; little-endian ones are read");
    if (version != 2 && version != 3)
        return px_fail(e, PX_EUNSUP, "version", "GGUF version %u; versions 2 and 3 are read", version);
    if ((rc = take_u64(c, n_tensor, "tensor_count", e)) || (rc = take_u64(c, n_kv, "metadata_kv_count", e))) return rc;
    if (*n_tensor > MAX_COUNT || *n_tensor > left(c) / 33)         /* the fewest bytes that a tensor info takes */
        return px_fail(e, PX_ECORRUPT, "tensor_count", "%" PRIu64 " tensors in a file of %zu bytes", *n_tensor, left(c));
    if (*n_kv > MAX_COUNT || *n_kv > left(c) / 14)
        return px_fail(e, PX_ECORRUPT, "metadata_kv_count", "%" PRIu64 " keys in a file of %zu bytes", *n_kv, left(c));
    return PX_OK;
}

static px_code read_metadata(shard_gguf *g, cursor *c, uint64_t n, px_err *e)
{
    px_code rc;
    for (uint64_t i = 0; i < n; i++) {
        if ((rc = grow(g->a, (void **)&g->kv, &g->kv_cap, g->kv_n + 1, sizeof *g->kv, _Alignof(kv), e))) return rc;
        if ((rc = take_kv(c, &g->kv[g->kv_n], e))) return rc;
        g->kv_n++;
    }
    if (!(g->by_key = px_new(g->a, uint32_t, g->kv_n))) return px_fail(e, PX_ENOMEM, "", "no memory for %zu keys", g->kv_n);
    sort(g->by_key, g->kv_n, compare_keys, g->kv);
    for (size_t i = 1; i < g->kv_n; i++)
        if (!compare_keys(g->kv, g->by_key[i - 1], g->by_key[i])) {
            const kv *v = &g->kv[g->by_key[i]];
            return px_fail(e, PX_ECORRUPT, label_of(v->key, v->key_bytes).s, "the key is there twice");
        }
    return PX_OK;
}

static px_code read_alignment(const shard_gguf *g, uint64_t *align, px_err *e)
{
    px_code rc;
    *align = 32;
    if (!shard_gguf_has(g, "general.alignment")) return PX_OK;
    if ((rc = shard_gguf_u64(g, "general.alignment", align, e))) return rc;
    if (*align < MIN_ALIGN || *align > MAX_ALIGN || (*align & (*align - 1)))
        return px_fail(e, PX_ERANGE, "general.alignment", "%" PRIu64 " is not a power of two from %u to %u", *align,
                       MIN_ALIGN, MAX_ALIGN);
    return PX_OK;
}

/* Infos come first and carry offsets from the start of the data, which is known only after the last of them: a first
 * pass over the infos finds it, the second stores the tensors. */
static px_code read_tensors(shard_gguf *g, cursor *c, uint64_t n, px_err *e)
{
    px_code rc;
    uint64_t align, offset;
    cursor ahead = *c;
    shard_gguf_tensor t;
    size_t start, room;

    if ((rc = read_alignment(g, &align, e))) return rc;
    for (uint64_t i = 0; i < n; i++)
        if ((rc = take_tensor(&ahead, &t, &offset, e))) return rc;
    start = px_align_up(g->map.bytes - left(&ahead), (size_t)align);
    room = start < g->map.bytes ? g->map.bytes - start : 0;
    for (uint64_t i = 0; i < n; i++) {
        if ((rc = grow(g->a, (void **)&g->tensor, &g->tensor_cap, g->tensor_n + 1, sizeof t, _Alignof(shard_gguf_tensor), e)))
            return rc;
        if ((rc = take_tensor(c, &t, &offset, e))) return rc;
        label l = label_of(t.name, t.name_bytes);
        if (offset % align)
            return px_fail(e, PX_ECORRUPT, l.s, "offset %" PRIu64 " is not a multiple of %" PRIu64, offset, align);
        if (offset > room || t.bytes > room - offset)
            return px_fail(e, PX_ECORRUPT, l.s, "bytes %" PRIu64 "+%zu lie beyond the %zu bytes of data", offset, t.bytes, room);
        t.data = g->map.data + start + offset;
        g->tensor[g->tensor_n++] = t;
    }
    return PX_OK;
}

static px_code check_tensors(shard_gguf *g, px_err *e)
{
    const shard_gguf_tensor *t = g->tensor;

    if (!(g->by_name = px_new(g->a, uint32_t, g->tensor_n)))
        return px_fail(e, PX_ENOMEM, "", "no memory for %zu tensors", g->tensor_n);
    sort(g->by_name, g->tensor_n, compare_places, t);
    for (size_t i = 1; i < g->tensor_n; i++) {
        const shard_gguf_tensor *x = &t[g->by_name[i - 1]], *y = &t[g->by_name[i]];
        if ((size_t)(y->data - x->data) < x->bytes)
            return px_fail(e, PX_ECORRUPT, label_of(y->name, y->name_bytes).s, "overlaps tensor %s",
                           label_of(x->name, x->name_bytes).s);
    }
    sort(g->by_name, g->tensor_n, compare_names, t);
    for (size_t i = 1; i < g->tensor_n; i++)
        if (!compare_names(t, g->by_name[i - 1], g->by_name[i])) {
            const shard_gguf_tensor *y = &t[g->by_name[i]];
            return px_fail(e, PX_ECORRUPT, label_of(y->name, y->name_bytes).s, "the tensor is there twice");
        }
    return PX_OK;
}

px_code shard_gguf_open(shard_gguf **out, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    uint64_t n_tensor, n_kv;
    cursor c;
    shard_gguf *g = px_new(a, shard_gguf, 1);

    *out = NULL;
    if (!g) return px_fail(e, PX_ENOMEM, "", "no memory for a GGUF reader");
    g->a = a;
    if ((rc = shard_mapping_open(&g->map, a, path, e))) goto fail;
    c = (cursor){ g->map.data, g->map.data + g->map.bytes };
    if ((rc = read_head(&c, &n_tensor, &n_kv, e)) || (rc = read_metadata(g, &c, n_kv, e)) ||
        (rc = read_tensors(g, &c, n_tensor, e)) || (rc = check_tensors(g, e)))
        goto fail;
    *out = g;
    return PX_OK;

fail:
    px_err_set_file(e, path);
    shard_gguf_close(g);
    return rc;
}

void shard_gguf_close(shard_gguf *g)
{
    if (!g) return;
    if (g->by_name) px_del(g->a, g->by_name, g->tensor_n);
    if (g->by_key) px_del(g->a, g->by_key, g->kv_n);
    if (g->tensor) px_del(g->a, g->tensor, g->tensor_cap);
    if (g->kv) px_del(g->a, g->kv, g->kv_cap);
    shard_mapping_close(&g->map);
    px_del(g->a, g, 1);
}

const char *shard_gguf_path(const shard_gguf *g) { return g->map.path; }

/* ---- tensors ---- */

size_t shard_gguf_n_tensors(const shard_gguf *g) { return g->tensor_n; }

const shard_gguf_tensor *shard_gguf_tensor_at(const shard_gguf *g, size_t i)
{
    return i < g->tensor_n ? &g->tensor[i] : NULL;
}

const shard_gguf_tensor *shard_gguf_tensor_find(const shard_gguf *g, const char *name)
{
    size_t lo = 0, hi = g->tensor_n, n = strlen(name);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const shard_gguf_tensor *t = &g->tensor[g->by_name[mid]];
        int d = compare(t->name, t->name_bytes, name, n);
        if (!d) return t;
        if (d < 0) lo = mid + 1; else hi = mid;
    }
    return NULL;
}

/* ---- metadata ---- */

static px_code find(const shard_gguf *g, const char *key, const kv **v, px_err *e)
{
    if ((*v = kv_find(g, key))) return PX_OK;
    px_fail(e, PX_ENOTFOUND, key, "the file has no such key");
    px_err_set_file(e, g->map.path);
    return PX_ENOTFOUND;
}

static px_code wrong_type(const shard_gguf *g, const char *key, uint8_t found, const char *expected, px_err *e)
{
    px_code rc = px_mismatch(e, key, type_name[found], expected);
    px_err_set_file(e, g->map.path);
    return rc;
}

static px_code negative_number(const shard_gguf *g, const char *key, uint64_t bits, px_err *e)
{
    px_code rc = px_fail(e, PX_ERANGE, key, "%" PRId64 " is negative; 0 or more is expected", (int64_t)bits);
    px_err_set_file(e, g->map.path);
    return rc;
}

static px_code no_element(const shard_gguf *g, const char *key, size_t i, uint64_t n, px_err *e)
{
    px_code rc = px_fail(e, PX_ERANGE, key, "there is no element %zu of %" PRIu64, i, n);
    px_err_set_file(e, g->map.path);
    return rc;
}

/* An integer as sign and magnitude's two's complement; false if the type is none. */
static bool integer_at(uint8_t type, const uint8_t *p, bool *negative, uint64_t *bits)
{
    union { uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } u;
    int64_t s = 0;

    if (type >= N_T || type == T_F32 || type == T_F64 || type == T_BOOL || !type_bytes[type]) return false;
    memcpy(&u, p, type_bytes[type]);
    *negative = false;
    switch (type) {
    case T_U8:  *bits = p[0]; return true;
    case T_U16: *bits = u.u16; return true;
    case T_U32: *bits = u.u32; return true;
    case T_U64: *bits = u.u64; return true;
    case T_I8:  s = (int8_t)p[0]; break;
    case T_I16: s = u.i16; break;
    case T_I32: s = u.i32; break;
    default:    s = u.i64; break;
    }
    *negative = s < 0;
    *bits = (uint64_t)s;
    return true;
}

static bool real_at(uint8_t type, const uint8_t *p, double *out)
{
    bool negative;
    uint64_t bits;
    float f;

    if (type == T_F64) { memcpy(out, p, 8); return true; }
    if (type == T_F32) { memcpy(&f, p, 4); *out = f; return true; }
    if (!integer_at(type, p, &negative, &bits)) return false;
    *out = negative ? (double)(int64_t)bits : (double)bits;
    return true;
}

bool shard_gguf_has(const shard_gguf *g, const char *key) { return kv_find(g, key) != NULL; }

px_code shard_gguf_u64(const shard_gguf *g, const char *key, uint64_t *out, px_err *e)
{
    const kv *v;
    bool negative;
    px_code rc = find(g, key, &v, e);
    if (rc) return rc;
    if (!integer_at(v->type, v->value, &negative, out)) return wrong_type(g, key, v->type, "an integer", e);
    return negative ? negative_number(g, key, *out, e) : PX_OK;
}

px_code shard_gguf_f64(const shard_gguf *g, const char *key, double *out, px_err *e)
{
    const kv *v;
    px_code rc = find(g, key, &v, e);
    if (rc) return rc;
    return real_at(v->type, v->value, out) ? PX_OK : wrong_type(g, key, v->type, "a number", e);
}

px_code shard_gguf_bool(const shard_gguf *g, const char *key, bool *out, px_err *e)
{
    const kv *v;
    px_code rc = find(g, key, &v, e);
    if (rc) return rc;
    if (v->type != T_BOOL) return wrong_type(g, key, v->type, "bool", e);
    *out = v->value[0] == 1;
    return PX_OK;
}

px_code shard_gguf_str(const shard_gguf *g, const char *key, const char **s, size_t *bytes, px_err *e)
{
    const kv *v;
    px_code rc = find(g, key, &v, e);
    if (rc) return rc;
    if (v->type != T_STR) return wrong_type(g, key, v->type, "string", e);
    *s = (const char *)v->value;
    *bytes = (size_t)v->n;
    return PX_OK;
}

static px_code find_array(const shard_gguf *g, const char *key, const kv **v, px_err *e)
{
    px_code rc = find(g, key, v, e);
    if (rc) return rc;
    return (*v)->type == T_ARRAY ? PX_OK : wrong_type(g, key, (*v)->type, "array", e);
}

px_code shard_gguf_array_len(const shard_gguf *g, const char *key, size_t *n, px_err *e)
{
    const kv *v;
    px_code rc = find_array(g, key, &v, e);
    if (!rc) *n = (size_t)v->n;
    return rc;
}

px_code shard_gguf_array_i64(const shard_gguf *g, const char *key, size_t i, int64_t *out, px_err *e)
{
    const kv *v;
    bool negative;
    uint64_t bits;
    px_code rc = find_array(g, key, &v, e);
    if (rc) return rc;
    if (i >= v->n) return no_element(g, key, i, v->n, e);
    if (!integer_at(v->item, v->value + i * type_bytes[v->item], &negative, &bits))
        return wrong_type(g, key, v->item, "an array of integers", e);
    if (!negative && bits > INT64_MAX) {
        rc = px_fail(e, PX_ERANGE, key, "element %zu is %" PRIu64 "; at most %" PRId64 " is expected", i, bits, INT64_MAX);
        px_err_set_file(e, g->map.path);
        return rc;
    }
    *out = (int64_t)bits;
    return PX_OK;
}

px_code shard_gguf_array_f64(const shard_gguf *g, const char *key, size_t i, double *out, px_err *e)
{
    const kv *v;
    px_code rc = find_array(g, key, &v, e);
    if (rc) return rc;
    if (i >= v->n) return no_element(g, key, i, v->n, e);
    if (!real_at(v->item, v->value + i * type_bytes[v->item], out))
        return wrong_type(g, key, v->item, "an array of numbers", e);
    return PX_OK;
}

px_code shard_gguf_array_str(const shard_gguf *g, const char *key,
                             px_code (*fn)(void *ctx, size_t i, const char *s, size_t bytes, px_err *e), void *ctx, px_err *e)
{
    const kv *v;
    const uint8_t *p;
    uint64_t bytes;
    px_code rc = find_array(g, key, &v, e);
    if (rc) return rc;
    if (v->item != T_STR) return wrong_type(g, key, v->item, "an array of strings", e);
    p = v->value;
    for (uint64_t i = 0; i < v->n; i++) {           /* walked once at open: every length is inside the file */
        memcpy(&bytes, p, 8);
        if ((rc = fn(ctx, (size_t)i, (const char *)p + 8, (size_t)bytes, e))) return rc;
        p += 8 + bytes;
    }
    return PX_OK;
}
