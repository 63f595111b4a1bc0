/* A job that is lost is told by its cause, whichever rank's socket is looked at first. */
#include "daemon/coordinator/engine_inside.h"
#include "daemon/rank/convert.h"
#include "tests/testlib.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RANKS = 3 };

static px_heap heap;
static px_log_sink nothing;                 /* logs go to a closed descriptor: what is said is asserted */
static proto_config config = { .queue = 4 };
static daemon_rank_info info[RANKS];
static daemon_engine g;
static int rank_end[RANKS];                 /* the ranks' ends of their sockets */

static void up(void)
{
    const daemon_scheduler_args sched = { .n_blocks = 4, .block = 16, .max_sequences = 2, .token_budget = 8, .max_result_tops = 8 };
    px_err e = {0};

    px_log_init(&nothing, -1, PX_ERROR, -1);
    g = (daemon_engine){ .a = &heap.a, .wake_fd = -1, .args = { .config = &config, .log = &nothing, .signal_fd = -1 } };
    g.status.rank = info;
    g.status.world = g.cold.world = RANKS;
    pthread_mutex_init(&g.door, NULL);
    pthread_mutex_init(&g.status.lock, NULL);
    assert_int_equal(daemon_scheduler_init(&g.sched, g.a, &sched, &e), PX_OK);
    assert_int_equal(daemon_links_open(&g.cold.links, g.a, test_tmpdir(), RANKS, 1, &e), PX_OK);
    g.cold.links.signal_fd = g.cold.links.wake_fd = g.cold.links.job_fd = -1;
    for (uint32_t i = 0; i < RANKS; i++) {
        int both[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both), 0);
        g.cold.links.rank[i].fd = both[0];
        proto_frame_reader_init(&g.cold.links.rank[i].reader, g.a, PROTO_FRAME_CAP);
        rank_end[i] = both[1];
    }
}

static void down(void)
{
    for (uint32_t i = 0; i < RANKS; i++)
        if (rank_end[i] >= 0) close(rank_end[i]);
    daemon_links_close(&g.cold.links);
    daemon_scheduler_deinit(&g.sched);
    pthread_mutex_destroy(&g.status.lock);
    pthread_mutex_destroy(&g.door);
    assert_int_equal(heap.count.live, 0);
}

static void leave(uint32_t rank)
{
    close(rank_end[rank]);
    rank_end[rank] = -1;
}

static void report(uint32_t rank, px_code code, const char *field)
{
    Phalanx__Wire__Report w = PHALANX__WIRE__REPORT__INIT;
    Phalanx__Wire__Error error, *errors = &error;
    px_err said = {0}, e = {0};
    uint8_t *data;
    px_arena arena;
    size_t n;

    px_fail(&said, code, field, "rank %u says it", rank);
    daemon_error_to_wire(&said, &error);
    error.rank = (int32_t)rank;
    w.stage = PHALANX__WIRE__STAGE__SERVE;
    w.errors = &errors;
    w.n_errors = 1;
    px_arena_init(&arena, &heap.a, "wire", 16384, 0, 0);
    assert_int_equal(daemon_pack(&arena.a, &w.base, &data, &n, &e), PX_OK);
    assert_int_equal(proto_frame_send(rank_end[rank], PHALANX__WIRE__FRAME_TYPE__REPORT, 1, data, n, PX_NEVER, &e), PX_OK);
    px_arena_deinit(&arena);
}

static void lost_by(px_code code, const char *field, int rank)
{
    px_err e = {0};

    assert_int_equal(daemon_engine_serve(&g, &e), code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    assert_int_equal(e.rank, rank);
    down();
}

static void a_rank_that_goes_without_a_word(void **state)
{
    (void)state;
    up();
    leave(1);
    lost_by(PX_EPEER, "rank", 1);
}

static void what_another_rank_has_said_is_why_one_is_gone(void **state)
{
    (void)state;
    for (uint32_t who = 0; who < RANKS; who++) {            /* before and behind those that only went */
        up();
        report(who, PX_EDEVICE, "attention");
        for (uint32_t i = 0; i < RANKS; i++) leave(i);
        lost_by(PX_EDEVICE, "attention", (int)who);
    }
}

static void who_misses_a_peer_is_not_the_cause(void **state)
{
    (void)state;
    for (uint32_t who = 0; who < RANKS; who++) {
        up();
        for (uint32_t i = 0; i < RANKS; i++) report(i, i == who ? PX_ETIMEOUT : PX_EPEER, i == who ? "step" : "nccl");
        lost_by(PX_ETIMEOUT, "step", (int)who);
    }
    up();
    for (uint32_t i = 0; i < RANKS; i++) report(i, PX_EPEER, "nccl");
    lost_by(PX_EPEER, "nccl", 0);                           /* all alike: the first */
}

static void an_unexpected_frame_is_no_cause(void **state)
{
    px_err e = {0};

    (void)state;
    up();
    leave(0);
    assert_int_equal(proto_frame_send(rank_end[1], PHALANX__WIRE__FRAME_TYPE__HELLO, 1, "", 0, PX_NEVER, &e), PX_OK);
    lost_by(PX_EPEER, "rank", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_goes_without_a_word),
        cmocka_unit_test(what_another_rank_has_said_is_why_one_is_gone),
        cmocka_unit_test(who_misses_a_peer_is_not_the_cause),
        cmocka_unit_test(an_unexpected_frame_is_no_cause),
    };
    px_heap_init(&heap, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
