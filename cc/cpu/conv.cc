// Convolution, its data gradient and its weight gradient: by minimal filtering where that wins,
// else on oneDNN, where a 1-D convolution is a 2-D one of height 1.
#include "conv.h"

#include <map>

#include "onednn_conv.h"

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

// Why there is no such descriptor that is to be trusted, or nothing. What it was hinted with must
// still live.
template <class PrimitiveDesc>
std::string refusal(PrimitiveDesc& pd, const Geometry& g, Pass pass) {
  if (!pd) return "oneDNN has no convolution of this geometry";
  return take_trusted(pd, convolving(g, pass)) ? "" : kUntrusted;
}

// A primitive for each shape of the slices. make(geometry, pd) says why there is none; add(pd,
// sliced, slice) makes a part of one.
template <class PrimitiveDesc, class SliceOf, class Make, class Add>
std::string each_part(const Geometry& g, const std::vector<Slice>& slices, const SliceOf& slice_of,
                      const Make& make, const Add& add) {
  OneThread one;
  std::map<Dims, PrimitiveDesc> made;
  for (const Slice& slice : slices) {
    const Sliced sliced = slice_of(g, slice);
    if (!has_work(sliced.g)) return "a band without work";
    auto [place, is_new] = made.try_emplace(key_of(sliced.g));
    PrimitiveDesc& pd = place->second;
    if (is_new)
      if (std::string reason = make(sliced.g, pd); !reason.empty()) return reason;
    add(pd, sliced, slice);
  }
  return "";
}

using Kind = PartArgument::Kind;

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
  using Desc = dnnl::convolution_forward::primitive_desc;
  auto offer = [&](bool may_band) -> Offer {
    Parts parts;
    std::string name;
    reason = each_part<Desc>(
        *g, forward_slices(*g, may_band), slice_of_y,
        [&](const Geometry& g, Desc& pd) {
          pd = forward_desc(g, bias, post->attributes);
          return refusal(pd, g, Pass::forward);
        },
        [&](const Desc& pd, const Sliced& s, const Slice&) {
          name = pd.impl_info_str();
          Part part{dnnl::convolution_forward(pd), pd.scratchpad_desc(), {}, -1};
          part.arguments = {
              {Kind::operand, DNNL_ARG_SRC, 0, s.x_offset, s.g.x, pd.src_desc()},
              {Kind::shared, DNNL_ARG_WEIGHTS, 1, 0, g->w, pd.weights_desc()},
              {Kind::result, DNNL_ARG_DST, node.in.size(), s.y_offset, s.g.y, pd.dst_desc()}};
          if (!bias.is_zero())
            part.arguments.push_back({Kind::operand, DNNL_ARG_BIAS, 2, 0, bias, pd.bias_desc()});
          parts.add(std::move(part));
        });
    if (!reason.empty()) return Offer::none(reason);
    parts.finish(name, g->w.get_ndims() - 4);
    return Offer(std::make_unique<OneDnnKernel>(std::move(parts), node, post->after));
  };
  Offer banded = offer(true);
  return banded.kernel ? std::move(banded) : offer(false);
}

// conv_data_gradient(dy, w) -> dx
Offer onednn_conv_data_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, node.out[0], node.in[1], node.in[0], reason);
  if (!g) return Offer::none(reason);
  using Desc = dnnl::convolution_backward_data::primitive_desc;
  auto offer = [&](bool may_band) -> Offer {
    Parts parts;
    std::string name;
    reason = each_part<Desc>(
        *g, data_gradient_slices(*g, may_band), slice_of_x,
        [&](const Geometry& g, Desc& pd) {
          auto hint = forward_hint(g);
          if (hint)
            pd = Desc(engine(), dnnl::algorithm::convolution_direct, g.x, g.any_w, g.y, g.strides,
                      g.dilation, g.pad_low, g.pad_high, hint, user_scratchpad(),
                      /*allow_empty=*/true);
          return refusal(pd, g, Pass::data_gradient);
        },
        [&](const Desc& pd, const Sliced& s, const Slice&) {
          name = pd.impl_info_str();
          Part part{dnnl::convolution_backward_data(pd), pd.scratchpad_desc(), {}, -1};
          part.arguments = {
              {Kind::operand, DNNL_ARG_DIFF_DST, 0, s.y_offset, s.g.y, pd.diff_dst_desc()},
              {Kind::shared, DNNL_ARG_WEIGHTS, 1, 0, g->w, pd.weights_desc()},
              {Kind::result, DNNL_ARG_DIFF_SRC, 2, s.x_offset, s.g.x, pd.diff_src_desc()}};
          parts.add(std::move(part));
        });
    if (!reason.empty()) return Offer::none(reason);
    parts.finish(name, g->w.get_ndims() - 4);
    return Offer(std::make_unique<OneDnnKernel>(std::move(parts), node));
  };
  Offer banded = offer(true);
  return banded.kernel ? std::move(banded) : offer(false);
}

// conv_weight_gradient(x, dy) -> dw. The bias gradient is a node of its own: fused, it slows
// oneDNN's down.
Offer onednn_conv_weight_gradient(const Node& node) {
  std::string reason;
  auto g = geometry(node, node.in[0], node.out[0], node.in[1], reason);
  if (!g) return Offer::none(reason);
  using Desc = dnnl::convolution_backward_weights::primitive_desc;
  const Dims w = g->w.get_dims(), y = g->y.get_dims();
  auto offer = [&](bool may_cut) -> Offer {
    auto [slices, channel_parts] = weight_gradient_slices(*g, may_cut);
    const bool partial = slices.size() > 1;
    const Even channels(y[1], channel_parts, WeightSlices::kChannelStep);
    Parts parts;
    std::string name;
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
      reason = each_part<Desc>(
          *g, slices, slice_of_y,
          [&](const Geometry& g, Desc& pd) {
            Geometry dense = g;
            const Dims dims = g.y.get_dims();
            dense.y =
                memory::desc(dims, g.y.get_data_type(),
                             Dims{dims[2] * dims[3] * dims[1], 1, dims[3] * dims[1], dims[1]});
            dense.any_w =
                memory::desc(dw.get_dims(), partial ? memory::data_type::f32 : g.w.get_data_type(),
                             memory::format_tag::any);
            Geometry hinted = dense;
            hinted.any_w =
                memory::desc(dw.get_dims(), g.w.get_data_type(), memory::format_tag::any);
            auto hint = forward_hint(hinted);
            if (hint)
              pd = Desc(engine(), dnnl::algorithm::convolution_direct, dense.x, dense.any_w,
                        dense.y, g.strides, g.dilation, g.pad_low, g.pad_high, hint,
                        user_scratchpad(), /*allow_empty=*/true);
            return refusal(pd, g, Pass::weight_gradient);
          },
          [&](const Desc& pd, const Sliced& s, const Slice&) {
            name = pd.impl_info_str();
            Part part{dnnl::convolution_backward_weights(pd), pd.scratchpad_desc(), {}, sum};
            part.arguments = {
                {Kind::operand, DNNL_ARG_SRC, 0, s.x_offset, s.g.x, pd.src_desc()},
                {Kind::operand, DNNL_ARG_DIFF_DST, 1, s.y_offset, s.g.y, pd.diff_dst_desc()},
                {partial ? Kind::partial : Kind::result, DNNL_ARG_DIFF_WEIGHTS, 2, offset, dw,
                 pd.diff_weights_desc()}};
            parts.add(std::move(part));
          });
      if (!reason.empty()) return Offer::none(reason);
    }
    parts.finish(name, g->w.get_ndims() - 4);
    return Offer(std::make_unique<OneDnnKernel>(std::move(parts), node));
  };
  Offer cut = offer(true);
  return cut.kernel ? std::move(cut) : offer(false);
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
