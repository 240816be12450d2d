// sgd, rmsprop and adam: (hyperparameters, gradients..., [parameters...], states...) -> (updates or
// parameters..., states...), each stream with one array for each leaf of the parameter tree.
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

// The rule has `fewest` states for each leaf, or one more.
void optimizer(const Node& node, int64_t fewest, int64_t hyperparameters) {
  const Attributes& a = node.attributes;
  const int64_t states = a.integer("states");
  const std::string& regularization = a.string("regularization");
  require(regularization == "none" || regularization == "l1" || regularization == "l2",
          "unknown regularization '" + regularization + "'");
  const bool reads = a.boolean("apply") || regularization != "none";
  require(states == fewest || states == fewest + 1,
          "the streams of leaves do not match the states");
  const size_t inputs = 1 + reads + states, outputs = 1 + states;
  require(!node.in.empty(), "takes hyperparameters");
  const size_t leaves = (node.in.size() - 1) / inputs;
  require(
      leaves >= 1 && node.in.size() == 1 + inputs * leaves && node.out.size() == outputs * leaves,
      "the streams of leaves do not match the states");
  require_dtype(node.in[0], DType::f32);
  require(node.in[0].elements() == hyperparameters,
          "expected " + std::to_string(hyperparameters) + " hyperparameters");
  for (size_t i = 1; i < node.in.size(); i++)
    require(node.in[i].elements() == node.in[1 + (i - 1) % leaves].elements(),
            "the streams of a leaf differ in size");
  for (size_t i = 0; i < node.out.size(); i++)
    require(node.out[i].elements() == node.in[1 + i % leaves].elements(),
            "the streams of a leaf differ in size");
}

void sgd(const Node& node) {
  node.attributes.boolean("nesterov");
  optimizer(node, 0, 7);
}

void rmsprop(const Node& node) {
  node.attributes.boolean("nesterov");
  optimizer(node, 1 + node.attributes.boolean("centered"), 12);
}

void adam(const Node& node) {
  node.attributes.boolean("nesterov");
  optimizer(node, 2, 13);
}

const Checker kSgd("sgd", sgd);
const Checker kRmsprop("rmsprop", rmsprop);
const Checker kAdam("adam", adam);

}  // namespace
}  // namespace jax_mps
