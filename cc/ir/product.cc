#include "product.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "require.h"

namespace jax_mps {

Axes row_major(const Axes& shape) {
  Axes strides(shape.size());
  int64_t stride = 1;
  for (size_t a = shape.size(); a-- > 0;) strides[a] = std::exchange(stride, stride * shape[a]);
  return strides;
}

Axes strides_of(const TensorType& type) {
  Axes shape = type.shape;
  if (type.row) shape.back() = type.row;
  Axes strides = row_major(shape);
  return strides;
}

namespace {

Side side_of(const TensorType& type, const std::vector<Axes>& groups) {
  Axes strides = strides_of(type);
  Side side;
  for (int g = 0; g < 3; g++) {
    side.size[g] = 1, side.stride[g] = 0;
    for (int64_t axis : groups[g]) {
      side.order.push_back(axis);
      int64_t size = type.shape[axis];
      if (size == 1) continue;
      if (side.size[g] > 1 && side.stride[g] != size * strides[axis]) side.collapses = false;
      side.size[g] *= size;
      side.stride[g] = strides[axis];
    }
  }
  return side;
}

std::pair<Axes, Axes> axes_of(const Node& node, const std::string& name) {
  const std::string rule = "attribute '" + name + "' must be [[axes of left], [axes of right]]";
  const List& lists = node.attributes.list(name);
  require(lists.size() == 2, rule);
  Axes sides[2];
  for (int i = 0; i < 2; i++) {
    const List* list = std::get_if<List>(&lists[i]);
    require(list, rule);
    for (const Attribute& item : *list) {
      const int64_t* axis = std::get_if<int64_t>(&item);
      require(axis && *axis >= 0 && *axis < node.in[i].rank(), rule);
      sides[i].push_back(*axis);
    }
  }
  require(sides[0].size() == sides[1].size(), rule);
  for (size_t i = 0; i < sides[0].size(); i++)
    require(node.in[0].shape[sides[0][i]] == node.in[1].shape[sides[1][i]],
            "the axes of '" + name + "' must have the same sizes, but the operands are " +
                node.in[0].text() + " and " + node.in[1].text());
  return {sides[0], sides[1]};
}

}  // namespace

Product product_of(const Node& node) {
  require_counts(node, 2, 1);
  auto batch = axes_of(node, "batch"), contract = axes_of(node, "contract");
  auto free_axes = [&](const TensorType& type, const Axes& b, const Axes& c) {
    Axes rest;
    std::vector<int> seen(type.shape.size());
    for (const Axes* axes : {&b, &c})
      for (int64_t axis : *axes)
        require(++seen[axis] == 1, "axis " + std::to_string(axis) + " is given twice");
    for (int axis = 0; axis < type.rank(); axis++)
      if (!seen[axis]) rest.push_back(axis);
    return rest;
  };
  Axes m = free_axes(node.in[0], batch.first, contract.first);
  Axes n = free_axes(node.in[1], batch.second, contract.second);
  Product product;
  for (int64_t axis : batch.first) product.shape.push_back(node.in[0].shape[axis]);
  for (int64_t axis : m) product.shape.push_back(node.in[0].shape[axis]);
  for (int64_t axis : n) product.shape.push_back(node.in[1].shape[axis]);
  require_shape(node.out[0], product.shape);
  // Contracted axes may be taken in any order, if both sides take the same: right's own spares a
  // copy where left's does not.
  auto build = [&](bool by_right) {
    std::vector<size_t> order(contract.first.size());
    std::iota(order.begin(), order.end(), 0);
    const Axes& key = by_right ? contract.second : contract.first;
    std::ranges::sort(order, {}, [&](size_t i) { return key[i]; });
    Axes left, right;
    for (size_t i : order) left.push_back(contract.first[i]), right.push_back(contract.second[i]);
    product.left = side_of(node.in[0], {batch.first, m, left});
    product.right = side_of(node.in[1], {batch.second, right, n});
  };
  build(false);
  int copies = !product.left.collapses + !product.right.collapses;
  if (copies == 0) return product;
  build(true);
  if (!product.left.collapses + !product.right.collapses >= copies) build(false);
  return product;
}

}  // namespace jax_mps
