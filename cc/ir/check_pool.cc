// max_pool(x), max_pool_taps(x) -> y, taps, max_pool_gradient(dy, taps), max_pool_pick(x, taps),
// avg_pool(x), avg_pool_gradient(dy), l2_pool(x), l2_pool_gradient(dy, x, y).
#include "check.h"
#include "pool.h"
#include "require.h"

namespace jax_mps {
namespace {

bool says(const Node& node, const char* name) {
  return node.attributes.has(name) && node.attributes.boolean(name);
}

}  // namespace

int64_t PoolNode::window_elements() const {
  int64_t elements = 1;
  for (const WindowAxis& axis : windows.axes) elements *= axis.window;
  return elements;
}

PoolNode pool_of(const Node& node) {
  const bool backward = node.op.ends_with("_gradient");
  const TensorType &x = backward ? node.out[0] : node.in[0],
                   &y = backward ? node.in[0] : node.out[0];
  require_dtype(y, x.dtype);
  const std::vector<int64_t> window = node.attributes.integers("window");
  for (int64_t size : window)
    require(size > 0, "a window must be positive, but got " + std::to_string(size));
  PoolNode pool{x, y, windows_of(node, x, window, y), false, false};
  require(x.dim(0) == y.dim(0) && x.dim(-1) == y.dim(-1),
          "the channels or batches of " + x.text() + " and " + y.text() + " disagree");
  require_sizes(node, "spatial", {x.shape.begin() + 1, x.shape.end() - 1});
  pool.count_padding = says(node, "count_padding"), pool.total = says(node, "total");
  return pool;
}

namespace {

// The number of a pixel in its window, for each output.
void argmax_positions(const PoolNode& pool, const TensorType& type) {
  require_shape(type, pool.y.shape);
  const int64_t pixels = pool.window_elements();
  require(type.dtype == DType::s32 || (type.dtype == DType::u8 && pixels <= 256),
          "the taps of a window of " + std::to_string(pixels) +
              " pixels must be s32, or u8 for at most 256, but are " + type.text());
}

void one_to_one(const Node& node) {
  require_counts(node, 1, 1);
  pool_of(node);
}

void average(const Node& node) {
  one_to_one(node);
  node.attributes.boolean("count_padding");
}

void max_taps(const Node& node) {
  require_counts(node, 1, 2);
  argmax_positions(pool_of(node), node.out[1]);
}

// max_pool_gradient and max_pool_pick
void with_taps(const Node& node) {
  require_counts(node, 2, 1);
  argmax_positions(pool_of(node), node.in[1]);
}

void l2_gradient(const Node& node) {
  require_counts(node, 3, 1);
  pool_of(node);
  require_alike(node.in[1], node.out[0]);
  require_alike(node.in[2], node.in[0]);
}

const Checker kMax("max_pool", one_to_one);
const Checker kMaxTaps("max_pool_taps", max_taps);
const Checker kMaxGradient("max_pool_gradient", with_taps);
const Checker kMaxPick("max_pool_pick", with_taps);
const Checker kAverage("avg_pool", average);
const Checker kAverageGradient("avg_pool_gradient", average);
const Checker kL2("l2_pool", one_to_one);
const Checker kL2Gradient("l2_pool_gradient", l2_gradient);

}  // namespace
}  // namespace jax_mps
