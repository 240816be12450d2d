#include "pool.h"

#include "lanes.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

enum class Pool { max, max_taps, pick, average, l2 };

// f(n, row) for every row of `rows` in each of the batch.
template <class F>
void over_rows(int64_t batch, int64_t rows, int64_t work, const F& f) {
  int64_t grain = batch * rows * 16 * 1024 / (work + 1) + 1;
  parallel_pieces(batch * rows, grain, work, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) f(r / rows, r % rows);
  });
}

// One window for N channels: x points at the first tap seen. H and W are the window's size where it
// is a constant and wholly inside x, else 0.
template <Pool P, int N, int H, int W, class T>
inline void one_window(const float* x, int64_t down, int64_t right, const PoolSpan& ys,
                       const PoolSpan& xs, int64_t width, float* y, T* taps) {
  using Float = typename Lanes<N>::Float;
  using Int = typename Lanes<N>::Int;
  int32_t top = H ? 0 : ys.first, left = W ? 0 : xs.first;
  int32_t bottom = H ? H : ys.last, end = W ? W : xs.last;
  Float result = Float{} + (P == Pool::max || P == Pool::max_taps ? -__builtin_inff() : 0.0f);
  Int tap = Int{} + static_cast<int32_t>(top * width + left);
  if constexpr (P == Pool::pick) tap = load_integers<N>(taps);
  for (int32_t p = top; p < bottom; p++, x += down) {
    const float* pixel = x;
    for (int32_t q = left; q < end; q++, pixel += right) {
      Float v = load<Float>(pixel);
      Int here = Int{} + static_cast<int32_t>(p * width + q);
      if constexpr (P == Pool::max) result = ((result > v) | (result != result)) ? result : v;
      if constexpr (P == Pool::max_taps) {
        auto better = ((v > result) | (v != v)) & (result == result);  // the first NaN stays
        tap = better ? here : tap;
        result = better ? v : result;
      }
      if constexpr (P == Pool::pick) result = tap == here ? v : result;
      if constexpr (P == Pool::average) result += v;
      if constexpr (P == Pool::l2) result += v * v;
    }
  }
  // Divided, so that equal pixels have themselves as their mean; halves are exact in any way.
  if constexpr (P == Pool::average && H == 2 && W == 2)
    result *= 0.25f;
  else if constexpr (P == Pool::average)
    result /= ys.count * xs.count;
  store(y, result);
  if constexpr (P == Pool::max_taps) store_integers<N>(taps, tap);
}

template <Pool P, int N, int H, int W, class T>
inline void one_output(const PoolShape& s, const float* x, const PoolSpan& ys, const PoolSpan& xs,
                       float* y, T* taps) {
  int64_t down = s.y.dilation * s.x.in * s.channels, right = s.x.dilation * s.channels;
  over_channels<N>(s.channels, [&](int64_t c) {
    one_window<P, N, H, W>(x + c, down, right, ys, xs, s.x.window, y + c, taps ? taps + c : taps);
  });
}

// A window that is cut, beside those of constant size: apart, so that each is compiled once.
template <Pool P, int N, class T>
[[gnu::noinline]] void cut_output(const PoolShape& s, const float* x, const PoolSpan& ys,
                                  const PoolSpan& xs, float* y, T* taps) {
  one_output<P, N, 0, 0>(s, x, ys, xs, y, taps);
}

template <Pool P, int N, int H, int W, class T>
[[gnu::noinline]] void one_row(const PoolShape& s, const float* x, float* y, T* taps, int64_t n,
                               int64_t oy) {
  const PoolSpan ys = s.y.spans[oy];
  const float* rows = x + (n * s.y.in + ys.start) * s.x.in * s.channels;
  int64_t first = (n * s.y.out + oy) * s.x.out * s.channels;
  for (int64_t ox = 0; ox < s.x.out; ox++) {
    const PoolSpan xs = s.x.spans[ox];
    int64_t out = first + ox * s.channels;
    const float* seen = rows + xs.start * s.channels;
    T* out_taps = taps ? taps + out : taps;
    if (!H || (ys.last - ys.first == H && xs.last - xs.first == W))
      one_output<P, N, H, W>(s, seen, ys, xs, y + out, out_taps);
    else
      cut_output<P, N>(s, seen, ys, xs, y + out, out_taps);
  }
  if constexpr (P == Pool::l2) {
    float* row = y + first;
#pragma omp simd
    for (int64_t i = 0; i < s.x.out * s.channels; i++) row[i] = __builtin_sqrtf(row[i]);
  }
}

template <Pool P, int H, int W, class T>
void forward_of(const PoolShape& s, const float* x, float* y, T* taps) {
  int64_t work = s.batch * s.y.out * s.x.out * s.channels * s.y.window * s.x.window;
  with_lanes(s.channels, [&]<int N>() {
    over_rows(s.batch, s.y.out, work,
              [&](int64_t n, int64_t oy) { one_row<P, N, H, W>(s, x, y, taps, n, oy); });
  });
}

template <Pool P, class T>
void forward(const PoolShape& s, const float* x, float* y, T* taps) {
  // The pools of convolutional networks, which keep a byte for a tap.
  if constexpr (sizeof(T) == 1 && P != Pool::pick && P != Pool::l2) {
    if (s.y.window == 2 && s.x.window == 2) return forward_of<P, 2, 2>(s, x, y, taps);
    if (s.y.window == 3 && s.x.window == 3) return forward_of<P, 3, 3>(s, x, y, taps);
  }
  forward_of<P, 0, 0>(s, x, y, taps);
}

void max(const PoolShape& s, const float* x, float* y) {
  forward<Pool::max, uint8_t>(s, x, y, nullptr);
}
void average(const PoolShape& s, const float* x, float* y) {
  forward<Pool::average, uint8_t>(s, x, y, nullptr);
}
void l2(const PoolShape& s, const float* x, float* y) {
  forward<Pool::l2, uint8_t>(s, x, y, nullptr);
}
template <class T>
void max_taps(const PoolShape& s, const float* x, float* y, T* taps) {
  forward<Pool::max_taps, T>(s, x, y, taps);
}
template <class T>
void pick(const PoolShape& s, const float* x, const T* taps, float* y) {
  forward<Pool::pick, const T>(s, x, y, taps);
}

// The backward pass goes over the pixels of dx and gathers from the windows that see each: every
// pixel is written once, by one thread, whatever the windows overlap or leave out. f(out, tap,
// share, c) gives what one window adds.
template <int N, class F, class G>
inline void one_pixel(const PoolShape& s, const PoolHit* y, const PoolHit* y_end, const PoolHit* x,
                      const PoolHit* x_end, int64_t image, const F& add, const G& put) {
  using Float = typename Lanes<N>::Float;
  over_channels<N>(s.channels, [&](int64_t c) {
    Float sum = Float{};
    for (const PoolHit* v = y; v < y_end; v++)
      for (const PoolHit* u = x; u < x_end; u++) {
        int64_t out = ((image + v->out) * s.x.out + u->out) * s.channels + c;
        sum += add(out, static_cast<int32_t>(v->tap * s.x.window + u->tap), v->share * u->share);
      }
    put(c, sum);
  });
}

template <Pool P, int N, class A>
[[gnu::noinline]] void one_row_of_pixels(const PoolShape& s, const float* times, float* dx,
                                         const A& add, int64_t n, int64_t iy) {
  using Float = typename Lanes<N>::Float;
  const PoolHit *y = s.y.hits + s.y.hits_end[iy], *y_end = s.y.hits + s.y.hits_end[iy + 1];
  int64_t row = (n * s.y.in + iy) * s.x.in;
  float area = static_cast<float>(s.y.window) * static_cast<float>(s.x.window);
  for (int64_t ix = 0; ix < s.x.in; ix++) {
    const PoolHit *x = s.x.hits + s.x.hits_end[ix], *x_end = s.x.hits + s.x.hits_end[ix + 1];
    int64_t in = (row + ix) * s.channels;
    auto put = [&](int64_t c, Float sum) {
      if constexpr (P == Pool::average) sum /= area;
      if constexpr (P == Pool::l2) sum *= load<Float>(times + in + c);
      store(dx + in + c, sum);
    };
    if (y_end - y == 1 && x_end - x == 1)
      one_pixel<N>(s, y, y + 1, x, x + 1, n * s.y.out, add, put);
    else
      one_pixel<N>(s, y, y_end, x, x_end, n * s.y.out, add, put);
  }
}

// make_add.template operator()<N>() gives the function that is `add` above; `times` multiplies an
// L2 pool's dx.
template <Pool P, class M>
void backward(const PoolShape& s, const float* times, float* dx, const M& make_add) {
  int64_t work = s.batch * s.y.in * s.x.in * s.channels;
  with_lanes(s.channels, [&]<int N>() {
    auto add = make_add.template operator()<N>();
    over_rows(s.batch, s.y.in, work,
              [&](int64_t n, int64_t iy) { one_row_of_pixels<P, N>(s, times, dx, add, n, iy); });
  });
}

template <class T>
void max_gradient(const PoolShape& s, const float* dy, const T* taps, float* dx) {
  backward<Pool::max>(s, nullptr, dx, [=]<int N>() {
    return [=](int64_t out, int32_t tap, float) {
      using Float = typename Lanes<N>::Float;
      return load_integers<N>(taps + out) == tap ? load<Float>(dy + out) : Float{};
    };
  });
}

void average_gradient(const PoolShape& s, const float* dy, float* dx) {
  backward<Pool::average>(s, nullptr, dx, [=]<int N>() {
    return [=](int64_t out, int32_t, float share) {
      return load<typename Lanes<N>::Float>(dy + out) * share;
    };
  });
}

void l2_gradient(const PoolShape& s, const float* dy, const float* x, const float* y, float* dx) {
  backward<Pool::l2>(s, x, dx, [=]<int N>() {
    return [=](int64_t out, int32_t, float) {
      using Float = typename Lanes<N>::Float;
      Float norm = load<Float>(y + out);
      return norm == 0 ? Float{} : load<Float>(dy + out) / norm;
    };
  });
}

}  // namespace

extern const PoolLoops pool_loops_table = {
    max, max_taps<uint8_t>,     max_taps<int32_t>,     pick<uint8_t>,    pick<int32_t>, average,
    l2,  max_gradient<uint8_t>, max_gradient<int32_t>, average_gradient, l2_gradient,
};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
