/* What the planner asks: the architecture alone, also of families that are not served. */
#include "shard/store/checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/io.h"
#include "shard/store/gguf_arch.h"
#include "shard/store/hfconfig.h"
#include "shard/store/models.h"
#include "shard/store/probe.h"
#include "shard/store/set.h"

/* A layer's tensor, or its experts': one behind the other in one tensor, or one by one in older files. */
static const shard_gguf_tensor *find(const shard_gguf *g, const shard_arch *m, shard_role r, uint32_t layer, char *name, size_t cap)
{
    static const char *const part[] = { [SHARD_FFN_GATE] = "gate", [SHARD_FFN_UP] = "up", [SHARD_FFN_DOWN] = "down" };
    const shard_gguf_tensor *t;

    if (!m->n_expert || (r != SHARD_FFN_GATE && r != SHARD_FFN_UP && r != SHARD_FFN_DOWN))
        return shard_gguf_tensor_find(g, shard_tensor_name(r, layer, name, cap));
    snprintf(name, cap, "blk.%u.ffn_%s.0.weight", layer, part[r]);
    if ((t = shard_gguf_tensor_find(g, name))) return t;
    snprintf(name, cap, "blk.%u.ffn_%s_exps.weight", layer, part[r]);
    return shard_gguf_tensor_find(g, name);
}

static px_code from_gguf(shard_arch *m, shard_types *t, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    char name[96];
    shard_gguf *g;

    if ((rc = shard_gguf_open(&g, a, path, e))) return rc;
    if ((rc = shard_gguf_arch(m, g, false, e))) goto out;
    if (m->n_layer > shard_gguf_n_tensors(g)) {
        rc = px_fail(e, PX_EMISMATCH, "n_layer", "%u layers, and only %zu tensors", m->n_layer, shard_gguf_n_tensors(g));
        goto out;
    }
    if ((rc = shard_types_init(t, a, m->n_layer, e))) goto out;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t l = 0; shard_arch_has(m, r) && l < (shard_role_get(r)->per_layer ? m->n_layer : 1); l++) {
            const shard_gguf_tensor *x = find(g, m, r, l, name, sizeof name);
            if (!x) {
                rc = px_fail(e, PX_ENOTFOUND, name, "the file has no such tensor");
                goto out;
            }
            if (r <= SHARD_OUTPUT) t->global[r] = x->dtype;
            else t->layer[(size_t)l * SHARD_N_ROLES + r] = x->dtype;
        }
    if (m->tied) t->global[SHARD_OUTPUT] = t->global[SHARD_TOKEN_EMBD];
out:
    if (rc) px_err_set_file(e, path);
    shard_gguf_close(g);
    return rc;
}

static px_code all_of(shard_types *t, px_alloc *a, uint32_t n_layer, kern_dtype dtype, px_err *e)
{
    px_code rc = shard_types_init(t, a, n_layer, e);

    if (rc) return rc;
    for (shard_role r = 0; r <= SHARD_OUTPUT; r++) t->global[r] = dtype;
    for (size_t i = 0; i < (size_t)n_layer * SHARD_N_ROLES; i++) t->layer[i] = dtype;
    return PX_OK;
}

static px_code from_model(shard_arch *m, shard_types *t, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    kern_dtype dtype;
    char *text;
    size_t n;

    if ((rc = px_read_file(a, path, 65536, &text, &n, e))) return rc;
    rc = shard_model_parse(m, &dtype, path, text, n, e);
    px_alloc_put(a, text, n + 1, 1);
    return rc ? rc : all_of(t, a, m->n_layer, dtype, e);
}

static px_code from_name(shard_arch *m, shard_types *t, px_alloc *a, const shard_model_text *x, px_err *e)
{
    kern_dtype dtype;
    px_code rc = shard_model_parse(m, &dtype, x->name, x->text, x->bytes, e);

    return rc ? rc : all_of(t, a, m->n_layer, dtype, e);
}

static px_code from_config(shard_arch *m, shard_types *t, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    kern_dtype dtype;
    char revision[96];

    if ((rc = shard_hfconfig_read(m, &dtype, revision, sizeof revision, false, a, path, e))) return rc;
    return all_of(t, a, m->n_layer, dtype, e);
}

static px_code from_set(shard_arch *m, shard_types *t, px_alloc *a, const char *dir, px_err *e)
{
    shard_manifest set;
    px_code rc = shard_manifest_read(&set, a, dir, e);

    if (rc) return rc;
    *m = set.arch;
    *t = set.types;                              /* taken over */
    set.types = (shard_types){0};
    shard_manifest_deinit(&set);
    return PX_OK;
}

px_code shard_arch_read(shard_arch *m, shard_types *t, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    const shard_model_text *known = shard_model_find(path);
    shard_probe *p = px_new(a, shard_probe, 1);

    *m = (shard_arch){0};
    *t = (shard_types){0};
    if (!p) return px_fail(e, PX_ENOMEM, "", "no memory for paths");
    if ((rc = shard_probe_path(p, path, NULL)) == PX_ENOTFOUND && known) {       /* a file of that name comes first */
        rc = from_name(m, t, a, known, e);
        goto out;
    }
    if (rc == PX_ENOTFOUND && !strchr(path, '/') && shard_model_nearest(path)) {
        rc = px_fail(e, PX_ENOTFOUND, "model", "there is no such file, and no known model of that name; the nearest is %s",
                     shard_model_nearest(path));
        goto out;
    }
    if ((rc = shard_probe_path(p, path, e))) goto out;
    switch (p->kind) {
    case SHARD_IS_GGUF:        rc = from_gguf(m, t, a, path, e); break;
    case SHARD_IS_SAFETENSORS:
    case SHARD_IS_CONFIG:      rc = from_config(m, t, a, p->config, e); break;
    case SHARD_IS_SET:         rc = from_set(m, t, a, p->dir, e); break;
    case SHARD_IS_MODEL:       rc = from_model(m, t, a, path, e); break;
    }
out:
    if (rc) {
        px_err_set_file(e, path);
        shard_types_deinit(t);
    }
    px_del(a, p, 1);
    return rc;
}
