#include "short_sums.h"

#include "parallel.h"
#include "product.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kRun = 16;     // channels
constexpr int64_t kPixels = 48;  // of a piece of work

// The first result along an axis whose window's tap lies inside, and the one after the last.
struct Range {
  int64_t begin, end;
};
Range inside(const ShortSumsPlan& p, int axis, int64_t tap) {
  int64_t shift = tap * p.dilation[axis] - p.pad[axis], stride = p.strides[axis];
  int64_t begin = shift < 0 ? (-shift + stride - 1) / stride : 0;
  int64_t last = p.size[axis] - 1 - shift;
  int64_t end = last < 0 ? 0 : last / stride + 1;
  return {begin, end < p.out[axis] ? end : p.out[axis]};
}

void conv_row(const ShortSumsPlan& p, const float* image, const float* w, const float* bias,
              int64_t row, float* y) {
  for (int64_t j = 0; j < p.out[1]; j++)
    for (int64_t k = 0; k < p.filters; k++) y[j * p.y_pixel + k] = 0;
  for (int64_t a = 0; a < p.taps[0]; a++) {
    Range rows = inside(p, 0, a);
    if (row < rows.begin || row >= rows.end) continue;
    int64_t line = (row * p.strides[0] + a * p.dilation[0] - p.pad[0]) * p.size[1];
    for (int64_t b = 0; b < p.taps[1]; b++) {
      Range cols = inside(p, 1, b);
      if (cols.begin >= cols.end) continue;
      int64_t first = cols.begin * p.strides[1] + b * p.dilation[1] - p.pad[1];
      product({.a = image + (line + first) * p.x_pixel,
               .a_row = p.strides[1] * p.x_pixel,
               .a_step = 1,
               .b = w + (a * p.taps[1] + b) * p.channels * p.filters,
               .b_step = p.filters,
               .b_vector = kMaxLanes,
               .c = y + cols.begin * p.y_pixel,
               .c_row = p.y_pixel,
               .depth = p.channels,
               .run = kRun,
               .add = true},
              cols.end - cols.begin, p.filters / kMaxLanes);
    }
  }
  for (int64_t j = 0; bias && j < p.out[1]; j++)
    for (int64_t k = 0; k < p.filters; k++) y[j * p.y_pixel + k] += bias[k];
}

// Windows of a pixel that do not stride: a product of all pixels and the filters.
bool pointwise(const ShortSumsPlan& p) {
  for (int axis = 0; axis < 2; axis++)
    if (p.taps[axis] != 1 || p.strides[axis] != 1 || p.pad[axis] != 0 ||
        p.size[axis] != p.out[axis])
      return false;
  return true;
}

void conv(const ShortSumsPlan& p, const float* x, const float* w, const float* bias, float* y) {
  int64_t rows = p.batch * p.out[0];
  int64_t work = rows * p.out[1] * p.filters * p.taps[0] * p.taps[1] * p.channels;
  if (!pointwise(p))
    return parallel(rows, work, [&](int64_t r) {
      const float* image = x + r / p.out[0] * p.size[0] * p.size[1] * p.x_pixel;
      conv_row(p, image, w, bias, r % p.out[0], y + r * p.out[1] * p.y_pixel);
    });
  parallel_pieces(rows * p.out[1], kPixels, work, [&](int64_t begin, int64_t end) {
    ShortSumsPlan piece = p;
    piece.size[0] = piece.out[0] = 1;
    piece.size[1] = piece.out[1] = end - begin;
    conv_row(piece, x + begin * p.x_pixel, w, bias, 0, y + begin * p.y_pixel);
  });
}

void turn(const float* w, float* turned, int64_t taps, int64_t channels, int64_t filters) {
  int64_t size = channels * filters;
  parallel(taps, taps * size, [&](int64_t tap) {
    const float* from = w + (taps - 1 - tap) * size;
    float* to = turned + tap * size;
    for (int64_t c = 0; c < channels; c++)
      for (int64_t k = 0; k < filters; k++) to[c * filters + k] = from[k * channels + c];
  });
}

}  // namespace

extern const ShortSumsLoops short_sums_loops_table = {conv, turn};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
