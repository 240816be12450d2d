// A program's steps as launches ready to be encoded; a loop has those of its body, once.
#pragma once

#include <memory>
#include <variant>

#include "device.h"
#include "ir/loop.h"

namespace jax_mps::metal {

// Where a value of a block lies: an input or an output of the block, or a place of the workspace.
struct Place {
  enum class In : uint8_t { input, output, heap } in;
  int index;  // -1 for an empty array
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
  bool is_copy = false;  // of the first argument to the second, which may be one
  double seconds = 0;    // by estimate
};

struct Loop;

struct Block {
  std::vector<Place> place;  // of each value of the program
  std::vector<std::variant<Launch, std::unique_ptr<Loop>>> items;
};

struct Loop {
  explicit Loop(const Node& node) : shape(node) {}

  LoopShape shape;
  std::vector<Place> operands, results;  // in the block around
  std::vector<Place> second;             // of the carries that need it
  std::vector<Launch> copies;            // of the carries; their arguments have no place
  Block body;
};

}  // namespace jax_mps::metal
