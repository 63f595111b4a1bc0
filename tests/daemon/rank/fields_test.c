/* The table of refusable fields: its rows, how a name finds its row, and that the runbook prints it.
 * `daemon_fields_test --table` prints the runbook's table. */
#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>

#include "daemon/rank/contract.h"
#include "daemon/rank/fields.h"
#include "proto/base/io.h"

static void row(const daemon_refusable *f, char *out, size_t cap)
{
    snprintf(out, cap, "| `%s` | %s | %s |\n", f->field, f->means, f->action);
}

static void every_row_is_whole_and_once(void **state)
{
    (void)state;
    assert_true(daemon_n_refusables > DAEMON_N_FIELDS);
    for (size_t i = 0; i < daemon_n_refusables; i++) {
        const daemon_refusable *f = &daemon_refusables[i];
        assert_true(f->field && *f->field && f->means && *f->means && f->action && *f->action);
        assert_null(strchr(f->means, '|'));
        assert_null(strchr(f->action, '|'));
        for (size_t k = 0; k < i; k++) assert_string_not_equal(f->field, daemon_refusables[k].field);
        assert_ptr_equal(daemon_refusable_find(f->field), f);
    }
}

static void names_find_their_row(void **state)
{
    static const char *const pair[][2] = {
        { "blk.3.attn_q.weight", "<tensor>" },   { "token_embd.weight.bytes", "<tensor>.bytes" },
        { "output_norm.weight.shape", "<tensor>.shape" }, { "blk.0.ffn_up.weight.type", "<tensor>.type" },
        { "kv.dtype", "<key>" }, { "kv.tokens", "kv.tokens" }, { "plan.kv_pool", "plan.<number>" },
        { "shard.header", "shard.<fact>" }, { "plan", "plan" }, { "types.blk.*.attn_q", "types.<tensor>" }, { "arch.n_head", "arch.<key>" },
        { "generation.top_p", "generation.<key>" }, { "assets.0.digest", "assets.<n>.<key>" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++) {
        const daemon_refusable *f = daemon_refusable_find(pair[i][0]);
        assert_non_null(f);
        assert_string_equal(f->field, pair[i][1]);
    }
    assert_null(daemon_refusable_find("colour"));
    assert_null(daemon_refusable_find("queue"));                    /* no rank is refused for a key of the coordinator */
}

typedef struct seen { size_t n; const char *name[DAEMON_MAX_FACTS]; } seen;

static void note(void *ctx, const daemon_fact *f)
{
    seen *s = ctx;
    assert_true(s->n < DAEMON_MAX_FACTS);
    assert_non_null(daemon_refusable_find(f->field));
    for (size_t i = 0; i < s->n; i++) assert_string_not_equal(s->name[i], f->field);
    s->name[s->n++] = f->field;
}

/* Every fact of a hello has its row, comes once, and there is room for all. */
static void every_fact_has_a_row(void **state)
{
    shard_rank_bytes plan = { .n_blocks = 1 };
    shard_manifest_rank rank = { .file = "rank-000-of-001.safetensors" };
    shard_manifest m = { .world = 1, .rank = &rank };
    proto_config c;
    seen s = { .n = 0 };
    (void)state;

    proto_config_init(&c);
    m.arch.head_dim = 8;
    m.arch.n_ctx = 4;
    m.arch.rope_theta = 10000;
    daemon_contract_facts(&c, "c.yaml", &m, "set", note, &s);
    size_t common = s.n;
    daemon_contract_rank_facts(&m, "set", 0, &plan, true, note, &s);
    assert_true(common >= 8 + 7);                                    /* eight of the build and the set, and the global keys */
    assert_int_equal(s.n - common, 19 + 9);
}

static void the_runbook_prints_the_table(void **state)
{
    px_heap heap;
    px_err e = {0};
    char *text = NULL, line[1024];
    size_t n = 0;
    (void)state;

    px_heap_init(&heap, "test");
    assert_int_equal(px_read_file(&heap.a, TEST_RUNBOOK, 1u << 20, &text, &n, &e), PX_OK);
    for (size_t i = 0; i < daemon_n_refusables; i++) {
        row(&daemon_refusables[i], line, sizeof line);
        if (!strstr(text, line)) fail_msg("ops/runbook.md lacks: %s", line);
    }
    px_del(&heap.a, text, n + 1);
    px_heap_deinit(&heap);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_whole_and_once), cmocka_unit_test(names_find_their_row),
        cmocka_unit_test(every_fact_has_a_row), cmocka_unit_test(the_runbook_prints_the_table),
    };
    char line[1024];

    if (argc == 2 && !strcmp(argv[1], "--table")) {
        for (size_t i = 0; i < daemon_n_refusables; i++) row(&daemon_refusables[i], line, sizeof line), fputs(line, stdout);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
