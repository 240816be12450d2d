// What the run of a chain consists of, collected by chain.cc; then its registers get their memory.
#pragma once

#include "align.h"
#include "chain/space.h"
#include "cpu/jit/machine_code.h"
#include "cpu/jit/segment.h"

namespace jax_mps::cpu {

constexpr int64_t kWord = sizeof(uint32_t);
constexpr int64_t kShortBlock = 256;  // elements

// A value's register: `vector` holds a block rather than one element, `invariant` is computed once
// a run rather than once a block.
struct Trait {
  bool vector = false, invariant = true;
};

struct ChainParts {
  ChainParts(const ChainCode& code, int64_t block) : code_(code), space_(code, block) {}
  ChainParts(const ChainParts&) = delete;

  // The place of a merged axis among the enumerated ones; -1 for one inside of blocks.
  int position(int axis) const;
  // Puts runs of steps that may be one loop of machine code into segments.
  void segment();
  // Writes their code; false where the system does not let it run.
  bool compile();
  // Gives each local register its memory, reused once its value is not read any more. False if
  // that is more than a thread has, or what one block touches is more than `bytes`.
  bool place(int64_t bytes);
  void finish();

  // The registers that a step reads and writes.
  std::vector<int16_t> reads(const ChainStep& step) const;
  std::vector<int16_t> writes(const ChainStep& step) const;

  ChainCode code_;
  ChainSpace space_;
  std::vector<int> used_;
  std::vector<Trait> traits_, register_traits_;
  std::vector<int> register_of_, splat_of_, reduction_of_;
  int64_t parts_ = 1, scratch_ = 0;

  // What chain_ points to.
  Chain chain_{};
  std::vector<ChainRegister> registers_;
  std::vector<uint32_t> constants_;
  std::vector<ChainLoad> loads_;
  std::vector<ChainRamp> ramps_;
  std::vector<ChainCoordinate> coordinates_;
  std::vector<ChainStep> invariant_, steps_;
  std::vector<ChainSegment> segments_;
  std::unique_ptr<MachineCode> machine_code_;
  std::vector<size_t> code_start_;  // of each segment
  std::vector<int> in_place_, last_read_;
  std::vector<ChainStore> stores_;
  std::vector<ChainReduction> reductions_;
  std::vector<int64_t> start_, step_;
};

}  // namespace jax_mps::cpu
