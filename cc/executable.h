// A program compiled for its device, and the cache of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ir/program.h"

namespace jax_mps {

class Executable {
 public:
  virtual ~Executable() = default;

  // Safe to call from many threads at once.
  virtual void run(const void* const* inputs, void* const* outputs) const = 0;
  virtual std::vector<std::string> implementations() const = 0;  // one name a step

  const Program& program() const { return program_; }
  size_t bytes() const { return bytes_; }  // an estimate of what it keeps

 protected:
  explicit Executable(Program program) : program_(std::move(program)) {}

  Program program_;
  size_t bytes_ = 0;
};

// Compiles a checked program for its device, from a text of so many bytes. Throws ProgramError with
// the reason if the device has no kernel for a step.
std::shared_ptr<const Executable> compile(Program program, size_t text_bytes);

// Outputs that no step writes, or that are returned twice: (value, output). They are copied last.
std::vector<std::pair<int, int>> copied_outputs(const Program& program);

// The devices of this build and machine, best first.
std::vector<std::string> devices();

// Compiled programs by text, least recently used out first. All functions are thread-safe.
// compile_cached throws ProgramError, with the reason if the device has no kernel for a step.
struct CacheInfo {
  size_t count, bytes, limit, hits, misses, arena_bytes;
};
std::shared_ptr<const Executable> compile_cached(std::string_view text);
CacheInfo cache_info();
void set_cache_limit(size_t programs);
void clear_cache();

}  // namespace jax_mps
