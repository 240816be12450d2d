// Working memory of one run, taken from a process-wide pool: pages once touched are touched again,
// which spares the page faults that cost as much as the arithmetic.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace jax_mps {

// Memory that the system does not give: how much, and what to do.
struct OutOfMemory : std::runtime_error {
  OutOfMemory(const std::string& what, size_t bytes);
};

class Arena {
 public:
  // 64-byte aligned, contents undefined. Throws OutOfMemory.
  explicit Arena(size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  std::byte* data() const { return data_; }

  static size_t pooled_bytes();  // kept for reuse, none of it in use
  static void release_pool();

 private:
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace jax_mps
