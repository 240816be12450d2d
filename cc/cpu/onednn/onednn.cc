#include "onednn.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>

// Of the OpenMP library that oneDNN is linked with, whatever the compiler's own is.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int threads);

namespace jax_mps::cpu {
dnnl::engine& engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream stream(engine());
  return stream;
}

OneThread::OneThread() : before_(omp_get_max_threads()) {
  if (before_ != 1) omp_set_num_threads(1);
}
OneThread::~OneThread() {
  if (before_ != 1) omp_set_num_threads(before_);
}

std::optional<dnnl::memory::data_type> onednn_dtype(DType dtype) {
  if (dtype == DType::f32) return dnnl::memory::data_type::f32;
  // Below avx512_core oneDNN only emulates bfloat16; the kernels' float32 copies are faster there.
  if (dtype == DType::bf16 && dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core)
    return dnnl::memory::data_type::bf16;
  return std::nullopt;
}

bool fits_onednn(const Node& node) {
  constexpr int64_t kLimit = (int64_t{1} << 31) - (1 << 16);
  auto fits = [](const TensorType& type) { return type.span() < kLimit; };
  return std::ranges::all_of(node.in, fits) && std::ranges::all_of(node.out, fits);
}

dnnl::memory::desc permuted(const TensorType& type, dnnl::memory::data_type dtype, const Dims& dims,
                            const Dims& order) {
  Dims strides(type.rank());
  int64_t stride = 1;
  for (int axis = type.rank() - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= axis == type.rank() - 1 ? type.pitch() : type.dim(axis);
  }
  Dims permuted_strides;
  for (int64_t axis : order) permuted_strides.push_back(axis < 0 ? stride : strides[axis]);
  return dnnl::memory::desc(dims, dtype, permuted_strides);
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

std::optional<FusedNeuron> fuse_neuron(const Node& node) {
  FusedNeuron fused;
  const std::optional<Neuron> found = neuron_of(node);
  if (!found) return fused;
  const Neuron& neuron = *found;
  const TensorType& y = node.out[0];
  // Below this, a pass over what is still in the cache costs less than oneDNN's exponentials.
  constexpr size_t kCached = size_t{8} << 20;
  bool pass = y.dtype == DType::f32 && neuron.a == 0 && !y.row && y.bytes() <= kCached;
  if (neuron.is(NeuronKind::relu) && !pass) {
    dnnl::post_ops post;
    // oneDNN's relu of slope 0 turns NaN into 0, which would hide a training that diverged; elu of
    // scale 0 keeps it, and gives -0, which + 0 turns into +0.
    if (neuron.a == 0) {
      post.append_eltwise(dnnl::algorithm::eltwise_elu, 0, 0);
      post.append_eltwise(dnnl::algorithm::eltwise_linear, 1, 0);
    } else {
      post.append_eltwise(dnnl::algorithm::eltwise_relu, neuron.a, 0);
    }
    fused.attributes.set_post_ops(post);
    return fused;
  }
  if (y.dtype != DType::f32) return std::nullopt;
  fused.after = neuron;
  return fused;
}

std::string onednn_version() {
  const dnnl::version_t* v = dnnl::version();
  return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
         std::to_string(v->patch);
}

}  // namespace jax_mps::cpu

#else

namespace jax_mps::cpu {
std::string onednn_version() { return "without oneDNN"; }
}  // namespace jax_mps::cpu

#endif
