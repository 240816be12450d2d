// launch SOURCE KERNEL GROUPS THREADS [WORD...]: runs a kernel on buffers that are files, as large
// as they are, and writes them back. GROUPS and THREADS are x,y,z. A word is constant:INDEX=0|1 for
// a bool function constant, or buffer:INDEX=FILE.
#include <fstream>
#include <iterator>
#include <sstream>

#include "host.h"

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
MTL::Size size(const char* text) {
  unsigned x = 1, y = 1, z = 1;
  sscanf(text, "%u,%u,%u", &x, &y, &z);
  return MTL::Size(x, y, z);
}

int main(int argc, char** argv) {
  Host host;
  MTL::FunctionConstantValues* constants = MTL::FunctionConstantValues::alloc()->init();
  std::vector<std::pair<std::string, MTL::Buffer*>> buffers;
  std::vector<unsigned> slots;
  for (int i = 5; i < argc; i++) {
    std::string word = argv[i], value = word.substr(word.find('=') + 1);
    const unsigned index = unsigned(std::stoul(word.substr(word.find(':') + 1)));
    if (word.starts_with("constant")) {
      const bool set = value == "1";
      constants->setConstantValue(&set, MTL::DataTypeBool, index);
      continue;
    }
    std::string bytes = contents(value);
    buffers.emplace_back(value, host.buffer(std::vector<char>(bytes.begin(), bytes.end())));
    slots.push_back(index);
  }
  MTL::Library* library = host.library(contents(argv[1]));
  if (!library) return 3;
  NS::Error* error = nullptr;
  MTL::Function* function = library->newFunction(Host::text(argv[2]), constants, &error);
  MTL::ComputePipelineState* pipeline =
      function ? host.device->newComputePipelineState(function, &error) : nullptr;
  if (!pipeline) {
    printf("pipeline: %s\n", error ? error->localizedDescription()->utf8String() : "no function");
    return 4;
  }
  MTL::CommandBuffer* commands = host.queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
  encoder->setComputePipelineState(pipeline);
  for (size_t i = 0; i < buffers.size(); i++) encoder->setBuffer(buffers[i].second, 0, slots[i]);
  encoder->dispatchThreadgroups(size(argv[3]), size(argv[4]));
  encoder->endEncoding();
  const bool good = Host::finish(commands);
  for (auto& [path, buffer] : buffers) {
    std::ofstream(path, std::ios::binary)
        .write(static_cast<const char*>(buffer->contents()), long(buffer->length()));
    buffer->release();
  }
  for (NS::Object* object :
       {static_cast<NS::Object*>(pipeline), static_cast<NS::Object*>(function),
        static_cast<NS::Object*>(library), static_cast<NS::Object*>(constants)})
    object->release();
  return !good;
}
