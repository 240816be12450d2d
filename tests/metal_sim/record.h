// METAL_SIM_RECORD=FOLDER: every dispatch is written down, so that another machine can repeat it
// (see cuda/). METAL_SIM_RECORD_ONLY=1: it is written without what is in memory, and is not run.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "fibers.h"
#include "library.h"

namespace sim {

// What a kernel's argument is bound to.
struct Bound {
  const char* name;
  int slot;
  const char* memory;
  size_t bytes;
  bool writable, constant;  // constant: bytes of setBytes
};

class Record {
 public:
  static bool wanted();
  static bool only();
  // Before a dispatch runs.
  Record(const Pipeline& pipeline, const Grid& grid, const std::vector<Bound>& bound);
  // After it ran.
  void finish(const std::vector<Bound>& bound);

 private:
  std::string text_;
};

}  // namespace sim
