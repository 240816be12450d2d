// bias_gradient(dy) -> db, the sum over all axes but the last.
#include "cpu/loops/reduce.h"

#include "cpu/device.h"
#include "cpu/loops/pieces.h"

namespace jax_mps::cpu {
namespace {

class ColumnSum : public Kernel {
 public:
  explicit ColumnSum(const TensorType& x) : channels_(x.dim(-1)), rows_(x.elements() / x.dim(-1)) {}
  std::string implementation() const override { return std::string("column sum ") + isa_name(); }
  size_t scratch_bytes() const override { return pieces_of(rows_) * channels_ * sizeof(float); }
  void run(const Buffers& b) const override {
    reduce_loops().column_sum(b.input<float>(0), b.output<float>(0),
                              reinterpret_cast<float*>(b.scratch), rows_, channels_);
  }

 private:
  int64_t channels_, rows_;
};

Offer column_sum(const Node& node) {
  if (node.in[0].dtype != DType::f32) return Offer::none("the column sum takes float32");
  return Offer(std::make_unique<ColumnSum>(node.in[0]));
}

const Register kBiasGradient("bias_gradient", {column_sum});

}  // namespace
}  // namespace jax_mps::cpu
