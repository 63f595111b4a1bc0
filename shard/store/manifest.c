#include "shard/store/manifest.h"

#include "kernels/kernels.h"
#include "proto/base/io.h"
#include "shard/plan/bytes.h"
#include "shard/store/pack.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST_CAP (64u << 20)
#define ASSET_CAP    (1u << 30)

static const char *const SPLIT[] = { "even", "balanced" }, *const VOCAB[] = { "unpadded", "padded64" };

void shard_rank_file_name(uint32_t rank, uint32_t world, char out[64])
{
    snprintf(out, 64, "rank-%03u-of-%03u.safetensors", rank, world);
}

bool shard_asset_name_ok(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n >= 64 || name[0] == '.' || !strcmp(name, SHARD_MANIFEST_FILE) || !strncmp(name, "rank-", 5)) return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

void shard_arith_of(const shard_arch *m, const shard_types *t, char out[64])
{
    bool used[KERN_N_DTYPES] = { false };
    const char *ids[KERN_N_DTYPES];
    size_t n = 0, at = 0;

    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t i = 0; shard_arch_has(m, r) && !shard_role_get(r)->vector &&
                             i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++)
            used[shard_type_of(t, r, i)] = true;
    out[0] = 0;
    for (kern_dtype d = 0; d < KERN_N_DTYPES; d++) {
        const char *id = used[d] ? kern_arith_id(d, KERN_KV_F16) : NULL;
        size_t k = 0;
        while (id && k < n && strcmp(ids[k], id)) k++;
        if (!id || k < n) continue;
        ids[n++] = id;
        at += (size_t)snprintf(out + at, 64 - at, "%s%s", n > 1 ? "+" : "", id);
        if (at >= 64) return;
    }
}

/* ---- writing ---- */

static json_t *digest_json(const shard_digest *d)
{
    char hex[65];
    shard_digest_hex(d, hex);
    return json_string(hex);
}

static json_t *ranks_json(const shard_manifest *m)
{
    json_t *list = json_array();
    for (uint32_t r = 0; list && r < m->world; r++) {
        json_t *o = json_pack("{s:s,s:I,s:I,s:o}", "file", m->rank[r].file, "bytes", (json_int_t)m->rank[r].bytes,
                              "mapped_bytes", (json_int_t)m->rank[r].mapped_bytes, "header", digest_json(&m->rank[r].header));
        if (json_array_append_new(list, o)) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *assets_json(const shard_manifest *m)
{
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < m->n_assets; i++) {
        json_t *o = json_pack("{s:s,s:I,s:o}", "name", m->asset[i].name, "bytes", (json_int_t)m->asset[i].bytes, "digest",
                              digest_json(&m->asset[i].digest));
        if (json_array_append_new(list, o)) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *or_null(float v) { return isfinite(v) ? json_real((double)v) : json_null(); }

static json_t *manifest_json(const shard_manifest *m, const char *self)
{
    json_t *generation = json_pack("{s:o,s:o,s:o}", "temperature", or_null(m->default_temperature), "top_p",
                                   or_null(m->default_top_p), "top_k",
                                   m->default_top_k == UINT32_MAX ? json_null() : json_integer(m->default_top_k));
    json_t *head = json_pack("{s:i,s:o,s:o,s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:s}", "format", (int)m->version, "model",
                             shard_json_string(m->model), "revision", shard_json_string(m->revision), "builder", m->builder,
                             "world", (int)m->world, "layout", m->layout, "arithmetic", m->arith, "policy",
                             shard_policy_name(m->policy), "split", SPLIT[m->split_ffn], "vocab", VOCAB[m->split_vocab],
                             "digest", shard_digest_name(m->digest_kind));
    json_t *tail = json_pack("{s:o,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:s}", "source", digest_json(&m->source), "source_bytes",
                             (json_int_t)m->source_bytes, "stored_bytes", (json_int_t)m->stored_bytes, "plan",
                             digest_json(&m->plan), "arch", shard_arch_to_json(&m->arch), "types",
                             shard_types_to_json(&m->arch, &m->types), "ranks", ranks_json(m), "assets", assets_json(m),
                             "generation", generation, "manifest", self);

    if (!head || !tail || json_object_update(head, tail)) {
        if (head) json_decref(head);
        head = NULL;
    }
    if (tail) json_decref(tail);
    return head;
}

/* The digest of the file's bytes with its own digest written as zeros.  hex is where it stands. */
static px_code self_digest(shard_digest_kind kind, char *text, size_t bytes, char *hex, shard_digest *out, px_err *e)
{
    size_t n = 2 * (size_t)shard_digest_size(kind);
    char kept[64];
    shard_hash h;
    px_code rc = shard_hash_init(&h, kind, e);

    if (rc) return rc;
    memcpy(kept, hex, n);
    memset(hex, '0', n);
    shard_hash_update(&h, text, bytes);
    shard_hash_final(&h, out);
    shard_hash_deinit(&h);
    memcpy(hex, kept, n);
    return PX_OK;
}

static px_code bytes_digest(shard_digest_kind kind, const void *data, size_t bytes, shard_digest *out, px_err *e)
{
    shard_hash h;
    px_code rc = shard_hash_init(&h, kind, e);

    if (rc) return rc;
    shard_hash_update(&h, data, bytes);
    shard_hash_final(&h, out);
    shard_hash_deinit(&h);
    return PX_OK;
}

/* `"manifest": "` stands once: strings of a manifest cannot hold a quote that is not escaped. */
static char *find_self(char *text, size_t bytes, size_t hex_bytes)
{
    static const char KEY[] = "\"manifest\": \"";
    char *at = memmem(text, bytes, KEY, sizeof KEY - 1);

    if (!at || (size_t)(text + bytes - at) < sizeof KEY - 1 + hex_bytes) return NULL;
    return at + sizeof KEY - 1;
}

px_code shard_manifest_text(shard_manifest *m, px_alloc *a, char **text, size_t *bytes, px_err *e)
{
    char zeros[65] = { 0 }, hex[65], *at;
    shard_digest self;
    json_t *o;
    char *dump = NULL;
    px_code rc;

    *text = NULL;
    memset(zeros, '0', 2 * (size_t)shard_digest_size(m->digest_kind));
    if ((o = manifest_json(m, zeros))) dump = json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (o) json_decref(o);
    if (!dump || !(*text = px_new(a, char, strlen(dump) + 2))) {
        rc = px_fail(e, PX_ENOMEM, "", "the text of %s", SHARD_MANIFEST_FILE);
        goto fail;
    }
    *bytes = strlen(dump) + 1;
    memcpy(*text, dump, *bytes - 1);
    (*text)[*bytes - 1] = '\n';
    if (!(at = find_self(*text, *bytes, strlen(zeros)))) {
        rc = px_fail(e, PX_EINTERNAL, "manifest", "the text of %s lacks its digest", SHARD_MANIFEST_FILE);
        goto fail;
    }
    if ((rc = self_digest(m->digest_kind, *text, *bytes, at, &self, e))) goto fail;
    shard_digest_hex(&self, hex);
    memcpy(at, hex, strlen(hex));
    if ((rc = bytes_digest(m->digest_kind, *text, *bytes, &m->manifest, e))) goto fail;
    free(dump);
    return PX_OK;

fail:
    free(dump);
    if (*text) px_del(a, *text, *bytes + 1);
    *text = NULL;
    return rc;
}

/* ---- reading ---- */

static px_code word_of(const json_t *o, const char *key, const char *const *words, size_t n, size_t *out, px_err *e)
{
    char word[32];
    px_code rc = shard_json_text(o, "", key, word, sizeof word, e);

    if (rc) return rc;
    for (*out = 0; *out < n; (*out)++)
        if (!strcmp(word, words[*out])) return PX_OK;
    return px_mismatch(e, key, word, words[0]);
}

static px_code read_head(const json_t *o, shard_manifest *m, px_err *e)
{
    static const char *const DIGEST[] = { "xxh3-128", "sha256" };
    const char *policy[SHARD_N_POLICIES];
    char found[16], expected[16];
    uint64_t v;
    size_t k;
    px_code rc;

    if (!json_is_object(o)) return px_fail(e, PX_EINVAL, SHARD_MANIFEST_FILE, "is no object");
    if ((rc = shard_json_u64(o, "", "format", UINT32_MAX, &v, e))) return rc;
    m->version = (uint32_t)v;
    if (m->version != SHARD_FORMAT_VERSION) {
        snprintf(found, sizeof found, "%u", m->version);
        snprintf(expected, sizeof expected, "%u", SHARD_FORMAT_VERSION);
        return px_mismatch(e, "format", found, expected);
    }
    if ((rc = word_of(o, "digest", DIGEST, 2, &k, e))) return rc;
    m->digest_kind = (shard_digest_kind)k;
    for (k = 0; k < SHARD_N_POLICIES; k++) policy[k] = shard_policy_name((shard_policy)k);
    if ((rc = word_of(o, "policy", policy, SHARD_N_POLICIES, &k, e))) return rc;
    m->policy = (shard_policy)k;
    if ((rc = word_of(o, "split", SPLIT, 2, &k, e))) return rc;
    m->split_ffn = (shard_ffn_split)k;
    if ((rc = word_of(o, "vocab", VOCAB, 2, &k, e))) return rc;
    m->split_vocab = (shard_vocab_split)k;
    if ((rc = shard_json_text(o, "", "model", m->model, sizeof m->model, e)) ||
        (rc = shard_json_text(o, "", "revision", m->revision, sizeof m->revision, e)) ||
        (rc = shard_json_text(o, "", "builder", m->builder, sizeof m->builder, e)) ||
        (rc = shard_json_text(o, "", "layout", m->layout, sizeof m->layout, e)) ||
        (rc = shard_json_text(o, "", "arithmetic", m->arith, sizeof m->arith, e)) ||
        (rc = shard_json_digest(o, "", "source", m->digest_kind, &m->source, e)) ||
        (rc = shard_json_digest(o, "", "plan", m->digest_kind, &m->plan, e)) ||
        (rc = shard_json_u64(o, "", "source_bytes", INT64_MAX, &m->source_bytes, e)) ||
        (rc = shard_json_u64(o, "", "stored_bytes", INT64_MAX, &m->stored_bytes, e)) ||
        (rc = shard_json_u64(o, "", "world", SHARD_MAX_RANKS, &v, e)))
        return rc;
    m->world = (uint32_t)v;
    if (m->world == 0) return px_fail(e, PX_ERANGE, "world", "a set of 0 ranks");
    if (strcmp(m->layout, SHARD_LAYOUT)) return px_mismatch(e, "layout", m->layout, SHARD_LAYOUT);
    return PX_OK;
}

/* A field of the architecture, as the manifest spells it. */
static void below_arch(px_err *e)
{
    char field[sizeof e->field];

    if (!e || snprintf(field, sizeof field, "arch.%s", e->field) >= (int)sizeof field) return;
    memcpy(e->field, field, sizeof field);
}

/* The split is computed again, never read: what is recorded must equal it. */
static px_code read_plan(const json_t *o, shard_manifest *m, px_err *e)
{
    char arith[64];
    shard_digest plan;
    uint64_t stored = 0;
    px_code rc;

    if ((rc = shard_arch_from_json(json_object_get(o, "arch"), &m->arch, e))) return rc;
    if ((rc = shard_arch_check(&m->arch, e)) || (rc = shard_arch_check_served(&m->arch, e))) return below_arch(e), rc;
    snprintf(m->arch.name, sizeof m->arch.name, "%s", m->model);
    if ((rc = shard_types_from_json(json_object_get(o, "types"), m->a, &m->arch, &m->types, e)) ||
        (rc = shard_split_init(&m->split, m->a, &m->arch, &m->types, m->world, m->split_ffn, m->split_vocab, e)) ||
        (rc = shard_plan_digest(m->digest_kind, &m->arch, &m->types, &m->split, &plan, e)))
        return rc;
    if (!shard_digest_equal(&plan, &m->plan)) return shard_digest_mismatch(e, PX_EMISMATCH, "plan", &m->plan, &plan);
    shard_arith_of(&m->arch, &m->types, arith);
    if (strcmp(arith, m->arith)) return px_mismatch(e, "arithmetic", m->arith, arith);
    for (uint32_t r = 0; r < m->world; r++) {
        shard_weight_bytes w;
        if ((rc = shard_weight_bytes_of(&m->arch, &m->types, &m->split, r, true, &w, e))) return rc;
        m->rank[r].mapped_bytes = w.mapped;
        if (__builtin_add_overflow(stored, w.stored, &stored)) return px_fail(e, PX_ERANGE, "stored_bytes", "beyond 64 bits");
    }
    if (stored != m->stored_bytes) return px_fail(e, PX_EMISMATCH, "stored_bytes", "is not what the plan stores");
    m->bos = m->arch.bos;
    m->n_eos = m->arch.n_eos;
    memcpy(m->eos, m->arch.eos, sizeof m->eos);
    return PX_OK;
}

static px_code read_ranks(const json_t *o, shard_manifest *m, px_err *e)
{
    const json_t *list = json_object_get(o, "ranks");
    px_code rc;

    if (!json_is_array(list) || json_array_size(list) != m->world) {
        char found[24], expected[24];
        snprintf(found, sizeof found, "%zu files", json_array_size(list));
        snprintf(expected, sizeof expected, "%u files", m->world);
        return px_mismatch(e, "ranks", found, expected);
    }
    for (uint32_t r = 0; r < m->world; r++) {
        const json_t *v = json_array_get(list, r);
        char path[32], name[64];
        uint64_t mapped;
        snprintf(path, sizeof path, "ranks.%u", r);
        if ((rc = shard_json_text(v, path, "file", m->rank[r].file, sizeof m->rank[r].file, e)) ||
            (rc = shard_json_u64(v, path, "bytes", INT64_MAX, &m->rank[r].bytes, e)) ||
            (rc = shard_json_u64(v, path, "mapped_bytes", INT64_MAX, &mapped, e)) ||
            (rc = shard_json_digest(v, path, "header", m->digest_kind, &m->rank[r].header, e)))
            return rc;
        shard_rank_file_name(r, m->world, name);     /* no other name, so none leads out of the folder */
        if (strcmp(name, m->rank[r].file)) {
            strcat(path, ".file");
            return px_mismatch(e, path, m->rank[r].file, name);
        }
        if (mapped != m->rank[r].mapped_bytes || m->rank[r].bytes <= mapped || (m->rank[r].bytes - mapped) % 64) {
            char found[32], expected[64];
            snprintf(found, sizeof found, "%llu of %llu", (unsigned long long)mapped, (unsigned long long)m->rank[r].bytes);
            snprintf(expected, sizeof expected, "%llu and a header of a multiple of 64",
                     (unsigned long long)m->rank[r].mapped_bytes);
            strcat(path, ".bytes");
            return px_mismatch(e, path, found, expected);
        }
    }
    return PX_OK;
}

static px_code read_assets(const json_t *o, shard_manifest *m, px_err *e)
{
    const json_t *list = json_object_get(o, "assets");
    size_t n = json_array_size(list);
    px_code rc;

    if (!json_is_array(list) || n > SHARD_MAX_ASSETS)
        return px_fail(e, PX_EINVAL, "assets", "is no list of at most %u files", SHARD_MAX_ASSETS);
    if (n == 0) return PX_OK;
    if (!(m->asset = px_new(m->a, shard_manifest_asset_entry, n))) return px_fail(e, PX_ENOMEM, "assets", "%zu assets", n);
    m->n_assets = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        shard_manifest_asset_entry *s = &m->asset[i];
        char path[32];
        snprintf(path, sizeof path, "assets.%zu", i);
        if ((rc = shard_json_text(v, path, "name", s->name, sizeof s->name, e)) ||
            (rc = shard_json_u64(v, path, "bytes", ASSET_CAP, &s->bytes, e)) ||
            (rc = shard_json_digest(v, path, "digest", m->digest_kind, &s->digest, e)))
            return rc;
        if (!shard_asset_name_ok(s->name)) return px_fail(e, PX_EINVAL, path, "its name is not that of a file in a set");
        if (!strcmp(s->name, "tokenizer.json")) {
            m->has_tokenizer = true;
            m->tokenizer = s->digest;
        }
        if (!strcmp(s->name, "chat_template.txt")) m->has_template = true;
    }
    return PX_OK;
}

static px_code read_generation(const json_t *o, shard_manifest *m, px_err *e)
{
    const json_t *g = json_object_get(o, "generation");
    double d;
    uint64_t v;
    px_code rc;

    m->default_temperature = m->default_top_p = NAN;
    m->default_top_k = UINT32_MAX;
    if (!json_is_object(g)) return px_fail(e, PX_EINVAL, "generation", "is no object");
    if (!json_is_null(json_object_get(g, "temperature"))) {
        if ((rc = shard_json_number(g, "generation", "temperature", &d, e))) return rc;
        if (!(d >= 0 && d <= 100)) return px_fail(e, PX_ERANGE, "generation.temperature", "is not in 0 to 100");
        m->default_temperature = (float)d;
    }
    if (!json_is_null(json_object_get(g, "top_p"))) {
        if ((rc = shard_json_number(g, "generation", "top_p", &d, e))) return rc;
        if (!(d > 0 && d <= 1)) return px_fail(e, PX_ERANGE, "generation.top_p", "is not in (0, 1]");
        m->default_top_p = (float)d;
    }
    if (!json_is_null(json_object_get(g, "top_k"))) {
        if ((rc = shard_json_u64(g, "generation", "top_k", UINT32_MAX - 1, &v, e))) return rc;
        m->default_top_k = (uint32_t)v;
    }
    return PX_OK;
}

/* Last, because every member that disagrees by itself has a better name: nothing was changed after it was written. */
static px_code check_self(const json_t *o, shard_manifest *m, char *text, size_t bytes, px_err *e)
{
    shard_digest recorded, computed;
    char *at;
    px_code rc = shard_json_digest(o, "", "manifest", m->digest_kind, &recorded, e);

    if (rc) return rc;
    if (!(at = find_self(text, bytes, 2 * (size_t)recorded.n)))
        return px_fail(e, PX_ECORRUPT, "manifest", "its own digest is not where it was written");
    if ((rc = self_digest(m->digest_kind, text, bytes, at, &computed, e))) return rc;
    if (!shard_digest_equal(&computed, &recorded))
        return shard_digest_mismatch(e, PX_ECORRUPT, "manifest", &computed, &recorded);
    return bytes_digest(m->digest_kind, text, bytes, &m->manifest, e);
}

px_code shard_manifest_read(shard_manifest *m, px_alloc *a, const char *dir, px_err *e)
{
    char path[4096], *text = NULL;
    size_t bytes = 0;
    json_error_t je;
    json_t *o = NULL;
    px_code rc;

    memset(m, 0, sizeof *m);
    m->a = a;
    if ((rc = px_path_join(path, sizeof path, dir, SHARD_MANIFEST_FILE, e))) goto fail;
    if ((rc = px_read_file(a, path, MANIFEST_CAP, &text, &bytes, e))) goto fail;
    if (!(o = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &je))) {
        rc = px_fail(e, PX_ECORRUPT, SHARD_MANIFEST_FILE, "line %d, column %d: %.160s", je.line, je.column, je.text);
        goto fail;
    }
    if ((rc = read_head(o, m, e))) goto fail;
    if (!(m->rank = px_new(a, shard_manifest_rank, m->world))) {
        rc = px_fail(e, PX_ENOMEM, "ranks", "%u ranks", m->world);
        goto fail;
    }
    if ((rc = read_plan(o, m, e)) || (rc = read_ranks(o, m, e)) || (rc = read_assets(o, m, e)) ||
        (rc = read_generation(o, m, e)) || (rc = check_self(o, m, text, bytes, e)))
        goto fail;
    json_decref(o);
    px_del(a, text, bytes + 1);
    return PX_OK;

fail:
    px_err_set_file(e, path);
    if (e && !e->field[0]) snprintf(e->field, sizeof e->field, "%s", SHARD_MANIFEST_FILE);    /* no file, no JSON */
    if (o) json_decref(o);
    if (text) px_del(a, text, bytes + 1);
    shard_manifest_deinit(m);
    return rc;
}

void shard_manifest_deinit(shard_manifest *m)
{
    if (m->rank) px_del(m->a, m->rank, m->world);
    if (m->asset) px_del(m->a, m->asset, m->n_assets);
    shard_split_deinit(&m->split);
    shard_types_deinit(&m->types);
    memset(m, 0, sizeof *m);
}

px_code shard_manifest_asset(const shard_manifest *m, px_alloc *a, const char *dir, const char *name, char **data,
                             size_t *bytes, px_err *e)
{
    const shard_manifest_asset_entry *s = NULL;
    shard_digest found;
    char path[4096];
    px_code rc;

    *data = NULL;
    for (uint32_t i = 0; i < m->n_assets; i++)
        if (!strcmp(name, m->asset[i].name)) s = &m->asset[i];
    if (!s) return px_fail(e, PX_ENOTFOUND, name, "the set has no such file");
    if ((rc = px_path_join(path, sizeof path, dir, name, e)) ||
        (rc = px_read_file(a, path, (size_t)ASSET_CAP, data, bytes, e)))
        goto fail;
    if (*bytes != s->bytes) {
        char is[32], was[32];
        snprintf(is, sizeof is, "%zu bytes", *bytes);
        snprintf(was, sizeof was, "%llu bytes", (unsigned long long)s->bytes);
        rc = px_mismatch(e, name, is, was);
        goto fail;
    }
    if ((rc = bytes_digest(m->digest_kind, *data, *bytes, &found, e))) goto fail;
    if (!shard_digest_equal(&found, &s->digest)) {
        rc = shard_digest_mismatch(e, PX_ECORRUPT, name, &found, &s->digest);
        goto fail;
    }
    return PX_OK;

fail:
    px_err_set_file(e, path);
    if (e && !e->field[0]) snprintf(e->field, sizeof e->field, "%s", name);
    if (*data) px_del(a, *data, *bytes + 1);
    *data = NULL;
    return rc;
}
