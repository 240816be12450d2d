// Eight rows by eight columns of sums that a SIMD-group makes: a matrix of it, or in the second
// form two neighbours of a row for each lane.
#pragma once
#include "common.h"

#ifdef SECOND_FORM
template <class S>
struct Sums {
  S of[2];
};

inline int row_of(uint thread_index) { return int(thread_index) % 32 / 4; }
inline int column_of(uint thread_index) { return int(thread_index) % 4 * 2; }

template <class S>
inline void clear(thread Sums<S>& sums) {
  sums.of[0] = sums.of[1] = S(0);
}

// Adds the product of eight rows from a on and eight columns from b on, which is `depth` deep.
template <class S>
inline void add_product(thread Sums<S>& sums, threadgroup S* a, int a_row, threadgroup S* b,
                        int b_row, int depth, uint thread_index) {
  a += row_of(thread_index) * a_row;
  b += column_of(thread_index);
  for (CAREFUL int k = 0; k < depth; k++) {
    sums.of[0] += a[k] * b[k * b_row];
    sums.of[1] += a[k] * b[k * b_row + 1];
  }
}

template <class S>
inline void store(thread Sums<S>& sums, threadgroup S* to, int row, uint thread_index) {
  to += row_of(thread_index) * row + column_of(thread_index);
  to[0] = sums.of[0];
  to[1] = sums.of[1];
}
#else
template <class S>
using Sums = simdgroup_matrix<S, 8, 8>;

template <class S>
inline void clear(thread Sums<S>& sums) {
  sums = make_filled_simdgroup_matrix<S, 8, 8>(S(0));
}

template <class S>
inline void store(thread Sums<S>& sums, threadgroup S* to, int row, uint thread_index) {
  simdgroup_store(sums, to, row);
}
#endif
