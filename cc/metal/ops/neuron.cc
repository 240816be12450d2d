// neuron(x), neuron_gradient(dy, x), prelu(x, slopes), prelu_gradient(dy, x, slopes).
#include "family.h"
#include "metal/kernels/neuron_parameters.h"

namespace jax_mps::metal {
namespace {

ElementwiseParameters parameters(const NeuronCall& neuron, const TensorType& x) {
  int channels = x.rank() > 0 ? static_cast<int>(x.dim(-1)) : 1;
  return {count_of(x), channels, neuron.a, neuron.b, neuron.c, neuron.log_c};
}

template <size_t operands>
Offer elementwise(const Node& node) {
  auto dtype = one_floating({node.in[0], node.in[operands - 1], node.out[0]});
  if (!dtype) return Offer::none("the neurons take one floating dtype");
  NeuronCall neuron(node);
  Recipe recipe(node, node.op);
  Dispatch& dispatch = recipe.dispatch("neuron", node.op, storage(*dtype));
  dispatch.constants({neuron.kind}).parameters(parameters(neuron, node.out[0]));
  for (size_t i = 0; i < operands; i++) dispatch.reads(recipe.operand(static_cast<int>(i)));
  dispatch.writes(recipe.result(0)).over_elements(count_of(node.out[0]));
  return recipe;
}

Offer prelu(const Node& node) {
  auto dtype = one_floating({node.in[0], node.in[1], node.out[0]});
  if (!dtype) return Offer::none("prelu takes one floating dtype");
  Recipe recipe(node, "prelu");
  recipe.dispatch("neuron", "prelu", storage(*dtype))
      .constants({0})
      .parameters(ElementwiseParameters{count_of(node.in[0]), int(node.in[0].dim(-1)), 0, 0, 0, 1})
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .writes(recipe.result(0))
      .over_elements(count_of(node.in[0]));
  return recipe;
}

Offer prelu_gradient(const Node& node) {
  auto dtype = one_floating({node.in[0], node.in[1], node.in[2], node.out[0], node.out[1]});
  if (!dtype) return Offer::none("prelu takes one floating dtype");
  Recipe recipe(node, "prelu_gradient");
  ColumnParameters p = columns_of(node.in[0]);
  Span partial = recipe.scratch(part_bytes(p));
  recipe.dispatch("neuron", "prelu_data_gradient", storage(*dtype))
      .constants({0})
      .parameters(ElementwiseParameters{count_of(node.in[0]), p.channels, 0, 0, 0, 1})
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .reads(recipe.operand(2))
      .writes(recipe.result(0))
      .over_elements(count_of(node.in[0]));
  Dispatch& sums = recipe.dispatch("column", "prelu_slope_gradient", storage(*dtype));
  sums.parameters(p).reads(recipe.operand(0)).reads(recipe.operand(1)).writes(partial);
  over_parts(sums, p);
  add_parts(recipe, p, partial, recipe.result(1), *dtype);
  return recipe;
}

const Register kNeuron("neuron", {elementwise<1>});
const Register kNeuronGradient("neuron_gradient", {elementwise<2>});
const Register kPRelu("prelu", {prelu});
const Register kPReluGradient("prelu_gradient", {prelu_gradient});

}  // namespace
}  // namespace jax_mps::metal
