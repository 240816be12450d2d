// One run of a block: its launches in one command buffer, which wait for each other only where
// their memory says so. What takes long by the launches' estimates goes in several buffers, which
// the GPU runs one after the other while the host goes on; a kernel of Apple's may commit one too.
#pragma once

#include "block.h"
#include "memory.h"
#include "work.h"

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

// The GPU stopped a command buffer. Of a time-out, and of what another program's did to this one,
// the run may be repeated.
struct Stopped : MetalError {
  enum class Why { time_out, victim, other };
  Stopped(Why why, const std::string& words) : MetalError(words), why(why) {}
  Why why;
};

class Encoding {
 public:
  // Of command buffers of at most so many seconds.
  Encoding(Device& device, const Workspace& workspace, const std::vector<Workspace::Place>& heap,
           double most)
      : device_(device), workspace_(workspace), heap_(heap), most_(most) {}
  ~Encoding();  // waits for what runs
  Encoding(const Encoding&) = delete;
  Encoding& operator=(const Encoding&) = delete;

  void add(const Block& block, const Frame& frame);
  // Runs what was added, to its end. Throws Stopped with the names of the kernels.
  void run();
  double seconds() const { return seconds_; }  // of the GPU

 private:
  Located locate(Place place, const Frame& frame) const;
  void add(const Loop& loop, const Frame& frame);
  void add(const Launch& launch, const std::vector<Located>& arrays);
  void encode(const Launch& launch, const Piece& piece, const std::vector<Bound>& bound,
              bool waits);
  void begin();
  void begin_encoder();
  void end_encoder();
  void commit(bool last);
  void wait();
  // A command buffer that is committed, or will be, and the first of its launches.
  struct Commands {
    MTL::CommandBuffer* buffer = nullptr;
    std::vector<const Launch*> first;
    size_t count = 0;
    double seconds = 0;  // by estimate
  };
  [[noreturn]] static void fail(const Commands& commands);

  Device& device_;
  const Workspace& workspace_;
  const std::vector<Workspace::Place>& heap_;
  const double most_;
  Hazards hazards_;
  Commands now_;
  std::vector<Commands> running_;  // committed, not waited for
  MTL::ComputeCommandEncoder* encoder_ = nullptr;
  Owned<MTL::Fence> fence_;  // behind the last command buffer; none yet in the first
  double seconds_ = 0;
};

}  // namespace jax_mps::metal
