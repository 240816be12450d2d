// dropout(x, key_data): x / keep_probability where the mask of the key is set, else 0.
// random_bits(key_data): the bits that the mask is made of.
#include "family.h"
#include "metal/kernels/dropout_parameters.h"

namespace jax_mps::metal {
namespace {

constexpr double kThreefry = 128;  // operations of a draw

// Why the key's draws cannot be had here; null if they can.
const char* refusal(const Node& node, const TensorType& key) {
  if (key.dtype != DType::u32 || key.elements() != 2 ||
      node.attributes.string("generator") != "threefry2x32")
    return "kernels draw threefry2x32 only";
  if (!node.attributes.boolean("partitionable"))
    return "kernels draw with jax_threefry_partitionable on only";
  return nullptr;
}

Offer threefry_bits(const Node& node) {
  if (const char* reason = refusal(node, node.in[0])) return Offer::none(reason);
  Recipe recipe(node, "threefry");
  recipe.dispatch("dropout", "random_bits", storage(DType::f32))
      .parameters(count_of(node.out[0]))
      .reads(recipe.operand(0))
      .writes(recipe.result(0))
      .over_elements(node.out[0].elements())
      .computes(kThreefry * node.out[0].elements());
  return recipe;
}

Offer threefry(const Node& node) {
  const TensorType& x = node.in[0];
  if (const char* reason = refusal(node, node.in[1])) return Offer::none(reason);
  auto dtype = one_floating({x, node.out[0]});
  if (!dtype) return Offer::none("dropout takes one floating dtype");
  auto keep = static_cast<float>(node.attributes.number("keep_probability"));
  auto mask = node.attributes.integers("mask_shape");
  int missing = x.rank() - static_cast<int>(mask.size());
  // Neighbours that the mask runs along, or is broadcast along, count as one axis.
  DropoutParameters p{};
  p.count = count_of(x), p.keep = keep;
  p.threshold = static_cast<unsigned>(std::ceil(keep * 0x1p23f));
  std::vector<std::pair<int64_t, bool>> axes;
  for (int axis = 0; axis < x.rank(); axis++) {
    int64_t size = x.dim(axis);
    if (size == 1) continue;
    bool masked = axis >= missing && mask[axis - missing] != 1;
    if (axes.empty() || axes.back().second != masked)
      axes.emplace_back(size, masked);
    else
      axes.back().first *= size;
  }
  if (axes.size() > std::size(p.size)) return Offer::none("dropout takes up to 8 merged axes");
  p.rank = static_cast<int>(axes.size());
  int64_t stride = 1;
  for (size_t i = axes.size(); i-- > 0;) {
    p.size[i] = static_cast<int>(axes[i].first);
    p.stride[i] = axes[i].second ? static_cast<int>(stride) : 0;
    if (axes[i].second) stride *= axes[i].first;
  }
  Recipe recipe(node, "threefry");
  recipe.dispatch("dropout", "dropout", storage(*dtype))
      .parameters(p)
      .reads(recipe.operand(0))
      .reads(recipe.operand(1))
      .writes(recipe.result(0))
      .over_elements(p.count);
  return recipe;
}

const Register kDropout("dropout", {threefry});
const Register kRandomBits("random_bits", {threefry_bits});

}  // namespace
}  // namespace jax_mps::metal
