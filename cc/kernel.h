// What a device offers for a node: an ordered list of implementations, fastest first, each of which
// gives a kernel or the reason why not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/program.h"

namespace jax_mps {

// The memory of one run of a kernel. Operands and results do not overlap, except that a result may
// be the very memory of an operand where the op's `aliases` in Python pair the two: kernels of such
// an op read each number of the operand before they write its place.
struct Buffers {
  const void* const* in;
  void* const* out;
  std::byte* scratch;  // Kernel::scratch_bytes() of it, 64-byte aligned, contents undefined

  template <class T>
  const T* input(int i) const {
    return static_cast<const T*>(in[i]);
  }
  template <class T>
  T* output(int i) const {
    return static_cast<T*>(out[i]);
  }
};

// One compiled node. Immutable after construction: many threads may run it at once.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual std::string implementation() const = 0;               // the name that `explain` shows
  virtual std::vector<std::string> body() const { return {}; }  // the same of each step of a loop
  virtual size_t scratch_bytes() const { return 0; }
  virtual void run(const Buffers& buffers) const = 0;
};

// A kernel, or in its place the reason why there is none.
struct Offer {
  std::unique_ptr<Kernel> kernel;
  std::string reason;

  Offer(std::unique_ptr<Kernel> kernel) : kernel(std::move(kernel)) {}
  static Offer none(std::string reason) {
    Offer offer(nullptr);
    offer.reason = std::move(reason);
    return offer;
  }
};

using Implementation = Offer (*)(const Node& node);

}  // namespace jax_mps
