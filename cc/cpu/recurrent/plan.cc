#include "plan.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>

#include "cpu/device.h"
#include "cpu/threads.h"

namespace jax_mps::cpu::recurrent {
namespace {

constexpr int64_t kRows =
    768;  // of a chunk: enough for products at full speed, few enough for caches

}  // namespace

PlanOrReason plan_of(const Node& node) {
  auto no = [](std::string reason) { return PlanOrReason{std::nullopt, std::move(reason)}; };
  Plan plan(recurrent_of(node));
  if (plan.batch * plan.time * plan.inputs == 0 || plan.columns == 0)
    return no("there is nothing to compute");
  if (!fits_onednn(node)) return no(kTooLarge);

  // A thread goes alone where it has rows enough to make use of all of r, which its cache holds.
  constexpr int64_t kRowsAlone = 8, kCache = 768 * 1024;
  const bool alone =
      plan.batch >= kRowsAlone * max_threads() && plan.hidden * plan.columns * 4 <= kCache;
  plan.parts = alone ? max_threads() : 1;

  const int64_t h = plan.hidden;
  plan.segments = {{0, 0, plan.columns}};
  if (plan.cell == Cell::gru_after) plan.segments = {{0, 0, 2 * h}, {2 * h, 3 * h, h}};
  plan.general = plan.matrix || (plan.cell != Cell::rnn && !plan.plain);
  // With fewer rows w would pass through the caches once a step for too little work.
  constexpr int64_t kRowsWhole = 16;
  plan.whole = plan.is_lstm() && !plan.general && !plan.extra && plan.batch >= kRowsWhole;
  for (const Types* types : {&node.in, &node.out})
    for (const TensorType& type : *types)
      if (type.dtype != DType::f32 && type.dtype != DType::s32)
        return no("the recurrent kernels take float32");
  return {plan, ""};
}

Operands operands_of(const Plan& plan, const Buffers& buffers) {
  int at = static_cast<int>(plan.skip);
  Operands o{};
  o.x = buffers.input<float>(at++);
  const int32_t* lengths = buffers.input<int32_t>(at++);
  o.h0 = buffers.input<float>(at++);
  if (plan.is_lstm()) o.c0 = buffers.input<float>(at++);
  o.w = buffers.input<float>(at++);
  o.r = buffers.input<float>(at++);
  o.b = buffers.input<float>(at++);
  if (plan.extra) o.extra = buffers.input<float>(at++);
  bool all = std::all_of(lengths, lengths + plan.batch, [&](int32_t n) { return n >= plan.time; });
  o.lengths = all ? nullptr : lengths;
  return o;
}

RecurrentSteps steps_of(const Plan& plan, const Operands& operands, float* work) {
  RecurrentSteps s{};
  s.shape = plan.shape(), s.work = work;
  s.time = plan.time, s.reverse = plan.reverse;
  s.extra = plan.matrix ? nullptr : operands.extra, s.lengths = operands.lengths,
  s.c0 = operands.c0;
  s.x = operands.x, s.w = operands.w, s.b = operands.b;
  s.p = plan.p, s.flip = plan.flip;
  for (size_t i = 0; i < plan.neurons.size(); i++) {
    const Neuron& neuron = plan.neurons[i];
    s.neurons[i] = {neuron.kind, neuron.a, neuron.b, neuron.c};
  }
  return s;
}

Chunks::Chunks(const Plan& plan) {
  int64_t most = std::max<int64_t>(1, kRows / plan.batch);
  count_ = (plan.time + most - 1) / most;
  size_ = (plan.time + count_ - 1) / count_;
  count_ = (plan.time + size_ - 1) / size_;
  first_ = plan.time - (count_ - 1) * size_;
}

}  // namespace jax_mps::cpu::recurrent

#endif
