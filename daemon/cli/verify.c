/* verify: the check that cold start makes, with every mismatch listed. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/options.h"
#include "daemon/cli/progress.h"
#include "shard/store/set.h"

#define MAX_ERRORS 256u
#define SPEED_FROM (64u << 20)          /* bytes from which a speed means something */

static void on_progress(void *ctx, uint64_t done, uint64_t total) { daemon_progress_step(ctx, done, total); }

static json_t *text_json(const char *s)
{
    return px_utf8_valid(s, strlen(s)) ? json_string(s) : json_string("(not UTF-8)");
}

static px_code print_json(bool ok, const char *dir, const char *depth, const shard_check_speed *v, const px_err *errs, size_t n,
                          px_err *e)
{
    json_t *list = json_array(), *doc;

    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:o}", "code", px_code_name(errs[i].code),
                              "rank", errs[i].rank, "file", text_json(errs[i].file), "field", text_json(errs[i].field),
                              "found", text_json(errs[i].found), "expected", text_json(errs[i].expected), "text",
                              text_json(errs[i].text)));
    doc = json_pack("{s:b, s:o, s:s, s:I, s:f, s:f, s:i, s:o}", "ok", ok, "set", text_json(dir), "depth", depth, "bytes",
                    (json_int_t)v->bytes, "seconds", v->seconds, "read_bytes_per_second", v->read_per_second, "threads",
                    (int)v->threads, "errors", list);
    if (!doc) return px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    json_dumpf(doc, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(doc);
    return PX_OK;
}

static px_code print_ok(px_alloc *a, const char *dir, const char *depth, const shard_check_speed *v, px_err *e)
{
    shard_manifest m;
    char n[32];
    px_code rc = shard_manifest_read(&m, a, dir, e);

    if (rc) return rc;
    printf("ok: %s: %s%s%u rank%s, %s bytes of weights, depth %s\n", dir, m.model, *m.model ? ", " : "", m.world,
           m.world == 1 ? "" : "s", daemon_cli_grouped(m.stored_bytes, n), depth);
    if (v->bytes >= SPEED_FROM)
        printf("%s bytes in %.3f s on %u threads: %.2f GB/s, %.0f %% of the %.2f GB/s at which they only read them\n",
               daemon_cli_grouped(v->bytes, n), v->seconds, v->threads, (double)v->bytes / v->seconds / 1e9,
               100 * (double)v->bytes / v->seconds / v->read_per_second, v->read_per_second / 1e9);
    shard_manifest_deinit(&m);
    return PX_OK;
}

/* The code of a list: a manifest that is not there or cannot be read is a failure, what lacks or differs is refused. */
static int code_of(px_code rc, const px_err *errs, size_t n)
{
    int code = rc ? DAEMON_EXIT_FAILURE : DAEMON_EXIT_OK;

    if (rc == PX_ECANCELLED) return DAEMON_EXIT_INTERRUPTED;
    for (size_t i = 0; i < n; i++) {
        if (errs[i].code == PX_ENOTFOUND && strstr(errs[i].file, "manifest.json")) continue;     /* no set at all */
        if (errs[i].rank >= 0 || errs[i].code == PX_ENOTFOUND || daemon_cli_exit_of(&errs[i]) == DAEMON_EXIT_REFUSED)
            code = DAEMON_EXIT_REFUSED;
    }
    return code;
}

static int check(px_alloc *a, const char *dir, const char *depth, shard_depth how, uint32_t ranks, bool json, px_err *errs)
{
    daemon_progress bar;
    shard_check_args args = { .depth = how, .progress = on_progress, .ctx = &bar, .cancel = daemon_cli_interrupts() };
    shard_check_speed speed = { .bytes = 0 };
    char line[1200];
    px_err e = {0};
    size_t n = 0;
    px_code rc;
    int code;

    args.threads = daemon_cli_cores();
    args.speed = &speed;
    if (getrandom(&args.seed, sizeof args.seed, 0) != (ssize_t)sizeof args.seed) args.seed = (uint64_t)px_now_us();
    daemon_progress_init(&bar, "verifying");
    rc = shard_set_check(a, dir, ranks, &args, errs, MAX_ERRORS, &n);
    daemon_progress_end(&bar);
    code = code_of(rc, errs, n);
    for (size_t i = 0; i < n; i++) fprintf(stderr, "phalanx verify: %s\n", px_err_format(&errs[i], line, sizeof line));
    if (n == MAX_ERRORS) fprintf(stderr, "phalanx verify: only the first %u are listed\n", MAX_ERRORS);
    if ((json && rc != PX_ECANCELLED && print_json(!rc, dir, depth, &speed, errs, n, &e)) ||
        (!json && !rc && print_ok(a, dir, depth, &speed, &e)))
        return daemon_cli_fail("verify", &e);
    return code;
}

int daemon_cli_verify(px_alloc *a, int argc, char **argv)
{
    const char *dir, *word = "full";
    uint32_t ranks = 0;
    bool json = false;
    shard_depth depth;
    px_err e = {0}, *errs;
    const daemon_option options[] = {
        { "depth", DAEMON_OPT_TEXT, "DEPTH", "header: sizes, shapes, metadata; sample: and the digests of some tensors; "
          "full (default): of all", &word, NULL },
        { "ranks", DAEMON_OPT_U32, "N", "refuse a set that was cut for another number", &ranks, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "the result as one JSON object", &json, NULL },
    };
    daemon_command c = { .name = "verify", .line = "DIR [--depth header|sample|full] [--ranks N] [--json]",
        .about = "Checks a shard set: manifest, every rank's file, tokenizer and template, by the code that serving uses.\n"
                 "Every mismatch is listed with file, field, found and expected.",
        .option = options, .n_options = sizeof options / sizeof *options, .least = 1, .most = 1, .arg = &dir };
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    if (shard_depth_parse(word, &depth, &e)) return daemon_options_complain(&c, "--depth: %s", e.text);
    if (!(errs = px_new(a, px_err, MAX_ERRORS))) return px_fail(&e, PX_ENOMEM, "", "no memory"), daemon_cli_fail("verify", &e);
    code = check(a, dir, word, depth, ranks, json, errs);
    px_del(a, errs, MAX_ERRORS);
    return code;
}
