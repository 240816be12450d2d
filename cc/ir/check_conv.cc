// conv(x, w[, b]), conv_data_gradient(dy, w), conv_weight_gradient(x, dy).
#include <array>

#include "check.h"
#include "conv.h"
#include "require.h"

namespace jax_mps {
namespace {

bool says(const Node& node, const char* name, const char* word) {
  return node.attributes.has(name) && node.attributes.string(name) == word;
}

// The arrays of a node, in the order x, w, y.
std::array<const TensorType*, 3> arrays_of(const Node& node) {
  if (node.op == "conv_data_gradient") return {&node.out[0], &node.in[1], &node.in[0]};
  if (node.op == "conv_weight_gradient") return {&node.in[0], &node.out[0], &node.in[1]};
  return {&node.in[0], &node.in[1], &node.out[0]};
}

}  // namespace

ConvNode conv_of(const Node& node) {
  auto arrays = arrays_of(node);
  const TensorType &x = *arrays[0], &w = *arrays[1], &y = *arrays[2];
  require(w.rank() == x.rank() && w.rank() >= 3,
          "weights must be [window..., in / groups, out] for the axes of " + x.text() +
              ", but are " + w.text());
  ConvNode conv{x, w, y, {}, 0, false, false};
  conv.windows = windows_of(node, x, {w.shape.begin(), w.shape.end() - 2}, y);
  const int64_t groups = conv.groups = node.attributes.integer("groups");
  require(groups > 0 && x.dim(-1) % groups == 0 && x.dim(-1) / groups == w.dim(-2) &&
              w.dim(-1) % groups == 0 && y.dim(-1) == w.dim(-1) && x.dim(0) == y.dim(0),
          "the channels or batches of " + x.text() + ", " + w.text() + " and " + y.text() +
              " disagree with groups=" + std::to_string(groups));
  conv.half_sums = says(node, "accumulator", "half");
  conv.highest = says(node, "precision", "highest");
  return conv;
}

namespace {

void conv(const Node& node) {
  require_counts(node, node.in.size() == 3 ? 3 : 2, 1);
  conv_of(node);
  require_dtype(node.out[0], node.in[0].dtype);
  if (node.in.size() == 3) require_shape(node.in[2], {node.out[0].dim(-1)});
  check_neuron(node);
}

void data_gradient(const Node& node) {
  require_counts(node, 2, 1);
  const TensorType& x = node.out[0];
  conv_of(node);
  require_dtype(x, node.in[0].dtype);
  require_sizes(node, "spatial", {x.shape.begin() + 1, x.shape.end() - 1});
}

void weight_gradient(const Node& node) {
  require_counts(node, 2, 1);
  const TensorType& w = node.out[0];
  conv_of(node);
  require_dtype(w, node.in[1].dtype);
  require_sizes(node, "window", {w.shape.begin(), w.shape.end() - 2});
}

const Checker kConv("conv", conv);
const Checker kDataGradient("conv_data_gradient", data_gradient);
const Checker kWeightGradient("conv_weight_gradient", weight_gradient);

}  // namespace
}  // namespace jax_mps
