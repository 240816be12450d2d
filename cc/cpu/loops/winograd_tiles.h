// The transforms of Winograd's minimal filtering, of vectors of channels. Include only from files
// of loops/.
#pragma once

#include "lanes.h"
#include "winograd.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

using Vector = Lanes<kMaxLanes>::Float;

// Cook and Toom's transforms for `outputs` values of a filter of `taps`, from x of outputs + taps -
// 1 values: y = at ((g w) * (bt x)). They interpolate a product of polynomials at five points and
// at infinity. With 0, 5/8, -5/8, 3/2 and -3/2 the errors of the products reach the result 4.8
// times (3 taps) and 5.4 times (5 taps) as large as those of plain sums; with the smallest whole
// numbers and halves 6.9 and 7.8 times. Points in pairs share half of their arithmetic.
constexpr int kFinite = kWinogradTile - 1;
constexpr double kNear = 0.625, kFar = 1.5;
constexpr double kPoints[kFinite] = {0, kNear, -kNear, kFar, -kFar};

template <int rows_, int cols_>
struct Matrix {
  static constexpr int rows = rows_, cols = cols_;
  float at[rows][cols] = {};
};

template <int outputs>
constexpr Matrix<outputs, kWinogradTile> outputs_matrix() {
  Matrix<outputs, kWinogradTile> m;
  for (int p = 0; p < kFinite; p++) {
    double power = 1;
    for (int i = 0; i < outputs; i++, power *= kPoints[p]) m.at[i][p] = static_cast<float>(power);
  }
  m.at[outputs - 1][kFinite] = 1;
  return m;
}

template <int taps>
constexpr Matrix<kWinogradTile, taps> filter_matrix() {
  Matrix<kWinogradTile, taps> m;
  for (int p = 0; p < kFinite; p++) {
    double power = 1;
    for (int q = 0; q < kFinite; q++)
      if (q != p) power /= kPoints[p] - kPoints[q];
    for (int i = 0; i < taps; i++, power *= kPoints[p]) m.at[p][i] = static_cast<float>(power);
  }
  m.at[kFinite][taps - 1] = 1;
  return m;
}

// The sum over every second j from `first` on of row i of the matrix and in[j], unrolled, with its
// zeros and ones folded.
template <auto matrix>
inline __attribute__((always_inline)) Vector half_row(int i, int first, const Vector* in) {
  Vector sum{};
  bool any = false;
#pragma GCC unroll 3
  for (int j = first; j < matrix.cols; j += 2) {
    if (matrix.at[i][j] == 0) continue;
    sum = any ? sum + matrix.at[i][j] * in[j] : matrix.at[i][j] * in[j];
    any = true;
  }
  return sum;
}

// g: the rows of a pair of points differ in the signs of the odd columns.
template <int taps>
struct FilterTransform {
  static constexpr int rows = kWinogradTile, cols = taps;
  static inline __attribute__((always_inline)) void apply(const Vector* in, Vector* out) {
    constexpr auto g = filter_matrix<taps>();
    out[0] = g.at[0][0] * in[0];
#pragma GCC unroll 2
    for (int i = 1; i < kFinite; i += 2) {
      Vector even = half_row<g>(i, 0, in), odd = half_row<g>(i, 1, in);
      out[i] = even + odd;
      out[i + 1] = even - odd;
    }
    out[kFinite] = in[taps - 1];
  }
};

// at: the columns of a pair of points differ in the signs of the odd rows.
template <int outputs>
struct OutputsTransform {
  static constexpr int rows = outputs, cols = kWinogradTile;
  static inline __attribute__((always_inline)) void apply(const Vector* in, Vector* out) {
    constexpr auto at = outputs_matrix<outputs>();
    Vector sums[2] = {in[1] + in[2], in[3] + in[4]};
    Vector differences[2] = {in[1] - in[2], in[3] - in[4]};
    out[0] = in[0] + sums[0] + sums[1];
#pragma GCC unroll 5
    for (int i = 1; i < outputs; i++) {
      const Vector* pairs = i % 2 == 0 ? sums : differences;
      out[i] = at.at[i][1] * pairs[0] + at.at[i][3] * pairs[1];
    }
    out[outputs - 1] += in[kFinite];
  }
};

// bt: row p is the product of x - q over the points q other than p, the last that over all points.
// Its coefficients are exact in float32.
struct ImageTransform {
  static constexpr int rows = kWinogradTile, cols = kWinogradTile;
  static inline __attribute__((always_inline)) void apply(const Vector* x, Vector* out) {
    constexpr float near = kNear * kNear, far = kFar * kFar;
    out[0] = x[4] - (near + far) * x[2] + near * far * x[0];
    pair(x[4] - far * x[2], x[3] - far * x[1], kNear, out + 1);
    pair(x[4] - near * x[2], x[3] - near * x[1], kFar, out + 3);
    out[5] = x[5] - (near + far) * x[3] + near * far * x[1];
  }

 private:
  static inline __attribute__((always_inline)) void pair(Vector even, Vector odd, float point,
                                                         Vector* out) {
    out[0] = even + point * odd;
    out[1] = even - point * odd;
  }
};

// Both axes of a tile: put(i, T tile T^T) of get(j), by rows.
template <class T, class Get, class Put>
inline void transform_tile(const Get& get, const Put& put) {
  Vector half[T::rows][T::cols];
  for (int j = 0; j < T::cols; j++) {
    Vector in[T::cols], out[T::rows];
#pragma GCC unroll 6
    for (int i = 0; i < T::cols; i++) in[i] = get(i * T::cols + j);
    T::apply(in, out);
#pragma GCC unroll 6
    for (int i = 0; i < T::rows; i++) half[i][j] = out[i];
  }
  for (int i = 0; i < T::rows; i++) {
    Vector out[T::rows];
    T::apply(half[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < T::rows; j++) put(i * T::rows + j, out[j]);
  }
}

// Where the tile of a plan lies.
struct Tile {
  int64_t image, row, col;  // of the first result
};
inline Tile tile_at(const WinogradPlan& p, int64_t t, int side) {
  int64_t col = t % p.tile_cols(), rest = t / p.tile_cols();
  return {rest / p.tile_rows(), rest % p.tile_rows() * side, col * side};
}

// Pointers to the side x side pixels, `pixel` numbers apart, of an image from (row, col) on;
// `zeros` for what lies outside.
template <int side>
inline void points_of(const float* image, int64_t height, int64_t width, int64_t pixel, int64_t row,
                      int64_t col, const float* zeros, const float** points) {
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      int64_t h = row + i, w = col + j;
      bool inside = h >= 0 && h < height && w >= 0 && w < width;
      points[i * side + j] = inside ? image + (h * width + w) * pixel : zeros;
    }
}

// One of the matrices above along both axes.
template <class T>
struct BothAxes {
  template <class Get, class Put>
  static void apply(const Get& get, const Put& put) {
    transform_tile<T>(get, put);
  }
};

// The transforms of a convolution.
struct RealPoints {
  static constexpr int products = kRealProducts;
  using Image = BothAxes<ImageTransform>;
  template <int taps>
  using Filter = BothAxes<FilterTransform<taps>>;
  template <int outputs>
  using Outputs = BothAxes<OutputsTransform<outputs>>;
};

// factors[f * step + c] = that of the f-th product of the transformed tile, for every channel.
template <class T>
inline void transform_points(const float* const* points, int64_t channels, float* factors,
                             int64_t step) {
  for (int64_t c = 0; c < channels; c += kMaxLanes)
    T::apply([&](int i) { return load<Vector>(points[i] + c); },
             [&](int f, Vector v) { store(factors + f * step + c, v); });
}

// The step from one product of a block to the next: not a multiple of the page, so that they do not
// fall on one another in the cache.
inline int64_t product_step(int64_t tiles, int64_t channels) { return tiles * channels + 48; }

template <class Points, int taps>
inline void transform_image(const WinogradPlan& p, const float* x, int64_t first, int64_t count,
                            const float* zeros, float* out, int64_t step) {
  constexpr int outputs = winograd_outputs(taps);
  for (int64_t t = 0; t < count; t++) {
    Tile tile = tile_at(p, first + t, outputs);
    const float* points[kWinogradTile * kWinogradTile];
    points_of<kWinogradTile>(x + tile.image * p.height * p.width * p.x_pixel, p.height, p.width,
                             p.x_pixel, tile.row - p.pad_top, tile.col - p.pad_left, zeros, points);
    transform_points<typename Points::Image>(points, p.channels, out + t * p.channels, step);
  }
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
