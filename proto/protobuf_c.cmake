# px_protobuf_c(PREFIX ROOT FILES...): C for FILES (relative to ROOT) in the build folder.
# Sets PREFIX_SOURCES and PREFIX_DIR (to include from: "phalanx/v1/inference.pb-c.h").
find_program(PROTOC protoc REQUIRED)
find_program(PROTOC_C protoc-c REQUIRED)
function(px_protobuf_c prefix root)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/gen)
  file(MAKE_DIRECTORY ${out})
  set(sources)
  foreach(f ${ARGN})
    string(REGEX REPLACE "\\.proto$" ".pb-c" base ${f})
    add_custom_command(OUTPUT ${out}/${base}.c ${out}/${base}.h
      COMMAND ${PROTOC_C} -I${root} --c_out=${out} ${f}
      DEPENDS ${root}/${f} WORKING_DIRECTORY ${root} VERBATIM)
    list(APPEND sources ${out}/${base}.c)
    set_source_files_properties(${out}/${base}.c PROPERTIES COMPILE_OPTIONS "-w")
  endforeach()
  set(${prefix}_SOURCES ${sources} PARENT_SCOPE)
  set(${prefix}_DIR ${out} PARENT_SCOPE)
endfunction()
