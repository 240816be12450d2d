// Ops that only move elements: pad, concatenate, pick and its gradient.
#include "family.h"
#include "ir/product.h"
#include "metal/kernels/shape_parameters.h"

namespace jax_mps::metal {
namespace {

// Axes of one step go, and neighbours that step as one merge.
BoxParameters merged(const BoxParameters& box) {
  BoxParameters result = box;
  result.rank = 0;
  for (int a = 0; a < box.rank; a++) {
    if (box.size[a] == 1) continue;
    int last = result.rank - 1;
    bool merges = last >= 0 && result.from[last] == box.from[a] * box.size[a] &&
                  result.to[last] == box.to[a] * box.size[a];
    if (merges)
      result.size[last] *= box.size[a];
    else
      result.size[++last] = box.size[a], result.rank++;
    result.from[last] = box.from[a], result.to[last] = box.to[a];
  }
  return result;
}

void add_box(Recipe& recipe, const BoxParameters& box, int operand, DType dtype) {
  recipe.dispatch("shape_ops", "copy_box", storage(dtype))
      .parameters(merged(box))
      .reads(recipe.operand(operand))
      .writes(recipe.result(0))
      .over_elements(box.count);
}

Offer pad(const Node& node) {
  const TensorType &x = node.in[0], &y = node.out[0];
  auto config = node.attributes.integers("config");
  BoxParameters box{};
  if (x.rank() > static_cast<int>(std::size(box.size)))
    return Offer::none("pad takes up to 12 axes");
  auto from = row_major(x.shape), to = row_major(y.shape);
  box.rank = x.rank(), box.count = 1;
  for (int a = 0; a < x.rank() && box.count > 0; a++) {
    int64_t low = config[3 * a], step = config[3 * a + 2] + 1;
    // Element i goes to low + i * step, if that is inside.
    int64_t first = low < 0 ? (-low + step - 1) / step : 0;
    int64_t room = y.shape[a] - 1 - low;
    int64_t last = room < 0 ? -1 : std::min(x.shape[a] - 1, room / step);
    box.size[a] = static_cast<int>(std::max<int64_t>(last - first + 1, 0));
    box.count *= box.size[a];
    if (box.count == 0) break;
    box.from[a] = static_cast<int>(from[a]);
    box.to[a] = static_cast<int>(first < last ? to[a] * step : to[a]);
    box.from_offset += static_cast<int>(first * from[a]);
    box.to_offset += static_cast<int>((low + first * step) * to[a]);
  }
  Recipe recipe(node, "pad");
  if (box.count < count_of(y))
    recipe.dispatch("shape_ops", "fill", storage(x.dtype))
        .parameters(count_of(y))
        .reads(recipe.operand(1))
        .writes(recipe.result(0))
        .over_elements(y.elements());
  if (box.count > 0) add_box(recipe, box, 0, x.dtype);
  return recipe;
}

Offer concatenate(const Node& node) {
  const TensorType& y = node.out[0];
  int64_t axis = node.attributes.integer("axis");
  int64_t before = 1, after = 1, done = 0;
  for (int64_t a = 0; a < axis; a++) before *= y.shape[a];
  for (int a = static_cast<int>(axis) + 1; a < y.rank(); a++) after *= y.shape[a];
  Recipe recipe(node, "concatenate");
  for (size_t i = 0; i < node.in.size(); i++) {
    const TensorType& x = node.in[i];
    // Two axes: what is before the axis, and the axis with what is after.
    BoxParameters box{};
    box.rank = 2, box.count = count_of(x);
    box.size[0] = static_cast<int>(before), box.size[1] = static_cast<int>(x.shape[axis] * after);
    box.from[0] = box.size[1], box.to[0] = static_cast<int>(y.shape[axis] * after);
    box.from[1] = box.to[1] = 1;
    box.to_offset = static_cast<int>(done * after);
    done += x.shape[axis];
    add_box(recipe, box, static_cast<int>(i), y.dtype);
  }
  return recipe;
}

Offer picked(const Node& node, const TensorType& whole, const TensorType& part,
             const char* function) {
  auto dtype = one_floating({whole, part});
  if (!dtype) return Offer::none("pick takes one floating dtype");
  Recipe recipe(node, function);
  recipe.dispatch("shape_ops", function, storage(*dtype))
      .parameters(PickParameters{count_of(part), static_cast<int>(whole.dim(-1))})
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .writes(recipe.result(0))
      .over_elements(node.out[0].elements());
  return recipe;
}

Offer pick(const Node& node) { return picked(node, node.in[0], node.out[0], "pick"); }
Offer pick_gradient(const Node& node) {
  return picked(node, node.out[0], node.in[0], "pick_gradient");
}

const Register kPad("pad", {pad});
const Register kConcatenate("concatenate", {concatenate});
const Register kPick("pick", {pick});
const Register kPickGradient("pick_gradient", {pick_gradient});

}  // namespace
}  // namespace jax_mps::metal
