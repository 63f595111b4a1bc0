#include "tests/shard/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/base/io.h"
#include "shard/plan/bytes.h"

typedef struct tensor { kern_dtype type; shard_extent x; uint64_t at, bytes; } tensor;

struct shard_file {
    px_alloc *a;
    const shard_manifest *m;
    uint8_t *data; uint64_t bytes;
    bool     mapped;                       /* data is a mapping; else from `a` */
    uint32_t n_layer;
    tensor  *t;                            /* (n_layer, SHARD_N_ROLES); global ones in the first layer's row */
};

/* ---- numbers: a function of tensor, row and column, whatever a rank holds of it ---- */

static uint32_t mixed(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static void fill_row(float *out, shard_role r, uint32_t layer, uint64_t row, uint64_t col0, size_t n, float mean, float half_width)
{
    const uint32_t key = mixed(mixed((uint32_t)r * 4099u + layer) + (uint32_t)row);

    for (size_t i = 0; i < n; i++)
        out[i] = mean + half_width * (float)(int32_t)mixed(key ^ (uint32_t)(col0 + i) * 0x9e3779b9u) * 0x1p-31f;
}

/* Rows keep their norm; the head's are longer, so that some ids are far likelier than others. */
static void range_of(const shard_arch *m, shard_role r, float *mean, float *half_width)
{
    uint64_t rows, cols;

    shard_arch_shape(m, r, &rows, &cols);
    *mean = shard_role_get(r)->vector ? 1.0f : 0.0f;
    *half_width = shard_role_get(r)->vector ? 0.25f : r == SHARD_TOKEN_EMBD ? 1.0f : sqrtf(3.0f / (float)cols) * (r == SHARD_OUTPUT ? 3.0f : 1.0f);
}

static bool plain_row(kern_dtype t, const float *x, size_t n, void *out)
{
    if (t != KERN_F32 && t != KERN_BF16) return kern_row_quantise(t, x, n, out);
    kern_row_from_f32(t, x, n, out);
    return true;
}

static px_code fill_matrix(const shard_file *f, const tensor *t, shard_role r, uint32_t layer, px_err *e)
{
    const shard_arch *m = &f->m->arch;
    const uint64_t stride = kern_panel_stride(t->type, t->x.cols);
    const size_t n = (size_t)t->x.cols, row_bytes = 4 * n + 64;
    const long n_panels = (long)((t->x.rows + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS);
    uint64_t all, ignored;
    float mean, half_width;
    bool bad = false;

    shard_arch_shape(m, r, &all, &ignored);
    range_of(m, r, &mean, &half_width);
#pragma omp parallel
    {
        px_heap heap;
        px_heap_init(&heap, "rows");
        float *wide = px_new(&heap.a, float, n);
        uint8_t *rows = px_new(&heap.a, uint8_t, KERN_PANEL_ROWS * row_bytes);
#pragma omp for schedule(dynamic, 8)
        for (long p = 0; p < n_panels; p++) {
            const void *src[KERN_PANEL_ROWS];
            uint32_t have = 0;
            for (; have < KERN_PANEL_ROWS; have++) {
                const uint64_t at = (uint64_t)p * KERN_PANEL_ROWS + have;
                if (at >= t->x.rows || t->x.row0 + at >= all) break;
                fill_row(wide, r, layer, t->x.row0 + at, t->x.col0, n, mean, half_width);
                src[have] = rows + have * row_bytes;
                if (!plain_row(t->type, wide, n, rows + have * row_bytes)) bad = true;
            }
            uint8_t *to = f->data + t->at + (uint64_t)p * stride;
            if (have) kern_panel_pack(t->type, src, have, n, to);
            else memset(to, 0, (size_t)stride);
        }
        px_del(&heap.a, wide, n);
        px_del(&heap.a, rows, KERN_PANEL_ROWS * row_bytes);
        px_heap_deinit(&heap);
    }
    return bad ? px_fail(e, PX_EUNSUP, "format", "type %s cannot be made of numbers", kern_dtype_get(t->type)->name) : PX_OK;
}

/* ---- a rank's shard ---- */

static tensor *place_of(const shard_file *f, shard_role r, uint32_t layer) { return &f->t[(size_t)layer * SHARD_N_ROLES + r]; }

/* Global tensors first, then layer by layer: calls `each` for all that the model has. */
static px_code walk(shard_file *f, uint32_t rank, px_code (*each)(shard_file *f, shard_role r, uint32_t layer, uint32_t rank, px_err *e), px_err *e)
{
    px_code rc;

    for (shard_role r = 0; r <= SHARD_OUTPUT; r++)
        if (shard_arch_has(&f->m->arch, r) && (rc = each(f, r, 0, rank, e))) return rc;
    for (uint32_t l = 0; l < f->n_layer; l++)
        for (shard_role r = SHARD_OUTPUT + 1; r < SHARD_N_ROLES; r++)
            if (shard_arch_has(&f->m->arch, r) && (rc = each(f, r, l, rank, e))) return rc;
    return PX_OK;
}

static px_code measure(shard_file *f, shard_role r, uint32_t layer, uint32_t rank, px_err *e)
{
    tensor *t = place_of(f, r, layer);
    px_code rc;

    shard_split_extent(&f->m->split, &f->m->arch, r, rank, &t->x);
    t->type = shard_role_get(r)->vector ? KERN_F32 : shard_type_of(&f->m->types, r, layer);
    if (shard_role_get(r)->vector) t->bytes = px_align_up((size_t)(t->x.rows * t->x.cols) * 4, 64);
    else if ((rc = kern_panel_bytes(t->type, t->x.rows, t->x.cols, &t->bytes, e))) return rc;
    t->at = f->bytes;
    f->bytes += t->bytes;
    return PX_OK;
}

static px_code fill(shard_file *f, shard_role r, uint32_t layer, uint32_t rank, px_err *e)
{
    const tensor *t = place_of(f, r, layer);
    float mean, half_width;

    (void)rank;
    if (!shard_role_get(r)->vector) return fill_matrix(f, t, r, layer, e);
    range_of(&f->m->arch, r, &mean, &half_width);
    fill_row((float *)(void *)(f->data + t->at), r, layer, 0, t->x.col0, (size_t)(t->x.rows * t->x.cols), mean, half_width);
    return PX_OK;
}

/* A shard as its file's pages lie in memory after a restart: there, and in nobody's page tables. */
static px_code fill_file(shard_file *f, uint32_t rank, px_err *e)
{
    void *p = NULL;
    int fd = -1;
    px_code rc;

    f->mapped = true;
    if ((rc = px_memfd("shard", f->bytes, &fd, e))) return rc;
    if (!(rc = px_map_fd("shard", fd, f->bytes, true, false, &p, e))) {
        f->data = p;
        rc = walk(f, rank, fill, e);
        munmap(p, f->bytes);
        f->data = NULL;
        if (!rc && !(rc = px_map_fd("shard", fd, f->bytes, false, false, &p, e))) f->data = p;
    }
    close(fd);
    return rc;
}

static px_code fill_memory(shard_file *f, uint32_t rank, px_err *e)
{
    if (!(f->data = px_alloc_zero(f->a, f->bytes, 1, 64))) return px_fail(e, PX_ENOMEM, "shard", "%llu bytes", (unsigned long long)f->bytes);
    return walk(f, rank, fill, e);
}

void shard_file_close(shard_file *f)
{
    if (!f) return;
    if (f->data && f->mapped) munmap(f->data, f->bytes);
    else if (f->data) px_del(f->a, f->data, f->bytes);
    if (f->t) px_del(f->a, f->t, (size_t)f->n_layer * SHARD_N_ROLES);
    px_del(f->a, f, 1);
}

static px_code open_shard(shard_file **out, px_alloc *a, const char *set, const shard_manifest *m, uint32_t rank, px_err *e)
{
    const test_shape *shape = (const test_shape *)(const void *)set;
    shard_file *f = px_new(a, shard_file, 1);
    shard_weight_bytes plan;
    px_code rc = PX_ENOMEM;

    *out = NULL;
    if (!f) return px_fail(e, PX_ENOMEM, "shard", "no memory");
    f->a = a;
    f->m = m;
    f->n_layer = m->arch.n_layer;
    if (!(f->t = px_new(a, tensor, (size_t)f->n_layer * SHARD_N_ROLES))) {
        px_fail(e, PX_ENOMEM, "shard", "no memory");
        goto fail;
    }
    if ((rc = walk(f, rank, measure, e)) || (rc = shard_weight_bytes_of(&m->arch, &m->types, &m->split, rank, true, &plan, e))) goto fail;
    if (plan.mapped != f->bytes) {
        rc = px_fail(e, PX_EINTERNAL, "shard", "%llu bytes, planned %llu", (unsigned long long)f->bytes, (unsigned long long)plan.mapped);
        goto fail;
    }
    if ((rc = (shape && shape->in_file ? fill_file : fill_memory)(f, rank, e))) goto fail;
    *out = f;
    return PX_OK;

fail:
    shard_file_close(f);
    return rc;
}

const char *shard_file_path(const shard_file *f)
{
    (void)f;
    return "synthetic";
}

const uint8_t *shard_file_data(const shard_file *f) { return f->data; }

px_code shard_file_tensor(const shard_file *f, shard_role r, uint32_t layer, const void **data, kern_dtype *type, uint64_t *rows, uint64_t *cols,
                          size_t *bytes, px_err *e)
{
    const tensor *t = place_of(f, r, r <= SHARD_OUTPUT ? 0 : layer);
    char name[64];

    if (!t->bytes) return px_fail(e, PX_ENOTFOUND, shard_tensor_name(r, layer, name, sizeof name), "no such tensor");
    *data = f->data + t->at;
    *type = t->type;
    *rows = t->x.rows;
    *cols = t->x.cols;
    *bytes = (size_t)t->bytes;
    return PX_OK;
}

/* ---- the set ---- */

static px_code make_manifest(shard_manifest *m, px_alloc *a, const char *set, px_err *e)
{
    const test_shape *s = (const test_shape *)(const void *)set;
    px_code rc;

    *m = (shard_manifest){ .a = a, .version = SHARD_FORMAT_VERSION, .world = s->world, .bos = UINT32_MAX };
    m->arch = (shard_arch){ .name = "synthetic", .family = "llama", .n_layer = s->n_layer, .d_model = s->d_model, .d_ff = s->d_ff,
                            .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim, .n_vocab = s->n_vocab,
                            .n_ctx = s->n_ctx, .rms_eps = 1e-5f, .rope_theta = 10000, .bos = UINT32_MAX };
    if ((rc = shard_arch_check(&m->arch, e)) || (rc = shard_types_format(&m->types, a, &m->arch, s->format, e))) return rc;
    return shard_split_init(&m->split, a, &m->arch, &m->types, s->world, SHARD_SPLIT_BALANCED, SHARD_VOCAB_PADDED64, e);
}

static void drop_manifest(shard_manifest *m)
{
    shard_split_deinit(&m->split);
    shard_types_deinit(&m->types);
}

const test_shards *test_synthetic_shards(void)
{
    static const test_shards made = { .manifest = make_manifest, .drop = drop_manifest, .open = open_shard, .close = shard_file_close };

    return &made;
}

test_cluster *test_synthetic_open(const test_cluster_args *args, const test_shape *shape, px_err *e)
{
    test_cluster_args with = *args;

    with.set = (const char *)(const void *)shape;
    return test_cluster_start(&with, test_synthetic_shards(), e);
}
