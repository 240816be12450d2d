// batch_norm(x, gamma, beta) -> y, mean, variance; batch_norm_inference(x, mean, variance, gamma,
// beta) -> y; and their gradients.
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

// What all four share. Each value in `channels` has one number a channel of x.
void norm(const Node& node, const TensorType& x, std::initializer_list<TensorType> channels) {
  require(x.rank() >= 2, "x must have a channel axis after others, but is " + x.text());
  for (const TensorType& type : channels) {
    require_shape(type, {x.dim(-1)});
    require_floating(type);
  }
  node.attributes.number("epsilon");
  check_neuron(node);
}

void training(const Node& node) {
  require_counts(node, 3, 3);
  const Types &in = node.in, &out = node.out;
  norm(node, in[0], {in[1], in[2], out[1], out[2]});
  require_alike(out[0], in[0]);
  for (int i : {1, 2}) require_dtype(out[i], DType::f32);
}

void inference(const Node& node) {
  require_counts(node, 5, 1);
  const Types& in = node.in;
  norm(node, in[0], {in[1], in[2], in[3], in[4]});
  require_alike(node.out[0], in[0]);
}

// dx, dgamma, dbeta
void gradients(const Node& node, const TensorType& x) {
  require_shape(node.in[0], x.shape);
  require_alike(node.out[0], x);
  for (int i : {1, 2}) require_dtype(node.out[i], DType::f32);
}

// (dy, dmean, dvariance, x, gamma, beta, mean, variance)
void training_gradient(const Node& node) {
  require_counts(node, 8, 3);
  const Types &in = node.in, &out = node.out;
  norm(node, in[3], {in[1], in[2], in[4], in[5], in[6], in[7], out[1], out[2]});
  gradients(node, in[3]);
}

// (dy, x, mean, variance, gamma, beta)
void inference_gradient(const Node& node) {
  require_counts(node, 6, 3);
  const Types &in = node.in, &out = node.out;
  norm(node, in[1], {in[2], in[3], in[4], in[5], out[1], out[2]});
  gradients(node, in[1]);
}

const Checker kTraining("batch_norm", training);
const Checker kTrainingGradient("batch_norm_gradient", training_gradient);
const Checker kInference("batch_norm_inference", inference);
const Checker kInferenceGradient("batch_norm_inference_gradient", inference_gradient);

}  // namespace
}  // namespace jax_mps
