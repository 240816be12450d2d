// Convolution of windows of one pixel and its gradients, as products of pixels and weights: for
// arrays of pitched rows, which oneDNN's convolutions do not take.
#include <algorithm>

#include "conv.h"
#include "cpu/onednn/product.h"
#include "ir/conv.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

constexpr auto kF32 = dnnl::memory::data_type::f32;

// The reason why this is not a 1x1 convolution over pitched rows, or an empty string.
std::string refusal(const Node& node) {
  const ConvNode conv = conv_of(node);
  const TensorType &x = conv.x, &w = conv.w, &y = conv.y;
  if (!x.row && !y.row) return "the rows are not apart";
  if (!fits_onednn(node)) return kTooLarge;
  if (!conv.windows.is_pixel() || conv.groups != 1 || !conv.windows.is_plain())
    return "windows of more than a pixel with rows apart";
  for (const TensorType& type : {x, w, y})
    if (type.dtype != DType::f32) return "rows apart are for float32";
  return w.row ? "the weights' rows are apart" : "";
}

// [pixels, channels], or its transpose
MatrixProduct::Array pixels(const TensorType& type, bool transposed = false) {
  return {kF32, 0, transposed ? 1 : type.pitch(), transposed ? type.pitch() : 1};
}

// [in, out], or its transpose
MatrixProduct::Array weights(const TensorType& w, bool transposed = false) {
  return {kF32, 0, transposed ? 1 : w.dim(-1), transposed ? w.dim(-1) : 1};
}

Offer offer(const Node& node, const MatrixProduct& product, std::optional<Neuron> after = {}) {
  auto parts = product_parts(product);
  if (!parts) return Offer::none("oneDNN has no product of these shapes");
  return Offer(std::make_unique<OneDnnKernel>(std::move(*parts), node, after));
}

}  // namespace

Offer pointwise_conv(const Node& node) {
  const TensorType &x = node.in[0], &w = node.in[1], &y = node.out[0];
  std::string reason = refusal(node);
  if (!reason.empty()) return Offer::none(reason);
  auto post = fuse_neuron(node);
  if (!post || (post->after && y.row)) return Offer::none("this neuron with rows apart");
  MatrixProduct p{.m = y.elements() / y.dim(-1), .k = x.dim(-1), .n = y.dim(-1)};
  p.a = pixels(x), p.b = weights(w), p.c = pixels(y);
  if (node.in.size() == 3) {
    if (node.in[2].dtype != DType::f32) return Offer::none("the bias is not float32");
    p.bias = kF32;
  }
  p.attributes = post->attributes;
  return offer(node, p, post->after);
}

// dx = dy w^T
Offer pointwise_conv_data_gradient(const Node& node) {
  const TensorType &dy = node.in[0], &w = node.in[1], &dx = node.out[0];
  std::string reason = refusal(node);
  if (!reason.empty()) return Offer::none(reason);
  MatrixProduct p{.m = dx.elements() / dx.dim(-1), .k = dy.dim(-1), .n = dx.dim(-1)};
  p.a = pixels(dy), p.b = weights(w, true), p.c = pixels(dx);
  return offer(node, p);
}

// dw = x^T dy
Offer pointwise_conv_weight_gradient(const Node& node) {
  const TensorType &x = node.in[0], &dy = node.in[1], &dw = node.out[0];
  std::string reason = refusal(node);
  if (!reason.empty()) return Offer::none(reason);
  MatrixProduct p{.m = x.dim(-1), .k = x.elements() / x.dim(-1), .n = dy.dim(-1)};
  p.a = pixels(x, true), p.b = pixels(dy), p.c = weights(dw);
  return offer(node, p);
}

}  // namespace jax_mps::cpu

#endif
