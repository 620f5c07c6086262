# Headers of others that most sources include, read once: a fifth of the time to compile. None of the project's own: a
# change of theirs would compile everything anew. Sources still include what they use (clang-tidy reads them without).
#
#   turboquant_headers(NAME LIBRARIES ... HEADERS ...)     precompiled with NAME's options; others: REUSE_FROM NAME
set(standard_headers <algorithm> <array> <chrono> <cmath> <cstdint> <cstring> <filesystem> <fstream> <functional> <map>
  <memory> <mutex> <optional> <random> <span> <sstream> <string> <string_view> <thread> <unordered_map> <vector>
  <fmt/format.h> <nlohmann/json.hpp>)
set(layers_without_headers core quant ops cache)  # they include too little to gain
function(turboquant_headers name)
  cmake_parse_arguments(PRECOMPILED "" "" "LIBRARIES;HEADERS" ${ARGN})
  file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp CONTENT "// Only its precompiled headers matter.\n")
  add_library(${name} OBJECT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE fmt::fmt nlohmann_json::nlohmann_json ${PRECOMPILED_LIBRARIES})
  target_precompile_headers(${name} PRIVATE ${standard_headers} ${PRECOMPILED_HEADERS})
endfunction()

# One library a layer of the architecture (docs/architecture.md). A layer sees the headers of all of src/, but links
# only what it names: an include that runs upwards does not link.
#
#   turboquant_layer(quant DEPENDS core)     all .cpp files of src/quant; FILE.avx2.cpp and FILE.avx512.cpp (x86 only),
#                                            FILE.neon.cpp and FILE.neon_i8mm.cpp (64-bit ARM only) are compiled for
#                                            those instructions and called after a run-time check
#   turboquant_layer(cli HEADERS <CLI/CLI.hpp>)    precompiled headers of its own, with these
function(turboquant_layer name)
  cmake_parse_arguments(LAYER "" "" "DEPENDS;LIBRARIES;HEADERS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/${name}/cpu/*.cpp)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(FILTER sources EXCLUDE REGEX "\\.(avx2|avx512)\\.cpp$")
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    list(FILTER sources EXCLUDE REGEX "\\.(neon|neon_i8mm)\\.cpp$")
  endif()
  foreach(source IN LISTS sources)
    if(source MATCHES "\\.avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;-mbmi2")
    elseif(source MATCHES "\\.avx512\\.cpp$")
      set(flags "-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vbmi;-mavx512vnni;-mgfni;-mprefer-vector-width=512")
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        list(APPEND flags -Wno-uninitialized -Wno-maybe-uninitialized)  # GCC 12's own AVX-512 header trips these (bug 105593)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    elseif(source MATCHES "\\.neon\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
    elseif(source MATCHES "\\.neon_i8mm\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod+i8mm")
    endif()
  endforeach()
  # UBSan doubles the time that kernels take to compile, and finds nothing in intrinsics; ASan's checks are theirs, too.
  if(TURBOQUANT_SANITIZE)
    foreach(source IN LISTS sources)
      if(source MATCHES "\\.(avx2|avx512|neon|neon_i8mm)\\.cpp$")
        set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=undefined)
      endif()
    endforeach()
  endif()
  add_library(tq_${name} STATIC ${sources})
  if(LAYER_HEADERS)
    target_precompile_headers(tq_${name} PRIVATE ${standard_headers} ${LAYER_HEADERS})
  elseif(NOT name IN_LIST layers_without_headers)
    target_precompile_headers(tq_${name} REUSE_FROM layer_headers)
  endif()
  target_include_directories(tq_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(tq_${name} PUBLIC ${LAYER_LIBRARIES})
  foreach(below IN LISTS LAYER_DEPENDS)
    target_link_libraries(tq_${name} PUBLIC tq_${below})
  endforeach()
endfunction()
