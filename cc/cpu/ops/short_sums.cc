// Convolution and its data gradient by plain sums in short runs: at the highest precision, and for
// few pixels, where oneDNN takes longer to bring the filters into its own order.
#include "cpu/loops/short_sums.h"

#include <optional>

#include "conv.h"
#include "cpu/isa.h"
#include "ir/conv.h"
#include "neuron.h"

namespace jax_mps::cpu {
namespace {

constexpr int64_t kVector = 16;      // result channels come in whole vectors
constexpr int64_t kFewPixels = 128;  // of the result
constexpr int64_t kMorePixels = 512, kFewWeights = 32 << 10;  // together; there it is no faster

// Nothing if the loops do not take this convolution; then `reason` says why.
std::optional<ShortSumsPlan> plan_of(const Node& node, std::string& reason) {
  const ConvNode conv = conv_of(node);
  const TensorType &x = conv.x, &w = conv.w, &y = conv.y;
  auto refuse = [&](const char* why) {
    reason = std::string("short sums are for ") + why;
    return std::nullopt;
  };
  const int64_t pixels = y.dim(-1) ? y.elements() / y.dim(-1) : 0;
  const bool few = pixels <= kFewPixels || (pixels <= kMorePixels && w.elements() <= kFewWeights);
  if (!conv.highest && !few) return refuse("the highest precision, or few pixels");
  if (x.dtype != DType::f32 || w.dtype != DType::f32 || y.dtype != DType::f32)
    return refuse("float32");
  if (conv.groups != 1) return refuse("one group");
  if (w.row) return refuse("filters whose rows are not apart");
  ShortSumsPlan plan{.batch = x.dim(0),
                     .size = {},
                     .channels = w.dim(-2),
                     .out = {},
                     .filters = w.dim(-1),
                     .taps = {},
                     .strides = {},
                     .dilation = {},
                     .pad = {},
                     .x_pixel = x.pitch(),
                     .y_pixel = y.pitch()};
  for (int i = 0; i < 2; i++) {
    const WindowAxis& axis = i == 0 ? conv.windows.height() : conv.windows.width();
    plan.size[i] = axis.size, plan.out[i] = axis.count, plan.taps[i] = axis.window;
    plan.strides[i] = axis.stride, plan.dilation[i] = axis.dilation, plan.pad[i] = axis.low;
  }
  return plan;
}

class ShortSums : public Kernel {
 public:
  ShortSums(const ShortSumsPlan& plan, bool transposed, bool bias, std::optional<Neuron> neuron)
      : plan_(plan), transposed_(transposed), bias_(bias), neuron_(neuron) {}

  std::string implementation() const override { return std::string("short sums ") + isa_name(); }
  size_t scratch_bytes() const override {
    return transposed_ ? taps() * plan_.channels * plan_.filters * sizeof(float) : 0;
  }
  void run(const Buffers& b) const override {
    const float* w = b.input<float>(1);
    if (transposed_) {
      auto* turned = reinterpret_cast<float*>(b.scratch);
      short_sums_loops().turn(w, turned, taps(), plan_.channels, plan_.filters);
      w = turned;
    }
    float* y = b.output<float>(0);
    short_sums_loops().conv(plan_, b.input<float>(0), w, bias_ ? b.input<float>(2) : nullptr, y);
    if (neuron_) apply(*neuron_, y, y, plan_.batch * plan_.out[0] * plan_.out[1] * plan_.filters);
  }

 private:
  int64_t taps() const { return plan_.taps[0] * plan_.taps[1]; }

  ShortSumsPlan plan_;
  bool transposed_, bias_;
  std::optional<Neuron> neuron_;
};

}  // namespace

Offer short_sums_conv(const Node& node) {
  bool bias = node.in.size() == 3;
  std::string reason;
  auto plan = plan_of(node, reason);
  if (!plan) return Offer::none(reason);
  if (plan->filters % kVector != 0)
    return Offer::none("short sums are for multiples of 16 channels");
  if (bias && node.in[2].dtype != DType::f32) return Offer::none("the bias is not float32");
  const std::optional<Neuron> neuron = neuron_of(node);
  if (neuron && node.out[0].row) return Offer::none("the result's rows are apart");
  return Offer(std::make_unique<ShortSums>(*plan, false, bias, neuron));
}

// The data gradient of a convolution that does not stride is one of dy with the turned filters.
Offer short_sums_conv_data_gradient(const Node& node) {
  std::string reason;
  auto plan = plan_of(node, reason);
  if (!plan) return Offer::none(reason);
  if (plan->channels % kVector != 0)
    return Offer::none("short sums are for multiples of 16 channels");
  for (int axis = 0; axis < 2; axis++) {
    if (plan->strides[axis] != 1) return Offer::none("short sums are for strides of 1");
    plan->pad[axis] = (plan->taps[axis] - 1) * plan->dilation[axis] - plan->pad[axis];
    std::swap(plan->size[axis], plan->out[axis]);
  }
  std::swap(plan->channels, plan->filters);
  std::swap(plan->x_pixel, plan->y_pixel);
  return Offer(std::make_unique<ShortSums>(*plan, true, false, std::nullopt));
}

}  // namespace jax_mps::cpu
