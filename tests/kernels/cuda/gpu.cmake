# The ops' tests once more, through the plugin on a GPU: the same sources, label gpu.  Without a device each is skipped and
# says what is missing.
function(px_gpu_test name)
  cmake_parse_arguments(T "" "" "SOURCES;LIBS" ${ARGN})
  px_test(${name} SOURCES ${T_SOURCES} LIBS ${T_LIBS} px_kernels TIMEOUT 180)
  target_compile_definitions(${name} PRIVATE TEST_CUDA_PLUGIN="$<TARGET_FILE:phalanx-cuda>")
  add_dependencies(${name} phalanx-cuda)
  set_tests_properties(${name} PROPERTIES LABELS gpu)
endfunction()

foreach(op quant matmul w8a8)
  px_gpu_test(gpu_${op}_test SOURCES ${op}_test.c ops.c mm_bench.c)
endforeach()
foreach(op rope_append attention)
  px_gpu_test(gpu_${op}_test SOURCES ${op}_test.c ops.c kv_bench.c kv_image.c)
endforeach()
foreach(op embed norm candidates)
  px_gpu_test(gpu_${op}_test SOURCES ${op}_test.c ops.c row_bench.c)
endforeach()
