#include "neuron.h"

#include <algorithm>
#include <iterator>

namespace jax_mps {
namespace {

constexpr std::string_view kNames[] = {
    "none",     "relu", "linear", "sigmoid", "hard_sigmoid", "tanh",      "absolute", "softplus",
    "softsign", "elu",  "relun",  "power",   "exponential",  "logarithm", "gelu"};

float number(const Attribute& attribute) {
  if (const int64_t* value = std::get_if<int64_t>(&attribute)) return static_cast<float>(*value);
  if (const double* value = std::get_if<double>(&attribute)) return static_cast<float>(*value);
  throw ProgramError("attribute 'neuron' must be [name, a, b, c]");
}

}  // namespace

Neuron::Neuron(const List& attribute) {
  if (attribute.size() != 4) throw ProgramError("attribute 'neuron' must be [name, a, b, c]");
  const std::string* name = std::get_if<std::string>(&attribute[0]);
  auto found = std::ranges::find(kNames, name ? std::string_view(*name) : "");
  if (found == std::end(kNames)) throw ProgramError("unknown neuron '" + (name ? *name : "") + "'");
  kind = static_cast<NeuronKind>(found - std::begin(kNames));
  a = number(attribute[1]), b = number(attribute[2]), c = number(attribute[3]);
}

std::optional<Neuron> neuron_of(const Node& node) {
  if (!node.attributes.has("neuron")) return std::nullopt;
  return Neuron(node.attributes.list("neuron"));
}

bool is_plain(const Neuron& neuron, NeuronKind kind) {
  return neuron.is(kind) && (kind != NeuronKind::tanh || (neuron.a == 1 && neuron.b == 1));
}

}  // namespace jax_mps
