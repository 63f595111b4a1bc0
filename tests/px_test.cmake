# px_test(NAME SOURCES... [LIBS...]): one cmocka program, one ctest.  Rooms mirror the source folders.
function(px_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE px_testlib ${T_LIBS} PkgConfig::CMOCKA)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT} SKIP_RETURN_CODE 77)
endfunction()

add_library(px_testlib STATIC ${CMAKE_CURRENT_LIST_DIR}/testlib.c)
target_include_directories(px_testlib PUBLIC ${CMAKE_SOURCE_DIR})
target_compile_definitions(px_testlib PUBLIC
  TEST_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden" TEST_SHARED_DIR="${CMAKE_SOURCE_DIR}/../shared")
target_link_libraries(px_testlib PUBLIC px_base PkgConfig::CMOCKA m)
