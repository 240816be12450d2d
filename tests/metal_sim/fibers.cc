// The threads of a threadgroup as fibers, which switch at barriers and SIMD-group operations only.
// A fiber whose thread ends takes the next thread that has not begun, so a kernel without barriers
// runs on one fiber.
#include "fibers.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "rule.h"
#include "sanitizers.h"

namespace sim {
namespace {

constexpr size_t kStack = 256 << 10, kArena = 256 << 10, kRed = 32;
constexpr int kVariables = 256;

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  void* tsan = nullptr;
};

// One SIMD-group: masks of its lanes, and what they exchange. Slots come twice, so that lanes that
// go ahead do not overwrite what the others still have to read.
struct Simd {
  uint32_t ready, active, waiting;
  uint32_t turn;
  uint32_t members[2];  // who took part
  int kind, line;
  msl::Combine combine;
  alignas(64) unsigned char slots[2][kSimdWidth * msl::kSlot];
  alignas(64) unsigned char result[2][msl::kResult];
};

struct Worker {
  const Grid* grid = nullptr;
  bool reverse = false;
  void* main = nullptr;  // where the fibers return to
  std::vector<Fiber*> free, all;
  Fiber* running = nullptr;
  msl::Thread threads[kMaxThreads];
  Fiber* fibers[kMaxThreads];
  bool begun[kMaxThreads];
  uint32_t current = 0, total = 0, simds = 0;
  Simd simd[kMaxThreads / kSimdWidth];
  uint32_t arrived = 0, finished = 0, barriers = 0;
  int barrier_line = 0;
  char sync[2], end_sync;  // addresses for TSan
  std::vector<void*> slots;
  char* arena = nullptr;
  size_t used = 0, counted = 0;
  struct Variable {
    char* at;
    size_t bytes;
    const char* name;
  } variables[kVariables];
  std::vector<Variable> placed;
  std::string error;
  void* tsan_main = nullptr;
  void* main_stack = nullptr;  // for ASan
  size_t main_size = 0;
};

thread_local Worker* worker = nullptr;

#if defined(__x86_64__)
extern "C" void metal_sim_switch(void** from, void* to);
asm(".text\n.globl metal_sim_switch\n.type metal_sim_switch, @function\nmetal_sim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#endif

[[noreturn]] void fiber_main();

Fiber* new_fiber(Worker& w) {
  if (!w.free.empty()) {
    Fiber* fiber = w.free.back();
    w.free.pop_back();
    return fiber;
  }
  auto* fiber = new Fiber;
  fiber->stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (fiber->stack == MAP_FAILED) die("out of memory", "no stack for a fiber");
  mprotect(fiber->stack, 4096, PROT_NONE);
  w.all.push_back(fiber);
  return fiber;
}

void prepare(Fiber* fiber) {
  auto** top = reinterpret_cast<void**>(fiber->stack + kStack - 64);
  *--top = nullptr;  // where fiber_main would return to
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber->sp = top;
}

void jump(Worker& w, Fiber* to) {
  Fiber* from = w.running;
  if (from == to) return;
  w.running = to;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to ? to->tsan : w.tsan_main, 1);
  void* fake = nullptr;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&fake, to ? to->stack : w.main_stack, to ? kStack : w.main_size);
  metal_sim_switch(from ? &from->sp : &w.main, to ? to->sp : w.main);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

[[noreturn]] void fail(Worker& w, std::string text) {
  w.error = std::move(text);
  jump(w, nullptr);
  abort();
}

// The next thread to run, or -1: lanes of the same SIMD-group first, in the order of this run.
int pick(Worker& w) {
  const uint32_t own = w.current / kSimdWidth, lane = w.current % kSimdWidth;
  for (uint32_t step = 0; step < w.simds; step++) {
    const uint32_t s = w.reverse ? (own + w.simds - step) % w.simds : (own + step) % w.simds;
    const uint32_t ready = w.simd[s].ready;
    if (!ready) continue;
    uint32_t after = ready;
    if (step == 0) after &= w.reverse ? (1u << lane) - 1 : lane == 31 ? 0 : ~0u << (lane + 1);
    if (!after) after = ready;
    return static_cast<int>(
        s * kSimdWidth +
        static_cast<uint32_t>(w.reverse ? 31 - std::countl_zero(after) : std::countr_zero(after)));
  }
  return -1;
}

void go(Worker& w, uint32_t thread, bool may_stay) {
  w.simd[thread / kSimdWidth].ready &= ~(1u << thread % kSimdWidth);
  w.current = thread;
  if (w.begun[thread]) return jump(w, w.fibers[thread]);
  w.begun[thread] = true;
  if (may_stay) return;
  if (!__tsan_create_fiber) w.fibers[thread] = new_fiber(w);
  if (!w.fibers[thread]->sp) prepare(w.fibers[thread]);
  jump(w, w.fibers[thread]);
}

std::string stuck(Worker& w) {
  uint32_t in_simd = 0;
  int line = 0;
  for (uint32_t s = 0; s < w.simds; s++)
    if (w.simd[s].waiting)
      in_simd += static_cast<uint32_t>(std::popcount(w.simd[s].waiting)), line = w.simd[s].line;
  std::string text = "divergent barrier: of " + std::to_string(w.total) + " threads " +
                     std::to_string(w.arrived) + " wait at the barrier of line " +
                     std::to_string(w.barrier_line) + ", " + std::to_string(w.finished) +
                     " have returned";
  if (in_simd)
    text += ", " + std::to_string(in_simd) + " wait in a SIMD-group function of line " +
            std::to_string(line);
  return text;
}

// Leaves the current thread, which waits, until it is woken.
void wait(Worker& w) {
  const uint32_t self = w.current;
  w.fibers[self] = w.running;
  const int next = pick(w);
  if (next < 0) fail(w, stuck(w));
  go(w, static_cast<uint32_t>(next), false);
  w.current = self;
}

void complete(Simd& s) {
  const uint32_t turn = s.turn++ & 1;
  s.members[turn] = s.waiting;
  Unseen unseen;
  if (s.combine) s.combine(s.slots[turn], s.waiting, s.result[turn]);
  s.ready |= s.waiting;
  s.waiting = 0;
}

void finish(Worker& w) {
  Simd& s = w.simd[w.current / kSimdWidth];
  s.active &= ~(1u << w.current % kSimdWidth);
  w.finished++;
  if (s.waiting && s.waiting == s.active) complete(s);  // the others had waited for it
}

void fiber_main() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  // A fiber stays with its worker, which goes from thread to thread: the thread's variable is read
  // once.
  Worker& w = *worker;
  for (;;) {
    w.fibers[w.current] = w.running;
    w.grid->kernel->run(w.slots.data(), w.threads[w.current]);
    finish(w);
    if (__tsan_release) __tsan_release(&w.end_sync);
    const int next = pick(w);
    if (next < 0) {
      if (w.finished != w.total) fail(w, stuck(w));
      if (!__tsan_create_fiber) w.free.push_back(w.running);
      jump(w, nullptr);
      continue;
    }
    const bool stay = !__tsan_create_fiber;
    if (w.begun[next] && stay) w.free.push_back(w.running);
    go(w, static_cast<uint32_t>(next), stay);
  }
}

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

using namespace sim;

extern "C" {

void msl_threadgroup_barrier(int flags, int line) {
  Worker& w = *worker;
  if (w.arrived && w.barrier_line != line)
    fail(w, "divergent barrier: threads of one threadgroup wait at the barriers of lines " +
                std::to_string(w.barrier_line) + " and " + std::to_string(line));
  if (w.finished)
    fail(w, "divergent barrier: " + std::to_string(w.finished) + " of " + std::to_string(w.total) +
                " threads have returned before the barrier of line " + std::to_string(line));
  w.barrier_line = line;
  void* sync = &w.sync[w.barriers & 1];
  if (flags && __tsan_release) __tsan_release(sync);
  if (++w.arrived == w.total) {
    w.arrived = 0;
    w.barriers++;
    for (uint32_t s = 0; s < w.simds; s++) w.simd[s].ready = w.simd[s].active;
    // The threads go on in the order of this run, and not from where the last one came.
    const uint32_t self = w.current, first = w.reverse ? w.total - 1 : 0;
    w.fibers[self] = w.running;
    go(w, first, false);
    w.current = self;
  } else {
    wait(w);
  }
  if (flags && __tsan_acquire) __tsan_acquire(sync);
}

msl::Exchanged msl_exchange(int kind, const void* value, size_t bytes, msl::Combine combine,
                            int line) {
  Worker& w = *worker;
  const uint32_t thread = w.current, lane = thread % kSimdWidth;
  Simd& s = w.simd[thread / kSimdWidth];
  if (s.waiting && s.kind != kind)
    fail(w, "divergent SIMD-group: its lanes wait in different functions, of lines " +
                std::to_string(s.line) + " and " + std::to_string(line));
  s.kind = kind;
  s.line = line;
  const uint32_t turn = s.turn & 1;
  {
    Unseen unseen;
    memcpy(s.slots[turn] + lane * msl::kSlot, value, bytes);
  }
  s.waiting |= 1u << lane;
  s.combine = combine;
  if (s.waiting == s.active) {
    complete(s);
    s.ready &= ~(1u << lane);
  } else {
    wait(w);
  }
  return {s.slots[turn], s.result[turn], s.members[turn]};
}

void msl_simdgroup_barrier(int flags, int line) {
  Worker& w = *worker;
  void* sync = &w.simd[w.current / kSimdWidth].slots[w.simd[w.current / kSimdWidth].turn & 1];
  if (flags && __tsan_release) __tsan_release(sync);
  msl_exchange(-1, nullptr, 0, nullptr, line);
  if (flags && __tsan_acquire) __tsan_acquire(sync);
}

uint32_t msl_lane() { return worker->current % kSimdWidth; }

void* msl_threadgroup_variable(int id, size_t bytes, size_t, const char* name) {
  Worker& w = *worker;
  if (id >= kVariables) fail(w, "more threadgroup variables than the simulator counts");
  auto& variable = w.variables[id];
  if (!variable.at) variable.at = place(w, bytes, name);
  return variable.at;
}
}
