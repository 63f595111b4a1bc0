/* effort.h - how much of a test a variant of the host build runs.  What is there for the numbers' sake runs in the plain one (and on
 * a GPU); a sanitizer, or who runs the plugin's PTX, wants every kernel and every ragged end once, and takes three to seven times as
 * long, ThreadSanitizer a hundred times, for launches of at most 7000 threads.
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_EFFORT_H
#define TESTS_KERNELS_CUDA_EFFORT_H

#ifdef CUH_TSAN
#define EFFORT_TSAN 1
#else
#define EFFORT_TSAN 0
#endif
#if defined(CUH_ASAN) || defined(CUH_MSAN) || defined(CUH_TSAN) || defined(CUH_PTX)
#define EFFORT_SANITIZED 1
#else
#define EFFORT_SANITIZED 0
#endif

#endif
