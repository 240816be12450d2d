// Neurons as ops of their own: neuron(x), neuron_gradient(dy, x), prelu(x, slopes),
// prelu_gradient(dy, x, slopes).
#include "neuron.h"

#include <algorithm>

#include "cpu/device.h"
#include "cpu/loops/pieces.h"

namespace jax_mps::cpu {
namespace {

bool all_f32(const Node& node) {
  auto f32 = [](const TensorType& type) { return type.dtype == DType::f32; };
  return std::ranges::all_of(node.in, f32) && std::ranges::all_of(node.out, f32);
}

class Apply : public Kernel {
 public:
  Apply(Neuron neuron, int64_t n) : neuron_(neuron), n_(n) {}
  std::string implementation() const override { return std::string("vector loop ") + isa_name(); }
  void run(const Buffers& b) const override {
    apply(neuron_, b.input<float>(0), b.output<float>(0), n_);
  }

 private:
  Neuron neuron_;
  int64_t n_;
};

class Gradient : public Apply {
 public:
  Gradient(Neuron neuron, int64_t n) : Apply(neuron, n), neuron_(neuron), n_(n) {}
  void run(const Buffers& b) const override {
    apply_gradient(neuron_, b.input<float>(0), b.input<float>(1), b.output<float>(0), n_);
  }

 private:
  Neuron neuron_;
  int64_t n_;
};

template <class K>
Offer elementwise(const Node& node) {
  if (!all_f32(node)) return Offer::none("the vector loops take float32");
  return Offer(std::make_unique<K>(*neuron_of(node), node.out[0].elements()));
}

class PRelu : public Kernel {
 public:
  explicit PRelu(const TensorType& x) : channels_(x.dim(-1)), rows_(x.elements() / x.dim(-1)) {}
  std::string implementation() const override { return std::string("vector loop ") + isa_name(); }
  void run(const Buffers& b) const override {
    neuron_loops().prelu(b.input<float>(0), b.input<float>(1), b.output<float>(0), rows_,
                         channels_);
  }

 protected:
  int64_t channels_, rows_;
};

class PReluGradient : public PRelu {
 public:
  using PRelu::PRelu;
  size_t scratch_bytes() const override { return pieces_of(rows_) * channels_ * sizeof(float); }
  void run(const Buffers& b) const override {
    neuron_loops().prelu_gradient(b.input<float>(0), b.input<float>(1), b.input<float>(2),
                                  b.output<float>(0), b.output<float>(1),
                                  reinterpret_cast<float*>(b.scratch), rows_, channels_);
  }
};

template <class K>
Offer per_channel(const Node& node) {
  if (!all_f32(node)) return Offer::none("the vector loops take float32");
  return Offer(std::make_unique<K>(node.out[0]));
}

const Register kNeuron("neuron", {elementwise<Apply>});
const Register kNeuronGradient("neuron_gradient", {elementwise<Gradient>});
const Register kPRelu("prelu", {per_channel<PRelu>});
const Register kPReluGradient("prelu_gradient", {per_channel<PReluGradient>});

}  // namespace
}  // namespace jax_mps::cpu
