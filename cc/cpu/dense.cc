// The dense layer and its two gradients as oneDNN matrix products.
#include "device.h"
#include "neuron.h"
#include "onednn.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {
namespace {

using dnnl::memory;

// [rows, cols] row-major, or its transpose.
memory::desc matrix(const TensorType& type, memory::data_type dtype, bool transposed = false) {
  Dims order = transposed ? Dims{1, 0} : Dims{0, 1};
  return permuted(type, dtype,
                  {type.dim(static_cast<int>(order[0])), type.dim(static_cast<int>(order[1]))},
                  order);
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
  auto post = fuse_neuron(node);
  if (!post) return Offer::none("only relu is fused in half precision");
  if (post->after && node.out[0].row) return Offer::none("this neuron with rows apart");
  memory::desc left = matrix(node.in[0], *dtype, transpose_left),
               right = matrix(node.in[1], *dtype, transpose_right), y = matrix(node.out[0], *dtype),
               bias;
  if (node.in.size() == 3)
    bias = memory::desc({1, node.in[2].dim(0)}, *dtype, {node.in[2].dim(0), 1});
  dnnl::matmul::primitive_desc pd(engine(), left, right, bias, y, post->attributes,
                                  /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no product of these shapes");
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_SRC, left, pd.src_desc(), false);
  runner.argument(DNNL_ARG_WEIGHTS, right, pd.weights_desc(), false);
  if (node.in.size() == 3) runner.argument(DNNL_ARG_BIAS, bias, pd.bias_desc(), false);
  runner.argument(DNNL_ARG_DST, y, pd.dst_desc(), true);
  runner.finish(dnnl::matmul(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node, post->after));
}

Offer dense(const Node& node) { return product(node, false, false); }
Offer data_gradient(const Node& node) { return product(node, false, true); }
Offer weight_gradient(const Node& node) { return product(node, true, false); }

const Register kDense("dense", {dense}, /*rows_apart=*/true);
const Register kDenseDataGradient("dense_data_gradient", {data_gradient}, /*rows_apart=*/true);
const Register kDenseWeightGradient("dense_weight_gradient", {weight_gradient},
                                    /*rows_apart=*/true);

}  // namespace
}  // namespace jax_mps::cpu

#endif
