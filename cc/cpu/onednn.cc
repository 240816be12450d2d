#include "onednn.h"

#include "guard.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

size_t align_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

dnnl::engine& engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream stream(engine());
  return stream;
}

std::optional<dnnl::memory::data_type> onednn_dtype(DType dtype) {
  if (dtype == DType::f32) return dnnl::memory::data_type::f32;
  // Below avx512_core oneDNN only emulates bfloat16; the kernels' float32 copies are faster there.
  if (dtype == DType::bf16 && dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core)
    return dnnl::memory::data_type::bf16;
  return std::nullopt;
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

void OneDnnRunner::argument(int id, dnnl::memory::desc given, dnnl::memory::desc wanted,
                            bool is_result) {
  Argument argument{id, given, wanted, is_result, std::nullopt};
  if (given != wanted) {
    const auto& [from, to] = is_result ? std::pair(wanted, given) : std::pair(given, wanted);
    argument.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
    argument.offset = scratch_bytes_;
    scratch_bytes_ += align_up(wanted.get_size());
  }
  arguments_.push_back(std::move(argument));
}

void OneDnnRunner::finish(dnnl::primitive primitive, const dnnl::memory::desc& scratchpad,
                          const std::string& name) {
  primitive_ = std::move(primitive);
  scratchpad_ = scratchpad;
  scratchpad_offset_ = scratch_bytes_;
  scratch_bytes_ += align_up(scratchpad.get_size());
  name_ = "oneDNN " + name;
}

void OneDnnRunner::run(void* const* data, std::byte* scratch) const {
  std::unordered_map<int, dnnl::memory> bound;
  for (size_t i = 0; i < arguments_.size(); i++) {
    const Argument& a = arguments_[i];
    void* own = a.reorder ? static_cast<void*>(scratch + a.offset) : data[i];
    dnnl::memory memory(a.wanted, engine(), own);
    if (a.reorder && !a.is_result) {
      dnnl::memory given(a.given, engine(), data[i]);
      execute(*a.reorder, {{DNNL_ARG_FROM, given}, {DNNL_ARG_TO, memory}}, name_);
    }
    bound.emplace(a.id, std::move(memory));
  }
  bound.emplace(DNNL_ARG_SCRATCHPAD,
                dnnl::memory(scratchpad_, engine(), scratch + scratchpad_offset_));
  execute(primitive_, bound, name_);
  for (size_t i = 0; i < arguments_.size(); i++) {
    const Argument& a = arguments_[i];
    if (!a.reorder || !a.is_result) continue;
    dnnl::memory given(a.given, engine(), data[i]);
    execute(*a.reorder, {{DNNL_ARG_FROM, bound.at(a.id)}, {DNNL_ARG_TO, given}}, name_);
  }
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

std::optional<FusedNeuron> fuse_neuron(const Node& node) {
  FusedNeuron fused;
  if (!node.attributes.has("neuron")) return fused;
  Neuron neuron(node.attributes.list("neuron"));
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

void OneDnnKernel::run(const Buffers& b) const {
  void* data[4];
  for (size_t i = 0; i < operands_; i++) data[i] = const_cast<void*>(b.in[i]);
  data[operands_] = b.out[0];
  runner_.run(data, b.scratch);
  if (after_) after_->apply(b.output<float>(0), b.output<float>(0), elements_);
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
