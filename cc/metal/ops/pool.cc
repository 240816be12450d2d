// The pools and their gradients. A 1-D pool is a 2-D one of height 1.
#include "family.h"
#include "metal/kernels/pool_parameters.h"

namespace jax_mps::metal {
namespace {

// `x` and `y` are the types on the two sides of the pool, whichever the node computes.
PoolParameters parameters(const Node& node, const TensorType& x, const TensorType& y) {
  const Attributes& a = node.attributes;
  auto window = a.integers("window"), strides = a.integers("strides"),
       padding = a.integers("padding");
  auto gaps = a.has("dilation") ? a.integers("dilation") : std::vector<int64_t>(window.size(), 1);
  size_t spatial = x.rank() - 2;
  bool flat = spatial == 1;
  auto number = [&](const std::vector<int64_t>& list, size_t which, int missing) {
    if (flat && which == 0) return missing;
    return static_cast<int>(list[flat ? 0 : which]);
  };
  auto size = [&](const TensorType& type, int which) {
    if (flat) return which == 0 ? 1 : static_cast<int>(type.dim(1));
    return static_cast<int>(type.dim(which + 1));
  };
  std::vector<int64_t> low;
  for (size_t i = 0; i < spatial; i++) low.push_back(padding[2 * i]);
  PoolParameters p{};
  p.batch = static_cast<int>(x.dim(0)), p.channels = static_cast<int>(x.dim(-1));
  p.height = size(x, 0), p.width = size(x, 1);
  p.out_height = size(y, 0), p.out_width = size(y, 1);
  p.window_height = number(window, 0, 1), p.window_width = number(window, 1, 1);
  p.stride_height = number(strides, 0, 1), p.stride_width = number(strides, 1, 1);
  p.gap_height = number(gaps, 0, 1), p.gap_width = number(gaps, 1, 1);
  p.pad_height = number(low, 0, 0), p.pad_width = number(low, 1, 0);
  p.count_padding = a.has("count_padding") && a.boolean("count_padding");
  if (a.has("total") && a.boolean("total")) p.count_padding = 2;
  return p;
}

// A pool whose first result has the shape of y, or with `back` that of x; `taps` is the operand or
// result that holds them, or none.
Offer pool(const Node& node, bool back, const TensorType* taps) {
  const TensorType &first = node.in[0], &out = node.out[0];
  auto dtype = one_floating({first, out});
  for (const TensorType& type : node.in)
    if (&type != taps && type.dtype != first.dtype) dtype.reset();
  if (!dtype) return Offer::none("the pools take one floating dtype");
  PoolParameters p = parameters(node, back ? out : first, back ? first : out);
  std::string definitions = storage(*dtype);
  definitions += storage(taps ? taps->dtype : DType::u8, "P");
  Recipe recipe(node, node.op);
  Dispatch& dispatch = recipe.dispatch("pool", node.op, definitions);
  dispatch.parameters(p);
  for (size_t i = 0; i < node.in.size(); i++) dispatch.reads(recipe.operand(static_cast<int>(i)));
  for (size_t i = 0; i < node.out.size(); i++) dispatch.writes(recipe.result(static_cast<int>(i)));
  dispatch.over_elements(out.elements());
  constexpr double kEach = 16;  // for one pixel of a window, whose address costs most
  dispatch.computes(kEach * p.window_height * p.window_width * out.elements());
  return recipe;
}

Offer forward(const Node& node) { return pool(node, false, nullptr); }
Offer forward_taps(const Node& node) { return pool(node, false, &node.out[1]); }
Offer pick(const Node& node) { return pool(node, false, &node.in[1]); }
Offer backward(const Node& node) { return pool(node, true, nullptr); }
Offer max_gradient(const Node& node) { return pool(node, true, &node.in[1]); }

const Register kMax("max_pool", {forward});
const Register kMaxTaps("max_pool_taps", {forward_taps});
const Register kMaxGradient("max_pool_gradient", {max_gradient});
const Register kMaxPick("max_pool_pick", {pick});
const Register kAverage("avg_pool", {forward});
const Register kAverageGradient("avg_pool_gradient", {backward});
const Register kL2("l2_pool", {forward});
const Register kL2Gradient("l2_pool_gradient", {backward});

}  // namespace
}  // namespace jax_mps::metal
