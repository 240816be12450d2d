#include "idle_memory.h"

#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "arena.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace jax_mps {
namespace {

using Clock = std::chrono::steady_clock;

// Watches over the process's runs, from a thread that sleeps while there is nothing to give back.
class Watch {
 public:
  void start(double seconds) {
    std::lock_guard lock(mutex_);
    idle_ = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    if (started_) return changed_.notify_all();
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this] { watch(); }).detach();
      started_ = true;
    } catch (const std::system_error&) {  // no thread to be had: memory stays
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void begin() {
    running_.fetch_add(1, std::memory_order_relaxed);
    runs_.fetch_add(1);
    if (!asleep_.load()) return;
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  void end() { running_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  [[noreturn]] void watch() {
    std::unique_lock lock(mutex_);
    uint64_t given_back_at = 0;
    for (;;) {
      const uint64_t runs = runs_.load();
      if (runs == given_back_at) {
        asleep_ = true;
        changed_.wait(lock, [&] { return runs_.load() != given_back_at; });
        asleep_ = false;
        continue;
      }
      changed_.wait_for(lock, idle_);
      if (runs_.load() != runs || running_.load() != 0) continue;
      given_back_at = runs;
      lock.unlock();
      give_back_memory();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  Clock::duration idle_{};
  std::atomic<uint64_t> runs_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> asleep_{false};
};

Watch& the_watch() {
  static Watch* watch = new Watch;  // outlives every thread
  return *watch;
}

}  // namespace

void give_back_when_idle(double seconds) { the_watch().start(seconds); }

void give_back_memory() {
  Arena::release_pool();
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Busy::Busy() { the_watch().begin(); }
Busy::~Busy() { the_watch().end(); }

}  // namespace jax_mps
