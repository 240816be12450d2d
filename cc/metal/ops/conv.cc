// conv(x, w[, b]), conv_data_gradient(dy, w), conv_weight_gradient(x, dy): implicit products in
// tiles, and a direct kernel for every geometry. A 1-D convolution is a 2-D one of height 1.
#include "ir/conv.h"

#include "metal/apple/apple.h"

namespace jax_mps::metal {
namespace {

// The shapes of one convolution, in numbers of 32 bits.
struct Convolution {
  ConvParameters g{};
  int batch = 0, groups = 1;
  bool half_sums = false;  // the caller lets float16 be summed in float16
  std::optional<DType> dtype;

  explicit Convolution(const ConvNode& node) {
    auto number = [](int64_t n) { return static_cast<int>(n); };
    const WindowAxis &y = node.windows.height(), &x = node.windows.width();
    g.height = number(y.size), g.width = number(x.size);
    g.out_height = number(y.count), g.out_width = number(x.count);
    g.window_height = number(y.window), g.window_width = number(x.window);
    g.stride_height = number(y.stride), g.stride_width = number(x.stride);
    g.gap_height = number(y.dilation), g.gap_width = number(x.dilation);
    g.pad_height = number(y.low), g.pad_width = number(x.low);
    batch = number(node.x.dim(0)), groups = number(node.groups);
    g.channels = number(node.x.dim(-1)), g.out_channels = number(node.y.dim(-1));
    g.group_in = number(node.w.dim(-2)), g.group_out = g.out_channels / groups;
    dtype = one_floating({node.x, node.w, node.y});
    half_sums = dtype == DType::f16 && node.half_sums;
  }
  explicit Convolution(const Node& node) : Convolution(conv_of(node)) {}

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
  Convolution c(node);
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
  Convolution c(node);
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
  Convolution c(node);
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
  Convolution c(node);
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
  Convolution c(node);
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
  Convolution c(node);
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
  bool biased = forward && node.in.size() == 3;
  const ConvNode conv = conv_of(node);
  Convolution c(conv);
  if (!c.dtype || (biased && node.in[2].dtype != *c.dtype)) return Offer::none(kDtypes);
  std::string reason = without_apple_kernels("MPSGraph");
  if (!reason.empty()) return Offer::none(reason);
  if (conv.highest) return Offer::none("MPSGraph may filter, the highest precision is plain sums");
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
