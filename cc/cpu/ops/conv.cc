// Convolution, its data gradient and its weight gradient: by minimal filtering where that wins,
// else on oneDNN, where a 1-D convolution is a 2-D one of height 1.
#include "conv.h"

#include <map>

#include "cpu/onednn/conv.h"

namespace jax_mps::cpu {

#ifdef JAX_MPS_ONEDNN

namespace {

using dnnl::memory;

constexpr const char* kUntrusted = "oneDNN's kernels for this geometry are not to be trusted";

dnnl::convolution_forward::primitive_desc forward_desc(const Geometry& g, const memory::desc& bias,
                                                       const dnnl::primitive_attr& attributes) {
  return {engine(),
          dnnl::prop_kind::forward_training,
          dnnl::algorithm::convolution_direct,
          g.x,
          g.any_w,
          bias,
          g.y,
          g.strides,
          g.dilation,
          g.pad_low,
          g.pad_high,
          attributes,
          /*allow_empty=*/true};
}

// The gradients need the forward's descriptor as a hint.
dnnl::convolution_forward::primitive_desc forward_hint(const Geometry& g) {
  return forward_desc(g, {}, {});
}

// Of one of the gradients; nothing without a hint, which must live as long as the descriptor may go
// on to another implementation.
template <class Gradient>
typename Gradient::primitive_desc gradient_desc(
    const Geometry& g, const dnnl::convolution_forward::primitive_desc& hint) {
  if (!hint) return {};
  return {engine(),
          dnnl::algorithm::convolution_direct,
          g.x,
          g.any_w,
          g.y,
          g.strides,
          g.dilation,
          g.pad_low,
          g.pad_high,
          hint,
          user_scratchpad(),
          /*allow_empty=*/true};
}

// Why there is no such descriptor that is to be trusted, or nothing.
template <class PrimitiveDesc>
std::string refusal(PrimitiveDesc& pd, const Geometry& g, Pass pass) {
  if (!pd) return "oneDNN has no convolution of this geometry";
  return take_trusted(pd, convolving(g, pass)) ? "" : kUntrusted;
}

using Kind = PartArgument::Kind;
using Arguments = std::vector<PartArgument>;

// Adds a part for each slice; slices of the same shapes share a primitive. make(geometry, pd) says
// why there is none, arguments(pd, sliced) gives a part's. Gives the reason, or nothing.
template <class Primitive, class SliceOf, class Make, class ArgumentsOf>
std::string add_parts(Parts& parts, const Geometry& g, const std::vector<Slice>& slices,
                      const SliceOf& slice_of, const Make& make, const ArgumentsOf& arguments,
                      int sum = -1) {
  OneThread one;
  struct Made {
    typename Primitive::primitive_desc pd;
    Primitive primitive;
  };
  std::map<Dims, Made> all;
  for (const Slice& slice : slices) {
    const Sliced sliced = slice_of(g, slice);
    if (!has_work(sliced.g)) return "a band without work";
    auto [place, is_new] = all.try_emplace(key_of(sliced.g));
    Made& made = place->second;
    if (is_new) {
      if (std::string reason = make(sliced.g, made.pd); !reason.empty()) return reason;
      made.primitive = Primitive(made.pd);
    }
    parts.add({made.primitive, made.pd.scratchpad_desc(), made.pd.impl_info_str(),
               arguments(made.pd, sliced), sum});
  }
  return "";
}

Offer offer_of(Parts parts, const Geometry& g, const Node& node, const std::string& reason,
               std::optional<Neuron> after = std::nullopt) {
  if (!reason.empty()) return Offer::none(reason);
  parts.finish(/*axis=*/g.w.get_ndims() - 4);  // output channels
  return Offer(std::make_unique<OneDnnKernel>(std::move(parts), node, after));
}

// offer(may_cut) with bands of rows and the like, or where a part refuses without.
template <class F>
Offer cut_or_whole(const F& offer) {
  Offer cut = offer(true);
  return cut.kernel ? std::move(cut) : offer(false);
}

Offer onednn_conv(const Node& node) {
  std::string reason;
  auto g = geometry(node, reason);
  if (!g) return Offer::none(reason);
  auto post = fuse_neuron(node);
  if (!post) return Offer::none("only relu is fused in half precision");
  memory::desc bias;
  if (node.in.size() == 3) {
    auto dtype = onednn_dtype(node.in[2].dtype);
    if (!dtype) return Offer::none("the bias has no native dtype");
    bias = memory::desc({node.in[2].dim(0)}, *dtype, memory::format_tag::a);
  }
  using Conv = dnnl::convolution_forward;
  return cut_or_whole([&](bool may_band) -> Offer {
    Parts parts;
    reason = add_parts<Conv>(
        parts, *g, forward_slices(*g, may_band), slice_of_y,
        [&](const Geometry& g, Conv::primitive_desc& pd) {
          pd = forward_desc(g, bias, post->attributes);
          return refusal(pd, g, Pass::forward);
        },
        [&](const Conv::primitive_desc& pd, const Sliced& s) {
          Arguments arguments{
              {Kind::operand, DNNL_ARG_SRC, 0, s.x_offset, s.g.x, pd.src_desc()},
              {Kind::shared, DNNL_ARG_WEIGHTS, 1, 0, g->w, pd.weights_desc()},
              {Kind::result, DNNL_ARG_DST, node.in.size(), s.y_offset, s.g.y, pd.dst_desc()}};
          if (!bias.is_zero())
            arguments.push_back({Kind::operand, DNNL_ARG_BIAS, 2, 0, bias, pd.bias_desc()});
          return arguments;
        });
    return offer_of(std::move(parts), *g, node, reason, post->after);
  });
}

// conv_data_gradient(dy, w) -> dx
Offer onednn_conv_data_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, reason);
  if (!g) return Offer::none(reason);
  using Gradient = dnnl::convolution_backward_data;
  return cut_or_whole([&](bool may_band) -> Offer {
    Parts parts;
    reason = add_parts<Gradient>(
        parts, *g, data_gradient_slices(*g, may_band), slice_of_x,
        [&](const Geometry& g, Gradient::primitive_desc& pd) {
          auto hint = forward_hint(g);
          pd = gradient_desc<Gradient>(g, hint);
          return refusal(pd, g, Pass::data_gradient);
        },
        [&](const Gradient::primitive_desc& pd, const Sliced& s) {
          return Arguments{
              {Kind::operand, DNNL_ARG_DIFF_DST, 0, s.y_offset, s.g.y, pd.diff_dst_desc()},
              {Kind::shared, DNNL_ARG_WEIGHTS, 1, 0, g->w, pd.weights_desc()},
              {Kind::result, DNNL_ARG_DIFF_SRC, 2, s.x_offset, s.g.x, pd.diff_src_desc()}};
        });
    return offer_of(std::move(parts), *g, node, reason);
  });
}

// conv_weight_gradient(x, dy) -> dw. The bias gradient is a node of its own: fused, it slows
// oneDNN's down.
Offer onednn_conv_weight_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, reason);
  if (!g) return Offer::none(reason);
  using Gradient = dnnl::convolution_backward_weights;
  const Dims w = g->w.get_dims(), y = g->y.get_dims();
  return cut_or_whole([&](bool may_cut) -> Offer {
    auto [slices, channel_parts] = weight_gradient_slices(*g, may_cut);
    const bool partial = slices.size() > 1;
    const Even channels(y[1], channel_parts, WeightSlices::kChannelStep);
    Parts parts;
    for (int64_t c = 0; c < channels.parts; c++) {
      const int64_t first = channels.begin(c), count = channels.size(c);
      for (Slice& slice : slices) slice.channel = first, slice.outs = count;
      // [out, in, height, width] of these channels
      memory::desc dw = g->w;
      size_t offset = 0;
      if (channels.parts > 1) {
        dw = memory::desc({count, w[1], w[2], w[3]}, g->w.get_data_type(), g->w.get_strides());
        offset = first * memory::data_type_size(g->w.get_data_type());
      }
      const int sum = partial ? parts.add_sum(2, offset, dw) : -1;
      reason = add_parts<Gradient>(
          parts, *g, slices, slice_of_y,
          [&](const Geometry& g, Gradient::primitive_desc& pd) {
            Geometry dense = g;
            const Dims dims = g.y.get_dims();
            dense.y =
                memory::desc(dims, g.y.get_data_type(),
                             Dims{dims[2] * dims[3] * dims[1], 1, dims[3] * dims[1], dims[1]});
            dense.any_w = memory::desc(dw.get_dims(), g.w.get_data_type(), memory::format_tag::any);
            auto hint = forward_hint(dense);
            if (partial)
              dense.any_w =
                  memory::desc(dw.get_dims(), memory::data_type::f32, memory::format_tag::any);
            pd = gradient_desc<Gradient>(dense, hint);
            return refusal(pd, g, Pass::weight_gradient);
          },
          [&](const Gradient::primitive_desc& pd, const Sliced& s) {
            return Arguments{
                {Kind::operand, DNNL_ARG_SRC, 0, s.x_offset, s.g.x, pd.src_desc()},
                {Kind::operand, DNNL_ARG_DIFF_DST, 1, s.y_offset, s.g.y, pd.diff_dst_desc()},
                {partial ? Kind::partial : Kind::result, DNNL_ARG_DIFF_WEIGHTS, 2, offset, dw,
                 pd.diff_weights_desc()}};
          },
          sum);
      if (!reason.empty()) break;
    }
    return offer_of(std::move(parts), *g, node, reason);
  });
}

const Register kConv("conv", {winograd_conv, short_sums_conv, pointwise_conv, onednn_conv},
                     /*pitched_rows=*/true);
const Register kConvDataGradient("conv_data_gradient",
                                 {winograd_conv_data_gradient, short_sums_conv_data_gradient,
                                  pointwise_conv_data_gradient, onednn_conv_data_gradient},
                                 /*pitched_rows=*/true);
const Register kConvWeightGradient("conv_weight_gradient",
                                   {winograd_conv_weight_gradient, pixels_weight_gradient,
                                    pointwise_conv_weight_gradient, onednn_conv_weight_gradient},
                                   /*pitched_rows=*/true);

}  // namespace
#else
namespace {
const Register kConv("conv", {winograd_conv, short_sums_conv}, /*pitched_rows=*/true);
const Register kConvDataGradient("conv_data_gradient",
                                 {winograd_conv_data_gradient, short_sums_conv_data_gradient},
                                 /*pitched_rows=*/true);
const Register kConvWeightGradient("conv_weight_gradient",
                                   {winograd_conv_weight_gradient, pixels_weight_gradient},
                                   /*pitched_rows=*/true);
}  // namespace
#endif

}  // namespace jax_mps::cpu
