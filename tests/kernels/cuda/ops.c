#include "tests/kernels/cuda/ops.h"

#include <stdio.h>

#ifdef TEST_CUDA_PLUGIN
#include "kernels/cuda/open.h"
#else
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/table.h"
#endif

const kern_ops *cuda_ops_find(px_err *e)
{
#ifdef TEST_CUDA_PLUGIN
    const kern_ops *ops;
    return kern_cuda_ops(&ops, TEST_CUDA_PLUGIN, e) ? NULL : ops;
#else
    (void)e;
    return cuda_host_ops();
#endif
}

kern_dev *cuda_ops_open(const kern_ops **ops, px_alloc *a, const kern_open_args *args)
{
    kern_dev *d = NULL;
    px_err e = {0};

    *ops = cuda_ops_find(&e);
#ifndef TEST_CUDA_PLUGIN
    const cuh_config before = cuh_current();
    cuh_config c = before;
    if (args->fp8_activations) c.sm = 89;                  /* with less shared memory than the device that launches meet */
    cuh_configure(&c);
#endif
    if (!*ops || (*ops)->open(&d, a, args, &e)) fail_msg("%s: %s", e.field, e.text);
#ifndef TEST_CUDA_PLUGIN
    cuh_configure(&before);
#endif
    return d;
}

void cuda_ops_next_schedule(void)
{
#ifndef TEST_CUDA_PLUGIN
    static unsigned next;
    cuh_schedule(next++ % cuh_n_schedules());
#endif
}

bool cuda_ops_little_shared(bool little)
{
#ifdef TEST_CUDA_PLUGIN
    (void)little;
    return false;
#else
    cuh_config c = cuh_current();
    c.sm = little ? 86 : 80;
    cuh_configure(&c);
    return true;
#endif
}

int cuda_ops_main(const struct CMUnitTest *tests, size_t n, CMFixtureFunction after)
{
    px_err e = {0};

    if (!cuda_ops_find(&e)) {
        printf("SKIPPED: %s: %s\n", e.field, e.text);
        return 77;
    }
    return _cmocka_run_group_tests("cuda", tests, n, NULL, after);
}
