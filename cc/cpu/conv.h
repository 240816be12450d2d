// The implementations of convolution and its two gradients.
#pragma once

#include "device.h"

namespace jax_mps::cpu {

// ProgramError where the operands and attributes of a convolution contradict one another.
void require_convolution(const Node& node, const TensorType& x, const TensorType& w,
                         const TensorType& y);

// By Winograd's minimal filtering.
Offer winograd_conv(const Node& node);
Offer winograd_conv_data_gradient(const Node& node);
Offer winograd_conv_weight_gradient(const Node& node);

// By plain sums in short runs, where the highest precision is asked for.
Offer short_sums_conv(const Node& node);
Offer short_sums_conv_data_gradient(const Node& node);

// Those of windows of one pixel as products of matrices, whose rows may be apart.
Offer pointwise_conv(const Node& node);
Offer pointwise_conv_data_gradient(const Node& node);
Offer pointwise_conv_weight_gradient(const Node& node);

}  // namespace jax_mps::cpu
