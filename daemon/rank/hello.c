/* hello.c - what a rank says before anything can hang: who it is, what it has, and what it would refuse itself. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "daemon/rank/fields.h"

typedef struct facts {
    px_arena *arena;
    Phalanx__Wire__Fact **v; size_t n, cap;
    bool full;
} facts;

static void add_fact(void *ctx, const daemon_fact *f)
{
    facts *l = ctx;
    Phalanx__Wire__Fact *w = px_new(&l->arena->a, Phalanx__Wire__Fact, 1);

    if (!w || l->n == l->cap) {
        l->full = true;
        return;
    }
    *w = (Phalanx__Wire__Fact)PHALANX__WIRE__FACT__INIT;
    w->field = px_strdup(&l->arena->a, f->field);
    w->value = px_strdup(&l->arena->a, f->value);
    w->file = px_strdup(&l->arena->a, f->file);
    if (!w->field || !w->value || !w->file) l->full = true;
    else l->v[l->n++] = w;
}

/* What this host can still give, file pages that can be dropped counted as free: the shard itself lies in those. */
static uint64_t free_bytes(void)
{
    shard_free_memory now;

    return shard_measure_free("", &now, NULL) ? 0 : now.bytes;
}

static void boot_id(char out[64])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    out[0] = 0;
    if (!f) return;
    if (!fgets(out, 64, f)) out[0] = 0;
    fclose(f);
    out[strcspn(out, "\n")] = 0;
}

static int64_t wall_clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The plan that this rank would carve by; a plan that cannot be made is an error of the hello. */
static bool own_plan(daemon_rank *r, shard_rank_bytes *plan)
{
    const shard_manifest *m = &r->manifest;
    shard_demand demand = daemon_contract_demand(&r->config, r->world);
    px_err e = {0};

    if (!r->has_manifest || m->world != r->world) return false;
    if (!shard_rank_bytes_of(&m->arch, &m->types, &m->split, r->rank, &demand,
                             (int)daemon_contract_transport(&r->config, r->world), plan, &e))
        return true;
    if (r->n_err < DAEMON_RANK_ERRORS) r->err[r->n_err++] = e;
    return false;
}

/* What can be read and opened without memory or peers; every mismatch is kept for the hello. */
static void look(daemon_rank *r)
{
    px_err e = {0};
    size_t n = 0;

    if (r->n_err) return;                                  /* the configuration itself is wrong */
    if (r->config.device == PROTO_DEVICE_CUDA ? daemon_rank_device_open(r, &e) : kern_cpu_ops(daemon_contract_cpu(&r->config), &r->ops, &e))
        r->err[r->n_err++] = e;
    px_err_clear(&e);
    if (shard_manifest_read(&r->manifest, &r->heap.a, r->config.set, &e)) {
        r->err[r->n_err++] = e;
        return;
    }
    r->has_manifest = true;
    if (r->manifest.world != r->world) {
        char found[32], expected[32];
        snprintf(found, sizeof found, "%u", r->world);
        snprintf(expected, sizeof expected, "%u", r->manifest.world);
        px_mismatch(&e, "ranks", found, expected);
        px_err_set_file(&e, r->config.set);
        r->err[r->n_err++] = e;
        return;
    }
    shard_file_open(&r->file, &r->heap.a, r->config.set, &r->manifest, r->rank, r->err + r->n_err,
                    DAEMON_RANK_ERRORS - r->n_err, &n);
    r->n_err += n < DAEMON_RANK_ERRORS - r->n_err ? n : DAEMON_RANK_ERRORS - r->n_err;
}

static void short_of(daemon_rank *r, daemon_field f, uint64_t have, uint64_t want)
{
    char found[32], expected[48];

    snprintf(found, sizeof found, "%llu", (unsigned long long)have);
    snprintf(expected, sizeof expected, "at least %llu", (unsigned long long)want);
    if (r->n_err < DAEMON_RANK_ERRORS)
        px_refuse(&r->err[r->n_err++], PX_ERANGE, daemon_field_name(f), found, expected, "a limit of this process is too low");
}

/* Limits that would end the job half-way: said before anything is taken.  MPI maps libraries and segments of its own. */
static void check_limits(daemon_rank *r, const shard_rank_bytes *plan)
{
    const uint64_t mpi_bytes = 256u << 20;
    struct rlimit l;
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f && fscanf(f, "%lu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    uint64_t want = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) + plan->total - (r->dev ? 0 : plan->weights.mapped) + plan->comm_shared
                  + (r->world > 1 ? mpi_bytes : 0);
    if (!getrlimit(RLIMIT_AS, &l) && l.rlim_cur != RLIM_INFINITY && l.rlim_cur < want)
        short_of(r, DAEMON_FIELD_ULIMIT_SPACE, l.rlim_cur, want);
    want = 64 + 4 * (uint64_t)r->world;
    if (!getrlimit(RLIMIT_NOFILE, &l) && l.rlim_cur != RLIM_INFINITY && l.rlim_cur < want)
        short_of(r, DAEMON_FIELD_ULIMIT_FILES, l.rlim_cur, want);
}

px_code daemon_rank_hello(daemon_rank *r, px_err *e)
{
    Phalanx__Wire__Hello w = PHALANX__WIRE__HELLO__INIT;
    Phalanx__Wire__Device device = PHALANX__WIRE__DEVICE__INIT;
    Phalanx__Wire__Error error[DAEMON_RANK_ERRORS], *errors[DAEMON_RANK_ERRORS];
    Phalanx__Wire__Fact *fact[DAEMON_MAX_FACTS];
    shard_rank_bytes plan;
    char boot[64], features[128], nccl[32];
    px_arena arena;
    px_code rc;

    shard_measure_resident("", &r->at_start, NULL);
    look(r);
    px_arena_init(&arena, &r->talk.a, "wire", 16384, 0, 0);
    facts list = { &arena, fact, 0, sizeof fact / sizeof *fact, false };
    if (r->has_manifest)
        daemon_contract_facts(&r->config, r->config_path, &r->manifest, r->config.set, add_fact, &list);
    if (own_plan(r, &plan)) {
        check_limits(r, &plan);
        daemon_contract_rank_facts(&r->manifest, r->config.set, r->rank, &plan, r->file != NULL, add_fact, &list);
    }
    w.rank = r->rank;
    w.world = r->world;
    w.pid = (uint32_t)getpid();
    w.host = r->log.host;
    w.facts = fact;
    w.n_facts = list.n;
    for (size_t i = 0; i < r->n_err; i++) {
        px_err_set_rank(&r->err[i], (int)r->rank, r->log.host);
        daemon_error_to_wire(&r->err[i], &error[i]);
        errors[i] = &error[i];
    }
    w.errors = errors;
    w.n_errors = r->n_err;
    w.cpu_path = r->ops ? (char *)(uintptr_t)r->ops->name : w.cpu_path;
    w.free_bytes = free_bytes();
    w.threads = daemon_contract_threads(&r->config, r->world);
    boot_id(boot);
    w.boot_id = boot;
    daemon_contract_cpu_features(features, sizeof features);
    w.cpu_features = features;
    if (r->dev) {
        device.name = r->gpu.name;
        device.driver = r->gpu.driver;
        device.runtime = r->gpu.runtime;
        device.arch = r->gpu.arch;
        comm_nccl_version(nccl, sizeof nccl);
        device.nccl = nccl;
        device.ordinal = r->ordinal;
        device.free_bytes = r->gpu.free_bytes;
        device.total_bytes = r->gpu.total_bytes;
        w.device = &device;
    }
    w.time_us = wall_clock_us();
    rc = list.full ? px_fail(e, PX_ENOMEM, "hello", "no memory for the facts")
                   : daemon_rank_send(r, PHALANX__WIRE__FRAME_TYPE__HELLO, &w.base, e);
    px_arena_deinit(&arena);
    return rc;
}
