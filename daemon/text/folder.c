#include "daemon/text/folder.h"

#include <jansson.h>
#include <string.h>

#include "daemon/text/hints.h"
#include "proto/base/io.h"

enum { CONFIG_BYTES = DAEMON_TEMPLATE_BYTES };          /* of what may hold one */
#define TOKENIZER_BYTES ((size_t)256 << 20)
#define CONFIG_FILE "tokenizer_config.json"
#define ADDED_FILE "added_tokens.json"

/* px_read_file below dir; *data NULL and no error if the file is absent. */
static px_code read_optional(px_alloc *a, const char *dir, const char *name, size_t cap, char **data, size_t *bytes, char path[4096],
                             px_err *e)
{
    px_err why = {0};
    px_code rc = px_path_join(path, 4096, dir, name, e);

    *data = NULL;
    *bytes = 0;
    if (rc) return rc;
    if (!(rc = px_read_file(a, path, cap, data, bytes, &why))) return PX_OK;
    *data = NULL;
    if (rc == PX_ENOTFOUND) return PX_OK;
    if (e && !e->code) *e = why;
    return rc;
}

px_code daemon_tokenizer_from_folder(px_alloc *a, const char *dir, const char *name, const uint32_t *eos, size_t n_eos, char **json,
                                     size_t *bytes, px_err *e)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer.model" };
    char *data = NULL, *config = NULL, *added = NULL, path[4096], other[4096];
    size_t n = 0, config_bytes = 0, added_bytes = 0, i;
    bool model;
    px_code rc;

    *json = NULL;
    *bytes = 0;
    for (i = 0; i < (name ? 1 : 2) && !data; i++)
        if ((rc = read_optional(a, dir, name ? name : names[i], TOKENIZER_BYTES, &data, &n, path, e))) return rc;
    if (!data) {
        rc = px_fail(e, PX_ENOTFOUND, name ? name : names[0], "the folder has no %s", name ? name : "tokenizer.json and no tokenizer.model");
        px_err_set_file(e, dir);
        return rc;
    }
    model = strlen(path) > 6 && !strcmp(path + strlen(path) - 6, ".model");
    if ((rc = read_optional(a, dir, CONFIG_FILE, CONFIG_BYTES, &config, &config_bytes, other, e)) ||
        (model && (rc = read_optional(a, dir, ADDED_FILE, CONFIG_BYTES, &added, &added_bytes, other, e))))
        goto done;
    daemon_hints h = { .config = config, .config_bytes = config_bytes, .added = added, .added_bytes = added_bytes,
                       .eos = eos, .n_eos = n_eos };
    rc = model ? daemon_tokenizer_from_model(a, data, n, &h, json, bytes, e) : daemon_tokenizer_from_json(a, data, n, &h, json, bytes, e);
    if (rc) px_err_set_file(e, path);

done:
    if (added) px_del(a, added, added_bytes + 1);
    if (config) px_del(a, config, config_bytes + 1);
    px_del(a, data, n + 1);
    return rc;
}

/* "chat_template": text, or a list of {"name", "template"}. */
static const json_t *pick(const json_t *config)
{
    const json_t *v = json_object_get(config, "chat_template"), *one;
    size_t i;

    if (!json_is_array(v)) return v;
    json_array_foreach((json_t *)v, i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && !strcmp(name, "default")) return json_object_get(one, "template");
    }
    return NULL;
}

px_code daemon_template_from_folder(px_alloc *a, const char *dir, char **text, size_t *bytes, px_err *e)
{
    char *data, path[4096];
    size_t n;
    json_t *config = NULL;
    const json_t *v;
    px_code rc;

    if ((rc = read_optional(a, dir, "chat_template.jinja", CONFIG_BYTES, text, bytes, path, e)) || *text) return rc;
    if ((rc = read_optional(a, dir, CONFIG_FILE, CONFIG_BYTES, &data, &n, path, e))) return rc;
    if (!data) return px_fail(e, PX_ENOTFOUND, "chat_template", "the folder has no chat_template.jinja and no " CONFIG_FILE);
    config = daemon_hints_load(data, n, NULL);
    v = pick(config);
    if (!json_is_object(config)) rc = px_fail(e, PX_ECORRUPT, CONFIG_FILE, "not a JSON object");
    else if (!v || json_is_null(v)) rc = px_fail(e, PX_ENOTFOUND, "chat_template", CONFIG_FILE " has none");
    else if (!json_is_string(v)) rc = px_fail(e, PX_ECORRUPT, "chat_template", "neither text nor a list with a default");
    else if (!(*text = px_new(a, char, json_string_length(v) + 1))) rc = px_fail(e, PX_ENOMEM, "chat_template", "reading it");
    else memcpy(*text, json_string_value(v), *bytes = json_string_length(v));
    if (rc) px_err_set_file(e, path);
    json_decref(config);
    px_del(a, data, n + 1);
    return rc;
}
