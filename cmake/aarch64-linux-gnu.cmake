# SPDX-License-Identifier: Apache-2.0
#
# Cross-building for AArch64 with Debian's gcc-aarch64-linux-gnu; programs run under qemu-user, so that ctest works.
#     tools/sysroot.sh arm64 build-aarch64/sysroot
#     cmake -S . -B build-aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DTDN_SYSROOT=$PWD/build-aarch64/sysroot
# TDN_SYSROOT holds Debian's arm64 packages, unpacked. Without it only what needs no library beside libc can be built:
# -DTDN_COMMAND=OFF.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

set(TDN_SYSROOT "" CACHE PATH "Debian's arm64 packages, unpacked")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TDN_SYSROOT)
if(TDN_SYSROOT)
    # Not CMAKE_SYSROOT: the cross compiler's own libc is complete, and unpacked links to /lib lead out of a sysroot.
    set(CMAKE_FIND_ROOT_PATH ${TDN_SYSROOT})
    set(root ${TDN_SYSROOT})
    set(CMAKE_EXE_LINKER_FLAGS_INIT
        "-Wl,-rpath-link,${root}/lib/aarch64-linux-gnu:${root}/usr/lib/aarch64-linux-gnu")
else()
    set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
    set(root /usr/aarch64-linux-gnu)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
find_program(TDN_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(TDN_QEMU)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${TDN_QEMU} -L ${root})
endif()
