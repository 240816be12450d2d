// batch_norm(x, gamma, beta) -> y, mean, variance; batch_norm_inference(x, mean, variance, gamma,
// beta) -> y; and their gradients.
#include "family.h"
#include "metal/kernels/neuron_parameters.h"

namespace jax_mps::metal {
namespace {

// The storage of x, of gamma and beta, of mean and variance; an empty string where they do not go
// together.
std::string definitions(const TensorType& x, const TensorType& gamma, const TensorType& beta,
                        const TensorType& mean, const TensorType& variance) {
  if (!is_floating(x) || !is_floating(gamma) || !is_floating(mean) || gamma.dtype != beta.dtype ||
      mean.dtype != variance.dtype)
    return "";
  return storage(x.dtype) + storage(gamma.dtype, "G") + storage(mean.dtype, "V");
}

constexpr const char* kDtypes = "batch norm takes floating dtypes, one for gamma and beta";

ColumnParameters columns(const Node& node, const TensorType& x) {
  ColumnParameters p = columns_of(x);
  p.epsilon = static_cast<float>(node.attributes.number("epsilon"));
  return p;
}

struct Spans {
  Span x, mean, variance, gamma, beta;
};

void normalize(Recipe& recipe, const Node& node, const std::string& definitions,
               const ColumnParameters& p, const Spans& s) {
  NeuronCall n(node);
  recipe.dispatch("norm", "normalize_rows", definitions)
      .constants({n.kind})
      .parameters(NormalizeParameters{p.rows, p.channels, p.epsilon, n.a, n.b, n.c, n.log_c})
      .reads(s.x)
      .reads(s.mean)
      .reads(s.variance)
      .reads(s.gamma)
      .reads(s.beta)
      .writes(recipe.result(0))
      .over_elements(int64_t(p.rows) * p.channels);
}

Offer training(const Node& node) {
  const TensorType& x = node.in[0];
  ColumnParameters p = columns(node, x);
  std::string text = definitions(x, node.in[1], node.in[2], node.out[1], node.out[2]);
  if (text.empty()) return Offer::none(kDtypes);
  Recipe recipe(node, "two-level Welford");
  Span means = recipe.scratch(part_bytes(p)), squares = recipe.scratch(part_bytes(p));
  Dispatch& moments = recipe.dispatch("norm", "moments", text);
  moments.constants({0}).parameters(p).reads(recipe.operand(0)).writes(means).writes(squares);
  over_parts(moments, p);
  Dispatch& join = recipe.dispatch("norm", "join_moments", text);
  join.constants({0}).parameters(p).reads(means).reads(squares);
  join.writes(recipe.result(1)).writes(recipe.result(2));
  over_channels(join, p);
  normalize(recipe, node, text, p,
            {recipe.operand(0), recipe.result(1), recipe.result(2), recipe.operand(1),
             recipe.operand(2)});
  return recipe;
}

Offer inference(const Node& node) {
  const TensorType& x = node.in[0];
  ColumnParameters p = columns(node, x);
  std::string text = definitions(x, node.in[3], node.in[4], node.in[1], node.in[2]);
  if (text.empty()) return Offer::none(kDtypes);
  Recipe recipe(node, "normalize");
  normalize(recipe, node, text, p,
            {recipe.operand(0), recipe.operand(1), recipe.operand(2), recipe.operand(3),
             recipe.operand(4)});
  return recipe;
}

// The slope of relu, 1 without one; any other neuron is no part of the gradient.
std::optional<float> slope_of(const Node& node) {
  NeuronCall neuron(node);
  if (neuron.kind == kNeuronNone) return 1.0f;
  if (neuron.kind == kNeuronRelu) return neuron.a;
  return std::nullopt;
}

// Result 1 is dgamma and result 2 dbeta, from dy and the spans.
void sums(Recipe& recipe, const std::string& definitions, const ColumnParameters& p, Span dy,
          const Spans& s) {
  Span sum = recipe.scratch(part_bytes(p)), product = recipe.scratch(part_bytes(p));
  Dispatch& dispatch = recipe.dispatch("norm", "gradient_sums", definitions);
  dispatch.constants({0}).parameters(p).reads(dy).reads(s.x).reads(s.mean).reads(s.variance);
  dispatch.reads(s.gamma).reads(s.beta).writes(sum).writes(product);
  over_parts(dispatch, p);
  add_parts(recipe, p, product, recipe.result(1), DType::f32);
  add_parts(recipe, p, sum, recipe.result(2), DType::f32);
}

// (dy, dmean, dvariance, x, gamma, beta, mean, variance) -> dx, dgamma, dbeta
Offer training_gradient(const Node& node) {
  const TensorType& x = node.in[3];
  ColumnParameters p = columns(node, x);
  auto slope = slope_of(node);
  if (!slope) return Offer::none("only relu is fused into the gradient");
  p.slope = *slope;
  std::string text = definitions(x, node.in[4], node.in[5], node.in[6], node.in[7]);
  for (int i : {1, 2})
    if (node.in[i].dtype != DType::f32) text.clear();
  if (node.in[0].dtype != x.dtype || text.empty()) return Offer::none(kDtypes);
  Recipe recipe(node, "batch_norm_gradient");
  Spans s{recipe.operand(3), recipe.operand(6), recipe.operand(7), recipe.operand(4),
          recipe.operand(5)};
  sums(recipe, text, p, recipe.operand(0), s);
  recipe.dispatch("norm", "norm_data_gradient", text)
      .constants({0})
      .parameters(p)
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .reads(recipe.operand(2))
      .reads(s.x)
      .reads(s.mean)
      .reads(s.variance)
      .reads(s.gamma)
      .reads(s.beta)
      .reads(recipe.result(1))
      .reads(recipe.result(2))
      .writes(recipe.result(0))
      .over_elements(x.elements());
  return recipe;
}

// (dy, x, mean, variance, gamma, beta) -> dx, dgamma, dbeta
Offer inference_gradient(const Node& node) {
  const TensorType& x = node.in[1];
  ColumnParameters p = columns(node, x);
  auto slope = slope_of(node);
  if (!slope) return Offer::none("only relu is fused into the gradient");
  p.slope = *slope;
  std::string text = definitions(x, node.in[4], node.in[5], node.in[2], node.in[3]);
  if (node.in[0].dtype != x.dtype || text.empty()) return Offer::none(kDtypes);
  Recipe recipe(node, "batch_norm_inference_gradient");
  Spans s{recipe.operand(1), recipe.operand(2), recipe.operand(3), recipe.operand(4),
          recipe.operand(5)};
  sums(recipe, text, p, recipe.operand(0), s);
  recipe.dispatch("norm", "norm_inference_data_gradient", text)
      .constants({0})
      .parameters(p)
      .reads(recipe.operand(0))
      .reads(s.x)
      .reads(s.mean)
      .reads(s.variance)
      .reads(s.gamma)
      .reads(s.beta)
      .writes(recipe.result(0))
      .over_elements(x.elements());
  return recipe;
}

const Register kTraining("batch_norm", {training});
const Register kTrainingGradient("batch_norm_gradient", {training_gradient});
const Register kInference("batch_norm_inference", {inference});
const Register kInferenceGradient("batch_norm_inference_gradient", {inference_gradient});

}  // namespace
}  // namespace jax_mps::metal
