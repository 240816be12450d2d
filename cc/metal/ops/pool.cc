// The pools and their gradients. A 1-D pool is a 2-D one of height 1.
#include "ir/pool.h"

#include "family.h"
#include "metal/kernels/pool_parameters.h"

namespace jax_mps::metal {
namespace {

PoolParameters parameters(const PoolNode& node) {
  auto number = [](int64_t n) { return static_cast<int>(n); };
  const WindowAxis &y = node.windows.height(), &x = node.windows.width();
  PoolParameters p{};
  p.batch = number(node.x.dim(0)), p.channels = number(node.x.dim(-1));
  p.height = number(y.size), p.width = number(x.size);
  p.out_height = number(y.count), p.out_width = number(x.count);
  p.window_height = number(y.window), p.window_width = number(x.window);
  p.stride_height = number(y.stride), p.stride_width = number(x.stride);
  p.gap_height = number(y.dilation), p.gap_width = number(x.dilation);
  p.pad_height = number(y.low), p.pad_width = number(x.low);
  p.count_padding = node.total ? 2 : node.count_padding;
  return p;
}

// `taps` is the operand or result that holds them, or none.
Offer pool(const Node& node, const TensorType* taps) {
  const TensorType &first = node.in[0], &out = node.out[0];
  auto dtype = one_floating({first, out});
  for (const TensorType& type : node.in)
    if (&type != taps && type.dtype != first.dtype) dtype.reset();
  if (!dtype) return Offer::none("the pools take one floating dtype");
  PoolParameters p = parameters(pool_of(node));
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

Offer plain(const Node& node) { return pool(node, nullptr); }
Offer gives_taps(const Node& node) { return pool(node, &node.out[1]); }
Offer takes_taps(const Node& node) { return pool(node, &node.in[1]); }

const Register kMax("max_pool", {plain});
const Register kMaxTaps("max_pool_taps", {gives_taps});
const Register kMaxGradient("max_pool_gradient", {takes_taps});
const Register kMaxPick("max_pool_pick", {takes_taps});
const Register kAverage("avg_pool", {plain});
const Register kAverageGradient("avg_pool_gradient", {plain});
const Register kL2("l2_pool", {plain});
const Register kL2Gradient("l2_pool_gradient", {plain});

}  // namespace
}  // namespace jax_mps::metal
