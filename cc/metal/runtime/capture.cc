#include "capture.h"

#include <cstdio>
#include <cstdlib>

namespace jax_mps::metal {

Capture::Capture(Device& device) {
  constexpr int64_t kRun = 10;
  static const char* path = std::getenv("JAX_MPS_METAL_CAPTURE");
  if (!path || !*path || device.statistics.runs != kRun) return;
  MTL::CaptureManager* manager = MTL::CaptureManager::sharedCaptureManager();
  auto descriptor = own(MTL::CaptureDescriptor::alloc()->init());
  descriptor->setCaptureObject(device.queue());
  descriptor->setDestination(MTL::CaptureDestinationGPUTraceDocument);
  descriptor->setOutputURL(NS::URL::fileURLWithPath(ns_string(path)));
  NS::Error* error = nullptr;
  running_ = manager->startCapture(descriptor.get(), &error);
  if (!running_) std::fprintf(stderr, "jax_mps: no GPU trace: %s\n", words_of(error).c_str());
}

Capture::~Capture() {
  if (running_) MTL::CaptureManager::sharedCaptureManager()->stopCapture();
}

}  // namespace jax_mps::metal
