// dense(x, w[, b]) and its gradients, and dot (lax.dot_general), as tiled products.
#include "gemm.h"
#include "ir/product.h"
#include "metal/apple/apple.h"
#include "metal/kernels/shape_parameters.h"

namespace jax_mps::metal {
namespace {

constexpr int kDirect =
    static_cast<int>(std::size(kTiles));  // after the tiles: the simplest kernel
constexpr int kApple = kDirect + 1;

std::string name_of(int which) {
  if (which == kDirect) return "direct";
  if (which == kApple) return "MPSMatrixMultiplication";
  Tile t = kTiles[which];
  return "product in tiles of " + std::to_string(t.m) + " by " + std::to_string(t.n);
}

// The recipe with the product's dispatches, or why there is none.
Offer offer_product(Recipe recipe, const Gemm& gemm, int which, DType dtype) {
  if (which == kApple) {
    recipe.apple = true, recipe.cost = kAppleCost;
    std::string reason = without_apple_kernels("MPSMatrixMultiplication");
    if (reason.empty()) reason = add_apple_product(recipe, gemm, dtype);
    if (!reason.empty()) return Offer::none(reason);
    return recipe;
  }
  if (which != kDirect) {
    add_gemm(recipe, gemm, kTiles[which]);
    return recipe;
  }
  recipe.cost = kSimplestCost;
  GemmParameters p = gemm.p;
  p.a = gemm.neuron.a, p.b = gemm.neuron.b, p.c = gemm.neuron.c, p.log_c = gemm.neuron.log_c;
  recipe.dispatch("product", "product_direct", gemm.dtype + storage(gemm.result, "R"))
      .constants({gemm.neuron.kind, gemm.bias.has_value()})
      .parameters(p)
      .reads(gemm.a)
      .reads(gemm.b)
      .reads(gemm.bias.value_or(gemm.b))
      .writes(gemm.c)
      .over_each(p.total)
      .may_be_cut(&GemmParameters::first)
      .computes(2 * kAlone * p.total * p.k);
  return recipe;
}

// y = left right (+ bias), with the operands transposed as asked.
template <int which, bool transpose_left, bool transpose_right>
Offer product(const Node& node) {
  bool biased = node.in.size() == 3;
  const TensorType &left = node.in[0], &right = node.in[1], &y = node.out[0];
  auto dtype = one_floating({left, right, y, biased ? node.in[2] : y});
  if (!dtype) return Offer::none("the products take one floating dtype");
  int64_t m = left.dim(transpose_left ? 1 : 0), k = left.dim(transpose_left ? 0 : 1);
  int64_t n = right.dim(transpose_right ? 0 : 1);
  Recipe recipe(node, name_of(which));
  Gemm gemm;
  GemmParameters& p = gemm.p;
  p.m = static_cast<int>(m), p.n = static_cast<int>(n), p.k = static_cast<int>(k);
  p.a_row = transpose_left ? 1 : p.k, p.a_column = transpose_left ? p.m : 1;
  p.b_inner = transpose_right ? 1 : p.n, p.b_column = transpose_right ? p.k : 1;
  p.b_divisor = p.k, p.c_row = p.n, p.total = p.m * p.n;
  gemm.dtype = storage(*dtype), gemm.result = *dtype;
  gemm.a = recipe.operand(0), gemm.b = recipe.operand(1), gemm.c = recipe.result(0);
  if (biased) gemm.bias = recipe.operand(2);
  gemm.neuron = NeuronCall(node);
  gemm.splits = !biased && gemm.neuron.kind == 0;
  return offer_product(std::move(recipe), gemm, which, *dtype);
}

// A side whose axes do not step as one is copied into their order first.
Span bind(Recipe& recipe, int operand, const TensorType& type, Side& side) {
  if (side.collapses) return recipe.operand(operand);
  Axes strides = row_major(type.shape), dims;
  for (int64_t axis : side.order) dims.push_back(type.shape[axis]);
  Axes to = row_major(dims);
  BoxParameters box{};
  require(dims.size() <= std::size(box.size), "the product takes arrays of up to 12 axes");
  box.count = count_of(type), box.rank = static_cast<int>(dims.size());
  for (size_t i = 0; i < dims.size(); i++) {
    box.size[i] = static_cast<int>(dims[i]);
    box.from[i] = static_cast<int>(strides[side.order[i]]);
    box.to[i] = static_cast<int>(to[i]);
  }
  Span copy = recipe.scratch(type.bytes());
  recipe.dispatch("shape_ops", "copy_box", storage(type.dtype))
      .parameters(box)
      .reads(recipe.operand(operand))
      .writes(copy)
      .over_elements(box.count);
  side.stride[2] = 1, side.stride[1] = side.size[2], side.stride[0] = side.size[1] * side.size[2];
  return copy;
}

template <int which>
Offer dot(const Node& node) {
  Product product = product_of(node);
  const TensorType &left = node.in[0], &right = node.in[1], &y = node.out[0];
  if (!is_floating(left) || left.dtype != right.dtype || !is_floating(y))
    return Offer::none("the products take one floating dtype");
  Recipe recipe(node, name_of(which));
  Gemm gemm;
  gemm.a = bind(recipe, 0, left, product.left), gemm.b = bind(recipe, 1, right, product.right);
  gemm.c = recipe.result(0);
  GemmParameters& p = gemm.p;
  p.m = static_cast<int>(product.m()), p.n = static_cast<int>(product.n());
  p.k = static_cast<int>(product.k());
  gemm.batches = static_cast<int>(product.batch());
  auto stride = [](const Side& side, int group) { return static_cast<int>(side.stride[group]); };
  p.a_batch = stride(product.left, 0), p.a_row = stride(product.left, 1);
  p.a_column = stride(product.left, 2);
  p.b_batch = stride(product.right, 0), p.b_inner = stride(product.right, 1);
  p.b_column = stride(product.right, 2), p.b_divisor = p.k;
  p.c_row = p.n, p.c_batch = p.m * p.n, p.total = count_of(y);
  gemm.dtype = storage(left.dtype), gemm.result = y.dtype;
  gemm.splits = true;
  return offer_product(std::move(recipe), gemm, which, left.dtype);
}

const Register kDense("dense", {product<0, false, false>, product<1, false, false>,
                                product<2, false, false>, product<3, false, false>,
                                product<kDirect, false, false>, product<kApple, false, false>});
const Register kDenseDataGradient("dense_data_gradient",
                                  {product<0, false, true>, product<1, false, true>,
                                   product<2, false, true>, product<3, false, true>,
                                   product<kDirect, false, true>, product<kApple, false, true>});
const Register kDenseWeightGradient("dense_weight_gradient",
                                    {product<0, true, false>, product<1, true, false>,
                                     product<2, true, false>, product<3, true, false>,
                                     product<kDirect, true, false>, product<kApple, true, false>});
const Register kDot("dot", {dot<0>, dot<1>, dot<2>, dot<3>, dot<kDirect>, dot<kApple>});

}  // namespace
}  // namespace jax_mps::metal
