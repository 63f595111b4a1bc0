#include "daemon/text/chat_table.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"

/* A table in a file:
 *   {"format": 1, "name": "derived",
 *    "template": "{% for ...",                the text that it was derived from; another template is refused
 *    "control": ["<|im_start|>"],             tokens that the strings below name
 *    "begin": "<s>",
 *    "system": {"prefix": "...", "suffix": "...", "trim": false}, "user": {...}, "assistant": {...},
 *    "system_in": "own",                      first_user, last_user, none
 *    "default_system": null,
 *    "alternate": false, "user_last": false,
 *    "drop_thinking": false,                  true, "keep_newlines": what an answer thought goes, with the newlines behind it or without
 *    "generation": "..."}
 * All keys are needed, no other is allowed. */

enum { FORMAT = 1, MOST_BYTES = 1 << 20 };

static px_code text(const json_t *o, const char *where, const char *key, const char **out, px_err *e)
{
    const json_t *v = json_object_get(o, key);
    char field[64];

    *out = json_string_value(v);
    if (*out && strlen(*out) == json_string_length(v)) return PX_OK;
    snprintf(field, sizeof field, "%s%s%s", where, *where ? "." : "", key);
    return px_fail(e, PX_ECORRUPT, field, "text without zero bytes is expected");
}

static px_code flag(const json_t *o, const char *where, const char *key, bool *out, px_err *e)
{
    const json_t *v = json_object_get(o, key);
    char field[64];

    *out = json_is_true(v);
    if (json_is_boolean(v)) return PX_OK;
    snprintf(field, sizeof field, "%s%s%s", where, *where ? "." : "", key);
    return px_fail(e, PX_ECORRUPT, field, "true or false is expected");
}

/* false, true, "keep_newlines" */
static px_code thinking(const json_t *o, daemon_template *t, px_err *e)
{
    const json_t *v = json_object_get(o, "drop_thinking");

    t->keep_newlines = json_is_string(v) && !strcmp(json_string_value(v), "keep_newlines");
    t->drop_thinking = json_is_true(v) || t->keep_newlines;
    if (json_is_boolean(v) || t->keep_newlines) return PX_OK;
    return px_fail(e, PX_ECORRUPT, "drop_thinking", "true, false or \"keep_newlines\" is expected");
}

static px_code keys_of(const json_t *o, const char *where, const char *const *known, size_t n, px_err *e)
{
    const char *key;
    json_t *v;
    char quoted[64];

    if (!json_is_object(o)) return px_fail(e, PX_ECORRUPT, where, "an object is expected");
    json_object_foreach((json_t *)o, key, v) {
        size_t i = 0;
        while (i < n && strcmp(key, known[i])) i++;
        if (i == n) return px_fail(e, PX_ECORRUPT, where, "unknown key %s", px_log_quote(key, -1, quoted, sizeof quoted));
    }
    return PX_OK;
}

static px_code read_turns(daemon_template *t, const json_t *o, px_err *e)
{
    static const char *const keys[] = { "prefix", "suffix", "trim" };
    px_code rc;

    for (daemon_role r = 0; r < DAEMON_N_ROLES; r++) {
        const json_t *v = json_object_get(o, daemon_role_name[r]);
        if ((rc = keys_of(v, daemon_role_name[r], keys, 3, e)) || (rc = text(v, daemon_role_name[r], "prefix", &t->turn[r].prefix, e)) ||
            (rc = text(v, daemon_role_name[r], "suffix", &t->turn[r].suffix, e)) ||
            (rc = flag(v, daemon_role_name[r], "trim", &t->turn[r].trim, e)))
            return rc;
    }
    return PX_OK;
}

static px_code read_control(daemon_template *t, const json_t *o, px_err *e)
{
    const json_t *list = json_object_get(o, "control");

    if (!json_is_array(list) || json_array_size(list) > DAEMON_TEMPLATE_CONTROLS)
        return px_fail(e, PX_ECORRUPT, "control", "a list of at most %d tokens is expected", DAEMON_TEMPLATE_CONTROLS);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!(t->control[i] = json_string_value(json_array_get(list, i)))) return px_fail(e, PX_ECORRUPT, "control", "entry %zu is no text", i);
    return PX_OK;
}

static px_code read_table(daemon_template *t, const json_t *o, const char *from, size_t from_bytes, px_err *e)
{
    static const char *const keys[] = { "format", "name", "template", "control", "begin", "system", "user", "assistant", "system_in",
                                        "default_system", "alternate", "user_last", "drop_thinking", "generation" };
    const json_t *format = json_object_get(o, "format"), *source = json_object_get(o, "template");
    const char *word;
    char found[32], want[64];
    px_code rc;

    if (!json_is_integer(format)) return px_fail(e, PX_ECORRUPT, "format", "a number is expected");
    if (json_integer_value(format) != FORMAT) {
        snprintf(found, sizeof found, "%lld", (long long)json_integer_value(format));
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "format", found, "1");
    }
    if ((rc = keys_of(o, "chat_template.json", keys, sizeof keys / sizeof *keys, e)) || (rc = text(o, "", "name", &t->name, e)) ||
        (rc = read_control(t, o, e)) || (rc = text(o, "", "begin", &t->begin, e)) || (rc = read_turns(t, o, e)) ||
        (rc = text(o, "", "system_in", &word, e)) || (rc = flag(o, "", "alternate", &t->alternate, e)) ||
        (rc = flag(o, "", "user_last", &t->user_last, e)) || (rc = thinking(o, t, e)) ||
        (rc = text(o, "", "generation", &t->generation, e)))
        return rc;
    if (!json_is_null(json_object_get(o, "default_system")) && (rc = text(o, "", "default_system", &t->default_system, e))) return rc;
    for (t->system_in = 0; t->system_in < DAEMON_N_SYSTEM_IN && strcmp(word, daemon_system_in_name[t->system_in]); ) t->system_in++;
    if (t->system_in == DAEMON_N_SYSTEM_IN)
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, "system_in", px_log_quote(word, -1, want, sizeof want),
                                   "own, first_user, last_user or none");
    if (!json_is_string(source)) return px_fail(e, PX_ECORRUPT, "template", "text is expected");
    if (from && (json_string_length(source) != from_bytes || memcmp(json_string_value(source), from, from_bytes)))
        return px_refuse(e, PX_EMISMATCH, "template", "another text", "the checkpoint's own template",
                         "the table was derived from another model's chat template");
    return PX_OK;
}

px_code daemon_template_open(daemon_template **t, px_alloc *a, const char *json, size_t bytes, const char *from, size_t from_bytes,
                             px_err *e)
{
    px_code rc;
    json_error_t why;
    char quoted[160];

    *t = NULL;
    if (bytes > MOST_BYTES) return px_fail(e, PX_ERANGE, "chat_template.json", "%zu bytes; at most %d", bytes, MOST_BYTES);
    if (!(*t = px_new(a, daemon_template, 1))) return px_fail(e, PX_ENOMEM, "chat_template.json", "opening it");
    (*t)->a = a;
    (*t)->json = json_loadb(json, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!json_is_object((json_t *)(*t)->json))
        rc = px_fail(e, PX_ECORRUPT, "chat_template.json", "not a JSON object: %s",
                     px_log_quote((*t)->json ? "another value" : why.text, -1, quoted, sizeof quoted));
    else rc = read_table(*t, (*t)->json, from, from_bytes, e);
    if (rc) {
        daemon_template_close(*t);
        *t = NULL;
    }
    return rc;
}

void daemon_template_close(daemon_template *t)
{
    if (!t) return;
    px_alloc *a = t->a;
    json_decref(t->json);
    px_del(a, t, 1);
}
