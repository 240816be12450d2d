#include "trust.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>

namespace jax_mps::cpu {
namespace {

using enum Pass;
constexpr auto kF32 = dnnl::memory::data_type::f32, kBf16 = dnnl::memory::data_type::bf16;

struct Wrong {
  std::string_view implementation;  // its name begins so
  Pass pass;
  dnnl::memory::data_type dtype;
  bool (*where)(const Convolving& c);
};

constexpr Wrong kWrong[] = {
    // Threads spoil each other's sums (AVX2); writes before or after its scratch memory (AVX-512).
    {"jit_1x1:", weight_gradient, kF32, [](const Convolving& c) { return c.strided; }},
    {"jit_bf16_1x1:", weight_gradient, kBf16, [](const Convolving& c) { return c.strided; }},
    // Wrong sums, most often over images of one row.
    {"jit_bf16_1x1:", forward, kBf16, [](const Convolving&) { return true; }},
    {"jit_bf16_1x1:", data_gradient, kBf16, [](const Convolving&) { return true; }},
    // Sums of what lies outside of its memory, and writes there.
    {"brgconv:avx512_core_amx", forward, kBf16,
     [](const Convolving& c) { return c.strided || c.empty; }},
    {"brgconv:avx512_core_bf16", forward, kBf16, [](const Convolving& c) { return c.empty; }},
    // Sum scratch memory that they never wrote.
    {"jit_bf16:", weight_gradient, kBf16,
     [](const Convolving& c) { return c.pixel || c.dilated || c.blind; }},
    {"jit:avx512_core_amx", weight_gradient, kBf16,
     [](const Convolving& c) { return c.dilated || c.blind; }},
    {"brgconv_bwd_w:", weight_gradient, kBf16, [](const Convolving& c) { return c.blind; }},
};

}  // namespace

bool sees_padding_alone(int64_t size, int64_t outputs, int64_t window, int64_t stride,
                        int64_t dilation, int64_t low) {
  for (int64_t tap = 0; tap < window; tap++) {
    // The first output whose pixel is not before the image.
    const int64_t before = low - tap * dilation;
    const int64_t first = before > 0 ? (before + stride - 1) / stride : 0;
    if (first >= outputs || first * stride >= size + before) return true;
  }
  return false;
}

bool trusted(const Convolving& convolving, std::string_view implementation) {
  return std::ranges::none_of(kWrong, [&](const Wrong& wrong) {
    return implementation.starts_with(wrong.implementation) && convolving.pass == wrong.pass &&
           convolving.dtype == wrong.dtype && wrong.where(convolving);
  });
}

}  // namespace jax_mps::cpu

#endif
