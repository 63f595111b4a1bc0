/* Every field of a request: what is taken, what is refused, and under which name. */
#include <math.h>
#include <string.h>

#include "daemon/coordinator/validate.h"
#include "shard/plan/bytes.h"
#include "tests/testlib.h"

#define N_VOCAB 100u
#define CONTEXT 64u

typedef Phalanx__V1__GenerateRequest request;

typedef struct fixture {
    daemon_model model;
    request      m;
    Phalanx__V1__Prompt prompt;
    Phalanx__V1__TokenIds ids;
    Phalanx__V1__Sampling sampling;
    Phalanx__V1__Decoding decoding;
    Phalanx__V1__Stopping stopping;
    Phalanx__V1__ResponseOptions response;
    uint32_t     id[3];
    char         some;                       /* its address stands for a tokenizer and a template */
} fixture;

static void make(fixture *f)
{
    memset(f, 0, sizeof *f);
    f->model.manifest.arch.n_vocab = N_VOCAB;
    f->model.manifest.n_eos = 1;
    f->model.manifest.eos[0] = 7;
    strcpy(f->model.manifest.model, "the model");
    f->model.manifest.default_temperature = f->model.manifest.default_top_p = NAN;
    f->model.manifest.default_top_k = UINT32_MAX;
    f->model.context = CONTEXT;
    f->model.tokenizer = (daemon_tokenizer *)&f->some;
    f->model.chat = (const daemon_template *)&f->some;
    phalanx__v1__generate_request__init(&f->m);
    phalanx__v1__prompt__init(&f->prompt);
    phalanx__v1__token_ids__init(&f->ids);
    phalanx__v1__sampling__init(&f->sampling);
    phalanx__v1__decoding__init(&f->decoding);
    phalanx__v1__stopping__init(&f->stopping);
    phalanx__v1__response_options__init(&f->response);
    f->id[0] = 1, f->id[1] = 2, f->id[2] = 3;
    f->ids.ids = f->id;
    f->ids.n_ids = 3;
    f->prompt.prompt_case = PHALANX__V1__PROMPT__PROMPT_TOKEN_IDS;
    f->prompt.token_ids = &f->ids;
    f->m.prompt = &f->prompt;
    f->m.sampling = &f->sampling;
    f->m.decoding = &f->decoding;
    f->m.stopping = &f->stopping;
    f->m.response = &f->response;
}

static ProtobufCBinaryData bytes(const char *s, size_t n) { return (ProtobufCBinaryData){ n, (uint8_t *)(uintptr_t)s }; }

static void taken(const fixture *f, daemon_ask *q)
{
    px_err e = {0};
    px_code rc = daemon_ask_generate(q, &f->m, &f->model, &e);
    if (rc) fail_msg("refused: %s: %s", e.field, e.text);
}

static void refused(const fixture *f, px_code code, const char *field)
{
    daemon_ask q;
    px_err e = {0};
    assert_int_equal(daemon_ask_generate(&q, &f->m, &f->model, &e), code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    assert_true(code != PX_EUNSUP || !q.precondition);
}

static void defaults(void **state)
{
    fixture f;
    daemon_ask q, again;
    (void)state;

    make(&f);
    f.m.sampling = NULL, f.m.decoding = NULL, f.m.stopping = NULL, f.m.response = NULL;
    taken(&f, &q);
    assert_int_equal(q.in.kind, DAEMON_GENERATE);
    assert_true(q.in.sampling.temperature == 1 && q.in.sampling.top_p == 1 && q.in.sampling.min_p == 0);
    assert_int_equal(q.in.sampling.top_k, 0);
    assert_int_equal(q.in.n_eos, 1);
    assert_int_equal(q.in.eos[0], 7);
    assert_int_equal(strlen(q.in.id), 16);
    assert_false(q.max_new_set || q.in.logprobs || q.in.ignore_eos);
    assert_true(q.in.want_text);
    assert_int_equal(q.n_ids, 3);
    taken(&f, &again);
    assert_string_not_equal(q.in.id, again.in.id);
    assert_true(q.in.sampling.seed != again.in.sampling.seed);
    f.model.manifest.default_temperature = 0.5f, f.model.manifest.default_top_p = 0.25f, f.model.manifest.default_top_k = 9;
    taken(&f, &q);
    assert_true(q.in.sampling.temperature == 0.5f && q.in.sampling.top_p == 0.25f && q.in.sampling.top_k == 9);
}

static void everything_is_carried(void **state)
{
    fixture f;
    daemon_ask q;
    uint32_t stop_id[2] = { 0, N_VOCAB - 1 };
    ProtobufCBinaryData stop[2] = { bytes("a\0b", 3), bytes("\xc3\xa9", 2) };
    (void)state;

    make(&f);
    f.m.request_id = bytes("id \xe2\x82\xac", 6);
    f.m.model = bytes("the model", 9);
    f.m.temperature_presence_case = PHALANX__V1__GENERATE_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE;
    f.m.temperature = 100;
    f.sampling.top_k_presence_case = PHALANX__V1__SAMPLING__TOP_K_PRESENCE_TOP_K, f.sampling.top_k = 4000000000u;
    f.sampling.top_p_presence_case = PHALANX__V1__SAMPLING__TOP_P_PRESENCE_TOP_P, f.sampling.top_p = 1;
    f.sampling.min_p_presence_case = PHALANX__V1__SAMPLING__MIN_P_PRESENCE_MIN_P, f.sampling.min_p = 1;
    f.sampling.seed_presence_case = PHALANX__V1__SAMPLING__SEED_PRESENCE_SEED, f.sampling.seed = UINT64_MAX;
    f.sampling.num_sequences = 1;
    f.decoding.repetition_penalty = 1;
    f.stopping.max_new_tokens_presence_case = PHALANX__V1__STOPPING__MAX_NEW_TOKENS_PRESENCE_MAX_NEW_TOKENS;
    f.stopping.max_new_tokens = 9, f.stopping.min_new_tokens = 9;
    f.stopping.stop_token_ids = stop_id, f.stopping.n_stop_token_ids = 2;
    f.stopping.stop_strings = stop, f.stopping.n_stop_strings = 2;
    f.stopping.include_stop_strings = f.stopping.ignore_eos = true;
    f.response.top_logprobs = 64;
    taken(&f, &q);
    assert_string_equal(q.in.id, "id \xe2\x82\xac");
    assert_true(q.in.sampling.temperature == 100 && q.in.sampling.top_k == 4000000000u && q.in.sampling.min_p == 1);
    assert_true(q.in.sampling.seed == UINT64_MAX);
    assert_true(q.max_new_set && q.max_new == 9 && q.in.min_new == 9);
    assert_int_equal(q.in.n_stop_id, 2);
    assert_int_equal(q.in.stop_id[1], N_VOCAB - 1);
    assert_int_equal(q.n_stop, 2);
    assert_int_equal(q.stop_bytes[0], 3);
    assert_memory_equal(q.stop[0], "a\0b", 3);
    assert_true(q.include_stop && q.in.ignore_eos && q.in.logprobs && q.in.top == 64);
}

static void ranges_of_floats(void **state)
{
    static const struct { int which; float value; const char *field; } bad[] = {
        { 0, -0.001f, "temperature" }, { 0, 100.01f, "temperature" }, { 0, NAN, "temperature" }, { 0, INFINITY, "temperature" },
        { 1, 0, "sampling.top_p" }, { 1, -1, "sampling.top_p" }, { 1, 1.001f, "sampling.top_p" }, { 1, NAN, "sampling.top_p" },
        { 2, -0.001f, "sampling.min_p" }, { 2, 1.001f, "sampling.min_p" }, { 2, NAN, "sampling.min_p" },
        { 3, NAN, "decoding.presence_penalty" }, { 4, -INFINITY, "decoding.frequency_penalty" },
        { 5, NAN, "decoding.repetition_penalty" },
    };
    fixture f;
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make(&f);
        switch (bad[i].which) {
        case 0:
            f.m.temperature_presence_case = PHALANX__V1__GENERATE_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE;
            f.m.temperature = bad[i].value;
            break;
        case 1:
            f.sampling.top_p_presence_case = PHALANX__V1__SAMPLING__TOP_P_PRESENCE_TOP_P;
            f.sampling.top_p = bad[i].value;
            break;
        case 2:
            f.sampling.min_p_presence_case = PHALANX__V1__SAMPLING__MIN_P_PRESENCE_MIN_P;
            f.sampling.min_p = bad[i].value;
            break;
        case 3: f.decoding.presence_penalty = bad[i].value; break;
        case 4: f.decoding.frequency_penalty = bad[i].value; break;
        default: f.decoding.repetition_penalty = bad[i].value;
        }
        refused(&f, PX_ERANGE, bad[i].field);
    }
}

static void not_served_yet(void **state)
{
    fixture f;
    Phalanx__V1__Decoding__LogitBiasEntry bias = PHALANX__V1__DECODING__LOGIT_BIAS_ENTRY__INIT, *biases = &bias;
    (void)state;

    make(&f), f.sampling.num_sequences = 2, refused(&f, PX_EUNSUP, "sampling.num_sequences");
    make(&f), f.decoding.presence_penalty = 0.5f, refused(&f, PX_EUNSUP, "decoding.presence_penalty");
    make(&f), f.decoding.frequency_penalty = -1, refused(&f, PX_EUNSUP, "decoding.frequency_penalty");
    make(&f), f.decoding.repetition_penalty = 2, refused(&f, PX_EUNSUP, "decoding.repetition_penalty");
    make(&f), f.decoding.logit_bias = &biases, f.decoding.n_logit_bias = 1, refused(&f, PX_EUNSUP, "decoding.logit_bias");
    make(&f), f.m.priority = -1, refused(&f, PX_EUNSUP, "priority");
}

static void names(void **state)
{
    fixture f;
    char longest[129];
    daemon_ask q;
    (void)state;

    memset(longest, 'x', sizeof longest);
    make(&f), f.m.model = bytes("the mode", 8), refused(&f, PX_ENOTFOUND, "model");
    make(&f), f.m.model = bytes("the model\0", 10), refused(&f, PX_ENOTFOUND, "model");
    make(&f), f.m.request_id = bytes(longest, 127), taken(&f, &q);
    make(&f), f.m.request_id = bytes(longest, 128), refused(&f, PX_ERANGE, "request_id");
    make(&f), f.m.request_id = bytes("a\0b", 3), refused(&f, PX_EINVAL, "request_id");
    make(&f), f.m.request_id = bytes("a\nb", 3), refused(&f, PX_EINVAL, "request_id");
    make(&f), f.m.request_id = bytes("a\x7f", 2), refused(&f, PX_EINVAL, "request_id");
    make(&f), f.m.request_id = bytes("a\xc2\x85", 3), refused(&f, PX_EINVAL, "request_id");
    make(&f), f.m.request_id = bytes("a\xff", 2), refused(&f, PX_EINVAL, "request_id");
    make(&f), f.m.request_id = bytes("a\xc2\xa0", 3), taken(&f, &q);
}

static void stops(void **state)
{
    fixture f;
    uint32_t id[65] = { 0 };
    ProtobufCBinaryData s[17];
    char longest[256];
    daemon_ask q;
    px_err e = {0};
    (void)state;

    memset(longest, 'x', sizeof longest);
    for (int i = 0; i < 17; i++) s[i] = bytes(longest, 255);
    make(&f), f.stopping.stop_token_ids = id, f.stopping.n_stop_token_ids = 64, taken(&f, &q);
    f.stopping.n_stop_token_ids = 65, refused(&f, PX_ERANGE, "stopping.stop_token_ids");
    f.stopping.n_stop_token_ids = 3, id[2] = N_VOCAB, refused(&f, PX_ERANGE, "stopping.stop_token_ids[2]");
    make(&f), f.stopping.stop_strings = s, f.stopping.n_stop_strings = 16, taken(&f, &q);
    f.stopping.n_stop_strings = 17, refused(&f, PX_ERANGE, "stopping.stop_strings");
    f.stopping.n_stop_strings = 2, s[1] = bytes(longest, 256), refused(&f, PX_ERANGE, "stopping.stop_strings[1]");
    s[1] = bytes("", 0), refused(&f, PX_EINVAL, "stopping.stop_strings[1]");
    s[1] = bytes("\xc3", 1), refused(&f, PX_EINVAL, "stopping.stop_strings[1]");
    s[1] = bytes("ok", 2), f.model.tokenizer = NULL;
    assert_int_equal(daemon_ask_generate(&q, &f.m, &f.model, &e), PX_EUNSUP);
    assert_true(q.precondition);
    make(&f);
    f.stopping.max_new_tokens_presence_case = PHALANX__V1__STOPPING__MAX_NEW_TOKENS_PRESENCE_MAX_NEW_TOKENS;
    refused(&f, PX_ERANGE, "stopping.max_new_tokens");
    make(&f), f.response.top_logprobs = 65, refused(&f, PX_ERANGE, "response.top_logprobs");
}

static void prompts(void **state)
{
    static char large[DAEMON_MAX_PROMPT_BYTES + 1];
    fixture f;
    daemon_ask q;
    px_err e = {0};
    (void)state;

    memset(large, 'x', sizeof large);
    make(&f), f.m.prompt = NULL, refused(&f, PX_EINVAL, "prompt");
    make(&f), f.prompt.prompt_case = PHALANX__V1__PROMPT__PROMPT__NOT_SET, refused(&f, PX_EINVAL, "prompt");
    make(&f), f.ids.n_ids = 0, refused(&f, PX_EINVAL, "prompt.token_ids");
    make(&f), f.prompt.token_ids = NULL, refused(&f, PX_EINVAL, "prompt.token_ids");
    make(&f), f.prompt.prompt_case = PHALANX__V1__PROMPT__PROMPT_TEXT;
    f.prompt.text = bytes(NULL, 0), refused(&f, PX_EINVAL, "prompt.text");
    f.prompt.text = bytes("a\xff", 2), refused(&f, PX_EINVAL, "prompt.text");
    f.prompt.text = bytes(large, sizeof large), refused(&f, PX_ERANGE, "prompt.text");
    f.prompt.text = bytes(large, sizeof large - 1), taken(&f, &q);
    f.prompt.text = bytes("a\0b", 3), taken(&f, &q);
    assert_int_equal(q.text_bytes, 3);
    f.model.tokenizer = NULL;
    assert_int_equal(daemon_ask_generate(&q, &f.m, &f.model, &e), PX_EUNSUP);
    assert_string_equal(e.field, "prompt.text");
    assert_true(q.precondition);
}

static px_code ids(daemon_ask *q, const fixture *f, const uint32_t *id, size_t n, px_err *e)
{
    px_err_clear(e);
    return daemon_ask_prompt(q, id, n, &f->model, 50, e);
}

static void the_prompt_and_what_follows(void **state)
{
    fixture f;
    daemon_ask q;
    px_err e = {0};
    uint32_t id[CONTEXT + 1] = { 0 };
    (void)state;

    make(&f), taken(&f, &q);
    assert_int_equal(ids(&q, &f, id, 0, &e), PX_EINVAL);
    assert_string_equal(e.field, "prompt");
    assert_int_equal(ids(&q, &f, id, CONTEXT, &e), PX_ERANGE);
    assert_string_equal(e.field, "prompt");
    assert_string_equal(e.found, "64");
    assert_string_equal(e.expected, "at most 63");
    assert_int_equal(ids(&q, &f, id, CONTEXT - 1, &e), PX_OK);
    assert_int_equal(q.in.max_new, 1);                   /* the default, cut to what fits */
    assert_int_equal(ids(&q, &f, id, 10, &e), PX_OK);
    assert_int_equal(q.in.max_new, 50);
    assert_int_equal(q.in.n_prompt, 10);
    q.in.min_new = 51;
    assert_int_equal(ids(&q, &f, id, 10, &e), PX_ERANGE);
    assert_string_equal(e.field, "stopping.min_new_tokens");
    q.in.min_new = 0, q.max_new_set = true, q.max_new = UINT32_MAX;
    assert_int_equal(ids(&q, &f, id, 10, &e), PX_ERANGE);
    assert_string_equal(e.field, "stopping.max_new_tokens");
    assert_string_equal(e.expected, "at most 54");
    q.max_new = 54;
    assert_int_equal(ids(&q, &f, id, 10, &e), PX_OK);
    assert_int_equal(q.in.max_new, 54);
    id[4] = N_VOCAB;
    assert_int_equal(ids(&q, &f, id, 10, &e), PX_ERANGE);
    assert_string_equal(e.field, "prompt.token_ids[4]");
    assert_string_equal(e.found, "100");
    assert_int_equal(daemon_ask_max_ids(&f.model), CONTEXT + 1);
}

static void score(void **state)
{
    fixture f;
    daemon_ask q;
    px_err e = {0};
    uint32_t id[CONTEXT + 1] = { 0 };
    Phalanx__V1__ScoreRequest m = PHALANX__V1__SCORE_REQUEST__INIT;
    (void)state;

    make(&f);
    m.prompt = &f.prompt;
    m.top = N_VOCAB;
    assert_int_equal(daemon_ask_score(&q, &m, &f.model, &e), PX_OK);
    assert_int_equal(q.in.kind, DAEMON_SCORE);
    assert_int_equal(q.in.top, N_VOCAB);
    assert_int_equal(ids(&q, &f, id, CONTEXT, &e), PX_OK);       /* nothing has to follow */
    assert_int_equal(ids(&q, &f, id, CONTEXT + 1, &e), PX_ERANGE);
    m.top = N_VOCAB + 1;
    px_err_clear(&e);
    assert_int_equal(daemon_ask_score(&q, &m, &f.model, &e), PX_ERANGE);
    assert_string_equal(e.field, "top");
    f.model.manifest.arch.n_vocab = 2 * SHARD_MAX_RESULT_TOPS;   /* a position whose alternatives fit no step would wait for ever */
    m.top = SHARD_MAX_RESULT_TOPS;
    px_err_clear(&e);
    assert_int_equal(daemon_ask_score(&q, &m, &f.model, &e), PX_OK);
    m.top++;
    assert_int_equal(daemon_ask_score(&q, &m, &f.model, &e), PX_ERANGE);
    assert_string_equal(e.field, "top");
    assert_string_equal(e.expected, "at most 1048576");
}

static px_code ask_chat(px_alloc *a, px_err *e)
{
    fixture f;
    daemon_ask q;
    Phalanx__V1__Message one[2] = { PHALANX__V1__MESSAGE__INIT, PHALANX__V1__MESSAGE__INIT };
    Phalanx__V1__Message *both[2] = { &one[0], &one[1] };
    Phalanx__V1__ChatRequest m = PHALANX__V1__CHAT_REQUEST__INIT;
    px_arena arena = {0};

    make(&f);
    one[0].role = bytes("system", 6), one[1].role = bytes("user", 4), one[1].content = bytes("a\0b", 3);
    m.messages = both, m.n_messages = 2;
    px_arena_init(&arena, a, "test", 256, 0, 0);
    px_code rc = daemon_ask_chat(&q, &arena.a, &m, &f.model, e);
    if (!rc) {
        assert_int_equal(q.n_messages, 2);
        assert_string_equal(q.message[0].role, "system");
        assert_int_equal(q.message[0].content_bytes, 0);
        assert_int_equal(q.message[1].content_bytes, 3);
        assert_int_equal(q.text_bytes, 3);
    }
    px_arena_deinit(&arena);
    return rc;
}

static void chat(void **state)
{
    fixture f;
    daemon_ask q;
    px_err e = {0};
    px_heap heap = {0};
    px_arena arena = {0};
    Phalanx__V1__Message one = PHALANX__V1__MESSAGE__INIT, *messages = &one;
    Phalanx__V1__ChatRequest m = PHALANX__V1__CHAT_REQUEST__INIT;
    (void)state;

    test_oom_sweep(ask_chat);
    make(&f);
    px_heap_init(&heap, "test");
    px_arena_init(&arena, &heap.a, "test", 256, 0, 0);
    assert_int_equal(daemon_ask_chat(&q, &arena.a, &m, &f.model, &e), PX_EINVAL);
    assert_string_equal(e.field, "messages");
    m.messages = &messages, m.n_messages = 1;
    one.role = bytes("us\0er", 5);
    px_err_clear(&e);
    assert_int_equal(daemon_ask_chat(&q, &arena.a, &m, &f.model, &e), PX_EINVAL);
    assert_string_equal(e.field, "messages[0].role");
    one.role = bytes("user", 4), one.content = bytes("\xff", 1);
    px_err_clear(&e);
    assert_int_equal(daemon_ask_chat(&q, &arena.a, &m, &f.model, &e), PX_EINVAL);
    assert_string_equal(e.field, "messages[0].content");
    one.content = bytes("hello", 5), f.model.chat = NULL, strcpy(f.model.why_no_chat, "because");
    px_err_clear(&e);
    assert_int_equal(daemon_ask_chat(&q, &arena.a, &m, &f.model, &e), PX_EUNSUP);
    assert_string_equal(e.text, "because");
    assert_true(q.precondition);
    px_arena_deinit(&arena);
    px_heap_deinit(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(everything_is_carried), cmocka_unit_test(ranges_of_floats),
        cmocka_unit_test(not_served_yet), cmocka_unit_test(names), cmocka_unit_test(stops), cmocka_unit_test(prompts),
        cmocka_unit_test(the_prompt_and_what_follows), cmocka_unit_test(score), cmocka_unit_test(chat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
