#include "trial.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ir/require.h"
#include "metal_executable.h"

namespace jax_mps::metal {
namespace {

constexpr float kFloatError = 1e-3f, kHalfError = 3e-2f;  // of the largest number, at most
// Of so many numbers one may be off: rounding decides where a comparison or a floor falls.
constexpr int64_t kOneOff = 100000;

Program program_of(const Node& node) {
  Program program;
  Step step;
  step.node = node;
  for (const TensorType& type : node.in) {
    step.operands.push_back(static_cast<int>(program.values.size()));
    program.inputs.push_back(step.operands.back());
    program.values.push_back({type});
  }
  for (const TensorType& type : node.out) {
    step.results.push_back(static_cast<int>(program.values.size()));
    program.outputs.push_back(step.results.back());
    program.values.push_back({type});
  }
  program.steps.push_back(std::move(step));
  return program;
}

bool is_recurrent(const Node& node) {
  return std::ranges::any_of(std::initializer_list<const char*>{"lstm", "gru", "mgu", "rnn"},
                             [&](const char* cell) { return node.op.starts_with(cell); });
}

float half_value(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  auto fraction = static_cast<float>(bits & 1023);
  float size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  if (exponent == 31) size = fraction ? std::numeric_limits<float>::quiet_NaN() : INFINITY;
  return bits & 0x8000 ? -size : size;
}

// Element i of an array of a floating dtype.
float number(const Array& array, DType dtype, int64_t i) {
  if (dtype == DType::f32) return std::bit_cast<float>(array.words()[i]);
  uint16_t bits = static_cast<uint16_t>(array.words()[i / 2] >> (i % 2 * 16));
  return dtype == DType::bf16 ? std::bit_cast<float>(uint32_t(bits) << 16) : half_value(bits);
}

size_t words_of(const TensorType& type) { return (type.bytes() + 3) / 4; }

// Divided by 2 to the `halvings`.
void fill(Array& array, const TensorType& type, uint32_t seed, Signs signs, uint32_t halvings) {
  uint32_t state = seed * 2654435761u + 1;
  const uint32_t sign = signs == Signs::both ? 1 : 0;
  auto draw = [&] { return state = state * 1664525u + 1013904223u, state >> 9; };
  // 23 random bits: a fraction, and a sign in the lowest.
  for (size_t i = 0; i < words_of(type); i++) {
    const uint32_t bits = draw();
    uint32_t& word = array.words()[i];
    if (type.dtype == DType::f32)
      word = (0x3f000000u - (halvings << 23)) | bits | (bits & sign) << 31;
    else if (type.dtype == DType::bf16)
      word = (0x3f003f00u - halvings * 0x800080u) | (bits & 0x7fu) | (bits << 9 & 0x7f0000u) |
             (bits & sign) << 31;
    else
      word = (0x38003800u - halvings * 0x4000400u) | (bits & 0x3ffu) | (bits << 9 & 0x3ff0000u) |
             (bits & sign) << 31;
  }
}

// What an op's integers are below: labels, the pixels of a window, the lengths of sequences.
uint32_t integers_below(const Node& node, size_t operand) {
  auto last = [](const TensorType& type) { return static_cast<uint32_t>(type.dim(-1)); };
  if (node.op.starts_with("max_pool")) {
    uint32_t pixels = 1;
    for (int64_t size : node.attributes.integers("window")) pixels *= static_cast<uint32_t>(size);
    return pixels;
  }
  if (node.op == "pick") return last(node.in[0]);
  if (node.op == "pick_gradient") return last(node.out[0]);
  if (node.op.starts_with("softmax_cross_entropy")) return last(node.in[operand - 1]);
  if (is_recurrent(node)) return static_cast<uint32_t>(node.in[operand - 1].dim(1)) + 1;
  return node.in[operand].dtype == DType::pred ? 2 : 256;
}

void fill_integers(Array& array, const TensorType& type, uint32_t seed, uint32_t below) {
  uint32_t state = seed * 2654435761u + 1;
  auto* bytes = reinterpret_cast<uint8_t*>(array.words());
  for (int64_t i = 0; i < type.elements(); i++) {
    state = state * 1664525u + 1013904223u;
    const uint32_t drawn = (state >> 9) % std::max(below, 1u);
    if (size_of(type.dtype) == 1)
      bytes[i] = static_cast<uint8_t>(drawn);
    else
      array.words()[i] = drawn;
  }
}

}  // namespace

Arrays operands_for(const Node& node, Signs signs) {
  Arrays operands;
  for (const TensorType& type : node.in) {
    Array& array = operands.emplace_back(type);
    const auto seed = static_cast<uint32_t>(operands.size() - 1);
    if (!is_floating(type)) {
      fill_integers(array, type, seed, integers_below(node, seed));
      continue;
    }
    // Large weights would make a recurrent cell's rounding grow from step to step.
    const double rows = is_recurrent(node) && type.rank() > 1 ? double(type.dim(0)) : 0.25;
    const auto halvings = static_cast<uint32_t>(std::ceil(std::log2(2 * std::sqrt(rows))));
    fill(array, type, seed, signs, std::min(halvings, 8u));
  }
  return operands;
}

std::optional<Arrays> expected(const Node& node, const Arrays& operands) {
  Arrays results;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const Array& operand : operands) in.push_back(operand.words());
  for (const TensorType& type : node.out) results.emplace_back(type);
  for (Array& result : results) out.push_back(result.words());
  try {
    jax_mps::compile(program_of(node), 0)->run(in.data(), out.data());
    return results;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

Trial run_trial(const Node& node, size_t candidate, const Arrays& operands, int runs) {
  Trial trial;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const Array& operand : operands) in.push_back(operand.words());
  for (const TensorType& type : node.out) trial.results.emplace_back(type);
  for (Array& result : trial.results) out.push_back(result.words());
  try {
    MetalExecutable executable(program_of(node), 0, candidate);
    for (int i = 0; i < runs; i++) {
      const double seconds = executable.run_timed(in.data(), out.data());
      // The first run of several is not counted.
      trial.seconds = i < 2 ? seconds : std::min(trial.seconds, seconds);
    }
  } catch (const std::exception& e) {
    trial.error = e.what();
  }
  return trial;
}

bool agree(const Node& node, const Arrays& got, const Arrays& wanted) {
  for (size_t r = 0; r < node.out.size(); r++) {
    const TensorType& type = node.out[r];
    if (!is_floating(type)) {
      if (std::memcmp(got[r].words(), wanted[r].words(), type.bytes())) return false;
      continue;
    }
    float largest = 1;
    for (int64_t i = 0; i < type.elements(); i++)
      if (float w = std::fabs(number(wanted[r], type.dtype, i)); std::isfinite(w))
        largest = std::max(largest, w);
    const float most = largest * (type.dtype == DType::f32 ? kFloatError : kHalfError);
    int64_t off = 0;
    for (int64_t i = 0; i < type.elements(); i++) {
      const float g = number(got[r], type.dtype, i), w = number(wanted[r], type.dtype, i);
      off += std::isfinite(g) != std::isfinite(w) || (std::isfinite(g) && std::fabs(g - w) > most);
    }
    if (off > type.elements() / kOneOff) return false;
  }
  return true;
}

bool mostly_finite(const Node& node, const Arrays& results) {
  int64_t finite = 0, all = 0;
  for (size_t r = 0; r < node.out.size(); r++) {
    if (!is_floating(node.out[r])) continue;
    for (int64_t i = 0; i < node.out[r].elements(); i++)
      all++, finite += std::isfinite(number(results[r], node.out[r].dtype, i));
  }
  return 2 * finite >= all;
}

}  // namespace jax_mps::metal
