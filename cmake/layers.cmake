# One library a layer of the architecture (docs/architecture.md). A layer sees the headers of all of src/, but links
# only what it names: an include that runs upwards does not link.
#
#   turboquant_layer(quant DEPENDS core)     all .cpp files of src/quant; FILE.avx2.cpp, FILE.avx_vnni.cpp,
#                                            FILE.avx512.cpp and FILE.amx.cpp (x86 only), FILE.neon.cpp and
#                                            FILE.neon_i8mm.cpp (64-bit ARM only) are compiled for those instructions
#                                            and called after a run-time check
#
# Where sources are compiled several at a time (CMAKE_UNITY_BUILD, as most presets have it), those with options of their
# own, as the kernels, still are alone: CMake leaves them out.
function(turboquant_layer name)
  cmake_parse_arguments(LAYER "" "" "DEPENDS;LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/${name}/cpu/*.cpp)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(FILTER sources EXCLUDE REGEX "\\.(avx2|avx_vnni|avx512|amx)\\.cpp$")
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    list(FILTER sources EXCLUDE REGEX "\\.(neon|neon_i8mm)\\.cpp$")
  endif()
  foreach(source IN LISTS sources)
    if(source MATCHES "\\.avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;-mbmi2")
    elseif(source MATCHES "\\.avx_vnni\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;-mbmi2;-mavxvnni")
    elseif(source MATCHES "\\.(avx512|amx)\\.cpp$")
      set(flags "-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vbmi;-mavx512vnni;-mgfni;-mprefer-vector-width=512")
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        list(APPEND flags -Wno-uninitialized -Wno-maybe-uninitialized)  # GCC 12's own AVX-512 header trips these (bug 105593)
      endif()
      if(source MATCHES "\\.amx\\.cpp$")
        list(APPEND flags -mamx-tile -mamx-int8)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    elseif(source MATCHES "\\.neon\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
    elseif(source MATCHES "\\.neon_i8mm\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod+i8mm")
    endif()
  endforeach()
  # UBSan doubles the time that kernels take to compile, and finds nothing in intrinsics; ASan's checks are theirs, too,
  # but not that of a local variable's scope, which more than doubles it again.
  if(TURBOQUANT_SANITIZE)
    foreach(source IN LISTS sources)
      if(source MATCHES "\\.(avx2|avx_vnni|avx512|amx|neon|neon_i8mm)\\.cpp$")
        set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS
          -fno-sanitize=undefined -fno-sanitize-address-use-after-scope)
        if(source MATCHES "attend_blocks" AND TURBOQUANT_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
          # Checks as calls where there are many: written out in what is unrolled here, they take minutes to compile. (In
          # the other kernels they do not, and tests with checks as calls take three times as long.)
          set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS
            --param=asan-instrumentation-with-call-threshold=100)
        endif()
      endif()
    endforeach()
  endif()
  add_library(tq_${name} STATIC ${sources})
  target_include_directories(tq_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(tq_${name} PUBLIC ${LAYER_LIBRARIES})
  foreach(below IN LISTS LAYER_DEPENDS)
    target_link_libraries(tq_${name} PUBLIC tq_${below})
  endforeach()
endfunction()
