// sgd, rmsprop and adam: (hyperparameters, gradients..., [parameters...], states...) -> (updates or
// parameters..., states...). A dispatch for each leaf; they run side by side, since none touches
// another's memory, and 31 buffers hold no more than four leaves anyway.
#include "family.h"
#include "metal/kernels/optim_parameters.h"

namespace jax_mps::metal {
namespace {

int regularization_of(const std::string& name) {
  return name == "l1" ? kRegularizationL1 : name == "l2" ? kRegularizationL2 : kRegularizationNone;
}

template <int rule>
Offer optimizer(const Node& node) {
  const Attributes& a = node.attributes;
  int states = static_cast<int>(a.integer("states"));
  int regularization = regularization_of(a.string("regularization"));
  bool apply = a.boolean("apply"), reads = apply || regularization != kRegularizationNone;
  bool centered = rule == kRuleRmsprop && a.boolean("centered");
  bool nesterov = rule != kRuleAdam && a.boolean("nesterov");
  int inputs = 1 + reads + states;
  int leaves = static_cast<int>(node.in.size() - 1) / inputs;
  for (const auto* types : {&node.in, &node.out})
    for (const TensorType& type : *types)
      if (!is_floating(type)) return Offer::none("the optimizers take floating dtypes");
  Recipe recipe(node, "optimizer, a dispatch for each leaf");
  for (int leaf = 0; leaf < leaves; leaf++) {
    auto in = [&](int stream) { return 1 + stream * leaves + leaf; };
    auto out = [&](int stream) { return stream * leaves + leaf; };
    int64_t count = node.in[in(0)].elements();
    auto state = [&](int s) { return s < states ? in(1 + reads + s) : in(0); };
    std::string definitions = storage(node.in[in(0)].dtype, "G");
    definitions += storage(node.in[in(reads ? 1 : 0)].dtype, "W");
    definitions += storage(node.in[state(0)].dtype, "S0");
    definitions += storage(node.in[state(1)].dtype, "S1");
    definitions += storage(node.in[state(2)].dtype, "S2");
    definitions += storage(node.out[out(0)].dtype, "R");
    for (int s = 0; s < states; s++)
      if (node.in[state(s)].dtype != node.out[out(1 + s)].dtype)
        return Offer::none("a state keeps its dtype");
    Dispatch& dispatch = recipe.dispatch("optim", "optimizer", definitions);
    dispatch.constants({rule, states, nesterov, centered, regularization, apply})
        .parameters(static_cast<int>(count))
        .reads(recipe.operand(0))
        .reads(recipe.operand(in(0)))
        .reads(recipe.operand(in(reads ? 1 : 0)));
    for (int s = 0; s < 3; s++) dispatch.reads(recipe.operand(state(s)));
    dispatch.writes(recipe.result(out(0)));
    for (int s = 0; s < 3; s++) dispatch.writes(recipe.result(s < states ? out(1 + s) : out(0)));
    dispatch.over_elements(count);
  }
  return recipe;
}

const Register kSgd("sgd", {optimizer<kRuleSgd>});
const Register kRmsprop("rmsprop", {optimizer<kRuleRmsprop>});
const Register kAdam("adam", {optimizer<kRuleAdam>});

}  // namespace
}  // namespace jax_mps::metal
