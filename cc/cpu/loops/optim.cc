#include "optim.h"

#include "convert.h"
#include "math.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {

extern const ConvertLoops convert_table;  // of this instruction set

namespace {

// The entries of the hyperparameter vector, as jax_mps/ops/optim.py lists them.
struct Common {
  float clip_min, clip_max, gradient_rescale, regularization_scale;
};

struct Momentum {
  float momentum, step_in, step_out;

  // The update in the direction d; `nesterov` looks one step ahead.
  float operator()(float d, float& trace, bool nesterov) const {
    d = step_in * d;
    trace = momentum * trace + d;
    return step_out * (nesterov ? momentum * trace + d : trace);
  }
};

// A rule maps a gradient and up to three states, which it renews, to the update.
template <OptimRule R>
struct Sgd {
  static constexpr int states = R == OptimRule::sgd ? 0 : 1;
  Momentum momentum;

  float operator()(float g, float& trace, float&, float&) const {
    if constexpr (states == 0) return momentum.step_out * (momentum.step_in * g);
    return momentum(g, trace, R == OptimRule::sgd_nesterov);
  }
};

template <bool kCentered, int kMomentum>  // kMomentum: 0 none, 1 plain, 2 Nesterov's
struct RmsProp {
  static constexpr int states = 1 + kCentered + (kMomentum > 0);
  Momentum momentum;
  float decay, rest, correction, eps_root, eps;

  // Centred, nu is the variance, which grows by squares alone: nothing cancels.
  float operator()(float g, float& nu, float& second, float& third) const {
    float square = kCentered ? correction * ((g - second) * (g - second)) : rest * (g * g);
    nu = decay * nu + square;
    if constexpr (kCentered) second += rest * (g - second);
    float spread = kCentered ? nu : correction * nu;
    float d = g / (__builtin_sqrtf(spread + eps_root) + eps);
    if constexpr (kMomentum == 0) return momentum.step_out * (momentum.step_in * d);
    return momentum(d, kCentered ? third : second, kMomentum == 2);
  }
};

template <bool kAmsgrad>
struct Adam {
  static constexpr int states = 2 + kAmsgrad;
  float b1, rest1, b2, rest2, step_mu, step_gradient, correction, eps_root, eps;

  float operator()(float g, float& mu, float& nu, float& nu_max) const {
    mu = b1 * mu + rest1 * g;
    nu = b2 * nu + rest2 * (g * g);
    float largest = correction * nu;
    if constexpr (kAmsgrad) largest = nu_max = maximum(nu_max, largest);
    return (step_mu * mu + step_gradient * g) / (__builtin_sqrtf(largest + eps_root) + eps);
  }
};

enum class Parameters { unread, read, written };

template <class Rule, Parameters kParameters>
void leaf_piece(const Rule rule, const Common common, Regularization regularization,
                const float* const* in, float* const* out, int64_t n) {
  constexpr int first = kParameters == Parameters::unread ? 1 : 2;
  const float* g = in[0];
  const float* w = in[kParameters == Parameters::unread ? 0 : 1];
  // A rule of fewer states has the first stream in place of the missing ones, never read and never
  // written.
  const float* from[3];
  float* to[3];
  for (int s = 0; s < 3; s++) from[s] = in[s < Rule::states ? first + s : 0];
  for (int s = 0; s < 3; s++) to[s] = out[s < Rule::states ? 1 + s : 0];
  const float *from0 = from[0], *from1 = from[1], *from2 = from[2];
  float *to0 = to[0], *to1 = to[1], *to2 = to[2], *result = out[0];
  const bool l1 = regularization == Regularization::l1,
             any = regularization != Regularization::none;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    // NaN fails both comparisons and stays; `minimum` of `maximum` would not vectorise here.
    float gradient = select(g[i] < common.clip_min, common.clip_min, g[i]);
    gradient = select(gradient > common.clip_max, common.clip_max, gradient);
    gradient *= common.gradient_rescale;
    float weight = 0, a = 0, b = 0, c = 0;
    if constexpr (kParameters != Parameters::unread) {
      weight = w[i];
      float sign = select(weight > 0, 1, select(weight < 0, -1, weight));
      float penalised = gradient + common.regularization_scale * select(l1, sign, weight);
      gradient = select(any, penalised, gradient);
    }
    if constexpr (Rule::states > 0) a = from0[i];
    if constexpr (Rule::states > 1) b = from1[i];
    if constexpr (Rule::states > 2) c = from2[i];
    float update = rule(gradient, a, b, c);
    if constexpr (Rule::states > 0) to0[i] = a;
    if constexpr (Rule::states > 1) to1[i] = b;
    if constexpr (Rule::states > 2) to2[i] = c;
    result[i] = kParameters == Parameters::written ? weight + update : update;
  }
}

// The leaf of a piece.
inline int64_t leaf_of(const OptimWork& work, int64_t piece) {
  int64_t low = 0, high = work.leaves;
  while (high - low > 1) {
    int64_t middle = (low + high) / 2;
    (work.first_piece[middle] <= piece ? low : high) = middle;
  }
  return low;
}

// f(in, out, n) over the pieces of all leaves, with half-precision pieces converted on the way in
// and out.
template <class F>
void over_pieces(const OptimWork& work, const void* const* in, void* const* out, const F& f) {
  auto one = [&](int64_t piece) __attribute__((noinline)) {
    alignas(64) float copies[2 * kMaxOptimStreams][kOptimPiece];
    const float* from[kMaxOptimStreams];
    float* to[kMaxOptimStreams];
    int64_t leaf = leaf_of(work, piece);
    int64_t begin = (piece - work.first_piece[leaf]) * kOptimPiece;
    int64_t n = work.sizes[leaf] - begin < kOptimPiece ? work.sizes[leaf] - begin : kOptimPiece;
    for (int s = 0; s < work.inputs; s++) {
      int64_t i = s * work.leaves + leaf;
      const void* x = in[1 + i];
      from[s] = copies[s];
      if (work.in_storage[i] == Storage::bf16)
        convert_table.from_bf16(static_cast<const uint16_t*>(x) + begin, copies[s], n);
      else if (work.in_storage[i] == Storage::f16)
        convert_table.from_f16(static_cast<const uint16_t*>(x) + begin, copies[s], n);
      else
        from[s] = static_cast<const float*>(x) + begin;
    }
    for (int s = 0; s < work.outputs; s++) {
      int64_t i = s * work.leaves + leaf;
      to[s] = work.out_storage[i] == Storage::f32 ? static_cast<float*>(out[i]) + begin
                                                  : copies[kMaxOptimStreams + s];
    }
    f(from, to, n);
    for (int s = 0; s < work.outputs; s++) {
      int64_t i = s * work.leaves + leaf;
      auto* y = static_cast<uint16_t*>(out[i]) + begin;
      if (work.out_storage[i] == Storage::bf16) convert_table.to_bf16(to[s], y, n);
      if (work.out_storage[i] == Storage::f16) convert_table.to_f16(to[s], y, n);
    }
  };
  constexpr int64_t kTogether = 32;
  const int64_t pieces = work.first_piece[work.leaves];
  // Elementwise work may be shared out as threads come free: results do not depend on it.
  parallel((pieces + kTogether - 1) / kTogether, work.elements, [&](int64_t some) {
    const int64_t end = (some + 1) * kTogether < pieces ? (some + 1) * kTogether : pieces;
    for (int64_t piece = some * kTogether; piece < end; piece++) one(piece);
  });
}

template <class Rule>
void run_rule(const OptimWork& work, const void* const* in, void* const* out) {
  struct Hyper {
    Common common;
    Rule rule;
  } hyper;
  static_assert(sizeof(Hyper) == sizeof(Common) + sizeof(Rule));
  __builtin_memcpy(&hyper, in[0], sizeof hyper);
  auto apply = [&]<Parameters kParameters>() {
    over_pieces(work, in, out, [&](const float* const* from, float* const* to, int64_t n) {
      leaf_piece<Rule, kParameters>(hyper.rule, hyper.common, work.regularization, from, to, n);
    });
  };
  if (work.apply) return apply.template operator()<Parameters::written>();
  if (work.reads_parameters) return apply.template operator()<Parameters::read>();
  apply.template operator()<Parameters::unread>();
}

void run(const OptimWork& work, const void* const* in, void* const* out) {
  switch (work.rule) {
    case OptimRule::sgd:
      return run_rule<Sgd<OptimRule::sgd>>(work, in, out);
    case OptimRule::sgd_momentum:
      return run_rule<Sgd<OptimRule::sgd_momentum>>(work, in, out);
    case OptimRule::sgd_nesterov:
      return run_rule<Sgd<OptimRule::sgd_nesterov>>(work, in, out);
    case OptimRule::adam:
      return run_rule<Adam<false>>(work, in, out);
    case OptimRule::amsgrad:
      return run_rule<Adam<true>>(work, in, out);
    case OptimRule::rmsprop:
      return run_rule<RmsProp<false, 0>>(work, in, out);
    case OptimRule::rmsprop_momentum:
      return run_rule<RmsProp<false, 1>>(work, in, out);
    case OptimRule::rmsprop_nesterov:
      return run_rule<RmsProp<false, 2>>(work, in, out);
    case OptimRule::rmsprop_centered:
      return run_rule<RmsProp<true, 0>>(work, in, out);
    case OptimRule::rmsprop_centered_momentum:
      return run_rule<RmsProp<true, 1>>(work, in, out);
    case OptimRule::rmsprop_centered_nesterov:
      return run_rule<RmsProp<true, 2>>(work, in, out);
  }
}

}  // namespace

extern const OptimLoops optim_loops_table = {run};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
