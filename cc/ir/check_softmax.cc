// softmax(x), log_softmax(x), softmax_gradient(dy, y), log_softmax_gradient(dy, y);
// softmax_cross_entropy(logits, labels) -> loss, maximum, log_sum, and its gradient.
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

template <size_t operands>
void softmax(const Node& node) {
  require_counts(node, operands, 1);
  require(node.out[0].rank() > 0, "softmax needs an axis of classes");
  for (const TensorType& type : node.in) require_shape(type, node.out[0].shape);
  require_dtype(node.out[0], node.in[0].dtype);
}

// Logits, the labels after them, and what has one float32 number a row.
void labelled(const Node& node, const TensorType& logits, const TensorType& labels,
              std::initializer_list<TensorType> numbers) {
  require(logits.rank() > 0, "logits need an axis of classes");
  if (labels.dtype == DType::s32) {
    require_shape(labels, rows_of(logits));
  } else {
    require_floating(labels);
    require_shape(labels, logits.shape);
  }
  for (const TensorType& type : numbers) {
    require_shape(type, rows_of(logits));
    require_dtype(type, DType::f32);
  }
  node.attributes.number("smoothing");
}

void cross_entropy(const Node& node) {
  require_counts(node, 2, 3);
  labelled(node, node.in[0], node.in[1], {node.out[0], node.out[1], node.out[2]});
}

// (dloss, logits, labels, maximum, log_sum) -> dlogits
void cross_entropy_gradient(const Node& node) {
  require_counts(node, 5, 1);
  labelled(node, node.in[1], node.in[2], {node.in[0], node.in[3], node.in[4]});
  require_alike(node.out[0], node.in[1]);
}

const Checker kSoftmax("softmax", softmax<1>);
const Checker kLogSoftmax("log_softmax", softmax<1>);
const Checker kSoftmaxGradient("softmax_gradient", softmax<2>);
const Checker kLogSoftmaxGradient("log_softmax_gradient", softmax<2>);
const Checker kCrossEntropy("softmax_cross_entropy", cross_entropy);
const Checker kCrossEntropyGradient("softmax_cross_entropy_gradient", cross_entropy_gradient);

}  // namespace
}  // namespace jax_mps
