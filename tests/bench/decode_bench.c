/* decode_bench.c - prefill and decode speed of a checkpoint with ranks as threads, and where the time goes, as CSV.
 * usage: decode_bench CHECKPOINT [RANKS [THREADS [PATH [SEQUENCES [PROMPT [TOKENS]]]]]]
 *        (2 ranks, 1 thread a rank, auto, 1 sequence, 64 ids, 128 tokens; PATH: auto scalar avx2 avx512)
 * Lines: what,ranks,threads,path,sequences,tokens,seconds,tokens_per_s; then op,ms_per_step,percent of rank 0's decode.
 * `between` is all that is not an op: sums and gathers between ranks (and waiting for them), sampling, book-keeping. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/shard/cluster.h"

enum { OP_EMBED, OP_ADD_NORM, OP_GATHER, OP_QUANT, OP_MATMUL, OP_ROPE, OP_ATTENTION, OP_SWIGLU, OP_CANDIDATES, N_OPS };
static const char *const op_name[N_OPS] = { "embed", "add_norm", "gather", "quant", "matmul", "rope_append", "attention",
                                            "swiglu", "candidates" };
static _Thread_local px_time_us spent_ns[N_OPS];
static const kern_ops *real;

static px_time_us now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define TIMED(op, index)                                                            \
    static px_code timed_##op(kern_dev *d, const kern_##op##_args *a, px_err *e)    \
    {                                                                               \
        const px_time_us from = now_ns();                                           \
        const px_code rc = real->op(d, a, e);                                       \
        spent_ns[index] += now_ns() - from;                                         \
        return rc;                                                                  \
    }
TIMED(embed, OP_EMBED)
TIMED(add_norm, OP_ADD_NORM)
TIMED(gather, OP_GATHER)
TIMED(quant, OP_QUANT)
TIMED(matmul, OP_MATMUL)
TIMED(rope_append, OP_ROPE)
TIMED(attention, OP_ATTENTION)
TIMED(swiglu, OP_SWIGLU)
TIMED(candidates, OP_CANDIDATES)

typedef struct job {
    uint32_t n_seq, n_prompt, n_new, n_vocab, budget, block;
    px_time_us prefill_ns, decode_ns, op_ns[N_OPS];
    px_code rc[COMM_MAX_WORLD];
    px_err  e[COMM_MAX_WORLD];
} job;

static px_code prefill(job *j, shard_executor *x, px_err *e)
{
    static const shard_sampling greedy = { .top_p = 1 };
    const uint32_t per_slot = (j->n_prompt + j->n_new + j->block) / j->block;
    uint32_t block[1024], id[4096];
    shard_result r;
    px_code rc;

    for (uint32_t i = 0; i < j->n_prompt; i++) id[i] = (i * 7919u + 13) % j->n_vocab;
    for (uint32_t s = 0; s < j->n_seq; s++) {
        for (uint32_t i = 0; i < per_slot; i++) block[i] = s * per_slot + i;
        const shard_slot_op op = { .slot = s, .block = block, .n_blocks = per_slot, .sampling = greedy };
        if ((rc = shard_executor_step_all(x, &(shard_step){ .op = &op, .n_ops = 1 }, &r, e))) return rc;
        for (uint32_t at = 0, m; at < j->n_prompt; at += m) {
            m = j->n_prompt - at < j->budget ? j->n_prompt - at : j->budget;
            const bool last = at + m == j->n_prompt;
            const shard_entry en = { .slot = s, .first_pos = at, .n = m, .id = id + at,
                                     .rows = last ? SHARD_ROWS_LAST : SHARD_ROWS_NONE, .sample = last };
            if ((rc = shard_executor_step_all(x, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, e))) return rc;
        }
    }
    return PX_OK;
}

static px_code decode(job *j, shard_executor *x, px_err *e)
{
    shard_entry en[256];
    shard_result r;
    px_code rc;

    for (uint32_t i = 0; i < j->n_new; i++) {
        for (uint32_t s = 0; s < j->n_seq; s++)
            en[s] = (shard_entry){ .slot = s, .first_pos = j->n_prompt + i, .n = 1, .rows = SHARD_ROWS_LAST, .sample = true };
        if ((rc = shard_executor_step_all(x, &(shard_step){ .entry = en, .n_entries = j->n_seq }, &r, e))) return rc;
    }
    return PX_OK;
}

static void run(void *ctx, uint32_t rank, shard_executor *x)
{
    job *j = ctx;
    px_time_us t[3];

    if ((j->rc[rank] = shard_executor_warm_up_all(x, &j->e[rank]))) return;
    t[0] = now_ns();
    if ((j->rc[rank] = prefill(j, x, &j->e[rank]))) return;
    t[1] = now_ns();
    memset(spent_ns, 0, sizeof spent_ns);
    if ((j->rc[rank] = decode(j, x, &j->e[rank]))) return;
    t[2] = now_ns();
    if (rank) return;
    j->prefill_ns = t[1] - t[0];
    j->decode_ns = t[2] - t[1];
    memcpy(j->op_ns, spent_ns, sizeof spent_ns);
}

static void die(const px_err *e)
{
    char line[1024];
    fprintf(stderr, "decode_bench: %s\n", px_err_format(e, line, sizeof line));
    exit(1);
}

int main(int argc, char **argv)
{
    static const char *const paths[KERN_N_PATHS] = { "auto", "scalar", "avx2", "avx512" };
    const uint32_t ranks = argc > 2 ? (uint32_t)atoi(argv[2]) : 2, threads = argc > 3 ? (uint32_t)atoi(argv[3]) : 1;
    static job j;
    kern_path path = KERN_PATH_AUTO;
    test_cluster *c;
    kern_ops timed;
    px_err e = {0};
    px_time_us ops = 0;

    for (int i = 0; argc > 4 && i < KERN_N_PATHS; i++)
        if (!strcmp(argv[4], paths[i])) path = (kern_path)i;
    j.n_seq = argc > 5 ? (uint32_t)atoi(argv[5]) : 1;
    j.n_prompt = argc > 6 ? (uint32_t)atoi(argv[6]) : 64;
    j.n_new = argc > 7 ? (uint32_t)atoi(argv[7]) : 128;
    j.block = 16;
    j.budget = 256;
    if (argc < 2 || !ranks || ranks > COMM_MAX_WORLD || !threads || !j.n_seq || j.n_seq > 256 || !j.n_prompt || j.n_prompt > 4096
        || !j.n_new || j.n_new > 8192) {
        fprintf(stderr, "usage: decode_bench CHECKPOINT [RANKS [THREADS [PATH [SEQUENCES [PROMPT [TOKENS]]]]]]\n");
        return 2;
    }
    kern_ftz_set();
    if (kern_cpu_ops(path, &real, &e)) die(&e);
    timed = *real;
    timed.embed = timed_embed;
    timed.add_norm = timed_add_norm;
    timed.gather = timed_gather;
    timed.quant = timed_quant;
    timed.matmul = timed_matmul;
    timed.rope_append = timed_rope_append;
    timed.attention = timed_attention;
    timed.swiglu = timed_swiglu;
    timed.candidates = timed_candidates;
    c = test_cluster_open(&(test_cluster_args){
        .set = test_set(argv[1], SHARD_AS_FILE, ranks), .ops = &timed, .bench = true,
        .demand = { .kv_tokens = j.n_seq * (j.n_prompt + j.n_new + 2 * j.block), .kv_block = j.block, .threads = threads,
                    .max_sequences = j.n_seq > 16 ? j.n_seq : 16, .token_budget = j.budget } }, &e);
    if (!c) die(&e);
    j.n_vocab = test_cluster_manifest(c)->arch.n_vocab;
    test_cluster_run(c, run, &j);
    for (uint32_t k = 0; k < ranks; k++)
        if (j.rc[k]) die(&j.e[k]);

    printf("what,ranks,threads,path,sequences,tokens,seconds,tokens_per_s\n");
    printf("prefill,%u,%u,%s,%u,%u,%.4f,%.1f\n", ranks, threads, real->name, j.n_seq, j.n_seq * j.n_prompt,
           1e-9 * (double)j.prefill_ns, 1e9 * j.n_seq * j.n_prompt / (double)j.prefill_ns);
    printf("decode,%u,%u,%s,%u,%u,%.4f,%.1f\n", ranks, threads, real->name, j.n_seq, j.n_seq * j.n_new,
           1e-9 * (double)j.decode_ns, 1e9 * j.n_seq * j.n_new / (double)j.decode_ns);
    printf("op,ms_per_step,percent\n");
    for (int i = 0; i < N_OPS; i++) {
        printf("%s,%.4f,%.1f\n", op_name[i], 1e-6 * (double)j.op_ns[i] / j.n_new, 100.0 * (double)j.op_ns[i] / (double)j.decode_ns);
        ops += j.op_ns[i];
    }
    printf("between,%.4f,%.1f\n", 1e-6 * (double)(j.decode_ns - ops) / j.n_new, 100.0 * (double)(j.decode_ns - ops) / (double)j.decode_ns);
    test_cluster_close(c);
    return 0;
}
