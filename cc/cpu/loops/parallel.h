// Loops over both cores. Partitions depend on the sizes alone, never on the number of threads, so
// results repeat bit for bit. Include only from files of loops/.
#pragma once

#include <cstdint>

#if defined(__APPLE__) && !defined(_OPENMP)
#include <dispatch/dispatch.h>
#endif

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kSmall =
    16 * 1024;  // elements below which one thread is faster than waking the others

// f(piece) of each, by all threads if there are `work` elements to touch in all. Pieces of unequal
// work go to the next free thread, so they must not share a result.
template <bool kUneven = false, class F>
inline void parallel(int64_t pieces, int64_t work, const F& f) {
  // Not an `if` clause: a parallel region of one thread still costs a team.
  if (work < kSmall || pieces == 1) {
    for (int64_t p = 0; p < pieces; p++) f(p);
    return;
  }
#if defined(__APPLE__) && !defined(_OPENMP)  // Apple's compiler has none: the system's own threads
  dispatch_apply_f(static_cast<size_t>(pieces), DISPATCH_APPLY_AUTO, const_cast<F*>(&f),
                   [](void* f, size_t p) { (*static_cast<const F*>(f))(static_cast<int64_t>(p)); });
#else
  if constexpr (kUneven) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t p = 0; p < pieces; p++) f(p);
  } else {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pieces; p++) f(p);
  }
#endif
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
