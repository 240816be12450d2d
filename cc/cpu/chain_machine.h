// Machine code for runs of a chain's steps: one loop that keeps every value in between in vector
// registers.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "loops/chain.h"

namespace jax_mps::cpu {

// Steps that become one: fn steps in order, and reductions that fold blocks elementwise into a
// tile.
struct ChainSegment {
  struct Fold {
    int16_t x, tile;
    Reduce reduce;
  };
  std::vector<ChainStep> body;
  std::vector<Fold> folds;
  std::vector<int16_t> writes;  // registers of the body that must be in memory afterwards
};

// Whether a fn step may be in a segment.
bool has_machine_code(const ChainStep& step);

// Pages of machine code, executable as long as this lives.
class MachineCode {
 public:
  ~MachineCode();
  MachineCode(const MachineCode&) = delete;
  // Nothing where this machine, its operating system or the code's need of registers is against it.
  static std::unique_ptr<MachineCode> make(std::span<const ChainSegment> segments);
  ChainCompiled function(size_t segment) const;

 private:
  MachineCode() = default;
  void* pages_ = nullptr;
  size_t bytes_ = 0;
  std::vector<size_t> start_;
};

}  // namespace jax_mps::cpu
