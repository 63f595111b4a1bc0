/* An architecture and its types as JSON and as the canonical text that the plan digest covers. */
#include "shard/store/manifest.h"

#include "proto/base/io.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- members of an object ---- */

static px_code bad(px_err *e, px_code code, const char *path, const char *key, const char *what)
{
    char field[96];
    snprintf(field, sizeof field, "%s%s%s", path, *path ? "." : "", key);
    return px_fail(e, code, field, "%s", what);
}

static px_code member(const json_t *o, const char *path, const char *key, const json_t **v, px_err *e)
{
    if (!json_is_object(o)) return px_fail(e, PX_EINVAL, path, "is no object");
    if (!(*v = json_object_get(o, key))) return bad(e, PX_EINVAL, path, key, "is missing");     /* a damaged file: PX_ENOTFOUND is for one that is not there */
    return PX_OK;
}

px_code shard_json_u64(const json_t *o, const char *path, const char *key, uint64_t max, uint64_t *out, px_err *e)
{
    const json_t *v;
    px_code rc = member(o, path, key, &v, e);

    if (rc) return rc;
    if (!json_is_integer(v)) return bad(e, PX_EINVAL, path, key, "is no integer");
    if (json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
        return bad(e, PX_ERANGE, path, key, "is out of range");
    *out = (uint64_t)json_integer_value(v);
    return PX_OK;
}

px_code shard_json_number(const json_t *o, const char *path, const char *key, double *out, px_err *e)
{
    const json_t *v;
    px_code rc = member(o, path, key, &v, e);

    if (rc) return rc;
    if (!json_is_number(v)) return bad(e, PX_EINVAL, path, key, "is no number");
    *out = json_number_value(v);
    return PX_OK;
}

px_code shard_json_bool(const json_t *o, const char *path, const char *key, bool *out, px_err *e)
{
    const json_t *v;
    px_code rc = member(o, path, key, &v, e);

    if (rc) return rc;
    if (!json_is_boolean(v)) return bad(e, PX_EINVAL, path, key, "is neither true nor false");
    *out = json_is_true(v);
    return PX_OK;
}

px_code shard_json_text(const json_t *o, const char *path, const char *key, char *out, size_t cap, px_err *e)
{
    const json_t *v;
    px_code rc = member(o, path, key, &v, e);

    if (rc) return rc;
    if (!json_is_string(v)) return bad(e, PX_EINVAL, path, key, "is no string");
    if (json_string_length(v) >= cap || strlen(json_string_value(v)) != json_string_length(v))
        return bad(e, PX_ERANGE, path, key, "is too long");
    memcpy(out, json_string_value(v), json_string_length(v) + 1);
    return PX_OK;
}

px_code shard_json_digest(const json_t *o, const char *path, const char *key, shard_digest_kind kind, shard_digest *out,
                          px_err *e)
{
    char hex[80];
    px_code rc = shard_json_text(o, path, key, hex, sizeof hex, e);

    if (rc) return rc;
    if (!shard_digest_parse(kind, hex, out)) return bad(e, PX_EINVAL, path, key, "is no digest of the set's kind");
    return PX_OK;
}

json_t *shard_json_string(const char *s)
{
    char plain[256];
    size_t n = strlen(s);

    if (px_utf8_valid(s, n)) return json_stringn(s, n);
    if (n >= sizeof plain) n = sizeof plain - 1;
    for (size_t i = 0; i < n; i++) plain[i] = (unsigned char)s[i] < 0x80 ? s[i] : '?';
    return json_stringn(plain, n);
}

/* ---- the architecture ---- */

static const struct { const char *name; size_t at; } NUMBER[] = {
#define N(f) { #f, offsetof(shard_arch, f) }
    N(n_layer), N(d_model), N(d_ff), N(n_head), N(n_kv_head), N(head_dim), N(n_vocab), N(n_ctx), N(n_expert),
    N(n_expert_used), N(sliding_window), N(rope_ctx_orig), N(bos),
}, REAL[] = { N(rope_theta), N(rope_factor), N(rope_low_freq), N(rope_high_freq) },
   FLAG[] = { N(tied), N(qkv_bias), N(qk_norm) };
#undef N
#define COUNT(x) (sizeof(x) / sizeof *(x))
static const char *const ROPE[] = { "none", "linear", "llama3" };

static uint32_t number_of(const shard_arch *m, size_t i) { return *(const uint32_t *)((const char *)m + NUMBER[i].at); }
static double real_of(const shard_arch *m, size_t i) { return *(const double *)((const char *)m + REAL[i].at); }
static bool flag_of(const shard_arch *m, size_t i) { return *(const bool *)((const char *)m + FLAG[i].at); }

void shard_arch_hash(shard_hash *h, const shard_arch *m)
{
    uint64_t bits;

    shard_hash_text(h, "family %s\n", m->family);
    for (size_t i = 0; i < COUNT(NUMBER); i++) shard_hash_text(h, "%s %u\n", NUMBER[i].name, number_of(m, i));
    for (size_t i = 0; i < COUNT(FLAG); i++) shard_hash_text(h, "%s %d\n", FLAG[i].name, flag_of(m, i));
    for (size_t i = 0; i < COUNT(REAL); i++) {       /* bits, not digits: no rounding, no locale */
        double v = real_of(m, i);
        memcpy(&bits, &v, sizeof bits);
        shard_hash_text(h, "%s %016llx\n", REAL[i].name, (unsigned long long)bits);
    }
    bits = 0;
    memcpy(&bits, &m->rms_eps, sizeof m->rms_eps);
    shard_hash_text(h, "rms_eps %08llx\nrope_kind %s\neos", (unsigned long long)bits, ROPE[m->rope_kind]);
    for (uint32_t i = 0; i < m->n_eos; i++) shard_hash_text(h, " %u", m->eos[i]);
    shard_hash_text(h, "\nrope_divisors");
    for (uint32_t i = 0; i < m->n_rope_divisors; i++) {
        memcpy(&bits, &m->rope_divisor[i], sizeof m->rope_divisor[i]);
        shard_hash_text(h, " %08llx", (unsigned long long)(bits & UINT32_MAX));
    }
    shard_hash_text(h, "\n");
}

static int put(json_t *o, const char *key, json_t *v) { return json_object_set_new(o, key, v); }

json_t *shard_arch_to_json(const shard_arch *m)
{
    json_t *o = json_object(), *list;
    int bad_puts = 0;

    if (!o) return NULL;
    bad_puts |= put(o, "family", shard_json_string(m->family));
    for (size_t i = 0; i < COUNT(NUMBER); i++)
        bad_puts |= put(o, NUMBER[i].name, !strcmp(NUMBER[i].name, "bos") && m->bos == UINT32_MAX
                                               ? json_null() : json_integer(number_of(m, i)));
    for (size_t i = 0; i < COUNT(FLAG); i++) bad_puts |= put(o, FLAG[i].name, json_boolean(flag_of(m, i)));
    for (size_t i = 0; i < COUNT(REAL); i++) bad_puts |= put(o, REAL[i].name, json_real(real_of(m, i)));
    bad_puts |= put(o, "rms_eps", json_real((double)m->rms_eps));
    bad_puts |= put(o, "rope_kind", json_string(ROPE[m->rope_kind]));
    list = json_array();
    for (uint32_t i = 0; i < m->n_eos; i++) bad_puts |= json_array_append_new(list, json_integer(m->eos[i]));
    bad_puts |= put(o, "eos", list);
    list = json_array();
    for (uint32_t i = 0; i < m->n_rope_divisors; i++)
        bad_puts |= json_array_append_new(list, json_real((double)m->rope_divisor[i]));
    bad_puts |= put(o, "rope_divisors", list);
    if (!bad_puts) return o;
    json_decref(o);
    return NULL;
}

static px_code arrays_from_json(const json_t *o, shard_arch *m, px_err *e)
{
    const json_t *list;
    px_code rc;

    if ((rc = member(o, "arch", "eos", &list, e))) return rc;
    if (!json_is_array(list) || json_array_size(list) > COUNT(m->eos))
        return bad(e, PX_EINVAL, "arch", "eos", "is no list of at most 8 ids");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
            return bad(e, PX_EINVAL, "arch", "eos", "is no list of ids");
        m->eos[m->n_eos++] = (uint32_t)json_integer_value(v);
    }
    if ((rc = member(o, "arch", "rope_divisors", &list, e))) return rc;
    if (!json_is_array(list) || json_array_size(list) > COUNT(m->rope_divisor))
        return bad(e, PX_EINVAL, "arch", "rope_divisors", "is no list of at most 256 numbers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v) || !isfinite((float)json_number_value(v)))
            return bad(e, PX_EINVAL, "arch", "rope_divisors", "is no list of numbers");
        m->rope_divisor[m->n_rope_divisors++] = (float)json_number_value(v);
    }
    return PX_OK;
}

px_code shard_arch_from_json(const json_t *o, shard_arch *m, px_err *e)
{
    char word[16];
    double eps;
    px_code rc;
    size_t k = 0;

    *m = (shard_arch){ 0 };
    if (!json_is_object(o)) return bad(e, PX_EINVAL, "", "arch", "is no object");
    if ((rc = shard_json_text(o, "arch", "family", m->family, sizeof m->family, e))) return rc;
    for (size_t i = 0; i < COUNT(NUMBER); i++) {
        uint64_t v = UINT32_MAX;
        if (strcmp(NUMBER[i].name, "bos") || !json_is_null(json_object_get(o, "bos")))
            if ((rc = shard_json_u64(o, "arch", NUMBER[i].name, UINT32_MAX, &v, e))) return rc;
        *(uint32_t *)((char *)m + NUMBER[i].at) = (uint32_t)v;
    }
    for (size_t i = 0; i < COUNT(FLAG); i++)
        if ((rc = shard_json_bool(o, "arch", FLAG[i].name, (bool *)((char *)m + FLAG[i].at), e))) return rc;
    for (size_t i = 0; i < COUNT(REAL); i++)
        if ((rc = shard_json_number(o, "arch", REAL[i].name, (double *)((char *)m + REAL[i].at), e))) return rc;
    if ((rc = shard_json_number(o, "arch", "rms_eps", &eps, e))) return rc;
    m->rms_eps = (float)eps;
    if ((rc = shard_json_text(o, "arch", "rope_kind", word, sizeof word, e))) return rc;
    while (k < COUNT(ROPE) && strcmp(word, ROPE[k])) k++;
    if (k == COUNT(ROPE)) return bad(e, PX_EINVAL, "arch", "rope_kind", "is not none, linear or llama3");
    m->rope_kind = (kern_rope_kind)k;
    return arrays_from_json(o, m, e);
}

/* ---- types ---- */

/* "blk.%u.attn_q" -> "blk.*.attn_q": one member for all layers. */
static void types_key(shard_role r, char out[64])
{
    const char *name = shard_role_get(r)->name, *at = strstr(name, "%u");
    if (at) snprintf(out, 64, "%.*s*%s", (int)(at - name), name, at + 2);
    else snprintf(out, 64, "%s", name);
}

static json_t *run(kern_dtype t, uint32_t n)
{
    return json_pack("[s,I]", kern_dtype_get(t)->name, (json_int_t)n);
}

json_t *shard_types_to_json(const shard_arch *m, const shard_types *t)
{
    json_t *o = json_object();
    int bad_puts = 0;

    if (!o) return NULL;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_role_info *info = shard_role_get(r);
        uint32_t n = info->per_layer ? m->n_layer : 1;
        char key[64];
        json_t *list;
        if (!shard_arch_has(m, r) || info->vector) continue;
        types_key(r, key);
        list = json_array();
        for (uint32_t i = 0, from = 0; i < n; i++)
            if (i + 1 == n || shard_type_of(t, r, i + 1) != shard_type_of(t, r, from)) {
                bad_puts |= json_array_append_new(list, run(shard_type_of(t, r, from), i + 1 - from));
                from = i + 1;
            }
        bad_puts |= put(o, key, list);
    }
    if (!bad_puts) return o;
    json_decref(o);
    return NULL;
}

px_code shard_types_from_json(const json_t *o, px_alloc *a, const shard_arch *m, shard_types *t, px_err *e)
{
    size_t known = 0;
    px_code rc;

    *t = (shard_types){ 0 };
    if (!json_is_object(o)) return bad(e, PX_EINVAL, "", "types", "is no object");
    if ((rc = shard_types_init(t, a, m->n_layer, e))) return rc;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_role_info *info = shard_role_get(r);
        uint32_t n = info->per_layer ? m->n_layer : 1, at = 0;
        const json_t *list;
        char key[64];
        if (!shard_arch_has(m, r) || info->vector) continue;
        types_key(r, key);
        known++;
        if ((rc = member(o, "types", key, &list, e))) goto fail;
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *pair = json_array_get(list, i);
            const json_t *word = json_array_get(pair, 0), *count = json_array_get(pair, 1);
            kern_dtype type;
            if (json_array_size(pair) != 2 || !json_is_string(word) || !json_is_integer(count) ||
                json_integer_value(count) < 1 || json_integer_value(count) > (json_int_t)(n - at) ||
                kern_dtype_parse(json_string_value(word), &type, NULL)) {
                rc = bad(e, PX_EINVAL, "types", key, "is no list of [type, number of layers]");
                goto fail;
            }
            for (json_int_t k = json_integer_value(count); k; k--, at++) {
                if (info->per_layer) t->layer[(size_t)at * SHARD_N_ROLES + r] = type;
                else t->global[r] = type;
            }
        }
        if (at != n) {
            rc = bad(e, PX_EINVAL, "types", key, "does not cover every layer");
            goto fail;
        }
    }
    if (json_object_size(o) != known) {
        rc = bad(e, PX_EINVAL, "", "types", "names tensors that this architecture has not");
        goto fail;
    }
    return PX_OK;

fail:
    shard_types_deinit(t);
    return rc;
}

px_code shard_plan_digest(shard_digest_kind kind, const shard_arch *m, const shard_types *t, const shard_split *s,
                          shard_digest *out, px_err *e)
{
    shard_hash h;
    px_code rc = shard_hash_init(&h, kind, e);

    if (rc) return rc;
    shard_hash_text(&h, "phalanx plan 1\n");
    shard_arch_hash(&h, m);
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        if (!shard_arch_has(m, r)) continue;
        shard_hash_text(&h, "%s", shard_role_get(r)->name);
        for (uint32_t i = 0; i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++)
            shard_hash_text(&h, " %s", kern_dtype_get(shard_type_of(t, r, i))->name);
        shard_hash_text(&h, "\n");
    }
    shard_hash_text(&h, "world %u ffn %d vocab %d\n", s->world, (int)s->ffn, (int)s->vocab);
    for (uint32_t r = 0; r < s->world; r++) {
        const shard_cut *c = &s->cut[r];
        shard_hash_text(&h, "q %u %u kv %u %u ffn %u %u vocab %u %u\n", c->q_head.begin, c->q_head.end, c->kv_head.begin,
                        c->kv_head.end, c->ffn.begin, c->ffn.end, c->vocab.begin, c->vocab.end);
    }
    shard_hash_final(&h, out);
    shard_hash_deinit(&h);
    return PX_OK;
}
