// max_pool(x), max_pool_taps(x) -> y, taps, max_pool_gradient(dy, taps), max_pool_pick(x, taps),
// avg_pool(x), avg_pool_gradient(dy), l2_pool(x), l2_pool_gradient(dy, x, y).
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

// `x` and `y` are the types on the two sides of the pool, whichever the node computes.
void pool(const Node& node, const TensorType& x, const TensorType& y) {
  require_dtype(y, x.dtype);
  const std::vector<int64_t> window = node.attributes.integers("window");
  for (int64_t size : window)
    require(size > 0, "a window must be positive, but got " + std::to_string(size));
  check_windows(node, x, window, y);
  require(x.dim(0) == y.dim(0) && x.dim(-1) == y.dim(-1),
          "the channels or batches of " + x.text() + " and " + y.text() + " disagree");
  require_sizes(node, "spatial", {x.shape.begin() + 1, x.shape.end() - 1});
}

// The number of a pixel in its window, for each output.
void taps(const Node& node, const TensorType& type, const TensorType& y) {
  require_shape(type, y.shape);
  int64_t pixels = 1;
  for (int64_t size : node.attributes.integers("window")) pixels *= size;
  require(type.dtype == DType::s32 || (type.dtype == DType::u8 && pixels <= 256),
          "the taps of a window of " + std::to_string(pixels) +
              " pixels must be s32, or u8 for at most 256, but are " + type.text());
}

void forward(const Node& node) {
  require_counts(node, 1, 1);
  pool(node, node.in[0], node.out[0]);
}

void average(const Node& node) {
  forward(node);
  node.attributes.boolean("count_padding");
}

void average_gradient(const Node& node) {
  require_counts(node, 1, 1);
  pool(node, node.out[0], node.in[0]);
  node.attributes.boolean("count_padding");
}

void max_taps(const Node& node) {
  require_counts(node, 1, 2);
  pool(node, node.in[0], node.out[0]);
  taps(node, node.out[1], node.out[0]);
}

void max_gradient(const Node& node) {
  require_counts(node, 2, 1);
  pool(node, node.out[0], node.in[0]);
  taps(node, node.in[1], node.in[0]);
}

void max_pick(const Node& node) {
  require_counts(node, 2, 1);
  pool(node, node.in[0], node.out[0]);
  taps(node, node.in[1], node.out[0]);
}

void l2_gradient(const Node& node) {
  require_counts(node, 3, 1);
  pool(node, node.out[0], node.in[0]);
  require_alike(node.in[1], node.out[0]);
  require_alike(node.in[2], node.in[0]);
}

const Checker kMax("max_pool", forward);
const Checker kMaxTaps("max_pool_taps", max_taps);
const Checker kMaxGradient("max_pool_gradient", max_gradient);
const Checker kMaxPick("max_pool_pick", max_pick);
const Checker kAverage("avg_pool", average);
const Checker kAverageGradient("avg_pool_gradient", average_gradient);
const Checker kL2("l2_pool", forward);
const Checker kL2Gradient("l2_pool_gradient", l2_gradient);

}  // namespace
}  // namespace jax_mps
