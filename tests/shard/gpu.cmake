# The forward pass on a GPU (px_gpu_test: tests/kernels/cuda/gpu.cmake).
px_gpu_test(gpu_run_same_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/run_cuda_same_test.c ${CMAKE_CURRENT_LIST_DIR}/cuda_run.c LIBS px_shard_synthetic px_shard_run)
if(TARGET px_shard_cluster)                # a build with the store
  px_gpu_test(gpu_run_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/run_cuda_test.c ${CMAKE_CURRENT_LIST_DIR}/cuda_run.c LIBS px_shard_cluster px_shard_store)
endif()
