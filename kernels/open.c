/* open.c - which CPU path: asked once, at start; and the names of the arithmetics. */
#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <stddef.h>

#define OPS(path) { \
    .size = sizeof(kern_ops), .abi = KERN_ABI, .backend = KERN_ON_CPU, .name = "cpu-" #path, \
    .open = kern_cpu_open, .close = kern_cpu_close, .info = kern_cpu_info, .alloc = kern_cpu_alloc, .free = kern_cpu_free, \
    .wrap = kern_cpu_wrap, .upload = kern_cpu_upload, .download = kern_cpu_download, .wait = kern_cpu_wait, \
    .native_queue = kern_cpu_native_queue, .record = kern_cpu_record, .end = kern_cpu_end, .replay = kern_cpu_replay, \
    .embed = kern_cpu_embed, .gather = kern_cpu_gather, .quant = kern_cpu_quant_##path, \
    .matmul = kern_cpu_matmul_##path, .add_norm = kern_cpu_add_norm_##path, \
    .rope_append = kern_cpu_rope_append_##path, .attention = kern_cpu_attention_##path, \
    .swiglu = kern_cpu_swiglu_##path, .candidates = kern_cpu_candidates_##path }

static const kern_ops table[KERN_N_PATHS] = {
    [KERN_PATH_SCALAR] = OPS(scalar),
    [KERN_PATH_AVX2]   = OPS(avx2),
    [KERN_PATH_AVX512] = OPS(avx512),
};

/* The first instruction set that a path needs and the CPU (or the system, which must save the registers) lacks. */
static const char *missing(kern_path path)
{
    unsigned a, b, c = 0, d;

    if (path == KERN_PATH_AUTO || path == KERN_PATH_SCALAR) return NULL;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) return "avx2";
    if (!__builtin_cpu_supports("fma")) return "fma";
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C)) return "f16c";
    if (path == KERN_PATH_AVX2) return NULL;
    if (!__builtin_cpu_supports("avx512f")) return "avx512f";
    if (!__builtin_cpu_supports("avx512bw")) return "avx512bw";
    if (!__builtin_cpu_supports("avx512vl")) return "avx512vl";
    if (!__builtin_cpu_supports("avx512dq")) return "avx512dq";
    if (!__builtin_cpu_supports("avx512vnni")) return "avx512vnni";
    return NULL;
}

bool kern_cpu_has(kern_path path) { return (unsigned)path < KERN_N_PATHS && !missing(path); }

px_code kern_cpu_ops(kern_path path, const kern_ops **ops, px_err *e)
{
    const char *lack;

    *ops = NULL;
    if ((unsigned)path >= KERN_N_PATHS) return px_fail(e, PX_EINVAL, "cpu", "no CPU path %d", (int)path);
    if (path == KERN_PATH_AUTO)
        for (path = KERN_PATH_AVX512; path > KERN_PATH_SCALAR && missing(path);) path = (kern_path)(path - 1);
    if ((lack = missing(path)))
        return px_fail(e, PX_EUNSUP, "cpu", "%s needs %s, which this CPU does not have", table[path].name, lack);
    *ops = &table[path];
    return PX_OK;
}

const char *kern_arith_id(kern_dtype w, kern_kv_dtype kv)
{
    const kern_dtype_info *f = kern_dtype_get(w);

    if (!f || !f->weight) return "none";
    static const char *const id[KERN_N_ACTS][KERN_N_KV] = {
#define BY_KV(act) { act "-f16-tree-1", act "-f32-tree-1", act "-bf16-tree-1", act "-int8-tree-1", act "-fp8-tree-1" }
        [KERN_ACT_F32] = BY_KV("f32"), [KERN_ACT_BF16] = BY_KV("bf16"), [KERN_ACT_Q12] = BY_KV("q12"), [KERN_ACT_F16] = BY_KV("f16"),
#undef BY_KV
    };
    return (unsigned)kv < KERN_N_KV ? id[kern_act_of(w)][kv] : "none";
}
