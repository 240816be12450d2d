// loop(consts, carry, xs) -> (carry, ys) {carry, consts, in_place, length, reverse}: lax.scan of
// the node's body, (consts, carry, slices of xs) -> (carry, slices of ys).
//
// A slice of an array along its first axis is a place in it: nothing is copied in or out. A carry
// that the body writes where it reads it lies in its result from the first iteration on; any other
// lies by turns in its result and in the scratch memory, such that the last iteration writes the
// result.
#include <cstring>

#include "device.h"
#include "require.h"
#include "steps.h"

namespace jax_mps::cpu {
namespace {

size_t align_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

struct Carry {
  size_t bytes;
  bool in_place = false;
  size_t offset = 0;  // of its second place in the scratch memory
};

class Loop : public Kernel {
 public:
  explicit Loop(const Node& node) : body_(node.body), steps_(*body_) {
    consts_ = count(node, "consts"), length_ = count(node, "length");
    reverse_ = node.attributes.boolean("reverse");
    carry_.resize(count(node, "carry", node.out.size()));
    const Program& body = *body_;
    require(body.inputs.size() == node.in.size() && body.outputs.size() == node.out.size() &&
                consts_ + carry_.size() <= node.in.size() && carry_.size() <= node.out.size(),
            "the body's inputs and outputs must be as many as the operands and results");
    for (size_t i = 0; i < node.in.size(); i++) {
      const TensorType& slice = body.values[body.inputs[i]].type;
      bool whole = i < consts_ + carry_.size();
      if (!whole) xs_bytes_.push_back(slice.bytes());
      require_slice(node.in[i], slice, whole);
    }
    for (size_t i = 0; i < node.out.size(); i++) {
      const TensorType& slice = body.values[body.outputs[i]].type;
      bool whole = i < carry_.size();
      if (whole) {
        carry_[i].bytes = slice.bytes();
        require_slice(node.in[consts_ + i], slice, whole);
      } else {
        ys_bytes_.push_back(slice.bytes());
      }
      require_slice(node.out[i], slice, whole);
    }
    for (int64_t i : node.attributes.integers("in_place")) {
      require(i >= 0 && i < static_cast<int64_t>(carry_.size()),
              "attribute 'in_place' must be numbers of carries");
      carry_[i].in_place = true;
    }
    steps_offset_ = 0;
    for (Carry& c : carry_) {
      if (c.in_place) continue;
      c.offset = steps_offset_;
      steps_offset_ += align_up(c.bytes);
    }
  }

  std::string implementation() const override { return "loop"; }
  std::vector<std::string> body() const override { return steps_.implementations(); }
  size_t scratch_bytes() const override { return steps_offset_ + steps_.memory_bytes(); }

  void run(const Buffers& b) const override {
    const size_t carries = carry_.size();
    std::vector<const void*> in(b.in, b.in + consts_ + carries + xs_bytes_.size());
    std::vector<void*> out(b.out, b.out + carries + ys_bytes_.size());
    for (size_t i = 0; i < carries; i++) {
      // An operand may lie where the result does; the first iteration must not write what it reads.
      const Carry& c = carry_[i];
      const void*& first = in[consts_ + i];
      if (first != out[i]) {
        if (length_ == 0) std::memcpy(out[i], first, c.bytes);
      } else if (!c.in_place && length_ % 2 == 1) {
        std::memcpy(b.scratch + c.offset, first, c.bytes);
        first = b.scratch + c.offset;
      }
    }
    for (int64_t t = 0; t < length_; t++) {
      const int64_t at = reverse_ ? length_ - 1 - t : t;
      for (size_t i = 0; i < carries; i++) {
        const Carry& c = carry_[i];
        bool second = !c.in_place && (length_ - 1 - t) % 2 == 1;
        out[i] = second ? b.scratch + c.offset : static_cast<std::byte*>(b.out[i]);
      }
      for (size_t i = 0; i < xs_bytes_.size(); i++) {
        size_t k = consts_ + carries + i;
        in[k] = static_cast<const std::byte*>(b.in[k]) + at * xs_bytes_[i];
      }
      for (size_t i = 0; i < ys_bytes_.size(); i++)
        out[carries + i] = static_cast<std::byte*>(b.out[carries + i]) + at * ys_bytes_[i];
      steps_.run(in.data(), out.data(), b.scratch + steps_offset_);
      for (size_t i = 0; i < carries; i++) in[consts_ + i] = out[i];
    }
  }

 private:
  static int64_t count(const Node& node, const std::string& name, size_t limit = size_t{1} << 40) {
    int64_t value = node.attributes.integer(name);
    require(value >= 0 && value <= static_cast<int64_t>(limit),
            "attribute '" + name + "' is out of range");
    return value;
  }

  // A value of the body may have another shape of as many elements.
  void require_slice(const TensorType& type, const TensorType& slice, bool whole) const {
    int64_t elements = slice.elements() * (whole ? 1 : length_);
    bool leads = whole || (type.rank() > 0 && type.shape[0] == length_);
    require(leads && type.dtype == slice.dtype && type.elements() == elements,
            "a value of type " + type.text() + " is " + slice.text() + " inside of the body of " +
                std::to_string(length_) + " iterations");
  }

  std::shared_ptr<const Program> body_;
  Steps steps_;
  std::vector<Carry> carry_;
  std::vector<size_t> xs_bytes_, ys_bytes_;  // of a slice
  size_t consts_ = 0, steps_offset_ = 0;
  int64_t length_ = 0;
  bool reverse_ = false;
};

Offer loop(const Node& node) { return Offer(std::make_unique<Loop>(node)); }

const Register kLoop("loop", {loop});

}  // namespace
}  // namespace jax_mps::cpu
