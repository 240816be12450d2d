// The geometry of a convolution in oneDNN's terms, and how it is cut into parts.
#pragma once

#include "parts.h"
#include "trust.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

// The shapes of one convolution in oneDNN's terms, whichever of its three arrays the node computes.
struct Geometry {
  dnnl::memory::desc x, w, y;  // as they lie in memory
  dnnl::memory::desc any_w;    // weights in whatever layout the kernel likes best
  Dims strides, dilation, pad_low, pad_high;
};

// Nothing if oneDNN has no such convolution; then `reason` says why.
std::optional<Geometry> geometry(const Node& node, const TensorType& x, const TensorType& w,
                                 const TensorType& y, std::string& reason);

// What trust.h asks of it.
Convolving convolving(const Geometry& g, Pass pass);

// What a part computes: some images, or a band of rows of one, and of a weight gradient some output
// channels.
struct Slice {
  int64_t image, images;
  int64_t row, rows;      // of the array that is cut: dx for the data gradient, else y
  int64_t channel, outs;  // of y
};

// The slices of the forward pass and of the data gradient: as many as are worth while, each with
// images for the weights that it reads. Bands of rows only where there are too few images.
std::vector<Slice> forward_slices(const Geometry& g, bool may_band);
std::vector<Slice> data_gradient_slices(const Geometry& g, bool may_band);

// A weight gradient is cut into slices of pixels, each of which gives a partial sum, as far as the
// sums are small beside the pixels; and its output channels into parts, of which each copies its
// own.
struct WeightSlices {
  static constexpr int64_t kChannelStep = 16;
  std::vector<Slice> slices;
  int64_t channel_parts;
};
WeightSlices weight_gradient_slices(const Geometry& g, bool may_cut);

// The geometry of a slice, and where its x and y begin, in bytes.
struct Sliced {
  Geometry g;
  size_t x_offset, y_offset;
};
Sliced slice_of_y(const Geometry& g, const Slice& slice);
Sliced slice_of_x(const Geometry& g, const Slice& slice);  // where rows have a stride of 1

// Slices of the same shapes are one primitive.
Dims key_of(const Geometry& g);

// False where a slice would see padding alone, or less than none.
bool has_work(const Geometry& g);

}  // namespace jax_mps::cpu
#endif
