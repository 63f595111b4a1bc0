#include "shard/store/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/dtype.h"
#include "proto/base/io.h"
#include "shard/model/family.h"
#include "shard/store/gguf_arch.h"
#include "shard/store/hfconfig.h"
#include "shard/store/inventory.h"
#include "shard/store/probe.h"
#include "shard/store/safetensors.h"

struct shard_checkpoint {
    px_alloc             *a;
    shard_arch            arch;
    shard_types           types;
    shard_gguf           *gguf;         /* owned; NULL for safetensors */
    shard_safetensors_set files;        /* owned; empty for GGUF */
    shard_inventory       inventory;
    shard_source         *bound;        /* (n_bound) owned */
    size_t                n_bound;
    uint64_t              bytes;
    char                  revision[96];
    void                 *pool; size_t pool_bytes;     /* synthetic: a mapping, owned */
};

/* ---- GGUF ---- */

static px_code open_gguf(shard_checkpoint *c, const char *path, px_err *e)
{
    px_code rc;
    const char *s;
    size_t n;

    if ((rc = shard_gguf_open(&c->gguf, c->a, path, e)) || (rc = shard_gguf_arch(&c->arch, c->gguf, true, e))) return rc;
    if (!shard_gguf_str(c->gguf, "general.version", &s, &n, NULL) && n < sizeof c->revision && px_utf8_valid(s, n))
        memcpy(c->revision, s, n);
    if ((rc = shard_inventory_init(&c->inventory, c->a, shard_gguf_n_tensors(c->gguf), e))) return rc;
    for (size_t i = 0; i < c->inventory.n; i++) {
        const shard_gguf_tensor *t = shard_gguf_tensor_at(c->gguf, i);
        shard_named *v = &c->inventory.item[i];
        if (t->planes != 1) {
            char name[96];
            snprintf(name, sizeof name, "%.*s", t->name_bytes < sizeof name ? (int)t->name_bytes : (int)sizeof name - 1, t->name);
            return px_fail(e, PX_EUNSUP, name, "%" PRIu64 " matrices in one tensor (experts?) are not served", t->planes);
        }
        v->name = t->name;
        v->name_bytes = t->name_bytes;
        v->source = (shard_source){ t->dtype, t->rows, t->cols, t->data, t->bytes, shard_gguf_path(c->gguf), false };
    }
    return PX_OK;
}

/* ---- safetensors ---- */

static px_code open_safetensors(shard_checkpoint *c, const shard_probe *p, px_err *e)
{
    px_code rc;
    kern_dtype dtype;
    size_t n = 0, at = 0;
    char path[4096];

    if ((rc = shard_hfconfig_read(&c->arch, &dtype, c->revision, sizeof c->revision, true, c->a, p->config, e))) return rc;
    if ((rc = shard_arch_check_served(&c->arch, e))) { px_err_set_file(e, p->config); return rc; }
    if ((rc = px_path_join(path, sizeof path, p->dir, "generation_config.json", e)) ||
        (rc = shard_hfconfig_add_generation(&c->arch, c->a, path, e)))
        return rc;
    rc = p->index[0] ? shard_safetensors_set_index(&c->files, c->a, p->dir, p->index, e)
                     : shard_safetensors_set_single(&c->files, c->a, p->weights, e);
    if (rc) return rc;
    for (size_t f = 0; f < c->files.n; f++) n += c->files.file[f].n;
    if ((rc = shard_inventory_init(&c->inventory, c->a, n, e))) return rc;
    for (size_t f = 0; f < c->files.n; f++)
        for (size_t i = 0; i < c->files.file[f].n; i++) {
            const shard_st_tensor *t = &c->files.file[f].tensor[i];
            shard_named *v = &c->inventory.item[at++];
            v->name = t->name;
            v->name_bytes = strlen(t->name);
            v->source = (shard_source){ t->dtype, t->rows, t->cols, t->data, t->bytes, c->files.file[f].map.path, false };
        }
    return PX_OK;
}

/* ---- both ---- */

static px_code bind(shard_checkpoint *c, px_err *e)
{
    px_code rc;
    const shard_naming names = c->gguf ? SHARD_NAMES_GGUF : SHARD_NAMES_HF;
    const bool pairs = c->gguf && shard_family_find(SHARD_FAMILY_NAME, c->arch.family, true)->gguf_pairs;   /* served: checked */

    /* A layer has more than one tensor: a number of layers that lies is found before memory is taken for it. */
    if (c->arch.n_layer > c->inventory.n)
        return px_fail(e, PX_EMISMATCH, "n_layer", "%u layers, and only %zu tensors", c->arch.n_layer, c->inventory.n);
    c->n_bound = 3 + (size_t)c->arch.n_layer * SHARD_N_ROLES;
    if (!(c->bound = px_new(c->a, shard_source, c->n_bound)))
        return px_fail(e, PX_ENOMEM, "", "no memory for %zu tensors", c->n_bound);
    if ((rc = shard_types_init(&c->types, c->a, c->arch.n_layer, e)) || (rc = shard_inventory_sort(&c->inventory, e)) ||
        (rc = shard_inventory_bind(&c->inventory, names, &c->arch, c->bound, e)))
        return rc;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t l = 0; shard_arch_has(&c->arch, r) && l < (shard_role_get(r)->per_layer ? c->arch.n_layer : 1); l++) {
            shard_source *s = &c->bound[shard_binding_at(r, l)];
            s->qk_permuted = pairs && (r == SHARD_ATTN_Q || r == SHARD_ATTN_K);
            c->bytes += s->bytes;                       /* no overflow: extents of files that are mapped */
            if (r <= SHARD_OUTPUT) c->types.global[r] = s->dtype;
            else c->types.layer[(size_t)l * SHARD_N_ROLES + r] = s->dtype;
        }
    /* Tied: whoever asks for the type of the output gets that of the one table. */
    if (c->arch.tied) c->types.global[SHARD_OUTPUT] = c->types.global[SHARD_TOKEN_EMBD];
    return PX_OK;
}

px_code shard_checkpoint_open(shard_checkpoint **out, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    shard_probe *p = NULL;
    shard_checkpoint *c = px_new(a, shard_checkpoint, 1);

    *out = NULL;
    if (!c) return px_fail(e, PX_ENOMEM, "", "no memory for a checkpoint");
    c->a = a;
    if (!(p = px_new(a, shard_probe, 1))) { rc = px_fail(e, PX_ENOMEM, "", "no memory for paths"); goto fail; }
    if ((rc = shard_probe_path(p, path, e))) goto fail;
    switch (p->kind) {
    case SHARD_IS_GGUF:        rc = open_gguf(c, path, e); break;
    case SHARD_IS_SAFETENSORS: rc = open_safetensors(c, p, e); break;
    case SHARD_IS_CONFIG:      rc = px_fail(e, PX_ENOTFOUND, "model.safetensors", "a configuration without weights in safetensors, the one form"
                                                                     " that is read of a folder"); break;
    case SHARD_IS_MODEL:       rc = px_fail(e, PX_EUNSUP, "", "the numbers of a model without weights"); break;
    case SHARD_IS_SET:         rc = px_fail(e, PX_EINVAL, "manifest.json", "this is a shard set, and not a checkpoint"); break;
    }
    if (rc || (rc = shard_arch_check_served(&c->arch, e)) || (rc = bind(c, e))) goto fail;
    px_del(a, p, 1);
    *out = c;
    return PX_OK;

fail:
    px_err_set_file(e, path);
    if (p) px_del(a, p, 1);
    shard_checkpoint_close(c);
    return rc;
}

/* ---- synthetic ---- */

#define SPREAD 1024u                    /* tensors begin at so many places of the pool: no two in a row are alike */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return *s;
}

/* One after the other, +-0.03: the deviation of a matrix of some thousand columns whose rows keep their norm. */
static void fill_pool(uint8_t *p, size_t bytes, kern_dtype t, uint64_t seed)
{
    uint64_t s = seed * 0x9E3779B97F4A7C15u + 1;
    const size_t each = t == KERN_F32 ? 4 : 2;

    for (size_t at = 0; at + each <= bytes; at += each) {
        float x = ((float)(next_random(&s) >> 40) / (float)(1u << 24) - 0.5f) * 0.06f;
        uint16_t h = t == KERN_F16 ? kern_f32_to_f16(x) : kern_f32_to_bf16(x);
        memcpy(p + at, t == KERN_F32 ? (const void *)&x : (const void *)&h, each);
    }
}

/* A pool as large as the largest tensor, then a vector of ones.  A memory file, because whoever is done with a tensor
 * may give its pages back; zeros need no pages at all. */
static px_code make_pool(shard_checkpoint *c, size_t largest, size_t vector, kern_dtype t, uint64_t seed, bool sparse, px_err *e)
{
    size_t bytes = px_align_up(largest + 64 * SPREAD, 4096), ones = px_align_up(vector, 4096);
    int fd = -1;
    px_code rc;

    c->pool_bytes = bytes + ones;
    if (!sparse && (rc = px_memfd("phalanx-synthetic", c->pool_bytes, &fd, e))) return rc;
    c->pool = mmap(NULL, c->pool_bytes, PROT_READ | PROT_WRITE, sparse ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED,
                   fd, 0);
    if (fd >= 0) close(fd);
    if (c->pool == MAP_FAILED) {
        c->pool = NULL;
        return px_fail(e, PX_ENOMEM, "synthetic", "no memory for a tensor of %zu bytes", largest);
    }
    if (sparse) return PX_OK;
    fill_pool(c->pool, bytes, t, seed);
    for (size_t i = 0; i < vector / sizeof(float); i++) ((float *)(void *)((uint8_t *)c->pool + bytes))[i] = 1;
    return PX_OK;
}

px_code shard_checkpoint_synthetic(shard_checkpoint **out, px_alloc *a, const char *name, uint64_t seed, bool sparse, px_err *e)
{
    shard_checkpoint *c = px_new(a, shard_checkpoint, 1);
    size_t largest = 0, vector = 0, n = 0;
    kern_dtype t;
    px_code rc;

    *out = NULL;
    if (!c) return px_fail(e, PX_ENOMEM, "", "no memory for a checkpoint");
    c->a = a;
    if ((rc = shard_arch_read(&c->arch, &c->types, a, name, e)) || (rc = shard_arch_check(&c->arch, e)) ||
        (rc = shard_arch_check_served(&c->arch, e)))
        goto fail;
    t = c->types.global[SHARD_TOKEN_EMBD];
    if (t != KERN_F32 && t != KERN_F16 && t != KERN_BF16) {
        rc = px_fail(e, PX_EUNSUP, "synthetic", "weights of type %s are not made up; F32, F16 and BF16 are", kern_dtype_get(t)->name);
        goto fail;
    }
    snprintf(c->revision, sizeof c->revision, sparse ? "synthetic zeros" : "synthetic %" PRIu64, seed);
    c->n_bound = 3 + (size_t)c->arch.n_layer * SHARD_N_ROLES;
    if (!(c->bound = px_new(a, shard_source, c->n_bound))) {
        rc = px_fail(e, PX_ENOMEM, "", "no memory for %zu tensors", c->n_bound);
        goto fail;
    }
    for (int pass = 0; pass < 2; pass++) {               /* sizes, then places */
        if (pass && (rc = make_pool(c, largest, vector, t, seed, sparse, e))) goto fail;
        const uint8_t *pool = c->pool, *ones = pass ? pool + (c->pool_bytes - px_align_up(vector, 4096)) : NULL;
        for (shard_role r = 0; r < SHARD_N_ROLES; r++)
            for (uint32_t l = 0; shard_arch_has(&c->arch, r) && l < (shard_role_get(r)->per_layer ? c->arch.n_layer : 1); l++) {
                shard_source *s = &c->bound[shard_binding_at(r, l)];
                bool is_vector = shard_role_get(r)->vector;
                *s = (shard_source){ .dtype = is_vector ? KERN_F32 : t, .file = "synthetic" };
                shard_arch_shape(&c->arch, r, &s->rows, &s->cols);
                s->bytes = (size_t)(s->rows * s->cols) * (s->dtype == KERN_F32 ? 4 : 2);
                if (is_vector && s->bytes > vector) vector = s->bytes;
                if (!is_vector && s->bytes > largest) largest = s->bytes;
                if (!pass) continue;
                s->data = is_vector ? ones : pool + 64 * (n++ * 37 % SPREAD);
                c->bytes += s->bytes;
                if (r <= SHARD_OUTPUT) c->types.global[r] = s->dtype;
                else c->types.layer[(size_t)l * SHARD_N_ROLES + r] = s->dtype;
            }
    }
    if (c->arch.tied) c->types.global[SHARD_OUTPUT] = c->types.global[SHARD_TOKEN_EMBD];
    *out = c;
    return PX_OK;

fail:
    shard_checkpoint_close(c);
    return rc;
}

void shard_checkpoint_close(shard_checkpoint *c)
{
    if (!c) return;
    if (c->bound) px_del(c->a, c->bound, c->n_bound);
    if (c->pool) munmap(c->pool, c->pool_bytes);
    shard_inventory_deinit(&c->inventory);
    shard_types_deinit(&c->types);
    shard_safetensors_set_close(&c->files);
    shard_gguf_close(c->gguf);
    px_del(c->a, c, 1);
}

const shard_arch  *shard_checkpoint_arch(const shard_checkpoint *c) { return &c->arch; }
const shard_types *shard_checkpoint_types(const shard_checkpoint *c) { return &c->types; }
const shard_gguf  *shard_checkpoint_gguf(const shard_checkpoint *c) { return c->gguf; }
uint64_t           shard_checkpoint_bytes(const shard_checkpoint *c) { return c->bytes; }
const char        *shard_checkpoint_revision(const shard_checkpoint *c) { return c->revision; }

const shard_source *shard_checkpoint_tensor(const shard_checkpoint *c, shard_role r, uint32_t layer)
{
    if ((unsigned)r >= SHARD_N_ROLES || (r > SHARD_OUTPUT && layer >= c->arch.n_layer)) return NULL;
    const shard_source *s = &c->bound[shard_binding_at(r, layer)];
    return s->data ? s : NULL;
}
