/* test_plugin.c - a plugin that is wrong in the way that its macro says; with none it is good. */
#include "kernels/cuda/plugin.h"

#if !defined(BARE)
static const kern_ops table = {
#if defined(OTHER_SIZE)
    .size = 8,
#else
    .size = sizeof(kern_ops),
#endif
#if defined(OTHER_ABI)
    .abi = 1,
#else
    .abi = KERN_ABI,
#endif
#if defined(OTHER_BACKEND)
    .backend = KERN_ON_CPU,
#else
    .backend = KERN_ON_CUDA,
#endif
    .name = "test",
};

__attribute__((visibility("default"))) const kern_ops *phalanx_kern_plugin(uint32_t abi, uint32_t size)
{
#if defined(REFUSES)
    return abi > KERN_ABI && size > sizeof table ? &table : 0;
#else
    (void)abi, (void)size;
    return &table;
#endif
}
#endif

#if !defined(BARE) && !defined(NO_PROBE)
__attribute__((visibility("default"))) px_code phalanx_kern_probe(px_err *e)
{
#if defined(NO_DEVICE)
    *e = (px_err){ .code = PX_ENOTFOUND, .rank = -1, .src = "test", .field = "device", .text = "none" };
    return PX_ENOTFOUND;
#else
    (void)e;
    return PX_OK;
#endif
}
#endif

#if defined(NEEDS)
extern int needed(void);
int needs(void);
__attribute__((visibility("default"))) int needs(void) { return needed(); }
#endif
#if defined(IS_NEEDED)
int needed(void);
__attribute__((visibility("default"))) int needed(void) { return 1; }
#endif
