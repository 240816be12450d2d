// Loops over all threads. Partitions depend on the sizes alone, never on the number of threads, so
// results repeat bit for bit. Include only from files of loops/.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/threads.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kSmall =
    16 * 1024;  // elements below which one thread is faster than waking the others

// f(piece), or f(piece, thread), of each, by all threads if there are `work` elements to touch in
// all. Pieces go to whichever thread is free, so they must not share a result.
template <class F>
inline void parallel(int64_t pieces, int64_t work, const F& f) {
  auto run = [](const void* f, int64_t piece, int thread) {
    if constexpr (std::is_invocable_v<const F&, int64_t, int>)
      (*static_cast<const F*>(f))(piece, thread);
    else
      (*static_cast<const F*>(f))(piece);
  };
  if (work >= kSmall && pieces > 1) return share(pieces, run, &f);
  for (int64_t p = 0; p < pieces; p++) run(&f, p, 0);
}

// f(begin, end) over [0, n) in pieces of `grain`.
template <class F>
inline void parallel_pieces(int64_t n, int64_t grain, int64_t work, const F& f) {
  parallel((n + grain - 1) / grain, work, [&](int64_t p) {
    int64_t begin = p * grain;
    f(begin, begin + grain < n ? begin + grain : n);
  });
}

// f(begin, end) over n elements, in pieces that fit the second-level cache.
template <class F>
inline void parallel_elements(int64_t n, const F& f) {
  parallel_pieces(n, 16 * 1024, n, f);
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
