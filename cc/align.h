#pragma once

namespace jax_mps {

// Bytes up to a multiple of `to`: unless told, the end of the cache line.
template <int to = 64, class T>
constexpr T align_up(T bytes) {
  return (bytes + to - 1) / to * to;
}

}  // namespace jax_mps
