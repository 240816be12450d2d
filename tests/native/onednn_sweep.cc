// Tries every convolution kernel of oneDNN, not only the one that it would choose, on random
// geometries: forward, data gradient and weight gradient, against sums in double, with canaries
// before and after all that it may write. `docs/onednn.md` has what came of it. A line of
// tab-separated fields for each fault, then one for each kernel with its counts:
//   onednn_sweep COUNT SEED [pixel|grouped|window|plain|any [chosen]]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cpu/onednn/trust.h"

using dnnl::memory;
using jax_mps::cpu::Convolving, jax_mps::cpu::Pass;
using Dims = memory::dims;

namespace {

dnnl::engine engine(dnnl::engine::kind::cpu, 0);
dnnl::stream stream(engine);

// Images [n, h, w, groups * c], windows [p, q], filters `groups * k`.
struct Geometry {
  int64_t n, h, w, groups, c, k, p, q, sh, sw, dh, dw, top, bottom, left, right;

  int64_t rows() const { return (h + top + bottom - (p - 1) * dh - 1) / sh + 1; }
  int64_t cols() const { return (w + left + right - (q - 1) * dw - 1) / sw + 1; }
  int64_t in() const { return groups * c; }
  int64_t out() const { return groups * k; }
  std::string text() const {
    char line[300];
    std::snprintf(
        line, sizeof line,
        "%ldx%ldx%ldx%ld g%ld k%ld window %ldx%ld strides %ldx%ld dilation %ldx%ld padding "
        "%ld,%ld,%ld,%ld",
        n, h, w, in(), groups, out(), p, q, sh, sw, dh, dw, top, bottom, left, right);
    return line;
  }
  Convolving convolving(Pass pass, memory::data_type dtype) const {
    using jax_mps::cpu::sees_padding_alone;
    return {pass,
            dtype,
            p * q == 1,
            sh * sw > 1,
            dh * dw > 1,
            sees_padding_alone(h, rows(), p, sh, dh, top) ||
                sees_padding_alone(w, cols(), q, sw, dw, left),
            sees_padding_alone(h, p, rows(), dh, sh, top) ||
                sees_padding_alone(w, q, cols(), dw, sw, left)};
  }
  std::string kind() const {
    std::string name = p * q == 1 ? "pixel" : "window";
    if (sh * sw > 1) name += " strided";
    if (dh * dw > 1) name += " dilated";
    if (groups > 1) name += c == 1 && k == 1 ? " depthwise" : " grouped";
    return name;
  }
};

constexpr size_t kGuard = 4096;
constexpr uint8_t kCanary = 0xff;  // a NaN in every dtype: what is read beyond an array shows up

// Memory between canaries.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes), all_(bytes + 2 * kGuard + 64) { clear(); }
  void* data() { return begin() + kGuard; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data());
  }
  void clear() { std::memset(all_.data(), kCanary, all_.size()); }
  bool broken() {
    auto odd = [](uint8_t b) { return b != kCanary; };
    return std::any_of(all_.data(), begin() + kGuard, odd) ||
           std::any_of(begin() + kGuard + bytes_, all_.data() + all_.size(), odd);
  }

 private:
  uint8_t* begin() {
    return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(all_.data()) + 63) / 64 * 64);
  }
  size_t bytes_;
  std::vector<uint8_t> all_;
};

using Numbers = std::vector<float>;

float rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

void put(const Numbers& x, memory::data_type dtype, void* to) {
  for (size_t i = 0; i < x.size(); i++) {
    if (dtype == memory::data_type::f32) {
      static_cast<float*>(to)[i] = x[i];
    } else {
      uint32_t bits;
      std::memcpy(&bits, &x[i], 4);
      static_cast<uint16_t*>(to)[i] = bits >> 16;
    }
  }
}

Numbers get(const void* from, memory::data_type dtype, size_t n) {
  Numbers x(n);
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    if (dtype == memory::data_type::f32)
      std::memcpy(&bits, static_cast<const float*>(from) + i, 4);
    else
      bits = uint32_t{static_cast<const uint16_t*>(from)[i]} << 16;
    std::memcpy(&x[i], &bits, 4);
  }
  return x;
}

// f(x's index, w's index, y's index) of each product of the convolution; w is HWIO.
template <class F>
void each(const Geometry& g, const F& f) {
  for (int64_t n = 0; n < g.n; n++)
    for (int64_t i = 0; i < g.rows(); i++)
      for (int64_t j = 0; j < g.cols(); j++)
        for (int64_t a = 0; a < g.p; a++)
          for (int64_t b = 0; b < g.q; b++) {
            int64_t r = i * g.sh + a * g.dh - g.top, s = j * g.sw + b * g.dw - g.left;
            if (r < 0 || r >= g.h || s < 0 || s >= g.w) continue;
            for (int64_t group = 0; group < g.groups; group++)
              for (int64_t c = 0; c < g.c; c++)
                for (int64_t k = 0; k < g.k; k++)
                  f(((n * g.h + r) * g.w + s) * g.in() + group * g.c + c,
                    ((a * g.q + b) * g.c + c) * g.out() + group * g.k + k,
                    ((n * g.rows() + i) * g.cols() + j) * g.out() + group * g.k + k);
          }
}

struct Count {
  int tried = 0, wrong = 0, broken = 0, unsteady = 0;
};
std::map<std::string, Count> counts;
bool everything = true;  // all kernels, or for each convolution the first trusted one

struct Descs {
  memory::desc x, w, any_w, y;
};

template <class Primitive, class Desc>
void try_all(const Geometry& g, Pass pass, memory::data_type dtype, Desc pd,
             const std::vector<std::pair<int, const Numbers*>>& given, int result_id,
             const std::vector<double>& wanted, const Descs& d) {
  if (!pd) return;
  bool f32 = dtype == memory::data_type::f32;
  double largest = 0;
  for (double v : wanted) largest = std::max(largest, std::abs(v));
  // Where nearly all cancels, as large as such a sum is wont to be.
  const int64_t terms = pass == Pass::forward         ? g.p * g.q * g.c
                        : pass == Pass::data_gradient ? g.p * g.q * g.k
                                                      : g.n * g.rows() * g.cols();
  largest = std::max(largest, std::sqrt(double(terms)));
  int rank = 0;  // 1 is what oneDNN would choose
  bool done = false;
  const char* what = pass == Pass::forward         ? "forward"
                     : pass == Pass::data_gradient ? "data gradient"
                                                   : "weight gradient";
  do {
    std::string name = pd.impl_info_str();
    rank++;
    if (name.starts_with("ref")) continue;  // slow, and nobody's choice
    const bool is_trusted = trusted(g.convolving(pass, dtype), name);
    if (!everything && (done || !is_trusted)) continue;
    done = true;
    auto wanted_desc = [&](int id) { return pd.query_md(dnnl::query::exec_arg_md, id); };
    auto own = [&](int id) {
      bool weights = id == DNNL_ARG_WEIGHTS || id == DNNL_ARG_DIFF_WEIGHTS;
      bool x = id == DNNL_ARG_SRC || id == DNNL_ARG_DIFF_SRC;
      return weights ? d.w : x ? d.x : d.y;
    };
    Primitive primitive(pd);
    Guarded scratch(pd.scratchpad_desc().get_size()), result(wanted_desc(result_id).get_size());
    std::vector<Guarded> operands;
    for (auto [id, numbers] : given) {
      memory::desc to = wanted_desc(id);
      Guarded plain(own(id).get_size());
      put(*numbers, dtype, plain.data());
      operands.emplace_back(to.get_size());
      memory from_memory(own(id), engine, plain.data());
      memory to_memory(to, engine, operands.back().data());
      dnnl::reorder(from_memory, to_memory).execute(stream, from_memory, to_memory);
      stream.wait();
    }
    const std::string key = name + "\t" + what + "\t" + (f32 ? "f32" : "bf16") + "\t" +
                            (is_trusted ? "trusted" : "refused") + "\t";
    Count& count = counts[key + g.kind()];
    count.tried++;
    bool wrong = false, broken = false, unsteady = false;
    double worst = 0;
    const char* where = "";
    Numbers first;
    for (int run = 0; run < 3; run++) {
      scratch.clear(), result.clear();
      std::unordered_map<int, memory> arguments{
          {DNNL_ARG_SCRATCHPAD, memory(pd.scratchpad_desc(), engine, scratch.data())},
          {result_id, memory(wanted_desc(result_id), engine, result.data())}};
      for (size_t i = 0; i < given.size(); i++)
        arguments.emplace(given[i].first,
                          memory(wanted_desc(given[i].first), engine, operands[i].data()));
      primitive.execute(stream, arguments);
      stream.wait();
      broken |= scratch.broken() || result.broken();
      if (scratch.broken()) where = "scratch";
      if (result.broken()) where = "result";
      for (Guarded& o : operands) broken |= o.broken();
      Guarded plain(own(result_id).get_size());
      memory to(own(result_id), engine, plain.data());
      memory& from = arguments.at(result_id);
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
      Numbers got = get(plain.data(), dtype, wanted.size());
      for (size_t i = 0; i < got.size(); i++) {
        double error = std::abs(got[i] - wanted[i]) / largest;
        worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
        if (!(error <= (f32 ? 2e-5 : 8e-3))) wrong = true;
      }
      if (run == 0) first = got;
      unsteady |= std::memcmp(first.data(), got.data(), got.size() * 4) != 0;
    }
    count.wrong += wrong, count.broken += broken, count.unsteady += unsteady;
    if (wrong || broken || unsteady)
      std::printf("FAULT\t%s%s\t%s%s%s\t%.2g\tchoice %d\n", key.c_str(), g.text().c_str(),
                  wrong ? "wrong " : "",
                  broken ? ("outside of its " + std::string(where) + " ").c_str() : "",
                  unsteady ? "unsteady" : "", worst, rank);
  } while (pd.next_impl());
}

void sweep(const Geometry& g, memory::data_type dtype, std::mt19937& random) {
  std::normal_distribution<float> normal;
  bool f32 = dtype == memory::data_type::f32;
  auto numbers = [&](size_t n) {
    Numbers x(n);
    for (float& v : x) v = f32 ? normal(random) : rounded(normal(random));
    return x;
  };
  Numbers x = numbers(g.n * g.h * g.w * g.in()), w = numbers(g.p * g.q * g.c * g.out()),
          y = numbers(g.n * g.rows() * g.cols() * g.out());
  std::vector<double> want_x(x.size()), want_w(w.size()), want_y(y.size());
  each(g, [&](int64_t i, int64_t j, int64_t k) {
    want_y[k] += double(x[i]) * w[j];
    want_x[i] += double(y[k]) * w[j];
    want_w[j] += double(x[i]) * y[k];
  });
  auto image = [&](int64_t n, int64_t c, int64_t h, int64_t w) {
    return memory::desc({n, c, h, w}, dtype, Dims{h * w * c, 1, w * c, c});
  };
  Descs d{image(g.n, g.in(), g.h, g.w), {}, {}, image(g.n, g.out(), g.rows(), g.cols())};
  int64_t in = g.c, out = g.out();
  Dims dims{g.k, g.c, g.p, g.q}, strides{1, out, g.q * in * out, in * out};
  if (g.groups > 1) dims.insert(dims.begin(), g.groups), strides.insert(strides.begin(), g.k);
  d.w = memory::desc(dims, dtype, strides);
  d.any_w = memory::desc(dims, dtype, memory::format_tag::any);
  Dims stride{g.sh, g.sw}, dilation{g.dh - 1, g.dw - 1}, low{g.top, g.left},
      high{g.bottom, g.right};
  dnnl::primitive_attr own;
  own.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  auto direct = dnnl::algorithm::convolution_direct;
  // The gradients keep a pointer to their hint, which must not go on to its next kernel.
  using Forward = dnnl::convolution_forward::primitive_desc;
  auto forward_desc = [&] {
    return Forward(engine, dnnl::prop_kind::forward_training, direct, d.x, d.any_w, d.y, stride,
                   dilation, low, high, own, true);
  };
  Forward forward = forward_desc(), hint = forward_desc();
  if (!hint) return;
  dnnl::convolution_backward_data::primitive_desc data(engine, direct, d.x, d.any_w, d.y, stride,
                                                       dilation, low, high, hint, own, true);
  dnnl::convolution_backward_weights::primitive_desc weights(
      engine, direct, d.x, d.any_w, d.y, stride, dilation, low, high, hint, own, true);
  try_all<dnnl::convolution_forward>(g, Pass::forward, dtype, forward,
                                     {{DNNL_ARG_SRC, &x}, {DNNL_ARG_WEIGHTS, &w}}, DNNL_ARG_DST,
                                     want_y, d);
  try_all<dnnl::convolution_backward_data>(g, Pass::data_gradient, dtype, data,
                                           {{DNNL_ARG_DIFF_DST, &y}, {DNNL_ARG_WEIGHTS, &w}},
                                           DNNL_ARG_DIFF_SRC, want_x, d);
  try_all<dnnl::convolution_backward_weights>(g, Pass::weight_gradient, dtype, weights,
                                              {{DNNL_ARG_SRC, &x}, {DNNL_ARG_DIFF_DST, &y}},
                                              DNNL_ARG_DIFF_WEIGHTS, want_w, d);
}

Geometry draw(std::mt19937& random, const std::string& family) {
  auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  auto one_of = [&](std::initializer_list<int64_t> choices) {
    return *(choices.begin() + below(choices.size()));
  };
  for (;;) {
    Geometry g{};
    bool pixel = family == "pixel" || (family != "window" && below(3) == 0);
    bool grouped = family == "grouped" || (family == "any" && below(3) == 0);
    bool flat = below(4) == 0;
    g.n = one_of({1, 1, 2, 3, 5, 8});
    g.h = flat ? 1 : 1 + below(36), g.w = 1 + below(flat ? 90 : 36);
    g.p = pixel || flat ? 1 : 1 + below(5), g.q = pixel ? 1 : 1 + below(5);
    g.groups = grouped ? one_of({2, 3, 4, 8, 16, 17, 32, 64}) : 1;
    bool deep = grouped && below(2);
    auto channels = [&] {
      return below(2) ? one_of({1, 2, 3, 5, 7, 8, 16, 17, 24, 32, 48, 64, 96, 128})
                      : 1 + below(pixel ? 300 : 80);
    };
    g.c = deep ? 1 : channels(), g.k = deep ? one_of({1, 1, 2, 3}) : channels();
    g.sh = flat ? 1 : one_of({1, 1, 2, 2, 3, 4}), g.sw = below(2) ? g.sh : one_of({1, 2, 3, 5});
    g.dh = flat ? 1 : one_of({1, 1, 2, 3}), g.dw = below(2) ? g.dh : one_of({1, 2, 3, 5});
    if (pixel || family == "plain") g.dh = g.dw = 1;
    if (family == "plain" && pixel) g.sh = g.sw = 1;
    int64_t tall = (g.p - 1) * g.dh, wide = (g.q - 1) * g.dw;
    bool pad = below(2);
    if (pad && !flat) g.top = below(tall + 2), g.bottom = below(tall + 2);
    if (pad) g.left = below(wide + 2), g.right = below(wide + 2);
    if (g.h + g.top + g.bottom <= tall || g.w + g.left + g.right <= wide) continue;
    int64_t macs = g.n * g.rows() * g.cols() * g.p * g.q * g.c * g.out();
    if (family == "window" && g.p * g.q == 1) continue;
    if (macs > 5000000 || g.in() > 600 || g.out() > 600) continue;
    return g;
  }
}

}  // namespace

int main(int argc, char** argv) {
  int count = argc > 1 ? std::atoi(argv[1]) : 100;
  unsigned seed = argc > 2 ? std::atoi(argv[2]) : 0;
  std::string family = argc > 3 ? argv[3] : "any";
  everything = argc <= 4 || std::string(argv[4]) != "chosen";
  for (int i = 0; i < count; i++) {
    std::mt19937 random(seed + i);
    Geometry g = draw(random, family);
    for (auto dtype : {memory::data_type::f32, memory::data_type::bf16}) sweep(g, dtype, random);
    if (i % 50 == 0) std::fflush(stdout);
  }
  for (const auto& [name, c] : counts)
    std::printf("KERNEL\t%s\t%d tried\t%d wrong\t%d outside\t%d unsteady\n", name.c_str(), c.tried,
                c.wrong, c.broken, c.unsteady);
}
