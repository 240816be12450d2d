#include "reduce.h"

#include "parallel.h"
#include "pieces.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

void column_sum(const float* x, float* y, float* partial, int64_t rows, int64_t channels) {
  int64_t grain = rows_per_piece(rows);
  parallel_pieces(rows, grain, rows * channels, [&](int64_t begin, int64_t end) {
    float* sum = partial + begin / grain * channels;
    for (int64_t c = 0; c < channels; c++) sum[c] = 0;
    for (int64_t r = begin; r < end; r++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) sum[c] += x[r * channels + c];
  });
  for (int64_t c = 0; c < channels; c++) y[c] = 0;
  for (int64_t p = 0; p < pieces_of(rows); p++)
    for (int64_t c = 0; c < channels; c++) y[c] += partial[p * channels + c];
}

}  // namespace

extern const ReduceLoops reduce_loops_table = {column_sum};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
