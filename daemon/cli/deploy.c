#include "daemon/cli/deploy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "proto/base/io.h"

#define MAX_BYTES 65536u
#define MAX_ARGS  256u

bool daemon_parse_size(const char *s, uint64_t *bytes)
{
    static const struct { const char *word; double by; } unit[] = {
        { "", 1 }, { "B", 1 }, { "K", 1e3 }, { "KB", 1e3 }, { "KiB", 1024 }, { "M", 1e6 }, { "MB", 1e6 }, { "MiB", 1048576 }, { "G", 1e9 },
        { "GB", 1e9 }, { "GiB", 1073741824 }, { "T", 1e12 }, { "TB", 1e12 }, { "TiB", 1099511627776.0 },
    };
    size_t n = strspn(s, "0123456789.");
    char *end;
    double v;

    if (!n || strlen(s) > 40) return false;
    v = strtod(s, &end);
    while (*end == ' ') end++;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (!strcasecmp(end, unit[i].word)) {
            v *= unit[i].by;
            if (!isfinite(v) || v >= 9e18) return false;
            *bytes = (uint64_t)v;
            return true;
        }
    return false;
}

static px_code add(daemon_deploy *d, const char *key, const char *value, px_err *e)
{
    char *arg;
    size_t n = strlen(key) + strlen(value) + 4;

    if (d->n == MAX_ARGS) return px_fail(e, PX_ERANGE, key, "more than %u values", MAX_ARGS);
    if (!(arg = px_alloc_zero(d->a, n, 1, 1))) return px_fail(e, PX_ENOMEM, key, "no memory");
    snprintf(arg, n, "--%s=%s", key, value);
    d->arg[d->n++] = arg;
    return PX_OK;
}

static px_code scalar(const yaml_event_t *v, char *out, size_t cap, const char *field, px_err *e)
{
    if (v->type != YAML_SCALAR_EVENT || v->data.scalar.anchor || v->data.scalar.tag)
        return px_fail(e, PX_EINVAL, field, "line %zu: a plain word or number stands here", v->start_mark.line + 1);
    if (v->data.scalar.length >= cap || memchr(v->data.scalar.value, 0, v->data.scalar.length))
        return px_fail(e, PX_ERANGE, field, "line %zu: a text of %zu bytes", v->start_mark.line + 1, v->data.scalar.length);
    memcpy(out, v->data.scalar.value, v->data.scalar.length);
    out[v->data.scalar.length] = 0;
    return PX_OK;
}

static px_code next(yaml_parser_t *p, yaml_event_t *v, px_err *e)
{
    if (yaml_parser_parse(p, v)) return PX_OK;
    if (p->error == YAML_MEMORY_ERROR) return px_fail(e, PX_ENOMEM, "document", "no memory");
    return px_fail(e, PX_EINVAL, "document", "line %zu: %s", p->problem_mark.line + 1, p->problem ? p->problem : "no YAML");
}

static px_code values(daemon_deploy *d, yaml_parser_t *p, const char *key, px_err *e)
{
    char value[1024];
    bool list = false;
    px_code rc;

    do {
        yaml_event_t v;
        yaml_event_type_t type;
        if ((rc = next(p, &v, e))) return rc;
        type = v.type;
        if (type == YAML_SEQUENCE_START_EVENT && !list && !v.data.sequence_start.anchor && !v.data.sequence_start.tag) list = true;
        else if (type == YAML_SEQUENCE_END_EVENT) list = false;
        else if (!(rc = scalar(&v, value, sizeof value, key, e))) rc = add(d, key, value, e);
        yaml_event_delete(&v);
        if (rc) return rc;
    } while (list);
    return PX_OK;
}

/* Pairs of the map whose start has been read, to its end. */
static px_code read_pairs(daemon_deploy *d, yaml_parser_t *p, px_err *e)
{
    char key[64], flag[72];
    yaml_event_t v;
    px_code rc;

    for (;;) {
        bool last;
        size_t before = d->n;
        if ((rc = next(p, &v, e))) return rc;
        last = v.type == YAML_MAPPING_END_EVENT;
        if (!last) rc = scalar(&v, key, sizeof key, "document", e);
        yaml_event_delete(&v);
        if (last || rc) return rc;
        snprintf(flag, sizeof flag, "--%s=", key);
        for (size_t i = 0; i < before; i++)
            if (!strncmp(d->arg[i], flag, strlen(flag))) return px_fail(e, PX_EEXIST, key, "the key stands twice");
        if (strchr(key, '=') || !*key) return px_fail(e, PX_EINVAL, "document", "\"%s\" is no key", key);
        if ((rc = values(d, p, key, e))) return rc;
    }
}

/* Pairs of the map whose start has been read: the value of `section` is a map of options, all others are passed over. */
static px_code read_section(daemon_deploy *d, yaml_parser_t *p, const char *section, px_err *e)
{
    bool key = true, seen = false;
    unsigned depth = 0;
    yaml_event_t v;
    px_code rc;

    for (;;) {
        bool found = false, end = false;
        if ((rc = next(p, &v, e))) return rc;
        if (v.type == YAML_MAPPING_START_EVENT || v.type == YAML_SEQUENCE_START_EVENT) depth++;
        else if (v.type == YAML_SEQUENCE_END_EVENT || (v.type == YAML_MAPPING_END_EVENT && depth)) depth--;
        else if (v.type == YAML_MAPPING_END_EVENT) end = true;
        else if (v.type == YAML_SCALAR_EVENT && !depth && key) found = !strcmp((const char *)v.data.scalar.value, section);
        if (!depth) key = !key;                    /* a node has ended: keys and values in turn */
        yaml_event_delete(&v);
        if (end) return PX_OK;
        if (!found) continue;
        if (seen) return px_fail(e, PX_EEXIST, section, "the key stands twice");
        seen = true;
        if ((rc = next(p, &v, e))) return rc;
        if (v.type != YAML_MAPPING_START_EVENT) rc = px_fail(e, PX_EINVAL, section, "line %zu: a map of options stands here", v.start_mark.line + 1);
        yaml_event_delete(&v);
        if (rc || (rc = read_pairs(d, p, e))) return rc;
        key = true;
    }
}

static px_code read_document(daemon_deploy *d, yaml_parser_t *p, const char *section, px_err *e)
{
    static const yaml_event_type_t begin[] = { YAML_STREAM_START_EVENT, YAML_DOCUMENT_START_EVENT, YAML_MAPPING_START_EVENT },
                                   end[] = { YAML_DOCUMENT_END_EVENT, YAML_STREAM_END_EVENT };
    yaml_event_t v;
    px_code rc;

    for (size_t i = 0; i < 3; i++) {
        if ((rc = next(p, &v, e))) return rc;
        if (v.type != begin[i]) rc = px_fail(e, PX_EINVAL, "document", "it is no map of keys and values");
        yaml_event_delete(&v);
        if (rc) return rc;
    }
    rc = section ? read_section(d, p, section, e) : read_pairs(d, p, e);
    for (size_t i = 0; !rc && i < 2; i++) {
        if ((rc = next(p, &v, e))) return rc;
        if (v.type != end[i]) rc = px_fail(e, PX_EINVAL, "document", "there is a second document");
        yaml_event_delete(&v);
    }
    return rc;
}

px_code daemon_deploy_read(daemon_deploy *d, px_alloc *a, const char *path, const char *section, px_err *e)
{
    yaml_parser_t p;
    px_code rc;

    *d = (daemon_deploy){ .a = a, .cap = MAX_ARGS };
    if ((rc = px_read_file(a, path, MAX_BYTES, &d->text, &d->bytes, e))) goto fail;
    if (!(d->arg = px_new(a, char *, d->cap)) || !yaml_parser_initialize(&p)) { rc = px_fail(e, PX_ENOMEM, "document", "no memory"); goto fail; }
    yaml_parser_set_input_string(&p, (const unsigned char *)d->text, d->bytes);
    rc = read_document(d, &p, section, e);
    yaml_parser_delete(&p);
    if (!rc) return PX_OK;

fail:
    px_err_set_file(e, path);
    daemon_deploy_deinit(d);
    return rc;
}

void daemon_deploy_deinit(daemon_deploy *d)
{
    for (size_t i = 0; i < d->n; i++) px_strdel(d->a, d->arg[i]);
    if (d->arg) px_del(d->a, d->arg, d->cap);
    if (d->text) px_alloc_put(d->a, d->text, d->bytes + 1, 1);
    *d = (daemon_deploy){ .a = d->a };
}
