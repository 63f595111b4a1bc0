/* inventory.h - the tensors of a checkpoint by name, whatever its format; and the roles that they are bound to.
 * Layer: shard/store, for checkpoint.c. */
#ifndef SHARD_INVENTORY_H
#define SHARD_INVENTORY_H

#include "shard/store/checkpoint.h"

typedef struct shard_named {
    const char  *name;             /* borrowed from the mapping or the reader, not terminated */
    size_t       name_bytes;
    bool         used;
    shard_source source;
} shard_named;

typedef struct shard_inventory {
    px_alloc    *a;
    shard_named *item;             /* (n) owned; the owner fills them, then shard_inventory_sort */
    uint32_t    *order;            /* (n) owned */
    size_t       n;
} shard_inventory;

px_code shard_inventory_init(shard_inventory *v, px_alloc *a, size_t n, px_err *e);
void    shard_inventory_deinit(shard_inventory *v);             /* idempotent; accepts a zeroed one */
/* Errors: PX_ECORRUPT (a tensor in two files; e->field is its name, e->file the second file). */
px_code shard_inventory_sort(shard_inventory *v, px_err *e);
shard_named *shard_inventory_find(const shard_inventory *v, const char *name);          /* NULL: none */

typedef enum shard_naming { SHARD_NAMES_GGUF, SHARD_NAMES_HF } shard_naming;
/* "blk.3.attn_q.weight" or "model.layers.3.self_attn.q_proj.weight"; returns buf. */
const char *shard_naming_of(shard_naming names, shard_role r, uint32_t layer, char *buf, size_t cap);

/* Find every tensor of m, exactly once and of its shape, in a type that is read; out: (3 + n_layer * SHARD_N_ROLES)
 * sources, zeroed, of which the bound ones are filled (shard_binding_at).  What is left over must be known to be harmless.
 * Errors: PX_ENOTFOUND, PX_EMISMATCH (shape), PX_EUNSUP (type; a tensor too many); e->field is the tensor. */
px_code shard_inventory_bind(shard_inventory *v, shard_naming names, const shard_arch *m, shard_source *out, px_err *e);
static inline size_t shard_binding_at(shard_role r, uint32_t layer)
{
    return r <= SHARD_OUTPUT ? (size_t)r : 3 + (size_t)layer * SHARD_N_ROLES + r;
}

#endif
