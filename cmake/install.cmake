# SPDX-License-Identifier: Apache-2.0
# cmake --install: libraries, headers, libkata.pc, kataConfig.cmake.
include(CMakePackageConfigHelpers)

# Relative, so that an install may be moved (cmake --install --prefix, DESTDIR).
file(RELATIVE_PATH KATA_PC_TO_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(cmake/libkata.pc.in libkata.pc @ONLY)
configure_package_config_file(cmake/kataConfig.cmake.in ${CMAKE_BINARY_DIR}/kataConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kata)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/kataConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS kata kata_static EXPORT kataTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT kataTargets NAMESPACE kata:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kata)
install(DIRECTORY include/kata DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_BINARY_DIR}/libkata.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/kataConfig.cmake ${CMAKE_BINARY_DIR}/kataConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kata)
