// float to bfloat, which kernels call where the processor has no instruction for it and the
// compiler's own library, before GCC 13, no function.
#include <bit>
#include <cstdint>

extern "C" [[gnu::weak]] __bf16 __truncsfbf2(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x)
    bits |= 0x400000;  // quiet
  else
    bits += 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
  return std::bit_cast<__bf16>(static_cast<uint16_t>(bits >> 16));
}
