# NCCL itself, on a GPU (px_gpu_test: tests/kernels/cuda/gpu.cmake).
px_gpu_test(gpu_nccl_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/nccl_gpu_test.c LIBS px_comm)
