#include "shard/plan/host.h"

static const char *const NAME[SHARD_N_LOADS] = { "shard_mmap", "shard_upload", "naive", "mmap", "mmap_drop", "staged",
                                                 "repack", "private" };

const char *shard_load_name(shard_load l) { return (unsigned)l < SHARD_N_LOADS ? NAME[l] : "?"; }

static double over(uint64_t bytes, uint64_t rate) { return rate ? (double)bytes / (double)rate : 0; }

shard_host_need shard_host_of(const shard_host_case *c, shard_load l)
{
    shard_host_need n = { .staging = 0, .read = c->file, .page_cache = c->file };
    uint64_t rings = c->ranks * SHARD_STAGING, cores = (uint64_t)c->ranks * (c->threads ? c->threads : 1);
    double copies = 0;

    switch (l) {
    case SHARD_LOAD_SHARD_MMAP:
        n.read = n.page_cache = c->shards;
        break;
    case SHARD_LOAD_SHARD_UPLOAD:
        n.read = n.page_cache = c->shards;
        n.staging = rings;
        break;
    case SHARD_LOAD_NAIVE:
        n.anonymous = c->ranks * c->file;
        break;
    case SHARD_LOAD_MMAP:
        n.staging = rings;
        break;
    case SHARD_LOAD_MMAP_DROP:
        n.staging = rings;
        n.page_cache = c->ranks * c->largest_tensor;
        break;
    case SHARD_LOAD_STAGED:
        n.staging = rings;
        n.page_cache = 0;
        break;
    case SHARD_LOAD_REPACK:
        n.anonymous = c->shards;
        copies = over(c->shards, c->rate.populate * cores);
        break;
    case SHARD_LOAD_PRIVATE:
        n.anonymous = c->shards;
        n.staging = rings;
        n.page_cache = 0;
        copies = over(c->shards, c->rate.populate * cores);
        break;
    default:
        return (shard_host_need){ 0 };
    }
    n.anonymous += n.staging;
    n.read_s = over(n.read, c->rate.disk);
    n.populate_s = over(c->pool, c->rate.populate * cores) + copies;
    switch (l) {
    case SHARD_LOAD_SHARD_UPLOAD: case SHARD_LOAD_STAGED: case SHARD_LOAD_MMAP_DROP: case SHARD_LOAD_MMAP:
        n.upload_s = over(c->largest_shard, c->rate.link);
        n.warm_s = n.upload_s + n.populate_s;
        n.cold_s = (n.read_s > n.upload_s ? n.read_s : n.upload_s) + n.populate_s;      /* the two run at the same time */
        break;
    case SHARD_LOAD_NAIVE:
        n.upload_s = over(c->largest_shard, c->rate.link);
        n.warm_s = n.upload_s + n.populate_s;
        n.cold_s = n.read_s + n.warm_s;                                                 /* one after the other */
        break;
    default:
        n.warm_s = n.populate_s;
        n.cold_s = n.read_s + n.warm_s;
        break;
    }
    if (l == SHARD_LOAD_PRIVATE || l == SHARD_LOAD_STAGED) n.warm_s = n.cold_s;         /* it leaves no page cache */
    return n;
}
