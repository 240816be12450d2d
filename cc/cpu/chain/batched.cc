#include "batched.h"

#include <algorithm>

namespace jax_mps::cpu {
namespace {

// A piece of memory: of the arena, or an input's or output's, which come after it.
struct Range {
  int64_t begin, end;
  bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
};

// What the steps of a stretch read and write.
class Stretch {
 public:
  explicit Stretch(const Program& program) {
    int64_t outside = static_cast<int64_t>(program.arena_bytes);
    for (const Value& value : program.values) {
      int64_t bytes = value.type.span() * static_cast<int64_t>(size_of(value.type.dtype));
      int64_t begin = value.offset < 0 ? outside : value.offset;
      if (value.offset < 0) outside += bytes;
      range_.push_back({begin, begin + bytes});
    }
    input_.resize(range_.size()), output_.resize(range_.size());
    for (int value : program.inputs) input_[value] = true;
    for (int value : program.outputs) output_[value] = true;
    for (const Step& step : program.steps) {
      if (!step.is_alias() || output_[step.results[0]]) continue;  // an output is copied there
      range_[step.results[0]] = range_[step.operands[0]];
      input_[step.results[0]] = input_[step.operands[0]];
    }
  }

  void clear() { reads_.clear(), writes_.clear(), registers_ = stores_ = 0; }

  // Adds a step, unless it waits for one that is there or there are too many.
  bool add(const Step& step, const Chain& chain) {
    registers_ += chain.register_count, stores_ += chain.store_count;
    if (registers_ > kBatchedRegisters || stores_ > kBatchedStores) return false;
    for (int value : step.results)
      if (any(reads_, value) || any(writes_, value)) return false;
    for (int value : step.operands)
      if (any(writes_, value) || (any(reads_, value) && may_be_overwritten(value, step)))
        return false;
    reads_.insert(reads_.end(), step.operands.begin(), step.operands.end());
    writes_.insert(writes_.end(), step.results.begin(), step.results.end());
    return true;
  }

 private:
  bool any(const std::vector<int>& values, int value) const {
    return std::ranges::any_of(values,
                               [&](int other) { return range_[other].overlaps(range_[value]); });
  }

  // The last step that reads an input may store an output of its size there, if it is donated.
  bool may_be_overwritten(int value, const Step& step) const {
    return input_[value] && std::ranges::any_of(step.results, [&](int result) {
             return output_[result] && range_[result].end - range_[result].begin ==
                                           range_[value].end - range_[value].begin;
           });
  }

  std::vector<Range> range_;
  std::vector<bool> input_, output_;
  std::vector<int> reads_, writes_;
  int registers_ = 0, stores_ = 0;
};

}  // namespace

std::vector<int> batched(const Program& program, const std::vector<const Chain*>& chains) {
  std::vector<int> count(chains.size(), 1);
  Stretch stretch(program);
  for (size_t i = 0; i < chains.size(); i += count[i]) {
    stretch.clear();
    if (!chains[i] || !stretch.add(program.steps[i], *chains[i])) continue;
    for (size_t k = i + 1; k < chains.size() && count[i] < kBatched; k++, count[i]++)
      if (!chains[k] || !stretch.add(program.steps[k], *chains[k])) break;
  }
  return count;
}

}  // namespace jax_mps::cpu
