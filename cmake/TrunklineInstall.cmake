# install(), export, find_package(trunkline).
include(CMakePackageConfigHelpers)

install(TARGETS trunkline EXPORT trunkline-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/trunkline DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT trunkline-targets NAMESPACE trunkline:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/trunkline)
configure_package_config_file(cmake/trunkline-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/trunkline-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/trunkline)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/trunkline-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/trunkline-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/trunkline-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/trunkline)
if(TARGET trunkline_command)
  install(TARGETS trunkline_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
