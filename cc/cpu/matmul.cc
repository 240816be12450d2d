#include "matmul.h"

#include "guard.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

using dnnl::memory;

memory::desc matrix(int64_t rows, int64_t cols, Matmul::Matrix m) {
  Dims strides = m.transposed ? Dims{1, m.stride} : Dims{m.stride, 1};
  return memory::desc({rows, cols}, memory::data_type::f32, strides);
}

}  // namespace

Matmul::Matmul(int64_t m, int64_t k, int64_t n, Matrix a, Matrix b, int64_t c_stride,
               Options options)
    : options_(options),
      a_(matrix(m, k, a)),
      b_(matrix(k, n, b)),
      c_(matrix(m, n, {c_stride})),
      weights_(b_) {
  if (options.bias) bias_ = memory::desc({1, n}, memory::data_type::f32, Dims{n, 1});
  if (options.packed)
    weights_ = memory::desc({k, n}, memory::data_type::f32, memory::format_tag::any);
  dnnl::primitive_attr attributes = user_scratchpad();
  if (options.accumulate) {
    dnnl::post_ops post;
    post.append_sum();
    attributes.set_post_ops(post);
  }
  dnnl::matmul::primitive_desc pd(engine(), a_, weights_, bias_, c_, attributes,
                                  /*allow_empty=*/true);
  if (!pd) return;
  primitive_ = dnnl::matmul(pd);
  scratchpad_ = pd.scratchpad_desc();
  weights_ = pd.weights_desc();
  name_ = pd.impl_info_str();
  if (options.packed)
    reorder_ = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), b_, engine(), weights_));
}

void Matmul::pack(const float* b, void* packed) const {
  memory from(b_, engine(), const_cast<float*>(b)), to(weights_, engine(), packed);
  execute(*reorder_, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}, name_);
}

void Matmul::run(const float* a, const void* b, float* c, std::byte* scratch,
                 const float* bias) const {
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, memory(a_, engine(), const_cast<float*>(a))},
      {DNNL_ARG_WEIGHTS, memory(weights_, engine(), const_cast<void*>(b))},
      {DNNL_ARG_DST, memory(c_, engine(), c)},
      {DNNL_ARG_SCRATCHPAD, memory(scratchpad_, engine(), scratch)}};
  if (options_.bias)
    arguments.emplace(DNNL_ARG_BIAS, memory(bias_, engine(), const_cast<float*>(bias)));
  execute(primitive_, arguments, name_);
}

}  // namespace jax_mps::cpu

#endif
