#include "shape_ops.h"

#include <cstring>

#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

template <class T>
void copy_row(const T* x, T* y, int64_t n, int64_t from, int64_t to) {
  if (from == 1 && to == 1) {
    std::memcpy(y, x, n * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < n; i++) y[i * to] = x[i * from];
}

template <class T>
void copy_box(const Box& box, const void* x, void* y) {
  auto* in = static_cast<const T*>(x) + box.from_offset;
  auto* out = static_cast<T*>(y) + box.to_offset;
  int last = box.rank - 1;
  int64_t rows = 1, row = box.size[last];
  for (int axis = 0; axis < last; axis++) rows *= box.size[axis];
  constexpr int64_t kPiece = 16 * 1024;
  if (rows == 1) {
    parallel_pieces(row, kPiece, row, [&](int64_t begin, int64_t end) {
      copy_row(in + begin * box.from[last], out + begin * box.to[last], end - begin, box.from[last],
               box.to[last]);
    });
    return;
  }
  int64_t grain = kPiece / row > 1 ? kPiece / row : 1;
  parallel_pieces(rows, grain, rows * row, [&](int64_t begin, int64_t end) {
    int64_t index[kBoxRank], from = 0, to = 0, rest = begin;
    for (int axis = last - 1; axis >= 0; axis--) {
      index[axis] = rest % box.size[axis];
      rest /= box.size[axis];
      from += index[axis] * box.from[axis];
      to += index[axis] * box.to[axis];
    }
    for (int64_t r = begin; r < end; r++) {
      copy_row(in + from, out + to, row, box.from[last], box.to[last]);
      for (int axis = last - 1; axis >= 0; axis--) {
        from += box.from[axis];
        to += box.to[axis];
        if (++index[axis] < box.size[axis]) break;
        from -= box.from[axis] * box.size[axis];
        to -= box.to[axis] * box.size[axis];
        index[axis] = 0;
      }
    }
  });
}

void copy(const Box& box, int width, const void* x, void* y) {
  if (width == 1) return copy_box<uint8_t>(box, x, y);
  if (width == 2) return copy_box<uint16_t>(box, x, y);
  copy_box<uint32_t>(box, x, y);
}

template <class T>
void fill_all(const void* value, void* y, int64_t n) {
  T v = *static_cast<const T*>(value);
  auto* out = static_cast<T*>(y);
  parallel_elements(n, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) out[i] = v;
  });
}

void fill(const void* value, int width, void* y, int64_t n) {
  if (width == 1) return fill_all<uint8_t>(value, y, n);
  if (width == 2) return fill_all<uint16_t>(value, y, n);
  fill_all<uint32_t>(value, y, n);
}

void label_gather(const float* x, const int32_t* index, float* y, int64_t rows, int64_t classes) {
  parallel_elements(rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      int64_t at = index[r];
      y[r] = at >= 0 && at < classes ? x[r * classes + at] : __builtin_nanf("");
    }
  });
}

void label_gather_gradient(const float* dy, const int32_t* index, float* dx, int64_t rows,
                           int64_t classes) {
  constexpr int64_t kPiece = 16 * 1024;
  int64_t grain = kPiece / classes > 1 ? kPiece / classes : 1;
  parallel_pieces(rows, grain, rows * classes, [&](int64_t begin, int64_t end) {
    std::memset(dx + begin * classes, 0, (end - begin) * classes * sizeof(float));
    for (int64_t r = begin; r < end; r++) {
      int64_t at = index[r];
      if (at >= 0 && at < classes) dx[r * classes + at] = dy[r];
    }
  });
}

}  // namespace

extern const ShapeLoops shape_loops_table = {copy, fill, label_gather, label_gather_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
