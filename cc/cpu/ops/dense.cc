// The dense layer and its two gradients as oneDNN matrix products.
#include "cpu/device.h"
#include "cpu/onednn/product.h"
#include "neuron.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

// [rows, cols], or its transpose.
MatrixProduct::Array matrix(const TensorType& type, dnnl::memory::data_type dtype,
                            bool transposed = false) {
  return {dtype, 0, transposed ? 1 : type.pitch(), transposed ? type.pitch() : 1};
}

// y = left right (+ bias), with the operands transposed as asked.
Offer product(const Node& node, bool transpose_left, bool transpose_right) {
  auto dtype = onednn_dtype(node.in[0].dtype);
  for (const auto* types : {&node.in, &node.out})
    for (const TensorType& type : *types)
      if (type.dtype != node.in[0].dtype) dtype.reset();
  if (!dtype)
    return Offer::none("oneDNN has no native " + std::string(name_of(node.in[0].dtype)) +
                       " product here");
  if (!fits_onednn(node)) return Offer::none(kTooLarge);
  auto post = fuse_neuron(node);
  if (!post) return Offer::none("only relu is fused in half precision");
  if (post->after && node.out[0].row) return Offer::none("this neuron with rows apart");
  const TensorType &left = node.in[0], &right = node.in[1], &y = node.out[0];
  MatrixProduct p{.m = y.dim(0), .k = left.dim(transpose_left ? 0 : 1), .n = y.dim(1)};
  p.a = matrix(left, *dtype, transpose_left), p.b = matrix(right, *dtype, transpose_right);
  p.c = matrix(y, *dtype);
  if (node.in.size() == 3) p.bias = *dtype;
  p.attributes = post->attributes;
  auto parts = product_parts(p);
  if (!parts) return Offer::none("oneDNN has no product of these shapes");
  return Offer(std::make_unique<OneDnnKernel>(std::move(*parts), node, post->after));
}

Offer dense(const Node& node) { return product(node, false, false); }
Offer data_gradient(const Node& node) { return product(node, false, true); }
Offer weight_gradient(const Node& node) { return product(node, true, false); }

const Register kDense("dense", {dense}, /*pitched_rows=*/true);
const Register kDenseDataGradient("dense_data_gradient", {data_gradient}, /*pitched_rows=*/true);
const Register kDenseWeightGradient("dense_weight_gradient", {weight_gradient},
                                    /*pitched_rows=*/true);

}  // namespace
}  // namespace jax_mps::cpu

#endif
