/* generate: one completion or one answer in a chat, streamed. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/completion.h"
#include "daemon/cli/prompt.h"

#define CONNECT_US   10000000ll
#define MAX_BIAS     1024u

typedef Phalanx__V1__Decoding__LogitBiasEntry bias_entry;

typedef struct job {
    px_alloc     *a;
    daemon_prompt prompt;
    const char   *address, *request_id, *model, *stop_ids_text, *bias_text;
    daemon_texts  stop;
    int64_t       timeout_us;
    bool          has_timeout, json, stats, has_temperature, has_top_k, has_top_p, has_min_p, has_seed, has_max;
    bool          include_stop, ignore_eos, logprobs;
    float         temperature, top_p, min_p;
    uint32_t      top_k, max_new_tokens;
    uint64_t      seed;
    int32_t       priority;
    Phalanx__V1__Sampling        sampling;
    Phalanx__V1__Decoding        decoding;
    Phalanx__V1__Stopping        stopping;
    Phalanx__V1__ResponseOptions response;
    ProtobufCBinaryData stop_bytes[DAEMON_MAX_TEXTS];
    uint32_t     *stop_ids; size_t n_stop_ids;         /* owned */
    bias_entry    bias[MAX_BIAS], *bias_list[MAX_BIAS];
} job;

static const char about[] =
    "Completes TEXT, ids, or a chat on a server, and shows the text as it comes.  TEXT, ids and FILE may be - for\n"
    "standard input.  Ctrl-C cancels the request.  On a terminal, tokens/s follow on standard error.\n"
    "--json prints one object: prompt_token_ids, token_ids, text, finish_reason (stop, length, cancelled, error), usage,\n"
    "logprobs ([] unless asked for; minus infinity is -3.40282347e+38), request_id, seed (as a text), stop_token_id or\n"
    "stop_string; after an error also error: {status, message, retryable}.";

static int parse(job *j, daemon_command *c, int argc, char **argv)
{
    const daemon_option options[] = {
        { "prompt-ids", DAEMON_OPT_TEXT, "1,2,3", "token ids instead of TEXT", &j->prompt.ids_text, NULL },
        { "chat", DAEMON_OPT_TEXT, "TEXT", "a user's message, through the model's chat template", &j->prompt.chat, NULL },
        { "system", DAEMON_OPT_TEXT, "TEXT", "system message before --chat", &j->prompt.system, NULL },
        { "messages", DAEMON_OPT_TEXT, "FILE", "a chat as JSON: [{\"role\": ..., \"content\": ...}, ...]",
          &j->prompt.messages_file, NULL },
        { "address", DAEMON_OPT_ADDRESS, "HOST:PORT", "of the server (default: 127.0.0.1:50051)", &j->address, NULL },
        { "model", DAEMON_OPT_TEXT, "NAME", "refuse a server of another model", &j->model, NULL },
        { "request-id", DAEMON_OPT_TEXT, "ID", "default: the server makes one", &j->request_id, NULL },
        { "timeout", DAEMON_OPT_SECONDS, "S", "deadline of the call in seconds (default: none)", &j->timeout_us, &j->has_timeout },
        { "temperature", DAEMON_OPT_F32, "X", "0: greedy; default: the model's", &j->temperature, &j->has_temperature },
        { "top-k", DAEMON_OPT_U32, "N", "sample among the N best; 0: all", &j->top_k, &j->has_top_k },
        { "top-p", DAEMON_OPT_F32, "X", "sample among the best that make up X", &j->top_p, &j->has_top_p },
        { "min-p", DAEMON_OPT_F32, "X", "leave out what is less likely than X times the best", &j->min_p, &j->has_min_p },
        { "seed", DAEMON_OPT_U64, "N", "of the draws; default: drawn", &j->seed, &j->has_seed },
        { "num-sequences", DAEMON_OPT_U32, "N", "sequences from the prompt", &j->sampling.num_sequences, NULL },
        { "max-new-tokens", DAEMON_OPT_U32, "N", "default: the server's", &j->max_new_tokens, &j->has_max },
        { "min-new-tokens", DAEMON_OPT_U32, "N", "no stop before", &j->stopping.min_new_tokens, NULL },
        { "stop-token-ids", DAEMON_OPT_TEXT, "1,2,3", "ids that end the text", &j->stop_ids_text, NULL },
        { "stop", DAEMON_OPT_TEXTS, "TEXT", "a text that ends the text; may come several times", &j->stop, NULL },
        { "include-stop-strings", DAEMON_OPT_FLAG, NULL, "the stop string is part of the text", &j->include_stop, NULL },
        { "ignore-eos", DAEMON_OPT_FLAG, NULL, "the model's end of text is a token like others", &j->ignore_eos, NULL },
        { "logprobs", DAEMON_OPT_FLAG, NULL, "log-probabilities of the tokens, in --json", &j->logprobs, NULL },
        { "top-logprobs", DAEMON_OPT_U32, "N", "and of the N best alternatives", &j->response.top_logprobs, NULL },
        { "presence-penalty", DAEMON_OPT_F32, "X", "subtracted once for a token that came", &j->decoding.presence_penalty, NULL },
        { "frequency-penalty", DAEMON_OPT_F32, "X", "subtracted each time that it came", &j->decoding.frequency_penalty, NULL },
        { "repetition-penalty", DAEMON_OPT_F32, "X", "divides what came; 1: off", &j->decoding.repetition_penalty, NULL },
        { "logit-bias", DAEMON_OPT_TEXT, "ID=X,...", "added to the logits of tokens", &j->bias_text, NULL },
        { "priority", DAEMON_OPT_I32, "N", "of the request", &j->priority, NULL },
        { "stats", DAEMON_OPT_FLAG, NULL, "tokens/s on standard error, also without a terminal", &j->stats, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "one JSON object at the end instead of the text", &j->json, NULL },
    };

    *c = (daemon_command){ .name = "generate",
        .line = "[TEXT | --prompt-ids 1,2,3 | --chat TEXT [--system TEXT] | --messages FILE] [--address HOST:PORT] ...",
        .about = about, .option = options, .n_options = sizeof options / sizeof *options, .most = 1, .arg = &j->prompt.text };
    int code = daemon_options_parse(c, argc, argv);
    c->option = NULL;                   /* they end with this function */
    c->n_options = 0;
    return code;
}

/* "ID=X,ID=X" */
static bool parse_bias(job *j)
{
    const char *s = j->bias_text;

    while (s && *s) {
        size_t n = strcspn(s, ",");
        char item[64], *equal;
        uint64_t id;
        float x;
        if (n >= sizeof item || j->decoding.n_logit_bias == MAX_BIAS) return false;
        memcpy(item, s, n);
        item[n] = 0;
        if (!(equal = strchr(item, '='))) return false;
        *equal = 0;
        if (!daemon_parse_u64(item, UINT32_MAX, &id) || !daemon_parse_f32(equal + 1, &x)) return false;
        size_t at = j->decoding.n_logit_bias++;
        j->bias[at] = (bias_entry)PHALANX__V1__DECODING__LOGIT_BIAS_ENTRY__INIT;
        j->bias[at].key = (uint32_t)id;
        j->bias[at].value = x;
        j->bias_list[at] = &j->bias[at];
        s += n + (s[n] == ',');
        if (n && s[-1] == ',' && !*s) return false;
    }
    j->decoding.logit_bias = j->bias_list;
    return true;
}

static void fill(job *j)
{
    Phalanx__V1__Sampling *s = &j->sampling;
    Phalanx__V1__Stopping *t = &j->stopping;

    if (j->has_top_k) s->top_k_presence_case = PHALANX__V1__SAMPLING__TOP_K_PRESENCE_TOP_K, s->top_k = j->top_k;
    if (j->has_top_p) s->top_p_presence_case = PHALANX__V1__SAMPLING__TOP_P_PRESENCE_TOP_P, s->top_p = j->top_p;
    if (j->has_min_p) s->min_p_presence_case = PHALANX__V1__SAMPLING__MIN_P_PRESENCE_MIN_P, s->min_p = j->min_p;
    if (j->has_seed) s->seed_presence_case = PHALANX__V1__SAMPLING__SEED_PRESENCE_SEED, s->seed = j->seed;
    if (j->has_max) {
        t->max_new_tokens_presence_case = PHALANX__V1__STOPPING__MAX_NEW_TOKENS_PRESENCE_MAX_NEW_TOKENS;
        t->max_new_tokens = j->max_new_tokens;
    }
    t->stop_token_ids = j->stop_ids;
    t->n_stop_token_ids = j->n_stop_ids;
    for (size_t i = 0; i < j->stop.n; i++) j->stop_bytes[i] = daemon_prompt_bytes(j->stop.v[i]);
    t->stop_strings = j->stop_bytes;
    t->n_stop_strings = j->stop.n;
    t->include_stop_strings = j->include_stop;
    t->ignore_eos = j->ignore_eos;
    j->response.logprobs = j->logprobs;
}

static px_code send_generate(job *j, daemon_client *c, px_time_us deadline, daemon_completion *x, daemon_client_status *st,
                             px_err *e)
{
    Phalanx__V1__GenerateRequest r = PHALANX__V1__GENERATE_REQUEST__INIT;

    r.request_id = daemon_prompt_bytes(j->request_id);
    r.model = daemon_prompt_bytes(j->model);
    r.prompt = &j->prompt.prompt;
    r.sampling = &j->sampling;
    r.decoding = &j->decoding;
    r.stopping = &j->stopping;
    r.response = &j->response;
    r.priority = j->priority;
    if (j->has_temperature) {
        r.temperature_presence_case = PHALANX__V1__GENERATE_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE;
        r.temperature = j->temperature;
    }
    return daemon_client_call(c, "/phalanx.v1.Inference/Generate", &r.base, &phalanx__v1__generate_response__descriptor,
                              deadline, daemon_completion_take, x, st, e);
}

static px_code send_chat(job *j, daemon_client *c, px_time_us deadline, daemon_completion *x, daemon_client_status *st,
                         px_err *e)
{
    Phalanx__V1__ChatRequest r = PHALANX__V1__CHAT_REQUEST__INIT;

    r.request_id = daemon_prompt_bytes(j->request_id);
    r.model = daemon_prompt_bytes(j->model);
    r.messages = j->prompt.message;
    r.n_messages = j->prompt.n_messages;
    r.sampling = &j->sampling;
    r.decoding = &j->decoding;
    r.stopping = &j->stopping;
    r.response = &j->response;
    r.priority = j->priority;
    if (j->has_temperature) {
        r.temperature_presence_case = PHALANX__V1__CHAT_REQUEST__TEMPERATURE_PRESENCE_TEMPERATURE;
        r.temperature = j->temperature;
    }
    return daemon_client_call(c, "/phalanx.v1.Inference/Chat", &r.base, &phalanx__v1__generate_response__descriptor, deadline,
                              daemon_completion_take, x, st, e);
}

static px_code call(job *j, daemon_completion *x, daemon_client_status *st, px_err *e)
{
    px_time_us now = px_now_us(), deadline = j->has_timeout ? now + j->timeout_us : PX_NEVER;
    daemon_client *c;
    px_code rc = daemon_client_open(&c, j->a, j->address, deadline < now + CONNECT_US ? deadline : now + CONNECT_US, e);

    if (rc) return rc;
    x->begin = px_now_us();
    rc = (daemon_prompt_is_chat(&j->prompt) ? send_chat : send_generate)(j, c, deadline, x, st, e);
    daemon_client_close(c);
    if (!rc && !*x->finish) rc = px_fail(e, PX_ECORRUPT, "finish_info", "the stream ended without one");
    if (!rc && !strcmp(x->finish, "cancelled")) rc = px_fail(e, PX_ECANCELLED, "CANCELLED", "the request was aborted");
    if (!rc && !strcmp(x->finish, "error")) rc = px_fail(e, PX_EINTERNAL, "ERROR", "the request ended with an error");
    return rc;
}

static int run(job *j)
{
    px_err ended = {0}, e = {0};
    daemon_client_status st = {0};
    daemon_completion x;
    int code = DAEMON_EXIT_OK;

    daemon_cli_interrupts();
    if (daemon_completion_init(&x, j->a, j->json, &e)) return daemon_cli_fail("generate", &e);
    call(j, &x, &st, &ended);
    if (!j->json && x.ids.n && !x.text.n)                /* a set without a tokenizer */
        for (size_t i = 0; i < x.ids.n; i++) printf("%s%u", i ? " " : "", x.ids.id[i]);
    if (!j->json && x.ids.n && isatty(1)) putchar('\n');
    fflush(stdout);
    if (ended.code) {
        if (*st.message) snprintf(ended.text, sizeof ended.text, "%.255s", st.message);
        code = daemon_cli_fail("generate", &ended);
        if (st.told && st.retryable) fputs("phalanx generate: it may be tried again\n", stderr);
    }
    if (j->json && daemon_completion_print(&x, &st, &ended, &e)) code = daemon_cli_fail("generate", &e);
    if (j->stats || (!j->json && x.ids.n && isatty(1) && isatty(2))) daemon_completion_stats(&x);
    daemon_completion_deinit(&x);
    return code;
}

int daemon_cli_generate(px_alloc *a, int argc, char **argv)
{
    job *j = px_new(a, job, 1);
    daemon_command c;
    px_err e = {0};
    int code;

    if (!j) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("generate", &e);
    j->a = a;
    j->address = "127.0.0.1:50051";
    daemon_prompt_init(&j->prompt, a);
    j->sampling = (Phalanx__V1__Sampling)PHALANX__V1__SAMPLING__INIT;
    j->decoding = (Phalanx__V1__Decoding)PHALANX__V1__DECODING__INIT;
    j->stopping = (Phalanx__V1__Stopping)PHALANX__V1__STOPPING__INIT;
    j->response = (Phalanx__V1__ResponseOptions)PHALANX__V1__RESPONSE_OPTIONS__INIT;
    if ((code = parse(j, &c, argc, argv)) >= 0) goto done;
    daemon_cli_interrupts();
    if (daemon_prompt_read(&j->prompt, &e) ||
        (j->stop_ids_text && daemon_parse_ids(a, "stop-token-ids", j->stop_ids_text, strlen(j->stop_ids_text), &j->stop_ids,
                                              &j->n_stop_ids, &e))) {
        char line[1200];
        code = e.code == PX_EINVAL ? daemon_options_complain(&c, "%s", px_err_format(&e, line, sizeof line))
                                   : daemon_cli_fail("generate", &e);
        goto done;
    }
    if (!parse_bias(j)) {
        code = daemon_options_complain(&c, "--logit-bias: \"%.100s\" is no list ID=X,ID=X of at most %u", j->bias_text, MAX_BIAS);
        goto done;
    }
    fill(j);
    code = run(j);

done:
    if (j->stop_ids) px_del(a, j->stop_ids, j->n_stop_ids);
    daemon_prompt_deinit(&j->prompt);
    px_del(a, j, 1);
    return code;
}
