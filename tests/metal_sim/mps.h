// What the simulated MPS classes share: element types, and work that a command buffer runs in an
// encoder of its own.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "command.h"

namespace sim {

enum : unsigned { kFloat32 = 0x10000020, kFloat16 = 0x10000010, kBFloat16 = 0x90000010 };
size_t element_bytes(unsigned type);  // 0 for a type that is not simulated
double read_element(const char* at, unsigned type);
void write_element(char* at, unsigned type, double value);

struct Region {
  Buffer* buffer;
  size_t offset, bytes;
  bool writes;
  std::string what;
};

// Checks the regions and appends the work to the command buffer; `memory` gives each region's first
// byte.
void encode_work(CommandBuffer* commands, std::vector<Region> regions,
                 std::function<void(const std::vector<char*>& memory)> work);

// The MTLCommandBuffer inside of an MPSCommandBuffer.
struct MpsCommandBuffer : Object {
  static constexpr const char* kName = "MPSCommandBuffer";
  Ref<CommandBuffer> root;
};

}  // namespace sim
