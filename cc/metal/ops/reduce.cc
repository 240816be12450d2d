// bias_gradient(dy) -> db, the sum over all axes but the last.
#include "family.h"

namespace jax_mps::metal {
namespace {

Offer column_sum(const Node& node) {
  auto dtype = one_floating({node.in[0], node.out[0]});
  if (!dtype) return Offer::none("the column sum takes one floating dtype");
  Recipe recipe(node, "column_sum");
  ColumnParameters p = columns_of(node.in[0]);
  Span partial = recipe.scratch(part_bytes(p));
  Dispatch& sums = recipe.dispatch("column", "column_sum", storage(*dtype));
  sums.parameters(p).reads(recipe.operand(0)).writes(partial);
  over_parts(sums, p);
  add_parts(recipe, p, partial, recipe.result(0), *dtype);
  return recipe;
}

const Register kBiasGradient("bias_gradient", {column_sum});

}  // namespace
}  // namespace jax_mps::metal
