/* libphalanx-cuda.so without a GPU: the CPU's scalar ops behind memory that lies apart (tests/shard/apart.h), as a plugin of
 * the CUDA backend.  The daemon serves by it as by the real one, and its tokens are those of the CPU.
 *
 * What it is told (says.h):
 *   name, driver, runtime WORD   what info says          mib N      memory of a device
 *   devices N                    how many there are      probe WORD refuse: nodriver, nodevice
 *   step WORD                    of a step: fail, its attention fails; hang, it never ends */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/plugin.h"
#include "tests/e2e/says.h"
#include "tests/shard/apart.h"

#define EXPORT __attribute__((visibility("default")))
#define SHADOW  ((size_t)32 << 20)
#define CONTEXT ((uint64_t)300 << 20)         /* what "the driver" takes */

/* What the ops of the CPU have in another form than a device: activations and the workspace.  In their place. */
static struct { kern_buf act, workspace; kern_dev *dev; } shadow;

static px_code open_one(kern_dev **d, px_alloc *a, const kern_open_args *args, px_err *e)
{
    const kern_open_args one = { .threads = 1 };
    const uint64_t n = test_says_number("devices", 1);
    px_code rc;

    if (args->device >= n) return px_fail(e, PX_ERANGE, "device", "there is no device %u: %u are visible", args->device, (unsigned)n);
    if ((rc = test_apart_ops.open(d, a, &one, e))) return rc;
    if ((rc = test_apart_ops.alloc(*d, SHADOW, &shadow.act, e)) || (rc = test_apart_ops.alloc(*d, SHADOW, &shadow.workspace, e))) {
        test_apart_ops.close(*d);
        return rc;
    }
    shadow.dev = *d;
    return PX_OK;
}

static void close_one(kern_dev *d)
{
    test_apart_ops.free(d, &shadow.act);
    test_apart_ops.free(d, &shadow.workspace);
    test_apart_ops.close(d);
}

static px_code info(kern_dev *d, kern_info *out, px_err *e)
{
    (void)e;
    *out = (kern_info){ .name = "a CPU apart", .driver = "0.1", .runtime = "0.2", .arch = 90 };
    test_says("name", out->name);
    char word[64];
    if (test_says("driver", word)) snprintf(out->driver, sizeof out->driver, "%.31s", word);
    if (test_says("runtime", word)) snprintf(out->runtime, sizeof out->runtime, "%.31s", word);
    out->held_bytes = test_apart_count(d).live - 2 * SHADOW;
    out->total_bytes = test_says_number("mib", 8192) << 20;
    out->free_bytes = out->total_bytes - CONTEXT - out->held_bytes;
    return PX_OK;
}

/* ---- ops ---- */

/* The test writes the line when the service is ready, so a step of its own finds it. */
static px_code fault(px_err *e)
{
    char what[64];

    if (!test_says("step", what)) return PX_OK;
    if (!strcmp(what, "fail")) return px_fail(e, PX_EDEVICE, "attention", "the device failed as it was told to");
    while (!strcmp(what, "hang")) sleep(1);
    return PX_OK;
}

static px_code fits(size_t bytes, const char *what, px_err *e)
{
    return bytes <= SHADOW ? PX_OK : px_fail(e, PX_EINTERNAL, what, "%zu bytes are more than the stand-in has", bytes);
}

/* Activations go where there is room for the CPU's form of them, as long as the plan has room for a device's. */
static px_code to_shadow(kern_act act, uint32_t rows, uint32_t cols, kern_buf *out, px_err *e)
{
    const size_t given = out->bytes;
    px_code rc = fits(kern_act_bytes(KERN_ON_CPU, act, rows, cols), "act", e);

    if (!rc && given < kern_act_bytes(KERN_ON_CUDA, act, rows, cols))
        rc = px_fail(e, PX_EINTERNAL, "act", "the plan's activations are too short: %zu bytes", given);
    *out = shadow.act;
    return rc;
}

static px_code quant(kern_dev *d, const kern_quant_args *a, px_err *e)
{
    kern_quant_args in = *a;
    px_code rc = to_shadow(a->act, a->rows.max, a->cols, &in.out, e);

    return rc ? rc : test_apart_ops.quant(d, &in, e);
}

static px_code add_norm(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    kern_add_norm_args in = *a;
    px_code rc = a->act.out.h ? to_shadow(a->act.act, a->rows.max, a->cols, &in.act.out, e) : PX_OK;

    return rc ? rc : test_apart_ops.add_norm(d, &in, e);
}

static px_code swiglu(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    kern_swiglu_args in = *a;
    px_code rc = a->act.out.h ? to_shadow(a->act.act, a->rows.max, a->cols, &in.act.out, e) : PX_OK;

    return rc ? rc : test_apart_ops.swiglu(d, &in, e);
}

static px_code matmul(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    kern_matmul_args in = *a;

    in.in = shadow.act;
    in.workspace = shadow.workspace;
    return test_apart_ops.matmul(d, &in, e);
}

static px_code attention(kern_dev *d, const kern_attention_args *a, px_err *e)
{
    kern_attention_args in = *a;
    px_code rc = fault(e);

    in.workspace = shadow.workspace;
    return rc ? rc : test_apart_ops.attention(d, &in, e);
}

static px_code replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e)
{
    px_code rc = fault(e);
    return rc ? rc : test_apart_ops.replay(d, id, replayed, e);
}

EXPORT const kern_ops *phalanx_kern_plugin(uint32_t abi, uint32_t size)
{
    static kern_ops table;

    (void)abi, (void)size;
    table = test_apart_ops;
    table.backend = KERN_ON_CUDA;
    table.open = open_one;
    table.close = close_one;
    table.info = info;
    table.quant = quant;
    table.add_norm = add_norm;
    table.swiglu = swiglu;
    table.matmul = matmul;
    table.attention = attention;
    table.replay = replay;
    return &table;
}

EXPORT px_code phalanx_kern_probe(px_err *e)
{
    char word[64];

    if (!test_says("probe", word)) return PX_OK;
    if (!strcmp(word, "nodevice")) return px_fail(e, PX_ENOTFOUND, "device", "no CUDA device is visible to this process");
    return px_fail(e, PX_ENOTFOUND, "driver", "no NVIDIA driver is installed (libcuda.so.1)");
}
