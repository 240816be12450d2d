// Products of some rows, step after step, with one matrix that is kept in panels of columns; the
// sums stay in registers. Include only from files of loops/.
//
// The sums go over segments of numbers, which are cut into blocks of a vector:
//   panel   [blocks][lanes][width][lanes]   some columns: `width` vectors, zeros beyond the last
//   strip   [blocks][height][lanes]         some rows
// A tile is a strip times some vectors of a panel: the fewer they are, the higher the strip, and
// the less passes through the caches for a product.
#pragma once

#include "lanes.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int kLanes = kMaxLanes;

// As many rows as leave registers for a panel: 32 vector registers with AVX-512, else 16.
constexpr int strip_height(int vectors) { return (kMaxLanes == 16 ? 24 : 12) / vectors; }

// `segments` of `length` numbers after one of `lead`.
struct Depth {
  int64_t segments, length, lead = 0;
  // Where the first segment begins.
  int64_t begin() const { return (lead + kLanes - 1) / kLanes * kLanes; }
  int64_t blocks() const { return begin() / kLanes + segments * ((length + kLanes - 1) / kLanes); }
};

// Rows in strips of nearly equal heights.
struct Strips {
  int64_t rows, count;
  int height;  // in memory

  Strips(int64_t rows, int vectors)
      : rows(rows),
        count((rows + strip_height(vectors) - 1) / strip_height(vectors)),
        height(strip_height(vectors)) {}

  int64_t begin(int64_t strip) const { return strip * rows / count; }
  int64_t floats(Depth depth) const { return count * depth.blocks() * height * kLanes; }
  // Where the first number of a row is, the next block being `height` vectors further on.
  int64_t offset(int64_t row, Depth depth) const {
    int64_t strip = ((row + 1) * count - 1) / rows;
    return (strip * depth.blocks() * height + row - begin(strip)) * kLanes;
  }
};

// Where the work after a tile's product will read and write. The product asks for these places a
// few at a time: all at once, they would hold up what it reads itself.
class Ahead {
 public:
  void add(const float* place) {
    if (count_ < kMost) places_[count_++] = place;
  }
  // In the course of `calls` calls of some() all are asked for.
  void spread(int64_t calls) { each_ = calls ? (count_ + calls - 1) / calls : 0; }
  void some() {
    for (int64_t i = 0; i < each_ && next_ < count_; i++) __builtin_prefetch(places_[next_++]);
  }

 private:
  static constexpr int64_t kMost = 12 * strip_height(1);  // as many of each vector of a tile
  const float* places_[kMost];
  int64_t count_ = 0, next_ = 0, each_ = 0;
};

template <int Rows, int Vectors, int Width>
inline void strip_tile(const float* a, const float* b, Depth depth, float* sums, Ahead& ahead) {
  using V = Lanes<kLanes>::Float;
  constexpr int height = strip_height(Vectors);
  V sum[Rows][Vectors];
#pragma GCC unroll 24
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) sum[i][v] = V{};
  for (int64_t segment = depth.lead ? -1 : 0; segment < depth.segments; segment++) {
    for (int64_t left = segment < 0 ? depth.lead : depth.length; left > 0; left -= kLanes) {
      const int64_t steps = left < kLanes ? left : kLanes;
      for (int64_t k = 0; k < steps; k++) {
        V right[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v++) right[v] = load<V>(b + (k * Width + v) * kLanes);
#pragma GCC unroll 24
        for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; v++) sum[i][v] += a[i * kLanes + k] * right[v];
      }
      ahead.some();
      a += height * kLanes;
      b += kLanes * Width * kLanes;
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(sums + (i * Width + v) * kLanes, sum[i][v]);
}

// Vectors of sums [rows][width][lanes], of a strip times the same vectors of a panel.
template <int Vectors, int Width, int Rows = strip_height(Vectors)>
inline void strip_product(int64_t rows, const float* strip, const float* panel, Depth depth,
                          float* sums, Ahead& ahead) {
  if (rows == Rows) return strip_tile<Rows, Vectors, Width>(strip, panel, depth, sums, ahead);
  if constexpr (Rows > 1)
    strip_product<Vectors, Width, Rows - 1>(rows, strip, panel, depth, sums, ahead);
}

// f(row, rows, panel, sums) for each strip and panel of the product, all of whose rows are `strips`
// and whose columns are `panels`; touches(row, rows, panel, ahead) adds where it will read and
// write. If `shared`, all threads do.
template <int Vectors, int Width = Vectors, class Touches, class F>
inline void tiles(bool shared, const Strips& strips, const float* a, const float* b, Depth depth,
                  int64_t panels, const Touches& touches, const F& f) {
  const int64_t size = depth.blocks() * kLanes * Width * kLanes;
  const int64_t count = panels * strips.count;
  auto tile = [&](int64_t item) {
    const int64_t panel = item / strips.count, strip = item % strips.count;
    const int64_t row = strips.begin(strip), rows = strips.begin(strip + 1) - row;
    Ahead ahead;
    touches(row, rows, panel, ahead);
    ahead.spread(depth.blocks() * (Width / Vectors));
    alignas(64) float sums[strip_height(Vectors) * Width * kLanes];
    const float* from = a + strip * depth.blocks() * strips.height * kLanes;
    for (int64_t v = 0; v < Width; v += Vectors)
      strip_product<Vectors, Width>(rows, from, b + panel * size + v * kLanes, depth,
                                    sums + v * kLanes, ahead);
    f(row, rows, panel, sums);
  };
  parallel(count, shared ? kSmall : 0, tile);
}

inline int64_t panel_count(int64_t columns, int vectors) {
  return (columns + vectors * kLanes - 1) / (vectors * kLanes);
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
