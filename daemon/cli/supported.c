/* supported: what this build reads, stores and serves, out of the tables that decide it. */
#include <stdio.h>
#include <string.h>

#include "daemon/cli/options.h"
#include "daemon/text/chat.h"
#include "daemon/text/pre.h"
#include "kernels/dtype.h"
#include "shard/model/family.h"
#include "shard/store/pack.h"

static void row(const char *what, const char *list) { printf("| %s | %s |\n", what, list); }

/* "A, B, C" of the types of GGUF that a set keeps as `kept`: themselves, or what has no kernels. */
static size_t types(char *buf, size_t cap, kern_dtype kept, bool weight)
{
    size_t at = 0;

    buf[0] = 0;
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++) {
        const kern_dtype_info *i = kern_dtype_get(t);
        if (!i->readable || i->ggml == UINT32_MAX || i->weight != weight || (!weight && shard_type_kept(t, 256) != kept) || at >= cap) continue;
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", i->name);
    }
    return at;
}

/* "X: A, B; Y: C" of the types that are stored as another. */
static const char *converted(char *buf, size_t cap)
{
    char list[256];
    size_t at = 0;

    buf[0] = 0;
    for (kern_dtype t = 0; t < KERN_N_DTYPES; t++)
        if (types(list, sizeof list, t, false) && at < cap)
            at += (size_t)snprintf(buf + at, cap - at, "%s%s: %s", at ? "; " : "", kern_dtype_get(t)->name, list);
    return buf;
}

static const char *planned(char *buf, size_t cap)
{
    const char *last = "";
    size_t at = 0;

    buf[0] = 0;
    for (size_t i = 0; i < shard_n_families && at < cap; i++) {
        const shard_family *f = &shard_families[i];
        if (f->served || !strcmp(f->name, last)) continue;
        last = f->name;
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", last);
    }
    return buf;
}

int daemon_cli_supported(px_alloc *a, int argc, char **argv)
{
    daemon_command c = { .name = "supported", .line = "", .about = "What is read, stored and served, as a table in Markdown." };
    char buf[1024];
    int code = daemon_options_parse(&c, argc, argv);

    (void)a;
    if (code >= 0) return code;
    puts("| what | which |\n|---|---|");
    row("checkpoints", "GGUF v2, v3; safetensors, single or indexed, with config.json");
    row("architectures served", shard_family_list(SHARD_FAMILY_NAME, true, buf, sizeof buf));
    row("planned only, refused by name elsewhere", planned(buf, sizeof buf));
    types(buf, sizeof buf, KERN_N_DTYPES, true);
    row("weights read and multiplied with as they are", buf);
    row("weights read, and stored as another type (BF16 where columns are no multiple of 32)", converted(buf, sizeof buf));
    row("made by `shard --format`", SHARD_POLICIES);
    daemon_pre_names(buf, sizeof buf);
    row("byte-level BPE: `tokenizer.ggml.pre`, or the expressions of a tokenizer.json", buf);
    row("SentencePiece BPE with byte fallback", "tokenizer.model, tokenizer.json, `tokenizer.ggml.model = llama`");
    daemon_template_names(buf, sizeof buf);
    row("chat templates known by their digest; others by `ops/chat-template.py`", buf);
    return DAEMON_EXIT_OK;
}
