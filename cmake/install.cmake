# SPDX-License-Identifier: Apache-2.0
#
# What is installed, in four components, each a Debian package of its own (`make deb`):
#     runtime   libtendon.so.0: all that a device needs beside a plan; it needs the C library alone
#     compiler  libtendon-build.so.0, for programs that build plans or evaluate the reference
#     command   tendon, its manual and completion; it links neither library, so that it stands alone
#     devel     headers, links to the libraries, pkg-config and CMake files
# pkg-config and CMake files find the rest from where they lie: an installed tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
option(TDN_DEB "Install as Debian packages have it: a copyright and a changelog each, manuals compressed" OFF)

set(cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Tendon)
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# ---- Libraries, headers and the files by which they are found ----
foreach(row IN ITEMS "libtendon|tendon|runtime" "libtendon-build|tendon-build|compiler")
    string(REPLACE "|" ";" row ${row})
    list(GET row 0 target)
    list(GET row 1 name)
    list(GET row 2 component)
    set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
    install(TARGETS ${target} EXPORT TendonTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${component} NAMELINK_COMPONENT devel
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tendon DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel)

install(EXPORT TendonTargets NAMESPACE Tendon:: DESTINATION ${cmake_dir} COMPONENT devel)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/TendonConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/TendonConfig.cmake ${PROJECT_BINARY_DIR}/TendonConfigVersion.cmake
    DESTINATION ${cmake_dir} COMPONENT devel)

file(RELATIVE_PATH to_prefix /${pkgconfig_dir} /)
string(REGEX REPLACE "/$" "" to_prefix ${to_prefix})
foreach(name IN ITEMS tendon tendon-build)
    configure_file(${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
    install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${pkgconfig_dir} COMPONENT devel)
endforeach()

# ---- The command ----
if(TARGET tendon)
    install(TARGETS tendon RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
    install(FILES ${PROJECT_SOURCE_DIR}/completion/tendon.bash
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME tendon COMPONENT command)
    install(FILES ${PROJECT_SOURCE_DIR}/completion/_tendon
        DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/$<IF:$<BOOL:${TDN_DEB}>,vendor-completions,site-functions>
        COMPONENT command)
    if(TDN_INSTALL_TRTEXEC)
        file(CREATE_LINK tendon ${PROJECT_BINARY_DIR}/trtexec SYMBOLIC)
        install(FILES ${PROJECT_BINARY_DIR}/trtexec DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
    endif()
endif()

# ---- Manual and licence ----
set(packages "runtime|libtendon${PROJECT_VERSION_MAJOR}" "compiler|libtendon-build${PROJECT_VERSION_MAJOR}"
    "devel|libtendon-dev")
if(TARGET tendon)
    list(APPEND packages "command|tendon")
endif()
if(NOT TDN_DEB)
    install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
    if(TARGET tendon)
        install(FILES ${PROJECT_SOURCE_DIR}/docs/man/tendon.1
            DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT command)
    endif()
    return()
endif()

# gzip -n: the same source gives the same packages.
function(compress from to)
    execute_process(COMMAND gzip -9nc ${from} OUTPUT_FILE ${to} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
if(TARGET tendon)
    compress(${PROJECT_SOURCE_DIR}/docs/man/tendon.1 ${PROJECT_BINARY_DIR}/tendon.1.gz)
    install(FILES ${PROJECT_BINARY_DIR}/tendon.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT command)
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/changelog.in ${PROJECT_BINARY_DIR}/changelog @ONLY)
compress(${PROJECT_BINARY_DIR}/changelog ${PROJECT_BINARY_DIR}/changelog.gz)
foreach(row IN LISTS packages)
    string(REPLACE "|" ";" row ${row})
    list(GET row 0 component)
    list(GET row 1 package)
    install(FILES ${PROJECT_BINARY_DIR}/changelog.gz ${PROJECT_SOURCE_DIR}/cmake/copyright
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package} COMPONENT ${component})
endforeach()

# ---- Debian packages ----
set(version ${PROJECT_VERSION})
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME tendon)
set(CPACK_PACKAGE_VENDOR Tendon)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL runtime compiler devel)
if(TARGET tendon)
    list(APPEND CPACK_COMPONENTS_ALL command)
endif()
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "Tendon developers <developers@tendon.invalid>" CACHE STRING "Of the packages")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(about "Tendon compiles trained neural networks (ONNX) into engines\nand runs them in real time on CPUs.")
# Debian's policy asks for the trigger; the scripts that CPack adds call ldconfig besides, which does no harm.
file(WRITE ${PROJECT_BINARY_DIR}/triggers "activate-noawait ldconfig\n")
foreach(row IN LISTS packages)
    string(REPLACE "|" ";" row ${row})
    list(GET row 0 component)
    list(GET row 1 package)
    string(TOUPPER ${component} c)
    set(CPACK_DEBIAN_${c}_PACKAGE_NAME ${package})
    set(name_of_${component} ${package})
endforeach()
foreach(row IN ITEMS "runtime|libtendon" "compiler|libtendon-build")
    string(REPLACE "|" ";" row ${row})
    list(GET row 0 component)
    list(GET row 1 library)
    string(TOUPPER ${component} c)
    set(shlibs ${PROJECT_BINARY_DIR}/${component}/shlibs) # for the packages of programs that link it
    file(WRITE ${shlibs} "${library} ${PROJECT_VERSION_MAJOR} ${name_of_${component}} (>= ${version})\n")
    set(CPACK_DEBIAN_${c}_PACKAGE_CONTROL_EXTRA ${shlibs} ${PROJECT_BINARY_DIR}/triggers)
endforeach()
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_COMPILER_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION science)
set(CPACK_DEBIAN_DEVEL_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_COMPILER_PACKAGE_DEPENDS "${name_of_runtime} (= ${version})")
set(CPACK_DEBIAN_DEVEL_PACKAGE_DEPENDS "${name_of_runtime} (= ${version}), ${name_of_compiler} (= ${version})")
set(CPACK_DEBIAN_COMMAND_PACKAGE_SUGGESTS "libtendon-dev")
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "run time of compiled neural networks
${about}

This library loads plans and runs them; a device needs nothing else.")
set(CPACK_COMPONENT_COMPILER_DESCRIPTION "compiler of neural networks, as a library
${about}

This library makes plans from models, and evaluates models by their
reference.")
set(CPACK_COMPONENT_COMMAND_DESCRIPTION "command that compiles, runs and measures neural networks
${about}

The command builds plans, runs, validates and measures them.")
set(CPACK_COMPONENT_DEVEL_DESCRIPTION "headers to build and run compiled neural networks
${about}

This package has what programs are built with: headers, and the files by
which pkg-config and CMake find the libraries.")
include(CPack)
