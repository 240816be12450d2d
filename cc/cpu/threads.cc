#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#ifdef __linux__
#include <sched.h>
#endif
#ifdef __SSE__
#include <immintrin.h>
#endif

namespace jax_mps::cpu {
namespace {

constexpr int kMostThreads = 256;
constexpr int kJobs = 8;  // callers that are helped at once; more work alone
// How long a thread looks for work, or waits for the last pieces, before it sleeps.
constexpr std::chrono::microseconds kSpin{40};

void pause() {
#ifdef __SSE__
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits for `done`, awake; false if that takes too long.
template <class F>
bool spin_until(const F& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

int processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

int wanted_threads() {
  for (const char* name : {"JAX_MPS_THREADS", "OMP_NUM_THREADS"}) {
    const char* value = std::getenv(name);
    const int threads = value ? std::atoi(value) : 0;
    if (threads > 0) return std::min(threads, kMostThreads);
  }
  return std::clamp(processors(), 1, kMostThreads);
}

unsigned floating_point_mode() {
#ifdef __SSE__
  return _mm_getcsr();
#else
  return 0;
#endif
}
void set_floating_point_mode(unsigned mode) {
#ifdef __SSE__
  _mm_setcsr(mode);
#endif
}

// Consecutive pieces. Each thread begins with the range that is its own, so that what one kernel
// writes the next finds in the same caches; then it takes from the others'.
struct alignas(64) Range {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

class Job {
 public:
  // False if another caller has it.
  bool take() { return !taken_.load(std::memory_order_relaxed) && !taken_.exchange(true); }
  void give_back() { taken_.store(false, std::memory_order_release); }

  void open(int64_t pieces, Piece run, const void* f, int threads) {
    run_ = run, f_ = f, mode_ = floating_point_mode(), threads_ = threads;
    workers_.store(0, std::memory_order_relaxed);
    ranges_ = static_cast<int>(std::min<int64_t>(threads, pieces));
    for (int r = 0; r < ranges_; r++) {
      range_[r].next.store(r * pieces / ranges_, std::memory_order_relaxed);
      range_[r].end = (r + 1) * pieces / ranges_;
    }
    state_.fetch_add(kGeneration | kOpen, std::memory_order_release);
  }
  // Nobody joins any more.
  void close() { state_.fetch_and(~kOpen, std::memory_order_acq_rel); }
  bool empty() const { return (state_.load() & kInside) == 0; }

  // False if there is nothing to do.
  bool join() {
    uint64_t state = state_.load(std::memory_order_acquire);
    while (state & kOpen)
      if (state_.compare_exchange_weak(state, state + kOne, std::memory_order_acq_rel)) return true;
    return false;
  }
  // True if the job is closed and this was the last thread inside.
  bool leave() { return ((state_.fetch_sub(kOne) - kOne) & (kOpen | kInside)) == 0; }

  // Takes pieces until there are none; `home` is the thread's place among all.
  void work(int home) {
    int thread = -1;
    try {
      const int own = home * ranges_ / threads_;
      for (int r = own; r < ranges_; r++) work_through(range_[r], thread);
      for (int r = 0; r < own; r++) work_through(range_[r], thread);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      for (int r = 0; r < ranges_; r++) range_[r].next.store(range_[r].end);
    }
  }
  unsigned mode() const { return mode_; }

  void rethrow() {
    if (!failed_) return;
    failed_ = false;
    std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  // Bits of state_: open, threads inside, and a number so that no thread joins a job of before.
  static constexpr uint64_t kOpen = 1, kOne = 2, kGeneration = 1 << 16;
  static constexpr uint64_t kInside = kGeneration - kOne;

  // `thread` is given with the first piece: so there are no more threads than pieces.
  void work_through(Range& range, int& thread) {
    while (range.next.load(std::memory_order_relaxed) < range.end) {
      const int64_t piece = range.next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= range.end) return;
      if (thread < 0) thread = workers_.fetch_add(1, std::memory_order_relaxed);
      run_(f_, piece, thread);
    }
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<bool> taken_{false};
  std::atomic<int> workers_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  Piece run_ = nullptr;
  const void* f_ = nullptr;
  unsigned mode_ = 0;
  int ranges_ = 0, threads_ = 1;
  Range range_[kMostThreads];
};

class Pool {
 public:
  Pool() : threads_(wanted_threads()) {
    // Signals are for the threads that the program has made itself.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads_; i++) {
      try {
        std::thread([this, i] { help(i); }).detach();
        helpers_++;
      } catch (const std::system_error&) {  // the system has no more: these will do
        break;
      }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void share(int64_t pieces, Piece run, const void* f) {
    Job* job = pieces > 1 && helpers_ > 0 ? free_job() : nullptr;
    if (!job) {
      for (int64_t piece = 0; piece < pieces; piece++) run(f, piece, 0);
      return;
    }
    job->open(pieces, run, f, threads_);
    news_.fetch_add(1);
    wake(pieces - 1);
    job->work(0);
    job->close();
    if (!spin_until([&] { return job->empty(); })) {
      std::unique_lock lock(mutex_);
      callers_asleep_++;
      left_.wait(lock, [&] { return job->empty(); });
      callers_asleep_--;
    }
    std::exception_ptr error;
    try {
      job->rethrow();
    } catch (...) {
      error = std::current_exception();
    }
    job->give_back();
    if (error) std::rethrow_exception(error);
  }

 private:
  Job* free_job() {
    for (Job& job : jobs_)
      if (job.take()) return &job;
    return nullptr;
  }

  void wake(int64_t wanted) {
    if (helpers_asleep_.load() == 0) return;
    std::lock_guard lock(mutex_);
    if (wanted >= helpers_asleep_) return came_.notify_all();
    for (int64_t i = 0; i < wanted; i++) came_.notify_one();
  }

  [[noreturn]] void help(int thread) {
    for (;;) {
      const uint64_t news = news_.load();
      for (Job& job : jobs_) {
        if (!job.join()) continue;
        set_floating_point_mode(job.mode());
        job.work(thread);
        if (job.leave() && callers_asleep_.load() > 0) {
          std::lock_guard lock(mutex_);
          left_.notify_all();
        }
      }
      if (spin_until([&] { return news_.load(std::memory_order_relaxed) != news; })) continue;
      std::unique_lock lock(mutex_);
      helpers_asleep_++;
      came_.wait(lock, [&] { return news_.load() != news; });
      helpers_asleep_--;
    }
  }

  const int threads_;
  int helpers_ = 0;
  Job jobs_[kJobs];
  alignas(64) std::atomic<uint64_t> news_{0};
  alignas(64) std::atomic<int> helpers_asleep_{0}, callers_asleep_{0};
  std::mutex mutex_;
  std::condition_variable came_, left_;
};

// Never destroyed: threads may look for work until the process ends.
Pool& pool() {
  static Pool* pool = new Pool;
  return *pool;
}

}  // namespace

int max_threads() {
  static const int threads = wanted_threads();
  return threads;
}

void share(int64_t pieces, Piece run, const void* f) { pool().share(pieces, run, f); }

}  // namespace jax_mps::cpu
