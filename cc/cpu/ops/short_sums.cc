// Convolution and its data gradient by plain sums in short runs: at the highest precision, and for
// few pixels, where oneDNN takes longer to bring the filters into its own order.
#include "cpu/loops/short_sums.h"

#include <optional>

#include "conv.h"
#include "cpu/isa.h"
#include "neuron.h"

namespace jax_mps::cpu {
namespace {

constexpr int64_t kVector = 16;      // result channels come in whole vectors
constexpr int64_t kFewPixels = 128;  // of the result
constexpr int64_t kMorePixels = 512, kFewWeights = 32 << 10;  // together; there it is no faster

// Nothing if the loops do not take the convolution of x and w to y; then `reason` says why.
std::optional<ShortSumsPlan> plan_of(const Node& node, const TensorType& x, const TensorType& w,
                                     const TensorType& y, std::string& reason) {
  const Attributes& a = node.attributes;
  auto refuse = [&](const char* why) {
    reason = std::string("short sums are for ") + why;
    return std::nullopt;
  };
  bool highest = a.has("precision") && a.string("precision") == "highest";
  const int64_t pixels = y.dim(-1) ? y.elements() / y.dim(-1) : 0;
  const bool few = pixels <= kFewPixels || (pixels <= kMorePixels && w.elements() <= kFewWeights);
  if (!highest && !few) return refuse("the highest precision, or few pixels");
  if (x.dtype != DType::f32 || w.dtype != DType::f32 || y.dtype != DType::f32)
    return refuse("float32");
  if (a.integer("groups") != 1) return refuse("one group");
  if (w.row) return refuse("filters whose rows are not apart");
  // A convolution of one axis is one of height 1.
  auto strides = a.integers("strides"), dilation = a.integers("dilation");
  auto padding = a.integers("padding");
  ShortSumsPlan plan{.batch = x.dim(0),
                     .size = {1, 0},
                     .channels = w.dim(-2),
                     .out = {1, 0},
                     .filters = w.dim(-1),
                     .taps = {1, 0},
                     .strides = {1, 0},
                     .dilation = {1, 0},
                     .pad = {0, 0},
                     .x_pixel = x.pitch(),
                     .y_pixel = y.pitch()};
  int first = x.rank() == 3 ? 1 : 0;
  for (int axis = first; axis < 2; axis++) {
    int i = axis - first;
    plan.size[axis] = x.dim(i + 1), plan.out[axis] = y.dim(i + 1), plan.taps[axis] = w.dim(i);
    plan.strides[axis] = strides[i], plan.dilation[axis] = dilation[i];
    plan.pad[axis] = padding[2 * i];
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
  auto plan = plan_of(node, node.in[0], node.in[1], node.out[0], reason);
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
  auto plan = plan_of(node, node.out[0], node.in[1], node.in[0], reason);
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
