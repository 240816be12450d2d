#include "softmax.h"

#include "math.h"
#include "parallel.h"
#include "softmax_short.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// f(r) for each row, in parallel.
template <class F>
void each_row(int64_t rows, int64_t classes, const F& f) {
  int64_t grain = classes < 4096 ? 4096 / classes : 1;
  parallel_pieces(rows, grain, 4 * rows * classes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) f(r);
  });
}

float maximum_of(const float* x, int64_t n) {
  constexpr int64_t kWidth = 32;
  float lanes[kWidth];
  for (int64_t j = 0; j < kWidth; j++) lanes[j] = -__builtin_inff();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth)
#pragma omp simd
    for (int64_t j = 0; j < kWidth; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  for (int64_t half = kWidth / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; j++)
      lanes[j] = lanes[j + half] > lanes[j] ? lanes[j + half] : lanes[j];
  float result = lanes[0];
  for (; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

float sum_of(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum;
}

// y = exp(x - maximum), and the sum of it
float exp_row(const float* x, float maximum, float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    float e = exp(x[i] - maximum);
    y[i] = e;
    sum += e;
  }
  return sum;
}

float exp_sum(const float* x, float maximum, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += exp(x[i] - maximum);
  return sum;
}

void scale_row(float* y, float factor, int64_t n) {
#pragma omp simd
  for (int64_t c = 0; c < n; c++) y[c] *= factor;
}

void subtract_row(const float* x, float maximum, float log_sum, float* y, int64_t n) {
#pragma omp simd
  for (int64_t c = 0; c < n; c++) y[c] = (x[c] - maximum) - log_sum;
}

void softmax(bool log, const float* x, float* y, int64_t rows, int64_t n) {
  if (n < kShort) return short_softmax(log, x, y, rows, n);
  each_row(rows, n, [&](int64_t r) {
    const float* from = x + r * n;
    float* to = y + r * n;
    float maximum = maximum_of(from, n);
    if (log)
      subtract_row(from, maximum, JAX_MPS_ISA::log(exp_sum(from, maximum, n)), to, n);
    else
      scale_row(to, 1 / exp_row(from, maximum, to, n), n);
  });
}

void gradient_row(const float* dy, const float* y, float* dx, int64_t n) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < n; c++) dot += dy[c] * y[c];
#pragma omp simd
  for (int64_t c = 0; c < n; c++) dx[c] = y[c] * (dy[c] - dot);
}

void log_gradient_row(const float* dy, const float* y, float* dx, int64_t n) {
  float sum = sum_of(dy, n);
#pragma omp simd
  for (int64_t c = 0; c < n; c++) dx[c] = dy[c] - exp(y[c]) * sum;
}

void gradient(bool log, const float* dy, const float* y, float* dx, int64_t rows, int64_t n) {
  if (n < kShort) return short_gradient(log, dy, y, dx, rows, n);
  each_row(rows, n, [&](int64_t r) {
    (log ? log_gradient_row : gradient_row)(dy + r * n, y + r * n, dx + r * n, n);
  });
}

// -sum t (x - maximum - log_sum), where a class of label 0 and probability 0 adds nothing. In halves:
// two finite logits may differ by more than the largest number.
float dense_loss(const float* x, const float* t, float kept, float spread, float maximum,
                 float log_sum, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; c++) {
    float label = t[c] * kept + spread, value = half_log_p(x[c], maximum, log_sum);
    value = label == 0 ? (value == -__builtin_inff() ? 0 : value) : value;
    sum += 2 * label * value;
  }
  return -sum;
}

float index_loss(const float* x, int64_t label, float kept, float spread, float maximum,
                 float log_sum, int64_t n) {
  if (label < 0 || label >= n) return __builtin_nanf("");
  float loss = kept == 0 ? 0 : -2 * kept * half_log_p(x[label], maximum, log_sum);
  if (spread == 0) return loss;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; c++) sum += 2 * spread * half_log_p(x[c], maximum, log_sum);
  return loss - sum;
}

void cross_entropy(const float* x, const Labels& labels, float* loss, float* maximum,
                   float* log_sum, int64_t rows, int64_t n) {
  if (n < kShort) return short_cross_entropy(x, labels, loss, maximum, log_sum, rows, n);
  float kept = 1 - labels.smoothing, spread = labels.smoothing / static_cast<float>(n);
  each_row(rows, n, [&](int64_t r) {
    const float* row = x + r * n;
    float m = maximum_of(row, n), s = log(exp_sum(row, m, n));
    maximum[r] = m, log_sum[r] = s;
    loss[r] = labels.dense ? dense_loss(row, labels.dense + r * n, kept, spread, m, s, n)
                           : index_loss(row, labels.index[r], kept, spread, m, s, n);
  });
}

void cross_entropy_gradient(const float* dloss, const float* x, const Labels& labels,
                            const float* maximum, const float* log_sum, float* dx, int64_t rows,
                            int64_t n) {
  if (n < kShort)
    return short_cross_entropy_gradient(dloss, x, labels, maximum, log_sum, dx, rows, n);
  float kept = 1 - labels.smoothing, spread = labels.smoothing / static_cast<float>(n);
  // By value: what is read through a closure has to be read anew after every store.
  each_row(rows, n, [=](int64_t r) {
    const float* row = x + r * n;
    const float* t = labels.dense ? labels.dense + r * n : nullptr;
    float *d = dx + r * n, m = maximum[r], s = log_sum[r], g = dloss[r];
    if (labels.dense) {
      float sum = kept * sum_of(t, n) + labels.smoothing;
#pragma omp simd
      for (int64_t c = 0; c < n; c++)
        d[c] = g * (exp((row[c] - m) - s) * sum - (t[c] * kept + spread));
      return;
    }
    int64_t label = labels.index[r];
    bool valid = label >= 0 && label < n;
    g = valid ? g : __builtin_nanf("");
#pragma omp simd
    for (int64_t c = 0; c < n; c++) d[c] = g * (exp((row[c] - m) - s) - spread);
    if (valid) d[label] = g * (exp((row[label] - m) - s) - (kept + spread));
  });
}

}  // namespace

extern const SoftmaxLoops softmax_loops_table = {softmax, gradient, cross_entropy,
                                                 cross_entropy_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
