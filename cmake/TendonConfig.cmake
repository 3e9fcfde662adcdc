# SPDX-License-Identifier: Apache-2.0
#
# find_package(Tendon) gives Tendon::tendon, the run time, and Tendon::tendon-build, the compiler on top of it.
include(${CMAKE_CURRENT_LIST_DIR}/TendonTargets.cmake)
