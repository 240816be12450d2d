// The iteration space of a chain, cut into blocks: which axes merge, how large a block is, and in
// what order blocks run.
#pragma once

#include "code.h"

namespace jax_mps {

struct ChainSpace {
  std::vector<int64_t> shape;                 // merged axes
  std::vector<std::vector<int64_t>> strides;  // [operand][axis]
  std::vector<std::vector<bool>> reduced;     // [output][axis], all false for a store
  std::vector<std::vector<int64_t>> results;  // [output][axis]: strides in the result
  std::vector<int> axis_of;                   // of the given axes; -1 for one of size 1

  // A block covers min(chunk, rest) steps of `axis` and the whole of all later axes.
  int axis;
  int64_t chunk, inner;
  std::vector<int> order;      // the enumerated axes, those that all reductions keep first
  std::vector<int64_t> count;  // their numbers of blocks
  int kept;                    // how many axes of the order all reductions keep
  int64_t kept_blocks, reduced_blocks;

  ChainSpace(const ChainCode& code, int64_t block);

  int64_t block() const { return chunk * inner; }
  int64_t elements() const;
  // The same in every place of a block, the same in every block, consecutive in memory.
  bool constant_inside(size_t operand) const;
  bool constant_outside(size_t operand) const;
  bool contiguous(size_t operand) const;
  // Whether any axis with several blocks of reduced_blocks is (not) reduced by an output.
  bool reduces_blocks(size_t output, bool reduced) const;

 private:
  void merge(const ChainCode& code);
  void cut(int64_t block);
  void enumerate(const ChainCode& code);
};

}  // namespace jax_mps
