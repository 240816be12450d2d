// The threads of a threadgroup as fibers, which switch at barriers and SIMD-group operations only.
// A fiber whose thread ends takes the next thread that has not begun, so a kernel without barriers
// runs on one fiber.
#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>

#include "rule.h"
#include "sanitizers.h"
#include "worker.h"

namespace sim {

thread_local Worker* worker = nullptr;

namespace {

#if defined(__x86_64__)
extern "C" void metal_sim_switch(void** from, void* to);
asm(".text\n.globl metal_sim_switch\n.type metal_sim_switch, @function\nmetal_sim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#endif

[[noreturn]] void fiber_main();

}  // namespace

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
  // Stacks lie whole powers of two apart: beginning at one offset, they would share one set of each
  // cache.
  constexpr size_t kStep = 576, kSteps = 128;
  fiber->top = fiber->stack + kStack - 64 - w.all.size() % kSteps * kStep;
  w.all.push_back(fiber);
  return fiber;
}

namespace {

void prepare(Fiber* fiber) {
  auto** top = reinterpret_cast<void**>(fiber->top);
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

}  // namespace

void fail(Worker& w, std::string text) {
  w.error = std::move(text);
  jump(w, nullptr);
  abort();
}

namespace {

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

}  // namespace

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

namespace {

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

}  // namespace
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
}
