// What a cumulative node says, for all devices.
#pragma once

#include <algorithm>
#include <string_view>

#include "loops/cumulative.h"
#include "require.h"

namespace jax_mps::cpu {

struct CumulativeNode {
  Cumulative kind;
  CumulativeShape shape;

  explicit CumulativeNode(const Node& node) {
    require_counts(node, 1, 1);
    const TensorType& x = node.in[0];
    require_shape(node.out[0], x.shape);
    require(node.out[0].dtype == x.dtype, "cumulative takes and gives one dtype");
    constexpr std::string_view kKinds[] = {"sum", "prod", "max", "min"};
    const std::string& name = node.attributes.string("kind");
    auto found = std::ranges::find(kKinds, name);
    require(found != std::end(kKinds), "unknown kind '" + name + "'");
    kind = static_cast<Cumulative>(found - kKinds);
    int64_t axis = node.attributes.integer("axis");
    require(axis >= 0 && axis < x.rank(), "attribute 'axis' is out of range");
    shape = {1, x.shape[axis], 1, node.attributes.boolean("reverse")};
    for (int64_t a = 0; a < x.rank(); a++) {
      if (a < axis) shape.before *= x.shape[a];
      if (a > axis) shape.after *= x.shape[a];
    }
  }
};

}  // namespace jax_mps::cpu
