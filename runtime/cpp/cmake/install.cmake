# `cmake --install`: library, headers, program, CMake package and pkg-config file. A wheel has them in ovround/native; its
# program is a script that loads OpenVINO from the wheel that pip puts beside ours.
set(bin "${CMAKE_INSTALL_BINDIR}")
set(lib "${CMAKE_INSTALL_LIBDIR}")
set(include "${CMAKE_INSTALL_INCLUDEDIR}")
if(SKBUILD)
  set(bin "${SKBUILD_SCRIPTS_DIR}")
  set(lib ovround/native/lib)
  set(include ovround/native/include)
  set(program_rpath "$ORIGIN")
  if(NOT OVROUND_UNLINKED)
    set(library_rpath "$ORIGIN/../../../openvino/libs")
  endif()
else()
  file(RELATIVE_PATH to_library "/${bin}" "/${lib}")
  set(program_rpath "$ORIGIN/${to_library}")
  set_target_properties(ovround PROPERTIES
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
    INSTALL_RPATH_USE_LINK_PATH ON)
endif()
file(RELATIVE_PATH from_pkgconfig "/${lib}/pkgconfig" "/")

set_target_properties(ovround PROPERTIES INSTALL_RPATH "${library_rpath}")
target_include_directories(ovround INTERFACE "$<INSTALL_INTERFACE:${include}>")
install(TARGETS ovround EXPORT ovroundTargets RUNTIME DESTINATION "${bin}" LIBRARY DESTINATION "${lib}" ARCHIVE DESTINATION "${lib}")
install(DIRECTORY include/ovround DESTINATION "${include}")
if(TARGET ovround-run)
  set_target_properties(ovround-run PROPERTIES INSTALL_RPATH "${program_rpath}")
  install(TARGETS ovround-run RUNTIME DESTINATION "${bin}" LIBRARY DESTINATION "${lib}")
  if(OVROUND_UNLINKED)
    install(PROGRAMS program/ovround-run.py DESTINATION "${bin}" RENAME ovround-run)
  endif()
endif()

install(EXPORT ovroundTargets NAMESPACE ovround:: DESTINATION "${lib}/cmake/ovround")
configure_package_config_file(cmake/ovroundConfig.cmake.in ovroundConfig.cmake INSTALL_DESTINATION "${lib}/cmake/ovround")
write_basic_package_version_file(ovroundConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(cmake/ovround.pc.in ovround.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/ovroundConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/ovroundConfigVersion.cmake"
  DESTINATION "${lib}/cmake/ovround")
if(NOT SKBUILD)  # pkg-config cannot find OpenVINO's wheel
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/ovround.pc" DESTINATION "${lib}/pkgconfig")
endif()
