// One matrix product of fixed shape, run many times within a kernel: C (+)= A B (+ bias).
#pragma once

#include <optional>

#include "onednn.h"

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

  bool supported() const { return static_cast<bool>(primitive_); }
  const std::string& name() const { return name_; }
  size_t packed_bytes() const { return options_.packed ? weights_.get_size() : 0; }
  size_t scratch_bytes() const { return scratchpad_.get_size(); }

  void pack(const float* b, void* packed) const;
  // b is packed if the options say so.
  void run(const float* a, const void* b, float* c, std::byte* scratch,
           const float* bias = nullptr) const;

 private:
  Options options_;
  dnnl::memory::desc a_, b_, c_, bias_, weights_, scratchpad_;
  dnnl::matmul primitive_;
  std::optional<dnnl::reorder> reorder_;
  std::string name_;
};

}  // namespace jax_mps::cpu
#endif
