// Cuts the steps of a chain into segments that become one loop of machine code each.
#include <algorithm>

#include "cpu/jit/opcodes.h"
#include "parts.h"

namespace jax_mps::cpu {

void ChainParts::segment() {
  constexpr size_t kWorth = 2;  // steps
  auto folds = [&](const ChainStep& step) {
    if (step.reduction < 0 || !reductions_[step.reduction].over_blocks) return false;
    const ChainOutput& output = code_.outputs[reductions_[step.reduction].result];
    return output.type == ChainType::f32 && output.reduce != Reduce::prod;
  };
  auto compiles = [&](const ChainStep& step) {
    return folds(step) || (step.fn && !step.scalar && has_machine_code(step));
  };
  std::vector<bool> ready(registers_.size(), true);
  for (const ChainStep& step : steps_)
    for (int r : writes(step)) ready[r] = false;
  std::vector<ChainStep> order, left = std::move(steps_);
  // Moves the steps that are ready and wanted, in order, as long as there are any.
  auto take = [&](std::vector<ChainStep>& to, const auto& wanted) {
    std::vector<ChainStep> rest;
    for (const ChainStep& step : left) {
      bool takes =
          wanted(step) && std::ranges::all_of(reads(step), [&](int r) { return ready[r]; });
      for (int r : writes(step))
        if (takes) ready[r] = true;
      (takes ? to : rest).push_back(step);
    }
    left = std::move(rest);
  };
  while (!left.empty()) {
    take(order, [](const ChainStep& step) { return step.load >= 0 || (step.fn && step.scalar); });
    std::vector<ChainStep> run;
    take(run, compiles);
    if (run.size() < kWorth) {
      order.insert(order.end(), run.begin(), run.end());
    } else {
      ChainSegment segment;
      ChainStep step;
      step.segment = static_cast<int16_t>(segments_.size());
      for (const ChainStep& s : run) {
        if (!folds(s)) {
          segment.body.push_back(s);
          continue;
        }
        const ChainReduction& r = reductions_[s.reduction];
        segment.folds.push_back(
            {s.a, static_cast<int16_t>(r.tile_register), code_.outputs[r.result].reduce});
      }
      for (const ChainStep& s : segment.body)
        for (int r : {s.a, s.b, s.c})
          if (registers_[r].storage == RegisterStorage::constant)
            segment.constants[r] = constants_[registers_[r].offset / kWord];
      segments_.push_back(std::move(segment));
      order.push_back(step);
    }
    take(order, [&](const ChainStep& step) { return !compiles(step); });
  }
  steps_ = std::move(order);
  // What is read after its segment must be in memory.
  std::vector<bool> outside(registers_.size());
  for (const ChainStore& store : stores_) outside[store.x] = true;
  for (const ChainStep& step : steps_)
    for (int r : reads(step)) outside[r] = true;
  for (ChainSegment& segment : segments_)
    for (const ChainStep& s : segment.body)
      if (outside[s.y]) segment.writes.push_back(s.y);
}

bool ChainParts::compile() {
  if (segments_.empty()) return true;
  auto out = Assembler::make(isa() == Isa::v4);
  for (const ChainSegment& segment : segments_) {
    code_start_.push_back(out->code.size());
    write_machine_code(segment, *out);
  }
  out->finish();
  machine_code_ = MachineCode::make(out->code);
  return machine_code_ != nullptr;
}

}  // namespace jax_mps::cpu
