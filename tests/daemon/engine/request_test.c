/* What a request makes of the tokens that the ranks sampled. */
#include <string.h>

#include "daemon/coordinator/request.h"
#include "tests/daemon/text/fixture.h"

static daemon_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    tokenizer = fixture_open(test_golden(SMOLLM));
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    daemon_tokenizer_close(tokenizer);
    return 0;
}

static daemon_request *request_of(uint32_t min_new, const char *stop)
{
    daemon_request_in in = { .kind = DAEMON_GENERATE, .max_new = 16, .min_new = min_new, .ignore_eos = true,
                             .want_text = true, .deadline = PX_NEVER };
    const size_t bytes = stop ? strlen(stop) : 0;
    px_err e = {0};
    daemon_request *r;

    assert_int_equal(daemon_request_open(&r, fixture_heap(), &in, tokenizer, &stop, &bytes, stop ? 1 : 0, false, &e), PX_OK);
    return r;
}

static void give(daemon_request *r, uint32_t id)
{
    shard_row_result row = { .id = id };

    daemon_request_take(r, &(shard_entry_result){ .row = &row, .n_rows = 1 });
}

static uint32_t letter(char c) { return daemon_tokenizer_find(tokenizer, &c, 1); }

/* Models pad their tables: such a row can be sampled, and nobody made a mistake. */
static void a_row_beyond_the_tokenizer_has_no_text(void **state)
{
    daemon_request *r = request_of(0, NULL);

    (void)state;
    give(r, letter('a'));
    give(r, daemon_tokenizer_n_vocab(tokenizer));
    give(r, UINT32_MAX - 1);
    give(r, letter('b'));
    assert_int_equal(r->out.finish, DAEMON_RUNNING);
    assert_int_equal(r->out.n_token, 4);
    assert_int_equal(r->out.text.n, 2);
    assert_memory_equal(r->out.text.p, "ab", 2);
    daemon_request_unref(r);
}

/* As with end ids and stop ids: min_new tokens come first. */
static void a_stop_string_waits_for_min_new_tokens(void **state)
{
    daemon_request *r = request_of(3, "xy");

    (void)state;
    for (const char *c = "xyz"; *c; c++) give(r, letter(*c));
    assert_int_equal(r->out.finish, DAEMON_RUNNING);
    give(r, letter('x'));
    give(r, letter('y'));
    assert_int_equal(r->out.finish, DAEMON_STOP);
    assert_true(r->out.has_stop_string);
    assert_int_equal(r->out.n_token, 5);
    assert_int_equal(r->out.text.n, 3);
    assert_memory_equal(r->out.text.p, "xyz", 3);
    daemon_request_unref(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_beyond_the_tokenizer_has_no_text),
        cmocka_unit_test(a_stop_string_waits_for_min_new_tokens),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
