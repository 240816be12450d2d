// The rules that the simulator enforces: what is broken is printed, counted, and fails the command
// buffer or the process.
#pragma once
#include <string>

namespace sim {

// Reports a broken rule; the run goes on, but its command buffer fails and the process exits with
// an error.
[[gnu::format(printf, 2, 3)]] void violation(const char* rule, const char* format, ...);
// For what Apple's runtime aborts on too.
[[noreturn, gnu::format(printf, 2, 3)]] void die(const char* rule, const char* format, ...);

// Counts violations of one thread, so that a caller knows whether what it did broke a rule, and
// which.
struct Watch {
  Watch();
  ~Watch();
  std::string first;  // empty while no rule is broken
  Watch* outer;
};

// Faults to inject, by name=N of METAL_SIM_FAULT: true when this is the Nth occasion (N=0: every
// one).
bool fault(const char* name);

// Kernels whose source has one of the texts of METAL_SIM_WRONG, a list with | between, give wrong
// numbers at the beginning of each result; those of METAL_SIM_SLOW take 20 ms longer. Apple's own
// have the source "MPS".
struct Planted {
  Planted() = default;
  explicit Planted(const std::string& source);
  void spoil(char* result, size_t bytes) const;
  void delay() const;
  bool wrong = false, slow = false;
};
long environment(const char* name, long otherwise);

}  // namespace sim
