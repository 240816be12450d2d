// Convolution, its data gradient and its weight gradient: by minimal filtering where that wins,
// else on oneDNN, where a 1-D convolution is a 2-D one of height 1.
#include "conv.h"

#include <algorithm>

#include "onednn.h"
#include "onednn_trust.h"

namespace jax_mps::cpu {

#ifdef JAX_MPS_ONEDNN

namespace {

using dnnl::memory;

constexpr const char* kUntrusted = "oneDNN's kernels for this geometry are not to be trusted";

// The shapes of one convolution in oneDNN's terms, whichever of its three arrays the node computes.
struct Geometry {
  memory::desc x, w, y;  // as they lie in memory
  memory::desc any_w;    // weights in whatever layout the kernel likes best
  Dims strides, dilation, pad_low, pad_high;
};

// What onednn_trust.h asks of it.
Convolving convolving(const Geometry& g, Pass pass) {
  const Dims x = g.x.get_dims(), w = g.w.get_dims(), y = g.y.get_dims();
  Convolving c{.pass = pass, .dtype = g.x.get_data_type(), .pixel = true};
  for (size_t i = 0; i < 2; i++) {
    const int64_t taps = w[w.size() - 2 + i];
    c.pixel &= taps == 1;
    c.strided |= g.strides[i] > 1;
    c.dilated |= g.dilation[i] > 0;
    const int64_t stride = g.strides[i], dilation = g.dilation[i] + 1, low = g.pad_low[i];
    c.blind |= sees_padding_alone(x[2 + i], y[2 + i], taps, stride, dilation, low);
    c.empty |= sees_padding_alone(x[2 + i], taps, y[2 + i], dilation, stride, low);
  }
  return c;
}

memory::desc image(const TensorType& type, memory::data_type dtype) {
  if (type.rank() == 4)
    return permuted(type, dtype, {type.dim(0), type.dim(3), type.dim(1), type.dim(2)},
                    {0, 3, 1, 2});
  return permuted(type, dtype, {type.dim(0), type.dim(2), 1, type.dim(1)}, {0, 2, 0, 1});
}

// HWIO (or WIO) weights as [groups,] out, in, height, width.
memory::desc weights(const TensorType& type, memory::data_type dtype, int64_t groups) {
  bool flat = type.rank() == 3;
  int64_t height = flat ? 1 : type.dim(0), width = type.dim(-3), in = type.dim(-2),
          out = type.dim(-1);
  if (groups == 1)
    return memory::desc({out, in, height, width}, dtype, {1, out, width * in * out, in * out});
  int64_t group_out = out / groups;
  return memory::desc({groups, group_out, in, height, width}, dtype,
                      {group_out, 1, out, width * in * out, in * out});
}

// Nothing if oneDNN has no such convolution; then `reason` says why.
std::optional<Geometry> geometry(const Node& node, const TensorType& x, const TensorType& w,
                                 const TensorType& y, std::string& reason) {
  const Attributes& a = node.attributes;
  if (!fits_onednn(node)) {
    reason = kTooLarge;
    return std::nullopt;
  }
  int64_t groups = a.integer("groups");
  auto padding = a.integers("padding");
  size_t spatial = x.rank() - 2;
  auto dtype = onednn_dtype(x.dtype);
  if (!dtype || w.dtype != x.dtype || y.dtype != x.dtype) {
    reason = "oneDNN has no native " + std::string(name_of(x.dtype)) + " convolution here";
    return std::nullopt;
  }
  Geometry g{image(x, *dtype),
             weights(w, *dtype, groups),
             image(y, *dtype),
             {},
             a.integers("strides"),
             a.integers("dilation"),
             {},
             {}};
  for (size_t i = 0; i < spatial; i++) {
    if (padding[2 * i] < 0 || padding[2 * i + 1] < 0) {
      reason = "oneDNN has no negative padding";
      return std::nullopt;
    }
    g.pad_low.push_back(padding[2 * i]);
    g.pad_high.push_back(padding[2 * i + 1]);
    g.dilation[i] -= 1;  // oneDNN counts the gaps
  }
  if (spatial == 1) {
    g.strides.insert(g.strides.begin(), 1);
    for (Dims* dims : {&g.dilation, &g.pad_low, &g.pad_high}) dims->insert(dims->begin(), 0);
  }
  if (x.row || w.row || y.row) {  // it would run by its reference
    reason = "oneDNN's convolutions take no rows that are apart";
    return std::nullopt;
  }
  g.any_w = memory::desc(g.w.get_dims(), *dtype, memory::format_tag::any);
  return g;
}

Offer onednn_conv(const Node& node) {
  std::string reason;
  auto g = geometry(node, node.in[0], node.in[1], node.out[0], reason);
  if (!g) return Offer::none(reason);
  auto post = fuse_neuron(node);
  if (!post) return Offer::none("only relu is fused in half precision");
  memory::desc bias;
  if (node.in.size() == 3) {
    auto dtype = onednn_dtype(node.in[2].dtype);
    if (!dtype) return Offer::none("the bias has no native dtype");
    bias = memory::desc({node.in[2].dim(0)}, *dtype, memory::format_tag::a);
  }
  dnnl::convolution_forward::primitive_desc pd(
      engine(), dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, g->x,
      g->any_w, bias, g->y, g->strides, g->dilation, g->pad_low, g->pad_high, post->attributes,
      /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no convolution of this geometry");
  if (!take_trusted(pd, convolving(*g, Pass::forward))) return Offer::none(kUntrusted);
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_SRC, g->x, pd.src_desc(), false);
  runner.argument(DNNL_ARG_WEIGHTS, g->w, pd.weights_desc(), false);
  if (node.in.size() == 3) runner.argument(DNNL_ARG_BIAS, bias, pd.bias_desc(), false);
  runner.argument(DNNL_ARG_DST, g->y, pd.dst_desc(), true);
  runner.finish(dnnl::convolution_forward(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node, post->after));
}

// The gradients need the forward's descriptor as a hint.
dnnl::convolution_forward::primitive_desc forward_hint(const Geometry& g) {
  return {engine(),
          dnnl::prop_kind::forward_training,
          dnnl::algorithm::convolution_direct,
          g.x,
          g.any_w,
          g.y,
          g.strides,
          g.dilation,
          g.pad_low,
          g.pad_high,
          dnnl::primitive_attr(),
          /*allow_empty=*/true};
}

// conv_data_gradient(dy, w) -> dx
Offer onednn_conv_data_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, node.out[0], node.in[1], node.in[0], reason);
  if (!g) return Offer::none(reason);
  auto hint = forward_hint(*g);
  if (!hint) return Offer::none("oneDNN has no convolution of this geometry");
  dnnl::convolution_backward_data::primitive_desc pd(
      engine(), dnnl::algorithm::convolution_direct, g->x, g->any_w, g->y, g->strides, g->dilation,
      g->pad_low, g->pad_high, hint, user_scratchpad(), /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no data gradient of this geometry");
  if (!take_trusted(pd, convolving(*g, Pass::data_gradient))) return Offer::none(kUntrusted);
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_DIFF_DST, g->y, pd.diff_dst_desc(), false);
  runner.argument(DNNL_ARG_WEIGHTS, g->w, pd.weights_desc(), false);
  runner.argument(DNNL_ARG_DIFF_SRC, g->x, pd.diff_src_desc(), true);
  runner.finish(dnnl::convolution_backward_data(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node));
}

// conv_weight_gradient(x, dy) -> dw. The bias gradient is a node of its own: fused, it slows
// oneDNN's down.
Offer onednn_conv_weight_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, node.in[0], node.out[0], node.in[1], reason);
  if (!g) return Offer::none(reason);
  auto hint = forward_hint(*g);
  if (!hint) return Offer::none("oneDNN has no convolution of this geometry");
  dnnl::convolution_backward_weights::primitive_desc pd(
      engine(), dnnl::algorithm::convolution_direct, g->x, g->any_w, g->y, g->strides, g->dilation,
      g->pad_low, g->pad_high, hint, user_scratchpad(), /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no weight gradient of this geometry");
  if (!take_trusted(pd, convolving(*g, Pass::weight_gradient))) return Offer::none(kUntrusted);
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_SRC, g->x, pd.src_desc(), false);
  runner.argument(DNNL_ARG_DIFF_DST, g->y, pd.diff_dst_desc(), false);
  runner.argument(DNNL_ARG_DIFF_WEIGHTS, g->w, pd.diff_weights_desc(), true);
  runner.finish(dnnl::convolution_backward_weights(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node));
}

const Register kConv("conv", {winograd_conv, short_sums_conv, pointwise_conv, onednn_conv},
                     /*rows_apart=*/true);
const Register kConvDataGradient("conv_data_gradient",
                                 {winograd_conv_data_gradient, short_sums_conv_data_gradient,
                                  pointwise_conv_data_gradient, onednn_conv_data_gradient},
                                 /*rows_apart=*/true);
const Register kConvWeightGradient("conv_weight_gradient",
                                   {winograd_conv_weight_gradient, pixels_weight_gradient,
                                    pointwise_conv_weight_gradient, onednn_conv_weight_gradient},
                                   /*rows_apart=*/true);

}  // namespace
#else
namespace {
const Register kConv("conv", {winograd_conv, short_sums_conv}, /*rows_apart=*/true);
const Register kConvDataGradient("conv_data_gradient",
                                 {winograd_conv_data_gradient, short_sums_conv_data_gradient},
                                 /*rows_apart=*/true);
const Register kConvWeightGradient("conv_weight_gradient",
                                   {winograd_conv_weight_gradient, pixels_weight_gradient},
                                   /*rows_apart=*/true);
}  // namespace
#endif

}  // namespace jax_mps::cpu
