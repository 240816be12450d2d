// A program for the Metal device: every step's dispatches, encoded into one command buffer a run.
#pragma once

#include "block.h"
#include "encoding.h"
#include "executable.h"
#include "memory.h"

namespace jax_mps::metal {

class MetalExecutable : public Executable {
 public:
  // With `candidate`, of each step that recipe runs rather than the one that won.
  MetalExecutable(Program program, size_t text_bytes, std::optional<size_t> candidate = {});
  ~MetalExecutable() override;

  void run(const void* const* inputs, void* const* outputs) const override;
  std::vector<std::string> implementations() const override { return names_; }
  // Seconds that the GPU took.
  double run_timed(const void* const* inputs, void* const* outputs) const;

 private:
  // The arena of a block's program begins at `arena`, its kernels' scratch memory behind it.
  Block block_of(const Program& program, size_t arena);
  void place_values(Block& block, const Program& program, size_t arena);
  void add_step(Block& block, const Step& step, size_t scratch);
  void add_recipe(Block& block, const Recipe& recipe, const Step& step, size_t scratch);
  void add_loop(Block& block, const Step& step, size_t scratch);
  void add_copy(Block& block, Place from, Place to, size_t bytes);
  Launch copy_of(size_t bytes);
  Place heap_place(size_t offset, size_t bytes);
  std::unique_ptr<Workspace> take_workspace() const;
  // Seconds of the GPU. A run that a time-out ends is repeated in smaller command buffers, unless
  // its results lie where its operands did.
  double encode(const Workspace& workspace, const Frame& frame) const;
  bool overlap(const Frame& frame) const;  // whether a result lies where an operand does

  Device& device_;
  std::optional<size_t> candidate_;
  std::vector<Workspace::Place> heap_;
  Block block_;
  std::vector<std::string> names_;
  bool apple_ = false;  // whether any launch is a kernel of Apple's
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;  // of finished runs
};

}  // namespace jax_mps::metal
