// Ops that only move elements: pad, concatenate, pick and its gradient.
#include "family.h"
#include "ir/box.h"
#include "metal/kernels/shape_parameters.h"

namespace jax_mps::metal {
namespace {

BoxParameters parameters(const Box& box) {
  const Box merged = jax_mps::merged(box);
  auto number = [](int64_t n) { return static_cast<int>(n); };
  BoxParameters p{number(elements_of(box)),
                  merged.rank,
                  number(box.from_offset),
                  number(box.to_offset),
                  {},
                  {},
                  {}};
  for (int a = 0; a < kBoxRank; a++)
    p.size[a] = number(merged.size[a]), p.from[a] = number(merged.from[a]),
    p.to[a] = number(merged.to[a]);
  return p;
}

void add_box(Recipe& recipe, const Box& box, int operand, DType dtype) {
  recipe.dispatch("shape_ops", "copy_box", storage(dtype))
      .parameters(parameters(box))
      .reads(recipe.operand(operand))
      .writes(recipe.result(0))
      .over_elements(elements_of(box));
}

Offer pad(const Node& node) {
  const TensorType &x = node.in[0], &y = node.out[0];
  if (x.rank() > kBoxRank) return Offer::none("pad takes up to 12 axes");
  const std::optional<Box> box = padded_box(node);
  Recipe recipe(node, "pad");
  if (!box || elements_of(*box) < y.elements())
    recipe.dispatch("shape_ops", "fill", storage(x.dtype))
        .parameters(count_of(y))
        .reads(recipe.operand(1))
        .writes(recipe.result(0))
        .over_elements(y.elements());
  if (box) add_box(recipe, *box, 0, x.dtype);
  return recipe;
}

Offer concatenate(const Node& node) {
  Recipe recipe(node, "concatenate");
  int operand = 0;
  for (const Box& box : concatenated_boxes(node))
    add_box(recipe, box, operand++, node.out[0].dtype);
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
