// dropout(x, key_data): x / keep_probability where the mask of the key is set, else 0.
// random_bits(key_data): the bits that the mask is made of.
#include "check.h"
#include "require.h"

namespace jax_mps {
namespace {

void key(const Node& node, const TensorType& key) {
  require_dtype(key, DType::u32);
  node.attributes.string("generator");
  node.attributes.boolean("partitionable");
}

void random_bits(const Node& node) {
  require_counts(node, 1, 1);
  key(node, node.in[0]);
  require_dtype(node.out[0], DType::u32);
  require_sizes(node, "shape", node.out[0].shape);
}

void dropout(const Node& node) {
  require_counts(node, 2, 1);
  const TensorType& x = node.in[0];
  require_alike(node.out[0], x);
  key(node, node.in[1]);
  const auto keep = static_cast<float>(node.attributes.number("keep_probability"));
  require(keep > 0 && keep <= 1, "keep_probability must be in (0, 1]");
  const std::vector<int64_t> mask = node.attributes.integers("mask_shape");
  require(mask.size() <= x.shape.size(), "the mask has more axes than x");
  const size_t missing = x.shape.size() - mask.size();
  for (size_t i = 0; i < mask.size(); i++)
    require(mask[i] == 1 || mask[i] == x.shape[missing + i],
            "the mask does not broadcast to " + x.text());
}

const Checker kDropout("dropout", dropout);
const Checker kRandomBits("random_bits", random_bits);

}  // namespace
}  // namespace jax_mps
