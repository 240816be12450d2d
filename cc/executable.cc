// Compiles a program for the device and runs it in an arena of the pool.
#include "executable.h"

#include "arena.h"

namespace jax_mps {
namespace {

size_t step_count(const Program& program) {
  size_t count = program.steps.size();
  for (const Step& step : program.steps)
    if (step.node.body) count += step_count(*step.node.body);
  return count;
}

}  // namespace

// The text is kept, parsed and named by the cache; a primitive's descriptor and code are of the
// order of a kilobyte.
Executable::Executable(std::string_view text)
    : program_(parse_program(text)),
      steps_(program_),
      bytes_(sizeof(*this) + text.size() * 4 + step_count(program_) * (sizeof(Step) + 1024)) {}

void Executable::run(const void* const* inputs, void* const* outputs) const {
  Arena arena(steps_.memory_bytes());
  steps_.run(inputs, outputs, arena.data());
}

}  // namespace jax_mps
