// Programs compiled for their device, kept by text. A lookup takes a shared lock; the tick of its
// last use decides who goes when the cache is full.
#include "executable.h"

#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "arena.h"
#include "cpu/compile.h"
#include "ir/check.h"
#ifdef JAX_MPS_METAL
#include "metal/runtime/compile.h"
#endif

namespace jax_mps {
namespace {

struct Entry {
  std::shared_ptr<const Executable> executable;
  std::atomic<uint64_t> last_use{0};
};

struct Hash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<std::string, Entry, Hash, std::equal_to<>> entries;
  std::atomic<uint64_t> clock{0};
  std::atomic<size_t> hits{0};
  size_t misses = 0, bytes = 0, limit = 1024;

  void shrink_to(size_t count) {
    while (entries.size() > count) {
      auto oldest = entries.begin();
      for (auto it = entries.begin(); it != entries.end(); ++it)
        if (it->second.last_use < oldest->second.last_use) oldest = it;
      bytes -= oldest->second.executable->bytes();
      entries.erase(oldest);
    }
  }
};

Cache& cache() {
  static Cache* cache = new Cache;  // XLA's threads may outlive static destruction
  return *cache;
}

std::shared_ptr<const Executable> compile(std::string_view text) {
  Program program = parse_program(text);
  check(program);
  return compile(std::move(program), text.size());
}

}  // namespace

std::shared_ptr<const Executable> compile(Program program, size_t text_bytes) {
  if (program.device == "cpu") return cpu::compile(std::move(program), text_bytes);
#ifdef JAX_MPS_METAL
  if (program.device == "metal") return metal::compile(std::move(program), text_bytes);
#endif
  throw ProgramError("this build has no device '" + program.device + "'");
}

std::vector<std::pair<int, int>> copied_outputs(const Program& program) {
  std::vector<bool> written(program.values.size()), bound(program.values.size());
  for (const Step& step : program.steps)
    for (int value : step.results) written[value] = true;
  std::vector<std::pair<int, int>> copies;
  for (size_t i = 0; i < program.outputs.size(); i++) {
    int value = program.outputs[i];
    if (!written[value] || bound[value]) copies.emplace_back(value, static_cast<int>(i));
    bound[value] = true;
  }
  return copies;
}

std::vector<std::string> devices() {
#ifdef JAX_MPS_METAL
  if (metal::available()) return {"metal", "cpu"};
#endif
  return {"cpu"};
}

std::shared_ptr<const Executable> compile_cached(std::string_view text) {
  Cache& c = cache();
  {
    std::shared_lock lock(c.mutex);
    auto found = c.entries.find(text);
    if (found != c.entries.end()) {
      found->second.last_use = ++c.clock;
      c.hits++;
      return found->second.executable;
    }
  }
  auto executable = compile(text);  // slow: outside the lock
  std::unique_lock lock(c.mutex);
  auto [entry, inserted] = c.entries.try_emplace(std::string(text));
  if (inserted) {
    entry->second.executable = std::move(executable);
    c.bytes += entry->second.executable->bytes();
    c.misses++;
  }
  entry->second.last_use = ++c.clock;
  auto result = entry->second.executable;
  c.shrink_to(c.limit);
  return result;
}

CacheInfo cache_info() {
  Cache& c = cache();
  std::shared_lock lock(c.mutex);
  return {c.entries.size(), c.bytes, c.limit, c.hits, c.misses, Arena::pooled_bytes()};
}

void set_cache_limit(size_t programs) {
  Cache& c = cache();
  std::unique_lock lock(c.mutex);
  c.limit = programs;
  c.shrink_to(programs);
}

void clear_cache() {
  Cache& c = cache();
  std::unique_lock lock(c.mutex);
  c.entries.clear();
  c.bytes = c.misses = 0;
  c.hits = 0;
  Arena::release_pool();
#ifdef JAX_MPS_METAL
  metal::release_pool();
#endif
}

}  // namespace jax_mps
