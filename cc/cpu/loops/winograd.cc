#include "winograd.h"

#include "parallel.h"
#include "product.h"
#include "winograd_gaussian.h"
#include "winograd_tiles.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Tiles that a thread carries through all three stages at once: what the second-level cache holds,
// but enough to pay for reading all filters.
int64_t block_of(const WinogradPlan& p) {
  constexpr int64_t kCache = 640 * 1024 / sizeof(float);
  int64_t fitting = kCache / (p.products() * (p.channels + p.filters));
  int64_t block = at_least(fitting / kProductRows * kProductRows, 24);
  // Cut evenly, for two threads at least.
  int64_t blocks = (p.tiles() + block - 1) / block;
  if (blocks % 2 == 1) blocks++;
  return at_least((p.tiles() + blocks - 1) / blocks, 1);
}

// Channels that are summed by themselves: a long sum rounds off more of each product, and the
// transforms enlarge that.
int64_t run_of(const WinogradPlan& p) {
  if (!p.gaussian) return p.channels < 64 ? p.channels : 64;
  return p.channels < 32 ? 16 : p.channels < 64 ? p.channels / 2 : 32;
}

int64_t filters_size(const WinogradPlan& p) { return p.products() * p.channels * p.filters; }
int64_t turned_size(const WinogradPlan& p) { return p.taps * p.taps * p.channels * p.filters; }

// Scratch: zeros, filters [products, filters / L, channels, L], turned weights, then each thread's
// block.
int64_t conv_scratch(const WinogradPlan& p) {
  int64_t block = block_of(p);
  int64_t own = p.products() * (product_step(block, p.channels) + product_step(block, p.filters));
  return p.channels + filters_size(p) + turned_size(p) + p.threads * own;
}

// [taps, taps, filters, channels] turned by half a circle -> [taps, taps, channels, filters].
void turn_weights(const WinogradPlan& p, const float* w, float* turned) {
  constexpr int64_t kPatch = 16;
  int64_t taps = p.taps * p.taps, size = p.channels * p.filters;
  const int64_t patches = p.filters / kPatch;
  parallel(taps * patches, taps * size, [&](int64_t item) {
    const int64_t tap = item / patches, k0 = item % patches * kPatch;
    for (int64_t c0 = 0; c0 < p.channels; c0 += kPatch)
      for (int64_t c = c0; c < c0 + kPatch; c++)
        for (int64_t k = k0; k < k0 + kPatch; k++)
          turned[tap * size + c * p.filters + k] = w[(taps - 1 - tap) * size + k * p.channels + c];
  });
}

template <class Points, int taps>
void transform_filters(const WinogradPlan& p, const float* w, float* filters) {
  int64_t size = p.channels * p.filters;
  constexpr int64_t kPiece = 16;  // channels
  const int64_t pieces = p.channels / kPiece;
  parallel(p.filters / kMaxLanes * pieces, Points::products * size, [&](int64_t item) {
    const int64_t v = item / pieces, first = item % pieces * kPiece;
    for (int64_t c = first; c < first + kPiece; c++) {
      const float* points[taps * taps];
      for (int tap = 0; tap < taps * taps; tap++)
        points[tap] = w + tap * size + c * p.filters + v * kMaxLanes;
      transform_points<typename Points::template Filter<taps>>(
          points, kMaxLanes, filters + (v * p.channels + c) * kMaxLanes, size);
    }
  });
}

// One tile of y, from sums [products, ..., filters].
template <class Points, int taps>
void finish_tile(const WinogradPlan& p, const Tile& tile, const float* sums, int64_t step,
                 const WinogradTail& tail, float* y) {
  constexpr int outputs = winograd_outputs(taps);
  int64_t rows = p.rows - tile.row < outputs ? p.rows - tile.row : outputs;
  int64_t cols = p.cols - tile.col < outputs ? p.cols - tile.col : outputs;
  float* corner = y + ((tile.image * p.rows + tile.row) * p.cols + tile.col) * p.y_pixel;
  for (int64_t k = 0; k < p.filters; k += kMaxLanes) {
    Vector bias = tail.bias ? load<Vector>(tail.bias + k) : Vector{};
    Points::template Outputs<outputs>::apply(
        [&](int f) { return load<Vector>(sums + f * step + k); },
        [&](int i, Vector v) {
          if (i / outputs >= rows || i % outputs >= cols) return;
          v += bias;
          Vector below = tail.slope == 0 ? Vector{} : tail.slope * v;  // +0, at -infinity too
          if (tail.relu) v = v <= 0 ? below : v;                       // NaN stays
          store(corner + (i / outputs * p.cols + i % outputs) * p.y_pixel + k, v);
        });
  }
}

template <class Points, int taps>
void conv_of(const WinogradPlan& p, const float* x, const float* w, bool transposed,
             const WinogradTail& tail, float* y, float* scratch) {
  float* zeros = scratch;
  float* filters = zeros + p.channels;
  float* turned = filters + filters_size(p);
  float* blocks = turned + turned_size(p);
  int64_t block = block_of(p), tiles = p.tiles(), count = (tiles + block - 1) / block;
  int64_t in_step = product_step(block, p.channels), out_step = product_step(block, p.filters);
  for (int64_t c = 0; c < p.channels; c++) zeros[c] = 0;
  if (transposed) turn_weights(p, w, turned);
  transform_filters<Points, taps>(p, transposed ? turned : w, filters);
  parallel(count, tiles * p.channels * Points::products, [&](int64_t b, int thread) {
    float* in = blocks + thread * Points::products * (in_step + out_step);
    float* out = in + Points::products * in_step;
    int64_t first = b * block, own = tiles - first < block ? tiles - first : block;
    transform_image<Points, taps>(p, x, first, own, zeros, in, in_step);
    for (int64_t f = 0; f < Points::products; f++)
      product({.a = in + f * in_step,
               .a_row = p.channels,
               .a_step = 1,
               .b = filters + f * p.channels * p.filters,
               .b_step = kMaxLanes,
               .b_vector = p.channels * kMaxLanes,
               .c = out + f * out_step,
               .c_row = p.filters,
               .depth = p.channels,
               .run = run_of(p),
               .add = false},
              own, p.filters / kMaxLanes);
    for (int64_t t = 0; t < own; t++)
      finish_tile<Points, taps>(p, tile_at(p, first + t, winograd_outputs(taps)),
                                out + t * p.filters, out_step, tail, y);
  });
}

void conv(const WinogradPlan& p, const float* x, const float* w, bool transposed,
          const WinogradTail& tail, float* y, float* scratch) {
  auto of = [&](auto points) {
    using Points = decltype(points);
    (p.taps == 3 ? conv_of<Points, 3> : conv_of<Points, 5>)(p, x, w, transposed, tail, y, scratch);
  };
  p.gaussian ? of(GaussianPoints()) : of(RealPoints());
}

// The weight gradient is a filter of dy's tile over the image's, so the roles of taps and outputs
// change places. Tiles that are transformed by all threads before all threads multiply: few enough
// to stay in the last-level cache, enough to pay for reading and writing all sums.
int64_t group_of(const WinogradPlan& p) {
  constexpr int64_t kCache = 3 * 1024 * 1024 / sizeof(float);
  int64_t group = at_least(kCache / (kRealProducts * (p.channels + p.filters)), 128);
  return group < p.tiles() ? group : p.tiles();
}

int64_t weight_gradient_scratch(const WinogradPlan& p) {
  int64_t group = group_of(p);
  return at_least(p.channels, p.filters) + filters_size(p) +
         kRealProducts * (product_step(group, p.channels) + product_step(group, p.filters));
}

template <int taps>
void weight_gradient_of(const WinogradPlan& p, const float* x, const float* dy, float* dw,
                        float* scratch) {
  constexpr int side = winograd_outputs(taps);
  constexpr int64_t kTiles = 4;  // transformed by a thread at a time
  int64_t group = group_of(p), tiles = p.tiles(), size = p.channels * p.filters;
  int64_t x_step = product_step(group, p.channels), dy_step = product_step(group, p.filters);
  float* zeros = scratch;
  float* sums = zeros + at_least(p.channels, p.filters);
  float* image = sums + filters_size(p);
  float* gradient = image + kRealProducts * x_step;
  for (int64_t c = 0; c < at_least(p.channels, p.filters); c++) zeros[c] = 0;
  for (int64_t first = 0; first < tiles; first += group) {
    int64_t own = tiles - first < group ? tiles - first : group;
    int64_t work = own * (p.channels + p.filters) * kRealProducts;
    parallel((own + kTiles - 1) / kTiles, work, [&](int64_t item) {
      int64_t t0 = item * kTiles, count = own - t0 < kTiles ? own - t0 : kTiles;
      transform_image<RealPoints, taps>(p, x, first + t0, count, zeros, image + t0 * p.channels,
                                        x_step);
      for (int64_t t = t0; t < t0 + count; t++) {
        Tile tile = tile_at(p, first + t, side);
        const float* points[side * side];
        points_of<side>(dy + tile.image * p.rows * p.cols * p.y_pixel, p.rows, p.cols, p.y_pixel,
                        tile.row, tile.col, zeros, points);
        transform_points<RealPoints::Filter<side>>(points, p.filters, gradient + t * p.filters,
                                                   dy_step);
      }
    });
    parallel(kRealProducts, work, [&](int64_t f) {
      product({.a = image + f * x_step,
               .a_row = 1,
               .a_step = p.channels,
               .b = gradient + f * dy_step,
               .b_step = p.filters,
               .b_vector = kMaxLanes,
               .c = sums + f * size,
               .c_row = p.filters,
               .depth = own,
               .run = 64,
               .add = first > 0},
              p.channels, p.filters / kMaxLanes);
    });
  }
  parallel(p.channels, kRealProducts * size, [&](int64_t c) {
    for (int64_t k = 0; k < p.filters; k += kMaxLanes) {
      const float* sum = sums + c * p.filters + k;
      RealPoints::Outputs<taps>::apply(
          [&](int f) { return load<Vector>(sum + f * size); },
          [&](int tap, Vector v) { store(dw + tap * size + c * p.filters + k, v); });
    }
  });
}

void weight_gradient(const WinogradPlan& p, const float* x, const float* dy, float* dw,
                     float* scratch) {
  (p.taps == 3 ? weight_gradient_of<3> : weight_gradient_of<5>)(p, x, dy, dw, scratch);
}

}  // namespace

extern const WinogradLoops winograd_loops_table = {conv, weight_gradient, conv_scratch,
                                                   weight_gradient_scratch};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
