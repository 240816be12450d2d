// cumulative(x) {axis, kind, reverse} -> y: sums, products or extrema of all up to each element.
#include "ir/cumulative.h"

#include "family.h"
#include "metal/kernels/cumulative_parameters.h"

namespace jax_mps::metal {
namespace {

Offer cumulative(const Node& node) {
  CumulativeNode parsed(node);
  const TensorType& x = node.in[0];
  if (x.dtype == DType::u8 || x.dtype == DType::pred)
    return Offer::none("cumulative takes floating numbers, int32 or uint32");
  const char* sums = x.dtype == DType::s32   ? "typedef int A;\n"
                     : x.dtype == DType::u32 ? "typedef uint A;\n"
                                             : "typedef float A;\n";
  const CumulativeShape& s = parsed.shape;
  Recipe recipe(node, "cumulative");
  recipe.dispatch("cumulative", "cumulative", storage(x.dtype) + sums)
      .constants({static_cast<int>(parsed.kind)})
      .parameters(CumulativeParameters{static_cast<int>(s.before * s.after), static_cast<int>(s.n),
                                       static_cast<int>(s.after), s.reverse ? 1 : 0})
      .reads(recipe.operand(0))
      .writes(recipe.result(0))
      .over_elements(s.before * s.after)
      .computes(8.0 * x.elements());
  return recipe;
}

const Register kCumulative("cumulative", {cumulative});

}  // namespace
}  // namespace jax_mps::metal
