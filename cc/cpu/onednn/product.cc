#include "product.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>
#include <map>

namespace jax_mps::cpu {
namespace {

using dnnl::memory;
using Array = MatrixProduct::Array;

// How often each axis is cut, and whether b is copied into oneDNN's own layout once for all parts:
// else each part does that for its own.
struct Cut {
  int64_t batch, m, n, k;
  bool packed;
};

// oneDNN works in blocks of 64 columns.
constexpr int64_t kRowStep = 16, kColStep = 64, kDepthStep = 64;
constexpr int64_t kLeastRows = 16, kLeastCols = 32, kLeastDepth = 512;

// The cheapest cut into about as many parts as are worth while, by what it costs in floating-point
// operations: copies of b, reading a and b again, partial sums, and threads left idle.
Cut cut_of(const MatrixProduct& p, bool sums) {
  constexpr double kCopy = 70, kRead = 30, kSum = 150;
  const int64_t all = worthwhile_parts(2.0 * p.batch * p.m * p.k * p.n);
  const int64_t batch = std::min(all, p.batch), wanted = (all + batch - 1) / batch;
  Cut best{batch, 1, 1, 1, p.packed};
  if (wanted == 1) return best;
  const double a = 1.0 * p.m * p.k, b = 1.0 * p.k * p.n, c = 1.0 * p.m * p.n;
  double lowest = -1;
  for (int64_t m = 1; m <= std::min(wanted, std::max<int64_t>(p.m / kLeastRows, 1)); m++)
    for (int64_t n = 1; n <= std::min(wanted, std::max<int64_t>(p.n / kLeastCols, 1)); n++) {
      const int64_t left = (wanted + m * n - 1) / (m * n);
      const int64_t most = sums ? std::max<int64_t>(p.k / kLeastDepth, 1) : 1;
      const int64_t k = std::clamp<int64_t>(left, 1, most);
      const double idle = 2 * a * p.n * std::max(0.0, 1.0 * wanted / (m * n * k) - 1);
      const bool packed = p.packed || (m > 1 && p.batch == 1);
      const double cost = kRead * a * (n - 1) + (packed ? kRead : kCopy) * b * (m - 1) +
                          kSum * c * (k > 1 ? k : 0) + idle;
      if (lowest < 0 || cost < lowest) lowest = cost, best = {batch, m, n, k, packed};
    }
  return best;
}

memory::desc matrix(int64_t batch, int64_t rows, int64_t cols, const Array& a) {
  // The stride of an axis of one step is free: such that the array is a matrix.
  int64_t row = a.row, col = a.col;
  if (cols == 1)
    col = 1, row = std::max<int64_t>(row, 1);
  else if (rows == 1)
    row = col == 1 ? cols : 1;
  if (batch == 1) return memory::desc({rows, cols}, a.dtype, Dims{row, col});
  return memory::desc({batch, rows, cols}, a.dtype, Dims{a.batch, row, col});
}

struct Built {
  dnnl::matmul::primitive_desc pd;
  dnnl::matmul primitive;
  memory::desc a, b, c, bias;
};

}  // namespace

std::optional<Parts> product_parts(const MatrixProduct& p) {
  OneThread one;
  const auto f32 = memory::data_type::f32;
  // Partial results are float32, and nothing but the product.
  const bool plain = !p.bias && p.attributes.get_post_ops().len() == 0;
  const bool sums =
      plain && !p.packed && p.batch == 1 && p.c.col == 1 && (!p.adds || p.c.dtype == f32);
  const Cut cut = cut_of(p, sums);
  const Even batches(p.batch, cut.batch), rows(p.m, cut.m, kRowStep),
      cols(p.n, cut.n, p.n >= 4 * kColStep ? kColStep : kColStep / 4),
      depths(p.k, cut.k, kDepthStep);
  const bool partial = depths.parts > 1;

  std::map<Dims, Built> built;
  auto build = [&](int64_t batch, int64_t m, int64_t k, int64_t n) -> const Built* {
    auto [place, is_new] = built.try_emplace(Dims{batch, m, k, n});
    Built& made = place->second;
    if (!is_new) return &made;
    Array c = p.c;
    if (partial) c = {f32, 0, n, 1};
    made.a = matrix(batch, m, k, p.a), made.b = matrix(batch, k, n, p.b);
    made.c = matrix(batch, m, n, c);
    if (p.bias)
      made.bias = batch == 1 && p.batch == 1 ? memory::desc({1, n}, *p.bias, Dims{n, 1})
                                             : memory::desc({1, 1, n}, *p.bias, Dims{n, n, 1});
    dnnl::primitive_attr attributes = p.attributes;
    if (p.adds && !partial) {
      dnnl::post_ops post;
      post.append_sum();
      attributes.set_post_ops(post);
    }
    const memory::desc b =
        cut.packed ? memory::desc(made.b.get_dims(), p.b.dtype, memory::format_tag::any) : made.b;
    made.pd = dnnl::matmul::primitive_desc(engine(), made.a, b, made.bias, made.c, attributes,
                                           /*allow_empty=*/true);
    if (!made.pd) return nullptr;
    made.primitive = dnnl::matmul(made.pd);
    return &made;
  };

  Parts parts;
  const size_t c_array = p.bias ? 3 : 2;
  auto size_of = [](const Array& a) { return memory::data_type_size(a.dtype); };
  for (int64_t i = 0; i < batches.parts; i++)
    for (int64_t j = 0; j < rows.parts; j++)
      for (int64_t l = 0; l < cols.parts; l++) {
        const int64_t at = batches.begin(i), row = rows.begin(j), col = cols.begin(l);
        const int64_t m = rows.size(j), n = cols.size(l);
        const size_t c_offset = (at * p.c.batch + row * p.c.row + col * p.c.col) * size_of(p.c);
        int sum = -1;
        if (partial) sum = parts.add_sum(c_array, c_offset, matrix(1, m, n, p.c), p.adds);
        for (int64_t d = 0; d < depths.parts; d++) {
          const Built* made = build(batches.size(i), m, depths.size(d), n);
          if (!made) return std::nullopt;
          const int64_t k = depths.begin(d);
          using Kind = PartArgument::Kind;
          Part part{made->primitive, made->pd.scratchpad_desc(), made->pd.impl_info_str(), {}, sum};
          part.arguments.push_back({Kind::operand, DNNL_ARG_SRC, 0,
                                    (at * p.a.batch + row * p.a.row + k * p.a.col) * size_of(p.a),
                                    made->a, made->pd.src_desc()});
          part.arguments.push_back({cut.packed ? Kind::shared : Kind::operand, DNNL_ARG_WEIGHTS, 1,
                                    (at * p.b.batch + k * p.b.row + col * p.b.col) * size_of(p.b),
                                    made->b, made->pd.weights_desc()});
          if (p.bias)
            part.arguments.push_back({Kind::operand, DNNL_ARG_BIAS, 2,
                                      col * memory::data_type_size(*p.bias), made->bias,
                                      made->pd.bias_desc()});
          part.arguments.push_back({partial ? Kind::partial : Kind::result, DNNL_ARG_DST, c_array,
                                    partial ? 0 : c_offset, made->c, made->pd.dst_desc()});
          parts.add(std::move(part));
        }
      }
  parts.finish(/*axis=*/p.batch == 1 ? 1 : 2, /*always=*/p.packed);
  return parts;
}

}  // namespace jax_mps::cpu

#endif
