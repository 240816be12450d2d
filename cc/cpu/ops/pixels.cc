// The weight gradient of windows of one pixel that stride or reach into padding, by our own product
// of the pixels that they read: in any dtype, for any groups, and over rows that are apart.
#include "cpu/loops/pixels.h"

#include <algorithm>

#include "conv.h"
#include "cpu/isa.h"
#include "cpu/threads.h"

namespace jax_mps::cpu {
namespace {

class PixelsWeightGradient : public Kernel {
 public:
  explicit PixelsWeightGradient(const PixelsPlan& plan) : plan_(plan) {}

  std::string implementation() const override {
    return std::string("product of pixels ") + isa_name();
  }
  size_t scratch_bytes() const override { return pixels_loops().scratch(plan_) * sizeof(float); }
  void run(const Buffers& b) const override {
    pixels_loops().weight_gradient(plan_, b.in[0], b.in[1], b.out[0],
                                   reinterpret_cast<float*>(b.scratch));
  }

 private:
  PixelsPlan plan_;
};

bool all_are(const std::vector<int64_t>& values, int64_t value) {
  return std::ranges::all_of(values, [&](int64_t v) { return v == value; });
}

}  // namespace

Offer pixels_weight_gradient(const Node& node) {
  const TensorType &x = node.in[0], &dy = node.in[1], &dw = node.out[0];
  auto strides = node.attributes.integers("strides"), padding = node.attributes.integers("padding");
  if (dw.elements() != dw.dim(-1) * dw.dim(-2)) return Offer::none("windows of more than a pixel");
  if (all_are(strides, 1) && all_are(padding, 0))
    return Offer::none("windows of a pixel that neither stride nor reach into padding");
  if (x.dtype != dy.dtype || x.dtype != dw.dtype || (x.dtype != DType::f32 && !is_half(x.dtype)))
    return Offer::none("the product of pixels takes one floating dtype");
  if (dw.row) return Offer::none("the weights' rows are apart");
  const bool flat = x.rank() == 3;
  const int64_t groups = node.attributes.integer("groups");
  return Offer(std::make_unique<PixelsWeightGradient>(
      PixelsPlan{.dtype = x.dtype == DType::f32    ? PixelDType::f32
                          : x.dtype == DType::bf16 ? PixelDType::bf16
                                                   : PixelDType::f16,
                 .batch = x.dim(0),
                 .height = flat ? 1 : x.dim(1),
                 .width = x.dim(-2),
                 .rows = flat ? 1 : dy.dim(1),
                 .cols = dy.dim(-2),
                 .stride_rows = flat ? 1 : strides.front(),
                 .stride_cols = strides.back(),
                 .top = flat ? 0 : padding[0],
                 .left = padding[padding.size() - 2],
                 .groups = groups,
                 .in = dw.dim(-2),
                 .out = dw.dim(-1) / groups,
                 .x_pixel = x.pitch(),
                 .dy_pixel = dy.pitch(),
                 .threads = max_threads()}));
}

}  // namespace jax_mps::cpu
