#include "device.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "information.h"
#include "memory.h"

namespace jax_mps::metal {
namespace {

// As a person would choose: the strongest GPU, then one in a box, then the processor's own.
int rank(const MTL::Device* device) {
  if (device->isRemovable()) return 1;
  return device->isLowPower() || device->hasUnifiedMemory() ? 0 : 2;
}

Owned<MTL::Device> choose() {
  Owned<NS::Array> all = own(MTL::CopyAllDevices());
  MTL::Device* best = nullptr;
  for (NS::UInteger i = 0; all && i < all->count(); i++) {
    auto* device = all->object<MTL::Device>(i);
    if (!best || rank(device) > rank(best)) best = device;
  }
  if (best) return NS::RetainPtr(best);
  return own(MTL::CreateSystemDefaultDevice());
}

constexpr size_t kCommandBuffers = 64;

}  // namespace

Device* Device::get() {
  static Device* device = []() -> Device* {  // outlives XLA's threads
    Pool pool;
    Owned<MTL::Device> metal = choose();
    if (!metal) return nullptr;
    Owned<MTL::CommandQueue> queue = own(metal->newCommandQueue(kCommandBuffers));
    if (!queue) return nullptr;
    return new Device(std::move(metal), std::move(queue));
  }();
  return device;
}

Device::Device(Owned<MTL::Device> device, Owned<MTL::CommandQueue> queue)
    : device_(std::move(device)),
      queue_(std::move(queue)),
      name_(text_of(device_->name())),
      page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
  open_archive();
}

bool Device::direct() {
  std::call_once(direct_once_, [&] {
    const char* copy = std::getenv("JAX_MPS_METAL_COPY");
    if ((copy && *copy == '1') || !device_->hasUnifiedMemory()) return;
    try {
      direct_ = test_direct();
    } catch (const std::exception&) {  // copies serve as well
    }
  });
  return direct_;
}

// Adds 1 to numbers in the middle of ordinary memory, through a buffer over the pages around them.
bool Device::test_direct() {
  Pool pool;
  constexpr int kCount = 3000;
  std::vector<int> numbers(kCount + 5 * page_ / sizeof(int));
  int* first = numbers.data() + page_ / sizeof(int) + 16;
  for (size_t i = 0; i < numbers.size(); i++) numbers[i] = static_cast<int>(i);
  Dispatch dispatch("copy", "add_one", "typedef int T;\n");
  dispatch.parameters(kCount).over_elements(kCount);
  Owned<MTL::ComputePipelineState> pipeline = this->pipeline(dispatch);
  Windows windows(*this, /*direct=*/true);
  windows.add(first, kCount * sizeof(int), /*reads=*/true, /*writes=*/true);
  windows.open();
  if (windows.staged()) return false;
  auto [buffer, offset] = windows.find(first);
  MTL::CommandBuffer* commands = queue_->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = commands ? commands->computeCommandEncoder() : nullptr;
  if (!encoder) return false;
  encoder->setComputePipelineState(pipeline.get());
  encoder->setBytes(dispatch.parameter_bytes.data(), dispatch.parameter_bytes.size(), 0);
  encoder->setBuffer(buffer, offset, 1);
  encoder->dispatchThreadgroups(MTL::Size(dispatch.groups[0], 1, 1),
                                MTL::Size(dispatch.threads[0], 1, 1));
  encoder->endEncoding();
  commands->commit();
  commands->waitUntilCompleted();
  if (commands->status() != MTL::CommandBufferStatusCompleted) return false;
  for (size_t i = 0; i < numbers.size(); i++) {
    bool inside = &numbers[i] >= first && &numbers[i] < first + kCount;
    if (numbers[i] != static_cast<int>(i) + inside) return false;
  }
  return true;
}

std::string cache_folder() {
  if (const char* folder = std::getenv("JAX_MPS_CACHE_DIR")) return folder;
  const char* home = std::getenv("HOME");
  if (!home) return "";
#ifdef __APPLE__
  return std::string(home) + "/Library/Caches/jax_mps";
#else
  return std::string(home) + "/.cache/jax_mps";
#endif
}

std::map<std::string, std::string> information() {
  Device* device = Device::get();
  if (!device) return {};
  const Statistics& s = device->statistics;
  auto number = [](int64_t n) { return std::to_string(n); };
  return {{"name", device->name()},
          {"unified_memory", device->metal()->hasUnifiedMemory() ? "yes" : "no"},
          {"max_buffer_bytes", number(device->metal()->maxBufferLength())},
          {"page_bytes", number(device->page())},
          {"arrays", device->direct() ? "used in place" : "copied"},
          {"runs", number(s.runs)},
          {"command_buffers", number(s.command_buffers)},
          {"buffer_milliseconds", number(std::lround(device->budget.seconds() * 1e3))},
          {"dispatches", number(s.dispatches)},
          {"barriers", number(s.barriers)},
          {"direct_bytes", number(s.direct_bytes)},
          {"staged_bytes", number(s.staged_bytes)},
          {"staging_pool_bytes", number(Windows::pooled_bytes())},
          {"gpu_nanoseconds", number(s.gpu_nanoseconds)}};
}

}  // namespace jax_mps::metal
