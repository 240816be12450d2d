// A program with a kernel for every step, and the cache of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/steps.h"
#include "program.h"

namespace jax_mps {

class Executable {
 public:
  // Throws ProgramError with every step's reason if the device has no kernel for it.
  explicit Executable(std::string_view text);

  // Safe to call from many threads at once.
  void run(const void* const* inputs, void* const* outputs) const;

  const Program& program() const { return program_; }
  // One name a step, a loop's own before its body's.
  std::vector<std::string> implementations() const { return steps_.implementations(); }
  size_t bytes() const { return bytes_; }  // an estimate of what it keeps

 private:
  Program program_;
  cpu::Steps steps_;
  size_t bytes_ = 0;
};

// Compiled programs by text, least recently used out first. All functions are thread-safe.
struct CacheInfo {
  size_t count, bytes, limit, hits, misses, arena_bytes;
};
std::shared_ptr<const Executable> compile_cached(std::string_view text);
CacheInfo cache_info();
void set_cache_limit(size_t programs);
void clear_cache();

}  // namespace jax_mps
