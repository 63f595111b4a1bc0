/* score: log-probabilities of a given text, a line a position. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/client.h"
#include "daemon/cli/prompt.h"

#define CONNECT_US 10000000ll

typedef struct job {
    px_alloc     *a;
    daemon_prompt prompt;
    const char   *address, *request_id, *model;
    uint32_t      top;
    int64_t       timeout_us;
    bool          has_timeout, json, stats;
    uint64_t      n_lines, n_scored;
    double        sum;
} job;

/* JSON has no infinities: the lowest float stands for minus infinity.  %.9g gives every float back. */
static void put_number(float v, bool json)
{
    if (!json) printf("%.9g", (double)v);
    else if (isnan(v)) fputs("null", stdout);
    else printf("%.9g", (double)(isinf(v) ? v < 0 ? -FLT_MAX : FLT_MAX : v));
}

static void put_json(const Phalanx__V1__ScoreResponse *r, bool has_id, bool has_logprob)
{
    printf("{\"position\": %u, \"id\": ", r->position);
    if (has_id) printf("%u", r->id);
    else fputs("null", stdout);
    fputs(", \"logprob\": ", stdout);
    if (has_logprob) put_number(r->logprob, true);
    else fputs("null", stdout);
    fputs(", \"top\": [", stdout);
    for (size_t i = 0; i < r->n_top_ids; i++) {
        printf(i ? ", [%u, " : "[%u, ", r->top_ids[i]);
        put_number(r->top_logprobs[i], true);
        putchar(']');
    }
    puts("]}");
}

static void put_text(const Phalanx__V1__ScoreResponse *r, bool has_id, bool has_logprob)
{
    printf("%u\t", r->position);
    if (has_id) printf("%u\t", r->id);
    else fputs("-\t", stdout);
    if (has_logprob) put_number(r->logprob, false);
    else putchar('-');
    for (size_t i = 0; i < r->n_top_ids; i++) {
        printf("\t%u:", r->top_ids[i]);
        put_number(r->top_logprobs[i], false);
    }
    putchar('\n');
}

static px_code take(void *ctx, const ProtobufCMessage *m, px_err *e)
{
    job *j = ctx;
    const Phalanx__V1__ScoreResponse *r = (const Phalanx__V1__ScoreResponse *)m;
    bool has_id = r->id_presence_case == PHALANX__V1__SCORE_RESPONSE__ID_PRESENCE_ID;
    bool has_logprob = r->logprob_presence_case == PHALANX__V1__SCORE_RESPONSE__LOGPROB_PRESENCE_LOGPROB;

    if (r->n_top_ids != r->n_top_logprobs) return px_fail(e, PX_ECORRUPT, "top_logprobs", "not as many as top_ids");
    j->n_lines++;
    if (has_logprob) {
        j->n_scored++;
        j->sum -= r->logprob;
    }
    (j->json ? put_json : put_text)(r, has_id, has_logprob);
    return ferror(stdout) ? px_fail_errno(e, "stdout", "write") : PX_OK;
}

static px_code call(job *j, daemon_client_status *st, px_err *e)
{
    px_time_us now = px_now_us(), deadline = j->has_timeout ? now + j->timeout_us : PX_NEVER;
    Phalanx__V1__ScoreRequest r = PHALANX__V1__SCORE_REQUEST__INIT;
    daemon_client *c;
    px_code rc = daemon_client_open(&c, j->a, j->address, deadline < now + CONNECT_US ? deadline : now + CONNECT_US, e);

    if (rc) return rc;
    r.request_id = daemon_prompt_bytes(j->request_id);
    r.model = daemon_prompt_bytes(j->model);
    r.prompt = &j->prompt.prompt;
    r.top = j->top;
    rc = daemon_client_call(c, "/phalanx.v1.Inference/Score", &r.base, &phalanx__v1__score_response__descriptor, deadline,
                            take, j, st, e);
    daemon_client_close(c);
    return rc;
}

static int run(job *j)
{
    static char buffer[1 << 20];             /* of standard output, until the program ends */
    daemon_client_status st = {0};
    px_err e = {0};

    daemon_cli_interrupts();
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (call(j, &st, &e)) {
        if (*st.message && e.code != PX_ECANCELLED) snprintf(e.text, sizeof e.text, "%.255s", st.message);
        return daemon_cli_fail("score", &e);
    }
    fflush(stdout);
    if (j->stats && j->n_scored)
        fprintf(stderr, "%llu tokens scored, %.6f nats a token, perplexity %.4f\n", (unsigned long long)j->n_scored,
                j->sum / (double)j->n_scored, exp(j->sum / (double)j->n_scored));
    return DAEMON_EXIT_OK;
}

int daemon_cli_score(px_alloc *a, int argc, char **argv)
{
    job *j = px_new(a, job, 1);
    px_err e = {0};
    int code;

    if (!j) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("score", &e);
    j->a = a;
    j->address = "127.0.0.1:50051";
    daemon_prompt_init(&j->prompt, a);
    const daemon_option options[] = {
        { "prompt-ids", DAEMON_OPT_TEXT, "1,2,3", "token ids instead of TEXT", &j->prompt.ids_text, NULL },
        { "top", DAEMON_OPT_U32, "K", "the K best of every position, up to the vocabulary, and to 2^20 (default: 0)", &j->top, NULL },
        { "address", DAEMON_OPT_ADDRESS, "HOST:PORT", "of the server (default: 127.0.0.1:50051)", &j->address, NULL },
        { "model", DAEMON_OPT_TEXT, "NAME", "refuse a server of another model", &j->model, NULL },
        { "request-id", DAEMON_OPT_TEXT, "ID", "default: the server makes one", &j->request_id, NULL },
        { "timeout", DAEMON_OPT_SECONDS, "S", "deadline of the call in seconds (default: none)", &j->timeout_us, &j->has_timeout },
        { "stats", DAEMON_OPT_FLAG, NULL, "nats a token and perplexity on standard error", &j->stats, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "a JSON object a line", &j->json, NULL },
    };
    daemon_command c = { .name = "score", .line = "[TEXT | --prompt-ids 1,2,3] [--top K] [--address HOST:PORT] [--json]",
        .about = "Log-probabilities of a text, a line for every position i from 0: the next id, its log-probability, and the\n"
                 "best of the distribution after ids 0 to i, best first.  TEXT and ids may be - for standard input.\n"
                 "With --json a line is {\"position\": i, \"id\": ids[i+1] or null, \"logprob\": x or null, \"top\": [[id, logprob],\n"
                 "...]}; minus infinity is written as -3.40282347e+38.  Without it, the same in columns between tabs.",
        .option = options, .n_options = sizeof options / sizeof *options, .most = 1, .arg = &j->prompt.text };
    if ((code = daemon_options_parse(&c, argc, argv)) >= 0) goto done;
    daemon_cli_interrupts();
    if (daemon_prompt_read(&j->prompt, &e)) {
        char line[1200];
        code = e.code == PX_EINVAL ? daemon_options_complain(&c, "%s", px_err_format(&e, line, sizeof line))
                                   : daemon_cli_fail("score", &e);
        goto done;
    }
    code = run(j);

done:
    daemon_prompt_deinit(&j->prompt);
    px_del(a, j, 1);
    return code;
}
