// MSL's scalar and vector types on clang's extended vectors, and its vector constructors.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "abi.h"

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
using std::bool_constant, std::conditional, std::enable_if, std::false_type, std::true_type;
using std::conditional_t, std::enable_if_t, std::integral_constant, std::is_same, std::is_same_v;
using std::is_floating_point, std::is_floating_point_v, std::is_integral_v;
using std::is_integral, std::is_unsigned, std::is_signed, std::remove_reference_t,
    std::is_convertible;
using std::make_unsigned_t, std::remove_cv_t, std::remove_reference;
template <class T>
using remove_addrspace_t = std::remove_cv_t<T>;
template <class T>
using make_void_t = void;
}  // namespace metal

#define MSL_VECTORS(T)           \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4; \
  namespace metal {              \
  using ::T##2, ::T##3, ::T##4;  \
  }
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(float)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
#undef MSL_VECTORS
// A comparison of vectors gives integers, of which zero is false; so do these.
typedef int2 bool2;
typedef int3 bool3;
typedef int4 bool4;
namespace metal {
using ::bool2, ::bool3, ::bool4, ::uchar, ::ushort, ::uint, ::ulong, ::half, ::bfloat, ::size_t;
using ::int8_t, ::uint8_t, ::int16_t, ::uint16_t, ::int32_t, ::uint32_t, ::int64_t, ::uint64_t;
}  // namespace metal
using float16_t = half;

namespace msl {

template <class T>
struct Shape {
  using Element = T;
  static constexpr int count = 1;
};
template <class T, int N>
struct Shape<T __attribute__((ext_vector_type(N)))> {
  using Element = T;
  static constexpr int count = N;
};
template <class T>
using Element = typename Shape<T>::Element;
template <class T>
constexpr int kCount = Shape<T>::count;

template <class T>
constexpr Element<T> get(const T& v, int i) {
  if constexpr (kCount<T> == 1)
    return v;
  else
    return v[i];
}
template <class T>
constexpr void set(T& v, int i, Element<T> x) {
  if constexpr (kCount<T> == 1)
    v = x;
  else
    v[i] = x;
}

// float4(a, b.xyz), float4(x), float4(half4): a vector from the values of all arguments, each
// converted.
template <class V, class... Args>
constexpr V make(Args... args) {
  V v{};
  using E = Element<V>;
  if constexpr (sizeof...(Args) == 1) {
    for (int i = 0; i < kCount<V>; i++)
      ((kCount<Args> == 1 ? set(v, i, E(get(args, 0))) : set(v, i, E(get(args, i)))), ...);
    static_assert(((kCount<Args> == 1 || kCount<Args> == kCount<V>) && ...),
                  "a vector of another length");
  } else {
    static_assert((kCount<Args> + ... + 0) == (sizeof...(Args) ? kCount<V> : 0),
                  "as many values as the vector has elements");
    int at = 0;
    (
        [&] {
          for (int i = 0; i < kCount<Args>; i++) set(v, at++, E(get(args, i)));
        }(),
        ...);
  }
  return v;
}

template <class T>
struct Packed3 {
  T x, y, z;
  Packed3() = default;
  Packed3(metal::vec<T, 3> v) : x(v.x), y(v.y), z(v.z) {}
  operator metal::vec<T, 3>() const { return metal::vec<T, 3>{x, y, z}; }
  T& operator[](int i) { return (&x)[i]; }
  T operator[](int i) const { return (&x)[i]; }
};

}  // namespace msl

typedef float2 packed_float2 __attribute__((aligned(4)));
typedef float4 packed_float4 __attribute__((aligned(4)));
typedef half2 packed_half2 __attribute__((aligned(2)));
typedef half4 packed_half4 __attribute__((aligned(2)));
typedef uint2 packed_uint2 __attribute__((aligned(4)));
typedef uint4 packed_uint4 __attribute__((aligned(4)));
typedef int2 packed_int2 __attribute__((aligned(4)));
typedef int4 packed_int4 __attribute__((aligned(4)));
using packed_float3 = msl::Packed3<float>;
using packed_uint3 = msl::Packed3<uint>;
using packed_int3 = msl::Packed3<int>;
using packed_half3 = msl::Packed3<half>;

template <class To, class From>
constexpr To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: types of equal size");
  return __builtin_bit_cast(To, from);
}
