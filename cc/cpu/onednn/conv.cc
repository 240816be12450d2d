#include "conv.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>

namespace jax_mps::cpu {
namespace {

using dnnl::memory;

memory::desc image(const TensorType& type, memory::data_type dtype) {
  if (type.rank() == 4)
    return permuted(type, dtype, {type.dim(0), type.dim(3), type.dim(1), type.dim(2)},
                    {0, 3, 1, 2});
  return permuted(type, dtype, {type.dim(0), type.dim(2), 1, type.dim(1)}, {0, 2, 0, 1});
}

// HWIO (or WIO) weights as [groups,] out, in, height, width.
memory::desc weights(const TensorType& type, memory::data_type dtype, int64_t groups) {
  bool flat = type.rank() == 3;
  int64_t height = flat ? 1 : type.dim(0), width = type.dim(-3), in = type.dim(-2),
          out = type.dim(-1);
  if (groups == 1)
    return memory::desc({out, in, height, width}, dtype, {1, out, width * in * out, in * out});
  int64_t group_out = out / groups;
  return memory::desc({groups, group_out, in, height, width}, dtype,
                      {group_out, 1, out, width * in * out, in * out});
}

constexpr int64_t kLeastBand = 4;  // rows

double flops(const Geometry& g) {
  const Dims w = g.w.get_dims(), y = g.y.get_dims();
  double all = 2;
  for (int64_t n : w) all *= n;
  const int64_t groups = w.size() == 5 ? w[0] : 1;
  return all * y[0] * y[2] * y[3] * (w.size() == 5 ? 1.0 : 1.0 / groups);
}

// Images first, then bands of their rows, into about `wanted` parts.
std::vector<Slice> slices_of(int64_t batch, int64_t rows, int64_t outs, int64_t wanted,
                             bool may_band) {
  std::vector<Slice> slices;
  const int64_t each = (batch + wanted - 1) / wanted;  // as many in all parts but the last
  const Even images(batch, (batch + each - 1) / each);
  const int64_t bands_wanted = may_band && images.size(0) == 1 ? wanted / images.parts : 1;
  const Even bands(rows, std::min(bands_wanted, rows / kLeastBand));
  for (int64_t i = 0; i < images.parts; i++)
    for (int64_t j = 0; j < bands.parts; j++)
      slices.push_back({images.begin(i), images.size(i), bands.begin(j), bands.size(j), 0, outs});
  return slices;
}

// A part of an image's array, by its strides, and where it begins.
struct View {
  memory::desc desc;
  size_t offset;
};
View view(const memory::desc& all, int64_t image, int64_t images, int64_t channel, int64_t channels,
          int64_t row, int64_t rows) {
  const Dims dims = all.get_dims();
  Dims strides = all.get_strides();
  const int64_t at = image * strides[0] + channel * strides[1] + row * strides[2];
  if (images == 1) strides[0] = rows * strides[2];
  return {memory::desc({images, channels, rows, dims[3]}, all.get_data_type(), strides),
          at * memory::data_type_size(all.get_data_type())};
}

int64_t reach(const Geometry& g) {  // rows of x that a window spans, but one
  const Dims w = g.w.get_dims();
  return (w[w.size() - 2] - 1) * (g.dilation[0] + 1);
}

// As many parts as are worth while, each with images for the weights that it reads.
int64_t parts_of(const Geometry& g) {
  constexpr int64_t kFew = 4;
  const size_t images = g.x.get_size() + g.y.get_size(), weights = g.w.get_size();
  const auto most = std::max<int64_t>(kFew, 2 * images / std::max<size_t>(weights, 1));
  return std::min(worthwhile_parts(flops(g)), most);
}

}  // namespace

std::optional<Geometry> geometry(const Node& node, const TensorType& x, const TensorType& w,
                                 const TensorType& y, std::string& reason) {
  const Attributes& a = node.attributes;
  if (!fits_onednn(node)) {
    reason = kTooLarge;
    return std::nullopt;
  }
  int64_t groups = a.integer("groups");
  auto padding = a.integers("padding");
  size_t spatial = x.rank() - 2;
  auto dtype = onednn_dtype(x.dtype);
  if (!dtype || w.dtype != x.dtype || y.dtype != x.dtype) {
    reason = "oneDNN has no native " + std::string(name_of(x.dtype)) + " convolution here";
    return std::nullopt;
  }
  Geometry g{image(x, *dtype),
             weights(w, *dtype, groups),
             image(y, *dtype),
             {},
             a.integers("strides"),
             a.integers("dilation"),
             {},
             {}};
  for (size_t i = 0; i < spatial; i++) {
    if (padding[2 * i] < 0 || padding[2 * i + 1] < 0) {
      reason = "oneDNN has no negative padding";
      return std::nullopt;
    }
    g.pad_low.push_back(padding[2 * i]);
    g.pad_high.push_back(padding[2 * i + 1]);
    g.dilation[i] -= 1;  // oneDNN counts the gaps
  }
  if (spatial == 1) {
    g.strides.insert(g.strides.begin(), 1);
    for (Dims* dims : {&g.dilation, &g.pad_low, &g.pad_high}) dims->insert(dims->begin(), 0);
  }
  if (x.row || w.row || y.row) {  // it would run by its reference
    reason = "oneDNN's convolutions take no rows that are apart";
    return std::nullopt;
  }
  g.any_w = memory::desc(g.w.get_dims(), *dtype, memory::format_tag::any);
  return g;
}

Convolving convolving(const Geometry& g, Pass pass) {
  const Dims x = g.x.get_dims(), w = g.w.get_dims(), y = g.y.get_dims();
  Convolving c{.pass = pass, .dtype = g.x.get_data_type(), .pixel = true};
  for (size_t i = 0; i < 2; i++) {
    const int64_t taps = w[w.size() - 2 + i];
    c.pixel &= taps == 1;
    c.strided |= g.strides[i] > 1;
    c.dilated |= g.dilation[i] > 0;
    const int64_t stride = g.strides[i], dilation = g.dilation[i] + 1, low = g.pad_low[i];
    c.blind |= sees_padding_alone(x[2 + i], y[2 + i], taps, stride, dilation, low);
    c.empty |= sees_padding_alone(x[2 + i], taps, y[2 + i], dilation, stride, low);
  }
  return c;
}

Sliced slice_of_y(const Geometry& g, const Slice& s) {
  Geometry part = g;
  const Dims x = g.x.get_dims();
  const int64_t stride = g.strides[0];
  const int64_t first = s.row * stride - g.pad_low[0];
  const int64_t last = (s.row + s.rows - 1) * stride - g.pad_low[0] + reach(g) + 1;
  // A whole image keeps what rows of it no window sees.
  const bool whole = s.rows == g.y.get_dims()[2];
  const int64_t begin = whole ? 0 : std::clamp<int64_t>(first, 0, x[2]);
  const int64_t end = whole ? x[2] : std::clamp<int64_t>(last, begin, x[2]);
  if (!whole) part.pad_low[0] = begin - first, part.pad_high[0] = last - end;
  const View xs = view(g.x, s.image, s.images, 0, x[1], begin, end - begin);
  const View ys = view(g.y, s.image, s.images, s.channel, s.outs, s.row, s.rows);
  part.x = xs.desc, part.y = ys.desc;
  return {part, xs.offset, ys.offset};
}

// Of rows of x, for the data gradient, where the stride is 1: the outputs that saw them.
Sliced slice_of_x(const Geometry& g, const Slice& s) {
  Geometry part = g;
  const Dims x = g.x.get_dims(), y = g.y.get_dims();
  const bool whole = s.rows == x[2];
  const int64_t first = s.row + g.pad_low[0] - reach(g), last = s.row + s.rows + g.pad_low[0];
  const int64_t begin = whole ? 0 : std::clamp<int64_t>(first, 0, y[2]);
  const int64_t end = whole ? y[2] : std::clamp<int64_t>(last, begin, y[2]);
  if (!whole) {
    part.pad_low[0] = s.row + g.pad_low[0] - begin;
    part.pad_high[0] = end - begin + reach(g) - s.rows - part.pad_low[0];
  }
  const View xs = view(g.x, s.image, s.images, 0, x[1], s.row, s.rows);
  const View ys = view(g.y, s.image, s.images, 0, y[1], begin, end - begin);
  part.x = xs.desc, part.y = ys.desc;
  return {part, xs.offset, ys.offset};
}

bool has_work(const Geometry& g) {
  return g.x.get_dims()[2] > 0 && g.y.get_dims()[2] > 0 && g.pad_low[0] >= 0 && g.pad_high[0] >= 0;
}

Dims key_of(const Geometry& g) {
  Dims key = g.x.get_dims();
  for (const Dims& dims : {g.y.get_dims(), g.pad_low, g.pad_high})
    key.insert(key.end(), dims.begin(), dims.end());
  return key;
}

std::vector<Slice> forward_slices(const Geometry& g, bool may_band) {
  const Dims y = g.y.get_dims();
  return slices_of(y[0], y[2], y[1], parts_of(g), may_band);
}

std::vector<Slice> data_gradient_slices(const Geometry& g, bool may_band) {
  const Dims x = g.x.get_dims(), y = g.y.get_dims();
  return slices_of(x[0], x[2], y[1], parts_of(g), may_band && g.strides[0] == 1);
}

WeightSlices weight_gradient_slices(const Geometry& g, bool may_cut) {
  constexpr int64_t kPixels = 2048, kMostSlices = 16, kParts = 4, kChannels = 32;
  constexpr int64_t kMostBytes = 64 << 20;  // of partial sums
  const Dims y = g.y.get_dims(), w = g.w.get_dims();
  int64_t bytes = sizeof(float);
  for (int64_t n : w) bytes *= n;
  const int64_t worthwhile = worthwhile_parts(flops(g)), pixels = y[0] * y[2] * y[3];
  const int64_t fitting = kMostBytes / std::max<int64_t>(bytes, 1);
  const int64_t slices = std::min(
      worthwhile, std::clamp<int64_t>(std::min(pixels / kPixels, fitting), 1, kMostSlices));
  const bool grouped = w.size() == 5;
  int64_t channel_parts = 1;
  if (may_cut && !grouped && y[1] % WeightSlices::kChannelStep == 0)
    channel_parts = std::clamp<int64_t>(std::min(kParts, worthwhile) / slices, 1,
                                        std::max<int64_t>(y[1] / kChannels, 1));
  return {slices_of(y[0], y[2], y[1], slices, may_cut), channel_parts};
}

}  // namespace jax_mps::cpu

#endif
