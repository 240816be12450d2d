// shader FILE KERNEL THREADS GROUP BYTES...: runs a kernel on buffers of these sizes, bound from
// index 0 and filled with 0, 1, 2, 3, 0, ... as floats; prints how it ended and the first buffer's
// first values. A size with `t` before it is threadgroup memory, from index 0.
#include <fstream>
#include <sstream>

#include "host.h"

int main(int argc, char** argv) {
  Host host;
  std::stringstream source;
  source << std::ifstream(argv[1]).rdbuf();
  MTL::ComputePipelineState* pipeline = host.pipeline(source.str(), argv[2]);
  MTL::CommandBuffer* commands = host.queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
  encoder->setComputePipelineState(pipeline);
  std::vector<MTL::Buffer*> buffers;
  unsigned memories = 0;
  for (int i = 5; i < argc; i++) {
    if (argv[i][0] == 't') {
      encoder->setThreadgroupMemoryLength(strtoul(argv[i] + 1, nullptr, 10), memories++);
      continue;
    }
    const size_t bytes = strtoul(argv[i], nullptr, 10);
    MTL::Buffer* b = host.device->newBuffer(bytes, MTL::ResourceStorageModeShared);
    for (size_t j = 0; j < bytes / 4; j++) static_cast<float*>(b->contents())[j] = float(j % 4);
    encoder->setBuffer(b, 0, buffers.size());
    buffers.push_back(b);
  }
  encoder->dispatchThreads(MTL::Size(strtoul(argv[3], nullptr, 10), 1, 1),
                           MTL::Size(strtoul(argv[4], nullptr, 10), 1, 1));
  encoder->endEncoding();
  const bool good = Host::finish(commands);
  if (!buffers.empty())
    for (size_t j = 0; j < std::min<size_t>(8, buffers[0]->length() / 4); j++)
      printf("%g ", static_cast<float*>(buffers[0]->contents())[j]);
  printf("\n");
  for (auto* b : buffers) b->release();
  pipeline->release();
  return !good;
}
