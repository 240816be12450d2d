// What came of the device's kernels so far, for `doctor`.
#pragma once

#include <string>
#include <vector>

namespace jax_mps::metal {

struct Verdict {
  std::string node, implementation;
  std::string
      outcome;     // "won", "won before" by what is kept on disk, "agrees", or why it is left out
  double seconds;  // of the GPU
};

void note(Verdict verdict);
std::vector<Verdict> verdicts();

}  // namespace jax_mps::metal
