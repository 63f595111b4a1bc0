/* Whether a plan fits: ranks of one host and ranks on one GPU are taken together, and the refusal says what would fit. */
#include "daemon/coordinator/coldstart.h"
#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>

#define WORLD 4u
#define BLOCK 16u
#define NCCL_PIECE (2u << 20)

typedef struct world {
    proto_config config;
    daemon_engine_args args;
    daemon_status status;
    daemon_rank_info rank[WORLD];
    shard_rank_bytes plan[WORLD];
    int kv_fd[WORLD];
    daemon_coldstart c;
} world;

/* Ranks 0 and 1 on host a, 2 and 3 on host b; on each host a GPU of its own for each rank. */
static void init(world *w, bool device)
{
    *w = (world){ .config = { .device = device ? PROTO_DEVICE_CUDA : PROTO_DEVICE_CPU, .kv_block = BLOCK, .kv_tokens = 10 * BLOCK } };
    w->args.config = &w->config;
    w->status.rank = w->rank;
    w->status.world = WORLD;
    w->c = (daemon_coldstart){ .args = &w->args, .status = &w->status, .plan = w->plan, .world = WORLD, .n_blocks = 10, .kv_fd = w->kv_fd };
    for (uint32_t r = 0; r < WORLD; r++) {
        daemon_rank_info *i = &w->rank[r];
        snprintf(i->host, sizeof i->host, "host-%c", r < 2 ? 'a' : 'b');
        snprintf(i->boot_id, sizeof i->boot_id, "boot-%c", r < 2 ? 'a' : 'b');
        i->free_bytes = 100000;
        i->gpu.ordinal = r % 2;
        i->gpu.free_bytes = 50000;
        w->kv_fd[r] = -1;
        w->plan[r] = (shard_rank_bytes){ .backend = device ? KERN_ON_CUDA : KERN_ON_CPU, .kv_block_bytes = 1000, .kv_pool = 10000,
                                         .total = device ? 20000 : 30000, .device_total = device ? 40000 : 0 };
    }
}

static px_err refused(const world *w, const char *field, int rank)
{
    char detail[160] = "";
    px_err e = {0};

    assert_int_equal(daemon_coldstart_fit(&w->c, detail, sizeof detail, &e), PX_ERANGE);
    assert_string_equal(e.field, field);
    assert_int_equal(e.rank, rank);
    assert_string_equal(e.host, w->rank[rank].host);
    return e;
}

static void fits(const world *w, const char *expected)
{
    char detail[160] = "";
    px_err e = {0};

    assert_int_equal(daemon_coldstart_fit(&w->c, detail, sizeof detail, &e), PX_OK);
    assert_string_equal(detail, expected);
}

static void ranks_of_a_host_share_its_memory(void **state)
{
    world w;
    px_err e;
    (void)state;
    init(&w, false);
    w.rank[3].free_bytes = 61000;
    fits(&w, "10 KV blocks, 1000 bytes stay free on the fullest host");
    w.rank[3].free_bytes = 60000;                       /* the least that any rank of the host saw */
    fits(&w, "10 KV blocks, 0 bytes stay free on the fullest host");
    w.rank[3].free_bytes = 59999;
    e = refused(&w, "kv.tokens", 3);
    assert_string_equal(e.found, "160 tokens");
    assert_string_equal(e.expected, "at most 144 tokens");
    assert_non_null(strstr(e.text, "host host-b need 60000 bytes, 20000 of them"));
    w.rank[3].free_bytes = 40000;
    e = refused(&w, "memory", 3);
    assert_string_equal(e.found, "40000 bytes free");
    assert_string_equal(e.expected, "more than 40000 bytes for weights and buffers");
}

static void what_a_former_job_left_is_not_asked_for_again(void **state)
{
    world w;
    (void)state;
    init(&w, false);
    w.rank[0].free_bytes = 45000;
    refused(&w, "kv.tokens", 0);
    w.kv_fd[0] = w.kv_fd[1] = 5;
    fits(&w, "10 KV blocks, 5000 bytes stay free on the fullest host");
}

static void a_gpu_is_a_memory_of_its_own(void **state)
{
    world w;
    px_err e;
    (void)state;
    init(&w, true);
    w.rank[1].free_bytes = 40000;                       /* the KV cache is not the host's */
    fits(&w, "10 KV blocks, 10000 bytes stay free on the fullest GPU");
    w.rank[2].gpu.free_bytes = 36999;
    e = refused(&w, "kv.tokens", 2);
    assert_string_equal(e.expected, "at most 96 tokens");
    assert_non_null(strstr(e.text, "GPU 0 of host host-b need 40000 bytes, 10000 of them"));
    w.rank[2].gpu.free_bytes = 30000;
    e = refused(&w, "gpu.memory", 2);
    assert_string_equal(e.expected, "more than 30000 bytes for weights and buffers");
    w.rank[2].gpu.free_bytes = 50000;
    w.rank[1].free_bytes = 39999;
    refused(&w, "memory", 1);
}

static void ranks_on_one_gpu_share_it(void **state)
{
    world w;
    px_err e;
    (void)state;
    init(&w, true);
    w.rank[3].gpu.ordinal = 0;
    e = refused(&w, "gpu.memory", 2);
    assert_non_null(strstr(e.text, "GPU 0 of host host-b"));
    w.rank[2].gpu.free_bytes = 90000, w.rank[3].gpu.free_bytes = 80000;
    fits(&w, "10 KV blocks, 0 bytes stay free on the fullest GPU");
    w.rank[3].gpu.free_bytes = 79999;
    e = refused(&w, "kv.tokens", 3);
    assert_string_equal(e.expected, "at most 144 tokens");
}

static void nccl_takes_its_piece(void **state)
{
    world w;
    (void)state;
    init(&w, true);
    w.c.nccl = true;
    for (uint32_t r = 0; r < WORLD; r++) w.rank[r].gpu.free_bytes = 40000 + NCCL_PIECE;
    fits(&w, "10 KV blocks, 0 bytes stay free on the fullest GPU");
    w.rank[0].gpu.free_bytes--;
    refused(&w, "kv.tokens", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(ranks_of_a_host_share_its_memory),
                                        cmocka_unit_test(what_a_former_job_left_is_not_asked_for_again),
                                        cmocka_unit_test(a_gpu_is_a_memory_of_its_own), cmocka_unit_test(ranks_on_one_gpu_share_it),
                                        cmocka_unit_test(nccl_takes_its_piece) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
