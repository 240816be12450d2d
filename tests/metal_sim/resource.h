// Buffers and heaps.
#pragma once
#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "foundation.h"

namespace sim {

enum { kShared = 0, kManaged = 1, kPrivate = 2, kMemoryless = 3 };
enum { kDefaultTracking = 0, kUntracked = 1, kTracked = 2 };

struct Device;
struct Heap;

struct Labelled : Object {
  static constexpr const char* kName = "_Labelled";
  std::string name;
  Object* label() { return name.empty() ? nullptr : new_string(name); }
  void set_label(Object* s) { name = string_of(s); }
};

struct Buffer : Labelled {
  static constexpr const char* kName = "MTLBuffer";
  char* memory = nullptr;
  size_t size = 0;
  unsigned long options = 0;
  bool no_copy = false, aliasable = false;
  void* deallocator = nullptr;
  Ref<Heap> parent;
  size_t offset = 0;  // in the heap
  Device* owner = nullptr;

  ~Buffer() override;
  unsigned long storage() const { return options >> 4 & 15; }
  bool tracked() const;
  void* contents();
  unsigned long length() { return size; }
  // Whether the bytes behind the buffer are as they were; false after a kernel wrote past its end.
  bool intact() const;
  std::string describe() const;
};

struct HeapDescriptor : Object {
  static constexpr const char* kName = "MTLHeapDescriptor";
  unsigned long size = 0, storage = kPrivate, cache = 0, tracking = kDefaultTracking, options = 0;
  long type = 0;  // 0 automatic, 1 placement
};

struct Heap : Labelled {
  static constexpr const char* kName = "MTLHeap";
  HeapDescriptor* made_from = nullptr;
  char* memory = nullptr;
  unsigned long bytes = 0, storage = 0, tracking = kUntracked;
  long type = 0;
  Device* owner = nullptr;
  std::mutex lock;
  std::map<size_t, size_t> taken;  // of an automatic heap: offset -> end
  ~Heap() override;
  Buffer* new_buffer(unsigned long length, unsigned long options);
  Buffer* new_buffer_at(unsigned long length, unsigned long options, unsigned long offset);
  unsigned long used();
};

constexpr size_t kHeapAlignment = 256, kCanary = 4096;

Buffer* new_buffer(Device* device, unsigned long length, unsigned long options);
Buffer* new_buffer_no_copy(Device* device, void* pointer, unsigned long length,
                           unsigned long options, void* deallocator);
Heap* new_heap(Device* device, HeapDescriptor* descriptor);
char* allocate(size_t bytes);
void deallocate(char* memory, size_t bytes);

}  // namespace sim
