/* table.h - the whole CUDA backend on the host build: the plugin's own table, by another name.
 * Layer: tests.  Ranks may be threads of one process: launches run one after the other. */
#ifndef TESTS_CUDA_HOST_TABLE_H
#define TESTS_CUDA_HOST_TABLE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

const kern_ops *cuda_host_ops(void);       /* "cuda-host" */

#ifdef __cplusplus
}
#endif

#endif
