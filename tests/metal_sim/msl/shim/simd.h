// Barriers, SIMD-group functions and atomics, on the simulator's fibers.
#pragma once
#include "functions.h"

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
inline mem_flags operator&(mem_flags a, mem_flags b) { return mem_flags(int(a) & int(b)); }

inline void threadgroup_barrier(mem_flags flags, int line = __builtin_LINE()) {
  msl_threadgroup_barrier(int(flags), line);
}
inline void simdgroup_barrier(mem_flags flags, int line = __builtin_LINE()) {
  msl_simdgroup_barrier(int(flags), line);
}

}  // namespace metal

// What lanes exchange is the simulator's memory, which no sanitizer need watch.
#pragma clang attribute push(__attribute__((no_sanitize("thread"))), apply_to = function)
namespace msl {

enum Op { kBarrier, kShare, kSum, kProduct, kMin, kMax, kAnd, kOr, kXor, kMatrix, kVote };

template <class T>
T slot(const unsigned char* slots, uint32_t lane) {
  T value;
  __builtin_memcpy(&value, slots + lane * kSlot, sizeof(T));
  return value;
}
template <class T>
T no_value() {  // what an absent lane gives
  T value;
  __builtin_memset(&value, 0xff, sizeof(T));
  return value;
}

// The value of lane `from`.
template <class T>
T share(T value, uint32_t from, int line) {
  static_assert(sizeof(T) <= kSlot);
  const Exchanged all = msl_exchange(kShare, &value, sizeof(T), nullptr, line);
  return from < 32 && (all.active >> from & 1) ? slot<T>(all.slots, from) : no_value<T>();
}

// Lanes are combined in pairs at growing distance, as hardware does.
template <class T, class F>
void combine(const unsigned char* slots, uint32_t active, unsigned char* result) {
  T values[32];
  bool has[32];
  for (uint32_t i = 0; i < 32; i++)
    if ((has[i] = active >> i & 1)) values[i] = slot<T>(slots, i);
  for (uint32_t step = 1; step < 32; step *= 2)
    for (uint32_t i = 0; i < 32; i += 2 * step) {
      if (has[i] && has[i + step]) values[i] = F()(values[i], values[i + step]);
      if (!has[i] && has[i + step]) values[i] = values[i + step], has[i] = true;
    }
  __builtin_memcpy(result, &values[0], sizeof(T));
}
template <class F, class T>
T reduce(Op op, T value, int line) {
  const Exchanged all = msl_exchange(op, &value, sizeof(T), &combine<T, F>, line);
  return slot<T>(all.result, 0);
}
template <class F, class T>
T scan(T value, bool inclusive, T zero, int line) {
  const Exchanged all = msl_exchange(kShare, &value, sizeof(T), nullptr, line);
  T sum = zero;
  const uint32_t lane = msl_lane();
  for (uint32_t i = 0; i < lane; i++)
    if (all.active >> i & 1) sum = F()(sum, slot<T>(all.slots, i));
  return inclusive ? F()(sum, value) : sum;
}

#define MSL_FUNCTOR(name, expression) \
  struct name {                       \
    template <class T>                \
    T operator()(T a, T b) const {    \
      return expression;              \
    }                                 \
  };
MSL_FUNCTOR(Sum, a + b)
MSL_FUNCTOR(Product, a* b)
MSL_FUNCTOR(Min, metal::min(a, b))
MSL_FUNCTOR(Max, metal::max(a, b))
MSL_FUNCTOR(And, a& b)
MSL_FUNCTOR(Or, a | b)
MSL_FUNCTOR(Xor, a ^ b)
#undef MSL_FUNCTOR

}  // namespace msl
#pragma clang attribute pop

namespace metal {

#define MSL_LINE int line = __builtin_LINE()
#define MSL_REDUCE(name, op, functor)             \
  template <class T>                              \
  T name(T value, MSL_LINE) {                     \
    return msl::reduce<functor>(op, value, line); \
  }
MSL_REDUCE(simd_sum, msl::kSum, msl::Sum)
MSL_REDUCE(simd_product, msl::kProduct, msl::Product)
MSL_REDUCE(simd_min, msl::kMin, msl::Min)
MSL_REDUCE(simd_max, msl::kMax, msl::Max)
MSL_REDUCE(simd_and, msl::kAnd, msl::And)
MSL_REDUCE(simd_or, msl::kOr, msl::Or)
MSL_REDUCE(simd_xor, msl::kXor, msl::Xor)
#undef MSL_REDUCE

template <class T>
T simd_shuffle(T value, ushort lane, MSL_LINE) {
  return msl::share(value, lane, line);
}
template <class T>
T simd_broadcast(T value, ushort lane, MSL_LINE) {
  return msl::share(value, lane, line);
}
template <class T>
T simd_shuffle_xor(T value, ushort mask, MSL_LINE) {
  return msl::share(value, msl_lane() ^ mask, line);
}
// Lanes at the end, which have no partner, keep their value.
template <class T>
T simd_shuffle_up(T value, ushort by, MSL_LINE) {
  const uint lane = msl_lane();
  return msl::share(value, lane < by ? lane : lane - by, line);
}
template <class T>
T simd_shuffle_down(T value, ushort by, MSL_LINE) {
  const uint lane = msl_lane();
  return msl::share(value, lane + by > 31 ? lane : lane + by, line);
}
template <class T>
T simd_shuffle_rotate_up(T value, ushort by, MSL_LINE) {
  return msl::share(value, (msl_lane() - by) & 31, line);
}
template <class T>
T simd_shuffle_rotate_down(T value, ushort by, MSL_LINE) {
  return msl::share(value, (msl_lane() + by) & 31, line);
}
template <class T>
T simd_shuffle_and_fill_up(T value, T fill, ushort by, MSL_LINE) {
  const uint lane = msl_lane();
  T got = msl::share(value, lane < by ? lane : lane - by, line);
  return lane < by ? fill : got;
}
template <class T>
T simd_shuffle_and_fill_down(T value, T fill, ushort by, MSL_LINE) {
  const uint lane = msl_lane();
  T got = msl::share(value, lane + by > 31 ? lane : lane + by, line);
  return lane + by > 31 ? fill : got;
}
template <class T>
T simd_broadcast_first(T value, MSL_LINE) {
  const msl::Exchanged all = msl_exchange(msl::kShare, &value, sizeof(T), nullptr, line);
  return msl::slot<T>(all.slots, __builtin_ctz(all.active));
}
template <class T>
T simd_prefix_inclusive_sum(T value, MSL_LINE) {
  return msl::scan<msl::Sum>(value, true, T(0), line);
}
template <class T>
T simd_prefix_exclusive_sum(T value, MSL_LINE) {
  return msl::scan<msl::Sum>(value, false, T(0), line);
}
inline bool simd_any(bool value, MSL_LINE) {
  return msl::reduce<msl::Or>(msl::kVote, int(value), line);
}
inline bool simd_all(bool value, MSL_LINE) {
  return msl::reduce<msl::And>(msl::kVote, int(value), line);
}
inline bool simd_is_first() { return msl_lane() == 0; }
struct simd_vote {
  ulong bits;
  explicit operator ulong() const { return bits; }
  bool any() const { return bits != 0; }
};
inline simd_vote simd_ballot(bool value, MSL_LINE) {
  return {ulong(msl::reduce<msl::Or>(msl::kVote, uint(value) << msl_lane(), line))};
}
template <class T>
T quad_shuffle_xor(T value, ushort mask, MSL_LINE) {
  return msl::share(value, msl_lane() ^ (mask & 3), line);
}
template <class T>
T quad_broadcast(T value, ushort lane, MSL_LINE) {
  return msl::share(value, (msl_lane() & ~3u) + lane, line);
}
template <class T>
T quad_sum(T value, MSL_LINE) {
  value += quad_shuffle_xor(value, 1, line);
  return value + quad_shuffle_xor(value, 2, line);
}

enum memory_order { memory_order_relaxed };
enum thread_scope { thread_scope_device, thread_scope_threadgroup };
template <class T>
struct atomic {
  T value;
};
// Pointers are of any address space.
template <class P>
using MslAtomic = std::remove_cv_t<decltype(P()->value)>;
template <class P, class B, class F, class A = MslAtomic<P>>
A msl_update(P at, B operand, F f) {
  A old, next;
  __atomic_load(&at->value, &old, __ATOMIC_RELAXED);
  do next = f(old, A(operand));
  while (!__atomic_compare_exchange(&at->value, &old, &next, true, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED));
  return old;
}
#define MSL_ATOMIC(name, expression)                                          \
  template <class P, class B, class A = MslAtomic<P>>                         \
  A atomic_fetch_##name##_explicit(P at, B operand, memory_order) {           \
    return msl_update(at, operand, [](A a, A b) -> A { return expression; }); \
  }
MSL_ATOMIC(add, a + b)
MSL_ATOMIC(sub, a - b)
MSL_ATOMIC(min, b < a ? b : a)
MSL_ATOMIC(max, a < b ? b : a)
MSL_ATOMIC(and, a& b)
MSL_ATOMIC(or, a | b)
MSL_ATOMIC(xor, a ^ b)
#undef MSL_ATOMIC
template <class P, class A = MslAtomic<P>>
A atomic_load_explicit(P at, memory_order) {
  A value;
  __atomic_load(&at->value, &value, __ATOMIC_RELAXED);
  return value;
}
template <class P, class B, class A = MslAtomic<P>>
void atomic_store_explicit(P at, B operand, memory_order) {
  A value = A(operand);
  __atomic_store(&at->value, &value, __ATOMIC_RELAXED);
}
template <class P, class B, class A = MslAtomic<P>>
A atomic_exchange_explicit(P at, B operand, memory_order) {
  return msl_update(at, operand, [](A, A b) { return b; });
}
template <class P, class B, class A = MslAtomic<P>>
bool atomic_compare_exchange_weak_explicit(P at, A* expected, B desired, memory_order,
                                           memory_order) {
  A next = A(desired);
  return __atomic_compare_exchange(&at->value, expected, &next, true, __ATOMIC_RELAXED,
                                   __ATOMIC_RELAXED);
}
inline void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) {}
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;
using atomic_ulong = atomic<ulong>;
#undef MSL_LINE

}  // namespace metal
