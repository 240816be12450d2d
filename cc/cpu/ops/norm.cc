// batch_norm(x, gamma, beta) -> y, mean, variance; batch_norm_inference(x, mean, variance, gamma,
// beta) -> y; and their gradients.
#include "cpu/loops/norm.h"

#include <algorithm>
#include <optional>

#include "cpu/device.h"
#include "neuron.h"

namespace jax_mps::cpu {
namespace {

// What all four kernels share: the cut, epsilon, the neuron, and scratch for sums and coefficients.
class Norm : public Kernel {
 public:
  Norm(const Node& node, const TensorType& x)
      : cut_(x.elements() / x.dim(-1), x.dim(-1)),
        epsilon_(static_cast<float>(node.attributes.number("epsilon"))) {
    const std::optional<Neuron> neuron = neuron_of(node);
    if (!neuron) return;
    if (neuron->is(NeuronKind::relu))
      slope_ = neuron->a;
    else
      after_ = neuron;
  }
  std::string implementation() const override {
    return std::string("batch norm loops ") + isa_name();
  }
  size_t scratch_bytes() const override {
    return cut_.scratch_bytes() + 3 * cut_.channels * sizeof(float);
  }

 protected:
  NormArrays arrays(const float* x, const float* mean, const float* variance, const float* gamma,
                    const float* beta) const {
    return {x, mean, variance, gamma, beta, epsilon_, slope_};
  }
  double* sums(const Buffers& b) const { return reinterpret_cast<double*>(b.scratch); }
  float* coefficients(const Buffers& b) const {
    return reinterpret_cast<float*>(b.scratch + cut_.scratch_bytes());
  }
  void normalize(const Buffers& b, const NormArrays& a) const {
    float* y = b.output<float>(0);
    norm_loops().normalize(cut_, a, y, coefficients(b));
    if (after_) apply(*after_, y, y, cut_.rows * cut_.channels);
  }

  NormCut cut_;
  float epsilon_, slope_ = 1;
  std::optional<Neuron> after_;  // a neuron that the loops do not fuse
};

class Training : public Norm {
 public:
  explicit Training(const Node& node) : Norm(node, node.in[0]) {}
  void run(const Buffers& b) const override {
    float *mean = b.output<float>(1), *variance = b.output<float>(2);
    norm_loops().statistics(cut_, b.input<float>(0), mean, variance, sums(b));
    normalize(b, arrays(b.input<float>(0), mean, variance, b.input<float>(1), b.input<float>(2)));
  }
};

class Inference : public Norm {
 public:
  explicit Inference(const Node& node) : Norm(node, node.in[0]) {}
  void run(const Buffers& b) const override {
    normalize(b, arrays(b.input<float>(0), b.input<float>(1), b.input<float>(2), b.input<float>(3),
                        b.input<float>(4)));
  }
};

// (dy, dmean, dvariance, x, gamma, beta, mean, variance) -> dx, dgamma, dbeta
class TrainingGradient : public Norm {
 public:
  explicit TrainingGradient(const Node& node) : Norm(node, node.in[3]) {}
  void run(const Buffers& b) const override {
    auto in = [&](int i) { return b.input<float>(i); };
    float *dx = b.output<float>(0), *dgamma = b.output<float>(1), *dbeta = b.output<float>(2);
    NormArrays a = arrays(in(3), in(6), in(7), in(4), in(5));
    norm_loops().sums(cut_, a, in(0), nullptr, dgamma, dbeta, coefficients(b), sums(b));
    norm_loops().data_gradient(cut_, a, in(0), in(1), in(2), dgamma, dbeta, dx, coefficients(b));
  }
};

// (dy, x, mean, variance, gamma, beta) -> dx, dgamma, dbeta
class InferenceGradient : public Norm {
 public:
  explicit InferenceGradient(const Node& node) : Norm(node, node.in[1]) {}
  void run(const Buffers& b) const override {
    auto in = [&](int i) { return b.input<float>(i); };
    NormArrays a = arrays(in(1), in(2), in(3), in(4), in(5));
    norm_loops().sums(cut_, a, in(0), b.output<float>(0), b.output<float>(1), b.output<float>(2),
                      coefficients(b), sums(b));
  }
};

bool all_f32(const Node& node) {
  auto f32 = [](const TensorType& type) { return type.dtype == DType::f32; };
  return std::ranges::all_of(node.in, f32) && std::ranges::all_of(node.out, f32);
}

template <class K>
Offer offer_norm(const Node& node) {
  if (!all_f32(node)) return Offer::none("the batch norm loops take float32");
  return Offer(std::make_unique<K>(node));
}

template <class K>
Offer offer_gradient(const Node& node) {
  const std::optional<Neuron> neuron = neuron_of(node);
  if (neuron && !neuron->is(NeuronKind::relu))
    return Offer::none("only relu is fused into the gradient");
  return offer_norm<K>(node);
}

const Register kTraining("batch_norm", {offer_norm<Training>});
const Register kTrainingGradient("batch_norm_gradient", {offer_gradient<TrainingGradient>});
const Register kInference("batch_norm_inference", {offer_norm<Inference>});
const Register kInferenceGradient("batch_norm_inference_gradient",
                                  {offer_gradient<InferenceGradient>});

}  // namespace
}  // namespace jax_mps::cpu
