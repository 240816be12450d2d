// What the kernels share that are built on oneDNN.
#pragma once

#include <string>

#ifdef JAX_MPS_ONEDNN
#include <dnnl.hpp>
#include <optional>
#include <vector>

#include "../kernel.h"
#include "neuron.h"

namespace jax_mps::cpu {

using Dims = dnnl::memory::dims;

dnnl::engine& engine();
dnnl::stream& stream();  // of the calling thread

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

// Runs a primitive, reordering the arguments that it wants in a layout of its own through the
// scratch memory.
class OneDnnRunner {
 public:
  // `given` is how the caller's array lies in memory, `wanted` how the primitive wants it.
  void argument(int id, dnnl::memory::desc given, dnnl::memory::desc wanted, bool is_result);
  void finish(dnnl::primitive primitive, const dnnl::memory::desc& scratchpad,
              const std::string& name);

  size_t scratch_bytes() const { return scratch_bytes_; }
  const std::string& name() const { return name_; }
  // `data[i]` is the array of the i-th argument() call.
  void run(void* const* data, std::byte* scratch) const;

 private:
  struct Argument {
    int id;
    dnnl::memory::desc given, wanted;
    bool is_result;
    std::optional<dnnl::reorder> reorder;
    size_t offset = 0;
  };
  std::vector<Argument> arguments_;
  dnnl::primitive primitive_;
  dnnl::memory::desc scratchpad_;
  size_t scratchpad_offset_ = 0, scratch_bytes_ = 0;
  std::string name_;
};

dnnl::primitive_attr user_scratchpad();

// How a node's fused neuron runs: inside the oneDNN primitive, or after it where oneDNN does not
// have it.
struct FusedNeuron {
  dnnl::primitive_attr attributes = user_scratchpad();
  std::optional<Neuron> after;
};
std::optional<FusedNeuron> fuse_neuron(const Node& node);  // nothing where neither can be

// A node that is one primitive: arguments are the operands in order, then the result.
class OneDnnKernel : public Kernel {
 public:
  OneDnnKernel(OneDnnRunner runner, const Node& node, std::optional<Neuron> after = std::nullopt)
      : runner_(std::move(runner)),
        operands_(node.in.size()),
        elements_(node.out[0].elements()),
        after_(after) {}

  std::string implementation() const override { return runner_.name(); }
  size_t scratch_bytes() const override { return runner_.scratch_bytes(); }
  void run(const Buffers& buffers) const override;

 private:
  OneDnnRunner runner_;
  size_t operands_;
  int64_t elements_;
  std::optional<Neuron> after_;
};

}  // namespace jax_mps::cpu
#endif

namespace jax_mps::cpu {
std::string onednn_version();  // "oneDNN 3.2.0", or "without oneDNN"
}
