// What a cumulative node says, for all devices.
#pragma once

#include <algorithm>
#include <string_view>

#include "cpu/loops/cumulative.h"
#include "kernel.h"

namespace jax_mps::cpu {

struct CumulativeNode {
  Cumulative kind;
  CumulativeShape shape;

  explicit CumulativeNode(const Node& node) {
    const TensorType& x = node.in[0];
    constexpr std::string_view kKinds[] = {"sum", "prod", "max", "min"};
    kind =
        static_cast<Cumulative>(std::ranges::find(kKinds, node.attributes.string("kind")) - kKinds);
    int64_t axis = node.attributes.integer("axis");
    shape = {1, x.shape[axis], 1, node.attributes.boolean("reverse")};
    for (int64_t a = 0; a < x.rank(); a++) {
      if (a < axis) shape.before *= x.shape[a];
      if (a > axis) shape.after *= x.shape[a];
    }
  }
};

}  // namespace jax_mps::cpu
