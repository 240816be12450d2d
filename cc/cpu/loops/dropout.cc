#include "dropout.h"

#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

inline uint32_t rotate_left(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

// threefry2x32 with 20 rounds of the counter (hi, lo); the halves are joined as JAX joins them for
// 32-bit draws.
struct Threefry {
  uint32_t key[3];

  explicit Threefry(const uint32_t* k) : key{k[0], k[1], k[0] ^ k[1] ^ 0x1bd11bdau} {}

  uint32_t operator()(uint32_t hi, uint32_t lo) const {
    uint32_t x = hi + key[0], y = lo + key[1];
    auto rounds = [&](int a, int b, int c, int d) {
      x += y, y = x ^ rotate_left(y, a);
      x += y, y = x ^ rotate_left(y, b);
      x += y, y = x ^ rotate_left(y, c);
      x += y, y = x ^ rotate_left(y, d);
    };
    rounds(13, 15, 26, 6), x += key[1], y += key[2] + 1;
    rounds(17, 29, 16, 24), x += key[2], y += key[0] + 2;
    rounds(13, 15, 26, 6), x += key[0], y += key[1] + 3;
    rounds(17, 29, 16, 24), x += key[1], y += key[2] + 4;
    rounds(13, 15, 26, 6), x += key[2], y += key[0] + 5;
    return x ^ y;
  }
};

// f(draw, begin, end) over n elements, draw(i - begin) being the draw of element i. The counters of
// a piece share the upper word, because its size divides 2^32.
template <class F>
inline void parallel_draws(int64_t n, const uint32_t* key, const F& f) {
  parallel_pieces(n, 8 * 1024, n, [&](int64_t begin, int64_t end) {
    Threefry threefry(key);
    auto hi = static_cast<uint32_t>(begin >> 32), lo = static_cast<uint32_t>(begin);
    f([=](int64_t i) { return threefry(hi, lo + static_cast<uint32_t>(i)); }, begin, end);
  });
}

void apply(const float* x, float* y, int64_t n, const uint32_t* key, uint32_t threshold,
           float keep) {
  parallel_draws(n, key, [=](auto draw, int64_t begin, int64_t end) {
    const float* from = x + begin;
    float* to = y + begin;
#pragma omp simd
    for (int64_t i = 0; i < end - begin; i++) {
      float kept =
          from[i] / keep;  // before the choice: a load that depends on it would not vectorise
      to[i] = (draw(i) >> 9) < threshold ? kept : 0.0f;
    }
  });
}

void bits(uint32_t* y, int64_t n, const uint32_t* key) {
  parallel_draws(n, key, [=](auto draw, int64_t begin, int64_t end) {
    uint32_t* to = y + begin;
#pragma omp simd
    for (int64_t i = 0; i < end - begin; i++) to[i] = draw(i);
  });
}

void mask(uint8_t* mask, int64_t n, const uint32_t* key, uint32_t threshold) {
  parallel_draws(n, key, [=](auto draw, int64_t begin, int64_t end) {
    uint8_t* to = mask + begin;
#pragma omp simd
    for (int64_t i = 0; i < end - begin; i++) to[i] = (draw(i) >> 9) < threshold;
  });
}

void broadcast(const float* x, const uint8_t* mask, float* y, const int64_t* sizes,
               const uint8_t* masked, int rank, float keep) {
  int64_t inner = sizes[rank - 1], rows = 1;
  for (int axis = 0; axis < rank - 1; axis++) rows *= sizes[axis];
  int64_t grain = inner < 16 * 1024 ? 16 * 1024 / inner : 1;
  parallel_pieces(rows, grain, rows * inner, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      int64_t at = 0, rest = row, stride = masked[rank - 1] ? inner : 1;
      for (int axis = rank - 2; axis >= 0; axis--) {
        if (masked[axis]) at += rest % sizes[axis] * stride, stride *= sizes[axis];
        rest /= sizes[axis];
      }
      const float* from = x + row * inner;
      float* to = y + row * inner;
      if (masked[rank - 1]) {
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) {
          float kept = from[i] / keep;
          to[i] = mask[at + i] ? kept : 0.0f;
        }
      } else if (mask[at]) {
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) to[i] = from[i] / keep;
      } else {
        for (int64_t i = 0; i < inner; i++) to[i] = 0;
      }
    }
  });
}

}  // namespace

extern const DropoutLoops dropout_loops_table = {apply, bits, mask, broadcast};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
