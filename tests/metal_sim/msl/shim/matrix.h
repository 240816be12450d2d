// simdgroup_matrix<T, 8, 8>: two elements in each lane, in the mapping that Apple's GPUs show.
#pragma once
#include "simd.h"

namespace msl {
inline constexpr uint32_t matrix_row(uint32_t lane) { return (lane / 4 & 4) + lane / 2 % 4; }
inline constexpr uint32_t matrix_column(uint32_t lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }
}  // namespace msl

namespace metal {

template <class T, int Rows, int Columns>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "simdgroup_matrix: 8 x 8 only");
  using storage_type = vec<T, 2>;
  storage_type elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    const uint row = msl::matrix_row(msl_lane()), column = msl::matrix_column(msl_lane());
    elements = storage_type{row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0)};
  }
  storage_type& thread_elements() { return elements; }
  const storage_type& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int Rows, int Columns>
simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Rows, Columns> m;
  m.elements = vec<T, 2>{value, value};
  return m;
}

template <class T, class P>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, P from, ulong stride = 8, ulong2 origin = 0,
                    bool transpose = false) {
  static_assert(std::is_same_v<T, std::decay_t<decltype(from[0] + T(0))>>,
                "memory of the matrix's own type");
  const ulong row = msl::matrix_row(msl_lane()), column = msl::matrix_column(msl_lane());
  for (int i = 0; i < 2; i++)
    m.elements[i] = transpose ? from[(origin.y + column + i) * stride + origin.x + row]
                              : from[(origin.y + row) * stride + origin.x + column + i];
}
template <class T, class P>
void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, P to, ulong stride = 8, ulong2 origin = 0,
                     bool transpose = false) {
  const ulong row = msl::matrix_row(msl_lane()), column = msl::matrix_column(msl_lane());
  for (int i = 0; i < 2; i++)
    (transpose ? to[(origin.y + column + i) * stride + origin.x + row]
               : to[(origin.y + row) * stride + origin.x + column + i]) = m.elements[i];
}

template <class A, class B, class C>
struct MslProduct {
  vec<A, 2> a;
  vec<B, 2> b;
  vec<C, 2> c;
  // The whole product at once, by the lane that comes last.
  __attribute__((no_sanitize("thread"))) static void combine(const unsigned char* slots, uint32_t,
                                                             unsigned char* result) {
    typedef float Row __attribute__((ext_vector_type(8)));
    float a[8][8];
    Row b[8], c[8];
    for (uint32_t lane = 0; lane < 32; lane++) {
      const auto given = msl::slot<MslProduct>(slots, lane);
      const uint32_t row = msl::matrix_row(lane), column = msl::matrix_column(lane);
      for (uint32_t i = 0; i < 2; i++) {
        a[row][column + i] = float(given.a[i]);
        b[row][column + i] = float(given.b[i]);
        c[row][column + i] = float(given.c[i]);
      }
    }
    for (int row = 0; row < 8; row++)
      for (int k = 0; k < 8; k++) c[row] += a[row][k] * b[k];
    __builtin_memcpy(result, c, sizeof(c));
  }
};

template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b,
                                   const simdgroup_matrix<C, 8, 8>& c,
                                   int line = __builtin_LINE()) {
  using Product = MslProduct<A, B, C>;
  static_assert(sizeof(Product) <= msl::kSlot);
  const Product given{a.elements, b.elements, c.elements};
  const msl::Exchanged all =
      msl_exchange(msl::kMatrix, &given, sizeof(given), &Product::combine, line);
  const uint32_t row = msl::matrix_row(msl_lane()), column = msl::matrix_column(msl_lane());
  const auto got = msl::slot<vec<float, 2>>(all.result + (row * 8 + column) * sizeof(float), 0);
  d.elements = vec<D, 2>{D(got[0]), D(got[1])};
}
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                        const simdgroup_matrix<B, 8, 8>& b, int line = __builtin_LINE()) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)), line);
}

}  // namespace metal
