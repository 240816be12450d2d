// Products of matrices on oneDNN, in parts.
#pragma once

#include "parts.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

// c[i, m, n] = sum over k of a[i, m, k] b[i, k, n] (+ bias[n]): arrays by their strides, in
// elements. One of each array's last two strides is 1, except where its axis has a single step.
struct MatrixProduct {
  int64_t batch = 1, m = 1, k = 1, n = 1;
  struct Array {
    dnnl::memory::data_type dtype = dnnl::memory::data_type::f32;
    int64_t batch = 0, row = 1, col = 1;  // strides
  };
  Array a{}, b{}, c{};
  std::optional<dnnl::memory::data_type> bias{};
  dnnl::primitive_attr attributes = user_scratchpad();
  bool adds = false;    // to c
  bool packed = false;  // b is copied by a call of its own: Parts::share()
};

// Arrays are a, b, then if there is one the bias, and c. Nothing if oneDNN has no such product.
std::optional<Parts> product_parts(const MatrixProduct& product);

}  // namespace jax_mps::cpu
#endif
