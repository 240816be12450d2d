#include "parts.h"

#include <algorithm>
#include <utility>

namespace jax_mps::cpu {
namespace {

constexpr int kForever = 1 << 30;

}  // namespace

int ChainParts::position(int axis) const {
  auto found = std::ranges::find(space_.order, axis);
  return found == space_.order.end() ? -1 : static_cast<int>(found - space_.order.begin());
}

std::vector<int16_t> ChainParts::reads(const ChainStep& step) const {
  std::vector<int16_t> found;
  auto add = [&](const ChainStep& s) {
    if (s.load < 0) found.insert(found.end(), {s.a, s.b, s.c});
  };
  if (step.segment < 0) {
    add(step);
  } else {
    const ChainSegment& segment = segments_[step.segment];
    std::ranges::for_each(segment.body, add);
    for (const ChainSegment::Fold& fold : segment.folds) found.push_back(fold.x);
    std::erase_if(found, [&](int16_t r) {
      return std::ranges::any_of(segment.body, [&](const ChainStep& s) { return s.y == r; });
    });
  }
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

std::vector<int16_t> ChainParts::writes(const ChainStep& step) const {
  if (step.segment >= 0) return segments_[step.segment].writes;
  if (step.fn || step.load >= 0) return {step.y};
  return {};
}

bool ChainParts::place(int64_t bytes) {
  std::vector<int> last(registers_.size(), -1), written(registers_.size(), -1);
  for (int s = 0; s < static_cast<int>(steps_.size()); s++) {
    for (int r : reads(steps_[s])) last[r] = s;
    for (int r : writes(steps_[s])) written[r] = s;
  }
  std::vector<bool> straight(registers_.size());
  for (ChainStore& store : stores_) {
    last[store.x] = kForever;
    bool may = written[store.x] >= 0 && registers_[store.x].storage == RegisterStorage::local &&
               store.storage == Storage::word && !store.row && !straight[store.x];
    if (may) store.written = written[store.x], straight[store.x] = true;
  }
  last_read_.assign(code_.operands.size(), -1);
  for (int r : in_place_) last_read_[registers_[r].offset] = last[r];

  int64_t slot = align_up(space_.block() * kWord), top = 0;
  std::vector<int64_t> unused;
  auto take = [&] {
    if (unused.empty()) return std::exchange(top, top + slot);
    int64_t offset = unused.back();
    unused.pop_back();
    return offset;
  };
  for (ChainReduction& r : reductions_)
    if (r.over_blocks) registers_[r.tile_register].offset = r.tile = take();
  for (size_t r = 0; r < registers_.size(); r++)
    if (registers_[r].storage == RegisterStorage::local && !register_traits_[r].vector)
      registers_[r].offset = std::exchange(top, top + align_up(kWord));
  for (int s = 0; s < static_cast<int>(steps_.size()); s++) {
    auto has_slot = [&](int r) {
      return registers_[r].storage == RegisterStorage::local && register_traits_[r].vector;
    };
    for (int r : reads(steps_[s]))
      if (last[r] == s && has_slot(r)) unused.push_back(registers_[r].offset);
    for (int r : writes(steps_[s])) {
      if (!has_slot(r)) continue;
      registers_[r].offset = take();
      if (last[r] < s) unused.push_back(registers_[r].offset);
    }
  }
  int64_t moving = top + static_cast<int64_t>(in_place_.size()) * slot;
  // Machine code passes over all at once, so what stays from block to block counts as well.
  for (size_t r = 0; r < registers_.size() && !segments_.empty(); r++)
    if (registers_[r].storage == RegisterStorage::shared && register_traits_[r].vector)
      moving += slot;
  return top <= kChainLocalBytes && registers_.size() <= kChainRegisters &&
         (space_.block() <= kShortBlock || moving <= bytes);
}

void ChainParts::finish() {
  for (ChainReduction& r : reductions_) {
    if (r.in_result) continue;
    r.partial = scratch_;
    scratch_ += align_up(r.parts * r.elements * kWord);
  }
  size_t operands = code_.operands.size();
  size_t streams = operands + 1 + reductions_.size();
  start_.assign(streams, 0);
  for (size_t i = 0; i < operands; i++) start_[i] = code_.operands[i].offset;
  for (int a : space_.order) {
    int64_t scale = a == space_.axis ? space_.chunk : 1, linear = 1;
    for (size_t b = a + 1; b < space_.shape.size(); b++) linear *= space_.shape[b];
    for (size_t i = 0; i < operands; i++) step_.push_back(scale * space_.strides[i][a]);
    step_.push_back(scale * linear);
    for (const ChainReduction& r : reductions_)
      step_.push_back(scale * space_.results[r.result][a]);
  }
  Chain& c = chain_;
  c.axes = static_cast<int>(space_.order.size()), c.streams = static_cast<int>(streams);
  c.chunk_axis = position(space_.axis);
  std::ranges::copy(space_.count, c.count);
  c.start = start_.data(), c.step = step_.data();
  c.chunk = space_.chunk, c.extent = space_.shape[space_.axis], c.inner = space_.inner;
  c.kept_blocks = space_.kept_blocks, c.reduced_blocks = space_.reduced_blocks;
  c.parts = parts_;
  int64_t weight =
      1 + static_cast<int64_t>(steps_.size()) / 4;  // steps in units of a memory access
  c.work = space_.elements() * weight;
  constexpr int64_t kPiece = 16 * 1024;
  int64_t unit = std::max<int64_t>(c.reduced_blocks / c.parts, 1) * space_.block() * weight;
  c.grain = std::max<int64_t>(kPiece / unit, 1);
  c.operands = static_cast<int>(operands), c.results = static_cast<int>(code_.outputs.size());
  c.registers = registers_.data(), c.register_count = static_cast<int>(registers_.size());
  c.constants = constants_.data();
  c.loads = loads_.data();
  c.ramps = ramps_.data(), c.ramp_count = static_cast<int>(ramps_.size());
  c.coordinates = coordinates_.data();
  c.coordinate_count = static_cast<int>(coordinates_.size());
  c.invariant = invariant_.data(), c.invariant_count = static_cast<int>(invariant_.size());
  c.steps = steps_.data(), c.step_count = static_cast<int>(steps_.size());
  c.in_place = in_place_.data(), c.in_place_count = static_cast<int>(in_place_.size());
  c.last_read = last_read_.data();
  c.stores = stores_.data(), c.store_count = static_cast<int>(stores_.size());
  c.reductions = reductions_.data();
  c.reduction_count = static_cast<int>(reductions_.size());
  for (ChainStep& step : steps_)
    if (step.segment >= 0)
      step.compiled = reinterpret_cast<ChainCompiled>(machine_code_->at(code_start_[step.segment]));
}

}  // namespace jax_mps::cpu
