/* plugin.c - the CUDA backend's table. */
#include "kernels/cuda/plugin.h"

#include "kernels/cuda/device.h"

static const kern_ops table = {
    .size = sizeof(kern_ops), .abi = KERN_ABI, .backend = KERN_ON_CUDA, .own_memory = true, .name = "cuda",
    .open = kern_cuda_open, .close = kern_cuda_close, .info = kern_cuda_info, .alloc = kern_cuda_alloc, .free = kern_cuda_free,
    .wrap = kern_cuda_wrap, .upload = kern_cuda_upload, .download = kern_cuda_download, .wait = kern_cuda_wait,
    .native_queue = kern_cuda_native_queue, .record = kern_cuda_record, .end = kern_cuda_end, .replay = kern_cuda_replay,
    .embed = kern_cuda_embed, .add_norm = kern_cuda_add_norm, .gather = kern_cuda_gather, .quant = kern_cuda_quant,
    .matmul = kern_cuda_matmul, .rope_append = kern_cuda_rope_append, .attention = kern_cuda_attention,
    .swiglu = kern_cuda_swiglu, .candidates = kern_cuda_candidates,
};

__attribute__((visibility("default"))) const kern_ops *phalanx_kern_plugin(uint32_t abi, uint32_t size)
{
    (void)abi, (void)size;
    return &table;
}
