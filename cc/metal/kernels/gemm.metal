// A tiled product on 8 by 8 matrices of SIMD-groups. TILE_M, TILE_N and TILE_K are the tile that a
// threadgroup of four SIMD-groups works on, two by two; R is the storage of the result.
#include "gemm_parameters.h"
#include "neuron.h"
#include "sums.h"

#ifdef HALF_SUMS  // the caller allows it, for operands in half
typedef half S;
#else
typedef float S;
#endif

constant int mode [[function_constant(0)]];
constant int kind [[function_constant(1)]];  // of the neuron
constant int has_bias [[function_constant(2)]];

constant constexpr int kThreads = 128;
constant constexpr int kRows = TILE_M * 3;
constant constexpr int kShared = TILE_M * TILE_K + TILE_K * TILE_N > TILE_M* TILE_N
                                     ? TILE_M * TILE_K + TILE_K * TILE_N
                                     : TILE_M * TILE_N;

// What an index of one side says of an address: a base, and a row and a column of the image.
struct Part {
  int base, y, x;
};

inline Part output_pixel(constant ConvParameters& g, int i) {
  Part part;
  int x = i % g.out_width;
  int y = i / g.out_width % g.out_height;
  part.base = i / (g.out_width * g.out_height) * (g.height * g.width * g.channels);
  part.y = y * g.stride_height - g.pad_height;
  part.x = x * g.stride_width - g.pad_width;
  return part;
}

inline Part input_pixel(constant ConvParameters& g, int i) {
  Part part;
  int x = i % g.width;
  int y = i / g.width % g.height;
  part.base = i / (g.width * g.height) * (g.out_height * g.out_width * g.out_channels);
  part.y = y + g.pad_height;
  part.x = x + g.pad_width;
  return part;
}

inline Part tap(constant ConvParameters& g, int i, int channels) {
  Part part;
  part.base = i % channels;
  i /= channels;
  part.x = i % g.window_width * g.gap_width;
  part.y = i / g.window_width * g.gap_height;
  return part;
}

inline Part row_part(constant GemmParameters& p, int m) {
  if (mode == kGemmConv) return output_pixel(p.conv, m);
  if (mode == kGemmDataGradient) return input_pixel(p.conv, m);
  if (mode == kGemmWeightGradient) return tap(p.conv, m, p.conv.group_in);
  Part part;
  part.base = m * p.a_row;
  part.y = 0;
  part.x = 0;
  return part;
}

inline Part column_part(constant GemmParameters& p, int k) {
  if (mode == kGemmConv) return tap(p.conv, k, p.conv.group_in);
  if (mode == kGemmDataGradient) return tap(p.conv, k, p.conv.group_out);
  if (mode == kGemmWeightGradient) return output_pixel(p.conv, k);
  Part part;
  part.base = k * p.a_column;
  part.y = 0;
  part.x = 0;
  return part;
}

// The address of A[m, k], or -1 for a zero.
inline int address(constant ConvParameters& g, Part row, Part column) {
  if (mode == kGemmMatrix) return row.base + column.base;
  if (mode == kGemmDataGradient) {
    int y = row.y - column.y, x = row.x - column.x;
    if (y < 0 || x < 0 || y % g.stride_height != 0 || x % g.stride_width != 0) return -1;
    y /= g.stride_height;
    x /= g.stride_width;
    if (y >= g.out_height || x >= g.out_width) return -1;
    return row.base + (y * g.out_width + x) * g.out_channels + column.base;
  }
  int y = row.y + column.y, x = row.x + column.x;
  if (y < 0 || x < 0 || y >= g.height || x >= g.width) return -1;
  return row.base + (y * g.width + x) * g.channels + column.base;
}

// With several splits, `c` takes their sums one after the other, to be added by add_splits.
kernel void gemm(constant GemmParameters& p [[buffer(0)]], device const CAREFUL T* a [[buffer(1)]],
                 device const CAREFUL T* b [[buffer(2)]],
                 device const CAREFUL T* bias [[buffer(3)]], device R* c [[buffer(4)]],
                 uint3 group [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]],
                 uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup S shared[kShared];
  threadgroup int rows[kRows];
  threadgroup S* tile_a = shared;
  threadgroup S* tile_b = shared + TILE_M * TILE_K;
  group.x += uint(p.first[0]);
  group.y += uint(p.first[1]);
  group.z += uint(p.first[2]);
  int first_m = int(group.y) * TILE_M, first_n = int(group.x) * TILE_N;
  int split = int(group.z) % p.splits, batch = int(group.z) / p.splits;
  int begin = split * p.split_k, end = min(begin + p.split_k, p.k);
  a += batch * p.a_batch;
  b += batch * p.b_batch;

  for (int i = int(thread_index); i < TILE_M; i += kThreads) {
    Part part = row_part(p, min(first_m + i, p.m - 1));
    rows[i * 3] = part.base;
    rows[i * 3 + 1] = part.y;
    rows[i * 3 + 2] = part.x;
  }
  Sums<S> sums[TILE_M / 16][TILE_N / 16];
  for (int i = 0; i < TILE_M / 16; i++)
    for (int j = 0; j < TILE_N / 16; j++) clear(sums[i][j]);
  int my_row = int(simd) / 2 * (TILE_M / 2), my_column = int(simd) % 2 * (TILE_N / 2);

  for (CAREFUL int k = begin; k < end; k += TILE_K) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // A thread stays in one column of A's tile, whose part of the address it finds once.
    int column = int(thread_index) % TILE_K;
    Part column_of_a = column_part(p, min(k + column, p.k - 1));
    for (int row = int(thread_index) / TILE_K; row < TILE_M; row += kThreads / TILE_K) {
      Part row_of_a;
      row_of_a.base = rows[row * 3];
      row_of_a.y = rows[row * 3 + 1];
      row_of_a.x = rows[row * 3 + 2];
      bool inside = k + column < end && first_m + row < p.m;
      int at = inside ? address(p.conv, row_of_a, column_of_a) : -1;
      tile_a[row * TILE_K + column] = at >= 0 ? S(a[at]) : S(0);
    }
    for (int i = int(thread_index); i < TILE_K * TILE_N; i += kThreads) {
      int row = k + i / TILE_N, n = first_n + i % TILE_N;
      bool inside = row < end && n < p.n;
      int at = row % p.b_divisor * p.b_inner + row / p.b_divisor * p.b_outer + n * p.b_column;
      tile_b[i] = inside ? S(b[at]) : S(0);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
#ifdef SECOND_FORM
    for (int i = 0; i < TILE_M / 16; i++)
      for (int j = 0; j < TILE_N / 16; j++)
        add_product(sums[i][j], tile_a + (my_row + i * 8) * TILE_K, TILE_K,
                    tile_b + my_column + j * 8, TILE_N, TILE_K, thread_index);
#else
    for (int step = 0; step < TILE_K; step += 8) {
      simdgroup_matrix<S, 8, 8> left[TILE_M / 16], right[TILE_N / 16];
      for (int i = 0; i < TILE_M / 16; i++)
        simdgroup_load(left[i], tile_a + (my_row + i * 8) * TILE_K + step, TILE_K);
      for (int j = 0; j < TILE_N / 16; j++)
        simdgroup_load(right[j], tile_b + step * TILE_N + my_column + j * 8, TILE_N);
      for (int i = 0; i < TILE_M / 16; i++)
        for (int j = 0; j < TILE_N / 16; j++)
          simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
    }
#endif
  }

  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = 0; i < TILE_M / 16; i++)
    for (int j = 0; j < TILE_N / 16; j++)
      store(sums[i][j], shared + (my_row + i * 8) * TILE_N + my_column + j * 8, TILE_N,
            thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = int(thread_index); i < TILE_M * TILE_N; i += kThreads) {
    int m = first_m + i / TILE_N, n = first_n + i % TILE_N;
    if (m >= p.m || n >= p.n) continue;
    float y = float(shared[i]);
    if (has_bias) y += float(bias[batch * p.n + n]);
    if (kind != kNeuronNone) y = neuron_value(kind, p.a, p.b, p.c, p.log_c, y);
    c[split * p.total + batch * p.c_batch + m * p.c_row + n] = R(y);
  }
}
