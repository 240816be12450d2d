// One matrix product of fixed shape, run many times within a kernel: C (+)= A B (+ bias).
#pragma once

#include "cpu/onednn/product.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

class Matmul {
 public:
  struct Matrix {
    int64_t stride;           // from row to row in memory
    bool transposed = false;  // memory holds the transpose
  };
  struct Options {
    bool accumulate = false, bias = false;
    bool packed = false;  // B in oneDNN's own layout, made by pack()
  };

  // C is [m, n], summed over k. Without oneDNN's support, supported() is false.
  Matmul(int64_t m, int64_t k, int64_t n, Matrix a, Matrix b, int64_t c_stride, Options options);

  bool supported() const { return parts_.has_value(); }
  const std::string& name() const { return parts_->name(); }
  size_t packed_bytes() const { return options_.packed && parts_ ? parts_->shared_bytes() : 0; }
  size_t scratch_bytes() const { return parts_ ? parts_->scratch_bytes() - packed_bytes() : 0; }

  void pack(const float* b, void* packed) const;
  // b is packed if the options say so.
  void run(const float* a, const void* b, float* c, std::byte* scratch,
           const float* bias = nullptr) const;

 private:
  Options options_;
  std::optional<Parts> parts_;
};

}  // namespace jax_mps::cpu
#endif
