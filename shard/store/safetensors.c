/* Format: the safetensors README of Hugging Face.  u64 header length, JSON header, data. */
#include "shard/store/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

typedef struct place { uint64_t begin, end; } place;

static px_code read_header(const shard_mapping *map, json_t **root, size_t *data_at, px_err *e)
{
    uint64_t n;
    json_error_t why;

    if (map->bytes < 8) return px_fail(e, PX_ECORRUPT, "header", "a file of %zu bytes has no header", map->bytes);
    memcpy(&n, map->data, 8);
    if (n > map->bytes - 8 || n > SHARD_SAFETENSORS_MAX_HEADER)
        return px_fail(e, PX_ECORRUPT, "header", "a header of %" PRIu64 " bytes in a file of %zu (at most %u)", n, map->bytes,
                       SHARD_SAFETENSORS_MAX_HEADER);
    if (n < 2 || map->data[8] != '{') return px_fail(e, PX_ECORRUPT, "header", "does not begin with {");
    if (!(*root = json_loadb((const char *)map->data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &why)))
        return json_error_code(&why) == json_error_out_of_memory
                   ? px_fail(e, PX_ENOMEM, "header", "no memory for a header of %" PRIu64 " bytes", n)
                   : px_fail(e, PX_ECORRUPT, "header", "byte %d: %s", why.position, why.text);
    *data_at = 8 + (size_t)n;
    return PX_OK;
}

static px_code read_dtype(const char *name, json_t *v, kern_dtype *out, px_err *e)
{
    static const kern_dtype known[] = { KERN_F32, KERN_F16, KERN_BF16 };
    const char *s = json_string_value(v);

    if (!s) return px_fail(e, PX_ECORRUPT, name, "has no dtype");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(kern_dtype_get(known[i])->name, s)) { *out = known[i]; return PX_OK; }
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, name, s, "F32, F16 or BF16");
}

static px_code read_shape(const char *name, json_t *v, shard_st_tensor *t, px_err *e)
{
    uint64_t dim[2] = { 1, 1 };
    size_t n = json_array_size(v);

    if (!json_is_array(v)) return px_fail(e, PX_ECORRUPT, name, "has no shape");
    if (n < 1 || n > 2) return px_fail(e, PX_EUNSUP, name, "a tensor of %zu dimensions; 1 or 2 are read", n);
    for (size_t i = 0; i < n; i++) {
        json_t *d = json_array_get(v, i);
        if (!json_is_integer(d) || json_integer_value(d) < 1)
            return px_fail(e, PX_ECORRUPT, name, "dimension %zu is not a positive integer", i);
        dim[i + 2 - n] = (uint64_t)json_integer_value(d);
    }
    t->rows = dim[0];
    t->cols = dim[1];
    return PX_OK;
}

static px_code read_place(const char *name, json_t *v, size_t room, place *p, px_err *e)
{
    json_t *b = json_array_get(v, 0), *n = json_array_get(v, 1);

    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(n) || json_integer_value(b) < 0 ||
        json_integer_value(n) < json_integer_value(b))
        return px_fail(e, PX_ECORRUPT, name, "data_offsets are not [begin, end]");
    p->begin = (uint64_t)json_integer_value(b);
    p->end = (uint64_t)json_integer_value(n);
    if (p->end > room)
        return px_fail(e, PX_ECORRUPT, name, "data_offsets end at %" PRIu64 " where the file has %zu bytes of data", p->end,
                       room);
    return PX_OK;
}

static px_code read_tensor(const shard_mapping *map, size_t data_at, const char *name, json_t *v, shard_st_tensor *t,
                           px_err *e)
{
    px_code rc;
    place p = {0};
    uint64_t bytes;

    if (!json_is_object(v)) return px_fail(e, PX_ECORRUPT, name, "is not an object");
    if ((rc = read_dtype(name, json_object_get(v, "dtype"), &t->dtype, e)) ||
        (rc = read_shape(name, json_object_get(v, "shape"), t, e)) ||
        (rc = read_place(name, json_object_get(v, "data_offsets"), map->bytes - data_at, &p, e)))
        return rc;
    if (!kern_matrix_bytes(t->dtype, t->rows, t->cols, &bytes) || bytes != p.end - p.begin)
        return px_fail(e, PX_ECORRUPT, name, "[%" PRIu64 ",%" PRIu64 "] of %s does not take the %" PRIu64 " bytes of its data_offsets",
                       t->rows, t->cols, kern_dtype_get(t->dtype)->name, p.end - p.begin);
    t->data = map->data + data_at + p.begin;
    t->bytes = (size_t)bytes;
    return PX_OK;
}

static px_code check_metadata(json_t *v, px_err *e)
{
    const char *key;
    json_t *value;

    if (!json_is_object(v)) return px_fail(e, PX_ECORRUPT, "__metadata__", "is not an object");
    json_object_foreach(v, key, value)
        if (!json_is_string(value)) return px_fail(e, PX_ECORRUPT, key, "in __metadata__: not a string");
    return PX_OK;
}

static int compare_places(const void *ctx, uint32_t x, uint32_t y)
{
    const shard_st_tensor *t = ctx;
    return t[x].data != t[y].data ? (t[x].data > t[y].data) - (t[x].data < t[y].data) : (x > y) - (x < y);
}

/* No overlap, no hole, nothing behind: every tensor begins where the one before it ends. */
static px_code check_order(const shard_safetensors *s, size_t data_at, px_err *e)
{
    px_code rc = PX_OK;
    const uint8_t *at = s->map.data + data_at;
    uint32_t *order = px_new(s->a, uint32_t, s->n);

    if (!order) return px_fail(e, PX_ENOMEM, "header", "no memory for %zu tensors", s->n);
    for (size_t i = 0; i < s->n; i++) order[i] = (uint32_t)i;
    shard_order_sort(order, s->n, compare_places, s->tensor);
    for (size_t i = 0; i < s->n; i++) {
        const shard_st_tensor *t = &s->tensor[order[i]];
        if (t->data != at) {
            rc = px_fail(e, PX_ECORRUPT, t->name, "%s the tensor before it", t->data < at ? "overlaps" : "leaves a hole behind");
            goto out;
        }
        at += t->bytes;
    }
    if ((size_t)(at - s->map.data) != s->map.bytes)
        rc = px_fail(e, PX_ECORRUPT, "header", "%zu bytes of the file belong to no tensor",
                     s->map.bytes - (size_t)(at - s->map.data));
out:
    px_del(s->a, order, s->n);
    return rc;
}

px_code shard_safetensors_open(shard_safetensors *s, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    json_t *root = NULL, *v;
    const char *key;
    size_t data_at, at = 0;

    *s = (shard_safetensors){ .a = a };
    if ((rc = shard_mapping_open(&s->map, a, path, e)) || (rc = read_header(&s->map, &root, &data_at, e))) goto fail;
    if ((v = json_object_get(root, "__metadata__"))) {
        if ((rc = check_metadata(v, e))) goto fail;
        json_object_del(root, "__metadata__");
    }
    if (!(s->n = json_object_size(root))) { rc = px_fail(e, PX_ECORRUPT, "header", "the file has no tensors"); goto fail; }
    json_object_foreach(root, key, v) s->names_bytes += strlen(key) + 1;
    s->tensor = px_new(a, shard_st_tensor, s->n);
    s->names = px_new(a, char, s->names_bytes);
    if (!s->tensor || !s->names) {
        rc = px_fail(e, PX_ENOMEM, "header", "no memory for %zu tensors", s->n);
        goto fail;
    }
    shard_st_tensor *t = s->tensor;
    json_object_foreach(root, key, v) {
        size_t n = strlen(key) + 1;
        memcpy(s->names + at, key, n);
        t->name = s->names + at;
        at += n;
        if ((rc = read_tensor(&s->map, data_at, t->name, v, t, e))) goto fail;
        t++;
    }
    if ((rc = check_order(s, data_at, e))) goto fail;
    json_decref(root);
    return PX_OK;

fail:
    px_err_set_file(e, path);
    json_decref(root);
    shard_safetensors_close(s);
    return rc;
}

void shard_safetensors_close(shard_safetensors *s)
{
    if (s->names) px_del(s->a, s->names, s->names_bytes);
    if (s->tensor) px_del(s->a, s->tensor, s->n);
    shard_mapping_close(&s->map);
    *s = (shard_safetensors){0};
}
