// The implementations of convolution and its two gradients.
#pragma once

#include "cpu/device.h"

namespace jax_mps::cpu {

// By Winograd's minimal filtering.
Offer winograd_conv(const Node& node);
Offer winograd_conv_data_gradient(const Node& node);
Offer winograd_conv_weight_gradient(const Node& node);

// By our own product of the pixels that windows of one pixel read.
Offer pixels_weight_gradient(const Node& node);

// By plain sums in short runs, where the highest precision is asked for.
Offer short_sums_conv(const Node& node);
Offer short_sums_conv_data_gradient(const Node& node);

// Those of windows of one pixel as products of matrices, whose rows may be pitched.
Offer pointwise_conv(const Node& node);
Offer pointwise_conv_data_gradient(const Node& node);
Offer pointwise_conv_weight_gradient(const Node& node);

}  // namespace jax_mps::cpu
