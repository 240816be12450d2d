// MTLDevice. METAL_SIM_DEVICES lists kinds of GPU (integrated, discrete, external), the default one
// first.
#include "device.h"

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "command.h"
#include "event.h"
#include "fibers.h"
#include "library.h"
#include "rule.h"

namespace sim {
namespace {

std::vector<Device*>& devices() {
  static auto& all = *new std::vector<Device*>([] {
    std::vector<Device*> list;
    const char* kinds = getenv("METAL_SIM_DEVICES");
    std::istringstream text(kinds ? kinds : "integrated");
    for (std::string kind; std::getline(text, kind, ',');) {
      auto* device = make<Device>();
      device->name = "Simulated " + kind + " GPU";
      device->low_power = kind == "integrated" && kinds;
      device->removable = kind == "external";
      device->registry = 100 + list.size();
      list.push_back(device);
    }
    return list;
  }());
  return all;
}

struct Size {
  unsigned long width, height, depth;
};
struct SizeAndAlign {
  unsigned long size, align;
};

struct DeviceMessages : Device {
  Object* get_name() { return new_string(name); }
  bool get_low_power() { return low_power; }
  bool get_removable() { return removable; }
  bool get_headless() { return headless; }
  unsigned long get_registry() { return registry; }
  bool unified() { return !removable; }
  unsigned long location() { return removable ? 2 : 0; }
  unsigned long working_set() { return 8ul << 30; }
  unsigned long max_buffer() { return 8ul << 30; }
  unsigned long allocated() { return 0; }
  Size max_threads() { return {kMaxThreads, kMaxThreads, kMaxThreads}; }
  unsigned long max_threadgroup() { return kThreadgroupBytes; }
  // Apple1 to Apple7, Common1 to Common3, Mac2, Metal3.
  bool family(long f) {
    return (f >= 1001 && f <= 1007) || (f >= 3001 && f <= 3003) || f == 2002 || f == 5001;
  }
  Buffer* buffer(unsigned long length, unsigned long options) {
    return new_buffer(this, length, options);
  }
  Buffer* buffer_with(const void* bytes, unsigned long length, unsigned long options) {
    Buffer* b = new_buffer(this, length, options);
    if (b) memcpy(b->memory, bytes, length);
    return b;
  }
  Buffer* buffer_no_copy(void* pointer, unsigned long length, unsigned long options, void* block) {
    return new_buffer_no_copy(this, pointer, length, options, block);
  }
  Heap* heap(HeapDescriptor* d) { return new_heap(this, d); }
  SizeAndAlign heap_size(unsigned long length, unsigned long) {
    return {(length + kHeapAlignment - 1) / kHeapAlignment * kHeapAlignment, kHeapAlignment};
  }
  Queue* queue() { return new_queue(this, 64); }
  Queue* queue_of(unsigned long most) { return new_queue(this, most); }
  Library* library(String* source, Object* options, Error** error) {
    return new_library(this, source, options, error);
  }
  Pipeline* pipeline(Function* f, Error** error) { return new_pipeline(this, f, error); }
  Pipeline* pipeline_reflected(Function* f, unsigned long, void** reflection, Error** error) {
    if (reflection) *reflection = nullptr;
    return new_pipeline(this, f, error);
  }
  Pipeline* pipeline_described(PipelineDescriptor* d, unsigned long options, void* reflection,
                               Error** error) {
    return new_pipeline_described(this, d, options, reflection, error);
  }
  Archive* archive(Object* d, Error** error) { return new_archive(this, d, error); }
  SharedEvent* event() {
    auto* e = make<SharedEvent>();
    e->owner = this;
    return e;
  }
  Fence* fence() {
    auto* f = make<Fence>();
    f->owner = this;
    return f;
  }
};
using D = DeviceMessages;
const auto device_class =
    Define<Device>("_Labelled")
        .on<&D::get_name>("name")
        .on<&D::get_low_power>("isLowPower")
        .on<&D::get_removable>("isRemovable")
        .on<&D::get_headless>("isHeadless")
        .on<&D::get_registry>("registryID")
        .on<&D::unified>("hasUnifiedMemory")
        .on<&D::location>("location")
        .on<&D::working_set>("recommendedMaxWorkingSetSize")
        .on<&D::max_buffer>("maxBufferLength")
        .on<&D::allocated>("currentAllocatedSize")
        .on<&D::max_threads>("maxThreadsPerThreadgroup")
        .on<&D::max_threadgroup>("maxThreadgroupMemoryLength")
        .on<&D::family>("supportsFamily:")
        .on<&D::buffer>("newBufferWithLength:options:")
        .on<&D::buffer_with>("newBufferWithBytes:length:options:")
        .on<&D::buffer_no_copy>("newBufferWithBytesNoCopy:length:options:deallocator:")
        .on<&D::heap>("newHeapWithDescriptor:")
        .on<&D::heap_size>("heapBufferSizeAndAlignWithLength:options:")
        .on<&D::queue>("newCommandQueue")
        .on<&D::queue_of>("newCommandQueueWithMaxCommandBufferCount:")
        .on<&D::library>("newLibraryWithSource:options:error:")
        .on<&D::pipeline>("newComputePipelineStateWithFunction:error:")
        .on<&D::pipeline_reflected>("newComputePipelineStateWithFunction:options:reflection:error:")
        .on<&D::pipeline_described>(
            "newComputePipelineStateWithDescriptor:options:reflection:error:")
        .on<&D::archive>("newBinaryArchiveWithDescriptor:error:")
        .on<&D::event>("newSharedEvent")
        .on<&D::event>("newEvent")
        .on<&D::fence>("newFence");

}  // namespace
}  // namespace sim

extern "C" {
sim::Device* MTLCreateSystemDefaultDevice() {
  if (sim::fault("device") || sim::devices().empty()) return nullptr;
  return sim::retained(sim::devices()[0]);
}
sim::Array* MTLCopyAllDevices() {
  auto* array = sim::make<sim::Array>();
  for (auto* device : sim::devices()) array->add(device);
  return array;
}
// Nothing is ever plugged in or out here.
sim::Array* MTLCopyAllDevicesWithObserver(sim::Object** observer, void*) {
  *observer = sim::make<sim::String>("observer");
  return MTLCopyAllDevices();
}
void MTLRemoveDeviceObserver(sim::Object*) {}
}
