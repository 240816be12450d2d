// Runs the recipes of a node on random numbers: they must agree with the CPU device, or where it
// has no kernel with the simplest of them, and the fastest stays.
#include "tune.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "metal/apple/apple.h"
#include "metal/sources.h"
#include "trial.h"
#include "verdicts.h"

namespace jax_mps::metal {
namespace {

constexpr int kRuns = 4;          // of recipes that compete
constexpr double kFaster = 0.97;  // a later candidate must be so much faster than an earlier one

bool wanted() {
  static const bool wanted = [] {
    const char* text = std::getenv("JAX_MPS_AUTOTUNE");
    return !text || std::string_view(text) != "0";
  }();
  return wanted;
}

std::string types_of(const Node& node) {
  std::string text = node.op + "(";
  for (const TensorType& type : node.in) text += type.text() + " ";
  text += ") ";
  for (const TensorType& type : node.out) text += type.text() + " ";
  return text;
}
std::string signature(const Node& node) { return types_of(node) + node.attributes.text(); }

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

// The candidates of one node.
class Contest {
 public:
  Contest(const Node& node, const std::vector<Recipe>& candidates)
      : node_(node), candidates_(candidates), trials_(candidates.size()) {
    operands_ = operands_for(node, Signs::both);
    wanted_ = expected(node, operands_);
    if (wanted_ && !mostly_finite(node, *wanted_)) {
      operands_ = operands_for(node, Signs::positive);
      wanted_ = expected(node, operands_);
    }
    // The last runs as it is written, one number after the other: no compiler's pattern is in it.
    for (size_t i = candidates.size(); !wanted_ && i-- > 0;)
      if (!candidates[i].apple && trial(i).error.empty())
        wanted_ = trial(i).results, reference_ = candidates[i].implementation;
  }

  // The winner. Throws ProgramError with every reason if none is right.
  size_t winner() {
    std::optional<size_t> best;
    for (bool second : {false, true}) {
      if (best) break;  // second forms are for want of a first
      for (size_t i = candidates_.size(); i-- > 0;) {
        if (candidates_[i].second != second || !serves(i)) continue;
        // Earlier ones are those that likely win: they need no margin.
        if (!best || trial(i).seconds * kFaster <= trial(*best).seconds) best = i;
      }
    }
    if (!best) throw ProgramError(reasons_);
    note({types_of(node_), candidates_[*best].implementation, "won", trial(*best).seconds});
    return *best;
  }

 private:
  const Trial& trial(size_t i) {
    if (!trials_[i]) {
      const auto first = std::ranges::count(candidates_, false, &Recipe::second);
      const int runs = candidates_[i].second || first == 1 ? 1 : kRuns;
      trials_[i] = run_trial(node_, i, operands_, runs);
    }
    return *trials_[i];
  }

  bool serves(size_t i) {
    std::string reason = trial(i).error;
    if (reason.empty() && !agree(node_, trial(i).results, *wanted_))
      reason = "its numbers differ from those of " + reference_;
    const std::string& name = candidates_[i].implementation;
    note({types_of(node_), name, reason.empty() ? "agrees" : reason, trial(i).seconds});
    if (reason.empty()) return true;
    reasons_ += (reasons_.empty() ? "" : "; ") + reason;
    // What does not compile says so once.
    static auto* said = new std::set<std::string>;
    if (said->insert(trial(i).error.empty() ? signature(node_) + name : reason).second)
      std::fprintf(stderr, "jax_mps: %s does not use '%s': %s\n", signature(node_).c_str(),
                   name.c_str(), reason.c_str());
    return false;
  }

  const Node& node_;
  const std::vector<Recipe>& candidates_;
  std::vector<std::optional<Trial>> trials_;
  Arrays operands_;
  std::optional<Arrays> wanted_;
  std::string reference_ = "the CPU", reasons_;
};

// Without a contest: the first of ours that compiles.
size_t first_that_compiles(Device& device, const std::vector<Recipe>& candidates) {
  std::string reasons;
  for (size_t i = 0; i < candidates.size(); i++) {
    if (candidates[i].apple) continue;  // what has not been compared with ours is not used
    try {
      for (const Dispatch& dispatch : candidates[i].dispatches) device.pipeline(dispatch);
      return i;
    } catch (const ProgramError& error) {
      reasons += (reasons.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw ProgramError(reasons);
}

}  // namespace

size_t choose(Device& device, const Node& node, const std::vector<Recipe>& candidates) {
  for (size_t i = 0; i < candidates.size(); i++)
    if (candidates[i].apple && apple_kernels() == AppleKernels::always) return i;
  if (!wanted()) return first_that_compiles(device, candidates);
  static Memory* memory = new Memory(device);
  std::string key = signature(node);
  std::lock_guard lock(memory->mutex);  // one contest at a time: others would disturb its times
  if (const std::string* name = memory->find(key))
    for (size_t i = 0; i < candidates.size(); i++)
      if (candidates[i].implementation == *name) {
        note({types_of(node), *name, "won before", 0});
        return i;
      }
  size_t best = Contest(node, candidates).winner();
  memory->add(key, candidates[best].implementation);
  return best;
}

}  // namespace jax_mps::metal
