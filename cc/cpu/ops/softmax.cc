// softmax(x), log_softmax(x), softmax_gradient(dy, y), log_softmax_gradient(dy, y);
// softmax_cross_entropy(logits, labels) -> loss, maximum, log_sum, and its gradient.
#include "cpu/loops/softmax.h"

#include "cpu/device.h"

namespace jax_mps::cpu {
namespace {

// What all share: rows of classes.
class Rows : public Kernel {
 public:
  explicit Rows(const TensorType& x) : classes_(x.dim(-1)), rows_(x.elements() / x.dim(-1)) {}
  std::string implementation() const override { return std::string("softmax loops ") + isa_name(); }

 protected:
  int64_t classes_, rows_;
};

template <bool kLog>
class Softmax : public Rows {
 public:
  explicit Softmax(const Node& node) : Rows(node.in[0]) {}
  void run(const Buffers& b) const override {
    softmax_loops().softmax(kLog, b.input<float>(0), b.output<float>(0), rows_, classes_);
  }
};

template <bool kLog>
class Gradient : public Rows {
 public:
  explicit Gradient(const Node& node) : Rows(node.in[0]) {}
  void run(const Buffers& b) const override {
    softmax_loops().gradient(kLog, b.input<float>(0), b.input<float>(1), b.output<float>(0), rows_,
                             classes_);
  }
};

template <class K>
Offer per_row(const Node& node) {
  for (const TensorType& type : node.in)
    if (type.dtype != DType::f32) return Offer::none("the softmax loops take float32");
  return Offer(std::make_unique<K>(node));
}

// Integer or dense labels, the operand after the logits.
class LabelledRows : public Rows {
 public:
  LabelledRows(const Node& node, int logits)
      : Rows(node.in[logits]),
        labels_(logits + 1),
        dense_(node.in[labels_].dtype == DType::f32),
        smoothing_(static_cast<float>(node.attributes.number("smoothing"))) {}

 protected:
  Labels labels(const Buffers& b) const {
    return {dense_ ? nullptr : b.input<int32_t>(labels_),
            dense_ ? b.input<float>(labels_) : nullptr, smoothing_};
  }

 private:
  int labels_;
  bool dense_;
  float smoothing_;
};

class CrossEntropy : public LabelledRows {
 public:
  explicit CrossEntropy(const Node& node) : LabelledRows(node, 0) {}
  void run(const Buffers& b) const override {
    softmax_loops().cross_entropy(b.input<float>(0), labels(b), b.output<float>(0),
                                  b.output<float>(1), b.output<float>(2), rows_, classes_);
  }
};

// (dloss, logits, labels, maximum, log_sum) -> dlogits
class CrossEntropyGradient : public LabelledRows {
 public:
  explicit CrossEntropyGradient(const Node& node) : LabelledRows(node, 1) {}
  void run(const Buffers& b) const override {
    softmax_loops().cross_entropy_gradient(b.input<float>(0), b.input<float>(1), labels(b),
                                           b.input<float>(3), b.input<float>(4), b.output<float>(0),
                                           rows_, classes_);
  }
};

template <class K, int logits>
Offer labelled(const Node& node) {
  const TensorType &x = node.in[logits], &labels = node.in[logits + 1];
  if (x.dtype != DType::f32 || node.out[0].dtype != DType::f32 ||
      (labels.dtype != DType::s32 && labels.dtype != DType::f32))
    return Offer::none("the softmax loops take float32 logits and int32 or float32 labels");
  return Offer(std::make_unique<K>(node));
}

const Register kSoftmax("softmax", {per_row<Softmax<false>>});
const Register kLogSoftmax("log_softmax", {per_row<Softmax<true>>});
const Register kSoftmaxGradient("softmax_gradient", {per_row<Gradient<false>>});
const Register kLogSoftmaxGradient("log_softmax_gradient", {per_row<Gradient<true>>});
const Register kCrossEntropy("softmax_cross_entropy", {labelled<CrossEntropy, 0>});
const Register kCrossEntropyGradient("softmax_cross_entropy_gradient",
                                     {labelled<CrossEntropyGradient, 1>});

}  // namespace
}  // namespace jax_mps::cpu
