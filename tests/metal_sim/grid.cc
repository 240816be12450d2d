// A grid's threadgroups, spread over threads; each finds its memory poisoned and guarded.
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "rule.h"
#include "sanitizers.h"
#include "worker.h"

namespace sim {
namespace {

// Memory that every threadgroup finds poisoned: NaN in each float. The canary behind it is checked
// at the end.
char* place(Worker& w, size_t bytes, const char* name) {
  const size_t room = (bytes + 15) / 16 * 16;
  w.counted += room;
  if (w.counted > kThreadgroupBytes)
    fail(w, "threadgroup memory: " + std::to_string(w.counted) + " bytes with '" + name +
                "', and " + std::to_string(kThreadgroupBytes) + " are allowed");
  char* at = w.arena + w.used;
  w.used += room + kRed;
  Unseen unseen;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(at, bytes);
  memset(at, 0xff, bytes);
  if (__asan_poison_memory_region)
    __asan_poison_memory_region(at + bytes, room - bytes + kRed);
  else
    memset(at + bytes, 0xa5, room - bytes + kRed);
  w.placed.push_back({at, bytes, name});
  return at;
}

void check_canaries(Worker& w) {
  if (__asan_poison_memory_region) return;
  for (auto& v : w.placed)
    for (size_t i = v.bytes; i < (v.bytes + 15) / 16 * 16 + kRed; i++)
      if (static_cast<unsigned char>(v.at[i]) != 0xa5) {
        w.error = "out of bounds: threadgroup memory '" + std::string(v.name) + "' of " +
                  std::to_string(v.bytes) + " bytes was written " + std::to_string(i - v.bytes) +
                  " bytes past its end";
        return;
      }
}

void run_group(Worker& w, const uint32_t group[3], const uint32_t groups[3]) {
  const Grid& g = *w.grid;
  uint32_t size[3];
  for (int i = 0; i < 3; i++)
    size[i] = std::min(g.threadgroup[i], g.threads[i] - group[i] * g.threadgroup[i]);
  w.total = size[0] * size[1] * size[2];
  w.simds = (w.total + kSimdWidth - 1) / kSimdWidth;
  for (uint32_t t = 0; t < w.total; t++) {
    msl::Thread& thread = w.threads[t];
    const uint32_t local[3] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
    for (int i = 0; i < 3; i++) {
      thread.local[i] = local[i];
      thread.group[i] = group[i];
      thread.groups[i] = groups[i];
      thread.group_size[i] = size[i];
      thread.full_size[i] = g.threadgroup[i];
      thread.grid[i] = g.threads[i];
      thread.position[i] = group[i] * g.threadgroup[i] + local[i];
    }
    thread.index = t;
    thread.lane = t % kSimdWidth;
    thread.simd = t / kSimdWidth;
    thread.simds = w.simds;
    w.begun[t] = false;
  }
  for (uint32_t s = 0; s < w.simds; s++) {
    const uint32_t lanes = std::min(kSimdWidth, w.total - s * kSimdWidth);
    w.simd[s].ready = w.simd[s].active = lanes == 32 ? ~0u : (1u << lanes) - 1;
    w.simd[s].waiting = w.simd[s].turn = 0;
  }
  w.arrived = w.finished = w.barriers = 0;
  w.used = w.counted = 0;
  memset(w.variables, 0, sizeof(w.variables));
  w.placed.clear();
  if (__tsan_create_fiber) {  // new memory, or what an earlier threadgroup left there would look
                              // like a race
    constexpr int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    mmap(w.arena, kArena, PROT_READ | PROT_WRITE, fixed, -1, 0);
    w.free.clear();
    for (Fiber* fiber : w.all) {
      if (fiber->tsan) __tsan_destroy_fiber(fiber->tsan);
      fiber->tsan = nullptr;
      mmap(fiber->stack + 4096, kStack - 4096, PROT_READ | PROT_WRITE, fixed, -1, 0);
      fiber->sp = nullptr;
      w.free.push_back(fiber);
    }
  }
  w.slots = g.slots;
  for (int i = 0; i < g.kernel->count; i++)
    if (const auto& a = g.kernel->arguments[i];
        a.kind == msl::kThreadgroup && g.threadgroup_bytes[a.index])
      w.slots[i] = place(w, g.threadgroup_bytes[a.index], g.kernel->names[i]);
  if (__tsan_create_fiber) {
    // All are made here: one made by another fiber would happen after what that one did.
    for (uint32_t t = 0; t < w.total; t++) {
      w.fibers[t] = new_fiber(w);
      w.fibers[t]->tsan = __tsan_create_fiber(0);
    }
  }
  w.current = w.reverse ? w.total - 1 : 0;
  go(w, w.current, false);
  check_canaries(w);
  if (!w.error.empty() &&
      !__tsan_create_fiber) {  // what the abandoned fibers hold is lost with them
    for (Fiber* fiber : w.all) {
      munmap(fiber->stack, kStack);
      delete fiber;
    }
    w.all.clear();
    w.free.clear();
  }
}

struct Range {
  std::atomic<uint64_t> next{0};
  uint64_t count;
  uint32_t groups[3];
  std::atomic<bool> failed{false};
};

// Workers are lent to the threads that run a grid.
std::mutex& lock() {
  static auto& m = *new std::mutex;
  return m;
}
std::vector<Worker*>& idle() {
  static auto& w = *new std::vector<Worker*>;
  return w;
}
void borrow_worker() {
  std::lock_guard hold(lock());
  if (!idle().empty()) {
    worker = idle().back();
    idle().pop_back();
    return;
  }
  worker = new Worker;
  worker->arena = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}
void return_worker() {
  std::lock_guard hold(lock());
  idle().push_back(worker);
  worker = nullptr;
}

void run_range(const Grid& grid, Range& range, std::string& error) {
  borrow_worker();
  Worker& w = *worker;
  w.grid = &grid;
  w.reverse = environment("METAL_SIM_REVERSE", 0) != 0;
  w.error.clear();
  w.running = nullptr;
  if (__sanitizer_start_switch_fiber) {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &w.main_stack, &w.main_size);
    pthread_attr_destroy(&attributes);
  }
  if (__tsan_get_current_fiber) w.tsan_main = __tsan_get_current_fiber();
  for (uint64_t i; !range.failed && (i = range.next++) < range.count;) {
    const uint64_t n = w.reverse ? range.count - 1 - i : i;
    const uint32_t group[3] = {static_cast<uint32_t>(n % range.groups[0]),
                               static_cast<uint32_t>(n / range.groups[0] % range.groups[1]),
                               static_cast<uint32_t>(n / range.groups[0] / range.groups[1])};
    run_group(w, group, range.groups);
    if (!w.error.empty()) {
      range.failed = true;
      error = w.error + " [threadgroup (" + std::to_string(group[0]) + ", " +
              std::to_string(group[1]) + ", " + std::to_string(group[2]) + ")]";
    }
  }
  if (__tsan_acquire) __tsan_acquire(&w.end_sync);
  return_worker();
}

}  // namespace

std::string run_grid(const Grid& grid) {
  Range range;
  range.count = 1;
  for (int i = 0; i < 3; i++) {
    if (!grid.threads[i]) return "";
    range.groups[i] = (grid.threads[i] + grid.threadgroup[i] - 1) / grid.threadgroup[i];
    range.count *= range.groups[i];
  }
  const uint64_t work = uint64_t{grid.threads[0]} * grid.threads[1] * grid.threads[2];
  const long wanted = __tsan_create_fiber
                          ? 1
                          : environment("METAL_SIM_THREADS",
                                        static_cast<long>(std::thread::hardware_concurrency()));
  std::string error, other[16];
  std::vector<std::thread> helpers;
  const long most = std::min({wanted, 16L, static_cast<long>(range.count)});
  for (long i = 1; i < most && work > 4096; i++)
    helpers.emplace_back([&, i] { run_range(grid, range, other[i]); });
  run_range(grid, range, error);
  for (auto& helper : helpers) helper.join();
  for (auto& text : other)
    if (error.empty()) error = text;
  return error;
}

}  // namespace sim

extern "C" void* msl_threadgroup_variable(int id, size_t bytes, size_t, const char* name) {
  sim::Worker& w = *sim::worker;
  if (id >= sim::kVariables) fail(w, "more threadgroup variables than the simulator counts");
  auto& variable = w.variables[id];
  if (!variable.at) variable.at = sim::place(w, bytes, name);
  return variable.at;
}
