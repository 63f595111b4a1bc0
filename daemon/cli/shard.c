/* shard: a checkpoint becomes a shard set. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/model.h"
#include "daemon/cli/options.h"
#include "daemon/cli/progress.h"
#include "shard/store/pack.h"

typedef struct job {
    px_alloc    *a;
    const char  *path, *out, *format, *split, *digest, *revision, *synthetic, *chat;
    bool         has_ranks, no_tokenizer, sparse, json;
    uint32_t     ranks;
    char         partial[4096];
    volatile bool writing;
    shard_checkpoint   *source;
    daemon_model_assets assets;
    shard_pack_args     args;
    daemon_progress     bar;
} job;

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    job *j = ctx;

    j->writing = true;
    daemon_progress_step(&j->bar, done, total);
}

static void on_note(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "phalanx shard: %s\n", line);
}

/* -1: go on. */
static int parse(job *j, int argc, char **argv)
{
    const daemon_option options[] = {
        { "ranks", DAEMON_OPT_U32, "N", "ranks to cut for, 1 to 64", &j->ranks, &j->has_ranks },
        { "out", DAEMON_OPT_TEXT, "DIR", "folder to make; an existing one is never written over", &j->out, NULL },
        { "format", DAEMON_OPT_TEXT, "FORMAT", "as_file (default), F32, BF16, or quantised: FP8, w8a16, w4a16, Q8_0, Q4_0, Q4_1; norms are F32 always",
          &j->format, NULL },
        { "split", DAEMON_OPT_TEXT, "HOW", "balanced (default) or even: how FFN columns are dealt", &j->split, NULL },
        { "digest", DAEMON_OPT_TEXT, "KIND", "xxh3 (default) or sha256", &j->digest, NULL },
        { "revision", DAEMON_OPT_TEXT, "TEXT", "a name for this revision; default: the checkpoint's", &j->revision, NULL },
        { "chat-template", DAEMON_OPT_TEXT, "FILE", "a table that ops/chat-template.py made of the checkpoint's chat template", &j->chat, NULL },
        { "no-tokenizer", DAEMON_OPT_FLAG, NULL, "leave tokenizer and chat template out", &j->no_tokenizer, NULL },
        { "synthetic", DAEMON_OPT_TEXT, "NAME", "in the place of MODEL: random weights of the shapes of a model by name "
          "(configs/models) or by its config.json; the set has no tokenizer", &j->synthetic, NULL },
        { "sparse", DAEMON_OPT_FLAG, NULL, "with --synthetic: zeros, as holes that take no disk space", &j->sparse, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "the result as one JSON object", &j->json, NULL },
    };
    daemon_command c = { .name = "shard", .line = "(MODEL | --synthetic NAME [--sparse]) --ranks N --out DIR [--format FORMAT] [--json]",
        .about = "Cuts a checkpoint (a GGUF file, a Hugging Face folder, a .safetensors file) into one shard a rank, with\n"
                 "manifest, tokenizer and chat template.  Memory does not grow with the model.  DIR appears when all is\n"
                 "written and checked; until then it is DIR.partial, and a run that fails or is interrupted leaves nothing.",
        .option = options, .n_options = sizeof options / sizeof *options, .least = 0, .most = 1, .arg = &j->path };
    px_err e = {0};
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    if (!j->path == !j->synthetic) return daemon_options_complain(&c, "which model?  MODEL, or --synthetic NAME");
    if (j->chat && (j->no_tokenizer || j->synthetic)) return daemon_options_complain(&c, "--chat-template needs a tokenizer");
    if (j->sparse && !j->synthetic) return daemon_options_complain(&c, "--sparse is for --synthetic");
    j->no_tokenizer |= j->synthetic != NULL;
    j->args.sparse = j->sparse;
    if (!j->has_ranks) return daemon_options_complain(&c, "--ranks is needed");
    if (!j->out) return daemon_options_complain(&c, "--out is needed");
    if (shard_policy_parse(j->format, &j->args.policy, &e)) return daemon_options_complain(&c, "--format: %s", e.text);
    if (!strcmp(j->split, "aligned"))
        return daemon_options_complain(&c, "--split: aligned can be planned (phalanx plan), and is not served yet; balanced or even");
    if (strcmp(j->split, "balanced") && strcmp(j->split, "even"))
        return daemon_options_complain(&c, "--split: \"%.40s\" is neither balanced nor even", j->split);
    if (strcmp(j->digest, "xxh3") && strcmp(j->digest, "sha256"))
        return daemon_options_complain(&c, "--digest: \"%.40s\" is neither xxh3 nor sha256", j->digest);
    j->args.split = strcmp(j->split, "even") ? SHARD_SPLIT_BALANCED : SHARD_SPLIT_EVEN;
    j->args.digest = strcmp(j->digest, "sha256") ? SHARD_XXH3_128 : SHARD_SHA256;
    return -1;
}

static px_code open_source(job *j, px_err *e)
{
    size_t n = strlen(j->out);
    px_code rc;

    while (n > 1 && j->out[n - 1] == '/') n--;
    snprintf(j->partial, sizeof j->partial, "%.*s.partial", n > 4000 ? 4000 : (int)n, j->out);
    if ((rc = j->synthetic ? shard_checkpoint_synthetic(&j->source, j->a, j->synthetic, 1, j->sparse, e)
                           : shard_checkpoint_open(&j->source, j->a, j->path, e)))
        return rc;
    daemon_cli_guard_partial(j->partial, &j->writing);
    if ((rc = daemon_model_assets_init(&j->assets, j->a, j->source, j->path, !j->no_tokenizer, j->chat, e))) {
        if (rc == PX_EUNSUP) fputs("phalanx shard: --no-tokenizer makes a set without one; it serves token ids\n", stderr);
        return rc;
    }
    return PX_OK;
}

static px_code pack(job *j, shard_pack_result *r, px_err *e)
{
    px_code rc;

    j->args.source = j->source;
    j->args.out = j->out;
    j->args.ranks = j->ranks;
    j->args.vocab = SHARD_VOCAB_PADDED64;
    j->args.asset = j->assets.list;
    j->args.n_assets = j->assets.n;
    j->args.revision = j->revision;
    j->args.progress = on_progress;
    j->args.note = on_note;
    j->args.ctx = j;
    j->args.cancel = daemon_cli_interrupts();
    daemon_progress_init(&j->bar, "sharding");
    rc = shard_pack(j->a, &j->args, r, e);
    daemon_progress_end(&j->bar);
    return rc;
}

static void say_what_lacks(const job *j)
{
    if (j->synthetic) return;                /* whoever makes weights up knows */
    if (j->assets.why_no_tokenizer)
        fprintf(stderr, "phalanx shard: the set has no tokenizer (%s): it serves token ids and Score; text, Chat, Tokenize, "
                        "Detokenize and stop strings are refused\n", j->assets.why_no_tokenizer);
    else if (j->assets.why_no_template)
        fprintf(stderr, "phalanx shard: the set has no chat template (%s): Chat needs the key chat_template\n",
                j->assets.why_no_template);
    else if (j->assets.unknown_template)
        fprintf(stderr, "phalanx shard: the model's chat template is not a known one: Chat needs the key chat_template, or a set made "
                        "with --chat-template and the table that ops/chat-template.py makes of it\n");
}

static const char *class_name(shard_role k)
{
    const char *name = shard_role_get(k)->name, *dot = strrchr(name, '.');

    return dot ? dot + 1 : name;
}

/* What rounding changed in a class of tensors, relative to its values, root mean square. */
static double rounding(const shard_conversion *c)
{
    return c->size > 0 ? sqrt(c->error / c->size) : 0;
}

static void print_conversion(shard_role r, const shard_conversion *c)
{
    char was[32], is[32];

    printf("  %-16s%5u  %-6s to %-6s%15s to %15s bytes, rounding %9.3g of its size\n", class_name(r), c->n, kern_dtype_get(c->from)->name,
           kern_dtype_get(c->to)->name, daemon_cli_grouped(c->source_bytes, was), daemon_cli_grouped(c->stored_bytes, is), rounding(c));
}

static void print_text(const job *j, const shard_pack_result *r)
{
    char n[32];

    printf("%s: %u rank%s, format %s\n", j->out, j->ranks, j->ranks == 1 ? "" : "s", shard_policy_name(j->args.policy));
    printf("source    %15s bytes\n", daemon_cli_grouped(r->source_bytes, n));
    printf("stored    %15s bytes over all ranks\n", daemon_cli_grouped(r->stored_bytes, n));
    printf("mapped    %15s bytes over all ranks\n", daemon_cli_grouped(r->mapped_bytes, n));
    for (uint32_t k = 0; k < j->ranks; k++)
        printf("  rank %-3u%15s bytes mapped\n", k, daemon_cli_grouped(r->rank_mapped[k], n));
    for (shard_role k = 0, said = 0; k < SHARD_N_ROLES; k++)
        if (r->converted[k].n) {
            if (!said++) puts("stored as another type: class, tensors, types of the first, bytes, rounding as root mean square");
            print_conversion(k, &r->converted[k]);
        }
}

static json_t *json_conversion(const shard_conversion *c)
{
    return json_pack("{s:i, s:s, s:s, s:I, s:I, s:f}", "tensors", (int)c->n, "from", kern_dtype_get(c->from)->name, "to",
                     kern_dtype_get(c->to)->name, "source_bytes", (json_int_t)c->source_bytes, "stored_bytes",
                     (json_int_t)c->stored_bytes, "rounding", rounding(c));
}

static px_code print_json(const job *j, const shard_pack_result *r, px_err *e)
{
    json_t *ranks = json_array(), *classes = json_object(), *doc;

    for (uint32_t k = 0; ranks && k < j->ranks; k++) json_array_append_new(ranks, json_integer((json_int_t)r->rank_mapped[k]));
    for (shard_role k = 0; classes && k < SHARD_N_ROLES; k++)
        if (r->converted[k].n)
            json_object_set_new(classes, class_name(k), json_conversion(&r->converted[k]));
    doc = json_pack("{s:s%, s:i, s:s, s:I, s:I, s:I, s:o, s:o, s:b, s:b}", "out", j->out, strlen(j->out), "ranks",
                    (int)j->ranks, "format", shard_policy_name(j->args.policy), "source_bytes", (json_int_t)r->source_bytes,
                    "stored_bytes", (json_int_t)r->stored_bytes, "mapped_bytes", (json_int_t)r->mapped_bytes,
                    "converted", classes, "rank_mapped_bytes", ranks,
                    "has_tokenizer", !j->assets.why_no_tokenizer, "has_chat_template", !j->assets.why_no_template);
    if (!doc) return px_fail(e, PX_ENOMEM, "json", "no memory for the answer, or DIR is not UTF-8; the set is written");
    json_dumpf(doc, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(doc);
    return PX_OK;
}

int daemon_cli_shard(px_alloc *a, int argc, char **argv)
{
    job *j = px_new(a, job, 1);
    shard_pack_result result;
    px_err e = {0};
    int code;

    if (!j) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("shard", &e);
    j->a = a;
    j->format = "as_file";
    j->split = "balanced";
    j->digest = "xxh3";
    j->args.threads = daemon_cli_cores();
    if ((code = parse(j, argc, argv)) >= 0) goto done;
    if (open_source(j, &e) || pack(j, &result, &e)) {
        code = daemon_cli_fail("shard", &e);
        goto done;
    }
    say_what_lacks(j);
    code = DAEMON_EXIT_OK;
    if (!j->json) print_text(j, &result);
    else if (print_json(j, &result, &e)) code = daemon_cli_fail("shard", &e);

done:
    daemon_cli_guard_partial(NULL, NULL);
    daemon_model_assets_deinit(&j->assets);
    shard_checkpoint_close(j->source);
    px_del(a, j, 1);
    return code;
}
