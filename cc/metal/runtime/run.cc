// One run of a program.
#include "capture.h"
#include "encoding.h"
#include "metal_executable.h"

namespace jax_mps::metal {
namespace {

// At most so many runs wait for the GPU at once; each holds a workspace.
class InFlight {
 public:
  explicit InFlight(Device& device) : device_(device) { device_.runs_in_flight.acquire(); }
  ~InFlight() { device_.runs_in_flight.release(); }

 private:
  Device& device_;
};

}  // namespace

void MetalExecutable::run(const void* const* inputs, void* const* outputs) const {
  run_timed(inputs, outputs);
}

double MetalExecutable::run_timed(const void* const* inputs, void* const* outputs) const {
  Pool pool;
  double seconds = 0;
  InFlight one(device_);
  device_.statistics.runs++;
  auto workspace = take_workspace();
  Windows windows(device_, device_.direct());
  auto bytes_of = [&](int value) { return program_.values[value].type.bytes(); };
  for (size_t i = 0; i < program_.inputs.size(); i++)
    if (size_t bytes = bytes_of(program_.inputs[i])) windows.add(inputs[i], bytes, true, false);
  for (size_t i = 0; i < program_.outputs.size(); i++)
    if (size_t bytes = bytes_of(program_.outputs[i])) windows.add(outputs[i], bytes, false, true);
  if (!block_.items.empty()) {
    windows.open();
    Capture capture(device_);
    auto located = [&](const void* data, int value) -> Located {
      if (bytes_of(value) == 0) return {};
      auto [buffer, offset] = windows.find(data);
      return {buffer, offset, false, reinterpret_cast<uintptr_t>(data)};
    };
    Frame frame;
    for (size_t i = 0; i < program_.inputs.size(); i++)
      frame.inputs.push_back(located(inputs[i], program_.inputs[i]));
    for (size_t i = 0; i < program_.outputs.size(); i++)
      frame.outputs.push_back(located(outputs[i], program_.outputs[i]));
    seconds = encode(*workspace, frame);
    windows.copy_out();
  }
  std::lock_guard lock(mutex_);
  if (workspaces_.empty()) workspaces_.push_back(std::move(workspace));
  return seconds;
}

bool MetalExecutable::overlap(const Frame& frame) const {
  auto end = [&](const Located& at, int value) {
    return at.begin + program_.values[value].type.bytes();
  };
  for (size_t i = 0; i < frame.inputs.size(); i++)
    for (size_t o = 0; o < frame.outputs.size(); o++) {
      const Located &in = frame.inputs[i], &out = frame.outputs[o];
      if (in.begin < end(out, program_.outputs[o]) && out.begin < end(in, program_.inputs[i]))
        return true;
    }
  return false;
}

double MetalExecutable::encode(const Workspace& workspace, const Frame& frame) const {
  constexpr int kVictims = 3;  // of other programs, in one run
  for (int victims = 0;;) {
    const double most = device_.budget.seconds();
    try {
      Encoding encoding(device_, workspace, heap_, most);
      encoding.add(block_, frame);
      encoding.run();
      return encoding.seconds();
    } catch (const Stopped& stopped) {
      using Why = Stopped::Why;
      if (stopped.why == Why::other || (stopped.why == Why::victim && ++victims > kVictims)) throw;
      if (stopped.why == Why::time_out && !device_.budget.lower(most))
        throw MetalError(std::string(stopped.what()) +
                         ". Command buffers are as small as they get: use a smaller batch.");
      if (overlap(frame))
        throw MetalError(std::string(stopped.what()) +
                         ". Donated arrays are lost: begin again from a copy of them. Command "
                         "buffers are smaller from now on.");
    }
  }
}

std::unique_ptr<Workspace> MetalExecutable::take_workspace() const {
  {
    std::lock_guard lock(mutex_);
    if (!workspaces_.empty()) {
      auto workspace = std::move(workspaces_.back());
      workspaces_.pop_back();
      return workspace;
    }
  }
  return std::make_unique<Workspace>(device_, heap_, apple_);
}

}  // namespace jax_mps::metal
