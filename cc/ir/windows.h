// Windows over the spatial axes of images, [batch, spatial..., channels]: what convolutions and
// pools share.
#pragma once

#include "program.h"

namespace jax_mps {

// Along one axis: `count` windows of `window` elements, `dilation` apart, begin at -low, stride -
// low, ... of an axis of `size` elements that `low` and `high` more surround.
struct WindowAxis {
  int64_t size = 1, count = 1, window = 1, stride = 1, dilation = 1, low = 0, high = 0;

  bool is_plain() const { return stride == 1 && low == 0 && high == 0; }
};

struct Windows {
  std::vector<WindowAxis> axes;  // one or two

  // Height and width; images of one axis have a height of 1.
  const WindowAxis& height() const;
  const WindowAxis& width() const { return axes.back(); }
  bool is_pixel() const;  // whether a window is one element
  bool is_plain() const;  // whether windows neither stride nor reach into padding
};

// Windows over x that give those of y, by the attributes strides, padding and dilation (1 if
// missing). ProgramError with the rule that they break. Sizes are such that the places of pixels
// fit 32 bits.
Windows windows_of(const Node& node, const TensorType& x, const std::vector<int64_t>& window,
                   const TensorType& y);

}  // namespace jax_mps
