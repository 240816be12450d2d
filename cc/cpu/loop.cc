// The loop node: see loop.h.
#include "ir/loop.h"

#include <cstring>

#include "align.h"
#include "device.h"
#include "steps.h"

namespace jax_mps::cpu {
namespace {

class Loop : public Kernel {
 public:
  explicit Loop(const Node& node) : shape_(node), body_(node.body), steps_(*body_) {
    for (const LoopShape::Carry& c : shape_.carry) {
      second_.push_back(steps_offset_);
      if (!c.in_place) steps_offset_ += align_up(c.bytes);
    }
  }

  std::string implementation() const override { return "loop"; }
  std::vector<std::string> body() const override { return steps_.implementations(); }
  size_t scratch_bytes() const override { return steps_offset_ + steps_.memory_bytes(); }

  void run(const Buffers& b) const override {
    const LoopShape& s = shape_;
    const size_t carries = s.carry.size();
    std::vector<const void*> in(b.in, b.in + s.first_slice() + s.xs_bytes.size());
    std::vector<void*> out(b.out, b.out + carries + s.ys_bytes.size());
    for (size_t i = 0; i < carries; i++) {
      // An operand may lie where the result does; the first iteration must not write what it reads.
      const LoopShape::Carry& c = s.carry[i];
      const void*& first = in[s.first_carry() + i];
      if (c.bytes == 0) continue;
      if (first != out[i]) {
        if (s.length == 0) std::memcpy(out[i], first, c.bytes);
      } else if (!c.in_place && s.length % 2 == 1) {
        std::memcpy(b.scratch + second_[i], first, c.bytes);
        first = b.scratch + second_[i];
      }
    }
    for (int64_t t = 0; t < s.length; t++) {
      const int64_t at = s.slice_of(t);
      for (size_t i = 0; i < carries; i++)
        out[i] = s.is_second(i, t) ? b.scratch + second_[i] : static_cast<std::byte*>(b.out[i]);
      for (size_t i = 0; i < s.xs_bytes.size(); i++) {
        size_t k = s.first_slice() + i;
        in[k] = static_cast<const std::byte*>(b.in[k]) + at * s.xs_bytes[i];
      }
      for (size_t i = 0; i < s.ys_bytes.size(); i++)
        out[carries + i] = static_cast<std::byte*>(b.out[carries + i]) + at * s.ys_bytes[i];
      steps_.run(in.data(), out.data(), b.scratch + steps_offset_);
      for (size_t i = 0; i < carries; i++) in[s.first_carry() + i] = out[i];
    }
  }

 private:
  LoopShape shape_;
  std::shared_ptr<const Program> body_;
  Steps steps_;
  std::vector<size_t> second_;  // offsets in the scratch memory, of the carries' second places
  size_t steps_offset_ = 0;
};

Offer loop(const Node& node) { return Offer(std::make_unique<Loop>(node)); }

const Register kLoop("loop", {loop});

}  // namespace
}  // namespace jax_mps::cpu
