#include "proto/config/config.h"
#include "proto/config/value.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "proto/base/io.h"

#define FILE_MAX_BYTES  ((size_t)1 << 20)
#define DEPTH_MAX       16              /* of what is skipped; the deepest key of the table is at 2 */
#define KEY_MAX         96              /* like px_err.field */
#define FIELDS_MAX      64              /* room for the marks; the table has fewer (config_test) */

typedef struct parse {
    proto_config  *c;
    const char    *name;
    px_err        *errs;
    size_t         cap, *n_errs;
    px_code        first;
    yaml_parser_t  parser;
    yaml_event_t   event;
    bool           has_event;
    char           key[KEY_MAX];        /* the key being read, dotted; "" at the root */
    bool           seen[FIELDS_MAX];            /* a value of this field */
    bool           seen_map[FIELDS_MAX];        /* a map that begins with this field's first part */
    bool           seen_plan;
} parse;

/* Lists an error with its place in the file, as long as the caller has room. */
static void placed(parse *p, px_err *e, px_code rc, yaml_mark_t at)
{
    char where[sizeof e->file];
    size_t n = strlen(p->name), keep = sizeof where - 48;

    snprintf(where, sizeof where, "%s%s:%zu:%zu", n > keep ? "..." : "", p->name + (n > keep ? n - keep : 0),
             at.line + 1, at.column + 1);
    px_err_set_file(e, where);
    if (!p->first) p->first = rc;
    if (*p->n_errs < p->cap) p->errs[(*p->n_errs)++] = *e;
}

static void wrong(parse *p, yaml_mark_t at, px_code code, const char *key, const char *found, const char *expected,
                  const char *what)
{
    px_err e = {0};
    px_refuse(&e, code, key[0] ? key : "document", found, expected, "%s", what);
    placed(p, &e, code, at);
}

/* The next event, into p->event; false at a syntax error, which is then listed. */
static bool next(parse *p)
{
    if (p->has_event) yaml_event_delete(&p->event);
    p->has_event = false;
    if (yaml_parser_parse(&p->parser, &p->event)) {
        p->has_event = true;
        return true;
    }
    px_err e = {0};
    if (p->parser.error == YAML_MEMORY_ERROR) {
        px_fail(&e, PX_ENOMEM, "document", "reading YAML");
    } else {
        const char *context = p->parser.context;
        px_fail(&e, PX_EINVAL, p->key[0] ? p->key : "document", "not YAML: %s%s%s",
                p->parser.problem ? p->parser.problem : "unreadable", context ? ", " : "", context ? context : "");
    }
    /* The reader's errors (bytes that are not UTF-8) have an offset only; the mark is where the scanner stands. */
    placed(p, &e, e.code, p->parser.error == YAML_READER_ERROR ? p->parser.mark : p->parser.problem_mark);
    return false;
}

/* Refuses what makes a document mean something else than it shows: anchors, aliases, tags. */
static void check_plain(parse *p, const char *key)
{
    const yaml_event_t *ev = &p->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;

    switch (ev->type) {
    case YAML_ALIAS_EVENT:
        wrong(p, ev->start_mark, PX_EINVAL, key, (const char *)ev->data.alias.anchor, "a value", "an alias");
        return;
    case YAML_SCALAR_EVENT: anchor = ev->data.scalar.anchor; tag = ev->data.scalar.tag; break;
    case YAML_SEQUENCE_START_EVENT: anchor = ev->data.sequence_start.anchor; tag = ev->data.sequence_start.tag; break;
    case YAML_MAPPING_START_EVENT: anchor = ev->data.mapping_start.anchor; tag = ev->data.mapping_start.tag; break;
    default: return;
    }
    if (anchor) wrong(p, ev->start_mark, PX_EINVAL, key, (const char *)anchor, "a plain value", "an anchor");
    if (tag) wrong(p, ev->start_mark, PX_EINVAL, key, (const char *)tag, "a plain value", "a tag");
}

/* Passes over the node whose first event stands in p->event. */
static bool skip(parse *p, const char *key)
{
    unsigned depth = 0;

    for (;;) {
        switch (p->event.type) {
        case YAML_SEQUENCE_START_EVENT:
        case YAML_MAPPING_START_EVENT:
            if (++depth > DEPTH_MAX) {
                wrong(p, p->event.start_mark, PX_ERANGE, key, "", "", "nested too deep");
                return false;
            }
            break;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT: depth--; break;
        default: break;
        }
        if (!depth) return true;
        if (!next(p)) return false;
        check_plain(p, key);
    }
}

/* First field of the map "key" ("kv" of "kv.dtype"), or proto_n_fields. */
static size_t map_of(const char *key)
{
    size_t n = strlen(key), i = 0;
    while (i < proto_n_fields && (strncmp(proto_fields[i].key, key, n) || proto_fields[i].key[n] != '.')) i++;
    return i;
}

static const char *kind(const yaml_event_t *ev)
{
    return ev->type == YAML_MAPPING_START_EVENT ? "a map" : ev->type == YAML_SEQUENCE_START_EVENT ? "a list"
         : ev->type == YAML_ALIAS_EVENT ? "an alias" : "a value";
}

static bool take_scalar(parse *p, const proto_field *f)
{
    const yaml_event_t *ev = &p->event;
    const char *text = (const char *)ev->data.scalar.value;
    proto_style style = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? PROTO_STYLE_PLAIN : PROTO_STYLE_QUOTED;
    px_err e = {0};

    px_code rc = proto_value_set(p->c, f, style, text, ev->data.scalar.length, &e);
    if (rc) placed(p, &e, rc, ev->start_mark);
    return true;
}

static bool take_map(parse *p);

/* The value of key p->key, whose first event stands in p->event. */
static bool take_value(parse *p, yaml_mark_t key_at)
{
    const proto_field *f = proto_config_find(p->key);
    size_t map = f ? proto_n_fields : map_of(p->key);
    char expected[128];
    yaml_event_type_t type = p->event.type;
    bool *seen, plan = !strcmp(p->key, PROTO_CONFIG_PLAN);

    if (!f && map == proto_n_fields && !plan) {
        px_err e = {0};
        px_code rc = proto_key_unknown(p->key, &e);
        placed(p, &e, rc, key_at);
        return skip(p, p->key);
    }
    seen = plan ? &p->seen_plan : f ? &p->seen[f - proto_fields] : &p->seen_map[map];
    if (*seen) {
        wrong(p, key_at, PX_EEXIST, p->key, "", "", "the key stands twice");
        return skip(p, p->key);
    }
    *seen = true;
    if (type == YAML_ALIAS_EVENT) return true;          /* listed by check_plain */
    if (f && type == YAML_SCALAR_EVENT) return take_scalar(p, f);
    if (plan && type == YAML_MAPPING_START_EVENT) return skip(p, p->key);
    if (!f && type == YAML_MAPPING_START_EVENT) return take_map(p);
    if (f) proto_field_expects(f, expected, sizeof expected);
    wrong(p, p->event.start_mark, PX_EINVAL, p->key, kind(&p->event), f ? expected : "a map", "of another type");
    return skip(p, p->key);
}

/* A map's pairs; p->event is its start.  Only the table's maps are entered, so the recursion ends with the table. */
static bool take_map(parse *p)
{
    size_t base = strlen(p->key);

    for (;;) {
        if (!next(p)) return false;
        if (p->event.type == YAML_MAPPING_END_EVENT) return true;
        check_plain(p, p->key);
        yaml_mark_t at = p->event.start_mark;
        if (p->event.type != YAML_SCALAR_EVENT) {
            wrong(p, at, PX_EINVAL, p->key, kind(&p->event), "a key", "a key is a word");
            if (!skip(p, p->key) || !next(p)) return false;
            check_plain(p, p->key);
            if (!skip(p, p->key)) return false;
            continue;
        }
        const char *text = (const char *)p->event.data.scalar.value;
        size_t n = p->event.data.scalar.length;
        if (!n || memchr(text, '\0', n) || base + 1 + n >= KEY_MAX) {
            wrong(p, at, n ? PX_ENOTFOUND : PX_EINVAL, p->key, text, "a key", n ? "no key looks like this"
                                                                               : "an empty key");
            if (!next(p)) return false;
            check_plain(p, p->key);
            if (!skip(p, p->key)) return false;
            continue;
        }
        snprintf(p->key + base, KEY_MAX - base, "%s%.*s", base ? "." : "", (int)n, text);
        if (!next(p)) return false;
        check_plain(p, p->key);
        if (!take_value(p, at)) return false;
        p->key[base] = '\0';
    }
}

static void take_stream(parse *p)
{
    if (!next(p) || !next(p)) return;                           /* stream start, then a document or the end */
    if (p->event.type == YAML_STREAM_END_EVENT) return;         /* nothing but comments: every default */
    if (p->event.data.document_start.tag_directives.start != p->event.data.document_start.tag_directives.end)
        wrong(p, p->event.start_mark, PX_EINVAL, "", "%TAG", "", "a tag directive");
    if (!next(p)) return;
    check_plain(p, "");
    bool empty = p->event.type == YAML_SCALAR_EVENT && p->event.data.scalar.length == 0 &&
                 p->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (p->event.type == YAML_MAPPING_START_EVENT) {
        if (!take_map(p)) return;
    } else if (!empty) {
        if (p->event.type != YAML_ALIAS_EVENT)
            wrong(p, p->event.start_mark, PX_EINVAL, "", kind(&p->event), "a map of keys", "of another type");
        if (!skip(p, "")) return;
    }
    if (!next(p)) return;                                       /* document end */
    if (!next(p)) return;
    if (p->event.type != YAML_STREAM_END_EVENT)
        wrong(p, p->event.start_mark, PX_EINVAL, "", "a second document", "one", "more than one document");
}

px_code proto_config_parse(proto_config *c, px_alloc *a, const char *name, const char *text, size_t bytes,
                           px_err *errs, size_t cap, size_t *n_errs)
{
    static const yaml_mark_t begin = {0};
    size_t unused;
    parse small = { .name = name, .errs = errs, .cap = cap, .n_errs = n_errs ? n_errs : &unused }, *p;

    *small.n_errs = 0;
    if (bytes > FILE_MAX_BYTES) {
        wrong(&small, begin, PX_ERANGE, "", "", "at most 1048576 bytes", "the text is too large");
        return small.first;
    }
    if (!(p = px_new(a, parse, 1)) || !yaml_parser_initialize(&p->parser)) {
        wrong(&small, begin, PX_ENOMEM, "", "", "", "no memory to read YAML");
        if (p) px_del(a, p, 1);
        return small.first;
    }
    p->c = c;
    p->name = name;
    p->errs = errs;
    p->cap = cap;
    p->n_errs = small.n_errs;
    yaml_parser_set_encoding(&p->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&p->parser, (const unsigned char *)text, bytes);
    take_stream(p);
    if (p->has_event) yaml_event_delete(&p->event);
    yaml_parser_delete(&p->parser);
    px_code rc = p->first;
    px_del(a, p, 1);
    return rc;
}

px_code proto_config_read(proto_config *c, px_alloc *a, const char *path, px_err *errs, size_t cap, size_t *n_errs)
{
    char *text;
    size_t bytes;
    px_err e = {0};

    if (n_errs) *n_errs = 0;
    px_code rc = px_read_file(a, path, FILE_MAX_BYTES, &text, &bytes, &e);
    if (rc) {
        snprintf(e.field, sizeof e.field, "document");
        if (cap && n_errs) errs[(*n_errs)++] = e;
        return rc;
    }
    rc = proto_config_parse(c, a, path, text, bytes, errs, cap, n_errs);
    px_alloc_put(a, text, bytes + 1, 1);
    return rc;
}
