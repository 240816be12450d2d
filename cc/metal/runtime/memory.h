// The host's arrays as buffers for one run: in place where the device may, else as copies in pooled
// buffers.
#pragma once

#include <vector>

#include "device.h"

namespace jax_mps::metal {

// The arrays of one run. A buffer in place covers whole pages, so arrays that share a page share a
// buffer. It lives for one run only: cached, it would go on reading pages that XLA has freed and
// the system has mapped anew.
class Windows {
 public:
  Windows(Device& device, bool direct) : device_(device), direct_(direct) {}
  ~Windows();
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  void add(const void* data, size_t bytes, bool reads, bool writes);
  // Makes the buffers and copies in what needs it. Throws MetalError without memory.
  void open();
  std::pair<MTL::Buffer*, size_t> find(const void* data) const;  // buffer and offset
  void copy_out();                                               // after the run
  bool staged() const;                                           // whether any is a copy

  static size_t pooled_bytes();
  static void release_pool();

 private:
  struct Array {
    uintptr_t begin, end;
    bool reads, writes;
  };
  struct Window {
    uintptr_t begin, end;
    Owned<MTL::Buffer> buffer;
    bool staged;
  };
  const Window& window_of(uintptr_t address) const;

  Device& device_;
  bool direct_;
  std::vector<Array> arrays_;
  std::vector<Window> windows_;  // by address, none overlaps
};

// A private heap with a buffer for each intermediate of a program and one for scratch memory. Runs
// take one each and give it back.
class Workspace {
 public:
  struct Place {
    size_t offset, bytes;
  };
  // Throws OutOfMemory without it. A tracked heap is one resource whose uses Metal itself puts
  // in order: kernels of Apple's make encoders for which no fence of ours can wait.
  Workspace(Device& device, const std::vector<Place>& places, bool tracked);
  std::pair<MTL::Buffer*, size_t> buffer(size_t place) const;
  size_t bytes() const { return heap_ ? heap_->size() : 0; }

 private:
  Owned<MTL::Heap> heap_;
  std::vector<Owned<MTL::Buffer>> buffers_;
  std::vector<size_t> offsets_;
};

// What a dispatch touches, as bytes of a space: the host's memory, or the heap.
struct Range {
  bool heap;
  uintptr_t begin, end;
  bool writes;
};

// Whether a dispatch must wait for those since the last barrier: read after write, write after read
// and write after write, over byte ranges, so that reused memory counts.
class Hazards {
 public:
  // Adds the dispatch; true if a barrier must come before it.
  bool add(const std::vector<Range>& ranges);

 private:
  std::vector<Range> since_;
};

}  // namespace jax_mps::metal
