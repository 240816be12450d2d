// dropout(x, key_data): x / keep_probability where the mask of the key is set, else 0.
// random_bits(key_data): the bits that the mask is made of.
#include "cpu/loops/dropout.h"

#include <algorithm>
#include <cmath>

#include "cpu/device.h"

namespace jax_mps::cpu {
namespace {

class Dropout : public Kernel {
 public:
  Dropout(const TensorType& x, const std::vector<int64_t>& mask_shape, float keep)
      : keep_(keep), elements_(x.elements()), mask_elements_(1) {
    // Adjacent axes that the mask runs along, or is broadcast along, count as one.
    int missing = x.rank() - static_cast<int>(mask_shape.size());
    for (int axis = 0; axis < x.rank(); axis++) {
      int64_t size = x.dim(axis);
      if (size == 1) continue;
      bool masked = axis >= missing && mask_shape[axis - missing] != 1;
      if (masked) mask_elements_ *= size;
      if (sizes_.empty() || masked_.back() != masked) {
        sizes_.push_back(size);
        masked_.push_back(masked);
      } else {
        sizes_.back() *= size;
      }
    }
  }

  std::string implementation() const override {
    return std::string(broadcast() ? "threefry mask, broadcast, " : "threefry ") + isa_name();
  }
  size_t scratch_bytes() const override { return broadcast() ? mask_elements_ : 0; }

  void run(const Buffers& b) const override {
    const uint32_t* key = b.input<uint32_t>(1);
    // u < keep for u = k / 2^23, as k < keep * 2^23 over the integers: a power of two scales
    // exactly.
    auto threshold = static_cast<uint32_t>(std::ceil(keep_ * 0x1p23f));
    if (!broadcast())
      return dropout_loops().apply(b.input<float>(0), b.output<float>(0), elements_, key, threshold,
                                   keep_);
    auto* mask = reinterpret_cast<uint8_t*>(b.scratch);
    dropout_loops().mask(mask, mask_elements_, key, threshold);
    dropout_loops().broadcast(b.input<float>(0), mask, b.output<float>(0), sizes_.data(),
                              masked_.data(), static_cast<int>(sizes_.size()), keep_);
  }

 private:
  bool broadcast() const { return mask_elements_ != elements_; }

  float keep_;
  int64_t elements_, mask_elements_;
  std::vector<int64_t> sizes_;
  std::vector<uint8_t> masked_;
};

// Why the key's draws cannot be had here; empty if they can.
std::string refusal(const Node& node, const TensorType& key) {
  if (key.dtype != DType::u32 || key.elements() != 2 ||
      node.attributes.string("generator") != "threefry2x32")
    return "kernels draw threefry2x32 only";
  if (!node.attributes.boolean("partitionable"))
    return "kernels draw with jax_threefry_partitionable on only";
  return "";
}

class RandomBits : public Kernel {
 public:
  explicit RandomBits(int64_t elements) : elements_(elements) {}
  std::string implementation() const override { return std::string("threefry ") + isa_name(); }
  void run(const Buffers& b) const override {
    dropout_loops().bits(b.output<uint32_t>(0), elements_, b.input<uint32_t>(0));
  }

 private:
  int64_t elements_;
};

Offer threefry_bits(const Node& node) {
  if (std::string reason = refusal(node, node.in[0]); !reason.empty()) return Offer::none(reason);
  return Offer(std::make_unique<RandomBits>(node.out[0].elements()));
}

Offer threefry(const Node& node) {
  if (std::string reason = refusal(node, node.in[1]); !reason.empty()) return Offer::none(reason);
  if (node.in[0].dtype != DType::f32) return Offer::none("the vector loops take float32");
  auto keep = static_cast<float>(node.attributes.number("keep_probability"));
  auto mask_shape = node.attributes.integers("mask_shape");
  return Offer(std::make_unique<Dropout>(node.in[0], mask_shape, keep));
}

const Register kDropout("dropout", {threefry});
const Register kRandomBits("random_bits", {threefry_bits});

}  // namespace
}  // namespace jax_mps::cpu
