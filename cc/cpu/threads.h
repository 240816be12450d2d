// The threads of the process, among which kernels share their work.
//
// The work of a kernel is cut into pieces, by its sizes alone: how many threads there are, or come,
// never changes a number. The caller takes pieces; threads that are free join it while pieces last;
// the caller waits only for pieces that others have begun. So a thread that the system does not run
// holds up one piece, not the kernel, and any number of callers share the same threads.
#pragma once

#include <cstdint>

namespace jax_mps::cpu {

// Threads that work at once, the caller's among them: JAX_MPS_THREADS or OMP_NUM_THREADS in the
// environment, else as many as the process may use processors.
int max_threads();

// run(f, piece, thread) of each piece. `thread` is below max_threads() and below the number of
// pieces, and no two threads have the same at a time. An exception of a piece is thrown here, when
// all pieces that began have ended. The threads compute in the caller's floating-point mode.
using Piece = void (*)(const void* f, int64_t piece, int thread);
void share(int64_t pieces, Piece run, const void* f);

// The same of f(piece, thread). Files of loops/ have their own: parallel.h.
template <class F>
void share(int64_t pieces, const F& f) {
  auto run = [](const void* f, int64_t piece, int thread) {
    (*static_cast<const F*>(f))(piece, thread);
  };
  share(pieces, run, &f);
}

}  // namespace jax_mps::cpu
