# What `cmake --install` puts where: the shared library with its headers and its CMake package (find_package(turboquant)
# gives turboquant::turboquant), the command, and completion for bash and fish as the command itself writes it.
include(CMakePackageConfigHelpers)

if(TARGET turboquant)
  target_compile_features(turboquant INTERFACE cxx_std_20)
  install(TARGETS turboquant EXPORT turboquant-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/turboquant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING PATTERN "*.h")

  set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/turboquant)
  install(EXPORT turboquant-targets NAMESPACE turboquant:: FILE turboquantTargets.cmake DESTINATION ${package_folder})
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/turboquantConfig.cmake.in
    ${PROJECT_BINARY_DIR}/turboquantConfig.cmake INSTALL_DESTINATION ${package_folder})
  # Before 1.0 a minor version may change the interface.
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/turboquantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/turboquantConfig.cmake ${PROJECT_BINARY_DIR}/turboquantConfigVersion.cmake
    DESTINATION ${package_folder})
endif()

if(TARGET turboquant_cli)
  # The installed command finds libraries beside itself, wherever the tree is moved to.
  file(RELATIVE_PATH library_from_command ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  if(APPLE)
    set(command_folder @loader_path)
  else()
    set(command_folder $ORIGIN)
  endif()
  set_target_properties(turboquant_cli PROPERTIES INSTALL_RPATH ${command_folder}/${library_from_command})
  install(TARGETS turboquant_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

  if(NOT CMAKE_CROSSCOMPILING)
    set(completions ${PROJECT_BINARY_DIR}/completions)
    file(MAKE_DIRECTORY ${completions})
    foreach(shell bash fish)
      install(CODE "execute_process(COMMAND \"$<TARGET_FILE:turboquant_cli>\" completion ${shell}
        OUTPUT_FILE \"${completions}/turboquant.${shell}\" COMMAND_ERROR_IS_FATAL ANY)")
    endforeach()
    install(FILES ${completions}/turboquant.bash RENAME turboquant
      DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${completions}/turboquant.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
  endif()
endif()

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
