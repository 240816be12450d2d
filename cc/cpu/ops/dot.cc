// dot(left, right) {batch, contract}: lax.dot_general, result axes batch, left's free, right's
// free.
#include "cpu/loops/dot.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "align.h"
#include "cpu/device.h"
#include "cpu/isa.h"
#include "cpu/onednn/product.h"
#include "cpu/threads.h"
#include "ir/product.h"

namespace jax_mps::cpu {
namespace {

constexpr int64_t kSmallProduct = 32 * 1024;  // multiply-adds below which oneDNN's call costs more

// Copied into the order of its groups, a side is [batch, rows, cols] row-major.
Side packed(const Side& side) {
  Side copy = side;
  copy.stride[2] = 1, copy.stride[1] = side.size[2], copy.stride[0] = side.size[1] * side.size[2];
  return copy;
}

class SmallDot : public Kernel {
 public:
  explicit SmallDot(const Product& p) {
    plan_ = {p.batch(), p.m(), p.k(), p.n(), {}, {}};
    for (int i = 0; i < 3; i++)
      plan_.left[i] = p.left.stride[i], plan_.right[i] = p.right.stride[i];
  }
  std::string implementation() const override { return std::string("small product ") + isa_name(); }
  void run(const Buffers& b) const override {
    dot_loops().product(plan_, b.input<float>(0), b.input<float>(1), b.output<float>(0));
  }

 private:
  DotPlan plan_;
};

Offer small_dot(const Node& node) {
  Product p = product_of(node);
  for (const TensorType& type : {node.in[0], node.in[1], node.out[0]})
    if (type.dtype != DType::f32) return Offer::none("the small product takes float32");
  if (node.out[0].row) return Offer::none("the small product writes rows that follow one another");
  if (!p.left.collapses || !p.right.collapses)
    return Offer::none("the small product takes axes that collapse");
  if (static_cast<double>(p.batch() * p.m() * p.k()) * p.n() > kSmallProduct)
    return Offer::none("the product is not small");
  return Offer(std::make_unique<SmallDot>(p));
}

#ifdef JAX_MPS_ONEDNN

using dnnl::memory;

// One side as oneDNN sees it, after a copy into scratch where its own order does not do.
struct Bound {
  MatrixProduct::Array matrix;
  std::optional<Reorder> pack;
  size_t offset = 0;
};

// oneDNN's fast products take a matrix whose rows or columns are consecutive.
bool is_matrix(const Side& side) {
  bool vector = side.size[1] == 1 || side.size[2] == 1;
  return side.collapses && (vector || side.stride[1] == 1 || side.stride[2] == 1);
}

Bound bind(const TensorType& type, Side side, memory::data_type dtype, size_t& scratch) {
  Bound bound;
  if (!is_matrix(side)) {
    Dims dims, from;
    Axes strides = strides_of(type);
    for (int64_t axis : side.order) {
      dims.push_back(type.shape[axis]);
      from.push_back(strides[axis]);
    }
    const memory::desc given(dims, dtype, from), copy(dims, dtype, row_major(dims));
    const int widest = static_cast<int>(std::ranges::max_element(dims) - dims.begin());
    bound.pack.emplace(given, copy, widest);
    bound.offset = std::exchange(scratch, scratch + align_up(copy.get_size()));
    side = packed(side);
  }
  bound.matrix = {dtype, side.stride[0], side.stride[1], side.stride[2]};
  return bound;
}

class OneDnnDot : public Kernel {
 public:
  OneDnnDot(Parts parts, Bound left, Bound right, size_t pack_bytes)
      : parts_(std::move(parts)), pack_bytes_(pack_bytes) {
    sides_[0] = std::move(left), sides_[1] = std::move(right);
  }
  std::string implementation() const override { return parts_.name(); }
  size_t scratch_bytes() const override { return pack_bytes_ + parts_.scratch_bytes(); }
  void run(const Buffers& b) const override {
    void* arrays[3] = {const_cast<void*>(b.in[0]), const_cast<void*>(b.in[1]), b.out[0]};
    for (int i = 0; i < 2; i++) {
      const Bound& side = sides_[i];
      if (!side.pack) continue;
      void* copy = b.scratch + side.offset;
      share(side.pack->pieces(),
            [&](int64_t piece, int) { side.pack->run(piece, arrays[i], copy, parts_.name()); });
      arrays[i] = copy;
    }
    parts_.run(arrays, b.scratch + pack_bytes_);
  }

 private:
  Parts parts_;
  Bound sides_[2];
  size_t pack_bytes_;
};

Offer onednn_dot(const Node& node) {
  Product p = product_of(node);
  auto dtype = onednn_dtype(node.in[0].dtype), result = onednn_dtype(node.out[0].dtype);
  if (!dtype || !result || node.in[0].dtype != node.in[1].dtype ||
      (node.in[0].dtype == DType::f32 && node.out[0].dtype != DType::f32))
    return Offer::none("oneDNN has no native product of " + node.in[0].text() + " and " +
                       node.in[1].text());
  if (!fits_onednn(node)) return Offer::none(kTooLarge);
  if (node.in[0].rank() > 12 || node.in[1].rank() > 12)
    return Offer::none("the product takes arrays of up to 12 axes");
  size_t scratch = 0;
  if (node.out[0].row && (p.right.order.empty() || node.out[0].dim(-1) != p.n()))
    return Offer::none("rows apart are of one axis of right");
  Bound left = bind(node.in[0], p.left, *dtype, scratch);
  Bound right = bind(node.in[1], p.right, *dtype, scratch);
  int64_t row = node.out[0].row ? node.out[0].row : p.n();
  auto parts = product_parts({.batch = p.batch(),
                              .m = p.m(),
                              .k = p.k(),
                              .n = p.n(),
                              .a = left.matrix,
                              .b = right.matrix,
                              .c = {*result, p.m() * row, row, 1}});
  if (!parts) return Offer::none("oneDNN has no product of these shapes");
  return Offer(
      std::make_unique<OneDnnDot>(std::move(*parts), std::move(left), std::move(right), scratch));
}

#endif

const Register kDot("dot",
                    {
                        small_dot,
#ifdef JAX_MPS_ONEDNN
                        onednn_dot,
#endif
                    },
                    /*pitched_rows=*/true);

}  // namespace
}  // namespace jax_mps::cpu
