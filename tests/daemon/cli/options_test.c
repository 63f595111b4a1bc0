/* The command line as a table, lists of ids, prompts, messages as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/json.h"
#include "daemon/cli/options.h"
#include "daemon/cli/prompt.h"
#include "daemon/cli/table.h"
#include "phalanx/v1/control.pb-c.h"
#include "tests/testlib.h"

/* What a subcommand would declare. */
typedef struct line {
    bool flag, given;
    const char *text, *address, *arg[2];
    uint32_t u32;
    uint64_t u64;
    int32_t i32;
    float f32;
    int64_t us;
    daemon_texts texts;
    proto_config config;
    size_t n_args;
} line;

/* Standard error is where complaints go: off while they are expected. */
static int quiet_parse(line *l, const char *words)
{
    char copy[512], *argv[32];
    int argc = 0, code, saved = dup(2);
    static const char *const keys[] = { "kv.tokens", NULL };
    const daemon_option options[] = {
        { "flag", DAEMON_OPT_FLAG, NULL, "a flag", &l->flag, NULL },
        { "text", DAEMON_OPT_TEXT, "T", "a text", &l->text, &l->given },
        { "u32", DAEMON_OPT_U32, "N", "a number", &l->u32, NULL },
        { "u64", DAEMON_OPT_U64, "N", "a number", &l->u64, NULL },
        { "i32", DAEMON_OPT_I32, "N", "a number", &l->i32, NULL },
        { "f32", DAEMON_OPT_F32, "X", "a number", &l->f32, NULL },
        { "seconds", DAEMON_OPT_SECONDS, "S", "a time", &l->us, NULL },
        { "address", DAEMON_OPT_ADDRESS, "A", "an address", &l->address, NULL },
        { "many", DAEMON_OPT_TEXTS, "T", "texts", &l->texts, NULL },
    };
    daemon_command c = { .name = "try", .line = "", .about = "", .option = options,
                         .n_options = sizeof options / sizeof *options, .config = &l->config, .key = keys, .least = 0,
                         .most = 2, .arg = l->arg };
    static char held[16][512];
    static size_t turn;

    memset(l, 0, sizeof *l);
    proto_config_init(&l->config);
    snprintf(copy, sizeof copy, "%s", words);
    char *hold = held[turn++ % 16];                   /* the values live on */
    memcpy(hold, copy, sizeof copy);
    argv[argc++] = (char *)(uintptr_t)"try";
    for (char *w = strtok(hold, " "); w; w = strtok(NULL, " ")) argv[argc++] = w;
    fflush(stderr);
    if (!freopen("/dev/null", "w", stderr)) abort();
    code = daemon_options_parse(&c, argc, argv);
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    l->n_args = c.n_args;
    return code;
}

static void every_kind_is_read(void **state)
{
    line l;

    (void)state;
    assert_int_equal(quiet_parse(&l, "one --flag --text=a=b --u32 4294967295 --u64 18446744073709551615 --i32 -7 "
                                     "--f32 -1.5e-3 --seconds 0.25 --many x --many -y --kv.tokens 99 --address [::1]:80 "
                                     "-- --two"), -1);
    assert_true(l.flag && l.given);
    assert_string_equal(l.text, "a=b");
    assert_int_equal(l.u32, UINT32_MAX);
    assert_true(l.u64 == UINT64_MAX);
    assert_int_equal(l.i32, -7);
    assert_true(l.f32 == -1.5e-3f);
    assert_int_equal(l.us, 250000);
    assert_int_equal(l.texts.n, 2);
    assert_string_equal(l.texts.v[1], "-y");
    assert_int_equal(l.config.kv_tokens, 99);
    assert_string_equal(l.address, "[::1]:80");
    assert_int_equal(l.n_args, 2);
    assert_string_equal(l.arg[0], "one");
    assert_string_equal(l.arg[1], "--two");
}

static void what_is_wrong_is_usage(void **state)
{
    static const char *const wrong[] = {
        "--flg", "--flag=1", "--text", "--u32 -1", "--u32 4294967296", "--u32 1x", "--u32 0x10", "--u32=", "--u32 +1",
        "--u64 18446744073709551616", "--i32 2147483648", "--i32 --1", "--f32 nan", "--f32 inf", "--f32 1e39",
        "--f32 1,5", "--f32=", "--seconds 0", "--seconds -1", "--seconds 1e10", "--kv.tokens 0", "--kv.tokens x",
        "--kv.token 5", "-x", "a b c", "--address localhost", "--address h:0", "--address :x",
        "--a-very-long-name-that-is-no-option-at-all-and-goes-on-and-on-and-on 1" };
    line l;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (quiet_parse(&l, wrong[i]) != DAEMON_EXIT_USAGE) fail_msg("accepted: %s", wrong[i]);
}

static void a_value_that_looks_like_help_is_a_value(void **state)
{
    line l;

    (void)state;
    assert_int_equal(quiet_parse(&l, "--text --help"), -1);
    assert_string_equal(l.text, "--help");
}

/* ---- ids ---- */

static void ids_are_read_in_three_ways(void **state)
{
    static const char *const same[] = { "1,2,4294967295", " 1\t2\n,, 4294967295 \r\n", "[1, 2, 4294967295]",
                                        "\n {\"ids\": [1,2,4294967295], \"more\": null}" };
    px_debug d;
    px_err e = {0};
    uint32_t *ids;
    size_t n;

    (void)state;
    px_debug_init(&d, "test", -1);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        assert_int_equal(daemon_parse_ids(&d.a, "stdin", same[i], strlen(same[i]), &ids, &n, &e), PX_OK);
        assert_int_equal(n, 3);
        assert_true(ids[0] == 1 && ids[1] == 2 && ids[2] == UINT32_MAX);
        px_del(&d.a, ids, n);
    }
    assert_int_equal(daemon_parse_ids(&d.a, "stdin", " \n", 2, &ids, &n, &e), PX_OK);
    assert_int_equal(n, 0);
    px_del(&d.a, ids, n);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void ids_that_are_none_are_refused(void **state)
{
    static const char *const wrong[] = { "1,x", "-1", "4294967296", "1.5", "999999999999999999999999999999", "[1, -1]",
                                         "[4294967296]", "[1.0]", "[true]", "[\"1\"]", "[1", "{}", "{\"ids\": 3}",
                                         "[1] 2", "{\"ids\": [1], \"ids\": [2]}", "[[1]]" };
    px_debug d;
    uint32_t *ids;
    size_t n;

    (void)state;
    px_debug_init(&d, "test", -1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        px_err e = {0};
        if (daemon_parse_ids(&d.a, "stdin", wrong[i], strlen(wrong[i]), &ids, &n, &e) != PX_EINVAL)
            fail_msg("accepted: %s", wrong[i]);
        assert_string_equal(e.field, "stdin");
        assert_null(ids);
    }
    px_err e = {0};
    assert_int_equal(daemon_parse_ids(&d.a, "stdin", "1\0" "2", 3, &ids, &n, &e), PX_EINVAL);   /* a NUL is no gap */
    assert_int_equal(px_debug_deinit(&d), 0);
}

static px_code ids_and_drop(px_alloc *a, px_err *e)
{
    uint32_t *ids;
    size_t n;
    px_code rc = daemon_parse_ids(a, "stdin", "1 2 3", 5, &ids, &n, e);

    if (rc) return rc;
    px_del(a, ids, n);
    if ((rc = daemon_parse_ids(a, "stdin", "[1, 2]", 6, &ids, &n, e))) return rc;
    px_del(a, ids, n);
    return PX_OK;
}

static void ids_survive_every_oom(void **state) { (void)state; test_oom_sweep(ids_and_drop); }

/* ---- prompts ---- */

static void a_prompt_is_one_of_four(void **state)
{
    px_debug d;
    daemon_prompt p;
    px_err e = {0};

    (void)state;
    px_debug_init(&d, "test", -1);
    daemon_prompt_init(&p, &d.a);
    assert_int_equal(daemon_prompt_read(&p, &e), PX_EINVAL);
    assert_string_equal(e.field, "prompt");

    px_err_clear(&e);
    p.text = "a";
    p.chat = "b";
    assert_int_equal(daemon_prompt_read(&p, &e), PX_EINVAL);
    assert_string_equal(e.field, "prompt");

    px_err_clear(&e);
    p.chat = NULL;
    p.system = "s";
    assert_int_equal(daemon_prompt_read(&p, &e), PX_EINVAL);
    assert_string_equal(e.field, "system");

    px_err_clear(&e);
    p.text = NULL;
    p.chat = "hello";
    assert_int_equal(daemon_prompt_read(&p, &e), PX_OK);
    assert_int_equal(p.n_messages, 2);
    assert_memory_equal(p.message[0]->role.data, "system", 6);
    assert_memory_equal(p.message[1]->content.data, "hello", 5);
    daemon_prompt_deinit(&p);

    daemon_prompt_init(&p, &d.a);
    p.ids_text = "5,6";
    assert_int_equal(daemon_prompt_read(&p, &e), PX_OK);
    assert_int_equal(p.prompt.prompt_case, PHALANX__V1__PROMPT__PROMPT_TOKEN_IDS);
    assert_int_equal(p.prompt.token_ids->n_ids, 2);
    daemon_prompt_deinit(&p);
    daemon_prompt_deinit(&p);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static const char *messages_file(const char *text)
{
    static char path[300];
    px_err e = {0};

    snprintf(path, sizeof path, "%s/messages.json", test_tmpdir());
    assert_int_equal(px_write_file(path, text, strlen(text), false, &e), PX_OK);
    return path;
}

static void messages_come_from_a_file(void **state)
{
    static const struct { const char *text, *field; } wrong[] = {
        { "{}", "messages" }, { "[", "messages" }, { "", "messages" }, { "[1]", "messages[0]" },
        { "[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"user\"}]", "messages[1]" },
        { "[{\"role\": 1, \"content\": \"x\"}]", "messages[0]" },
        { "[{\"role\": \"user\", \"content\": \"x\", \"name\": \"y\"}]", "messages[0]" } };
    px_debug d;
    daemon_prompt p;

    (void)state;
    px_debug_init(&d, "test", -1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        px_err e = {0};
        daemon_prompt_init(&p, &d.a);
        p.messages_file = messages_file(wrong[i].text);
        assert_int_equal(daemon_prompt_read(&p, &e), PX_EINVAL);
        assert_string_equal(e.field, wrong[i].field);
        assert_non_null(strstr(e.file, "messages.json"));
        daemon_prompt_deinit(&p);
    }
    px_err e = {0};
    daemon_prompt_init(&p, &d.a);
    p.messages_file = messages_file("[{\"role\": \"user\", \"content\": \"a\\u0000b\"}]");
    assert_int_equal(daemon_prompt_read(&p, &e), PX_OK);
    assert_int_equal(p.message[0]->content.len, 3);               /* a NUL is text like any other */
    assert_memory_equal(p.message[0]->content.data, "a\0b", 3);
    daemon_prompt_deinit(&p);

    daemon_prompt_init(&p, &d.a);
    p.messages_file = "/nowhere/at/all.json";
    assert_int_equal(daemon_prompt_read(&p, &e), PX_ENOTFOUND);
    assert_string_equal(e.file, "/nowhere/at/all.json");
    daemon_prompt_deinit(&p);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static px_code chat_and_drop(px_alloc *a, px_err *e)
{
    daemon_prompt p;
    px_code rc;

    daemon_prompt_init(&p, a);
    p.messages_file = messages_file("[{\"role\": \"system\", \"content\": \"x\"}, {\"role\": \"user\", \"content\": \"y\"}]");
    rc = daemon_prompt_read(&p, e);
    daemon_prompt_deinit(&p);
    return rc;
}

static void prompts_survive_every_oom(void **state) { (void)state; test_oom_sweep(chat_and_drop); }

/* ---- standard input ---- */

static void all_of_a_descriptor_is_read(void **state)
{
    static char big[200000];
    char path[300], *data;
    size_t n;
    px_debug d;
    px_err e = {0};
    FILE *f;

    (void)state;
    px_debug_init(&d, "test", -1);
    snprintf(path, sizeof path, "%s/input", test_tmpdir());
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 7);
    for (size_t bytes = 0; bytes <= sizeof big; bytes = bytes ? bytes * 2 - 1 : 3) {
        assert_int_equal(px_write_file(path, big, bytes, false, &e), PX_OK);
        assert_non_null(f = fopen(path, "r"));
        assert_int_equal(daemon_cli_read_all(&d.a, fileno(f), sizeof big, &data, &n, &e), PX_OK);
        assert_int_equal(n, bytes);
        assert_memory_equal(data, big, n);
        assert_int_equal(data[n], 0);
        px_del(&d.a, data, n + 1);
        fclose(f);
    }
    assert_int_equal(px_write_file(path, big, sizeof big, false, &e), PX_OK);
    assert_non_null(f = fopen(path, "r"));
    assert_int_equal(daemon_cli_read_all(&d.a, fileno(f), 1000, &data, &n, &e), PX_ERANGE);
    assert_string_equal(e.field, "stdin");
    fclose(f);
    px_err_clear(&e);
    assert_int_equal(daemon_cli_read_all(&d.a, -1, 1000, &data, &n, &e), PX_EIO);
    assert_int_equal(px_debug_deinit(&d), 0);
}

/* ---- tables and JSON ---- */

static void a_table_is_as_wide_as_its_cells(void **state)
{
    px_debug d;
    daemon_table t;
    px_err e = {0};
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);

    (void)state;
    px_debug_init(&d, "test", -1);
    daemon_table_init(&t, &d.a, 2);
    daemon_table_put(&t, "rank");
    daemon_table_put(&t, "bytes");
    daemon_table_put(&t, "%d", 0);
    daemon_table_bytes(&t, 1234567);
    assert_int_equal(daemon_table_print(&t, out, &e), PX_OK);
    fclose(out);
    assert_string_equal(text, "rank      bytes\n0     1,234,567\n");
    free(text);
    daemon_table_deinit(&t);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static px_code table_and_drop(px_alloc *a, px_err *e)
{
    daemon_table t;
    FILE *out = fopen("/dev/null", "w");
    px_code rc;

    daemon_table_init(&t, a, 3);
    for (int i = 0; i < 200; i++) daemon_table_put(&t, "%d", i);
    rc = daemon_table_print(&t, out, e);
    daemon_table_deinit(&t);
    fclose(out);
    return rc;
}

static void tables_survive_every_oom(void **state) { (void)state; test_oom_sweep(table_and_drop); }

static void messages_become_json(void **state)
{
    Phalanx__V1__RankInfo rank = PHALANX__V1__RANK_INFO__INIT, *ranks[] = { &rank };
    Phalanx__V1__GetServerInfoResponse m = PHALANX__V1__GET_SERVER_INFO_RESPONSE__INIT;
    Phalanx__V1__GetModelInfoResponse none;
    json_t *doc, *r;
    uint32_t eos[] = { 7, 8 };

    (void)state;
    rank.weights_planned = UINT64_MAX;
    rank.host = (char *)(uintptr_t)"h\xff";
    m.ranks = ranks;
    m.n_ranks = 1;
    m.running = 3;
    assert_non_null(doc = daemon_json_of(&m.base));
    assert_int_equal(json_integer_value(json_object_get(doc, "running")), 3);
    assert_true(json_is_null(json_object_get(doc, "limits")));
    assert_non_null(r = json_array_get(json_object_get(doc, "ranks"), 0));
    assert_string_equal(json_string_value(json_object_get(r, "weights_planned")), "18446744073709551615");
    assert_string_equal(json_string_value(json_object_get(r, "host")), "");
    json_decref(doc);

    phalanx__v1__get_model_info_response__init(&none);
    none.eos_ids = eos;
    none.n_eos_ids = 2;
    none.has_tokenizer = 1;
    assert_non_null(doc = daemon_json_of(&none.base));
    assert_null(json_object_get(doc, "bos_id"));                   /* a oneof that is not set */
    assert_int_equal(json_integer_value(json_array_get(json_object_get(doc, "eos_ids"), 1)), 8);
    assert_true(json_is_true(json_object_get(doc, "has_tokenizer")));
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_read),
        cmocka_unit_test(what_is_wrong_is_usage),
        cmocka_unit_test(a_value_that_looks_like_help_is_a_value),
        cmocka_unit_test(ids_are_read_in_three_ways),
        cmocka_unit_test(ids_that_are_none_are_refused),
        cmocka_unit_test(ids_survive_every_oom),
        cmocka_unit_test(a_prompt_is_one_of_four),
        cmocka_unit_test(messages_come_from_a_file),
        cmocka_unit_test(prompts_survive_every_oom),
        cmocka_unit_test(all_of_a_descriptor_is_read),
        cmocka_unit_test(a_table_is_as_wide_as_its_cells),
        cmocka_unit_test(tables_survive_every_oom),
        cmocka_unit_test(messages_become_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
