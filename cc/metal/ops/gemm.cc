#include "gemm.h"

#include "metal/kernels/shape_parameters.h"

namespace jax_mps::metal {
namespace {

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Few tiles and a long k leave the GPU idle: k is cut so that there are some hundred threadgroups.
int splits_of(const Gemm& gemm, Tile tile, int tiles) {
  constexpr int kGroups = 256, kFewestSteps = 16;
  constexpr int64_t kMaxPartials = int64_t{1} << 24;  // floats
  if (!gemm.splits) return 1;
  int64_t wanted =
      std::min<int64_t>(kGroups / std::max(tiles, 1), gemm.p.k / (int64_t{tile.k} * kFewestSteps));
  wanted = std::min(wanted, kMaxPartials / std::max(gemm.p.total, 1));
  return static_cast<int>(std::max<int64_t>(wanted, 1));
}

}  // namespace

void add_splits(Recipe& recipe, int count, int splits, Span parts, Span y, DType dtype) {
  recipe.dispatch("splits", "add_splits", storage(dtype))
      .parameters(SplitParameters{count, splits})
      .reads(parts)
      .writes(y)
      .over_elements(count);
}

void add_gemm(Recipe& recipe, Gemm gemm, Tile tile) {
  constexpr size_t kThreads = 128;
  GemmParameters& p = gemm.p;
  int across = ceil_div(p.n, tile.n), down = ceil_div(p.m, tile.m);
  p.splits = splits_of(gemm, tile, across * down * gemm.batches);
  p.split_k = ceil_div(ceil_div(p.k, p.splits), tile.k) * tile.k;
  p.splits = ceil_div(p.k, p.split_k);
  // Multiply-adds of whole tiles, and what each step of k reads.
  recipe.cost =
      double(across) * down * gemm.batches * p.k * (tile.m * tile.n + 8.0 * (tile.m + tile.n));
  p.a = gemm.neuron.a, p.b = gemm.neuron.b, p.c = gemm.neuron.c, p.log_c = gemm.neuron.log_c;
  bool cut = p.splits > 1;
  Span sums = cut ? recipe.scratch(sizeof(float) * p.total * p.splits) : gemm.c;
  std::string definitions = gemm.dtype + storage(cut ? DType::f32 : gemm.result, "R");
  if (gemm.half_sums) definitions += "#define HALF_SUMS\n";
  for (auto [name, value] :
       {std::pair("M", tile.m), std::pair("N", tile.n), std::pair("K", tile.k)})
    definitions += std::string("#define TILE_") + name + " " + std::to_string(value) + "\n";
  recipe.dispatch("gemm", "gemm", definitions)
      .constants({gemm.mode, gemm.neuron.kind, gemm.bias.has_value()})
      .parameters(p)
      .reads(gemm.a)
      .reads(gemm.b)
      .reads(gemm.bias.value_or(gemm.b))
      .writes(sums)
      .over({static_cast<size_t>(across), static_cast<size_t>(down),
             static_cast<size_t>(gemm.batches * p.splits)},
            {kThreads, 1, 1})
      .may_be_cut(&GemmParameters::first)
      .computes(2.0 * across * tile.n * down * tile.m * gemm.batches * p.k);
  if (cut) add_splits(recipe, p.total, p.splits, sums, gemm.c, gemm.result);
}

}  // namespace jax_mps::metal
