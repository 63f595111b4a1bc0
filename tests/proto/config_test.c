#include "tests/testlib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/config/config.h"

#define CAP 32

typedef struct result { proto_config c; px_err errs[CAP]; size_t n; px_code rc; } result;

static px_heap heap;

static result parse_n(const char *text, size_t bytes)
{
    result r = {0};
    proto_config_init(&r.c);
    r.rc = proto_config_parse(&r.c, &heap.a, "x.yaml", text, bytes, r.errs, CAP, &r.n);
    assert_true((r.rc == PX_OK) == (r.n == 0));
    if (r.n) assert_int_equal(r.errs[0].code, r.rc);
    assert_int_equal(heap.count.live, 0);
    return r;
}

static result parse(const char *text) { return parse_n(text, strlen(text)); }

static void is_default(const proto_config *c)
{
    proto_config d;
    proto_config_init(&d);
    assert_memory_equal(c, &d, sizeof d);
}

/* ---- the table ---- */

static void defaults_are_the_documented_ones(void **state)
{
    proto_config c;
    (void)state;
    memset(&c, 0xEE, sizeof c);
    proto_config_init(&c);
    assert_string_equal(c.set, "");
    assert_string_equal(c.listen, "127.0.0.1:50051");
    assert_false(c.insecure);
    assert_int_equal(c.ranks, 0);
    assert_int_equal(c.threads, 0);
    assert_int_equal(c.transport, PROTO_TRANSPORT_AUTO);
    assert_int_equal(c.cpu, PROTO_CPU_AUTO);
    assert_int_equal(c.kv_dtype, PROTO_KV_F16);
    assert_int_equal(c.kv_tokens, 16384);
    assert_int_equal(c.kv_block, 16);
    assert_int_equal(c.max_sequences, 64);
    assert_int_equal(c.token_budget, 256);
    assert_int_equal(c.queue, 256);
    assert_int_equal(c.default_max_new_tokens, 512);
    assert_int_equal(c.restart_max, 3);
    assert_int_equal(c.restart_window_s, 60);
    assert_int_equal(c.grace_s, 5);
    assert_int_equal(c.coldstart_s, 0);
    assert_int_equal(c.step_s, 60);
    assert_string_equal(c.log_level, "info");
    assert_string_equal(c.chat_template, "");
    assert_string_equal(c.verify, "auto");
}

static void every_field_is_whole_and_shows_what_it_takes(void **state)
{
    static uint8_t used[sizeof(proto_config)];
    char buf[1100];
    px_err e = {0};
    (void)state;
    assert_in_range(proto_n_fields, 20, 64);            /* yaml.c has 64 marks */
    memset(used, 0, sizeof used);
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        proto_config c;
        assert_ptr_equal(proto_config_find(f->key), f);
        assert_true(strlen(f->doc) > 5 && !strchr(f->doc, '\n') && !strchr(f->doc, '|'));
        assert_true(f->offset + f->bytes <= sizeof c);
        for (size_t k = 0; k < f->bytes; k++) assert_int_equal(used[f->offset + k]++, 0);     /* no overlap */

        proto_config_init(&c);
        assert_string_equal(proto_config_show(&c, f, buf, sizeof buf), f->fallback);
        assert_int_equal(proto_config_set(&c, f->key, f->fallback, &e), PX_OK);
        is_default(&c);
        for (size_t w = 0; f->words && f->words[w]; w++) {
            assert_int_equal(proto_config_set(&c, f->key, f->words[w], &e), PX_OK);
            assert_string_equal(proto_config_show(&c, f, buf, sizeof buf), f->words[w]);
        }
        if (f->type == PROTO_UINT && !f->only) {
            uint64_t ends[2] = { f->min, f->max };
            for (int k = 0; k < 2; k++) {
                char text[32];
                snprintf(text, sizeof text, "%llu", (unsigned long long)ends[k]);
                assert_int_equal(proto_config_set(&c, f->key, text, &e), PX_OK);
                assert_string_equal(proto_config_show(&c, f, buf, sizeof buf), text);
                if (k == 0 && !f->min) continue;
                snprintf(text, sizeof text, "%llu", (unsigned long long)(k ? f->max + 1 : f->min - 1));
                px_err out = {0};
                assert_int_equal(proto_config_set(&c, f->key, text, &out), PX_ERANGE);
                assert_string_equal(out.field, f->key);
                assert_string_equal(out.found, text);
                assert_true(out.expected[0] != '\0');
                assert_true(out.file[0] == '-' && out.file[1] == '-' && !strcmp(out.file + 2, f->key));
            }
        }
    }
    assert_null(proto_config_find("kv"));
    assert_null(proto_config_find(""));
    assert_int_equal(proto_config_find("kv.dtype")->scope, PROTO_GLOBAL);
    assert_int_equal(proto_config_find("set")->scope, PROTO_HOST);
}

static void a_broken_enumeration_is_shown_as_such(void **state)
{
    proto_config c;
    char buf[16];
    (void)state;
    proto_config_init(&c);
    c.cpu = (proto_cpu)77;
    assert_string_equal(proto_config_show(&c, proto_config_find("cpu"), buf, sizeof buf), "?");
}

/* ---- good files ---- */

static const char full_text[] =
    "# a deployment\n"
    "set: /srv/sets/a set\n"
    "listen: '[::1]:0'\n"
    "insecure: true\n"
    "ranks: 4\n"
    "threads: 2\n"
    "transport: \"mpi\"\n"
    "cpu: scalar\n"
    "kv:\n"
    "  dtype: f32\n"
    "  tokens: 1073741824\n"
    "kv.block: 128\n"
    "max_sequences: 1\n"
    "token_budget: 65536\n"
    "queue: 0\n"
    "default_max_new_tokens: 7\n"
    "restart: {max: 0, window_s: 86400}\n"
    "grace_s: 0\n"
    "coldstart_s: 30\n"
    "step_s: 1\n"
    "log.level: debug\n"
    "chat_template: chatml\n"
    "verify: full\n";

static void a_full_file_is_taken(void **state)
{
    result r = parse(full_text);
    const proto_config *c = &r.c;
    (void)state;
    if (r.n) print_error("%s %s\n", r.errs[0].file, r.errs[0].text);
    assert_int_equal(r.rc, PX_OK);
    assert_string_equal(c->set, "/srv/sets/a set");
    assert_string_equal(c->listen, "[::1]:0");
    assert_true(c->insecure);
    assert_int_equal(c->ranks, 4);
    assert_int_equal(c->threads, 2);
    assert_int_equal(c->transport, PROTO_TRANSPORT_MPI);
    assert_int_equal(c->cpu, PROTO_CPU_SCALAR);
    assert_int_equal(c->kv_dtype, PROTO_KV_F32);
    assert_true(c->kv_tokens == 1073741824u);
    assert_int_equal(c->kv_block, 128);
    assert_int_equal(c->max_sequences, 1);
    assert_int_equal(c->token_budget, 65536);
    assert_int_equal(c->queue, 0);
    assert_int_equal(c->default_max_new_tokens, 7);
    assert_int_equal(c->restart_max, 0);
    assert_int_equal(c->restart_window_s, 86400);
    assert_int_equal(c->grace_s, 0);
    assert_int_equal(c->coldstart_s, 30);
    assert_int_equal(c->step_s, 1);
    assert_string_equal(c->log_level, "debug");
    assert_string_equal(c->chat_template, "chatml");
    assert_string_equal(c->verify, "full");
    assert_int_equal(proto_config_check(c, NULL), PX_OK);
}

static void empty_files_are_all_defaults(void **state)
{
    static const char *const texts[] = { "", "# nothing\n", "---\n", "---\n...\n", "{}\n", "%YAML 1.1\n---\n{}\n",
                                         "kv: {}\n", "plan: {}\n", "plan: {ranks: 4, class: [a, b], x: {y: z}}\n", "\xef\xbb\xbf# a mark at the start\n", "\r\n\r\n" };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        result r = parse(texts[i]);
        if (r.rc) print_error("%zu: %s\n", i, r.errs[0].text);
        assert_int_equal(r.rc, PX_OK);
        is_default(&r.c);
    }
    result r = parse("chat_template: \"\"\nset: ''\n");          /* an empty text where the default is one */
    assert_int_equal(r.rc, PX_OK);
    is_default(&r.c);
}

/* ---- bad files: one error each, at its place ---- */

typedef struct bad { const char *text; px_code code; const char *file, *field, *found, *in_text; } bad;

static const bad table[] = {
    /* unknown keys name the nearest */
    { "rankz: 2\n", PX_ENOTFOUND, "x.yaml:1:1", "rankz", "", "the nearest is ranks" },
    { "ranks: 2\ntrasnport: shm\n", PX_ENOTFOUND, "x.yaml:2:1", "trasnport", "", "the nearest is transport" },
    { "kv:\n  dtypo: f16\n", PX_ENOTFOUND, "x.yaml:2:3", "kv.dtypo", "", "the nearest is kv.dtype" },
    { "kv.token: 3\n", PX_ENOTFOUND, "x.yaml:1:1", "kv.token", "", "the nearest is kv.tokens" },
    { "tokens: 3\n", PX_ENOTFOUND, "x.yaml:1:1", "tokens", "", "the nearest is kv.tokens" },
    { "zzzzzzzzz: 3\n", PX_ENOTFOUND, "x.yaml:1:1", "zzzzzzzzz", "", "no key is near" },
    { "ranks.x: 3\n", PX_ENOTFOUND, "x.yaml:1:1", "ranks.x", "", "the nearest is ranks" },
    { "kv: {a: {b: [1, 2, {c: d}]}}\n", PX_ENOTFOUND, "x.yaml:1:6", "kv.a", "", NULL },
    { "Ranks: 3\n", PX_ENOTFOUND, "x.yaml:1:1", "Ranks", "", "the nearest is ranks" },
    { "<<: {ranks: 3}\n", PX_ENOTFOUND, "x.yaml:1:1", "<<", "", NULL },
    /* wrong type */
    { "ranks: two\n", PX_EINVAL, "x.yaml:1:8", "ranks", "two", "not a whole number" },
    { "ranks: '2'\n", PX_EINVAL, "x.yaml:1:8", "ranks", "2", "without quotes" },
    { "ranks: 0x10\n", PX_EINVAL, "x.yaml:1:8", "ranks", "0x10", NULL },
    { "ranks: 010\n", PX_EINVAL, "x.yaml:1:8", "ranks", "010", "leading zero" },
    { "ranks: 2.0\n", PX_EINVAL, "x.yaml:1:8", "ranks", "2.0", NULL },
    { "ranks: 2e1\n", PX_EINVAL, "x.yaml:1:8", "ranks", "2e1", NULL },
    { "ranks: -1\n", PX_EINVAL, "x.yaml:1:8", "ranks", "-1", NULL },
    { "ranks: +1\n", PX_EINVAL, "x.yaml:1:8", "ranks", "+1", NULL },
    { "ranks: 1_0\n", PX_EINVAL, "x.yaml:1:8", "ranks", "1_0", NULL },
    { "ranks: true\n", PX_EINVAL, "x.yaml:1:8", "ranks", "true", NULL },
    { "ranks: [2]\n", PX_EINVAL, "x.yaml:1:8", "ranks", "a list", "of another type" },
    { "ranks: {a: 2}\n", PX_EINVAL, "x.yaml:1:8", "ranks", "a map", "of another type" },
    { "insecure: yes\n", PX_EINVAL, "x.yaml:1:11", "insecure", "yes", NULL },
    { "insecure: True\n", PX_EINVAL, "x.yaml:1:11", "insecure", "True", NULL },
    { "insecure: 'true'\n", PX_EINVAL, "x.yaml:1:11", "insecure", "true", NULL },
    { "insecure: 1\n", PX_EINVAL, "x.yaml:1:11", "insecure", "1", NULL },
    { "set: 12\n", PX_EINVAL, "x.yaml:1:6", "set", "12", "quote it" },
    { "set: true\n", PX_EINVAL, "x.yaml:1:6", "set", "true", "quote it" },
    { "set: \"a\\nb\"\n", PX_EINVAL, "x.yaml:1:6", "set", "a?b", "control character" },
    { "set: \"a\\0b\"\n", PX_EINVAL, "x.yaml:1:6", "set", "a", "control character" },
    { "kv: 3\n", PX_EINVAL, "x.yaml:1:5", "kv", "a value", "of another type" },
    { "plan: 3\n", PX_EINVAL, "x.yaml:1:7", "plan", "a value", "of another type" },
    { "plan: [a]\n", PX_EINVAL, "x.yaml:1:7", "plan", "a list", "of another type" },
    { "kv: {plan: {a: b}}\n", PX_ENOTFOUND, "x.yaml:1:6", "kv.plan", "", NULL },
    { "kv: [dtype, f16]\n", PX_EINVAL, "x.yaml:1:5", "kv", "a list", NULL },
    { "- ranks\n", PX_EINVAL, "x.yaml:1:1", "document", "a list", "of another type" },
    { "ranks\n", PX_EINVAL, "x.yaml:1:1", "document", "a value", NULL },
    { "? [a, b]\n: 2\n", PX_EINVAL, "x.yaml:1:3", "document", "a list", "a key is a word" },
    { "kv: {? {a: b} : 2}\n", PX_EINVAL, "x.yaml:1:8", "kv", "a map", "a key is a word" },
    /* empty */
    { "ranks:\n", PX_EINVAL, "x.yaml:1:7", "ranks", "nothing", "empty" },
    { "set: ~\n", PX_EINVAL, "x.yaml:1:6", "set", "~", "empty" },
    { "set: null\n", PX_EINVAL, "x.yaml:1:6", "set", "null", "empty" },
    { "cpu: Null\n", PX_EINVAL, "x.yaml:1:6", "cpu", "Null", "empty" },
    { "listen: ''\n", PX_EINVAL, "x.yaml:1:9", "listen", "nothing", "empty" },
    { "kv:\n", PX_EINVAL, "x.yaml:1:4", "kv", "a value", NULL },
    { "'': 2\n", PX_EINVAL, "x.yaml:1:1", "document", "", "empty key" },
    /* out of range */
    { "ranks: 1025\n", PX_ERANGE, "x.yaml:1:8", "ranks", "1025", "out of range" },
    { "ranks: 99999999999999999999999999999999\n", PX_ERANGE, "x.yaml:1:8", "ranks", NULL, "out of range" },
    { "ranks: 18446744073709551618\n", PX_ERANGE, "x.yaml:1:8", "ranks", NULL, "out of range" },
    { "ranks: 4294967298\n", PX_ERANGE, "x.yaml:1:8", "ranks", NULL, "out of range" },
    { "kv.tokens: 0\n", PX_ERANGE, "x.yaml:1:12", "kv.tokens", "0", "out of range" },
    { "kv.tokens: 1073741825\n", PX_ERANGE, "x.yaml:1:12", "kv.tokens", "1073741825", NULL },
    { "kv.block: 48\n", PX_ERANGE, "x.yaml:1:11", "kv.block", "48", "out of range" },
    { "kv: {\n  block: 0 }\n", PX_ERANGE, "x.yaml:2:10", "kv.block", "0", "out of range" },
    { "transport: tcp\n", PX_ERANGE, "x.yaml:1:12", "transport", "tcp", "not a known word" },
    { "transport: SHM\n", PX_ERANGE, "x.yaml:1:12", "transport", "SHM", "not a known word" },
    { "log: {level: loud}\n", PX_ERANGE, "x.yaml:1:14", "log.level", "loud", "not a known word" },
    /* twice */
    { "ranks: 2\nranks: 2\n", PX_EEXIST, "x.yaml:2:1", "ranks", "", "twice" },
    { "kv.dtype: f16\nkv: {dtype: f32}\n", PX_EEXIST, "x.yaml:2:6", "kv.dtype", "", "twice" },
    { "plan: {a: b}\nplan: {c: d}\n", PX_EEXIST, "x.yaml:2:1", "plan", "", "twice" },
    { "kv: {dtype: f16}\nkv: {block: 16}\n", PX_EEXIST, "x.yaml:2:1", "kv", "", "twice" },
    /* what means another thing than it shows */
    { "ranks: &a 2\n", PX_EINVAL, "x.yaml:1:8", "ranks", "a", "an anchor" },
    { "plan: {a: [b, &c d]}\n", PX_EINVAL, "x.yaml:1:15", "plan", "c", "an anchor" },
    { "&a ranks: 2\n", PX_EINVAL, "x.yaml:1:1", "document", "a", "an anchor" },
    { "ranks: !!int 2\n", PX_EINVAL, "x.yaml:1:8", "ranks", "tag:yaml.org,2002:int", "a tag" },
    { "kv: !x {dtype: f16}\n", PX_EINVAL, "x.yaml:1:5", "kv", "!x", "a tag" },
    { "ranks: *a\n", PX_EINVAL, "x.yaml:1:8", "ranks", "a", "an alias" },
    { "*a : 2\n", PX_EINVAL, "x.yaml:1:1", "document", "a", "an alias" },
    { "%TAG !e! tag:example.com,2000:\n---\nranks: 2\n", PX_EINVAL, "x.yaml:1:1", "document", "%TAG", "a tag directive" },
    { "ranks: 2\n---\nthreads: 2\n", PX_EINVAL, "x.yaml:2:1", "document", "a second document", NULL },
    /* no YAML */
    { "ranks: [2\n", PX_EINVAL, NULL, "ranks", "a list", NULL },
    { "\tranks: 2\n", PX_EINVAL, "x.yaml:1:1", "document", "", "not YAML" },
    { "ranks: 2\n threads: 3\n", PX_EINVAL, "x.yaml:1:8", "ranks", "2 threads", "not a whole number" },
    { "set: \"open\n", PX_EINVAL, NULL, "set", NULL, "not YAML" },
    { "set: \xff\xfe\n", PX_EINVAL, NULL, NULL, NULL, "not YAML" },
    { "set: \x01\n", PX_EINVAL, NULL, NULL, NULL, "not YAML" },
    { "}\n", PX_EINVAL, "x.yaml:1:1", "document", "", "not YAML" },
};

static void every_mistake_is_named_at_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const bad *b = &table[i];
        result r = parse(b->text);
        const px_err *e = &r.errs[0];
        char line[1024];
        if (r.rc != b->code || (b->file && strcmp(e->file, b->file)) || (b->field && strcmp(e->field, b->field)) ||
            (b->found && strcmp(e->found, b->found)) || (b->in_text && !strstr(e->text, b->in_text)))
            print_error("%zu: %s-> %zu errors, %s %s\n", i, b->text, r.n, px_code_name(r.rc),
                        px_err_format(e, line, sizeof line));
        assert_int_equal(r.rc, b->code);
        assert_memory_equal(e->file, "x.yaml:", 7);
        assert_true(e->field[0] != '\0');
        if (b->file) assert_string_equal(e->file, b->file);
        if (b->field) assert_string_equal(e->field, b->field);
        if (b->found) assert_string_equal(e->found, b->found);
        if (b->in_text) assert_non_null(strstr(e->text, b->in_text));
        /* A mistake is one error, unless it breaks what follows, too. */
        bool two = strstr(b->text, "[2\n") || strstr(b->text, "\n threads") || !strncmp(b->text, "*a ", 3);
        assert_int_equal(r.n, two ? 2 : 1);
    }
}

static void all_mistakes_of_a_file_are_listed(void **state)
{
    const char *text = "rankz: 1\nkv: {dtype: f8, tokenz: 1, tokens: 5}\nqueue: many\ngrace_s: 7\nqueue: 1\n";
    static const char *const field[] = { "rankz", "kv.dtype", "kv.tokenz", "queue", "queue" };
    static const char *const file[] = { "x.yaml:1:1", "x.yaml:2:13", "x.yaml:2:17", "x.yaml:3:8", "x.yaml:5:1" };
    px_err few[2];
    size_t n = 99;
    proto_config c;
    (void)state;
    result r = parse(text);
    assert_int_equal(r.rc, PX_ENOTFOUND);
    assert_int_equal(r.n, 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(r.errs[i].field, field[i]);
        assert_string_equal(r.errs[i].file, file[i]);
    }
    assert_int_equal(r.c.kv_tokens, 5);
    assert_int_equal(r.c.grace_s, 7);

    /* Fewer places than mistakes; none at all. */
    proto_config_init(&c);
    assert_int_equal(proto_config_parse(&c, &heap.a, "y", text, strlen(text), few, 2, &n), PX_ENOTFOUND);
    assert_int_equal(n, 2);
    assert_int_equal(proto_config_parse(&c, &heap.a, "y", text, strlen(text), NULL, 0, &n), PX_ENOTFOUND);
    assert_int_equal(n, 0);
    assert_int_equal(proto_config_parse(&c, &heap.a, "y", text, strlen(text), NULL, 0, NULL), PX_ENOTFOUND);
}

static void long_names_keep_their_end_and_place(void **state)
{
    char name[600];
    px_err e = {0};
    size_t n = 0;
    proto_config c;
    (void)state;
    memset(name, 'd', sizeof name);
    memcpy(name + sizeof name - 8, "/a.yaml", 8);
    proto_config_init(&c);
    assert_int_equal(proto_config_parse(&c, &heap.a, name, "x: 1", 4, &e, 1, &n), PX_ENOTFOUND);
    assert_memory_equal(e.file, "...", 3);
    assert_string_equal(e.file + strlen(e.file) - 11, "/a.yaml:1:1");
}

static void sizes_and_depths_are_bounded(void **state)
{
    size_t n = (1 << 20) + 1;
    char *text = malloc(n);
    (void)state;
    memset(text, '#', n);
    result r = parse_n(text, n);
    assert_int_equal(r.rc, PX_ERANGE);
    assert_string_equal(r.errs[0].field, "document");
    r = parse_n(text, n - 1);
    assert_int_equal(r.rc, PX_OK);

    /* A thousand brackets: 16 are enough to refuse it. */
    memset(text, '[', n);
    memcpy(text, "x: ", 3);
    r = parse_n(text, n - 1);
    assert_int_equal(r.rc, PX_ENOTFOUND);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.errs[1].code, PX_ERANGE);
    assert_non_null(strstr(r.errs[1].text, "too deep"));

    /* A long key, a long value, a value as long as it may be. */
    memset(text, 'k', n);
    memcpy(text + 200, ": 1\n", 4);
    r = parse_n(text, 204);
    assert_int_equal(r.rc, PX_ENOTFOUND);
    assert_string_equal(r.errs[0].field, "document");
    memset(text, 'v', n);
    memcpy(text, "set: ", 5);
    r = parse_n(text, 5 + 1024);
    assert_int_equal(r.rc, PX_ERANGE);
    assert_string_equal(r.errs[0].field, "set");
    r = parse_n(text, 5 + 1023);
    assert_int_equal(r.rc, PX_OK);
    assert_int_equal(strlen(r.c.set), 1023);
    free(text);
}

static void laughs_are_refused_at_the_first(void **state)
{
    (void)state;
    result r = parse("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n");
    assert_int_equal(r.n, CAP < 22 ? CAP : 22);         /* 3 anchors, 3 unknown keys, 16 aliases; none is followed */
    assert_non_null(strstr(r.errs[0].text, "an anchor"));
}

/* ---- files, flags ---- */

static void files_are_read(void **state)
{
    char path[512];
    proto_config c;
    px_err errs[4] = {0};
    size_t n = 9;
    (void)state;
    snprintf(path, sizeof path, "%s/good.yaml", test_tmpdir());
    assert_int_equal(px_write_file(path, full_text, strlen(full_text), false, NULL), PX_OK);
    proto_config_init(&c);
    assert_int_equal(proto_config_read(&c, &heap.a, path, errs, 4, &n), PX_OK);
    assert_int_equal(n, 0);
    assert_int_equal(c.ranks, 4);

    assert_int_equal(px_write_file(path, "set: a\nrank: 2\n", 15, false, NULL), PX_OK);
    assert_int_equal(proto_config_read(&c, &heap.a, path, errs, 4, &n), PX_ENOTFOUND);
    assert_int_equal(n, 1);
    char place[600];
    snprintf(place, sizeof place, "%s:2:1", path);
    assert_string_equal(errs[0].file, place);

    memset(errs, 0, sizeof errs);
    assert_int_equal(proto_config_read(&c, &heap.a, "/nowhere/x.yaml", errs, 4, &n), PX_ENOTFOUND);
    assert_int_equal(n, 1);
    assert_string_equal(errs[0].file, "/nowhere/x.yaml");
    assert_string_equal(errs[0].field, "document");
    assert_int_equal(proto_config_read(&c, &heap.a, "/nowhere/x.yaml", NULL, 0, NULL), PX_ENOTFOUND);

    char *big = calloc(1, (1 << 20) + 1);
    assert_int_equal(px_write_file(path, big, (1 << 20) + 1, false, NULL), PX_OK);
    free(big);
    memset(errs, 0, sizeof errs);
    assert_int_equal(proto_config_read(&c, &heap.a, path, errs, 4, &n), PX_ERANGE);
    assert_string_equal(errs[0].file, path);
    assert_int_equal(heap.count.live, 0);
}

static void flags_are_set(void **state)
{
    static const struct { const char *key, *value; px_code code; const char *in_text; } rows[] = {
        { "ranks", "", PX_EINVAL, "empty" },
        { "ranks", "x", PX_EINVAL, "whole number" },
        { "ranks", "1025", PX_ERANGE, "out of range" },
        { "rank", "2", PX_ENOTFOUND, "the nearest is ranks" },
        { "insecure", "yes", PX_EINVAL, "true or false" },
        { "cpu", "sse", PX_ERANGE, "not a known word" },
        { "set", "a\nb", PX_EINVAL, "control" },
        { "set", "\xff", PX_EINVAL, "UTF-8" },
        { "listen", "", PX_EINVAL, "empty" },
        { "kv", "1", PX_ENOTFOUND, NULL },
    };
    proto_config c, before;
    px_err e = {0};
    (void)state;
    proto_config_init(&c);
    assert_int_equal(proto_config_set(&c, "kv.dtype", "f32", &e), PX_OK);
    assert_int_equal(c.kv_dtype, PROTO_KV_F32);
    assert_int_equal(proto_config_set(&c, "set", "12", &e), PX_OK);     /* a flag's text is a text */
    assert_string_equal(c.set, "12");
    assert_int_equal(proto_config_set(&c, "set", "null", &e), PX_OK);
    assert_int_equal(proto_config_set(&c, "set", "a longer one", &e), PX_OK);
    assert_int_equal(proto_config_set(&c, "set", "b", &e), PX_OK);
    assert_int_equal(proto_config_set(&c, "set", "", &e), PX_OK);
    assert_int_equal(proto_config_set(&c, "kv.dtype", "f16", &e), PX_OK);
    is_default(&c);                                                     /* also the bytes behind a text's end */
    before = c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char flag[64];
        px_err_clear(&e);
        assert_int_equal(proto_config_set(&c, rows[i].key, rows[i].value, &e), rows[i].code);
        assert_string_equal(e.field, rows[i].key);
        snprintf(flag, sizeof flag, "--%s", rows[i].key);
        assert_string_equal(e.file, flag);
        if (rows[i].in_text) assert_non_null(strstr(e.text, rows[i].in_text));
        assert_memory_equal(&c, &before, sizeof c);
    }
}

/* ---- addresses ---- */

static void addresses_are_split(void **state)
{
    static const struct { const char *s, *host; int port; } good[] = {
        { "127.0.0.1:50051", "127.0.0.1", 50051 }, { "[::1]:0", "::1", 0 }, { "localhost:65535", "localhost", 65535 },
        { "gpu-07.cluster_a:1", "gpu-07.cluster_a", 1 }, { "[fe80::1]:80", "fe80::1", 80 },
    };
    static const char *const bad_ones[] = {
        "", ":", "127.0.0.1", "127.0.0.1:", ":50051", "::1:80", "[::1]", "[::1]80", "[::1:80", "[]:80", "[localhost]:80",
        "[127.0.0.1]:80", "a:65536", "a:-1", "a:+1", "a:0x10", "a:1 ", "a b:1", "a/b:1", "unix:/run/x", "a:123456", "a\n:1",
        "a:1:2", "[::1%lo]:1", "dns:///a:1",
    };
    char host[32];
    uint16_t port;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        px_err e = {0};
        assert_int_equal(proto_split_address(good[i].s, host, sizeof host, &port, &e), PX_OK);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad_ones / sizeof *bad_ones; i++) {
        px_err e = {0};
        assert_int_equal(proto_split_address(bad_ones[i], host, sizeof host, &port, &e), PX_EINVAL);
        assert_string_equal(e.field, "listen");
        assert_string_equal(e.expected, "HOST:PORT or [V6]:PORT");
        assert_string_equal(host, "");
    }
    px_err e = {0};
    assert_int_equal(proto_split_address("a-host-that-is-too-long-for-the-buffer:1", host, sizeof host, &port, &e),
                     PX_EINVAL);
    assert_int_equal(proto_split_address("abc:1", host, 3, &port, NULL), PX_EINVAL);
    assert_int_equal(proto_split_address("abc:1", host, 4, &port, NULL), PX_OK);
}

static void only_loopback_is_served_without_keys(void **state)
{
    static const struct { const char *listen; bool loopback; } rows[] = {
        { "127.0.0.1:1", true }, { "127.255.3.4:1", true }, { "[::1]:1", true }, { "localhost:1", true },
        { "LOCALHOST:1", true }, { "0.0.0.0:1", false }, { "[::]:1", false }, { "10.0.0.1:1", false }, { "128.0.0.1:1", false },
        { "gpu07:1", false }, { "localhost.evil.com:1", false }, { "127.0.0.1.evil.com:1", false },
        { "[::ffff:127.0.0.1]:1", false }, { "127.1:1", false }, { "126.255.255.255:1", false },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        proto_config c;
        px_err e = {0};
        proto_config_init(&c);
        snprintf(c.set, sizeof c.set, "a");
        snprintf(c.listen, sizeof c.listen, "%s", rows[i].listen);
        assert_int_equal(proto_config_check(&c, &e), rows[i].loopback ? PX_OK : PX_EINVAL);
        if (!rows[i].loopback) {
            assert_string_equal(e.field, "listen");
            assert_string_equal(e.found, rows[i].listen);
            assert_non_null(strstr(e.text, "insecure: true"));
        }
        c.insecure = true;
        assert_int_equal(proto_config_check(&c, NULL), PX_OK);
    }
    proto_config c;
    px_err e = {0};
    proto_config_init(&c);
    assert_int_equal(proto_config_check(&c, &e), PX_EINVAL);
    assert_string_equal(e.field, "set");
    snprintf(c.set, sizeof c.set, "a");
    snprintf(c.listen, sizeof c.listen, "nowhere");
    px_err_clear(&e);
    assert_int_equal(proto_config_check(&c, &e), PX_EINVAL);
    assert_string_equal(e.field, "listen");
}

/* Each key is good, together they mean nothing. */
static void keys_that_exclude_each_other(void **state)
{
    static const struct { const char *text, *field; } rows[] = {
        { "set: a\nkv.dtype: int8_th\n", "kv.dtype" }, { "set: a\nkv.dtype: bf16\ndevice: cpu\n", "kv.dtype" },
        { "set: a\nkv.dtype: fp8\ndevice: cuda\n", NULL }, { "set: a\nkv.dtype: f32\n", NULL },
        { "set: a\ndevice: cuda\ndeterministic: true\nreduce: nccl\n", "reduce" },
        { "set: a\ndevice: cuda\ndeterministic: true\nreduce: ordered\n", NULL },
        { "set: a\ndeterministic: true\nreduce: nccl\n", NULL },
        { "set: a\nfp8_activations: true\n", "fp8_activations" }, { "set: a\nfp8_activations: true\ndevice: cpu\n", "fp8_activations" },
        { "set: a\nfp8_activations: true\ndevice: cuda\ndeterministic: true\n", "fp8_activations" },
        { "set: a\nfp8_activations: true\ndevice: cuda\n", NULL }, { "set: a\nfp8_activations: false\ndeterministic: true\n", NULL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = parse(rows[i].text);
        px_err e = {0};
        assert_int_equal(r.rc, PX_OK);
        assert_int_equal(proto_config_check(&r.c, &e) != PX_OK, rows[i].field != NULL);
        if (rows[i].field) assert_string_equal(e.field, rows[i].field);
    }
}

/* ---- noise ---- */

static void no_mutation_breaks_it(void **state)
{
    static const char *const pieces[] = { "&a ", "*a", "!!str ", "---\n", "{", "}", "[", "]", ": ", "- ", "? ", "\n", "  ",
                                          "kv:", "\"", "'", "|\n", ">\n", "%YAML 1.1\n", "#", "\xff", "\xc3", "~", "ranks: 3\n" };
    static char text[8192];
    uint64_t seed = 2026;
    size_t n_good = 0, n_bad = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        size_t n = sizeof full_text - 1;
        memcpy(text, full_text, n);
        for (int k = (int)(test_rand(&seed) % 4); k >= 0; k--) {
            size_t at = test_rand(&seed) % (n + 1), len;
            const char *piece;
            switch (test_rand(&seed) % 5) {
            case 0: if (at < n) text[at] ^= (char)(1 << test_rand(&seed) % 8); break;
            case 1: if (at < n) text[at] = (char)test_rand(&seed); break;
            case 2:                                                     /* cut a piece out */
                len = test_rand(&seed) % 20;
                if (len > n - at) len = n - at;
                memmove(text + at, text + at + len, n - at - len);
                n -= len;
                break;
            case 3: n = round % 7 ? n : at; break;                      /* the end is missing */
            default:
                piece = pieces[test_rand(&seed) % (sizeof pieces / sizeof *pieces)];
                len = strlen(piece);
                if (n + len > sizeof text) break;
                memmove(text + at + len, text + at, n - at);
                memcpy(text + at, piece, len);
                n += len;
            }
        }
        char *exact = malloc(n ? n : 1);                                /* a sanitizer sees a read past the end */
        memcpy(exact, text, n);
        result r = parse_n(exact, n);
        free(exact);
        if (r.rc) n_bad++;
        else n_good++;
        for (size_t i = 0; i < r.n; i++) {
            assert_true(r.errs[i].code != PX_OK && r.errs[i].field[0] && r.errs[i].text[0]);
            assert_memory_equal(r.errs[i].file, "x.yaml:", 7);
            assert_true(px_utf8_valid(r.errs[i].text, strlen(r.errs[i].text)));
            assert_true(px_utf8_valid(r.errs[i].field, strlen(r.errs[i].field)));
        }
    }
    assert_true(n_good > 500 && n_bad > 5000);          /* both ends were reached */
}

static px_code parse_and_drop(px_alloc *a, px_err *e)
{
    char path[512];
    proto_config c;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/sweep.yaml", test_tmpdir());
    px_write_file(path, full_text, strlen(full_text), false, NULL);
    proto_config_init(&c);
    return proto_config_read(&c, a, path, e, 1, &n);
}

static void reading_survives_every_oom(void **state) { (void)state; test_oom_sweep(parse_and_drop); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(every_field_is_whole_and_shows_what_it_takes),
        cmocka_unit_test(a_broken_enumeration_is_shown_as_such),
        cmocka_unit_test(a_full_file_is_taken),
        cmocka_unit_test(empty_files_are_all_defaults),
        cmocka_unit_test(every_mistake_is_named_at_its_place),
        cmocka_unit_test(all_mistakes_of_a_file_are_listed),
        cmocka_unit_test(long_names_keep_their_end_and_place),
        cmocka_unit_test(sizes_and_depths_are_bounded),
        cmocka_unit_test(laughs_are_refused_at_the_first),
        cmocka_unit_test(files_are_read),
        cmocka_unit_test(flags_are_set),
        cmocka_unit_test(addresses_are_split),
        cmocka_unit_test(only_loopback_is_served_without_keys),
        cmocka_unit_test(keys_that_exclude_each_other),
        cmocka_unit_test(no_mutation_breaks_it),
        cmocka_unit_test(reading_survives_every_oom),
    };
    px_heap_init(&heap, "config");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
