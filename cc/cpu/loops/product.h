// Products of small matrices, kept in registers: what the transforms of winograd multiply by.
// Include only from files of loops/.
#pragma once

#include "lanes.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// c[i, j] (+)= sum over s of a[i, s] b[s, j]. Columns lie in vectors: the one with columns v L .. v
// L + L of row s is at b + v * b_vector + s * b_step (L: kMaxLanes), so both a row-major matrix and
// one cut into panels will do.
struct Product {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step, b_vector;
  float* c;  // row-major
  int64_t c_row;
  int64_t depth;
  int64_t run;  // steps of the depth that are summed by themselves, before they join the others
  bool add;
};

// As many rows as leave registers for the columns: 32 vector registers with AVX-512, else 16.
constexpr int kProductRows = kMaxLanes == 16 ? 12 : 6;

// One run, of `depth` steps.
template <int Rows, int Vectors>
inline void product_run(const Product& p, int64_t depth, bool add, const float* a, const float* b,
                        float* c) {
  using V = Lanes<kMaxLanes>::Float;
  V sum[Rows][Vectors] = {};
  // Four rows are addressed from one pointer: a pointer each would not fit into the registers.
  const float* first = a;
  const float* second = Rows > 4 ? a + 4 * p.a_row : a;
  const float* third = Rows > 8 ? a + 8 * p.a_row : a;
  for (int64_t s = 0; s < depth; s++) {
    V right[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) right[v] = load<V>(b + v * p.b_vector + s * p.b_step);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
      const int64_t row = i % 4 * p.a_row;
      float left = i < 4 ? first[row] : i < 8 ? second[row] : third[row];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) sum[i][v] += left * right[v];
    }
    first += p.a_step, second += p.a_step, third += p.a_step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      float* y = c + i * p.c_row + v * kMaxLanes;
      store(y, add ? load<V>(y) + sum[i][v] : sum[i][v]);
    }
}

template <int Rows, int Vectors>
inline void product_tile(const Product& p, const float* a, const float* b, float* c) {
  for (int64_t s = 0; s < p.depth; s += p.run)
    product_run<Rows, Vectors>(p, p.depth - s < p.run ? p.depth - s : p.run, p.add || s > 0,
                               a + s * p.a_step, b + s * p.b_step, c);
}

template <int Rows, int Vectors>
inline void product_rows(const Product& p, int64_t rows, const float* a, const float* b, float* c) {
  if (rows == Rows) return product_tile<Rows, Vectors>(p, a, b, c);
  if constexpr (Rows > 1) product_rows<Rows - 1, Vectors>(p, rows, a, b, c);
}

template <int Vectors>
inline void product_columns(const Product& p, int64_t rows, const float* b, float* c) {
  int64_t i = 0;
  for (; i + kProductRows <= rows; i += kProductRows)
    product_tile<kProductRows, Vectors>(p, p.a + i * p.a_row, b, c + i * p.c_row);
  if (i < rows)
    product_rows<kProductRows - 1, Vectors>(p, rows - i, p.a + i * p.a_row, b, c + i * p.c_row);
}

// `vectors` columns of vectors.
inline void product(const Product& p, int64_t rows, int64_t vectors) {
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2)
    product_columns<2>(p, rows, p.b + v * p.b_vector, p.c + v * kMaxLanes);
  if (v < vectors) product_columns<1>(p, rows, p.b + v * p.b_vector, p.c + v * kMaxLanes);
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
