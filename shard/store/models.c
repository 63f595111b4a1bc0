#include "shard/store/models.h"

#include <ctype.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "proto/base/io.h"

#define MAX_MODELS 128
#define MAX_BYTES  65536u

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        int x = *a == '_' ? '-' : tolower((unsigned char)*a), y = *b == '_' ? '-' : tolower((unsigned char)*b);
        if (x != y) return false;
    }
    return *a == *b;
}

const shard_model_text *shard_model_find(const char *name)
{
    for (size_t i = 0; i < shard_n_models; i++)
        if (same_name(name, shard_models[i].name)) return &shard_models[i];
    return NULL;
}

const char *shard_model_nearest(const char *word)
{
    const char *names[MAX_MODELS];
    size_t n = shard_n_models < MAX_MODELS ? shard_n_models : MAX_MODELS;

    for (size_t i = 0; i < n; i++) names[i] = shard_models[i].name;
    return px_nearest(word, names, n);
}

/* ---- one file ---- */

typedef enum kind { COUNT, REAL, SINGLE, TRUTH, FAMILY, DTYPE } kind;

#define AT(f) offsetof(shard_arch, f)
static const struct { const char *key; kind kind; size_t at; bool needed; } KEYS[] = {
    { "family",                  FAMILY, 0, true },
    { "dtype",                   DTYPE,  0, true },
    { "num_hidden_layers",       COUNT,  AT(n_layer), true },
    { "hidden_size",             COUNT,  AT(d_model), true },
    { "intermediate_size",       COUNT,  AT(d_ff), true },
    { "num_attention_heads",     COUNT,  AT(n_head), true },
    { "num_key_value_heads",     COUNT,  AT(n_kv_head), true },
    { "head_dim",                COUNT,  AT(head_dim), true },
    { "vocab_size",              COUNT,  AT(n_vocab), true },
    { "max_position_embeddings", COUNT,  AT(n_ctx), true },
    { "rope_theta",              REAL,   AT(rope_theta), true },
    { "rms_norm_eps",            SINGLE, AT(rms_eps), true },
    { "tie_word_embeddings",     TRUTH,  AT(tied), false },
    { "qkv_bias",                TRUTH,  AT(qkv_bias), false },
    { "qk_norm",                 TRUTH,  AT(qk_norm), false },
    { "sandwich_norms",          TRUTH,  AT(sandwich_norms), false },
    { "num_local_experts",       COUNT,  AT(n_expert), false },
    { "num_experts_per_tok",     COUNT,  AT(n_expert_used), false },
    { "sliding_window",          COUNT,  AT(sliding_window), false },
    { "full_attention_layers",   COUNT,  AT(n_full_attention), false },
};
#undef AT
#define N_KEYS (sizeof KEYS / sizeof *KEYS)

static px_code put(shard_arch *m, kern_dtype *dtype, size_t i, const char *word, px_err *e)
{
    static const struct { const char *name; kern_dtype t; } dtypes[] = {
        { "float32", KERN_F32 }, { "float16", KERN_F16 }, { "bfloat16", KERN_BF16 },
    };
    void *to = (char *)m + KEYS[i].at;
    const char *key = KEYS[i].key;
    char *end;
    double real;

    switch (KEYS[i].kind) {
    case COUNT:
        if (!*word || strlen(word) > 9 || strspn(word, "0123456789") != strlen(word))
            return px_mismatch(e, key, word, "a whole number of at most 9 digits");
        *(uint32_t *)to = (uint32_t)strtoul(word, NULL, 10);
        return PX_OK;
    case REAL: case SINGLE:
        if (!*word || strspn(word, "0123456789.eE+-") != strlen(word)) return px_mismatch(e, key, word, "a number");
        real = strtod(word, &end);
        if (*end) return px_mismatch(e, key, word, "a number");
        if (KEYS[i].kind == REAL) *(double *)to = real; else *(float *)to = (float)real;
        return PX_OK;
    case TRUTH:
        if (strcmp(word, "true") && strcmp(word, "false")) return px_mismatch(e, key, word, "true or false");
        *(bool *)to = !strcmp(word, "true");
        return PX_OK;
    case FAMILY:
        if (!*word || strlen(word) >= sizeof m->family) return px_mismatch(e, key, word, "a word");
        snprintf(m->family, sizeof m->family, "%s", word);
        return PX_OK;
    default:
        for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++)
            if (!strcmp(word, dtypes[k].name)) { *dtype = dtypes[k].t; return PX_OK; }
        return px_mismatch(e, key, word, "float32, float16 or bfloat16");
    }
}

static px_code key_of(const char *word, const bool *seen, size_t *i, px_err *e)
{
    const char *words[N_KEYS], *near;

    for (*i = 0; *i < N_KEYS; (*i)++) {
        words[*i] = KEYS[*i].key;
        if (strcmp(word, KEYS[*i].key)) continue;
        return seen[*i] ? px_fail(e, PX_EEXIST, word, "the key stands twice") : PX_OK;
    }
    near = px_nearest(word, words, N_KEYS);
    return px_fail(e, PX_ENOTFOUND, word, "no such key%s%s", near ? "; the nearest is " : "", near ? near : "");
}

/* A scalar without anchor and tag, as text; "" for any other event. */
static bool scalar(const yaml_event_t *v, char *out, size_t cap)
{
    *out = 0;
    if (v->type != YAML_SCALAR_EVENT || v->data.scalar.anchor || v->data.scalar.tag || v->data.scalar.length >= cap) return false;
    memcpy(out, v->data.scalar.value, v->data.scalar.length);
    out[v->data.scalar.length] = 0;
    return strlen(out) == v->data.scalar.length;
}

static px_code read_map(yaml_parser_t *p, shard_arch *m, kern_dtype *dtype, bool *seen, px_err *e)
{
    static const yaml_event_type_t begin[] = { YAML_STREAM_START_EVENT, YAML_DOCUMENT_START_EVENT, YAML_MAPPING_START_EVENT },
                                   end[] = { YAML_DOCUMENT_END_EVENT, YAML_STREAM_END_EVENT };
    char key[64], value[64];
    yaml_event_t v;
    px_code rc;

    for (size_t i = 0; i < 3; i++) {
        yaml_event_type_t type;
        if (!yaml_parser_parse(p, &v)) goto broken;
        type = v.type;
        yaml_event_delete(&v);
        if (type != begin[i]) return px_fail(e, PX_EINVAL, "document", "it is no map of keys and values");
    }
    for (;;) {
        bool good, last;
        size_t i;
        if (!yaml_parser_parse(p, &v)) goto broken;
        good = scalar(&v, key, sizeof key);
        last = v.type == YAML_MAPPING_END_EVENT;
        yaml_event_delete(&v);
        if (last) break;
        if (!good) return px_fail(e, PX_EINVAL, "document", "line %zu: a key that is no plain word", p->mark.line + 1);
        if ((rc = key_of(key, seen, &i, e))) return rc;
        if (!yaml_parser_parse(p, &v)) goto broken;
        good = scalar(&v, value, sizeof value);
        yaml_event_delete(&v);
        if (!good) return px_fail(e, PX_EINVAL, key, "its value is no plain word or number");
        if ((rc = put(m, dtype, i, value, e))) return rc;
        seen[i] = true;
    }
    for (size_t i = 0; i < 2; i++) {
        yaml_event_type_t type;
        if (!yaml_parser_parse(p, &v)) goto broken;
        type = v.type;
        yaml_event_delete(&v);
        if (type != end[i]) return px_fail(e, PX_EINVAL, "document", "there is a second document");
    }
    return PX_OK;
broken:
    if (p->error == YAML_MEMORY_ERROR) return px_fail(e, PX_ENOMEM, "document", "no memory");
    return px_fail(e, PX_EINVAL, "document", "line %zu, column %zu: %s", p->problem_mark.line + 1, p->problem_mark.column + 1,
                   p->problem ? p->problem : "no YAML");
}

px_code shard_model_parse(shard_arch *m, kern_dtype *dtype, const char *name, const char *text, size_t bytes, px_err *e)
{
    bool seen[N_KEYS] = { false };
    const char *base = strrchr(name, '/');
    yaml_parser_t p;
    size_t n;
    px_code rc;

    *m = (shard_arch){ .bos = UINT32_MAX };
    *dtype = KERN_F32;
    if (bytes > MAX_BYTES) { rc = px_fail(e, PX_ERANGE, "document", "%zu bytes; at most %u are read", bytes, MAX_BYTES); goto out; }
    if (!yaml_parser_initialize(&p)) { rc = px_fail(e, PX_ENOMEM, "document", "no memory"); goto out; }
    yaml_parser_set_input_string(&p, (const unsigned char *)text, bytes);
    rc = read_map(&p, m, dtype, seen, e);
    yaml_parser_delete(&p);
    for (size_t i = 0; !rc && i < N_KEYS; i++)
        if (KEYS[i].needed && !seen[i]) rc = px_fail(e, PX_ENOTFOUND, KEYS[i].key, "the file has no such key");
    if (!rc) rc = shard_arch_check(m, e);
    base = base ? base + 1 : name;
    n = strlen(base);
    if (n > 5 && !strcmp(base + n - 5, ".yaml")) n -= 5;
    if (!rc) shard_arch_set_name(m, base, n);
out:
    if (rc) px_err_set_file(e, name);
    return rc;
}
