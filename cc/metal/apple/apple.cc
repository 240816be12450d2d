#include "apple.h"

#include <dlfcn.h>

#include <cstdlib>

#include "metal/kernels/neuron_parameters.h"
#include "metal/runtime/metal_cpp.h"

namespace jax_mps::metal {
namespace {

void load_frameworks() {
  static const bool once = [] {
    for (std::string name : {"MetalPerformanceShaders", "MetalPerformanceShadersGraph"})
      dlopen(("/System/Library/Frameworks/" + name + ".framework/" + name).c_str(), RTLD_LAZY);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

AppleKernels apple_kernels() {
  static const AppleKernels wanted = [] {
    const char* text = std::getenv("JAX_MPS_APPLE_KERNELS");
    std::string_view word = text ? text : "";
    return word == "0"   ? AppleKernels::none
           : word == "1" ? AppleKernels::always
                         : AppleKernels::compete;
  }();
  return wanted;
}

std::string without_apple_kernels(const char* cls) {
  if (apple_kernels() == AppleKernels::none) return "JAX_MPS_APPLE_KERNELS=0";
  load_frameworks();
  if (!objc_lookUpClass(cls)) return std::string("this system has no ") + cls;
  return "";
}

void add_tail(Recipe& recipe, Span y, int channels, std::optional<Span> bias,
              const NeuronCall& neuron, DType dtype) {
  if (!bias && neuron.kind == 0) return;
  auto count = static_cast<int>(y.bytes / size_of(dtype));
  recipe.dispatch("tail", "tail", storage(dtype))
      .constants({neuron.kind, bias.has_value()})
      .parameters(
          ElementwiseParameters{count, channels, neuron.a, neuron.b, neuron.c, neuron.log_c})
      .updates(y)
      .reads(bias.value_or(y))
      .over_elements(count);
}

}  // namespace jax_mps::metal
