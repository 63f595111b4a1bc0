# The forward pass on a GPU (px_gpu_test: tests/kernels/cuda/gpu.cmake).
set(cuda_run ${CMAKE_CURRENT_LIST_DIR}/cuda_run.c ${CMAKE_SOURCE_DIR}/tests/kernels/cuda/ops.c)
px_gpu_test(gpu_run_same_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/run_cuda_same_test.c ${cuda_run} LIBS px_shard_synthetic px_shard_run)
set_tests_properties(gpu_run_same_test PROPERTIES COST 100)      # the longest: first
if(TARGET px_shard_cluster)                # a build with the store
  px_gpu_test(gpu_run_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/run_cuda_test.c ${CMAKE_CURRENT_LIST_DIR}/blocks.c ${CMAKE_CURRENT_LIST_DIR}/image.c ${cuda_run} LIBS px_shard_cluster px_shard_store)
endif()

set(bench cuda_bench.c cuda_bench_ops.c cuda_bench_model.c)
list(TRANSFORM bench PREPEND ${CMAKE_SOURCE_DIR}/tests/bench/)
add_executable(cuda_bench ${bench})
target_link_libraries(cuda_bench PRIVATE px_shard_synthetic px_shard_run px_kernels px_base CUDA::cudart_static)
target_compile_definitions(cuda_bench PRIVATE TEST_CUDA_PLUGIN="$<TARGET_FILE:phalanx-cuda>")
add_dependencies(cuda_bench phalanx-cuda)
