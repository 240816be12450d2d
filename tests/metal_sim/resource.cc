// Buffers and heaps: memory is poisoned when new and guarded by a canary behind its end.
#include "resource.h"

#include <Block.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "rule.h"
#include "sanitizers.h"

namespace sim {
namespace {

std::atomic<long> live_bytes{0};
constexpr size_t kMaxBuffer = size_t{8} << 30;

}  // namespace

// A canary stands behind the bytes; under AddressSanitizer they are poisoned instead.
char* allocate(size_t bytes) {
  void* memory = nullptr;
  const size_t page = static_cast<size_t>(getpagesize());
  if (posix_memalign(&memory, page, bytes + kCanary)) return nullptr;
  memset(memory, 0xff, bytes);
  memset(static_cast<char*>(memory) + bytes, 0xa5, kCanary);
  if (__asan_poison_memory_region)
    __asan_poison_memory_region(static_cast<char*>(memory) + bytes, kCanary);
  live_bytes += static_cast<long>(bytes);
  return static_cast<char*>(memory);
}
void deallocate(char* memory, size_t bytes) {
  if (!memory) return;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(memory, bytes + kCanary);
  live_bytes -= static_cast<long>(bytes);
  free(memory);
}

Buffer::~Buffer() {
  if (!intact()) violation("out of bounds", "%s was written past its end", describe().c_str());
  if (parent) {
    std::lock_guard hold(parent->lock);
    if (parent->type == 0) parent->taken.erase(offset);
  } else if (!no_copy) {
    deallocate(memory, size);
  }
  if (deallocator) {
    struct Block {
      void* isa;
      int flags, reserved;
      void (*invoke)(void*, void*, unsigned long);
    };
    static_cast<Block*>(deallocator)->invoke(deallocator, memory, size);
    _Block_release(deallocator);
  }
}
bool Buffer::tracked() const {
  if (parent) return parent->tracking == kTracked;
  return (options >> 8 & 3) != kUntracked;
}
void* Buffer::contents() {
  return storage() == kPrivate || storage() == kMemoryless ? nullptr : memory;
}
bool Buffer::intact() const {
  if (parent || no_copy || __asan_poison_memory_region) return true;
  for (size_t i = 0; i < kCanary; i++)
    if (static_cast<unsigned char>(memory[size + i]) != 0xa5) return false;
  return true;
}
std::string Buffer::describe() const {
  return "buffer '" + name + "' of " + std::to_string(size) + " bytes" +
         (parent ? " at " + std::to_string(offset) + " in its heap" : "");
}

Buffer* new_buffer(Device* device, unsigned long length, unsigned long options) {
  if (length == 0) {
    violation("buffer length", "newBufferWithLength: must not be zero");
    return nullptr;
  }
  if (length > kMaxBuffer || fault("allocation")) return nullptr;
  char* memory = allocate(length);
  if (!memory) return nullptr;
  auto* buffer = make<Buffer>();
  buffer->memory = memory;
  buffer->size = length;
  buffer->options = options;
  buffer->owner = device;
  return buffer;
}

Buffer* new_buffer_no_copy(Device* device, void* pointer, unsigned long length,
                           unsigned long options, void* deallocator) {
  const size_t page = static_cast<size_t>(getpagesize());
  if (!pointer || reinterpret_cast<size_t>(pointer) % page || length % page || !length) {
    violation(
        "no-copy alignment",
        "newBufferWithBytesNoCopy: pointer %p and length %lu must be multiples of the page's %zu",
        pointer, length, page);
    return nullptr;
  }
  if ((options >> 4 & 15) != kShared) {
    violation("no-copy storage", "newBufferWithBytesNoCopy: storage mode must be shared");
    return nullptr;
  }
  std::string resident(length / page, 0);
  if (mincore(pointer, length, reinterpret_cast<unsigned char*>(resident.data())) != 0) {
    violation("no-copy range", "newBufferWithBytesNoCopy: %lu bytes at %p are not all mapped",
              length, pointer);
    return nullptr;
  }
  if (fault("no_copy")) return nullptr;
  auto* buffer = make<Buffer>();
  buffer->memory = static_cast<char*>(pointer);
  buffer->size = length;
  buffer->options = options;
  buffer->no_copy = true;
  buffer->owner = device;
  buffer->deallocator = deallocator ? _Block_copy(deallocator) : nullptr;
  return buffer;
}

Heap::~Heap() { deallocate(memory, bytes); }

Heap* new_heap(Device* device, HeapDescriptor* d) {
  if (!d->size) {
    violation("heap size", "newHeapWithDescriptor: size must not be zero");
    return nullptr;
  }
  if (fault("heap")) return nullptr;
  char* memory = allocate(d->size);
  if (!memory) return nullptr;
  auto* heap = make<Heap>();
  heap->memory = memory;
  heap->bytes = d->size;
  heap->storage = d->storage;
  heap->type = d->type;
  heap->tracking = d->tracking == kTracked ? kTracked : kUntracked;
  heap->owner = device;
  return heap;
}

Buffer* Heap::new_buffer_at(unsigned long length, unsigned long options, unsigned long offset) {
  if (type != 1) {
    violation("heap type", "newBufferWithLength:options:offset: needs a placement heap");
    return nullptr;
  }
  if (offset % kHeapAlignment) {
    violation("heap alignment",
              "offset %lu is no multiple of the %zu that heapBufferSizeAndAlign gives", offset,
              kHeapAlignment);
    return nullptr;
  }
  if ((options >> 4 & 15) != storage) {
    violation("heap storage", "a buffer of storage mode %lu in a heap of storage mode %lu",
              options >> 4 & 15, storage);
    return nullptr;
  }
  if (offset + length > bytes) {
    violation("heap range", "bytes %lu to %lu of a heap of %lu", offset, offset + length, bytes);
    return nullptr;
  }
  if (!length || fault("allocation")) return nullptr;
  auto* buffer = make<Buffer>();
  buffer->memory = memory + offset;
  buffer->size = length;
  buffer->options = options;
  buffer->offset = offset;
  buffer->parent = Ref<Heap>(this);
  buffer->owner = owner;
  return buffer;
}
Buffer* Heap::new_buffer(unsigned long length, unsigned long options) {
  if (type != 0) {
    violation("heap type", "newBufferWithLength:options: needs an automatic heap");
    return nullptr;
  }
  if ((options >> 4 & 15) != storage || !length || fault("allocation")) return nullptr;
  std::lock_guard hold(lock);
  size_t at = 0;
  for (auto& [begin, end] : taken) {
    if (at + length <= begin) break;
    at = (end + kHeapAlignment - 1) / kHeapAlignment * kHeapAlignment;
  }
  if (at + length > bytes) return nullptr;
  taken[at] = at + length;
  auto* buffer = make<Buffer>();
  buffer->memory = memory + at;
  buffer->size = length;
  buffer->options = options;
  buffer->offset = at;
  buffer->parent = Ref<Heap>(this);
  buffer->owner = owner;
  return buffer;
}
unsigned long Heap::used() {
  std::lock_guard hold(lock);
  unsigned long sum = 0;
  for (auto& [begin, end] : taken) sum += end - begin;
  return sum;
}

namespace {

struct BufferMessages : Buffer {
  unsigned long get_storage() { return storage(); }
  unsigned long get_options() { return options; }
  unsigned long get_cache() { return options & 15; }
  unsigned long tracking() { return tracked() ? kTracked : kUntracked; }
  unsigned long allocated() { return size; }
  unsigned long address() { return reinterpret_cast<unsigned long>(memory); }
  Heap* heap() { return parent.get(); }
  unsigned long heap_offset() { return offset; }
  Device* device() { return owner; }
  struct Range {
    unsigned long location, length;
  };
  void modified(Range range) {
    if (range.location + range.length > size)
      violation("didModifyRange", "past the end of %s", describe().c_str());
  }
  unsigned long purge(unsigned long) { return 2; }
  void make_aliasable() { aliasable = true; }
};
const auto labelled =
    Define<Labelled>().on<&Labelled::label>("label").on<&Labelled::set_label>("setLabel:");
const auto buffer_class = Define<Buffer>("_Labelled")
                              .on<&Buffer::contents>("contents")
                              .on<&Buffer::length>("length")
                              .on<&BufferMessages::get_storage>("storageMode")
                              .on<&BufferMessages::get_options>("resourceOptions")
                              .on<&BufferMessages::get_cache>("cpuCacheMode")
                              .on<&BufferMessages::tracking>("hazardTrackingMode")
                              .on<&BufferMessages::allocated>("allocatedSize")
                              .on<&BufferMessages::address>("gpuAddress")
                              .on<&BufferMessages::heap>("heap")
                              .on<&BufferMessages::heap_offset>("heapOffset")
                              .on<&BufferMessages::device>("device")
                              .on<&BufferMessages::modified>("didModifyRange:")
                              .on<&BufferMessages::purge>("setPurgeableState:")
                              .on<&BufferMessages::make_aliasable>("makeAliasable");

struct HeapDescriptorMessages : HeapDescriptor {
  template <auto M>
  auto get() {
    return this->*M;
  }
  template <auto M>
  void put(unsigned long value) {
    this->*M = value;
  }
  void set_type(long value) { type = value; }
  void set_options(unsigned long value) {
    storage = value >> 4 & 15;
    tracking = value >> 8 & 3;
  }
};
using D = HeapDescriptorMessages;
const auto descriptor_class = Define<HeapDescriptor>()
                                  .creatable()
                                  .on<&D::get<&HeapDescriptor::size>>("size")
                                  .on<&D::get<&HeapDescriptor::storage>>("storageMode")
                                  .on<&D::get<&HeapDescriptor::tracking>>("hazardTrackingMode")
                                  .on<&D::get<&HeapDescriptor::type>>("type")
                                  .on<&D::put<&HeapDescriptor::size>>("setSize:")
                                  .on<&D::put<&HeapDescriptor::storage>>("setStorageMode:")
                                  .on<&D::put<&HeapDescriptor::cache>>("setCpuCacheMode:")
                                  .on<&D::put<&HeapDescriptor::tracking>>("setHazardTrackingMode:")
                                  .on<&D::set_options>("setResourceOptions:")
                                  .on<&D::set_type>("setType:");

struct HeapMessages : Heap {
  unsigned long get_size() { return bytes; }
  unsigned long get_storage() { return storage; }
  unsigned long get_tracking() { return tracking; }
  long get_type() { return type; }
  Device* device() { return owner; }
  unsigned long available(unsigned long) { return bytes - used(); }
  unsigned long purge(unsigned long) { return 2; }
};
const auto heap_class = Define<Heap>("_Labelled")
                            .on<&Heap::new_buffer>("newBufferWithLength:options:")
                            .on<&Heap::new_buffer_at>("newBufferWithLength:options:offset:")
                            .on<&HeapMessages::get_size>("size")
                            .on<&Heap::used>("usedSize")
                            .on<&HeapMessages::get_size>("currentAllocatedSize")
                            .on<&HeapMessages::get_size>("allocatedSize")
                            .on<&HeapMessages::get_storage>("storageMode")
                            .on<&HeapMessages::get_tracking>("hazardTrackingMode")
                            .on<&HeapMessages::get_type>("type")
                            .on<&HeapMessages::device>("device")
                            .on<&HeapMessages::available>("maxAvailableSizeWithAlignment:")
                            .on<&HeapMessages::purge>("setPurgeableState:");

}  // namespace
}  // namespace sim

// The bytes that buffers and heaps hold now; no-copy buffers hold none.
extern "C" long metal_sim_live_bytes() { return sim::live_bytes; }
