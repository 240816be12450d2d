// What runs a threadgroup: its threads, their fibers, and its memory.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "fibers.h"
#include "msl/shim/abi.h"

namespace sim {

constexpr size_t kStack = 256 << 10, kArena = 256 << 10, kRed = 32;
constexpr int kVariables = 256;

struct Fiber {
  void* sp = nullptr;
  char *stack = nullptr, *top = nullptr;
  void* tsan = nullptr;
};

// One SIMD-group: masks of its lanes, and what they exchange. Slots come twice, so that lanes that
// go ahead do not overwrite what the others still have to read.
struct Simd {
  uint32_t ready, active, waiting;
  uint32_t turn;
  uint32_t members[2];  // who took part
  int kind, line;
  msl::Combine combine;
  alignas(64) unsigned char slots[2][kSimdWidth * msl::kSlot];
  alignas(64) unsigned char result[2][msl::kResult];
};

struct Worker {
  const Grid* grid = nullptr;
  bool reverse = false;
  void* main = nullptr;  // where the fibers return to
  std::vector<Fiber*> free, all;
  Fiber* running = nullptr;
  msl::Thread threads[kMaxThreads];
  Fiber* fibers[kMaxThreads];
  bool begun[kMaxThreads];
  uint32_t current = 0, total = 0, simds = 0;
  Simd simd[kMaxThreads / kSimdWidth];
  uint32_t arrived = 0, finished = 0, barriers = 0;
  int barrier_line = 0;
  char sync[2], end_sync;  // addresses for TSan
  std::vector<void*> slots;
  char* arena = nullptr;
  size_t used = 0, counted = 0;
  struct Variable {
    char* at;
    size_t bytes;
    const char* name;
  } variables[kVariables];
  std::vector<Variable> placed;
  std::string error;
  void* tsan_main = nullptr;
  void* main_stack = nullptr;  // for ASan
  size_t main_size = 0;
};

// The worker that this thread runs; a fiber reads it once, for its worker goes from thread to
// thread.
extern thread_local Worker* worker;

Fiber* new_fiber(Worker& w);
// Runs a thread: of those that have begun on its own fiber, else on a new one, or (may_stay) on the
// caller's.
void go(Worker& w, uint32_t thread, bool may_stay);
// Gives the threadgroup up, with this error.
[[noreturn]] void fail(Worker& w, std::string text);

}  // namespace sim
