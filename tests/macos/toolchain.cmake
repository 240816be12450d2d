# CMake's view of the compiler that tests/macos/build puts together: zig's, for macOS 14 on Apple silicon.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_VERSION 23.0.0) # macOS 14
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_CXX_COMPILER $ENV{MACOS_TOOLS}/c++)
set(CMAKE_AR $ENV{MACOS_TOOLS}/ar)
set(CMAKE_RANLIB $ENV{MACOS_TOOLS}/ranlib)
set(CMAKE_INSTALL_NAME_TOOL /usr/bin/false) # nothing is renamed
set(CMAKE_OSX_SYSROOT "")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH $ENV{MACOS_TOOLS})
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY) # none of this machine's own
