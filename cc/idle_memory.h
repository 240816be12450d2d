// Memory that waits in the process for its next use, and goes back to the system when the process
// is idle.
#pragma once

namespace jax_mps {

// From now on, after so many seconds without a run, working memory and what the C library has kept
// of freed memory go back to the system.
void give_back_when_idle(double seconds);

// The same at once.
void give_back_memory();

// While it lives, a program runs.
class Busy {
 public:
  Busy();
  ~Busy();
};

}  // namespace jax_mps
