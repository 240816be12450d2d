#include "neuron.h"

#include "math.h"
#include "parallel.h"
#include "pieces.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// f(x) and dy f'(x) of one kind. At a kink the derivative is the one of the lower side: 0 for relu
// at 0, as in jax.nn.relu, because a fused kernel sees only the output. Of hard_sigmoid it is that of
// the slope, of absolute 0. Where it is 0, an infinite dy counts for nothing.
template <NeuronKind K>
struct Function {
  float a, b, c, log_c;

  float value(float x) const {
    if constexpr (K == NeuronKind::relu) return leaky(x);
    if constexpr (K == NeuronKind::linear) return a * x + b;
    if constexpr (K == NeuronKind::sigmoid) return sigmoid(x);
    if constexpr (K == NeuronKind::hard_sigmoid) {
      float t = a * x + b, bounded = t < 0 ? 0 : t;
      return bounded > 1 ? 1 : bounded;
    }
    if constexpr (K == NeuronKind::tanh) return a * tanh(b * x);
    if constexpr (K == NeuronKind::absolute) return abs(x);
    if constexpr (K == NeuronKind::softplus)
      return a * (maximum(b * x, 0) + log1p_unit(exp(-abs(b * x))));
    if constexpr (K == NeuronKind::softsign) return x / (1 + abs(x));
    if constexpr (K == NeuronKind::elu) return x > 0 || x != x ? x : a * expm1_negative(x);
    if constexpr (K == NeuronKind::relun) return minimum(leaky(x), b);
    if constexpr (K == NeuronKind::power) return __builtin_powf(a * x + b, c);
    if constexpr (K == NeuronKind::exponential) return exp((a * x + b) * log_c);
    if constexpr (K == NeuronKind::logarithm) return log(a * x + b) / log_c;
    if constexpr (K == NeuronKind::gelu) return 0.5f * x * (1 + erf(x * 0.707106781f));
    return x;
  }

  float gradient(float dy, float x) const {
    if constexpr (K == NeuronKind::relu) return x <= 0 ? times(a, dy) : dy;
    if constexpr (K == NeuronKind::relun) {
      float slope = x <= 0 ? times(a, dy) : dy;
      return leaky(x) >= b ? 0 : slope;
    }
    if constexpr (K == NeuronKind::hard_sigmoid) {
      float t = a * x + b;
      return t < 0 || t > 1 ? 0 : a * dy;
    }
    if constexpr (K == NeuronKind::power)
      if (c == 0) return 0;
    return dy * derivative(x);
  }

 private:
  float derivative(float x) const {
    if constexpr (K == NeuronKind::linear) return a;
    if constexpr (K == NeuronKind::sigmoid) {
      float y = sigmoid(-abs(x));  // the smaller half: 1 - y loses nothing
      return y * (1 - y);
    }
    if constexpr (K == NeuronKind::tanh) {
      float y = sigmoid(-abs(2 * b * x));  // 1 - tanh(t)^2 = 4 s(2t) (1 - s(2t))
      return 4 * a * b * y * (1 - y);
    }
    if constexpr (K == NeuronKind::absolute) return x > 0 ? 1 : (x < 0 ? -1 : x);
    if constexpr (K == NeuronKind::softplus) return a * b * sigmoid(b * x);
    if constexpr (K == NeuronKind::softsign) {
      float t = 1 + abs(x);
      return 1 / (t * t);
    }
    if constexpr (K == NeuronKind::elu) return x > 0 ? 1 : a * exp(x);
    if constexpr (K == NeuronKind::power) return a * c * __builtin_powf(a * x + b, c - 1);
    if constexpr (K == NeuronKind::exponential) return a * log_c * exp((a * x + b) * log_c);
    if constexpr (K == NeuronKind::logarithm) return a / (a * x + b) / log_c;
    if constexpr (K == NeuronKind::gelu)
      return 0.5f * (1 + erf(x * 0.707106781f)) + x * 0.398942280f * exp(-0.5f * x * x);
    return 1;
  }

  // 0 if the slope is, at infinity too.
  static float times(float slope, float x) { return slope == 0 ? 0 : slope * x; }
  float leaky(float x) const { return x <= 0 ? times(a, x) : x; }
  static float expm1_negative(float x) {
    float large = exp(x) - 1;
    float small =
        x * (1 + x * (0.5f + x * (0.166666667f +
                                  x * (0.0416666667f + x * (0.00833333f + x * 0.00138889f)))));
    return x > -0.35f ? small : large;
  }
};

// Calls f with the Function of the kind.
template <class F>
void dispatch(NeuronKind kind, float a, float b, float c, const F& f) {
  float log_c = c == -1 ? 1 : log(c);
  switch (kind) {
#define JAX_MPS_CASE(K) \
  case NeuronKind::K:   \
    return f(Function<NeuronKind::K>{a, b, c, log_c});
    JAX_MPS_CASE(none)
    JAX_MPS_CASE(relu)
    JAX_MPS_CASE(linear)
    JAX_MPS_CASE(sigmoid)
    JAX_MPS_CASE(hard_sigmoid)
    JAX_MPS_CASE(tanh)
    JAX_MPS_CASE(absolute)
    JAX_MPS_CASE(softplus)
    JAX_MPS_CASE(softsign)
    JAX_MPS_CASE(elu)
    JAX_MPS_CASE(relun)
    JAX_MPS_CASE(power)
    JAX_MPS_CASE(exponential)
    JAX_MPS_CASE(logarithm)
    JAX_MPS_CASE(gelu)
#undef JAX_MPS_CASE
  }
}

void apply(NeuronKind kind, float a, float b, float c, const float* x, float* y, int64_t n) {
  dispatch(kind, a, b, c, [&](auto f) {
    // Copies: read through the closures, they would have to be read anew after every store.
    parallel_elements(n, [=](int64_t begin, int64_t end) {
      const auto function = f;
      const float* in = x;
      float* out = y;
#pragma omp simd
      for (int64_t i = begin; i < end; i++) out[i] = function.value(in[i]);
    });
  });
}

void gradient(NeuronKind kind, float a, float b, float c, const float* dy, const float* x,
              float* dx, int64_t n) {
  dispatch(kind, a, b, c, [&](auto f) {
    parallel_elements(n, [=](int64_t begin, int64_t end) {
      const auto function = f;
      const float *in = x, *gradient = dy;
      float* out = dx;
#pragma omp simd
      for (int64_t i = begin; i < end; i++) out[i] = function.gradient(gradient[i], in[i]);
    });
  });
}

void prelu(const float* x, const float* slope, float* y, int64_t rows, int64_t channels) {
  parallel_pieces(rows, rows_per_piece(rows), rows * channels, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        float v = x[r * channels + c];
        y[r * channels + c] = v >= 0 || v != v ? v : slope[c] * v;
      }
  });
}

void prelu_gradient(const float* dy, const float* x, const float* slope, float* dx, float* dslope,
                    float* partial, int64_t rows, int64_t channels) {
  int64_t grain = rows_per_piece(rows);
  parallel_pieces(rows, grain, rows * channels, [&](int64_t begin, int64_t end) {
    float* sum = partial + begin / grain * channels;
    for (int64_t c = 0; c < channels; c++) sum[c] = 0;
    for (int64_t r = begin; r < end; r++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        int64_t i = r * channels + c;
        dx[i] = dy[i] * (x[i] > 0 ? 1 : slope[c]);
        sum[c] += x[i] > 0 ? 0 : dy[i] * x[i];
      }
  });
  for (int64_t c = 0; c < channels; c++) dslope[c] = 0;
  for (int64_t p = 0; p < pieces_of(rows); p++)
    for (int64_t c = 0; c < channels; c++) dslope[c] += partial[p * channels + c];
}

}  // namespace

extern const NeuronLoops neuron_loops_table = {apply, gradient, prelu, prelu_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
