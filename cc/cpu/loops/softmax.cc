#include "softmax.h"

#include "math.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// Rows are taken in chunks of at most kChunk elements, or one by one. The exponentials of short
// rows are computed over the whole chunk, where vectors are full; only the cheap sums go row by
// row.
constexpr int64_t kChunk = 2048, kShort = 32;

// f(first, count) for each chunk of rows, in parallel.
template <class F>
void each_chunk(int64_t rows, int64_t classes, const F& f) {
  int64_t grain = classes < kChunk ? kChunk / classes : 1;
  parallel_pieces(rows, grain, 4 * rows * classes,
                  [&](int64_t begin, int64_t end) { f(begin, end - begin); });
}

float maximum_of(const float* x, int64_t n) {
  constexpr int64_t kLanes = 32;
  float result = -__builtin_inff();
  int64_t i = 0;
  if (n >= kLanes) {
    float lanes[kLanes];
    for (int64_t j = 0; j < kLanes; j++) lanes[j] = result;
    for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
      for (int64_t j = 0; j < kLanes; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (int64_t j = 0; j < kLanes; j++) result = lanes[j] > result ? lanes[j] : result;
  }
  for (; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

float sum_of(const float* x, int64_t n) {
  float sum = 0;
  if (n < kShort) {
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum;
}

void exp_all(float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] = exp(x[i]);
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

// maximum and log sum exp(x - maximum) of each row of a chunk
void log_sums(const float* x, float* maximum, float* log_sum, int64_t count, int64_t n) {
  float exponentials[kChunk];
  for (int64_t r = 0; r < count; r++) {
    maximum[r] = maximum_of(x + r * n, n);
    if (n >= kShort)
      log_sum[r] = exp_sum(x + r * n, maximum[r], n);
    else
      for (int64_t c = 0; c < n; c++) exponentials[r * n + c] = x[r * n + c] - maximum[r];
  }
  if (n < kShort) {
    exp_all(exponentials, count * n);
    for (int64_t r = 0; r < count; r++) log_sum[r] = sum_of(exponentials + r * n, n);
  }
#pragma omp simd
  for (int64_t r = 0; r < count; r++) log_sum[r] = log(log_sum[r]);
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
  each_chunk(rows, n, [&](int64_t first, int64_t count) {
    const float* from = x + first * n;
    float* to = y + first * n;
    if (log) {
      float maximum[kChunk], log_sum[kChunk];
      log_sums(from, maximum, log_sum, count, n);
      for (int64_t r = 0; r < count; r++)
        subtract_row(from + r * n, maximum[r], log_sum[r], to + r * n, n);
    } else if (n < kShort) {
      for (int64_t r = 0; r < count; r++) {
        float maximum = maximum_of(from + r * n, n);
        for (int64_t c = 0; c < n; c++) to[r * n + c] = from[r * n + c] - maximum;
      }
      exp_all(to, count * n);
      for (int64_t r = 0; r < count; r++) scale_row(to + r * n, 1 / sum_of(to + r * n, n), n);
    } else {
      for (int64_t r = 0; r < count; r++) {
        float sum = exp_row(from + r * n, maximum_of(from + r * n, n), to + r * n, n);
        scale_row(to + r * n, 1 / sum, n);
      }
    }
  });
}

void gradient_row(const float* dy, const float* y, float* dx, int64_t n) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < n; c++) dot += dy[c] * y[c];
#pragma omp simd
  for (int64_t c = 0; c < n; c++) dx[c] = y[c] * (dy[c] - dot);
}

void log_gradient_rows(const float* dy, const float* y, float* dx, int64_t count, int64_t n) {
  // exp(y) into dx first: over the whole chunk its vectors are full.
#pragma omp simd
  for (int64_t i = 0; i < count * n; i++) dx[i] = exp(y[i]);
  for (int64_t r = 0; r < count; r++) {
    float sum = sum_of(dy + r * n, n);
#pragma omp simd
    for (int64_t i = r * n; i < (r + 1) * n; i++) dx[i] = dy[i] - dx[i] * sum;
  }
}

void gradient(bool log, const float* dy, const float* y, float* dx, int64_t rows, int64_t n) {
  each_chunk(rows, n, [&](int64_t first, int64_t count) {
    int64_t i = first * n;
    if (log)
      log_gradient_rows(dy + i, y + i, dx + i, count, n);
    else
      for (int64_t r = 0; r < count; r++, i += n) gradient_row(dy + i, y + i, dx + i, n);
  });
}

// -sum t (x - maximum - log_sum), where a class of label 0 and probability 0 adds nothing
float dense_loss(const float* x, const float* t, float kept, float spread, float maximum,
                 float log_sum, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; c++) {
    float label = t[c] * kept + spread, value = (x[c] - maximum) - log_sum;
    value = label == 0 ? (value == -__builtin_inff() ? 0 : value) : value;
    sum += label * value;
  }
  return -sum;
}

float index_loss(const float* x, int64_t label, float kept, float spread, float maximum,
                 float log_sum, int64_t n) {
  if (label < 0 || label >= n) return __builtin_nanf("");
  float loss = kept == 0 ? 0 : -kept * ((x[label] - maximum) - log_sum);
  if (spread == 0) return loss;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; c++) sum += (x[c] - maximum) - log_sum;
  return loss - spread * sum;
}

void cross_entropy(const float* x, const Labels& labels, float* loss, float* maximum,
                   float* log_sum, int64_t rows, int64_t n) {
  float kept = 1 - labels.smoothing, spread = labels.smoothing / static_cast<float>(n);
  each_chunk(rows, n, [&](int64_t first, int64_t count) {
    log_sums(x + first * n, maximum + first, log_sum + first, count, n);
    for (int64_t r = first; r < first + count; r++)
      loss[r] =
          labels.dense
              ? dense_loss(x + r * n, labels.dense + r * n, kept, spread, maximum[r], log_sum[r], n)
              : index_loss(x + r * n, labels.index[r], kept, spread, maximum[r], log_sum[r], n);
  });
}

// probabilities = exp(x - maximum - log_sum) of each row of a chunk; may be in dx
void probabilities(const float* x, const float* maximum, const float* log_sum, float* p,
                   int64_t count, int64_t n) {
  if (n >= kShort) {
    for (int64_t r = 0; r < count; r++)
#pragma omp simd
      for (int64_t i = r * n; i < (r + 1) * n; i++) p[i] = exp((x[i] - maximum[r]) - log_sum[r]);
    return;
  }
  for (int64_t r = 0; r < count; r++)
    for (int64_t i = r * n; i < (r + 1) * n; i++) p[i] = (x[i] - maximum[r]) - log_sum[r];
  exp_all(p, count * n);
}

// dx = dloss (p sum t - t), with p in dx
void dense_gradient(float dloss, const float* t, float kept, float smoothing, float spread,
                    float* dx, int64_t n) {
  float sum = kept * sum_of(t, n) + smoothing;
#pragma omp simd
  for (int64_t c = 0; c < n; c++) dx[c] = dloss * (dx[c] * sum - (t[c] * kept + spread));
}

void index_gradient(float dloss, int64_t label, float kept, float spread, float* dx, int64_t n) {
  bool valid = label >= 0 && label < n;
  float factor = valid ? dloss : __builtin_nanf("");
  float p = valid ? dx[label] : 0;
#pragma omp simd
  for (int64_t c = 0; c < n; c++) dx[c] = factor * (dx[c] - spread);
  if (valid) dx[label] = dloss * (p - (kept + spread));
}

void cross_entropy_gradient(const float* dloss, const float* x, const Labels& labels,
                            const float* maximum, const float* log_sum, float* dx, int64_t rows,
                            int64_t n) {
  float kept = 1 - labels.smoothing, spread = labels.smoothing / static_cast<float>(n);
  each_chunk(rows, n, [&](int64_t first, int64_t count) {
    probabilities(x + first * n, maximum + first, log_sum + first, dx + first * n, count, n);
    for (int64_t r = first; r < first + count; r++)
      if (labels.dense)
        dense_gradient(dloss[r], labels.dense + r * n, kept, labels.smoothing, spread, dx + r * n,
                       n);
      else
        index_gradient(dloss[r], labels.index[r], kept, spread, dx + r * n, n);
  });
}

}  // namespace

extern const SoftmaxLoops softmax_loops_table = {softmax, gradient, cross_entropy,
                                                 cross_entropy_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
