// The recurrent engine: what the forward and the backward pass over a sequence share. What the
// nodes are stands in ir/recurrent.h.
//
// Steps go in chunks of some hundred rows of [time, batch]: a chunk's share of the inputs, and in
// the backward pass its share of the weights' gradients, are one product each, on memory that is
// still in the cache; so the scratch memory does not grow with the number of steps.
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/matmul.h"
#include "cpu/ops/neuron.h"
#include "ir/recurrent.h"

#ifdef JAX_MPS_ONEDNN

#include "cpu/loops/recurrent_steps.h"

namespace jax_mps::cpu::recurrent {

using Cell = RecurrentCell;

// Columns [w, w + width) of w and b, which are columns [gates, gates + width) of the gates.
struct Segment {
  int64_t w, gates, width;
};

// What a node says, and how it is run.
struct Plan : RecurrentNode {
  std::vector<Segment> segments;
  bool general = false;  // not sigmoid gates and tanh alone: on general.h
  int parts;             // of the rows, each for a thread alone
  bool whole = false;    // the forward steps' products take x and b beside the state

  explicit Plan(RecurrentNode node) : RecurrentNode(std::move(node)) {}

  RecurrentShape shape() const {
    return {cell, batch, hidden, columns, width, dgates_stride(), parts, whole ? inputs : 0};
  }
  // Rows a multiple of a kilobyte apart fall into few sets of a cache: products over many
  // rows take up to twice as long.
  int64_t dgates_stride() const { return width % 256 ? width : width + 16; }
  int64_t second() const { return columns - first; }
};

// The plan of a node, or the reason why not.
struct PlanOrReason {
  std::optional<Plan> plan;
  std::string reason;
};
PlanOrReason plan_of(const Node& node);

// The cell's operands in Buffers::in.
struct Operands {
  const float *x, *h0, *c0, *w, *r, *b, *extra;
  const int32_t* lengths;  // null if every row has all steps
};
Operands operands_of(const Plan& plan, const Buffers& buffers);

// What all chunks of steps share.
RecurrentSteps steps_of(const Plan& plan, const Operands& operands, float* work);

// Runs of steps that are worked on together, in the order of work: the first may be shorter.
class Chunks {
 public:
  explicit Chunks(const Plan& plan);
  int64_t count() const { return count_; }
  int64_t steps(bool is_first) const { return is_first ? first_ : size_; }
  int64_t largest() const { return std::max(first_, size_); }
  int64_t begin(int64_t chunk) const { return chunk == 0 ? 0 : first_ + (chunk - 1) * size_; }
  int kinds() const { return count_ > 1 ? 2 : 1; }  // first, others

 private:
  int64_t count_, size_, first_;
};

// Offsets in scratch memory, 64-byte aligned.
class Layout {
 public:
  size_t bytes(size_t size) { return std::exchange(end_, end_ + (size + 63) / 64 * 64); }
  size_t floats(int64_t count) { return bytes(count * sizeof(float)); }
  size_t end() const { return end_; }

 private:
  size_t end_ = 0;
};

}  // namespace jax_mps::cpu::recurrent
#endif
