#include "widen.h"

#include "align.h"
#include "cpu/loops/convert.h"

namespace jax_mps::cpu {
namespace {

class Widened : public Kernel {
 public:
  Widened(const Node& node, std::unique_ptr<Kernel> wide) : node_(node), wide_(std::move(wide)) {
    size_t offset = align_up(wide_->scratch_bytes());
    for (auto [types, offsets] : {std::pair(&node_.in, &in_), std::pair(&node_.out, &out_)})
      for (const TensorType& type : *types) {
        offsets->push_back(offset);
        if (is_half(type.dtype)) offset += align_up(type.elements() * sizeof(float));
      }
    scratch_bytes_ = offset;
  }

  std::string implementation() const override { return wide_->implementation() + " in float32"; }
  size_t scratch_bytes() const override { return scratch_bytes_; }

  void run(const Buffers& buffers) const override {
    std::vector<const void*> in(buffers.in, buffers.in + node_.in.size());
    std::vector<void*> out(buffers.out, buffers.out + node_.out.size());
    for (size_t i = 0; i < in.size(); i++) {
      if (!is_half(node_.in[i].dtype)) continue;
      auto* copy = reinterpret_cast<float*>(buffers.scratch + in_[i]);
      auto load = node_.in[i].dtype == DType::bf16 ? convert().from_bf16 : convert().from_f16;
      load(buffers.input<uint16_t>(i), copy, node_.in[i].elements());
      in[i] = copy;
    }
    for (size_t i = 0; i < out.size(); i++)
      if (is_half(node_.out[i].dtype)) out[i] = buffers.scratch + out_[i];
    wide_->run({in.data(), out.data(), buffers.scratch});
    for (size_t i = 0; i < out.size(); i++) {
      if (!is_half(node_.out[i].dtype)) continue;
      auto store = node_.out[i].dtype == DType::bf16 ? convert().to_bf16 : convert().to_f16;
      store(static_cast<const float*>(out[i]), buffers.output<uint16_t>(i),
            node_.out[i].elements());
    }
  }

 private:
  Node node_;
  std::unique_ptr<Kernel> wide_;
  std::vector<size_t> in_, out_;  // offsets of the copies in the scratch memory
  size_t scratch_bytes_;
};

}  // namespace

Node widened(const Node& node) {
  Node wide = node;
  for (auto* types : {&wide.in, &wide.out})
    for (TensorType& type : *types)
      if (is_half(type.dtype)) type.dtype = DType::f32;
  return wide;
}

std::unique_ptr<Kernel> widen(const Node& node, std::unique_ptr<Kernel> wide) {
  return std::make_unique<Widened>(node, std::move(wide));
}

}  // namespace jax_mps::cpu
