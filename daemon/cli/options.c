#include "daemon/cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/io.h"

/* ---- help and complaints ---- */

static void print_option(const char *name, const char *value, const char *doc)
{
    char head[64];

    snprintf(head, sizeof head, "--%s%s%s", name, value ? " " : "", value ? value : "");
    printf(strlen(head) > 28 ? "  %s\n  %-28s  %s\n" : "  %-28s%s  %s\n", head, "", doc);
}

static void help(const daemon_command *c)
{
    char value[1100], doc[1400];

    printf("usage: phalanx %s %s\n\n%s\n\n", c->name, c->line, c->about);
    for (size_t i = 0; i < c->n_options; i++)
        print_option(c->option[i].name, c->option[i].value, c->option[i].doc);
    for (size_t i = 0; c->config && c->key[i]; i++) {
        const proto_field *f = proto_config_find(c->key[i]);
        proto_config_show(c->config, f, value, sizeof value);
        snprintf(doc, sizeof doc, "%s (default: %s)", f->doc, *value ? value : "none");
        print_option(f->key, "VALUE", doc);
    }
    print_option("help", NULL, "this text");
    puts("\nExit codes: 0 done, 1 failure, 2 usage, 3 refused (damaged, mismatched, not served, out of range),\n"
         "4 no server or not ready, 130 interrupted.");
}

int daemon_options_complain(const daemon_command *c, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "phalanx %s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nphalanx %s --help tells more\n", c->name);
    return DAEMON_EXIT_USAGE;
}

static int unknown(const daemon_command *c, const char *name)
{
    const char *words[80];
    size_t n = 0;

    for (size_t i = 0; i < c->n_options && n < 60; i++) words[n++] = c->option[i].name;
    for (size_t i = 0; c->config && c->key[i] && n < 80; i++) words[n++] = c->key[i];
    const char *near = px_nearest(name, words, n);
    if (near) return daemon_options_complain(c, "--%s is no option; the nearest is --%s", name, near);
    return daemon_options_complain(c, "--%s is no option", name);
}

/* ---- values ---- */

bool daemon_parse_u64(const char *s, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (!*s) return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return false;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v)) return false;
    }
    if (v > max) return false;
    *out = v;
    return true;
}

static bool parse_double(const char *s, double *out)
{
    char *end;

    if (!*s || strspn(s, "+-.0123456789eE") != strlen(s)) return false;      /* no nan, inf, hex, white space */
    *out = strtod(s, &end);
    return !*end && isfinite(*out);
}

bool daemon_parse_f32(const char *s, float *out)
{
    double v;

    if (!parse_double(s, &v)) return false;
    *out = (float)v;
    return isfinite(*out);
}

static int bad(const daemon_command *c, const daemon_option *o, const char *value, const char *want)
{
    return daemon_options_complain(c, "--%s: \"%.200s\" is no %s", o->name, value, want);
}

static int store(const daemon_command *c, const daemon_option *o, const char *value)
{
    uint64_t u;
    double d;
    char host[256];
    uint16_t port;
    px_err e = {0};

    switch (o->kind) {
    case DAEMON_OPT_FLAG:
        *(bool *)o->to = true;
        break;
    case DAEMON_OPT_TEXT:
        *(const char **)o->to = value;
        break;
    case DAEMON_OPT_U32:
        if (!daemon_parse_u64(value, UINT32_MAX, &u)) return bad(c, o, value, "whole number from 0 to 4294967295");
        *(uint32_t *)o->to = (uint32_t)u;
        break;
    case DAEMON_OPT_U64:
        if (!daemon_parse_u64(value, UINT64_MAX, &u)) return bad(c, o, value, "whole number from 0 to 18446744073709551615");
        *(uint64_t *)o->to = u;
        break;
    case DAEMON_OPT_I32:
        if (!daemon_parse_u64(value + (*value == '-'), INT32_MAX, &u))
            return bad(c, o, value, "whole number from -2147483647 to 2147483647");
        *(int32_t *)o->to = *value == '-' ? -(int32_t)u : (int32_t)u;
        break;
    case DAEMON_OPT_F32:
        if (!daemon_parse_f32(value, o->to)) return bad(c, o, value, "finite number");
        break;
    case DAEMON_OPT_SECONDS:
        if (!parse_double(value, &d) || d <= 0 || d > 1e9) return bad(c, o, value, "number of seconds, more than 0");
        *(int64_t *)o->to = (int64_t)(d * 1e6);
        break;
    case DAEMON_OPT_ADDRESS:
        if (proto_split_address(value, host, sizeof host, &port, &e) || !port)
            return bad(c, o, value, "address HOST:PORT or [V6]:PORT");
        *(const char **)o->to = value;
        break;
    case DAEMON_OPT_TEXTS: {
        daemon_texts *t = o->to;
        if (t->n == DAEMON_MAX_TEXTS) return daemon_options_complain(c, "--%s comes more than %u times", o->name, DAEMON_MAX_TEXTS);
        t->v[t->n++] = value;
        break;
    }
    }
    if (o->given) *o->given = true;
    return -1;
}

/* ---- the walk ---- */

static const daemon_option *find_option(const daemon_command *c, const char *name)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (!strcmp(c->option[i].name, name)) return &c->option[i];
    return NULL;
}

static bool is_key(const daemon_command *c, const char *name)
{
    for (size_t i = 0; c->config && c->key[i]; i++)
        if (!strcmp(c->key[i], name)) return true;
    return false;
}

static int take(const daemon_command *c, const char *name, const char *inline_value, int *i, int argc, char **argv)
{
    const daemon_option *o = find_option(c, name);
    const char *value = inline_value;
    px_err e = {0};
    char line[1024];

    if (!o && !is_key(c, name)) return unknown(c, name);
    if (o && o->kind == DAEMON_OPT_FLAG) {
        if (value) return daemon_options_complain(c, "--%s takes no value", name);
    } else if (!value) {
        if (*i + 1 >= argc) return daemon_options_complain(c, "--%s needs a value", name);
        value = argv[++*i];
    }
    if (o) return store(c, o, value);
    if (proto_config_set(c->config, name, value, &e))
        return daemon_options_complain(c, "%s", px_err_format(&e, line, sizeof line));
    return -1;
}

int daemon_options_parse(daemon_command *c, int argc, char **argv)
{
    bool ended = false;
    int rc;

    c->n_args = 0;
    for (int i = 1; i < argc; i++) {
        const char *s = argv[i], *equal;
        char name[64];
        if (!ended && !strcmp(s, "--")) {
            ended = true;
        } else if (!ended && (!strcmp(s, "--help") || !strcmp(s, "-h"))) {
            return help(c), DAEMON_EXIT_OK;
        } else if (!ended && !strncmp(s, "--", 2)) {
            size_t n = (equal = strchr(s, '=')) ? (size_t)(equal - s - 2) : strlen(s) - 2;
            if (n >= sizeof name) return daemon_options_complain(c, "%.200s is no option", s);
            memcpy(name, s + 2, n);
            name[n] = 0;
            if ((rc = take(c, name, equal ? equal + 1 : NULL, &i, argc, argv)) >= 0) return rc;
        } else if (!ended && s[0] == '-' && s[1]) {
            return daemon_options_complain(c, "%.200s is no option", s);
        } else if (c->n_args == c->most) {
            return daemon_options_complain(c, "\"%.200s\" is one argument too many", s);
        } else {
            c->arg[c->n_args++] = s;
        }
    }
    if (c->n_args < c->least) return daemon_options_complain(c, "usage: phalanx %s %s", c->name, c->line);
    return -1;
}
