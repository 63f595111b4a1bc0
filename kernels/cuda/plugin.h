/* plugin.h - what libphalanx-cuda.so exports: two C functions and no CUDA type.  open.h is the side that calls them.
 * Layer: kernels/cuda. */
#ifndef KERN_CUDA_PLUGIN_H
#define KERN_CUDA_PLUGIN_H

#include "kernels/kernels.h"

/* Its table, whatever was asked: size and abi, the table's first members, never move, and the caller compares them.  NULL:
 * a plugin that refuses this caller. */
typedef const kern_ops *kern_plugin_fn(uint32_t abi, uint32_t size);
#define KERN_PLUGIN_SYMBOL "phalanx_kern_plugin"
kern_plugin_fn phalanx_kern_plugin;

/* Is there a driver and a device?  PX_ENOTFOUND (field "driver": none; "device": none is visible), PX_EUNSUP (field
 * "driver": found, expected), PX_EDEVICE.  Starts no context. */
typedef px_code kern_plugin_probe_fn(px_err *e);
#define KERN_PLUGIN_PROBE_SYMBOL "phalanx_kern_probe"
kern_plugin_probe_fn phalanx_kern_probe;

#endif
