# Ranks as threads of one process, on sets that lie in memory: without the store and the libraries that it reads with.
add_library(px_shard_synthetic STATIC ${CMAKE_CURRENT_LIST_DIR}/synthetic.c ${CMAKE_CURRENT_LIST_DIR}/cluster.c ${CMAKE_CURRENT_LIST_DIR}/distance.c)
target_link_libraries(px_shard_synthetic PUBLIC px_testlib px_shard_run m PRIVATE OpenMP::OpenMP_C)
