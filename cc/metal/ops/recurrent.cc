#include "recurrent.h"

namespace jax_mps::metal::recurrent {
namespace {

constexpr int kOtherNeurons = 1 << 12;  // beside the kinds, of which "none" is 0
constexpr int64_t kMaxSteps = 1 << 15;  // each is a launch or two

// The tile that wastes least of a product.
Tile tile_of(const Gemm& gemm) {
  auto up = [](int64_t n, int64_t unit) { return (n + unit - 1) / unit; };
  auto cost = [&](const Tile& t) {
    return double(up(gemm.p.m, t.m)) * up(gemm.p.n, t.n) * up(gemm.p.k, t.k) * t.k *
           (t.m * t.n + 8 * (t.m + t.n));
  };
  return *std::ranges::min_element(kTiles, {}, cost);
}

}  // namespace

PlanOrReason plan_of(const Node& node) {
  auto no = [](std::string reason) { return PlanOrReason{std::nullopt, std::move(reason)}; };
  const RecurrentNode s = recurrent_of(node);
  const TensorType& x = node.in[s.skip];
  if (s.batch * s.time * std::max(s.width, s.inputs) >= kMaxElements)
    return no("the gates of all steps take up to 2^31 elements");
  if (s.time > kMaxSteps)
    return no("the kernels take up to " + std::to_string(kMaxSteps) + " steps");
  Plan plan{};
  plan.cell = s.cell, plan.dtype = x.dtype, plan.skip = static_cast<int>(s.skip);
  plan.batch = static_cast<int>(s.batch), plan.time = static_cast<int>(s.time);
  plan.inputs = static_cast<int>(s.inputs), plan.hidden = static_cast<int>(s.hidden);
  plan.columns = static_cast<int>(s.columns), plan.width = static_cast<int>(s.width);
  plan.first = static_cast<int>(s.first), plan.states = s.states;
  plan.reverse = s.reverse, plan.recompute = s.recompute, plan.extra = s.extra;
  plan.matrix = s.matrix, plan.flip = s.flip, plan.p = s.p;
  // Beside matrices gates are materialised as what the neurons take.
  if (!s.plain || s.matrix) plan.kinds = kOtherNeurons;
  for (size_t i = 0; i < s.neurons.size(); i++) {
    const Neuron& n = s.neurons[i];
    plan.neurons[i] = {n.a, n.b, n.c, n.c == -1 ? 1 : std::log(n.c)};
    if (plan.kinds) plan.kinds |= static_cast<int>(n.kind) << 4 * i;
  }
  if (!is_floating(x)) return no("the recurrent kernels take one floating dtype");
  for (size_t i = 0; i < s.skip + s.fixed() + s.extra; i++)
    if (i != s.skip + 1 && node.in[i].dtype != x.dtype)
      return no("the recurrent kernels take one floating dtype");
  return {plan, ""};
}

Sequence::Sequence(Recipe& recipe, const Plan& plan) : recipe_(recipe), plan_(plan) {
  int at = plan.skip;
  x = recipe.operand(at++), lengths = recipe.operand(at++), h0 = recipe.operand(at++);
  if (plan.is_lstm()) c0 = recipe.operand(at++);
  w = recipe.operand(at++), r = recipe.operand(at++), b = recipe.operand(at++);
  if (!plan.is_lstm()) c0 = b;
  extra = plan.extra ? recipe.operand(at) : b;
}

void Sequence::convert(const char* function, Span from, Span to, int64_t count) {
  recipe_.dispatch("recurrent", function, storage(plan_.dtype))
      .constants({1, 0, 0, 0})
      .parameters(static_cast<int>(count))
      .reads(from)
      .writes(to)
      .over_elements(count);
}
void Sequence::widen(Span from, Span to, int64_t count) { convert("widen", from, to, count); }
void Sequence::narrow(Span from, Span to, int64_t count) { convert("narrow", from, to, count); }

Span Sequence::widened(Span from, int64_t count) {
  if (plan_.dtype == DType::f32) return from;
  Span to = floats(count);
  widen(from, to, count);
  return to;
}

RecurrentParameters Sequence::step(int t, int64_t rows) const {
  const Plan& s = plan_;
  RecurrentParameters p{};
  p.rows = static_cast<int>(rows);
  p.batch = s.batch, p.time = s.time, p.hidden = s.hidden, p.width = s.width;
  p.columns = s.columns;
  p.step = t, p.gate_row = t * s.batch;
  p.first_step = s.time_of(0), p.before = s.reverse ? 1 : -1;
  p.kept = 1;
  p.depth = p.a_width = s.hidden, p.gap_from = s.width;
  p.flip = s.flip, p.p = s.p;
  std::ranges::copy(s.neurons, p.neurons);
  return p;
}

Dispatch& Sequence::launch(const char* file, const char* function, const RecurrentParameters& p,
                           bool gates_only) {
  constexpr size_t kThreads = 128, kUnits = 8;
  const int simds = p.rows <= 8 ? 1 : p.rows <= 16 ? 2 : 4;
  const size_t tile = simds * 8;
  return recipe_.dispatch(file, function, storage(plan_.dtype))
      .constants({simds, plan_.extra, gates_only, plan_.kinds})
      .parameters(p)
      .over({(p.hidden + kUnits - 1) / kUnits, (p.rows + tile - 1) / tile, 1}, {kThreads, 1, 1})
      .computes(2.0 * p.rows * p.depth * plan_.columns);
}

void Sequence::add_steps(RecurrentParameters p, const Steps& at) {
  // What a launch leaves alone is bound to the gates.
  const Span after = at.gates_only ? at.gates : at.after, y = at.gates_only ? at.gates : at.y;
  const Span cells = at.gates_only ? at.gates : at.cells;
  const char* file = plan_.is_peeping() ? "recurrent_peephole" : "recurrent";
  auto launch = [&](const char* function) -> Dispatch& {
    return this->launch(file, function, p, at.gates_only);
  };
  auto with_state = [&](const char* function) -> Dispatch& {
    return launch(function).reads(at.h).reads(r).reads(b);
  };
  switch (plan_.cell) {
    case Cell::lstm:
      if (plan_.matrix) {
        with_state("lstm_cells")
            .reads(extra)
            .reads(at.before)
            .updates(at.gates)
            .writes(at.gates_only ? at.gates : at.made);
        launch("lstm_outputs")
            .reads(at.made)
            .reads(extra)
            .reads(lengths)
            .reads(at.h)
            .reads(at.before)
            .updates(at.gates)
            .writes(cells)
            .writes(after)
            .writes(y);
        return;
      }
      with_state("lstm_step")
          .reads(extra)
          .reads(lengths)
          .reads(c0)
          .reads(at.before)
          .updates(at.gates)
          .writes(cells)
          .writes(after)
          .writes(y);
      return;
    case Cell::gru_after:
      with_state("gru_after_step")
          .reads(extra)
          .reads(lengths)
          .updates(at.gates)
          .writes(after)
          .writes(y);
      return;
    case Cell::gru:
    case Cell::mgu:
      with_state(plan_.cell == Cell::gru ? "gru_gates" : "mgu_gates")
          .updates(at.gates)
          .writes(at.reset)
          .writes(at.update);
      p.r_column = plan_.first;
      launch("gru_step")
          .reads(at.reset)
          .reads(r)
          .reads(b)
          .reads(at.update)
          .reads(extra)
          .reads(lengths)
          .reads(at.h)
          .updates(at.gates)
          .writes(after)
          .writes(y);
      return;
    case Cell::rnn:
      with_state("rnn_step").reads(lengths).updates(at.gates).writes(after).writes(y);
      return;
  }
}

Gemm Sequence::product(int m, int n, int k, Span a, Span b, Span c, DType result) const {
  Gemm gemm;
  GemmParameters& p = gemm.p;
  p.m = m, p.n = n, p.k = k;
  p.a_row = k, p.a_column = 1;
  p.b_inner = n, p.b_column = 1, p.b_divisor = k;
  p.c_row = n, p.total = m * n;
  gemm.dtype = storage(DType::f32), gemm.result = result;
  gemm.a = a, gemm.b = b, gemm.c = c;
  return gemm;
}

void Sequence::add(Gemm gemm) {
  const Tile tile = tile_of(gemm);
  add_gemm(recipe_, std::move(gemm), tile);
}

void Sequence::project(int low, int steps, Span gates) {
  const Plan& s = plan_;
  const size_t size = size_of(s.dtype);
  // Columns [from, from + count) of w make those of the gates from `to` on.
  auto columns = [&](int from, int count, int to) {
    Gemm gemm = product(s.batch, count, s.inputs, x, w.part(from * size, w.bytes - from * size),
                        gates, DType::f32);
    GemmParameters& p = gemm.p;
    const size_t skipped = size_t(low) * s.inputs * size, skipped_gates = to * sizeof(float);
    gemm.a = x.part(skipped, x.bytes - skipped);
    gemm.c = gates.part(skipped_gates, gates.bytes - skipped_gates);
    gemm.dtype = storage(s.dtype);
    p.b_inner = s.columns;
    // One product for each step, or for each sequence: what fills the tiles better.
    const int of_sequence = s.time * s.inputs, of_step = s.batch * s.width;
    auto waste = [](int n) { return double((n + 31) / 32 * 32) / n; };
    if (waste(s.batch) <= waste(steps)) {
      gemm.batches = steps;
      p.a_row = of_sequence, p.a_batch = s.inputs, p.c_row = s.width, p.c_batch = of_step;
    } else {
      gemm.batches = s.batch;
      p.m = steps;
      p.a_row = s.inputs, p.a_batch = of_sequence, p.c_row = of_step, p.c_batch = s.width;
    }
    add(gemm);
  };
  if (s.cell == Cell::gru_after) {
    columns(0, 2 * s.hidden, 0);
    columns(2 * s.hidden, s.hidden, 3 * s.hidden);
  } else {
    columns(0, s.columns, 0);
  }
}

}  // namespace jax_mps::metal::recurrent
