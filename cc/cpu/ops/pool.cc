// max_pool(x), max_pool_taps(x) -> y, taps, max_pool_gradient(dy, taps), max_pool_pick(x, taps),
// avg_pool(x), avg_pool_gradient(dy), l2_pool(x), l2_pool_gradient(dy, x, y). A 1-D pool is a 2-D
// one of height 1.
#include "cpu/loops/pool.h"

#include <algorithm>
#include <vector>

#include "cpu/device.h"
#include "ir/pool.h"

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
  explicit Pool(const PoolNode& node)
      : batch_(node.x.dim(0)),
        channels_(node.x.dim(-1)),
        total_(node.total),
        y_(axis(node, node.windows.height(), node.windows.axes.size() == 1)),
        x_(axis(node, node.windows.width(), false)) {}

  std::string implementation() const override { return std::string("vector loop ") + isa_name(); }

 protected:
  PoolShape shape() const {
    PoolAxis y = y_.view(), x = x_.view();
    float area = total_ ? 1 : static_cast<float>(y.window) * static_cast<float>(x.window);
    return {batch_, channels_, y, x, area, 1 / area};
  }

 private:
  // The height that a 1-D pool lacks counts as if without padding.
  static Axis axis(const PoolNode& node, const WindowAxis& a, bool lacking) {
    return Axis(a.size, a.count, a.window, a.stride, a.low, a.dilation,
                node.count_padding && !lacking, node.total);
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
bool has_long_axis(const Windows& windows) {
  constexpr int64_t kEntries = int64_t{1} << 24;
  return std::ranges::any_of(windows.axes, [](const WindowAxis& a) {
    return a.size > kEntries || a.count > kEntries ||
           a.count * std::min(a.size, a.window) > kEntries;
  });
}

template <class K>
Offer pool(const Node& node) {
  if (!std::ranges::all_of(node.in, is_f32) || !is_f32(node.out[0]))
    return Offer::none("the pooling loops take float32");
  const PoolNode pool = pool_of(node);
  if (has_long_axis(pool.windows)) return Offer::none(kLongAxis);
  return Offer(std::make_unique<K>(pool));
}

// K<T> with T the type of the taps.
template <template <class> class K>
Offer with_taps(const Node& node) {
  const TensorType& taps = node.op == "max_pool_taps" ? node.out[1] : node.in[1];
  if (!is_f32(node.in[0]) || !is_f32(node.out[0]))
    return Offer::none("the pooling loops take float32");
  const PoolNode pool = pool_of(node);
  if (has_long_axis(pool.windows)) return Offer::none(kLongAxis);
  if (taps.dtype == DType::u8) return Offer(std::make_unique<K<uint8_t>>(pool));
  return Offer(std::make_unique<K<int32_t>>(pool));
}

const Register kMax("max_pool", {pool<Max>});
const Register kMaxTaps("max_pool_taps", {with_taps<MaxTaps>});
const Register kMaxGradient("max_pool_gradient", {with_taps<MaxGradient>});
const Register kMaxPick("max_pool_pick", {with_taps<MaxPick>});
const Register kAverage("avg_pool", {pool<Average>});
const Register kAverageGradient("avg_pool_gradient", {pool<AverageGradient>});
const Register kL2("l2_pool", {pool<L2>});
const Register kL2Gradient("l2_pool_gradient", {pool<L2Gradient>});

}  // namespace
}  // namespace jax_mps::cpu
