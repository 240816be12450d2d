#pragma once

namespace jax_mps {

// Bytes up to the end of the cache line of 64 bytes.
template <class T>
constexpr T align_up(T bytes) {
  return (bytes + 63) / 64 * 64;
}

}  // namespace jax_mps
