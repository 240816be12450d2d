// What oneDNN 3.2.0 is not trusted with: kernels that write outside of their memory, or whose sums
// are wrong. docs/onednn.md has how they were found.
#pragma once

#include <cstdint>
#include <string_view>

#include "onednn.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

enum class Pass { forward, data_gradient, weight_gradient };

struct Convolving {
  Pass pass;
  dnnl::memory::data_type dtype;
  bool pixel = false;    // windows of one pixel
  bool strided = false;  // a stride above 1
  bool dilated = false;  // a dilation above 1
  bool blind = false;    // an element of the window sees padding alone, of whatever output
  bool empty = false;    // an output's window sees padding alone
};

// One axis: whether an element of the window sees padding alone; with outputs and window, stride
// and dilation exchanged, whether an output does.
bool sees_padding_alone(int64_t size, int64_t outputs, int64_t window, int64_t stride,
                        int64_t dilation, int64_t low);

// Whether an implementation, by the name that oneDNN gives it, is right for such convolutions.
bool trusted(const Convolving& convolving, std::string_view implementation);

// Goes on to the first implementation that is; false if there is none, or only one that is slower
// than float32's kernels.
template <class PrimitiveDesc>
bool take_trusted(PrimitiveDesc& desc, const Convolving& convolving) {
  for (bool first = true;; first = false) {
    const std::string_view name = desc.impl_info_str();
    const bool slow =
        name.starts_with("x64:gemm") && convolving.dtype == dnnl::memory::data_type::bf16;
    if (trusted(convolving, name)) return first || !slow;
    if (!desc.next_impl()) return false;
  }
}

}  // namespace jax_mps::cpu
#endif
