// sgd, rmsprop and adam: (hyperparameters, gradients..., [parameters...], states...) -> (updates or
// parameters..., states...), each stream with one array for each leaf of the parameter tree.
#include "cpu/loops/optim.h"

#include <algorithm>

#include "cpu/device.h"

namespace jax_mps::cpu {
namespace {

Storage storage_of(const TensorType& type) {
  return type.dtype == DType::bf16  ? Storage::bf16
         : type.dtype == DType::f16 ? Storage::f16
                                    : Storage::f32;
}

Regularization regularization_of(const std::string& name) {
  return name == "l1"   ? Regularization::l1
         : name == "l2" ? Regularization::l2
                        : Regularization::none;
}

struct Row {
  OptimRule rule;
  int states;
};

Row sgd(const Node& node) {
  if (node.attributes.integer("states") == 0) return {OptimRule::sgd, 0};
  return {node.attributes.boolean("nesterov") ? OptimRule::sgd_nesterov : OptimRule::sgd_momentum,
          1};
}

Row adam(const Node& node) {
  bool amsgrad = node.attributes.integer("states") == 3;
  return {amsgrad ? OptimRule::amsgrad : OptimRule::adam, 2 + amsgrad};
}

Row rmsprop(const Node& node) {
  bool centered = node.attributes.boolean("centered");
  bool momentum = node.attributes.integer("states") == 2 + centered;
  bool nesterov = momentum && node.attributes.boolean("nesterov");
  constexpr OptimRule rules[2][3] = {
      {OptimRule::rmsprop, OptimRule::rmsprop_momentum, OptimRule::rmsprop_nesterov},
      {OptimRule::rmsprop_centered, OptimRule::rmsprop_centered_momentum,
       OptimRule::rmsprop_centered_nesterov}};
  return {rules[centered][momentum + nesterov], 1 + centered + momentum};
}

class MultiTensor : public Kernel {
 public:
  MultiTensor(const Node& node, OptimWork work) : work_(work) {
    for (size_t i = 1; i < node.in.size(); i++) in_storage_.push_back(storage_of(node.in[i]));
    for (const TensorType& type : node.out) out_storage_.push_back(storage_of(type));
    first_piece_.push_back(0);
    for (int64_t i = 0; i < work.leaves; i++) {
      sizes_.push_back(node.in[1 + i].elements());
      work_.elements += sizes_.back();
      first_piece_.push_back(first_piece_.back() + (sizes_.back() + kOptimPiece - 1) / kOptimPiece);
    }
    work_.sizes = sizes_.data(), work_.first_piece = first_piece_.data();
    work_.in_storage = in_storage_.data(), work_.out_storage = out_storage_.data();
  }
  std::string implementation() const override {
    return std::string("multi-tensor loop ") + isa_name();
  }
  void run(const Buffers& b) const override { optim_loops().run(work_, b.in, b.out); }

 private:
  OptimWork work_;
  std::vector<int64_t> sizes_, first_piece_;
  std::vector<Storage> in_storage_, out_storage_;
};

template <Row (*row_of)(const Node&)>
Offer multi_tensor(const Node& node) {
  auto floating = [](const TensorType& type) {
    return type.dtype == DType::f32 || is_half(type.dtype);
  };
  if (!std::ranges::all_of(node.in, floating) || !std::ranges::all_of(node.out, floating))
    return Offer::none("the multi-tensor loop takes float32, float16 and bfloat16");
  Row row = row_of(node);
  OptimWork work{};
  work.rule = row.rule;
  work.apply = node.attributes.boolean("apply");
  work.regularization = regularization_of(node.attributes.string("regularization"));
  work.reads_parameters = work.apply || work.regularization != Regularization::none;
  work.inputs = 1 + work.reads_parameters + row.states;
  work.outputs = 1 + row.states;
  work.leaves = static_cast<int64_t>(node.in.size() - 1) / work.inputs;
  return Offer(std::make_unique<MultiTensor>(node, work));
}

const Register kSgd("sgd", {multi_tensor<sgd>});
const Register kAdam("adam", {multi_tensor<adam>});
const Register kRmsprop("rmsprop", {multi_tensor<rmsprop>});

}  // namespace
}  // namespace jax_mps::cpu
