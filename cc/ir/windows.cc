#include "windows.h"

#include <algorithm>

#include "require.h"

namespace jax_mps {

const WindowAxis& Windows::height() const {
  static const WindowAxis one;
  return axes.size() == 1 ? one : axes.front();
}

bool Windows::is_pixel() const {
  return std::ranges::all_of(axes, [](const WindowAxis& a) { return a.window == 1; });
}

bool Windows::is_plain() const { return std::ranges::all_of(axes, &WindowAxis::is_plain); }

Windows windows_of(const Node& node, const TensorType& x, const std::vector<int64_t>& window,
                   const TensorType& y) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  const Attributes& a = node.attributes;
  require((x.rank() == 3 || x.rank() == 4) && y.rank() == x.rank(),
          "takes and gives images [batch, spatial..., channels] of 1 or 2 spatial axes, but got " +
              x.text() + " and " + y.text());
  const size_t spatial = x.rank() - 2;
  auto numbers = [&](const char* name, size_t count) {
    std::vector<int64_t> list = a.integers(name);
    require(list.size() == count, "attribute '" + std::string(name) + "' must have " +
                                      std::to_string(count) + " numbers for the axes of " +
                                      x.text());
    return list;
  };
  const auto strides = numbers("strides", spatial), padding = numbers("padding", 2 * spatial);
  const auto dilation =
      a.has("dilation") ? numbers("dilation", spatial) : std::vector<int64_t>(spatial, 1);
  require(window.size() == spatial, "the window must have " + std::to_string(spatial) + " axes");
  Windows all;
  int64_t pixels = 1;
  for (size_t i = 0; i < spatial; i++) {
    const int64_t in = x.shape[i + 1], low = padding[2 * i], high = padding[2 * i + 1];
    require(strides[i] > 0 && dilation[i] > 0 && strides[i] < kLimit && dilation[i] < kLimit,
            "strides and dilation must be positive and below 2^30");
    require(-kLimit < low && low < kLimit && -kLimit < high && high < kLimit,
            "padding must be within 2^30");
    require(window[i] >= 0 && window[i] < kLimit && pixels * window[i] < 2 * kLimit,
            "a window must have fewer than 2^30 pixels along an axis, and than 2^31 in all");
    require(in < kLimit, "an image must have fewer than 2^30 pixels along an axis");
    pixels *= window[i];
    const int64_t reach = window[i] ? (window[i] - 1) * dilation[i] + 1 : 0;
    const int64_t room = in + low + high - reach;
    const int64_t windows = room < 0 ? 0 : room / strides[i] + 1;
    require(y.shape[i + 1] == windows,
            "there are " + std::to_string(windows) + " windows along spatial axis " +
                std::to_string(i) + " of " + x.text() + ", but the other side is " + y.text());
    all.axes.push_back({in, windows, window[i], strides[i], dilation[i], low, high});
  }
  return all;
}

}  // namespace jax_mps
