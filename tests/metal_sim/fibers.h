// Runs a kernel's grid: each thread of a threadgroup is a fiber.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "msl/shim/abi.h"

namespace sim {

struct Grid {
  const msl::Kernel* kernel;
  std::vector<void*> slots;               // by argument
  std::vector<size_t> threadgroup_bytes;  // by index of [[threadgroup(i)]]
  uint32_t threads[3], threadgroup[3];    // in the grid; in a threadgroup
};

constexpr uint32_t kSimdWidth = 32, kMaxThreads = 1024;
constexpr size_t kThreadgroupBytes = 32768;

// Runs every threadgroup; returns what went wrong, or nothing.
std::string run_grid(const Grid& grid);

}  // namespace sim
