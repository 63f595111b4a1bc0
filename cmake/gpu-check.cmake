# A build for a machine with a GPU and none of the packages that ops/install.sh installs (preset gpu-check): px_base, kernels,
# the plugin, comm without MPI, shard/plan and shard/run without files, and the tests that want a GPU.  Left out: reports,
# sets and checkpoints, the wire, the daemon.  tests/gpu stands in for cmocka.
if(NOT PHALANX_TOOLKIT)
  message(FATAL_ERROR "PHALANX_GPU_CHECK needs the CUDA toolkit (and PHALANX_CUDA not OFF)")
endif()
enable_testing()
add_subdirectory(proto)
add_subdirectory(kernels)
add_subdirectory(comm)
add_subdirectory(shard)
add_subdirectory(tests/gpu)
