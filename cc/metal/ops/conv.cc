// conv(x, w[, b]), conv_data_gradient(dy, w), conv_weight_gradient(x, dy): implicit products in
// tiles, and a direct kernel for every geometry. A 1-D convolution is a 2-D one of height 1.
#include "metal/apple/apple.h"

namespace jax_mps::metal {
namespace {

// The shapes of one convolution, whichever of its three arrays the node computes.
struct Convolution {
  ConvParameters g{};
  int batch = 0, groups = 1;
  bool half_sums = false;  // the caller lets float16 be summed in float16
  std::optional<DType> dtype;

  Convolution(const Node& node, const TensorType& x, const TensorType& w, const TensorType& y) {
    const Attributes& a = node.attributes;
    auto strides = a.integers("strides"), gaps = a.integers("dilation"),
         padding = a.integers("padding");
    bool flat = x.rank() == 3;
    auto number = [&](int64_t high, int64_t wide) {
      return std::pair(static_cast<int>(high), static_cast<int>(wide));
    };
    auto of = [&](const TensorType& type, int from) {
      return flat ? number(1, type.dim(from)) : number(type.dim(from), type.dim(from + 1));
    };
    auto in = [&](const std::vector<int64_t>& list, size_t step, int missing) {
      return flat ? number(missing, list[0]) : number(list[0], list[step]);
    };
    std::tie(g.height, g.width) = of(x, 1);
    std::tie(g.out_height, g.out_width) = of(y, 1);
    std::tie(g.window_height, g.window_width) = of(w, 0);
    std::tie(g.stride_height, g.stride_width) = in(strides, 1, 1);
    std::tie(g.gap_height, g.gap_width) = in(gaps, 1, 1);
    std::tie(g.pad_height, g.pad_width) = in(padding, 2, 0);
    batch = static_cast<int>(x.dim(0)), groups = static_cast<int>(a.integer("groups"));
    g.channels = static_cast<int>(x.dim(-1)), g.out_channels = static_cast<int>(y.dim(-1));
    g.group_in = static_cast<int>(w.dim(-2)), g.group_out = g.out_channels / groups;
    dtype = one_floating({x, w, y});
    half_sums = dtype == DType::f16 && a.has("accumulator") && a.string("accumulator") == "half";
  }

  int taps() const { return g.window_height * g.window_width; }
  int out_pixels() const { return batch * g.out_height * g.out_width; }
  int in_pixels() const { return batch * g.height * g.width; }
  // Multiplications, of which those with a pixel of the padding are few.
  double sums() const { return double(out_pixels()) * g.out_channels * taps() * g.group_in; }
};

constexpr const char* kDtypes = "the convolutions take one floating dtype";

// Thin groups leave most of a tile empty.
bool thin(const Convolution& c) { return c.groups > 1 && (c.g.group_in < 8 || c.g.group_out < 8); }

std::string tile_name(const Convolution& c, Tile t) {
  return "implicit product in tiles of " + std::to_string(t.m) + " by " + std::to_string(t.n) +
         (c.half_sums ? ", sums in half" : "");
}

Gemm gemm_of(const Convolution& c, int mode, int m, int n, int k, Span result) {
  Gemm gemm;
  gemm.mode = mode;
  gemm.p.m = m, gemm.p.n = n, gemm.p.k = k, gemm.p.conv = c.g;
  gemm.p.total = static_cast<int>(result.bytes / size_of(*c.dtype));
  gemm.batches = c.groups, gemm.half_sums = c.half_sums;
  gemm.dtype = storage(*c.dtype), gemm.result = *c.dtype;
  gemm.c = result;
  return gemm;
}

template <int which>
Offer conv(const Node& node) {
  Convolution c(node, node.in[0], node.in[1], node.out[0]);
  bool biased = node.in.size() == 3;
  if (!c.dtype || (biased && node.in[2].dtype != *c.dtype)) return Offer::none(kDtypes);
  if (thin(c)) return Offer::none("the groups are thin");
  Recipe recipe(node, tile_name(c, kTiles[which]));
  Gemm gemm = gemm_of(c, kGemmConv, c.out_pixels(), c.g.group_out, c.taps() * c.g.group_in,
                      recipe.result(0));
  gemm.p.a_batch = c.g.group_in;
  gemm.p.b_inner = c.g.out_channels, gemm.p.b_divisor = gemm.p.k;
  gemm.p.b_column = 1, gemm.p.b_batch = c.g.group_out;
  gemm.p.c_row = c.g.out_channels, gemm.p.c_batch = c.g.group_out;
  gemm.a = recipe.operand(0), gemm.b = recipe.operand(1);
  if (biased) gemm.bias = recipe.operand(2);
  gemm.neuron = NeuronCall(node);
  add_gemm(recipe, gemm, kTiles[which]);
  return recipe;
}

template <int which>
Offer data_gradient(const Node& node) {
  Convolution c(node, node.out[0], node.in[1], node.in[0]);
  if (!c.dtype) return Offer::none(kDtypes);
  if (thin(c)) return Offer::none("the groups are thin");
  Recipe recipe(node, tile_name(c, kTiles[which]));
  Gemm gemm = gemm_of(c, kGemmDataGradient, c.in_pixels(), c.g.group_in, c.taps() * c.g.group_out,
                      recipe.result(0));
  gemm.p.a_batch = c.g.group_out;
  gemm.p.b_inner = 1, gemm.p.b_divisor = c.g.group_out;
  gemm.p.b_outer = c.g.group_in * c.g.out_channels;
  gemm.p.b_column = c.g.out_channels, gemm.p.b_batch = c.g.group_out;
  gemm.p.c_row = c.g.channels, gemm.p.c_batch = c.g.group_in;
  gemm.a = recipe.operand(0), gemm.b = recipe.operand(1);
  add_gemm(recipe, gemm, kTiles[which]);
  return recipe;
}

template <int which>
Offer weight_gradient(const Node& node) {
  Convolution c(node, node.in[0], node.out[0], node.in[1]);
  if (!c.dtype) return Offer::none(kDtypes);
  if (thin(c)) return Offer::none("the groups are thin");
  Recipe recipe(node, tile_name(c, kTiles[which]));
  Gemm gemm = gemm_of(c, kGemmWeightGradient, c.taps() * c.g.group_in, c.g.group_out,
                      c.out_pixels(), recipe.result(0));
  gemm.splits = true;
  gemm.p.a_batch = c.g.group_in;
  gemm.p.b_inner = c.g.out_channels, gemm.p.b_divisor = gemm.p.k;
  gemm.p.b_column = 1, gemm.p.b_batch = c.g.group_out;
  gemm.p.c_row = c.g.out_channels, gemm.p.c_batch = c.g.group_out;
  gemm.a = recipe.operand(0), gemm.b = recipe.operand(1);
  add_gemm(recipe, gemm, kTiles[which]);
  return recipe;
}

DirectConvParameters direct_parameters(const Convolution& c, const Node& node, int splits) {
  NeuronCall n(node);
  return {count_of(node.out[0]), c.batch, splits, n.a, n.b, n.c, n.log_c, c.g, {}};
}
// The launch of a direct kernel, with a thread for each of `count` sums.
void over_sums(Dispatch& dispatch, const Convolution& c, int64_t count) {
  dispatch.over_each(count)
      .may_be_cut(&DirectConvParameters::first)
      .computes(2 * kAlone * c.sums());
}
std::string direct_definitions(const Convolution& c) {
  return storage(*c.dtype) + storage(*c.dtype, "R");
}

Offer direct_conv(const Node& node) {
  Convolution c(node, node.in[0], node.in[1], node.out[0]);
  bool biased = node.in.size() == 3;
  if (!c.dtype || (biased && node.in[2].dtype != *c.dtype)) return Offer::none(kDtypes);
  Recipe recipe(node, "direct");
  recipe.cost = kSimplestCost;
  recipe.dispatch("conv", "conv_direct", direct_definitions(c))
      .constants({NeuronCall(node).kind, biased})
      .parameters(direct_parameters(c, node, 1))
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .reads(recipe.operand(biased ? 2 : 1))
      .writes(recipe.result(0));
  over_sums(recipe.dispatches.back(), c, node.out[0].elements());
  return recipe;
}

Offer direct_data_gradient(const Node& node) {
  Convolution c(node, node.out[0], node.in[1], node.in[0]);
  if (!c.dtype) return Offer::none(kDtypes);
  Recipe recipe(node, "direct");
  recipe.cost = kSimplestCost;
  recipe.dispatch("conv", "conv_data_gradient_direct", direct_definitions(c))
      .constants({0, 0})
      .parameters(direct_parameters(c, node, 1))
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .writes(recipe.result(0));
  over_sums(recipe.dispatches.back(), c, node.out[0].elements());
  return recipe;
}

Offer direct_weight_gradient(const Node& node) {
  constexpr int kThreads = 16 * 1024;
  Convolution c(node, node.in[0], node.out[0], node.in[1]);
  if (!c.dtype) return Offer::none(kDtypes);
  Recipe recipe(node, "direct");
  recipe.cost = kSimplestCost;
  int count = count_of(node.out[0]);
  int splits = std::clamp(kThreads / count, 1, c.batch);
  Span parts = recipe.scratch(sizeof(float) * count * splits);
  recipe.dispatch("conv", "conv_weight_gradient_direct", direct_definitions(c))
      .constants({0, 0})
      .parameters(direct_parameters(c, node, splits))
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .writes(parts);
  over_sums(recipe.dispatches.back(), c, int64_t(count) * splits);
  add_splits(recipe, count, splits, parts, recipe.result(0), *c.dtype);
  return recipe;
}

template <AppleConvolution which>
Offer apple_conv(const Node& node) {
  constexpr bool forward = which == AppleConvolution::forward;
  constexpr bool of_data = which == AppleConvolution::data_gradient;
  bool biased = forward && node.in.size() == 3;
  const TensorType &a = node.in[0], &b = node.in[1], &result = node.out[0];
  Convolution c = forward   ? Convolution(node, a, b, result)
                  : of_data ? Convolution(node, result, b, a)
                            : Convolution(node, a, result, b);
  if (!c.dtype || (biased && node.in[2].dtype != *c.dtype)) return Offer::none(kDtypes);
  std::string reason = without_apple_kernels("MPSGraph");
  if (!reason.empty()) return Offer::none(reason);
  const Attributes& attributes = node.attributes;
  if (attributes.has("precision") && attributes.string("precision") == "highest")
    return Offer::none("MPSGraph may filter, the highest precision is plain sums");
  Recipe recipe(node, "MPSGraph");
  recipe.apple = true, recipe.cost = kAppleCost;
  constexpr bool of_weights = which == AppleConvolution::weight_gradient;
  AppleConvolutionCall call{which,
                            c.g,
                            c.batch,
                            c.groups,
                            *c.dtype,
                            recipe.operand(of_weights ? 1 : 0),
                            recipe.operand(of_weights ? 0 : 1),
                            recipe.result(0),
                            {},
                            {}};
  if (forward) call.neuron = NeuronCall(node);
  if (biased) call.bias = recipe.operand(2);
  reason = add_apple_convolution(recipe, call);
  if (!reason.empty()) return Offer::none(reason);
  return recipe;
}

const Register kConv("conv", {conv<0>, conv<1>, conv<2>, conv<3>, direct_conv,
                              apple_conv<AppleConvolution::forward>});
const Register kConvDataGradient("conv_data_gradient",
                                 {data_gradient<0>, data_gradient<1>, data_gradient<2>,
                                  data_gradient<3>, direct_data_gradient,
                                  apple_conv<AppleConvolution::data_gradient>});
const Register kConvWeightGradient("conv_weight_gradient",
                                   {weight_gradient<0>, weight_gradient<1>, weight_gradient<2>,
                                    weight_gradient<3>, direct_weight_gradient,
                                    apple_conv<AppleConvolution::weight_gradient>});

}  // namespace
}  // namespace jax_mps::metal
