#include "norm.h"

#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kBlockRows = 32;  // wide rows whose float sums are exact enough by themselves

// Columns [first, first + channels) of the rows [begin, end), read as wide rows.
struct Tile {
  int64_t begin, end, first, channels, fold, stride;

  int64_t width() const { return channels * fold; }
  // f(i, n) for each wide row: n elements from x + i belong to the tile's columns 0 .. n - 1.
  template <class F>
  void each(int64_t from, int64_t to, const F& f) const {
    if (fold == 1) {
      for (int64_t r = from; r < to; r++) f(r * stride + first, channels);
      return;
    }
    int64_t last = to * stride, full = last - width();
    int64_t i = from * stride;
    for (; i <= full; i += width()) f(i, width());
    if (i < last) f(i, last - i);
  }
  // wide[j] = narrow[j mod channels]
  void repeat(const float* narrow, float* wide) const {
    for (int64_t k = 0; k < fold; k++)
      for (int64_t c = 0; c < channels; c++) wide[k * channels + c] = narrow[c];
  }
  // The sums of the wide columns that stand for one channel, in the first `channels` columns.
  void gather(float* wide) const {
    for (int64_t half = fold / 2; half > 0; half /= 2)
      for (int64_t j = 0; j < half * channels; j++) wide[j] += wide[half * channels + j];
  }
};

// f(piece, tile) for each task, in parallel.
template <class F>
void each_tile(const NormCut& cut, const F& f) {
  parallel_pieces(cut.pieces * cut.tiles, 1, cut.rows * cut.channels, [&](int64_t task, int64_t) {
    int64_t piece = task / cut.tiles, first = task % cut.tiles * kNormTile;
    int64_t begin = piece * cut.grain, end = begin + cut.grain;
    int64_t channels = cut.channels - first;
    f(piece, Tile{begin, end < cut.rows ? end : cut.rows, first,
                  channels < kNormTile ? channels : kNormTile, cut.fold, cut.channels});
  });
}

// f(from, to) for each block of the tile's rows.
template <class F>
void each_block(const Tile& t, const F& f) {
  int64_t rows = kBlockRows * t.fold;
  for (int64_t from = t.begin; from < t.end; from += rows)
    f(from, from + rows < t.end ? from + rows : t.end);
}

void clear(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = 0;
}

// Mean and sum of squared deviations of a tile, in one reading. Each block is summed relative to
// the mean of the rows before it, the first to its own: what cancels is never larger than what
// stays.
void tile_statistics(const Tile& t, const float* x, double* mean, double* squares) {
  alignas(64) float shift[kNormTile], sum[kNormTile], square[kNormTile];
  int64_t first_end = t.begin + kBlockRows * t.fold;
  first_end = first_end < t.end ? first_end : t.end;
  clear(sum, t.width());
  t.each(t.begin, first_end, [&](int64_t i, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += x[i + j];
  });
  t.gather(sum);
  for (int64_t c = 0; c < t.channels; c++) {
    mean[c] = sum[c] / static_cast<float>(first_end - t.begin);
    squares[c] = 0;
  }
  each_block(t, [&](int64_t from, int64_t to) {
    for (int64_t c = 0; c < t.channels; c++) sum[c] = static_cast<float>(mean[c]);
    t.repeat(sum, shift);
    clear(sum, t.width());
    clear(square, t.width());
    t.each(from, to, [&](int64_t i, int64_t n) {
#pragma omp simd
      for (int64_t j = 0; j < n; j++) {
        float d = x[i + j] - shift[j];
        sum[j] += d;
        square[j] += d * d;
      }
    });
    t.gather(sum);
    t.gather(square);
    double before = static_cast<double>(from - t.begin),
           share = 1.0 / static_cast<double>(to - t.begin);
#pragma omp simd
    for (int64_t c = 0; c < t.channels; c++) {
      double rest = mean[c] - shift[c];
      double s = before * rest + sum[c];
      squares[c] += before * rest * rest + square[c] - s * s * share;
      mean[c] = shift[c] + s * share;
    }
  });
}

// The statistics of a channel with infinities, NaN or squares beyond the range of float32.
void careful_statistics(const NormCut& cut, const float* x, int64_t c, float* mean,
                        float* variance) {
  double sum = 0, square = 0;
  for (int64_t r = 0; r < cut.rows; r++) sum += x[r * cut.channels + c];
  double m = sum / static_cast<double>(cut.rows);
  for (int64_t r = 0; r < cut.rows; r++) {
    double d = x[r * cut.channels + c] - m;
    square += d * d;
  }
  mean[c] = static_cast<float>(m);
  variance[c] = static_cast<float>(square / static_cast<double>(cut.rows));
}

void statistics(const NormCut& cut, const float* x, float* mean, float* variance, double* scratch) {
  double *means = scratch, *squares = scratch + cut.pieces * cut.channels;
  each_tile(cut, [&](int64_t piece, const Tile& t) {
    int64_t at = piece * cut.channels + t.first;
    tile_statistics(t, x, means + at, squares + at);
  });
  for (int64_t piece = 1; piece < cut.pieces; piece++) {
    int64_t begin = piece * cut.grain, end = begin + cut.grain;
    double before = static_cast<double>(begin);
    double share = static_cast<double>((end < cut.rows ? end : cut.rows) - begin);
    share /= before + share;
    const double *mean_b = means + piece * cut.channels,
                 *squares_b = squares + piece * cut.channels;
#pragma omp simd
    for (int64_t c = 0; c < cut.channels; c++) {
      double d = mean_b[c] - means[c];
      means[c] += d * share;
      squares[c] += squares_b[c] + d * d * before * share;
    }
  }
  for (int64_t c = 0; c < cut.channels; c++) {
    double value = squares[c] / static_cast<double>(cut.rows);
    mean[c] = static_cast<float>(means[c]);
    variance[c] = static_cast<float>(value < 0 ? 0 : value);
  }
  parallel_pieces(cut.channels, 1, cut.rows * cut.channels, [&](int64_t c, int64_t) {
    float both = mean[c] - mean[c] + (variance[c] - variance[c]);
    if (both != 0) careful_statistics(cut, x, c, mean, variance);
  });
}

void scales(const NormCut& cut, const NormArrays& a, float* scale) {
#pragma omp simd
  for (int64_t c = 0; c < cut.channels; c++)
    scale[c] = a.gamma[c] * (1.0f / __builtin_sqrtf(a.variance[c] + a.epsilon));
}

// A coefficient of each channel as it stands beside a wide row.
struct Wide {
  alignas(64) float copy[kNormTile];
  const float* data;

  Wide(const NormCut& cut, const float* narrow) : data(narrow) {
    if (cut.fold == 1) return;
    for (int64_t j = 0; j < cut.fold * cut.channels; j++) copy[j] = narrow[j % cut.channels];
    data = copy;
  }
};

// f(i, n) over wide rows in parallel: element i + j belongs to wide column j.
template <class F>
void each_wide_row(const NormCut& cut, const F& f) {
  int64_t width = cut.fold * cut.channels, all = cut.rows * cut.channels;
  int64_t rows = (all + width - 1) / width;
  int64_t grain = 16 * 1024 / width < 1 ? 1 : 16 * 1024 / width;
  parallel_pieces(rows, grain, all, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      int64_t i = r * width;
      f(i, i + width < all ? width : all - i);
    }
  });
}

// 0 if the slope is, for what is infinite, too.
inline float times(float slope, float x) { return slope == 0 ? 0 : slope * x; }

void normalize_row(const float* x, const float* mean, const float* scale, const float* beta,
                   float slope, float* y, int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float h = (x[j] - mean[j]) * scale[j] + beta[j];
    y[j] = h <= 0 ? times(slope, h) : h;
  }
}

void normalize(const NormCut& cut, const NormArrays& a, float* y, float* scale) {
  scales(cut, a, scale);
  Wide mean(cut, a.mean), wide_scale(cut, scale), beta(cut, a.beta);
  each_wide_row(cut, [&](int64_t i, int64_t n) {
    normalize_row(a.x + i, mean.data, wide_scale.data, beta.data, a.slope, y + i, n);
  });
}

template <bool kWithData>
void tile_sums(const Tile& t, const NormArrays& a, const float* dy, float* dx, const float* scale,
               double* dots, double* totals) {
  alignas(64) float wide_mean[kNormTile], wide_scale[kNormTile], wide_beta[kNormTile];
  alignas(64) float dot[kNormTile], total[kNormTile];
  t.repeat(a.mean + t.first, wide_mean);
  t.repeat(scale + t.first, wide_scale);
  t.repeat(a.beta + t.first, wide_beta);
  const float* x = a.x;
  float slope = a.slope;
  for (int64_t c = 0; c < t.channels; c++) dots[c] = totals[c] = 0;
  each_block(t, [&](int64_t from, int64_t to) {
    clear(dot, t.width());
    clear(total, t.width());
    t.each(from, to, [&](int64_t i, int64_t n) {
#pragma omp simd
      for (int64_t j = 0; j < n; j++) {
        float d = x[i + j] - wide_mean[j];
        float g = d * wide_scale[j] + wide_beta[j] <= 0 ? times(slope, dy[i + j]) : dy[i + j];
        total[j] += g;
        dot[j] += g * d;
        if constexpr (kWithData) dx[i + j] = g * wide_scale[j];
      }
    });
    t.gather(dot);
    t.gather(total);
    for (int64_t c = 0; c < t.channels; c++) {
      dots[c] += dot[c];
      totals[c] += total[c];
    }
  });
}

void sums(const NormCut& cut, const NormArrays& a, const float* dy, float* dx, float* dgamma,
          float* dbeta, float* scale, double* scratch) {
  scales(cut, a, scale);
  double *dots = scratch, *totals = scratch + cut.pieces * cut.channels;
  each_tile(cut, [&](int64_t piece, const Tile& t) {
    int64_t at = piece * cut.channels + t.first;
    if (dx)
      tile_sums<true>(t, a, dy, dx, scale, dots + at, totals + at);
    else
      tile_sums<false>(t, a, dy, dx, scale, dots + at, totals + at);
  });
  for (int64_t piece = 1; piece < cut.pieces; piece++)
    for (int64_t c = 0; c < cut.channels; c++) {
      dots[c] += dots[piece * cut.channels + c];
      totals[c] += totals[piece * cut.channels + c];
    }
  for (int64_t c = 0; c < cut.channels; c++) {
    dgamma[c] = static_cast<float>(dots[c]) / __builtin_sqrtf(a.variance[c] + a.epsilon);
    dbeta[c] = static_cast<float>(totals[c]);
  }
}

void gradient_row(const float* x, const float* dy, const float* mean, const float* scale,
                  const float* beta, const float* slopes, const float* offsets, float slope,
                  float* dx, int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float d = x[j] - mean[j];
    float g = d * scale[j] + beta[j] <= 0 ? times(slope, dy[j]) : dy[j];
    dx[j] = scale[j] * g + (slopes[j] * d + offsets[j]);
  }
}

void data_gradient(const NormCut& cut, const NormArrays& a, const float* dy, const float* dmean,
                   const float* dvariance, const float* dgamma, const float* dbeta, float* dx,
                   float* coefficients) {
  float *scale = coefficients, *slopes = scale + cut.channels, *offsets = slopes + cut.channels;
  scales(cut, a, scale);
  float share = 1.0f / static_cast<float>(cut.rows);
#pragma omp simd
  for (int64_t c = 0; c < cut.channels; c++) {
    float inverse = 1.0f / __builtin_sqrtf(a.variance[c] + a.epsilon);
    slopes[c] = (2 * dvariance[c] - scale[c] * inverse * dgamma[c]) * share;
    offsets[c] = (dmean[c] - scale[c] * dbeta[c]) * share;
  }
  Wide mean(cut, a.mean), wide_scale(cut, scale), beta(cut, a.beta), wide_slopes(cut, slopes),
      wide_offsets(cut, offsets);
  each_wide_row(cut, [&](int64_t i, int64_t n) {
    gradient_row(a.x + i, dy + i, mean.data, wide_scale.data, beta.data, wide_slopes.data,
                 wide_offsets.data, a.slope, dx + i, n);
  });
}

}  // namespace

extern const NormLoops norm_loops_table = {statistics, normalize, sums, data_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
