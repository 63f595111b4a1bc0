#include "shard/store/pack.h"

#include "kernels/reblock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define CHUNK_BYTES (256u << 10)      /* of panels: they stay in a core's cache until they are digested and written */

/* A policy and the planner's format that says which types it stores; NULL: the same for every tensor. */
static const struct { const char *name, *format; } POLICY[SHARD_N_POLICIES] = {
    [SHARD_AS_FILE]  = { "as_file", NULL },        [SHARD_TO_F32]   = { "F32", NULL },
    [SHARD_TO_BF16]  = { "BF16", NULL },           [SHARD_TO_FP8]   = { "FP8", "fp8" },
    [SHARD_TO_W8A16] = { "w8a16", "w8a16_g128" },
    [SHARD_TO_W4A16] = { "w4a16", "w4a16_g128" },  [SHARD_TO_Q8_0]  = { "Q8_0", "q8_0" },
    [SHARD_TO_Q4_0]  = { "Q4_0", "pure_q4_0" },    [SHARD_TO_Q4_1]  = { "Q4_1", "pure_q4_1" },
};

const char *shard_policy_name(shard_policy p) { return (unsigned)p < SHARD_N_POLICIES ? POLICY[p].name : "?"; }

px_code shard_policy_parse(const char *word, shard_policy *out, px_err *e)
{
    for (shard_policy p = SHARD_AS_FILE; p < SHARD_N_POLICIES; p++)
        if (!strcasecmp(word, POLICY[p].name)) {
            *out = p;
            return PX_OK;
        }
    return px_fail(e, PX_EINVAL, "format", "\"%.32s\" is no storage format: " SHARD_POLICIES, word);
}

kern_dtype shard_type_kept(kern_dtype file, uint64_t cols)
{
    kern_dtype near = kern_reblock_to(file);

    if (kern_dtype_get(file)->weight) return file;
    return cols % 32 ? KERN_BF16 : near < KERN_N_DTYPES ? near : KERN_Q8_0;
}

/* The type of one matrix of `cols` columns; `chosen`: what the policy's format has for it. */
static px_code stored_type(kern_dtype file, uint64_t cols, shard_policy policy, kern_dtype chosen, kern_dtype *out)
{
    const kern_dtype_info *f = kern_dtype_get(file);

    if (!f || !f->readable) return PX_EUNSUP;
    if (policy == SHARD_TO_F32 || policy == SHARD_TO_BF16) {
        *out = policy == SHARD_TO_F32 ? KERN_F32 : KERN_BF16;
        return PX_OK;
    }
    if (policy == SHARD_AS_FILE) {
        *out = shard_type_kept(file, cols);
        return kern_dtype_get(*out)->block > 1 && cols % 32 ? PX_ERANGE : PX_OK;       /* W8 or W4 whose last group has no panels */
    }
    *out = kern_dtype_get(chosen)->block > 1 && cols % 32 ? KERN_F16 : chosen;
    /* quantised twice is worse than either, and is done only where as_file has to, or into Q8_0 of what has no kernels */
    if (f->block == 1 || *out == shard_type_kept(file, cols) || (!f->weight && *out == KERN_Q8_0)) return PX_OK;
    return PX_EUNSUP;
}

px_code shard_types_stored(shard_types *stored, px_alloc *a, const shard_arch *m, const shard_types *file,
                           shard_policy policy, px_err *e)
{
    const char *format = POLICY[policy].format;
    char name[64];
    px_code rc;

    *stored = (shard_types){ 0 };
    if (file->n_layer != m->n_layer)
        return px_fail(e, PX_EINVAL, "n_layer", "types of %u layers for a model of %u", file->n_layer, m->n_layer);
    rc = format ? shard_types_format(stored, a, m, format, e) : shard_types_init(stored, a, m->n_layer, e);
    if (rc) return rc;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_role_info *info = shard_role_get(r);
        uint64_t rows, cols;
        if (!shard_arch_has(m, r) || info->vector) continue;
        shard_arch_shape(m, r, &rows, &cols);
        for (uint32_t i = 0; i < (info->per_layer ? m->n_layer : 1); i++) {
            kern_dtype was = shard_type_of(file, r, i), is = was;
            if ((rc = stored_type(was, cols, policy, shard_type_of(stored, r, i), &is))) {
                const kern_dtype_info *f = kern_dtype_get(was);
                rc = px_fail(e, rc, shard_tensor_name(r, i, name, sizeof name), "type %s with %llu columns cannot be stored as %s",
                             f ? f->name : "?", (unsigned long long)cols, shard_policy_name(policy));
            }
            if (rc) {
                shard_types_deinit(stored);
                return rc;
            }
            if (info->per_layer) stored->layer[(size_t)i * SHARD_N_ROLES + r] = is;
            else stored->global[r] = is;
        }
    }
    return PX_OK;
}

px_code shard_types_served(shard_types *stored, px_alloc *a, const shard_arch *m, const shard_types *named, px_err *e)
{
    px_code rc = shard_types_stored(stored, a, m, named, SHARD_AS_FILE, e);

    for (shard_role r = 0; !rc && r < SHARD_N_ROLES; r++) {
        if (!shard_arch_has(m, r) || shard_role_get(r)->vector) continue;
        for (uint32_t i = 0; !rc && i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++)
            if (shard_type_of(stored, r, i) != shard_type_of(named, r, i))
                rc = px_fail(e, PX_EUNSUP, "format", "no backend multiplies with %s", kern_dtype_get(shard_type_of(named, r, i))->name);
    }
    if (rc) shard_types_deinit(stored);
    return rc;
}

void shard_packer_init(shard_packer *p, px_alloc *a, uint32_t threads)
{
    *p = (shard_packer){ .a = a, .threads = threads < 1 ? 1 : threads > SHARD_PACK_THREADS ? SHARD_PACK_THREADS : threads };
}

void shard_packer_deinit(shard_packer *p)
{
    for (uint32_t i = 0; i < SHARD_PACK_THREADS; i++) {
        shard_pack_room *r = &p->room[i];
        if (r->panels) px_del(p->a, r->panels, r->panels_bytes);
        if (r->sums) px_del(p->a, r->sums, r->sums_n);
        if (r->rows) px_del(p->a, r->rows, r->rows_bytes);
        if (r->wide) px_del(p->a, r->wide, r->wide_n);
        if (r->back) px_del(p->a, r->back, r->back_n);
        if (r->step) px_del(p->a, r->step, r->step_n);
    }
    *p = (shard_packer){ .a = p->a, .threads = p->threads };
}

/* Make *buf at least n objects large; what it held is not kept. */
#define ROOM(p, buf, have, T, n, e) room((p)->a, (void **)&(buf), &(have), (n), sizeof(T), (e))
static px_code room(px_alloc *a, void **buf, size_t *have, size_t n, size_t each, px_err *e)
{
    if (*have >= n) return PX_OK;
    if (*buf) px_alloc_put(a, *buf, *have, each);
    *have = 0;
    if (!(*buf = px_alloc_zero(a, n, each, 64))) return px_fail(e, PX_ENOMEM, "", "%zu x %zu bytes to pack with", n, each);
    *have = n;
    return PX_OK;
}

/* GGUF's llama stores a head's rows with the two halves interleaved: its row 2j + p is Hugging Face's row p * D/2 + j.
 * Sets hold the Hugging Face order. */
static uint64_t source_row(const shard_source *src, uint64_t row, uint32_t head_dim)
{
    uint64_t i, half = head_dim / 2;

    if (!src->qk_permuted) return row;
    i = row % head_dim;
    return row - i + 2 * (i % half) + i / half;
}

static px_code check(const shard_source *src, const shard_extent *x, bool rows_may_end, px_err *e)
{
    uint64_t bytes;

    if (!kern_matrix_bytes(src->dtype, src->rows, src->cols, &bytes) || bytes != src->bytes ||
        x->cols == 0 || x->rows == 0 || x->col0 > src->cols || x->cols > src->cols - x->col0 ||
        (!rows_may_end && (x->row0 > src->rows || x->rows > src->rows - x->row0)))
        return px_fail(e, PX_ECORRUPT, "", "%llu x %llu elements at %llu, %llu do not lie in a tensor of %llu x %llu",
                       (unsigned long long)x->rows, (unsigned long long)x->cols, (unsigned long long)x->row0,
                       (unsigned long long)x->col0, (unsigned long long)src->rows, (unsigned long long)src->cols);
    return PX_OK;
}

/* x as `type` into out, and by how much that changed it.  step: of values that lie on levels, else NULL. */
static bool convert(shard_pack_room *r, const float *x, const float *step, size_t n, kern_dtype type, uint8_t *out, double sums[2])
{
    if (type == KERN_Q8_0 && !step) return kern_row_to_bytes(x, n, out, sums);
    if (type == KERN_F32 || type == KERN_BF16) kern_row_from_f32(type, x, n, out);
    else if (type == KERN_FP8) kern_row_to_fp8(x, n, r->scale, out);
    else if (!(step ? kern_row_requantise(x, step, n, out) : kern_row_quantise(type, x, n, out))) return false;
    if (type == KERN_F32) return true;
    kern_row_to_f32(type, out, n, r->back);
    kern_row_distance(x, r->back, n, &sums[0], &sums[1]);
    return true;
}

/* One row's columns as fp32; whole blocks are read, also where the cut goes through one. */
static const float *wide(shard_pack_room *r, const shard_source *src, uint64_t row, const shard_extent *x)
{
    const kern_dtype_info *f = kern_dtype_get(src->dtype);
    uint64_t first = x->col0 / f->block, last = (x->col0 + x->cols + f->block - 1) / f->block;

    kern_row_to_f32(src->dtype, src->data + (row * (src->cols / f->block) + first) * f->block_bytes, (size_t)((last - first) * f->block), r->wide);
    return r->wide + (x->col0 - first * f->block);
}

/* One row's columns as `type`: a pointer into the source where nothing changes, else converted into `out`; NULL: it holds a value
 * that the type does not. */
static const void *fetch(shard_pack_room *r, const shard_source *src, uint64_t row, const shard_extent *x, kern_dtype type,
                         uint8_t *out, double sums[2])
{
    const kern_dtype_info *f = kern_dtype_get(src->dtype);
    const uint8_t *at = src->data + row * (src->cols / f->block * f->block_bytes);
    bool whole = f->block > 1 && x->col0 % 32 == 0 && x->cols % 32 == 0, again = whole && type == KERN_Q8_0 && kern_reblock_to(src->dtype) < KERN_N_DTYPES;

    if (type == src->dtype && x->col0 % f->block == 0) return at + x->col0 / f->block * f->block_bytes;
    if (whole && kern_reblock_to(src->dtype) == type) return kern_row_reblock(src->dtype, at, x->col0, x->cols, out, sums) ? out : NULL;
    if (again)
        for (uint64_t i = 0; i < x->cols; i += 32) r->step[i / 32] = kern_row_step(src->dtype, at, x->col0 + i);
    return convert(r, wide(r, src, row, x), again ? r->step : NULL, (size_t)x->cols, type, out, sums) ? out : NULL;
}

/* One matrix: threads take chunks of panels and fill them beside each other, then hand them to the sink, one at a time, in order. */
typedef struct job {
    shard_packer       *p;
    const shard_source *src;
    const shard_extent *x;
    kern_dtype          type;
    uint32_t            head_dim;
    uint64_t            stride, row_bytes, n_panels, most;      /* most: panels of a chunk */
    shard_sink          sink;
    void               *ctx;
    px_err             *e;
    _Atomic uint64_t    next;                 /* chunk to take */
    _Atomic uint32_t    rooms;
    _Atomic int         rc;                   /* of the first chunk that failed; written with the lock */
    pthread_mutex_t     lock;
    pthread_cond_t      turned;
    uint64_t            turn;                 /* the chunk that the sink waits for */
    float               largest;              /* magnitude of all rows; written with the lock */
    uint64_t            bad;                  /* the first row with a value that is not finite */
} job;

/* Rows of panel `index` that the source has. */
static uint32_t rows_of(const job *b, uint64_t index)
{
    uint64_t row = index * KERN_PANEL_ROWS, end = b->src->rows > b->x->row0 ? b->src->rows - b->x->row0 : 0;

    if (end > b->x->rows) end = b->x->rows;
    return row >= end ? 0 : end - row < KERN_PANEL_ROWS ? (uint32_t)(end - row) : KERN_PANEL_ROWS;
}

/* false: row *bad holds a value that the type does not. */
static bool pack_panel(const job *b, shard_pack_room *r, uint64_t index, uint8_t *panel, double sums[2], uint64_t *bad)
{
    const void *from[KERN_PANEL_ROWS];
    const uint32_t have = rows_of(b, index);

    sums[0] = sums[1] = 0;
    for (uint32_t i = 0; i < have; i++) {
        *bad = source_row(b->src, b->x->row0 + index * KERN_PANEL_ROWS + i, b->head_dim);
        if (!(from[i] = fetch(r, b->src, *bad, b->x, b->type, r->rows + i * b->row_bytes, sums))) return false;
    }
    if (have) kern_panel_pack(b->type, from, have, b->x->cols, panel);
    else memset(panel, 0, (size_t)b->stride);     /* padding of the vocabulary */
    return true;
}

static px_code refuse_row(job *b, uint64_t row)
{
    return px_fail(b->e, PX_ERANGE, "", "row %llu has a value that %s does not hold", (unsigned long long)row, kern_dtype_get(b->type)->name);
}

static px_code hand_over(job *b, const shard_pack_room *r, uint64_t n, const uint64_t *bad)
{
    if (bad) return refuse_row(b, *bad);
    for (uint64_t k = 0; k < n; k++) {
        b->p->error += r->sums[2 * k];
        b->p->size += r->sums[2 * k + 1];
    }
    return b->sink(b->ctx, r->panels, (size_t)(n * b->stride), b->e);
}

static void *pack_chunks(void *ctx)
{
    job *b = ctx;
    shard_pack_room *r = &b->p->room[atomic_fetch_add(&b->rooms, 1)];

    for (uint64_t chunk; !atomic_load(&b->rc) && (chunk = atomic_fetch_add(&b->next, 1)) <= (b->n_panels - 1) / b->most;) {
        uint64_t first = chunk * b->most, n = b->n_panels - first < b->most ? b->n_panels - first : b->most, bad;
        bool good = true;
        for (uint64_t k = 0; k < n && good; k++) good = pack_panel(b, r, first + k, r->panels + k * b->stride, r->sums + 2 * k, &bad);
        pthread_mutex_lock(&b->lock);
        while (b->turn != chunk && !atomic_load(&b->rc)) pthread_cond_wait(&b->turned, &b->lock);
        if (!atomic_load(&b->rc)) {
            atomic_store(&b->rc, (int)hand_over(b, r, n, good ? NULL : &bad));
            b->turn++;
        }
        pthread_cond_broadcast(&b->turned);
        pthread_mutex_unlock(&b->lock);
    }
    return NULL;
}

/* The first of two passes over a matrix that has one scale. */
static void *measure_chunks(void *ctx)
{
    job *b = ctx;
    shard_pack_room *r = &b->p->room[atomic_fetch_add(&b->rooms, 1)];
    float largest = 0;
    uint64_t bad = UINT64_MAX;

    for (uint64_t chunk; (chunk = atomic_fetch_add(&b->next, 1)) <= (b->n_panels - 1) / b->most;)
        for (uint64_t panel = chunk * b->most; panel < b->n_panels && panel < (chunk + 1) * b->most; panel++)
            for (uint32_t i = 0, n = rows_of(b, panel); i < n; i++) {
                uint64_t row = source_row(b->src, b->x->row0 + panel * KERN_PANEL_ROWS + i, b->head_dim);
                float most = kern_row_magnitude(wide(r, b->src, row, b->x), (size_t)b->x->cols);
                if (most > largest) largest = most;
                if (!(most >= 0) && row < bad) bad = row;
            }
    pthread_mutex_lock(&b->lock);
    if (largest > b->largest) b->largest = largest;
    if (bad < b->bad) b->bad = bad;
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* As many threads as there are chunks for, or the packer has; fewer do, too. */
static void in_threads(job *b, void *(*work)(void *))
{
    pthread_t t[SHARD_PACK_THREADS];
    uint32_t n = 0;

    atomic_store(&b->next, 0);
    atomic_store(&b->rooms, 0);
    while (n + 1 < b->p->threads && n + 1 <= (b->n_panels - 1) / b->most && !pthread_create(&t[n], NULL, work, b)) n++;
    work(b);
    while (n) pthread_join(t[--n], NULL);
}

static px_code pack_all(job *b)
{
    px_code rc = PX_OK;

    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->turned, NULL);
    if (b->type == KERN_FP8) {
        in_threads(b, measure_chunks);
        for (uint32_t i = 0; i < b->p->threads; i++) b->p->room[i].scale = kern_fp8_scale(b->largest);
        if (b->bad < UINT64_MAX) rc = refuse_row(b, b->bad);
    }
    if (!rc) {
        in_threads(b, pack_chunks);
        rc = (px_code)atomic_load(&b->rc);
    }
    pthread_cond_destroy(&b->turned);
    pthread_mutex_destroy(&b->lock);
    return rc;
}

px_code shard_packer_matrix(shard_packer *p, const shard_source *src, const shard_extent *x, kern_dtype type,
                            uint32_t head_dim, shard_sink sink, void *ctx, px_err *e)
{
    uint64_t whole, stride = kern_panel_stride(type, x->cols), row_bytes, n_panels, most;
    px_code rc;
    job b;

    if ((rc = check(src, x, true, e))) return rc;
    if ((rc = kern_panel_bytes(type, x->rows, x->cols, &whole, e))) return rc;
    if (!kern_matrix_bytes(type, 1, x->cols, &row_bytes) || row_bytes > SIZE_MAX / 32 || stride > SIZE_MAX / 2 ||
        (src->qk_permuted && (head_dim < 2 || head_dim % 2 || src->rows % head_dim || x->row0 % head_dim)))
        return px_fail(e, PX_ECORRUPT, "", "rows of %llu columns in heads of %u", (unsigned long long)x->cols, head_dim);
    row_bytes = (row_bytes + 63) / 64 * 64;
    n_panels = whole / stride;
    most = stride >= CHUNK_BYTES ? 1 : CHUNK_BYTES / stride;
    if (most > n_panels) most = n_panels;
    for (uint32_t i = 0; i < p->threads && i <= (n_panels - 1) / most; i++) {
        shard_pack_room *r = &p->room[i];
        if ((rc = ROOM(p, r->panels, r->panels_bytes, uint8_t, (size_t)(most * stride), e)) ||
            (rc = ROOM(p, r->sums, r->sums_n, double, (size_t)(2 * most), e)) ||
            (rc = ROOM(p, r->rows, r->rows_bytes, uint8_t, (size_t)row_bytes * KERN_PANEL_ROWS, e)) ||
            (rc = ROOM(p, r->wide, r->wide_n, float, (size_t)src->cols, e)) || (rc = ROOM(p, r->back, r->back_n, float, (size_t)x->cols, e)) ||
            (rc = ROOM(p, r->step, r->step_n, float, (size_t)x->cols / 32 + 1, e)))
            return rc;
    }

    b = (job){ .p = p, .src = src, .x = x, .type = type, .head_dim = head_dim, .stride = stride, .row_bytes = row_bytes,
               .n_panels = n_panels, .most = most, .sink = sink, .ctx = ctx, .e = e, .bad = UINT64_MAX };
    return pack_all(&b);
}

px_code shard_packer_vector(shard_packer *p, const shard_source *src, const shard_extent *x, shard_sink sink, void *ctx,
                            px_err *e)
{
    const kern_dtype_info *f = kern_dtype_get(src->dtype);
    shard_pack_room *r = &p->room[0];
    size_t padded;
    px_code rc;

    if ((rc = check(src, x, false, e))) return rc;
    if (x->rows != 1 || src->rows != 1 || !f->readable)
        return px_fail(e, PX_ECORRUPT, "", "a vector of %llu rows of %s", (unsigned long long)src->rows, f->name);
    if (px_mul((size_t)x->cols, sizeof(float), &padded) || px_add(padded, 63, &padded))
        return px_fail(e, PX_ERANGE, "", "a vector of %llu elements", (unsigned long long)x->cols);
    padded = padded / 64 * 64;
    if ((rc = ROOM(p, r->wide, r->wide_n, float, (size_t)src->cols, e)) ||
        (rc = ROOM(p, r->rows, r->rows_bytes, uint8_t, padded, e)))
        return rc;
    memset(r->rows, 0, padded);
    memmove(r->rows, fetch(r, src, 0, x, KERN_F32, r->rows, NULL), (size_t)x->cols * sizeof(float));
    return sink(ctx, r->rows, padded, e);
}
