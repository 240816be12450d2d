#include "matmul.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

MatrixProduct::Array array(Matmul::Matrix m) {
  const auto f32 = dnnl::memory::data_type::f32;
  return m.transposed ? MatrixProduct::Array{f32, 0, 1, m.stride}
                      : MatrixProduct::Array{f32, 0, m.stride, 1};
}

}  // namespace

Matmul::Matmul(int64_t m, int64_t k, int64_t n, Matrix a, Matrix b, int64_t c_stride,
               Options options)
    : options_(options) {
  MatrixProduct p{.m = m, .k = k, .n = n};
  p.a = array(a), p.b = array(b), p.c = array({c_stride});
  if (options.bias) p.bias = dnnl::memory::data_type::f32;
  p.adds = options.accumulate, p.packed = options.packed;
  parts_ = product_parts(p);
}

void Matmul::pack(const float* b, void* packed) const {
  void* arrays[] = {nullptr, const_cast<float*>(b), nullptr, nullptr};
  parts_->share(arrays, static_cast<std::byte*>(packed));
}

void Matmul::run(const float* a, const void* b, float* c, std::byte* scratch,
                 const float* bias) const {
  void* arrays[4] = {const_cast<float*>(a), const_cast<void*>(b), const_cast<float*>(bias), c};
  if (!options_.bias) arrays[2] = c;
  options_.packed ? parts_->run(arrays, static_cast<const std::byte*>(b), scratch)
                  : parts_->run(arrays, scratch);
}

}  // namespace jax_mps::cpu

#endif
