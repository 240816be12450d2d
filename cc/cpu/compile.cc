// Compiles a program, with a kernel for every step, and runs it in an arena of the pool.
#include "compile.h"

#include "arena.h"
#include "steps.h"

namespace jax_mps::cpu {
namespace {

size_t step_count(const Program& program) {
  size_t count = program.steps.size();
  for (const Step& step : program.steps)
    if (step.node.body) count += step_count(*step.node.body);
  return count;
}

class CpuExecutable : public Executable {
 public:
  // The text is kept, parsed and named by the cache; a primitive's descriptor and code are of the
  // order of a kilobyte.
  CpuExecutable(Program program, size_t text_bytes)
      : Executable(std::move(program)), steps_(program_) {
    bytes_ = sizeof(*this) + text_bytes * 4 + step_count(program_) * (sizeof(Step) + 1024);
  }

  void run(const void* const* inputs, void* const* outputs) const override {
    Arena arena(steps_.memory_bytes());
    steps_.run(inputs, outputs, arena.data());
  }
  // One name a step, a loop's own before its body's.
  std::vector<std::string> implementations() const override { return steps_.implementations(); }

 private:
  Steps steps_;
};

}  // namespace

std::shared_ptr<const Executable> compile(Program program, size_t text_bytes) {
  return std::make_shared<CpuExecutable>(std::move(program), text_bytes);
}

}  // namespace jax_mps::cpu
