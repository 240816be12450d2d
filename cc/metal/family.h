// What the families of kernels share: neurons, checks, and sums over rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "../cpu/neuron.h"
#include "../cpu/require.h"
#include "kernel.h"
#include "kernels/column_parameters.h"

namespace jax_mps::metal {

using cpu::require;
using cpu::require_counts;
using cpu::require_shape;

// The neuron of a node, "none" if it has none; the kinds of host and kernels are in one order.
struct NeuronCall {
  int kind = 0;
  float a = 0, b = 0, c = 0, log_c = 1;

  NeuronCall() = default;
  explicit NeuronCall(const Node& node) {
    if (!node.attributes.has("neuron")) return;
    cpu::Neuron neuron(node.attributes.list("neuron"));
    kind = static_cast<int>(neuron.kind);
    a = neuron.a, b = neuron.b, c = neuron.c;
    log_c = c == -1 ? 1 : std::log(c);
  }
};

// The dtype of all given types if it is one, and floating.
inline std::optional<DType> one_floating(std::initializer_list<TensorType> types) {
  DType dtype = types.begin()->dtype;
  for (const TensorType& type : types)
    if (type.dtype != dtype || !is_floating(type)) return std::nullopt;
  return dtype;
}

inline int count_of(const TensorType& type) { return static_cast<int>(type.elements()); }

// How [rows, channels] is summed: in so many parts that the GPU is full, each of some rows.
inline ColumnParameters columns_of(const TensorType& x) {
  constexpr int64_t kThreads = 32 * 1024, kRowsAPart = 8, kMaxParts = 512;
  int64_t channels = x.dim(-1), rows = x.elements() / channels;
  int64_t parts = std::min({kThreads / channels, rows / kRowsAPart, kMaxParts});
  ColumnParameters p{};
  p.rows = static_cast<int>(rows), p.channels = static_cast<int>(channels);
  p.parts = static_cast<int>(std::max<int64_t>(parts, 1));
  p.slope = 1;
  return p;
}
inline size_t part_bytes(const ColumnParameters& p) {
  return size_t(p.parts) * p.channels * sizeof(float);
}
// One thread for each part of each channel.
inline void over_parts(Dispatch& dispatch, const ColumnParameters& p) {
  size_t threads = group_threads(), wanted = size_t(p.parts) * p.channels;
  dispatch.over({(wanted + threads - 1) / threads, 1, 1}, {threads, 1, 1});
}
// y[c] = the sum of the parts of channel c.
inline void add_parts(Recipe& recipe, const ColumnParameters& p, Span partial, Span y,
                      DType dtype) {
  recipe.dispatch("column", "add_parts", storage(dtype))
      .parameters(p)
      .reads(partial)
      .writes(y)
      .over_elements(p.channels);
}

}  // namespace jax_mps::metal
