// The sanitizers' calls, which are there when the process was started with one of them.
#pragma once
#include <cstddef>

#define MAYBE __attribute__((weak))
extern "C" {
MAYBE void* __tsan_create_fiber(unsigned flags);
MAYBE void __tsan_destroy_fiber(void* fiber);
MAYBE void* __tsan_get_current_fiber();
MAYBE void __tsan_switch_to_fiber(void* fiber, unsigned flags);
MAYBE void __tsan_acquire(void* address);
MAYBE void __tsan_release(void* address);
MAYBE void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
MAYBE void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
MAYBE void __asan_poison_memory_region(const volatile void* at, size_t size);
MAYBE void __asan_unpoison_memory_region(const volatile void* at, size_t size);
MAYBE void AnnotateIgnoreReadsBegin(const char* file, int line);
MAYBE void AnnotateIgnoreReadsEnd(const char* file, int line);
MAYBE void AnnotateIgnoreWritesBegin(const char* file, int line);
MAYBE void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#undef MAYBE

// What the simulator itself does to memory is no thread's doing.
struct Unseen {
  Unseen() {
    if (!AnnotateIgnoreReadsBegin) return;
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    if (!AnnotateIgnoreReadsEnd) return;
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
