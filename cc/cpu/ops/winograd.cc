// Convolution, its data gradient and its weight gradient by Winograd's minimal filtering, where it
// takes clearly fewer multiplications than plain sums do. A convolution's errors go into every
// neuron, window and mean that follows, and a network enlarges them; those of gradients are only
// carried back. So the convolution takes more products, at Gaussian points, and is as exact as
// plain sums; the gradients take the fewest.
#include "cpu/loops/winograd.h"

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "conv.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "neuron.h"

namespace jax_mps::cpu {
namespace {

constexpr int64_t kWorthwhile =
    4 << 20;  // multiply-adds of plain sums below which nothing is gained

// JAX_MPS_WINOGRAD=0 in the environment keeps to plain sums.
bool wanted() {
  static const char* value = std::getenv("JAX_MPS_WINOGRAD");
  return !value || std::string_view(value) != "0";
}

// Nothing if minimal filtering does not take the convolution of these arrays; then `reason` says
// why.
std::optional<WinogradPlan> plan_of(const Node& node, const TensorType& x, const TensorType& w,
                                    const TensorType& y, bool gaussian, std::string& reason) {
  const Attributes& a = node.attributes;
  auto refuse = [&](const char* why) {
    reason = std::string("minimal filtering is for ") + why;
    return std::nullopt;
  };
  if (!wanted()) {
    reason = "JAX_MPS_WINOGRAD=0 turns minimal filtering off";
    return std::nullopt;
  }
  if (a.has("precision") && a.string("precision") == "highest")
    return refuse("any precision but the highest");
  if (w.row) return refuse("filters whose rows are not apart");
  if (x.dtype != DType::f32 || w.dtype != DType::f32 || y.dtype != DType::f32)
    return refuse("float32");
  if (x.rank() != 4 || w.dim(0) != w.dim(1) || (w.dim(0) != 3 && w.dim(0) != 5))
    return refuse("3x3 and 5x5 filters");
  for (const char* name : {"strides", "dilation"})
    for (int64_t step : a.integers(name))
      if (step != 1) return refuse("strides and dilation of 1");
  if (a.integer("groups") != 1) return refuse("one group");
  if (w.dim(2) % kWinogradChannels != 0 || w.dim(3) % kWinogradChannels != 0)
    return refuse("multiples of 16 channels");
  auto padding = a.integers("padding");
  WinogradPlan plan{.batch = x.dim(0),
                    .height = x.dim(1),
                    .width = x.dim(2),
                    .channels = w.dim(2),
                    .rows = y.dim(1),
                    .cols = y.dim(2),
                    .filters = w.dim(3),
                    .taps = static_cast<int>(w.dim(0)),
                    .pad_top = padding[0],
                    .pad_left = padding[2],
                    .gaussian = gaussian,
                    .threads = max_threads()};
  // Tiles at the edges are computed whole. Filters are transformed once a call; at more points and
  // of many channels they leave the caches, which takes the time of some tiles.
  double sums = static_cast<double>(plan.batch * plan.rows * plan.cols * plan.taps * plan.taps);
  double weights = static_cast<double>(plan.channels) * plan.filters;
  double least = gaussian ? 1.7 * plan.products() * (plan.tiles() + std::sqrt(weights) / 16)
                          : 2.0 * plan.products() * plan.tiles();
  if (sums * weights < kWorthwhile || sums < least) return refuse("images larger than this");
  return plan;
}

// The data gradient is the convolution of dy with the turned filters.
WinogradPlan turned(WinogradPlan plan) {
  std::swap(plan.height, plan.rows);
  std::swap(plan.width, plan.cols);
  std::swap(plan.channels, plan.filters);
  plan.pad_top = plan.taps - 1 - plan.pad_top;
  plan.pad_left = plan.taps - 1 - plan.pad_left;
  return plan;
}

std::string name_of(const WinogradPlan& plan) {
  std::string m = std::to_string(winograd_outputs(plan.taps)), r = std::to_string(plan.taps);
  return "winograd:F(" + m + "x" + m + "," + r + "x" + r + "):" + isa_name();
}

class Winograd : public Kernel {
 public:
  Winograd(const WinogradPlan& plan, bool transposed, bool bias, std::optional<Neuron> neuron)
      : plan_(plan), transposed_(transposed), bias_(bias), neuron_(neuron) {}

  std::string implementation() const override { return name_of(plan_); }
  size_t scratch_bytes() const override {
    return winograd_loops().conv_scratch(plan_) * sizeof(float);
  }
  void run(const Buffers& b) const override {
    bool relu = neuron_ && neuron_->is(NeuronKind::relu);
    WinogradTail tail{bias_ ? b.input<float>(2) : nullptr, relu, relu ? neuron_->a : 0};
    float* y = b.output<float>(0);
    winograd_loops().conv(plan_, b.input<float>(0), b.input<float>(1), transposed_, tail, y,
                          reinterpret_cast<float*>(b.scratch));
    if (neuron_ && !relu)
      apply(*neuron_, y, y, plan_.batch * plan_.rows * plan_.cols * plan_.filters);
  }

 private:
  WinogradPlan plan_;
  bool transposed_, bias_;
  std::optional<Neuron> neuron_;
};

class WinogradWeightGradient : public Kernel {
 public:
  explicit WinogradWeightGradient(const WinogradPlan& plan) : plan_(plan) {}

  std::string implementation() const override { return name_of(plan_); }
  size_t scratch_bytes() const override {
    return winograd_loops().weight_gradient_scratch(plan_) * sizeof(float);
  }
  void run(const Buffers& b) const override {
    winograd_loops().weight_gradient(plan_, b.input<float>(0), b.input<float>(1),
                                     b.output<float>(0), reinterpret_cast<float*>(b.scratch));
  }

 private:
  WinogradPlan plan_;
};

}  // namespace

Offer winograd_conv(const Node& node) {
  std::string reason;
  auto plan = plan_of(node, node.in[0], node.in[1], node.out[0], true, reason);
  if (!plan) return Offer::none(reason);
  bool bias = node.in.size() == 3;
  if (bias && node.in[2].dtype != DType::f32) return Offer::none("the bias is not float32");
  const std::optional<Neuron> neuron = neuron_of(node);
  if (node.out[0].row && neuron && !neuron->is(NeuronKind::relu))
    return Offer::none("the result's rows are apart");
  plan->x_pixel = node.in[0].pitch(), plan->y_pixel = node.out[0].pitch();
  return Offer(std::make_unique<Winograd>(*plan, false, bias, neuron));
}

Offer winograd_conv_data_gradient(const Node& node) {
  std::string reason;
  auto plan = plan_of(node, node.out[0], node.in[1], node.in[0], false, reason);
  if (!plan) return Offer::none(reason);
  WinogradPlan back = turned(*plan);
  back.x_pixel = node.in[0].pitch(), back.y_pixel = node.out[0].pitch();
  return Offer(std::make_unique<Winograd>(back, true, false, std::nullopt));
}

Offer winograd_conv_weight_gradient(const Node& node) {
  std::string reason;
  auto plan = plan_of(node, node.in[0], node.out[0], node.in[1], false, reason);
  if (!plan) return Offer::none(reason);
  plan->x_pixel = node.in[0].pitch(), plan->y_pixel = node.in[1].pitch();
  return Offer(std::make_unique<WinogradWeightGradient>(*plan));
}

}  // namespace jax_mps::cpu
