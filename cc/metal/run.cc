// One run of a program: one command buffer, whose dispatches wait for each other only where their
// memory says so.
#include <unistd.h>

#include <cstdlib>

#include "capture.h"
#include "executable.h"

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

// The command buffers of a run: one, unless a kernel of Apple's commits it half-way. However the
// run ends, the GPU has ended with its memory.
struct Commands {
  std::vector<MTL::CommandBuffer*> buffers;
  ~Commands() {
    for (MTL::CommandBuffer* each : buffers)
      if (each->status() >= MTL::CommandBufferStatusCommitted) each->waitUntilCompleted();
  }
};

}  // namespace

struct MetalExecutable::Bindings {
  const void* const* inputs;
  void* const* outputs;
  const Windows& windows;
  const Workspace& workspace;

  const void* host(Place place) const {
    return place.in == Place::In::input ? inputs[place.index] : outputs[place.index];
  }
  Bound bound(const Argument& a) const {
    auto [buffer, offset] = a.place.in == Place::In::heap ? workspace.buffer(a.place.index)
                                                          : windows.find(host(a.place));
    return {buffer, offset + a.offset, a.bytes};
  }
};

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
  for (size_t i = 0; i < program_.inputs.size(); i++)
    windows.add(inputs[i], program_.values[program_.inputs[i]].type.bytes(), true, false);
  for (size_t i = 0; i < program_.outputs.size(); i++)
    windows.add(outputs[i], program_.values[program_.outputs[i]].type.bytes(), false, true);
  if (!launches_.empty()) {
    windows.open();
    Capture capture(device_);
    auto descriptor = own(MTL::CommandBufferDescriptor::alloc()->init());
    descriptor->setErrorOptions(MTL::CommandBufferErrorOptionEncoderExecutionStatus);
    MTL::CommandBuffer* commands = device_.queue()->commandBuffer(descriptor.get());
    if (!commands) throw MetalError("Metal gives no command buffer");
    Commands all{{commands}};
    encode(all.buffers, {inputs, outputs, windows, *workspace});
    all.buffers.back()->commit();
    for (MTL::CommandBuffer* each : all.buffers) {
      each->waitUntilCompleted();
      device_.statistics.command_buffers++;
      if (each->status() != MTL::CommandBufferStatusCompleted) fail(each);
      seconds += each->GPUEndTime() - each->GPUStartTime();
    }
    device_.statistics.gpu_nanoseconds += static_cast<int64_t>(seconds * 1e9);
    windows.copy_out();
  }
  std::lock_guard lock(mutex_);
  if (workspaces_.empty()) workspaces_.push_back(std::move(workspace));
  return seconds;
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
  return std::make_unique<Workspace>(device_, heap_, foreign_);
}

void MetalExecutable::encode(std::vector<MTL::CommandBuffer*>& commands,
                             const Bindings& bindings) const {
  Hazards hazards;
  MTL::ComputeCommandEncoder* encoder = nullptr;
  auto end = [&] {
    if (encoder) encoder->endEncoding();
    encoder = nullptr;
  };
  for (const Launch& launch : launches_) {
    std::vector<Range> ranges;
    std::vector<Bound> bound;
    for (const Argument& a : launch.arguments) {
      bool heap = a.place.in == Place::In::heap;
      uintptr_t begin = a.offset + (heap ? heap_[a.place.index].offset
                                         : reinterpret_cast<uintptr_t>(bindings.host(a.place)));
      ranges.push_back({heap, begin, begin + a.bytes, a.writes});
      bound.push_back(bindings.bound(a));
    }
    bool waits = hazards.add(ranges);
    const Dispatch& dispatch = launch.dispatch;
    device_.statistics.dispatches++;
    if (dispatch.foreign) {  // encodes itself; encoders of one command buffer run in order
      end();
      MTL::CommandBuffer* next = dispatch.foreign(commands.back(), bound);
      if (next != commands.back()) commands.push_back(next);
      hazards = Hazards();
      continue;
    }
    if (!encoder) {
      encoder = commands.back()->computeCommandEncoder(MTL::DispatchTypeConcurrent);
      if (!encoder) throw MetalError("Metal gives no encoder");
    } else if (waits) {
      encoder->memoryBarrier(MTL::BarrierScopeBuffers);
      device_.statistics.barriers++;
    }
    encoder->insertDebugSignpost(launch.label.get());
    encoder->setComputePipelineState(launch.pipeline.get());
    if (!dispatch.parameter_bytes.empty())
      encoder->setBytes(dispatch.parameter_bytes.data(), dispatch.parameter_bytes.size(), 0);
    for (size_t i = 0; i < bound.size(); i++)
      encoder->setBuffer(bound[i].buffer, bound[i].offset, i + 1);
    auto size = [](Dispatch::Size s) { return MTL::Size(s[0], s[1], s[2]); };
    encoder->dispatchThreadgroups(size(dispatch.groups), size(dispatch.threads));
  }
  end();
}

// Names the kernel that Metal was at, or all of them where it does not say.
void MetalExecutable::fail(MTL::CommandBuffer* commands) const {
  NS::Error* error = commands->error();
  std::string kernel;
  NS::ErrorUserInfoKey key = MTL::CommandBufferEncoderInfoErrorKey;
  if (error && key && error->userInfo()) {
    auto* encoders = error->userInfo()->object<NS::Array>(key);
    for (NS::UInteger i = 0; encoders && i < encoders->count(); i++) {
      auto* info = encoders->object<MTL::CommandBufferEncoderInfo>(i);
      NS::Array* signposts = info->debugSignposts();
      bool at_fault = info->errorState() == MTL::CommandEncoderErrorStateFaulted ||
                      info->errorState() == MTL::CommandEncoderErrorStateAffected;
      if (at_fault && signposts && signposts->count() > 0)
        kernel = text_of(signposts->object<NS::String>(signposts->count() - 1));
    }
  }
  if (kernel.empty()) {
    constexpr size_t kShown = 8;
    size_t shown = std::min(launches_.size(), kShown);
    for (size_t i = 0; i < shown; i++)
      kernel += (i ? ", " : "") + text_of(launches_[i].label.get());
    if (shown < launches_.size())
      kernel += " and " + std::to_string(launches_.size() - shown) + " more";
  }
  throw MetalError(kernel + ": the GPU stopped: " + words_of(error));
}

}  // namespace jax_mps::metal
