// Trials of a node's recipes on random numbers, and what they should have given.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/program.h"

namespace jax_mps::metal {

// The numbers of one array, which begin at a cache line as XLA's do.
class Array {
 public:
  explicit Array(const TensorType& type) : lines_((type.bytes() + 63) / 64) {}
  uint32_t* words() { return lines_.empty() ? nullptr : lines_[0].words; }
  const uint32_t* words() const { return lines_.empty() ? nullptr : lines_[0].words; }

 private:
  struct alignas(64) Line {
    uint32_t words[16] = {};
  };
  std::vector<Line> lines_;
};
using Arrays = std::vector<Array>;

// Numbers below 1 in size, the same in every process; integers are such as the op takes.
enum class Signs { both, positive };
Arrays operands_for(const Node& node, Signs signs);

// The CPU device's results; none where it has no kernel for the node.
std::optional<Arrays> expected(const Node& node, const Arrays& operands);

// What a recipe gave, in the least time of several runs; or why it does not run.
struct Trial {
  Arrays results;
  double seconds = 0;
  std::string error;
};
Trial run_trial(const Node& node, size_t candidate, const Arrays& operands, int runs);

bool agree(const Node& node, const Arrays& got, const Arrays& wanted);
// Whether most numbers say something: square roots of negative ones do not.
bool mostly_finite(const Node& node, const Arrays& results);

}  // namespace jax_mps::metal
