// Convolution of windows of one pixel and its gradients, as products of pixels and weights: for
// arrays whose rows are apart, which oneDNN's convolutions do not take.
#include <algorithm>

#include "conv.h"
#include "onednn.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

using dnnl::memory;
constexpr auto kF32 = memory::data_type::f32;

// Why a convolution of x and w to y is none of pixels whose rows are apart, or nothing if it is.
std::string refusal(const Node& node, const TensorType& x, const TensorType& w,
                    const TensorType& y) {
  if (!x.row && !y.row) return "the rows are not apart";
  auto every = [&](const char* name, int64_t value) {
    return std::ranges::all_of(node.attributes.integers(name),
                               [&](int64_t v) { return v == value; });
  };
  bool pixel = w.elements() == w.dim(-1) * w.dim(-2) && node.attributes.integer("groups") == 1;
  if (!pixel || !every("strides", 1) || !every("padding", 0))
    return "windows of more than a pixel with rows apart";
  for (const TensorType& type : {x, w, y})
    if (type.dtype != DType::f32) return "rows apart are for float32";
  return w.row ? "the weights' rows are apart" : "";
}

// [pixels, channels]
memory::desc pixels(const TensorType& type) {
  return memory::desc({type.elements() / type.dim(-1), type.dim(-1)}, kF32, Dims{type.pitch(), 1});
}

// [in, out], or its transpose
memory::desc weights(const TensorType& w, bool transposed = false) {
  int64_t in = w.dim(-2), out = w.dim(-1);
  return transposed ? memory::desc({out, in}, kF32, Dims{1, out})
                    : memory::desc({in, out}, kF32, Dims{out, 1});
}

Offer product(const Node& node, const memory::desc& left, const memory::desc& right,
              const memory::desc& result, const memory::desc& bias = {},
              const FusedNeuron& post = {}) {
  dnnl::matmul::primitive_desc pd(engine(), left, right, bias, result, post.attributes,
                                  /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no product of these shapes");
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_SRC, left, pd.src_desc(), false);
  runner.argument(DNNL_ARG_WEIGHTS, right, pd.weights_desc(), false);
  if (node.in.size() == 3) runner.argument(DNNL_ARG_BIAS, bias, pd.bias_desc(), false);
  runner.argument(DNNL_ARG_DST, result, pd.dst_desc(), true);
  runner.finish(dnnl::matmul(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node, post.after));
}

}  // namespace

Offer pointwise_conv(const Node& node) {
  const TensorType &x = node.in[0], &w = node.in[1], &y = node.out[0];
  std::string reason = refusal(node, x, w, y);
  if (!reason.empty()) return Offer::none(reason);
  auto post = fuse_neuron(node);
  if (!post || (post->after && y.row)) return Offer::none("this neuron with rows apart");
  memory::desc bias;
  if (node.in.size() == 3) {
    if (node.in[2].dtype != DType::f32) return Offer::none("the bias is not float32");
    bias = memory::desc({1, y.dim(-1)}, kF32, Dims{y.dim(-1), 1});
  }
  return product(node, pixels(x), weights(w), pixels(y), bias, *post);
}

// dx = dy w^T
Offer pointwise_conv_data_gradient(const Node& node) {
  const TensorType &dy = node.in[0], &w = node.in[1], &dx = node.out[0];
  std::string reason = refusal(node, dx, w, dy);
  if (!reason.empty()) return Offer::none(reason);
  return product(node, pixels(dy), weights(w, true), pixels(dx));
}

// dw = x^T dy
Offer pointwise_conv_weight_gradient(const Node& node) {
  const TensorType &x = node.in[0], &dy = node.in[1], &dw = node.out[0];
  std::string reason = refusal(node, x, dw, dy);
  if (!reason.empty()) return Offer::none(reason);
  memory::desc turned({x.dim(-1), x.elements() / x.dim(-1)}, kF32, Dims{1, x.pitch()});
  return product(node, turned, pixels(dy), weights(dw));
}

}  // namespace jax_mps::cpu

#endif
