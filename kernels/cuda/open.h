/* open.h - the CUDA backend, opened as a plugin when somebody asks for it: nothing of CUDA is linked into the programs.
 * Layer: kernels (always built). */
#ifndef KERN_CUDA_OPEN_H
#define KERN_CUDA_OPEN_H

#include "kernels/kernels.h"

#define KERN_CUDA_PLUGIN_FILE "libphalanx-cuda.so"

/* The table of the CUDA backend.  `file`: the plugin; NULL: KERN_CUDA_PLUGIN_FILE beside the running program, or else in
 * ../lib from there.  The plugin stays open for the process's life; a second call answers the same table.
 * What is missing stands in e->field:
 *   plugin  PX_ENOTFOUND: no such file, or a library of the toolkit that it needs is absent (found: dlopen's words)
 *           PX_EMISMATCH: made for another ABI (found, expected); PX_EUNSUP: not a plugin of this program
 *   driver  PX_ENOTFOUND: none;  PX_EUNSUP: too old (found, expected);  PX_EDEVICE: what it answers
 *   device  PX_ENOTFOUND: none is visible */
px_code kern_cuda_ops(const kern_ops **ops, const char *file, px_err *e);

#endif
