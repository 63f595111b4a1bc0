/* The plan of a running service beside its readings: arenas to the byte, estimates with their bounds, allocators. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/client.h"
#include "daemon/cli/json.h"
#include "daemon/cli/table.h"
#include "phalanx/v1/control.pb-c.h"

#define ANSWER_US 10000000ll

typedef Phalanx__V1__GetServerInfoResponse server_info;
typedef Phalanx__V1__RankInfo              rank_info;
typedef Phalanx__V1__Estimate              estimate;
typedef Phalanx__V1__Subsystem             subsystem;

typedef struct job {
    px_alloc *a;
    bool      json, differs;
    uint32_t  outside;                     /* readings beyond the bounds of their estimate */
} job;

/* ---- what is compared ---- */

typedef struct arena { const char *name; uint64_t planned, actual; } arena;
#define N_ARENAS 6u                        /* the last is their sum */

static void arenas_of(const rank_info *r, arena x[N_ARENAS])
{
    const arena v[] = { { "weights", r->weights_planned, r->weights_measured }, { "kv", r->kv_planned, r->kv_measured },
                        { "arena", r->arena_planned, r->arena_measured },       { "step", r->step_planned, r->step_measured },
                        { "comm", r->comm_planned, r->comm_measured } };

    x[N_ARENAS - 1] = (arena){ "sum", 0, 0 };
    for (size_t i = 0; i + 1 < N_ARENAS; i++) {
        x[i] = v[i];
        x[N_ARENAS - 1].planned += v[i].planned;
        x[N_ARENAS - 1].actual += v[i].actual;
    }
}

static int64_t difference(const arena *x) { return (int64_t)(x->actual - x->planned); }
static bool within(const estimate *x) { return x->low <= x->measured && x->measured <= x->high; }

static double percent(const estimate *x)
{
    if (x->measured == x->estimated) return 0;
    return x->estimated ? 100.0 * ((double)x->measured / (double)x->estimated - 1) : 100;
}

static void judge(job *j, const server_info *s)
{
    arena x[N_ARENAS];

    for (size_t i = 0; i < s->n_ranks; i++) {
        arenas_of(s->ranks[i], x);
        for (size_t k = 0; k < N_ARENAS; k++) j->differs |= difference(&x[k]) != 0;
        for (size_t k = 0; k < s->ranks[i]->n_others; k++) j->outside += !within(s->ranks[i]->others[k]);
    }
}

/* ---- as text ---- */

static void table_begin(const job *j, daemon_table *t, size_t n, const char *const *head)
{
    daemon_table_init(t, j->a, n);
    for (size_t i = 0; i < n; i++) daemon_table_put(t, "%s", head[i]);
}

static px_code table_end(daemon_table *t, px_err *e)
{
    px_code rc = daemon_table_print(t, stdout, e);

    daemon_table_deinit(t);
    putchar('\n');
    return rc;
}

static px_code print_arenas(job *j, const rank_info *r, px_err *e)
{
    static const char *const head[] = { "arena", "planned", "actual", "difference" };
    arena x[N_ARENAS];
    daemon_table t;

    printf("rank %u on %s, pid %u\n", r->rank, r->host, r->pid);
    table_begin(j, &t, 4, head);
    arenas_of(r, x);
    for (size_t i = 0; i < N_ARENAS; i++) {
        daemon_table_put(&t, "  %s", x[i].name);
        daemon_table_bytes(&t, x[i].planned);
        daemon_table_bytes(&t, x[i].actual);
        daemon_table_put(&t, "%+" PRId64, difference(&x[i]));
    }
    return table_end(&t, e);
}

static px_code print_others(job *j, const rank_info *r, px_err *e)
{
    static const char *const head[] = { "not ours", "estimated", "measured", "difference %", "bounds", "" };
    daemon_table t;

    table_begin(j, &t, 6, head);
    for (size_t i = 0; i < r->n_others; i++) {
        const estimate *x = r->others[i];
        daemon_table_put(&t, "  %s", x->kind);
        daemon_table_bytes(&t, x->estimated);
        daemon_table_bytes(&t, x->measured);
        daemon_table_put(&t, "%+.1f", percent(x));
        daemon_table_put(&t, "%" PRIu64 " to %" PRIu64, x->low, x->high);
        daemon_table_put(&t, "%s", within(x) ? "" : "OUTSIDE");
    }
    return table_end(&t, e);
}

static px_code print_subsystems(job *j, const server_info *s, px_err *e)
{
    static const char *const head[] = { "allocator", "of", "live", "peak" };
    daemon_table t;

    table_begin(j, &t, 4, head);
    for (size_t i = 0; i < s->n_ranks; i++)
        for (size_t k = 0; k < s->ranks[i]->n_subsystems; k++) {
            const subsystem *x = s->ranks[i]->subsystems[k];
            daemon_table_put(&t, "%s", x->name);
            daemon_table_put(&t, "rank %u", s->ranks[i]->rank);
            daemon_table_bytes(&t, x->live_bytes);
            daemon_table_bytes(&t, x->peak_bytes);
        }
    for (size_t k = 0; k < s->n_subsystems; k++) {
        daemon_table_put(&t, "%s", s->subsystems[k]->name);
        daemon_table_put(&t, "coordinator");
        daemon_table_bytes(&t, s->subsystems[k]->live_bytes);
        daemon_table_bytes(&t, s->subsystems[k]->peak_bytes);
    }
    return table_end(&t, e);
}

static px_code print_all(job *j, const server_info *s, px_err *e)
{
    px_code rc = PX_OK;

    printf("%s, generation %" PRIu64 ", transport %s; ranks as they became ready, the coordinator as it is now\n\n", s->version,
           s->generation, s->transport);
    for (size_t i = 0; !rc && i < s->n_ranks; i++)
        if (!(rc = print_arenas(j, s->ranks[i], e))) rc = print_others(j, s->ranks[i], e);
    if (rc || (rc = print_subsystems(j, s, e))) return rc;
    if (j->differs) printf("verdict: DIFFERENT, arenas are not what was planned");
    else printf("verdict: equal, every arena of %zu rank%s is what was planned, to the byte", s->n_ranks, s->n_ranks == 1 ? "" : "s");
    if (j->outside) printf("; %u estimate%s beyond their bounds\n", j->outside, j->outside == 1 ? " is" : "s are");
    else printf("; estimates are within their bounds\n");
    return PX_OK;
}

/* ---- as JSON ---- */

static json_t *arenas_json(const rank_info *r)
{
    json_t *list = json_array();
    arena x[N_ARENAS];

    arenas_of(r, x);
    for (size_t i = 0; i + 1 < N_ARENAS; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I}", "arena", x[i].name, "planned", (json_int_t)x[i].planned,
                                              "actual", (json_int_t)x[i].actual, "difference", (json_int_t)difference(&x[i])));
    return list;
}

static json_t *others_json(const rank_info *r)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->n_others; i++) {
        const estimate *x = r->others[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:b}", "kind", x->kind, "estimated",
                              (json_int_t)x->estimated, "low", (json_int_t)x->low, "high", (json_int_t)x->high, "measured",
                              (json_int_t)x->measured, "difference_percent", percent(x), "within", (int)within(x)));
    }
    return list;
}

static json_t *subsystems_json(subsystem *const *v, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) json_array_append_new(list, daemon_json_of(&v[i]->base));
    return list;
}

static px_code print_json(const job *j, const server_info *s, px_err *e)
{
    json_t *ranks = json_array(), *doc;
    int bad;

    for (size_t i = 0; i < s->n_ranks; i++) {
        const rank_info *r = s->ranks[i];
        json_array_append_new(ranks, json_pack("{s:i, s:s, s:i, s:o, s:o, s:o}", "rank", (int)r->rank, "host", r->host, "pid",
                              (int)r->pid, "arenas", arenas_json(r), "others", others_json(r), "subsystems",
                              subsystems_json(r->subsystems, r->n_subsystems)));
    }
    doc = json_pack("{s:i, s:s, s:I, s:s, s:b, s:i, s:o, s:o}", "schema", 1, "version", s->version, "generation",
                    (json_int_t)s->generation, "transport", s->transport, "equal", (int)!j->differs, "outside_bounds",
                    (int)j->outside, "ranks", ranks, "coordinator", subsystems_json(s->subsystems, s->n_subsystems));
    if (!doc || json_array_size(json_object_get(doc, "ranks")) != s->n_ranks) {
        json_decref(doc);
        return px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    }
    bad = json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(doc);
    putchar('\n');
    return bad ? px_fail(e, PX_EIO, "standard output", "could not be written") : PX_OK;
}

/* ---- the call ---- */

static px_code take(void *ctx, const ProtobufCMessage *m, px_err *e)
{
    const server_info *s = (const server_info *)m;
    job *j = ctx;

    if (strcmp(s->state, "ready"))
        return px_fail(e, PX_EPEER, "state", "the service is not ready but %s%s%s", s->state, *s->state_detail ? ": " : "", s->state_detail);
    if (!s->n_ranks) return px_fail(e, PX_ECORRUPT, "ranks", "the service names no ranks");
    judge(j, s);
    return j->json ? print_json(j, s, e) : print_all(j, s, e);
}

/* Exit code: DAEMON_EXIT_REFUSED if anything that is ours differs from its plan, DAEMON_EXIT_UNAVAILABLE if nobody answers
 * at the address or the service is not ready.  `phalanx plan` has checked the arguments: ADDRESS [--json]. */
int daemon_cli_compare(px_alloc *a, int argc, char **argv)
{
    Phalanx__V1__GetServerInfoRequest ask = PHALANX__V1__GET_SERVER_INFO_REQUEST__INIT;
    px_time_us deadline = px_now_us() + ANSWER_US;
    job j = { .a = a, .json = argc > 2 };
    daemon_client_status st = { 0 };
    px_err e = { 0 };
    daemon_client *c;
    px_code rc;

    if (argc < 2) return DAEMON_EXIT_USAGE;
    daemon_cli_interrupts();
    if (!(rc = daemon_client_open(&c, a, argv[1], deadline, &e))) {
        rc = daemon_client_call(c, "/phalanx.v1.Control/GetServerInfo", &ask.base,
                                &phalanx__v1__get_server_info_response__descriptor, deadline, take, &j, &st, &e);
        daemon_client_close(c);
    }
    if (rc) return daemon_cli_fail("plan", &e);
    return j.differs ? DAEMON_EXIT_REFUSED : DAEMON_EXIT_OK;
}
