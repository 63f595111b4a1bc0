/* info: what a server says of itself: state, cold start, the plan beside what was measured. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/client.h"
#include "daemon/cli/json.h"
#include "daemon/cli/options.h"
#include "daemon/cli/table.h"
#include "phalanx/v1/control.pb-c.h"

#define CONNECT_US 10000000ll

typedef Phalanx__V1__GetServerInfoResponse server_info;
typedef Phalanx__V1__GetModelInfoResponse  model_info;
typedef Phalanx__V1__RankInfo              rank_info;

typedef struct job {
    px_alloc   *a;
    const char *address;
    int64_t     timeout_us;
    bool        json;
    json_t     *doc;               /* owned */
} job;

/* ---- as text ---- */

static void print_state(const server_info *s)
{
    printf("%s: %s%s%s\n", s->version, s->state, *s->state_detail ? ": " : "", s->state_detail);
    printf("generation %" PRIu64 ", transport %s, %u running, %u waiting, KV blocks %u of %u free, %" PRIu64 " steps\n",
           s->generation, *s->transport ? s->transport : "-", s->running, s->waiting, s->kv_blocks_free, s->kv_blocks_total,
           s->steps);
}

static px_code print_cold_start(px_alloc *a, const server_info *s, px_err *e)
{
    daemon_table t;
    px_code rc;
    uint64_t sum = 0;

    if (!s->n_cold_start) return PX_OK;
    puts("\ncold start");
    daemon_table_init(&t, a, 5);
    for (size_t i = 0; i < s->n_cold_start; i++) {
        const Phalanx__V1__ColdStartStep *c = s->cold_start[i];
        if (!c) continue;
        daemon_table_put(&t, "  %s", c->name);
        daemon_table_put(&t, "%s", c->state);
        daemon_table_put(&t, "%u %%", c->percent);
        daemon_table_put(&t, "%.1f ms", (double)c->duration_us / 1e3);
        if (c->deadline_us) daemon_table_put(&t, "of %.0f s", (double)c->deadline_us / 1e6);
        else daemon_table_put(&t, "%s", "");
        sum += c->duration_us;
    }
    daemon_table_put(&t, "  all");
    daemon_table_put(&t, "%s", "");
    daemon_table_put(&t, "%s", "");
    daemon_table_put(&t, "%.1f ms", (double)sum / 1e3);
    daemon_table_put(&t, "%s", "");
    rc = daemon_table_print(&t, stdout, e);
    daemon_table_deinit(&t);
    for (size_t i = 0; i < s->n_cold_start; i++)
        if (s->cold_start[i] && *s->cold_start[i]->detail)
            printf("  %s: %s\n", s->cold_start[i]->name, s->cold_start[i]->detail);
    return rc;
}


static px_code print_ranks(px_alloc *a, const server_info *s, px_err *e)
{
    static const char *const head[] = { "rank", "host", "pid", "cpu", "", "weights", "KV", "arenas", "step", "comm", "sum",
                                        "resident" };
    daemon_table t;
    px_code rc;

    if (!s->n_ranks) return PX_OK;
    puts("\nmemory of the ranks in bytes");
    daemon_table_init(&t, a, sizeof head / sizeof *head);
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) daemon_table_put(&t, "%s", head[i]);
    for (size_t i = 0; i < s->n_ranks; i++) {
        const rank_info *r = s->ranks[i];
        if (!r) continue;
        uint64_t row[2][5] = { { r->weights_planned, r->kv_planned, r->arena_planned, r->step_planned, r->comm_planned },
                               { r->weights_measured, r->kv_measured, r->arena_measured, r->step_measured, r->comm_measured } };
        for (int k = 0; k < 2; k++) {
            uint64_t sum = 0;
            if (k) for (int c = 0; c < 4; c++) daemon_table_put(&t, "%s", "");
            else {
                daemon_table_put(&t, "%u", r->rank);
                daemon_table_put(&t, "%s", r->host);
                daemon_table_put(&t, "%u", r->pid);
                daemon_table_put(&t, "%s", r->cpu_path);
            }
            daemon_table_put(&t, "%s", k ? "measured" : "planned");
            for (int c = 0; c < 5; c++) {
                daemon_table_bytes(&t, row[k][c]);
                sum += row[k][c];
            }
            daemon_table_bytes(&t, sum);
            if (k) daemon_table_bytes(&t, r->rss_bytes);
            else daemon_table_put(&t, "%s", "");
        }
    }
    rc = daemon_table_print(&t, stdout, e);
    daemon_table_deinit(&t);
    puts("resident is the operating system's figure for the whole process, shared pages and libraries included.");
    return rc;
}

static void print_model(const model_info *m)
{
    printf("\n%s: %s, %u layers, %u heads in %u KV groups, vocabulary %u, context %u, %s\n",
           *m->name ? m->name : "model", m->family, m->n_layer, m->n_head, m->n_kv_head, m->n_vocab, m->context, m->arithmetic);
    printf("cut for %u rank%s, %s tokenizer, chat template %s, %" PRIu64 " bytes of KV a token\n", m->ranks,
           m->ranks == 1 ? "" : "s", m->has_tokenizer ? "with" : "without", *m->chat_template ? m->chat_template : "none",
           m->kv_bytes_per_token);
}

/* ---- calls ---- */

static px_code add_json(job *j, const char *key, const ProtobufCMessage *m, px_err *e)
{
    if (json_object_set_new(j->doc, key, daemon_json_of(m))) return px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    return PX_OK;
}

static px_code take_server(void *ctx, const ProtobufCMessage *m, px_err *e)
{
    job *j = ctx;
    const server_info *s = (const server_info *)m;
    px_code rc;

    if (j->json) return add_json(j, "server", m, e);
    print_state(s);
    if ((rc = print_cold_start(j->a, s, e))) return rc;
    return print_ranks(j->a, s, e);
}

static px_code take_model(void *ctx, const ProtobufCMessage *m, px_err *e)
{
    job *j = ctx;

    if (j->json) return add_json(j, "model", m, e);
    print_model((const model_info *)m);
    return PX_OK;
}

static px_code ask(job *j, px_err *e)
{
    px_time_us deadline = px_now_us() + j->timeout_us;
    Phalanx__V1__GetServerInfoRequest server = PHALANX__V1__GET_SERVER_INFO_REQUEST__INIT;
    Phalanx__V1__GetModelInfoRequest model = PHALANX__V1__GET_MODEL_INFO_REQUEST__INIT;
    daemon_client_status st = {0};
    daemon_client *c;
    px_code rc = daemon_client_open(&c, j->a, j->address, deadline, e);

    if (rc) return rc;
    rc = daemon_client_call(c, "/phalanx.v1.Control/GetServerInfo", &server.base,
                            &phalanx__v1__get_server_info_response__descriptor, deadline, take_server, j, &st, e);
    if (!rc) {
        rc = daemon_client_call(c, "/phalanx.v1.Control/GetModelInfo", &model.base,
                                &phalanx__v1__get_model_info_response__descriptor, deadline, take_model, j, &st, e);
        if (rc == PX_EPEER) {                    /* it is starting: the server's own state says so */
            px_err_clear(e);
            rc = PX_OK;
            if (j->json) json_object_set_new(j->doc, "model", json_null());
        }
    }
    daemon_client_close(c);
    return rc;
}

int daemon_cli_info(px_alloc *a, int argc, char **argv)
{
    job j = { .a = a, .address = "127.0.0.1:50051", .timeout_us = CONNECT_US };
    px_err e = {0};
    const daemon_option options[] = {
        { "address", DAEMON_OPT_ADDRESS, "HOST:PORT", "of the server (default: 127.0.0.1:50051)", &j.address, NULL },
        { "timeout", DAEMON_OPT_SECONDS, "S", "seconds until it must have answered (default: 10)", &j.timeout_us, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "one JSON object: server (GetServerInfo), model (GetModelInfo; null while it starts)",
          &j.json, NULL },
    };
    daemon_command c = { .name = "info", .line = "[--address HOST:PORT] [--json]",
        .about = "State, cold start, and the memory plan of every rank beside what was measured.",
        .option = options, .n_options = sizeof options / sizeof *options };
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    daemon_cli_interrupts();
    if (!(j.doc = json_object())) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("info", &e);
    code = DAEMON_EXIT_OK;
    if (ask(&j, &e)) {
        code = daemon_cli_fail("info", &e);
    } else if (j.json) {
        json_dumpf(j.doc, stdout, JSON_INDENT(1));
        putchar('\n');
    }
    json_decref(j.doc);
    return code;
}
