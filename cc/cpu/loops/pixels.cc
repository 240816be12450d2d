#include "pixels.h"

#include "half.h"
#include "lanes.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// A thread's copies: so many pixels of so many channels of x, and of dy.
constexpr int64_t kPixels = 128, kIn = 192, kOut = 256;
constexpr int64_t kCopies = kPixels * (kIn + kOut);
// A tile of sums in registers: 32 vector registers with AVX-512, else 16.
constexpr int kVectors = 2, kTile = kMaxLanes == 16 ? 12 : 6;
constexpr int64_t kPanel = kVectors * kMaxLanes;
// Pieces of work that keep a machine of many cores busy, and what their sums may take.
constexpr int64_t kItems = 32, kSums = 4 << 20, kLeastPixels = 512;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Outputs along an axis whose pixel of x lies inside of the image.
struct Inside {
  int64_t begin, end;
  Inside(int64_t size, int64_t outputs, int64_t stride, int64_t low)
      : begin(low > 0 ? divide_up(low, stride) : 0),
        end(least(outputs, size + low > 0 ? divide_up(size + low, stride) : 0)) {
    end = most(begin, end);
  }
  int64_t size() const { return end - begin; }
};

// How the sums are cut: by the sizes alone, so that they repeat on every machine.
struct Cut {
  Inside rows, cols;
  int64_t pixels, in_size, in_count, out_size, out_count, slices;

  explicit Cut(const PixelsPlan& p)
      : rows(p.height, p.rows, p.stride_rows, p.top),
        cols(p.width, p.cols, p.stride_cols, p.left),
        pixels(p.batch * rows.size() * cols.size()) {
    in_count = divide_up(p.in, kIn), out_count = divide_up(p.out, kOut);
    in_size = divide_up(divide_up(p.in, in_count), kTile) * kTile;
    out_size = divide_up(divide_up(p.out, out_count), kPanel) * kPanel;
    in_size = least(in_size, kIn), out_size = least(out_size, kOut);
    in_count = divide_up(p.in, in_size), out_count = divide_up(p.out, out_size);
    int64_t wanted = divide_up(kItems, p.groups * in_count * out_count);
    int64_t fitting = kSums / (p.groups * p.in * p.out);
    slices = most(1, least(least(wanted, fitting), pixels / kLeastPixels));
  }
};

int64_t scratch(const PixelsPlan& p) {
  Cut cut(p);
  return p.threads * kCopies + cut.slices * p.groups * p.in * p.out;
}

struct F32 {
  using Type = float;
  static float load(float x) { return x; }
  static float store(float x) { return x; }
};
struct Bf16 {
  using Type = uint16_t;
  static float load(uint16_t x) { return bf16_to_f32(x); }
  static uint16_t store(float x) { return f32_to_bf16(x); }
};
struct F16 {
  using Type = uint16_t;
  static float load(uint16_t x) { return f16_to_f32(x); }
  static uint16_t store(float x) { return f32_to_f16(x); }
};

// A rectangle of dw, and the pixels that it is summed over.
struct Item {
  int64_t slice, first, last;  // pixels
  int64_t x_channel, dy_channel, ins, outs, c, k;
};

// sums[i, k] = sum over pixels of x[pixel, i] dy[pixel, k]
template <int Rows, int Vectors>
inline void tile(int64_t rows, int64_t outs, int64_t pixels, const float* x, int64_t x_step,
                 const float* dy, float* sums) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile<Rows - 1, Vectors>(rows, outs, pixels, x, x_step, dy, sums);
  if constexpr (Vectors > 1)
    if (outs <= (Vectors - 1) * kMaxLanes)
      return tile<Rows, Vectors - 1>(rows, outs, pixels, x, x_step, dy, sums);
  using V = Lanes<kMaxLanes>::Float;
  V sum[Rows][Vectors] = {};
  for (int64_t pixel = 0; pixel < pixels; pixel++) {
    V right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) right[v] = load<V>(dy + pixel * kPanel + v * kMaxLanes);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; i++) {
      const float left = x[pixel * x_step + i];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) sum[i][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(sums + i * kPanel + v * kMaxLanes, sum[i][v]);
}

template <class S>
class Gradient {
 public:
  using T = typename S::Type;
  Gradient(const PixelsPlan& plan, const void* x, const void* dy, float* scratch)
      : p_(plan),
        cut_(plan),
        x_(static_cast<const T*>(x)),
        dy_(static_cast<const T*>(dy)),
        copies_(scratch),
        sums_(scratch + plan.threads * kCopies) {}

  void run(void* dw) {
    const int64_t count = cut_.slices * p_.groups * cut_.in_count * cut_.out_count;
    const int64_t size = p_.groups * p_.in * p_.out;
    const int64_t work = cut_.pixels * p_.groups * p_.in * p_.out / 4;
    T* to = static_cast<T*>(dw);
    parallel(count, work, [&](int64_t i, int thread) { sum(item(i), thread); });
    parallel_pieces(size, 4096, size * cut_.slices, [&](int64_t begin, int64_t end) {
      for (int64_t s = 1; s < cut_.slices; s++)
#pragma omp simd
        for (int64_t i = begin; i < end; i++) sums_[i] += sums_[s * size + i];
#pragma omp simd
      for (int64_t i = begin; i < end; i++) to[i] = S::store(sums_[i]);
    });
  }

 private:
  Item item(int64_t i) const {
    Item item;
    const int64_t out = i % cut_.out_count * cut_.out_size;
    i /= cut_.out_count;
    const int64_t in = i % cut_.in_count * cut_.in_size;
    i /= cut_.in_count;
    const int64_t group = i % p_.groups;
    item.slice = i / p_.groups;
    item.first = item.slice * cut_.pixels / cut_.slices;
    item.last = (item.slice + 1) * cut_.pixels / cut_.slices;
    item.ins = least(cut_.in_size, p_.in - in);
    item.outs = least(cut_.out_size, p_.out - out);
    item.x_channel = group * p_.in + in, item.dy_channel = group * p_.out + out;
    item.c = in, item.k = item.dy_channel;
    return item;
  }

  // Goes from pixel to pixel, over x and dy at once.
  class Walk {
   public:
    Walk(const Gradient& g, const Item& item, int64_t pixel)
        : g_(g), x_channel_(item.x_channel), dy_channel_(item.dy_channel) {
      j_ = pixel % g.cut_.cols.size(), i_ = pixel / g.cut_.cols.size();
      n_ = i_ / g.cut_.rows.size(), i_ %= g.cut_.rows.size();
      place();
    }
    const T* x() const { return x_; }
    const T* dy() const { return dy_; }
    void next() {
      x_ += g_.p_.stride_cols * g_.p_.x_pixel, dy_ += g_.p_.dy_pixel;
      if (++j_ < g_.cut_.cols.size()) return;
      j_ = 0;
      if (++i_ == g_.cut_.rows.size()) i_ = 0, n_++;
      place();
    }

   private:
    void place() {
      const PixelsPlan& p = g_.p_;
      const int64_t row = g_.cut_.rows.begin + i_, col = g_.cut_.cols.begin + j_;
      const int64_t y = row * p.stride_rows - p.top, z = col * p.stride_cols - p.left;
      x_ = g_.x_ + ((n_ * p.height + y) * p.width + z) * p.x_pixel + x_channel_;
      dy_ = g_.dy_ + ((n_ * p.rows + row) * p.cols + col) * p.dy_pixel + dy_channel_;
    }

    const Gradient& g_;
    int64_t x_channel_, dy_channel_, n_, i_, j_;
    const T *x_, *dy_;
  };

  // Block after block of pixels, each summed in registers: the rounding errors of long sums grow
  // with the number of blocks. The next block is asked for meanwhile.
  void sum(const Item& item, int thread) {
    float* x = copies_ + thread * kCopies;
    float* dy = x + kPixels * kIn;
    const int64_t row = p_.groups * p_.out;
    float* dw = sums_ + (item.slice * p_.in + item.c) * row + item.k;
    for (int64_t c = 0; c < item.ins; c++)
      for (int64_t k = 0; k < item.outs; k++) dw[c * row + k] = 0;
    const int64_t strips = divide_up(item.ins, kTile), panels = divide_up(item.outs, kPanel);
    const int64_t blocks = divide_up(item.last - item.first, kPixels);
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t first = item.first + block * (item.last - item.first) / blocks;
      const int64_t pixels = item.first + (block + 1) * (item.last - item.first) / blocks - first;
      gather(first, pixels, item, x, dy);
      int64_t ahead = first + pixels;
      Walk walk(*this, item, ahead);
      const int64_t each = divide_up(pixels, strips * panels);
      for (int64_t panel = 0; panel < panels; panel++) {
        const int64_t out = panel * kPanel, outs = least(kPanel, item.outs - out);
        for (int64_t strip = 0; strip < strips; strip++) {
          const int64_t c = strip * item.ins / strips, rows = (strip + 1) * item.ins / strips - c;
          for (int64_t i = 0; i < each && ahead < item.last; i++, ahead++, walk.next())
            ask(walk, item);
          alignas(64) float sums[kTile * kPanel];
          tile<kTile, kVectors>(rows, outs, pixels, x + c, item.ins, dy + out * pixels, sums);
          for (int64_t i = 0; i < rows; i++)
#pragma omp simd
            for (int64_t k = 0; k < outs; k++) dw[(c + i) * row + out + k] += sums[i * kPanel + k];
        }
      }
    }
  }

  static void ask(const Walk& walk, const Item& item) {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t c = 0; c < item.ins; c += kLine) __builtin_prefetch(walk.x() + c, 0, 2);
    for (int64_t k = 0; k < item.outs; k += kLine) __builtin_prefetch(walk.dy() + k, 0, 2);
  }

  // x [pixels, ins], and dy in panels [pixels, kPanel], zeros beyond its last channel.
  void gather(int64_t first, int64_t pixels, const Item& item, float* x, float* dy) const {
    Walk walk(*this, item, first);
    for (int64_t pixel = 0; pixel < pixels; pixel++, walk.next()) {
      const T* from = walk.x();
#pragma omp simd
      for (int64_t c = 0; c < item.ins; c++) x[pixel * item.ins + c] = S::load(from[c]);
      from = walk.dy();
      for (int64_t k = 0; k < item.outs; k += kPanel) {
        float* to = dy + k * pixels + pixel * kPanel;
        const int64_t outs = least(kPanel, item.outs - k);
#pragma omp simd
        for (int64_t i = 0; i < outs; i++) to[i] = S::load(from[k + i]);
        for (int64_t i = outs; i < kPanel; i++) to[i] = 0;
      }
    }
  }

  const PixelsPlan& p_;
  Cut cut_;
  const T *x_, *dy_;
  float *copies_, *sums_;
};

void weight_gradient(const PixelsPlan& plan, const void* x, const void* dy, void* dw,
                     float* scratch) {
  switch (plan.dtype) {
    case PixelDType::f32:
      return Gradient<F32>(plan, x, dy, scratch).run(dw);
    case PixelDType::bf16:
      return Gradient<Bf16>(plan, x, dy, scratch).run(dw);
    case PixelDType::f16:
      return Gradient<F16>(plan, x, dy, scratch).run(dw);
  }
}

}  // namespace

extern const PixelsLoops pixels_loops_table = {weight_gradient, scratch};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
