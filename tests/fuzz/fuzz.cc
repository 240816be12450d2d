// Feeds texts to all that reads them: the parser, the checkers, the CPU device's offers, and, for
// programs that are small enough, the kernels, on buffers of exactly the sizes that the text says,
// so that AddressSanitizer sees each access beside them. A text is refused with words or
// it runs; anything else is a fault.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string_view>

#include "cpu/steps.h"
#include "ir/check.h"
#include "ir/program.h"

using namespace jax_mps;

namespace {

constexpr int64_t kBytes = 1 << 20;  // of a program that runs: its buffers, its working memory
constexpr int64_t kWork = 1 << 24;   // its multiplications, about

// At least the multiplications of a program, or kWork + 1.
int64_t work_of(const Program& program) {
  int64_t work = 0;
  auto add = [&](int64_t a, int64_t b) {  // a b
    work = a > 0 && b > kWork / a ? kWork + 1 : std::min(work + a * b, kWork + 1);
  };
  for (const Step& step : program.steps) {
    int64_t elements = 0, largest = 0;
    for (const auto* types : {&step.node.in, &step.node.out})
      for (const TensorType& type : *types) {
        largest = std::max(largest, type.elements());
        elements = std::min(elements + type.elements(), kWork);
      }
    bool products = step.node.op.find("conv") == 0 || step.node.op.find("d") == 0 ||
                    step.node.attributes.has("neurons");
    add(products ? largest : 1, elements);
    if (step.node.op == "chain") {
      int64_t space = 1;
      for (int64_t size : step.node.attributes.integers("shape"))
        space = std::min(space * std::min(size, kWork), kWork);
      add(space, 1 + static_cast<int64_t>(step.node.attributes.list("code").size()));
    }
    if (step.node.body) add(step.node.attributes.integer("length"), 1 + work_of(*step.node.body));
    if (work > kWork) break;
  }
  return work;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, bytes)) std::abort();
  return Memory(memory);
}

// Numbers of every kind: in and out of the range of what they may name.
Memory filled(const TensorType& type, std::minstd_rand& random) {
  Memory memory = allocate(type.bytes());
  constexpr int32_t kIntegers[] = {0,
                                   1,
                                   2,
                                   3,
                                   7,
                                   -1,
                                   255,
                                   1 << 30,
                                   std::numeric_limits<int32_t>::min(),
                                   std::numeric_limits<int32_t>::max()};
  constexpr float kFloats[] = {0.0f,
                               1.0f,
                               -0.5f,
                               3.25f,
                               1e-40f,
                               1e30f,
                               -1e30f,
                               7.0f,
                               std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN()};
  auto* bytes = static_cast<uint8_t*>(memory.get());
  auto* words = static_cast<uint32_t*>(memory.get());
  bool wild = random() % 4 == 0;  // else numbers from -1 to 1
  for (int64_t i = 0; i < type.elements(); i++) {
    auto at = random();
    float number = wild ? kFloats[at % 10] : static_cast<float>(at % 2048) / 1024.0f - 1;
    switch (type.dtype) {
      case DType::f32:
        words[i] = std::bit_cast<uint32_t>(number);
        break;
      case DType::s32:
      case DType::u32:
        words[i] = static_cast<uint32_t>(kIntegers[at % (wild ? 10 : 4)]);
        break;
      case DType::pred:
        bytes[i] = at % 2;
        break;
      case DType::u8:
        bytes[i] = static_cast<uint8_t>(at);
        break;
      default:
        static_cast<uint16_t*>(memory.get())[i] = std::bit_cast<uint32_t>(number) >> 16;
    }
  }
  return memory;
}

void run(const Program& program, const cpu::Steps& steps, unsigned seed) {
  int64_t bytes = static_cast<int64_t>(steps.memory_bytes());
  for (const auto* values : {&program.inputs, &program.outputs})
    for (int value : *values)
      bytes += std::min<int64_t>(program.values[value].type.bytes(), kBytes + 1);
  if (bytes > kBytes) return;
  std::minstd_rand random(seed);
  std::vector<Memory> buffers;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (int value : program.inputs)
    in.push_back(buffers.emplace_back(filled(program.values[value].type, random)).get());
  for (int value : program.outputs)
    out.push_back(buffers.emplace_back(allocate(program.values[value].type.bytes())).get());
  Memory memory = allocate(steps.memory_bytes());
  steps.run(in.data(), out.data(), static_cast<std::byte*>(memory.get()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    Program program = parse_program(text);
    check(program);
    cpu::Steps steps(program);
    if (work_of(program) <= kWork)
      run(program, steps, static_cast<unsigned>(std::hash<std::string_view>{}(text)));
  } catch (const std::runtime_error&) {  // refused, here or by oneDNN as it runs
  }
  return 0;
}
