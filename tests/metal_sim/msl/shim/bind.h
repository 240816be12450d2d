// Calls a kernel for one thread: each argument from its buffer, its threadgroup memory or the
// thread's place in the grid.
#pragma once
#include "types.h"

namespace msl {

struct Where {
  Kind kind;
  int index;
};

template <class P>
constexpr Argument describe(Where where) {
  using T = std::remove_pointer_t<std::remove_reference_t<P>>;
  constexpr bool memory = std::is_pointer_v<P> || std::is_reference_v<P>;
  if constexpr (!memory)
    return {where.kind, where.index, 0, 1, false, false};
  else if constexpr (std::is_void_v<T>)
    return {where.kind, where.index, 1, 1, !std::is_const_v<T>, false};
  else
    return {where.kind, where.index,         sizeof(T),
            alignof(T), !std::is_const_v<T>, std::is_reference_v<P>};
}

template <class P, Where where>
inline P argument(void* slot, const Thread& thread) {
  using T = std::remove_reference_t<P>;
  if constexpr (where.kind == kBuffer || where.kind == kThreadgroup) {
    static_assert(std::is_pointer_v<P> || std::is_reference_v<P>,
                  "a buffer argument is a pointer or a reference");
    if constexpr (std::is_reference_v<P>)
      return *static_cast<T*>(slot);
    else
      return static_cast<P>(slot);
  } else {
    using V = std::remove_const_t<T>;
    auto vector = [](const uint32_t (&v)[3]) {
      V out{};
      for (int i = 0; i < kCount<V>; i++) set(out, i, Element<V>(v[i]));
      return out;
    };
    if constexpr (where.kind == kPosition) return vector(thread.position);
    if constexpr (where.kind == kLocal) return vector(thread.local);
    if constexpr (where.kind == kGroup) return vector(thread.group);
    if constexpr (where.kind == kGroups) return vector(thread.groups);
    if constexpr (where.kind == kGroupSize) return vector(thread.group_size);
    if constexpr (where.kind == kFullSize) return vector(thread.full_size);
    if constexpr (where.kind == kGrid) return vector(thread.grid);
    if constexpr (where.kind == kIndex) return V(thread.index);
    if constexpr (where.kind == kLane) return V(thread.lane);
    if constexpr (where.kind == kSimd) return V(thread.simd);
    if constexpr (where.kind == kSimds) return V(thread.simds);
    if constexpr (where.kind == kSimdWidth) return V(32);
  }
}

template <auto F, Where... where>
struct Bind;
template <class... P, void (*F)(P...), Where... where>
struct Bind<F, where...> {
  static_assert(sizeof...(P) == sizeof...(where));
  static constexpr int count = sizeof...(P);
  static constexpr Argument arguments[sizeof...(P) + 1] = {describe<P>(where)..., {}};
  template <size_t... I>
  static void call(void* const* slots, const Thread& thread, std::index_sequence<I...>) {
    F(argument<P, where>(slots[I], thread)...);
  }
  static void run(void* const* slots, const Thread& thread) {
    call(slots, thread, std::make_index_sequence<sizeof...(P)>());
  }
};

template <class T, int id>
T& threadgroup_variable(const char* name) {
  return *static_cast<T*>(msl_threadgroup_variable(id, sizeof(T), alignof(T), name));
}

// A function constant: read once, when the library is loaded for a pipeline.
template <class T>
T function_constant(int index, const char* name) {
  using E = Element<T>;
  const char* type = std::is_same_v<E, bool>     ? "bool"
                     : std::is_same_v<E, float>  ? "float"
                     : std::is_same_v<E, half>   ? "half"
                     : std::is_same_v<E, short>  ? "short"
                     : std::is_same_v<E, ushort> ? "ushort"
                     : std::is_same_v<E, uchar>  ? "uchar"
                     : std::is_same_v<E, char>   ? "char"
                     : std::is_signed_v<E>       ? "int"
                                                 : "uint";
  T value{};
  msl_constant(index, name, type, &value, sizeof(T));
  return value;
}

}  // namespace msl
#define is_function_constant_defined(name) (msl_constant(name##_index, #name, "", nullptr, 0))
