// What the kernels share that are built on oneDNN.
#pragma once

#include <string>

#ifdef JAX_MPS_ONEDNN
#include <dnnl.hpp>
#include <optional>
#include <vector>

#include "cpu/ops/neuron.h"
#include "kernel.h"

namespace jax_mps::cpu {

using Dims = dnnl::memory::dims;

dnnl::engine& engine();
dnnl::stream& stream();  // of the calling thread

// oneDNN on the calling thread alone, while this lives. Primitives are made and run so.
class OneThread {
 public:
  OneThread();
  ~OneThread();

 private:
  int before_;
};

// The oneDNN name of a dtype, or nothing where it has none that its CPU kernels run natively.
std::optional<dnnl::memory::data_type> onednn_dtype(DType dtype);

// Whether a node's arrays are of sizes that oneDNN's kernels count in 32 bits, blocks of channels
// filled up; else they divide by zero or worse.
bool fits_onednn(const Node& node);
constexpr const char* kTooLarge = "oneDNN takes arrays of fewer than 2^31 elements";

// Row-major strides of `dims` after a permutation: axis i of the result is axis order[i] of the
// array in memory.
dnnl::memory::desc permuted(const TensorType& type, dnnl::memory::data_type dtype, const Dims& dims,
                            const Dims& order);

dnnl::primitive_attr user_scratchpad();

// How a node's fused neuron runs: inside the oneDNN primitive, or after it where oneDNN does not
// have it.
struct FusedNeuron {
  dnnl::primitive_attr attributes = user_scratchpad();
  std::optional<Neuron> after;
};
std::optional<FusedNeuron> fuse_neuron(const Node& node);  // nothing where neither can be

}  // namespace jax_mps::cpu
#endif

namespace jax_mps::cpu {
std::string onednn_version();  // "oneDNN 3.2.0", or "without oneDNN"
}
