/* Lists of token ids as people and scripts write them. */
#include "daemon/cli/options.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static bool is_gap(char c) { return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

static px_code from_json(px_alloc *a, const char *field, const char *text, size_t bytes, uint32_t **ids, size_t *n,
                         px_err *e)
{
    json_error_t why;
    json_t *doc = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why), *list, *x;
    px_code rc = PX_OK;
    size_t i;

    if (!doc) return px_fail(e, PX_EINVAL, field, "no JSON: line %d, column %d: %s", why.line, why.column, why.text);
    list = json_is_object(doc) ? json_object_get(doc, "ids") : doc;
    if (!json_is_array(list)) {
        rc = px_fail(e, PX_EINVAL, field, "expected [1, 2, ...] or {\"ids\": [1, 2, ...]}");
        goto done;
    }
    if (!(*ids = px_new(a, uint32_t, json_array_size(list)))) {
        rc = px_fail(e, PX_ENOMEM, field, "no memory for %zu ids", json_array_size(list));
        goto done;
    }
    *n = json_array_size(list);
    json_array_foreach(list, i, x) {
        json_int_t v = json_is_integer(x) ? json_integer_value(x) : -1;
        if (v < 0 || v > UINT32_MAX) {
            rc = px_fail(e, PX_EINVAL, field, "element %zu is no id", i);
            goto done;
        }
        (*ids)[i] = (uint32_t)v;
    }

done:
    if (rc && *ids) {
        px_del(a, *ids, *n);
        *ids = NULL;
        *n = 0;
    }
    json_decref(doc);
    return rc;
}

px_code daemon_parse_ids(px_alloc *a, const char *field, const char *text, size_t bytes, uint32_t **ids, size_t *n,
                         px_err *e)
{
    size_t most = 0, at = 0, count = 0;
    uint32_t *out;

    *ids = NULL;
    *n = 0;
    while (at < bytes && is_gap(text[at])) at++;
    if (at < bytes && (text[at] == '{' || text[at] == '[')) return from_json(a, field, text, bytes, ids, n, e);

    for (size_t i = 0; i < bytes; i++) most += !is_gap(text[i]) && (i == 0 || is_gap(text[i - 1]));
    if (!(out = px_new(a, uint32_t, most))) return px_fail(e, PX_ENOMEM, field, "no memory for %zu ids", most);
    while (at < bytes) {
        size_t end = at;
        char word[24] = "";
        uint64_t v;
        while (end < bytes && !is_gap(text[end])) end++;
        if (end - at < sizeof word) memcpy(word, text + at, end - at);
        if (strlen(word) != end - at || !daemon_parse_u64(word, UINT32_MAX, &v)) {
            px_del(a, out, most);
            return px_fail(e, PX_EINVAL, field, "no id at byte %zu: \"%.*s\"", at, end - at > 40 ? 40 : (int)(end - at),
                           text + at);
        }
        out[count++] = (uint32_t)v;
        for (at = end; at < bytes && is_gap(text[at]); at++) { }
    }
    *ids = out;
    *n = most;
    return PX_OK;
}
