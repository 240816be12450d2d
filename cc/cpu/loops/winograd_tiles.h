// The transforms of Winograd's minimal filtering, of vectors of channels. Include only from files
// of loops/.
#pragma once

#include "lanes.h"
#include "winograd.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

using Vector = Lanes<kMaxLanes>::Float;

// Cook and Toom's matrices for `outputs` values of a filter of `taps`: y = at ((g w) * (bt x)),
// with x of outputs + taps - 1 values. They interpolate a product of polynomials at five points and
// at infinity. Of the small points, 0, 1, -1, 1/2, -2 lose the fewest bits: the largest error is
// 2e-6 of the largest result, about six times that of plain sums.
template <int outputs, int taps>
struct Toom {
  static_assert(outputs + taps - 1 == kWinogradTile);
  float at[outputs][kWinogradTile] = {};
  float g[kWinogradTile][taps] = {};
  float bt[kWinogradTile][kWinogradTile] = {};

  constexpr Toom() {
    constexpr int finite = kWinogradTile - 1;
    constexpr double points[finite] = {0, 1, -1, 0.5, -2};
    for (int p = 0; p < finite; p++) {
      double power = 1;
      for (int i = 0; i < outputs; i++, power *= points[p]) at[i][p] = static_cast<float>(power);
      power = 1;
      for (int i = 0; i < taps; i++, power *= points[p]) g[p][i] = static_cast<float>(power);
      polynomial(points, p, bt[p]);
    }
    at[outputs - 1][finite] = g[finite][taps - 1] = 1;
    polynomial(points, finite, bt[finite]);
  }

  // The coefficients of the polynomial whose roots are the points but the skipped one, where it
  // is 1.
  static constexpr void polynomial(const double* points, int skipped, float* row) {
    double c[kWinogradTile] = {1}, value = 1;
    int degree = 0;
    for (int p = 0; p < kWinogradTile - 1; p++) {
      if (p == skipped) continue;
      degree++;
      for (int i = degree; i >= 0; i--)
        c[i] = (i > 0 ? c[i - 1] : 0) - points[p] * (i < degree ? c[i] : 0);
      if (skipped < kWinogradTile - 1) value *= points[skipped] - points[p];
    }
    for (int i = 0; i < kWinogradTile; i++) row[i] = static_cast<float>(c[i] / value);
  }
};

template <int outputs, int taps>
inline constexpr Toom<outputs, taps> kToom{};

// out[i] = sum over j of matrix[i][j] in[j]; unrolled, with the zeros and ones of the matrix
// folded.
template <int rows, int cols>
inline __attribute__((always_inline)) void multiply(const float (&matrix)[rows][cols],
                                                    const Vector* in, int in_step, Vector* out,
                                                    int out_step) {
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++) {
    Vector sum{};
    bool any = false;
#pragma GCC unroll 6
    for (int j = 0; j < cols; j++) {
      if (matrix[i][j] == 0) continue;
      sum = any ? sum + matrix[i][j] * in[j * in_step] : matrix[i][j] * in[j * in_step];
      any = true;
    }
    out[i * out_step] = sum;
  }
}

// out = matrix in matrix^T, of a [cols, cols] tile.
template <int rows, int cols>
inline __attribute__((always_inline)) void multiply_both(const float (&matrix)[rows][cols],
                                                         const Vector* in, Vector* out) {
  Vector half[rows * cols];
#pragma GCC unroll 6
  for (int j = 0; j < cols; j++) multiply(matrix, in + j, cols, half + j, cols);
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++) multiply(matrix, half + i * cols, 1, out + i * rows, 1);
}

// Where the tile of a plan lies.
struct Tile {
  int64_t image, row, col;  // of the first result
};
inline Tile tile_at(const WinogradPlan& p, int64_t t, int side) {
  int64_t col = t % p.tile_cols(), rest = t / p.tile_cols();
  return {rest / p.tile_rows(), rest % p.tile_rows() * side, col * side};
}

// Pointers to the side x side numbers of an image [height, width, channels] from (row, col) on;
// `zeros` for what lies outside.
template <int side>
inline void points_of(const float* image, int64_t height, int64_t width, int64_t channels,
                      int64_t row, int64_t col, const float* zeros, const float** points) {
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      int64_t h = row + i, w = col + j;
      bool inside = h >= 0 && h < height && w >= 0 && w < width;
      points[i * side + j] = inside ? image + (h * width + w) * channels : zeros;
    }
}

// frequencies[f * step + c] = the f-th of matrix tile matrix^T, for every channel.
template <int rows, int cols>
inline void transform_points(const float (&matrix)[rows][cols], const float* const* points,
                             int64_t channels, float* frequencies, int64_t step) {
  for (int64_t c = 0; c < channels; c += kMaxLanes) {
    Vector in[cols * cols], out[rows * rows];
#pragma GCC unroll 36
    for (int i = 0; i < cols * cols; i++) in[i] = load<Vector>(points[i] + c);
    multiply_both(matrix, in, out);
#pragma GCC unroll 36
    for (int i = 0; i < rows * rows; i++) store(frequencies + i * step + c, out[i]);
  }
}

// The step from one frequency of a block to the next: not a multiple of the page, so that the 36 do
// not fall on one another in the cache.
inline int64_t frequency_step(int64_t tiles, int64_t channels) { return tiles * channels + 48; }

template <int taps>
inline void transform_image(const WinogradPlan& p, const float* x, int64_t first, int64_t count,
                            const float* zeros, float* out, int64_t step) {
  constexpr int outputs = winograd_outputs(taps);
  for (int64_t t = 0; t < count; t++) {
    Tile tile = tile_at(p, first + t, outputs);
    const float* points[kFrequencies];
    points_of<kWinogradTile>(x + tile.image * p.height * p.width * p.channels, p.height, p.width,
                             p.channels, tile.row - p.pad_top, tile.col - p.pad_left, zeros,
                             points);
    transform_points(kToom<outputs, taps>.bt, points, p.channels, out + t * p.channels, step);
  }
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
