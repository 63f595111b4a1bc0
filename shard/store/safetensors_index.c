/* model.safetensors.index.json: {"metadata": {...}, "weight_map": {tensor: file}}. */
#include "shard/store/safetensors.h"

#include <jansson.h>
#include <string.h>

#include "proto/base/io.h"

#define MAX_INDEX_BYTES 100000000u
#define MAX_FILES       4096u

px_code shard_safetensors_set_single(shard_safetensors_set *s, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;

    *s = (shard_safetensors_set){ .a = a, .n = 1 };
    if (!(s->file = px_new(a, shard_safetensors, 1))) {
        rc = px_fail(e, PX_ENOMEM, "path", "no memory for a file");
        goto fail;
    }
    if ((rc = shard_safetensors_open(&s->file[0], a, path, e))) goto fail;
    return PX_OK;

fail:
    shard_safetensors_set_close(s);
    return rc;
}

/* A file beside the index and nowhere else. */
static bool is_plain_name(const char *s)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(s);

    return n >= sizeof end && n <= 255 && s[0] != '.' && !strpbrk(s, "/\\") && !strcmp(s + n - (sizeof end - 1), end);
}

static px_code read_index(px_alloc *a, const char *index, json_t **root, json_t **map, px_err *e)
{
    px_code rc;
    char *text;
    size_t bytes;
    json_error_t why;

    if ((rc = px_read_file(a, index, MAX_INDEX_BYTES, &text, &bytes, e))) return rc;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    px_alloc_put(a, text, bytes + 1, 1);
    if (!*root) return px_fail(e, PX_ECORRUPT, "", "line %d: %s", why.line, why.text);
    *map = json_object_get(*root, "weight_map");
    if (!json_is_object(*map) || !json_object_size(*map))
        return px_fail(e, PX_ECORRUPT, "weight_map", "is not an object with tensors");
    return PX_OK;
}

/* The distinct files, each with the number of its place: {file: i}. */
static px_code list_files(json_t *map, json_t *files, px_err *e)
{
    const char *tensor;
    json_t *v;

    json_object_foreach(map, tensor, v) {
        const char *file = json_string_value(v);
        if (!file) return px_fail(e, PX_ECORRUPT, tensor, "in weight_map: not a file name");
        if (!is_plain_name(file))
            return px_fail(e, PX_ECORRUPT, tensor, "in weight_map: \"%s\" is not the name of a .safetensors file in this folder",
                           file);
        if (json_object_get(files, file)) continue;
        if (json_object_size(files) >= MAX_FILES)
            return px_fail(e, PX_ERANGE, "weight_map", "names more than %u files", MAX_FILES);
        if (json_object_set_new(files, file, json_integer((json_int_t)json_object_size(files))))
            return px_fail(e, PX_ENOMEM, "weight_map", "no memory for the names of files");
    }
    return PX_OK;
}

/* Every listed tensor is in the file that the index names for it. */
static px_code check_listed(const shard_safetensors_set *s, json_t *map, json_t *files, px_err *e)
{
    px_code rc = PX_OK;
    const char *tensor;
    json_t *v, *seen = json_object();

    if (!seen) return px_fail(e, PX_ENOMEM, "weight_map", "no memory for its tensors");
    for (size_t f = 0; f < s->n; f++)
        for (size_t i = 0; i < s->file[f].n; i++) {
            const shard_st_tensor *t = &s->file[f].tensor[i];
            v = json_object_get(map, t->name);
            if (!v || json_integer_value(json_object_get(files, json_string_value(v))) != (json_int_t)f) continue;
            if (json_object_set_new(seen, t->name, json_true())) {
                rc = px_fail(e, PX_ENOMEM, "weight_map", "no memory for its tensors");
                goto out;
            }
        }
    json_object_foreach(map, tensor, v)
        if (!json_object_get(seen, tensor)) {
            rc = px_fail(e, PX_ENOTFOUND, tensor, "is not in %s, where the index says it is", json_string_value(v));
            goto out;
        }
out:
    json_decref(seen);
    return rc;
}

px_code shard_safetensors_set_index(shard_safetensors_set *s, px_alloc *a, const char *dir, const char *index, px_err *e)
{
    px_code rc;
    json_t *root = NULL, *map = NULL, *files = json_object(), *v;
    const char *name;
    char path[4096];

    *s = (shard_safetensors_set){ .a = a };
    if (!files) { rc = px_fail(e, PX_ENOMEM, "weight_map", "no memory for the names of files"); goto fail; }
    if ((rc = read_index(a, index, &root, &map, e)) || (rc = list_files(map, files, e))) goto fail;
    if (!(s->file = px_new(a, shard_safetensors, json_object_size(files)))) {
        rc = px_fail(e, PX_ENOMEM, "weight_map", "no memory for %zu files", json_object_size(files));
        goto fail;
    }
    s->n = json_object_size(files);
    json_object_foreach(files, name, v) {
        px_err why = {0};
        if ((rc = px_path_join(path, sizeof path, dir, name, e))) goto fail;
        rc = shard_safetensors_open(&s->file[json_integer_value(v)], a, path, &why);
        if (rc == PX_ENOTFOUND) rc = px_fail(e, PX_ENOTFOUND, name, "the index names this file, and it is absent");
        else if (rc && e && !e->code) *e = why;
        if (rc) goto fail;
    }
    if ((rc = check_listed(s, map, files, e))) goto fail;
    json_decref(files);
    json_decref(root);
    return PX_OK;

fail:
    px_err_set_file(e, index);
    json_decref(files);
    json_decref(root);
    shard_safetensors_set_close(s);
    return rc;
}

void shard_safetensors_set_close(shard_safetensors_set *s)
{
    for (size_t i = 0; s->file && i < s->n; i++) shard_safetensors_close(&s->file[i]);
    if (s->file) px_del(s->a, s->file, s->n);
    *s = (shard_safetensors_set){0};
}
