/* unroll.h - full unrolling of short loops over registers, for the files of one instruction set.
 * Layer: kernels, private to kernels/cpu.  Sanitized builds keep the loops: the checks of every access of every tile,
 * unrolled, take minutes to compile and find nothing more. */
#ifndef KERN_CPU_UNROLL_H
#define KERN_CPU_UNROLL_H

#define KERN_INLINE static inline __attribute__((always_inline))

#if defined(__SANITIZE_ADDRESS__)
#define KERN_UNROLL _Pragma("GCC unroll 1")
#elif defined(__clang__)
#define KERN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KERN_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
