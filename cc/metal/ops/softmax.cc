// softmax(x), log_softmax(x), their gradients (dy, y); softmax_cross_entropy(logits, labels) ->
// loss, maximum, log_sum, and its gradient.
#include "family.h"
#include "metal/kernels/softmax_parameters.h"

namespace jax_mps::metal {
namespace {

constexpr int64_t kShortRow = 512;  // classes that one SIMD-group takes

// One threadgroup a row.
void over_rows(Dispatch& dispatch, const TensorType& x) {
  size_t threads = x.dim(-1) <= kShortRow ? 32 : group_threads();
  dispatch.over({static_cast<size_t>(x.elements() / x.dim(-1)), 1, 1}, {threads, 1, 1});
}

SoftmaxParameters parameters(const TensorType& x, double smoothing) {
  return {static_cast<int>(x.elements() / x.dim(-1)), static_cast<int>(x.dim(-1)),
          static_cast<float>(smoothing)};
}

template <size_t operands, int is_log>
Offer per_row(const Node& node) {
  auto dtype = one_floating({node.in[0], node.in[operands - 1], node.out[0]});
  if (!dtype) return Offer::none("softmax takes one floating dtype");
  Recipe recipe(node, "softmax_row");
  const char* function = operands == 1 ? "softmax" : "softmax_gradient";
  Dispatch& dispatch =
      recipe.dispatch("softmax", function, storage(*dtype) + storage(DType::s32, "L"));
  dispatch.constants({is_log}).parameters(parameters(node.in[0], 0));
  for (size_t i = 0; i < operands; i++) dispatch.reads(recipe.operand(static_cast<int>(i)));
  dispatch.writes(recipe.result(0));
  over_rows(dispatch, node.in[0]);
  return recipe;
}

// `logits` is their place among the operands, and the labels follow.
Offer labelled(const Node& node, int logits, const char* function) {
  const TensorType &x = node.in[logits], &labels = node.in[logits + 1];
  SoftmaxParameters p = parameters(x, node.attributes.number("smoothing"));
  bool dense = labels.dtype != DType::s32;
  if (!is_floating(x)) return Offer::none("the loss takes floating logits");
  Recipe recipe(node, "cross_entropy_row");
  Dispatch& dispatch =
      recipe.dispatch("softmax", function, storage(x.dtype) + storage(labels.dtype, "L"));
  dispatch.constants({dense}).parameters(p);
  for (size_t i = 0; i < node.in.size(); i++) dispatch.reads(recipe.operand(static_cast<int>(i)));
  for (size_t i = 0; i < node.out.size(); i++) dispatch.writes(recipe.result(static_cast<int>(i)));
  over_rows(dispatch, x);
  return recipe;
}

Offer cross_entropy(const Node& node) { return labelled(node, 0, "cross_entropy"); }

Offer cross_entropy_gradient(const Node& node) {
  return labelled(node, 1, "cross_entropy_gradient");
}

const Register kSoftmax("softmax", {per_row<1, 0>});
const Register kLogSoftmax("log_softmax", {per_row<1, 1>});
const Register kSoftmaxGradient("softmax_gradient", {per_row<2, 0>});
const Register kLogSoftmaxGradient("log_softmax_gradient", {per_row<2, 1>});
const Register kCrossEntropy("softmax_cross_entropy", {cross_entropy});
const Register kCrossEntropyGradient("softmax_cross_entropy_gradient", {cross_entropy_gradient});

}  // namespace
}  // namespace jax_mps::metal
