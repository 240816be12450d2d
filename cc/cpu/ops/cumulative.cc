// cumulative(x) {axis, kind, reverse} -> y: sums, products or extrema of all up to each element.
#include "ir/cumulative.h"

#include "cpu/device.h"
#include "cpu/loops/cumulative.h"

namespace jax_mps::cpu {
namespace {

class CumulativeKernel : public Kernel {
 public:
  CumulativeKernel(const CumulativeShape& shape, CumulativeFn run) : shape_(shape), run_(run) {}
  std::string implementation() const override { return std::string("cumulative ") + isa_name(); }
  void run(const Buffers& b) const override { run_(shape_, b.in[0], b.out[0]); }

 private:
  CumulativeShape shape_;
  CumulativeFn run_;
};

Offer cumulative(const Node& node) {
  CumulativeNode parsed(node);
  const CumulativeLoops& loops = cumulative_loops();
  DType dtype = node.in[0].dtype;
  const CumulativeFn* row = dtype == DType::f32   ? loops.f32
                            : dtype == DType::s32 ? loops.s32
                            : dtype == DType::u32 ? loops.u32
                                                  : nullptr;
  if (!row) return Offer::none("cumulative takes float32, int32 or uint32");
  return Offer(
      std::make_unique<CumulativeKernel>(parsed.shape, row[static_cast<int>(parsed.kind)]));
}

const Register kCumulative("cumulative", {cumulative});

}  // namespace
}  // namespace jax_mps::cpu
