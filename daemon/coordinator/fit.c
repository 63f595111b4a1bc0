/* fit.c - whether the plan fits the memory that the ranks told. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/fields.h"

#define NCCL_PIECE (2u << 20)               /* to which it rounds the sums' buffers up */

typedef struct need { uint64_t fixed, per_block, free; uint32_t least; } need;    /* least: rank that told the least free */

static void tell(need *n, uint64_t free, uint32_t rank)
{
    if (free < n->free) n->free = free, n->least = rank;
}

static bool same_host(const daemon_rank_info *a, const daemon_rank_info *b) { return !strcmp(a->boot_id, b->boot_id); }

static void add_to_host(const daemon_coldstart *c, uint32_t rank, need *n)
{
    const shard_rank_bytes *p = &c->plan[rank];
    const bool kv_here = p->backend == KERN_ON_CPU;

    tell(n, c->status->rank[rank].free_bytes, rank);
    n->fixed += p->total - (kv_here ? p->kv_pool : 0);
    if (kv_here && c->kv_fd[rank] < 0) n->per_block += p->kv_block_bytes;          /* what a former job left lies there already */
}

static void add_to_device(const daemon_coldstart *c, uint32_t rank, need *n)
{
    const shard_rank_bytes *p = &c->plan[rank];

    tell(n, c->status->rank[rank].gpu.free_bytes, rank);
    n->fixed += p->device_total - p->kv_pool + (c->nccl ? NCCL_PIECE : 0);
    n->per_block += p->kv_block_bytes;
}

/* The memories that a plan takes: which ranks share one, and what each of them adds. */
typedef struct memory {
    const char  *of;
    daemon_field too_small;                 /* without a single block */
    bool (*share)(const daemon_rank_info *a, const daemon_rank_info *b);
    void (*add)(const daemon_coldstart *c, uint32_t rank, need *n);
} memory;
static const memory of_hosts = { "host", DAEMON_FIELD_MEMORY, same_host, add_to_host };
static const memory of_devices = { "GPU", DAEMON_FIELD_GPU_MEMORY, daemon_rank_same_device, add_to_device };

uint32_t daemon_coldstart_first(const daemon_coldstart *c, uint32_t rank, bool (*share)(const daemon_rank_info *a, const daemon_rank_info *b))
{
    for (uint32_t r = 0; r < rank; r++)
        if (share(&c->status->rank[r], &c->status->rank[rank])) return r;
    return rank;
}

static px_code refuse(const daemon_coldstart *c, const memory *m, const need *n, px_err *e)
{
    const proto_config *cfg = c->args->config;
    const daemon_rank_info *i = &c->status->rank[n->least];
    uint64_t kv = n->per_block * c->n_blocks, most = n->free > n->fixed && n->per_block ? (n->free - n->fixed) / n->per_block : 0;
    char found[96], want[128], where[96];
    px_code rc;

    if (m == &of_devices) snprintf(where, sizeof where, "GPU %u of host %s", i->gpu.ordinal, i->host);
    else snprintf(where, sizeof where, "host %s", i->host);
    if (most) {
        snprintf(found, sizeof found, "%u tokens", cfg->kv_tokens);
        snprintf(want, sizeof want, "at most %" PRIu64 " tokens", most * cfg->kv_block);
        rc = px_refuse(e, PX_ERANGE, daemon_field_name(DAEMON_FIELD_KV_TOKENS), found, want,
                       "the ranks on %s need %" PRIu64 " bytes, %" PRIu64 " of them for the KV cache, and %" PRIu64 " are free",
                       where, n->fixed + kv, kv, n->free);
    } else {
        snprintf(found, sizeof found, "%" PRIu64 " bytes free", n->free);
        snprintf(want, sizeof want, "more than %" PRIu64 " bytes for weights and buffers", n->fixed);
        rc = px_refuse(e, PX_ERANGE, daemon_field_name(m->too_small), found, want,
                       "weights and buffers do not fit %s, whatever kv.tokens is", where);
    }
    px_err_set_rank(e, (int)n->least, i->host);
    return rc;
}

static px_code fit(const daemon_coldstart *c, const memory *m, char *detail, size_t cap, px_err *e)
{
    uint64_t spare = UINT64_MAX;

    for (uint32_t first = 0; first < c->world; first++) {
        need n = { .free = UINT64_MAX, .least = first };
        if (daemon_coldstart_first(c, first, m->share) != first) continue;
        for (uint32_t r = first; r < c->world; r++)
            if (m->share(&c->status->rank[first], &c->status->rank[r])) m->add(c, r, &n);
        uint64_t all = n.fixed + n.per_block * c->n_blocks;
        if (all > n.free) return refuse(c, m, &n, e);
        if (n.free - all < spare) spare = n.free - all;
    }
    snprintf(detail, cap, "%u KV blocks, %" PRIu64 " bytes stay free on the fullest %s", c->n_blocks, spare, m->of);
    return PX_OK;
}

px_code daemon_coldstart_fit(const daemon_coldstart *c, char *detail, size_t cap, px_err *e)
{
    px_code rc = fit(c, &of_hosts, detail, cap, e);

    if (!rc && c->args->config->device == PROTO_DEVICE_CUDA) rc = fit(c, &of_devices, detail, cap, e);
    return rc;
}
