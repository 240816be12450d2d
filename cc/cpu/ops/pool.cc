// max_pool(x), max_pool_taps(x) -> y, taps, max_pool_gradient(dy, taps), max_pool_pick(x, taps),
// avg_pool(x), avg_pool_gradient(dy), l2_pool(x), l2_pool_gradient(dy, x, y). A 1-D pool is a 2-D
// one of height 1.
#include "cpu/loops/pool.h"

#include <algorithm>
#include <vector>

#include "cpu/device.h"

namespace jax_mps::cpu {
namespace {

// One axis with its tables.
class Axis {
 public:
  Axis(int64_t in, int64_t out, int64_t window, int64_t stride, int64_t low, int64_t dilation,
       bool count_padding, bool total)
      : in_(in), window_(window), dilation_(dilation), hits_end_(in + 1) {
    for (int64_t o = 0; o < out; o++) {
      int64_t origin = o * stride - low;
      // Taps from `first` on lie behind the beginning of x, those before `last` before its end.
      int64_t first = origin < 0 ? std::min((dilation - 1 - origin) / dilation, window) : 0;
      int64_t last = origin < in ? std::min((in - origin + dilation - 1) / dilation, window) : 0;
      if (first >= last) first = last = window;
      auto count = static_cast<float>(count_padding ? window : std::max<int64_t>(last - first, 1));
      if (total) count = 1;
      int64_t start = first < last ? origin + first * dilation : 0;
      spans_.push_back({int32_t(first), int32_t(last), int32_t(start), count});
      for (int64_t k = first; k < last; k++) hits_end_[origin + k * dilation + 1]++;
    }
    for (int64_t i = 0; i < in; i++) hits_end_[i + 1] += hits_end_[i];
    hits_.resize(hits_end_[in]);
    std::vector<int32_t> next(hits_end_.begin(), hits_end_.end() - 1);
    for (int64_t o = 0; o < out; o++) {
      const PoolSpan& s = spans_[o];
      for (int64_t k = s.first; k < s.last; k++)
        hits_[next[s.start + (k - s.first) * dilation]++] = {
            int32_t(o), int32_t(k), total ? 1 : static_cast<float>(window) / s.count};
    }
  }

  PoolAxis view() const {
    return {in_,
            static_cast<int64_t>(spans_.size()),
            window_,
            dilation_,
            spans_.data(),
            hits_.data(),
            hits_end_.data()};
  }

 private:
  int64_t in_, window_, dilation_;
  std::vector<PoolSpan> spans_;
  std::vector<PoolHit> hits_;
  std::vector<int32_t> hits_end_;
};

class Pool : public Kernel {
 public:
  // `x` and `y` are the types on the two sides of the pool, whichever the node computes.
  Pool(const Node& node, const TensorType& x, const TensorType& y)
      : batch_(x.dim(0)),
        channels_(x.dim(-1)),
        total_(node.attributes.has("total") && node.attributes.boolean("total")),
        y_(axis(node, x, y, 0)),
        x_(axis(node, x, y, 1)) {}

  std::string implementation() const override { return std::string("vector loop ") + isa_name(); }

 protected:
  PoolShape shape() const {
    PoolAxis y = y_.view(), x = x_.view();
    float area = total_ ? 1 : static_cast<float>(y.window) * static_cast<float>(x.window);
    return {batch_, channels_, y, x, area, 1 / area};
  }

 private:
  // Axis 0 is the height, which a 1-D pool lacks, and 1 the width.
  Axis axis(const Node& node, const TensorType& x, const TensorType& y, int which) const {
    const Attributes& a = node.attributes;
    auto window = a.integers("window"), strides = a.integers("strides"),
         padding = a.integers("padding");
    auto dilation =
        a.has("dilation") ? a.integers("dilation") : std::vector<int64_t>(window.size(), 1);
    size_t spatial = x.rank() - 2;
    if (which == 0 && spatial == 1) return Axis(1, 1, 1, 1, 0, 1, false, total_);
    size_t i = spatial == 1 ? 0 : which;
    bool count_padding = a.has("count_padding") && a.boolean("count_padding");
    return Axis(x.dim(i + 1), y.dim(i + 1), window[i], strides[i], padding[2 * i], dilation[i],
                count_padding, total_);
  }

  int64_t batch_, channels_;
  bool total_;  // sums in place of averages
  Axis y_, x_;
};

class Max : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    pool_loops().max(shape(), b.input<float>(0), b.output<float>(0));
  }
};

template <class T>
class MaxTaps : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    if constexpr (sizeof(T) == 1)
      pool_loops().max_taps_u8(shape(), b.input<float>(0), b.output<float>(0), b.output<T>(1));
    else
      pool_loops().max_taps_s32(shape(), b.input<float>(0), b.output<float>(0), b.output<T>(1));
  }
};

template <class T>
class MaxGradient : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    if constexpr (sizeof(T) == 1)
      pool_loops().max_gradient_u8(shape(), b.input<float>(0), b.input<T>(1), b.output<float>(0));
    else
      pool_loops().max_gradient_s32(shape(), b.input<float>(0), b.input<T>(1), b.output<float>(0));
  }
};

template <class T>
class MaxPick : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    if constexpr (sizeof(T) == 1)
      pool_loops().pick_u8(shape(), b.input<float>(0), b.input<T>(1), b.output<float>(0));
    else
      pool_loops().pick_s32(shape(), b.input<float>(0), b.input<T>(1), b.output<float>(0));
  }
};

class Average : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    pool_loops().average(shape(), b.input<float>(0), b.output<float>(0));
  }
};

class AverageGradient : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    pool_loops().average_gradient(shape(), b.input<float>(0), b.output<float>(0));
  }
};

class L2 : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    pool_loops().l2(shape(), b.input<float>(0), b.output<float>(0));
  }
};

class L2Gradient : public Pool {
 public:
  using Pool::Pool;
  void run(const Buffers& b) const override {
    pool_loops().l2_gradient(shape(), b.input<float>(0), b.input<float>(1), b.input<float>(2),
                             b.output<float>(0));
  }
};

constexpr const char* kLongAxis = "the pooling loops take axes of up to 2^24 windows and taps";

bool is_f32(const TensorType& type) { return type.dtype == DType::f32; }

// Whether the tables of an axis are much larger than what they are read for.
bool has_long_axis(const Node& node, const TensorType& x, const TensorType& y) {
  constexpr int64_t kEntries = int64_t{1} << 24;
  const std::vector<int64_t> window = node.attributes.integers("window");
  for (size_t i = 0; i < window.size(); i++) {
    int64_t in = x.shape[i + 1], out = y.shape[i + 1];
    if (in > kEntries || out > kEntries || out * std::min(in, window[i]) > kEntries) return true;
  }
  return false;
}

// K of a node whose results have the shape of y, or with `Back` that of x.
template <class K, bool Back = false>
Offer pool(const Node& node) {
  const TensorType &in = node.in[0], &out = node.out[0], &x = Back ? out : in, &y = Back ? in : out;
  if (!std::ranges::all_of(node.in, is_f32) || !is_f32(out))
    return Offer::none("the pooling loops take float32");
  if (has_long_axis(node, x, y)) return Offer::none(kLongAxis);
  return Offer(std::make_unique<K>(node, x, y));
}

// K<T> with T the type of the taps.
template <template <class> class K, bool Back = false>
Offer with_taps(const Node& node) {
  const TensorType& taps = node.op == "max_pool_taps" ? node.out[1] : node.in[1];
  const TensorType &in = node.in[0], &out = node.out[0], &x = Back ? out : in, &y = Back ? in : out;
  if (!is_f32(in) || !is_f32(out)) return Offer::none("the pooling loops take float32");
  if (has_long_axis(node, x, y)) return Offer::none(kLongAxis);
  if (taps.dtype == DType::u8) return Offer(std::make_unique<K<uint8_t>>(node, x, y));
  return Offer(std::make_unique<K<int32_t>>(node, x, y));
}

const Register kMax("max_pool", {pool<Max>});
const Register kMaxTaps("max_pool_taps", {with_taps<MaxTaps>});
const Register kMaxGradient("max_pool_gradient", {with_taps<MaxGradient, true>});
const Register kMaxPick("max_pool_pick", {with_taps<MaxPick>});
const Register kAverage("avg_pool", {pool<Average>});
const Register kAverageGradient("avg_pool_gradient", {pool<AverageGradient, true>});
const Register kL2("l2_pool", {pool<L2>});
const Register kL2Gradient("l2_pool_gradient", {pool<L2Gradient, true>});

}  // namespace
}  // namespace jax_mps::cpu
