// neuron(x), neuron_gradient(dy, x), prelu(x, slopes), prelu_gradient(dy, x, slopes); and the
// neurons that other ops apply to their result.
#include "check.h"
#include "neuron.h"
#include "require.h"

namespace jax_mps {
namespace {

template <size_t operands>
void elementwise(const Node& node) {
  require_counts(node, operands, 1);
  for (const TensorType& type : node.in) require_alike(type, node.out[0]);
  Neuron(node.attributes.list("neuron"));
}

// Some arrays of one type, then the slopes of their channels; the results likewise.
template <size_t arrays>
void prelu(const Node& node) {
  require_counts(node, arrays + 1, arrays);
  const TensorType &y = node.out[0], &slopes = node.in[arrays];
  for (size_t i = 0; i < arrays; i++) require_alike(node.in[i], y);
  require_shape(slopes, {y.dim(-1)});
  if (arrays == 2) require_alike(node.out[1], slopes);
}

const Checker kNeuron("neuron", elementwise<1>);
const Checker kNeuronGradient("neuron_gradient", elementwise<2>);
const Checker kPRelu("prelu", prelu<1>);
const Checker kPReluGradient("prelu_gradient", prelu<2>);

}  // namespace

void check_neuron(const Node& node) { neuron_of(node); }

}  // namespace jax_mps
