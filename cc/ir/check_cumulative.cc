// cumulative(x) {axis, kind, reverse}: sums, products or extrema of all up to each element.
#include <algorithm>

#include "check.h"
#include "cumulative.h"
#include "require.h"

namespace jax_mps {

CumulativeNode::CumulativeNode(const Node& node) {
  constexpr std::string_view kKinds[] = {"sum", "prod", "max", "min"};
  require_counts(node, 1, 1);
  const TensorType& x = node.in[0];
  require_alike(node.out[0], x);
  const std::string& name = node.attributes.string("kind");
  auto found = std::ranges::find(kKinds, name);
  require(found != std::end(kKinds), "unknown kind '" + name + "'");
  kind = static_cast<Cumulative>(found - kKinds);
  const int64_t axis = node.attributes.integer("axis");
  require(axis >= 0 && axis < x.rank(), "attribute 'axis' is out of range");
  shape = {1, x.shape[axis], 1, node.attributes.boolean("reverse")};
  for (int64_t a = 0; a < x.rank(); a++) {
    if (a < axis) shape.before *= x.shape[a];
    if (a > axis) shape.after *= x.shape[a];
  }
}

namespace {

const Checker kCumulative("cumulative", [](const Node& node) { CumulativeNode{node}; });

}  // namespace
}  // namespace jax_mps
