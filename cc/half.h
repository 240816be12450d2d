// Scalar conversions between float32 and the half-precision storage types, round to nearest even.
// Integer forms, because the hardware conversion is not in every instruction set compiled for. Each
// file has its own copies: those of loops are compiled for several instruction sets.
#pragma once

#include <bit>
#include <cstdint>

namespace jax_mps {
namespace {

[[maybe_unused]] inline float bf16_to_f32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

[[maybe_unused]] inline uint16_t f32_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  uint32_t quiet_nan = (u >> 16) | 0x40;
  return static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

[[maybe_unused]] inline float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  uint32_t exponent = h & 0x7c00, mantissa = h & 0x03ff;
  uint32_t normal = (static_cast<uint32_t>(h & 0x7fff) << 13) + (112u << 23);
  // By integer conversion: XLA's threads flush float32 subnormals to zero.
  uint32_t subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(mantissa)) * 0x1p-24f);
  uint32_t special = 0x7f800000 | (mantissa << 13);
  uint32_t finite = exponent == 0 ? subnormal : normal;
  return std::bit_cast<float>(sign | (exponent == 0x7c00 ? special : finite));
}

[[maybe_unused]] inline uint16_t f32_to_f16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  uint32_t sign = (u >> 16) & 0x8000;
  uint32_t magnitude = u & 0x7fffffff;
  uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14 the float adder rounds: 0.5 has an ulp of 2^-24, the subnormals' spacing.
  uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x477ff000 ? 0x7c00 : result;
  result = magnitude > 0x7f800000 ? 0x7e00 : result;
  return static_cast<uint16_t>(sign | result);
}

}  // namespace
}  // namespace jax_mps
