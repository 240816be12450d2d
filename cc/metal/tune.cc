// Runs every recipe of a node on random numbers: all must agree with the simplest, and the fastest
// stays.
#include "tune.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include "executable.h"
#include "mps.h"
#include "sources.h"

namespace jax_mps::metal {
namespace {

constexpr int kRuns = 4;          // the first of which is not counted
constexpr double kFaster = 0.97;  // a later candidate must be so much faster than an earlier one
constexpr float kFloatError = 1e-3f, kHalfError = 3e-2f;  // of the largest number, at most

bool wanted() {
  static const bool wanted = [] {
    const char* text = std::getenv("JAX_MPS_AUTOTUNE");
    return !text || std::string_view(text) != "0";
  }();
  return wanted;
}

std::string signature(const Node& node) {
  std::string text = node.op + "(";
  for (const TensorType& type : node.in) text += type.text() + " ";
  text += ") ";
  for (const TensorType& type : node.out) text += type.text() + " ";
  return text + node.attributes.text();
}

// Choices by signature, as lines `signature<TAB>implementation` of a file for this GPU, system and
// version of the kernels.
class Memory {
 public:
  explicit Memory(Device& device) {
    std::string folder = cache_folder();
    if (folder.empty()) return;
    std::string system = text_of(NS::ProcessInfo::processInfo()->operatingSystemVersionString());
    std::string name = device.name() + "-" + system + "-" + source_version();
    std::ranges::replace_if(
        name, [](unsigned char c) { return !std::isalnum(c) && c != '-'; }, '_');
    std::error_code code;
    std::filesystem::create_directories(folder, code);
    path_ = folder + "/choices-" + name + ".tsv";
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) {
      size_t tab = line.find('\t');
      if (tab != std::string::npos) choices_[line.substr(0, tab)] = line.substr(tab + 1);
    }
  }

  std::mutex mutex;

  const std::string* find(const std::string& signature) const {
    auto found = choices_.find(signature);
    return found == choices_.end() ? nullptr : &found->second;
  }
  void add(const std::string& signature, const std::string& implementation) {
    choices_[signature] = implementation;
    // One write of one line: processes that tune at the same time do not tear each other's.
    if (!path_.empty())
      std::ofstream(path_, std::ios::app) << signature + '\t' + implementation + '\n';
  }

 private:
  std::string path_;
  std::map<std::string, std::string> choices_;
};

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

using Array = std::vector<uint32_t>;

float half_value(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  auto fraction = static_cast<float>(bits & 1023);
  float size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  if (exponent == 31) size = fraction ? std::numeric_limits<float>::quiet_NaN() : INFINITY;
  return bits & 0x8000 ? -size : size;
}

// Element i of an array of a floating dtype.
float number(const Array& array, DType dtype, int64_t i) {
  if (dtype == DType::f32) return std::bit_cast<float>(array[i]);
  uint16_t bits = static_cast<uint16_t>(array[i / 2] >> (i % 2 * 16));
  return dtype == DType::bf16 ? std::bit_cast<float>(uint32_t(bits) << 16) : half_value(bits);
}

// Numbers of both signs below 2 in size, the same in every process; integers are 0.
Array random(const TensorType& type, uint32_t seed) {
  Array array((type.bytes() + 3) / 4);
  if (!is_floating(type)) return array;
  uint32_t state = seed * 2654435761u + 1;
  auto draw = [&] { return state = state * 1664525u + 1013904223u, state >> 9; };
  // 23 random bits: a fraction, and a sign in the lowest.
  for (uint32_t& word : array) {
    uint32_t bits = draw();
    if (type.dtype == DType::f32)
      word = 0x3f000000u | bits | bits << 31;
    else if (type.dtype == DType::bf16)
      word = 0x3f003f00u | (bits & 0x7fu) | (bits << 9 & 0x7f0000u) | bits << 31;
    else
      word = 0x38003800u | (bits & 0x3ffu) | (bits << 9 & 0x3ff0000u) | bits << 31;
  }
  return array;
}

// One recipe's results and time; none if it does not run at all.
struct Trial {
  std::vector<Array> results;
  double seconds = 0;
};

std::optional<Trial> run(const Node& node, size_t candidate, const std::vector<Array>& operands,
                         std::string& error) {
  Trial trial;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const Array& operand : operands) in.push_back(operand.data());
  for (const TensorType& type : node.out) trial.results.emplace_back((type.bytes() + 3) / 4);
  for (Array& result : trial.results) out.push_back(result.data());
  try {
    MetalExecutable executable(program_of(node), 0, candidate);
    std::vector<double> seconds;
    for (int i = 0; i < kRuns; i++) seconds.push_back(executable.run_timed(in.data(), out.data()));
    trial.seconds = *std::min_element(seconds.begin() + 1, seconds.end());
    return trial;
  } catch (const std::exception& e) {
    error = e.what();
    return std::nullopt;
  }
}

bool agree(const Node& node, const Trial& trial, const Trial& reference) {
  for (size_t r = 0; r < node.out.size(); r++) {
    const TensorType& type = node.out[r];
    if (!is_floating(type)) {
      if (trial.results[r] != reference.results[r]) return false;
      continue;
    }
    float largest = 1, error = 0;
    for (int64_t i = 0; i < type.elements(); i++) {
      float got = number(trial.results[r], type.dtype, i);
      float wanted = number(reference.results[r], type.dtype, i);
      if (std::isfinite(got) != std::isfinite(wanted)) return false;
      if (!std::isfinite(got)) continue;
      largest = std::max(largest, std::fabs(wanted));
      error = std::max(error, std::fabs(got - wanted));
    }
    if (error > largest * (type.dtype == DType::f32 ? kFloatError : kHalfError)) return false;
  }
  return true;
}

size_t contest(const Node& node, const std::vector<Recipe>& candidates) {
  std::vector<Array> operands;
  for (const TensorType& type : node.in)
    operands.push_back(random(type, static_cast<uint32_t>(operands.size())));
  std::string error;
  std::optional<Trial> reference = run(node, candidates.size() - 1, operands, error);
  if (!reference) throw ProgramError(error);
  size_t best = candidates.size() - 1;
  double seconds = reference->seconds;
  for (size_t i = candidates.size() - 1; i-- > 0;) {
    auto trial = run(node, i, operands, error);
    if (trial && !agree(node, *trial, *reference)) {
      error = "its numbers differ from those of " + candidates.back().implementation;
      trial.reset();
    }
    if (!trial) {
      std::fprintf(stderr, "jax_mps: %s does not use '%s': %s\n", signature(node).c_str(),
                   candidates[i].implementation.c_str(), error.c_str());
      continue;
    }
    // Earlier ones are those that likely win: they need no margin.
    if (trial->seconds * kFaster <= seconds) best = i, seconds = trial->seconds;
  }
  return best;
}

}  // namespace

size_t choose(Device& device, const Node& node, const std::vector<Recipe>& candidates) {
  for (size_t i = 0; i < candidates.size(); i++)
    if (candidates[i].apple && apple_kernels() == AppleKernels::always) return i;
  if (candidates.size() == 1) return 0;
  if (!wanted())  // what has not been compared with ours is not used
    return std::ranges::find(candidates, false, &Recipe::apple) - candidates.begin();
  static Memory* memory = new Memory(device);
  std::string key = signature(node);
  std::lock_guard lock(memory->mutex);  // one contest at a time: others would disturb its times
  if (const std::string* name = memory->find(key))
    for (size_t i = 0; i < candidates.size(); i++)
      if (candidates[i].implementation == *name) return i;
  size_t best = contest(node, candidates);
  memory->add(key, candidates[best].implementation);
  return best;
}

}  // namespace jax_mps::metal
