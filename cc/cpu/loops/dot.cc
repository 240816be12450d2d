#include "dot.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kRow = 8;  // elements above which rows of the result are worth a vector

// y[j] = sum over k of left[k] right[k, j], with consecutive j.
void row_by_rows(const DotPlan& p, const float* left, const float* right, float* y) {
  for (int64_t j = 0; j < p.n; j++) y[j] = 0;
  for (int64_t k = 0; k < p.k; k++) {
    float factor = left[k * p.left[2]];
    const float* row = right + k * p.right[1];
#pragma omp simd
    for (int64_t j = 0; j < p.n; j++) y[j] += factor * row[j];
  }
}

// The same with consecutive k.
void row_by_columns(const DotPlan& p, const float* left, const float* right, float* y) {
  for (int64_t j = 0; j < p.n; j++) {
    const float* column = right + j * p.right[2];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < p.k; k++) sum += left[k] * column[k];
    y[j] = sum;
  }
}

void row_strided(const DotPlan& p, const float* left, const float* right, float* y) {
  for (int64_t j = 0; j < p.n; j++) {
    float sum = 0;
    for (int64_t k = 0; k < p.k; k++)
      sum += left[k * p.left[2]] * right[k * p.right[1] + j * p.right[2]];
    y[j] = sum;
  }
}

void product(const DotPlan& p, const float* left, const float* right, float* y) {
  auto row = p.right[2] == 1 && p.n >= kRow                 ? row_by_rows
             : p.left[2] == 1 && p.right[1] == 1 && p.k > 1 ? row_by_columns
                                                            : row_strided;
  for (int64_t b = 0; b < p.batch; b++)
    for (int64_t i = 0; i < p.m; i++, y += p.n)
      row(p, left + b * p.left[0] + i * p.left[1], right + b * p.right[0], y);
}

}  // namespace

extern const DotLoops dot_loops_table = {product};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
