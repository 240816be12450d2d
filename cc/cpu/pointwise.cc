// Convolution of windows of one pixel, as the product of pixels with the weights: for arrays whose
// rows are apart, which oneDNN's convolutions do not take.
#include <algorithm>

#include "conv.h"
#include "onednn.h"
#include "require.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

Offer pointwise_conv(const Node& node) {
  require_counts(node, node.in.size() == 3 ? 3 : 2, 1);
  const TensorType &x = node.in[0], &w = node.in[1], &y = node.out[0];
  require_convolution(node, x, w, y);
  if (!x.row && !y.row) return Offer::none("the rows are not apart");
  auto every = [&](const char* name, int64_t value) {
    return std::ranges::all_of(node.attributes.integers(name),
                               [&](int64_t v) { return v == value; });
  };
  bool pixel = w.elements() == w.dim(-1) * w.dim(-2) && node.attributes.integer("groups") == 1;
  if (!pixel || !every("strides", 1) || !every("padding", 0))
    return Offer::none("windows of more than a pixel with rows apart");
  using dnnl::memory;
  auto f32 = memory::data_type::f32;
  for (const TensorType& type : {x, w, y})
    if (type.dtype != DType::f32) return Offer::none("rows apart are for float32");
  auto post = fuse_neuron(node);
  if (!post || post->after) return Offer::none("this neuron with rows apart");
  int64_t pixels = y.elements() / y.dim(-1), out = y.dim(-1);
  memory::desc left({pixels, x.dim(-1)}, f32, Dims{x.pitch(), 1});
  memory::desc right({x.dim(-1), out}, f32, Dims{out, 1});
  memory::desc result({pixels, out}, f32, Dims{y.pitch(), 1}), bias;
  if (node.in.size() == 3) {
    require_shape(node.in[2], {out});
    if (node.in[2].dtype != DType::f32) return Offer::none("the bias is not float32");
    bias = memory::desc({1, out}, f32, Dims{out, 1});
  }
  dnnl::matmul::primitive_desc pd(engine(), left, right, bias, result, post->attributes,
                                  /*allow_empty=*/true);
  if (!pd) return Offer::none("oneDNN has no product of these shapes");
  OneDnnRunner runner;
  runner.argument(DNNL_ARG_SRC, left, pd.src_desc(), false);
  runner.argument(DNNL_ARG_WEIGHTS, right, pd.weights_desc(), false);
  if (node.in.size() == 3) runner.argument(DNNL_ARG_BIAS, bias, pd.bias_desc(), false);
  runner.argument(DNNL_ARG_DST, result, pd.dst_desc(), true);
  runner.finish(dnnl::matmul(pd), pd.scratchpad_desc(), pd.impl_info_str());
  return Offer(std::make_unique<OneDnnKernel>(std::move(runner), node));
}

}  // namespace jax_mps::cpu

#endif
