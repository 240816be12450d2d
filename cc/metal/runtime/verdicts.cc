#include "verdicts.h"

#include <mutex>

namespace jax_mps::metal {
namespace {

constexpr size_t kMost = 10000;

struct List {
  std::mutex mutex;
  std::vector<Verdict> verdicts;
};
List& list() {
  static List* list = new List;  // outlives XLA's threads
  return *list;
}

}  // namespace

void note(Verdict verdict) {
  std::lock_guard lock(list().mutex);
  if (list().verdicts.size() < kMost) list().verdicts.push_back(std::move(verdict));
}

std::vector<Verdict> verdicts() {
  std::lock_guard lock(list().mutex);
  return list().verdicts;
}

}  // namespace jax_mps::metal
