// Many callers of the CPU device's threads at once, with pieces that fail and pieces that share
// work themselves; for ThreadSanitizer, and for a wrong number of runs of a piece.
#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

using jax_mps::cpu::max_threads;
using jax_mps::cpu::share;

int main() {
  std::atomic<long> wrong{0};
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 12; caller++)
    callers.emplace_back([caller, &wrong] {
      std::mt19937 random(caller);
      for (int round = 0; round < 400; round++) {
        const int pieces = 1 + static_cast<int>(random() % 40);
        const int threads = std::min(pieces, max_threads());
        const int failing = random() % 50 == 0 ? static_cast<int>(random() % pieces) : -1;
        std::vector<int> runs(pieces), inner(pieces), of_thread(threads);
        bool failed = false;
        try {
          share(pieces, [&](int64_t piece, int thread) {
            runs[piece]++;
            if (thread >= threads) {
              wrong++;
            } else {
              of_thread[thread]++;  // a race if two threads have one number
            }
            if (piece == failing) throw std::runtime_error("a piece that fails");
            if (round % 7 == 0) {
              std::atomic<int> done{0};
              share(3, [&](int64_t, int) { done++; });
              inner[piece] = done;
            }
          });
        } catch (const std::runtime_error&) {
          failed = true;
        }
        if (failed != (failing >= 0)) wrong++;
        for (int piece = 0; piece < pieces && !failed; piece++)
          if (runs[piece] != 1 || inner[piece] != (round % 7 == 0 ? 3 : 0)) wrong++;
      }
    });
  for (std::thread& caller : callers) caller.join();
  std::printf("%ld wrong\n", wrong.load());
  return wrong != 0;
}
