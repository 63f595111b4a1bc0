/* plan: the bytes of every rank, by the function from which a rank's arenas are carved. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/model.h"
#include "daemon/cli/options.h"
#include "daemon/cli/table.h"
#include "daemon/rank/contract.h"
#include "shard/store/pack.h"

typedef struct plan {
    px_alloc    *a;
    const char  *path;
    char         dir[4096];
    bool         is_set, even, json, has_ranks, has_format, has_split;
    uint32_t     ranks;
    const char  *format, *split_word;
    proto_config config;
    shard_policy policy;
    shard_ffn_split ffn;
    shard_arch   arch;
    shard_types  file, stored;
    shard_split  split;
    shard_rank_bytes *rank;          /* (ranks) owned */
    uint32_t     worst;
} plan;

static const char *const keys[] = { "kv.tokens", "kv.dtype", "kv.block", "max_sequences", "token_budget", "threads",
                                    "transport", NULL };

/* What the set was cut by; a checkpoint says nothing. */
static px_code read_set(plan *p, px_err *e)
{
    shard_manifest m;
    px_code rc;

    if (!(p->is_set = daemon_model_is_set(p->path, p->dir, sizeof p->dir))) return PX_OK;
    if ((rc = shard_manifest_read(&m, p->a, p->dir, e))) return rc;
    if (!p->has_ranks) p->ranks = m.world;
    if (!p->has_split) p->ffn = m.split_ffn;
    shard_manifest_deinit(&m);
    return PX_OK;
}

static px_code compute(plan *p, px_err *e)
{
    shard_demand demand = daemon_contract_demand(&p->config, p->ranks);
    px_code rc;

    if ((rc = shard_arch_read(&p->arch, &p->file, p->a, p->path, e)) || (rc = shard_arch_check(&p->arch, e)) ||
        (rc = shard_types_stored(&p->stored, p->a, &p->arch, &p->file, p->policy, e)) ||
        (rc = shard_split_init(&p->split, p->a, &p->arch, &p->stored, p->ranks, p->ffn, SHARD_VOCAB_PADDED64, e)))
        return rc;
    if (!(p->rank = px_new(p->a, shard_rank_bytes, p->ranks)))
        return px_fail(e, PX_ENOMEM, "ranks", "no memory for %u ranks", p->ranks);
    for (uint32_t r = 0; r < p->ranks; r++) {
        if ((rc = shard_rank_bytes_of(&p->arch, &p->stored, &p->split, r, &demand,
                                      (int)daemon_contract_transport(&p->config, p->ranks), &p->rank[r], e)))
            return rc;
        if (p->rank[r].total > p->rank[p->worst].total) p->worst = r;
    }
    return PX_OK;
}

static const char *transport_word(const plan *p)
{
    switch (daemon_contract_transport(&p->config, p->ranks)) {
    case COMM_SHM: return "shm";
    case COMM_MPI: return "mpi";
    default:       return "local";
    }
}

static px_code print_table(const plan *p, px_err *e)
{
    static const char *const head[] = { "rank", "weights stored", "mapped", "KV pool", "activations", "rope tables",
                                        "host tables", "comm", "total" };
    shard_demand d = daemon_contract_demand(&p->config, p->ranks);
    char total[32];
    daemon_table t;
    px_code rc;

    printf("%s: %s, %u layers, %u heads in %u KV groups, vocabulary %u, context %u\n", *p->arch.name ? p->arch.name : p->path,
           p->arch.family, p->arch.n_layer, p->arch.n_head, p->arch.n_kv_head, p->arch.n_vocab, p->arch.n_ctx);
    printf("%u rank%s of %u thread%s over %s, format %s, KV of %u tokens in %s (%u blocks of %u), %u sequences, "
           "%u tokens a step\n\n", p->ranks, p->ranks == 1 ? "" : "s", d.threads, d.threads == 1 ? "" : "s",
           transport_word(p), shard_policy_name(p->policy), d.kv_tokens, d.kv_dtype == KERN_KV_F32 ? "f32" : "f16",
           p->rank[0].n_blocks, d.kv_block, d.max_sequences, d.token_budget);
    daemon_table_init(&t, p->a, sizeof head / sizeof *head);
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) daemon_table_put(&t, "%s", head[i]);
    for (uint32_t r = 0; r < p->ranks; r++) {
        const shard_rank_bytes *b = &p->rank[r];
        daemon_table_put(&t, "%u%s", r, r == p->worst && p->ranks > 1 ? " (worst)" : "");
        daemon_table_bytes(&t, b->weights.stored);
        daemon_table_bytes(&t, b->weights.mapped);
        daemon_table_bytes(&t, b->kv_pool);
        daemon_table_bytes(&t, b->activations.bytes);
        daemon_table_bytes(&t, b->rope_tables);
        daemon_table_bytes(&t, b->host.bytes);
        daemon_table_bytes(&t, b->comm_private + (r ? 0 : b->comm_shared));
        daemon_table_bytes(&t, b->total);
    }
    rc = daemon_table_print(&t, stdout, e);
    daemon_table_deinit(&t);
    printf("\nworst rank: %u, %s bytes.  Memory of MPI and of the programs themselves comes on top.\n", p->worst,
           daemon_cli_grouped(p->rank[p->worst].total, total));
    return rc;
}

static json_t *rank_json(const plan *p, uint32_t r)
{
    const shard_rank_bytes *b = &p->rank[r];
#define I(x) (json_int_t)(x)
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "rank", I(r), "weights_stored",
                     I(b->weights.stored), "weights_mapped", I(b->weights.mapped), "tensors", I(b->weights.tensors),
                     "kv_blocks", I(b->n_blocks), "kv_pool", I(b->kv_pool), "activations", I(b->activations.bytes),
                     "rope_tables", I(b->rope_tables), "host_tables", I(b->host.bytes), "comm_shared",
                     I(r ? 0 : b->comm_shared), "comm_private", I(b->comm_private), "context", I(b->n_ctx), "total",
                     I(b->total));
#undef I
}

static px_code print_json(const plan *p, px_err *e)
{
    shard_demand d = daemon_contract_demand(&p->config, p->ranks);
    json_t *list = json_array(), *doc;

    for (uint32_t r = 0; list && r < p->ranks; r++) json_array_append_new(list, rank_json(p, r));
    doc = json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:s, s:i, s:i, s:i, s:i, s:i, s:o}", "model", p->arch.name, "family",
                    p->arch.family, "ranks", (int)p->ranks, "format", shard_policy_name(p->policy), "kv_dtype",
                    d.kv_dtype == KERN_KV_F32 ? "f32" : "f16", "kv_block", (int)d.kv_block, "transport", transport_word(p),
                    "kv_tokens", (int)d.kv_tokens, "threads", (int)d.threads, "max_sequences", (int)d.max_sequences,
                    "token_budget", (int)d.token_budget, "worst_rank", (int)p->worst, "per_rank", list);
    if (!doc) return px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    json_dumpf(doc, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(doc);
    return PX_OK;
}

/* -1: go on. */
static int parse(plan *p, int argc, char **argv)
{
    const daemon_option options[] = {
        { "ranks", DAEMON_OPT_U32, "N", "ranks to cut for; a set's own number if not given", &p->ranks, &p->has_ranks },
        { "format", DAEMON_OPT_TEXT, "FORMAT", "as_file (default; F16 is stored as F32), F32 or BF16", &p->format,
          &p->has_format },
        { "split", DAEMON_OPT_TEXT, "HOW", "balanced (default) or even: how FFN columns are dealt", &p->split_word,
          &p->has_split },
        { "json", DAEMON_OPT_FLAG, NULL, "one JSON object instead of the table", &p->json, NULL },
    };
    daemon_command c = { .name = "plan", .line = "MODEL --ranks N [--format FORMAT] [--KEY VALUE ...] [--json]",
        .about = "What every rank will hold in memory: the same function carves the arenas when the set is served.\n"
                 "MODEL is a GGUF file, a Hugging Face folder, a config.json or a shard set.",
        .option = options, .n_options = sizeof options / sizeof *options, .config = &p->config, .key = keys,
        .least = 1, .most = 1, .arg = &p->path };
    px_err e = {0};
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    if (shard_policy_parse(p->format, &p->policy, &e)) return daemon_options_complain(&c, "--format: %s", e.text);
    if (strcmp(p->split_word, "balanced") && strcmp(p->split_word, "even"))
        return daemon_options_complain(&c, "--split: \"%.40s\" is neither balanced nor even", p->split_word);
    p->ffn = strcmp(p->split_word, "even") ? SHARD_SPLIT_BALANCED : SHARD_SPLIT_EVEN;
    if (read_set(p, &e)) return daemon_cli_fail("plan", &e);
    if (p->is_set && p->policy != SHARD_AS_FILE)
        return daemon_options_complain(&c, "--format: the weights of a set are stored already; plan its source");
    if (!p->is_set && !p->has_ranks) return daemon_options_complain(&c, "--ranks is needed");
    if (p->ranks < 1 || p->ranks > 1024) return daemon_options_complain(&c, "--ranks: %u is not in 1 to 1024", p->ranks);
    return -1;
}

int daemon_cli_plan(px_alloc *a, int argc, char **argv)
{
    plan *p = px_new(a, plan, 1);
    px_err e = {0};
    int code;

    if (!p) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("plan", &e);
    p->a = a;
    p->format = "as_file";
    p->split_word = "balanced";
    proto_config_init(&p->config);
    if ((code = parse(p, argc, argv)) >= 0) goto done;
    if (compute(p, &e)) {
        px_err_set_file(&e, p->path);
        code = daemon_cli_fail("plan", &e);
        goto done;
    }
    if (shard_arch_check_served(&p->arch, &e)) {
        char line[1024];
        fprintf(stderr, "phalanx plan: note: this model can be planned, and is not served yet: %s\n",
                px_err_format(&e, line, sizeof line));
        px_err_clear(&e);
    }
    code = (p->json ? print_json(p, &e) : print_table(p, &e)) ? daemon_cli_fail("plan", &e) : DAEMON_EXIT_OK;

done:
    if (p->rank) px_del(a, p->rank, p->ranks);
    shard_split_deinit(&p->split);
    shard_types_deinit(&p->stored);
    shard_types_deinit(&p->file);
    px_del(a, p, 1);
    return code;
}
