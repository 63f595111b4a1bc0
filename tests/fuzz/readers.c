#include "tests/fuzz/readers.h"

#include "shard/plan/bytes.h"
#include "shard/store/pack.h"
#include "tests/fuzz/fuzz.h"

#define SMALL (1u << 18)           /* weights: a run is of thousands of inputs */

static px_code drop(void *ctx, const void *data, size_t n, px_err *e)
{
    (void)ctx, (void)e;
    fuzz_touch(data, n);
    return PX_OK;
}

static void pack_tensor(shard_packer *p, const shard_checkpoint *c, const shard_types *t, const shard_split *s, shard_role r, uint32_t layer)
{
    const shard_arch *m = shard_checkpoint_arch(c);
    const shard_source *src = shard_checkpoint_tensor(c, r, layer);
    shard_extent x;
    px_err e = { 0 };
    px_code rc;

    for (uint32_t rank = 0; rank < s->world; rank++) {
        shard_split_extent(s, m, r, rank, &x);
        rc = shard_role_get(r)->vector ? shard_packer_vector(p, src, &x, drop, NULL, &e)
                                       : shard_packer_matrix(p, src, &x, shard_type_of(t, r, layer), m->head_dim, drop, NULL, &e);
        if (rc && e.code != rc) fuzz_refused(rc, &e);
        px_err_clear(&e);
    }
}

static void pack_all(px_alloc *a, const shard_checkpoint *c, shard_policy policy, uint32_t ranks)
{
    const shard_arch *m = shard_checkpoint_arch(c);
    shard_types t;
    shard_split s;
    shard_packer p;
    px_err e = { 0 };
    px_code rc = shard_types_stored(&t, a, m, shard_checkpoint_types(c), policy, &e);

    fuzz_refused(rc, &e);
    if (rc) return;
    rc = shard_split_init(&s, a, m, &t, ranks, SHARD_SPLIT_BALANCED, SHARD_VOCAB_PADDED64, &e);
    fuzz_refused(rc, &e);
    if (!rc) {
        shard_packer_init(&p, a, 1);
        for (shard_role r = 0; r < SHARD_N_ROLES; r++)
            for (uint32_t i = 0; shard_arch_has(m, r) && i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++) pack_tensor(&p, c, &t, &s, r, i);
        shard_packer_deinit(&p);
        shard_split_deinit(&s);
    }
    shard_types_deinit(&t);
}

void fuzz_checkpoint(px_alloc *a, const char *path)
{
    shard_checkpoint *c;
    px_err e = { 0 };
    px_code rc = shard_checkpoint_open(&c, a, path, &e);

    fuzz_refused(rc, &e);
    if (rc) return;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t i = 0; i < shard_checkpoint_arch(c)->n_layer; i++) {
            const shard_source *s = shard_checkpoint_tensor(c, r, i);
            if (s) fuzz_touch(s->data, s->bytes);
        }
    if (shard_params(shard_checkpoint_arch(c)) <= SMALL)
        for (uint32_t ranks = 1; ranks <= 2; ranks++) {
            pack_all(a, c, SHARD_AS_FILE, ranks);
            pack_all(a, c, SHARD_TO_Q8_0, ranks);
            pack_all(a, c, SHARD_TO_FP8, ranks);
        }
    shard_checkpoint_close(c);
}
