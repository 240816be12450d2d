// Ops that move, name or add up elements: reshape, part, pad, concatenate, pick and its gradient.
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

void reshape(const Node& node) {
  require_counts(node, 1, 1);
  require(node.in[0].bytes() == node.out[0].bytes() && !node.in[0].row && !node.out[0].row,
          "a reshape keeps one operand's bytes, but " + node.in[0].text() + " would be " +
              node.out[0].text());
}

void part(const Node& node) {
  require(node.in.size() == 1 && node.out.size() == 1 && node.in[0].dtype == node.out[0].dtype,
          "a part is of one operand, and has its dtype");
  const int64_t start = node.attributes.integer("start"), whole = node.in[0].span();
  require(start >= 0 && start <= whole && node.out[0].span() <= whole - start,
          "a part of type " + node.out[0].text() + " from element " + std::to_string(start) +
              " is not within " + node.in[0].text());
}

// pad(x, value) {config=[[low, high, interior], ...]}
void pad(const Node& node) {
  constexpr int64_t kLimit = int64_t{1} << 40;
  require_counts(node, 2, 1);
  const TensorType &x = node.in[0], &y = node.out[0];
  require_shape(node.in[1], {});
  for (const TensorType& type : {node.in[1], y}) require_dtype(type, x.dtype);
  const std::vector<int64_t> config = node.attributes.integers("config");
  require(config.size() == 3 * x.shape.size(),
          "attribute 'config' must be one [low, high, interior] an axis");
  std::vector<int64_t> shape;
  for (size_t a = 0; a < x.shape.size(); a++) {
    const int64_t low = config[3 * a], high = config[3 * a + 1], interior = config[3 * a + 2];
    const int64_t n = x.shape[a];
    require(-kLimit < low && low < kLimit && -kLimit < high && high < kLimit && interior >= 0 &&
                interior < kLimit / std::max<int64_t>(n, 1),
            "attribute 'config' is out of range");
    shape.push_back(low + high + (n ? (n - 1) * (interior + 1) + 1 : 0));
  }
  require_shape(y, shape);
}

void concatenate(const Node& node) {
  require(!node.in.empty() && node.out.size() == 1,
          "concatenate takes operands and gives a result");
  const TensorType& y = node.out[0];
  const int64_t axis = node.attributes.integer("axis");
  require(axis >= 0 && axis < y.rank(), "attribute 'axis' is out of range");
  int64_t left = y.shape[axis];
  for (const TensorType& x : node.in) {
    std::vector<int64_t> shape = y.shape;
    shape[axis] = x.dim(static_cast<int>(axis));
    require_shape(x, shape);
    require_dtype(x, y.dtype);
    require(shape[axis] <= left, "the operands have more elements along the axis than " + y.text());
    left -= shape[axis];
  }
  require(left == 0, "the operands have " + std::to_string(y.shape[axis] - left) +
                         " elements along the axis, but the result is " + y.text());
}

// An index of the last axis of `whole` for each element of `part`.
void picked(const Node& node, const TensorType& whole, const TensorType& part) {
  require_shape(part, rows_of(whole));
  require_dtype(part, whole.dtype);
  require_shape(node.in[1], rows_of(whole));
  require(node.in[1].dtype == DType::s32, "the index must be s32, but is " + node.in[1].text());
}

void pick(const Node& node) {
  require_counts(node, 2, 1);
  picked(node, node.in[0], node.out[0]);
}

void pick_gradient(const Node& node) {
  require_counts(node, 2, 1);
  picked(node, node.out[0], node.in[0]);
  if (node.attributes.has("classes"))
    require(node.attributes.integer("classes") == node.out[0].dim(-1),
            "attribute 'classes' must be the last axis of " + node.out[0].text());
}

const Checker kReshape("reshape", reshape);
const Checker kPart("part", part);
const Checker kPad("pad", pad);
const Checker kConcatenate("concatenate", concatenate);
const Checker kPick("pick", pick);
const Checker kPickGradient("pick_gradient", pick_gradient);

}  // namespace
}  // namespace jax_mps
