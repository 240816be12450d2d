// The weight gradient of windows of one pixel that stride or reach into padding, by our own product
// of the pixels that they read: in any dtype, for any groups, and over pitched rows.
#include "cpu/loops/pixels.h"

#include <algorithm>

#include "conv.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "ir/conv.h"

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

}  // namespace

Offer pixels_weight_gradient(const Node& node) {
  const ConvNode conv = conv_of(node);
  const TensorType &x = conv.x, &dy = conv.y, &dw = conv.w;
  if (!conv.windows.is_pixel()) return Offer::none("windows of more than a pixel");
  if (conv.windows.is_plain())
    return Offer::none("windows of a pixel that neither stride nor reach into padding");
  if (x.dtype != dy.dtype || x.dtype != dw.dtype || (x.dtype != DType::f32 && !is_half(x.dtype)))
    return Offer::none("the product of pixels takes one floating dtype");
  if (dw.row) return Offer::none("the weights' rows are apart");
  const WindowAxis &rows = conv.windows.height(), &cols = conv.windows.width();
  return Offer(std::make_unique<PixelsWeightGradient>(
      PixelsPlan{.dtype = x.dtype == DType::f32    ? PixelDType::f32
                          : x.dtype == DType::bf16 ? PixelDType::bf16
                                                   : PixelDType::f16,
                 .batch = x.dim(0),
                 .height = rows.size,
                 .width = cols.size,
                 .rows = rows.count,
                 .cols = cols.count,
                 .stride_rows = rows.stride,
                 .stride_cols = cols.stride,
                 .top = rows.low,
                 .left = cols.low,
                 .groups = conv.groups,
                 .in = dw.dim(-2),
                 .out = dw.dim(-1) / conv.groups,
                 .x_pixel = x.pitch(),
                 .dy_pixel = dy.pitch(),
                 .threads = max_threads()}));
}

}  // namespace jax_mps::cpu
