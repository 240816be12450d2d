// What the families of kernels share: neurons, checks, and sums over rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "ir/neuron.h"
#include "ir/require.h"
#include "metal/kernels/column_parameters.h"
#include "metal/kernels/neuron_parameters.h"
#include "metal/recipe.h"

namespace jax_mps::metal {

static_assert(static_cast<int>(NeuronKind::gelu) == kNeuronGelu);

// The neuron of a node, "none" if it has none; the kinds of host and kernels are in one order.
struct NeuronCall {
  int kind = 0;
  float a = 0, b = 0, c = 0, log_c = 1;

  NeuronCall() = default;
  explicit NeuronCall(const Node& node) {
    const std::optional<Neuron> neuron = neuron_of(node);
    if (!neuron) return;
    kind = static_cast<int>(neuron->kind);
    a = neuron->a, b = neuron->b, c = neuron->c;
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

// How [rows, channels] is summed: in so many parts that the GPU is full, each of some rows. Metal
// does not tell how many threads fill a GPU, from ten thousand to a quarter of a million; large
// arrays are cut for the largest, since there a thread still has work enough.
constexpr int64_t kLeastThreads = 32 * 1024, kMostThreads = 256 * 1024, kElementsAThread = 64;
inline int64_t threads_for(int64_t elements) {
  return std::clamp(elements / kElementsAThread, kLeastThreads, kMostThreads);
}
inline ColumnParameters columns_of(const TensorType& x) {
  constexpr int64_t kRowsAPart = 8, kMaxParts = 16 * 1024;
  int64_t channels = x.dim(-1), rows = x.elements() / channels;
  int64_t parts = std::min({threads_for(x.elements()) / channels, rows / kRowsAPart, kMaxParts});
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
// A threadgroup for each channel, of a thread for each part or of some for each thread.
inline void over_channels(Dispatch& dispatch, const ColumnParameters& p) {
  constexpr size_t kSimd = 32;
  size_t threads =
      std::clamp((size_t(p.parts) + kSimd - 1) / kSimd * kSimd, kSimd, group_threads());
  dispatch.over({size_t(p.channels), 1, 1}, {threads, 1, 1});
}
// y[c] = the sum of the parts of channel c.
inline void add_parts(Recipe& recipe, const ColumnParameters& p, Span partial, Span y,
                      DType dtype) {
  Dispatch& dispatch = recipe.dispatch("column", "add_parts", storage(dtype));
  dispatch.parameters(p).reads(partial).writes(y);
  over_channels(dispatch, p);
}

}  // namespace jax_mps::metal
