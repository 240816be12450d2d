// dense(x, w[, b]), dense_data_gradient(dy, w), dense_weight_gradient(x, dy), dot(left, right), and
// bias_gradient(dy), the sum over all axes but the last.
#include "check.h"
#include "product.h"
#include "require.h"

namespace jax_mps {
namespace {

// y = x w, whichever of the three matrices the node computes.
void product(const TensorType& x, const TensorType& w, const TensorType& y) {
  require(x.rank() == 2 && w.rank() == 2 && y.rank() == 2,
          "a matrix product takes matrices, but got " + x.text() + ", " + w.text() + " and " +
              y.text());
  require_shape(w, {x.dim(1), y.dim(1)});
  require_shape(y, {x.dim(0), w.dim(1)});
}

void dense(const Node& node) {
  require_counts(node, node.in.size() == 3 ? 3 : 2, 1);
  product(node.in[0], node.in[1], node.out[0]);
  require_dtype(node.out[0], node.in[0].dtype);
  if (node.in.size() == 3) require_shape(node.in[2], {node.out[0].dim(1)});
  check_neuron(node);
}

void data_gradient(const Node& node) {
  require_counts(node, 2, 1);
  product(node.out[0], node.in[1], node.in[0]);
  require_dtype(node.out[0], node.in[0].dtype);
}

void weight_gradient(const Node& node) {
  require_counts(node, 2, 1);
  product(node.in[0], node.out[0], node.in[1]);
  require_dtype(node.out[0], node.in[0].dtype);
}

void bias_gradient(const Node& node) {
  require_counts(node, 1, 1);
  require_shape(node.out[0], {node.in[0].dim(-1)});
  require_dtype(node.out[0], node.in[0].dtype);
}

const Checker kDense("dense", dense);
const Checker kDataGradient("dense_data_gradient", data_gradient);
const Checker kWeightGradient("dense_weight_gradient", weight_gradient);
const Checker kDot("dot", [](const Node& node) { product_of(node); });
const Checker kBiasGradient("bias_gradient", bias_gradient);

}  // namespace
}  // namespace jax_mps
