/* devices.c - device: cuda: what the ranks say of their GPUs, held against each other; who shares one. */
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/rank/fields.h"

static void refuse(const daemon_coldstart *c, uint32_t rank, px_err *e, px_err *errs, size_t cap, size_t *n)
{
    px_err_set_rank(e, (int)rank, c->status->rank[rank].host);
    daemon_errors_add(e, errs, cap, n);
}

static void same(const daemon_coldstart *c, uint32_t rank, daemon_field f, const char *found, const char *expected, px_err *errs,
                 size_t cap, size_t *n)
{
    px_err e = {0};

    if (!strcmp(found, expected)) return;
    px_mismatch(&e, daemon_field_name(f), found[0] ? found : "(none)", expected[0] ? expected : "(none)");
    refuse(c, rank, &e, errs, cap, n);
}

bool daemon_rank_same_device(const daemon_rank_info *a, const daemon_rank_info *b)
{
    return a->gpu.ordinal == b->gpu.ordinal && !strcmp(a->boot_id, b->boot_id);
}

static void choose_sums(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n)
{
    const proto_config *cfg = c->args->config;
    const bool asked = cfg->reduce == PROTO_REDUCE_NCCL;
    char found[96];

    c->nccl = c->world > 1 && cfg->reduce != PROTO_REDUCE_ORDERED && !cfg->deterministic;
    if (!c->nccl) return;
    for (uint32_t r = 0; r < c->world; r++) {
        const daemon_rank_info *i = &c->status->rank[r];
        const uint32_t other = daemon_coldstart_first(c, r, daemon_rank_same_device);
        px_err e = {0};
        if (other != r) {
            c->nccl = false;
            snprintf(found, sizeof found, "GPU %u for ranks %u and %u", i->gpu.ordinal, other, r);
            px_refuse(&e, PX_EUNSUP, daemon_field_name(DAEMON_FIELD_GPU_SHARED), found, "a GPU for each rank, or reduce: ordered",
                      "NCCL does not add between two ranks on one GPU");
        } else if (!i->gpu.nccl[0]) {
            c->nccl = false;
            px_refuse(&e, PX_ENOTFOUND, daemon_field_name(DAEMON_FIELD_NCCL), "no libnccl.so.2", "one, or reduce: ordered",
                      "reduce: nccl, and libnccl cannot be opened");
        } else continue;
        if (asked) refuse(c, r, &e, errs, cap, n);
    }
}

void daemon_coldstart_devices(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n)
{
    const daemon_rank_info *to = &c->status->rank[0];
    char arch[2][16];

    if (c->args->config->device != PROTO_DEVICE_CUDA) return;
    snprintf(arch[1], sizeof arch[1], "sm_%u", to->gpu.arch);
    for (uint32_t r = 1; r < c->world; r++) {
        const daemon_rank_info *i = &c->status->rank[r];
        snprintf(arch[0], sizeof arch[0], "sm_%u", i->gpu.arch);
        same(c, r, DAEMON_FIELD_GPU_NAME, i->gpu.name, to->gpu.name, errs, cap, n);
        same(c, r, DAEMON_FIELD_GPU_ARCH, arch[0], arch[1], errs, cap, n);
        same(c, r, DAEMON_FIELD_GPU_DRIVER, i->gpu.driver, to->gpu.driver, errs, cap, n);
        same(c, r, DAEMON_FIELD_GPU_RUNTIME, i->gpu.runtime, to->gpu.runtime, errs, cap, n);
        same(c, r, DAEMON_FIELD_NCCL_VERSION, i->gpu.nccl, to->gpu.nccl, errs, cap, n);
    }
    choose_sums(c, errs, cap, n);
    px_log_line(c->args->log, PX_INFO, "reduce", "asked=%s sums=%s", (const char *[]){ "auto", "nccl", "ordered" }[c->args->config->reduce],
                c->world == 1 ? "none" : c->nccl ? "nccl" : "ordered");
}
