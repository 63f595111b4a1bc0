/* config_doc_test - configs/ says what the field table says.
 * config_doc_test --table prints the table of configs/README.md, --yaml the keys of configs/cpu-default.yaml: paste
 * them after a change of proto/config/schema.c. */
#include "tests/testlib.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/config/config.h"
#include "proto/config/value.h"

static const char *values_of(const proto_field *f, char *buf, size_t cap)
{
    size_t n = 0;
    buf[0] = '\0';
    if (f->type == PROTO_UINT && !f->only) {
        snprintf(buf, cap, "%" PRIu64 " to %" PRIu64, f->min, f->max);
    } else if (f->type == PROTO_BOOL) {
        snprintf(buf, cap, "true, false");
    } else if (f->words || f->only) {
        proto_field_expects(f, buf, cap);
        n = strlen("one of ");
        memmove(buf, buf + n, strlen(buf) - n + 1);
    } else {
        snprintf(buf, cap, "text, at most %zu bytes", f->bytes - 1);
    }
    return buf;
}

static void make_table(char *out, size_t cap)
{
    char values[256];
    size_t n = (size_t)snprintf(out, cap, "| key | values | default | scope | meaning |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < proto_n_fields && n < cap; i++) {
        const proto_field *f = &proto_fields[i];
        n += (size_t)snprintf(out + n, cap - n, "| `%s` | %s | %s%s%s | %s | %s |\n", f->key,
                              values_of(f, values, sizeof values), f->fallback[0] ? "`" : "", f->fallback,
                              f->fallback[0] ? "`" : "", f->scope == PROTO_GLOBAL ? "global" : "host", f->doc);
    }
    if (n >= cap) out[0] = '\0';
}

static void make_yaml(char *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < proto_n_fields && n < cap; i++) {
        const proto_field *f = &proto_fields[i];
        /* `set` has no default that serves; an address is quoted because of its colon. */
        const char *quote = f->type == PROTO_STRING && !f->words ? "\"" : "";
        n += (size_t)snprintf(out + n, cap - n, "%s# %s\n%s%s: %s%s%s\n", i ? "\n" : "", f->doc,
                              strcmp(f->key, "set") ? "" : "# ", f->key, quote, f->fallback, quote);
    }
    if (n >= cap) out[0] = '\0';
}

static px_heap heap;

static char *slurp(const char *name)
{
    char path[1024];
    char *text = NULL;
    size_t n = 0;
    px_err e = {0};
    snprintf(path, sizeof path, "%s/%s", TEST_CONFIGS_DIR, name);
    if (px_read_file(&heap.a, path, 1 << 20, &text, &n, &e)) fail_msg("%s: %s", path, e.text);
    return text;
}

static void holds(const char *name, const char *expected)
{
    char *text = slurp(name);
    assert_true(expected[0] != '\0');
    if (!strstr(text, expected)) {
        print_error("configs/%s does not hold what the field table says; it should read\n%s", name, expected);
        fail();
    }
    px_strdel(&heap.a, text);
}

static char expected_text[16384];

static void the_page_has_the_table(void **state)
{
    (void)state;
    make_table(expected_text, sizeof expected_text);
    holds("README.md", expected_text);
}

static void the_default_file_has_every_key(void **state)
{
    (void)state;
    make_yaml(expected_text, sizeof expected_text);
    holds("cpu-default.yaml", expected_text);
}

static void every_file_serves(void **state)
{
    size_t n_files = 0;
    struct dirent *d;
    (void)state;
    DIR *dir = opendir(TEST_CONFIGS_DIR);
    assert_non_null(dir);
    while ((d = readdir(dir))) {
        size_t len = strlen(d->d_name), n = 0;
        char path[1024], line[1024];
        proto_config c;
        px_err errs[8] = {0}, e = {0};
        if (len < 5 || strcmp(d->d_name + len - 5, ".yaml")) continue;
        n_files++;
        snprintf(path, sizeof path, "%s/%s", TEST_CONFIGS_DIR, d->d_name);
        proto_config_init(&c);
        px_code rc = proto_config_read(&c, &heap.a, path, errs, 8, &n);
        for (size_t i = 0; i < n; i++) print_error("%s\n", px_err_format(&errs[i], line, sizeof line));
        assert_int_equal(rc, PX_OK);
        assert_int_equal(proto_config_set(&c, "set", "/srv/set", &e), PX_OK);
        assert_int_equal(proto_config_check(&c, &e), PX_OK);
        if (!strcmp(d->d_name, "cpu-default.yaml")) {
            proto_config defaults;
            proto_config_init(&defaults);
            assert_int_equal(proto_config_set(&defaults, "set", "/srv/set", &e), PX_OK);
            assert_memory_equal(&c, &defaults, sizeof c);
        }
    }
    closedir(dir);
    assert_true(n_files >= 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_has_the_table),
        cmocka_unit_test(the_default_file_has_every_key),
        cmocka_unit_test(every_file_serves),
    };
    if (argc == 2 && (!strcmp(argv[1], "--table") || !strcmp(argv[1], "--yaml"))) {
        if (argv[1][2] == 't') make_table(expected_text, sizeof expected_text);
        else make_yaml(expected_text, sizeof expected_text);
        fputs(expected_text, stdout);
        return 0;
    }
    px_heap_init(&heap, "configs");
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    px_heap_deinit(&heap);
    return failed;
}
