/* plan: the bytes of every rank, by the function from which a rank's arenas are carved. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/deploy.h"
#include "daemon/cli/model.h"
#include "daemon/cli/options.h"
#include "daemon/rank/contract.h"
#include "shard/plan/fit.h"
#include "shard/plan/measure.h"
#include "shard/plan/report.h"
#include "shard/store/models.h"
#include "shard/store/pack.h"

typedef struct asked {
    px_alloc    *a;
    const char  *path;
    char         dir[4096];
    bool         is_set, has_ranks, has_format, has_split, has_vocab, has_pool, has_memory, has_device, has_channels;
    bool         json, explain, sweep, gib, cuts, finetune, checkpointing, list, sizes;
    uint32_t     ranks, hosts, channels, headroom, batch, sequence, replicas, zero, tp, lora;
    const char  *format, *split, *vocab, *backend, *kv_dtype, *pool, *memory, *device, *headroom_least, *disk, *link, *populate, *svg, *file, *served, *name, *compare;
    daemon_texts classes;
    proto_config config;
    char         of_config[3][64];   /* options that are made of -c */
    daemon_deploy given;             /* of --deployment or the map of -c; the texts above may lie in it */

    bool         policy_given;       /* the format is a set's policy, and no named format */
    shard_policy policy;
    shard_arch   arch;
    shard_types  source, named, stored;
    shard_deploy d;
    shard_plan_model model;
} asked;

static const char *const keys[] = { "kv.tokens", "kv.block", "max_sequences", "token_budget", "threads", "transport", "fp8_activations", NULL };

/* ---- what was asked ---- */

/* What the set was cut by; a checkpoint says nothing. */
static px_code read_set(asked *q, px_err *e)
{
    shard_manifest m;
    px_code rc;

    if (!(q->is_set = daemon_model_is_set(q->path, q->dir, sizeof q->dir))) return PX_OK;
    if ((rc = shard_manifest_read(&m, q->a, q->dir, e))) return rc;
    if (!q->has_ranks) q->ranks = m.world;
    if (!q->has_split) q->d.ffn = m.split_ffn;
    shard_manifest_deinit(&m);
    q->has_ranks = true;
    return PX_OK;
}

static int bad_word(const daemon_command *c, const char *option, const char *found, const char *const *words, size_t n)
{
    const char *near = px_nearest(found, words, n);
    return daemon_options_complain(c, "--%s: \"%.40s\" is none of %s, %s%s%s%s%s", option, found, words[0], words[1], n > 2 ? ", " : "",
                                   n > 2 ? words[2] : "", near ? "; the nearest is " : "", near ? near : "");
}

static int take_sizes(asked *q, const daemon_command *c)
{
    const struct { const char *option, *text; uint64_t *to; } sizes[] = {
        { "pool", q->pool, &q->d.pool }, { "memory", q->memory, &q->d.memory }, { "device", q->device, &q->d.memory },
        { "headroom-least", q->headroom_least, &q->d.headroom_least }, { "disk", q->disk, &q->d.rate.disk },
        { "link", q->link, &q->d.rate.link }, { "populate", q->populate, &q->d.rate.populate },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].text && (!daemon_parse_size(sizes[i].text, sizes[i].to) || (!*sizes[i].to && i != 3)))
            return daemon_options_complain(c, "--%s: \"%.40s\" is no size: 80GiB, 512MB, 24000000000", sizes[i].option, sizes[i].text);
    return -1;
}

static int take_words(asked *q, const daemon_command *c)
{
    static const char *const split[] = { "balanced", "even", "aligned" }, *const vocab[] = { "padded64", "unpadded" }, *const backend[] = { "cpu", "cuda" };
    px_err e = { 0 };

    if (strcmp(q->split, "balanced") && strcmp(q->split, "even") && strcmp(q->split, "aligned")) return bad_word(c, "split", q->split, split, 3);
    if (strcmp(q->vocab, "padded64") && strcmp(q->vocab, "unpadded")) return bad_word(c, "vocab", q->vocab, vocab, 2);
    if (q->backend && strcmp(q->backend, "cpu") && strcmp(q->backend, "cuda")) return bad_word(c, "backend", q->backend, backend, 2);
    if (q->memory && q->device) return daemon_options_complain(c, "--memory is a host's, --device a device's: one of them");
    q->d.ffn = !strcmp(q->split, "even") ? SHARD_SPLIT_EVEN : !strcmp(q->split, "aligned") ? SHARD_SPLIT_ALIGNED : SHARD_SPLIT_BALANCED;
    q->d.vocab = strcmp(q->vocab, "padded64") ? SHARD_VOCAB_UNPADDED : SHARD_VOCAB_PADDED64;
    q->d.backend = q->backend ? (strcmp(q->backend, "cpu") ? SHARD_ON_CUDA : SHARD_ON_CPU) : q->device ? SHARD_ON_CUDA : SHARD_ON_CPU;
    if (q->memory && q->d.backend == SHARD_ON_CUDA) return daemon_options_complain(c, "--memory is a host's; a device's is --device");
    if (q->device && q->d.backend == SHARD_ON_CPU) return daemon_options_complain(c, "--device is for cuda; a host's memory is --memory");
    for (size_t i = 0; i < q->classes.n; i++) {
        if (i == SHARD_MAX_CLASSES) return daemon_options_complain(c, "--class: more than %u", SHARD_MAX_CLASSES);
        if (shard_class_parse(q->classes.v[i], &q->d.cls[i], &e)) return daemon_options_complain(c, "--class: %s", e.text);
    }
    q->d.n_classes = q->classes.n;
    /* F32 is a policy of sets, f32 a format of the formulas */
    q->policy_given = !shard_policy_parse(q->format, &q->policy, NULL) && !strcmp(q->format, shard_policy_name(q->policy));
    return take_sizes(q, c);
}

/* A name of golden.json, if it is no policy: the nearest of both kinds is told. */
static int take_format(const asked *q, const daemon_command *c)
{
    const char *words[32], *near;
    size_t n = 0;

    if (q->policy_given) return -1;
    for (shard_policy p = SHARD_AS_FILE; p < SHARD_N_POLICIES; p++) words[n++] = shard_policy_name(p);
    for (size_t i = 0; shard_fit_formats[i]; i++) {
        if (!strcmp(q->format, shard_fit_formats[i])) return -1;
        words[n++] = shard_fit_formats[i];
    }
    near = px_nearest(q->format, words, n);
    return daemon_options_complain(c, "--format: \"%.40s\" is no storage format%s%s: " SHARD_POLICIES ", or f32 f16 bf16 q8_0 q6_k q5_k_m q4_k_m q4_0 "
                                   "iq2_xs fp8 w8a16_g128 w4a16_g128 w4a16_g128_awq, or pure_q4_k and so on", q->format, near ? "; the nearest is " : "",
                                   near ? near : "");
}

static bool compare_alone(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--compare")) i++;
        else if (strcmp(argv[i], "--json") && strncmp(argv[i], "--compare=", 10)) return false;
    }
    return true;
}

/* -1: go on. */
static int parse(asked *q, int argc, char **argv)
{
    const daemon_option options[] = {
        { "ranks", DAEMON_OPT_U32, "N", "ranks to cut for; a set's own number if not given", &q->ranks, &q->has_ranks },
        { "hosts", DAEMON_OPT_U32, "N", "hosts that the ranks are dealt to (default 1)", &q->hosts, NULL },
        { "format", DAEMON_OPT_TEXT, "FORMAT", "as_file (default), F32, BF16, FP8, w8a16, w4a16, Q8_0, Q4_0, Q4_1: what shard stores, or a named format: q4_k_m, fp8 ...",
          &q->format, &q->has_format },
        { "split", DAEMON_OPT_TEXT, "HOW", "balanced (default) or even: how FFN columns are dealt; aligned: eight leaves (planned, not served yet)", &q->split, &q->has_split },
        { "vocab", DAEMON_OPT_TEXT, "HOW", "padded64 (default, as sets are) or unpadded", &q->vocab, &q->has_vocab },
        { "backend", DAEMON_OPT_TEXT, "WHAT", "cpu (default) or cuda", &q->backend, NULL },
        { "device", DAEMON_OPT_TEXT, "SIZE", "free memory of a device for each rank, 80GiB; means cuda", &q->device, &q->has_device },
        { "memory", DAEMON_OPT_TEXT, "SIZE", "free memory of each host; measured here if not given", &q->memory, &q->has_memory },
        { "kv.dtype", DAEMON_OPT_TEXT, "TYPE", "f16 (default) f32 bf16 fp8 int8_th q8_0 q4_0", &q->kv_dtype, NULL },
        { "pool", DAEMON_OPT_TEXT, "SIZE", "KV pool of each rank in bytes, instead of --kv.tokens", &q->pool, &q->has_pool },
        { "class", DAEMON_OPT_TEXTS, "CLASS", "NAME:CONCURRENCY:PROMPT+OUTPUT at p95[:PROMPT+OUTPUT at p99]; may come several times", &q->classes, NULL },
        { "headroom", DAEMON_OPT_U32, "PERCENT", "of the free memory that stays free (default 10)", &q->headroom, NULL },
        { "headroom-least", DAEMON_OPT_TEXT, "SIZE", "and at least so much (default 512MiB)", &q->headroom_least, NULL },
        { "channels", DAEMON_OPT_U32, "N", "of NCCL (default 24)", &q->channels, &q->has_channels },
        { "disk", DAEMON_OPT_TEXT, "SIZE", "a second from disk (default 7GB)", &q->disk, NULL },
        { "link", DAEMON_OPT_TEXT, "SIZE", "a second from host to device (default 55GB)", &q->link, NULL },
        { "populate", DAEMON_OPT_TEXT, "SIZE", "a second that a core fills (default 2GB)", &q->populate, NULL },
        { "deployment", DAEMON_OPT_TEXT, "FILE", "YAML with any of these options; the command line wins", &q->file, NULL },
        { "config", DAEMON_OPT_TEXT, "FILE", "a configuration of phalanx serve, also -c FILE: its keys, and its map \"" PROTO_CONFIG_PLAN "\" of these options",
          &q->served, NULL },
        { "model", DAEMON_OPT_TEXT, "MODEL", "MODEL, for a file; a MODEL of the command line wins", &q->name, NULL },
        { "explain", DAEMON_OPT_FLAG, NULL, "also every line of the worst rank as formula, numbers, bytes", &q->explain, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "one JSON object instead of the table", &q->json, NULL },
        { "cuts", DAEMON_OPT_FLAG, NULL, "with --json: weights of every format on 1-8 and 16 ranks, too", &q->cuts, NULL },
        { "svg", DAEMON_OPT_TEXT, "FILE", "also a picture of the ranks' stacks", &q->svg, NULL },
        { "sweep", DAEMON_OPT_FLAG, NULL, "ranks x formats x cache types: what nothing else beats", &q->sweep, NULL },
        { "gib", DAEMON_OPT_FLAG, NULL, "with --sweep: weights of the worst rank alone, in GiB", &q->gib, NULL },
        { "sizes", DAEMON_OPT_FLAG, NULL, "the whole model in the usual formats, and caches of 1, 4, 8 sequences", &q->sizes, NULL },
        { "finetune", DAEMON_OPT_FLAG, NULL, "the worksheet of a fine-tune instead of a service", &q->finetune, NULL },
        { "batch", DAEMON_OPT_U32, "N", "fine-tune: sequences of a replica's step (default 1)", &q->batch, NULL },
        { "sequence", DAEMON_OPT_U32, "N", "fine-tune: tokens of a sequence (default 2048)", &q->sequence, NULL },
        { "replicas", DAEMON_OPT_U32, "N", "fine-tune: data-parallel replicas (default 1)", &q->replicas, NULL },
        { "zero", DAEMON_OPT_U32, "STAGE", "fine-tune: 0 to 3, what is divided by the replicas (default 0)", &q->zero, NULL },
        { "tp", DAEMON_OPT_U32, "N", "fine-tune: tensor-parallel ranks (default 1)", &q->tp, NULL },
        { "lora", DAEMON_OPT_U32, "RANK", "fine-tune: train adapters of this rank, the base stays in --format", &q->lora, NULL },
        { "checkpointing", DAEMON_OPT_FLAG, NULL, "fine-tune: activations are computed again", &q->checkpointing, NULL },
        { "compare", DAEMON_OPT_ADDRESS, "ADDRESS", "of a running service, HOST:PORT: what it planned beside what it holds; alone or with --json",
          &q->compare, NULL },
        { "models", DAEMON_OPT_FLAG, NULL, "list the names that are known without a file", &q->list, NULL },
    };
    daemon_command c = { .name = "plan", .line = "MODEL --ranks N [--format FORMAT] [--KEY VALUE ...] [--json] | -c FILE.yaml ... | --compare ADDRESS [--json]",
        .about = "What every rank will hold in memory: the same function carves the arenas when the set is served.\n"
                 "MODEL is a GGUF file, a Hugging Face folder, a config.json, a shard set, a .yaml of architecture numbers, or a known\n"
                 "name (--models), of which no file is needed.  --compare ends with 3 if a running service holds anything but its plan.",
        .option = options, .n_options = sizeof options / sizeof *options, .config = &q->config, .key = keys,
        .least = 0, .most = 1, .arg = &q->path };
    px_err e = { 0 };
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    if (q->list) {
        for (size_t i = 0; i < shard_n_models; i++) puts(shard_models[i].name);
        return DAEMON_EXIT_OK;
    }
    if (q->compare) {
        if (!compare_alone(argc, argv)) return daemon_options_complain(&c, "--compare ADDRESS takes --json and nothing else: the service knows its plan");
        return daemon_cli_become("plan", DAEMON_CLI_CLIENT, (char *[]){ NULL, "compare", (char *)(uintptr_t)q->compare, q->json ? "--json" : NULL, NULL });
    }
    if (!c.n_args) q->path = q->name ? q->name : q->config.set;
    if (!*q->path) return daemon_options_complain(&c, "MODEL is needed");
    if ((code = take_words(q, &c)) >= 0 || (code = take_format(q, &c)) >= 0) return code;
    if (read_set(q, &e)) return daemon_cli_fail("plan", &e);
    if (q->is_set && (!q->policy_given || q->policy != SHARD_AS_FILE))
        return daemon_options_complain(&c, "--format: the weights of a set are stored already; plan its source");
    if (q->gib && (!q->sweep || q->json || q->device || q->memory))
        return daemon_options_complain(&c, "--gib is for --sweep without --device, --memory or --json");
    if (!q->has_ranks && !q->sweep && !q->finetune && !q->sizes) return daemon_options_complain(&c, "--ranks is needed");
    if (!q->has_ranks) q->ranks = 1;
    if (q->ranks < 1 || q->ranks > shard_plan_world_max())
        return daemon_options_complain(&c, "--ranks: %u is not in 1 to %u", q->ranks, shard_plan_world_max());
    if (q->hosts < 1 || q->hosts > q->ranks) {
        if (!q->sweep) return daemon_options_complain(&c, "--hosts: %u is not in 1 to %u", q->hosts, q->ranks);
        q->hosts = 1;
    }
    return -1;
}

static int read_config(asked *q, const char *path)
{
    char line[1024];
    px_err errs[16];
    size_t n = 0;

    if (!proto_config_read(&q->config, q->a, path, errs, sizeof errs / sizeof *errs, &n)) return -1;
    for (size_t i = 0; i < n; i++) fprintf(stderr, "phalanx plan: %s\n", px_err_format(&errs[i], line, sizeof line));
    return DAEMON_EXIT_USAGE;
}

/* What a configuration says in words of its own, as options. */
static size_t config_options(const proto_config *c, char arg[3][64])
{
    char kv[32];
    size_t n = 0;

    proto_config_show(c, proto_config_find("kv.dtype"), kv, sizeof kv);
    snprintf(arg[n++], 64, "--kv.dtype=%s", kv);
    snprintf(arg[n++], 64, "--backend=%s", c->device == PROTO_DEVICE_CUDA ? "cuda" : "cpu");
    if (c->ranks) snprintf(arg[n++], 64, "--ranks=%u", c->ranks);
    return n;
}

/* Options of a file stand before those of the command line. */
static int parse_all(asked *q, int argc, char **argv)
{
    const char *path = NULL, *served = NULL;
    char **all;
    size_t n = 1, room, n_config = 0;
    px_err e = { 0 };
    int code;

    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strncmp(argv[i], "--deployment=", 13)) path = argv[i] + 13;
        if (!strcmp(argv[i], "--deployment") && i + 1 < argc) path = argv[i + 1];
        if (!strcmp(argv[i], "-c")) argv[i] = "--config";
        if (!strncmp(argv[i], "--config=", 9)) served = argv[i] + 9;
        if (!strcmp(argv[i], "--config") && i + 1 < argc) served = argv[i + 1];
    }
    if (!path && !served) return parse(q, argc, argv);
    if (path && served) return fputs("phalanx plan: --deployment and -c are two files of the same options: one of them\n", stderr), DAEMON_EXIT_USAGE;
    if (served) {
        if ((code = read_config(q, served)) >= 0) return code;
        n_config = config_options(&q->config, q->of_config);
    }
    if (daemon_deploy_read(&q->given, q->a, served ? served : path, served ? PROTO_CONFIG_PLAN : NULL, &e)) return daemon_cli_fail("plan", &e);
    room = n_config + q->given.n + (size_t)argc + 1;
    if (!(all = px_new(q->a, char *, room))) {
        px_fail(&e, PX_ENOMEM, "", "no memory");
        return daemon_cli_fail("plan", &e);
    }
    all[0] = argv[0];
    for (size_t i = 0; i < n_config; i++) all[n++] = q->of_config[i];
    for (size_t i = 0; i < q->given.n; i++) all[n++] = q->given.arg[i];
    for (int i = 1; i < argc; i++) all[n++] = argv[i];
    code = parse(q, (int)n, all);
    px_del(q->a, all, room);
    return code;
}

/* ---- the answer ---- */

static px_code deploy(asked *q, px_err *e)
{
    shard_demand demand = daemon_contract_demand(&q->config, (q->ranks + q->hosts - 1) / q->hosts);
    shard_free_memory here;
    px_code rc;

    q->d.ranks = q->ranks;
    q->d.hosts = q->hosts;
    q->d.kv_dtype = q->kv_dtype;
    q->d.kv_tokens = demand.kv_tokens;
    q->d.page = demand.kv_block;
    q->d.max_sequences = demand.max_sequences;
    q->d.token_budget = demand.token_budget;
    q->d.threads = demand.threads;
    q->d.fp8_activations = demand.fp8_activations;
    q->config.device = q->d.backend == SHARD_ON_CUDA ? PROTO_DEVICE_CUDA : PROTO_DEVICE_CPU;      /* an option may have said another */
    if ((rc = proto_config_check_activations(&q->config, e))
        || (q->d.fp8_activations && (rc = shard_check_fp8_activations(&q->arch, q->model.file, e))))
        return rc;
    q->d.transport = q->hosts > 1 ? (int)COMM_MPI : (int)daemon_contract_transport(&q->config, q->ranks);
    q->d.headroom_percent = q->headroom;
    q->d.channels = q->channels;
    if (q->d.backend == SHARD_ON_CPU && !q->d.memory && !q->finetune && !q->sweep) {      /* a sweep is of machines to be chosen */
        if ((rc = shard_measure_free("", &here, e))) return rc;
        q->d.memory = here.bytes;
        q->d.memory_measured = true;
    }
    return PX_OK;
}

static px_code load(asked *q, px_err *e)
{
    px_err why = { 0 };
    px_code rc;

    if ((rc = shard_arch_read(&q->arch, &q->source, q->a, q->path, e)) || (rc = shard_arch_check(&q->arch, e))) return rc;
    q->model = (shard_plan_model){ .m = &q->arch, .source = &q->source, .file = &q->source, .format = q->format, .store = shard_types_served };
    if (!q->policy_given) {
        if ((rc = shard_types_format(&q->named, q->a, &q->arch, q->format, e))) return rc;
        q->model.file = q->model.source = &q->named;
    }
    rc = q->policy_given ? shard_types_stored(&q->stored, q->a, &q->arch, q->model.file, q->policy, &why)
                         : shard_types_served(&q->stored, q->a, &q->arch, &q->named, &why);
    if (rc == PX_ENOMEM) {
        *e = why;
        return rc;
    }
    if (!rc) {
        q->model.stored = &q->stored;
        if (q->policy_given) q->model.file = &q->stored;      /* the weights of a set are what its policy makes of them */
    } else if (q->policy_given && q->policy != SHARD_AS_FILE) {
        *e = why;
        return rc;
    }
    return PX_OK;
}

static px_code dump(json_t *doc, px_err *e)
{
    int bad = json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));

    json_decref(doc);
    putchar('\n');
    return bad ? px_fail(e, PX_EIO, "standard output", "could not be written") : PX_OK;
}

static px_code finetune(asked *q, px_err *e)
{
    shard_finetune f = { .batch = q->batch, .sequence = q->sequence, .replicas = q->replicas, .zero = q->zero, .tp = q->tp,
                         .lora_rank = q->lora, .checkpointing = q->checkpointing };
    uint64_t base;
    json_t *doc;
    px_code rc;

    if ((rc = shard_source_bytes(&q->arch, q->model.file, &base, e))) return rc;
    if (!q->json) return shard_report_finetune(q->a, &q->arch, &f, base, q->format, stdout, e);
    if ((rc = shard_report_finetune_json(&q->arch, &f, base, &doc, e))) return rc;
    return dump(doc, e);
}

static px_code sizes(asked *q, px_err *e)
{
    return shard_report_sizes(q->a, &q->arch, q->d.kv_dtype, q->d.page, q->d.token_budget, stdout, e);
}

static px_code sweep(asked *q, px_err *e)
{
    /* a table that a person reads is of the usual ones; JSON holds them all */
    static const char *const formats[] = { "bf16", "q8_0", "fp8", "q6_k", "q4_k_m", "w4a16_g128", "iq2_xs", NULL }, *const kv[] = { "f16", "fp8", NULL };
    const char *one[] = { q->format, NULL }, *const *all = q->json || !q->d.memory ? NULL : formats;
    static const uint32_t usual[] = { 1, 2, 4, 8, 0 }, to_eight[] = { 1, 2, 3, 4, 5, 6, 7, 8, 0 };
    uint32_t ranks[] = { q->ranks, 0 };
    shard_sweep s;
    json_t *doc;
    px_code rc;

    if (!q->d.memory) q->d.backend = SHARD_ON_CUDA;      /* weights alone: as the formulas have them */
    if ((rc = shard_sweep_make(&s, q->a, &q->model, &q->d, q->has_ranks ? ranks : q->json ? NULL : all ? usual : to_eight, q->policy_given ? all : one, all ? kv : NULL, e))) return rc;
    if (!q->json) rc = q->gib ? shard_report_sweep_weights(&s, true, stdout, e) : shard_report_sweep(&s, &q->d, stdout, e);
    else if (!(rc = shard_report_sweep_json(&s, &doc, e))) rc = dump(doc, e);
    shard_sweep_deinit(&s);
    return rc;
}

static px_code picture(const shard_plan *p, const char *path, px_err *e)
{
    FILE *f = fopen(path, "we");
    bool bad;

    if (!f) {
        px_fail_errno(e, "", "open");
        px_err_set_file(e, path);
        return e->code;
    }
    shard_report_svg(p, f);
    bad = ferror(f) != 0;
    bad |= fclose(f) != 0;
    if (!bad) return PX_OK;
    px_fail(e, PX_EIO, "", "could not be written");
    px_err_set_file(e, path);
    return PX_EIO;
}

static px_code service(asked *q, px_err *e)
{
    shard_change changes[SHARD_N_LEVERS];
    shard_plan p;
    json_t *doc;
    px_code rc = shard_plan_make(&p, q->a, &q->model, &q->d, e);

    if (rc) return rc;
    if ((rc = shard_fit_changes(&p, changes, e))) goto out;
    if (q->svg && (rc = picture(&p, q->svg, e))) goto out;
    if (q->json) {
        if (!(rc = shard_report_json(&p, changes, q->cuts, &doc, e))) rc = dump(doc, e);
        goto out;
    }
    if ((rc = shard_report_table(&p, changes, stdout, e))) goto out;
    if (q->explain) {
        putchar('\n');
        shard_report_explain(&p, stdout);
    }
out:
    shard_plan_deinit(&p);
    return rc;
}

static void note_unserved(const asked *q)
{
    px_err e = { 0 };
    char line[1024];

    if (q->d.ffn == SHARD_SPLIT_ALIGNED)
        fputs("phalanx plan: note: split aligned can be planned, and is not served yet: sets are cut balanced or even\n", stderr);
    if (shard_arch_check_served(&q->arch, &e))
        fprintf(stderr, "phalanx plan: note: this model can be planned, and is not served yet: %s\n", px_err_format(&e, line, sizeof line));
}

int daemon_cli_plan(px_alloc *a, int argc, char **argv)
{
    asked *q = px_new(a, asked, 1);
    px_err e = { 0 };
    px_code rc;
    int code;

    if (!q) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("plan", &e);
    q->a = a;
    q->format = "as_file";
    q->split = "balanced";
    q->vocab = "padded64";
    q->kv_dtype = "f16";
    q->hosts = q->batch = q->replicas = q->tp = 1;
    q->sequence = 2048;
    q->headroom = 10;
    q->channels = 24;
    shard_deploy_init(&q->d);
    proto_config_init(&q->config);
    if ((code = parse_all(q, argc, argv)) >= 0) goto done;
    if ((rc = load(q, &e)) || (rc = deploy(q, &e)) || (rc = q->sizes ? sizes(q, &e) : q->finetune ? finetune(q, &e) : q->sweep ? sweep(q, &e) : service(q, &e))) {
        px_err_set_file(&e, q->path);
        code = daemon_cli_fail("plan", &e);
        goto done;
    }
    if (!q->finetune && !q->sizes) note_unserved(q);
    code = DAEMON_EXIT_OK;

done:
    shard_types_deinit(&q->stored);
    shard_types_deinit(&q->named);
    shard_types_deinit(&q->source);
    daemon_deploy_deinit(&q->given);
    px_del(a, q, 1);
    return code;
}
