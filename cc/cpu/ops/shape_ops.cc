// Ops that only move elements: pad, concatenate, pick and its gradient.
#include "cpu/loops/shape_ops.h"

#include <algorithm>

#include "cpu/device.h"
#include "ir/require.h"

namespace jax_mps::cpu {
namespace {

std::string name(const char* what) { return std::string(what) + " " + isa_name(); }

std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t a = shape.size(); a-- > 0; stride *= shape[a]) strides[a] = stride;
  return strides;
}

// Axes of one step go, and neighbours that step as one merge.
BoxCopy merged(const BoxCopy& box) {
  BoxCopy result = box;
  result.rank = 0;
  for (int a = 0; a < box.rank; a++) {
    if (box.size[a] == 1) continue;
    int last = result.rank - 1;
    bool merges = last >= 0 && result.from[last] == box.from[a] * box.size[a] &&
                  result.to[last] == box.to[a] * box.size[a];
    if (merges) {
      result.size[last] *= box.size[a];
    } else {
      result.size[++last] = box.size[a];
      result.rank++;
    }
    result.from[last] = box.from[a], result.to[last] = box.to[a];
  }
  if (result.rank == 0) {
    result.rank = 1;
    result.size[0] = 1, result.from[0] = result.to[0] = 1;
  }
  return result;
}

class Pad : public Kernel {
 public:
  Pad(const BoxCopy& box, bool any, bool whole, int64_t elements)
      : box_(box), any_(any), whole_(whole), elements_(elements) {}
  std::string implementation() const override { return name("pad"); }
  void run(const Buffers& b) const override {
    if (!whole_) shape_loops().fill(b.in[1], box_.width, b.out[0], elements_);
    if (any_) shape_loops().copy(box_, b.in[0], b.out[0]);
  }

 private:
  BoxCopy box_;
  bool any_, whole_;  // some of the operand is in the result; the operand covers the result
  int64_t elements_;
};

Offer pad(const Node& node) {
  const TensorType &x = node.in[0], &y = node.out[0];
  std::vector<int64_t> config = node.attributes.integers("config");
  if (x.rank() > kShapeRank) return Offer::none("pad takes up to 12 axes");
  auto from = row_major(x.shape), to = row_major(y.shape);
  BoxCopy box{};
  box.rank = x.rank(), box.width = static_cast<int>(size_of(x.dtype));
  bool any = true;
  for (int a = 0; a < x.rank() && any; a++) {
    int64_t low = config[3 * a], step = config[3 * a + 2] + 1;
    // Element i goes to low + i * step, if that is inside.
    int64_t first = low < 0 ? (-low + step - 1) / step : 0;
    int64_t room = y.shape[a] - 1 - low;
    int64_t last = room < 0 ? -1 : std::min(x.shape[a] - 1, room / step);
    any = first <= last;
    if (!any) break;
    box.size[a] = last - first + 1;
    box.from[a] = from[a], box.to[a] = first < last ? to[a] * step : to[a];
    box.from_offset += first * from[a], box.to_offset += (low + first * step) * to[a];
  }
  int64_t covered = 1;
  for (int a = 0; a < box.rank && any; a++) covered *= box.size[a];
  bool whole = any && covered == y.elements();
  return Offer(std::make_unique<Pad>(any ? merged(box) : box, any, whole, y.elements()));
}

// Operands that lie in their places already are not copied.
class Concatenate : public Kernel {
 public:
  explicit Concatenate(std::vector<BoxCopy> boxes) : boxes_(std::move(boxes)) {}
  std::string implementation() const override { return name("concatenate"); }
  void run(const Buffers& b) const override {
    for (size_t i = 0; i < boxes_.size(); i++) {
      const void* place = b.output<std::byte>(0) + boxes_[i].to_offset * boxes_[i].width;
      if (boxes_[i].rank > 0 && b.in[i] != place) shape_loops().copy(boxes_[i], b.in[i], b.out[0]);
    }
  }

 private:
  std::vector<BoxCopy> boxes_;
};

Offer concatenate(const Node& node) {
  const TensorType& y = node.out[0];
  int64_t axis = node.attributes.integer("axis");
  auto to = row_major(y.shape);
  std::vector<BoxCopy> boxes;
  int64_t done = 0;
  for (const TensorType& x : node.in) {
    require((!x.row && !y.row) || axis == y.rank() - 1, "rows are apart along the last axis alone");
    // Three axes: what is before the axis, and the axis with what is after.
    BoxCopy box{};
    box.rank = 2, box.width = static_cast<int>(size_of(y.dtype));
    int64_t before = 1;
    for (int a = 0; a < axis; a++) before *= y.shape[a];
    box.size[0] = before, box.size[1] = x.shape[axis] * to[axis];
    box.from[0] = x.row ? x.row : x.shape[axis] * to[axis];
    box.to[0] = y.row ? y.row : y.shape[axis] * to[axis];
    box.from[1] = box.to[1] = 1;
    box.to_offset = done * to[axis];
    done += x.shape[axis];
    boxes.push_back(merged(box));
  }
  return Offer(std::make_unique<Concatenate>(std::move(boxes)));
}

class Pick : public Kernel {
 public:
  Pick(int64_t rows, int64_t classes) : rows_(rows), classes_(classes) {}
  std::string implementation() const override { return name("pick"); }
  void run(const Buffers& b) const override {
    shape_loops().pick(b.input<float>(0), b.input<int32_t>(1), b.output<float>(0), rows_, classes_);
  }

 protected:
  int64_t rows_, classes_;
};

class PickGradient : public Pick {
 public:
  using Pick::Pick;
  void run(const Buffers& b) const override {
    shape_loops().pick_gradient(b.input<float>(0), b.input<int32_t>(1), b.output<float>(0), rows_,
                                classes_);
  }
};

template <class K>
Offer picked(const Node& node, const TensorType& whole, const TensorType& part) {
  if (whole.dtype != DType::f32 || part.dtype != DType::f32)
    return Offer::none("pick takes float32");
  return Offer(std::make_unique<K>(part.elements(), whole.dim(-1)));
}

Offer pick(const Node& node) { return picked<Pick>(node, node.in[0], node.out[0]); }

Offer pick_gradient(const Node& node) {
  return picked<PickGradient>(node, node.out[0], node.in[0]);
}

const Register kPad("pad", {pad});
const Register kConcatenate("concatenate", {concatenate}, /*rows_apart=*/true);
const Register kPick("pick", {pick});
const Register kPickGradient("pick_gradient", {pick_gradient});

}  // namespace
}  // namespace jax_mps::cpu
