// One run of a block: its launches in one command buffer, which wait for each other only where
// their memory says so. Very many launches go in several buffers, one encoded while another runs;
// a kernel of Apple's may commit a buffer too.
#pragma once

#include "block.h"
#include "memory.h"

namespace jax_mps::metal {

// Where a value lies in this run.
struct Located {
  MTL::Buffer* buffer = nullptr;
  size_t offset = 0;
  bool heap = false;
  uintptr_t begin = 0;  // in the host's memory or in the heap
  uintptr_t end = 0;    // of the array that this is a slice of, if it is one

  Located at(size_t bytes) const {
    Located moved = *this;
    moved.offset += bytes, moved.begin += bytes;
    return moved;
  }
  bool is(const Located& other) const { return heap == other.heap && begin == other.begin; }
};

// A block's inputs and outputs.
struct Frame {
  std::vector<Located> inputs, outputs;
};

class Encoding {
 public:
  Encoding(Device& device, const Workspace& workspace, const std::vector<Workspace::Place>& heap)
      : device_(device), workspace_(workspace), heap_(heap) {}
  ~Encoding();  // waits for what runs
  Encoding(const Encoding&) = delete;
  Encoding& operator=(const Encoding&) = delete;

  void add(const Block& block, const Frame& frame);
  // Runs what was added, to its end. Throws MetalError with the names of the kernels.
  void run();
  double seconds() const { return seconds_; }  // of the GPU

 private:
  Located locate(Place place, const Frame& frame) const;
  void add(const Loop& loop, const Frame& frame);
  void add(const Launch& launch, const std::vector<Located>& arrays);
  void encode(const Launch& launch, const std::vector<Bound>& bound, bool waits);
  void begin();
  void end_encoder();
  void commit();
  void wait();
  [[noreturn]] void fail(MTL::CommandBuffer* buffer) const;

  Device& device_;
  const Workspace& workspace_;
  const std::vector<Workspace::Place>& heap_;
  Hazards hazards_;
  MTL::CommandBuffer* commands_ = nullptr;
  std::vector<MTL::CommandBuffer*> running_;  // committed, not waited for
  MTL::ComputeCommandEncoder* encoder_ = nullptr;
  std::vector<const Launch*> added_;  // the first few, to be named
  size_t count_ = 0, in_buffer_ = 0;
  double seconds_ = 0;
};

}  // namespace jax_mps::metal
