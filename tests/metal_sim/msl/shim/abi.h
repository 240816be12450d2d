// What a compiled Metal library and the simulator know of each other.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace msl {

// One thread of a grid; the built-in arguments of a kernel are read from it.
struct Thread {
  uint32_t position[3];    // thread_position_in_grid
  uint32_t local[3];       // thread_position_in_threadgroup
  uint32_t group[3];       // threadgroup_position_in_grid
  uint32_t groups[3];      // threadgroups_per_grid
  uint32_t group_size[3];  // threads_per_threadgroup: smaller at the grid's edge
  uint32_t full_size[3];   // dispatch_threads_per_threadgroup
  uint32_t grid[3];        // threads_per_grid
  uint32_t index;          // thread_index_in_threadgroup
  uint32_t lane;           // thread_index_in_simdgroup
  uint32_t simd;           // simdgroup_index_in_threadgroup
  uint32_t simds;          // simdgroups_per_threadgroup
};

enum Kind {
  kBuffer,
  kThreadgroup,
  kPosition,
  kLocal,
  kGroup,
  kGroups,
  kGroupSize,
  kFullSize,
  kGrid,
  kIndex,
  kLane,
  kSimd,
  kSimds,
  kSimdWidth
};

struct Argument {
  Kind kind;
  int index;
  size_t bytes, alignment;  // of what it points to
  bool writable;
  bool reference;
};

struct Kernel {
  const char* name;
  const Argument* arguments;
  int count;
  void (*run)(void* const* slots, const Thread& thread);
  const bool* const* present;  // null, or the function constant on which an argument depends
  const char* const* names;
  int max_threads;
};

// Combines what the lanes of a SIMD-group gave: runs once, when the last of them has arrived.
using Combine = void (*)(const unsigned char* slots, uint32_t active, unsigned char* result);
constexpr int kSlot = 64, kResult = 512;
struct Exchanged {
  const unsigned char* slots;
  const unsigned char* result;
  uint32_t active;
};

}  // namespace msl

extern "C" {
// In the simulator.
void msl_threadgroup_barrier(int flags, int line);
void msl_simdgroup_barrier(int flags, int line);
msl::Exchanged msl_exchange(int kind, const void* value, size_t bytes, msl::Combine combine,
                            int line);
uint32_t msl_lane();
void* msl_threadgroup_variable(int id, size_t bytes, size_t alignment, const char* name);
bool msl_constant(int index, const char* name, const char* type, void* value, size_t bytes);
// In the library.
const msl::Kernel* msl_kernels(int* count);
}
