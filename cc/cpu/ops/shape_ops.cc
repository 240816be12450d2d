// Ops that only move elements: pad, concatenate, the label gather pick and its gradient.
#include "cpu/loops/shape_ops.h"

#include <algorithm>

#include "cpu/device.h"
#include "ir/box.h"

namespace jax_mps::cpu {
namespace {

std::string name(const char* what) { return std::string(what) + " " + isa_name(); }

// Merged, of at least one axis, as the loops take it.
Box for_loops(const Box& box) {
  Box result = merged(box);
  if (result.rank == 0) {
    result.rank = 1;
    result.size[0] = 1, result.from[0] = result.to[0] = 1;
  }
  return result;
}

class Pad : public Kernel {
 public:
  Pad(std::optional<Box> box, const TensorType& y)
      : box_(box),
        whole_(box && elements_of(*box) == y.elements()),
        width_(static_cast<int>(size_of(y.dtype))),
        elements_(y.elements()) {
    if (box) box_ = for_loops(*box);
  }
  std::string implementation() const override { return name("pad"); }
  void run(const Buffers& b) const override {
    if (!whole_) shape_loops().fill(b.in[1], width_, b.out[0], elements_);
    if (box_) shape_loops().copy(*box_, width_, b.in[0], b.out[0]);
  }

 private:
  std::optional<Box> box_;  // of the operand in the result
  bool whole_;              // whether it covers the result
  int width_;
  int64_t elements_;
};

Offer pad(const Node& node) {
  if (node.in[0].rank() > kBoxRank) return Offer::none("pad takes up to 12 axes");
  return Offer(std::make_unique<Pad>(padded_box(node), node.out[0]));
}

// Operands that lie in their places already are not copied.
class Concatenate : public Kernel {
 public:
  explicit Concatenate(const Node& node)
      : boxes_(concatenated_boxes(node)), width_(static_cast<int>(size_of(node.out[0].dtype))) {
    for (Box& box : boxes_) box = for_loops(box);
  }
  std::string implementation() const override { return name("concatenate"); }
  void run(const Buffers& b) const override {
    for (size_t i = 0; i < boxes_.size(); i++) {
      const void* place = b.output<std::byte>(0) + boxes_[i].to_offset * width_;
      if (boxes_[i].rank > 0 && b.in[i] != place)
        shape_loops().copy(boxes_[i], width_, b.in[i], b.out[0]);
    }
  }

 private:
  std::vector<Box> boxes_;
  int width_;
};

Offer concatenate(const Node& node) { return Offer(std::make_unique<Concatenate>(node)); }

class LabelGather : public Kernel {
 public:
  LabelGather(int64_t rows, int64_t classes) : rows_(rows), classes_(classes) {}
  std::string implementation() const override { return name("pick"); }
  void run(const Buffers& b) const override {
    shape_loops().label_gather(b.input<float>(0), b.input<int32_t>(1), b.output<float>(0), rows_,
                               classes_);
  }

 protected:
  int64_t rows_, classes_;
};

class LabelGatherGradient : public LabelGather {
 public:
  using LabelGather::LabelGather;
  void run(const Buffers& b) const override {
    shape_loops().label_gather_gradient(b.input<float>(0), b.input<int32_t>(1), b.output<float>(0),
                                        rows_, classes_);
  }
};

template <class K>
Offer label_gather(const Node& node, const TensorType& whole, const TensorType& part) {
  if (whole.dtype != DType::f32 || part.dtype != DType::f32)
    return Offer::none("pick takes float32");
  return Offer(std::make_unique<K>(part.elements(), whole.dim(-1)));
}

Offer pick(const Node& node) { return label_gather<LabelGather>(node, node.in[0], node.out[0]); }

Offer pick_gradient(const Node& node) {
  return label_gather<LabelGatherGradient>(node, node.out[0], node.in[0]);
}

const Register kPad("pad", {pad});
const Register kConcatenate("concatenate", {concatenate}, /*pitched_rows=*/true);
const Register kPick("pick", {pick});
const Register kPickGradient("pick_gradient", {pick_gradient});

}  // namespace
}  // namespace jax_mps::cpu
