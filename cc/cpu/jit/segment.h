// Machine code for runs of a chain's steps: one loop that keeps every value in between in vector
// registers.
#pragma once

#include <map>
#include <vector>

#include "assembler.h"
#include "cpu/loops/chain.h"

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
  std::vector<int16_t> writes;        // registers of the body that must be in memory afterwards
  std::map<int, uint32_t> constants;  // registers that hold one
};

// Appends a function of the type ChainCompiled.
void write_machine_code(const ChainSegment& segment, Assembler& out);

}  // namespace jax_mps::cpu
