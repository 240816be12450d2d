// A program for the Metal device: every step's dispatches, encoded into one command buffer a run.
#pragma once

#include "../executable.h"
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
  // Where a value lies: an argument of the call, or a place of the workspace.
  struct Place {
    enum class In : uint8_t { input, output, heap } in;
    int index;
  };
  struct Argument {
    Place place;
    size_t offset, bytes;
    bool reads, writes;
  };
  struct Launch {
    Dispatch dispatch;
    Owned<MTL::ComputePipelineState> pipeline;
    Owned<NS::String> label;
    std::vector<Argument> arguments;
  };
  struct Bindings;

  void place_values();
  void add_step(const Step& step);
  void add_recipe(const Recipe& recipe, const Step& step);
  void add_copy(Place from, Place to, size_t bytes);
  Place heap_place(size_t offset, size_t bytes);
  std::unique_ptr<Workspace> take_workspace() const;
  void encode(std::vector<MTL::CommandBuffer*>& commands, const Bindings& bindings) const;
  [[noreturn]] void fail(MTL::CommandBuffer* commands) const;

  Device& device_;
  std::optional<size_t> candidate_;
  std::vector<Place> place_;  // of each value
  std::vector<Workspace::Place> heap_;
  size_t scratch_offset_ = 0, scratch_bytes_ = 0;
  std::vector<Launch> launches_;
  std::vector<std::string> names_;
  bool foreign_ = false;  // whether any launch is a kernel of Apple's
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;  // of finished runs
};

}  // namespace jax_mps::metal
