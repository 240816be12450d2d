#include "box.h"

#include <algorithm>

#include "product.h"
#include "require.h"

namespace jax_mps {

int64_t elements_of(const Box& box) {
  int64_t elements = 1;
  for (int a = 0; a < box.rank; a++) elements *= box.size[a];
  return elements;
}

Box merged(const Box& box) {
  Box result = box;
  result.rank = 0;
  for (int a = 0; a < box.rank; a++) {
    if (box.size[a] == 1) continue;
    int last = result.rank - 1;
    bool merges = last >= 0 && result.from[last] == box.from[a] * box.size[a] &&
                  result.to[last] == box.to[a] * box.size[a];
    if (merges) {
      result.size[last] *= box.size[a];
    } else {
      result.size[++last] = box.size[a];
      result.rank++;
    }
    result.from[last] = box.from[a], result.to[last] = box.to[a];
  }
  return result;
}

std::optional<Box> padded_box(const Node& node) {
  const TensorType &x = node.in[0], &y = node.out[0];
  const std::vector<int64_t> config = node.attributes.integers("config");
  const Axes from = row_major(x.shape), to = row_major(y.shape);
  Box box{};
  box.rank = x.rank();
  for (int a = 0; a < x.rank(); a++) {
    int64_t low = config[3 * a], step = config[3 * a + 2] + 1;
    // Element i goes to low + i * step, if that is inside.
    int64_t first = low < 0 ? (-low + step - 1) / step : 0;
    int64_t room = y.shape[a] - 1 - low;
    int64_t last = room < 0 ? -1 : std::min(x.shape[a] - 1, room / step);
    if (first > last) return std::nullopt;
    box.size[a] = last - first + 1;
    box.from[a] = from[a], box.to[a] = first < last ? to[a] * step : to[a];
    box.from_offset += first * from[a], box.to_offset += (low + first * step) * to[a];
  }
  return box;
}

std::vector<Box> concatenated_boxes(const Node& node) {
  const TensorType& y = node.out[0];
  const int64_t axis = node.attributes.integer("axis");
  const int64_t after = row_major(y.shape)[axis];
  int64_t before = 1, done = 0;
  for (int64_t a = 0; a < axis; a++) before *= y.shape[a];
  std::vector<Box> boxes;
  for (const TensorType& x : node.in) {
    require((!x.row && !y.row) || axis == y.rank() - 1, "rows are apart along the last axis alone");
    // Two axes: what is before the axis, and the axis with what is after.
    Box box{};
    box.rank = 2;
    box.size[0] = before, box.size[1] = x.shape[axis] * after;
    box.from[0] = x.row ? x.row : x.shape[axis] * after;
    box.to[0] = y.row ? y.row : y.shape[axis] * after;
    box.from[1] = box.to[1] = 1;
    box.to_offset = done * after;
    done += x.shape[axis];
    boxes.push_back(box);
  }
  return boxes;
}

}  // namespace jax_mps
